//! What a subscription gives: the plan and the seats that its prices buy, and the meaning of its status.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::billing::SubscriptionStatus;
use crate::organizations::{OrganizationPlan, OrganizationStatus};
use crate::sync::apply::SyncSettings;
use crate::sync::mirror::{Item, Price, Product, RemoteObject, Subscription};
use crate::sync::payload::{at, id, text, whole};

/// What a status means for the organization: its own status, and whether it has the plan it bought or FREE.
/// `incomplete_expired` never began, so the organization is as before.
pub const EFFECTS: &[(SubscriptionStatus, OrganizationStatus, bool)] = &[
    (SubscriptionStatus::Trialing, OrganizationStatus::Trialing, true),
    (SubscriptionStatus::Active, OrganizationStatus::Active, true),
    // Stripe still tries to collect: nothing is taken away yet.
    (SubscriptionStatus::PastDue, OrganizationStatus::PastDue, true),
    (SubscriptionStatus::Unpaid, OrganizationStatus::Suspended, false),
    (SubscriptionStatus::Paused, OrganizationStatus::Suspended, false),
    (SubscriptionStatus::Canceled, OrganizationStatus::Churned, false),
    (SubscriptionStatus::Incomplete, OrganizationStatus::Active, false),
    (SubscriptionStatus::IncompleteExpired, OrganizationStatus::Active, false),
];

/// The row of [`EFFECTS`].
pub(crate) fn effect(status: SubscriptionStatus) -> (OrganizationStatus, bool) {
    EFFECTS
        .iter()
        .find(|(known, ..)| *known == status)
        .map_or((OrganizationStatus::Active, false), |(_, organization, entitled)| (*organization, *entitled))
}

/// Of several subscriptions the one with the lowest number counts, then the greater plan, then the newer one.
pub(crate) fn precedence(status: SubscriptionStatus) -> u8 {
    match status {
        SubscriptionStatus::Active | SubscriptionStatus::Trialing => 0,
        SubscriptionStatus::PastDue => 1,
        SubscriptionStatus::Unpaid => 2,
        SubscriptionStatus::Paused => 3,
        SubscriptionStatus::Incomplete => 4,
        SubscriptionStatus::Canceled => 5,
        SubscriptionStatus::IncompleteExpired => 6,
    }
}

/// The status in Stripe's spelling.
pub(crate) fn status(label: &str) -> Option<SubscriptionStatus> {
    SubscriptionStatus::from_label(&label.to_ascii_uppercase())
}

/// A plan by a word of a text: `pro`, `pro_monthly`, `Starter-2024`.
pub(crate) fn plan_in(text: &str) -> Option<OrganizationPlan> {
    words(text).find_map(|word| OrganizationPlan::from_label(&word))
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_ascii_uppercase)
}

/// The plan that the metadata of a price, a product or a subscription names.
pub(crate) fn plan_in_metadata(metadata: &Value) -> Option<&'static str> {
    text(&metadata["plan"], 100).as_deref().and_then(plan_in).map(OrganizationPlan::label)
}

/// Whether the metadata say that the quantity is of seats.
pub(crate) fn seat_in_metadata(metadata: &Value) -> bool {
    ["seat", "seats", "per_seat"].iter().any(|key| {
        let value = &metadata[*key];
        value == true || value.as_str().is_some_and(|text| ["true", "1", "yes"].contains(&text))
    })
}

fn seat_in_key(key: Option<&str>) -> bool {
    key.is_some_and(|key| words(key).any(|word| word == "SEAT" || word == "SEATS"))
}

/// Reads an item of a subscription.
pub(crate) fn item(item: &Value) -> Item {
    // Before 2018 items had plans, which were prices of another name.
    let price = if item["price"].is_null() { &item["plan"] } else { &item["price"] };
    let product = &price["product"];
    let metered = at(price, &["recurring", "usage_type"]) == "metered" || price["usage_type"] == "metered";
    let plan = plan_in_metadata(&price["metadata"]).or_else(|| plan_in_metadata(&product["metadata"]));
    Item {
        price: id(price),
        product: id(product),
        key: text(&price["lookup_key"], 200),
        plan: plan.map(str::to_owned),
        seat: seat_in_metadata(&price["metadata"]) || seat_in_metadata(&product["metadata"]),
        quantity: whole(&item["quantity"]).filter(|quantity| *quantity >= 0),
        metered,
    }
}

/// Prices and products from their own events.
#[derive(Default)]
pub(crate) struct Catalogue {
    pub(crate) prices: BTreeMap<String, RemoteObject<Price>>,
    pub(crate) products: BTreeMap<String, RemoteObject<Product>>,
}

/// The plan and the seats that a subscription pays for. No plan: none of its prices is known to buy one.
pub(crate) fn bought(
    subscription: &RemoteObject<Subscription>,
    catalogue: &Catalogue,
    settings: &SyncSettings,
) -> (Option<OrganizationPlan>, i32) {
    let mut plan = None;
    let mut seats = Seats::default();
    for item in subscription.fields.items.known().into_iter().flatten() {
        let price = item.price.as_deref().unwrap_or_default();
        let own = catalogue.prices.get(price).map(|price| &price.fields);
        let product = item.product.as_deref().or_else(|| own?.product.text()).unwrap_or_default();
        let product = catalogue.products.get(product).map(|product| &product.fields);
        let key = own.and_then(|price| price.key.text()).or(item.key.as_deref());
        let of_item = settings
            .price_plans
            .get(price)
            .copied()
            .or_else(|| key.and_then(plan_in))
            .or_else(|| own?.plan.text().and_then(OrganizationPlan::from_label))
            .or_else(|| item.plan.as_deref().and_then(OrganizationPlan::from_label))
            .or_else(|| product?.plan.text().and_then(OrganizationPlan::from_label));
        let marked = [own.and_then(|price| price.seat.get()), product.and_then(|product| product.seat.get())];
        let seat = item.seat || seat_in_key(key) || marked.contains(&Some(true));
        plan = plan.max(of_item);
        if !item.metered {
            seats.add(item.quantity.unwrap_or(1), seat, of_item.is_some());
        }
    }
    let plan = plan.or_else(|| subscription.fields.plan.text().and_then(OrganizationPlan::from_label));
    (plan, seats.count())
}

/// Sums quantities of the prices that are marked as seats; without those, of the prices that buy a plan; else of all.
#[derive(Default)]
struct Seats {
    marked: Option<i64>,
    of_plans: Option<i64>,
    all: Option<i64>,
}

impl Seats {
    fn add(&mut self, quantity: i64, marked: bool, of_plan: bool) {
        let add = |sum: &mut Option<i64>| *sum = Some(sum.unwrap_or(0).saturating_add(quantity));
        add(&mut self.all);
        if marked {
            add(&mut self.marked);
        }
        if of_plan {
            add(&mut self.of_plans);
        }
    }

    fn count(&self) -> i32 {
        let sum = self.marked.or(self.of_plans).or(self.all).unwrap_or(1);
        i32::try_from(sum).unwrap_or(i32::MAX)
    }
}
