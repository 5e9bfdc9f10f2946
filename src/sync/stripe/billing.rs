//! Derives the subscription row of an organization, and the feature flags of its entitlements.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::billing::SubscriptionStatus;
use crate::db::SystemTx;
use crate::error::Result;
use crate::events::{self, Event};
use crate::flags;
use crate::id::{Identified as _, OrganizationId, SubscriptionId, marker};
use crate::organizations::{OrganizationPlan, OrganizationStatus};
use crate::sync::effects::Effects;
use crate::sync::mirror::{self, Lock, Register as _, RemoteObject};
use crate::sync::payload::moment_of_seconds;
use crate::sync::stripe::attribution;
use crate::sync::stripe::owners::BillingGraph;
use crate::sync::stripe::plans::{self, Bought, Catalogue};

/// What the overrides of flags that are entitlements at Stripe say as their reason.
const ENTITLEMENT: &str = "Entitlement at Stripe";

/// What is known of some customers after their organizations' rows were derived.
pub(super) struct Projected {
    pub(super) graph: BillingGraph,
    /// What could not be made of objects of Stripe, by their ids.
    pub(super) findings: Findings,
}

/// What could not be made of objects of Stripe, by their ids, for people to read.
pub(super) type Findings = BTreeMap<String, String>;

/// What is known of these customers, and the organizations that they concern, with that of the name `before`. From here on
/// the organizations are locked: whose something is stays as it is until the transaction ends.
pub(super) async fn settle(
    effects: &mut Effects<'_>,
    customers: &BTreeSet<String>,
    before: Option<&str>,
) -> Result<(BillingGraph, BTreeSet<OrganizationId>)> {
    let mut graph = BillingGraph::load(effects.tx, customers).await?;
    let mut names = graph.names();
    names.extend(before.map(str::to_owned));
    let foreign = names.iter().filter(|name| Uuid::try_parse(name).is_err()).cloned();
    mirror::lock(effects.tx, foreign.map(Lock::Organization)).await?;
    graph.resolve(effects.tx, &names).await?;
    // Also organizations whose claim does not count now: this event may have changed that.
    let touched = graph.touched();
    graph.load_rivals(effects.tx).await?;
    mirror::lock(effects.tx, touched.iter().map(|id| Lock::Tenant(id.uuid()))).await?;
    Ok((graph, touched))
}

/// Updates the rows of all organizations that these customers concern, and of the one that was named `before` the
/// event; gives the events about their customers to the organizations that they belong to.
pub(super) async fn project_organizations(
    effects: &mut Effects<'_>,
    customers: &BTreeSet<String>,
    before: Option<&str>,
) -> Result<Projected> {
    let (graph, touched) = settle(effects, customers, before).await?;
    let mut findings = graph.waiting();
    let mut graphs = vec![graph];
    for organization in touched {
        let of_organization = project(effects, organization).await?;
        findings.extend(of_organization.findings);
        graphs.push(of_organization.graph);
    }
    attribution::attribute(effects, &graphs, &findings).await?;
    Ok(Projected { graph: graphs.swap_remove(0), findings })
}

/// Derives the rows of what came before its organization. The caller holds the organization's locks.
pub(crate) async fn project_waiting(
    effects: &mut Effects<'_>,
    clerk_id: &str,
    organization: OrganizationId,
) -> Result<()> {
    if mirror::customers_naming(effects.tx, &[clerk_id.to_owned()]).await?.is_empty() {
        return Ok(());
    }
    let Projected { graph, findings } = project(effects, organization).await?;
    attribution::attribute(effects, &[graph], &findings).await
}

/// The row before the event.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    id: SubscriptionId,
    customer: Option<String>,
    subscription: Option<String>,
    state: Value,
}

fn state(status: SubscriptionStatus, plan: OrganizationPlan, seats: i32) -> Value {
    json!({ "status": status.label(), "plan": plan.label(), "seats": seats })
}

