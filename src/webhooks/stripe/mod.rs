//! Events of Stripe: customers, subscriptions, what they buy, and whose they are.
//!
//! Invariants: the organization's plan and status follow its subscription by one table ([`EFFECTS`]); a subscription
//! that comes before anything says whose it is waits, and finds its organization whichever event names it.

pub mod asking;
mod billing;
pub mod client;
pub mod gaps;
mod plans;
pub mod reconcile;
mod translate;

use std::collections::BTreeSet;

use serde_json::Value;

pub use plans::EFFECTS;

use crate::db::SystemTx;
use crate::error::Result;
use crate::webhooks::apply::{ApplyContext, InboxEvent, Outcome, STALE};
use crate::webhooks::effects::Effects;
use crate::webhooks::facts::{self, Change, Kind, Lock, Merged, Object};
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
        Said::Invoice { customer, metadata } => {
            facts::lock(effects.tx, [Lock::Object(customer.clone())]).await?;
            let Some(organization) = billing::organization_of(effects.tx, &customer).await? else {
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
    let merged = facts::merge(effects.tx, &mut object, change).await?;
    let customers = customers(effects.tx, change.kind, &object).await?;
    if merged == Merged::Stale {
        let organization = match customers.first() {
            Some(customer) => billing::organization_of(effects.tx, customer).await?,
            None => None,
        };
        return Ok(Outcome::Ignored { reason: STALE, organization });
    }
    let organization = billing::settle(effects, customers).await?;
    Ok(Outcome::Applied { organization })
}

/// Whether another event of the same second was applied: Stripe counts in seconds, and orders nothing within one.
fn is_tie(object: &Object, change: &Change) -> bool {
    let known = object.stamp("status");
    !object.deleted && !change.deleted && known.is_some_and(|known| known.1 == change.at.1 && known.3 != change.at.3)
}

/// The customers whose organizations the object has a say in.
async fn customers(tx: &mut SystemTx, kind: Kind, object: &Object) -> Result<BTreeSet<String>> {
    Ok(match kind {
        Kind::Customer => BTreeSet::from([object.id.clone()]),
        Kind::Product | Kind::Price => {
            let prices = facts::naming(tx, &[Kind::Price], std::slice::from_ref(&object.id)).await?;
            let mut names = vec![object.id.clone()];
            names.extend(prices.into_iter().map(|(_, price)| price.id));
            let subscriptions = facts::naming(tx, &[Kind::Subscription], &names).await?;
            subscriptions.iter().filter_map(|(_, s)| s.text("customer").map(str::to_owned)).collect()
        }
        _ => object.text("customer").map(str::to_owned).into_iter().collect(),
    })
}
