//! The queries of the slice that change something; reading goes through the loaders.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use crate::db::TenantTx;
use crate::error::Result;
use crate::id::{CustomerId, RepresentativeId, SlaPolicyId, TicketId, TicketMessageId};
use crate::sla::{Clocks, Under};
use crate::tickets::{TicketCategory, TicketPriority, TicketStatus};

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
    /// An object from keys to values.
    pub custom_fields: Value,
    /// The ticket that its messages come from.
    pub split_from_id: Option<TicketId>,
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
                              category, tags, first_response_due_at, resolution_due_at, created_at, updated_at, waiting_since, assigned_at,
                              custom_fields, split_from_id, sla_policy_id, sla_revision, sla_check_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14::timestamptz, $14, $14, case when $5::uuid is not null then $14 end, $15, $16,
                 $17, $18, $19)",
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
        now,
        row.custom_fields,
        row.split_from_id as _,
        row.clocks.under.map(|under| under.policy) as _,
        row.clocks.under.map(|under| under.revision),
        row.clocks.sla_check_at
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
    /// The kind of matter.
    pub category: TicketCategory,
    /// The labels.
    pub tags: Vec<String>,
    pub custom_fields: Map<String, Value>,
    pub customer_id: Option<CustomerId>,
    pub assignee_id: Option<RepresentativeId>,
    /// Since when the assignee has it.
    pub assigned_at: Option<DateTime<Utc>>,
    /// Since when the customer waits for an answer.
    pub waiting_since: Option<DateTime<Utc>>,
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
                  category as "category: TicketCategory", tags, custom_fields, customer_id as "customer_id: CustomerId",
                  assignee_id as "assignee_id: RepresentativeId", assigned_at, waiting_since, merged_into_id as "merged_into_id: TicketId", created_at, first_response_due_at, resolution_due_at,
                  sla_paused_at, sla_paused_seconds, resolved_at, closed_at, first_responded_at, next_response_since, next_response_due_at,
                  sla_policy_id as "policy: SlaPolicyId", sla_revision, sla_check_at
             from tenantry.tickets where organization_id = $1 and id = $2 for update"#,
        organization as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| LockedTicket {
        status: row.status,
        priority: row.priority,
        category: row.category,
        tags: row.tags,
        custom_fields: match row.custom_fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        },
        customer_id: row.customer_id,
        assignee_id: row.assignee_id,
        assigned_at: row.assigned_at,
        waiting_since: row.waiting_since,
        version: row.version,
        merged_into_id: row.merged_into_id,
        created_at: row.created_at,
        clocks: Clocks {
            under: row.policy.zip(row.sla_revision).map(|(policy, revision)| Under { policy, revision }),
            first_response_due_at: row.first_response_due_at,
            first_responded_at: row.first_responded_at,
            next_response_since: row.next_response_since,
            next_response_due_at: row.next_response_due_at,
            resolution_due_at: row.resolution_due_at,
            sla_paused_at: row.sla_paused_at,
            sla_paused_seconds: row.sla_paused_seconds,
            resolved_at: row.resolved_at,
            closed_at: row.closed_at,
            sla_check_at: row.sla_check_at,
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
    pub category: TicketCategory,
    /// The labels.
    pub tags: Option<Vec<String>>,
    pub custom_fields: Option<Map<String, Value>>,
    /// Whose ticket.
    pub customer: Option<CustomerId>,
    /// Who works on it.
    pub assignee: Option<RepresentativeId>,
    pub assigned_at: Option<DateTime<Utc>>,
    pub waiting_since: Option<DateTime<Utc>>,
    /// The times.
    pub clocks: Clocks,
}

