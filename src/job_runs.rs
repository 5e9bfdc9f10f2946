//! What is known of the jobs' runs: each job has a row in `tenantry.jobs` that is locked while it runs.
//!
//! Of many workers one gets the lock, the others skip it. A worker that dies gives it back with its connection, and one whose
//! host vanishes within a minute (`idle_in_transaction_session_timeout`), because it is the heartbeat that keeps it.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;

use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::{Error, Result};

/// How often the transaction that holds the lock is used, so that the database does not end it as idle.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Characters of an error that are kept.
const ERROR: usize = 2000;

/// A run that has ended.
#[derive(Clone, Debug)]
pub struct Run {
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// How many rows it made, changed or removed.
    pub done: u64,
    /// What went wrong.
    pub error: Option<String>,
}

/// What became of a job that was to run.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Its time has not come.
    NotDue,
    /// It runs now, in another task or process.
    Elsewhere,
    /// It ran.
    Ran(Run),
}

/// Runs a job under the lock of its row and writes down what came of it; with `every`, if the last run began so long ago.
///
/// # Errors
/// When the database cannot be reached, or the lock is lost: then the work is dropped where it stands, and the next run goes on.
/// What goes wrong in the work is in [`Run::error`].
pub async fn run<W>(
    db: &Db,
    clock: &Clock,
    name: &str,
    every: Option<TimeDelta>,
    work: impl FnOnce() -> W,
) -> Result<Outcome>
where
    W: Future<Output = Result<u64>>,
{
    let started_at = clock.now();
    let due = every.map(|every| started_at - every);
    let mut tx = SystemTx::begin(db).await?;
    // Nearly always nothing is due: one look, and nothing is written.
    let is_early = sqlx::query_scalar!(
        r#"select exists (select from tenantry.jobs where name = $1 and last_started_at > $2) as "early!""#,
        name,
        due
    )
    .fetch_one(tx.conn())
    .await?;
    if is_early {
        return Ok(Outcome::NotDue);
    }
    sqlx::query!("insert into tenantry.jobs (name) values ($1) on conflict do nothing", name)
        .execute(tx.conn())
        .await?;
    tx.commit().await?;
    let mut tx = SystemTx::begin(db).await?;
    let claimed = sqlx::query_scalar!(
        "select name from tenantry.jobs
          where name = $1 and (last_started_at is null or $2::timestamptz is null or last_started_at <= $2) for update skip locked",
        name,
        due
    )
    .fetch_optional(tx.conn())
    .await?;
    if claimed.is_none() {
        return Ok(Outcome::Elsewhere);
    }
    let done = holding(&mut tx, AssertUnwindSafe(work()).catch_unwind()).await?;
    let done = done.unwrap_or_else(|_| Err(Error::internal("the job panicked; the log has where")));
    let run = Run {
        started_at,
        finished_at: clock.now(),
        error: done.as_ref().err().map(|error| {
            tracing::error!(job = name, %error, cause = ?error, "a job failed; it is tried again when it is due");
            error.to_string().chars().take(ERROR).collect()
        }),
        done: done.unwrap_or_default(),
    };
    remember(&mut tx, name, &run).await?;
    tx.commit().await?;
    Ok(Outcome::Ran(run))
}

/// Does the work while the transaction stays in use.
async fn holding<W: Future>(tx: &mut SystemTx, work: W) -> Result<W::Output> {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = tokio::time::sleep(HEARTBEAT) => sqlx::query("select 1").execute(tx.conn()).await?,
        };
    }
}

async fn remember(tx: &mut SystemTx, name: &str, run: &Run) -> Result<()> {
    let seconds = (run.finished_at - run.started_at).to_std().unwrap_or_default().as_secs_f64();
    sqlx::query!(
        "update tenantry.jobs
            set last_started_at = $2, last_finished_at = $3, last_done = $4, last_error = $5, runs = runs + 1,
                failures = failures + ($5::text is not null)::int, done = done + $4, seconds = seconds + $6,
                last_succeeded_at = case when $5::text is null then $3 else last_succeeded_at end
          where name = $1",
        name,
        run.started_at,
        run.finished_at,
        i64::try_from(run.done).unwrap_or(i64::MAX),
        run.error,
        seconds
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What is known of a job.
#[derive(Clone, Debug)]
pub struct JobState {
    /// Its name.
    pub name: String,
    /// When the last run began.
    pub last_started_at: Option<DateTime<Utc>>,
    /// When the last run ended.
    pub last_finished_at: Option<DateTime<Utc>>,
    /// When a run last ended well.
    pub last_succeeded_at: Option<DateTime<Utc>>,
    /// How many rows the last run made, changed or removed.
    pub last_done: i64,
    /// What went wrong in the last run.
    pub last_error: Option<String>,
    /// How many runs have ended, well or not.
    pub runs: i64,
    /// How many of them failed.
    pub failures: i64,
    /// Rows of all runs.
    pub done: i64,
    /// Seconds of all runs.
    pub seconds: f64,
    /// Since when it runs now.
    pub running_since: Option<DateTime<Utc>>,
    /// The address that it runs at; none by a Unix socket.
    pub running_at: Option<String>,
    /// The process of `PostgreSQL` that holds its lock.
    pub running_pid: Option<i32>,
}

/// Every job that ran or runs. Locks nothing: a look keeps no worker from its job.
///
/// # Errors
/// When the database cannot be reached.
pub async fn states(db: &Db) -> Result<Vec<JobState>> {
    let mut tx = SystemTx::begin(db).await?;
    // The lock of a row is the id of a transaction in its xmax; while that transaction lives, it holds the lock of its own id.
    let states = sqlx::query_as!(
        JobState,
        r#"select j.name, j.last_started_at, j.last_finished_at, j.last_succeeded_at, j.last_done, j.last_error, j.runs, j.failures,
                  j.done, j.seconds, a.xact_start as "running_since?", host(a.client_addr) as "running_at?", a.pid as "running_pid?"
             from tenantry.jobs j
             left join pg_locks l on l.locktype = 'transactionid' and l.transactionid = j.xmax and l.mode = 'ExclusiveLock' and l.granted
             left join pg_stat_activity a on a.pid = l.pid
            order by j.name"#
    )
    .fetch_all(tx.conn())
    .await?;
    tx.rollback().await?;
    Ok(states)
}
