//! The GraphQL layer before execution: GraphQL over HTTP, graphql-sse and graphql-transport-ws.
//!
//! A request goes through `negotiate` and `request` (is it a request?), `lexer`, `limits`, `rules`, `complexity` and
//! `variables` (all in `document`: may the document be executed?; `persisted` finds those that are asked for by an id or a
//! hash), `execute` (who asks, and may they?), `charge` (can they pay for it?)
//! and leaves through `handler`, `sse`, `reserved` or `ws`. Errors leave through `errors`, which gives each a code and the request's
//! id and keeps causes in the log.
//!
//! Nothing of this is in async-graphql's own integration for axum: that executes mutations over GET and as `text/plain`,
//! answers 200 to everything, takes batches of any length and has no limits before the parser.

mod answer;
mod caching;
mod catalog;
mod charge;
mod complexity;
mod cors;
mod document;
mod errors;
mod execute;
mod failure;
mod handler;
mod lexer;
mod limits;
mod negotiate;
mod parse;
mod persisted;
mod record;
mod request;
mod reserved;
mod rewrite;
mod rules;
mod slow;
mod sse;
mod told;
mod values;
mod variables;
mod ws;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};

use bytes::Bytes;
pub use cors::cors;
pub use document::{Documents, Prepared};
pub(super) use execute::Caller;
pub use failure::Failure;
pub use limits::Limits;
pub use negotiate::Statuses;
pub use persisted::{Manifests, Persisted, PersistedConfig, TrustedMode};
pub use slow::{Planned, SlowLog};

use crate::error::Code;
use crate::http::Edge;

/// The routes of the API.
pub fn router(edge: Arc<Edge>) -> Router {
    // Hashed and copied once: it has 300 kB.
    let sdl = Bytes::from(edge.schemas.sdl.clone());
    let etag = caching::etag("sdl", &sdl);
    let published = move |State(edge): State<Arc<Edge>>, request: Request| {
        let response = schema(&edge, request, sdl.clone(), etag.clone());
        async move { response }
    };
    Router::new()
        .route("/graphql", any(handler::handle))
        .route("/graphql/ws", get(ws::upgrade))
        .merge(reserved::router(Arc::clone(&edge)))
        .route("/graphql/schema.graphql", get(published))
        .route_layer(from_fn_with_state(Arc::clone(&edge), cors))
        .with_state(edge)
}

/// The SDL, where introspection is allowed.
fn schema(edge: &Arc<Edge>, request: Request, sdl: Bytes, etag: HeaderValue) -> Response {
    if !edge.settings.introspection {
        let caller = execute::Caller::of(&request.into_parts().0, edge);
        let mut record = execute::Record::start(edge, &caller, "http");
        let message = "The schema is not published here.";
        let failure = Failure::request(StatusCode::NOT_FOUND, Code::NotFound, message);
        return handler::failed(negotiate::Media::Json, failure, &mut record);
    }
    let known = caching::is_known(request.headers(), &etag);
    let body = if known { (StatusCode::NOT_MODIFIED, Bytes::new()) } else { (StatusCode::OK, sdl) };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ETAG, etag);
    response
}
