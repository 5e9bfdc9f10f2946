//! Tickets in the schema: relations, mutations and the subscription.

use std::sync::Arc;

use async_graphql::{Context, InputObject, MaybeUndefined, Object, SimpleObject, Subscription};
use futures_util::Stream;

use crate::connections;
use crate::customers::Customer;
use crate::error::{Error, Result};
use crate::escalations::Escalation;
use crate::graphql::follow::follow;
use crate::graphql::mutation::{self, UserError};
use crate::graphql::session::Session;
use crate::id::{CustomerId, RepresentativeId, TicketId};
use crate::members::User;
use crate::refunds::Refund;
use crate::representatives::Representative;
use crate::tickets::{Ticket, TicketCategory, TicketMessage, TicketPriority, TicketStatus};

connections! {
    Ticket {
        /// The messages, oldest first. Viewers do not see notes.
        messages -> TicketMessage by "t.ticket_id";
        /// The escalations.
        escalations -> Escalation by "t.ticket_id";
        /// The refunds. For members and above.
        refunds -> Refund by "t.ticket_id";
    }

    /// Whose ticket this is.
    async fn customer(&self, ctx: &Context<'_>) -> Result<Option<Arc<Customer>>> {
        Session::of(ctx)?.load_opt(self.customer_id).await
    }

    /// Who works on it.
    async fn assignee(&self, ctx: &Context<'_>) -> Result<Option<Arc<Representative>>> {
        Session::of(ctx)?.load_opt(self.assignee_id).await
    }

    /// The ticket this one was merged into.
    async fn merged_into(&self, ctx: &Context<'_>) -> Result<Option<Arc<Ticket>>> {
        Session::of(ctx)?.load_opt(self.merged_into_id).await
    }

    /// The states the ticket can go to from here.
    async fn next_statuses(&self) -> &'static [TicketStatus] {
        self.status.next()
    }
}

#[async_graphql::ComplexObject]
impl TicketMessage {
    /// The ticket.
    async fn ticket(&self, ctx: &Context<'_>) -> Result<Arc<Ticket>> {
        Session::of(ctx)?.load(self.ticket_id).await?.ok_or_else(|| Error::internal("a message without its ticket"))
    }

    /// The user who wrote it; null for customers and the system.
    async fn author(&self, ctx: &Context<'_>) -> Result<Option<Arc<User>>> {
        Session::of(ctx)?.load_opt(self.author_user_id).await
    }

    /// The customer who wrote it; null for users and the system.
    async fn customer_author(&self, ctx: &Context<'_>) -> Result<Option<Arc<Customer>>> {
        Session::of(ctx)?.load_opt(self.author_customer_id).await
    }
}

/// A ticket to open.
#[derive(Clone, Debug, InputObject)]
pub struct TicketCreateInput {
    /// What it is about, in one line: 1 to 300 characters.
    pub subject: String,
    /// What it is about, in full: at most 50,000 characters.
    pub description: Option<String>,
    /// How urgent it is; NORMAL unless said otherwise.
    pub priority: Option<TicketPriority>,
    /// What kind of matter it is; OTHER unless said otherwise.
    pub category: Option<TicketCategory>,
    /// Labels: at most 50, each of 1 to 50 characters.
    pub tags: Option<Vec<String>>,
    /// Whose ticket it is.
    pub customer_id: Option<CustomerId>,
    /// Who is to work on it.
    pub assignee_id: Option<RepresentativeId>,
    /// Makes repeating this request harmless: the same key with the same input gives the ticket made the first time.
    pub idempotency_key: Option<String>,
}

