//! The binary as its users meet it: start, kill, start again; wrong configuration; clients that go away.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tenantry::access::OrganizationRef;
use tenantry::db::{Access, Db, PoolLimits, TenantTx};
use tenantry::local_postgres;
use tokio::process::{Child, Command};

use crate::support::{TestDb, cluster};

fn tenantry() -> Command {
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
fn free_port() -> u16 {
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
            let mut tx = TenantTx::begin(&db, Access::Write, "user_alice", &organization, Arc::default()).await?;
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
        let mut tx = TenantTx::begin(&db, Access::Read, "user_alice", &organization, Arc::default())
            .await
            .expect("a connection");
        let subjects: Vec<String> =
            sqlx::query_scalar("select subject from tenantry.tickets").fetch_all(tx.conn()).await.expect("rows");
        assert!(subjects.len() == 3 && !subjects.iter().any(|subject| subject == "half done"), "{subjects:?}");
    }
    database.at_rest().await;
    assert!(db.usage().0 <= 2);
}

/// The database goes away and comes back: requests fail meanwhile, and work again without a restart.
#[tokio::test]
async fn server_replaces_lost_connections() {
    let database = TestDb::seeded().await;
    let db = database.db();
    let organization = OrganizationRef::Slug("acme-corp".into());
    let begin = || TenantTx::begin(&db, Access::Read, "user_alice", &organization, Arc::default());
    let many = futures_util::future::join_all((0..5).map(|_| begin())).await;
    drop(many);
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
    }
}
