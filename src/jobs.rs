//! What the workers do by the clock: partitions ahead, the chain of the audit log, and clearing what is old.
//!
//! Each job has a row in `tenantry.jobs` that is locked while it runs, so that of many workers one does it, and of a worker that
//! dies the next one does. A job does nothing twice: what it has done, it does not find again.

use std::sync::Arc;

use chrono::{DateTime, Months, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::audit::{Retention, chain};
use crate::budgets;
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::{Error, Result};
use crate::escalations;
use crate::organizations;
use crate::sla;
use crate::support_access;
use crate::tickets::jobs as ticket_jobs;

/// Something to be done again and again.
pub struct Job {
    /// The name, as in `tenantry.jobs`.
    pub name: &'static str,
    /// How long after a run began the next is due.
    pub every: TimeDelta,
    /// Does it; says how many rows it made, sealed or removed.
    run: for<'a> fn(&'a Jobs) -> BoxFuture<'a, Result<u64>>,
}

/// What jobs are done with.
pub struct Jobs {
    pub db: Db,
    pub clock: Clock,
    /// How long the audit log is kept.
    pub retention: Retention,
}

/// Months of the audit log that have a partition before they begin.
const MONTHS_AHEAD: i32 = 3;
/// How long the memory of mutations is kept.
const IDEMPOTENCY_KEYS: TimeDelta = TimeDelta::days(7);
/// How long an ended session is remembered. Tokens live for minutes or hours; this is the longest that one could.
const ENDED_SESSIONS: TimeDelta = TimeDelta::days(30);
/// How often it is looked what is due.
const TICK: std::time::Duration = std::time::Duration::from_secs(5);
/// Rows that a job removes in one transaction.
const BATCH: i64 = 5000;

/// Every job.
pub const JOBS: &[Job] = &[
    Job { name: "audit-seal", every: TimeDelta::seconds(10), run: |on| Box::pin(chain::seal_all(&on.db)) },
    Job { name: "audit-partitions", every: TimeDelta::hours(6), run: |on| Box::pin(partitions(&on.db, &on.clock)) },
    Job {
        name: "idempotency-keys",
        every: TimeDelta::hours(1),
        run: |on| Box::pin(clear(&on.db, OLD_KEYS, on.clock.now() - IDEMPOTENCY_KEYS)),
    },
    Job {
        name: "ended-sessions",
        every: TimeDelta::hours(1),
        run: |on| Box::pin(clear(&on.db, OLD_SESSIONS, on.clock.now() - ENDED_SESSIONS)),
    },
    Job {
        name: "organizations",
        every: TimeDelta::minutes(1),
        run: |on| Box::pin(organizations::purge_due(&on.db, &on.clock)),
    },
    Job {
        name: "support-access",
        every: TimeDelta::minutes(1),
        run: |on| Box::pin(support_access::end_expired(&on.db, &on.clock)),
    },
    Job {
        name: "ticket-queues",
        every: TimeDelta::seconds(10),
        run: |on| Box::pin(ticket_jobs::tend_queues(&on.db, &on.clock)),
    },
    Job {
        name: "ticket-search",
        every: TimeDelta::seconds(10),
        run: |on| Box::pin(ticket_jobs::index_in_new_language(&on.db)),
    },
    Job { name: "service-levels", every: TimeDelta::seconds(10), run: |on| Box::pin(sla::watch(&on.db, &on.clock)) },
    Job {
        name: "escalation-deadlines",
        every: TimeDelta::seconds(15),
        run: |on| Box::pin(escalations::mark_overdue(&on.db, &on.clock)),
    },
    Job {
        name: "budget-periods",
        every: TimeDelta::minutes(1),
        run: |on| Box::pin(budgets::open_due_periods(&on.db, &on.clock)),
    },
    Job {
        name: "budget-reservations",
        every: TimeDelta::seconds(15),
        run: |on| Box::pin(budgets::expire_reservations(&on.db, &on.clock)),
    },
    Job {
        name: "audit-retention",
        every: TimeDelta::hours(6),
        run: |on| Box::pin(on.retention.expire(&on.db, &on.clock)),
    },
];

