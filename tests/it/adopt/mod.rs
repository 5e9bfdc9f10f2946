//! `tenantry adopt` on real legacy databases.

mod bad_input;
mod generated;
mod interruptions;
mod isolation;
mod replica;
mod shapes;
mod situations;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tenantry::access::OrganizationRef;
use tenantry::adopt::{self, AdoptError, AdoptionFinding, FinalizeOptions, OwnerConnection, Plan, RunOptions};
use tenantry::clock::Clock;
use tenantry::db::TenantTx;
use tenantry::local_postgres;
use tokio::process::Command;

use crate::support::{TestDb, cluster};

/// A login of the old application, which owns nothing and knows nothing of Tenantry.
pub const OLD_APP: &str = "test_old_application";

pub fn fixture(situation: &str, file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adopt").join(situation).join(file)
}

pub fn plan(situation: &str) -> Plan {
    Plan::parse(&std::fs::read_to_string(fixture(situation, "plan.toml")).expect("a plan")).expect("a plan")
}

/// Tenantry, and beside it what a team had before.
pub async fn legacy(situation: &str) -> TestDb {
    let database = TestDb::seeded().await;
    let sql = std::fs::read_to_string(fixture(situation, "legacy.sql")).expect("the fixture");
    run_sql(&mut database.owner().await, &sql).await;
    let_the_old_application_in(&database).await;
    database
}

/// What the login of an old application may do with the team's tables.
pub async fn let_the_old_application_in(database: &TestDb) {
    let role = format!(
        "do $$ begin create role {OLD_APP} login; exception when duplicate_object or unique_violation then null; end $$;
         grant usage on schema legacy to {OLD_APP};
         grant select, insert, update, delete on all tables in schema legacy to {OLD_APP};
         grant usage on all sequences in schema legacy to {OLD_APP}"
    );
    run_sql(&mut database.superuser().await, &role).await;
}

pub async fn run_sql(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

pub async fn session(database: &TestDb) -> OwnerConnection {
    OwnerConnection::open(&database.options(local_postgres::OWNER_ROLE)).await.expect("a session")
}

/// Small batches, so that there are many.
pub fn small() -> RunOptions {
    RunOptions { batch_size: 7, ..RunOptions::default() }
}

pub async fn try_run(database: &TestDb, plan: Plan) -> Result<adopt::Summary, AdoptError> {
    adopt::run(&mut session(database).await, plan, &small(), &Clock::System).await
}

pub async fn run(database: &TestDb, plan: Plan) -> adopt::Summary {
    try_run(database, plan).await.expect("a run")
}

pub async fn dry_run(database: &TestDb, plan: Plan) -> adopt::DryRun {
    adopt::dry_run(&mut session(database).await, plan, &small()).await.expect("a dry run")
}

pub async fn verify(database: &TestDb, plan: Plan) -> Vec<AdoptionFinding> {
    adopt::verify(&mut session(database).await, plan).await.expect("verify")
}

pub async fn finalize(database: &TestDb, plan: Plan) -> Result<Vec<String>, AdoptError> {
    let done = adopt::finalize(&mut session(database).await, plan, &FinalizeOptions::default()).await;
    done.map(|done| done.changes)
}

/// What could not be taken back.
pub async fn rollback(database: &TestDb, plan: Plan) -> Vec<String> {
    let lock_timeout = FinalizeOptions::default().lock_timeout;
    adopt::rollback(&mut session(database).await, plan, lock_timeout).await.expect("a rollback").kept
}

/// The old application keeps its access, as a team has it until the cut-over.
pub fn keeping_access(mut plan: Plan) -> Plan {
    plan.keep_access = vec![OLD_APP.to_owned()];
    plan
}

/// The same, where an organization has no owner and that is accepted.
pub fn without_owner(plan: Plan, slug: &str) -> Plan {
    Plan { accept: vec![format!("organization-without-owner {slug}")], ..keeping_access(plan) }
}

/// (table, assigned, unresolved) of a run.
pub fn counts(summary: &adopt::Summary) -> Vec<(&str, u64, u64)> {
    summary.tables.iter().map(|table| (table.table.as_str(), table.assigned, table.unresolved)).collect()
}

/// What a dry run foretold came true.
pub fn assert_foretold(forecast: &adopt::DryRun, summary: &adopt::Summary) {
    let users = |outcome: &str| forecast.users.iter().find(|(name, _)| name == outcome).map_or(0, |(_, count)| *count);
    let foretold = ["processed", "skipped", "unresolved"].map(|outcome| users(outcome).unsigned_abs());
    assert_eq!(foretold, [summary.users.processed, summary.users.skipped, summary.users.unresolved]);
    let tables: Vec<(&str, u64, u64)> = forecast
        .tables
        .iter()
        .map(|table| (table.table.as_str(), table.assigned.unsigned_abs(), table.unresolved.unsigned_abs()))
        .collect();
    assert_eq!(tables.into_iter().collect::<BTreeSet<_>>(), counts(summary).into_iter().collect());
}

/// The owner is a member of the superadmin role: it sees both worlds.
pub async fn pairs(database: &TestDb, sql: &str) -> BTreeMap<String, String> {
    let rows: Vec<(String, Option<String>)> =
        sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut database.owner().await).await.expect(sql);
    rows.into_iter().map(|(key, value)| (key, value.unwrap_or_else(|| "–".to_owned()))).collect()
}

