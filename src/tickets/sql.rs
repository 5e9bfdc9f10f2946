//! The queries of the slice that change something; reading goes through the loaders.

use async_graphql::MaybeUndefined;
use chrono::{DateTime, Utc};

use crate::db::TenantTx;
use crate::error::Result;
use crate::id::{CustomerId, RepresentativeId, TicketId, TicketMessageId};
use crate::tickets::{Clocks, TicketCategory, TicketPriority, TicketStatus};

/// A ticket to insert.
#[derive(Clone, Debug)]
pub struct TicketRow {
    /// Unique id.
    pub id: TicketId,
    /// From [`next_number`].
    pub number: i64,
    pub customer_id: Option<CustomerId>,
    /// The assigned representative.
    pub assignee_id: Option<RepresentativeId>,
    /// 1 to 300 characters.
    pub subject: String,
    /// At most 50,000 characters.
    pub description: String,
    pub status: TicketStatus,
    /// The urgency.
    pub priority: TicketPriority,
    /// The kind of matter.
    pub category: TicketCategory,
    /// The labels.
    pub tags: Vec<String>,
    /// The times.
    pub clocks: Clocks,
}

/// The next ticket number of the organization.
///
/// The counter row stays locked until the transaction ends, so numbers are given out in commit order and a transaction
/// that fails gives its number back: no gaps, no duplicates.
pub async fn next_number(tx: &mut TenantTx) -> Result<i64> {
    let organization = tx.tenant().organization_id;
    Ok(sqlx::query_scalar!(
        "insert into tenantry.ticket_counters (organization_id, last_number) values ($1, 1)
         on conflict (organization_id) do update set last_number = ticket_counters.last_number + 1
         returning last_number",
        organization as _
    )
    .fetch_one(tx.conn())
    .await?)
}

/// Inserts a ticket.
pub async fn insert_ticket(tx: &mut TenantTx, row: &TicketRow, now: DateTime<Utc>) -> Result<()> {
    let organization = tx.tenant().organization_id;
    sqlx::query!(
        "insert into tenantry.tickets (organization_id, id, number, customer_id, assignee_id, subject, description, status, priority,
                              category, tags, first_response_due_at, resolution_due_at, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14)",
        organization as _,
        row.id as _,
        row.number,
        row.customer_id as _,
        row.assignee_id as _,
        row.subject,
        row.description,
        row.status as _,
        row.priority as _,
        row.category as _,
        &row.tags,
        row.clocks.first_response_due_at,
        row.clocks.resolution_due_at,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What deciding about a change needs to know.
#[derive(Clone, Debug)]
pub struct LockedTicket {
    pub status: TicketStatus,
    /// The urgency.
    pub priority: TicketPriority,
    pub version: i32,
    /// Set when the ticket was merged away.
    pub merged_into_id: Option<TicketId>,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// The times.
    pub clocks: Clocks,
}

/// Reads a ticket and keeps others from changing it until the transaction ends.
pub async fn lock_ticket(tx: &mut TenantTx, id: TicketId) -> Result<Option<LockedTicket>> {
    let organization = tx.tenant().organization_id;
    let row = sqlx::query!(
        r#"select status as "status: TicketStatus", priority as "priority: TicketPriority", version,
                  merged_into_id as "merged_into_id: TicketId", created_at, first_response_due_at, resolution_due_at,
                  sla_paused_at, sla_paused_seconds, resolved_at, closed_at
             from tenantry.tickets where organization_id = $1 and id = $2 for update"#,
        organization as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| LockedTicket {
        status: row.status,
        priority: row.priority,
        version: row.version,
        merged_into_id: row.merged_into_id,
        created_at: row.created_at,
        clocks: Clocks {
            first_response_due_at: row.first_response_due_at,
            resolution_due_at: row.resolution_due_at,
            sla_paused_at: row.sla_paused_at,
            sla_paused_seconds: row.sla_paused_seconds,
            resolved_at: row.resolved_at,
            closed_at: row.closed_at,
        },
    }))
}

