//! Many organizations of realistic size, for measurements: set-based, one transaction for each organization.

use chrono::{DateTime, Utc};
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use uuid::Uuid;

use super::{lock, organization_exists, total_budgets};
use crate::clock::Clock;
use crate::db::{Conn, Db, SystemTx};
use crate::error::Result;
use crate::id::Id;

/// How much to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Organizations: `scale-00001` and so on.
    pub organizations: u32,
    /// Tickets of each.
    pub tickets: u32,
}

/// A `UUIDv7` of this moment (RFC 9562: 48 bits of milliseconds, version 7; the rest random, from a version 4). It is made
/// here and not in Rust because the rows are: the only place where that is so.
macro_rules! v7 {
    ($at:literal) => {
        concat!(
            "(lpad(to_hex(floor(extract(epoch from ",
            $at,
            ") * 1000)::bigint), 12, '0') || '7' || substr(gen_random_uuid()::text, 16))::uuid"
        )
    };
}

/// Makes the organizations `scale-00001` to `scale-N` that are not there yet, and answers how many rows that took.
///
/// `progress` hears the number of organizations done. The distribution is the same on every database, the ids are not.
pub async fn scale(db: &Db, clock: &Clock, scale: Scale, progress: impl Fn(u32)) -> Result<u64> {
    let now = clock.now();
    let mut rows = flag(db, clock, now).await?;
    for number in 1..=scale.organizations {
        rows += organization(db, clock, now, number, scale.tickets).await?;
        progress(number);
    }
    Ok(rows)
}

/// The flag that the organizations override, unless the sample data brought it.
async fn flag(db: &Db, clock: &Clock, now: DateTime<Utc>) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let query = sqlx::query(
        "insert into tenantry.feature_flag_definitions (id, key, name, kind, default_enabled, minimum_plan, owner, created_at, updated_at)
         values ($1, 'advanced-analytics', 'Advanced analytics', 'ENTITLEMENT', true, 'PRO', 'billing', $2, $2)
         on conflict (key) do nothing",
    );
    let rows = query.bind(Id::<()>::new(clock)).bind(now).execute(tx.conn()).await?.rows_affected();
    tx.commit().await?;
    Ok(rows)
}

/// One organization, in one transaction.
struct Tenant {
    id: Uuid,
    slug: String,
    number: i32,
    tickets: i32,
    now: DateTime<Utc>,
}

async fn organization(db: &Db, clock: &Clock, now: DateTime<Utc>, number: u32, tickets: u32) -> Result<u64> {
    let slug = format!("scale-{number:05}");
    let mut tx = SystemTx::begin(db).await?;
    lock(&mut tx).await?;
    if organization_exists(&mut tx, &slug).await? {
        return Ok(0);
    }
    let clamp = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let tenant = Tenant { id: Id::<()>::new(clock).uuid(), slug, number: clamp(number), tickets: clamp(tickets), now };
    // A million tickets take their time.
    tx.without_limit().await?;
    // A fixed seed gives the same distribution on every database.
    sqlx::query("select setseed(($1 % 1000) / 1000.0)").bind(tenant.number).execute(tx.conn()).await?;
    let conn = tx.conn();
    let mut rows = organization_and_subscription(conn, &tenant).await?;
    rows += people(conn, &tenant).await?;
    rows += desk(conn, &tenant).await?;
    rows += self::tickets(conn, &tenant).await?;
    rows += messages(conn, &tenant).await?;
    rows += budgets(conn, &tenant).await?;
    total_budgets(&mut tx, tenant.id).await?;
    tx.commit().await?;
    Ok(rows)
}

async fn execute(conn: &mut Conn, query: Query<'_, Postgres, PgArguments>) -> Result<u64> {
    Ok(query.execute(conn).await?.rows_affected())
}

