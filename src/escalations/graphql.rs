//! Escalations in the schema: inputs, mutations and subscriptions.

use std::sync::Arc;

use async_graphql::{Context, InputObject, MaybeUndefined, Object, SimpleObject, Subscription};
use chrono::{DateTime, Utc};
use futures_util::Stream;

use crate::error::Result;
use crate::escalations::{
    Escalation, EscalationNotice, EscalationNoticeSeeInput, EscalationPriority, EscalationReason, EscalationRule,
    EscalationRuleCreateInput, EscalationRuleDeleteInput, EscalationRuleUpdateInput,
};
use crate::graphql::follow::follow_some;
use crate::graphql::mutation::{self, Mutation, UserError};
use crate::graphql::session::Session;
use crate::id::{EscalationId, EscalationRuleId, RepresentativeId, TicketId, marker};

/// A ticket that needs someone else.
#[derive(Clone, Debug, InputObject)]
pub struct EscalationCreateInput {
    /// The ticket: one that is not resolved or closed.
    pub ticket_id: TicketId,
    /// Reason. A ticket has one escalation of each reason at a time.
    pub reason: EscalationReason,
    /// Priority; NORMAL by default.
    pub priority: Option<EscalationPriority>,
    /// Explanation of the reason: at most 5,000 characters.
    pub note: Option<String>,
    /// The representative to assign; by default the one that the rules name, if any.
    pub assignee_id: Option<RepresentativeId>,
    /// Deadline, at most 366 days ahead. By default after 1 hour (URGENT), 4 hours (HIGH), 24 hours (NORMAL), 72 hours (LOW).
    pub due_at: Option<DateTime<Utc>>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input returns the escalation of the first.
    pub idempotency_key: Option<String>,
}

