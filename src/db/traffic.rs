//! What an operation asks of the database: counted, timed, and recorded as spans where its trace is; and the lane in
//! which it waits for connections.

use std::borrow::Cow;
use std::panic::Location;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio_postgres::types::Type;

use super::{Bind, Lane};
use crate::access::Credential;
use crate::hex::hex;
use crate::telemetry::trace::{Kind, Scope, Span};

/// A statement that takes this long is named when its operation turns out to be slow.
const SLOW: Duration = Duration::from_millis(10);
/// So many of them, the slowest.
const MOST_SLOW: usize = 8;

/// Statements and round trips of one operation, for its log line, its `Server-Timing` and its trace.
#[derive(Debug, Default)]
pub struct Traffic {
    statements: AtomicU32,
    round_trips: AtomicU32,
    lane: Mutex<Option<Lane>>,
    /// Together; statements of one flight count each for itself.
    nanoseconds: AtomicU64,
    slow: Mutex<Vec<SlowStatement>>,
    scope: OnceLock<Scope>,
}

/// A statement that took long.
#[derive(Clone, Debug)]
pub struct SlowStatement {
    /// What it does to which table, or where it stands in the source.
    pub summary: String,
    pub time: Duration,
    /// What its plan can be asked with; statements of sqlx do not tell their text.
    pub text: Option<StatementText>,
}

/// A statement and the types of its parameters. It holds no values: those are parameters.
#[derive(Clone, Debug)]
pub struct StatementText {
    pub sql: String,
    pub(super) types: Vec<Type>,
}

impl StatementText {
    /// Without parameters.
    #[cfg(test)]
    pub(crate) fn of(sql: &str) -> Self {
        Self { sql: sql.to_owned(), types: Vec::new() }
    }

    /// The first 16 digits of its SHA-256: what the same statement is found by.
    #[must_use]
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(self.sql.as_bytes())[..8])
    }
}

/// How a statement is called.
#[derive(Clone, Copy, Debug)]
pub(super) enum Called<'a> {
    /// By what it says.
    Text { sql: &'a str, binds: &'a [Bind], table: Option<&'static str> },
    /// By what it is.
    Name(&'static str),
    /// By where it stands in the source: sqlx does not tell its text.
    Place(&'static Location<'static>),
}

impl Called<'_> {
    fn summary(self) -> Cow<'static, str> {
        match self {
            Self::Text { sql, table, .. } => Cow::Owned(summary(sql, table)),
            Self::Name(name) => Cow::Borrowed(name),
            Self::Place(place) => {
                let file = place.file();
                let file = file.rsplit_once("src/").map_or(file, |(_, file)| file);
                Cow::Owned(format!("{file}:{}", place.line()))
            }
        }
    }
}

/// The command and the table, in the form of `db.query.summary` (OpenTelemetry, "Database spans").
fn summary(sql: &str, table: Option<&str>) -> String {
    let command = sql.split_whitespace().next().unwrap_or_default().to_uppercase();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let named = || {
        let at = ["from ", "into ", "update "].iter().filter_map(|word| sql.find(&format!("{word}tenantry."))).min()?;
        let name = sql[at..].split_whitespace().nth(1)?;
        Some(&name[..name.find(|c| !is_name(c)).unwrap_or(name.len())])
    };
    match table.or_else(named) {
        Some(table) => format!("{command} {table}"),
        None => command,
    }
}

/// Keys that a loader asks for at once.
#[derive(Debug)]
pub struct Batch {
    table: &'static str,
    span: Option<Span>,
}

impl Traffic {
    /// From here on it waits in this lane.
    pub fn stand_in(&self, lane: Lane) {
        *self.lane.lock().unwrap_or_else(PoisonError::into_inner) = Some(lane);
    }

    /// Where it waits: where it was told to, or where anybody with such a credential does.
    pub(super) fn lane(&self, credential: Credential<'_>) -> Lane {
        let lane = *self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        lane.unwrap_or_else(|| Lane::of(credential))
    }

    /// Statements sent so far; the begin and the end of a transaction that reads are not counted.
    #[must_use]
    pub fn statements(&self) -> u32 {
        self.statements.load(Ordering::Relaxed)
    }

    /// How many times something was sent that could not leave together with what was sent before, because an answer came
    /// first. A statement that a connection has not prepared yet costs one more, which is not counted.
    #[must_use]
    pub fn round_trips(&self) -> u32 {
        self.round_trips.load(Ordering::Relaxed)
    }

