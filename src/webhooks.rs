//! Webhooks: what Clerk and Stripe tell us.
//!
//! [`receive`] verifies the raw bytes ([`signature`]) and stores them ([`inbox`]); nothing else happens in the request.
//! The [`worker`] takes events from the inbox and runs their effect ([`crate::sync::apply`]) in the transaction that also
//! marks them as done: effects happen exactly once. Tenants' administrators see their events
//! ([`crate::webhook_events`]), never the raw bodies. `docs/WEBHOOKS.md` says what a sender and an operator can rely on.

pub mod inbox;
pub mod metrics;
pub mod receive;
pub mod settings;
pub mod signature;
mod skeleton;
pub mod worker;

use std::sync::Arc;

pub use settings::WebhooksConfig;

/// What the requests and workers of this process share.
#[derive(Clone, Debug)]
pub struct Webhooks {
    /// The way into the inbox.
    pub inbox: inbox::Inbox,
    /// What is counted.
    pub metrics: Arc<metrics::Metrics>,
}
