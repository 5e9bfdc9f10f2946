//! Budgets: what may be spent for a purpose in a period, and what was.
//!
//! A row of `budgets` is one period; the periods of a budget share `series_id`, the id of the first. Any of their ids names the
//! budget: a verb works on the period that is current, and opens it if its time has come.
//!
//! Invariants: `spent` is the sum of the records SPEND and SETTLE, less RETURN, `reserved` that of the open reservations, in the same
//! transaction as these. Spent and reserved never exceed a hard limit, except by payments that were made already (`overrun`).
//! A threshold fires once each time that spent and reserved reach it from below. A reservation lasts 24 hours at most.

mod books;
mod graphql;
mod jobs;
mod model;
mod sql;
mod verbs;

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub use books::Books;
pub use graphql::{
    BudgetArchiveInput, BudgetCreateInput, BudgetMutation, BudgetReleaseInput, BudgetReserveInput, BudgetSettleInput,
    BudgetSpendInput, BudgetSubscription, BudgetUpdateInput,
};
pub use jobs::{expire_reservations, open_due_periods};
pub use model::{
    BudgetPeriod, BudgetPeriodFilter, BudgetReservationStatus, BudgetReservationStatusFilter, BudgetType,
    BudgetTypeFilter, BudgetUsageKind, BudgetUsageKindFilter,
};
pub use verbs::{
    LONGEST, Payment, Standing, Taking, default_budget, give_back, mark_in_flight, purpose, release, reserve,
    reserve_paid, settle, spend, standing,
};

use crate::graphql::filter::{BooleanFilter, DateTimeFilter, IdFilter, IntFilter, StringFilter};
use crate::graphql::money::Money;
use crate::graphql::mutation::MutationInfo;
use crate::id::{BudgetAlertId, BudgetId, BudgetReservationId, BudgetUsageRecordId};
use crate::refunds::Refund;
use crate::{entity, listing, relations};

