//! The figures of any buckets of time, as a function of the rows as they are: the one place that says what is counted. The job
//! writes them down for the periods in UTC, and a time series reads them for the buckets of any time zone.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use sqlx::AssertSqlSafe;

use crate::db::Conn;
use crate::error::Result;
use crate::id::OrganizationId;
use crate::metrics::MetricPeriod;

/// Seconds to the first response, without the pauses before it.
const RESPONSE: &str =
    "greatest(extract(epoch from k.first_responded_at - k.created_at) - k.first_response_paused_seconds, 0)";
/// Seconds to the resolution, without pauses.
const RESOLUTION: &str = "greatest(extract(epoch from k.resolved_at - k.created_at) - k.sla_paused_seconds, 0)";
/// Average and percentiles of the seconds of rows of the kinds `f` (first response) and `r` (resolution). The average is that of exact
/// numbers: it does not depend on their order.
fn times() -> String {
    let of = |kind: &str| {
        format!(
            "avg(f.seconds) filter (where f.kind = '{kind}') as {kind}_avg,
             percentile_cont(array[0.5, 0.9, 0.95, 0.99]) within group (order by f.seconds::float8) filter (where f.kind = '{kind}') as {kind}_parts"
        )
    };
    format!("{}, {}", of("f"), of("r"))
}

/// Tickets of a bucket `b` of organization `$1`: `tickets_opened`, `first_responses`, `tickets_resolved`, `f_avg`, `f_parts`,
/// `r_avg`, `r_parts`, `by_category`.
pub(super) static TICKETS: LazyLock<String> = LazyLock::new(|| {
    let json = |kind: &str, count: &str| {
        format!(
            "case when x.{count} > 0 then jsonb_build_object('avg', x.{kind}_avg::float8, 'p50', x.{kind}_parts[1], 'p90', x.{kind}_parts[2],
                'p95', x.{kind}_parts[3], 'p99', x.{kind}_parts[4]) end"
        )
    };
    format!(
        "select coalesce(max(x.opened) filter (where x.is_whole), 0)::int as tickets_opened,
                coalesce(max(x.responded) filter (where x.is_whole), 0)::int as first_responses,
                coalesce(max(x.resolved) filter (where x.is_whole), 0)::int as tickets_resolved,
                max(x.f_avg) filter (where x.is_whole)::float8 as f_avg, max(x.f_parts) filter (where x.is_whole) as f_parts,
                max(x.r_avg) filter (where x.is_whole)::float8 as r_avg, max(x.r_parts) filter (where x.is_whole) as r_parts,
                coalesce(jsonb_object_agg(x.category::text, jsonb_build_object('opened', x.opened, 'firstResponses', x.responded, 'resolved', x.resolved,
                         'firstResponseSeconds', {response}, 'resolutionSeconds', {resolution})) filter (where not x.is_whole), '{{}}') as by_category
           from (select grouping(f.category) = 1 as is_whole, f.category,
                        count(*) filter (where f.kind = 'o') as opened, count(*) filter (where f.kind = 'f') as responded,
                        count(*) filter (where f.kind = 'r') as resolved, {times}
                   from (select 'o' as kind, k.category, null::numeric as seconds from tenantry.tickets k
                          where k.organization_id = $1 and k.created_at >= b.starts_at and k.created_at < b.ends_at
                         union all
                         select 'f', k.category, {RESPONSE} from tenantry.tickets k
                          where k.organization_id = $1 and k.first_responded_at >= b.starts_at and k.first_responded_at < b.ends_at
                         union all
                         select 'r', k.category, {RESOLUTION} from tenantry.tickets k
                          where k.organization_id = $1 and k.resolved_at >= b.starts_at and k.resolved_at < b.ends_at and k.merged_into_id is null) f
                  group by grouping sets ((), (f.category))) x",
        response = json("f", "responded"),
        resolution = json("r", "resolved"),
        times = times(),
    )
});
/// Escalations of a bucket: `tickets_escalated`.
pub(super) const ESCALATIONS: &str =
    "select count(distinct e.ticket_id)::int as tickets_escalated from tenantry.escalations e
    where e.organization_id = $1 and e.created_at >= b.starts_at and e.created_at < b.ends_at";
