//! Keeps the quantity of seats at Stripe what the number of members is, where the plan says so (`seat_policy = "AUTOMATIC"`).
//!
//! A trigger marks organizations whose members change; the job waits until that is over for a moment, so that many who join are one
//! change, and takes the marks away when Stripe has the right quantity. It is looked at first and set as a whole number, so that a
//! second try changes nothing, whoever died: no idempotency key is sent with it, under which Stripe would repeat an error for a day.

use chrono::{DateTime, TimeDelta, Utc};

use crate::billing::remote::RemoteSubscription;
use crate::billing::{SubscriptionStatus, Upkeep};
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::{Error, Result};
use crate::id::OrganizationId;
use crate::organizations::OrganizationPlan;
use crate::plans::{Plans, SeatPolicy};
use crate::stripe::StripeClient;
use crate::turns;

/// How long members must have been left alone, and how long a change waits at most.
const QUIET: TimeDelta = TimeDelta::seconds(10);
const LONGEST: TimeDelta = TimeDelta::minutes(1);
/// When a quantity is tried again that Stripe did not take.
const PAUSE: TimeDelta = TimeDelta::minutes(5);

/// What is known here of an organization's seats.
struct Seats {
    /// The marks that are answered for.
    marks: Vec<i64>,
    subscription: Option<String>,
    status: Option<SubscriptionStatus>,
    plan: Option<OrganizationPlan>,
    members: i64,
}

/// The job: brings the quantities of seats to Stripe. Says how many organizations were looked at.
///
/// # Errors
/// As [`turns::by_organization`]; when Stripe could not be asked, or refused.
pub async fn sync_seats(db: &Db, clock: &Clock, upkeep: &Upkeep) -> Result<u64> {
    let Some(stripe) = &upkeep.stripe else { return forget(db).await };
    turns::by_organization(
        db,
        "seat-quantities",
        |tx, after| Box::pin(organizations_marked(tx, after, clock.now())),
        |organization| sync_one(db, clock, upkeep, stripe, organization),
    )
    .await
}

/// Without Stripe there is nobody to tell.
async fn forget(db: &Db) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let forgotten = sqlx::query!("delete from tenantry.seat_marks").execute(tx.conn()).await?.rows_affected();
    tx.commit().await?;
    Ok(forgotten)
}

async fn organizations_marked(
    tx: &mut SystemTx,
    after: OrganizationId,
    now: DateTime<Utc>,
) -> Result<Vec<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select organization_id as "id: OrganizationId" from tenantry.seat_marks where organization_id > $1
            group by 1 having max(marked_at) <= $2 or min(marked_at) <= $3 order by 1 limit $4"#,
        after as _,
        now - QUIET,
        now - LONGEST,
        turns::PAGE
    )
    .fetch_all(tx.conn())
    .await?)
}

async fn seats(tx: &mut SystemTx, organization: OrganizationId) -> Result<Seats> {
    Ok(sqlx::query_as!(
        Seats,
        r#"select array(select m.transaction from tenantry.seat_marks m where m.organization_id = o.id) as "marks!",
                  s.stripe_subscription_id as "subscription?", s.status as "status?: SubscriptionStatus", s.plan as "plan?: OrganizationPlan",
                  (select count(*) from tenantry.organization_members m
                    where m.organization_id = o.id and m.deleted_at is null and (m.role <> 'VIEWER' or m.custom_role_id is not null)) as "members!"
             from tenantry.organizations o left join tenantry.subscriptions s on s.organization_id = o.id
            where o.id = $1"#,
        organization as _
    )
    .fetch_one(tx.conn())
    .await?)
}

async fn sync_one(
    db: &Db,
    clock: &Clock,
    upkeep: &Upkeep,
    stripe: &StripeClient,
    organization: OrganizationId,
) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let seats = seats(&mut tx, organization).await?;
    tx.rollback().await?;
    let followed = follows(&upkeep.plans, &seats);
    let result = match followed {
        Some(subscription) => bring(stripe, upkeep, subscription, seats.members.max(1)).await,
        None => Ok(()),
    };
    let mut tx = SystemTx::begin(db).await?;
    let answered = &seats.marks;
    if let Err(failure) = &result {
        tracing::warn!(%organization, %failure, "the quantity of seats could not be brought to Stripe");
        sqlx::query!(
            "update tenantry.seat_marks set marked_at = $3 where organization_id = $1 and transaction = any($2)",
            organization as _,
            answered,
            clock.now() + PAUSE
        )
        .execute(tx.conn())
        .await?;
    } else {
        // Who came meanwhile has a mark of their own.
        sqlx::query!(
            "delete from tenantry.seat_marks where organization_id = $1 and transaction = any($2)",
            organization as _,
            answered
        )
        .execute(tx.conn())
        .await?;
    }
    tx.commit().await?;
    result.map_err(Error::internal)?;
    Ok(1)
}

/// The subscription whose quantity follows the members.
fn follows<'a>(plans: &Plans, seats: &'a Seats) -> Option<&'a str> {
    use SubscriptionStatus::{Active, PastDue, Trialing};
    let pays = seats.status.is_some_and(|status| matches!(status, Active | Trialing | PastDue));
    let is_automatic = seats.plan.is_some_and(|plan| plans.of(plan).seat_policy == SeatPolicy::Automatic);
    seats.subscription.as_deref().filter(|_| pays && is_automatic)
}

/// Sets the quantity, if it is another. What is paid for a part of a period goes onto the next invoice: an invoice for each who joins
/// would be a payment for each.
async fn bring(stripe: &StripeClient, upkeep: &Upkeep, subscription: &str, members: i64) -> Result<(), String> {
    let found = stripe.subscription(subscription).await.map_err(|failure| failure.to_string())?;
    let Some(known) = found.as_ref().and_then(RemoteSubscription::read) else { return Ok(()) };
    let is_ours = upkeep.livemode.is_none() || known.is_live.is_none() || known.is_live == upkeep.livemode;
    if !is_ours || !known.lives() {
        return Ok(());
    }
    let is_seat = |price: &str| upkeep.plans.price(price).is_some_and(|(_, price)| price.seat);
    let Some(item) = known.items.iter().find(|item| is_seat(&item.price)) else { return Ok(()) };
    if item.quantity == Some(members) {
        return Ok(());
    }
    let form = [
        ("quantity".to_owned(), members.to_string()),
        ("proration_behavior".to_owned(), "create_prorations".to_owned()),
    ];
    stripe
        .send(&format!("/subscription_items/{}", item.id), &form, None)
        .await
        .map_err(|failure| failure.to_string())?;
    Ok(())
}

/// The job of the night: has every quantity looked at. Says how many.
///
/// # Errors
/// When the database cannot be reached.
pub async fn mark_all_seats(db: &Db, clock: &Clock, upkeep: &Upkeep) -> Result<u64> {
    let automatic: Vec<OrganizationPlan> = upkeep
        .plans
        .iter()
        .filter(|(_, terms)| terms.seat_policy == SeatPolicy::Automatic)
        .map(|(plan, _)| plan)
        .collect();
    let mut tx = SystemTx::begin(db).await?;
    let marked = sqlx::query!(
        "insert into tenantry.seat_marks (organization_id, transaction, marked_at)
         select organization_id, 0, $2 from tenantry.subscriptions
          where plan = any($1) and stripe_subscription_id is not null and status in ('ACTIVE', 'TRIALING', 'PAST_DUE')
             on conflict do nothing",
        automatic as _,
        clock.now() - LONGEST
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await?;
    Ok(marked.rows_affected())
}
