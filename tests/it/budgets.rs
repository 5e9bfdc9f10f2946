//! Budgets: limits under concurrency, reservations, periods, alerts, and what is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tenantry::access::OrganizationRef;
use tenantry::budgets::{Books, expire_reservations, mark_in_flight, open_due_periods};
use tenantry::clock::Clock;
use tenantry::db::TenantTx;
use tenantry::id::BudgetReservationId;
use tenantry::verify::verify;

use crate::support::{Setup, TestApp, codes, hear};

const FIELDS: &str = "id seriesId name startsAt endsAt closedAt archivedAt version isHardLimit alertThresholds rollover timeZone
  limit { amount currencyCode } rolledOver { amount } spent { amount } reserved { amount } overrun { amount } available { amount }";

/// The payload of a mutation of this field.
async fn run(app: &TestApp, token: &str, field: &str, input: Value) -> Value {
    let selection = match field {
        "budgetSpend" => "usageRecords { id kind amount { amount } budget { id } }".to_owned(),
        "budgetReserve" | "budgetSettle" | "budgetRelease" => {
            "reservation { id status expiresAt endedAt amount { amount } settled { amount } }".to_owned()
        }
        _ => format!("budget {{ {FIELDS} }}"),
    };
    app.mutate(token, field, &selection, input).await
}

fn money(amount: &str) -> Value {
    json!({ "amount": amount, "currencyCode": "USD" })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// A server whose time stands still, in the middle of a month.
async fn start() -> TestApp {
    let at: DateTime<Utc> = "2030-01-15T12:00:00Z".parse().expect("a time");
    TestApp::start_with(Setup { clock: Clock::manual(at), ..Setup::default() }).await
}

async fn alice(app: &TestApp) -> String {
    app.token("alice@example.com", Some("acme-corp")).await
}

/// Makes a monthly budget in dollars; its id. `more` is merged into the input.
async fn budget(app: &TestApp, token: &str, limit: &str, more: Value) -> String {
    let mut input = json!({ "type": "AI_USAGE", "name": "Models", "period": "MONTH", "limit": money(limit) });
    for (name, value) in more.as_object().into_iter().flatten() {
        input[name] = value.clone();
    }
    let made = run(app, token, "budgetCreate", input).await;
    assert_eq!(codes(&made), [] as [&str; 0], "{made}");
    text(&made["budget"]["id"])
}

async fn spend(app: &TestApp, token: &str, budgets: &[&str], amount: &str, key: &str) -> Value {
    let input = json!({ "budgetIds": budgets, "amount": money(amount), "source": "test", "idempotencyKey": key });
    run(app, token, "budgetSpend", input).await
}

async fn reserve(app: &TestApp, token: &str, budgets: &[&str], amount: &str, key: &str) -> Value {
    let input = json!({ "budgetIds": budgets, "amount": money(amount), "source": "test", "idempotencyKey": key });
    run(app, token, "budgetReserve", input).await
}

/// The current period of a budget.
async fn current(app: &TestApp, token: &str, id: &str) -> Value {
    let document = format!(
        "query($id: ID!) {{ organization {{ budgets(where: {{ seriesId: {{ eq: $id }}, closedAt: {{ isNull: true }} }}) {{ nodes {{ {FIELDS} }} }} }} }}"
    );
    let data = app.data(token, &document, json!({ "id": id })).await;
    let nodes = data["organization"]["budgets"]["nodes"].as_array().expect("nodes").clone();
    assert_eq!(nodes.len(), 1, "one period is current: {nodes:?}");
    nodes[0].clone()
}

/// Spent, reserved and what is left.
async fn amounts(app: &TestApp, token: &str, id: &str) -> [String; 3] {
    let row = current(app, token, id).await;
    ["spent", "reserved", "available"].map(|field| text(&row[field]["amount"]))
}

async fn count(app: &TestApp, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut app.database.system().await).await.expect("a count")
}

/// The sums follow from the records, and no limit is exceeded.
async fn is_whole(app: &TestApp) {
    let findings = verify(&app.database.db()).await.expect("verify");
    let findings: Vec<_> = findings.iter().filter(|finding| finding.check.starts_with("budget-")).collect();
    assert!(findings.is_empty(), "{findings:?}");
}

async fn alerts(app: &TestApp, token: &str, id: &str) -> Vec<i64> {
    let document = "query($id: ID!) { node(id: $id) { ... on Budget { alerts(first: 100, orderBy: [{ field: CREATED_AT, direction: ASC }]) { nodes { percent budget { id } } } } } }";
    let data = app.data(token, document, json!({ "id": id })).await;
    let nodes = data["node"]["alerts"]["nodes"].as_array().expect("nodes").clone();
    let mut percents: Vec<i64> = nodes.iter().filter_map(|node| node["percent"].as_i64()).collect();
    percents.sort_unstable();
    percents
}

/// Lets the minutes pass.
fn pass(app: &TestApp, minutes: i64) {
    app.clock.advance(TimeDelta::minutes(minutes));
}

