//! Tickets in the schema: relations, mutations and the subscription.

use std::sync::Arc;

use async_graphql::{Context, InputObject, MaybeUndefined, Object, SimpleObject, Subscription};
use futures_util::Stream;

use crate::customers::Customer;
use crate::error::Result;
use crate::escalations::Escalation;
use crate::graphql::follow::{follow, follow_some};
use crate::graphql::mutation::{self, UserError};
use crate::graphql::session::Session;
use crate::id::{CustomerId, RepresentativeId, TicketId, TicketViewId, marker};
use crate::refunds::Refund;
use crate::relations;
use crate::representatives::Representative;
use crate::sla::{SlaEvent, SlaPolicy};
use crate::tickets::bulk::{self, TicketsUpdatePayload};
use crate::tickets::{
    Ticket, TicketAssignInput, TicketCategory, TicketEvent, TicketField, TicketFieldCreateInput,
    TicketFieldUpdateInput, TicketMergeInput, TicketMessage, TicketMessageAddInput, TicketMessageDeleteInput,
    TicketMessageUpdateInput, TicketPriority, TicketSplitInput, TicketStatus, TicketUnwatchInput, TicketView,
    TicketViewCreateInput, TicketViewDeleteInput, TicketViewUpdateInput, TicketWatchInput, TicketWatcher,
    TicketsUpdateInput,
};

relations! {
    Ticket {
        /// The messages, oldest first. Viewers do not see internal notes.
        messages -> TicketMessage by "t.ticket_id";
        /// The escalations.
        escalations -> Escalation by "t.ticket_id";
        /// The refunds. For members and above.
        refunds -> Refund by "t.ticket_id";
        /// The tickets that were merged into this one.
        merged_tickets -> Ticket by "t.merged_into_id";
        /// The tickets that were split from this one.
        split_tickets -> Ticket by "t.split_from_id";
        /// The members who watch it.
        watchers -> TicketWatcher by "t.ticket_id";
        /// What happened to it, newest first. For members and above.
        history -> TicketEvent by "t.ticket_id";
        /// Warnings and breaches of its service level, newest first.
        sla_events -> SlaEvent by "t.ticket_id";
    }
    one {
        /// The customer.
        customer -> Customer by customer_id;
        /// The assigned representative.
        assignee -> Representative by assignee_id;
        /// The policy that the due times follow from; null: the built-in terms of the priority.
        sla_policy -> SlaPolicy by sla_policy_id;
        /// The ticket that this one was merged into.
        merged_into -> Ticket by merged_into_id;
        /// The ticket that this one was split from.
        split_from -> Ticket by split_from_id;
    }
    computed {
        /// The statuses that the ticket can change to.
        next_statuses: &'static [TicketStatus] = |row| row.status.next();
    }
}

/// The fields of a new ticket.
#[derive(Clone, Debug, InputObject)]
pub struct TicketCreateInput {
    /// Subject: 1 to 300 characters.
    pub subject: String,
    /// Description: at most 50,000 characters.
    pub description: Option<String>,
    /// Priority; NORMAL by default.
    pub priority: Option<TicketPriority>,
    /// Category; OTHER by default.
    pub category: Option<TicketCategory>,
    /// Tags: at most 50, each of 1 to 50 characters.
    pub tags: Option<Vec<String>>,
    /// The customer.
    pub customer_id: Option<CustomerId>,
    /// The representative to assign. Without one, it is assigned automatically where the organization does so.
    pub assignee_id: Option<RepresentativeId>,
    /// Values of custom fields: an object from keys to values.
    pub custom_fields: Option<serde_json::Value>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input returns the ticket of the
    /// first.
    pub idempotency_key: Option<String>,
}

