//! What happens to tickets by the clock: queues are looked after, documents follow the language of the search.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::events::{self, Event};
use crate::graphql::mutation::Mutation as _;
use crate::id::{OrganizationId, RepresentativeId, TicketId};
use crate::tickets::TicketCategory;
use crate::tickets::assignment::{TicketAssignInput, best, lock_desk};
use crate::trail::{self, AuditEntry};
use crate::turns;

/// Tickets that are taken back in one transaction.
const BATCH: i64 = 100;
/// Tickets that are assigned in one transaction. Nobody opens a ticket meanwhile.
const ASSIGNED: i64 = 10;
/// Documents that are made anew in one transaction.
const INDEXED: i64 = 500;

/// The job of the queue: takes tickets from assignees who owe an answer for too long (`organization.requeueMinutes`), and gives
/// those that nobody has to whoever is best, where the organization assigns automatically. Says how many it changed.
///
/// # Errors
/// As [`turns::by_organization`].
pub async fn tend_queues(db: &Db, clock: &Clock) -> Result<u64> {
    turns::by_organization(
        db,
        "ticket-queues",
        |tx, after| Box::pin(desks(tx, after)),
        |organization| tend(db, clock, organization),
    )
    .await
}

async fn desks(tx: &mut SystemTx, after: OrganizationId) -> Result<Vec<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select id as "id: OrganizationId" from tenantry.organizations
            where id > $1 and deleted_at is null and suspended_at is null and (requeue_minutes is not null or assigns_automatically)
            order by id limit $2"#,
        after as _,
        turns::PAGE
    )
    .fetch_all(tx.conn())
    .await?)
}

async fn tend(db: &Db, clock: &Clock, organization: OrganizationId) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let desk = sqlx::query!(
        "select requeue_minutes, assigns_automatically from tenantry.organizations where id = $1",
        organization as _
    )
    .fetch_one(tx.conn())
    .await?;
    tx.rollback().await?;
    let mut changed = 0;
    if let Some(minutes) = desk.requeue_minutes {
        changed += requeue(db, clock, organization, clock.now() - TimeDelta::minutes(minutes.into())).await?;
    }
    if desk.assigns_automatically {
        changed += assign_waiting(db, clock, organization).await?;
    }
    Ok(changed)
}

async fn requeue(db: &Db, clock: &Clock, organization: OrganizationId, before: DateTime<Utc>) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let silent = sqlx::query!(
        r#"with silent as (
               select id, assignee_id from tenantry.tickets where organization_id = $1 and silent_since <= $2
                order by silent_since limit $3 for update skip locked)
           update tenantry.tickets t set assignee_id = null, assigned_at = null, version = version + 1
             from silent s where t.organization_id = $1 and t.id = s.id returning t.id as "id: TicketId", s.assignee_id as "assignee: RepresentativeId""#,
        organization as _,
        before,
        BATCH
    )
    .fetch_all(tx.conn())
    .await?;
    for row in &silent {
        let from = row.assignee.map(|id| id.to_string());
        let metadata = json!({ "before": { "assigneeId": from }, "after": { "assigneeId": null } });
        let entry = AuditEntry::of("ticket.requeue", row.id, metadata);
        trail::record_of_system(&mut tx, clock, organization, &entry).await?;
    }
    let told: Vec<(OrganizationId, Event)> = silent.iter().map(|row| (organization, Event::of(row.id))).collect();
    events::tell(&mut tx, &told).await?;
    tx.commit().await?;
    Ok(u64::try_from(silent.len()).unwrap_or(u64::MAX))
}

async fn assign_waiting(db: &Db, clock: &Clock, organization: OrganizationId) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    lock_desk(tx.conn(), organization).await?;
    // The most urgent first, then who waits longest.
    let waiting = sqlx::query!(
        r#"select id as "id: TicketId", tags, category as "category: TicketCategory" from tenantry.tickets
            where organization_id = $1 and assignee_id is null and status_rank < 2
            order by priority_rank desc, created_at, id limit $2 for update skip locked"#,
        organization as _,
        ASSIGNED
    )
    .fetch_all(tx.conn())
    .await?;
    let (now, mut told) = (clock.now(), Vec::new());
    for ticket in waiting {
        let Some(chosen) = best(tx.conn(), organization, &ticket.tags, ticket.category, None, now).await? else {
            break;
        };
        sqlx::query!(
            "update tenantry.tickets set assignee_id = $3, assigned_at = $4, version = version + 1 where organization_id = $1 and id = $2",
            organization as _,
            ticket.id as _,
            chosen as _,
            now
        )
        .execute(tx.conn())
        .await?;
        let metadata = json!({ "before": { "assigneeId": null }, "after": { "assigneeId": chosen.to_string() }, "automatic": true });
        let entry = AuditEntry::of(TicketAssignInput::AUDIT, ticket.id, metadata);
        trail::record_of_system(&mut tx, clock, organization, &entry).await?;
        told.push((organization, Event::of(ticket.id)));
    }
    events::tell(&mut tx, &told).await?;
    tx.commit().await?;
    Ok(u64::try_from(told.len()).unwrap_or(u64::MAX))
}

/// Makes the documents of tickets anew that are in another language than their organization searches in. Says how many.
///
/// # Errors
/// As [`turns::by_organization`].
pub async fn index_in_new_language(db: &Db) -> Result<u64> {
    turns::by_organization(
        db,
        "ticket-search",
        |tx, after| Box::pin(behind(tx, after)),
        |organization| index_some(db, organization),
    )
    .await
}

async fn behind(tx: &mut SystemTx, after: OrganizationId) -> Result<Vec<OrganizationId>> {
    // Two looks into an index instead of one at every document.
    Ok(sqlx::query_scalar!(
        r#"select o.id as "id: OrganizationId" from tenantry.organizations o
            where o.id > $1
              and (exists (select from tenantry.ticket_documents d where d.organization_id = o.id and d.language < o.search_language)
                   or exists (select from tenantry.ticket_documents d where d.organization_id = o.id and d.language > o.search_language))
            order by o.id limit $2"#,
        after as _,
        turns::PAGE
    )
    .fetch_all(tx.conn())
    .await?)
}

async fn index_some(db: &Db, organization: OrganizationId) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let done = sqlx::query_scalar!(
        r#"select count(tenantry.index_ticket(d.organization_id, d.ticket_id)) as "count!" from (
               select d.organization_id, d.ticket_id from tenantry.ticket_documents d
                where d.organization_id = $1 and d.language <> (select o.search_language from tenantry.organizations o where o.id = $1)
                limit $2) d"#,
        organization as _,
        INDEXED
    )
    .fetch_one(tx.conn())
    .await?;
    tx.commit().await?;
    Ok(u64::try_from(done).unwrap_or(0))
}
