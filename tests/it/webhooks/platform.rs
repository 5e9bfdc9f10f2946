//! Webhook events in GraphQL: the tenant's own, the platform's all, replay, the subscription.

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tenantry::webhook_events::WebhookSource::Clerk;

use super::{clerk, count, deliver, none_left, start, start_workers};
use crate::support::TestApp;

const ALL: &str = "query($first: Int, $after: String) { platform { webhookEvents(first: $first, after: $after) {
  totalCount pageInfo { hasNextPage endCursor } nodes { id eventId type object source status attempts error organizationId eventCreatedAt receivedAt processedAt failedAt } } } }";
const REPLAY: &str = "mutation($id: ID!) { webhookEventReplay(input: { id: $id }) { webhookEvent { eventId status attempts } userErrors { code field } } }";

async fn id_of(app: &TestApp, event_id: &str) -> String {
    let id: uuid::Uuid = sqlx::query_scalar("select id from tenantry.webhook_events where event_id = $1")
        .bind(event_id)
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("an event");
    format!("whe_{}", id.simple())
}

async fn uses(app: &TestApp) -> Vec<String> {
    sqlx::query_scalar("select action from tenantry.platform_audit_logs order by created_at, id")
        .fetch_all(&mut app.database.system().await)
        .await
        .expect("the log")
}

#[tokio::test]
async fn webhook_events_are_all_seen_and_replayed_by_superadmins_with_a_trace() {
    let app = start().await;
    let admin = app.token("admin@example.com", None).await;
    deliver(&app, Clerk, "msg_1", clerk("thing.happened", "x").to_string()).await;
    let all = app.data(&admin, ALL, json!({ "first": 2 })).await["platform"]["webhookEvents"].clone();
    assert_eq!((&all["nodes"][0]["eventId"], &all["nodes"][0]["status"]), (&json!("msg_1"), &json!("RECEIVED")));
    assert_eq!(all["nodes"][0]["organizationId"], Value::Null, "of no organization yet");
    assert_eq!(all["pageInfo"]["hasNextPage"], true);
    let next = app.data(&admin, ALL, json!({ "first": 100, "after": all["pageInfo"]["endCursor"] })).await;
    let rest = next["platform"]["webhookEvents"]["nodes"].as_array().expect("nodes").len();
    assert_eq!(all["totalCount"], json!(rest + 2), "of every tenant");

    let acme = id_of(&app, "evt_sample_2").await;
    let replayed = app.data(&admin, REPLAY, json!({ "id": acme })).await["webhookEventReplay"].clone();
    assert_eq!(replayed["webhookEvent"], json!({ "eventId": "evt_sample_2", "status": "RECEIVED", "attempts": 0 }));
    let none = app.data(&admin, REPLAY, json!({ "id": "whe_0199c0ffee0070008000000000000001" })).await;
    assert_eq!(none["webhookEventReplay"]["userErrors"], json!([{ "code": "NOT_FOUND", "field": ["input", "id"] }]));
    assert_eq!(
        uses(&app).await,
        [
            "webhook_events.list",
            "webhook_events.count",
            "webhook_events.list",
            "webhook_events.count",
            "webhook_event.replay",
            "webhook_event.replay"
        ],
        "every use, also the one that found nothing"
    );

    // The database decides, not the token.
    let dismissed = "update tenantry.users set is_superadmin = false where email = 'admin@example.com'";
    sqlx::raw_sql(dismissed).execute(&mut app.database.system().await).await.expect("an update");
    assert_eq!(app.error_code(&admin, ALL, json!({})).await, "FORBIDDEN");
    assert_eq!(app.error_code(&admin, REPLAY, json!({ "id": acme })).await, "ORGANIZATION_REQUIRED");
    assert_eq!(uses(&app).await.len(), 6, "what is refused is no use");
}

#[tokio::test]
async fn webhook_events_of_their_own_are_seen_and_replayed_by_administrators() {
    let app = start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let list = "{ organization { webhookEvents(where: { object: { eq: \"in_sample_1\" } }) { nodes { id eventId type object status attempts error receivedAt processedAt failedAt } } } }";
    let event = app.data(&alice, list, json!({})).await["organization"]["webhookEvents"]["nodes"][0].clone();
    assert_eq!((&event["eventId"], &event["status"]), (&json!("evt_sample_2"), &json!("IGNORED")));
    let replayed = app.data(&alice, REPLAY, json!({ "id": event["id"] })).await["webhookEventReplay"].clone();
    assert_eq!(
        replayed,
        json!({ "webhookEvent": { "eventId": "evt_sample_2", "status": "RECEIVED", "attempts": 0 }, "userErrors": [] })
    );
    let logged = "{ organization { auditLogs(where: { action: { eq: \"webhook_event.replay\" } }) { nodes { metadata user { email } } } } }";
    let logged = app.data(&alice, logged, json!({})).await["organization"]["auditLogs"]["nodes"].clone();
    assert_eq!(
        logged,
        json!([{ "metadata": { "before": { "status": "IGNORED" } }, "user": { "email": "alice@example.com" } }])
    );
    // A viewer may not, and nobody reads the bytes.
    let bob = app.token("bob@example.com", Some("acme-corp")).await;
    assert_eq!(app.error_code(&bob, REPLAY, json!({ "id": event["id"] })).await, "FORBIDDEN");
    let refused =
        sqlx::query("select raw_body from tenantry.webhook_events").fetch_all(&mut app.database.app().await).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("permission denied")));
}

