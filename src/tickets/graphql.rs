//! Tickets in the schema: relations, mutations and the subscription.

use std::sync::Arc;

use async_graphql::{Context, InputObject, MaybeUndefined, Object, SimpleObject, Subscription};
use futures_util::Stream;

use crate::customers::Customer;
use crate::error::Result;
use crate::escalations::Escalation;
use crate::graphql::follow::follow;
use crate::graphql::mutation::{self, UserError};
use crate::graphql::session::Session;
use crate::id::{CustomerId, RepresentativeId, TicketId};
use crate::members::User;
use crate::refunds::Refund;
use crate::relations;
use crate::representatives::Representative;
use crate::tickets::{Ticket, TicketCategory, TicketMessage, TicketPriority, TicketStatus};

relations! {
    Ticket {
        /// The messages, oldest first. Viewers do not see internal notes.
        messages -> TicketMessage by "t.ticket_id";
        /// The escalations.
        escalations -> Escalation by "t.ticket_id";
        /// The refunds. For members and above.
        refunds -> Refund by "t.ticket_id";
    }
    one {
        /// The customer.
        customer -> Customer by customer_id;
        /// The assigned representative.
        assignee -> Representative by assignee_id;
        /// The ticket that this one was merged into.
        merged_into -> Ticket by merged_into_id;
    }
    computed {
        /// The statuses that the ticket can change to.
        next_statuses: &'static [TicketStatus] = |row| row.status.next();
    }
}

relations! {
    TicketMessage {}
    one {
        /// The ticket.
        ticket -> Ticket! by ticket_id;
        /// The author; null for customers and the system.
        author -> User by author_user_id;
        /// The authoring customer; null for users and the system.
        customer_author -> Customer by author_customer_id;
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
    /// The representative to assign.
    pub assignee_id: Option<RepresentativeId>,
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
    /// The customer; null removes the customer.
    pub customer_id: MaybeUndefined<CustomerId>,
    /// The representative to assign; null unassigns the ticket.
    pub assignee_id: MaybeUndefined<RepresentativeId>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: Option<String>,
}

/// The fields of a new message.
#[derive(Clone, Debug, InputObject)]
pub struct TicketMessageAddInput {
    /// The ticket.
    pub ticket_id: TicketId,
    /// Text: 1 to 50,000 characters.
    pub body: String,
    /// Whether the message is an internal note; false by default.
    pub is_internal: Option<bool>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input returns the message of the
    /// first.
    pub idempotency_key: Option<String>,
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

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct TicketMutation;

#[Object]
impl TicketMutation {
    /// Creates a ticket.
    async fn ticket_create(&self, ctx: &Context<'_>, input: TicketCreateInput) -> Result<TicketCreatePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(TicketCreatePayload { ticket: Session::of(ctx)?.load_written(ran.id).await?, user_errors: ran.user_errors })
    }

    /// Updates a ticket.
    async fn ticket_update(&self, ctx: &Context<'_>, input: TicketUpdateInput) -> Result<TicketUpdatePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(TicketUpdatePayload { ticket: Session::of(ctx)?.load_written(ran.id).await?, user_errors: ran.user_errors })
    }

    /// Adds a message to the customer, or an internal note, to a ticket.
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
}

/// A change of a ticket.
#[derive(Debug, SimpleObject)]
pub struct TicketChange {
    /// The current ticket.
    pub ticket: Arc<Ticket>,
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
}
