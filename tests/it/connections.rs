//! Connections: slow, silent, too many, too large, flooding; and others beside them that are served.

mod floods;
mod lives;
mod sizes;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tenantry::http::listener::{Caps, Listening, Timeouts, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Longer than anything takes, also on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Timeouts that a test can wait for.
fn short() -> Timeouts {
    let short = Duration::from_millis(400);
    Timeouts {
        unused: short,
        head: short,
        idle: short,
        stall: short,
        linger: short,
        patience: Duration::from_secs(2),
        grace: Duration::from_secs(2),
        ..Timeouts::default()
    }
}

/// A server on a port of its own.
struct Server {
    address: SocketAddr,
    listening: Arc<Listening>,
    stop: watch::Sender<bool>,
    ended: JoinHandle<()>,
}

impl Server {
    async fn start(router: Router, caps: Caps, timeouts: Timeouts) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let listening = Arc::new(Listening::new(caps, Vec::new()).with_timeouts(timeouts));
        let (stop, stopping) = watch::channel(false);
        let ended = tokio::spawn(serve(listener, router, Arc::clone(&listening), stopping));
        Self { address, listening, stop, ended }
    }

    async fn plain(timeouts: Timeouts) -> Self {
        Self::start(routes(), Caps::default(), timeouts).await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("a connection")
    }

    /// The value of a metric.
    fn figure(&self, name: &str) -> u64 {
        let mut text = String::new();
        self.listening.render(&mut text);
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} in {text}")).parse().expect("a number")
    }

    fn closed(&self, why: &str) -> u64 {
        self.figure(&format!("tenantry_http_connections_closed_total{{why=\"{why}\"}}"))
    }

    /// Waits until all connections are closed.
    async fn is_left(&self) {
        let start = Instant::now();
        while self.figure("tenantry_http_connections_open") > 0 {
            assert!(start.elapsed() < PATIENCE, "connections stay open");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until so many connections were closed for this reason.
    async fn has_closed(&self, why: &str, count: u64) {
        let start = Instant::now();
        while self.closed(why) < count {
            assert!(start.elapsed() < PATIENCE, "{} of {count} were closed: {why}", self.closed(why));
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.closed(why), count, "{why}");
    }
}

/// Routes without a database.
fn routes() -> Router {
    /// 16 MiB, which no socket takes at once.
    static LARGE: [u8; 16 << 20] = [b'x'; 16 << 20];
    let read = |body: Body| async move {
        match timeout(Duration::from_millis(400), body.collect()).await {
            Ok(_) => StatusCode::OK,
            Err(_) => StatusCode::REQUEST_TIMEOUT,
        }
    };
    // Says something, and something more after a time in which nothing happens.
    let late = || async {
        Body::from_stream(futures_util::stream::unfold(0, |n| async move {
            sleep(Duration::from_millis(1500) * (n % 2)).await;
            (n < 2).then(|| (Ok::<_, Infallible>(Bytes::from("word ")), n + 1))
        }))
    };
    let pieces = || async {
        Body::from_stream(futures_util::stream::repeat_with(|| {
            Ok::<_, Infallible>(Bytes::from_static(&LARGE[..65536]))
        }))
    };
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/large", get(|| async { Bytes::from_static(&LARGE) }))
        .route("/endless", get(pieces))
        .route("/late", get(late))
        .route("/read", post(read))
}

/// What is left to read, until the connection ends in whatever way.
async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let read = async { while stream.read_buf(&mut all).await.is_ok_and(|bytes| bytes > 0) {} };
    let in_time = timeout(PATIENCE, read).await.is_ok();
    let text = String::from_utf8_lossy(&all).into_owned();
    assert!(in_time, "the connection stays open: {text}");
    text
}

/// The code of an error that came as text.
fn code(answer: &str) -> String {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    body["errors"][0]["extensions"]["code"].as_str().expect("a code").to_owned()
}

/// A client like others: asks again and again, and gives its longest wait.
fn normal(server: &Server) -> (watch::Sender<bool>, JoinHandle<Duration>) {
    let (end, ended) = watch::channel(false);
    let url = server.url("/");
    let asking = tokio::spawn(async move {
        // A connection each time: a new one must be taken, too.
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client");
        let mut longest = Duration::ZERO;
        while !*ended.borrow() {
            let start = Instant::now();
            let text = client.get(&url).send().await.expect("an answer").text().await.expect("text");
            assert_eq!(text, "hello");
            longest = longest.max(start.elapsed());
            sleep(Duration::from_millis(5)).await;
        }
        longest
    });
    (end, asking)
}

