//! From an operation that passed its checks to its answers, the same for every transport.

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_graphql::Response;
use async_graphql::parser::types::OperationType;
use axum::extract::ConnectInfo;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use futures_util::FutureExt as _;
use futures_util::stream::{BoxStream, StreamExt as _};
use tokio::task::coop::unconstrained;

use super::charge::Charge;
use super::document::{Operation, Prepared};
use super::errors;
use super::failure::Failure;
use super::persisted;
pub(super) use super::record::Record;
use super::request::Params;
use crate::error::{Code, Error};
use crate::graphql::follow::Progress;
use crate::graphql::{Credentials, Session};
use crate::http::Edge;
use crate::http::observe::Traced;
use crate::http::request_id::RequestId;
use crate::telemetry::trace::Scope;

/// The extension of an answer with the id of the event: a client that comes back with it misses nothing.
pub(super) const EVENT_ID: &str = "eventId";
/// How long a query or a mutation may take.
const EXECUTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Who sent a request.
#[derive(Clone, Debug, Default)]
pub(in crate::http) struct Caller {
    /// The header `Authorization`.
    pub(in crate::http) authorization: Option<String>,
    /// The header `X-Organization-Id`.
    pub(in crate::http) organization: Option<String>,
    /// The request's id.
    pub(in crate::http) request_id: String,
    /// The client's address.
    pub(in crate::http) ip: Option<IpAddr>,
    /// Which program it is, as it says itself.
    pub(in crate::http) client: Option<String>,
    /// The id of the last event that the client has, when it comes back to a subscription.
    pub(in crate::http) last_event_id: Option<String>,
    /// Whether answers are to say what they cost: the header `GraphQL-Cost: 1`.
    pub(in crate::http) wants_cost: bool,
    /// Where the request belongs in the traces.
    pub(in crate::http) traced: Option<Scope>,
}

impl Caller {
    /// From the head of a request.
    pub(in crate::http) fn of(parts: &Parts, edge: &Edge) -> Self {
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let ip = peer.map(|ConnectInfo(peer)| edge.settings.proxies.client(peer.ip(), &parts.headers));
        Self {
            authorization: text(&parts.headers, AUTHORIZATION.as_str()),
            organization: text(&parts.headers, "x-organization-id"),
            request_id,
            ip,
            client: persisted::client_name(&parts.headers),
            // Empty: the client begins (HTML, section 9.2.5).
            last_event_id: text(&parts.headers, "last-event-id").filter(|id| !id.is_empty()),
            wants_cost: parts.headers.get("graphql-cost").is_some_and(|value| value == "1"),
            traced: parts.extensions.get::<Traced>().map(|traced| traced.0.clone()),
        }
    }

    /// Verifies the credentials.
    pub(in crate::http) async fn open(&self, edge: &Arc<Edge>) -> Result<Arc<Session>, Error> {
        let credentials = Credentials {
            authorization: self.authorization.as_deref(),
            organization: self.organization.as_deref(),
            request_id: &self.request_id,
            ip: self.ip,
        };
        Session::open(&edge.services, credentials).await
    }
}

/// A header's text. What is not text is passed on damaged, so that it is refused and not taken for absent.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// An operation that may be executed.
pub(super) struct Admitted {
    pub(super) operation: Arc<Operation>,
    /// Whose it is.
    pub(super) session: Arc<Session>,
    /// How far its stream has come, where it is one.
    pub(super) progress: Arc<Progress>,
    prepared: Prepared,
    charge: Charge,
    wants_cost: bool,
}

impl Admitted {
    /// Whether it is a query of a document that a manifest has: its answers may be kept by the client.
    pub(super) fn is_trusted_query(&self) -> bool {
        self.prepared.is_trusted && self.operation.ty == OperationType::Query
    }
}

/// Finds the document and checks it: what it is, not yet whether the caller may execute it.
pub(super) fn prepare(edge: &Edge, caller: &Caller, params: Params) -> Result<Prepared, Failure> {
    let Params { document, operation_name, variables } = params;
    let found = edge.persisted.find(edge, caller.client.as_deref(), document)?;
    let mut prepared = edge.documents.prepare(&found.document, operation_name.as_deref(), variables)?;
    prepared.is_trusted = found.is_trusted;
    if prepared.operation.introspects && !edge.settings.introspection {
        let message = "Introspection is switched off here: use the published schema.graphql.";
        return Err(Failure::document(Code::IntrospectionDisabled, message, None));
    }
    Ok(prepared)
}

/// Checks the credentials, that only introspection goes without, and that there is enough to pay for it.
pub(super) async fn authorize(edge: &Arc<Edge>, caller: &Caller, prepared: Prepared) -> Result<Admitted, Failure> {
    let session = caller.open(edge).await?;
    if prepared.operation.needs_viewer && session.is_anonymous() {
        return Err(Error::Unauthenticated.into());
    }
    let charge = Charge::take(edge, &session, &prepared)?;
    let progress = Arc::new(Progress::new(caller.last_event_id.clone()));
    Ok(Admitted {
        operation: Arc::clone(&prepared.operation),
        session,
        progress,
        prepared,
        charge,
        wants_cost: caller.wants_cost,
    })
}