/// Writes a change of a locked ticket.
pub async fn update_ticket(tx: &mut TenantTx, id: TicketId, change: &TicketUpdate) -> Result<()> {
    let organization = tx.tenant().organization_id;
    sqlx::query!(
        "update tenantry.tickets
            set subject = coalesce($3, subject), description = coalesce($4, description), status = $5, priority = $6,
                category = $7, tags = coalesce($8, tags), customer_id = $9, assignee_id = $10,
                first_response_due_at = $11, resolution_due_at = $12, sla_paused_at = $13, sla_paused_seconds = $14,
                resolved_at = $15, closed_at = $16, assigned_at = $17, waiting_since = $18,
                custom_fields = coalesce($19, custom_fields), next_response_due_at = $20, sla_policy_id = $21, sla_revision = $22,
                sla_check_at = $23, version = version + 1
          where organization_id = $1 and id = $2",
        organization as _,
        id as _,
        change.subject.as_deref(),
        change.description.as_deref(),
        change.status as _,
        change.priority as _,
        change.category as _,
        change.tags.as_deref(),
        change.customer as _,
        change.assignee as _,
        change.clocks.first_response_due_at,
        change.clocks.resolution_due_at,
        change.clocks.sla_paused_at,
        change.clocks.sla_paused_seconds,
        change.clocks.resolved_at,
        change.clocks.closed_at,
        change.assigned_at,
        change.waiting_since,
        change.custom_fields.clone().map(Value::Object),
        change.clocks.next_response_due_at,
        change.clocks.under.map(|under| under.policy) as _,
        change.clocks.under.map(|under| under.revision),
        change.clocks.sla_check_at
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Inserts a message: of the customer, or else of the viewer.
pub async fn insert_message(
    tx: &mut TenantTx,
    id: TicketMessageId,
    ticket: TicketId,
    (customer, is_internal): (Option<CustomerId>, bool),
    body: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    let tenant = tx.tenant();
    sqlx::query!(
        "insert into tenantry.ticket_messages (organization_id, id, ticket_id, author_user_id, author_customer_id, is_internal, body, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
        tenant.organization_id as _,
        id as _,
        ticket as _,
        tenant.actor.user().filter(|_| customer.is_none()) as _,
        customer as _,
        is_internal,
        body,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What a message does to its ticket.
pub struct Touch {
    pub status: TicketStatus,
    pub clocks: Clocks,
    pub waiting_since: Option<DateTime<Utc>>,
}

/// Writes what a message does to its ticket; the version grows when the state changes.
pub async fn touch_ticket(tx: &mut TenantTx, id: TicketId, touch: &Touch) -> Result<()> {
    let organization = tx.tenant().organization_id;
    sqlx::query!(
        "update tenantry.tickets
            set version = version + (status <> $3)::int, status = $3, first_response_due_at = $4, resolution_due_at = $5,
                sla_paused_at = $6, sla_paused_seconds = $7, resolved_at = $8, closed_at = $9,
                first_responded_at = $10, waiting_since = $11, next_response_since = $12, next_response_due_at = $13,
                sla_policy_id = $14, sla_revision = $15, sla_check_at = $16
          where organization_id = $1 and id = $2",
        organization as _,
        id as _,
        touch.status as _,
        touch.clocks.first_response_due_at,
        touch.clocks.resolution_due_at,
        touch.clocks.sla_paused_at,
        touch.clocks.sla_paused_seconds,
        touch.clocks.resolved_at,
        touch.clocks.closed_at,
        touch.clocks.first_responded_at,
        touch.waiting_since,
        touch.clocks.next_response_since,
        touch.clocks.next_response_due_at,
        touch.clocks.under.map(|under| under.policy) as _,
        touch.clocks.under.map(|under| under.revision),
        touch.clocks.sla_check_at
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Whether this customer and this representative exist in the organization. They stay so until the transaction ends: whoever merges or
/// removes them waits.
pub async fn references_exist(
    tx: &mut TenantTx,
    customer: Option<CustomerId>,
    assignee: Option<RepresentativeId>,
) -> Result<(bool, bool)> {
    let organization = tx.tenant().organization_id;
    let row = sqlx::query!(
        r#"select exists (select from tenantry.customer_profiles where organization_id = $1 and id = $2 and deleted_at is null for share) as "customer!",
                  exists (select from tenantry.representatives where organization_id = $1 and id = $3 and deleted_at is null for share) as "assignee!""#,
        organization as _,
        customer as _,
        assignee as _
    )
    .fetch_one(tx.conn())
    .await?;
    Ok((row.customer, row.assignee))
}
