//! Compares our subscriptions with Stripe's, and repairs the rows that differ.
//!
//! Events are applied meanwhile. So a row is repaired from an answer of that moment, and never when an event of that
//! moment or a later one is known: nobody can tell which of the two is newer.
//!
//! Stripe's answer is merged like an event and the row is derived as always, so there is only one way to make a row.
//! What cannot be repaired from here is only reported: a subscription that Stripe does not have is more likely from
//! another account than cancelled.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::gate::Fetched;
use super::{merge, translate};
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::id::{Id, OrganizationId};
use crate::stripe::StripeClient;
use crate::sync::apply::{EventOutcome, SyncSettings};
use crate::sync::effects::Effects;
use crate::sync::mirror::{self, Lock};
use crate::sync::payload::{id, text};

/// Changes of so many seconds ago may still be on their way as events, which then decide.
const UNDER_WAY: i64 = 60;

/// The result of the comparison.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DriftReport {
    /// Subscriptions at Stripe.
    pub at_stripe: usize,
    /// Subscriptions whose row agrees.
    pub agree: usize,
    /// Rows that differ.
    pub differ: Vec<Difference>,
    /// Subscriptions that changed during the comparison: their events are on the way or have just come.
    pub under_way: usize,
    /// Subscriptions that name no organization.
    pub of_nobody: Vec<Stray>,
    /// Rows whose subscription Stripe does not have.
    pub not_at_stripe: Vec<Stray>,
    /// How many rows were repaired.
    pub fixed: usize,
}

impl DriftReport {
    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.fixed == self.differ.len() && self.of_nobody.is_empty() && self.not_at_stripe.is_empty()
    }
}

/// A row that differs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The subscription at Stripe.
    pub subscription: String,
    /// The organization's slug.
    pub organization: String,
    /// The fields that differ: the value here, and at Stripe.
    pub fields: Map<String, Value>,
}

/// A subscription that exists on one side only.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stray {
    /// The subscription at Stripe.
    pub subscription: String,
    pub customer: Option<String>,
    pub status: Option<String>,
    /// The organization's slug, when it has a row.
    pub organization: Option<String>,
}

/// The comparison.
#[derive(Clone, Copy)]
pub struct Reconciliation<'a> {
    /// The database.
    pub db: &'a Db,
    /// The time.
    pub clock: &'a Clock,
    pub settings: &'a SyncSettings,
    pub stripe: &'a StripeClient,
    /// Whether nothing is repaired.
    pub dry_run: bool,
}

impl Reconciliation<'_> {
    /// Compares all subscriptions, or those of an organization's customers, and repairs the rows that differ.
    /// `progress` receives how many were compared.
    ///
    /// # Errors
    /// Stripe or the database could not be asked. Repairs until then stay.
    pub async fn run(&self, only: Option<OrganizationId>, progress: impl Fn(usize)) -> Result<DriftReport> {
        let (mut report, mut seen) = (DriftReport::default(), BTreeSet::new());
        let customers: Vec<Option<String>> = match only {
            None => vec![None],
            Some(organization) => customers(self.db, organization).await?.into_iter().map(Some).collect(),
        };
        for customer in customers {
            let mut next = None;
            loop {
                let asked_at = self.clock.now();
                let page = self.stripe.subscriptions(customer.as_deref(), next).await?;
                for mut object in page.objects {
                    let Some(subscription) = id(&object["id"]) else { continue };
                    if object["items"]["has_more"] == true
                        && let Some(whole) = self.stripe.subscription(&subscription).await?
                    {
                        object = whole;
                    }
                    self.compare(&subscription, &Fetched { object, asked_at }, &mut report).await?;
                    seen.insert(subscription);
                    progress(report.at_stripe);
                }
                next = page.next;
                if next.is_none() {
                    break;
                }
            }
        }
        report.differ.sort_by(|a, b| (&a.organization, &a.subscription).cmp(&(&b.organization, &b.subscription)));
        let mut tx = SystemTx::begin(self.db).await?;
        for (subscription, customer, status, slug) in living(&mut tx, only).await? {
            if !seen.contains(&subscription) {
                let (status, organization) = (Some(status), Some(slug));
                report.not_at_stripe.push(Stray { subscription, customer, status, organization });
            }
        }
        tx.commit().await?;
        Ok(report)
    }

    async fn compare(&self, subscription: &str, listed: &Fetched, report: &mut DriftReport) -> Result<()> {
        report.at_stripe += 1;
        match self.difference(subscription, listed).await? {
            Drift::OfNobody => report.of_nobody.push(Stray {
                subscription: subscription.to_owned(),
                customer: id(&listed.object["customer"]),
                status: text(&listed.object["status"], 50),
                organization: None,
            }),
            Drift::None => report.agree += 1,
            Drift::UnderWay => report.under_way += 1,
            Drift::Some(difference) if self.dry_run => report.differ.push(difference),
            // The list may be as old as its page.
            Drift::Some(difference) => match self.mend(subscription).await? {
                Mended::Yes => {
                    report.fixed += 1;
                    report.differ.push(difference);
                }
                Mended::No => report.differ.push(difference),
                Mended::UnderWay => report.under_way += 1,
            },
        }
        Ok(())
    }

    /// Compares the row with what Stripe's answer would make of it, and changes nothing.
    async fn difference(&self, subscription: &str, answer: &Fetched) -> Result<Drift> {
        let mut trial = SystemTx::begin(self.db).await?;
        let applied = self.apply(&mut trial, subscription, answer).await?;
        let Some(organization) = applied.organization else { return Ok(Drift::OfNobody) };
        let (_, wanted) = state(&mut trial, organization).await?;
        trial.rollback().await?;
        let mut tx = SystemTx::begin(self.db).await?;
        let (slug, found) = state(&mut tx, organization).await?;
        let mut fields = Map::new();
        for (name, value) in &wanted {
            let here = found.get(name).unwrap_or(&Value::Null);
            if here != value {
                fields.insert(name.clone(), json!({ "here": here, "stripe": value }));
            }
        }
        Ok(if fields.is_empty() {
            Drift::None
        } else if applied.outrun {
            Drift::UnderWay
        } else {
            Drift::Some(Difference { subscription: subscription.to_owned(), organization: slug, fields })
        })
    }

    /// Repairs the row from a new answer of Stripe.
    async fn mend(&self, subscription: &str) -> Result<Mended> {
        let asked_at = self.clock.now();
        let Some(object) = self.stripe.subscription(subscription).await? else { return Ok(Mended::No) };
        let mut tx = SystemTx::begin(self.db).await?;
        let applied = self.apply(&mut tx, subscription, &Fetched { object, asked_at }).await?;
        if applied.outrun {
            tx.rollback().await?;
            return Ok(Mended::UnderWay);
        }
        tx.commit().await?;
        Ok(if applied.organization.is_some() { Mended::Yes } else { Mended::No })
    }

    /// Merges Stripe's answer.
    async fn apply(&self, tx: &mut SystemTx, subscription: &str, answer: &Fetched) -> Result<Applied> {
        let asked = answer.asked_at.timestamp();
        // Lock before the version is read, so that no event comes between that and the merge.
        let locks = [Some(subscription.to_owned()), id(&answer.object["customer"])];
        mirror::lock(tx, locks.into_iter().flatten().map(Lock::Object)).await?;
        let known = mirror::load_one::<mirror::Subscription>(tx, subscription).await?;
        let outrun = known.version() >= asked;
        let change = translate::fetched(subscription.to_owned(), known.version().max(asked - UNDER_WAY), answer);
        let mut effects = Effects { tx, clock: self.clock, settings: self.settings, cause: "reconcile".to_owned() };
        Ok(match merge(&mut effects, known, &[change]).await? {
            EventOutcome::Applied { organization, .. } | EventOutcome::Ignored { organization, .. } => {
                Applied { organization, outrun }
            }
            EventOutcome::Refetch(_) | EventOutcome::More => Applied { organization: None, outrun },
        })
    }
}

