//! Lists: pages, orders, filters, cursors, counts, and what they refuse.

use serde_json::{Value, json};

use crate::support::TestApp;

/// Tickets of Acme beside the three of the sample data: enough for pages, with ties and missing values in every order.
async fn many_tickets(app: &TestApp) {
    sqlx::query(
        "insert into tenantry.tickets (id, organization_id, number, subject, status, priority, resolution_due_at, created_at)
         select gen_random_uuid(), o.id, 3 + n, 'Generated ' || n,
                (enum_range(null::tenantry.ticket_status))[1 + n % 6], (enum_range(null::tenantry.ticket_priority))[1 + n % 4],
                case when n % 3 > 0 then timestamptz '2026-01-01' + (n % 5) * interval '1 day' end,
                timestamptz '2025-01-01' + (n % 7) * interval '1 hour'
           from generate_series(1, 60) n, tenantry.organizations o where o.slug = 'acme-corp'",
    )
    .execute(&mut app.database.system().await)
    .await
    .expect("tickets");
}

const PAGE: &str = "query($first: Int, $after: String, $last: Int, $before: String, $orderBy: [TicketOrder!], $where: TicketFilter) {
  organization { tickets(first: $first, after: $after, last: $last, before: $before, orderBy: $orderBy, where: $where) {
    totalCount edges { cursor node { number } } nodes { number } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } } }";

fn numbers(list: &Value) -> Vec<i64> {
    list["nodes"].as_array().expect("nodes").iter().map(|node| node["number"].as_i64().expect("a number")).collect()
}

/// Walks the whole list in pages of seven, in both directions; every row must come exactly once, in one order.
async fn walk(app: &TestApp, token: &str, order_by: &Value, filter: &Value) -> Vec<i64> {
    let mut forward = Vec::new();
    let mut after = Value::Null;
    loop {
        let data =
            app.data(token, PAGE, json!({ "first": 7, "after": after, "orderBy": order_by, "where": filter })).await;
        let list = &data["organization"]["tickets"];
        forward.extend(numbers(list));
        assert_eq!(list["pageInfo"]["hasPreviousPage"], json!(!after.is_null()));
        after = list["pageInfo"]["endCursor"].clone();
        if list["pageInfo"]["hasNextPage"] == false {
            assert_eq!(list["totalCount"], json!(forward.len()));
            break;
        }
        assert!(forward.len() < 1000, "the walk does not end");
    }
    let mut backward: Vec<i64> = Vec::new();
    let mut before = Value::Null;
    loop {
        let data =
            app.data(token, PAGE, json!({ "last": 7, "before": before, "orderBy": order_by, "where": filter })).await;
        let list = &data["organization"]["tickets"];
        let mut page = numbers(list);
        page.extend(&backward);
        backward = page;
        before = list["pageInfo"]["startCursor"].clone();
        if list["pageInfo"]["hasPreviousPage"] == false {
            break;
        }
        assert!(backward.len() < 1000, "the walk does not end");
    }
    assert_eq!(forward, backward, "both directions show the same order: {order_by}");
    forward
}

#[tokio::test]
async fn listing_pages_lose_and_repeat_nothing_in_any_order() {
    let app = TestApp::start().await;
    many_tickets(&app).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let mut system = app.database.system().await;
    for (order_by, sql) in [
        (json!([{ "field": "CREATED_AT", "direction": "DESC" }]), "created_at desc, id desc"),
        (json!([{ "field": "CREATED_AT" }]), "created_at, id"),
        (json!([{ "field": "NUMBER", "direction": "DESC" }]), "number desc"),
        (
            json!([{ "field": "PRIORITY", "direction": "DESC" }, { "field": "CREATED_AT", "direction": "ASC" }]),
            "priority desc, created_at, id",
        ),
        // Missing values: last when ascending, first when descending.
        (json!([{ "field": "RESOLUTION_DUE_AT" }]), "resolution_due_at, id"),
        (json!([{ "field": "RESOLUTION_DUE_AT", "direction": "DESC" }]), "resolution_due_at desc, id desc"),
        (
            json!([{ "field": "STATUS" }, { "field": "RESOLUTION_DUE_AT", "direction": "DESC" }, { "field": "PRIORITY" }]),
            "status, resolution_due_at desc, priority, id",
        ),
        (Value::Null, "created_at desc, id desc"),
    ] {
        let sql = format!(
            "select number from tenantry.tickets where organization_id = (select id from tenantry.organizations where slug = 'acme-corp') order by {sql}"
        );
        let expected: Vec<i64> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&mut system).await.expect("the order");
        assert_eq!(expected.len(), 63);
        assert_eq!(walk(&app, &alice, &order_by, &Value::Null).await, expected, "{order_by}");
    }
}

