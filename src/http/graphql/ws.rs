//! `GET /graphql/ws`: the GraphQL over WebSocket protocol (subprotocol `graphql-transport-ws`).
//!
//! One task owns the socket: it reads, and it writes what the tasks of the operations put into a short queue. An
//! operation that produces faster than the client reads waits in that queue; a client that does not read for
//! [`SEND_TIMEOUT`] is dropped.

use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::header::SEC_WEBSOCKET_PROTOCOL;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures_util::StreamExt as _;
use serde_json::{Map, Value as Json, json};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::answer;
use super::cors::may_open_socket;
use super::execute::{self, Caller, Record};
use super::failure::Failure;
use super::handler;
use super::negotiate::Media;
use super::persisted::is_client_header;
use super::request::Params;
use super::reserved;
use crate::error::{Code, Error};
use crate::http::Edge;
use crate::json::Json as _;

const PROTOCOL: &str = "graphql-transport-ws";
/// How long a client may take to introduce itself.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to take a message.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the client's answer to a close is waited for.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_MESSAGE: usize = 64 * 1024;
/// Larger messages than this end the connection without ceremony.
const MAX_FRAME: usize = 1024 * 1024;
const MAX_OPERATIONS: usize = 50;
const MAX_ID: usize = 128;
const QUEUE: usize = 16;

/// Upgrades a request.
pub(super) async fn upgrade(State(edge): State<Arc<Edge>>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let caller = Caller::of(&parts, &edge);
    let refuse = |status, code, message: String| {
        let mut record = Record::start(&edge, &caller, "ws");
        handler::failed(Media::Json, Failure::request(status, code, message), &mut record)
    };
    if !may_open_socket(&edge.settings.cors_origins, &parts.headers) {
        let message = "Pages of this origin may not open sockets here: add it to CORS_ORIGINS.".to_owned();
        return refuse(StatusCode::FORBIDDEN, Code::OriginNotAllowed, message);
    }
    let socket = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(socket) => socket,
        Err(rejection) => return refuse(rejection.status(), Code::WebsocketExpected, rejection.body_text()),
    };
    if !offers_protocol(&parts.headers) {
        let message = format!("Offer the subprotocol `{PROTOCOL}` (npm package graphql-ws).");
        return refuse(StatusCode::BAD_REQUEST, Code::SubprotocolNotSupported, message);
    }
    let socket = socket.protocols([PROTOCOL]).max_message_size(MAX_FRAME).max_frame_size(MAX_FRAME);
    socket.on_upgrade(move |socket| Connection::new(edge, caller).run(socket))
}

fn offers_protocol(headers: &HeaderMap) -> bool {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    offered.flat_map(|value| value.split(',')).any(|offered| offered.trim() == PROTOCOL)
}

