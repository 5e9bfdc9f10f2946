//! The migrations, embedded in the binary.
//!
//! Every run takes `PostgreSQL`'s advisory lock for the database, so that any number of instances may start at once.

use std::sync::LazyLock;

use sqlx::migrate::{Migrate as _, MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

/// The migrations of this build.
pub static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.dangerous_set_table_name(TABLE);
    migrator
});

/// The schema in which everything of ours is, the ledger included.
pub const SCHEMA: &str = "tenantry";

/// The ledger: where sqlx keeps what was applied. A `_sqlx_migrations` of the team's own is another table.
const TABLE: &str = "tenantry._sqlx_migrations";

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
    prepare(&mut connection).await?;
    let before = applied(&mut connection).await?.len();
    MIGRATOR.run(&mut connection).await?;
    // The readiness probe compares versions as the API's role. One instance at a time: two grants at once collide.
    let grant = "select pg_advisory_xact_lock(hashtext('tenantry migrate up'));
                 grant select on tenantry._sqlx_migrations to tenantry_app, tenantry_superadmin";
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
    if versions.is_empty() {
        return Ok(0);
    }
    MIGRATOR.undo(&mut connection, target).await?;
    if target == 0 {
        connection.execute(FORGET).await?;
    }
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

/// Makes the schema for the ledger, which has to be there before the first migration. One instance at a time.
///
/// # Errors
/// When there is a schema of this name that is somebody else's.
pub async fn prepare(connection: &mut PgConnection) -> Result<(), MigrateError> {
    const PREPARE: &str = "do $$
        begin
            perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('tenantry migrate up'));
            if pg_catalog.to_regnamespace('tenantry') is null then
                create schema tenantry;
            end if;
        end
        $$";
    if let Some(problem) = foreign_schema(connection).await? {
        return Err(MigrateError::Execute(sqlx::Error::Configuration(problem.into())));
    }
    connection.execute(PREPARE).await?;
    Ok(())
}

/// What is wrong with a schema `tenantry` that is not Tenantry's. An empty one is: an administrator made it for us.
pub async fn foreign_schema(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    // The first migration makes the function and its row in the ledger together.
    const LOOK: &str = "select n.nspowner::regrole::text,
               array(select c.relname::text from pg_catalog.pg_class c
                      where c.relnamespace = n.oid and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and c.relname <> '_sqlx_migrations'
                     union all select p.proname::text from pg_catalog.pg_proc p where p.pronamespace = n.oid
                     union all select t.typname::text from pg_catalog.pg_type t
                      where t.typnamespace = n.oid and t.typtype in ('d', 'e', 'r')
                      order by 1 limit 5)
          from pg_catalog.pg_namespace n
         where n.nspname = 'tenantry'
           and not exists (select from pg_catalog.pg_proc p join pg_catalog.pg_class c on c.relnamespace = p.pronamespace
                            where p.pronamespace = n.oid and p.proname = 'current_org' and p.pronargs = 0
                              and c.relname = '_sqlx_migrations')";
    let found: Option<(String, Vec<String>)> = sqlx::query_as(LOOK).fetch_optional(connection).await?;
    Ok(found.filter(|(_, objects)| !objects.is_empty()).map(|(owner, objects)| {
        format!(
            "the schema {SCHEMA} of this database is not Tenantry's: it belongs to {owner} and holds {}. Tenantry needs this name for its own: `alter schema {SCHEMA} rename to …`, then run `tenantry migrate up`",
            objects.join(", ")
        )
    }))
}

/// After the last migration went down. What somebody else put into the schema keeps it.
const FORGET: &str = "do $$
    begin
        drop table tenantry._sqlx_migrations;
        drop schema tenantry;
    exception when dependent_objects_still_exist then
        null;
    end
    $$";

async fn applied(connection: &mut PgConnection) -> Result<Vec<(i64, std::borrow::Cow<'static, [u8]>)>, MigrateError> {
    // Not `to_regclass`, which fails where this login may not use the schema.
    let there = "select exists (select from pg_class where relname = '_sqlx_migrations' and relnamespace = to_regnamespace('tenantry'))";
    if !sqlx::query_scalar(there).fetch_one(&mut *connection).await? {
        return Ok(Vec::new());
    }
    let list = connection.list_applied_migrations(TABLE).await?;
    Ok(list.into_iter().map(|migration| (migration.version, migration.checksum)).collect())
}