#[tokio::test]
async fn listing_filters_mean_what_they_say() {
    let app = TestApp::start().await;
    many_tickets(&app).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let mut system = app.database.system().await;
    for (filter, sql) in [
        (json!({}), "true"),
        (json!({ "status": { "eq": "NEW" } }), "status = 'NEW'"),
        (
            json!({ "status": { "in": ["NEW", "OPEN"] }, "priority": { "ne": "LOW" } }),
            "status in ('NEW', 'OPEN') and priority <> 'LOW'",
        ),
        (json!({ "status": { "nin": ["NEW", "OPEN"] } }), "status not in ('NEW', 'OPEN')"),
        (json!({ "status": { "in": [] } }), "false"),
        (json!({ "or": [{ "number": { "lte": 5 } }, { "number": { "gt": 60 } }] }), "number <= 5 or number > 60"),
        (json!({ "or": [] }), "false"),
        (json!({ "and": [] }), "true"),
        (json!({ "not": { "number": { "in": [1, 2, 3] } } }), "number not in (1, 2, 3)"),
        (
            json!({ "not": { "resolutionDueAt": { "gt": "2026-01-02T00:00:00Z" } } }),
            "(resolution_due_at > '2026-01-02') is not true",
        ),
        (json!({ "resolutionDueAt": { "isNull": true } }), "resolution_due_at is null"),
        (
            json!({ "resolutionDueAt": { "in": ["2026-01-02T00:00:00Z", "2026-01-03T00:00:00+00:00"] } }),
            "resolution_due_at in ('2026-01-02', '2026-01-03')",
        ),
        (json!({ "assigneeId": { "isNull": false } }), "assignee_id is not null"),
        (json!({ "subject": { "contains": "GENERATED 1" } }), "subject ilike '%generated 1%'"),
        (json!({ "subject": { "contains": "%" } }), "false"),
        (json!({ "subject": { "eq": "' or true --" } }), "false"),
        (
            json!({ "and": [{ "or": [{ "status": { "eq": "NEW" } }, { "not": { "priority": { "eq": "LOW" } } }] }, { "number": { "gte": 10, "lt": 20 } }] }),
            "(status = 'NEW' or priority <> 'LOW') and number >= 10 and number < 20",
        ),
    ] {
        let sql = format!(
            "select number from tenantry.tickets where organization_id = (select id from tenantry.organizations where slug = 'acme-corp') and ({sql}) order by number"
        );
        let expected: Vec<i64> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&mut system).await.expect("the rows");
        assert_eq!(walk(&app, &alice, &json!([{ "field": "NUMBER" }]), &filter).await, expected, "{filter}");
    }
}

#[tokio::test]
async fn listing_refuses_bad_arguments_with_their_name() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let list = "query($first: Int, $last: Int, $after: String, $before: String, $where: TicketFilter, $orderBy: [TicketOrder!]) {
      organization { tickets(first: $first, last: $last, after: $after, before: $before, where: $where, orderBy: $orderBy) { nodes { id } } } }";
    for (variables, code) in [
        (json!({ "first": -1 }), "INVALID_ARGUMENT"),
        (json!({ "first": 101 }), "INVALID_ARGUMENT"),
        (json!({ "last": -2_147_483_648_i64 }), "INVALID_ARGUMENT"),
        (json!({ "first": 1, "last": 1 }), "INVALID_ARGUMENT"),
        (json!({ "first": 1, "before": "x" }), "INVALID_ARGUMENT"),
        (json!({ "where": { "subject": { "contains": "a\u{0}b" } } }), "INVALID_VARIABLE"),
        (json!({ "where": { "customerId": { "eq": "nonsense" } } }), "INVALID_ARGUMENT"),
        (json!({ "where": { "number": { "in": (0..201).collect::<Vec<_>>() } } }), "INVALID_ARGUMENT"),
        (
            json!({ "where": { "or": (0..101).map(|n| json!({ "number": { "eq": n } })).collect::<Vec<_>>() } }),
            "INVALID_ARGUMENT",
        ),
        (
            json!({ "orderBy": [{ "field": "NUMBER" }, { "field": "NUMBER" }, { "field": "NUMBER" }, { "field": "NUMBER" }, { "field": "NUMBER" }, { "field": "NUMBER" }] }),
            "INVALID_ARGUMENT",
        ),
    ] {
        assert_eq!(app.error_code(&alice, list, variables.clone()).await, code, "{variables}");
    }
    let literal = "{ organization { tickets(where: { subject: { eq: \"a\\u0000b\" } }) { nodes { id } } } }";
    assert_eq!(app.error_code(&alice, literal, json!({})).await, "INVALID_ARGUMENT");
    // A text of 1 MB is an ordinary value of a filter, as long as the body is within its limit.
    let long = "x".repeat(900_000);
    let found = app.data(&alice, list, json!({ "where": { "subject": { "eq": long } } })).await;
    assert_eq!(found["organization"]["tickets"]["nodes"], json!([]));
    for (variables, what) in [
        (json!({ "where": { "status": { "eq": "NEWISH" } } }), "an unknown enum value"),
        (json!({ "where": { "nonsense": { "eq": 1 } } }), "an unknown field"),
        (json!({ "where": { "number": { "eq": 1.5 } } }), "a fraction"),
        (json!({ "where": { "createdAt": { "gt": "yesterday" } } }), "no date"),
    ] {
        let response = app.run(&alice, list, variables).await;
        assert!(response["errors"][0]["extensions"]["code"].is_string(), "{what}: {response}");
        assert!(response["data"]["organization"].is_null(), "{what}: {response}");
    }
}

