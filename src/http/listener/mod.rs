//! The listener: accepts connections, bounds how many there are and how long they may do nothing, and has them served.
//!
//! HTTP/1.1 with upgrades and HTTP/2 "with prior knowledge" come in on the same port, without TLS: that is a proxy's. What each
//! limit is and what a client sees of it is in `docs/CONNECTIONS.md`.
//!
//! `caps` counts, `progress` knows what a connection is doing, `guarded` is its socket, `service` its requests, and `frames` looks
//! for floods of HTTP/2 frames. The task of a connection (`connection`) lets hyper do the work and asks what is due.

mod caps;
mod counts;
mod frames;
mod guarded;
mod progress;
mod service;

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

pub use caps::{Caps, open_files};
pub use progress::{Reason, Timeouts};

use crate::error::Code;
use crate::network::Network;
use caps::{Full, Slot, Taken};
use counts::{Counts, Ended};
use guarded::Guarded;
use progress::{Due, Progress};
use service::Requests;

/// The largest head of a request over HTTP/1.1, in bytes; hyper allows for 100 headers.
const MAX_HEAD: usize = 64 * 1024;
/// The largest list of headers over HTTP/2, in bytes (RFC 9113, section 6.5.2).
const MAX_HEADER_LIST: u32 = 32 * 1024;
/// Requests of one connection at the same time.
const MAX_STREAMS: u32 = 128;
/// Bytes that are held of one answer over HTTP/2 before its client has room for them.
const MAX_SEND_BUFFER: usize = 256 * 1024;
/// Bytes that the kernel takes of what is written and cannot be sent yet. Without a bound it copies four megabytes for each client
/// that does not read: of 400 at once, that is most of a second in which nobody is answered. What is on its way is not bound by it.
const MAX_UNSENT: u32 = 128 * 1024;
/// How much of what a client still sends after its answer is taken in, in bytes.
const MOST_LINGERED: usize = 8 << 20;
/// How many refusals are written at the same time; above that connections are closed without a word.
const REFUSALS: usize = 256;
/// How long a refused client may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections that came just before the stop may still ask for something for so long.
const LAST_CALL: Duration = Duration::from_secs(1);
/// How long nothing is accepted after an error of the system, such as too many open files.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a peer may leave sent data unacknowledged, and how long one that is gone is believed to be there: the kernel ends
/// the connection then.
const GONE: Duration = Duration::from_secs(40);

const OVERLOADED: &str = "The server has too much to do at the moment: try again in a second.";

/// What connections are bound by, and what is known of them all.
#[derive(Debug)]
pub struct Listening {
    caps: Caps,
    timeouts: Timeouts,
    /// The operator's own proxies: all clients come from there.
    proxies: Vec<Network>,
    taken: Taken,
    counts: Counts,
    refusals: Arc<Semaphore>,
}

impl Listening {
    /// With the usual timeouts.
    #[must_use]
    pub fn new(caps: Caps, proxies: Vec<Network>) -> Self {
        Self {
            caps,
            timeouts: Timeouts::default(),
            proxies,
            taken: Taken::default(),
            counts: Counts::default(),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
        }
    }

    /// With other timeouts.
    #[must_use]
    pub fn with_timeouts(self, timeouts: Timeouts) -> Self {
        Self { timeouts, ..self }
    }

    /// How long the phases of its connections may take.
    pub(crate) fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Writes what is counted, in Prometheus' text format.
    pub fn render(&self, text: &mut String) {
        counts::render(text, self);
    }

    fn is_proxy(&self, peer: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.has(peer))
    }
}

/// Serves until `stop` turns true; then takes no new connections and lets requests under way end, for at most
/// [`Timeouts::grace`].
pub async fn serve(listener: TcpListener, router: Router, listening: Arc<Listening>, mut stop: watch::Receiver<bool>) {
    let builder = builder(&listening.timeouts);
    let server = Server { router: TowerToHyperService::new(router), listening, builder, stop: stop.clone() };
    let server = Arc::new(server);
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = async { drop(stop.wait_for(|stop| *stop).await) } => break,
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => server.take(&mut tasks, stream, peer),
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
    // Those whose clients believe to be connected.
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        server.take(&mut tasks, stream, peer);
    }
    drop(listener);
    let ended = async { while tasks.join_next().await.is_some() {} };
    if timeout(server.listening.timeouts.grace, ended).await.is_err() {
        tracing::warn!("some requests did not end in time and were cut off");
    }
}

/// The client went away while its connection was in the queue.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset)
}

fn builder(timeouts: &Timeouts) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(MAX_HEAD).header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(32)
        .max_local_error_reset_streams(256)
        .keep_alive_interval(timeouts.ping)
        .keep_alive_timeout(timeouts.pong);
    builder
}

/// What all connections of a listener share.
struct Server {
    router: TowerToHyperService<Router>,
    listening: Arc<Listening>,
    builder: Builder<TokioExecutor>,
    stop: watch::Receiver<bool>,
}

