//! Operators of the platform: what they see of all organizations, and how they look into one.

use serde_json::{Value, json};

use crate::support::{TestApp, hear};

const START: &str = "mutation($input: SupportAccessStartInput!) { supportAccessStart(input: $input) { supportAccessId expiresAt userErrors { code field } } }";
const END: &str = "mutation($input: SupportAccessEndInput!) { supportAccessEnd(input: $input) { supportAccessId userErrors { code field } } }";
const SEEN: &str = "{ organization { supportAccesses(first: 10) { nodes { reason writes endedAt operator { name } } } auditLogs(first: 50) { nodes { action user { name } } } } }";
const LEAVE: &str = "mutation { organizationLeave(input: {}) { memberId userErrors { code } } }";
const OPEN_TICKET: &str = r#"mutation { ticketCreate(input: { subject: "s", description: "d", priority: LOW, category: OTHER }) { ticket { id } userErrors { code } } }"#;

async fn organization(app: &TestApp, slug: &str) -> String {
    let id: uuid::Uuid = sqlx::query_scalar("select id from tenantry.organizations where slug = $1")
        .bind(slug)
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("an organization");
    format!("org_{}", id.simple())
}

/// Asks as an operator about an organization that they are no member of.
async fn within(app: &TestApp, token: &str, slug: &str, query: &str) -> Value {
    let sent = app
        .client()
        .post(format!("{}/graphql", app.base_url()))
        .bearer_auth(token)
        .header("X-Organization-Id", slug)
        .json(&json!({ "query": query }));
    sent.send().await.expect("an answer").json().await.expect("JSON")
}

/// A stream that an operator has open in an organization.
async fn followed(app: &TestApp, token: &str, slug: &str) -> reqwest::Response {
    let request = app.client().post(format!("{}/graphql", app.base_url())).bearer_auth(token);
    let request = request.header("X-Organization-Id", slug).header("Accept", "text/event-stream");
    let query = json!({ "query": "subscription { ticketChanged { ticket { id } } }" });
    let stream = request.json(&query).send().await.expect("a stream");
    app.subscribed(1).await;
    stream
}

fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn operators_look_into_an_organization_for_a_time_and_it_sees_them() {
    let app = TestApp::start().await;
    let admin = app.token("admin@example.com", None).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let acme = organization(&app, "acme-corp").await;
    let tickets = "{ organization { name tickets(first: 1) { totalCount } auditLogs(first: 1) { totalCount } } viewer { role permissions } }";
    assert_eq!(code(&within(&app, &admin, "acme-corp", tickets).await), "ORGANIZATION_NOT_FOUND");
    for (input, field) in [
        (json!({ "organizationId": acme, "reason": " " }), "reason"),
        (json!({ "organizationId": acme, "reason": "x", "minutes": 481 }), "minutes"),
        (json!({ "organizationId": format!("org_{}", uuid::Uuid::nil().simple()), "reason": "x" }), "organizationId"),
    ] {
        let refused = app.data(&admin, START, json!({ "input": input })).await;
        assert_eq!(refused["supportAccessStart"]["userErrors"][0]["field"][1], field, "{refused}");
    }
    let input = json!({ "input": { "organizationId": acme, "reason": "Ticket 12 hangs" } });
    let started = app.data(&admin, START, input.clone()).await;
    assert!(started["supportAccessStart"]["supportAccessId"].is_string(), "{started}");
    // They read all of this organization, and of no other.
    let seen = within(&app, &admin, "acme-corp", tickets).await;
    assert_eq!(seen["data"]["organization"]["name"], "Acme Corp", "{seen}");
    assert!(seen["data"]["organization"]["auditLogs"]["totalCount"].as_i64().is_some_and(|count| count > 0));
    let permissions = seen["data"]["viewer"]["permissions"].as_array().expect("actions");
    assert!(
        permissions
            .iter()
            .all(|action| action.as_str().is_some_and(|a| a.ends_with("_READ") || a == "ORGANIZATION_LEAVE")),
        "{seen}"
    );
    assert_eq!(code(&within(&app, &admin, "tech-startup", tickets).await), "ORGANIZATION_NOT_FOUND");
    // They change nothing, and have nothing to leave.
    assert_eq!(code(&within(&app, &admin, "acme-corp", OPEN_TICKET).await), "FORBIDDEN");
    let left = within(&app, &admin, "acme-corp", LEAVE).await;
    assert_eq!(left["data"]["organizationLeave"]["userErrors"][0]["code"], "NOT_FOUND", "{left}");
    // The organization sees who, why and until when.
    let told = app.data(&alice, SEEN, json!({})).await;
    let access = &told["organization"]["supportAccesses"]["nodes"][0];
    assert_eq!(
        (&access["reason"], &access["writes"], &access["endedAt"]),
        (&json!("Ticket 12 hangs"), &json!(false), &Value::Null)
    );
    assert!(access["operator"]["name"].is_string(), "{access}");
    let log = told["organization"]["auditLogs"]["nodes"].as_array().expect("rows");
    let row = log.iter().find(|row| row["action"] == "support_access.start").expect("the start is in the log");
    assert_eq!(row["user"]["name"], access["operator"]["name"]);
    // The end, twice; it is the end of their streams, too.
    let input = json!({ "input": { "organizationId": acme } });
    let stream = followed(&app, &admin, "acme-corp").await;
    assert!(app.data(&admin, END, input.clone()).await["supportAccessEnd"]["supportAccessId"].is_string());
    hear(stream, &["ORGANIZATION_NOT_FOUND", "event: complete"]).await;
    assert_eq!(app.data(&admin, END, input).await["supportAccessEnd"]["userErrors"][0]["code"], "NOT_FOUND");
    assert_eq!(code(&within(&app, &admin, "acme-corp", tickets).await), "ORGANIZATION_NOT_FOUND");
}

