//! The worker's queries, and those of the commands and of the platform's fields.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::db::{SystemTx, TenantTx};
use crate::error::Result;
use crate::id::Id;
use crate::organizations::Organization;
use crate::webhooks::apply::InboxEvent;
use crate::webhooks::worker::Patience;
use crate::webhooks::{WebhookEvent, WebhookSource, WebhookStatus};

/// Takes events that are due and that nobody else has, the longest due first.
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
           select id as "id!: Id<WebhookEvent>", source as "source!: WebhookSource", event_id as "event_id!",
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

/// Takes this event, if it still waits and nobody else has it.
pub(super) async fn claim_one(
    tx: &mut SystemTx,
    id: Id<WebhookEvent>,
    patience: Patience,
) -> Result<Option<InboxEvent>> {
    let (statement, lock) = match patience {
        Patience::Short => ("1s", "100ms"),
        Patience::Long => ("10s", "5s"),
    };
    let event = sqlx::query_as!(
        InboxEvent,
        r#"with event as (
               select id, source, event_id, event_type, raw_body, received_at, attempts
                 from tenantry.webhook_events where id = $1 and status in ('RECEIVED', 'FAILED') for update skip locked),
           bounds as materialized (
               select set_config('statement_timeout', $2, true), set_config('lock_timeout', $3, true))
           select id as "id!: Id<WebhookEvent>", source as "source!: WebhookSource", event_id as "event_id!",
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

/// Has this event, which the transaction holds, wait until then.
pub(super) async fn put_off(tx: &mut SystemTx, id: Id<WebhookEvent>, until: DateTime<Utc>) -> Result<()> {
    sqlx::query!("update tenantry.webhook_events set next_attempt_at = $2 where id = $1", id as _, until)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// When the next event is due.
pub(super) async fn next_due(pool: &PgPool) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        "select next_attempt_at from tenantry.webhook_events where status in ('RECEIVED', 'FAILED') order by next_attempt_at, id limit 1"
    )
    .fetch_optional(pool)
    .await
}

/// What became of an event.
pub(super) struct Settled {
    /// The event.
    pub id: Id<WebhookEvent>,
    /// APPLIED or IGNORED.
    pub status: WebhookStatus,
    /// Why it was ignored.
    pub reason: Option<&'static str>,
    /// Whose event it is, when that became known.
    pub organization: Option<Id<Organization>>,
}

/// Writes what became of events; returns those that belong to an organization.
pub(super) async fn settle(
    tx: &mut SystemTx,
    settled: &[Settled],
    now: DateTime<Utc>,
) -> Result<Vec<(Id<WebhookEvent>, Id<Organization>)>> {
    let ids: Vec<Uuid> = settled.iter().map(|event| event.id.uuid()).collect();
    let statuses: Vec<String> = settled.iter().map(|event| event.status.label().to_owned()).collect();
    let reasons: Vec<Option<&str>> = settled.iter().map(|event| event.reason).collect();
    let organizations: Vec<Option<Uuid>> = settled.iter().map(|event| event.organization.map(Id::uuid)).collect();
    let rows = sqlx::query!(
        r#"update tenantry.webhook_events e
              set status = n.status::tenantry.webhook_status, attempts = e.attempts + 1, last_error = n.reason, cause = null,
                  organization_id = coalesce(n.organization_id, e.organization_id), processed_at = $5
             from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[]) as n (id, status, reason, organization_id)
            where e.id = n.id
            returning e.id as "id: Id<WebhookEvent>", e.organization_id as "organization_id: Id<Organization>""#,
        &ids,
        &statuses,
        &reasons as _,
        &organizations as _,
        now
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.id, row.organization_id?))).collect())
}

/// A try that failed.
pub(super) struct Failure<'a> {
    /// The event.
    pub id: Id<WebhookEvent>,
    /// FAILED or DEAD.
    pub status: WebhookStatus,
    /// What failed, for operators.
    pub cause: &'a str,
    /// What its organization may know of it.
    pub told: &'a str,
    /// When it is tried again.
    pub next_attempt_at: DateTime<Utc>,
    /// When it failed.
    pub now: DateTime<Utc>,
}

