//! Forecasts a run without changing anything, in one read-only transaction on one snapshot. Temporary tables of the
//! session hold what a run would have made.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Executor as _};

use super::check::{Checked, CheckedTable, check};
use super::finalize::access;
use super::infer::{Mappings, conditions, dry_table, inference};
use super::installed::{Wanted, check_installed, refuse_open_schemas};
use super::name::{literal, quote};
use super::people::{refuse_foreign_organizations, resolution};
use super::plan::{Policy, Source};
use super::progress::format_duration;
use super::{OwnerConnection, Plan, Result, RunOptions, around, doing, rehearse};

/// The forecast of a run.
#[derive(Clone, Debug, Serialize)]
pub struct DryRun {
    /// The name of the adoption.
    pub name: String,
    /// Users by what would happen to them: `processed`, `skipped`, `unresolved`.
    pub users: Vec<(String, i64)>,
    /// Some users whose organization is not known, with the reason.
    pub user_samples: Vec<Sample>,
    pub tables: Vec<TableForecast>,
    /// Estimated seconds.
    pub seconds: f64,
    /// What to know before the run.
    pub notes: Vec<String>,
}

/// The forecast for a table.
#[derive(Clone, Debug, Serialize)]
pub struct TableForecast {
    pub table: String,
    /// All rows.
    pub rows: i64,
    /// Rows that have an organization.
    pub already: i64,
    /// Rows that would get one.
    pub assigned: i64,
    /// Rows that would be reported.
    pub unresolved: i64,
    /// Of the reported rows, those whose sources contradict each other.
    pub conflicts: i64,
    /// Some of the reported rows.
    pub samples: Vec<Sample>,
}

/// A row and why it would be reported.
#[derive(Clone, Debug, Serialize, serde::Deserialize)]
pub struct Sample {
    pub key: String,
    /// Why it would be reported.
    pub reason: String,
}

/// Rows per second that a run writes at least, as measured by `cargo bench --bench adopt`. The estimate is rather too
/// long.
const ROWS_PER_SECOND: f64 = 15_000.0;
const USERS_PER_SECOND: f64 = 1_000.0;

/// Forecasts a run.
pub async fn dry_run(session: &mut OwnerConnection, plan: Plan, options: &RunOptions) -> Result<DryRun> {
    check_installed(session, Wanted::Read).await?;
    let checked = check(session, plan, Wanted::Read).await?;
    refuse_foreign_organizations(session, &checked).await?;
    temporary_tables(session, &checked).await?;
    let connection = session.conn();
    // From here on the server refuses every change except of temporary tables.
    let begin = "begin isolation level repeatable read read only";
    connection.execute(begin).await.map_err(doing("dry run"))?;
    let result = forecast(session, &checked, options).await;
    session.conn().execute("rollback").await.map_err(doing("dry run"))?;
    session.conn().execute("discard temp").await.map_err(doing("dry run"))?;
    let mut forecast = result?;
    forecast.notes.extend(obstacles(session, &checked).await?);
    Ok(forecast)
}

/// What `run` and `finalize` would refuse, or would fail at.
async fn obstacles(session: &mut OwnerConnection, checked: &Checked) -> Result<Vec<String>> {
    let run = rehearse::run_of(session, checked).await?;
    let finalize = rehearse::finalize_of(session, checked).await?;
    let mut notes: Vec<String> = run.refused.iter().map(|problem| format!("REFUSED: {problem}")).collect();
    let mut before: Vec<String> = Vec::new();
    if let Err(error) = refuse_open_schemas(session).await {
        before.push(error.to_string());
    }
    // What stops the run stops here as well.
    before.extend(finalize.refused.into_iter().filter(|problem| !run.refused.contains(problem)));
    before.extend(access(session, checked, false).await?);
    let ways = around::find(session, checked).await?;
    let ways = ways.into_iter().filter(|finding| !checked.plan.accept.contains(&finding.name()));
    before.extend(ways.map(|finding| format!("{}: {}", finding.subject, finding.problem)));
    notes.extend(before.iter().flat_map(|problem| problem.lines()).map(|line| format!("BEFORE FINALIZE: {line}")));
    let untried: std::collections::BTreeSet<String> = run.untried.into_iter().chain(finalize.untried).collect();
    if !untried.is_empty() {
        let list: Vec<String> = untried.into_iter().collect();
        notes.push(format!("not tried, because others held it: {}", list.join(", ")));
    }
    Ok(notes)
}

