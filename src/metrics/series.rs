//! A time series of figures for charts: every bucket of a range in any time zone, from the rows as they are.

use async_graphql::{Context, SimpleObject};
use chrono::{DateTime, Datelike as _, FixedOffset, SecondsFormat, TimeDelta, Utc};

use crate::access::Action;
use crate::db::{Bind, Reading, Row, TenantTx};
use crate::error::{Error, Result};
use crate::graphql::money::Money;
use crate::graphql::session::Session;
use crate::graphql::time_zone;
use crate::metrics::MetricPeriod;
use crate::metrics::sql::{ESCALATIONS, MESSAGES, REFUNDS, TICKETS};

/// Most buckets of a series.
const MAX_BUCKETS: usize = 1000;
/// Longest range of a series, in days: what a series costs are the rows in its range.
const MAX_DAYS: i64 = 400;
/// Years that times are taken of.
const YEARS: std::ops::RangeInclusive<i32> = 1972..=2200;

/// What a series is of.
#[derive(Clone, Debug)]
pub struct SeriesInput {
    /// A time in the first bucket.
    pub from: DateTime<Utc>,
    /// End of the range (exclusive).
    pub to: DateTime<Utc>,
    /// Length of the buckets.
    pub bucket: MetricPeriod,
    /// The time zone whose calendar the buckets follow.
    pub time_zone: String,
}

/// A time series of performance metrics.
#[derive(Debug, SimpleObject)]
pub struct PerformanceSeries {
    /// Length of the buckets.
    pub bucket: MetricPeriod,
    /// The time zone whose calendar the buckets follow.
    pub time_zone: String,
    /// Every bucket of the range, in order, also those in which nothing happened. Buckets are whole: each begins where the one before
    /// ends. A day in which clocks change has 23 or 25 hours, and an hour that comes twice has two buckets.
    pub buckets: Vec<PerformanceBucket>,
}

/// The performance metrics of one bucket of a series.
#[derive(Debug, SimpleObject)]
pub struct PerformanceBucket {
    /// Start of the bucket (inclusive).
    pub start: DateTime<Utc>,
    /// End of the bucket (exclusive).
    pub end: DateTime<Utc>,
    /// Start of the bucket by the clocks of the time zone, with its offset: `2026-03-29T00:00:00+01:00`.
    pub local_start: String,
    #[graphql(flatten)]
    figures: Figures,
}

/// What is counted in a bucket; 0 and null where it was not selected.
#[derive(Debug, Default, SimpleObject)]
struct Figures {
    /// Number of tickets created.
    tickets_opened: i32,
    /// Number of tickets answered for the first time.
    first_responses: i32,
    /// Number of tickets resolved, without those that were opened again since and those that were merged into others.
    tickets_resolved: i32,
    /// Number of tickets escalated.
    tickets_escalated: i32,
    /// Number of refunds requested.
    refunds_requested: i32,
    /// Number of refunds paid.
    refunds_settled: i32,
    /// Amounts refunded, one for each currency, in the order of their codes.
    refund_totals: Vec<Money>,
    /// Number of messages sent to customers.
    messages_sent: i32,
    /// Average time to the first response, in seconds; null when there was none.
    first_response_seconds_avg: Option<f64>,
    /// Median of the time to the first response, in seconds.
    first_response_seconds_p50: Option<f64>,
    /// 90th percentile of the time to the first response, in seconds.
    first_response_seconds_p90: Option<f64>,
    /// 95th percentile of the time to the first response, in seconds.
    first_response_seconds_p95: Option<f64>,
    /// 99th percentile of the time to the first response, in seconds.
    first_response_seconds_p99: Option<f64>,
    /// Average time to the resolution, in seconds; null when nothing was resolved.
    resolution_seconds_avg: Option<f64>,
    /// Median of the time to the resolution, in seconds.
    resolution_seconds_p50: Option<f64>,
    /// 90th percentile of the time to the resolution, in seconds.
    resolution_seconds_p90: Option<f64>,
    /// 95th percentile of the time to the resolution, in seconds.
    resolution_seconds_p95: Option<f64>,
    /// 99th percentile of the time to the resolution, in seconds.
    resolution_seconds_p99: Option<f64>,
    /// The metrics by category of ticket, as `PerformanceMetric.byCategory`.
    by_category: serde_json::Value,
}

/// Figures that are read from the same tables.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Tickets,
    Escalations,
    Messages,
    Refunds,
}

