//! Progress of long work on stderr. Nothing is shown where stderr is not a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::adopt::{Progress, ProgressListener, format_duration};

/// The bar is redrawn at most this often.
const EVERY: Duration = Duration::from_millis(200);
/// Characters of the bar.
const WIDTH: u64 = 24;

/// Draws a bar for each stage of the work, one below the other.
pub(super) fn progress_bar() -> ProgressListener {
    if !std::io::stderr().is_terminal() {
        return ProgressListener::default();
    }
    let bar = Mutex::new(Bar::default());
    ProgressListener::new(move |progress| {
        bar.lock().unwrap_or_else(PoisonError::into_inner).draw(progress);
    })
}

#[derive(Default)]
struct Bar {
    /// When the stage began.
    start: Option<Instant>,
    drawn: Option<Instant>,
}

impl Bar {
    fn draw(&mut self, progress: &Progress) {
        let start = *self.start.get_or_insert_with(Instant::now);
        let text = bar_line(&progress.stage, progress.done, progress.total, start.elapsed());
        // Nobody reads a closed stderr.
        if progress.finished {
            if self.drawn.is_some() {
                drop(writeln!(std::io::stderr(), "\r\x1b[K{text}"));
            }
            *self = Self::default();
        } else if self.drawn.is_none_or(|at| at.elapsed() > EVERY) {
            self.drawn = Some(Instant::now());
            drop(write!(std::io::stderr(), "\r\x1b[K{text}"));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn bar_line(label: &str, done: u64, total: u64, elapsed: Duration) -> String {
    // Rows that came while it ran can make it more than all.
    let total = total.max(done);
    let filled = (done * WIDTH).checked_div(total).unwrap_or(WIDTH);
    let bar: String = (0..WIDTH).map(|n| if n < filled { '█' } else { '░' }).collect();
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let left =
        if rate > 0.0 { Duration::from_secs_f64(((total - done) as f64 / rate).min(1e9)) } else { Duration::ZERO };
    format!("{label:<28.28} {bar} {done}/{total}  {rate:.0}/s  {} left", format_duration(left))
}

/// A number that counts up. Its line disappears when it is dropped: the result, or the error, follows.
pub(super) struct Counter {
    what: &'static str,
    terminal: bool,
}

impl Counter {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, terminal: std::io::stderr().is_terminal() }
    }

    /// Shows `done`.
    pub(super) fn show(&self, done: usize) {
        self.draw(&format!("{done} {}", self.what));
    }

    /// Shows `done` of `total`.
    pub(super) fn show_of(&self, done: u32, total: u32) {
        self.draw(&format!("{done}/{total} {}", self.what));
    }

    fn draw(&self, text: &str) {
        if self.terminal {
            drop(write!(std::io::stderr(), "\r{text}"));
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if self.terminal {
            drop(write!(std::io::stderr(), "\r\x1b[K"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let text = bar_line("legacy.bots", 250, 1000, Duration::from_secs(5));
        assert!(text.contains("250/1000  50/s  15s left"), "{text}");
        assert_eq!(text.matches('█').count(), 6);
        assert!(bar_line("x", 0, 0, Duration::ZERO).contains("0/0"));
        assert!(bar_line("x", 7, 5, Duration::from_secs(1)).contains("7/7"));
    }
}
