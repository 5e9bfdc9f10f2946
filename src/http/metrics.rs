//! `GET /metrics`: figures of this process, and of the inbox as the database has it, in Prometheus' text format.
//!
//! Whoever asks often takes no more of the database than one statement every few seconds.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use chrono::{DateTime, Utc};
use tokio::sync::Mutex;

use crate::error::Result;
use crate::http::Edge;
use crate::webhooks::inbox::{self, Depth};

/// How long the database may take for its part.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long its part is good for, in seconds.
const FRESH: i64 = 5;

/// What the database answered, and when.
type Asked = Option<(DateTime<Utc>, Vec<Depth>)>;

/// What the requests share.
#[derive(Clone)]
struct Figures {
    edge: Arc<Edge>,
    /// The inbox as it was when it was last asked for. Who asks holds it, and the others wait for the answer.
    depth: Arc<Mutex<Asked>>,
}

impl Figures {
    async fn depth(&self) -> Result<Vec<Depth>> {
        let mut known = self.depth.lock().await;
        let now = self.edge.services.clock.now();
        if let Some((at, depth)) = known.as_ref()
            && (0..FRESH).contains(&(now - *at).num_seconds())
        {
            return Ok(depth.clone());
        }
        let depth = inbox::depth(&self.edge.services.db).await?;
        *known = Some((now, depth.clone()));
        Ok(depth)
    }
}

/// The route.
pub fn router(edge: Arc<Edge>) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(Figures { edge, depth: Arc::default() })
}

async fn metrics(State(figures): State<Figures>) -> Response {
    let edge = &figures.edge;
    let mut text = edge.webhooks.metrics.render();
    // While the database is away its part is missing, which is what a scraper shows as a gap.
    if let Ok(Ok(depth)) = tokio::time::timeout(PATIENCE, figures.depth()).await {
        text.push_str("# TYPE tenantry_webhooks_pending gauge\n");
        for depth in &depth {
            let source = depth.source.label().to_lowercase();
            text += &format!("tenantry_webhooks_pending{{source=\"{source}\"}} {}\n", depth.pending);
        }
        text.push_str("# TYPE tenantry_webhooks_findings gauge\n");
        for depth in &depth {
            let source = depth.source.label().to_lowercase();
            text += &format!("tenantry_webhooks_findings{{source=\"{source}\"}} {}\n", depth.findings);
        }
        text.push_str("# TYPE tenantry_webhooks_oldest_pending_seconds gauge\n");
        let now = edge.services.clock.now();
        for depth in &depth {
            let source = depth.source.label().to_lowercase();
            let age = depth.oldest.and_then(|oldest| (now - oldest).to_std().ok()).unwrap_or_default().as_secs_f64();
            text += &format!("tenantry_webhooks_oldest_pending_seconds{{source=\"{source}\"}} {age}\n");
        }
    }
    let (open, idle) = edge.services.db.usage();
    text.push_str("# TYPE tenantry_database_connections gauge\n");
    text += &format!("tenantry_database_connections{{state=\"open\"}} {open}\n");
    text += &format!("tenantry_database_connections{{state=\"idle\"}} {idle}\n");
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4"), (header::CACHE_CONTROL, "no-store")], text).into_response()
}
