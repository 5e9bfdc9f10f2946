//! Refunds: who may decide, what is held, how they are paid through a Stripe that fails in every way, and what Stripe tells.

mod crash;
mod events;
pub mod fake;
mod payments;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tenantry::clock::Clock;
use tenantry::verify::verify;

use self::fake::{FakeStripe, KEY};
use crate::support::{Setup, TestApp, codes};
use crate::webhooks;

const FIELDS: &str = "refund { id status version decision decisionNote failureReason stripeRefundId madeInStripe paymentReference
  needsAnotherApprover settledAt amount { amount } budget { id } reservation { status } decidedBy { email } requestedBy { email } customer { id } }";

/// The payload of a mutation of refunds.
async fn run(app: &TestApp, token: &str, field: &str, input: Value) -> Value {
    app.mutate(token, field, FIELDS, input).await
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

fn money(amount: &str) -> Value {
    json!({ "amount": amount, "currencyCode": "USD" })
}

/// A server whose time stands still, with a Stripe.
async fn start(stripe: Option<&FakeStripe>) -> TestApp {
    let at: DateTime<Utc> = "2030-01-15T12:00:00Z".parse().expect("a time");
    let mut environment = webhooks::environment();
    if let Some(stripe) = stripe {
        environment.push(("STRIPE_SECRET_KEY", KEY.to_owned()));
        environment.push(("STRIPE_API_BASE", stripe.url.clone()));
    }
    TestApp::start_with(Setup { environment, clock: Clock::manual(at), ..Setup::default() }).await
}

/// Rules that approve everything.
async fn approve_all(app: &TestApp) {
    app.sql("update tenantry.decision_rules set enabled = rank = 40, action = case when rank = 40 then 'AUTO_APPROVE'::tenantry.decision_action else action end").await;
}

async fn token(app: &TestApp, name: &str) -> String {
    app.token(&format!("{name}@example.com"), Some("acme-corp")).await
}

async fn scalar<T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin>(
    app: &TestApp,
    sql: &str,
) -> T {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut app.database.system().await).await.expect("a value")
}

/// The id of an organization as payments name it.
async fn organization(app: &TestApp, slug: &str) -> String {
    let sql = format!("select 'org_' || replace(id::text, '-', '') from tenantry.organizations where slug = '{slug}'");
    scalar(app, &sql).await
}

/// The id of a customer of the sample data.
async fn customer(app: &TestApp, name: &str) -> String {
    let sql = format!(
        "select 'cus_' || replace(c.id::text, '-', '') from tenantry.customer_profiles c join tenantry.organizations o on o.id = c.organization_id
          where o.slug = 'acme-corp' and c.name like '{name}%'"
    );
    scalar(app, &sql).await
}

/// The input of a request; `more` is merged into it.
fn request(customer: &str, amount: &str, key: &str, more: &Value) -> Value {
    let mut input =
        json!({ "customerId": customer, "amount": money(amount), "reason": "OTHER", "idempotencyKey": key });
    for (name, value) in more.as_object().into_iter().flatten() {
        input[name] = value.clone();
    }
    input
}

/// Requests a refund that is not refused; the refund.
async fn requested(app: &TestApp, token: &str, input: Value) -> Value {
    let made = run(app, token, "refundRequest", input).await;
    assert_eq!(codes(&made), [] as [&str; 0], "{made}");
    made["refund"].clone()
}

/// The refund as it is now.
async fn current(app: &TestApp, token: &str, id: &Value) -> Value {
    let document =
        format!("query($id: ID!) {{ node(id: $id) {{ ... on Refund {{ {} }} }} }}", &FIELDS[9..FIELDS.len() - 2]);
    app.data(token, &document, json!({ "id": id })).await["node"].clone()
}

/// Spent, reserved and overrun of all periods of the budget for refunds, in minor units.
async fn sums(app: &TestApp) -> (i64, i64, i64) {
    sqlx::query_as(
        "select sum(b.spent_minor)::bigint, sum(b.reserved_minor)::bigint, sum(b.overrun_minor)::bigint from tenantry.budgets b
           join tenantry.organizations o on o.id = b.organization_id where o.slug = 'acme-corp' and b.type = 'REFUND' and b.currency = 'USD'",
    )
    .fetch_one(&mut app.database.system().await)
    .await
    .expect("sums")
}

