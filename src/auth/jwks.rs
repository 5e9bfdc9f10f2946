//! Where the keys come from, and how their rotation is followed.
//!
//! A key set is cached and refreshed in the background. A token with an unknown key id makes us look for a newer set at
//! once, but rarely: anybody can write such a token, and each look is a request to the issuer. While the issuer is down,
//! the last set stays in use. The keys are fetched by a task of their own, so that a caller who hangs up does not stop it.

mod fetch;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use jsonwebtoken::jwk::{Jwk, JwkSet};
use tokio::time::Instant;

use super::keys::KeySet;
use super::verify::AuthSetupError;
use crate::error::{Error, Result};
use fetch::Remote;

/// Where the public keys are.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A JWK Set document (RFC 7517) at an https address; http is accepted for this machine's loopback only.
    Url(String),
    /// A JWK Set document in a file.
    File(PathBuf),
    /// These keys, for ever: the development issuer's.
    Keys(JwkSet),
}

/// How often keys are looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The least time between two looks on behalf of unknown key ids.
    pub(super) unknown_key: Duration,
    /// The age at which a set is refreshed.
    pub(super) refresh: Duration,
    /// The wait after a first failure; it doubles with each further one.
    pub(super) back_off: Duration,
    /// The longest wait after a failure.
    pub(super) back_off_limit: Duration,
    /// The time one fetch may take, from connecting to the last byte.
    pub(super) fetch: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            unknown_key: Duration::from_secs(10),
            refresh: Duration::from_mins(15),
            back_off: Duration::from_secs(1),
            back_off_limit: Duration::from_mins(1),
            fetch: Duration::from_secs(5),
        }
    }
}

enum Source {
    Remote(Box<Remote>),
    File(PathBuf),
    Fixed,
}

impl Source {
    /// For the log.
    fn name(&self) -> String {
        match self {
            Self::Remote(remote) => remote.name(),
            Self::File(path) => path.display().to_string(),
            Self::Fixed => "the development issuer".into(),
        }
    }
}

/// The current keys of one source.
pub(super) struct Jwks {
    inner: Arc<Inner>,
}

struct Inner {
    source: Source,
    pace: Pace,
    current: RwLock<Option<Arc<KeySet>>>,
    /// Held during a fetch, so that there is one at a time and the others wait for its result.
    flight: tokio::sync::Mutex<Flight>,
    /// Whether the task that refreshes the keys is running.
    refreshing: AtomicBool,
}

#[derive(Default)]
struct Flight {
    /// The last look on behalf of an unknown key id.
    looked_at: Option<Instant>,
    /// The last success.
    fetched_at: Option<Instant>,
    /// Failures since the last success.
    failures: u32,
    /// After a failure: not before.
    retry_at: Option<Instant>,
}

/// Why keys are fetched.
#[derive(Clone, Copy)]
enum Reason {
    /// There are none yet.
    First,
    /// A token names a key that the set of this generation lacks.
    UnknownKey(u64),
    /// The set is old, or the last fetch failed.
    Refresh,
}

impl Jwks {
    pub(super) fn new(source: &KeySource, pace: Pace) -> Result<Self, AuthSetupError> {
        let (source, current) = match source {
            KeySource::Url(url) => (Source::Remote(Box::new(Remote::new(url)?)), None),
            KeySource::File(path) => {
                // A wrong path is a mistake of the operator, who is looking now, at the start.
                let jwks = fetch::read_file(path)
                    .map_err(|reason| AuthSetupError::KeyFile { path: path.clone(), reason: reason.to_string() })?;
                (Source::File(path.clone()), Some(jwks))
            }
            KeySource::Keys(set) => (Source::Fixed, Some(set.keys.clone())),
        };
        let current = match current {
            None => None,
            Some(jwks) => Some(Arc::new(KeySet::new(jwks, 1).ok_or(AuthSetupError::NoUsableKey)?)),
        };
        let flight = Flight { fetched_at: current.is_some().then(Instant::now), ..Flight::default() };
        let jwks = Self {
            inner: Arc::new(Inner {
                source,
                pace,
                current: RwLock::new(current),
                flight: tokio::sync::Mutex::new(flight),
                refreshing: AtomicBool::new(false),
            }),
        };
        jwks.keep_fresh();
        Ok(jwks)
    }

    /// The keys that are at hand.
    pub(super) fn current(&self) -> Option<Arc<KeySet>> {
        self.keep_fresh();
        self.inner.current()
    }

    /// The keys; waits for the first fetch where there are none yet.
    pub(super) async fn first(&self) -> Result<Arc<KeySet>> {
        if let Some(keys) = self.current() {
            return Ok(keys);
        }
        self.fetch(Reason::First).await;
        self.inner.current().ok_or(Error::KeysUnavailable)
    }

