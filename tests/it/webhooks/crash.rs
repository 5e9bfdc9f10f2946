//! The binary: killed in the middle of a flood, split into its roles, stopped politely.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenantry::clock::Clock;
use tenantry::local_postgres;
use tenantry::webhook_events::WebhookSource::Clerk;
use tokio::process::{Child, Command};

use super::worker::{effects, poison, with_effect};
use super::{PENDING, clerk, count, none_left, secret, secret_text, signed};
use crate::support::{TestDb, cluster};

pub async fn tenantry(database: &TestDb) -> Command {
    let server = &cluster().await.server;
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenantry"));
    command
        .env_clear()
        .env("DATABASE_URL", server.url(local_postgres::APP_ROLE, &database.name))
        .env("SUPERADMIN_DATABASE_URL", server.url(local_postgres::SUPERADMIN_ROLE, &database.name))
        .env("TENANTRY_DATA_DIR", env!("CARGO_TARGET_TMPDIR"))
        .env("CLERK_WEBHOOK_SECRETS", secret_text("old"))
        .env("RUST_LOG", "warn")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn serve(database: &TestDb, role: &str) -> (Child, String) {
    serve_with(database, &["--role", role]).await
}

async fn serve_with(database: &TestDb, arguments: &[&str]) -> (Child, String) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let child = tenantry(database)
        .await
        .arg("serve")
        .args(arguments)
        .env("PORT", port.to_string())
        .env("DATABASE_MAX_CONNECTIONS", "4")
        .spawn()
        .expect("the binary");
    let url = format!("http://127.0.0.1:{port}");
    for _ in 0..600 {
        if reqwest::get(format!("{url}/readyz")).await.is_ok_and(|response| response.status() == 200) {
            return (child, url);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the server did not get ready");
}

/// Kill -9 in the middle of a flood: what was acknowledged is there, and is worked on exactly once.
#[tokio::test(flavor = "multi_thread")]
async fn webhooks_acknowledged_survive_kill_9_and_are_done_once() {
    const ENOUGH: usize = 600;
    let database = Arc::new(TestDb::seeded().await);
    let (mut first, url) = serve(&database, "all").await;
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let (sent, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let senders: Vec<_> = (0..16)
        .map(|_| {
            let (url, acknowledged, sent, stop) =
                (url.clone(), Arc::clone(&acknowledged), Arc::clone(&sent), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let id = format!("msg_{}", sent.fetch_add(1, Ordering::Relaxed));
                    let request = signed(&url, Clerk, &id, with_effect(&id), &secret(Clerk, "old"), &Clock::System);
                    match request.send().await {
                        Ok(response) if response.status() == 200 => {
                            acknowledged.lock().expect("a lock").insert(id);
                        }
                        Ok(response) => panic!("{}", response.status()),
                        // Killed.
                        Err(_) => return,
                    }
                }
            })
        })
        .collect();
    let known = || acknowledged.lock().expect("a lock").len();
    // Some are done by then, however slow the machine is.
    while known() < ENOUGH || effects(&database).await.0 == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    first.kill().await.expect("kill -9");
    stop.store(true, Ordering::Relaxed);
    futures_util::future::join_all(senders).await;
    let acknowledged = acknowledged.lock().expect("a lock").clone();
    let (done_before, _) = effects(&database).await;

    let (second, _) = serve(&database, "all").await;
    none_left(&database, PENDING).await;
    drop(second);
    let stored: Vec<String> =
        sqlx::query_scalar("select event_id from tenantry.webhook_events where event_id ~ '^msg_[0-9]+$'")
            .fetch_all(&mut database.system().await)
            .await
            .expect("the inbox");
    let stored: BTreeSet<String> = stored.into_iter().collect();
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let (events, times) = effects(&database).await;
    assert_eq!(events, times, "none was done twice");
    assert_eq!(events, count(&database, "status = 'APPLIED'").await, "all were done");
    assert_eq!(events, i64::try_from(stored.len()).expect("few"));
    assert!(done_before > 0 && done_before < events, "killed in the middle of it: {done_before} of {events}");
}

/// Workers that are all busy, for as long as they may be, keep no delivery from being stored.
#[tokio::test]
async fn webhook_answers_do_not_wait_for_workers() {
    const WORKERS: i64 = 6;
    let database = TestDb::seeded().await;
    poison(&database, "perform pg_sleep(60)").await;
    let (_child, url) = serve_with(&database, &["--workers", "6"]).await;
    let send = async |id: &str, event_type: &str| {
        let body = clerk(event_type, id).to_string();
        signed(&url, Clerk, id, body, &secret(Clerk, "old"), &Clock::System).send().await.expect("an answer").status()
    };
    let (mut poisons, mut all_busy) = (0, false);
    let mut system = database.system().await;
    // Until each worker is at the one that it gives the most patience.
    for _ in 0..600 {
        let busy: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where application_name = 'tenantry-system' and wait_event = 'PgSleep'
                and datname = current_database() and now() - query_start > interval '1.5 seconds'",
        )
        .fetch_one(&mut system)
        .await
        .expect("a count");
        all_busy = busy == WORKERS;
        if all_busy {
            break;
        }
        if poisons < 3 * WORKERS {
            assert_eq!(send(&format!("msg_poison_{poisons}"), "poison").await, 200);
            poisons += 1;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(all_busy, "every worker has a connection");
    for n in 0..20 {
        assert_eq!(send(&format!("msg_{n}"), "thing.happened").await, 200);
    }
}

/// One process receives, another applies; both end with 0 when asked to.
#[tokio::test]
async fn webhook_roles_share_the_work_and_stop_politely() {
    let database = TestDb::seeded().await;
    let (mut api, url) = serve(&database, "api").await;
    let send = async |id: &str| {
        let body = clerk("thing.happened", id).to_string();
        signed(&url, Clerk, id, body, &secret(Clerk, "old"), &Clock::System).send().await.expect("an answer").status()
    };
    for n in 0..10 {
        assert_eq!(send(&format!("msg_{n}")).await, 200);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(count(&database, "status = 'RECEIVED'").await, 10, "the API applies nothing");
    let (mut worker, worker_url) = serve(&database, "worker").await;
    none_left(&database, PENDING).await;
    for n in 10..20 {
        assert_eq!(send(&format!("msg_{n}")).await, 200);
        // Woken each time: were it polling, this would take its time.
        none_left(&database, PENDING).await;
    }
    let status = async |url: &str, path: &str| reqwest::get(format!("{url}{path}")).await.expect("an answer").status();
    for (path, expected) in [("/healthz", 200), ("/metrics", 200), ("/graphql", 404), ("/webhooks/clerk", 404)] {
        assert_eq!(status(&worker_url, path).await, expected, "{path}");
    }
    assert_eq!(status(&url, "/metrics").await, 200);
    for child in [&mut api, &mut worker] {
        let pid = child.id().expect("a running child").to_string();
        Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill");
        let ended =
            tokio::time::timeout(Duration::from_secs(30), child.wait()).await.expect("in time").expect("an end");
        assert_eq!(ended.code(), Some(0));
    }
}