/// What to write; `None` leaves a column as it is.
#[derive(Clone, Debug)]
pub struct TicketUpdate {
    pub subject: Option<String>,
    pub description: Option<String>,
    pub status: TicketStatus,
    /// The urgency.
    pub priority: TicketPriority,
    /// The kind of matter.
    pub category: Option<TicketCategory>,
    /// The labels.
    pub tags: Option<Vec<String>>,
    /// Whose ticket; `Null` takes the customer away.
    pub customer: MaybeUndefined<CustomerId>,
    /// Who works on it; `Null` takes it from everybody.
    pub assignee: MaybeUndefined<RepresentativeId>,
    /// The times.
    pub clocks: Clocks,
}

/// Writes a change of a locked ticket.
pub async fn update_ticket(tx: &mut TenantTx, id: TicketId, change: &TicketUpdate) -> Result<()> {
    let organization = tx.tenant().organization_id;
    sqlx::query!(
        "update tenantry.tickets
            set subject = coalesce($3, subject), description = coalesce($4, description), status = $5, priority = $6,
                category = coalesce($7, category), tags = coalesce($8, tags),
                customer_id = case when $9 then $10 else customer_id end,
                assignee_id = case when $11 then $12 else assignee_id end,
                first_response_due_at = $13, resolution_due_at = $14, sla_paused_at = $15, sla_paused_seconds = $16,
                resolved_at = $17, closed_at = $18, version = version + 1
          where organization_id = $1 and id = $2",
        organization as _,
        id as _,
        change.subject.as_deref(),
        change.description.as_deref(),
        change.status as _,
        change.priority as _,
        change.category as _,
        change.tags.as_deref(),
        !change.customer.is_undefined(),
        change.customer.value() as _,
        !change.assignee.is_undefined(),
        change.assignee.value() as _,
        change.clocks.first_response_due_at,
        change.clocks.resolution_due_at,
        change.clocks.sla_paused_at,
        change.clocks.sla_paused_seconds,
        change.clocks.resolved_at,
        change.clocks.closed_at
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Inserts a message of the viewer.
pub async fn insert_message(
    tx: &mut TenantTx,
    id: TicketMessageId,
    ticket: TicketId,
    is_internal: bool,
    body: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    let tenant = tx.tenant();
    sqlx::query!(
        "insert into tenantry.ticket_messages (organization_id, id, ticket_id, author_user_id, is_internal, body, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $7)",
        tenant.organization_id as _,
        id as _,
        ticket as _,
        tenant.actor.user() as _,
        is_internal,
        body,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Writes what a message does to its ticket; the version grows when the state changes.
pub async fn touch_ticket(
    tx: &mut TenantTx,
    id: TicketId,
    status: TicketStatus,
    clocks: &Clocks,
    responded_at: Option<DateTime<Utc>>,
) -> Result<()> {
    let organization = tx.tenant().organization_id;
    sqlx::query!(
        "update tenantry.tickets
            set version = version + (status <> $3)::int, status = $3, first_response_due_at = $4, resolution_due_at = $5,
                sla_paused_at = $6, sla_paused_seconds = $7, resolved_at = $8,
                first_responded_at = coalesce(first_responded_at, $9)
          where organization_id = $1 and id = $2",
        organization as _,
        id as _,
        status as _,
        clocks.first_response_due_at,
        clocks.resolution_due_at,
        clocks.sla_paused_at,
        clocks.sla_paused_seconds,
        clocks.resolved_at,
        responded_at
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Whether this customer and this representative exist in the organization.
pub async fn references_exist(
    tx: &mut TenantTx,
    customer: Option<CustomerId>,
    assignee: Option<RepresentativeId>,
) -> Result<(bool, bool)> {
    let organization = tx.tenant().organization_id;
    let row = sqlx::query!(
        r#"select exists (select from tenantry.customer_profiles where organization_id = $1 and id = $2 and deleted_at is null) as "customer!",
                  exists (select from tenantry.representatives where organization_id = $1 and id = $3 and deleted_at is null) as "assignee!""#,
        organization as _,
        customer as _,
        assignee as _
    )
    .fetch_one(tx.conn())
    .await?;
    Ok((row.customer, row.assignee))
}
