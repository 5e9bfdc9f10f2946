//! Evaluations of feature flags over OFREP beside a bare axum handler that returns the same bytes; how long a change takes to be seen
//! by two instances; what 10,000 organizations with 200 flags take of memory.
//!
//! `cargo bench --bench flags [-- --seconds 6 --rounds 3 --connections 32 --changes 300 --organizations 10000 --overrides 5]`
//! (`--profile dist` measures what is deployed)
//!
//! Starts a `PostgreSQL` of its own (fsync on, kept between runs) and two instances on it. The handler is a process of its own. They
//! take turns; the figures are medians of the rounds. Everything stays on this machine, is bounded in time and ends what it started.

mod support;

use std::io::{self, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};
use tenantry::auth::api_key::ApiKeySecret;
use tenantry::clock::Clock;
use tenantry::db::{Db, PoolLimits, migrations};
use tenantry::local_postgres::{self, LocalPostgres};
use tenantry::seed;

use support::{Anything, DATABASE, Server, cpu_seconds, exchange};

/// Flags of a bulk answer.
const FLAGS: usize = 50;
/// Flags of the measurement of memory.
const MANY_FLAGS: usize = 200;

struct Options {
    seconds: u64,
    rounds: usize,
    connections: usize,
    changes: usize,
    organizations: usize,
    overrides: usize,
}

fn options() -> Anything<Options> {
    let mut options =
        Options { seconds: 6, rounds: 3, connections: 32, changes: 300, organizations: 10_000, overrides: 5 };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--seconds" => options.seconds = value.parse::<u64>()?.clamp(1, 120),
            "--rounds" => options.rounds = value.parse::<usize>()?.clamp(1, 20),
            "--connections" => options.connections = value.parse::<usize>()?.clamp(1, 256),
            "--changes" => options.changes = value.parse::<usize>()?.clamp(2, 10_000),
            "--organizations" => options.organizations = value.parse::<usize>()?.clamp(1, 100_000),
            "--overrides" => options.overrides = value.parse::<usize>()?.clamp(0, MANY_FLAGS),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}

fn main() -> Anything<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, bare, port, folder] = arguments.as_slice()
        && bare == "--bare"
    {
        return serve_bare(port.parse()?, Path::new(folder));
    }
    let options = options()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let data_dir = local_postgres::reachable_data_dir(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-flags"));
    let postgres = runtime
        .block_on(LocalPostgres::start(local_postgres::Options { data_dir: data_dir.clone(), durable: true }))?;
    let (mut admin, key) = runtime.block_on(prepare(&postgres))?;
    let start = || Server::start(&postgres, &data_dir, &["--role", "api"], &[("OFREP_RATE_LIMIT", "0")]);
    let instances = [start()?, start()?];
    let mut table = Vec::new();
    println!(
        "| | req/s | of the bare handler | p50, p99 ms | CPU µs | bare req/s, p99 ms |\n|---|---|---|---|---|---|"
    );
    for (name, path, context) in [
        (
            "one flag",
            "/ofrep/v1/evaluate/flags/bench-00",
            json!({ "targetingKey": "customer-7", "email": "someone@example.com" }),
        ),
        ("one flag, a rollout of users", "/ofrep/v1/evaluate/flags/bench-01", json!({ "targetingKey": "customer-7" })),
        ("all 50", "/ofrep/v1/evaluate/flags", json!({ "targetingKey": "customer-7", "email": "someone@example.com" })),
    ] {
        table.push(beside_bare(&instances[0], &data_dir, &options, name, path, &key, &context)?);
    }
    let seen = runtime.block_on(changes(&mut admin, &instances, &key, options.changes))?;
    println!(
        "\nA change, from its commit until two instances show it: p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms, of {}",
        seen.0, seen.1, seen.2, options.changes
    );
    let memory = runtime.block_on(memory(&mut admin, &instances[0], &options))?;
    println!(
        "{} organizations with {} flags and {} overrides each: {} bytes of snapshot by its own count ({} an organization), {} bytes of the process more than before",
        options.organizations,
        MANY_FLAGS,
        options.overrides,
        memory.0,
        memory.0 / u64::try_from(options.organizations)?,
        memory.1
    );
    let json = json!({ "evaluations": table, "changeVisibleMs": { "p50": seen.0, "p99": seen.1, "most": seen.2 }, "snapshotBytes": memory.0, "processBytes": memory.1 });
    std::fs::write(
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-flags.json"),
        serde_json::to_string_pretty(&json)?,
    )?;
    Ok(())
}

