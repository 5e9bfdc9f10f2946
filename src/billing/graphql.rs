//! Billing in the schema: its mutations, `billingPlanPreview` and `subscriptionChanged`.

use std::sync::Arc;

use async_graphql::{Context, Enum, InputObject, Object, SimpleObject, Subscription as Streams};
use chrono::{DateTime, Utc};
use futures_util::Stream;

use crate::billing::actions::{self, Prepared};
use crate::billing::quote::Quote;
use crate::billing::{BillingAction, Subscription, prepare};
use crate::error::Result;
use crate::graphql::follow::follow;
use crate::graphql::money::{CurrencyCode, Money, MoneyInput};
use crate::graphql::mutation::{UserError, VerbResult, outcome};
use crate::graphql::session::Session;
use crate::id::marker;
use crate::organizations::OrganizationPlan;
use crate::plans::PriceInterval;

/// When a subscription is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum BillingWhen {
    /// With the period that is paid.
    PeriodEnd,
    /// At once. Nothing is given back of the period.
    Now,
}

/// What somebody wants to subscribe to; what is missing stays as it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub plan: Option<OrganizationPlan>,
    pub price_id: Option<String>,
    pub interval: Option<PriceInterval>,
    pub currency: Option<CurrencyCode>,
    pub seats: Option<i32>,
}

/// A subscription to buy.
#[derive(Debug, InputObject)]
pub struct BillingCheckoutCreateInput {
    /// The plan; or name its price.
    pub plan: Option<OrganizationPlan>,
    /// Stripe's id of a price of a plan.
    pub price_id: Option<String>,
    /// How often it is paid; MONTH by default.
    pub interval: Option<PriceInterval>,
    /// The currency; without it, the first that the plan has prices in.
    pub currency: Option<CurrencyCode>,
    /// Number of seats: 1 to 100,000; 1 by default. Where seats follow the members, there are as many as members.
    pub seats: Option<i32>,
    /// Where to go after the payment: on an origin of the client application.
    pub success_url: Option<String>,
    /// Where to go without a payment: on an origin of the client application.
    pub cancel_url: Option<String>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input makes nothing new.
    pub idempotency_key: String,
    #[graphql(skip)]
    pub(super) prepared: Prepared,
}

/// A page of Stripe's portal to make.
#[derive(Debug, InputObject)]
pub struct BillingPortalCreateInput {
    /// Where to go afterwards: on an origin of the client application.
    pub return_url: Option<String>,
    /// Whether it is for changing the payment method, and nothing else.
    pub payment_method: Option<bool>,
    /// Idempotency key, 1 to 255 characters: a repeated request has the same page, which may have expired.
    pub idempotency_key: String,
    #[graphql(skip)]
    pub(super) prepared: Prepared,
}

/// A change of the subscription to look at. What is missing stays as it is; with nothing, the next renewal is shown.
#[derive(Debug, InputObject)]
pub struct BillingPlanPreviewInput {
    /// Another plan; or name its price.
    pub plan: Option<OrganizationPlan>,
    /// Stripe's id of a price of a plan.
    pub price_id: Option<String>,
    /// Another interval.
    pub interval: Option<PriceInterval>,
    /// Number of seats: 1 to 100,000.
    pub seats: Option<i32>,
}

/// A change of the subscription, as it was shown by `billingPlanPreview`.
#[derive(Debug, InputObject)]
pub struct BillingPlanChangeInput {
    /// As in the preview.
    pub plan: Option<OrganizationPlan>,
    /// As in the preview.
    pub price_id: Option<String>,
    /// As in the preview.
    pub interval: Option<PriceInterval>,
    /// As in the preview.
    pub seats: Option<i32>,
    /// `prorationDate` of the preview, at most an hour ago.
    pub proration_date: DateTime<Utc>,
    /// `due` of the preview. If another amount would be due by now, nothing is changed (`PREVIEW_OUTDATED`).
    pub expected_due: MoneyInput,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: String,
    #[graphql(skip)]
    pub(super) prepared: Prepared,
}

