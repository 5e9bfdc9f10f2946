//! Service levels in the schema: mutations and the subscription.

use std::sync::Arc;

use async_graphql::{Context, Object, SimpleObject, Subscription};
use futures_util::Stream;

use crate::error::Result;
use crate::graphql::follow::follow_some;
use crate::graphql::mutation::{self, Mutation, UserError};
use crate::graphql::session::Session;
use crate::id::{BusinessCalendarId, TicketId, marker};
use crate::sla::{
    BusinessCalendar, BusinessCalendarCreateInput, BusinessCalendarDeleteInput, BusinessCalendarUpdateInput, SlaEvent,
    SlaEventKind, SlaPolicy, SlaPolicyCreateInput, SlaPolicyUpdateInput,
};

/// The result of `businessCalendarCreate` and `businessCalendarUpdate`.
#[derive(Debug, SimpleObject)]
pub struct BusinessCalendarPayload {
    /// The calendar; null when there are errors.
    pub calendar: Option<Arc<BusinessCalendar>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `businessCalendarDelete`.
#[derive(Debug, SimpleObject)]
pub struct BusinessCalendarDeletePayload {
    /// The id of the deleted calendar; null when there are errors.
    pub calendar_id: Option<BusinessCalendarId>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `slaPolicyCreate` and `slaPolicyUpdate`.
#[derive(Debug, SimpleObject)]
pub struct SlaPolicyPayload {
    /// The policy; null when there are errors.
    pub policy: Option<Arc<SlaPolicy>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

async fn calendar<M: Mutation<Row = marker::BusinessCalendar>>(
    ctx: &Context<'_>,
    input: M,
) -> Result<BusinessCalendarPayload> {
    let ran = mutation::run(ctx, input).await?;
    Ok(BusinessCalendarPayload {
        calendar: Session::of(ctx)?.load_written(ran.id).await?,
        user_errors: ran.user_errors,
    })
}

async fn policy<M: Mutation<Row = marker::SlaPolicy>>(ctx: &Context<'_>, input: M) -> Result<SlaPolicyPayload> {
    let ran = mutation::run(ctx, input).await?;
    Ok(SlaPolicyPayload { policy: Session::of(ctx)?.load_written(ran.id).await?, user_errors: ran.user_errors })
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct SlaMutation;

#[Object]
impl SlaMutation {
    /// Creates a calendar of business hours.
    async fn business_calendar_create(
        &self,
        ctx: &Context<'_>,
        input: BusinessCalendarCreateInput,
    ) -> Result<BusinessCalendarPayload> {
        calendar(ctx, input).await
    }

    /// Updates a calendar of business hours. Clocks that run count by the new hours from then on.
    async fn business_calendar_update(
        &self,
        ctx: &Context<'_>,
        input: BusinessCalendarUpdateInput,
    ) -> Result<BusinessCalendarPayload> {
        calendar(ctx, input).await
    }

    /// Deletes a calendar that no policy uses.
    async fn business_calendar_delete(
        &self,
        ctx: &Context<'_>,
        input: BusinessCalendarDeleteInput,
    ) -> Result<BusinessCalendarDeletePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(BusinessCalendarDeletePayload { calendar_id: ran.id, user_errors: ran.user_errors })
    }

    /// Creates a policy of what is promised for which tickets.
    async fn sla_policy_create(&self, ctx: &Context<'_>, input: SlaPolicyCreateInput) -> Result<SlaPolicyPayload> {
        policy(ctx, input).await
    }

    /// Updates a policy. Clocks that run count by what it promises from then on.
    async fn sla_policy_update(&self, ctx: &Context<'_>, input: SlaPolicyUpdateInput) -> Result<SlaPolicyPayload> {
        policy(ctx, input).await
    }
}

/// A warning or a breach.
#[derive(Debug, SimpleObject)]
pub struct SlaEventOccurred {
    /// What happened.
    pub event: Arc<SlaEvent>,
}

/// The subscriptions of the slice.
#[derive(Debug, Default)]
pub struct SlaSubscription;

#[Subscription]
impl SlaSubscription {
    /// Emits every warning and every breach of a service level that is to be told (`onWarning`, `onBreach` of its policy).
    async fn sla_event_occurred(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Only of this ticket.")] ticket_id: Option<TicketId>,
        #[graphql(desc = "Only warnings, or only breaches.")] kind: Option<SlaEventKind>,
    ) -> Result<impl Stream<Item = Result<SlaEventOccurred>>> {
        follow_some::<marker::SlaEvent, _, _>(ctx, None, move |event: Arc<SlaEvent>| {
            let is_wanted =
                ticket_id.is_none_or(|id| event.ticket_id == id) && kind.is_none_or(|kind| event.kind == kind);
            is_wanted.then_some(SlaEventOccurred { event })
        })
        .await
    }
}
