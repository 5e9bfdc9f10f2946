//! Tries what `run` and `finalize` will do, and takes it back: event triggers, hooks of hosting providers and the team's own
//! triggers refuse what the catalogue allows.
//!
//! Each table is tried in transactions of its own that end with a rollback, and waits for locks no longer than a run does.

use sqlx::AssertSqlSafe;

use super::check::{Checked, CheckedTable};
use super::finalize::security_statements;
use super::name::quote;
use super::owner_connection::LOCK_TIMEOUT;
use super::trigger::{self, SchemaChange};
use super::{OwnerConnection, Result, doing, policies, run};

/// What was found by trying.
#[derive(Clone, Debug, Default)]
pub struct Rehearsal {
    /// What will not work, and why.
    pub refused: Vec<String>,
    /// What could not be tried because somebody held it.
    pub untried: Vec<String>,
}

/// What a step is called when it is refused.
struct Step {
    what: String,
    statements: Vec<String>,
}

impl Step {
    fn new(what: impl Into<String>, statements: Vec<String>) -> Self {
        Self { what: what.into(), statements }
    }

    fn of(change: SchemaChange) -> Self {
        Self { what: change.what, statements: change.statements }
    }
}

/// Tries what a run does to the schema, and to one row of each table, where it has still to begin.
pub async fn run_of(session: &mut OwnerConnection, checked: &Checked) -> Result<Rehearsal> {
    let mut found = Rehearsal::default();
    let (cut_over, made) = run::begun(session, checked).await?;
    if cut_over {
        return Ok(found);
    }
    let mut people = vec![Step::of(trigger::newcomer_function(checked))];
    people.extend(trigger::membership_function(checked).map(Step::of));
    // The functions are needed by every trigger.
    let functions = people.iter().flat_map(|step| step.statements.clone()).collect::<Vec<_>>();
    let on_people = trigger::on_people(checked);
    if on_people.iter().any(|change| !made.contains(&change.what)) {
        people.extend(on_people.into_iter().map(Step::of));
        attempt(session, "the triggers on people", people, None, &mut found).await?;
    }
    for table in checked.tables.iter().filter(|table| table.info.owned) {
        let trigger = trigger::on_table(checked, table);
        if made.contains(&trigger.what) {
            continue;
        }
        let steps = vec![added(table), Step::new("the functions", functions.clone()), Step::of(trigger)];
        let row = one_row(checked, table);
        attempt(session, &table.label(), steps, Some(row), &mut found).await?;
    }
    Ok(found)
}

/// Tries what `finalize` does to the schema, but for what it builds and validates while others work.
pub async fn finalize_of(session: &mut OwnerConnection, checked: &Checked) -> Result<Rehearsal> {
    let mut found = Rehearsal::default();
    for table in checked.tables.iter().filter(|table| table.info.owned) {
        let before = policies::security_before(session, checked, table).await?;
        if before.finalized {
            continue;
        }
        let (sql, column) = (table.relation().sql(), quote(table.column()));
        let schema = quote(&table.relation().schema);
        let (statements, _) = security_statements(checked, table, before, false);
        let steps = vec![
            added(table),
            Step::new(
                "the constraints",
                vec![
                    format!("alter table {sql} add constraint adopt_rehearsal check ({column} is not null) not valid"),
                    format!(
                        "alter table {sql} add constraint adopt_rehearsal_key foreign key ({column}) references tenantry.organizations (id) not valid"
                    ),
                ],
            ),
            Step::new(
                format!("the rights to schema {schema}"),
                vec![format!("grant usage on schema {schema} to tenantry_app, tenantry_superadmin")],
            ),
            Step::new("row-level security", statements),
        ];
        attempt(session, &table.label(), steps, None, &mut found).await?;
    }
    Ok(found)
}

/// The column, where it is not there yet: asking for it would lock the table against readers all the same.
fn added(table: &CheckedTable) -> Step {
    let add = format!("alter table {} add column {} uuid", table.relation().sql(), quote(table.column()));
    Step::new("the column", if table.has_column() { Vec::new() } else { vec![add] })
}

/// Updates one row as a batch does, and answers whether there was one, and whether it has its value. A column that was there
/// keeps its value: looking for an empty one could take long.
fn one_row(checked: &Checked, table: &CheckedTable) -> String {
    let (sql, column) = (table.relation().sql(), quote(table.column()));
    let quiet = if checked.plan.quiet_triggers { "set local session_replication_role = replica; " } else { "" };
    let value = if table.has_column() { format!("t.{column}") } else { "gen_random_uuid()".to_owned() };
    format!(
        "{quiet}with one as materialized (select t.ctid as place, {value} as value from {sql} t limit 1 for no key update of t skip locked),
              changed as (update {sql} t set {column} = one.value from one where t.ctid = one.place returning t.{column} is not distinct from one.value as has_it)
         select (select count(*) from one), (select count(*) from changed where has_it)"
    )
}

/// Does the steps, and the update of one row, in a transaction that is taken back.
async fn attempt(
    session: &mut OwnerConnection,
    label: &str,
    steps: Vec<Step>,
    row: Option<String>,
    found: &mut Rehearsal,
) -> Result<()> {
    let begin = format!("begin; set local lock_timeout = '{}ms'", LOCK_TIMEOUT.as_millis());
    let execute = async |session: &mut OwnerConnection, sql: &str| {
        sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(session.conn()).await
    };
    execute(session, &begin).await.map_err(doing("trying"))?;
    let mut failed = None;
    'steps: for step in &steps {
        for statement in &step.statements {
            if let Err(error) = execute(session, statement).await {
                failed = Some((step.what.clone(), error));
                break 'steps;
            }
        }
    }
    if let (None, Some(row)) = (&failed, row) {
        match execute(session, &row).await {
            Err(error) => failed = Some(("the first row".to_owned(), error)),
            Ok(rows) => {
                let numbers = rows.iter().rev().find_map(|row| {
                    Some((sqlx::Row::try_get::<i64, _>(row, 0).ok()?, sqlx::Row::try_get::<i64, _>(row, 1).ok()?))
                });
                if numbers == Some((1, 0)) {
                    found.refused.push(format!(
                        "{label}: a row does not take its organization: one of your triggers undoes the update. Write `quiet_triggers = true` above [users], or change the trigger"
                    ));
                }
            }
        }
    }
    execute(session, "rollback").await.map_err(doing("trying"))?;
    match failed {
        None => {}
        // Held by others, or tried again when it is meant.
        Some((_, sqlx::Error::Database(error)))
            if matches!(error.code().as_deref(), Some("55P03" | "40P01" | "40001")) =>
        {
            found.untried.push(label.to_owned());
        }
        Some((what, sqlx::Error::Database(error))) => {
            found.refused.push(format!("{label}: {what}: {}", error.message()));
        }
        Some((_, error)) => return Err(doing("trying")(error)),
    }
    Ok(())
}
