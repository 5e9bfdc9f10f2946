//! Whatever `search_path` a login has, the product reads, writes and calls what is its own.

use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use tenantry::adopt::Plan;
use tenantry::clock::Clock;
use tenantry::db::migrations;
use tenantry::local_postgres;
use tenantry::webhook_events::WebhookSource::{Clerk, Stripe};
use tenantry::{seed, verify};

use crate::adopt::{assert_same, catalogue, finalize, keeping_access, legacy, plan, rollback, run, run_sql};
use crate::support::TestDb;
use crate::webhooks::{self, PENDING, clerk, count, deliver, none_left, start_workers, stripe};

/// Without ours, with decoys before everything else, and with ours, where `PostgreSQL` tells types without their schema.
const PATHS: [&str; 3] = ["nonsense, pg_catalog", "decoy, public", "tenantry, decoy"];

/// Statements that make a decoy under the name of each table, type and function of ours. No login may use a decoy, so
/// that a statement that finds one fails.
async fn decoys() -> String {
    const MAKE: &str = "
        select 'create schema decoy; grant usage on schema decoy to public; ' || string_agg(statement, '; ' order by rank, statement)
          from (select 1 as rank, format('create type decoy.%I as enum (''decoy'')', typname) as statement
                  from pg_type where typnamespace = 'tenantry'::regnamespace and typtype = 'e'
                union all
                select 2, format('create table decoy.%I (decoy integer)', relname)
                  from pg_class where relnamespace = 'tenantry'::regnamespace and relkind in ('r', 'p')
                union all
                select 3, format('create function decoy.%I(%s) returns %s language plpgsql as $d$ begin raise ''a decoy was called''; end $d$',
                                 proname, replace(pg_get_function_identity_arguments(oid), 'tenantry.', 'decoy.'),
                                 case when prorettype = 'trigger'::regtype then 'trigger' else 'text' end)
                  from pg_proc where pronamespace = 'tenantry'::regnamespace
                union all
                select 4, format('revoke execute on all functions in schema decoy from public')) made";
    let database = TestDb::seeded().await;
    sqlx::query_scalar(MAKE).fetch_one(&mut database.superuser().await).await.expect("the statements")
}

/// Lays the decoys, gives all three logins this path, and ends what was connected before.
async fn under(database: &TestDb, path: &str) {
    let mut superuser = database.superuser().await;
    run_sql(&mut superuser, &decoys().await).await;
    for role in [local_postgres::OWNER_ROLE, local_postgres::APP_ROLE, local_postgres::SUPERADMIN_ROLE] {
        run_sql(&mut superuser, &format!("alter role {role} in database {} set search_path = {path}", database.name))
            .await;
    }
    run_sql(
        &mut superuser,
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
    )
    .await;
    let mut app = database.app().await;
    let shown: String = sqlx::query_scalar("show search_path").fetch_one(&mut app).await.expect("the path");
    assert_eq!(shown, path, "the login has it");
    if path.starts_with("decoy") {
        let found =
            sqlx::raw_sql(concat!("select from ", "tickets")).execute(&mut app).await.expect_err("a decoy").to_string();
        assert!(found.contains("permission denied for table tickets"), "and finds decoys: {found}");
    }
}

/// Objects outside of the schemas that are ours, the decoys' or `PostgreSQL`'s.
async fn strays(connection: &mut PgConnection) -> Vec<String> {
    const STRAYS: &str = "
        select n.nspname || '.' || x.name
          from (select relnamespace as space, relname::text as name from pg_class
                union all select pronamespace, proname::text from pg_proc
                union all select typnamespace, typname::text from pg_type) x
          join pg_namespace n on n.oid = x.space
         where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'tenantry', 'decoy')";
    sqlx::query_scalar(STRAYS).fetch_all(connection).await.expect("the catalogue")
}

