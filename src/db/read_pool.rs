//! Connections that reading shares: statements of one transaction are sent without waiting for each other.
//!
//! sqlx sends a statement when the one before was answered, so a query whose fields need eleven statements waits eleven
//! times. tokio-postgres sends what siblings ask for in one write and hands out the answers as they come. That is worth a
//! second driver (docs/ARCHITECTURE.md has the figures), for reading only: what changes rows stays with sqlx and its
//! checked statements.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Row, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conn::Patience;
use super::queue::{Place, Queue};
use super::{Bind, Lane, PoolLimits, Waits, tls};
use crate::error::{Error, Result, is_lost};

/// Statements that a connection keeps prepared; each one more takes the place of another. Sizes of pages are part of the
/// text, because the planner must know them.
const MAX_STATEMENTS: usize = 512;
/// How long the cancellation of an abandoned request's statement may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection that nobody uses any more may take to end: what was sent is answered first.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How old a connection may grow, and how long it may wait unused: what its backend remembers goes with it, and after a
/// failover the next one finds the new server. As sqlx has it.
const MAX_LIFETIME: Duration = Duration::from_mins(30);
const IDLE_TIMEOUT: Duration = Duration::from_mins(10);

/// A connection with its prepared statements.
pub(super) struct ReadConnection {
    client: Client,
    born: Instant,
    used: Instant,
    statements: Mutex<HashMap<Box<str>, Statement>>,
    /// Behind a pooler that keeps no statements nothing is prepared: the next transaction may have another session.
    unprepared: bool,
    patience: Patience,
    /// Tells whoever runs the connection, by going, that it is not used any more.
    _in_use: oneshot::Sender<()>,
}

/// Why nothing came of a statement.
#[derive(Debug)]
pub(super) enum Failed {
    /// The driver says why.
    Driver(tokio_postgres::Error),
    /// There was no answer.
    Silent,
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Driver(error)
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Driver(error) => error.into(),
            Failed::Silent => Self::Unavailable,
        }
    }
}

/// A statement that may be run.
pub(super) enum Runnable<'a> {
    /// By its name.
    Prepared(Statement),
    /// By its text, with the types of its parameters, in the same flight.
    Text(&'a str, Vec<Type>),
}

impl Runnable<'_> {
    /// Runs it. What is asked for at the same time is sent at once.
    pub(super) async fn run(
        &self,
        client: &Client,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        match self {
            Self::Prepared(statement) => client.query(statement, parameters).await,
            Self::Text(sql, types) => {
                let given: Vec<_> = parameters.iter().copied().zip(types.iter().cloned()).collect();
                client.query_typed(sql, &given).await
            }
        }
    }
}

impl ReadConnection {
    /// Whether the other side is gone.
    fn is_dead(&self) -> bool {
        self.client.is_closed()
    }

    /// The client, for statements without parameters.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Begins a transaction. Nothing is asked that takes time: who does not answer soon is not there.
    pub(super) async fn begin(&self, sql: &str) -> Result<(), Failed> {
        let begun = timeout(self.patience.beginning, self.client.batch_execute(sql)).await;
        Ok(begun.map_err(|_| Failed::Silent)??)
    }

    /// The prepared statement of this text with parameters like these.
    pub(super) async fn prepared<'a>(
        &self,
        sql: &'a str,
        binds: &[Bind],
    ) -> Result<Runnable<'a>, tokio_postgres::Error> {
        self.statement(sql, binds.iter().map(Bind::sql_type)).await
    }

    /// The prepared statement of this text with parameters of these types.
    pub(super) async fn statement<'a>(
        &self,
        sql: &'a str,
        types: impl Iterator<Item = Type> + Clone,
    ) -> Result<Runnable<'a>, tokio_postgres::Error> {
        if self.unprepared {
            return Ok(Runnable::Text(sql, types.collect()));
        }
        let known = self.statements.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        if let Some(statement) = known
            && statement.params().iter().cloned().eq(types.clone())
        {
            return Ok(Runnable::Prepared(statement));
        }
        let statement = self.client.prepare_typed(sql, &types.collect::<Vec<_>>()).await?;
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        if statements.len() >= MAX_STATEMENTS
            && let Some(any) = statements.keys().next().cloned()
        {
            // The driver closes it on the server when its last user is done.
            statements.remove(&any);
        }
        statements.insert(sql.into(), statement.clone());
        drop(statements);
        Ok(Runnable::Prepared(statement))
    }
}

