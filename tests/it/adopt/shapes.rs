//! Shapes of real databases, each small: what `adopt` must make of them, or refuse.

use tenantry::adopt::{self, Plan};

use super::{OLD_APP, dry_run, run, run_sql, session, slugs, try_run, verify};
use crate::support::TestDb;

/// A database of a team: Tenantry's tables beside these, which an old application may read and write.
async fn shape(sql: &str) -> TestDb {
    let database = TestDb::seeded().await;
    run_sql(&mut database.owner().await, &format!("create schema legacy; {sql}")).await;
    let role = format!(
        "do $$ begin create role {OLD_APP} login; exception when duplicate_object or unique_violation then null; end $$;
         grant usage on schema legacy to {OLD_APP};
         grant select, insert, update, delete on all tables in schema legacy to {OLD_APP};
         grant usage on all sequences in schema legacy to {OLD_APP}"
    );
    run_sql(&mut database.superuser().await, &role).await;
    database
}

/// The plan that is suggested, and its questions.
async fn suggested(database: &TestDb) -> (Plan, String) {
    let suggestion = adopt::suggest(&mut session(database).await, "shape", Some("legacy"), None).await;
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
