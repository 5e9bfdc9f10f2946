//! The binary as its users meet it: start, kill, start again; wrong configuration; clients that go away.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Row as _};
use tenantry::access::OrganizationRef;
use tenantry::db::{Db, PoolLimits, TenantTx};
use tenantry::local_postgres;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::support::{TestDb, cluster, metrics};

pub fn tenantry() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenantry"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).kill_on_drop(true);
    for name in ["HOME", "PG_BIN", "XDG_CACHE_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// A free port: taken for a moment and given back.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

struct Running {
    child: Child,
    url: String,
}

async fn serve(data_dir: &PathBuf) -> Running {
    let port = free_port();
    let child = tenantry()
        .arg("serve")
        .env("TENANTRY_DATA_DIR", data_dir)
        .env("PORT", port.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary");
    let url = format!("http://127.0.0.1:{port}");
    let client = reqwest::Client::new();
    for _ in 0..600 {
        if client.get(format!("{url}/readyz")).send().await.is_ok_and(|response| response.status() == 200) {
            return Running { child, url };
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the server did not get ready");
}

async fn run(url: &str, token: &str, query: &str) -> Value {
    let request =
        reqwest::Client::new().post(format!("{url}/graphql")).bearer_auth(token).json(&json!({ "query": query }));
    request.send().await.expect("a response").json().await.expect("JSON")
}

async fn token(url: &str) -> String {
    let answer =
        reqwest::get(format!("{url}/dev/token?user=alice@example.com&org=acme-corp")).await.expect("a response");
    answer.json::<Value>().await.expect("JSON")["token"].as_str().expect("a token").to_owned()
}

/// One command on an empty folder: a server with sample data. Killed with -9, it comes back with its data.
#[tokio::test]
async fn server_starts_from_nothing_and_survives_kill_9() {
    let data_dir = local_postgres::reachable_data_dir(
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("kill-{}", std::process::id())),
    );
    let mut first = serve(&data_dir).await;
    let alice = token(&first.url).await;
    let created = run(
        &first.url,
        &alice,
        "mutation { ticketCreate(input: { subject: \"before the crash\" }) { ticket { number } } }",
    )
    .await;
    assert_eq!(created["data"]["ticketCreate"]["ticket"]["number"], 4, "{created}");
    first.child.kill().await.expect("kill -9");

    let mut second = serve(&data_dir).await;
    // Tokens stay good: the keys are kept as well.
    let list =
        run(&second.url, &alice, "{ organization { tickets(first: 1) { totalCount nodes { subject } } } }").await;
    assert_eq!(
        list["data"]["organization"]["tickets"],
        json!({ "totalCount": 4, "nodes": [{ "subject": "before the crash" }] }),
        "{list}"
    );

    // Once a second budgets are shared with other instances, and those that are full are forgotten.
    let mut rounds = 0..300;
    loop {
        let metrics = metrics(&second.url).await;
        if metrics.contains("tenantry_api_budgets 0\n") {
            break;
        }
        rounds.next().unwrap_or_else(|| panic!("budgets stay: {metrics}"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    // The commands of the README attach to the running server.
    let output = tenantry()
        .args(["token", "--user", "alice@example.com", "--org", "acme-corp"])
        .env("TENANTRY_DATA_DIR", &data_dir)
        .output()
        .await
        .expect("a token");
    let printed = String::from_utf8(output.stdout).expect("text");
    let again = run(&second.url, printed.trim(), "{ viewer { user { email } } }").await;
    assert_eq!(again["data"]["viewer"]["user"]["email"], "alice@example.com", "{again}");
    let verified =
        tenantry().args(["verify", "--json"]).env("TENANTRY_DATA_DIR", &data_dir).output().await.expect("verify");
    assert_eq!((verified.status.code(), String::from_utf8_lossy(&verified.stdout).trim()), (Some(0), "[]"));
    let status =
        tenantry().args(["migrate", "status"]).env("TENANTRY_DATA_DIR", &data_dir).output().await.expect("status");
    assert_eq!(status.status.code(), Some(0));

    // A polite stop ends with 0.
    let pid = second.child.id().expect("a running child").to_string();
    Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill");
    let ended =
        tokio::time::timeout(Duration::from_secs(20), second.child.wait()).await.expect("in time").expect("an end");
    assert_eq!(ended.code(), Some(0));
    std::fs::remove_dir_all(&data_dir).ok();
}

#[tokio::test]
async fn server_refuses_a_configuration_that_is_not_safe() {
    let refused = async |variables: &[(&str, &str)]| {
        let mut command = tenantry();
        for (name, value) in variables {
            command.env(name, value);
        }
        let output = command.arg("serve").output().await.expect("the binary");
        assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = refused(&[("TENANTRY_ENV", "production")]).await;
    for name in ["DATABASE_URL", "AUTH_JWKS_URL", "AUTH_ISSUER"] {
        assert!(text.contains(name), "{text}");
    }
    assert!(refused(&[("PORT", "none")]).await.contains("PORT"));
    // The superuser as the API's role.
    let database = TestDb::seeded().await;
    let server = &cluster().await.server;
    let (superuser, superadmin) = (
        server.url(local_postgres::SUPERUSER, &database.name),
        server.url(local_postgres::SUPERADMIN_ROLE, &database.name),
    );
    let text = refused(&[("DATABASE_URL", &superuser), ("SUPERADMIN_DATABASE_URL", &superadmin)]).await;
    assert!(text.contains("superuser"), "{text}");
}

/// `PgBouncer` in the way: the start says so, and what to do.
#[tokio::test]
async fn server_names_a_pooler_that_refuses_its_settings() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut packet = [0; 2048];
            assert!(client.read(&mut packet).await.is_ok_and(|read| read > 0), "a start-up packet");
            let fields = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: extra_float_digits\0\0";
            let length = u32::try_from(fields.len() + 4).expect("a short text");
            client.write_all(&[&b"E"[..], &length.to_be_bytes(), fields].concat()).await.ok();
        }
    });
    let url = format!("postgres://tenantry_api@127.0.0.1:{port}/x?sslmode=disable");
    let output = tenantry()
        .arg("serve")
        .envs([("DATABASE_URL", &url), ("SUPERADMIN_DATABASE_URL", &url), ("MIGRATION_DATABASE_URL", &url)])
        .output()
        .await
        .expect("the binary");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("pooler") && text.contains("extra_float_digits"), "{text}");
}

#[tokio::test]
async fn token_command_makes_none_in_production() {
    let output = tenantry()
        .args(["token", "--user", "alice@example.com"])
        .envs([
            ("TENANTRY_ENV", "production"),
            ("DATABASE_URL", "postgres://x@localhost/x"),
            ("AUTH_JWKS_URL", "https://issuer.example/jwks"),
            ("AUTH_ISSUER", "https://issuer.example"),
        ])
        .output()
        .await
        .expect("the binary");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
}

/// Open connections of the API's pools.
fn open_connections(db: &Db) -> u32 {
    let [read, write, _] = db.usage();
    [read, write].iter().map(|pool| pool.in_use + pool.idle).sum()
}

/// A client that goes away in mid-statement leaves neither an open transaction nor a connection that is dirty.
#[tokio::test]
async fn server_keeps_nothing_of_a_cancelled_request() {
    let database = TestDb::seeded().await;
    let limits = PoolLimits { max_connections: 2, ..PoolLimits::default() };
    let db =
        Db::new(database.options(local_postgres::APP_ROLE), database.options(local_postgres::SUPERADMIN_ROLE), limits);
    let organization = OrganizationRef::Slug("acme-corp".into());
    for round in 0..10 {
        let (db, organization) = (db.clone(), organization.clone());
        let request = tokio::spawn(async move {
            let mut tx = TenantTx::begin(&db, "user_alice", &organization, Arc::default()).await?;
            sqlx::query("update tenantry.tickets set subject = 'half done'").execute(tx.conn()).await?;
            sqlx::query("select pg_sleep(0.4)").execute(tx.conn()).await?;
            tx.commit().await
        });
        // Now before the statement, now in it, now in the opening.
        tokio::time::sleep(Duration::from_millis(round * 3)).await;
        request.abort();
        drop(request.await);
    }
    // Every connection is good again, and none of them remembers its tenant.
    for _ in 0..4 {
        let mut tx = TenantTx::begin(&db, "user_alice", &organization, Arc::default()).await.expect("a connection");
        let subjects: Vec<String> =
            sqlx::query_scalar("select subject from tenantry.tickets").fetch_all(tx.conn()).await.expect("rows");
        assert!(subjects.len() == 3 && !subjects.iter().any(|subject| subject == "half done"), "{subjects:?}");
    }
    database.at_rest().await;
    assert!(open_connections(&db) <= 2);
}

/// A reader that goes away in mid-statement: the statement is cancelled, not waited for, and the connection is good again.
#[tokio::test]
async fn server_cancels_what_nobody_waits_for() {
    let database = TestDb::seeded().await;
    let limits = PoolLimits { max_connections: 2, ..PoolLimits::default() };
    let db =
        Db::new(database.options(local_postgres::APP_ROLE), database.options(local_postgres::SUPERADMIN_ROLE), limits);
    let organization = OrganizationRef::Slug("acme-corp".into());
    let read = || TenantTx::read(&db, "user_alice", &organization, Arc::default());
    for round in 0..10 {
        let tx = read().await.expect("the only connection for reading");
        // Longer than the connection is waited for: without a cancellation the next round would get none.
        let statement = tx.fetch("select pg_sleep(14), count(*) from tenantry.tickets", &[]);
        tokio::time::timeout(Duration::from_millis(round * 3), statement).await.expect_err("it sleeps");
        drop(tx);
    }
    let tx = read().await.expect("a connection");
    let rows = tx.fetch("select subject from tenantry.tickets", &[]).await.expect("rows");
    assert_eq!(rows.len(), 3);
    assert!(tx.fetch("delete from tenantry.tickets", &[]).await.is_err(), "it is read only");
    drop(tx);
    database.at_rest().await;
    assert!(open_connections(&db) <= 2);
}

/// What leaves together with an opening that fails sees nothing.
#[tokio::test]
async fn server_shows_no_rows_to_what_follows_a_failed_opening() {
    let database = TestDb::seeded().await;
    let mut app = database.options(local_postgres::APP_ROLE).connect().await.expect("the app role");
    let text = "begin isolation level repeatable read read only;
                select user_id from tenantry.enter_tenant('user_alice', null, null, null, 'acme-corp');
                select count(*) from tenantry.tickets; rollback;
                begin isolation level repeatable read read only;
                select user_id from tenantry.enter_tenant('user_alice', null, null, null, 'tech-startup');
                select count(*) from tenantry.tickets; rollback";
    let rows = sqlx::raw_sql(text).fetch_all(&mut app).await.expect("rows");
    // A member's id and three tickets; then no member, and nothing of the tenant before.
    let counts: Vec<i64> = rows.iter().filter_map(|row| row.try_get::<i64, _>(0).ok()).collect();
    assert_eq!((rows.len(), counts), (3, vec![3, 0]));
}

/// The database goes away and comes back: requests fail meanwhile, and work again without a restart.
#[tokio::test]
async fn server_replaces_lost_connections() {
    let database = TestDb::seeded().await;
    let db = database.db();
    let organization = OrganizationRef::Slug("acme-corp".into());
    let begin = || TenantTx::begin(&db, "user_alice", &organization, Arc::default());
    let many = futures_util::future::join_all((0..5).map(|_| begin())).await;
    let read = || TenantTx::read(&db, "user_alice", &organization, Arc::default());
    let readers = futures_util::future::join_all((0..5).map(|_| read())).await;
    drop((many, readers));
    database.at_rest().await;
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and usename = 'tenantry_app'",
    )
    .bind(&database.name)
    .execute(&mut database.superuser().await)
    .await
    .expect("terminate");
    for _ in 0..5 {
        begin().await.expect("a new connection in place of the dead one");
        read().await.expect("a new connection for reading in place of the dead one");
    }
}
