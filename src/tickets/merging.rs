//! Two tickets about one matter become one; a ticket about two matters becomes two. Messages move, and remember where they were
//! written; both tickets stay, with their histories.

use async_graphql::InputObject;
use serde_json::{Value, json};

use crate::access::Action;
use crate::events::Event;
use crate::graphql::mutation::{Checks, Done, Mutation, UserErrorCode, VerbError, VerbResult, Work, check_version};
use crate::id::{TicketId, TicketMessageId, TicketWatcherId, marker};
use crate::sla::{self, Clocks};
use crate::tickets::sql::LockedTicket;
use crate::tickets::{MAX_SUBJECT, TicketRow, TicketStatus, insert_ticket, next_number, no_such_ticket, sql, verbs};

/// Most messages that move in one split.
const MAX_MOVED: usize = 200;

/// Two tickets about one matter.
#[derive(Clone, Debug, InputObject)]
pub struct TicketMergeInput {
    /// The ticket that ends: it is closed and refers to the other one.
    pub id: TicketId,
    /// The ticket that goes on: it gets messages, watchers, tags and open escalations.
    pub into_id: TicketId,
    /// The version of the ticket that ends; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: Option<String>,
}

/// The messages that get a ticket of their own.
#[derive(Clone, Debug, InputObject)]
pub struct TicketSplitInput {
    /// The ticket.
    pub id: TicketId,
    /// The messages that move: 1 to 200, of this ticket.
    pub message_ids: Vec<TicketMessageId>,
    /// Subject of the new ticket: 1 to 300 characters.
    pub subject: String,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input returns the ticket of the
    /// first.
    pub idempotency_key: Option<String>,
}

impl Mutation for TicketMergeInput {
    type Row = marker::Ticket;
    const FIELD: &'static str = "ticketMerge";
    const ACTION: Action = Action::TicketUpdate;
    const AUDIT: &'static str = "ticket.merge";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        if self.id == self.into_id {
            let message = "A ticket cannot be merged into itself.";
            return Err(VerbError::user("intoId", UserErrorCode::Invalid, message));
        }
        // In the order of the ids: two merges of the same tickets do not wait for each other.
        let (before, into) = if self.id.uuid() < self.into_id.uuid() {
            let before = sql::lock_ticket(work.tx, self.id).await?;
            (before, sql::lock_ticket(work.tx, self.into_id).await?)
        } else {
            let into = sql::lock_ticket(work.tx, self.into_id).await?;
            (sql::lock_ticket(work.tx, self.id).await?, into)
        };
        let before = before.ok_or_else(|| no_such_ticket("id"))?;
        let into = into.ok_or_else(|| no_such_ticket("intoId"))?;
        check_version(self.expected_version, before.version)?;
        let mut checks = Checks::default();
        if before.merged_into_id.is_some() {
            checks.refuse("id", UserErrorCode::InvalidTransition, "The ticket was merged into another already.");
        }
        if into.merged_into_id.is_some() || into.status == TicketStatus::Closed {
            let message = "A ticket that is closed or was merged cannot take another one in.";
            checks.refuse("intoId", UserErrorCode::InvalidTransition, message);
        }
        checks.finish()?;
        let moved = move_everything(work, self.id, self.into_id).await?;
        close(work, self.id, self.into_id, &before).await?;
        take_in(work, self.into_id, &into, &before).await?;
        let taken = json!({ "mergedFrom": self.id.to_string(), "messages": moved });
        work.also("ticket.take_in", self.into_id, taken).await?;
        Ok(Done {
            id: self.id,
            audit: json!({
                "before": { "status": before.status, "version": before.version },
                "after": { "status": TicketStatus::Closed, "version": before.version + 1, "mergedInto": self.into_id.to_string() },
                "messages": moved,
            }),
            event: Some(Event::of(self.id)),
        })
    }
}

/// Moves messages, watchers and open escalations; says how many messages.
async fn move_everything(work: &mut Work<'_>, from: TicketId, into: TicketId) -> VerbResult<u64> {
    let organization = work.tenant().organization_id;
    let moved = sqlx::query!(
        "update tenantry.ticket_messages set ticket_id = $3, moved_from_id = coalesce(moved_from_id, $2) where organization_id = $1 and ticket_id = $2",
        organization as _,
        from as _,
        into as _
    )
    .execute(work.tx.conn())
    .await?;
    sqlx::query!(
        "update tenantry.escalations set ticket_id = $3
          where organization_id = $1 and ticket_id = $2 and status in ('OPEN', 'ASSIGNED', 'IN_PROGRESS')",
        organization as _,
        from as _,
        into as _
    )
    .execute(work.tx.conn())
    .await?;
    let watching = sqlx::query_scalar!(
        "delete from tenantry.ticket_watchers where organization_id = $1 and ticket_id = $2 returning user_id",
        organization as _,
        from as _
    )
    .fetch_all(work.tx.conn())
    .await?;
    let watchers: Vec<TicketWatcherId> = watching.iter().map(|_| work.new_id()).collect();
    sqlx::query!(
        "insert into tenantry.ticket_watchers (organization_id, id, ticket_id, user_id, created_at)
         select $1, w.id, $2, w.user_id, $3 from unnest($4::uuid[], $5::uuid[]) as w (id, user_id) on conflict do nothing",
        organization as _,
        into as _,
        work.now,
        &watchers as _,
        &watching
    )
    .execute(work.tx.conn())
    .await?;
    Ok(moved.rows_affected())
}

