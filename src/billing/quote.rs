//! What a change of the subscription costs, and the form that makes it: one from the other, so that what was shown is what is
//! charged.

use chrono::{DateTime, Months, Utc};
use serde_json::Value;

use crate::billing::SubscriptionStatus;
use crate::billing::graphql::Wanted;
use crate::billing::prepare::{Chosen, Facts, choose, refuse_unchangeable, seats_of};
use crate::billing::remote::{RemoteItem, RemoteSubscription, money, patiently};
use crate::graphql::money::Money;
use crate::graphql::mutation::{UserErrorCode, VerbError, VerbResult};
use crate::graphql::session::Session;
use crate::organizations::OrganizationPlan;
use crate::plans::{PlanPrice, Plans, PriceInterval};
use crate::refunds::from_stripe;
use crate::stripe::{Form, StripeClient};

/// How long after its preview a change can be made, in seconds: longer than people need to decide.
const PREVIEW_LASTS: i64 = 3600;

/// What an item of a subscription is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Plan,
    Seats,
    Meter,
}

fn role(price: &PlanPrice) -> Role {
    match (&price.meter, price.seat) {
        (Some(_), _) => Role::Meter,
        (None, true) => Role::Seats,
        (None, false) => Role::Plan,
    }
}

/// An item that the subscription is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TargetItem {
    role: Role,
    pub price: String,
    /// None of metered prices.
    pub quantity: Option<i64>,
}

/// The items that a plan consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub items: Vec<TargetItem>,
}

impl Target {
    /// Of these prices with so many seats. A plan that has no price for seats is bought once for each of them.
    pub fn of(chosen: &Chosen<'_>, seats: i64) -> Self {
        let counts_seats = chosen.prices.iter().any(|price| price.seat);
        let items = chosen.prices.iter().map(|price| {
            let role = role(price);
            let quantity = match role {
                Role::Meter => None,
                Role::Plan if counts_seats => Some(1),
                Role::Plan | Role::Seats => Some(seats),
            };
            TargetItem { role, price: price.id.clone(), quantity }
        });
        Self { items: items.collect() }
    }
}

/// One change of the items of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// This item gets another price, or another quantity.
    Change(String, TargetItem),
    Add(TargetItem),
    Remove(String),
}

/// The steps from what there is to what is wanted. What no plan has, an add-on, stays.
fn steps(plans: &Plans, now: &[RemoteItem], target: &Target) -> Vec<Step> {
    let mut wanted = target.items.clone();
    let mut steps = Vec::new();
    // What has the right price keeps it; of the rest, each takes the next price of its role.
    let mut left: Vec<(&RemoteItem, Role)> = Vec::new();
    for item in now {
        let Some((_, price)) = plans.price(&item.price) else { continue };
        if let Some(at) = wanted.iter().position(|wanted| wanted.price == item.price) {
            let wanted = wanted.remove(at);
            if wanted.quantity != item.quantity {
                steps.push(Step::Change(item.id.clone(), wanted));
            }
        } else {
            left.push((item, role(price)));
        }
    }
    for (item, role) in left {
        match wanted.iter().position(|wanted| wanted.role == role) {
            Some(at) => steps.push(Step::Change(item.id.clone(), wanted.remove(at))),
            None => steps.push(Step::Remove(item.id.clone())),
        }
    }
    steps.extend(wanted.into_iter().map(Step::Add));
    steps
}

/// The plan, the interval and the seats that a subscription has, as the file of plans knows its prices.
pub(super) fn current(plans: &Plans, known: &RemoteSubscription) -> Option<(OrganizationPlan, PriceInterval, i64)> {
    let of_plans = || {
        known.items.iter().filter_map(|item| {
            let (plan, price) = plans.price(&item.price)?;
            Some((item, plan, price))
        })
    };
    let (_, plan, price) = of_plans().filter(|(.., price)| price.meter.is_none()).max_by_key(|(_, plan, _)| *plan)?;
    let seats =
        of_plans().find(|(.., price)| price.seat).or_else(|| of_plans().find(|(.., price)| price.meter.is_none()));
    Some((plan, price.interval, seats.and_then(|(item, ..)| item.quantity).unwrap_or(1)))
}

/// A line of a preview.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub description: String,
    pub amount: i64,
    pub is_proration: bool,
}

