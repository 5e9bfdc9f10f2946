//! Performance figures: the job, a backfill and a naive count over the rows say the same, whatever happens and in which order; time
//! series follow the calendar of any time zone.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use tenantry::id::OrganizationId;
use tenantry::metrics::{self, MetricPeriod};
use uuid::Uuid;

use crate::adopt::{ended, parse};
use crate::jobs::command;
use crate::support::TestApp;

/// Numbers that are the same for a seed (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        let at = usize::try_from(self.below(of.len() as u64)).expect("small");
        of[at]
    }

    fn id(&mut self) -> Uuid {
        Uuid::from_u128((u128::from(self.next()) << 64) | u128::from(self.next()))
    }

    /// A time within so many days after another one.
    fn time(&mut self, after: DateTime<Utc>, days: u64) -> DateTime<Utc> {
        after + TimeDelta::microseconds(i64::try_from(self.below(days * 86_400_000_000)).expect("small"))
    }
}

struct Ticket {
    id: Uuid,
    created: DateTime<Utc>,
    responded: Option<DateTime<Utc>>,
    response_pause: i32,
    resolved: Option<DateTime<Utc>>,
    pause: i32,
    category: String,
    assignee: Option<Uuid>,
    merged: bool,
}

struct Message {
    id: Uuid,
    ticket: Uuid,
    written_on: Uuid,
    author: Uuid,
    deleted: bool,
    created: DateTime<Utc>,
}

struct Refund {
    created: DateTime<Utc>,
    settled: Option<DateTime<Utc>>,
    amount: i64,
    currency: String,
}

/// The rows of an organization, as they are.
struct Rows {
    tickets: Vec<Ticket>,
    /// In public, by members.
    messages: Vec<Message>,
    refunds: Vec<Refund>,
    escalations: Vec<(Uuid, DateTime<Utc>)>,
    /// Representatives by their users.
    representatives: BTreeMap<Uuid, Uuid>,
}

async fn rows(connection: &mut PgConnection, organization: OrganizationId) -> Rows {
    let mut all =
        async |sql: &'static str| sqlx::query(sql).bind(organization).fetch_all(&mut *connection).await.expect(sql);
    let tickets = all(
        "select id, created_at, first_responded_at, first_response_paused_seconds, resolved_at, sla_paused_seconds, category::text,
                assignee_id, merged_into_id is not null from tenantry.tickets where organization_id = $1",
    )
    .await;
    let messages = all(
        "select id, ticket_id, coalesce(moved_from_id, ticket_id), author_user_id, deleted_at is not null, created_at from tenantry.ticket_messages
          where organization_id = $1 and author_user_id is not null and not is_internal order by id",
    )
    .await;
    let refunds = all(
        "select created_at, case when status = 'SETTLED' then settled_at end, amount_minor, currency from tenantry.refunds where organization_id = $1",
    )
    .await;
    let escalations = all("select ticket_id, created_at from tenantry.escalations where organization_id = $1").await;
    let representatives = all("select user_id, id from tenantry.representatives where organization_id = $1").await;
    Rows {
        tickets: tickets
            .iter()
            .map(|row| Ticket {
                id: row.get(0),
                created: row.get(1),
                responded: row.get(2),
                response_pause: row.get(3),
                resolved: row.get(4),
                pause: row.get(5),
                category: row.get(6),
                assignee: row.get(7),
                merged: row.get(8),
            })
            .collect(),
        messages: messages
            .iter()
            .map(|row| Message {
                id: row.get(0),
                ticket: row.get(1),
                written_on: row.get(2),
                author: row.get(3),
                deleted: row.get(4),
                created: row.get(5),
            })
            .collect(),
        refunds: refunds
            .iter()
            .map(|row| Refund { created: row.get(0), settled: row.get(1), amount: row.get(2), currency: row.get(3) })
            .collect(),
        escalations: escalations.iter().map(|row| (row.get(0), row.get(1))).collect(),
        representatives: representatives.iter().map(|row| (row.get(0), row.get(1))).collect(),
    }
}

fn seconds(from: DateTime<Utc>, to: DateTime<Utc>, pause: i32) -> f64 {
    ((to - from).as_seconds_f64() - f64::from(pause)).max(0.0)
}

/// Average and percentiles under the names of columns, as `percentile_cont` is described: linear between the two nearest.
fn times(name: &str, seconds: &mut [f64]) -> Map<String, Value> {
    seconds.sort_by(f64::total_cmp);
    let mut found = Map::new();
    let number = |at: usize| f64::from(u32::try_from(at).expect("small"));
    let mut put = |part: &str, value: Option<f64>| found.insert(format!("{name}_{part}"), json!(value));
    let count = seconds.len();
    put("avg", (count > 0).then(|| seconds.iter().sum::<f64>() / number(count)));
    for (part, share) in [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)] {
        let value = (count > 0).then(|| {
            let place = share * number(count - 1);
            let low = (0..count).rev().find(|at| number(*at) <= place).expect("0 is");
            let high = (low + 1).min(count - 1);
            seconds[low] + (seconds[high] - seconds[low]) * (place - number(low))
        });
        put(part, value);
    }
    found
}

