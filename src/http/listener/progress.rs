//! What a connection is doing, and how long it may go on without getting further.
//!
//! hyper's own timeout for heads counts the time between two requests as well, and it knows nothing of readers that do not read.
//! So each connection has a [`Progress`]: what passes through its socket and its requests is told to it, and the task of the
//! connection asks it what is due ([`Progress::due`]).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long the phases of a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From the connection to its first byte; over HTTP/2 to its first request.
    pub unused: Duration,
    /// From the first byte of a head to its last. HTTP/1.1 only: over HTTP/2 `unused` and `idle` bound it.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// How long a client may read nothing of an answer that waits for it.
    pub stall: Duration,
    /// How long a client may read slower than [`Self::slowest`] on average.
    pub patience: Duration,
    /// Bytes per second.
    pub slowest: u64,
    /// Between two pings of a connection that speaks HTTP/2.
    pub ping: Duration,
    /// How long an answer to a ping may take.
    pub pong: Duration,
    /// How long a client that still sends may take to see our answer, after which nothing is read any more.
    pub linger: Duration,
    /// How long requests under way may take after a stop was asked for.
    pub grace: Duration,
    /// How often a WebSocket is sent a ping; a client of which nothing was heard, not even its pongs, for three times as long is gone.
    pub socket_ping: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            unused: Duration::from_secs(30),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(20),
            patience: Duration::from_mins(1),
            slowest: 1024,
            ping: Duration::from_secs(20),
            pong: Duration::from_secs(10),
            linger: Duration::from_secs(2),
            grace: Duration::from_secs(20),
            socket_ping: Duration::from_secs(30),
        }
    }
}

/// Why we end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing was asked.
    Unused,
    /// The head of a request did not arrive.
    SlowHead,
    /// Nothing more was asked.
    Idle,
    /// The client does not read.
    SlowReader,
    /// The frames of a client do nothing but keep us busy.
    Flood,
    /// The server stops.
    Stopped,
}

/// What is to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before then.
    At(Instant),
    /// It may end what it is about, and is to close.
    Close(Reason),
    /// It is to be cut off.
    Cut(Reason),
    /// It was told to close, and had its time.
    Over,
}

/// How long at most nobody looks at a connection of which nothing is due: requests of HTTP/2 end in other tasks.
const LOOK: Duration = Duration::from_secs(10);

/// What is written without a request: answers to pings and settings are no larger.
const SMALL_TALK: usize = 64;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// So many bytes of what HTTP/2 begins with have come.
    Unknown(usize),
    Http1,
    Http2,
}

/// No method of HTTP/1.1 begins like this: it is reserved for HTTP/2 (RFC 9113, section 3.4).
const HTTP2_BEGINS: &[u8] = b"PRI";

#[derive(Debug)]
struct State {
    accepted: Instant,
    protocol: Protocol,
    /// Requests whose answers are not out of our hands.
    in_flight: u32,
    /// Those of them that have given a piece of their answer and wait until it is taken.
    waiting: u32,
    /// When the last of them began to wait.
    waiting_since: Instant,
    /// Whether anything was asked.
    asked: bool,
    idle_since: Instant,
    /// When the first byte of the head came that is not whole yet.
    head_since: Option<Instant>,
    /// When the socket last took more than small talk.
    wrote: Instant,
    blocked: Option<Blocked>,
    /// The connection was told to close.
    closing: Option<Closing>,
    /// A request was answered before all of it came.
    unfinished: bool,
    expired: bool,
    reason: Option<Reason>,
}

/// The socket takes nothing: the client does not read.
#[derive(Debug)]
struct Blocked {
    /// When it last took something.
    moved: Instant,
    /// Since when `bytes` are counted.
    since: Instant,
    bytes: u64,
}

/// The connection was told to close.
#[derive(Clone, Copy, Debug)]
struct Closing {
    since: Instant,
    patience: Duration,
    /// Whether nothing is answered any more: what is under way gives no more time.
    shut: bool,
}

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Progress(Mutex<State>);

