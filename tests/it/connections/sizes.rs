//! Heads and bodies that are too large: the client gets to read the answer although it is still sending.

use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;
use crate::support::{Setup, TestApp};

/// Sends all of it, then reads: as simple clients do.
async fn send_then_read(address: SocketAddr, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(head.as_bytes()).await.expect("a head");
    for piece in body.chunks(64 * 1024) {
        stream.write_all(piece).await.expect("the server takes what is sent");
    }
    rest(&mut stream).await
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let server = Server::plain(short()).await;
    let many = (0..101).map(|n| format!("x-{n}: y\r\n")).collect::<Vec<_>>().concat();
    for (what, status) in [
        (format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(4 << 20)), 431),
        (format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(70_000)), 431),
        (format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n"), 431),
        (format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "y".repeat(4 << 20)), 431),
        ("GET / HTTP/1.1\r\nhost x\r\n\r\n".to_owned(), 400),
        (format!("{}\r\n\r\n", "y".repeat(10_000)), 400),
    ] {
        let answer = send_then_read(server.address, "", what.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{}: {answer:?}", &what[..20]);
    }
    let fine = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\nconnection: close\r\n\r\n", "y".repeat(60_000));
    assert!(send_then_read(server.address, "", fine.as_bytes()).await.ends_with("hello"));
    for (size, expected) in [(30_000, 200), (40_000, 431)] {
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(server.connect().await)).await.expect("HTTP/2");
        tokio::spawn(connection);
        let request =
            hyper::Request::get(server.url("/")).header("x", "y".repeat(size)).body(String::new()).expect("a request");
        let answer = timeout(PATIENCE, sender.send_request(request)).await.expect("in time").expect("an answer");
        assert_eq!(answer.status(), expected, "{size}");
    }
}

/// Whoever goes on sending after the answer is listened to for a while, not for ever.
#[tokio::test]
async fn what_comes_after_the_answer_is_not_taken_in_for_ever() {
    let linger = Duration::from_secs(2);
    let server = Server::plain(Timeouts { linger, idle: 10 * PATIENCE, ..short() }).await;
    let mut stream = server.connect().await;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n").await.expect("a head");
    // The answer is there, and the body only begins.
    assert!(stream.peek(&mut [0; 16]).await.expect("an answer") > 0);
    for _ in 0..20 {
        stream.write_all(&[b'x'; 16 * 1024]).await.expect("the server takes what is sent");
    }
    let trickling = async {
        while stream.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, trickling).await.expect("the connection ends");
    server.is_left().await;

    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(server.connect().await)).await.expect("HTTP/2");
    tokio::spawn(connection);
    // Until the stream is reset, which drops it.
    let (sending, mut reset) = tokio::sync::oneshot::channel::<()>();
    let pieces = futures_util::stream::unfold(sending, |sending| async {
        sleep(Duration::from_millis(20)).await;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x"))), sending))
    });
    let request = hyper::Request::post(server.url("/")).body(StreamBody::new(Box::pin(pieces))).expect("a request");
    let answer = timeout(PATIENCE, sender.send_request(request)).await.expect("in time").expect("an answer");
    assert_eq!(answer.status(), 405);
    // To some clients a stream that is reset is one without an answer.
    assert!(timeout(linger / 8, &mut reset).await.is_err(), "the stream is reset at once");
    timeout(PATIENCE, reset).await.expect("the stream ends").expect_err("nobody sends");
}

/// 413 in our JSON, over HTTP/1.1 and HTTP/2, for every route that takes a body.
#[tokio::test]
async fn too_large_is_said_to_clients_that_still_send() {
    let environment = vec![("CLERK_WEBHOOK_SECRETS", format!("whsec_{}", "A".repeat(32)))];
    let app = TestApp::start_with(Setup { environment, ..Setup::default() }).await;
    let token = app.token("alice@example.com", Some("acme-corp")).await;
    let address = app.base_url().strip_prefix("http://").expect("an address").parse().expect("an address");
    let length = 6 << 20;
    let body = vec![b' '; length];
    for path in ["/graphql", "/ofrep/v1/evaluate/flags", "/webhooks/clerk"] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\n"
        );
        let announced = send_then_read(address, &format!("{head}content-length: {length}\r\n\r\n"), &body).await;
        let chunked = send_then_read(
            address,
            &format!("{head}transfer-encoding: chunked\r\n\r\n{length:x}\r\n"),
            &[&body[..], b"\r\n0\r\n\r\n"].concat(),
        )
        .await;
        for answer in [announced, chunked] {
            assert!(
                answer.starts_with("HTTP/1.1 413 ") && answer.contains("connection: close\r\n"),
                "{path}: {answer}"
            );
            let (_, json) = answer.split_once("\r\n\r\n").expect("a body");
            let _: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{path}: {error}: {json}"));
        }

        let stream = TcpStream::connect(address).await.expect("a connection");
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        tokio::spawn(connection);
        let pieces =
            futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b' '; 16384]))));
        let request = hyper::Request::post(format!("http://x{path}"))
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}"))
            .body(StreamBody::new(pieces))
            .expect("a request");
        let answer = timeout(PATIENCE, sender.send_request(request)).await.expect("in time").expect("an answer");
        assert_eq!(answer.status(), 413, "{path}");
        let json = answer.into_body().collect().await.expect("a body").to_bytes();
        let _: Value = serde_json::from_slice(&json).expect("JSON");
    }
}

/// What is kept for a client that does not read is bounded, in the kernel as well.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn little_is_kept_for_who_does_not_read() {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    const PIECE: usize = 16 * 1024;
    let pieces = || async {
        Body::from_stream(futures_util::stream::repeat_with(|| {
            TAKEN.fetch_add(PIECE, Ordering::Relaxed);
            Ok::<_, Infallible>(Bytes::from_static(&[b'x'; PIECE]))
        }))
    };
    let router = Router::new().route("/", get(pieces));
    let server = Server::start(router, Caps::default(), Timeouts { stall: Duration::from_secs(2), ..short() }).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(server.address).await.expect("a connection");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a request");
    server.has_closed("slow_reader", 1).await;
    let taken = TAKEN.load(Ordering::Relaxed);
    // 128 KiB are the kernel's, 400 hyper's.
    assert!((PIECE..1 << 20).contains(&taken), "{taken} bytes were taken for nobody");
}
