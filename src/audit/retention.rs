//! How long the audit log of an organization is kept, by its plan (`AUDIT_RETENTION_DAYS`).

use std::collections::BTreeMap;

use chrono::TimeDelta;

use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::id::OrganizationId;
use crate::organizations::OrganizationPlan;

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
    /// When the database cannot be reached. The next run goes on.
    pub async fn expire(&self, db: &Db, clock: &Clock) -> Result<u64> {
        let mut all = 0;
        for (plan, days) in &self.0 {
            let before = clock.now() - TimeDelta::days((*days).into());
            let mut tx = SystemTx::begin(db).await?;
            let organizations = sqlx::query_scalar!(
                r#"select o.id as "id: OrganizationId" from tenantry.organizations o
                     left join tenantry.subscriptions s on s.organization_id = o.id
                    where coalesce(s.plan::text, 'FREE') = $1
                      and exists (select from tenantry.audit_logs a where a.organization_id = o.id and a.created_at < $2)
                    order by o.id"#,
                plan,
                before
            )
            .fetch_all(tx.conn())
            .await?;
            tx.commit().await?;
            for organization in organizations {
                loop {
                    let mut tx = SystemTx::begin(db).await?;
                    let removed = sqlx::query_scalar!(
                        r#"select tenantry.expire_audit_log($1, $2, $3) as "removed!""#,
                        organization as _,
                        before,
                        BATCH
                    )
                    .fetch_one(tx.conn())
                    .await?;
                    tx.commit().await?;
                    all += u64::try_from(removed).unwrap_or_default();
                    if removed < i64::from(BATCH) {
                        break;
                    }
                }
            }
        }
        Ok(all)
    }
}