/// The sample data, flags of several kinds, and a key.
async fn prepare(postgres: &LocalPostgres) -> Anything<(PgConnection, String)> {
    postgres.ensure_database(DATABASE).await?;
    migrations::up(&postgres.connect_options(local_postgres::OWNER_ROLE, DATABASE)).await?;
    let app = postgres.connect_options(local_postgres::APP_ROLE, DATABASE);
    let superadmin = postgres.connect_options(local_postgres::SUPERADMIN_ROLE, DATABASE);
    let db = Db::new(app, superadmin.clone(), PoolLimits::default());
    seed::sample_data(&db, &Clock::System).await?;
    db.close().await;
    let mut admin = superadmin.connect().await?;
    let clean = "delete from tenantry.feature_flag_definitions; delete from tenantry.subscriptions s using tenantry.organizations o where o.id = s.organization_id and o.slug like 'flags-%'; delete from tenantry.organizations where slug like 'flags-%'";
    sqlx::raw_sql(clean).execute(&mut admin).await?;
    flags(&mut admin, FLAGS).await?;
    let key = ApiKeySecret::default();
    sqlx::query(
        "insert into tenantry.api_keys (organization_id, id, name, prefix, key_hash, scopes)
         select id, gen_random_uuid(), 'bench', $1, $2, '{FEATURE_FLAG_READ}' from tenantry.organizations where slug = 'acme-corp'",
    )
    .bind(key.shown())
    .bind(&key.hash()[..])
    .execute(&mut admin)
    .await?;
    Ok((admin, key.text().to_owned()))
}

/// So many flags: every second one counts users, every fifth is of a plan, every tenth has variants.
async fn flags(admin: &mut PgConnection, count: usize) -> Anything<()> {
    sqlx::query(
        "insert into tenantry.feature_flag_definitions (id, key, name, kind, default_enabled, minimum_plan, rollout_percentage, rollout_unit, value_type, variants)
         select gen_random_uuid(), 'bench-' || lpad(n::text, 2, '0'), 'Bench', 'RELEASE', true,
                case when n % 5 = 4 then 'PRO'::tenantry.organization_plan end, case when n % 2 = 1 then 50 end,
                case when n % 2 = 1 then 'USER' else 'ORGANIZATION' end::tenantry.flag_rollout_unit,
                case when n % 10 = 6 then 'STRING' else 'BOOLEAN' end::tenantry.flag_value_type,
                case when n % 10 = 6 then '[{\"name\":\"a\",\"value\":\"first\",\"weight\":1},{\"name\":\"b\",\"value\":\"second\",\"weight\":1}]' else '[]' end::jsonb
           from generate_series(0, $1 - 1) n
             on conflict (key) do nothing",
    )
    .bind(i32::try_from(count)?)
    .execute(admin)
    .await?;
    Ok(())
}

fn request(path: &str, key: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn beside_bare(
    instance: &Server,
    data_dir: &Path,
    options: &Options,
    name: &str,
    path: &str,
    key: &str,
    context: &Value,
) -> Anything<Value> {
    let request = request(path, key, &json!({ "context": context }));
    let mut stream = BufReader::new(TcpStream::connect(instance.address)?);
    let answer = exchange(&mut stream, &request)?;
    std::fs::write(data_dir.join("bare-answer.json"), &answer)?;
    let bare = Bare::start(data_dir)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        ours.push(load(instance.address, instance.child.id(), &request, options)?);
        theirs.push(load(bare.address, bare.child.id(), &request, options)?);
    }
    let of = |measured: &[Measured], what: fn(&Measured) -> f64| median(measured.iter().map(what).collect());
    let (rate, bare_rate) = (of(&ours, |m| m.per_second), of(&theirs, |m| m.per_second));
    let (p50, p99, cpu) = (of(&ours, |m| m.p50), of(&ours, |m| m.p99), of(&ours, |m| m.cpu_micros));
    let bare_p99 = of(&theirs, |m| m.p99);
    println!(
        "| {name}, {} bytes | {rate:.0} | {:.0} % | {p50:.2}, {p99:.2} | {cpu:.1} | {bare_rate:.0}, {bare_p99:.2} |",
        answer.len(),
        100.0 * rate / bare_rate
    );
    Ok(
        json!({ "what": name, "perSecond": rate, "barePerSecond": bare_rate, "p50": p50, "p99": p99, "bareP99": bare_p99, "cpuMicros": cpu }),
    )
}

/// A process that reads each request's body and answers it with the bytes of a file.
struct Bare {
    child: Child,
    address: SocketAddr,
}