#[tokio::test]
async fn listing_gives_zero_rows_when_asked() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let data = app.data(&alice, PAGE, json!({ "first": 0 })).await;
    let list = &data["organization"]["tickets"];
    assert_eq!((list["totalCount"].clone(), numbers(list)), (json!(3), vec![]));
    assert_eq!(list["pageInfo"]["hasNextPage"], true);
}

/// Three levels over many rows: the number of statements is that of the query, not of the rows.
#[tokio::test]
async fn listing_statements_do_not_grow_with_the_rows() {
    let app = TestApp::start().await;
    many_tickets(&app).await;
    sqlx::query(
        "insert into tenantry.ticket_messages (id, organization_id, ticket_id, author_user_id, body)
         select gen_random_uuid(), t.organization_id, t.id, (select id from tenantry.users where clerk_id = 'user_alice'), 'hello'
           from tenantry.tickets t, generate_series(1, 3)",
    )
    .execute(&mut app.database.system().await)
    .await
    .expect("messages");
    sqlx::query("update tenantry.tickets t set customer_id = (select c.id from tenantry.customer_profiles c where c.organization_id = t.organization_id limit 1),
                        assignee_id = (select r.id from tenantry.representatives r where r.organization_id = t.organization_id order by md5(r.id::text || t.number) limit 1)")
        .execute(&mut app.database.system().await)
        .await
        .expect("relations");
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let query = "query($first: Int!) { organization { members(first: $first) { nodes { user { name role } } }
      tickets(first: $first) { totalCount nodes { number customer { name user { email } } assignee { user { name } }
        messages(first: 3) { totalCount nodes { body author { name } } } escalations(first: 2) { nodes { reason } } refunds(first: 2) { nodes { amount { amount } customer { name } } } } } } }";
    // The first request of a token looks for its user.
    app.data(&alice, "{ viewer { role } }", json!({})).await;
    let (few, statements_for_few) = app.statements(app.data(&alice, query, json!({ "first": 2 }))).await;
    assert_eq!(few["organization"]["tickets"]["nodes"].as_array().map(Vec::len), Some(2));
    // One for each list, count and relation of the document, and what begins and ends: relations to one type share a statement
    // when their answers come together, which they need not.
    let most = 19;
    assert!(statements_for_few.len() <= most, "{statements_for_few:#?}");
    for rows in [50, 50, 50, 100] {
        let (many, statements) = app.statements(app.data(&alice, query, json!({ "first": rows }))).await;
        assert!(many["organization"]["tickets"]["nodes"].as_array().is_some_and(|nodes| nodes.len() >= 50));
        assert!(statements.len() <= most, "{rows} rows: {statements:#?}");
    }
}

/// Counting everything takes time in proportion to it; counting up to a number does not.
#[tokio::test]
async fn listing_counts_up_to_a_number() {
    let app = TestApp::start().await;
    many_tickets(&app).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let query = "query($most: Int, $where: TicketFilter, $orderBy: [TicketOrder!]) { organization {
      tickets(first: 1, where: $where, orderBy: $orderBy) { all: totalCount most: totalCount(atMost: $most) }
      customers(first: 2) { nodes { tickets { all: totalCount most: totalCount(atMost: 1) } } } } }";
    for (most, filter, expected) in [
        (json!(5), json!(null), (63, 5)),
        (json!(63), json!(null), (63, 63)),
        (json!(1000), json!(null), (63, 63)),
        (json!(null), json!(null), (63, 63)),
        (json!(1_000_000), json!({ "status": { "eq": "ON_HOLD" } }), (10, 10)),
        (json!(3), json!({ "status": { "eq": "ON_HOLD" } }), (10, 3)),
    ] {
        for order in [json!(null), json!([{ "field": "PRIORITY" }])] {
            let data = app.data(&alice, query, json!({ "most": most, "where": filter, "orderBy": order })).await;
            let tickets = &data["organization"]["tickets"];
            assert_eq!(
                (&tickets["all"], &tickets["most"]),
                (&json!(expected.0), &json!(expected.1)),
                "{most} {filter}"
            );
            for customer in data["organization"]["customers"]["nodes"].as_array().expect("customers") {
                let (all, most) = (&customer["tickets"]["all"], &customer["tickets"]["most"]);
                assert_eq!(most.as_i64(), all.as_i64().map(|all| all.min(1)), "{customer}");
            }
        }
    }
    for bad in [0, -1, 1_000_001] {
        assert_eq!(app.error_code(&alice, query, json!({ "most": bad })).await, "INVALID_ARGUMENT", "{bad}");
    }
}
