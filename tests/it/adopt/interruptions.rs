//! What happens in the middle of the night: kill -9, lost connections, collisions, full disks, and people who go on
//! working meanwhile.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use tenantry::adopt::{self, RunOptions};
use tenantry::clock::Clock;
use tokio::process::Child;

use super::{
    OLD_APP, assert_same, catalogue, count, ended, finalize, fixture, keeping_access, legacy, pairs, parse, plan,
    rollback, run, run_sql, scratch, session, tenantry, try_run, verify, without_owner,
};
use crate::support::TestDb;

const KILLS: usize = 10;

/// The bots' database with enough in it that a run takes a while.
async fn many_bots() -> TestDb {
    let database = legacy("bots").await;
    run_sql(
        &mut database.owner().await,
        "insert into legacy.users (email, name) select 'u' || n || '@example.org', 'User' || n % 40 from generate_series(1, 150) n;
         insert into legacy.bots (user_id, name) select u.id, 'more ' || n from legacy.users u cross join generate_series(1, 4) n where u.id > 8;
         insert into legacy.\"Bot Runs\" select b.id, n, 'ok' from legacy.bots b cross join generate_series(6, 8) n;
         insert into legacy.secrets select 'more ' || b.id, b.id, 'x' from legacy.bots b",
    )
    .await;
    database
}

/// What a run has done so far: users and rows.
const PROGRESS: &str = "select (select count(*) from tenantry.adopt_users) + (select coalesce(sum(cardinality(keys)), 0)::bigint from tenantry.adopt_batches)";

/// Everything a run decides, without the ids it makes.
async fn outcome(database: &TestDb) -> BTreeMap<String, String> {
    pairs(
        database,
        "select 'user ' || a.legacy_id, concat_ws(' ', a.outcome, o.slug, m.role, u.name, u.current_organization_id = o.id)
           from tenantry.adopt_users a join tenantry.organizations o on o.id = a.organization_id join tenantry.users u on u.id = a.user_id
           join tenantry.organization_members m on m.user_id = u.id and m.organization_id = o.id
         union all select 'bot ' || t.id, o.slug from legacy.bots t left join tenantry.organizations o on o.id = t.organization_id
         union all select 'run ' || t.\"bot id\" || ' ' || t.\"run no.\", o.slug from legacy.\"Bot Runs\" t left join tenantry.organizations o on o.id = t.organization_id
         union all select 'secret ' || t.key, o.slug from legacy.secrets t left join tenantry.organizations o on o.id = t.organization_id
         union all select 'unresolved ' || table_name || key, reason from tenantry.adopt_unresolved
         union all select 'mapped ' || b.table_name || ' ' || k, count(*)::text from tenantry.adopt_batches b cross join unnest(b.keys) k group by 1
         union all select 'numbers', concat_ws(' ', (select count(*) from tenantry.organizations), (select count(*) from tenantry.users), (select count(*) from tenantry.organization_members), (select count(*) from tenantry.adopt_checkpoints))",
    )
    .await
}

async fn undisturbed() -> BTreeMap<String, String> {
    let database = many_bots().await;
    run(&database, plan("bots")).await;
    outcome(&database).await
}

