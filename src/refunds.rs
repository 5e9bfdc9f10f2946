//! Refunds: money that goes back to customers, and how that was decided.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context};
use chrono::{DateTime, Utc};

use crate::agents::{DecisionAction, DecisionRule};
use crate::budgets::Budget;
use crate::customers::Customer;
use crate::error::{Error, Result};
use crate::graphql::filter::{DateTimeFilter, IdFilter, IntFilter};
use crate::graphql::money::Money;
use crate::graphql::session::Session;
use crate::id::{BudgetId, CustomerId, DecisionRuleId, RefundId, TicketId, UserId};
use crate::members::User;
use crate::tickets::Ticket;
use crate::{entity, listing, pg_enum};

pg_enum! {
    /// Why money goes back.
    pub enum RefundReason("tenantry.refund_reason", RefundReasonFilter) {
        /// The product does not work.
        DefectiveProduct = "DEFECTIVE_PRODUCT",
        /// The product is not what was promised.
        NotAsDescribed = "NOT_AS_DESCRIBED",
        /// It came too late.
        LateDelivery = "LATE_DELIVERY",
        /// It was paid twice.
        DuplicateCharge = "DUPLICATE_CHARGE",
        /// The service was bad.
        ServiceIssue = "SERVICE_ISSUE",
        /// Out of kindness.
        Goodwill = "GOODWILL",
        /// Anything else.
        Other = "OTHER",
    }
}

pg_enum! {
    /// The state of a refund.
    pub enum RefundStatus("tenantry.refund_status", RefundStatusFilter) {
        /// Asked for.
        Requested = "REQUESTED",
        /// A person must decide.
        PendingApproval = "PENDING_APPROVAL",
        /// Granted.
        Approved = "APPROVED",
        /// Not granted.
        Denied = "DENIED",
        /// Being paid.
        Processing = "PROCESSING",
        /// Paid.
        Settled = "SETTLED",
        /// Could not be paid.
        Failed = "FAILED",
        /// Withdrawn.
        Cancelled = "CANCELLED",
    }
}

entity! {
    /// Money that goes back to a customer.
    #[graphql(complex)]
    pub struct Refund("refunds", read by BudgetRead) {
        /// The id.
        pub id: RefundId,
        /// The ticket.
        #[graphql(skip)]
        pub ticket_id: Option<TicketId>,
        /// The customer.
        #[graphql(skip)]
        pub customer_id: CustomerId,
        /// Minor units.
        #[graphql(skip)]
        pub amount_minor: i64,
        /// The currency.
        #[graphql(skip)]
        pub currency: String,
        /// Why.
        pub reason: RefundReason,
        /// Why, in words.
        pub note: Option<String>,
        /// The state.
        pub status: RefundStatus,
        /// Who asked for it.
        #[graphql(skip)]
        pub requested_by: Option<UserId>,
        /// What was decided.
        pub decision: Option<DecisionAction>,
        /// The rule that decided.
        #[graphql(skip)]
        pub decision_rule_id: Option<DecisionRuleId>,
        /// The person who decided.
        #[graphql(skip)]
        pub decided_by: Option<UserId>,
        /// How the decision came about.
        pub decision_explanation: Option<serde_json::Value>,
        /// When it was decided.
        pub decided_at: Option<DateTime<Utc>>,
        /// The budget it is paid from.
        #[graphql(skip)]
        pub budget_id: Option<BudgetId>,
        /// Stripe's id of the refund.
        pub stripe_refund_id: Option<String>,
        /// Why it could not be paid.
        pub failure_reason: Option<String>,
        /// When it was paid.
        pub settled_at: Option<DateTime<Utc>>,
        /// Grows by one with every change.
        pub version: i32,
        /// When it was asked for.
        pub created_at: DateTime<Utc>,
        /// When it last changed.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    Refund: RefundFilter, RefundOrder by RefundOrderField, default CreatedAt Desc;
    /// Reason.
    reason: RefundReasonFilter;
    /// State.
    status: RefundStatusFilter;
    /// Customer.
    customer_id: IdFilter;
    /// Ticket.
    ticket_id: IdFilter;
    /// Amount in minor units (cents).
    amount_minor: IntFilter;
    /// Moment it was asked for.
    created_at: DateTimeFilter, CreatedAt;
}

#[ComplexObject]
impl Refund {
    /// How much.
    async fn amount(&self) -> Money {
        Money::from_minor(self.amount_minor, &self.currency)
    }

    /// The ticket.
    async fn ticket(&self, ctx: &Context<'_>) -> Result<Option<Arc<Ticket>>> {
        Session::of(ctx)?.load_opt(self.ticket_id).await
    }

    /// The customer.
    async fn customer(&self, ctx: &Context<'_>) -> Result<Arc<Customer>> {
        Session::of(ctx)?.load(self.customer_id).await?.ok_or_else(|| Error::internal("a refund without its customer"))
    }

    /// Who asked for it; null for the system.
    async fn requested_by(&self, ctx: &Context<'_>) -> Result<Option<Arc<User>>> {
        Session::of(ctx)?.load_opt(self.requested_by).await
    }

    /// The rule that decided; null when a person did.
    async fn decision_rule(&self, ctx: &Context<'_>) -> Result<Option<Arc<DecisionRule>>> {
        Session::of(ctx)?.load_opt(self.decision_rule_id).await
    }

    /// The person who decided; null when a rule did.
    async fn decided_by(&self, ctx: &Context<'_>) -> Result<Option<Arc<User>>> {
        Session::of(ctx)?.load_opt(self.decided_by).await
    }

    /// The budget it is paid from.
    async fn budget(&self, ctx: &Context<'_>) -> Result<Option<Arc<Budget>>> {
        Session::of(ctx)?.load_opt(self.budget_id).await
    }
}
