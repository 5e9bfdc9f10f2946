//! The run: columns and triggers, then people, then rows in batches.
//!
//! A batch is one statement and one transaction: it locks the next rows that have no organization (skipping those that
//! somebody else holds), infers, updates, and writes mapping, failures and checkpoint. After a kill the next run goes on
//! behind the last checkpoint; what it skipped is found by sweeps over the rows that are still without.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::AssertSqlSafe;

use super::batch::BatchSql;
use super::check::{Checked, CheckedTable, check};
use super::installed::{Wanted, creators, installed};
use super::name::{literal, quote};
use super::progress::Progress;
use super::trigger::{self, Change};
use super::{AdoptError, COLUMN, Plan, Result, Session, doing, people};
use crate::clock::Clock;

/// How to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Rows of one transaction.
    pub batch_size: u32,
    /// Pause between batches.
    pub sleep: Duration,
    /// Wait while a replica is further behind than this.
    pub max_lag: Option<Duration>,
    /// How long a change of the schema may wait for its lock, and hold up those behind it.
    pub lock_timeout: Duration,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { batch_size: 500, sleep: Duration::ZERO, max_lag: None, lock_timeout: Duration::from_millis(300) }
    }
}

/// What a run did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The name of the adoption.
    pub name: String,
    /// Organizations of the legacy database that were made.
    pub organizations: u64,
    /// The users.
    pub users: UserCounts,
    /// The tables in the order of the work.
    pub tables: Vec<TableCounts>,
    /// How often something was tried again.
    pub retries: u64,
    /// Seconds.
    pub seconds: f64,
}

/// Users of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UserCounts {
    /// Were given an organization.
    pub processed: u64,
    /// Had one.
    pub skipped: u64,
    /// Have none.
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
    /// The table.
    pub table: String,
    /// Were given their organization by this run.
    pub assigned: u64,
    /// Have none: see the report.
    pub unresolved: u64,
    /// Have one now, whoever gave it.
    pub total: u64,
    /// Were locked by others whenever the run came by; the next one takes them.
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

/// Carries the plan out. Does nothing that is done already.
pub async fn run(session: &mut Session, plan: Plan, options: &RunOptions, clock: &Clock) -> Result<Summary> {
    installed(session, Wanted::Write).await?;
    let start = Instant::now();
    session.lock(&plan.name.clone()).await?;
    let checked = check(session, plan, Wanted::Write).await?;
    creators(session).await?;
    people::strangers(session, &checked).await?;
    let mut summary = Summary { name: checked.plan.name.clone(), ..Summary::default() };
    let mut pace = Pace::new(session, options).await?;
    register(session, &checked).await?;
    expand(session, &checked, options).await?;
    session.hurry().await?;
    people::default_workspace(session, &checked, clock).await?;
    people::organizations(session, &checked, clock, &mut summary).await?;
    people::users(session, &checked, clock, options, &mut pace, &mut summary).await?;
    for table in &checked.tables {
        fill(session, &checked, table, options, &mut pace, &mut summary).await?;
    }
    session.settle(&checked.plan.name).await?;
    summary.retries = session.retries;
    summary.seconds = start.elapsed().as_secs_f64();
    Ok(summary)
}

