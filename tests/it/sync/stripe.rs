//! Asking Stripe: ties, missed events, rows that differ; and made-up deliveries to a real server.

use std::process::Stdio;

use serde_json::{Value, json};
use sqlx::Row as _;
use tenantry::clock::Clock;
use tenantry::local_postgres;
use tenantry::stripe::StripeClient;
use tenantry::sync::samples;
use tenantry::webhooks::worker::Worker;
use tokio::process::Command;

use super::fake_stripe::{FakeStripe, KEY};
use crate::support::{Setup, TestApp, TestDb, cluster};

/// A tag that ids of samples are made from.
const TAG: &str = "asked";

/// A secret of nobody: base64 of zeros and ones.
const SECRET: &str = "whsec_MDEwMTAxMDEwMTAxMDEwMTAxMDEwMTAxMDEwMTAxMDE=";

async fn start(stripe: Option<&FakeStripe>) -> TestApp {
    let mut environment =
        vec![("CLERK_WEBHOOK_SECRETS", SECRET.to_owned()), ("STRIPE_WEBHOOK_SECRETS", SECRET.to_owned())];
    if let Some(stripe) = stripe {
        environment.push(("STRIPE_SECRET_KEY", KEY.to_owned()));
        environment.push(("STRIPE_API_BASE", stripe.url.clone()));
    }
    let app = TestApp::start_with(Setup { environment, ..Setup::default() }).await;
    // Rows and events of the sample data, of which this Stripe knows nothing.
    for statement in [
        "update tenantry.subscriptions set stripe_subscription_id = null, stripe_customer_id = null",
        "delete from tenantry.webhook_events",
    ] {
        sqlx::query(statement).execute(&mut app.database.system().await).await.expect("a clean beginning");
    }
    app
}

/// The binary over this database, asking this Stripe.
async fn tenantry(database: &TestDb, stripe: Option<&FakeStripe>, arguments: &[&str]) -> (i32, String) {
    let server = &cluster().await.server;
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenantry"));
    command
        .env_clear()
        .env("CLERK_WEBHOOK_SECRETS", SECRET)
        .env("STRIPE_WEBHOOK_SECRETS", SECRET)
        .env("DATABASE_URL", server.url(local_postgres::APP_ROLE, &database.name))
        .env("SUPERADMIN_DATABASE_URL", server.url(local_postgres::SUPERADMIN_ROLE, &database.name))
        .args(arguments)
        .kill_on_drop(true);
    if let Some(stripe) = stripe {
        command.env("STRIPE_SECRET_KEY", KEY).env("STRIPE_API_BASE", &stripe.url);
    }
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await.expect("the binary");
    let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
    assert!(!text.contains(KEY) && !text.contains(SECRET), "{text}");
    (output.status.code().expect("an end"), text)
}

async fn json_of(database: &TestDb, stripe: &FakeStripe, arguments: &[&str], code: i32) -> Value {
    let (ended, text) = tenantry(database, Some(stripe), &[arguments, &["--json"]].concat()).await;
    assert_eq!(ended, code, "{arguments:?}: {text}");
    let last = text.lines().find(|line| line.starts_with('{')).expect("JSON");
    serde_json::from_str(last).expect("JSON")
}

/// Sends a sample, in which something is changed.
async fn send(app: &TestApp, kind: &str, changes: &[&str]) {
    let url = app.base_url();
    let mut arguments = vec!["webhooks", "send", kind, "--tag", TAG, "--url", &url];
    for change in changes {
        arguments.extend(["--set", change]);
    }
    let (code, text) = tenantry(&app.database, None, &arguments).await;
    assert!(code == 0 && text.contains("200 {\"received\":true}"), "{kind}: {code} {text}");
}

/// Works until nothing is left to be done now.
async fn work(app: &TestApp) {
    let worker = Worker::new(&app.app.webhooks);
    while worker.step().await.expect("a step") > 0 {}
}

async fn row(app: &TestApp) -> (String, String, i32) {
    let row = sqlx::query(
        "select s.status::text, s.plan::text, s.seat_count from tenantry.subscriptions s join tenantry.organizations o on o.id = s.organization_id
          where o.clerk_org_id = 'org_' || $1",
    )
    .bind(TAG)
    .fetch_one(&mut app.database.system().await)
    .await
    .expect("a row");
    (row.get(0), row.get(1), row.get(2))
}