/// Why a connection is closed. The codes are the protocol's.
#[derive(Debug)]
struct Close(u16, Cow<'static, str>);

impl Close {
    const fn new(code: u16, reason: &'static str) -> Self {
        Self(code, Cow::Borrowed(reason))
    }

    fn bad_message(reason: &'static str) -> Self {
        Self::new(4400, reason)
    }
}

/// What the task of an operation has to say.
struct Frame {
    id: String,
    /// Distinguishes operations that had the same id one after the other.
    number: u64,
    text: String,
    last: bool,
}

struct Connection {
    edge: Arc<Edge>,
    caller: Caller,
    acknowledged: bool,
    expiry: Pin<Box<dyn Future<Output = ()> + Send>>,
    operations: HashMap<String, (u64, AbortHandle)>,
    started: u64,
    queue: (mpsc::Sender<Frame>, mpsc::Receiver<Frame>),
}

impl Drop for Connection {
    fn drop(&mut self) {
        for (_, operation) in self.operations.values() {
            operation.abort();
        }
    }
}

impl Connection {
    fn new(edge: Arc<Edge>, caller: Caller) -> Self {
        Self {
            edge,
            caller,
            acknowledged: false,
            expiry: Box::pin(std::future::pending()),
            operations: HashMap::new(),
            started: 0,
            queue: mpsc::channel(QUEUE),
        }
    }

    async fn run(mut self, mut socket: WebSocket) {
        if let Err(Some(Close(code, reason))) = self.serve(&mut socket).await {
            // Operations end before the client hears of the close.
            drop(self);
            let frame = CloseFrame { code, reason: Utf8Bytes::from(cut(reason.into_owned())) };
            let farewell = async {
                if socket.send(Message::Close(Some(frame))).await.is_ok() {
                    while let Some(Ok(_)) = socket.recv().await {}
                }
            };
            drop(tokio::time::timeout(CLOSE_TIMEOUT, farewell).await);
        }
    }

    /// Serves until the connection ends: by itself (`Err(None)`) or because we close it.
    async fn serve(&mut self, socket: &mut WebSocket) -> Result<std::convert::Infallible, Option<Close>> {
        let mut stopped = Box::pin(execute::until_shutdown(&self.edge));
        let init = tokio::time::sleep(INIT_TIMEOUT);
        tokio::pin!(init);
        let every = self.edge.listening.timeouts().socket_ping;
        let mut ping = tokio::time::interval_at(Instant::now() + every, every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                () = &mut stopped => return Err(Some(Close::new(1001, "The server is stopping"))),
                () = &mut self.expiry => return Err(Some(Close::new(4403, "Token expired"))),
                () = &mut init, if !self.acknowledged => {
                    return Err(Some(Close::new(4408, "Connection initialisation timeout")));
                }
                message = socket.recv() => {
                    heard = Instant::now();
                    match message {
                        Some(Ok(Message::Text(text))) => {
                            if let Some(answer) = self.receive(&text).await.map_err(Some)? {
                                send(socket, Message::text(answer.to_string())).await?;
                            }
                        }
                        Some(Ok(Message::Binary(_))) => {
                            return Err(Some(Close::bad_message("Messages are text")));
                        }
                        // The library answers pings and closes.
                        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_))) => {}
                        Some(Err(error)) if error.to_string().contains("too long") => return Err(Some(too_big())),
                        Some(Err(_)) | None => return Err(None),
                    }
                }
                Some(frame) = self.queue.1.recv() => {
                    if self.is_current(&frame) {
                        if frame.last {
                            self.operations.remove(&frame.id);
                        }
                        send(socket, Message::text(frame.text)).await?;
                    }
                }
                _ = ping.tick() => {
                    if heard.elapsed() > every * 3 {
                        return Err(None);
                    }
                    send(socket, Message::Ping(bytes::Bytes::new())).await?;
                }
            }
        }
    }

    /// Whether the operation that the frame belongs to was not completed by the client in the meantime.
    fn is_current(&self, frame: &Frame) -> bool {
        self.operations.get(&frame.id).is_some_and(|(number, _)| *number == frame.number)
    }

    /// Takes a message; returns the answer to it.
    async fn receive(&mut self, text: &str) -> Result<Option<Json>, Close> {
        if text.len() > MAX_MESSAGE {
            return Err(too_big());
        }
        let Ok(Json::Object(mut message)) = serde_json::from_str(text) else {
            return Err(Close::bad_message("A message is a JSON object"));
        };
        match message.get("type").and_then(Json::as_str) {
            Some("connection_init") => self.init(message.remove("payload")).await.map(Some),
            Some("ping") => Ok(Some(match payload(message.remove("payload"))? {
                Some(payload) => json!({ "type": "pong", "payload": payload }),
                None => json!({ "type": "pong" }),
            })),
            Some("pong") => Ok(None),
            Some("subscribe") => self.subscribe(message),
            Some("complete") => {
                let id =
                    message.get("id").and_then(Json::as_str).ok_or(Close::bad_message("`complete` has no `id`"))?;
                if let Some((_, operation)) = self.operations.remove(id) {
                    operation.abort();
                }
                Ok(None)
            }
            Some(_) => Err(Close::bad_message("The message has an unknown `type`")),
            None => Err(Close::bad_message("The message has no `type`")),
        }
    }

    async fn init(&mut self, given: Option<Json>) -> Result<Json, Close> {
        if self.acknowledged {
            return Err(Close::new(4429, "Too many initialisation requests"));
        }
        if let Some(payload) = payload(given)? {
            let headers = payload.get("headers").and_then(Json::as_object);
            for members in [Some(&payload), headers].into_iter().flatten() {
                for (name, value) in members {
                    let slot = match name.to_ascii_lowercase().as_str() {
                        "authorization" => &mut self.caller.authorization,
                        "organization" | "x-organization-id" => &mut self.caller.organization,
                        // Not a credential, so what is no string is no name.
                        name if is_client_header(name) && value.is_string() => &mut self.caller.client,
                        _ => continue,
                    };
                    match value {
                        Json::String(value) => *slot = Some(value.clone()),
                        Json::Null => {}
                        _ => return Err(Close::bad_message("Credentials are strings")),
                    }
                }
            }
        }
        let opened = tokio::time::timeout(INIT_TIMEOUT, self.caller.open(&self.edge)).await;
        let session = opened.unwrap_or(Err(Error::Timeout)).map_err(|error| match error {
            Error::Internal(cause) => {
                tracing::error!(request_id = self.caller.request_id, %cause, "internal error");
                Close::new(1011, "Internal error")
            }
            error if error.status().is_server_error() => Close::new(1013, "Try again later"),
            error => {
                tracing::info!(request_id = self.caller.request_id, code = %error.code(), "a socket was refused");
                Close::new(4403, "Forbidden")
            }
        })?;
        if session.is_anonymous() {
            // Clients try again after 4403, where a new token may help, and not after this.
            return Err(Close::new(4401, "Unauthorized"));
        }
        self.expiry = Box::pin(execute::until_expiry(&self.edge, &session));
        self.acknowledged = true;
        Ok(json!({ "type": "connection_ack" }))
    }

    fn subscribe(&mut self, mut message: Map<String, Json>) -> Result<Option<Json>, Close> {
        if !self.acknowledged {
            return Err(Close::new(4401, "Unauthorized"));
        }
        let id = match message.remove("id") {
            Some(Json::String(id)) if !id.is_empty() && id.len() <= MAX_ID => id,
            _ => return Err(Close::bad_message("`subscribe` has no usable `id`")),
        };
        if self.operations.contains_key(&id) {
            return Err(Close(4409, format!("Subscriber for {id} already exists").into()));
        }
        let Some(Json::Object(payload)) = message.remove("payload") else {
            return Err(Close::bad_message("`subscribe` has no `payload`"));
        };
        let refused = |failure: Failure| {
            Close(4400, failure.errors().first().map(|error| error.message.clone()).unwrap_or_default().into())
        };
        let last_event_id = reserved::extension(&payload, "lastEventId").map_err(refused)?;
        let params = Params::from_members(payload).map_err(refused)?;
        self.started += 1;
        let request_id = format!("{}-{}", self.caller.request_id, self.started);
        if self.operations.len() >= MAX_OPERATIONS {
            let message =
                format!("The socket has {MAX_OPERATIONS} operations already. Complete some, or open another socket.");
            let failure = Failure::limit(Code::TooManySubscriptions, message);
            let caller = Caller { request_id, ..self.caller.clone() };
            let errors = Record::start(&self.edge, &caller, "ws").settle(failure);
            return Ok(Some(json!({ "id": id, "type": "error", "payload": errors })));
        }
        let operation = Running {
            edge: Arc::clone(&self.edge),
            caller: Caller { request_id, last_event_id, ..self.caller.clone() },
            id: id.clone(),
            number: self.started,
            out: self.queue.0.clone(),
        };
        let handle = tokio::spawn(operation.run(params)).abort_handle();
        self.operations.insert(id, (self.started, handle));
        Ok(None)
    }
}

