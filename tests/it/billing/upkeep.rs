//! What the workers do: seats, usage, grace, invoices; and that subscribers hear of it.

use std::process::Stdio;

use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tokio::process::Child;

use super::fake::{FakeStripe, Whim};
use super::{SUBSCRIPTION, apply, environment, event, row, scalar, start, tell, token};
use crate::support::{TestApp, hear};
use crate::webhooks::crash::tenantry;

/// People join, each in a transaction of their own; that many.
async fn join(app: &TestApp, from: usize, count: usize) {
    for n in from..from + count {
        let sql = format!(
            "with u as (insert into tenantry.users (id, clerk_id, email, name) values (gen_random_uuid(), 'user_join_{n}', 'join{n}@example.com', 'J') returning id)
             insert into tenantry.organization_members (organization_id, id, user_id, role)
             select o.id, gen_random_uuid(), u.id, 'MEMBER' from u, tenantry.organizations o where o.slug = 'acme-corp'"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut app.database.system().await).await.expect("a member");
    }
}

async fn members(app: &TestApp) -> i64 {
    scalar(app, "select count(*) from tenantry.organization_members m join tenantry.organizations o on o.id = m.organization_id
                  where o.slug = 'acme-corp' and m.deleted_at is null and (m.role <> 'VIEWER' or m.custom_role_id is not null)").await
}

/// Acme pays for PRO, whose seats follow the members.
async fn subscribed(app: &TestApp, stripe: &FakeStripe) {
    let ends = (app.clock.now() + TimeDelta::days(15)).timestamp();
    let items = [("pro", Some(1)), ("pro_seat", Some(1)), ("pro_usage", None)];
    stripe.subscribe(SUBSCRIPTION, super::CUSTOMER, &items, ends);
    tell(app, stripe, app.clock.now().timestamp()).await;
    assert_eq!(row(app).await, ("ACTIVE".to_owned(), "PRO".to_owned(), 1));
}

async fn run_failing_job(app: &TestApp, name: &str) -> Option<String> {
    app.sql(&format!("update tenantry.jobs set last_started_at = null where name = '{name}'")).await;
    let job = tenantry::jobs::JOBS.iter().find(|job| job.name == name).expect("a job");
    let run = tenantry::jobs::run_now(&app.app.jobs, job).await.expect("a run").expect("nobody else runs it");
    run.error
}

#[tokio::test]
async fn billing_seats_follow_the_members() {
    let stripe = FakeStripe::start().await;
    let app = start(&stripe, &[]).await;
    subscribed(&app, &stripe).await;
    let seats = || stripe.quantity(SUBSCRIPTION, "pro_seat");
    let updates = || stripe.with(|account| account.count("/subscription_items/*"));
    app.run_job("seat-reconciliation").await;
    app.run_job("seat-quantities").await;
    assert_eq!((seats(), updates()), (Some(members(&app).await), 1));
    // Thirty-two join, and are one change.
    join(&app, 0, 32).await;
    app.run_job("seat-quantities").await;
    assert_eq!((seats(), updates()), (Some(members(&app).await), 2));
    let marks = "select count(*) from tenantry.seat_marks m join tenantry.organizations o on o.id = m.organization_id where o.slug = 'acme-corp'";
    assert_eq!(scalar::<i64>(&app, marks).await, 0);
    // Who becomes a reader takes no seat, who leaves neither.
    app.sql("update tenantry.organization_members m set role = 'VIEWER' from tenantry.users u where u.id = m.user_id and u.clerk_id in ('user_join_1', 'user_join_2')").await;
    app.sql("update tenantry.organization_members m set deleted_at = now() from tenantry.users u where u.id = m.user_id and u.clerk_id = 'user_join_3'").await;
    app.run_job("seat-quantities").await;
    assert_eq!((seats(), updates()), (Some(members(&app).await), 3));
    // A Stripe that fails: it is tried again later, and what was done though the answer was lost is not done twice.
    for (n, whim) in
        [Whim::Torn, Whim::Lost, Whim::Broken, Whim::Refused(429, "rate_limit"), Whim::Refused(409, "lock_timeout")]
            .into_iter()
            .enumerate()
    {
        let before = updates();
        join(&app, 100 + n, 1).await;
        stripe.whim(whim.clone());
        let failed = run_failing_job(&app, "seat-quantities").await;
        assert!(failed.is_some(), "{whim:?}");
        app.run_job("seat-quantities").await;
        assert_eq!(updates(), before + 1, "{whim:?}: not before its time");
        app.clock.advance(TimeDelta::minutes(6));
        app.run_job("seat-quantities").await;
        let expected = before + 1 + usize::from(!matches!(whim, Whim::Torn | Whim::Lost));
        assert_eq!((seats(), updates()), (Some(members(&app).await), expected), "{whim:?}");
    }
    // What somebody changes in Stripe is found in the night.
    let (item, before) = (seats(), updates());
    stripe.change(SUBSCRIPTION, |object| object["items"]["data"][1]["quantity"] = 2.into());
    app.run_job("seat-quantities").await;
    assert_eq!((seats(), updates()), (Some(2), before));
    app.run_job("seat-reconciliation").await;
    app.run_job("seat-quantities").await;
    assert_eq!((seats(), updates()), (item, before + 1));
    // Not of a subscription of the other mode, nor of one that is over.
    let before_others = updates();
    for change in [(|object: &mut Value| object["livemode"] = true.into()) as fn(&mut Value), |object| {
        object["status"] = "canceled".into();
    }] {
        let before = stripe.subscription(SUBSCRIPTION);
        stripe.change(SUBSCRIPTION, change);
        join(&app, 200, 1).await;
        app.run_job("seat-reconciliation").await;
        app.run_job("seat-quantities").await;
        stripe.change(SUBSCRIPTION, |object| *object = before);
        assert_eq!(updates(), before_others);
        app.sql("delete from tenantry.organization_members m using tenantry.users u where u.id = m.user_id and u.clerk_id like 'user_join_20%'; delete from tenantry.users where clerk_id like 'user_join_20%'").await;
    }
}

async fn spend(app: &TestApp, token: &str, budgets: &[&str], amount: &str, key: &str) {
    let input = json!({ "budgetIds": budgets, "amount": { "amount": amount, "currencyCode": "USD" }, "source": "agent:support", "idempotencyKey": key });
    app.done(token, "budgetSpend", "usageRecords { id }", input).await;
}

async fn budget(app: &TestApp, token: &str, name: &str, kind: &str) -> String {
    let input = json!({ "type": kind, "name": name, "period": "YEAR", "limit": { "amount": "1000.00", "currencyCode": "USD" } });
    let made = app.done(token, "budgetCreate", "budget { id }", input).await;
    made["budget"]["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn billing_tells_meters_of_usage() {
    let stripe = FakeStripe::start().await;
    let app = start(&stripe, &[]).await;
    subscribed(&app, &stripe).await;
    let alice = token(&app, "alice").await;
    let (models, team) =
        (budget(&app, &alice, "Models", "AI_USAGE").await, budget(&app, &alice, "Team", "AI_USAGE").await);
    let other = budget(&app, &alice, "Other", "OPERATIONS").await;
    spend(&app, &alice, &[&models], "1.50", "s1").await;
    spend(&app, &alice, &[&models], "1.50", "s1").await;
    // Of several budgets at once it is used once; what is of another type is not.
    spend(&app, &alice, &[&models, &team], "2.00", "s2").await;
    spend(&app, &alice, &[&other], "9.00", "s3").await;
    let reserve = json!({ "budgetIds": [models], "amount": { "amount": "5.00", "currencyCode": "USD" }, "source": "agent:support", "idempotencyKey": "r1" });
    let reserved = app.done(&alice, "budgetReserve", "reservation { id }", reserve).await;
    let settle = json!({ "reservationId": reserved["reservation"]["id"], "amount": { "amount": "3.00", "currencyCode": "USD" }, "idempotencyKey": "r2" });
    app.done(&alice, "budgetSettle", "reservation { id }", settle).await;
    let values = || {
        let mut values: Vec<i64> = stripe.with(|account| {
            account.meter_events.values().map(|event| event["payload[value]"].parse().expect("a number")).collect()
        });
        values.sort_unstable();
        values
    };
    app.run_job("billing-usage").await;
    assert_eq!(values(), [150, 200, 300]);
    assert!(stripe.with(|account| {
        account
            .meter_events
            .values()
            .all(|event| event["event_name"] == "ai_usage" && event["payload[stripe_customer_id]"] == super::CUSTOMER)
    }));
    let left = "select count(*) from tenantry.meter_outbox where not is_dead";
    assert_eq!(scalar::<i64>(&app, left).await, 0);
    // A Stripe that fails: nothing is lost, and nothing counted twice.
    let mut expected = values();
    for (n, whim) in
        [Whim::Torn, Whim::Lost, Whim::Broken, Whim::Refused(429, "rate_limit"), Whim::Refused(400, "archived_meter")]
            .into_iter()
            .enumerate()
    {
        let cents = i64::try_from(n).expect("few") + 400;
        spend(&app, &alice, &[&models], &format!("4.0{n}"), &format!("w{n}")).await;
        stripe.whim(whim.clone());
        assert!(run_failing_job(&app, "billing-usage").await.is_some(), "{whim:?}");
        assert_eq!(scalar::<i64>(&app, left).await, 1, "{whim:?}");
        app.clock.advance(TimeDelta::minutes(2));
        app.run_job("billing-usage").await;
        expected.push(cents);
        expected.sort_unstable();
        assert_eq!((values(), scalar::<i64>(&app, left).await), (expected.clone(), 0), "{whim:?}");
    }
    // Too late: it is told to people, and to Stripe no more.
    spend(&app, &alice, &[&models], "7.00", "late").await;
    app.clock.advance(TimeDelta::days(36));
    app.run_job("billing-usage").await;
    assert_eq!(values(), expected);
    let findings = tenantry::verify::verify(&app.database.db()).await.expect("verify");
    assert!(
        findings.iter().any(|finding| finding.check == "billing-usage" && finding.problem.contains("35 days")),
        "{findings:?}"
    );
}

/// The binary, doing a job.
async fn run(app: &TestApp, stripe: &FakeStripe, job: &str) -> Child {
    let mut command = tenantry(&app.database).await;
    command.args(["jobs", "run", job]).envs(environment(stripe, &[])).stdout(Stdio::null()).stderr(Stdio::null());
    command.kill_on_drop(true).spawn().expect("the binary")
}

/// The binary, killed with -9 while Stripe has done it and not answered: it is there once, and nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn billing_survives_kill_9() {
    let stripe = FakeStripe::start().await;
    let app = start(&stripe, &[]).await;
    subscribed(&app, &stripe).await;
    let alice = token(&app, "alice").await;
    let models = budget(&app, &alice, "Models", "AI_USAGE").await;
    spend(&app, &alice, &[&models], "1.00", "s1").await;
    join(&app, 0, 3).await;
    // The binary has the time of the machine.
    app.sql("update tenantry.meter_outbox set next_attempt_at = now() - interval '1 minute', occurred_at = now() - interval '1 minute'; update tenantry.seat_marks set marked_at = now() - interval '2 minutes'").await;
    for job in ["billing-usage", "seat-quantities"] {
        stripe.whim(Whim::Held);
        let mut child = run(&app, &stripe, job).await;
        stripe.holds().await;
        child.kill().await.expect("kill -9");
        stripe.let_go();
    }
    assert_eq!(scalar::<i64>(&app, "select count(*) from tenantry.meter_outbox").await, 1);
    assert!(scalar::<i64>(&app, "select count(*) from tenantry.seat_marks").await > 0);
    let updates = stripe.with(|account| account.count("/subscription_items/*"));
    let left = "select (select count(*) from tenantry.meter_outbox) + (select count(*) from tenantry.seat_marks)";
    // The lock of the dead may live for a moment.
    for _ in 0..50 {
        for job in ["billing-usage", "seat-quantities"] {
            run(&app, &stripe, job).await.wait().await.expect("an end");
        }
        if scalar::<i64>(&app, left).await == 0 {
            break;
        }
    }
    assert_eq!(stripe.with(|account| account.meter_events.len()), 1);
    assert_eq!(scalar::<i64>(&app, "select count(*) from tenantry.meter_outbox").await, 0);
    assert_eq!(stripe.quantity(SUBSCRIPTION, "pro_seat"), Some(members(&app).await));
    assert_eq!(stripe.with(|account| account.count("/subscription_items/*")), updates, "it is looked at first");
}

/// The subscription with this status, as an event of that time says.
fn said(stripe: &FakeStripe, status: &str, at: i64) -> Value {
    let mut object = stripe.subscription(SUBSCRIPTION);
    object["status"] = status.into();
    event("customer.subscription.updated", &object, at)
}

#[tokio::test]
async fn billing_grace_ends_whatever_the_order_of_events() {
    let stripe = FakeStripe::start().await;
    let app = start(&stripe, &[("PAST_DUE_GRACE_DAYS", "7")]).await;
    subscribed(&app, &stripe).await;
    let at = app.clock.now().timestamp();
    let as_row = |status: &str, plan: &str| (status.to_owned(), plan.to_owned(), 1);
    // Overdue since 200; what came before, and comes late, changes nothing.
    apply(
        &app,
        &[said(&stripe, "past_due", at + 300), said(&stripe, "past_due", at + 200), said(&stripe, "active", at + 100)],
    )
    .await;
    app.run_job("billing-grace").await;
    assert_eq!(row(&app).await, as_row("PAST_DUE", "PRO"));
    let since: i64 = scalar(&app, "select extract(epoch from past_due_since)::bigint from tenantry.subscriptions where past_due_since is not null").await;
    assert_eq!(since, at + 200);
    app.clock.advance(TimeDelta::days(7) + TimeDelta::seconds(199));
    app.run_job("billing-grace").await;
    assert_eq!(row(&app).await, as_row("PAST_DUE", "PRO"));
    app.clock.advance(TimeDelta::seconds(2));
    let alice = token(&app, "alice").await;
    let stream = app
        .follow(&alice, "subscription { subscriptionChanged { subscription { plan status pastDueSince } } }", json!({}))
        .await;
    app.subscribed(1).await;
    app.run_job("billing-grace").await;
    assert_eq!(row(&app).await, as_row("PAST_DUE", "FREE"));
    // Another event of the same overdue payment does not bring the plan back.
    let later = app.clock.now().timestamp();
    apply(&app, &[said(&stripe, "past_due", later), said(&stripe, "past_due", at + 250)]).await;
    app.run_job("billing-grace").await;
    assert_eq!(row(&app).await, as_row("PAST_DUE", "FREE"));
    // A payment does, and the next overdue one has a grace of its own.
    apply(&app, &[said(&stripe, "active", later + 10)]).await;
    assert_eq!(row(&app).await, as_row("ACTIVE", "PRO"));
    apply(&app, &[said(&stripe, "past_due", later + 20)]).await;
    app.run_job("billing-grace").await;
    assert_eq!(row(&app).await, as_row("PAST_DUE", "PRO"));
    let heard = hear(stream, &["\"FREE\"", "\"ACTIVE\""]).await;
    assert!(heard.contains("\"PAST_DUE\""), "{heard}");
    // A trial is the plan as bought.
    apply(&app, &[said(&stripe, "trialing", later + 30)]).await;
    assert_eq!(row(&app).await, as_row("TRIALING", "PRO"));
}

/// A subscription with a test clock has the clock's time, and not ours.
#[tokio::test]
async fn billing_grace_follows_test_clocks() {
    let stripe = FakeStripe::start().await;
    let app = start(&stripe, &[("PAST_DUE_GRACE_DAYS", "7")]).await;
    subscribed(&app, &stripe).await;
    let began = app.clock.now().timestamp() + 400 * 86_400;
    stripe.with(|account| account.clocks.insert("clock_1".to_owned(), began + 3 * 86_400));
    stripe.change(SUBSCRIPTION, |object| {
        object["test_clock"] = "clock_1".into();
        for item in object["items"]["data"].as_array_mut().expect("items") {
            (item["current_period_start"], item["current_period_end"]) = (began.into(), (began + 30 * 86_400).into());
        }
    });
    apply(&app, &[said(&stripe, "past_due", app.clock.now().timestamp() + 1)]).await;
    app.clock.advance(TimeDelta::days(30));
    app.run_job("billing-grace").await;
    assert_eq!(row(&app).await.1, "PRO", "three days have passed for it");
    stripe.with(|account| account.clocks.insert("clock_1".to_owned(), began + 7 * 86_400));
    app.run_job("billing-grace").await;
    assert_eq!(row(&app).await.1, "FREE");
    // A clock that is gone ends nothing.
    apply(
        &app,
        &[
            said(&stripe, "active", app.clock.now().timestamp()),
            said(&stripe, "past_due", app.clock.now().timestamp() + 1),
        ],
    )
    .await;
}

fn invoice(kind: &str, status: &str, attempts: i64, at: i64) -> Value {
    let object = json!({ "id": "in_1", "object": "invoice", "customer": super::CUSTOMER, "status": status, "currency": "usd", "total": 2_500, "amount_due": 2_500,
        "amount_paid": if status == "paid" { 2_500 } else { 0 }, "amount_remaining": if status == "paid" { 0 } else { 2_500 }, "attempt_count": attempts,
        "created": 1_893_456_000, "number": "ACME-1", "period_start": 1_893_456_000, "period_end": 1_896_134_400, "livemode": false,
        "hosted_invoice_url": "https://invoice.stripe.com/i/1", "invoice_pdf": "https://pay.stripe.com/invoice/1/pdf",
        "parent": { "type": "subscription_details", "subscription_details": { "subscription": SUBSCRIPTION } } });
    event(kind, &object, at)
}

const INVOICES: &str = "{ organization { subscription { paymentProblem { code since invoiceUrl } }
  invoices(where: { status: { in: [OPEN, PAID, VOID] } }) { nodes { number status total { amount currencyCode } remaining { amount } attempts problem hostedUrl } } } }";

