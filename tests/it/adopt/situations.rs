//! The three situations, each from the plan to the rollback.

use std::collections::BTreeSet;

use sqlx::ConnectOptions as _;
use tenantry::adopt::{self, FinalizeOptions, Plan, Source};

use super::{
    OLD_APP, assert_foretold, assert_same, count, counts, difference, dry_run, ended, enter, finalize, fingerprint,
    fixture, keeping_access, legacy, map, pairs, parse, plan, rollback, run, run_sql, scratch, seen_by, session, slugs,
    tenantry, try_run, verify, without_owner,
};
use crate::support::TestDb;

/// Who became whom: workspace, role, and whether it is personal and current.
const WORKSPACES: &str = "
    select a.legacy_id, concat_ws(' | ', o.slug, o.name, m.role, o.is_personal, u.current_organization_id = o.id)
      from tenantry.adopt_users a join tenantry.organizations o on o.id = a.organization_id join tenantry.users u on u.id = a.user_id
      join tenantry.organization_members m on m.organization_id = o.id and m.user_id = u.id";

/// What differs between two fingerprints, without what it was.
fn keys_of(differences: Vec<String>) -> Vec<String> {
    differences.into_iter().map(|line| line.split(':').next().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn adopt_moves_bots_with_their_users_into_personal_workspaces() {
    let database = legacy("bots").await;
    // Alice has an organization in Tenantry.
    run_sql(&mut database.owner().await, "insert into legacy.users (email, name) values ('Alice@example.com', 'Alice'); insert into legacy.bots (user_id, name) values (9, 'of Alice')").await;
    let untouched = fingerprint(&database).await;
    let forecast = dry_run(&database, plan("bots")).await;
    assert_same(&untouched, &fingerprint(&database).await);
    assert_eq!(forecast.tables[2].samples[0].reason, "bot_id is empty");
    assert!(forecast.notes.iter().any(|note| note.starts_with("time:")), "{:?}", forecast.notes);
    assert!(forecast.notes.iter().any(|note| note.starts_with("locks:")), "{:?}", forecast.notes);

    let summary = run(&database, plan("bots")).await;
    assert_foretold(&forecast, &summary);
    assert_eq!((summary.users.processed, summary.users.skipped, summary.users.unresolved), (8, 1, 0), "{summary:?}");
    assert_eq!(counts(&summary), [("legacy.bots", 22, 0), ("legacy.Bot Runs", 105, 0), ("legacy.secrets", 21, 1)]);

    let expected = map([
        ("1", "john-workspace | John's Workspace | OWNER | t | t"),
        ("2", "john-workspace-2 | John's Workspace | OWNER | t | t"),
        ("3", "maria-jose-workspace | María-José's Workspace | OWNER | t | t"),
        ("4", "user-workspace | User's Workspace | OWNER | t | t"),
        ("5", "pat-workspace | Pat's Workspace | OWNER | t | t"),
        ("6", "workspace | 李's Workspace | OWNER | t | t"),
        ("7", "john-workspace-3 | John's Workspace | OWNER | t | t"),
        ("8", "nobody-workspace | Nobody's Workspace | OWNER | t | t"),
        // Skipped: she works where she worked.
        ("9", "acme-corp | Acme Corp | OWNER | f | t"),
    ]);
    assert_same(&expected, &pairs(&database, WORKSPACES).await);
    assert_eq!(
        count(&database, "select count(*) from tenantry.adopt_users where outcome = 'skipped' and legacy_id = '9'")
            .await,
        1
    );
    let owners = pairs(&database, "select b.id::text, (b.organization_id = a.organization_id)::text from legacy.bots b join tenantry.adopt_users a on a.legacy_id = b.user_id::text").await;
    assert!(owners.len() == 22 && owners.values().all(|same| same == "true"), "{owners:?}");
    assert_eq!(slugs(&database, "legacy.bots", "user_id").await["2"], "john-workspace-2");
    assert_eq!(slugs(&database, "legacy.secrets", "key").await["lost"], "–");

    // A second run changes nothing at all, and says so.
    let before = fingerprint(&database).await;
    let second = run(&database, plan("bots")).await;
    assert_eq!((second.users.processed, second.users.skipped), (0, 9));
    assert!(second.tables.iter().all(|table| table.assigned == 0), "{second:?}");
    assert_same(&before, &fingerprint(&database).await);
    let file = fixture("bots", "plan.toml");
    let file = file.to_str().expect("a path");
    let (code, text, _) = ended(tenantry(&database, &["adopt", "run", "--plan", file]).await).await;
    assert_eq!(code, 1, "there is something to look at");
    assert!(text.starts_with("users: 0 processed, 9 skipped (had an organization), 0 without\n"), "{text}");

    // The row that nobody can place is named, and it holds up the end until somebody decides.
    let findings = verify(&database, plan("bots")).await;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(
        (findings[0].subject.as_str(), findings[0].problem.as_str()),
        ("legacy.secrets lost", "bot_id is empty")
    );
    let refused = finalize(&database, keeping_access(plan("bots"))).await.expect_err("one row without");
    assert!(refused.code() == "NOT_READY" && refused.to_string().contains("1 rows have no organization"), "{refused}");
    run_sql(&mut database.owner().await, "delete from legacy.secrets where key = 'lost'").await;
    let blind = finalize(&database, plan("bots")).await.expect_err("the old application would go blind");
    assert!(blind.to_string().contains(&format!("keep_access = [\"{OLD_APP}\"]")), "{blind}");
    let done = finalize(&database, keeping_access(plan("bots"))).await.expect("finalize");
    assert!(done.len() > 10, "{done:?}");
    assert_eq!(finalize(&database, keeping_access(plan("bots"))).await.expect("again"), Vec::<String>::new());
    assert_eq!(verify(&database, plan("bots")).await, []);
    assert_eq!(
        tenantry::verify::verify(&database.db()).await.expect("verify").len(),
        0,
        "and the whole database is isolated"
    );

    reads_and_isolation_of_bots(&database).await;

    // The old application still reads and writes, and its new rows are placed.
    let mut old = database.options(OLD_APP).connect().await.expect("the old application");
    run_sql(&mut old, "insert into legacy.users (email, name) values ('new@example.org', 'Newton New'); insert into legacy.bots (user_id, name) values (currval('legacy.users_id_seq'), 'fresh')").await;
    let fresh = pairs(&database, "select b.name, o.slug || ' ' || m.role || ' ' || o.is_personal from legacy.bots b join tenantry.organizations o on o.id = b.organization_id join tenantry.organization_members m on m.organization_id = o.id where b.name = 'fresh'").await;
    assert_eq!(fresh["fresh"], "newton-workspace OWNER true");
    // After the cut-over it sees nothing any more.
    let options = FinalizeOptions { cut_over: true, ..FinalizeOptions::default() };
    adopt::finalize(&mut session(&database).await, plan("bots"), &options).await.expect("cut-over");
    let gone: i64 = sqlx::query_scalar("select count(*) from legacy.bots").fetch_one(&mut old).await.expect("nothing");
    assert_eq!(gone, 0);

    // Everything back: what is different is what the test itself wrote.
    assert_eq!(rollback(&database, plan("bots")).await, Vec::<String>::new());
    let back = fingerprint(&database).await;
    assert_eq!(
        keys_of(difference(&untouched, &back)),
        ["rows of legacy.bots", "rows of legacy.secrets", "rows of legacy.users"],
        "{:#?}",
        difference(&untouched, &back)
    );
}

/// As the API reads: John sees his own rows and nobody else's.
async fn reads_and_isolation_of_bots(database: &TestDb) {
    let bots = seen_by(
        database,
        "user_john",
        "john-workspace",
        "select name || ' of ' || user_id from legacy.bots order by id",
    )
    .await;
    assert_eq!(bots, ["bot 1 of 1", "bot 2 of 1", "bot 3 of 1"]);
    let runs =
        seen_by(database, "legacy:bots:2", "john-workspace-2", "select count(*)::text from legacy.\"Bot Runs\"").await;
    assert_eq!(runs, ["15"]);
    let alice = seen_by(database, "user_alice", "acme-corp", "select name from legacy.bots").await;
    assert_eq!(alice, ["of Alice"], "one of Tenantry's tenants sees nothing of the others either");
    assert!(enter(database, "user_john", "john-workspace-2").await.is_err(), "not his");
    let mut tx = enter(database, "user_john", "john-workspace").await.expect("his");
    for statement in
        ["update legacy.bots set name = 'stolen' where user_id = 2", "delete from legacy.bots where user_id = 2"]
    {
        let touched = sqlx::query(statement).execute(tx.conn()).await.expect("no rows");
        assert_eq!(touched.rows_affected(), 0, "{statement}");
    }
    let added = sqlx::query(
        "insert into legacy.bots (user_id, name, organization_id) values (1, 'made by the API', tenantry.current_org())",
    );
    assert_eq!(added.execute(tx.conn()).await.expect("his own, with a serial key").rows_affected(), 1);
    let other = other_organization(database).await;
    let smuggled = format!("insert into legacy.bots (user_id, name, organization_id) values (2, 'x', '{other}')");
    let refused = sqlx::query(sqlx::AssertSqlSafe(smuggled)).execute(tx.conn()).await.expect_err("another tenant's");
    assert!(refused.to_string().contains("row-level security"), "{refused}");
    drop(tx);
    // A row cannot point into another tenant: the foreign key carries the organization.
    let mut tx = enter(database, "user_john", "john-workspace").await.expect("his");
    let crossing = sqlx::query("insert into legacy.\"Bot Runs\" values (4, 99, 'x', tenantry.current_org())")
        .execute(tx.conn())
        .await;
    assert!(crossing.expect_err("bot 4 is of another").to_string().contains("foreign key"));
    drop(tx);
    let mut app = database.app().await;
    let blind: i64 =
        sqlx::query_scalar("select count(*) from legacy.bots").fetch_one(&mut app).await.expect("no tenant");
    assert_eq!(blind, 0);
}

async fn other_organization(database: &TestDb) -> String {
    pairs(database, "select slug, id::text from tenantry.organizations where slug = 'john-workspace-2'").await["john-workspace-2"].clone()
}

/// Workspace, membership and bots of a user come together or not at all.
#[tokio::test]
async fn adopt_run_makes_each_user_one_transaction() {
    let database = legacy("bots").await;
    run_sql(
        &mut database.owner().await,
        "create function legacy.refuse() returns trigger language plpgsql as $$ begin if new.user_id = 3 and new.name = 'bot 3' then raise exception 'not this one'; end if; return new; end $$;
         create trigger refuse before update on legacy.bots for each row execute function legacy.refuse()",
    )
    .await;
    let error = try_run(&database, plan("bots")).await.expect_err("refused").to_string();
    assert!(error.contains("user 3") && error.contains("not this one"), "{error}");
    // John and John are whole; of María-José there is nothing, neither bots nor workspace nor user.
    assert_eq!(
        pairs(&database, "select legacy_id, outcome from tenantry.adopt_users").await,
        map([("1", "processed"), ("2", "processed")])
    );
    let state = "select (select count(*) from legacy.bots where organization_id is not null) * 1000
                      + (select count(*) from tenantry.organizations where is_personal and slug like '%workspace%') * 100
                      + (select count(*) from tenantry.organizations where slug like 'maria%') * 10
                      + (select count(*) from tenantry.users where clerk_id = 'legacy:bots:3')";
    assert_eq!(count(&database, state).await, 6200);
    run_sql(&mut database.owner().await, "drop trigger refuse on legacy.bots").await;
    let summary = run(&database, plan("bots")).await;
    assert_eq!((summary.users.processed, summary.users.skipped), (6, 2));
}

#[tokio::test]
async fn adopt_gives_an_application_without_workspaces_a_default_one() {
    let database = legacy("workspaces").await;
    let untouched = fingerprint(&database).await;
    let forecast = dry_run(&database, plan("workspaces")).await;
    assert_same(&untouched, &fingerprint(&database).await);
    let summary = run(&database, plan("workspaces")).await;
    assert_foretold(&forecast, &summary);
    assert_eq!((summary.users.processed, summary.users.skipped, summary.users.unresolved), (3, 0, 0));
    assert_eq!(counts(&summary), [("legacy.dashboards", 3, 0), ("legacy.connections", 7, 0)]);

    // One workspace, everyone ADMIN in it, current; all rows in it.
    let id = |n: u32| format!("00000000-0000-4000-8000-00000000000{n}");
    let everyone = pairs(&database, WORKSPACES).await;
    let expected = map([
        (&id(1), "default | Default | ADMIN | f | t"),
        (&id(2), "default | Default | ADMIN | f | t"),
        (&id(3), "default | Default | ADMIN | f | t"),
    ]);
    assert_same(&expected, &everyone);
    assert_eq!(count(&database, "select count(*) from tenantry.organizations where slug like 'default%'").await, 1);
    for (table, rows) in [("legacy.dashboards", 3), ("legacy.connections", 7)] {
        let slugs = slugs(&database, table, "id").await;
        assert!(slugs.len() == rows && slugs.values().all(|slug| slug == "default"), "{slugs:?}");
    }
    let before = fingerprint(&database).await;
    assert_eq!(run(&database, plan("workspaces")).await.users.skipped, 3);
    assert_same(&before, &fingerprint(&database).await);

    // Registration afterwards gives personal workspaces.
    let mut old = database.options(OLD_APP).connect().await.expect("the old application");
    run_sql(&mut old, "insert into legacy.users (id, email, display_name) values ('00000000-0000-4000-8000-000000000004', 'dora@example.org', 'Dora');
                       insert into legacy.dashboards (id, owner_id, title) values ('00000000-0000-4000-9000-000000000004', '00000000-0000-4000-8000-000000000004', 'Dora''s')").await;
    assert_eq!(pairs(&database, WORKSPACES).await[&id(4)], "dora-workspace | Dora's Workspace | OWNER | t | t");
    assert_eq!(slugs(&database, "legacy.dashboards", "title").await["Dora's"], "dora-workspace");

    what_verify_finds(&database).await;

    let refused = finalize(&database, keeping_access(plan("workspaces"))).await.expect_err("nobody could pay");
    assert!(refused.to_string().contains("organization-without-owner default"), "{refused}");
    finalize(&database, without_owner(plan("workspaces"), "default")).await.expect("finalize");
    let titles = "select title from legacy.dashboards order by title";
    assert_eq!(
        seen_by(&database, &format!("legacy:workspaces:{}", id(1)), "default", titles).await,
        ["Costs", "Nobody's", "Sales"]
    );
    assert_eq!(seen_by(&database, &format!("legacy:workspaces:{}", id(4)), "dora-workspace", titles).await, ["Dora's"]);
    assert!(enter(&database, &format!("legacy:workspaces:{}", id(4)), "default").await.is_err(), "Dora is not in it");
    assert_eq!(seen_by(&database, "user_alice", "acme-corp", titles).await, Vec::<String>::new());

    assert_eq!(rollback(&database, plan("workspaces")).await, Vec::<String>::new());
    let back = fingerprint(&database).await;
    assert_eq!(
        keys_of(difference(&untouched, &back)),
        ["rows of legacy.dashboards", "rows of legacy.users"],
        "{:#?}",
        difference(&untouched, &back)
    );
}

/// Breaks one thing after the other, sees it found, and mends it.
async fn what_verify_finds(database: &TestDb) {
    let usual = verify(database, plan("workspaces")).await;
    assert_eq!(usual.len(), 1, "{usual:?}");
    assert_eq!((usual[0].check.as_str(), usual[0].subject.as_str()), ("organization-without-owner", "default"));
    let mut superuser = database.superuser().await;
    for (harm, check, subject, mending) in [
        (
            "alter table legacy.users disable trigger user; insert into legacy.users (id, email) values ('00000000-0000-4000-8000-000000000005', 'eve@example.org'); alter table legacy.users enable trigger user",
            "user-without-organization",
            "user 00000000-0000-4000-8000-000000000005",
            "delete from legacy.users where email = 'eve@example.org'",
        ),
        (
            "create table legacy.kept as select * from legacy.connections where id = 1; update legacy.connections set organization_id = null where id = 1",
            "orphaned-row",
            "legacy.connections 1",
            "update legacy.connections c set organization_id = k.organization_id from legacy.kept k where k.id = c.id",
        ),
        (
            "update legacy.connections set organization_id = '00000000-0000-4000-8000-000000000000' where id = 7",
            "orphaned-row",
            "legacy.connections 7",
            "update legacy.connections c set organization_id = k.organization_id from legacy.kept k where c.id = 7",
        ),
        (
            "alter table tenantry.organizations drop constraint organizations_slug_key; insert into tenantry.organizations (id, name, slug) values (gen_random_uuid(), 'Twin', 'default')",
            "duplicate-slug",
            "default",
            "delete from tenantry.organizations where name = 'Twin'; alter table tenantry.organizations add constraint organizations_slug_key unique (slug)",
        ),
        (
            "update legacy.connections set organization_id = (select id from tenantry.organizations where slug = 'dora-workspace') where id = 1",
            "cross-workspace",
            "legacy.connections 1",
            "update legacy.connections c set organization_id = k.organization_id from legacy.kept k where k.id = c.id; drop table legacy.kept",
        ),
        (
            "update tenantry.users set current_organization_id = null where email = 'ben@example.org'",
            "current-organization",
            "user 00000000-0000-4000-8000-000000000002",
            "update tenantry.users set current_organization_id = (select id from tenantry.organizations where slug = 'default') where email = 'ben@example.org'",
        ),
    ] {
        run_sql(&mut superuser, harm).await;
        let findings = verify(database, plan("workspaces")).await;
        assert!(findings.iter().any(|f| f.check == check && f.subject == subject), "{check} {subject}: {findings:?}");
        run_sql(&mut superuser, mending).await;
        assert_eq!(verify(database, plan("workspaces")).await, usual, "after {mending}");
    }
}

#[tokio::test]
async fn adopt_makes_no_default_workspace_without_users() {
    let database = legacy("workspaces").await;
    run_sql(&mut database.owner().await, "update legacy.dashboards set owner_id = null; delete from legacy.users")
        .await;
    let people = "select (select count(*) from tenantry.organizations) * 10000 + (select count(*) from tenantry.users) * 100 + (select count(*) from tenantry.organization_members)";
    let before = count(&database, people).await;
    let forecast = dry_run(&database, plan("workspaces")).await;
    let summary = run(&database, plan("workspaces")).await;
    assert_foretold(&forecast, &summary);
    assert_eq!(count(&database, people).await, before, "nothing is created");
    assert_eq!(counts(&summary), [("legacy.dashboards", 0, 3), ("legacy.connections", 0, 7)], "and rows are reported");
    // With no rows either it is simply done.
    run_sql(&mut database.owner().await, "delete from legacy.connections; delete from legacy.dashboards").await;
    assert_eq!(run(&database, plan("workspaces")).await.unresolved(), 0);
    assert_eq!(count(&database, people).await, before);
    let mut old = database.options(OLD_APP).connect().await.expect("the old application");
    run_sql(
        &mut old,
        "insert into legacy.users (id, email) values ('00000000-0000-4000-8000-000000000009', 'first@example.org')",
    )
    .await;
    let first = pairs(&database, WORKSPACES).await;
    assert_eq!(first["00000000-0000-4000-8000-000000000009"], "first-workspace | first's Workspace | OWNER | t | t");
    assert_eq!(count(&database, "select count(*) from tenantry.organizations where slug = 'default'").await, 0);
}

#[tokio::test]
async fn adopt_infers_or_reports_rewards_and_never_guesses() {
    let database = legacy("rewards").await;
    let folder = scratch(&database);
    let file = fixture("rewards", "plan.toml");
    let file = file.to_str().expect("a path");
    let untouched = fingerprint(&database).await;
    let (code, forecast, _) = ended(tenantry(&database, &["adopt", "run", "--plan", file, "--dry-run"]).await).await;
    assert_eq!(code, 0, "{forecast}");
    for line in [
        "users processed: 3",
        "users unresolved: 4",
        "conflict: its sources name different organizations",
        "time: about",
        "locks: ",
    ] {
        assert!(forecast.contains(line), "{line}: {forecast}");
    }
    assert_same(&untouched, &fingerprint(&database).await);
    let forecast = dry_run(&database, plan("rewards")).await;
    let (csv, json) = (folder.join("mapping.csv"), folder.join("mapping.json"));
    let arguments = ["adopt", "run", "--plan", file, "--batch-size", "3", "--report", csv.to_str().expect("a path")];
    let (code, text, _) = ended(tenantry(&database, &arguments).await).await;
    assert_eq!(code, 1, "there is something to look at: {text}");
    assert!(text.contains("users: 3 processed, 0 skipped (had an organization), 4 without"), "{text}");
    let summary = run(&database, plan("rewards")).await;
    assert_eq!((summary.users.processed, summary.users.skipped, summary.users.unresolved), (0, 3, 4));
    let foretold: Vec<(String, i64, i64, i64)> =
        forecast.tables.iter().map(|t| (t.table.clone(), t.assigned, t.unresolved, t.conflicts)).collect();
    let expected = [
        ("legacy.rewards", 2, 2, 0),
        ("legacy.tasks", 4, 4, 1),
        ("legacy.user_rewards", 3, 2, 1),
        ("legacy.achievements", 3, 1, 0),
    ];
    assert_eq!(foretold, expected.map(|(table, a, u, c)| (table.to_owned(), a, u, c)));

    what_was_inferred(&database).await;
    the_report(&database, file, &csv, &json).await;

    // A person decides: then it can be finalized.
    let refused = finalize(&database, keeping_access(plan("rewards"))).await.expect_err("rows without");
    assert_eq!(refused.code(), "NOT_READY");
    run_sql(
        &mut database.owner().await,
        "delete from legacy.achievements where number = 3; delete from legacy.user_rewards where id in ('d', 'e'); delete from legacy.tasks where id in (4, 7, 8); delete from legacy.rewards where id in (3, 4);
         update legacy.tasks set organization_id = (select organization_id from tenantry.adopt_organizations where legacy_id = '2') where id = 5",
    )
    .await;
    finalize(&database, without_owner(plan("rewards"), "red-2")).await.expect("finalize");
    reads_and_isolation_of_rewards(&database).await;

    let (code, text, error) = ended(tenantry(&database, &["adopt", "rollback", "--plan", file]).await).await;
    assert!(code == 2 && error.contains("BACKUP_FIRST") && error.contains("pg_dump") && text.is_empty(), "{error}");
    let (code, text, error) = ended(tenantry(&database, &["adopt", "rollback", "--plan", file, "--yes"]).await).await;
    assert_eq!(code, 0, "{text}{error}");
    let back = fingerprint(&database).await;
    let changed = ["achievements", "rewards", "tasks", "user_rewards"].map(|table| format!("rows of legacy.{table}"));
    assert_eq!(keys_of(difference(&untouched, &back)), changed, "{:#?}", difference(&untouched, &back));
    std::fs::remove_dir_all(folder).ok();
}

async fn what_was_inferred(database: &TestDb) {
    // The user's organization, else that of what the row refers to; nothing else.
    assert_eq!(
        slugs(database, "legacy.rewards", "id").await,
        map([("1", "red"), ("2", "blue"), ("3", "–"), ("4", "–")])
    );
    let tasks =
        [("1", "red"), ("2", "blue"), ("3", "blue"), ("4", "–"), ("5", "–"), ("6", "red"), ("7", "–"), ("8", "–")];
    assert_eq!(slugs(database, "legacy.tasks", "id").await, map(tasks));
    assert_eq!(
        slugs(database, "legacy.user_rewards", "id").await,
        map([("a", "red"), ("b", "blue"), ("c", "red"), ("d", "–"), ("e", "–")])
    );
    assert_eq!(
        slugs(database, "legacy.achievements", "number").await,
        map([("1", "red"), ("2", "blue"), ("3", "–"), ("4", "blue")])
    );
    let reasons = pairs(database, "select table_name || ' ' || key, reason from tenantry.adopt_unresolved union all select 'user ' || legacy_id, reason from tenantry.adopt_users where organization_id is null").await;
    let conflict = "conflict: its sources name different organizations";
    let left_alone = "has no organization, and the plan leaves such users alone";
    let expected = map([
        ("user 4", "conflict: its current and its primary organization differ"),
        ("user 5", "is a member of several organizations, and none is primary"),
        ("user 6", left_alone),
        ("user 7", "is not a member of its current organization"),
        ("legacy.rewards 3", "created_by is empty"),
        ("legacy.rewards 4", &format!("user 6 {left_alone}")),
        ("legacy.tasks 4", conflict),
        ("legacy.tasks 5", "user 4 conflict: its current and its primary organization differ; reward_id is empty"),
        ("legacy.tasks 7", "user_id is empty; reward_id is empty"),
        ("legacy.tasks 8", &format!("user 6 {left_alone}; legacy.rewards 3 has no organization itself")),
        ("legacy.user_rewards d", conflict),
        ("legacy.user_rewards e", &format!("user 6 {left_alone}; legacy.rewards 4 has no organization itself")),
        ("legacy.achievements 3", &format!("user 6 {left_alone}; legacy.tasks 8 has no organization itself")),
    ]);
    assert_same(&expected, &reasons);
    let detail = pairs(
        database,
        "select key, detail::text from tenantry.adopt_unresolved where table_name = 'legacy.tasks' and key = '4'",
    )
    .await;
    let detail = parse(&detail["4"]);
    assert!(
        detail[0]["source"] == "user of user_id" && detail[1]["source"] == "legacy.rewards by reward_id",
        "{detail}"
    );
    assert_ne!(detail[0]["organization"], detail[1]["organization"], "what each source says");

    // Organizations, memberships and roles came along; those of Torn and Many too, though their rows wait.
    let members = pairs(database, "select a.legacy_id || ' ' || o.slug, m.role::text from tenantry.adopt_users a join tenantry.organization_members m on m.user_id = a.user_id join tenantry.organizations o on o.id = m.organization_id").await;
    let expected = map([
        ("1 red", "OWNER"),
        ("2 blue", "OWNER"),
        ("3 red", "MEMBER"),
        ("3 blue", "ADMIN"),
        ("4 red", "MEMBER"),
        ("4 blue", "MEMBER"),
        ("5 red", "MEMBER"),
        ("5 blue", "MEMBER"),
        ("7 blue", "MEMBER"),
    ]);
    assert_same(&expected, &members);
    assert_eq!(
        pairs(
            database,
            "select legacy_id, slug from tenantry.adopt_organizations a join tenantry.organizations o on o.id = a.organization_id"
        )
        .await,
        map([("1", "red"), ("2", "blue"), ("3", "red-2")])
    );
}

async fn reads_and_isolation_of_rewards(database: &TestDb) {
    let titles = "select title from legacy.tasks order by id";
    assert_eq!(
        seen_by(database, "legacy:rewards:1", "red", titles).await,
        ["from the user and the reward", "Many is unknown, the mug is Red"]
    );
    assert_eq!(
        seen_by(database, "legacy:rewards:2", "blue", titles).await,
        ["from the reward", "from the user", "Torn: current and primary differ"]
    );
    assert_eq!(
        seen_by(database, "legacy:rewards:3", "red", titles).await.len(),
        2,
        "Both sees what the organization is, not what is Both's"
    );
    assert!(enter(database, "legacy:rewards:1", "blue").await.is_err(), "Rita is not in Blue");
    for table in ["rewards", "user_rewards", "achievements"] {
        let sql = format!("select count(*)::text from legacy.{table}");
        let (red, blue) = (
            seen_by(database, "legacy:rewards:1", "red", &sql).await,
            seen_by(database, "legacy:rewards:2", "blue", &sql).await,
        );
        let all = count(database, &format!("select count(*) from legacy.{table}")).await;
        assert_eq!(
            red[0].parse::<i64>().expect("a number") + blue[0].parse::<i64>().expect("a number"),
            all,
            "{table}"
        );
        assert!(red != ["0"] && blue != ["0"], "{table}");
    }
}

async fn the_report(database: &TestDb, file: &str, csv: &std::path::Path, json: &std::path::Path) {
    let lines = std::fs::read_to_string(csv).expect("the report");
    assert!(
        lines.starts_with("table,key,organization_before,organization_after,slug,status,source,reason\n"),
        "{lines}"
    );
    // 3 organizations, 7 users, 4 + 8 + 5 + 4 rows.
    assert_eq!(lines.lines().count(), 1 + 3 + 7 + 21, "{lines}");
    assert!(
        lines
            .lines()
            .any(|line| line.starts_with("legacy.tasks,6,,")
                && line.contains(",red,assigned,legacy.rewards by reward_id,")),
        "{lines}"
    );
    assert!(
        lines
            .lines()
            .any(|line| line == "legacy.tasks,4,,,,unresolved,,conflict: its sources name different organizations"),
        "{lines}"
    );
    let arguments = ["adopt", "verify", "--plan", file, "--json", "--report", json.to_str().expect("a path")];
    let (code, findings, _) = ended(tenantry(database, &arguments).await).await;
    assert_eq!(code, 1);
    let findings = parse(&findings);
    let found = |check: &str, subject: &str| {
        findings.as_array().expect("a list").iter().any(|f| f["check"] == check && f["subject"] == subject)
    };
    for (check, subject) in [
        ("user-without-organization", "user 6"),
        ("orphaned-row", "legacy.tasks 4"),
        ("duplicate-slug", "red"),
        ("orphaned-row", "legacy.achievements 3"),
    ] {
        assert!(found(check, subject), "{check} {subject}: {findings:#}");
    }
    let report = parse(&std::fs::read_to_string(json).expect("the report"));
    let report = report.as_array().expect("a list");
    assert_eq!(report.len(), 31);
    assert!(
        report.iter().any(|line| line["table_name"] == "legacy.user_rewards"
            && line["key"] == "c"
            && line["slug"] == "red"
            && line["source"] == "legacy.rewards by reward_id"),
        "{report:?}"
    );
}

/// What `adopt plan` writes is a plan, and finds what the fixtures' plans say by hand.
#[tokio::test]
async fn adopt_plan_is_written_from_the_catalogue() {
    for situation in ["bots", "workspaces", "rewards"] {
        let database = legacy(situation).await;
        let before = fingerprint(&database).await;
        let file = scratch(&database).join("plan.toml");
        let path = file.to_str().expect("a path");
        let arguments = ["adopt", "plan", "--schema", "legacy", "--name", situation, "--output", path];
        let (code, text, error) = ended(tenantry(&database, &arguments).await).await;
        assert_eq!(code, 0, "{error}");
        assert!(text.contains("questions"), "{text}");
        assert_same(&before, &fingerprint(&database).await);
        let (code, _, error) = ended(tenantry(&database, &arguments).await).await;
        assert!(code == 1 && error.contains("FILE"), "never over a file that is there: {error}");

        let written = std::fs::read_to_string(&file).expect("the plan");
        let suggested = Plan::parse(&written).unwrap_or_else(|error| panic!("{error}\n{written}"));
        let by_hand = plan(situation);
        let sources = |plan: &Plan| -> BTreeSet<(String, Vec<String>)> {
            let of = |sources: &[Source]| {
                sources.iter().filter(|s| !matches!(s, Source::Workspace { .. })).map(ToString::to_string).collect()
            };
            plan.tables.iter().map(|table| (table.table.to_string(), of(&table.organization))).collect()
        };
        assert_eq!(sources(&suggested), sources(&by_hand), "{written}");
        assert_eq!(
            (&suggested.users.table, &suggested.users.id, &suggested.users.email, &suggested.users.name),
            (&by_hand.users.table, &by_hand.users.id, &by_hand.users.email, &by_hand.users.name)
        );
        assert_eq!(suggested.users.current_organization, by_hand.users.current_organization);
        assert_eq!(
            suggested.memberships.map(|m| (m.user, m.organization, m.primary)),
            by_hand.memberships.map(|m| (m.user, m.organization, m.primary))
        );
        assert!(written.contains(&format!("# keep_access = [\"{OLD_APP}\"]")), "{written}");
        assert!(written.contains("# ? Users without an organization"), "what it cannot know: {written}");
        // And it runs as it is.
        let (code, _, error) = ended(tenantry(&database, &["adopt", "run", "--dry-run", "--plan", path]).await).await;
        assert_eq!(code, 0, "{error}");
        std::fs::remove_dir_all(scratch(&database)).ok();
    }
}
