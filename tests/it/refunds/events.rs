//! What Stripe's events say of refunds, in whatever order and however often they come.

use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tenantry::webhook_events::WebhookSource::Stripe;

use super::fake::FakeStripe;
use super::{approve_all, current, customer, is_whole, organization, request, requested, scalar, start, sums, token};
use crate::support::TestApp;
use crate::webhooks::{deliver, none_left, start_workers};

static DELIVERIES: AtomicU32 = AtomicU32::new(0);

/// An event about this object, with a time of its own.
fn event(kind: &str, object: &Value, created: i64) -> Value {
    let id = format!("evt_refund_{}", DELIVERIES.fetch_add(1, Ordering::Relaxed));
    json!({ "id": id, "object": "event", "type": kind, "created": created, "livemode": false, "api_version": "2025-03-31.basil",
            "pending_webhooks": 1, "request": { "id": null }, "data": { "object": object } })
}

/// Delivers events and applies them, in this order.
async fn apply(app: &TestApp, events: &[Value]) {
    let workers = start_workers(&app.app, 1);
    for event in events {
        let id = event["id"].as_str().expect("an id");
        assert_eq!(deliver(app, Stripe, id, event.to_string()).await.0, 200);
        none_left(&app.database, "status = 'RECEIVED'").await;
        let causes: Vec<String> = sqlx::query_scalar("select concat_ws(' ', event_type, cause) from tenantry.webhook_events where status = 'FAILED' and event_id like 'evt_refund_%'")
            .fetch_all(&mut app.database.system().await)
            .await
            .expect("a look");
        assert!(causes.is_empty(), "{causes:?}");
    }
    drop(workers);
}

pub async fn deliver_event(app: &TestApp, kind: &str, object: &Value) {
    apply(app, &[event(kind, object, app.clock.now().timestamp())]).await;
}

fn refund(id: &str, payment: &str, amount: i64, status: &str, metadata: impl Into<Value>) -> Value {
    json!({ "id": id, "object": "refund", "amount": amount, "currency": "usd", "payment_intent": payment, "charge": "ch_x", "metadata": metadata.into(),
            "reason": "duplicate", "status": status, "created": 1_893_400_000, "failure_reason": if status == "failed" { json!("declined") } else { Value::Null } })
}

fn charge(payment: &str, metadata: impl Into<Value>) -> Value {
    json!({ "id": format!("ch_{payment}"), "object": "charge", "amount": 9_000, "amount_captured": 9_000, "amount_refunded": 1_500, "captured": true,
            "currency": "usd", "payment_intent": payment, "metadata": metadata.into(), "refunded": false })
}

/// The rows of a payment: amount, status, reservation.
async fn rows(app: &TestApp, payment: &str) -> Vec<String> {
    sqlx::query_scalar(
        "select concat_ws(' ', r.amount_minor, r.status, coalesce(v.status::text, '-'), r.made_in_stripe, r.stripe_refund_id) from tenantry.refunds r
           left join tenantry.budget_reservations v on v.organization_id = r.organization_id and v.id = r.reservation_id
          where r.stripe_payment_intent_id = $1 order by 1",
    )
    .bind(payment)
    .fetch_all(&mut app.database.system().await)
    .await
    .expect("rows")
}

