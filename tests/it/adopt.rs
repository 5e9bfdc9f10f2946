//! `tenantry adopt` on real legacy databases: the three situations, interruptions, live writes, and bad input.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};
use tenantry::adopt::{self, AdoptError, FinalizeOptions, Plan, RunOptions, Session};
use tenantry::auth::OrganizationRef;
use tenantry::clock::Clock;
use tenantry::db::{Access, TenantTx, local};
use tokio::process::Command;

use crate::support::{TestDb, cluster};

/// A login of the old application, which owns nothing and knows nothing of Tenantry.
const OLD_APP: &str = "test_old_application";

fn fixture(situation: &str, file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adopt").join(situation).join(file)
}

fn plan(situation: &str) -> Plan {
    Plan::parse(&std::fs::read_to_string(fixture(situation, "plan.toml")).expect("a plan")).expect("a plan")
}

/// Tenantry, and beside it what a team had before.
async fn legacy(situation: &str) -> TestDb {
    let database = TestDb::seeded().await;
    let sql = std::fs::read_to_string(fixture(situation, "legacy.sql")).expect("the fixture");
    run_sql(&mut database.owner().await, &sql).await;
    let role = format!(
        "do $$ begin create role {OLD_APP} login; exception when duplicate_object or unique_violation then null; end $$;
         grant usage on schema legacy to {OLD_APP};
         grant select, insert, update, delete on all tables in schema legacy to {OLD_APP};
         grant usage on all sequences in schema legacy to {OLD_APP}"
    );
    run_sql(&mut database.superuser().await, &role).await;
    database
}

async fn run_sql(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.expect(sql);
}

async fn session(database: &TestDb) -> Session {
    Session::open(&database.options(local::OWNER_ROLE)).await.expect("a session")
}

async fn run(database: &TestDb, plan: Plan) -> adopt::Summary {
    let options = RunOptions { batch_size: 7, ..RunOptions::default() };
    adopt::run(&mut session(database).await, plan, &options, &Clock::System).await.expect("a run")
}

/// Keeps the old application's access, as a team would until the cut-over.
fn keeping_access(mut plan: Plan) -> Plan {
    plan.keep_access = vec![OLD_APP.to_owned()];
    plan
}

async fn pairs(database: &TestDb, sql: &str) -> BTreeMap<String, String> {
    let rows: Vec<(String, Option<String>)> = sqlx::query_as(AssertSqlSafe(sql.to_owned()))
        .fetch_all(&mut database.system_and_owner().await)
        .await
        .expect(sql);
    rows.into_iter().map(|(key, value)| (key, value.unwrap_or_else(|| "–".to_owned()))).collect()
}

impl TestDb {
    /// The owner is a member of the superadmin role: it sees both worlds.
    async fn system_and_owner(&self) -> PgConnection {
        self.owner().await
    }
}

async fn count(database: &TestDb, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut database.owner().await).await.expect(sql)
}

/// The slug of each row's organization by the row's key.
async fn slugs(database: &TestDb, table: &str, key: &str) -> BTreeMap<String, String> {
    pairs(
        database,
        &format!("select t.{key}::text, o.slug from {table} t left join organizations o on o.id = t.organization_id"),
    )
    .await
}

/// Everything in the database: rows by table, and what the catalogue says of it.
async fn fingerprint(database: &TestDb, tables_like: &str) -> BTreeMap<String, String> {
    let mut connection = database.superuser().await;
    let mut found = BTreeMap::new();
    let tables: Vec<String> = sqlx::query_scalar(
        "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where c.relkind in ('r', 'p') and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') and n.nspname similar to $1",
    )
    .bind(tables_like)
    .fetch_all(&mut connection)
    .await
    .expect("tables");
    for table in tables {
        let sql = format!("select md5(coalesce(string_agg(t::text, '|' order by t::text), '')) from {table} t");
        let sum: String = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection).await.expect("a checksum");
        found.insert(format!("rows of {table}"), sum);
    }
    let catalogue: Vec<(String, String)> = sqlx::query_as(CATALOGUE).bind(tables_like).fetch_all(&mut connection).await.expect("catalogue");
    found.extend(catalogue);
    found
}