/// The connections for reading. They are opened when first needed.
pub(super) struct ReadPool {
    config: Config,
    tls: MakeRustlsConnect,
    idle: Mutex<Vec<ReadConnection>>,
    queue: Arc<Queue>,
    acquire_timeout: Duration,
    patience: Patience,
    unprepared: bool,
    waits: Waits,
}

impl std::fmt::Debug for ReadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The configuration holds the password.
        f.debug_struct("ReadPool").field("size", &self.queue.size()).finish_non_exhaustive()
    }
}

/// A connection in use, and the right to it. Dropped, it is closed.
pub(super) struct Taken {
    pool: Arc<ReadPool>,
    connection: ReadConnection,
    place: Place,
}

impl ReadPool {
    /// A pool with the address and the settings of these options.
    pub(super) fn new(options: &PgConnectOptions, size: u32, limits: &PoolLimits, unprepared: bool) -> Self {
        let size = size as usize;
        Self {
            config: config(options),
            tls: tls::connector(options),
            idle: Mutex::new(Vec::with_capacity(size)),
            queue: Queue::new(size, limits.acquire_timeout),
            acquire_timeout: limits.acquire_timeout,
            patience: limits.patience,
            unprepared,
            waits: Waits::default(),
        }
    }

    /// Who waits for a connection.
    pub(super) fn waits(&self) -> &Waits {
        &self.waits
    }

    /// The most connections there may be.
    pub(super) fn size(&self) -> usize {
        self.queue.size()
    }

    /// How many connections wait to be used.
    pub(super) fn idle(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many connections are open.
    pub(super) fn open(&self) -> usize {
        self.queue.held() + self.idle()
    }

    /// Closes what is idle, and what is in use when it comes back.
    pub(super) fn close(&self) {
        self.queue.close();
        self.forget_idle();
    }

    /// Closes what is idle.
    pub(super) fn forget_idle(&self) {
        drop(std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner)));
    }

    /// Who waits for a connection.
    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Takes a connection; it may have died with its server.
    ///
    /// # Errors
    /// As [`Queue::enter`], and [`Error::Unavailable`] when none can be opened in time.
    pub(super) async fn take(self: &Arc<Self>, lane: Lane) -> Result<Taken> {
        let waiting = self.waits.begin();
        let place = self.queue.enter(lane).await?;
        let connection = match self.pop_living() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        waiting.got();
        Ok(Taken { pool: Arc::clone(self), connection, place })
    }

    /// Runs one statement in a transaction of its own, in one flight, without a tenant.
    ///
    /// # Errors
    /// As the database gives them, and as [`ReadPool::take`].
    pub(super) async fn read_alone(self: &Arc<Self>, lane: Lane, sql: &str, binds: &[Bind]) -> Result<Vec<Row>> {
        self.on_living(lane, |taken| async move {
            let statement = taken.connection.prepared(sql, binds).await?;
            let parameters = parameters_of(binds);
            let rows = async { Ok(statement.run(&taken.connection.client, &parameters).await?) };
            let ((), rows) = tokio::try_join!(taken.connection.begin("begin read only"), rows)?;
            taken.give_back(true);
            Ok(rows)
        })
        .await
    }

    /// Begins something on a connection that lives: an idle one may have died with the server, so as many are tried as were
    /// idle, then a new one. Work that fails drops its connection.
    ///
    /// # Errors
    /// As [`ReadPool::take`] and the work.
    pub(super) async fn on_living<T, F>(self: &Arc<Self>, lane: Lane, work: impl Fn(Taken) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        let mut dead_connections_left = self.idle();
        loop {
            match self.in_time(work(self.take(lane).await?)).await {
                Err(Failed::Driver(error)) if dead_connections_left > 0 && died(&error) => dead_connections_left -= 1,
                // The idle ones were closed: the next is new, and the last.
                Err(Failed::Silent) if dead_connections_left > 0 => dead_connections_left = 0,
                result => return Ok(result?),
            }
        }
    }

    /// Waits for what a statement gives, but not for ever. When nothing comes, what is idle is closed as well: new connections go to
    /// whoever is at the address by then.
    pub(super) async fn in_time<T>(&self, answer: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
        let answer = timeout(self.patience.api, answer).await.unwrap_or(Err(Failed::Silent));
        if matches!(answer, Err(Failed::Silent)) {
            tracing::warn!("the database does not answer: connections for reading are closed");
            self.forget_idle();
        }
        answer
    }

    fn pop_living(&self) -> Option<ReadConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|connection| !connection.is_dead())
    }

    async fn connect(&self) -> Result<ReadConnection> {
        let (client, connection) = open(&self.config, self.tls.clone(), self.acquire_timeout).await?;
        let (in_use, unused) = oneshot::channel::<()>();
        tokio::spawn(async move {
            // It ends by itself when it is not used any more and what was sent is answered.
            let too_long = async {
                drop(unused.await);
                tokio::time::sleep(END_TIMEOUT).await;
            };
            tokio::select! {
                Err(error) = connection => tracing::debug!(%error, "a connection for reading ended"),
                () = too_long => {}
            }
        });
        if self.unprepared {
            timeout(self.patience.beginning, learn_types(&client)).await.map_err(|_| Error::Unavailable)??;
        }
        let now = Instant::now();
        Ok(ReadConnection {
            client,
            born: now,
            used: now,
            statements: Mutex::default(),
            unprepared: self.unprepared,
            patience: self.patience,
            _in_use: in_use,
        })
    }
}