async fn execute(session: &mut OwnerConnection, sql: &str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(session.conn()).await.map(drop).map_err(doing("dry run"))
}

async fn temporary_tables(session: &mut OwnerConnection, checked: &Checked) -> Result<()> {
    let mut sql = "discard temp;
        create temp table adopt_organizations (legacy_id text primary key, organization_id uuid not null);
        create temp table adopt_users (legacy_id text primary key, organization_id uuid, reason text, outcome text not null);
        create temp table adopt_default (default_organization uuid);"
        .to_owned();
    for table in &checked.tables {
        let columns: Vec<String> = columns(checked, table)
            .iter()
            .filter_map(|name| table.info.column(name))
            .map(|column| format!("{} {}, ", quote(&column.name), column.data_type))
            .collect();
        let key: Vec<String> = table.key.iter().map(|column| quote(&column.name)).collect();
        let columns = columns.concat();
        let name = dry_table(checked, table.relation());
        let short = name.trim_start_matches("pg_temp.");
        let _ = write!(
            sql,
            "create temp table {short} ({columns} {} uuid, already boolean not null, conflict boolean not null, reason text, primary key ({}));",
            quote(table.column()),
            key.join(", ")
        );
    }
    execute(session, &sql).await
}

/// The columns that identify rows of a table: its key and the columns that other tables reference.
fn columns(checked: &Checked, table: &CheckedTable) -> Vec<String> {
    let mut list: Vec<String> = table.key.iter().map(|column| column.name.clone()).collect();
    // Without `to`, other tables reference the primary key, whatever the key in the plan is.
    list.extend(table.info.key().unwrap_or_default().iter().cloned());
    for source in checked.tables.iter().flat_map(|other| &other.spec.organization) {
        if let Source::Row { row, to: Some(to), .. } = source
            && row == table.relation()
        {
            list.extend(to.0.iter().cloned());
        }
    }
    list.sort();
    list.dedup();
    list
}

/// A placeholder for the id of an organization that does not exist yet.
fn placeholder_id(kind: &str, id: &str) -> String {
    format!("md5({} || {id})::uuid", literal(&format!("{kind}:")))
}

async fn forecast(session: &mut OwnerConnection, checked: &Checked, options: &RunOptions) -> Result<DryRun> {
    people(session, checked).await?;
    let users: Vec<(String, i64)> =
        sqlx::query_as("select outcome, count(*) from pg_temp.adopt_users group by 1 order by 1")
            .fetch_all(session.conn())
            .await
            .map_err(doing("dry run"))?;
    let user_samples: Vec<(Json<Sample>,)> = sqlx::query_as(
        "select jsonb_build_object('key', legacy_id, 'reason', reason) from pg_temp.adopt_users where outcome = 'unresolved' order by legacy_id limit 5",
    )
    .fetch_all(session.conn())
    .await
    .map_err(doing("dry run"))?;
    let mut tables = Vec::new();
    for table in &checked.tables {
        tables.push(rows(session, checked, table).await?);
    }
    let to_do: i64 = tables.iter().map(|table| table.assigned).sum();
    let new_users: i64 = users.iter().filter(|(outcome, _)| outcome == "processed").map(|(_, count)| count).sum();
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let (to_do, new_users) = (to_do as f64, new_users as f64);
    let batches = to_do / f64::from(options.batch_size.max(1));
    let seconds = to_do / ROWS_PER_SECOND + new_users / USERS_PER_SECOND + batches * options.sleep.as_secs_f64();
    Ok(DryRun {
        name: checked.plan.name.clone(),
        users,
        user_samples: user_samples.into_iter().map(|(Json(sample),)| sample).collect(),
        notes: notes(checked, options, seconds),
        tables,
        seconds,
    })
}

