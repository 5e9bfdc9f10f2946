//! The worker: each event once, whatever fails, however many work.

use axum::body::Bytes;
use futures_util::StreamExt as _;
use sqlx::AssertSqlSafe;
use tenantry::clock::Clock;
use tenantry::webhook_events::WebhookSource::Clerk;
use tenantry::webhooks::inbox::Delivery;
use tenantry::webhooks::worker::{MAX_ATTEMPTS, Worker};

use super::{PENDING, clerk, count, deliver, environment, none_left, start, start_workers};
use crate::support::{Setup, TestApp, TestDb, metrics};

/// An event of Clerk that has an effect, and an object of its own: an organization is made, and its audit log says by which event.
pub(super) fn with_effect(id: &str) -> String {
    let mut event = clerk("organization.updated", &format!("org_of_{id}"));
    event["data"]["name"] = format!("Organization of {id}").into();
    event.to_string()
}

/// Events that had an effect, and how often altogether. The audit log is append only: whatever is done twice, or done
/// and not marked as done, shows.
pub(super) async fn effects(database: &TestDb) -> (i64, i64) {
    sqlx::query_as(
        "select count(distinct metadata ->> 'cause'), count(*) from tenantry.audit_logs
          where action = 'organization.sync' and metadata ->> 'cause' like 'msg!_%' escape '!'",
    )
    .fetch_one(&mut database.system().await)
    .await
    .expect("a count")
}

