//! Tickets in the schema: relations, mutations and the subscription.

use std::sync::Arc;

use async_graphql::{Context, InputObject, MaybeUndefined, Object, SimpleObject, Subscription};
use futures_util::{Stream, StreamExt as _};

use crate::audit;
use crate::connections;
use crate::customers::Customer;
use crate::error::{Error, Result};
use crate::escalations::{Escalation, EscalationFilter, EscalationOrder};
use crate::events::Event;
use crate::graphql::mutation::{UserError, payload};
use crate::graphql::session::Session;
use crate::id::Id;
use crate::members::{Action, User};
use crate::refunds::{Refund, RefundFilter, RefundOrder};
use crate::representatives::Representative;
use crate::tickets::{
    Ticket, TicketCategory, TicketMessage, TicketMessageFilter, TicketMessageOrder, TicketPriority, TicketStatus,
    add_message, open_ticket, update_ticket,
};

connections! {
    Ticket {
        /// The messages, oldest first. Viewers do not see notes.
        messages -> TicketMessage(TicketMessageFilter, TicketMessageOrder) by "t.ticket_id";
        /// The escalations.
        escalations -> Escalation(EscalationFilter, EscalationOrder) by "t.ticket_id";
        /// The refunds. For members and above.
        refunds -> Refund(RefundFilter, RefundOrder) by "t.ticket_id";
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
    pub customer_id: Option<Id<Customer>>,
    /// Who is to work on it.
    pub assignee_id: Option<Id<Representative>>,
    /// Makes repeating this request harmless: the same key with the same input gives the ticket made the first time.
    pub idempotency_key: Option<String>,
}

/// What to change in a ticket; what is left out stays.
#[derive(Clone, Debug, InputObject)]
pub struct TicketUpdateInput {
    /// The ticket.
    pub id: Id<Ticket>,
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
    pub customer_id: MaybeUndefined<Id<Customer>>,
    /// Who works on it; null takes it from everybody.
    pub assignee_id: MaybeUndefined<Id<Representative>>,
    /// Refuse with `VERSION_CONFLICT` unless the ticket is at this version.
    pub expected_version: Option<i32>,
    /// Makes repeating this request harmless: the same key with the same input changes nothing again.
    pub idempotency_key: Option<String>,
}

/// A message to write.
#[derive(Clone, Debug, InputObject)]
pub struct TicketMessageAddInput {
    /// The ticket.
    pub ticket_id: Id<Ticket>,
    /// The text: 1 to 50,000 characters.
    pub body: String,
    /// Whether it is a note that only the team sees; false unless said otherwise.
    pub is_internal: Option<bool>,
    /// Makes repeating this request harmless: the same key with the same input gives the message made the first time.
    pub idempotency_key: Option<String>,
}

macro_rules! idempotent_form {
    ($($input:ident),+) => { $(
        impl $input {
            /// What must be equal for two requests with one idempotency key to count as the same.
            pub(super) fn idempotent_form(&self) -> String {
                format!("{:?}", Self { idempotency_key: None, ..self.clone() })
            }
        }
    )+ };
}
idempotent_form!(TicketCreateInput, TicketUpdateInput, TicketMessageAddInput);

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
        let session = Session::of(ctx)?;
        let mut tx = session.write(Action::TicketCreate).await?;
        let outcome = open_ticket(&mut tx, &session.app().clock, &audit::Actor::of(session), input).await;
        let (id, user_errors) = payload(outcome)?;
        tx.finish(id.is_some()).await?;
        Ok(TicketCreatePayload { ticket: session.load_opt(id).await?, user_errors })
    }

    /// Changes a ticket: its state, its urgency, who works on it, its texts.
    async fn ticket_update(&self, ctx: &Context<'_>, input: TicketUpdateInput) -> Result<TicketUpdatePayload> {
        let session = Session::of(ctx)?;
        let mut tx = session.write(Action::TicketUpdate).await?;
        let outcome = update_ticket(&mut tx, &session.app().clock, &audit::Actor::of(session), input).await;
        let (id, user_errors) = payload(outcome)?;
        tx.finish(id.is_some()).await?;
        Ok(TicketUpdatePayload { ticket: session.load_opt(id).await?, user_errors })
    }

    /// Writes a message to the customer, or a note for the team.
    async fn ticket_message_add(
        &self,
        ctx: &Context<'_>,
        input: TicketMessageAddInput,
    ) -> Result<TicketMessageAddPayload> {
        let session = Session::of(ctx)?;
        let mut tx = session.write(Action::TicketMessageAdd).await?;
        let outcome = add_message(&mut tx, &session.app().clock, &audit::Actor::of(session), input).await;
        let (ids, user_errors) = payload(outcome)?;
        tx.finish(ids.is_some()).await?;
        let (ticket, message) = ids.unzip();
        Ok(TicketMessageAddPayload {
            message: session.load_opt(message).await?,
            ticket: session.load_opt(ticket).await?,
            user_errors,
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
        #[graphql(desc = "Only changes of this ticket.")] id: Option<Id<Ticket>>,
    ) -> Result<impl Stream<Item = Result<TicketChange>>> {
        let session = Arc::clone(Session::of(ctx)?);
        let tenant = session.require(Action::OrganizationRead).await?;
        let events = session.app().events.subscribe(tenant.organization_id);
        // Nothing is read until something happens: the connection goes back.
        session.close().await;
        Ok(events.filter_map(move |event| {
            let session = Arc::clone(&session);
            async move {
                let Event::Ticket { id: changed } = event else { return None };
                if id.is_some_and(|id| id != changed) {
                    return None;
                }
                // What the last event loaded is not what this one is to show.
                session.close().await;
                let ticket = async {
                    session.require(Action::OrganizationRead).await?;
                    session.load(changed).await
                };
                match ticket.await {
                    Ok(Some(ticket)) => Some(Ok(TicketChange { ticket })),
                    Ok(None) => None,
                    Err(error) => Some(Err(error)),
                }
            }
        }))
    }
}
