//! What is to be sent to Stripe, made of an input, of what is known here and of what Stripe has: before the transaction that writes
//! the action down, because Stripe is asked.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::access::Action;
use crate::billing::graphql::{
    BillingCancelInput, BillingCheckoutCreateInput, BillingPlanChangeInput, BillingPortalCreateInput,
    BillingResumeInput, BillingWhen, Wanted,
};
use crate::billing::quote::{Quote, Target};
use crate::billing::remote::{Held, RemoteSubscription, patiently};
use crate::billing::{BillingActionKind, SubscriptionStatus, lives};
use crate::error::Result;
use crate::graphql::mutation::{Checks, UserErrorCode, VerbError, VerbResult};
use crate::graphql::session::Session;
use crate::id::OrganizationId;
use crate::organizations::OrganizationPlan;
use crate::plans::{PlanPrice, PriceInterval, SeatPolicy};
use crate::stripe::{Form, StripeClient, StripeObject};

/// Most seats that are bought at once.
pub(super) const MOST_SEATS: i32 = 100_000;
/// Most characters of an address to come back to.
const LONGEST_URL: usize = 2000;

/// What is sent to Stripe, as it is kept with the action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    /// Below `/v1`.
    pub path: String,
    /// Empty with `ends`: the subscription is ended at once.
    pub form: Form,
    #[serde(default)]
    pub ends: bool,
    /// Sessions of checkouts that this one takes the place of.
    #[serde(default)]
    pub expires: Vec<String>,
    /// The items that the subscription has in the end: price and quantity.
    #[serde(default)]
    pub items: Vec<(String, Option<i64>)>,
    /// The subscription that is changed.
    #[serde(default)]
    pub subscription: Option<String>,
}

/// An action before it is written down.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub kind: BillingActionKind,
    pub request: Request,
    pub fingerprint: [u8; 32],
    /// When Stripe was asked for what it is made of.
    pub asked_at: DateTime<Utc>,
}

impl Draft {
    fn new(kind: BillingActionKind, request: Request, asked_at: DateTime<Utc>) -> Result<Self> {
        let text = serde_json::to_vec(&(kind.label(), &request)).map_err(crate::error::Error::internal)?;
        Ok(Self { kind, request, fingerprint: Sha256::digest(&text).into(), asked_at })
    }
}

/// What is known here of who asks and for whom.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub organization: OrganizationId,
    pub customer: Option<String>,
    /// The subscription at Stripe.
    pub subscription: Option<String>,
    pub status: Option<SubscriptionStatus>,
    /// Members who take a seat.
    pub seats: i32,
    email: Option<String>,
    /// Sessions of checkouts that can still be paid.
    open_sessions: Vec<String>,
}

/// Reads the facts, if the viewer may do with the billing what they want to.
pub(super) async fn facts(session: &Session) -> Result<Facts> {
    let mut tx = session.write(Action::BillingManage).await?;
    let tenant = tx.tenant();
    let row = sqlx::query!(
        r#"select s.stripe_customer_id as "customer?", s.stripe_subscription_id as "subscription?", s.status as "status?: SubscriptionStatus",
                  (select u.email from tenantry.users u where u.id = $2) as email,
                  (select count(*) from tenantry.organization_members m
                    where m.organization_id = o.id and m.deleted_at is null and (m.role <> 'VIEWER' or m.custom_role_id is not null)) as "seats!",
                  array(select a.stripe_id from tenantry.billing_actions a
                         where a.organization_id = o.id and a.kind = 'CHECKOUT' and a.status = 'DONE' and a.stripe_id is not null
                           and a.expires_at > $3 order by a.created_at desc limit 5) as "sessions!: Vec<String>"
             from tenantry.organizations o left join tenantry.subscriptions s on s.organization_id = o.id
            where o.id = $1"#,
        tenant.organization_id as _,
        tenant.actor.uuid(),
        session.clock().now()
    )
    .fetch_one(tx.conn())
    .await?;
    tx.finish(false).await?;
    Ok(Facts {
        organization: tenant.organization_id,
        customer: row.customer,
        subscription: row.subscription,
        status: row.status,
        seats: i32::try_from(row.seats).unwrap_or(MOST_SEATS).max(1),
        email: row.email,
        open_sessions: row.sessions,
    })
}

