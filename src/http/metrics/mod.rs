//! `GET /metrics`: figures of this process, and of the inbox and the jobs as the database has them, in Prometheus' text format
//! or, where the scraper prefers it, in `OpenMetrics`.
//!
//! Whoever asks often takes no more of the database than two statements every few seconds.

mod exposition;
mod families;
mod operations;
mod process;
mod routes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use chrono::{DateTime, Utc};
use tokio::sync::Mutex;

use crate::error::Result;
use crate::flags::Flags;
use crate::http::Edge;
use crate::job_runs::{self, JobState};
use crate::webhooks::inbox::{self, Depth};

pub use families::FAMILIES;
pub use operations::{Ended, Operations, Outcome, code_label};
pub use routes::{Routes, method_label};

use exposition::Form;

/// What the HTTP edge counts.
#[derive(Debug, Default)]
pub struct Tally {
    pub operations: Operations,
    pub routes: Routes,
}

/// How long the database may take for its part.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long its part is good for, in seconds.
const FRESH: i64 = 5;

/// What the database answered, and when.
type Asked = Option<(DateTime<Utc>, Arc<Known>)>;

/// What the database knows.
struct Known {
    depth: Vec<Depth>,
    jobs: Vec<JobState>,
}

/// What the requests share.
#[derive(Clone)]
struct Figures {
    edge: Arc<Edge>,
    /// The database's part as it was when it was last asked for. Who asks holds it, and the others wait for the answer.
    known: Arc<Mutex<Asked>>,
}

impl Figures {
    async fn known(&self) -> Result<Arc<Known>> {
        let mut asked = self.known.lock().await;
        let now = self.edge.services.clock.now();
        if let Some((at, known)) = asked.as_ref()
            && (0..FRESH).contains(&(now - *at).num_seconds())
        {
            return Ok(Arc::clone(known));
        }
        let db = &self.edge.services.db;
        let known = Arc::new(Known { depth: inbox::depth(db).await?, jobs: job_runs::states(db).await? });
        *asked = Some((now, Arc::clone(&known)));
        Ok(known)
    }
}

/// The route.
pub fn router(edge: Arc<Edge>) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(Figures { edge, known: Arc::default() })
}

async fn metrics(State(figures): State<Figures>, headers: HeaderMap) -> Response {
    let edge = &figures.edge;
    let form = Form::accepted(&headers);
    let mut text = edge.webhooks.metrics.render();
    // While the database is away its part is missing, which is what a scraper shows as a gap.
    if let Ok(Ok(known)) = tokio::time::timeout(PATIENCE, figures.known()).await {
        let depth = &known.depth;
        text.push_str("# TYPE tenantry_webhooks_pending gauge\n");
        for depth in depth {
            let source = depth.source.label().to_lowercase();
            text += &format!("tenantry_webhooks_pending{{source=\"{source}\"}} {}\n", depth.pending);
        }
        text.push_str("# TYPE tenantry_webhooks_findings gauge\n");
        for depth in depth {
            let source = depth.source.label().to_lowercase();
            text += &format!("tenantry_webhooks_findings{{source=\"{source}\"}} {}\n", depth.findings);
        }
        text.push_str("# TYPE tenantry_webhooks_oldest_pending_seconds gauge\n");
        let now = edge.services.clock.now();
        for depth in depth {
            let source = depth.source.label().to_lowercase();
            let age = depth.oldest.and_then(|oldest| (now - oldest).to_std().ok()).unwrap_or_default().as_secs_f64();
            text += &format!("tenantry_webhooks_oldest_pending_seconds{{source=\"{source}\"}} {age}\n");
        }
        render_jobs(&mut text, &known.jobs, now);
    }
    render_flags(&mut text, &edge.flags);
    edge.persisted.render(&mut text);
    edge.listening.render(&mut text);
    render_rates(&mut text, edge);
    edge.tally.operations.render(&mut text);
    edge.tally.routes.render(&mut text);
    render_loads(&mut text, edge);
    render_pools(&mut text, edge);
    render_traces(&mut text, edge);
    process::render(&mut text);
    let headers = [(header::CONTENT_TYPE, form.content_type()), (header::CACHE_CONTROL, "no-store")];
    (headers, form.write(&text)).into_response()
}

fn render_loads(text: &mut String, edge: &Edge) {
    let loaded = edge.services.loads.so_far();
    for (family, number) in [("batches", 0), ("keys", 1)] {
        *text += &format!("# TYPE tenantry_loader_{family}_total counter\n");
        for ((entity, kind), (batches, keys)) in &loaded {
            let count = if number == 0 { batches } else { keys };
            *text += &format!("tenantry_loader_{family}_total{{entity=\"{entity}\",kind=\"{kind}\"}} {count}\n");
        }
    }
}