/// The result of one comparison.
enum Drift {
    None,
    Some(Difference),
    OfNobody,
    UnderWay,
}

/// The result of one repair.
enum Mended {
    Yes,
    /// It is gone from Stripe, or names no organization.
    No,
    UnderWay,
}

/// The result of one merge.
struct Applied {
    organization: Option<OrganizationId>,
    /// An event of the second of the request, or a later one, is known.
    outrun: bool,
}

/// The customers that name an organization.
async fn customers(db: &Db, organization: OrganizationId) -> Result<BTreeSet<String>> {
    let mut tx = SystemTx::begin(db).await?;
    let row = sqlx::query!(
        r#"select o.clerk_org_id, s.stripe_customer_id as "customer?"
             from tenantry.organizations o left join tenantry.subscriptions s on s.organization_id = o.id where o.id = $1"#,
        organization as _
    )
    .fetch_one(tx.conn())
    .await?;
    let names: Vec<String> = row.clerk_org_id.into_iter().chain([organization.uuid().to_string()]).collect();
    let mut customers = mirror::customers_naming(&mut tx, &names).await?;
    customers.extend(row.customer);
    Ok(customers)
}

/// The slug of an organization, and the row of its subscription.
async fn state(tx: &mut SystemTx, organization: OrganizationId) -> Result<(String, Map<String, Value>)> {
    let row = sqlx::query!(
        r#"select o.slug, jsonb_build_object(
                  'customer', s.stripe_customer_id, 'subscription', s.stripe_subscription_id, 'status', s.status,
                  'plan', s.plan, 'seats', s.seat_count, 'periodStart', s.current_period_start,
                  'periodEnd', s.current_period_end, 'cancelAtPeriodEnd', s.cancel_at_period_end, 'cancelAt', s.cancel_at,
                  'trialEnd', s.trial_end, 'collectionPaused', s.collection_paused, 'organizationStatus', o.status) as "state!"
             from tenantry.organizations o left join tenantry.subscriptions s on s.organization_id = o.id
            where o.id = $1"#,
        organization as _
    )
    .fetch_one(tx.conn())
    .await?;
    let Value::Object(state) = row.state else { return Ok((row.slug, Map::new())) };
    Ok((row.slug, state))
}

/// Rows of living subscriptions, which Stripe should have, too.
async fn living(
    tx: &mut SystemTx,
    only: Option<OrganizationId>,
) -> Result<Vec<(String, Option<String>, String, String)>> {
    let rows = sqlx::query!(
        r#"select s.stripe_subscription_id as "subscription!", s.stripe_customer_id, s.status::text as "status!", o.slug
             from tenantry.subscriptions s join tenantry.organizations o on o.id = s.organization_id
            where s.stripe_subscription_id is not null and s.status not in ('CANCELED', 'INCOMPLETE_EXPIRED')
              and ($1::uuid is null or o.id = $1)
            order by 1"#,
        only.map(Id::uuid)
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| (row.subscription, row.stripe_customer_id, row.status, row.slug)).collect())
}
