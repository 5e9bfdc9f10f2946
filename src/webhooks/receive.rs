//! `POST /webhooks/clerk` and `POST /webhooks/stripe`: verify the raw bytes, store them, answer.
//!
//! Nothing else happens in the request. The content type is not checked: the signature says who made the bytes, and
//! parsing shows whether they are JSON. Every verified JSON object is stored, also one that no worker understands. Ids
//! that `PostgreSQL` cannot store are replaced by their digest; the bytes are stored as they came.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use chrono::{DateTime, Utc};
use http_body_util::BodyExt as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::error::{Code, Error};
use crate::hex::hex;
use crate::webhook_events::WebhookSource;
use crate::webhooks::envelope::envelope;
use crate::webhooks::inbox::Delivery;
use crate::webhooks::{Webhooks, signature};

/// Largest body.
const MAX_BODY: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// Most characters of an id or a type.
const MAX_ID: usize = 255;
/// The type of an event that names none.
pub const NO_TYPE: &str = "(none)";

/// The routes of both senders.
pub fn router(webhooks: Arc<Webhooks>) -> Router {
    let route = |source| {
        post(move |State(webhooks): State<Arc<Webhooks>>, request: Request| async move {
            receive(&webhooks, source, request).await
        })
        .fallback(|| async {
            error(StatusCode::METHOD_NOT_ALLOWED, Code::MethodNotAllowed, "Webhooks are delivered with POST.")
        })
    };
    Router::new()
        .route("/webhooks/clerk", route(WebhookSource::Clerk))
        .route("/webhooks/stripe", route(WebhookSource::Stripe))
        .with_state(webhooks)
}

/// What an event says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The sender's type of the event.
    pub event_type: String,
    /// The sender's id of what the event is about.
    pub object_id: Option<String>,
    /// When the sender made it.
    pub created_at: Option<DateTime<Utc>>,
}

/// Reads the head of an event from its verified body; `None` when it has no type.
#[must_use]
pub fn head(source: WebhookSource, body: &Value) -> Option<Head> {
    let text = |pointer| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let millis = |time: Option<&Value>, unit: i64| {
        let time = time?.as_i64()?.checked_mul(unit)?;
        // From 1970 to 2100. Anything else is not a time.
        (0..4_102_444_800_000).contains(&time).then(|| DateTime::from_timestamp_millis(time)).flatten()
    };
    let event_type = text("/type").filter(|event_type| !event_type.is_empty())?;
    let (object_id, created_at) = match source {
        WebhookSource::Clerk => (text("/data/id"), millis(body.get("timestamp"), 1)),
        WebhookSource::Stripe => (
            // What a customer is entitled to has no id of its own.
            text("/data/object/id").or_else(|| text("/related_object/id")).or_else(|| text("/data/object/customer")),
            millis(body.get("created"), 1000),
        ),
    };
    Some(Head { event_type, object_id, created_at })
}

async fn receive(webhooks: &Webhooks, source: WebhookSource, request: Request) -> Response {
    match accept(webhooks, source, request).await {
        Ok(()) => {
            let json = HeaderValue::from_static("application/json");
            (StatusCode::OK, [(CONTENT_TYPE, json)], "{\"received\":true}").into_response()
        }
        Err(rejected) => {
            webhooks.metrics.refused(source, rejected.code.as_str());
            tracing::info!(?source, code = %rejected.code, "a webhook was refused");
            let mut response = error(rejected.status, rejected.code, &rejected.message);
            let headers = response.headers_mut();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            if rejected.status == StatusCode::SERVICE_UNAVAILABLE {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("10"));
            }
            response
        }
    }
}

/// The answer to a delivery that is not stored.
struct RejectedDelivery {
    status: StatusCode,
    code: Code,
    message: String,
}

impl RejectedDelivery {
    fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }
}

async fn accept(webhooks: &Webhooks, source: WebhookSource, request: Request) -> Result<(), RejectedDelivery> {
    let (parts, body) = request.into_parts();
    let secrets = webhooks.settings.secrets(source);
    if secrets.is_empty() {
        // Not 404: the sender must retry until the variable is set.
        let variable = source.secrets_variable();
        return Err(RejectedDelivery::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Code::WebhooksNotConfigured,
            format!("Set {variable} to the signing secret of this endpoint."),
        ));
    }
    let body = collect(&parts.headers, body, BODY_TIMEOUT).await?;
    let received_at = webhooks.clock.now();
    let verified = signature::verify(source, &parts.headers, &body, secrets, received_at)
        .map_err(|distrust| RejectedDelivery::new(StatusCode::UNAUTHORIZED, distrust.code(), distrust.message()))?;
    webhooks.metrics.verified(source, verified.secret);
    let value = envelope(&body).filter(Value::is_object).ok_or_else(|| {
        RejectedDelivery::new(StatusCode::BAD_REQUEST, Code::BadRequest, "The body is not a JSON object.")
    })?;
    let delivery = delivery(source, verified.event_id, &value, body, received_at);
    let (event_type, created_at) = (delivery.event_type.clone(), delivery.created_at);
    let new = webhooks.inbox.store(delivery).await.map_err(|error| {
        tracing::error!(?source, %error, "a webhook could not be stored; its sender will repeat it");
        let message = Error::Unavailable.to_string();
        RejectedDelivery::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, message)
    })?;
    webhooks.metrics.stored(source, &event_type, new);
    if new {
        webhooks.metrics.received(source, created_at, received_at);
    }
    Ok(())
}

