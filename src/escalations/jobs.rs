//! What happens to escalations by the clock: those that are not resolved in time are marked, once.

use chrono::{DateTime, Utc};

use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::events::{self, Event};
use crate::id::{EscalationId, OrganizationId};
use crate::trail::{self, AuditEntry};
use crate::turns;

/// Rows in one transaction.
const BATCH: i64 = 200;
/// What the audit log calls it.
const OVERDUE: &str = "escalation.overdue";

/// Marks escalations whose deadline has passed; says how many.
///
/// # Errors
/// As [`turns::by_organization`].
pub async fn mark_overdue(db: &Db, clock: &Clock) -> Result<u64> {
    turns::by_organization(
        db,
        "escalation-deadlines",
        |tx, after| Box::pin(organizations_with_overdue(tx, after, clock.now())),
        |organization| mark_some(db, clock, organization),
    )
    .await
}

async fn organizations_with_overdue(
    tx: &mut SystemTx,
    after: OrganizationId,
    now: DateTime<Utc>,
) -> Result<Vec<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select o.id as "id: OrganizationId" from tenantry.organizations o
            where o.id > $1 and o.deleted_at is null and o.suspended_at is null
              and exists (select from tenantry.escalations e
                           where e.organization_id = o.id and e.due_at <= $2 and e.overdue_at is null and e.status_rank < 3)
            order by o.id limit $3"#,
        after as _,
        now,
        turns::PAGE
    )
    .fetch_all(tx.conn())
    .await?)
}

async fn mark_some(db: &Db, clock: &Clock, organization: OrganizationId) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let marked = sqlx::query!(
        r#"with due as (
               select id from tenantry.escalations
                where organization_id = $1 and due_at <= $2 and overdue_at is null and status_rank < 3
                order by due_at limit $3 for update skip locked)
           update tenantry.escalations e set overdue_at = $2, version = e.version + 1 from due
            where e.organization_id = $1 and e.id = due.id
           returning e.id as "id: EscalationId", e.due_at, e.version"#,
        organization as _,
        clock.now(),
        BATCH
    )
    .fetch_all(tx.conn())
    .await?;
    for row in &marked {
        let metadata = serde_json::json!({ "dueAt": row.due_at, "after": { "version": row.version } });
        trail::record_of_system(&mut tx, clock, organization, &AuditEntry::of(OVERDUE, row.id, metadata)).await?;
    }
    let told: Vec<(OrganizationId, Event)> = marked.iter().map(|row| (organization, Event::of(row.id))).collect();
    events::tell(&mut tx, &told).await?;
    tx.commit().await?;
    Ok(marked.len() as u64)
}
