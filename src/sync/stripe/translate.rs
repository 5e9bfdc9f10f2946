//! Reads what an event of Stripe says, without the database.

use serde_json::Value;
use uuid::Uuid;

use crate::billing::SubscriptionStatus;
use crate::id::{Id, OrganizationId};
use crate::sync::mirror::{self, FieldVersion, Latest, RemoteChange};
use crate::sync::payload::{at, id, seconds, text, whole};
use crate::sync::stripe::gate::Fetched;
use crate::sync::stripe::plans;
use crate::webhook_events::event_type::why_no_effect;
use crate::webhook_events::{Effect, EventType, Verb, WebhookSource};

/// What an event says.
pub(crate) enum Statement {
    /// Of a customer.
    Customer(RemoteChange<mirror::Customer>),
    /// Of a subscription.
    Subscription(Box<RemoteChange<mirror::Subscription>>),
    /// Of a checkout.
    Checkout(RemoteChange<mirror::Checkout>),
    /// Of a product.
    Product(RemoteChange<mirror::Product>),
    /// Of a price.
    Price(RemoteChange<mirror::Price>),
    /// Of what a customer is entitled to.
    Entitlements(RemoteChange<mirror::Entitlements>),
    /// That something happened to an invoice.
    Invoice {
        /// The customer.
        customer: String,
        /// The subscription, if the invoice names one.
        subscription: Option<String>,
        /// What happened, for the audit log.
        metadata: Value,
    },
}

/// The rank of an object that was fetched: it holds the result of all events of that second.
const FETCHED: i16 = 1000;

/// The metadata under which clients name the organization.
const ORGANIZATION_KEYS: &[&str] = &["organization_id", "organizationId", "org_id", "clerk_org_id"];

/// Reads an event; `fetched` is its object as it is now.
///
/// # Errors
/// Why it has no effect.
pub(crate) fn translate(
    event_type: &str,
    event_id: &str,
    payload: &Value,
    fetched: Option<&Fetched>,
) -> Result<Statement, &'static str> {
    let no_effect = || why_no_effect(WebhookSource::Stripe, event_type);
    let known = EventType::of(WebhookSource::Stripe, event_type).ok_or_else(no_effect)?;
    let object = &payload["data"]["object"];
    let moment = seconds(&payload["created"]).unwrap_or(0);
    let version = |rank| FieldVersion { authority: 1, moment, rank, event: event_id.to_owned() };
    let named = || id(&object["id"]).ok_or("names no object");
    match known.effect() {
        Effect::Customer(verb) => {
            let at = version(verb.rank());
            let fields = mirror::Customer {
                seen: Latest::said(&at, Some(true)),
                organization: Latest::said(&at, organization(&object["metadata"])),
            };
            Ok(Statement::Customer(RemoteChange { id: named()?, at, deleted: verb == Verb::Deleted, fields }))
        }
        Effect::Subscription(verb) => {
            let subscription_id = named()?;
            let deleted = verb == Verb::Deleted;
            let same = |fetched: &&Fetched| id(&fetched.object).is_some_and(|id| id == subscription_id);
            let change = if let Some(fetched) = fetched.filter(same) {
                self::fetched(subscription_id, moment, fetched)
            } else {
                let status = text(&object["status"], 50).as_deref().and_then(plans::status);
                let rank = verb.rank() * 20 + status.map_or(0, |status| rank(plans::precedence(status)));
                subscription(subscription_id, version(rank), object)
            };
            let deleted = deleted || change.deleted;
            Ok(Statement::Subscription(Box::new(RemoteChange { deleted, ..change })))
        }
        Effect::Checkout => {
            let at = version(Verb::Updated.rank());
            // Whoever opens a payment link can append a reference to its address.
            let reference = reference(&object["client_reference_id"]).filter(|_| object["payment_link"].is_null());
            let fields = mirror::Checkout {
                created: Latest::said(&at, Some(moment)),
                customer: Latest::said(&at, id(&object["customer"])),
                subscription: Latest::said(&at, id(&object["subscription"])),
                organization: Latest::said(&at, organization(&object["metadata"])),
                reference: Latest::said(&at, reference),
            };
            Ok(Statement::Checkout(RemoteChange { id: named()?, at, deleted: false, fields }))
        }
        Effect::Product(verb) => {
            let at = version(verb.rank());
            let fields = mirror::Product {
                plan: Latest::said(&at, Some(plan_label(object))),
                seat: Latest::said(&at, Some(plans::seat_in_metadata(&object["metadata"]))),
                ..mirror::Product::default()
            };
            Ok(Statement::Product(RemoteChange { id: named()?, at, deleted: verb == Verb::Deleted, fields }))
        }
        Effect::Price(verb) => {
            let at = version(verb.rank());
            let fields = mirror::Price {
                product: Latest::said(&at, id(&object["product"])),
                key: Latest::said(&at, text(&object["lookup_key"], 200)),
                plan: Latest::said(&at, Some(plan_label(object))),
                seat: Latest::said(&at, Some(plans::seat_in_metadata(&object["metadata"]))),
                ..mirror::Price::default()
            };
            Ok(Statement::Price(RemoteChange { id: named()?, at, deleted: verb == Verb::Deleted, fields }))
        }
        Effect::Entitlements => entitlements(object, version(Verb::Updated.rank())).map(Statement::Entitlements),
        Effect::Invoice => Ok(Statement::Invoice {
            customer: id(&object["customer"]).ok_or("names no customer")?,
            // Since 2025-03-31 the parent names it.
            subscription: id(at(object, &["parent", "subscription_details", "subscription"]))
                .or_else(|| id(&object["subscription"])),
            metadata: serde_json::json!({
                "invoice": id(&object["id"]),
                "amount_due": whole(&object["amount_due"]),
                "amount_paid": whole(&object["amount_paid"]),
                "currency": text(&object["currency"], 10),
                "attempts": whole(&object["attempt_count"]),
            }),
        }),
        // The last ones are Clerk's.
        Effect::Recorded
        | Effect::User(_)
        | Effect::Organization(_)
        | Effect::Membership(_)
        | Effect::Invitation(_) => Err(no_effect()),
    }
}

