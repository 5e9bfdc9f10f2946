//! Connections of sqlx, and how long their answers are waited for.
//!
//! A machine that vanishes closes nothing, and neither does a proxy that is stuck or a server that is stopped. sqlx waits for ever
//! then, and lets nobody at its sockets, where TCP could be told to give up. So whatever is sent goes through a [`Conn`], which
//! waits for as long as an answer may take and no longer. `PostgreSQL` ends statements before (`statement_timeout`): who says
//! nothing for a while more is not there. Such a connection is closed, and so is what is idle beside it: new ones go to whoever
//! is at the address by then.

use std::io::{self, ErrorKind};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{self, BoxFuture};
use futures_util::stream::{self, BoxStream};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Execute, Executor, Postgres, SqlStr};
use tokio::time::timeout;

/// How long an answer of the database is waited for before its connection is given up.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Where nothing was asked that takes time: when a transaction begins.
    pub beginning: Duration,
    /// To a statement of the API, which `PostgreSQL` ends after 15 s. When reading it may wait behind another.
    pub api: Duration,
    /// To a statement of webhooks, workers and commands, which `PostgreSQL` ends after a minute.
    pub system: Duration,
    /// To the rollback of what was abandoned, whose statement may be under way; and to whether a connection that is given back lives.
    /// Closing the pools waits as long for who still has a connection.
    pub ending: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { beginning: seconds(5), api: seconds(25), system: seconds(65), ending: seconds(10) }
    }
}

/// A pool of sqlx, and how patient its users are.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    inner: PgPool,
    patience: Patience,
    answer: Duration,
}

impl Pool {
    /// The answer to a statement is waited for as long as `answer`.
    pub(super) fn new(inner: PgPool, patience: Patience, answer: Duration) -> Self {
        Self { inner, patience, answer }
    }

    /// Takes a connection; an idle one may have died with its server.
    pub(super) async fn take(&self) -> sqlx::Result<Conn> {
        let pooled = Some(self.inner.acquire().await?);
        Ok(Conn { pooled, pool: self.clone(), patience: Some(self.patience.beginning), is_lost: false })
    }

    /// How often another connection is tried when one is found dead: as often as there are idle ones.
    pub(super) fn tries(&self) -> Tries {
        Tries(self.inner.num_idle())
    }

    /// Does `work`, which must do nothing before it has a connection that lives, again on another connection when the one it got had
    /// died with the server.
    pub(super) async fn on_living<T, F>(&self, work: impl Fn(Conn) -> F) -> sqlx::Result<T>
    where
        F: Future<Output = sqlx::Result<T>>,
    {
        let mut tries = self.tries();
        loop {
            match work(self.take().await?).await {
                Err(error) if tries.again(&error) => {}
                result => return result,
            }
        }
    }

    /// Closes what is idle.
    pub(super) fn forget_idle(&self) {
        while let Some(idle) = self.inner.try_acquire() {
            drop(idle.detach());
        }
    }

    /// Closes the pool when the work under way is done, which is not waited for without end.
    pub(super) async fn close(&self) {
        if timeout(self.patience.ending, self.inner.close()).await.is_err() {
            tracing::warn!("the database does not answer: its connections are cut");
        }
    }

    /// Connections in use, idle ones, and the most there may be.
    pub(super) fn usage(&self) -> (u32, u32, u32) {
        let idle = u32::try_from(self.inner.num_idle()).unwrap_or(u32::MAX);
        (self.inner.size().saturating_sub(idle), idle, self.inner.options().get_max_connections())
    }
}

/// How often another connection is tried.
pub(super) struct Tries(usize);

impl Tries {
    /// Whether to try another one after this error.
    pub(super) fn again(&mut self, error: &sqlx::Error) -> bool {
        if self.0 == 0 || !died(error) {
            return false;
        }
        // With one that said nothing the idle ones were closed: the next is new, and the last.
        self.0 = if is_silence(error) { 0 } else { self.0 - 1 };
        true
    }
}