/// The changes of a ticket. Omitted fields stay as they are.
#[derive(Clone, Debug, InputObject)]
pub struct TicketUpdateInput {
    /// The ticket.
    pub id: TicketId,
    /// Subject: 1 to 300 characters.
    pub subject: Option<String>,
    /// Description: at most 50,000 characters.
    pub description: Option<String>,
    /// The new status: one of `nextStatuses`.
    pub status: Option<TicketStatus>,
    /// Priority; the due times are computed anew.
    pub priority: Option<TicketPriority>,
    /// Category.
    pub category: Option<TicketCategory>,
    /// Tags, replaced as a whole: at most 50, each of 1 to 50 characters.
    pub tags: Option<Vec<String>>,
    /// Tags to add.
    pub add_tags: Option<Vec<String>>,
    /// Tags to remove.
    pub remove_tags: Option<Vec<String>>,
    /// Values of custom fields: an object from keys to values; null removes a value, what is not named stays.
    pub custom_fields: Option<serde_json::Value>,
    /// The customer; null removes the customer.
    pub customer_id: MaybeUndefined<CustomerId>,
    /// The representative to assign; null unassigns the ticket.
    pub assignee_id: MaybeUndefined<RepresentativeId>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: Option<String>,
}

impl TicketUpdateInput {
    /// Of this ticket, without any change.
    pub(super) fn of(id: TicketId) -> Self {
        Self {
            id,
            subject: None,
            description: None,
            status: None,
            priority: None,
            category: None,
            tags: None,
            add_tags: None,
            remove_tags: None,
            custom_fields: None,
            customer_id: MaybeUndefined::Undefined,
            assignee_id: MaybeUndefined::Undefined,
            expected_version: None,
            idempotency_key: None,
        }
    }
}

/// The result of `ticketCreate`.
#[derive(Debug, SimpleObject)]
pub struct TicketCreatePayload {
    /// The new ticket; null when there are errors.
    pub ticket: Option<Arc<Ticket>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketUpdate`.
#[derive(Debug, SimpleObject)]
pub struct TicketUpdatePayload {
    /// The updated ticket; null when there are errors.
    pub ticket: Option<Arc<Ticket>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketAssign`.
#[derive(Debug, SimpleObject)]
pub struct TicketAssignPayload {
    /// The assigned ticket; null when there are errors.
    pub ticket: Option<Arc<Ticket>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketWatch`.
#[derive(Debug, SimpleObject)]
pub struct TicketWatchPayload {
    /// The ticket; null when there are errors.
    pub ticket: Option<Arc<Ticket>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketUnwatch`.
#[derive(Debug, SimpleObject)]
pub struct TicketUnwatchPayload {
    /// The ticket; null when there are errors.
    pub ticket: Option<Arc<Ticket>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketSplit`.
#[derive(Debug, SimpleObject)]
pub struct TicketSplitPayload {
    /// The new ticket; null when there are errors.
    pub ticket: Option<Arc<Ticket>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketMessageUpdate`.
#[derive(Debug, SimpleObject)]
pub struct TicketMessageUpdatePayload {
    /// The changed message; null when there are errors.
    pub message: Option<Arc<TicketMessage>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketMessageDelete`.
#[derive(Debug, SimpleObject)]
pub struct TicketMessageDeletePayload {
    /// The deleted message, without its text; null when there are errors.
    pub message: Option<Arc<TicketMessage>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketFieldCreate`.
#[derive(Debug, SimpleObject)]
pub struct TicketFieldCreatePayload {
    /// The new custom field; null when there are errors.
    pub ticket_field: Option<Arc<TicketField>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketFieldUpdate`.
#[derive(Debug, SimpleObject)]
pub struct TicketFieldUpdatePayload {
    /// The changed custom field; null when there are errors.
    pub ticket_field: Option<Arc<TicketField>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketViewCreate`.
#[derive(Debug, SimpleObject)]
pub struct TicketViewCreatePayload {
    /// The new view; null when there are errors.
    pub ticket_view: Option<Arc<TicketView>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketViewUpdate`.
#[derive(Debug, SimpleObject)]
pub struct TicketViewUpdatePayload {
    /// The changed view; null when there are errors.
    pub ticket_view: Option<Arc<TicketView>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketMerge`.
#[derive(Debug, SimpleObject)]
pub struct TicketMergePayload {
    /// The ticket that ended; null when there are errors.
    pub ticket: Option<Arc<Ticket>>,
    /// The ticket that goes on; null when there are errors.
    pub into: Option<Arc<Ticket>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketMessageAdd`.
#[derive(Debug, SimpleObject)]
pub struct TicketMessageAddPayload {
    /// The new message; null when there are errors.
    pub message: Option<Arc<TicketMessage>>,
    /// The updated ticket; null when there are errors.
    pub ticket: Option<Arc<Ticket>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketViewDelete`.
#[derive(Debug, SimpleObject)]
pub struct TicketViewDeletePayload {
    /// The id of the deleted view; null when there are errors.
    pub ticket_view_id: Option<TicketViewId>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct TicketMutation;

#[Object]
impl TicketMutation {
    /// Creates a ticket.
    async fn ticket_create(&self, ctx: &Context<'_>, input: TicketCreateInput) -> Result<TicketCreatePayload> {
        let ran = mutation::run(ctx, input).await?;
        let ticket = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(TicketCreatePayload { ticket, user_errors: ran.user_errors })
    }

