//! `tenantry verify`: is this database as isolated and as whole as this build believes?

use serde::Serialize;

use crate::db::{Db, SystemTx, check_roles};
use crate::error::Result;

/// Something that is not as it must be.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Which check found it.
    pub check: &'static str,
    /// What it is about.
    pub subject: String,
    /// What is wrong and what to do.
    pub problem: String,
}

/// A check: its name, a query that answers one row (subject, problem) for each finding.
type Check = (&'static str, &'static str);

/// Checks of the catalogue: row-level security on everything that belongs to a tenant, of ours and of what was adopted; a table
/// of somebody else is none of our business, whatever its columns are called. The
/// state of adoptions is the owner's alone and has no policies, as long as the API's role has no privilege on it.
pub const CATALOGUE_CHECKS: &[Check] = &[
    (
        "row-level-security",
        "select c.oid::regclass::text,
                case when not c.relrowsecurity then 'row-level security is not enabled: `alter table … enable row level security`'
                     when not c.relforcerowsecurity then 'row-level security is not forced: `alter table … force row level security`'
                     else 'no policy binds tenantry_app: rows of all tenants are hidden or shown alike' end
           from pg_class c
          where c.relkind in ('r', 'p') and (c.relnamespace = 'tenantry'::regnamespace
                 or exists (select from pg_constraint f where f.conrelid = c.oid and f.contype = 'f' and f.confrelid = 'tenantry.organizations'::regclass))
            and not (c.relnamespace = 'tenantry'::regnamespace and c.relname like 'adopt\\_%'
                     and not has_table_privilege('tenantry_app', c.oid, 'select, insert, update, delete')
                     and not has_any_column_privilege('tenantry_app', c.oid, 'select, insert, update'))
            and (exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped)
                 or c.relname in ('organizations', 'users'))
            and not (c.relrowsecurity and c.relforcerowsecurity
                     and exists (select from pg_policy p where p.polrelid = c.oid
                                    and p.polroles @> array[(select oid from pg_roles where rolname = 'tenantry_app')]))",
    ),
    (
        "open-policy",
        "select p.polrelid::regclass::text, format('policy %s lets tenantry_app see rows whatever the organization is', p.polname)
           from pg_policy p join pg_attribute a on a.attrelid = p.polrelid and a.attname = 'organization_id' and not a.attisdropped
          where (p.polroles @> array[(select oid from pg_roles where rolname = 'tenantry_app')] or p.polroles = '{0}')
            and coalesce(pg_get_expr(p.polqual, p.polrelid), 'true') !~ 'organization_id = '
            and exists (select from pg_class t where t.oid = p.polrelid and (t.relnamespace = 'tenantry'::regnamespace
                 or exists (select from pg_constraint o where o.conrelid = t.oid and o.contype = 'f' and o.confrelid = 'tenantry.organizations'::regclass)))",
    ),
    (
        "tenant-index",
        "select c.oid::regclass::text, 'no index begins with organization_id: every list reads the whole table'
           from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped
          where c.relkind in ('r', 'p') and (c.relnamespace = 'tenantry'::regnamespace
                 or exists (select from pg_constraint f where f.conrelid = c.oid and f.contype = 'f' and f.confrelid = 'tenantry.organizations'::regclass))
            and not (c.relnamespace = 'tenantry'::regnamespace and c.relname like 'adopt\\_%'
                     and not has_table_privilege('tenantry_app', c.oid, 'select, insert, update, delete')
                     and not has_any_column_privilege('tenantry_app', c.oid, 'select, insert, update'))
            and not exists (select from pg_index i where i.indrelid = c.oid and i.indkey[0] = a.attnum)",
    ),
    (
        "composite-foreign-key",
        "select f.conrelid::regclass::text, format('foreign key %s does not carry organization_id: a row could point into another tenant', f.conname)
           from pg_constraint f
           join pg_attribute a on a.attrelid = f.conrelid and a.attname = 'organization_id' and not a.attisdropped
           join pg_attribute b on b.attrelid = f.confrelid and b.attname = 'organization_id' and not b.attisdropped
          where f.contype = 'f' and not (f.conkey @> array[a.attnum] and f.confkey @> array[b.attnum])
            and exists (select from pg_class t where t.oid = f.conrelid and (t.relnamespace = 'tenantry'::regnamespace
                 or exists (select from pg_constraint o where o.conrelid = t.oid and o.contype = 'f' and o.confrelid = 'tenantry.organizations'::regclass)))
            and exists (select from pg_class t where t.oid = f.confrelid and (t.relnamespace = 'tenantry'::regnamespace
                 or exists (select from pg_constraint o where o.conrelid = t.oid and o.contype = 'f' and o.confrelid = 'tenantry.organizations'::regclass)))",
    ),
];

