//! Somebody acts in the place of a user: both are named, and what is the user's alone is refused.

use serde_json::json;

use crate::support::{Setup, TestApp};

const VIEWER: &str = "{ viewer { user { email } impersonator role permissions isSuperadmin } }";
const CREATE: &str =
    "mutation { ticketCreate(input: { subject: \"by another\" }) { ticket { id } userErrors { code } } }";
const AUDIT: &str = "query($where: AuditLogFilter) { organization { auditLogs(where: $where) {
  nodes { action impersonator user { email } } } } }";
const EVENT: &str = "{ organization { webhookEvents(first: 1) { nodes { id } } } }";
const REPLAY: &str =
    "mutation($id: ID!) { webhookEventReplay(input: { id: $id }) { webhookEvent { id } userErrors { code } } }";
const PLATFORM: &str = "{ platform { webhookEvents(first: 1) { totalCount } } }";

async fn start(setting: &str) -> TestApp {
    let environment = vec![("AUTH_IMPERSONATION", setting.to_owned())];
    TestApp::start_with(Setup { environment, ..Setup::default() }).await
}

#[tokio::test]
async fn impersonation_names_both_in_viewer_and_audit_log() {
    let app = TestApp::start().await;
    let token = app.impersonated("alice@example.com", Some("acme-corp"), "user_support").await;
    let viewer = app.data(&token, VIEWER, json!({})).await["viewer"].clone();
    assert_eq!(viewer["user"]["email"], "alice@example.com");
    assert_eq!(viewer["impersonator"], "user_support");
    assert_eq!(viewer["role"], "OWNER");
    let created = app.data(&token, CREATE, json!({})).await;
    assert!(created["ticketCreate"]["ticket"]["id"].is_string(), "{created}");

    // The user's own token beside it: neither takes on what the other is.
    let own = app.token("alice@example.com", Some("acme-corp")).await;
    assert_eq!(app.data(&own, VIEWER, json!({})).await["viewer"]["impersonator"], json!(null));
    app.data(&own, CREATE, json!({})).await;
    assert_eq!(app.data(&token, VIEWER, json!({})).await["viewer"]["impersonator"], "user_support");

    let by_another = json!({ "where": { "impersonator": { "eq": "user_support" } } });
    let rows = app.data(&own, AUDIT, by_another).await["organization"]["auditLogs"]["nodes"].clone();
    let row =
        json!({ "action": "ticket.create", "impersonator": "user_support", "user": { "email": "alice@example.com" } });
    assert_eq!(rows, json!([row]));
    let mine = json!({ "where": { "impersonator": { "isNull": true }, "action": { "eq": "ticket.create" } } });
    let rows = app.data(&own, AUDIT, mine).await["organization"]["auditLogs"]["nodes"].clone();
    assert_eq!(rows[0]["impersonator"], json!(null));
}

#[tokio::test]
async fn impersonation_does_not_reach_guarded_actions_and_the_platform() {
    let app = TestApp::start().await;
    let token = app.impersonated("alice@example.com", Some("acme-corp"), "user_support").await;
    let own = app.token("alice@example.com", Some("acme-corp")).await;
    let permissions = |viewer: serde_json::Value| viewer["viewer"]["permissions"].as_array().expect("a list").clone();
    let (less, all) = (app.data(&token, VIEWER, json!({})).await, app.data(&own, VIEWER, json!({})).await);
    let (less, all) = (permissions(less), permissions(all));
    let missing: Vec<_> = all.iter().filter(|action| !less.contains(action)).collect();
    // What moves money, changes who belongs to the organization, and acts for it.
    let guarded = [
        "BUDGET_WRITE",
        "BUDGET_SPEND",
        "REFUND_WRITE",
        "REFUND_APPROVE",
        "REFUND_CONFIGURE",
        "BILLING_MANAGE",
        "AGENT_WRITE",
        "MEMBER_UPDATE",
        "ORGANIZATION_DELETE",
        "ORGANIZATION_LEAVE",
        "OWNERSHIP_TRANSFER",
        "INVITATION_WRITE",
        "API_KEY_WRITE",
        "ROLE_WRITE",
        "WEBHOOK_REPLAY",
        "FEATURE_FLAG_WRITE",
    ];
    assert_eq!(missing.iter().filter_map(|action| action.as_str()).collect::<Vec<_>>(), guarded);

    let event = app.data(&token, EVENT, json!({})).await["organization"]["webhookEvents"]["nodes"][0]["id"].clone();
    let id = json!({ "id": event });
    assert_eq!(app.error_code(&token, REPLAY, id.clone()).await, "IMPERSONATION_RESTRICTED");
    assert!(app.data(&own, REPLAY, id).await["webhookEventReplay"]["webhookEvent"].is_object());

    let admin = app.impersonated("admin@example.com", None, "user_support").await;
    assert_eq!(app.error_code(&admin, PLATFORM, json!({})).await, "IMPERSONATION_RESTRICTED");
    let recorded: i64 =
        sqlx::query_scalar("select count(*) from tenantry.platform_audit_logs where impersonator is not null")
            .fetch_one(&mut app.database.system().await)
            .await
            .expect("a count");
    assert_eq!(recorded, 0);
}

#[tokio::test]
async fn impersonation_full_reaches_everything_and_is_recorded() {
    let app = start("full").await;
    let token = app.impersonated("alice@example.com", Some("acme-corp"), "user_support").await;
    let event = app.data(&token, EVENT, json!({})).await["organization"]["webhookEvents"]["nodes"][0]["id"].clone();
    assert!(app.data(&token, REPLAY, json!({ "id": event })).await["webhookEventReplay"]["webhookEvent"].is_object());
    let admin = app.impersonated("admin@example.com", None, "user_support").await;
    app.data(&admin, PLATFORM, json!({})).await;
    let recorded: Vec<String> =
        sqlx::query_scalar("select impersonator from tenantry.platform_audit_logs where impersonator is not null")
            .fetch_all(&mut app.database.system().await)
            .await
            .expect("rows");
    assert!(!recorded.is_empty() && recorded.iter().all(|by| by == "user_support"), "{recorded:?}");
}

#[tokio::test]
async fn impersonation_off_refuses_the_token() {
    let app = start("off").await;
    let token = app.impersonated("alice@example.com", Some("acme-corp"), "user_support").await;
    assert_eq!(app.error_code(&token, VIEWER, json!({})).await, "INVALID_TOKEN");
    app.data(&app.token("alice@example.com", None).await, VIEWER, json!({})).await;
}
