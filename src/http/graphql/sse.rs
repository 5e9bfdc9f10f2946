//! Answers as a stream of events: the "distinct connections mode" of the GraphQL over Server-Sent Events protocol
//! (graphql-sse).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderName;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::time::{Instant, interval_at};

use super::answer;
use super::execute::{self, Admitted, Record};
use super::failure::Failure;
use crate::http::Edge;

/// Proxies close connections on which nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(12);

/// Executes an operation and streams its answers.
pub(super) fn events(edge: &Arc<Edge>, admitted: Admitted, record: Record) -> Response {
    let answers = execute::stream(edge, admitted, record).map(|answer| next(&answer::json(&answer)));
    // When the server stops the stream is cut without `complete`, so that clients connect again, elsewhere.
    let stopped = Box::pin(execute::until_shutdown(edge));
    respond(answers.chain(stream::iter([COMPLETE])).take_until(stopped))
}

/// A stream that says what is wrong and ends.
pub(super) fn failed(failure: Failure, mut record: Record) -> Response {
    let errors = record.settle(failure);
    respond(stream::iter([next(&answer::json_of_errors(&errors))]).chain(stream::iter([COMPLETE])))
}

fn next(json: &[u8]) -> Bytes {
    // JSON has no line breaks, so the data is one line.
    Bytes::from([b"event: next\ndata: ", json, b"\n\n"].concat())
}

/// Browsers drop events without a `data` line, so there is an empty one.
const COMPLETE: Bytes = Bytes::from_static(b"event: complete\ndata:\n\n");

fn respond(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let idle = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    let kept_alive = stream::unfold((events.boxed(), idle), |(mut events, mut idle)| async move {
        let bytes = tokio::select! {
            biased;
            event = events.next() => event?,
            _ = idle.tick() => Bytes::from_static(b":\n\n"),
        };
        idle.reset();
        Some((Ok::<_, Infallible>(bytes), (events, idle)))
    });
    let headers = [
        (CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        // Nginx buffers streams unless told not to.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(kept_alive)).into_response()
}
