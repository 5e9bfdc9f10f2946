//! Holds our subscriptions against Stripe's, and mends what differs.
//!
//! Events go on meanwhile. So what is mended is mended from an answer of that moment, and never when something is known
//! from that moment or after it: which of the two is newer, nobody can tell.
//!
//! What Stripe says of a subscription is merged as if an event had said it, and the row is derived as always; so there
//! is no second way in which a row could come about. What cannot be mended from here is reported only: a subscription
//! that Stripe does not have is more likely another account's than one to be cancelled.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::asking::Fetched;
use super::client::StripeClient;
use super::{merge, translate};
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::id::Id;
use crate::organizations::Organization;
use crate::webhooks::apply::{Outcome, SyncSettings};
use crate::webhooks::effects::Effects;
use crate::webhooks::facts::{self, Kind, Lock};
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
    /// Those that changed while this looked at them: their events are on the way, or have just come.
    pub under_way: usize,
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

/// What is compared, and with what.
#[derive(Clone, Copy)]
pub struct Reconciliation<'a> {
    /// The database.
    pub db: &'a Db,
    /// The time.
    pub clock: &'a Clock,
    /// The settings.
    pub settings: &'a SyncSettings,
    /// Stripe.
    pub stripe: &'a StripeClient,
    /// Whether rows that differ are left as they are.
    pub dry_run: bool,
}

/// The organization with this slug, or this id: ours or Clerk's.
///
/// # Errors
/// The database could not be asked.
pub async fn find_organization(db: &Db, name: &str) -> Result<Option<Id<Organization>>> {
    let ours = Id::<Organization>::parse(name).map(Id::uuid).or_else(|_| Uuid::try_parse(name)).ok();
    let mut tx = SystemTx::begin(db).await?;
    Ok(sqlx::query_scalar!(
        r#"select id as "id: Id<Organization>" from tenantry.organizations
            where id = $1 or slug = $2 or clerk_org_id = $2 order by slug <> $2 limit 1"#,
        ours,
        name
    )
    .fetch_optional(tx.conn())
    .await?)
}

impl Reconciliation<'_> {
    /// Compares all subscriptions, or those of an organization's customers, and mends the rows that differ. `progress`
    /// hears how many were compared.
    ///
    /// # Errors
    /// Stripe or the database could not be asked. What was mended until then stays so.
    pub async fn run(&self, only: Option<Id<Organization>>, progress: impl Fn(usize)) -> Result<Report> {
        let (mut report, mut seen) = (Report::default(), BTreeSet::new());
        let customers: Vec<Option<String>> = match only {
            None => vec![None],
            Some(organization) => customers(self.db, organization).await?.into_iter().map(Some).collect(),
        };
        for customer in customers {
            let mut next = None;
            loop {
                let asked_at = self.clock.now();
                let page = self.stripe.subscriptions(customer.as_deref(), next).await?;
                for object in page.objects {
                    let Some(subscription) = id(&object["id"]) else { continue };
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

    async fn compare(&self, subscription: &str, listed: &Fetched, report: &mut Report) -> Result<()> {
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
            // The list may be as old as a page of it takes.
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

    /// Compares the row as it is with the row as it should be, and changes nothing.
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

    /// Mends the row from what Stripe says now.
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

    /// Merges what Stripe said.
    async fn apply(&self, tx: &mut SystemTx, subscription: &str, answer: &Fetched) -> Result<Applied> {
        let asked = answer.asked_at.timestamp();
        // Before the version is read, so that no event comes between that and the merge.
        let locks = [Some(subscription.to_owned()), id(&answer.object["customer"])];
        facts::lock(tx, locks.into_iter().flatten().map(Lock::Object)).await?;
        let known = facts::load_one(tx, Kind::Subscription, subscription).await?;
        let outrun = known.version() >= asked;
        let change = translate::fetched(subscription.to_owned(), known.version().max(asked - UNDER_WAY), answer);
        let mut effects = Effects { tx, clock: self.clock, settings: self.settings, cause: "reconcile".to_owned() };
        Ok(match merge(&mut effects, &change, false).await? {
            Outcome::Applied { organization } | Outcome::Ignored { organization, .. } => {
                Applied { organization, outrun }
            }
            Outcome::Refetch { .. } | Outcome::More => Applied { organization: None, outrun },
        })
    }
}

/// What comparing led to.
enum Drift {
    None,
    Some(Difference),
    OfNobody,
    UnderWay,
}

/// What mending led to.
enum Mended {
    Yes,
    /// It is not Stripe's any more, or nobody's.
    No,
    UnderWay,
}

/// What merging led to.
struct Applied {
    organization: Option<Id<Organization>>,
    /// Something is known from the second of the question, or from after it.
    outrun: bool,
}

/// The customers of an organization, as far as anything said so.
async fn customers(db: &Db, organization: Id<Organization>) -> Result<BTreeSet<String>> {
    let mut tx = SystemTx::begin(db).await?;
    let row = sqlx::query!(
        r#"select o.clerk_org_id, s.stripe_customer_id as "customer?"
             from tenantry.organizations o left join tenantry.subscriptions s on s.organization_id = o.id where o.id = $1"#,
        organization as _
    )
    .fetch_one(tx.conn())
    .await?;
    let names: Vec<String> = row.clerk_org_id.into_iter().chain([organization.uuid().to_string()]).collect();
    let objects = facts::naming(&mut tx, &[Kind::Customer, Kind::Subscription, Kind::Checkout], &names).await?;
    let of_objects = objects.into_iter().filter_map(|(kind, object)| match kind {
        Kind::Customer => Some(object.id),
        _ => object.text("customer").map(str::to_owned),
    });
    Ok(row.customer.into_iter().chain(of_objects).collect())
}

/// The slug of an organization, and what is derived from its subscription.
async fn state(tx: &mut SystemTx, organization: Id<Organization>) -> Result<(String, Map<String, Value>)> {
    let row = sqlx::query!(
        r#"select o.slug, jsonb_build_object(
                  'customer', s.stripe_customer_id, 'subscription', s.stripe_subscription_id, 'status', s.status,
                  'plan', s.plan, 'seats', s.seat_count, 'periodStart', s.current_period_start,
                  'periodEnd', s.current_period_end, 'cancelAtPeriodEnd', s.cancel_at_period_end,
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

/// Rows of subscriptions that are not over: at Stripe, too, they should be.
async fn living(
    tx: &mut SystemTx,
    only: Option<Id<Organization>>,
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
