//! What the old database and the old application bring along must not open one tenant's rows to another.

use sqlx::ConnectOptions as _;
use tenantry::adopt::{self, FinalizeOptions, Plan, Policy};

use super::{
    OLD_APP, assert_same, count, dry_run, ended, finalize, fingerprint, keeping_access, legacy, map, pairs, plan, run,
    run_sql, scratch, seen_by, session, slugs, small, tenantry, try_run, verify,
};

#[tokio::test]
async fn finalize_refuses_policies_that_hold_for_the_api_as_well() {
    let database = legacy("bots").await;
    let mut owner = database.owner().await;
    run_sql(
        &mut owner,
        &format!(
            "delete from legacy.secrets where key = 'lost';
             create policy everybody on legacy.bots for select to public using (true);
             create policy tenant on legacy.bots to {OLD_APP} using (true);
             create policy own on legacy.secrets to {OLD_APP} using (bot_id = 1);
             alter table legacy.secrets enable row level security"
        ),
    )
    .await;
    run(&database, plan("bots")).await;
    let refused = finalize(&database, keeping_access(plan("bots"))).await.expect_err("open").to_string();
    assert!(
        refused.contains("policy everybody holds for tenantry_app")
            || refused.contains("policy \"everybody\" holds for"),
        "{refused}"
    );
    assert!(refused.contains("rename to \"legacy_tenant\""), "{refused}");
    assert!(!refused.contains("policy \"own\""), "only the old application's: {refused}");
    let options = FinalizeOptions { cut_over: true, ..FinalizeOptions::default() };
    let refused = adopt::finalize(&mut session(&database).await, plan("bots"), &options).await.expect_err("open");
    assert!(refused.to_string().contains("everybody"), "after the cut-over it would still hold: {refused}");
    run_sql(
        &mut owner,
        &format!("alter policy everybody on legacy.bots to {OLD_APP}; alter policy tenant on legacy.bots rename to old_tenant"),
    )
    .await;

    // Everybody, and whose rights a login of the API has.
    let open = Plan { keep_access: vec!["public".to_owned()], ..plan("bots") };
    let refused = finalize(&database, open).await.expect_err("everybody").to_string();
    assert!(refused.contains("\"public\" is everybody, tenantry_app too"), "{refused}");
    let (api, old) = (format!("{}_api", database.name), format!("{}_old", database.name));
    let mut superuser = database.superuser().await;
    run_sql(&mut superuser, &format!("create role {old}; create role {api} login; grant tenantry_app, {old} to {api}"))
        .await;
    let shared = Plan { keep_access: vec![OLD_APP.to_owned(), old.clone()], ..plan("bots") };
    let refused = finalize(&database, shared).await.expect_err("shared").to_string();
    assert!(refused.contains(&format!("{api} has the rights of \"{old}\"")), "{refused}");
    run_sql(&mut superuser, &format!("drop role {api}; drop role {old}")).await;
    // Access by PUBLIC cannot be kept: it is said what to do instead.
    run_sql(&mut owner, "grant select on legacy.bots to public").await;
    let refused = finalize(&database, keeping_access(plan("bots"))).await.expect_err("granted to all").to_string();
    assert!(refused.contains("revoke all on \"legacy\".\"bots\" from public"), "{refused}");
    let file = scratch(&database).join("plan.toml");
    let arguments = ["adopt", "plan", "--schema", "legacy", "--output", file.to_str().expect("a path")];
    assert_eq!(ended(tenantry(&database, &arguments).await).await.0, 0);
    let written = std::fs::read_to_string(&file).expect("the plan");
    assert!(
        written.contains(&format!("# keep_access = [\"{OLD_APP}\"]")) && written.contains("from public"),
        "{written}"
    );
    std::fs::remove_dir_all(scratch(&database)).ok();
    run_sql(&mut owner, "revoke select on legacy.bots from public").await;

    finalize(&database, keeping_access(plan("bots"))).await.expect("finalize");
    assert_eq!(finalize(&database, keeping_access(plan("bots"))).await.expect("again"), Vec::<String>::new());
    assert_eq!(verify(&database, plan("bots")).await, []);
    let bots = "select name || ' of ' || user_id from legacy.bots order by id limit 4";
    assert_eq!(seen_by(&database, "user_john", "john-workspace", bots).await.len(), 3);
    // Where it had row-level security, the old application sees what it saw.
    let mut old = database.options(OLD_APP).connect().await.expect("the old application");
    let seen: (i64, i64) =
        sqlx::query_as("select (select count(*) from legacy.bots), (select count(*) from legacy.secrets)")
            .fetch_one(&mut old)
            .await
            .expect("rows");
    assert_eq!(seen, (21, 1));
    // One that comes later is found.
    run_sql(&mut owner, "create policy later on legacy.secrets to tenantry_app using (value <> '')").await;
    let findings = verify(&database, plan("bots")).await;
    assert!(findings.len() == 1 && findings[0].check == "open-policy", "{findings:?}");
}