fn as_row(status: &str, plan: &str, seats: i32) -> (String, String, i32) {
    (status.to_owned(), plan.to_owned(), seats)
}

/// The subscription of the samples as this Stripe has it.
fn subscription(change: impl FnOnce(&mut Value)) -> Value {
    let sample = samples::sample("customer.subscription.updated", TAG, &Clock::System).expect("a sample");
    let mut object = sample.payload["data"]["object"].clone();
    change(&mut object);
    object
}

/// Two events of one second: Stripe is asked, and what it says counts, whatever the events say.
#[tokio::test]
async fn sync_decides_a_tie_by_asking() {
    let stripe = FakeStripe::start().await;
    let app = start(Some(&stripe)).await;
    let second = Clock::System.now().timestamp();
    let created = format!("created={second}");
    send(&app, "organization.created", &[]).await;
    send(&app, "customer.created", &[]).await;
    send(&app, "customer.subscription.created", &[&created]).await;
    work(&app).await;
    assert_eq!(row(&app).await, as_row("ACTIVE", "PRO", 5));
    assert!(stripe.with(|account| account.asked.is_empty()), "nothing to ask about yet");

    // It is away: the event waits, and nothing is guessed.
    stripe.with(|account| {
        account.failing = 100;
        account.subscriptions = vec![subscription(|object| object["status"] = "past_due".into())];
    });
    send(&app, "customer.subscription.updated", &[&created, "data.object.status=unpaid"]).await;
    work(&app).await;
    assert_eq!(row(&app).await, as_row("ACTIVE", "PRO", 5));
    let failed: (String, String) =
        sqlx::query_as("select status::text, cause from tenantry.webhook_events where status <> 'APPLIED'")
            .fetch_one(&mut app.database.system().await)
            .await
            .expect("the event");
    assert!(failed.0 == "FAILED" && failed.1.contains("503"), "{failed:?}");

    stripe.with(|account| account.failing = 0);
    sqlx::query("update tenantry.webhook_events set next_attempt_at = now() where status = 'FAILED'")
        .execute(&mut app.database.system().await)
        .await
        .expect("it is due");
    work(&app).await;
    assert_eq!(row(&app).await, as_row("PAST_DUE", "PRO", 10));
    assert!(stripe.with(|account| account.asked.contains(&format!("/subscriptions/sub_{TAG}"))));

    // Of one that Stripe has no more, the status that is later in its life counts.
    stripe.with(|account| account.subscriptions.clear());
    // The samples take their times from the clock: two of them are of one second only when it is said.
    let later = format!("created={}", second + 5);
    let began =
        [format!("data.object.start_date={second}"), format!("data.object.items.data.0.current_period_start={second}")];
    for status in ["unpaid", "active"] {
        let status = format!("data.object.status={status}");
        send(&app, "customer.subscription.updated", &[&later, &began[0], &began[1], &status]).await;
    }
    work(&app).await;
    assert_eq!(row(&app).await, as_row("UNPAID", "FREE", 10));
}