impl Bare {
    fn start(folder: &Path) -> Anything<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(std::env::current_exe()?);
        let child = command.arg("--bare").arg(port.to_string()).arg(folder).stdout(Stdio::null()).spawn()?;
        let bare = Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(bare.address).is_err() {
            if Instant::now() > deadline {
                return Err("the bare handler did not start".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(bare)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // Ended already is as good.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn serve_bare(port: u16, folder: &Path) -> Anything<()> {
    let answer = bytes::Bytes::from(std::fs::read(folder.join("bare-answer.json"))?);
    let json = [(axum::http::header::CONTENT_TYPE, "application/json; charset=utf-8")];
    let router = axum::Router::new().fallback(move |_: bytes::Bytes| async move { (json, answer) });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        Ok(axum::serve(listener, router).await?)
    })
}

struct Measured {
    per_second: f64,
    p50: f64,
    p99: f64,
    cpu_micros: f64,
}

fn load(address: SocketAddr, pid: u32, request: &[u8], options: &Options) -> Anything<Measured> {
    let (stop, counting) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let latencies = Arc::new(Mutex::new(Vec::new()));
    std::thread::scope(|scope| -> Anything<Measured> {
        let mut workers = Vec::new();
        for _ in 0..options.connections {
            let (stop, counting, latencies) = (&stop, &counting, &latencies);
            workers.push(scope.spawn(move || -> io::Result<()> {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                let mut stream = BufReader::with_capacity(64 * 1024, stream);
                let mut own = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    exchange(&mut stream, request)?;
                    if counting.load(Ordering::Relaxed) {
                        own.push(start.elapsed().as_secs_f64() * 1000.0);
                    }
                }
                latencies.lock().map_err(|_| io::Error::other("a worker panicked"))?.extend(own);
                Ok(())
            }));
        }
        std::thread::sleep(Duration::from_secs(1));
        let (cpu, start) = (cpu_seconds(pid), Instant::now());
        counting.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs(options.seconds));
        counting.store(false, Ordering::Relaxed);
        let (elapsed, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds(pid) - cpu);
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().map_err(|_| "a worker panicked")??;
        }
        let mut latencies: Vec<f64> = latencies.lock().map_err(|_| "a worker panicked")?.clone();
        latencies.sort_by(f64::total_cmp);
        let done = f64::from(u32::try_from(latencies.len())?);
        let at = |percent| share(&latencies, percent);
        Ok(Measured { per_second: done / elapsed, p50: at(50), p99: at(99), cpu_micros: 1e6 * cpu / done })
    })
}

/// Of ascending values.
fn share(values: &[f64], percent: usize) -> f64 {
    values.get(values.len() * percent / 100).copied().unwrap_or(f64::NAN)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    share(&values, 50)
}

/// Milliseconds from the commit of an override until both instances decide by it: p50, p99 and the longest.
async fn changes(
    admin: &mut PgConnection,
    instances: &[Server; 2],
    key: &str,
    count: usize,
) -> Anything<(f64, f64, f64)> {
    let request = request("/ofrep/v1/evaluate/flags/bench-00", key, &json!({}));
    let mut streams = Vec::new();
    for instance in instances {
        let stream = TcpStream::connect(instance.address)?;
        stream.set_nodelay(true)?;
        streams.push(BufReader::new(stream));
    }
    let mut seen = Vec::new();
    for number in 0..count {
        let on = number % 2 == 1;
        sqlx::query(
            "insert into tenantry.organization_feature_flags as f (organization_id, id, flag_key, enabled)
             select id, gen_random_uuid(), 'bench-00', $1 from tenantry.organizations where slug = 'acme-corp'
                 on conflict (organization_id, flag_key) do update set enabled = excluded.enabled",
        )
        .bind(on)
        .execute(&mut *admin)
        .await?;
        let committed = Instant::now();
        for stream in &mut streams {
            while serde_json::from_slice::<Value>(&exchange(stream, &request)?)?["value"] != json!(on) {
                if committed.elapsed() > Duration::from_secs(30) {
                    return Err("a change is not seen".into());
                }
            }
        }
        seen.push(committed.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    seen.sort_by(f64::total_cmp);
    Ok((share(&seen, 50), share(&seen, 99), seen.last().copied().unwrap_or(f64::NAN)))
}

/// Bytes of the snapshot by its own count, and of the process, with many organizations.
async fn memory(admin: &mut PgConnection, instance: &Server, options: &Options) -> Anything<(u64, u64)> {
    let before = resident(instance.child.id());
    flags(admin, MANY_FLAGS).await?;
    let (organizations, overrides) = (options.organizations, options.overrides);
    sqlx::raw_sql(AssertSqlSafe(format!(
        "set statement_timeout = 0;
         insert into tenantry.organizations (id, name, slug) select gen_random_uuid(), 'Flags', 'flags-' || n from generate_series(1, {organizations}) n;
         insert into tenantry.subscriptions (organization_id, id, status, plan)
         select id, gen_random_uuid(), 'ACTIVE', 'PRO' from tenantry.organizations where slug like 'flags-%';
         insert into tenantry.organization_feature_flags (organization_id, id, flag_key, enabled)
         select o.id, gen_random_uuid(), 'bench-' || lpad(n::text, 2, '0'), true
           from tenantry.organizations o cross join generate_series(0, {overrides} - 1) n where o.slug like 'flags-%'"
    )))
    .execute(&mut *admin)
    .await?;
    let deadline = Instant::now() + Duration::from_mins(2);
    let mut stream = BufReader::new(TcpStream::connect(instance.address)?);
    loop {
        let metrics = exchange(&mut stream, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let metrics = String::from_utf8(metrics)?;
        let figure = |name: &str| -> Option<u64> {
            metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        if figure("tenantry_flags_organizations ")
            .is_some_and(|known| known >= u64::try_from(organizations).unwrap_or(u64::MAX))
        {
            let bytes = figure("tenantry_flags_snapshot_bytes ").ok_or("no such metric")?;
            return Ok((bytes, resident(instance.child.id()).saturating_sub(before)));
        }
        if Instant::now() > deadline {
            return Err("the organizations are not loaded".into());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Bytes of a process in memory (Linux; elsewhere 0).
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