impl Taken {
    /// The connection.
    pub(super) fn connection(&self) -> &ReadConnection {
        &self.connection
    }

    /// The pool that it is of.
    pub(super) fn pool(&self) -> &ReadPool {
        &self.pool
    }

    /// Ends the transaction and gives the connection back. When everything was answered nobody waits: what the next user
    /// sends comes behind the rollback on the same connection. Otherwise the statement that nobody waits for any more
    /// is cancelled, and the connection closed: a cancellation names a connection and not a statement, and may arrive late
    /// (`PostgreSQL` documentation, 55.2.8).
    pub(super) fn give_back(self, everything_answered: bool) {
        let Self { pool, connection, place } = self;
        if everything_answered {
            // Polled once, so that it is sent; the driver drops the answer.
            let sent = connection.client.batch_execute("rollback").now_or_never();
            if !matches!(sent, Some(Err(_))) {
                pool.put(connection);
            }
            drop(place);
            return;
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        tokio::spawn(async move {
            let cancel = connection.client.cancel_token();
            let cancelled = timeout(CANCEL_TIMEOUT, cancel.cancel_query(pool.tls.clone())).await;
            if !matches!(cancelled, Ok(Ok(()))) {
                tracing::debug!("the statement of an abandoned request could not be cancelled");
            }
            drop((connection, place));
        });
    }
}

impl ReadPool {
    fn put(&self, mut connection: ReadConnection) {
        if self.queue.is_closed() || connection.is_dead() || connection.born.elapsed() > MAX_LIFETIME {
            return;
        }
        connection.used = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // The last one used is the first one taken: those that are not needed gather in front.
        let unused = idle.iter().take_while(|connection| connection.used.elapsed() > IDLE_TIMEOUT).count();
        let closed: Vec<ReadConnection> = idle.drain(..unused).collect();
        idle.push(connection);
        drop(idle);
        drop(closed);
    }
}

/// Has the driver look up our types, once and for all: it does so by statements that it prepares, and behind a pooler those
/// would be gone with the transaction.
async fn learn_types(client: &Client) -> Result<(), tokio_postgres::Error> {
    const TYPES: &str = "select string_agg(format('null::%I.%I', n.nspname, t.typname), ', ')
        from pg_type t join pg_namespace n on n.oid = t.typnamespace where n.nspname = 'tenantry' and t.typtype = 'e'";
    client.batch_execute(super::BEGIN_POOLED).await?;
    let types: Option<String> = client.query_typed_one(TYPES, &[]).await?.try_get(0)?;
    if let Some(types) = types {
        client.query_typed(&format!("select {types}"), &[]).await?;
    }
    client.batch_execute("deallocate all; rollback").await
}

/// How long a connection may be silent, or leave what was sent without an answer of its machine, before it is looked at; and how long
/// between looks.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How long opening a connection may take, as the pools have it by default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection outside of every pool, for whoever keeps it as long as the process lives.
///
/// # Errors
/// [`Error::Unavailable`] when it is not to be had in time.
pub(crate) async fn connect_alone(options: &PgConnectOptions) -> Result<(Client, Connection)> {
    open(&config(options), tls::connector(options), CONNECT_TIMEOUT).await
}

/// Whether a pooler in transaction mode keeps its clients' prepared statements, as `PgBouncer` does from 1.21 on where
/// `max_prepared_statements` is not 0. It gives them names of its own, which a session shows (`PgBouncer` documentation,
/// `max_prepared_statements`).
///
/// # Errors
/// [`Error::Unavailable`] when the database cannot be reached in time.
pub async fn keeps_statements(options: &PgConnectOptions) -> Result<bool> {
    const NAMED: &str = "select exists (select from pg_prepared_statements where name like 'PGBOUNCER\\_%')";
    let (client, connection) = connect_alone(options).await?;
    let connection = tokio::spawn(connection);
    let asked = async {
        client.batch_execute("begin").await?;
        // An error says that the name is taken: a session's statements are seen by the next client.
        let Ok(kept) = client.prepare("select 1").await else { return Ok(false) };
        let named = client.query_typed_one(NAMED, &[]).await?.try_get(0);
        drop(kept);
        client.batch_execute("rollback").await?;
        named
    }
    .await;
    drop(client);
    // It ends when its client is gone and what was sent is out.
    let _ = timeout(CONNECT_TIMEOUT, connection).await;
    Ok(asked?)
}

/// What has to be polled for a client to go on.
pub(super) type Connection = tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

async fn open(config: &Config, tls: MakeRustlsConnect, limit: Duration) -> Result<(Client, Connection)> {
    Ok(timeout(limit, config.connect(tls)).await.map_err(|_| Error::Unavailable)??)
}

/// The same address, user, database and settings for the other driver.
fn config(options: &PgConnectOptions) -> Config {
    let mut config = Config::new();
    match options.get_socket() {
        Some(socket) => config.host_path(socket),
        None => config.host(options.get_host()),
    };
    config.port(options.get_port()).user(options.get_username());
    if let Some(database) = options.get_database() {
        config.dbname(database);
    }
    if let Some(password) = password(options) {
        config.password(password);
    }
    if let Some(name) = options.get_application_name() {
        config.application_name(name);
    }
    if let Some(settings) = options.get_options() {
        config.options(settings);
    }
    // A server whose machine is gone closes nothing. Who only listens would wait for it for hours.
    config.keepalives_idle(KEEPALIVE_IDLE).keepalives_interval(KEEPALIVE_INTERVAL).keepalives_retries(3);
    config.tcp_user_timeout(KEEPALIVE_IDLE);
    config.ssl_mode(tls::mode(options));
    config
}

/// sqlx tells the password in a URL only. User, host and database are others there, because sqlx does not escape them.
fn password(options: &PgConnectOptions) -> Option<Vec<u8>> {
    let url = options.clone().socket(PathBuf::from("/")).username("u").database("d").to_url_lossy();
    url.password().map(|password| percent_encoding::percent_decode_str(password).collect())
}

/// The values as the driver takes them.
pub(super) fn parameters_of(binds: &[Bind]) -> Vec<&(dyn ToSql + Sync)> {
    binds.iter().map(|bind| bind as &(dyn ToSql + Sync)).collect()
}

/// Whether the connection was dead before the statement could begin: closed by the other side, or by a server that stops or
/// stopped (SQLSTATE 57P01 to 57P03).
fn died(error: &tokio_postgres::Error) -> bool {
    is_lost(error) || error.code().is_some_and(|code| code.code().starts_with("57P0"))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    #[test]
    fn config_takes_address_and_password_as_they_are() {
        let options = PgConnectOptions::from_str("postgres://us%40er:p%40ss%2Fw%3Ard@db.example.com:6432/na%20me")
            .expect("a URL");
        let config = config(&options);
        assert_eq!(config.get_user(), Some("us@er"));
        assert_eq!(config.get_password(), Some(&b"p@ss/w:rd"[..]));
        assert_eq!(config.get_dbname(), Some("na me"));
        assert_eq!(config.get_ports(), [6432]);
        assert_eq!(config.get_hosts(), [tokio_postgres::config::Host::Tcp("db.example.com".to_owned())]);
        let socket = PgConnectOptions::from_str("postgres://u@localhost/d?host=/run/pg").expect("a URL");
        assert_eq!(super::config(&socket).get_hosts(), [tokio_postgres::config::Host::Unix("/run/pg".into())]);
        assert_eq!(super::config(&socket).get_password(), None);
        assert!(!format!("{:?}", ReadPool::new(&options, 1, &PoolLimits::default(), false)).contains("p@ss"));
    }
}
