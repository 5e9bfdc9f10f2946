//! Plans that do not fit, tables that cannot be adopted, logins that may not: refused at once, whole, with what to do.

use tenantry::adopt::{self, AdoptError, FinalizeOptions, OwnerConnection, Plan};
use tenantry::clock::Clock;
use tenantry::local_postgres;

use super::{
    OLD_APP, assert_same, catalogue, count, counts, ended, finalize, fingerprint, fixture, keeping_access, legacy, map,
    plan, rollback, run, run_sql, scratch, seen_by, session, slugs, small, tenantry, tenantry_as, try_run,
};
use crate::support::TestDb;

const HEAD: &str =
    "name = 'bad'\n[users]\ntable = 'legacy.users'\nemail = 'email'\n[workspaces]\nusers_without = 'personal'\n";

fn with_tables(tables: &str) -> Plan {
    Plan::parse(&format!("{HEAD}{tables}")).unwrap_or_else(|error| panic!("{error}: {tables}"))
}

/// Tables of a plan, and what must be said about them.
const MISFITS: &[(&str, &[&str])] = &[
    (
        "[[tables]]\ntable = 'legacy.bot'\norganization = [{ user = 'user_id' }]",
        &["legacy.bot: there is no such table; did you mean legacy.bots?"],
    ),
    (
        "[[tables]]\ntable = 'bots'\norganization = [{ user = 'user_id' }]",
        &["public.bots: there is no such table; did you mean legacy.bots?"],
    ),
    (
        "[[tables]]\ntable = 'legacy.bot runs'\norganization = [{ row = 'legacy.bots', by = 'bot id' }]",
        &["did you mean legacy.Bot Runs?"],
    ),
    (
        "[[tables]]\ntable = 'legacy.bots'\norganization = [{ user = 'userid' }, { column = 'organisation' }]",
        &["has no column `userid`; did you mean `user_id`?", "has no column `organisation`"],
    ),
    (
        "[[tables]]\ntable = 'legacy.a'\norganization = [{ row = 'legacy.b', by = 'b_id' }]\n[[tables]]\ntable = 'legacy.b'\norganization = [{ row = 'legacy.c', by = 'c_id' }]\n[[tables]]\ntable = 'legacy.c'\norganization = [{ row = 'legacy.a', by = 'a_id' }]",
        &["circle: legacy.a → legacy.b → legacy.c → legacy.a", "Take one of these sources out"],
    ),
    (
        "[[tables]]\ntable = 'legacy.bots'\norganization = [{ row = 'legacy.bots', by = 'id' }]",
        &["circle: legacy.bots → legacy.bots"],
    ),
    (
        "[[tables]]\ntable = 'legacy.keyless'\norganization = [{ user = 'user_id' }]",
        &["nothing identifies its rows", "alter table \"legacy\".\"keyless\" add column adopt_key bigint"],
    ),
    (
        "[[tables]]\ntable = 'legacy.nullable_key'\norganization = [{ user = 'user_id' }]\nkey = 'number'",
        &["`key` must name all columns of a unique index, none of them nullable"],
    ),
    (
        "[[tables]]\ntable = 'legacy.other_column'\norganization = [{ user = 'user_id' }]",
        &[
            "has a column organization_id of type integer",
            "give ours another name, `column = \"tenant_organization_id\"`",
        ],
    ),
    ("[[tables]]\ntable = 'legacy.parted'\norganization = [{ user = 'user_id' }]", &["is partitioned"]),
    (
        "[[tables]]\ntable = 'legacy.some_bots'\norganization = [{ user = 'user_id' }]",
        &["is a view: adopt the tables under it"],
    ),
    (
        "[[tables]]\ntable = 'legacy.Bot Runs'\norganization = [{ row = 'legacy.bots', by = 'bot id' }]",
        &["legacy.bots is not among `tables`"],
    ),
    (
        "[[tables]]\ntable = 'legacy.bots'\norganization = [{ user = 'user_id' }]\n[[tables]]\ntable = 'legacy.secrets'\norganization = [{ row = 'legacy.bots', by = 'key' }]",
        &["`key` is text, legacy.bots's `id` is integer: the two cannot be compared"],
    ),
    (
        "[[tables]]\ntable = 'legacy.bots'\norganization = [{ user = 'user_id' }]\n[[tables]]\ntable = 'legacy.Bot Runs'\norganization = [{ row = 'legacy.bots', by = ['bot id', 'run no.'] }]",
        &["must refer to a whole unique key of legacy.bots"],
    ),
    (
        "[[tables]]\ntable = 'legacy.secrets'\norganization = [{ column = 'value' }]",
        &["`value` is text and there is no `[organizations]` to look it up in"],
    ),
    (
        "[[tables]]\ntable = 'legacy.a'\norganization = [{ user = 'user_id' }]\nwith_user = true",
        &["create index concurrently on \"legacy\".\"a\" (\"user_id\")"],
    ),
];

