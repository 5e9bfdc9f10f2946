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
use crate::graphql::rows::Related;
use crate::id::{OrganizationId, WebhookEventId};
use crate::{entity, listing, pg_enum};

pg_enum! {
    /// The sender of a webhook.
    pub enum WebhookSource("tenantry.webhook_source", WebhookSourceFilter) {
        /// The identity provider.
        Clerk = "CLERK",
        /// The payment provider.
        Stripe = "STRIPE",
    }
}

pg_enum! {
    /// The status of a webhook event.
    pub enum WebhookStatus("tenantry.webhook_status", WebhookStatusFilter) {
        /// Received, not yet applied.
        Received = "RECEIVED",
        /// Applied.
        Applied = "APPLIED",
        /// Ignored: of an unknown type, or older than the current state.
        Ignored = "IGNORED",
        /// Failed; will be retried.
        Failed = "FAILED",
        /// Failed too often; needs a manual replay.
        Dead = "DEAD",
    }
}

entity! {
    /// A webhook event of a provider.
    pub struct WebhookEvent("webhook_events", read by WebhookRead) {
        /// Unique id.
        pub id: WebhookEventId,
        /// The user who sent it.
        pub source: WebhookSource,
        /// The sender's id of the event.
        pub event_id: String,
        /// The sender's type of the event.
        #[graphql(name = "type")]
        pub event_type: String,
        /// The sender's id of the object that the event is about.
        #[graphql(name = "object")]
        pub object_id: Option<String>,
        /// The organization that the event belongs to; null when unknown.
        pub organization_id: Option<OrganizationId>,
        /// Status.
        pub status: WebhookStatus,
        /// Number of attempts.
        pub attempts: i32,
        /// Why the event was ignored, or that the last attempt failed. Superadmins see the cause.
        #[graphql(name = "error")]
        pub last_error: Option<String> = "last_error" platform "coalesce(t.cause, t.last_error)",
        /// What could not be made of the event so far: an organization that nothing names, a price that buys no known plan,
        /// a list that came in part. Null again when later events or settings answer it.
        pub finding: Option<String>,
        /// Time of creation by the sender.
        pub event_created_at: Option<DateTime<Utc>>,
        /// Time of receipt.
        pub received_at: DateTime<Utc>,
        /// Time when the event was applied or ignored.
        pub processed_at: Option<DateTime<Utc>>,
        /// Time of the last failed attempt.
        pub failed_at: Option<DateTime<Utc>>,
    }
}

impl Related for WebhookEvent {}

listing! {
    WebhookEvent: WebhookEventFilter, WebhookEventOrder by WebhookEventOrderField, default ReceivedAt Desc;
    /// Sender.
    source: WebhookSourceFilter;
    /// The sender's type of the event.
    #[graphql(name = "type")]
    event_type: StringFilter;
    /// Status.
    status: WebhookStatusFilter;
    /// The sender's id of the object.
    #[graphql(name = "object")]
    object_id: StringFilter;
    /// Number of attempts.
    attempts: IntFilter;
    /// Time of receipt.
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
