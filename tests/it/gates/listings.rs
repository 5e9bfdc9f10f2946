//! Every filter and every order of every list is executed, under the API's role.

use serde_json::{Value, json};
use tenantry::access::MemberRole;

use super::sdl::{ListField, Sdl};
use super::{FOREIGN, entity, global_id, ids, join, member, relate};
use crate::support::TestApp;

/// Who may see each list: the platform's are a superadmin's.
async fn tokens(app: &TestApp) -> (String, String) {
    (member(app, MemberRole::Owner).await, app.token("admin@example.com", None).await)
}

/// A value of a comparator's field.
fn sample(sdl: &Sdl, field: &super::sdl::Field) -> Value {
    let value = match field.base.as_str() {
        "String" | "JSON" => json!("a"),
        "Int" => json!(1),
        "Float" => json!(1.5),
        "Boolean" => json!(true),
        "DateTime" => json!("2026-01-01T00:00:00Z"),
        "ID" => json!(global_id("Ticket", uuid::Uuid::from_u128(1))),
        other => {
            json!(
                sdl.enums
                    .get(other)
                    .unwrap_or_else(|| panic!("{other}: give it a sample in tests/it/gates/listings.rs"))[0]
            )
        }
    };
    if field.list { json!([value, value]) } else { value }
}

