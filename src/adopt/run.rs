//! The run: columns and triggers, then people, then rows in batches.
//!
//! After a kill, the next run continues after the last checkpoint of each table. Sweeps find the rows that batches
//! skipped because another transaction held them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::AssertSqlSafe;

use super::batch::BatchSql;
use super::check::{Checked, CheckedTable, check};
use super::installed::{Wanted, check_installed, refuse_open_schemas};
use super::name::{literal, quote};
use super::owner_connection::LOCK_TIMEOUT;
use super::trigger::{self, SchemaChange};
use super::{AdoptError, OwnerConnection, Plan, Result, doing, people, rehearse};
use crate::clock::Clock;
use crate::error::Code;

/// Options of a run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Rows of one transaction.
    pub batch_size: u32,
    /// Pause between batches.
    pub sleep: Duration,
    /// Wait while a replica is further behind than this.
    pub max_lag: Option<Duration>,
    /// How long a change of the schema waits for its lock. Others queue behind it meanwhile.
    pub lock_timeout: Duration,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { batch_size: 500, sleep: Duration::ZERO, max_lag: None, lock_timeout: LOCK_TIMEOUT }
    }
}

/// The result of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The name of the adoption.
    pub name: String,
    /// Organizations of the legacy database that were made.
    pub organizations: u64,
    pub users: UserCounts,
    /// The tables, in the order they were filled.
    pub tables: Vec<TableCounts>,
    /// How often a step was repeated.
    pub retries: u64,
    /// Duration in seconds.
    pub seconds: f64,
}

/// Users of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UserCounts {
    /// Users that got an organization.
    pub processed: u64,
    /// Users that had one.
    pub skipped: u64,
    /// Users without one.
    pub unresolved: u64,
}

impl UserCounts {
    pub(super) fn count(&mut self, outcome: &str) {
        match outcome {
            "processed" => self.processed += 1,
            "skipped" => self.skipped += 1,
            _ => self.unresolved += 1,
        }
    }
}

/// Rows of one table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TableCounts {
    pub table: String,
    /// Rows that this run gave an organization.
    pub assigned: u64,
    /// Rows without one: see the report.
    pub unresolved: u64,
    /// Rows that have one now.
    pub total: u64,
    /// Rows that others held locked on every attempt. The next run takes them.
    pub locked: u64,
}

impl Summary {
    pub(super) fn table(&mut self, label: &str) -> &mut TableCounts {
        let index = self.tables.iter().position(|table| table.table == label).unwrap_or_else(|| {
            self.tables.push(TableCounts { table: label.to_owned(), ..TableCounts::default() });
            self.tables.len() - 1
        });
        &mut self.tables[index]
    }

    /// Rows and users without an organization.
    #[must_use]
    pub fn unresolved(&self) -> u64 {
        self.users.unresolved + self.tables.iter().map(|table| table.unresolved + table.locked).sum::<u64>()
    }
}

/// Carries out the plan, except for what is already done.
pub async fn run(session: &mut OwnerConnection, plan: Plan, options: &RunOptions, clock: &Clock) -> Result<Summary> {
    check_installed(session, Wanted::Write).await?;
    let start = Instant::now();
    session.lock(&plan.name.clone()).await?;
    let checked = check(session, plan, Wanted::Write).await?;
    refuse_open_schemas(session).await?;
    people::refuse_foreign_organizations(session, &checked).await?;
    let tried = rehearse::run_of(session, &checked).await?;
    if !tried.refused.is_empty() {
        return Err(AdoptError::refused(Code::NotReady, tried.refused.join("\n")));
    }
    let mut summary = Summary { name: checked.plan.name.clone(), ..Summary::default() };
    let mut pace = Pace::new(session, options).await?;
    register(session, &checked).await?;
    let cut_over = expand(session, &checked, options).await?;
    session.relax_durability().await?;
    session.hurry(true).await?;
    people::default_workspace(session, &checked, clock).await?;
    if !cut_over {
        people::follow_ends(session, &checked).await?;
    }
    people::organizations(session, &checked, clock, &mut summary).await?;
    people::users(session, &checked, clock, options, &mut pace, &mut summary).await?;
    if !cut_over {
        people::follow_memberships(session, &checked).await?;
    }
    if checked.plan.quiet_triggers {
        session.quiet(true).await?;
    }
    for table in &checked.tables {
        fill(session, &checked, table, options, &mut pace, &mut summary).await?;
    }
    if checked.plan.quiet_triggers {
        session.quiet(false).await?;
    }
    session.hurry(false).await?;
    session.flush(&checked.plan.name).await?;
    summary.retries = session.retries;
    summary.seconds = start.elapsed().as_secs_f64();
    Ok(summary)
}

