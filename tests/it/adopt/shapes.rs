//! Shapes of real databases, each small: what `adopt` must make of them, or refuse.

use tenantry::adopt::{self, Plan};

use super::{OLD_APP, dry_run, run, run_sql, session, slugs, try_run, verify};
use crate::support::TestDb;

/// A database of a team: Tenantry's tables beside these, which an old application may read and write.
pub async fn shape(sql: &str) -> TestDb {
    let database = TestDb::seeded().await;
    run_sql(&mut database.owner().await, &format!("create schema legacy; {sql}")).await;
    super::let_the_old_application_in(&database).await;
    database
}

/// The plan that is suggested, and its questions.
pub async fn suggested(database: &TestDb) -> (Plan, String) {
    let suggestion =
        adopt::suggest(&mut session(database).await, "shape", Some("legacy"), None, &adopt::Answers::new()).await;
    let text = suggestion.expect("a suggestion").toml;
    let plan = Plan::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    (plan, text)
}

/// Ann is the first user, Bob the second, by keys of both kinds.
const USERS: &str = "create table legacy.users (id int primary key, staff_no int not null unique, username text not null unique, email text, name text);
    insert into legacy.users values (1, 2, 'ann', 'ann@x.test', 'Ann'), (2, 1, 'bob', 'bob@x.test', 'Bob');";

#[tokio::test]
async fn adopt_follows_a_foreign_key_to_its_own_column_of_the_users() {
    let database = shape(&format!(
        "{USERS}
         create table legacy.tasks (id serial primary key, staff_no int not null references legacy.users (staff_no), title text);
         create table legacy.notes (id serial primary key, author text not null references legacy.users (username), body text);
         insert into legacy.tasks (staff_no, title) values (2, 'of Ann'), (1, 'of Bob');
         insert into legacy.notes (author, body) values ('ann', 'of Ann'), ('bob', 'of Bob');"
    ))
    .await;
    let (plan, text) = suggested(&database).await;
    assert!(text.contains("{ user = \"staff_no\", to = \"staff_no\" }"), "{text}");
    let forecast = dry_run(&database, plan.clone()).await;
    assert!(forecast.tables.iter().all(|table| table.assigned == 2 && table.unresolved == 0), "{forecast:?}");
    run(&database, plan.clone()).await;
    for (table, column) in [("legacy.tasks", "title"), ("legacy.notes", "body")] {
        let given = slugs(&database, table, column).await;
        assert_eq!((given["of Ann"].as_str(), given["of Bob"].as_str()), ("ann-workspace", "bob-workspace"), "{table}");
    }
    assert_eq!(verify(&database, plan).await, []);
    // Live, too, also for somebody new.
    run_sql(&mut database.owner().await, "insert into legacy.users values (3, 9, 'eve', null, 'Eve'); insert into legacy.tasks (staff_no, title) values (9, 'of Eve')").await;
    assert_eq!(slugs(&database, "legacy.tasks", "title").await["of Eve"], "eve-workspace");

    // Who writes the plan by hand and forgets the column is told.
    let forgetful = text.replace(", to = \"staff_no\"", "");
    let refused = try_run(&database, Plan::parse(&forgetful).expect("a plan")).await.expect_err("the wrong column");
    assert!(refused.to_string().contains("add `to = \"staff_no\"`"), "{refused}");
}

