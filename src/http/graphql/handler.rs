//! `GET`, `POST` and `QUERY /graphql`: GraphQL over HTTP, sections 5 "Request" and 6 "Response"; RFC 10008 for `QUERY`.

use std::sync::Arc;
use std::time::Duration;

use async_graphql::parser::types::OperationType;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::execute::{self, Admitted, Caller, Record};
use super::failure::Failure;
use super::negotiate::{self, Accept, Media};
use super::request::Params;
use super::sse;
use super::{answer, caching};
use crate::error::Code;
use crate::http::Edge;
use crate::http::request_id;

/// How long a body may take to arrive.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const ACCEPT_QUERY: HeaderName = HeaderName::from_static("accept-query");
const ACCEPTED_QUERIES: HeaderValue = HeaderValue::from_static("application/json");
const METHODS: &str = "GET, POST, QUERY, OPTIONS";
/// The method of RFC 10008: safe as GET is, with a body as POST has.
const QUERY: &str = "QUERY";
/// What the answer to a trusted document depends on beside its URL. `cors` adds `Origin`.
const VARIES: &str =
    "Accept, Authorization, X-Organization-Id, GraphQL-Client-Name, X-GraphQL-Client-Name, Apollographql-Client-Name";

/// Answers a request.
pub(super) async fn handle(State(edge): State<Arc<Edge>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let caller = Caller::of(&parts, &edge);
    let mut record = Record::start(&edge, &caller, "http");
    if parts.method == Method::OPTIONS {
        record.status = StatusCode::NO_CONTENT;
        return offered(StatusCode::NO_CONTENT.into_response(), METHODS);
    }
    let Some(accept) = Accept::read(&parts.headers, edge.settings.statuses) else {
        let message = "Accept application/graphql-response+json, application/json or text/event-stream.";
        let failure = Failure::request(StatusCode::NOT_ACCEPTABLE, Code::NotAcceptable, message);
        return failed(Media::Json, failure, &mut record);
    };
    let media = accept.whole.unwrap_or(Media::Json);
    let admitted = match admit(&edge, &parts, body, accept, &caller, &mut record).await {
        Ok((admitted, true)) => return sse::events(&edge, admitted, record),
        Ok((admitted, false)) => admitted,
        // graphql-sse: what is wrong with the document is told in the stream, where clients look for it.
        Err(failure) if accept.whole.is_none() && failure.belongs_into_a_stream() => {
            return sse::failed(failure, record);
        }
        Err(failure) => return failed(media, failure, &mut record),
    };
    let revalidate = (parts.method == Method::GET && admitted.is_trusted_query()).then_some(&parts.headers);
    whole(&edge, media, admitted, revalidate, record).await
}

/// Tells which methods there are, and what a QUERY may be.
fn offered(mut response: Response, methods: &'static str) -> Response {
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response.headers_mut().insert(ACCEPT_QUERY, ACCEPTED_QUERIES);
    response
}

/// All checks in their order. The answer is a stream of events if the second value says so.
async fn admit(
    edge: &Arc<Edge>,
    parts: &Parts,
    body: Body,
    accept: Accept,
    caller: &Caller,
    record: &mut Record,
) -> Result<(Admitted, bool), Failure> {
    let params = read(edge, parts, body).await?;
    let prepared = execute::prepare(edge, caller, params)?;
    record.is(&prepared);
    let streamed = choose_transport(&parts.method, accept, prepared.operation.ty)?;
    Ok((execute::authorize(edge, caller, prepared).await?, streamed))
}

/// Whether the answer is a stream of events.
fn choose_transport(method: &Method, accept: Accept, ty: OperationType) -> Result<bool, Failure> {
    if ty == OperationType::Mutation && *method != Method::POST {
        let failure = Failure::method("POST", "Mutations change something: send them with POST.");
        // The draft has another status where the method is right and the document is wrong for it.
        let is_get = *method == Method::GET;
        return Err(if is_get { failure } else { failure.in_draft(StatusCode::UNPROCESSABLE_ENTITY) });
    }
    match ty {
        OperationType::Subscription if accept.events => Ok(true),
        OperationType::Subscription => Err(Failure::request(
            StatusCode::BAD_REQUEST,
            Code::SubscriptionNeedsAStream,
            "Subscriptions need a stream: send `Accept: text/event-stream`, or use the WebSocket at /graphql/ws.",
        )),
        _ => Ok(accept.whole.is_none()),
    }
}

