//! GraphQL over WebSocket (graphql-transport-ws), against a running server.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::{Setup, TestApp, third_party_tokens};

const PATIENCE: Duration = Duration::from_secs(15);

struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// What the server said.
#[derive(Debug, PartialEq)]
enum Said {
    Message(Value),
    Close(u16, String),
    Gone,
}

impl Socket {
    async fn connect(app: &TestApp, headers: &[(&'static str, String)]) -> Result<Self, Error> {
        let mut request = app.ws_url().into_client_request().expect("a request");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header"));
        }
        connect_async(request).await.map(|(socket, response)| {
            assert_eq!(response.headers()["sec-websocket-protocol"], "graphql-transport-ws");
            Self(socket)
        })
    }

    /// Before `connection_init`.
    async fn open(app: &TestApp) -> Self {
        Self::connect(app, &[protocol()]).await.expect("a socket")
    }

    /// After `connection_ack`, with alice's token.
    async fn ready(app: &TestApp) -> Self {
        let token = app.token("alice@example.com", Some("acme-corp")).await;
        let mut socket = Self::open(app).await;
        socket
            .send(&json!({ "type": "connection_init", "payload": { "authorization": format!("Bearer {token}") } }))
            .await;
        socket.expect(json!({ "type": "connection_ack" })).await;
        socket
    }

    async fn send(&mut self, message: &Value) {
        self.say(&message.to_string()).await;
    }

    async fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.expect("the server listens");
    }

    async fn subscribe(&mut self, id: &str, query: &str) {
        self.send(&json!({ "id": id, "type": "subscribe", "payload": { "query": query } })).await;
    }

    async fn hear(&mut self) -> Said {
        loop {
            return match timeout(PATIENCE, self.0.next()).await.expect("the server says something") {
                Some(Ok(Message::Text(text))) => Said::Message(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Close(Some(frame)))) => Said::Close(frame.code.into(), frame.reason.to_string()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                _ => Said::Gone,
            };
        }
    }

    #[track_caller]
    fn expect(&mut self, expected: Value) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let said = self.hear().await;
            assert_eq!(said, Said::Message(expected), "at {place}");
        }
    }

    async fn closed_with(mut self, code: u16) -> String {
        match self.hear().await {
            Said::Close(found, reason) if found == code => reason,
            said => panic!("{said:?} instead of a close with {code}"),
        }
    }

    /// Asserts that nothing is said for a while.
    async fn silent(&mut self) {
        let said = timeout(Duration::from_millis(300), self.0.next()).await;
        assert!(said.is_err(), "{said:?}");
    }
}

fn protocol() -> (&'static str, String) {
    ("sec-websocket-protocol", "graphql-transport-ws".to_owned())
}

const SUBSCRIPTION: &str = "subscription { ticketChanged { ticket { id } } }";
const VIEWER: &str = "{ viewer { user { email } } }";

#[tokio::test]
async fn socket_queries_work_and_may_use_an_id_again() {
    let app = TestApp::start().await;
    let mut socket = Socket::ready(&app).await;
    for _ in 0..2 {
        socket.subscribe("1", VIEWER).await;
        let data = json!({ "viewer": { "user": { "email": "alice@example.com" } } });
        socket.expect(json!({ "id": "1", "type": "next", "payload": { "data": data } })).await;
        socket.expect(json!({ "id": "1", "type": "complete" })).await;
    }
    // Fields come in the order of the document.
    socket.subscribe("2", "{ viewer { user { name email } role } __typename }").await;
    let Some(Ok(Message::Text(text))) = socket.0.next().await else { panic!("a message") };
    let places =
        ["viewer", "user", "name", "email", "role", "__typename"].map(|name| text.find(name).expect("the field"));
    assert!(places.is_sorted(), "{text}");
    socket.expect(json!({ "id": "2", "type": "complete" })).await;

    socket.send(&json!({ "type": "ping", "payload": { "a": 1 } })).await;
    socket.expect(json!({ "type": "pong", "payload": { "a": 1 } })).await;
    socket.send(&json!({ "type": "ping" })).await;
    socket.expect(json!({ "type": "pong" })).await;
    socket.send(&json!({ "type": "pong" })).await;
    socket.send(&json!({ "id": "never used", "type": "complete" })).await;
    socket.silent().await;
}