/// The figures of an organization between two times, one row after the other.
fn naive(rows: &Rows, start: DateTime<Utc>, end: DateTime<Utc>) -> Map<String, Value> {
    let within = |at: DateTime<Utc>| start <= at && at < end;
    let maybe = |at: Option<DateTime<Utc>>| at.is_some_and(within);
    let figures_of = |category: Option<&str>| {
        let tickets: Vec<&Ticket> =
            rows.tickets.iter().filter(|ticket| category.is_none_or(|category| ticket.category == category)).collect();
        let opened = tickets.iter().filter(|ticket| within(ticket.created)).count();
        let mut first: Vec<f64> = tickets
            .iter()
            .filter(|ticket| maybe(ticket.responded))
            .map(|ticket| seconds(ticket.created, ticket.responded.expect("some"), ticket.response_pause))
            .collect();
        let mut resolved: Vec<f64> = tickets
            .iter()
            .filter(|ticket| maybe(ticket.resolved) && !ticket.merged)
            .map(|ticket| seconds(ticket.created, ticket.resolved.expect("some"), ticket.pause))
            .collect();
        let (responses, resolutions) = (first.len(), resolved.len());
        (
            opened,
            responses,
            resolutions,
            times("first_response_seconds", &mut first),
            times("resolution_seconds", &mut resolved),
        )
    };
    let (opened, first, resolved, first_times, resolution_times) = figures_of(None);
    let mut by_category = Map::new();
    for category in rows.tickets.iter().map(|ticket| ticket.category.as_str()).collect::<BTreeSet<_>>() {
        let (opened, first, resolved, first_times, resolution_times) = figures_of(Some(category));
        let part = |count: usize, name: &str, times: &Map<String, Value>| {
            if count == 0 {
                return Value::Null;
            }
            times.iter().map(|(key, value)| (key.replace(&format!("{name}_"), ""), value.clone())).collect()
        };
        if opened + first + resolved > 0 {
            by_category.insert(
                category.to_owned(),
                json!({
                    "opened": opened, "firstResponses": first, "resolved": resolved,
                    "firstResponseSeconds": part(first, "first_response_seconds", &first_times),
                    "resolutionSeconds": part(resolved, "resolution_seconds", &resolution_times),
                }),
            );
        }
    }
    let mut settled: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for refund in rows.refunds.iter().filter(|refund| maybe(refund.settled)) {
        let (count, total) = settled.entry(&refund.currency).or_default();
        *count += 1;
        *total += refund.amount;
    }
    let most = settled.values().map(|(count, _)| *count).max().unwrap_or(0);
    let currency = settled.iter().find(|(_, (count, _))| *count == most).map_or("USD", |(currency, _)| *currency);
    let escalated: BTreeSet<Uuid> =
        rows.escalations.iter().filter(|(_, at)| within(*at)).map(|(ticket, _)| *ticket).collect();
    let counted = json!({
        "tickets_opened": opened,
        "first_responses": first,
        "tickets_resolved": resolved,
        "tickets_escalated": escalated.len(),
        "refunds_requested": rows.refunds.iter().filter(|refund| within(refund.created)).count(),
        "refunds_settled": settled.values().map(|(count, _)| count).sum::<i64>(),
        "refund_totals": settled.iter().map(|(currency, (_, total))| ((*currency).to_owned(), json!(total))).collect::<Map<_, _>>(),
        "refund_total_minor": settled.get(currency).map_or(0, |(_, total)| *total),
        "currency": currency,
        "messages_sent": rows.messages.iter().filter(|message| within(message.created) && !message.deleted).count(),
        "by_category": by_category,
    });
    let mut all = counted.as_object().expect("an object").clone();
    all.extend(first_times);
    all.extend(resolution_times);
    all
}

