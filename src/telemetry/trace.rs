//! Spans: what a request spent its time with. They hold names and counts, never values.
//!
//! A trace that is not recorded has no spans at all: everything here is behind an `Option` that is empty then. What is recorded
//! is kept until its request is over and then put into a queue of bounded length ([`super::otlp`] empties it), so that nothing
//! waits for a collector.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// Spans of one trace that are recorded: a list of lists can have thousands, and a subscription lives for days.
const MAX_SPANS: usize = 512;
/// So many spans of a trace that goes on are queued together.
const GATHERED: usize = 128;
/// They wait for each other no longer than this; an operation that ends takes all with it.
const STALE: Duration = Duration::from_secs(1);

/// The id of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub(in crate::telemetry) u128);

/// The id of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(pub(in crate::telemetry) u64);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a caller says of the trace that its request is part of: the header `traceparent` (W3C Trace Context, level 1, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    pub trace: TraceId,
    /// The caller's span.
    pub span: SpanId,
    /// Whether the caller records it.
    pub sampled: bool,
}

impl Remote {
    /// Reads the header; what is not exactly right counts as absent (section 3.2.2.5).
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            digits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
        };
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if [version.len(), trace.len(), span.len(), flags.len()] != [2, 32, 16, 2] {
            return None;
        }
        // Later versions may say more behind it; 255 is none.
        if version == "ff" || version == "00" && parts.next().is_some() {
            return None;
        }
        number(version)?;
        let trace = number(trace).filter(|id| *id != 0)?;
        let span = u64::try_from(number(span)?).ok().filter(|id| *id != 0)?;
        Some(Self { trace: TraceId(trace), span: SpanId(span), sampled: number(flags)? & 1 == 1 })
    }
}

/// Which traces are recorded: `OTEL_TRACES_SAMPLER`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// The share of those that nobody decides about, 0 to 1.
    pub ratio: f64,
    /// Whether a caller who is believed decides about its own.
    pub parent_based: bool,
}

impl Sampler {
    /// Reads the standard's names. `argument` is the share, for the samplers that take one.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(name: Option<&str>, argument: Option<&str>) -> Result<Self, String> {
        let name = name.unwrap_or("parentbased_always_on");
        let (parent_based, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let ratio = match root {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => {
                let ratio =
                    argument.map_or(Ok(1.0), str::parse::<f64>).ok().filter(|ratio| (0.0..=1.0).contains(ratio));
                ratio.ok_or("OTEL_TRACES_SAMPLER_ARG is no number from 0 to 1")?
            }
            _ => {
                return Err(format!(
                    "OTEL_TRACES_SAMPLER is \"{name}\"; it takes always_on, always_off, traceidratio, and each behind parentbased_"
                ));
            }
        };
        Ok(Self { ratio, parent_based })
    }

    /// Draws for itself: who chooses the id of a trace must not choose that it is recorded.
    fn draws(self) -> bool {
        self.ratio >= 1.0 || self.ratio > 0.0 && rand::random::<f64>() < self.ratio
    }
}

/// Begins traces, if they are switched on.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Recorder>>);

/// What all traces of a process share.
#[derive(Debug)]
pub(super) struct Recorder {
    sampler: Sampler,
    /// Whether a caller's word about recording counts.
    believes_callers: bool,
    queue: Mutex<Option<mpsc::UnboundedSender<Vec<Ended>>>>,
    /// Spans in the queue, and how many it holds.
    pub(super) queued: AtomicUsize,
    room: usize,
    pub(super) counts: Counts,
}

/// What became of spans.
#[derive(Debug, Default)]
pub struct Counts {
    /// The collector has them.
    pub exported: AtomicU64,
    /// The queue was full.
    pub overflowed: AtomicU64,
    /// The collector did not take them.
    pub failed: AtomicU64,
    /// Their trace had enough.
    pub too_many: AtomicU64,
}

impl Tracer {
    /// A tracer, and the other end of its queue of `room` spans.
    pub(super) fn new(
        sampler: Sampler,
        believes_callers: bool,
        room: usize,
    ) -> (Self, Arc<Recorder>, mpsc::UnboundedReceiver<Vec<Ended>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let recorder = Arc::new(Recorder {
            sampler,
            believes_callers,
            queue: Mutex::new(Some(sender)),
            queued: AtomicUsize::new(0),
            room,
            counts: Counts::default(),
        });
        (Self(Some(Arc::clone(&recorder))), recorder, receiver)
    }

    /// Begins the trace of a request, or goes on with its caller's; `None` when it is not recorded. `since_epoch` is the time.
    #[must_use]
    pub fn begin(&self, name: Cow<'static, str>, remote: Option<Remote>, since_epoch: Duration) -> Option<Span> {
        let recorder = self.0.as_ref()?;
        let is_wanted = match remote {
            Some(remote) if recorder.sampler.parent_based && recorder.believes_callers => remote.sampled,
            _ => recorder.sampler.draws(),
        };
        if !is_wanted {
            return None;
        }
        let trace = Arc::new(Trace {
            recorder: Arc::clone(recorder),
            id: remote.map_or_else(|| TraceId(rand::random::<u128>().max(1)), |remote| remote.trace),
            remote: remote.map(|remote| remote.span),
            started: Instant::now(),
            since_epoch,
            begun: AtomicUsize::new(0),
            ended: Mutex::default(),
        });
        Span::new(&trace, None, name, Kind::Server)
    }

