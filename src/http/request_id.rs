//! Request ids: one for every request, in the response header `x-request-id`, in errors, logs and audit rows.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

use super::Edge;
use super::observe::{Observed, Traced};
use crate::clock::Clock;
use crate::id::Id;

/// The header.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// Takes the caller's id where it is harmless, else makes one, and records the request under it.
pub async fn assign(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let id = request.headers().get(HEADER).and_then(|value| value.to_str().ok()).filter(|id| acceptable(id));
    let id = id.map_or_else(|| Id::<()>::new(&Clock::System).uuid().simple().to_string(), str::to_owned);
    request.extensions_mut().insert(RequestId(id.clone()));
    let observed = Observed::begin(&edge, &request, &id);
    // As severe as can be: whatever level is logged, its lines name their request.
    let span = if let Some((trace, span)) = observed.ids() {
        tracing::error_span!("request", id = %id, trace_id = trace, span_id = span)
    } else {
        tracing::error_span!("request", id = %id)
    };
    if let Some(scope) = observed.scope() {
        request.extensions_mut().insert(Traced(scope.clone()));
    }
    let mut response = next.run(request).instrument(span).await;
    observed.end(response.status());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HEADER, value);
    }
    response
}

/// Ids go into logs and rows: letters, digits and `-_.` only, at most 128 of them.
fn acceptable(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::acceptable;

    #[test]
    fn only_harmless_ids_are_taken_over() {
        assert!(acceptable("0199c0ff-ee00_7000.a"));
        for bad in ["", "a b", "a\"b", "é", &"x".repeat(129)] {
            assert!(!acceptable(bad), "{bad}");
        }
    }
}