/// The figures of a representative between two times.
fn naive_of(
    rows: &Rows,
    user: Uuid,
    representative: Uuid,
    start: DateTime<Utc>,
    end: DateTime<Utc>,
) -> Map<String, Value> {
    let within = |at: DateTime<Utc>| start <= at && at < end;
    let of_theirs: Vec<&Message> =
        rows.messages.iter().filter(|message| message.author == user && within(message.created)).collect();
    let mut handled: BTreeSet<Uuid> =
        of_theirs.iter().filter(|message| !message.deleted).map(|message| message.ticket).collect();
    let resolved: Vec<&Ticket> = rows
        .tickets
        .iter()
        .filter(|t| t.assignee == Some(representative) && !t.merged && t.resolved.is_some_and(within))
        .collect();
    handled.extend(resolved.iter().map(|ticket| ticket.id));
    // Of several messages at the same moment the first by id counts, if it is a representative's.
    let mut first: Vec<f64> = rows
        .tickets
        .iter()
        .filter(|ticket| ticket.responded.is_some_and(within))
        .filter(|ticket| {
            let answer =
                rows.messages.iter().filter(|m| m.written_on == ticket.id && Some(m.created) == ticket.responded);
            let answer = answer.filter(|m| rows.representatives.contains_key(&m.author)).min_by_key(|m| m.id);
            answer.is_some_and(|message| message.author == user)
        })
        .map(|ticket| seconds(ticket.created, ticket.responded.expect("some"), ticket.response_pause))
        .collect();
    let mut resolutions: Vec<f64> =
        resolved.iter().map(|t| seconds(t.created, t.resolved.expect("some"), t.pause)).collect();
    let counted = json!({
        "tickets_handled": handled.len(),
        "tickets_resolved": resolved.len(),
        "first_responses": first.len(),
        "messages_sent": of_theirs.iter().filter(|message| !message.deleted).count(),
        "satisfaction_score": null,
    });
    let mut all = counted.as_object().expect("an object").clone();
    all.extend(times("first_response_seconds", &mut first));
    all.extend(times("resolution_seconds", &mut resolutions));
    all
}

fn number(figures: &Map<String, Value>, name: &str) -> f64 {
    figures[name].as_f64().unwrap_or(0.0)
}

fn trend(now: &Map<String, Value>, before: &Map<String, Value>, name: &str, less_is_better: bool) -> &'static str {
    let (Some(now), Some(before)) = (now[name].as_f64(), before[name].as_f64()) else { return "FLAT" };
    let (less, more) = (now < before && now <= 0.95 * before, now > before && now >= 1.05 * before);
    match (less, more, less_is_better) {
        (true, _, true) | (_, true, false) => "UP",
        (true, _, false) | (_, true, true) => "DOWN",
        _ => "FLAT",
    }
}

/// Every row of the two tables that there should be, by table, representative, period and start.
type Figures = BTreeMap<(String, String, String, String), Map<String, Value>>;

fn expected(rows: &Rows) -> Figures {
    let mut times: BTreeSet<DateTime<Utc>> = BTreeSet::new();
    for ticket in &rows.tickets {
        times.extend([Some(ticket.created), ticket.responded, ticket.resolved].into_iter().flatten());
    }
    times.extend(rows.messages.iter().map(|message| message.created));
    times.extend(rows.escalations.iter().map(|(_, at)| *at));
    for refund in &rows.refunds {
        times.extend([Some(refund.created), refund.settled].into_iter().flatten());
    }
    let mut all = Figures::new();
    for period in MetricPeriod::ALL {
        let starts: BTreeSet<DateTime<Utc>> = times.iter().map(|at| period.start_of(*at)).collect();
        for start in starts {
            let (end, before) = (period.after(start), period.before(start));
            let place = |table: &str, who: &str| {
                (table.to_owned(), who.to_owned(), period.label().to_owned(), start.to_rfc3339())
            };
            let (mut now, then) = (naive(rows, start, end), naive(rows, before, start));
            let counts = [
                "tickets_opened",
                "first_responses",
                "tickets_resolved",
                "tickets_escalated",
                "refunds_requested",
                "refunds_settled",
                "messages_sent",
            ];
            if counts.iter().any(|name| number(&now, name) > 0.0) {
                let trends = [
                    ("trend", trend(&now, &then, "resolution_seconds_avg", true)),
                    ("first_response_trend", trend(&now, &then, "first_response_seconds_avg", true)),
                    ("tickets_resolved_trend", trend(&now, &then, "tickets_resolved", false)),
                ];
                now.extend(trends.map(|(name, value)| (name.to_owned(), json!(value))));
                all.insert(place("performance_metrics", ""), now);
            }
            for (user, representative) in &rows.representatives {
                let mut now = naive_of(rows, *user, *representative, start, end);
                let then = naive_of(rows, *user, *representative, before, start);
                if number(&now, "tickets_handled") + number(&now, "first_responses") > 0.0 {
                    let trends = [
                        ("trend", trend(&now, &then, "resolution_seconds_avg", true)),
                        ("tickets_handled_trend", trend(&now, &then, "tickets_handled", false)),
                    ];
                    now.extend(trends.map(|(name, value)| (name.to_owned(), json!(value))));
                    all.insert(place("team_performance", &representative.to_string()), now);
                }
            }
        }
    }
    all
}

/// What the two tables have.
async fn stored(connection: &mut PgConnection, organization: OrganizationId) -> Figures {
    let mut all = Figures::new();
    for (table, who) in [("performance_metrics", "''"), ("team_performance", "representative_id::text")] {
        let sql = format!(
            "select {who}, period::text, period_start, to_jsonb(t) - array['created_at', 'updated_at', 'organization_id', 'representative_id', 'period', 'period_start']
               from tenantry.{table} t where organization_id = $1"
        );
        for row in
            sqlx::query(AssertSqlSafe(sql)).bind(organization).fetch_all(&mut *connection).await.expect("figures")
        {
            let start: DateTime<Utc> = row.get(2);
            let figures: Value = row.get(3);
            all.insert(
                (table.to_owned(), row.get(0), row.get(1), start.to_rfc3339()),
                figures.as_object().expect("an object").clone(),
            );
        }
    }
    all
}