#[tokio::test]
async fn search_path_decides_nothing_when_the_database_is_made() {
    for path in PATHS {
        let database = TestDb::empty().await;
        under(&database, path).await;
        let owner = database.options(local_postgres::OWNER_ROLE);
        let made = migrations::up(&owner).await.unwrap_or_else(|error| panic!("{path}: up: {error}"));
        let db = database.db();
        seed::sample_data(&db, &Clock::System).await.unwrap_or_else(|error| panic!("{path}: seed: {error:?}"));
        assert_eq!(db.migration_version().await.expect("the probe"), (migrations::newest(), true), "{path}");
        let findings = verify::verify(&db).await.unwrap_or_else(|error| panic!("{path}: verify: {error:?}"));
        assert!(findings.is_empty(), "{path}: {findings:?}");
        db.close().await;
        assert!(
            migrations::status(&owner)
                .await
                .expect("status")
                .iter()
                .all(|m| m.state == migrations::MigrationState::Applied)
        );
        let mut superuser = database.superuser().await;
        assert_eq!(strays(&mut superuser).await, Vec::<String>::new(), "{path}");
        assert_eq!(migrations::down(&owner, made).await.unwrap_or_else(|error| panic!("{path}: down: {error}")), 0);
        let left: bool = sqlx::query_scalar("select to_regnamespace('tenantry') is null")
            .fetch_one(&mut superuser)
            .await
            .expect("a look");
        assert!(left, "{path}: nothing is left");
    }
}

const EVERYTHING: &str = "query($where: TicketFilter, $orderBy: [TicketOrder!]) {
  viewer { role user { email } memberships { role organization { slug } } }
  organization { name status
    members { totalCount nodes { role user { name } } }
    tickets(where: $where, orderBy: $orderBy) { totalCount pageInfo { endCursor } nodes {
      id number status priority category customer { name tier } assignee { user { name } } messages { totalCount nodes { body author { email } } } } }
    budgets { nodes { type limit { amount } usageRecords { nodes { kind } } } }
    refunds { nodes { status reason } }
    featureFlags { key enabled }
    auditLogs(first: 5) { nodes { action } }
    subscription { plan status } } }";
const CREATE: &str =
    "mutation($input: TicketCreateInput!) { ticketCreate(input: $input) { ticket { id status } userErrors { code } } }";
const UPDATE: &str =
    "mutation($input: TicketUpdateInput!) { ticketUpdate(input: $input) { ticket { status } userErrors { code } } }";

#[tokio::test]
async fn search_path_decides_nothing_of_what_the_api_and_the_workers_do() {
    for path in PATHS {
        let app = webhooks::start().await;
        let alice = app.token("alice@example.com", Some("acme-corp")).await;
        let admin = app.token("admin@example.com", None).await;
        let wanted = json!({ "where": { "status": { "in": ["NEW", "OPEN", "PENDING_CUSTOMER"] }, "priority": { "ne": "LOW" } },
                             "orderBy": [{ "field": "PRIORITY", "direction": "DESC" }] });
        let before = app.data(&alice, EVERYTHING, wanted.clone()).await;
        assert!(before["organization"]["tickets"]["totalCount"].as_i64() > Some(0), "{before:#}");
        under(&app.database, path).await;

        assert_eq!(app.data(&alice, EVERYTHING, wanted).await, before, "{path}");
        let id = &before["organization"]["tickets"]["nodes"][0]["id"];
        let page = "query($id: ID!, $after: String) { node(id: $id) { id } organization { tickets(first: 1, after: $after, orderBy: [{ field: PRIORITY, direction: DESC }]) { nodes { id } } } }";
        let after = &before["organization"]["tickets"]["pageInfo"]["endCursor"];
        let node = app.run(&alice, page, json!({ "id": id, "after": null })).await;
        assert_eq!(node["data"]["node"]["id"], *id, "{path}: {node:#}");
        let next = app.run(&alice, page, json!({ "id": id, "after": after })).await;
        assert!(next["data"]["organization"]["tickets"]["nodes"].is_array(), "{path}: a cursor of an enum: {next:#}");

        let created = app
            .data(&alice, CREATE, json!({ "input": { "subject": "x", "priority": "HIGH", "idempotencyKey": "one" } }))
            .await;
        let ticket = created["ticketCreate"]["ticket"]["id"].clone();
        assert!(ticket.is_string(), "{path}: {created:#}");
        let update = json!({ "input": { "id": ticket, "status": "OPEN", "priority": "URGENT" } });
        assert_eq!(app.data(&alice, UPDATE, update).await["ticketUpdate"]["ticket"]["status"], "OPEN", "{path}");
        let platform = "{ platform { webhookEvents(first: 2) { totalCount nodes { status source } } } }";
        assert!(
            app.data(&admin, platform, json!({})).await["platform"]["webhookEvents"]["totalCount"].as_i64() > Some(0)
        );

        let _workers = start_workers(&app.app, 1);
        let mut organization = clerk("organization.created", "org_path");
        organization["data"]["name"] = "Path".into();
        let mut user = clerk("user.created", "user_path");
        user["data"]["first_name"] = "Pia".into();
        let events: [(_, &str, Value); 3] = [
            (Clerk, "msg_org", organization),
            (Clerk, "msg_user", user),
            (Stripe, "", stripe("evt_path", "customer.created", "cus_path")),
        ];
        for (source, id, event) in events {
            assert_eq!(deliver(&app, source, id, event.to_string()).await, (200, String::new()), "{path}: {id}");
        }
        none_left(&app.database, PENDING).await;
        assert_eq!(count(&app.database, "status in ('APPLIED', 'IGNORED')").await, 3, "{path}");
        let made: i64 =
            sqlx::query_scalar("select count(*) from tenantry.organizations where clerk_org_id = 'org_path'")
                .fetch_one(&mut app.database.system().await)
                .await
                .expect("a count");
        assert_eq!(made, 1, "{path}");
        assert_eq!(strays(&mut app.database.superuser().await).await, Vec::<String>::new(), "{path}");
    }
}

