//! `/graphql/stream`: the "single connection mode" of the GraphQL over Server-Sent Events protocol (graphql-sse), for browsers over
//! HTTP/1, which keep few connections open.
//!
//! `PUT` reserves a stream and answers its token, `GET` with the token opens it, `POST` with the token starts an operation whose
//! answers come over it, `DELETE` ends one. The token is in the header `X-GraphQL-Event-Stream-Token` or in the parameter `token`.
//! Without one a request is as one to `/graphql`: the other mode.
//!
//! A token is no credential: operations take that of their own request, and it must be of whoever made the reservation. `GET`
//! alone may come without, because a browser's `EventSource` can send none. A reservation is this process's; it ends with its stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, stream};
use serde_json::{Map, Value as Json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::execute::{self, Admitted, Caller, Record};
use super::failure::Failure;
use super::negotiate::{self, Accept, Media};
use super::request::Params;
use super::{answer, handler, sse};
use crate::error::{Code, Error};
use crate::hex::hex;
use crate::http::Edge;
use crate::json::Json as _;

/// How long a reservation waits for its stream.
const UNUSED: Duration = Duration::from_mins(1);
/// Reservations of one credential.
const OF_HOLDER: usize = 20;
/// Reservations of one process.
const OF_PROCESS: usize = 10_000;
/// Operations of one stream.
const MAX_OPERATIONS: usize = 50;
const MAX_ID: usize = 128;
/// Answers that wait for a client that is slow to take them; behind them the operations wait.
const QUEUE: usize = 16;

/// The reservations of this process, by the hash of their token.
#[derive(Debug, Default)]
struct Reservations(Mutex<HashMap<[u8; 32], Arc<Reservation>>>);

#[derive(Debug)]
struct Reservation {
    /// Who made it.
    holder: [u8; 32],
    out: mpsc::Sender<Bytes>,
    state: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    /// What is to be sent; taken by the stream.
    waiting: Option<mpsc::Receiver<Bytes>>,
    operations: HashMap<String, (u64, AbortHandle)>,
    started: u64,
    /// When the newest credential that was shown ends; the stream ends with it.
    until: DateTime<Utc>,
}

impl Reservation {
    fn state(&self) -> MutexGuard<'_, Held> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for (_, operation) in self.state().operations.values() {
            operation.abort();
        }
    }
}

/// Ends a reservation with its stream.
struct Opened {
    reservations: Arc<Reservations>,
    key: [u8; 32],
    reservation: Arc<Reservation>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.reservations.all().remove(&self.key);
        for (_, (_, operation)) in self.reservation.state().operations.drain() {
            operation.abort();
        }
    }
}

impl Reservations {
    fn all(&self) -> MutexGuard<'_, HashMap<[u8; 32], Arc<Reservation>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, token: &str) -> Result<([u8; 32], Arc<Reservation>), Failure> {
        let key = Sha256::digest(token).into();
        let found = self.all().get(&key).cloned();
        found.map(|found| (key, found)).ok_or_else(not_found)
    }
}

/// The same for a token that was never given and for somebody else's.
fn not_found() -> Failure {
    let message = "There is no such stream: it has ended, it was not opened in time, or it is another server's. Reserve one with PUT.";
    Failure::request(StatusCode::NOT_FOUND, Code::NotFound, message)
}

fn bad(message: &str) -> Failure {
    Failure::request(StatusCode::BAD_REQUEST, Code::BadRequest, message)
}

/// The route.
pub(super) fn router(edge: Arc<Edge>) -> Router<Arc<Edge>> {
    Router::new().route("/graphql/stream", any(handle)).with_state((edge, Arc::default()))
}

async fn handle(State((edge, reservations)): State<(Arc<Edge>, Arc<Reservations>)>, request: Request) -> Response {
    let token = token(&request);
    if token.is_none() && *request.method() != Method::PUT && *request.method() != Method::DELETE {
        return handler::handle(State(edge), request).await;
    }
    let token = token.unwrap_or_default();
    let (parts, body) = request.into_parts();
    let caller = Caller::of(&parts, &edge);
    if parts.method == Method::POST {
        return execute(edge, &reservations, &token, (&parts, body), caller).await;
    }
    let mut record = Record::start(&edge, &caller, "sse");
    let answered = match parts.method {
        Method::PUT => reserve(&edge, &reservations, &caller).await,
        Method::GET => open(&edge, &reservations, &token, &parts, &caller).await,
        Method::DELETE => stop(&edge, &reservations, &token, &parts, &caller).await,
        _ => Err(Failure::method(
            "GET, POST, PUT, DELETE",
            "Reserve with PUT, open with GET, execute with POST, end with DELETE.",
        )),
    };
    match answered {
        Ok(response) => {
            record.status = response.status();
            response
        }
        Err(failure) => handler::failed(Media::GraphqlResponse, failure, &mut record),
    }
}

