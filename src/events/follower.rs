//! One subscription's way through the events of its organization.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::broadcast::{self, error::RecvError};

use super::Event;
use super::hub::{Place, RETRY, Told};
use super::log::{self, Entry, Seen};
use super::position::{Cursor, Position};
use crate::error::{Error, Result};

/// How often a subscription that hears nothing is brought forward, so that its cursor does not grow older than the log.
const REFRESH: Duration = Duration::from_secs(30);

/// What a subscription comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// An event.
    Event(Event),
    /// Nothing has happened, and the cursor is a newer one.
    Quiet,
}

/// Hears every event of an organization once, in an order in which no change of a row comes before an earlier one.
///
/// Whoever takes them too slowly reads the log for those that do not wait any more.
#[derive(Debug)]
pub struct Follower {
    place: Place,
    told: broadcast::Receiver<Told>,
    /// What was given out.
    cursor: Cursor,
    /// What comes next.
    ready: VecDeque<(Event, Cursor)>,
    /// Whether events passed by that it did not take.
    is_behind: bool,
    is_over: bool,
}

impl Follower {
    /// Whoever comes back from somewhere gets first what was told since.
    pub(super) async fn new(
        place: Place,
        told: broadcast::Receiver<Told>,
        now: Cursor,
        from: Option<Cursor>,
    ) -> Result<Self> {
        let is_back = from.is_some();
        let mut follower =
            Self { place, told, cursor: from.unwrap_or(now), ready: VecDeque::new(), is_behind: false, is_over: false };
        if is_back {
            let seen = follower.missed().await?;
            if !seen.is_whole {
                return Err(Error::EventsMissed);
            }
            follower.take(&seen);
        }
        Ok(follower)
    }

    /// How far the subscription has come.
    #[must_use]
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// The next step. An error is the last: [`Error::EventsMissed`]. What is cancelled loses nothing.
    pub async fn next(&mut self) -> Option<Result<Step>> {
        loop {
            if let Some((event, cursor)) = self.ready.pop_front() {
                self.cursor = cursor;
                return Some(Ok(Step::Event(event)));
            }
            if self.is_over {
                return None;
            }
            let told = if self.is_behind {
                Ok(Some(Arc::new(self.missed_when_there().await)))
            } else {
                tokio::select! {
                    biased;
                    told = self.told.recv() => told,
                    () = tokio::time::sleep(REFRESH) => {
                        if self.refresh() {
                            return Some(Ok(Step::Quiet));
                        }
                        continue;
                    }
                }
            };
            self.is_behind = matches!(told, Err(RecvError::Lagged(_)));
            let seen = match told {
                Ok(seen) => seen,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return None,
            };
            let Some(seen) = seen.filter(|seen| seen.is_whole) else {
                self.is_over = true;
                return Some(Err(Error::EventsMissed));
            };
            self.take(&seen);
        }
    }

    /// The events as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Event>> + Send {
        futures_util::stream::unfold(self, |mut follower| async move {
            loop {
                match follower.next().await? {
                    Ok(Step::Event(event)) => return Some((Ok(event), follower)),
                    Ok(Step::Quiet) => {}
                    Err(error) => return Some((Err(error), follower)),
                }
            }
        })
    }

    /// Takes the position of all that was told, if it is a newer one. One from before a look of our own is not.
    fn refresh(&mut self) -> bool {
        let told = &self.told;
        let Some(position) = self.place.position(|| told.is_empty()) else { return false };
        let is_newer = position.floor > self.cursor.before.floor;
        if is_newer {
            self.cursor = Cursor::at(position);
        }
        is_newer
    }

    /// What the log has after the cursor.
    async fn missed(&self) -> Result<Seen> {
        let (db, organization) = self.place.source();
        let mut seen = log::since(db, &[(organization, Arc::clone(&self.cursor.before))], true).await?;
        seen.remove(&organization).ok_or_else(|| Error::internal("a look at the log left an organization out"))
    }

    /// The same, when the database is there.
    async fn missed_when_there(&self) -> Seen {
        loop {
            match self.missed().await {
                Ok(seen) => return seen,
                Err(error) => {
                    tracing::debug!(%error, "a slow subscriber could not read the log; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Puts what is new to this subscription in its queue. It may have more behind it than `seen` has before it: then nothing is.
    fn take(&mut self, seen: &Seen) {
        let mut fresh: Vec<&Entry> = seen.entries.iter().collect();
        // What became visible together with what was told last comes first, then its position holds.
        let mut before = Arc::clone(&self.cursor.before);
        fresh.retain(|entry| !before.has(entry.transaction));
        if let Some((middle, told)) = self.cursor.within.clone() {
            let (rest, later): (Vec<_>, Vec<_>) = fresh.into_iter().partition(|entry| middle.has(entry.transaction));
            let rest: Vec<&Entry> = rest.into_iter().filter(|entry| entry.id > told).collect();
            self.queue(&before, &rest, &middle);
            before = middle;
            fresh = later;
        }
        self.queue(&before, &fresh, &seen.after);
    }

    /// `entries` are all that `after` has and `before` has not, or the rest of them.
    fn queue(&mut self, before: &Arc<Position>, entries: &[&Entry], after: &Arc<Position>) {
        let Some((last, others)) = entries.split_last() else { return };
        for entry in others {
            let cursor = Cursor { before: Arc::clone(before), within: Some((Arc::clone(after), entry.id)) };
            self.ready.push_back((entry.event.clone(), cursor));
        }
        self.ready.push_back((last.event.clone(), Cursor::at(Arc::clone(after))));
    }
}