/// What a change costs.
#[derive(Clone, Debug)]
pub(super) struct Quote {
    pub plan: OrganizationPlan,
    pub seats: i64,
    steps: Vec<Step>,
    target: Target,
    currency: String,
    /// What is due now, and what is given back of what was paid, in Stripe's units.
    due: i64,
    credit: i64,
    renewal: i64,
    pub renews_at: Option<DateTime<Utc>>,
    pub proration_date: DateTime<Utc>,
    pub lines: Vec<Line>,
    is_invoiced: bool,
    is_collected: bool,
}

impl Quote {
    /// Asks Stripe what a change would cost. `at` is the moment of an earlier preview.
    pub async fn of(
        session: &Session,
        stripe: &StripeClient,
        facts: &Facts,
        known: &RemoteSubscription,
        wanted: &Wanted,
        at: Option<DateTime<Utc>>,
    ) -> VerbResult<Self> {
        let plans = &session.services().plans;
        let has = current(plans, known);
        let now = moment_of(session, stripe, known).await?;
        let proration_date = proration_date(known, now, at)?;
        if has.is_none() {
            let message = "The prices of the subscription stand in no plan: it can be changed in Stripe only.";
            return Err(VerbError::of_input(UserErrorCode::UnknownPrice, message));
        }
        let chosen = choose(session, wanted, has.map(|(plan, interval, _)| (plan, interval, known.currency.as_str())))?;
        let seats = seats_of(session, chosen.plan, wanted.seats, facts, has.map(|(.., seats)| seats))?;
        let target = Target::of(&chosen, seats);
        let steps = steps(plans, &known.items, &target);
        let mut quote = Self {
            plan: chosen.plan,
            seats,
            steps,
            target,
            currency: known.currency.to_ascii_uppercase(),
            due: 0,
            credit: 0,
            renewal: 0,
            renews_at: None,
            proration_date,
            lines: Vec::new(),
            is_invoiced: false,
            is_collected: known.is_collected,
        };
        if quote.steps.is_empty() && at.is_some() {
            let message = "The subscription has this plan and these seats already.";
            return Err(VerbError::of_input(UserErrorCode::InvalidTransition, message));
        }
        if !quote.steps.is_empty() {
            refuse_unchangeable(known)?;
            refuse_while_ending(known)?;
            quote.ask(stripe, known).await?;
        }
        quote
            .ask_renewal(stripe, known, has.map(|(_, interval, _)| interval) != Some(chosen.interval), chosen.interval)
            .await?;
        Ok(quote)
    }

    /// Asks what is due at once.
    async fn ask(&mut self, stripe: &StripeClient, known: &RemoteSubscription) -> VerbResult<()> {
        let invoice = patiently(stripe.preview_invoice(&self.preview(known, "always_invoice"))).await?;
        let (total, due) = (invoice["total"].as_i64(), invoice["amount_due"].as_i64());
        let (Some(total), Some(due)) = (total, due) else { return Err(unreadable()) };
        self.lines = lines(&invoice);
        self.credit =
            -self.lines.iter().filter(|line| line.is_proration && line.amount < 0).map(|line| line.amount).sum::<i64>();
        // What costs nothing more now goes onto the next invoice, with its credit.
        self.is_invoiced = total > 0;
        self.due = if self.is_invoiced { due } else { 0 };
        Ok(())
    }

    /// Asks what the next period costs.
    async fn ask_renewal(
        &mut self,
        stripe: &StripeClient,
        known: &RemoteSubscription,
        is_other_interval: bool,
        interval: PriceInterval,
    ) -> VerbResult<()> {
        if known.ends_with_period || known.cancel_at.is_some() {
            return Ok(());
        }
        let invoice = patiently(stripe.preview_invoice(&self.preview(known, "none"))).await?;
        self.renewal = invoice["total"].as_i64().ok_or_else(unreadable)?;
        let period_end = known.period_end().and_then(|end| DateTime::from_timestamp(end, 0));
        let months = Months::new(if interval == PriceInterval::Year { 12 } else { 1 });
        // Another interval begins a period at once.
        self.renews_at = if is_other_interval { self.proration_date.checked_add_months(months) } else { period_end };
        Ok(())
    }