impl Part {
    const ALL: [Self; 4] = [Self::Tickets, Self::Escalations, Self::Messages, Self::Refunds];

    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Tickets => &[
                "ticketsOpened",
                "firstResponses",
                "ticketsResolved",
                "byCategory",
                "firstResponseSecondsAvg",
                "firstResponseSecondsP50",
                "firstResponseSecondsP90",
                "firstResponseSecondsP95",
                "firstResponseSecondsP99",
                "resolutionSecondsAvg",
                "resolutionSecondsP50",
                "resolutionSecondsP90",
                "resolutionSecondsP95",
                "resolutionSecondsP99",
            ],
            Self::Escalations => &["ticketsEscalated"],
            Self::Messages => &["messagesSent"],
            Self::Refunds => &["refundsRequested", "refundsSettled", "refundTotals"],
        }
    }

    /// A name in the statement, and what it stands for.
    fn source(self) -> (&'static str, &'static str) {
        match self {
            Self::Tickets => ("t", TICKETS.as_str()),
            Self::Escalations => ("e", ESCALATIONS),
            Self::Messages => ("m", MESSAGES),
            Self::Refunds => ("r", REFUNDS),
        }
    }
}

/// The parts of which fields are selected.
fn selected(ctx: &Context<'_>) -> Vec<Part> {
    let buckets = ctx.look_ahead().field("buckets");
    Part::ALL.into_iter().filter(|part| part.fields().iter().any(|name| buckets.field(name).exists())).collect()
}

/// Reads the figures of organization `$1` in the buckets from `$2` to `$3`.
fn statement(parts: &[Part]) -> String {
    let (mut columns, mut sources) = (String::from("b.place"), String::new());
    for part in parts {
        let (name, source) = part.source();
        columns += &format!(", {name}.*");
        sources += &format!(" cross join lateral ({source}) as {name}");
    }
    format!(
        "select {columns} from unnest($2::timestamptz[], $3::timestamptz[]) with ordinality as b (starts_at, ends_at, place){sources} order by b.place"
    )
}

/// The bounds of buckets: start, end, and how far the clocks at the start are from UTC, in seconds. `$1` and `$2` are the range, `$3` is
/// the time zone.
///
/// Days, weeks and months begin at local midnights. One that does not exist is the moment at which the clocks are put forward; of one
/// that comes twice the first counts, where `at time zone` takes the second. A day that a zone left out (`Pacific/Apia`, 2011-12-30) has
/// no length and is no bucket.
const BOUNDS: &str = "with days as (
        select (select min(x.at) from (values (0), (30), (60), (120)) as back (minutes),
                       lateral (select (s.local at time zone $3) - make_interval(mins => back.minutes)) as x (at)
                 where back.minutes = 0 or x.at at time zone $3 = s.local) as starts_at
          from generate_series(date_trunc('{unit}', $1 at time zone $3), ($2 at time zone $3) + interval '1 {unit}', interval '1 {unit}') as s (local)
    ), bounds as (select starts_at, lead(starts_at) over (order by starts_at) as ends_at from days)
    select starts_at, ends_at, extract(epoch from (starts_at at time zone $3) - (starts_at at time zone 'UTC'))::bigint
      from bounds where starts_at < $2 and ends_at > $1 and ends_at > starts_at order by starts_at";
/// The same of hours. They begin where the clocks show another hour than a quarter before, or a full one: all offsets since 1972 are
/// multiples of a quarter of an hour.
const BOUNDS_OF_HOURS: &str = "with hours as (
        select at as starts_at from generate_series(date_trunc('hour', $1, 'UTC') - interval '2 hours', $2 + interval '2 hours', interval '15 minutes') as at
         where date_trunc('hour', at at time zone $3) = at at time zone $3
            or date_trunc('hour', at at time zone $3) <> date_trunc('hour', (at - interval '15 minutes') at time zone $3)
    ), bounds as (select starts_at, lead(starts_at) over (order by starts_at) as ends_at from hours)
    select starts_at, ends_at, extract(epoch from (starts_at at time zone $3) - (starts_at at time zone 'UTC'))::bigint
      from bounds where starts_at < $2 and ends_at > $1 order by starts_at";

/// The performance metrics of the viewer's organization as a time series.
///
/// # Errors
/// [`Error::Invalid`] for ranges and time zones that are none; without the right to read metrics.
pub async fn performance_series(ctx: &Context<'_>, input: SeriesInput) -> Result<PerformanceSeries> {
    let session = Session::of(ctx)?;
    let tenant = session.require(Action::MetricsRead).await?;
    check_range(&input)?;
    let tx = session.read().await?;
    if !time_zone::is_known_to_reader(&tx, &input.time_zone).await? {
        return Err(Error::invalid("timeZone", time_zone::NO_SUCH));
    }
    let mut buckets = bounds(&tx, &input).await?;
    let binds = [
        Bind::Uuid(tenant.organization_id.uuid()),
        Bind::Times(buckets.iter().map(|bucket| bucket.start).collect()),
        Bind::Times(buckets.iter().map(|bucket| bucket.end).collect()),
    ];
    let selected = selected(ctx);
    let rows = tx.fetch(&statement(&selected), &binds).await?;
    for (bucket, row) in buckets.iter_mut().zip(&rows) {
        bucket.figures = figures(row, &selected)?;
    }
    Ok(PerformanceSeries { bucket: input.bucket, time_zone: input.time_zone, buckets })
}

