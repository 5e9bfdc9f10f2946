//! Representatives in the schema: inputs, mutations and the subscription.

use std::sync::Arc;

use async_graphql::{Context, InputObject, Object, SimpleObject, Subscription};
use futures_util::Stream;

use crate::error::Result;
use crate::graphql::follow::follow;
use crate::graphql::mutation::{self, Mutation, UserError};
use crate::graphql::session::Session;
use crate::id::{RepresentativeAbsenceId, RepresentativeId, UserId, marker};
use crate::representatives::{
    Representative, RepresentativeAbsence, RepresentativeAbsenceCreateInput, RepresentativeAbsenceDeleteInput,
    RepresentativeRole, RepresentativeStatus,
};

/// The member who becomes a representative.
#[derive(Clone, Debug, InputObject)]
pub struct RepresentativeCreateInput {
    /// The member. Whoever was removed before is the same representative again.
    pub user_id: UserId,
    /// Role; AGENT by default.
    pub role: Option<RepresentativeRole>,
    /// Skills, which are compared with the tags and the category of tickets: at most 50, each of 1 to 50 characters.
    pub skills: Option<Vec<String>>,
    /// Maximum number of open tickets that are assigned automatically: 0 to 1000; 10 by default.
    pub capacity: Option<i32>,
    /// Availability; OFFLINE by default.
    pub status: Option<RepresentativeStatus>,
}

/// The changes of a representative. Omitted fields stay as they are.
#[derive(Clone, Debug, InputObject)]
pub struct RepresentativeUpdateInput {
    /// The representative.
    pub id: RepresentativeId,
    /// Role.
    pub role: Option<RepresentativeRole>,
    /// Skills, replaced as a whole: at most 50, each of 1 to 50 characters.
    pub skills: Option<Vec<String>>,
    /// Maximum number of open tickets that are assigned automatically: 0 to 1000.
    pub capacity: Option<i32>,
    /// Availability.
    pub status: Option<RepresentativeStatus>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The availability of the viewer.
#[derive(Clone, Debug, InputObject)]
pub struct RepresentativeStatusSetInput {
    /// Availability.
    pub status: RepresentativeStatus,
}

/// Who is to be a representative no more.
#[derive(Clone, Debug, InputObject)]
pub struct RepresentativeRemoveInput {
    /// The representative.
    pub id: RepresentativeId,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The result of `representativeCreate`, `representativeUpdate`, `representativeStatusSet` and `representativeRemove`.
#[derive(Debug, SimpleObject)]
pub struct RepresentativePayload {
    /// The representative; null when there are errors.
    pub representative: Option<Arc<Representative>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `representativeAbsenceCreate`.
#[derive(Debug, SimpleObject)]
pub struct RepresentativeAbsenceCreatePayload {
    /// The new absence; null when there are errors.
    pub absence: Option<Arc<RepresentativeAbsence>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `representativeAbsenceDelete`.
#[derive(Debug, SimpleObject)]
pub struct RepresentativeAbsenceDeletePayload {
    /// The id of the deleted absence; null when there are errors.
    pub absence_id: Option<RepresentativeAbsenceId>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

async fn change<M: Mutation<Row = marker::Representative>>(
    ctx: &Context<'_>,
    input: M,
) -> Result<RepresentativePayload> {
    let ran = mutation::run(ctx, input).await?;
    let representative = Session::of(ctx)?.load_written(ran.id).await?;
    Ok(RepresentativePayload { representative, user_errors: ran.user_errors })
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct RepresentativeMutation;

#[Object]
impl RepresentativeMutation {
    /// Makes a member a representative.
    async fn representative_create(
        &self,
        ctx: &Context<'_>,
        input: RepresentativeCreateInput,
    ) -> Result<RepresentativePayload> {
        change(ctx, input).await
    }

    /// Updates a representative.
    async fn representative_update(
        &self,
        ctx: &Context<'_>,
        input: RepresentativeUpdateInput,
    ) -> Result<RepresentativePayload> {
        change(ctx, input).await
    }

    /// Sets the viewer's own availability.
    async fn representative_status_set(
        &self,
        ctx: &Context<'_>,
        input: RepresentativeStatusSetInput,
    ) -> Result<RepresentativePayload> {
        change(ctx, input).await
    }

    /// Removes a representative: open tickets go back to the queue, open escalations lose their assignee.
    async fn representative_remove(
        &self,
        ctx: &Context<'_>,
        input: RepresentativeRemoveInput,
    ) -> Result<RepresentativePayload> {
        change(ctx, input).await
    }

    /// Enters an absence of a representative.
    async fn representative_absence_create(
        &self,
        ctx: &Context<'_>,
        input: RepresentativeAbsenceCreateInput,
    ) -> Result<RepresentativeAbsenceCreatePayload> {
        let ran = mutation::run(ctx, input).await?;
        let absence = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(RepresentativeAbsenceCreatePayload { absence, user_errors: ran.user_errors })
    }

    /// Deletes an absence.
    async fn representative_absence_delete(
        &self,
        ctx: &Context<'_>,
        input: RepresentativeAbsenceDeleteInput,
    ) -> Result<RepresentativeAbsenceDeletePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(RepresentativeAbsenceDeletePayload { absence_id: ran.id, user_errors: ran.user_errors })
    }
}

/// A change of a representative.
#[derive(Debug, SimpleObject)]
pub struct RepresentativeChange {
    /// The current representative.
    pub representative: Arc<Representative>,
}

/// The subscriptions of the slice.
#[derive(Debug, Default)]
pub struct RepresentativeSubscription;

#[Subscription]
impl RepresentativeSubscription {
    /// Emits every representative of the organization who is created or changed, or whose absences are.
    async fn representative_changed(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Only changes of this representative.")] id: Option<RepresentativeId>,
    ) -> Result<impl Stream<Item = Result<RepresentativeChange>>> {
        follow(ctx, id, |representative| RepresentativeChange { representative }).await
    }
}
