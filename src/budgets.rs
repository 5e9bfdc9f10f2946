//! Budgets and what was taken from them.
//!
//! Invariants, kept by the database: spent and reserved are never negative, and together never above a hard limit.

use std::sync::Arc;

use async_graphql::Context;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::graphql::listing::{BooleanFilter, DateTimeFilter, IntFilter, StringFilter};
use crate::graphql::money::Money;
use crate::graphql::session::Session;
use crate::id::Id;
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
    pub struct Budget("bud", "budgets", tenant: true, listed when "true", read by BudgetRead) {
        /// The id.
        pub id: Id<Budget>,
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
    Budget,
    filter BudgetFilter {
        /// By what it pays for.
        #[graphql(name = "type")]
        kind: BudgetTypeFilter = "t.type",
        /// By the length of the period.
        period: BudgetPeriodFilter = "t.period",
        /// By whether spending stops at the limit.
        is_hard_limit: BooleanFilter = "t.is_hard_limit",
        /// By the beginning of the period.
        starts_at: DateTimeFilter = "t.starts_at",
        /// By the end of the period.
        ends_at: DateTimeFilter = "t.ends_at",
        /// By the moment it was made.
        created_at: DateTimeFilter = "t.created_at",
    },
    order BudgetOrder by BudgetOrderField {
        /// When it was made.
        CreatedAt = "t.created_at", |row| row.created_at;
        /// The beginning of the period.
        StartsAt = "t.starts_at", |row| row.starts_at;
    },
    default CreatedAt Desc
}

connections! {
    Budget {
        /// What was taken, newest first.
        usage_records -> BudgetUsageRecord(BudgetUsageRecordFilter, BudgetUsageRecordOrder) by "t.budget_id";
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
    pub struct BudgetUsageRecord("bur", "budget_usage_records", tenant: true, listed when "true", read by BudgetRead) {
        /// The id.
        pub id: Id<BudgetUsageRecord>,
        /// The budget.
        #[graphql(skip)]
        pub budget_id: Id<Budget>,
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
    BudgetUsageRecord,
    filter BudgetUsageRecordFilter {
        /// By what it did to the budget.
        kind: BudgetUsageKindFilter = "t.kind",
        /// By what took it.
        source: StringFilter = "t.source",
        /// By the amount in minor units (cents).
        amount_minor: IntFilter = "t.amount_minor",
        /// By the moment.
        created_at: DateTimeFilter = "t.created_at",
    },
    order BudgetUsageRecordOrder by BudgetUsageRecordOrderField {
        /// The moment.
        CreatedAt = "t.created_at", |row| row.created_at;
    },
    default CreatedAt Desc
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