/// The end of the subscription.
#[derive(Debug, InputObject)]
pub struct BillingCancelInput {
    /// When; `PERIOD_END` by default.
    pub when: Option<BillingWhen>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: String,
    #[graphql(skip)]
    pub(super) prepared: Prepared,
}

/// The end of a cancellation, or of a pause.
#[derive(Debug, InputObject)]
pub struct BillingResumeInput {
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: String,
    #[graphql(skip)]
    pub(super) prepared: Prepared,
}

impl BillingCheckoutCreateInput {
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            plan: self.plan,
            price_id: self.price_id.clone(),
            interval: self.interval,
            currency: self.currency.clone(),
            seats: self.seats,
        }
    }
}

impl BillingPlanChangeInput {
    pub(super) fn wanted(&self) -> Wanted {
        let (plan, price_id, interval, seats) = (self.plan, self.price_id.clone(), self.interval, self.seats);
        Wanted { plan, price_id, interval, seats, currency: None }
    }
}

impl BillingPlanPreviewInput {
    fn wanted(&self) -> Wanted {
        let (plan, price_id, interval, seats) = (self.plan, self.price_id.clone(), self.interval, self.seats);
        Wanted { plan, price_id, interval, seats, currency: None }
    }
}

/// The result of the mutations of billing.
#[derive(Debug, SimpleObject)]
pub struct BillingActionPayload {
    /// What was asked of Stripe, and what became of it; null when nothing was.
    pub action: Option<Arc<BillingAction>>,
    /// Errors of the input, and why Stripe has not done it; empty on success.
    pub user_errors: Vec<UserError>,
}

/// A line of an invoice that would be made.
#[derive(Debug, SimpleObject)]
pub struct BillingPreviewLine {
    /// What it is for, in Stripe's words.
    pub description: String,
    /// Amount; negative: a credit.
    pub amount: Money,
    /// Whether it is of a part of a period.
    pub is_proration: bool,
}

/// When and for how much the subscription is renewed.
#[derive(Debug, SimpleObject)]
pub struct BillingRenewal {
    /// When; null when it ends.
    pub at: Option<DateTime<Utc>>,
    /// Amount with taxes and discounts, before what is left of credits and of usage until then; null when it ends.
    pub amount: Option<Money>,
}

/// What a change of the subscription costs.
#[derive(Debug, SimpleObject)]
pub struct BillingPlanPreview {
    /// The plan.
    pub plan: OrganizationPlan,
    /// Number of seats.
    pub seats: i64,
    /// Amount due at once; 0: the difference goes onto the next invoice. Pass it as `expectedDue`.
    pub due: Money,
    /// Credit for what was paid and is not used.
    pub credit: Money,
    /// The lines, at most the first page of Stripe's.
    pub lines: Vec<BillingPreviewLine>,
    /// The next renewal after the change.
    pub next_renewal: BillingRenewal,
    /// The moment that parts of periods are reckoned from. Pass it to `billingPlanChange`.
    pub proration_date: DateTime<Utc>,
}

/// The result of `billingPlanPreview`.
#[derive(Debug, SimpleObject)]
pub struct BillingPlanPreviewPayload {
    /// The preview; null when there are errors.
    pub preview: Option<BillingPlanPreview>,
    /// Errors of the input, and why Stripe gave none; empty on success.
    pub user_errors: Vec<UserError>,
}

impl From<Quote> for BillingPlanPreview {
    fn from(quote: Quote) -> Self {
        let line = |line: &crate::billing::quote::Line| BillingPreviewLine {
            description: line.description.clone(),
            amount: quote.line_amount(line),
            is_proration: line.is_proration,
        };
        Self {
            plan: quote.plan,
            seats: quote.seats,
            due: quote.due(),
            credit: quote.credit(),
            lines: quote.lines.iter().map(line).collect(),
            next_renewal: BillingRenewal { at: quote.renews_at, amount: quote.renewal() },
            proration_date: quote.proration_date,
        }
    }
}

