//! Requests by route. Labels are the routes of the program, the methods it knows and statuses.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{Method, StatusCode};

use crate::telemetry::histogram::Histogram;
use crate::telemetry::trace::Scope;

/// In seconds.
const BOUNDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Routes(Mutex<BTreeMap<Box<str>, Counted>>);

#[derive(Debug, Default)]
struct Counted {
    responses: BTreeMap<(&'static str, u16), u64>,
    seconds: BTreeMap<&'static str, Histogram>,
}

impl Routes {
    /// The head of an answer was ready.
    pub fn add(&self, route: &str, method: &Method, status: StatusCode, time: Duration, scope: Option<&Scope>) {
        let method = method_label(method);
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !routes.contains_key(route) {
            routes.insert(route.into(), Counted::default());
        }
        let Some(counted) = routes.get_mut(route) else { return };
        *counted.responses.entry((method, status.as_u16())).or_default() += 1;
        let seconds = counted.seconds.entry(method).or_insert_with(|| Histogram::new(BOUNDS));
        seconds.observe_in(time, scope);
    }

    /// Writes the series.
    pub fn render(&self, text: &mut String) {
        let routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.push_str("# TYPE tenantry_http_responses_total counter\n");
        for (route, counted) in &*routes {
            for ((method, status), count) in &counted.responses {
                let labels = format!("route=\"{route}\",method=\"{method}\",status=\"{status}\"");
                writeln!(text, "tenantry_http_responses_total{{{labels}}} {count}").ok();
            }
        }
        text.push_str("# TYPE tenantry_http_response_seconds histogram\n");
        for (route, counted) in &*routes {
            for (method, seconds) in &counted.seconds {
                let labels = format!("route=\"{route}\",method=\"{method}\"");
                seconds.render(text, "tenantry_http_response_seconds", &labels);
            }
        }
    }
}

/// Methods are the client's words: one that is not known is not told apart.
#[must_use]
pub fn method_label(method: &Method) -> &'static str {
    const KNOWN: [&str; 8] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "QUERY"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}
