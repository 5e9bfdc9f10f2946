//! The local `PostgreSQL` of `cargo run` and `cargo test`: finds the programs, makes the database files, runs
//! the server and stops it when nobody uses it any more. Not for production.
//!
//! Invariants:
//!
//! - While any [`LocalPostgres`] of any process for a data directory lives, its server runs; within a second or
//!   two after the last one is gone, by whatever cause, it has stopped. See `server.rs` for how.
//! - At most one server runs on a data directory. Two data directories never share anything.
//! - The server listens on a Unix socket in a folder that only its user can enter, never on the network.
//! - Half-made database files are never used.

use std::{
    fmt, fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::{
    task,
    time::{Instant, sleep, timeout},
};

use crate::hex::hex;
use crate::sql_text::quote;
use account::Account;
use error::io_error;
use server::{Alive, Hold, Site};

pub use error::LocalPostgresError;

mod account;
mod cluster;
mod error;
mod find;
mod npm;
mod server;

/// The role that owns the databases and runs the migrations.
pub const OWNER_ROLE: &str = "tenantry_owner";
/// The role of the API, bound by row-level security.
pub const APP_ROLE: &str = "tenantry_app";
/// The role that policies exempt from tenancy.
pub const SUPERADMIN_ROLE: &str = "tenantry_superadmin";

/// The bootstrap superuser of the server.
pub const SUPERUSER: &str = "postgres";
const MAINTENANCE_DATABASE: &str = "postgres";
/// The oldest version that works.
const MIN_MAJOR: u32 = 15;
/// Only names the socket file.
const PORT: u16 = 5432;
/// After a crash the server replays its log before it accepts connections.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// One that was running is looked at anew after this long.
const ATTACHED_WITHIN: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 6;

/// One script for every start: makes what is missing, changes nothing that is there.
const ROLES: &str = "do $$ begin
    perform pg_advisory_xact_lock(7305804402571);
    if to_regrole('tenantry_owner') is null then create role tenantry_owner login createrole createdb nosuperuser; end if;
    if to_regrole('tenantry_app') is null then create role tenantry_app login; end if;
    if to_regrole('tenantry_superadmin') is null then create role tenantry_superadmin login; end if;
    if not pg_has_role('tenantry_owner', 'tenantry_superadmin', 'member') then
        grant tenantry_superadmin to tenantry_owner;
    end if;
end $$";

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the database files, the log and the lock are; made when missing. The caller may keep other files there.
    pub data_dir: PathBuf,
    /// Whether data survives a crash of the machine. Tests do without. A server that runs already stays as it is.
    pub durable: bool,
}

/// What [`LocalPostgres::start`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// Made new database files and started the server.
    New,
    /// Started the server on the files of an earlier run.
    Existing,
    /// The server was running.
    Attached,
}

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Existing => "existing",
            Self::Attached => "attached",
        })
    }
}

/// A hold on the running server; the server stops when the last one is dropped.
#[derive(Debug)]
pub struct LocalPostgres {
    _alive: Arc<Alive>,
    data_dir: PathBuf,
    socket_dir: PathBuf,
    started: Started,
    bin_dir: Option<PathBuf>,
    version: String,
}

impl LocalPostgres {
    /// Attaches to the server of the data directory, or starts it; ready for connections when done.
    ///
    /// # Errors
    /// When there is no usable `PostgreSQL`, or it does not start; the text says what to do.
    pub async fn start(options: Options) -> Result<Self, LocalPostgresError> {
        let begin = Instant::now();
        let (site, _lock) = blocking(move || {
            let site = open_site(&options)?;
            let lock = site.lock()?;
            // Whose the files are may have been decided by whom we waited for.
            Ok((open_site(&options)?, lock))
        })
        .await?;
        let mut attempt = 1;
        let (hold, mut connection) = loop {
            let hold = blocking({
                let site = site.clone();
                move || site.attach_or_start()
            })
            .await?;
            match ready(&site, &hold).await {
                Ok(connection) => break (hold, connection),
                // A server that was running may end while we attach to it; ours should not.
                Err(e) if attempt < ATTEMPTS && (hold.started == Started::Attached || e.is_passing()) => {
                    drop(hold);
                    sleep(Duration::from_millis(100) * attempt).await;
                    attempt += 1;
                }
                Err(e) => return Err(e),
            }
        };
        sqlx::raw_sql(ROLES).execute(&mut connection).await?;
        // Without the packager's remarks: `15.18 (Debian …)`.
        let version: String = sqlx::query_scalar("select split_part(current_setting('server_version'), ' ', 1)")
            .fetch_one(&mut connection)
            .await?;
        connection.close().await?;
        hold.alive.in_use.store(true, Ordering::Relaxed);
        let local = Self {
            _alive: hold.alive,
            data_dir: site.data_dir,
            socket_dir: site.socket_dir,
            started: hold.started,
            bin_dir: hold.bin,
            version,
        };
        let Self { version, started, data_dir, .. } = &local;
        tracing::info!(%version, %started, data = %data_dir.display(), took = ?begin.elapsed(), "local PostgreSQL is ready");
        Ok(local)
    }

