//! Tickets: the four mutations, their transitions, versions, idempotency, audit rows and errors.

use serde_json::{Value, json};

use crate::support::{TestApp, codes};

const CREATE: &str = "mutation($input: TicketCreateInput!) { ticketCreate(input: $input) {
  ticket { id number subject status priority category tags version firstResponseDueAt resolutionDueAt nextStatuses customer { name } assignee { user { name } } }
  userErrors { field message code } } }";
const UPDATE: &str = "mutation($input: TicketUpdateInput!) { ticketUpdate(input: $input) {
  ticket { id status priority version subject slaPausedAt slaPausedSeconds resolvedAt closedAt assignee { id } customer { id } }
  userErrors { field message code } } }";
const MESSAGE: &str = "mutation($input: TicketMessageAddInput!) { ticketMessageAdd(input: $input) {
  message { id body isInternal author { email } } ticket { id status firstRespondedAt messages { totalCount } }
  userErrors { field message code } } }";

/// Rows of the last minute: the sample data has older ones.
async fn audit_rows(app: &TestApp, action: &str) -> i64 {
    sqlx::query_scalar("select count(*) from tenantry.audit_logs where action = $1 and request_id is not null and created_at > now() - interval '1 minute'")
        .bind(action)
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a count")
}

#[tokio::test]
async fn ticket_lives_from_new_to_closed() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let customer = app
        .data(
            &alice,
            "{ organization { customers(first: 1) { nodes { id name } } representatives(first: 1) { nodes { id } } } }",
            json!({}),
        )
        .await;
    let customer_id = &customer["organization"]["customers"]["nodes"][0]["id"];
    let assignee_id = &customer["organization"]["representatives"]["nodes"][0]["id"];
    let created = app
        .data(&alice, CREATE, json!({ "input": { "subject": "  It is broken ", "priority": "HIGH", "customerId": customer_id, "assigneeId": assignee_id, "tags": ["b", "a", "b"] } }))
        .await["ticketCreate"]
        .clone();
    assert_eq!(created["userErrors"], json!([]));
    let ticket = &created["ticket"];
    assert_eq!(
        (&ticket["number"], &ticket["subject"], &ticket["status"], &ticket["version"]),
        (&json!(4), &json!("It is broken"), &json!("NEW"), &json!(1))
    );
    assert_eq!(ticket["tags"], json!(["a", "b"]));
    assert!(ticket["firstResponseDueAt"].is_string() && ticket["resolutionDueAt"].is_string());
    assert_eq!(ticket["customer"]["name"], customer["organization"]["customers"]["nodes"][0]["name"]);
    let id = &ticket["id"];

    let noted =
        app.data(&alice, MESSAGE, json!({ "input": { "ticketId": id, "body": "for us", "isInternal": true } })).await;
    assert_eq!(noted["ticketMessageAdd"]["ticket"]["status"], "NEW", "a note answers nobody");
    let answered = app.data(&alice, MESSAGE, json!({ "input": { "ticketId": id, "body": "We look into it." } })).await;
    let ticket = &answered["ticketMessageAdd"]["ticket"];
    assert_eq!((&ticket["status"], &ticket["messages"]["totalCount"]), (&json!("OPEN"), &json!(2)));
    assert!(ticket["firstRespondedAt"].is_string());
    assert_eq!(answered["ticketMessageAdd"]["message"]["author"]["email"], "alice@example.com");

    let step = async |status: &str| {
        app.data(&alice, UPDATE, json!({ "input": { "id": id, "status": status } })).await["ticketUpdate"].clone()
    };
    let waiting = step("PENDING_CUSTOMER").await;
    assert!(waiting["ticket"]["slaPausedAt"].is_string());
    assert!(step("OPEN").await["ticket"]["slaPausedAt"].is_null());
    assert!(step("RESOLVED").await["ticket"]["resolvedAt"].is_string());
    let reopened = app.data(&alice, MESSAGE, json!({ "input": { "ticketId": id, "body": "Still broken?" } })).await;
    assert_eq!(reopened["ticketMessageAdd"]["ticket"]["status"], "OPEN", "a reply reopens");
    let closed = step("CLOSED").await;
    assert!(closed["ticket"]["closedAt"].is_string() && closed["ticket"]["resolvedAt"].is_string());
    for status in ["OPEN", "NEW", "RESOLVED"] {
        let refused = step(status).await;
        assert_eq!((codes(&refused), &refused["ticket"]), (vec!["INVALID_TRANSITION"], &Value::Null));
    }
    let late = app.data(&alice, MESSAGE, json!({ "input": { "ticketId": id, "body": "hello?" } })).await;
    assert_eq!(codes(&late["ticketMessageAdd"]), ["INVALID_TRANSITION"]);
    let unassigned =
        app.data(&alice, UPDATE, json!({ "input": { "id": id, "assigneeId": null } })).await["ticketUpdate"]["ticket"]
            .clone();
    assert!(unassigned["assignee"].is_null() && !unassigned["customer"].is_null(), "{unassigned}");

    assert_eq!(audit_rows(&app, "ticket.create").await, 1);
    assert_eq!(
        audit_rows(&app, "ticket.update").await,
        7,
        "one row for each change, by messages too, none for a refusal"
    );
    assert_eq!(audit_rows(&app, "ticket.message.add").await, 3);
}