/// Messages of a bucket: `messages_sent`.
pub(super) const MESSAGES: &str = "select count(*)::int as messages_sent from tenantry.ticket_messages m
    where m.organization_id = $1 and m.created_at >= b.starts_at and m.created_at < b.ends_at
      and m.author_user_id is not null and not m.is_internal and m.deleted_at is null";
/// Refunds of a bucket: `refunds_requested`, `refunds_settled`, `refund_totals`, `refund_currency`.
pub(super) const REFUNDS: &str = "select (select count(*)::int from tenantry.refunds r
             where r.organization_id = $1 and r.created_at >= b.starts_at and r.created_at < b.ends_at) as refunds_requested,
           coalesce(sum(c.n), 0)::int as refunds_settled,
           coalesce(jsonb_object_agg(c.currency, c.total) filter (where c.currency is not null), '{}') as refund_totals,
           coalesce((array_agg(c.currency order by c.n desc, c.currency))[1], 'USD') as refund_currency
      from (select r.currency, count(*) as n, least(sum(r.amount_minor), 9223372036854775807)::bigint as total from tenantry.refunds r
             where r.organization_id = $1 and r.settled_at >= b.starts_at and r.settled_at < b.ends_at and r.status = 'SETTLED'
             group by r.currency) c";

/// What representatives did in a bucket `b`. A first answer and the ticket's note of it are of the same moment: both ranges are told, so
/// that both are found by their indexes (a month of 27,000 tickets of a million: 1.3 s; with one of them more than a minute).
static TEAM: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select f.representative_id, count(distinct f.ticket_id) filter (where f.kind in ('m', 'r'))::int as tickets_handled,
                (count(*) filter (where f.kind = 'm'))::int as messages_sent, (count(*) filter (where f.kind = 'f'))::int as first_responses,
                (count(*) filter (where f.kind = 'r'))::int as tickets_resolved, {times}
           from (select 'm' as kind, r.id as representative_id, m.ticket_id, null::numeric as seconds from tenantry.ticket_messages m
                   join tenantry.representatives r on r.organization_id = m.organization_id and r.user_id = m.author_user_id
                  where m.organization_id = $1 and m.created_at >= b.starts_at and m.created_at < b.ends_at
                    and m.author_user_id is not null and not m.is_internal and m.deleted_at is null
                 union all
                 select 'r', k.assignee_id, k.id, {RESOLUTION} from tenantry.tickets k
                  where k.organization_id = $1 and k.resolved_at >= b.starts_at and k.resolved_at < b.ends_at
                    and k.merged_into_id is null and k.assignee_id is not null
                 union all
                 (select distinct on (k.id) 'f', r.id, k.id, {RESPONSE} from tenantry.ticket_messages m
                    join tenantry.tickets k on k.organization_id = m.organization_id and k.id = coalesce(m.moved_from_id, m.ticket_id)
                         and k.first_responded_at = m.created_at
                    join tenantry.representatives r on r.organization_id = m.organization_id and r.user_id = m.author_user_id
                   where m.organization_id = $1 and m.created_at >= b.starts_at and m.created_at < b.ends_at
                     and k.organization_id = $1 and k.first_responded_at >= b.starts_at and k.first_responded_at < b.ends_at
                     and m.author_user_id is not null and not m.is_internal
                   order by k.id, m.id)) f
          group by f.representative_id",
        times = times(),
    )
});