/// Refunds that were made in Stripe: every order of their events, some of them twice, ends in the same rows and sums. The payment
/// says whose they are, in an event or when Stripe is asked.
#[tokio::test]
async fn refunds_made_in_stripe_are_taken_in() {
    let app = start(None).await;
    app.run_job("budget-reservations").await;
    let own = json!({ "merchant_organization_id": organization(&app, "acme-corp").await });
    let before = sums(&app).await;
    let mut ends = Vec::new();
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1], [1, 1, 0, 4, 2], [3, 0, 3, 4, 2]] {
        let payment = format!("pi_order_{}{}{}{}{}", order[0], order[1], order[2], order[3], order[4]);
        let (a, b) = (format!("re_a_{payment}"), format!("re_b_{payment}"));
        let all = [
            event("refund.created", &refund(&a, &payment, 1_000, "pending", json!({})), 100),
            event("refund.updated", &refund(&a, &payment, 1_000, "succeeded", json!({})), 200),
            event("refund.failed", &refund(&a, &payment, 1_000, "failed", json!({})), 300),
            event("charge.refund.updated", &refund(&b, &payment, 500, "succeeded", json!({})), 200),
            event("charge.refunded", &charge(&payment, own.clone()), 150),
        ];
        let events: Vec<Value> = order.iter().map(|at| all[*at].clone()).collect();
        apply(&app, &events).await;
        let rest: Vec<Value> = (0..5).filter(|at| !order.contains(at)).map(|at| all[at].clone()).collect();
        apply(&app, &rest).await;
        let found: Vec<String> = rows(&app, &payment).await.into_iter().map(|row| row.replace(&payment, "")).collect();
        ends.push(found);
    }
    for end in &ends {
        assert_eq!(end.len(), 2, "{ends:?}");
        assert!(end[0].starts_with("1000 FAILED"), "{ends:?}");
        assert_eq!(end[1], "500 SETTLED SETTLED t re_b_", "{ends:?}");
    }
    let after = sums(&app).await;
    assert_eq!((after.0 - before.0, after.1), (5 * 500, before.1), "what failed came back");
    // They are shown, and say that nobody asked for them here.
    let alice = token(&app, "alice").await;
    let data = app.data(&alice, "{ organization { refunds(first: 3, where: { stripePaymentIntentId: { eq: \"pi_order_01234\" } }) { nodes { madeInStripe reason requestedBy { id } customer { id } } } } }", json!({})).await;
    assert_eq!(
        data["organization"]["refunds"]["nodes"][0],
        json!({ "madeInStripe": true, "reason": "DUPLICATE_CHARGE", "requestedBy": null, "customer": null })
    );
    let shown: i64 = scalar(&app, "select count(*) from tenantry.webhook_events e join tenantry.organizations o on o.id = e.organization_id where e.event_id like 'evt_refund_%' and o.slug = 'acme-corp'").await;
    assert_eq!(
        shown,
        scalar::<i64>(&app, "select count(*) from tenantry.webhook_events where event_id like 'evt_refund_%'").await,
        "its events are the organization's"
    );
    // What is nobody's stays nobody's, and above the limit the money is gone all the same.
    apply(&app, &[event("refund.created", &refund("re_nobody", "pi_nobody", 700, "succeeded", json!({})), 100)]).await;
    assert_eq!(rows(&app, "pi_nobody").await.len(), 0);
    let huge = refund("re_huge", "pi_huge", 900_000, "succeeded", json!({}));
    apply(&app, &[event("refund.created", &huge, 100), event("charge.refunded", &charge("pi_huge", own), 100)]).await;
    let sums = sums(&app).await;
    assert_eq!(sums.0 - after.0, 900_000);
    assert!(sums.2 > 0, "{sums:?}: it is told as an overrun");
    app.sql("update tenantry.refunds set charge_minor = 900000 where stripe_refund_id = 're_huge'").await;
    is_whole(&app).await;
}