/// Half of the organizations pay nothing, one in twenty for everything.
async fn organization_and_subscription(conn: &mut Conn, tenant: &Tenant) -> Result<u64> {
    let organization = sqlx::query(
        "insert into tenantry.organizations (id, clerk_org_id, name, slug, status, industry, support_email, created_at, updated_at)
         values ($1, 'org_' || replace($2, '-', '_'), 'Scale ' || $3::int, $2,
                 (case when $3 % 25 = 0 then 'PAST_DUE' when $3 % 10 = 3 then 'TRIALING' else 'ACTIVE' end)::tenantry.organization_status,
                 (array['E-commerce', 'Software', 'Travel', 'Health', 'Education'])[1 + $3 % 5], 'support@' || $2 || '.example',
                 $4 - interval '400 days', $4 - interval '400 days')",
    )
    .bind(tenant.id)
    .bind(&tenant.slug)
    .bind(tenant.number)
    .bind(tenant.now);
    let subscription = sqlx::query(concat!(
        "insert into tenantry.subscriptions (organization_id, id, stripe_customer_id, stripe_subscription_id, status, plan, seat_count,
                                    current_period_start, current_period_end, created_at, updated_at)
         select $1, ",
        v7!("$4::timestamptz"),
        ", 'cus_' || replace($2, '-', '_'), 'sub_' || replace($2, '-', '_'),
                (case when $3 % 25 = 0 then 'PAST_DUE' when $3 % 10 = 3 then 'TRIALING' else 'ACTIVE' end)::tenantry.subscription_status,
                (case when $3 % 20 = 0 then 'ENTERPRISE' when $3 % 20 < 4 then 'PRO' when $3 % 20 < 10 then 'STARTER' else 'FREE' end)::tenantry.organization_plan,
                20, $4 - interval '12 days', $4 + interval '18 days', $4 - interval '400 days', $4 - interval '12 days'"
    ))
    .bind(tenant.id)
    .bind(&tenant.slug)
    .bind(tenant.number)
    .bind(tenant.now);
    let flag = sqlx::query(concat!(
        "insert into tenantry.organization_feature_flags (organization_id, id, flag_key, source, enabled, exceeds_plan, reason, created_at, updated_at)
         values ($1, ",
        v7!("$3::timestamptz"),
        ", 'advanced-analytics', (case when $2 % 4 = 0 then 'GRANT' else 'ORGANIZATION' end)::tenantry.flag_override_source, $2 % 2 = 0, $2 % 4 = 0, 'Scale', $3 - interval '30 days', $3 - interval '30 days')"
    ))
    .bind(tenant.id)
    .bind(tenant.number)
    .bind(tenant.now);
    Ok(execute(conn, organization).await? + execute(conn, subscription).await? + execute(conn, flag).await?)
}

/// Twenty users, `user_scale_00001_01` the owner, 02 an administrator, 18 to 20 viewers.
async fn people(conn: &mut Conn, tenant: &Tenant) -> Result<u64> {
    let query = sqlx::query(concat!(
        "with people as (
             insert into tenantry.users (id, clerk_id, email, name, current_organization_id, created_at, updated_at)
             select ",
        v7!("p.created_at"),
        ", 'user_' || replace($2, '-', '_') || '_' || to_char(n, 'FM00'), 'user' || to_char(n, 'FM00') || '@' || $2 || '.example',
                    (array['Ada', 'Ben', 'Chloe', 'Dan', 'Ella', 'Finn', 'Gwen', 'Hugo', 'Ines', 'Jon'])[1 + n % 10] || ' '
                        || (array['Adler', 'Brown', 'Costa', 'Dubois', 'Evans', 'Fischer', 'Gallo'])[1 + n % 7],
                    $1, p.created_at, p.created_at
               from generate_series(1, 20) n, lateral (select $3 - interval '400 days' + n * interval '3 hours' as created_at) p
             returning id, clerk_id, created_at
         )
         insert into tenantry.organization_members (organization_id, id, user_id, role, created_at, updated_at)
         select $1, ",
        v7!("created_at"),
        ", id, (case right(clerk_id, 2) when '01' then 'OWNER' when '02' then 'ADMIN'
                                        when '18' then 'VIEWER' when '19' then 'VIEWER' when '20' then 'VIEWER' else 'MEMBER' end)::tenantry.member_role,
                created_at, created_at
           from people"
    ))
    .bind(tenant.id)
    .bind(&tenant.slug)
    .bind(tenant.now);
    // As many users as members; the answer counts the members only.
    Ok(2 * execute(conn, query).await?)
}

