//! Whose a subscription is.
//!
//! The first of these says so that names an organization which exists: its own metadata, or those of the checkout it is
//! from; the metadata of its customer; the `client_reference_id` of its checkout; what is said of everything else of the
//! customer, if that is one organization; and where nothing is said, the row that already has the customer.
//!
//! Metadata are written with the secret key only. A `client_reference_id` can be written by the buyer (into the address
//! of a payment link, into a pricing table), so it is a claim: it does not count while another customer of the
//! organization has a living subscription, by metadata or by an older claim.
//!
//! All of this follows from what is known, and not from the order in which it became known.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::billing::SubscriptionStatus;
use crate::db::SystemTx;
use crate::error::Result;
use crate::id::Id;
use crate::organizations::Organization;
use crate::webhooks::facts::{self, Kind, Object};

/// The field of what only the secret key can write.
const METADATA: &str = "organization";
/// The field of what a buyer may have written.
const REFERENCE: &str = "reference";

/// Everything known of some customers, and of those that compete with them.
#[derive(Default)]
pub(super) struct Cluster {
    customers: BTreeMap<String, Object>,
    pub(super) subscriptions: Vec<Object>,
    checkouts: Vec<Object>,
    pub(super) entitlements: Vec<Object>,
    /// Organizations by the names that are used for them.
    organizations: BTreeMap<String, Id<Organization>>,
    /// Organizations by the customer of their row.
    rows: BTreeMap<String, Id<Organization>>,
    /// The customers of rows whose subscription lives.
    incumbents: BTreeMap<Id<Organization>, String>,
}

/// What is said of whose something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Statement {
    organization: Id<Organization>,
    /// By the secret key, or by the row; else by the buyer, perhaps.
    certain: bool,
}

impl Cluster {
    /// What is known of these customers and of whose they are.
    pub(super) async fn known(tx: &mut SystemTx, customers: &BTreeSet<String>) -> Result<Self> {
        let mut cluster = Self::load(tx, customers).await?;
        let names = cluster.names();
        cluster.resolve(tx, &names).await?;
        cluster.compete(tx).await?;
        Ok(cluster)
    }

    /// What is known of these customers.
    pub(super) async fn load(tx: &mut SystemTx, customers: &BTreeSet<String>) -> Result<Self> {
        let mut cluster = Self::default();
        cluster.add(tx, customers).await?;
        Ok(cluster)
    }

    async fn add(&mut self, tx: &mut SystemTx, customers: &BTreeSet<String>) -> Result<()> {
        let ids: Vec<String> = customers.iter().filter(|id| !self.customers.contains_key(*id)).cloned().collect();
        for (kind, object) in facts::naming(tx, &[Kind::Subscription, Kind::Checkout, Kind::Entitlements], &ids).await?
        {
            // Other fields hold names, too: it may be known already, or be of a customer that is not asked for.
            if !object.text("customer").is_some_and(|customer| ids.iter().any(|id| id == customer)) {
                continue;
            }
            match kind {
                Kind::Subscription => self.subscriptions.push(object),
                Kind::Checkout => self.checkouts.push(object),
                _ => self.entitlements.push(object),
            }
        }
        for customer in facts::load(tx, Kind::Customer, &ids).await? {
            self.customers.insert(customer.id.clone(), customer);
        }
        // The newest first.
        let created = |object: &Object| Reverse((object.number("created"), object.id.clone()));
        self.checkouts.sort_by_key(created);
        self.subscriptions.sort_by_key(created);
        Ok(())
    }

