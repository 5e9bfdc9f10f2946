//! The memory of instances: two of them agree, a notification that is missed heals, and a database that is away is outlived.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions as _};
use tenantry::local_postgres;
use tokio::process::{Child, Command};

use super::{ask, context, key, until};
use crate::support::{TestApp, TestDb, cluster, metrics};

const PLAN: &str = "update tenantry.subscriptions set plan = 'ENTERPRISE'";

/// Rows of `tenantry.flag_changes`.
async fn changes(database: &TestDb) -> i64 {
    let query = sqlx::query_scalar("select count(*) from tenantry.flag_changes");
    query.fetch_one(&mut database.system().await).await.expect("a count")
}

#[tokio::test]
async fn changes_of_flags_are_written_down_when_they_matter_to_somebody() {
    let database = TestDb::seeded().await;
    let mut system = database.system().await;
    let acme = "(select id from tenantry.organizations where slug = 'acme-corp')";
    let alice = "(select id from tenantry.users where email = 'alice@example.com')";
    for (statement, expected) in [
        ("update tenantry.api_keys set last_used_at = now()".to_owned(), 0),
        ("update tenantry.client_keys set last_used_at = now()".to_owned(), 0),
        (
            format!(
                "update tenantry.subscriptions set seat_count = seat_count + 1, plan = plan where organization_id = {acme}"
            ),
            0,
        ),
        (
            "update tenantry.feature_flag_definitions set description = 'other', version = version + 1, owner = 'x'"
                .to_owned(),
            0,
        ),
        (format!("update tenantry.organization_feature_flags set reason = 'other' where organization_id = {acme}"), 0),
        (format!("update tenantry.users set name = 'Other', deleted_at = deleted_at where id = {alice}"), 0),
        (format!("update tenantry.organizations set name = 'Other' where id = {acme}"), 0),
        (
            format!(
                "update tenantry.organization_members set role = 'ADMIN' where user_id = {alice} and organization_id = {acme}"
            ),
            0,
        ),
        (format!("update tenantry.subscriptions set plan = 'STARTER' where organization_id = {acme}"), 1),
        ("update tenantry.feature_flag_definitions set rollout_percentage = 26 where key = 'new-inbox'".to_owned(), 1),
        (
            format!("update tenantry.organization_feature_flags set expires_at = now() where organization_id = {acme}"),
            1,
        ),
        (
            format!(
                "update tenantry.organization_members set deleted_at = now() where user_id = {alice} and organization_id = {acme}"
            ),
            1,
        ),
        (format!("update tenantry.users set blocked_until = 'infinity' where id = {alice}"), 1),
        (
            format!(
                "update tenantry.organizations set suspended_at = now(), suspension_reason = 'x' where id = {acme}"
            ),
            1,
        ),
        ("insert into tenantry.ended_sessions (session_id) values ('sess_x')".to_owned(), 1),
    ] {
        let before = changes(&database).await;
        sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut system).await.expect("a change");
        assert_eq!(changes(&database).await - before, expected, "{statement}");
    }
    // The application role changes what it may and sees nothing of this.
    let mut app = database.app().await;
    assert!(sqlx::raw_sql("select * from tenantry.flag_changes").execute(&mut app).await.is_err());
    assert!(sqlx::raw_sql("select * from tenantry.flag_state").execute(&mut app).await.is_err());
}

#[tokio::test]
async fn notifications_that_are_missed_heal_and_a_database_that_is_away_is_outlived() {
    let app = TestApp::start().await;
    let program = key(&app, &["FEATURE_FLAG_READ"]).await;
    let reason = || async {
        ask(&app, &program, "single-sign-on", &context("u")).await.body["metadata"]["reasonDetail"].clone()
    };
    assert_eq!(reason().await, "OVERRIDE");
    // Nobody is told: the look by the clock finds it.
    let owner = "alter table tenantry.flag_changes disable trigger tell_flag_change";
    sqlx::raw_sql(owner).execute(&mut app.database.owner().await).await.expect("the owner may");
    app.sql("delete from tenantry.organization_feature_flags").await;
    until("a look finds what nobody told", || async { reason().await == "PLAN" }).await;
    // A transaction that began before others and ends after them is found, too, and so is what was purged unseen.
    let mut slow = app.database.system().await;
    sqlx::raw_sql(AssertSqlSafe(format!("begin; {PLAN}"))).execute(&mut slow).await.expect("a change");
    app.sql("update tenantry.feature_flag_definitions set default_enabled = false where key = 'holiday-banner'").await;
    until("the quick one is seen", || async {
        ask(&app, &program, "holiday-banner", &json!({})).await.body["value"] == false
    })
    .await;
    assert_eq!(reason().await, "PLAN");
    sqlx::raw_sql("commit").execute(&mut slow).await.expect("commit");
    until("the slow one is seen", || async { reason().await == "DEFAULT" }).await;

    let metric = |name: &'static str| {
        let base = app.base_url();
        async move {
            let text = metrics(&base).await;
            text.lines().find_map(|line| line.strip_prefix(name)).expect("a figure").trim().to_owned()
        }
    };
    let mut superuser = app.database.superuser().await;
    let mut elsewhere =
        cluster().await.server.connect_options("postgres", "postgres").connect().await.expect("the superuser");
    let away = |allowed: bool| format!("alter database {} allow_connections {allowed}", app.database.name);
    // Nobody connects, whoever is connected is not: as if it were down.
    let end = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}' and pid <> pg_backend_pid()",
        app.database.name
    );
    sqlx::raw_sql(AssertSqlSafe(away(false))).execute(&mut elsewhere).await.expect("a superuser may");
    sqlx::raw_sql(AssertSqlSafe(end)).execute(&mut superuser).await.expect("a superuser may");
    until("it says that it is behind", || async { metric("tenantry_flags_stale").await == "1" }).await;
    for _ in 0..20 {
        assert_eq!(reason().await, "DEFAULT", "the memory decides");
    }
    // What changes meanwhile is found afterwards. (This connection was open before.)
    sqlx::raw_sql("set role tenantry_superadmin; update tenantry.subscriptions set plan = 'FREE'; reset role")
        .execute(&mut superuser)
        .await
        .expect("a change");
    sqlx::raw_sql(AssertSqlSafe(away(true))).execute(&mut elsewhere).await.expect("a superuser may");
    until("it is as the database is", || async { reason().await == "PLAN" }).await;
    until("and says so", || async { metric("tenantry_flags_stale").await == "0" }).await;
}

