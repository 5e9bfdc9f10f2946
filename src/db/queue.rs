//! Who gets the next connection: lanes in front of a pool, served in turn.
//!
//! In one line for all, whoever sends a hundred requests makes the next one's wait behind a hundred. Here each organization stands
//! in a lane of its own, a connection that becomes free goes to the next lane that waits, and within a lane to whoever came first.
//! Nobody overtakes: a connection that is given back goes to who waits, not to who asks just now. A lane never holds the last
//! connection of three or more, so that statements that take long keep nobody else out.
//!
//! The lane is that of an organization only where it is known that the credential is let into it. Others stand in the lane of the
//! person whose token was verified, or in that of their address: nobody can stand in a lane by naming it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use uuid::Uuid;

use crate::access::Credential;
use crate::error::{Error, Result};
use crate::fingerprint::fingerprint;
use crate::network::host_of;

/// How many of one lane may wait. With ten connections and statements of a few milliseconds that is a wait of a second or two.
const WAITING_OF_ONE: usize = 512;
/// How many may wait in all.
const WAITING_IN_ALL: usize = 16_384;
/// Seconds after which somebody whose lane is full tries again.
const RETRY_AFTER: u64 = 1;

/// For whom a connection is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// The server itself: health checks.
    House,
    /// Members and keys of an organization.
    Organization(Uuid),
    /// Events of the subscriptions of one organization or person. All want to read at once when something happens, and their
    /// number is bounded elsewhere: they wait as long as it takes, and requests do not wait behind them.
    Streams(u128),
    /// A person, by the fingerprint of their `sub`, as long as it is not known that they are let into an organization.
    Person(u128),
    /// Whoever sends API keys from an address, as long as it is not known that the key is one.
    Address(IpAddr),
}

impl Lane {
    /// The lane of a person whose token was verified.
    #[must_use]
    pub fn person(subject: &str) -> Self {
        Self::Person(fingerprint(&[b"person", subject.as_bytes()]))
    }

    /// The lane of an address; `None`: of all whose address is not known.
    #[must_use]
    pub fn address(ip: Option<IpAddr>) -> Self {
        Self::Address(ip.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), host_of))
    }

    /// The lane of a credential of which nothing more is known than that its signature or its checksum is right.
    #[must_use]
    pub fn of(credential: Credential<'_>) -> Self {
        match credential {
            Credential::Token(bearer) => Self::person(bearer.subject),
            Credential::Key(key) => Self::address(key.ip),
        }
    }

    /// How many may wait in it.
    fn room(self) -> usize {
        match self {
            Self::House | Self::Streams(_) => WAITING_IN_ALL,
            Self::Organization(_) | Self::Person(_) | Self::Address(_) => WAITING_OF_ONE,
        }
    }
}

/// The lanes in front of a pool.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    size: usize,
    /// What one lane may hold.
    most_of_one: usize,
    patience: Duration,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    free: usize,
    /// Lanes that hold something or wait.
    lanes: HashMap<Lane, Inside>,
    /// Lanes that wait, each once, the next one first.
    turn: VecDeque<Lane>,
    waiting: usize,
    /// Names waiters.
    number: u64,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Inside {
    held: usize,
    waiting: VecDeque<(u64, oneshot::Sender<Place>)>,
}

/// The right to a connection. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    queue: Arc<Queue>,
    lane: Lane,
}

/// Somebody who waits. Dropped, they leave the lane.
struct Waiter<'a> {
    queue: &'a Queue,
    lane: Lane,
    number: u64,
    turn: oneshot::Receiver<Place>,
}

