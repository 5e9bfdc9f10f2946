//! Times, counted by how long they are, in Prometheus' form.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::trace::Scope;

/// A histogram of times. Observing takes no lock, but for an example of a recorded trace.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds in seconds, in their order.
    bounds: &'static [f64],
    /// Values up to each bound, and beyond the last.
    buckets: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
    /// The last recorded trace of each bucket.
    examples: Mutex<Box<[Option<Example>]>>,
}

/// A value and the span it is of.
#[derive(Clone, Copy, Debug)]
struct Example {
    scope: (super::trace::TraceId, super::trace::SpanId),
    seconds: f64,
    /// Seconds since the Unix epoch.
    at: f64,
}

impl Histogram {
    /// Without a value; the bounds are seconds and grow.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        let buckets = std::iter::repeat_with(AtomicU64::default).take(bounds.len() + 1).collect();
        Self { bounds, buckets, nanoseconds: AtomicU64::new(0), examples: Mutex::default() }
    }

    /// Counts a time.
    pub fn observe(&self, time: Duration) {
        self.count(time);
    }

    /// Counts the time of a span; a recorded one becomes the example of its bucket.
    pub fn observe_in(&self, time: Duration, scope: Option<&Scope>) {
        let bucket = self.count(time);
        if let Some(scope) = scope {
            let example = Example {
                scope: (scope.trace_id(), scope.span_id()),
                seconds: time.as_secs_f64(),
                at: scope.now().as_secs_f64(),
            };
            let mut examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
            if examples.is_empty() {
                *examples = vec![None; self.buckets.len()].into();
            }
            examples[bucket] = Some(example);
        }
    }

    fn count(&self, time: Duration) -> usize {
        let seconds = time.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        bucket
    }

    /// Writes its series; `labels` are `name="value"`, separated by commas, or nothing. Examples stand behind their buckets, in
    /// the form of `OpenMetrics`.
    pub fn render(&self, text: &mut String, family: &str, labels: &str) {
        let examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let comma = if labels.is_empty() { "" } else { "," };
        let mut below = 0;
        for (place, bucket) in self.buckets.iter().enumerate() {
            below += bucket.load(Ordering::Relaxed);
            let bound = self.bounds.get(place).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            write!(text, "{family}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}").ok();
            if let Some(Some(Example { scope: (trace, span), seconds, at })) = examples.get(place) {
                write!(text, "{EXAMPLE}\"{trace}\",span_id=\"{span}\"}} {seconds} {at:.3}").ok();
            }
            text.push('\n');
        }
        let sum = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        writeln!(text, "{family}_sum{braces} {sum}\n{family}_count{braces} {below}").ok();
    }
}

/// What an example begins with, behind the value of its bucket.
pub const EXAMPLE: &str = " # {trace_id=";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_is_below_them() {
        let histogram = Histogram::new(&[0.01, 1.0]);
        for milliseconds in [1, 10, 11, 5_000] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let mut text = String::new();
        histogram.render(&mut text, "x_seconds", "a=\"b\"");
        let wanted = "x_seconds_bucket{a=\"b\",le=\"0.01\"} 2\nx_seconds_bucket{a=\"b\",le=\"1\"} 3\nx_seconds_bucket{a=\"b\",le=\"+Inf\"} 4\n\
                      x_seconds_sum{a=\"b\"} 5.022\nx_seconds_count{a=\"b\"} 4\n";
        assert_eq!(text, wanted);
    }
}
