//! Operations by name: how many, how they ended, how long they took.
//!
//! Names are the clients', so that their number is bounded: a name gets series of its own when an operation of that name was
//! executed for a member of an organization, as long as there is room. Nobody without an account takes up room, and no
//! organization more than its part. All others count as `other`, those without a name as `-`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::Code;
use crate::id::OrganizationId;
use crate::telemetry::histogram::Histogram;
use crate::telemetry::trace::Scope;

/// In seconds.
const BOUNDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Names that have series of their own.
const MOST_NAMES: usize = 100;
/// Of these, names that the operations of one organization brought.
const MOST_OF_ONE: usize = 25;

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Without an error.
    Ok,
    /// Executed, with errors.
    Errors,
    /// Not executed.
    Refused,
    /// Its client went away.
    Gone,
}

impl Outcome {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Ok, "ok"), (Self::Errors, "errors"), (Self::Refused, "refused"), (Self::Gone, "gone")];
}

/// An operation that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// Its name; `None` without one, or when no operation could be chosen.
    pub name: Option<&'a str>,
    /// `query`, `mutation` or `subscription`; `-` when it was none.
    pub ty: &'static str,
    pub outcome: Outcome,
    pub time: Duration,
    /// The organization that it was let into.
    pub organization: Option<OrganizationId>,
    /// The codes of its errors.
    pub codes: &'a [&'static str],
    /// Statements sent.
    pub statements: u32,
    /// Its span, if it is recorded.
    pub scope: Option<&'a Scope>,
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Operations(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    series: HashMap<(Arc<str>, &'static str), Arc<Series>>,
    /// The names that have series, and how many of them each organization brought.
    names: HashSet<Arc<str>>,
    brought: HashMap<OrganizationId, usize>,
    errors: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
struct Series {
    ended: [AtomicU64; Outcome::ALL.len()],
    statements: AtomicU64,
    seconds: Histogram,
}

impl Operations {
    /// Counts an operation.
    pub fn add(&self, ended: &Ended<'_>) {
        let series = {
            let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for code in ended.codes {
                *counted.errors.entry(code).or_default() += 1;
            }
            let name = counted.label(ended);
            let series = counted.series.entry((name, ended.ty)).or_insert_with(|| {
                Arc::new(Series {
                    ended: std::array::from_fn(|_| AtomicU64::new(0)),
                    statements: AtomicU64::new(0),
                    seconds: Histogram::new(BOUNDS),
                })
            });
            Arc::clone(series)
        };
        if let Some(place) = Outcome::ALL.iter().position(|(outcome, _)| *outcome == ended.outcome) {
            series.ended[place].fetch_add(1, Ordering::Relaxed);
        }
        series.statements.fetch_add(ended.statements.into(), Ordering::Relaxed);
        // A subscription lasts as long as its client wants.
        if ended.ty != "subscription" {
            series.seconds.observe_in(ended.time, ended.scope);
        }
    }

    /// Writes the series.
    pub fn render(&self, text: &mut String) {
        let (series, errors) = {
            let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let series =
                counted.series.iter().map(|((name, ty), series)| ((Arc::clone(name), *ty), Arc::clone(series)));
            (series.collect::<BTreeMap<_, _>>(), counted.errors.clone())
        };
        let labels = |(name, ty): &(Arc<str>, &str)| format!("operation=\"{name}\",type=\"{ty}\"");
        text.push_str("# TYPE tenantry_graphql_operations_total counter\n");
        for (key, series) in &series {
            for ((_, outcome), count) in Outcome::ALL.iter().zip(&series.ended) {
                let (labels, count) = (labels(key), count.load(Ordering::Relaxed));
                writeln!(text, "tenantry_graphql_operations_total{{{labels},outcome=\"{outcome}\"}} {count}").ok();
            }
        }
        text.push_str("# TYPE tenantry_graphql_operation_seconds histogram\n");
        for (key, series) in series.iter().filter(|((_, ty), _)| *ty != "subscription") {
            series.seconds.render(text, "tenantry_graphql_operation_seconds", &labels(key));
        }
        text.push_str("# TYPE tenantry_graphql_statements_total counter\n");
        for (key, series) in &series {
            let (labels, count) = (labels(key), series.statements.load(Ordering::Relaxed));
            writeln!(text, "tenantry_graphql_statements_total{{{labels}}} {count}").ok();
        }
        text.push_str("# TYPE tenantry_graphql_errors_total counter\n");
        for (code, count) in errors {
            writeln!(text, "tenantry_graphql_errors_total{{code=\"{code}\"}} {count}").ok();
        }
    }
}

impl Counted {
    /// The name that this operation counts under.
    fn label(&mut self, ended: &Ended<'_>) -> Arc<str> {
        let Some(name) = ended.name else { return "-".into() };
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let was_executed = matches!(ended.outcome, Outcome::Ok | Outcome::Errors);
        if let Some(organization) = ended.organization
            && was_executed
            && self.names.len() < MOST_NAMES
            && name.len() <= 100
        {
            let brought = self.brought.entry(organization).or_default();
            if *brought < MOST_OF_ONE {
                *brought += 1;
                let name: Arc<str> = name.into();
                self.names.insert(Arc::clone(&name));
                return name;
            }
        }
        "other".into()
    }
}

/// The label of an error's code: codes are ours, and what is none is not told apart.
#[must_use]
pub fn code_label(code: &str) -> &'static str {
    Code::ALL.iter().map(|known| known.as_str()).find(|known| *known == code).unwrap_or("OTHER")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;

    fn ended(name: &str, organization: Option<u128>) -> Ended<'_> {
        Ended {
            name: Some(name),
            ty: "query",
            outcome: Outcome::Ok,
            time: Duration::from_millis(3),
            organization: organization.map(|id| Id::from_uuid(uuid::Uuid::from_u128(id))),
            codes: &["UNAVAILABLE"],
            statements: 2,
            scope: None,
        }
    }

    fn text(operations: &Operations) -> String {
        let mut text = String::new();
        operations.render(&mut text);
        text
    }

    /// Neither strangers nor one tenant fill the list; what has a place keeps it.
    #[test]
    fn names_are_bounded_and_one_tenant_takes_its_part_only() {
        let operations = Operations::default();
        for n in 0..1_000 {
            operations.add(&ended(&format!("Stranger{n}"), None));
            operations.add(&Ended { outcome: Outcome::Refused, ..ended(&format!("Refused{n}"), Some(1)) });
            operations.add(&ended(&format!("Hostile{n}"), Some(1)));
        }
        operations.add(&ended("Ours", Some(2)));
        operations.add(&Ended { outcome: Outcome::Refused, ..ended("Ours", None) });
        let shown = text(&operations);
        assert!(
            shown.contains("tenantry_graphql_operations_total{operation=\"Ours\",type=\"query\",outcome=\"ok\"} 1"),
            "{shown}"
        );
        assert!(shown.contains("{operation=\"Ours\",type=\"query\",outcome=\"refused\"} 1"), "{shown}");
        assert!(!shown.contains("Stranger") && !shown.contains("Refused"), "{shown}");
        assert_eq!(shown.matches("_count{operation=\"Hostile").count(), MOST_OF_ONE);
        for n in 0..10_000 {
            operations.add(&ended(&format!("More{n}"), Some(n)));
        }
        assert_eq!(text(&operations).matches("_count{").count(), MOST_NAMES + 1);
        assert!(text(&operations).contains("tenantry_graphql_errors_total{code=\"UNAVAILABLE\"} 13002"));
    }

    #[test]
    fn names_that_are_too_long_are_not_told_apart() {
        let operations = Operations::default();
        let long = "L".repeat(101);
        operations.add(&ended(&long, Some(1)));
        operations.add(&ended(&long[1..], Some(1)));
        let shown = text(&operations);
        let count = |name: &str| shown.matches(&format!("_count{{operation=\"{name}\"")).count();
        assert_eq!([count(&long), count(&long[1..]), count("other")], [0, 1, 1], "{shown}");
    }

    #[test]
    fn codes_of_others_are_not_told_apart() {
        assert_eq!([code_label("TIMEOUT"), code_label("x\"}")], ["TIMEOUT", "OTHER"]);
    }
}
