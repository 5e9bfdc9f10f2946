//! `tenantry jobs`: what the workers do by the clock, for those who operate the server.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::database::Database;
use super::output::{CommandError, CommandResult, Exit, Output, printable};
use crate::clock::Clock;
use crate::config::Config;
use crate::job_runs::{self, JobState};
use crate::jobs::{JOBS, Job, Jobs, run_now};

/// Look at the jobs of the workers, or run one now.
#[derive(Subcommand)]
pub(super) enum JobsCommand {
    List(List),
    Run(RunJob),
}

/// List the jobs: what they do, how often, when they ran last and what came of it, and who runs them now; exit 1 when the last run
/// of one failed.
#[derive(Args)]
pub(super) struct List {}

/// Run jobs now, due or not; exit 1 when one fails or runs elsewhere.
#[derive(Args)]
pub(super) struct RunJob {
    /// The names of the jobs, as `tenantry jobs list` shows them.
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,
    /// All jobs, one after the other.
    #[arg(long)]
    all: bool,
}

impl JobsCommand {
    pub(super) async fn run(self, config: &Config, output: Output) -> CommandResult {
        match self {
            Self::List(_) => list(config, output).await,
            Self::Run(command) => command.run(config, output).await,
        }
    }
}

/// A job as it is listed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: &'static str,
    does: &'static str,
    every_seconds: i64,
    last_started_at: Option<DateTime<Utc>>,
    last_finished_at: Option<DateTime<Utc>>,
    took_seconds: Option<f64>,
    last_done: i64,
    last_error: Option<String>,
    last_succeeded_at: Option<DateTime<Utc>>,
    runs: i64,
    failures: i64,
    /// Null: as soon as a worker looks.
    next_due_at: Option<DateTime<Utc>>,
    running: Option<Running>,
}

/// Who runs a job now.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    since: Option<DateTime<Utc>>,
    /// Address of the process that runs it; null: by a Unix socket.
    address: Option<String>,
    /// Process of `PostgreSQL` that holds its lock.
    backend: i32,
}

impl Listed {
    fn new(job: &'static Job, state: Option<JobState>) -> Self {
        let known = state.as_ref();
        let (started, finished) = (known.and_then(|s| s.last_started_at), known.and_then(|s| s.last_finished_at));
        Self {
            name: job.name,
            does: job.does,
            every_seconds: job.every.num_seconds(),
            last_started_at: started,
            last_finished_at: finished,
            took_seconds: started.zip(finished).map(|(from, to)| (to - from).as_seconds_f64()),
            last_done: known.map_or(0, |s| s.last_done),
            last_succeeded_at: known.and_then(|s| s.last_succeeded_at),
            runs: known.map_or(0, |s| s.runs),
            failures: known.map_or(0, |s| s.failures),
            next_due_at: started.map(|at| at + job.every),
            running: known.and_then(|s| {
                let backend = s.running_pid?;
                Some(Running { since: s.running_since, address: s.running_at.clone(), backend })
            }),
            last_error: state.and_then(|s| s.last_error),
        }
    }

    fn line(&self) -> String {
        let at = |at: Option<DateTime<Utc>>| at.map_or_else(|| "–".to_owned(), time);
        let took = self.took_seconds.map_or_else(|| "–".to_owned(), |took| format!("{took:.1} s"));
        let now = match &self.running {
            Some(running) => {
                let address = running.address.as_deref().unwrap_or("this machine");
                format!("running since {}, from {address} (backend {})", at(running.since), running.backend)
            }
            None => format!("next due {}", self.next_due_at.map_or_else(|| "now".to_owned(), time)),
        };
        let mut text = format!(
            "{:<22} every {:<6} last {:<20} took {:<8} {:>7} rows {:>6} runs {:>4} failed  {now}\n{:22} {}",
            self.name,
            span(TimeDelta::seconds(self.every_seconds)),
            at(self.last_started_at),
            took,
            self.last_done,
            self.runs,
            self.failures,
            "",
            self.does,
        );
        if let Some(error) = &self.last_error {
            text += &format!("\n{:22} failed: {} (last success: {})", "", printable(error), at(self.last_succeeded_at));
        }
        text
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn span(time: TimeDelta) -> String {
    match time.num_seconds() {
        seconds if seconds % 3600 == 0 => format!("{} h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

async fn list(config: &Config, output: Output) -> CommandResult {
    let database = Database::open(config).await?;
    let db = database.pools(config)?;
    let mut states = job_runs::states(&db).await?;
    db.close().await;
    let listed: Vec<Listed> = JOBS
        .iter()
        .map(|job| {
            let at = states.iter().position(|state| state.name == job.name);
            Listed::new(job, at.map(|at| states.swap_remove(at)))
        })
        .collect();
    output.result(&listed, |listed| listed.iter().map(Listed::line).collect::<Vec<_>>().join("\n"))?;
    Ok(Exit::findings(listed.iter().any(|job| job.last_error.is_some())))
}

/// What came of one job.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunOf {
    name: &'static str,
    ran: bool,
    done: Option<u64>,
    took_seconds: Option<f64>,
    error: Option<String>,
}

impl RunOf {
    fn line(&self) -> String {
        match (self.done, self.took_seconds, &self.error) {
            (_, _, Some(error)) => format!("{} failed: {}", self.name, printable(error)),
            (Some(done), Some(took), None) => format!("{}: {done} rows in {took:.1} s", self.name),
            _ => format!("{} is running elsewhere; `tenantry jobs list` shows where", self.name),
        }
    }
}

impl RunJob {
    async fn run(self, config: &Config, output: Output) -> CommandResult {
        let mut chosen = Vec::new();
        for name in &self.names {
            chosen.push(JOBS.iter().find(|job| job.name == name).ok_or_else(|| unknown(name))?);
        }
        if self.all {
            chosen.extend(JOBS);
        }
        let database = Database::open(config).await?;
        let db = database.pools(config)?;
        let jobs = Jobs {
            db: db.clone(),
            clock: Clock::System,
            retention: config.audit_retention.clone(),
            billing: config.upkeep(config.webhooks.sync.stripe_client()?),
        };
        let mut all = Vec::new();
        for job in chosen {
            let run = run_now(&jobs, job).await?;
            all.push(match run {
                None => RunOf { name: job.name, ran: false, done: None, took_seconds: None, error: None },
                Some(run) => RunOf {
                    name: job.name,
                    ran: true,
                    done: Some(run.done),
                    took_seconds: Some((run.finished_at - run.started_at).as_seconds_f64()),
                    error: run.error,
                },
            });
        }
        db.close().await;
        output.result(&all, |all| all.iter().map(RunOf::line).collect::<Vec<_>>().join("\n"))?;
        Ok(Exit::findings(all.iter().any(|ran| !ran.ran || ran.error.is_some())))
    }
}

fn unknown(name: &str) -> CommandError {
    let names: Vec<&str> = JOBS.iter().map(|job| job.name).collect();
    CommandError::usage(format!("there is no job {}; jobs are {}", printable(name), names.join(", ")))
}
