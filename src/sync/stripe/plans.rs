//! What a subscription gives: the plan and the seats that its prices buy, and the meaning of its status.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::billing::SubscriptionStatus;
use crate::organizations::{OrganizationPlan, OrganizationStatus};
use crate::sync::apply::SyncSettings;
use crate::sync::mirror::{Item, Price, Product, RemoteObject, Subscription};
use crate::sync::payload::{at, id, seconds, text, whole};

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

/// Words of a lookup key that say how a plan is paid and not what it is.
const WORDS_OF_KEYS: &[&str] = &[
    "PLAN",
    "TIER",
    "PRICE",
    "BASE",
    "STANDARD",
    "LICENSE",
    "LICENCE",
    "SUBSCRIPTION",
    "DAY",
    "DAILY",
    "WEEK",
    "WEEKLY",
    "MONTH",
    "MONTHLY",
    "QUARTER",
    "QUARTERLY",
    "YEAR",
    "YEARLY",
    "ANNUAL",
    "ANNUALLY",
    "PER",
    "USER",
    "USERS",
    "SEAT",
    "SEATS",
    "EXTRA",
    "ADDITIONAL",
    "TRIAL",
    "NEW",
    "OLD",
    "LEGACY",
    "CURRENT",
    "LIVE",
    "TEST",
];
/// Currencies in lookup keys: those that Stripe settles most.
const CURRENCIES: &[&str] = &[
    "USD", "EUR", "GBP", "CAD", "AUD", "NZD", "JPY", "CHF", "SEK", "NOK", "DKK", "PLN", "INR", "BRL", "MXN", "SGD",
    "HKD",
];

/// Whether a word of a lookup key is one of those, a year or a version (`2024`, `v2`).
fn is_neutral(word: &str) -> bool {
    let number = word.strip_prefix('V').unwrap_or(word);
    WORDS_OF_KEYS.contains(&word)
        || CURRENCIES.contains(&word)
        || !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// What a lookup key says: the plan, and whether it is of seats. It speaks only when every one of its words is known: the
/// name of one plan, and words of how it is paid. So `pro`, `pro_monthly`, `Starter-2024`, `pro_seat_yearly_eur` and
/// `extra_seats` speak, and `enterprise_sso_addon` does not: an add-on to a plan is no plan.
pub(crate) fn of_key(key: &str) -> (Option<OrganizationPlan>, bool) {
    let (mut plan, mut seat) = (None, false);
    for word in words(key).filter(|word| !word.is_empty()) {
        match OrganizationPlan::from_label(&word) {
            Some(named) if plan.is_none_or(|plan| plan == named) => plan = Some(named),
            None if is_neutral(&word) => seat |= word.starts_with("SEAT"),
            _ => return (None, false),
        }
    }
    (plan, seat)
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_ascii_uppercase)
}

/// The plan that the metadata of a price, a product or a subscription name in `plan`: its name alone, or as a lookup key.
pub(crate) fn plan_in_metadata(metadata: &Value) -> Option<&'static str> {
    of_key(&text(&metadata["plan"], 100)?).0.map(OrganizationPlan::label)
}

/// Whether the metadata say that the quantity is of seats; `None` when they say nothing of it.
fn seat_in_metadata(metadata: &Value) -> Option<bool> {
    ["seat", "seats", "per_seat"].iter().find_map(|key| match &metadata[*key] {
        Value::Bool(seat) => Some(*seat),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => Some(true),
            "false" | "0" | "no" => Some(false),
            _ => None,
        },
        _ => None,
    })
}

/// What a price or a product says of itself: the plan it buys, and whether its quantity is of seats. `None` is no answer.
pub(crate) fn of_sold(object: &Value) -> (Option<&'static str>, Option<bool>) {
    let key = text(&object["lookup_key"], 200);
    let (plan, seat) = key.as_deref().map_or((None, false), of_key);
    (
        plan.map(OrganizationPlan::label).or_else(|| plan_in_metadata(&object["metadata"])),
        seat.then_some(true).or_else(|| seat_in_metadata(&object["metadata"])),
    )
}

