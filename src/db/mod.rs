//! The database: pools, the two kinds of transaction, migrations.
//!
//! API code sees [`TenantTx`] only, webhooks, workers and commands [`SystemTx`] only. Neither can be turned into the
//! other, and neither can be made without saying for whom.

mod bind;
mod conn;
pub(crate) mod listening;
pub mod migrations;
mod plan;
mod queue;
mod read_pool;
mod roles;
mod system_tx;
mod tenant_tx;
mod tls;
mod traffic;
mod waits;
mod writing;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

pub use bind::Bind;
use conn::Pool;
pub use conn::{Conn, Patience};
pub use queue::Lane;
use queue::Queue;
use read_pool::ReadPool;
pub(crate) use read_pool::connect_alone;
pub use read_pool::keeps_statements;
pub use roles::{RoleFinding, check_roles};
pub use system_tx::SystemTx;
pub use tenant_tx::{Admission, Begun, Founded, Invited, Joining, Newcomer, Reading, TenantTx, binds_of, refuse};
pub use tokio_postgres::Row;
pub use traffic::{Batch, SlowStatement, StatementText, Traffic};
pub use waits::Waits;
pub use writing::Writing;

use crate::error::Result;

/// The pools of a running server.
#[derive(Clone, Debug)]
pub struct Db {
    /// The RLS-bound role: what the API reads.
    readers: Arc<ReadPool>,
    /// The RLS-bound role: what the API writes.
    app: Pool,
    /// Who waits for a connection of it.
    writers: Arc<Queue>,
    /// How long they waited.
    write_waits: Arc<Waits>,
    /// The superadmin role: webhooks, workers, commands.
    system: Pool,
    pooler: Pooler,
}

/// What stands between the API's connections and `PostgreSQL`. Behind a pooler in transaction mode two transactions of one
/// client need not see the same session, and settings are the role's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooler {
    /// Nothing, or a pooler that gives each client a session.
    #[default]
    None,
    /// A pooler in transaction mode: nothing is prepared beyond a transaction.
    Transaction,
    /// A pooler in transaction mode that keeps its clients' prepared statements ([`keeps_statements`]).
    TransactionKeepingStatements,
}

/// Limits of the pools.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// `DATABASE_MAX_CONNECTIONS`: the API's connections, three of five for reading and the others for writing, at least one
    /// each; the system pool has a quarter of them, at least two.
    pub max_connections: u32,
    /// What the workers of this process take of the system pool: a connection for each webhook worker, and those of jobs. They come on
    /// top, so that what a worker does keeps no webhook from being answered.
    pub workers: u32,
    /// How long a request waits for a connection before it is refused as `UNAVAILABLE`.
    pub acquire_timeout: Duration,
    /// `DATABASE_POOLER`.
    pub pooler: Pooler,
    /// How long answers are waited for.
    pub patience: Patience,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            max_connections: 10,
            workers: 0,
            acquire_timeout: Duration::from_secs(5),
            pooler: Pooler::None,
            patience: Patience::default(),
        }
    }
}

impl Db {
    /// Makes the pools; connections are opened when first needed, so this succeeds while the database is down.
    #[must_use]
    pub fn new(app: PgConnectOptions, system: PgConnectOptions, limits: PoolLimits) -> Self {
        let patience = limits.patience;
        let pool = |connections, options, answer| {
            let pool = PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(limits.acquire_timeout)
                // `TenantTx::begin` is the test: it goes to the server anyway and retries on a connection that died.
                .test_before_acquire(false)
                .connect_lazy_with(options);
            Pool::new(pool, patience, answer)
        };
        let app = app.application_name("tenantry-api");
        let app = match limits.pooler {
            Pooler::None => app.statement_cache_capacity(STATEMENTS).options(api_settings()),
            Pooler::Transaction => app.statement_cache_capacity(0).extra_float_digits(None),
            Pooler::TransactionKeepingStatements => app.statement_cache_capacity(STATEMENTS).extra_float_digits(None),
        };
        let unprepared = limits.pooler == Pooler::Transaction;
        let reading = (limits.max_connections * 3 / 5).max(1);
        let readers = Arc::new(ReadPool::new(&app, reading, &limits, unprepared));
        let writing = limits.max_connections.saturating_sub(reading).max(1);
        let writers = Queue::new(usize::try_from(writing).unwrap_or(1), limits.acquire_timeout);
        let app = pool(writing, app, patience.api);
        let system = system.application_name("tenantry-system").statement_cache_capacity(STATEMENTS);
        let system = system.options(settings(SYSTEM_TIMEOUT));
        let system = pool((limits.max_connections / 4).max(2) + limits.workers, system, patience.system);
        Self { readers, app, writers, write_waits: Arc::default(), system, pooler: limits.pooler }
    }

