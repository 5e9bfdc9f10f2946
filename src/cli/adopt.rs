//! `tenantry adopt`: arguments and what is printed.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;

use super::progress::duration;
use super::{
    AdoptError, DryRun, FinalizeOptions, Plan, Relation, Result, RunOptions, Session, Summary, dry_run, finalize,
    rollback, run, suggest, verify, write_report,
};
use crate::clock::Clock;

/// The way through, for `--help`.
pub const STEPS: &str = "\
The order, with MIGRATION_DATABASE_URL as the owner of all the tables:
  0. back up; move the old tables into a schema of their own, such as
     `legacy`; tenantry migrate up
  1. adopt plan --schema legacy --output plan.toml
     then answer its lines with `?`
  2. adopt run --dry-run: counts, samples, locks, time; changes nothing
  3. adopt run --report mapping.csv: killed, it goes on where it was
  4. adopt verify: what has no organization; set it, or delete the row
  5. adopt finalize: not null, foreign keys, row-level security
  6. adopt finalize --cut-over: the old application writes no more
Back, at any time: adopt rollback.

Ends with 0 (well), 1 (found something, or failed) or 2 (plan, login or state
do not allow it). Errors begin with a stable word: PLAN_INVALID, NOT_READY,
DISK_FULL and so on.";

