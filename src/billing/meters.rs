//! Tells Stripe's meters of usage: what is spent of budgets of type `AI_USAGE`, where the plan has a metered price.
//!
//! A trigger writes usage down in the transaction of its record; the job sends it, and takes it away when Stripe has it. Who dies in
//! between sends it again: the record's id is the event's, and Stripe refuses a second one of the same id for 24 hours at least (API
//! reference, "Meter events"). No idempotency key is sent with it: Stripe would repeat an error for a day.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::billing::{SubscriptionStatus, Upkeep};
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::{Error, Result};
use crate::id::OrganizationId;
use crate::organizations::OrganizationPlan;
use crate::plans::Plans;
use crate::stripe::{Form, Refusal, StripeClient, StripeFailure};
use crate::turns;

/// Events that are sent in one turn of an organization.
const BATCH: i64 = 100;
/// How old an event may be: a little less than Stripe's 35 days.
const OLDEST: TimeDelta = TimeDelta::hours(35 * 24 - 1);
/// The first pause after a failure, and the longest.
const PAUSE: TimeDelta = TimeDelta::seconds(30);
const LONGEST_PAUSE: TimeDelta = TimeDelta::hours(1);

/// Usage that waits.
struct Waiting {
    record_id: Uuid,
    amount_minor: i64,
    occurred_at: DateTime<Utc>,
}

/// Whose usage it is.
struct Payer {
    customer: String,
    meter: String,
    has_test_clock: bool,
}

/// What to do with the usage of an organization.
enum Aim {
    Send(Payer),
    /// The plan counts no usage.
    Forget,
    /// It cannot be sent any more, and somebody should know.
    Report(&'static str),
    /// Not now.
    Wait,
}

/// The job: sends usage to Stripe. Says how many events.
///
/// # Errors
/// As [`turns::by_organization`]; when Stripe did not take events. They stay, and are tried again.
pub async fn send_usage(db: &Db, clock: &Clock, upkeep: &Upkeep) -> Result<u64> {
    let Some(stripe) = &upkeep.stripe else { return Ok(0) };
    turns::by_organization(
        db,
        "billing-usage",
        |tx, after| Box::pin(organizations_due(tx, after, clock.now())),
        |organization| send_some(db, clock, upkeep, stripe, organization),
    )
    .await
}

async fn organizations_due(
    tx: &mut SystemTx,
    after: OrganizationId,
    now: DateTime<Utc>,
) -> Result<Vec<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select distinct organization_id as "id: OrganizationId" from tenantry.meter_outbox
            where not is_dead and next_attempt_at <= $2 and organization_id > $1 order by 1 limit $3"#,
        after as _,
        now,
        turns::PAGE
    )
    .fetch_all(tx.conn())
    .await?)
}

async fn send_some(
    db: &Db,
    clock: &Clock,
    upkeep: &Upkeep,
    stripe: &StripeClient,
    organization: OrganizationId,
) -> Result<u64> {
    let now = clock.now();
    let mut tx = SystemTx::begin(db).await?;
    let waiting = sqlx::query_as!(
        Waiting,
        "select record_id, amount_minor, occurred_at from tenantry.meter_outbox
          where organization_id = $1 and not is_dead and next_attempt_at <= $2 order by occurred_at, record_id limit $3",
        organization as _,
        now,
        BATCH
    )
    .fetch_all(tx.conn())
    .await?;
    let aim = aim(&mut tx, &upkeep.plans, organization).await?;
    tx.rollback().await?;
    let all = || waiting.iter().map(|event| event.record_id).collect::<Vec<_>>();
    let (mut sent, mut late, mut failed) = (Vec::new(), Vec::new(), None);
    match aim {
        Aim::Forget => sent = all(),
        Aim::Report(why) => late = vec![(all(), why)],
        Aim::Wait => return postpone(db, organization, now).await,
        Aim::Send(payer) => {
            let (old, young): (Vec<&Waiting>, Vec<&Waiting>) =
                waiting.iter().partition(|event| now - event.occurred_at > OLDEST);
            let old: Vec<Uuid> = old.iter().map(|event| event.record_id).collect();
            late.push((old, "it is older than the 35 days that Stripe takes events for"));
            for event in young {
                match stripe.send("/billing/meter_events", &form(&payer, event), None).await {
                    Ok(_) => sent.push(event.record_id),
                    Err(StripeFailure::Refused(refusal)) if is_known(&refusal) => sent.push(event.record_id),
                    Err(failure) => {
                        failed = Some(failure.to_string());
                        break;
                    }
                }
            }
        }
    }
    let mut tx = SystemTx::begin(db).await?;
    sqlx::query!(
        "delete from tenantry.meter_outbox where organization_id = $1 and record_id = any($2)",
        organization as _,
        &sent
    )
    .execute(tx.conn())
    .await?;
    for (ids, why) in &late {
        sqlx::query!(
            "update tenantry.meter_outbox set is_dead = true, problem = $3 where organization_id = $1 and record_id = any($2)",
            organization as _,
            ids,
            *why
        )
        .execute(tx.conn())
        .await?;
    }
    if let Some(problem) = &failed {
        // All of the organization's, so that its order is kept and nothing is tried a hundred times.
        sqlx::query!(
            "update tenantry.meter_outbox
                set tries = tries + 1, problem = left($3, 500), next_attempt_at = $2 + least($4::interval * power(2, least(tries, 10)), $5::interval)
              where organization_id = $1 and not is_dead and next_attempt_at <= $2",
            organization as _,
            now,
            problem,
            interval(PAUSE),
            interval(LONGEST_PAUSE)
        )
        .execute(tx.conn())
        .await?;
    }
    tx.commit().await?;
    if let Some(problem) = failed {
        return Err(Error::internal(format!("usage was not sent: {problem}")));
    }
    let reported: usize = late.iter().map(|(ids, _)| ids.len()).sum();
    Ok((sent.len() + reported) as u64)
}

