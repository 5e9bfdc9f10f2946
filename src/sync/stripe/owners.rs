//! Decides which organization a subscription belongs to.
//!
//! The first of these that names an existing organization decides: the metadata of the subscription or of its checkout;
//! the metadata of its customer; the `client_reference_id` of its checkout; what everything else of the customer names,
//! if that is one organization; and if nothing names any, the row that already has the customer.
//!
//! Only the secret key can write metadata. A buyer can write a `client_reference_id` (into the address of a payment
//! link, into a pricing table), so it is an uncertain claim: it does not count while another customer of the
//! organization has a living subscription, by metadata or by an older claim.
//!
//! All of this follows from the mirror, not from the order of events.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::billing::{SubscriptionStatus, lives};
use crate::db::SystemTx;
use crate::error::Result;
use crate::id::OrganizationId;
use crate::sync::mirror::{self, Checkout, Customer, Entitlements, Kind, RemoteObject, Subscription};
use crate::sync::stripe::billing::Findings;

/// Where an object names its organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the metadata, which only the secret key can write.
    Metadata,
    /// In the reference, which a buyer may have written.
    Reference,
}

/// What may name an organization.
trait NamesOrganization {
    fn name(&self, place: Place) -> Option<&str>;
}

impl NamesOrganization for RemoteObject<Customer> {
    fn name(&self, place: Place) -> Option<&str> {
        self.fields.organization.text().filter(|_| place == Place::Metadata)
    }
}

impl NamesOrganization for RemoteObject<Subscription> {
    fn name(&self, place: Place) -> Option<&str> {
        self.fields.organization.text().filter(|_| place == Place::Metadata)
    }
}

impl NamesOrganization for RemoteObject<Checkout> {
    fn name(&self, place: Place) -> Option<&str> {
        match place {
            Place::Metadata => self.fields.organization.text(),
            Place::Reference => self.fields.reference.text(),
        }
    }
}

/// Everything known of some customers, and of their rivals: other customers for whom the same organizations are
/// claimed.
#[derive(Default)]
pub(super) struct BillingGraph {
    customers: BTreeMap<String, RemoteObject<Customer>>,
    pub(super) subscriptions: Vec<RemoteObject<Subscription>>,
    checkouts: Vec<RemoteObject<Checkout>>,
    pub(super) entitlements: Vec<RemoteObject<Entitlements>>,
    /// Organizations by the names that are used for them.
    organizations: BTreeMap<String, OrganizationId>,
    /// Organizations by the customer of their row.
    rows: BTreeMap<String, OrganizationId>,
    /// The customers of rows whose subscription lives.
    incumbents: BTreeMap<OrganizationId, String>,
}

/// A claim that something belongs to an organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    organization: OrganizationId,
    /// Made with the secret key, or by the row; otherwise a buyer may have made it.
    certain: bool,
}

impl BillingGraph {
    /// What is known of these customers, with the organizations and the rivals.
    pub(super) async fn known(tx: &mut SystemTx, customers: &BTreeSet<String>) -> Result<Self> {
        let mut graph = Self::load(tx, customers).await?;
        let names = graph.names();
        graph.resolve(tx, &names).await?;
        graph.load_rivals(tx).await?;
        Ok(graph)
    }

    /// What is known of these customers.
    pub(super) async fn load(tx: &mut SystemTx, customers: &BTreeSet<String>) -> Result<Self> {
        let mut graph = Self::default();
        graph.add(tx, customers).await?;
        Ok(graph)
    }

