//! A request on its way through a connection.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::{CACHE_CONTROL, CONNECTION, RETRY_AFTER};
use axum::http::{HeaderValue, Request, Response, StatusCode, Version};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use super::caps::Work;
use super::progress::Progress;
use super::{Listening, MOST_LINGERED, OVERLOADED};
use crate::error::Code;

/// Bodies whose rest is no larger are read to their end, so that the connection can be used again.
const SMALL_REST: u64 = 64 * 1024;

/// Routes that are answered whatever else there is to do.
const ALWAYS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// What the requests of a connection share.
#[derive(Clone)]
pub(super) struct Requests {
    pub(super) router: TowerToHyperService<Router>,
    pub(super) listening: Arc<Listening>,
    pub(super) progress: Arc<Progress>,
    pub(super) peer: SocketAddr,
}

impl Requests {
    /// Answers a request.
    pub(super) async fn answer(self, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
        let serving = Serving::begin(self.progress);
        let version = request.version();
        let work = Work::begin(&self.listening);
        let is_shed = work.is_none() && !ALWAYS.contains(&request.uri().path());
        let upload = Arc::new(Mutex::new(Upload { work, left: left(request.body()) }));
        // Over HTTP/1.1 it is the socket that is listened to.
        let linger = Some(self.listening.timeouts.linger).filter(|_| version >= Version::HTTP_2);
        let mut request = request.map(|body| {
            let ends = body.is_end_stream();
            let upload = Arc::clone(&upload);
            if ends { Body::empty() } else { Body::new(Watched { body: Some(body), upload, linger }) }
        });
        let mut response = if is_shed {
            self.listening.counts.shed();
            overloaded()
        } else {
            request.extensions_mut().insert(ConnectInfo(self.peer));
            let Ok(response) = self.router.call(request).await;
            response
        };
        let mut upload = lock(&upload);
        // A stream that is answered works for nobody while nothing happens.
        upload.work = None;
        if version < Version::HTTP_2 {
            let is_slow = response.status() == StatusCode::REQUEST_TIMEOUT;
            if upload.left > SMALL_REST || is_slow || serving.progress.is_closing() {
                // The connection is closed, and clients like to know.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            if upload.left > 0 {
                serving.progress.answered_early();
            }
        }
        Ok(response.map(|body| Answer { body, serving, waits: false }))
    }
}

/// How many bytes of a body are to come at most.
fn left(body: &Incoming) -> u64 {
    if body.is_end_stream() { 0 } else { body.size_hint().upper().unwrap_or(u64::MAX) }
}

fn overloaded() -> Response<Body> {
    let mut response = crate::http::error(StatusCode::SERVICE_UNAVAILABLE, Code::Overloaded, OVERLOADED);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A request under way, from its head to the end of its answer.
struct Serving {
    progress: Arc<Progress>,
}

impl Serving {
    fn begin(progress: Arc<Progress>) -> Self {
        progress.asked();
        Self { progress }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.progress.answered(Instant::now());
    }
}

/// The body of a request as it comes.
struct Upload {
    work: Option<Work>,
    /// Bytes to come at most.
    left: u64,
}

fn lock(upload: &Mutex<Upload>) -> MutexGuard<'_, Upload> {
    upload.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body of a request: while it is waited for, the request is not at work.
struct Watched {
    /// Until it is dropped.
    body: Option<Incoming>,
    upload: Arc<Mutex<Upload>>,
    /// How long the rest of a body that nobody wants is taken in.
    linger: Option<Duration>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        let left = left(body);
        let mut upload = lock(&self.upload);
        if let Some(work) = &mut upload.work {
            work.rest(polled.is_pending());
        }
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(_))) => upload.left = left,
            Poll::Ready(_) => upload.left = 0,
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut upload = lock(&self.upload);
        if let Some(work) = &mut upload.work {
            work.rest(false);
        }
        if upload.left > 0
            && let (Some(linger), Some(mut body), Ok(runtime)) = (self.linger, self.body.take(), Handle::try_current())
        {
            // A stream that is reset, even without an error, is to some clients one without an answer.
            runtime.spawn(timeout(linger, async move {
                let mut taken = 0;
                while let Some(Ok(frame)) = body.frame().await {
                    taken += frame.data_ref().map_or(0, Bytes::len);
                    if taken > MOST_LINGERED {
                        break;
                    }
                }
            }));
        }
    }
}

/// The body of an answer, and with it the end of its request.
pub(super) struct Answer {
    body: Body,
    serving: Serving,
    /// A piece was given and nobody has asked for the next one.
    waits: bool,
}

impl Answer {
    fn waits(&mut self, waits: bool) {
        if self.waits != waits {
            self.waits = waits;
            self.serving.progress.waits(waits, Instant::now());
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.waits(false);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.waits(true);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.waits(false);
    }
}