async fn register(session: &mut OwnerConnection, checked: &Checked) -> Result<()> {
    let plan = serde_json::to_value(&checked.plan)
        .map_err(|error| AdoptError::refused(Code::PlanInvalid, error.to_string()))?;
    session
        .retrying("recording the plan", async |connection| {
            sqlx::query(
                "insert into tenantry.adoptions as a (name, plan) values ($1, $2)
                 on conflict (name) do update set plan = excluded.plan where a.plan is distinct from excluded.plan",
            )
            .bind(&checked.plan.name)
            .bind(&plan)
            .execute(connection)
            .await
            .map(drop)
        })
        .await
}

/// Makes a change of the schema and records it, in one short transaction. Skips a change that is already made.
pub(super) async fn make(
    session: &mut OwnerConnection,
    adoption: &str,
    lock_timeout: Duration,
    change: &SchemaChange,
) -> Result<()> {
    if is_made(session, adoption, change).await? {
        return Ok(());
    }
    let mut statements = change.statements.clone();
    statements.push(record(adoption, change));
    session.run_locked(&change.what, lock_timeout, &statements).await
}

pub(super) async fn is_made(session: &mut OwnerConnection, adoption: &str, change: &SchemaChange) -> Result<bool> {
    let made = change.statements.join("; ");
    session
        .retrying(&change.what, async |connection| {
            sqlx::query_scalar(
                "select exists (select from tenantry.adopt_changes where adoption = $1 and what = $2 and made = $3)",
            )
            .bind(adoption)
            .bind(&change.what)
            .bind(&made)
            .fetch_one(connection)
            .await
        })
        .await
}

/// The statement that records a change.
pub(super) fn record(adoption: &str, change: &SchemaChange) -> String {
    format!(
        "insert into tenantry.adopt_changes (adoption, what, made, undo) values ({}, {}, {}, {}) on conflict (adoption, what) do update set made = excluded.made, undo = excluded.undo",
        literal(adoption),
        literal(&change.what),
        literal(&change.statements.join("; ")),
        literal(&change.undo)
    )
}

/// Whether the cut-over was, and the changes of the schema that are recorded, by their names.
pub(super) async fn begun(session: &mut OwnerConnection, checked: &Checked) -> Result<(bool, BTreeSet<String>)> {
    let (cut_over, made): (bool, Vec<String>) = sqlx::query_as(
        "select exists (select from tenantry.adoptions where name = $1 and cut_over_at is not null),
                array(select what from tenantry.adopt_changes where adoption = $1)",
    )
    .bind(&checked.plan.name)
    .fetch_one(session.conn())
    .await
    .map_err(doing("reading the state of the adoption"))?;
    Ok((cut_over, made.into_iter().collect()))
}