/// The plan in the metadata of a product or a price, or that there is none.
fn plan_label(object: &Value) -> Option<String> {
    plans::plan_in_metadata(&object["metadata"]).map(str::to_owned)
}

/// What Stripe answers about a subscription. Of several answers of one moment the one that was asked for last counts.
pub(crate) fn fetched(subscription_id: String, moment: i64, fetched: &Fetched) -> RemoteChange<mirror::Subscription> {
    let event = format!("fetched {:020}", fetched.asked_at.timestamp_millis());
    let at = FieldVersion { authority: 1, moment, rank: FETCHED, event };
    subscription(subscription_id, at, &fetched.object)
}

/// Of two statuses in one second the later one in a subscription's life wins.
fn rank(precedence: u8) -> i16 {
    match precedence {
        4 => 0,
        other => i16::from(other) + 1,
    }
}

fn subscription(subscription: String, at: FieldVersion, object: &Value) -> RemoteChange<mirror::Subscription> {
    let status = text(&object["status"], 50).as_deref().and_then(plans::status);
    // Both are final at Stripe.
    let over = status.is_some_and(|status| plans::precedence(status) >= 5);
    let alone = std::slice::from_ref(object);
    let items = match object["items"]["data"].as_array() {
        Some(items) if !items.is_empty() => Some(items.as_slice()),
        // A shape older than items: the subscription itself has a plan and a quantity.
        _ if object["plan"].is_object() => Some(alone),
        _ => None,
    };
    let (starts, ends) = periods(object, items.unwrap_or_default());
    let items: Option<Vec<mirror::Item>> = items.map(|items| items.iter().take(100).map(plans::item).collect());
    let catalogue = items.as_ref().map(|items| {
        let ids = items.iter().flat_map(|item| [item.price.clone(), item.product.clone()]);
        ids.flatten().collect::<Vec<String>>()
    });
    let ends_with_period = object["cancel_at_period_end"].as_bool().map(|flag| {
        // With flexible billing the flag is off and the date is that of the end.
        flag || seconds(&object["cancel_at"]).is_some_and(|at| Some(at) == ends)
    });
    let fields = mirror::Subscription {
        customer: Latest::said(&at, id(&object["customer"])),
        organization: Latest::said(&at, organization(&object["metadata"])),
        status: Latest::said(&at, status.map(SubscriptionStatus::label)),
        plan: Latest::said(&at, plans::plan_in_metadata(&object["metadata"])),
        items: Latest::said(&at, items),
        catalogue: Latest::said(&at, catalogue),
        period_start: Latest::said(&at, starts),
        period_end: Latest::said(&at, ends),
        cancel_at_period_end: Latest::said(&at, ends_with_period),
        trial_end: Latest::said(&at, seconds(&object["trial_end"])),
        collection_paused: Latest::said(&at, object.get("pause_collection").map(|pause| !pause.is_null())),
        created: Latest::said(&at, seconds(&object["created"])),
    };
    RemoteChange { id: subscription, at, deleted: over, fields }
}

/// The period: since 2025-03-31 of the items, before of the subscription. Items may differ: then what they share.
fn periods(object: &Value, items: &[Value]) -> (Option<i64>, Option<i64>) {
    let of_items = |field: &str| items.iter().filter_map(|item| seconds(&item[field])).collect::<Vec<_>>();
    let starts = of_items("current_period_start").into_iter().max();
    let ends = of_items("current_period_end").into_iter().min();
    (
        starts.or_else(|| seconds(&object["current_period_start"])),
        ends.or_else(|| seconds(&object["current_period_end"])),
    )
}

fn entitlements(object: &Value, at: FieldVersion) -> Result<RemoteChange<mirror::Entitlements>, &'static str> {
    let customer = id(&object["customer"]).ok_or("names no customer")?;
    let list = &object["entitlements"];
    if list["has_more"] == true {
        return Err("lists a part of the entitlements only");
    }
    let Some(entries) = list["data"].as_array() else { return Err("lists no entitlements") };
    let keys: Vec<String> = entries.iter().filter_map(|entry| text(&entry["lookup_key"], 100)).collect();
    let fields = mirror::Entitlements {
        customer: Latest::said(&at, Some(customer.clone())),
        keys: Latest::said(&at, Some(keys)),
    };
    Ok(RemoteChange { id: customer, at, deleted: false, fields })
}

fn organization(metadata: &Value) -> Option<String> {
    ORGANIZATION_KEYS.iter().find_map(|key| reference(&metadata[*key]))
}

/// An organization: our id, its UUID, or the id at the identity provider.
fn reference(value: &Value) -> Option<String> {
    let text = id(value)?;
    let ours = OrganizationId::parse(&text).map(Id::uuid).or_else(|_| Uuid::try_parse(&text));
    Some(ours.map_or(text, |uuid| uuid.to_string()))
}