    /// The API's connections for reading, for [`TenantTx`].
    fn readers(&self) -> &Arc<ReadPool> {
        &self.readers
    }

    /// Reads outside of every tenant, for the door function `tenantry.viewer`.
    pub(crate) async fn read_alone(&self, lane: Lane, sql: &str, binds: &[Bind]) -> Result<Vec<Row>> {
        self.readers.read_alone(lane, sql, binds).await
    }

    /// Who waits for the API's connections that write, for [`TenantTx`].
    fn writers(&self) -> &Arc<Queue> {
        &self.writers
    }

    /// Refuses an operation for which no more may wait, before anything is done for it.
    ///
    /// # Errors
    /// [`Error::RateLimited`](crate::error::Error::RateLimited).
    pub fn check(&self, lane: Lane, writes: bool) -> Result<()> {
        if writes { self.writers.check(lane) } else { self.readers.queue().check(lane) }
    }

    /// How many were refused so far because too many waited.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.readers.queue().refused() + self.writers.refused()
    }

    /// The API's pool, for [`TenantTx`].
    fn app(&self) -> &Pool {
        &self.app
    }

    /// How a transaction of the API that writes begins.
    fn begin(&self) -> &'static str {
        if self.pooler == Pooler::Transaction { BEGIN_POOLED } else { BEGIN }
    }

    /// Runs a statement as the app role, outside of every tenant. See [`Pool::on_living`].
    pub(crate) async fn app_statement<T>(
        &self,
        work: impl for<'c> Fn(&'c mut Conn) -> BoxFuture<'c, sqlx::Result<T>>,
    ) -> sqlx::Result<T> {
        let work = &work;
        let _place = self.writers.enter(Lane::House).await.map_err(|_| sqlx::Error::PoolTimedOut)?;
        if self.pooler != Pooler::Transaction {
            return self.app.on_living(|mut connection| async move { work(&mut connection).await }).await;
        }
        let (mut tx, _) = Writing::begin(&self.app, BEGIN_POOLED, None).await?;
        let result = work(tx.conn()).await?;
        tx.end(true).await?;
        Ok(result)
    }

    /// Runs a statement outside of a transaction as the superadmin role: the webhook inbox only. See [`Pool::on_living`].
    pub(crate) async fn system_statement<T, F: Future<Output = sqlx::Result<T>>>(
        &self,
        work: impl Fn(Conn) -> F,
    ) -> sqlx::Result<T> {
        let result = self.system.on_living(work).await;
        if let Err(error) = &result
            && takes_no_writes(error)
        {
            self.leave_standby();
        }
        result
    }

    /// Closes what is idle, because its server takes no writes any more: after a fail-over the old primary may live on as a
    /// standby. New connections go to where the address leads by then.
    fn leave_standby(&self) {
        tracing::warn!("the database takes no writes: looking for another at the same address");
        self.readers.forget_idle();
        self.app.forget_idle();
        self.system.forget_idle();
    }

    /// The newest migration in the database, as the app role sees it, and whether the database takes writes.
    pub async fn migration_version(&self) -> Result<(i64, bool), sqlx::Error> {
        const NEWEST: &str =
            "select coalesce(max(version), 0), not pg_is_in_recovery() from tenantry._sqlx_migrations where success";
        let found: (i64, bool) = self
            .app_statement(|connection| {
                Box::pin(async move {
                    connection.waits(READY_PATIENCE);
                    sqlx::query_as(NEWEST).fetch_one(connection).await
                })
            })
            .await?;
        if !found.1 {
            self.leave_standby();
        }
        Ok(found)
    }

    /// The settings that the API's sessions have not, as statements that give them: behind a pooler they are the role's,
    /// because it passes none on.
    pub async fn missing_settings(&self) -> Result<Vec<String>, sqlx::Error> {
        let found: Vec<(String, String, String)> = self
            .app_statement(|connection| {
                Box::pin(async move {
                    sqlx::query_as(
                        "select name, current_setting(name), format('%I', current_user) from unnest($1::text[]) with ordinality as named (name, place) order by place",
                    )
                    .bind(api_settings().map(|(name, _)| name))
                    .fetch_all(connection)
                    .await
                })
            })
            .await?;
        let missing = found.iter().zip(api_settings()).filter(|((_, found, _), (_, wanted))| found != wanted);
        Ok(missing
            .map(|((name, _, role), (_, wanted))| format!("alter role {role} set {name} = '{wanted}';"))
            .collect())
    }

    /// Closes all pools when the work under way is done, or it takes too long.
    pub async fn close(&self) {
        self.readers.close();
        self.writers.close();
        tokio::join!(self.app.close(), self.system.close());
    }

    /// What the pools are doing.
    #[must_use]
    pub fn usage(&self) -> [PoolUsage<'_>; 3] {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let of = |name, pool: &Pool| {
            let (in_use, idle, limit) = pool.usage();
            PoolUsage { name, in_use, idle, limit, waits: None }
        };
        let readers = &self.readers;
        let idle = readers.idle();
        let read = PoolUsage {
            name: "read",
            in_use: count(readers.open().saturating_sub(idle)),
            idle: count(idle),
            limit: count(readers.size()),
            waits: Some(readers.waits()),
        };
        [read, PoolUsage { waits: Some(&self.write_waits), ..of("write", &self.app) }, of("system", &self.system)]
    }
}

