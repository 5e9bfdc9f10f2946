//! Webhooks as their senders meet them: what is accepted, what is refused, and that nothing verified is lost.

mod commands;
pub mod crash;
mod platform;
mod senders;
mod worker;

use base64::Engine as _;
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};
use tenantry::app::App;
use tenantry::clock::Clock;
use tenantry::local_postgres;
use tenantry::webhook_events::WebhookSource::{self, Clerk, Stripe};
use tenantry::webhooks::signature::{Secret, sign};
use tenantry::webhooks::worker::Worker;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use crate::support::{Setup, TestApp, TestDb, cluster, metrics};

/// Signing secrets that sign nothing but this.
pub fn secret_text(name: &str) -> String {
    let key = format!("no secret at all, but {name:.<20}");
    format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(key))
}

pub fn secret(source: WebhookSource, name: &str) -> Secret {
    Secret::parse(source, &secret_text(name)).expect("a secret")
}

/// Both sources with an old and a new secret.
pub fn environment() -> Vec<(&'static str, String)> {
    let both = format!("{}, {}", secret_text("old"), secret_text("new"));
    vec![("CLERK_WEBHOOK_SECRETS", both.clone()), ("STRIPE_WEBHOOK_SECRETS", both)]
}

pub async fn start() -> TestApp {
    TestApp::start_with(Setup { environment: environment(), ..Setup::default() }).await
}

pub fn path(source: WebhookSource) -> String {
    format!("/webhooks/{}", source.label().to_lowercase())
}

/// A request with the headers of its sender.
pub fn signed(
    base_url: &str,
    source: WebhookSource,
    id: &str,
    body: impl Into<Vec<u8>>,
    secret: &Secret,
    clock: &Clock,
) -> reqwest::RequestBuilder {
    let body = body.into();
    let mut request =
        reqwest::Client::new().post(format!("{base_url}{}", path(source))).header("content-type", "application/json");
    for (name, value) in sign(source, secret, id, clock.now(), &body) {
        request = request.header(name, value);
    }
    request.body(body)
}

/// Status and code of the answer.
pub async fn answer(request: reqwest::RequestBuilder) -> (u16, String) {
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let body: Value = response.json().await.expect("JSON");
    (status, body["errors"][0]["extensions"]["code"].as_str().unwrap_or_default().to_owned())
}

pub async fn deliver(app: &TestApp, source: WebhookSource, id: &str, body: impl Into<Vec<u8>>) -> (u16, String) {
    answer(signed(&app.base_url(), source, id, body, &secret(source, "old"), &app.clock)).await
}

pub fn clerk(event_type: &str, object: &str) -> Value {
    json!({ "type": event_type, "object": "event", "timestamp": 1_700_000_000_000_i64, "instance_id": "ins_test", "data": { "id": object } })
}

pub fn stripe(id: &str, event_type: &str, object: &str) -> Value {
    json!({ "id": id, "object": "event", "type": event_type, "created": 1_700_000_000, "livemode": false, "api_version": "2025-03-31.basil",
            "pending_webhooks": 1, "request": { "id": null }, "data": { "object": { "id": object, "object": "thing" } } })
}

/// Workers over the app's database, until dropped.
pub struct Workers(watch::Sender<bool>);

pub fn start_workers(app: &App, count: usize) -> Workers {
    let (stop, stopping) = watch::channel(false);
    for _ in 0..count {
        tokio::spawn(Worker::new(&app.webhooks).run(stopping.clone()));
    }
    Workers(stop)
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// Rows of the inbox of this condition, the sample data left out.
pub async fn count(database: &TestDb, condition: &str) -> i64 {
    let sql = format!("select count(*) from tenantry.webhook_events where event_id !~ '_sample_' and ({condition})");
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut database.system().await).await.expect("a count")
}