async fn preview(session: &Session, input: &BillingPlanPreviewInput) -> VerbResult<BillingPlanPreview> {
    let (facts, known) = prepare::living(session).await?;
    let stripe = prepare::client(session)?;
    Ok(Quote::of(session, &stripe, &facts, &known, &input.wanted(), None).await?.into())
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct BillingMutation;

#[Object]
impl BillingMutation {
    /// Makes a page at Stripe where the organization subscribes; `action.url` leads there. An organization has one open page: the same
    /// again is the same page, another takes its place. Refused while there is a living subscription.
    async fn billing_checkout_create(
        &self,
        ctx: &Context<'_>,
        mut input: BillingCheckoutCreateInput,
    ) -> Result<BillingActionPayload> {
        input.prepared = Prepared::of(prepare::checkout(Session::of(ctx)?, &input).await)?;
        actions::perform(ctx, input).await
    }

    /// Makes a page of Stripe's portal, for payment methods, invoices and addresses; `action.url` leads there.
    async fn billing_portal_create(
        &self,
        ctx: &Context<'_>,
        mut input: BillingPortalCreateInput,
    ) -> Result<BillingActionPayload> {
        input.prepared = Prepared::of(prepare::portal(Session::of(ctx)?, &input).await)?;
        actions::perform(ctx, input).await
    }

    /// Shows what another plan, interval or number of seats would cost, or when and for how much the subscription is renewed. It changes
    /// nothing; it is a mutation because it asks Stripe.
    async fn billing_plan_preview(
        &self,
        ctx: &Context<'_>,
        input: BillingPlanPreviewInput,
    ) -> Result<BillingPlanPreviewPayload> {
        let (preview, user_errors) = outcome(preview(Session::of(ctx)?, &input).await)?;
        Ok(BillingPlanPreviewPayload { preview, user_errors })
    }

    /// Changes plan, interval or seats at once, for what `billingPlanPreview` has shown. What costs more is charged now, and takes effect
    /// when it is paid; if the payment needs the payer, `action.url` leads to the invoice. What costs less is credited to the next invoice.
    async fn billing_plan_change(
        &self,
        ctx: &Context<'_>,
        mut input: BillingPlanChangeInput,
    ) -> Result<BillingActionPayload> {
        input.prepared = Prepared::of(prepare::plan_change(Session::of(ctx)?, &input).await)?;
        actions::perform(ctx, input).await
    }

    /// Ends the subscription, with the period or at once.
    async fn billing_cancel(&self, ctx: &Context<'_>, mut input: BillingCancelInput) -> Result<BillingActionPayload> {
        input.prepared = Prepared::of(prepare::cancel(Session::of(ctx)?, &input).await)?;
        actions::perform(ctx, input).await
    }

    /// Takes back that the subscription ends, or ends its pause.
    async fn billing_resume(&self, ctx: &Context<'_>, mut input: BillingResumeInput) -> Result<BillingActionPayload> {
        input.prepared = Prepared::of(prepare::resume(Session::of(ctx)?, &input).await)?;
        actions::perform(ctx, input).await
    }
}

/// A change of the subscription.
#[derive(Debug, SimpleObject)]
pub struct SubscriptionChange {
    /// The current subscription.
    pub subscription: Arc<Subscription>,
}

/// The subscriptions of the slice.
#[derive(Debug, Default)]
pub struct BillingSubscription;

#[Streams]
impl BillingSubscription {
    /// Emits the organization's subscription when its plan, seats, status, dates or payment problem change, as it is when it is sent.
    async fn subscription_changed(&self, ctx: &Context<'_>) -> Result<impl Stream<Item = Result<SubscriptionChange>>> {
        follow::<marker::Subscription, _>(ctx, None, |subscription| SubscriptionChange { subscription }).await
    }
}
