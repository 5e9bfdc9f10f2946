//! The database of a command: the configured one, or the local server of development.

use std::path::PathBuf;

use sqlx::postgres::PgConnectOptions;

use super::output::{CommandError, printable};
use crate::config::{Config, DatabaseConfig};
use crate::db::Db;
use crate::id::OrganizationId;
use crate::local_postgres::{self, LocalPostgres};
use crate::organizations::find_organization;

/// The name of the database on the local server.
const LOCAL_DATABASE: &str = "tenantry";

/// The addresses of the database. The local server, if there is one, runs until this is dropped.
pub(super) struct Database {
    /// As a member of `tenantry_app`.
    pub(super) app: PgConnectOptions,
    /// As a member of `tenantry_superadmin`.
    pub(super) superadmin: Option<PgConnectOptions>,
    migration: Option<PgConnectOptions>,
    local: Option<LocalPostgres>,
}

impl Database {
    pub(super) async fn open(config: &Config) -> Result<Self, CommandError> {
        match &config.database {
            DatabaseConfig::Remote { app, superadmin, migration } => Ok(Self {
                app: (**app).clone(),
                superadmin: superadmin.as_deref().cloned(),
                migration: migration.as_deref().cloned(),
                local: None,
            }),
            DatabaseConfig::Local => {
                let options = local_postgres::Options { data_dir: data_dir(config), durable: true };
                let server = LocalPostgres::start(options).await.map_err(CommandError::usage)?;
                server.ensure_database(LOCAL_DATABASE).await.map_err(CommandError::usage)?;
                Ok(Self {
                    app: server.connect_options(local_postgres::APP_ROLE, LOCAL_DATABASE),
                    superadmin: Some(server.connect_options(local_postgres::SUPERADMIN_ROLE, LOCAL_DATABASE)),
                    migration: Some(server.connect_options(local_postgres::OWNER_ROLE, LOCAL_DATABASE)),
                    local: Some(server),
                })
            }
        }
    }

    /// The address as the owner of the tables.
    pub(super) fn owner(&self) -> Result<&PgConnectOptions, CommandError> {
        self.migration.as_ref().ok_or_else(|| {
            CommandError::usage(
                "MIGRATION_DATABASE_URL is missing: the address of the database as the owner of the tables",
            )
        })
    }

    /// The pools of the API and of the commands.
    pub(super) fn pools(&self, config: &Config) -> Result<Db, CommandError> {
        let superadmin = self.superadmin.clone().ok_or_else(|| {
            CommandError::usage(
                "SUPERADMIN_DATABASE_URL is missing: the address of the database as a member of tenantry_superadmin",
            )
        })?;
        Ok(Db::new(self.app.clone(), superadmin, config.pool))
    }

    /// Whether this is the local server of development.
    pub(super) fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// The URL of the local server as the owner of the tables, for `psql`.
    pub(super) fn local_url(&self) -> Option<String> {
        self.local.as_ref().map(|server| server.url(local_postgres::OWNER_ROLE, LOCAL_DATABASE))
    }
}

/// The folder of the local server and of the development keys.
pub(super) fn data_dir(config: &Config) -> PathBuf {
    local_postgres::default_data_dir(config.data_dir.clone())
}

/// The organization that somebody names: by its slug, or its id (ours or Clerk's).
pub(super) async fn organization(db: &Db, name: &str) -> Result<OrganizationId, CommandError> {
    let found = find_organization(db, name).await?;
    found.ok_or_else(|| CommandError::failed(format!("there is no organization {}", printable(name))))
}