#[tokio::test]
async fn billing_invoices_are_the_same_in_any_order() {
    let stripe = FakeStripe::start().await;
    let app = start(&stripe, &[]).await;
    subscribed(&app, &stripe).await;
    let (alice, dave) = (token(&app, "alice").await, token(&app, "dave").await);
    let at = app.clock.now().timestamp();
    let failed = [
        invoice("invoice.finalized", "open", 0, at),
        invoice("invoice.payment_action_required", "open", 1, at),
        invoice("invoice.payment_failed", "open", 2, at + 60),
    ];
    let mut seen = Vec::new();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 2]] {
        app.sql("delete from tenantry.invoices; delete from tenantry.sync_objects where kind = 'invoice'").await;
        let mut events: Vec<Value> = order.iter().map(|n| failed[*n].clone()).collect();
        if order == [2, 0, 2] {
            events.push(failed[1].clone());
        }
        for event in &mut events {
            event["id"] = format!("{}_{}", event["id"].as_str().expect("an id"), seen.len()).into();
        }
        apply(&app, &events).await;
        seen.push(app.data(&alice, INVOICES, json!({})).await);
    }
    let problem = json!({ "code": "PAYMENT_FAILED", "since": "2030-01-15T12:00:00+00:00", "invoiceUrl": "https://invoice.stripe.com/i/1" });
    assert_eq!(seen[0]["organization"]["subscription"]["paymentProblem"], problem, "{seen:?}");
    assert!(seen.iter().all(|answer| *answer == seen[0]), "{seen:#?}");
    // Paid in the second of its failure, whichever comes first.
    apply(&app, &[invoice("invoice.paid", "paid", 3, at + 90), invoice("invoice.payment_failed", "open", 3, at + 90)])
        .await;
    let paid = app.data(&alice, INVOICES, json!({})).await;
    assert_eq!(paid["organization"]["subscription"]["paymentProblem"], Value::Null);
    assert_eq!(
        paid["organization"]["invoices"]["nodes"],
        json!([{ "number": "ACME-1", "status": "PAID", "total": { "amount": "25.00", "currencyCode": "USD" }, "remaining": { "amount": "0.00" },
                 "attempts": 3, "problem": null, "hostedUrl": "https://invoice.stripe.com/i/1" }])
    );
    assert_eq!(app.error_code(&dave, "{ organization { invoices { nodes { id } } } }", json!({})).await, "FORBIDDEN");
}
