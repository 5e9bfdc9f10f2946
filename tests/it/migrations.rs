//! The migrations themselves: there and back with data in the tables, drift, and the reminder.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, PgConnection};
use tenantry::db::migrations;
use tenantry::local_postgres;

use crate::adopt::{assert_same, catalogue, count, ended, legacy, plan, run, run_sql, tenantry};
use crate::support::TestDb;

/// Up migrations in the order of their numbers.
fn versions() -> Vec<i64> {
    let ups = migrations::MIGRATOR.iter().filter(|migration| migration.migration_type.is_up_migration());
    ups.map(|migration| migration.version).collect()
}

/// Every table with its columns; without sqlx's own table, which says when.
type Columns = BTreeMap<String, String>;

async fn columns(connection: &mut PgConnection) -> Columns {
    let tables: Vec<(String, String)> = sqlx::query_as(
        "select c.oid::regclass::text, string_agg(quote_ident(a.attname), ', ' order by a.attname)
           from pg_class c
           join pg_namespace n on n.oid = c.relnamespace
           join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          where c.relkind in ('r', 'p') and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') and c.relname <> '_sqlx_migrations'
          group by c.oid",
    )
    .fetch_all(connection)
    .await
    .expect("tables");
    tables.into_iter().collect()
}

/// The rows of these columns, as a checksum for each table.
async fn rows_of(connection: &mut PgConnection, columns: &Columns) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (table, columns) in columns {
        let sql = format!(
            "select md5(coalesce(string_agg(t::text, '|' order by t::text), '')) from (select {columns} from {table}) t"
        );
        let sum = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *connection).await.expect("rows");
        found.insert(table.clone(), sum);
    }
    found
}

async fn rows(connection: &mut PgConnection) -> BTreeMap<String, String> {
    let columns = columns(connection).await;
    rows_of(connection, &columns).await
}

/// Each step down gives the catalogue that was there one step up, in a database with rows in every table; the rows of
/// what stays are not touched, and up again it is the same.
#[tokio::test]
async fn migrations_go_down_and_up_with_data_in_them() {
    let empty = TestDb::empty().await;
    let mut connection = empty.owner().await;
    let mut superuser = empty.superuser().await;
    let mut steps = Vec::new();
    migrations::prepare(&mut connection).await.expect("the schema");
    for version in versions() {
        steps.push((ours(&mut superuser).await, columns(&mut superuser).await));
        migrations::MIGRATOR
            .run_to(version, &mut connection)
            .await
            .unwrap_or_else(|error| panic!("{version} up: {error}"));
    }

    let full = TestDb::seeded().await;
    let mut connection = full.owner().await;
    let mut superuser = full.superuser().await;
    let (whole, with_rows) = (catalogue(&mut superuser).await, rows(&mut superuser).await);
    assert!(with_rows.len() > 20, "{with_rows:?}");
    let versions = versions();
    for (index, version) in versions.iter().enumerate().rev() {
        // A column that the step takes away goes with what is in it; all else stays.
        let (catalogue_below, columns_below) = &steps[index];
        let before = rows_of(&mut superuser, columns_below).await;
        let below = if index == 0 { 0 } else { versions[index - 1] };
        migrations::MIGRATOR
            .undo(&mut connection, below)
            .await
            .unwrap_or_else(|error| panic!("{version} down: {error}"));
        assert_same(catalogue_below, &ours(&mut superuser).await);
        assert_eq!(before, rows(&mut superuser).await, "{version} changed rows that it does not take away");
    }
    assert_eq!(rows(&mut superuser).await.len(), 0);
    migrations::up(&full.options(local_postgres::OWNER_ROLE)).await.expect("up again");
    assert_same(&whole, &catalogue(&mut superuser).await);
    let tables = |found: &BTreeMap<String, String>| found.keys().cloned().collect::<Vec<_>>();
    assert_eq!(tables(&rows(&mut superuser).await), tables(&with_rows));
}

/// Without sqlx's own table, which comes with the first migration and stays.
async fn ours(connection: &mut PgConnection) -> BTreeMap<String, String> {
    let mut found = catalogue(connection).await;
    found.retain(|key, _| !key.contains("_sqlx_migrations"));
    found
}

