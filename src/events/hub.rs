//! What this instance hears of the log, for all its subscribers.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::follower::Follower;
use super::log::{self, Seen};
use super::position::{Cursor, Position};
use super::{CHANNEL, LOCK_CLASS, group_of};
use crate::access::Actor;
use crate::db::listening::{self, in_time};
use crate::db::{Db, connect_alone};
use crate::error::{Code, Error, Result};
use crate::id::OrganizationId;

/// Looks that wait for a subscriber who is slow to take them; who falls further behind reads the log.
const QUEUE: usize = 64;
/// How long a subscription waits until this instance hears the events of its organization.
const HEARD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before the next attempt, after one that failed.
pub(super) const RETRY: Duration = Duration::from_millis(500);
/// How often the log is looked at, told or not: a notification that is lost costs that long.
const LOOK: Duration = Duration::from_secs(10);
/// Subscriptions of one person or program in an organization, in one process.
pub const OF_CREDENTIAL: usize = 500;
/// Subscriptions of one organization in one process.
pub const OF_ORGANIZATION: usize = 5_000;
/// Subscriptions of one process.
pub const OF_PROCESS: usize = 20_000;

/// What a look found, for the subscribers of an organization. `None`: events are missing.
pub(super) type Told = Option<Arc<Seen>>;

/// The events of all organizations, as they arrive at this instance.
#[derive(Clone, Debug)]
pub struct Events(pub(super) Arc<Hub>);

#[derive(Debug)]
pub(super) struct Hub {
    pub(super) db: Db,
    state: Mutex<State>,
    /// There is something to look for.
    work: Notify,
    /// An organization is followed, or not any more.
    followed: Notify,
    /// How many organizations have begun to be heard, ever.
    begun: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    feeds: HashMap<OrganizationId, Feed>,
    credentials: HashMap<(OrganizationId, Uuid), usize>,
    subscribers: usize,
    feeds_made: u64,
}

/// The events of one organization.
#[derive(Debug)]
struct Feed {
    /// Distinguishes feeds of one organization, one after the other.
    number: u64,
    subscribers: usize,
    told: broadcast::Sender<Told>,
    /// What was told; `None` until it is heard.
    position: Option<Arc<Position>>,
    /// Whether there may be something new.
    is_due: bool,
    /// Whether the server may be another one than at the last look.
    is_doubtful: bool,
}

/// The place of a subscription, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    hub: Arc<Hub>,
    organization: OrganizationId,
    actor: Uuid,
}

impl Place {
    /// Where the log of the organization is.
    pub(super) fn source(&self) -> (&Db, OrganizationId) {
        (&self.hub.db, self.organization)
    }

    /// How far the organization's events were told, if `received` says that this subscription has taken all that was.
    pub(super) fn position(&self, received: impl FnOnce() -> bool) -> Option<Arc<Position>> {
        // Nothing is told while the state is held.
        let state = self.hub.state();
        state.feeds.get(&self.organization)?.position.clone().filter(|_| received())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        state.subscribers = state.subscribers.saturating_sub(1);
        let credential = (self.organization, self.actor);
        if let Some(count) = state.credentials.get_mut(&credential) {
            *count -= 1;
            if *count == 0 {
                state.credentials.remove(&credential);
            }
        }
        let Some(feed) = state.feeds.get_mut(&self.organization) else { return };
        feed.subscribers -= 1;
        if feed.subscribers == 0 {
            state.feeds.remove(&self.organization);
            // Its lock may go.
            self.hub.followed.notify_one();
        }
    }
}

impl Events {
    /// Nothing is heard before [`Events::listen`].
    #[must_use]
    pub fn new(db: Db) -> Self {
        let (state, begun) = (Mutex::default(), watch::Sender::default());
        Self(Arc::new(Hub { db, state, work: Notify::new(), followed: Notify::new(), begun }))
    }