#[tokio::test]
async fn ticket_update_with_an_expected_version_loses_no_update() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let created = app.data(&alice, CREATE, json!({ "input": { "subject": "x" } })).await;
    let id = &created["ticketCreate"]["ticket"]["id"];
    let first =
        app.data(&alice, UPDATE, json!({ "input": { "id": id, "priority": "URGENT", "expectedVersion": 1 } })).await;
    assert_eq!(first["ticketUpdate"]["ticket"]["version"], 2);
    let second =
        app.data(&alice, UPDATE, json!({ "input": { "id": id, "priority": "LOW", "expectedVersion": 1 } })).await;
    assert_eq!(codes(&second["ticketUpdate"]), ["VERSION_CONFLICT"]);
    let organization = "mutation($v: Int) { organizationUpdate(input: { industry: \"Toys\", expectedVersion: $v }) { organization { industry version } userErrors { code } } }";
    let version = app.data(&alice, "{ organization { version } }", json!({})).await["organization"]["version"].clone();
    let changed = app.data(&alice, organization, json!({ "v": version })).await;
    assert_eq!(changed["organizationUpdate"]["organization"]["industry"], "Toys");
    let stale = app.data(&alice, organization, json!({ "v": version })).await;
    assert_eq!(codes(&stale["organizationUpdate"]), ["VERSION_CONFLICT"]);
}

#[tokio::test]
async fn ticket_numbers_have_no_gaps_and_no_duplicates() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let bob = app.token("bob@example.com", Some("tech-startup")).await;
    let requests = (0..40).map(|n| {
        let (app, alice, bob) = (&app, &alice, &bob);
        async move {
            // Every fourth is refused after its number could have been taken; every fifth is the neighbour's.
            let token = if n % 5 == 0 { bob } else { alice };
            let customer = (n % 4 == 0).then_some("cus_0199c0ffee0070008000000000000001");
            app.data(token, CREATE, json!({ "input": { "subject": format!("{n}"), "customerId": customer } })).await
        }
    });
    futures_util::future::join_all(requests).await;
    let rows: Vec<(String, i64, i64, i64)> = sqlx::query_as(
        "select o.slug, count(*), count(distinct t.number), max(t.number) from tenantry.tickets t join tenantry.organizations o on o.id = t.organization_id group by 1 order by 1",
    )
    .fetch_all(&mut app.database.system().await)
    .await
    .expect("a look");
    for (slug, count, distinct, highest) in rows {
        assert_eq!((count, distinct), (highest, highest), "{slug}");
        assert!(count > 3, "{slug}");
    }
}