/// The client of Stripe's API.
pub(super) fn client(session: &Session) -> VerbResult<Arc<StripeClient>> {
    session.services().stripe.clone().ok_or_else(|| {
        let message = "Billing is not set up here: the operator sets STRIPE_SECRET_KEY.";
        VerbError::of_input(UserErrorCode::BillingNotConfigured, message)
    })
}

/// Checks an address to come back to: on one of the origins of the client application, so that nobody is led elsewhere.
fn return_url(checks: &mut Checks, session: &Session, field: &str, given: Option<&str>, default: &str) -> String {
    let services = session.services();
    let Some(given) = given.map(str::trim) else { return format!("{}{default}", services.app_url) };
    if given.len() > LONGEST_URL {
        checks.refuse(field, UserErrorCode::TooLong, format!("`{field}` takes at most {LONGEST_URL} characters."));
    }
    if !services.return_origins.iter().any(|allowed| is_below(given, allowed)) {
        let message = format!(
            "`{field}` must be on an origin of the client application: {}.",
            services.return_origins.join(", ")
        );
        checks.refuse(field, UserErrorCode::UrlNotAllowed, message);
    }
    given.to_owned()
}

/// Whether an address has this origin. What browsers read in another way than it is written is no address: control characters,
/// spaces and backslashes.
fn is_below(url: &str, origin: &str) -> bool {
    let is_plain = url.chars().all(|c| !c.is_control() && !c.is_whitespace() && c != '\\');
    let rest = url.get(..origin.len()).filter(|start| start.eq_ignore_ascii_case(origin)).map(|_| &url[origin.len()..]);
    is_plain && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
}

/// What somebody wants to subscribe to.
pub(super) struct Chosen<'a> {
    pub plan: OrganizationPlan,
    pub interval: PriceInterval,
    pub prices: Vec<&'a PlanPrice>,
}

/// The prices of a plan for an interval and a currency. `now` is what the subscription has, where nothing else is said.
pub(super) fn choose<'a>(
    session: &'a Session,
    wanted: &Wanted,
    now: Option<(OrganizationPlan, PriceInterval, &str)>,
) -> VerbResult<Chosen<'a>> {
    let plans = &session.services().plans;
    let unknown = |field: &str, message: String| VerbError::user(field, UserErrorCode::UnknownPrice, message);
    let (plan, interval, currency) = if let Some(id) = &wanted.price_id {
        let (plan, price) = plans
            .price(id)
            .filter(|(_, price)| price.meter.is_none())
            .ok_or_else(|| unknown("priceId", "No plan has this price.".to_owned()))?;
        if wanted.plan.is_some_and(|named| named != plan) || wanted.interval.is_some_and(|said| said != price.interval)
        {
            return Err(unknown("priceId", format!("The price is of another plan or interval: {}.", plan.label())));
        }
        (plan, price.interval, price.currency.clone())
    } else {
        let plan = wanted.plan.or(now.map(|(plan, ..)| plan));
        let plan = plan.ok_or_else(|| VerbError::user("plan", UserErrorCode::Blank, "Name a plan or a price."))?;
        let interval = wanted.interval.or(now.map(|(_, interval, _)| interval)).unwrap_or(PriceInterval::Month);
        (plan, interval, wanted.currency.as_ref().map(|code| code.as_str().to_owned()))
    };
    let currency = currency.or_else(|| now.map(|(.., currency)| currency.to_ascii_uppercase()));
    let of_interval = |price: &&PlanPrice| price.interval == interval;
    let fits = |price: &&PlanPrice| match (&price.currency, &currency) {
        (Some(of_price), Some(currency)) => of_price == currency,
        _ => true,
    };
    let mut prices: Vec<&PlanPrice> = plans.of(plan).prices.iter().filter(of_interval).filter(fits).collect();
    if currency.is_none()
        && let Some(first) = prices.iter().find_map(|price| price.currency.as_deref())
    {
        // All of one currency: the first that the file names.
        prices.retain(|price| price.currency.as_deref().is_none_or(|of_price| of_price == first));
    }
    if !prices.iter().any(|price| price.meter.is_none()) {
        let message = format!("{} has no price for this interval and currency.", plan.label());
        return Err(unknown(if wanted.price_id.is_some() { "priceId" } else { "plan" }, message));
    }
    Ok(Chosen { plan, interval, prices })
}

