//! Where amounts are moved: the same statements in the transaction of a viewer and in one of the system.

use chrono::{DateTime, Utc};

use crate::clock::Clock;
use crate::db::{Conn, SystemTx, TenantTx};
use crate::error::Result;
use crate::events::{self, Event};
use crate::graphql::mutation::Work;
use crate::id::{Id, OrganizationId};
use crate::trail::{self, AuditEntry};

/// The budgets of one organization, in a transaction.
pub struct Books<'a> {
    tx: Tx<'a>,
    pub(super) organization: OrganizationId,
    clock: &'a Clock,
    pub(super) now: DateTime<Utc>,
}

enum Tx<'a> {
    Viewer(&'a mut TenantTx),
    System(&'a mut SystemTx),
}

impl<'a> Books<'a> {
    /// In the transaction of a mutation.
    pub fn of(work: &'a mut Work<'_>) -> Self {
        let organization = work.tenant().organization_id;
        Self { tx: Tx::Viewer(&mut *work.tx), organization, clock: work.clock, now: work.now }
    }

    /// In a viewer's transaction.
    pub fn of_viewer(tx: &'a mut TenantTx, clock: &'a Clock) -> Self {
        let organization = tx.tenant().organization_id;
        Self { tx: Tx::Viewer(tx), organization, clock, now: clock.now() }
    }

    /// In a transaction of the system, which sees all organizations.
    pub fn of_system(tx: &'a mut SystemTx, organization: OrganizationId, clock: &'a Clock) -> Self {
        Self { tx: Tx::System(tx), organization, clock, now: clock.now() }
    }

    #[track_caller]
    pub(super) fn conn(&mut self) -> &mut Conn {
        match &mut self.tx {
            Tx::Viewer(tx) => tx.conn(),
            Tx::System(tx) => tx.conn(),
        }
    }

    pub(super) fn new_id<T>(&self) -> Id<T> {
        Id::new(self.clock)
    }

    /// Writes the row of what follows by itself.
    pub(super) async fn record(&mut self, entry: &AuditEntry) -> Result<()> {
        match &mut self.tx {
            Tx::Viewer(tx) => trail::record_of_consequence(tx, self.clock, entry).await,
            Tx::System(tx) => trail::record_of_system(tx, self.clock, self.organization, entry).await,
        }
    }

    /// Tells subscribers of events, when the transaction commits.
    pub(super) async fn tell(&mut self, events: Vec<Event>) -> Result<()> {
        match &mut self.tx {
            Tx::Viewer(tx) => events::tell_more(tx, events).await,
            Tx::System(tx) => {
                let events: Vec<_> = events.into_iter().map(|event| (self.organization, event)).collect();
                events::tell(tx, &events).await
            }
        }
    }
}
