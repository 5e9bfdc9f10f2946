//! `PgBouncer` in transaction mode before the API's connections: `DATABASE_POOLER=transaction`.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tenantry::db::keeps_statements;
use tenantry::local_postgres;

use crate::support::{Setup, TestApp, TestDb, cluster};

/// Sessions of `PostgreSQL` behind the pooler: far fewer than clients, so that every transaction gets any of them.
const SESSIONS: u32 = 3;

struct Bouncer {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into(), "/opt/homebrew/bin".into()]);
    dirs.map(|dir| dir.join("pgbouncer")).find(|program| program.is_file())
}

/// Whether the version of the program is one that keeps prepared statements.
fn can_keep_statements() -> bool {
    let output = Command::new(program().expect("pgbouncer")).arg("--version").output().expect("a version");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(1).expect("PgBouncer 1.x.y");
    let mut parts = version.split('.').map(|part| part.parse::<u32>().expect("a number"));
    (parts.next(), parts.next()) >= (Some(1), Some(21))
}

/// A `PgBouncer` in transaction mode before the tests' `PostgreSQL`, if the machine has the program. It keeps so many prepared
/// statements where its version can.
async fn bouncer(kept: u32) -> Option<Bouncer> {
    let Some(program) = program() else {
        println!("!!!! SKIPPED: the tests of a pooler need the program pgbouncer (Debian: apt-get install pgbouncer)");
        return None;
    };
    let options = cluster().await.server.connect_options(local_postgres::APP_ROLE, "postgres");
    let socket = options.get_socket().expect("a socket").display().to_string();
    // Not below the folder of the build: the pooler runs as another user where we are root.
    let dir = std::env::temp_dir().join(format!(
        "tenantry-pgbouncer-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::create_dir_all(&dir).expect("a folder");
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr()).expect("a port").port();
    let users = dir.join("users.txt");
    std::fs::write(&users, format!("\"{}\" \"\"\n", local_postgres::APP_ROLE)).expect("a file");
    let config = dir.join("pgbouncer.ini");
    let text = format!(
        "[databases]\n* = host={socket} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = trust\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = {SESSIONS}\nmax_client_conn = 200\n{}{}",
        options.get_port(),
        users.display(),
        if can_keep_statements() { format!("max_prepared_statements = {kept}\n") } else { String::new() },
        owner(Path::new(&socket)).map(|name| format!("user = {name}\n")).unwrap_or_default()
    );
    std::fs::write(&config, text).expect("a file");
    open_to_all(&dir);
    let child = Command::new(program).arg(&config).stdout(Stdio::null()).spawn();
    let bouncer = Bouncer { child: child.expect("pgbouncer"), port, dir };
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        assert!(Instant::now() < deadline, "pgbouncer does not listen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Some(bouncer)
}

/// Whose folder this is, unless it is root's: the pooler refuses to run as root, and must be let in.
pub fn owner(dir: &Path) -> Option<String> {
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(dir).ok()?);
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut users = users.lines().map(|line| line.split(':'));
    let found = users.find_map(|mut user| {
        let name = user.next()?;
        (user.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    found.filter(|_| uid != 0)
}

fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("a folder");
}

/// Gives the role the settings that sessions have otherwise, in this database only.
async fn give_settings(database: &TestDb, port: u16) {
    let missing = database.pooled(port).await.missing_settings().await.expect("the settings");
    assert!(missing.iter().any(|line| line.contains("plan_cache_mode")), "nothing is lost silently: {missing:?}");
    assert!(missing.iter().any(|line| line.contains("statement_timeout")), "{missing:?}");
    let mut superuser = database.superuser().await;
    for line in missing {
        let here = line.replacen(" set ", &format!(" in database {} set ", database.name), 1);
        sqlx::raw_sql(AssertSqlSafe(here)).execute(&mut superuser).await.expect("a setting");
    }
    // What is open has the settings of before. Once their sockets are closed, the pooler's next look at its sockets finds them
    // all, before it serves what was asked later.
    let open = format!(
        "from pg_stat_activity where datname = '{}' and usename = '{}'",
        database.name,
        local_postgres::APP_ROLE
    );
    for _ in 0..200 {
        let left: i64 = sqlx::query_scalar(AssertSqlSafe(format!("select count(pg_terminate_backend(pid)) {open}")))
            .fetch_one(&mut superuser)
            .await
            .expect("ended");
        if left == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..200 {
        let kept = keeps_statements(&database.pooler_options(port)).await;
        if kept.is_ok() && database.pooled(port).await.missing_settings().await.is_ok_and(|missing| missing.is_empty())
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the role's settings do not arrive");
}

const QUERY: &str = "{ viewer { user { email } role } organization { slug members(first: 5) { nodes { role user { email } } }
  tickets(first: 5) { totalCount nodes { id subject status priority tags assignee { user { name } } customer { name tier } messages(first: 2) { nodes { body } } } }
  featureFlags { key enabled } subscription { plan status } } }";
const UPDATE: &str = "mutation($i: TicketUpdateInput!) { ticketUpdate(input: $i) { ticket { id priority version assignee { role } } userErrors { code message } } }";

#[tokio::test]
async fn pooler_in_transaction_mode_serves_queries_and_mutations_of_many_clients() {
    queries_and_mutations_of_many_clients(100).await;
}

#[tokio::test]
async fn pooler_that_could_keep_statements_and_does_not_is_noticed() {
    queries_and_mutations_of_many_clients(0).await;
}

async fn queries_and_mutations_of_many_clients(kept: u32) {
    let Some(bouncer) = bouncer(kept).await else { return };
    let app = TestApp::start_with(Setup { pooler: Some(bouncer.port), ..Setup::default() }).await;
    let through = keeps_statements(&app.database.pooler_options(bouncer.port)).await.expect("the pooler");
    assert_eq!(through, kept > 0 && can_keep_statements(), "1.21 and newer can, and are noticed");
    let direct = keeps_statements(&app.database.options(local_postgres::APP_ROLE)).await.expect("the database");
    assert!(!direct, "PostgreSQL itself is not taken for a pooler");
    give_settings(&app.database, bouncer.port).await;
    let (alice, bob) = (
        app.token("alice@example.com", Some("acme-corp")).await,
        app.token("bob@example.com", Some("tech-startup")).await,
    );
    let expected: Vec<Value> =
        [app.data(&alice, QUERY, json!({})).await, app.data(&bob, QUERY, json!({})).await].into_iter().collect();
    assert_eq!(expected[0]["organization"]["slug"], "acme-corp");
    assert_eq!(expected[1]["organization"]["slug"], "tech-startup");
    let ticket = expected[0]["organization"]["tickets"]["nodes"][0]["id"].clone();
    // Two tenants read at once, over three sessions: each sees its own, and nothing of a statement of another.
    for round in 0..5 {
        let asked = (0..24).map(|n| app.data(if n % 2 == 0 { &alice } else { &bob }, QUERY, json!({})));
        for (n, data) in futures_util::future::join_all(asked).await.into_iter().enumerate() {
            assert_eq!(data, expected[n % 2], "round {round}");
        }
    }
    // Changes between them: statements with other types, and the second transaction of a payload with relations.
    let changes = (0..16).map(|n| {
        let priority = ["LOW", "NORMAL", "HIGH", "URGENT"][n % 4];
        app.data(&alice, UPDATE, json!({ "i": { "id": ticket, "priority": priority } }))
    });
    let reads = (0..16).map(|_| app.data(&bob, QUERY, json!({})));
    let (updated, read) =
        futures_util::future::join(futures_util::future::join_all(changes), futures_util::future::join_all(reads))
            .await;
    for data in updated {
        assert_eq!(data["ticketUpdate"]["userErrors"], json!([]));
        assert_eq!(data["ticketUpdate"]["ticket"]["id"], ticket);
    }
    assert!(read.iter().all(|data| *data == expected[1]));
    // An event comes although the pooler passes none on: listening has a connection of its own.
    let sessions: i64 = sqlx::query_scalar(
        "select count(*) from pg_stat_activity where datname = current_database() and usename = $1 and application_name = 'tenantry-api'",
    )
    .bind(local_postgres::APP_ROLE)
    .fetch_one(&mut app.database.superuser().await)
    .await
    .expect("a look");
    assert!((1..=i64::from(SESSIONS)).contains(&sessions), "{sessions} sessions served them all");
}