async fn read(edge: &Edge, parts: &Parts, body: Body) -> Result<Params, Failure> {
    match parts.method {
        // Browsers ask before they send either from another site: POST for its content type, QUERY for the method.
        _ if parts.method == Method::POST || parts.method.as_str() == QUERY => {
            negotiate::check_content_type(&parts.headers)?;
            let bytes = collect(&parts.headers, body, edge.documents.limits().body, BODY_TIMEOUT).await?;
            Params::from_body(&bytes)
        }
        // A page of another site can make a browser send a GET. It cannot read the answer (CORS), the request carries no
        // credentials (bearer tokens, no cookies) and changes nothing (mutations are refused), so a plain GET is let
        // through as the audits of GraphQL over HTTP expect.
        Method::GET => Params::from_uri(&parts.uri),
        _ => Err(Failure::method(METHODS, "Send GraphQL requests with POST, or queries with GET or QUERY.")),
    }
}

/// The body, within its limits of size and time.
pub(super) async fn collect(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    patience: Duration,
) -> Result<axum::body::Bytes, Failure> {
    let too_large = || {
        let message =
            format!("The body is larger than {limit} bytes. Upload files elsewhere and split large requests.");
        Failure::request(StatusCode::PAYLOAD_TOO_LARGE, Code::BodyTooLarge, message)
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|announced| announced > limit) {
        return Err(too_large());
    }
    match tokio::time::timeout(patience, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Failure::request(StatusCode::BAD_REQUEST, Code::BadRequest, "The body ended early.")),
        Err(_) => {
            Err(Failure::request(StatusCode::REQUEST_TIMEOUT, Code::BodyTimeout, "The body took too long to arrive."))
        }
    }
}

/// Executes the operation. With the headers of a request that may be asked again, the answer tells how.
async fn whole(
    edge: &Edge,
    media: Media,
    admitted: Admitted,
    revalidate: Option<&HeaderMap>,
    mut record: Record,
) -> Response {
    let response = match execute::once(edge, admitted, &mut record).await {
        Ok(response) => response,
        Err(failure) => return failed(media, failure, &mut record),
    };
    record.status = media.executed(!response.errors.is_empty());
    let body = answer::json(&response);
    // What failed may succeed the next time.
    let revalidate = revalidate.filter(|_| response.errors.is_empty());
    let etag =
        revalidate.map(|_| caching::etag(media.content_type(StatusCode::OK).to_str().unwrap_or_default(), &body));
    let is_known = revalidate.zip(etag.as_ref()).is_some_and(|(headers, etag)| caching::is_known(headers, etag));
    let mut http = if is_known {
        record.status = StatusCode::NOT_MODIFIED;
        http(record.status, media, Vec::new(), &record)
    } else {
        http(record.status, media, body, &record)
    };
    if let Some(etag) = etag {
        let headers = http.headers_mut();
        headers.insert(ETAG, etag);
        // It holds what one viewer may see, as it is now: nobody else may keep it, and the viewer asks again.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        headers.insert(VARY, HeaderValue::from_static(VARIES));
        if is_known {
            headers.remove(CONTENT_TYPE);
        }
    }
    if edge.settings.development {
        let (exec, (statements, round_trips)) = (record.milliseconds(), record.traffic());
        let value = format!("exec;dur={exec:.2}, db;desc=\"{statements} statements in {round_trips} round trips\"");
        if let Ok(value) = HeaderValue::from_str(&value) {
            http.headers_mut().insert(SERVER_TIMING, value);
        }
    }
    http
}

/// A response without `data`, in one piece.
pub(super) fn failed(media: Media, failure: Failure, record: &mut Record) -> Response {
    let (status, allow, is_automatic) = (media.failed(&failure), failure.allow(), failure.is_automatic());
    let retry_after = failure.retry_after();
    let errors = record.settle(failure);
    record.status = status;
    let mut http = http(status, media, answer::json_of_errors(&errors), record);
    if is_automatic {
        // As Apollo's servers: the same request succeeds as soon as the document is registered.
        let value = HeaderValue::from_static("private, no-cache, must-revalidate");
        http.headers_mut().insert(CACHE_CONTROL, value);
    }
    if let Some(allow) = allow {
        http = offered(http, allow);
    } else if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        http.headers_mut().insert(ACCEPT_QUERY, ACCEPTED_QUERIES);
    }
    if record.status == StatusCode::UNAUTHORIZED {
        http.headers_mut().insert(axum::http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = retry_after {
        http.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    http
}

fn http(status: StatusCode, media: Media, body: Vec<u8>, record: &Record) -> Response {
    let mut http = (status, body).into_response();
    let headers = http.headers_mut();
    headers.insert(CONTENT_TYPE, media.content_type(status));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::from_str(&record.request_id)
        && !id.is_empty()
    {
        headers.insert(request_id::HEADER, id);
    }
    if let Some((policy, limit)) = record.standing.and_then(|standing| standing.headers()) {
        let values = [("ratelimit-policy", policy), ("ratelimit", limit)];
        for (name, value) in values {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
    http
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_that_do_not_come_are_not_waited_for() {
        let body = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let refused = collect(&HeaderMap::new(), body, 1024, Duration::from_millis(20)).await.expect_err("too slow");
        assert_eq!(refused.status(), StatusCode::REQUEST_TIMEOUT);
    }
}