/// The token of a request, if it has one.
fn token(request: &Request) -> Option<String> {
    let header = request.headers().get("x-graphql-event-stream-token").and_then(|token| token.to_str().ok());
    header.map(str::to_owned).or_else(|| parameter(request.uri(), "token")).filter(|token| !token.is_empty())
}

fn parameter(uri: &axum::http::Uri, name: &str) -> Option<String> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
    pairs.into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

/// A text among the `extensions` of a request.
pub(super) fn extension(request: &Map<String, Json>, name: &str) -> Result<Option<String>, Failure> {
    match request.get("extensions").and_then(|extensions| extensions.get(name)) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(bad(&format!("`extensions.{name}` must be a string."))),
    }
}

/// Who asks, and until when.
async fn holder(edge: &Arc<Edge>, caller: &Caller) -> Result<([u8; 32], DateTime<Utc>), Failure> {
    let session = caller.open(edge).await?;
    let (Some(holder), Some(until)) = (session.holder(), session.expires_at()) else {
        return Err(Error::Unauthenticated.into());
    };
    Ok((holder, until))
}

/// `PUT`.
async fn reserve(edge: &Arc<Edge>, reservations: &Arc<Reservations>, caller: &Caller) -> Result<Response, Failure> {
    let (holder, until) = holder(edge, caller).await?;
    let token = hex(&rand::random::<[u8; 32]>());
    let key: [u8; 32] = Sha256::digest(&token).into();
    let (out, waiting) = mpsc::channel(QUEUE);
    let state = Mutex::new(Held { waiting: Some(waiting), operations: HashMap::new(), started: 0, until });
    {
        let mut all = reservations.all();
        let own = all.values().filter(|reservation| reservation.holder == holder).count();
        if own >= OF_HOLDER || all.len() >= OF_PROCESS {
            let message = "Too many streams are reserved: close some, or try again in a minute.";
            return Err(Failure::request(StatusCode::TOO_MANY_REQUESTS, Code::TooManySubscriptions, message));
        }
        all.insert(key, Arc::new(Reservation { holder, out, state }));
    }
    let reservations = Arc::downgrade(reservations);
    tokio::spawn(async move {
        tokio::time::sleep(UNUSED).await;
        let Some(reservations) = reservations.upgrade() else { return };
        let mut all = reservations.all();
        if all.get(&key).is_some_and(|reservation| reservation.state().waiting.is_some()) {
            all.remove(&key);
        }
    });
    let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, headers, token).into_response())
}

/// `GET`.
async fn open(
    edge: &Arc<Edge>,
    reservations: &Arc<Reservations>,
    token: &str,
    parts: &Parts,
    caller: &Caller,
) -> Result<Response, Failure> {
    if !Accept::read(&parts.headers, edge.settings.statuses).is_some_and(|accept| accept.events) {
        let message = "A stream is opened with `Accept: text/event-stream`.";
        return Err(Failure::request(StatusCode::NOT_ACCEPTABLE, Code::NotAcceptable, message));
    }
    let (key, reservation) = reservations.find(token)?;
    if caller.authorization.is_some() && holder(edge, caller).await?.0 != reservation.holder {
        return Err(not_found());
    }
    let Some(waiting) = reservation.state().waiting.take() else {
        let message = "The stream is open already: one connection takes it.";
        return Err(Failure::request(StatusCode::CONFLICT, Code::BadRequest, message));
    };
    let until = until_expiry(Arc::clone(edge), Arc::clone(&reservation));
    let opened = Opened { reservations: Arc::clone(reservations), key, reservation };
    // When the server stops, or the last token has expired, the stream is cut, so that clients connect again.
    let stopped = Box::pin(execute::until_shutdown(edge));
    let events = stream::unfold((waiting, opened), |(mut waiting, opened)| async move {
        Some((waiting.recv().await?, (waiting, opened)))
    });
    Ok(sse::respond(events.take_until(stopped).take_until(Box::pin(until)), None))
}

async fn until_expiry(edge: Arc<Edge>, reservation: Arc<Reservation>) {
    loop {
        let until = reservation.state().until;
        match (until - edge.services.clock.now()).to_std() {
            Ok(left) if !left.is_zero() => tokio::time::sleep(left).await,
            _ => return,
        }
    }
}

