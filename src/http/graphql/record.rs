//! What is told of an operation when it ends: a line in the log, its place in the figures, its span.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_graphql::parser::types::OperationType;
use async_graphql::{ServerError, Value};
use axum::http::StatusCode;

use super::document::{Operation, Prepared};
use super::errors;
use super::execute::Caller;
use super::failure::Failure;
use super::slow;
use crate::clock::Clock;
use crate::error::Code;
use crate::graphql::Session;
use crate::http::Edge;
use crate::http::metrics::{Ended, Outcome, code_label};
use crate::rates::Standing;
use crate::telemetry::trace::{Kind, Span};

/// Codes of errors that are ours, not the client's.
const OURS: [Code; 4] = [Code::Internal, Code::Unavailable, Code::Timeout, Code::KeysUnavailable];

/// Names are the client's, and may be as long as its document.
const MOST_OF_NAME: usize = 100;

/// What is known of an operation: it is told when it ends, also when its client goes away before that.
///
/// Neither variables nor tokens are in it.
pub(super) struct Record {
    edge: Arc<Edge>,
    /// The request's id.
    pub(super) request_id: String,
    /// The status of the answer.
    pub(super) status: StatusCode,
    /// What is left of the budgets, where it is to be said.
    pub(super) standing: Option<Standing>,
    /// The session, for its statements.
    session: Option<Arc<Session>>,
    operation: Option<Arc<Operation>>,
    cost: u64,
    transport: &'static str,
    errors: usize,
    codes: Vec<&'static str>,
    /// Whether it was refused before it was executed.
    refused: bool,
    started: Instant,
    span: Option<Span>,
}

impl Record {
    /// From now.
    pub(super) fn start(edge: &Arc<Edge>, caller: &Caller, transport: &'static str) -> Self {
        let span = match &caller.traced {
            // A socket lives for hours, and each of its operations is a trace of its own.
            Some(scope) if transport != "ws" => scope.child("GraphQL Operation", Kind::Server),
            _ if transport == "ws" => {
                let now = Clock::System.now().timestamp_nanos_opt().and_then(|now| u64::try_from(now).ok());
                let now = Duration::from_nanos(now.unwrap_or_default());
                let span = edge.tracer.begin("GraphQL Operation".into(), None, now);
                span.map(|mut span| {
                    span.set("tenantry.request_id", caller.request_id.clone());
                    span
                })
            }
            _ => None,
        };
        Self {
            edge: Arc::clone(edge),
            request_id: caller.request_id.clone(),
            // Nginx's status for a client that went away, which is what happened if no other is put here.
            status: StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            standing: None,
            session: None,
            operation: None,
            cost: 0,
            transport,
            errors: 0,
            codes: Vec::new(),
            refused: false,
            started: Instant::now(),
            span,
        }
    }

    /// Which operation it is.
    pub(super) fn is(&mut self, prepared: &Prepared) {
        let operation = &prepared.operation;
        self.operation = Some(Arc::clone(operation));
        self.cost = prepared.cost;
        if let Some(span) = &mut self.span {
            let ty = type_label(operation.ty);
            // The name is the client's, and is no name of a span (OpenTelemetry, "GraphQL server spans").
            span.rename(ty);
            span.set("graphql.operation.type", ty);
            if let Some(name) = &operation.name {
                span.set("graphql.operation.name", name.chars().take(MOST_OF_NAME).collect::<String>());
            }
            span.set("tenantry.graphql.document.hash", operation.hash.to_string());
            span.set("tenantry.graphql.cost", usize::try_from(prepared.cost).unwrap_or(usize::MAX));
        }
    }

    /// It is executed in this session, whose statements are recorded below it.
    pub(super) fn executes(&mut self, session: &Arc<Session>) {
        if let Some(span) = &self.span {
            session.traffic().record_in(span.scope().clone());
        }
        self.session = Some(Arc::clone(session));
    }