/// What to change in a ticket; what is left out stays.
#[derive(Clone, Debug, InputObject)]
pub struct TicketUpdateInput {
    /// The ticket.
    pub id: TicketId,
    /// What it is about, in one line: 1 to 300 characters.
    pub subject: Option<String>,
    /// What it is about, in full: at most 50,000 characters.
    pub description: Option<String>,
    /// The state to go to: one of `nextStatuses`.
    pub status: Option<TicketStatus>,
    /// How urgent it is; due times are measured anew.
    pub priority: Option<TicketPriority>,
    /// What kind of matter it is.
    pub category: Option<TicketCategory>,
    /// Labels, replaced as a whole: at most 50, each of 1 to 50 characters.
    pub tags: Option<Vec<String>>,
    /// Whose ticket it is; null takes the customer away.
    pub customer_id: MaybeUndefined<CustomerId>,
    /// Who works on it; null takes it from everybody.
    pub assignee_id: MaybeUndefined<RepresentativeId>,
    /// Refuse with `VERSION_CONFLICT` unless the ticket is at this version.
    pub expected_version: Option<i32>,
    /// Makes repeating this request harmless: the same key with the same input changes nothing again.
    pub idempotency_key: Option<String>,
}

/// A message to write.
#[derive(Clone, Debug, InputObject)]
pub struct TicketMessageAddInput {
    /// The ticket.
    pub ticket_id: TicketId,
    /// The text: 1 to 50,000 characters.
    pub body: String,
    /// Whether it is a note that only the team sees; false unless said otherwise.
    pub is_internal: Option<bool>,
    /// Makes repeating this request harmless: the same key with the same input gives the message made the first time.
    pub idempotency_key: Option<String>,
}

/// The result of `ticketCreate`.
#[derive(Debug, SimpleObject)]
pub struct TicketCreatePayload {
    /// The new ticket; null when none was opened.
    pub ticket: Option<Arc<Ticket>>,
    /// Why none was opened.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketUpdate`.
#[derive(Debug, SimpleObject)]
pub struct TicketUpdatePayload {
    /// The ticket as it is now; null when it was not changed.
    pub ticket: Option<Arc<Ticket>>,
    /// Why it was not changed.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketMessageAdd`.
#[derive(Debug, SimpleObject)]
pub struct TicketMessageAddPayload {
    /// The new message; null when none was written.
    pub message: Option<Arc<TicketMessage>>,
    /// The ticket as it is now; null when no message was written.
    pub ticket: Option<Arc<Ticket>>,
    /// Why none was written.
    pub user_errors: Vec<UserError>,
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct TicketMutation;

#[Object]
impl TicketMutation {
    /// Opens a ticket.
    async fn ticket_create(&self, ctx: &Context<'_>, input: TicketCreateInput) -> Result<TicketCreatePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(TicketCreatePayload { ticket: Session::of(ctx)?.load_opt(ran.id).await?, user_errors: ran.user_errors })
    }

    /// Changes a ticket: its status, its priority, its assignee, its texts.
    async fn ticket_update(&self, ctx: &Context<'_>, input: TicketUpdateInput) -> Result<TicketUpdatePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(TicketUpdatePayload { ticket: Session::of(ctx)?.load_opt(ran.id).await?, user_errors: ran.user_errors })
    }

    /// Adds a message to the customer, or an internal note.
    async fn ticket_message_add(
        &self,
        ctx: &Context<'_>,
        input: TicketMessageAddInput,
    ) -> Result<TicketMessageAddPayload> {
        let ticket = input.ticket_id;
        let ran = mutation::run(ctx, input).await?;
        let session = Session::of(ctx)?;
        Ok(TicketMessageAddPayload {
            message: session.load_opt(ran.id).await?,
            ticket: session.load_opt(ran.id.map(|_| ticket)).await?,
            user_errors: ran.user_errors,
        })
    }
}

/// A change of a ticket.
#[derive(Debug, SimpleObject)]
pub struct TicketChange {
    /// The ticket as it is now.
    pub ticket: Arc<Ticket>,
}

/// The subscriptions of the slice.
#[derive(Debug, Default)]
pub struct TicketSubscription;

#[Subscription]
impl TicketSubscription {
    /// Tells of every ticket of the organization that is opened or changed, by whichever instance of the server.
    ///
    /// The ticket is read when the change is told, under the subscriber's own rights: several quick changes may arrive
    /// as the same latest state.
    async fn ticket_changed(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Only changes of this ticket.")] id: Option<TicketId>,
    ) -> Result<impl Stream<Item = Result<TicketChange>>> {
        follow(ctx, id, |ticket| TicketChange { ticket }).await
    }
}
