//! `GET /ofrep/v1/stream`: tells that flags are to be asked for again (the protocol's ADR 8 and `service/event-streams.yaml`).
//!
//! The id of an event is the configuration that it tells of. Whoever comes back with the id of another one, or without any, is told
//! at once: something may have changed while nobody listened.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::time::{Instant, Interval, interval_at};

use super::ticket::Ticket;
use super::{Failure, Ofrep, caller_of};
use crate::flags::Etag;
use crate::flags::admission::{Lost, Proof, Who, confirm};
use crate::id::OrganizationId;

/// Proxies close connections on which nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(12);
/// Streams of one organization in one process.
const OF_ORGANIZATION: usize = 1000;
/// Streams of one process.
const OF_PROCESS: usize = 10_000;
/// When whoever found no place may come again, in seconds.
const NO_PLACE: u64 = 30;
/// Longest wait until the end of a stream, so that no timer overflows: a year.
const LONGEST: Duration = Duration::from_hours(24 * 365);

/// The streams that are open.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<(usize, HashMap<OrganizationId, usize>)>);

/// The place of one of them, until it is dropped.
#[derive(Debug)]
struct Place(Arc<Streams>, OrganizationId);

impl Streams {
    fn take(self: &Arc<Self>, organization: OrganizationId) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_organization) = &mut *open;
        let own = by_organization.get(&organization).copied().unwrap_or_default();
        if *all >= OF_PROCESS || own >= OF_ORGANIZATION {
            return None;
        }
        *all += 1;
        by_organization.insert(organization, own + 1);
        Some(Place(Arc::clone(self), organization))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.0 = open.0.saturating_sub(1);
        let left = open.1.remove(&self.1).unwrap_or_default().saturating_sub(1);
        if left > 0 {
            open.1.insert(self.1, left);
        }
    }
}

/// Opens a stream.
pub(super) async fn open(State(ofrep): State<Ofrep>, request: Request) -> Response {
    opened(ofrep, request).await.unwrap_or_else(|failure| failure.response(None))
}

async fn opened(ofrep: Ofrep, request: Request) -> Result<Response, Failure> {
    let (parts, _) = request.into_parts();
    let caller = caller_of(&parts, &ofrep.edge);
    let flags = &ofrep.edge.flags;
    flags.loaded_snapshot().await?;
    let now = flags.clock().now();
    let sent = parts.uri.query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("ticket=")));
    let ticket = if let Some(sent) = sent {
        let refused = || {
            Failure::new(
                StatusCode::UNAUTHORIZED,
                "GENERAL",
                "The address of the stream has expired: ask for the flags again.",
            )
        };
        let ticket = Ticket::open(sent, &flags.stream_secret()?, now).ok_or_else(refused)?;
        confirm(flags, &ofrep.edge.services, &ticket.proof, caller.ip).await?;
        ticket
    } else {
        let admitted = ofrep.admit(&caller).await?;
        Ticket::of(&admitted, now)
    };
    let organization = ticket.proof.organization;
    let Some(place) = ofrep.streams.take(organization) else {
        let failure = Failure::new(
            StatusCode::TOO_MANY_REQUESTS,
            "GENERAL",
            "Too many streams are open: ask for the flags from time to time.",
        );
        return Err(Failure { retry_after: Some(NO_PLACE), ..failure });
    };
    let heard = parts.headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let followed = flags.follow();
    let etag = flags.snapshot()?.etag(organization, flags.clock().now());
    let left = (ticket.expires_at - now).to_std().unwrap_or_default().min(LONGEST);
    let followed = Followed {
        first: Some(heard.is_none_or(|heard| heard != etag.to_string())),
        last: etag,
        is_doubtful: false,
        proof: ticket.proof,
        ip: caller.ip,
        changes: followed,
        end: Box::pin(tokio::time::sleep(left)),
        idle: interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE),
        ofrep,
        _place: place,
    };
    let headers = [
        (CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        // Nginx buffers streams unless told not to.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(futures_util::stream::unfold(followed, Followed::next))).into_response())
}

/// A stream.
struct Followed {
    ofrep: Ofrep,
    proof: Proof,
    ip: Option<IpAddr>,
    changes: broadcast::Receiver<Arc<Vec<Lost>>>,
    /// The configuration that was told of last.
    last: Etag,
    /// Whether who follows may have lost access, and the database could not be asked.
    is_doubtful: bool,
    /// Whether it is to be told at once; `None` once the stream has begun.
    first: Option<bool>,
    end: Pin<Box<tokio::time::Sleep>>,
    idle: Interval,
    _place: Place,
}

impl Followed {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if let Some(tells) = self.first.take() {
            // Those of an instance that stops come back at different times.
            let retry = format!("retry: {}\n\n", 1000 + u32::from(rand::random::<u8>()) * 8);
            let begun = if tells { retry + &self.event() } else { retry };
            return Some((Ok(begun.into()), self));
        }
        let mut shutdown = self.ofrep.edge.shutdown.clone();
        let flags = Arc::clone(&self.ofrep.edge.flags);
        loop {
            let mut is_quiet = false;
            let concerned = tokio::select! {
                biased;
                () = &mut self.end => return None,
                _ = shutdown.wait_for(|stop| *stop) => return None,
                told = self.changes.recv() => match told {
                    Ok(lost) => lost.iter().any(|lost| lost.concerns(&self.proof)),
                    Err(broadcast::error::RecvError::Lagged(_)) => true,
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                () = flags.until_turn(self.proof.organization) => false,
                _ = self.idle.tick() => {
                    is_quiet = true;
                    false
                }
            };
            // A client key is looked for in memory. While the database is away, whoever could not be looked up is tried again.
            if concerned || self.is_doubtful || matches!(self.proof.who, Who::Client { .. }) {
                match confirm(&flags, &self.ofrep.edge.services, &self.proof, self.ip).await {
                    Err(error) if error.status().is_client_error() => return None,
                    confirmed => self.is_doubtful = confirmed.is_err(),
                }
            }
            if is_quiet {
                return Some((Ok(Bytes::from_static(b":\n\n")), self));
            }
            let Ok(snapshot) = flags.snapshot() else { continue };
            let etag = snapshot.etag(self.proof.organization, flags.clock().now());
            if etag != self.last {
                self.last = etag;
                self.idle.reset();
                return Some((Ok(self.event().into()), self));
            }
        }
    }

    fn event(&self) -> String {
        let (etag, at) = (self.last, self.ofrep.edge.flags.clock().now().timestamp());
        format!(
            "id: {etag}\nevent: message\ndata: {{\"type\":\"refetchEvaluation\",\"etag\":\"{etag}\",\"lastModified\":{at}}}\n\n"
        )
    }
}