/// Whether two values are the same, but for the last digits of numbers.
fn is_same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            let (left, right) = (left.as_f64().expect("a number"), right.as_f64().expect("a number"));
            (left - right).abs() <= 1e-6_f64.max(left.abs() * 1e-9)
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, value)| right.get(key).is_some_and(|other| is_same(value, other)))
        }
        _ => left == right,
    }
}

fn assert_figures(expected: &Figures, found: &Figures, when: &str) {
    let places = |figures: &Figures| figures.keys().cloned().collect::<BTreeSet<_>>();
    let (wanted, there) = (places(expected), places(found));
    assert!(
        wanted == there,
        "{when}: missing {:?}, too many {:?}",
        wanted.difference(&there).collect::<Vec<_>>(),
        there.difference(&wanted).collect::<Vec<_>>()
    );
    for (place, figures) in expected {
        let mut stored = found[place].clone();
        stored.remove("id");
        for (name, value) in figures {
            // What lies within the last digits of a threshold may fall on either side.
            assert!(is_same(value, &stored[name]), "{when}: {place:?} {name}: {value} is stored as {}", stored[name]);
        }
        assert_eq!(figures.len(), stored.len(), "{when}: {place:?} has {stored:?}");
    }
}

/// One thing that happens, at any time, in any order: clocks are wrong, imports come late, people change the past.
fn step(random: &mut Random, base: DateTime<Utc>) -> String {
    const ORGANIZATION: &str = "(select id from tenantry.organizations where slug = 'acme-corp')";
    let salt = random.next();
    let pick = |table: &str, condition: &str| {
        format!(
            "(select id from tenantry.{table} where organization_id = {ORGANIZATION} and {condition} order by md5(id::text || '{salt}') limit 1)"
        )
    };
    let ticket = pick("tickets", "merged_into_id is null");
    let representative = pick("representatives", "true");
    let member = format!(
        "(select user_id from tenantry.organization_members where organization_id = {ORGANIZATION} order by md5(user_id::text || '{salt}') limit 1)"
    );
    let mine = format!("organization_id = {ORGANIZATION}");
    let (id, at) = (random.id(), random.time(base, 40).to_rfc3339());
    let category = random.one(&["BILLING", "TECHNICAL_ISSUE", "OTHER"]);
    match random.below(24) {
        0..=4 => format!(
            "insert into tenantry.tickets (organization_id, id, number, subject, category, created_at, assignee_id)
             select {ORGANIZATION}, '{id}', 1000 + (select count(*) from tenantry.tickets) + {}, 'x', '{category}', '{at}', {representative}",
            salt % 1_000_000_000
        ),
        5..=8 => format!(
            "insert into tenantry.ticket_messages (organization_id, id, ticket_id, author_user_id, is_internal, body, created_at)
             select {ORGANIZATION}, '{id}', {ticket}, {member}, {}, 'x', '{at}'",
            salt.is_multiple_of(4)
        ),
        // The first answer: a message, and the time of it on the ticket.
        9..=10 => format!(
            "with answer as (insert into tenantry.ticket_messages (organization_id, id, ticket_id, author_user_id, body, created_at)
                 select {ORGANIZATION}, '{id}', {ticket}, {member}, 'x', '{at}' returning *)
             update tenantry.tickets t set first_responded_at = coalesce(t.first_responded_at, a.created_at) from answer a where t.organization_id = a.organization_id and t.id = a.ticket_id"
        ),
        11..=13 => format!("update tenantry.tickets set status = 'RESOLVED', resolved_at = '{at}' where {mine} and id = {ticket}"),
        14 => format!("update tenantry.tickets set status = 'OPEN', resolved_at = null where {mine} and id = {}", pick("tickets", "resolved_at is not null")),
        15 => format!("update tenantry.tickets set sla_paused_seconds = {} where {mine} and id = {ticket}", salt % 100_000),
        16 => format!("update tenantry.tickets set category = '{category}', assignee_id = {representative} where {mine} and id = {ticket}"),
        17 => {
            let other = pick("tickets", &format!("id <> {ticket}"));
            format!(
                "update tenantry.ticket_messages set ticket_id = {other}, moved_from_id = coalesce(moved_from_id, ticket_id) where {mine} and ticket_id = {ticket};
                 update tenantry.tickets set merged_into_id = {other}, status = 'CLOSED', resolved_at = coalesce(resolved_at, '{at}'), closed_at = '{at}' where {mine} and id = {ticket}"
            )
        }
        18 => format!("update tenantry.ticket_messages set deleted_at = now(), body = '' where {mine} and id = {}", pick("ticket_messages", "true")),
        19 => format!("delete from tenantry.ticket_messages where {mine} and id = {}", pick("ticket_messages", "true")),
        20 => format!("insert into tenantry.escalations (organization_id, id, ticket_id, reason, created_at) select {ORGANIZATION}, '{id}', {ticket}, 'OTHER', '{at}'"),
        21 => format!("delete from tenantry.escalations where {mine} and id = {}", pick("escalations", "true")),
        22 => format!(
            "insert into tenantry.refunds (organization_id, id, customer_id, amount_minor, currency, reason, status, settled_at, created_at)
             select {ORGANIZATION}, '{id}', {}, {}, '{}', 'OTHER', 'SETTLED', '{at}', '{}'",
            pick("customer_profiles", "true"),
            1 + salt % 10_000,
            random.one(&["USD", "EUR", "JPY"]),
            random.time(base, 40).to_rfc3339(),
        ),
        _ => format!(
            "update tenantry.refunds set {} where {mine} and id = {}",
            random.one(&["amount_minor = amount_minor + 1", "status = 'FAILED', settled_at = null, next_attempt_at = null", "status = 'PROCESSING', settled_at = null", "status = 'SETTLED', settled_at = created_at + interval '2 days', next_attempt_at = null"]),
            pick("refunds", "true"),
        ),
    }
}