    /// The events of one organization from now on, or from where somebody was who comes back.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while the database cannot be listened to; [`Error::EventsMissed`] when events after `from` are not
    /// kept any more; [`Code::TooManySubscriptions`].
    pub async fn subscribe(
        &self,
        organization: OrganizationId,
        actor: Actor,
        from: Option<Cursor>,
    ) -> Result<Follower> {
        let mut begun = self.0.begun.subscribe();
        let place = self.0.take_place(organization, actor.uuid())?;
        self.0.followed.notify_one();
        self.0.work.notify_one();
        let hearing = async {
            loop {
                begun.mark_unchanged();
                if let Some(joined) = self.0.join(organization) {
                    return Ok::<_, Error>(joined);
                }
                // The sender lives as long as we do.
                begun.changed().await.map_err(|_| Error::Unavailable)?;
            }
        };
        let joined = tokio::time::timeout(HEARD_TIMEOUT, hearing).await.map_err(|_| Error::Unavailable)?;
        let (told, position) = joined?;
        Follower::new(place, told, Cursor::at(position), from).await
    }

    /// How many subscriptions hear at this instance.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        let state = self.0.state();
        state.feeds.values().filter(|feed| feed.position.is_some()).map(|feed| feed.told.receiver_count()).sum()
    }

    /// Listens until shutdown, on a connection of its own; comes back by itself when the database does.
    pub async fn listen(self, options: PgConnectOptions, mut shutdown: watch::Receiver<bool>) {
        let options = options.application_name("tenantry-events");
        loop {
            let failed = tokio::select! {
                Err(error) = self.0.hear(&options) => error,
                _ = shutdown.wait_for(|stop| *stop) => return,
            };
            tracing::warn!(error = %failed, "listening for events failed; trying again");
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
        }
    }
}

impl Hub {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_place(self: &Arc<Self>, organization: OrganizationId, actor: Uuid) -> Result<Place> {
        let mut state = self.state();
        let own = state.credentials.get(&(organization, actor)).copied().unwrap_or_default();
        let all = state.feeds.get(&organization).map_or(0, |feed| feed.subscribers);
        let full = [
            (own >= OF_CREDENTIAL, "You have", OF_CREDENTIAL),
            (all >= OF_ORGANIZATION, "The organization has", OF_ORGANIZATION),
            (state.subscribers >= OF_PROCESS, "The server has", OF_PROCESS),
        ];
        if let Some((_, who, most)) = full.into_iter().find(|(is_full, ..)| *is_full) {
            let message = format!("{who} {most} subscriptions already: end some, or try again later.");
            return Err(Error::Limit { code: Code::TooManySubscriptions, message });
        }
        state.subscribers += 1;
        *state.credentials.entry((organization, actor)).or_default() += 1;
        if !state.feeds.contains_key(&organization) {
            state.feeds_made += 1;
            let (number, told) = (state.feeds_made, broadcast::channel(QUEUE).0);
            state.feeds.insert(
                organization,
                Feed { number, subscribers: 0, told, position: None, is_due: false, is_doubtful: false },
            );
        }
        if let Some(feed) = state.feeds.get_mut(&organization) {
            feed.subscribers += 1;
        }
        Ok(Place { hub: Arc::clone(self), organization, actor })
    }

    /// What is told from here on, and what was told before, when the organization is heard.
    fn join(&self, organization: OrganizationId) -> Option<(broadcast::Receiver<Told>, Arc<Position>)> {
        let state = self.state();
        let feed = state.feeds.get(&organization)?;
        Some((feed.told.subscribe(), Arc::clone(feed.position.as_ref()?)))
    }

    /// Hears events until the connection ends.
    async fn hear(&self, options: &PgConnectOptions) -> Result<Never> {
        let (client, mut connection) = connect_alone(options).await?;
        for feed in self.state().feeds.values_mut() {
            // What was told while nobody listened, perhaps by another server.
            (feed.is_due, feed.is_doubtful) = (true, true);
        }
        let held = Mutex::default();
        tokio::select! {
            ended = listening::hear(&mut connection, |told| self.arrived(told)) => ended,
            failed = self.hold_locks(&client, &held) => failed,
            failed = self.keep_looking(&held) => failed,
        }
    }

    fn arrived(&self, payload: &str) {
        // What another build says: a look comes in any case.
        let Ok(organization) = payload.parse() else { return };
        if let Some(feed) = self.state().feeds.get_mut(&OrganizationId::from_uuid(organization)) {
            feed.is_due = true;
            self.work.notify_one();
        }
    }

