//! Who works on a ticket: chosen by hand, or the best for it; and back to the queue.
//!
//! The best representative is online and not absent, has room (fewer open tickets than `capacity`), and of those knows most of the ticket's
//! matter (skills that are among its tags, or its category), then has the most room in proportion, then waited longest for a
//! ticket. Whoever assigns automatically holds the organization's counter of tickets, so that two do not fill the same place.

use async_graphql::InputObject;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::access::Action;
use crate::clock::Clock;
use crate::db::{Db, SystemTx, TenantTx};
use crate::error::Result;
use crate::events::{self, Event};
use crate::graphql::mutation::{Done, Mutation, UserErrorCode, VerbError, VerbResult, Work, check_version};
use crate::id::{OrganizationId, RepresentativeId, TicketId, marker};
use crate::tickets::{TicketCategory, TicketStatus, verbs};
use crate::trail::{self, AuditEntry};

/// Tickets of an organization that one pass of the job changes, so that no organization waits for another's thousands.
const BATCH: i64 = 100;
/// Tickets that are assigned in one transaction. Nobody opens a ticket meanwhile.
const ASSIGNED: i64 = 10;
/// Documents of an organization that are made anew in one transaction, and transactions of one pass.
const INDEXED: i64 = 2000;
const INDEXINGS: usize = 5;

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
pub async fn lock_desk(conn: &mut PgConnection, organization: OrganizationId) -> Result<()> {
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
    conn: &mut PgConnection,
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

/// The job of the queue: takes tickets from assignees who owe an answer for too long (`organization.requeueMinutes`), and gives
/// those that nobody has to whoever is best, where the organization assigns automatically. Says how many it changed.
///
/// # Errors
/// When the database cannot be reached.
pub async fn tend_queues(db: &Db, clock: &Clock) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let desks = sqlx::query!(
        r#"select id as "id: OrganizationId", requeue_minutes, assigns_automatically from tenantry.organizations
            where deleted_at is null and suspended_at is null and (requeue_minutes is not null or assigns_automatically)"#
    )
    .fetch_all(tx.conn())
    .await?;
    tx.commit().await?;
    let mut changed = 0;
    for desk in desks {
        if let Some(minutes) = desk.requeue_minutes {
            let before = clock.now() - TimeDelta::minutes(minutes.into());
            changed += requeue(db, clock, desk.id, before).await?;
        }
        if desk.assigns_automatically {
            for _ in 0..BATCH / ASSIGNED {
                let assigned = assign_waiting(db, clock, desk.id).await?;
                changed += assigned;
                if assigned == 0 {
                    break;
                }
            }
        }
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
/// When the database cannot be reached.
pub async fn index_in_new_language(db: &Db) -> Result<u64> {
    let mut indexed = 0;
    let mut tx = SystemTx::begin(db).await?;
    let behind: Vec<Uuid> = sqlx::query_scalar!(
        "select o.id from tenantry.organizations o
          where exists (select from tenantry.ticket_documents d where d.organization_id = o.id and d.language < o.search_language)
             or exists (select from tenantry.ticket_documents d where d.organization_id = o.id and d.language > o.search_language)"
    )
    .fetch_all(tx.conn())
    .await?;
    tx.commit().await?;
    for organization in behind.into_iter().flat_map(|organization| std::iter::repeat_n(organization, INDEXINGS)) {
        let mut tx = SystemTx::begin(db).await?;
        let done = sqlx::query_scalar!(
            r#"select count(tenantry.index_ticket(d.organization_id, d.ticket_id)) as "count!" from (
                   select d.organization_id, d.ticket_id from tenantry.ticket_documents d
                    where d.organization_id = $1 and d.language <> (select o.search_language from tenantry.organizations o where o.id = $1)
                    limit $2) d"#,
            organization,
            INDEXED
        )
        .fetch_one(tx.conn())
        .await?;
        tx.commit().await?;
        indexed += u64::try_from(done).unwrap_or(0);
    }
    Ok(indexed)
}
