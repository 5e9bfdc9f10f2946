//! How an escalation comes into being: by a member, or by itself.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::db::Conn;
use crate::error::Result;
use crate::escalations::notices::{self, Matter};
use crate::escalations::{EscalationPriority, EscalationReason, EscalationStatus};
use crate::id::{EscalationId, EscalationNoticeId, OrganizationId, RepresentativeId, TicketId, UserId};

/// What the audit log calls it, of the escalation and of its ticket.
pub const CREATED: &str = "escalation.create";
pub const TICKET_ESCALATED: &str = "ticket.escalate";

/// An escalation to open. The ticket is locked.
#[derive(Clone, Debug)]
pub struct Opening {
    pub ticket: TicketId,
    pub reason: EscalationReason,
    pub priority: EscalationPriority,
    pub note: Option<String>,
    /// Who gets it.
    pub assignee: Option<RepresentativeId>,
    /// Whether the rules chose them.
    pub is_automatic: bool,
    /// Deadline; that of the priority by default.
    pub due_at: Option<DateTime<Utc>>,
    /// `None`: the system.
    pub by: Option<UserId>,
}

/// An escalation that was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    pub id: EscalationId,
    /// The notices of who was told. Their events are to be told.
    pub notices: Vec<EscalationNoticeId>,
    told: Vec<UserId>,
    status: EscalationStatus,
    due_at: DateTime<Utc>,
}

impl Opened {
    /// What the log says of the escalation.
    #[must_use]
    pub fn shown(&self, opening: &Opening) -> Value {
        json!({
            "ticketId": opening.ticket.to_string(),
            "after": {
                "reason": opening.reason, "priority": opening.priority, "status": self.status,
                "assignedToId": opening.assignee.map(|id| id.to_string()), "dueAt": self.due_at,
            },
            "automatic": opening.is_automatic,
            "told": self.told.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }

    /// What the log says of the ticket.
    #[must_use]
    pub fn of_ticket(&self, opening: &Opening) -> Value {
        json!({ "escalationId": self.id.to_string(), "reason": opening.reason, "priority": opening.priority })
    }
}

/// Opens an escalation and tells whom the rules name; `None` if the ticket is escalated for this reason already.
///
/// # Errors
/// When the database cannot be reached.
pub async fn open(
    conn: &mut Conn,
    clock: &Clock,
    organization: OrganizationId,
    now: DateTime<Utc>,
    opening: &Opening,
) -> Result<Option<Opened>> {
    let id = EscalationId::new(clock);
    let status = if opening.assignee.is_some() { EscalationStatus::Assigned } else { EscalationStatus::Open };
    let due_at = opening.due_at.unwrap_or(now + opening.priority.deadline());
    let inserted = sqlx::query!(
        "insert into tenantry.escalations (organization_id, id, ticket_id, reason, note, priority, status, escalated_by, assigned_to, due_at, created_at, updated_at)
         select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11
          where not exists (select from tenantry.escalations where organization_id = $1 and ticket_id = $3 and reason = $4 and status_rank < 3)",
        organization as _,
        id as _,
        opening.ticket as _,
        opening.reason as _,
        opening.note.as_deref(),
        opening.priority as _,
        status as _,
        opening.by as _,
        opening.assignee as _,
        due_at,
        now
    )
    .execute(&mut *conn)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(None);
    }
    let matter = Matter {
        id,
        ticket: opening.ticket,
        reason: opening.reason,
        priority: opening.priority,
        assignee: opening.assignee,
    };
    let (told, notices) = notices::tell(conn, clock, (organization, opening.by), now, &matter).await?;
    Ok(Some(Opened { id, notices, told, status, due_at }))
}
