//! Nobody sees or touches another tenant's rows, by whatever way they try.
//!
//! What must hold for every table, list, root field and id is in `gates.rs`; here are the ways that need a story.
//!
//! Alice belongs to Acme Corp only; Tech Startup Inc has rows of every kind for her to steal.

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row as _};
use tenantry::id::PREFIXES;

use crate::support::TestApp;

fn global_id(type_name: &str, uuid: uuid::Uuid) -> String {
    let (prefix, _) = PREFIXES.iter().find(|(_, name)| *name == type_name).expect("a node type");
    format!("{prefix}_{}", uuid.simple())
}

async fn ids_of(app: &TestApp, slug: &str, table: &str) -> Vec<uuid::Uuid> {
    let sql = format!(
        "select t.id from tenantry.{table} t join tenantry.organizations o on o.id = t.organization_id where o.slug = $1"
    );
    let rows =
        sqlx::query(AssertSqlSafe(sql)).bind(slug).fetch_all(&mut app.database.system().await).await.expect("ids");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn tenancy_lets_writes_reach_nothing_of_another_tenant() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let ticket = global_id("Ticket", ids_of(&app, "tech-startup", "tickets").await[0]);
    let customer = global_id("Customer", ids_of(&app, "tech-startup", "customer_profiles").await[0]);
    let representative = global_id("Representative", ids_of(&app, "tech-startup", "representatives").await[0]);
    let snapshot = || async {
        let rows: Vec<(String,)> = sqlx::query_as(
            "select row(t.*)::text from tenantry.tickets t union all select row(m.*)::text from tenantry.ticket_messages m
             union all select row(a.id, a.action)::text from tenantry.audit_logs a order by 1",
        )
        .fetch_all(&mut app.database.system().await)
        .await
        .expect("a look");
        rows
    };
    let before = snapshot().await;
    for (query, variables, field) in [
        (
            "mutation($input: TicketUpdateInput!) { r: ticketUpdate(input: $input) { ticket { id } userErrors { code field } } }",
            json!({ "input": { "id": ticket, "status": "CLOSED" } }),
            "id",
        ),
        (
            "mutation($input: TicketMessageAddInput!) { r: ticketMessageAdd(input: $input) { ticket { id } userErrors { code field } } }",
            json!({ "input": { "ticketId": ticket, "body": "let me in" } }),
            "ticketId",
        ),
        (
            "mutation($input: TicketCreateInput!) { r: ticketCreate(input: $input) { ticket { id } userErrors { code field } } }",
            json!({ "input": { "subject": "x", "customerId": customer } }),
            "customerId",
        ),
        (
            "mutation($input: TicketCreateInput!) { r: ticketCreate(input: $input) { ticket { id } userErrors { code field } } }",
            json!({ "input": { "subject": "x", "assigneeId": representative } }),
            "assigneeId",
        ),
    ] {
        let result = app.data(&alice, query, variables).await;
        assert_eq!(
            result["r"],
            json!({ "ticket": null, "userErrors": [{ "code": "NOT_FOUND", "field": ["input", field] }] })
        );
    }
    assert_eq!(snapshot().await, before, "nothing was written, no audit row either");
    // A viewer of Acme who owns Tech Startup may write there and not here.
    let bob = app.token("bob@example.com", Some("acme-corp")).await;
    let update = "mutation { organizationUpdate(input: { name: \"Bob's\" }) { organization { name } } }";
    assert_eq!(app.error_code(&bob, update, json!({})).await, "FORBIDDEN");
}

#[tokio::test]
async fn tenancy_makes_a_foreign_organization_like_one_that_does_not_exist() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", None).await;
    let answer = |organization: &'static str| {
        let request = app
            .client()
            .post(format!("{}/graphql", app.base_url()))
            .bearer_auth(&alice)
            .header("X-Organization-Id", organization)
            .json(&json!({ "query": "{ organization { id } }" }));
        async move {
            let mut response: Value = request.send().await.expect("a response").json().await.expect("JSON");
            if let Some(error) = response.pointer_mut("/errors/0/extensions/requestId") {
                error.take();
            }
            response
        }
    };
    assert!(answer("acme-corp").await["data"]["organization"]["id"].is_string());
    let foreign = answer("tech-startup").await;
    assert_eq!(foreign["errors"][0]["extensions"]["code"], "ORGANIZATION_NOT_FOUND");
    for nowhere in ["no-such-organization", "org_nowhere", "0199c0ff-ee00-7000-8000-000000000001", "a'b"] {
        assert_eq!(answer(nowhere).await, foreign, "{nowhere}");
    }
    // A token that was issued for one organization does not open another one of the same user.
    let bob = app.token("bob@example.com", Some("tech-startup")).await;
    let response = app
        .client()
        .post(format!("{}/graphql", app.base_url()))
        .bearer_auth(&bob)
        .header("X-Organization-Id", "acme-corp")
        .json(&json!({ "query": "{ organization { id } }" }))
        .send()
        .await
        .expect("a response");
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(body["errors"][0]["extensions"]["code"], "ORGANIZATION_MISMATCH", "{body}");
}

