//! The jobs of the workers: once, fair, visible, and the same after a kill.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tenantry::jobs::{self, JOBS, Job, Jobs, run_if_due, run_now};
use tenantry::local_postgres;
use tokio::process::Command;
use tokio::sync::watch;

use crate::adopt::{ended, parse, tenantry_as};
use crate::support::{TestApp, TestDb, cluster, metrics};

fn job(name: &str) -> &'static Job {
    JOBS.iter().find(|job| job.name == name).expect("a job")
}

fn jobs_of(app: &TestApp, database: &TestDb) -> Jobs {
    Jobs {
        db: database.db(),
        clock: app.clock.clone(),
        retention: app.app.jobs.retention.clone(),
        billing: app.app.jobs.billing.clone(),
    }
}

/// Reservations of the first budget of an organization that expired a minute ago.
async fn expired_reservations(app: &TestApp, slug: &str, count: u32) {
    app.sql(&format!(
        "with target as (
             select b.organization_id, b.id, b.currency from tenantry.budgets b join tenantry.organizations o on o.id = b.organization_id
              where o.slug = '{slug}' and b.closed_at is null and b.archived_at is null order by b.created_at, b.id limit 1
         ), raised as (
             update tenantry.budgets b set is_hard_limit = false, reserved_minor = reserved_minor + {count} from target t
              where b.organization_id = t.organization_id and b.id = t.id
         ), made as (
             insert into tenantry.budget_reservations (id, organization_id, amount_minor, currency, source, created_at, expires_at)
             select gen_random_uuid(), organization_id, 1, currency, 'test', now() - interval '1 hour', now() - interval '1 minute'
               from target, generate_series(1, {count}) returning *
         )
         insert into tenantry.budget_usage_records (id, organization_id, budget_id, reservation_id, amount_minor, currency, kind, source)
         select gen_random_uuid(), m.organization_id, t.id, m.id, 1, m.currency, 'RESERVE', 'test' from made m cross join target t"
    ))
    .await;
}

/// Escalations whose deadline has passed.
async fn overdue_escalations(app: &TestApp) {
    app.sql("update tenantry.escalations set due_at = now() - interval '1 minute', overdue_at = null, status = 'OPEN', resolved_at = null")
        .await;
}

async fn text(app: &TestApp, sql: &'static str) -> String {
    sqlx::query_scalar(sql).fetch_one(&mut app.database.system().await).await.expect(sql)
}

async fn number(app: &TestApp, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&mut app.database.system().await).await.expect(sql)
}

/// 100,000 due rows of one organization stand before 20 of another by at most one batch; the next runs go on.
#[tokio::test]
async fn hundred_thousand_due_rows_of_one_delay_another_by_one_batch() {
    let app = TestApp::start().await;
    // Whoever has the smaller id comes first in a round: that is the one with very many.
    let smaller = text(
        &app,
        "select slug from tenantry.organizations where slug in ('acme-corp', 'tech-startup') order by id limit 1",
    )
    .await;
    let other = if smaller == "acme-corp" { "tech-startup" } else { "acme-corp" };
    expired_reservations(&app, &smaller, 100_000).await;
    expired_reservations(&app, other, 20).await;
    app.sql("analyze tenantry.budget_reservations; analyze tenantry.budget_usage_records").await;
    let run = run_now(&app.app.jobs, job("budget-reservations")).await.expect("a run").expect("nobody else runs it");
    assert_eq!(run.error, None);
    // Transactions in the order in which they wrote.
    let order: Vec<(String, i64)> = sqlx::query_as(
        "select o.slug, (a.metadata ->> 'records')::bigint from tenantry.audit_logs a join tenantry.organizations o on o.id = a.organization_id
          where a.action = 'budget.reservations.expire' order by a.xmin::text::bigint",
    )
    .fetch_all(&mut app.database.system().await)
    .await
    .expect("what was done");
    let place = order.iter().position(|(slug, _)| slug == other).expect("the small one had its turn");
    assert_eq!((place, order[place].1), (1, 20), "one batch of the big one stands before it: {order:?}");
    // The run is bounded, and so is each transaction.
    assert_eq!(order.len(), 21, "20 turns of the big one");
    assert_eq!(run.done, 20 * 500 + 20);
    assert_eq!(
        number(&app, "select count(*) from tenantry.budget_reservations where status = 'OPEN' and source = 'test'")
            .await,
        90_000
    );
}

