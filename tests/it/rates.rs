//! What operations cost, budgets by plan, and that nobody takes another's: neither points nor connections.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};
use tenantry::auth::api_key::ApiKeySecret;
use tenantry::clock::Clock;
use tenantry::id::OrganizationId;
use tenantry::plans::{OrganizationPlan, Plans};
use tenantry::rates::{Payer, Rates};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{Setup, TestApp, TestDb};

/// Acme is on PRO: its credentials have 2,000 points each, 100 of them come back in a second.
const PLANS: &str = "[FREE]\n[STARTER]\n[PRO]\napi_cost_per_minute = 12_000\napi_burst = 4_000\n[ENTERPRISE]\n";
/// Costs 2 + 3 × size.
const LIST: &str = "query($size: Int = 100) { organization { tickets(first: $size) { nodes { id subject } } } }";

fn list_of(cost: u64) -> Value {
    assert_eq!((cost - 2) % 3, 0, "a list costs 2 + 3 × size");
    json!({ "query": LIST, "variables": { "size": (cost - 2) / 3 } })
}

async fn start() -> TestApp {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("plans-{}.toml", uuid::Uuid::new_v4()));
    std::fs::write(&file, PLANS).expect("a file");
    let environment = vec![("PLANS_FILE", file.display().to_string())];
    let app =
        TestApp::start_with(Setup { environment, clock: Clock::manual(Clock::System.now()), ..Setup::default() }).await;
    std::fs::remove_file(&file).expect("it was read");
    // The plans of organizations are known.
    app.app.flags.loaded_snapshot().await.expect("a snapshot");
    app
}

fn request(app: &TestApp, token: &str, body: &Value) -> reqwest::RequestBuilder {
    let request = app.client().post(format!("{}/graphql", app.base_url())).bearer_auth(token);
    request.header("accept", "application/graphql-response+json").json(body)
}

