//! The hash chain of the audit log: what somebody edits, takes away, moves or adds behind our back is found.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tenantry::audit::chain::{self, Walk};
use tenantry::audit::{Export, export};
use tenantry::clock::Clock;
use tenantry::error::Error;
use tenantry::id::OrganizationId;
use tenantry::jobs::{JOBS, run_if_due};
use uuid::Uuid;

use crate::support::{Setup, TestApp};

async fn acme(app: &TestApp) -> OrganizationId {
    let id: Uuid = sqlx::query_scalar("select id from tenantry.organizations where slug = 'acme-corp'")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("Acme");
    OrganizationId::from_uuid(id)
}

/// As somebody who owns the tables can: past triggers and row-level security.
async fn tamper(app: &TestApp, sql: &str) {
    let sql = format!("set session_replication_role = replica; {sql}");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut app.database.superuser().await).await.expect("a change");
}

async fn findings(app: &TestApp) -> Vec<String> {
    let found = chain::check(&app.app.services.db).await.expect("a check");
    found.into_iter().map(|(organization, finding)| format!("{organization}: {finding}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn audit_chains_grow_in_one_line_whoever_seals() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let db = &app.app.services.db;
    let organization = acme(&app).await;
    let writes = futures_util::future::join_all((0..40).map(|n| {
        let query = format!("mutation {{ ticketCreate(input: {{ subject: \"{n}\" }}) {{ ticket {{ id }} }} }}");
        let (app, alice) = (&app, &alice);
        async move { app.data(alice, &query, json!({})).await }
    }));
    let seals = futures_util::future::join_all((0..12).map(|n| async move {
        tokio::time::sleep(std::time::Duration::from_millis(n * 10)).await;
        chain::seal(db, organization).await.expect("a seal");
    }));
    tokio::join!(writes, seals);
    chain::seal_all(db).await.expect("seals");
    let (rows, last, waiting): (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from tenantry.audit_logs where organization_id = $1),
                (select max(position) from tenantry.audit_seals where organization_id = $1), (select count(*) from tenantry.audit_unsealed)",
    )
    .bind(organization.uuid())
    .fetch_one(&mut app.database.system().await)
    .await
    .expect("counts");
    assert_eq!((last, waiting), (rows, 0));
    assert_eq!(findings(&app).await, [] as [&str; 0]);
}

#[tokio::test]
async fn audit_chains_find_what_was_changed_behind_our_back() {
    let rows = "insert into tenantry.audit_logs (organization_id, id, action, resource_type, metadata, created_at)
        select o.id, gen_random_uuid(), 'test.' || n, 'Test', jsonb_build_object('n', n, 'amount', 12.50, 'text', 'ü'), now() + n * interval '1 ms'
          from tenantry.organizations o, generate_series(1, 30) n where o.slug = 'acme-corp'";
    for (change, expected) in [
        ("select 1", None),
        ("update tenantry.audit_logs set metadata = '{\"n\": 8}' where action = 'test.7'", Some("is not as it was sealed")),
        ("update tenantry.audit_logs set user_id = (select id from tenantry.users limit 1) where action = 'test.7'", Some("is not as it was sealed")),
        ("delete from tenantry.audit_logs where action = 'test.7'", Some("was taken away")),
        ("delete from tenantry.audit_logs where action = 'test.30'", Some("was taken away")),
        ("update tenantry.audit_logs a set created_at = a.created_at + interval '5 ms' where action = 'test.7'", Some("was taken away")),
        ("delete from tenantry.audit_seals where position = 5; delete from tenantry.audit_logs a where not exists (select from tenantry.audit_seals s where s.audit_log_id = a.id)", Some("are missing")),
        ("with two as (select position, audit_log_id, audit_created_at, lead(audit_log_id) over w as next_id, lead(audit_created_at) over w as next_at from tenantry.audit_seals where position in (5, 6) and organization_id = (select id from tenantry.organizations where slug = 'acme-corp') window w as (order by position))
          update tenantry.audit_seals s set audit_log_id = two.next_id, audit_created_at = two.next_at from two where s.position = 5 and two.position = 5 and false;
          update tenantry.audit_seals s set hash = (select hash from tenantry.audit_seals x where x.organization_id = s.organization_id and x.position = 6) where position = 5", Some("is not as it was sealed")),
        ("insert into tenantry.audit_logs (organization_id, id, action, resource_type) select id, gen_random_uuid(), 'forged', 'Test' from tenantry.organizations where slug = 'acme-corp'", Some("outside of its chain")),
    ] {
        let app = TestApp::start().await;
        sqlx::raw_sql(rows).execute(&mut app.database.system().await).await.expect("rows");
        assert_eq!(findings(&app).await, [] as [&str; 0]);
        tamper(&app, change).await;
        let found = findings(&app).await;
        match expected {
            None => assert!(found.is_empty(), "{found:?}"),
            Some(expected) => {
                assert!(found.iter().any(|finding| finding.starts_with("acme-corp: ") && finding.contains(expected)), "{change}: {found:?}");
                let report = tenantry::verify::verify(&app.app.services.db).await.expect("verify");
                assert!(report.iter().any(|finding| finding.check == "audit-chain"), "{report:?}");
            }
        }
    }
}

#[tokio::test]
async fn audit_exports_are_checked_without_a_database() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    for n in 0..5 {
        let query =
            format!("mutation {{ organizationUpdate(input: {{ industry: \"{n}\" }}) {{ userErrors {{ code }} }} }}");
        app.data(&alice, &query, json!({})).await;
    }
    let organization = acme(&app).await;
    let mut lines = Vec::new();
    let write = |row: &Value| {
        lines.push(row.to_string());
        Ok(())
    };
    let parts = Export { organization, since: None, until: None };
    let done = export::<Error>(&app.app.services.db, parts, write).await.expect("an export");
    let walk = |lines: &[String]| {
        let mut walk = Walk::default();
        for (number, line) in (1..).zip(lines) {
            walk.step_in_file(number, line);
        }
        walk
    };
    let whole = walk(&lines);
    assert_eq!((whole.findings.as_slice(), whole.rows, whole.hash), ([].as_slice(), done.rows, done.hash));
    // What is missing at the end is found by the hash alone that was told.
    let short = walk(&lines[..lines.len() - 1]);
    assert!(short.findings.is_empty() && short.hash != done.hash);
    // A part begins anywhere.
    let last: Value = serde_json::from_str(&lines[lines.len() - 1]).expect("JSON");
    let since = last["at"].as_str().and_then(|at| at.parse().ok());
    let mut part = Vec::new();
    let write = |row: &Value| {
        part.push(row.to_string());
        Ok(())
    };
    export::<Error>(&app.app.services.db, Export { organization, since, until: None }, write).await.expect("an export");
    assert_eq!(part.as_slice(), &lines[lines.len() - part.len()..]);
    assert!(walk(&part).findings.is_empty() && !part.is_empty());
    // No names and addresses of people: what is in the chain can stay when they go.
    assert!(!lines.concat().contains("alice@example.com"));
}

/// Of many workers one does what is due, and not before it is due again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn jobs_are_done_by_one_worker_when_they_are_due() {
    // Time stands still: on a slow machine a job would be due again.
    let setup = Setup { clock: Clock::manual(Clock::System.now()), ..Setup::default() };
    let app = TestApp::start_with(setup).await;
    sqlx::raw_sql(
        "insert into tenantry.ended_sessions (session_id, ended_at) values ('old', now() - interval '31 days'), ('young', now() - interval '29 days');
         insert into tenantry.idempotency_keys (organization_id, actor_id, key, operation, request_hash, created_at)
         select id, gen_random_uuid(), k, 'ticketCreate', '', now() - a * interval '1 day' from tenantry.organizations, (values ('old', 8), ('young', 6)) as keys (k, a) where slug = 'acme-corp'",
    )
    .execute(&mut app.database.system().await)
    .await
    .expect("old rows");
    // A job that records something after the log was sealed would leave that to the next run.
    sqlx::query("update tenantry.escalations set overdue_at = now()")
        .execute(&mut app.database.system().await)
        .await
        .expect("nothing to mark");
    for job in JOBS {
        let ran = futures_util::future::join_all((0..6).map(|_| run_if_due(&app.app.jobs, job))).await;
        assert_eq!(ran.into_iter().filter(|ran| *ran.as_ref().expect("a look")).count(), 1, "{}", job.name);
    }
    let runs: Vec<(String, i64, Option<String>)> =
        sqlx::query_as("select name, runs, last_error from tenantry.jobs order by 1")
            .fetch_all(&mut app.database.system().await)
            .await
            .expect("the jobs");
    assert!(runs.len() == JOBS.len() && runs.iter().all(|(_, runs, error)| *runs == 1 && error.is_none()), "{runs:?}");
    let left: Vec<String> = sqlx::query_scalar(
        "select session_id from tenantry.ended_sessions union all select key from tenantry.idempotency_keys",
    )
    .fetch_all(&mut app.database.system().await)
    .await
    .expect("what is left");
    assert_eq!(left, ["young", "young"]);
    let unsealed: i64 = sqlx::query_scalar("select count(*) from tenantry.audit_unsealed")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a count");
    assert_eq!(unsealed, 0);
}