/// 64 spenders at once: as many as fit, exactly, each with its record and its audit row.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn budgets_stop_exactly_at_a_hard_limit() {
    let app = start().await;
    let token = alice(&app).await;
    // 42 times 0.07 is 2.94; once more would be 3.01.
    let hard = budget(&app, &token, "3.00", json!({})).await;
    let soft = budget(&app, &token, "1.00", json!({ "isHardLimit": false })).await;
    let (app, token) = (&app, &token);
    let both = [hard.as_str(), soft.as_str()];
    let swapped = [soft.as_str(), hard.as_str()];
    let spenders = (0..64).map(|n| {
        let budgets = if n % 2 == 0 { &both } else { &swapped };
        async move { spend(app, token, budgets, "0.07", &format!("k{n}")).await }
    });
    let payloads = futures_util::future::join_all(spenders).await;
    let accepted = payloads.iter().filter(|payload| codes(payload).is_empty()).count();
    let refused = payloads.iter().filter(|payload| codes(payload) == ["BUDGET_EXCEEDED"]).count();
    assert_eq!((accepted, refused), (42, 22));
    assert_eq!(amounts(app, token, &hard).await, ["2.94", "0.00", "0.06"]);
    assert_eq!(amounts(app, token, &soft).await, ["2.94", "0.00", "-1.94"], "all or none of the budgets");
    assert_eq!(count(app, "select count(*) from tenantry.budget_usage_records where source = 'test'").await, 84);
    assert_eq!(count(app, "select count(*) from tenantry.audit_logs where action = 'budget.spend'").await, 42);
    assert_eq!(codes(&spend(app, token, &[&hard], "0.06", "rest").await), [] as [&str; 0]);
    let over = spend(app, token, &[&hard], "0.01", "over").await;
    assert_eq!(codes(&over), ["BUDGET_EXCEEDED"]);
    assert_eq!(over["userErrors"][0]["field"], json!(["input", "amount"]));
    assert!(text(&over["userErrors"][0]["message"]).contains("0.00 USD left"), "{over}");
    is_whole(app).await;
}