    /// Updates a ticket.
    async fn ticket_update(&self, ctx: &Context<'_>, input: TicketUpdateInput) -> Result<TicketUpdatePayload> {
        let ran = mutation::run(ctx, input).await?;
        let ticket = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(TicketUpdatePayload { ticket, user_errors: ran.user_errors })
    }

    /// Updates many tickets in the same way: all or none of them, or each by itself.
    async fn tickets_update(&self, ctx: &Context<'_>, input: TicketsUpdateInput) -> Result<TicketsUpdatePayload> {
        bulk::update(ctx, input).await
    }

    /// Assigns a ticket: to a representative, or to the best for it.
    async fn ticket_assign(&self, ctx: &Context<'_>, input: TicketAssignInput) -> Result<TicketAssignPayload> {
        let ran = mutation::run(ctx, input).await?;
        let ticket = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(TicketAssignPayload { ticket, user_errors: ran.user_errors })
    }

    /// Merges a ticket into another one, which gets its messages.
    async fn ticket_merge(&self, ctx: &Context<'_>, input: TicketMergeInput) -> Result<TicketMergePayload> {
        let into = input.into_id;
        let ran = mutation::run(ctx, input).await?;
        let session = Session::of(ctx)?;
        let into = ran.id.filter(|_| ctx.look_ahead().field("into").exists()).map(|_| into);
        Ok(TicketMergePayload {
            ticket: session.load_written(ran.id).await?,
            into: session.load_opt(into).await?,
            user_errors: ran.user_errors,
        })
    }

    /// Moves messages of a ticket to a new one.
    async fn ticket_split(&self, ctx: &Context<'_>, input: TicketSplitInput) -> Result<TicketSplitPayload> {
        let ran = mutation::run(ctx, input).await?;
        let ticket = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(TicketSplitPayload { ticket, user_errors: ran.user_errors })
    }

    /// Lets a member watch a ticket.
    async fn ticket_watch(&self, ctx: &Context<'_>, input: TicketWatchInput) -> Result<TicketWatchPayload> {
        let ran = mutation::run(ctx, input).await?;
        let ticket = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(TicketWatchPayload { ticket, user_errors: ran.user_errors })
    }

    /// Ends that a member watches a ticket.
    async fn ticket_unwatch(&self, ctx: &Context<'_>, input: TicketUnwatchInput) -> Result<TicketUnwatchPayload> {
        let ran = mutation::run(ctx, input).await?;
        let ticket = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(TicketUnwatchPayload { ticket, user_errors: ran.user_errors })
    }

    /// Adds a message to the customer, of the customer, or an internal note to a ticket.
    async fn ticket_message_add(
        &self,
        ctx: &Context<'_>,
        input: TicketMessageAddInput,
    ) -> Result<TicketMessageAddPayload> {
        let ticket = input.ticket_id;
        let ran = mutation::run(ctx, input).await?;
        let session = Session::of(ctx)?;
        // Reading the ticket takes a transaction of its own.
        let ticket = ran.id.filter(|_| ctx.look_ahead().field("ticket").exists()).map(|_| ticket);
        Ok(TicketMessageAddPayload {
            message: session.load_written(ran.id).await?,
            ticket: session.load_opt(ticket).await?,
            user_errors: ran.user_errors,
        })
    }