/// Budgets and refunds are whole.
async fn is_whole(app: &TestApp) {
    let findings = verify(&app.database.db()).await.expect("verify");
    let findings: Vec<_> = findings
        .iter()
        .filter(|finding| finding.check.starts_with("budget-") || finding.check.starts_with("refund-"))
        .collect();
    assert!(findings.is_empty(), "{findings:?}");
}

fn pass(app: &TestApp, time: TimeDelta) {
    app.clock.advance(time);
}

#[tokio::test]
async fn refunds_are_decided_by_rules_and_people() {
    let app = start(None).await;
    let (alice, carol, dave) = (token(&app, "alice").await, token(&app, "carol").await, token(&app, "dave").await);
    app.run_job("budget-reservations").await;
    let (ivan, grace) = (customer(&app, "Ivan").await, customer(&app, "Grace").await);
    let (spent, reserved, _) = sums(&app).await;
    // By the rules alone: it is approved, and as it names no payment somebody pays it by hand.
    let small = requested(&app, &dave, request(&ivan, "10.00", "small", &json!({ "note": "Late" }))).await;
    assert_eq!((&small["status"], &small["decision"]), (&json!("APPROVED"), &json!("AUTO_APPROVE")), "{small}");
    assert_eq!(sums(&app).await, (spent, reserved + 1000, 0));
    let paid = run(
        &app,
        &carol,
        "refundMarkPaid",
        json!({ "id": small["id"], "reference": "SEPA 77", "idempotencyKey": "p" }),
    )
    .await;
    assert_eq!(
        (&paid["refund"]["status"], &paid["refund"]["paymentReference"]),
        (&json!("SETTLED"), &json!("SEPA 77")),
        "{paid}"
    );
    assert_eq!(sums(&app).await, (spent + 1000, reserved, 0));
    // The same request again is the same refund.
    let again = requested(&app, &dave, request(&ivan, "10.00", "small", &json!({ "note": "Late" }))).await;
    assert_eq!(again["id"], small["id"]);
    let other = run(&app, &dave, "refundRequest", request(&ivan, "11.00", "small", &json!({}))).await;
    assert_eq!(codes(&other), ["IDEMPOTENCY_KEY_PARAMETER_MISMATCH"]);
    // By a person, and by another one than whoever asks.
    let asked = requested(&app, &alice, request(&ivan, "120.00", "mine", &json!({}))).await;
    assert_eq!(
        (&asked["status"], &asked["needsAnotherApprover"]),
        (&json!("PENDING_APPROVAL"), &json!(true)),
        "{asked}"
    );
    assert_eq!(sums(&app).await, (spent + 1000, reserved + 12_000, 0), "set aside when it is asked for");
    let approve = |id: &Value, key: &str| json!({ "id": id, "idempotencyKey": key });
    assert_eq!(
        codes(&run(&app, &alice, "refundApprove", approve(&asked["id"], "a1")).await),
        ["ANOTHER_PERSON_REQUIRED"]
    );
    let stale = json!({ "id": asked["id"], "expectedVersion": 7, "idempotencyKey": "a2" });
    assert_eq!(codes(&run(&app, &carol, "refundApprove", stale).await), ["VERSION_CONFLICT"]);
    let approved = run(
        &app,
        &carol,
        "refundApprove",
        json!({ "id": asked["id"], "note": "Fine", "expectedVersion": 1, "idempotencyKey": "a3" }),
    )
    .await;
    assert_eq!(approved["refund"]["status"], "APPROVED", "{approved}");
    assert_eq!(approved["refund"]["decidedBy"]["email"], "carol@example.com");
    assert_eq!(codes(&run(&app, &carol, "refundApprove", approve(&asked["id"], "a4")).await), ["INVALID_TRANSITION"]);
    assert_eq!(codes(&run(&app, &carol, "refundRetry", approve(&asked["id"], "a5")).await), ["INVALID_TRANSITION"]);
    // A day later its money is free again, and what was paid by hand counts in full all the same.
    pass(&app, TimeDelta::hours(25));
    app.run_job("budget-reservations").await;
    assert_eq!(sums(&app).await.1, reserved);
    let (alice, carol, dave) = (token(&app, "alice").await, token(&app, "carol").await, token(&app, "dave").await);
    let paid =
        run(&app, &alice, "refundMarkPaid", json!({ "id": asked["id"], "reference": "x", "idempotencyKey": "p2" }))
            .await;
    assert_eq!(codes(&paid), [] as [&str; 0], "{paid}");
    assert_eq!(sums(&app).await, (spent + 13_000, reserved, 0));
    // Denied, canceled: the money comes back. Not by somebody who may not.
    let denied = requested(&app, &dave, request(&ivan, "130.00", "deny", &json!({}))).await;
    let canceled = requested(&app, &dave, request(&ivan, "140.00", "cancel", &json!({}))).await;
    assert_eq!(sums(&app).await.1, reserved + 27_000);
    assert_eq!(codes(&run(&app, &carol, "refundDeny", json!({ "id": denied["id"], "note": " " })).await), ["BLANK"]);
    let no = run(&app, &carol, "refundDeny", json!({ "id": denied["id"], "note": "Worn" })).await;
    assert_eq!((&no["refund"]["status"], &no["refund"]["decisionNote"]), (&json!("DENIED"), &json!("Worn")), "{no}");
    let erin = token(&app, "erin").await;
    assert_eq!(codes(&run(&app, &erin, "refundCancel", json!({ "id": canceled["id"] })).await), ["AUTHOR_REQUIRED"]);
    assert_eq!(
        run(&app, &dave, "refundCancel", json!({ "id": canceled["id"] })).await["refund"]["status"],
        "CANCELLED"
    );
    assert_eq!(sums(&app).await, (spent + 13_000, reserved, 0));
    // Large: the ticket is escalated, once.
    let ticket: String = scalar(&app, "select 'tic_' || replace(t.id::text, '-', '') from tenantry.tickets t join tenantry.customer_profiles c on c.organization_id = t.organization_id and c.id = t.customer_id where c.name like 'Grace%'").await;
    let escalations = "select count(*) from tenantry.escalations where note like 'The refund ref_%'";
    let large = requested(&app, &dave, request(&grace, "900.00", "large", &json!({ "ticketId": ticket }))).await;
    assert_eq!((&large["status"], &large["decision"]), (&json!("PENDING_APPROVAL"), &json!("ESCALATE")), "{large}");
    assert_eq!(scalar::<i64>(&app, escalations).await, 1);
    let second = requested(&app, &dave, request(&grace, "901.00", "large2", &json!({ "ticketId": ticket }))).await;
    assert_eq!(second["decision"], "ESCALATE");
    assert_eq!(scalar::<i64>(&app, escalations).await, 1, "it is escalated already");
    assert_eq!(codes(&run(&app, &dave, "refundEscalate", json!({ "id": second["id"] })).await), ["CONFLICT"]);
    assert_eq!(codes(&run(&app, &dave, "refundEscalate", json!({ "id": asked["id"] })).await), ["INVALID_TRANSITION"]);
    // A customer who gets nothing.
    app.sql("update tenantry.customer_profiles set standing = 'BLOCKED' where name like 'Heidi%'").await;
    let heidi = customer(&app, "Heidi").await;
    let before = sums(&app).await;
    let refused = requested(&app, &dave, request(&heidi, "1.00", "blocked", &json!({}))).await;
    assert_eq!((&refused["status"], &refused["reservation"]), (&json!("DENIED"), &Value::Null), "{refused}");
    assert_eq!(sums(&app).await, before);
    is_whole(&app).await;
}

