//! Performance figures, by organization and by representative.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context};
use chrono::{DateTime, Utc};

use crate::error::{Error, Result};
use crate::graphql::filter::{DateTimeFilter, IdFilter};
use crate::graphql::money::Money;
use crate::graphql::session::Session;
use crate::id::{PerformanceMetricId, RepresentativeId, TeamPerformanceId};
use crate::representatives::Representative;
use crate::{entity, listing, pg_enum};

pg_enum! {
    /// The length of a period of figures.
    pub enum MetricPeriod("tenantry.metric_period", MetricPeriodFilter) {
        /// An hour.
        Hour = "HOUR",
        /// A day.
        Day = "DAY",
        /// A week, beginning on Monday.
        Week = "WEEK",
        /// A month.
        Month = "MONTH",
    }
}

pg_enum! {
    /// Where figures go, against the period before.
    pub enum PerformanceTrend("tenantry.performance_trend", PerformanceTrendFilter) {
        /// Better.
        Up = "UP",
        /// Worse.
        Down = "DOWN",
        /// The same.
        Flat = "FLAT",
    }
}

entity! {
    /// What happened in the organization in a period.
    #[graphql(complex)]
    pub struct PerformanceMetric("performance_metrics", read by MetricsRead) {
        /// The id.
        pub id: PerformanceMetricId,
        /// The length of the period.
        pub period: MetricPeriod,
        /// The beginning of the period, UTC.
        pub period_start: DateTime<Utc>,
        /// How many tickets were opened.
        pub tickets_opened: i32,
        /// How many tickets were resolved.
        pub tickets_resolved: i32,
        /// How many tickets were escalated.
        pub tickets_escalated: i32,
        /// How many refunds were asked for.
        pub refunds_requested: i32,
        /// How many refunds were paid.
        pub refunds_settled: i32,
        /// Minor units.
        #[graphql(skip)]
        pub refund_total_minor: i64,
        /// The currency.
        #[graphql(skip)]
        pub currency: String,
        /// How many messages were sent to customers.
        pub messages_sent: i32,
        /// Time to the first answer, in seconds, on average.
        pub first_response_seconds_avg: Option<f64>,
        /// Time to the solution, in seconds, on average.
        pub resolution_seconds_avg: Option<f64>,
        /// The same figures by category of ticket.
        pub by_category: serde_json::Value,
        /// Against the period before.
        pub trend: PerformanceTrend,
    }
}

listing! {
    PerformanceMetric: PerformanceMetricFilter, PerformanceMetricOrder by PerformanceMetricOrderField,
        default PeriodStart Desc;
    /// Length of the period.
    period: MetricPeriodFilter;
    /// Beginning of the period.
    period_start: DateTimeFilter, PeriodStart;
}

#[ComplexObject]
impl PerformanceMetric {
    /// How much was paid back.
    async fn refund_total(&self) -> Money {
        Money::from_minor(self.refund_total_minor, &self.currency)
    }
}

entity! {
    /// What a representative did in a period.
    #[graphql(complex)]
    pub struct TeamPerformance("team_performance", read by MetricsRead) {
        /// The id.
        pub id: TeamPerformanceId,
        /// Whose figures.
        #[graphql(skip)]
        pub representative_id: RepresentativeId,
        /// The length of the period.
        pub period: MetricPeriod,
        /// The beginning of the period, UTC.
        pub period_start: DateTime<Utc>,
        /// How many tickets they handled.
        pub tickets_handled: i32,
        /// Time to the solution, in seconds, on average.
        pub resolution_seconds_avg: Option<f64>,
        /// How satisfied the customers were: 0 to 5, on average.
        pub satisfaction_score: Option<f64>,
        /// Against the period before.
        pub trend: PerformanceTrend,
    }
}

listing! {
    TeamPerformance: TeamPerformanceFilter, TeamPerformanceOrder by TeamPerformanceOrderField, default PeriodStart Desc;
    /// Length of the period.
    period: MetricPeriodFilter;
    /// Beginning of the period.
    period_start: DateTimeFilter, PeriodStart;
    /// Representative.
    representative_id: IdFilter;
}

#[ComplexObject]
impl TeamPerformance {
    /// Whose figures.
    async fn representative(&self, ctx: &Context<'_>) -> Result<Arc<Representative>> {
        Session::of(ctx)?
            .load(self.representative_id)
            .await?
            .ok_or_else(|| Error::internal("figures without their representative"))
    }
}