    /// Listens, and holds the locks of the groups that are followed, and no others.
    async fn hold_locks(&self, client: &tokio_postgres::Client, held: &Mutex<BTreeSet<u8>>) -> Result<Never> {
        let held = || held.lock().unwrap_or_else(PoisonError::into_inner);
        in_time(client.batch_execute(&format!("set lock_timeout = '5s'; listen {CHANNEL}"))).await??;
        loop {
            let followed: BTreeSet<u8> = self.state().feeds.keys().map(|id| group_of(*id)).collect();
            let unwanted: Vec<u8> = held().difference(&followed).copied().collect();
            for group in unwanted {
                // From here on a new subscription of such a group waits until it is locked again.
                held().remove(&group);
                let unlock = format!("select pg_advisory_unlock_shared({LOCK_CLASS}, {group})");
                in_time(client.batch_execute(&unlock)).await??;
            }
            let mut is_complete = true;
            let wanted: Vec<u8> = followed.difference(&held()).copied().collect();
            for group in wanted {
                let lock = format!("select pg_advisory_lock_shared({LOCK_CLASS}, {group})");
                match in_time(client.batch_execute(&lock)).await? {
                    Ok(()) => {
                        held().insert(group);
                        // Until now nobody told us.
                        self.state()
                            .feeds
                            .iter_mut()
                            .filter(|(id, _)| group_of(**id) == group)
                            .for_each(|(_, feed)| feed.is_due = true);
                        self.work.notify_one();
                    }
                    // A change of the group does not come to its end.
                    Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => is_complete = false,
                    Err(error) => return Err(error.into()),
                }
            }
            tokio::select! {
                () = self.followed.notified() => {}
                () = tokio::time::sleep(RETRY), if !is_complete => {}
                looked = listening::look(client) => looked?,
            }
        }
    }

    /// Looks at the log when there is something new, and from time to time.
    async fn keep_looking(&self, held: &Mutex<BTreeSet<u8>>) -> Result<Never> {
        let mut looked = Instant::now();
        loop {
            let everything = looked.elapsed() >= LOOK;
            if everything {
                looked = Instant::now();
            }
            self.begin(held).await?;
            self.look(everything).await?;
            tokio::select! {
                () = self.work.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Begins to hear organizations that are new, when their groups are locked: a change that nobody told of has ended by then.
    async fn begin(&self, held: &Mutex<BTreeSet<u8>>) -> Result<()> {
        let new: HashMap<OrganizationId, u64> = {
            let (state, held) = (self.state(), held.lock().unwrap_or_else(PoisonError::into_inner));
            let new = state.feeds.iter().filter(|(id, feed)| feed.position.is_none() && held.contains(&group_of(**id)));
            new.map(|(id, feed)| (*id, feed.number)).collect()
        };
        if new.is_empty() {
            return Ok(());
        }
        let ids: Vec<OrganizationId> = new.keys().copied().collect();
        let beginnings = log::beginnings(&self.db, &ids).await?;
        let mut state = self.state();
        for (id, position) in beginnings {
            if let Some(feed) = state.feeds.get_mut(&id).filter(|feed| new.get(&id) == Some(&feed.number)) {
                feed.position = Some(position);
            }
        }
        drop(state);
        self.begun.send_modify(|begun| *begun += 1);
        Ok(())
    }

    /// Looks for what is new and tells it.
    async fn look(&self, everything: bool) -> Result<()> {
        let (mut known, mut numbers, mut is_doubtful) = (Vec::new(), HashMap::new(), false);
        for (id, feed) in &mut self.state().feeds {
            if let Some(position) = feed.position.as_ref().filter(|_| everything || feed.is_due) {
                known.push((*id, Arc::clone(position)));
                numbers.insert(*id, feed.number);
                feed.is_due = false;
                is_doubtful |= feed.is_doubtful;
            }
        }
        if known.is_empty() {
            return Ok(());
        }
        // After an error the connection is made anew, and everything is looked for.
        let found = log::since(&self.db, &known, is_doubtful).await?;
        let mut state = self.state();
        for (id, seen) in found {
            let Some(feed) = state.feeds.get_mut(&id).filter(|feed| numbers.get(&id) == Some(&feed.number)) else {
                continue;
            };
            feed.position = Some(Arc::clone(&seen.after));
            feed.is_doubtful = false;
            // Nobody listening is no error.
            if !seen.is_whole {
                tracing::warn!(organization = %id, "events were missed: subscribers are told to read again");
                drop(feed.told.send(None));
            } else if !seen.entries.is_empty() {
                drop(feed.told.send(Some(Arc::new(seen))));
            }
        }
        Ok(())
    }
}

/// What never comes: listening ends by an error only.
type Never = std::convert::Infallible;