    /// Errors that are sent.
    pub(super) fn note(&mut self, errors: &[ServerError]) {
        self.errors += errors.len();
        for error in errors {
            let code = error.extensions.as_ref().and_then(|extensions| extensions.get("code"));
            self.codes.push(match code {
                Some(Value::String(code)) => code_label(code),
                _ => "OTHER",
            });
        }
    }

    /// The errors of a failure, ready to be sent.
    pub(super) fn settle(&mut self, failure: Failure) -> Vec<ServerError> {
        self.status = failure.status();
        self.standing = self.standing.or(failure.standing());
        self.refused = true;
        let mut errors = failure.into_errors();
        errors::finish(&mut errors, &self.request_id);
        self.note(&errors);
        errors
    }

    /// Milliseconds so far.
    pub(super) fn milliseconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * 1000.0
    }

    /// SQL statements and round trips so far.
    pub(super) fn traffic(&self) -> (u32, u32) {
        let traffic = self.session.as_ref().map(|session| session.traffic());
        traffic.map_or((0, 0), |traffic| (traffic.statements(), traffic.round_trips()))
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self { refused: true, .. } => Outcome::Refused,
            _ if self.status.as_u16() == 499 => Outcome::Gone,
            _ if self.errors > 0 => Outcome::Errors,
            _ => Outcome::Ok,
        }
    }

    /// Its place in the figures, and the end of its span.
    fn count(&mut self) {
        let operation = self.operation.as_deref();
        let (statements, _) = self.traffic();
        self.edge.tally.operations.add(&Ended {
            name: operation.and_then(|operation| operation.name.as_deref()),
            ty: operation.map_or("-", |operation| type_label(operation.ty)),
            outcome: self.outcome(),
            time: self.started.elapsed(),
            organization: self.session.as_ref().and_then(|session| session.entered()),
            codes: &self.codes,
            statements,
            scope: self.span.as_ref().map(Span::scope),
        });
        let Some(mut span) = self.span.take() else { return };
        span.set("tenantry.db.statements", statements);
        if let Some(code) = self.codes.first() {
            span.set("tenantry.graphql.errors", self.errors);
            span.set("error.type", *code);
        }
        if self.codes.iter().any(|code| OURS.iter().any(|ours| ours.as_str() == *code)) {
            span.fail();
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let scope = self.span.as_ref().map(Span::scope);
        let span = scope
            .map(|scope| tracing::error_span!("operation", trace_id = %scope.trace_id(), span_id = %scope.span_id()));
        let entered = span.as_ref().map(tracing::Span::enter);
        let operation = self.operation.as_deref();
        let (statements, round_trips) = self.traffic();
        let name = operation.and_then(|operation| operation.name.as_deref()).unwrap_or_default();
        tracing::info!(
            request_id = self.request_id,
            transport = self.transport,
            operation = name,
            r#type = operation.map(|operation| type_label(operation.ty)).unwrap_or_default(),
            document = operation.map(|operation| &*operation.hash).unwrap_or_default(),
            status = self.status.as_u16(),
            errors = self.errors,
            ms = (self.milliseconds() * 100.0).round() / 100.0,
            statements,
            round_trips,
            "graphql"
        );
        let limit = self.edge.settings.slow.filter(|slow| self.started.elapsed() >= slow.from);
        if let (Some(slow), Some(operation), Some(session)) = (limit, operation, &self.session)
            && operation.ty != OperationType::Subscription
        {
            let told = slow::Told {
                request_id: &self.request_id,
                operation: name,
                document: &operation.hash,
                cost: self.cost,
                milliseconds: self.milliseconds(),
            };
            slow::tell(&self.edge, slow, &told, session.traffic());
        }
        drop(entered);
        self.count();
    }
}

const fn type_label(ty: OperationType) -> &'static str {
    match ty {
        OperationType::Query => "query",
        OperationType::Mutation => "mutation",
        OperationType::Subscription => "subscription",
    }
}