/// Every kind of slow client, many of each, is closed, and told why where that makes sense.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_closed_and_others_are_served() {
    const EACH: usize = 60;
    // The normal client must not be taken for one of them.
    let long = Duration::from_secs(2);
    let server = Server::plain(Timeouts { unused: long, head: long, idle: long, ..short() }).await;
    let (end, asking) = normal(&server);
    let unused = join_all((0..EACH).map(|_| async { rest(&mut server.connect().await).await }));
    let heads = join_all((0..EACH).map(|_| async {
        let mut stream = server.connect().await;
        // A byte now and then is no reason to wait longer.
        let (mut reading, mut writing) = stream.split();
        let slow = async {
            for byte in b"GET / HTTP/1.1\r\nhost: x\r\n".iter().cycle() {
                if writing.write_all(&[*byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_millis(50)).await;
            }
            std::future::pending::<()>().await;
        };
        let mut answer = Vec::new();
        tokio::select! {
            () = slow => {}
            _ = timeout(PATIENCE, async { while reading.read_buf(&mut answer).await.is_ok_and(|bytes| bytes > 0) {} }) => {}
        }
        String::from_utf8(answer).expect("text")
    }));
    let bodies = join_all((0..EACH).map(|_| async {
        let mut stream = server.connect().await;
        stream.write_all(b"POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nab").await.expect("a head");
        rest(&mut stream).await
    }));
    let idle = join_all((0..EACH).map(|_| async {
        let mut stream = server.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a request");
        rest(&mut stream).await
    }));
    let readers = join_all((0..EACH / 3).map(|_| async {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let mut stream = socket.connect(server.address).await.expect("a connection");
        stream.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a request");
        stream
    }));
    let (unused, heads, bodies, idle, readers) = tokio::join!(unused, heads, bodies, idle, readers);
    assert!(unused.iter().all(String::is_empty), "{unused:?}");
    for head in heads {
        assert!(head.starts_with("HTTP/1.1 408 ") && code(&head) == "BODY_TIMEOUT", "{head:?}");
    }
    for body in bodies {
        assert!(body.starts_with("HTTP/1.1 408 ") && body.contains("connection: close"), "{body}");
    }
    assert!(idle.iter().all(|text| text.ends_with("hello")), "{idle:?}");
    for (why, count) in [("unused", EACH), ("slow_head", EACH), ("idle", EACH), ("slow_reader", EACH / 3)] {
        server.has_closed(why, u64::try_from(count).expect("a number")).await;
    }
    for mut reader in readers {
        assert!(rest(&mut reader).await.len() < 16 << 20, "the answer is cut off");
    }
    end.send_replace(true);
    let longest = asking.await.expect("a normal client");
    println!("a normal client waited {longest:?} at most");
    assert!(longest < Duration::from_secs(3), "a normal client waited {longest:?}");
    server.is_left().await;
}

/// A reader that takes a little now and then is bounded, too.
#[tokio::test]
async fn readers_that_trickle_are_cut_off() {
    let timeouts = Timeouts { stall: PATIENCE, slowest: 1 << 20, ..short() };
    let server = Server::plain(timeouts).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(server.address).await.expect("a connection");
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a request");
    let start = Instant::now();
    let mut some = [0; 4096];
    while server.closed("slow_reader") == 0 && stream.read(&mut some).await.is_ok_and(|bytes| bytes > 0) {
        assert!(start.elapsed() < PATIENCE, "the connection stays open");
        sleep(Duration::from_millis(20)).await;
    }
    server.has_closed("slow_reader", 1).await;
}

#[tokio::test]
async fn connections_over_a_cap_are_told_so() {
    for (caps, cap, count) in [
        (Caps { per_address: 3, ..Caps::default() }, "address", 3),
        (Caps { connections: 4, ..Caps::default() }, "connections", 4),
    ] {
        let server = Server::start(routes(), caps, Timeouts::default()).await;
        let mut held = Vec::new();
        for _ in 0..count {
            let mut stream = server.connect().await;
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a request");
            let mut some = [0; 512];
            assert!(stream.read(&mut some).await.expect("an answer") > 0);
            held.push(stream);
        }
        let mut refused = server.connect().await;
        refused.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a request");
        let answer = rest(&mut refused).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 5\r\n"), "{answer}");
        assert!(answer.contains("connection: close\r\n") && code(&answer) == "TOO_MANY_CONNECTIONS", "{answer}");
        assert_eq!(server.figure(&format!("tenantry_http_refused_total{{cap=\"{cap}\"}}")), 1);
        // A place that is given back can be taken.
        drop(held.pop());
        server.has_closed("client", 1).await;
        let again = reqwest::get(server.url("/")).await.expect("an answer");
        assert_eq!(again.status(), 200);
    }
}