fn check_range(input: &SeriesInput) -> Result<()> {
    if !YEARS.contains(&input.from.year()) || !YEARS.contains(&input.to.year()) {
        return Err(Error::invalid("from", "`from` and `to` take times from 1972 to 2200."));
    }
    if input.from >= input.to {
        return Err(Error::invalid("to", "`to` must be after `from`."));
    }
    if input.to - input.from > TimeDelta::days(MAX_DAYS) {
        let message =
            format!("A series is of at most {MAX_DAYS} days; `performanceMetrics` has the periods of any time.");
        return Err(Error::invalid("to", message));
    }
    let hours = usize::try_from((input.to - input.from).num_hours()).unwrap_or_default();
    if input.bucket == MetricPeriod::Hour && hours > MAX_BUCKETS {
        return Err(too_many(hours));
    }
    Ok(())
}

fn too_many(buckets: usize) -> Error {
    let message =
        format!("A series has at most {MAX_BUCKETS} buckets, and this one has {buckets}: take a longer `bucket`.");
    Error::invalid("bucket", message)
}

async fn bounds(tx: &TenantTx<Reading>, input: &SeriesInput) -> Result<Vec<PerformanceBucket>> {
    let sql = match input.bucket {
        MetricPeriod::Hour => BOUNDS_OF_HOURS.to_owned(),
        MetricPeriod::Day => BOUNDS.replace("{unit}", "day"),
        MetricPeriod::Week => BOUNDS.replace("{unit}", "week"),
        MetricPeriod::Month => BOUNDS.replace("{unit}", "month"),
    };
    let rows =
        tx.fetch(&sql, &[Bind::Time(input.from), Bind::Time(input.to), Bind::Text(input.time_zone.clone())]).await?;
    if rows.len() > MAX_BUCKETS {
        return Err(too_many(rows.len()));
    }
    rows.iter()
        .map(|row| {
            let (start, seconds): (DateTime<Utc>, i64) = (row.try_get(0)?, row.try_get(2)?);
            let offset = i32::try_from(seconds).ok().and_then(FixedOffset::east_opt);
            let offset = offset.ok_or_else(|| Error::internal("an offset of more than a day"))?;
            let local_start = start.with_timezone(&offset).to_rfc3339_opts(SecondsFormat::Secs, false);
            Ok(PerformanceBucket { start, end: row.try_get(1)?, local_start, figures: Figures::default() })
        })
        .collect()
}

fn figures(row: &Row, selected: &[Part]) -> Result<Figures> {
    let mut figures = Figures { by_category: serde_json::json!({}), ..Figures::default() };
    if selected.contains(&Part::Tickets) {
        figures.tickets_opened = row.try_get("tickets_opened")?;
        figures.first_responses = row.try_get("first_responses")?;
        figures.tickets_resolved = row.try_get("tickets_resolved")?;
        figures.by_category = row.try_get("by_category")?;
        figures.first_response_seconds_avg = row.try_get("f_avg")?;
        figures.resolution_seconds_avg = row.try_get("r_avg")?;
        if let Some([p50, p90, p95, p99]) = parts(row, "f_parts")? {
            figures.first_response_seconds_p50 = Some(p50);
            figures.first_response_seconds_p90 = Some(p90);
            figures.first_response_seconds_p95 = Some(p95);
            figures.first_response_seconds_p99 = Some(p99);
        }
        if let Some([p50, p90, p95, p99]) = parts(row, "r_parts")? {
            figures.resolution_seconds_p50 = Some(p50);
            figures.resolution_seconds_p90 = Some(p90);
            figures.resolution_seconds_p95 = Some(p95);
            figures.resolution_seconds_p99 = Some(p99);
        }
    }
    if selected.contains(&Part::Escalations) {
        figures.tickets_escalated = row.try_get("tickets_escalated")?;
    }
    if selected.contains(&Part::Messages) {
        figures.messages_sent = row.try_get("messages_sent")?;
    }
    if selected.contains(&Part::Refunds) {
        figures.refunds_requested = row.try_get("refunds_requested")?;
        figures.refunds_settled = row.try_get("refunds_settled")?;
        let totals: serde_json::Value = row.try_get("refund_totals")?;
        figures.refund_totals = totals
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(currency, minor)| Some(Money::from_minor(minor.as_i64()?, currency)))
            .collect();
    }
    Ok(figures)
}

fn parts(row: &Row, name: &str) -> Result<Option<[f64; 4]>> {
    let parts: Option<Vec<f64>> = row.try_get(name)?;
    Ok(parts.and_then(|parts| parts.try_into().ok()))
}