/// A generator that gives the same steps in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Spend, reserve, settle and release at random, by twelve at once, over three budgets: nobody waits in a circle, no limit is
/// exceeded, and the sums are those of what was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn budgets_hold_their_sums_under_a_mixed_load() {
    const ALLOWED: &[&str] = &["BUDGET_EXCEEDED", "INVALID_TRANSITION"];
    let app = start().await;
    let token = alice(&app).await;
    let mut ids = Vec::new();
    for hard in [true, true, false] {
        ids.push(budget(&app, &token, "60.00", json!({ "isHardLimit": hard, "alertThresholds": [] })).await);
    }
    let (app, token, ids) = (&app, &token, &ids);
    let open = &std::sync::Mutex::new(Vec::<String>::new());
    let workers = (0..12_u64).map(|worker| async move {
        let mut dice = Dice(worker);
        let mut spent = 0;
        for step in 0..20 {
            let key = format!("{worker}-{step}");
            let mut budgets: Vec<&str> = ids.iter().map(String::as_str).filter(|_| dice.roll(2) == 0).collect();
            if budgets.is_empty() {
                budgets.push(&ids[0]);
            }
            if dice.roll(2) == 0 {
                budgets.reverse();
            }
            let amount = format!("{}.{:02}", dice.roll(4), 1 + dice.roll(99));
            let of_pool = dice.roll(1000);
            let chosen = {
                let open = open.lock().expect("no panic");
                let place = usize::try_from(of_pool).expect("a number") % open.len().max(1);
                open.get(place).cloned()
            };
            let payload = match (dice.roll(4), chosen) {
                (0, _) => spend(app, token, &budgets, &amount, &key).await,
                (1, Some(id)) => {
                    let input = json!({ "reservationId": id, "amount": money(&amount), "idempotencyKey": key });
                    run(app, token, "budgetSettle", input).await
                }
                (2, Some(id)) => {
                    run(app, token, "budgetRelease", json!({ "reservationId": id, "idempotencyKey": key })).await
                }
                _ => {
                    let payload = reserve(app, token, &budgets, &amount, &key).await;
                    if let Some(id) = payload["reservation"]["id"].as_str() {
                        open.lock().expect("no panic").push(id.to_owned());
                    }
                    payload
                }
            };
            assert!(codes(&payload).iter().all(|code| ALLOWED.contains(code)), "{payload}");
            spent += usize::from(codes(&payload).is_empty() && payload["usageRecords"].is_array());
        }
        spent
    });
    let spent: usize = futures_util::future::join_all(workers).await.into_iter().sum();
    assert!(spent > 5, "{spent}");
    is_whole(app).await;
    for id in &ids[..2] {
        let row = current(app, token, id).await;
        let left: f64 = text(&row["available"]["amount"]).parse().expect("a number");
        assert!(left >= 0.0 && row["overrun"]["amount"] == "0.00", "{row}");
    }
    assert_eq!(
        count(app, "select count(distinct r.resource_id) from tenantry.audit_logs r where r.action = 'budget.spend'")
            .await,
        i64::try_from(spent).expect("a number"),
    );
    // Every reservation ended once at most.
    let ends = "select count(*) from (select 1 from tenantry.budget_usage_records where kind in ('SETTLE', 'RELEASE')
                group by reservation_id, budget_id having count(*) > 1) twice";
    assert_eq!(count(app, ends).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn budgets_raise_each_alert_once_for_each_crossing() {
    let app = start().await;
    let token = alice(&app).await;
    let id =
        budget(&app, &token, "100.00", json!({ "alertThresholds": [100, 25, 75, 25, 50], "isHardLimit": false })).await;
    assert_eq!(current(&app, &token, &id).await["alertThresholds"], json!([25, 50, 75, 100]));
    let requests = futures_util::stream::iter(0..100).map(|n| {
        let (app, token, id) = (&app, &token, &id);
        async move { codes(&spend(app, token, &[id], "1.00", &format!("{n}")).await).is_empty() }
    });
    assert!(requests.buffer_unordered(16).all(std::future::ready).await);
    assert_eq!(alerts(&app, &token, &id).await, [25, 50, 75, 100]);
    // Each is in the audit log, as done by nobody, with the request of nobody.
    let logged = "select count(*) from tenantry.audit_logs where action = 'budget.alert' and user_id is null and request_id is null";
    assert_eq!(count(&app, logged).await, 4);
    // A higher limit arms what is not reached any more; reserving crosses as spending does.
    let more = |limit: &str| json!({ "id": id, "limit": money(limit) });
    assert_eq!(codes(&run(&app, &token, "budgetUpdate", more("200.00")).await), [] as [&str; 0]);
    assert_eq!(alerts(&app, &token, &id).await, [25, 50, 75, 100], "half is reached still");
    let reserved = text(&reserve(&app, &token, &[&id], "50.00", "r1").await["reservation"]["id"]);
    assert_eq!(alerts(&app, &token, &id).await, [25, 50, 75, 75, 100]);
    let released = json!({ "reservationId": reserved, "idempotencyKey": "rel" });
    assert_eq!(codes(&run(&app, &token, "budgetRelease", released).await), [] as [&str; 0]);
    let many = futures_util::future::join_all((0..16).map(|n| {
        let (app, token, id) = (&app, &token, &id);
        async move { reserve(app, token, &[id], "50.00", &format!("again{n}")).await }
    }))
    .await;
    assert!(many.iter().all(|payload| codes(payload).is_empty()));
    assert_eq!(alerts(&app, &token, &id).await, [25, 50, 75, 75, 75, 100, 100]);
    // A lower limit reaches what it did not.
    let lower = budget(&app, &token, "100.00", json!({})).await;
    spend(&app, &token, &[&lower], "30.00", "low").await;
    run(&app, &token, "budgetUpdate", json!({ "id": lower, "limit": money("50.00") })).await;
    assert_eq!(alerts(&app, &token, &lower).await, [50]);
    // What was dropped leaves no alert.
    assert_eq!(codes(&spend(&app, &token, &[&lower], "50.00", "much").await), ["BUDGET_EXCEEDED"]);
    assert_eq!(alerts(&app, &token, &lower).await, [50]);
    is_whole(&app).await;
}

#[tokio::test]
async fn budgets_tell_subscribers_of_alerts() {
    let app = start().await;
    let token = alice(&app).await;
    let first = budget(&app, &token, "10.00", json!({})).await;
    let second = budget(&app, &token, "10.00", json!({})).await;
    let query =
        "subscription($id: ID) { budgetAlert(budgetId: $id) { alert { percent taken { amount } budget { id } } } }";
    let all = app.follow(&token, query, json!({})).await;
    let of_second = app.follow(&token, query, json!({ "id": second })).await;
    app.subscribed(2).await;
    spend(&app, &token, &[&first], "5.00", "1").await;
    spend(&app, &token, &[&second], "9.00", "2").await;
    let told = hear(all, &["\"percent\":50", "\"percent\":80", &first, &second]).await;
    assert_eq!(told.matches("\"percent\"").count(), 3, "{told}");
    // The next period is of the same budget, by whichever id it is followed.
    pass(&app, 31 * 24 * 60);
    let token = alice(&app).await;
    assert_eq!(codes(&spend(&app, &token, &[&second], "10.00", "3").await), [] as [&str; 0]);
    let told = hear(of_second, &["\"percent\":100"]).await;
    assert!(!told.contains(&first), "{told}");
}

#[tokio::test]
async fn reservations_settle_below_and_above_and_end_once() {
    let app = start().await;
    let token = alice(&app).await;
    let id = budget(&app, &token, "100.00", json!({})).await;
    let made = reserve(&app, &token, &[&id], "40.00", "r").await;
    assert_eq!(made["reservation"]["status"], "OPEN");
    let reservation = text(&made["reservation"]["id"]);
    assert_eq!(amounts(&app, &token, &id).await, ["0.00", "40.00", "60.00"]);
    // The same request again is the same reservation.
    assert_eq!(reserve(&app, &token, &[&id], "40.00", "r").await["reservation"]["id"], made["reservation"]["id"]);
    assert_eq!(amounts(&app, &token, &id).await, ["0.00", "40.00", "60.00"]);
    let settle = |id: &str, amount: Option<&str>, key: &str| {
        let mut input = json!({ "reservationId": id, "idempotencyKey": key });
        if let Some(amount) = amount {
            input["amount"] = money(amount);
        }
        input
    };
    let settled = run(&app, &token, "budgetSettle", settle(&reservation, Some("15.50"), "s")).await;
    assert_eq!(
        (&settled["reservation"]["status"], &settled["reservation"]["settled"]["amount"]),
        (&json!("SETTLED"), &json!("15.50"))
    );
    assert_eq!(amounts(&app, &token, &id).await, ["15.50", "0.00", "84.50"], "the rest is free");
    let again = run(&app, &token, "budgetSettle", settle(&reservation, Some("15.50"), "s")).await;
    assert_eq!(again["reservation"], settled["reservation"]);
    for (field, input) in [
        ("budgetSettle", settle(&reservation, None, "other")),
        ("budgetRelease", settle(&reservation, None, "another")),
    ] {
        assert_eq!(codes(&run(&app, &token, field, input).await), ["INVALID_TRANSITION"]);
    }
    let mismatch = run(&app, &token, "budgetSettle", settle(&reservation, None, "s")).await;
    assert_eq!(codes(&mismatch), ["IDEMPOTENCY_KEY_PARAMETER_MISMATCH"]);
    // More than was reserved fits as far as the limit does.
    let second = text(&reserve(&app, &token, &[&id], "80.00", "r2").await["reservation"]["id"]);
    let over = run(&app, &token, "budgetSettle", settle(&second, Some("84.51"), "s2")).await;
    assert_eq!(codes(&over), ["BUDGET_EXCEEDED"]);
    assert!(text(&over["userErrors"][0]["message"]).contains("84.50 USD left"), "{over}");
    assert_eq!(amounts(&app, &token, &id).await, ["15.50", "80.00", "4.50"], "nothing is half done");
    let all = run(&app, &token, "budgetSettle", settle(&second, Some("84.50"), "s3")).await;
    assert_eq!(codes(&all), [] as [&str; 0]);
    assert_eq!(amounts(&app, &token, &id).await, ["100.00", "0.00", "0.00"]);
    // In another currency, not at all.
    let third = budget(&app, &token, "5.00", json!({})).await;
    let third = text(&reserve(&app, &token, &[&third], "5.00", "r3").await["reservation"]["id"]);
    let input =
        json!({ "reservationId": third, "amount": { "amount": "5.00", "currencyCode": "EUR" }, "idempotencyKey": "e" });
    assert_eq!(codes(&run(&app, &token, "budgetSettle", input).await), ["CURRENCY_MISMATCH"]);
    is_whole(&app).await;
}

#[tokio::test]
async fn reservations_expire_by_themselves() {
    let app = start().await;
    let token = alice(&app).await;
    let [one, two] = [budget(&app, &token, "10.00", json!({})).await, budget(&app, &token, "10.00", json!({})).await];
    let input = json!({ "budgetIds": [one, two], "amount": money("8.00"), "source": "t", "expiresInMinutes": 1440, "idempotencyKey": "a" });
    let long = run(&app, &token, "budgetReserve", input.clone()).await;
    assert_eq!(long["reservation"]["expiresAt"], "2030-01-16T12:00:00+00:00");
    let mut longer = input;
    longer["expiresInMinutes"] = json!(1441);
    longer["idempotencyKey"] = json!("b");
    assert_eq!(codes(&run(&app, &token, "budgetReserve", longer).await), ["INVALID"]);
    let short = text(&reserve(&app, &token, &[&one], "2.00", "c").await["reservation"]["id"]);
    pass(&app, 59);
    let db = &app.app.services.db;
    assert_eq!(expire_reservations(db, &app.clock).await.expect("a run"), 1, "that of the sample data is older");
    assert_eq!(codes(&spend(&app, &token, &[&one], "2.00", "d").await), ["BUDGET_EXCEEDED"]);
    pass(&app, 1);
    // Expired means expired, whether the job was there or not: it cannot be settled, and whoever spends finds the money free.
    let token = alice(&app).await;
    for field in ["budgetSettle", "budgetRelease"] {
        let late = run(&app, &token, field, json!({ "reservationId": short, "idempotencyKey": field })).await;
        assert_eq!(codes(&late), ["EXPIRED"]);
    }
    assert_eq!(codes(&spend(&app, &token, &[&one], "2.00", "e").await), [] as [&str; 0]);
    assert_eq!(amounts(&app, &token, &one).await, ["2.00", "8.00", "0.00"]);
    assert_eq!(expire_reservations(db, &app.clock).await.expect("a run"), 0);
    pass(&app, 1440);
    let runs = futures_util::future::join_all((0..4).map(|_| expire_reservations(db, &app.clock))).await;
    assert_eq!(runs.into_iter().map(|run| run.expect("a run")).sum::<u64>(), 2, "one record of each budget, once");
    let token = alice(&app).await;
    assert_eq!(amounts(&app, &token, &one).await, ["2.00", "0.00", "8.00"]);
    assert_eq!(amounts(&app, &token, &two).await, ["0.00", "0.00", "10.00"]);
    let late =
        run(&app, &token, "budgetSettle", json!({ "reservationId": long["reservation"]["id"], "idempotencyKey": "f" }))
            .await;
    assert_eq!(codes(&late), ["EXPIRED"]);
    is_whole(&app).await;
}

/// The payment was sent in time; its result comes when the money is others' already.
#[tokio::test]
async fn reservations_in_flight_settle_in_full() {
    let app = start().await;
    let token = alice(&app).await;
    let id = budget(&app, &token, "10.00", json!({})).await;
    let mark = async |reservation: &str| {
        let organization = OrganizationRef::Slug("acme-corp".to_owned());
        let mut tx =
            TenantTx::begin(&app.app.services.db, "user_alice", &organization, Arc::default()).await.expect("alice");
        let id = BudgetReservationId::parse(reservation).expect("an id");
        let marked = mark_in_flight(&mut Books::of_viewer(&mut tx, &app.clock), id).await.expect("a mark");
        tx.commit().await.expect("it lasts");
        marked
    };
    let late = text(&reserve(&app, &token, &[&id], "8.00", "late").await["reservation"]["id"]);
    let lost = text(&reserve(&app, &token, &[&id], "1.00", "lost").await["reservation"]["id"]);
    assert!(mark(&late).await);
    let released = run(&app, &token, "budgetRelease", json!({ "reservationId": late, "idempotencyKey": "no" })).await;
    assert_eq!(codes(&released), ["INVALID_TRANSITION"], "nobody gives back what is being paid");
    pass(&app, 60);
    assert!(!mark(&lost).await, "nothing is paid of what has expired");
    let token = alice(&app).await;
    expire_reservations(&app.app.services.db, &app.clock).await.expect("a run");
    assert_eq!(amounts(&app, &token, &id).await, ["0.00", "0.00", "10.00"]);
    assert_eq!(codes(&spend(&app, &token, &[&id], "9.00", "others").await), [] as [&str; 0]);
    let settled = run(&app, &token, "budgetSettle", json!({ "reservationId": late, "idempotencyKey": "s" })).await;
    assert_eq!(settled["reservation"]["status"], "SETTLED", "{settled}");
    let row = current(&app, &token, &id).await;
    assert_eq!(
        [&row["spent"]["amount"], &row["overrun"]["amount"], &row["available"]["amount"]],
        ["17.00", "7.00", "-7.00"]
    );
    assert_eq!(codes(&spend(&app, &token, &[&id], "0.01", "nothing").await), ["BUDGET_EXCEEDED"]);
    // In time, and for more than was reserved: in full as well.
    let other = budget(&app, &token, "10.00", json!({})).await;
    let more = text(&reserve(&app, &token, &[&other], "8.00", "more").await["reservation"]["id"]);
    assert!(mark(&more).await);
    let input = json!({ "reservationId": more, "amount": money("12.00"), "idempotencyKey": "m" });
    assert_eq!(codes(&run(&app, &token, "budgetSettle", input).await), [] as [&str; 0]);
    assert_eq!(amounts(&app, &token, &other).await, ["12.00", "0.00", "-2.00"]);
    // The limit is raised step by step, and never lowered below what is spent.
    let limit = |limit: &str| json!({ "id": other, "limit": money(limit) });
    assert_eq!(codes(&run(&app, &token, "budgetUpdate", limit("11.00")).await), [] as [&str; 0]);
    assert_eq!(codes(&run(&app, &token, "budgetUpdate", limit("10.99")).await), ["INVALID"]);
    assert_eq!(current(&app, &token, &other).await["overrun"]["amount"], "1.00");
    is_whole(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn periods_open_by_themselves_after_months() {
    let app = start().await;
    let token = alice(&app).await;
    let [plain, rolls, by_job] = [
        budget(&app, &token, "10.00", json!({ "timeZone": "America/New_York" })).await,
        budget(&app, &token, "10.00", json!({ "rollover": true })).await,
        budget(&app, &token, "10.00", json!({ "rollover": true })).await,
    ];
    let first = current(&app, &token, &plain).await;
    assert_eq!([&first["startsAt"], &first["endsAt"]], ["2030-01-01T05:00:00+00:00", "2030-02-01T05:00:00+00:00"]);
    spend(&app, &token, &[&plain, &rolls, &by_job], "4.00", "january").await;
    let held = text(&reserve(&app, &token, &[&rolls], "1.00", "held").await["reservation"]["id"]);
    // The fourth of May: nobody was here in February, March and April.
    pass(&app, (31 - 14 + 28 + 31 + 30 + 3) * 24 * 60);
    let token = alice(&app).await;
    let opened = open_due_periods(&app.app.services.db, &app.clock);
    let (app, token) = (&app, &token);
    let ids = [plain.as_str(), rolls.as_str()];
    let spenders = futures_util::future::join_all(
        (0..16).map(|n| async move { spend(app, token, &ids, "0.50", &format!("may{n}")).await }),
    );
    let (opened, payloads) = tokio::join!(opened, spenders);
    opened.expect("a run");
    assert!(payloads.iter().all(|payload| codes(payload).is_empty()), "{payloads:?}");
    let now = current(app, token, &plain).await;
    assert_eq!([&now["startsAt"], &now["endsAt"]], ["2030-05-01T04:00:00+00:00", "2030-06-01T04:00:00+00:00"]);
    assert_eq!([&now["spent"]["amount"], &now["rolledOver"]["amount"]], ["8.00", "0.00"]);
    // Five of January (one is reserved still) and thirty of the months that nobody opened, whether by a spender or by the job.
    let now = current(app, token, &rolls).await;
    assert_eq!([&now["rolledOver"]["amount"], &now["available"]["amount"]], ["35.00", "37.00"]);
    assert_eq!(current(app, token, &by_job).await["rolledOver"]["amount"], "36.00");
    let document = "query($id: ID!) { node(id: $id) { ... on Budget { periods(orderBy: [{ field: STARTS_AT, direction: ASC }]) { nodes { startsAt endsAt closedAt spent { amount } } } } } }";
    for id in [&plain, &text(&current(app, token, &plain).await["id"])] {
        let data = app.data(token, document, json!({ "id": id })).await;
        let periods = data["node"]["periods"]["nodes"].as_array().expect("periods").clone();
        assert_eq!(periods.len(), 2, "{periods:?}");
        assert_eq!(periods[0]["spent"]["amount"], "4.00");
    }
    assert_eq!(
        count(app, "select count(*) from tenantry.audit_logs where action = 'budget.period.open'").await,
        5,
        "with those of the sample data"
    );
    // What was reserved in January ended there.
    assert_eq!(
        codes(&run(app, token, "budgetSettle", json!({ "reservationId": held, "idempotencyKey": "h" })).await),
        ["EXPIRED"]
    );
    // An archived budget opens no more.
    assert_eq!(codes(&run(app, token, "budgetArchive", json!({ "id": plain })).await), [] as [&str; 0]);
    assert_eq!(codes(&spend(app, token, &[&plain], "0.01", "archived").await), ["INVALID_TRANSITION"]);
    pass(app, 40 * 24 * 60);
    let token = &alice(app).await;
    open_due_periods(&app.app.services.db, &app.clock).await.expect("a run");
    assert!(current(app, token, &plain).await["archivedAt"].is_string());
    assert_eq!(current(app, token, &by_job).await["rolledOver"]["amount"], "46.00");
    is_whole(app).await;
}

/// The calendar of many time zones: every instant has its period, and the next one begins where it ends.
#[tokio::test]
async fn periods_follow_the_calendar_of_their_time_zone() {
    let app = start().await;
    let mut system = app.database.system().await;
    let mut of = async |period: &str, zone: &str, at: DateTime<Utc>| -> (DateTime<Utc>, DateTime<Utc>) {
        sqlx::query_as("select starts_at, ends_at from tenantry.budget_period_at($1::tenantry.budget_period, $2, $3)")
            .bind(period)
            .bind(zone)
            .bind(at)
            .fetch_one(&mut system)
            .await
            .expect("a period")
    };
    let at = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
    for (period, zone, time, starts, ends) in [
        ("MONTH", "UTC", "2028-02-29T23:59:59Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        ("WEEK", "UTC", "2030-01-01T00:00:00Z", "2029-12-31T00:00:00Z", "2030-01-07T00:00:00Z"),
        ("YEAR", "Asia/Kolkata", "2029-12-31T18:30:00Z", "2029-12-31T18:30:00Z", "2030-12-31T18:30:00Z"),
        ("QUARTER", "Europe/Berlin", "2030-03-31T12:00:00Z", "2029-12-31T23:00:00Z", "2030-03-31T22:00:00Z"),
        // 23 and 25 hours.
        ("DAY", "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
        ("DAY", "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        // Midnight does not exist: the day begins at one o'clock.
        ("DAY", "America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"),
        // A day that was left out.
        ("DAY", "Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"),
    ] {
        assert_eq!(of(period, zone, at(time)).await, (at(starts), at(ends)), "{period} {zone} {time}");
    }
    let zones = [
        "UTC",
        "America/Havana",
        "America/Sao_Paulo",
        "Asia/Tehran",
        "Pacific/Apia",
        "Africa/Cairo",
        "Australia/Lord_Howe",
    ];
    let mut dice = Dice(7);
    for zone in zones {
        for period in ["DAY", "WEEK", "MONTH", "QUARTER", "YEAR"] {
            for _ in 0..25 {
                let minutes = i64::try_from(dice.roll(60 * 366 * 24 * 60)).expect("a number");
                let time = at("1990-01-01T00:00:00Z") + TimeDelta::minutes(minutes);
                let (starts, ends) = of(period, zone, time).await;
                assert!(starts <= time && time < ends, "{period} {zone} {time}: {starts} {ends}");
                assert_eq!(of(period, zone, starts).await, (starts, ends), "{period} {zone} {time}");
                assert_eq!(of(period, zone, ends).await.0, ends, "{period} {zone} {time}");
            }
        }
    }
}

#[tokio::test]
async fn budgets_refuse_bad_input_and_write_nothing() {
    let app = start().await;
    let token = alice(&app).await;
    let bob = app.token("bob@example.com", Some("tech-startup")).await;
    let id = budget(&app, &token, "10.00", json!({})).await;
    let foreign = budget(&app, &bob, "10.00", json!({})).await;
    let early = budget(&app, &token, "10.00", json!({ "startsAt": "2030-02-01T00:00:00Z" })).await;
    let state = "select hashtextextended(string_agg(t.row, ',' order by t.row), 0) from (select b::text as row from tenantry.budgets b union all select r::text from tenantry.budget_usage_records r
        union all select r::text from tenantry.budget_reservations r union all select a::text from tenantry.budget_alerts a union all select k::text from tenantry.idempotency_keys k) t";
    let before = count(&app, state).await;
    let make = |more: Value| {
        let mut input = json!({ "type": "CREDIT", "name": "x", "period": "DAY", "limit": money("1.00") });
        for (name, value) in more.as_object().into_iter().flatten() {
            input[name] = value.clone();
        }
        ("budgetCreate", input)
    };
    let taking = |field: &'static str, more: Value| {
        let mut input = json!({ "budgetIds": [id], "amount": money("1.00"), "source": "s", "idempotencyKey": "k" });
        for (name, value) in more.as_object().into_iter().flatten() {
            input[name] = value.clone();
        }
        (field, input)
    };
    let amount = |amount: &str, currency: &str| json!({ "amount": { "amount": amount, "currencyCode": currency } });
    let mut cases = vec![
        (make(json!({ "name": " " })), "name", "BLANK"),
        (make(json!({ "name": "x".repeat(201) })), "name", "TOO_LONG"),
        (make(json!({ "limit": money("-1") })), "limit", "INVALID"),
        (make(json!({ "limit": money("99999999999999999999999") })), "limit", "INVALID"),
        (make(json!({ "limit": { "amount": "1", "currencyCode": "ABC" } })), "limit", "INVALID"),
        (make(json!({ "alertThresholds": [0] })), "alertThresholds", "INVALID"),
        (make(json!({ "alertThresholds": [1001] })), "alertThresholds", "INVALID"),
        (make(json!({ "alertThresholds": vec![1; 21] })), "alertThresholds", "TOO_LONG"),
        (make(json!({ "timeZone": "Europe/Nowhere" })), "timeZone", "INVALID"),
        (make(json!({ "timeZone": "EST5EDT4" })), "timeZone", "INVALID"),
        (make(json!({ "timeZone": "<a/b>3" })), "timeZone", "INVALID"),
        (make(json!({ "timeZone": "../../etc/passwd" })), "timeZone", "INVALID"),
        (make(json!({ "timeZone": "x".repeat(65) })), "timeZone", "TOO_LONG"),
        (make(json!({ "startsAt": "2030-01-20T00:00:00Z", "endsAt": "2030-01-20T00:00:00Z" })), "endsAt", "INVALID"),
        (make(json!({ "startsAt": "2030-01-20T00:00:00Z", "endsAt": "2030-01-19T00:00:00Z" })), "endsAt", "INVALID"),
        (make(json!({ "endsAt": "2030-01-15T12:00:00Z" })), "endsAt", "INVALID"),
        (make(json!({ "startsAt": "2030-01-10T00:00:00Z" })), "startsAt", "INVALID"),
        (make(json!({ "startsAt": "1030-01-10T00:00:00Z" })), "startsAt", "INVALID"),
        (make(json!({ "startsAt": "+200000-01-10T00:00:00Z" })), "startsAt", "INVALID"),
        (make(json!({ "endsAt": "9999-01-10T00:00:00Z" })), "endsAt", "INVALID"),
        (("budgetUpdate", json!({ "id": foreign, "name": "x" })), "id", "NOT_FOUND"),
        (
            ("budgetUpdate", json!({ "id": id, "name": "x", "expectedVersion": 7 })),
            "expectedVersion",
            "VERSION_CONFLICT",
        ),
        (
            ("budgetUpdate", json!({ "id": id, "limit": { "amount": "1", "currencyCode": "EUR" } })),
            "limit",
            "CURRENCY_MISMATCH",
        ),
        (("budgetUpdate", json!({ "id": id, "timeZone": "Moon/Base" })), "timeZone", "INVALID"),
        (("budgetArchive", json!({ "id": foreign })), "id", "NOT_FOUND"),
        (("budgetArchive", json!({ "id": id, "expectedVersion": 2 })), "expectedVersion", "VERSION_CONFLICT"),
    ];
    for field in ["budgetSpend", "budgetReserve"] {
        cases.extend([
            (taking(field, json!({ "budgetIds": [] })), "budgetIds", "BLANK"),
            (taking(field, json!({ "budgetIds": vec![&id; 11] })), "budgetIds", "TOO_LONG"),
            (taking(field, json!({ "budgetIds": [id, id] })), "budgetIds", "INVALID"),
            (taking(field, json!({ "budgetIds": [id, foreign] })), "budgetIds", "NOT_FOUND"),
            (taking(field, json!({ "budgetIds": [early] })), "budgetIds", "INVALID_TRANSITION"),
            (taking(field, json!({ "source": "" })), "source", "BLANK"),
            (taking(field, json!({ "idempotencyKey": "" })), "idempotencyKey", "INVALID"),
            (taking(field, amount("0", "USD")), "amount", "INVALID"),
            (taking(field, amount("-1.00", "USD")), "amount", "INVALID"),
            (taking(field, amount("1.005", "USD")), "amount", "INVALID"),
            (taking(field, amount("999999999999999999999", "USD")), "amount", "INVALID"),
            (taking(field, amount("1", "EUR")), "amount", "CURRENCY_MISMATCH"),
            (taking(field, amount("10.01", "USD")), "amount", "BUDGET_EXCEEDED"),
        ]);
    }
    for (n, ((field, mut input), of, code)) in cases.into_iter().enumerate() {
        // The transaction of a refused request may still be on its way back, and its key with it.
        if input["idempotencyKey"] == "k" {
            input["idempotencyKey"] = json!(format!("k{n}"));
        }
        let refused = run(&app, &token, field, input.clone()).await;
        assert_eq!(codes(&refused), [code], "{field} {input:.300}: {refused}");
        assert_eq!(refused["userErrors"][0]["field"][1], of, "{field} {input:.300}: {refused}");
        assert!(
            refused.as_object().expect("a payload").iter().all(|(name, value)| name == "userErrors" || value.is_null())
        );
    }
    assert_eq!(count(&app, state).await, before, "nothing of it remains");
    // What is no amount at all, and a key that is missing, are malformed requests.
    for input in [
        taking("budgetSpend", amount("1e5", "USD")).1,
        json!({ "budgetIds": [id], "amount": money("1"), "source": "s" }),
    ] {
        let document = "mutation($input: BudgetSpendInput!) { budgetSpend(input: $input) { userErrors { code } } }";
        assert!(app.run(&token, document, json!({ "input": input })).await["errors"][0].is_object());
    }
    assert_eq!(count(&app, state).await, before);
}

#[tokio::test]
async fn budgets_count_in_the_decimals_of_their_currency() {
    let app = start().await;
    let token = alice(&app).await;
    for (currency, limit, fits, rest, finer) in [
        ("JPY", "1000", "999", "1", "0.5"),
        ("KWD", "1.500", "1.499", "0.001", "0.0005"),
        ("EUR", "10.00", "9.99", "0.01", "0.005"),
    ] {
        let money = |amount: &str| json!({ "amount": amount, "currencyCode": currency });
        let id = budget(&app, &token, "1", json!({ "limit": money(limit) })).await;
        let spend = |amount: &str| {
            let input = json!({ "budgetIds": [id], "amount": money(amount), "source": "s", "idempotencyKey": format!("{currency}{amount}") });
            run(&app, &token, "budgetSpend", input)
        };
        assert_eq!(codes(&spend(finer).await), ["INVALID"], "{currency}");
        assert_eq!(codes(&spend(fits).await), [] as [&str; 0], "{currency}");
        assert_eq!(amounts(&app, &token, &id).await[2], rest, "{currency}");
        assert_eq!(codes(&spend(rest).await), [] as [&str; 0], "{currency}");
        assert_eq!(codes(&spend(rest).await), [] as [&str; 0], "the same request again");
        assert_eq!(amounts(&app, &token, &id).await[0], limit, "{currency}");
    }
}

#[tokio::test]
async fn budgets_change_by_version_and_spend_once_for_each_key() {
    let app = start().await;
    let token = alice(&app).await;
    let id = budget(&app, &token, "10.00", json!({})).await;
    let spent = spend(&app, &token, &[&id], "2.00", "one").await;
    assert_eq!(spent["usageRecords"][0]["budget"]["id"], id.as_str());
    // At once and again: one record.
    let ids = [id.as_str()];
    let at_once = futures_util::future::join_all((0..8).map(|_| spend(&app, &token, &ids, "3.00", "two"))).await;
    for payload in &at_once {
        assert!(codes(payload).is_empty() || codes(payload) == ["IDEMPOTENCY_CONCURRENT_REQUEST"], "{payload}");
    }
    let again = spend(&app, &token, &[&id], "2.00", "one").await;
    assert_eq!(again["usageRecords"], spent["usageRecords"]);
    assert_eq!(codes(&spend(&app, &token, &[&id], "2.01", "one").await), ["IDEMPOTENCY_KEY_PARAMETER_MISMATCH"]);
    let _ = spend(&app, &token, &[&id], "3.00", "two").await;
    assert_eq!(amounts(&app, &token, &id).await, ["5.00", "0.00", "5.00"]);
    // Of several budgets, the same request shows all its records again.
    let other = budget(&app, &token, "10.00", json!({})).await;
    let both = spend(&app, &token, &[&id, &other], "1.00", "both").await;
    assert_eq!(both["usageRecords"].as_array().map(Vec::len), Some(2), "{both}");
    assert_eq!(spend(&app, &token, &[&id, &other], "1.00", "both").await["usageRecords"], both["usageRecords"]);
    // Spending does not stale a version; a change does.
    let update = |version: i32, name: &str| json!({ "id": id, "name": name, "expectedVersion": version });
    let changed = run(&app, &token, "budgetUpdate", update(1, "New")).await;
    assert_eq!((&changed["budget"]["name"], &changed["budget"]["version"]), (&json!("New"), &json!(2)));
    assert_eq!(codes(&run(&app, &token, "budgetUpdate", update(1, "Old")).await), ["VERSION_CONFLICT"]);
    // Below what is spent a hard limit does not go, a soft one does, and stays soft.
    let limit = |limit: &str, hard: Option<bool>| {
        let mut input = json!({ "id": id, "limit": money(limit) });
        if let Some(hard) = hard {
            input["isHardLimit"] = json!(hard);
        }
        input
    };
    assert_eq!(codes(&run(&app, &token, "budgetUpdate", limit("5.99", None)).await), ["INVALID"]);
    assert_eq!(codes(&run(&app, &token, "budgetUpdate", limit("5.99", Some(false))).await), [] as [&str; 0]);
    let hard = run(&app, &token, "budgetUpdate", json!({ "id": id, "isHardLimit": true })).await;
    assert_eq!((codes(&hard), &hard["userErrors"][0]["field"][1]), (vec!["INVALID"], &json!("isHardLimit")));
    assert_eq!(codes(&run(&app, &token, "budgetUpdate", limit("6.00", Some(true))).await), [] as [&str; 0]);
    // The new period takes the settings along, and any id names the budget.
    pass(&app, 31 * 24 * 60);
    let token = alice(&app).await;
    let stale = run(&app, &token, "budgetUpdate", update(4, "Stale")).await;
    assert_eq!(codes(&stale), ["VERSION_CONFLICT"], "a new period is a new version: {stale}");
    spend(&app, &token, &[&id], "6.00", "february").await;
    let row = current(&app, &token, &id).await;
    assert_eq!((&row["name"], &row["version"], &row["spent"]["amount"]), (&json!("New"), &json!(5), &json!("6.00")));
    let by_new = run(&app, &token, "budgetUpdate", json!({ "id": row["id"], "name": "By another id" })).await;
    assert_eq!(by_new["budget"]["id"], row["id"]);
    is_whole(&app).await;
}

/// What the seeds and the roles say: members spend, administrators decide how much.
#[tokio::test]
async fn budgets_follow_the_matrix() {
    let app = start().await;
    let token = alice(&app).await;
    let id = budget(&app, &token, "10.00", json!({})).await;
    let carol = app.token("carol@example.com", Some("acme-corp")).await;
    let dave = app.token("dave@example.com", Some("acme-corp")).await;
    let bob = app.token("bob@example.com", Some("acme-corp")).await;
    let mut roles = BTreeMap::new();
    for (name, token) in [("alice", &token), ("carol", &carol), ("dave", &dave), ("bob", &bob)] {
        roles.insert(name, app.data(token, "{ viewer { role } }", json!({})).await["viewer"]["role"].clone());
    }
    let update = json!({ "input": { "id": id, "name": "x" } });
    let write = "mutation($input: BudgetUpdateInput!) { budgetUpdate(input: $input) { userErrors { code } } }";
    let take = "mutation($input: BudgetSpendInput!) { budgetSpend(input: $input) { userErrors { code } } }";
    let spend =
        json!({ "input": { "budgetIds": [id], "amount": money("0.01"), "source": "s", "idempotencyKey": "k" } });
    for (name, token) in [("carol", &carol), ("dave", &dave), ("bob", &bob)] {
        let may_write = ["OWNER", "ADMIN"].contains(&roles[name].as_str().expect("a role"));
        let may_spend = may_write || roles[name] == "MEMBER";
        for (document, variables, may) in [(write, &update, may_write), (take, &spend, may_spend)] {
            let answer = app.run(token, document, variables.clone()).await;
            let forbidden = answer["errors"][0]["extensions"]["code"] == "FORBIDDEN";
            assert_eq!(forbidden, !may, "{name}: {answer}");
        }
    }
    // Nobody does it in their place.
    let impersonated = app.impersonated("alice@example.com", Some("acme-corp"), "user_admin").await;
    assert_eq!(app.error_code(&impersonated, take, spend).await, "IMPERSONATION_RESTRICTED");
}
