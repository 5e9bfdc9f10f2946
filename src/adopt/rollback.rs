//! Everything back: the schema by what was recorded with each change, the rows by the mapping, then people.

use std::time::Duration;

use serde::Serialize;
use sqlx::AssertSqlSafe;

use super::check::check;
use super::installed::{Wanted, installed};
use super::name::{literal, quote};
use super::progress::Progress;
use super::trigger::THEN;
use super::{AdoptError, COLUMN, Plan, Result, Session, doing};

/// What was taken back.
#[derive(Clone, Debug, Serialize)]
pub struct RolledBack {
    /// The name of the adoption.
    pub name: String,
    /// Changes of the schema that were taken back.
    pub changes: Vec<String>,
    /// Rows whose organization was taken away (in a column that was there before).
    pub rows: u64,
    /// What had to stay, and why.
    pub kept: Vec<String>,
}

/// Takes an adoption back. Interrupted, it goes on when run again.
pub async fn rollback(session: &mut Session, plan: Plan, lock_timeout: Duration) -> Result<RolledBack> {
    installed(session, Wanted::Write).await?;
    let name = plan.name.clone();
    session.lock(&name).await?;
    let known: bool = sqlx::query_scalar("select exists (select from tenantry.adoptions where name = $1)")
        .bind(&name)
        .fetch_one(session.conn())
        .await
        .map_err(doing("looking for the adoption"))?;
    if !known {
        return Err(AdoptError::refused("NOTHING_DONE", format!("nothing was done yet under the name `{name}`")));
    }
    // A plan that does not fit is better refused before anything is taken back.
    check(session, plan.clone(), Wanted::Write).await?;
    let mut result = RolledBack { name: name.clone(), changes: Vec::new(), rows: 0, kept: Vec::new() };
    let changes: Vec<(String, String)> =
        sqlx::query_as("select what, undo from tenantry.adopt_changes where adoption = $1 order by number desc")
            .bind(&name)
            .fetch_all(session.conn())
            .await
            .map_err(doing("reading the record"))?;
    for (what, undo) in changes {
        let forget = format!(
            "delete from tenantry.adopt_changes where adoption = {} and what = {}",
            literal(&name),
            literal(&what)
        );
        let doing_it = format!("taking back: {what}");
        match undo.split_once(THEN) {
            None => session.short(&doing_it, lock_timeout, &[undo, forget]).await?,
            Some((undo, then)) => {
                session.short(&doing_it, lock_timeout, &[undo.to_owned()]).await?;
                session.long(&doing_it, &[then.to_owned()]).await?;
                session.short(&doing_it, lock_timeout, &[forget]).await?;
            }
        }
        result.changes.push(what);
    }
    // Read again: columns that were added are gone. Those that were there before keep their place and lose what they got here.
    let checked = check(session, plan, Wanted::Write).await?;
    for table in checked.tables.iter().filter(|table| table.has_column()) {
        let (adoption, label) = (literal(&name), literal(&table.label()));
        let sql = format!(
            "with batch as materialized (
                 delete from tenantry.adopt_batches where (adoption, table_name, number) in (
                     select adoption, table_name, number from tenantry.adopt_batches where adoption = {adoption} and table_name = {label} order by number desc limit 1)
                 returning keys, organizations
             ), cleared as (
                 update {} t set {column} = null
                   from (select unnest(keys) as key, unnest(organizations) as organization from batch) b
                  where {} and t.{column} = b.organization returning 1
             )
             select (select count(*) from batch), (select count(*) from cleared)",
            table.relation().sql(),
            table.has_key("t", "b.key"),
            column = quote(COLUMN),
        );
        let mut progress = Progress::new(table.label(), 0);
        loop {
            let (batches, rows): (i64, i64) = session
                .retrying("taking back the rows", async |connection| {
                    sqlx::query_as(AssertSqlSafe(sql.as_str())).fetch_one(connection).await
                })
                .await?;
            result.rows += rows.unsigned_abs();
            progress.advance(rows.unsigned_abs());
            if batches == 0 {
                break;
            }
        }
        progress.finish();
    }
    let take_back = format!(
        "select kept from tenantry.adopt_take_back({0}); delete from tenantry.adoptions where name = {0}",
        literal(&name)
    );
    result.kept = session
        .retrying("taking back organizations and users", async |connection| {
            // One message is one transaction.
            let rows = sqlx::raw_sql(AssertSqlSafe(take_back.as_str())).fetch_all(connection).await?;
            rows.iter().map(|row| sqlx::Row::try_get(row, 0)).collect()
        })
        .await?;
    Ok(result)
}