    fn preview(&self, known: &RemoteSubscription, proration: &str) -> Form {
        let mut form =
            vec![("customer".to_owned(), known.customer.clone()), ("subscription".to_owned(), known.id.clone())];
        if !self.steps.is_empty() {
            self.items("subscription_details[items]", &mut form);
            form.push(("subscription_details[proration_behavior]".to_owned(), proration.to_owned()));
            if proration != "none" {
                let at = self.proration_date.timestamp().to_string();
                form.push(("subscription_details[proration_date]".to_owned(), at));
            }
        }
        form
    }

    fn items(&self, under: &str, form: &mut Form) {
        let mut add = |at: usize, name: &str, value: String| form.push((format!("{under}[{at}][{name}]"), value));
        for (at, step) in self.steps.iter().enumerate() {
            let (id, item) = match step {
                Step::Change(id, item) => (Some(id), Some(item)),
                Step::Add(item) => (None, Some(item)),
                Step::Remove(id) => (Some(id), None),
            };
            if let Some(id) = id {
                add(at, "id", id.clone());
            }
            if let Some(item) = item {
                add(at, "price", item.price.clone());
                if let Some(quantity) = item.quantity {
                    add(at, "quantity", quantity.to_string());
                }
            } else {
                add(at, "deleted", "true".to_owned());
            }
        }
    }

    /// The form that makes the change as it was shown. What must be paid takes effect when it is paid (Stripe documentation, "Pending
    /// updates").
    pub fn form(&self, known: &RemoteSubscription) -> Form {
        let mut form = Form::new();
        self.items("items", &mut form);
        let proration = if self.is_invoiced { "always_invoice" } else { "create_prorations" };
        form.push(("proration_behavior".to_owned(), proration.to_owned()));
        form.push(("proration_date".to_owned(), self.proration_date.timestamp().to_string()));
        // Only payments that Stripe collects by itself can be waited for, and items that are removed cannot wait.
        let removes = self.steps.iter().any(|step| matches!(step, Step::Remove(_)));
        if self.is_invoiced && self.is_collected && known.status != Some(SubscriptionStatus::Trialing) {
            let behavior = if removes { "error_if_incomplete" } else { "pending_if_incomplete" };
            form.push(("payment_behavior".to_owned(), behavior.to_owned()));
        }
        form.push(("expand[0]".to_owned(), "latest_invoice".to_owned()));
        form
    }

    /// The items in the end, so that a later look tells whether the change was made.
    pub fn result(&self) -> Vec<(String, Option<i64>)> {
        self.target.items.iter().map(|item| (item.price.clone(), item.quantity)).collect()
    }

    pub fn currency(&self) -> String {
        self.currency.clone()
    }

    /// What is due now, in our minor units.
    pub fn due_minor(&self) -> i64 {
        from_stripe(self.due, &self.currency).unwrap_or(self.due)
    }

    pub fn due(&self) -> Money {
        money(self.due, &self.currency)
    }

    pub fn credit(&self) -> Money {
        money(self.credit, &self.currency)
    }

    pub fn renewal(&self) -> Option<Money> {
        self.renews_at.map(|_| money(self.renewal, &self.currency))
    }

    pub fn line_amount(&self, line: &Line) -> Money {
        money(line.amount, &self.currency)
    }
}

fn unreadable() -> VerbError {
    VerbError::of_input(UserErrorCode::StripeUnavailable, "Stripe's preview cannot be read: ask again in a moment.")
}

fn refuse_while_ending(known: &RemoteSubscription) -> VerbResult<()> {
    if known.ends_with_period || known.cancel_at.is_some() {
        let message = "The subscription ends, and another plan would end with it: resume it first.";
        return Err(VerbError::of_input(UserErrorCode::InvalidTransition, message));
    }
    if known.status != Some(SubscriptionStatus::Active) && known.status != Some(SubscriptionStatus::Trialing) {
        let message = "A payment is overdue: pay the open invoice first, in the portal.";
        return Err(VerbError::of_input(UserErrorCode::PaymentRequired, message));
    }
    Ok(())
}

/// The time that counts for a subscription: that of its test clock, if it has one.
async fn moment_of(session: &Session, stripe: &StripeClient, known: &RemoteSubscription) -> VerbResult<DateTime<Utc>> {
    let frozen = match &known.test_clock {
        Some(clock) => patiently(stripe.frozen_time(clock)).await?,
        None => None,
    };
    Ok(frozen.and_then(|at| DateTime::from_timestamp(at, 0)).unwrap_or_else(|| session.clock().now()))
}

