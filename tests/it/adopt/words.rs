//! Words of the plan that some databases need: sources with a condition, trees, keys that stay plain, what comes back, and types
//! whose equality is not that of their texts.

use tenantry::adopt::Plan;

use super::shapes::shape;
use super::{
    OLD_APP, assert_foretold, dry_run, finalize, keeping_access, pairs, rollback, run, run_sql, slugs, verify,
};
use crate::support::TestDb;

fn plan(text: &str) -> Plan {
    Plan::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

async fn old_application(database: &TestDb) -> sqlx::PgConnection {
    sqlx::ConnectOptions::connect(&database.options(OLD_APP)).await.expect("the old application")
}

/// Ann is in Acme, Bob in Bolt.
const TEAMS: &str = "create table legacy.users (id serial primary key, email text, name text, deleted_at timestamptz);
    create table legacy.teams (id serial primary key, name text not null, closed boolean not null default false);
    create table legacy.members (team_id int not null references legacy.teams on delete cascade, user_id int not null references legacy.users on delete cascade, role text not null, primary key (team_id, user_id));
    insert into legacy.users (email, name) values ('ann@x.test', 'Ann'), ('bob@x.test', 'Bob');
    insert into legacy.teams (name) values ('Acme'), ('Bolt');
    insert into legacy.members values (1, 1, 'owner'), (2, 2, 'owner');";
const PLAN: &str = "name = 'words'
    [users]
    table = 'legacy.users'
    email = 'email'
    name = 'name'
    where = 'deleted_at is null'
    [organizations]
    table = 'legacy.teams'
    where = 'not closed'
    [memberships]
    table = 'legacy.members'
    user = 'user_id'
    organization = 'team_id'
    role = 'role'
    roles = { owner = 'OWNER' }
    [workspaces]
    users_without = 'personal'";

#[tokio::test]
async fn adopt_follows_references_to_several_tables_by_their_type() {
    let database = shape(&format!(
        "{TEAMS}
         create table legacy.projects (id int primary key, team_id int not null references legacy.teams);
         create table legacy.files (id serial primary key, owner_type text not null, owner_id int not null, name text);
         insert into legacy.projects values (1, 2), (2, 1);
         insert into legacy.files (owner_type, owner_id, name) values
           ('User', 1, 'of Ann'), ('Team', 2, 'of Bolt'), ('Project', 2, 'of a project of Acme'), ('Project', 1, 'of a project of Bolt'), ('Robot', 1, 'of nobody');"
    ))
    .await;
    let plan = keeping_access(plan(&format!(
        "{PLAN}
         [[tables]]
         table = 'legacy.projects'
         organization = [{{ column = 'team_id' }}]
         [[tables]]
         table = 'legacy.files'
         organization = [
           {{ user = 'owner_id', where = \"owner_type = 'User'\" }},
           {{ column = 'owner_id', where = \"owner_type = 'Team'\" }},
           {{ row = 'legacy.projects', by = 'owner_id', where = \"owner_type = 'Project'\" }},
         ]"
    )));
    let forecast = dry_run(&database, plan.clone()).await;
    assert_foretold(&forecast, &run(&database, plan.clone()).await);
    let expected = super::map([
        ("of Ann", "acme"),
        ("of Bolt", "bolt"),
        ("of a project of Acme", "acme"),
        ("of a project of Bolt", "bolt"),
        ("of nobody", "–"),
    ]);
    super::assert_same(&expected, &slugs(&database, "legacy.files", "name").await);
    let found = verify(&database, plan.clone()).await;
    assert!(found.len() == 1 && found[0].problem.contains("owner_id counts where owner_type = 'User'"), "{found:?}");

    // Live: a new file, and one that is handed from a project of Bolt to Ann without its id being touched.
    let mut old = old_application(&database).await;
    run_sql(&mut old, "insert into legacy.files (owner_type, owner_id, name) values ('Project', 1, 'live'); update legacy.files set owner_type = 'User' where name = 'of a project of Bolt'; delete from legacy.files where owner_type = 'Robot'").await;
    let now = slugs(&database, "legacy.files", "name").await;
    assert_eq!((now["live"].as_str(), now["of a project of Bolt"].as_str()), ("bolt", "acme"));
    assert_eq!(verify(&database, plan.clone()).await, []);
    finalize(&database, plan.clone()).await.expect("finalize");
    run_sql(&mut old, "insert into legacy.files (owner_type, owner_id, name) values ('Team', 2, 'later')").await;
    assert_eq!(slugs(&database, "legacy.files", "name").await["later"], "bolt");

    let wrong = format!(
        "{PLAN}\n[[tables]]\ntable = 'legacy.files'\norganization = [{{ user = 'owner_id', where = 'owner_typ = 1' }}]"
    );
    let refused = super::try_run(&database, self::plan(&wrong)).await.expect_err("no such column").to_string();
    assert!(
        refused.contains("legacy.files: user of owner_id: where: column \"owner_typ\" does not exist"),
        "{refused}"
    );
}

#[tokio::test]
async fn adopt_fills_trees_from_their_roots() {
    // Each folder's parent has a greater key, so that every batch meets the children first.
    let database = shape(&format!(
        "{TEAMS}
         create table legacy.folders (id int primary key, parent_id int references legacy.folders, team_id int references legacy.teams);
         insert into legacy.folders (id, team_id) values (100, 1), (200, 2), (300, null);
         insert into legacy.folders (id, parent_id) select n, case when n % 20 = 19 then 100 * (1 + n / 20 % 3) else n + 1 end from generate_series(59, 0, -1) n;"
    ))
    .await;
    let plan = keeping_access(plan(&format!(
        "{PLAN}
         [[tables]]
         table = 'legacy.folders'
         organization = [{{ column = 'team_id' }}, {{ row = 'legacy.folders', by = 'parent_id' }}]"
    )));
    let forecast = dry_run(&database, plan.clone()).await;
    let summary = run(&database, plan.clone()).await;
    assert_foretold(&forecast, &summary);
    assert_eq!(super::counts(&summary), [("legacy.folders", 42, 21)], "those below the folder that is nobody's");
    let given = slugs(&database, "legacy.folders", "id").await;
    for (id, slug) in [("0", "acme"), ("19", "acme"), ("20", "bolt"), ("39", "bolt"), ("40", "–"), ("300", "–")] {
        assert_eq!(given[id], slug, "{id}");
    }
    let mut old = old_application(&database).await;
    run_sql(&mut old, "insert into legacy.folders values (401, 0, null), (402, 401, null); delete from legacy.folders where id between 40 and 59 or id = 300").await;
    assert_eq!(slugs(&database, "legacy.folders", "id").await["402"], "acme");
    assert_eq!(verify(&database, plan.clone()).await, []);
    finalize(&database, plan).await.expect("finalize");
}

#[tokio::test]
async fn adopt_leaves_keys_plain_that_lead_to_others() {
    let database = shape(&format!(
        "{TEAMS}
         create table legacy.posts (id int primary key, team_id int not null references legacy.teams);
         create table legacy.likes (id serial primary key, user_id int not null references legacy.users, post_id int not null references legacy.posts on delete cascade);
         insert into legacy.posts values (1, 1), (2, 2);
         insert into legacy.likes (user_id, post_id) values (1, 1), (1, 2), (2, 1);"
    ))
    .await;
    let before = super::fingerprint(&database).await;
    let text = format!(
        "{PLAN}
         [[tables]]
         table = 'legacy.posts'
         organization = [{{ column = 'team_id' }}]
         [[tables]]
         table = 'legacy.likes'
         organization = [{{ user = 'user_id' }}]"
    );
    let strict = keeping_access(plan(&text));
    run(&database, strict.clone()).await;
    let refused = finalize(&database, strict).await.expect_err("likes across teams").to_string();
    assert!(refused.contains("cross-workspace legacy.likes 2"), "{refused}");
    assert!(
        refused.contains("plain = [\\\"post_id\\\"]") || refused.contains("plain = [\"post_id\"]"),
        "the way out is named: {refused}"
    );

    let plain = keeping_access(plan(&format!("{text}\nplain = ['post_id']")));
    finalize(&database, plain.clone()).await.expect("finalize");
    assert_eq!(verify(&database, plain.clone()).await, []);
    let key = "select conname::text, pg_get_constraintdef(oid) from pg_constraint where conname = 'likes_post_id_fkey'";
    assert!(pairs(&database, key).await["likes_post_id_fkey"].ends_with("ON DELETE CASCADE"));
    // Each sees the likes of their own.
    let mut old = old_application(&database).await;
    run_sql(&mut old, "insert into legacy.likes (user_id, post_id) values (2, 1)").await;
    assert_eq!(rollback(&database, plain).await, Vec::<String>::new());
    run_sql(&mut old, "delete from legacy.likes where id = 4").await;
    let mut after = super::fingerprint(&database).await;
    // The number that was used is used.
    after.insert("rows of legacy.likes_id_seq".to_owned(), String::new());
    after.retain(|key, _| before.contains_key(key));
    super::assert_same(&before, &after);

    for (word, problem) in [("['nothing']", "no foreign key"), ("['user_id']", "")] {
        let text = format!("{text}\nplain = {word}");
        let tried = super::try_run(&database, plan(&text)).await;
        match problem {
            "" => drop(tried.expect("users are nobody's, so a key to them is plain anyway")),
            problem => assert!(tried.expect_err(word).to_string().contains(problem)),
        }
    }
}

const STATE: &str = "select o.name || ' ' || u.name, concat_ws(' ', m.role::text, case when m.deleted_at is not null then 'ended' end, case when o.deleted_at is not null then 'closed' end, case when u.deleted_at is not null then 'gone' end)
     from tenantry.organization_members m join tenantry.organizations o on o.id = m.organization_id join tenantry.users u on u.id = m.user_id
    where exists (select from tenantry.adopt_created c where c.organization_id = o.id and c.user_id = u.id)";

#[tokio::test]
async fn adopt_opens_again_what_the_old_application_opens_again() {
    let database = shape(&format!(
        "{TEAMS}
         insert into legacy.users (email, name) values ('eve@x.test', 'Eve');
         create table legacy.notes (id serial primary key, user_id int not null references legacy.users, body text);
         insert into legacy.notes (user_id, body) values (1, 'of Ann'), (3, 'of Eve');"
    ))
    .await;
    let plan = keeping_access(plan(&format!(
        "{PLAN}\n[[tables]]\ntable = 'legacy.notes'\norganization = [{{ user = 'user_id' }}]"
    )));
    run(&database, plan.clone()).await;
    let open = super::map([("Acme Ann", "OWNER"), ("Bolt Bob", "OWNER"), ("Eve's Workspace Eve", "OWNER")]);
    super::assert_same(&open, &pairs(&database, STATE).await);

    let mut old = old_application(&database).await;
    let close = "update legacy.teams set closed = true where id = 2; update legacy.users set deleted_at = now() where id in (1, 3)";
    let reopen = "update legacy.teams set closed = false where id = 2; update legacy.users set deleted_at = null where id in (1, 3)";
    let closed = super::map([
        ("Acme Ann", "OWNER ended gone"),
        ("Bolt Bob", "OWNER closed"),
        ("Eve's Workspace Eve", "OWNER ended closed gone"),
    ]);
    run_sql(&mut old, close).await;
    super::assert_same(&closed, &pairs(&database, STATE).await);
    run_sql(&mut old, reopen).await;
    super::assert_same(&open, &pairs(&database, STATE).await);
    assert_eq!(verify(&database, plan.clone()).await, []);
    run_sql(&mut old, "insert into legacy.notes (user_id, body) values (3, 'again')").await;
    assert_eq!(slugs(&database, "legacy.notes", "body").await["again"], "eve-workspace");

    // Where no trigger looked, the next run does it.
    let mut superuser = database.superuser().await;
    run_sql(&mut superuser, &format!("set session_replication_role = replica; {close}")).await;
    run(&database, plan.clone()).await;
    super::assert_same(&closed, &pairs(&database, STATE).await);
    run_sql(&mut superuser, reopen).await;
    run(&database, plan.clone()).await;
    super::assert_same(&open, &pairs(&database, STATE).await);
    assert_eq!(verify(&database, plan.clone()).await, []);

    // Also where somebody has come to have two workspaces of their own.
    run_sql(
        &mut superuser,
        "set session_replication_role = origin;
         select tenantry.adopt_create_membership('words', tenantry.adopt_create_organization('words', gen_random_uuid(), 'Second', 'second', true), a.user_id, 'OWNER', gen_random_uuid())
           from tenantry.adopt_users a where a.legacy_id = '3'",
    )
    .await;
    run_sql(&mut old, close).await;
    run_sql(&mut old, reopen).await;
    let two = pairs(&database, STATE).await;
    assert_eq!((two["Eve's Workspace Eve"].as_str(), two["Second Eve"].as_str()), ("OWNER", "OWNER"));

    // What Tenantry's own people closed stays closed, and whom the identity provider deleted stays deleted.
    run_sql(&mut superuser, "set session_replication_role = origin; update tenantry.organizations set deleted_at = now() where slug = 'bolt';
        insert into tenantry.sync_objects (source, kind, object_id, deleted_at) select 'CLERK', 'user', clerk_id, now() from tenantry.users where clerk_id = 'legacy:words:3'").await;
    run_sql(&mut old, close).await;
    run_sql(&mut old, reopen).await;
    let now = pairs(&database, STATE).await;
    assert_eq!((now["Acme Ann"].as_str(), now["Bolt Bob"].as_str()), ("OWNER", "OWNER closed"));
    assert!(now["Eve's Workspace Eve"].ends_with("gone"), "{now:?}");
}

#[tokio::test]
async fn adopt_compares_as_foreign_keys_do() {
    let sql =
        "create collation legacy.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         create domain legacy.code as text check (value <> '');
         create table legacy.users (login text collate legacy.loose primary key, email text collate \"C\" not null unique, name text);
         create table legacy.teams (code legacy.code collate legacy.loose primary key, name text not null);
         create table legacy.members (login text collate \"POSIX\" not null references legacy.users, team text not null references legacy.teams, primary key (login, team));
         create table legacy.projects (name text collate legacy.loose primary key, team legacy.code not null references legacy.teams);
         create table legacy.notes (id int primary key, login text collate \"C\" not null references legacy.users, reader text collate \"POSIX\" references legacy.users (email), body text);
         create table legacy.mails (id int primary key, email text collate \"POSIX\" not null references legacy.users (email), project_id text collate \"C\", body text);
         create table legacy.tasks (id int primary key, project text collate \"C\" not null references legacy.projects, body text);
         insert into legacy.users values ('ann', 'ann@x.test', 'Ann'), ('bob', 'bob@x.test', 'Bob');
         insert into legacy.teams values ('acme', 'Acme'), ('bolt', 'Bolt');
         insert into legacy.members values ('ann', 'ACME'), ('BOB', 'bolt');
         insert into legacy.projects values ('one', 'ACME'), ('two', 'bolt');
         insert into legacy.notes values (1, 'ANN', 'ann@x.test', 'of Ann'), (2, 'bob', null, 'of Bob');
         insert into legacy.mails values (1, 'ann@x.test', 'ONE', 'of Ann'), (2, 'bob@x.test', null, 'of Bob');
         insert into legacy.tasks values (1, 'ONE', 'of Acme'), (2, 'two', 'of Bolt');";
    // Since 18 such a key must have the other's collation: there the columns refer without one.
    let version: i32 = sqlx::query_scalar("select current_setting('server_version_num')::int")
        .fetch_one(&mut TestDb::seeded().await.owner().await)
        .await
        .expect("a version");
    let without = |sql: String, key: &str| sql.replace(key, &key[key.len() - 1..]);
    let keys = [
        " references legacy.users,",
        " references legacy.teams,",
        " references legacy.teams)",
        " references legacy.projects,",
    ];
    let sql =
        if version < 180_000 { sql.to_owned() } else { keys.iter().fold(sql.to_owned(), |sql, key| without(sql, key)) };
    let database = shape(&sql).await;
    let plan = keeping_access(plan(
        "name = 'words'
         accept = ['organization-without-owner acme', 'organization-without-owner bolt']
         [users]
         table = 'legacy.users'
         id = 'login'
         email = 'email'
         name = 'name'
         [organizations]
         table = 'legacy.teams'
         id = 'code'
         [memberships]
         table = 'legacy.members'
         user = 'login'
         organization = 'team'
         [workspaces]
         users_without = 'personal'
         [[tables]]
         table = 'legacy.projects'
         organization = [{ column = 'team' }]
         [[tables]]
         table = 'legacy.notes'
         organization = [{ user = 'login' }]
         [[tables]]
         table = 'legacy.mails'
         organization = [{ user = 'email', to = 'email' }]
         [[tables]]
         table = 'legacy.tasks'
         organization = [{ row = 'legacy.projects', by = 'project' }]",
    ));
    let (_, text) = super::shapes::suggested(&database).await;
    assert!(text.contains("`project_id` refers to legacy.projects by its name: all 1 values are found"), "{text}");
    let forecast = dry_run(&database, plan.clone()).await;
    assert_foretold(&forecast, &run(&database, plan.clone()).await);
    assert_eq!(slugs(&database, "legacy.notes", "body").await, super::map([("of Ann", "acme"), ("of Bob", "bolt")]));
    assert_eq!(slugs(&database, "legacy.mails", "body").await, super::map([("of Ann", "acme"), ("of Bob", "bolt")]));
    assert_eq!(slugs(&database, "legacy.tasks", "body").await, super::map([("of Acme", "acme"), ("of Bolt", "bolt")]));
    let mut old = old_application(&database).await;
    run_sql(
        &mut old,
        "insert into legacy.notes values (3, 'BoB', null, 'live'); insert into legacy.tasks values (3, 'TWO', 'live')",
    )
    .await;
    assert_eq!(slugs(&database, "legacy.notes", "body").await["live"], "bolt");
    assert_eq!(slugs(&database, "legacy.tasks", "body").await["live"], "bolt");
    // Members are who they are in any letters, also live.
    run_sql(&mut old, "insert into legacy.users values ('eve', 'eve@x.test', 'Eve'); insert into legacy.members values ('Eve', 'AcMe')").await;
    let members = "select u.name, o.slug from tenantry.organization_members m join tenantry.users u on u.id = m.user_id join tenantry.organizations o on o.id = m.organization_id
                    where exists (select from tenantry.adopt_created c where c.user_id = u.id and c.organization_id = o.id)";
    assert_eq!(pairs(&database, members).await, super::map([("Ann", "acme"), ("Bob", "bolt"), ("Eve", "acme")]));
    assert_eq!(verify(&database, plan.clone()).await, []);
    finalize(&database, plan.clone()).await.expect("finalize");
    assert_eq!(verify(&database, plan).await, []);
}

#[tokio::test]
async fn adopt_gives_no_row_to_the_tenant_that_it_just_left() {
    let database = shape(&format!(
        "{TEAMS}
         create table legacy.notes (id int primary key, user_id int not null references legacy.users, body text);
         insert into legacy.notes select n, 1, 'note ' || n from generate_series(1, 5) n;"
    ))
    .await;
    let plan = keeping_access(plan(&format!(
        "{PLAN}\n[[tables]]\ntable = 'legacy.notes'\norganization = [{{ user = 'user_id' }}]"
    )));
    // What makes the columns and the triggers, and assigns everything; then as if nothing had been.
    run(&database, plan.clone()).await;
    let mut superuser = database.superuser().await;
    run_sql(&mut superuser, "set session_replication_role = replica; update legacy.notes set organization_id = null; delete from tenantry.adopt_batches").await;

    // A note is given to Bob, by somebody who bypasses the triggers, while a batch that saw it with Ann waits for it.
    run_sql(&mut superuser, "begin; update legacy.notes set user_id = 2 where id = 3").await;
    let mut session = super::session(&database).await;
    let waits = "select count(*) from pg_stat_activity where application_name = 'tenantry-adopt' and wait_event_type = 'Lock' and datname = current_database()";
    let commit = async {
        while super::count(&database, waits).await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        run_sql(&mut superuser, "commit").await;
    };
    let options = super::small();
    let adopting = tenantry::adopt::run(&mut session, plan.clone(), &options, &tenantry::clock::Clock::System);
    let (summary, ()) = futures_util::future::join(adopting, commit).await;
    assert_eq!(super::counts(&summary.expect("a run")), [("legacy.notes", 5, 0)]);
    let given = slugs(&database, "legacy.notes", "id").await;
    assert_eq!((given["3"].as_str(), given["2"].as_str()), ("bolt", "acme"), "{given:?}");

    session.close().await;

    // Somebody who keeps a row for long does not keep the others.
    run_sql(&mut superuser, "update legacy.notes set organization_id = null").await;
    run_sql(&mut superuser, "begin; select from legacy.notes where id = 1 for update").await;
    let others = "select count(*) from legacy.notes where organization_id is null";
    let let_go = async {
        while super::count(&database, others).await > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        run_sql(&mut superuser, "rollback").await;
    };
    let mut session = super::session(&database).await;
    let adopting = tenantry::adopt::run(&mut session, plan, &options, &tenantry::clock::Clock::System);
    let (summary, ()) = futures_util::future::join(adopting, let_go).await;
    assert_eq!(super::counts(&summary.expect("a run")), [("legacy.notes", 5, 0)]);
}

#[tokio::test]
async fn adopt_tries_before_it_does() {
    let database = shape(&format!(
        "{TEAMS}
         create table legacy.notes (id int primary key, user_id int not null references legacy.users, body text);
         create table legacy.frozen (id int primary key, user_id int not null references legacy.users);
         create function legacy.no_change() returns trigger language plpgsql as 'begin return null; end';
         create trigger no_change before update on legacy.frozen for each row execute function legacy.no_change();
         create view legacy.all_notes as select * from legacy.notes;
         insert into legacy.notes values (1, 1, 'of Ann'); insert into legacy.frozen values (1, 2);
         grant select on legacy.all_notes to public;"
    ))
    .await;
    // As providers of databases have them.
    let mut superuser = database.superuser().await;
    run_sql(
        &mut superuser,
        "create function public.no_policies() returns event_trigger language plpgsql as $$ begin
             if exists (select from pg_event_trigger_ddl_commands() where object_identity like '%legacy.notes%') then raise exception 'policies are made in the console'; end if; end $$;
         create event trigger no_policies on ddl_command_end when tag in ('CREATE POLICY') execute function public.no_policies()",
    )
    .await;
    let before = super::fingerprint(&database).await;
    let text = format!(
        "{PLAN}\n[[tables]]\ntable = 'legacy.notes'\norganization = [{{ user = 'user_id' }}]\n[[tables]]\ntable = 'legacy.frozen'\norganization = [{{ user = 'user_id' }}]"
    );
    let forecast = dry_run(&database, plan(&text)).await;
    let notes = forecast.notes.join("\n");
    for word in [
        "REFUSED: legacy.frozen: a row does not take its organization",
        "BEFORE FINALIZE: legacy.notes: row-level security: policies are made in the console",
        "BEFORE FINALIZE: legacy.notes: row-level security would hide all rows from test_old_application",
        "BEFORE FINALIZE: view legacy.all_notes: shows rows",
    ] {
        assert!(notes.contains(word), "{word}: {notes}");
    }
    let refused = super::try_run(&database, plan(&text)).await.expect_err("a frozen table");
    assert!(refused.code() == "NOT_READY" && refused.to_string().contains("quiet_triggers = true"), "{refused}");
    super::assert_same(&before, &super::fingerprint(&database).await);

    // What others hold is not waited for.
    run_sql(&mut superuser, "drop trigger no_change on legacy.frozen").await;
    run_sql(&mut superuser, "begin; lock table legacy.notes in share mode").await;
    let held = dry_run(&database, plan(&text)).await.notes.join("\n");
    assert!(held.contains("not tried, because others held it: legacy.notes"), "{held}");
    run_sql(&mut superuser, "rollback; drop event trigger no_policies").await;
    let notes = dry_run(&database, keeping_access(plan(&text))).await.notes.join("\n");
    assert!(
        !notes.contains("REFUSED") && notes.matches("BEFORE FINALIZE").count() == 1,
        "only the view is left: {notes}"
    );
}

#[tokio::test]
async fn adopt_plan_finds_types_trees_and_people_of_several_organizations() {
    let database = shape(&format!(
        "{TEAMS}
         insert into legacy.members values (2, 1, 'hand');
         alter table legacy.users add current_team_id int references legacy.teams;
         update legacy.users set current_team_id = id;
         create table legacy.projects (id int primary key, team_id int not null references legacy.teams);
         create table legacy.comments (id serial primary key, user_id int not null references legacy.users, project_id int references legacy.projects, body text);
         create table legacy.attachments (id serial primary key, attachable_type text not null, attachable_id int not null, name text);
         create table legacy.versions (id serial primary key, item_type text not null, item_id text not null, name text);
         create table legacy.folders (id int primary key, team_id int references legacy.teams, parent_id int);
         insert into legacy.projects values (1, 1), (2, 2);
         insert into legacy.versions (item_type, item_id, name) values ('Project', '2', 'of Bolt'), ('User', '1', 'of Ann'), ('Setting', 'logo', 'of nobody');
         insert into legacy.comments (user_id, project_id, body) values (1, 2, 'Ann in Bolt'), (1, null, 'Ann at home'), (2, 2, 'Bob');
         insert into legacy.attachments (attachable_type, attachable_id, name) values ('Project', 2, 'of Bolt'), ('Team', 1, 'of Acme'), ('Crm::User', 2, 'of Bob'), ('Robot', 7, 'of nobody');
         insert into legacy.folders values (1, 1, null), (2, null, 1), (3, null, 2);"
    ))
    .await;
    let (plan, text) = super::shapes::suggested(&database).await;
    for word in [
        "# 1 of 2 users are in more than one organization",
        "organization = [{ row = \"legacy.projects\", by = \"project_id\" }, { user = \"user_id\" }]\nfirst_decides = true",
        "{ user = \"attachable_id\", where = ",
        "{ column = \"attachable_id\", where = ",
        "{ row = \"legacy.projects\", by = \"attachable_id\", where = ",
        "none that is adopted: Robot (1 rows)",
        "{ row = \"legacy.folders\", by = \"parent_id\" }",
        "# 2 rows refer to another row of this table, and to nothing else",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let plan = keeping_access(plan);
    let forecast = dry_run(&database, plan.clone()).await;
    assert_foretold(&forecast, &run(&database, plan).await);
    assert_eq!(
        slugs(&database, "legacy.comments", "body").await,
        super::map([("Ann in Bolt", "bolt"), ("Ann at home", "acme"), ("Bob", "bolt")])
    );
    assert_eq!(
        slugs(&database, "legacy.attachments", "name").await,
        super::map([("of Bolt", "bolt"), ("of Acme", "acme"), ("of Bob", "bolt"), ("of nobody", "–")])
    );
    assert_eq!(
        slugs(&database, "legacy.folders", "id").await,
        super::map([("1", "acme"), ("2", "acme"), ("3", "acme")])
    );
    // Keys of several types in one column of texts.
    let mut old = old_application(&database).await;
    run_sql(&mut old, "insert into legacy.versions (item_type, item_id, name) values ('Project', '1', 'live'), ('Project', 'one', 'wrong'), ('Project', '99999999999999999999', 'too much')").await;
    assert_eq!(
        slugs(&database, "legacy.versions", "name").await,
        super::map([
            ("of Bolt", "bolt"),
            ("of Ann", "acme"),
            ("of nobody", "–"),
            ("live", "acme"),
            ("wrong", "–"),
            ("too much", "–")
        ])
    );
}

#[tokio::test]
async fn adopt_verify_compares_rows_with_the_keys_that_are_no_sources() {
    let database = shape(&format!(
        "{TEAMS}
         create table legacy.deals (id int primary key, team_id int not null references legacy.teams, seller_id int not null references legacy.users, partner_id int references legacy.teams);
         insert into legacy.deals values (1, 1, 1, 1), (2, 1, 2, null), (3, 2, 2, 1);"
    ))
    .await;
    let text = format!("{PLAN}\n[[tables]]\ntable = 'legacy.deals'\norganization = [{{ column = 'team_id' }}]");
    run(&database, plan(&text)).await;
    let found: Vec<(String, String)> =
        verify(&database, plan(&text)).await.into_iter().map(|finding| (finding.name(), finding.problem)).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0].0, "other-path legacy.deals.partner_id");
    assert!(found[0].1.contains("in 1 of 2 rows it is another, for example where id is 3"), "{found:?}");
    assert_eq!(found[1].0, "other-path legacy.deals.seller_id");
    assert!(
        found[1].1.contains("in 1 of 3 rows it is a user who is not a member, for example where id is 2"),
        "{found:?}"
    );
    let meant = plan(&format!("{text}\nplain = ['partner_id', 'seller_id']"));
    assert_eq!(verify(&database, meant.clone()).await, []);
    finalize(&database, keeping_access(meant)).await.expect("finalize");
}

#[tokio::test]
async fn adopt_plan_takes_answers_and_asks_what_is_left() {
    use tenantry::adopt::{self, Answers, Ask};
    let database = shape(&format!(
        "{TEAMS}
         update legacy.users set deleted_at = now() where id = 2;
         create table legacy.docs (id int primary key, author_id int not null references legacy.users, editor_id int references legacy.users, slug text not null unique);
         create table legacy.countries (code text primary key);
         create function legacy.touch() returns trigger language plpgsql as 'begin return new; end';
         create trigger touch before update on legacy.docs for each row execute function legacy.touch();"
    ))
    .await;
    let mut session = super::session(&database).await;
    let first = adopt::suggest(&mut session, "words", Some("legacy"), None, &Answers::new()).await.expect("a plan");
    let mut answers = Answers::new();
    for question in &first.questions {
        let answer: Vec<String> = match &question.ask {
            Ask::Note => continue,
            // The last one each, which is never what the plan says otherwise.
            Ask::One(choices) => vec![choices.last().expect("a choice").value.clone()],
            Ask::Some(choices) => choices.iter().map(|choice| choice.value.clone()).collect(),
            Ask::Each(of, _) => of.iter().map(|_| "ADMIN".to_owned()).collect(),
        };
        answers.insert(question.id.clone(), answer);
    }
    let asked: Vec<&str> = answers.keys().map(String::as_str).collect();
    assert_eq!(
        asked,
        [
            "keep_access",
            "roles",
            "shared",
            "triggers of legacy.docs",
            "unique_per_tenant",
            "users of legacy.docs",
            "users_without",
            "where users"
        ]
    );
    let second = adopt::suggest(&mut session, "words", Some("legacy"), None, &answers).await.expect("a plan");
    assert!(second.questions.iter().all(|question| matches!(question.ask, Ask::Note)), "{:?}", second.questions);
    let text = second.toml;
    for line in [
        "keep_access = [\"test_old_application\"]",
        "quiet_triggers = true",
        "shared = [\"legacy.countries\"]",
        "# where = \"\\\"deleted_at\\\" is null\"",
        "roles = { \"owner\" = \"ADMIN\" }",
        "users_without = \"leave\"",
        "organization = [{ user = \"editor_id\" }]",
        "unique_per_tenant = [\"slug\"]",
    ] {
        assert!(text.lines().any(|written| written == line), "{line}: {text}");
    }
    plan(&text);
}

#[tokio::test]
async fn adopt_refuses_what_row_security_hides_from_it() {
    let database = shape(&format!(
        "{TEAMS}
         create table legacy.notes (id int primary key, user_id int not null references legacy.users, body text);
         insert into legacy.notes values (1, 1, 'of Ann'), (2, 2, 'of Bob');
         alter table legacy.notes enable row level security; alter table legacy.notes force row level security;
         create policy mine on legacy.notes to test_old_application using (user_id = current_setting('app.user', true)::int);
         create policy owners on legacy.notes to current_user using (id = 1);"
    ))
    .await;
    let text = format!("{PLAN}\n[[tables]]\ntable = 'legacy.notes'\norganization = [{{ user = 'user_id' }}]");
    let dry = tenantry::adopt::dry_run(&mut super::session(&database).await, plan(&text), &super::small()).await;
    let refused = super::try_run(&database, plan(&text)).await.expect_err("half of the rows");
    assert_eq!(dry.expect_err("half of the rows").to_string(), refused.to_string());
    assert!(
        refused.to_string().contains("`alter table \"legacy\".\"notes\" no force row level security`"),
        "{refused}"
    );
    let (_, suggested) = super::shapes::suggested(&database).await;
    assert!(suggested.contains("row-level security hides rows"), "{suggested}");

    run_sql(&mut database.owner().await, "alter table legacy.notes no force row level security").await;
    let plan = keeping_access(plan(&text));
    run(&database, plan.clone()).await;
    assert_eq!(slugs(&database, "legacy.notes", "id").await, super::map([("1", "acme"), ("2", "bolt")]));
    run_sql(&mut database.owner().await, "drop policy owners on legacy.notes").await;
    finalize(&database, plan.clone()).await.expect("finalize");
    assert_eq!(verify(&database, plan.clone()).await, []);
    // A rollback ends, also where the table hides its rows again meanwhile.
    run_sql(&mut database.owner().await, "create policy narrow on legacy.notes as restrictive using (id = 1)").await;
    assert_eq!(rollback(&database, plan).await, Vec::<String>::new());
}