#[tokio::test]
async fn support_access_is_for_living_superadmins_and_ends_by_itself() {
    let app = TestApp::start().await;
    let acme = organization(&app, "acme-corp").await;
    let admin = app.token("admin@example.com", None).await;
    let grace = app.token("grace@example.com", None).await;
    let input = json!({ "input": { "organizationId": acme, "reason": "curious", "writes": true } });
    assert_eq!(app.error_code(&grace, START, input.clone()).await, "FORBIDDEN");
    let started = app.data(&admin, START, input.clone()).await;
    assert_eq!(started["supportAccessStart"]["userErrors"], json!([]), "{started}");
    let opened = within(&app, &admin, "acme-corp", OPEN_TICKET).await;
    assert!(opened["data"]["ticketCreate"]["ticket"]["id"].is_string(), "asked for with writing: {opened}");
    let stream = followed(&app, &admin, "acme-corp").await;
    let invite = r#"mutation { invitationCreate(input: { email: "x@example.com" }) { userErrors { code } } }"#;
    assert_eq!(code(&within(&app, &admin, "acme-corp", invite).await), "FORBIDDEN");
    // Whoever forges a row for somebody who is no superadmin has made nothing.
    let mut system = app.database.system().await;
    sqlx::query("insert into tenantry.support_accesses (organization_id, id, user_id, reason, actions, expires_at)
                 select o.id, gen_random_uuid(), u.id, 'forged', '{AUDIT_READ}', now() + interval '1 hour'
                   from tenantry.organizations o, tenantry.users u where o.slug = 'acme-corp' and u.clerk_id = 'user_grace'")
        .execute(&mut system)
        .await
        .expect("a row");
    let ask = "{ organization { name } }";
    assert_eq!(code(&within(&app, &grace, "acme-corp", ask).await), "ORGANIZATION_NOT_FOUND");
    for (sql, undo) in [
        (
            "update tenantry.users set is_superadmin = false where clerk_id = 'user_admin'",
            "update tenantry.users set is_superadmin = true where clerk_id = 'user_admin'",
        ),
        (
            "update tenantry.users set blocked_until = 'infinity' where clerk_id = 'user_admin'",
            "update tenantry.users set blocked_until = null where clerk_id = 'user_admin'",
        ),
        (
            "update tenantry.support_accesses set created_at = now() - interval '2 hours', expires_at = now() - interval '1 second' where ended_at is null",
            "",
        ),
    ] {
        assert_eq!(within(&app, &admin, "acme-corp", ask).await["data"]["organization"]["name"], "Acme Corp", "{sql}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut system).await.expect("a change");
        assert!(within(&app, &admin, "acme-corp", ask).await["errors"].is_array(), "{sql}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(undo)).execute(&mut system).await.expect("undone");
    }
    let ended = tenantry::support_access::end_expired(&app.app.services.db, &app.clock).await.expect("a job");
    assert!(ended >= 1, "{ended}");
    hear(stream, &["ORGANIZATION_NOT_FOUND", "event: complete"]).await;
    let noted: i64 = sqlx::query_scalar("select count(*) from tenantry.audit_logs where action = 'support_access.end' and metadata ->> 'cause' = 'expired'")
        .fetch_one(&mut system)
        .await
        .expect("a count");
    assert_eq!(noted, i64::try_from(ended).expect("few"));
    // Two at once: one of them is open.
    let both = futures_util::future::join_all((0..4).map(|_| app.data(&admin, START, input.clone()))).await;
    assert_eq!(both.len(), 4);
    let open: i64 = sqlx::query_scalar("select count(*) from tenantry.support_accesses a join tenantry.users u on u.id = a.user_id where u.clerk_id = 'user_admin' and a.ended_at is null")
        .fetch_one(&mut system)
        .await
        .expect("a count");
    assert_eq!(open, 1);
    // Tenants cannot let anybody in, or hide who was.
    let mut tenant = app.database.app().await;
    for sql in [
        "insert into tenantry.support_accesses (organization_id, id, user_id, reason, actions, expires_at) values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'x', '{}', now() + interval '1 hour')",
        "update tenantry.support_accesses set reason = 'nothing'",
        "delete from tenantry.support_accesses",
    ] {
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut tenant).await.expect_err(sql);
        assert!(refused.to_string().contains("permission denied"), "{refused}");
    }
}

#[tokio::test]
async fn operators_see_organizations_people_jobs_and_what_they_did() {
    let app = TestApp::start().await;
    let admin = app.token("admin@example.com", None).await;
    tenantry::jobs::run_if_due(&app.app.jobs, &tenantry::jobs::JOBS[0]).await.expect("a job");
    sqlx::query("update tenantry.organizations set deleted_at = now() where slug = 'tech-startup'")
        .execute(&mut app.database.system().await)
        .await
        .expect("a deletion");
    let query = r#"{ platform {
        organizations(first: 50, orderBy: [{ field: NAME, direction: ASC }]) { totalCount nodes { id slug deletedAt } }
        users(first: 50, where: { email: { eq: "alice@example.com" } }) { nodes { name isSuperadmin isBlocked } }
        jobs { name runs lastError }
        featureFlagDefinitions { key kind rolloutUnit minimumPlan version } } }"#;
    let seen = app.data(&admin, query, json!({})).await["platform"].clone();
    let slugs: Vec<&str> =
        seen["organizations"]["nodes"].as_array().expect("rows").iter().filter_map(|o| o["slug"].as_str()).collect();
    assert!(slugs.contains(&"acme-corp") && slugs.contains(&"tech-startup"), "{slugs:?}");
    assert_eq!(seen["users"]["nodes"], json!([{ "name": "Alice Johnson", "isSuperadmin": false, "isBlocked": false }]));
    assert_eq!(seen["jobs"][0], json!({ "name": tenantry::jobs::JOBS[0].name, "runs": 1, "lastError": null }));
    assert!(seen["featureFlagDefinitions"].as_array().is_some_and(|all| all.len() > 2), "{seen}");
    let actions: Vec<String> = sqlx::query_scalar("select action from tenantry.platform_audit_logs")
        .fetch_all(&mut app.database.system().await)
        .await
        .expect("the log");
    for action in ["organizations.list", "users.list", "jobs.list"] {
        assert!(actions.iter().any(|known| known == action), "{action} is not in {actions:?}");
    }
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    for field in
        ["organizations { totalCount }", "users { totalCount }", "jobs { name }", "featureFlagDefinitions { key }"]
    {
        let query = format!("{{ platform {{ {field} }} }}");
        assert_eq!(app.error_code(&alice, &query, json!({})).await, "FORBIDDEN", "{field}");
    }
}
