//! How long the audit log of an organization is kept, by its plan (`AUDIT_RETENTION_DAYS`).

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::id::OrganizationId;
use crate::organizations::OrganizationPlan;
use crate::turns;

/// The shortest retention, in days. The database refuses what is younger than 30, by its own clock: a day is between the two.
const SHORTEST: u32 = 31;
/// Rows that are removed in one transaction.
const BATCH: i32 = 5000;

/// Days by plan; what is not named is kept for ever.
#[derive(Clone, Debug, Default)]
pub struct Retention(BTreeMap<&'static str, u32>);

impl Retention {
    /// Adds `FREE=90`.
    ///
    /// # Errors
    /// What it takes.
    pub fn add(&mut self, item: &str) -> std::result::Result<(), String> {
        let wrong = || {
            format!("\"{item}\"; it takes PLAN=days, {SHORTEST} at least, and plans are FREE, STARTER, PRO, ENTERPRISE")
        };
        let (plan, days) = item.split_once('=').ok_or_else(wrong)?;
        let plan = OrganizationPlan::from_label(plan.trim()).ok_or_else(wrong)?;
        let days = days.trim().parse().ok().filter(|days| (SHORTEST..=36_500).contains(days)).ok_or_else(wrong)?;
        self.0.insert(plan.label(), days);
        Ok(())
    }

    /// Removes what is older than its organization's plan keeps; says how many rows.
    ///
    /// # Errors
    /// As [`turns::by_organization`].
    pub async fn expire(&self, db: &Db, clock: &Clock) -> Result<u64> {
        let now = clock.now();
        let plans: Vec<String> = self.0.keys().map(|plan| (*plan).to_owned()).collect();
        let before: Vec<DateTime<Utc>> = self.0.values().map(|days| now - TimeDelta::days((*days).into())).collect();
        let kept: Arc<Kept> = Arc::new((plans, before));
        turns::by_organization(
            db,
            "audit-retention",
            |tx, after| {
                let kept = Arc::clone(&kept);
                Box::pin(async move { organizations_with_old_rows(tx, after, &kept).await })
            },
            |organization| expire_some(db, organization, &kept),
        )
        .await
    }
}

/// Plans, and before when rows of their organizations go.
type Kept = (Vec<String>, Vec<DateTime<Utc>>);

async fn organizations_with_old_rows(
    tx: &mut SystemTx,
    after: OrganizationId,
    (plans, before): &Kept,
) -> Result<Vec<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select o.id as "id: OrganizationId" from tenantry.organizations o
             left join tenantry.subscriptions s on s.organization_id = o.id
             join unnest($1::text[], $2::timestamptz[]) as kept (plan, before) on kept.plan = coalesce(s.plan::text, 'FREE')
            where o.id > $3
              and exists (select from tenantry.audit_logs a where a.organization_id = o.id and a.created_at < kept.before)
            order by o.id limit $4"#,
        plans,
        before,
        after as _,
        turns::PAGE
    )
    .fetch_all(tx.conn())
    .await?)
}

async fn expire_some(db: &Db, organization: OrganizationId, (plans, before): &Kept) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let removed = sqlx::query_scalar!(
        r#"select tenantry.expire_audit_log(o.id, kept.before, $4) as "removed!" from tenantry.organizations o
             left join tenantry.subscriptions s on s.organization_id = o.id
             join unnest($1::text[], $2::timestamptz[]) as kept (plan, before) on kept.plan = coalesce(s.plan::text, 'FREE')
            where o.id = $3"#,
        plans,
        before,
        organization as _,
        BATCH
    )
    .fetch_optional(tx.conn())
    .await?;
    tx.commit().await?;
    Ok(u64::try_from(removed.unwrap_or_default()).unwrap_or_default())
}
