//! What an event does. This body knows no effects yet.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::clock::Clock;
use crate::db::SystemTx;
use crate::error::Result;
use crate::id::Id;
use crate::organizations::{Organization, OrganizationPlan};
use crate::webhooks::{WebhookEvent, WebhookSource};

/// An event as the worker reads it from the inbox.
#[derive(Clone, Debug)]
pub struct InboxEvent {
    /// The id.
    pub id: Id<WebhookEvent>,
    /// Who sent it.
    pub source: WebhookSource,
    /// The sender's id of the event.
    pub event_id: String,
    /// The sender's type of the event.
    pub event_type: String,
    /// The bytes as they came.
    pub raw_body: Vec<u8>,
    /// When it was received.
    pub received_at: DateTime<Utc>,
    /// How often it was tried before.
    pub attempts: i32,
}

/// What is known beside the event.
#[derive(Clone, Copy, Debug)]
pub struct ApplyContext<'a> {
    /// The time.
    pub clock: &'a Clock,
    /// The settings.
    pub settings: &'a SyncSettings,
    /// The object as the provider has it now, after an [`Outcome::Refetch`].
    pub fetched: Option<&'a serde_json::Value>,
    /// Whether [`Outcome::Refetch`] can be served.
    pub can_refetch: bool,
}

/// Settings of the sync.
#[derive(Clone, Debug, Default)]
pub struct SyncSettings {
    /// Which plan a price stands for.
    pub price_plans: BTreeMap<String, OrganizationPlan>,
    /// Whether a new user gets a workspace of their own.
    pub personal_workspaces: bool,
    /// The only Stripe account whose events are applied.
    pub stripe_account: Option<String>,
    /// The only Clerk instance whose events are applied.
    pub clerk_instance: Option<String>,
}

/// What came of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its effect is in the transaction.
    Applied {
        /// Whose event it is, when known.
        organization: Option<Id<Organization>>,
    },
    /// There was nothing to do.
    Ignored {
        /// Why.
        reason: &'static str,
        /// Whose event it is, when known.
        organization: Option<Id<Organization>>,
    },
    /// Ask the provider for the object's present state outside of the transaction, then apply again with `fetched`.
    Refetch {
        /// The object.
        object_id: String,
    },
}

/// Runs the whole effect of one event in `tx`: version guard, effect, audit row, NOTIFY. The caller updates the inbox
/// row in the same transaction and commits.
#[expect(clippy::unused_async, reason = "the effects will wait for the database")]
pub async fn apply(_: &mut SystemTx, _: &ApplyContext<'_>, _: &InboxEvent) -> Result<Outcome> {
    Ok(Outcome::Ignored { reason: "no effect yet", organization: None })
}