/// What there is, in words that do not depend on the order in which it was made.
pub const CATALOGUE: &str = "
    with spaces as (select oid, nspname from pg_namespace where nspname not in ('pg_catalog', 'information_schema', 'pg_toast') and nspname not like 'pg\\_temp%' and nspname not like 'pg\\_toast%' and nspname similar to $1)
    select 'schema ' || nspname, coalesce((select nspacl::text from pg_namespace p where p.oid = spaces.oid), '') from spaces
    union all select format('column %s.%I', c.oid::regclass, a.attname), concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attacl::text, col_description(c.oid, a.attnum))
        from pg_class c join spaces s on s.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum where c.relkind in ('r', 'p', 'v')
    union all select format('%s %s', c.relkind, c.oid::regclass), concat_ws(' ', c.relrowsecurity, c.relforcerowsecurity, (select array_agg(x::text order by x::text) from unnest(c.relacl) x)::text, obj_description(c.oid, 'pg_class'))
        from pg_class c join spaces s on s.oid = c.relnamespace where c.relkind in ('r', 'p', 'v', 'S')
    union all select format('constraint %s %I', k.conrelid::regclass, k.conname), pg_get_constraintdef(k.oid) || k.convalidated from pg_constraint k join spaces s on s.oid = k.connamespace where k.conrelid <> 0
    union all select format('index %s', i.indexrelid::regclass), pg_get_indexdef(i.indexrelid) || i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid join spaces s on s.oid = c.relnamespace
    union all select format('policy %s %I', p.polrelid::regclass, p.polname), concat_ws(' ', p.polcmd, (select array_agg(r::regrole::text order by 1) from unnest(p.polroles) r)::text, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) from pg_policy p join pg_class c on c.oid = p.polrelid join spaces s on s.oid = c.relnamespace
    union all select format('trigger %s %I', t.tgrelid::regclass, t.tgname), pg_get_triggerdef(t.oid) from pg_trigger t join pg_class c on c.oid = t.tgrelid join spaces s on s.oid = c.relnamespace where not t.tgisinternal
    union all select format('function %s', f.oid::regprocedure), pg_get_functiondef(f.oid) || coalesce(f.proacl::text, '') || f.proowner::regrole::text from pg_proc f join spaces s on s.oid = f.pronamespace
    union all select format('type %s', t.oid::regtype), (select string_agg(e.enumlabel, ',' order by e.enumsortorder) from pg_enum e where e.enumtypid = t.oid) from pg_type t join spaces s on s.oid = t.typnamespace where t.typtype = 'e'";

const EVERYTHING: &str = "%";
const LEGACY: &str = "legacy";

