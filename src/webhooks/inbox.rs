//! The inbox: stores a verified event durably before its sender gets `200`.
//!
//! Deliveries that arrive during an insert wait and share the next one: one statement, one commit and one round trip
//! for all of them. A repeated event changes nothing. After a commit the workers of this process are woken at once,
//! those of other processes by NOTIFY, at most once in `WAKE_EVERY`: every NOTIFY makes commits wait for one another.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use crate::clock::Clock;
use crate::db::{Conn, Db};
use crate::error::{Error, Result};
use crate::id::{Id, WebhookEventId};
use crate::webhook_events::WebhookSource;
use crate::webhook_events::sql::CHANNEL;

/// Concurrent inserts: while one waits for the disk, the next gathers.
const WRITERS: usize = 2;
/// Most events of one insert, and most bytes.
const BATCH: usize = 128;
const BATCH_BYTES: usize = 4 << 20;
/// Most bytes that wait for an insert. Further deliveries are rejected, so that memory stays bounded when the database
/// is away.
const WAITING_BYTES: usize = 64 << 20;
/// How long a delivery waits for its insert.
const STORE_TIMEOUT: Duration = Duration::from_secs(8);
/// Shortest time between two NOTIFYs.
const WAKE_EVERY: Duration = Duration::from_millis(10);

/// An event to store.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Who sent it.
    pub source: WebhookSource,
    /// The sender's id of the event.
    pub event_id: String,
    /// The sender's type of the event.
    pub event_type: String,
    /// The sender's id of what the event is about.
    pub object_id: Option<String>,
    /// The bytes as they came.
    pub raw_body: Bytes,
    /// When the sender made it.
    pub created_at: Option<DateTime<Utc>>,
    /// When it came.
    pub received_at: DateTime<Utc>,
}

/// The way into the inbox. Clones share their inserts.
#[derive(Clone, Debug)]
pub struct Inbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    db: Db,
    clock: Clock,
    queue: Mutex<Queue>,
    /// Wakes a worker of this process.
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    writers: usize,
    notifying: bool,
    notify_again: bool,
}

#[derive(Debug)]
struct Waiting {
    id: WebhookEventId,
    delivery: Delivery,
    /// Receives whether the event was new.
    told: oneshot::Sender<Result<bool>>,
}

impl Inbox {
    /// An inbox in this database.
    #[must_use]
    pub fn new(db: Db, clock: Clock) -> Self {
        Self(Arc::new(Shared { db, clock, queue: Mutex::default(), wake: Arc::default() }))
    }

    /// Wakes the workers of this process.
    #[must_use]
    pub fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.0.wake)
    }

    /// Stores an event durably. Returns `false` when it was stored before.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it was not stored in time. It may be stored later; a repetition is harmless.
    pub async fn store(&self, delivery: Delivery) -> Result<bool> {
        let (told, hear) = oneshot::channel();
        let waiting = Waiting { id: Id::new(&self.0.clock), delivery, told };
        let start = {
            let mut queue = self.0.queue();
            if queue.bytes > WAITING_BYTES {
                return Err(Error::Unavailable);
            }
            queue.bytes += waiting.delivery.raw_body.len();
            queue.waiting.push_back(waiting);
            let start = queue.writers < WRITERS;
            queue.writers += usize::from(start);
            start
        };
        if start {
            // In a task: a sender that hangs up must not cancel the insert of others.
            tokio::spawn(Arc::clone(&self.0).write());
        }
        match tokio::time::timeout(STORE_TIMEOUT, hear).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(Error::Unavailable),
        }
    }
}

impl Shared {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Inserts batches until nothing waits.
    async fn write(self: Arc<Self>) {
        while let Some(batch) = self.next() {
            // Senders do not wait longer than this.
            let stored =
                tokio::time::timeout(STORE_TIMEOUT, self.insert(&batch)).await.unwrap_or(Err(Error::Unavailable));
            let stored = match stored {
                // One value that the database rejects must not cost the others.
                Err(error) if batch.len() > 1 && !matches!(error, Error::Unavailable | Error::Timeout) => {
                    for waiting in batch {
                        let alone = [waiting];
                        let stored = self.insert(&alone).await;
                        tell(alone, &stored);
                    }
                    continue;
                }
                stored => stored,
            };
            tell(batch, &stored);
        }
    }

    /// The next batch. When nothing waits: `None`, and one writer less.
    fn next(&self) -> Option<Vec<Waiting>> {
        let mut queue = self.queue();
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < BATCH
            && let Some(waiting) = queue.waiting.front()
            && (batch.is_empty() || bytes + waiting.delivery.raw_body.len() <= BATCH_BYTES)
        {
            bytes += waiting.delivery.raw_body.len();
            batch.extend(queue.waiting.pop_front());
        }
        queue.bytes -= bytes;
        if batch.is_empty() {
            queue.writers -= 1;
            return None;
        }
        Some(batch)
    }

