//! Reverts an adoption: the schema by the recorded undo of each change, the rows by the mapping, then users and
//! organizations.

use std::time::Duration;

use serde::Serialize;
use sqlx::AssertSqlSafe;

use super::check::check;
use super::finalize::KEY;
use super::installed::{Wanted, check_installed};
use super::name::{literal, quote};
use super::trigger::THEN;
use super::{AdoptError, OwnerConnection, Plan, Result, doing};
use crate::error::Code;

/// The result of a rollback.
#[derive(Clone, Debug, Serialize)]
pub struct RolledBack {
    /// The name of the adoption.
    pub name: String,
    /// Changes of the schema that were reverted.
    pub changes: Vec<String>,
    /// Rows whose organization was cleared, in columns that existed before.
    pub rows: u64,
    /// What was kept, and why.
    pub kept: Vec<String>,
}

/// Reverts an adoption. After an interruption it continues when run again.
pub async fn rollback(session: &mut OwnerConnection, plan: Plan, lock_timeout: Duration) -> Result<RolledBack> {
    check_installed(session, Wanted::TakeBack).await?;
    // What is to be taken back was recorded; a key that could not be must not hold up the rest.
    let mut plan = plan;
    plan.tables.iter_mut().for_each(|table| table.unique_per_tenant.clear());
    let name = plan.name.clone();
    session.lock(&name).await?;
    let known: bool = sqlx::query_scalar("select exists (select from tenantry.adoptions where name = $1)")
        .bind(&name)
        .fetch_one(session.conn())
        .await
        .map_err(doing("looking for the adoption"))?;
    if !known {
        return Err(AdoptError::refused(Code::NothingDone, format!("nothing was done yet under the name `{name}`")));
    }
    // A plan that does not fit is refused before anything is reverted.
    check(session, plan.clone(), Wanted::TakeBack).await?;
    let mut result = RolledBack { name: name.clone(), changes: Vec::new(), rows: 0, kept: Vec::new() };
    let changes: Vec<(String, String)> =
        sqlx::query_as("select what, undo from tenantry.adopt_changes where adoption = $1 order by number desc")
            .bind(&name)
            .fetch_all(session.conn())
            .await
            .map_err(doing("reading the record"))?;
    let mut unrestored = Vec::new();
    for (what, undo) in changes {
        let forget = format!(
            "delete from tenantry.adopt_changes where adoption = {} and what = {}",
            literal(&name),
            literal(&what)
        );
        let doing_it = format!("taking back: {what}");
        match undo.split_once(THEN) {
            None => session.run_locked(&doing_it, lock_timeout, &[undo, forget]).await?,
            Some((undo, then)) => {
                session.run_locked(&doing_it, lock_timeout, &[undo.to_owned()]).await?;
                session.run_concurrent(&doing_it, &[then.to_owned()]).await?;
                session.run_locked(&doing_it, lock_timeout, &[forget]).await?;
            }
        }
        unrestored.extend(missing_key(session, &what).await?);
        result.changes.push(what);
    }
    // Read again: added columns are gone. Columns that existed before stay, and lose the values they got here.
    let checked = check(session, plan, Wanted::TakeBack).await?;
    if checked.plan.quiet_triggers {
        session.quiet(true).await?;
    }
    session.hurry(true).await?;
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
            column = quote(table.column()),
        );
        let mut progress = session.progress.begin(table.label(), 0);
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
    session.hurry(false).await?;
    if checked.plan.quiet_triggers {
        session.quiet(false).await?;
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
    result.kept.extend(unrestored);
    Ok(result)
}

/// Says so when a key that had become a tenant's own could not be made unique across all again.
async fn missing_key(session: &mut OwnerConnection, what: &str) -> Result<Option<String>> {
    let Some((key, table)) = what.strip_prefix(KEY).and_then(|key| key.split_once(" of ")) else { return Ok(None) };
    let there: bool = sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(key)
        .fetch_one(session.conn())
        .await
        .map_err(doing("looking for a key"))?;
    Ok((!there).then(|| format!("{table} without its unique key {key}: tenants have come to use the same value")))
}