/// Waits until no event of this condition is left.
pub async fn none_left(database: &TestDb, condition: &str) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_mins(2);
    while count(database, condition).await > 0 {
        assert!(tokio::time::Instant::now() < deadline, "events are left: {condition}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

pub const PENDING: &str = "status in ('RECEIVED', 'FAILED')";

/// A superuser's connection to another database of the same server.
async fn maintenance() -> PgConnection {
    cluster()
        .await
        .server
        .connect_options(local_postgres::SUPERUSER, "postgres")
        .connect()
        .await
        .expect("the superuser")
}

#[tokio::test]
async fn webhook_verified_is_stored_once_and_as_it_came() {
    let app = start().await;
    let body = " { \"type\" : \"user.created\",\r\n \"data\":{\"id\":\"user_1\",\"name\":\"Zoë\"}, \"timestamp\": 1700000000123 }\n";
    for _ in 0..3 {
        assert_eq!(deliver(&app, Clerk, "msg_1", body).await, (200, String::new()));
    }
    // The same id of another sender is another event.
    assert_eq!(deliver(&app, Stripe, "", stripe("msg_1", "invoice.paid", "in_1").to_string()).await.0, 200);
    let rows = sqlx::query(
        "select source::text, event_type, object_id, raw_body, status::text, (extract(epoch from event_created_at) * 1000)::bigint, organization_id
           from tenantry.webhook_events where event_id = 'msg_1' order by 1",
    )
    .fetch_all(&mut app.database.system().await)
    .await
    .expect("rows");
    assert_eq!(rows.len(), 2);
    let row = &rows[0];
    assert_eq!(
        (row.get::<&str, _>(0), row.get::<&str, _>(1), row.get::<&str, _>(2)),
        ("CLERK", "user.created", "user_1")
    );
    assert_eq!(row.get::<Vec<u8>, _>(3), body.as_bytes(), "byte for byte");
    assert_eq!((row.get::<&str, _>(4), row.get::<i64, _>(5)), ("RECEIVED", 1_700_000_000_123));
    let metrics = metrics(&app.base_url()).await;
    for line in [
        "tenantry_webhooks_received_total{source=\"clerk\",type=\"user.created\"} 1",
        "tenantry_webhooks_repeated_total{source=\"clerk\",type=\"user.created\"} 2",
        "tenantry_webhooks_verified_total{source=\"clerk\",secret=\"0\"} 3",
        "tenantry_webhooks_pending{source=\"clerk\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn webhooks_that_are_not_verified_are_refused_and_leave_nothing() {
    let app = start().await;
    let before = count(&app.database, "true").await;
    let far = |seconds| Clock::manual(app.clock.now() + chrono::Duration::seconds(seconds));
    for source in [Clerk, Stripe] {
        let url = app.base_url();
        let body = stripe("evt_bad", "invoice.paid", "in_1").to_string();
        let good = secret(source, "new");
        let make = |body: &str, secret: &Secret, clock: &Clock| signed(&url, source, "msg_bad", body, secret, clock);
        let bare = reqwest::Client::new().post(format!("{url}{}", path(source))).body(body.clone());
        let garbled = match source {
            Clerk => bare
                .try_clone()
                .expect("a copy")
                .header("svix-id", "m")
                .header("svix-timestamp", "soon")
                .header("svix-signature", "v1,"),
            Stripe => bare.try_clone().expect("a copy").header("stripe-signature", "t=soon"),
        };
        // Signed over other bytes than are sent: altered, cut, and none.
        let moved = |sent: Vec<u8>| make(&body, &good, &app.clock).body(sent);
        for (name, request, expected) in [
            ("no signature", bare, (401, "SIGNATURE_MISSING")),
            ("no signature that can be read", garbled, (401, "SIGNATURE_MALFORMED")),
            ("another secret", make(&body, &secret(source, "nobody's"), &app.clock), (401, "SIGNATURE_MISMATCH")),
            ("altered", moved(body.replace("in_1", "in_2").into()), (401, "SIGNATURE_MISMATCH")),
            ("truncated", moved(body.as_bytes()[..body.len() - 1].to_vec()), (401, "SIGNATURE_MISMATCH")),
            ("empty", moved(Vec::new()), (401, "SIGNATURE_MISMATCH")),
            ("stale", make(&body, &good, &far(-301 - 5)), (401, "SIGNATURE_TOO_OLD")),
            ("from the future", make(&body, &good, &far(301 + 5)), (401, "SIGNATURE_FROM_THE_FUTURE")),
            ("no JSON", make("id=1", &good, &app.clock), (400, "BAD_REQUEST")),
            ("half of it JSON", make("{\"id\":", &good, &app.clock), (400, "BAD_REQUEST")),
            ("a list", make("[]", &good, &app.clock), (400, "BAD_REQUEST")),
            ("null", make("null", &good, &app.clock), (400, "BAD_REQUEST")),
            ("deep lists", make(&"[".repeat(500_000), &good, &app.clock), (400, "BAD_REQUEST")),
        ] {
            let (status, code) = answer(request).await;
            assert_eq!((status, code.as_str()), expected, "{source:?}: {name}");
        }
        let latin = signed(&url, source, "msg_bad", b"{\"id\":\"\xe9\"}".as_slice(), &good, &app.clock);
        assert_eq!(answer(latin).await, (400, "BAD_REQUEST".to_owned()), "not UTF-8");
        let huge = format!("{{\"id\":\"evt_huge\",\"x\":\"{}\"}}", "x".repeat(5 << 20));
        assert_eq!(answer(make(&huge, &good, &app.clock)).await, (413, "BODY_TOO_LARGE".to_owned()), "5 MiB");
        // Without a length, in chunks.
        let chunks = futures_util::stream::iter(
            huge.as_bytes().chunks(60_000).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>(),
        );
        let chunked = make(&huge, &good, &app.clock).body(reqwest::Body::wrap_stream(chunks));
        assert_eq!(answer(chunked).await.0, 413, "5 MiB in chunks");
        let get = reqwest::Client::new().get(format!("{url}{}", path(source)));
        assert_eq!(answer(get).await, (405, "METHOD_NOT_ALLOWED".to_owned()));
    }
    // A sender that is cut off in mid-body.
    let address = app.base_url().replace("http://", "");
    let mut socket = tokio::net::TcpStream::connect(&address).await.expect("a socket");
    let head = format!("POST /webhooks/clerk HTTP/1.1\r\nhost: {address}\r\ncontent-length: 1000\r\n\r\n{{\"id\":");
    socket.write_all(head.as_bytes()).await.expect("a write");
    socket.shutdown().await.expect("an end");
    let mut answered = String::new();
    socket.read_to_string(&mut answered).await.ok();
    assert!(!answered.contains(" 200 "), "{answered}");
    assert_eq!(count(&app.database, "true").await, before, "nothing is stored");
    let metrics = metrics(&app.base_url()).await;
    assert!(
        metrics.contains("tenantry_webhooks_refused_total{source=\"stripe\",reason=\"SIGNATURE_MISMATCH\"} 4"),
        "{metrics}"
    );
    assert!(!metrics.contains("whsec"), "secrets are in no figure");
}

/// Whatever is verified and an object is stored, and a worker comes to an end with it.
#[tokio::test]
async fn webhooks_that_are_odd_are_kept() {
    let app = start().await;
    let long = "x".repeat(400);
    let wide = format!("{{\"id\":\"evt_wide\",\"type\":\"invoice.paid\",\"x\":[{}0]}}", "0,".repeat(500_000));
    let deep = format!(
        "{{\"id\":\"evt_deep\",\"type\":\"invoice.paid\",\"data\":{}1{}}}",
        "[".repeat(300_000),
        "]".repeat(300_000)
    );
    let deeper = format!(
        "{{\"id\":\"evt_deeper\",\"type\":\"invoice.paid\",\"data\":{}1{}}}",
        "{\"data\":".repeat(60_000),
        "}".repeat(60_000)
    );
    let odd = [
        "{}".to_owned(),
        "{\"type\":null,\"id\":7,\"data\":[],\"created\":\"x\"}".to_owned(),
        json!({ "id": "", "type": "", "data": { "object": { "id": "" } } }).to_string(),
        stripe("evt_unknown", "thing.happened", "thing_1").to_string(),
        stripe("evt_'quoted\"", "o'brien\";drop table tenantry.users;--", "a'b\"c\\").to_string(),
        stripe("evt_\0nul", "invoice\0.paid", "in\0_1").to_string(),
        stripe(&format!("evt_{long}"), &long, &long).to_string(),
        stripe("evt_late", "invoice.paid", "in_1").to_string().replace("1700000000", "99999999999999999999999999"),
        stripe("evt_early", "invoice.paid", "in_1").to_string().replace("1700000000", "-62135596800"),
        // The last of several wins.
        "{\"id\":\"evt_first\",\"id\":\"evt_last\",\"type\":\"invoice.paid\"}".to_owned(),
        wide,
        deep,
        deeper,
    ];
    for (at, body) in odd.iter().enumerate() {
        let (status, code) = deliver(&app, Stripe, "", body.as_str()).await;
        assert_eq!((status, code.as_str()), (200, ""), "{at}: {body:.80}");
        let (status, _) = deliver(&app, Clerk, &format!("msg_{at}"), body.as_str()).await;
        assert_eq!(status, 200, "{at}: {body:.80}");
        // Again: the same event.
        assert_eq!(deliver(&app, Stripe, "", body.as_str()).await.0, 200);
    }
    // An id that no column takes in full; the signature covers it as it is.
    for id in ["m".repeat(2000).as_str(), "msg_'\"\\"] {
        assert_eq!(deliver(&app, Clerk, id, clerk("user.created", "user_1").to_string()).await.0, 200);
    }
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "nonsense"] {
        let id = format!("msg_type_{}", content_type.len());
        let body = clerk("user.updated", "user_1").to_string();
        let request = signed(&app.base_url(), Clerk, &id, body, &secret(Clerk, "old"), &app.clock);
        assert_eq!(answer(request.header("content-type", content_type)).await.0, 200, "{content_type}");
    }
    let count_of = |source: &'static str| count(&app.database, source);
    assert_eq!(count_of("source = 'STRIPE'").await, i64::try_from(odd.len()).expect("few"));
    assert_eq!(count_of("source = 'CLERK'").await, i64::try_from(odd.len()).expect("few") + 2 + 3);
    let workers = start_workers(&app.app, 2);
    none_left(&app.database, "status = 'RECEIVED'").await;
    drop(workers);
    assert_eq!(count(&app.database, "event_type = '(none)' and status <> 'IGNORED'").await, 0);
    assert_eq!(count(&app.database, "event_type = 'thing.happened' and status <> 'IGNORED'").await, 0);
}

#[tokio::test]
async fn webhook_secret_rolls_without_a_lost_delivery() {
    let app = start().await;
    for (id, name, status) in [("msg_a", "old", 200), ("msg_b", "new", 200), ("msg_c", "older", 401)] {
        let body = clerk("user.created", "user_1").to_string();
        let request = signed(&app.base_url(), Clerk, id, body, &secret(Clerk, name), &app.clock);
        assert_eq!(answer(request).await.0, status, "{name}");
    }
    // While it rolls, a sender signs with both.
    let body = clerk("user.created", "user_1").to_string();
    let [new, unknown] = ["new", "older"].map(|name| {
        let headers = sign(Clerk, &secret(Clerk, name), "msg_d", app.clock.now(), body.as_bytes());
        headers.into_iter().find(|(name, _)| *name == "svix-signature").expect("a signature").1
    });
    let both = signed(&app.base_url(), Clerk, "msg_d", body.clone(), &secret(Clerk, "older"), &app.clock);
    let (client, both) = both.build_split();
    let mut both = both.expect("a request");
    both.headers_mut().insert("svix-signature", format!("v2,x {unknown} {new}").parse().expect("a header"));
    assert_eq!(client.execute(both).await.expect("an answer").status(), 200);
    let metrics = metrics(&app.base_url()).await;
    assert!(metrics.contains("tenantry_webhooks_verified_total{source=\"clerk\",secret=\"1\"} 2"), "{metrics}");
}

#[tokio::test]
async fn webhooks_without_a_secret_are_answered_with_the_variable() {
    let app = TestApp::start().await;
    for (source, variable) in [(Clerk, "CLERK_WEBHOOK_SECRETS"), (Stripe, "STRIPE_WEBHOOK_SECRETS")] {
        let request = signed(&app.base_url(), source, "msg_1", "{}", &secret(source, "old"), &app.clock);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
        let text = response.text().await.expect("text");
        assert!(text.contains("WEBHOOKS_NOT_CONFIGURED") && text.contains(variable), "{text}");
    }
}

#[tokio::test]
async fn webhooks_of_others_are_recorded_and_not_applied() {
    let mut environment = environment();
    environment.extend([("STRIPE_ACCOUNT", "acct_ours".to_owned()), ("CLERK_INSTANCE", "ins_ours".to_owned())]);
    let app = TestApp::start_with(Setup { environment, ..Setup::default() }).await;
    let with_account = |id: &str, account: Value| {
        let mut event = stripe(id, "customer.subscription.updated", "sub_1");
        event["account"] = account;
        event.to_string()
    };
    assert_eq!(deliver(&app, Stripe, "", with_account("evt_theirs", json!("acct_theirs"))).await.0, 200);
    assert_eq!(deliver(&app, Stripe, "", with_account("evt_ours", json!("acct_ours"))).await.0, 200);
    assert_eq!(deliver(&app, Stripe, "", with_account("evt_own", Value::Null)).await.0, 200);
    assert_eq!(deliver(&app, Clerk, "msg_theirs", clerk("user.created", "user_1").to_string()).await.0, 200);
    let ours = clerk("user.created", "user_1").to_string().replace("ins_test", "ins_ours");
    assert_eq!(deliver(&app, Clerk, "msg_ours", ours).await.0, 200);
    let workers = start_workers(&app.app, 1);
    none_left(&app.database, "status = 'RECEIVED'").await;
    drop(workers);
    let refused: Vec<(String, String)> = sqlx::query_as(
        "select event_id, last_error from tenantry.webhook_events where status = 'IGNORED' and last_error like 'of another%' order by 1",
    )
    .fetch_all(&mut app.database.system().await)
    .await
    .expect("rows");
    assert_eq!(
        refused,
        [
            ("evt_theirs".to_owned(), "of another Stripe account".to_owned()),
            ("msg_theirs".to_owned(), "of another Clerk instance".to_owned())
        ]
    );
}

/// `/metrics` has a port of its own where the API's is open to everybody, and asking often asks the database once.
#[tokio::test]
async fn webhook_metrics_are_kept_apart_and_asked_for_once() {
    let mut environment = environment();
    environment.push(("METRICS_PORT", "0".to_owned()));
    let app =
        TestApp::start_with(Setup { environment, clock: Clock::manual(Clock::System.now()), ..Setup::default() }).await;
    assert!(metrics(&app.base_url()).await.contains("NOT_FOUND"), "not on the port of the API");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/metrics", listener.local_addr().expect("an address"));
    let (stop, stopping) = watch::channel(false);
    let (router, listening) =
        (tenantry::http::metrics_router(&app.app.edge), std::sync::Arc::clone(&app.app.edge.listening));
    tokio::spawn(tenantry::http::listener::serve(listener, router, listening, stopping));
    let pending = async || {
        let text = reqwest::get(&url).await.expect("an answer").text().await.expect("text");
        text.lines().find(|line| line.starts_with("tenantry_webhooks_pending{source=\"clerk\"}")).map(str::to_owned)
    };
    let before = pending().await.expect("a figure");
    assert_eq!(deliver(&app, Clerk, "msg_1", clerk("thing.happened", "x").to_string()).await.0, 200);
    assert_eq!(pending().await.as_ref(), Some(&before), "the clock stands still");
    app.clock.advance(chrono::Duration::seconds(5));
    assert_ne!(pending().await, Some(before));
    drop(stop);
}

/// Who is connected to the endpoint's account writes metadata as they like: without being named they have no say.
#[tokio::test]
async fn webhooks_of_connected_accounts_are_ignored_unless_named() {
    let app = start().await;
    for (id, account) in [("evt_connected", json!("acct_theirs")), ("evt_own", Value::Null)] {
        let mut event = stripe(id, "customer.subscription.updated", "sub_1");
        event["account"] = account;
        assert_eq!(deliver(&app, Stripe, "", event.to_string()).await.0, 200);
    }
    let workers = start_workers(&app.app, 1);
    none_left(&app.database, "status = 'RECEIVED'").await;
    drop(workers);
    let ignored =
        "event_id = 'evt_connected' and status = 'IGNORED' and last_error like 'of a connected Stripe account%'";
    assert_eq!(count(&app.database, ignored).await, 1);
    assert_eq!(count(&app.database, "event_id = 'evt_own' and last_error like 'of a%'").await, 0);
}

/// The database goes away: 503, and nothing is acknowledged that is not kept. It comes back: no restart is needed.
#[tokio::test]
async fn webhook_senders_are_asked_to_repeat_while_the_database_is_away() {
    let app = start().await;
    let workers = start_workers(&app.app, 1);
    assert_eq!(deliver(&app, Clerk, "msg_before", clerk("user.created", "user_1").to_string()).await.0, 200);
    let name = &app.database.name;
    let mut superuser = maintenance().await;
    let mut set = async |allowed: bool| {
        let statements = [
            format!("alter database {name} allow_connections {allowed}"),
            format!(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}' and not {allowed}"
            ),
        ];
        for statement in statements {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut superuser).await.expect("a statement");
        }
    };
    set(false).await;
    for id in ["msg_away_1", "msg_away_2"] {
        let body = clerk("user.created", "user_1").to_string();
        let response = signed(&app.base_url(), Clerk, id, body, &secret(Clerk, "old"), &app.clock)
            .send()
            .await
            .expect("an answer");
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
        assert!(response.text().await.expect("text").contains("UNAVAILABLE"));
    }
    set(true).await;
    for id in ["msg_away_1", "msg_away_2", "msg_after"] {
        assert_eq!(deliver(&app, Clerk, id, clerk("user.created", "user_1").to_string()).await.0, 200, "{id}");
    }
    none_left(&app.database, "status = 'RECEIVED'").await;
    drop(workers);
    assert_eq!(count(&app.database, "event_id in ('msg_before', 'msg_away_1', 'msg_away_2', 'msg_after')").await, 4);
}