/// Writes that an event failed, unless another worker has done it meanwhile; returns whose it is.
pub(super) async fn fail(tx: &mut SystemTx, failure: &Failure<'_>) -> Result<Option<Option<Id<Organization>>>> {
    let organization = sqlx::query_scalar!(
        r#"update tenantry.webhook_events
              set status = $2::text::tenantry.webhook_status, attempts = attempts + 1, last_error = $3, cause = $6, next_attempt_at = $4, failed_at = $5
            where id = $1 and status in ('RECEIVED', 'FAILED')
            returning organization_id as "organization_id: Id<Organization>""#,
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
    /// Of this type.
    pub event_type: Option<String>,
    /// Received from here on.
    pub since: Option<DateTime<Utc>>,
    /// Received before this.
    pub until: Option<DateTime<Utc>>,
}

/// An event as the commands show it.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// The id.
    #[serde(serialize_with = "as_text")]
    pub id: Id<WebhookEvent>,
    /// Who sent it.
    pub source: WebhookSource,
    /// The sender's id of the event.
    pub event_id: String,
    /// The sender's type of the event.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The sender's id of what the event is about.
    #[serde(rename = "object")]
    pub object_id: Option<String>,
    /// What became of it.
    pub status: WebhookStatus,
    /// How often it was tried.
    pub attempts: i32,
    /// Why the last try failed, or why there was nothing to do.
    #[serde(rename = "error")]
    pub last_error: Option<String>,
    /// The organization's slug, when known.
    pub organization: Option<String>,
    /// When the sender made it.
    pub event_created_at: Option<DateTime<Utc>>,
    /// When it was received.
    pub received_at: DateTime<Utc>,
    /// When it was applied or ignored.
    pub processed_at: Option<DateTime<Utc>>,
    /// When it last failed.
    pub failed_at: Option<DateTime<Utc>>,
    /// When it is tried next, if it waits.
    pub next_attempt_at: DateTime<Utc>,
}

fn as_text<S: serde::Serializer>(id: &Id<WebhookEvent>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// The newest events of a selection.
pub async fn list(tx: &mut SystemTx, selection: &Selection, limit: i64) -> Result<Vec<Listed>> {
    let statuses: Vec<String> = selection.statuses.iter().map(|status| status.label().to_owned()).collect();
    let events = sqlx::query_as!(
        Listed,
        r#"select e.id as "id: Id<WebhookEvent>", e.source as "source: WebhookSource", e.event_id, e.event_type, e.object_id,
                  e.status as "status: WebhookStatus", e.attempts, coalesce(e.cause, e.last_error) as last_error, o.slug as "organization?", e.event_created_at,
                  e.received_at, e.processed_at, e.failed_at, e.next_attempt_at
             from tenantry.webhook_events e left join tenantry.organizations o on o.id = e.organization_id
            where (cardinality($1::uuid[]) = 0 or e.id = any($1))
              and ($2::text is null or e.source = $2::tenantry.webhook_source)
              and (cardinality($3::text[]) = 0 or e.status = any($3::tenantry.webhook_status[]))
              and ($4::text is null or e.object_id = $4)
              and ($5::text is null or e.event_type = $5)
              and ($6::timestamptz is null or e.received_at >= $6)
              and ($7::timestamptz is null or e.received_at < $7)
            order by e.received_at desc, e.id desc limit $8"#,
        &selection.ids,
        selection.source.map(WebhookSource::label),
        &statuses,
        selection.object,
        selection.event_type,
        selection.since,
        selection.until,
        limit
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(events)
}

/// The events that senders call by this id: one of each sender at most.
pub async fn with_event_id(tx: &mut SystemTx, event_id: &str) -> Result<Vec<Id<WebhookEvent>>> {
    let ids = sqlx::query_scalar!(
        r#"select id as "id: Id<WebhookEvent>" from tenantry.webhook_events
            where source = any(enum_range(null::tenantry.webhook_source)) and event_id = $1"#,
        event_id
    );
    Ok(ids.fetch_all(tx.conn()).await?)
}

/// The bytes of an event as they came.
pub async fn raw_body(tx: &mut SystemTx, id: Id<WebhookEvent>) -> Result<Option<Vec<u8>>> {
    let body = sqlx::query_scalar!("select raw_body from tenantry.webhook_events where id = $1", id as _);
    Ok(body.fetch_optional(tx.conn()).await?)
}

/// Puts events back to the beginning; returns those, with their organizations. What waits already stays as it is.
pub async fn replay(
    tx: &mut SystemTx,
    ids: &[Uuid],
    now: DateTime<Utc>,
) -> Result<Vec<(Id<WebhookEvent>, Option<Id<Organization>>)>> {
    let rows = sqlx::query!(
        r#"update tenantry.webhook_events
              set status = 'RECEIVED', attempts = 0, last_error = null, cause = null, next_attempt_at = $2, processed_at = null, failed_at = null
            where id = any($1) and status <> 'RECEIVED'
            returning id as "id: Id<WebhookEvent>", organization_id as "organization_id: Id<Organization>""#,
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
    id: Id<WebhookEvent>,
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
                set status = 'RECEIVED', attempts = 0, last_error = null, cause = null, next_attempt_at = $3, processed_at = null, failed_at = null
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
pub async fn wake(connection: &mut sqlx::PgConnection) -> Result<()> {
    sqlx::query!("select pg_notify($1, '')", super::inbox::CHANNEL).execute(connection).await?;
    Ok(())
}