async fn register(session: &mut Session, checked: &Checked) -> Result<()> {
    let plan =
        serde_json::to_value(&checked.plan).map_err(|error| AdoptError::refused("PLAN_INVALID", error.to_string()))?;
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

/// Makes a change of the schema and its record in one short transaction, unless it is made already.
pub(super) async fn make(session: &mut Session, adoption: &str, lock_timeout: Duration, change: &Change) -> Result<()> {
    if is_made(session, adoption, change).await? {
        return Ok(());
    }
    let mut statements = change.statements.clone();
    statements.push(record(adoption, change));
    session.short(&change.what, lock_timeout, &statements).await
}

pub(super) async fn is_made(session: &mut Session, adoption: &str, change: &Change) -> Result<bool> {
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
pub(super) fn record(adoption: &str, change: &Change) -> String {
    format!(
        "insert into tenantry.adopt_changes (adoption, what, made, undo) values ({}, {}, {}, {}) on conflict (adoption, what) do update set made = excluded.made, undo = excluded.undo",
        literal(adoption),
        literal(&change.what),
        literal(&change.statements.join("; ")),
        literal(&change.undo)
    )
}

/// Columns and triggers.
async fn expand(session: &mut Session, checked: &Checked, options: &RunOptions) -> Result<()> {
    let adoption = &checked.plan.name;
    for table in checked.tables.iter().filter(|table| !table.has_column()) {
        let sql = table.relation().sql();
        let column = quote(COLUMN);
        let change = Change {
            what: format!("column on {sql}"),
            statements: vec![format!("alter table {sql} add column if not exists {column} uuid")],
            undo: format!("alter table if exists {sql} drop column if exists {column}"),
        };
        make(session, adoption, options.lock_timeout, &change).await?;
    }
    let cut_over: bool = sqlx::query_scalar("select cut_over_at is not null from tenantry.adoptions where name = $1")
        .bind(adoption)
        .fetch_one(session.conn())
        .await
        .map_err(doing("reading the state of the adoption"))?;
    if cut_over {
        return Ok(());
    }
    make(session, adoption, options.lock_timeout, &trigger::meet(checked)).await?;
    for table in &checked.tables {
        make(session, adoption, options.lock_timeout, &trigger::on_table(checked, table)).await?;
    }
    if let Some(change) = trigger::on_users(checked) {
        // The old application needs to see its users table only; the function runs with our rights.
        make(session, adoption, options.lock_timeout, &change).await?;
    }
    Ok(())
}

/// Keeps the run from being a burden.
#[derive(Debug)]
pub struct Pace {
    sleep: Duration,
    max_lag: Option<Duration>,
    looked: Option<Instant>,
}

impl Pace {
    async fn new(session: &mut Session, options: &RunOptions) -> Result<Self> {
        if options.max_lag.is_some() {
            let hidden: bool =
                sqlx::query_scalar("select coalesce(bool_or(state is null), false) from pg_stat_replication")
                    .fetch_one(session.conn())
                    .await
                    .map_err(doing("looking at the replicas"))?;
            if hidden {
                return Err(AdoptError::refused(
                    "NO_PRIVILEGE",
                    "--max-lag: this login may not see how far the replicas are: `grant pg_monitor to …`, or use --sleep",
                ));
            }
        }
        Ok(Self { sleep: options.sleep, max_lag: options.max_lag, looked: None })
    }

    /// Between two batches.
    pub async fn pause(&mut self, session: &mut Session) -> Result<()> {
        if !self.sleep.is_zero() {
            tokio::time::sleep(self.sleep).await;
        }
        let Some(max_lag) = self.max_lag else { return Ok(()) };
        if self.looked.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
            return Ok(());
        }
        loop {
            let lag: f64 = session
                .retrying("looking at the replicas", async |connection| {
                    sqlx::query_scalar(
                        "select coalesce(max(extract(epoch from replay_lag)), 0)::float8 from pg_stat_replication",
                    )
                    .fetch_one(connection)
                    .await
                })
                .await?;
            self.looked = Some(Instant::now());
            if lag <= max_lag.as_secs_f64() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// How often the rows that were locked are looked for.
const SWEEPS: u32 = 20;

async fn fill(
    session: &mut Session,
    checked: &Checked,
    table: &CheckedTable,
    options: &RunOptions,
    pace: &mut Pace,
    summary: &mut Summary,
) -> Result<()> {
    let batch = BatchSql::of_table(checked, table, options.batch_size);
    let relation = table.relation().sql();
    let column = quote(COLUMN);
    let (adoption, label) = (literal(&checked.plan.name), literal(&table.label()));
    let what = table.label();
    let waiting: i64 =
        scalar(session, &what, &format!("select count(*) from {relation} t where t.{column} is null")).await?;
    let mut progress = Progress::new(what.clone(), waiting.unsigned_abs());
    let mut locked = 0;
    let mut assigned = 0;
    let checkpoint =
        format!("select position from tenantry.adopt_checkpoints where adoption = {adoption} and table_name = {label}");
    for sweep in 0..SWEEPS {
        loop {
            let done = session
                .retrying(&what, async |connection| {
                    // Read anew each time: of a batch whose answer was lost nobody knows whether it was done.
                    let position: Option<Vec<String>> =
                        sqlx::query_scalar(AssertSqlSafe(checkpoint.as_str())).fetch_optional(&mut *connection).await?;
                    batch.execute(connection, position.as_deref()).await
                })
                .await?;
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
        // Neither assigned nor refused: somebody held them, or they came just now.
        let left = format!(
            "select count(*) from {relation} t where t.{column} is null and not exists (
                 select from tenantry.adopt_unresolved u where u.adoption = {adoption} and u.table_name = {label} and u.key = {})",
            table.key_text("t")
        );
        locked = scalar(session, &what, &left).await?;
        if locked == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50 * u64::from(sweep + 1))).await;
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

async fn scalar(session: &mut Session, what: &str, sql: &str) -> Result<i64> {
    let sql = sql.to_owned();
    session
        .retrying(what, async |connection| sqlx::query_scalar(AssertSqlSafe(sql.as_str())).fetch_one(connection).await)
        .await
}

/// Names of what each source is, for reports.
pub(super) fn source_names(checked: &Checked) -> BTreeMap<String, Vec<String>> {
    let names = |table: &CheckedTable| table.spec.organization.iter().map(ToString::to_string).collect();
    checked.tables.iter().map(|table| (table.label(), names(table))).collect()
}