#[tokio::test]
async fn socket_errors_are_told_for_their_operation_alone() {
    let app = TestApp::start().await;
    let mut socket = Socket::ready(&app).await;
    let deep = "{a".repeat(10_000);
    for (id, query, code) in [
        ("parse", "{", "GRAPHQL_PARSE_FAILED"),
        ("validate", "{ nope }", "GRAPHQL_VALIDATION_FAILED"),
        ("limit", &deep, "QUERY_TOO_DEEP"),
        ("variables", "query($id: ID!) { node(id: $id) { __typename } }", "INVALID_VARIABLE"),
    ] {
        socket.subscribe(id, query).await;
        let Said::Message(message) = socket.hear().await else { panic!("a message") };
        assert_eq!((&message["id"], &message["type"]), (&json!(id), &json!("error")));
        let extensions = &message["payload"][0]["extensions"];
        assert_eq!(extensions["code"], code);
        assert!(extensions["requestId"].is_string());
    }
    socket.subscribe("fine", "{ __typename }").await;
    socket.expect(json!({ "id": "fine", "type": "next", "payload": { "data": { "__typename": "Query" } } })).await;
}

/// `graphql-ws` tries again after 4403, with the credentials that it is given then, and not after 4401.
#[tokio::test]
async fn sockets_are_not_for_the_anonymous() {
    let app = TestApp::start().await;
    for payload in [json!(null), json!({}), json!({ "authorization": null, "other": 1 })] {
        let mut socket = Socket::open(&app).await;
        socket.send(&json!({ "type": "connection_init", "payload": payload })).await;
        assert_eq!(socket.closed_with(4401).await, "Unauthorized");
    }
}

#[tokio::test]
async fn socket_credentials_come_in_the_payload_or_in_the_headers() {
    let app = TestApp::start().await;
    let bearer = format!("Bearer {}", app.token("alice@example.com", None).await);
    let data = json!({ "organization": { "slug": "acme-corp" } });
    for (headers, payload) in [
        (vec![], json!({ "authorization": bearer, "organization": "acme-corp" })),
        (vec![], json!({ "headers": { "Authorization": bearer, "X-Organization-Id": "acme-corp" } })),
        (vec![("authorization", bearer.clone()), ("x-organization-id", "acme-corp".to_owned())], json!({})),
    ] {
        let headers: Vec<_> = headers.into_iter().chain([protocol()]).collect();
        let mut socket = Socket::connect(&app, &headers).await.expect("a socket");
        socket.send(&json!({ "type": "connection_init", "payload": payload })).await;
        socket.expect(json!({ "type": "connection_ack" })).await;
        socket.subscribe("1", "{ organization { slug } }").await;
        socket.expect(json!({ "id": "1", "type": "next", "payload": { "data": data } })).await;
    }
    let mut socket = Socket::open(&app).await;
    socket.send(&json!({ "type": "connection_init", "payload": { "authorization": "Bearer nonsense" } })).await;
    assert_eq!(socket.closed_with(4403).await, "Forbidden");
    let impersonated = app.impersonated("alice@example.com", Some("acme-corp"), "user_support").await;
    let mut socket = Socket::open(&app).await;
    let payload = json!({ "authorization": format!("Bearer {impersonated}") });
    socket.send(&json!({ "type": "connection_init", "payload": payload })).await;
    socket.expect(json!({ "type": "connection_ack" })).await;
    socket.subscribe("1", "{ viewer { impersonator } }").await;
    let data = json!({ "viewer": { "impersonator": "user_support" } });
    socket.expect(json!({ "id": "1", "type": "next", "payload": { "data": data } })).await;
    for token in third_party_tokens(&app.clock) {
        let mut socket = Socket::open(&app).await;
        socket
            .send(&json!({ "type": "connection_init", "payload": { "authorization": format!("Bearer {token}") } }))
            .await;
        assert_eq!(socket.closed_with(4403).await, "Forbidden");
    }
}