/// Under an adoption that goes on: the old application's tables keep their rows, and it can write.
#[tokio::test]
async fn migrations_of_adoptions_go_down_under_adopted_tables() {
    let database = legacy("bots").await;
    run(&database, plan("bots")).await;
    let mut owner = database.owner().await;
    let organizations = count(&database, "select count(*) from tenantry.organizations").await;
    let made = versions().into_iter().rev().take_while(|version| *version >= 8).count();
    migrations::down(&database.options(local_postgres::OWNER_ROLE), made).await.expect("down");
    run_sql(&mut owner, "insert into legacy.users (email) values ('later@example.org'); insert into legacy.bots (user_id, name) values (1, 'later')").await;
    assert_eq!(count(&database, "select count(organization_id) from legacy.bots").await, 21);
    assert_eq!(count(&database, "select count(*) from tenantry.organizations").await, organizations);
    migrations::up(&database.options(local_postgres::OWNER_ROLE)).await.expect("up again");
    // The mapping is lost; people are found again by their ids, with the organizations they have.
    let summary = run(&database, plan("bots")).await;
    assert_eq!((summary.users.processed, summary.users.skipped), (1, 8), "{summary:?}");
    assert_eq!(count(&database, "select count(*) from legacy.bots where organization_id is null").await, 0);
}

/// The newest few come and go under the data of the rest.
#[tokio::test]
async fn migrations_a_few_down_and_up_keep_everything_else() {
    let database = TestDb::seeded().await;
    let owner = database.options(local_postgres::OWNER_ROLE);
    let mut superuser = database.superuser().await;
    let (whole, before) = (catalogue(&mut superuser).await, rows(&mut superuser).await);
    for steps in [1, 2, 3] {
        migrations::down(&owner, steps).await.expect("down");
        assert_eq!(migrations::up(&owner).await.expect("up"), steps);
        assert_same(&whole, &catalogue(&mut superuser).await);
    }
    let after = rows(&mut superuser).await;
    let lost: Vec<&String> = before.keys().filter(|table| before[*table] != after[*table]).collect();
    // Those that the newest made, and columns of theirs in tickets, messages and figures; the rest is as it was.
    assert!(
        lost.len() < 18
            && !lost.iter().any(|table| ["tenantry.organizations", "tenantry.users", "tenantry.customer_profiles"]
                .contains(&table.as_str())),
        "{lost:?}"
    );
}

#[tokio::test]
async fn migrations_report_drift_and_down_reminds_of_a_backup() {
    let database = TestDb::seeded().await;
    let (code, text, error) = ended(tenantry(&database, &["migrate", "status"]).await).await;
    assert!(code == 0 && text.contains("applied") && !text.contains("pending"), "{text}{error}");
    run_sql(
        &mut database.owner().await,
        "update tenantry._sqlx_migrations set checksum = '\\x00' where version = 3;
         insert into tenantry._sqlx_migrations (version, description, success, checksum, execution_time) values (9999, 'from the future', true, '\\x00', 0);
         delete from tenantry._sqlx_migrations where version = 8",
    )
    .await;
    let (code, text, _) = ended(tenantry(&database, &["migrate", "status", "--json"]).await).await;
    assert_eq!(code, 1);
    let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let state = |version: i64| {
        let found = list.as_array().expect("a list").iter().find(|migration| migration["version"] == version);
        found.map(|migration| migration["state"].as_str().expect("a state").to_owned()).expect("listed")
    };
    assert_eq!([state(2), state(3), state(8), state(9999)], ["applied", "drifted", "pending", "unknown"]);
    let (code, _, error) = ended(tenantry(&database, &["migrate", "up"]).await).await;
    assert!(code == 1 && error.contains("the database has migration 9999, which this build does not know"), "{error}");
    run_sql(&mut database.owner().await, "delete from tenantry._sqlx_migrations where version = 9999").await;
    let (code, _, error) = ended(tenantry(&database, &["migrate", "up"]).await).await;
    assert!(
        code == 1 && error.contains("migration 3 was edited after it was applied"),
        "nothing is built upon it: {error}"
    );

    let before = catalogue(&mut database.superuser().await).await;
    let (code, _, error) = ended(tenantry(&database, &["migrate", "down"]).await).await;
    assert!(
        code == 2 && error.contains("BACKUP_FIRST") && error.contains("pg_dump") && error.contains("--yes"),
        "{error}"
    );
    assert_same(&before, &catalogue(&mut database.superuser().await).await);
}