#[tokio::test]
async fn idempotency_key_makes_repeating_harmless() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let carol = app.token("carol@example.com", Some("acme-corp")).await;
    let input = |subject: &str| json!({ "input": { "subject": subject, "idempotencyKey": "one" } });
    let first = app.data(&alice, CREATE, input("Same")).await["ticketCreate"]["ticket"]["id"].clone();
    let again = app.data(&alice, CREATE, input("Same")).await["ticketCreate"]["ticket"]["id"].clone();
    assert_eq!(first, again);
    assert_eq!(
        codes(&app.data(&alice, CREATE, input("Other")).await["ticketCreate"]),
        ["IDEMPOTENCY_KEY_PARAMETER_MISMATCH"]
    );
    let update = json!({ "input": { "id": first, "subject": "Same", "idempotencyKey": "one" } });
    assert_eq!(codes(&app.data(&alice, UPDATE, update).await["ticketUpdate"]), ["IDEMPOTENCY_KEY_PARAMETER_MISMATCH"]);
    // The key is the user's own.
    let hers = app.data(&carol, CREATE, input("Same")).await["ticketCreate"]["ticket"]["id"].clone();
    assert_ne!(first, hers);
    // Many at once: one ticket; the others see it or are told to wait.
    let at_once =
        (0..8).map(|_| app.data(&alice, CREATE, json!({ "input": { "subject": "At once", "idempotencyKey": "two" } })));
    let mut ids = std::collections::BTreeSet::new();
    for result in futures_util::future::join_all(at_once).await {
        let payload = &result["ticketCreate"];
        match codes(payload).as_slice() {
            [] => drop(ids.insert(payload["ticket"]["id"].to_string())),
            other => assert_eq!(other, ["IDEMPOTENCY_CONCURRENT_REQUEST"]),
        }
    }
    assert_eq!(ids.len(), 1);
    for bad in [String::new(), "x".repeat(256)] {
        let refused = app.data(&alice, CREATE, json!({ "input": { "subject": "x", "idempotencyKey": bad } })).await;
        assert_eq!(codes(&refused["ticketCreate"]), ["INVALID"]);
    }
}

#[tokio::test]
async fn user_errors_name_all_bad_texts_at_once() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let refused = app
        .data(
            &alice,
            CREATE,
            json!({ "input": { "subject": " ", "description": "x".repeat(50_001), "tags": vec!["t"; 51] } }),
        )
        .await["ticketCreate"]
        .clone();
    let fields: Vec<&Value> =
        refused["userErrors"].as_array().expect("errors").iter().map(|error| &error["field"][1]).collect();
    assert_eq!(
        (fields, codes(&refused)),
        (vec![&json!("subject"), &json!("description"), &json!("tags")], vec!["BLANK", "TOO_LONG", "TOO_LONG"])
    );
    let literal = "mutation { ticketCreate(input: { subject: \"a\\u0000b\" }) { ticket { id } userErrors { code } } }";
    assert_eq!(app.error_code(&alice, literal, json!({})).await, "INVALID_ARGUMENT");
    for (subject, code) in [("é".repeat(301), "TOO_LONG"), ("x".repeat(900_000), "TOO_LONG")] {
        let refused = app.data(&alice, CREATE, json!({ "input": { "subject": subject } })).await;
        assert_eq!(codes(&refused["ticketCreate"]), [code]);
    }
    let fits = app.data(&alice, CREATE, json!({ "input": { "subject": "é".repeat(300) } })).await;
    assert_eq!(codes(&fits["ticketCreate"]), Vec::<&str>::new());
    let organization = "mutation($input: OrganizationUpdateInput!) { organizationUpdate(input: $input) { organization { name settings supportEmail } userErrors { code } } }";
    for (input, code) in [
        (json!({ "name": "" }), "BLANK"),
        (json!({ "supportEmail": "nobody" }), "INVALID"),
        (json!({ "settings": [1] }), "INVALID"),
        (json!({ "settings": { "a": "x".repeat(70_000) } }), "TOO_LONG"),
    ] {
        assert_eq!(
            codes(&app.data(&alice, organization, json!({ "input": input })).await["organizationUpdate"]),
            [code],
            "{input:.60}"
        );
    }
    let removed = app
        .data(&alice, organization, json!({ "input": { "supportEmail": null, "settings": { "theme": "dark" } } }))
        .await;
    assert_eq!(
        removed["organizationUpdate"]["organization"],
        json!({ "name": "Acme Corp", "settings": { "theme": "dark" }, "supportEmail": null })
    );
}

