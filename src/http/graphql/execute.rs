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

use super::document::{Operation, Prepared};
use super::errors;
use super::failure::Failure;
pub(super) use super::record::Record;
use super::request::Params;
use crate::error::{Code, Error};
use crate::graphql::{Credentials, Session};
use crate::http::Edge;
use crate::http::client_address;
use crate::http::observe::Traced;
use crate::http::request_id::RequestId;
use crate::telemetry::trace::Scope;

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
    /// Where the request belongs in the traces.
    pub(in crate::http) traced: Option<Scope>,
}

impl Caller {
    /// From the head of a request.
    pub(in crate::http) fn of(parts: &Parts, edge: &Edge) -> Self {
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let trusted = &edge.settings.trusted_proxies;
        let ip = peer.map(|ConnectInfo(peer)| client_address::of(peer.ip(), &parts.headers, trusted));
        Self {
            authorization: text(&parts.headers, AUTHORIZATION.as_str()),
            organization: text(&parts.headers, "x-organization-id"),
            request_id,
            ip,
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
    prepared: Prepared,
}

/// Checks the document: what it is, not yet who sent it.
pub(super) fn prepare(edge: &Edge, params: Params) -> Result<Prepared, Failure> {
    let Params { query, operation_name, variables } = params;
    let prepared = edge.documents.prepare(&edge.schemas.strict, &query, operation_name.as_deref(), variables)?;
    if prepared.operation.introspects && !edge.settings.introspection {
        let message = "Introspection is switched off here: use the published schema.graphql.";
        return Err(Failure::document(Code::IntrospectionDisabled, message, None));
    }
    Ok(prepared)
}

/// Checks the credentials, and that only introspection goes without.
pub(super) async fn authorize(edge: &Arc<Edge>, caller: &Caller, prepared: Prepared) -> Result<Admitted, Failure> {
    let session = caller.open(edge).await?;
    if prepared.operation.needs_viewer && session.is_anonymous() {
        return Err(Error::Unauthenticated.into());
    }
    Ok(Admitted { operation: Arc::clone(&prepared.operation), session, prepared })
}

/// Executes a query or a mutation.
pub(super) async fn once(edge: &Edge, admitted: Admitted, record: &mut Record) -> Result<Response, Failure> {
    let Admitted { session, prepared, .. } = admitted;
    record.executes(&session);
    let request = prepared.into_request().data(Arc::clone(&session)).data(Arc::clone(&edge.flags));
    // Without tokio's budget of 128 operations per poll: it would interrupt a long list in the middle of handing its
    // keys to a loader, and one batch would become several.
    let execution = unconstrained(AssertUnwindSafe(edge.schemas.fast.execute(request)).catch_unwind());
    let outcome = tokio::time::timeout(EXECUTION_TIMEOUT, execution).await;
    session.close().await;
    if let Some(organization) = session.entered() {
        edge.services.calls.add(organization, edge.services.clock.now());
    }
    match outcome {
        Ok(Ok(mut response)) => {
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
/// The stream ends, with an error that says so, when the token expires. Dropping it stops the execution.
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
    let Admitted { session, prepared, .. } = admitted;
    record.executes(&session);
    let request = prepared.into_request().data(Arc::clone(&session)).data(Arc::clone(&edge.flags));
    let events = AssertUnwindSafe(edge.schemas.fast.execute_stream(request)).catch_unwind().boxed();
    let expiry = Box::pin(until_expiry(edge, &session));
    let subscribed = Subscribed { events, expiry, session, record, ended: false };
    futures_util::stream::unfold(subscribed, Subscribed::next).boxed()
}

struct Subscribed<E> {
    events: BoxStream<'static, std::thread::Result<Response>>,
    expiry: Pin<Box<E>>,
    session: Arc<Session>,
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
        let response = match event? {
            Ok(mut response) => {
                errors::finish(&mut response.errors, &self.record.request_id);
                self.record.note(&response.errors);
                response
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
