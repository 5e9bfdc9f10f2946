//! From an event of the inbox to its effect, in one transaction.
//!
//! What the event says is merged into the objects of the provider (`facts`); the rows of our
//! tables are then derived from the objects. So it does not matter in which order events come, nor how often. What a
//! change needs (audit row, NOTIFY) is written in the same transaction: effects happen exactly once.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::clock::Clock;
use crate::db::SystemTx;
use crate::error::Result;
use crate::id::Id;
use crate::organizations::{Organization, OrganizationPlan};
use crate::sync::stripe::gate::Fetched;
use crate::sync::{clerk, stripe};
use crate::webhook_events::{WebhookEvent, WebhookSource};

/// An event as the worker reads it from the inbox.
#[derive(Clone, Debug)]
pub struct InboxEvent {
    /// The row of the inbox.
    pub id: Id<WebhookEvent>,
    /// Who sent it.
    pub source: WebhookSource,
    /// The sender's id of the event.
    pub event_id: String,
    /// The sender's type of the event.
    pub event_type: String,
    /// The bytes as they came.
    pub raw_body: Vec<u8>,
    /// When it came.
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
    /// The object as the provider has it now, after a [`EventOutcome::Refetch`].
    pub fetched: Option<&'a Fetched>,
    /// Whether a [`EventOutcome::Refetch`] can be served; when it was tried in vain, it cannot.
    pub can_refetch: bool,
}

/// Settings of the sync.
#[derive(Clone, Debug, Default)]
pub struct SyncSettings {
    /// The plan that a price at Stripe buys, by the price's id.
    pub price_plans: BTreeMap<String, OrganizationPlan>,
    /// Whether a new user gets a workspace of their own.
    pub personal_workspaces: bool,
    /// Apply events of this Stripe account, and those that name none: they are the endpoint's own. `None`: only those.
    pub stripe_account: Option<String>,
    /// Apply events of this Clerk instance only.
    pub clerk_instance: Option<String>,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    /// Its effect is in the transaction.
    Applied {
        /// Whose event it is, when that is known.
        organization: Option<Id<Organization>>,
    },
    /// It has no effect.
    Ignored {
        /// Why.
        reason: &'static str,
        /// Whose event it is, when that is known.
        organization: Option<Id<Organization>>,
    },
    /// A part of its effect is in the transaction; the rest comes when it is applied again, which is to be soon.
    More,
    /// Two events of the same second cannot be ordered: ask the provider for the object outside of the transaction, then
    /// apply again with [`ApplyContext::fetched`]. Nothing was written.
    Refetch {
        /// The object at the provider.
        object_id: String,
    },
}

impl EventOutcome {
    /// Without effect, and nobody's.
    pub(crate) fn ignored(reason: &'static str) -> Self {
        Self::Ignored { reason, organization: None }
    }
}

/// An event older than what is known.
pub(crate) const STALE: &str = "older than what is known";

/// Runs the whole effect of one event in `tx`; the caller updates the inbox in the same transaction and commits.
///
/// # Errors
/// What the database reports. Nothing that an event can hold is an error.
pub async fn apply(tx: &mut SystemTx, context: &ApplyContext<'_>, event: &InboxEvent) -> Result<EventOutcome> {
    let Ok(payload) = serde_json::from_slice::<Value>(&event.raw_body) else {
        return Ok(EventOutcome::ignored("not JSON that can be read"));
    };
    match event.source {
        WebhookSource::Clerk => clerk::apply(tx, context, event, &payload).await,
        WebhookSource::Stripe => stripe::apply(tx, context, event, &payload).await,
    }
}
