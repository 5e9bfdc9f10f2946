//! Webhooks: what Clerk and Stripe tell us.
//!
//! [`receive`] verifies the raw bytes ([`signature`]) and stores them ([`inbox`]); nothing else happens in the request.
//! The [`worker`] takes events from the inbox and runs their effect ([`apply`]) in the transaction that also marks them
//! as done: effects happen exactly once. Tenants' administrators see their events, never the raw bodies. `README.md` beside
//! this file says what a sender and an operator can rely on.

pub mod apply;
mod clerk;
mod effects;
mod facts;
mod graphql;
pub mod inbox;
pub mod metrics;
mod payload;
pub mod receive;
pub mod samples;
pub mod settings;
pub mod signature;
mod skeleton;
pub mod sql;
pub mod stripe;
pub mod worker;

use std::sync::Arc;

use chrono::{DateTime, Utc};

pub use graphql::{WebhookMutation, WebhookSubscription};
pub use settings::WebhooksConfig;

use crate::graphql::listing::{DateTimeFilter, IntFilter, StringFilter};
use crate::id::Id;
use crate::organizations::Organization;
use crate::{entity, listing, pg_enum};

pg_enum! {
    /// Who sent a webhook.
    pub enum WebhookSource("tenantry.webhook_source", WebhookSourceFilter) {
        /// The identity provider.
        Clerk = "CLERK",
        /// The payment provider.
        Stripe = "STRIPE",
    }
}

pg_enum! {
    /// What became of a webhook event.
    pub enum WebhookStatus("tenantry.webhook_status", WebhookStatusFilter) {
        /// Stored, not yet looked at.
        Received = "RECEIVED",
        /// Its effect is in the database.
        Applied = "APPLIED",
        /// Nothing to do: an unknown type, or older than what is known.
        Ignored = "IGNORED",
        /// Failed, and will be tried again.
        Failed = "FAILED",
        /// Failed too often; waits for a person.
        Dead = "DEAD",
    }
}

entity! {
    /// An event that a provider told of.
    pub struct WebhookEvent("whe", "webhook_events", tenant: true, listed when "true", read by WebhookRead) {
        /// The id.
        pub id: Id<WebhookEvent>,
        /// Who sent it.
        pub source: WebhookSource,
        /// The sender's id of the event.
        pub event_id: String,
        /// The sender's type of the event.
        #[graphql(name = "type")]
        pub event_type: String,
        /// The sender's id of what the event is about.
        #[graphql(name = "object")]
        pub object_id: Option<String>,
        /// Whose event it is, when known.
        pub organization_id: Option<Id<Organization>>,
        /// What became of it.
        pub status: WebhookStatus,
        /// How often it was tried.
        pub attempts: i32,
        /// Why there was nothing to do, or that the last try failed; what failed in it is told to superadmins.
        #[graphql(name = "error")]
        pub last_error: Option<String>,
        /// When the sender made it.
        pub event_created_at: Option<DateTime<Utc>>,
        /// When it was received.
        pub received_at: DateTime<Utc>,
        /// When it was applied, or found to need nothing.
        pub processed_at: Option<DateTime<Utc>>,
        /// When it last failed.
        pub failed_at: Option<DateTime<Utc>>,
    }
}

listing! {
    WebhookEvent,
    filter WebhookEventFilter {
        /// By sender.
        source: WebhookSourceFilter = "t.source",
        /// By the sender's type.
        #[graphql(name = "type")]
        event_type: StringFilter = "t.event_type",
        /// By what became of it.
        status: WebhookStatusFilter = "t.status",
        /// By the sender's id of what it is about.
        #[graphql(name = "object")]
        object_id: StringFilter = "t.object_id",
        /// By number of tries.
        attempts: IntFilter = "t.attempts",
        /// By the moment it was received.
        received_at: DateTimeFilter = "t.received_at",
    },
    order WebhookEventOrder by WebhookEventOrderField {
        /// When it was received.
        ReceivedAt = "t.received_at", |row| row.received_at;
    },
    default ReceivedAt Desc
}

impl WebhookSource {
    /// The variable with the signing secrets of this sender.
    #[must_use]
    pub fn secrets_variable(self) -> &'static str {
        match self {
            Self::Clerk => "CLERK_WEBHOOK_SECRETS",
            Self::Stripe => "STRIPE_WEBHOOK_SECRETS",
        }
    }
}

/// What the requests and workers of this process share.
#[derive(Clone, Debug)]
pub struct Webhooks {
    /// The way into the inbox.
    pub inbox: inbox::Inbox,
    /// What is counted.
    pub metrics: Arc<metrics::Metrics>,
}
