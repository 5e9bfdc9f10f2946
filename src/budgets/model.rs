//! The types of budgets, and what follows from numbers alone.

use crate::id::BudgetId;
use crate::pg_enum;

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
        /// Takes back what was settled: the payment came back.
        Return = "RETURN",
    }
}

pg_enum! {
    /// The status of a reservation.
    pub enum BudgetReservationStatus(
        "tenantry.budget_reservation_status", BudgetReservationStatusFilter, ranked
    ) {
        /// The amount is set aside.
        Open = "OPEN",
        /// The amount was spent.
        Settled = "SETTLED",
        /// The amount was given back.
        Released = "RELEASED",
        /// The amount is free again, because its time was over. A payment in flight still settles.
        Expired = "EXPIRED",
        /// The amount was spent, and came back.
        Returned = "RETURNED",
    }
}

/// Most thresholds of a budget.
pub(super) const MAX_THRESHOLDS: usize = 20;
/// Highest threshold, in percent.
pub(super) const MAX_PERCENT: i32 = 1000;

/// A budget before and after a change of its amounts or its limit, as the statement that made it saw both under its lock.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    pub id: BudgetId,
    pub series_id: BudgetId,
    /// The number of the change.
    pub change: i64,
    pub currency: String,
    /// In ascending order.
    pub thresholds: Vec<i32>,
    /// Spent and reserved, in minor units.
    pub taken_before: i64,
    pub taken_after: i64,
    /// Limit and rollover, in minor units.
    pub ceiling_before: i64,
    pub ceiling_after: i64,
}

impl Changed {
    /// The thresholds that are reached now and were not before.
    pub fn crossed(&self) -> impl Iterator<Item = i32> {
        self.thresholds.iter().copied().filter(|percent| {
            self.taken_before < amount_of(*percent, self.ceiling_before)
                && self.taken_after >= amount_of(*percent, self.ceiling_after)
        })
    }
}

/// The least amount that is this percentage; at least one, so that nothing spent is no crossing of a limit of nothing.
fn amount_of(percent: i32, ceiling: i64) -> i64 {
    let exact = i128::from(ceiling) * i128::from(percent);
    let amount = exact / 100 + i128::from(exact % 100 > 0);
    i64::try_from(amount).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: [i32; 0] = [];

    fn changed(thresholds: &[i32], taken: (i64, i64), ceiling: (i64, i64)) -> Vec<i32> {
        let changed = Changed {
            id: BudgetId::NIL,
            series_id: BudgetId::NIL,
            change: 1,
            currency: "USD".to_owned(),
            thresholds: thresholds.to_vec(),
            taken_before: taken.0,
            taken_after: taken.1,
            ceiling_before: ceiling.0,
            ceiling_after: ceiling.1,
        };
        changed.crossed().collect()
    }

    #[test]
    fn thresholds_fire_when_they_are_reached_from_below() {
        let of = |taken| changed(&[50, 80, 100], taken, (1000, 1000));
        assert_eq!(of((0, 499)), NONE);
        assert_eq!(of((0, 500)), [50]);
        assert_eq!(of((500, 500)), NONE);
        assert_eq!(of((500, 1000)), [80, 100]);
        assert_eq!(of((499, 2000)), [50, 80, 100]);
        assert_eq!(of((1000, 0)), NONE);
        // A third of 100 is not reached by 33.
        assert_eq!(changed(&[33], (0, 33), (101, 101)), NONE);
        assert_eq!(changed(&[33], (0, 34), (101, 101)), [33]);
        assert_eq!(changed(&[100], (0, 1), (0, 0)), [100]);
        assert_eq!(changed(&[100], (0, 0), (1000, 0)), NONE);
        // A lower limit reaches, a higher one does not.
        assert_eq!(changed(&[50, 80], (500, 500), (2000, 1000)), [50]);
        assert_eq!(changed(&[50, 80], (500, 500), (1000, 2000)), NONE);
        assert_eq!(changed(&[1000], (0, i64::MAX - 1), (i64::MAX, i64::MAX)), NONE);
    }

    proptest! {
        /// Whatever the steps: a threshold fires as often as the amount comes up to it from below.
        #[test]
        fn thresholds_fire_once_for_each_crossing(
            steps in proptest::collection::vec(0_i64..2000, 1..60),
            percent in 1_i32..=200,
        ) {
            let (mut before, mut fired, mut ups) = (0, 0, 0);
            let mut reached = false;
            for after in steps {
                fired += changed(&[percent], (before, after), (1000, 1000)).len();
                let is_reached = after * 100 >= 1000 * i64::from(percent);
                ups += usize::from(is_reached && !reached);
                (reached, before) = (is_reached, after);
            }
            prop_assert_eq!(fired, ups);
        }
    }
}
