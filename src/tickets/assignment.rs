//! Who works on a ticket: chosen by hand, or the best for it; and back to the queue.
//!
//! The best representative is online and not absent, has room (fewer open tickets than `capacity`), and of those knows most of the ticket's
//! matter (skills that are among its tags, or its category), then has the most room in proportion, then waited longest for a
//! ticket. Whoever assigns automatically holds the organization's counter of tickets, so that two do not fill the same place.

use async_graphql::InputObject;
use chrono::{DateTime, Utc};
use serde_json::json;

use crate::access::Action;
use crate::db::{Conn, TenantTx};
use crate::error::Result;
use crate::events::Event;
use crate::graphql::mutation::{Done, Mutation, UserErrorCode, VerbError, VerbResult, Work, check_version};
use crate::id::{OrganizationId, RepresentativeId, TicketId, marker};
use crate::tickets::{TicketCategory, TicketStatus, verbs};

/// Who is to work on a ticket.
#[derive(Clone, Debug, InputObject)]
pub struct TicketAssignInput {
    /// The ticket: one that is not resolved or closed.
    pub id: TicketId,
    /// The representative; without one, the best for the ticket: online, with room, by skills. `ticketUpdate` with
    /// `assigneeId: null` gives a ticket back to the queue.
    pub representative_id: Option<RepresentativeId>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

impl Mutation for TicketAssignInput {
    type Row = marker::Ticket;
    const FIELD: &'static str = "ticketAssign";
    const ACTION: Action = Action::TicketUpdate;
    const AUDIT: &'static str = "ticket.assign";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let organization = work.tenant().organization_id;
        verbs::check_references(work.tx, None, self.representative_id).await?;
        if self.representative_id.is_none() {
            lock_desk(work.tx.conn(), organization).await?;
        }
        let before = verbs::lock_open(work, "id", self.id).await?;
        check_version(self.expected_version, before.version)?;
        if matches!(before.status, TicketStatus::Resolved | TicketStatus::Closed) {
            let message = "A ticket that is resolved or closed is nobody's to work on.";
            return Err(VerbError::user("id", UserErrorCode::InvalidTransition, message));
        }
        let assignee = match self.representative_id {
            Some(given) => given,
            None => best(work.tx.conn(), organization, &before.tags, before.category, Some(self.id), work.now)
                .await?
                .ok_or_else(|| {
                let message = "No representative is online with room for another ticket.";
                VerbError::user("representativeId", UserErrorCode::NobodyAvailable, message)
            })?,
        };
        let assigned_at = verbs::assigned_at(&before, Some(assignee), work.now);
        sqlx::query!(
            "update tenantry.tickets set assignee_id = $3, assigned_at = $4, version = version + 1 where organization_id = $1 and id = $2",
            organization as _,
            self.id as _,
            assignee as _,
            assigned_at
        )
        .execute(work.tx.conn())
        .await?;
        Ok(Done {
            id: self.id,
            audit: json!({
                "before": { "assigneeId": before.assignee_id.map(|id| id.to_string()), "version": before.version },
                "after": { "assigneeId": assignee.to_string(), "version": before.version + 1 },
                "automatic": self.representative_id.is_none(),
            }),
            event: Some(Event::of(self.id)),
        })
    }
}

/// Whether the organization assigns new tickets automatically.
pub(super) async fn is_automatic(tx: &mut TenantTx) -> Result<bool> {
    let organization = tx.tenant().organization_id;
    Ok(sqlx::query_scalar!("select assigns_automatically from tenantry.organizations where id = $1", organization as _)
        .fetch_one(tx.conn())
        .await?)
}

/// Waits for everybody else who assigns automatically in the organization.
///
/// # Errors
/// When the database cannot be reached.
pub async fn lock_desk(conn: &mut Conn, organization: OrganizationId) -> Result<()> {
    sqlx::query!(
        "insert into tenantry.ticket_counters (organization_id) values ($1) on conflict (organization_id) do update set last_number = ticket_counters.last_number",
        organization as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The best representative for a ticket; `own` is the ticket, whose place counts as free.
pub(super) async fn best(
    conn: &mut Conn,
    organization: OrganizationId,
    tags: &[String],
    category: TicketCategory,
    own: Option<TicketId>,
    now: DateTime<Utc>,
) -> Result<Option<RepresentativeId>> {
    let mut matter: Vec<String> = tags.iter().map(|tag| tag.to_lowercase()).collect();
    matter.push(category.label().to_lowercase());
    Ok(sqlx::query_scalar!(
        r#"select r.id as "id: RepresentativeId" from tenantry.representatives r
             cross join lateral (select count(*) as open, max(t.assigned_at) as last from tenantry.tickets t
                where t.organization_id = $1 and t.assignee_id = r.id and t.status_rank < 4 and t.id is distinct from $3) l
             cross join lateral (select count(*) as known from unnest(r.skills) as skill where lower(skill) = any($2)) s
            where r.organization_id = $1 and r.deleted_at is null and r.status = 'ONLINE' and l.open < r.capacity
              and exists (select from tenantry.organization_members m
                           where m.organization_id = $1 and m.user_id = r.user_id and m.deleted_at is null)
              and not exists (select from tenantry.representative_absences a
                               where a.organization_id = $1 and a.representative_id = r.id and a.starts_at <= $4 and a.ends_at > $4)
            order by s.known desc, l.open::float8 / r.capacity, l.last nulls first, r.id limit 1"#,
        organization as _,
        &matter,
        own as _,
        now
    )
    .fetch_optional(conn)
    .await?)
}
