//! A connection as the owner of the tables that survives what happens in a long run: collisions, short locks, a server
//! that restarts.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

use super::{AdoptError, Result, doing};

/// Collisions and short locks are tried this often, with growing pauses: about 20 s in all.
const ATTEMPTS: u32 = 12;
/// After kill -9 the server notices only when it next has something for the client.
const LOCK_ATTEMPTS: u32 = 150;

/// A connection that is made anew when it is lost.
#[derive(Debug)]
pub struct Session {
    options: PgConnectOptions,
    connection: PgConnection,
    lock: Option<String>,
    hurried: bool,
    /// How often something was tried again.
    pub retries: u64,
}

/// What an error asks for.
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
            // Keys travel as text and come back.
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

impl Session {
    /// Connects.
    pub async fn open(options: &PgConnectOptions) -> Result<Self> {
        let connection = connect(options).await.map_err(|error| {
            AdoptError::refused(
                "UNREACHABLE",
                format!("MIGRATION_DATABASE_URL: the database cannot be reached: {error}"),
            )
        })?;
        Ok(Self { options: options.clone(), connection, lock: None, hurried: false, retries: 0 })
    }

    /// Another connection of the same kind.
    pub async fn another(&self) -> Result<Self> {
        Self::open(&self.options).await
    }

    /// The connection, where a failure is final.
    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Lets only one process at a time work on the adoption of this name.
    pub async fn lock(&mut self, adoption: &str) -> Result<()> {
        for attempt in 0..LOCK_ATTEMPTS {
            if self.try_lock(adoption).await.map_err(doing("taking the lock of the adoption"))? {
                self.lock = Some(adoption.to_owned());
                return Ok(());
            }
            if attempt == 10 {
                tracing::info!(
                    "another process, or what is left of one that was killed, works on this adoption; waiting up to 30 s"
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(AdoptError::refused(
            "BUSY",
            format!("another process works on the adoption `{adoption}`: wait for it to end"),
        ))
    }

    /// From here on a commit does not wait for the disk. A server that crashes may lose the last fraction of a second of
    /// them, each with its checkpoint, so that the next run does them again; until [`Session::settle`] nothing is reported.
    pub async fn hurry(&mut self) -> Result<()> {
        self.hurried = true;
        self.connection.execute("set synchronous_commit = off").await.map(drop).map_err(doing("preparing the session"))
    }

    /// Waits until everything that was committed is on the disk: the log is written in its order.
    pub async fn settle(&mut self, adoption: &str) -> Result<()> {
        self.hurried = false;
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

    /// Does `work`, again and again while it collides with others, on a new connection when the old one is lost. It must
    /// be harmless to do it twice: a commit may have happened though its answer was lost.
    pub async fn retrying<T>(
        &mut self,
        what: &str,
        mut work: impl AsyncFnMut(&mut PgConnection) -> sqlx::Result<T>,
    ) -> Result<T> {
        let mut attempt = 0;
        loop {
            let error = match work(&mut self.connection).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            attempt += 1;
            if attempt >= ATTEMPTS {
                return Err(doing(what)(error));
            }
            let pause = Duration::from_millis(20 << attempt.min(7));
            match remedy(&error) {
                Remedy::GiveUp => {
                    // A transaction that is open must not outlive its failure.
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

    /// The server may be restarting: about half a minute of attempts.
    async fn reconnect(&mut self, what: &str) -> Result<()> {
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            match connect(&self.options).await {
                Ok(connection) => {
                    self.connection = connection;
                    if self.hurried {
                        self.hurry().await?;
                    }
                    if let Some(adoption) = self.lock.take() {
                        self.lock(&adoption).await?;
                    }
                    return Ok(());
                }
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(100 << attempt.min(5))).await;
        }
        Err(doing(what)(last.unwrap_or(sqlx::Error::WorkerCrashed)))
    }

    /// Statements in one short transaction that waits for its locks at most `lock_timeout`, and is tried again when it
    /// did not get them: meanwhile those that queued behind it get through.
    pub async fn short(&mut self, what: &str, lock_timeout: Duration, statements: &[String]) -> Result<()> {
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

    /// Statements, one after the other and each by itself, that run long and lock out nobody who reads or writes. Tried
    /// again from the first.
    pub async fn long(&mut self, what: &str, statements: &[String]) -> Result<()> {
        self.retrying(what, async |connection| {
            connection.execute("set lock_timeout = 0").await?;
            let mut result = Ok(());
            for statement in statements {
                result = sqlx::raw_sql(AssertSqlSafe(statement.as_str())).execute(&mut *connection).await.map(drop);
                if result.is_err() {
                    break;
                }
            }
            connection.execute("set lock_timeout = '2s'").await?;
            result
        })
        .await
    }

    /// Closes the connection.
    pub async fn close(self) {
        // Closed by the other side is closed as well.
        self.connection.close().await.ok();
    }
}