/// Our own refunds are matched by what they carry, before and after the answer; events that lie about a row are not believed.
#[tokio::test]
async fn refunds_of_ours_are_matched() {
    let stripe = FakeStripe::start().await;
    let app = start(Some(&stripe)).await;
    app.run_job("budget-reservations").await;
    approve_all(&app).await;
    let own = organization(&app, "acme-corp").await;
    stripe.pay("pi_1", 10_000, json!({ "merchant_organization_id": own }));
    let (alice, ivan) = (token(&app, "alice").await, customer(&app, "Ivan").await);
    let mut told = app_changes(&app, &alice).await;
    let made = requested(&app, &alice, request(&ivan, "10.00", "a", &json!({ "stripePaymentIntentId": "pi_1" }))).await;
    let id = made["id"].as_str().expect("an id");
    let before = sums(&app).await;
    let metadata = |attempt: &str| json!({ "tenantry_organization_id": own, "tenantry_refund_id": id, "tenantry_attempt": attempt });
    // Of another payment, another amount, another organization.
    let startup = organization(&app, "tech-startup").await;
    let mut foreign = metadata("1");
    foreign["tenantry_organization_id"] = json!(startup);
    for (n, lie) in [
        refund("re_lie1", "pi_other", 1_000, "succeeded", metadata("1")),
        refund("re_lie2", "pi_other", 1_000, "succeeded", foreign),
    ]
    .iter()
    .enumerate()
    {
        apply(&app, &[event("refund.updated", lie, 100)]).await;
        assert_eq!(current(&app, &alice, &made["id"]).await["status"], "APPROVED", "{n}");
    }
    // The event comes before the answer of the same refund.
    app.app.payer.pay_due().await.expect("a payer");
    let there = stripe.refunds_of(id)[0].clone();
    apply(&app, &[event("refund.created", &there, 100), event("refund.updated", &there, 100)]).await;
    let now = current(&app, &alice, &made["id"]).await;
    assert_eq!((&now["status"], &now["stripeRefundId"]), (&json!("SETTLED"), &there["id"]), "{now}");
    assert_eq!(sums(&app).await, (before.0 + 1_000, before.1 - 1_000, before.2));
    assert_eq!(rows(&app, "pi_1").await.len(), 1, "no second row");
    // Whose a refund is that was made in Stripe, Stripe is asked.
    apply(&app, &[event("refund.created", &refund("re_dash", "pi_1", 200, "succeeded", json!({})), 100)]).await;
    assert_eq!(rows(&app, "pi_1").await, ["1000 SETTLED SETTLED f re_fake_1", "200 SETTLED SETTLED t re_dash"]);
    // Subscribers hear of it.
    let mut heard = Vec::new();
    while heard.last() != Some(&json!("SETTLED")) {
        let next = tokio::time::timeout(std::time::Duration::from_mins(1), told.next())
            .await
            .expect("in time")
            .expect("an event");
        heard.push(next);
    }
    is_whole(&app).await;
}

/// The statuses that a subscription is told.
async fn app_changes(app: &TestApp, token: &str) -> std::pin::Pin<Box<dyn futures_util::Stream<Item = Value> + Send>> {
    let query = "subscription { refundChanged { refund { status } } }";
    let response = app.follow(token, query, json!({})).await;
    app.subscribed(1).await;
    let chunks = response.bytes_stream().filter_map(|chunk| async move {
        let text = String::from_utf8_lossy(&chunk.ok()?).into_owned();
        let data = text.lines().find_map(|line| line.strip_prefix("data: "))?;
        let value: Value = serde_json::from_str(data).ok()?;
        Some(value["data"]["refundChanged"]["refund"]["status"].clone()).filter(Value::is_string)
    });
    Box::pin(chunks)
}