/// Closes the ticket that ends.
async fn close(work: &mut Work<'_>, id: TicketId, into: TicketId, before: &LockedTicket) -> VerbResult<()> {
    let (clocks, terms) = before.current_clocks(work).await?;
    let clocks = clocks.after(TicketStatus::Closed, work.now, &terms);
    sqlx::query!(
        "update tenantry.tickets
            set status = 'CLOSED', merged_into_id = $3, waiting_since = null, sla_paused_at = $4, sla_paused_seconds = $5,
                first_response_due_at = $6, resolution_due_at = $7, resolved_at = $8, closed_at = $9, sla_check_at = null, version = version + 1
          where organization_id = $1 and id = $2",
        work.tenant().organization_id as _,
        id as _,
        into as _,
        clocks.sla_paused_at,
        clocks.sla_paused_seconds,
        clocks.first_response_due_at,
        clocks.resolution_due_at,
        clocks.resolved_at,
        clocks.closed_at
    )
    .execute(work.tx.conn())
    .await?;
    Ok(())
}

/// What the ticket that goes on gets: tags as far as there is room, and a customer who waits.
async fn take_in(work: &mut Work<'_>, id: TicketId, into: &LockedTicket, from: &LockedTicket) -> VerbResult<()> {
    let mut tags = into.tags.clone();
    let new = from.tags.iter().filter(|tag| !into.tags.contains(tag));
    tags.extend(new.take(verbs::MAX_TAGS.saturating_sub(into.tags.len())).cloned());
    tags.sort_unstable();
    let waiting = if into.status.is_worked_on() {
        [into.waiting_since, from.waiting_since].into_iter().flatten().min()
    } else {
        into.waiting_since
    };
    // Who waits for an answer to what moves here waits here.
    let (clocks, terms) = into.current_clocks(work).await?;
    let asks =
        from.clocks.next_response_since.is_some() || (from.clocks.first_responded_at.is_none() && waiting.is_some());
    let clocks = if asks { clocks.customer_wrote(work.now, &terms) } else { clocks };
    sqlx::query!(
        "update tenantry.tickets
            set tags = $3, waiting_since = $4, customer_id = coalesce(customer_id, $5), first_response_due_at = $6, next_response_since = $7,
                next_response_due_at = $8, resolution_due_at = $9, sla_policy_id = $10, sla_revision = $11, sla_check_at = $12,
                version = version + 1
          where organization_id = $1 and id = $2",
        work.tenant().organization_id as _,
        id as _,
        &tags,
        waiting,
        from.customer_id as _,
        clocks.first_response_due_at,
        clocks.next_response_since,
        clocks.next_response_due_at,
        clocks.resolution_due_at,
        clocks.under.map(|under| under.policy) as _,
        clocks.under.map(|under| under.revision),
        clocks.sla_check_at
    )
    .execute(work.tx.conn())
    .await?;
    Ok(())
}

impl Mutation for TicketSplitInput {
    type Row = marker::Ticket;
    const FIELD: &'static str = "ticketSplit";
    const ACTION: Action = Action::TicketUpdate;
    const AUDIT: &'static str = "ticket.split";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let subject = checks.required("subject", &self.subject, MAX_SUBJECT);
        let mut messages: Vec<uuid::Uuid> = self.message_ids.iter().map(|id| id.uuid()).collect();
        messages.sort_unstable();
        messages.dedup();
        if messages.is_empty() || messages.len() > MAX_MOVED {
            let message = format!("`messageIds` takes 1 to {MAX_MOVED} messages.");
            checks.refuse("messageIds", UserErrorCode::Invalid, message);
        }
        checks.finish()?;
        // The counter first, as whoever assigns automatically takes it before tickets.
        let number = next_number(work.tx).await?;
        let before = verbs::lock_open(work, "id", self.id).await?;
        check_version(self.expected_version, before.version)?;
        let organization = work.tenant().organization_id;
        let (priority, category) = (before.priority, before.category);
        let matching = sla::matching(work.tx.conn(), organization, priority, category, before.customer_id).await?;
        let row = TicketRow {
            id: work.new_id(),
            number,
            customer_id: before.customer_id,
            assignee_id: before.assignee_id,
            subject,
            description: String::new(),
            status: TicketStatus::New,
            priority: before.priority,
            category: before.category,
            tags: before.tags.clone(),
            custom_fields: Value::Object(before.custom_fields.clone()),
            split_from_id: Some(self.id),
            clocks: Clocks::start(matching.under, &matching.terms, work.now),
        };
        insert_ticket(work.tx, &row, work.now).await?;
        let moved = sqlx::query!(
            "update tenantry.ticket_messages set ticket_id = $4, moved_from_id = coalesce(moved_from_id, $2)
              where organization_id = $1 and ticket_id = $2 and id = any($3) and deleted_at is null",
            organization as _,
            self.id as _,
            &messages,
            row.id as _
        )
        .execute(work.tx.conn())
        .await?;
        if usize::try_from(moved.rows_affected()).ok() != Some(messages.len()) {
            let message = "Each of `messageIds` must name a message of this ticket that was not deleted.";
            return Err(VerbError::user("messageIds", UserErrorCode::NotFound, message));
        }
        sqlx::query!(
            "update tenantry.tickets set version = version + 1 where organization_id = $1 and id = $2",
            organization as _,
            self.id as _
        )
        .execute(work.tx.conn())
        .await?;
        let given = json!({ "splitInto": row.id.to_string(), "messages": messages.len() });
        work.also("ticket.give_away", self.id, given).await?;
        Ok(Done {
            id: row.id,
            audit: json!({ "after": { "number": row.number, "splitFrom": self.id.to_string() }, "messages": messages.len() }),
            event: Some(Event::of(row.id)),
        })
    }
}