/// What is past the retention of its organization's plan goes, nothing else does, and the chain is whole.
#[tokio::test]
async fn audit_rows_past_their_retention_go_and_leave_the_chain_whole() {
    let app = TestApp::start().await;
    let organization = acme(&app).await;
    sqlx::raw_sql(
        "insert into tenantry.audit_logs (organization_id, id, action, resource_type, created_at)
         select o.id, gen_random_uuid(), 'old.row', 'Organization', now() - d * interval '1 day'
           from tenantry.organizations o, generate_series(80, 119) d where o.slug in ('acme-corp', 'tech-startup');
         update tenantry.subscriptions set plan = 'FREE' where organization_id = (select id from tenantry.organizations where slug = 'acme-corp');
         update tenantry.subscriptions set plan = 'PRO' where organization_id = (select id from tenantry.organizations where slug = 'tech-startup')",
    )
    .execute(&mut app.database.system().await)
    .await
    .expect("old rows");
    chain::seal_all(&app.app.services.db).await.expect("seals");
    let count = async |sql: &'static str| -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut app.database.system().await).await.expect("a count")
    };
    let old = "select count(*) from tenantry.audit_logs a join tenantry.organizations o on o.id = a.organization_id where o.slug = 'acme-corp' and a.action = 'old.row'";
    let others = "select count(*) from tenantry.audit_logs a join tenantry.organizations o on o.id = a.organization_id where o.slug <> 'acme-corp'";
    let untouched = count(others).await;
    let mut retention = tenantry::audit::Retention::default();
    retention.add("FREE=90").expect("a retention");
    assert_eq!(tenantry::audit::Retention::default().expire(&app.app.services.db, &app.clock).await.expect("a run"), 0);
    assert_eq!(retention.expire(&app.app.services.db, &app.clock).await.expect("a run"), 30, "90 to 119 days");
    assert_eq!(retention.expire(&app.app.services.db, &app.clock).await.expect("a run"), 0);
    assert_eq!((count(old).await, count(others).await), (10, untouched));
    assert_eq!(
        count("select count(*) from tenantry.audit_logs where action = 'audit.expire' and metadata ->> 'rows' = '30'")
            .await,
        1
    );
    assert_eq!(findings(&app).await, [] as [&str; 0]);
    // An export begins where the log does, and its chain holds.
    let mut lines: Vec<String> = Vec::new();
    export(&app.app.services.db, Export { organization, since: None, until: None }, |row| {
        lines.push(row.to_string());
        Ok::<(), Error>(())
    })
    .await
    .expect("an export");
    let mut walk = Walk::default();
    for (number, line) in (1..).zip(&lines) {
        walk.step_in_file(number, line);
    }
    assert_eq!(walk.findings, [] as [&str; 0]);
    // No role goes further: not for what is kept, and not for the last thirty days.
    for (role, sql) in [
        ("owner", "delete from tenantry.audit_logs where action = 'old.row'"),
        (
            "system",
            "select tenantry.expire_audit_log((select id from tenantry.organizations where slug = 'acme-corp'), now() - interval '29 days', 10)",
        ),
        ("system", "delete from tenantry.audit_logs"),
        ("app", "select tenantry.expire_audit_log(gen_random_uuid(), now() - interval '31 days', 10)"),
        ("app", "insert into tenantry.audit_horizons values (gen_random_uuid(), 9)"),
    ] {
        let mut connection = match role {
            "owner" => app.database.owner().await,
            "system" => app.database.system().await,
            _ => app.database.app().await,
        };
        let refused = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect_err(sql).to_string();
        assert!(
            ["append only", "permission denied", "30 days"].iter().any(|text| refused.contains(text)),
            "{role}: {refused}"
        );
    }
    // Whoever moves the horizon to hide more is found.
    tamper(&app, "update tenantry.audit_horizons set kept_from = 1000000; delete from tenantry.audit_logs where action = 'old.row'").await;
    let found = findings(&app).await;
    assert!(
        found.iter().any(|text| text.starts_with("acme-corp") && text.contains("which no retention says")),
        "{found:?}"
    );
}