/// kill -9 as soon as `query` answers `target`; whether the process was still there to be killed.
async fn killed_at(mut child: Child, watcher: &mut PgConnection, query: &str, target: i64) -> bool {
    loop {
        if child.try_wait().expect("a child").is_some() {
            return false;
        }
        let now: i64 = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut *watcher).await.expect("a look");
        if now >= target {
            child.start_kill().expect("kill -9");
            return child.wait().await.expect("an end").code().is_none();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopt_run_killed_again_and_again_ends_where_an_undisturbed_one_ends() {
    let expected = undisturbed().await;
    let database = many_bots().await;
    let file = fixture("bots", "plan.toml");
    let arguments =
        ["--json", "adopt", "run", "--batch-size", "10", "--sleep", "5ms", "--plan", file.to_str().expect("a path")];
    let total = expected.keys().filter(|key| key.starts_with("user ") || key.starts_with("mapped ")).count();
    let total = i64::try_from(total).expect("few");
    let mut targets: Vec<i64> = (0..KILLS).map(|_| rand::rng().random_range(1..total * 9 / 10)).collect();
    targets.sort_unstable();
    let mut watcher = database.owner().await;
    let mut kills = 0;
    for target in &targets {
        let mut command = tenantry(&database, &arguments).await;
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary");
        kills += usize::from(killed_at(child, &mut watcher, PROGRESS, *target).await);
    }
    assert_eq!(kills, KILLS, "at {targets:?} of {total}");
    let (code, text, error) = ended(tenantry(&database, &arguments).await).await;
    assert_eq!(code, 1, "one secret is nobody's: {error}");
    let summary = parse(&text);
    let before = i64::try_from(expected.keys().filter(|key| key.starts_with("user ")).count()).expect("few");
    assert_eq!(
        summary["users"]["processed"].as_i64().expect("a number")
            + summary["users"]["skipped"].as_i64().expect("a number"),
        before
    );
    assert_same(&expected, &outcome(&database).await);
    println!("killed {kills} times, at {targets:?} of {total}");
}

/// `finalize` and `rollback` are killed at every step they record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finalize_and_rollback_survive_kills() {
    let database = legacy("bots").await;
    let before = catalogue(&mut database.superuser().await).await;
    run_sql(&mut database.owner().await, "delete from legacy.secrets where key = 'lost'").await;
    run(&database, plan("bots")).await;
    let folder = scratch(&database);
    let file = folder.join("plan.toml");
    let text = std::fs::read_to_string(fixture("bots", "plan.toml")).expect("the plan");
    std::fs::write(
        &file,
        text.replacen("name = \"bots\"\n", &format!("name = \"bots\"\nkeep_access = [\"{OLD_APP}\"]\n"), 1),
    )
    .expect("a plan");
    let file = file.to_str().expect("a path");
    let mut watcher = database.owner().await;
    let changes = "select count(*) from tenantry.adopt_changes";
    let first: i64 = sqlx::query_scalar(changes).fetch_one(&mut watcher).await.expect("a count");
    let mut kills = 0;
    for target in 1..30 {
        let mut command = tenantry(&database, &["adopt", "finalize", "--yes", "--plan", file]).await;
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary");
        if !killed_at(child, &mut watcher, changes, first + target).await {
            break;
        }
        kills += 1;
    }
    assert!(kills > 3, "{kills} kills");
    let interrupted = kills;

    // An index that is built when its backend dies stays behind, and invalid: the next one builds it anew.
    let index = "\"legacy\".\"Bot Runs_organization_id_bot id_run no._key\"";
    run_sql(
        &mut watcher,
        &format!(
            "update tenantry.adopt_changes set made = 'pending' where what = 'index {index}'; drop index if exists {index}"
        ),
    )
    .await;
    let mut holder = database.owner().await;
    run_sql(&mut holder, "begin isolation level repeatable read; select count(*) from legacy.bots").await;
    let mut command = tenantry(&database, &["adopt", "finalize", "--yes", "--plan", file]).await;
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary");
    let invalid = "select count(*) from pg_index where not indisvalid";
    assert!(killed_at(child, &mut watcher, invalid, 1).await, "it waits for the holder");
    run_sql(&mut database.superuser().await, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'tenantry-adopt' and datname = current_database()").await;
    run_sql(&mut holder, "commit").await;
    assert_eq!(count(&database, invalid).await, 1);

    let (code, _, error) = ended(tenantry(&database, &["adopt", "finalize", "--yes", "--plan", file]).await).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(count(&database, invalid).await, 0);
    assert_eq!(verify(&database, plan("bots")).await, []);
    assert_eq!(finalize(&database, keeping_access(plan("bots"))).await.expect("again"), Vec::<String>::new());

    let all: i64 = sqlx::query_scalar(changes).fetch_one(&mut watcher).await.expect("a count");
    for left in (1..all).rev().step_by(3) {
        let mut command = tenantry(&database, &["adopt", "rollback", "--yes", "--plan", file]).await;
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary");
        let taken_back = format!("select {all} - count(*) from tenantry.adopt_changes");
        if !killed_at(child, &mut watcher, &taken_back, all - left).await {
            break;
        }
        kills += 1;
    }
    assert!(kills > interrupted + 2, "{kills} kills");
    // A backend ends the message that it has, although its client was killed: the last one may finish the work.
    let busy = "select count(*) from pg_stat_activity where application_name = 'tenantry-adopt' and datname = current_database()";
    for _ in 0..600 {
        if count(&database, busy).await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The last of them may have been quick enough.
    let done = count(&database, "select count(*) from tenantry.adoptions").await == 0;
    if !done {
        assert_eq!(rollback(&database, plan("bots")).await, Vec::<String>::new());
    }
    assert_same(&before, &catalogue(&mut database.superuser().await).await);
    println!("killed {kills} times: finalize {interrupted}, rollback {}", kills - interrupted);
    std::fs::remove_dir_all(folder).ok();
}

/// Deadlocks and serialization failures, as the server reports them, every few rows.
#[tokio::test]
async fn adopt_run_tries_collisions_again() {
    let expected = undisturbed().await;
    let database = many_bots().await;
    run_sql(
        &mut database.owner().await,
        "create sequence legacy.hiccup;
         create function legacy.hiccup() returns trigger language plpgsql as $$
         declare n bigint := nextval('legacy.hiccup');
         begin
             if n % 40 = 1 then raise exception 'made up' using errcode = '40P01'; end if;
             if n % 40 = 21 then raise exception 'made up' using errcode = '40001'; end if;
             return new;
         end $$;
         create trigger hiccup before update on legacy.bots for each row execute function legacy.hiccup();
         create trigger hiccup before update on legacy.\"Bot Runs\" for each row execute function legacy.hiccup()",
    )
    .await;
    let summary = run(&database, plan("bots")).await;
    assert!(summary.retries >= 100, "{summary:?}");
    assert_same(&expected, &outcome(&database).await);

    // One that never ends is given up, with everything before it kept.
    let database = many_bots().await;
    run_sql(
        &mut database.owner().await,
        "create function legacy.never() returns trigger language plpgsql as $$ begin if new.\"bot id\" = 30 then raise exception 'made up' using errcode = '40001'; end if; return new; end $$;
         create trigger never before update on legacy.\"Bot Runs\" for each row execute function legacy.never()",
    )
    .await;
    let mut session = super::session(&database).await;
    session.retry_for = Duration::from_secs(5);
    let error = adopt::run(&mut session, plan("bots"), &super::small(), &Clock::System).await.expect_err("never");
    session.close().await;
    assert!(error.code() == "COLLISIONS" && error.to_string().contains("run the same command again"), "{error}");
    run_sql(&mut database.owner().await, "drop trigger never on legacy.\"Bot Runs\"").await;
    run(&database, plan("bots")).await;
    assert_same(&expected, &outcome(&database).await);
}

/// A real deadlock, with the old application's own counters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopt_run_survives_a_deadlock_with_the_old_application() {
    let database = legacy("bots").await;
    run_sql(
        &mut database.owner().await,
        "delete from legacy.\"Bot Runs\"; delete from legacy.secrets; delete from legacy.bots;
         insert into legacy.bots (user_id, name) select u, 'x' from unnest(array[1, 3, 7]) with ordinality o(u, n) cross join lateral generate_series(1, case u when 3 then 2000 else 3 end) order by o.n;
         create table legacy.counters (user_id integer primary key, updates bigint not null default 0);
         insert into legacy.counters (user_id) values (1), (3), (7);
         create function legacy.count_updates() returns trigger language plpgsql as $$ begin update legacy.counters set updates = updates + 1 where user_id = new.user_id; return null; end $$;
         create trigger count_updates after update on legacy.bots for each row execute function legacy.count_updates()",
    )
    .await;
    run_sql(
        &mut database.superuser().await,
        &format!(
            "alter database {} set deadlock_timeout = '20ms'; grant all on legacy.counters to {OLD_APP}",
            database.name
        ),
    )
    .await;
    let mut plan = plan("bots");
    plan.tables.truncate(1);
    plan.tables[0].with_user = false;
    let mut old = database.options(OLD_APP).connect().await.expect("the old application");
    let mut writer = old.begin().await.expect("begin");
    sqlx::query("update legacy.counters set updates = 0 where user_id = 7")
        .execute(&mut *writer)
        .await
        .expect("a lock");
    let options = RunOptions { batch_size: 10_000, ..RunOptions::default() };
    let mut running = session(&database).await;
    let running = adopt::run(&mut running, plan, &options, &Clock::System);
    // As soon as the run has the first counter, the writer wants it too.
    let writing = async {
        loop {
            let mut probe = writer.begin().await.expect("a savepoint");
            let free = sqlx::query("select from legacy.counters where user_id = 1 for update nowait")
                .execute(&mut *probe)
                .await;
            probe.rollback().await.expect("back");
            if free.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let collided =
            sqlx::query("update legacy.counters set updates = 0 where user_id = 1").execute(&mut *writer).await;
        // Whoever it was: the other one goes on.
        writer.rollback().await.expect("rollback");
        collided
    };
    let (summary, collided) = tokio::join!(running, writing);
    let summary = summary.expect("a run");
    if let Err(error) = &collided {
        assert_eq!(
            error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref(),
            Some("40P01"),
            "{error}"
        );
    }
    // The run lets go of what it has after a short wait, so that mostly nobody is the victim.
    assert_eq!(summary.tables[0].assigned, 2006);
}

/// The server closes the connection again and again; the run connects again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopt_run_makes_lost_connections_again() {
    let expected = undisturbed().await;
    let database = many_bots().await;
    let options = RunOptions { batch_size: 7, sleep: Duration::from_millis(2), ..RunOptions::default() };
    let mut running = session(&database).await;
    let ended = AtomicBool::new(false);
    let running = async {
        let result = adopt::run(&mut running, plan("bots"), &options, &Clock::System).await;
        ended.store(true, Ordering::Relaxed);
        result
    };
    let mut watcher = database.superuser().await;
    let closing = async {
        let (mut lost, mut seen) = (0, 0);
        while lost < 8 && !ended.load(Ordering::Relaxed) {
            let now: i64 = sqlx::query_scalar(PROGRESS).fetch_one(&mut watcher).await.expect("a look");
            if now > seen + 100 {
                seen = now;
                let closed: i64 = sqlx::query_scalar("select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'tenantry-adopt' and datname = current_database()")
                    .fetch_one(&mut watcher).await.expect("terminate");
                lost += closed;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        lost
    };
    let (result, lost) = tokio::join!(running, closing);
    assert!(lost >= 4, "{lost} connections were closed");
    match result {
        Ok(summary) => assert!(summary.retries > 0, "{summary:?}"),
        // Closed in one of the few looks that are not tried again: said so, and the next run goes on.
        Err(error) => {
            assert!(
                error.code() == "CONNECTION_LOST" && error.to_string().contains("run the same command again"),
                "{error}"
            );
            run(&database, plan("bots")).await;
        }
    }
    assert_same(&expected, &outcome(&database).await);
}

/// A full disk, as `PostgreSQL` reports it, in the middle of a batch: nothing of that batch stays, everything before it does.
#[tokio::test]
async fn adopt_run_stops_at_a_full_disk_and_goes_on_when_there_is_room() {
    let expected = undisturbed().await;
    let database = many_bots().await;
    run_sql(
        &mut database.owner().await,
        "create sequence legacy.written;
         create function legacy.fill_up() returns trigger language plpgsql as $$ begin if nextval('legacy.written') > 500 then raise exception 'could not extend file: No space left on device' using errcode = '53100'; end if; return new; end $$;
         create trigger fill_up before update on legacy.\"Bot Runs\" for each row execute function legacy.fill_up()",
    )
    .await;
    let file = fixture("bots", "plan.toml");
    let arguments = ["adopt", "run", "--batch-size", "7", "--plan", file.to_str().expect("a path")];
    let (code, _, error) = ended(tenantry(&database, &arguments).await).await;
    assert_eq!(code, 1);
    assert!(
        error.contains("DISK_FULL: legacy.Bot Runs: the disk of the database is full")
            && error.contains("run the same command again"),
        "{error}"
    );
    // 71 batches of 7 are 497 rows: the 72nd was the one that failed.
    assert_eq!(
        count(&database, "select count(*) from legacy.\"Bot Runs\" where organization_id is not null").await,
        497
    );
    assert_eq!(
        count(
            &database,
            "select sum(cardinality(keys))::bigint from tenantry.adopt_batches where table_name = 'legacy.Bot Runs'"
        )
        .await,
        497
    );
    let checkpoint = pairs(&database, "select table_name, position::text from tenantry.adopt_checkpoints").await;
    let last = pairs(&database, "select 'legacy.Bot Runs', '{' || \"bot id\" || ',' || \"run no.\" || '}' from legacy.\"Bot Runs\" where organization_id is not null order by \"bot id\" desc, \"run no.\" desc limit 1").await;
    assert_same(&last, &checkpoint);
    run_sql(&mut database.owner().await, "drop trigger fill_up on legacy.\"Bot Runs\"").await;
    run(&database, plan("bots")).await;
    assert_same(&expected, &outcome(&database).await);
}

/// The old application: people come, work and go. Returns how many times it wrote.
async fn old_application(
    database_options: sqlx::postgres::PgConnectOptions,
    stop: Arc<AtomicBool>,
    number: u32,
) -> sqlx::Result<u32> {
    let mut connection = database_options.connect().await?;
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) || rounds < 20 {
        rounds += 1;
        let text = format!(
            "begin;
             insert into legacy.users (email, name) values ('live-{number}-{rounds}@example.org', 'Live{number} {rounds}');
             insert into legacy.bots (user_id, name) select currval('legacy.users_id_seq'), 'live ' || n from generate_series(1, 3) n;
             insert into legacy.\"Bot Runs\" select id, 1, 'live' from legacy.bots where user_id = currval('legacy.users_id_seq');
             insert into legacy.secrets values ('live {number} {rounds}', currval('legacy.bots_id_seq'), 'x');
             commit;
             update legacy.bots set name = name || '!' where id in (select id from legacy.bots where id % 97 = {} and id % 2 = {} order by id limit 5);
             delete from legacy.secrets where key = 'live {number} {gone}';
             delete from legacy.users where email = 'live-{number}-{gone}@example.org'",
            rounds % 97,
            // Two writers must not collide with one another, only with us.
            number % 2,
            gone = rounds / 2,
        );
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut connection).await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(rounds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopt_lets_people_go_on_working_meanwhile() {
    let database = many_bots().await;
    run_sql(&mut database.owner().await, "delete from legacy.secrets where key = 'lost'").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..2).map(|n| tokio::spawn(old_application(database.options(OLD_APP), stop.clone(), n))).collect();
    let options = RunOptions {
        batch_size: 20,
        sleep: Duration::from_millis(5),
        max_lag: Some(Duration::from_secs(1)),
        ..RunOptions::default()
    };
    let summary =
        adopt::run(&mut session(&database).await, plan("bots"), &options, &Clock::System).await.expect("a run");
    assert_eq!(summary.unresolved(), 0, "{summary:?}");
    // Finalized while they write, and taken back as well.
    finalize(&database, keeping_access(plan("bots"))).await.expect("finalize");
    stop.store(true, Ordering::Relaxed);
    let mut rounds = 0;
    for writer in writers {
        rounds += writer.await.expect("no panic").expect("not one write of the old application failed");
    }
    assert_eq!(verify(&database, plan("bots")).await, []);
    let wrong = "select (select count(*) from legacy.bots b left join tenantry.adopt_users a on a.legacy_id = b.user_id::text where b.organization_id is distinct from a.organization_id)
                      + (select count(*) from legacy.\"Bot Runs\" r join legacy.bots b on b.id = r.\"bot id\" where r.organization_id is distinct from b.organization_id)
                      + (select count(*) from legacy.secrets s join legacy.bots b on b.id = s.bot_id where s.organization_id is distinct from b.organization_id)";
    assert_eq!(count(&database, wrong).await, 0);
    assert!(count(&database, "select count(*) from legacy.bots where name like 'live%'").await > 0);
    println!("{rounds} rounds of writes during the run");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(old_application(database.options(OLD_APP), stop.clone(), 7));
    assert_eq!(rollback(&database, plan("bots")).await, Vec::<String>::new());
    stop.store(true, Ordering::Relaxed);
    writer.await.expect("no panic").expect("not one write failed");
    assert_eq!(
        count(
            &database,
            "select count(*) from pg_attribute where attname = 'organization_id' and attrelid = 'legacy.bots'::regclass"
        )
        .await,
        0
    );
}

/// A row that somebody holds all the time holds up nobody: it is counted, and the next run takes it.
#[tokio::test]
async fn adopt_run_leaves_rows_that_are_held_to_the_next() {
    let database = legacy("workspaces").await;
    let mut old = database.options(OLD_APP).connect().await.expect("the old application");
    let mut holder = old.begin().await.expect("begin");
    sqlx::query("select from legacy.connections where id = 3 for update").execute(&mut *holder).await.expect("a lock");
    // A lock on a row does not stop a column from being added only if nobody reads: the column is there already.
    holder.rollback().await.expect("rollback");
    run_sql(&mut database.owner().await, "alter table legacy.connections add column organization_id uuid").await;
    let mut first = plan("workspaces");
    first.tables.truncate(1);
    run(&database, first).await;
    // Triggers cannot be made while somebody is in the table, so they are there before.
    run(&database, plan("workspaces")).await;
    run_sql(&mut database.owner().await, "update legacy.connections set organization_id = null; delete from tenantry.adopt_batches where table_name = 'legacy.connections'").await;
    let mut holder = old.begin().await.expect("begin");
    sqlx::query("select from legacy.connections where id = 3 for update").execute(&mut *holder).await.expect("a lock");
    let summary = run(&database, plan("workspaces")).await;
    let connections = summary.tables.iter().find(|table| table.table == "legacy.connections").expect("counted");
    assert_eq!((connections.assigned, connections.locked), (6, 1), "{summary:?}");
    holder.commit().await.expect("commit");
    let summary = run(&database, plan("workspaces")).await;
    assert_eq!(summary.tables[1].assigned, 1, "{summary:?}");
}

/// A long transaction in the way: it is not queued behind for long, and the message says what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finalize_gives_up_a_lock_that_is_not_to_be_had() {
    let database = legacy("bots").await;
    let before = catalogue(&mut database.superuser().await).await;
    let mut old = database.options(OLD_APP).connect().await.expect("the old application");
    let mut holder = old.begin().await.expect("begin");
    sqlx::query("select from legacy.bots").execute(&mut *holder).await.expect("a look");
    let options = RunOptions { lock_timeout: Duration::from_millis(10), ..RunOptions::default() };
    let mut session = session(&database).await;
    session.retry_for = Duration::from_secs(2);
    let error = adopt::run(&mut session, plan("bots"), &options, &Clock::System).await.expect_err("locked");
    session.close().await;
    assert!(error.code() == "LOCKED" && error.to_string().contains("pg_stat_activity"), "{error}");
    assert_same(&before, &catalogue(&mut database.superuser().await).await);
    holder.commit().await.expect("commit");
    run(&database, plan("bots")).await;
}

/// A foreign key that was added, and the process killed before its rows were looked at: it is looked at by the next.
#[tokio::test]
async fn finalize_validates_a_foreign_key_that_was_left() {
    let database = legacy("workspaces").await;
    run(&database, plan("workspaces")).await;
    run_sql(
        &mut database.owner().await,
        "alter table legacy.dashboards add constraint dashboards_adopted_organization foreign key (organization_id) references tenantry.organizations (id) not valid",
    )
    .await;
    finalize(&database, without_owner(plan("workspaces"), "default")).await.expect("finalize");
    let valid =
        "select count(*) from pg_constraint c join tenantry.adopt_changes a on a.what like '%dashboards_adopted_organization%'
                  where c.conname = 'dashboards_adopted_organization' and c.convalidated";
    assert_eq!(count(&database, valid).await, 1);
    assert_eq!(count(&database, "select count(*) from pg_constraint where not convalidated").await, 0);
    rollback(&database, plan("workspaces")).await;
    assert_eq!(count(&database, "select count(*) from pg_constraint where not convalidated").await, 0);
}

/// Somebody registers and takes their time to commit: nobody else's registration or row waits for that.
#[tokio::test]
async fn triggers_let_a_registration_into_the_default_workspace_hold_nobody_up() {
    let database = legacy("workspaces").await;
    let mut shared = plan("workspaces");
    shared.workspaces.newcomers = None;
    run(&database, shared).await;
    let mut slow = database.options(OLD_APP).connect().await.expect("the old application");
    let mut registration = slow.begin().await.expect("begin");
    let register = |email: &str| format!("insert into legacy.users (email, display_name) values ('{email}', 'New')");
    sqlx::raw_sql(AssertSqlSafe(register("dora@example.org")))
        .execute(&mut *registration)
        .await
        .expect("a registration");
    let mut other = database.options(OLD_APP).connect().await.expect("the old application");
    for statement in [
        "set statement_timeout = '5s'",
        "insert into legacy.connections (dashboard_id, dsn) select id, 'db://more' from legacy.dashboards limit 1",
        &register("emil@example.org"),
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut other).await.expect(statement);
    }
    registration.commit().await.expect("commit");
    let newcomers = "select count(*) from tenantry.organization_members m join tenantry.organizations o on o.id = m.organization_id join tenantry.users u on u.id = m.user_id where o.slug = 'default' and u.email in ('dora@example.org', 'emil@example.org')";
    assert_eq!(count(&database, newcomers).await, 2);
}

/// Between two runs the plan's tables change their places, and one goes: every trigger keeps the function of its table.
#[tokio::test]
async fn adopt_plan_may_change_between_two_runs() {
    let database = legacy("bots").await;
    run(&database, plan("bots")).await;
    let mut changed = plan("bots");
    changed.tables.remove(0);
    changed.tables.reverse();
    try_run(&database, changed).await.ok();
    let strangers = "select count(*) from pg_trigger t where not t.tgisinternal and t.tgname like 'adopt_bots%'
                      and t.tgrelid <> 'legacy.users'::regclass and position((select relname from pg_class where oid = t.tgrelid) in t.tgfoid::regproc::text) = 0";
    assert_eq!(count(&database, strangers).await, 0);
    run(&database, plan("bots")).await;
    run_sql(&mut database.owner().await, "insert into legacy.bots (user_id, name) values (1, 'late')").await;
    assert_eq!(
        count(&database, "select count(*) from legacy.bots where name = 'late' and organization_id is null").await,
        0
    );
    rollback(&database, plan("bots")).await;
}
