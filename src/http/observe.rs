//! What is recorded of every request: a span, if its trace is recorded, and its place in the figures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, Method, StatusCode};

use super::Edge;
use super::metrics::method_label;
use crate::clock::Clock;
use crate::telemetry::trace::{Remote, Scope, Span};

/// Routes that machines ask every few seconds: their traces would hide the others.
const UNRECORDED: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Where a request belongs in the traces; its handler hangs its own spans there.
#[derive(Clone, Debug)]
pub(super) struct Traced(pub(super) Scope);

/// A request under way.
pub(super) struct Observed {
    edge: Arc<Edge>,
    route: Option<MatchedPath>,
    method: Method,
    started: Instant,
    remote: Option<Remote>,
    span: Option<Span>,
    status: Option<StatusCode>,
}

impl Observed {
    pub(super) fn begin(edge: &Arc<Edge>, request: &Request, request_id: &str) -> Self {
        let route = request.extensions().get::<MatchedPath>().cloned();
        let method = request.method().clone();
        let remote = remote(request.headers());
        let path = route.as_ref().map(MatchedPath::as_str);
        let recorded = path.is_none_or(|path| !UNRECORDED.contains(&path));
        let span = if recorded { begin(edge, path, &method, remote, request_id) } else { None };
        Self { edge: Arc::clone(edge), route, method, started: Instant::now(), remote, span, status: None }
    }

    /// Where the request belongs, if its trace is recorded.
    pub(super) fn scope(&self) -> Option<&Scope> {
        self.span.as_ref().map(Span::scope)
    }

    /// The ids that its log lines are found by: those of its span, else the caller's.
    pub(super) fn ids(&self) -> Option<(String, String)> {
        let ours = self.scope().map(|scope| (scope.trace_id(), scope.span_id()));
        let ids = ours.or_else(|| self.remote.map(|remote| (remote.trace, remote.span)))?;
        Some((ids.0.to_string(), ids.1.to_string()))
    }

    /// The head of the answer is ready.
    pub(super) fn end(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        // Nginx's status for a client that went away.
        let status = self.status.unwrap_or_else(|| StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST));
        let route = self.route.as_ref().map_or("-", MatchedPath::as_str);
        let scope = self.span.as_ref().map(Span::scope);
        self.edge.tally.routes.add(route, &self.method, status, self.started.elapsed(), scope);
        if let Some(span) = &mut self.span {
            span.set("http.response.status_code", u32::from(status.as_u16()));
            if status.is_server_error() {
                span.set("error.type", status.as_u16().to_string());
                span.fail();
            }
        }
    }
}

/// The names are those of "HTTP spans" (OpenTelemetry). Of the path only the route is told: paths and queries hold values.
fn begin(edge: &Edge, route: Option<&str>, method: &Method, remote: Option<Remote>, request_id: &str) -> Option<Span> {
    let now = Clock::System.now().timestamp_nanos_opt().and_then(|nanoseconds| u64::try_from(nanoseconds).ok());
    let method = method_label(method);
    let mut span = edge.tracer.begin(method.into(), remote, Duration::from_nanos(now.unwrap_or_default()))?;
    span.set("http.request.method", method);
    span.set("url.scheme", "http");
    span.set("tenantry.request_id", request_id.to_owned());
    if let Some(route) = route {
        span.rename(format!("{method} {route}"));
        span.set("http.route", route.to_owned());
    }
    Some(span)
}

/// The caller's trace. Of two headers neither counts (W3C Trace Context, section 3.2).
fn remote(headers: &HeaderMap) -> Option<Remote> {
    let mut given = headers.get_all("traceparent").iter();
    let first = given.next()?;
    if given.next().is_some() {
        return None;
    }
    Remote::parse(first.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_callers_none_is_believed() {
        let values = [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b7-01",
        ];
        let mut headers = HeaderMap::new();
        assert_eq!(remote(&headers), None);
        headers.append("traceparent", values[0].parse().expect("a value"));
        assert_eq!(remote(&headers), Remote::parse(values[0]));
        headers.append("traceparent", values[1].parse().expect("a value"));
        assert_eq!(remote(&headers), None);
    }
}