    /// Changes a message of the viewer, for a while. What it said before stays in its revisions.
    async fn ticket_message_update(
        &self,
        ctx: &Context<'_>,
        input: TicketMessageUpdateInput,
    ) -> Result<TicketMessageUpdatePayload> {
        let ran = mutation::run(ctx, input).await?;
        let message = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(TicketMessageUpdatePayload { message, user_errors: ran.user_errors })
    }

    /// Deletes the text of a message of the viewer, for a while. It stays in its revisions.
    async fn ticket_message_delete(
        &self,
        ctx: &Context<'_>,
        input: TicketMessageDeleteInput,
    ) -> Result<TicketMessageDeletePayload> {
        let ran = mutation::run(ctx, input).await?;
        let message = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(TicketMessageDeletePayload { message, user_errors: ran.user_errors })
    }

    /// Creates a custom field of tickets.
    async fn ticket_field_create(
        &self,
        ctx: &Context<'_>,
        input: TicketFieldCreateInput,
    ) -> Result<TicketFieldCreatePayload> {
        let ran = mutation::run(ctx, input).await?;
        let ticket_field = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(TicketFieldCreatePayload { ticket_field, user_errors: ran.user_errors })
    }

    /// Changes or archives a custom field of tickets.
    async fn ticket_field_update(
        &self,
        ctx: &Context<'_>,
        input: TicketFieldUpdateInput,
    ) -> Result<TicketFieldUpdatePayload> {
        let ran = mutation::run(ctx, input).await?;
        let ticket_field = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(TicketFieldUpdatePayload { ticket_field, user_errors: ran.user_errors })
    }

    /// Saves a filter and an order of the list of tickets.
    async fn ticket_view_create(
        &self,
        ctx: &Context<'_>,
        input: TicketViewCreateInput,
    ) -> Result<TicketViewCreatePayload> {
        let ran = mutation::run(ctx, input).await?;
        let ticket_view = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(TicketViewCreatePayload { ticket_view, user_errors: ran.user_errors })
    }

    /// Changes a saved view.
    async fn ticket_view_update(
        &self,
        ctx: &Context<'_>,
        input: TicketViewUpdateInput,
    ) -> Result<TicketViewUpdatePayload> {
        let ran = mutation::run(ctx, input).await?;
        let ticket_view = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(TicketViewUpdatePayload { ticket_view, user_errors: ran.user_errors })
    }

    /// Deletes a saved view.
    async fn ticket_view_delete(
        &self,
        ctx: &Context<'_>,
        input: TicketViewDeleteInput,
    ) -> Result<TicketViewDeletePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(TicketViewDeletePayload { ticket_view_id: ran.id, user_errors: ran.user_errors })
    }
}

/// A change of a ticket.
#[derive(Debug, SimpleObject)]
pub struct TicketChange {
    /// The current ticket.
    pub ticket: Arc<Ticket>,
}

/// A message that was written.
#[derive(Debug, SimpleObject)]
pub struct TicketMessageAdded {
    /// The message.
    pub message: Arc<TicketMessage>,
}

/// The subscriptions of the slice.
#[derive(Debug, Default)]
pub struct TicketSubscription;

#[Subscription]
impl TicketSubscription {
    ///
    /// Emits every ticket of the organization that is created or changed.
    ///
    /// The ticket is read when it is sent, under the subscriber's own permissions: several quick changes may arrive as
    /// the same latest state.
    async fn ticket_changed(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Only changes of this ticket.")] id: Option<TicketId>,
    ) -> Result<impl Stream<Item = Result<TicketChange>>> {
        follow(ctx, id, |ticket| TicketChange { ticket }).await
    }

    /// Emits every message that is added to a ticket of the organization, internal notes to those who may read them.
    async fn ticket_message_added(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Only messages on this ticket.")] ticket_id: Option<TicketId>,
    ) -> Result<impl Stream<Item = Result<TicketMessageAdded>>> {
        follow_some::<marker::TicketMessage, _, _>(ctx, None, move |message: Arc<TicketMessage>| {
            ticket_id.is_none_or(|id| message.ticket_id == id).then_some(TicketMessageAdded { message })
        })
        .await
    }
}