/// Of eight instances that find a job due at the same moment one runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn job_that_is_due_runs_once_over_eight_instances() {
    let app = TestApp::start_in_still_time().await;
    let instances: Vec<Jobs> = (0..8).map(|_| jobs_of(&app, &app.database)).collect();
    for round in 1..=5_i64 {
        app.clock.advance(chrono::Duration::hours(7));
        expired_reservations(&app, "acme-corp", 3).await;
        let due = job("budget-reservations");
        let ran = futures_util::future::join_all(instances.iter().map(|jobs| run_if_due(jobs, due))).await;
        assert_eq!(ran.into_iter().filter(|ran| *ran.as_ref().expect("a look")).count(), 1, "round {round}");
        let known = "select runs from tenantry.jobs where name = 'budget-reservations'";
        assert_eq!(number(&app, known).await, round);
    }
    assert_eq!(
        number(&app, "select count(*) from tenantry.audit_logs where action = 'budget.reservations.expire'").await,
        5
    );
}

/// What a run leaves, whatever the ids.
const LEFT: &str = "select coalesce(jsonb_agg(line order by line::text), '[]')::text from (
    select jsonb_build_array('escalation', id, status, overdue_at is not null, version) as line from tenantry.escalations
    union all select jsonb_build_array('budget', id, reserved_minor, spent_minor) from tenantry.budgets
    union all select jsonb_build_array('reservations', organization_id, status, source, count(*)) from tenantry.budget_reservations group by organization_id, status, source
    union all select jsonb_build_array('records', organization_id, kind, source, count(*), sum(amount_minor)) from tenantry.budget_usage_records group by organization_id, kind, source
    union all select jsonb_build_array('log', organization_id, action, count(*)) from tenantry.audit_logs where action in ('escalation.overdue', 'budget.reservations.expire') group by organization_id, action
    union all select jsonb_build_array('run', name, last_done, last_error, runs) from tenantry.jobs) lines";

/// Killed in the middle of what they write, with their connections or as a task, jobs do the rest in the next run, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn jobs_that_were_killed_leave_what_they_had_left_without() {
    for name in ["budget-reservations", "escalation-deadlines"] {
        let mut left = Vec::new();
        for kill in [None, Some(true), Some(false)] {
            // Ids of the sample data are the same in each copy.
            let app = Arc::new(TestApp::start_in_still_time().await);
            expired_reservations(&app, "acme-corp", 700).await;
            overdue_escalations(&app).await;
            if let Some(by_the_server) = kill {
                killed(&app, job(name), by_the_server).await;
                let runs = "select coalesce(sum(runs), 0)::bigint from tenantry.jobs";
                assert_eq!(number(&app, runs).await, 0, "{name} did not end");
            }
            assert!(run_if_due(&app.app.jobs, job(name)).await.expect("a run"), "{name} is due and free again");
            left.push(text(&app, LEFT).await);
        }
        assert!(left[0].contains("\"log\""), "{name} does something: {}", left[0]);
        assert_eq!(left[0], left[1], "{name}");
        assert_eq!(left[0], left[2], "{name}");
    }
}