/// Columns and triggers. Answers whether the cut-over was: then the legacy database says nothing any more.
async fn expand(session: &mut OwnerConnection, checked: &Checked, options: &RunOptions) -> Result<bool> {
    let adoption = &checked.plan.name;
    for table in checked.tables.iter().filter(|table| !table.has_column()) {
        let sql = table.relation().sql();
        let column = quote(table.column());
        let change = SchemaChange {
            what: format!("column on {sql}"),
            statements: vec![format!("alter table {sql} add column if not exists {column} uuid")],
            undo: format!("alter table if exists {sql} drop column if exists {column}"),
        };
        make(session, adoption, options.lock_timeout, &change).await?;
    }
    let (cut_over, _) = begun(session, checked).await?;
    if cut_over {
        return Ok(true);
    }
    make(session, adoption, options.lock_timeout, &trigger::newcomer_function(checked)).await?;
    for table in &checked.tables {
        make(session, adoption, options.lock_timeout, &trigger::on_table(checked, table)).await?;
    }
    if let Some(change) = trigger::membership_function(checked) {
        make(session, adoption, options.lock_timeout, &change).await?;
    }
    // The old application needs access to its own tables only: the functions run with our rights.
    for change in trigger::on_people(checked) {
        make(session, adoption, options.lock_timeout, &change).await?;
    }
    Ok(false)
}

/// Slows the run down as its options ask.
#[derive(Debug)]
pub struct Pace {
    sleep: Duration,
    max_lag: Option<Duration>,
    looked: Option<Instant>,
    /// Where the log ended, and when, for what some replica has not replayed yet. `replay_lag` of `pg_stat_replication` is only
    /// what the last reply said, and a replica that stands still replies every ten seconds (`wal_receiver_status_interval`).
    ends: VecDeque<(Instant, i64)>,
}

/// How often the replicas are looked at.
const LOOK: Duration = Duration::from_millis(200);

impl Pace {
    async fn new(session: &mut OwnerConnection, options: &RunOptions) -> Result<Self> {
        if options.max_lag.is_some() {
            let hidden: bool =
                sqlx::query_scalar("select coalesce(bool_or(state is null), false) from pg_stat_replication")
                    .fetch_one(session.conn())
                    .await
                    .map_err(doing("looking at the replicas"))?;
            if hidden {
                return Err(AdoptError::refused(
                    Code::NoPrivilege,
                    "--max-lag: this login may not see how far the replicas are: `grant pg_monitor to …`, or use --sleep",
                ));
            }
        }
        Ok(Self { sleep: options.sleep, max_lag: options.max_lag, looked: None, ends: VecDeque::new() })
    }

    /// How far the slowest replica is behind.
    async fn lag(&mut self, session: &mut OwnerConnection) -> Result<Duration> {
        let (end, replayed): (i64, Option<i64>) = session
            .retrying("looking at the replicas", async |connection| {
                sqlx::query_as(
                    "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint, (select pg_wal_lsn_diff(min(replay_lsn), '0/0')::bigint from pg_stat_replication)",
                )
                .fetch_one(connection)
                .await
            })
            .await?;
        let now = Instant::now();
        self.looked = Some(now);
        self.ends.push_back((now, end));
        let replayed = replayed.unwrap_or(i64::MAX);
        while self.ends.front().is_some_and(|(_, end)| *end <= replayed) {
            self.ends.pop_front();
        }
        Ok(self.ends.front().map_or(Duration::ZERO, |(at, _)| now - *at))
    }

    /// Between two batches.
    pub async fn pause(&mut self, session: &mut OwnerConnection) -> Result<()> {
        if !self.sleep.is_zero() {
            tokio::time::sleep(self.sleep).await;
        }
        let Some(max_lag) = self.max_lag else { return Ok(()) };
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return Ok(());
        }
        while self.lag(session).await? > max_lag {
            tokio::time::sleep(LOOK).await;
            // Whoever receives something replies how far they are.
            sqlx::raw_sql("select pg_logical_emit_message(false, 'tenantry', '')").execute(session.conn()).await.ok();
        }
        Ok(())
    }
}

/// Sweeps for rows that were locked.
const SWEEPS: u32 = 20;

