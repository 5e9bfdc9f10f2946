//! Events of Stripe: customers, subscriptions, what they buy, and whose they are.
//!
//! Invariants: the organization's plan and status follow its subscription by one table ([`EFFECTS`]); a subscription
//! waits until some event names its organization, whichever event that is; what cannot be mapped is a finding of its
//! events, and takes nothing away that was known.

mod attribution;
mod billing;
pub mod gaps;
pub mod gate;
mod owners;
mod plans;
pub mod reconcile;
mod refunds;
mod ties;
mod translate;

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::Value;

pub use plans::EFFECTS;

use crate::db::SystemTx;
use crate::error::Result;
use crate::stripe::StripeObject;
use crate::sync::apply::{ApplyContext, EventOutcome, InboxEvent, STALE};
use crate::sync::effects::Effects;
use crate::sync::mirror::{self, Fields, Kind, Latest, Lock, Merged, RemoteChange, RemoteObject};
use ties::Sequence;
use translate::{Event, Statement};

pub(crate) use billing::project_waiting;

/// What is at hand while an event is applied.
struct Given<'a> {
    context: &'a ApplyContext<'a>,
    event: Event<'a>,
    received_at: DateTime<Utc>,
}

/// Applies an event. The locks are taken in the order of [`Lock`], each before what it guards is read.
pub(crate) async fn apply(
    tx: &mut SystemTx,
    context: &ApplyContext<'_>,
    event: &InboxEvent,
    payload: &Value,
) -> Result<EventOutcome> {
    let said = Event { kind: &event.event_type, id: &event.event_id, payload, place: None };
    let statement = match translate::translate(said, context.fetched) {
        Ok(statement) => statement,
        Err(reason) => return Ok(EventOutcome::ignored(reason)),
    };
    let mut effects = Effects { tx, clock: context.clock, settings: context.settings, cause: event.event_id.clone() };
    let given = Given { context, event: said, received_at: event.received_at };
    match statement {
        Statement::Customer(change) => of_customer(&mut effects, &given, change).await,
        Statement::Subscription(change) => of_customer(&mut effects, &given, *change).await,
        Statement::Checkout(change) => of_customer(&mut effects, &given, change).await,
        Statement::Entitlements(change) => of_customer(&mut effects, &given, change).await,
        Statement::Product(change) => of_sold(&mut effects, &given, change).await,
        Statement::Price(change) => of_sold(&mut effects, &given, change).await,
        Statement::Invoice(change) => attribution::invoice(&mut effects, &change).await,
        Statement::Refunds(refunded) => refunds::apply(&mut effects, &given, &refunded).await,
    }
}

/// Why an event has no effect, judged by the event alone.
pub(crate) fn why_not(event_type: &str, payload: &Value) -> Option<&'static str> {
    let event = Event { kind: event_type, id: "", payload, place: None };
    translate::translate(event, None).err()
}

/// What Stripe can be asked for.
trait Asked: Fields {
    /// The change of this kind in a statement.
    fn change(statement: Statement) -> Option<RemoteChange<Self>>;

    /// How Stripe is asked for the object with this id.
    fn remote(id: &str) -> StripeObject;

    /// Whether an event listed a part only of what the object holds.
    fn in_part(&self) -> bool {
        false
    }
}

macro_rules! asked {
    ($($kind:ident $(, $in_part:ident)?;)*) => {
        $(impl Asked for mirror::$kind {
            fn change(statement: Statement) -> Option<RemoteChange<Self>> {
                let Statement::$kind(change) = statement else { return None };
                Some(change.into())
            }

            fn remote(id: &str) -> StripeObject {
                StripeObject::$kind(id.to_owned())
            }

            $(fn in_part(&self) -> bool {
                self.$in_part.get() == Some(true)
            })?
        })*
    };
}

asked! {
    Customer;
    Subscription, in_part;
    Checkout;
    Product;
    Price;
    Entitlements, in_part;
}

impl<F> From<Box<Self>> for RemoteChange<F> {
    fn from(boxed: Box<Self>) -> Self {
        *boxed
    }
}

impl Given<'_> {
    /// What is merged, in order: Stripe's answer; or the change with those of its second. `None`: Stripe must be asked,
    /// because the event lists a part only, or others are of its second, and neither was answered since it came.
    async fn changes<F: Asked>(
        &self,
        effects: &mut Effects<'_>,
        known: &RemoteObject<F>,
        change: RemoteChange<F>,
    ) -> Result<Option<Vec<RemoteChange<F>>>> {
        if self.context.fetched.is_some() {
            return Ok(Some(vec![change]));
        }
        let sequence = Sequence::of(effects.tx, effects.settings, self.event).await?;
        if self.context.can_refetch && !known.deleted && !change.deleted {
            let newest = known.fields.versions().filter(|version| version.authority > 0).max();
            let moment = change.at.moment;
            let answered = newest.is_some_and(|version| {
                let asked_at = translate::asked_at(version);
                version.moment >= moment && asked_at.is_some_and(|at| at >= self.received_at.timestamp_millis())
            });
            let others = newest.is_some_and(|version| version.moment == moment && version.event != change.at.event);
            let is_newest = newest.is_none_or(|version| version.moment <= moment);
            if !answered && is_newest && (others || sequence.has_others() || change.fields.in_part()) {
                return Ok(None);
            }
        }
        Ok(Some(sequence.events().filter_map(|event| F::change(translate::translate(event, None).ok()?)).collect()))
    }
}

