//! `tenantry adopt`: an existing single-tenant database becomes multi-tenant.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use sqlx::postgres::PgConnectOptions;

use super::confirm::confirm_backup;
use super::database::Database;
use super::output::{CommandResult, Exit, Output};
use super::progress::progress_bar;
use super::questions::{ask, can_ask};
use crate::adopt::{
    AdoptError, Answers, DryRun, FinalizeOptions, OwnerConnection, Plan, Relation, Result, RunOptions, Summary,
    dry_run, finalize, format_duration, rollback, run, status, suggest, verify, write_report,
};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::Code;

/// The steps in their order, for `--help`.
const STEPS: &str = "\
The order, with MIGRATION_DATABASE_URL as the owner of all the tables:
  0. back up; tenantry migrate up
  1. adopt plan --schema legacy --output plan.toml
     and answer its questions, there or in the file (`?`)
  2. adopt run --dry-run: counts, samples, what will be refused
  3. adopt run --report mapping.csv: after a kill, run it again
  4. adopt verify: rows without an organization; set it, or delete the row
  5. adopt finalize: not null, foreign keys, row-level security
  6. adopt finalize --cut-over: when the old application no longer writes
adopt status says how far it is. To undo everything, at any time: adopt
rollback.

Exits with 0 (well), 1 (found something, or failed) or 2 (plan, login or state
do not allow it). Messages of errors begin with a code: PLAN_INVALID, NOT_READY,
DISK_FULL and so on.";

/// Make the tables of an existing single-tenant database tenant-scoped, while it is in use.
#[derive(Subcommand)]
#[command(after_help = STEPS)]
pub(super) enum Adopt {
    Plan(SuggestPlan),
    Run(RunPlan),
    Status(Status),
    Verify(Verify),
    Finalize(Finalize),
    Rollback(Rollback),
}

/// Read the catalogue and the data, and write a first plan, with its questions as comments.
#[derive(Args)]
pub(super) struct SuggestPlan {
    /// The schema of the old application's tables. Without it, every schema but Tenantry's own.
    #[arg(long)]
    schema: Option<String>,
    /// The table of users, when its name does not say so.
    #[arg(long, value_parser = Relation::parse)]
    users: Option<Relation>,
    /// The name of the adoption.
    #[arg(long, default_value = "legacy")]
    name: String,
    /// Write the plan to this file instead of stdout. An existing file is never overwritten.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Ask nothing at a terminal; the questions stay in the plan. Without a terminal nothing is asked anyway.
    #[arg(long)]
    no_input: bool,
}

/// Give every user and every row its organization, in batches, while the database is in use. Continues where it
/// stopped.
#[derive(Args)]
pub(super) struct RunPlan {
    #[command(flatten)]
    plan: PlanArg,
    /// Change nothing: count, show samples, estimate, and try what will be done (taken back again).
    #[arg(long)]
    dry_run: bool,
    /// Rows of one transaction.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch_size: u32,
    /// Pause between batches: 50ms, 1s.
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = parse_duration)]
    sleep: Duration,
    /// Wait while a replica is further behind than this.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    max_lag: Option<Duration>,
    #[command(flatten)]
    locks: LockArgs,
    /// Write the mapping here: .csv or .json.
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    report: Option<PathBuf>,
}

/// Look for users and rows without an organization, orphans, duplicate slugs and references across organizations.
#[derive(Args)]
pub(super) struct Verify {
    #[command(flatten)]
    plan: PlanArg,
    /// Write the mapping here: .csv or .json.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Say how far the adoption is, what comes next, and what a rollback would take back.
#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    plan: PlanArg,
}

/// Enforce tenancy: not null, foreign keys, indexes, row-level security.
#[derive(Args)]
pub(super) struct Finalize {
    #[command(flatten)]
    plan: PlanArg,
    #[command(flatten)]
    locks: LockArgs,
    /// The old application no longer writes: remove its triggers and its access.
    #[arg(long)]
    cut_over: bool,
    /// There is a backup: do not ask.
    #[arg(long)]
    yes: bool,
}

/// Undo the adoption, from the mapping that was kept.
#[derive(Args)]
pub(super) struct Rollback {
    #[command(flatten)]
    plan: PlanArg,
    #[command(flatten)]
    locks: LockArgs,
    /// There is a backup: do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
struct PlanArg {
    /// The plan (TOML).
    #[arg(long, value_name = "FILE", default_value = "plan.toml")]
    plan: PathBuf,
}

impl PlanArg {
    fn read(&self) -> Result<Plan> {
        let text = std::fs::read_to_string(&self.plan).map_err(|error| {
            AdoptError::refused(
                Code::NoPlan,
                format!("{}: {error}. `tenantry adopt plan --output {0}` writes a first one", self.plan.display()),
            )
        })?;
        Plan::parse(&text)
    }
}

#[derive(Args)]
struct LockArgs {
    /// Wait this long for a lock at a time. Others queue behind the wait.
    #[arg(long, value_name = "TIME", default_value = "40ms", value_parser = parse_duration)]
    lock_timeout: Duration,
    /// Repeat a step for this long when locks are not granted or transactions deadlock.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    retry_for: Duration,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)) {
        Some(millis) if factor > 0 && millis <= 86_400_000 => Ok(Duration::from_millis(millis)),
        _ => Err("a time is a number and ms, s or m: 300ms, 5s, at most a day".to_owned()),
    }
}