    /// How to connect; every role is let in without a password.
    #[must_use]
    pub fn connect_options(&self, role: &str, database: &str) -> PgConnectOptions {
        connect_options(&self.socket_dir, role, database)
    }

    /// The same as a URL, for people: `psql` and sqlx understand it.
    #[must_use]
    pub fn url(&self, role: &str, database: &str) -> String {
        url(&self.socket_dir, role, database)
    }

    /// What [`start`](Self::start) found and did.
    #[must_use]
    pub fn started(&self) -> Started {
        self.started
    }

    /// The version of the server, such as `17.10`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where its programs are; known to the process that started it.
    #[must_use]
    pub fn bin_dir(&self) -> Option<&Path> {
        self.bin_dir.as_deref()
    }

    /// The absolute data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Creates the database, owned by [`OWNER_ROLE`], unless it exists; whether it did so.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn ensure_database(&self, name: &str) -> Result<bool, LocalPostgresError> {
        let options = self.connect_options(SUPERUSER, MAINTENANCE_DATABASE);
        let mut connection = PgConnection::connect_with(&options).await?;
        let exists = "select exists (select from pg_database where datname = $1)";
        let mut created = false;
        if !sqlx::query_scalar(exists).bind(name).fetch_one(&mut connection).await? {
            let create = format!("create database {} owner {OWNER_ROLE}", quote(name));
            match sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await {
                Ok(_) => created = true,
                // Another process was faster: duplicate_database, or unique_violation in the catalogue.
                Err(sqlx::Error::Database(e)) if matches!(e.code().as_deref(), Some("42P04" | "23505")) => {}
                Err(e) => return Err(e.into()),
            }
        }
        connection.close().await?;
        Ok(created)
    }
}

/// The data directory: as configured, else `.tenantry` in the current one or its [substitute](reachable_data_dir).
#[must_use]
pub fn default_data_dir(configured: Option<PathBuf>) -> PathBuf {
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    configured.map_or_else(|| reachable_data_dir(absolute(PathBuf::from(".tenantry"))), absolute)
}

/// `wanted`, or where that is closed to the user whom root lends to the server (`/root`, say), a substitute for it
/// below `/var/lib`, always the same.
#[must_use]
pub fn reachable_data_dir(wanted: PathBuf) -> PathBuf {
    match Account::for_files(&wanted.join("postgres")) {
        Ok(account) if !account.can_enter(&wanted) => format!("/var/lib/tenantry-{}", short_hash(&wanted)).into(),
        _ => wanted,
    }
}

/// Makes the data directory where it is missing, and checks it.
fn open_site(options: &Options) -> Result<Site, LocalPostgresError> {
    let dir = &std::path::absolute(&options.data_dir).map_err(io_error("find", &options.data_dir))?;
    let account = Account::for_files(&dir.join("postgres"))?;
    let check = |path: PathBuf| {
        if account.can_enter(&path) {
            return Ok(path);
        }
        let user = account.name.clone();
        Err(LocalPostgresError::Unreachable { path, user })
    };
    if !dir.exists() {
        check(dir.clone())?;
        let mode = if account.is_lent() { 0o755 } else { 0o700 };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(mode).create(dir).map_err(io_error("create", dir))?;
        // Whatever the umask.
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(io_error("protect", dir))?;
    }
    let data_dir = check(fs::canonicalize(dir).map_err(io_error("read", dir))?)?;
    let pgdata = data_dir.join("postgres");
    if let Ok(meta) = fs::metadata(&pgdata)
        && meta.uid() != account.uid
    {
        return Err(LocalPostgresError::NotOurs { path: pgdata, uid: meta.uid(), wanted: account.uid });
    }
    // Always /tmp: it must be the same for every process, whatever its TMPDIR, and a socket's path is short.
    let socket_dir = PathBuf::from(format!("/tmp/tenantry-{}", short_hash(&data_dir)));
    Ok(Site { data_dir, pgdata, socket_dir, durable: options.durable, account })
}

