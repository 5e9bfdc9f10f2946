//! How long requests wait for a connection.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use crate::telemetry::histogram::Histogram;

/// In seconds: an idle connection is there at once, and nobody waits longer than five.
const BOUNDS: &[f64] = &[0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Who waits for a connection of one pool, and how long they waited.
#[derive(Debug)]
pub struct Waits {
    waiting: AtomicU32,
    in_vain: AtomicU64,
    /// Of those who got one; a new one is opened in this time.
    pub seconds: Histogram,
}

impl Default for Waits {
    fn default() -> Self {
        Self { waiting: AtomicU32::new(0), in_vain: AtomicU64::new(0), seconds: Histogram::new(BOUNDS) }
    }
}

impl Waits {
    /// How many wait at this moment.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many got none: not in time, because the database could not be reached, or because they went away.
    #[must_use]
    pub fn in_vain(&self) -> u64 {
        self.in_vain.load(Ordering::Relaxed)
    }

    /// Somebody waits from now on.
    pub(super) fn begin(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting { waits: self, since: Instant::now(), got: false }
    }
}

/// Somebody who waits.
pub(super) struct Waiting<'a> {
    waits: &'a Waits,
    since: Instant,
    got: bool,
}

impl Waiting<'_> {
    /// The wait is over.
    pub(super) fn got(mut self) {
        self.got = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waits.waiting.fetch_sub(1, Ordering::Relaxed);
        if self.got {
            self.waits.seconds.observe(self.since.elapsed());
        } else {
            self.waits.in_vain.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_went_away_without_a_connection_is_counted_as_such() {
        let waits = Waits::default();
        let (gone, got) = (waits.begin(), waits.begin());
        assert_eq!((waits.waiting(), waits.in_vain()), (2, 0));
        drop(gone);
        got.got();
        assert_eq!((waits.waiting(), waits.in_vain()), (0, 1));
        let mut text = String::new();
        waits.seconds.render(&mut text, "x_seconds", "");
        assert!(text.contains("x_seconds_count 1\n"), "{text}");
    }
}
