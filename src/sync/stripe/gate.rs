//! The gate through which workers ask Stripe, so that a Stripe that hangs costs little: one request at a time, each for
//! a few seconds at most, and none for a while after one that failed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::stripe::{StripeClient, StripeObject};

/// How long a worker waits for an answer, with retries and pauses. It does nothing else meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the gate stays closed after a request that failed.
const CLOSED: Duration = Duration::from_secs(30);

/// An object as the provider answered.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub object: Value,
    /// When it was asked for. The object is at least as new.
    pub asked_at: DateTime<Utc>,
}

/// The gate. The workers of a process share it; clones are the same gate.
#[derive(Clone, Debug)]
pub struct StripeGate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Arc<StripeClient>,
    slot: Arc<Semaphore>,
    closed_until: Mutex<Option<Instant>>,
}

/// Whether a worker may ask now.
pub enum Slot {
    /// Yes, with this permit.
    Free(Permit),
    /// No: another worker asks.
    Busy,
    /// No: a request has just failed.
    Closed,
}

/// The right to ask. Nobody else has it meanwhile.
pub struct Permit(Arc<Shared>, OwnedSemaphorePermit);

impl StripeGate {
    /// A gate before this client.
    #[must_use]
    pub fn new(client: Arc<StripeClient>) -> Self {
        Self(Arc::new(Shared { client, slot: Arc::new(Semaphore::new(1)), closed_until: Mutex::default() }))
    }

    /// Whether a worker may ask now. Returns at once.
    #[must_use]
    pub fn slot(&self) -> Slot {
        let until = *self.0.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_some_and(|until| Instant::now() < until) {
            return Slot::Closed;
        }
        match Arc::clone(&self.0.slot).try_acquire_owned() {
            Ok(permit) => Slot::Free(Permit(Arc::clone(&self.0), permit)),
            Err(_) => Slot::Busy,
        }
    }
}

impl Permit {
    /// The object as Stripe has it now, if it exists.
    ///
    /// # Errors
    /// Stripe could not be asked, refused, or took too long. Then [`Slot::Closed`] is the answer for a while.
    pub async fn object(self, object: &StripeObject, clock: &Clock) -> Result<Option<Fetched>> {
        let Self(shared, permit) = self;
        let asked_at = clock.now();
        let answer = match tokio::time::timeout(ANSWER_TIMEOUT, shared.client.object(object)).await {
            Ok(answer) => answer.map_err(Error::from),
            Err(_) => Err(Error::internal("Stripe could not be asked: it took too long")),
        };
        let until = answer.is_err().then(|| Instant::now() + CLOSED);
        *shared.closed_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
        // Release the slot after the gate is closed or open again.
        drop(permit);
        Ok(answer?.map(|object| Fetched { object, asked_at }))
    }
}