/// Checks of the rows.
const DATA_CHECKS: &[Check] = &[
    (
        "organization-without-owner",
        "select o.slug, 'nobody is OWNER: nobody can pay or delete; make a member OWNER'
           from tenantry.organizations o
          where o.deleted_at is null
            and not exists (select from tenantry.organization_members m
                             where m.organization_id = o.id and m.role = 'OWNER' and m.deleted_at is null)
          order by 1 limit 100",
    ),
    (
        "user-without-organization",
        "select u.id::text, 'is a member of no organization: invite the user or give a personal workspace'
           from tenantry.users u
          where u.deleted_at is null and not u.is_superadmin
            and not exists (select from tenantry.organization_members m where m.user_id = u.id and m.deleted_at is null)
          order by 1 limit 100",
    ),
    (
        "duplicate-slug",
        "select lower(slug), format('%s organizations share it', count(*)) from tenantry.organizations group by 1 having count(*) > 1 limit 100",
    ),
    (
        "current-organization",
        "select u.id::text, 'the current organization is one the user is not a member of'
           from tenantry.users u
          where u.current_organization_id is not null and u.deleted_at is null
            and not exists (select from tenantry.organization_members m
                             where m.user_id = u.id and m.organization_id = u.current_organization_id and m.deleted_at is null)
          order by 1 limit 100",
    ),
    (
        "seats",
        "select o.slug, format('%s members have a seat and should wait, or wait and could have one: `tenantry jobs run entitlements`', w.members)
           from tenantry.wrong_seats() w join tenantry.organizations o on o.id = w.organization_id order by 1 limit 100",
    ),
    (
        "ticket-counter",
        "select t.organization_id::text, format('the highest ticket number is %s, the counter stands at %s', max(t.number), coalesce(max(c.last_number), 0))
           from tenantry.tickets t left join tenantry.ticket_counters c using (organization_id)
          group by 1 having max(t.number) > coalesce(max(c.last_number), 0) limit 100",
    ),
    (
        "webhook-finding",
        "select coalesce(e.object_id, e.event_id), format('%s%s: `tenantry webhooks list --waiting` shows its events',
                coalesce((select o.slug || ': ' from tenantry.organizations o where o.id = max(e.organization_id::text)::uuid), ''), e.finding)
           from tenantry.webhook_events e where e.finding is not null
          group by 1, e.finding order by 1 limit 100",
    ),
    (
        "refund-charge",
        "select r.stripe_payment_intent_id, format('%s minor units were paid, and refunds come to %s', max(r.charge_minor), sum(r.amount_minor))
           from tenantry.refunds r where r.stripe_payment_intent_id is not null and r.status in ('PROCESSING', 'SETTLED')
          group by r.organization_id, r.stripe_payment_intent_id having sum(r.amount_minor) > max(r.charge_minor) order by 1 limit 100",
    ),
    (
        "refund-budget",
        "select r.id::text, format('the refund is %s and what held its money %s', r.status, v.status)
           from tenantry.refunds r join tenantry.budget_reservations v on v.organization_id = r.organization_id and v.id = r.reservation_id
          where r.status = 'SETTLED' and v.status <> 'SETTLED'
             or r.status in ('DENIED', 'FAILED', 'CANCELLED') and v.status in ('OPEN', 'SETTLED') limit 100",
    ),
    (
        "billing-usage",
        "select o.slug, format('%s usage records were not told to Stripe%s: %s', count(*), case when m.is_dead then ' and will not be' else '' end, m.problem)
           from tenantry.meter_outbox m join tenantry.organizations o on o.id = m.organization_id where m.is_dead or m.tries >= 5
          group by o.slug, m.is_dead, m.problem order by 1 limit 100",
    ),
    (
        "budget-limit",
        "select b.id::text, 'spent and reserved exceed a hard limit'
           from tenantry.budgets b
          where b.is_hard_limit and b.spent_minor + b.reserved_minor > b.limit_minor + b.rolled_over_minor + b.overrun_minor limit 100",
    ),
    (
        "budget-sums",
        "select b.id::text, format('spent %s and reserved %s, where the records come to %s and the open reservations to %s',
                                   b.spent_minor, b.reserved_minor, coalesce(u.spent, 0), coalesce(u.reserved, 0))
           from tenantry.budgets b
           left join (select u.organization_id, u.budget_id, sum(case u.kind when 'RETURN' then -u.amount_minor else u.amount_minor end) filter (where u.kind in ('SPEND', 'SETTLE', 'RETURN')) as spent,
                             sum(r.amount_minor) filter (where u.kind = 'RESERVE' and r.status = 'OPEN') as reserved
                        from tenantry.budget_usage_records u
                        left join tenantry.budget_reservations r on r.organization_id = u.organization_id and r.id = u.reservation_id
                       group by 1, 2) u on u.organization_id = b.organization_id and u.budget_id = b.id
          where b.spent_minor <> coalesce(u.spent, 0) or b.reserved_minor <> coalesce(u.reserved, 0) limit 100",
    ),
];

/// Runs every check. An empty list is good.
pub async fn verify(db: &Db) -> Result<Vec<Finding>> {
    let mut findings: Vec<Finding> = check_roles(db)
        .await?
        .into_iter()
        .map(|finding| Finding { check: "role", subject: finding.role, problem: finding.problem })
        .collect();
    let chains = crate::audit::chain::check(db).await?;
    findings.extend(chains.into_iter().map(|(subject, problem)| Finding { check: "audit-chain", subject, problem }));
    let mut tx = SystemTx::begin(db).await?;
    for (check, sql) in CATALOGUE_CHECKS.iter().chain(DATA_CHECKS) {
        let rows: Vec<(String, String)> = sqlx::query_as(*sql).fetch_all(tx.conn()).await?;
        findings.extend(rows.into_iter().map(|(subject, problem)| Finding { check, subject, problem }));
    }
    Ok(findings)
}