/// Executes a query or a mutation.
pub(super) async fn once(edge: &Edge, admitted: Admitted, record: &mut Record) -> Result<Response, Failure> {
    let Admitted { session, prepared, mut charge, wants_cost, operation, .. } = admitted;
    record.executes(&session);
    let request = prepared.into_request().data(Arc::clone(&session)).data(Arc::clone(&edge.flags));
    // Without tokio's budget of 128 operations per poll: it would interrupt a long list in the middle of handing its
    // keys to a loader, and one batch would become several.
    let execution =
        unconstrained(AssertUnwindSafe(edge.schemas.execute(request, operation.introspects)).catch_unwind());
    let outcome = tokio::time::timeout(EXECUTION_TIMEOUT, execution).await;
    session.close().await;
    if let Some(organization) = session.entered() {
        edge.services.calls.add(organization, edge.services.clock.now());
    }
    charge.settle();
    match outcome {
        Ok(Ok(mut response)) => {
            if wants_cost {
                let standing = charge.standing();
                response.extensions.insert("cost".to_owned(), standing.to_value());
                record.standing = Some(standing);
            }
            errors::finish(&mut response.errors, &record.request_id);
            record.note(&response.errors);
            Ok(response)
        }
        Ok(Err(_)) => Err(panicked().into()),
        Err(_) => Err(Error::Timeout.into()),
    }
}

/// Executes any operation as a stream of answers: one for queries and mutations, events for subscriptions.
///
/// The stream ends, with an error that says so, when the token expires. Dropping it stops the execution. Answers of subscriptions
/// have the [id](EVENT_ID) of their event.
pub(super) fn stream(edge: &Arc<Edge>, admitted: Admitted, mut record: Record) -> BoxStream<'static, Response> {
    record.status = StatusCode::OK;
    if admitted.operation.ty != OperationType::Subscription {
        let edge = Arc::clone(edge);
        let answer = async move {
            let result = once(&edge, admitted, &mut record).await;
            result.unwrap_or_else(|failure| Response::from_errors(record.settle(failure)))
        };
        return futures_util::stream::once(answer).boxed();
    }
    let Admitted { session, progress, prepared, charge, .. } = admitted;
    record.executes(&session);
    let request = prepared.into_request().data(Arc::clone(&session)).data(Arc::clone(&edge.flags));
    let request = request.data(Arc::clone(&progress));
    let events = AssertUnwindSafe(edge.schemas.fast.execute_stream(request)).catch_unwind().boxed();
    let expiry = Box::pin(until_expiry(edge, &session));
    let subscribed = Subscribed { events, expiry, session, progress, charge, record, ended: false };
    futures_util::stream::unfold(subscribed, Subscribed::next).boxed()
}

struct Subscribed<E> {
    events: BoxStream<'static, std::thread::Result<Response>>,
    expiry: Pin<Box<E>>,
    session: Arc<Session>,
    progress: Arc<Progress>,
    charge: Charge,
    record: Record,
    ended: bool,
}

impl<E: Future<Output = ()>> Subscribed<E> {
    async fn next(mut self) -> Option<(Response, Self)> {
        if self.ended {
            return None;
        }
        let event = tokio::select! {
            biased;
            () = &mut self.expiry => Some(Err(Error::InvalidToken("it expired".to_owned()))),
            event = unconstrained(self.events.next()) => event.map(|event| event.map_err(|_| panicked())),
        };
        // Nothing of the database is held while the next event is waited for.
        self.session.close().await;
        self.charge.settle();
        let response = match event? {
            Ok(mut response) => {
                errors::finish(&mut response.errors, &self.record.request_id);
                self.record.note(&response.errors);
                match self.progress.made() {
                    Some(id) => response.extension(EVENT_ID, id.as_ref().into()),
                    None => response,
                }
            }
            Err(error) => {
                self.ended = true;
                Response::from_errors(self.record.settle(error.into()))
            }
        };
        Some((response, self))
    }
}

/// Ends when the token does; never for the anonymous.
pub(super) fn until_expiry(edge: &Edge, session: &Session) -> impl Future<Output = ()> + Send + use<> {
    let left = session.expires_at().map(|at| (at - edge.services.clock.now()).to_std().unwrap_or_default());
    async move {
        match left {
            Some(left) => tokio::time::sleep(left).await,
            None => std::future::pending().await,
        }
    }
}

/// Ends when the server is to stop.
pub(super) fn until_shutdown(edge: &Edge) -> impl Future<Output = ()> + Send + use<> {
    let mut shutdown = edge.shutdown.clone();
    async move {
        // Without a sender nobody can ask for a stop any more.
        if shutdown.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn panicked() -> Error {
    Error::internal("the execution panicked")
}
