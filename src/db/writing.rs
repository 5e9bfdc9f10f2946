//! A connection in a transaction that writes, and how it ends: by a commit, by a rollback, or closed.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgRow;

use crate::db::conn::{Conn, Pool};
use crate::db::queue::Place;
use crate::db::traffic::Sent;

/// A connection in a transaction that writes. One that could not be rolled back is not used again. Boxed, because every verb's
/// future holds it.
#[derive(Debug)]
pub struct Writing(Option<Box<Held>>);

#[derive(Debug)]
struct Held {
    /// The statement under way. sqlx does not tell when it was answered: it ends where the next begins, or with the transaction.
    under_way: Option<Sent<'static>>,
    connection: Conn,
    /// The right to the connection. Below it, so that it is given back after it.
    place: Option<Place>,
}

impl Writing {
    /// Sends the statements that begin a transaction, on a connection that lives; gives the rows of the last of them. An idle
    /// connection may have died with the server: as many are tried as were idle, then one new one.
    pub(super) async fn begin(pool: &Pool, begin: &str, mut place: Option<Place>) -> sqlx::Result<(Self, Vec<PgRow>)> {
        let mut tries = pool.tries();
        loop {
            let connection = pool.take().await?;
            // The guard exists before the statement is sent: a request that is cancelled here is rolled back as well.
            let mut this = Self(Some(Box::new(Held { under_way: None, connection, place: place.take() })));
            match sqlx::raw_sql(AssertSqlSafe(begin)).fetch_all(this.conn()).await {
                Ok(rows) => {
                    this.conn().has_begun();
                    return Ok((this, rows));
                }
                Err(error) => {
                    place = this.close();
                    if !tries.again(&error) {
                        return Err(error);
                    }
                }
            }
        }
    }

    pub(super) fn conn(&mut self) -> &mut Conn {
        &mut self.held().connection
    }

    #[expect(
        clippy::expect_used,
        reason = "the connection is taken by `end`, `close` and drop only, which are the last"
    )]
    fn held(&mut self) -> &mut Held {
        self.0.as_mut().expect("a transaction has its connection until it ends")
    }

    /// Notes that a statement begins; the one before has ended.
    pub(super) fn begins(&mut self, what: impl FnOnce() -> Sent<'static>) {
        let held = self.held();
        held.under_way = None;
        held.under_way = Some(what());
    }

    /// Ends it and comes back when that is done.
    pub(super) async fn end(mut self, commits: bool) -> sqlx::Result<()> {
        self.held().under_way = None;
        sqlx::raw_sql(if commits { "commit" } else { "rollback" }).execute(self.conn()).await?;
        self.0 = None;
        Ok(())
    }

    /// Closes the connection; the right to one is left.
    fn close(&mut self) -> Option<Place> {
        let mut held = self.0.take()?;
        held.connection.give_up();
        held.place.take()
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_err() {
            drop(self.close());
            return;
        }
        let Some(mut held) = self.0.take() else { return };
        held.under_way = None;
        // Off the caller's path: what was not committed has nothing to wait for. What is not answered in time is closed, so that
        // another takes its place.
        tokio::spawn(async move {
            let ending = held.connection.ending();
            let rollback = sqlx::raw_sql("rollback").execute(&mut held.connection);
            if !matches!(tokio::time::timeout(ending, rollback).await, Ok(Ok(_))) {
                held.connection.give_up();
            }
            drop(held);
        });
    }
}
