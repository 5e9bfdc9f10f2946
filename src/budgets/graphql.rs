//! Budgets in the schema: inputs, mutations and the subscription.

use std::sync::Arc;

use async_graphql::{Context, InputObject, Object, SimpleObject, Subscription};
use chrono::{DateTime, Utc};
use futures_util::Stream;

use crate::budgets::verbs::record_ids;
use crate::budgets::{Budget, BudgetAlert, BudgetPeriod, BudgetReservation, BudgetType, BudgetUsageRecord};
use crate::error::Result;
use crate::graphql::follow::follow_some;
use crate::graphql::money::MoneyInput;
use crate::graphql::mutation::{self, Mutation, UserError};
use crate::graphql::session::Session;
use crate::id::{BudgetId, BudgetReservationId, marker};

/// The fields of a new budget.
#[derive(Clone, Debug, InputObject)]
pub struct BudgetCreateInput {
    /// Purpose.
    #[graphql(name = "type")]
    pub kind: BudgetType,
    /// Name: 1 to 200 characters.
    pub name: String,
    /// Length of the period. Periods follow the calendar: the day, the week from Monday, the month and so on.
    pub period: BudgetPeriod,
    /// Limit of each period. Its currency is that of the budget.
    pub limit: MoneyInput,
    /// Whether spending stops at the limit; true by default.
    pub is_hard_limit: Option<bool>,
    /// Percentages of the limit that raise an alert: at most 20, each 1 to 1000; 50, 80 and 100 by default.
    pub alert_thresholds: Option<Vec<i32>>,
    /// Whether what is left is carried over to the next period; false by default.
    pub rollover: Option<bool>,
    /// Time zone (IANA) in which periods begin at midnight; `UTC` by default.
    pub time_zone: Option<String>,
    /// Start of the first period; by default that of the calendar period of this moment.
    pub starts_at: Option<DateTime<Utc>>,
    /// End of the first period (exclusive); by default that of the calendar period. The next one begins here and ends with the
    /// calendar.
    pub ends_at: Option<DateTime<Utc>>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input returns the budget of the first.
    pub idempotency_key: Option<String>,
}

/// The changes of a budget, in its current period and those to come. Omitted fields stay as they are.
#[derive(Clone, Debug, InputObject)]
pub struct BudgetUpdateInput {
    /// The budget, by any of its periods.
    pub id: BudgetId,
    /// Name: 1 to 200 characters.
    pub name: Option<String>,
    /// Limit. A hard limit cannot be set below what is spent and reserved.
    pub limit: Option<MoneyInput>,
    /// Whether spending stops at the limit.
    pub is_hard_limit: Option<bool>,
    /// Percentages of the limit that raise an alert, replaced as a whole: at most 20, each 1 to 1000.
    pub alert_thresholds: Option<Vec<i32>>,
    /// Whether what is left is carried over to the next period.
    pub rollover: Option<bool>,
    /// Time zone (IANA) of the periods to come; the current one ends as it was to.
    pub time_zone: Option<String>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: Option<String>,
}