/// The task of one operation.
struct Running {
    edge: Arc<Edge>,
    caller: Caller,
    id: String,
    number: u64,
    out: mpsc::Sender<Frame>,
}

impl Running {
    async fn run(self, params: Params) {
        let mut record = Record::start(&self.edge, &self.caller, "ws");
        let admitted = match execute::prepare(&self.edge, &self.caller, params) {
            Ok(prepared) => {
                record.is(&prepared);
                execute::authorize(&self.edge, &self.caller, prepared).await
            }
            Err(failure) => Err(failure),
        };
        match admitted {
            Ok(admitted) => {
                let mut answers = execute::stream(&self.edge, admitted, record);
                while let Some(answer) = answers.next().await {
                    self.say("next", &answer::json(&answer)).await;
                }
                drop(answers);
                self.say("complete", &[]).await;
            }
            Err(failure) => {
                let errors = record.settle(failure);
                let mut payload = Vec::new();
                answer::errors(&errors, &mut payload);
                self.say("error", &payload).await;
            }
        }
    }

    /// Sends a message about the operation; `payload` is JSON, or empty where the message has none.
    async fn say(&self, kind: &str, payload: &[u8]) {
        let mut text = b"{\"id\":".to_vec();
        self.id.write(&mut text);
        text.extend_from_slice(b",\"type\":");
        kind.write(&mut text);
        if !payload.is_empty() {
            text.extend_from_slice(b",\"payload\":");
            text.extend_from_slice(payload);
        }
        text.push(b'}');
        let Ok(text) = String::from_utf8(text) else { return };
        let frame = Frame { id: self.id.clone(), number: self.number, text, last: kind != "next" };
        // Fails when the connection is gone, which aborts this task.
        drop(self.out.send(frame).await);
    }
}

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), Option<Close>> {
    match tokio::time::timeout(SEND_TIMEOUT, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(None),
        Err(_) => Err(Some(Close::new(1013, "The client reads too slowly"))),
    }
}

fn payload(value: Option<Json>) -> Result<Option<Map<String, Json>>, Close> {
    match value {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Object(payload)) => Ok(Some(payload)),
        Some(_) => Err(Close::bad_message("A `payload` is an object")),
    }
}

fn too_big() -> Close {
    Close(1009, format!("Messages have at most {MAX_MESSAGE} bytes").into())
}

/// Reasons have at most 123 bytes (RFC 6455, section 5.5).
fn cut(mut reason: String) -> String {
    let end = (0..=reason.len().min(120)).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or(0);
    reason.truncate(end);
    reason
}