async fn people(session: &mut OwnerConnection, checked: &Checked) -> Result<()> {
    let plan = &checked.plan;
    let adoption = literal(&plan.name);
    if let Some(organizations) = &plan.organizations {
        let id = format!("o.{}::text", quote(&organizations.id));
        let sql = format!(
            "insert into pg_temp.adopt_organizations
             select {id}, coalesce(a.organization_id, {}) from {} o
               left join tenantry.adopt_organizations a on a.adoption = {adoption} and a.legacy_id = {id}",
            placeholder_id("organization", &id),
            organizations.rows()
        );
        execute(session, &sql).await?;
    }
    let default = placeholder_id("default", "''");
    let sql = format!(
        "insert into pg_temp.adopt_default
         select coalesce((select default_organization from tenantry.adoptions where name = {adoption}), {default})
          where {} and exists (select from {} u)",
        plan.workspaces.has_default(),
        plan.users.rows()
    );
    execute(session, &sql).await?;
    let (made, why) = match plan.workspaces.users_without {
        Policy::Personal => (placeholder_id("personal", "r.legacy_id"), "null"),
        Policy::Default => ("(select default_organization from pg_temp.adopt_default)".to_owned(), "null"),
        Policy::Leave => ("null::uuid".to_owned(), "'has no organization, and the plan leaves such users alone'"),
    };
    // As tenantry.adopt_user does it, for all at once.
    let sql = format!(
        "insert into pg_temp.adopt_users
         select f.legacy_id, f.organization_id, case when f.organization_id is null then f.reason end,
                case when f.organization_id is null then 'unresolved' when f.had then 'skipped' else 'processed' end
           from (select r.legacy_id, a.organization_id is not null or (r.organization_id is null and r.reason is null and t.one is not null) as had,
                        coalesce(a.organization_id, case when p.ambiguous is null then r.organization_id end, case when r.reason is null then t.one end,
                                 case when r.reason is null and t.several is null and p.ambiguous is null then {made} end) as organization_id,
                        coalesce(r.reason, p.ambiguous, t.several, {why}) as reason
                   from ({}) r
                   left join tenantry.adopt_users a on a.adoption = {adoption} and a.legacy_id = r.legacy_id
                   left join lateral (
                       select case when not g.gone then g.id end as id,
                              case when g.gone then 'was deleted at the identity provider' else g.ambiguous end as ambiguous
                         from (select case when count(*) filter (where by_id) > 0 or count(*) = 1 then (array_agg(u.id order by by_clerk desc, by_id desc))[1] end as id,
                                      case when count(*) filter (where by_id) = 0 and count(*) > 1 then format('%s users of Tenantry have this e-mail address', count(*)) end as ambiguous,
                                      (array_agg(u.deleted_at order by by_clerk desc, by_id desc))[1] is not null as gone
                                 from (select u.id, u.deleted_at, coalesce(u.clerk_id = r.clerk_id, false) as by_clerk,
                                              coalesce(u.clerk_id in (r.clerk_id, 'legacy:' || {adoption} || ':' || r.legacy_id), false) as by_id
                                         from tenantry.users u
                                        where u.clerk_id in (r.clerk_id, 'legacy:' || {adoption} || ':' || r.legacy_id)
                                           or u.deleted_at is null and lower(u.email) = lower(r.email)) u) g) p on true
                   left join lateral (
                       select case when count(*) = 1 then (array_agg(m.organization_id))[1]
                                   else (array_agg(m.organization_id) filter (where m.organization_id = u.current_organization_id))[1] end as one,
                              case when count(*) > 1 and not bool_or(coalesce(m.organization_id = u.current_organization_id, false))
                                   then 'is a member of several organizations in Tenantry, and none is the current one' end as several
                         from tenantry.organization_members m join tenantry.organizations o on o.id = m.organization_id and o.deleted_at is null
                         join tenantry.users u on u.id = m.user_id
                        where m.user_id = p.id and m.deleted_at is null) t on true) f",
        resolution(checked, Mappings::Dry, "true")
    );
    execute(session, &sql).await
}

