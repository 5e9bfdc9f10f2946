//! Refunds: money that goes back to customers: the request, the rules, who approves, and the payment.
//!
//! Invariants: a status changes only along the table in `model`, or because Stripe says what happened; money is set aside before it
//! is approved, and a payment is in flight before it is sent; a payment is sent under one idempotency key until Stripe has said what
//! became of it, and looked for at Stripe before each sending; what is given back of a payment never comes to more than the
//! payment; only payments that name the organization are given back. `docs/REFUNDS.md` has the whole.

mod graphql;
mod holding;
mod model;
mod payer;
mod remote;
mod sql;
mod verbs;

use chrono::{DateTime, Utc};

pub use graphql::{
    RefundApproveInput, RefundCancelInput, RefundDenyInput, RefundEscalateInput, RefundMarkPaidInput, RefundMutation,
    RefundPolicyUpdateInput, RefundRequestInput, RefundRetryInput, RefundSubscription,
};
pub use model::{RefundReason, RefundReasonFilter, RefundStatus, RefundStatusFilter, from_stripe, to_stripe};
pub use payer::Payer;
pub use remote::{Charge, News, Reference, RemoteRefund, RemoteStatus, record};

use crate::agents::{DecisionAction, DecisionRule};
use crate::budgets::{Budget, BudgetReservation};
use crate::customers::Customer;
use crate::graphql::filter::{DateTimeFilter, IdFilter, IntFilter, StringFilter};
use crate::graphql::money::Money;
use crate::graphql::mutation::MutationInfo;
use crate::id::{BudgetId, BudgetReservationId, CustomerId, DecisionRuleId, RefundId, TicketId, UserId};
use crate::members::User;
use crate::tickets::Ticket;
use crate::{entity, listing, relations};

entity! {
    /// A refund to a customer.
    #[graphql(complex)]
    pub struct Refund("refunds", read by RefundRead) {
        /// Unique id.
        pub id: RefundId,
        /// The ticket.
        #[graphql(skip)]
        pub ticket_id: Option<TicketId>,
        /// The customer.
        #[graphql(skip)]
        pub customer_id: Option<CustomerId>,
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
        /// Whether somebody else than whoever requested it must approve it (four eyes).
        pub needs_another_approver: bool,
        /// What the rules ordered, or ESCALATE when a person escalated it; null: it was made in Stripe, or is not decided about.
        pub decision: Option<DecisionAction>,
        /// The rule that decided.
        #[graphql(skip)]
        pub decision_rule_id: Option<DecisionRuleId>,
        /// The person who decided.
        #[graphql(skip)]
        pub decided_by: Option<UserId>,
        /// What the person said who decided.
        pub decision_note: Option<String>,
        /// Explanation of the rules' decision: the facts, and what each rule said.
        pub decision_explanation: Option<serde_json::Value>,
        /// Time of the decision.
        pub decided_at: Option<DateTime<Utc>>,
        /// The budget that pays it.
        #[graphql(skip)]
        pub budget_id: Option<BudgetId>,
        /// What holds the money.
        #[graphql(skip)]
        pub reservation_id: Option<BudgetReservationId>,
        /// Stripe's id of the payment that is given back; null: it is paid by hand.
        pub stripe_payment_intent_id: Option<String>,
        /// Stripe's id of the refund, once Stripe has it.
        pub stripe_refund_id: Option<String>,
        /// Whether it was made in Stripe itself, so that nobody requested it here.
        pub made_in_stripe: bool,
        /// Reference of a payment that was made by hand.
        pub payment_reference: Option<String>,
        /// Reason of the failure; while it is PROCESSING, why the payment has to be tried again.
        pub failure_reason: Option<String>,
        /// Time of payment.
        pub settled_at: Option<DateTime<Utc>>,
        /// Version; incremented by every change. Pass it as `expectedVersion`.
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
    /// Currency (ISO 4217).
    currency: StringFilter;
    /// Budget: its first period.
    budget_id: IdFilter;
    /// Stripe's id of the payment.
    stripe_payment_intent_id: StringFilter;
    /// Time of the request.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    Refund {}
    one {
        /// The ticket.
        ticket -> Ticket by ticket_id;
        /// The customer; null only when it was made in Stripe and names none.
        customer -> Customer by customer_id;
        /// The user who requested it, or who made the key that did; null when it was made in Stripe.
        requested_by -> User by requested_by;
        /// The rule that matched; null when none did.
        decision_rule -> DecisionRule by decision_rule_id;
        /// The user who approved or denied; null when a rule did.
        decided_by -> User by decided_by;
        /// The first period of the budget that pays it; null: none.
        budget -> Budget by budget_id;
        /// What holds the money; null: nothing was set aside.
        reservation -> BudgetReservation by reservation_id;
    }
    computed {
        /// Amount.
        amount: Money = |row| Money::from_minor(row.amount_minor, &row.currency);
        /// The statuses that it can change to.
        next_statuses: &'static [RefundStatus] = |row| row.status.next();
    }
}

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<RefundRequestInput>(),
    MutationInfo::of::<RefundApproveInput>(),
    MutationInfo::of::<RefundDenyInput>(),
    MutationInfo::of::<RefundEscalateInput>(),
    MutationInfo::of::<RefundCancelInput>(),
    MutationInfo::of::<RefundRetryInput>(),
    MutationInfo::of::<RefundMarkPaidInput>(),
    MutationInfo::of::<RefundPolicyUpdateInput>(),
];
