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
use tenantry::db::Lane;
use tenantry::graphql::{Credentials, Session};
use tenantry::id::OrganizationId;
use tenantry::plans::{OrganizationPlan, Plans};
use tenantry::rates::{Payer, Rates};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{Setup, TestApp, TestDb, hear, metrics, sign};

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

    let text = metrics(&app.base_url()).await;
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

/// What is left to a credential and to its organization.
async fn points(app: &TestApp, token: &str) -> [i64; 2] {
    let left = left(app, token).await;
    let mut points = left.split("r=").skip(1).map(|text| {
        let digits = text.split_once(',').map_or(text, |(digits, _)| digits);
        digits.parse().unwrap_or_else(|_| panic!("a number: {left}"))
    });
    std::array::from_fn(|_| points.next().expect("both budgets"))
}

/// Every kind of operation is charged, to the person or the program and to the organization; events are not.
#[tokio::test]
async fn mutations_subscriptions_other_tokens_and_keys_pay_too() {
    let app = start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let carol = app.token("carol@example.com", Some("acme-corp")).await;
    let create = "mutation { ticketCreate(input: { subject: \"x\" }) { ticket { id } userErrors { code } } }";
    assert_eq!(spend(&app, &alice, 2).await.status, StatusCode::OK);
    let before = points(&app, &alice).await;
    let created = answer(request(&app, &alice, &json!({ "query": create })).header("graphql-cost", "1")).await;
    let cost = created.body["extensions"]["cost"]["requestedQueryCost"].as_i64().expect("a cost");
    assert!(cost > 0, "{}", created.body);
    let after = points(&app, &alice).await;
    assert_eq!(after, before.map(|points| points - cost - 2));

    let followed = app.follow(&alice, "subscription { ticketChanged { ticket { id } } }", json!({})).await;
    app.subscribed(1).await;
    let begun = points(&app, &alice).await;
    assert!(begun[0] < after[0] - 2 && begun[1] < after[1] - 2, "{begun:?} after {after:?}");
    app.data(&carol, create, json!({})).await;
    hear(followed, &["ticketChanged"]).await;
    assert_eq!(points(&app, &alice).await[0], begun[0] - 2, "events cost nothing");

    // Another token of the same person brings nothing new.
    let organization: String =
        sqlx::query_scalar("select clerk_org_id from tenantry.organizations where slug = 'acme-corp'")
            .fetch_one(&mut app.database.system().await)
            .await
            .expect("Acme");
    let claims = json!({ "iss": "tenantry-development", "sub": "user_alice", "sid": "another", "v": 2, "o": { "id": organization } });
    let other = sign(&json!({ "alg": "EdDSA", "typ": "JWT" }), &claims, &app.clock);
    let [own, all] = points(&app, &alice).await;
    assert_eq!(points(&app, &other).await, [own - 2, all - 2]);

    // A key has a budget of its own, which is its organization's, too.
    let input = json!({ "name": "a", "scopes": ["ORGANIZATION_READ"] });
    let key = app.done(&alice, "apiKeyCreate", "secret", input).await["secret"].as_str().expect("a key").to_owned();
    let [_, all] = points(&app, &alice).await;
    assert_eq!(spend(&app, &key, 302).await.status, StatusCode::OK);
    assert_eq!(points(&app, &key).await, [1696, all - 304]);
    for _ in 0..5 {
        assert_eq!(spend(&app, &key, 302).await.status, StatusCode::OK);
    }
    let refused = spend(&app, &key, 302).await;
    assert_eq!((refused.status, refused.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, Some("2")));
}

/// Who asks with this token, for this organization.
async fn session(app: &TestApp, token: &str, organization: Option<&str>) -> Arc<Session> {
    let authorization = format!("Bearer {token}");
    let ip = "192.0.2.1".parse().ok();
    let credentials = Credentials { authorization: Some(&authorization), organization, request_id: "test", ip };
    Session::open(&app.app.services, credentials).await.expect("a session")
}

