//! Refunds in the schema: inputs, mutations and the subscription.

use std::sync::Arc;

use async_graphql::{Context, InputObject, Object, SimpleObject, Subscription};
use futures_util::Stream;

use crate::error::Result;
use crate::graphql::follow::follow;
use crate::graphql::money::MoneyInput;
use crate::graphql::mutation::{self, Mutation, UserError};
use crate::graphql::session::Session;
use crate::id::{BudgetId, CustomerId, RefundId, TicketId, marker};
use crate::organizations::Organization;
use crate::refunds::{Refund, RefundReason};

/// The fields of a new refund.
#[derive(Clone, Debug, InputObject)]
pub struct RefundRequestInput {
    /// The customer who gets the money.
    pub customer_id: CustomerId,
    /// The ticket that it is about; it must be the customer's, or nobody's.
    pub ticket_id: Option<TicketId>,
    /// Amount. Where a payment is named, in its currency, and no more than is left of it.
    pub amount: MoneyInput,
    /// Reason.
    pub reason: RefundReason,
    /// Explanation of the reason: at most 5,000 characters.
    pub note: Option<String>,
    /// The budget of type REFUND that pays it, by any of its periods; by default the oldest in use in the currency. Without one
    /// nothing is set aside, and a person must approve.
    pub budget_id: Option<BudgetId>,
    /// Stripe's id of the payment to give back: `pi_…`. Its metadata must name the organization. Without it the refund is paid by
    /// hand.
    pub stripe_payment_intent_id: Option<String>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input returns the refund of the first.
    pub idempotency_key: String,
}

/// A refund to approve.
#[derive(Clone, Debug, InputObject)]
pub struct RefundApproveInput {
    /// The refund.
    pub id: RefundId,
    /// Why: at most 5,000 characters.
    pub note: Option<String>,
    /// The version that the decision is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: String,
}

/// A refund to deny.
#[derive(Clone, Debug, InputObject)]
pub struct RefundDenyInput {
    /// The refund.
    pub id: RefundId,
    /// Why: 1 to 5,000 characters.
    pub note: String,
    /// The version that the decision is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: Option<String>,
}

/// A refund to escalate.
#[derive(Clone, Debug, InputObject)]
pub struct RefundEscalateInput {
    /// The refund; it must have a ticket.
    pub id: RefundId,
    /// Note of the escalation: at most 4,000 characters.
    pub note: Option<String>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: Option<String>,
}

/// A refund to cancel.
#[derive(Clone, Debug, InputObject)]
pub struct RefundCancelInput {
    /// The refund.
    pub id: RefundId,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: Option<String>,
}

/// A refund whose payment has failed.
#[derive(Clone, Debug, InputObject)]
pub struct RefundRetryInput {
    /// The refund.
    pub id: RefundId,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: String,
}

/// A refund that was paid by hand.
#[derive(Clone, Debug, InputObject)]
pub struct RefundMarkPaidInput {
    /// The refund.
    pub id: RefundId,
    /// Reference of the payment, such as the number of a transfer: 1 to 500 characters.
    pub reference: String,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: String,
}

/// Who may approve refunds.
#[derive(Clone, Debug, InputObject)]
pub struct RefundPolicyUpdateInput {
    /// Up to this amount whoever requests a refund may approve it, in this currency; in others never. Null: never.
    pub four_eyes_above: Option<MoneyInput>,
    /// The organization's version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The result of the mutations of refunds.
#[derive(Debug, SimpleObject)]
pub struct RefundPayload {
    /// The refund; null when there are errors.
    pub refund: Option<Arc<Refund>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `refundPolicyUpdate`.
#[derive(Debug, SimpleObject)]
pub struct RefundPolicyPayload {
    /// The organization; null when there are errors.
    pub organization: Option<Arc<Organization>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

async fn change<M: Mutation<Row = marker::Refund>>(ctx: &Context<'_>, input: M) -> Result<RefundPayload> {
    let ran = mutation::run(ctx, input).await?;
    Ok(RefundPayload { refund: Session::of(ctx)?.load_written(ran.id).await?, user_errors: ran.user_errors })
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct RefundMutation;

#[Object]
impl RefundMutation {
    /// Requests a refund. The rules decide at once: it is `APPROVED`, `PENDING_APPROVAL` or `DENIED`. What is not denied is set aside in
    /// the budget.
    async fn refund_request(&self, ctx: &Context<'_>, input: RefundRequestInput) -> Result<RefundPayload> {
        change(ctx, input).await
    }

    /// Approves a refund. It is paid through Stripe, or waits for `refundMarkPaid`. Where two people decide, whoever requested it
    /// gets `ANOTHER_PERSON_REQUIRED`.
    async fn refund_approve(&self, ctx: &Context<'_>, input: RefundApproveInput) -> Result<RefundPayload> {
        change(ctx, input).await
    }

    /// Denies a refund, and gives back what was set aside.
    async fn refund_deny(&self, ctx: &Context<'_>, input: RefundDenyInput) -> Result<RefundPayload> {
        change(ctx, input).await
    }

    /// Escalates the ticket of a refund that waits for approval.
    async fn refund_escalate(&self, ctx: &Context<'_>, input: RefundEscalateInput) -> Result<RefundPayload> {
        change(ctx, input).await
    }

    /// Cancels a refund whose payment was not begun, or has failed. For whoever requested it, and for whoever may approve.
    async fn refund_cancel(&self, ctx: &Context<'_>, input: RefundCancelInput) -> Result<RefundPayload> {
        change(ctx, input).await
    }

    /// Pays a refund again whose payment has failed.
    async fn refund_retry(&self, ctx: &Context<'_>, input: RefundRetryInput) -> Result<RefundPayload> {
        change(ctx, input).await
    }

    /// Records that an approved refund was paid by hand. One whose payment was begun through Stripe is not.
    async fn refund_mark_paid(&self, ctx: &Context<'_>, input: RefundMarkPaidInput) -> Result<RefundPayload> {
        change(ctx, input).await
    }

    /// Decides up to which amount whoever requests a refund may approve it. It counts for requests from then on.
    async fn refund_policy_update(
        &self,
        ctx: &Context<'_>,
        input: RefundPolicyUpdateInput,
    ) -> Result<RefundPolicyPayload> {
        let ran = mutation::run(ctx, input).await?;
        let organization = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(RefundPolicyPayload { organization, user_errors: ran.user_errors })
    }
}

/// A change of a refund.
#[derive(Debug, SimpleObject)]
pub struct RefundChange {
    /// The current refund.
    pub refund: Arc<Refund>,
}

/// The subscriptions of the slice.
#[derive(Debug, Default)]
pub struct RefundSubscription;

#[Subscription]
impl RefundSubscription {
    /// Emits every refund of the organization that is requested or changes, as it is when it is sent. For members and above.
    async fn refund_changed(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Only changes of this refund.")] id: Option<RefundId>,
    ) -> Result<impl Stream<Item = Result<RefundChange>>> {
        follow(ctx, id, |refund| RefundChange { refund }).await
    }
}