/// What came in part is asked for: items and entitlements, all pages of them.
#[tokio::test]
async fn sync_asks_for_the_rest_of_a_list() {
    let stripe = FakeStripe::start().await;
    let app = start(Some(&stripe)).await;
    for kind in ["organization.created", "customer.created", "customer.subscription.created"] {
        send(&app, kind, &[]).await;
    }
    work(&app).await;
    assert_eq!(row(&app).await, as_row("ACTIVE", "PRO", 5));
    let item = |n: u32, key: Option<&str>, seats: u32| {
        json!({ "id": format!("si_{n}"), "subscription": format!("sub_{TAG}"), "quantity": seats,
                "price": { "id": format!("price_{n}"), "lookup_key": key, "metadata": {}, "product": "prod_1", "recurring": { "usage_type": "licensed" } } })
    };
    let entitled =
        |n: u32, key: &str| json!({ "id": format!("ent_{n}"), "customer": format!("cus_{TAG}"), "lookup_key": key });
    stripe.with(|account| {
        account.subscriptions = vec![subscription(|object| object["items"]["has_more"] = true.into())];
        account.listed = vec![item(1, None, 1), item(2, None, 1), item(3, Some("enterprise_seat_monthly"), 40)];
        account.listed.extend((0..25).map(|n| entitled(n, &format!("feature-{n:02}"))));
    });
    app.sql(FEATURES).await;
    // What administrators set gives way to what is paid for, and so does a grant that ends; one that lasts stays.
    app.sql(&format!(
        "insert into tenantry.organization_feature_flags (organization_id, id, flag_key, source, enabled, expires_at)
         select o.id, gen_random_uuid(), f.key, f.source::tenantry.flag_override_source, false, f.ends
           from tenantry.organizations o, (values ('feature-00', 'ORGANIZATION', null), ('feature-01', 'GRANT', null),
                                                  ('feature-02', 'GRANT', now() + interval '1 day')) as f(key, source, ends)
          where o.clerk_org_id = 'org_{TAG}'",
    ))
    .await;
    let later = format!("created={}", Clock::System.now().timestamp() + 5);
    send(&app, "customer.subscription.updated", &[&later, "data.object.items.has_more=true"]).await;
    send(&app, "entitlements.active_entitlement_summary.updated", &[&later, &first_ten(true)]).await;
    work(&app).await;
    assert_eq!(row(&app).await, as_row("ACTIVE", "ENTERPRISE", 40));
    let expected: Vec<String> = (0..25).filter(|n| *n != 1).map(|n| format!("feature-{n:02}")).collect();
    assert_eq!(entitled_flags(&app).await, expected, "also those past the ten of the event; a lasting grant stays");
    let found: i64 = sqlx::query_scalar("select count(*) from tenantry.webhook_events where finding like '%a part%'")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a count");
    assert_eq!(found, 0, "nothing is missing");
}

/// Definitions of 25 flags that entitlements can switch on.
const FEATURES: &str = "insert into tenantry.feature_flag_definitions (id, key, name, kind)
    select gen_random_uuid(), 'feature-' || to_char(n, 'FM00'), 'Feature', 'ENTITLEMENT' from generate_series(0, 24) n";

/// What an event lists of 25 entitlements: ten (Stripe API reference, `ActiveEntitlementSummary.entitlements`).
fn first_ten(has_more: bool) -> String {
    let data: Vec<Value> = (0..10)
        .map(|n| json!({ "id": format!("ent_{n}"), "object": "entitlements.active_entitlement", "feature": format!("feat_{n}"), "lookup_key": format!("feature-{n:02}") }))
        .collect();
    format!("data.object.entitlements={}", json!({ "object": "list", "data": data, "has_more": has_more }))
}

async fn entitled_flags(app: &TestApp) -> Vec<String> {
    sqlx::query_scalar(
        "select f.flag_key from tenantry.organization_feature_flags f join tenantry.organizations o on o.id = f.organization_id
          where o.clerk_org_id = 'org_' || $1 and f.source = 'STRIPE' and f.enabled order by 1",
    )
    .bind(TAG)
    .fetch_all(&mut app.database.system().await)
    .await
    .expect("flags")
}

/// Without a key nobody can be asked: the ten count, what was known stays, and the event says that it is a part.
#[tokio::test]
async fn sync_without_a_key_keeps_what_is_known_of_a_list() {
    let app = start(None).await;
    app.sql(FEATURES).await;
    for kind in ["organization.created", "customer.created"] {
        send(&app, kind, &[]).await;
    }
    let at = |seconds: i64| format!("created={}", Clock::System.now().timestamp() + seconds);
    send(&app, "entitlements.active_entitlement_summary.updated", &[&at(60), &first_ten(true)]).await;
    work(&app).await;
    assert_eq!(entitled_flags(&app).await.len(), 10);
    let found: i64 = sqlx::query_scalar("select count(*) from tenantry.webhook_events where finding like '%a part%'")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a count");
    assert_eq!(found, 1);
    // A whole list ends that, and takes away what is not in it.
    let whole = r#"data.object.entitlements={"object":"list","data":[{"lookup_key":"feature-24"}],"has_more":false}"#;
    send(&app, "entitlements.active_entitlement_summary.updated", &[&at(120), whole]).await;
    send(&app, "entitlements.active_entitlement_summary.updated", &[&at(180), &first_ten(true)]).await;
    work(&app).await;
    assert_eq!(entitled_flags(&app).await, ["feature-24"], "a part is less than all of an earlier time");
}