const TEAMS: &str = "name = 'teams'\n[users]\ntable = 'legacy.users'\nclerk_id = 'clerk_id'\n[organizations]\ntable = 'legacy.teams'\njoin_existing = false
[memberships]\ntable = 'legacy.team_users'\nuser = 'user_id'\norganization = 'team_id'\nrole = 'role'\nroles = { boss = 'OWNER' }
[workspaces]\nusers_without = 'leave'\n[[tables]]\ntable = 'legacy.bots'\norganization = [{ user = 'user_id' }]";

#[tokio::test]
async fn adopt_takes_an_organization_of_the_same_id_for_a_stranger_until_the_plan_says_otherwise() {
    let database = legacy("bots").await;
    run_sql(
        &mut database.owner().await,
        "create table legacy.teams (id uuid primary key, name text);
         create table legacy.team_users (team_id uuid references legacy.teams, user_id integer references legacy.users, role text);
         insert into legacy.teams select id, 'Acme, so they say' from tenantry.organizations where slug = 'acme-corp';
         insert into legacy.team_users select id, 1, 'boss' from legacy.teams",
    )
    .await;
    let separate = Plan::parse(TEAMS).expect("a plan");
    let before = fingerprint(&database).await;
    let dry = adopt::dry_run(&mut session(&database).await, separate.clone(), &small()).await.expect_err("a stranger");
    let refused = try_run(&database, separate).await.expect_err("a stranger");
    assert_eq!([refused.code(), dry.code()], ["ORGANIZATION_TAKEN", "ORGANIZATION_TAKEN"], "{refused}");
    assert!(refused.to_string().contains("`acme-corp`") && refused.to_string().contains("join_existing"), "{refused}");
    assert_same(&before, &fingerprint(&database).await);

    let joining = Plan::parse(&TEAMS.replace("= false", "= true")).expect("a plan");
    dry_run(&database, joining.clone()).await;
    assert_eq!(run(&database, joining).await.users.processed, 1);
    assert_eq!(slugs(&database, "legacy.bots", "id").await["1"], "acme-corp");
}