/// Four eyes are two people's: a key is whoever made it, and whoever acts in another's place is nobody.
#[tokio::test]
async fn refunds_take_two_people_above_an_amount() {
    let app = start(None).await;
    let (alice, carol, dave) = (token(&app, "alice").await, token(&app, "carol").await, token(&app, "dave").await);
    let heidi = customer(&app, "Heidi").await;
    let policy = |amount: Value| json!({ "fourEyesAbove": amount });
    let payload = "organization { refundFourEyesAbove { amount currencyCode } }";
    let made = app.mutate(&alice, "refundPolicyUpdate", payload, policy(money("100.00"))).await;
    assert_eq!(made["organization"]["refundFourEyesAbove"], money("100.00"), "{made}");
    let approve = |id: &Value, key: &str| json!({ "id": id, "idempotencyKey": key });
    let below = requested(&app, &alice, request(&heidi, "100.00", "r1", &json!({}))).await;
    assert_eq!(run(&app, &alice, "refundApprove", approve(&below["id"], "a1")).await["refund"]["status"], "APPROVED");
    let above = requested(&app, &alice, request(&heidi, "100.01", "r2", &json!({}))).await;
    assert_eq!(
        codes(&run(&app, &alice, "refundApprove", approve(&above["id"], "a2")).await),
        ["ANOTHER_PERSON_REQUIRED"]
    );
    // A higher limit is one for new requests.
    app.mutate(&alice, "refundPolicyUpdate", payload, policy(money("5000.00"))).await;
    assert_eq!(
        codes(&run(&app, &alice, "refundApprove", approve(&above["id"], "a3")).await),
        ["ANOTHER_PERSON_REQUIRED"]
    );
    assert_eq!(run(&app, &carol, "refundApprove", approve(&above["id"], "a4")).await["refund"]["status"], "APPROVED");
    app.mutate(&alice, "refundPolicyUpdate", payload, policy(Value::Null)).await;
    // Through a key of one's own.
    let key = json!({ "name": "k", "scopes": ["ORGANIZATION_READ", "BUDGET_READ", "REFUND_WRITE", "REFUND_READ"] });
    let key = text(&app.mutate(&alice, "apiKeyCreate", "secret", key).await["secret"]);
    let by_key = requested(&app, &key, request(&heidi, "60.00", "k1", &json!({}))).await;
    assert_eq!(by_key["requestedBy"]["email"], "alice@example.com");
    assert_eq!(
        codes(&run(&app, &alice, "refundApprove", approve(&by_key["id"], "a5")).await),
        ["ANOTHER_PERSON_REQUIRED"]
    );
    let scopes = json!({ "input": { "name": "k", "scopes": ["REFUND_APPROVE"] } });
    let refused = "mutation($input: ApiKeyCreateInput!) { apiKeyCreate(input: $input) { secret userErrors { code } } }";
    assert_ne!(codes(&app.data(&alice, refused, scopes).await["apiKeyCreate"]), [] as [&str; 0], "no key approves");
    let mutation = "mutation($input: RefundApproveInput!) { refundApprove(input: $input) { refund { id } } }";
    let input = json!({ "input": approve(&by_key["id"], "a6") });
    assert_eq!(app.error_code(&key, mutation, input.clone()).await, "FORBIDDEN");
    assert_eq!(app.error_code(&dave, mutation, input.clone()).await, "FORBIDDEN", "a member may not");
    // In the place of somebody else.
    let support = app.impersonated("carol@example.com", Some("acme-corp"), "user_alice").await;
    assert_eq!(app.error_code(&support, mutation, input).await, "IMPERSONATION_RESTRICTED");
    assert_eq!(run(&app, &carol, "refundApprove", approve(&by_key["id"], "a7")).await["refund"]["status"], "APPROVED");
    is_whole(&app).await;
}