async fn acme(app: &TestApp) -> OrganizationId {
    let id: Uuid = sqlx::query_scalar("select id from tenantry.organizations where slug = 'acme-corp'")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("acme");
    OrganizationId::from_uuid(id)
}

/// Random histories of 60 steps, with the job between any two of them: at the end the figures are those of a naive count, and a backfill
/// from nothing makes the same rows, ids included.
#[tokio::test]
async fn figures_of_the_job_are_those_of_a_backfill_and_of_a_naive_count() {
    const CASES: u64 = 8;
    let app = TestApp::start().await;
    let (db, clock, organization) = (&app.app.services.db, &app.clock, acme(&app).await);
    let mut system = app.database.system().await;
    let base = clock.now().trunc_subsecs(0) - TimeDelta::days(41);
    let sample = stored(&mut system, organization).await;
    assert_figures(&expected(&rows(&mut system, organization).await), &sample, "the sample data");
    for case in 0..CASES {
        let mut random = Random(case);
        for _ in 0..60 {
            let sql = step(&mut random, base);
            sqlx::raw_sql(AssertSqlSafe(sql.as_str()))
                .execute(&mut system)
                .await
                .unwrap_or_else(|error| panic!("{error}: {sql}"));
            if random.below(6) == 0 {
                metrics::compute_some(db, clock, organization).await.expect("a turn");
            }
        }
        while metrics::compute_some(db, clock, organization).await.expect("a turn") > 0 {}
        let incremental = stored(&mut system, organization).await;
        assert_figures(&expected(&rows(&mut system, organization).await), &incremental, &format!("case {case}"));
        sqlx::raw_sql("delete from tenantry.performance_metrics; delete from tenantry.team_performance")
            .execute(&mut system)
            .await
            .expect("nothing left");
        metrics::mark(db, organization, base - TimeDelta::days(400), clock.now() + TimeDelta::days(2))
            .await
            .expect("marks");
        while metrics::compute_some(db, clock, organization).await.expect("a turn") > 0 {}
        assert!(incremental == stored(&mut system, organization).await, "case {case}: a backfill gives other rows");
    }
}

const FIGURES: &str = "ticketsOpened firstResponses ticketsResolved ticketsEscalated refundsRequested refundsSettled refundTotals { amount currencyCode }
    messagesSent firstResponseSecondsAvg firstResponseSecondsP50 firstResponseSecondsP90 firstResponseSecondsP95 firstResponseSecondsP99
    resolutionSecondsAvg resolutionSecondsP50 resolutionSecondsP90 resolutionSecondsP95 resolutionSecondsP99 byCategory";

async fn series(app: &TestApp, token: &str, range: (&str, &str), bucket: &str, zone: &str, fields: &str) -> Vec<Value> {
    let query = format!(
        "query($from: DateTime!, $to: DateTime!, $zone: String!) {{ organization {{
            performanceSeries(from: $from, to: $to, bucket: {bucket}, timeZone: $zone) {{ bucket timeZone buckets {{ start end localStart {fields} }} }} }} }}"
    );
    let data = app.data(token, &query, json!({ "from": range.0, "to": range.1, "zone": zone })).await;
    data["organization"]["performanceSeries"]["buckets"].as_array().expect("buckets").clone()
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().expect("a time").parse().expect("a time")
}

/// `first_response_seconds_p50` as a field of GraphQL.
fn field(column: &str) -> String {
    let mut name = String::new();
    for (at, word) in column.split('_').enumerate() {
        let (head, tail) = word.split_at(1);
        name += &if at == 0 { head.to_owned() } else { head.to_uppercase() };
        name += tail;
    }
    name
}