/// Shapes that others have met: what cannot be matched is passed over, and nothing fails.
#[tokio::test]
async fn refunds_of_other_people_s_fixtures_are_understood() {
    let app = start(None).await;
    app.run_job("budget-reservations").await;
    let own = json!({ "merchant_organization_id": organization(&app, "acme-corp").await });
    let shapes = [
        // stripe-mock, embedded/openapi/fixtures3.json: a refund without a payment intent.
        (
            "refund.created",
            json!({ "amount": 100, "balance_transaction": null, "charge": "ch_1PgafuB7WZ01zgkWXYmPNZs8", "created": 1_234_567_890, "currency": "usd", "id": "re_1Pgc72B7WZ01zgkWqPvrRrPE", "metadata": {}, "object": "refund", "payment_intent": null, "reason": null, "status": "succeeded" }),
        ),
        // zulip, zerver/webhooks/stripe/fixtures: ids of another kind, in euros; one that failed with its reason.
        (
            "charge.refund.updated",
            json!({ "id": "pyr_abcde12345ABCDF", "object": "refund", "amount": 1234, "charge": "py_abcde12345ABCDG", "created": 1_589_212_391, "currency": "eur", "metadata": {}, "payment_intent": "pi_zulip", "reason": null, "status": "succeeded" }),
        ),
        (
            "charge.refund.updated",
            json!({ "id": "re_1Gib6ZHLwdCOCoR7VrzCnXlj", "object": "refund", "amount": 30_000_000, "created": 1_589_439_823, "currency": "inr", "failure_balance_transaction": "txn_1", "failure_reason": "expired_or_canceled_card", "metadata": {}, "payment_intent": "pi_zulip_failed", "reason": null, "status": "failed" }),
        ),
        // mage2pro/stripe, API version 2016-07-06: a charge without a payment intent, metadata as a list.
        (
            "charge.refunded",
            json!({ "id": "ch_18rMf3FzKb8aMux1h2gjCzWm", "object": "charge", "amount": 61_798, "amount_refunded": 10_000, "captured": true, "currency": "ils", "metadata": { "Order ID": "ORD-2016/09-00560" }, "refunds": { "object": "list", "data": [{ "id": "re_18rMfgFzKb8aMux1MENpRk3T", "object": "refund", "amount": 10_000, "currency": "ils", "metadata": [], "status": "succeeded" }], "has_more": false, "total_count": 1 } }),
        ),
        // airbyte, source-stripe: an update of the reference alone.
        (
            "charge.refund.updated",
            json!({ "id": "re_3NRL2GEcXtiJtvvh0o", "object": "refund", "amount": 500, "created": 1_666_518_588, "currency": "usd", "destination_details": { "card": { "reference": "7901352802291512", "reference_status": "available", "type": "refund" }, "type": "card" }, "metadata": {}, "payment_intent": "pi_airbyte", "reason": null, "status": "succeeded" }),
        ),
        // Of a test elsewhere: a charge where a refund belongs.
        (
            "charge.refund.updated",
            json!({ "id": "ch_test_789", "payment_intent": "pi_airbyte", "amount_refunded": 5000, "amount": 5000, "currency": "gbp" }),
        ),
        // dj-stripe, tests/fixtures: a charge of today with an empty list.
        (
            "charge.refunded",
            json!({ "id": "ch_fakefakefakefakefake0001", "object": "charge", "amount": 2000, "amount_captured": 0, "captured": true, "currency": "usd", "metadata": { "djstripe_test_fake_id": "x" }, "payment_intent": "pi_fakefakefakefakefake0001", "refunds": { "object": "list", "data": [], "has_more": false } }),
        ),
    ];
    let events: Vec<Value> = shapes.iter().map(|(kind, object)| event(kind, object, 1_700_000_000)).collect();
    apply(&app, &events).await;
    let dead: i64 = scalar(&app, "select count(*) from tenantry.webhook_events where event_id like 'evt_refund_%' and status not in ('APPLIED', 'IGNORED')").await;
    assert_eq!(dead, 0);
    // Once it is known whose they are, they are there: also an old list within a charge.
    let mut old = charge("pi_old", own.clone());
    old["refunds"] = json!({ "data": [{ "id": "re_old", "object": "refund", "amount": 700, "currency": "usd", "metadata": [], "status": "succeeded" }] });
    let known = ["pi_zulip", "pi_zulip_failed", "pi_airbyte"]
        .map(|payment| event("charge.refunded", &charge(payment, own.clone()), 1_700_000_001));
    apply(&app, &known).await;
    apply(&app, &[event("charge.refunded", &old, 1_400_000_000)]).await;
    assert_eq!(rows(&app, "pi_zulip").await, ["1234 SETTLED - t pyr_abcde12345ABCDF"], "no budget in euros");
    assert_eq!(rows(&app, "pi_zulip_failed").await, ["30000000 FAILED - t re_1Gib6ZHLwdCOCoR7VrzCnXlj"]);
    assert_eq!(rows(&app, "pi_airbyte").await, ["500 SETTLED SETTLED t re_3NRL2GEcXtiJtvvh0o"]);
    assert_eq!(rows(&app, "pi_old").await, ["700 SETTLED SETTLED t re_old"]);
    is_whole(&app).await;
}
