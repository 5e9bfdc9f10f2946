//! The one way a subscription tells of changes.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_graphql::Context;
use futures_util::{Stream, stream};
use tokio::sync::watch;

use crate::access::{Action, Tenant};
use crate::error::{Error, Result};
use crate::events::{Cursor, Event, Follower, Step};
use crate::graphql::entity::{Entity as _, Loadable};
use crate::graphql::session::Session;
use crate::id::Id;

/// Pause before the database is asked again.
const RETRY: Duration = Duration::from_millis(500);

/// How far the stream of one operation has come: the transport that sends it and the field that makes it know it together.
#[derive(Debug, Default)]
pub struct Progress {
    /// The last event that the client has, as it says.
    from: Option<String>,
    /// The event that is being made.
    made: Mutex<Option<Arc<str>>>,
    /// The last one that was made, or passed over.
    passed: watch::Sender<Option<Arc<str>>>,
}

impl Progress {
    /// Of a client that comes back with the id of the last event that it has, or begins.
    #[must_use]
    pub fn new(from: Option<String>) -> Self {
        Self { from, ..Self::default() }
    }

    /// That of the operation of this field.
    #[must_use]
    pub fn of(ctx: &Context<'_>) -> Arc<Self> {
        ctx.data_opt::<Arc<Self>>().cloned().unwrap_or_default()
    }

    /// What the client says it has.
    #[must_use]
    pub fn from(&self) -> Option<&str> {
        self.from.as_deref()
    }

    /// The id of the event that was just made, if it has one.
    #[must_use]
    pub fn made(&self) -> Option<Arc<str>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).take();
        if made.is_some() {
            self.passed.send_replace(made.clone());
        }
        made
    }

    /// The id that a client may come back with, as it changes.
    #[must_use]
    pub fn passed(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.passed.subscribe()
    }

    /// There was nothing to send up to here.
    pub fn pass(&self, id: impl Display) {
        self.passed.send_replace(Some(id.to_string().into()));
    }

    /// What is made next has this id.
    pub fn make(&self, id: impl Display) {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.to_string().into());
    }
}

/// Hears the events of the viewer's organization, as somebody who may do this.
///
/// Whoever loses access between the question and the answer is refused here, later they hear of it.
///
/// # Errors
/// When the viewer may not; [`Error::Unavailable`]; [`Error::EventsMissed`] for a client that comes back.
pub async fn hear(session: &Session, action: Action, from: Option<Cursor>) -> Result<(Tenant, Follower)> {
    let tenant = session.require(action).await?;
    // Nothing is read until something happens: the connection goes back.
    session.close().await;
    let follower = session.services().events.subscribe(tenant.organization_id, tenant.actor, from).await?;
    let tenant = session.require(action).await?;
    session.close().await;
    Ok((tenant, follower))
}

/// Every change of a row of this type in the viewer's organization, or of the row `only`.
///
/// The row is read when the change is told, under the subscriber's own rights at that moment: several quick changes may
/// arrive as the same latest state. While the database is away, events wait. Whoever is removed, demoted, blocked or signed out
/// gets the error when that happens, and the stream ends.
///
/// # Errors
/// As [`hear`]; [`Error::Invalid`] when the client comes back with the id of no event.
pub async fn follow<M: Loadable, T: Send + 'static>(
    ctx: &Context<'_>,
    only: Option<Id<M>>,
    show: fn(Arc<M::Entity>) -> T,
) -> Result<impl Stream<Item = Result<T>> + use<M, T>> {
    follow_some(ctx, only, move |row| Some(show(row))).await
}

/// As [`follow`], of those changes that `show` makes something of.
///
/// # Errors
/// As [`follow`].
pub async fn follow_some<M: Loadable, T: Send + 'static, F: Fn(Arc<M::Entity>) -> Option<T> + Send + Sync + 'static>(
    ctx: &Context<'_>,
    only: Option<Id<M>>,
    show: F,
) -> Result<impl Stream<Item = Result<T>> + use<M, T, F>> {
    let session = Arc::clone(Session::of(ctx)?);
    let progress = Progress::of(ctx);
    let unknown = || {
        let message = "The id of the last event was not made by this server: subscribe without it.";
        Error::invalid("lastEventId", message)
    };
    let from = progress.from().map(|from| Cursor::parse(from).ok_or_else(unknown)).transpose()?;
    let (tenant, follower) = hear(&session, M::Entity::READ, from).await?;
    progress.pass(follower.cursor());
    let following = Following { session, progress, tenant, follower, only, show };
    Ok(stream::unfold(Some(following), |following| async move {
        let mut following = following?;
        let next = following.next().await?;
        // Who has no access gets the error and nothing more, at once.
        let ends = next.as_ref().is_err_and(Error::ends_stream);
        Some((next, (!ends).then_some(following)))
    }))
}

/// A subscription that is open.
struct Following<M: Loadable, F> {
    session: Arc<Session>,
    progress: Arc<Progress>,
    tenant: Tenant,
    follower: Follower,
    only: Option<Id<M>>,
    show: F,
}

impl<M: Loadable, F> Following<M, F> {
    async fn next<T>(&mut self) -> Option<Result<T>>
    where
        F: Fn(Arc<M::Entity>) -> Option<T>,
    {
        loop {
            let shown = match self.follower.next().await? {
                Ok(Step::Event(event)) => self.shown(&event).await,
                Ok(Step::Quiet) => Ok(None),
                Err(error) => Err(error),
            };
            if let Some(shown) = shown.transpose() {
                self.progress.make(self.follower.cursor());
                return Some(shown);
            }
            self.progress.pass(self.follower.cursor());
        }
    }

    async fn shown<T>(&self, event: &Event) -> Result<Option<T>>
    where
        F: Fn(Arc<M::Entity>) -> Option<T>,
    {
        if event.concerns_access_of(self.tenant.actor) {
            return still_may(&self.session, M::Entity::READ).await.map(|()| None);
        }
        let changed = event.id_of::<M>().filter(|changed| self.only.is_none_or(|only| only == *changed));
        let Some(changed) = changed else { return Ok(None) };
        let row = when_there(&self.session, || self.session.load(changed)).await?;
        Ok(row.and_then(&self.show))
    }
}

/// Whether the viewer may still do this, when the database is there to say so.
///
/// # Errors
/// Why they may not.
pub async fn still_may(session: &Session, action: Action) -> Result<()> {
    let may = when_there(session, || session.require(action)).await.map(drop);
    session.close().await;
    may
}

/// Reads anew, and again while the database is away: what somebody waits for is not lost because of that.
async fn when_there<T, W: Future<Output = Result<T>>>(session: &Session, work: impl Fn() -> W) -> Result<T> {
    loop {
        // What was loaded before is not what this is to show.
        session.close().await;
        match work().await {
            Err(Error::Unavailable) => tokio::time::sleep(RETRY).await,
            done => return done,
        }
    }
}