/// Users 03 to 07 work on tickets; of the fifty customers a few ask most.
async fn desk(conn: &mut Conn, tenant: &Tenant) -> Result<u64> {
    let representatives = sqlx::query(concat!(
        "insert into tenantry.representatives (organization_id, id, user_id, role, status, skills, capacity, created_at, updated_at)
         select $1, ",
        v7!("u.created_at"),
        ", u.id,
                (array['AGENT', 'AGENT', 'SENIOR_AGENT', 'TEAM_LEAD', 'SUPERVISOR'])[n]::tenantry.representative_role,
                (array['ONLINE', 'ONLINE', 'BUSY', 'AWAY', 'OFFLINE'])[n]::tenantry.representative_status,
                array['billing', 'english'], 5 * n, u.created_at, u.created_at
           from generate_series(1, 5) n
           join tenantry.users u on u.clerk_id = 'user_' || replace($2, '-', '_') || '_' || to_char(n + 2, 'FM00')"
    ))
    .bind(tenant.id)
    .bind(&tenant.slug);
    let customers = sqlx::query(concat!(
        "insert into tenantry.customer_profiles (organization_id, id, email, name, phone, company, tier, standing, lifetime_value_minor, preferences, context,
                                        created_at, updated_at)
         select $1, ",
        v7!("c.created_at"),
        ", 'customer' || to_char(n, 'FM00') || '@' || $2 || '.example', 'Customer ' || n, '+1 555 01' || to_char(n, 'FM00'), 'Company ' || n,
                (case when n % 20 = 0 then 'VIP' when n % 5 = 0 then 'PREMIUM' else 'STANDARD' end)::tenantry.account_tier,
                (case when n % 25 = 0 then 'RESTRICTED' when n % 10 = 7 then 'WATCH' else 'GOOD' end)::tenantry.account_standing,
                (1000 / (0.01 + random()))::bigint, jsonb_build_object('language', 'en', 'channel', 'email'),
                jsonb_build_object('orders', n), c.created_at, c.created_at
           from generate_series(1, 50) n, lateral (select $3 - interval '390 days' + n * interval '12 hours' as created_at) c"
    ))
    .bind(tenant.id)
    .bind(&tenant.slug)
    .bind(tenant.now);
    Ok(execute(conn, representatives).await? + execute(conn, customers).await?)
}

