//! What is counted of connections, in Prometheus' text format.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Listening;
use super::caps::Full;
use super::progress::Reason;

/// Why connections and requests are refused.
const REFUSED: [&str; 3] = ["connections", "address", "requests"];
/// How connections end.
const CLOSED: [&str; 8] = ["client", "unused", "slow_head", "idle", "slow_reader", "flood", "stopped", "error"];

/// The counters of a process.
#[derive(Debug, Default)]
pub(super) struct Counts {
    refused: [AtomicU64; REFUSED.len()],
    closed: [AtomicU64; CLOSED.len()],
}

/// How a connection ended.
pub(super) enum Ended {
    /// As the protocol has it, or the client went away.
    ByClient,
    /// We ended it.
    ByUs(Reason),
    /// The client broke the protocol, or the connection was lost.
    InError,
}

impl Counts {
    pub(super) fn refused(&self, full: Full) {
        let index = match full {
            Full::InAll => 0,
            Full::Address => 1,
        };
        self.refused[index].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn shed(&self) {
        self.refused[2].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self, ended: &Ended) {
        let index = match ended {
            Ended::ByClient => 0,
            Ended::ByUs(Reason::Unused) => 1,
            Ended::ByUs(Reason::SlowHead) => 2,
            Ended::ByUs(Reason::Idle) => 3,
            Ended::ByUs(Reason::SlowReader) => 4,
            Ended::ByUs(Reason::Flood) => 5,
            Ended::ByUs(Reason::Stopped) => 6,
            Ended::InError => 7,
        };
        self.closed[index].fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes the figures.
pub(super) fn render(text: &mut String, listening: &Listening) {
    let gauges =
        [("connections_open", listening.taken.connections()), ("requests_at_work", listening.taken.requests())];
    for (name, value) in gauges {
        *text += &format!("# TYPE tenantry_http_{name} gauge\ntenantry_http_{name} {value}\n");
    }
    let counts = &listening.counts;
    text.push_str("# TYPE tenantry_http_refused_total counter\n");
    for (cap, count) in REFUSED.iter().zip(&counts.refused) {
        *text += &format!("tenantry_http_refused_total{{cap=\"{cap}\"}} {}\n", count.load(Ordering::Relaxed));
    }
    text.push_str("# TYPE tenantry_http_connections_closed_total counter\n");
    for (why, count) in CLOSED.iter().zip(&counts.closed) {
        let count = count.load(Ordering::Relaxed);
        *text += &format!("tenantry_http_connections_closed_total{{why=\"{why}\"}} {count}\n");
    }
}