/// Not only subscriptions: of any object with several events of one second Stripe is asked.
#[tokio::test]
async fn sync_asks_for_products_and_customers_of_one_second() {
    let stripe = FakeStripe::start().await;
    let app = start(Some(&stripe)).await;
    // Later than what is sent before it, however slow the machine is.
    let second = format!("created={}", Clock::System.now().timestamp() + 60);
    for kind in ["organization.created", "customer.created"] {
        send(&app, kind, &[]).await;
    }
    send(&app, "customer.subscription.created", &["data.object.items.data.0.price.lookup_key=null"]).await;
    stripe.with(|account| {
        account.objects =
            vec![json!({ "id": format!("prod_{TAG}"), "object": "product", "metadata": { "plan": "starter" } })];
    });
    for plan in ["pro", "enterprise"] {
        send(&app, "product.updated", &[&second, &format!("data.object.metadata={{\"plan\":\"{plan}\"}}")]).await;
    }
    work(&app).await;
    assert_eq!(row(&app).await, as_row("ACTIVE", "STARTER", 5));
    assert!(stripe.with(|account| account.asked.contains(&format!("/products/prod_{TAG}"))));
    // A customer who is gone by the time that Stripe is asked is a stub that says so.
    stripe.with(|account| {
        account.objects = vec![json!({ "id": format!("cus_{TAG}"), "object": "customer", "deleted": true })];
    });
    for _ in 0..2 {
        send(&app, "customer.updated", &[&second]).await;
    }
    work(&app).await;
    assert_eq!(row(&app).await, as_row("CANCELED", "FREE", 5));
}

#[tokio::test]
async fn stripe_client_asks_as_stripe_expects() {
    let stripe = FakeStripe::start().await;
    let client = StripeClient::new(KEY, Some(&stripe.url)).expect("a client");
    stripe.with(|account| account.subscriptions = vec![subscription(|_| ())]);
    let found = client.subscription(&format!("sub_{TAG}")).await.expect("an answer");
    assert_eq!(found, stripe.with(|account| account.subscriptions.first().cloned()));
    assert_eq!(client.subscription("sub_none").await.expect("an answer"), None);
    // Ids that would lead elsewhere are asked for nowhere.
    stripe.with(|account| account.asked.clear());
    for odd in ["", "sub/../events", "sub?x", "sub_é", "sub_1%2f"] {
        assert_eq!(client.subscription(odd).await.expect("an answer"), None, "{odd}");
    }
    assert!(stripe.with(|account| account.asked.is_empty()));
    // A passing failure is tried again, and a refusal is told without the key.
    stripe.with(|account| account.failing = 2);
    assert!(client.subscription(&format!("sub_{TAG}")).await.expect("the third answer").is_some());
    let refused = StripeClient::new("sk_test_wrong_0000", Some(&stripe.url)).expect("a client");
    let cause = refused.subscription("sub_1").await.expect_err("a refusal");
    assert!(cause.to_string().contains("401") && !cause.to_string().contains("wrong_0000"), "{cause}");
    assert!(StripeClient::new(KEY, Some("no address")).is_err());
    assert!(StripeClient::new("sk_\n", None).is_err());
}

/// Every type is accepted by a real server and understood by its worker.
#[tokio::test]
async fn send_delivers_every_type() {
    let app = start(None).await;
    let (code, text) = tenantry(&app.database, None, &["webhooks", "send", "--list", "--json"]).await;
    let listed: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, listed.len()), (0, samples::types().count()));
    for kind in listed.iter().filter_map(|entry| entry["type"].as_str()) {
        send(&app, kind, &[]).await;
    }
    work(&app).await;
    let states: Vec<(String, i64)> =
        sqlx::query_as("select status::text, count(*) from tenantry.webhook_events group by 1")
            .fetch_all(&mut app.database.system().await)
            .await
            .expect("the inbox");
    assert!(states.iter().all(|(status, _)| status == "APPLIED" || status == "IGNORED"), "{states:?}");
    assert_eq!(states.iter().map(|(_, count)| count).sum::<i64>(), i64::try_from(listed.len()).expect("few"));

    // Repeated it is one event; refused it is told; without a server it is another's fault.
    let url = app.base_url();
    let repeated = ["webhooks", "send", "user.created", "--tag", TAG, "--url", &url, "--times", "3", "--json"];
    let (code, text) = tenantry(&app.database, None, &repeated).await;
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &answer["answers"]), (0, &json!([200, 200, 200])));
    let stored: i64 = sqlx::query_scalar("select count(*) from tenantry.webhook_events where event_id = $1")
        .bind(answer["eventId"].as_str())
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a count");
    assert_eq!(stored, 1);
    let elsewhere = format!("{url}/graphql");
    for (arguments, expected) in [
        (vec!["user.created", "--url", &elsewhere], 1),
        (vec!["user.created", "--url", "http://127.0.0.1:9"], 2),
        (vec!["no.such"], 2),
        (vec!["user.created", "--tag", "A b"], 2),
        (vec!["user.created", "--set", "nowhere.at.all=1"], 2),
        (vec![], 2),
        (vec!["user.created", "--print"], 0),
        (vec!["--help"], 0),
    ] {
        let all = [vec!["webhooks", "send"], arguments].concat();
        assert_eq!(tenantry(&app.database, None, &all).await.0, expected, "{all:?}");
    }
}

