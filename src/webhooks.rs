//! Webhooks: the delivery of events from Clerk and Stripe.
//!
//! [`receive`] verifies the raw bytes ([`signature`]) and stores them ([`inbox`]); nothing else happens in the request.
//! The [`worker`] takes events from the inbox and applies them ([`crate::sync::apply`]) in the transaction that also
//! marks them as done: each event takes effect exactly once. Administrators see the events of their organization
//! ([`crate::webhook_events`]), never the raw bodies. `docs/WEBHOOKS.md` says what senders and operators can rely on.

mod envelope;
pub mod inbox;
pub mod metrics;
mod queue;
pub mod receive;
pub mod recover;
pub mod settings;
pub mod signature;
pub mod worker;

pub use settings::WebhooksConfig;

use crate::clock::Clock;
use crate::db::Db;

/// What the requests and workers of this process share.
#[derive(Debug)]
pub struct Webhooks {
    /// The database.
    pub db: Db,
    /// The time.
    pub clock: Clock,
    pub settings: WebhooksConfig,
    /// The way into the inbox.
    pub inbox: inbox::Inbox,
    /// The counters.
    pub metrics: metrics::Metrics,
}

impl Webhooks {
    /// Webhooks stored in this database.
    #[must_use]
    pub fn new(db: Db, clock: Clock, settings: WebhooksConfig) -> Self {
        let inbox = inbox::Inbox::new(db.clone(), clock.clone());
        Self { db, clock, settings, inbox, metrics: metrics::Metrics::default() }
    }
}