/// Whoever registers in the old application, or writes to its tables, writes what they like.
#[tokio::test]
async fn triggers_do_not_believe_what_the_old_application_writes() {
    let database = legacy("workspaces").await;
    let mut plan = plan("workspaces");
    plan.workspaces.newcomers = Some(Policy::Default);
    plan.workspaces.owner = Some("boss@example.org".to_owned());
    run(&database, plan.clone()).await;
    let mut old = database.options(OLD_APP).connect().await.expect("the old application");
    let id = |n: u32| format!("00000000-0000-4000-8000-00000000001{n}");
    let (eve, boss) = (id(1), id(2));
    run_sql(
        &mut old,
        &format!(
            "insert into legacy.users (id, email, display_name) values ('{eve}', 'Alice@Example.com', 'Eve'), ('{boss}', 'boss@example.org', 'Boss');
             insert into legacy.dashboards (owner_id, title) values ('{eve}', 'planted'), ('{boss}', 'mine now')"
        ),
    )
    .await;
    // Neither Alice nor the owner, and nothing by which the sync would take Eve's row for Alice's.
    let people = "select a.legacy_id, concat_ws(' ', u.clerk_id, coalesce(u.email, '–'), o.slug, m.role) from tenantry.adopt_users a join tenantry.users u on u.id = a.user_id
                    join tenantry.organizations o on o.id = a.organization_id join tenantry.organization_members m on m.organization_id = o.id and m.user_id = u.id where a.legacy_id like '%-00000000001_'";
    let expected = map([
        (&eve, &format!("legacy:workspaces:{eve} – default ADMIN")),
        (&boss, &format!("legacy:workspaces:{boss} boss@example.org default ADMIN")),
    ]);
    assert_same(&expected, &pairs(&database, people).await);

    // The column is not theirs to write, neither in a new row nor in one that is there.
    let acme = pairs(&database, "select slug, id::text from tenantry.organizations where slug = 'acme-corp'").await;
    let acme = &acme["acme-corp"];
    run_sql(
        &mut old,
        &format!(
            "insert into legacy.dashboards (owner_id, title, organization_id) values ('{eve}', 'smuggled', '{acme}');
             update legacy.dashboards set organization_id = '{acme}' where title = 'planted';
             update legacy.dashboards set organization_id = '{acme}', owner_id = '{eve}' where title = 'mine now'"
        ),
    )
    .await;
    let found = slugs(&database, "legacy.dashboards", "title").await;
    assert!(found.len() == 6 && found.values().all(|slug| slug == "default"), "{found:?}");
    // The operator knows better, and what somebody else writes does not undo it.
    run_sql(
        &mut database.owner().await,
        &format!("update legacy.dashboards set organization_id = '{acme}' where title = 'planted'"),
    )
    .await;
    run_sql(&mut old, "update legacy.dashboards set organization_id = null, title = 'again' where title = 'planted'")
        .await;
    assert_eq!(slugs(&database, "legacy.dashboards", "title").await["again"], "acme-corp");
}

#[tokio::test]
async fn adopt_reports_who_was_deleted_and_holds_up_nobody() {
    let database = legacy("bots").await;
    run_sql(
        &mut database.owner().await,
        "insert into tenantry.users (id, clerk_id, name, deleted_at) values (gen_random_uuid(), 'user_john', 'John', now())",
    )
    .await;
    let forecast = dry_run(&database, plan("bots")).await;
    let summary = run(&database, plan("bots")).await;
    super::assert_foretold(&forecast, &summary);
    assert_eq!((summary.users.processed, summary.users.unresolved), (7, 1), "{summary:?}");
    let why =
        pairs(&database, "select legacy_id, reason from tenantry.adopt_users where organization_id is null").await;
    assert_eq!(why, map([("1", "was deleted at the identity provider")]));
    assert_eq!(
        count(
            &database,
            "select count(*) from tenantry.users where clerk_id like '%john' or clerk_id = 'legacy:bots:1'"
        )
        .await,
        1
    );
    let again = run(&database, plan("bots")).await;
    assert_eq!((again.users.processed, again.users.unresolved), (0, 1), "{again:?}");
}

#[tokio::test]
async fn finalize_lets_nobody_else_create_functions_where_ours_are_looked_up() {
    let database = legacy("bots").await;
    let mut superuser = database.superuser().await;
    for role in [OLD_APP, "public"] {
        run_sql(&mut superuser, &format!("grant create on schema public to {role}")).await;
        let refused = try_run(&database, plan("bots")).await.expect_err("open");
        assert_eq!(refused.code(), "SCHEMA_OPEN", "{refused}");
        let remedy = format!("revoke create on schema \"public\" from {role}");
        assert!(refused.to_string().contains(&remedy), "{refused}");
        let refused = finalize(&database, plan("bots")).await.expect_err("open");
        assert_eq!(refused.code(), "SCHEMA_OPEN", "{refused}");
        run_sql(&mut superuser, &remedy).await;
    }
    run(&database, plan("bots")).await;
}
