//! What breaks around a running server: its database restarts, is read-only, fails over, or has no room left. Clients see coded
//! errors that say to try again; what was answered is there, once; nobody has to help.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tenantry::clock::Clock;
use tenantry::db::{Db, PoolLimits, migrations};
use tenantry::local_postgres::{self, LocalPostgres};
use tenantry::seed;
use tokio::process::{Child, Command};

use crate::door::Door;
use crate::standby::Standby;
use crate::support::TestApp;

const DATABASE: &str = "faults";
/// How long anything may take that must come by itself.
const PATIENCE: Duration = Duration::from_secs(90);

/// A `PostgreSQL` of this test's own, with the sample data. It commits as in production: otherwise a standby is not waited for.
async fn primary(data_dir: &Path) -> LocalPostgres {
    let options = local_postgres::Options { data_dir: data_dir.to_path_buf(), durable: true };
    let primary = LocalPostgres::start(options).await.expect("a server");
    if primary.ensure_database(DATABASE).await.expect("a database") {
        migrations::up(&primary.connect_options(local_postgres::OWNER_ROLE, DATABASE)).await.expect("migrations");
        let app = primary.connect_options(local_postgres::APP_ROLE, DATABASE);
        let system = primary.connect_options(local_postgres::SUPERADMIN_ROLE, DATABASE);
        let db = Db::new(app, system, PoolLimits::default());
        seed::sample_data(&db, &Clock::System).await.expect("the sample data");
        db.close().await;
    }
    primary
}

/// The way to the database through the door, as this role.
fn url(door: &Door, role: &str) -> String {
    format!("postgres://{role}@127.0.0.1:{}/{DATABASE}", door.port)
}

/// Kills the server of these files as a power cut would.
fn kill_9(data_dir: &Path) {
    let pid = std::fs::read_to_string(data_dir.join("postgres/postmaster.pid")).expect("a running server");
    let pid = pid.lines().next().expect("a process id");
    let killed = std::process::Command::new("kill").args(["-9", pid]).status().expect("kill");
    assert!(killed.success());
}

/// The binary over a database behind a door.
struct Server {
    /// Ends with the value.
    _child: Child,
    log: PathBuf,
    url: String,
    token: String,
    client: reqwest::Client,
}

impl Server {
    async fn start(data_dir: &Path, app: &str, system: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        std::fs::create_dir_all(data_dir).expect("a folder");
        let log = data_dir.join("server.log");
        let child = Command::new(env!("CARGO_BIN_EXE_tenantry"))
            .arg("serve")
            .env_clear()
            .env("TENANTRY_DATA_DIR", data_dir)
            .env("DATABASE_URL", app)
            .env("SUPERADMIN_DATABASE_URL", system)
            .env("PORT", port.to_string())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).expect("a log"))
            .kill_on_drop(true)
            .spawn()
            .expect("the binary");
        let url = format!("http://127.0.0.1:{port}");
        let client = reqwest::Client::builder().timeout(Duration::from_mins(1)).build().expect("a client");
        let mut server = Self { _child: child, log, url, token: String::new(), client };
        server.until_ready().await;
        let made = format!("{}/dev/token?user=alice@example.com&org=acme-corp", server.url);
        let made: Value = server.client.get(made).send().await.expect("an answer").json().await.expect("JSON");
        made["token"].as_str().expect("a token").clone_into(&mut server.token);
        server
    }

    async fn readiness(&self) -> (u16, Value) {
        let Ok(answer) = self.client.get(format!("{}/readyz", self.url)).send().await else { return (0, Value::Null) };
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// Waits for a readiness.
    async fn until(&self, what: &str, is_so: impl Fn(u16, &Value) -> bool) {
        let began = Instant::now();
        loop {
            let (status, body) = self.readiness().await;
            if is_so(status, &body) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "not {what}: {status} {body}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn until_ready(&self) {
        self.until("ready", |status, body| status == 200 && !body["detail"].to_string().contains("standby")).await;
    }

    /// The code of the error, or the data.
    async fn ask(&self, query: &str, variables: Value) -> Result<Value, String> {
        let request = self.client.post(format!("{}/graphql", self.url)).bearer_auth(&self.token);
        let answer = request.json(&json!({ "query": query, "variables": variables })).send().await.expect("an answer");
        let status = answer.status();
        let body: Value = answer.json().await.expect("JSON");
        if let Some(code) = body["errors"][0]["extensions"]["code"].as_str() {
            return Err(code.to_owned());
        }
        assert_eq!(status, 200, "{body}");
        Ok(body["data"].clone())
    }

    /// What the log says of mistakes of ours.
    fn mistakes(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains("ERROR") || line.contains("panicked")).map(str::to_owned).collect()
    }

    async fn open_ticket(&self, subject: &str, description: &str) -> Result<i64, String> {
        let open =
            "mutation($i: TicketCreateInput!) { ticketCreate(input: $i) { ticket { number } userErrors { code } } }";
        let input = json!({ "i": { "subject": subject, "description": description, "idempotencyKey": format!("the-key-of-{subject}") } });
        let data = self.ask(open, input).await?;
        data["ticketCreate"]["ticket"]["number"].as_i64().ok_or_else(|| data.to_string())
    }
}