    async fn add(&mut self, tx: &mut SystemTx, customers: &BTreeSet<String>) -> Result<()> {
        let ids: Vec<String> = customers.iter().filter(|id| !self.customers.contains_key(*id)).cloned().collect();
        // Other fields hold ids, too: an object may be known already, or be of a customer that is not asked for.
        let wanted = |customer: Option<&str>| customer.is_some_and(|customer| ids.iter().any(|id| id == customer));
        let kinds = [Kind::Subscription, Kind::Checkout, Kind::Entitlements];
        for stored in mirror::stored_naming(tx, &kinds, &ids).await? {
            match stored.kind {
                Kind::Subscription => {
                    let object = stored.read::<Subscription>()?;
                    self.subscriptions.extend(wanted(object.fields.customer.text()).then_some(object));
                }
                Kind::Checkout => {
                    let object = stored.read::<Checkout>()?;
                    self.checkouts.extend(wanted(object.fields.customer.text()).then_some(object));
                }
                _ => {
                    let object = stored.read::<Entitlements>()?;
                    self.entitlements.extend(wanted(object.fields.customer.text()).then_some(object));
                }
            }
        }
        for customer in mirror::load::<Customer>(tx, &ids).await? {
            self.customers.insert(customer.id.clone(), customer);
        }
        // The newest first.
        self.checkouts.sort_by_key(|object| Reverse((object.fields.created.get(), object.id.clone())));
        self.subscriptions.sort_by_key(|object| Reverse((object.fields.created.get(), object.id.clone())));
        Ok(())
    }

