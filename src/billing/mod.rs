//! The subscription of an organization, its invoices, and what people ask of Stripe about them.
//!
//! Invariants: Stripe decides about money, and rows of subscriptions and invoices follow its webhooks; an action is written down
//! before it is sent, under a key that Stripe knows it by until it has answered; Stripe is asked outside of transactions, by
//! mutations and by jobs, never by a query; what was shown in a preview is what is charged. `docs/BILLING.md` has the whole.

mod actions;
mod grace;
mod graphql;
mod leftover;
mod meters;
mod prepare;
mod quote;
mod remote;
mod seats;

use std::sync::Arc;

use chrono::{DateTime, Utc};

pub use grace::end_grace;
pub use graphql::{
    BillingCancelInput, BillingCheckoutCreateInput, BillingMutation, BillingPlanChangeInput, BillingPortalCreateInput,
    BillingResumeInput, BillingSubscription,
};
pub use leftover::finish_actions;
pub use meters::send_usage;
pub use remote::{InvoiceSaid, save_invoice};
pub use seats::{mark_all_seats, sync_seats};

use crate::access::Action;
use crate::db::Bind;
use crate::error::Result;
use crate::graphql::entity::Entity as _;
use crate::graphql::filter::DateTimeFilter;
use crate::graphql::money::Money;
use crate::graphql::mutation::MutationInfo;
use crate::graphql::session::Session;
use crate::id::{BillingActionId, InvoiceId, SubscriptionId, UserId};
use crate::members::User;
use crate::organizations::OrganizationPlan;
use crate::plans::Plans;
use crate::stripe::StripeClient;
use crate::{entity, listing, pg_enum, relations};

pg_enum! {
    /// The status of a subscription, as in Stripe (Stripe API reference, `Subscription.status`).
    pub enum SubscriptionStatus("tenantry.subscription_status", SubscriptionStatusFilter) {
        /// The first payment is pending.
        Incomplete = "INCOMPLETE",
        /// The first payment was not made in time.
        IncompleteExpired = "INCOMPLETE_EXPIRED",
        /// In a trial period.
        Trialing = "TRIALING",
        /// Paid.
        Active = "ACTIVE",
        /// A payment is overdue.
        PastDue = "PAST_DUE",
        /// Ended.
        Canceled = "CANCELED",
        /// Payments failed finally; invoices stay open.
        Unpaid = "UNPAID",
        /// The trial ended without a payment method.
        Paused = "PAUSED",
    }
}