/// Neither dry run nor run does anything, both say the same; returns it.
async fn refused(database: &TestDb, plan: Plan) -> AdoptError {
    let before = fingerprint(database).await;
    let dry = adopt::dry_run(&mut session(database).await, plan.clone(), &small()).await.expect_err("refused");
    let error = try_run(database, plan).await.expect_err("refused");
    assert_same(&before, &fingerprint(database).await);
    assert_eq!(dry.to_string(), error.to_string());
    error
}

#[tokio::test]
async fn adopt_refuses_a_plan_that_does_not_fit_with_everything_that_is_wrong() {
    let database = legacy("bots").await;
    run_sql(
        &mut database.owner().await,
        "create table legacy.a (id integer primary key, b_id integer, user_id integer);
         create table legacy.b (id integer primary key, c_id integer);
         create table legacy.c (id integer primary key, a_id integer);
         create table legacy.keyless (user_id integer, note text);
         create table legacy.nullable_key (number integer unique, user_id integer);
         create table legacy.other_column (id integer primary key, user_id integer, organization_id integer);
         create table legacy.parted (id integer, user_id integer) partition by range (id);
         create view legacy.some_bots as select * from legacy.bots",
    )
    .await;
    for (tables, words) in MISFITS {
        let error = refused(&database, with_tables(tables)).await;
        assert_eq!(error.code(), "PLAN_INVALID", "{error}");
        for word in *words {
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
    }
    // Everything at once, by the binary: exit code 2, nothing on stdout.
    let folder = scratch(&database);
    let file = folder.join("bad.toml");
    let path = file.to_str().expect("a path");
    std::fs::write(&file, format!("{HEAD}[[tables]]\ntable = 'legacy.nothing'\norganization = [{{ user = 'user_id' }}]\n[[tables]]\ntable = 'legacy.keyless'\norganization = [{{ user = 'u' }}]")).expect("a plan");
    let (code, text, error) = ended(tenantry(&database, &["adopt", "run", "--plan", path]).await).await;
    assert!(
        code == 2
            && text.is_empty()
            && error.starts_with("tenantry: PLAN_INVALID: ")
            && error.matches("\n  - ").count() == 3,
        "{error}"
    );
    std::fs::write(&file, "name = 'x'\n[user]\n").expect("no plan");
    let (code, _, error) = ended(tenantry(&database, &["adopt", "run", "--plan", path]).await).await;
    assert!(code == 2 && error.contains("line 2") && error.contains("user"), "{error}");
    let (code, _, error) = ended(tenantry(&database, &["adopt", "run", "--plan", "no such file"]).await).await;
    assert!(code == 2 && error.contains("NO_PLAN") && error.contains("tenantry adopt plan --output"), "{error}");
    let good = fixture("bots", "plan.toml");
    let arguments = ["adopt", "run", "--plan", good.to_str().expect("a path"), "--report"];
    for report in ["mapping.xlsx", "no/such/folder/mapping.csv"] {
        let (code, _, error) = ended(tenantry(&database, &[&arguments[..], &[report]].concat()).await).await;
        assert!(code == 2 && error.contains("BAD_REPORT"), "{error}");
    }
    for (command, word) in
        [("verify", "user-without-organization"), ("finalize", "NOT_READY"), ("rollback", "NOTHING_DONE")]
    {
        let yes: &[&str] = if command == "verify" { &[] } else { &["--yes"] };
        let arguments = [&["adopt", command, "--plan", good.to_str().expect("a path")], yes].concat();
        let (code, text, error) = ended(tenantry(&database, &arguments).await).await;
        assert!(code > 0 && format!("{text}{error}").contains(word), "{command}: {text}{error}");
    }
    std::fs::remove_dir_all(folder).ok();
}

/// Composite and text keys, unique keys instead of primary ones, references to other keys, names as bad as they come.
#[tokio::test]
async fn adopt_takes_odd_keys_and_names() {
    let database = TestDb::seeded().await;
    run_sql(
        &mut database.owner().await,
        r#"create schema "Odd ""Schema""";
         create table "Odd ""Schema"""."user" ("Id" text primary key, "e-mail" text);
         create table "Odd ""Schema"""."select" (tenant text, "no." numeric(8, 2), "day" timestamptz, "user" text not null, code char(4) not null unique, primary key ("no.", tenant, "day"));
         create table "Odd ""Schema"""."from.where" ("Key; drop table x" uuid not null unique, "the no." numeric(8, 2), "the tenant" text, "the day" timestamptz, foreign key ("the day", "the no.", "the tenant") references "Odd ""Schema"""."select" ("day", "no.", tenant) on delete set null);
         create table "Odd ""Schema"""."a 'quoted' one" (id bigint generated always as identity primary key, code char(4) references "Odd ""Schema"""."select" (code) on update cascade, data bytea);
         insert into "Odd ""Schema"""."user" values ('ä "1"', 'a@example.org'), ('it''s \2', null), ('{3,4}', 'b@example.org');
         insert into "Odd ""Schema"""."select" select 't' || n % 3, n / 3.0, '2026-01-01'::timestamptz + n * interval '7.000001 seconds', (array['ä "1"', 'it''s \2', '{3,4}'])[n % 3 + 1], to_char(n, 'fm0000') from generate_series(1, 40) n;
         insert into "Odd ""Schema"""."from.where" select gen_random_uuid(), "no.", tenant, "day" from "Odd ""Schema"""."select";
         insert into "Odd ""Schema"""."a 'quoted' one" (code) select code from "Odd ""Schema"""."select""#,
    )
    .await;
    let plan = Plan::parse(
        r#"name = "odd"
[users]
table = '"Odd ""Schema""".user'
id = "Id"
email = "e-mail"
[workspaces]
users_without = "personal"
[[tables]]
table = "\"Odd \"\"Schema\"\"\".a 'quoted' one"
organization = [{ row = '"Odd ""Schema""".select', by = "code", to = "code" }]
[[tables]]
table = '"Odd ""Schema"""."from.where"'
organization = [{ row = '"Odd ""Schema""".select', by = ["the no.", "the tenant", "the day"] }]
[[tables]]
table = '"Odd ""Schema""".select'
organization = [{ user = "user" }]
"#,
    )
    .expect("a plan");
    let before = catalogue(&mut database.superuser().await).await;
    let summary = run(&database, plan.clone()).await;
    assert_eq!(summary.users.processed, 3, "{summary:?}");
    assert_eq!(
        summary.tables.iter().map(|table| (table.assigned, table.unresolved)).collect::<Vec<_>>(),
        [(40, 0), (40, 0), (40, 0)]
    );
    let wrong = r#"select count(*) from "Odd ""Schema"""."select" s left join "Odd ""Schema"""."from.where" f on (f."the no.", f."the tenant", f."the day") = (s."no.", s.tenant, s."day")
        left join "Odd ""Schema"""."a 'quoted' one" q on q.code = s.code where f.organization_id is distinct from s.organization_id or q.organization_id is distinct from s.organization_id"#;
    assert_eq!(count(&database, wrong).await, 0);
    finalize(&database, plan.clone()).await.expect("finalize");
    assert_eq!(super::verify(&database, plan.clone()).await, []);
    let seen = seen_by(
        &database,
        "legacy:odd:it's \\2",
        "user-workspace",
        r#"select distinct "user" from "Odd ""Schema"""."select""#,
    )
    .await;
    assert_eq!(seen, [r"it's \2"]);
    // What was `on delete set null` and `on update cascade` still is, and leaves the organization alone.
    run_sql(
        &mut database.owner().await,
        r#"update "Odd ""Schema"""."select" set code = 'new!' where code = '0001'; delete from "Odd ""Schema"""."a 'quoted' one" where code = '0002'; delete from "Odd ""Schema"""."select" where code = '0002'"#,
    )
    .await;
    assert_eq!(
        count(&database, r#"select count(*) from "Odd ""Schema"""."a 'quoted' one" where code = 'new!'"#).await,
        1
    );
    assert_eq!(count(&database, r#"select count(*) from "Odd ""Schema"""."from.where" where "the no." is null and organization_id is not null"#).await, 1);
    assert_eq!(rollback(&database, plan).await, Vec::<String>::new());
    assert_same(&before, &catalogue(&mut database.superuser().await).await);
}

/// A column that was there already stays, and loses what it got here.
#[tokio::test]
async fn adopt_keeps_what_a_column_that_was_there_had() {
    let database = legacy("bots").await;
    run_sql(
        &mut database.owner().await,
        "alter table legacy.bots add column organization_id uuid; update legacy.bots set organization_id = (select id from tenantry.organizations where slug = 'acme-corp') where id = 1;
         insert into legacy.users (email, name, clerk_id) values (null, 'Eve', 'user_eve'), (null, 'Deleted', 'user_gone')",
    )
    .await;
    let summary = run(&database, plan("bots")).await;
    assert_eq!(counts(&summary)[0], ("legacy.bots", 20, 0), "{summary:?}");
    let bots = slugs(&database, "legacy.bots", "id").await;
    assert_eq!((bots["1"].as_str(), bots["2"].as_str()), ("acme-corp", "john-workspace"));
    rollback(&database, plan("bots")).await;
    let bots = slugs(&database, "legacy.bots", "id").await;
    assert_eq!((bots["1"].as_str(), bots["2"].as_str()), ("acme-corp", "–"));
    assert_eq!(
        count(&database, "select count(organization_id) from legacy.bots").await,
        1,
        "and not the id of one that is gone"
    );
}

#[tokio::test]
async fn adopt_tells_a_login_that_may_not_which_may() {
    let database = legacy("bots").await;
    let before = fingerprint(&database).await;
    let file = fixture("bots", "plan.toml");
    let file = file.to_str().expect("a path");
    // One that reads only.
    for command in [&["run"][..], &["run", "--dry-run"], &["verify"], &["finalize", "--yes"], &["rollback", "--yes"]] {
        let arguments = [&["adopt"], command, &["--plan", file]].concat();
        let (code, text, error) = ended(tenantry_as(&database, OLD_APP, &arguments).await).await;
        assert!(code == 2 && text.is_empty(), "{command:?}: {error}");
        assert!(error.contains("NOT_OWNER") && error.contains("MIGRATION_DATABASE_URL"), "{command:?}: {error}");
    }
    // The owner on a standby, or with this setting, which is the same to it.
    let options = database.options(local_postgres::OWNER_ROLE).options([("default_transaction_read_only", "on")]);
    let mut session = OwnerConnection::open(&options).await.expect("a session");
    let error = adopt::run(&mut session, plan("bots"), &small(), &Clock::System).await.expect_err("read-only");
    assert!(error.code() == "READ_ONLY" && error.to_string().contains("primary"), "{error}");
    let error = adopt::finalize(&mut session, plan("bots"), &FinalizeOptions::default()).await.expect_err("read-only");
    assert_eq!(error.code(), "READ_ONLY");
    // Tables of somebody else.
    run_sql(&mut database.superuser().await, "alter table legacy.bots owner to postgres").await;
    let error = try_run(&database, plan("bots")).await.expect_err("not ours").to_string();
    assert!(
        error.contains("legacy.bots: belongs to postgres")
            && error.contains("grant \"postgres\" to \"tenantry_owner\""),
        "{error}"
    );
    assert!(error.contains("may not read it"), "{error}");
    run_sql(&mut database.superuser().await, "alter table legacy.bots owner to tenantry_owner").await;
    assert_same(&before, &fingerprint(&database).await);
    // No server at all, and a wrong password's worth of it.
    let mut command = tenantry(&database, &["adopt", "run", "--plan", file]).await;
    command.env("MIGRATION_DATABASE_URL", "postgres://nobody@127.0.0.1:9/none");
    let (code, _, error) = ended(command).await;
    assert!(code == 2 && error.contains("UNREACHABLE"), "{error}");
}

/// Tenantry's tables are not there yet.
#[tokio::test]
async fn adopt_tells_what_comes_first_of_a_database_that_is_not_ready() {
    let database = TestDb::empty().await;
    let mut owner = database.owner().await;
    run_sql(&mut owner, "create table public.users (id integer primary key, email text); create table public.bots (id integer primary key, user_id integer references public.users)").await;
    let text = "name = 'x'\n[users]\ntable = 'public.users'\n[workspaces]\nusers_without = 'personal'\n[[tables]]\ntable = 'public.bots'\norganization = [{ user = 'user_id' }]";
    let before = fingerprint(&database).await;
    let error = try_run(&database, Plan::parse(text).expect("a plan")).await.expect_err("not migrated");
    assert!(error.code() == "NOT_MIGRATED" && error.to_string().contains("tenantry migrate up"), "{error}");
    let (code, plan, error) = ended(tenantry(&database, &["adopt", "plan"]).await).await;
    assert!(code == 0 && plan.contains("public.bots"), "{plan}{error}");
    assert_same(&before, &fingerprint(&database).await);
    tenantry::db::migrations::up(&database.options(local_postgres::OWNER_ROLE)).await.expect("up");
    run(&database, Plan::parse(text).expect("a plan")).await;
}

/// The team's own names are no obstacle, wherever they are: tables, an enum, a ledger of sqlx, a schema `app`.
#[tokio::test]
async fn adopt_lets_names_of_the_team_stand() {
    let database = TestDb::empty().await;
    let mut owner = database.owner().await;
    let team = include_str!("../../fixtures/adopt/names.sql");
    run_sql(&mut owner, team).await;
    let options = database.options(local_postgres::OWNER_ROLE);
    let theirs = async || {
        let mut found = fingerprint(&database).await;
        found.retain(|key, _| !key.contains("tenantry") && !key.contains("public") && !key.contains("tickets"));
        found
    };
    let before = theirs().await;
    let count_of_ours = tenantry::db::migrations::up(&options).await.expect("up");
    assert_same(&before, &theirs().await);
    let plan = "name = 'x'\n[users]\ntable = 'public.users'\n[workspaces]\nusers_without = 'personal'\n[[tables]]\ntable = 'public.tickets'\norganization = [{ user = 'user_id' }]";
    let (code, suggested, error) = ended(tenantry(&database, &["adopt", "plan"]).await).await;
    assert!(
        code == 0 && suggested.contains("table = \"public.tickets\"") && !suggested.contains("tenantry."),
        "{suggested}{error}"
    );
    let plan = Plan::parse(plan).expect("a plan");
    run(&database, plan.clone()).await;
    assert_eq!(count(&database, "select count(distinct organization_id) from public.tickets").await, 2);
    assert_eq!(count(&database, "select count(*) from tenantry.users where clerk_id like 'legacy:x:%'").await, 2);
    assert_eq!(rollback(&database, plan).await, Vec::<String>::new());
    assert_eq!(tenantry::db::migrations::down(&options, count_of_ours).await.expect("down"), 0);
    assert_same(&before, &theirs().await);
}

/// A schema `tenantry` of somebody else's is not written to.
#[tokio::test]
async fn migrate_refuses_a_schema_of_somebody_else_under_our_name() {
    let database = TestDb::empty().await;
    run_sql(&mut database.owner().await, "create schema tenantry; create table tenantry.users (id integer)").await;
    let before = fingerprint(&database).await;
    for arguments in [&["migrate", "up"][..], &["adopt", "run", "--plan", "tests/fixtures/adopt/bots/plan.toml"]] {
        let (code, _, error) = ended(tenantry(&database, arguments).await).await;
        assert!(
            code == 2 && error.contains("holds users") && error.contains("alter schema tenantry rename to"),
            "{error}"
        );
    }
    assert_same(&before, &fingerprint(&database).await);
    // An empty one was made for us.
    run_sql(&mut database.owner().await, "drop table tenantry.users").await;
    tenantry::db::migrations::up(&database.options(local_postgres::OWNER_ROLE)).await.expect("up");
}

/// Two at once: one waits, and then there is nothing left to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopt_runs_at_once_are_one() {
    let database = legacy("bots").await;
    let (first, second) = tokio::join!(run(&database, plan("bots")), run(&database, plan("bots")));
    assert_eq!(first.users.processed + second.users.processed, 8);
    assert_eq!(first.users.skipped + second.users.skipped, 8);
    assert_eq!(slugs(&database, "legacy.bots", "id").await.len(), 21);
    assert_eq!(count(&database, "select count(*) - count(distinct k) from tenantry.adopt_batches b cross join unnest(b.keys) k where b.table_name = 'legacy.bots'").await, 0);
}

/// An organization with the slug of the default workspace is somebody's: joining it is to be said.
#[tokio::test]
async fn adopt_joins_no_default_workspace_of_somebody_else() {
    let database = legacy("workspaces").await;
    let mut plan = plan("workspaces");
    plan.workspaces.slug = "acme-corp".to_owned();
    let error = try_run(&database, plan.clone()).await.expect_err("taken");
    assert!(error.code() == "SLUG_TAKEN" && error.to_string().contains("join_existing"), "{error}");
    assert_eq!(count(&database, "select count(*) from legacy.dashboards where organization_id is not null").await, 0);
    plan.workspaces.join_existing = true;
    run(&database, plan.clone()).await;
    assert!(slugs(&database, "legacy.dashboards", "id").await.values().all(|slug| slug == "acme-corp"));
    // Acme was there before, and stays.
    assert_eq!(rollback(&database, plan).await, Vec::<String>::new());
    assert_eq!(count(&database, "select count(*) from tenantry.organizations where slug = 'acme-corp'").await, 1);
}

/// What people made after the adoption is not deleted with it.
#[tokio::test]
async fn rollback_keeps_what_others_depend_on() {
    let database = legacy("bots").await;
    run_sql(&mut database.owner().await, "delete from legacy.secrets where key = 'lost'").await;
    run(&database, plan("bots")).await;
    finalize(&database, keeping_access(plan("bots"))).await.expect("finalize");
    run_sql(
        &mut database.owner().await,
        "insert into tenantry.budgets (organization_id, id, series_id, type, name, period, starts_at, ends_at, limit_minor, currency) select id, id, id, (enum_range(null::tenantry.budget_type))[1], 'x', (enum_range(null::tenantry.budget_period))[1], now(), now() + interval '1 day', 1, 'EUR' from tenantry.organizations where slug = 'john-workspace'",
    )
    .await;
    let kept = rollback(&database, plan("bots")).await;
    // The workspace stays with who is in it.
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(kept[0].starts_with("organization ") && kept[0].contains("other rows refer to it"), "{kept:?}");
    assert!(kept[1].starts_with("user ") && kept[1].contains("other rows refer to it"), "{kept:?}");
    let members = "select count(*) from tenantry.organization_members m join tenantry.organizations o on o.id = m.organization_id where o.slug = 'john-workspace' and m.role = 'OWNER'";
    assert_eq!(super::count(&database, members).await, 1);
    let left = super::pairs(
        &database,
        "select slug, 'stays' from tenantry.organizations where is_personal and slug like '%workspace%'",
    )
    .await;
    assert_eq!(left, map([("john-workspace", "stays")]));
}