/// What failed inside is shown to superadmins; to the organization, that it failed and what to say to support.
#[tokio::test]
async fn webhook_causes_are_for_superadmins() {
    let app = start().await;
    sqlx::raw_sql(
        "create function secretive() returns trigger language plpgsql as $$ begin raise exception 'row of another tenant'; end $$;
         create trigger secretive before update of status on tenantry.webhook_events for each row
            when (new.status in ('APPLIED', 'IGNORED') and new.event_id = 'msg_1') execute function secretive()",
    )
    .execute(&mut app.database.owner().await)
    .await
    .expect("a trigger");
    deliver(&app, Clerk, "msg_1", clerk("thing.happened", "x").to_string()).await;
    let own = "update tenantry.webhook_events set organization_id = (select id from tenantry.organizations where slug = 'acme-corp') where event_id = 'msg_1'";
    sqlx::raw_sql(own).execute(&mut app.database.system().await).await.expect("an update");
    let workers = start_workers(&app.app, 1);
    none_left(&app.database, "event_id = 'msg_1' and status = 'RECEIVED'").await;
    drop(workers);
    let id = id_of(&app, "msg_1").await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let list =
        "{ organization { webhookEvents(where: { type: { eq: \"thing.happened\" } }) { nodes { status error } } } }";
    let seen = app.data(&alice, list, json!({})).await["organization"]["webhookEvents"]["nodes"].clone();
    let told = format!("it could not be applied; tell support the id {id}");
    assert_eq!(seen, json!([{ "status": "FAILED", "error": told }]));
    let refused =
        sqlx::query("select cause from tenantry.webhook_events").fetch_all(&mut app.database.app().await).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("permission denied")));
    let admin = app.token("admin@example.com", None).await;
    let all = app.data(&admin, ALL, json!({ "first": 1 })).await["platform"]["webhookEvents"]["nodes"][0].clone();
    assert_eq!(all["eventId"], "msg_1");
    assert!(all["error"].as_str().is_some_and(|error| error.contains("row of another tenant")), "{all}");
    // Worked on again by the tenant, the cause goes, too.
    app.data(&alice, REPLAY, json!({ "id": id })).await;
    assert_eq!(count(&app.database, "event_id = 'msg_1' and cause is null and last_error is null").await, 1);
}

/// Each event that was worked on is told to the administrators of its organization.
#[tokio::test]
async fn webhook_deliveries_are_told_to_their_organization() {
    let app = start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let response =
        app.follow(&alice, "subscription { webhookDelivery { webhookEvent { eventId status } } }", json!({})).await;
    let mut stream = response.bytes_stream();
    app.subscribed(1).await;
    // Events whose organization is known: one of another tenant first, then one of hers.
    for (id, slug) in [("msg_theirs", "tech-startup"), ("msg_hers", "acme-corp")] {
        deliver(&app, Clerk, id, clerk("thing.happened", "x").to_string()).await;
        let own = format!(
            "update tenantry.webhook_events set organization_id = (select id from tenantry.organizations where slug = '{slug}') where event_id = '{id}'"
        );
        sqlx::raw_sql(AssertSqlSafe(own)).execute(&mut app.database.system().await).await.expect("an update");
    }
    let workers = start_workers(&app.app, 1);
    none_left(&app.database, "status = 'RECEIVED'").await;
    drop(workers);
    let mut heard = String::new();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while !heard.contains("msg_hers") {
        let chunk = tokio::time::timeout_at(deadline, stream.next()).await.expect("in time").expect("an open stream");
        heard.push_str(&String::from_utf8_lossy(&chunk.expect("a chunk")));
    }
    assert!(!heard.contains("msg_theirs"), "{heard}");
    assert_eq!(count(&app.database, "status = 'IGNORED' and event_id like 'msg!_%' escape '!'").await, 2);
}