    /// What became of spans; `None` when traces are switched off.
    #[must_use]
    pub fn counts(&self) -> Option<&Counts> {
        self.0.as_ref().map(|recorder| &recorder.counts)
    }

    /// Ends the queue: what is in it is still sent, and what comes later is dropped.
    pub fn close(&self) {
        if let Some(recorder) = &self.0 {
            recorder.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

impl Recorder {
    fn put(&self, spans: Vec<Ended>) {
        let count = spans.len();
        if count == 0 {
            return;
        }
        if self.queued.fetch_add(count, Ordering::Relaxed) + count <= self.room {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.as_ref().is_some_and(|queue| queue.send(spans).is_ok()) {
                return;
            }
        }
        self.queued.fetch_sub(count, Ordering::Relaxed);
        self.counts.overflowed.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// A recorded trace.
#[derive(Debug)]
struct Trace {
    recorder: Arc<Recorder>,
    id: TraceId,
    /// The caller's span.
    remote: Option<SpanId>,
    started: Instant,
    /// When it started.
    since_epoch: Duration,
    begun: AtomicUsize,
    ended: Mutex<Vec<Ended>>,
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.recorder.put(std::mem::take(self.ended.get_mut().unwrap_or_else(PoisonError::into_inner)));
    }
}

/// What kind of work a span is (OTLP, `SpanKind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// An attribute: a name or a count.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(Cow<'static, str>),
    Count(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<usize> for Value {
    fn from(count: usize) -> Self {
        Self::Count(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(count: u32) -> Self {
        Self::Count(count.into())
    }
}

/// A span that is over.
#[derive(Clone, Debug)]
pub(in crate::telemetry) struct Ended {
    pub(in crate::telemetry) trace: TraceId,
    pub(in crate::telemetry) id: SpanId,
    pub(in crate::telemetry) parent: Option<SpanId>,
    /// Whether the parent is the caller's.
    pub(in crate::telemetry) is_remote: bool,
    pub(in crate::telemetry) name: Cow<'static, str>,
    pub(in crate::telemetry) kind: Kind,
    /// Since the Unix epoch.
    pub(in crate::telemetry) start: Duration,
    pub(in crate::telemetry) end: Duration,
    pub(in crate::telemetry) attributes: Vec<(&'static str, Value)>,
    pub(in crate::telemetry) failed: bool,
}

/// The place of a span, for what belongs below it.
#[derive(Clone, Debug)]
pub struct Scope {
    trace: Arc<Trace>,
    id: SpanId,
}

impl Scope {
    /// The trace.
    #[must_use]
    pub fn trace_id(&self) -> TraceId {
        self.trace.id
    }

    /// The span.
    #[must_use]
    pub fn span_id(&self) -> SpanId {
        self.id
    }

    /// The time since the Unix epoch, as the trace has it.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.trace.since_epoch + self.trace.started.elapsed()
    }

    /// Begins a span below this one; `None` when the trace has enough.
    pub fn child(&self, name: impl Into<Cow<'static, str>>, kind: Kind) -> Option<Span> {
        Span::new(&self.trace, Some(self.id), name.into(), kind)
    }
}

/// A span under way. It ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    scope: Scope,
    parent: Option<SpanId>,
    name: Cow<'static, str>,
    kind: Kind,
    started: Duration,
    attributes: Vec<(&'static str, Value)>,
    failed: bool,
}

impl Span {
    fn new(trace: &Arc<Trace>, parent: Option<SpanId>, name: Cow<'static, str>, kind: Kind) -> Option<Self> {
        if trace.begun.fetch_add(1, Ordering::Relaxed) >= MAX_SPANS {
            trace.recorder.counts.too_many.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let scope = Scope { trace: Arc::clone(trace), id: SpanId(rand::random::<u64>().max(1)) };
        let started = scope.now();
        Some(Self { scope, parent, name, kind, started, attributes: Vec::new(), failed: false })
    }

    /// Its place.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Gives it another name.
    pub fn rename(&mut self, name: impl Into<Cow<'static, str>>) {
        self.name = name.into();
    }

    /// Adds an attribute.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.attributes.push((name, value.into()));
    }

    /// Notes that it failed, for our reasons.
    pub fn fail(&mut self) {
        self.failed = true;
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let trace = &self.scope.trace;
        let ended = Ended {
            trace: trace.id,
            id: self.scope.id,
            parent: self.parent.or(trace.remote),
            is_remote: self.parent.is_none() && trace.remote.is_some(),
            name: std::mem::take(&mut self.name),
            kind: self.kind,
            start: self.started,
            end: self.scope.now(),
            attributes: std::mem::take(&mut self.attributes),
            failed: self.failed,
        };
        let end = ended.end;
        let mut spans = trace.ended.lock().unwrap_or_else(PoisonError::into_inner);
        spans.push(ended);
        let is_stale = spans.first().is_some_and(|first| end.saturating_sub(first.end) > STALE);
        if spans.len() >= GATHERED || self.kind == Kind::Server || is_stale {
            let gathered = std::mem::take(&mut *spans);
            drop(spans);
            trace.recorder.put(gathered);
        }
    }
}
