//! Reads what an event of Stripe says, without the database.

use serde_json::Value;
use uuid::Uuid;

use crate::billing::{InvoiceSaid, SubscriptionStatus};
use crate::id::{Id, OrganizationId};
use crate::refunds::{Charge, RemoteRefund};
use crate::sync::mirror::{self, Each, FieldVersion, Latest, RemoteChange, Stretch};
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
    Invoice(RemoteChange<mirror::Invoice>),
    /// Of refunds of one payment, and of the payment.
    Refunds(Refunded),
}

/// What an event says of a payment that is given back.
pub(crate) struct Refunded {
    /// Stripe's id of the payment intent.
    pub(crate) payment: String,
    /// What it says of the payment, if it does.
    pub(crate) charge: Option<RemoteChange<mirror::Payment>>,
    pub(crate) refunds: Vec<RemoteChange<mirror::Refund>>,
}

/// The rank of an object that was fetched: it holds the result of all events of that second.
pub(crate) const FETCHED: i16 = i16::MAX;

/// The metadata under which clients name the organization.
const ORGANIZATION_KEYS: &[&str] = &["organization_id", "organizationId", "org_id", "clerk_org_id"];

/// An event of Stripe.
#[derive(Clone, Copy)]
pub(crate) struct Event<'a> {
    pub(crate) kind: &'a str,
    pub(crate) id: &'a str,
    pub(crate) payload: &'a Value,
    /// Its place among the events of its second, where that is known ([`ties`](super::ties)).
    pub(crate) place: Option<i16>,
}

impl<'a> Event<'a> {
    /// When it was made, in seconds since 1970.
    pub(crate) fn moment(&self) -> i64 {
        seconds(&self.payload["created"]).unwrap_or(0)
    }

    pub(crate) fn object(&self) -> &'a Value {
        &self.payload["data"]["object"]
    }

    /// The id under which the inbox keeps what it is about.
    pub(crate) fn object_id(&self) -> Option<String> {
        id_in(self.object())
    }

    pub(crate) fn effect(&self) -> Option<Effect> {
        EventType::of(WebhookSource::Stripe, self.kind).map(EventType::effect)
    }
}

/// The id of an object. What a customer is entitled to has none of its own, and goes by the customer's.
fn id_in(object: &Value) -> Option<String> {
    id(&object["id"]).or_else(|| id(&object["customer"]))
}

/// Orders events of one second by themselves: the later in an object's life has the greater rank.
pub(crate) fn rank(effect: Effect, object: &Value) -> i16 {
    match effect {
        Effect::Subscription(verb) => {
            let status = text(&object["status"], 50).as_deref().and_then(plans::status);
            verb.rank() * 20 + status.map_or(0, |status| rank_of_status(plans::precedence(status)))
        }
        Effect::Invoice => InvoiceSaid::read("", object).map_or(0, |said| said.rank()),
        Effect::Customer(verb) | Effect::Product(verb) | Effect::Price(verb) => verb.rank(),
        _ => Verb::Updated.rank(),
    }
}

