//! Grace after a payment that is overdue: the plan stays as bought for some days, then it is FREE until it is paid.
//!
//! Since when a payment is overdue follows from all events that Stripe sent, whatever their order (`past_due_since`). The job ends the
//! grace, and notes for which beginning; the sync keeps to that note. So a payment brings the plan back, and the next one that is
//! overdue has its own grace.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use crate::billing::Upkeep;
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::events::{self, Event};
use crate::id::{OrganizationId, SubscriptionId};
use crate::organizations::OrganizationPlan;
use crate::trail::{self, AuditEntry};
use crate::turns;

/// What the audit log calls the end of a grace.
const ENDED: &str = "subscription.grace.end";

/// The job: ends grace that is over. Says how many plans became FREE.
///
/// # Errors
/// As [`turns::by_organization`]; when Stripe could not be asked for the time of a test clock.
pub async fn end_grace(db: &Db, clock: &Clock, upkeep: &Upkeep) -> Result<u64> {
    let Some(days) = upkeep.grace_days else { return Ok(0) };
    let grace = TimeDelta::days(days.into());
    turns::by_organization(
        db,
        "billing-grace",
        |tx, after| Box::pin(organizations_due(tx, after, clock.now() - grace)),
        |organization| end_one(db, clock, upkeep, grace, organization),
    )
    .await
}

async fn organizations_due(
    tx: &mut SystemTx,
    after: OrganizationId,
    before: DateTime<Utc>,
) -> Result<Vec<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select organization_id as "id: OrganizationId" from tenantry.subscriptions
            where status = 'PAST_DUE' and organization_id > $1 and past_due_since is not null and grace_ended_for is distinct from past_due_since
              and (past_due_since <= $2 or test_clock is not null) order by 1 limit $3"#,
        after as _,
        before,
        turns::PAGE
    )
    .fetch_all(tx.conn())
    .await?)
}

async fn end_one(
    db: &Db,
    clock: &Clock,
    upkeep: &Upkeep,
    grace: TimeDelta,
    organization: OrganizationId,
) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let row = sqlx::query!(
        "select past_due_since, test_clock from tenantry.subscriptions where organization_id = $1 and status = 'PAST_DUE'",
        organization as _
    )
    .fetch_optional(tx.conn())
    .await?;
    tx.rollback().await?;
    let Some((since, test_clock)) = row.and_then(|row| Some((row.past_due_since?, row.test_clock))) else {
        return Ok(0);
    };
    // The time of a subscription with a test clock is that of the clock.
    let now = match (&test_clock, &upkeep.stripe) {
        (None, _) => Some(clock.now()),
        (Some(id), Some(stripe)) => stripe.frozen_time(id).await?.and_then(|at| DateTime::from_timestamp(at, 0)),
        (Some(_), None) => None,
    };
    if now.is_none_or(|now| now < since + grace) {
        return Ok(0);
    }
    let mut tx = SystemTx::begin(db).await?;
    let ended = sqlx::query!(
        r#"update tenantry.subscriptions s set grace_ended_for = past_due_since, plan = 'FREE'
             from (select organization_id, plan from tenantry.subscriptions where organization_id = $1 for update) before
            where s.organization_id = before.organization_id and s.status = 'PAST_DUE' and s.past_due_since = $2
        returning s.id as "id: SubscriptionId", before.plan as "plan: OrganizationPlan""#,
        organization as _,
        since
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(ended) = ended else { return Ok(0) };
    let metadata =
        json!({ "before": { "plan": ended.plan }, "after": { "plan": OrganizationPlan::Free }, "pastDueSince": since });
    trail::record_of_system(&mut tx, clock, organization, &AuditEntry::of(ENDED, ended.id, metadata)).await?;
    events::tell(&mut tx, &[(organization, Event::of(ended.id))]).await?;
    tx.commit().await?;
    Ok(1)
}