entity! {
    /// The subscription of the organization.
    #[graphql(complex)]
    pub struct Subscription("subscriptions", read by BillingRead) {
        /// Unique id.
        pub id: SubscriptionId,
        /// Status.
        pub status: SubscriptionStatus,
        /// Plan.
        pub plan: OrganizationPlan,
        /// Number of seats.
        pub seat_count: i32,
        /// Start of the current billing period.
        pub current_period_start: Option<DateTime<Utc>>,
        /// End of the current billing period.
        pub current_period_end: Option<DateTime<Utc>>,
        /// Whether the subscription ends with the current period.
        pub cancel_at_period_end: bool,
        /// Time when the subscription ends, if that was decided: with the current period or at another time.
        pub cancel_at: Option<DateTime<Utc>>,
        /// End of the trial.
        pub trial_end: Option<DateTime<Utc>>,
        /// Whether collection of payments is paused.
        pub collection_paused: bool,
        /// Since when a payment is overdue without a break; null: none is. With `PAST_DUE_GRACE_DAYS` the plan is FREE so many days later.
        pub past_due_since: Option<DateTime<Utc>>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

relations! {
    Subscription {}

    /// When it is renewed next; null when it ends before, or has ended. `billingPlanPreview` says for how much.
    async fn renews_at(&self) -> Option<DateTime<Utc>> {
        self.renewal()
    }

    /// What keeps it from being paid; null: nothing. For administrators.
    async fn payment_problem(&self, ctx: &async_graphql::Context<'_>) -> Result<Option<PaymentProblem>> {
        payment_problem(Session::of(ctx)?).await
    }
}

impl Subscription {
    fn renewal(&self) -> Option<DateTime<Utc>> {
        use SubscriptionStatus::{Active, PastDue, Trialing};
        let goes_on = matches!(self.status, Active | Trialing | PastDue) && !self.cancel_at_period_end;
        self.current_period_end.filter(|end| goes_on && self.cancel_at.is_none_or(|at| at > *end))
    }
}

pg_enum! {
    /// What is asked of Stripe.
    pub enum BillingActionKind("tenantry.billing_action_kind", BillingActionKindFilter) {
        /// A page to subscribe on.
        Checkout = "CHECKOUT",
        /// A page to manage payment methods and invoices on.
        Portal = "PORTAL",
        /// Another plan, interval or number of seats.
        PlanChange = "PLAN_CHANGE",
        /// The end of the subscription.
        Cancel = "CANCEL",
        /// The end of a cancellation, or of a pause.
        Resume = "RESUME",
    }
}

pg_enum! {
    /// The status of a billing action.
    pub enum BillingActionStatus("tenantry.billing_action_status", BillingActionStatusFilter) {
        /// Stripe has not said what became of it: ask again with the same key, or wait a minute.
        Pending = "PENDING",
        /// Stripe has done it. The subscription follows by webhook within seconds.
        Done = "DONE",
        /// Stripe has refused it, and nothing was done.
        Failed = "FAILED",
        /// A newer checkout has taken its place.
        Superseded = "SUPERSEDED",
    }
}

pg_enum! {
    /// The status of an invoice, as in Stripe (Stripe API reference, `Invoice.status`).
    pub enum InvoiceStatus("tenantry.invoice_status", InvoiceStatusFilter) {
        /// Not final yet.
        Draft = "DRAFT",
        /// To be paid.
        Open = "OPEN",
        /// Paid.
        Paid = "PAID",
        /// Given up.
        Uncollectible = "UNCOLLECTIBLE",
        /// Void.
        Void = "VOID",
    }
}

pg_enum! {
    /// Why an invoice is not paid.
    pub enum PaymentProblemCode("tenantry.payment_problem_code", PaymentProblemCodeFilter) {
        /// The payment was declined: use another payment method.
        PaymentFailed = "PAYMENT_FAILED",
        /// The bank wants the payer to confirm: open the invoice.
        ActionRequired = "ACTION_REQUIRED",
        /// Stripe could not make the invoice final, for example because the address for taxes is missing.
        FinalizationFailed = "FINALIZATION_FAILED",
        /// Stripe has given up.
        Uncollectible = "UNCOLLECTIBLE",
    }
}

entity! {
    /// Something that was asked of Stripe: a page to go to, or a change of the subscription.
    #[graphql(complex)]
    pub struct BillingAction("billing_actions", read by BillingManage) {
        /// Unique id.
        pub id: BillingActionId,
        /// What is asked.
        pub kind: BillingActionKind,
        /// Status.
        pub status: BillingActionStatus,
        /// Who asked.
        #[graphql(skip)]
        pub requested_by: Option<UserId>,
        /// Where to go on: the page of the checkout or of the portal, or the invoice that must be paid before a change takes effect.
        pub url: Option<String>,
        /// Until when `url` can be used; null: Stripe says nothing of it.
        pub expires_at: Option<DateTime<Utc>>,
        /// The code of the refusal, or of the last failure while it is PENDING.
        pub failure_code: Option<String>,
        /// The same in words.
        pub failure_message: Option<String>,
        /// When Stripe had done or refused it.
        pub finished_at: Option<DateTime<Utc>>,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    BillingAction: BillingActionFilter, BillingActionOrder by BillingActionOrderField, default CreatedAt Desc;
    /// What is asked.
    kind: BillingActionKindFilter;
    /// Status.
    status: BillingActionStatusFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    BillingAction {}
    one {
        /// The user who asked; null when they are erased.
        requested_by -> User by requested_by;
    }
}

entity! {
    /// An invoice for the subscription. Organizations have those that Stripe told of since its webhooks arrive here.
    #[graphql(complex)]
    pub struct Invoice("invoices", read by BillingManage) {
        /// Unique id.
        pub id: InvoiceId,
        /// Stripe's id.
        pub stripe_invoice_id: String,
        /// Number, once it is final.
        pub number: Option<String>,
        /// Status.
        pub status: InvoiceStatus,
        /// The currency.
        #[graphql(skip)]
        pub currency: String,
        /// In minor units.
        #[graphql(skip)]
        pub total_minor: i64,
        /// In minor units.
        #[graphql(skip)]
        pub due_minor: i64,
        /// In minor units.
        #[graphql(skip)]
        pub paid_minor: i64,
        /// In minor units.
        #[graphql(skip)]
        pub remaining_minor: i64,
        /// Start of the period (inclusive).
        pub period_start: Option<DateTime<Utc>>,
        /// End of the period (exclusive).
        pub period_end: Option<DateTime<Utc>>,
        /// When it is due; null where Stripe collects by itself.
        pub due_at: Option<DateTime<Utc>>,
        /// How often Stripe tried to collect.
        pub attempts: i32,
        /// When Stripe tries again; null: it does not.
        pub next_attempt_at: Option<DateTime<Utc>>,
        /// The page of the invoice at Stripe, where it can be paid and downloaded.
        pub hosted_url: Option<String>,
        /// The invoice as PDF, at Stripe.
        pub pdf_url: Option<String>,
        /// Why it is not paid; null: no problem is known.
        pub problem: Option<PaymentProblemCode>,
        /// The same in words.
        #[graphql(skip)]
        pub problem_message: Option<String>,
        /// Since when.
        #[graphql(skip)]
        pub problem_since: Option<DateTime<Utc>>,
        /// When Stripe made it.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    Invoice: InvoiceFilter, InvoiceOrder by InvoiceOrderField, default CreatedAt Desc;
    /// Status.
    status: InvoiceStatusFilter;
    /// When Stripe made it.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    Invoice {}
    computed {
        /// Sum of the lines, with taxes; negative: a credit.
        total: Money = |row| Money::from_minor(row.total_minor, &row.currency);
        /// Amount to pay, after credits.
        due: Money = |row| Money::from_minor(row.due_minor, &row.currency);
        /// Amount paid.
        paid: Money = |row| Money::from_minor(row.paid_minor, &row.currency);
        /// Amount left to pay.
        remaining: Money = |row| Money::from_minor(row.remaining_minor, &row.currency);
    }
}

/// What keeps the subscription from being paid.
#[derive(Clone, Debug, async_graphql::SimpleObject)]
pub struct PaymentProblem {
    /// The reason as a code.
    pub code: PaymentProblemCode,
    /// The reason in words, and what to do.
    pub message: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// The page at Stripe where the invoice can be paid.
    pub invoice_url: Option<String>,
}

/// The newest invoice of the organization that waits for money and has a problem.
async fn payment_problem(session: &Session) -> Result<Option<PaymentProblem>> {
    let tenant = session.require(Invoice::READ).await?;
    let tx = session.read().await?;
    let sql = format!(
        "select {} from {} t where t.organization_id = $1 and t.problem is not null order by t.created_at desc, t.id limit 1",
        Invoice::COLUMNS,
        Invoice::TABLE
    );
    let rows = tx.fetch(&sql, &[Bind::Uuid(tenant.organization_id.uuid())]).await?;
    let Some(invoice) = rows.first().map(|row| Invoice::read(row, 0)).transpose()? else { return Ok(None) };
    let (Some(code), Some(since)) = (invoice.problem, invoice.problem_since) else { return Ok(None) };
    let message = invoice.problem_message.unwrap_or_default();
    Ok(Some(PaymentProblem { code, message, since, invoice_url: invoice.hosted_url }))
}

/// What the jobs of billing work with.
#[derive(Clone, Debug, Default)]
pub struct Upkeep {
    /// Without it, Stripe is told nothing.
    pub stripe: Option<Arc<StripeClient>>,
    pub plans: Arc<Plans>,
    /// Which mode of Stripe is followed, live (`true`) or test; `None`: both.
    pub livemode: Option<bool>,
    /// For how many days a payment may be overdue before the plan is FREE; `None`: as long as Stripe tries.
    pub grace_days: Option<u16>,
}

/// Whether a subscription with this status is alive: a second one would be paid beside it.
#[must_use]
pub fn lives(status: SubscriptionStatus) -> bool {
    use SubscriptionStatus::{Active, PastDue, Paused, Trialing, Unpaid};
    matches!(status, Active | Trialing | PastDue | Unpaid | Paused)
}

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<BillingCheckoutCreateInput>(),
    MutationInfo::of::<BillingPortalCreateInput>(),
    MutationInfo {
        field: "billingPlanPreview",
        action: Some(Action::BillingManage),
        audit: "billing.plan.preview",
        row: "Subscription",
    },
    MutationInfo::of::<BillingPlanChangeInput>(),
    MutationInfo::of::<BillingCancelInput>(),
    MutationInfo::of::<BillingResumeInput>(),
];

/// The subscription of the organization of the request; the database allows one at most.
pub async fn subscription(session: &Session) -> Result<Option<Subscription>> {
    let tenant = session.require(Subscription::READ).await?;
    let tx = session.read().await?;
    let sql = format!("select {} from {} t where t.organization_id = $1", Subscription::COLUMNS, Subscription::TABLE);
    let rows = tx.fetch(&sql, &[Bind::Uuid(tenant.organization_id.uuid())]).await?;
    rows.first().map(|row| Subscription::read(row, 0)).transpose()
}