/// Writes the row of an organization from all that is known of its customers. The caller holds the organization's lock.
/// What waits among its customers is found, too.
async fn project(effects: &mut Effects<'_>, organization: OrganizationId) -> Result<Projected> {
    let known = sqlx::query!(
        r#"select o.clerk_org_id, s.id as "id?: SubscriptionId", s.stripe_customer_id as "customer?", s.stripe_subscription_id as "subscription?",
                  s.status as "status?: SubscriptionStatus", s.plan as "plan?: OrganizationPlan", s.seat_count as "seats?",
                  s.grace_ended_for as "grace_ended_for?", to_jsonb(s) - array['updated_at', 'source_version'] as "row?"
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
    let mut customers = mirror::customers_naming(effects.tx, &names).await?;
    customers.extend(before.as_ref().and_then(|row| row.customer.clone()));
    let graph = BillingGraph::known(effects.tx, &customers).await?;

    project_entitlements(effects, organization, &graph).await?;
    let catalogue = catalogue(effects.tx, &graph).await?;
    let settings = effects.settings;
    let mut findings = graph.waiting();
    findings.extend(graph.in_part(organization));
    let mut counts: Vec<(&RemoteObject<mirror::Subscription>, SubscriptionStatus, Bought)> = graph
        .subscriptions_of(organization)
        .map(|s| (s, graph.status(s), plans::bought(s, &catalogue, settings)))
        .collect();
    for (subscription, status, bought) in &counts {
        if let Some(finding) = plans::finding(subscription, *status, bought) {
            findings.insert(subscription.id.clone(), finding);
        }
    }
    counts.sort_by_key(|(s, status, bought)| {
        // Where both modes are followed, what is paid for counts before what is tried out.
        let test = settings.stripe_livemode.is_none() && s.fields.live.get() == Some(false);
        let newest = std::cmp::Reverse((bought.plan, s.fields.created.get(), s.id.clone()));
        (test, plans::precedence(*status), newest)
    });
    let Some((subscription, status, bought)) = counts.into_iter().next() else {
        match before {
            // The subscription belongs to another organization now.
            Some(row) if is_synced(effects.tx, &row).await? => remove(effects, organization, &row).await?,
            _ => {}
        }
        return Ok(Projected { graph, findings });
    };
    let (organization_status, entitled) = plans::effect(status);
    if bought.plan.is_none() && entitled {
        tracing::warn!(%organization, subscription = %subscription.id,
            "no price of the subscription is known to buy a plan: set STRIPE_PRICE_PLANS, a lookup_key or the product's metadata");
    }
    let past_due_since = past_due_since(subscription, status, &bought);
    let is_over = past_due_since.is_some() && known.grace_ended_for == past_due_since;
    let plan = bought.plan.filter(|_| entitled && !is_over).unwrap_or(OrganizationPlan::Free);
    let (id, row) = write(effects, organization, subscription, (status, plan), &bought, past_due_since).await?;
    set_status(effects, organization, organization_status).await?;
    let after = state(status, plan, bought.seats);
    if before.as_ref().map(|row| &row.state) != Some(&after) {
        let metadata = json!({ "before": before.map(|row| row.state), "after": after });
        effects.record(organization, "subscription.sync", ("Subscription", id.uuid()), metadata).await?;
    } else if known.row.as_ref() != Some(&row) {
        // Dates are no news for the audit log.
        events::tell(effects.tx, &[(organization, Event::of(id))]).await?;
    }
    Ok(Projected { graph, findings })
}

/// Since when a payment is overdue: by the time of the events; with a test clock, whose time they do not have, since the period began.
fn past_due_since(
    subscription: &RemoteObject<mirror::Subscription>,
    status: SubscriptionStatus,
    bought: &Bought,
) -> Option<DateTime<Utc>> {
    let since = match subscription.fields.test_clock.text() {
        Some(_) => bought.starts,
        None => subscription.fields.past_due.since(),
    };
    moment_of_seconds(since).filter(|_| status == SubscriptionStatus::PastDue)
}

/// Writes the row; gives its id, and what is in it.
async fn write(
    effects: &mut Effects<'_>,
    organization: OrganizationId,
    subscription: &RemoteObject<mirror::Subscription>,
    (status, plan): (SubscriptionStatus, OrganizationPlan),
    bought: &Bought,
    past_due_since: Option<DateTime<Utc>>,
) -> Result<(SubscriptionId, Value)> {
    let ends = moment_of_seconds(bought.ends);
    let with_period = subscription.fields.cancel_at_period_end.get() == Some(true);
    let cancel_at = subscription.fields.cancel_at.get().flatten();
    // With flexible billing the flag is off and the date is that of the end.
    let ends_with_period = with_period || cancel_at.is_some() && cancel_at == bought.ends;
    let cancel_at = moment_of_seconds(cancel_at).or(ends.filter(|_| with_period));
    let starts = moment_of_seconds(bought.starts).filter(|starts| ends.is_none_or(|ends| *starts <= ends));
    let version =
        subscription.fields.status.version().map_or(0, |at| at.moment.saturating_mul(100) + i64::from(at.rank.min(99)));
    let written = sqlx::query!(
        r#"insert into tenantry.subscriptions as s (organization_id, id, stripe_customer_id, stripe_subscription_id, status, plan, seat_count,
                                      current_period_start, current_period_end, cancel_at_period_end, trial_end, collection_paused, source_version, cancel_at,
                                      past_due_since, test_clock, sells_seats)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
           on conflict (organization_id) do update
              set stripe_customer_id = excluded.stripe_customer_id, stripe_subscription_id = excluded.stripe_subscription_id,
                  status = excluded.status, plan = excluded.plan, seat_count = excluded.seat_count,
                  current_period_start = excluded.current_period_start, current_period_end = excluded.current_period_end,
                  cancel_at_period_end = excluded.cancel_at_period_end, trial_end = excluded.trial_end,
                  collection_paused = excluded.collection_paused, source_version = excluded.source_version,
                  cancel_at = excluded.cancel_at, past_due_since = excluded.past_due_since, test_clock = excluded.test_clock, sells_seats = excluded.sells_seats
        returning id as "id: SubscriptionId", to_jsonb(s) - array['updated_at', 'source_version'] as "row!""#,
        organization as _,
        SubscriptionId::new(effects.clock) as _,
        subscription.fields.customer.text(),
        subscription.id,
        status as _,
        plan as _,
        bought.seats,
        starts,
        ends,
        ends_with_period,
        moment_of_seconds(subscription.fields.trial_end.get()),
        subscription.fields.collection_paused.get().unwrap_or(false),
        version,
        cancel_at,
        past_due_since,
        subscription.fields.test_clock.text(),
        bought.sells_seats
    )
    .fetch_one(effects.tx.conn())
    .await?;
    Ok((written.id, written.row))
}