/// A year of tickets, more of them lately than long ago, the old ones mostly closed; numbers follow time.
async fn tickets(conn: &mut Conn, tenant: &Tenant) -> Result<u64> {
    let tickets = sqlx::query(concat!(
        "with desk as (
             select (select array_agg(id order by id) from tenantry.customer_profiles where organization_id = $1) as customers,
                    (select array_agg(id order by id) from tenantry.representatives where organization_id = $1) as representatives
         ), born as materialized (
             select n, $2 - interval '365 days' * (1 - power((n - random()) / $3, 2.0 / 3)) as created_at, random() as state_die,
                    random() as priority_die, random() as category_die, random() as pace, random() as who, random() as whose, random() as tag_die
               from generate_series(1, $3) n
         ), sorted as (
             select b.*, s.status, p.priority, p.response, p.resolution
               from born b,
                    lateral (select (case when $2 - b.created_at > interval '30 days'
                                          then case when state_die < 0.93 then 'CLOSED' when state_die < 0.97 then 'RESOLVED'
                                                    when state_die < 0.99 then 'ON_HOLD' else 'PENDING_CUSTOMER' end
                                          when $2 - b.created_at > interval '7 days'
                                          then case when state_die < 0.5 then 'CLOSED' when state_die < 0.75 then 'RESOLVED'
                                                    when state_die < 0.87 then 'PENDING_CUSTOMER' when state_die < 0.92 then 'ON_HOLD' else 'OPEN' end
                                          else case when state_die < 0.2 then 'NEW' when state_die < 0.6 then 'OPEN' when state_die < 0.8 then 'PENDING_CUSTOMER'
                                                    when state_die < 0.85 then 'ON_HOLD' when state_die < 0.95 then 'RESOLVED' else 'CLOSED' end
                                     end)::tenantry.ticket_status as status) s,
                    lateral (select * from (values ('LOW'::tenantry.ticket_priority, 0.2, interval '24 hours', interval '168 hours'),
                                                   ('NORMAL', 0.75, '8 hours', '72 hours'),
                                                   ('HIGH', 0.95, '4 hours', '24 hours'),
                                                   ('URGENT', 1, '1 hour', '8 hours')) as level(priority, below, response, resolution)
                              where priority_die < below order by below limit 1) p
         ), timed as (
             select s.*, first.at as first_responded_at, solved.at as resolved_at,
                    case when status = 'CLOSED' then least(solved.at + interval '3 days', $2) end as closed_at,
                    case when status in ('PENDING_CUSTOMER', 'ON_HOLD') then least(first.at + interval '1 hour', $2) end as sla_paused_at
               from sorted s,
                    lateral (select case when status <> 'NEW' then least(created_at + response * (0.1 + 1.1 * pace), $2) end as at) first,
                    lateral (select case when status in ('RESOLVED', 'CLOSED')
                                         then least(greatest(first.at, created_at + resolution * (0.1 + 1.2 * pace)), $2) end as at) solved
         )
         insert into tenantry.tickets (organization_id, id, number, customer_id, assignee_id, subject, description, status, priority, category, tags,
                              first_response_due_at, resolution_due_at, first_responded_at, resolved_at, closed_at, sla_paused_at, created_at, updated_at,
                              sla_check_at)
         select $1, ",
        v7!("t.created_at"),
        ", t.n, customers[1 + floor(cardinality(customers) * power(whose, 2))::int],
                case when t.status <> 'NEW' and tag_die < 0.95 then representatives[1 + floor(cardinality(representatives) * power(who, 1.5))::int] end,
                (array['Charged twice', 'Cannot sign in', 'Parcel is late', 'The export fails', 'Change of address', 'Question about the invoice',
                       'The app crashes', 'Please add dark mode', 'Wrong item delivered', 'Refund for an order'])[1 + t.n * 7 % 10] || ' (' || 10000 + t.n || ')',
                'It happened again today. ' || repeat('I tried what the help centre says and it did not help. ', 1 + t.n % 5),
                t.status, t.priority,
                (case when category_die < 0.32 then 'TECHNICAL_ISSUE' when category_die < 0.54 then 'BILLING' when category_die < 0.72 then 'ACCOUNT'
                      when category_die < 0.86 then 'ORDER' when category_die < 0.94 then 'FEATURE_REQUEST' else 'OTHER' end)::tenantry.ticket_category,
                case when tag_die < 0.1 then array['refund', 'card'] when tag_die < 0.2 then array['mobile'] when tag_die < 0.3 then array['return'] else '{}' end,
                t.created_at + t.response, t.created_at + t.resolution, t.first_responded_at, t.resolved_at, t.closed_at, t.sla_paused_at, t.created_at,
                coalesce(t.closed_at, t.resolved_at, t.sla_paused_at, t.first_responded_at, t.created_at),
                -- What was late before is told by nobody, and need not be looked for.
                case when t.status in ('NEW', 'OPEN') and t.created_at + t.resolution > $2 then t.created_at + t.resolution end
           from timed t, desk
          order by t.n"
    ))
    .bind(tenant.id)
    .bind(tenant.now)
    .bind(tenant.tickets);
    let counter = sqlx::query("insert into tenantry.ticket_counters (organization_id, last_number) values ($1, $2)")
        .bind(tenant.id)
        .bind(i64::from(tenant.tickets));
    Ok(execute(conn, tickets).await? + execute(conn, counter).await?)
}

