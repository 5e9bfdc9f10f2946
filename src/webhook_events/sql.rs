//! Queries of the inbox for the slice, the commands and the platform's fields.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::db::{Conn, SystemTx, TenantTx};
use crate::error::Result;
use crate::id::{OrganizationId, WebhookEventId};
use crate::webhook_events::{WebhookSource, WebhookStatus};

/// The channel that wakes workers.
pub const CHANNEL: &str = "tenantry_webhooks";

/// Which events to replay.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// These.
    pub ids: Vec<Uuid>,
    /// Of this sender.
    pub source: Option<WebhookSource>,
    /// In one of these states.
    pub statuses: Vec<WebhookStatus>,
    /// About this object of the sender.
    pub object: Option<String>,
    pub event_type: Option<String>,
    /// Only those with a finding.
    pub waiting: bool,
    /// Received from here on.
    pub since: Option<DateTime<Utc>>,
    /// Received before this.
    pub until: Option<DateTime<Utc>>,
}

/// An event as the commands show it.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedEvent {
    /// Unique id.
    #[serde(serialize_with = "as_text")]
    pub id: WebhookEventId,
    /// The user who sent it.
    pub source: WebhookSource,
    /// The sender's id of the event.
    pub event_id: String,
    /// The sender's type of the event.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The sender's id of the object that the event is about.
    #[serde(rename = "object")]
    pub object_id: Option<String>,
    pub status: WebhookStatus,
    /// Number of attempts.
    pub attempts: i32,
    /// Why the last try failed, or why there was nothing to do.
    #[serde(rename = "error")]
    pub last_error: Option<String>,
    /// What could not be made of it so far.
    pub finding: Option<String>,
    /// The organization's slug, when known.
    pub organization: Option<String>,
    /// Time of creation by the sender.
    pub event_created_at: Option<DateTime<Utc>>,
    /// Time of receipt.
    pub received_at: DateTime<Utc>,
    /// When it was applied or ignored.
    pub processed_at: Option<DateTime<Utc>>,
    /// Time of the last failed attempt.
    pub failed_at: Option<DateTime<Utc>>,
    /// When it is tried next, if it waits.
    pub next_attempt_at: DateTime<Utc>,
}

fn as_text<S: serde::Serializer>(id: &WebhookEventId, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// The newest events of a selection.
pub async fn list(tx: &mut SystemTx, selection: &Selection, limit: i64) -> Result<Vec<ListedEvent>> {
    let statuses: Vec<String> = selection.statuses.iter().map(|status| status.label().to_owned()).collect();
    let events = sqlx::query_as!(
        ListedEvent,
        r#"select e.id as "id: WebhookEventId", e.source as "source: WebhookSource", e.event_id, e.event_type, e.object_id,
                  e.status as "status: WebhookStatus", e.attempts, coalesce(e.cause, e.last_error) as last_error, e.finding, o.slug as "organization?", e.event_created_at,
                  e.received_at, e.processed_at, e.failed_at, e.next_attempt_at
             from tenantry.webhook_events e left join tenantry.organizations o on o.id = e.organization_id
            where (cardinality($1::uuid[]) = 0 or e.id = any($1))
              and ($2::text is null or e.source = $2::tenantry.webhook_source)
              and (cardinality($3::text[]) = 0 or e.status = any($3::tenantry.webhook_status[]))
              and ($4::text is null or e.object_id = $4)
              and ($5::text is null or e.event_type = $5)
              and ($6::timestamptz is null or e.received_at >= $6)
              and ($7::timestamptz is null or e.received_at < $7)
              and (not $8 or e.finding is not null)
            order by e.received_at desc, e.id desc limit $9"#,
        &selection.ids,
        selection.source.map(WebhookSource::label),
        &statuses,
        selection.object,
        selection.event_type,
        selection.since,
        selection.until,
        selection.waiting,
        limit
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(events)
}

/// The events that senders call by this id: one of each sender at most.
pub async fn with_event_id(tx: &mut SystemTx, event_id: &str) -> Result<Vec<WebhookEventId>> {
    let ids = sqlx::query_scalar!(
        r#"select id as "id: WebhookEventId" from tenantry.webhook_events
            where source = any(enum_range(null::tenantry.webhook_source)) and event_id = $1"#,
        event_id
    );
    Ok(ids.fetch_all(tx.conn()).await?)
}

/// The bytes of an event as they came.
pub async fn raw_body(tx: &mut SystemTx, id: WebhookEventId) -> Result<Option<Vec<u8>>> {
    let body = sqlx::query_scalar!("select raw_body from tenantry.webhook_events where id = $1", id as _);
    Ok(body.fetch_optional(tx.conn()).await?)
}

/// Puts events back to the beginning; returns those, with their organizations. What waits already stays as it is.
pub async fn replay(
    tx: &mut SystemTx,
    ids: &[Uuid],
    now: DateTime<Utc>,
) -> Result<Vec<(WebhookEventId, Option<OrganizationId>)>> {
    let rows = sqlx::query!(
        r#"update tenantry.webhook_events
              set status = 'RECEIVED', attempts = 0, last_error = null, cause = null, finding = null, next_attempt_at = $2, processed_at = null, failed_at = null
            where id = any($1) and status <> 'RECEIVED'
            returning id as "id: WebhookEventId", organization_id as "organization_id: OrganizationId""#,
        ids,
        now
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.organization_id)).collect())
}

/// Puts an event of the tenant back to the beginning; `None` when the tenant has none such.
pub(super) async fn replay_own(
    tx: &mut TenantTx,
    id: WebhookEventId,
    now: DateTime<Utc>,
) -> Result<Option<WebhookStatus>> {
    let organization = tx.tenant().organization_id;
    let before = sqlx::query_scalar!(
        r#"select status as "status: WebhookStatus" from tenantry.webhook_events where organization_id = $1 and id = $2 for update"#,
        organization as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?;
    if before.is_some_and(|status| status != WebhookStatus::Received) {
        sqlx::query!(
            "update tenantry.webhook_events
                set status = 'RECEIVED', attempts = 0, last_error = null, cause = null, finding = null, next_attempt_at = $3, processed_at = null, failed_at = null
              where organization_id = $1 and id = $2",
            organization as _,
            id as _,
            now
        )
        .execute(tx.conn())
        .await?;
    }
    Ok(before)
}

/// Wakes the workers, when the transaction commits.
pub async fn wake(connection: &mut Conn) -> Result<()> {
    sqlx::query!("select pg_notify($1, '')", CHANNEL).execute(connection).await?;
    Ok(())
}
