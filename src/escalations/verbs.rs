//! Escalating a ticket, and what becomes of it.

use async_graphql::MaybeUndefined;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::access::Action;
use crate::escalations::graphql::{
    EscalationAssignInput, EscalationCancelInput, EscalationCreateInput, EscalationResolveInput, EscalationStartInput,
    EscalationUpdateInput,
};
use crate::escalations::notices::{self, Matter};
use crate::escalations::{EscalationPriority, EscalationReason, EscalationStatus, no_such_escalation, rules};
use crate::events::Event;
use crate::graphql::mutation::{
    Checks, Done, Mutation, UserErrorCode, VerbError, VerbResult, Work, after, check_version,
};
use crate::id::{EscalationId, RepresentativeId, TicketId, marker};
use crate::representatives::require_representative;
use crate::tickets::{TicketStatus, no_such_ticket};

/// Most characters of a note or a resolution.
const MAX_TEXT: usize = 5000;
/// How far ahead a deadline may be.
const MAX_AHEAD: TimeDelta = TimeDelta::days(366);

fn check_due(checks: &mut Checks, due_at: Option<DateTime<Utc>>, now: DateTime<Utc>) {
    if due_at.is_some_and(|due| due <= now || due > now + MAX_AHEAD) {
        checks.refuse("dueAt", UserErrorCode::Invalid, "`dueAt` takes a time to come, at most 366 days ahead.");
    }
}

fn shown(id: Option<RepresentativeId>) -> Option<String> {
    id.map(|id| id.to_string())
}

/// Locks the ticket that is escalated: one that is worked on, without such an escalation.
async fn check_ticket(work: &mut Work<'_>, id: TicketId, reason: EscalationReason) -> VerbResult<()> {
    let organization = work.tenant().organization_id;
    let ticket = sqlx::query!(
        r#"select status as "status: TicketStatus" from tenantry.tickets where organization_id = $1 and id = $2 for no key update"#,
        organization as _,
        id as _
    )
    .fetch_optional(work.tx.conn())
    .await?;
    let ticket = ticket.ok_or_else(|| no_such_ticket("ticketId"))?;
    if matches!(ticket.status, TicketStatus::Resolved | TicketStatus::Closed) {
        let message = "A ticket that is resolved or closed cannot be escalated: open it first.";
        return Err(VerbError::user("ticketId", UserErrorCode::InvalidTransition, message));
    }
    let is_known = sqlx::query_scalar!(
        r#"select exists (select from tenantry.escalations
            where organization_id = $1 and ticket_id = $2 and reason = $3 and status_rank < 3) as "is!""#,
        organization as _,
        id as _,
        reason as _
    )
    .fetch_one(work.tx.conn())
    .await?;
    if is_known {
        let message = "The ticket is escalated for this reason already: change that escalation.";
        return Err(VerbError::user("reason", UserErrorCode::Conflict, message));
    }
    Ok(())
}

impl Mutation for EscalationCreateInput {
    type Row = marker::Escalation;
    const FIELD: &'static str = "escalationCreate";
    const ACTION: Action = Action::EscalationWrite;
    const AUDIT: &'static str = "escalation.create";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let note = self.note.as_deref().map(|note| checks.text("note", note.trim(), MAX_TEXT));
        check_due(&mut checks, self.due_at, work.now);
        checks.finish()?;
        let priority = self.priority.unwrap_or(EscalationPriority::Normal);
        let escalating = Escalating {
            ticket_id: self.ticket_id,
            reason: self.reason,
            priority,
            note: note.filter(|note| !note.is_empty()),
            assignee_id: self.assignee_id,
            due_at: self.due_at,
        };
        let (id, audit) = escalate(work, escalating).await?;
        Ok(Done { id, audit, event: Some(Event::of(id)) })
    }
}

/// A ticket to escalate.
#[derive(Clone, Debug)]
pub struct Escalating {
    pub ticket_id: TicketId,
    pub reason: EscalationReason,
    pub priority: EscalationPriority,
    /// At most 5,000 characters.
    pub note: Option<String>,
    /// `None`: as the rules say.
    pub assignee_id: Option<RepresentativeId>,
    /// `None`: as the priority says.
    pub due_at: Option<DateTime<Utc>>,
}

