//! Performance figures, by organization and by representative.

use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::graphql::filter::{DateTimeFilter, IdFilter};
use crate::graphql::money::Money;
use crate::id::{PerformanceMetricId, RepresentativeId, TeamPerformanceId};
use crate::representatives::Representative;
use crate::{entity, listing, pg_enum, relations};

pg_enum! {
    /// The length of a period of metrics.
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
    /// The trend of a metric, compared with the previous period.
    pub enum PerformanceTrend("tenantry.performance_trend", PerformanceTrendFilter) {
        /// Improving.
        Up = "UP",
        /// Declining.
        Down = "DOWN",
        /// Stable.
        Flat = "FLAT",
    }
}

entity! {
    /// Performance metrics of the organization in a period.
    #[graphql(complex)]
    pub struct PerformanceMetric("performance_metrics", read by MetricsRead) {
        /// Unique id.
        pub id: PerformanceMetricId,
        /// Length of the period.
        pub period: MetricPeriod,
        /// Start of the period in UTC (inclusive).
        pub period_start: DateTime<Utc>,
        /// Number of tickets created.
        pub tickets_opened: i32,
        /// Number of tickets resolved.
        pub tickets_resolved: i32,
        /// Number of tickets escalated.
        pub tickets_escalated: i32,
        /// Number of refunds requested.
        pub refunds_requested: i32,
        /// Number of refunds paid.
        pub refunds_settled: i32,
        /// In minor units.
        #[graphql(skip)]
        pub refund_total_minor: i64,
        /// The currency.
        #[graphql(skip)]
        pub currency: String,
        /// Number of messages sent to customers.
        pub messages_sent: i32,
        /// Average time to the first response, in seconds.
        pub first_response_seconds_avg: Option<f64>,
        /// Average time to the resolution, in seconds.
        pub resolution_seconds_avg: Option<f64>,
        /// The metrics by category of ticket.
        pub by_category: serde_json::Value,
        /// Trend compared with the previous period.
        pub trend: PerformanceTrend,
    }
}

listing! {
    PerformanceMetric: PerformanceMetricFilter, PerformanceMetricOrder by PerformanceMetricOrderField,
        default PeriodStart Desc;
    /// Length of the period.
    period: MetricPeriodFilter;
    /// Start of the period (inclusive).
    period_start: DateTimeFilter, PeriodStart;
}

relations! {
    PerformanceMetric {}
    computed {
        /// Amount refunded.
        refund_total: Money = |row| Money::from_minor(row.refund_total_minor, &row.currency);
    }
}

entity! {
    /// Performance metrics of a representative in a period.
    #[graphql(complex)]
    pub struct TeamPerformance("team_performance", read by MetricsRead) {
        /// Unique id.
        pub id: TeamPerformanceId,
        /// The representative.
        #[graphql(skip)]
        pub representative_id: RepresentativeId,
        /// Length of the period.
        pub period: MetricPeriod,
        /// Start of the period in UTC (inclusive).
        pub period_start: DateTime<Utc>,
        /// Number of tickets handled.
        pub tickets_handled: i32,
        /// Average time to the resolution, in seconds.
        pub resolution_seconds_avg: Option<f64>,
        /// Average customer satisfaction, 0 to 5.
        pub satisfaction_score: Option<f64>,
        /// Trend compared with the previous period.
        pub trend: PerformanceTrend,
    }
}

listing! {
    TeamPerformance: TeamPerformanceFilter, TeamPerformanceOrder by TeamPerformanceOrderField, default PeriodStart Desc;
    /// Length of the period.
    period: MetricPeriodFilter;
    /// Start of the period (inclusive).
    period_start: DateTimeFilter, PeriodStart;
    /// Representative.
    representative_id: IdFilter;
}

relations! {
    TeamPerformance {}
    one {
        /// The representative.
        representative -> Representative! by representative_id;
    }
}
