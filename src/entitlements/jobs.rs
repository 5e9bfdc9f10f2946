//! What no request does: the terms of plans are written at start, seats follow what time has changed, and the calls of the API, which
//! the transport counts in memory, are written.

use std::sync::Arc;
use std::time::Duration;

use chrono::NaiveDate;
use tokio::sync::watch;
use uuid::Uuid;

use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::graphql::Services;
use crate::graphql::calls::Counted;
use crate::id::OrganizationId;
use crate::plans::{OrganizationPlan, Plans};

/// How often what was counted is written.
const EVERY: Duration = Duration::from_secs(10);

/// Writes what was counted since the last time; says of how many organizations and months. What cannot be written is counted
/// again.
///
/// # Errors
/// When the database cannot be reached.
pub async fn write_calls(services: &Services) -> Result<u64> {
    let counted = services.calls.take();
    if counted.is_empty() {
        return Ok(0);
    }
    let written = write(&services.db, &counted).await;
    if written.is_err() {
        services.calls.put_back(counted);
    }
    written
}

async fn write(db: &Db, counted: &Counted) -> Result<u64> {
    let organizations: Vec<Uuid> = counted.keys().map(|(organization, _)| organization.uuid()).collect();
    let months: Vec<NaiveDate> = counted.keys().map(|(_, month)| *month).collect();
    let calls: Vec<i64> = counted.values().map(|calls| i64::try_from(*calls).unwrap_or(i64::MAX)).collect();
    let mut tx = SystemTx::begin(db).await?;
    // In one order everywhere, so that two instances do not wait for each other.
    let written = sqlx::query!(
        "insert into tenantry.api_usage as u (organization_id, month, calls)
         select c.organization_id, c.month, c.calls from unnest($1::uuid[], $2::date[], $3::bigint[]) as c (organization_id, month, calls)
          where exists (select from tenantry.organizations o where o.id = c.organization_id) order by 1, 2
         on conflict (organization_id, month) do update set calls = u.calls + excluded.calls",
        &organizations,
        &months,
        &calls
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await?;
    Ok(written.rows_affected())
}

/// Writes every few seconds until a stop is asked for. What is counted after that is the caller's to write.
pub async fn keep_writing_calls(services: Arc<Services>, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        if let Err(error) = write_calls(&services).await {
            tracing::warn!(%error, "the calls of the API could not be written; they are kept");
        }
    }
}

/// Writes the limits of the file of the plans to where the database counts with them; says how many plans have others than
/// before. The job `entitlements` then looks after the seats.
///
/// # Errors
/// When the database cannot be reached, or has no place for them yet.
pub async fn publish(db: &Db, plans: &Plans) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let mut changed = 0;
    for (plan, terms) in plans.iter() {
        let whole = |number: Option<u32>| number.and_then(|number| i32::try_from(number).ok());
        changed += sqlx::query!(
            "update tenantry.plan_terms set seats = $2, seat_policy = $3, budgets = $4, api_calls_per_month = $5, is_settled = false
              where plan = $1 and (seats, seat_policy, budgets, api_calls_per_month) is distinct from ($2, $3, $4, $5)",
            plan as _,
            whole(terms.seats),
            terms.seat_policy as _,
            whole(terms.budgets),
            terms.api_calls_per_month.and_then(|calls| i64::try_from(calls).ok())
        )
        .execute(tx.conn())
        .await?
        .rows_affected();
    }
    tx.commit().await?;
    if changed > 0 {
        tracing::info!(changed, "plans give something else than before");
    }
    Ok(changed)
}

/// Looks after seats that time or new terms of plans have changed: no row says so by itself. Says of how many organizations.
///
/// # Errors
/// When the database cannot be reached.
pub async fn settle_due(db: &Db, clock: &Clock) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let terms = sqlx::query_scalar!(
        r#"select plan as "plan: OrganizationPlan" from tenantry.plan_terms where not is_settled for update"#
    )
    .fetch_all(tx.conn())
    .await?;
    let due: Vec<OrganizationId> = if terms.is_empty() {
        sqlx::query_scalar!(
            r#"select organization_id as "id: OrganizationId" from tenantry.entitlement_grants
                where key = 'seats' and expires_at between $1::timestamptz - interval '1 day' and $1 order by 1"#,
            clock.now()
        )
        .fetch_all(tx.conn())
        .await?
    } else {
        sqlx::query_scalar!(r#"select organization_id as "id!: OrganizationId" from tenantry.wrong_seats() order by 1"#)
            .fetch_all(tx.conn())
            .await?
    };
    tx.rollback().await?;
    let mut settled = 0;
    for organization in due {
        let mut tx = SystemTx::begin(db).await?;
        sqlx::query!("select tenantry.settle_seats($1)", organization as _).execute(tx.conn()).await?;
        tx.commit().await?;
        settled += 1;
    }
    if !terms.is_empty() {
        let mut tx = SystemTx::begin(db).await?;
        sqlx::query!("update tenantry.plan_terms set is_settled = true where not is_settled and not exists (select from tenantry.wrong_seats())")
            .execute(tx.conn())
            .await?;
        tx.commit().await?;
    }
    Ok(settled)
}