/// Escalates a ticket; gives what the log is to say of the escalation, and tells whom the rules name.
///
/// # Errors
/// What the caller can mend: no such ticket or representative, a ticket that is closed or has such an escalation.
pub async fn escalate(work: &mut Work<'_>, escalating: Escalating) -> VerbResult<(EscalationId, Value)> {
    let Escalating { ticket_id, reason, priority, note, assignee_id, due_at } = escalating;
    require_representative(work.tx, "assigneeId", assignee_id).await?;
    let assignee = match assignee_id {
        None => rules::assignee(work, reason, priority).await?,
        given => given,
    };
    check_ticket(work, ticket_id, reason).await?;
    let tenant = work.tenant();
    let id = work.new_id();
    let status = if assignee.is_some() { EscalationStatus::Assigned } else { EscalationStatus::Open };
    let due_at = due_at.unwrap_or(work.now + priority.deadline());
    sqlx::query!(
        "insert into tenantry.escalations (organization_id, id, ticket_id, reason, note, priority, status, escalated_by, assigned_to, due_at, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)",
        tenant.organization_id as _,
        id as _,
        ticket_id as _,
        reason as _,
        note,
        priority as _,
        status as _,
        tenant.actor.user() as _,
        assignee as _,
        due_at,
        work.now
    )
    .execute(work.tx.conn())
    .await?;
    let told = notices::tell(work, &Matter { id, ticket: ticket_id, reason, priority, assignee }).await?;
    let of_ticket = json!({ "escalationId": id.to_string(), "reason": reason, "priority": priority });
    work.also("ticket.escalate", ticket_id, of_ticket).await?;
    let audit = json!({
        "ticketId": ticket_id.to_string(),
        "after": { "reason": reason, "priority": priority, "status": status, "assignedToId": shown(assignee), "dueAt": due_at },
        "automatic": assignee_id.is_none() && assignee.is_some(),
        "told": told,
    });
    Ok((id, audit))
}

/// What deciding about a change needs to know.
struct Locked {
    ticket_id: TicketId,
    reason: EscalationReason,
    priority: EscalationPriority,
    status: EscalationStatus,
    assigned_to: Option<RepresentativeId>,
    due_at: Option<DateTime<Utc>>,
    overdue_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    version: i32,
}

impl Locked {
    fn matter(&self, id: EscalationId) -> Matter {
        Matter { id, ticket: self.ticket_id, reason: self.reason, priority: self.priority, assignee: self.assigned_to }
    }
}

/// Locks an escalation at the version that the caller has seen.
async fn lock(work: &mut Work<'_>, id: EscalationId, expected: Option<i32>) -> VerbResult<Locked> {
    let row = sqlx::query_as!(
        Locked,
        r#"select ticket_id as "ticket_id: TicketId", reason as "reason: EscalationReason", priority as "priority: EscalationPriority",
                  status as "status: EscalationStatus", assigned_to as "assigned_to: RepresentativeId", due_at, overdue_at, created_at, version
             from tenantry.escalations where organization_id = $1 and id = $2 for update"#,
        work.tenant().organization_id as _,
        id as _
    )
    .fetch_optional(work.tx.conn())
    .await?;
    let row = row.ok_or_else(|| no_such_escalation("id"))?;
    check_version(expected, row.version)?;
    Ok(row)
}

fn check_step(before: &Locked, next: EscalationStatus) -> VerbResult<()> {
    let refusal = before.status.refusal_of(next);
    refusal.map_or(Ok(()), |refusal| Err(VerbError::user("id", UserErrorCode::InvalidTransition, refusal)))
}

/// Writes a step: the new status, who has it, and how it ended. Answers what the log says of it.
async fn step(
    work: &mut Work<'_>,
    id: EscalationId,
    before: &Locked,
    next: EscalationStatus,
    assignee: Option<RepresentativeId>,
    resolution: Option<&str>,
) -> VerbResult<Value> {
    check_step(before, next)?;
    let resolved_at = (next == EscalationStatus::Resolved).then_some(work.now);
    sqlx::query!(
        "update tenantry.escalations set status = $3, assigned_to = $4, resolution = $5, resolved_at = $6, version = version + 1
          where organization_id = $1 and id = $2",
        work.tenant().organization_id as _,
        id as _,
        next as _,
        assignee as _,
        resolution,
        resolved_at
    )
    .execute(work.tx.conn())
    .await?;
    Ok(json!({
        "before": { "status": before.status, "assignedToId": shown(before.assigned_to), "version": before.version },
        "after": { "status": next, "assignedToId": shown(assignee), "version": before.version + 1 },
    }))
}

impl Mutation for EscalationAssignInput {
    type Row = marker::Escalation;
    const FIELD: &'static str = "escalationAssign";
    const ACTION: Action = Action::EscalationWrite;
    const AUDIT: &'static str = "escalation.assign";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        require_representative(work.tx, "representativeId", self.representative_id).await?;
        let before = lock(work, self.id, self.expected_version).await?;
        let next = if self.representative_id.is_some() { EscalationStatus::Assigned } else { EscalationStatus::Open };
        let mut audit = step(work, self.id, &before, next, self.representative_id, None).await?;
        let matter = Matter { assignee: self.representative_id, ..before.matter(self.id) };
        audit["told"] = json!(notices::tell(work, &matter).await?);
        Ok(Done { id: self.id, audit, event: Some(Event::of(self.id)) })
    }
}