#[tokio::test]
async fn tenancy_refuses_a_cursor_of_another_tenant_or_list() {
    let app = TestApp::start().await;
    let bob = app.token("bob@example.com", Some("tech-startup")).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let first = "{ organization { tickets(first: 1) { pageInfo { endCursor } } budgets(first: 1) { pageInfo { endCursor } } } }";
    let foreign = app.data(&bob, first, json!({})).await;
    let own = app.data(&alice, first, json!({})).await;
    let next = "query($after: String) { organization { tickets(first: 1, after: $after) { nodes { id } } } }";
    let cursor = |data: &Value, list: &str| data["organization"][list]["pageInfo"]["endCursor"].clone();
    assert_eq!(app.error_code(&alice, next, json!({ "after": cursor(&foreign, "tickets") })).await, "INVALID_CURSOR");
    assert_eq!(app.error_code(&alice, next, json!({ "after": cursor(&own, "budgets") })).await, "INVALID_CURSOR");
    app.data(&alice, next, json!({ "after": cursor(&own, "tickets") })).await;
    let other_order = "query($after: String) { organization { tickets(first: 1, after: $after, orderBy: [{ field: NUMBER }]) { nodes { id } } } }";
    assert_eq!(
        app.error_code(&alice, other_order, json!({ "after": cursor(&own, "tickets") })).await,
        "INVALID_CURSOR"
    );
    for garbage in ["", "x", "AAAA", "ÄÖÜ", "=====", &"A".repeat(100_000)] {
        assert_eq!(app.error_code(&alice, next, json!({ "after": garbage })).await, "INVALID_CURSOR", "{garbage:.20}");
    }
}

#[tokio::test]
async fn tenancy_lets_a_subscription_hear_its_own_tenant_only() {
    let app = TestApp::start().await;
    let bob = app.token("bob@example.com", Some("tech-startup")).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let response = app.follow(&alice, "subscription { ticketChanged { ticket { subject } } }", json!({})).await;
    assert_eq!(response.status(), 200);
    let mut stream = response.bytes_stream();
    app.subscribed(1).await;
    let create = "mutation($s: String!) { ticketCreate(input: { subject: $s }) { ticket { id } userErrors { code } } }";
    app.data(&bob, create, json!({ "s": "a secret of Tech Startup" })).await;
    app.data(&alice, create, json!({ "s": "heard by Acme" })).await;
    let mut heard = String::new();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while !heard.contains("heard by Acme") {
        let chunk =
            tokio::time::timeout_at(deadline, stream.next()).await.expect("an event in time").expect("an open stream");
        heard.push_str(&String::from_utf8_lossy(&chunk.expect("a chunk")));
    }
    assert!(!heard.contains("secret"), "{heard}");
}

/// What spans tenants is for superadmins, whatever one is in one's own tenant.
#[tokio::test]
async fn tenancy_closes_the_platform_and_events_of_others() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    for query in ["{ platform { webhookEvents { nodes { id } } } }", "{ platform { webhookEvents { totalCount } } }"] {
        assert_eq!(app.error_code(&alice, query, json!({})).await, "FORBIDDEN");
    }
    let bystander = app.token("alice@example.com", None).await;
    let query = "{ platform { webhookEvents { nodes { id } } } }";
    assert_eq!(app.error_code(&bystander, query, json!({})).await, "FORBIDDEN");
    let foreign = global_id("WebhookEvent", ids_of(&app, "tech-startup", "webhook_events").await[0]);
    let replay = "mutation($id: ID!) { webhookEventReplay(input: { id: $id }) { webhookEvent { id } userErrors { code field } } }";
    let refused = app.data(&alice, replay, json!({ "id": foreign })).await;
    assert_eq!(
        refused["webhookEventReplay"],
        json!({ "webhookEvent": null, "userErrors": [{ "code": "NOT_FOUND", "field": ["input", "id"] }] })
    );
    assert_eq!(app.error_code(&bystander, replay, json!({ "id": foreign })).await, "ORGANIZATION_REQUIRED");
    let bob = app.token("bob@example.com", Some("acme-corp")).await;
    let listen = "subscription { webhookDelivery { webhookEvent { id } } }";
    let response = app.follow(&bob, listen, json!({})).await;
    assert!(response.text().await.expect("text").contains("FORBIDDEN"), "a viewer hears no webhookDelivery");
    let left: (i64, i64) = sqlx::query_as(
        "select count(*) filter (where status = 'RECEIVED'), (select count(*) from tenantry.platform_audit_logs) from tenantry.webhook_events",
    )
    .fetch_one(&mut app.database.system().await)
    .await
    .expect("a look");
    assert_eq!(left, (0, 0), "nothing was replayed, and no use is recorded that was none");
}

#[tokio::test]
async fn tenancy_gives_no_rows_to_who_is_in_no_organization() {
    let app = TestApp::start().await;
    let admin = app.token("admin@example.com", None).await;
    let viewer = app.data(&admin, "{ viewer { isSuperadmin role permissions memberships { role } } }", json!({})).await;
    assert_eq!(viewer["viewer"], json!({ "isSuperadmin": true, "role": null, "permissions": [], "memberships": [] }));
    assert_eq!(app.error_code(&admin, "{ organization { id } }", json!({})).await, "ORGANIZATION_REQUIRED");
}