/// Who is to work on an escalation.
#[derive(Clone, Debug, InputObject)]
pub struct EscalationAssignInput {
    /// The escalation: one that has not ended.
    pub id: EscalationId,
    /// The representative, who is told; null takes it from everybody.
    pub representative_id: Option<RepresentativeId>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The changes of an escalation. Omitted fields stay as they are.
#[derive(Clone, Debug, InputObject)]
pub struct EscalationUpdateInput {
    /// The escalation: one that has not ended.
    pub id: EscalationId,
    /// Priority. Whoever is to be told of the new one is told. A deadline that followed from the old priority is computed anew.
    pub priority: Option<EscalationPriority>,
    /// Explanation of the reason: at most 5,000 characters; null removes it.
    pub note: MaybeUndefined<String>,
    /// Deadline, at most 366 days ahead; null: none.
    pub due_at: MaybeUndefined<DateTime<Utc>>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The escalation that is worked on from now.
#[derive(Clone, Debug, InputObject)]
pub struct EscalationStartInput {
    /// The escalation: one that is assigned, or one that nobody has, which the viewer gets if they are a representative.
    pub id: EscalationId,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// How an escalation ended.
#[derive(Clone, Debug, InputObject)]
pub struct EscalationResolveInput {
    /// The escalation: one that has not ended.
    pub id: EscalationId,
    /// What was done: 1 to 5,000 characters.
    pub resolution: String,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// An escalation that needs nobody any more.
#[derive(Clone, Debug, InputObject)]
pub struct EscalationCancelInput {
    /// The escalation: one that has not ended.
    pub id: EscalationId,
    /// Why: at most 5,000 characters.
    pub resolution: Option<String>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The result of the mutations of escalations.
#[derive(Debug, SimpleObject)]
pub struct EscalationPayload {
    /// The escalation; null when there are errors.
    pub escalation: Option<Arc<Escalation>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `escalationNoticeSee`.
#[derive(Debug, SimpleObject)]
pub struct EscalationNoticeSeePayload {
    /// The notice; null when there are errors.
    pub notice: Option<Arc<EscalationNotice>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `escalationRuleCreate` and `escalationRuleUpdate`.
#[derive(Debug, SimpleObject)]
pub struct EscalationRulePayload {
    /// The rule; null when there are errors.
    pub rule: Option<Arc<EscalationRule>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `escalationRuleDelete`.
#[derive(Debug, SimpleObject)]
pub struct EscalationRuleDeletePayload {
    /// The id of the deleted rule; null when there are errors.
    pub rule_id: Option<EscalationRuleId>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

async fn change<M: Mutation<Row = marker::Escalation>>(ctx: &Context<'_>, input: M) -> Result<EscalationPayload> {
    let ran = mutation::run(ctx, input).await?;
    Ok(EscalationPayload { escalation: Session::of(ctx)?.load_written(ran.id).await?, user_errors: ran.user_errors })
}

async fn rule<M: Mutation<Row = marker::EscalationRule>>(ctx: &Context<'_>, input: M) -> Result<EscalationRulePayload> {
    let ran = mutation::run(ctx, input).await?;
    Ok(EscalationRulePayload { rule: Session::of(ctx)?.load_written(ran.id).await?, user_errors: ran.user_errors })
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct EscalationMutation;

#[Object]
impl EscalationMutation {
    /// Escalates a ticket. The rules say who is told and, unless somebody is named, who gets it.
    async fn escalation_create(&self, ctx: &Context<'_>, input: EscalationCreateInput) -> Result<EscalationPayload> {
        change(ctx, input).await
    }

    /// Assigns an escalation to a representative, or takes it from everybody.
    async fn escalation_assign(&self, ctx: &Context<'_>, input: EscalationAssignInput) -> Result<EscalationPayload> {
        change(ctx, input).await
    }

    /// Updates an escalation.
    async fn escalation_update(&self, ctx: &Context<'_>, input: EscalationUpdateInput) -> Result<EscalationPayload> {
        change(ctx, input).await
    }

    /// Starts the work on an escalation.
    async fn escalation_start(&self, ctx: &Context<'_>, input: EscalationStartInput) -> Result<EscalationPayload> {
        change(ctx, input).await
    }

    /// Resolves an escalation.
    async fn escalation_resolve(&self, ctx: &Context<'_>, input: EscalationResolveInput) -> Result<EscalationPayload> {
        change(ctx, input).await
    }

    /// Cancels an escalation.
    async fn escalation_cancel(&self, ctx: &Context<'_>, input: EscalationCancelInput) -> Result<EscalationPayload> {
        change(ctx, input).await
    }

    /// Marks a notice of the viewer as seen.
    async fn escalation_notice_see(
        &self,
        ctx: &Context<'_>,
        input: EscalationNoticeSeeInput,
    ) -> Result<EscalationNoticeSeePayload> {
        let ran = mutation::run(ctx, input).await?;
        let notice = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(EscalationNoticeSeePayload { notice, user_errors: ran.user_errors })
    }

    /// Creates a rule of who is told of escalations. It counts from then on.
    async fn escalation_rule_create(
        &self,
        ctx: &Context<'_>,
        input: EscalationRuleCreateInput,
    ) -> Result<EscalationRulePayload> {
        rule(ctx, input).await
    }

    /// Updates a rule of who is told of escalations.
    async fn escalation_rule_update(
        &self,
        ctx: &Context<'_>,
        input: EscalationRuleUpdateInput,
    ) -> Result<EscalationRulePayload> {
        rule(ctx, input).await
    }

    /// Deletes a rule of who is told of escalations.
    async fn escalation_rule_delete(
        &self,
        ctx: &Context<'_>,
        input: EscalationRuleDeleteInput,
    ) -> Result<EscalationRuleDeletePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(EscalationRuleDeletePayload { rule_id: ran.id, user_errors: ran.user_errors })
    }
}

/// A change of an escalation.
#[derive(Debug, SimpleObject)]
pub struct EscalationChange {
    /// The current escalation.
    pub escalation: Arc<Escalation>,
}

/// A notice to the viewer.
#[derive(Debug, SimpleObject)]
pub struct EscalationNoticed {
    /// The notice.
    pub notice: Arc<EscalationNotice>,
}

/// The subscriptions of the slice.
#[derive(Debug, Default)]
pub struct EscalationSubscription;

#[Subscription]
impl EscalationSubscription {
    /// Emits every escalation of the organization that is created, changed or found overdue, as it is when it is sent.
    async fn escalation_changed(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Only changes of this escalation.")] id: Option<EscalationId>,
        #[graphql(desc = "Only escalations that are assigned to this representative.")] assigned_to_id: Option<
            RepresentativeId,
        >,
    ) -> Result<impl Stream<Item = Result<EscalationChange>>> {
        follow_some(ctx, id, move |escalation: Arc<Escalation>| {
            let is_theirs = assigned_to_id.is_none_or(|whose| escalation.assigned_to == Some(whose));
            is_theirs.then_some(EscalationChange { escalation })
        })
        .await
    }

    /// Emits every notice to the viewer: an escalation that the rules tell them of, or that was assigned to them.
    async fn escalation_noticed(&self, ctx: &Context<'_>) -> Result<impl Stream<Item = Result<EscalationNoticed>>> {
        let own = Session::of(ctx)?.tenant().await?.actor.user();
        follow_some::<marker::EscalationNotice, _, _>(ctx, None, move |notice: Arc<EscalationNotice>| {
            (Some(notice.user_id) == own && notice.seen_at.is_none()).then_some(EscalationNoticed { notice })
        })
        .await
    }
}
