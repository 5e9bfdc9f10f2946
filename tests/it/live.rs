//! Subscriptions as clients see them: over sockets, streams of events and reserved streams; who comes back, and who loses access.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tenantry::webhook_events::WebhookSource::Clerk;
use tenantry::webhooks::worker::Worker;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::packages::{npm, skipped, text};
use crate::support::{Setup, TestApp, sign};
use crate::webhooks::{deliver, environment};

const PACKAGES: [&str; 4] = ["graphql-ws@6.4.2", "graphql-sse@2.6.1", "ws@8.23.0", "graphql@16.15.0"];
const CHANGED: &str = "subscription { ticketChanged { ticket { subject } } }";
const PATIENCE: Duration = Duration::from_mins(1);

/// An event of a stream.
#[derive(Debug, Default, PartialEq)]
struct Event {
    id: Option<String>,
    kind: String,
    data: Value,
}

/// A stream of server-sent events, read as browsers do (HTML, section 9.2.6).
struct Stream {
    response: Response,
    text: String,
}

impl Stream {
    /// The next block of lines that says something. Comments, which keep the connection, are no sign that it comes.
    async fn next(&mut self) -> Option<Event> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    block.lines().find_map(|line| line.strip_prefix(name).map(|value| value.trim_start().to_owned()))
                };
                let data = field("data:").and_then(|data| serde_json::from_str(&data).ok()).unwrap_or_default();
                let event = Event { id: field("id:"), kind: field("event:").unwrap_or_default(), data };
                let rest = rest.to_owned();
                self.text = rest;
                if event != Event::default() {
                    return Some(event);
                }
            }
            let chunk = tokio::time::timeout_at(deadline, self.response.chunk()).await.expect("something is said");
            self.text += &String::from_utf8_lossy(&chunk.ok()??);
        }
    }

    /// The next answer.
    async fn answer(&mut self) -> Event {
        let answer = async {
            loop {
                let event = self.next().await.expect("more");
                if event.kind == "next" {
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, answer).await.expect("an answer")
    }

    /// The subject of the ticket that is told of next, and the id of that event.
    async fn ticket(&mut self) -> (String, String) {
        let event = self.answer().await;
        let subject = event.data["data"]["ticketChanged"]["ticket"]["subject"].as_str().expect("a ticket");
        let id = event.id.expect("an id");
        assert_eq!(event.data["extensions"]["eventId"], id);
        (subject.to_owned(), id)
    }
}

async fn follow(app: &TestApp, token: &str, query: &str, last: Option<&str>) -> Stream {
    let mut request = app.client().post(format!("{}/graphql", app.base_url())).bearer_auth(token);
    request = request.header("Accept", "text/event-stream").json(&json!({ "query": query }));
    if let Some(last) = last {
        request = request.header("Last-Event-ID", last);
    }
    Stream { response: request.send().await.expect("a stream"), text: String::new() }
}

async fn write(app: &TestApp, token: &str, subject: &str) {
    app.done(token, "ticketCreate", "ticket { id }", json!({ "subject": subject })).await;
}

#[tokio::test]
async fn live_streams_are_taken_up_where_they_were_left() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let mut stream = follow(&app, &alice, CHANGED, None).await;
    // Before anything has happened, too.
    let begun = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.expect("not with the next refresh");
    let begun = begun.expect("the beginning");
    let begun = (begun.kind.is_empty() && begun.data.is_null()).then_some(begun.id).flatten().expect("an id alone");
    drop(stream);
    for subject in ["a", "b", "c"] {
        write(&app, &alice, subject).await;
    }
    let mut stream = follow(&app, &alice, CHANGED, Some(&begun)).await;
    let mut ids = Vec::new();
    for subject in ["a", "b", "c"] {
        let (heard, id) = stream.ticket().await;
        assert_eq!(heard, subject);
        ids.push(id);
    }
    write(&app, &alice, "d").await;
    assert_eq!(stream.ticket().await.0, "d");
    let mut again = follow(&app, &alice, CHANGED, Some(&ids[1])).await;
    assert_eq!([again.ticket().await.0, again.ticket().await.0], ["c", "d"]);

    // Over a socket the request itself says it.
    let mut socket = socket(&app, &alice).await;
    let payload = json!({ "query": CHANGED, "extensions": { "lastEventId": ids[2] } });
    let subscribe = json!({ "id": "1", "type": "subscribe", "payload": payload });
    socket.send(Message::text(subscribe.to_string())).await.expect("sent");
    let heard = said(&mut socket).await.expect("an event");
    assert_eq!(heard["payload"]["data"]["ticketChanged"]["ticket"]["subject"], "d");
    assert_ne!(heard["payload"]["extensions"]["eventId"], json!(ids[2]));

    // And over a reserved stream.
    let reserved = reserve(&app, &alice).await;
    let response = ask(&app, Method::GET, Some(&alice), &reserved, "", None).await;
    let payload = json!({ "query": CHANGED, "extensions": { "operationId": "1", "lastEventId": ids[2] } });
    assert_eq!(
        ask(&app, Method::POST, Some(&alice), &reserved, "", Some(payload)).await.status(),
        StatusCode::ACCEPTED
    );
    let heard = Stream { response, text: String::new() }.next().await.expect("an event");
    assert_eq!(heard.data["payload"]["data"]["ticketChanged"]["ticket"]["subject"], "d");

    let code = async |last: &str| {
        let event = follow(&app, &alice, CHANGED, Some(last)).await.next().await.expect("an event");
        event.data["errors"][0]["extensions"]["code"].clone()
    };
    assert_eq!(code("nonsense").await, "INVALID_ARGUMENT");
    app.sql("delete from tenantry.event_log").await;
    assert_eq!(code(&ids[2]).await, "EVENTS_MISSED");
}