async fn fill(
    session: &mut OwnerConnection,
    checked: &Checked,
    table: &CheckedTable,
    options: &RunOptions,
    pace: &mut Pace,
    summary: &mut Summary,
) -> Result<()> {
    let batch = BatchSql::of_table(checked, table, options.batch_size);
    let relation = table.relation().sql();
    let column = quote(table.column());
    let (adoption, label) = (literal(&checked.plan.name), literal(&table.label()));
    let what = table.label();
    let waiting: i64 =
        scalar(session, &what, &format!("select count(*) from {relation} t where t.{column} is null")).await?;
    let mut progress = session.progress.begin(what.clone(), waiting.unsigned_abs());
    let mut locked = 0;
    let mut assigned = 0;
    let checkpoint =
        format!("select position from tenantry.adopt_checkpoints where adoption = {adoption} and table_name = {label}");
    let mut sweep = 0;
    while sweep < SWEEPS {
        let before = assigned;
        let mut position: Option<Vec<String>> = None;
        let mut known = false;
        loop {
            let done = session
                .retrying(&what, async |connection| {
                    // A batch whose answer was lost may have been committed.
                    if !known {
                        position = sqlx::query_scalar(AssertSqlSafe(checkpoint.as_str()))
                            .fetch_optional(&mut *connection)
                            .await?;
                    }
                    known = false;
                    let done = batch.execute(connection, position.as_deref()).await?;
                    known = true;
                    Ok(done)
                })
                .await?;
            position.clone_from(&done.position);
            assigned += done.assigned;
            progress.advance(done.seen);
            if done.seen < batch.limit || done.position.is_none() {
                break;
            }
            pace.pause(session).await?;
        }
        session
            .retrying(&what, async |connection| {
                let tidy = format!(
                    "with done as (delete from tenantry.adopt_checkpoints where adoption = {adoption} and table_name = {label})
                     delete from tenantry.adopt_unresolved u where u.adoption = {adoption} and u.table_name = {label}
                        and not exists (select from {relation} t where {} and t.{column} is null)",
                    table.has_key("t", "u.key")
                );
                sqlx::raw_sql(AssertSqlSafe(tidy)).execute(connection).await.map(drop)
            })
            .await?;
        // Rows neither assigned nor reported: they were locked, or are new.
        let left = format!(
            "select count(*) from {relation} t where t.{column} is null and not exists (
                 select from tenantry.adopt_unresolved u where u.adoption = {adoption} and u.table_name = {label} and u.key = {})",
            table.key_text("t")
        );
        locked = scalar(session, &what, &left).await?;
        // What others of the same table wait for was found: once more, from the roots of their trees on.
        if table.asks_itself() && assigned > before {
            continue;
        }
        if locked == 0 {
            break;
        }
        sweep += 1;
        tokio::time::sleep(Duration::from_millis(50 * u64::from(sweep))).await;
    }
    progress.finish();
    let unresolved: i64 = scalar(
        session,
        &what,
        &format!("select count(*) from tenantry.adopt_unresolved where adoption = {adoption} and table_name = {label}"),
    )
    .await?;
    let total: i64 =
        scalar(session, &what, &format!("select count(*) from {relation} t where t.{column} is not null")).await?;
    let counts = summary.table(&what);
    counts.assigned += assigned;
    counts.unresolved = unresolved.unsigned_abs();
    counts.total = total.unsigned_abs();
    counts.locked = locked.unsigned_abs();
    Ok(())
}

async fn scalar(session: &mut OwnerConnection, what: &str, sql: &str) -> Result<i64> {
    let sql = sql.to_owned();
    session
        .retrying(what, async |connection| sqlx::query_scalar(AssertSqlSafe(sql.as_str())).fetch_one(connection).await)
        .await
}

/// The name of each source, for reports.
pub(super) fn source_names(checked: &Checked) -> BTreeMap<String, Vec<String>> {
    let names = |table: &CheckedTable| table.spec.organization.iter().map(ToString::to_string).collect();
    checked.tables.iter().map(|table| (table.label(), names(table))).collect()
}