#[tokio::test]
async fn changes_that_are_forgotten_are_no_changes_that_are_missed() {
    let app = TestApp::start().await;
    let program = key(&app, &["FEATURE_FLAG_READ"]).await;
    let value = || async { ask(&app, &program, "holiday-banner", &json!({})).await.body["value"].clone() };
    assert_eq!(value().await, true);
    // Nothing is told, and the row is gone before anybody looks: the mark of the purge says that something was there.
    sqlx::raw_sql("alter table tenantry.flag_changes disable trigger tell_flag_change")
        .execute(&mut app.database.owner().await)
        .await
        .expect("the owner may");
    app.sql(
        "begin; update tenantry.feature_flag_definitions set default_enabled = false where key = 'holiday-banner';
         with gone as (delete from tenantry.flag_changes returning transaction)
         update tenantry.flag_state set purged = greatest(purged, (select max(transaction) from gone)); commit",
    )
    .await;
    until("everything is loaded anew", || async { value().await == false }).await;
    app.sql("insert into tenantry.flag_changes (kind, created_at) values ('DEFINITIONS', now() - interval '2 hours'), ('DEFINITIONS', now())").await;
    // What is older than every transaction that runs goes: also those of the other tests' databases, and some fill theirs for a while.
    for _ in 0..1500 {
        app.run_job("flag-changes").await;
        if changes(&app.database).await == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the old one is not forgotten, or the young one is");
}

struct Instance {
    _child: Child,
    url: String,
}

async fn instance(database: &TestDb, port: u16) -> Instance {
    let postgres = &cluster().await.server;
    let url = |role: &str| postgres.url(role, &database.name);
    let keys = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("keys");
    let child = Command::new(env!("CARGO_BIN_EXE_tenantry"))
        .args(["serve", "--role", "api"])
        .env_clear()
        .env("TENANTRY_DATA_DIR", keys)
        .env("DATABASE_URL", url(local_postgres::APP_ROLE))
        .env("SUPERADMIN_DATABASE_URL", url(local_postgres::SUPERADMIN_ROLE))
        .env("PORT", port.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary");
    Instance { _child: child, url: format!("http://127.0.0.1:{port}") }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Two processes on one database: what one is told, the other is told, and a key that ends, ends at both.
#[tokio::test]
async fn two_instances_agree_about_flags() {
    let app = TestApp::start().await;
    let program = key(&app, &["FEATURE_FLAG_READ"]).await;
    let instances = [instance(&app.database, free_port()).await, instance(&app.database, free_port()).await];
    let client = reqwest::Client::new();
    let all = |instance: &Instance| {
        let request = client.post(format!("{}/ofrep/v1/evaluate/flags", instance.url)).bearer_auth(&program);
        async move {
            let response = request.json(&context("u")).send().await.ok()?;
            Some((
                response.status().as_u16(),
                response.headers().get("etag").cloned(),
                response.json::<Value>().await.ok()?,
            ))
        }
    };
    for instance in &instances {
        until("the instance answers", || async { all(instance).await.is_some_and(|(status, ..)| status == 200) }).await;
    }
    let agree = |what: &'static str, expected: Value| {
        let (all, instances) = (&all, &instances);
        async move {
            for instance in instances {
                until(what, || async {
                    all(instance).await.is_some_and(|(_, _, body)| {
                        body["flags"].as_array().is_some_and(|flags| {
                            flags.iter().any(|flag| {
                                flag["key"] == "single-sign-on" && flag["metadata"]["reasonDetail"] == expected
                            })
                        })
                    })
                })
                .await;
            }
            let [one, other] = [all(&instances[0]).await, all(&instances[1]).await];
            assert_eq!(one, other, "{what}");
        }
    };
    agree("the override decides", json!("OVERRIDE")).await;
    app.sql("delete from tenantry.organization_feature_flags").await;
    agree("the override is gone", json!("PLAN")).await;
    app.sql(PLAN).await;
    agree("the plan has it", json!("DEFAULT")).await;
    // A stream of one instance is opened with an address of the other.
    let path = all(&instances[0]).await.expect("an answer").2["eventStreams"][0]["endpoint"]["requestUri"]
        .as_str()
        .expect("an address")
        .to_owned();
    let stream = client.get(format!("{}{path}", instances[1].url)).send().await.expect("a stream");
    assert_eq!(stream.status(), 200);
    app.sql("update tenantry.api_keys set revoked_at = now() where name = 'flags'").await;
    for instance in &instances {
        until("the key is refused", || async { all(instance).await.is_some_and(|(status, ..)| status == 401) }).await;
    }
    assert!(tokio::time::timeout(Duration::from_mins(1), stream.bytes()).await.is_ok(), "the stream ends");
}
