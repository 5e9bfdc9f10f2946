//! `GET` and `POST /graphql`: GraphQL over HTTP, sections 5 "Request" and 6 "Response".

use std::sync::Arc;
use std::time::Duration;

use async_graphql::parser::types::OperationType;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::answer;
use super::execute::{self, Admitted, Caller, Record};
use super::failure::Failure;
use super::negotiate::{self, Accept, Media};
use super::request::Params;
use super::sse;
use crate::error::Code;
use crate::http::Edge;
use crate::http::request_id;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Answers a request.
pub(super) async fn handle(State(edge): State<Arc<Edge>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let caller = Caller::of(&parts, &edge);
    let mut record = Record::start(&edge, &caller, "http");
    let Some(accept) = Accept::read(&parts.headers) else {
        let message = "Accept application/graphql-response+json, application/json or text/event-stream.";
        let failure = Failure::request(StatusCode::NOT_ACCEPTABLE, Code::NotAcceptable, message);
        return failed(Media::Json, failure, &mut record);
    };
    let media = accept.whole.unwrap_or(Media::Json);
    let admitted = match admit(&edge, &parts, body, accept, &caller, &mut record).await {
        Ok((admitted, true)) => return sse::events(&edge, admitted, record),
        Ok((admitted, false)) => admitted,
        // graphql-sse: what is wrong with the document is told in the stream, where clients look for it.
        Err(failure) if accept.whole.is_none() && failure.is_in_document() => return sse::failed(failure, record),
        Err(failure) => return failed(media, failure, &mut record),
    };
    whole(&edge, media, admitted, record).await
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
    let prepared = execute::prepare(edge, params)?;
    record.is(&prepared);
    let streamed = choose_transport(&parts.method, accept, prepared.operation.ty)?;
    Ok((execute::authorize(edge, caller, prepared).await?, streamed))
}

/// Whether the answer is a stream of events.
fn choose_transport(method: &Method, accept: Accept, ty: OperationType) -> Result<bool, Failure> {
    if *method == Method::GET && ty == OperationType::Mutation {
        return Err(Failure::method("POST", "Mutations change something: send them with POST."));
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
        Method::POST => {
            negotiate::check_content_type(&parts.headers)?;
            let bytes = collect(&parts.headers, body, edge.documents.limits().body).await?;
            Params::from_body(&bytes)
        }
        // A page of another site can make a browser send a GET. It cannot read the answer (CORS), the request carries no
        // credentials (bearer tokens, no cookies) and changes nothing (mutations are refused), so a plain GET is let
        // through as the audits of GraphQL over HTTP expect.
        Method::GET => Params::from_uri(&parts.uri),
        _ => Err(Failure::method("GET, POST", "Send GraphQL requests with POST, or queries with GET.")),
    }
}

async fn collect(headers: &HeaderMap, body: Body, limit: usize) -> Result<axum::body::Bytes, Failure> {
    let too_large = || {
        let message =
            format!("The body is larger than {limit} bytes. Upload files elsewhere and split large requests.");
        Failure::request(StatusCode::PAYLOAD_TOO_LARGE, Code::BodyTooLarge, message)
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|announced| announced > limit) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Failure::request(StatusCode::BAD_REQUEST, Code::BadRequest, "The body ended early.")),
        Err(_) => {
            Err(Failure::request(StatusCode::REQUEST_TIMEOUT, Code::BodyTimeout, "The body took too long to arrive."))
        }
    }
}

async fn whole(edge: &Edge, media: Media, admitted: Admitted, mut record: Record) -> Response {
    let response = match execute::once(edge, admitted, &mut record).await {
        Ok(response) => response,
        Err(failure) => return failed(media, failure, &mut record),
    };
    // Executed is executed: errors of fields stand in the body, the status is 200.
    record.status = StatusCode::OK;
    let mut http = http(StatusCode::OK, media, answer::json(&response), &record);
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
    let allow = failure.allow();
    let in_document = failure.is_in_document();
    let errors = record.settle(failure);
    // Clients of `application/json` cannot tell our 400 from a proxy's, so the specification keeps 200 for them.
    if media == Media::Json && in_document {
        record.status = StatusCode::OK;
    }
    let mut http = http(record.status, media, answer::json_of_errors(&errors), record);
    if let Some(allow) = allow {
        http.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    match record.status {
        StatusCode::UNAUTHORIZED => {
            http.headers_mut().insert(axum::http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            http.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        _ => {}
    }
    http
}

fn http(status: StatusCode, media: Media, body: Vec<u8>, record: &Record) -> Response {
    let mut http = (status, body).into_response();
    let headers = http.headers_mut();
    headers.insert(CONTENT_TYPE, media.content_type());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::from_str(&record.request_id)
        && !id.is_empty()
    {
        headers.insert(request_id::HEADER, id);
    }
    http
}
