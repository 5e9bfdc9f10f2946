//! The job that goes on with actions that were left over.

use chrono::{DateTime, Utc};

use crate::billing::Upkeep;
use crate::billing::actions::{pending, record, send};
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::events::{self, Event};
use crate::id::{BillingActionId, OrganizationId};
use crate::stripe::StripeClient;
use crate::{trail, turns};

/// The job: goes on with actions that were left over. Says how many were looked at.
///
/// # Errors
/// As [`turns::by_organization`].
pub async fn finish_actions(db: &Db, clock: &Clock, upkeep: &Upkeep) -> Result<u64> {
    let Some(stripe) = &upkeep.stripe else { return Ok(0) };
    turns::by_organization(
        db,
        "billing-actions",
        |tx, after| Box::pin(organizations_due(tx, after, clock.now())),
        |organization| finish_one(db, clock, stripe, organization),
    )
    .await
}

async fn organizations_due(
    tx: &mut SystemTx,
    after: OrganizationId,
    now: DateTime<Utc>,
) -> Result<Vec<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select distinct organization_id as "id: OrganizationId" from tenantry.billing_actions
            where status = 'PENDING' and next_attempt_at <= $2 and organization_id > $1 order by 1 limit $3"#,
        after as _,
        now,
        turns::PAGE
    )
    .fetch_all(tx.conn())
    .await?)
}

async fn finish_one(db: &Db, clock: &Clock, stripe: &StripeClient, organization: OrganizationId) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let id = sqlx::query_scalar!(
        r#"select id as "id: BillingActionId" from tenantry.billing_actions
            where organization_id = $1 and status = 'PENDING' and next_attempt_at <= $2 order by next_attempt_at limit 1"#,
        organization as _,
        clock.now()
    )
    .fetch_optional(tx.conn())
    .await?;
    let found = match id {
        Some(id) => pending(tx.conn(), organization, id).await?,
        None => None,
    };
    tx.rollback().await?;
    let Some(found) = found else { return Ok(0) };
    let outcome = send(stripe, organization, &found).await;
    let mut tx = SystemTx::begin(db).await?;
    if let Some(entry) = record(tx.conn(), clock.now(), organization, &found, &outcome).await? {
        trail::record_of_system(&mut tx, clock, organization, &entry).await?;
        events::tell(&mut tx, &[(organization, Event::of(found.id))]).await?;
    }
    tx.commit().await?;
    Ok(1)
}
