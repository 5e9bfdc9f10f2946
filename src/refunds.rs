//! Refunds: money that goes back to customers, and how that was decided.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context};
use chrono::{DateTime, Utc};

use crate::agents::{DecisionAction, DecisionRule};
use crate::budgets::Budget;
use crate::customers::Customer;
use crate::error::{Error, Result};
use crate::graphql::listing::{DateTimeFilter, IdFilter, IntFilter};
use crate::graphql::money::Money;
use crate::graphql::session::Session;
use crate::id::Id;
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
    pub struct Refund("ref", "refunds", tenant: true, listed when "true", read by BudgetRead) {
        /// The id.
        pub id: Id<Refund>,
        /// The ticket.
        #[graphql(skip)]
        pub ticket_id: Option<Id<Ticket>>,
        /// The customer.
        #[graphql(skip)]
        pub customer_id: Id<Customer>,
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
        pub requested_by: Option<Id<User>>,
        /// What was decided.
        pub decision: Option<DecisionAction>,
        /// The rule that decided.
        #[graphql(skip)]
        pub decision_rule_id: Option<Id<DecisionRule>>,
        /// The person who decided.
        #[graphql(skip)]
        pub decided_by: Option<Id<User>>,
        /// How the decision came about.
        pub decision_explanation: Option<serde_json::Value>,
        /// When it was decided.
        pub decided_at: Option<DateTime<Utc>>,
        /// The budget it is paid from.
        #[graphql(skip)]
        pub budget_id: Option<Id<Budget>>,
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
    Refund,
    filter RefundFilter {
        /// By reason.
        reason: RefundReasonFilter = "t.reason",
        /// By state.
        status: RefundStatusFilter = "t.status",
        /// By customer.
        customer_id: IdFilter = "t.customer_id",
        /// By ticket.
        ticket_id: IdFilter = "t.ticket_id",
        /// By amount in minor units (cents).
        amount_minor: IntFilter = "t.amount_minor",
        /// By the moment it was asked for.
        created_at: DateTimeFilter = "t.created_at",
    },
    order RefundOrder by RefundOrderField {
        /// When it was asked for.
        CreatedAt = "t.created_at", |row| row.created_at;
    },
    default CreatedAt Desc
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
