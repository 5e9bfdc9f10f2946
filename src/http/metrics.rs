//! `GET /metrics`: figures of this process, and of the inbox as the database has it, in Prometheus' text format.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use crate::app::App;
use crate::webhooks::inbox;

/// How long the database may take for its part.
const PATIENCE: Duration = Duration::from_secs(2);

/// The route.
pub fn router(app: Arc<App>) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(app)
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut text = app.webhooks.metrics.render();
    // While the database is away its part is missing, which is what a scraper shows as a gap.
    if let Ok(Ok(depth)) = tokio::time::timeout(PATIENCE, inbox::depth(&app.db)).await {
        text.push_str("# TYPE tenantry_webhooks_pending gauge\n");
        for depth in &depth {
            let source = depth.source.label().to_lowercase();
            text += &format!("tenantry_webhooks_pending{{source=\"{source}\"}} {}\n", depth.pending);
        }
        text.push_str("# TYPE tenantry_webhooks_oldest_pending_seconds gauge\n");
        let now = app.clock.now();
        for depth in &depth {
            let source = depth.source.label().to_lowercase();
            let age = depth.oldest.and_then(|oldest| (now - oldest).to_std().ok()).unwrap_or_default().as_secs_f64();
            text += &format!("tenantry_webhooks_oldest_pending_seconds{{source=\"{source}\"}} {age}\n");
        }
    }
    let (open, idle) = app.db.usage();
    text.push_str("# TYPE tenantry_database_connections gauge\n");
    text += &format!("tenantry_database_connections{{state=\"open\"}} {open}\n");
    text += &format!("tenantry_database_connections{{state=\"idle\"}} {idle}\n");
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4"), (header::CACHE_CONTROL, "no-store")], text).into_response()
}