async fn rows(session: &mut OwnerConnection, checked: &Checked, table: &CheckedTable) -> Result<TableForecast> {
    let inference = inference(checked, table, Mappings::Dry);
    let dry = dry_table(checked, table.relation());
    let names: Vec<String> = columns(checked, table).iter().map(|name| quote(name)).collect();
    let behind_b: Vec<String> = names.iter().map(|name| format!("b.{name}")).collect();
    let column = quote(table.column());
    let own = if table.has_column() { format!("b.{column}") } else { "null::uuid".to_owned() };
    let organization = inference.organization();
    let sql = format!(
        "insert into {dry} ({names}, {column}, already, conflict, reason)
         select {behind_b}, coalesce({own}, {organization}), {own} is not null, {own} is null and {conflict},
                case when {own} is null and ({organization}) is null then {reason} end
           from {relation} b{joins}",
        names = names.join(", "),
        behind_b = behind_b.join(", "),
        conflict = inference.conflict(),
        reason = inference.reason(),
        relation = rows_with_conditions(table),
        joins = inference.joins,
    );
    execute(session, &sql).await?;
    if table.asks_itself() {
        // From the roots on, a level of the trees at a time.
        let keys: Vec<String> = table.key.iter().map(|key| format!("d.{0} = x.{0}", quote(&key.name))).collect();
        let level = format!(
            "with x as (select {behind_b}, {organization} as found, {conflict} as conflict_now, {reason} as reason_now from {relation} b{joins}),
                  u as (update {dry} d set {column} = x.found, conflict = x.conflict_now, reason = case when x.found is null then x.reason_now end
                          from x where {keys} and d.{column} is null returning d.{column})
             select count({column}) from u",
            behind_b = behind_b.join(", "),
            conflict = inference.conflict(),
            reason = inference.reason(),
            relation = rows_with_conditions(table),
            joins = inference.joins,
            keys = keys.join(" and "),
        );
        loop {
            let found: i64 = sqlx::query_scalar(AssertSqlSafe(level.as_str()))
                .fetch_one(session.conn())
                .await
                .map_err(doing("dry run"))?;
            if found == 0 {
                break;
            }
        }
    }
    let counts = format!(
        "select count(*), count(*) filter (where already), count(*) filter (where not already and {column} is not null),
                count(*) filter (where {column} is null), count(*) filter (where conflict) from {dry}"
    );
    let (rows, already, assigned, unresolved, conflicts) =
        sqlx::query_as(AssertSqlSafe(counts)).fetch_one(session.conn()).await.map_err(doing("dry run"))?;
    let samples = format!(
        "select jsonb_build_object('key', {}, 'reason', t.reason) from {dry} t where t.{column} is null order by t.conflict desc, {} limit 5",
        table.key_text("t"),
        table.key_columns("t").join(", ")
    );
    let samples: Vec<(Json<Sample>,)> =
        sqlx::query_as(AssertSqlSafe(samples)).fetch_all(session.conn()).await.map_err(doing("dry run"))?;
    let samples = samples.into_iter().map(|(Json(sample),)| sample).collect();
    Ok(TableForecast { table: table.label(), rows, already, assigned, unresolved, conflicts, samples })
}

/// The rows of a table with what its sources' conditions say of each.
fn rows_with_conditions(table: &CheckedTable) -> String {
    match conditions(table).as_slice() {
        [] => table.relation().sql(),
        conditions => format!("(select *, {} from {})", conditions.join(", "), table.relation().sql()),
    }
}

fn notes(checked: &Checked, options: &RunOptions, seconds: f64) -> Vec<String> {
    let mut notes = vec![
        format!(
            "time: about {} or less for the rows (measured on a small machine: {ROWS_PER_SECOND} rows/s, {USERS_PER_SECOND} users/s)",
            format_duration(Duration::from_secs_f64(seconds.ceil().min(1e9)))
        ),
        format!(
            "locks: adding a nullable column and a trigger needs an exclusive lock on each table for milliseconds; it is waited for at most {} ms at a time. Each batch locks its {} rows for some tens of milliseconds. Readers are never blocked by batches.",
            options.lock_timeout.as_millis(),
            options.batch_size
        ),
    ];
    for table in checked.tables.iter().filter(|table| !table.info.owned) {
        notes.push(format!(
            "REFUSED: {} belongs to {}, and `adopt run` will not begin: let MIGRATION_DATABASE_URL log in as its owner or a member of that role",
            table.label(),
            table.info.owner
        ));
    }
    let plan = &checked.plan;
    let people = [
        Some(&plan.users.table),
        plan.organizations.as_ref().map(|o| &o.table),
        plan.memberships.as_ref().map(|m| &m.table),
    ];
    for relation in people.into_iter().flatten() {
        if let Some(info) = checked.catalogue.get(relation).filter(|info| !info.owned) {
            notes.push(format!(
                "{relation} belongs to {}: what the old application changes there is not followed live, it arrives with the next run, and new users with their first row",
                info.owner
            ));
        }
    }
    for table in &checked.tables {
        if !table.info.update_triggers.is_empty() && !checked.plan.quiet_triggers {
            notes.push(format!(
                "{}: your triggers fire for every row that gets its organization: {}. If one of them sets updated_at, sends or refuses something, write `quiet_triggers = true`: a rollback does not take back what they do",
                table.label(),
                table.info.update_triggers.join(", ")
            ));
        }
        if table.info.bytes >= 1_000_000 && !table.has_column() {
            notes.push(format!(
                "{}: {} MB; every row is written anew once, autovacuum takes the old versions back",
                table.label(),
                table.info.bytes / 1_000_000
            ));
        }
    }
    notes
}
