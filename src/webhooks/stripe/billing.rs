//! The row of the subscription that counts, and the flags of what is entitled to.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::billing::{Subscription, SubscriptionStatus};
use crate::db::SystemTx;
use crate::error::Result;
use crate::id::Id;
use crate::organizations::{Organization, OrganizationPlan, OrganizationStatus};
use crate::webhooks::effects::Effects;
use crate::webhooks::facts::{self, Kind, Lock, Object};
use crate::webhooks::payload::moment_of_seconds;
use crate::webhooks::stripe::owners::Cluster;
use crate::webhooks::stripe::plans::{self, Catalogue};

/// Marks the overrides of flags that are entitlements at Stripe.
const ENTITLEMENT: &str = "Entitlement at Stripe";

/// Brings the rows of all organizations that these customers have to do with up to date, and those that were named
/// `before` the event. Answers what is known of the customers.
pub(super) async fn settle(
    effects: &mut Effects<'_>,
    customers: &BTreeSet<String>,
    before: Option<&str>,
) -> Result<Cluster> {
    let mut cluster = Cluster::load(effects.tx, customers).await?;
    let mut names = cluster.names();
    names.extend(before.map(str::to_owned));
    let foreign = names.iter().filter(|name| Uuid::try_parse(name).is_err()).cloned();
    facts::lock(effects.tx, foreign.map(Lock::Organization)).await?;
    cluster.resolve(effects.tx, &names).await?;
    // Also those whose claim does not count now: by this event it may have ceased to, or begun.
    let touched = cluster.touched();
    cluster.compete(effects.tx).await?;
    facts::lock(effects.tx, touched.iter().map(|id| Lock::Tenant(id.uuid()))).await?;
    for organization in &touched {
        project(effects, *organization).await?;
    }
    Ok(cluster)
}

/// What came before its organization finds its place. The locks of the organization are held.
pub(crate) async fn settle_in(effects: &mut Effects<'_>, clerk_id: &str, organization: Id<Organization>) -> Result<()> {
    let kinds = [Kind::Customer, Kind::Subscription, Kind::Checkout];
    if facts::naming(effects.tx, &kinds, &[clerk_id.to_owned()]).await?.is_empty() {
        return Ok(());
    }
    project(effects, organization).await
}

/// What the row holds.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    id: Id<Subscription>,
    customer: Option<String>,
    subscription: Option<String>,
    state: Value,
}

fn state(status: SubscriptionStatus, plan: OrganizationPlan, seats: i32) -> Value {
    json!({ "status": status.label(), "plan": plan.label(), "seats": seats })
}