/// Zone, bucket, range, the starts of its buckets by the clocks of the zone, and the end of the last.
type Case = (&'static str, &'static str, &'static str, &'static str, &'static [&'static str], &'static str);
/// Zones and days that are known for being wrong elsewhere.
const CLOCKS: &[Case] = &[
    // A day of 23 hours and one of 25.
    (
        "Europe/Berlin",
        "DAY",
        "2026-03-28T12:00:00Z",
        "2026-03-30T12:00:00Z",
        &["2026-03-28T00:00:00+01:00", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"],
        "2026-03-30T22:00:00Z",
    ),
    (
        "Europe/Berlin",
        "DAY",
        "2026-10-24T22:00:00Z",
        "2026-10-25T23:00:00Z",
        &["2026-10-25T00:00:00+02:00"],
        "2026-10-25T23:00:00Z",
    ),
    // An hour that is left out, and one that comes twice.
    (
        "Europe/Berlin",
        "HOUR",
        "2026-03-29T00:00:00Z",
        "2026-03-29T02:00:00Z",
        &["2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"],
        "2026-03-29T02:00:00Z",
    ),
    (
        "Europe/Berlin",
        "HOUR",
        "2026-10-25T00:00:00Z",
        "2026-10-25T02:30:00Z",
        &["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"],
        "2026-10-25T03:00:00Z",
    ),
    (
        "Europe/Berlin",
        "WEEK",
        "2026-03-24T00:00:00Z",
        "2026-03-25T00:00:00Z",
        &["2026-03-23T00:00:00+01:00"],
        "2026-03-29T22:00:00Z",
    ),
    (
        "Europe/Berlin",
        "MONTH",
        "2026-03-31T21:59:59Z",
        "2026-03-31T22:00:01Z",
        &["2026-03-01T00:00:00+01:00", "2026-04-01T00:00:00+02:00"],
        "2026-04-30T22:00:00Z",
    ),
    // Three quarters and a half of an hour.
    (
        "Asia/Kathmandu",
        "DAY",
        "2026-05-01T00:00:00Z",
        "2026-05-02T00:00:00Z",
        &["2026-05-01T00:00:00+05:45", "2026-05-02T00:00:00+05:45"],
        "2026-05-02T18:15:00Z",
    ),
    (
        "Asia/Kathmandu",
        "HOUR",
        "2026-05-01T00:15:00Z",
        "2026-05-01T01:00:00Z",
        &["2026-05-01T06:00:00+05:45"],
        "2026-05-01T01:15:00Z",
    ),
    (
        "America/St_Johns",
        "HOUR",
        "2026-07-01T00:00:00Z",
        "2026-07-01T00:31:00Z",
        &["2026-06-30T21:00:00-02:30", "2026-06-30T22:00:00-02:30"],
        "2026-07-01T01:30:00Z",
    ),
    // Clocks that are changed by half an hour: an hour of 90 minutes, and one of 30.
    (
        "Australia/Lord_Howe",
        "HOUR",
        "2026-04-04T14:00:00Z",
        "2026-04-04T15:45:00Z",
        &["2026-04-05T01:00:00+11:00", "2026-04-05T02:00:00+10:30"],
        "2026-04-04T16:30:00Z",
    ),
    (
        "Australia/Lord_Howe",
        "HOUR",
        "2026-10-03T14:30:00Z",
        "2026-10-03T16:15:00Z",
        &["2026-10-04T01:00:00+10:30", "2026-10-04T02:30:00+11:00", "2026-10-04T03:00:00+11:00"],
        "2026-10-03T17:00:00Z",
    ),
    // A midnight that does not exist, and one that comes twice.
    (
        "Africa/Cairo",
        "DAY",
        "2026-04-23T21:59:00Z",
        "2026-04-23T22:01:00Z",
        &["2026-04-23T00:00:00+02:00", "2026-04-24T01:00:00+03:00"],
        "2026-04-24T21:00:00Z",
    ),
    (
        "America/Havana",
        "DAY",
        "2025-11-02T04:30:00Z",
        "2025-11-02T04:31:00Z",
        &["2025-11-02T00:00:00-04:00"],
        "2025-11-03T05:00:00Z",
    ),
    // A day that was left out.
    (
        "Pacific/Apia",
        "DAY",
        "2011-12-29T12:00:00Z",
        "2011-12-31T12:00:00Z",
        &["2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00"],
        "2012-01-01T10:00:00Z",
    ),
    (
        "UTC",
        "MONTH",
        "2028-02-29T00:00:00Z",
        "2028-02-29T00:00:01Z",
        &["2028-02-01T00:00:00+00:00"],
        "2028-03-01T00:00:00Z",
    ),
];

/// Where buckets begin, by the clocks of the zone: zones and days that are known for being wrong elsewhere.
#[tokio::test]
async fn buckets_of_a_series_follow_the_clocks_of_their_time_zone() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    for (zone, bucket, from, to, starts, end) in CLOCKS {
        let buckets = series(&app, &alice, (from, to), bucket, zone, "").await;
        let found: Vec<&str> = buckets.iter().map(|bucket| bucket["localStart"].as_str().expect("a text")).collect();
        assert_eq!(found, *starts, "{zone} {bucket} {from}");
        for (at, bucket) in buckets.iter().enumerate() {
            let local = DateTime::parse_from_rfc3339(found[at]).expect("a time");
            assert_eq!(time(&bucket["start"]), local, "{zone}: the same moment in both");
            let next = buckets.get(at + 1).map_or_else(|| json!(end), |next| next["start"].clone());
            assert_eq!(time(&bucket["end"]), time(&next), "{zone} {found:?}: no gap");
        }
    }
}

