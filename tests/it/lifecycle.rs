//! The end of an organization: suspended, deleted, restored, removed for good.

use chrono::Duration;
use serde_json::{Value, json};
use tenantry::clock::Clock;
use tenantry::organizations::purge_due;

use crate::support::{Setup, TestApp, codes};

const DELETE: &str = "mutation($input: OrganizationDeleteInput!) { organizationDelete(input: $input) { organizationId userErrors { code field } } }";
const RESTORE: &str = "mutation($input: OrganizationRestoreInput!) { organizationRestore(input: $input) { membership { role organization { slug } } userErrors { code field } } }";
const SUSPEND: &str = "mutation($input: OrganizationSuspendInput!) { organizationSuspend(input: $input) { suspendedAt userErrors { code field } } }";
const REACTIVATE: &str = "mutation($input: OrganizationReactivateInput!) { organizationReactivate(input: $input) { suspendedAt userErrors { code field } } }";
const ORGANIZATION: &str = "{ organization { id name suspendedAt suspensionReason tickets { totalCount } } }";
const RESTORABLE: &str = "{ viewer { restorableOrganizations { id slug name restorableUntil } } }";
const UPDATE: &str = "mutation { organizationUpdate(input: { industry: \"x\" }) { userErrors { code } } }";

async fn payload(app: &TestApp, token: &str, mutation: &str, input: Value) -> Value {
    let data = app.data(token, mutation, json!({ "input": input })).await;
    data.as_object().and_then(|fields| fields.values().next()).expect("a payload").clone()
}

async fn start() -> TestApp {
    TestApp::start_with(Setup { clock: Clock::manual(Clock::System.now()), ..Setup::default() }).await
}

async fn cancel_subscriptions(app: &TestApp) {
    sqlx::raw_sql("update tenantry.subscriptions set status = 'CANCELED'")
        .execute(&mut app.database.system().await)
        .await
        .expect("a cancellation");
}

async fn count(app: &TestApp, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&mut app.database.system().await).await.expect("a count")
}

#[tokio::test]
async fn organizations_that_are_deleted_come_back_whole() {
    let app = start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let carol = app.token("carol@example.com", Some("acme-corp")).await;
    let before = app.data(&alice, ORGANIZATION, json!({})).await["organization"].clone();
    assert_eq!(codes(&payload(&app, &alice, DELETE, json!({ "slug": "tech-startup" })).await), ["INVALID"]);
    sqlx::raw_sql("update tenantry.subscriptions set status = 'ACTIVE', stripe_subscription_id = coalesce(stripe_subscription_id, 'sub_x')").execute(&mut app.database.system().await).await.expect("a subscription");
    assert_eq!(codes(&payload(&app, &alice, DELETE, json!({ "slug": "acme-corp" })).await), ["CONFLICT"]);
    cancel_subscriptions(&app).await;
    assert_eq!(app.error_code(&carol, DELETE, json!({ "input": { "slug": "acme-corp" } })).await, "FORBIDDEN");
    let deleted = payload(&app, &alice, DELETE, json!({ "slug": "acme-corp" })).await;
    assert_eq!(deleted["organizationId"], before["id"], "{deleted}");
    // Gone for everybody, and not free for another.
    for token in [&alice, &carol] {
        assert_eq!(app.error_code(token, ORGANIZATION, json!({})).await, "ORGANIZATION_NOT_FOUND");
    }
    let made = app
        .data(
            &carol,
            "mutation { organizationCreate(input: { name: \"Acme\", slug: \"acme-corp\" }) { userErrors { code } } }",
            json!({}),
        )
        .await;
    assert_eq!(codes(&made["organizationCreate"]), ["CONFLICT"]);
    // Its owner finds it, and nobody else.
    let own = app.data(&alice, RESTORABLE, json!({})).await["viewer"]["restorableOrganizations"].clone();
    assert_eq!((&own[0]["slug"], own.as_array().map(Vec::len)), (&json!("acme-corp"), Some(1)), "{own}");
    assert_eq!(app.data(&carol, RESTORABLE, json!({})).await["viewer"]["restorableOrganizations"], json!([]));
    let id = &before["id"];
    assert_eq!(codes(&payload(&app, &carol, RESTORE, json!({ "organizationId": id })).await), ["NOT_FOUND"]);
    app.clock.advance(Duration::days(30) - Duration::seconds(1));
    assert_eq!(purge_due(&app.app.services.db, &app.clock).await.expect("a purge"), 0);
    let alice = app.token("alice@example.com", None).await;
    let restored = payload(&app, &alice, RESTORE, json!({ "organizationId": id })).await;
    assert_eq!(restored["membership"], json!({ "role": "OWNER", "organization": { "slug": "acme-corp" } }));
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    assert_eq!(app.data(&alice, ORGANIZATION, json!({})).await["organization"], before);
    assert_eq!(
        codes(&payload(&app, &alice, RESTORE, json!({ "organizationId": id })).await),
        ["NOT_FOUND"],
        "it is not deleted"
    );
    let trail = "{ organization { auditLogs(first: 2) { nodes { action user { email } } } } }";
    let nodes = app.data(&alice, trail, json!({})).await["organization"]["auditLogs"]["nodes"].clone();
    let by = |action: &str| json!({ "action": action, "user": { "email": "alice@example.com" } });
    assert_eq!(nodes, json!([by("organization.restore"), by("organization.delete")]));
}