    /// Returns the ids of new events.
    async fn insert(self: &Arc<Self>, batch: &[Waiting]) -> Result<HashSet<Uuid>> {
        let new = self.db.system_statement(|mut conn| async move { insert(&mut conn, batch).await }).await?;
        if !new.is_empty() {
            self.wake.notify_one();
            self.notify_others();
        }
        Ok(new)
    }

    fn notify_others(self: &Arc<Self>) {
        let mut queue = self.queue();
        queue.notify_again = true;
        if !queue.notifying {
            queue.notifying = true;
            tokio::spawn(Arc::clone(self).keep_notifying());
        }
    }

    async fn keep_notifying(self: Arc<Self>) {
        loop {
            {
                let mut queue = self.queue();
                if !queue.notify_again {
                    queue.notifying = false;
                    return;
                }
                queue.notify_again = false;
            }
            let sent = self.db.system_statement(|mut conn| async move { notify(&mut conn).await }).await;
            if let Err(error) = sent {
                // Workers also poll.
                tracing::warn!(%error, "the workers of other processes were not woken");
            }
            tokio::time::sleep(WAKE_EVERY).await;
        }
    }
}

fn tell(batch: impl IntoIterator<Item = Waiting>, stored: &Result<HashSet<Uuid>>) {
    for waiting in batch {
        let result = stored.as_ref().map(|new| new.contains(&waiting.id.uuid())).map_err(Clone::clone);
        // A sender that hung up no longer listens.
        waiting.told.send(result).ok();
    }
}

async fn insert(conn: &mut Conn, batch: &[Waiting]) -> sqlx::Result<HashSet<Uuid>> {
    fn column<'a, T>(batch: &'a [Waiting], of: impl Fn(&'a Delivery) -> T) -> Vec<T> {
        batch.iter().map(|waiting| of(&waiting.delivery)).collect()
    }
    let ids: Vec<Uuid> = batch.iter().map(|waiting| waiting.id.uuid()).collect();
    let sources: Vec<String> = column(batch, |delivery| delivery.source.label().to_owned());
    let event_ids: Vec<String> = column(batch, |delivery| delivery.event_id.clone());
    let types: Vec<String> = column(batch, |delivery| delivery.event_type.clone());
    let objects: Vec<Option<String>> = column(batch, |delivery| delivery.object_id.clone());
    let bodies: Vec<&[u8]> = column(batch, |delivery| delivery.raw_body.as_ref());
    let created: Vec<Option<DateTime<Utc>>> = column(batch, |delivery| delivery.created_at);
    let received: Vec<DateTime<Utc>> = column(batch, |delivery| delivery.received_at);
    let new = sqlx::query_scalar!(
        "insert into tenantry.webhook_events (id, source, event_id, event_type, object_id, raw_body, event_created_at, received_at, next_attempt_at)
         select n.id, n.source::tenantry.webhook_source, n.event_id, n.event_type, n.object_id, n.raw_body, n.created_at, n.received_at, n.received_at
           from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::timestamptz[], $8::timestamptz[])
                as n (id, source, event_id, event_type, object_id, raw_body, created_at, received_at)
         on conflict (source, event_id) do nothing
         returning id",
        &ids,
        &sources,
        &event_ids,
        &types,
        &objects as _,
        &bodies as _,
        &created as _,
        &received
    )
    .fetch_all(conn)
    .await?;
    Ok(new.into_iter().collect())
}

/// Wakes the workers of all processes.
pub(crate) async fn notify(conn: &mut Conn) -> sqlx::Result<()> {
    sqlx::query!("select pg_notify($1, '')", CHANNEL).execute(conn).await?;
    Ok(())
}

/// The events of a sender that wait for a worker.
#[derive(Clone, Debug)]
pub struct Depth {
    /// Who sent it.
    pub source: WebhookSource,
    /// How many events.
    pub pending: i64,
    /// When the oldest of them was received.
    pub oldest: Option<DateTime<Utc>>,
    /// How many events have a finding: they were applied, and wait for something.
    pub findings: i64,
}

/// The events that wait for a worker or have a finding, by sender.
pub async fn depth(db: &Db) -> Result<Vec<Depth>> {
    let rows = db
        .system_statement(|mut conn| async move {
            conn.has_begun();
            sqlx::query_as!(
                Depth,
                r#"select s.source as "source!: WebhookSource", count(e.id) as "pending!", min(e.received_at) as oldest,
                          (select count(*) from tenantry.webhook_events f where f.source = s.source and f.finding is not null) as "findings!"
                     from unnest(enum_range(null::tenantry.webhook_source)) as s (source)
                     left join tenantry.webhook_events e on e.source = s.source and e.status in ('RECEIVED', 'FAILED')
                    group by 1 order by 1"#
            )
            .fetch_all(&mut conn)
            .await
        })
        .await?;
    Ok(rows)
}
