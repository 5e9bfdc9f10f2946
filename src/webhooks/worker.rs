//! The worker: takes events from the inbox and applies them, each exactly once.
//!
//! Any number of workers, in any number of processes, share the inbox. They take rows with `for update skip locked` and
//! keep them locked until the transaction that holds the effect and the new status commits; a worker that dies leaves
//! nothing behind. Several events share a transaction as long as all goes well. When one fails, waits for another
//! worker's lock or needs an answer from the provider, the transaction is rolled back and each event gets its own, slow
//! ones last: a failing event costs the others of its batch only that, and other workers go on. At most one worker of a
//! process waits for a provider, and not for long ([`StripeGate`]).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use rand::RngExt as _;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::db::{SystemTx, listening};
use crate::error::{Error, Result};
use crate::events::{self, Event};
use crate::id::{OrganizationId, WebhookEventId};
use crate::stripe::StripeObject;
use crate::sync::apply::{ApplyContext, EventOutcome, Fetched, InboxEvent, Slot, StripeGate, apply};
use crate::webhook_events::sql::CHANNEL;
use crate::webhook_events::{WebhookSource, WebhookStatus};
use crate::webhooks::receive::NO_TYPE;
use crate::webhooks::{Webhooks, queue};

/// Most events of one transaction.
const BATCH: i64 = 32;
/// Most bytes of bodies of one transaction. One event is always taken.
const BATCH_BYTES: i64 = 4 << 20;
/// How often a worker looks for events that are due without being woken, while nobody listens for it.
const POLL: Duration = Duration::from_secs(1);
/// The same while this process hears of every event: what is left are events of a process that died before their next
/// attempt.
const QUIET: Duration = Duration::from_secs(30);
/// How long a worker waits when it cannot reach the database.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one event may take. Statements have their own, shorter timeouts ([`queue`]).
const TIMEOUT: Duration = Duration::from_secs(20);
/// Attempts after which an event is DEAD. With the delays below that takes about three hours, at least two.
pub const MAX_ATTEMPTS: i32 = 15;
/// How long one step spends on slow events.
const SLOW: Duration = Duration::from_secs(5);
/// How long an event is put off when another worker asks Stripe.
const PUT_OFF: chrono::Duration = chrono::Duration::seconds(1);
/// How often an attempt that collided with another transaction is repeated at once.
const COLLISIONS: u32 = 5;

/// A worker.
#[derive(Clone)]
pub struct Worker {
    webhooks: Arc<Webhooks>,
    stripe: Option<StripeGate>,
    wake: Arc<Notify>,
    /// Whether this process hears of events that other processes store.
    hears: Arc<AtomicBool>,
}

/// An event and what became of it.
struct WorkedEvent {
    event: InboxEvent,
    status: WebhookStatus,
    reason: Option<&'static str>,
    organization: Option<OrganizationId>,
    finding: Option<String>,
}

/// How long the statements of a transaction may take, and wait for locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeouts {
    /// While other events wait.
    Short,
    /// When no event of the batch waits.
    Long,
}

/// Why the events of a batch must be applied one by one.
enum BatchBreak {
    /// The transaction is broken.
    Failed(Error),
    /// The provider must be asked for this object first.
    Refetch(StripeObject),
}

