//! The `OpenFeature` Remote Evaluation Protocol, 0.3 (github.com/open-feature/protocol, `service/openapi.yaml`): feature flags for
//! any `OpenFeature` SDK. `docs/OFREP.md` is for its users.
//!
//! The credential comes first: without one nobody learns of a flag, nor is a body read. The organization is the credential's; the
//! context names whom to decide for, where the credential is not a person's, and nothing else of it is read. What is decided comes
//! from memory ([`crate::flags`]).

mod answer;
mod context;
mod stream;
mod ticket;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::json;

use crate::error::Error;
use crate::flags::admission::{Admitted, Refusal, Visitor, Who, unit_of};
use crate::flags::snapshot::mix;
use crate::graphql::Credentials;
use crate::http::Edge;
use crate::http::graphql::{Caller, cors};
use context::Asked;
use stream::Streams;
use ticket::Ticket;

/// The largest body: contexts have a few hundred bytes.
const MAX_BODY: usize = 256 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The query parameter by which a client says which change it has heard of.
const CONFIG_ETAG: &str = "flagConfigEtag";
/// Seconds after which a page that nobody looks at lets go of its stream.
const INACTIVITY: u32 = 120;

/// What the routes share.
#[derive(Clone)]
struct Ofrep {
    edge: Arc<Edge>,
    streams: Arc<Streams>,
}

/// The routes.
pub fn router(edge: Arc<Edge>) -> Router {
    let state = Ofrep { edge: Arc::clone(&edge), streams: Arc::default() };
    Router::new()
        .route("/ofrep/v1/evaluate/flags", post(evaluate_all))
        // Whatever stands there: that there is no such flag is said as the protocol says it.
        .route("/ofrep/v1/evaluate/flags/{*key}", post(evaluate_one))
        .route("/ofrep/v1/stream", get(stream::open))
        .route_layer(from_fn_with_state(edge, cors))
        .with_state(state)
}

/// What went wrong with a request, as the protocol says it.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    code: &'static str,
    details: String,
    retry_after: Option<u64>,
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, details: impl Into<String>) -> Self {
        Self { status, code, details: details.into(), retry_after: None }
    }

    /// `key`: of the flag that was asked for. The client libraries take a failure for one of the protocol by its key.
    fn response(self, key: Option<&str>) -> Response {
        let mut body = json!({ "errorCode": self.code, "errorDetails": self.details });
        if let Some(key) = key {
            body["key"] = key.into();
        }
        let mut response = whole(self.status, body.to_string().into_bytes());
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if let Error::Internal(cause) = &error {
            tracing::error!(error = %cause, "a request for flags failed");
        }
        let failure = Self::new(error.status(), "GENERAL", error.to_string());
        Self { retry_after: (failure.status == StatusCode::SERVICE_UNAVAILABLE).then_some(5), ..failure }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Error(error) => error.into(),
            Refusal::ClientToken(why) => Self::new(StatusCode::UNAUTHORIZED, "GENERAL", why),
            Refusal::TooMany(seconds) => {
                let details = format!("Too many requests with this credential or from this address: wait {seconds} s.");
                Self { retry_after: Some(seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "GENERAL", details) }
            }
        }
    }
}

/// Who sent a request. `X-API-Key` is the protocol's other way to send a key.
fn caller_of(parts: &Parts, edge: &Edge) -> Caller {
    let mut caller = Caller::of(parts, edge);
    if caller.authorization.is_none()
        && let Some(key) = parts.headers.get("x-api-key")
    {
        caller.authorization = Some(format!("Bearer {}", String::from_utf8_lossy(key.as_bytes())));
    }
    caller
}

impl Ofrep {
    async fn admit(&self, caller: &Caller) -> Result<Arc<Admitted>, Failure> {
        let credentials = Credentials {
            authorization: caller.authorization.as_deref(),
            organization: caller.organization.as_deref(),
            request_id: &caller.request_id,
            ip: caller.ip,
        };
        let flags = &self.edge.flags;
        Ok(flags.admissions.admit(flags, &self.edge.services, Visitor { credentials }).await?)
    }
}

impl Ofrep {
    /// Notes that the key of a client token was used.
    fn note(&self, admitted: &Admitted, now: DateTime<Utc>) {
        if let Who::Client { key, .. } = admitted.proof.who {
            self.edge.flags.usage.key(admitted.proof.organization, key, now);
        }
    }
}

/// Whom flags are decided for: the credential's person, or whom the context names.
fn unit(admitted: &Admitted, asked: &Asked) -> Option<String> {
    admitted.proof.who.unit().or_else(|| asked.targeting_key.as_deref().map(unit_of))
}

