//! Progress of the work, told to a listener.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;
use std::time::Duration;

/// How far a stage of the work is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The stage: a table, or the users.
    pub stage: String,
    /// How many there were when the stage began. More may come while it runs.
    pub total: u64,
    /// How many are done.
    pub done: u64,
    /// Whether the stage has ended.
    pub finished: bool,
}

/// Called after each piece of work.
type Hear = dyn Fn(&Progress) + Send + Sync;

/// Receives the progress of each stage.
#[derive(Clone, Default)]
pub struct ProgressListener(Option<Arc<Hear>>);

impl ProgressListener {
    /// Calls `hear` after each piece of work.
    pub fn new(hear: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hear)))
    }

    /// Begins a stage.
    pub(super) fn begin(&self, stage: impl Into<String>, total: u64) -> Stage {
        let progress = Progress { stage: stage.into(), total, done: 0, finished: false };
        Stage { progress, listener: self.clone() }
    }
}

impl Debug for ProgressListener {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgressListener").finish_non_exhaustive()
    }
}

/// A stage that is under way.
#[derive(Debug)]
pub(super) struct Stage {
    progress: Progress,
    listener: ProgressListener,
}

impl Stage {
    /// `count` more are done.
    pub(super) fn advance(&mut self, count: u64) {
        self.progress.done += count;
        self.tell();
    }

    /// The stage has ended.
    pub(super) fn finish(mut self) {
        self.progress.finished = true;
        self.tell();
    }

    fn tell(&self) {
        if let Some(hear) = &self.listener.0 {
            hear(&self.progress);
        }
    }
}

/// `1h 02m`, `3m 10s`, `7s`.
#[must_use]
pub fn format_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m {s:02}s"),
        (h, m, _) => format!("{h}h {m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (seconds, expected) in [(7, "7s"), (190, "3m 10s"), (3725, "1h 02m")] {
            assert_eq!(format_duration(Duration::from_secs(seconds)), expected);
        }
    }
}
