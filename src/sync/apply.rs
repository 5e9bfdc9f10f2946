//! From an event of the inbox to its effect, in one transaction.
//!
//! What the event says is merged into the mirror of the provider's objects (`mirror`); the rows of our tables are then
//! derived from the mirror. So neither the order of events nor their repetition matters. Audit rows and NOTIFY are
//! written in the same transaction: each event takes effect exactly once.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::access::MemberRole;
use crate::clock::Clock;
use crate::db::SystemTx;
use crate::error::Result;
use crate::id::{OrganizationId, WebhookEventId};
use crate::plans::{OrganizationPlan, Plans};
use crate::stripe::{StripeClient, StripeKey, StripeObject};
pub use crate::sync::clerk::role_key;
use crate::sync::origin::why_foreign;
pub use crate::sync::stripe::gate::{Fetched, Slot, StripeGate};
use crate::sync::{clerk, stripe};
use crate::webhook_events::WebhookSource;

/// An event as the worker reads it from the inbox.
#[derive(Clone, Debug)]
pub struct InboxEvent {
    /// The row of the inbox.
    pub id: WebhookEventId,
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
    /// The number of earlier attempts.
    pub attempts: i32,
}

/// What applying an event needs beside the event.
#[derive(Clone, Copy, Debug)]
pub struct ApplyContext<'a> {
    /// The time.
    pub clock: &'a Clock,
    pub settings: &'a SyncSettings,
    /// The object as the provider has it now, after an [`EventOutcome::Refetch`].
    pub fetched: Option<&'a Fetched>,
    /// Whether an [`EventOutcome::Refetch`] can be served.
    pub can_refetch: bool,
}

/// Settings of the sync.
#[derive(Clone, Debug, Default)]
pub struct SyncSettings {
    /// The plan that a price at Stripe buys, by the price's id; `None`: it is known to buy none.
    pub price_plans: BTreeMap<String, Option<OrganizationPlan>>,
    /// What each plan gives.
    pub plans: Arc<Plans>,
    /// Whether a new user gets a personal workspace.
    pub personal_workspaces: bool,
    /// Apply events of this Stripe account, and those that name none: they are the endpoint's own. `None`: only those.
    pub stripe_account: Option<String>,
    /// Apply events of this mode only: live (`true`) or test. `None`: of both; then an organization that has a live
    /// subscription has no test one.
    pub stripe_livemode: Option<bool>,
    /// What roles at Clerk are here, by their names without `org:`, in lower case; beside Clerk's own.
    pub clerk_roles: BTreeMap<String, MemberRole>,
    /// Apply events of this Clerk instance only.
    pub clerk_instance: Option<String>,
    /// The key of Stripe's API.
    pub stripe_key: Option<StripeKey>,
    /// The address of Stripe's API, if it is not the usual one.
    pub stripe_api_base: Option<String>,
}

impl SyncSettings {
    /// A client of Stripe's API, if there is a key.
    ///
    /// # Errors
    /// There is a key, but no client can be made.
    pub fn stripe_client(&self) -> Result<Option<Arc<StripeClient>>> {
        let Some(key) = &self.stripe_key else { return Ok(None) };
        Ok(Some(Arc::new(StripeClient::new(&key.0, self.stripe_api_base.as_deref())?)))
    }
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    /// Its effect is in the transaction.
    Applied {
        /// The organization it belongs to, when that is known.
        organization: Option<OrganizationId>,
        /// What could not be made of it so far, for people to read.
        finding: Option<String>,
    },
    /// It has no effect.
    Ignored {
        /// Why.
        reason: &'static str,
        /// The organization it belongs to, when that is known.
        organization: Option<OrganizationId>,
    },
    /// A part of its effect is in the transaction. The event must be applied again for the rest.
    More,
    /// The event alone does not tell: another one is of its second, or it lists a part only. Ask the provider for the
    /// object outside of the transaction, then apply the event again with [`ApplyContext::fetched`]. Nothing was written.
    Refetch(StripeObject),
}

impl EventOutcome {
    /// Its whole effect is there.
    pub(crate) fn applied(organization: Option<OrganizationId>) -> Self {
        Self::Applied { organization, finding: None }
    }

    /// No effect, and no organization.
    pub(crate) fn ignored(reason: &'static str) -> Self {
        Self::Ignored { reason, organization: None }
    }
}

/// An event older than what is known.
pub(crate) const STALE: &str = "older than what is known";

/// Applies one event in `tx`. The caller updates the inbox in the same transaction and commits.
///
/// # Errors
/// Errors of the database. No content of an event is an error.
pub async fn apply(tx: &mut SystemTx, context: &ApplyContext<'_>, event: &InboxEvent) -> Result<EventOutcome> {
    let Ok(payload) = serde_json::from_slice::<Value>(&event.raw_body) else {
        return Ok(EventOutcome::ignored("not JSON that can be read"));
    };
    if let Some(reason) = why_foreign(event.source, context.settings, &payload) {
        return Ok(EventOutcome::ignored(reason));
    }
    match event.source {
        WebhookSource::Clerk => clerk::apply(tx, context, event, &payload).await,
        WebhookSource::Stripe => stripe::apply(tx, context, event, &payload).await,
    }
}
