//! What every effect needs: the transaction, the time, and a way to record what was done.

use std::borrow::Cow;

use serde_json::Value;
use uuid::Uuid;

use crate::clock::Clock;
use crate::db::SystemTx;
use crate::error::Result;
use crate::events::{self, Event};
use crate::id::{Identified as _, OrganizationId, SubscriptionId, UserId, marker};
use crate::sync::apply::SyncSettings;
use crate::trail::{self, AuditEntry};

/// The context of an effect.
pub(crate) struct Effects<'a> {
    pub(crate) tx: &'a mut SystemTx,
    pub(crate) clock: &'a Clock,
    pub(crate) settings: &'a SyncSettings,
    /// The cause for the audit log: the id of an event, or a command.
    pub(crate) cause: String,
}

impl Effects<'_> {
    /// Tells the streams of a user, or of everybody (`None`), that they may have lost access to an organization.
    pub(crate) async fn recheck_access(&mut self, organization: OrganizationId, user: Option<UserId>) -> Result<()> {
        events::tell(self.tx, &[(organization, Event::access(user))]).await
    }

    /// Writes an audit row and notifies subscribers. Metadata holds states and ids, never names or addresses.
    pub(crate) async fn record(
        &mut self,
        organization: OrganizationId,
        action: impl Into<Cow<'static, str>>,
        (resource_type, resource_id): (&'static str, Uuid),
        mut metadata: Value,
    ) -> Result<()> {
        metadata["cause"] = self.cause.as_str().into();
        let entry = AuditEntry { action: action.into(), resource_type, resource_id, metadata };
        trail::record_of_system(self.tx, self.clock, organization, &entry).await?;
        let event = if resource_type == marker::Subscription::NAME {
            Event::of(SubscriptionId::from_uuid(resource_id))
        } else {
            Event::of(organization)
        };
        events::tell(self.tx, &[(organization, event)]).await
    }
}
