//! The binary, killed with -9 at every point of a payment: nothing is paid twice, and nothing stays reserved.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::process::Child;

use super::fake::{FakeStripe, KEY, Whim};
use super::{approve_all, customer, is_whole, organization, request, requested, scalar, sums, token};
use crate::support::{Setup, TestApp};
use crate::webhooks::crash::tenantry;

/// Starts a worker, and nothing else: it pays.
async fn worker(app: &TestApp, stripe: &FakeStripe) -> Child {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    tenantry(&app.database)
        .await
        .args(["serve", "--role", "worker", "--workers", "1"])
        .env("PORT", port.to_string())
        .env("DATABASE_MAX_CONNECTIONS", "4")
        .env("STRIPE_SECRET_KEY", KEY)
        .env("STRIPE_API_BASE", &stripe.url)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary")
}

/// Where the worker dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Point {
    /// Nobody has taken the refund yet.
    BeforeItIsTaken,
    /// It is taken, and Stripe is asked for the payment.
    WhileThePaymentIsLookedAt,
    /// Stripe is asked for its refunds.
    WhileItsRefundsAreListed,
    /// The transaction that puts the payment in flight is open.
    BeforeItIsInFlight,
    /// The payment is sent, and Stripe has done nothing.
    BeforeStripeDoesIt,
    /// Stripe has made the refund, and not answered.
    BeforeStripeAnswers,
    /// Stripe has answered, and the transaction that writes it down is open.
    BeforeItIsWrittenDown,
}

const POINTS: &[Point] = &[
    Point::BeforeItIsTaken,
    Point::WhileThePaymentIsLookedAt,
    Point::WhileItsRefundsAreListed,
    Point::BeforeItIsInFlight,
    Point::BeforeStripeDoesIt,
    Point::BeforeStripeAnswers,
    Point::BeforeItIsWrittenDown,
];

/// Keeps a refund from being changed, as a transaction that is slow does.
async fn block(app: &TestApp, refund: &Value) -> PgConnection {
    let mut connection = app.database.system().await;
    let id = refund["id"].as_str().expect("an id").trim_start_matches("ref_").to_owned();
    sqlx::raw_sql("begin").execute(&mut connection).await.expect("begin");
    sqlx::query("select id from tenantry.refunds where id = $1::uuid for update")
        .bind(id)
        .fetch_one(&mut connection)
        .await
        .expect("the refund");
    connection
}

/// Waits until somebody waits for the lock.
async fn is_waited_for(app: &TestApp) {
    for _ in 0..1500 {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a look");
        if waiting > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody waits for the lock");
}

/// Has the worker come to this point, and kills it there.
async fn die_at(app: &TestApp, stripe: &FakeStripe, point: Point, refund: &Value) {
    let whims = |account: &mut super::fake::Account| match point {
        Point::WhileThePaymentIsLookedAt => account.looks.push_back(Whim::HeldBefore),
        Point::WhileItsRefundsAreListed | Point::BeforeItIsInFlight => account.lists.push_back(Whim::HeldBefore),
        Point::BeforeStripeDoesIt => account.whims.push_back(Whim::HeldBefore),
        Point::BeforeStripeAnswers | Point::BeforeItIsWrittenDown => account.whims.push_back(Whim::HeldAfter),
        Point::BeforeItIsTaken => {}
    };
    stripe.with(whims);
    if point == Point::BeforeItIsTaken {
        // Held by somebody, a refund is nobody's to take.
        let mut block = block(app, refund).await;
        due(app).await.ok();
        let mut child = worker(app, stripe).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        child.kill().await.expect("kill -9");
        sqlx::raw_sql("rollback").execute(&mut block).await.expect("rollback");
        return;
    }
    let mut child = worker(app, stripe).await;
    stripe.holds().await;
    let mut held = None;
    if matches!(point, Point::BeforeItIsInFlight | Point::BeforeItIsWrittenDown) {
        held = Some(block(app, refund).await);
        stripe.let_go();
        is_waited_for(app).await;
    }
    child.kill().await.expect("kill -9");
    // What the dead were waiting for is theirs no more. A request that has arrived Stripe still does.
    if let Some(mut held) = held {
        sqlx::raw_sql("rollback").execute(&mut held).await.expect("rollback");
        held.close().await.ok();
    }
    stripe.let_go();
}

/// Lets the time come of what a dead worker has left.
async fn due(app: &TestApp) -> sqlx::Result<()> {
    let mut connection = app.database.system().await;
    sqlx::raw_sql("set lock_timeout = '100ms'; update tenantry.refunds set next_attempt_at = now() where next_attempt_at is not null")
        .execute(&mut connection)
        .await
        .map(|_| ())
}

/// Waits until nothing is left to pay: by a process here, or by the binary.
async fn finish(app: &TestApp, is_here: bool) {
    for _ in 0..600 {
        let open: i64 = scalar(app, "select count(*) from tenantry.refunds where next_attempt_at is not null").await;
        if open == 0 {
            return;
        }
        // A transaction of the dead may take a moment to end.
        due(app).await.ok();
        if is_here {
            app.app.payer.pay_due().await.expect("a payer");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("refunds are left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refunds_survive_kill_9_at_every_point() {
    let stripe = FakeStripe::start().await;
    let environment = vec![("STRIPE_SECRET_KEY", KEY.to_owned()), ("STRIPE_API_BASE", stripe.url.clone())];
    let app = TestApp::start_with(Setup { environment, ..Setup::default() }).await;
    app.run_job("budget-reservations").await;
    approve_all(&app).await;
    let own = organization(&app, "acme-corp").await;
    stripe.pay("pi_1", 100_000, json!({ "merchant_organization_id": own }));
    let (alice, ivan) = (token(&app, "alice").await, customer(&app, "Ivan").await);
    app.sql("update tenantry.refunds set status = 'CANCELLED', reservation_id = null where status = 'PENDING_APPROVAL'; update tenantry.budget_reservations set expires_at = created_at + interval '1 second' where status = 'OPEN'").await;
    app.run_job("budget-reservations").await;
    let before = sums(&app).await;
    let mut refunds = Vec::new();
    for (n, point) in POINTS.iter().enumerate() {
        let more = json!({ "stripePaymentIntentId": "pi_1" });
        let refund = requested(&app, &alice, request(&ivan, "10.00", &format!("crash-{n}"), &more)).await;
        die_at(&app, &stripe, *point, &refund).await;
        // Somebody else goes on, here and in the last place the binary again.
        if n + 1 < POINTS.len() {
            finish(&app, true).await;
        }
        refunds.push(refund);
    }
    let left = worker(&app, &stripe).await;
    finish(&app, false).await;
    drop(left);
    for (refund, point) in refunds.iter().zip(POINTS) {
        let id = refund["id"].as_str().expect("an id");
        let made = stripe.refunds_of(id).len();
        let status: String = scalar(
            &app,
            &format!(
                "select concat_ws(' ', status, failure_reason) from tenantry.refunds where id = '{}'::uuid",
                id.trim_start_matches("ref_")
            ),
        )
        .await;
        assert_eq!((made, status.as_str()), (1, "SETTLED"), "{point:?}");
    }
    let paid = i64::try_from(POINTS.len()).expect("few") * 1_000;
    assert_eq!(sums(&app).await, (before.0 + paid, 0, before.2), "spent once each, and nothing is reserved");
    is_whole(&app).await;
}