struct Answer {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    fn code(&self) -> &str {
        self.body["errors"][0]["extensions"]["code"].as_str().unwrap_or_default()
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("a response");
    let (status, headers) = (response.status(), response.headers().clone());
    Answer { status, headers, body: response.json().await.expect("JSON") }
}

async fn spend(app: &TestApp, token: &str, cost: u64) -> Answer {
    answer(request(app, token, &list_of(cost))).await
}

/// What is left to a credential of Acme and to Acme, less what asking costs.
async fn left(app: &TestApp, token: &str) -> String {
    let asked = answer(request(app, token, &list_of(2)).header("graphql-cost", "1")).await;
    asked.header("ratelimit").unwrap_or_else(|| panic!("a limit: {}", asked.body)).to_owned()
}

#[tokio::test]
async fn operations_are_paid_for_from_the_budget_of_the_plan() {
    let app = start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let carol = app.token("carol@example.com", Some("acme-corp")).await;

    // What it costs is said to who asks.
    let shown = answer(request(&app, &alice, &list_of(302)).header("graphql-cost", "1")).await;
    let throttle = json!({ "maximumAvailable": 2000, "currentlyAvailable": 1698, "restoreRate": 100 });
    let cost = json!({ "requestedQueryCost": 302, "actualQueryCost": 302, "throttleStatus": throttle });
    assert_eq!((shown.status, &shown.body["extensions"]["cost"]), (StatusCode::OK, &cost), "{}", shown.body);
    assert_eq!(shown.header("ratelimit-policy"), Some(r#""credential";q=2000;w=20, "organization";q=4000;w=20"#));
    assert_eq!(shown.header("ratelimit"), Some(r#""credential";r=1698, "organization";r=3698"#));
    // A size that hides in the default of a variable counts.
    let hidden = answer(request(&app, &alice, &json!({ "query": LIST })).header("graphql-cost", "1")).await;
    assert_eq!(hidden.body["extensions"]["cost"]["requestedQueryCost"], 302);
    let plain = spend(&app, &alice, 302).await;
    assert_eq!((plain.body.get("extensions"), plain.header("ratelimit")), (None, None), "and to nobody else");

    // More than there ever is: waiting is no help.
    let large = json!({ "query": "{ organization { tickets { nodes { comments: messages { nodes { id body createdAt } } } } } }" });
    let large = answer(request(&app, &alice, &large)).await;
    assert_eq!((large.status, large.code()), (StatusCode::BAD_REQUEST, "QUERY_TOO_EXPENSIVE"), "{}", large.body);
    assert_eq!(large.header("retry-after"), None);

    // 1094 are left: 302 more than that come back in four seconds.
    assert_eq!(spend(&app, &alice, 302).await.status, StatusCode::OK);
    assert_eq!(spend(&app, &alice, 302).await.status, StatusCode::OK);
    assert_eq!(spend(&app, &alice, 302).await.status, StatusCode::OK);
    let refused = spend(&app, &alice, 302).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"));
    assert_eq!(
        (refused.header("retry-after"), &refused.body["errors"][0]["extensions"]["retryAfter"]),
        (Some("2"), &json!(2))
    );
    assert_eq!(refused.header("ratelimit"), Some(r#""credential";r=188, "organization";r=2188"#));
    for (what, answer) in [("WebSocket", over_socket(&app, &alice).await), ("SSE", over_stream(&app, &alice).await)] {
        assert_eq!(answer["extensions"]["code"], "RATE_LIMITED", "{what}: {answer}");
        assert_eq!(answer["extensions"]["retryAfter"], 2, "{what}");
    }

    // Others of the organization have theirs, as long as the organization has.
    assert_eq!(left(&app, &carol).await, r#""credential";r=1998, "organization";r=2186"#);
    app.clock.advance(TimeDelta::seconds(1));
    assert_eq!(spend(&app, &alice, 302).await.code(), "RATE_LIMITED", "not before it said");
    app.clock.advance(TimeDelta::seconds(1));
    assert_eq!(spend(&app, &alice, 302).await.status, StatusCode::OK);

    let text = app.client().get(format!("{}/metrics", app.base_url())).send().await.expect("metrics");
    let text = text.text().await.expect("text");
    for line in [
        "tenantry_api_refusals_total{reason=\"credential\"} 4\n",
        "tenantry_api_refusals_total{reason=\"too_expensive\"} 1\n",
        "tenantry_api_budgets 3\n",
        "tenantry_database_waiting{pool=\"read\"} 0\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
}

/// The error of an operation over the WebSocket.
async fn over_socket(app: &TestApp, token: &str) -> Value {
    let mut request = app.ws_url().into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().expect("a header"));
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.expect("a socket");
    let payload = json!({ "authorization": format!("Bearer {token}") });
    let said = [
        json!({ "type": "connection_init", "payload": payload }),
        json!({ "type": "subscribe", "id": "1", "payload": list_of(302) }),
    ];
    for message in said {
        socket.send(Message::text(message.to_string())).await.expect("the server listens");
    }
    while let Some(Ok(Message::Text(text))) = socket.next().await {
        let message: Value = serde_json::from_str(&text).expect("JSON");
        if message["type"] != "connection_ack" {
            assert_eq!((&message["type"], &message["id"]), (&json!("error"), &json!("1")), "{message}");
            return message["payload"][0].clone();
        }
    }
    panic!("the socket ended");
}

/// The error of an operation over server-sent events.
async fn over_stream(app: &TestApp, token: &str) -> Value {
    let body = list_of(302);
    let events = app.follow(token, LIST, body["variables"].clone()).await.text().await.expect("events");
    let data = events.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_else(|| panic!("data: {events}"));
    serde_json::from_str::<Value>(data).expect("JSON")["errors"][0].clone()
}

#[tokio::test]
async fn strangers_spend_nothing_of_an_organization_that_they_name() {
    let app = start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    assert_eq!(spend(&app, &alice, 302).await.status, StatusCode::OK);
    // A member of another organization, whose token is good, and keys that nobody has.
    let grace = app.token("grace@example.com", None).await;
    for _ in 0..6 {
        for name in ["acme-corp", "org_acme"] {
            let named = request(&app, &grace, &list_of(302)).header("x-organization-id", name);
            assert_eq!(answer(named).await.code(), "ORGANIZATION_NOT_FOUND");
        }
        let key = ApiKeySecret::default();
        let named = request(&app, key.text(), &list_of(302)).header("x-organization-id", "acme-corp");
        assert_eq!(answer(named).await.code(), "INVALID_API_KEY");
    }
    assert_eq!(left(&app, &alice).await, r#""credential";r=1696, "organization";r=3696"#);
    // Alice, Acme and Grace have budgets; made-up keys have none.
    assert_eq!(app.app.edge.rates.len(), 3);
    // Whoever is removed takes nothing that lasts.
    let bob = app.token("bob@example.com", Some("acme-corp")).await;
    assert_eq!(spend(&app, &bob, 302).await.status, StatusCode::OK);
    app.sql("update tenantry.organization_members set deleted_at = now() where role = 'VIEWER'").await;
    assert_eq!(spend(&app, &bob, 302).await.code(), "ORGANIZATION_NOT_FOUND");
    assert_eq!(left(&app, &alice).await, r#""credential";r=1694, "organization";r=3392"#);
}

#[tokio::test]
async fn instances_tell_each_other_what_was_spent_and_go_on_alone_without_the_database() {
    let database = TestDb::seeded().await;
    let id = sqlx::query_scalar("select id from tenantry.organizations where slug = 'acme-corp'");
    let acme = OrganizationId::from_uuid(id.fetch_one(&mut database.system().await).await.expect("Acme"));
    let clock = Clock::manual(Clock::System.now());
    // So little comes back that the time of the test does not matter.
    let plans = "[FREE]\n[STARTER]\n[PRO]\napi_cost_per_minute = 1_000\napi_burst = 1_000_000\n[ENTERPRISE]\n";
    let plans = Arc::new(Plans::parse(plans).expect("plans"));
    let [one, other] = [(); 2].map(|()| Rates::new(0, Arc::clone(&plans), clock.clone()));
    let plan = |_| Some(OrganizationPlan::Pro);
    let payer = Payer { credential: Some(1), is_proven: true, account: Some(2) };
    let spend = |rates: &Rates, cost: u64| {
        let mut charged = rates.take(payer, cost, &plan).expect("there is enough");
        rates.settle(&mut charged, Some(acme), false, &plan);
        rates.standing(&charged, &plan).organization.expect("a budget").available
    };
    let about = |found: u64, expected: u64| assert!(found.abs_diff(expected) < 5_000, "{found}, not {expected}");

    assert_eq!((spend(&one, 100_000), spend(&other, 1)), (900_000, 999_999), "as long as nobody has told");
    let db = database.db();
    assert_eq!(one.share(&db).await.expect("a database"), 1);
    assert_eq!(other.share(&db).await.expect("a database"), 1);
    about(spend(&other, 200_000), 700_000);
    assert_eq!(other.share(&db).await.expect("a database"), 1);
    // One learns of it with what it spends next; nothing spent, nothing asked.
    spend(&one, 1);
    assert_eq!(one.share(&db).await.expect("a database"), 1);
    about(spend(&one, 0), 700_000);
    assert_eq!(one.share(&db).await.expect("no database is needed"), 0);
    db.close().await;
    spend(&one, 100_000);
    assert!(one.share(&db).await.is_err());
    about(spend(&one, 100_000), 500_000);
    // What could not be told is told when it is back.
    let db = database.db();
    one.share(&db).await.expect("a database");
    spend(&other, 1);
    other.share(&db).await.expect("a database");
    about(spend(&other, 0), 500_000);
    // What comes back while the database is away is not owed afterwards.
    db.close().await;
    spend(&one, 1_000);
    clock.advance(TimeDelta::days(7));
    assert!(one.share(&db).await.is_err());
    assert_eq!(one.share(&db).await.expect("nothing is left to tell"), 0);
    // The application's role reads its own row and changes none.
    let refused = database.app().await.execute("update tenantry.api_spending set full_at = now()").await;
    assert!(refused.is_err());
}

/// An organization whose statements hang leaves the others a connection, however many it sends.
#[tokio::test]
async fn a_noisy_organization_does_not_keep_others_waiting() {
    let app = TestApp::start().await;
    let noisy = app.token("alice@example.com", Some("acme-corp")).await;
    let quiet = app.token("bob@example.com", Some("tech-startup")).await;
    for token in [&noisy, &quiet] {
        app.data(token, "{ organization { id } }", json!({})).await;
    }
    let mut owner = database_lock(&app).await;
    let sending = futures_util::future::join_all((0..40).map(|_| request(&app, &noisy, &list_of(5)).send()));
    let asking = async {
        while waiting(&app) < 30 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Neither behind those that hold connections nor behind those that wait.
        for _ in 0..3 {
            app.data(&quiet, "{ organization { id name } viewer { user { id } } }", json!({})).await;
        }
        let waiting = waiting(&app);
        sqlx::raw_sql("rollback").execute(&mut owner).await.expect("a rollback");
        owner.close().await.expect("close");
        waiting
    };
    let (answers, waiting) = tokio::time::timeout(Duration::from_mins(1), async { tokio::join!(sending, asking) })
        .await
        .expect("nobody waits for ever");
    assert!(waiting >= 30, "{waiting}: the noisy one still waited");
    for answer in answers {
        let body: Value = answer.expect("an answer").json().await.expect("JSON");
        // On a slow machine the lock may be there for longer than a statement may wait.
        assert!(body["data"]["organization"]["tickets"].is_object() || body["errors"].is_array(), "{body}");
    }
}

/// Lets no statement read tickets until the connection ends.
async fn database_lock(app: &TestApp) -> sqlx::PgConnection {
    let mut owner = app.database.owner().await;
    sqlx::raw_sql("begin; lock table tenantry.tickets in access exclusive mode")
        .execute(&mut owner)
        .await
        .expect("a lock");
    owner
}

/// How many wait for a connection that reads.
fn waiting(app: &TestApp) -> u32 {
    let [read, ..] = app.app.services.db.usage();
    read.waits.map_or(0, tenantry::db::Waits::waiting)
}