/// The budget to archive.
#[derive(Clone, Debug, InputObject)]
pub struct BudgetArchiveInput {
    /// The budget, by any of its periods.
    pub id: BudgetId,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// An amount to spend.
#[derive(Clone, Debug, InputObject)]
pub struct BudgetSpendInput {
    /// The budgets, 1 to 10, each by any of its periods: the amount is taken from the current period of all of them, or of none.
    pub budget_ids: Vec<BudgetId>,
    /// Amount, in the currency of the budgets.
    pub amount: MoneyInput,
    /// What causes it: 1 to 200 characters, such as `voucher` or `agent:support`.
    pub source: String,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input spends nothing more.
    pub idempotency_key: String,
}

/// An amount to reserve.
#[derive(Clone, Debug, InputObject)]
pub struct BudgetReserveInput {
    /// The budgets, 1 to 10, each by any of its periods: the amount is set aside in the current period of all of them, or of none.
    pub budget_ids: Vec<BudgetId>,
    /// Amount, in the currency of the budgets.
    pub amount: MoneyInput,
    /// What causes it: 1 to 200 characters, such as `refund` or `agent:support`.
    pub source: String,
    /// Minutes until the reservation expires: 1 to 1440, 60 by default.
    pub expires_in_minutes: Option<i32>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input returns the reservation of the first.
    pub idempotency_key: String,
}

/// A reservation to spend.
#[derive(Clone, Debug, InputObject)]
pub struct BudgetSettleInput {
    /// The reservation.
    pub reservation_id: BudgetReservationId,
    /// What was spent; by default what was reserved. Of less, the rest is free again; for more, a hard limit must have room for the
    /// difference.
    pub amount: Option<MoneyInput>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: String,
}

/// A reservation to give back.
#[derive(Clone, Debug, InputObject)]
pub struct BudgetReleaseInput {
    /// The reservation.
    pub reservation_id: BudgetReservationId,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: String,
}

/// The result of `budgetCreate`, `budgetUpdate` and `budgetArchive`.
#[derive(Debug, SimpleObject)]
pub struct BudgetPayload {
    /// The budget in its current period; null when there are errors.
    pub budget: Option<Arc<Budget>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `budgetSpend`.
#[derive(Debug, SimpleObject)]
pub struct BudgetSpendPayload {
    /// The usage records, one of each budget; null when there are errors.
    pub usage_records: Option<Vec<Arc<BudgetUsageRecord>>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `budgetReserve`, `budgetSettle` and `budgetRelease`.
#[derive(Debug, SimpleObject)]
pub struct BudgetReservationPayload {
    /// The reservation; null when there are errors.
    pub reservation: Option<Arc<BudgetReservation>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

async fn change<M: Mutation<Row = marker::Budget>>(ctx: &Context<'_>, input: M) -> Result<BudgetPayload> {
    let ran = mutation::run(ctx, input).await?;
    Ok(BudgetPayload { budget: Session::of(ctx)?.load_written(ran.id).await?, user_errors: ran.user_errors })
}

async fn reservation<M: Mutation<Row = marker::BudgetReservation>>(
    ctx: &Context<'_>,
    input: M,
) -> Result<BudgetReservationPayload> {
    let ran = mutation::run(ctx, input).await?;
    let reservation = Session::of(ctx)?.load_written(ran.id).await?;
    Ok(BudgetReservationPayload { reservation, user_errors: ran.user_errors })
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct BudgetMutation;

#[Object]
impl BudgetMutation {
    /// Creates a budget with its first period. The others open by themselves.
    async fn budget_create(&self, ctx: &Context<'_>, input: BudgetCreateInput) -> Result<BudgetPayload> {
        change(ctx, input).await
    }

    /// Updates a budget.
    async fn budget_update(&self, ctx: &Context<'_>, input: BudgetUpdateInput) -> Result<BudgetPayload> {
        change(ctx, input).await
    }

    /// Archives a budget: nothing more is spent of it, and no further period opens. Its open reservations end as they would have.
    async fn budget_archive(&self, ctx: &Context<'_>, input: BudgetArchiveInput) -> Result<BudgetPayload> {
        change(ctx, input).await
    }

    /// Spends an amount at once, of all named budgets or of none. When one has not enough left: `BUDGET_EXCEEDED`.
    async fn budget_spend(&self, ctx: &Context<'_>, input: BudgetSpendInput) -> Result<BudgetSpendPayload> {
        let count = input.budget_ids.len();
        let ran = mutation::run(ctx, input).await?;
        let session = Session::of(ctx)?;
        let usage_records = match ran.id {
            Some(first) if ctx.look_ahead().field("usageRecords").exists() => {
                let ids = record_ids(first, count).into_iter();
                let loaded = ids.map(|id| session.load_written(Some(id)));
                Some(futures_util::future::try_join_all(loaded).await?.into_iter().flatten().collect())
            }
            _ => None,
        };
        Ok(BudgetSpendPayload { usage_records, user_errors: ran.user_errors })
    }

    /// Sets an amount aside, in all named budgets or in none, until `budgetSettle`, `budgetRelease` or its expiry. When one has not
    /// enough left: `BUDGET_EXCEEDED`.
    async fn budget_reserve(&self, ctx: &Context<'_>, input: BudgetReserveInput) -> Result<BudgetReservationPayload> {
        reservation(ctx, input).await
    }

    /// Turns a reservation into spending, in the period that it was made in.
    async fn budget_settle(&self, ctx: &Context<'_>, input: BudgetSettleInput) -> Result<BudgetReservationPayload> {
        reservation(ctx, input).await
    }

    /// Gives back what a reservation holds. One whose payment is in flight waits for its result.
    async fn budget_release(&self, ctx: &Context<'_>, input: BudgetReleaseInput) -> Result<BudgetReservationPayload> {
        reservation(ctx, input).await
    }
}

/// An alert of a budget.
#[derive(Debug, SimpleObject)]
pub struct BudgetAlerted {
    /// The alert.
    pub alert: Arc<BudgetAlert>,
}

/// The subscriptions of the slice.
#[derive(Debug, Default)]
pub struct BudgetSubscription;

#[Subscription]
impl BudgetSubscription {
    /// Emits every alert of the organization's budgets, once for each crossing of a threshold. For members and above.
    async fn budget_alert(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Only alerts of this budget, which any of its periods names.")] budget_id: Option<BudgetId>,
    ) -> Result<impl Stream<Item = Result<BudgetAlerted>>> {
        let session = Session::of(ctx)?;
        // Whoever asks for a budget that is not there hears nothing, as with one that has no alerts.
        let series = match budget_id {
            Some(id) => Some(session.load(id).await?.map_or(BudgetId::NIL, |budget| budget.series_id)),
            None => None,
        };
        follow_some::<marker::BudgetAlert, _, _>(ctx, None, move |alert| {
            series.is_none_or(|series| series == alert.series_id).then_some(BudgetAlerted { alert })
        })
        .await
    }
}