/// What is told while the row cannot be read waits until it can be.
#[tokio::test]
async fn live_events_wait_for_the_database() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let mut stream = follow(&app, &alice, CHANGED, None).await;
    app.subscribed(1).await;
    write(&app, &alice, "once").await;
    assert_eq!(stream.ticket().await.0, "once");
    let mut owner = app.database.owner().await;
    let lock = "begin; lock table tenantry.tickets in access exclusive mode";
    sqlx::raw_sql(lock).execute(&mut owner).await.expect("a lock");
    app.sql(
        "insert into tenantry.event_log (organization_id, topic, row_id) select organization_id, topic, row_id from tenantry.event_log where topic = 'Ticket';
         select pg_notify('tenantry_events', id::text) from tenantry.organizations",
    )
    .await;
    // Whoever reads is cut off, and so are those who try again at once.
    let end = "select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and application_name = 'tenantry-api' and wait_event_type = 'Lock'";
    let (mut superuser, mut ended) = (app.database.superuser().await, 0_i64);
    for _ in 0..1500 {
        let now: i64 = sqlx::query_scalar(end).fetch_one(&mut superuser).await.expect("a count");
        ended += now;
        if ended >= 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ended >= 4, "{ended}: it tries again");
    sqlx::raw_sql("rollback").execute(&mut owner).await.expect("a rollback");
    assert_eq!(stream.ticket().await.0, "once");
}

#[tokio::test]
async fn live_messages_are_told_to_those_who_may_read_them() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let query = "subscription { ticketMessageAdded { message { body ticket { subject } } } }";
    app.sql("update tenantry.organization_members set role = 'VIEWER' where user_id = (select id from tenantry.users where clerk_id = 'user_frank')").await;
    let frank = app.token("frank@example.com", Some("acme-corp")).await;
    let made = async || app.done(&alice, "ticketCreate", "ticket { id }", json!({ "subject": "s" })).await;
    let (ticket, other) = (made().await["ticket"]["id"].clone(), made().await["ticket"]["id"].clone());
    let of_other = format!(
        "subscription {{ ticketMessageAdded(ticketId: {other}) {{ message {{ body ticket {{ subject }} }} }} }}"
    );
    let mut streams = [
        follow(&app, &alice, query, None).await,
        follow(&app, &frank, query, None).await,
        follow(&app, &alice, &of_other, None).await,
    ];
    app.subscribed(3).await;
    for (ticket, body, is_internal) in
        [(&ticket, "a note", true), (&ticket, "an answer", false), (&other, "elsewhere", false)]
    {
        let input = json!({ "ticketId": ticket, "body": body, "isInternal": is_internal });
        app.done(&alice, "ticketMessageAdd", "message { id }", input).await;
    }
    for (stream, expected) in streams.iter_mut().zip([
        ["a note", "an answer", "elsewhere"].as_slice(),
        &["an answer", "elsewhere"],
        &["elsewhere"],
    ]) {
        for body in expected {
            let heard = stream.answer().await.data["data"]["ticketMessageAdded"]["message"].clone();
            assert_eq!(heard, json!({ "body": body, "ticket": { "subject": "s" } }));
        }
    }
    // Streams that are open keep no connection of the database.
    until(|| app.app.services.db.usage()[0].in_use == 0).await;
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn socket(app: &TestApp, token: &str) -> Socket {
    let mut request = app.ws_url().into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().expect("a header"));
    let (mut socket, _) = connect_async(request).await.expect("a socket");
    let init = json!({ "type": "connection_init", "payload": { "authorization": format!("Bearer {token}") } });
    socket.send(Message::text(init.to_string())).await.expect("sent");
    assert_eq!(said(&mut socket).await, Some(json!({ "type": "connection_ack" })));
    socket
}

