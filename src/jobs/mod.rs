//! What the workers do by the clock: partitions ahead, the chain of the audit log, and clearing what is old.
//!
//! Of many workers one does a job ([`job_runs`]), and of a worker that dies the next one does. A job does nothing twice: what it
//! has done, it does not find again. `docs/JOBS.md` is for operators.

use std::sync::Arc;

use chrono::{DateTime, Months, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::audit::{Retention, chain};
use crate::billing::{self, Upkeep};
use crate::budgets;
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::entitlements;
use crate::error::{Error, Result};
use crate::escalations;
use crate::events;
use crate::flags;
use crate::job_runs::{self, Outcome, Run};
use crate::metrics;
use crate::organizations;
use crate::sla;
use crate::support_access;
use crate::tickets::jobs as ticket_jobs;

/// Something to be done again and again.
pub struct Job {
    /// The name, as in `tenantry.jobs`.
    pub name: &'static str,
    /// What it does, in a line.
    pub does: &'static str,
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
    pub billing: Upkeep,
}

/// Months of the audit log that have a partition before they begin.
const MONTHS_AHEAD: i32 = 3;
/// How long the memory of mutations is kept.
const IDEMPOTENCY_KEYS: TimeDelta = TimeDelta::days(7);
/// How long an ended session is remembered. Tokens live for minutes or hours; this is the longest that one could.
const ENDED_SESSIONS: TimeDelta = TimeDelta::days(30);
/// How often it is looked what is due.
const TICK: std::time::Duration = std::time::Duration::from_secs(5);
/// Jobs that one process runs at the same time.
const AT_ONCE: usize = 4;
/// Connections of the system pool that they take: one holds the lock of the job, the other does its work.
pub const CONNECTIONS: u32 = 8;
/// Rows that a job removes in one transaction.
const BATCH: i64 = 5000;

/// Every job.
pub const JOBS: &[Job] = &[
    Job {
        name: "audit-seal",
        does: "Chains what was written to the audit log.",
        every: TimeDelta::seconds(10),
        run: |on| Box::pin(chain::seal_due(&on.db)),
    },
    Job {
        name: "audit-partitions",
        does: "Makes the partitions of the audit log for the coming months.",
        every: TimeDelta::hours(6),
        run: |on| Box::pin(partitions(&on.db, &on.clock)),
    },
    Job {
        name: "idempotency-keys",
        does: "Forgets the idempotency keys of mutations after 7 days.",
        every: TimeDelta::hours(1),
        run: |on| Box::pin(clear(&on.db, OLD_KEYS, on.clock.now() - IDEMPOTENCY_KEYS)),
    },
    Job {
        name: "ended-sessions",
        does: "Forgets ended sessions after 30 days.",
        every: TimeDelta::hours(1),
        run: |on| Box::pin(clear(&on.db, OLD_SESSIONS, on.clock.now() - ENDED_SESSIONS)),
    },
    Job {
        name: "organizations",
        does: "Removes the rows of deleted organizations whose holdback has ended.",
        every: TimeDelta::minutes(1),
        run: |on| Box::pin(organizations::purge_due(&on.db, &on.clock)),
    },
    Job {
        name: "entitlements",
        does: "Gives and takes the seats that ended grants and new terms of plans concern.",
        every: TimeDelta::minutes(1),
        run: |on| Box::pin(entitlements::settle_due(&on.db, &on.clock)),
    },
    Job {
        name: "support-access",
        does: "Ends the access of superadmins whose time is over.",
        every: TimeDelta::minutes(1),
        run: |on| Box::pin(support_access::end_expired(&on.db, &on.clock)),
    },
    Job {
        name: "ticket-queues",
        does: "Takes tickets back from silent assignees, and assigns those that nobody has.",
        every: TimeDelta::seconds(10),
        run: |on| Box::pin(ticket_jobs::tend_queues(&on.db, &on.clock)),
    },
    Job {
        name: "ticket-search",
        does: "Indexes tickets anew for organizations that changed the language of their search.",
        every: TimeDelta::seconds(10),
        run: |on| Box::pin(ticket_jobs::index_in_new_language(&on.db)),
    },
    Job {
        name: "service-levels",
        does: "Tells of service levels that are near their end or missed, and brings running clocks to policies that changed.",
        every: TimeDelta::seconds(10),
        run: |on| Box::pin(sla::watch(&on.db, &on.clock)),
    },
    Job {
        name: "escalation-deadlines",
        does: "Marks escalations whose deadline has passed.",
        every: TimeDelta::seconds(15),
        run: |on| Box::pin(escalations::mark_overdue(&on.db, &on.clock)),
    },
    Job {
        name: "budget-periods",
        does: "Opens the next period of budgets whose period has ended.",
        every: TimeDelta::minutes(1),
        run: |on| Box::pin(budgets::open_due_periods(&on.db, &on.clock)),
    },
    Job {
        name: "budget-reservations",
        does: "Frees what expired reservations hold.",
        every: TimeDelta::seconds(15),
        run: |on| Box::pin(budgets::expire_reservations(&on.db, &on.clock)),
    },
    Job {
        name: "billing-actions",
        does: "Goes on with billing actions that were left over.",
        every: TimeDelta::seconds(30),
        run: |on| Box::pin(billing::finish_actions(&on.db, &on.clock, &on.billing)),
    },
    Job {
        name: "billing-grace",
        does: "Ends the grace of plans whose payment is overdue.",
        every: TimeDelta::minutes(1),
        run: |on| Box::pin(billing::end_grace(&on.db, &on.clock, &on.billing)),
    },
    Job {
        name: "billing-usage",
        does: "Tells Stripe's meters of usage.",
        every: TimeDelta::seconds(15),
        run: |on| Box::pin(billing::send_usage(&on.db, &on.clock, &on.billing)),
    },
    Job {
        name: "seat-quantities",
        does: "Brings the number of members to Stripe as the quantity of seats.",
        every: TimeDelta::seconds(10),
        run: |on| Box::pin(billing::sync_seats(&on.db, &on.clock, &on.billing)),
    },
    Job {
        name: "seat-reconciliation",
        does: "Has all quantities of seats compared with Stripe's.",
        every: TimeDelta::hours(24),
        run: |on| Box::pin(billing::mark_all_seats(&on.db, &on.clock, &on.billing)),
    },
    Job {
        name: "metrics",
        does: "Computes the performance figures of what has changed.",
        every: TimeDelta::minutes(1),
        run: |on| Box::pin(metrics::compute_due(&on.db, &on.clock)),
    },
    Job {
        name: "flag-changes",
        does: "Forgets changes of feature flags that every instance has heard of, after an hour.",
        every: TimeDelta::minutes(10),
        run: |on| Box::pin(flags::forget_changes(&on.db)),
    },
    Job {
        name: "event-log",
        does: "Forgets what subscribers were told, after an hour.",
        every: TimeDelta::minutes(5),
        run: |on| Box::pin(events::forget(&on.db)),
    },
    Job {
        name: "audit-retention",
        does: "Removes the audit log past the retention of the plan.",
        every: TimeDelta::hours(6),
        run: |on| Box::pin(on.retention.expire(&on.db, &on.clock)),
    },
];

/// Does what is due until a stop is asked for. Each job looks for itself, and at most `AT_ONCE` run at the same time: one that
/// takes minutes delays no other.
pub async fn run(jobs: Arc<Jobs>, stopping: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut tending = JoinSet::new();
    for job in JOBS {
        tending.spawn(tend(Arc::clone(&jobs), job, Arc::clone(&places), stopping.clone()));
    }
    tending.join_all().await;
}

async fn tend(jobs: Arc<Jobs>, job: &'static Job, places: Arc<Semaphore>, mut stopping: watch::Receiver<bool>) {
    loop {
        {
            let Ok(_place) = places.acquire().await else { return };
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
/// As [`job_runs::run`].
pub async fn run_if_due(jobs: &Jobs, job: &Job) -> Result<bool> {
    let outcome = job_runs::run(&jobs.db, &jobs.clock, job.name, Some(job.every), || (job.run)(jobs)).await?;
    Ok(matches!(outcome, Outcome::Ran(_)))
}

/// Runs a job, due or not, unless somebody else does: then there is nothing to tell.
///
/// # Errors
/// As [`job_runs::run`].
pub async fn run_now(jobs: &Jobs, job: &Job) -> Result<Option<Run>> {
    match job_runs::run(&jobs.db, &jobs.clock, job.name, None, || (job.run)(jobs)).await? {
        Outcome::Ran(run) => Ok(Some(run)),
        Outcome::Elsewhere | Outcome::NotDue => Ok(None),
    }
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
