//! Events from one instance to the subscribers of all: `PostgreSQL`'s NOTIFY.
//!
//! A change notifies inside its transaction, so an event arrives exactly when the change is visible, and never for one
//! that was rolled back. The payload names rows, it does not hold them: each subscriber reads them again under its own
//! rights. A subscriber that falls behind loses the oldest events of its queue, never the server's memory.
//!
//! NOTIFY is dear: from its statement to the end of the commit only one transaction of the whole server may be
//! (`PostgreSQL`, `PreCommit_Notify`). So a change notifies only if somebody may hear it. Organizations fall into
//! 256 groups; an instance with subscriptions holds a shared advisory lock for each of their groups, and a change tries to
//! take the exclusive one until its transaction ends. If it gets it, nobody listens: whoever comes now waits until
//! the change is committed, and is to hear only what comes after. If not, somebody listens, or another change of the group
//! is on its way, and it notifies.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, future};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgArguments, PgConnectOptions};
use sqlx::{Arguments as _, PgConnection};
use tokio::sync::{broadcast, watch};
use tokio_postgres::AsyncMessage;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::access::Actor;
use crate::db::{SystemTx, TenantTx, connect_alone};
use crate::error::{Error, Result};
use crate::id::{ApiKeyId, Id, Identified, OrganizationId, UserId};

/// The channel of NOTIFY.
pub const CHANNEL: &str = "tenantry_events";
/// Events kept for a subscriber that is slow to take them.
const QUEUE: usize = 1024;
/// The first key of the advisory locks, so that they are no others: "tnty".
const LOCK_CLASS: i32 = 0x746e_7479;
/// The topic of [`Event::access`].
const ACCESS: &str = "Access";
/// How long a subscription waits until this instance hears the events of its organization.
const HEARD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before the next attempt, after one that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What happened: a change of one row. The topic is the name of the row's type, so that a new kind of row needs no
/// change here, and an instance that does not know a topic passes over it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// An event and whose it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Envelope {
    organization: Uuid,
    event: Event,
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

async fn notify(conn: &mut PgConnection, events: &[(OrganizationId, Event)]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let payloads: Vec<String> =
        events.iter().map(|(organization, event)| payload(*organization, event)).collect::<Result<_>>()?;
    let groups: Vec<i32> = events.iter().map(|(organization, _)| group_of(*organization).into()).collect();
    sqlx::query!(
        "select case when pg_try_advisory_xact_lock($1, told.of) then null else pg_notify($2, told.payload) end as told
           from unnest($3::int[], $4::text[]) as told (of, payload)",
        LOCK_CLASS,
        CHANNEL,
        &groups,
        &payloads
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The expression that tells an event when the transaction commits, as [`tell`] does. Its values are added to the arguments.
///
/// # Errors
/// [`Error::Internal`] when the event cannot be written as JSON.
pub fn telling(arguments: &mut PgArguments, organization: OrganizationId, event: &Event) -> Result<String> {
    let [class, group, channel, text] = std::array::from_fn(|at| arguments.len() + 1 + at);
    arguments.add(LOCK_CLASS).map_err(Error::internal)?;
    arguments.add(i32::from(group_of(organization))).map_err(Error::internal)?;
    arguments.add(CHANNEL).map_err(Error::internal)?;
    arguments.add(payload(organization, event)?).map_err(Error::internal)?;
    Ok(format!(
        "case when pg_try_advisory_xact_lock(${class}, ${group}) then null else pg_notify(${channel}, ${text}) end"
    ))
}

/// The group of an organization: the last byte of its id, which is random (UUID, version 7). More groups would mean fewer
/// needless notifications, and more locks: an instance holds one for each group that it follows, and `PostgreSQL` has room
/// for some thousands.
fn group_of(organization: OrganizationId) -> u8 {
    let [.., last] = *organization.uuid().as_bytes();
    last
}

/// What is sent to [`CHANNEL`] of an event of this organization.
///
/// # Errors
/// [`Error::Internal`] when it cannot be written as JSON.
fn payload(organization: OrganizationId, event: &Event) -> Result<String> {
    let envelope = Envelope { organization: organization.uuid(), event: event.clone() };
    serde_json::to_string(&envelope).map_err(Error::internal)
}

/// The events of all organizations, as they arrive at this instance.
#[derive(Clone, Debug)]
pub struct Events {
    told: broadcast::Sender<Arc<Envelope>>,
    groups: Arc<watch::Sender<Groups>>,
}

/// The groups that matter to this instance.
#[derive(Debug, Default)]
struct Groups {
    /// How many subscriptions follow each.
    followed: BTreeMap<u8, usize>,
    /// Those whose events arrive here: this instance holds their lock.
    heard: BTreeSet<u8>,
}

/// A subscription's part in [`Groups::followed`].
struct Following(Arc<watch::Sender<Groups>>, u8);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.send_modify(|groups| {
            let left = groups.followed.remove(&self.1).unwrap_or_default().saturating_sub(1);
            if left > 0 {
                groups.followed.insert(self.1, left);
            }
        });
    }
}

impl Default for Events {
    fn default() -> Self {
        Self { told: broadcast::channel(QUEUE).0, groups: Arc::new(watch::Sender::default()) }
    }
}

