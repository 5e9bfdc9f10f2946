//! What an event of Stripe says, without asking the database.

use serde_json::Value;
use uuid::Uuid;

use crate::billing::SubscriptionStatus;
use crate::id::Id;
use crate::organizations::Organization;
use crate::sync::facts::{Change, Kind, Stamp};
use crate::sync::payload::{at, id, seconds, text, whole};
use crate::sync::stripe::asking::Fetched;
use crate::sync::stripe::plans;

/// What an event says.
pub(crate) enum Said {
    /// Something of an object.
    Of(Change),
    /// That an invoice was paid, or was not.
    Invoice {
        /// Whose.
        customer: String,
        /// For what, if it says so.
        subscription: Option<String>,
        /// What happened, for the audit log.
        metadata: Value,
    },
}

/// The rank of an object that was fetched: it is what the events of that second led to.
const FETCHED: i16 = 1000;

/// Types of invoice events that people ask about afterwards.
const INVOICES: &[&str] = &[
    "invoice.finalization_failed",
    "invoice.finalized",
    "invoice.marked_uncollectible",
    "invoice.paid",
    "invoice.payment_action_required",
    "invoice.payment_failed",
    "invoice.payment_succeeded",
    "invoice.voided",
];

/// Types that have no effect here. The rest are unknown ones.
const RECORDED: &[&str] =
    &["checkout.session.", "customer.", "invoice", "plan.", "charge.", "payment_", "setup_intent."];

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
) -> Result<Said, &'static str> {
    let object = &payload["data"]["object"];
    let verb = event_type.rsplit('.').next().unwrap_or_default();
    let version = seconds(&payload["created"]).unwrap_or(0);
    let stamp = |rank| Stamp(1, version, rank, event_id.to_owned());
    let by_verb = stamp(match verb {
        "created" => 0,
        "deleted" => 2,
        _ => 1,
    });
    let deleted = verb == "deleted";
    let named = || id(&object["id"]).ok_or("names no object");
    match event_type {
        "customer.created" | "customer.updated" | "customer.deleted" => Ok(Said::Of(
            Change::new(Kind::Customer, named()?, by_verb)
                .deleted(deleted)
                .known("seen", Some(true))
                .known("organization", organization(&object["metadata"])),
        )),
        _ if event_type.starts_with("customer.subscription.") => {
            let subscription_id = named()?;
            if let Some(fetched) = fetched.filter(|fetched| id(&fetched.object).is_some_and(|id| id == subscription_id))
            {
                let change = self::fetched(subscription_id, version, fetched);
                let over = change.deleted;
                return Ok(Said::Of(change.deleted(deleted || over)));
            }
            let status = text(&object["status"], 50).as_deref().and_then(plans::status);
            let rank = by_verb.2 * 20 + status.map_or(0, |status| rank(plans::precedence(status)));
            Ok(Said::Of(subscription(subscription_id, stamp(rank), object, deleted)))
        }
        "checkout.session.completed" | "checkout.session.async_payment_succeeded" => Ok(Said::Of(
            Change::new(Kind::Checkout, named()?, by_verb)
                .known("created", Some(version))
                .known("customer", id(&object["customer"]))
                .known("subscription", id(&object["subscription"]))
                .known("organization", organization(&object["metadata"]))
                // Whoever opens a payment link can append one to its address.
                .known(
                    "reference",
                    reference(&object["client_reference_id"]).filter(|_| object["payment_link"].is_null()),
                ),
        )),
        "product.created" | "product.updated" | "product.deleted" => Ok(Said::Of(
            Change::new(Kind::Product, named()?, by_verb)
                .deleted(deleted)
                .is("plan", plans::plan_in_metadata(&object["metadata"]))
                .is("seat", Some(plans::seat_in_metadata(&object["metadata"]))),
        )),
        "price.created" | "price.updated" | "price.deleted" => Ok(Said::Of(
            Change::new(Kind::Price, named()?, by_verb)
                .deleted(deleted)
                .known("product", id(&object["product"]))
                .known("key", text(&object["lookup_key"], 200))
                .is("plan", plans::plan_in_metadata(&object["metadata"]))
                .is("seat", Some(plans::seat_in_metadata(&object["metadata"]))),
        )),
        "entitlements.active_entitlement_summary.updated" => entitlements(object, by_verb),
        _ if INVOICES.contains(&event_type) => Ok(Said::Invoice {
            customer: id(&object["customer"]).ok_or("names no customer")?,
            // Since 2025-03-31 of its parent.
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
        _ if RECORDED.iter().any(|prefix| event_type.starts_with(prefix)) => Err("recorded"),
        _ => Err("unknown type"),
    }
}

/// What a subscription is like now, as Stripe answers. Of several answers of one moment the one that was asked for last
/// counts.
pub(crate) fn fetched(subscription_id: String, version: i64, fetched: &Fetched) -> Change {
    let name = format!("fetched {:020}", fetched.asked_at.timestamp_millis());
    subscription(subscription_id, Stamp(1, version, FETCHED, name), &fetched.object, false)
}

/// Of two statuses in one second the later in a subscription's life wins.
fn rank(precedence: u8) -> i16 {
    match precedence {
        4 => 0,
        other => i16::from(other) + 1,
    }
}

fn subscription(subscription: String, stamp: Stamp, object: &Value, deleted: bool) -> Change {
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
    let items: Option<Vec<Value>> = items.map(|items| items.iter().take(100).map(plans::item).collect());
    let catalogue = items.as_ref().map(|items| {
        let ids = items.iter().flat_map(|item| [item["price"].as_str(), item["product"].as_str()]).flatten();
        ids.map(Value::from).collect::<Vec<Value>>()
    });
    let ends_with_period = object["cancel_at_period_end"].as_bool().map(|flag| {
        // With flexible billing the flag is off and the date is that of the end.
        flag || seconds(&object["cancel_at"]).is_some_and(|at| Some(at) == ends)
    });
    Change::new(Kind::Subscription, subscription, stamp)
        .deleted(deleted || over)
        .known("customer", id(&object["customer"]))
        .known("organization", organization(&object["metadata"]))
        .known("status", status.map(SubscriptionStatus::label))
        .known("plan", plans::plan_in_metadata(&object["metadata"]))
        .known("items", items)
        .known("catalogue", catalogue)
        .known("period_start", starts)
        .known("period_end", ends)
        .known("cancel_at_period_end", ends_with_period)
        .known("trial_end", seconds(&object["trial_end"]))
        .known("collection_paused", object.get("pause_collection").map(|pause| !pause.is_null()))
        .known("created", seconds(&object["created"]))
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

fn entitlements(object: &Value, stamp: Stamp) -> Result<Said, &'static str> {
    let customer = id(&object["customer"]).ok_or("names no customer")?;
    let list = &object["entitlements"];
    if list["has_more"] == true {
        return Err("lists a part of the entitlements only");
    }
    let Some(entries) = list["data"].as_array() else { return Err("lists no entitlements") };
    let keys: Vec<Value> =
        entries.iter().filter_map(|entry| text(&entry["lookup_key"], 100)).map(Value::from).collect();
    Ok(Said::Of(
        Change::new(Kind::Entitlements, customer.clone(), stamp)
            .known("customer", Some(customer))
            .known("keys", Some(keys)),
    ))
}

fn organization(metadata: &Value) -> Option<String> {
    ORGANIZATION_KEYS.iter().find_map(|key| reference(&metadata[*key]))
}

/// An organization: our id, its UUID, or the id at the identity provider.
fn reference(value: &Value) -> Option<String> {
    let text = id(value)?;
    let ours = Id::<Organization>::parse(&text).map(Id::uuid).or_else(|_| Uuid::try_parse(&text));
    Some(ours.map_or(text, |uuid| uuid.to_string()))
}
