//! The transaction of webhooks, workers and commands: as the superadmin role, across tenants.
//!
//! Isolation is lifted by policies that name that role, not by a flag on the API's role. A test keeps the list of
//! modules that may open one.

use crate::db::writing::Writing;
use crate::db::{BEGIN, Conn, Db, takes_no_writes};
use crate::error::{Error, Result};

/// A transaction that sees every tenant.
#[derive(Debug)]
pub struct SystemTx(Writing);

impl SystemTx {
    /// Opens a transaction; dropping it rolls back.
    pub async fn begin(db: &Db) -> Result<Self> {
        match Writing::begin(&db.system, BEGIN, None).await {
            Ok((writing, _)) => Ok(Self(writing)),
            Err(error) if takes_no_writes(&error) => {
                db.leave_standby();
                Err(Error::Unavailable)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The connection. It is in this transaction without sqlx's knowing: a part that may fail is a `savepoint`, never sqlx's `begin`.
    pub fn conn(&mut self) -> &mut Conn {
        self.0.conn()
    }

    /// Lets statements take as long as they take, in the database and here: for commands, whose user watches. What the server does by
    /// itself would wait for ever for a database that has vanished.
    pub async fn without_limit(&mut self) -> Result<()> {
        sqlx::raw_sql("set local statement_timeout = 0").execute(self.conn()).await?;
        self.conn().waits_for_ever();
        Ok(())
    }

    /// Takes everything back, and comes back when it is: dropping leaves that, and the release of the locks, for later.
    pub async fn rollback(self) -> Result<()> {
        Ok(self.0.end(false).await?)
    }

    /// Makes the writes durable.
    pub async fn commit(self) -> Result<()> {
        Ok(self.0.end(true).await?)
    }
}