/// `column: expression` of the figures of an organization.
const OF_ORGANIZATION: &[(&str, &str)] = &[
    ("tickets_opened", "f.tickets_opened"),
    ("first_responses", "f.first_responses"),
    ("tickets_resolved", "f.tickets_resolved"),
    ("tickets_escalated", "f.tickets_escalated"),
    ("refunds_requested", "f.refunds_requested"),
    ("refunds_settled", "f.refunds_settled"),
    ("refund_totals", "f.refund_totals"),
    ("refund_total_minor", "coalesce((f.refund_totals ->> f.refund_currency)::bigint, 0)"),
    ("currency", "f.refund_currency"),
    ("messages_sent", "f.messages_sent"),
    ("by_category", "f.by_category"),
];
/// The same of a representative.
const OF_REPRESENTATIVE: &[(&str, &str)] = &[
    ("tickets_handled", "f.tickets_handled"),
    ("tickets_resolved", "f.tickets_resolved"),
    ("first_responses", "f.first_responses"),
    ("messages_sent", "f.messages_sent"),
];
/// The same of both.
const OF_BOTH: &[(&str, &str)] = &[
    ("first_response_seconds_avg", "f.f_avg::float8"),
    ("first_response_seconds_p50", "f.f_parts[1]"),
    ("first_response_seconds_p90", "f.f_parts[2]"),
    ("first_response_seconds_p95", "f.f_parts[3]"),
    ("first_response_seconds_p99", "f.f_parts[4]"),
    ("resolution_seconds_avg", "f.r_avg::float8"),
    ("resolution_seconds_p50", "f.r_parts[1]"),
    ("resolution_seconds_p90", "f.r_parts[2]"),
    ("resolution_seconds_p95", "f.r_parts[3]"),
    ("resolution_seconds_p99", "f.r_parts[4]"),
];

/// A table of figures: how its rows are made.
struct Table {
    name: &'static str,
    /// What makes a row, beside the organization and the period.
    key: &'static [&'static str],
    figures: &'static [(&'static str, &'static str)],
    /// Whether anything happened: a period without has no row.
    is_active: &'static str,
}

const ORGANIZATIONS: Table = Table {
    name: "performance_metrics",
    key: &[],
    figures: OF_ORGANIZATION,
    is_active: "f.tickets_opened + f.first_responses + f.tickets_resolved + f.tickets_escalated + f.refunds_requested + f.refunds_settled + f.messages_sent > 0",
};
const REPRESENTATIVES: Table = Table {
    name: "team_performance",
    key: &["representative_id"],
    figures: OF_REPRESENTATIVE,
    is_active: "f.tickets_handled + f.first_responses > 0",
};

/// What is written of each of these names.
fn concat(names: &[&str], write: impl Fn(&str) -> String) -> String {
    names.iter().map(|name| write(name)).collect::<Vec<_>>().concat()
}

