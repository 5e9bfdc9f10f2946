//! Watchers: members who follow a ticket that is not theirs to work on.

use async_graphql::InputObject;
use chrono::{DateTime, Utc};
use serde_json::json;

use crate::access::Action;
use crate::events::Event;
use crate::graphql::filter::{DateTimeFilter, IdFilter};
use crate::graphql::mutation::{Done, Mutation, UserErrorCode, VerbError, VerbResult, Work};
use crate::id::{TicketId, TicketWatcherId, UserId, marker};
use crate::members::{self, User};
use crate::tickets::{Ticket, no_such_ticket, sql};
use crate::{entity, listing, relations};

entity! {
    /// A member who watches a ticket.
    #[graphql(complex)]
    pub struct TicketWatcher("ticket_watchers", read by OrganizationRead) {
        /// Unique id.
        pub id: TicketWatcherId,
        /// The ticket.
        #[graphql(skip)]
        pub ticket_id: TicketId,
        /// The member.
        #[graphql(skip)]
        pub user_id: UserId,
        /// Since when.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    TicketWatcher: TicketWatcherFilter, TicketWatcherOrder by TicketWatcherOrderField, default CreatedAt Asc;
    /// The member.
    user_id: IdFilter;
    /// Since when.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    TicketWatcher {}
    one {
        /// The ticket.
        ticket -> Ticket! by ticket_id;
        /// The member.
        user -> User! by user_id;
    }
}

/// Who watches which ticket.
#[derive(Clone, Debug, InputObject)]
pub struct TicketWatchInput {
    /// The ticket.
    pub ticket_id: TicketId,
    /// The member; the viewer by default. Whoever may update tickets may name others.
    pub user_id: Option<UserId>,
}

/// Who does not watch which ticket any more.
#[derive(Clone, Debug, InputObject)]
pub struct TicketUnwatchInput {
    /// The ticket.
    pub ticket_id: TicketId,
    /// The member; the viewer by default. Whoever may update tickets may name others.
    pub user_id: Option<UserId>,
}

/// Whom the input means.
fn whom(work: &Work<'_>, given: Option<UserId>) -> VerbResult<UserId> {
    let tenant = work.tenant();
    match (given, tenant.actor.user()) {
        (Some(given), own) => {
            if own != Some(given) && !tenant.allowed.has(Action::TicketUpdate) {
                let message = "Only who may update tickets may name others.";
                return Err(VerbError::user("userId", UserErrorCode::BeyondOwnRole, message));
            }
            Ok(given)
        }
        (None, Some(own)) => Ok(own),
        (None, None) => {
            Err(VerbError::user("userId", UserErrorCode::Blank, "A program must name the member: `userId`."))
        }
    }
}

impl Mutation for TicketWatchInput {
    type Row = marker::Ticket;
    const FIELD: &'static str = "ticketWatch";
    const ACTION: Action = Action::TicketWatch;
    const AUDIT: &'static str = "ticket.watch";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let user = whom(work, self.user_id)?;
        let organization = work.tenant().organization_id;
        sql::lock_ticket(work.tx, self.ticket_id).await?.ok_or_else(|| no_such_ticket("ticketId"))?;
        members::require_member(work.tx, "userId", user).await?;
        sqlx::query!(
            "insert into tenantry.ticket_watchers (organization_id, id, ticket_id, user_id, created_at) values ($1, $2, $3, $4, $5)
             on conflict do nothing",
            organization as _,
            work.new_id::<marker::TicketWatcher>() as _,
            self.ticket_id as _,
            user as _,
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        let audit = json!({ "after": { "userId": user.to_string() } });
        Ok(Done { id: self.ticket_id, audit, event: Some(Event::of(self.ticket_id)) })
    }
}

impl Mutation for TicketUnwatchInput {
    type Row = marker::Ticket;
    const FIELD: &'static str = "ticketUnwatch";
    const ACTION: Action = Action::TicketWatch;
    const AUDIT: &'static str = "ticket.unwatch";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let user = whom(work, self.user_id)?;
        sql::lock_ticket(work.tx, self.ticket_id).await?.ok_or_else(|| no_such_ticket("ticketId"))?;
        let ended = sqlx::query!(
            "delete from tenantry.ticket_watchers where organization_id = $1 and ticket_id = $2 and user_id = $3",
            work.tenant().organization_id as _,
            self.ticket_id as _,
            user as _
        )
        .execute(work.tx.conn())
        .await?;
        if ended.rows_affected() == 0 {
            let message = "This member does not watch the ticket.";
            return Err(VerbError::user("userId", UserErrorCode::NotFound, message));
        }
        let audit = json!({ "before": { "userId": user.to_string() } });
        Ok(Done { id: self.ticket_id, audit, event: Some(Event::of(self.ticket_id)) })
    }
}
