//! Budgets and what was taken from them.
//!
//! Invariants, kept by the database: spent and reserved are never negative, and together never above a hard limit.

use std::sync::Arc;

use async_graphql::Context;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::graphql::filter::{BooleanFilter, DateTimeFilter, IntFilter, StringFilter};
use crate::graphql::money::Money;
use crate::graphql::session::Session;
use crate::id::{BudgetId, BudgetUsageRecordId};
use crate::{connections, entity, listing, pg_enum};

pg_enum! {
    /// What a budget pays for.
    pub enum BudgetType("tenantry.budget_type", BudgetTypeFilter) {
        /// Refunds to customers.
        Refund = "REFUND",
        /// AI models.
        AiUsage = "AI_USAGE",
        /// Credits given to customers.
        Credit = "CREDIT",
        /// Everything else.
        Operations = "OPERATIONS",
    }
}

pg_enum! {
    /// The length of a budget's period.
    pub enum BudgetPeriod("tenantry.budget_period", BudgetPeriodFilter) {
        /// A day.
        Day = "DAY",
        /// A week.
        Week = "WEEK",
        /// A month.
        Month = "MONTH",
        /// Three months.
        Quarter = "QUARTER",
        /// A year.
        Year = "YEAR",
    }
}

pg_enum! {
    /// What a usage record did to its budget.
    pub enum BudgetUsageKind("tenantry.budget_usage_kind", BudgetUsageKindFilter) {
        /// Took at once.
        Spend = "SPEND",
        /// Set aside.
        Reserve = "RESERVE",
        /// Turned what was set aside into spending.
        Settle = "SETTLE",
        /// Gave back what was set aside.
        Release = "RELEASE",
    }
}

entity! {
    /// Money for a purpose and a time.
    #[graphql(complex)]
    pub struct Budget("budgets", read by BudgetRead) {
        /// The id.
        pub id: BudgetId,
        /// What it pays for.
        #[graphql(name = "type")]
        pub kind: BudgetType = "type",
        /// The name.
        pub name: String,
        /// The length of the period.
        pub period: BudgetPeriod,
        /// The beginning of the period.
        pub starts_at: DateTime<Utc>,
        /// The end of the period; that moment is no longer in it.
        pub ends_at: DateTime<Utc>,
        /// Minor units.
        #[graphql(skip)]
        pub limit_minor: i64,
        /// Minor units.
        #[graphql(skip)]
        pub spent_minor: i64,
        /// Minor units.
        #[graphql(skip)]
        pub reserved_minor: i64,
        /// The currency.
        #[graphql(skip)]
        pub currency: String,
        /// Whether spending stops at the limit.
        pub is_hard_limit: bool,
        /// At which percentages of the limit to raise an alert.
        pub alert_thresholds: serde_json::Value,
        /// Whether what is left goes over to the next period.
        pub rollover: bool,
        /// Grows by one with every change.
        pub version: i32,
        /// When it was made.
        pub created_at: DateTime<Utc>,
        /// When it last changed.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    Budget: BudgetFilter, BudgetOrder by BudgetOrderField, default CreatedAt Desc;
    /// What it pays for.
    #[graphql(name = "type")]
    kind: BudgetTypeFilter = "type";
    /// Length of the period.
    period: BudgetPeriodFilter;
    /// Whether spending stops at the limit.
    is_hard_limit: BooleanFilter;
    /// Beginning of the period.
    starts_at: DateTimeFilter, StartsAt;
    /// End of the period.
    ends_at: DateTimeFilter;
    /// Moment it was made.
    created_at: DateTimeFilter, CreatedAt;
}

connections! {
    Budget {
        /// What was taken, newest first.
        usage_records -> BudgetUsageRecord by "t.budget_id";
    }

    /// How much there is in the period.
    async fn limit(&self) -> Money {
        Money::from_minor(self.limit_minor, &self.currency)
    }

    /// How much is spent.
    async fn spent(&self) -> Money {
        Money::from_minor(self.spent_minor, &self.currency)
    }

    /// How much is set aside.
    async fn reserved(&self) -> Money {
        Money::from_minor(self.reserved_minor, &self.currency)
    }

    /// How much is left; negative when a soft limit was exceeded.
    async fn available(&self) -> Money {
        let taken = self.spent_minor.saturating_add(self.reserved_minor);
        Money::from_minor(self.limit_minor.saturating_sub(taken), &self.currency)
    }
}

entity! {
    /// Something that was taken from a budget, set aside or given back.
    #[graphql(complex)]
    pub struct BudgetUsageRecord("budget_usage_records", read by BudgetRead) {
        /// The id.
        pub id: BudgetUsageRecordId,
        /// The budget.
        #[graphql(skip)]
        pub budget_id: BudgetId,
        /// Minor units.
        #[graphql(skip)]
        pub amount_minor: i64,
        /// The currency.
        #[graphql(skip)]
        pub currency: String,
        /// What it did to the budget.
        pub kind: BudgetUsageKind,
        /// What took it.
        pub source: String,
        /// What it was taken for.
        #[graphql(skip)]
        pub resource_id: Option<Uuid>,
        /// When.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    BudgetUsageRecord: BudgetUsageRecordFilter, BudgetUsageRecordOrder by BudgetUsageRecordOrderField,
        default CreatedAt Desc;
    /// What it did to the budget.
    kind: BudgetUsageKindFilter;
    /// What took it.
    source: StringFilter;
    /// Amount in minor units (cents).
    amount_minor: IntFilter;
    /// Moment.
    created_at: DateTimeFilter, CreatedAt;
}

#[async_graphql::ComplexObject]
impl BudgetUsageRecord {
    /// The budget.
    async fn budget(&self, ctx: &Context<'_>) -> Result<Arc<Budget>> {
        Session::of(ctx)?
            .load(self.budget_id)
            .await?
            .ok_or_else(|| Error::internal("a usage record without its budget"))
    }

    /// How much.
    async fn amount(&self) -> Money {
        Money::from_minor(self.amount_minor, &self.currency)
    }
}