#[tokio::test]
async fn sockets_close_at_breaches_of_the_protocol() {
    let app = TestApp::start().await;
    let mut socket = Socket::open(&app).await;
    socket.subscribe("1", VIEWER).await;
    assert_eq!(socket.closed_with(4401).await, "Unauthorized");

    let mut socket = Socket::ready(&app).await;
    socket.send(&json!({ "type": "connection_init" })).await;
    assert_eq!(socket.closed_with(4429).await, "Too many initialisation requests");

    let mut socket = Socket::ready(&app).await;
    socket.subscribe("twice", SUBSCRIPTION).await;
    socket.subscribe("twice", SUBSCRIPTION).await;
    let reason = loop {
        match socket.hear().await {
            Said::Message(_) => {}
            Said::Close(4409, reason) => break reason,
            said => panic!("{said:?}"),
        }
    };
    assert_eq!(reason, "Subscriber for twice already exists");

    for message in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"type":1}"#,
        r#"{"type":"start","id":"1","payload":{"query":"{__typename}"}}"#,
        r#"{"type":"subscribe","payload":{"query":"{__typename}"}}"#,
        r#"{"type":"subscribe","id":"","payload":{"query":"{__typename}"}}"#,
        r#"{"type":"subscribe","id":1,"payload":{"query":"{__typename}"}}"#,
        r#"{"type":"subscribe","id":"1"}"#,
        r#"{"type":"subscribe","id":"1","payload":{"query":1}}"#,
        r#"{"type":"subscribe","id":"1","payload":{"query":"{__typename}","variables":[]}}"#,
        r#"{"type":"complete"}"#,
        r#"{"type":"ping","payload":1}"#,
    ] {
        let mut socket = Socket::ready(&app).await;
        socket.say(message).await;
        socket.closed_with(4400).await;
    }
    let mut socket = Socket::ready(&app).await;
    socket.0.send(Message::binary(&b"{}"[..])).await.expect("sent");
    socket.closed_with(4400).await;

    for size in [70_000, 2_000_000] {
        let mut socket = Socket::ready(&app).await;
        // The server may stop reading before all is sent.
        drop(socket.0.send(Message::text(format!(r#"{{"type":"ping","x":"{}"}}"#, "x".repeat(size)))).await);
        match socket.hear().await {
            Said::Close(1009, _) => {}
            Said::Gone if size > 1_000_000 => {}
            said => panic!("{size}: {said:?}"),
        }
    }
}

#[tokio::test]
async fn sockets_that_do_not_introduce_themselves_are_closed() {
    let app = TestApp::start().await;
    let socket = Socket::open(&app).await;
    assert_eq!(socket.closed_with(4408).await, "Connection initialisation timeout");
}

#[tokio::test]
async fn socket_subscriptions_end_when_completed_and_are_limited() {
    let app = TestApp::start().await;
    let mut socket = Socket::ready(&app).await;
    for number in 0..50 {
        socket.subscribe(&number.to_string(), SUBSCRIPTION).await;
    }
    socket.subscribe("one too many", SUBSCRIPTION).await;
    loop {
        match socket.hear().await {
            Said::Message(message) if message["id"] == "one too many" => {
                assert_eq!(message["type"], "error");
                assert_eq!(message["payload"][0]["extensions"]["code"], "TOO_MANY_SUBSCRIPTIONS");
                break;
            }
            Said::Message(message) => assert_eq!(message["type"], "next"),
            said => panic!("{said:?}"),
        }
    }
    app.subscribed(50).await;
    for number in 0..50 {
        socket.send(&json!({ "id": number.to_string(), "type": "complete" })).await;
    }
    socket.subscribe("query", "{ __typename }").await;
    // What was under way may still arrive before, nothing after.
    loop {
        match socket.hear().await {
            Said::Message(message) if message["id"] == "query" && message["type"] == "complete" => break,
            Said::Message(_) => {}
            said => panic!("{said:?}"),
        }
    }
    socket.silent().await;
    app.unsubscribed().await;
    // They end with their socket, however that ends.
    socket.subscribe("again", SUBSCRIPTION).await;
    app.subscribed(1).await;
    drop(socket);
    app.unsubscribed().await;
}

#[tokio::test]
async fn sockets_end_with_their_token_and_with_the_server() {
    let app = TestApp::start().await;
    let token = app.token_for("alice@example.com", Some("acme-corp"), chrono::Duration::seconds(2)).await;
    let mut socket = Socket::open(&app).await;
    socket.send(&json!({ "type": "connection_init", "payload": { "authorization": format!("Bearer {token}") } })).await;
    socket.expect(json!({ "type": "connection_ack" })).await;
    assert_eq!(socket.closed_with(4403).await, "Token expired");

    let socket = Socket::ready(&app).await;
    app.stop();
    assert_eq!(socket.closed_with(1001).await, "The server is stopping");
}

#[tokio::test]
async fn sockets_open_for_own_and_listed_pages_only() {
    let listed = "https://app.example.com";
    let setup = Setup { environment: vec![("CORS_ORIGINS", listed.to_owned())], ..Setup::default() };
    let app = TestApp::start_with(setup).await;
    for origin in [listed.to_owned(), app.base_url()] {
        Socket::connect(&app, &[protocol(), ("origin", origin)]).await.expect("a socket");
    }
    let refused = async |headers: &[(&'static str, String)]| match Socket::connect(&app, headers).await {
        Err(Error::Http(response)) => {
            let body = String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned();
            (response.status().as_u16(), body)
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("a socket was opened"),
    };
    let (status, body) = refused(&[protocol(), ("origin", "https://evil.example".to_owned())]).await;
    assert!(status == 403 && body.contains("ORIGIN_NOT_ALLOWED"), "{status} {body}");
    let (status, body) = refused(&[]).await;
    assert!(status == 400 && body.contains("SUBPROTOCOL_NOT_SUPPORTED"), "{status} {body}");
    let (status, _) = refused(&[("sec-websocket-protocol", "graphql-ws".to_owned())]).await;
    assert_eq!(status, 400);
    let plain = app.client().get(format!("{}/graphql/ws", app.base_url())).send().await.expect("a response");
    assert!(plain.status().is_client_error(), "{}", plain.status());
}