entity! {
    /// An amount of money for a purpose, in one period.
    #[graphql(complex)]
    pub struct Budget("budgets", read by BudgetRead) {
        /// Unique id of the period. The id of any period of a budget names the budget.
        pub id: BudgetId,
        /// Id of the first period, which all periods of the budget share.
        pub series_id: BudgetId,
        /// Purpose.
        #[graphql(name = "type")]
        pub kind: BudgetType = "type",
        /// Name.
        pub name: String,
        /// Length of the period.
        pub period: BudgetPeriod,
        /// Time zone (IANA) in which periods begin at midnight; weeks on Monday.
        pub time_zone: String,
        /// Start of the period (inclusive).
        pub starts_at: DateTime<Utc>,
        /// End of the period (exclusive).
        pub ends_at: DateTime<Utc>,
        /// In minor units.
        #[graphql(skip)]
        pub limit_minor: i64,
        /// In minor units.
        #[graphql(skip)]
        pub rolled_over_minor: i64,
        /// In minor units.
        #[graphql(skip)]
        pub spent_minor: i64,
        /// In minor units.
        #[graphql(skip)]
        pub reserved_minor: i64,
        /// In minor units.
        #[graphql(skip)]
        pub overrun_minor: i64,
        /// The currency.
        #[graphql(skip)]
        pub currency: String,
        /// Whether spending stops at the limit.
        pub is_hard_limit: bool,
        /// Percentages of the limit and what was carried over; reaching one raises an alert.
        pub alert_thresholds: Vec<i32>,
        /// Whether the remainder is carried over to the next period.
        pub rollover: bool,
        /// Version of the settings; incremented by changes of them and by a new period, not by spending. Pass it as
        /// `expectedVersion`.
        pub version: i32,
        /// When the next period was opened; null: the current period.
        pub closed_at: Option<DateTime<Utc>>,
        /// Time of archiving; null: in use.
        pub archived_at: Option<DateTime<Utc>>,
        /// Whether the plan has no room for the budget, because there are as many older ones as it gives: it can be read and
        /// archived, and nothing else until there is room.
        pub is_over_plan: bool = "archived_at is null and tenantry.is_over_plan(t.organization_id,t.series_id)",
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
    /// Id of the first period.
    series_id: IdFilter;
    /// Length of the period.
    period: BudgetPeriodFilter;
    /// Whether spending stops at the limit.
    is_hard_limit: BooleanFilter;
    /// Start of the period (inclusive).
    starts_at: DateTimeFilter, StartsAt;
    /// End of the period (exclusive).
    ends_at: DateTimeFilter;
    /// When the next period was opened; `isNull: true` finds current periods.
    closed_at: DateTimeFilter;
    /// Time of archiving; `isNull: true` finds budgets in use.
    archived_at: DateTimeFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    Budget {
        /// The usage records, newest first. A reservation is found by its record of kind RESERVE.
        usage_records -> BudgetUsageRecord by "t.budget_id";
        /// The alerts of the period, newest first.
        alerts -> BudgetAlert by "t.budget_id";
        /// The periods of the budget, newest first, this one among them.
        periods -> Budget by "t.series_id" of series_id;
        /// The refunds that any of its periods pays. For members and above.
        refunds -> Refund by "t.budget_id" of series_id;
    }
    computed {
        /// Limit of the period.
        limit: Money = |row| Money::from_minor(row.limit_minor, &row.currency);
        /// Amount left of the periods before, on top of the limit.
        rolled_over: Money = |row| Money::from_minor(row.rolled_over_minor, &row.currency);
        /// Amount spent.
        spent: Money = |row| Money::from_minor(row.spent_minor, &row.currency);
        /// Amount reserved.
        reserved: Money = |row| Money::from_minor(row.reserved_minor, &row.currency);
        /// Amount by which payments that had been made already exceeded a hard limit.
        overrun: Money = |row| Money::from_minor(row.overrun_minor, &row.currency);
        /// Amount left; negative when more than the limit is spent.
        available: Money = |row| {
            let taken = row.spent_minor.saturating_add(row.reserved_minor);
            let ceiling = row.limit_minor.saturating_add(row.rolled_over_minor);
            Money::from_minor(ceiling.saturating_sub(taken), &row.currency)
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
        /// The reservation.
        #[graphql(skip)]
        pub reservation_id: Option<BudgetReservationId>,
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
        /// The reservation that was made, settled or released; null for kind SPEND.
        reservation -> BudgetReservation by reservation_id;
    }
    computed {
        /// Amount.
        amount: Money = |row| Money::from_minor(row.amount_minor, &row.currency);
    }
}

entity! {
    /// An amount that is set aside from one or more budgets until it is settled, released or expired.
    #[graphql(complex)]
    pub struct BudgetReservation("budget_reservations", read by BudgetRead) {
        /// Unique id.
        pub id: BudgetReservationId,
        /// In minor units.
        #[graphql(skip)]
        pub amount_minor: i64,
        /// In minor units.
        #[graphql(skip)]
        pub settled_minor: Option<i64>,
        /// The currency.
        #[graphql(skip)]
        pub currency: String,
        /// Status.
        pub status: BudgetReservationStatus,
        /// Source of the usage.
        pub source: String,
        /// Time of expiry: from then on the amount is free again, shown as EXPIRED or not yet.
        pub expires_at: DateTime<Utc>,
        /// When its payment was sent; null: none was. Its result counts in full whenever it comes.
        pub in_flight_at: Option<DateTime<Utc>>,
        /// When it was settled, released or found expired; null while it is open.
        pub ended_at: Option<DateTime<Utc>>,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    BudgetReservation: BudgetReservationFilter, BudgetReservationOrder by BudgetReservationOrderField,
        default CreatedAt Desc;
    /// Status.
    status: BudgetReservationStatusFilter, Status then CreatedAt;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    BudgetReservation {
        /// The usage records, newest first: one of each budget when it was made, and one when it ended.
        usage_records -> BudgetUsageRecord by "t.reservation_id";
    }
    computed {
        /// Amount set aside in each of its budgets.
        amount: Money = |row| Money::from_minor(row.amount_minor, &row.currency);
    }

    /// Amount spent in the end; null unless it is settled.
    async fn settled(&self) -> Option<Money> {
        self.settled_minor.map(|minor| Money::from_minor(minor, &self.currency))
    }
}

entity! {
    /// A threshold of a budget that was reached from below.
    #[graphql(complex)]
    pub struct BudgetAlert("budget_alerts", read by BudgetRead) {
        /// Unique id.
        pub id: BudgetAlertId,
        /// The budget.
        #[graphql(skip)]
        pub budget_id: BudgetId,
        /// The first period of the budget.
        #[graphql(skip)]
        pub series_id: BudgetId,
        /// The threshold in percent of the limit and what was carried over.
        pub percent: i32,
        /// In minor units.
        #[graphql(skip)]
        pub taken_minor: i64,
        /// In minor units.
        #[graphql(skip)]
        pub limit_minor: i64,
        /// The currency.
        #[graphql(skip)]
        pub currency: String,
        /// Time of the crossing.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    BudgetAlert: BudgetAlertFilter, BudgetAlertOrder by BudgetAlertOrderField, default CreatedAt Desc;
    /// The threshold in percent.
    percent: IntFilter;
    /// Time of the crossing.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    BudgetAlert {}
    one {
        /// The budget, in the period of the alert.
        budget -> Budget! by budget_id;
    }
    computed {
        /// Amount spent and reserved after the crossing.
        taken: Money = |row| Money::from_minor(row.taken_minor, &row.currency);
        /// Limit and what was carried over, at that time.
        limit: Money = |row| Money::from_minor(row.limit_minor, &row.currency);
    }
}

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<BudgetCreateInput>(),
    MutationInfo::of::<BudgetUpdateInput>(),
    MutationInfo::of::<BudgetArchiveInput>(),
    MutationInfo::of::<BudgetSpendInput>(),
    MutationInfo::of::<BudgetReserveInput>(),
    MutationInfo::of::<BudgetSettleInput>(),
    MutationInfo::of::<BudgetReleaseInput>(),
];
