//! Operations that took longer than `SLOW_OPERATION_MS`: what they are, and what they waited for. With `SLOW_OPERATION_PLANS`
//! the log also says how their slowest statement is planned. No values are in any of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::db::{SlowStatement, StatementText, Traffic};
use crate::http::Edge;

/// The same statement's plan is told again after this time.
const AGAIN: Duration = Duration::from_hours(1);
/// So many statements are remembered; while all of them are fresh no more plans are told.
const MOST: usize = 64;

/// Which operations are logged as slow: `SLOW_OPERATION_MS`, `SLOW_OPERATION_PLANS`.
#[derive(Clone, Copy, Debug)]
pub struct SlowLog {
    /// Those that take this long.
    pub from: Duration,
    /// Whether the plans of their statements are logged, too.
    pub plans: bool,
}

/// What an operation was.
pub(super) struct Told<'a> {
    pub(super) request_id: &'a str,
    pub(super) operation: &'a str,
    /// The document's hash.
    pub(super) document: &'a str,
    /// Its complexity.
    pub(super) cost: u64,
    pub(super) milliseconds: f64,
}

/// Statements whose plans were told, and when.
#[derive(Debug, Default)]
pub struct Planned(Mutex<HashMap<String, Instant>>);

impl Planned {
    /// Whether this statement's plan is to be told now.
    fn is_new(&self, hash: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| at.elapsed() < AGAIN);
        if told.len() >= MOST || told.contains_key(hash) {
            return false;
        }
        told.insert(hash.to_owned(), Instant::now());
        true
    }
}

/// Writes the line, and asks for the plan where that is wanted.
pub(super) fn tell(edge: &Arc<Edge>, log: SlowLog, told: &Told<'_>, traffic: &Traffic) {
    let slow = traffic.slow();
    let slowest = slow.iter().map(named).collect::<Vec<_>>().join("; ");
    tracing::warn!(
        request_id = told.request_id,
        operation = told.operation,
        document = told.document,
        cost = told.cost,
        ms = (told.milliseconds * 100.0).round() / 100.0,
        statements = traffic.statements(),
        round_trips = traffic.round_trips(),
        statements_ms = round(traffic.time()),
        slowest,
        "slow operation"
    );
    if tokio::runtime::Handle::try_current().is_err() {
        return;
    }
    let Some((summary, text, hash)) = to_plan(log, &edge.plans, slow) else { return };
    let db = edge.services.db.clone();
    tokio::spawn(async move {
        match db.explain(&text).await {
            Ok(plan) => tracing::warn!(statement = hash, summary, sql = text.sql, plan, "plan of a slow statement"),
            Err(error) => tracing::warn!(statement = hash, summary, %error, "a slow statement could not be planned"),
        }
    });
}

/// The statement whose plan is to be told, and its hash.
fn to_plan(log: SlowLog, planned: &Planned, slow: Vec<SlowStatement>) -> Option<(String, StatementText, String)> {
    if !log.plans {
        return None;
    }
    let (summary, text) = slow.into_iter().find_map(|slow| Some((slow.summary, slow.text?)))?;
    let hash = text.hash();
    planned.is_new(&hash).then_some((summary, text, hash))
}

fn named(slow: &SlowStatement) -> String {
    let hash = slow.text.as_ref().map(|text| format!(" [{}]", text.hash())).unwrap_or_default();
    format!("{}{hash} {} ms", slow.summary, round(slow.time))
}

/// Milliseconds with two places.
fn round(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_told_on_request_only() {
        let planned = Planned::default();
        let slow = |text| SlowStatement { summary: "SELECT".to_owned(), time: Duration::from_secs(1), text };
        let statements = || vec![slow(None), slow(Some(StatementText::of("select 1")))];
        let log = |plans| SlowLog { from: Duration::ZERO, plans };
        assert!(to_plan(log(false), &planned, statements()).is_none());
        let (_, text, _) = to_plan(log(true), &planned, statements()).expect("a statement");
        assert_eq!(text.sql, "select 1");
        assert!(to_plan(log(true), &planned, statements()).is_none(), "it was told");
        assert!(to_plan(log(true), &planned, vec![slow(None)]).is_none(), "it cannot be told");
    }

    #[test]
    fn plans_are_told_once_and_not_of_everything() {
        let planned = Planned::default();
        assert!(planned.is_new("a") && !planned.is_new("a"));
        let told = (0..1_000).filter(|n| planned.is_new(&n.to_string())).count();
        assert_eq!(told, MOST - 1);
    }
}