/// What the database does when an event of the type `poison` is about to be marked as done.
pub(super) async fn poison(database: &TestDb, does: &str) {
    let sql = format!(
        "create function poison() returns trigger language plpgsql as $$ begin {does}; return new; end $$;
         create trigger poison before update of status on tenantry.webhook_events for each row
            when (new.status in ('APPLIED', 'IGNORED') and new.event_type = 'poison') execute function poison();"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut database.owner().await).await.expect("a trigger");
}

#[tokio::test]
async fn workers_drain_ten_thousand_events_once_each() {
    let app = start().await;
    let now = app.clock.now();
    let stored: Vec<bool> = futures_util::stream::iter(0..10_000)
        .map(|n| {
            let id = format!("msg_{n}");
            let (event_type, body) = match n % 5 {
                0 => ("organization.updated", with_effect(&id)),
                _ => ("thing.happened", clerk("thing.happened", "thing_1").to_string()),
            };
            let delivery = Delivery {
                source: Clerk,
                raw_body: Bytes::from(body),
                event_id: id,
                event_type: event_type.into(),
                object_id: None,
                created_at: Some(now),
                received_at: now,
            };
            let inbox = app.app.webhooks.inbox.clone();
            async move { inbox.store(delivery).await.expect("stored") }
        })
        .buffer_unordered(500)
        .collect()
        .await;
    assert!(stored.iter().all(|new| *new));
    let workers = start_workers(&app.app, 3);
    none_left(&app.database, PENDING).await;
    drop(workers);
    assert_eq!(effects(&app.database).await, (2_000, 2_000));
    assert_eq!(count(&app.database, "attempts = 1 and status = 'APPLIED'").await, 2_000);
    assert_eq!(count(&app.database, "attempts = 1 and status = 'IGNORED'").await, 8_000);
}

/// Fails each time, is tried ever less often, and ends as DEAD with its reason; the others do not notice.
#[tokio::test]
async fn worker_lets_a_poisoned_event_delay_nobody_and_end_dead() {
    let clock = Clock::manual(Clock::System.now());
    let app = TestApp::start_with(Setup { environment: environment(), clock: clock.clone(), ..Setup::default() }).await;
    poison(&app.database, "raise exception 'it tastes of %', 'almonds'").await;
    for n in 0..20 {
        let event_type = if n == 7 { "poison" } else { "thing.happened" };
        assert_eq!(deliver(&app, Clerk, &format!("msg_{n}"), clerk(event_type, "x").to_string()).await.0, 200);
    }
    let worker = Worker::new(&app.app.webhooks);
    assert_eq!(worker.step().await.expect("a step"), 20);
    assert_eq!(count(&app.database, "status = 'IGNORED' and attempts = 1").await, 19);
    assert_eq!(count(&app.database, "status = 'FAILED' and attempts = 1 and failed_at is not null").await, 1);
    assert_eq!(worker.step().await.expect("a step"), 0, "it is not due yet");
    let mut waited = chrono::Duration::zero();
    for attempt in 2..=MAX_ATTEMPTS {
        let mut tries = 0;
        while worker.step().await.expect("a step") == 0 {
            clock.advance(chrono::Duration::minutes(5));
            waited += chrono::Duration::minutes(5);
            tries += 1;
            assert!(tries <= 13, "it is due within the hour");
        }
        assert_eq!(count(&app.database, &format!("event_type = 'poison' and attempts = {attempt}")).await, 1);
    }
    // Rounded up to the five minutes of the steps.
    assert!(waited >= chrono::Duration::hours(2) && waited <= chrono::Duration::minutes(320), "{waited}");
    clock.advance(chrono::Duration::days(30));
    assert_eq!(worker.step().await.expect("a step"), 0, "nobody tries a dead event");
    let (status, reason): (String, String) =
        sqlx::query_as("select status::text, cause from tenantry.webhook_events where event_type = 'poison'")
            .fetch_one(&mut app.database.system().await)
            .await
            .expect("the event");
    assert_eq!(status, "DEAD");
    assert!(reason.contains("it tastes of almonds"), "{reason}");
    let metrics = metrics(&app.base_url()).await;
    let failed = format!("failed_total{{source=\"clerk\",type=\"other\"}} {}", MAX_ATTEMPTS - 1);
    for line in [failed.as_str(), "dead_total{source=\"clerk\",type=\"other\"} 1"] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

/// An event that takes for ever is stopped, and was not waited for: neither by those of its batch nor by those behind.
#[tokio::test]
async fn worker_lets_a_slow_event_delay_nobody() {
    let app = start().await;
    poison(&app.database, "perform pg_sleep(60)").await;
    for n in 0..40 {
        let event_type = if n == 3 { "poison" } else { "thing.happened" };
        assert_eq!(deliver(&app, Clerk, &format!("msg_{n}"), clerk(event_type, "x").to_string()).await.0, 200);
    }
    let workers = start_workers(&app.app, 2);
    none_left(&app.database, "status = 'RECEIVED'").await;
    drop(workers);
    let late = "processed_at > (select failed_at from tenantry.webhook_events where event_type = 'poison')";
    assert_eq!(count(&app.database, late).await, 0, "all others were done before it was given up");
    assert_eq!(count(&app.database, "event_type = 'poison' and cause like '%too long%'").await, 1);
}

/// A worker that is gone in mid-transaction leaves the events to the others.
#[tokio::test]
async fn workers_do_what_a_dead_one_held() {
    let app = start().await;
    for n in 0..5 {
        assert_eq!(deliver(&app, Clerk, &format!("msg_{n}"), with_effect(&format!("msg_{n}"))).await.0, 200);
    }
    // Holds all of them, as a worker does, and is cut off.
    let mut holder = app.database.system().await;
    sqlx::raw_sql("begin; select id from tenantry.webhook_events where status = 'RECEIVED' for update skip locked; update tenantry.webhook_events set status = 'APPLIED' where status = 'RECEIVED'")
        .execute(&mut holder)
        .await
        .expect("locks");
    let worker = Worker::new(&app.app.webhooks);
    assert_eq!(worker.step().await.expect("a step"), 0, "somebody has them");
    drop(holder);
    let workers = start_workers(&app.app, 1);
    none_left(&app.database, PENDING).await;
    drop(workers);
    assert_eq!(effects(&app.database).await, (5, 5));
}