/// How many seats are bought. Where they follow the members, the members decide.
pub(super) fn seats_of(
    session: &Session,
    plan: OrganizationPlan,
    wanted: Option<i32>,
    facts: &Facts,
    now: Option<i64>,
) -> VerbResult<i64> {
    let mut checks = Checks::default();
    checks.within("seats", wanted, 1..=MOST_SEATS);
    checks.finish()?;
    if session.services().plans.of(plan).seat_policy == SeatPolicy::Automatic {
        return Ok(facts.seats.into());
    }
    Ok(wanted.map(i64::from).or(now).unwrap_or(1))
}

#[expect(clippy::needless_pass_by_value, reason = "numbers, texts and switches are written alike")]
fn pair(name: impl Into<String>, value: impl ToString) -> (String, String) {
    (name.into(), value.to_string())
}

fn exists(message: &str) -> VerbError {
    VerbError::of_input(UserErrorCode::SubscriptionExists, message)
}

/// Refuses a checkout of an organization that pays already, here or only at Stripe so far.
async fn refuse_second(stripe: &StripeClient, facts: &Facts) -> VerbResult<()> {
    if facts.status.is_some_and(lives) {
        return Err(exists(
            "The organization has a subscription: change it with `billingPlanChange`, or in the portal.",
        ));
    }
    if let Some(customer) = &facts.customer {
        let page = patiently(stripe.subscriptions(Some(customer), None)).await?;
        if page.objects.iter().filter_map(RemoteSubscription::read).any(|known| known.lives()) {
            return Err(exists("Stripe has a subscription of the organization already: it arrives here in a moment."));
        }
    }
    for session in &facts.open_sessions {
        let found = patiently(stripe.object(&StripeObject::Checkout(session.clone()))).await?;
        if found.is_some_and(|found| found["status"] == "complete") {
            return Err(exists("A checkout of the organization was completed: its subscription arrives in a moment."));
        }
    }
    Ok(())
}

pub(super) async fn checkout(session: &Session, input: &BillingCheckoutCreateInput) -> VerbResult<Draft> {
    let asked_at = session.clock().now();
    let facts = facts(session).await?;
    let stripe = client(session)?;
    let mut checks = Checks::default();
    let done = "/billing?checkout=done";
    let success = return_url(&mut checks, session, "successUrl", input.success_url.as_deref(), done);
    let back = return_url(&mut checks, session, "cancelUrl", input.cancel_url.as_deref(), "/billing");
    checks.finish()?;
    let chosen = choose(session, &input.wanted(), None)?;
    let seats = seats_of(session, chosen.plan, input.seats, &facts, None)?;
    refuse_second(&stripe, &facts).await?;
    let organization = facts.organization.to_string();
    let mut form = vec![
        pair("mode", "subscription"),
        pair("success_url", success),
        pair("cancel_url", back),
        pair("client_reference_id", &organization),
        pair("metadata[organization_id]", &organization),
        pair("subscription_data[metadata][organization_id]", &organization),
    ];
    match (&facts.customer, &facts.email) {
        (Some(customer), _) => form.push(pair("customer", customer)),
        (None, Some(email)) => form.push(pair("customer_email", email)),
        (None, None) => {}
    }
    for (at, item) in Target::of(&chosen, seats).items.iter().enumerate() {
        form.push(pair(format!("line_items[{at}][price]"), &item.price));
        form.extend(item.quantity.map(|quantity| pair(format!("line_items[{at}][quantity]"), quantity)));
    }
    // A trial is for those who never had a subscription.
    let trial = session.services().plans.of(chosen.plan).trial_days.filter(|_| facts.status.is_none());
    form.extend(trial.map(|days| pair("subscription_data[trial_period_days]", days)));
    let request = Request { path: "/checkout/sessions".to_owned(), form, ..Request::none() };
    Ok(Draft::new(BillingActionKind::Checkout, request, asked_at)?)
}