/// What is about a customer.
trait OfCustomer: Asked {
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

/// Applies an event about something of a customer.
async fn of_customer<F: OfCustomer>(
    effects: &mut Effects<'_>,
    given: &Given<'_>,
    change: RemoteChange<F>,
) -> Result<EventOutcome> {
    lock_for(effects, &change).await?;
    let known = mirror::load_one::<F>(effects.tx, &change.id).await?;
    match given.changes(effects, &known, change).await? {
        Some(changes) => merge(effects, known, &changes).await,
        None => Ok(EventOutcome::Refetch(F::remote(&known.id))),
    }
}

/// Locks what an event about something of a customer changes.
async fn lock_for<F: OfCustomer>(effects: &mut Effects<'_>, change: &RemoteChange<F>) -> Result<()> {
    let mut alone = BTreeSet::from([change.id.clone()]);
    alone.extend(change.fields.customer(&change.id).map(str::to_owned));
    alone.extend(change.fields.subscription(&change.id).map(str::to_owned));
    // All subscriptions name the same few prices: their events must not wait for one another.
    let shared: Vec<Lock> = change.fields.catalogue().iter().cloned().map(Lock::Object).collect();
    mirror::lock_with(effects.tx, alone.into_iter().map(Lock::Object), shared).await
}

/// Merges what is said of something of a customer, and derives the rows of the organizations concerned. The caller holds
/// its locks.
async fn merge<F: OfCustomer>(
    effects: &mut Effects<'_>,
    mut object: RemoteObject<F>,
    changes: &[RemoteChange<F>],
) -> Result<EventOutcome> {
    let before = object.fields.organization().map(str::to_owned);
    let merged = mirror::merge_all(effects.tx, &mut object, changes).await?;
    let Some(customer) = object.fields.customer(&object.id) else {
        return Ok(if merged == Merged::Stale { EventOutcome::ignored(STALE) } else { EventOutcome::applied(None) });
    };
    let subscription = object.fields.subscription(&object.id);
    let customers = BTreeSet::from([customer.to_owned()]);
    if merged == Merged::Stale {
        let (graph, _) = billing::settle(effects, &customers, None).await?;
        return Ok(EventOutcome::Ignored { reason: STALE, organization: graph.owner(customer, subscription) });
    }
    let mut known = billing::project_organizations(effects, &customers, before.as_deref()).await?;
    let organization = known.graph.owner(customer, subscription);
    // A customer has the id of its entitlements.
    let finding = known.findings.remove(&object.id).filter(|_| F::KIND != Kind::Customer);
    Ok(EventOutcome::Applied { organization, finding })
}

/// What customers subscribe to.
trait Sold: Asked {
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

/// Applies an event about a product or a price, and derives the rows of those who subscribe to it, some customers at a
/// time; the event is applied again until none is left. It belongs to no organization: it is about what all of them buy.
async fn of_sold<F: Sold>(
    effects: &mut Effects<'_>,
    given: &Given<'_>,
    change: RemoteChange<F>,
) -> Result<EventOutcome> {
    mirror::lock(effects.tx, [Lock::Object(change.id.clone())]).await?;
    let mut object = mirror::load_one::<F>(effects.tx, &change.id).await?;
    let Some(changes) = given.changes(effects, &object, change).await? else {
        return Ok(EventOutcome::Refetch(F::remote(&object.id)));
    };
    let merged = mirror::merge_all(effects.tx, &mut object, &changes).await?;
    let reached = match (merged, object.fields.reached().text()) {
        (Merged::New, _) => String::new(),
        // Also when it is older than the change that is being applied: that goes on.
        (Merged::Same | Merged::Stale, Some(reached)) => reached.to_owned(),
        // Plans and seats are what they were.
        (Merged::Same, None) => return Ok(EventOutcome::applied(None)),
        (Merged::Stale, None) => return Ok(EventOutcome::ignored(STALE)),
    };
    let mut names = vec![object.id.clone()];
    if F::KIND == Kind::Product {
        let prices = mirror::naming::<mirror::Price>(effects.tx, &names).await?;
        names.extend(prices.into_iter().map(|price| price.id));
    }
    let customers = mirror::customers_of(effects.tx, &names, &reached, AT_ONCE).await?;
    let more = customers.last().filter(|_| customers.len() == AT_ONCE).cloned();
    billing::project_organizations(effects, &customers.into_iter().collect(), None).await?;
    let outcome = if more.is_some() { EventOutcome::More } else { EventOutcome::applied(None) };
    *object.fields.reached() = Latest::note(more);
    mirror::keep(effects.tx, &object).await?;
    Ok(outcome)
}