/// A connection whose every answer is waited for, but not for ever. Statements are sent as with one of sqlx; after an answer that did
/// not come, each fails at once.
#[derive(Debug)]
pub struct Conn {
    /// Until it is dropped.
    pooled: Option<PoolConnection<Postgres>>,
    pool: Pool,
    /// `None`: as long as it takes.
    patience: Option<Duration>,
    is_lost: bool,
}

impl Conn {
    /// From here on statements may take the time that they have by `statement_timeout`.
    pub(crate) fn has_begun(&mut self) {
        self.patience = Some(self.pool.answer);
    }

    /// From here on answers are waited for so long.
    pub(super) fn waits(&mut self, patience: Duration) {
        self.patience = Some(patience);
    }

    /// From here on answers are waited for as long as it takes.
    pub(super) fn waits_for_ever(&mut self) {
        self.patience = None;
    }

    /// How long its end may be waited for.
    pub(super) fn ending(&self) -> Duration {
        self.pool.patience.ending
    }

    /// It is closed, not used again.
    pub(super) fn give_up(&mut self) {
        self.is_lost = true;
    }

    /// The connection of sqlx, for COPY, whose pieces have no answers. Nothing bounds what is done with it.
    ///
    /// # Errors
    /// When it was lost.
    pub(crate) fn unbounded(&mut self) -> sqlx::Result<&mut PgConnection> {
        Ok(self.parts()?.0)
    }

    fn parts(&mut self) -> sqlx::Result<(&mut PgConnection, Watch<'_>)> {
        match &mut self.pooled {
            Some(pooled) if !self.is_lost => {
                let watch = Watch { pool: &self.pool, patience: self.patience, is_lost: &mut self.is_lost };
                Ok((&mut **pooled, watch))
            }
            _ => Err(sqlx::Error::Io(io::Error::new(ErrorKind::NotConnected, "the database did not answer before"))),
        }
    }
}

impl Drop for Conn {
    /// Gives it back. sqlx looks then whether it lives, and would wait for that without end.
    fn drop(&mut self) {
        let Some(mut pooled) = self.pooled.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !self.is_lost => {
                drop(runtime.spawn(timeout(self.pool.patience.ending, pooled.return_to_pool())));
            }
            // Closed without a word: nobody would hear it.
            _ => drop(pooled.detach()),
        }
    }
}

/// Who waits for the answer to a statement.
struct Watch<'a> {
    pool: &'a Pool,
    patience: Option<Duration>,
    is_lost: &'a mut bool,
}

impl Watch<'_> {
    /// The answer; an error when it does not come in time.
    async fn answer<T>(&mut self, answer: impl Future<Output = T>) -> sqlx::Result<T> {
        let Some(patience) = self.patience else { return Ok(answer.await) };
        if let Ok(answer) = timeout(patience, answer).await {
            return Ok(answer);
        }
        tracing::warn!("the database did not answer within {patience:?}: connections to it are closed");
        *self.is_lost = true;
        self.pool.forget_idle();
        Err(sqlx::Error::Io(io::Error::new(ErrorKind::TimedOut, "the database did not answer in time")))
    }
}

impl<'c> Executor<'c> for &'c mut Conn {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let (connection, watch) = match self.parts() {
            Ok(parts) => parts,
            Err(error) => return stream::once(future::ready(Err(error))).boxed(),
        };
        let steps = connection.fetch_many(query);
        stream::unfold(Some((steps, watch)), |state| async move {
            let (mut steps, mut watch) = state?;
            match watch.answer(steps.next()).await {
                Ok(step) => Some((step?, Some((steps, watch)))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let (connection, mut watch) = self.parts()?;
            watch.answer(connection.fetch_optional(query)).await?
        })
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let (connection, mut watch) = self.parts()?;
            watch.answer(connection.prepare_with(sql, parameters)).await?
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<Postgres>>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let (connection, mut watch) = self.parts()?;
            watch.answer(connection.describe(sql)).await?
        })
    }
}

/// Whether the connection was dead before the statement could begin: closed by the other side, or by a server that
/// stops or stopped (SQLSTATE 57P01 to 57P03), or it said nothing.
fn died(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P0")),
        _ => false,
    }
}

/// Whether an answer did not come in time.
fn is_silence(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == ErrorKind::TimedOut)
}