/// Clients that open tickets and read, each again until it was answered, until they are told to stop.
struct Load {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// Subjects and numbers of what was answered.
    opened: BTreeMap<String, i64>,
    /// How often each error was answered.
    refused: BTreeMap<String, u32>,
}

impl Load {
    fn start(server: &Arc<Server>) -> Self {
        static NAMES: AtomicU32 = AtomicU32::new(0);
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let tasks = (0..6).map(|_| {
            let (server, stop, seen) = (Arc::clone(server), Arc::clone(&stop), Arc::clone(&seen));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let subject = format!("load-{}", NAMES.fetch_add(1, Ordering::Relaxed));
                    let began = Instant::now();
                    loop {
                        match server.open_ticket(&subject, "").await {
                            Ok(number) => {
                                seen.lock().expect("no panic").opened.insert(subject, number);
                                break;
                            }
                            Err(code) => *seen.lock().expect("no panic").refused.entry(code).or_default() += 1,
                        }
                        assert!(began.elapsed() < PATIENCE, "{subject} was never opened");
                        tokio::time::sleep(Duration::from_millis(30)).await;
                    }
                    let read =
                        server.ask("{ organization { tickets(first: 5) { nodes { number } } } }", json!({})).await;
                    if let Err(code) = read {
                        *seen.lock().expect("no panic").refused.entry(code).or_default() += 1;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        });
        Self { tasks: tasks.collect(), stop, seen }
    }

    fn opened(&self) -> usize {
        self.seen.lock().expect("no panic").opened.len()
    }

    /// Waits until so many more were opened.
    async fn goes_on(&self) {
        let (before, began) = (self.opened(), Instant::now());
        while self.opened() < before + 12 {
            assert!(began.elapsed() < PATIENCE, "it does not go on: {:?}", self.seen.lock().expect("no panic").refused);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the load; every error said to try again, every ticket that was answered is there, and none twice.
    async fn end(self, server: &Server, database: &mut PgConnection) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no panic of a client");
        }
        let Seen { opened, refused } = std::mem::take(&mut *self.seen.lock().expect("no panic"));
        println!("opened {}, refused {refused:?}", opened.len());
        let again = ["UNAVAILABLE", "TIMEOUT", "IDEMPOTENCY_CONCURRENT_REQUEST"];
        let all_coded = refused.keys().all(|code| again.contains(&code.as_str()));
        assert!(all_coded, "{refused:?}: {:#?}", server.mistakes());
        assert!(refused.contains_key("UNAVAILABLE"), "nothing was refused: this shows nothing");
        let rows: Vec<(String, i64)> =
            sqlx::query_as("select subject, number::bigint from tenantry.tickets where subject like 'load-%'")
                .fetch_all(database)
                .await
                .expect("the tickets");
        let there: BTreeMap<String, i64> = rows.iter().cloned().collect();
        assert_eq!(there.len(), rows.len(), "a ticket was opened twice");
        assert_eq!(there, opened);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_restart_refuse_to_write_and_fail_over() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}", std::process::id()));
    let data_dir = local_postgres::reachable_data_dir(folder);
    let first = primary(&data_dir).await;
    let Some(standby) = Standby::start(&first) else { return };
    let superuser = first.connect_options(local_postgres::SUPERUSER, DATABASE);
    // What was answered is on both.
    let mut admin = superuser.connect().await.expect("the superuser");
    for statement in ["alter system set synchronous_standby_names = '*'", "select pg_reload_conf()"] {
        sqlx::raw_sql(statement).execute(&mut admin).await.expect("a setting");
    }
    drop(admin);
    let copy = superuser.clone().socket(standby.socket_dir());
    let door = Door::open(&superuser).await;
    let server = Server::start(
        &data_dir.join("keys"),
        &url(&door, local_postgres::APP_ROLE),
        &url(&door, local_postgres::SUPERADMIN_ROLE),
    )
    .await;
    let server = Arc::new(server);
    let load = Load::start(&server);
    load.goes_on().await;

    // It dies and comes back.
    kill_9(&data_dir);
    server.until("away", |status, _| status == 503).await;
    drop(first);
    let first = primary(&data_dir).await;
    server.until_ready().await;
    load.goes_on().await;

    // The address leads to a standby for a while: reading goes on, and nobody closes these connections.
    door.lead_to(&copy);
    door.cut();
    server.until("read-only", |status, body| status == 200 && body["detail"].to_string().contains("standby")).await;
    let listed = server.ask("{ organization { tickets(first: 1) { nodes { number } } } }", json!({})).await;
    assert!(listed.is_ok(), "{listed:?}");
    assert_eq!(server.open_ticket("never", "").await, Err("UNAVAILABLE".to_owned()));
    door.lead_to(&superuser);
    // Nobody asks whether it is ready meanwhile: writing finds out by itself.
    load.goes_on().await;
    server.until_ready().await;

    // The primary is gone for good, the standby takes its place.
    kill_9(&data_dir);
    standby.promote();
    door.lead_to(&copy);
    server.until_ready().await;
    load.goes_on().await;

    let mut database = copy.connect().await.expect("the new primary");
    load.end(&server, &mut database).await;
    database.close().await.ok();
    drop((server, first));
    std::fs::remove_dir_all(&data_dir).ok();
}

/// A file system of this size, gone with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(megabytes: u32) -> Option<Self> {
        let at = std::env::temp_dir().join(format!("tenantry-small-disk-{}", std::process::id()));
        std::fs::create_dir_all(&at).expect("a folder");
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=755"), "tmpfs"])
            .arg(&at)
            .stderr(Stdio::null());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self(at));
        }
        std::fs::remove_dir(&at).ok();
        None
    }

    /// Takes all the room that is left.
    fn fill(&self) -> PathBuf {
        let (path, some) = (self.0.join("filling"), vec![0; 64 * 1024]);
        let mut file = std::fs::File::create(&path).expect("a file");
        while std::io::Write::write_all(&mut file, &some).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(&self.0).status().ok();
        std::fs::remove_dir(&self.0).ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disks_of_the_database_refuse_what_needs_room_and_nothing_else() {
    let Some(disk) = SmallDisk::mount(300) else {
        println!("!!!! SKIPPED: a full disk needs the right to mount a small one");
        return;
    };
    let data_dir = disk.0.join("data");
    let database = primary(&data_dir).await;
    let keys = local_postgres::reachable_data_dir(
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("full-{}", std::process::id())),
    );
    let door = Door::open(&database.connect_options(local_postgres::SUPERUSER, DATABASE)).await;
    let server =
        Server::start(&keys, &url(&door, local_postgres::APP_ROLE), &url(&door, local_postgres::SUPERADMIN_ROLE)).await;
    let filling = disk.fill();
    // Texts that do not compress.
    let noise = (0..1500_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let long = noise.fold(String::new(), |text, n| text + &format!("{n:016x}"));
    let mut codes = BTreeSet::new();
    let mut opened = Vec::new();
    for n in 0..400 {
        let subject = format!("big-{n}");
        match server.open_ticket(&subject, &long).await {
            Ok(_) => opened.push(subject),
            Err(code) => drop(codes.insert(code)),
        }
        if codes.len() == 1 && n % 8 == 0 && opened.len() < n {
            break;
        }
    }
    assert_eq!(codes, BTreeSet::from(["UNAVAILABLE".to_owned()]), "after {} tickets", opened.len());
    std::fs::remove_file(&filling).expect("room again");
    let began = Instant::now();
    while server.open_ticket("after", &long).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "it did not recover");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut admin =
        database.connect_options(local_postgres::SUPERUSER, DATABASE).connect().await.expect("the superuser");
    let there: Vec<String> =
        sqlx::query_scalar("select subject from tenantry.tickets where subject like 'big-%' order by number")
            .fetch_all(&mut admin)
            .await
            .expect("the tickets");
    assert_eq!(there, opened);
    admin.close().await.ok();
    drop((server, database, disk));
    std::fs::remove_dir_all(&keys).ok();
}