/// `POST`.
async fn execute(
    edge: Arc<Edge>,
    reservations: &Arc<Reservations>,
    token: &str,
    (parts, body): (&Parts, Body),
    caller: Caller,
) -> Response {
    let mut record = Record::start(&edge, &caller, "sse");
    let admitted = admit(&edge, reservations, token, (parts, body), caller, &mut record).await;
    let mut record = Some(record);
    let begun = admitted.and_then(|(reservation, id, admitted)| start(edge, &reservation, id, admitted, &mut record));
    match (begun, record) {
        (Err(failure), Some(mut record)) => handler::failed(Media::GraphqlResponse, failure, &mut record),
        _ => StatusCode::ACCEPTED.into_response(),
    }
}

async fn admit(
    edge: &Arc<Edge>,
    reservations: &Arc<Reservations>,
    token: &str,
    (parts, body): (&Parts, Body),
    caller: Caller,
    record: &mut Record,
) -> Result<(Arc<Reservation>, String, Admitted), Failure> {
    negotiate::check_content_type(&parts.headers)?;
    let (_, reservation) = reservations.find(token)?;
    let bytes = handler::collect(&parts.headers, body, edge.documents.limits().body, handler::BODY_TIMEOUT).await?;
    let request: Map<String, Json> = serde_json::from_slice(&bytes).unwrap_or_default();
    let params = Params::from_body(&bytes)?;
    let id = extension(&request, "operationId")?.filter(|id| !id.is_empty() && id.len() <= MAX_ID);
    let id = id.ok_or_else(|| {
        bad("`extensions.operationId` is missing: 1 to 128 characters that name the operation on the stream.")
    })?;
    let caller = Caller { last_event_id: extension(&request, "lastEventId")?, ..caller };
    let prepared = execute::prepare(edge, &caller, params)?;
    record.is(&prepared);
    let admitted = execute::authorize(edge, &caller, prepared).await?;
    if admitted.session.holder() != Some(reservation.holder) {
        return Err(not_found());
    }
    Ok((reservation, id, admitted))
}

/// Starts an operation whose answers come over the stream. `record` is taken when it starts.
fn start(
    edge: Arc<Edge>,
    reservation: &Arc<Reservation>,
    id: String,
    admitted: Admitted,
    record: &mut Option<Record>,
) -> Result<(), Failure> {
    let mut state = reservation.state();
    if state.operations.contains_key(&id) {
        let message = "An operation with this `extensions.operationId` is under way on the stream.";
        return Err(Failure::request(StatusCode::CONFLICT, Code::BadRequest, message));
    }
    if state.operations.len() >= MAX_OPERATIONS {
        let message = format!("The stream has {MAX_OPERATIONS} operations already: end some, or reserve another.");
        return Err(Failure::limit(Code::TooManySubscriptions, message));
    }
    let Some(record) = record.take() else { return Ok(()) };
    if let Some(until) = admitted.session.expires_at() {
        state.until = state.until.max(until);
    }
    state.started += 1;
    let number = state.started;
    let (out, of, name) = (reservation.out.clone(), Arc::downgrade(reservation), id.clone());
    let operation = tokio::spawn(async move {
        let mut answers = execute::stream(&edge, admitted, record);
        while let Some(answer) = answers.next().await {
            if out.send(event("next", &name, &answer::json(&answer))).await.is_err() {
                return;
            }
        }
        drop(answers);
        // The id is free when the client hears of the end.
        if let Some(reservation) = of.upgrade() {
            let mut state = reservation.state();
            if state.operations.get(&name).is_some_and(|(found, _)| *found == number) {
                state.operations.remove(&name);
            }
        }
        out.send(event("complete", &name, &[])).await.ok();
    });
    state.operations.insert(id, (number, operation.abort_handle()));
    Ok(())
}

/// `DELETE`.
async fn stop(
    edge: &Arc<Edge>,
    reservations: &Arc<Reservations>,
    token: &str,
    parts: &Parts,
    caller: &Caller,
) -> Result<Response, Failure> {
    let (_, reservation) = reservations.find(token)?;
    if holder(edge, caller).await?.0 != reservation.holder {
        return Err(not_found());
    }
    let id = parameter(&parts.uri, "operationId").ok_or_else(|| bad("`operationId` is missing."))?;
    // One that has ended meanwhile is no error.
    if let Some((_, operation)) = reservation.state().operations.remove(&id) {
        operation.abort();
    }
    Ok(StatusCode::OK.into_response())
}

/// An event of the stream; JSON has no line breaks, so the data is one line.
fn event(kind: &str, id: &str, payload: &[u8]) -> Bytes {
    let mut out = format!("event: {kind}\ndata: {{\"id\":").into_bytes();
    id.write(&mut out);
    if !payload.is_empty() {
        out.extend_from_slice(b",\"payload\":");
        out.extend_from_slice(payload);
    }
    out.extend_from_slice(b"}\n\n");
    out.into()
}