/// What is different, for messages that can be read.
fn difference(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<String> {
    let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    keys.into_iter().filter(|key| a.get(*key) != b.get(*key)).map(|key| format!("{key}: {:?} → {:?}", a.get(key), b.get(key))).collect()
}

fn assert_same(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) {
    assert!(a == b, "{:#?}", difference(a, b));
}

/// Rows of a table as a signed-in user of Tenantry sees them.
async fn seen_by(database: &TestDb, subject: &str, organization: &str, sql: &str) -> Vec<String> {
    let db = database.db();
    let organization = OrganizationRef::Slug(organization.to_owned());
    let mut tx = TenantTx::begin(&db, Access::Read, subject, &organization, Arc::default()).await.expect("a membership");
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(tx.conn()).await.expect("rows")
}

fn tenantry(database: &TestDb, arguments: &[&str]) -> Command {
    let url = cluster_url(database, local::OWNER_ROLE);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenantry"));
    command.env_clear().env("MIGRATION_DATABASE_URL", url).arg("adopt").args(arguments).kill_on_drop(true);
    command.stdin(std::process::Stdio::null());
    command
}

fn cluster_url(database: &TestDb, role: &str) -> String {
    // The cluster is up: the database is on it.
    let options = database.options(role);
    let socket = options.get_socket().expect("a socket").display().to_string().replace('/', "%2F");
    format!("postgres://{role}@localhost/{}?host={socket}&port=5432", database.name)
}

#[tokio::test]
async fn bots_move_with_their_users_into_personal_workspaces() {
    let database = legacy("bots").await;
    let summary = run(&database, plan("bots")).await;
    assert_eq!((summary.users.processed, summary.users.skipped, summary.users.unresolved), (8, 0, 0), "{summary:?}");
    let by_table: Vec<(&str, u64, u64)> = summary.tables.iter().map(|t| (t.table.as_str(), t.assigned, t.unresolved)).collect();
    assert_eq!(by_table, [("legacy.bots", 21, 0), ("legacy.Bot Runs", 105, 0), ("legacy.secrets", 21, 1)]);

    let workspaces = pairs(
        &database,
        "select a.legacy_id, o.slug || ' | ' || o.name || ' | ' || m.role || ' | ' || o.is_personal || ' | ' || (u.current_organization_id = o.id)
           from adopt.users a join organizations o on o.id = a.organization_id join users u on u.id = a.user_id
           join organization_members m on m.organization_id = o.id and m.user_id = u.id",
    )
    .await;
    let expected = [
        ("1", "john-workspace | John's Workspace"),
        ("2", "john-workspace-2 | John's Workspace"),
        ("3", "maria-jose-workspace | María-José's Workspace"),
        ("4", "user-workspace | User's Workspace"),
        ("5", "pat-workspace | Pat's Workspace"),
        ("6", "workspace | 李's Workspace"),
        ("7", "john-workspace-3 | John's Workspace"),
        ("8", "nobody-workspace | Nobody's Workspace"),
    ]
    .map(|(id, text)| (id.to_owned(), format!("{text} | OWNER | true | true")));
    assert_eq!(workspaces, BTreeMap::from(expected));
    assert_eq!(slugs(&database, "legacy.bots", "user_id").await["2"], "john-workspace-2");
    let runs = slugs(&database, "legacy.\"Bot Runs\"", "\"bot id\"").await;
    assert!(runs.values().all(|slug| slug.ends_with("workspace") || slug.starts_with("john-workspace")), "{runs:?}");
    assert_eq!(slugs(&database, "legacy.secrets", "key").await["lost"], "–");

    // A second run changes nothing at all.
    let before = fingerprint(&database, EVERYTHING).await;
    let second = run(&database, plan("bots")).await;
    assert_eq!((second.users.processed, second.users.skipped), (0, 8));
    assert!(second.tables.iter().all(|table| table.assigned == 0));
    assert_same(&before, &fingerprint(&database, EVERYTHING).await);

    // The row that nobody can place is named, and it holds up the end until somebody decides.
    let findings = adopt::verify(&mut session(&database).await, plan("bots")).await.expect("verify");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!((findings[0].subject.as_str(), findings[0].problem.as_str()), ("legacy.secrets lost", "bot_id is empty"));
    let refused = adopt::finalize(&mut session(&database).await, keeping_access(plan("bots")), &FinalizeOptions::default()).await;
    assert!(refused.expect_err("one row without").to_string().contains("1 rows have no organization"));
    run_sql(&mut database.owner().await, "delete from legacy.secrets where key = 'lost'").await;
    let blind = adopt::finalize(&mut session(&database).await, plan("bots"), &FinalizeOptions::default()).await;
    assert!(blind.expect_err("the old application").to_string().contains(&format!("keep_access = [\"{OLD_APP}\"]")));
    let done = adopt::finalize(&mut session(&database).await, keeping_access(plan("bots")), &FinalizeOptions::default()).await.expect("finalize");
    assert!(done.changes.len() > 10, "{done:?}");
    let again = adopt::finalize(&mut session(&database).await, keeping_access(plan("bots")), &FinalizeOptions::default()).await.expect("again");
    assert!(again.changes.is_empty(), "{again:?}");
    assert_eq!(adopt::verify(&mut session(&database).await, plan("bots")).await.expect("verify"), []);

    // Read as the API reads: John sees his own rows and nobody else's.
    let bots = seen_by(&database, "user_john", "john-workspace", "select name || ' of ' || user_id from legacy.bots order by id").await;
    assert_eq!(bots, ["bot 1 of 1", "bot 2 of 1", "bot 3 of 1"]);
    let runs = seen_by(&database, "legacy:bots:2", "john-workspace-2", "select count(*)::text from legacy.\"Bot Runs\"").await;
    assert_eq!(runs, ["15"]);
    let db = database.db();
    let organization = OrganizationRef::Slug("john-workspace-2".to_owned());
    assert!(TenantTx::begin(&db, Access::Read, "user_john", &organization, Arc::default()).await.is_err(), "not his");
    let organization = OrganizationRef::Slug("john-workspace".to_owned());
    let mut tx = TenantTx::begin(&db, Access::Write, "user_john", &organization, Arc::default()).await.expect("his");
    let stolen = sqlx::query("update legacy.bots set name = 'stolen' where user_id = 2").execute(tx.conn()).await.expect("no rows");
    assert_eq!(stolen.rows_affected(), 0);
    // A row cannot point into another tenant: the foreign key carries the organization.
    let crossing = sqlx::query("insert into legacy.\"Bot Runs\" values (4, 99, 'x', app.current_org())").execute(tx.conn()).await;
    assert!(crossing.expect_err("bot 4 is of another").to_string().contains("foreign key"));
    drop(tx);
    let mut app = database.app().await;
    let blind: i64 = sqlx::query_scalar("select count(*) from legacy.bots").fetch_one(&mut app).await.expect("no tenant");
    assert_eq!(blind, 0);

    // The old application still reads and writes, and its new rows are placed.
    let mut old = database.options(OLD_APP).connect().await.expect("the old application");
    run_sql(&mut old, "insert into legacy.users (email, name) values ('new@example.org', 'Newton New'); insert into legacy.bots (user_id, name) values (currval('legacy.users_id_seq'), 'fresh')").await;
    assert_eq!(pairs(&database, "select b.name, o.slug from legacy.bots b join organizations o on o.id = b.organization_id where b.name = 'fresh'").await["fresh"], "newton-workspace");
    // After the cut-over it sees nothing any more.
    adopt::finalize(&mut session(&database).await, plan("bots"), &FinalizeOptions { cut_over: true, ..FinalizeOptions::default() }).await.expect("cut-over");
    let gone: i64 = sqlx::query_scalar("select count(*) from legacy.bots").fetch_one(&mut old).await.expect("nothing");
    assert_eq!(gone, 0);
}