/// What Stripe made and never delivered is found, and put into the inbox.
#[tokio::test]
async fn gaps_are_found_and_filled() {
    let stripe = FakeStripe::start().await;
    let app = start(Some(&stripe)).await;
    assert_eq!(tenantry(&app.database, None, &["webhooks", "gaps"]).await.0, 2, "without a key nothing is asked");
    send(&app, "organization.created", &[]).await;
    let made = |kind: &str| samples::sample(kind, TAG, &Clock::System).expect("a sample").payload;
    let (customer, created, invoice) =
        (made("customer.created"), made("customer.subscription.created"), made("invoice.paid"));
    let mut noise = made("invoice.paid");
    noise["type"] = "charge.succeeded".into();
    noise["id"] = "evt_noise".into();
    let mut old = made("customer.updated");
    old["created"] = json!(Clock::System.now().timestamp() - 9 * 86_400);
    stripe.with(|account| account.events = vec![invoice.clone(), noise, created.clone(), customer, old]);
    // One of them came.
    send(&app, "invoice.paid", &[&format!("id={}", invoice["id"].as_str().expect("an id"))]).await;

    let report = json_of(&app.database, &stripe, &["webhooks", "gaps"], 1).await;
    let counts = [&report["atStripe"], &report["withoutEffect"], &report["received"], &report["stored"]];
    assert_eq!(counts, [&json!(4), &json!(1), &json!(1), &json!(0)], "{report}");
    let missing: Vec<&Value> =
        report["missing"].as_array().expect("a list").iter().map(|event| &event["type"]).collect();
    assert_eq!(missing, ["customer.subscription.created", "customer.created"]);
    assert_eq!(report["missing"][0]["object"], format!("sub_{TAG}"));
    let (code, text) =
        tenantry(&app.database, Some(&stripe), &["webhooks", "gaps", "--since", "2020-01-01T00:00:00Z"]).await;
    assert!(code == 1 && text.contains("5 events at Stripe") && text.contains("3 missing; --fix"), "{text}");

    let fixed = json_of(&app.database, &stripe, &["webhooks", "gaps", "--fix"], 0).await;
    assert_eq!(fixed["stored"], 2);
    work(&app).await;
    assert_eq!(row(&app).await, as_row("ACTIVE", "PRO", 5));
    let again = json_of(&app.database, &stripe, &["webhooks", "gaps"], 0).await;
    assert_eq!((&again["received"], &again["missing"]), (&json!(3), &json!([])));
}

