//! What every effect needs: the transaction, the time, and a way to record what was done.

use serde_json::Value;
use uuid::Uuid;

use crate::audit;
use crate::clock::Clock;
use crate::db::SystemTx;
use crate::error::Result;
use crate::events::{self, Event};
use crate::id::Id;
use crate::organizations::Organization;
use crate::sync::apply::SyncSettings;

/// The context of an effect.
pub(crate) struct Effects<'a> {
    pub(crate) tx: &'a mut SystemTx,
    pub(crate) clock: &'a Clock,
    pub(crate) settings: &'a SyncSettings,
    /// The cause for the audit log: the id of an event, or a command.
    pub(crate) cause: String,
}

impl Effects<'_> {
    /// Writes an audit row and notifies subscribers. Metadata holds states and ids, never names or addresses.
    pub(crate) async fn record(
        &mut self,
        organization: Id<Organization>,
        action: &str,
        resource: (&str, Uuid),
        mut metadata: Value,
    ) -> Result<()> {
        metadata["cause"] = self.cause.as_str().into();
        audit::record_of_system(self.tx, self.clock, organization, action, resource, metadata).await?;
        let event = if resource.0 == "Subscription" { Event::Subscription } else { Event::Organization };
        events::tell(self.tx, &[(organization, event)]).await
    }
}