/// Runs a job into the lock of a table that it writes last, and ends it there: its rows are written, and not committed.
async fn killed(app: &Arc<TestApp>, job: &'static Job, by_the_server: bool) {
    let mut holder = app.database.superuser().await;
    sqlx::raw_sql("begin; lock table tenantry.audit_logs in share mode").execute(&mut holder).await.expect("a lock");
    let running = tokio::spawn({
        let app = Arc::clone(app);
        async move { run_if_due(&app.app.jobs, job).await }
    });
    let mut superuser = app.database.superuser().await;
    let waiting = "select exists (select from pg_locks where not granted and database = (select oid from pg_database where datname = current_database()))";
    let mut waits = false;
    for _ in 0..1500 {
        waits = sqlx::query_scalar(waiting).fetch_one(&mut superuser).await.expect("a look");
        if waits {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(waits, "{} writes the audit log", job.name);
    if by_the_server {
        // First the one that holds the lock of the job: nothing is written down.
        sqlx::raw_sql(
            "select pg_terminate_backend(pid) from (
                 select pid from pg_stat_activity
                  where datname = current_database() and application_name = 'tenantry-system' and state <> 'idle'
                  order by state = 'active' offset 0) theirs",
        )
        .execute(&mut superuser)
        .await
        .expect("a kill");
        assert!(running.await.expect("no panic").is_err(), "the worker is told");
    } else {
        running.abort();
        assert!(running.await.is_err_and(|error| error.is_cancelled()));
    }
    sqlx::raw_sql("rollback").execute(&mut holder).await.expect("the lock is free");
    app.database.at_rest().await;
}

/// A job that waits for something keeps the others from nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn job_that_takes_long_delays_no_other() {
    let app = TestApp::start().await;
    let mut holder = app.database.superuser().await;
    sqlx::raw_sql("begin; lock table tenantry.audit_unsealed in access exclusive mode")
        .execute(&mut holder)
        .await
        .expect("a lock");
    let (stop, stopping) = watch::channel(false);
    let db = tenantry::db::Db::new(
        app.database.options(local_postgres::APP_ROLE),
        app.database.options(local_postgres::SUPERADMIN_ROLE),
        tenantry::db::PoolLimits { workers: jobs::CONNECTIONS, ..tenantry::db::PoolLimits::default() },
    );
    let jobs = Jobs {
        db,
        clock: app.clock.clone(),
        retention: app.app.jobs.retention.clone(),
        billing: app.app.jobs.billing.clone(),
    };
    let running = tokio::spawn(jobs::run(Arc::new(jobs), stopping));
    let behind = "select count(*) from tenantry.jobs where runs > 0 and last_error is null";
    for _ in 0..1500 {
        if number(&app, behind).await >= 8 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sqlx::raw_sql("rollback").execute(&mut holder).await.expect("the lock is free");
    stop.send_replace(true);
    running.await.expect("no panic");
    let sealed_first = "select count(*) from tenantry.jobs j, tenantry.jobs s
        where s.name = 'audit-seal' and j.name <> s.name and j.last_finished_at < s.last_finished_at";
    assert!(number(&app, sealed_first).await >= 1, "the first of the list waited, and others ran");
}

pub async fn command(database: &TestDb, arguments: &[&str]) -> Command {
    let server = &cluster().await.server;
    let mut command = tenantry_as(database, local_postgres::OWNER_ROLE, arguments).await;
    command.env("DATABASE_URL", server.url(local_postgres::APP_ROLE, &database.name));
    command.env("SUPERADMIN_DATABASE_URL", server.url(local_postgres::SUPERADMIN_ROLE, &database.name));
    command
}

/// Operators list jobs, run one, and see who runs it; Prometheus sees the same.
#[tokio::test]
async fn jobs_are_seen_and_run_by_operators() {
    let app = TestApp::start().await;
    let run = async |arguments: &[&str]| ended(command(&app.database, arguments).await).await;
    let (code, out, _) = run(&["jobs", "list", "--json"]).await;
    let listed = parse(&out);
    assert_eq!((code, listed.as_array().expect("a list").len()), (0, JOBS.len()));
    assert!(listed.as_array().expect("a list").iter().all(|job| job["runs"] == 0 && job["running"].is_null()));

    expired_reservations(&app, "acme-corp", 7).await;
    let (code, out, error) = run(&["jobs", "run", "budget-reservations"]).await;
    assert!(code == 0 && out.starts_with("budget-reservations: 7 rows in "), "{out}{error}");
    let (code, out, _) = run(&["jobs", "run", "--all", "--json"]).await;
    let all = parse(&out);
    assert!(
        code == 0 && all.as_array().expect("a list").iter().all(|job| job["ran"] == true && job["error"].is_null()),
        "{all}"
    );

    let (code, _, error) = run(&["jobs", "run", "nothing"]).await;
    assert!(code == 2 && error.contains("there is no job nothing; jobs are audit-seal, "), "{error}");
    assert_eq!(run(&["jobs", "run"]).await.0, 2, "which one?");

    // Somebody else has it.
    let mut elsewhere = app.database.system().await;
    sqlx::raw_sql("begin; select from tenantry.jobs where name = 'budget-periods' for update")
        .execute(&mut elsewhere)
        .await
        .expect("a lock");
    let (code, out, _) = run(&["jobs", "run", "budget-periods"]).await;
    assert_eq!((code, out.trim()), (1, "budget-periods is running elsewhere; `tenantry jobs list` shows where"));
    let (_, out, _) = run(&["jobs", "list", "--json"]).await;
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut elsewhere).await.expect("a number");
    let running: Vec<Value> =
        parse(&out).as_array().expect("a list").iter().filter(|job| !job["running"].is_null()).cloned().collect();
    assert_eq!(
        (running.len(), &running[0]["name"], &running[0]["running"]["backend"]),
        (1, &json!("budget-periods"), &json!(pid))
    );
    let (_, out, _) = run(&["jobs", "list"]).await;
    assert!(out.contains(&format!("(backend {pid})")) && out.contains("Opens the next period"), "{out}");
    sqlx::raw_sql("rollback").execute(&mut elsewhere).await.expect("free");

    // A failure is seen, and the exit code says so.
    app.sql("update tenantry.jobs set last_error = 'the disk is full', failures = 1 where name = 'audit-seal'").await;
    let (code, out, _) = run(&["jobs", "list"]).await;
    assert!(code == 1 && out.contains("failed: the disk is full"), "{out}");
    let metrics = metrics(&app.base_url()).await;
    for line in [
        "# TYPE tenantry_job_runs_total counter",
        "tenantry_job_runs_total{job=\"budget-reservations\"} 2",
        "tenantry_job_failures_total{job=\"audit-seal\"} 1",
        "tenantry_job_rows_total{job=\"budget-reservations\"} 7",
        "tenantry_job_running{job=\"audit-seal\"} 0",
        "tenantry_job_last_success_age_seconds{job=\"audit-seal\"} ",
        "tenantry_job_last_duration_seconds{job=\"audit-seal\"} ",
        "tenantry_job_seconds_total{job=\"audit-seal\"} ",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}