#[tokio::test]
async fn requests_over_the_cap_are_shed_and_health_is_not() {
    let (ready, go) = (Arc::new(Notify::new()), Arc::new(tokio::sync::Semaphore::new(0)));
    let work = {
        let (ready, go) = (Arc::clone(&ready), Arc::clone(&go));
        get(move || async move {
            ready.notify_one();
            drop(go.acquire().await);
            "done"
        })
    };
    let always = ["/healthz", "/readyz", "/metrics"];
    let router =
        always.iter().fold(routes().route("/work", work), |router, path| router.route(path, get(|| async { "ok" })));
    let server = Server::start(router, Caps { requests: 2, ..Caps::default() }, Timeouts::default()).await;
    // Whoever sends slowly takes nobody's place.
    let mut slow = Vec::new();
    for _ in 0..5 {
        let mut stream = server.connect().await;
        stream.write_all(b"POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n").await.expect("a head");
        slow.push(stream);
    }
    let mut working = Vec::new();
    for _ in 0..2 {
        working.push(tokio::spawn(reqwest::get(server.url("/work"))));
        timeout(PATIENCE, ready.notified()).await.expect("work");
    }
    let shed = reqwest::get(server.url("/")).await.expect("an answer");
    assert_eq!((shed.status().as_u16(), shed.headers()["retry-after"].as_bytes()), (503, &b"1"[..]));
    let shed: Value = shed.json().await.expect("JSON");
    assert_eq!(shed["errors"][0]["extensions"]["code"], "OVERLOADED");
    for path in always {
        assert_eq!(reqwest::get(server.url(path)).await.expect("an answer").status(), 200, "{path}");
    }
    assert_eq!(server.figure("tenantry_http_refused_total{cap=\"requests\"}"), 1);
    go.add_permits(2);
    for working in working {
        assert_eq!(working.await.expect("a task").expect("an answer").status(), 200);
    }
    assert_eq!(reqwest::get(server.url("/")).await.expect("an answer").status(), 200);
}

/// Half a second of requests from one process to the next on the same port: none is lost.
#[tokio::test]
async fn a_second_server_takes_over_the_port() {
    let bind = |port: u16| {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseport(true).expect("a shared port");
        socket.bind((IpAddr::from([127, 0, 0, 1]), port).into()).expect("the port");
        socket.listen(1024).expect("a listener")
    };
    let start = |listener: TcpListener, name: &'static str| {
        let router = Router::new().route("/", get(move || async move { name }));
        let listening = Arc::new(Listening::new(Caps::default(), Vec::new()));
        let (stop, stopping) = watch::channel(false);
        (stop, tokio::spawn(serve(listener, router, listening, stopping)))
    };
    let listener = bind(0);
    let address = listener.local_addr().expect("an address");
    let (stop_first, first) = start(listener, "first");
    let (end, ended) = watch::channel(false);
    let clients: Vec<_> = (0..8)
        .map(|n| {
            let ended = ended.clone();
            tokio::spawn(async move {
                let idle = if n % 2 == 0 { 0 } else { 8 };
                let client = reqwest::Client::builder().pool_max_idle_per_host(idle).build().expect("a client");
                let mut answers: Vec<&str> = Vec::new();
                while !*ended.borrow() {
                    let ask = async || client.get(format!("http://{address}/")).send().await?.text().await;
                    let text = match ask().await {
                        // A connection that was kept may be closed under a request (RFC 9112, section 9.3.1): what changes
                        // nothing is sent again.
                        Err(_) if idle > 0 => ask().await,
                        other => other,
                    };
                    answers.push(if text.expect("an answer") == "first" { "first" } else { "second" });
                }
                answers
            })
        })
        .collect();
    sleep(Duration::from_millis(150)).await;
    let (stop_second, second) = start(bind(address.port()), "second");
    sleep(Duration::from_millis(150)).await;
    stop_first.send_replace(true);
    timeout(PATIENCE, first).await.expect("the first ends").expect("well");
    sleep(Duration::from_millis(150)).await;
    end.send_replace(true);
    for answers in join_all(clients).await {
        let answers = answers.expect("a client whose requests were all answered");
        assert!(answers.first() == Some(&"first") && answers.last() == Some(&"second"), "{}", answers.len());
    }
    stop_second.send_replace(true);
    timeout(PATIENCE, second).await.expect("the second ends").expect("well");
}