async fn evaluate_one(
    State(ofrep): State<Ofrep>,
    key: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    // A name that is no text is no flag's.
    let key = key.map(|Path(key)| key).unwrap_or_default();
    match decide_one(&ofrep, &key, request).await {
        Ok(response) => response,
        Err(failure) => failure.response(Some(&key)),
    }
}

async fn decide_one(ofrep: &Ofrep, key: &str, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let admitted = ofrep.admit(&caller_of(&parts, &ofrep.edge)).await?;
    let asked = context::read(&collect(&parts.headers, body, BODY_TIMEOUT).await?)?;
    let flags = &ofrep.edge.flags;
    let (snapshot, now) = (flags.loaded_snapshot().await?, flags.clock().now());
    let organization = admitted.proof.organization;
    let Some(definition) = snapshot.definitions().get(key) else {
        return Err(Failure::new(StatusCode::NOT_FOUND, "FLAG_NOT_FOUND", "There is no flag with this key."));
    };
    let unit = unit(&admitted, &asked);
    let decider = snapshot.decider(organization, unit.as_deref(), now);
    let evaluation = decider
        .decide(definition)
        .map_err(|_| Failure::new(StatusCode::BAD_REQUEST, answer::TARGETING_KEY_MISSING, answer::KEY_IS_MISSING))?;
    flags.usage.one(organization, key, now);
    ofrep.note(&admitted, now);
    let mut text = Vec::with_capacity(256);
    answer::write(&mut text, key, &evaluation).map_err(Error::internal)?;
    let mut response = whole(StatusCode::OK, text);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn evaluate_all(State(ofrep): State<Ofrep>, request: Request) -> Response {
    decide_all(&ofrep, request).await.unwrap_or_else(|failure| failure.response(None))
}

async fn decide_all(ofrep: &Ofrep, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let admitted = ofrep.admit(&caller_of(&parts, &ofrep.edge)).await?;
    let asked = context::read(&collect(&parts.headers, body, BODY_TIMEOUT).await?)?;
    let flags = &ofrep.edge.flags;
    let organization = admitted.proof.organization;
    if let Some(told) = told_of(&parts) {
        // The instance that told of the change is ahead of this one, perhaps.
        flags.catch_up(organization, &told).await;
    }
    let (snapshot, now) = (flags.loaded_snapshot().await?, flags.clock().now());
    let unit = unit(&admitted, &asked);
    let ticket = Ticket::of(&admitted, now).seal(&flags.stream_secret()?);
    let config = snapshot.etag(organization, now);
    // What else decides what is answered. The address of the stream is part of it, so that nobody keeps one that has expired.
    let subject = [unit.as_deref().unwrap_or("\0"), &ticket]
        .into_iter()
        .flat_map(str::bytes)
        .fold(0, |tag, byte| mix(tag, byte.into()));
    let etag = format!("\"{config}-{subject:016x}\"");
    flags.usage.all(organization, now);
    ofrep.note(&admitted, now);
    let mut response = if is_known(&parts.headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let decider = snapshot.decider(organization, unit.as_deref(), now);
        let mut text = Vec::with_capacity(256 + 160 * decider.definitions().len());
        answer::write_all(&mut text, &decider, &ticket, config).map_err(Error::internal)?;
        whole(StatusCode::OK, text)
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(ETAG, etag);
    }
    Ok(response)
}

/// Which change the client has heard of, if it is one of ours.
fn told_of(parts: &Parts) -> Option<String> {
    let query = parts.uri.query()?;
    let value = query.split('&').find_map(|pair| pair.strip_prefix(CONFIG_ETAG)?.strip_prefix('='))?;
    (value.len() == 16 && value.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| value.to_owned())
}

/// Whether the client has this answer. Clients that take the quotes away are understood.
fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let mut known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    known.any(|known| {
        known.split(',').any(|one| one.trim().trim_start_matches("W/").trim_matches('"') == etag.trim_matches('"'))
    })
}

async fn collect(headers: &HeaderMap, body: Body, patience: Duration) -> Result<Bytes, Failure> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|announced| announced > MAX_BODY) {
        return Err(too_large());
    }
    match tokio::time::timeout(patience, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Failure::new(StatusCode::BAD_REQUEST, "PARSE_ERROR", "The body ended early.")),
        Err(_) => Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "GENERAL", "The body took too long to arrive.")),
    }
}

fn too_large() -> Failure {
    let details = format!("The body is larger than {MAX_BODY} bytes: send what identifies the user, not their data.");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "INVALID_CONTEXT", details)
}

fn whole(status: StatusCode, body: Vec<u8>) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (status, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_that_do_not_come_are_not_waited_for() {
        let body = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let refused = collect(&HeaderMap::new(), body, Duration::from_millis(20)).await.expect_err("too slow");
        assert_eq!(refused.status, StatusCode::REQUEST_TIMEOUT);
    }
}