/// Every number of a series is that of a naive count between the bounds of its bucket, across both changes of the clocks and with quarters.
#[tokio::test]
async fn figures_of_a_series_are_those_of_a_naive_count() {
    let app = TestApp::start().await;
    let organization = acme(&app).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let mut system = app.database.system().await;
    let mut random = Random(77);
    for base in ["2026-03-10T00:00:00Z", "2026-10-10T00:00:00Z"] {
        let base = base.parse().expect("a time");
        for _ in 0..400 {
            let sql = step(&mut random, base);
            sqlx::raw_sql(AssertSqlSafe(sql.as_str()))
                .execute(&mut system)
                .await
                .unwrap_or_else(|error| panic!("{error}: {sql}"));
        }
    }
    let rows = rows(&mut system, organization).await;
    let (mut compared, mut busy) = (0, 0);
    for (from, to) in
        [("2026-03-10T00:00:00Z", "2026-04-18T00:00:00Z"), ("2026-10-12T03:00:00Z", "2026-11-17T00:00:00Z")]
    {
        for (bucket, zone) in [
            ("DAY", "Europe/Berlin"),
            ("HOUR", "Europe/Berlin"),
            ("DAY", "Asia/Kathmandu"),
            ("HOUR", "Asia/Kathmandu"),
            ("WEEK", "America/New_York"),
            ("MONTH", "Asia/Kathmandu"),
            ("DAY", "Australia/Lord_Howe"),
        ] {
            for bucket in series(&app, &alice, (from, to), bucket, zone, FIGURES).await {
                let wanted = naive(&rows, time(&bucket["start"]), time(&bucket["end"]));
                for (column, value) in &wanted {
                    if ["refund_totals", "refund_total_minor", "currency"].contains(&column.as_str()) {
                        continue;
                    }
                    assert!(is_same(value, &bucket[field(column)]), "{zone} {bucket}: {column} is {value}");
                    compared += 1;
                }
                let totals: Map<String, Value> = bucket["refundTotals"]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(|money| {
                        let (currency, amount) = (
                            money["currencyCode"].as_str().expect("a code"),
                            money["amount"].as_str().expect("an amount"),
                        );
                        (currency.to_owned(), json!(amount.replace('.', "").parse::<i64>().expect("digits")))
                    })
                    .collect();
                assert_eq!(json!(totals), wanted["refund_totals"], "{zone} {bucket}");
                busy += usize::from(wanted["tickets_opened"] != json!(0));
            }
        }
    }
    assert!(busy > 200, "{busy} buckets with tickets, {compared} numbers");
    // What is not selected is not read, and the rest stays the same.
    let range = ("2026-03-10T00:00:00Z", "2026-03-20T00:00:00Z");
    let all = series(&app, &alice, range, "DAY", "UTC", FIGURES).await;
    for part in ["messagesSent", "ticketsEscalated", "ticketsResolved", "refundsRequested", "resolutionSecondsP90"] {
        let alone = series(&app, &alice, range, "DAY", "UTC", part).await;
        assert!(all.iter().zip(&alone).all(|(all, alone)| all[part] == alone[part]), "{part}");
    }
}

