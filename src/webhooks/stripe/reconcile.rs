//! Holds our subscriptions against Stripe's, and mends what differs.
//!
//! What Stripe says of a subscription is merged as if an event had said it, and the row is derived as always; so there
//! is no second way in which a row could come about. What cannot be mended from here is reported only: a subscription
//! that Stripe does not have is more likely another account's than one to be cancelled.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::client::StripeClient;
use super::{merge, translate};
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::id::Id;
use crate::organizations::Organization;
use crate::webhooks::apply::{Outcome, SyncSettings};
use crate::webhooks::effects::Effects;
use crate::webhooks::facts::{self, Kind};
use crate::webhooks::payload::{id, text};

/// What happened within so many seconds may still be on its way to us, and is for its event to decide.
const UNDER_WAY: i64 = 60;

/// What was found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Subscriptions at Stripe.
    pub at_stripe: usize,
    /// Those whose row is as it should be.
    pub agree: usize,
    /// Rows that are not as they should be.
    pub differ: Vec<Difference>,
    /// Subscriptions of which nothing says whose they are.
    pub of_nobody: Vec<Stray>,
    /// Rows whose subscription Stripe does not have.
    pub not_at_stripe: Vec<Stray>,
    /// How many rows were mended.
    pub fixed: usize,
}

impl Report {
    /// Whether nothing is left to be done.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.fixed == self.differ.len() && self.of_nobody.is_empty() && self.not_at_stripe.is_empty()
    }
}

/// A row that is not as it should be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The subscription at Stripe.
    pub subscription: String,
    /// The organization's slug.
    pub organization: String,
    /// Field → what it is here, and what it should be.
    pub fields: Map<String, Value>,
}

/// A subscription without its other half.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stray {
    /// The subscription at Stripe.
    pub subscription: String,
    /// Its customer.
    pub customer: Option<String>,
    /// Its status.
    pub status: Option<String>,
    /// The organization's slug, when it has a row.
    pub organization: Option<String>,
}

/// Compares all subscriptions; with `fix`, mends the rows that differ.
///
/// # Errors
/// Stripe or the database could not be asked. What was mended until then stays so.
pub async fn reconcile(
    db: &Db,
    clock: &Clock,
    settings: &SyncSettings,
    stripe: &StripeClient,
    fix: bool,
) -> Result<Report> {
    let (mut report, mut seen) = (Report::default(), BTreeSet::new());
    let mut next = None;
    loop {
        let page = stripe.subscriptions(next).await?;
        for object in page.objects {
            let Some(subscription) = id(&object["id"]) else { continue };
            compare(db, clock, settings, &subscription, &object, fix, &mut report).await?;
            seen.insert(subscription);
        }
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    let mut tx = SystemTx::begin(db).await?;
    for (subscription, customer, status, slug) in living(&mut tx).await? {
        if !seen.contains(&subscription) {
            report.not_at_stripe.push(Stray { subscription, customer, status: Some(status), organization: Some(slug) });
        }
    }
    tx.commit().await?;
    Ok(report)
}

async fn compare(
    db: &Db,
    clock: &Clock,
    settings: &SyncSettings,
    subscription: &str,
    object: &Value,
    fix: bool,
    report: &mut Report,
) -> Result<()> {
    report.at_stripe += 1;
    // First as it should be, which is taken back; then as it is.
    let mut trial = SystemTx::begin(db).await?;
    let organization = apply(&mut trial, clock, settings, subscription, object).await?;
    let Some(organization) = organization else {
        drop(trial);
        report.of_nobody.push(Stray {
            subscription: subscription.to_owned(),
            customer: id(&object["customer"]),
            status: text(&object["status"], 50),
            organization: None,
        });
        return Ok(());
    };
    let (_, wanted) = state(&mut trial, organization).await?;
    drop(trial);
    let mut tx = SystemTx::begin(db).await?;
    let (slug, found) = state(&mut tx, organization).await?;
    let mut fields = Map::new();
    for (name, value) in &wanted {
        let here = found.get(name).unwrap_or(&Value::Null);
        if here != value {
            fields.insert(name.clone(), json!({ "here": here, "stripe": value }));
        }
    }
    if fields.is_empty() {
        report.agree += 1;
        return Ok(());
    }
    report.differ.push(Difference { subscription: subscription.to_owned(), organization: slug, fields });
    if fix {
        apply(&mut tx, clock, settings, subscription, object).await?;
        tx.commit().await?;
        report.fixed += 1;
    }
    Ok(())
}

/// Merges what Stripe says; answers whose subscription it is.
async fn apply(
    tx: &mut SystemTx,
    clock: &Clock,
    settings: &SyncSettings,
    subscription: &str,
    object: &Value,
) -> Result<Option<Id<Organization>>> {
    let now = clock.now();
    let known = facts::load_one(tx, Kind::Subscription, subscription).await?;
    let version = known.version().max(now.timestamp() - UNDER_WAY);
    // Sorts after the ids of events, and after what an earlier run said.
    let name = format!("reconcile {:020}", now.timestamp_millis());
    let change = translate::fetched(subscription.to_owned(), version, name, object);
    let mut effects = Effects { tx, clock, settings, cause: "reconcile".to_owned() };
    Ok(match merge(&mut effects, &change, false).await? {
        Outcome::Applied { organization } | Outcome::Ignored { organization, .. } => organization,
        Outcome::Refetch { .. } | Outcome::More => None,
    })
}

/// The slug of an organization, and what is derived from its subscription.
async fn state(tx: &mut SystemTx, organization: Id<Organization>) -> Result<(String, Map<String, Value>)> {
    let row = sqlx::query!(
        r#"select o.slug, jsonb_build_object(
                  'customer', s.stripe_customer_id, 'subscription', s.stripe_subscription_id, 'status', s.status,
                  'plan', s.plan, 'seats', s.seat_count, 'periodStart', s.current_period_start,
                  'periodEnd', s.current_period_end, 'cancelAtPeriodEnd', s.cancel_at_period_end,
                  'trialEnd', s.trial_end, 'collectionPaused', s.collection_paused, 'organizationStatus', o.status) as "state!"
             from organizations o left join subscriptions s on s.organization_id = o.id
            where o.id = $1"#,
        organization as _
    )
    .fetch_one(tx.conn())
    .await?;
    let Value::Object(state) = row.state else { return Ok((row.slug, Map::new())) };
    Ok((row.slug, state))
}

/// Rows of subscriptions that are not over: at Stripe, too, they should be.
async fn living(tx: &mut SystemTx) -> Result<Vec<(String, Option<String>, String, String)>> {
    let rows = sqlx::query!(
        r#"select s.stripe_subscription_id as "subscription!", s.stripe_customer_id, s.status::text as "status!", o.slug
             from subscriptions s join organizations o on o.id = s.organization_id
            where s.stripe_subscription_id is not null and s.status not in ('CANCELED', 'INCOMPLETE_EXPIRED')
            order by 1"#
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| (row.subscription, row.stripe_customer_id, row.status, row.slug)).collect())
}