/// What a pool is doing.
#[derive(Clone, Copy, Debug)]
pub struct PoolUsage<'a> {
    /// `read`, `write` or `system`.
    pub name: &'static str,
    /// Connections in use.
    pub in_use: u32,
    /// Open connections that nobody uses.
    pub idle: u32,
    /// The most there may be.
    pub limit: u32,
    /// Who waits for one; workers and commands are not watched.
    pub waits: Option<&'a Waits>,
}

/// Whether the server is a standby, or takes no writes for another reason: SQLSTATE 25006, and 0A000 of `begin read write`.
fn takes_no_writes(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error.code().is_some_and(|code| code == "25006" || code == "0A000")
}

/// How long a statement of the API may take.
const API_TIMEOUT: &str = "15s";
/// How long a statement of webhooks, workers and commands may take.
const SYSTEM_TIMEOUT: &str = "60s";
/// How long the answer to whether the database is there is waited for. Whoever asks wants to know soon.
const READY_PATIENCE: Duration = Duration::from_secs(1);
/// Prepared statements that a connection of sqlx keeps.
const STATEMENTS: usize = 512;
/// Row-level security makes every statement depend on a setting, not on a constant: a generic plan is as good as a custom
/// one and saves planning (measured: 11 to 30 % of `PostgreSQL`'s CPU).
const GENERIC_PLANS: (&str, &str) = ("plan_cache_mode", "force_generic_plan");
/// Begins a transaction behind a pooler that keeps no statements: the session may have those of others, whose names are those
/// of ours. One that keeps them must not be sent this, because it would believe that they are still there.
const BEGIN_POOLED: &str = "begin read write; deallocate all";
/// Begins a transaction that writes. A server that takes no writes any more says so here, before anything was done.
const BEGIN: &str = "begin read write";

/// The settings of the API's sessions.
fn api_settings() -> [(&'static str, &'static str); 6] {
    let [statements, idle, locks, jit, timezone] = settings(API_TIMEOUT);
    [statements, idle, locks, jit, timezone, GENERIC_PLANS]
}

/// The settings every session gets: bounds, so that nothing hangs forever, and one time zone. Written as `PostgreSQL` shows
/// them, for [`Db::missing_settings`].
fn settings(statement_timeout: &'static str) -> [(&'static str, &'static str); 5] {
    [
        ("statement_timeout", statement_timeout),
        ("idle_in_transaction_session_timeout", "1min"),
        ("lock_timeout", "10s"),
        ("jit", "off"),
        ("timezone", "UTC"),
    ]
}
