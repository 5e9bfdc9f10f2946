//! Events of Stripe: customers, subscriptions, what they buy, and whose they are.
//!
//! Invariants: the organization's plan and status follow its subscription by one table ([`EFFECTS`]); a subscription
//! that comes before anything says whose it is waits, and finds its organization whichever event names it.

pub mod asking;
mod billing;
pub mod client;
pub mod gaps;
mod owners;
mod plans;
pub mod reconcile;
mod translate;

use std::collections::BTreeSet;

use serde_json::Value;

pub use plans::EFFECTS;

use crate::db::SystemTx;
use crate::error::Result;
use crate::sync::apply::{ApplyContext, InboxEvent, Outcome, STALE};
use crate::sync::effects::Effects;
use crate::sync::facts::{self, Change, Kind, Lock, Merged, Object};
use translate::Said;

pub(crate) use billing::settle_in;

/// Applies an event. The locks are taken in the order of [`Lock`], each before what it guards is read.
pub(crate) async fn apply(
    tx: &mut SystemTx,
    context: &ApplyContext<'_>,
    event: &InboxEvent,
    payload: &Value,
) -> Result<Outcome> {
    let said = match translate::translate(&event.event_type, &event.event_id, payload, context.fetched) {
        Ok(said) => said,
        Err(reason) => return Ok(Outcome::ignored(reason)),
    };
    let mut effects = Effects { tx, clock: context.clock, settings: context.settings, cause: event.event_id.clone() };
    match said {
        Said::Of(change) => merge(&mut effects, &change, context.can_refetch && context.fetched.is_none()).await,
        Said::Invoice { customer, subscription, metadata } => {
            let named = subscription.iter().chain([&customer]).cloned();
            facts::lock(effects.tx, named.map(Lock::Object)).await?;
            let Some(organization) = owners::owner(effects.tx, &customer, subscription.as_deref()).await? else {
                return Ok(Outcome::ignored("of a customer whose organization is not known"));
            };
            effects.record(organization, &event.event_type, ("Organization", organization.uuid()), metadata).await?;
            Ok(Outcome::Applied { organization: Some(organization) })
        }
    }
}

/// Why an event has no effect, as far as the event itself tells.
pub(crate) fn why_not(event_type: &str, payload: &Value) -> Option<&'static str> {
    translate::translate(event_type, "", payload, None).err()
}

async fn merge(effects: &mut Effects<'_>, change: &Change, can_refetch: bool) -> Result<Outcome> {
    let field = |name: &str| change.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value);
    let names = |name: &str| field(name).and_then(Value::as_str).map(str::to_owned);
    let mut alone = BTreeSet::from([change.id.clone()]);
    alone.extend(["customer", "subscription"].into_iter().filter_map(names));
    // All subscriptions name the same few prices: their events must not wait for one another.
    let shared = field("catalogue").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let shared: Vec<Lock> = shared.map(|id| Lock::Object(id.to_owned())).collect();
    facts::lock_with(effects.tx, alone.into_iter().map(Lock::Object), shared).await?;

    let mut object = facts::load_one(effects.tx, change.kind, &change.id).await?;
    if can_refetch && change.kind == Kind::Subscription && is_tie(&object, change) {
        return Ok(Outcome::Refetch { object_id: change.id.clone() });
    }
    let before = object.text("organization").map(str::to_owned);
    let merged = facts::merge(effects.tx, &mut object, change).await?;
    if matches!(change.kind, Kind::Product | Kind::Price) {
        return sell(effects, change.kind, &mut object, merged).await;
    }
    let customer = if change.kind == Kind::Customer { Some(object.id.as_str()) } else { object.text("customer") };
    let subscription = match change.kind {
        Kind::Subscription => Some(object.id.as_str()),
        _ => object.text("subscription"),
    };
    let Some(customer) = customer else {
        return Ok(if merged == Merged::Stale {
            Outcome::ignored(STALE)
        } else {
            Outcome::Applied { organization: None }
        });
    };
    if merged == Merged::Stale {
        let organization = owners::owner(effects.tx, customer, subscription).await?;
        return Ok(Outcome::Ignored { reason: STALE, organization });
    }
    let known = billing::settle(effects, &BTreeSet::from([customer.to_owned()]), before.as_deref()).await?;
    Ok(Outcome::Applied { organization: known.owner(customer, subscription) })
}

/// How many customers' organizations are brought up to date in one transaction when a product or price changes.
const AT_ONCE: usize = 100;
/// The field of a product or price that says up to which customer its last change was brought to them.
const REACHED: &str = "reached";

/// Brings a change of a product or price to all who subscribe to it, some at a time; the event is worked on again until
/// none is left. It belongs to no organization: it is about what all of them buy.
async fn sell(effects: &mut Effects<'_>, kind: Kind, object: &mut Object, merged: Merged) -> Result<Outcome> {
    let reached = match (merged, object.text(REACHED)) {
        (Merged::New, _) => String::new(),
        (Merged::Same, Some(reached)) => reached.to_owned(),
        // Nobody's plan or seats are others than they were.
        (Merged::Same, None) => return Ok(Outcome::Applied { organization: None }),
        (Merged::Stale, _) => return Ok(Outcome::ignored(STALE)),
    };
    let mut names = vec![object.id.clone()];
    if kind == Kind::Product {
        let prices = facts::naming(effects.tx, &[Kind::Price], &names).await?;
        names.extend(prices.into_iter().map(|(_, price)| price.id));
    }
    let customers = facts::customers_of(effects.tx, &names, &reached, AT_ONCE).await?;
    let more = customers.last().filter(|_| customers.len() == AT_ONCE).cloned();
    billing::settle(effects, &customers.into_iter().collect(), None).await?;
    let outcome = if more.is_some() { Outcome::More } else { Outcome::Applied { organization: None } };
    object.note(REACHED, more);
    facts::keep(effects.tx, kind, object).await?;
    Ok(outcome)
}

/// Whether another event of the same second was applied: Stripe counts in seconds, and orders nothing within one.
fn is_tie(object: &Object, change: &Change) -> bool {
    let known = object.stamp("status");
    !object.deleted && !change.deleted && known.is_some_and(|known| known.1 == change.at.1 && known.3 != change.at.3)
}