/// The moment that a change is reckoned from: now, or that of the preview that was looked at.
fn proration_date(
    known: &RemoteSubscription,
    now: DateTime<Utc>,
    at: Option<DateTime<Utc>>,
) -> VerbResult<DateTime<Utc>> {
    let whole = |at: DateTime<Utc>| DateTime::from_timestamp(at.timestamp(), 0).unwrap_or(at);
    let Some(at) = at.map(whole) else { return Ok(whole(now)) };
    let age = (now - at).num_seconds();
    let is_over = known.period_end().is_some_and(|end| now.timestamp() >= end && at.timestamp() < end);
    if !(-60..=PREVIEW_LASTS).contains(&age) || is_over {
        let message = "The preview is too old: look at a new one.";
        return Err(VerbError::user("prorationDate", UserErrorCode::PreviewOutdated, message));
    }
    Ok(at)
}

/// The lines of an invoice that is previewed.
fn lines(invoice: &Value) -> Vec<Line> {
    let listed = invoice["lines"]["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let lines = listed.iter().filter_map(|line| {
        let parent = &line["parent"];
        let details = ["subscription_item_details", "invoice_item_details"];
        // Before API version 2025-03-31 the line said it.
        let is_proration =
            line["proration"] == true || details.iter().any(|details| parent[details]["proration"] == true);
        let description = line["description"].as_str().unwrap_or_default().chars().take(500).collect();
        Some(Line { description, amount: line["amount"].as_i64()?, is_proration })
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLANS: &str = r#"
        [FREE]
        [STARTER]
        [[STARTER.prices]]
        id = "starter"
        interval = "MONTH"
        [PRO]
        [[PRO.prices]]
        id = "pro"
        interval = "MONTH"
        [[PRO.prices]]
        id = "pro_seat"
        interval = "MONTH"
        seat = true
        [[PRO.prices]]
        id = "pro_usage"
        interval = "MONTH"
        meter = "tokens"
        [ENTERPRISE]
        [[ENTERPRISE.prices]]
        id = "ent_seat"
        interval = "YEAR"
        seat = true
    "#;

    fn item(id: &str, price: &str, quantity: Option<i64>) -> RemoteItem {
        RemoteItem {
            id: id.to_owned(),
            price: price.to_owned(),
            quantity,
            is_metered: quantity.is_none(),
            interval: None,
            ends: None,
        }
    }

    fn target(plans: &Plans, plan: OrganizationPlan, seats: i64) -> Target {
        let prices: Vec<&PlanPrice> = plans.of(plan).prices.iter().collect();
        Target::of(&Chosen { plan, interval: prices[0].interval, prices }, seats)
    }

    fn shown(steps: &[Step]) -> Vec<String> {
        let step = |step: &Step| match step {
            Step::Change(id, item) => format!("{id} -> {} x {:?}", item.price, item.quantity),
            Step::Add(item) => format!("+ {} x {:?}", item.price, item.quantity),
            Step::Remove(id) => format!("- {id}"),
        };
        steps.iter().map(step).collect()
    }

    #[test]
    fn items_become_those_of_the_plan() {
        use OrganizationPlan::{Enterprise, Pro, Starter};
        let plans = Plans::parse(PLANS).expect("plans");
        let pro = [item("a", "pro", Some(1)), item("b", "pro_seat", Some(5)), item("c", "pro_usage", None)];
        let with_addon = [&pro[..], &[item("d", "addon", Some(1))]].concat();
        let steps = |now: &[RemoteItem], plan, seats| shown(&super::steps(&plans, now, &target(&plans, plan, seats)));
        assert_eq!(steps(&pro, Pro, 5), [""; 0]);
        assert_eq!(steps(&with_addon, Pro, 7), ["b -> pro_seat x Some(7)"]);
        assert_eq!(steps(&with_addon, Enterprise, 5), ["- a", "b -> ent_seat x Some(5)", "- c"]);
        assert_eq!(steps(&pro, Starter, 3), ["a -> starter x Some(3)", "- b", "- c"]);
        assert_eq!(
            steps(&[item("a", "starter", Some(3))], Pro, 3),
            ["a -> pro x Some(1)", "+ pro_seat x Some(3)", "+ pro_usage x None"]
        );
        // An item that nobody knows is nobody's to change.
        assert_eq!(steps(&[item("x", "legacy", Some(1))], Starter, 1), ["+ starter x Some(1)"]);
    }
}
