//! The one way a subscription tells of changes.

use std::sync::Arc;

use async_graphql::Context;
use futures_util::{Stream, StreamExt as _, stream};

use crate::error::{Error, Result};
use crate::graphql::entity::{Entity as _, Loadable};
use crate::graphql::session::Session;
use crate::id::Id;

/// Every change of a row of this type in the viewer's organization, or of the row `only`.
///
/// The row is read when the change is told, under the subscriber's own rights at that moment: several quick changes may
/// arrive as the same latest state. Whoever is removed, demoted, blocked or signed out gets the error when that happens, and
/// the stream ends.
///
/// # Errors
/// When the viewer may not see such rows; [`Error::Unavailable`].
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
pub async fn follow_some<
    M: Loadable,
    T: Send + 'static,
    F: Fn(Arc<M::Entity>) -> Option<T> + Clone + Send + 'static,
>(
    ctx: &Context<'_>,
    only: Option<Id<M>>,
    show: F,
) -> Result<impl Stream<Item = Result<T>> + use<M, T, F>> {
    let session = Arc::clone(Session::of(ctx)?);
    let tenant = session.require(M::Entity::READ).await?;
    // Nothing is read until something happens: the connection goes back.
    session.close().await;
    let events = session.services().events.subscribe(tenant.organization_id).await?;
    let told = events.filter_map(move |event| {
        let (session, show) = (Arc::clone(&session), show.clone());
        async move {
            let access = event.concerns_access_of(tenant.actor);
            let changed = event.id_of::<M>().filter(|changed| only.is_none_or(|only| only == *changed));
            if !access && changed.is_none() {
                return None;
            }
            // What the last event loaded is not what this one is to show.
            session.close().await;
            if access {
                let refused = session.require(M::Entity::READ).await.err();
                session.close().await;
                return refused.map(Err);
            }
            match session.load(changed?).await {
                Ok(Some(row)) => show(row).map(Ok),
                Ok(None) => None,
                Err(error) => Some(Err(error)),
            }
        }
    });
    // Who has no access gets the error and nothing more, at once.
    Ok(stream::unfold(Some(Box::pin(told)), |told| async move {
        let mut told = told?;
        let next = told.next().await?;
        let ends = next.as_ref().is_err_and(Error::ends_access);
        Some((next, (!ends).then_some(told)))
    }))
}
