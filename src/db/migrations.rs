//! The migrations, embedded in the binary.
//!
//! Every run takes `PostgreSQL`'s advisory lock for the database, so that any number of instances may start at once.

use sqlx::migrate::{Migrate as _, MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

/// The migrations of this build.
pub static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// Where sqlx keeps what was applied.
const TABLE: &str = "_sqlx_migrations";

/// One migration and what the database knows of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MigrationStatus {
    /// Its number.
    pub version: i64,
    /// Its name.
    pub description: String,
    /// Whether it was applied.
    pub state: MigrationState,
}

/// The state of one migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MigrationState {
    /// In the database as it is in this build.
    Applied,
    /// Not yet in the database.
    Pending,
    /// In the database with another text than in this build: it was edited after it was applied.
    Drifted,
    /// In the database and unknown to this build: the database is newer than the binary.
    Unknown,
}

/// Opens a connection for migrations. The owner's statements may take long: no time limit.
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    options.clone().application_name("tenantry-migrate").options([("lock_timeout", "30s")]).connect().await
}

/// Applies what is pending; returns how many were.
pub async fn up(options: &PgConnectOptions) -> Result<usize, MigrateError> {
    let mut connection = connect(options).await?;
    let before = applied(&mut connection).await?.len();
    MIGRATOR.run(&mut connection).await?;
    // The readiness probe compares versions as the API's role. One instance at a time: two grants at once collide.
    let grant = "select pg_advisory_xact_lock(hashtext('tenantry migrate up'));
                 grant select on _sqlx_migrations to tenantry_app, tenantry_superadmin";
    connection.execute(grant).await?;
    let after = applied(&mut connection).await?.len();
    connection.close().await?;
    Ok(after - before)
}

/// Reverts the newest `steps` migrations; returns the version that is then the newest.
pub async fn down(options: &PgConnectOptions, steps: usize) -> Result<i64, MigrateError> {
    let mut connection = connect(options).await?;
    let mut versions: Vec<i64> = applied(&mut connection).await?.into_iter().map(|(version, _)| version).collect();
    versions.sort_unstable();
    let target = versions.len().checked_sub(steps + 1).map_or(0, |index| versions[index]);
    MIGRATOR.undo(&mut connection, target).await?;
    connection.close().await?;
    Ok(target)
}

/// Compares the database with this build.
pub async fn status(options: &PgConnectOptions) -> Result<Vec<MigrationStatus>, MigrateError> {
    let mut connection = connect(options).await?;
    let applied = applied(&mut connection).await?;
    connection.close().await?;
    let mut list: Vec<MigrationStatus> = MIGRATOR
        .iter()
        .filter(|migration| !migration.migration_type.is_down_migration())
        .map(|migration| MigrationStatus {
            version: migration.version,
            description: migration.description.to_string(),
            state: match applied.iter().find(|(version, _)| *version == migration.version) {
                None => MigrationState::Pending,
                Some((_, checksum)) if *checksum == migration.checksum => MigrationState::Applied,
                Some(_) => MigrationState::Drifted,
            },
        })
        .collect();
    for (version, _) in applied {
        if !list.iter().any(|known| known.version == version) {
            list.push(MigrationStatus { version, description: String::new(), state: MigrationState::Unknown });
        }
    }
    Ok(list)
}

/// The newest version of this build.
#[must_use]
pub fn newest() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<(i64, std::borrow::Cow<'static, [u8]>)>, MigrateError> {
    connection.ensure_migrations_table(TABLE).await?;
    let list = connection.list_applied_migrations(TABLE).await?;
    Ok(list.into_iter().map(|migration| (migration.version, migration.checksum)).collect())
}