impl Adopt {
    pub(super) async fn run(self, config: &Config, output: Output) -> CommandResult {
        let database = Database::open(config).await?;
        let owner = database.owner()?;
        match self {
            Self::Plan(command) => command.run(owner, output).await,
            Self::Run(command) => command.run(owner, output).await,
            Self::Status(command) => command.run(owner, output).await,
            Self::Verify(command) => command.run(owner, output).await,
            Self::Finalize(command) => command.run(owner, output).await,
            Self::Rollback(command) => command.run(owner, output).await,
        }
    }
}

impl SuggestPlan {
    async fn run(self, owner: &PgConnectOptions, output: Output) -> CommandResult {
        let mut session = OwnerConnection::open(owner).await?;
        let mut answers = Answers::new();
        let asks = !self.no_input && !output.json && can_ask();
        let suggestion = loop {
            let suggestion =
                suggest(&mut session, &self.name, self.schema.as_deref(), self.users.as_ref(), &answers).await?;
            // An answer may lead to other questions.
            if !asks || !ask(&suggestion, &mut answers)? {
                break suggestion;
            }
        };
        session.close().await;
        if let Some(path) = &self.output {
            write_new(path, &suggestion.toml)?;
        }
        let texts: Vec<&str> = suggestion.questions.iter().map(|question| question.text.as_str()).collect();
        output.result(&json!({ "plan": suggestion.toml, "questions": texts }), |_| match &self.output {
            None => suggestion.toml.clone(),
            Some(path) => {
                format!("wrote {} with {} questions (lines with `?`)", path.display(), suggestion.questions.len())
            }
        })?;
        Ok(Exit::Success)
    }
}

impl RunPlan {
    async fn run(self, owner: &PgConnectOptions, output: Output) -> CommandResult {
        let plan = self.plan.read()?;
        check_report(self.report.as_deref())?;
        let mut session = open_session(owner).await?;
        session.retry_for = self.locks.retry_for;
        let options = RunOptions {
            batch_size: self.batch_size,
            sleep: self.sleep,
            max_lag: self.max_lag,
            lock_timeout: self.locks.lock_timeout,
        };
        if self.dry_run {
            let forecast = dry_run(&mut session, plan, &options).await?;
            session.close().await;
            output.result(&forecast, forecast_text)?;
            return Ok(Exit::Success);
        }
        let summary = run(&mut session, plan.clone(), &options, &Clock::System).await?;
        let report = write_report_to(&mut session, plan, self.report.as_deref()).await?;
        session.close().await;
        output.result(&summary, |summary| summary_text(summary) + &report)?;
        Ok(Exit::findings(summary.unresolved() > 0))
    }
}

impl Status {
    async fn run(self, owner: &PgConnectOptions, output: Output) -> CommandResult {
        let plan = self.plan.read()?;
        let mut session = OwnerConnection::open(owner).await?;
        let status = status(&mut session, plan).await?;
        session.close().await;
        output.result(&status, |status| {
            let mut text = format!("{} is {}\n", status.name, status.step);
            for table in &status.tables {
                let rows = match table.without {
                    None => "not begun".to_owned(),
                    Some(0) => "every row has its organization".to_owned(),
                    Some(without) => format!("{without} rows without an organization"),
                };
                let enforced = if table.enforced { ", enforced" } else { "" };
                text += &format!("  {:<40} {rows}{enforced}\n", table.table);
            }
            text += &format!(
                "made: {} users, {} organizations\nnext: {}\n",
                status.users, status.organizations, status.next
            );
            text + &match status.to_take_back.as_slice() {
                [] => "a rollback has nothing to take back".to_owned(),
                changes => format!("a rollback takes back, in this order:\n  {}", changes.join("\n  ")),
            }
        })?;
        Ok(Exit::Success)
    }
}

impl Verify {
    async fn run(self, owner: &PgConnectOptions, output: Output) -> CommandResult {
        let plan = self.plan.read()?;
        check_report(self.report.as_deref())?;
        let mut session = open_session(owner).await?;
        let findings = verify(&mut session, plan.clone()).await?;
        let report = write_report_to(&mut session, plan, self.report.as_deref()).await?;
        session.close().await;
        output.result(&findings, |findings| {
            if findings.is_empty() {
                return "nothing to report: every user and every row is where it belongs".to_owned() + &report;
            }
            let lines: Vec<String> =
                findings.iter().map(|f| format!("{:<28} {:<36} {}", f.check, f.subject, f.problem)).collect();
            lines.join("\n") + &report
        })?;
        Ok(Exit::findings(!findings.is_empty()))
    }
}