/// Reads an event; `fetched` is its object as it is now.
///
/// # Errors
/// Why it has no effect.
pub(crate) fn translate(event: Event<'_>, fetched: Option<&Fetched>) -> Result<Statement, &'static str> {
    let no_effect = || why_no_effect(WebhookSource::Stripe, event.kind);
    let effect = event.effect().ok_or_else(no_effect)?;
    let moment = event.moment();
    let of_event = event.object_id();
    let (object, at) = if let Some(fetched) = fetched.filter(|fetched| fetched.object_id() == of_event) {
        (&fetched.object, fetched.version(moment))
    } else {
        let rank = event.place.unwrap_or_else(|| rank(effect, event.object()));
        (event.object(), FieldVersion { authority: 1, moment, rank, event: event.id.to_owned() })
    };
    let named = || id(&object["id"]).ok_or("names no object");
    // What is asked for after its deletion is a stub that says so.
    let deleted = |verb| verb == Verb::Deleted || object["deleted"] == true;
    match effect {
        Effect::Customer(verb) => {
            let fields = mirror::Customer {
                seen: Latest::said(&at, Some(true)),
                organization: Latest::said(&at, organization(&object["metadata"])),
            };
            Ok(Statement::Customer(RemoteChange { id: named()?, at, deleted: deleted(verb), fields }))
        }
        Effect::Subscription(verb) => {
            let change = subscription(named()?, at, object);
            let deleted = deleted(verb) || change.deleted;
            Ok(Statement::Subscription(Box::new(RemoteChange { deleted, ..change })))
        }
        Effect::Checkout => {
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
            let (plan, seat) = plans::of_sold(object);
            let fields = mirror::Product {
                plan: Latest::said(&at, plan),
                seat: Latest::said(&at, seat),
                ..mirror::Product::default()
            };
            Ok(Statement::Product(RemoteChange { id: named()?, at, deleted: deleted(verb), fields }))
        }
        Effect::Price(verb) => {
            let (plan, seat) = plans::of_sold(object);
            let fields = mirror::Price {
                product: Latest::said(&at, id(&object["product"])),
                plan: Latest::said(&at, plan),
                seat: Latest::said(&at, seat),
                ..mirror::Price::default()
            };
            Ok(Statement::Price(RemoteChange { id: named()?, at, deleted: deleted(verb), fields }))
        }
        Effect::Entitlements => entitlements(object, at).map(Statement::Entitlements),
        Effect::Invoice => invoice(event.kind, named()?, at, object).map(Statement::Invoice),
        Effect::Refund => {
            let refund = refund(event, event.object())?;
            Ok(Statement::Refunds(Refunded {
                payment: refund.fields.payment.text().unwrap_or_default().to_owned(),
                charge: None,
                refunds: vec![refund],
            }))
        }
        Effect::Charge => charge(event).map(Statement::Refunds),
        // The last ones are Clerk's.
        Effect::Recorded
        | Effect::User(_)
        | Effect::Organization(_)
        | Effect::Membership(_)
        | Effect::Invitation(_)
        | Effect::SessionEnded => Err(no_effect()),
    }
}

/// What an event says of a refund. Stripe's statuses of a refund follow each other in one direction, so that of one second the
/// further counts.
fn refund(event: Event<'_>, object: &Value) -> Result<RemoteChange<mirror::Refund>, &'static str> {
    let remote = RemoteRefund::read(object)?;
    let rank = remote.status.rank();
    let at = FieldVersion { authority: 1, moment: event.moment(), rank, event: event.id.to_owned() };
    let fields = mirror::Refund {
        payment: Latest::said(&at, Some(remote.payment.clone())),
        said: Latest::said(&at, Some(remote.clone())),
    };
    Ok(RemoteChange { id: remote.id, at, deleted: false, fields })
}

/// What an event says of a charge that is given back. Before API version 2022-11-15 it lists the refunds.
fn charge(event: Event<'_>) -> Result<Refunded, &'static str> {
    let object = event.object();
    let payment = id(&object["payment_intent"]).ok_or("names no payment intent")?;
    let at = FieldVersion { authority: 0, moment: event.moment(), rank: 0, event: event.id.to_owned() };
    let charge = payment_of(payment.clone(), at, object);
    let listed = object["refunds"]["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let refunds = listed.iter().take(MOST_REFUNDS).filter_map(|listed| {
        let mut listed = listed.clone();
        // Their payment is that of the charge, and old ones do not repeat it.
        listed["payment_intent"] = payment.as_str().into();
        refund(event, &listed).ok()
    });
    Ok(Refunded { refunds: refunds.collect(), charge: Some(charge), payment })
}

/// Most refunds of a charge that are read of one event: Stripe lists ten.
const MOST_REFUNDS: usize = 100;

/// What is said of a payment: by Stripe's answer, or by a charge, which has the metadata that the payment had when it was made.
pub(crate) fn payment_of(payment: String, at: FieldVersion, object: &Value) -> RemoteChange<mirror::Payment> {
    let fields = mirror::Payment { charge: Latest::said(&at, Some(Charge::read(object))) };
    RemoteChange { id: payment, at, deleted: false, fields }
}

/// The version of a payment as Stripe answered.
pub(crate) fn fetched_payment(payment: &str, moment: i64, fetched: &Fetched) -> Option<RemoteChange<mirror::Payment>> {
    let is_it = fetched.object["object"] == "payment_intent" && fetched.object["id"] == payment;
    is_it.then(|| payment_of(payment.to_owned(), fetched.version(moment), &fetched.object))
}

fn invoice(
    kind: &str,
    invoice: String,
    at: FieldVersion,
    object: &Value,
) -> Result<RemoteChange<mirror::Invoice>, &'static str> {
    let customer = id(&object["customer"]).ok_or("names no customer")?;
    // Since 2025-03-31 the parent names it.
    let subscription = id(self::at(object, &["parent", "subscription_details", "subscription"]))
        .or_else(|| id(&object["subscription"]));
    let metadata = serde_json::json!({
        "invoice": invoice,
        "amount_due": whole(&object["amount_due"]),
        "amount_paid": whole(&object["amount_paid"]),
        "currency": text(&object["currency"], 10),
        "attempts": whole(&object["attempt_count"]),
    });
    let happened = mirror::Happened { action: kind.to_owned(), metadata };
    let fields = mirror::Invoice {
        customer: Latest::said(&at, Some(customer)),
        subscription: Latest::said(&at, subscription),
        said: Latest::said(&at, InvoiceSaid::read(kind, object)),
        happened: Each::said(&at, [(at.event.clone(), happened)]),
        ..mirror::Invoice::default()
    };
    Ok(RemoteChange { id: invoice, at, deleted: false, fields })
}

/// What Stripe answers about a subscription. Of several answers of one moment the one that was asked for last counts.
pub(crate) fn fetched(subscription_id: String, moment: i64, fetched: &Fetched) -> RemoteChange<mirror::Subscription> {
    subscription(subscription_id, fetched.version(moment), &fetched.object)
}

impl Fetched {
    /// The version of what it says, as the result of the events of that moment.
    fn version(&self, moment: i64) -> FieldVersion {
        let event = format!("{ASKED_AT}{:020}", self.asked_at.timestamp_millis());
        FieldVersion { authority: 1, moment, rank: FETCHED, event }
    }

    fn object_id(&self) -> Option<String> {
        id_in(&self.object)
    }
}

/// What the version of an answer begins with, before the milliseconds when it was asked for.
const ASKED_AT: &str = "fetched ";

/// When an answer was asked for, in milliseconds since 1970; none of the version of an event.
pub(crate) fn asked_at(version: &FieldVersion) -> Option<i64> {
    version.event.strip_prefix(ASKED_AT)?.parse().ok()
}

/// Of two statuses in one second the later one in a subscription's life wins.
fn rank_of_status(precedence: u8) -> i16 {
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
    // A part of a list is never taken for all of it: it says less than any list that was whole.
    let in_part = object["items"]["has_more"] == true;
    let of_items = FieldVersion { authority: u8::from(!in_part), ..at.clone() };
    let sold: Vec<&Value> = items
        .unwrap_or_default()
        .iter()
        .take(MOST_ITEMS)
        .map(plans::price_of)
        .flat_map(|price| [price, &price["product"]])
        .collect();
    let said = || sold.iter().filter_map(|sold| Some((id(sold)?, plans::of_sold(sold))));
    let items: Option<Vec<mirror::Item>> = items.map(|items| items.iter().take(MOST_ITEMS).map(plans::item).collect());
    // Since 2025-03-31 items have the period, before the subscription had it.
    let (starts, ends) = items.iter().find_map(|items| plans::period(items.iter())).unwrap_or_default();
    let catalogue = items.as_ref().map(|items| {
        let ids = items.iter().flat_map(|item| [item.price.clone(), item.product.clone()]);
        ids.flatten().collect::<Vec<String>>()
    });
    let fields = mirror::Subscription {
        customer: Latest::said(&at, id(&object["customer"])),
        organization: Latest::said(&at, organization(&object["metadata"])),
        live: Latest::said(&at, object["livemode"].as_bool()),
        status: Latest::said(&at, status.map(SubscriptionStatus::label)),
        plan: Latest::said(&at, plans::plan_in_metadata(&object["metadata"])),
        in_part: Latest::said(&at, items.is_some().then_some(in_part)),
        items: Latest::said(&of_items, items),
        plans: Each::said(&at, said().filter_map(|(sold, (plan, _))| Some((sold, plan?.to_owned())))),
        seats: Each::said(&at, said().filter_map(|(sold, (_, seat))| Some((sold, seat?)))),
        catalogue: Latest::said(&of_items, catalogue),
        period_start: Latest::said(&at, starts.or_else(|| seconds(&object["current_period_start"]))),
        period_end: Latest::said(&at, ends.or_else(|| seconds(&object["current_period_end"]))),
        cancel_at_period_end: Latest::said(&at, object["cancel_at_period_end"].as_bool()),
        cancel_at: Latest::said(&at, object.get("cancel_at").map(seconds)),
        trial_end: Latest::said(&at, seconds(&object["trial_end"])),
        collection_paused: Latest::said(&at, object.get("pause_collection").map(|pause| !pause.is_null())),
        created: Latest::said(&at, seconds(&object["created"])),
        past_due: Stretch::said(&at, status.map(|status| status == SubscriptionStatus::PastDue)),
        test_clock: Latest::said(&at, object.get("test_clock").map(id)),
    };
    RemoteChange { id: subscription, at, deleted: over, fields }
}

/// Most items of a subscription that are read; Stripe allows 20.
const MOST_ITEMS: usize = 100;

fn entitlements(object: &Value, at: FieldVersion) -> Result<RemoteChange<mirror::Entitlements>, &'static str> {
    let customer = id(&object["customer"]).ok_or("names no customer")?;
    let list = &object["entitlements"];
    let Some(entries) = list["data"].as_array() else { return Err("lists no entitlements") };
    let in_part = list["has_more"] == true;
    let of_keys = FieldVersion { authority: u8::from(!in_part), ..at.clone() };
    let keys: Vec<String> = entries.iter().filter_map(|entry| text(&entry["lookup_key"], 100)).collect();
    let fields = mirror::Entitlements {
        customer: Latest::said(&at, Some(customer.clone())),
        keys: Latest::said(&of_keys, Some(keys)),
        in_part: Latest::said(&at, Some(in_part)),
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