/// What is wrong is said where it is, and nothing of it is written.
#[tokio::test]
async fn refunds_refuse_what_is_wrong_and_write_nothing() {
    let app = start(None).await;
    let dave = token(&app, "dave").await;
    let (ivan, grace) = (customer(&app, "Ivan").await, customer(&app, "Grace").await);
    let state = "select (select count(*) from tenantry.refunds) + (select count(*) from tenantry.budget_usage_records)
                      + (select count(*) from tenantry.audit_logs) + (select count(*) from tenantry.escalations)";
    let of_others = |table: &str, prefix: &str| {
        format!(
            "select '{prefix}_' || replace(t.id::text, '-', '') from tenantry.{table} t join tenantry.organizations o on o.id = t.organization_id where o.slug = 'tech-startup' limit 1"
        )
    };
    let foreign_customer: String = scalar(&app, &of_others("customer_profiles", "cus")).await;
    let foreign_ticket: String = scalar(&app, &of_others("tickets", "tic")).await;
    let foreign_budget: String = scalar(&app, &of_others("budgets", "bud")).await;
    let foreign_refund: String = scalar(&app, &of_others("refunds", "ref")).await;
    let tickets: Vec<String> = sqlx::query_scalar("select 'tic_' || replace(t.id::text, '-', '') from tenantry.tickets t join tenantry.customer_profiles c on c.organization_id = t.organization_id and c.id = t.customer_id where c.name like 'Ivan%'")
        .fetch_all(&mut app.database.system().await).await.expect("tickets");
    let before: i64 = scalar(&app, state).await;
    let euros = json!({ "amount": { "amount": "5.00", "currencyCode": "EUR" } });
    for (more, field, code) in [
        (json!({ "amount": money("0") }), "amount", "INVALID"),
        (json!({ "amount": money("-5.00") }), "amount", "INVALID"),
        (json!({ "amount": money("5.001") }), "amount", "INVALID"),
        (json!({ "amount": money("99999999999999.00") }), "amount", "INVALID"),
        (json!({ "amount": money("10000000000.00") }), "amount", "BUDGET_EXCEEDED"),
        (json!({ "amount": { "amount": "5", "currencyCode": "XXX" } }), "amount", "INVALID"),
        (
            json!({ "amount": { "amount": "5", "currencyCode": "UGX" }, "stripePaymentIntentId": "pi_1" }),
            "amount",
            "INVALID",
        ),
        (
            json!({ "amount": { "amount": "5.124", "currencyCode": "KWD" }, "stripePaymentIntentId": "pi_1" }),
            "amount",
            "INVALID",
        ),
        (json!({ "note": "x".repeat(5001) }), "note", "TOO_LONG"),
        (json!({ "stripePaymentIntentId": "ch_1" }), "stripePaymentIntentId", "INVALID"),
        (json!({ "stripePaymentIntentId": "pi_/../refunds" }), "stripePaymentIntentId", "INVALID"),
        (json!({ "stripePaymentIntentId": format!("pi_{}", "x".repeat(300)) }), "stripePaymentIntentId", "INVALID"),
        (json!({ "customerId": foreign_customer }), "customerId", "NOT_FOUND"),
        (json!({ "ticketId": foreign_ticket }), "ticketId", "NOT_FOUND"),
        (json!({ "customerId": grace, "ticketId": tickets[0] }), "ticketId", "INVALID"),
        (json!({ "budgetId": foreign_budget }), "budgetId", "NOT_FOUND"),
        (json!({ "idempotencyKey": "" }), "idempotencyKey", "INVALID"),
    ] {
        let refused = run(&app, &dave, "refundRequest", request(&ivan, "5.00", "bad", &more)).await;
        assert_eq!(
            (codes(&refused), &refused["userErrors"][0]["field"]),
            (vec![code], &json!(["input", field])),
            "{more} {refused}"
        );
    }
    let alice = token(&app, "alice").await;
    for (field, more) in [
        ("refundApprove", json!({ "idempotencyKey": "f" })),
        ("refundDeny", json!({ "note": "x" })),
        ("refundEscalate", json!({})),
        ("refundCancel", json!({})),
        ("refundRetry", json!({ "idempotencyKey": "f" })),
        ("refundMarkPaid", json!({ "reference": "x", "idempotencyKey": "f" })),
    ] {
        let mut input = more;
        input["id"] = json!(foreign_refund);
        assert_eq!(codes(&run(&app, &alice, field, input).await), ["NOT_FOUND"], "{field}");
    }
    assert_eq!(scalar::<i64>(&app, state).await, before, "nothing was written");
    // Without a budget in the currency nothing is set aside, and a person must approve whatever the rules say.
    approve_all(&app).await;
    let unlimited = requested(&app, &dave, request(&ivan, "5.00", "euros", &euros)).await;
    assert_eq!((&unlimited["status"], &unlimited["budget"]), (&json!("PENDING_APPROVAL"), &Value::Null), "{unlimited}");
    is_whole(&app).await;
}