#[tokio::test]
async fn adopt_follows_foreign_keys_to_other_columns_of_organizations() {
    let database = shape(
        "create table legacy.users (id int primary key, email text unique, name text, team text);
         create table legacy.teams (id int primary key, code text not null unique, name text not null);
         alter table legacy.users add foreign key (team) references legacy.teams (code);
         create table legacy.members (email text not null references legacy.users (email), team text not null references legacy.teams (code), primary key (email, team));
         create table legacy.docs (id int primary key, team text not null references legacy.teams (code), title text);
         alter table legacy.users alter email set not null;
         insert into legacy.teams values (1, '2', 'Acme'), (2, '1', 'Bolt');
         insert into legacy.users values (1, 'ann@x.test', 'Ann', '2'), (2, 'bob@x.test', 'Bob', '1');
         insert into legacy.members values ('ann@x.test', '2'), ('bob@x.test', '1');
         insert into legacy.docs values (1, '2', 'of Acme'), (2, '1', 'of Bolt');",
    )
    .await;
    let (plan, text) = suggested(&database).await;
    for word in [
        "current_organization_to = \"code\"",
        "user_to = \"email\"",
        "organization_to = \"code\"",
        "{ column = \"team\", to = \"code\" }",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let forecast = dry_run(&database, plan.clone()).await;
    assert!(forecast.users.iter().all(|(outcome, count)| outcome == "processed" && *count == 2), "{forecast:?}");
    run(&database, plan.clone()).await;
    let given = slugs(&database, "legacy.docs", "title").await;
    assert_eq!((given["of Acme"].as_str(), given["of Bolt"].as_str()), ("acme", "bolt"));
    let members = super::pairs(&database, "select u.name, o.slug from tenantry.organization_members m join tenantry.users u on u.id = m.user_id join tenantry.organizations o on o.id = m.organization_id").await;
    assert_eq!((members["Ann"].as_str(), members["Bob"].as_str()), ("acme", "bolt"));
}

#[tokio::test]
async fn adopt_refuses_inheritance_and_partitions_before_anything_is_written() {
    let database = shape(&format!(
        "{USERS}
         create table legacy.readings (id bigint primary key, user_id int not null references legacy.users);
         create table legacy.readings_jan (primary key (id)) inherits (legacy.readings);
         create table legacy.events (id bigint, at date, user_id int not null references legacy.users, primary key (id, at)) partition by range (at);
         create table legacy.events_2026 partition of legacy.events for values from ('2026-01-01') to ('2027-01-01');
         create table legacy.notes (id int primary key, user_id int not null references legacy.users);"
    ))
    .await;
    let (plan, text) = suggested(&database).await;
    assert_eq!(plan.tables.iter().map(|table| table.table.to_string()).collect::<Vec<_>>(), ["legacy.notes"], "{text}");
    for word in ["legacy.readings inherits", "legacy.readings_jan inherits", "legacy.events is partitioned"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!text.contains("events_2026"), "a partition is its table: {text}");
    for (table, word) in [
        ("readings", "is inherited by"),
        ("readings_jan", "inherits from"),
        ("events", "partitioned"),
        ("events_2026", "is a partition of legacy.events"),
    ] {
        let by_hand =
            format!("{text}\n[[tables]]\ntable = \"legacy.{table}\"\norganization = [{{ user = \"user_id\" }}]\n");
        let plan = Plan::parse(&by_hand).expect("a plan");
        let dry = adopt::dry_run(&mut session(&database).await, plan.clone(), &super::small()).await.expect_err(table);
        let refused = try_run(&database, plan).await.expect_err(table);
        assert!(dry.to_string().contains(word) && refused.to_string() == dry.to_string(), "{table}: {dry}");
    }
    let written = super::count(&database, "select (select count(*) from tenantry.adoptions) + (select count(*) from pg_attribute where attname = 'organization_id' and attrelid::regclass::text like 'legacy.%')").await;
    assert_eq!(written, 0);
}

const INVOICES: &str = "create table legacy.users (id int primary key, email text, name text);
    create table legacy.invoices (id int primary key, user_id int not null references legacy.users, amount numeric);
    create table legacy.countries (code text primary key, name text);
    insert into legacy.users values (1, 'ann@x.test', 'Ann'), (2, 'bob@x.test', 'Bob');
    insert into legacy.invoices values (1, 1, 10), (2, 2, 20);
    insert into legacy.countries values ('DE', 'Germany');";

#[tokio::test]
async fn adopt_finds_every_way_around_the_policies_and_finalize_waits_for_them() {
    let database = shape(&format!(
        "{INVOICES}
         create view legacy.everything as select * from legacy.invoices;
         create view legacy.deeper as select sum(amount) from legacy.everything;
         create view legacy.invoked with (security_invoker = on) as select * from legacy.invoices;
         create view legacy.private as select * from legacy.invoices;
         create view legacy.harmless as select 1 as one;
         create materialized view legacy.totals as select user_id, sum(amount) from legacy.invoices group by 1;
         create function legacy.of(p int) returns setof legacy.invoices language sql security definer as 'select * from legacy.invoices where user_id = p';
         create function legacy.any_of(p text) returns bigint language plpgsql security definer as 'declare n bigint; begin execute p into n; return n; end';
         create function legacy.own(p int) returns setof legacy.invoices language sql as 'select * from legacy.invoices';
         create function legacy.secret(p int) returns setof legacy.invoices language sql security definer as 'select * from legacy.invoices';
         revoke execute on function legacy.secret(int) from public;
         grant select on legacy.everything, legacy.deeper, legacy.invoked, legacy.totals, legacy.harmless, legacy.countries, legacy.users to public;
         create publication {name} for table legacy.invoices;",
        name = "everywhere"
    ))
    .await;
    let (plan, _) = suggested(&database).await;
    let plan = super::keeping_access(plan);
    run(&database, plan.clone()).await;
    let found = verify(&database, plan.clone()).await;
    let mut subjects: Vec<&str> = found.iter().map(|finding| finding.subject.as_str()).collect();
    subjects.sort_unstable();
    assert_eq!(
        subjects,
        [
            "function legacy.any_of(text)",
            "function legacy.of(integer)",
            "materialized view legacy.totals",
            "publication everywhere of legacy.invoices",
            "table legacy.countries",
            "table legacy.users",
            "view legacy.deeper",
            "view legacy.everything",
        ],
        "{found:#?}"
    );
    let refused = super::finalize(&database, plan.clone()).await.expect_err("open").to_string();
    assert!(subjects.iter().all(|subject| refused.contains(subject)), "{refused}");

    // Every statement that is offered closes what it is offered for.
    let mut owner = database.owner().await;
    for finding in &found {
        let statement = finding.problem.split('`').nth(1).expect("a statement");
        if !finding.subject.contains("countries") && !finding.subject.contains("publication") {
            run_sql(&mut owner, statement).await;
        }
    }
    let mut plan = plan;
    plan.shared = vec![adopt::Relation::new("legacy", "countries")];
    plan.accept = vec!["way-around publication everywhere of legacy.invoices".to_owned()];
    assert_eq!(verify(&database, plan.clone()).await, []);
    super::finalize(&database, plan.clone()).await.expect("nothing is open");
    assert_eq!(verify(&database, plan.clone()).await, []);
    let subject = "legacy:shape:1";
    let seen = |sql: &'static str| super::seen_by(&database, subject, "ann-workspace", sql);
    assert_eq!(seen("select id::text from legacy.invoices").await, ["1"]);
    assert_eq!(seen("select id::text from legacy.everything").await, ["1"]);
    assert_eq!(seen("select name from legacy.countries").await, ["Germany"]);
    // What comes later is found as well.
    run_sql(
        &mut owner,
        "create view legacy.later as select * from legacy.invoices; grant select on legacy.later to tenantry_app",
    )
    .await;
    let later = verify(&database, plan.clone()).await;
    assert_eq!(later.iter().map(|finding| finding.subject.as_str()).collect::<Vec<_>>(), ["view legacy.later"]);
    run_sql(&mut owner, "drop view legacy.later").await;
    super::rollback(&database, plan).await;
    let granted = super::count(&database, "select count(*) from unnest(array['legacy.countries', 'legacy.invoices']) t where t <> 'legacy.countries' and has_table_privilege('tenantry_app', t, 'select')").await;
    assert_eq!(granted, 0);
}

#[tokio::test]
async fn adopt_fills_after_the_teams_own_triggers_and_for_generated_columns() {
    let database = shape(
        "create table legacy.users (id int primary key, email text, name text);
         insert into legacy.users values (1, 'ann@x.test', 'Ann'), (2, 'bob@x.test', 'Bob');
         create table legacy.notes (id bigint primary key, user_id int references legacy.users, body text);
         create sequence legacy.note_ids start 100;
         create function legacy.stamp() returns trigger language plpgsql as $$ begin
           new.id := coalesce(new.id, nextval('legacy.note_ids'));
           if tg_op = 'UPDATE' and new.body like 'to %' then new.user_id := substr(new.body, 4)::int; end if;
           new.user_id := coalesce(new.user_id, nullif(current_setting('my.uid', true), '')::int); return new; end $$;
         create trigger stamp_row before insert or update on legacy.notes for each row execute function legacy.stamp();
         create table legacy.events (id bigserial primary key, data jsonb not null, user_id int generated always as ((data ->> 'user_id')::int) stored references legacy.users);
         insert into legacy.notes values (1, 1, 'of Ann'), (2, 2, 'of Bob');
         insert into legacy.events (data) values ('{\"user_id\": 1}'), ('{\"user_id\": 2}');",
    )
    .await;
    let (plan, _) = suggested(&database).await;
    let plan = super::keeping_access(plan);
    run(&database, plan.clone()).await;
    assert_eq!(verify(&database, plan.clone()).await, []);
    let mut old = sqlx::ConnectOptions::connect(&database.options(OLD_APP)).await.expect("the old application");
    for round in 0..2 {
        run_sql(&mut old, "set my.uid = '2'; insert into legacy.notes (body) values ('live'); insert into legacy.events (data) values ('{\"user_id\": 2}')").await;
        // A source that only a trigger changes, and one that only the expression changes.
        run_sql(&mut old, "update legacy.notes set body = 'to 2' where id = 1; update legacy.events set data = '{\"user_id\": 2}' where id = 1").await;
        let wrong = "select (select count(*) from legacy.notes n join tenantry.adopt_users a on a.legacy_id = n.user_id::text where n.organization_id is distinct from a.organization_id)
                          + (select count(*) from legacy.events n join tenantry.adopt_users a on a.legacy_id = n.user_id::text where n.organization_id is distinct from a.organization_id)";
        assert_eq!(super::count(&database, wrong).await, 0, "round {round}");
        run_sql(&mut old, "update legacy.notes set body = 'to 1' where id = 1; update legacy.events set data = '{\"user_id\": 1}' where id = 1").await;
        assert_eq!(super::count(&database, wrong).await, 0, "back in round {round}");
        if round == 0 {
            super::finalize(&database, plan.clone()).await.expect("finalize");
        }
    }
    // Whose trigger comes even later is told before anything is written.
    run_sql(&mut database.owner().await, "alter trigger stamp_row on legacy.notes rename to \"~~~ late\"").await;
    let refused = try_run(&database, plan).await.expect_err("a later trigger").to_string();
    assert!(refused.contains("rename to \"late\""), "{refused}");
}

#[tokio::test]
async fn adopt_keeps_every_property_of_a_key_that_it_replaces() {
    let database = shape(
        "create table legacy.users (id int primary key, email text, name text);
         create table legacy.projects (area int not null, no int not null, user_id int not null references legacy.users, primary key (area, no));
         create table legacy.tasks (id int primary key, area int not null, project_no int, foreign key (area, project_no) references legacy.projects on delete set null (project_no));
         create table legacy.links (id int primary key, area int, project_no int, user_id int not null references legacy.users, foreign key (area, project_no) references legacy.projects match full);
         comment on constraint tasks_area_project_no_fkey on legacy.tasks is 'a ''remark''';
         insert into legacy.users values (1, 'ann@x.test', 'Ann'), (2, 'bob@x.test', 'Bob');
         insert into legacy.projects values (1, 1, 1), (1, 2, 2);
         insert into legacy.tasks values (1, 1, 1), (2, 1, 2);
         insert into legacy.links values (1, 1, 1, 1), (2, null, null, 2);",
    )
    .await;
    let (plan, _) = suggested(&database).await;
    let plan = super::keeping_access(plan);
    let before = super::fingerprint(&database).await;
    run(&database, plan.clone()).await;
    super::finalize(&database, plan.clone()).await.expect("finalize");
    let mut owner = database.owner().await;
    run_sql(&mut owner, "begin; delete from legacy.links; delete from legacy.projects where no = 1").await;
    let task: (Option<i32>, Option<i32>) = sqlx::query_as("select area, project_no from legacy.tasks where id = 1")
        .fetch_one(&mut owner)
        .await
        .expect("the task");
    assert_eq!(task, (Some(1), None), "only what the old key emptied");
    run_sql(&mut owner, "rollback").await;
    let half = sqlx::raw_sql("insert into legacy.links (id, area, user_id, organization_id) select 9, 7, 1, organization_id from legacy.links limit 1").execute(&mut owner).await;
    assert!(half.is_err(), "match full refuses a half-empty reference");
    let remarks = super::count(
        &database,
        "select count(*) from pg_constraint where obj_description(oid, 'pg_constraint') = 'a ''remark'''",
    )
    .await;
    assert_eq!(remarks, 1);
    super::rollback(&database, plan).await;
    super::assert_same(&before, &super::fingerprint(&database).await);
    let remarks = super::count(&database, "select count(*) from pg_constraint where obj_description(oid, 'pg_constraint') = 'a ''remark''' and conname = 'tasks_area_project_no_fkey'").await;
    assert_eq!(remarks, 1);
}

#[tokio::test]
async fn adopt_takes_back_a_finalize_that_a_late_row_stopped() {
    let database = shape(
        "create table legacy.users (id int primary key, email text, name text);
         create table legacy.notes (id int primary key, user_id int references legacy.users, organization_id uuid, body text);
         insert into legacy.users values (1, 'ann@x.test', 'Ann');
         insert into legacy.notes values (1, 1, null, 'a');",
    )
    .await;
    let (plan, _) = suggested(&database).await;
    let plan = super::keeping_access(plan);
    let before = super::fingerprint(&database).await;
    run(&database, plan.clone()).await;
    // The row is not seen by the count, and comes before the check is there.
    let mut writer = database.owner().await;
    run_sql(&mut writer, "begin; insert into legacy.notes (id, body) values (2, 'late')").await;
    let stopped = {
        let (database, plan) = (&database, plan.clone());
        let finalizing = super::finalize(database, plan);
        let (done, ()) = futures_util::future::join(finalizing, async {
            tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
            run_sql(&mut writer, "commit").await;
        })
        .await;
        done.expect_err("a row without")
    };
    assert!(stopped.code() == "NOT_READY" && stopped.to_string().contains("came meanwhile"), "{stopped}");
    // The old application is not hindered by a step that was not finished.
    let mut old = sqlx::ConnectOptions::connect(&database.options(OLD_APP)).await.expect("the old application");
    run_sql(&mut old, "insert into legacy.notes (id, body) values (3, 'no user')").await;
    super::rollback(&database, plan).await;
    run_sql(&mut old, "delete from legacy.notes where id > 1").await;
    super::assert_same(&before, &super::fingerprint(&database).await);
}

/// Organization, member, role and whether it is over.
const MEMBERS: &str = "select o.name || ' ' || u.name, m.role::text || case when m.deleted_at is null then '' else ' before' end
      from tenantry.organization_members m join tenantry.organizations o on o.id = m.organization_id join tenantry.users u on u.id = m.user_id
     where m.organization_id in (select organization_id from tenantry.adopt_created) or u.clerk_id like 'legacy:%'";

#[tokio::test]
async fn adopt_follows_organizations_and_members_while_the_old_application_lives() {
    let database = shape(
        "create table legacy.users (id serial primary key, email text, name text);
         create table legacy.teams (id serial primary key, name text not null);
         create table legacy.team_members (team_id int not null references legacy.teams on delete cascade, user_id int not null references legacy.users on delete cascade, role text not null, primary key (team_id, user_id));
         create table legacy.docs (id serial primary key, team_id int not null references legacy.teams, title text);
         insert into legacy.users (email, name) values ('ann@x.test', 'Ann'), ('bob@x.test', 'Bob'), ('eve@x.test', 'Eve');
         insert into legacy.teams (name) values ('Acme'), ('Bolt');
         insert into legacy.team_members values (1, 1, 'owner'), (1, 2, 'member'), (2, 3, 'owner');
         insert into legacy.docs (team_id, title) values (1, 'of Acme'), (2, 'of Bolt');",
    )
    .await;
    let (plan, _) = suggested(&database).await;
    let plan = super::keeping_access(plan);
    run(&database, plan.clone()).await;
    assert_same_map(&database, &[("Acme Ann", "OWNER"), ("Acme Bob", "MEMBER"), ("Bolt Eve", "OWNER")]).await;

    // Bob is dismissed, Eve comes to Acme and takes it over; a new customer signs up.
    let mut old = sqlx::ConnectOptions::connect(&database.options(OLD_APP)).await.expect("the old application");
    run_sql(&mut old, "delete from legacy.team_members where user_id = 2; insert into legacy.team_members values (1, 3, 'owner'); update legacy.team_members set role = 'member' where user_id = 1").await;
    let after = [
        ("Acme Ann", "MEMBER"),
        ("Acme Bob", "MEMBER before"),
        ("Acme Eve", "OWNER"),
        ("Bob's Workspace Bob", "OWNER"),
        ("Bolt Eve", "OWNER"),
    ];
    assert_same_map(&database, &after).await;
    run_sql(&mut old, "begin; insert into legacy.users (email, name) values ('new@x.test', 'Newt'); insert into legacy.teams (name) values ('Newco'); insert into legacy.team_members values (3, 4, 'owner'); insert into legacy.docs (team_id, title) values (3, 'of Newco'); commit").await;
    assert_eq!(slugs(&database, "legacy.docs", "title").await["of Newco"], "newco");
    let with_newco = [&after[..], &[("Newco Newt", "OWNER")]].concat();
    assert_same_map(&database, &with_newco).await;
    assert_eq!(verify(&database, plan.clone()).await, []);

    // What came while the triggers were off is found, and brought by the next run.
    let mut superuser = database.superuser().await;
    run_sql(&mut superuser, "set session_replication_role = replica; update legacy.team_members set role = 'owner' where user_id = 1; delete from legacy.team_members where team_id = 1 and user_id = 3").await;
    let found = verify(&database, plan.clone()).await;
    assert_eq!(
        found.iter().map(super::AdoptionFinding::name).collect::<Vec<_>>(),
        ["wrong-member user 1 in acme", "wrong-member user 3 in acme"],
        "{found:?}"
    );
    let refused = super::finalize(&database, plan.clone()).await.expect_err("wrong members").to_string();
    assert!(refused.contains("wrong-member user 3 in acme"), "{refused}");
    run(&database, plan.clone()).await;
    assert_eq!(verify(&database, plan.clone()).await, []);
    super::finalize(&database, plan.clone()).await.expect("finalize");

    // After finalize as well: a customer signs up, changes its name, and goes with everything.
    run_sql(&mut old, "insert into legacy.teams (name) values ('Thirdco'); insert into legacy.team_members values (4, 2, 'owner'); insert into legacy.docs (team_id, title) values (4, 'of Thirdco'); update legacy.teams set name = 'Third' where id = 4").await;
    assert_eq!(slugs(&database, "legacy.docs", "title").await["of Thirdco"], "thirdco");
    let names = super::pairs(&database, "select slug, name || case when deleted_at is null then '' else ' (gone)' end from tenantry.organizations where slug = 'thirdco'").await;
    assert_eq!(names["thirdco"], "Third");
    run_sql(&mut old, "delete from legacy.docs where team_id = 4; delete from legacy.teams where id = 4; delete from legacy.users where id = 3").await;
    let names = super::pairs(&database, "select slug, name || case when deleted_at is null then '' else ' (gone)' end from tenantry.organizations where slug = 'thirdco'").await;
    assert_eq!(names["thirdco"], "Third (gone)");
    let gone = super::pairs(
        &database,
        "select name, (deleted_at is not null)::text from tenantry.users where clerk_id like 'legacy:shape:%'",
    )
    .await;
    assert_eq!((gone["Eve"].as_str(), gone["Bob"].as_str()), ("true", "false"));
    super::rollback(&database, plan).await;
    let left = super::count(&database, "select count(*) from pg_trigger where tgname like '~adopt%'").await;
    assert_eq!(left, 0);
}

async fn assert_same_map(database: &TestDb, expected: &[(&str, &str)]) {
    let expected = expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    super::assert_same(&expected, &super::pairs(database, MEMBERS).await);
}

#[tokio::test]
async fn adopt_takes_owners_from_a_column_and_only_the_rows_that_count() {
    let database = shape(
        "create table legacy.users (id bigserial primary key, name text, email text unique, current_team_id bigint, deleted_at timestamptz);
         create table legacy.teams (id bigserial primary key, user_id bigint not null, name text not null, closed boolean not null default false);
         create table legacy.team_user (id bigserial primary key, team_id bigint not null references legacy.teams, user_id bigint not null references legacy.users, role text, accepted_at timestamptz, unique (team_id, user_id));
         create table legacy.projects (id bigserial primary key, team_id bigint not null references legacy.teams, title text);
         insert into legacy.users (name, email) values ('Ann', 'ann@x.test'), ('Bob', 'bob@x.test'), ('Eve', 'eve@x.test'), ('Gone', 'gone@x.test');
         update legacy.users set deleted_at = now() where name = 'Gone';
         insert into legacy.teams (user_id, name) values (1, 'Acme'), (2, 'Bolt');
         insert into legacy.team_user (team_id, user_id, role, accepted_at) values (1, 2, 'editor', now()), (1, 3, 'editor', null), (1, 4, 'editor', now());
         insert into legacy.projects (team_id, title) values (1, 'a'), (2, 'b');",
    )
    .await;
    let text = "name = 'shape'\n[users]\ntable = 'legacy.users'\nemail = 'email'\nname = 'name'\nwhere = 'deleted_at is null'\n[organizations]\ntable = 'legacy.teams'\nowner = 'user_id'\nwhere = 'not closed'\n[memberships]\ntable = 'legacy.team_user'\nuser = 'user_id'\norganization = 'team_id'\nwhere = 'accepted_at is not null'\n[workspaces]\nusers_without = 'personal'\n[[tables]]\ntable = 'legacy.projects'\norganization = [{ column = 'team_id' }]\n";
    for (right, wrong, word) in [
        ("not closed", "not opened", "organizations.where: column \"opened\" does not exist"),
        ("'not closed'", "'true) x; drop table legacy.teams; --'", "organizations.where"),
    ] {
        let refused = try_run(&database, Plan::parse(&text.replace(right, wrong)).expect("a plan"))
            .await
            .expect_err(wrong)
            .to_string();
        assert!(refused.contains(word), "{refused}");
    }
    let plan = super::keeping_access(Plan::parse(text).expect("a plan"));
    // Bob is in two organizations, and the plan says which counts.
    let plan = Plan { users: adopt::Users { prefer: None, ..plan.users }, ..plan };
    run(&database, plan.clone()).await;
    let members =
        [("Acme Ann", "OWNER"), ("Acme Bob", "MEMBER"), ("Bolt Bob", "OWNER"), ("Eve's Workspace Eve", "OWNER")];
    assert_same_map(&database, &members).await;
    let mut old = sqlx::ConnectOptions::connect(&database.options(OLD_APP)).await.expect("the old application");
    // She accepts; Acme is handed to her; Bolt is closed.
    run_sql(&mut old, "update legacy.team_user set accepted_at = now() where user_id = 3; update legacy.teams set user_id = 3 where id = 1; update legacy.teams set closed = true where id = 2").await;
    let members = super::pairs(&database, MEMBERS).await;
    assert_eq!((members["Acme Eve"].as_str(), members["Acme Ann"].as_str()), ("OWNER", "OWNER before"), "{members:?}");
    assert_eq!(members["Ann's Workspace Ann"], "OWNER", "who has nothing left has a workspace");
    let closed = super::count(
        &database,
        "select count(*) from tenantry.organizations where slug = 'bolt' and deleted_at is not null",
    )
    .await;
    assert_eq!(closed, 1);
}

#[tokio::test]
async fn adopt_plan_takes_no_login_and_no_invitation_for_an_organization_or_a_member() {
    let database = shape(
        "create table legacy.users (id text primary key, name text, email text unique);
         create table legacy.accounts (id text primary key, user_id text not null references legacy.users on delete cascade, provider text not null, provider_account_id text not null, unique (provider, provider_account_id));
         create table legacy.polls (id text primary key, user_id text references legacy.users, account_id text references legacy.accounts, title text);
         insert into legacy.users values ('a', 'Ann', 'ann@x.test');",
    )
    .await;
    let (plan, text) = suggested(&database).await;
    assert!(plan.organizations.is_none(), "{text}");

    let database = shape(
        "create table legacy.users (id int primary key, name text, email text);
         create table legacy.organizations (id int primary key, name text not null, slug text not null unique);
         create table legacy.organization_invitations (id int primary key, organization_id int not null references legacy.organizations, user_id int references legacy.users, code text);
         create table legacy.organization_memberships (id int primary key, organization_id int not null references legacy.organizations, user_id int not null references legacy.users, is_owner boolean not null default false, removed_at timestamptz, unique (organization_id, user_id));
         create table legacy.contracts (id int primary key, org int not null references legacy.organizations, author_id int references legacy.users, text text);
         insert into legacy.users values (1, 'Ann', 'ann@x.test'), (2, 'Outsider', 'out@x.test'), (3, 'Former', 'f@x.test');
         insert into legacy.organizations values (1, 'Acme', 'acme');
         insert into legacy.organization_memberships values (1, 1, 1, true, null), (2, 1, 3, false, now());
         insert into legacy.organization_invitations values (1, 1, 2, 'not accepted');
         insert into legacy.contracts values (1, 1, 2, 'of Acme');",
    )
    .await;
    let (plan, text) = suggested(&database).await;
    let memberships = plan.memberships.clone().expect("memberships");
    assert_eq!(memberships.table.to_string(), "legacy.organization_memberships", "{text}");
    assert_eq!(
        (memberships.role.as_deref(), memberships.r#where.as_deref()),
        (Some("is_owner"), Some("\"removed_at\" is null")),
        "{text}"
    );
    run(&database, plan.clone()).await;
    let members = super::pairs(&database, MEMBERS).await;
    assert_eq!(members["Acme Ann"], "OWNER");
    assert!(!members.contains_key("Acme Outsider") && !members.contains_key("Acme Former"), "{members:?}");
    assert_eq!(slugs(&database, "legacy.contracts", "text").await["of Acme"], "acme", "who wrote it may be anybody");
    super::finalize(&database, super::keeping_access(plan)).await.expect("finalize");
}

#[tokio::test]
async fn adopt_plan_infers_references_that_the_data_confirms() {
    // Hardly a foreign key; ids of accounts and of users overlap, so that taking one for the other goes unnoticed.
    let database = shape(
        "create table legacy.accounts (id serial primary key, name text not null);
         create table legacy.users (id serial primary key, email text, name text);
         create table legacy.account_users (id bigserial primary key, account_id bigint, user_id bigint, role int default 0, unique (account_id, user_id));
         create table legacy.inboxes (id serial primary key, account_id int not null, name text);
         create table legacy.conversations (id serial primary key, account_id int not null, inbox_id int not null, assignee_id int);
         create table legacy.messages (id serial primary key, conversation_id int not null, sender_type text, sender_id bigint, content text);
         create table legacy.strays (id serial primary key, account_id int not null, content text);
         insert into legacy.accounts (name) values ('Acme'), ('Bolt');
         insert into legacy.users (email, name) values ('bob@bolt.test', 'Bob'), ('ann@acme.test', 'Ann');
         insert into legacy.account_users (account_id, user_id, role) values (1, 2, 1), (2, 1, 1);
         insert into legacy.inboxes (account_id, name) values (1, 'acme'), (2, 'bolt');
         insert into legacy.conversations (account_id, inbox_id, assignee_id) values (1, 1, 2), (2, 2, 1);
         insert into legacy.messages (conversation_id, sender_type, sender_id, content) values (1, 'User', 2, 'of Acme'), (2, 'User', 1, 'of Bolt');
         insert into legacy.strays (account_id, content) values (1, 'x'), (77, 'y');",
    )
    .await;
    let (plan, text) = suggested(&database).await;
    assert_eq!(plan.organizations.as_ref().expect("organizations").table.to_string(), "legacy.accounts", "{text}");
    assert_eq!(plan.memberships.as_ref().expect("memberships").table.to_string(), "legacy.account_users", "{text}");
    assert!(text.contains("`account_id` refers to legacy.accounts by its name: all 2 values are found"), "{text}");
    assert!(
        text.contains("only 1 of 2 values are found there") && text.contains("1 (2)"),
        "what is not confirmed is said: {text}"
    );
    assert!(!plan.tables.iter().any(|table| table.table.name == "strays"), "{text}");
    run(&database, plan.clone()).await;
    for (table, column) in [("legacy.messages", "content"), ("legacy.inboxes", "name")] {
        let given = slugs(&database, table, column).await;
        for (key, slug) in &given {
            assert!(key.to_lowercase().contains(slug.as_str()), "{table}: {given:?}");
        }
        assert_eq!(given.len(), 2);
    }
}

#[tokio::test]
async fn adopt_plan_finds_an_owner_in_a_column_and_the_current_team() {
    let database = shape(
        "create table legacy.users (id bigserial primary key, name text, email text unique, current_team_id bigint);
         create table legacy.teams (id bigserial primary key, user_id bigint not null, name text not null, personal_team boolean not null);
         create table legacy.team_user (id bigserial primary key, team_id bigint not null references legacy.teams, user_id bigint not null references legacy.users, role text, unique (team_id, user_id));
         create table legacy.projects (id bigserial primary key, team_id bigint not null references legacy.teams, slug text not null unique, title text);
         insert into legacy.users (name, email, current_team_id) values ('Ann', 'ann@x.test', 1), ('Bob', 'bob@x.test', 1), ('Eve', 'eve@x.test', 3);
         insert into legacy.teams (user_id, name, personal_team) values (1, 'Acme', true), (2, 'Bolt', true), (3, 'Crew', true);
         insert into legacy.team_user (team_id, user_id, role) values (1, 2, 'editor');
         insert into legacy.projects (team_id, slug, title) values (1, 'a', 'a'), (2, 'b', 'b'), (3, 'c', 'c');",
    )
    .await;
    let (plan, text) = suggested(&database).await;
    assert_eq!(plan.users.current_organization.as_deref(), Some("current_team_id"), "{text}");
    assert_eq!(plan.organizations.as_ref().and_then(|o| o.owner.as_deref()), Some("user_id"), "{text}");
    assert!(text.contains("stay unique across all tenants") && text.contains("legacy.projects (slug)"), "{text}");
    run(&database, plan.clone()).await;
    let members = [("Acme Ann", "OWNER"), ("Acme Bob", "MEMBER"), ("Bolt Bob", "OWNER"), ("Crew Eve", "OWNER")];
    assert_same_map(&database, &members).await;
    assert_eq!(
        slugs(&database, "legacy.projects", "title").await,
        super::map([("a", "acme"), ("b", "bolt"), ("c", "crew")])
    );
    assert_eq!(verify(&database, plan).await, []);
}

#[tokio::test]
async fn adopt_lets_an_integer_organization_id_of_the_teams_own_stay() {
    let database = shape(
        "create table legacy.organizations (id bigserial primary key, name text not null, slug text);
         create table legacy.users (id bigserial primary key, email text, name text, organization_id bigint references legacy.organizations);
         create table legacy.articles (id bigserial primary key, user_id bigint references legacy.users, organization_id bigint not null references legacy.organizations, title text);
         create table legacy.comments (id bigserial primary key, article_id bigint not null references legacy.articles, body text);
         insert into legacy.organizations (name, slug) values ('Acme', 'acme'), ('Bolt', 'bolt');
         insert into legacy.users (email, name, organization_id) values ('ann@x.test', 'Ann', 1), ('bob@x.test', 'Bob', 2);
         insert into legacy.articles (user_id, organization_id, title) values (1, 1, 'of Acme'), (2, 2, 'of Bolt');
         insert into legacy.comments (article_id, body) values (1, 'on Acme'), (2, 'on Bolt');",
    )
    .await;
    let (plan, text) = suggested(&database).await;
    let plan = Plan {
        accept: vec!["organization-without-owner acme".to_owned(), "organization-without-owner bolt".to_owned()],
        ..super::keeping_access(plan)
    };
    let before = super::fingerprint(&database).await;
    let forecast = dry_run(&database, plan.clone()).await;
    super::assert_foretold(&forecast, &run(&database, plan.clone()).await);
    let places = "select a.title, o.slug from legacy.articles a join tenantry.organizations o on o.id = a.tenant_organization_id
                  union all select c.body, o.slug from legacy.comments c join tenantry.organizations o on o.id = c.organization_id";
    let expected = [("of Acme", "acme"), ("of Bolt", "bolt"), ("on Acme", "acme"), ("on Bolt", "bolt")];
    assert_eq!(super::pairs(&database, places).await, super::map(expected), "{text}");
    super::finalize(&database, plan.clone()).await.expect("finalize");
    assert_eq!(verify(&database, plan.clone()).await, []);
    // The old application goes on with its own column, and each tenant sees its own.
    let mut old = sqlx::ConnectOptions::connect(&database.options(OLD_APP)).await.expect("the old application");
    run_sql(&mut old, "insert into legacy.articles (user_id, organization_id, title) values (2, 2, 'live'); insert into legacy.comments (article_id, body) values (3, 'on live')").await;
    let live = super::pairs(&database, places).await;
    assert_eq!((live["live"].as_str(), live["on live"].as_str()), ("bolt", "bolt"));
    let seen = super::seen_by(
        &database,
        "legacy:shape:1",
        "acme",
        "select title from legacy.articles union all select body from legacy.comments order by 1",
    )
    .await;
    assert_eq!(seen, ["of Acme", "on Acme"]);
    run_sql(&mut old, "delete from legacy.comments where article_id = 3; delete from legacy.articles where id = 3")
        .await;
    super::rollback(&database, plan).await;
    super::assert_same(&before, &super::fingerprint(&database).await);
}

#[tokio::test]
async fn adopt_keeps_the_teams_triggers_quiet_where_it_may() {
    let database = shape(
        "create table legacy.users (id int primary key, email text, name text);
         create table legacy.notes (id int primary key, user_id int references legacy.users, body text, updated_at timestamptz not null default '2020-01-01');
         create table legacy.audit (id int primary key, user_id int references legacy.users);
         create table legacy.outbox (id serial primary key, what text);
         create function legacy.touch() returns trigger language plpgsql as $$ begin new.updated_at := now(); return new; end $$;
         create trigger touch before update on legacy.notes for each row execute function legacy.touch();
         create function legacy.publish() returns trigger language plpgsql as $$ begin insert into legacy.outbox (what) select 'note' from changed; return null; end $$;
         create trigger publish after update on legacy.notes referencing new table as changed for each statement execute function legacy.publish();
         create function legacy.frozen() returns trigger language plpgsql as $$ begin raise exception 'never'; end $$;
         create trigger frozen before update or delete on legacy.audit for each row execute function legacy.frozen();
         insert into legacy.users values (1, 'ann@x.test', 'Ann');
         insert into legacy.notes (id, user_id, body) values (1, 1, 'a');
         insert into legacy.audit values (1, 1);",
    )
    .await;
    let (plan, text) = suggested(&database).await;
    assert!(text.contains("publish, touch") && text.contains("quiet_triggers = true"), "{text}");
    let before = super::fingerprint(&database).await;
    let plan = Plan { quiet_triggers: true, ..super::keeping_access(plan) };
    let mut superuser = database.superuser().await;
    // A run of the tests that was cut off may have left it.
    run_sql(&mut superuser, "revoke set on parameter session_replication_role from tenantry_owner").await;
    let refused = try_run(&database, plan.clone()).await.expect_err("no right").to_string();
    assert!(refused.contains("grant set on parameter session_replication_role to \"tenantry_owner\""), "{refused}");
    // The right is the cluster's: another test's database must not miss it meanwhile, and needs it not.
    run_sql(&mut superuser, "grant set on parameter session_replication_role to tenantry_owner").await;
    run(&database, plan.clone()).await;
    let wrote = super::count(&database, "select (select count(*) from legacy.outbox) + (select count(*) from legacy.notes where updated_at > '2020-01-02')").await;
    assert_eq!(wrote, 0);
    assert_eq!(super::count(&database, "select count(*) from legacy.audit where organization_id is null").await, 0);
    super::finalize(&database, plan.clone()).await.expect("finalize");
    // The old application's own changes still fire them.
    let mut old = sqlx::ConnectOptions::connect(&database.options(OLD_APP)).await.expect("the old application");
    run_sql(&mut old, "update legacy.notes set body = 'b'").await;
    assert_eq!(super::count(&database, "select count(*) from legacy.outbox").await, 1);
    run_sql(&mut superuser, "set session_replication_role = replica; update legacy.notes set body = 'a', updated_at = '2020-01-01'; delete from legacy.outbox").await;
    super::rollback(&database, plan).await;
    super::assert_same(&before, &super::fingerprint(&database).await);
    run_sql(&mut superuser, "revoke set on parameter session_replication_role from tenantry_owner").await;
}

#[tokio::test]
async fn adopt_plan_takes_no_readers_for_members_and_lets_the_first_source_decide() {
    let database = shape(
        "create table legacy.users (id int primary key, name text, email text);
         create table legacy.feeds (id int primary key, title text);
         create table legacy.subscriptions (id int primary key, user_id int not null references legacy.users, feed_id int not null references legacy.feeds, unique (user_id, feed_id));
         create table legacy.entries (id int primary key, feed_id int not null references legacy.feeds);
         insert into legacy.users values (1, 'Ann', 'ann@x.test'), (2, 'Bob', 'bob@x.test');",
    )
    .await;
    let (plan, text) = suggested(&database).await;
    assert!(plan.organizations.is_none(), "{text}");
    assert!(text.contains("Left out, because nothing leads from them") && text.contains("legacy.feeds"), "{text}");

    // A board is its team's, and without one its user's; whoever is in the team does not matter.
    run_sql(
        &mut database.owner().await,
        "create table legacy.teams (id int primary key, name text not null);
         create table legacy.team_users (team_id int not null references legacy.teams, user_id int not null references legacy.users, role text, primary key (team_id, user_id));
         create table legacy.boards (id int primary key, user_id int references legacy.users, team_id int references legacy.teams, title text);
         insert into legacy.teams values (1, 'Acme'), (2, 'Bolt');
         insert into legacy.team_users values (1, 1, 'team-owner'), (2, 2, 'team-owner');
         insert into legacy.boards values (1, 1, 2, 'of Bolt'), (2, 1, null, 'of Ann'), (3, null, 1, 'of Acme');",
    )
    .await;
    let (plan, text) = suggested(&database).await;
    let boards = plan.tables.iter().position(|table| table.table.name == "boards").expect("boards");
    let strict = dry_run(&database, plan.clone()).await;
    assert_eq!(strict.tables.iter().map(|table| table.conflicts).sum::<i64>(), 1, "reported, not guessed: {text}");
    let mut plan = plan;
    plan.tables[boards].first_decides = true;
    plan.tables[boards].organization.reverse();
    super::assert_foretold(&dry_run(&database, plan.clone()).await, &run(&database, plan.clone()).await);
    let given = slugs(&database, "legacy.boards", "title").await;
    assert_eq!(given, super::map([("of Bolt", "bolt"), ("of Ann", "acme"), ("of Acme", "acme")]));
}

#[tokio::test]
async fn adopt_works_beside_users_of_another_owner_and_foretells_what_it_may_not() {
    let database = TestDb::seeded().await;
    run_sql(&mut database.owner().await, "create schema legacy").await;
    super::let_the_old_application_in(&database).await;
    run_sql(
        &mut database.superuser().await,
        &format!(
            "create schema provider authorization {OLD_APP}; set role {OLD_APP};
             create table provider.users (id int primary key, email text);
             create table provider.files (id int primary key, user_id int references provider.users);
             insert into provider.users values (1, 'ann@x.test'), (2, 'bob@x.test');
             grant usage on schema provider to tenantry_owner; grant select, references on all tables in schema provider to tenantry_owner; reset role"
        ),
    )
    .await;
    run_sql(
        &mut database.owner().await,
        &format!(
            "create table legacy.todos (id int primary key, user_id int not null references provider.users, task text);
         insert into legacy.todos values (1, 1, 'of Ann'), (2, 2, 'of Bob'); grant all on legacy.todos to {OLD_APP}"
        ),
    )
    .await;
    let users = adopt::Relation::new("provider", "users");
    let suggestion =
        adopt::suggest(&mut session(&database).await, "shape", Some("legacy"), Some(&users), &adopt::Answers::new())
            .await;
    let text = suggestion.expect("a suggestion").toml;
    let plan = super::keeping_access(Plan::parse(&text).expect("a plan"));
    let forecast = dry_run(&database, plan.clone()).await;
    assert!(forecast.notes.iter().any(|note| note.starts_with("provider.users belongs to")), "{:?}", forecast.notes);
    run(&database, plan.clone()).await;
    let given = slugs(&database, "legacy.todos", "task").await;
    assert_eq!(given, super::map([("of Ann", "ann-workspace"), ("of Bob", "bob-workspace")]));
    let mut old = sqlx::ConnectOptions::connect(&database.options(OLD_APP)).await.expect("the old application");
    run_sql(
        &mut old,
        "insert into provider.users values (3, 'eve@x.test'); insert into legacy.todos values (3, 3, 'of Eve')",
    )
    .await;
    assert_eq!(slugs(&database, "legacy.todos", "task").await["of Eve"], "eve-workspace");
    super::finalize(&database, plan).await.expect("finalize");

    let foreign =
        format!("{text}\n[[tables]]\ntable = \"provider.files\"\norganization = [{{ user = \"user_id\" }}]\n");
    let plan = Plan::parse(&foreign).expect("a plan");
    let forecast = dry_run(&database, plan.clone()).await;
    assert!(forecast.notes.iter().any(|note| note.starts_with("REFUSED: provider.files")), "{:?}", forecast.notes);
    let refused = try_run(&database, plan).await.expect_err("not ours").to_string();
    assert!(refused.contains("provider.files"), "{refused}");
}

#[tokio::test]
async fn adopt_status_says_what_is_done_and_what_is_next() {
    let database = shape(INVOICES).await;
    let (plan, text) = suggested(&database).await;
    let file = super::scratch(&database).join("plan.toml");
    std::fs::write(&file, text.replace("# keep_access", "keep_access")).expect("a file");
    let path = file.to_str().expect("a path");
    let asked = async |arguments: &[&str]| {
        let (code, text, error) =
            super::ended(super::tenantry(&database, &[arguments, &["--plan", path]].concat()).await).await;
        assert_eq!(code, 0, "{error}");
        text
    };
    let status = async || asked(&["adopt", "status"]).await;
    let planned = status().await;
    assert!(
        planned.contains("shape is planned")
            && planned.contains("not begun")
            && planned.contains("nothing to take back"),
        "{planned}"
    );
    run(&database, plan).await;
    let ready = status().await;
    assert!(
        ready.contains("shape is ready")
            && ready.contains("next: tenantry adopt verify")
            && ready.contains("column on \"legacy\".\"invoices\""),
        "{ready}"
    );
    asked(&["adopt", "finalize", "--yes"]).await;
    let finalized = super::parse(&asked(&["adopt", "status", "--json"]).await);
    assert_eq!((finalized["step"].as_str(), finalized["users"].as_i64()), (Some("finalized"), Some(2)), "{finalized}");
    std::fs::remove_dir_all(super::scratch(&database)).ok();
}

#[tokio::test]
async fn adopt_makes_unique_keys_a_tenants_own() {
    let database = shape(
        "create table legacy.users (id int primary key, email text, name text);
         create table legacy.boards (id int primary key, user_id int not null references legacy.users, slug text not null unique, code text);
         create unique index \"Board codes\" on legacy.boards (code);
         alter table legacy.boards replica identity using index boards_slug_key;
         comment on constraint boards_slug_key on legacy.boards is 'in the address'; comment on index legacy.\"Board codes\" is 'on the label';
         insert into legacy.users values (1, 'ann@x.test', 'Ann'), (2, 'bob@x.test', 'Bob');
         insert into legacy.boards values (1, 1, 'roadmap', 'x'), (2, 2, 'bobs', 'y');",
    )
    .await;
    let (_, text) = suggested(&database).await;
    assert!(
        text.contains("legacy.boards (slug), legacy.boards (code)") && text.contains("unique_per_tenant"),
        "{text}"
    );
    let with = |keys: &str| {
        let table = "table = \"legacy.boards\"";
        Plan::parse(&text.replace(table, &format!("{table}\nunique_per_tenant = {keys}"))).expect("a plan")
    };
    for (keys, word) in [("[\"title\"]", "no unique key of (title)"), ("[\"id\"]", "is the primary key")] {
        let refused = try_run(&database, with(keys)).await.expect_err(keys).to_string();
        assert!(refused.contains(word), "{refused}");
    }
    let plan = super::keeping_access(with("[\"slug\", [\"code\"]]"));
    let before = super::fingerprint(&database).await;
    run(&database, plan.clone()).await;
    super::finalize(&database, plan.clone()).await.expect("finalize");
    assert_eq!(super::finalize(&database, plan.clone()).await.expect("again"), Vec::<String>::new());
    assert_eq!(verify(&database, plan.clone()).await, []);
    // Both tenants may have it, and none twice.
    let mut owner = database.owner().await;
    let board = |id: i32, user: i32| {
        format!(
            "insert into legacy.boards (id, user_id, slug, code, organization_id) select {id}, {user}, 'roadmap', 'x', organization_id from tenantry.adopt_users where legacy_id = '{user}'"
        )
    };
    run_sql(&mut owner, &board(3, 2)).await;
    let twice = sqlx::raw_sql(sqlx::AssertSqlSafe(board(4, 2))).execute(&mut owner).await;
    assert!(twice.is_err(), "once in a tenant");
    let kept = super::rollback(&database, plan.clone()).await;
    assert!(kept.len() == 2 && kept[0].contains("tenants have come to use the same value"), "{kept:?}");
    run_sql(&mut owner, "delete from legacy.boards where id = 3; alter table legacy.boards add unique (slug); create unique index \"Board codes\" on legacy.boards (code);
        alter table legacy.boards replica identity using index boards_slug_key;
        comment on constraint boards_slug_key on legacy.boards is 'in the address'; comment on index legacy.\"Board codes\" is 'on the label'").await;
    super::assert_same(&before, &super::fingerprint(&database).await);
    // Without such rows everything is as it was.
    run(&database, plan.clone()).await;
    super::finalize(&database, plan.clone()).await.expect("finalize");
    assert_eq!(super::rollback(&database, plan).await, Vec::<String>::new());
    super::assert_same(&before, &super::fingerprint(&database).await);
}