/// Every fifth ticket: a question of the customer and, where it was answered, the answer.
async fn messages(conn: &mut Conn, tenant: &Tenant) -> Result<u64> {
    let query = sqlx::query(concat!(
        "insert into tenantry.ticket_messages (organization_id, id, ticket_id, author_user_id, author_customer_id, body, created_at, updated_at)
         select $1, ",
        v7!("m.at"),
        ", t.id, m.author, m.customer, m.body, m.at, m.at
           from tenantry.tickets t
           left join tenantry.representatives r on r.organization_id = $1 and r.id = t.assignee_id,
                lateral (values (null::uuid, t.customer_id, 'Is there anything else you need to know?', t.created_at),
                                (r.user_id, null, 'Thank you for writing to us. ' || repeat('Here is what I found out. ', 3), t.first_responded_at)
                        ) as m(author, customer, body, at)
          where t.organization_id = $1 and t.number % 5 = 0 and m.at is not null"
    ))
    .bind(tenant.id);
    execute(conn, query).await
}

/// Three budgets with forty records each; reservations that are settled, released or still open.
async fn budgets(conn: &mut Conn, tenant: &Tenant) -> Result<u64> {
    let budgets = sqlx::query(concat!(
        "insert into tenantry.budgets (organization_id, id, series_id, type, name, period, starts_at, ends_at, limit_minor, currency, is_hard_limit, created_at, updated_at)
         select $1, b.id, b.id, b.type::tenantry.budget_type, b.name, b.period::tenantry.budget_period, b.starts_at, b.starts_at + b.length, 300000, 'USD', b.hard, b.starts_at, $2
           from (select b.*, ",
        v7!("b.starts_at"),
        " as id
           from (values ('REFUND', 'Refunds', 'MONTH', date_trunc('month', $2, 'UTC'), interval '1 month', true),
                        ('AI_USAGE', 'AI models', 'MONTH', date_trunc('month', $2, 'UTC'), interval '1 month', true),
                        ('OPERATIONS', 'Operations', 'QUARTER', date_trunc('quarter', $2, 'UTC'), interval '3 months', false)
                ) as b(type, name, period, starts_at, length, hard)) b"
    ))
    .bind(tenant.id)
    .bind(tenant.now);
    let records = sqlx::query(concat!(
        "with rounds as materialized (
             select b.id as budget_id, b.currency, b.starts_at, g, 500 + floor(random() * 5000)::bigint as spent,
                    500 + floor(random() * 5000)::bigint as reserved, m.reserved_at, m.ended_at, ",
        v7!("m.reserved_at"),
        " as reservation_id
               from tenantry.budgets b, generate_series(0, 9) g,
                    lateral (select b.starts_at + ($2 - b.starts_at) * ((g * 4 + 2) / 41.0) as reserved_at, b.starts_at + ($2 - b.starts_at) * ((g * 4 + 3) / 41.0) as ended_at) m
              where b.organization_id = $1
         ), reservations as (
             insert into tenantry.budget_reservations (organization_id, id, amount_minor, settled_minor, currency, status, source, expires_at, ended_at, created_at, updated_at)
             select $1, reservation_id, reserved, case when g <> 9 and g % 5 <> 4 then reserved end, currency,
                    (case when g = 9 then 'OPEN' when g % 5 = 4 then 'RELEASED' else 'SETTLED' end)::tenantry.budget_reservation_status,
                    'refund', reserved_at + interval '24 hours', case when g <> 9 then ended_at end, reserved_at, reserved_at
               from rounds
         )
         insert into tenantry.budget_usage_records (organization_id, id, budget_id, reservation_id, amount_minor, currency, kind, source, created_at)
         select $1, ",
        v7!("m.at"),
        ", budget_id, case when k.kind <> 'SPEND' then reservation_id end, k.amount, currency, k.kind::tenantry.budget_usage_kind, k.source, m.at
           from rounds,
                lateral (values (1, 'SPEND', spent, 'voucher'), (2, 'RESERVE', reserved, 'refund'),
                                (3, case when g = 9 then 'SPEND' when g % 5 = 4 then 'RELEASE' else 'SETTLE' end, reserved, 'refund'),
                                (4, 'SPEND', spent / 2 + 1, 'agent:support')) as k(step, kind, amount, source),
                lateral (select starts_at + ($2 - starts_at) * ((g * 4 + k.step) / 41.0) as at) m"
    ))
    .bind(tenant.id)
    .bind(tenant.now);
    Ok(execute(conn, budgets).await? + execute(conn, records).await?)
}
