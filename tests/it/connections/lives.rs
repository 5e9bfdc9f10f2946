//! Connections that live on: pipelines, streams, sockets; and how they end when the server stops.

use futures_util::{SinkExt as _, StreamExt as _};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::*;
use crate::support::{Setup, TestApp};

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::plain(short()).await;
    let mut stream = server.connect().await;
    let small = "GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(20);
    let read = "POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab";
    stream.write_all(format!("{small}{read}{small}").as_bytes()).await.expect("requests");
    let answers = rest(&mut stream).await;
    assert_eq!((answers.matches("HTTP/1.1 200 OK").count(), answers.matches("hello").count()), (41, 40), "{answers}");
}

/// A stream in which nothing happens for longer than an idle connection may live goes on, over both versions.
#[tokio::test]
async fn quiet_streams_are_not_idle() {
    let server = Server::plain(short()).await;
    let text = reqwest::get(server.url("/late")).await.expect("an answer").text().await.expect("all of it");
    assert_eq!(text, "word word ");

    let stream = server.connect().await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(server.url("/late")).body(String::new()).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer").into_body().collect().await;
    assert_eq!(answer.expect("all of it").to_bytes(), "word word ");
    // And then it is idle.
    timeout(PATIENCE, connection).await.expect("the connection ends").expect("a task").expect("politely");
    server.has_closed("idle", 1).await;
}

#[tokio::test]
async fn web_sockets_live_on_and_keep_their_place() {
    let app = TestApp::start().await;
    let server = Server::start(tenantry::http::router(&app.app.edge), Caps::default(), short()).await;
    let mut request = format!("ws://{}/graphql/ws", server.address).into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().expect("a header"));
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.expect("a socket");
    let token = app.token("alice@example.com", Some("acme-corp")).await;
    let init = json!({ "type": "connection_init", "payload": { "Authorization": format!("Bearer {token}") } });
    socket.send(Message::text(init.to_string())).await.expect("sent");
    let said = async |socket: &mut tokio_tungstenite::WebSocketStream<_>| {
        let message = timeout(PATIENCE, socket.next()).await.expect("in time").expect("a message").expect("well");
        serde_json::from_str::<Value>(message.to_text().expect("text")).expect("JSON")["type"].clone()
    };
    assert_eq!(said(&mut socket).await, "connection_ack");
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(server.figure("tenantry_http_connections_open"), 1);
    socket.send(Message::text(r#"{"type":"ping"}"#)).await.expect("sent");
    assert_eq!(said(&mut socket).await, "pong");
    drop(socket);
    server.is_left().await;
}

/// Idle connections end at once, requests under way are answered, and what takes too long is cut off.
#[tokio::test]
async fn a_stop_lets_requests_end() {
    // The endless one is cut off for the stop, not because nobody reads it.
    let timeouts = Timeouts { grace: Duration::from_secs(4), stall: 10 * PATIENCE, ..Timeouts::default() };
    let server = Server::plain(timeouts).await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a request");
    let mut answer = [0; 512];
    assert!(idle.read(&mut answer).await.expect("an answer") > 0);
    let late = tokio::spawn(reqwest::get(server.url("/late")));
    let endless = reqwest::get(server.url("/endless")).await.expect("an answer");
    let late = late.await.expect("a task").expect("an answer");
    // Connected, and about to ask.
    let mut silent = server.connect().await;
    let start = Instant::now();
    server.stop.send_replace(true);
    assert_eq!(rest(&mut idle).await, "");
    silent.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a request");
    let last = rest(&mut silent).await;
    assert!(last.contains("connection: close\r\n") && last.ends_with("hello"), "{last:?}");
    assert_eq!(late.text().await.expect("all of it"), "word word ");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens");
    timeout(PATIENCE, server.ended).await.expect("an end").expect("well");
    assert!(start.elapsed() >= Duration::from_secs(4), "the endless one was given its time");
    drop(endless);
}

/// Only the header that the operator's proxies write says who the client is; audit rows show it. And a proxy is not one client:
/// it may have as many connections as there are.
#[tokio::test]
async fn audit_rows_show_the_client_that_the_proxy_names() {
    let environment = [
        ("TRUSTED_PROXIES", "127.0.0.0/8"),
        ("CLIENT_ADDRESS_HEADER", "Fly-Client-IP"),
        ("MAX_CONNECTIONS_PER_ADDRESS", "1"),
        ("MAX_CONNECTIONS", "9"),
    ];
    let environment = environment.map(|(name, value)| (name, value.to_owned())).into();
    let app = TestApp::start_with(Setup { environment, ..Setup::default() }).await;
    let token = app.token("alice@example.com", Some("acme-corp")).await;
    let query = "mutation { ticketCreate(input: { subject: \"from afar\" }) { ticket { id } } }";
    let request = app.client().post(format!("{}/graphql", app.base_url())).bearer_auth(&token);
    let request = request.header("fly-client-ip", "203.0.113.9");
    let spoofed = request.header("x-forwarded-for", "198.51.100.1").header("forwarded", "for=198.51.100.2");
    let answer: Value =
        spoofed.json(&json!({ "query": query })).send().await.expect("sent").json().await.expect("JSON");
    assert!(answer["data"]["ticketCreate"]["ticket"]["id"].is_string(), "{answer}");
    let log = "{ organization { auditLogs(first: 1) { nodes { action ipAddress } } } }";
    let log = app.data(&token, log, json!({})).await;
    assert_eq!(log["organization"]["auditLogs"]["nodes"][0]["ipAddress"], "203.0.113.9", "{log}");

    let mut held = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(&app.base_url()["http://".len()..]).await.expect("a connection");
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a request");
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.expect("an answer");
        if status != *b"HTTP/1.1 200" {
            assert_eq!(&status, b"HTTP/1.1 503");
            break;
        }
        held.push(stream);
    }
    assert!((2..=9).contains(&held.len()), "{}", held.len());
}
