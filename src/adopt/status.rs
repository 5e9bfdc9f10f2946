//! Says how far an adoption is, what comes next, and what a rollback would take back. It only reads.

use serde::Serialize;
use sqlx::AssertSqlSafe;

use super::check::check;
use super::installed::{Wanted, check_installed};
use super::name::quote;
use super::{OwnerConnection, Plan, Result, doing};

/// How far an adoption is.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The name of the adoption.
    pub name: String,
    /// The step it is at: `planned`, `running`, `ready`, `finalized`, `cut-over`.
    pub step: &'static str,
    /// The next command.
    pub next: &'static str,
    /// Users and organizations of Tenantry that it made.
    pub users: i64,
    pub organizations: i64,
    pub tables: Vec<TableStatus>,
    /// The changes of the schema that a rollback takes back, the last one first.
    pub to_take_back: Vec<String>,
}

/// How far a table is.
#[derive(Clone, Debug, Serialize)]
pub struct TableStatus {
    pub table: String,
    /// Rows without an organization; `None` before the column is there.
    pub without: Option<i64>,
    /// Whether row-level security is forced.
    pub enforced: bool,
}

/// Reads how far the adoption of this plan is.
///
/// # Errors
/// When the plan does not fit the database, or the database cannot be reached.
pub async fn status(session: &mut OwnerConnection, plan: Plan) -> Result<Status> {
    check_installed(session, Wanted::Read).await?;
    let checked = check(session, plan, Wanted::Read).await?;
    let name = checked.plan.name.clone();
    let known: Option<(bool, bool)> = sqlx::query_as(
        "select finalized_at is not null, cut_over_at is not null from tenantry.adoptions where name = $1",
    )
    .bind(&name)
    .fetch_optional(session.conn())
    .await
    .map_err(doing("looking for the adoption"))?;
    let mut tables = Vec::new();
    for table in &checked.tables {
        let without = if table.has_column() {
            let sql =
                format!("select count(*) from {} t where t.{} is null", table.relation().sql(), quote(table.column()));
            let count = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(session.conn()).await;
            Some(count.map_err(doing("counting rows"))?)
        } else {
            None
        };
        tables.push(TableStatus { table: table.label(), without, enforced: table.info.force_row_security });
    }
    let (users, organizations): (i64, i64) = sqlx::query_as(
        "select (select count(*) from tenantry.adopt_users where adoption = $1 and user_created),
                (select count(*) from tenantry.adopt_created where adoption = $1 and user_id is null)",
    )
    .bind(&name)
    .fetch_one(session.conn())
    .await
    .map_err(doing("counting people"))?;
    let to_take_back: Vec<String> =
        sqlx::query_scalar("select what from tenantry.adopt_changes where adoption = $1 order by number desc")
            .bind(&name)
            .fetch_all(session.conn())
            .await
            .map_err(doing("reading the record"))?;
    let done = tables.iter().all(|table| table.without == Some(0));
    let (step, next) = match known {
        None => ("planned", "tenantry adopt run --dry-run"),
        Some((_, true)) => ("cut-over", "nothing: it is done"),
        Some((true, false)) if tables.iter().all(|table| table.enforced) => {
            ("finalized", "tenantry adopt finalize --cut-over, when the old application no longer writes")
        }
        Some(_) if done => ("ready", "tenantry adopt verify, then tenantry adopt finalize"),
        Some(_) => ("running", "tenantry adopt run, then tenantry adopt verify for what is left"),
    };
    Ok(Status { name, step, next, users, organizations, tables, to_take_back })
}