async fn said(socket: &mut Socket) -> Option<Value> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match tokio::time::timeout_at(deadline, socket.next()).await.expect("something is said")?.ok()? {
            Message::Text(text) => return serde_json::from_str(&text).ok(),
            Message::Close(_) => return None,
            _ => {}
        }
    }
}

/// A request to `/graphql/stream`.
async fn ask(
    app: &TestApp,
    method: Method,
    token: Option<&str>,
    stream: &str,
    query: &str,
    body: Option<Value>,
) -> Response {
    let mut request = app.client().request(method.clone(), format!("{}/graphql/stream{query}", app.base_url()));
    request = request.header("X-GraphQL-Event-Stream-Token", stream);
    if method == Method::GET {
        request = request.header("Accept", "text/event-stream");
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    request.send().await.expect("an answer")
}

async fn reserve(app: &TestApp, token: &str) -> String {
    let reserved = ask(app, Method::PUT, Some(token), "", "", None).await;
    assert_eq!(reserved.status(), StatusCode::CREATED);
    reserved.text().await.expect("a token")
}

fn operation(query: &str, id: &str) -> Value {
    json!({ "query": query, "extensions": { "operationId": id } })
}

/// Reservations are for whoever made them, and each is one stream.
#[tokio::test]
async fn live_reservations_are_their_holders_alone() {
    let app = TestApp::start().await;
    let acme: String = sqlx::query_scalar("select clerk_org_id from tenantry.organizations where slug = 'acme-corp'")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("Acme");
    // Tokens of one session differ.
    let of_session = |number: u32| {
        let claims = json!({ "iss": "tenantry-development", "sub": "user_alice", "sid": "sess_1", "v": 2, "o": { "id": acme }, "n": number });
        sign(&json!({ "alg": "EdDSA", "typ": "JWT" }), &claims, &app.clock)
    };
    let (alice, renewed) = (of_session(1), of_session(2));
    let bob = app.token("bob@example.com", Some("acme-corp")).await;
    let put = async |token: Option<&str>| ask(&app, Method::PUT, token, "", "", None).await.status().as_u16();
    assert_eq!((put(None).await, put(Some("nonsense")).await), (401, 401));
    let stream = reserve(&app, &alice).await;
    assert_eq!(stream.len(), 64);
    let guess = "0".repeat(64);
    let status = async |method, token, stream: &str, query: &str, body| {
        ask(&app, method, token, stream, query, body).await.status().as_u16()
    };
    // Whoever has the token alone, and whoever has another credential, does nothing with it.
    let post = Some(operation("{ viewer { role } }", "1"));
    assert_eq!(status(Method::POST, Some(&alice), &guess, "", post.clone()).await, 404);
    assert_eq!(status(Method::POST, Some(&bob), &stream, "", post.clone()).await, 404);
    assert_eq!(status(Method::POST, None, &stream, "", post.clone()).await, 401);
    assert_eq!(status(Method::POST, None, &stream, "", Some(operation("{ __typename }", "1"))).await, 404);
    assert_eq!(status(Method::GET, Some(&bob), &stream, "", None).await, 404);
    assert_eq!(status(Method::GET, None, &guess, "", None).await, 404);
    assert_eq!(status(Method::DELETE, Some(&bob), &stream, "?operationId=1", None).await, 404);
    assert_eq!(status(Method::DELETE, None, &stream, "?operationId=1", None).await, 401);
    assert_eq!(status(Method::DELETE, Some(&alice), &stream, "", None).await, 400);
    assert_eq!(status(Method::PATCH, Some(&alice), &stream, "", None).await, 405);
    assert_eq!(status(Method::POST, Some(&alice), &stream, "", Some(json!({ "query": "{ __typename }" }))).await, 400);
    assert_eq!(status(Method::POST, Some(&alice), &stream, "", Some(operation("{ nope }", "1"))).await, 400);
    assert_eq!(
        status(
            Method::POST,
            Some(&alice),
            &stream,
            "",
            Some(json!({ "query": "{a}", "extensions": { "operationId": 1 } }))
        )
        .await,
        400
    );

    // A browser's EventSource has the token in the address, and nothing else.
    let opened = app.client().get(format!("{}/graphql/stream?token={stream}", app.base_url()));
    let response = opened.header("Accept", "text/event-stream").send().await.expect("a stream");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(status(Method::GET, Some(&alice), &stream, "", None).await, 409);
    let mut heard = Stream { response, text: String::new() };
    assert_eq!(status(Method::POST, Some(&alice), &stream, "", Some(operation(CHANGED, "sub"))).await, 202);
    assert_eq!(status(Method::POST, Some(&alice), &stream, "", Some(operation(CHANGED, "sub"))).await, 409);
    assert_eq!(status(Method::POST, Some(&alice), &stream, "", post.clone()).await, 202);
    let event = heard.next().await.expect("an event");
    assert_eq!(
        (event.kind.as_str(), event.data),
        ("next", json!({ "id": "1", "payload": { "data": { "viewer": { "role": "OWNER" } } } }))
    );
    let event = heard.next().await.expect("an event");
    assert_eq!((event.kind.as_str(), event.data), ("complete", json!({ "id": "1" })));
    app.subscribed(1).await;
    write(&app, &alice, "one").await;
    let event = heard.next().await.expect("an event");
    assert_eq!(
        (&event.data["id"], &event.data["payload"]["data"]["ticketChanged"]["ticket"]["subject"]),
        (&json!("sub"), &json!("one"))
    );
    // With another token of the same person, as after its renewal.
    assert_eq!(status(Method::DELETE, Some(&renewed), &stream, "?operationId=sub", None).await, 200);
    app.unsubscribed().await;
    // Operations end with the stream, and the token with them.
    assert_eq!(status(Method::POST, Some(&renewed), &stream, "", Some(operation(CHANGED, "sub"))).await, 202);
    app.subscribed(1).await;
    drop(heard);
    app.unsubscribed().await;
    assert_eq!(status(Method::POST, Some(&alice), &stream, "", post).await, 404);
    for _ in 0..20 {
        reserve(&app, &alice).await;
    }
    assert_eq!((put(Some(&alice)).await, put(Some(&bob)).await), (429, 201));
    // Without a token it is the other mode.
    let distinct = app.client().post(format!("{}/graphql/stream", app.base_url())).bearer_auth(&alice);
    let answer =
        distinct.header("Accept", "text/event-stream").json(&json!({ "query": "{ __typename }" })).send().await;
    assert!(answer.expect("a stream").text().await.expect("text").contains("event: complete"));
}

/// A reserved stream holds a bounded number of operations and answers, and ends with the tokens that were shown.
#[tokio::test]
async fn live_reservations_are_bounded() {
    let app = TestApp::start().await;
    let bob = app.token("bob@example.com", Some("acme-corp")).await;
    // One ends with the last token that was shown.
    let brief = app.token_for("alice@example.com", Some("acme-corp"), chrono::Duration::seconds(3)).await;
    let brief = reserve(&app, &brief).await;
    let mut brief = Stream { response: ask(&app, Method::GET, None, &brief, "", None).await, text: String::new() };
    // What nobody takes waits with its operation, and there are fifty of them beside the sixteen answers that wait.
    let unread = reserve(&app, &bob).await;
    let mut accepted = 0;
    let refused = loop {
        let asked = Some(operation("{ __typename }", &accepted.to_string()));
        let answer = ask(&app, Method::POST, Some(&bob), &unread, "", asked).await;
        if answer.status() != StatusCode::ACCEPTED {
            break answer.text().await.expect("text");
        }
        accepted += 1;
        assert!(accepted <= 66, "operations are bounded");
    };
    assert!(accepted >= 50 && refused.contains("TOO_MANY_SUBSCRIPTIONS"), "{accepted}: {refused}");
    assert_eq!(brief.next().await, None);
}

async fn until(is: impl Fn() -> bool) {
    for _ in 0..1500 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it does not come about");
}

/// The same subscription over each transport; each gives what it has said when it has ended.
async fn everywhere(app: &TestApp, token: &str, query: &str) -> Vec<(&'static str, JoinHandle<(Instant, String)>)> {
    let mut plain = follow(app, token, query, None).await;
    let over_events = tokio::spawn(async move {
        let mut heard = String::new();
        while let Some(event) = plain.next().await {
            heard += &format!("{event:?}");
        }
        (Instant::now(), heard)
    });
    let mut socket = socket(app, token).await;
    let subscribe = json!({ "id": "1", "type": "subscribe", "payload": { "query": query } });
    socket.send(Message::text(subscribe.to_string())).await.expect("sent");
    let over_socket = tokio::spawn(async move {
        let mut heard = String::new();
        while let Some(message) = said(&mut socket).await {
            heard += &message.to_string();
            if message["type"] == "complete" {
                break;
            }
        }
        (Instant::now(), heard)
    });
    let stream = reserve(app, token).await;
    let response = ask(app, Method::GET, Some(token), &stream, "", None).await;
    let mut reserved = Stream { response, text: String::new() };
    assert_eq!(
        ask(app, Method::POST, Some(token), &stream, "", Some(operation(query, "1"))).await.status(),
        StatusCode::ACCEPTED
    );
    let over_reserved = tokio::spawn(async move {
        let mut heard = String::new();
        while let Some(event) = reserved.next().await {
            heard += &format!("{event:?}");
            if event.kind == "complete" {
                break;
            }
        }
        (Instant::now(), heard)
    });
    app.subscribed(3).await;
    vec![("events", over_events), ("socket", over_socket), ("reserved", over_reserved)]
}

/// Gives a member a custom role that may see webhooks; says which.
async fn watcher(app: &TestApp, owner: &str, member: &Value) -> Value {
    let role = json!({ "name": "Watcher", "actions": ["WEBHOOK_READ"] });
    let role = app.done(owner, "customRoleCreate", "customRole { id }", role).await["customRole"]["id"].clone();
    let given = json!({ "id": member, "customRoleId": role });
    app.done(owner, "organizationMemberUpdate", "member { id }", given).await;
    role
}

/// Whoever loses access loses their streams, whatever the cause and the transport.
#[tokio::test]
async fn live_streams_end_with_the_access_that_they_stand_on() {
    let mut environment = environment();
    environment.push(("IDENTITY_SOURCE", "tenantry".to_owned()));
    let app = TestApp::start_with(Setup { environment, ..Setup::default() }).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let members =
        app.data(&alice, "{ organization { members(first: 100) { nodes { id user { email } } } } }", json!({})).await;
    let member = |email: &str| {
        let nodes = members["organization"]["members"]["nodes"].as_array().expect("members");
        nodes.iter().find(|node| node["user"]["email"] == email).expect("a member")["id"].clone()
    };
    let acme: String = sqlx::query_scalar("select clerk_org_id from tenantry.organizations where slug = 'acme-corp'")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("Acme");
    let bearer = |name: &str| {
        let claims = json!({ "iss": "tenantry-development", "sub": format!("user_{name}"), "sid": format!("sess_{name}"), "v": 2, "o": { "id": acme } });
        sign(&json!({ "alg": "EdDSA", "typ": "JWT" }), &claims, &app.clock)
    };
    let happens = async |n: u32, kind: &str, data: Value| {
        let at = app.clock.now().timestamp_millis() + i64::from(n);
        let body = json!({ "type": kind, "object": "event", "timestamp": at, "instance_id": "ins_test", "data": data });
        assert_eq!(deliver(&app, Clerk, &format!("msg_{n}"), body.to_string()).await.0, 200);
        let worker = Worker::new(&app.app.webhooks);
        while worker.step().await.expect("a step") > 0 {}
    };
    let role = async |email: &str, role: &str| {
        let input = json!({ "id": member(email), "role": role });
        app.done(&alice, "organizationMemberUpdate", "member { id }", input).await;
    };
    let seats = async |count: u32| {
        app.sql(&format!("update tenantry.subscriptions set plan = 'PRO', status = 'ACTIVE', sells_seats = true, seat_count = {count}")).await;
    };
    let key = app
        .done(&alice, "apiKeyCreate", "secret apiKey { id }", json!({ "name": "a", "scopes": ["ORGANIZATION_READ"] }))
        .await;
    let secret = key["secret"].as_str().expect("a key").to_owned();
    seats(50).await;
    role("erin@example.com", "ADMIN").await;
    let watcher = watcher(&app, &alice, &member("dave@example.com")).await;
    let alerts = "subscription { budgetAlert { alert { id } } }";
    let deliveries = "subscription { webhookDelivery { webhookEvent { id } } }";
    let flags = "subscription { featureFlagsChanged { etag } }";
    for (cause, token, query, code) in [
        ("a seat is lost", bearer("frank"), alerts, "SEAT_REQUIRED"),
        ("the custom role allows less", bearer("dave"), deliveries, "FORBIDDEN"),
        ("removed", bearer("dave"), CHANGED, "ORGANIZATION_NOT_FOUND"),
        ("demoted", bearer("erin"), deliveries, "FORBIDDEN"),
        ("the session ends", bearer("carol"), CHANGED, "SESSION_ENDED"),
        ("banned", bearer("frank"), CHANGED, "ACCOUNT_BLOCKED"),
        ("the key is revoked", secret, CHANGED, "INVALID_API_KEY"),
        ("the user is deleted", bearer("erin"), flags, "ACCOUNT_GONE"),
        ("the organization is deleted", bearer("alice"), CHANGED, "ORGANIZATION_NOT_FOUND"),
    ] {
        let streams = everywhere(&app, &token, query).await;
        let begun = Instant::now();
        match cause {
            "a seat is lost" => seats(1).await,
            "the custom role allows less" => {
                let less = json!({ "id": watcher, "actions": ["TICKET_CREATE"] });
                app.done(&alice, "customRoleUpdate", "customRole { id }", less).await;
            }
            "removed" => {
                let dave = json!({ "id": member("dave@example.com") });
                app.done(&alice, "organizationMemberRemove", "member { id }", dave).await;
            }
            "demoted" => role("erin@example.com", "MEMBER").await,
            "the session ends" => {
                let ended = json!({ "id": "sess_carol", "object": "session", "user_id": "user_carol" });
                happens(1, "session.revoked", ended).await;
            }
            "banned" => {
                let frank = json!({ "id": "user_frank", "object": "user", "banned": true, "email_addresses": [] });
                happens(2, "user.updated", frank).await;
            }
            "the key is revoked" => {
                app.done(&alice, "apiKeyRevoke", "apiKey { id }", json!({ "id": key["apiKey"]["id"] })).await;
            }
            "the user is deleted" => {
                happens(3, "user.deleted", json!({ "id": "user_erin", "object": "user", "deleted": true })).await;
            }
            _ => {
                app.sql("update tenantry.subscriptions set status = 'CANCELED'").await;
                app.done(&alice, "organizationDelete", "organizationId", json!({ "slug": "acme-corp" })).await;
            }
        }
        let done = Instant::now();
        for (transport, stream) in streams {
            let (ended, heard) =
                tokio::time::timeout(PATIENCE, stream).await.expect("it ends").expect("what was heard");
            assert!(heard.contains(code), "{cause}, {transport}: {heard}");
            let (all, after) = (ended - begun, ended.saturating_duration_since(done));
            println!("{cause}, {transport}: {all:?} after it began, {after:?} after it was done");
        }
        if cause == "a seat is lost" {
            seats(50).await;
        }
        app.unsubscribed().await;
    }
}

/// The clients that the protocols' author publishes, unmodified.
#[tokio::test]
async fn live_clients_of_npm_work_unmodified() {
    let modules = match npm(&PACKAGES).await {
        Ok(modules) => modules,
        Err(why) => return skipped("graphql-ws and graphql-sse", &why),
    };
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/live/clients.cjs");
    let mut node = Command::new("node");
    node.arg(script).arg(modules).arg(app.base_url()).arg(alice).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_mins(2), node.output()).await.expect("in time").expect("node");
    let said = text(&output);
    assert!(output.status.success() && said.contains("ALL WELL"), "{said}");
}