impl Events {
    /// The events of one organization from now on.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while the database cannot be listened to.
    pub async fn subscribe(&self, organization: OrganizationId) -> Result<impl Stream<Item = Event> + Send + use<>> {
        let group = group_of(organization);
        self.groups.send_modify(|groups| *groups.followed.entry(group).or_default() += 1);
        let following = Following(Arc::clone(&self.groups), group);
        let mut groups = self.groups.subscribe();
        let heard = groups.wait_for(|groups| groups.heard.contains(&group));
        if tokio::time::timeout(HEARD_TIMEOUT, heard).await.is_err() {
            return Err(Error::Unavailable);
        }
        let state = (self.told.subscribe(), following);
        let events = futures_util::stream::unfold(state, |mut state| async move {
            loop {
                match state.0.recv().await {
                    Ok(envelope) => return Some((envelope, state)),
                    Err(broadcast::error::RecvError::Lagged(lost)) => {
                        tracing::warn!(lost, "a subscriber is too slow and lost events");
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        Ok(events.filter_map(move |envelope| {
            let ours = envelope.organization == organization.uuid() || envelope.organization.is_nil();
            let event = ours.then(|| envelope.event.clone());
            future::ready(event)
        }))
    }

    /// How many subscriptions hear at this instance.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.told.receiver_count()
    }

    /// Listens until shutdown, on a connection of its own; comes back by itself when the database does.
    pub async fn listen(self, options: PgConnectOptions, mut shutdown: watch::Receiver<bool>) {
        let options = options.application_name("tenantry-events");
        let mut again = false;
        loop {
            let failed = tokio::select! {
                Err(error) = self.receive(&options, again) => error,
                _ = shutdown.wait_for(|stop| *stop) => return,
            };
            self.groups.send_modify(|groups| groups.heard.clear());
            again = true;
            tracing::warn!(error = %failed, "listening for events failed; trying again");
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Hears events until the connection ends. `again`: events may have been missed since the last one.
    async fn receive(&self, options: &PgConnectOptions, again: bool) -> Result<Never> {
        let (client, mut connection) = connect_alone(options).await?;
        let arriving = async {
            loop {
                match future::poll_fn(|context| connection.poll_message(context)).await {
                    Some(Ok(AsyncMessage::Notification(told))) => self.arrived(told.payload()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(Error::from(error)),
                    None => return Err(Error::Unavailable),
                }
            }
        };
        tokio::select! {
            ended = arriving => ended,
            failed = self.hold_locks(&client, again) => failed,
        }
    }

    fn arrived(&self, payload: &str) {
        match serde_json::from_str::<Envelope>(payload) {
            // Nobody listening is no error.
            Ok(envelope) => drop(self.told.send(Arc::new(envelope))),
            Err(error) => tracing::warn!(%error, "an event that this build does not understand"),
        }
    }

    /// Listens, and holds the locks of the groups that are followed.
    async fn hold_locks(&self, client: &tokio_postgres::Client, mut again: bool) -> Result<Never> {
        client.batch_execute(&format!("set lock_timeout = '5s'; listen {CHANNEL}")).await?;
        let mut changes = self.groups.subscribe();
        loop {
            let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
            changes.mark_unchanged();
            self.groups.send_if_modified(|groups| {
                let (followed, heard) = (&groups.followed, &mut groups.heard);
                wanted.extend(followed.keys().copied().filter(|group| !heard.contains(group)));
                unwanted.extend(heard.iter().copied().filter(|group| !followed.contains_key(group)));
                // From here on a new subscription of such a group waits until it is locked again.
                heard.retain(|group| followed.contains_key(group));
                false
            });
            for group in unwanted {
                client.batch_execute(&format!("select pg_advisory_unlock_shared({LOCK_CLASS}, {group})")).await?;
            }
            let mut complete = true;
            for group in wanted {
                let lock = format!("select pg_advisory_lock_shared({LOCK_CLASS}, {group})");
                match client.batch_execute(&lock).await {
                    Ok(()) => {
                        self.groups.send_modify(|groups| {
                            groups.heard.insert(group);
                        });
                    }
                    // A change of the group does not come to its end.
                    Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => complete = false,
                    Err(error) => return Err(error.into()),
                }
            }
            if complete && std::mem::take(&mut again) {
                // Whoever lost access meanwhile is not told again.
                let envelope = Envelope { organization: Uuid::nil(), event: Event::access(None) };
                drop(self.told.send(Arc::new(envelope)));
            }
            let retry = async { if complete { future::pending().await } else { tokio::time::sleep(RETRY).await } };
            tokio::select! {
                // The sender is ours.
                _ = changes.changed() => {}
                () = retry => {}
            }
        }
    }
}

/// What never comes: listening ends by an error only.
type Never = std::convert::Infallible;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{TicketId, marker};

    #[test]
    fn an_event_names_its_topic_and_its_row() {
        let id = TicketId::from_uuid(Uuid::from_u128(7));
        let event = Event::of(id);
        assert_eq!(event.id_of::<marker::Ticket>(), Some(id));
        assert_eq!(event.id_of::<marker::User>(), None);
        let text = serde_json::to_string(&event).expect("it is plain JSON");
        assert_eq!(text, r#"{"topic":"Ticket","id":"00000000-0000-0000-0000-000000000007"}"#);
        assert_eq!(serde_json::from_str::<Event>(&text).expect("our own form"), event);
    }

    #[test]
    fn organizations_fall_into_all_groups() {
        let groups: BTreeSet<u8> =
            (0..20_000).map(|number| group_of(OrganizationId::from_uuid(Uuid::from_u128(number)))).collect();
        assert_eq!(groups.len(), 256);
    }
}
