//! Webhook events: what Clerk and Stripe delivered, and what became of it.
//!
//! `webhooks` writes the rows. Administrators read and replay the events of their organization, superadmins all.

pub mod event_type;
mod graphql;
pub mod sql;

use chrono::{DateTime, Utc};

pub use event_type::{Effect, EventType, Verb};
pub use graphql::{MUTATIONS, WebhookMutation, WebhookSubscription};

use crate::graphql::filter::{DateTimeFilter, IntFilter, StringFilter};
use crate::id::{OrganizationId, WebhookEventId};
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
    pub struct WebhookEvent("webhook_events", read by WebhookRead) {
        /// The id.
        pub id: WebhookEventId,
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
        pub organization_id: Option<OrganizationId>,
        /// What became of it.
        pub status: WebhookStatus,
        /// How often it was tried.
        pub attempts: i32,
        /// Why there was nothing to do, or that the last try failed; what failed in it is told to superadmins.
        #[graphql(name = "error")]
        pub last_error: Option<String> = "last_error" platform "coalesce(t.cause, t.last_error)",
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
    WebhookEvent: WebhookEventFilter, WebhookEventOrder by WebhookEventOrderField, default ReceivedAt Desc;
    /// Sender.
    source: WebhookSourceFilter;
    /// Sender's type.
    #[graphql(name = "type")]
    event_type: StringFilter;
    /// What became of it.
    status: WebhookStatusFilter;
    /// Sender's id of what it is about.
    #[graphql(name = "object")]
    object_id: StringFilter;
    /// Number of tries.
    attempts: IntFilter;
    /// Moment it was received.
    received_at: DateTimeFilter, ReceivedAt;
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
