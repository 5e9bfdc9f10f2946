//! One line on a terminal: how far, how fast, how long still.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Redrawn at most this often.
const EVERY: Duration = Duration::from_millis(200);
const WIDTH: u64 = 24;

/// A progress bar; silent where stderr is no terminal.
#[derive(Debug)]
pub struct Progress {
    label: String,
    total: u64,
    done: u64,
    start: Instant,
    drawn: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// A bar that ends at `total`.
    pub fn new(label: impl Into<String>, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { label: label.into(), total, done: 0, start: Instant::now(), drawn: None, terminal }
    }

    /// So many more are done.
    pub fn advance(&mut self, count: u64) {
        self.done += count;
        if self.terminal && self.drawn.is_none_or(|at| at.elapsed() > EVERY) {
            self.drawn = Some(Instant::now());
            // Where stderr went away there is nobody to tell.
            drop(write!(
                std::io::stderr(),
                "\r\x1b[K{}",
                line(&self.label, self.done, self.total, self.start.elapsed())
            ));
        }
    }

    /// Ends the line.
    pub fn finish(&mut self) {
        if self.terminal && self.drawn.is_some() {
            drop(writeln!(
                std::io::stderr(),
                "\r\x1b[K{}",
                line(&self.label, self.done, self.total, self.start.elapsed())
            ));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn line(label: &str, done: u64, total: u64, elapsed: Duration) -> String {
    // Rows that came while it ran can make it more than all.
    let total = total.max(done);
    let filled = (done * WIDTH).checked_div(total).unwrap_or(WIDTH);
    let bar: String = (0..WIDTH).map(|n| if n < filled { '█' } else { '░' }).collect();
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let left =
        if rate > 0.0 { Duration::from_secs_f64(((total - done) as f64 / rate).min(1e9)) } else { Duration::ZERO };
    format!("{label:<28.28} {bar} {done}/{total}  {rate:.0}/s  {} left", duration(left))
}

/// `1h 02m`, `3m 10s`, `7s`.
pub fn duration(time: Duration) -> String {
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
    fn a_line_says_how_far_how_fast_and_how_long() {
        let text = line("legacy.bots", 250, 1000, Duration::from_secs(5));
        assert!(text.contains("250/1000  50/s  15s left"), "{text}");
        assert_eq!(text.matches('█').count(), 6);
        assert!(line("x", 0, 0, Duration::ZERO).contains("0/0"));
        assert!(line("x", 7, 5, Duration::from_secs(1)).contains("7/7"));
        assert_eq!(duration(Duration::from_secs(3725)), "1h 02m");
    }
}
