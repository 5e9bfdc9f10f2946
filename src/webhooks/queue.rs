//! The worker's queries: claiming events that are due, and writing what became of them.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::db::{Conn, SystemTx};
use crate::error::Result;
use crate::id::{Id, OrganizationId, WebhookEventId};
use crate::sync::apply::InboxEvent;
use crate::webhook_events::{WebhookSource, WebhookStatus};
use crate::webhooks::worker::Timeouts;

/// Claims events that are due and not locked, the longest due first.
pub(super) async fn claim(tx: &mut SystemTx, now: DateTime<Utc>, limit: i64, bytes: i64) -> Result<Vec<InboxEvent>> {
    let events = sqlx::query_as!(
        InboxEvent,
        r#"with due as (
               select id, source, event_id, event_type, raw_body, received_at, attempts, next_attempt_at
                 from tenantry.webhook_events
                where status in ('RECEIVED', 'FAILED') and next_attempt_at <= $1
                order by next_attempt_at, id limit $2
                  for update skip locked),
           summed as (
               select *, sum(octet_length(raw_body)) over (order by next_attempt_at, id) - octet_length(raw_body) as before
                 from due),
           -- For what follows in this transaction, which many events share: none may take long, and who waits for
           -- another worker while it holds many locks itself makes a deadlock likely.
           bounds as materialized (
               select set_config('statement_timeout', '1s', true), set_config('lock_timeout', '100ms', true))
           select id as "id!: WebhookEventId", source as "source!: WebhookSource", event_id as "event_id!",
                  event_type as "event_type!", raw_body as "raw_body!", received_at as "received_at!", attempts as "attempts!"
             from summed cross join bounds where before < $3 order by next_attempt_at, id"#,
        now,
        limit,
        bytes
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(events)
}

/// Claims this event, if it still waits and is not locked.
pub(super) async fn claim_one(tx: &mut SystemTx, id: WebhookEventId, timeouts: Timeouts) -> Result<Option<InboxEvent>> {
    let (statement, lock) = match timeouts {
        Timeouts::Short => ("1s", "100ms"),
        Timeouts::Long => ("10s", "5s"),
    };
    let event = sqlx::query_as!(
        InboxEvent,
        r#"with event as (
               select id, source, event_id, event_type, raw_body, received_at, attempts
                 from tenantry.webhook_events where id = $1 and status in ('RECEIVED', 'FAILED') for update skip locked),
           bounds as materialized (
               select set_config('statement_timeout', $2, true), set_config('lock_timeout', $3, true))
           select id as "id!: WebhookEventId", source as "source!: WebhookSource", event_id as "event_id!",
                  event_type as "event_type!", raw_body as "raw_body!", received_at as "received_at!", attempts as "attempts!"
             from event cross join bounds"#,
        id as _,
        statement,
        lock
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(event)
}

/// Puts off an event that the transaction holds.
pub(super) async fn put_off(tx: &mut SystemTx, id: WebhookEventId, until: DateTime<Utc>) -> Result<()> {
    sqlx::query!("update tenantry.webhook_events set next_attempt_at = $2 where id = $1", id as _, until)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// When the next event is due.
pub(super) async fn next_due(conn: &mut Conn) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        "select next_attempt_at from tenantry.webhook_events where status in ('RECEIVED', 'FAILED') order by next_attempt_at, id limit 1"
    )
    .fetch_optional(conn)
    .await
}

/// An event that was applied or ignored.
pub(super) struct ProcessedEvent<'a> {
    pub id: WebhookEventId,
    /// APPLIED or IGNORED.
    pub status: WebhookStatus,
    /// Why it was ignored.
    pub reason: Option<&'static str>,
    /// The organization it belongs to, when that became known.
    pub organization: Option<OrganizationId>,
    /// What could not be made of it so far.
    pub finding: Option<&'a str>,
}

/// Writes what became of events. Returns those that belong to an organization.
pub(super) async fn mark_processed(
    tx: &mut SystemTx,
    processed: &[ProcessedEvent<'_>],
    now: DateTime<Utc>,
) -> Result<Vec<(WebhookEventId, OrganizationId)>> {
    let ids: Vec<Uuid> = processed.iter().map(|event| event.id.uuid()).collect();
    let statuses: Vec<String> = processed.iter().map(|event| event.status.label().to_owned()).collect();
    let reasons: Vec<Option<&str>> = processed.iter().map(|event| event.reason).collect();
    let organizations: Vec<Option<Uuid>> = processed.iter().map(|event| event.organization.map(Id::uuid)).collect();
    let findings: Vec<Option<&str>> = processed.iter().map(|event| event.finding).collect();
    let rows = sqlx::query!(
        r#"update tenantry.webhook_events e
              set status = n.status::tenantry.webhook_status, attempts = e.attempts + 1, last_error = n.reason, cause = null,
                  organization_id = coalesce(n.organization_id, e.organization_id), finding = n.finding, processed_at = $5
             from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $6::text[]) as n (id, status, reason, organization_id, finding)
            where e.id = n.id
            returning e.id as "id: WebhookEventId", e.organization_id as "organization_id: OrganizationId""#,
        &ids,
        &statuses,
        &reasons as _,
        &organizations as _,
        now,
        &findings as _
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.id, row.organization_id?))).collect())
}

/// An attempt that failed.
pub(super) struct FailedAttempt<'a> {
    pub id: WebhookEventId,
    /// FAILED or DEAD.
    pub status: WebhookStatus,
    /// What failed, for operators.
    pub cause: &'a str,
    /// What its organization may see.
    pub told: &'a str,
    /// When the next attempt is due.
    pub next_attempt_at: DateTime<Utc>,
    /// When it failed.
    pub now: DateTime<Utc>,
}

/// Writes that an event failed, unless another worker has processed it meanwhile. Returns its organization.
pub(super) async fn fail(tx: &mut SystemTx, failure: &FailedAttempt<'_>) -> Result<Option<Option<OrganizationId>>> {
    let organization = sqlx::query_scalar!(
        r#"update tenantry.webhook_events
              set status = $2::text::tenantry.webhook_status, attempts = attempts + 1, last_error = $3, cause = $6, next_attempt_at = $4, failed_at = $5
            where id = $1 and status in ('RECEIVED', 'FAILED')
            returning organization_id as "organization_id: OrganizationId""#,
        failure.id as _,
        failure.status.label(),
        failure.told,
        failure.next_attempt_at,
        failure.now,
        failure.cause
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(organization)
}
