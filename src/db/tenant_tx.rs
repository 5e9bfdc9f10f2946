//! The only way for API code to reach the database.
//!
//! Opening is one round trip: `begin`, then `tenantry.enter_tenant(…)`, which looks up the viewer's membership and sets
//! `app.current_org_id` and `app.current_user_id` for this transaction, so that row-level security sees them. A viewer
//! without a live membership gets no transaction. The settings are local to the transaction: nothing is left on the
//! connection for the next user.
//!
//! A `TenantTx` that is dropped, by an error or because the client went away in mid-request, is rolled back in the
//! background before its connection is used again; a connection that cannot be rolled back is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row};

use crate::access::{MemberRole, OrganizationRef, Tenant};
use crate::db::{Db, connection_died};
use crate::error::{Error, Result};
use crate::id::Id;

/// What a transaction may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only, on one snapshot: everything a query shows is from the same moment.
    Read,
    /// Read and write.
    Write,
}

/// A transaction bound to one viewer in one organization.
#[derive(Debug)]
pub struct TenantTx {
    connection: Option<PoolConnection<Postgres>>,
    tenant: Tenant,
    statements: Arc<AtomicU32>,
}

impl TenantTx {
    /// Opens a transaction for the user with this `sub` in this organization.
    ///
    /// `statements` counts round trips, for the log and the N+1 test.
    ///
    /// # Errors
    /// [`Error::OrganizationNotFound`] when there is no such organization or no membership, [`Error::Unavailable`] when
    /// no connection is to be had in time.
    pub async fn begin(
        db: &Db,
        access: Access,
        subject: &str,
        organization: &OrganizationRef,
        statements: Arc<AtomicU32>,
    ) -> Result<Self> {
        let begin = begin_statement(access, subject, organization)?;
        // An idle connection may have died with the server: try as many as were idle, then one new one.
        let mut dead_connections_left = db.app().num_idle();
        loop {
            let connection = db.app().acquire().await?;
            statements.fetch_add(1, Ordering::Relaxed);
            // The guard exists before the statement is sent: a request that is cancelled here is rolled back as well.
            let mut tx = Self { connection: Some(connection), tenant: NOBODY, statements: Arc::clone(&statements) };
            let rows = match sqlx::raw_sql(AssertSqlSafe(begin.as_str())).fetch_all(tx.raw()).await {
                Ok(rows) => rows,
                Err(error) => {
                    tx.close_connection();
                    if dead_connections_left > 0 && connection_died(&error) {
                        dead_connections_left -= 1;
                        continue;
                    }
                    return Err(error.into());
                }
            };
            let Some(row) = rows.first() else { return Err(Error::OrganizationNotFound) };
            tx.tenant = Tenant {
                user_id: row.try_get(0)?,
                organization_id: row.try_get(1)?,
                role: MemberRole::from_label(row.try_get(2)?)
                    .ok_or_else(|| Error::internal("the database knows a member role that this build does not"))?,
                is_superadmin: row.try_get(3)?,
            };
            return Ok(tx);
        }
    }

    /// The viewer and the organization.
    #[must_use]
    pub fn tenant(&self) -> Tenant {
        self.tenant
    }

    /// The connection, for one statement: calls are counted.
    pub fn conn(&mut self) -> &mut PgConnection {
        self.statements.fetch_add(1, Ordering::Relaxed);
        self.raw()
    }

    #[expect(clippy::expect_used, reason = "the connection is taken by commit and drop only, and both consume self")]
    fn raw(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("a transaction has its connection until it ends")
    }

    /// Makes the writes durable and visible. Nothing is, until this returned `Ok`.
    pub async fn commit(mut self) -> Result<()> {
        sqlx::raw_sql("commit").execute(self.conn()).await?;
        self.connection = None;
        Ok(())
    }

    /// Commits when the verb did its work, rolls back when it refused.
    pub async fn finish(self, done: bool) -> Result<()> {
        if done { self.commit().await } else { Ok(()) }
    }

    fn close_connection(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.close_on_drop();
        }
    }
}

/// Stands in until the membership is read; it never leaves `begin`.
const NOBODY: Tenant =
    Tenant { user_id: Id::NIL, organization_id: Id::NIL, role: MemberRole::Viewer, is_superadmin: false };

impl Drop for TenantTx {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if tokio::runtime::Handle::try_current().is_err() {
            connection.close_on_drop();
            return;
        }
        // Off the caller's path: a read-only transaction has nothing to wait for.
        tokio::spawn(async move {
            if sqlx::raw_sql("rollback").execute(&mut *connection).await.is_err() {
                connection.close_on_drop();
            }
        });
    }
}

/// Both statements in one message. The simple protocol has no parameters, so the values are quoted here; a NUL, the one
/// character a `PostgreSQL` string cannot hold, is refused.
fn begin_statement(access: Access, subject: &str, organization: &OrganizationRef) -> Result<String> {
    let begin = match access {
        // One snapshot for all statements of a query; such a transaction cannot fail to serialize.
        Access::Read => "begin isolation level repeatable read read only",
        Access::Write => "begin",
    };
    let (id, clerk, slug) = match organization {
        OrganizationRef::Id(id) => (format!("'{id}'"), "null".to_owned(), "null".to_owned()),
        OrganizationRef::Clerk(clerk) => ("null".to_owned(), quote(clerk)?, "null".to_owned()),
        OrganizationRef::Slug(slug) => ("null".to_owned(), "null".to_owned(), quote(slug)?),
    };
    let subject = quote(subject)?;
    Ok(format!(
        "{begin}; select user_id, organization_id, role::text, is_superadmin from tenantry.enter_tenant({subject}, {id}, {clerk}, {slug})"
    ))
}

/// A string constant (`PostgreSQL` documentation, 4.1.2.1). The `E''` form means the same whatever
/// `standard_conforming_strings` is set to.
fn quote(text: &str) -> Result<String> {
    if text.contains('\0') {
        return Err(Error::OrganizationNotFound);
    }
    Ok(format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted() {
        let statement = begin_statement(
            Access::Write,
            r"a'); drop table tenantry.users; --\",
            &OrganizationRef::Slug("x'y".into()),
        )
        .expect("no NUL");
        assert!(
            statement.contains(r"enter_tenant(E'a''); drop table tenantry.users; --\\', null, null, E'x''y')"),
            "{statement}"
        );
        assert!(begin_statement(Access::Read, "a\0b", &OrganizationRef::Slug("x".into())).is_err());
    }
}