impl Worker {
    /// A worker on this inbox.
    #[must_use]
    pub fn new(webhooks: &Arc<Webhooks>) -> Self {
        let stripe = webhooks.settings.sync.stripe_client().unwrap_or_else(|error| {
            // Ties are then decided without Stripe, which is better than no webhooks.
            tracing::error!(reason = reason(&error), "Stripe cannot be asked");
            None
        });
        Self {
            webhooks: Arc::clone(webhooks),
            stripe: stripe.map(StripeGate::new),
            wake: webhooks.inbox.wake(),
            hears: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Works until `stop` turns true, and finishes the step under way.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let pause = match self.step().await {
                // There may be more, and other workers may help.
                Ok(done) if done > 0 => {
                    self.wake.notify_one();
                    continue;
                }
                Ok(_) => self.until_due().await,
                Err(error) => {
                    tracing::warn!(%error, "the webhook worker cannot work; trying again");
                    PAUSE
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    }

    /// Listens for events that other processes store, until `stop` turns true. Reconnects when the database is back.
    pub async fn listen(self, options: PgConnectOptions, mut stop: watch::Receiver<bool>) {
        let options = options.application_name("tenantry-webhooks-listen");
        let begun = || {
            self.hears.store(true, Ordering::Relaxed);
            // Events may have come while nobody listened.
            self.wake.notify_one();
        };
        let listening = async {
            loop {
                let Err(error) = listening::listen(&options, CHANNEL, begun, || self.wake.notify_one()).await;
                self.hears.store(false, Ordering::Relaxed);
                // A worker that sleeps until something is heard must look more often now.
                self.wake.notify_waiters();
                tracing::warn!(%error, "listening for webhooks failed; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = listening => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// How long until the next event is due.
    async fn until_due(&self) -> Duration {
        let longest = if self.hears.load(Ordering::Relaxed) { QUIET } else { POLL };
        let next = self.webhooks.db.system_statement(|mut conn| async move { queue::next_due(&mut conn).await }).await;
        match next {
            Ok(Some(due)) => {
                (due - self.webhooks.clock.now()).to_std().unwrap_or(Duration::from_millis(20)).min(longest)
            }
            Ok(None) => longest,
            Err(_) => POLL,
        }
    }

    /// Works on events that are due, at most one batch. Returns how many.
    ///
    /// # Errors
    /// The database cannot be reached. What happens to an event is written to its row instead.
    pub async fn step(&self) -> Result<usize> {
        let mut tx = SystemTx::begin(&self.webhooks.db).await?;
        let events = queue::claim(&mut tx, self.webhooks.clock.now(), BATCH, BATCH_BYTES).await?;
        let count = events.len();
        if count == 0 {
            return Ok(0);
        }
        let mut ids: Vec<WebhookEventId> = events.iter().map(|event| event.id).collect();
        let mut done = Vec::with_capacity(count);
        for event in events {
            match self.apply(&mut tx, event, None, self.stripe.is_some()).await {
                Ok(applied) => done.push(applied),
                Err(_) => break,
            }
        }
        if done.len() < count {
            // Release the locks first: claiming one of these events skips locked rows.
            tx.rollback().await?;
        } else if self.finish(tx, &done).await.is_ok() {
            return Ok(count);
        }
        // The whole batch waits again, and other workers may take from it.
        self.wake.notify_one();
        // The event that broke the batch comes last.
        if done.len() < count {
            let broken = ids.remove(done.len());
            ids.push(broken);
        }
        // So do slow events, of which there may be others.
        let mut slow = Vec::new();
        for id in ids {
            if !self.one(id, Timeouts::Short).await? {
                slow.push(id);
            }
        }
        let began = Instant::now();
        for id in slow {
            if began.elapsed() < SLOW {
                self.one(id, Timeouts::Long).await?;
            } else {
                let mut tx = SystemTx::begin(&self.webhooks.db).await?;
                if queue::claim_one(&mut tx, id, Timeouts::Short).await?.is_some() {
                    self.put_off(tx, id).await?;
                }
            }
        }
        Ok(count)
    }

    /// Works on one event in its own transactions. Returns `false` when the event needs longer timeouts.
    async fn one(&self, id: WebhookEventId, timeouts: Timeouts) -> Result<bool> {
        let mut fetched = None;
        let mut can_refetch = self.stripe.is_some();
        let mut collisions = 0;
        loop {
            let mut tx = SystemTx::begin(&self.webhooks.db).await?;
            // Otherwise another worker has it or has finished it.
            let Some(event) = queue::claim_one(&mut tx, id, timeouts).await? else { return Ok(true) };
            let head = (event.source, event.event_type.clone(), event.received_at, event.attempts);
            let error = match self.apply(&mut tx, event, fetched.as_ref(), can_refetch).await {
                Ok(done) => match self.finish(tx, &[done]).await {
                    Ok(()) => return Ok(true),
                    Err(error) => error,
                },
                Err(BatchBreak::Failed(error)) => {
                    // Otherwise the lock on the row would block writing the failure. A broken connection holds no
                    // locks.
                    tx.rollback().await.ok();
                    error
                }
                Err(BatchBreak::Refetch(_)) if timeouts == Timeouts::Short => {
                    tx.rollback().await?;
                    return Ok(false);
                }
                Err(BatchBreak::Refetch(object)) => match self.stripe.as_ref().map(StripeGate::slot) {
                    Some(Slot::Free(permit)) => {
                        // No transaction is open while Stripe is asked.
                        tx.rollback().await?;
                        can_refetch = false;
                        match permit.object(&object, &self.webhooks.clock).await {
                            Ok(object) => {
                                fetched = object;
                                continue;
                            }
                            Err(error) => error,
                        }
                    }
                    Some(Slot::Busy) => {
                        self.put_off(tx, id).await?;
                        return Ok(true);
                    }
                    Some(Slot::Closed) | None => {
                        tx.rollback().await?;
                        Error::internal("Stripe cannot be asked: it did not answer a moment ago")
                    }
                },
            };
            if matches!(error, Error::Unavailable) {
                return Err(error);
            }
            if timeouts == Timeouts::Short && (collided(&error) || matches!(error, Error::Timeout)) {
                return Ok(false);
            }
            if collided(&error) && collisions < COLLISIONS {
                collisions += 1;
                let pause = rand::rng().random_range(1..20);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                continue;
            }
            self.failed(id, head, &error).await?;
            return Ok(true);
        }
    }

    /// Puts off an event that this transaction holds. That is not an attempt.
    async fn put_off(&self, mut tx: SystemTx, id: WebhookEventId) -> Result<()> {
        queue::put_off(&mut tx, id, self.webhooks.clock.now() + PUT_OFF).await?;
        tx.commit().await
    }

    /// Applies an event, and catches panics and timeouts.
    async fn apply(
        &self,
        tx: &mut SystemTx,
        event: InboxEvent,
        fetched: Option<&Fetched>,
        can_refetch: bool,
    ) -> Result<WorkedEvent, BatchBreak> {
        if event.event_type == NO_TYPE {
            let reason = Some("the event names no type");
            let (status, organization, finding) = (WebhookStatus::Ignored, None, None);
            return Ok(WorkedEvent { event, status, reason, organization, finding });
        }
        let context =
            ApplyContext { clock: &self.webhooks.clock, settings: &self.webhooks.settings.sync, fetched, can_refetch };
        let applied = AssertUnwindSafe(apply(tx, &context, &event)).catch_unwind();
        let outcome = match tokio::time::timeout(TIMEOUT, applied).await {
            Ok(Ok(outcome)) => outcome.map_err(BatchBreak::Failed)?,
            Ok(Err(_)) => return Err(BatchBreak::Failed(Error::internal("the code that applies it panicked"))),
            Err(_) => return Err(BatchBreak::Failed(Error::Timeout)),
        };
        match outcome {
            EventOutcome::Applied { organization, finding } => {
                Ok(WorkedEvent { event, status: WebhookStatus::Applied, reason: None, organization, finding })
            }
            EventOutcome::Ignored { reason, organization } => {
                let (status, reason) = (WebhookStatus::Ignored, Some(reason));
                Ok(WorkedEvent { event, status, reason, organization, finding: None })
            }
            // It keeps its status and is claimed again.
            EventOutcome::More => {
                let (status, organization) = (WebhookStatus::Received, None);
                Ok(WorkedEvent { event, status, reason: None, organization, finding: None })
            }
            EventOutcome::Refetch(object) if can_refetch => Err(BatchBreak::Refetch(object)),
            EventOutcome::Refetch(_) => Err(BatchBreak::Failed(Error::internal("the provider cannot be asked"))),
        }
    }

    /// Writes what became of the events, notifies subscribers, and commits.
    async fn finish(&self, mut tx: SystemTx, done: &[WorkedEvent]) -> Result<()> {
        let now = self.webhooks.clock.now();
        let settled: Vec<queue::ProcessedEvent<'_>> = done
            .iter()
            .filter(|done| done.status != WebhookStatus::Received)
            .map(|done| queue::ProcessedEvent {
                id: done.event.id,
                status: done.status,
                reason: done.reason,
                organization: done.organization,
                finding: done.finding.as_deref(),
            })
            .collect();
        let written = async {
            let organizations = queue::mark_processed(&mut tx, &settled, now).await?;
            let told: Vec<(OrganizationId, Event)> =
                organizations.into_iter().map(|(id, organization)| (organization, Event::of(id))).collect();
            events::tell(&mut tx, &told).await
        };
        if let Err(error) = written.await {
            tx.rollback().await.ok();
            return Err(error);
        }
        tx.commit().await?;
        for WorkedEvent { event, status, .. } in done {
            self.webhooks.metrics.worked(event.source, &event.event_type, *status, event.received_at, now);
        }
        Ok(())
    }

    /// Writes that an event failed, and when the next attempt is due.
    async fn failed(
        &self,
        id: WebhookEventId,
        (source, event_type, received_at, attempts): (WebhookSource, String, DateTime<Utc>, i32),
        error: &Error,
    ) -> Result<()> {
        let now = self.webhooks.clock.now();
        let attempts = attempts + 1;
        let status = if attempts >= MAX_ATTEMPTS { WebhookStatus::Dead } else { WebhookStatus::Failed };
        let reason = reason(error);
        tracing::warn!(%id, ?source, event_type, attempts, reason, ?status, "a webhook event failed");
        let mut tx = SystemTx::begin(&self.webhooks.db).await?;
        // The cause may name constraints, ids or addresses of other tenants. A tenant must not see it.
        let told = format!("it could not be applied; tell support the id {id}");
        let failure = queue::FailedAttempt {
            id,
            status,
            cause: &reason,
            told: &told,
            next_attempt_at: now + delay(attempts),
            now,
        };
        let organization = queue::fail(&mut tx, &failure).await?;
        if let Some(organization) = organization.flatten() {
            events::tell(&mut tx, &[(organization, Event::of(id))]).await?;
        }
        tx.commit().await?;
        self.webhooks.metrics.worked(source, &event_type, status, received_at, now);
        Ok(())
    }
}

/// The delay after this many failures: 2 s, 4 s … at most an hour, shortened by up to half at random, so that events
/// which failed together are not retried together.
fn delay(attempts: i32) -> chrono::Duration {
    let exponent = u32::try_from(attempts).unwrap_or(1).min(12);
    let longest = 2_i64.saturating_pow(exponent).min(3600) * 1000;
    chrono::Duration::milliseconds(rand::rng().random_range(longest / 2..=longest))
}

/// The cause that the row keeps for operators. For an internal error that is its source.
fn reason(error: &Error) -> String {
    let text = match error {
        Error::Internal(cause) => cause.to_string(),
        other => other.to_string(),
    };
    text.chars().filter(|c| *c != '\0').take(500).collect()
}

/// Whether the attempt collided with another transaction (SQLSTATE 40001, 40P01, 55P03). That says nothing of the
/// event.
fn collided(error: &Error) -> bool {
    let Error::Internal(cause) = error else { return false };
    let Some(sqlx::Error::Database(database)) = cause.downcast_ref::<sqlx::Error>() else { return false };
    matches!(database.code().as_deref(), Some("40001" | "40P01" | "55P03"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_end() {
        for attempts in 1..=40_i32 {
            let (longest, delay) = (2_i64.saturating_pow(attempts.min(12).unsigned_abs()).min(3600), delay(attempts));
            assert!(delay.num_milliseconds() <= longest * 1000 && delay.num_milliseconds() >= longest * 500);
        }
        // What the README promises: about three hours, two at least.
        let longest: i64 = (1..MAX_ATTEMPTS).map(|n| 2_i64.pow(n.unsigned_abs()).min(3600)).sum();
        assert!(longest / 2 >= 2 * 3600, "{longest}");
        assert!((150..=200).contains(&(longest * 3 / 4 / 60)), "{longest}");
    }

    #[test]
    fn reasons_are_short_and_storable() {
        assert_eq!(reason(&Error::internal("a\0b")), "ab");
        assert_eq!(reason(&Error::internal("é".repeat(1000))).chars().count(), 500);
    }
}
