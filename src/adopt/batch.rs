//! One batch: one statement in one transaction. It takes the next rows without an organization, infers, updates, and writes the
//! mapping, the failures and the checkpoint.
//!
//! Rows are not locked before they are updated, which would write each of them once more. Where another transaction holds one,
//! the batch waits for a moment, and then does without those that others hold.

use sqlx::{AssertSqlSafe, PgConnection};

use super::check::{Checked, CheckedTable};
use super::infer::{Mappings, conditions, inference};
use super::name::{literal, quote};
use super::plan::Source;

/// The result of a batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Rows it read.
    pub seen: u64,
    /// Rows that got their organization.
    pub assigned: u64,
    /// The last key it read.
    pub position: Option<Vec<String>>,
}

/// The statements of a table's batches.
#[derive(Clone, Debug)]
pub struct BatchSql {
    /// The table.
    pub label: String,
    /// Rows of a batch.
    pub limit: u64,
    first: String,
    next: String,
    /// The same without the rows that others hold.
    first_free: String,
    next_free: String,
}

impl BatchSql {
    /// All rows, in the order of the key.
    pub fn of_table(checked: &Checked, table: &CheckedTable, limit: u32) -> Self {
        let position: Vec<String> =
            table.key.iter().enumerate().map(|(n, c)| format!("($1::text[])[{}]::{}", n + 1, c.data_type)).collect();
        let beyond = format!("and ({}) > ({})", table.key_columns("t").join(", "), position.join(", "));
        Self {
            label: table.label(),
            limit: u64::from(limit),
            first: batch_sql(checked, table, "", limit, true, false),
            next: batch_sql(checked, table, &beyond, limit, true, false),
            first_free: batch_sql(checked, table, "", limit, true, true),
            next_free: batch_sql(checked, table, &beyond, limit, true, true),
        }
    }

    /// The rows of one user.
    pub fn of_user(checked: &Checked, table: &CheckedTable, limit: u32) -> Self {
        let user = table.spec.organization.iter().find_map(|source| match source {
            Source::User { user, to, .. } => table.info.column(user).map(|column| (column, to)),
            _ => None,
        });
        let condition = match user {
            None => "and false".to_owned(),
            Some((column, None)) => format!("and t.{} = $1::{}", quote(&column.name), column.data_type),
            Some((column, Some(to))) => format!(
                "and t.{} = (select p.{} from {} p where p.{}::text = $1)",
                quote(&column.name),
                quote(to),
                checked.plan.users.rows(),
                quote(&checked.plan.users.id)
            ),
        };
        // In the transaction of its user, which others may wait for: it waits for nobody.
        let sql = batch_sql(checked, table, &condition, limit, false, true);
        Self {
            label: table.label(),
            limit: u64::from(limit),
            first: sql.clone(),
            next: sql.clone(),
            first_free: sql.clone(),
            next_free: sql,
        }
    }

    /// Runs the next batch after a position.
    pub async fn execute(&self, connection: &mut PgConnection, position: Option<&[String]>) -> sqlx::Result<Batch> {
        match self.attempt(connection, position, false).await {
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03") => {
                self.attempt(connection, position, true).await
            }
            done => done,
        }
    }

    async fn attempt(
        &self,
        connection: &mut PgConnection,
        position: Option<&[String]>,
        free: bool,
    ) -> sqlx::Result<Batch> {
        let (first, next) = if free { (&self.first_free, &self.next_free) } else { (&self.first, &self.next) };
        let row: (i64, i64, Option<Vec<String>>) = match position {
            None => sqlx::query_as(AssertSqlSafe(first.as_str())).fetch_one(connection).await?,
            Some(position) => sqlx::query_as(AssertSqlSafe(next.as_str())).bind(position).fetch_one(connection).await?,
        };
        Ok(Batch { seen: row.0.unsigned_abs(), assigned: row.1.unsigned_abs(), position: row.2 })
    }

    /// Runs the next batch of a user's rows.
    pub async fn execute_for_user(&self, connection: &mut PgConnection, legacy_id: &str) -> sqlx::Result<Batch> {
        let row: (i64, i64, Option<Vec<String>>) =
            sqlx::query_as(AssertSqlSafe(self.first.as_str())).bind(legacy_id).fetch_one(connection).await?;
        Ok(Batch { seen: row.0.unsigned_abs(), assigned: row.1.unsigned_abs(), position: row.2 })
    }
}

fn batch_sql(
    checked: &Checked,
    table: &CheckedTable,
    condition: &str,
    limit: u32,
    checkpoint: bool,
    free: bool,
) -> String {
    let inference = inference(checked, table, Mappings::Real);
    let keys = table.key_columns("t").join(", ");
    let sources = table.source_columns().into_iter().map(|name| format!("t.{}", quote(name)));
    let sources: Vec<String> = sources.chain(conditions(table)).map(|column| format!(", {column}")).collect();
    let position: Vec<String> = table.key_columns("t").iter().map(|column| format!("{column}::text")).collect();
    let organization = inference.organization();
    let (adoption, label) = (literal(&checked.plan.name), literal(&table.label()));
    let moved = if checkpoint {
        format!(
            ", moved as (insert into tenantry.adopt_checkpoints (adoption, table_name, position) select {adoption}, {label}, position from batch where number = (select count(*) from batch)
                         on conflict (adoption, table_name) do update set position = excluded.position)"
        )
    } else {
        String::new()
    };
    // A join on the place of a row needs no index and does not depend on statistics. A row that another transaction changed in
    // the meantime is in another place, and has another xmin: PostgreSQL follows it there and looks at the conditions again, but
    // (before its minor versions of November 2025) not at its place. It may be another tenant's now; a sweep takes it later.
    let lock = if free { " for no key update of t skip locked" } else { "" };
    format!(
        "with batch as materialized (
             select p.*, row_number() over () as number from (
                 select t.ctid as place, t.xmin as version, {key} as key, array[{position}] as position{sources}
                   from {relation} t where t.{column} is null {condition}
                  order by {keys} limit {limit}{lock}) p
         ), decided as materialized (
             select b.place, b.version, b.key, {organization} as organization, {source} as source,
                    case when {organization} is null then {reason} end as reason,
                    case when {organization} is null then {detail} end as detail
               from batch b{joins}
         ), updated as (
             update {relation} t set {column} = d.organization from decided d
              where t.ctid = d.place and t.xmin = d.version and d.organization is not null and t.{column} is null
             returning d.key, d.organization, d.source
         ), mapped as (
             insert into tenantry.adopt_batches (adoption, table_name, keys, organizations, sources)
             select {adoption}, {label}, array_agg(key), array_agg(organization), array_agg(source) from updated having count(*) > 0
         ), failed as (
             insert into tenantry.adopt_unresolved as u (adoption, table_name, key, reason, detail)
             select {adoption}, {label}, key, reason, detail from decided where organization is null
             on conflict (adoption, table_name, key) do update set reason = excluded.reason, detail = excluded.detail
              where (u.reason, u.detail) is distinct from (excluded.reason, excluded.detail)
         ){moved}
         select (select count(*) from batch), (select count(*) from updated), (select position from batch where number = (select count(*) from batch))",
        key = table.key_text("t"),
        position = position.join(", "),
        sources = sources.concat(),
        relation = table.relation().sql(),
        column = quote(table.column()),
        source = inference.source(),
        reason = inference.reason(),
        detail = inference.detail(),
        joins = inference.joins,
    )
}