/// The ids of the first list in an answer, in order.
fn shown(list: &ListField, data: &Value) -> Vec<String> {
    let lists = list.found(data);
    let ids = lists.iter().flat_map(|found| found["nodes"].as_array().expect("nodes").iter());
    ids.map(|node| node["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn listings_execute_every_filter() {
    let app = TestApp::start().await;
    relate(&app).await;
    let (owner, admin) = tokens(&app).await;
    let sdl = Sdl::read();
    let mut executed = 0;
    for list in sdl.lists() {
        let token = if list.path[0] == "platform" { &admin } else { &owner };
        let document = list.document("{ totalCount nodes { id } }");
        let all = app.data(token, &document, json!({ "first": 100 })).await;
        let all = shown(&list, &all);
        let run = async |filter: &Value| {
            let answer = app.run(token, &document, json!({ "first": 100, "where": filter })).await;
            assert!(answer.get("errors").is_none(), "{} where {filter}: {answer}", list.name());
            let found = list.found(&answer["data"]).into_iter();
            let counted: u64 = found.map(|found| found["totalCount"].as_u64().expect("a number")).sum();
            let ids = shown(&list, &answer["data"]);
            assert_eq!(counted, ids.len() as u64, "{} where {filter}: count and rows", list.name());
            ids
        };
        for field in &sdl.inputs[&list.filter] {
            if ["and", "or", "not"].contains(&field.name.as_str()) {
                continue;
            }
            let comparator: &[_] = sdl.inputs.get(&field.base).map_or(&[], Vec::as_slice);
            // Of a list of comparisons each names the key of what it compares.
            let key = comparator.iter().find(|operation| operation.name == "key").map(|_| "order_number");
            let filters = comparator.iter().filter(|operation| operation.name != "key").map(|operation| {
                let mut comparison = json!({ &operation.name: sample(&sdl, operation) });
                if let Some(key) = key {
                    comparison["key"] = json!(key);
                }
                json!({ &field.name: if field.list { json!([comparison]) } else { comparison } })
            });
            // A plain value is compared with as it is.
            let plain = comparator.is_empty().then(|| json!({ &field.name: sample(&sdl, field) }));
            for filter in filters.chain(plain) {
                let some = run(&filter).await;
                // What a filter finds and what its opposite finds is the whole list.
                let others = run(&json!({ "not": filter })).await;
                assert_eq!(some.len() + others.len(), all.len(), "{} where {filter}", list.name());
                executed += 2;
            }
            let has = |name: &str| comparator.iter().any(|operation| operation.name == name);
            if key.is_some() || !has("isNull") || !has("eq") {
                continue;
            }
            let comparisons = json!([{ &field.name: { "isNull": true } }, { &field.name: { "isNull": false } }]);
            assert!(run(&json!({ "and": comparisons })).await.is_empty());
            assert_eq!(run(&json!({ "or": comparisons })).await.len(), all.len(), "{}.{}", list.name(), field.name);
            // A value that a row has finds the row.
            let node = list.document(&format!("{{ nodes {{ id value: {} }} }}", field.name));
            let answer = app.run(token, &node, json!({ "first": 1 })).await;
            if answer.get("errors").is_none()
                && let Some(row) = list.found(&answer["data"]).iter().find_map(|found| found["nodes"].get(0))
                && (row["value"].is_string() || row["value"].is_number() || row["value"].is_boolean())
            {
                let id = row["id"].as_str().expect("an id").to_owned();
                assert!(run(&json!({ &field.name: { "eq": row["value"] } })).await.contains(&id), "{row}");
                let differs = run(&json!({ "not": { &field.name: { "eq": row["value"] } } })).await;
                assert!(!differs.contains(&id), "{row}");
            }
        }
    }
    println!("{executed} filters were executed");
    assert!(executed > 500, "{executed}");
}

#[tokio::test]
async fn listings_execute_every_order() {
    let app = TestApp::start().await;
    relate(&app).await;
    let (owner, admin) = tokens(&app).await;
    let sdl = Sdl::read();
    let mut executed = 0;
    for list in sdl.lists() {
        let token = if list.path[0] == "platform" { &admin } else { &owner };
        let document = list.document("{ nodes { id } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } }");
        let order_field = &sdl.inputs[&list.order].iter().find(|field| field.name == "field").expect("a field").base;
        for (field, direction) in sdl.enums[order_field].iter().flat_map(|field| [(field, "ASC"), (field, "DESC")]) {
            let order = json!([{ "field": field, "direction": direction }]);
            let whole = app.data(token, &document, json!({ "first": 100, "orderBy": order })).await;
            executed += 1;
            // Of lists below other lists there are many; the first one that has rows is walked.
            let Some(at) = list.found(&whole).iter().position(|found| found["nodes"].get(0).is_some()) else {
                panic!("{}: the sample data has something to order", list.name());
            };
            let page = |data: &Value| -> (Vec<String>, Value) {
                let found = list.found(data)[at];
                let ids = found["nodes"].as_array().expect("nodes").iter();
                (ids.map(|node| node["id"].as_str().expect("an id").to_owned()).collect(), found["pageInfo"].clone())
            };
            let (expected, _) = page(&whole);
            if list.entities.len() > 1 && list.found(&whole).len() > 1 {
                // A cursor belongs to one parent's list; pages of all parents at once are what the loader is for.
                continue;
            }
            let size = expected.len().div_ceil(3);
            let (mut forward, mut backward) = (Vec::new(), Vec::new());
            let mut cursor = Value::Null;
            loop {
                let data =
                    app.data(token, &document, json!({ "first": size, "after": cursor, "orderBy": order })).await;
                let (ids, info) = page(&data);
                forward.extend(ids);
                cursor = info["endCursor"].clone();
                if info["hasNextPage"] == false {
                    break;
                }
            }
            assert_eq!(forward, expected, "{} by {field} {direction}, forward", list.name());
            cursor = Value::Null;
            loop {
                let data =
                    app.data(token, &document, json!({ "last": size, "before": cursor, "orderBy": order })).await;
                let (ids, info) = page(&data);
                backward.splice(0..0, ids);
                cursor = info["startCursor"].clone();
                if info["hasPreviousPage"] == false {
                    break;
                }
            }
            assert_eq!(backward, expected, "{} by {field} {direction}, backward", list.name());
        }
    }
    println!("{executed} orders were executed");
    assert!(executed >= 2 * sdl.lists().len());
}

/// An id of another organization in any filter finds nothing that it should not.
#[tokio::test]
async fn listings_find_nothing_by_foreign_ids() {
    let app = TestApp::start().await;
    let (owner, _) = tokens(&app).await;
    join(&app, "user_gate_foreign", FOREIGN, MemberRole::Member).await;
    let sdl = Sdl::read();
    let mut asked = 0;
    for list in sdl.lists().iter().filter(|list| list.path[0] == "organization") {
        let document = list.document("{ totalCount nodes { id } }");
        for field in sdl.inputs[&list.filter].iter().filter(|field| field.base == "IdFilter") {
            for name in ["Ticket", "Customer", "Representative", "User", "Budget"] {
                let foreign = global_id(name, ids(&app, entity(name), FOREIGN, "true").await[0]);
                for filter in [json!({ "eq": foreign }), json!({ "in": [foreign] })] {
                    let data = app.data(&owner, &document, json!({ "where": { &field.name: filter } })).await;
                    assert!(shown(list, &data).is_empty(), "{} where {}", list.name(), field.name);
                    asked += 1;
                }
            }
        }
    }
    assert!(asked > 50, "{asked}");
}
