//! Adopting a table beside its limit, the bare batched `UPDATE`; and how long it holds up those who write meanwhile.
//!
//! `cargo bench --bench adopt [-- --rows 1000000 --batch-size 500 --writers 2]`
//!
//! Starts a `PostgreSQL` of its own (fsync on), fills three tables with the same rows and measures bare, adopt, bare:
//! machines are noisy, the ratio is the figure. Then the same once more with writers at work, watching `pg_locks` about
//! every millisecond. Everything stays on this machine, is bounded in rows and ends what it started.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _};
use tenantry::adopt::{self, FinalizeOptions, OwnerConnection, Plan, RunOptions};
use tenantry::clock::Clock;
use tenantry::db::migrations;
use tenantry::local_postgres::{self, LocalPostgres};

const DATABASE: &str = "bench_adopt";
/// Each user has so many rows.
const ROWS_PER_USER: i64 = 100;

type Anything<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

struct Options {
    rows: i64,
    batch_size: u32,
    writers: u32,
}

fn main() -> Anything<()> {
    let options = options()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(bench(&options))
}

fn options() -> Anything<Options> {
    let mut options = Options { rows: 1_000_000, batch_size: 500, writers: 2 };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--rows" => options.rows = value.parse::<i64>()?.clamp(1_000, 20_000_000),
            "--batch-size" => options.batch_size = value.parse::<u32>()?.clamp(1, 100_000),
            "--writers" => options.writers = value.parse::<u32>()?.clamp(1, 16),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}

async fn execute(connection: &mut PgConnection, sql: &str) -> Anything<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