impl Table {
    /// Writes the rows of organization `$1` for the periods `$4` from `$2` to `$3`, at the time `$5`, and removes those in which nothing
    /// happened. An id follows from what the row is about, so that it is the same whenever the row is made.
    fn write(&self, buckets: &str) -> String {
        let figures: Vec<_> = self.figures.iter().chain(OF_BOTH).collect();
        let (names, values): (Vec<_>, Vec<_>) = figures.iter().map(|(name, value)| (*name, *value)).unzip();
        let key = |before: &str| concat(self.key, |name| format!(", {before}{name}"));
        let same_key = concat(self.key, |name| format!(" and f.{name} = p.{name}"));
        let in_id = concat(self.key, |name| format!(" || f.{name}"));
        let each = |make: &dyn Fn(&str) -> String| names.iter().map(|name| make(name)).collect::<Vec<_>>().join(", ");
        format!(
            "with figures as materialized (
                 select b.starts_at, f.* from unnest($2::timestamptz[], $3::timestamptz[]) as b (starts_at, ends_at) cross join lateral ({buckets}) f
             ), gone as (
                 delete from tenantry.{table} p
                  where p.organization_id = $1 and p.period = $4::text::tenantry.metric_period and p.period_start = any($2)
                    and not exists (select from figures f where f.starts_at = p.period_start{same_key} and {active})
             )
             insert into tenantry.{table} as p (organization_id, id, period, period_start{keys}, created_at, {names})
             select $1, md5($1::text || $4 || extract(epoch from f.starts_at){in_id})::uuid, $4::text::tenantry.metric_period, f.starts_at{f_keys}, $5, {values}
               from figures f where {active}
                 on conflict (organization_id{keys}, period, period_start) do update set {set}
              where ({ours}) is distinct from ({theirs})",
            table = self.name,
            active = self.is_active,
            keys = key(""),
            f_keys = key("f."),
            names = names.join(", "),
            values = values.join(", "),
            set = each(&|name| format!("{name} = excluded.{name}")),
            ours = each(&|name| format!("p.{name}")),
            theirs = each(&|name| format!("excluded.{name}")),
        )
    }

    /// Compares the rows of organization `$1` and period `$2` that begin at `$3` with those that began at `$4`. `trends` has the
    /// column of a trend, the figure it is of, and whether less is better.
    fn compare(&self, trends: &[(&str, &str, bool)]) -> String {
        let same_key = concat(self.key, |name| format!(" and q.{name} = p.{name}"));
        let (mut set, mut known, mut found) = (Vec::new(), Vec::new(), Vec::new());
        for (trend, figure, less_is_better) in trends {
            set.push(format!("{trend} = n.{trend}"));
            known.push(format!("t.{trend}"));
            // A number that was counted is 0 where there is no row; a time is not known there.
            let before = if *less_is_better { format!("q.{figure}") } else { format!("coalesce(q.{figure}, 0)") };
            let (better, worse) = if *less_is_better { ("UP", "DOWN") } else { ("DOWN", "UP") };
            found.push(format!(
                "(case when p.{figure} < {before} and p.{figure} <= 0.95 * {before} then '{better}'
                       when p.{figure} > {before} and p.{figure} >= 1.05 * {before} then '{worse}' else 'FLAT' end)::tenantry.performance_trend as {trend}"
            ));
        }
        let each_known = known.join(", ");
        let each_found: Vec<String> = trends.iter().map(|(trend, ..)| format!("n.{trend}")).collect();
        format!(
            "update tenantry.{table} t set {set}
               from (select p.id, {found} from unnest($3::timestamptz[], $4::timestamptz[]) as b (starts_at, began_at)
                       join tenantry.{table} p on p.organization_id = $1 and p.period = $2::text::tenantry.metric_period and p.period_start = b.starts_at
                       left join tenantry.{table} q on q.organization_id = $1 and q.period = p.period and q.period_start = b.began_at{same_key}) n
              where t.organization_id = $1 and t.id = n.id and ({each_known}) is distinct from ({each_found})",
            table = self.name,
            set = set.join(", "),
            found = found.join(", "),
            each_found = each_found.join(", "),
        )
    }
}

/// The statements that write and compare, of organizations and of representatives.
static STATEMENTS: LazyLock<[(String, String); 2]> = LazyLock::new(|| {
    let of_organization =
        format!("select t.*, e.*, m.*, r.* from ({}) t, ({ESCALATIONS}) e, ({MESSAGES}) m, ({REFUNDS}) r", *TICKETS);
    let times =
        [("trend", "resolution_seconds_avg", true), ("first_response_trend", "first_response_seconds_avg", true)];
    [
        (
            ORGANIZATIONS.write(&of_organization),
            ORGANIZATIONS.compare(&[times[0], times[1], ("tickets_resolved_trend", "tickets_resolved", false)]),
        ),
        (
            REPRESENTATIVES.write(&TEAM),
            REPRESENTATIVES.compare(&[times[0], ("tickets_handled_trend", "tickets_handled", false)]),
        ),
    ]
});

/// Computes the periods of one length that begin at these times, from the rows as they are, and compares them and those that
/// follow with the periods before.
pub(super) async fn compute(
    conn: &mut Conn,
    organization: OrganizationId,
    period: MetricPeriod,
    starts: &[DateTime<Utc>],
    now: DateTime<Utc>,
) -> Result<()> {
    let ends: Vec<DateTime<Utc>> = starts.iter().map(|start| period.after(*start)).collect();
    let mut compared: Vec<DateTime<Utc>> = starts.iter().chain(&ends).copied().collect();
    compared.sort_unstable();
    compared.dedup();
    let before: Vec<DateTime<Utc>> = compared.iter().map(|start| period.before(*start)).collect();
    for (write, compare) in &*STATEMENTS {
        sqlx::query(AssertSqlSafe(write.as_str()))
            .bind(organization)
            .bind(starts)
            .bind(&ends)
            .bind(period.label())
            .bind(now)
            .execute(&mut *conn)
            .await?;
        sqlx::query(AssertSqlSafe(compare.as_str()))
            .bind(organization)
            .bind(period.label())
            .bind(&compared)
            .bind(&before)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