impl Request {
    fn none() -> Self {
        Self {
            path: String::new(),
            form: Vec::new(),
            ends: false,
            expires: Vec::new(),
            items: Vec::new(),
            subscription: None,
        }
    }
}

pub(super) async fn portal(session: &Session, input: &BillingPortalCreateInput) -> VerbResult<Draft> {
    let asked_at = session.clock().now();
    let facts = facts(session).await?;
    client(session)?;
    let mut checks = Checks::default();
    let back = return_url(&mut checks, session, "returnUrl", input.return_url.as_deref(), "/billing");
    checks.finish()?;
    let customer = facts.customer.ok_or_else(|| {
        VerbError::of_input(UserErrorCode::NoSubscription, "The organization is no customer yet: subscribe first.")
    })?;
    let mut form = vec![pair("customer", customer), pair("return_url", back)];
    if input.payment_method == Some(true) {
        form.push(pair("flow_data[type]", "payment_method_update"));
    }
    let request = Request { path: "/billing_portal/sessions".to_owned(), form, ..Request::none() };
    Ok(Draft::new(BillingActionKind::Portal, request, asked_at)?)
}

/// The living subscription as Stripe has it, and who asks for its change.
pub(super) async fn living(session: &Session) -> VerbResult<(Facts, RemoteSubscription)> {
    let facts = facts(session).await?;
    let stripe = client(session)?;
    let none = || {
        let message = "The organization has no living subscription: subscribe with `billingCheckoutCreate`.";
        VerbError::of_input(UserErrorCode::NoSubscription, message)
    };
    let id = facts.subscription.as_deref().filter(|_| facts.status.is_some_and(lives)).ok_or_else(none)?;
    let found = patiently(stripe.subscription(id)).await?;
    let known = found.as_ref().and_then(RemoteSubscription::read).filter(|known| known.id == id);
    let ours = session.services().stripe_livemode;
    let known =
        known.filter(|known| ours.is_none() || known.is_live.is_none() || known.is_live == ours).ok_or_else(|| {
            let message =
                "Stripe does not have the subscription in the mode that this service works in (test or live).";
            VerbError::of_input(UserErrorCode::WrongMode, message)
        })?;
    if !known.lives() {
        return Err(none());
    }
    Ok((facts, known))
}

/// Refuses what Stripe does not change, or what would not be what it looks like.
pub(super) fn refuse_unchangeable(known: &RemoteSubscription) -> VerbResult<()> {
    let (code, message) = match known.held {
        None => return Ok(()),
        Some(Held::BySchedule) => {
            (UserErrorCode::InvalidTransition, "A schedule in Stripe decides about the subscription: change it there.")
        }
        Some(Held::ByPayment) => (
            UserErrorCode::PaymentRequired,
            "An earlier change waits for its payment: pay its invoice, or wait until it expires.",
        ),
    };
    Err(VerbError::of_input(code, message))
}