#[tokio::test]
async fn organizations_are_removed_for_good_after_their_holdback() {
    let app = start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    cancel_subscriptions(&app).await;
    let id = app.data(&alice, ORGANIZATION, json!({})).await["organization"]["id"].clone();
    let secret = app
        .data(
            &alice,
            "mutation { apiKeyCreate(input: { name: \"k\", scopes: [TICKET_CREATE] }) { secret } }",
            json!({}),
        )
        .await["apiKeyCreate"]["secret"]
        .as_str()
        .expect("a key")
        .to_owned();
    app.data(&secret, "mutation { ticketCreate(input: { subject: \"x\" }) { userErrors { code } } }", json!({})).await;
    let others = "select (select count(*) from tenantry.tickets t join tenantry.organizations o on o.id = t.organization_id where o.slug <> 'acme-corp')
        + (select count(*) from tenantry.organization_members t join tenantry.organizations o on o.id = t.organization_id where o.slug <> 'acme-corp')
        + (select count(*) from tenantry.budget_usage_records t join tenantry.organizations o on o.id = t.organization_id where o.slug <> 'acme-corp')";
    let (foreign, log) = (count(&app, others).await, count(&app, "select count(*) from tenantry.audit_logs").await);
    payload(&app, &alice, DELETE, json!({ "slug": "acme-corp" })).await;
    app.clock.advance(Duration::days(30));
    let alice = app.token("alice@example.com", None).await;
    assert_eq!(codes(&payload(&app, &alice, RESTORE, json!({ "organizationId": id })).await), ["EXPIRED"]);
    assert!(purge_due(&app.app.services.db, &app.clock).await.expect("a purge") > 50);
    assert_eq!(purge_due(&app.app.services.db, &app.clock).await.expect("a purge"), 0, "once");
    let tables: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id'
          where c.relnamespace = 'tenantry'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition and c.relname !~ '^(audit|adopt)'",
    )
    .fetch_all(&mut app.database.system().await)
    .await
    .expect("the tables");
    assert!(tables.len() > 15, "{tables:?}");
    for table in tables {
        let sql = format!(
            "select count(*) from tenantry.{table} t join tenantry.organizations o on o.id = t.organization_id where o.purged_at is not null"
        );
        let left: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(&mut app.database.system().await)
            .await
            .expect("a count");
        // The key that the log names stays as a row, and opens nothing.
        assert_eq!(left, i64::from(table == "api_keys"), "{table}");
    }
    assert_eq!(app.error_code(&secret, ORGANIZATION, json!({})).await, "INVALID_API_KEY");
    assert_eq!(count(&app, "select count(*) from tenantry.organizations where purged_at is not null and name = 'Removed organization' and clerk_org_id is null and slug ~ '^removed-'").await, 1);
    assert_eq!(count(&app, others).await, foreign, "what is another's stays");
    assert!(count(&app, "select count(*) from tenantry.audit_logs").await > log, "the log stays");
    assert!(tenantry::audit::chain::check(&app.app.services.db).await.expect("a check").is_empty());
    // The slug is free again.
    let made = app
        .data(
            &alice,
            "mutation { organizationCreate(input: { name: \"Acme\", slug: \"acme-corp\" }) { userErrors { code } } }",
            json!({}),
        )
        .await;
    assert_eq!(codes(&made["organizationCreate"]), [] as [&str; 0]);
}

#[tokio::test]
async fn organizations_that_are_suspended_are_read_and_not_changed() {
    let app = start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let admin = app.token("admin@example.com", None).await;
    let secret = app
        .data(
            &alice,
            "mutation { apiKeyCreate(input: { name: \"k\", scopes: [TICKET_CREATE, ORGANIZATION_READ] }) { secret } }",
            json!({}),
        )
        .await["apiKeyCreate"]["secret"]
        .as_str()
        .expect("a key")
        .to_owned();
    let id = app.data(&alice, ORGANIZATION, json!({})).await["organization"]["id"].clone();
    let input = json!({ "organizationId": id, "reason": "unpaid" });
    assert_eq!(app.error_code(&alice, SUSPEND, json!({ "input": input })).await, "FORBIDDEN");
    assert_eq!(
        codes(&payload(&app, &admin, SUSPEND, json!({ "organizationId": id, "reason": " " })).await),
        ["INVALID"]
    );
    assert!(payload(&app, &admin, SUSPEND, input).await["suspendedAt"].is_string());
    let shown = app.data(&alice, ORGANIZATION, json!({})).await["organization"].clone();
    assert!(shown["suspendedAt"].is_string() && shown["suspensionReason"] == "unpaid", "{shown}");
    assert_eq!(app.data(&secret, ORGANIZATION, json!({})).await["organization"]["suspensionReason"], "unpaid");
    let create = "mutation { ticketCreate(input: { subject: \"x\" }) { userErrors { code } } }";
    for (token, mutation) in [(&alice, UPDATE), (&alice, create), (&secret, create)] {
        assert_eq!(app.error_code(token, mutation, json!({})).await, "ORGANIZATION_SUSPENDED");
    }
    assert_eq!(payload(&app, &admin, REACTIVATE, json!({ "organizationId": id })).await["suspendedAt"], Value::Null);
    app.data(&alice, UPDATE, json!({})).await;
    app.data(&secret, create, json!({})).await;
    let trail =
        "{ organization { auditLogs(where: { action: { contains: \"organization.\" } }) { nodes { action } } } }";
    let nodes = app.data(&alice, trail, json!({})).await["organization"]["auditLogs"]["nodes"].to_string();
    assert!(nodes.contains("organization.suspend") && nodes.contains("organization.reactivate"), "{nodes}");
    assert_eq!(
        count(&app, "select count(*) from tenantry.platform_audit_logs where action like 'organization.%'").await,
        2
    );
}
