//! Asking Stripe on behalf of the workers, so that a Stripe that hangs costs little: one question at a time, each for a
//! few seconds at most, and after one that failed none for a while.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::sync::stripe::client::StripeClient;

/// How long a worker waits for an answer, tries and pauses included: a worker that waits does nothing else.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing is asked after a question that failed.
const AWAY: Duration = Duration::from_secs(30);

/// An object as the provider had it.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The object.
    pub object: Value,
    /// When it was asked for: it is at least as new as this.
    pub asked_at: DateTime<Utc>,
}

/// What the workers of a process share to ask Stripe. Clones are the same.
#[derive(Clone, Debug)]
pub struct Asking(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Arc<StripeClient>,
    turn: Arc<Semaphore>,
    away_until: Mutex<Option<Instant>>,
}

/// Whether a question may be asked now.
pub enum Turn {
    /// It may.
    Yours(Question),
    /// Another worker asks.
    Busy,
    /// A question has just failed.
    Away,
}

/// The right to ask, which nobody else has meanwhile.
pub struct Question(Arc<Shared>, OwnedSemaphorePermit);

impl Asking {
    /// With this client.
    #[must_use]
    pub fn new(client: Arc<StripeClient>) -> Self {
        Self(Arc::new(Shared { client, turn: Arc::new(Semaphore::new(1)), away_until: Mutex::default() }))
    }

    /// Whether a question may be asked now. Comes back at once.
    #[must_use]
    pub fn turn(&self) -> Turn {
        let until = *self.0.away_until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_some_and(|until| Instant::now() < until) {
            return Turn::Away;
        }
        match Arc::clone(&self.0.turn).try_acquire_owned() {
            Ok(permit) => Turn::Yours(Question(Arc::clone(&self.0), permit)),
            Err(_) => Turn::Busy,
        }
    }
}

impl Question {
    /// The subscription as Stripe has it now; `None` when it has none such.
    ///
    /// # Errors
    /// Stripe could not be asked, refused, or took too long. Then [`Turn::Away`] is the answer for a while.
    pub async fn subscription(self, id: &str, clock: &Clock) -> Result<Option<Fetched>> {
        let Self(shared, permit) = self;
        let asked_at = clock.now();
        let answer = match tokio::time::timeout(PATIENCE, shared.client.subscription(id)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::internal("Stripe could not be asked: it took too long")),
        };
        let until = answer.is_err().then(|| Instant::now() + AWAY);
        *shared.away_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
        // The next may ask, and knows how this went.
        drop(permit);
        Ok(answer?.map(|object| Fetched { object, asked_at }))
    }
}