/// The price of an item. Before 2018 items had plans, which were prices of another name.
pub(crate) fn price_of(item: &Value) -> &Value {
    if item["price"].is_null() { &item["plan"] } else { &item["price"] }
}

/// Reads an item of a subscription.
pub(crate) fn item(item: &Value) -> Item {
    let price = price_of(item);
    let metered = at(price, &["recurring", "usage_type"]) == "metered" || price["usage_type"] == "metered";
    Item {
        price: id(price),
        product: id(&price["product"]),
        quantity: whole(&item["quantity"]).filter(|quantity| *quantity >= 0),
        metered,
        starts: seconds(&item["current_period_start"]),
        ends: seconds(&item["current_period_end"]),
    }
}

/// Prices and products from their own events.
#[derive(Default)]
pub(crate) struct Catalogue {
    pub(crate) prices: BTreeMap<String, RemoteObject<Price>>,
    pub(crate) products: BTreeMap<String, RemoteObject<Product>>,
}

/// What a subscription pays for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bought {
    /// The greatest plan that one of its prices is known to buy, or that its metadata name. `None`: no price is known.
    pub(crate) plan: Option<OrganizationPlan>,
    pub(crate) seats: i32,
    /// Whether a price is marked as one of seats.
    pub(crate) sells_seats: bool,
    /// The period of what buys the plan, in seconds since 1970.
    pub(crate) starts: Option<i64>,
    pub(crate) ends: Option<i64>,
    /// Prices of which nothing is known: neither a plan nor that they are something else.
    pub(crate) unmapped: Vec<String>,
}

/// What could not be made of a living subscription of an organization, for people to read. Nothing of a finding takes away
/// what was known.
pub(crate) fn finding(
    subscription: &RemoteObject<Subscription>,
    status: SubscriptionStatus,
    bought: &Bought,
) -> Option<String> {
    if precedence(status) >= precedence(SubscriptionStatus::Canceled) {
        return None;
    }
    let mut all = Vec::new();
    if bought.plan.is_none() {
        all.push("no price of it is known to buy a plan, so the organization has FREE".to_owned());
    }
    if !bought.unmapped.is_empty() {
        all.push(format!(
            "unknown prices: {}; name them in STRIPE_PRICE_PLANS (NONE for what buys no plan), or give them a lookup_key or `plan` in their metadata",
            bought.unmapped.join(", ")
        ));
    }
    if subscription.fields.in_part.get() == Some(true) {
        all.push("its event listed a part of its items only, and Stripe was not asked for the rest: what was known before counts".to_owned());
    }
    (!all.is_empty()).then(|| all.join("; "))
}

/// An item, and what is known of its price.
struct Known<'a> {
    item: &'a Item,
    plan: Option<OrganizationPlan>,
    seat: bool,
}