impl Progress {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(State {
            accepted: now,
            protocol: Protocol::Unknown(0),
            in_flight: 0,
            waiting: 0,
            waiting_since: now,
            asked: false,
            idle_since: now,
            head_since: None,
            wrote: now,
            blocked: None,
            closing: None,
            unfinished: false,
            expired: false,
            reason: None,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes have come. Says whether they are HTTP/2.
    pub(super) fn read(&self, bytes: &[u8], now: Instant) -> bool {
        let mut state = self.state();
        for byte in bytes {
            let Protocol::Unknown(seen) = state.protocol else { break };
            state.protocol = match HTTP2_BEGINS.get(seen) {
                Some(expected) if expected != byte => Protocol::Http1,
                _ if seen + 1 == HTTP2_BEGINS.len() => Protocol::Http2,
                _ => Protocol::Unknown(seen + 1),
            };
        }
        let is_http2 = state.protocol == Protocol::Http2;
        if !bytes.is_empty() && state.in_flight == 0 && !is_http2 {
            state.head_since.get_or_insert(now);
        }
        is_http2
    }

    /// The socket took bytes.
    pub(super) fn took(&self, bytes: usize, now: Instant) {
        let mut state = self.state();
        if bytes > SMALL_TALK {
            state.wrote = now;
        }
        if let Some(blocked) = &mut state.blocked
            && bytes > 0
        {
            blocked.moved = now;
            blocked.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        }
    }

    /// The socket takes nothing at the moment.
    pub(super) fn is_blocked(&self, now: Instant) {
        self.state().blocked.get_or_insert(Blocked { moved: now, since: now, bytes: 0 });
    }

    /// All that there was to write is in the socket.
    pub(super) fn flushed(&self, now: Instant) {
        let mut state = self.state();
        if state.blocked.take().is_some() {
            state.idle_since = now;
        }
    }

    /// The head of a request is here.
    pub(super) fn asked(&self) {
        let mut state = self.state();
        state.asked = true;
        state.in_flight += 1;
        state.head_since = None;
        state.unfinished = false;
    }

    /// The answer to a request is out of our hands.
    pub(super) fn answered(&self, now: Instant) {
        let mut state = self.state();
        state.in_flight = state.in_flight.saturating_sub(1);
        state.idle_since = now;
    }

    /// A piece of an answer waits until it is taken, or it does no more.
    pub(super) fn waits(&self, waits: bool, now: Instant) {
        let mut state = self.state();
        if waits {
            state.waiting += 1;
            state.waiting_since = now;
        } else {
            state.waiting = state.waiting.saturating_sub(1);
        }
    }

    /// A request was answered before all of it came: its sender is still writing.
    pub(super) fn answered_early(&self) {
        self.state().unfinished = true;
    }

    /// Whether to take in what the client still sends before the socket is closed. Closing a socket with unread bytes resets
    /// the connection, and the client loses the answer that it has not read yet (RFC 9112, section 9.6).
    pub(super) fn lingers(&self) -> bool {
        let state = self.state();
        // A head that is not whole: hyper has answered it with 400 or 431.
        state.unfinished || state.head_since.is_some() || state.protocol == Protocol::Http2
    }

    /// From now on the connection is closing: without requests under way it has `patience` to do so.
    pub(super) fn closes(&self, reason: Reason, patience: Duration, now: Instant) {
        let mut state = self.state();
        state.reason.get_or_insert(reason);
        state.closing.get_or_insert(Closing { since: now, patience, shut: false });
    }

    /// Our side is shut: what still comes is listened to for `patience`.
    pub(super) fn shuts(&self, patience: Duration, now: Instant) {
        self.state().closing = Some(Closing { since: now, patience, shut: true });
    }

    /// Whether the connection was told to close.
    pub(super) fn is_closing(&self) -> bool {
        self.state().closing.is_some()
    }

    /// Names why the connection ends, if nothing has yet.
    pub(super) fn ends(&self, reason: Reason) {
        self.state().reason.get_or_insert(reason);
    }

    /// Has the next read fail.
    pub(super) fn expire(&self) {
        self.state().expired = true;
    }

    pub(super) fn is_expired(&self) -> bool {
        self.state().expired
    }

    /// Whether anything has come.
    pub(super) fn was_heard(&self) -> bool {
        self.state().protocol != Protocol::Unknown(0)
    }

    /// Why we have ended the connection, if we have.
    pub(super) fn reason(&self) -> Option<Reason> {
        self.state().reason
    }

    /// What is due at this time.
    pub(super) fn due(&self, timeouts: &Timeouts, now: Instant) -> Due {
        let mut state = self.state();
        let (at, due) = state.next(timeouts, now);
        match due {
            Some(due) if at <= now => due,
            _ => Due::At(at),
        }
    }
}

impl State {
    /// When something is due, and what; or when to look again.
    fn next(&mut self, timeouts: &Timeouts, now: Instant) -> (Instant, Option<Due>) {
        if let Some(closing) = self.closing
            && (closing.shut || (self.in_flight == 0 && self.blocked.is_none()))
        {
            let since = if closing.shut { closing.since } else { closing.since.max(self.idle_since) };
            return (since + closing.patience, Some(Due::Over));
        }
        let slow = Due::Cut(Reason::SlowReader);
        if let Some(blocked) = &mut self.blocked {
            let enough = timeouts.slowest * timeouts.patience.as_secs().max(1);
            if now >= blocked.since + timeouts.patience && blocked.bytes >= enough {
                (blocked.since, blocked.bytes) = (now, 0);
            }
            let judged = if blocked.bytes < enough { blocked.since + timeouts.patience } else { now + LOOK };
            return ((blocked.moved + timeouts.stall).min(judged), Some(slow));
        }
        if self.in_flight > 0 {
            // Over HTTP/2 it is not the socket that a client fills by not reading, but the windows of its streams. One of them
            // may rest, not all at once.
            return if self.protocol == Protocol::Http2 && self.waiting >= self.in_flight {
                (self.wrote.max(self.waiting_since) + timeouts.stall, Some(slow))
            } else {
                (now + LOOK, None)
            };
        }
        if let Some(since) = self.head_since {
            return (since + timeouts.head, Some(Due::Cut(Reason::SlowHead)));
        }
        if self.asked {
            // What HTTP/2 has still to write belongs to no request any more.
            let since =
                if self.protocol == Protocol::Http2 { self.idle_since.max(self.wrote) } else { self.idle_since };
            (since + timeouts.idle, Some(Due::Close(Reason::Idle)))
        } else {
            (self.accepted + timeouts.unused, Some(Due::Close(Reason::Unused)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What is due at each of these seconds.
    fn due(progress: &Progress, start: Instant, seconds: &[u32]) -> Vec<Option<Due>> {
        let at = |second| progress.due(&Timeouts::default(), start + SECOND * second);
        seconds.iter().map(|second| Some(at(*second)).filter(|due| !matches!(due, Due::At(_)))).collect()
    }

    #[test]
    fn phases_of_a_connection_end() {
        let start = Instant::now();
        let after = |seconds: u32| start + SECOND * seconds;
        let progress = Progress::new(start);
        assert_eq!(due(&progress, start, &[29, 30]), [None, Some(Due::Close(Reason::Unused))]);
        // A head counts from its first byte, and more bytes give no more time.
        progress.read(b"G", after(20));
        progress.read(b"ET / HTTP/1.1\r\n", after(29));
        assert_eq!(due(&progress, start, &[29, 30]), [None, Some(Due::Cut(Reason::SlowHead))]);
        progress.asked();
        assert_eq!(due(&progress, start, &[30, 100_000]), [None, None], "a stream may live for ever");
        progress.answered(after(40));
        assert_eq!(due(&progress, start, &[114, 115]), [None, Some(Due::Close(Reason::Idle))]);
        progress.closes(Reason::Idle, SECOND * 2, after(115));
        assert_eq!(due(&progress, start, &[116, 117]), [None, Some(Due::Over)]);
        // What was asked at the last moment is answered.
        progress.asked();
        assert_eq!(due(&progress, start, &[117, 1000]), [None, None]);
        progress.answered(after(1000));
        assert_eq!(due(&progress, start, &[1001, 1002]), [None, Some(Due::Over)]);
    }

    #[test]
    fn readers_that_do_not_read_are_cut_off() {
        let start = Instant::now();
        let after = |seconds: u32| start + SECOND * seconds;
        let cut = Some(Due::Cut(Reason::SlowReader));
        let progress = Progress::new(start);
        progress.read(b"GET", start);
        progress.asked();
        progress.is_blocked(start);
        assert_eq!(due(&progress, start, &[19, 20]), [None, cut]);
        progress.took(100, after(15));
        assert_eq!(due(&progress, start, &[34, 35]), [None, cut]);
        // Bytes now and then are not enough: 1 KiB a second over a minute.
        for second in [30, 45, 59] {
            progress.took(100, after(second));
        }
        assert_eq!(due(&progress, start, &[59, 60]), [None, cut]);
        progress.took(100_000, after(59));
        assert_eq!(due(&progress, start, &[60, 78, 79]), [None, None, cut], "and the next minute begins");
        progress.flushed(after(79));
        assert_eq!(due(&progress, start, &[10_000]), [None]);
    }

    #[test]
    fn streams_of_http_2_that_are_not_read_are_cut_off() {
        let start = Instant::now();
        let after = |seconds: u32| start + SECOND * seconds;
        let progress = Progress::new(start);
        assert!(!progress.read(b"PR", start) && progress.read(b"I * HTTP/2.0", start));
        progress.asked();
        progress.asked();
        progress.waits(true, after(5));
        assert_eq!(due(&progress, start, &[1000]), [None], "the other request is at work");
        progress.waits(true, after(6));
        assert_eq!(due(&progress, start, &[25, 26]), [None, Some(Due::Cut(Reason::SlowReader))]);
        progress.took(1000, after(20));
        assert_eq!(due(&progress, start, &[39, 40]), [None, Some(Due::Cut(Reason::SlowReader))]);
        progress.waits(false, after(39));
        assert_eq!(due(&progress, start, &[1000]), [None]);
        // Pings are no reason to stay.
        progress.answered(after(50));
        progress.answered(after(50));
        progress.read(b"a ping", after(100));
        progress.took(17, after(100));
        assert_eq!(due(&progress, start, &[124, 125]), [None, Some(Due::Close(Reason::Idle))]);
    }
}
