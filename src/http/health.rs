//! `GET /healthz`: the process lives. `GET /readyz`: it can work, that is the database answers and its migrations are
//! those of this build or newer.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Router, routing::get};

use crate::db::migrations;
use crate::http::Edge;

/// Both routes.
pub fn router(edge: Arc<Edge>) -> Router {
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready)).with_state(edge)
}

async fn ready(State(edge): State<Arc<Edge>>) -> Response {
    let version = tokio::time::timeout(Duration::from_secs(2), edge.services.db.migration_version()).await;
    let (status, database, detail) = match version {
        Ok(Ok((version, _))) if *edge.shutdown.borrow() => {
            (StatusCode::SERVICE_UNAVAILABLE, true, format!("stopping; migrations at {version}"))
        }
        // Reading works: whoever balances load had no better instance to send it to.
        Ok(Ok((version, false))) if version >= migrations::newest() => {
            (StatusCode::OK, true, format!("migrations at {version}; the database takes no writes: it is a standby"))
        }
        Ok(Ok((version, true))) if version >= migrations::newest() => {
            (StatusCode::OK, true, format!("migrations at {version}"))
        }
        Ok(Ok((version, _))) => (
            StatusCode::SERVICE_UNAVAILABLE,
            true,
            format!("migrations at {version}, this build needs {}: run `tenantry migrate up`", migrations::newest()),
        ),
        Ok(Err(_)) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, false, "the database does not answer".to_owned()),
    };
    let body = serde_json::json!({ "ready": status == StatusCode::OK, "database": database, "detail": detail });
    (status, [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body.to_string())
        .into_response()
}