/// What `tenantry adopt` can do.
#[derive(Subcommand)]
pub enum AdoptAction {
    /// Read the catalogue and write a first plan, with its questions as comments.
    Plan {
        /// The schema of the old application's tables; without, every schema but Tenantry's own.
        #[arg(long)]
        schema: Option<String>,
        /// The table of users, when its name does not say so.
        #[arg(long, value_parser = Relation::parse)]
        users: Option<Relation>,
        /// The name of the adoption.
        #[arg(long, default_value = "legacy")]
        name: String,
        /// Write here instead of to stdout; never over a file that is there.
        #[arg(long)]
        output: Option<PathBuf>,
    },
    /// Give every user and every row its organization, in batches, while the database is in use. Resumes where it was.
    Run(RunArgs),
    /// Look for users and rows without an organization, orphans, duplicate slugs and references across organizations.
    Verify {
        /// The plan.
        #[command(flatten)]
        plan: PlanArg,
        /// Write the mapping here: .csv or .json.
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
    },
    /// Enforce it: not null, foreign keys, indexes, row-level security.
    Finalize {
        /// The plan.
        #[command(flatten)]
        plan: PlanArg,
        /// How long to wait.
        #[command(flatten)]
        locks: LockArgs,
        /// The old application writes no more: take its triggers and its access away.
        #[arg(long)]
        cut_over: bool,
        /// A backup is made: do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Take everything back, from the mapping that was kept.
    Rollback {
        /// The plan.
        #[command(flatten)]
        plan: PlanArg,
        /// How long to wait.
        #[command(flatten)]
        locks: LockArgs,
        /// A backup is made: do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// The plan's file.
#[derive(Args)]
pub struct PlanArg {
    /// The plan (TOML).
    #[arg(long, value_name = "FILE", default_value = "plan.toml")]
    plan: PathBuf,
}

/// How patient changes of the schema are.
#[derive(Args)]
pub struct LockArgs {
    /// Wait so long for a lock at a time; others queue behind this wait.
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = parse_duration)]
    lock_timeout: Duration,
}

/// Arguments of a run.
#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    plan: PlanArg,
    /// Change nothing: count, show samples, estimate.
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

/// What a command has to say.
pub struct Outcome {
    /// For people.
    pub text: String,
    /// For programs.
    pub json: Value,
    /// Whether there is something to look at (exit code 1).
    pub found: bool,
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

fn read_plan(argument: &PlanArg) -> Result<Plan> {
    let text = std::fs::read_to_string(&argument.plan).map_err(|error| {
        AdoptError::refused(
            "NO_PLAN",
            format!("{}: {error}. `tenantry adopt plan --output {0}` writes a first one", argument.plan.display()),
        )
    })?;
    Plan::parse(&text)
}

/// Runs `tenantry adopt …` as the owner of the tables.
pub async fn execute(options: &PgConnectOptions, action: &AdoptAction, clock: &Clock) -> Result<Outcome> {
    match action {
        AdoptAction::Plan { schema, users, name, output } => {
            let mut session = Session::open(options).await?;
            let suggestion = suggest(&mut session, name, schema.as_deref(), users.as_ref()).await?;
            session.close().await;
            let json = json!({ "plan": suggestion.toml, "questions": suggestion.questions });
            let text = match output {
                None => suggestion.toml,
                Some(path) => {
                    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
                    file.write_all(suggestion.toml.as_bytes())?;
                    format!("wrote {} with {} questions (lines with `?`)", path.display(), suggestion.questions.len())
                }
            };
            Ok(Outcome { text, json, found: false })
        }
        AdoptAction::Run(args) => {
            let plan = read_plan(&args.plan)?;
            check_report(args.report.as_deref())?;
            let mut session = Session::open(options).await?;
            let run_options = RunOptions {
                batch_size: args.batch_size,
                sleep: args.sleep,
                max_lag: args.max_lag,
                lock_timeout: args.locks.lock_timeout,
            };
            if args.dry_run {
                let forecast = dry_run(&mut session, plan, &run_options).await?;
                session.close().await;
                return Ok(Outcome { text: forecast_text(&forecast), json: json!(forecast), found: false });
            }
            let summary = run(&mut session, plan.clone(), &run_options, clock).await?;
            let mut text = summary_text(&summary);
            report(&mut session, plan, args.report.as_deref(), &mut text).await?;
            session.close().await;
            Ok(Outcome { text, json: json!(summary), found: summary.unresolved() > 0 })
        }
        AdoptAction::Verify { plan, report: path } => {
            let plan = read_plan(plan)?;
            check_report(path.as_deref())?;
            let mut session = Session::open(options).await?;
            let findings = verify(&mut session, plan.clone()).await?;
            let mut text = if findings.is_empty() {
                "nothing to report: every user and every row is where it belongs".to_owned()
            } else {
                let lines: Vec<String> =
                    findings.iter().map(|f| format!("{:<28} {:<36} {}", f.check, f.subject, f.problem)).collect();
                lines.join("\n")
            };
            report(&mut session, plan, path.as_deref(), &mut text).await?;
            session.close().await;
            Ok(Outcome { text, json: json!(findings), found: !findings.is_empty() })
        }
        AdoptAction::Finalize { plan, locks, cut_over, yes } => {
            let plan = read_plan(plan)?;
            confirm("finalize changes constraints and who sees which rows", *yes)?;
            let mut session = Session::open(options).await?;
            let finalize_options = FinalizeOptions { lock_timeout: locks.lock_timeout, cut_over: *cut_over };
            let done = finalize(&mut session, plan, &finalize_options).await?;
            session.close().await;
            let text = if done.changes.is_empty() {
                "nothing to do: everything is enforced".to_owned()
            } else {
                format!("enforced:\n  {}", done.changes.join("\n  "))
            };
            Ok(Outcome { text, json: json!(done), found: false })
        }
        AdoptAction::Rollback { plan, locks, yes } => {
            let plan = read_plan(plan)?;
            confirm("rollback drops columns, and deletes the organizations and users that the adoption made", *yes)?;
            let mut session = Session::open(options).await?;
            let done = rollback(&mut session, plan, locks.lock_timeout).await?;
            session.close().await;
            let mut text = format!("took back {} changes of the schema and {} rows", done.changes.len(), done.rows);
            for kept in &done.kept {
                text += &format!("\n  stays: {kept}");
            }
            Ok(Outcome { text, json: json!(done), found: !done.kept.is_empty() })
        }
    }
}

/// A report that cannot be written is better refused before hours of work.
fn check_report(path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    if !path.extension().is_some_and(|extension| extension == "csv" || extension == "json") {
        return Err(AdoptError::refused(
            "BAD_REPORT",
            format!("{}: a report is a .csv or a .json file", path.display()),
        ));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() {
        Ok(())
    } else {
        Err(AdoptError::refused("BAD_REPORT", format!("{}: there is no such folder", folder.display())))
    }
}

async fn report(session: &mut Session, plan: Plan, path: Option<&Path>, text: &mut String) -> Result<()> {
    if let Some(path) = path {
        let lines = write_report(session, plan, path).await?;
        *text += &format!("\n{lines} lines in {}", path.display());
    }
    Ok(())
}

/// The reminder before something that cannot be undone by itself; asks at a terminal, wants `--yes` elsewhere.
pub fn confirm(what: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    let reminder = format!(
        "{what}. Back up first: `pg_dump --format=custom --file=before.dump \"$MIGRATION_DATABASE_URL\"`, or a snapshot of your host."
    );
    if !std::io::stdin().is_terminal() {
        return Err(AdoptError::refused("BACKUP_FIRST", format!("{reminder} Then add --yes.")));
    }
    write!(std::io::stderr(), "{reminder}\nIs there a backup? Type yes: ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() == "yes" { Ok(()) } else { Err(AdoptError::refused("BACKUP_FIRST", "nothing was done")) }
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
            text += &format!(", {} locked by others all the time: run again", table.locked);
        }
        text.push('\n');
    }
    text += &format!("took {}", duration(Duration::from_secs_f64(summary.seconds)));
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
