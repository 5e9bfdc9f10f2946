//! Ways around row-level security: what shows rows of adopted tables to the API without asking its policies.
//!
//! A view runs with its owner's rights, a materialized view is a copy, a function with `security definer` is its owner, a
//! publication sends every row. `finalize` lets the API's roles use the schemas of the tables, and with that whatever is granted
//! to PUBLIC there.

use sqlx::AssertSqlSafe;

use super::check::Checked;
use super::name::Relation;
use super::policies::API;
use super::{AdoptionFinding, OwnerConnection, Result, doing};

/// The name of the check.
pub const CHECK: &str = "way-around";

/// Finds the ways around the policies of the plan's tables, each with the statement that closes it.
pub async fn find(session: &mut OwnerConnection, checked: &Checked) -> Result<Vec<AdoptionFinding>> {
    let adopted: Vec<String> = checked.tables.iter().map(|table| table.relation().sql()).collect();
    let shared: Vec<String> = checked.plan.shared.iter().map(Relation::sql).collect();
    let sql = format!("with recursive {FACTS} {WAYS}").replace("{api}", API);
    let rows: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(adopted)
        .bind(shared)
        .fetch_all(session.conn())
        .await
        .map_err(doing("looking for ways around the policies"))?;
    let finding = |(subject, problem)| AdoptionFinding { check: CHECK.to_owned(), subject, problem };
    Ok(rows.into_iter().map(finding).collect())
}

/// The adopted tables, and every view and materialized view over them, however deep.
const FACTS: &str = "adopted(oid) as (select to_regclass(t)::oid from unnest($1::text[]) t where to_regclass(t) is not null),
    shared(oid) as (select to_regclass(t)::oid from unnest($2::text[]) t where to_regclass(t) is not null), api as (select oid from {api} a),
    over(oid) as (
        select oid from adopted
        union
        select r.ev_class from over o join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = o.oid and d.classid = 'pg_rewrite'::regclass
               join pg_rewrite r on r.oid = d.objid
         where r.ev_class <> o.oid),
    spaces(oid) as (select distinct c.relnamespace from adopted a join pg_class c on c.oid = a.oid),
    reachable as (
        select c.oid, c.relkind, c.relname, coalesce((select o.option_value::boolean from pg_options_to_table(c.reloptions) o where o.option_name = 'security_invoker'), false) as invoker
          from pg_class c
         where c.relkind in ('r', 'p', 'v', 'm', 'f') and (c.relnamespace in (select oid from spaces) or exists (select from api a where has_schema_privilege(a.oid, c.relnamespace, 'usage')))
           and c.relnamespace not in (select oid from pg_namespace where nspname in ('pg_catalog', 'information_schema', 'pg_toast', 'tenantry') or nspname like 'pg\\_temp%')
           and exists (select from api a where has_table_privilege(a.oid, c.oid, 'select') or has_any_column_privilege(a.oid, c.oid, 'select')))";

const WAYS: &str = "
    select format('view %s', c.oid::regclass), format('shows rows of adopted tables with the rights of its owner, to whom the policies of tenants do not apply: `alter view %s set (security_invoker = on)`, or `revoke select on %s from public, tenantry_app`', c.oid::regclass, c.oid::regclass)
      from reachable c where c.relkind = 'v' and not c.invoker and c.oid in (select oid from over)
    union all
    select format('materialized view %s', c.oid::regclass), format('is a copy of rows of all tenants: `revoke select on %s from public, tenantry_app`', c.oid::regclass)
      from reachable c where c.relkind = 'm' and c.oid in (select oid from over)
    union all
    select format('table %s', c.oid::regclass), format('is not adopted, and the API may read all of it: `revoke select on %s from public, tenantry_app`, or write `shared = [\"%s\"]` into the plan if its rows are meant for every tenant', c.oid::regclass, replace(c.oid::regclass::text, '\"', '\\\"'))
      from reachable c where c.relkind in ('r', 'p', 'f') and c.oid not in (select oid from adopted) and c.oid not in (select oid from shared) and not exists (select from pg_class r where r.oid = c.oid and r.relrowsecurity)
       and c.oid not in (select objid from pg_depend where classid = 'pg_class'::regclass and deptype = 'e')
    union all
    select format('function %s', p.oid::regprocedure), format('runs with the rights of %s and reads adopted tables, or any: `alter function %s security invoker`, or `revoke execute on function %s from public, tenantry_app`', pg_get_userbyid(p.proowner), p.oid::regprocedure, p.oid::regprocedure)
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
     where p.prosecdef and n.nspname not in ('pg_catalog', 'information_schema', 'tenantry') and l.lanname not in ('internal', 'c')
       and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
       and exists (select from api a where has_function_privilege(a.oid, p.oid, 'execute'))
       and (n.oid in (select oid from spaces) or exists (select from api a where has_schema_privilege(a.oid, n.oid, 'usage')))
       and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
       and (p.prosrc ~* '\\mexecute\\M'
            or exists (select from over o join pg_class c on c.oid = o.oid where strpos(lower(p.prosrc), lower(c.relname)) > 0)
            or exists (select from pg_depend d join over o on o.oid = d.refobjid and d.refclassid = 'pg_class'::regclass where d.classid = 'pg_proc'::regclass and d.objid = p.oid))
    union all
    select format('publication %I of %s', b.pubname, t.relid::regclass), format('sends the rows of all tenants to its subscribers: `alter publication %I drop table %s`, if they are not yours', b.pubname, t.relid::regclass)
      from pg_publication b cross join lateral pg_get_publication_tables(b.pubname) t where t.relid in (select oid from adopted)
    union all
    select format('foreign table %s', f.ftrelid::regclass), format('reads %s as another login: `revoke select on %s from public, tenantry_app`', a.oid::regclass, f.ftrelid::regclass)
      from pg_foreign_table f join reachable c on c.oid = f.ftrelid join adopted a on true join pg_class t on t.oid = a.oid
     where exists (select from pg_options_to_table(f.ftoptions) o where o.option_name = 'table_name' and o.option_value = t.relname)
    order by 1";