fn render_pools(text: &mut String, edge: &Edge) {
    let pools = edge.services.db.usage();
    text.push_str("# TYPE tenantry_database_connections gauge\n");
    for pool in &pools {
        for (state, count) in [("in_use", pool.in_use), ("idle", pool.idle)] {
            let labels = format!("pool=\"{}\",state=\"{state}\"", pool.name);
            *text += &format!("tenantry_database_connections{{{labels}}} {count}\n");
        }
    }
    text.push_str("# TYPE tenantry_database_connections_limit gauge\n");
    for pool in &pools {
        *text += &format!("tenantry_database_connections_limit{{pool=\"{}\"}} {}\n", pool.name, pool.limit);
    }
    let watched = || pools.iter().filter_map(|pool| Some((pool.name, pool.waits?)));
    text.push_str("# TYPE tenantry_database_waiting gauge\n");
    for (pool, waits) in watched() {
        *text += &format!("tenantry_database_waiting{{pool=\"{pool}\"}} {}\n", waits.waiting());
    }
    text.push_str("# TYPE tenantry_database_acquire_seconds histogram\n");
    for (pool, waits) in watched() {
        waits.seconds.render(text, "tenantry_database_acquire_seconds", &format!("pool=\"{pool}\""));
    }
    text.push_str("# TYPE tenantry_database_acquire_failures_total counter\n");
    for (pool, waits) in watched() {
        *text += &format!("tenantry_database_acquire_failures_total{{pool=\"{pool}\"}} {}\n", waits.in_vain());
    }
}

/// What became of spans, where traces are switched on.
fn render_traces(text: &mut String, edge: &Edge) {
    let Some(counts) = edge.tracer.counts() else { return };
    text.push_str("# TYPE tenantry_trace_spans_total counter\n");
    let outcomes = [
        ("exported", &counts.exported),
        ("overflowed", &counts.overflowed),
        ("failed", &counts.failed),
        ("too_many", &counts.too_many),
    ];
    for (outcome, count) in outcomes {
        *text += &format!("tenantry_trace_spans_total{{outcome=\"{outcome}\"}} {}\n", count.load(Ordering::Relaxed));
    }
}

/// What decides about feature flags in this process; a worker has nothing of it.
fn render_flags(text: &mut String, flags: &Flags) {
    if !flags.is_loaded() {
        return;
    }
    let age = flags.age().to_std().unwrap_or_default().as_secs_f64();
    let stale = u8::from(flags.is_away() || flags.snapshot().is_err());
    let (organizations, bytes) =
        flags.snapshot().map_or((0, 0), |snapshot| (snapshot.organizations(), snapshot.size()));
    let gauges = [
        ("snapshot_age_seconds", age.to_string()),
        ("stale", stale.to_string()),
        ("organizations", organizations.to_string()),
        ("snapshot_bytes", bytes.to_string()),
        ("credentials", flags.admissions.len().to_string()),
    ];
    for (name, value) in gauges {
        *text += &format!("# TYPE tenantry_flags_{name} gauge\ntenantry_flags_{name} {value}\n");
    }
    let evaluations = flags.usage.requests();
    *text += &format!("# TYPE tenantry_flags_requests_total counter\ntenantry_flags_requests_total {evaluations}\n");
}

/// What operations cost, what was refused, and who waits for a connection.
fn render_rates(text: &mut String, edge: &Edge) {
    let (rates, db) = (&edge.rates, &edge.services.db);
    *text += &format!("# TYPE tenantry_api_cost_total counter\ntenantry_api_cost_total {}\n", rates.charged());
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let refusals = &rates.refusals;
    *text += "# TYPE tenantry_api_refusals_total counter\n";
    for (reason, count) in [
        ("credential", of(&refusals.credential)),
        ("organization", of(&refusals.organization)),
        ("too_expensive", of(&refusals.too_expensive)),
        ("waiting", db.refused()),
    ] {
        *text += &format!("tenantry_api_refusals_total{{reason=\"{reason}\"}} {count}\n");
    }
    *text += &format!("# TYPE tenantry_api_budgets gauge\ntenantry_api_budgets {}\n", rates.len());
}

/// A family of series: its name, its type, and its value for a job.
type Family = (&'static str, &'static str, fn(&JobState, DateTime<Utc>) -> Option<f64>);

const JOBS: &[Family] = &[
    ("runs_total", "counter", |job, _| count(job.runs)),
    ("failures_total", "counter", |job, _| count(job.failures)),
    ("rows_total", "counter", |job, _| count(job.done)),
    ("seconds_total", "counter", |job, _| Some(job.seconds)),
    ("last_duration_seconds", "gauge", |job, _| seconds(job.last_started_at, job.last_finished_at)),
    ("last_success_age_seconds", "gauge", |job, now| seconds(job.last_succeeded_at, Some(now))),
    ("running", "gauge", |job, _| Some(if job.running_pid.is_some() { 1.0 } else { 0.0 })),
];

/// Numbers of all instances: each of them tells the same. The label is the name of a job; only jobs have rows.
fn render_jobs(text: &mut String, jobs: &[JobState], now: DateTime<Utc>) {
    for (name, kind, value) in JOBS {
        *text += &format!("# TYPE tenantry_job_{name} {kind}\n");
        for job in jobs {
            if let Some(value) = value(job, now) {
                *text += &format!("tenantry_job_{name}{{job=\"{}\"}} {value}\n", job.name);
            }
        }
    }
}

/// Exact as far as the format is: it has floating point numbers only.
fn count(rows: i64) -> Option<f64> {
    rows.to_string().parse().ok()
}

fn seconds(from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Option<f64> {
    Some((to? - from?).to_std().unwrap_or_default().as_secs_f64())
}
