//! The HTTP edge: routes, request ids, and what stands before execution.

mod audit_stream;
pub mod client_address;
pub mod dev;
pub mod graphiql;
pub mod graphql;
pub mod health;
pub mod listener;
pub mod metrics;
mod observe;
mod ofrep;
pub mod request_id;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;

use crate::error::Code;
use crate::flags::Flags;
use crate::graphql::Services;
use crate::http::client_address::Proxies;
use crate::http::dev::DevLogin;
use crate::http::graphql::{Documents, Persisted, Planned, SlowLog, Statuses};
use crate::http::listener::Listening;
use crate::http::metrics::Tally;
use crate::rates::Rates;
use crate::schema::Schemas;
use crate::telemetry::trace::Tracer;
use crate::webhooks::Webhooks;

/// What every route can reach.
pub struct Edge {
    /// What sessions are made of.
    pub services: Arc<Services>,
    /// What decides about feature flags.
    pub flags: Arc<Flags>,
    pub schemas: Schemas,
    /// Parsed and checked documents.
    pub documents: Documents,
    /// Finds documents that requests name and do not carry. A process with an API keeps them ([`Persisted::keep`]).
    pub persisted: Persisted,
    /// What operations cost, and who may spend how much.
    pub rates: Arc<Rates>,
    /// The inbox of webhooks, and what is counted of them.
    pub webhooks: Arc<Webhooks>,
    /// Who may be what on a development server; `None` elsewhere.
    pub dev: Option<DevLogin>,
    /// What is counted of requests and operations.
    pub tally: Tally,
    /// Begins traces.
    pub tracer: Tracer,
    /// Says how slow statements are planned.
    pub plans: Planned,
    /// What the environment says.
    pub settings: EdgeSettings,
    /// What the connections to the routes are bound by.
    pub listening: Arc<Listening>,
    /// Turns true when the server is to stop.
    pub shutdown: watch::Receiver<bool>,
}

/// What the environment says about the HTTP edge.
#[derive(Clone, Debug)]
pub struct EdgeSettings {
    /// Whether this is a development server, whose errors say more.
    pub development: bool,
    pub introspection: bool,
    pub graphiql: bool,
    pub cors_origins: Vec<String>,
    /// Which statuses answers have for clients that do not say.
    pub statuses: Statuses,
    /// The operator's own proxies.
    pub proxies: Proxies,
    /// Which operations are logged as slow.
    pub slow: Option<SlowLog>,
    /// Which of the process's ports serve `/metrics`.
    pub metrics: MetricsRoute,
}

/// Which ports serve `/metrics` beside their own routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsRoute {
    /// None: `METRICS_PORT` has a port of its own.
    Apart,
    /// That of a process without an API.
    Worker,
    /// Every port.
    Everywhere,
}

/// All routes.
pub fn router(edge: &Arc<Edge>) -> Router {
    let mut router = Router::new()
        .merge(graphql::router(Arc::clone(edge)))
        .merge(health::router(Arc::clone(edge)))
        .merge(audit_stream::router(Arc::clone(edge)))
        .merge(ofrep::router(Arc::clone(edge)))
        .merge(crate::webhooks::receive::router(Arc::clone(&edge.webhooks)));
    if edge.settings.metrics == MetricsRoute::Everywhere {
        router = router.merge(metrics::router(Arc::clone(edge)));
    }
    if edge.settings.graphiql {
        router = router.merge(graphiql::router(graphiql::GraphiqlOptions { personas: edge.dev.is_some() }));
    }
    if edge.dev.is_some() {
        router = router.merge(dev::router(Arc::clone(edge)));
    }
    finish(router, edge)
}

/// The routes of a process that serves no API.
pub fn worker_router(edge: &Arc<Edge>) -> Router {
    let mut router = health::router(Arc::clone(edge));
    if edge.settings.metrics != MetricsRoute::Apart {
        router = router.merge(metrics::router(Arc::clone(edge)));
    }
    finish(router, edge)
}

/// The routes of `METRICS_PORT`.
pub fn metrics_router(edge: &Arc<Edge>) -> Router {
    finish(metrics::router(Arc::clone(edge)), edge)
}

/// What stands around every route.
fn finish(router: Router, edge: &Arc<Edge>) -> Router {
    router
        .fallback(not_found)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(edge), request_id::assign))
}

async fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, Code::NotFound, "There is nothing here. The API is at POST /graphql.")
}

/// An error outside of GraphQL, in GraphQL's form, so that a client needs one way to read errors.
pub(crate) fn error(status: StatusCode, code: Code, message: &str) -> Response {
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    (status, [(header::CONTENT_TYPE, json)], error_text(code, message)).into_response()
}

/// The body of such an error.
fn error_text(code: Code, message: &str) -> String {
    serde_json::json!({ "errors": [{ "message": message, "extensions": { "code": code.as_str() } }] }).to_string()
}

/// A bug: the cause is in the log, where the panic hook put it.
fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    tracing::error!("a request panicked");
    error(
        StatusCode::INTERNAL_SERVER_ERROR,
        Code::Internal,
        "Something went wrong on our side. Tell us the x-request-id.",
    )
}
