//! Budgets and what was taken from them.
//!
//! Invariants, kept by the database: spent and reserved are never negative, and together never above a hard limit.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::Result;
use crate::graphql::filter::{BooleanFilter, DateTimeFilter, IntFilter, StringFilter};
use crate::graphql::money::Money;
use crate::id::{BudgetId, BudgetUsageRecordId};
use crate::{entity, listing, pg_enum, relations};

pg_enum! {
    /// The purpose of a budget.
    pub enum BudgetType("tenantry.budget_type", BudgetTypeFilter) {
        /// Refunds to customers.
        Refund = "REFUND",
        /// Usage of AI models.
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
    /// The effect of a usage record on its budget.
    pub enum BudgetUsageKind("tenantry.budget_usage_kind", BudgetUsageKindFilter) {
        /// Spends an amount at once.
        Spend = "SPEND",
        /// Reserves an amount.
        Reserve = "RESERVE",
        /// Turns a reservation into spending.
        Settle = "SETTLE",
        /// Releases a reservation.
        Release = "RELEASE",
    }
}

entity! {
    /// An amount of money for a purpose and a period.
    #[graphql(complex)]
    pub struct Budget("budgets", read by BudgetRead) {
        /// Unique id.
        pub id: BudgetId,
        /// Purpose.
        #[graphql(name = "type")]
        pub kind: BudgetType = "type",
        /// Name.
        pub name: String,
        /// Length of the period.
        pub period: BudgetPeriod,
        /// Start of the period (inclusive).
        pub starts_at: DateTime<Utc>,
        /// End of the period (exclusive).
        pub ends_at: DateTime<Utc>,
        /// In minor units.
        #[graphql(skip)]
        pub limit_minor: i64,
        /// In minor units.
        #[graphql(skip)]
        pub spent_minor: i64,
        /// In minor units.
        #[graphql(skip)]
        pub reserved_minor: i64,
        /// The currency.
        #[graphql(skip)]
        pub currency: String,
        /// Whether spending stops at the limit.
        pub is_hard_limit: bool,
        /// Percentages of the limit that raise an alert.
        pub alert_thresholds: serde_json::Value,
        /// Whether the remainder is carried over to the next period.
        pub rollover: bool,
        /// Version; incremented by every change.
        pub version: i32,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    Budget: BudgetFilter, BudgetOrder by BudgetOrderField, default CreatedAt Desc;
    /// Purpose.
    #[graphql(name = "type")]
    kind: BudgetTypeFilter = "type";
    /// Length of the period.
    period: BudgetPeriodFilter;
    /// Whether spending stops at the limit.
    is_hard_limit: BooleanFilter;
    /// Start of the period (inclusive).
    starts_at: DateTimeFilter, StartsAt;
    /// End of the period (exclusive).
    ends_at: DateTimeFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    Budget {
        /// The usage records, newest first.
        usage_records -> BudgetUsageRecord by "t.budget_id";
    }
    computed {
        /// Limit of the period.
        limit: Money = |row| Money::from_minor(row.limit_minor, &row.currency);
        /// Amount spent.
        spent: Money = |row| Money::from_minor(row.spent_minor, &row.currency);
        /// Amount reserved.
        reserved: Money = |row| Money::from_minor(row.reserved_minor, &row.currency);
        /// Amount left; negative when a soft limit is exceeded.
        available: Money = |row| {
            let taken = row.spent_minor.saturating_add(row.reserved_minor);
            Money::from_minor(row.limit_minor.saturating_sub(taken), &row.currency)
        };
    }
}

entity! {
    /// An amount spent, reserved, settled or released.
    #[graphql(complex)]
    pub struct BudgetUsageRecord("budget_usage_records", read by BudgetRead) {
        /// Unique id.
        pub id: BudgetUsageRecordId,
        /// The budget.
        #[graphql(skip)]
        pub budget_id: BudgetId,
        /// In minor units.
        #[graphql(skip)]
        pub amount_minor: i64,
        /// The currency.
        #[graphql(skip)]
        pub currency: String,
        /// Effect on the budget.
        pub kind: BudgetUsageKind,
        /// Source of the usage.
        pub source: String,
        /// What it was taken for.
        #[graphql(skip)]
        pub resource_id: Option<Uuid>,
        /// Time of the usage.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    BudgetUsageRecord: BudgetUsageRecordFilter, BudgetUsageRecordOrder by BudgetUsageRecordOrderField,
        default CreatedAt Desc;
    /// Effect on the budget.
    kind: BudgetUsageKindFilter;
    /// Source of the usage.
    source: StringFilter;
    /// Amount in minor units (cents).
    amount_minor: IntFilter;
    /// Time of the usage.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    BudgetUsageRecord {}
    one {
        /// The budget.
        budget -> Budget! by budget_id;
    }
    computed {
        /// Amount.
        amount: Money = |row| Money::from_minor(row.amount_minor, &row.currency);
    }
}