#[tokio::test]
async fn tickets_show_and_allow_a_role_what_the_matrix_says() {
    let app = TestApp::start().await;
    // Bob is a viewer of Acme.
    let bob = app.token("bob@example.com", Some("acme-corp")).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let messages = "{ organization { tickets { nodes { messages { totalCount nodes { isInternal } } } } } }";
    let notes = |data: &Value| data.to_string().matches("\"isInternal\":true").count();
    assert_eq!(notes(&app.data(&alice, messages, json!({})).await), 1);
    assert_eq!(notes(&app.data(&bob, messages, json!({})).await), 0);
    let hidden: uuid::Uuid = sqlx::query_scalar("select m.id from tenantry.ticket_messages m join tenantry.organizations o on o.id = m.organization_id where m.is_internal and o.slug = 'acme-corp'")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a note");
    let node = "query($id: ID!) { node(id: $id) { id } }";
    let id = json!({ "id": format!("msg_{}", hidden.simple()) });
    assert!(app.data(&alice, node, id.clone()).await["node"].is_object());
    assert!(app.data(&bob, node, id).await["node"].is_null());
    for list in [
        "refunds",
        "budgets",
        "agentConfigurations",
        "performanceMetrics",
        "apiKeys",
        "auditLogs",
        "invitations",
        "webhookEvents",
    ] {
        let query = format!("{{ organization {{ {list} {{ nodes {{ id }} }} }} }}");
        assert_eq!(app.error_code(&bob, &query, json!({})).await, "FORBIDDEN", "{list}");
    }
    for mutation in [
        "mutation { ticketCreate(input: { subject: \"x\" }) { ticket { id } } }",
        "mutation { ticketUpdate(input: { id: \"tic_0199c0ffee0070008000000000000001\" }) { ticket { id } } }",
        "mutation { ticketMessageAdd(input: { ticketId: \"tic_0199c0ffee0070008000000000000001\", body: \"x\" }) { ticket { id } } }",
    ] {
        assert_eq!(app.error_code(&bob, mutation, json!({})).await, "FORBIDDEN");
    }
    let viewer = app.data(&bob, "{ viewer { role permissions } }", json!({})).await;
    assert_eq!(
        viewer["viewer"],
        json!({ "role": "VIEWER", "permissions": ["ORGANIZATION_READ", "TICKET_WATCH", "REPRESENTATIVE_STATUS_SET", "BILLING_READ", "ORGANIZATION_LEAVE", "FEATURE_FLAG_READ"] })
    );
}

/// Fields of one mutation request are done one after the other, and each payload shows the state after its own write.
#[tokio::test]
async fn payloads_show_their_own_moment() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let created = app.data(&alice, CREATE, json!({ "input": { "subject": "x" } })).await;
    let id = created["ticketCreate"]["ticket"]["id"].as_str().expect("an id").to_owned();
    let query = "mutation($id: ID!) {
      a: ticketUpdate(input: { id: $id, subject: \"one\" }) { ticket { subject version } }
      b: ticketUpdate(input: { id: $id, subject: \"two\" }) { ticket { subject version } } }";
    let data = app.data(&alice, query, json!({ "id": id })).await;
    assert_eq!(data["a"]["ticket"], json!({ "subject": "one", "version": 2 }));
    assert_eq!(data["b"]["ticket"], json!({ "subject": "two", "version": 3 }));
}
