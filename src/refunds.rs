//! Refunds: money that goes back to customers, and how that was decided.

use chrono::{DateTime, Utc};

use crate::agents::{DecisionAction, DecisionRule};
use crate::budgets::Budget;
use crate::customers::Customer;
use crate::error::Result;
use crate::graphql::filter::{DateTimeFilter, IdFilter, IntFilter};
use crate::graphql::money::Money;
use crate::id::{BudgetId, CustomerId, DecisionRuleId, RefundId, TicketId, UserId};
use crate::members::User;
use crate::tickets::Ticket;
use crate::{entity, listing, pg_enum, relations};

pg_enum! {
    /// The reason of a refund.
    pub enum RefundReason("tenantry.refund_reason", RefundReasonFilter) {
        /// The product is defective.
        DefectiveProduct = "DEFECTIVE_PRODUCT",
        /// The product is not as described.
        NotAsDescribed = "NOT_AS_DESCRIBED",
        /// The delivery was late.
        LateDelivery = "LATE_DELIVERY",
        /// The charge was a duplicate.
        DuplicateCharge = "DUPLICATE_CHARGE",
        /// The service was unsatisfactory.
        ServiceIssue = "SERVICE_ISSUE",
        /// Goodwill.
        Goodwill = "GOODWILL",
        /// Any other case.
        Other = "OTHER",
    }
}

pg_enum! {
    /// The status of a refund.
    pub enum RefundStatus("tenantry.refund_status", RefundStatusFilter, ranked) {
        /// Requested.
        Requested = "REQUESTED",
        /// Requires approval by a person.
        PendingApproval = "PENDING_APPROVAL",
        /// Approved.
        Approved = "APPROVED",
        /// Denies.
        Denied = "DENIED",
        /// Payment in progress.
        Processing = "PROCESSING",
        /// Paid.
        Settled = "SETTLED",
        /// The payment failed.
        Failed = "FAILED",
        /// Canceled.
        Cancelled = "CANCELLED",
    }
}

entity! {
    /// A refund to a customer.
    #[graphql(complex)]
    pub struct Refund("refunds", read by BudgetRead) {
        /// Unique id.
        pub id: RefundId,
        /// The ticket.
        #[graphql(skip)]
        pub ticket_id: Option<TicketId>,
        /// The customer.
        #[graphql(skip)]
        pub customer_id: CustomerId,
        /// In minor units.
        #[graphql(skip)]
        pub amount_minor: i64,
        /// The currency.
        #[graphql(skip)]
        pub currency: String,
        /// Reason.
        pub reason: RefundReason,
        /// Explanation of the reason.
        pub note: Option<String>,
        /// Status.
        pub status: RefundStatus,
        /// Who asked for it.
        #[graphql(skip)]
        pub requested_by: Option<UserId>,
        /// Status.
        pub decision: Option<DecisionAction>,
        /// The rule that decided.
        #[graphql(skip)]
        pub decision_rule_id: Option<DecisionRuleId>,
        /// The person who decided.
        #[graphql(skip)]
        pub decided_by: Option<UserId>,
        /// Explanation of the decision.
        pub decision_explanation: Option<serde_json::Value>,
        /// Time of the decision.
        pub decided_at: Option<DateTime<Utc>>,
        /// The budget that pays it.
        #[graphql(skip)]
        pub budget_id: Option<BudgetId>,
        /// Stripe's id of the refund.
        pub stripe_refund_id: Option<String>,
        /// Reason of the failure.
        pub failure_reason: Option<String>,
        /// Time of payment.
        pub settled_at: Option<DateTime<Utc>>,
        /// Version; incremented by every change.
        pub version: i32,
        /// Time of the request.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    Refund: RefundFilter, RefundOrder by RefundOrderField, default CreatedAt Desc;
    /// Reason.
    reason: RefundReasonFilter;
    /// Status.
    status: RefundStatusFilter;
    /// Customer.
    customer_id: IdFilter;
    /// Ticket.
    ticket_id: IdFilter;
    /// Amount in minor units (cents).
    amount_minor: IntFilter;
    /// Time of the request.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    Refund {}
    one {
        /// The ticket.
        ticket -> Ticket by ticket_id;
        /// The customer.
        customer -> Customer! by customer_id;
        /// The user who requested it; null for the system.
        requested_by -> User by requested_by;
        /// The deciding rule; null when a person decided.
        decision_rule -> DecisionRule by decision_rule_id;
        /// The deciding user; null when a rule decided.
        decided_by -> User by decided_by;
        /// The budget that pays it.
        budget -> Budget by budget_id;
    }
    computed {
        /// Amount.
        amount: Money = |row| Money::from_minor(row.amount_minor, &row.currency);
    }
}