pub async fn count(database: &TestDb, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut database.owner().await).await.expect(sql)
}

/// The slug of each row's organization by the row's key; `–` without one.
pub async fn slugs(database: &TestDb, table: &str, key: &str) -> BTreeMap<String, String> {
    let sql = format!(
        "select t.{key}::text, o.slug from {table} t left join tenantry.organizations o on o.id = t.organization_id"
    );
    pairs(database, &sql).await
}

/// A map of literals.
pub fn map<const N: usize>(entries: [(&str, &str); N]) -> BTreeMap<String, String> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Every row in the database by table, as checksums, but for the chain of the audit log, which every check lengthens; and what the catalogue says.
pub async fn fingerprint(database: &TestDb) -> BTreeMap<String, String> {
    let mut connection = database.superuser().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where c.relkind in ('r', 'p') and c.relname not in ('audit_seals', 'audit_unsealed', 'event_log', 'flag_changes') and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') and n.nspname not like 'pg\\_temp%'",
    )
    .fetch_all(&mut connection)
    .await
    .expect("tables");
    let mut found = catalogue(&mut connection).await;
    for table in tables {
        let sql = format!("select md5(coalesce(string_agg(t::text, '|' order by t::text), '')) from {table} t");
        let sum: String = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection).await.expect("a checksum");
        found.insert(format!("rows of {table}"), sum);
    }
    found
}

/// What there is, in words that do not depend on the order in which it was made.
pub async fn catalogue(connection: &mut PgConnection) -> BTreeMap<String, String> {
    let rows: Vec<(String, String)> = sqlx::query_as(CATALOGUE).fetch_all(connection).await.expect("the catalogue");
    rows.into_iter().collect()
}