impl Queue {
    /// In front of `size` connections; nobody waits longer than `patience`.
    pub(super) fn new(size: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { free: size, ..State::default() }),
            size,
            most_of_one: if size < 3 { size } else { size - 1 },
            patience,
            refused: AtomicU64::new(0),
        })
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// [`Error::RateLimited`] when too many of this lane wait already, [`Error::Unavailable`] when it takes too long, too many wait in
    /// all, or the pool is closed.
    pub(super) async fn enter(self: &Arc<Self>, lane: Lane) -> Result<Place> {
        let mut waiter = match self.stand(lane)? {
            Ok(place) => return Ok(place),
            Err(waiter) => waiter,
        };
        if let Ok(Ok(place)) = tokio::time::timeout(self.patience, &mut waiter.turn).await {
            return Ok(place);
        }
        tracing::warn!("no connection became free in time");
        Err(Error::Unavailable)
    }

    /// A place at once, or one in the lane.
    fn stand(self: &Arc<Self>, lane: Lane) -> Result<std::result::Result<Place, Waiter<'_>>> {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.is_closed {
            return Err(Error::Unavailable);
        }
        let (held, waiting) = state.lanes.get(&lane).map_or((0, 0), |inside| (inside.held, inside.waiting.len()));
        // Whoever waits while something is free is in a lane that may hold no more.
        if state.free > 0 && held < self.most_of_one {
            state.lanes.entry(lane).or_default().held += 1;
            state.free -= 1;
            return Ok(Ok(Place { queue: Arc::clone(self), lane }));
        }
        if waiting >= lane.room() || state.waiting >= WAITING_IN_ALL {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(if waiting >= lane.room() { crowded() } else { Error::Unavailable });
        }
        let (sender, turn) = oneshot::channel();
        state.number += 1;
        state.waiting += 1;
        if waiting == 0 {
            state.turn.push_back(lane);
        }
        state.lanes.entry(lane).or_default().waiting.push_back((state.number, sender));
        Ok(Err(Waiter { queue: self, lane, number: state.number, turn }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a place back, to whoever is next.
    fn leave(self: &Arc<Self>, lane: Lane) {
        let mut state = self.state();
        state.free += 1;
        if let Entry::Occupied(mut inside) = state.lanes.entry(lane) {
            inside.get_mut().held -= 1;
            if inside.get().held == 0 && inside.get().waiting.is_empty() {
                inside.remove();
            }
        }
        let next = state.next(self.most_of_one);
        drop(state);
        if let Some((lane, waiter)) = next {
            // Whoever has gone in this moment hands it on: the place that comes back is dropped.
            drop(waiter.send(Place { queue: Arc::clone(self), lane }));
        }
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.turn.clear();
        state.waiting = 0;
        let gone: Vec<_> = state.lanes.values_mut().map(|inside| std::mem::take(&mut inside.waiting)).collect();
        drop(state);
        drop(gone);
    }

    /// Whether nobody is let in any more.
    pub(super) fn is_closed(&self) -> bool {
        self.state().is_closed
    }

    /// How many connections there may be.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// How many are held.
    pub(super) fn held(&self) -> usize {
        self.size - self.state().free
    }

    /// How many wait.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// How many were refused so far because too many waited.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Refuses if no more may wait in the lane.
    ///
    /// # Errors
    /// [`Error::RateLimited`].
    pub(super) fn check(&self, lane: Lane) -> Result<()> {
        let waiting = self.state().lanes.get(&lane).map_or(0, |inside| inside.waiting.len());
        if waiting < lane.room() {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(crowded())
    }
}

impl State {
    /// Takes the next one who may have a place out of their lane, and a place for them.
    fn next(&mut self, most_of_one: usize) -> Option<(Lane, oneshot::Sender<Place>)> {
        if self.free == 0 {
            return None;
        }
        let at = self.turn.iter().position(|lane| self.lanes.get(lane).is_some_and(|lane| lane.held < most_of_one))?;
        let lane = self.turn.remove(at)?;
        let inside = self.lanes.get_mut(&lane)?;
        let (_, waiter) = inside.waiting.pop_front()?;
        inside.held += 1;
        if !inside.waiting.is_empty() {
            self.turn.push_back(lane);
        }
        self.free -= 1;
        self.waiting -= 1;
        Some((lane, waiter))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.leave(self.lane);
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        let Some(inside) = state.lanes.get_mut(&self.lane) else { return };
        // Not there any more: the place was given, and is given back with the receiver.
        let Some(at) = inside.waiting.iter().position(|(number, _)| *number == self.number) else { return };
        inside.waiting.remove(at);
        let (is_empty, is_gone) = (inside.waiting.is_empty(), inside.held == 0);
        state.waiting -= 1;
        if is_empty {
            state.turn.retain(|lane| *lane != self.lane);
            if is_gone {
                state.lanes.remove(&self.lane);
            }
        }
    }
}

fn crowded() -> Error {
    let message = format!(
        "{WAITING_OF_ONE} requests of yours wait for the database already: send fewer at once, and try again in {RETRY_AFTER} s."
    );
    Error::RateLimited { retry_after: RETRY_AFTER, message }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;

    const NOISY: Lane = Lane::Person(1);
    const QUIET: Lane = Lane::Person(2);
    const OTHER: Lane = Lane::Person(3);

    fn queue(size: usize) -> Arc<Queue> {
        Queue::new(size, Duration::from_mins(1))
    }

    async fn place(queue: &Arc<Queue>, lane: Lane) -> Place {
        queue.enter(lane).await.expect("a place")
    }

    /// Somebody who stands in a lane.
    fn waits(queue: &Arc<Queue>, lane: Lane) -> BoxFuture<'static, Place> {
        let queue = Arc::clone(queue);
        let mut waiting = async move { place(&queue, lane).await }.boxed();
        assert!((&mut waiting).now_or_never().is_none(), "nothing was free");
        waiting
    }

    #[tokio::test]
    async fn the_quiet_one_is_next_however_many_the_noisy_one_has_waiting() {
        let queue = queue(2);
        let held = [place(&queue, NOISY).await, place(&queue, NOISY).await];
        let mut noisy: VecDeque<_> = (0..100).map(|_| waits(&queue, NOISY)).collect();
        let (mut quiet, mut other) = (waits(&queue, QUIET), waits(&queue, OTHER));
        let mut served = Vec::new();
        let mut now = VecDeque::from(held);
        while served.len() < 5 {
            drop(now.pop_front());
            let next = [noisy.front_mut().and_then(FutureExt::now_or_never)];
            for place in next.into_iter().flatten() {
                noisy.pop_front();
                served.push(NOISY);
                now.push_back(place);
            }
            for (waiting, lane) in [(&mut quiet, QUIET), (&mut other, OTHER)] {
                if !served.contains(&lane)
                    && let Some(place) = waiting.now_or_never()
                {
                    served.push(lane);
                    now.push_back(place);
                }
            }
        }
        assert_eq!(served, [NOISY, QUIET, OTHER, NOISY, NOISY]);
    }

    #[tokio::test]
    async fn a_lane_never_holds_the_last_connection() {
        let queue = queue(3);
        let noisy = [place(&queue, NOISY).await, place(&queue, NOISY).await];
        let mut third = waits(&queue, NOISY);
        let quiet = place(&queue, QUIET).await;
        drop(quiet);
        assert!((&mut third).now_or_never().is_none(), "it stays free for others");
        drop(noisy);
        assert!(third.now_or_never().is_some());
        // Of two, nothing is kept free.
        let small = self::queue(2);
        let _both = [place(&small, NOISY).await, place(&small, NOISY).await];
    }

    #[tokio::test]
    async fn nobody_overtakes_and_whoever_goes_leaves_nothing_behind() {
        let queue = queue(1);
        let held = place(&queue, NOISY).await;
        let (gone, mut first, mut second) = (waits(&queue, QUIET), waits(&queue, QUIET), waits(&queue, QUIET));
        drop(gone);
        assert_eq!(queue.waiting(), 2);
        drop(held);
        let mut late = waits(&queue, OTHER);
        let place = (&mut first).now_or_never().expect("who came first");
        assert!((&mut second).now_or_never().is_none() && (&mut late).now_or_never().is_none());
        // Given a place and gone before they knew of it.
        drop(place);
        drop(second);
        drop(late.now_or_never().expect("the place is handed on"));
        let state = queue.state();
        assert_eq!((state.free, state.waiting, state.lanes.len(), state.turn.len()), (1, 0, 0, 0));
    }

    #[tokio::test]
    async fn what_waits_is_bounded_by_lane_and_a_closed_pool_lets_nobody_in() {
        let queue = queue(1);
        let held = place(&queue, QUIET).await;
        let mut waiting: Vec<_> = (0..WAITING_OF_ONE).map(|_| waits(&queue, NOISY)).collect();
        assert!(matches!(queue.enter(NOISY).await, Err(Error::RateLimited { retry_after: RETRY_AFTER, .. })));
        assert!(queue.check(NOISY).is_err() && queue.check(QUIET).is_ok());
        assert_eq!(queue.refused(), 2);
        waiting.push(waits(&queue, QUIET));
        let mut streams = Lane::Streams(1);
        for _ in 0..=WAITING_OF_ONE {
            waiting.push(waits(&queue, streams));
        }
        streams = Lane::Streams(2);
        queue.close();
        assert!(matches!(queue.enter(streams).await, Err(Error::Unavailable)));
        drop(held);
        assert_eq!((queue.held(), queue.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn what_waits_in_all_is_bounded_and_nobody_waits_for_ever() {
        let full = queue(1);
        let _held = place(&full, QUIET).await;
        let waiting: Vec<_> =
            (10..).take(WAITING_IN_ALL).map(|number| waits(&full, Lane::Person(10 + number % 64))).collect();
        assert!(matches!(full.enter(OTHER).now_or_never(), Some(Err(Error::Unavailable))));
        drop(waiting);
        let hasty = Queue::new(1, Duration::from_millis(1));
        let _held = place(&hasty, QUIET).await;
        let refused = tokio::time::timeout(Duration::from_mins(1), hasty.enter(OTHER)).await;
        assert!(matches!(refused, Ok(Err(Error::Unavailable))));
        assert_eq!(hasty.waiting(), 0);
    }

    #[test]
    fn keys_stand_in_the_lane_of_their_address_until_they_are_known() {
        use crate::access::KeyBearer;
        let of = |hash: &[u8], ip: &str| {
            let now = chrono::DateTime::UNIX_EPOCH;
            Lane::of(Credential::Key(KeyBearer { hash, ip: ip.parse().ok(), now }))
        };
        assert_eq!(of(b"a", "10.0.0.1"), of(b"b", "10.0.0.1"));
        assert_eq!(of(b"a", "2001:db8::1"), of(b"a", "2001:db8::2"));
        assert_ne!(of(b"a", "10.0.0.1"), of(b"a", "10.0.0.2"));
        assert_ne!(Lane::person("a"), Lane::person("b"));
    }
}