    /// How long the statements took, added up.
    #[must_use]
    pub fn time(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    /// The statements that took long, the slowest first.
    #[must_use]
    pub fn slow(&self) -> Vec<SlowStatement> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records what comes below this span; the first one counts.
    pub fn record_in(&self, scope: Scope) {
        self.scope.get_or_init(|| scope);
    }

    /// A loader asks for so many keys of an entity: `kind` says whether for rows, pages or counts.
    #[must_use]
    pub fn batch(&self, entity: &'static str, table: &'static str, kind: &'static str, keys: usize) -> Batch {
        let span = self.scope.get().and_then(|scope| scope.child(format!("load {entity} {kind}"), Kind::Internal));
        let span = span.map(|mut span| {
            span.set("tenantry.loader.entity", entity);
            span.set("tenantry.loader.kind", kind);
            span.set("tenantry.loader.keys", keys);
            span
        });
        Batch { table, span }
    }

    /// Statements are sent, together or into a flight that is under way.
    pub(super) fn add_statements(&self, statements: u32) {
        self.statements.fetch_add(statements, Ordering::Relaxed);
    }

    /// Something is sent, and it is the first, or an answer came since the last.
    pub(super) fn add_round_trip(&self) {
        self.round_trips.fetch_add(1, Ordering::Relaxed);
    }

    fn note(&self, slow: SlowStatement) {
        let mut noted = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        let place = noted.partition_point(|known| known.time >= slow.time);
        noted.insert(place, slow);
        noted.truncate(MOST_SLOW);
    }
}

/// A statement that was sent and is waited for. Dropped, it is over: its client went away, or its end is told by nothing else.
#[derive(Debug)]
pub(super) struct Sent<'a> {
    traffic: Arc<Traffic>,
    called: Called<'a>,
    started: Instant,
    span: Option<Span>,
}

impl<'a> Sent<'a> {
    /// Begins now.
    pub(super) fn begin(traffic: &Arc<Traffic>, called: Called<'a>, batch: Option<&Batch>) -> Self {
        let above = batch.and_then(|batch| batch.span.as_ref()).map(Span::scope).or_else(|| traffic.scope.get());
        let span = above.and_then(|scope| {
            let summary = called.summary();
            let mut span = scope.child(summary.clone(), Kind::Client)?;
            span.set("db.system.name", "postgresql");
            match called {
                Called::Text { table, .. } => {
                    span.set("db.query.summary", summary.into_owned());
                    if let Some(table) = table {
                        span.set("db.collection.name", table);
                    }
                }
                Called::Name(_) => span.set("db.query.summary", summary.into_owned()),
                Called::Place(place) => {
                    span.set("code.file.path", place.file());
                    span.set("code.line.number", place.line());
                }
            }
            Some(span)
        });
        Self { traffic: Arc::clone(traffic), called, started: Instant::now(), span }
    }

    /// It was answered, with so many rows or with an error.
    pub(super) fn answered<T>(mut self, result: &Result<Vec<T>, tokio_postgres::Error>) {
        let Some(span) = &mut self.span else { return };
        match result {
            Ok(rows) => span.set("db.response.returned_rows", rows.len()),
            Err(error) => {
                let code = error.code().map_or("_OTHER", tokio_postgres::error::SqlState::code).to_owned();
                span.set("error.type", code.clone());
                span.set("db.response.status_code", code);
                span.fail();
            }
        }
    }
}

impl Batch {
    /// The table that its statements read.
    pub(super) fn table(&self) -> &'static str {
        self.table
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        let time = self.started.elapsed();
        self.traffic.nanoseconds.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if time >= SLOW {
            let text = match self.called {
                Called::Text { sql, binds, .. } => {
                    Some(StatementText { sql: sql.to_owned(), types: binds.iter().map(Bind::sql_type).collect() })
                }
                Called::Name(_) | Called::Place(_) => None,
            };
            self.traffic.note(SlowStatement { summary: self.called.summary().into_owned(), time, text });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_name_the_command_and_the_table() {
        let of = |sql| summary(sql, None);
        assert_eq!(of("select t.id from tenantry.tickets t where t.id = $1"), "SELECT tenantry.tickets");
        assert_eq!(of("select tenantry.key_standing(decode($1, 'hex'), $3)"), "SELECT");
        assert_eq!(of("select a from tenantry.enter_tenant($1, $2)"), "SELECT tenantry.enter_tenant");
        assert_eq!(of("update tenantry.tickets set subject = $1"), "UPDATE tenantry.tickets");
        assert_eq!(of(""), "");
        assert_eq!(
            summary("select p.key from unnest($2) as p(key)", Some("tenantry.tickets")),
            "SELECT tenantry.tickets"
        );
    }

    #[test]
    fn the_slowest_statements_are_kept() {
        let traffic = Arc::new(Traffic::default());
        for milliseconds in 0..20 {
            let time = Duration::from_millis(milliseconds * 7 % 20);
            traffic.note(SlowStatement { summary: String::new(), time, text: None });
        }
        let kept: Vec<_> = traffic.slow().iter().map(|slow| slow.time.as_millis()).collect();
        assert_eq!(kept, [19, 18, 17, 16, 15, 14, 13, 12]);
        drop(Sent::begin(&traffic, Called::Name("COMMIT"), None));
        assert!(traffic.time() > Duration::ZERO);
        assert_eq!(traffic.slow().len(), MOST_SLOW);
    }
}
