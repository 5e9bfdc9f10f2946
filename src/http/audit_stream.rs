//! `GET /export/audit-logs`: the audit log of the viewer's organization as lines of JSON, from a place of its chain on, and with
//! `follow=true` as it grows.
//!
//! Every page asks the database anew who the bearer is: a stream ends with the key, the membership, or the token.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::stream;
use serde::Deserialize;
use serde_json::Value;

use crate::audit::{self, Read};
use crate::error::{Code, Error, Result};
use crate::http::graphql::Caller;
use crate::http::{Edge, error};
use crate::id::OrganizationId;

/// How long a stream waits before it looks again.
const WAIT: Duration = Duration::from_secs(2);
/// Looks without news after which an empty line is sent, so that nothing between takes the stream for dead.
const QUIET_LOOKS: u32 = 7;

/// Streams that an organization has open at once, in one process: each asks the database every two seconds.
const STREAMS: usize = 8;

/// The streams of each organization.
#[derive(Debug, Default)]
struct Open(Mutex<HashMap<OrganizationId, usize>>);

/// The place of one of them, until it is dropped.
struct Place {
    open: Arc<Open>,
    organization: OrganizationId,
}

impl Open {
    /// A place, if the organization has one left.
    fn take(self: &Arc<Self>, organization: OrganizationId) -> Option<Place> {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = streams.entry(organization).or_default();
        if *taken >= STREAMS {
            return None;
        }
        *taken += 1;
        Some(Place { open: Arc::clone(self), organization })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = streams.get_mut(&self.organization) {
            *taken -= 1;
            if *taken == 0 {
                streams.remove(&self.organization);
            }
        }
    }
}

/// The route.
pub fn router(edge: Arc<Edge>) -> Router {
    Router::new().route("/export/audit-logs", get(export)).with_state((edge, Arc::default()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// The place after which to begin; 0: at the beginning.
    #[serde(default)]
    after: i64,
    /// Whether to wait for more.
    #[serde(default)]
    follow: bool,
}

/// A stream of the log.
struct Log {
    edge: Arc<Edge>,
    caller: Caller,
    after: i64,
    follows: bool,
    quiet: u32,
    is_over: bool,
    /// Held as long as the stream lives.
    place: Option<Place>,
}

impl Log {
    /// The next rows, and whether there are no more now.
    async fn read_on(&mut self) -> Result<(OrganizationId, Vec<Value>, bool)> {
        let session = self.caller.open(&self.edge).await?;
        let read = audit::read_on(&session, self.after).await;
        session.close().await;
        let Read { organization, rows, position, is_last } = read?;
        self.after = position;
        Ok((organization, rows, is_last))
    }

    /// What is sent next; `None`: that was all.
    async fn next(mut self) -> Option<(std::result::Result<Bytes, Infallible>, Self)> {
        while !self.is_over {
            let (rows, is_last) = match self.read_on().await {
                Ok((_, rows, is_last)) => (rows, is_last),
                Err(error) => {
                    self.is_over = true;
                    return Some((Ok(last_words(&error)), self));
                }
            };
            if !rows.is_empty() {
                (self.quiet, self.is_over) = (0, is_last && !self.follows);
                return Some((Ok(lines(&rows)), self));
            }
            if is_last {
                if !self.follows || !self.waits().await {
                    return None;
                }
                self.quiet += 1;
                if self.quiet >= QUIET_LOOKS {
                    self.quiet = 0;
                    return Some((Ok(Bytes::from_static(b"\n")), self));
                }
            }
        }
        None
    }

    /// Waits before another look; `false` when the server stops.
    async fn waits(&self) -> bool {
        let mut stopping = self.edge.shutdown.clone();
        tokio::select! {
            () = tokio::time::sleep(WAIT) => true,
            _ = stopping.wait_for(|stop| *stop) => false,
        }
    }
}

fn lines(rows: &[Value]) -> Bytes {
    rows.iter().fold(String::new(), |text, row| text + &row.to_string() + "\n").into()
}

/// The line of a stream that cannot go on: the answer has begun, so no status can say it.
fn last_words(error: &Error) -> Bytes {
    let told = serde_json::json!({ "error": { "code": error.code().as_str(), "message": error.to_string() } });
    format!("{told}\n").into()
}

async fn export(State((edge, open)): State<(Arc<Edge>, Arc<Open>)>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let Ok(Query(Params { after, follow })) = Query::<Params>::try_from_uri(&parts.uri) else {
        let message = "/export/audit-logs takes after=<place>, 0 or more, and follow=true or false.";
        return error(StatusCode::BAD_REQUEST, Code::BadRequest, message);
    };
    let caller = Caller::of(&parts, &edge);
    let mut log = Log { edge, caller, after: after.max(0), follows: follow, quiet: 0, is_over: false, place: None };
    // Before the answer begins, whatever is wrong has a status.
    let (organization, rows, is_last) = match log.read_on().await {
        Ok(read) => read,
        Err(refused) => return error(refused.status(), refused.code(), &refused.to_string()),
    };
    log.place = open.take(organization);
    if log.place.is_none() {
        let message = format!("The organization has {STREAMS} of these open: end one first.");
        return error(StatusCode::TOO_MANY_REQUESTS, Code::TooManySubscriptions, &message);
    }
    log.is_over = is_last && !follow;
    let first = stream::iter([Ok::<_, Infallible>(lines(&rows))]);
    let body = Body::from_stream(stream::StreamExt::chain(first, stream::unfold(log, Log::next)));
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}