/// What a subscription pays for. Of a price the setting counts before what Stripe says of the price, and that before what it
/// says of the product; of what Stripe said at several times the last counts.
pub(crate) fn bought(
    subscription: &RemoteObject<Subscription>,
    catalogue: &Catalogue,
    settings: &SyncSettings,
) -> Bought {
    let fields = &subscription.fields;
    let mut unmapped = Vec::new();
    let mut known = Vec::new();
    for item in fields.items.known().into_iter().flatten() {
        let price = item.price.as_deref().unwrap_or_default();
        let own = catalogue.prices.get(price).map(|price| &price.fields);
        let product = item.product.as_deref().or_else(|| own?.product.text()).unwrap_or_default();
        let of_product = catalogue.products.get(product).map(|product| &product.fields);
        let plan_of = |name, own| fields.plans.latest(name, own).and_then(|label| OrganizationPlan::from_label(label));
        let seat_of = |name, own| fields.seats.latest(name, own).copied();
        let configured = settings.price_plans.get(price).copied();
        let plan = configured.unwrap_or_else(|| {
            plan_of(price, own.map(|own| &own.plan)).or_else(|| plan_of(product, of_product.map(|own| &own.plan)))
        });
        let in_file = settings.plans.price(price).filter(|(_, price)| price.seat).map(|_| true);
        let seat = in_file
            .or_else(|| seat_of(price, own.map(|own| &own.seat)))
            .or_else(|| seat_of(product, of_product.map(|own| &own.seat)));
        if plan.is_none() && seat.is_none() && configured.is_none() && !item.metered {
            unmapped.push(price.to_owned());
        }
        known.push(Known { item, plan, seat: seat == Some(true) });
    }
    let of_items = known.iter().filter_map(|known| known.plan).max();
    let plan = of_items.or_else(|| fields.plan.text().and_then(OrganizationPlan::from_label));
    let licensed: Vec<&Known<'_>> = known.iter().filter(|known| !known.item.metered).collect();
    // What buys the plan; where only the metadata of the subscription name it, what is paid for in advance.
    let buys = |known: &Known<'_>| if of_items.is_some() { known.plan == of_items } else { !known.item.metered };
    let (starts, ends) = period(known.iter().filter(|known| buys(known)).map(|known| known.item))
        .or_else(|| period(known.iter().map(|known| known.item)))
        .unwrap_or((fields.period_start.get(), fields.period_end.get()));
    unmapped.sort();
    unmapped.dedup();
    let sells_seats = licensed.iter().any(|known| known.seat);
    Bought { plan, seats: seats(&licensed, plan.is_some(), of_items), sells_seats, starts, ends, unmapped }
}

/// The period that these items share, if they have one.
pub(crate) fn period<'a>(items: impl Iterator<Item = &'a Item>) -> Option<(Option<i64>, Option<i64>)> {
    let (mut starts, mut ends) = (None, None);
    for item in items {
        starts = starts.max(item.starts);
        ends = match (ends, item.ends) {
            (Some(one), Some(other)) => Some(std::cmp::min::<i64>(one, other)),
            (one, other) => one.or(other),
        };
    }
    (starts.is_some() || ends.is_some()).then_some((starts, ends))
}

/// Sums quantities of the prices that are marked as seats; without those, of the prices that buy the plan. Where only the
/// metadata of the subscription name a plan, its one item buys it. What is not known buys no seats.
fn seats(licensed: &[&Known<'_>], has_plan: bool, of_items: Option<OrganizationPlan>) -> i32 {
    let sum = |counts: &dyn Fn(&Known<'_>) -> bool| {
        let mut counted = licensed.iter().filter(|known| counts(known)).peekable();
        counted.peek()?;
        Some(counted.fold(0_i64, |sum, known| sum.saturating_add(known.item.quantity.unwrap_or(1))))
    };
    let sum = sum(&|known| known.seat)
        .or_else(|| sum(&|known| of_items.is_some() && known.plan == of_items))
        .or_else(|| sum(&|_| has_plan && of_items.is_none() && licensed.len() == 1));
    i32::try_from(sum.unwrap_or(1)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/WEBHOOKS.md says which keys speak.
    #[test]
    fn lookup_keys_speak_when_all_their_words_are_known() {
        let (pro, none) = (Some(OrganizationPlan::Pro), None);
        for (key, plan, seat) in [
            ("pro", pro, false),
            ("PRO", pro, false),
            ("pro_monthly", pro, false),
            ("plan-pro-yearly-v2", pro, false),
            ("pro_2024_eur", pro, false),
            ("pro_seat_monthly", pro, true),
            ("pro_seats", pro, true),
            ("pro__", pro, false),
            ("extra_seats", none, true),
            ("additional_seat_yearly", none, true),
            ("enterprise_sso_addon", none, false),
            ("pro_extra_api_keys", none, false),
            ("pro_support_seats", none, false),
            ("pro_to_enterprise", none, false),
            ("pro_enterprise", none, false),
            ("approved", none, false),
            ("monthly", none, false),
            ("professional", none, false),
            ("", none, false),
        ] {
            assert_eq!(of_key(key), (plan, seat), "{key}");
        }
    }
}