/// Rows that are not as Stripe has them are found and mended, and nothing else is touched.
#[tokio::test]
async fn reconcile_finds_and_mends() {
    let stripe = FakeStripe::start().await;
    let app = start(Some(&stripe)).await;
    // Long enough ago that nothing is under way.
    let before = format!("created={}", Clock::System.now().timestamp() - 600);
    for kind in ["organization.created", "customer.created", "customer.subscription.created"] {
        let changes = if kind.starts_with("customer.sub") { vec![before.as_str()] } else { Vec::new() };
        send(&app, kind, &changes).await;
    }
    work(&app).await;
    // As the event had it, with its periods.
    let body: Vec<u8> = sqlx::query_scalar(
        "select raw_body from tenantry.webhook_events where event_type = 'customer.subscription.created'",
    )
    .fetch_one(&mut app.database.system().await)
    .await
    .expect("the body");
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let same = body["data"]["object"].clone();
    let of_nobody = |n: u32| {
        subscription(|object| {
            object["id"] = format!("sub_stray{n}").into();
            object["customer"] = format!("cus_stray{n}").into();
        })
    };
    stripe.with(|account| account.subscriptions = vec![same.clone()]);
    let report = json_of(&app.database, &stripe, &["reconcile"], 0).await;
    assert_eq!(
        (&report["atStripe"], &report["agree"], &report["differ"]),
        (&json!(1), &json!(1), &json!([])),
        "{report}"
    );

    // Missed: more seats and a failed payment. And a row that somebody changed by hand.
    let mut changed = same;
    changed["status"] = "unpaid".into();
    changed["items"]["data"][0]["quantity"] = 12.into();
    stripe.with(|account| account.subscriptions = vec![of_nobody(1), of_nobody(2), changed.clone()]);
    sqlx::query(
        "update tenantry.subscriptions set cancel_at_period_end = true where stripe_subscription_id = 'sub_' || $1",
    )
    .bind(TAG)
    .execute(&mut app.database.system().await)
    .await
    .expect("an edit");
    for _ in 0..2 {
        let report = json_of(&app.database, &stripe, &["reconcile", "--dry-run"], 1).await;
        let fields = &report["differ"][0]["fields"];
        assert_eq!(fields["status"], json!({ "here": "ACTIVE", "stripe": "UNPAID" }), "{report}");
        assert_eq!(fields["seats"], json!({ "here": 5, "stripe": 12 }));
        assert_eq!(fields["plan"], json!({ "here": "PRO", "stripe": "FREE" }));
        assert_eq!(fields["organizationStatus"], json!({ "here": "ACTIVE", "stripe": "SUSPENDED" }));
        assert_eq!(fields["cancelAtPeriodEnd"], json!({ "here": true, "stripe": false }));
        assert_eq!((fields.as_object().map(serde_json::Map::len), &report["fixed"]), (Some(5), &json!(0)));
        assert_eq!(report["ofNobody"].as_array().map(Vec::len), Some(2));
        assert_eq!(row(&app).await, as_row("ACTIVE", "PRO", 5), "nothing is changed");
    }
    let (code, text) = tenantry(&app.database, Some(&stripe), &["reconcile"]).await;
    assert!(
        code == 1 && text.contains("3 subscriptions at Stripe: 0 agree, 1 differ (1 repaired), 2 of nobody"),
        "{text}"
    );
    assert_eq!(row(&app).await, as_row("UNPAID", "FREE", 12));
    stripe.with(|account| account.subscriptions = vec![changed]);
    assert_eq!(json_of(&app.database, &stripe, &["reconcile"], 0).await["agree"], 1);

    // An event from before must not undo it; one from after must be taken.
    let past = format!("created={}", Clock::System.now().timestamp() - 3600);
    send(&app, "customer.subscription.updated", &[&past]).await;
    work(&app).await;
    assert_eq!(row(&app).await, as_row("UNPAID", "FREE", 12));
    send(&app, "customer.subscription.updated", &[]).await;
    work(&app).await;
    assert_eq!(row(&app).await, as_row("ACTIVE", "PRO", 10));

    // With the key of another account everything would seem gone: that is told and nothing is taken away.
    stripe.with(|account| account.subscriptions.clear());
    let report = json_of(&app.database, &stripe, &["reconcile"], 1).await;
    assert_eq!(report["notAtStripe"][0]["subscription"], format!("sub_{TAG}"));
    assert_eq!(row(&app).await, as_row("ACTIVE", "PRO", 10));
}