impl Server {
    /// Takes a connection, or says why not.
    fn take(self: &Arc<Self>, tasks: &mut JoinSet<()>, stream: TcpStream, peer: SocketAddr) {
        set_options(&stream);
        match Slot::take(&self.listening, peer.ip()) {
            Ok(slot) => drop(tasks.spawn(Arc::clone(self).connection(stream, peer, slot))),
            Err(full) => {
                self.listening.counts.refused(full);
                if let Ok(permit) = Arc::clone(&self.listening.refusals).try_acquire_owned() {
                    tasks.spawn(async move {
                        // A client that does not read has itself to blame.
                        drop(timeout(REFUSAL_TIMEOUT, refuse(stream, full)).await);
                        drop(permit);
                    });
                }
            }
        }
    }

    /// Serves a connection to its end.
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, slot: Slot) {
        let (listening, timeouts) = (&self.listening, &self.listening.timeouts);
        let progress = Arc::new(Progress::new(Instant::now()));
        let guarded = Guarded::new(stream, Arc::clone(&progress), *timeouts, slot);
        let requests = Requests {
            router: self.router.clone(),
            listening: Arc::clone(listening),
            progress: Arc::clone(&progress),
            peer,
        };
        let service = service_fn(move |request| requests.clone().answer(request));
        let mut served = pin!(self.builder.serve_connection_with_upgrades(TokioIo::new(guarded), service));
        let mut alarm = pin!(sleep_until(Instant::now() + timeouts.unused));
        let mut stop = self.stop.clone();
        let mut stopped = pin!(stop.wait_for(|stop| *stop));
        // Nobody has said to stop; we shall, once something was heard; hyper knows.
        let (mut stops, mut told) = (false, false);
        let result = loop {
            let event = std::future::poll_fn(|cx| {
                if let Poll::Ready(result) = served.as_mut().poll(cx) {
                    return Poll::Ready(Event::Ended(result.is_ok()));
                }
                if stops && !told && progress.was_heard() {
                    return Poll::Ready(Event::Stop);
                }
                if !stops && stopped.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Stop);
                }
                loop {
                    match progress.due(timeouts, Instant::now()) {
                        Due::At(at) => {
                            if alarm.is_elapsed() || at < alarm.deadline() {
                                alarm.as_mut().reset(at);
                            }
                            if alarm.as_mut().poll(cx).is_pending() {
                                return Poll::Pending;
                            }
                        }
                        due => return Poll::Ready(Event::Due(due)),
                    }
                }
            });
            match event.await {
                Event::Ended(well) => break well,
                Event::Stop if stops || progress.was_heard() => {
                    progress.closes(Reason::Stopped, timeouts.linger, Instant::now());
                    served.as_mut().graceful_shutdown();
                    (stops, told) = (true, true);
                }
                Event::Stop => {
                    progress.closes(Reason::Stopped, LAST_CALL, Instant::now());
                    stops = true;
                }
                Event::Due(Due::Close(reason)) => {
                    progress.closes(reason, timeouts.linger, Instant::now());
                    served.as_mut().graceful_shutdown();
                }
                Event::Due(Due::Cut(Reason::SlowHead)) => {
                    progress.closes(Reason::SlowHead, timeouts.linger, Instant::now());
                    // The socket tells it the client, and ends the connection.
                    progress.expire();
                }
                Event::Due(Due::Cut(reason)) => {
                    progress.ends(reason);
                    break true;
                }
                Event::Due(Due::Over | Due::At(_)) => break true,
            }
        };
        listening.counts.closed(&match progress.reason() {
            Some(reason) => Ended::ByUs(reason),
            None if result => Ended::ByClient,
            None => Ended::InError,
        });
    }
}

/// What happens to a connection.
enum Event {
    /// It has ended, well or not.
    Ended(bool),
    /// The server is to stop.
    Stop,
    /// Something is due.
    Due(Due),
}

/// Answers at once, and peers that are gone are found out. Where the system does not have an option, it goes without.
fn set_options(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(GONE).with_interval(GONE / 4).with_retries(4);
    drop(socket.set_tcp_nodelay(true));
    drop(socket.set_tcp_keepalive(&keepalive));
    #[cfg(target_os = "linux")]
    {
        drop(socket.set_tcp_user_timeout(Some(GONE)));
        drop(socket.set_tcp_notsent_lowat(MAX_UNSENT));
    }
}

/// Says why a connection is not taken.
async fn refuse(mut stream: TcpStream, full: Full) -> io::Result<()> {
    let message = match full {
        Full::InAll => "The server has too many connections: try again later.",
        Full::Address => {
            "Your address has too many connections here: close some, or keep them open and use them again."
        }
    };
    let text = plain("503 Service Unavailable", "retry-after: 5\r\n", Code::TooManyConnections, message);
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    // What it has sent must be read, or the answer is lost.
    let mut rest = [0; 4096];
    for _ in 0..16 {
        if stream.read(&mut rest).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// What a client is told whose head did not come.
fn slow_head() -> String {
    let message = "The head of the request took too long to arrive.";
    plain("408 Request Timeout", "", Code::BodyTimeout, message)
}

/// An answer without a request.
fn plain(status: &str, headers: &str, code: Code, message: &str) -> String {
    let body = crate::http::error_text(code, message);
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nconnection: close\r\n{headers}\r\n{body}",
        body.len()
    )
}
