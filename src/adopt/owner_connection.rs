//! A connection as the owner of the tables. It retries after deadlocks and lock timeouts, and reconnects when the
//! server restarts.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

use super::progress::ProgressListener;
use super::{AdoptError, Result, doing};
use crate::error::Code;

/// How long a step is repeated after deadlocks, lock timeouts and lost connections, unless a command says otherwise. The
/// budget is time and not a number of attempts: on a busy machine the transactions that hold the locks take longer, too.
pub const RETRY_FOR: Duration = Duration::from_mins(2);
/// How long a change of the schema waits for its lock at a time, unless a command says otherwise. Whoever comes later queues
/// behind the wait, so it is short; what makes up for it is that the step is repeated for [`RETRY_FOR`].
pub const LOCK_TIMEOUT: Duration = Duration::from_millis(40);
/// How long the lock of an adoption is waited for. The server notices a killed client only when it next writes to it.
const LOCK_FOR: Duration = Duration::from_secs(30);

/// A connection as the owner of the tables that reconnects when it is lost.
#[derive(Debug)]
pub struct OwnerConnection {
    options: PgConnectOptions,
    connection: PgConnection,
    lock: Option<String>,
    durability_relaxed: bool,
    quiet: bool,
    hurried: bool,
    /// Hears how far the work is.
    pub progress: ProgressListener,
    /// How often a step was repeated.
    pub retries: u64,
    /// How long a step is repeated.
    pub retry_for: Duration,
}

/// How to go on after an error.
enum Remedy {
    TryAgain,
    Reconnect,
    GiveUp,
}

fn remedy(error: &sqlx::Error) -> Remedy {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => Remedy::Reconnect,
        sqlx::Error::Database(database) => match database.code().as_deref() {
            Some("40001" | "40P01" | "55P03") => Remedy::TryAgain,
            Some(code) if code.starts_with("57P0") || code.starts_with("08") || code == "53300" => Remedy::Reconnect,
            _ => Remedy::GiveUp,
        },
        _ => Remedy::GiveUp,
    }
}

async fn connect(options: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    options
        .clone()
        .application_name("tenantry-adopt")
        .options([
            // Keys are sent as text and must be read back unchanged.
            ("timezone", "UTC"),
            ("datestyle", "ISO"),
            ("extra_float_digits", "1"),
            ("lock_timeout", "2s"),
            ("idle_in_transaction_session_timeout", "60s"),
            ("jit", "off"),
            ("client_min_messages", "warning"),
            ("row_security", "on"),
        ])
        .connect()
        .await
}

impl OwnerConnection {
    /// Connects.
    pub async fn open(options: &PgConnectOptions) -> Result<Self> {
        let connection = connect(options).await.map_err(|error| {
            AdoptError::refused(
                Code::Unreachable,
                format!("MIGRATION_DATABASE_URL: the database cannot be reached: {error}"),
            )
        })?;
        Ok(Self {
            options: options.clone(),
            connection,
            lock: None,
            durability_relaxed: false,
            quiet: false,
            hurried: false,
            progress: ProgressListener::default(),
            retries: 0,
            retry_for: RETRY_FOR,
        })
    }

