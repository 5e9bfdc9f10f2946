//! `featureFlagsChanged`.

use std::sync::Arc;

use async_graphql::{Context, SimpleObject, Subscription};
use futures_util::{Stream, StreamExt as _, stream};

use super::FeatureFlag;
use super::memory::Flags;
use super::snapshot::Etag;
use super::sql::flags_of;
use crate::access::Action;
use crate::error::{Error, Result};
use crate::graphql::follow::{Progress, hear, still_may};
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
        let progress = Progress::of(ctx);
        let (tenant, follower) = hear(&session, Action::OrganizationRead, None).await?;
        flags.loaded_snapshot().await?;
        let access = follower.into_stream().filter_map(move |event| {
            let concerned = event.map(|event| event.concerns_access_of(tenant.actor).then_some(None));
            futures_util::future::ready(concerned.transpose())
        });
        let changes = flags.changes(tenant.organization_id)?.map(|etag| Ok(Some(etag)));
        // What is decided now is all there is to know: whoever comes back with something else is told of it.
        let now = flags.snapshot()?.etag(tenant.organization_id, flags.clock().now());
        let is_behind = progress.from().is_some_and(|known| known != now.to_string());
        progress.pass(now);
        let changes = stream::iter(is_behind.then_some(Ok(Some(now)))).chain(changes);
        let told = stream::select(access, changes).filter_map(move |told: Result<Option<Etag>>| {
            let session = Arc::clone(&session);
            async move {
                // What the last event loaded is not what this one is to show.
                session.close().await;
                let shown = match told {
                    Ok(Some(etag)) => flags_of(&session, None)
                        .await
                        .map(|feature_flags| Some(FeatureFlagsChange { etag: etag.to_string(), feature_flags })),
                    Ok(None) => still_may(&session, Action::OrganizationRead).await.map(|()| None),
                    Err(error) => Err(error),
                };
                session.close().await;
                shown.transpose()
            }
        });
        // Who has no access gets the error and nothing more, at once.
        Ok(stream::unfold(Some((Box::pin(told), progress)), |told| async move {
            let (mut told, progress) = told?;
            let next = told.next().await?;
            if let Ok(change) = &next {
                progress.make(&change.etag);
            }
            let ends = next.as_ref().is_err_and(Error::ends_stream);
            Some((next, (!ends).then_some((told, progress))))
        }))
    }
}