#[tokio::test]
async fn clocks_that_jump_lose_nothing_and_double_nothing() {
    let app = TestApp::start_in_still_time().await;
    let mut opened = BTreeMap::new();
    // Ahead by a season, back by two, and right again.
    for (jump, days) in [0, 100, -200, 100].into_iter().enumerate() {
        app.clock.advance(TimeDelta::days(days));
        let alice = app.token("alice@example.com", Some("acme-corp")).await;
        for n in 0..3 {
            let (subject, key) = (format!("jump {jump}, {n}"), format!("a-key-of-jump-{jump}-{n}"));
            let input = json!({ "subject": subject, "idempotencyKey": key });
            let made = app.done(&alice, "ticketCreate", "ticket { id number subject }", input.clone()).await;
            // Asked again it is the same, whatever time it is.
            let again = app.done(&alice, "ticketCreate", "ticket { id number subject }", input).await;
            assert_eq!(again, made);
            let id = made["ticket"]["id"].as_str().expect("an id").to_owned();
            app.done(&alice, "ticketUpdate", "ticket { version }", json!({ "id": id, "priority": "HIGH" })).await;
            assert_eq!(opened.insert(made["ticket"]["number"].as_i64().expect("a number"), id), None);
        }
    }
    assert_eq!(opened.keys().copied().collect::<Vec<_>>(), (4..16).collect::<Vec<i64>>(), "numbers without gaps");
    // Every change is in the audit log, whenever it was, and the log can be sealed.
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let mut seen = 0;
    let mut after = Value::Null;
    loop {
        let page = "query($after: String) { organization { auditLogs(first: 100, after: $after) { nodes { action resource { id } } pageInfo { hasNextPage endCursor } } } }";
        let page = app.data(&alice, page, json!({ "after": after })).await["organization"]["auditLogs"].clone();
        let nodes = page["nodes"].as_array().expect("a page");
        seen += nodes.iter().filter(|node| opened.values().any(|id| node["resource"]["id"] == id.as_str())).count();
        if page["pageInfo"]["hasNextPage"] == false {
            break;
        }
        after = page["pageInfo"]["endCursor"].clone();
    }
    assert_eq!(seen, 24, "an opening and a change each");
}