/// One organization's subscriptions alone, and nobody else's.
#[tokio::test]
async fn reconcile_keeps_to_an_organization() {
    let stripe = FakeStripe::start().await;
    let app = start(Some(&stripe)).await;
    let before = format!("created={}", Clock::System.now().timestamp() - 600);
    send(&app, "organization.created", &[]).await;
    send(&app, "customer.created", &[]).await;
    send(&app, "customer.subscription.created", &[&before]).await;
    work(&app).await;
    // The neighbour's row is known by its customer alone, and differs, too.
    sqlx::query(
        "update tenantry.subscriptions set stripe_customer_id = 'cus_next', stripe_subscription_id = 'sub_next', status = 'PAST_DUE'
          where organization_id = (select id from tenantry.organizations where slug = 'acme-corp')",
    )
    .execute(&mut app.database.system().await)
    .await
    .expect("a neighbour");
    let of_next = subscription(|object| {
        object["id"] = "sub_next".into();
        object["customer"] = "cus_next".into();
        object["metadata"] = json!({});
    });
    let unpaid = subscription(|object| object["status"] = "unpaid".into());
    stripe.with(|account| account.subscriptions = vec![of_next, unpaid]);
    let (slug, id): (String, uuid::Uuid) =
        sqlx::query_as("select slug, id from tenantry.organizations where clerk_org_id = 'org_' || $1")
            .bind(TAG)
            .fetch_one(&mut app.database.system().await)
            .await
            .expect("the organization");
    for name in [slug.as_str(), &format!("org_{TAG}"), &id.to_string()] {
        let report = json_of(&app.database, &stripe, &["reconcile", "--dry-run", "--org", name], 1).await;
        let differ: Vec<&Value> =
            report["differ"].as_array().expect("a list").iter().map(|row| &row["organization"]).collect();
        assert_eq!((&report["atStripe"], differ), (&json!(1), vec![&json!(slug)]), "{report}");
    }
    let both = json_of(&app.database, &stripe, &["reconcile", "--dry-run"], 1).await;
    assert_eq!(both["differ"].as_array().map(Vec::len), Some(2), "{both}");
    let report = json_of(&app.database, &stripe, &["reconcile", "--org", &slug], 0).await;
    assert_eq!((&report["fixed"], &report["notAtStripe"]), (&json!(1), &json!([])));
    assert_eq!(row(&app).await.0, "UNPAID");
    let next: String =
        sqlx::query_scalar("select status::text from tenantry.subscriptions where stripe_customer_id = 'cus_next'")
            .fetch_one(&mut app.database.system().await)
            .await
            .expect("the neighbour's");
    assert_eq!(next, "PAST_DUE", "not asked for, not touched");
    assert_eq!(tenantry(&app.database, Some(&stripe), &["reconcile", "--org", "nobody"]).await.0, 1);
    assert_eq!(tenantry(&app.database, Some(&stripe), &["reconcile", "--fix"]).await.0, 2);
}

/// What is known from after the question is not overwritten by the answer, and what is mended is mended from an answer
/// of that moment.
#[tokio::test]
async fn reconcile_takes_nothing_newer_back() {
    let stripe = FakeStripe::start().await;
    let app = start(Some(&stripe)).await;
    send(&app, "organization.created", &[]).await;
    send(&app, "customer.created", &[]).await;
    let ago = |seconds: i64| format!("created={}", Clock::System.now().timestamp() - seconds);
    send(&app, "customer.subscription.created", &[&ago(600)]).await;
    work(&app).await;
    // The list is old, the single answer is new.
    stripe.with(|account| {
        account.subscriptions = vec![subscription(|object| object["status"] = "past_due".into())];
        account.newer = vec![subscription(|object| object["status"] = "unpaid".into())];
    });
    assert_eq!(json_of(&app.database, &stripe, &["reconcile"], 0).await["fixed"], 1);
    assert_eq!(row(&app).await.0, "UNPAID");
    // An event of a moment after the question, which clocks make possible at any time.
    send(&app, "customer.subscription.updated", &[&ago(-60), "data.object.status=active"]).await;
    work(&app).await;
    let report = json_of(&app.database, &stripe, &["reconcile"], 0).await;
    assert_eq!((&report["underWay"], &report["fixed"], &report["differ"]), (&json!(1), &json!(0), &json!([])));
    assert_eq!(row(&app).await.0, "ACTIVE");
}

/// Of two answers of one second the later one counts, whatever the events are called.
#[tokio::test]
async fn sync_takes_the_later_of_two_answers_of_a_second() {
    let stripe = FakeStripe::start().await;
    let app = start(Some(&stripe)).await;
    let created = format!("created={}", Clock::System.now().timestamp());
    send(&app, "organization.created", &[]).await;
    send(&app, "customer.created", &[]).await;
    send(&app, "customer.subscription.created", &[&created]).await;
    work(&app).await;
    for (id, status, expected) in [("id=evt_zzz", "past_due", "PAST_DUE"), ("id=evt_aaa", "unpaid", "UNPAID")] {
        stripe.with(|account| account.subscriptions = vec![subscription(|object| object["status"] = status.into())]);
        send(&app, "customer.subscription.updated", &[&created, id]).await;
        work(&app).await;
        assert_eq!(row(&app).await.0, expected);
    }
    assert_eq!(stripe.with(|account| account.asked.len()), 2);
}