    /// The connection, for statements that are not retried.
    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Lets only one process at a time work on the adoption of this name.
    pub async fn lock(&mut self, adoption: &str) -> Result<()> {
        let began = Instant::now();
        let mut told = false;
        loop {
            if self.try_lock(adoption).await.map_err(doing("taking the lock of the adoption"))? {
                self.lock = Some(adoption.to_owned());
                return Ok(());
            }
            if began.elapsed() >= LOCK_FOR {
                break;
            }
            if !told && began.elapsed() >= Duration::from_secs(2) {
                told = true;
                tracing::info!(
                    "another process, or what is left of one that was killed, works on this adoption; waiting up to {} s",
                    LOCK_FOR.as_secs()
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(AdoptError::refused(
            Code::Busy,
            format!("another process works on the adoption `{adoption}`: wait for it to end"),
        ))
    }

    /// Makes commits return before they are on disk. A server that crashes may lose the last commits together with
    /// their checkpoints, so the next run repeats them. Nothing is reported until [`OwnerConnection::flush`].
    pub async fn relax_durability(&mut self) -> Result<()> {
        self.durability_relaxed = true;
        self.connection.execute("set synchronous_commit = off").await.map(drop).map_err(doing("preparing the session"))
    }

    /// Keeps the team's triggers from firing for what this connection writes, or lets them fire again. Those that are enabled
    /// `always` fire all the same (`PostgreSQL` documentation, `session_replication_role`).
    pub async fn quiet(&mut self, quiet: bool) -> Result<()> {
        self.quiet = quiet;
        let statement = if quiet { "set session_replication_role = replica" } else { "reset session_replication_role" };
        self.connection.execute(statement).await.map(drop).map_err(doing("keeping triggers quiet"))
    }

    /// Waits for rows no longer than `LOCK_TIMEOUT`, or as long as before: who waits with a batch of changed rows in hand holds
    /// up those who want them.
    pub async fn hurry(&mut self, hurried: bool) -> Result<()> {
        self.hurried = hurried;
        let statement = if hurried {
            format!("set lock_timeout = '{}ms'", LOCK_TIMEOUT.as_millis())
        } else {
            "reset lock_timeout".to_owned()
        };
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut self.connection)
            .await
            .map(drop)
            .map_err(doing("preparing the session"))
    }

    /// Waits until all commits are on disk: the log is written in order, so one durable commit is enough.
    pub async fn flush(&mut self, adoption: &str) -> Result<()> {
        self.durability_relaxed = false;
        self.retrying("waiting for the disk", async |connection| {
            connection.execute("reset synchronous_commit").await?;
            sqlx::query("update tenantry.adoptions set name = name where name = $1")
                .bind(adoption)
                .execute(connection)
                .await
                .map(drop)
        })
        .await
    }

    async fn try_lock(&mut self, adoption: &str) -> sqlx::Result<bool> {
        sqlx::query_scalar("select pg_try_advisory_lock(hashtext('tenantry.adopt'), hashtext($1))")
            .bind(adoption)
            .fetch_one(&mut self.connection)
            .await
    }

    /// Does `work`, and repeats it after deadlocks, lock timeouts and lost connections. `work` must be idempotent: a
    /// commit may have happened although its answer was lost.
    pub async fn retrying<T>(
        &mut self,
        what: &str,
        mut work: impl AsyncFnMut(&mut PgConnection) -> sqlx::Result<T>,
    ) -> Result<T> {
        let began = Instant::now();
        let mut attempt: u32 = 0;
        loop {
            let error = match work(&mut self.connection).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            attempt += 1;
            if began.elapsed() >= self.retry_for {
                // A failed transaction must not stay open.
                self.connection.execute("rollback").await.ok();
                return Err(doing(what)(error));
            }
            let pause = Duration::from_millis(20 << attempt.min(5));
            match remedy(&error) {
                Remedy::GiveUp => {
                    // A failed transaction must not stay open.
                    self.connection.execute("rollback").await.ok();
                    return Err(doing(what)(error));
                }
                Remedy::TryAgain => {
                    tracing::debug!(%error, attempt, "{what}: once more");
                    self.connection.execute("rollback").await.ok();
                    tokio::time::sleep(pause).await;
                }
                Remedy::Reconnect => {
                    tracing::warn!(%error, attempt, "{what}: the connection was lost; connecting again");
                    tokio::time::sleep(pause).await;
                    self.reconnect(what).await?;
                }
            }
            self.retries += 1;
        }
    }

    /// Tries as long as a step is repeated: the server may be restarting.
    async fn reconnect(&mut self, what: &str) -> Result<()> {
        let began = Instant::now();
        let mut attempt: u32 = 0;
        loop {
            match connect(&self.options).await {
                Ok(connection) => {
                    self.connection = connection;
                    if self.durability_relaxed {
                        self.relax_durability().await?;
                    }
                    if self.quiet {
                        self.quiet(true).await?;
                    }
                    if self.hurried {
                        self.hurry(true).await?;
                    }
                    if let Some(adoption) = self.lock.take() {
                        self.lock(&adoption).await?;
                    }
                    return Ok(());
                }
                Err(error) if began.elapsed() >= self.retry_for => return Err(doing(what)(error)),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(100 << attempt.min(5))).await;
            attempt += 1;
        }
    }

    /// Runs statements in one short transaction under strong locks. It waits for them at most `lock_timeout`, and tries
    /// again later, so that others can pass meanwhile.
    pub async fn run_locked(&mut self, what: &str, lock_timeout: Duration, statements: &[String]) -> Result<()> {
        let text = format!(
            "begin; set local lock_timeout = '{}ms'; {}; commit",
            lock_timeout.as_millis().max(1),
            statements.join("; ")
        );
        self.retrying(what, async |connection| {
            sqlx::raw_sql(AssertSqlSafe(text.as_str())).execute(connection).await.map(drop)
        })
        .await
    }

    /// Runs long statements that block neither readers nor writers, each outside of a transaction. A retry begins with
    /// the first one.
    pub async fn run_concurrent(&mut self, what: &str, statements: &[String]) -> Result<()> {
        self.retrying(what, async |connection| {
            connection.execute("set lock_timeout = 0").await?;
            let mut result = Ok(());
            for statement in statements {
                result = sqlx::raw_sql(AssertSqlSafe(statement.as_str())).execute(&mut *connection).await.map(drop);
                if result.is_err() {
                    break;
                }
            }
            connection.execute("reset lock_timeout").await?;
            result
        })
        .await
    }

    /// Closes the connection.
    pub async fn close(self) {
        // An error means that the server has closed it.
        self.connection.close().await.ok();
    }
}
