//! What happens to budgets by the clock: periods open, reservations expire.
//!
//! Each organization has transactions of its own, of a bounded number of rows and a bounded number in each run: one with very many
//! rows, or one that fails, delays no other.

use crate::budgets::sql;
use crate::budgets::verbs::opening;
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::{Error, Result};
use crate::id::{BudgetId, BudgetUsageRecordId, OrganizationId};
use crate::trail::{self, AuditEntry};

/// Rows in one transaction.
const BATCH: i64 = 500;
/// Transactions of one organization in one run.
const TURNS: usize = 20;
/// Organizations that are looked up at once.
const ORGANIZATIONS: i64 = 500;
/// What the audit log calls the end of reservations by their time; one row for each transaction.
const EXPIRED: &str = "budget.reservations.expire";

/// Opens the periods whose time has come; says how many.
///
/// # Errors
/// The last one of an organization, after all had their turn; when the database cannot be reached.
pub async fn open_due_periods(db: &Db, clock: &Clock) -> Result<u64> {
    let (mut last, mut done, mut failed) = (OrganizationId::NIL, 0, None);
    loop {
        let mut tx = SystemTx::begin(db).await?;
        let due = sql::organizations_with_ended(&mut tx, last, ORGANIZATIONS, clock.now()).await?;
        tx.rollback().await?;
        let Some(next) = due.last() else { return failed.map_or(Ok(done), Err) };
        last = *next;
        for organization in due {
            for _ in 0..TURNS {
                match open_some(db, clock, organization).await {
                    Ok(0) => break,
                    Ok(opened) => done += opened,
                    Err(error) => {
                        note(organization, &error);
                        failed = Some(error);
                        break;
                    }
                }
            }
        }
    }
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
/// As [`open_due_periods`].
pub async fn expire_reservations(db: &Db, clock: &Clock) -> Result<u64> {
    let (mut last, mut done, mut failed) = (OrganizationId::NIL, 0, None);
    loop {
        let mut tx = SystemTx::begin(db).await?;
        let due = sql::organizations_with_expired(&mut tx, last, ORGANIZATIONS, clock.now()).await?;
        tx.rollback().await?;
        let Some(next) = due.last() else { return failed.map_or(Ok(done), Err) };
        last = *next;
        for organization in due {
            for _ in 0..TURNS {
                match expire_some(db, clock, organization).await {
                    Ok(0) => break,
                    Ok(expired) => done += expired,
                    Err(error) => {
                        note(organization, &error);
                        failed = Some(error);
                        break;
                    }
                }
            }
        }
    }
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

fn note(organization: OrganizationId, error: &Error) {
    tracing::warn!(%organization, %error, cause = ?error, "budgets of an organization could not be looked after");
}