#[tokio::test]
async fn search_path_decides_nothing_of_an_adoption() {
    for path in PATHS {
        let database = legacy("bots").await;
        under(&database, path).await;
        let plan = keeping_access(plan("bots"));
        let summary = run(&database, plan.clone()).await;
        assert_eq!(summary.users.unresolved, 0, "{path}: {summary:?}");
        run_sql(&mut database.owner().await, "insert into legacy.bots (user_id, name) values (1, 'live')").await;
        let without = "select count(*) from legacy.bots where organization_id is null";
        let without: i64 = sqlx::query_scalar(without).fetch_one(&mut database.owner().await).await.expect("a count");
        assert_eq!(without, 0, "{path}: the trigger fills it");
        run_sql(&mut database.owner().await, "delete from legacy.secrets where organization_id is null").await;
        finalize(&database, plan.clone()).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(rollback(&database, plan).await, Vec::<String>::new(), "{path}");
    }
}

/// Types of the team's own, in a schema that only the owner's path has: what the triggers do, they do under another path.
#[tokio::test]
async fn search_path_of_the_owner_is_not_that_of_the_triggers() {
    const LEGACY: &str = "create schema legacy; create domain legacy.user_key as int; create type legacy.kind as enum ('a', 'b');
        create table legacy.users (id legacy.user_key primary key, email text, name text);
        create table legacy.boards (id serial primary key, user_id legacy.user_key not null references legacy.users);
        create table legacy.notes (kind legacy.kind not null, no int not null, board_id int not null references legacy.boards, primary key (kind, no));
        insert into legacy.users values (1, 'ann@example.org', 'Ann'), (2, 'bob@example.org', 'Bob');
        insert into legacy.boards (user_id) values (1), (2); insert into legacy.notes values ('a', 1, 1), ('b', 1, 2)";
    const PLAN: &str =
        "name = 'x'\n[users]\ntable = 'legacy.users'\nemail = 'email'\n[workspaces]\nusers_without = 'personal'
        [[tables]]\ntable = 'legacy.boards'\norganization = [{ user = 'user_id' }]
        [[tables]]\ntable = 'legacy.notes'\norganization = [{ row = 'legacy.boards', by = 'board_id' }]";
    let database = TestDb::seeded().await;
    run_sql(&mut database.owner().await, LEGACY).await;
    under(&database, "legacy, public").await;
    let mut superuser = database.superuser().await;
    let before = catalogue(&mut superuser).await;
    let plan = Plan::parse(PLAN).expect("a plan");
    run(&database, plan.clone()).await;
    finalize(&database, plan.clone()).await.expect("finalize");
    let live = "insert into legacy.users values (3, 'eve@example.org', 'Eve'); insert into legacy.boards (user_id) values (3); insert into legacy.notes values ('a', 2, 3)";
    run_sql(&mut superuser, live).await;
    let scoped = "select count(distinct organization_id) from legacy.notes";
    let scoped: i64 = sqlx::query_scalar(scoped).fetch_one(&mut superuser).await.expect("a count");
    assert_eq!(scoped, 3, "hers is in her workspace");
    assert_eq!(rollback(&database, plan).await, Vec::<String>::new());
    assert_same(&before, &catalogue(&mut superuser).await);
}