impl Mutation for EscalationUpdateInput {
    type Row = marker::Escalation;
    const FIELD: &'static str = "escalationUpdate";
    const ACTION: Action = Action::EscalationWrite;
    const AUDIT: &'static str = "escalation.update";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let note = self.note.value().map(|note| checks.text("note", note.trim(), MAX_TEXT));
        check_due(&mut checks, self.due_at.value().copied(), work.now);
        checks.finish()?;
        let before = lock(work, self.id, self.expected_version).await?;
        if before.status.is_ended() {
            let message = format!("An escalation that is {} stays as it is.", before.status.label());
            return Err(VerbError::user("id", UserErrorCode::InvalidTransition, message));
        }
        let priority = self.priority.unwrap_or(before.priority);
        let due_at = match self.due_at {
            MaybeUndefined::Undefined if before.due_at == Some(before.created_at + before.priority.deadline()) => {
                Some(before.created_at + priority.deadline())
            }
            given => after(&given, before.due_at),
        };
        // Another deadline is missed anew.
        let overdue_at = before.overdue_at.filter(|_| due_at == before.due_at);
        sqlx::query!(
            "update tenantry.escalations
                set priority = $3, note = case when $4 then $5 else note end, due_at = $6, overdue_at = $7, version = version + 1
              where organization_id = $1 and id = $2",
            work.tenant().organization_id as _,
            self.id as _,
            priority as _,
            !self.note.is_undefined(),
            note.filter(|note| !note.is_empty()),
            due_at,
            overdue_at
        )
        .execute(work.tx.conn())
        .await?;
        let told = notices::tell(work, &Matter { priority, ..before.matter(self.id) }).await?;
        Ok(Done {
            id: self.id,
            audit: json!({
                "before": { "priority": before.priority, "dueAt": before.due_at, "version": before.version },
                "after": { "priority": priority, "dueAt": due_at, "version": before.version + 1 },
                "texts": if self.note.is_undefined() { json!([]) } else { json!(["note"]) },
                "told": told,
            }),
            event: Some(Event::of(self.id)),
        })
    }
}

impl Mutation for EscalationStartInput {
    type Row = marker::Escalation;
    const FIELD: &'static str = "escalationStart";
    const ACTION: Action = Action::EscalationWrite;
    const AUDIT: &'static str = "escalation.start";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let tenant = work.tenant();
        let own = sqlx::query_scalar!(
            r#"select id as "id: RepresentativeId" from tenantry.representatives
                where organization_id = $1 and user_id = $2 and deleted_at is null for share"#,
            tenant.organization_id as _,
            tenant.actor.user() as _
        )
        .fetch_optional(work.tx.conn())
        .await?;
        let before = lock(work, self.id, self.expected_version).await?;
        check_step(&before, EscalationStatus::InProgress)?;
        let Some(assignee) = before.assigned_to.or(own) else {
            let message = "Nobody has the escalation, and the viewer is no representative: assign it first.";
            return Err(VerbError::user("id", UserErrorCode::InvalidTransition, message));
        };
        let audit = step(work, self.id, &before, EscalationStatus::InProgress, Some(assignee), None).await?;
        Ok(Done { id: self.id, audit, event: Some(Event::of(self.id)) })
    }
}

impl Mutation for EscalationResolveInput {
    type Row = marker::Escalation;
    const FIELD: &'static str = "escalationResolve";
    const ACTION: Action = Action::EscalationWrite;
    const AUDIT: &'static str = "escalation.resolve";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let resolution = checks.required("resolution", &self.resolution, MAX_TEXT);
        checks.finish()?;
        let before = lock(work, self.id, self.expected_version).await?;
        let assignee = before.assigned_to;
        let audit =
            step(work, self.id, &before, EscalationStatus::Resolved, assignee, Some(resolution.as_str())).await?;
        Ok(Done { id: self.id, audit, event: Some(Event::of(self.id)) })
    }
}

impl Mutation for EscalationCancelInput {
    type Row = marker::Escalation;
    const FIELD: &'static str = "escalationCancel";
    const ACTION: Action = Action::EscalationWrite;
    const AUDIT: &'static str = "escalation.cancel";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let resolution = self.resolution.as_deref().map(|text| checks.text("resolution", text.trim(), MAX_TEXT));
        checks.finish()?;
        let before = lock(work, self.id, self.expected_version).await?;
        let resolution = resolution.filter(|text| !text.is_empty());
        let assignee = before.assigned_to;
        let audit = step(work, self.id, &before, EscalationStatus::Cancelled, assignee, resolution.as_deref()).await?;
        Ok(Done { id: self.id, audit, event: Some(Event::of(self.id)) })
    }
}

/// Takes what has not ended from a representative; says how much that was.
///
/// # Errors
/// When the database cannot be reached.
pub async fn unassign_all(work: &mut Work<'_>, representative: RepresentativeId) -> VerbResult<usize> {
    let taken = sqlx::query!(
        r#"with theirs as (
               select id, status from tenantry.escalations
                where organization_id = $1 and assigned_to = $2 and status_rank < 3 order by id for update)
           update tenantry.escalations e set assigned_to = null, status = 'OPEN', version = e.version + 1
             from theirs where e.organization_id = $1 and e.id = theirs.id
           returning e.id as "id: EscalationId", theirs.status as "before: EscalationStatus""#,
        work.tenant().organization_id as _,
        representative as _
    )
    .fetch_all(work.tx.conn())
    .await?;
    for row in &taken {
        let change = json!({
            "before": { "status": row.before, "assignedToId": representative.to_string() },
            "after": { "status": EscalationStatus::Open, "assignedToId": null },
        });
        work.also(EscalationAssignInput::AUDIT, row.id, change).await?;
    }
    Ok(taken.len())
}