/// While Stripe hangs, one worker waits for it, once; the other events are applied, and the ties wait their time.
#[tokio::test]
async fn stripe_that_hangs_holds_up_nothing_else() {
    let stripe = FakeStripe::start().await;
    let app = start(Some(&stripe)).await;
    let created = format!("created={}", Clock::System.now().timestamp());
    let ids: Vec<String> = (0..4).map(|n| format!("data.object.id=sub_{n}")).collect();
    for id in &ids {
        send(&app, "customer.subscription.created", &[&created, id]).await;
    }
    work(&app).await;
    stripe.with(|account| account.hanging = true);
    for id in &ids {
        send(&app, "customer.subscription.updated", &[&created, id]).await;
    }
    let worker = Worker::new(&app.app.webhooks);
    let first = tokio::spawn({
        let worker = worker.clone();
        async move { worker.step().await }
    });
    while stripe.with(|account| account.asked.is_empty()) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    send(&app, "organization.created", &[]).await;
    assert_eq!(worker.step().await.expect("a step"), 5);
    let states = async || -> Vec<(String, i32, i64)> {
        sqlx::query_as(
            "select status::text, attempts, count(*) from tenantry.webhook_events
              where event_type in ('organization.created', 'customer.subscription.updated') group by 1, 2 order by 1",
        )
        .fetch_all(&mut app.database.system().await)
        .await
        .expect("the inbox")
    };
    assert!(!first.is_finished(), "it waits for Stripe");
    assert_eq!(states().await, [("APPLIED".to_owned(), 1, 1), ("RECEIVED".to_owned(), 0, 4)]);
    assert_eq!(first.await.expect("an end").expect("a step"), 4);
    let after_the_first = [("APPLIED".to_owned(), 1, 1), ("FAILED".to_owned(), 1, 1), ("RECEIVED".to_owned(), 0, 3)];
    assert_eq!(states().await, after_the_first, "it did not go on waiting with the next");
    sqlx::query("update tenantry.webhook_events set next_attempt_at = now() where status = 'RECEIVED'")
        .execute(&mut app.database.system().await)
        .await
        .expect("they are due");
    assert_eq!(worker.step().await.expect("a step"), 3);
    assert_eq!(states().await, [("APPLIED".to_owned(), 1, 1), ("FAILED".to_owned(), 1, 4)]);
    assert_eq!(stripe.with(|account| account.asked.len()), 1, "the first failure is enough");
}

/// An event that cannot be applied is written down as failed, and does not keep the others.
#[tokio::test]
async fn sync_lets_a_poisoned_event_fail_alone() {
    let app = start(None).await;
    sqlx::raw_sql(
        "create function poison() returns trigger language plpgsql as $$ begin raise exception 'poisoned'; end $$;
         create trigger poison before insert on tenantry.users for each row when (new.clerk_id like '%poison') execute function poison()",
    )
    .execute(&mut app.database.owner().await)
    .await
    .expect("a trigger");
    send(&app, "organization.created", &[]).await;
    send(&app, "user.created", &["data.id=user_poison"]).await;
    send(&app, "customer.created", &[]).await;
    work(&app).await;
    let inbox: Vec<(String, String, Option<String>)> = sqlx::query_as(
        "select event_type, status::text, coalesce(cause, last_error) from tenantry.webhook_events order by id",
    )
    .fetch_all(&mut app.database.system().await)
    .await
    .expect("the inbox");
    let of = |kind: &str| inbox.iter().find(|(event_type, ..)| event_type == kind).expect("the event");
    assert_eq!((of("organization.created").1.as_str(), of("customer.created").1.as_str()), ("APPLIED", "APPLIED"));
    let (_, status, error) = of("user.created");
    assert!(status == "FAILED" && error.as_ref().is_some_and(|error| error.contains("poisoned")), "{inbox:?}");
}