/// Wrong ranges and zones are named, and who may not read metrics reads none.
#[tokio::test]
async fn series_refuse_what_they_cannot_show() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let ask = async |token: &str, from: &str, to: &str, bucket: &str, zone: &str| {
        let query = format!(
            "{{ organization {{ performanceSeries(from: \"{from}\", to: \"{to}\", bucket: {bucket}, timeZone: \"{zone}\") {{ buckets {{ start }} }} }} }}"
        );
        let answer = app.run(token, &query, json!({})).await;
        let error = &answer["errors"][0];
        (
            error["extensions"]["code"].as_str().unwrap_or_default().to_owned(),
            error["extensions"]["field"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let (from, to) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
    for (from, to, bucket, zone, field) in [
        (from, to, "DAY", "Mars/Olympus", "timeZone"),
        (from, to, "DAY", "CET", "timeZone"),
        (from, to, "DAY", "+02:00", "timeZone"),
        (from, to, "DAY", "Europe/Berlin'; drop table x; --", "timeZone"),
        (to, from, "DAY", "UTC", "to"),
        (from, from, "DAY", "UTC", "to"),
        (from, "2027-06-01T00:00:00Z", "MONTH", "UTC", "to"),
        (from, "2026-03-01T00:00:00Z", "HOUR", "UTC", "bucket"),
        ("0001-01-01T00:00:00Z", to, "DAY", "UTC", "from"),
    ] {
        assert_eq!(
            ask(&alice, from, to, bucket, zone).await,
            ("INVALID_ARGUMENT".to_owned(), field.to_owned()),
            "{from} {to} {bucket} {zone}"
        );
    }
    let viewer = app.token("bob@example.com", Some("acme-corp")).await;
    assert_eq!(ask(&viewer, from, to, "DAY", "UTC").await.0, "FORBIDDEN");
}

/// What people do through the API arrives in the figures, pauses are not counted, and what changes the past changes its figures.
#[tokio::test]
async fn figures_follow_what_people_do() {
    let app = TestApp::start_in_still_time().await;
    // A month with nothing in it.
    app.clock.advance(TimeDelta::days(62));
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let created = app
        .done(
            &alice,
            "ticketCreate",
            "ticket { id } userErrors { code }",
            json!({ "subject": "x", "category": "BILLING" }),
        )
        .await;
    let id = created["ticket"]["id"].clone();
    let start = app.clock.now();
    let change = async |input: Value| {
        let mut input = input;
        input["id"] = id.clone();
        app.done(&alice, "ticketUpdate", "ticket { status } userErrors { code message }", input).await;
    };
    app.clock.advance(TimeDelta::minutes(10));
    change(json!({ "status": "ON_HOLD" })).await;
    app.clock.advance(TimeDelta::minutes(30));
    let message = json!({ "ticketId": id, "body": "We look into it.", "status": "OPEN" });
    app.done(&alice, "ticketMessageAdd", "message { id } userErrors { code message }", message).await;
    app.clock.advance(TimeDelta::minutes(20));
    change(json!({ "status": "RESOLVED" })).await;
    let month = MetricPeriod::Month.start_of(start).to_rfc3339();
    let figures = async || {
        app.run_job("metrics").await;
        let query = "query($at: DateTime!) { organization { performanceMetrics(where: { periodStart: { eq: $at }, period: { eq: MONTH } }) { nodes {
            ticketsOpened firstResponses ticketsResolved messagesSent firstResponseSecondsAvg resolutionSecondsP50 byCategory trend } } } }";
        app.data(&alice, query, json!({ "at": month })).await["organization"]["performanceMetrics"]["nodes"][0].clone()
    };
    let seen = figures().await;
    let parts = json!({ "avg": 600, "p50": 600, "p90": 600, "p95": 600, "p99": 600 });
    let whole = json!({ "avg": 1800, "p50": 1800, "p90": 1800, "p95": 1800, "p99": 1800 });
    let wanted = json!({ "ticketsOpened": 1, "firstResponses": 1, "ticketsResolved": 1, "messagesSent": 1, "firstResponseSecondsAvg": 600.0,
        "resolutionSecondsP50": 1800.0, "trend": "FLAT",
        "byCategory": { "BILLING": { "opened": 1, "firstResponses": 1, "resolved": 1, "firstResponseSeconds": parts, "resolutionSeconds": whole } } });
    assert!(is_same(&wanted, &seen), "{seen}");
    // Opened again: it was not resolved then.
    change(json!({ "status": "OPEN" })).await;
    let seen = figures().await;
    assert_eq!((&seen["ticketsResolved"], &seen["resolutionSecondsP50"]), (&json!(0), &json!(null)));
}

/// Operators compute any range anew.
#[tokio::test]
async fn backfill_repairs_any_range() {
    let app = TestApp::start().await;
    let organization = acme(&app).await;
    let mut system = app.database.system().await;
    let before = stored(&mut system, organization).await;
    app.sql("update tenantry.performance_metrics set tickets_opened = 999, trend = 'UP'; delete from tenantry.team_performance").await;
    let from = (app.clock.now() - TimeDelta::days(400)).to_rfc3339();
    let arguments = ["metrics", "backfill", "--from", &from, "--org", "acme-corp", "--json"];
    for _ in 0..2 {
        let (code, out, error) = ended(command(&app.database, &arguments).await).await;
        assert!(
            code == 0 && parse(&out)["organizations"] == 1 && parse(&out)["hours"].as_u64() > Some(0),
            "{out}{error}"
        );
        assert!(before == stored(&mut system, organization).await);
    }
    let wrong = ["metrics", "backfill", "--from", "2026-02-01T00:00:00Z", "--to", "2026-01-01T00:00:00Z"];
    assert_eq!(ended(command(&app.database, &wrong).await).await.0, 2);
}
