//! Events of Stripe: customers, subscriptions, what they buy, and whose they are.
//!
//! Invariants: the organization's plan and status follow its subscription by one table ([`EFFECTS`]); a subscription
//! waits until some event names its organization, whichever event that is.

mod billing;
pub mod client;
pub mod gaps;
pub mod gate;
mod owners;
mod plans;
pub mod reconcile;
mod translate;

use std::collections::BTreeSet;

use serde_json::Value;

pub use plans::EFFECTS;

use crate::db::SystemTx;
use crate::error::Result;
use crate::sync::apply::{ApplyContext, EventOutcome, InboxEvent, STALE};
use crate::sync::effects::Effects;
use crate::sync::mirror::{self, Fields, Kind, Latest, Lock, Merged, RemoteChange, RemoteObject};
use translate::Statement;

pub(crate) use billing::project_waiting;

/// Applies an event. The locks are taken in the order of [`Lock`], each before what it guards is read.
pub(crate) async fn apply(
    tx: &mut SystemTx,
    context: &ApplyContext<'_>,
    event: &InboxEvent,
    payload: &Value,
) -> Result<EventOutcome> {
    let statement = match translate::translate(&event.event_type, &event.event_id, payload, context.fetched) {
        Ok(statement) => statement,
        Err(reason) => return Ok(EventOutcome::ignored(reason)),
    };
    let mut effects = Effects { tx, clock: context.clock, settings: context.settings, cause: event.event_id.clone() };
    match statement {
        Statement::Customer(change) => merge(&mut effects, &change, false).await,
        Statement::Subscription(change) => {
            merge(&mut effects, &change, context.can_refetch && context.fetched.is_none()).await
        }
        Statement::Checkout(change) => merge(&mut effects, &change, false).await,
        Statement::Entitlements(change) => merge(&mut effects, &change, false).await,
        Statement::Product(change) => merge_sold(&mut effects, &change).await,
        Statement::Price(change) => merge_sold(&mut effects, &change).await,
        Statement::Invoice { customer, subscription, metadata } => {
            let named = subscription.iter().chain([&customer]).cloned();
            mirror::lock(effects.tx, named.map(Lock::Object)).await?;
            let Some(organization) = owners::owner(effects.tx, &customer, subscription.as_deref()).await? else {
                return Ok(EventOutcome::ignored("of a customer whose organization is not known"));
            };
            effects
                .record(organization, event.event_type.clone(), ("Organization", organization.uuid()), metadata)
                .await?;
            Ok(EventOutcome::Applied { organization: Some(organization) })
        }
    }
}

/// Why an event has no effect, judged by the event alone.
pub(crate) fn why_not(event_type: &str, payload: &Value) -> Option<&'static str> {
    translate::translate(event_type, "", payload, None).err()
}

/// What is about a customer.
trait OfCustomer: Fields {
    /// The customer of an object with this id.
    fn customer<'a>(&'a self, id: &'a str) -> Option<&'a str>;

    /// The subscription of an object with this id.
    fn subscription<'a>(&'a self, _id: &'a str) -> Option<&'a str> {
        None
    }

    /// The name of the organization in its metadata.
    fn organization(&self) -> Option<&str>;

    /// The prices and products that it names.
    fn catalogue(&self) -> &[String] {
        &[]
    }

    /// Whether another event of the same second was applied: Stripe counts in seconds, and orders nothing within one.
    fn is_tie(_known: &RemoteObject<Self>, _change: &RemoteChange<Self>) -> bool {
        false
    }
}

impl OfCustomer for mirror::Customer {
    fn customer<'a>(&'a self, id: &'a str) -> Option<&'a str> {
        Some(id)
    }

    fn organization(&self) -> Option<&str> {
        self.organization.text()
    }
}

impl OfCustomer for mirror::Subscription {
    fn customer<'a>(&'a self, _id: &'a str) -> Option<&'a str> {
        self.customer.text()
    }

    fn subscription<'a>(&'a self, id: &'a str) -> Option<&'a str> {
        Some(id)
    }

    fn organization(&self) -> Option<&str> {
        self.organization.text()
    }

    fn catalogue(&self) -> &[String] {
        self.catalogue.known().map_or(&[], Vec::as_slice)
    }

    fn is_tie(object: &RemoteObject<Self>, change: &RemoteChange<Self>) -> bool {
        let tied = object
            .fields
            .status
            .version()
            .is_some_and(|known| known.moment == change.at.moment && known.event != change.at.event);
        tied && !object.deleted && !change.deleted
    }
}