    /// The keys after a look for a newer set than `seen`, which lacks a key that a token names.
    pub(super) async fn newer_than(&self, seen: Arc<KeySet>) -> Arc<KeySet> {
        let reason = Reason::UnknownKey(seen.generation());
        // Refusals at the rate an attacker chooses must not cost a task each.
        let pointless = self.inner.flight.try_lock().is_ok_and(|flight| !self.inner.wants(&flight, reason));
        if !pointless {
            self.fetch(reason).await;
        }
        self.inner.current().unwrap_or(seen)
    }

    async fn fetch(&self, reason: Reason) {
        let inner = Arc::clone(&self.inner);
        if let Err(error) = tokio::spawn(async move { inner.fetch(reason).await }).await {
            tracing::error!(%error, "fetching the signing keys broke off");
        }
    }

    /// Starts the task that refreshes the keys, where it is not running: it needs a tokio runtime, and ends with it.
    fn keep_fresh(&self) {
        let inner = &self.inner;
        if matches!(inner.source, Source::Fixed) || inner.refreshing.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && !inner.refreshing.swap(true, Ordering::Relaxed)
        {
            runtime.spawn(refresh(Running(Arc::downgrade(inner))));
        }
    }
}

/// Takes note when the refreshing task ends, however it ends.
struct Running(Weak<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.refreshing.store(false, Ordering::Relaxed);
        }
    }
}

/// Fetches the keys when they are due, until the verifier is dropped.
async fn refresh(running: Running) {
    loop {
        let Some(due) = (match running.0.upgrade() {
            Some(inner) => Some(inner.due().await),
            None => None,
        }) else {
            return;
        };
        tokio::time::sleep_until(due).await;
        let Some(inner) = running.0.upgrade() else { return };
        inner.fetch(Reason::Refresh).await;
    }
}

impl Inner {
    fn current(&self) -> Option<Arc<KeySet>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Time of the next refresh.
    async fn due(&self) -> Instant {
        self.due_of(&*self.flight.lock().await)
    }

    fn due_of(&self, flight: &Flight) -> Instant {
        match (flight.retry_at, flight.fetched_at) {
            (Some(retry), _) => retry,
            (None, Some(fetched)) => fetched + self.pace.refresh,
            (None, None) => Instant::now(),
        }
    }

    /// Whether a fetch for this reason is still wanted, now that the one before is done.
    fn wants(&self, flight: &Flight, reason: Reason) -> bool {
        if matches!(self.source, Source::Fixed) {
            return false;
        }
        match reason {
            Reason::First => self.current().is_none() && flight.retry_at.is_none_or(|at| at <= Instant::now()),
            Reason::UnknownKey(seen) => {
                self.current().is_none_or(|keys| keys.generation() == seen)
                    && flight.looked_at.is_none_or(|at| at.elapsed() >= self.pace.unknown_key)
            }
            Reason::Refresh => self.due_of(flight) <= Instant::now(),
        }
    }

    async fn fetch(&self, reason: Reason) {
        let mut flight = self.flight.lock().await;
        if !self.wants(&flight, reason) {
            return;
        }
        if matches!(reason, Reason::UnknownKey(_)) {
            flight.looked_at = Some(Instant::now());
        }
        let fetched = match &self.source {
            Source::Remote(remote) => remote.fetch(self.pace.fetch).await,
            Source::File(path) => fetch::read_file_async(path.clone()).await,
            Source::Fixed => return,
        };
        match fetched.and_then(|jwks| self.store(jwks)) {
            Ok(()) => {
                if flight.failures > 0 {
                    tracing::info!(failures = flight.failures, "the signing keys could be fetched again");
                }
                *flight = Flight { looked_at: flight.looked_at, fetched_at: Some(Instant::now()), ..Flight::default() };
            }
            Err(reason) => {
                let wait = self.back_off(flight.failures);
                flight.failures = flight.failures.saturating_add(1);
                flight.retry_at = Some(Instant::now() + wait);
                let stale = self.current().is_some();
                let (source, failures, retry_in) = (self.source.name(), flight.failures, wait);
                tracing::warn!(%reason, source, stale, failures, ?retry_in, "the signing keys could not be fetched");
            }
        }
    }

    /// Replaces the current set with a fetched one, unless they are equal or the fetched one has no usable key.
    fn store(&self, jwks: Vec<Jwk>) -> Result<(), fetch::FetchError> {
        let seen = self.current();
        if seen.as_ref().is_some_and(|keys| keys.has_same_keys(&jwks)) {
            return Ok(());
        }
        let generation = seen.map_or(1, |keys| keys.generation() + 1);
        let keys = KeySet::new(jwks, generation).ok_or(fetch::FetchError::NoUsableKey)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
        tracing::info!(generation, "the signing keys have changed");
        Ok(())
    }

    /// Exponential, with jitter, so that many instances do not return to a recovering issuer in step.
    fn back_off(&self, failures: u32) -> Duration {
        let wait = self.pace.back_off.saturating_mul(2_u32.saturating_pow(failures.min(16)));
        wait.min(self.pace.back_off_limit).mul_f64(rand::random_range(0.75..1.0))
    }
}
