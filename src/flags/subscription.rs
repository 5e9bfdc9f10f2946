//! `featureFlagsChanged`.

use std::sync::Arc;

use async_graphql::{Context, SimpleObject, Subscription};
use futures_util::{Stream, StreamExt as _, stream};

use super::FeatureFlag;
use super::memory::Flags;
use super::sql::flags_of;
use crate::access::Action;
use crate::error::{Error, Result};
use crate::graphql::session::Session;

/// The feature flags of the organization after a change.
#[derive(Clone, Debug, SimpleObject)]
pub struct FeatureFlagsChange {
    /// Version of the configuration: the definitions, the plan and the overrides of the organization. It is that of OFREP's event
    /// stream.
    pub etag: String,
    /// Every feature flag, decided for the viewer as it is now, by key.
    pub feature_flags: Vec<FeatureFlag>,
}

/// The subscriptions of the slice.
#[derive(Debug, Default)]
pub struct FlagSubscription;

#[Subscription]
impl FlagSubscription {
    /// Emits the feature flags of the organization whenever a definition, an override or the plan changes what is decided, and
    /// when one begins or ends by its schedule.
    async fn feature_flags_changed(
        &self,
        ctx: &Context<'_>,
    ) -> Result<impl Stream<Item = Result<FeatureFlagsChange>> + use<>> {
        let session = Arc::clone(Session::of(ctx)?);
        let flags = Arc::clone(ctx.data::<Arc<Flags>>().map_err(|_| Error::internal("the request has no flags"))?);
        let tenant = session.require(Action::OrganizationRead).await?;
        // Nothing is read until something happens: the connection goes back.
        session.close().await;
        flags.loaded_snapshot().await?;
        let access = session.services().events.subscribe(tenant.organization_id).await?;
        let access = access.filter_map(move |event| {
            futures_util::future::ready(event.concerns_access_of(tenant.actor).then_some(None))
        });
        let changes = flags.changes(tenant.organization_id)?.map(Some);
        let told = stream::select(access, changes).filter_map(move |etag| {
            let session = Arc::clone(&session);
            async move {
                // What the last event loaded is not what this one is to show.
                session.close().await;
                let shown = match etag {
                    Some(etag) => flags_of(&session, None)
                        .await
                        .map(|feature_flags| Some(FeatureFlagsChange { etag: etag.to_string(), feature_flags })),
                    None => session.require(Action::OrganizationRead).await.map(|_| None),
                };
                session.close().await;
                shown.transpose()
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
}
