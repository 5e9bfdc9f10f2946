//! How many connections and requests there may be at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Listening;
use crate::network::host_of;

/// The most there may be at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one client address; the operator's own proxies are not bound by it.
    pub per_address: usize,
    /// Requests that are worked on.
    pub requests: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self { connections: 8192, per_address: 1024, requests: 1024 }
    }
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// There are too many.
    InAll,
    /// There are too many from its address.
    Address,
}

/// Connections and requests as they are counted.
#[derive(Debug, Default)]
pub(super) struct Taken {
    connections: AtomicUsize,
    addresses: Mutex<HashMap<IpAddr, usize>>,
    at_work: AtomicUsize,
}

impl Taken {
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn requests(&self) -> usize {
        self.at_work.load(Ordering::Relaxed)
    }
}

/// The place of a connection; free again when it is dropped.
pub(super) struct Slot {
    listening: Arc<Listening>,
    address: Option<IpAddr>,
}

impl Slot {
    /// A place for a connection from this address.
    pub(super) fn take(listening: &Arc<Listening>, peer: IpAddr) -> Result<Self, Full> {
        let address = Some(host_of(peer)).filter(|_| !listening.is_proxy(peer));
        if let Some(address) = address {
            let mut addresses = listening.taken.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            let count = addresses.entry(address).or_default();
            if *count >= listening.caps.per_address {
                return Err(Full::Address);
            }
            *count += 1;
        }
        // Gives the address back when there is no place.
        let slot = Self { listening: Arc::clone(listening), address };
        let before = listening.taken.connections.fetch_add(1, Ordering::Relaxed);
        if before >= listening.caps.connections { Err(Full::InAll) } else { Ok(slot) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.listening.taken.connections.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let mut addresses = self.listening.taken.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = addresses.entry(address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// A request that is worked on. While it waits for its client it does not count: whoever sends slowly takes nobody's place.
pub(super) struct Work {
    listening: Arc<Listening>,
    rests: bool,
}

impl Work {
    /// A place for a request, if there is one.
    pub(super) fn begin(listening: &Arc<Listening>) -> Option<Self> {
        let before = listening.taken.at_work.fetch_add(1, Ordering::Relaxed);
        // Gives the place back when it is dropped.
        let work = Self { listening: Arc::clone(listening), rests: false };
        (before < listening.caps.requests).then_some(work)
    }

    /// The request waits for its client, or does no more.
    pub(super) fn rest(&mut self, rests: bool) {
        if self.rests != rests {
            self.rests = rests;
            let at_work = &self.listening.taken.at_work;
            if rests {
                at_work.fetch_sub(1, Ordering::Relaxed)
            } else {
                at_work.fetch_add(1, Ordering::Relaxed)
            };
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.rest(true);
    }
}

/// How many files this process may have open, as Linux tells it; a connection is one of them.
#[must_use]
pub fn open_files() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(caps: Caps) -> Arc<Listening> {
        Arc::new(Listening::new(caps, ["10.0.0.0/8".parse().expect("a network")].into()))
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let listening = listening(Caps { connections: 3, per_address: 2, requests: 1 });
        let take = |address: &str| Slot::take(&listening, address.parse().expect("an address"));
        let one = take("203.0.113.9").map_err(drop).expect("a place");
        let _mapped = take("::ffff:203.0.113.9").map_err(drop).expect("a place");
        assert_eq!(take("203.0.113.9").err(), Some(Full::Address));
        let _v6 = take("2001:db8::1").map_err(drop).expect("a place");
        assert_eq!(take("2001:db8::2").err(), Some(Full::InAll));
        assert_eq!(listening.taken.connections(), 3);
        drop(one);
        let _again = take("2001:db8::ffff:1").map_err(drop).expect("a place");
        assert_eq!(take("2001:db8::3").err(), Some(Full::Address), "the same network");
        assert_eq!(listening.taken.addresses.lock().expect("addresses").len(), 2);
    }

    #[test]
    fn proxies_have_many_connections() {
        let listening = listening(Caps { connections: 9, per_address: 1, requests: 1 });
        let slots: Vec<_> = (0..9).map_while(|_| Slot::take(&listening, [10, 0, 0, 1].into()).ok()).collect();
        assert_eq!(slots.len(), 9);
    }

    #[test]
    fn requests_that_wait_for_their_clients_take_no_place() {
        let listening = listening(Caps { requests: 1, ..Caps::default() });
        let mut slow = Work::begin(&listening).expect("a place");
        assert!(Work::begin(&listening).is_none());
        slow.rest(true);
        let other = Work::begin(&listening).expect("a place");
        slow.rest(false);
        drop(other);
        assert!(Work::begin(&listening).is_none());
        slow.rest(true);
        drop(slow);
        assert_eq!(listening.taken.requests(), 0);
    }
}