pub(super) async fn plan_change(session: &Session, input: &BillingPlanChangeInput) -> VerbResult<Draft> {
    let asked_at = session.clock().now();
    let mut checks = Checks::default();
    let expected = input.expected_due.check(&mut checks, "expectedDue", 0);
    checks.finish()?;
    let (facts, known) = living(session).await?;
    let stripe = client(session)?;
    let quote = Quote::of(session, &stripe, &facts, &known, &input.wanted(), Some(input.proration_date)).await?;
    if (quote.due_minor(), quote.currency()) != (expected, input.expected_due.currency_code.as_str().to_owned()) {
        let due = quote.due();
        let message = format!(
            "Now {} {} would be due: look at a new preview, and decide anew.",
            due.amount,
            due.currency_code.as_str()
        );
        return Err(VerbError::user("expectedDue", UserErrorCode::PreviewOutdated, message));
    }
    let request = Request {
        path: format!("/subscriptions/{}", known.id),
        form: quote.form(&known),
        items: quote.result(),
        subscription: Some(known.id),
        ..Request::none()
    };
    Ok(Draft::new(BillingActionKind::PlanChange, request, asked_at)?)
}

pub(super) async fn cancel(session: &Session, input: &BillingCancelInput) -> VerbResult<Draft> {
    let asked_at = session.clock().now();
    let (_, known) = living(session).await?;
    refuse_unchangeable(&known)?;
    let path = format!("/subscriptions/{}", known.id);
    let subscription = Some(known.id);
    let request = match input.when.unwrap_or(BillingWhen::PeriodEnd) {
        BillingWhen::Now => Request { path, ends: true, subscription, ..Request::none() },
        BillingWhen::PeriodEnd if known.ends_with_period || known.cancel_at.is_some() => {
            return Err(VerbError::user(
                "when",
                UserErrorCode::InvalidTransition,
                "It ends already: `cancelAt` says when.",
            ));
        }
        BillingWhen::PeriodEnd => {
            Request { path, form: vec![pair("cancel_at_period_end", true)], subscription, ..Request::none() }
        }
    };
    Ok(Draft::new(BillingActionKind::Cancel, request, asked_at)?)
}

pub(super) async fn resume(session: &Session, _input: &BillingResumeInput) -> VerbResult<Draft> {
    let asked_at = session.clock().now();
    let (_, known) = living(session).await?;
    refuse_unchangeable(&known)?;
    let path = format!("/subscriptions/{}", known.id);
    let subscription = Some(known.id.clone());
    let (path, form) = if known.status == Some(SubscriptionStatus::Paused) {
        (format!("{path}/resume"), vec![pair("billing_cycle_anchor", "now")])
    } else if known.ends_with_period {
        (path, vec![pair("cancel_at_period_end", false)])
    } else if known.cancel_at.is_some() {
        (path, vec![pair("cancel_at", "")])
    } else {
        return Err(VerbError::of_input(
            UserErrorCode::InvalidTransition,
            "It does not end: there is nothing to resume.",
        ));
    };
    Ok(Draft::new(BillingActionKind::Resume, Request { path, form, subscription, ..Request::none() }, asked_at)?)
}

/// The key under which Stripe knows an action.
pub(super) fn key(organization: OrganizationId, action: Uuid, attempt: i32) -> String {
    format!("tenantry-billing-{organization}-{}-{attempt}", action.simple())
}

#[cfg(test)]
mod tests {
    use super::is_below;

    #[test]
    fn nobody_is_led_elsewhere() {
        let origin = "https://app.example";
        for url in
            ["https://app.example", "https://app.example/a?b#c", "HTTPS://APP.example/x", "https://app.example?x"]
        {
            assert!(is_below(url, origin), "{url}");
        }
        for url in [
            "https://app.example.evil.com/",
            "https://app.example@evil.com/",
            "https://app.example:444/",
            "https://app.example\\@evil.com/",
            "https://app.example/\nx",
            "http://app.example/",
            "//app.example/",
            "javascript:alert(1)",
            "https://evil.com/?https://app.example",
            "https://app.exampl",
            "",
            "ü",
        ] {
            assert!(!is_below(url, origin), "{url}");
        }
    }
}