const CATALOGUE: &str = "
    with spaces as (select oid, nspname, coalesce(nspacl, acldefault('n', nspowner)) as nspacl from pg_namespace where nspname not in ('pg_catalog', 'information_schema', 'pg_toast') and nspname not like 'pg\\_temp%' and nspname not like 'pg\\_toast%'),
    acl as (select oid, (select array_agg(x::text order by x::text) from unnest(coalesce(relacl, case relkind when 'S' then acldefault('s', relowner) else acldefault('r', relowner) end)) x)::text as text from pg_class)
    select 'schema ' || nspname, coalesce((select array_agg(x::text order by x::text) from unnest(nspacl) x)::text, '') || coalesce(obj_description(oid, 'pg_namespace'), '') from spaces
    union all select format('column %s.%I', c.oid::regclass, a.attname), concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attacl::text, col_description(c.oid, a.attnum))
        from pg_class c join spaces s on s.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum where c.relkind in ('r', 'p', 'v')
    union all select format('%s %s', c.relkind, c.oid::regclass), concat_ws(' ', c.relowner::regrole, c.relrowsecurity, c.relforcerowsecurity, c.relreplident, acl.text, obj_description(c.oid, 'pg_class'))
        from pg_class c join spaces s on s.oid = c.relnamespace join acl on acl.oid = c.oid where c.relkind in ('r', 'p', 'v', 'S')
    union all select format('constraint %s %I', k.conrelid::regclass, k.conname), pg_get_constraintdef(k.oid) || k.convalidated || coalesce(obj_description(k.oid, 'pg_constraint'), '') from pg_constraint k join spaces s on s.oid = k.connamespace where k.conrelid <> 0
    union all select format('index %s', i.indexrelid::regclass), pg_get_indexdef(i.indexrelid) || i.indisvalid || i.indisreplident || i.indisclustered || coalesce(obj_description(i.indexrelid, 'pg_class'), '') from pg_index i join pg_class c on c.oid = i.indexrelid join spaces s on s.oid = c.relnamespace
    union all select format('policy %s %I', p.polrelid::regclass, p.polname), concat_ws(' ', p.polcmd, (select array_agg(r::regrole::text order by 1) from unnest(p.polroles) r)::text, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) from pg_policy p join pg_class c on c.oid = p.polrelid join spaces s on s.oid = c.relnamespace
    union all select format('trigger %s %I', t.tgrelid::regclass, t.tgname), pg_get_triggerdef(t.oid) from pg_trigger t join pg_class c on c.oid = t.tgrelid join spaces s on s.oid = c.relnamespace where not t.tgisinternal
    union all select format('function %s', f.oid::regprocedure), pg_get_functiondef(f.oid) || coalesce(f.proacl::text, '') || f.proowner::regrole::text || coalesce(obj_description(f.oid, 'pg_proc'), '') from pg_proc f join spaces s on s.oid = f.pronamespace
    union all select format('type %s', t.oid::regtype), (select string_agg(e.enumlabel, ',' order by e.enumsortorder) from pg_enum e where e.enumtypid = t.oid) from pg_type t join spaces s on s.oid = t.typnamespace where t.typtype = 'e'";

/// What is different, for messages that can be read.
pub fn difference(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<String> {
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    keys.into_iter()
        .filter(|key| a.get(*key) != b.get(*key))
        .map(|key| format!("{key}: {:?} → {:?}", a.get(key), b.get(key)))
        .collect()
}

pub fn assert_same(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) {
    assert!(a == b, "{:#?}", difference(a, b));
}

/// Rows as a signed-in user of Tenantry sees them; of one text column.
pub async fn seen_by(database: &TestDb, subject: &str, organization: &str, sql: &str) -> Vec<String> {
    let mut tx = enter(database, subject, organization).await.expect("a membership");
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(tx.conn()).await.expect("rows")
}

pub async fn enter(database: &TestDb, subject: &str, organization: &str) -> tenantry::error::Result<TenantTx> {
    let organization = OrganizationRef::Slug(organization.to_owned());
    TenantTx::begin(&database.db(), subject, &organization, Arc::default()).await
}

/// The binary, as the owner of the tables.
pub async fn tenantry(database: &TestDb, arguments: &[&str]) -> Command {
    tenantry_as(database, local_postgres::OWNER_ROLE, arguments).await
}

pub async fn tenantry_as(database: &TestDb, role: &str, arguments: &[&str]) -> Command {
    let url = cluster().await.server.url(role, &database.name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenantry"));
    command.env_clear().env("MIGRATION_DATABASE_URL", url).args(arguments).kill_on_drop(true);
    command.stdin(std::process::Stdio::null());
    command
}

/// Runs the binary to its end: exit code, stdout, stderr.
pub async fn ended(mut command: Command) -> (i32, String, String) {
    let output = command.output().await.expect("the binary");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

pub fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A folder of the test's own for plans and reports.
pub fn scratch(database: &TestDb) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("adopt-{}", database.name));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}
