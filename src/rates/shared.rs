//! What instances tell each other through the database: one statement a second for all organizations that have spent something, which
//! writes what was spent here and reads what there is in all.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use super::{Rates, Whose, nanoseconds};
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::id::OrganizationId;

/// How often.
const EVERY: Duration = Duration::from_secs(1);
/// The most that is told at once, in microseconds: a day. Whoever owes more has it told later.
const MOST: i64 = 86_400_000_000;

impl Rates {
    /// Tells what was spent here since the last time, and learns what was spent in all. Says of how many organizations. What cannot be told
    /// is told later.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn share(&self, db: &Db) -> Result<usize> {
        let untold = self.untold();
        if untold.is_empty() {
            return Ok(0);
        }
        match write(db, &untold).await {
            Ok(owed) => {
                self.learn(&owed);
                Ok(owed.len())
            }
            Err(error) => {
                self.tell_again(untold);
                Err(error)
            }
        }
    }

    /// Takes what was not told.
    pub(super) fn untold(&self) -> Vec<(OrganizationId, i64)> {
        let mut buckets = self.buckets();
        let organizations = buckets.iter_mut().filter_map(|(whose, bucket)| match whose {
            Whose::Organization(id) if bucket.untold != 0 => Some((*id, std::mem::take(&mut bucket.untold))),
            _ => None,
        });
        organizations.collect()
    }

    /// Keeps what could not be told, as far as it has not come back: whoever is without the database for an hour does not owe an hour.
    fn tell_again(&self, untold: Vec<(OrganizationId, i64)>) {
        let now = nanoseconds(self.clock.now());
        let mut buckets = self.buckets();
        for (organization, span) in untold {
            let bucket = buckets.entry(Whose::Organization(organization)).or_default();
            let owed = bucket.full_at.saturating_sub(now).max(0);
            bucket.untold = bucket.untold.saturating_add(span).min(owed);
        }
    }

    /// The budgets are as the database has them, less what was spent here meanwhile.
    pub(super) fn learn(&self, owed: &[(OrganizationId, i64)]) {
        let now = nanoseconds(self.clock.now());
        let mut buckets = self.buckets();
        for (organization, owed) in owed {
            let bucket = buckets.entry(Whose::Organization(*organization)).or_default();
            bucket.full_at = now.saturating_add((*owed).max(0)).saturating_add(bucket.untold);
        }
    }

    /// Tells once a second until a stop is asked for, and forgets budgets that are full.
    pub async fn keep_sharing(self: Arc<Self>, db: Db, mut stopping: watch::Receiver<bool>) {
        let mut is_alone = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                _ = stopping.wait_for(|stop| *stop) => return,
            }
            match self.share(&db).await {
                Err(error) if !is_alone => {
                    is_alone = true;
                    tracing::warn!(%error, "what organizations have spent of their API budgets cannot be shared; this instance counts alone");
                }
                Ok(_) => is_alone = false,
                Err(_) => {}
            }
            self.forget_full();
        }
    }
}

/// Adds what was spent; gives what is owed in all. Both are the nanoseconds until it has come back. The clock is the database's: those of
/// instances may differ.
async fn write(db: &Db, untold: &[(OrganizationId, i64)]) -> Result<Vec<(OrganizationId, i64)>> {
    let organizations: Vec<Uuid> = untold.iter().map(|(organization, _)| organization.uuid()).collect();
    let spent: Vec<i64> = untold.iter().map(|(_, span)| (span / 1000).clamp(-MOST, MOST)).collect();
    let mut tx = SystemTx::begin(db).await?;
    // In one order everywhere, so that two instances do not wait for each other.
    let rows = sqlx::query!(
        r#"insert into tenantry.api_spending as s (organization_id, full_at)
           select c.organization_id, now() + c.spent * interval '1 microsecond'
             from unnest($1::uuid[], $2::bigint[]) as c (organization_id, spent)
            where exists (select from tenantry.organizations o where o.id = c.organization_id) order by 1
           on conflict (organization_id) do update set full_at = greatest(s.full_at, now()) + (excluded.full_at - now())
           returning organization_id, (extract(epoch from full_at - now()) * 1000000)::bigint as "owed!""#,
        &organizations,
        &spent
    )
    .fetch_all(tx.conn())
    .await?;
    tx.commit().await?;
    let owed = |row: i64| row.clamp(-MOST, MOST) * 1000;
    Ok(rows.into_iter().map(|row| (OrganizationId::from_uuid(row.organization_id), owed(row.owed))).collect())
}
