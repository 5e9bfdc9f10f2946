//! Performance figures, by organization and by representative: what is counted, and how (`docs/METRICS.md`).
//!
//! All figures are functions of the rows as they are now (`sql.rs`), so that a job that computes what has changed (`jobs.rs`) and a
//! backfill give the same.

mod jobs;
mod model;
mod series;
mod sql;

use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::graphql::filter::{DateTimeFilter, IdFilter};
use crate::graphql::money::Money;
use crate::id::{PerformanceMetricId, RepresentativeId, TeamPerformanceId};
use crate::representatives::Representative;
use crate::{entity, listing, pg_enum, relations};

pub use jobs::{compute_due, compute_in, compute_some, living_organizations, mark};
pub use series::{PerformanceSeries, SeriesInput, performance_series};

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
        /// Number of tickets answered for the first time.
        pub first_responses: i32,
        /// Number of tickets resolved, without those that were opened again since and those that were merged into others.
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
        /// Amounts refunded by currency, in minor units: `{"USD": 6500}`.
        pub refund_totals: serde_json::Value,
        /// Number of messages sent to customers.
        pub messages_sent: i32,
        /// Average time to the first response, in seconds; pauses are not counted.
        pub first_response_seconds_avg: Option<f64>,
        /// Median of the time to the first response, in seconds.
        pub first_response_seconds_p50: Option<f64>,
        /// 90th percentile of the time to the first response, in seconds.
        pub first_response_seconds_p90: Option<f64>,
        /// 95th percentile of the time to the first response, in seconds.
        pub first_response_seconds_p95: Option<f64>,
        /// 99th percentile of the time to the first response, in seconds.
        pub first_response_seconds_p99: Option<f64>,
        /// Average time to the resolution, in seconds; pauses are not counted.
        pub resolution_seconds_avg: Option<f64>,
        /// Median of the time to the resolution, in seconds.
        pub resolution_seconds_p50: Option<f64>,
        /// 90th percentile of the time to the resolution, in seconds.
        pub resolution_seconds_p90: Option<f64>,
        /// 95th percentile of the time to the resolution, in seconds.
        pub resolution_seconds_p95: Option<f64>,
        /// 99th percentile of the time to the resolution, in seconds.
        pub resolution_seconds_p99: Option<f64>,
        /// The metrics by category of ticket: `opened`, `firstResponses`, `resolved`, and `avg`, `p50`, `p90`, `p95`, `p99` of
        /// `firstResponseSeconds` and `resolutionSeconds`, null where there are none.
        pub by_category: serde_json::Value,
        /// Trend of the average time to the resolution, compared with the previous period: 5 percent less is UP, 5 percent more DOWN.
        pub trend: PerformanceTrend,
        /// Trend of the average time to the first response, as `trend`.
        pub first_response_trend: PerformanceTrend,
        /// Trend of the number of tickets resolved: 5 percent more is UP, 5 percent less DOWN.
        pub tickets_resolved_trend: PerformanceTrend,
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
        /// Amount refunded, in the currency of the most refunds; see `refundTotals` for the others.
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
        /// Number of tickets handled: answered by the representative, or resolved while assigned to them.
        pub tickets_handled: i32,
        /// Number of tickets resolved while assigned to the representative.
        pub tickets_resolved: i32,
        /// Number of tickets that the representative was the first to answer.
        pub first_responses: i32,
        /// Number of messages sent to customers.
        pub messages_sent: i32,
        /// Average time to the first response, in seconds, of tickets that the representative was the first to answer.
        pub first_response_seconds_avg: Option<f64>,
        /// Median of the time to the first response, in seconds.
        pub first_response_seconds_p50: Option<f64>,
        /// 90th percentile of the time to the first response, in seconds.
        pub first_response_seconds_p90: Option<f64>,
        /// 95th percentile of the time to the first response, in seconds.
        pub first_response_seconds_p95: Option<f64>,
        /// 99th percentile of the time to the first response, in seconds.
        pub first_response_seconds_p99: Option<f64>,
        /// Average time to the resolution, in seconds, of tickets resolved while assigned to the representative.
        pub resolution_seconds_avg: Option<f64>,
        /// Median of the time to the resolution, in seconds.
        pub resolution_seconds_p50: Option<f64>,
        /// 90th percentile of the time to the resolution, in seconds.
        pub resolution_seconds_p90: Option<f64>,
        /// 95th percentile of the time to the resolution, in seconds.
        pub resolution_seconds_p95: Option<f64>,
        /// 99th percentile of the time to the resolution, in seconds.
        pub resolution_seconds_p99: Option<f64>,
        /// Average customer satisfaction, 0 to 5; null while ratings are not collected.
        pub satisfaction_score: Option<f64>,
        /// Trend of the average time to the resolution, compared with the previous period: 5 percent less is UP, 5 percent more DOWN.
        pub trend: PerformanceTrend,
        /// Trend of the number of tickets handled: 5 percent more is UP, 5 percent less DOWN.
        pub tickets_handled_trend: PerformanceTrend,
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