    /// How organizations are called here.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let objects = self.customers.values().chain(&self.subscriptions).chain(&self.checkouts);
        objects
            .flat_map(|object| [object.text(METADATA), object.text(REFERENCE)])
            .flatten()
            .map(str::to_owned)
            .collect()
    }

    /// Finds the organizations that are named. Whether one exists is guarded by the lock of its name.
    pub(super) async fn resolve(&mut self, tx: &mut SystemTx, names: &BTreeSet<String>) -> Result<()> {
        let names: Vec<String> = names.iter().cloned().collect();
        let ids: Vec<Uuid> = names.iter().filter_map(|name| Uuid::try_parse(name).ok()).collect();
        let customers: Vec<String> = self.customers.keys().cloned().collect();
        let rows = sqlx::query!(
            r#"select o.id as "id: Id<Organization>", o.clerk_org_id, s.stripe_customer_id as "customer?",
                      s.status as "status?: SubscriptionStatus"
                 from tenantry.organizations o left join tenantry.subscriptions s on s.organization_id = o.id
                where o.id = any($1) or o.clerk_org_id = any($2) or s.stripe_customer_id = any($3)
                order by o.id"#,
            &ids,
            &names,
            &customers
        )
        .fetch_all(tx.conn())
        .await?;
        for row in rows {
            self.organizations.insert(row.id.uuid().to_string(), row.id);
            self.organizations.extend(row.clerk_org_id.map(|name| (name, row.id)));
            if let Some(customer) = row.customer {
                if row.status.is_some_and(lives) {
                    self.incumbents.insert(row.id, customer.clone());
                }
                self.rows.entry(customer).or_insert(row.id);
            }
        }
        Ok(())
    }

    /// Adds the other customers of the organizations that buyers may have named.
    pub(super) async fn compete(&mut self, tx: &mut SystemTx) -> Result<()> {
        let claimed: BTreeSet<Id<Organization>> = self
            .checkouts
            .iter()
            .filter_map(|checkout| self.organizations.get(checkout.text(REFERENCE)?).copied())
            .collect();
        if claimed.is_empty() {
            return Ok(());
        }
        let names = self.organizations.iter().filter(|(_, organization)| claimed.contains(organization));
        let names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
        let kinds = [Kind::Customer, Kind::Subscription, Kind::Checkout];
        let mut rivals: BTreeSet<String> =
            claimed.iter().filter_map(|organization| self.incumbents.get(organization).cloned()).collect();
        for (kind, object) in facts::naming(tx, &kinds, &names).await? {
            rivals.extend(match kind {
                Kind::Customer => Some(object.id),
                _ => object.text("customer").map(str::to_owned),
            });
        }
        self.add(tx, &rivals).await?;
        let names = self.names();
        self.resolve(tx, &names).await
    }

    /// The organizations that are named, and those whose rows have one of the customers.
    pub(super) fn touched(&self) -> BTreeSet<Id<Organization>> {
        self.organizations.values().chain(self.rows.values()).copied().collect()
    }

    /// Whose a subscription of a customer is, by its id; without one, whose the customer is.
    pub(super) fn owner(&self, customer: &str, subscription: Option<&str>) -> Option<Id<Organization>> {
        let said = self.said(customer, subscription)?;
        let counts = said.certain || !self.is_taken(customer, said.organization);
        counts.then_some(said.organization)
    }

    pub(super) fn subscriptions_of(&self, organization: Id<Organization>) -> impl Iterator<Item = &Object> {
        self.subscriptions.iter().filter(move |subscription| {
            let customer = subscription.text("customer").unwrap_or_default();
            self.owner(customer, Some(&subscription.id)) == Some(organization)
        })
    }

    pub(super) fn status(&self, subscription: &Object) -> SubscriptionStatus {
        let status = subscription.text("status").and_then(SubscriptionStatus::from_label);
        let customer = subscription.text("customer").and_then(|id| self.customers.get(id));
        let over = subscription.deleted || customer.is_some_and(|customer| customer.deleted);
        match status {
            Some(SubscriptionStatus::IncompleteExpired) => SubscriptionStatus::IncompleteExpired,
            _ if over => SubscriptionStatus::Canceled,
            Some(status) => status,
            None => SubscriptionStatus::Incomplete,
        }
    }

    fn named(&self, object: &Object, field: &str) -> Option<Statement> {
        let organization = self.organizations.get(object.text(field)?).copied()?;
        Some(Statement { organization, certain: field == METADATA })
    }

    fn said(&self, customer: &str, subscription: Option<&str>) -> Option<Statement> {
        let own = |field| self.said_of(subscription?, field);
        own(METADATA)
            .or_else(|| self.named(self.customers.get(customer)?, METADATA))
            .or_else(|| own(REFERENCE))
            .or_else(|| self.said_around(customer))
    }

    /// What a subscription says itself, or a checkout of it.
    fn said_of(&self, subscription: &str, field: &str) -> Option<Statement> {
        let itself = self.subscriptions.iter().filter(|object| object.id == subscription);
        let checkouts = self.checkouts.iter().filter(|checkout| checkout.text("subscription") == Some(subscription));
        itself.chain(checkouts).find_map(|object| self.named(object, field))
    }

    /// What is said of the subscriptions and checkouts of a customer, of those that live first. Of several organizations
    /// it is none: it must not be guessed who sees what.
    fn said_around(&self, customer: &str) -> Option<Statement> {
        let of_customer = |object: &&Object| object.text("customer") == Some(customer);
        let subscriptions = || self.subscriptions.iter().filter(of_customer);
        let checkouts = || self.checkouts.iter().filter(of_customer);
        let precise = |subscription: &Object| {
            self.said_of(&subscription.id, METADATA).or_else(|| self.said_of(&subscription.id, REFERENCE))
        };
        let either = |object| self.named(object, METADATA).or_else(|| self.named(object, REFERENCE));
        let mut said: BTreeSet<Statement> =
            subscriptions().filter(|s| lives(self.status(s))).filter_map(precise).collect();
        if said.is_empty() {
            said = subscriptions().chain(checkouts()).filter_map(either).collect();
        }
        if said.is_empty() {
            let is_named = |object: &Object| object.text(METADATA).or_else(|| object.text(REFERENCE)).is_some();
            let silent = !subscriptions().chain(checkouts()).chain(self.customers.get(customer)).any(is_named);
            let organization = *self.rows.get(customer).filter(|_| silent)?;
            return Some(Statement { organization, certain: true });
        }
        // The certain one of the same organization is the last.
        let last = *said.last()?;
        said.iter().all(|statement| statement.organization == last.organization).then_some(last)
    }

    /// Whether a claim of this customer does not count, because the organization has another.
    fn is_taken(&self, customer: &str, organization: Id<Organization>) -> bool {
        let (certain, mine) = self.living(customer, organization);
        if certain {
            return false;
        }
        // Of a row from elsewhere, whose subscription was never heard of, there is nothing but the row.
        let unheard = |incumbent: &String| !self.subscriptions.iter().any(|s| s.text("customer") == Some(incumbent));
        self.incumbents.get(&organization).is_some_and(|incumbent| incumbent != customer && unheard(incumbent))
            || self.customers.keys().filter(|rival| *rival != customer).any(|rival| {
                let (certain, theirs) = self.living(rival, organization);
                certain || theirs.is_some_and(|theirs| mine.is_none_or(|mine| theirs < mine))
            })
    }

    /// Of the living subscriptions that a customer has for an organization: whether one is certain, and the oldest.
    fn living(&self, customer: &str, organization: Id<Organization>) -> (bool, Option<(i64, &str)>) {
        let of_customer = self.subscriptions.iter().filter(|s| s.text("customer") == Some(customer));
        let mut found = (false, None);
        for subscription in of_customer.filter(|subscription| lives(self.status(subscription))) {
            let said = self.said(customer, Some(&subscription.id)).filter(|said| said.organization == organization);
            let Some(said) = said else { continue };
            let age = (subscription.number("created").unwrap_or(i64::MAX), subscription.id.as_str());
            found = (found.0 || said.certain, Some(found.1.map_or(age, |oldest| age.min(oldest))));
        }
        found
    }
}

/// Whether a subscription of this status is one that its organization has.
fn lives(status: SubscriptionStatus) -> bool {
    use SubscriptionStatus::{Active, PastDue, Paused, Trialing, Unpaid};
    matches!(status, Active | Trialing | PastDue | Unpaid | Paused)
}

/// Whose a subscription of a customer is; without one, whose the customer is.
pub(super) async fn owner(
    tx: &mut SystemTx,
    customer: &str,
    subscription: Option<&str>,
) -> Result<Option<Id<Organization>>> {
    let cluster = Cluster::known(tx, &BTreeSet::from([customer.to_owned()])).await?;
    Ok(cluster.owner(customer, subscription))
}
