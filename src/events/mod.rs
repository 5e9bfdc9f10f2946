//! Events from one instance to the subscribers of all: a log, and `PostgreSQL`'s NOTIFY.
//!
//! A change writes its events into `tenantry.event_log` in its own transaction, so an event is there exactly when the change is
//! visible, and never for one that was rolled back. It names rows, it does not hold them: each subscriber reads them again under
//! its own rights. A notification says no more than "look now", and a look finds exactly what became visible since the one before
//! (`position.rs`), whatever order transactions commit in: nothing is lost and nothing told twice, also when the database was away,
//! when a subscriber was slow, or when it comes back to another instance with its [`Cursor`]. Events are kept for [`KEPT`]: whoever
//! was away for longer is told so ([`Error::EventsMissed`]).
//!
//! NOTIFY is dear: from its statement to the end of the commit only one transaction of the whole server may be
//! (`PostgreSQL`, `PreCommit_Notify`). So a change notifies only if somebody may hear it. Organizations fall into
//! 256 groups; an instance with subscriptions holds a shared advisory lock for each of their groups, and a change tries to
//! take the exclusive one until its transaction ends. If it gets it, nobody listens: whoever comes now waits until
//! the change is committed, and is to hear only what comes after. If not, somebody listens, or another change of the group
//! is on its way, and it notifies.

mod follower;
mod hub;
mod log;
mod position;

use std::borrow::Cow;

use sqlx::Arguments as _;
use sqlx::postgres::PgArguments;
use uuid::Uuid;

pub use follower::{Follower, Step};
pub use hub::{Events, OF_CREDENTIAL, OF_ORGANIZATION, OF_PROCESS};
pub use log::{KEPT, forget};
pub use position::Cursor;

use crate::access::Actor;
use crate::db::{Conn, SystemTx, TenantTx};
use crate::error::{Error, Result};
use crate::id::{ApiKeyId, Id, Identified, OrganizationId, UserId};

/// The channel of NOTIFY.
pub const CHANNEL: &str = "tenantry_events";
/// The first key of the advisory locks, so that they are no others: "tnty".
const LOCK_CLASS: i32 = 0x746e_7479;
/// The topic of [`Event::access`].
const ACCESS: &str = "Access";

/// What happened: a change of one row. The topic is the name of the row's type, so that a new kind of row needs no
/// change here, and an instance that does not know a topic passes over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    topic: Cow<'static, str>,
    id: Uuid,
}

impl Event {
    /// The row with this id changed.
    #[must_use]
    pub fn of<T: Identified>(id: Id<T>) -> Self {
        Self { topic: Cow::Borrowed(T::NAME), id: id.uuid() }
    }

    /// A user may have lost access to the organization, or some of it; `None`: everybody may.
    #[must_use]
    pub fn access(user: Option<UserId>) -> Self {
        Self { topic: Cow::Borrowed(ACCESS), id: user.map_or(Uuid::nil(), Id::uuid) }
    }

    /// A key may have ended: the streams of its programs look again.
    #[must_use]
    pub fn access_of_key(key: ApiKeyId) -> Self {
        Self { topic: Cow::Borrowed(ACCESS), id: key.uuid() }
    }

    /// Whether this person or program may have lost access.
    #[must_use]
    pub fn concerns_access_of(&self, actor: Actor) -> bool {
        self.topic == ACCESS && (self.id.is_nil() || self.id == actor.uuid())
    }

    /// The id of the row, when it is a `T`.
    #[must_use]
    pub fn id_of<T: Identified>(&self) -> Option<Id<T>> {
        (self.topic == T::NAME).then(|| Id::from_uuid(self.id))
    }
}

/// Tells all instances of events of any organizations, when the transaction commits.
pub async fn tell(tx: &mut SystemTx, events: &[(OrganizationId, Event)]) -> Result<()> {
    notify(tx.conn(), events).await
}

/// Tells all instances of more events than the one of a mutation, when the transaction commits.
pub async fn tell_more(tx: &mut TenantTx, events: Vec<Event>) -> Result<()> {
    let organization = tx.tenant().organization_id;
    let events: Vec<(OrganizationId, Event)> = events.into_iter().map(|event| (organization, event)).collect();
    notify(tx.conn(), &events).await
}

async fn notify(conn: &mut Conn, events: &[(OrganizationId, Event)]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let organizations: Vec<Uuid> = events.iter().map(|(organization, _)| organization.uuid()).collect();
    let groups: Vec<i32> = events.iter().map(|(organization, _)| group_of(*organization).into()).collect();
    let topics: Vec<String> = events.iter().map(|(_, event)| event.topic.to_string()).collect();
    let rows: Vec<Uuid> = events.iter().map(|(_, event)| event.id).collect();
    sqlx::query!(
        "with told as (insert into tenantry.event_log (organization_id, topic, row_id) select * from unnest($1::uuid[], $2::text[], $3::uuid[]))
         select case when pg_try_advisory_xact_lock($4, o.of) then null else pg_notify($5, o.id::text) end as told
           from (select distinct * from unnest($1::uuid[], $6::int[]) as o (id, of)) o",
        &organizations,
        &topics,
        &rows,
        LOCK_CLASS,
        CHANNEL,
        &groups
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// How a statement tells an event, as [`tell`] does.
#[derive(Debug)]
pub struct Telling {
    /// The statement that writes it down, for a `with`.
    pub insert: String,
    /// The expression that notifies, to be evaluated once.
    pub notify: String,
}

/// Tells an event when the transaction commits. Its values are added to the arguments, of which the first is the organization.
///
/// # Errors
/// [`Error::Internal`] when a value cannot be sent.
pub fn telling(arguments: &mut PgArguments, organization: OrganizationId, event: &Event) -> Result<Telling> {
    let [group, topic, row] = std::array::from_fn(|at| arguments.len() + 1 + at);
    arguments.add(i32::from(group_of(organization))).map_err(Error::internal)?;
    arguments.add(event.topic.as_ref()).map_err(Error::internal)?;
    arguments.add(event.id).map_err(Error::internal)?;
    Ok(Telling {
        insert: format!(
            "insert into tenantry.event_log (organization_id, topic, row_id) values ($1, ${topic}, ${row})"
        ),
        notify: format!(
            "case when pg_try_advisory_xact_lock({LOCK_CLASS}, ${group}) then null else pg_notify('{CHANNEL}', $1::text) end"
        ),
    })
}

/// The group of an organization: the last byte of its id, which is random (UUID, version 7). More groups would mean fewer
/// needless notifications, and more locks: an instance holds one for each group that it follows, and `PostgreSQL` has room
/// for some thousands.
fn group_of(organization: OrganizationId) -> u8 {
    let [.., last] = *organization.uuid().as_bytes();
    last
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::id::{TicketId, marker};

    #[test]
    fn an_event_names_its_topic_and_its_row() {
        let id = TicketId::from_uuid(Uuid::from_u128(7));
        let event = Event::of(id);
        assert_eq!(event.id_of::<marker::Ticket>(), Some(id));
        assert_eq!(event.id_of::<marker::User>(), None);
        assert_eq!((event.topic.as_ref(), event.id), ("Ticket", Uuid::from_u128(7)));
    }

    #[test]
    fn organizations_fall_into_all_groups() {
        let groups: BTreeSet<u8> =
            (0..20_000).map(|number| group_of(OrganizationId::from_uuid(Uuid::from_u128(number)))).collect();
        assert_eq!(groups.len(), 256);
    }
}