/// A program reads the log on as it grows, without gaps, until its key is revoked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_logs_stream_to_whoever_may_read_them() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let dave = app.token("dave@example.com", Some("acme-corp")).await;
    let create = r#"mutation { apiKeyCreate(input: { name: "SIEM", scopes: [AUDIT_READ] }) { secret apiKey { id } userErrors { code } } }"#;
    let made = app.data(&alice, create, json!({})).await["apiKeyCreate"].clone();
    let (secret, id) = (made["secret"].as_str().expect("a secret").to_owned(), made["apiKey"]["id"].clone());
    chain::seal_all(&app.app.services.db).await.expect("seals");
    let get = async |bearer: &str, query: &str| {
        let sent = app.client().get(format!("{}/export/audit-logs{query}", app.base_url()));
        let sent = if bearer.is_empty() { sent } else { sent.bearer_auth(bearer) };
        sent.send().await.expect("an answer")
    };
    for (bearer, query, status) in [
        ("", "", 401),
        (dave.as_str(), "", 403),
        ("tnt_wrong", "", 401),
        (secret.as_str(), "?after=x", 400),
        (secret.as_str(), "?organization=org_1", 400),
    ] {
        let answer = get(bearer, query).await;
        assert_eq!(answer.status(), status, "{query}");
        let body: Value = answer.json().await.expect("JSON");
        assert!(body["errors"][0]["extensions"]["code"].is_string(), "{body}");
    }
    let whole = get(&secret, "").await;
    assert_eq!(whole.headers()["content-type"], "application/x-ndjson");
    let text = whole.text().await.expect("text");
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let last = rows.last().expect("rows")["position"].as_i64().expect("a place");
    assert_eq!(i64::try_from(rows.len()), Ok(last), "each place once");
    let mut walk = Walk::default();
    text.lines().zip(1..).for_each(|(line, number)| walk.step_in_file(number, line));
    assert_eq!(walk.findings, [] as [&str; 0]);
    // The use of a key is noted, as anywhere.
    let used = "select last_used_at is not null from tenantry.api_keys where name = 'SIEM'";
    let mut system = app.database.system().await;
    for _ in 0..200 {
        if sqlx::query_scalar::<_, bool>(used).fetch_one(&mut system).await.expect("the key") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(sqlx::query_scalar::<_, bool>(used).fetch_one(&mut system).await.expect("the key"));
    // From a place on, as it grows.
    let mut stream = get(&secret, &format!("?after={last}&follow=true")).await;
    // Not more at once than eight, and no longer than they are read.
    let mut others = Vec::new();
    for _ in 0..7 {
        let other = get(&secret, &format!("?after={last}&follow=true")).await;
        assert_eq!(other.status(), 200);
        others.push(other);
    }
    let refused = get(&secret, "").await;
    assert_eq!(refused.status(), 429);
    let body: Value = refused.json().await.expect("JSON");
    assert_eq!(body["errors"][0]["extensions"]["code"], "TOO_MANY_SUBSCRIPTIONS");
    drop(others);
    for _ in 0..200 {
        if get(&secret, "").await.status() == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(get(&secret, "").await.status(), 200);
    app.data(&alice, "mutation { ticketCreate(input: { subject: \"s\" }) { ticket { id } } }", json!({})).await;
    chain::seal_all(&app.app.services.db).await.expect("seals");
    let next = async |stream: &mut reqwest::Response| -> Value {
        let deadline = std::time::Duration::from_mins(1);
        loop {
            let chunk = tokio::time::timeout(deadline, stream.chunk())
                .await
                .expect("in time")
                .expect("a chunk")
                .expect("no end");
            if let Some(line) = String::from_utf8_lossy(&chunk).lines().find(|line| !line.trim().is_empty()) {
                return serde_json::from_str(line).expect("JSON");
            }
        }
    };
    let row = next(&mut stream).await;
    assert_eq!((&row["position"], &row["action"]), (&json!(last + 1), &json!("ticket.create")), "{row}");
    let revoke = "mutation($input: ApiKeyRevokeInput!) { apiKeyRevoke(input: $input) { userErrors { code } } }";
    app.data(&alice, revoke, json!({ "input": { "id": id } })).await;
    assert_eq!(next(&mut stream).await["error"]["code"], "INVALID_API_KEY");
    let end = tokio::time::timeout(std::time::Duration::from_mins(1), stream.chunk()).await.expect("in time");
    assert!(end.expect("an end").is_none(), "the stream is over");
}