/// Connects as the superuser, as soon as the server lets it.
async fn ready(site: &Site, hold: &Hold) -> Result<PgConnection, LocalPostgresError> {
    let options = connect_options(&site.socket_dir, SUPERUSER, MAINTENANCE_DATABASE);
    let within = match hold.started {
        Started::Attached => ATTACHED_WITHIN,
        Started::New | Started::Existing => READY_WITHIN,
    };
    let begin = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        let reason = match timeout(Duration::from_secs(5), PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(e)) => e.to_string(),
            Err(e) => e.to_string(),
        };
        let lost = hold.is_lost();
        if lost || begin.elapsed() > within {
            let reason = if lost { "it has ended".to_owned() } else { format!("not ready after {within:?}: {reason}") };
            return Err(LocalPostgresError::Start { reason, log: site.log(), tail: site.log_tail(hold.log_from) });
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(100));
    }
}

/// Everything that the environment (PGPORT, PGSSLMODE …) could change is set.
fn connect_options(socket_dir: &Path, role: &str, database: &str) -> PgConnectOptions {
    let options = PgConnectOptions::new_without_pgpass().socket(socket_dir).port(PORT).ssl_mode(PgSslMode::Disable);
    options.username(role).database(database)
}

fn url(socket_dir: &Path, role: &str, database: &str) -> String {
    let [role, database, host] = [role, database, &socket_dir.to_string_lossy()].map(percent_encode);
    format!("postgres://{role}@localhost/{database}?host={host}&port={PORT}")
}

fn percent_encode(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    text.bytes().fold(String::new(), |out, byte| {
        if plain(&byte) { out + char::from(byte).encode_utf8(&mut [0]) } else { out + &format!("%{byte:02X}") }
    })
}

/// 12 hexadecimal digits that stand for a path.
fn short_hash(path: &Path) -> String {
    let digest = Sha256::digest(path.as_os_str().as_bytes());
    hex(&digest[..6])
}

/// Runs what blocks where that is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LocalPostgresError> + Send + 'static,
) -> Result<T, LocalPostgresError> {
    let done = task::spawn_blocking(work).await;
    done.map_err(|e| io_error("finish", Path::new("a background task"))(io::Error::other(e)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_encoded_and_sqlx_reads_it_back() {
        let url = url(Path::new("/tmp/tenantry-0123456789ab"), "a role@", "db/ä?");
        assert_eq!(
            url,
            "postgres://a%20role%40@localhost/db%2F%C3%A4%3F?host=%2Ftmp%2Ftenantry-0123456789ab&port=5432"
        );
        let options: PgConnectOptions = url.parse().expect("a URL");
        assert_eq!(options.get_username(), "a role@");
        assert_eq!(options.get_database(), Some("db/ä?"));
        assert_eq!(options.get_socket(), Some(&PathBuf::from("/tmp/tenantry-0123456789ab")));
    }

    #[test]
    fn socket_paths_are_short_and_differ_by_directory() {
        let [a, b] = ["/a/.tenantry", "/b/.tenantry"].map(|dir| short_hash(Path::new(dir)));
        assert_ne!(a, b);
        // The limit is 104 bytes with the terminator on macOS, 108 on Linux.
        assert!(format!("/tmp/tenantry-{a}/.s.PGSQL.{PORT}").len() < 104);
    }

    #[test]
    fn a_configured_directory_is_taken_as_it_is() {
        assert_eq!(default_data_dir(Some(PathBuf::from("/x/y"))), PathBuf::from("/x/y"));
        assert!(default_data_dir(Some(PathBuf::from("x"))).is_absolute());
        assert!(default_data_dir(None).is_absolute());
        assert_eq!(reachable_data_dir(PathBuf::from("/nowhere/yet")), PathBuf::from("/nowhere/yet"));
    }
}
