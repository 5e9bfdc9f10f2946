//! `--max-lag` beside a real streaming replica that stops replaying.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tenantry::adopt::{self, OwnerConnection, Plan, RunOptions};
use tenantry::clock::Clock;
use tenantry::db::migrations;
use tenantry::local_postgres::{self, LocalPostgres};

use super::run_sql;

/// A streaming replica, ended with the test.
struct Replica {
    bin: PathBuf,
    dir: PathBuf,
    user: Option<String>,
}

impl Replica {
    /// A program of the server, as the user whose files they are: it refuses to run as root.
    fn program(&self, name: &str) -> Command {
        let program = self.bin.join(name);
        match &self.user {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--"]).arg(program);
                command
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn start(primary: &LocalPostgres) -> Option<Self> {
        let bin = primary.bin_dir().expect("the programs").to_path_buf();
        if !bin.join("pg_basebackup").is_file() {
            println!("!!!! SKIPPED: a replica needs the program pg_basebackup beside postgres, in {}", bin.display());
            return None;
        }
        let user = crate::pooler::owner(&primary.data_dir().join("postgres"));
        let replica =
            Self { bin, dir: std::env::temp_dir().join(format!("tenantry-replica-{}", std::process::id())), user };
        std::fs::remove_dir_all(&replica.dir).ok();
        std::fs::create_dir_all(&replica.dir).expect("a folder");
        if let Some(user) = &replica.user {
            let given = Command::new("chown").arg(user).arg(&replica.dir).status().expect("chown");
            assert!(given.success());
        }
        let options = primary.connect_options(local_postgres::SUPERUSER, "postgres");
        let socket = options.get_socket().expect("a socket");
        let port = options.get_port().to_string();
        let mut backup = replica.program("pg_basebackup");
        backup.args(["-U", local_postgres::SUPERUSER, "-R", "-X", "stream", "-c", "fast", "-p", &port]);
        let backup = backup.arg("-h").arg(socket).arg("-D").arg(replica.data()).output().expect("pg_basebackup");
        assert!(backup.status.success(), "{}", String::from_utf8_lossy(&backup.stderr));
        let settings = format!(
            "-c listen_addresses='' -c fsync=off -c max_connections=200 -c unix_socket_directories={}",
            replica.dir.display()
        );
        let started = replica.control(&["-o", &settings, "-w", "-l"], &replica.dir.join("log"), "start");
        assert!(
            started,
            "the replica does not start: {}",
            std::fs::read_to_string(replica.dir.join("log")).unwrap_or_default()
        );
        Some(replica)
    }

    fn control(&self, options: &[&str], file: &Path, what: &str) -> bool {
        let mut command = self.program("pg_ctl");
        command.arg("-D").arg(self.data()).args(options).arg(file).arg(what);
        command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null()).status().expect("pg_ctl").success()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.program("pg_ctl").arg("-D").arg(self.data()).args(["-m", "immediate", "stop"]).output().ok();
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

#[tokio::test]
async fn adopt_run_waits_for_a_replica_that_falls_behind() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("primary");
    let data_dir = local_postgres::reachable_data_dir(folder);
    let primary = LocalPostgres::start(local_postgres::Options { data_dir, durable: false }).await.expect("a server");
    let Some(replica) = Replica::start(&primary) else { return };
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
        let options = PgConnectOptions::new().socket(&replica.dir).port(port).username(local_postgres::SUPERUSER);
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