/// Does what is due until a stop is asked for.
pub async fn run(jobs: Arc<Jobs>, mut stopping: watch::Receiver<bool>) {
    loop {
        for job in JOBS {
            if *stopping.borrow() {
                return;
            }
            if let Err(error) = run_if_due(&jobs, job).await {
                tracing::warn!(job = job.name, %error, "a job could not be looked after; it is tried again");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            _ = stopping.changed() => return,
        }
    }
}

/// Runs a job if it is due and nobody else does; says whether it ran.
///
/// # Errors
/// When the database cannot be reached. What goes wrong in the job is kept in its row.
pub async fn run_if_due(jobs: &Jobs, job: &Job) -> Result<bool> {
    let Jobs { db, clock, .. } = jobs;
    let started = clock.now();
    let mut tx = SystemTx::begin(db).await?;
    // Nearly always nothing is due: one look, and nothing is written.
    let is_early = sqlx::query_scalar!(
        r#"select exists (select from tenantry.jobs where name = $1 and last_started_at > $2) as "early!""#,
        job.name,
        started - job.every
    )
    .fetch_one(tx.conn())
    .await?;
    if is_early {
        return Ok(false);
    }
    sqlx::query!("insert into tenantry.jobs (name) values ($1) on conflict do nothing", job.name)
        .execute(tx.conn())
        .await?;
    tx.commit().await?;
    let mut tx = SystemTx::begin(db).await?;
    let due = sqlx::query_scalar!(
        "select name from tenantry.jobs where name = $1 and (last_started_at is null or last_started_at <= $2) for update skip locked",
        job.name,
        started - job.every
    )
    .fetch_optional(tx.conn())
    .await?;
    if due.is_none() {
        return Ok(false);
    }
    let done = (job.run)(jobs).await;
    let problem = done.as_ref().err().map(|error| {
        tracing::error!(job = job.name, %error, cause = ?error, "a job failed; it is tried again when it is due");
        error.to_string().chars().take(2000).collect::<String>()
    });
    sqlx::query!(
        "update tenantry.jobs set last_started_at = $2, last_finished_at = $3, last_done = $4, last_error = $5, runs = runs + 1 where name = $1",
        job.name,
        started,
        clock.now(),
        i64::try_from(done.unwrap_or_default()).unwrap_or(i64::MAX),
        problem
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await?;
    Ok(true)
}

async fn partitions(db: &Db, clock: &Clock) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let from =
        clock.now().date_naive().checked_sub_months(Months::new(1)).ok_or_else(|| Error::internal("no such month"))?;
    let made =
        sqlx::query_scalar!(r#"select tenantry.ensure_audit_partitions($1, $2) as "made!""#, from, MONTHS_AHEAD + 2)
            .fetch_one(tx.conn())
            .await?;
    tx.commit().await?;
    Ok(u64::try_from(made).unwrap_or_default())
}

/// Removes rows that are older than this, some at a time.
async fn clear(db: &Db, sql: &'static str, before: DateTime<Utc>) -> Result<u64> {
    let mut all = 0;
    loop {
        let mut tx = SystemTx::begin(db).await?;
        let removed = sqlx::query(sql).bind(before).bind(BATCH).execute(tx.conn()).await?.rows_affected();
        tx.commit().await?;
        all += removed;
        if i64::try_from(removed).is_ok_and(|removed| removed < BATCH) {
            return Ok(all);
        }
    }
}

const OLD_KEYS: &str = "delete from tenantry.idempotency_keys where (organization_id, actor_id, key) in (
    select organization_id, actor_id, key from tenantry.idempotency_keys where created_at < $1 limit $2)";
const OLD_SESSIONS: &str = "delete from tenantry.ended_sessions where session_id in (
    select session_id from tenantry.ended_sessions where ended_at < $1 limit $2)";