/// An error in GraphQL's form: a client needs one way to read errors.
fn error(status: StatusCode, code: Code, message: &str) -> Response {
    let body =
        serde_json::json!({ "errors": [{ "message": message, "extensions": { "code": code.as_str() } }] }).to_string();
    (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"))], body).into_response()
}

/// The body, within its limits of size and time.
async fn collect(headers: &HeaderMap, body: Body, patience: Duration) -> Result<Bytes, RejectedDelivery> {
    tokio::time::timeout(patience, small(headers, body)).await.map_err(|_| {
        RejectedDelivery::new(StatusCode::REQUEST_TIMEOUT, Code::BodyTimeout, "The body took too long to arrive.")
    })?
}

/// The body, if it is not too large.
async fn small(headers: &HeaderMap, mut body: Body) -> Result<Bytes, RejectedDelivery> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let mut bytes = Vec::with_capacity(announced.unwrap_or(0).min(MAX_BODY));
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(RejectedDelivery::new(StatusCode::BAD_REQUEST, Code::BadRequest, "The body ended early."));
        };
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > MAX_BODY {
            let message = format!("The body is larger than {MAX_BODY} bytes.");
            return Err(RejectedDelivery::new(StatusCode::PAYLOAD_TOO_LARGE, Code::BodyTooLarge, message));
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes.into())
}

fn delivery(
    source: WebhookSource,
    header_id: Option<String>,
    value: &Value,
    raw_body: Bytes,
    received_at: DateTime<Utc>,
) -> Delivery {
    let head = head(source, value).unwrap_or_default();
    let event_id = header_id.or_else(|| value.get("id").and_then(Value::as_str).map(str::to_owned));
    let event_id = event_id.filter(|id| !id.is_empty());
    Delivery {
        source,
        // Without an id, equal bytes are the same event.
        event_id: event_id.map_or_else(|| digest(&raw_body), storable),
        event_type: if head.event_type.is_empty() { NO_TYPE.to_owned() } else { storable(head.event_type) },
        object_id: head.object_id.filter(|id| !id.is_empty()).map(storable),
        raw_body,
        created_at: head.created_at,
        received_at,
    }
}

/// The text if the column can store it, otherwise its digest, which identifies it as well.
fn storable(text: String) -> String {
    if text.chars().count() <= MAX_ID && !text.contains('\0') { text } else { digest(text.as_bytes()) }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn heads_are_read_tolerantly() {
        let clerk = json!({ "type": "user.created", "timestamp": 1_700_000_000_123_i64, "instance_id": "ins_1", "data": { "id": "user_1" } });
        let read = head(WebhookSource::Clerk, &clerk).expect("a head");
        assert_eq!(read.object_id.as_deref(), Some("user_1"));
        assert_eq!(read.created_at.map(|at| at.timestamp_millis()), Some(1_700_000_000_123));
        let stripe = json!({ "type": "invoice.paid", "created": 1_700_000_000, "account": "acct_1", "data": { "object": { "id": "in_1" } } });
        let read = head(WebhookSource::Stripe, &stripe).expect("a head");
        assert_eq!(read.object_id.as_deref(), Some("in_1"));
        assert_eq!(read.created_at.map(|at| at.timestamp()), Some(1_700_000_000));
        let odd = json!({ "type": "x", "created": i64::MAX, "account": 7, "data": [1], "timestamp": "soon" });
        for source in [WebhookSource::Clerk, WebhookSource::Stripe] {
            assert_eq!(head(source, &odd), Some(Head { event_type: "x".into(), ..Head::default() }));
            for none in [json!({}), json!({ "type": "" }), json!({ "type": 1 }), json!([]), json!(null)] {
                assert_eq!(head(source, &none), None, "{none}");
            }
        }
    }

    #[tokio::test]
    async fn bodies_that_do_not_come_are_not_waited_for() {
        let body = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let refused = collect(&HeaderMap::new(), body, Duration::from_millis(20)).await.expect_err("too slow");
        assert_eq!((refused.status, refused.code), (StatusCode::REQUEST_TIMEOUT, Code::BodyTimeout));
    }

    #[test]
    fn what_a_column_cannot_hold_is_replaced() {
        let body = json!({ "id": "evt\0_1", "type": "t".repeat(300), "data": { "object": { "id": "a'b\"c" } } });
        let raw = Bytes::from(body.to_string());
        let stored = delivery(WebhookSource::Stripe, None, &body, raw.clone(), DateTime::UNIX_EPOCH);
        assert!(stored.event_id.starts_with("sha256:") && stored.event_type.starts_with("sha256:"), "{stored:?}");
        assert_eq!(stored.object_id.as_deref(), Some("a'b\"c"));
        assert_eq!(stored.raw_body, raw);
        let empty = delivery(WebhookSource::Stripe, None, &json!({}), Bytes::from_static(b"{}"), DateTime::UNIX_EPOCH);
        assert_eq!((empty.event_type.as_str(), empty.object_id), (NO_TYPE, None));
    }
}
