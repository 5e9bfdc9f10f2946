//! Computes the figures of what has changed. Triggers mark the hours in whose figures a row counts or counted; a run takes marks
//! away and computes their hours, and the days, weeks and months around them, from the rows as they are. So it is no matter in which
//! order and how late things happen, and a backfill only marks what there is.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::id::OrganizationId;
use crate::metrics::{MetricPeriod, sql};
use crate::turns;

/// Hours that are computed in one transaction.
const HOURS: i64 = 168;
/// Class of the advisory locks of organizations whose figures are computed: who reads later writes later.
const LOCK_CLASS: i32 = 0x6d65_7472;

/// The job: computes marked hours and the periods around them; says how many hours.
///
/// # Errors
/// As [`turns::by_organization`].
pub async fn compute_due(db: &Db, clock: &Clock) -> Result<u64> {
    turns::by_organization(
        db,
        "metrics",
        |tx, after| Box::pin(organizations_with_marks(tx, after)),
        |organization| compute_some(db, clock, organization),
    )
    .await
}

async fn organizations_with_marks(tx: &mut SystemTx, after: OrganizationId) -> Result<Vec<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select o.id as "id: OrganizationId" from tenantry.organizations o
            where o.id > $1 and o.deleted_at is null and exists (select from tenantry.metric_marks m where m.organization_id = o.id)
            order by o.id limit $2"#,
        after as _,
        turns::PAGE
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Computes some marked hours of one organization, the newest first; says how many.
///
/// # Errors
/// When the database cannot be reached.
pub async fn compute_some(db: &Db, clock: &Clock, organization: OrganizationId) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let hours = compute_in(&mut tx, clock, organization).await?;
    tx.commit().await?;
    Ok(hours)
}

/// The same in a transaction of the caller's.
///
/// # Errors
/// When the database cannot be reached.
pub async fn compute_in(tx: &mut SystemTx, clock: &Clock, organization: OrganizationId) -> Result<u64> {
    sqlx::query!("select pg_advisory_xact_lock($1, hashtext($2))", LOCK_CLASS, organization.to_string())
        .execute(tx.conn())
        .await?;
    // What is committed after this statement leaves a mark for the next turn, whether the statements below see it or not.
    let hours = sqlx::query_scalar!(
        r#"with chosen as (
               select distinct hour from tenantry.metric_marks where organization_id = $1 order by hour desc limit $2
           ), taken as (
               delete from tenantry.metric_marks m using chosen c where m.organization_id = $1 and m.hour = c.hour returning m.hour
           )
           select distinct hour as "hour!" from taken"#,
        organization as _,
        HOURS
    )
    .fetch_all(tx.conn())
    .await?;
    if hours.is_empty() {
        return Ok(0);
    }
    for period in MetricPeriod::ALL {
        let starts: BTreeSet<DateTime<Utc>> = hours.iter().map(|hour| period.start_of(*hour)).collect();
        let starts: Vec<DateTime<Utc>> = starts.into_iter().collect();
        sql::compute(tx.conn(), organization, *period, &starts, clock.now()).await?;
    }
    Ok(hours.len() as u64)
}

/// Marks every hour of a range in which anything happened, or that has figures, for [`compute_some`]; says how many. The periods around
/// them are computed as a whole.
///
/// # Errors
/// When the database cannot be reached.
pub async fn mark(db: &Db, organization: OrganizationId, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let marked = sqlx::query!(
        "insert into tenantry.metric_marks (organization_id, hour, transaction)
         select distinct $1::uuid, date_trunc('hour', t, 'UTC'), 0 from (
             select created_at as t from tenantry.tickets where organization_id = $1 and created_at >= $2 and created_at < $3
             union all select first_responded_at from tenantry.tickets where organization_id = $1 and first_responded_at >= $2 and first_responded_at < $3
             union all select resolved_at from tenantry.tickets where organization_id = $1 and resolved_at >= $2 and resolved_at < $3
             union all select created_at from tenantry.ticket_messages
                        where organization_id = $1 and created_at >= $2 and created_at < $3 and author_user_id is not null and not is_internal
             union all select created_at from tenantry.escalations where organization_id = $1 and created_at >= $2 and created_at < $3
             union all select created_at from tenantry.refunds where organization_id = $1 and created_at >= $2 and created_at < $3
             union all select settled_at from tenantry.refunds where organization_id = $1 and settled_at >= $2 and settled_at < $3
             union all select period_start from tenantry.performance_metrics where organization_id = $1 and period_start >= $2 and period_start < $3
             union all select period_start from tenantry.team_performance where organization_id = $1 and period_start >= $2 and period_start < $3) times
         on conflict do nothing",
        organization as _,
        from,
        to
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    tx.commit().await?;
    Ok(marked)
}

/// The organizations that are not deleted, by their ids.
///
/// # Errors
/// When the database cannot be reached.
pub async fn living_organizations(db: &Db) -> Result<Vec<OrganizationId>> {
    let mut tx = SystemTx::begin(db).await?;
    Ok(sqlx::query_scalar!(
        r#"select id as "id: OrganizationId" from tenantry.organizations where deleted_at is null order by id"#
    )
    .fetch_all(tx.conn())
    .await?)
}