async fn bench(options: &Options) -> Anything<()> {
    let data_dir = local_postgres::reachable_data_dir(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench"));
    let postgres = LocalPostgres::start(local_postgres::Options { data_dir, durable: true }).await?;
    let mut admin = postgres.connect_options(local_postgres::SUPERUSER, "postgres").connect().await?;
    execute(&mut admin, &format!("drop database if exists {DATABASE} with (force)")).await?;
    postgres.ensure_database(DATABASE).await?;
    let owner = postgres.connect_options(local_postgres::OWNER_ROLE, DATABASE);
    migrations::up(&owner).await?;
    let mut superuser = postgres.connect_options(local_postgres::SUPERUSER, DATABASE).connect().await?;
    fill(&mut superuser, options.rows).await?;
    println!("{} rows, batches of {}; PostgreSQL {}", options.rows, options.batch_size, postgres.version());

    let run_options = RunOptions { batch_size: options.batch_size, ..RunOptions::default() };
    // The users first, by a table with next to nothing in it.
    let summary = adopted(&owner, "small", &run_options).await?;
    let users = options.rows / ROWS_PER_USER;
    println!("users: {users} in {:.1} s, {:.0}/s", summary.seconds, rate(users, summary.seconds));

    println!("| | rows/s |\n|---|---|");
    let before = bare(&owner, &mut superuser, "bare_a", options).await?;
    println!("| bare batched UPDATE | {before:.0} |");
    settle(&mut superuser).await?;
    let summary = adopted(&owner, "items", &run_options).await?;
    let assigned = summary.tables.iter().map(|table| table.assigned).sum::<u64>();
    let adopt = rate(i64::try_from(assigned)?, summary.seconds);
    println!("| tenantry adopt run | {adopt:.0} |");
    let after = bare(&owner, &mut superuser, "bare_b", options).await?;
    println!("| bare batched UPDATE, again | {after:.0} |");
    println!(
        "adopt reaches {:.0} % of the bare UPDATE ({assigned} rows)\n",
        100.0 * adopt / f64::midpoint(before, after)
    );

    settle(&mut superuser).await?;
    under_writers(&owner, options, &run_options).await?;
    execute(&mut admin, &format!("drop database {DATABASE} with (force)")).await
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn rate(count: i64, seconds: f64) -> f64 {
    count as f64 / seconds.max(1e-9)
}

async fn fill(superuser: &mut PgConnection, rows: i64) -> Anything<()> {
    let users = rows / ROWS_PER_USER;
    let mut sql = format!(
        "set role {}; create schema legacy;
         create table legacy.users (id integer primary key, email text, name text);
         insert into legacy.users select n, 'user' || n || '@example.org', 'User' || n || ' Name' from generate_series(1, {users}) n;",
        local_postgres::OWNER_ROLE
    );
    for (table, rows) in [("small", 1), ("items", rows), ("bare_a", rows), ("bare_b", rows), ("live", rows)] {
        sql += &format!(
            "create table legacy.{table} (id bigint generated always as identity primary key, user_id integer not null references legacy.users (id), title text not null, amount numeric not null default 0, created_at timestamptz not null default now());
             insert into legacy.{table} (user_id, title) select 1 + (n::bigint * 7919) % {users}, 'title of row ' || n from generate_series(1, {rows}) n;
             create index on legacy.{table} (user_id);"
        );
    }
    execute(superuser, &sql).await?;
    execute(superuser, "reset role").await?;
    settle(superuser).await
}

async fn settle(superuser: &mut PgConnection) -> Anything<()> {
    execute(superuser, "vacuum analyze").await?;
    execute(superuser, "checkpoint").await
}

fn plan(table: &str) -> Anything<Plan> {
    Ok(Plan::parse(&format!(
        "name = 'bench'\n[users]\ntable = 'legacy.users'\nemail = 'email'\nname = 'name'\n[workspaces]\nusers_without = 'personal'\n[[tables]]\ntable = 'legacy.{table}'\norganization = [{{ user = 'user_id' }}]"
    ))?)
}

async fn adopted(owner: &PgConnectOptions, table: &str, options: &RunOptions) -> Anything<adopt::Summary> {
    let mut session = OwnerConnection::open(owner).await?;
    let summary = adopt::run(&mut session, plan(table)?, options, &Clock::System).await?;
    session.close().await;
    Ok(summary)
}

/// What one writes without a tool: ranges of the key, a transaction each, nothing recorded.
async fn bare(owner: &PgConnectOptions, superuser: &mut PgConnection, table: &str, options: &Options) -> Anything<f64> {
    settle(superuser).await?;
    let mut connection = owner.connect().await?;
    // On an equal footing: a run does not wait for the disk at each batch either.
    execute(&mut connection, "set synchronous_commit = off").await?;
    execute(&mut connection, &format!("alter table legacy.{table} add column organization_id uuid")).await?;
    let sql = format!(
        "update legacy.{table} t set organization_id = m.organization_id from tenantry.adopt_users m
          where m.adoption = 'bench' and m.legacy_id = t.user_id::text and t.id > $1 and t.id <= $2 and t.organization_id is null"
    );
    let begin = Instant::now();
    let (mut position, mut updated) = (0, 0);
    while position < options.rows {
        let end = position + i64::from(options.batch_size);
        updated += sqlx::query(AssertSqlSafe(sql.as_str()))
            .bind(position)
            .bind(end)
            .execute(&mut connection)
            .await?
            .rows_affected();
        position = end;
    }
    let seconds = begin.elapsed().as_secs_f64();
    if i64::try_from(updated)? != options.rows {
        return Err(format!("{updated} of {} rows were updated", options.rows).into());
    }
    Ok(rate(options.rows, seconds))
}

const PHASES: [&str; 4] = ["nothing else", "run", "finalize", "rollback"];

/// What writers and the watcher share: the phase, and what was seen in each.
#[derive(Default)]
struct Seen {
    phase: AtomicU32,
    stop: AtomicBool,
    writes: Mutex<BTreeMap<u32, Vec<Duration>>>,
    locks: Mutex<BTreeMap<(u32, String), Duration>>,
}

async fn under_writers(owner: &PgConnectOptions, options: &Options, run_options: &RunOptions) -> Anything<()> {
    let seen = Arc::new(Seen::default());
    let writers: Vec<_> = (0..options.writers)
        .map(|number| tokio::spawn(write(owner.clone(), seen.clone(), number, options.rows)))
        .collect();
    let watcher = tokio::spawn(watch(owner.clone(), seen.clone()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    seen.phase.store(1, Ordering::Relaxed);
    let summary = adopted(owner, "live", run_options).await?;
    seen.phase.store(2, Ordering::Relaxed);
    let mut session = OwnerConnection::open(owner).await?;
    let begin = Instant::now();
    let done = adopt::finalize(&mut session, plan("live")?, &FinalizeOptions::default()).await?;
    let finalized = begin.elapsed();
    seen.phase.store(3, Ordering::Relaxed);
    let begin = Instant::now();
    let undone = adopt::rollback(&mut session, plan("live")?, FinalizeOptions::default().lock_timeout).await?;
    let rolled_back = begin.elapsed();
    session.close().await;
    seen.stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await??;
    }
    watcher.await??;

    println!(
        "{} writers; run {:.1} s with {} retries, finalize {:.1} s with {} changes, rollback {:.1} s with {} rows",
        options.writers,
        summary.seconds,
        summary.retries,
        finalized.as_secs_f64(),
        done.changes.len(),
        rolled_back.as_secs_f64(),
        undone.rows
    );
    println!(
        "| beside the writers | writes/s | p50 ms | p99 ms | longest ms | longest lock that stops writers, ms |\n|---|---|---|---|---|---|"
    );
    let latencies = seen.writes.lock().map_err(|_| "a writer panicked")?;
    let locks = seen.locks.lock().map_err(|_| "the watcher panicked")?;
    for (phase, name) in (0..).zip(PHASES) {
        let mut times = latencies.get(&phase).cloned().unwrap_or_default();
        times.sort();
        let at = |part: usize| {
            times
                .get((times.len() * part / 100).min(times.len().saturating_sub(1)))
                .map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        let busy: f64 = times.iter().map(Duration::as_secs_f64).sum::<f64>() / f64::from(options.writers);
        let held = locks.iter().filter(|((known, _), _)| *known == phase).max_by_key(|(_, held)| **held);
        let held = held
            .map_or_else(|| "–".to_owned(), |((_, what), held)| format!("{:.1} ({what})", held.as_secs_f64() * 1000.0));
        println!(
            "| {name} | {:.0} | {:.2} | {:.2} | {:.1} | {held} |",
            rate(i64::try_from(times.len())?, busy),
            at(50),
            at(99),
            at(100)
        );
    }
    Ok(())
}

/// Changes, adds and removes rows, as fast as it is let; remembers how long each write took.
async fn write(owner: PgConnectOptions, seen: Arc<Seen>, number: u32, rows: i64) -> Anything<()> {
    let mut connection = owner.connect().await?;
    let mut round = i64::from(number) + 1;
    while !seen.stop.load(Ordering::Relaxed) {
        round += i64::from(number) + 2;
        let row = round * 104_729 % rows + 1;
        let statement = match round % 4 {
            0 => "insert into legacy.live (user_id, title) values (1 + $1 % 10, 'new')",
            1 => "delete from legacy.live where id = $1 and title = 'new'",
            _ => "update legacy.live set amount = amount + 1 where id = $1",
        };
        let phase = seen.phase.load(Ordering::Relaxed);
        let begin = Instant::now();
        sqlx::query(statement).bind(row).execute(&mut connection).await?;
        let took = begin.elapsed();
        seen.writes.lock().map_err(|_| "poisoned")?.entry(phase).or_default().push(took);
    }
    Ok(())
}

/// Looks about every millisecond who holds a lock on the table that writers have to wait for, and for how long it is seen.
async fn watch(owner: PgConnectOptions, seen: Arc<Seen>) -> Anything<()> {
    const LOCKS: &str = "select l.mode || ' ' || coalesce(l.virtualtransaction, ''), l.mode
           from pg_locks l join pg_stat_activity a on a.pid = l.pid
          where l.granted and l.locktype = 'relation' and l.relation = 'legacy.live'::regclass and a.application_name = 'tenantry-adopt'
            and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')";
    let mut connection = owner.connect().await?;
    let mut since: BTreeMap<String, Instant> = BTreeMap::new();
    let mut before = Instant::now();
    while !seen.stop.load(Ordering::Relaxed) {
        let held: Vec<(String, String)> = sqlx::query_as(LOCKS).fetch_all(&mut connection).await?;
        let now = Instant::now();
        since.retain(|known, _| held.iter().any(|(key, _)| key == known));
        for (key, mode) in held {
            // It may have been taken right after the look before this one.
            let first = *since.entry(key).or_insert(before);
            let phase = seen.phase.load(Ordering::Relaxed);
            let mut locks = seen.locks.lock().map_err(|_| "poisoned")?;
            let longest = locks.entry((phase, mode)).or_default();
            *longest = (*longest).max(now - first);
        }
        before = now;
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    Ok(())
}
