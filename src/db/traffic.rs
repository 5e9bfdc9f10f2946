//! What an operation asks of the database, counted, and the lane in which it waits for connections.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Lane;
use crate::access::Credential;

/// Statements and round trips of one operation, for its log line and its `Server-Timing`.
#[derive(Debug, Default)]
pub struct Traffic {
    statements: AtomicU32,
    round_trips: AtomicU32,
    lane: Mutex<Option<Lane>>,
}

impl Traffic {
    /// From here on it waits in this lane.
    pub fn stand_in(&self, lane: Lane) {
        *self.lane.lock().unwrap_or_else(PoisonError::into_inner) = Some(lane);
    }

    /// Where it waits: where it was told to, or where anybody with such a credential does.
    pub(super) fn lane(&self, credential: Credential<'_>) -> Lane {
        let lane = *self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        lane.unwrap_or_else(|| Lane::of(credential))
    }

    /// Statements sent so far; the begin and the end of a transaction that reads are not counted.
    #[must_use]
    pub fn statements(&self) -> u32 {
        self.statements.load(Ordering::Relaxed)
    }

    /// How many times something was sent that could not leave together with what was sent before, because an answer came
    /// first. A statement that a connection has not prepared yet costs one more, which is not counted.
    #[must_use]
    pub fn round_trips(&self) -> u32 {
        self.round_trips.load(Ordering::Relaxed)
    }

    /// Statements are sent, together or into a flight that is under way.
    pub(super) fn add_statements(&self, statements: u32) {
        self.statements.fetch_add(statements, Ordering::Relaxed);
    }

    /// Something is sent, and it is the first, or an answer came since the last.
    pub(super) fn add_round_trip(&self) {
        self.round_trips.fetch_add(1, Ordering::Relaxed);
    }
}
