//! Answers as a stream of events: the "distinct connections mode" of the GraphQL over Server-Sent Events protocol
//! (graphql-sse). Events of subscriptions have ids; whoever comes back with the last one, in `Last-Event-ID`, misses nothing (HTML,
//! section 9.2).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_graphql::Value;
use axum::body::Body;
use axum::http::HeaderName;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::watch;
use tokio::time::{Instant, interval_at};

use super::answer;
use super::execute::{self, Admitted, EVENT_ID, Record};
use super::failure::Failure;
use crate::http::Edge;

/// Proxies close connections on which nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(12);

/// Executes an operation and streams its answers.
pub(super) fn events(edge: &Arc<Edge>, admitted: Admitted, record: Record) -> Response {
    let passed = admitted.progress.passed();
    let answers = execute::stream(edge, admitted, record).map(|answer| next(&answer));
    // When the server stops the stream is cut without `complete`, so that clients connect again, elsewhere.
    let stopped = Box::pin(execute::until_shutdown(edge));
    respond(answers.chain(stream::iter([COMPLETE])).take_until(stopped), Some(passed))
}

/// A stream that says what is wrong and ends.
pub(super) fn failed(failure: Failure, mut record: Record) -> Response {
    let errors = record.settle(failure);
    let event = [b"event: next\ndata: ", answer::json_of_errors(&errors).as_slice(), b"\n\n"].concat();
    respond(stream::iter([event.into(), COMPLETE]), None)
}

/// JSON has no line breaks, so the data is one line.
fn next(answer: &async_graphql::Response) -> Bytes {
    let json = answer::json(answer);
    match answer.extensions.get(EVENT_ID) {
        Some(Value::String(id)) => [b"id: ", id.as_bytes(), b"\nevent: next\ndata: ", &json, b"\n\n"].concat().into(),
        _ => [b"event: next\ndata: ".as_slice(), &json, b"\n\n"].concat().into(),
    }
}

/// Browsers drop events without a `data` line, so there is an empty one.
const COMPLETE: Bytes = Bytes::from_static(b"event: complete\ndata:\n\n");

/// What goes between the events: a comment against proxies, and, when a subscription has begun or come further without anything to
/// tell, where it is. An id without data tells the client nothing else.
async fn between(passed: Option<&mut watch::Receiver<Option<Arc<str>>>>) -> Bytes {
    let Some(passed) = passed else { return std::future::pending().await };
    // The sender is gone with the operation, and then its stream has ended.
    if passed.changed().await.is_err() {
        return std::future::pending().await;
    }
    let id = passed.borrow_and_update().clone();
    id.map_or_else(|| COMMENT, |id| format!("id: {id}\n\n").into())
}

const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// The answer with this stream in its body; `passed`: how far it has come beside what it says.
pub(super) fn respond(
    events: impl Stream<Item = Bytes> + Send + 'static,
    passed: Option<watch::Receiver<Option<Arc<str>>>>,
) -> Response {
    let idle = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    let kept_alive =
        stream::unfold((events.boxed(), idle, passed, false), |(mut events, mut idle, mut passed, begun)| async move {
            let mut has_begun = begun;
            let bytes = tokio::select! {
                biased;
                event = events.next() => event?,
                place = between(passed.as_mut()), if !begun => {
                    has_begun = true;
                    place
                }
                _ = idle.tick() => {
                    let moved = passed.as_mut().filter(|passed| passed.has_changed().unwrap_or(false));
                    match moved { Some(passed) => between(Some(passed)).await, None => COMMENT }
                }
            };
            idle.reset();
            Some((Ok::<_, Infallible>(bytes), (events, idle, passed, has_begun)))
        });
    let headers = [
        (CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        // Nginx buffers streams unless told not to.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(kept_alive)).into_response()
}
