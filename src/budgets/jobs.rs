//! What happens to budgets by the clock: periods open, reservations expire.

use crate::budgets::sql;
use crate::budgets::verbs::opening;
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::id::{BudgetId, BudgetUsageRecordId, OrganizationId};
use crate::trail::{self, AuditEntry};
use crate::turns;

/// Rows in one transaction.
const BATCH: i64 = 500;
/// What the audit log calls the end of reservations by their time; one row for each transaction.
const EXPIRED: &str = "budget.reservations.expire";

/// Opens the periods whose time has come; says how many.
///
/// # Errors
/// As [`turns::by_organization`].
pub async fn open_due_periods(db: &Db, clock: &Clock) -> Result<u64> {
    turns::by_organization(
        db,
        "budget-periods",
        |tx, after| Box::pin(sql::organizations_with_ended(tx, after, turns::PAGE, clock.now())),
        |organization| open_some(db, clock, organization),
    )
    .await
}

async fn open_some(db: &Db, clock: &Clock, organization: OrganizationId) -> Result<u64> {
    let now = clock.now();
    let mut tx = SystemTx::begin(db).await?;
    let ended = sql::lock_ended(&mut tx, organization, BATCH, now).await?;
    let ended: Vec<(BudgetId, BudgetId)> = ended.into_iter().map(|id| (id, BudgetId::new(clock))).collect();
    let opened = sql::open_periods(tx.conn(), organization, &ended, now).await?;
    for period in &opened {
        trail::record_of_system(&mut tx, clock, organization, &opening(period)).await?;
    }
    tx.commit().await?;
    Ok(opened.len() as u64)
}

/// Frees what reservations hold whose time is over; says how many.
///
/// # Errors
/// As [`turns::by_organization`].
pub async fn expire_reservations(db: &Db, clock: &Clock) -> Result<u64> {
    turns::by_organization(
        db,
        "budget-reservations",
        |tx, after| Box::pin(sql::organizations_with_expired(tx, after, turns::PAGE, clock.now())),
        |organization| expire_some(db, clock, organization),
    )
    .await
}

async fn expire_some(db: &Db, clock: &Clock, organization: OrganizationId) -> Result<u64> {
    let now = clock.now();
    let mut tx = SystemTx::begin(db).await?;
    let expired = sql::lock_expired(tx.conn(), organization, None, BATCH, now).await?;
    let Some((first, _)) = expired.first() else { return Ok(0) };
    let records: Vec<BudgetUsageRecordId> = expired.iter().map(|_| BudgetUsageRecordId::new(clock)).collect();
    sql::expire(tx.conn(), organization, &expired, &records, now).await?;
    let entry = AuditEntry::of(EXPIRED, *first, serde_json::json!({ "records": records.len() }));
    trail::record_of_system(&mut tx, clock, organization, &entry).await?;
    tx.commit().await?;
    Ok(expired.len() as u64)
}
