//! The transaction of webhooks, workers and commands: as the superadmin role, across tenants.
//!
//! Isolation is lifted by policies that name that role, not by a flag on the API's role. A test keeps the list of
//! modules that may open one.

use sqlx::{PgConnection, Postgres, Transaction};

use crate::db::{BEGIN, Db};
use crate::error::Result;

/// A transaction that sees every tenant.
#[derive(Debug)]
pub struct SystemTx(Transaction<'static, Postgres>);

impl SystemTx {
    /// Opens a transaction; dropping it rolls back.
    pub async fn begin(db: &Db) -> Result<Self> {
        Ok(Self(db.system_statement(|pool| async move { pool.begin_with(BEGIN).await }).await?))
    }

    /// The connection.
    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.0
    }

    /// Takes everything back, and comes back when it is: dropping leaves that, and the release of the locks, for later.
    pub async fn rollback(self) -> Result<()> {
        Ok(self.0.rollback().await?)
    }

    /// Makes the writes durable.
    pub async fn commit(self) -> Result<()> {
        Ok(self.0.commit().await?)
    }
}
