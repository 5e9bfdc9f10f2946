//! Billing: pages, changes of plans, seats, usage, invoices and grace, against a Stripe that fails in every way.

mod actions;
mod fake;
mod upkeep;

use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tenantry::clock::Clock;
use tenantry::webhook_events::WebhookSource::Stripe;

use self::fake::{FakeStripe, KEY};
use crate::support::{Setup, TestApp};
use crate::webhooks::{self, deliver, none_left, start_workers};

const PLANS: &str = r#"
[FREE]
[STARTER]
[[STARTER.prices]]
id = "starter"
interval = "MONTH"
currency = "USD"
[[STARTER.prices]]
id = "starter_year"
interval = "YEAR"
currency = "USD"
[PRO]
seat_policy = "AUTOMATIC"
trial_days = 14
[[PRO.prices]]
id = "pro"
interval = "MONTH"
currency = "USD"
[[PRO.prices]]
id = "pro_seat"
interval = "MONTH"
currency = "USD"
seat = true
[[PRO.prices]]
id = "pro_usage"
interval = "MONTH"
meter = "ai_usage"
[ENTERPRISE]
[[ENTERPRISE.prices]]
id = "ent"
interval = "MONTH"
currency = "USD"
"#;

static PLANS_FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("plans-{}.toml", std::process::id()));
    std::fs::write(&path, PLANS).expect("a file");
    path
});

const SUBSCRIPTION: &str = "sub_acme";
const CUSTOMER: &str = "cus_acme";
const ACTION: &str = "action { id kind status url failureCode }";

/// A moment of these tests.
fn now() -> DateTime<Utc> {
    "2030-01-15T12:00:00Z".parse().expect("a time")
}

fn environment(stripe: &FakeStripe, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let mut environment = webhooks::environment();
    environment.extend([
        ("STRIPE_SECRET_KEY", KEY.to_owned()),
        ("STRIPE_API_BASE", stripe.url.clone()),
        ("PLANS_FILE", PLANS_FILE.to_string_lossy().into_owned()),
        ("APP_URL", "https://app.example".to_owned()),
    ]);
    environment.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    environment
}

/// A server whose time stands still, with a Stripe that has the subscription of the sample data.
async fn start(stripe: &FakeStripe, more: &[(&'static str, &str)]) -> TestApp {
    let environment = environment(stripe, more);
    let app = TestApp::start_with(Setup { environment, clock: Clock::manual(now()), ..Setup::default() }).await;
    // The sample data is of another Stripe.
    app.sql("delete from tenantry.billing_actions; delete from tenantry.invoices; delete from tenantry.seat_marks; delete from tenantry.meter_outbox").await;
    app.sql("update tenantry.subscriptions s set stripe_subscription_id = 'sub_acme', stripe_customer_id = 'cus_acme' from tenantry.organizations o where o.id = s.organization_id and o.slug = 'acme-corp'").await;
    let ends = (now() + TimeDelta::days(15)).timestamp();
    stripe.subscribe(SUBSCRIPTION, CUSTOMER, &[("starter", Some(3))], ends);
    app
}

async fn token(app: &TestApp, name: &str) -> String {
    app.token(&format!("{name}@example.com"), Some("acme-corp")).await
}

async fn scalar<T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin>(
    app: &TestApp,
    sql: &str,
) -> T {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut app.database.system().await).await.expect(sql)
}

/// Status and plan of the subscription of the sample data.
async fn row(app: &TestApp) -> (String, String, i32) {
    sqlx::query_as(
        "select s.status::text, s.plan::text, s.seat_count from tenantry.subscriptions s join tenantry.organizations o on o.id = s.organization_id
          where o.slug = 'acme-corp'",
    )
    .fetch_one(&mut app.database.system().await)
    .await
    .expect("a row")
}

static DELIVERIES: AtomicU32 = AtomicU32::new(0);

/// An event about this object.
fn event(kind: &str, object: &Value, created: i64) -> Value {
    let id = format!("evt_billing_{}", DELIVERIES.fetch_add(1, Ordering::Relaxed));
    json!({ "id": id, "object": "event", "type": kind, "created": created, "livemode": false, "api_version": "2026-09-30.endive",
            "pending_webhooks": 1, "request": { "id": null }, "data": { "object": object } })
}

/// Delivers events and applies them, in this order.
async fn apply(app: &TestApp, events: &[Value]) {
    let workers = start_workers(&app.app, 1);
    for event in events {
        let id = event["id"].as_str().expect("an id");
        assert_eq!(deliver(app, Stripe, id, event.to_string()).await.0, 200);
        none_left(&app.database, "status = 'RECEIVED'").await;
    }
    drop(workers);
    let causes: Vec<String> = sqlx::query_scalar("select concat_ws(' ', event_type, cause, last_error) from tenantry.webhook_events where status = 'FAILED' and event_id like 'evt_billing_%'")
        .fetch_all(&mut app.database.system().await)
        .await
        .expect("a look");
    assert!(causes.is_empty(), "{causes:?}");
}

/// Delivers the subscription as this Stripe has it.
async fn tell(app: &TestApp, stripe: &FakeStripe, at: i64) {
    apply(app, &[event("customer.subscription.updated", &stripe.subscription(SUBSCRIPTION), at)]).await;
}