    /// The names of organizations in these objects.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let customers = self.customers.values().filter_map(|object| object.name(Place::Metadata));
        let subscriptions = self.subscriptions.iter().filter_map(|object| object.name(Place::Metadata));
        let checkouts = self.checkouts.iter();
        let checkouts = checkouts.flat_map(|object| [object.name(Place::Metadata), object.name(Place::Reference)]);
        customers.chain(subscriptions).chain(checkouts.flatten()).map(str::to_owned).collect()
    }

    /// Finds the organizations with these names. The lock of a name guards whether its organization exists.
    pub(super) async fn resolve(&mut self, tx: &mut SystemTx, names: &BTreeSet<String>) -> Result<()> {
        let names: Vec<String> = names.iter().cloned().collect();
        let ids: Vec<Uuid> = names.iter().filter_map(|name| Uuid::try_parse(name).ok()).collect();
        let customers: Vec<String> = self.customers.keys().cloned().collect();
        let rows = sqlx::query!(
            r#"select o.id as "id: OrganizationId", o.clerk_org_id, s.stripe_customer_id as "customer?",
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

    /// Loads the other customers of the organizations that buyers may have named.
    pub(super) async fn load_rivals(&mut self, tx: &mut SystemTx) -> Result<()> {
        let claimed: BTreeSet<OrganizationId> = self
            .checkouts
            .iter()
            .filter_map(|checkout| self.organizations.get(checkout.name(Place::Reference)?).copied())
            .collect();
        if claimed.is_empty() {
            return Ok(());
        }
        let names = self.organizations.iter().filter(|(_, organization)| claimed.contains(organization));
        let names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
        let mut rivals = mirror::customers_naming(tx, &names).await?;
        rivals.extend(claimed.iter().filter_map(|organization| self.incumbents.get(organization).cloned()));
        self.add(tx, &rivals).await?;
        let names = self.names();
        self.resolve(tx, &names).await
    }

    /// The organizations that are named, and those whose row has one of the customers.
    pub(super) fn touched(&self) -> BTreeSet<OrganizationId> {
        self.organizations.values().chain(self.rows.values()).copied().collect()
    }

    /// The organization of a subscription of a customer; without a subscription, of the customer.
    pub(super) fn owner(&self, customer: &str, subscription: Option<&str>) -> Option<OrganizationId> {
        let claim = self.claim_of(customer, subscription)?;
        let counts = claim.certain || !self.is_taken(customer, claim.organization);
        counts.then_some(claim.organization)
    }

    /// What waits for an organization, by id: subscriptions and checkouts that belong to none so far.
    pub(super) fn waiting(&self) -> Findings {
        let mut waiting = Findings::new();
        let mut add = |id: &str, customer: Option<&str>, subscription: Option<&str>, name: Option<&str>| {
            let Some(customer) = customer.filter(|customer| self.owner(customer, subscription).is_none()) else {
                return;
            };
            let finding = match name.or_else(|| self.customers.get(customer)?.name(Place::Metadata)) {
                Some(name) if !self.organizations.contains_key(name) => {
                    format!("waits for its organization {name}, which is not known yet")
                }
                Some(_) => "its customer is of several organizations, or another customer of its organization pays".to_owned(),
                None => "waits: nothing names its organization; put `organization_id` into the metadata of the subscription, of the checkout or of the customer".to_owned(),
            };
            waiting.insert(id.to_owned(), finding);
        };
        for object in &self.subscriptions {
            add(&object.id, object.fields.customer.text(), Some(&object.id), object.name(Place::Metadata));
        }
        for object in &self.checkouts {
            let name = object.name(Place::Metadata).or_else(|| object.name(Place::Reference));
            add(&object.id, object.fields.customer.text(), object.fields.subscription.text(), name);
        }
        waiting
    }

    /// Customers of the organization whose entitlements are known in part only.
    pub(super) fn in_part(&self, organization: OrganizationId) -> Findings {
        let own = self.entitlements.iter().filter(|object| object.fields.in_part.get() == Some(true));
        own.filter(|object| self.owner(&object.id, None) == Some(organization))
            .map(|object| (object.id.clone(), "its event listed a part of the entitlements only, and Stripe was not asked for the rest: what was known before counts".to_owned()))
            .collect()
    }

    /// Every object of every customer with the organization that it belongs to.
    pub(super) fn belongings(&self) -> BTreeMap<&str, BTreeMap<&str, Option<OrganizationId>>> {
        let mut all: BTreeMap<&str, BTreeMap<&str, Option<OrganizationId>>> = BTreeMap::new();
        for customer in self.customers.keys() {
            all.entry(customer).or_default().insert(customer, self.owner(customer, None));
        }
        let subscriptions =
            self.subscriptions.iter().map(|s| (s.fields.customer.text(), s.id.as_str(), Some(s.id.as_str())));
        let checkouts =
            self.checkouts.iter().map(|c| (c.fields.customer.text(), c.id.as_str(), c.fields.subscription.text()));
        for (customer, id, subscription) in subscriptions.chain(checkouts) {
            let Some(customer) = customer else { continue };
            all.entry(customer).or_default().insert(id, self.owner(customer, subscription));
        }
        all
    }

    pub(super) fn subscriptions_of(
        &self,
        organization: OrganizationId,
    ) -> impl Iterator<Item = &RemoteObject<Subscription>> {
        self.subscriptions.iter().filter(move |subscription| {
            let customer = subscription.fields.customer.text().unwrap_or_default();
            self.owner(customer, Some(&subscription.id)) == Some(organization)
        })
    }

    pub(super) fn status(&self, subscription: &RemoteObject<Subscription>) -> SubscriptionStatus {
        let status = subscription.fields.status.text().and_then(SubscriptionStatus::from_label);
        let customer = subscription.fields.customer.text().and_then(|id| self.customers.get(id));
        let over = subscription.deleted || customer.is_some_and(|customer| customer.deleted);
        match status {
            Some(SubscriptionStatus::IncompleteExpired) => SubscriptionStatus::IncompleteExpired,
            _ if over => SubscriptionStatus::Canceled,
            Some(status) => status,
            None => SubscriptionStatus::Incomplete,
        }
    }

    fn claim_in(&self, object: &impl NamesOrganization, place: Place) -> Option<Claim> {
        let organization = self.organizations.get(object.name(place)?).copied()?;
        Some(Claim { organization, certain: place == Place::Metadata })
    }

    /// The claim to a subscription of a customer; without one, to the customer.
    fn claim_of(&self, customer: &str, subscription: Option<&str>) -> Option<Claim> {
        let own = |place| self.own_claim(subscription?, place);
        own(Place::Metadata)
            .or_else(|| self.claim_in(self.customers.get(customer)?, Place::Metadata))
            .or_else(|| own(Place::Reference))
            .or_else(|| self.claim_around(customer))
    }

    /// The claim that a subscription makes itself, or a checkout of it.
    fn own_claim(&self, subscription: &str, place: Place) -> Option<Claim> {
        let mut itself = self.subscriptions.iter().filter(|object| object.id == subscription);
        let of_it = |checkout: &&RemoteObject<Checkout>| checkout.fields.subscription.text() == Some(subscription);
        let mut checkouts = self.checkouts.iter().filter(of_it);
        itself
            .find_map(|object| self.claim_in(object, place))
            .or_else(|| checkouts.find_map(|checkout| self.claim_in(checkout, place)))
    }

    /// The claim that the subscriptions and checkouts of a customer make, the living ones first. If they name several
    /// organizations there is none: who sees what must not be guessed.
    fn claim_around(&self, customer: &str) -> Option<Claim> {
        let subscriptions = || self.subscriptions.iter().filter(|s| s.fields.customer.text() == Some(customer));
        let checkouts = || self.checkouts.iter().filter(|c| c.fields.customer.text() == Some(customer));
        let precise = |subscription: &RemoteObject<Subscription>| {
            self.own_claim(&subscription.id, Place::Metadata)
                .or_else(|| self.own_claim(&subscription.id, Place::Reference))
        };
        let mut claims: BTreeSet<Claim> =
            subscriptions().filter(|s| lives(self.status(s))).filter_map(precise).collect();
        if claims.is_empty() {
            let of_subscriptions = subscriptions().filter_map(|object| self.claim_in(object, Place::Metadata));
            let of_checkouts = checkouts().filter_map(|object| {
                self.claim_in(object, Place::Metadata).or_else(|| self.claim_in(object, Place::Reference))
            });
            claims = of_subscriptions.chain(of_checkouts).collect();
        }
        if claims.is_empty() {
            let is_named = subscriptions().any(|object| object.name(Place::Metadata).is_some())
                || checkouts().any(|c| c.name(Place::Metadata).or_else(|| c.name(Place::Reference)).is_some())
                || self.customers.get(customer).is_some_and(|object| object.name(Place::Metadata).is_some());
            let organization = *self.rows.get(customer).filter(|_| !is_named)?;
            return Some(Claim { organization, certain: true });
        }
        // The certain claim of an organization is greater than an uncertain one.
        let last = *claims.last()?;
        claims.iter().all(|claim| claim.organization == last.organization).then_some(last)
    }

    /// Whether an uncertain claim of this customer fails, because the organization has another customer.
    fn is_taken(&self, customer: &str, organization: OrganizationId) -> bool {
        let (certain, mine) = self.living(customer, organization);
        if certain {
            return false;
        }
        // A row from elsewhere counts by itself: no event of its subscription was ever received.
        let unheard =
            |incumbent: &String| !self.subscriptions.iter().any(|s| s.fields.customer.text() == Some(incumbent));
        self.incumbents.get(&organization).is_some_and(|incumbent| incumbent != customer && unheard(incumbent))
            || self.customers.keys().filter(|rival| *rival != customer).any(|rival| {
                let (certain, theirs) = self.living(rival, organization);
                certain || theirs.is_some_and(|theirs| mine.is_none_or(|mine| theirs < mine))
            })
    }

    /// Of a customer's living subscriptions for an organization: whether one is certain, and the oldest.
    fn living(&self, customer: &str, organization: OrganizationId) -> (bool, Option<(i64, &str)>) {
        let of_customer = self.subscriptions.iter().filter(|s| s.fields.customer.text() == Some(customer));
        let mut found = (false, None);
        for subscription in of_customer.filter(|subscription| lives(self.status(subscription))) {
            let claim = self.claim_of(customer, Some(&subscription.id));
            let Some(claim) = claim.filter(|claim| claim.organization == organization) else { continue };
            let age = (subscription.fields.created.get().unwrap_or(i64::MAX), subscription.id.as_str());
            found = (found.0 || claim.certain, Some(found.1.map_or(age, |oldest| age.min(oldest))));
        }
        found
    }
}