impl OfCustomer for mirror::Checkout {
    fn customer<'a>(&'a self, _id: &'a str) -> Option<&'a str> {
        self.customer.text()
    }

    fn subscription<'a>(&'a self, _id: &'a str) -> Option<&'a str> {
        self.subscription.text()
    }

    fn organization(&self) -> Option<&str> {
        self.organization.text()
    }
}

impl OfCustomer for mirror::Entitlements {
    fn customer<'a>(&'a self, _id: &'a str) -> Option<&'a str> {
        self.customer.text()
    }

    fn organization(&self) -> Option<&str> {
        None
    }
}

/// Merges what an event says of something of a customer, and derives the rows of the organizations concerned.
async fn merge<F: OfCustomer>(
    effects: &mut Effects<'_>,
    change: &RemoteChange<F>,
    can_refetch: bool,
) -> Result<EventOutcome> {
    let mut alone = BTreeSet::from([change.id.clone()]);
    alone.extend(change.fields.customer(&change.id).map(str::to_owned));
    alone.extend(change.fields.subscription(&change.id).map(str::to_owned));
    // All subscriptions name the same few prices: their events must not wait for one another.
    let shared: Vec<Lock> = change.fields.catalogue().iter().cloned().map(Lock::Object).collect();
    mirror::lock_with(effects.tx, alone.into_iter().map(Lock::Object), shared).await?;

    let mut object = mirror::load_one::<F>(effects.tx, &change.id).await?;
    if can_refetch && F::is_tie(&object, change) {
        return Ok(EventOutcome::Refetch { object_id: change.id.clone() });
    }
    let before = object.fields.organization().map(str::to_owned);
    let merged = mirror::merge(effects.tx, &mut object, change).await?;
    let Some(customer) = object.fields.customer(&object.id) else {
        return Ok(if merged == Merged::Stale {
            EventOutcome::ignored(STALE)
        } else {
            EventOutcome::Applied { organization: None }
        });
    };
    let subscription = object.fields.subscription(&object.id);
    if merged == Merged::Stale {
        let organization = owners::owner(effects.tx, customer, subscription).await?;
        return Ok(EventOutcome::Ignored { reason: STALE, organization });
    }
    let known =
        billing::project_organizations(effects, &BTreeSet::from([customer.to_owned()]), before.as_deref()).await?;
    Ok(EventOutcome::Applied { organization: known.owner(customer, subscription) })
}

/// What customers subscribe to.
trait Sold: Fields {
    /// Up to which customer the last change has been applied.
    fn reached(&mut self) -> &mut Latest<String>;
}

impl Sold for mirror::Product {
    fn reached(&mut self) -> &mut Latest<String> {
        &mut self.reached
    }
}

impl Sold for mirror::Price {
    fn reached(&mut self) -> &mut Latest<String> {
        &mut self.reached
    }
}

/// How many customers one transaction handles when a product or a price changes.
const AT_ONCE: usize = 100;

/// Merges what an event says of a product or a price, and derives the rows of those who subscribe to it, some customers
/// at a time; the event is applied again until none is left. It belongs to no organization: it is about what all of
/// them buy.
async fn merge_sold<F: Sold>(effects: &mut Effects<'_>, change: &RemoteChange<F>) -> Result<EventOutcome> {
    mirror::lock(effects.tx, [Lock::Object(change.id.clone())]).await?;
    let mut object = mirror::load_one::<F>(effects.tx, &change.id).await?;
    let merged = mirror::merge(effects.tx, &mut object, change).await?;
    let reached = match (merged, object.fields.reached().text()) {
        (Merged::New, _) => String::new(),
        (Merged::Same, Some(reached)) => reached.to_owned(),
        // Plans and seats are what they were.
        (Merged::Same, None) => return Ok(EventOutcome::Applied { organization: None }),
        (Merged::Stale, _) => return Ok(EventOutcome::ignored(STALE)),
    };
    let mut names = vec![object.id.clone()];
    if F::KIND == Kind::Product {
        let prices = mirror::naming::<mirror::Price>(effects.tx, &names).await?;
        names.extend(prices.into_iter().map(|price| price.id));
    }
    let customers = mirror::customers_of(effects.tx, &names, &reached, AT_ONCE).await?;
    let more = customers.last().filter(|_| customers.len() == AT_ONCE).cloned();
    billing::project_organizations(effects, &customers.into_iter().collect(), None).await?;
    let outcome = if more.is_some() { EventOutcome::More } else { EventOutcome::Applied { organization: None } };
    *object.fields.reached() = Latest::note(more);
    mirror::keep(effects.tx, &object).await?;
    Ok(outcome)
}