async fn is_synced(tx: &mut SystemTx, row: &Row) -> Result<bool> {
    let Some(subscription) = &row.subscription else { return Ok(false) };
    Ok(!mirror::load_one::<mirror::Subscription>(tx, subscription).await?.is_blank())
}

async fn remove(effects: &mut Effects<'_>, organization: OrganizationId, row: &Row) -> Result<()> {
    sqlx::query!("delete from tenantry.subscriptions where organization_id = $1", organization as _)
        .execute(effects.tx.conn())
        .await?;
    set_status(effects, organization, OrganizationStatus::Active).await?;
    let metadata = json!({ "before": row.state });
    effects.record(organization, "subscription.remove", ("Subscription", row.id.uuid()), metadata).await
}

async fn set_status(effects: &mut Effects<'_>, organization: OrganizationId, status: OrganizationStatus) -> Result<()> {
    sqlx::query!(
        "update tenantry.organizations set status = $2 where id = $1 and status <> $2",
        organization as _,
        status as _
    )
    .execute(effects.tx.conn())
    .await?;
    Ok(())
}

async fn catalogue(tx: &mut SystemTx, graph: &BillingGraph) -> Result<Catalogue> {
    let items = graph.subscriptions.iter().filter_map(|s| s.fields.items.known()).flatten();
    let (mut prices, mut products) = (BTreeSet::new(), BTreeSet::new());
    for item in items {
        prices.extend(item.price.clone());
        products.extend(item.product.clone());
    }
    let prices = by_id(mirror::load::<mirror::Price>(tx, &prices.into_iter().collect::<Vec<_>>()).await?);
    products.extend(prices.values().filter_map(|price| price.fields.product.text().map(str::to_owned)));
    let products = by_id(mirror::load(tx, &products.into_iter().collect::<Vec<_>>()).await?);
    Ok(Catalogue { prices, products })
}

fn by_id<F>(objects: Vec<RemoteObject<F>>) -> BTreeMap<String, RemoteObject<F>> {
    objects.into_iter().map(|object| (object.id.clone(), object)).collect()
}

/// An active entitlement switches on the feature flag with its key. It takes the place of what administrators set, and of a grant
/// that expires; a grant of an operator that lasts stays.
async fn project_entitlements(
    effects: &mut Effects<'_>,
    organization: OrganizationId,
    graph: &BillingGraph,
) -> Result<()> {
    let own = graph.entitlements.iter().filter(|object| graph.owner(&object.id, None) == Some(organization));
    let keys: BTreeSet<&String> = own.filter_map(|object| object.fields.keys.known()).flatten().collect();
    if graph.entitlements.is_empty() {
        return Ok(());
    }
    let keys: Vec<String> = keys.into_iter().cloned().collect();
    let ids: Vec<Uuid> = keys.iter().map(|key| flags::override_id(organization, key).uuid()).collect();
    let removed = sqlx::query!(
        "delete from tenantry.organization_feature_flags
          where organization_id = $1 and source = 'STRIPE' and not flag_key = any($2) returning id, flag_key",
        organization as _,
        &keys
    )
    .fetch_all(effects.tx.conn())
    .await?;
    let added = sqlx::query!(
        "insert into tenantry.organization_feature_flags as o (organization_id, id, flag_key, source, enabled, exceeds_plan, reason)
         select $1, k.id, d.key, 'STRIPE', true, true, $2
           from unnest($3::uuid[], $4::text[]) as k(id, key) join tenantry.feature_flag_definitions d on d.key = k.key
         on conflict (organization_id, flag_key) do update
            set source = 'STRIPE', enabled = true, variant = null, exceeds_plan = true, expires_at = null, reason = excluded.reason,
                version = o.version + 1
          where o.source = 'ORGANIZATION' or o.source = 'GRANT' and o.expires_at is not null
         returning id, flag_key",
        organization as _,
        ENTITLEMENT,
        &ids,
        &keys
    )
    .fetch_all(effects.tx.conn())
    .await?;
    let removed = removed.iter().map(|row| (row.id, &row.flag_key, "entitlement.end"));
    let added = added.iter().map(|row| (row.id, &row.flag_key, "entitlement.begin"));
    let changed: Vec<_> = removed.chain(added).collect();
    for (id, key, action) in &changed {
        let metadata = json!({ "key": key });
        effects.record(organization, *action, (marker::FeatureFlagOverride::NAME, *id), metadata).await?;
    }
    if !changed.is_empty() {
        let metadata = json!({ "entitlements": keys });
        effects.record(organization, "entitlements.sync", ("Organization", organization.uuid()), metadata).await?;
    }
    Ok(())
}