/// Makes the row of an organization from all that is known of its customers. The lock of the organization is held.
async fn project(effects: &mut Effects<'_>, organization: Id<Organization>) -> Result<()> {
    let known = sqlx::query!(
        r#"select o.clerk_org_id, s.id as "id?: Id<Subscription>", s.stripe_customer_id as "customer?", s.stripe_subscription_id as "subscription?",
                  s.status as "status?: SubscriptionStatus", s.plan as "plan?: OrganizationPlan", s.seat_count as "seats?"
             from tenantry.organizations o left join tenantry.subscriptions s on s.organization_id = o.id
            where o.id = $1"#,
        organization as _
    )
    .fetch_one(effects.tx.conn())
    .await?;
    let before = match (known.id, known.status, known.plan, known.seats) {
        (Some(id), Some(status), Some(plan), Some(seats)) => Some(Row {
            id,
            customer: known.customer,
            subscription: known.subscription,
            state: state(status, plan, seats),
        }),
        _ => None,
    };
    let mut names = vec![organization.uuid().to_string()];
    names.extend(known.clerk_org_id);
    let naming = facts::naming(effects.tx, &[Kind::Customer, Kind::Subscription, Kind::Checkout], &names).await?;
    let mut customers: BTreeSet<String> = naming
        .into_iter()
        .filter_map(|(kind, object)| match kind {
            Kind::Customer => Some(object.id),
            _ => object.text("customer").map(str::to_owned),
        })
        .collect();
    customers.extend(before.as_ref().and_then(|row| row.customer.clone()));
    let cluster = Cluster::known(effects.tx, &customers).await?;

    project_entitlements(effects, organization, &cluster).await?;
    let catalogue = catalogue(effects.tx, &cluster).await?;
    let settings = effects.settings;
    let counts = cluster
        .subscriptions_of(organization)
        .map(|s| (s, cluster.status(s), plans::bought(s, &catalogue, settings)))
        .min_by_key(|(s, status, (plan, _))| {
            let newest = std::cmp::Reverse((*plan, s.number("created"), s.id.clone()));
            (plans::precedence(*status), newest)
        });
    let Some((subscription, status, (plan, seats))) = counts else {
        return match before {
            // It is another organization's now.
            Some(row) if is_synced(effects.tx, &row).await? => remove(effects, organization, &row).await,
            _ => Ok(()),
        };
    };
    let (organization_status, entitled) = plans::effect(status);
    if plan.is_none() && entitled {
        tracing::warn!(%organization, subscription = %subscription.id,
            "no price of the subscription is known to buy a plan: set STRIPE_PRICE_PLANS, a lookup_key or the product's metadata");
    }
    let plan = plan.filter(|_| entitled).unwrap_or(OrganizationPlan::Free);
    let id = write(effects, organization, subscription, status, plan, seats).await?;
    set_status(effects, organization, organization_status).await?;
    let after = state(status, plan, seats);
    if before.as_ref().map(|row| &row.state) != Some(&after) {
        let metadata = json!({ "before": before.map(|row| row.state), "after": after });
        effects.record(organization, "subscription.sync", ("Subscription", id.uuid()), metadata).await?;
    }
    Ok(())
}

async fn write(
    effects: &mut Effects<'_>,
    organization: Id<Organization>,
    subscription: &Object,
    status: SubscriptionStatus,
    plan: OrganizationPlan,
    seats: i32,
) -> Result<Id<Subscription>> {
    let ends = moment_of_seconds(subscription.number("period_end"));
    let starts =
        moment_of_seconds(subscription.number("period_start")).filter(|starts| ends.is_none_or(|ends| *starts <= ends));
    let version =
        subscription.stamp("status").map_or(0, |stamp| stamp.1.saturating_mul(100) + i64::from(stamp.2.min(99)));
    Ok(sqlx::query_scalar!(
        r#"insert into tenantry.subscriptions (organization_id, id, stripe_customer_id, stripe_subscription_id, status, plan, seat_count,
                                      current_period_start, current_period_end, cancel_at_period_end, trial_end, collection_paused, source_version)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
           on conflict (organization_id) do update
              set stripe_customer_id = excluded.stripe_customer_id, stripe_subscription_id = excluded.stripe_subscription_id,
                  status = excluded.status, plan = excluded.plan, seat_count = excluded.seat_count,
                  current_period_start = excluded.current_period_start, current_period_end = excluded.current_period_end,
                  cancel_at_period_end = excluded.cancel_at_period_end, trial_end = excluded.trial_end,
                  collection_paused = excluded.collection_paused, source_version = excluded.source_version
        returning id as "id: Id<Subscription>""#,
        organization as _,
        Id::<Subscription>::new(effects.clock) as _,
        subscription.text("customer"),
        subscription.id,
        status as _,
        plan as _,
        seats,
        starts,
        ends,
        subscription.truth("cancel_at_period_end").unwrap_or(false),
        moment_of_seconds(subscription.number("trial_end")),
        subscription.truth("collection_paused").unwrap_or(false),
        version
    )
    .fetch_one(effects.tx.conn())
    .await?)
}