impl Finalize {
    async fn run(self, owner: &PgConnectOptions, output: Output) -> CommandResult {
        let plan = self.plan.read()?;
        confirm_backup("finalize changes constraints and who sees which rows", self.yes)?;
        let mut session = open_session(owner).await?;
        session.retry_for = self.locks.retry_for;
        let options = FinalizeOptions { lock_timeout: self.locks.lock_timeout, cut_over: self.cut_over };
        let done = finalize(&mut session, plan, &options).await?;
        session.close().await;
        output.result(&done, |done| {
            if done.changes.is_empty() {
                "nothing to do: everything is enforced".to_owned()
            } else {
                format!("enforced:\n  {}", done.changes.join("\n  "))
            }
        })?;
        Ok(Exit::Success)
    }
}

impl Rollback {
    async fn run(self, owner: &PgConnectOptions, output: Output) -> CommandResult {
        let plan = self.plan.read()?;
        confirm_backup(
            "rollback drops columns, and deletes the organizations and users that the adoption made",
            self.yes,
        )?;
        let mut session = open_session(owner).await?;
        session.retry_for = self.locks.retry_for;
        let done = rollback(&mut session, plan, self.locks.lock_timeout).await?;
        session.close().await;
        output.result(&done, |done| {
            let mut text = format!("took back {} changes of the schema and {} rows", done.changes.len(), done.rows);
            for kept in &done.kept {
                text += &format!("\n  stays: {kept}");
            }
            text
        })?;
        Ok(Exit::findings(!done.kept.is_empty()))
    }
}

/// Writes a file that does not exist yet.
fn write_new(path: &Path, text: &str) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

/// A connection as the owner of the tables whose progress is shown.
async fn open_session(owner: &PgConnectOptions) -> Result<OwnerConnection> {
    let mut session = OwnerConnection::open(owner).await?;
    session.progress = progress_bar();
    Ok(session)
}

/// A report that cannot be written is better refused before hours of work.
fn check_report(path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    if !path.extension().is_some_and(|extension| extension == "csv" || extension == "json") {
        return Err(AdoptError::refused(
            Code::BadReport,
            format!("{}: a report is a .csv or a .json file", path.display()),
        ));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() {
        Ok(())
    } else {
        Err(AdoptError::refused(Code::BadReport, format!("{}: there is no such folder", folder.display())))
    }
}

/// Writes the mapping if a file is named; returns the line that says so.
async fn write_report_to(session: &mut OwnerConnection, plan: Plan, path: Option<&Path>) -> Result<String> {
    let Some(path) = path else { return Ok(String::new()) };
    let lines = write_report(session, plan, path).await?;
    Ok(format!("\n{lines} lines in {}", path.display()))
}

fn summary_text(summary: &Summary) -> String {
    let users = &summary.users;
    let mut text = format!(
        "users: {} processed, {} skipped (had an organization), {} without\n",
        users.processed, users.skipped, users.unresolved
    );
    if summary.organizations > 0 {
        text += &format!("organizations: {} made\n", summary.organizations);
    }
    for table in &summary.tables {
        text += &format!("{:<32} {:>10} assigned, {:>10} in all", table.table, table.assigned, table.total);
        if table.unresolved > 0 {
            text += &format!(", {} not inferred", table.unresolved);
        }
        if table.locked > 0 {
            text += &format!(", {} locked by others on every attempt: run again", table.locked);
        }
        text.push('\n');
    }
    text += &format!("took {}", format_duration(Duration::from_secs_f64(summary.seconds)));
    if summary.unresolved() > 0 {
        text += "\n`tenantry adopt verify` lists what has no organization, and why; --report writes it to a file";
    }
    text
}

fn forecast_text(forecast: &DryRun) -> String {
    let mut text = "dry run: nothing was changed\n".to_owned();
    for (outcome, count) in &forecast.users {
        text += &format!("users {outcome}: {count}\n");
    }
    for sample in &forecast.user_samples {
        text += &format!("    user {}: {}\n", sample.key, sample.reason);
    }
    for table in &forecast.tables {
        text += &format!(
            "{:<32} {:>10} rows: {} would be assigned, {} are, {} cannot be inferred ({} conflicts)\n",
            table.table, table.rows, table.assigned, table.already, table.unresolved, table.conflicts
        );
        for sample in &table.samples {
            text += &format!("    {}: {}\n", sample.key, sample.reason);
        }
    }
    for note in &forecast.notes {
        text += &format!("{note}\n");
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(parse_duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
        for bad in ["", "5", "s", "-1s", "1h", "999999999999999999999s", "18446744073709551615m"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