/// Has usage wait for an hour: its subscription is not paid.
async fn postpone(db: &Db, organization: OrganizationId, now: DateTime<Utc>) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    sqlx::query!(
        "update tenantry.meter_outbox set next_attempt_at = $3, problem = 'the payment of the subscription is overdue'
          where organization_id = $1 and not is_dead and next_attempt_at <= $2",
        organization as _,
        now,
        now + LONGEST_PAUSE
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await?;
    Ok(0)
}

fn interval(time: TimeDelta) -> sqlx::postgres::types::PgInterval {
    sqlx::postgres::types::PgInterval { months: 0, days: 0, microseconds: time.num_microseconds().unwrap_or(0) }
}

/// What becomes of an organization's usage.
async fn aim(tx: &mut SystemTx, plans: &Plans, organization: OrganizationId) -> Result<Aim> {
    use SubscriptionStatus::{Active, PastDue, Trialing};
    if !plans.prices().any(|(_, price)| price.meter.is_some()) {
        return Ok(Aim::Forget);
    }
    let row = sqlx::query!(
        r#"select stripe_customer_id, status as "status: SubscriptionStatus", plan as "plan: OrganizationPlan", test_clock is not null as "has_test_clock!"
             from tenantry.subscriptions where organization_id = $1"#,
        organization as _
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else { return Ok(Aim::Report("the organization has no subscription any more")) };
    let meter = plans.of(row.plan).prices.iter().find_map(|price| price.meter.clone());
    Ok(match (row.status, meter, row.stripe_customer_id) {
        (Active | Trialing | PastDue, Some(meter), Some(customer)) => {
            Aim::Send(Payer { customer, meter, has_test_clock: row.has_test_clock })
        }
        (Active | Trialing, None, _) => Aim::Forget,
        (PastDue, ..) => Aim::Wait,
        _ => Aim::Report("the subscription ended before it was sent"),
    })
}

fn form(payer: &Payer, event: &Waiting) -> Form {
    let pair = |name: &str, value: String| (name.to_owned(), value);
    let mut form = vec![
        pair("event_name", payer.meter.clone()),
        pair("payload[stripe_customer_id]", payer.customer.clone()),
        pair("payload[value]", event.amount_minor.to_string()),
        pair("identifier", event.record_id.to_string()),
    ];
    // With a test clock it is used at the clock's time, which Stripe takes where none is said.
    if !payer.has_test_clock {
        form.push(pair("timestamp", event.occurred_at.timestamp().to_string()));
    }
    form
}

/// Whether Stripe says that it has the event already: then it was sent.
fn is_known(refusal: &Refusal) -> bool {
    refusal.code == "duplicate_meter_event"
        || refusal.status == 400 && refusal.message.contains("already exists with identifier")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_stripe_has_is_sent() {
        let refusal = |status, code: &str, message: &str| Refusal {
            status,
            code: code.to_owned(),
            message: message.to_owned(),
            ..Refusal::default()
        };
        assert!(is_known(&refusal(400, "", "An event already exists with identifier 0199.")));
        assert!(is_known(&refusal(400, "duplicate_meter_event", "")));
        assert!(!is_known(&refusal(400, "", "No active meter found for the event name.")));
        assert!(!is_known(&refusal(500, "", "An event already exists with identifier 0199.")));
    }
}