async fn is_synced(tx: &mut SystemTx, row: &Row) -> Result<bool> {
    let Some(subscription) = &row.subscription else { return Ok(false) };
    Ok(!facts::load_one(tx, Kind::Subscription, subscription).await?.is_blank())
}

async fn remove(effects: &mut Effects<'_>, organization: Id<Organization>, row: &Row) -> Result<()> {
    sqlx::query!("delete from tenantry.subscriptions where organization_id = $1", organization as _)
        .execute(effects.tx.conn())
        .await?;
    set_status(effects, organization, OrganizationStatus::Active).await?;
    let metadata = json!({ "before": row.state });
    effects.record(organization, "subscription.remove", ("Subscription", row.id.uuid()), metadata).await
}

async fn set_status(
    effects: &mut Effects<'_>,
    organization: Id<Organization>,
    status: OrganizationStatus,
) -> Result<()> {
    sqlx::query!(
        "update tenantry.organizations set status = $2 where id = $1 and status <> $2",
        organization as _,
        status as _
    )
    .execute(effects.tx.conn())
    .await?;
    Ok(())
}

async fn catalogue(tx: &mut SystemTx, cluster: &Cluster) -> Result<Catalogue> {
    let items = cluster.subscriptions.iter().filter_map(|s| s.value("items")?.as_array()).flatten();
    let (mut prices, mut products) = (BTreeSet::new(), BTreeSet::new());
    for item in items {
        prices.extend(item["price"].as_str().map(str::to_owned));
        products.extend(item["product"].as_str().map(str::to_owned));
    }
    let by_id = |objects: Vec<Object>| objects.into_iter().map(|object| (object.id.clone(), object)).collect();
    let prices: BTreeMap<String, Object> =
        by_id(facts::load(tx, Kind::Price, &prices.into_iter().collect::<Vec<_>>()).await?);
    products.extend(prices.values().filter_map(|price| price.text("product").map(str::to_owned)));
    let products = by_id(facts::load(tx, Kind::Product, &products.into_iter().collect::<Vec<_>>()).await?);
    Ok(Catalogue { prices, products })
}

/// A feature that Stripe entitles to switches the flag of the same key on, unless somebody decided about it by hand.
async fn project_entitlements(
    effects: &mut Effects<'_>,
    organization: Id<Organization>,
    cluster: &Cluster,
) -> Result<()> {
    let own = cluster.entitlements.iter().filter(|object| cluster.owner(&object.id, None) == Some(organization));
    let keys: BTreeSet<&str> =
        own.filter_map(|object| object.value("keys")?.as_array()).flatten().filter_map(Value::as_str).collect();
    if cluster.entitlements.is_empty() {
        return Ok(());
    }
    let keys: Vec<String> = keys.into_iter().map(str::to_owned).collect();
    let ids: Vec<Uuid> = keys.iter().map(|_| Id::<()>::new(effects.clock).uuid()).collect();
    let removed = sqlx::query!(
        "delete from tenantry.organization_feature_flags where organization_id = $1 and reason = $2 and not flag_key = any($3)",
        organization as _,
        ENTITLEMENT,
        &keys
    )
    .execute(effects.tx.conn())
    .await?
    .rows_affected();
    let added = sqlx::query!(
        "insert into tenantry.organization_feature_flags (organization_id, id, flag_key, enabled, exceeds_plan, reason)
         select $1, k.id, d.key, true, true, $2
           from unnest($3::uuid[], $4::text[]) as k(id, key) join tenantry.feature_flag_definitions d on d.key = k.key
         on conflict (organization_id, flag_key) do nothing",
        organization as _,
        ENTITLEMENT,
        &ids,
        &keys
    )
    .execute(effects.tx.conn())
    .await?
    .rows_affected();
    if removed + added > 0 {
        let metadata = json!({ "entitlements": keys });
        effects.record(organization, "entitlements.sync", ("Organization", organization.uuid()), metadata).await?;
    }
    Ok(())
}