/// Where requests wait, and whose budget they spend, depends on who was let in, never on what they name.
#[tokio::test]
async fn lanes_and_accounts_are_those_of_whoever_was_let_in() {
    let app = start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let (grace, bare) = (app.token("grace@example.com", None).await, app.token("alice@example.com", None).await);
    let named = |token: &str| request(&app, token, &list_of(2)).header("x-organization-id", "acme-corp");
    assert_eq!(spend(&app, &alice, 2).await.status, StatusCode::OK);
    assert_eq!(answer(named(&bare)).await.status, StatusCode::OK);
    let key = ApiKeySecret::default();
    let known = |session: &Session| app.app.edge.rates.known(&session.payer());
    let open = async |token: &str| session(&app, token, Some("acme-corp")).await;
    let (member, stranger, program) = (open(&bare).await, open(&grace).await, open(key.text()).await);
    let acme = known(&member).expect("alice was let in");
    assert_eq!((known(&stranger), known(&program)), (None, None));
    assert_eq!(member.stand(Some(acme), false), Lane::Organization(acme.uuid()));
    assert_eq!(member.stand(Some(acme), true), Lane::Streams(acme.uuid().as_u128()));
    assert!(matches!(stranger.stand(None, false), Lane::Person(_)));
    assert!(matches!(stranger.stand(None, true), Lane::Streams(person) if person != acme.uuid().as_u128()));
    assert_eq!(program.stand(None, false), Lane::address("192.0.2.1".parse().ok()));
    // Whoever hangs up was let in all the same, and pays.
    let carol = app.token("carol@example.com", Some("acme-corp")).await;
    let carols = session(&app, &carol, None).await;
    let owner = database_lock(&app).await;
    let mut patience = Duration::from_millis(300);
    while known(&carols) != Some(acme) {
        assert!(patience < Duration::from_mins(1), "it is known that she was let in");
        assert!(request(&app, &carol, &list_of(2)).timeout(patience).send().await.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
        patience *= 2;
    }
    owner.close().await.expect("close");
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
    let [one, other] = [(); 2].map(|()| Arc::new(Rates::new(0, Arc::clone(&plans), clock.clone())));
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
    // A server does this by itself. The database owes what was told above, and forgives nothing of it here.
    let (_stop, stopping) = watch::channel(false);
    for rates in [&one, &other] {
        tokio::spawn(Arc::clone(rates).keep_sharing(database.db(), stopping.clone()));
    }
    spend(&one, 300_000);
    let mut rounds = 0..300;
    while spend(&other, 1) > 400_000 {
        rounds.next().expect("the other instance hears of it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
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

/// Behind so many that wait another one is sent away, and only of that organization.
#[tokio::test]
async fn whoever_has_too_many_waiting_is_told_to_come_back() {
    let app = TestApp::start().await;
    let noisy = app.token("alice@example.com", Some("acme-corp")).await;
    let quiet = app.token("bob@example.com", Some("tech-startup")).await;
    for token in [&noisy, &quiet] {
        app.data(token, "{ organization { id } }", json!({})).await;
    }
    let open = async || {
        let session = session(&app, &noisy, None).await;
        session.stand(app.app.edge.rates.known(&session.payer()), false);
        session
    };
    let [read, ..] = app.app.services.db.usage();
    let mut held = Vec::new();
    for _ in 1..read.limit {
        let session = open().await;
        session.read().await.expect("all connections but one are a lane's");
        held.push(session);
    }
    let mut waits = JoinSet::new();
    for _ in 0..512 {
        let session = open().await;
        waits.spawn(async move { session.read().await.map(drop) });
    }
    let mut rounds = 0..1_000;
    while waiting(&app) < 512 {
        rounds.next().expect("all of them wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = spend(&app, &noisy, 5).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"), "{}", refused.body);
    assert_eq!(refused.header("retry-after"), Some("1"));
    app.data(&quiet, "{ organization { id name } }", json!({})).await;
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
