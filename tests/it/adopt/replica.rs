//! `--max-lag` beside a real streaming replica that stops replaying.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tenantry::adopt::{self, OwnerConnection, Plan, RunOptions};
use tenantry::clock::Clock;
use tenantry::db::migrations;
use tenantry::local_postgres::{self, LocalPostgres};

use super::run_sql;
use crate::standby::Standby;

#[tokio::test]
async fn adopt_run_waits_for_a_replica_that_falls_behind() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("primary");
    let data_dir = local_postgres::reachable_data_dir(folder);
    let primary = LocalPostgres::start(local_postgres::Options { data_dir, durable: false }).await.expect("a server");
    let Some(replica) = Standby::start(&primary) else { return };
    let name = format!("replicated_{}", std::process::id());
    primary.ensure_database(&name).await.expect("a database");
    let owner = primary.connect_options(local_postgres::OWNER_ROLE, &name);
    migrations::up(&owner).await.expect("migrations");
    let mut superuser =
        primary.connect_options(local_postgres::SUPERUSER, &name).connect().await.expect("the superuser");
    let fill = format!(
        "grant pg_monitor to {0}; set role {0}; create schema legacy;
         create table legacy.users (id int primary key, name text); insert into legacy.users values (1, 'Ann');
         create table legacy.items (id int primary key, user_id int not null references legacy.users); insert into legacy.items select n, 1 from generate_series(1, 4000) n; reset role",
        local_postgres::OWNER_ROLE
    );
    run_sql(&mut superuser, &fill).await;
    let port = primary.connect_options(local_postgres::OWNER_ROLE, &name).get_port();
    // Once it has the database, it stops replaying.
    let mut standby = loop {
        let options =
            PgConnectOptions::new().socket(replica.socket_dir()).port(port).username(local_postgres::SUPERUSER);
        if let Ok(mut connection) = options.database(&name).connect().await
            && sqlx::query("select from legacy.items where id = 4000")
                .fetch_optional(&mut connection)
                .await
                .is_ok_and(|row| row.is_some())
        {
            break connection;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    run_sql(&mut standby, "select pg_wal_replay_pause()").await;
    let plan = Plan::parse("name = 'lag'\n[users]\ntable = 'legacy.users'\nname = 'name'\n[workspaces]\nusers_without = 'personal'\n[[tables]]\ntable = 'legacy.items'\norganization = [{ user = 'user_id' }]").expect("a plan");
    let options = RunOptions {
        batch_size: 1,
        sleep: Duration::from_millis(1),
        max_lag: Some(Duration::from_millis(500)),
        ..RunOptions::default()
    };
    let mut session = OwnerConnection::open(&owner).await.expect("a session");
    let running = adopt::run(&mut session, plan, &options, &Clock::System);
    let watching = async {
        // It stands still, with most of the rows to do, for longer than it would need for them.
        let (mut before, mut still) = (-1, 0);
        while still < 20 {
            let now: i64 =
                sqlx::query_scalar("select coalesce(sum(cardinality(keys)), 0)::bigint from tenantry.adopt_batches")
                    .fetch_one(&mut superuser)
                    .await
                    .expect("a look");
            still = if now == before && now > 0 { still + 1 } else { 0 };
            before = now;
            assert!(now < 4000, "it did not wait");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        run_sql(&mut standby, "select pg_wal_replay_resume()").await;
        before
    };
    let (summary, stood) = tokio::join!(running, watching);
    assert_eq!(summary.expect("a run").tables[0].total, 4000);
    println!("stood still at {stood} of 4000 rows");
    session.close().await;
    drop((standby, replica));
    run_sql(
        &mut primary.connect_options(local_postgres::SUPERUSER, "postgres").connect().await.expect("the superuser"),
        &format!("drop database {name} with (force)"),
    )
    .await;
}
