//! Every table: its rows are the organization's own, and its columns are what the entity reads.

use std::collections::BTreeSet;

use serde_json::json;
use sqlx::AssertSqlSafe;
use tenantry::access::MemberRole;
use tenantry::schema::ENTITIES;

use super::sdl::Sdl;
use super::{FOREIGN, OWN, global_id, ids, join, member, relate};
use crate::support::{TestApp, TestDb};

/// Tables with `organization_id` that are no entity of the API, and why.
const NO_ENTITIES: &[(&str, &str)] = &[
    ("api_spending", "what instances tell each other of the budgets of the API"),
    ("api_usage", "shown as the entitlement `api_calls`"),
    ("audit_horizons", "how far back the audit log reaches, for `verify`"),
    ("audit_seals", "the hash chain of the audit log, for exports and `verify`"),
    ("audit_unsealed", "what the job has yet to seal"),
    ("event_log", "what subscriptions tell"),
    ("entitlement_grants", "shown in `Organization.entitlements`"),
    ("idempotency_keys", "the memory of mutations"),
    ("feature_flag_usage", "shown as `FeatureFlag.lastEvaluatedAt`"),
    ("sla_revisions", "what a policy promised before, for clocks that ran then"),
    ("meter_outbox", "usage that Stripe has not been told of yet"),
    ("metric_marks", "which hours the figures are to be computed of"),
    ("seat_marks", "whose quantity of seats at Stripe is to be looked at"),
    ("ticket_counters", "the numbers of tickets"),
    ("ticket_documents", "the words of tickets, for `search`"),
    ("ticket_field_values", "the values of `Ticket.customFields`, for its filter"),
    ("ticket_tags", "`Ticket.tags`, for its filter"),
];

const NODE: &str = "query($id: ID!, $ids: [ID!]!) { node(id: $id) { __typename id } nodes(ids: $ids) { id } }";

#[tokio::test]
async fn isolation_covers_every_table_of_the_catalogue() {
    let database = TestDb::seeded().await;
    let mut system = database.system().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id'
          where c.relnamespace = 'tenantry'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
            and c.relname not like 'adopt%' order by 1",
    )
    .fetch_all(&mut system)
    .await
    .expect("the catalogue");
    let known: BTreeSet<&str> = ENTITIES
        .iter()
        .filter(|entity| entity.tenant)
        .map(|entity| entity.table.trim_start_matches("tenantry."))
        .chain(NO_ENTITIES.iter().map(|(table, _)| *table))
        .collect();
    let unknown: Vec<&String> = tables.iter().filter(|table| !known.contains(table.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}: neither an entity in src/schema.rs nor explained in NO_ENTITIES");
    // Before a tenant is entered, the API's role sees nothing of any of them.
    let mut app = database.app().await;
    for table in tables.iter().map(String::as_str).chain(["organizations", "users"]) {
        let count = format!("select count(*) from tenantry.{table}");
        let seen: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut app).await.expect(table);
        assert_eq!(seen, 0, "{table}");
    }
    // Inside of a tenant it sees that tenant's rows, by the policies alone: nothing here names the organization.
    let own: uuid::Uuid = sqlx::query_scalar("select id from tenantry.organizations where slug = $1")
        .bind(OWN)
        .fetch_one(&mut system)
        .await
        .expect("the organization");
    sqlx::raw_sql("begin").execute(&mut app).await.expect("begin");
    sqlx::query("select from tenantry.enter_tenant('user_alice', null, null, null, $1)")
        .bind(OWN)
        .fetch_one(&mut app)
        .await
        .expect("alice is a member");
    for table in &tables {
        let count = format!("select count(*) filter (where organization_id = $1), count(*) from tenantry.{table}");
        let (ours, all): (i64, i64) =
            sqlx::query_as(AssertSqlSafe(count)).bind(own).fetch_one(&mut app).await.expect(table);
        let entity = !NO_ENTITIES.iter().any(|(other, _)| other == table);
        assert!(ours > 0 || !entity, "{table}: the sample data has something to see");
        assert_eq!(ours, all, "{table} shows rows of another organization");
    }
}

#[tokio::test]
async fn isolation_hides_every_row_of_every_entity() {
    let app = TestApp::start().await;
    let owner = member(&app, MemberRole::Owner).await;
    // In the sample data everybody of the other organization is known in this one.
    join(&app, "user_gate_foreign", FOREIGN, MemberRole::Member).await;
    for entity in ENTITIES.iter().filter(|entity| !entity.is_platform) {
        let own = ids(&app, entity, OWN, "true").await;
        let foreign = ids(&app, entity, FOREIGN, "true").await;
        assert!(!own.is_empty(), "{}: add a row of {OWN} to the sample data (src/seed)", entity.table);
        assert!(!foreign.is_empty(), "{}: add a row of {FOREIGN} to the sample data (src/seed)", entity.table);
        let id = global_id(entity.name, own[0]);
        let found = app.data(&owner, NODE, json!({ "id": id, "ids": [id] })).await;
        assert_eq!(found["node"], json!({ "__typename": entity.name, "id": id }), "an own {}", entity.name);
        for uuid in foreign {
            let id = global_id(entity.name, uuid);
            let found = app.data(&owner, NODE, json!({ "id": id, "ids": [id] })).await;
            assert_eq!(found, json!({ "node": null, "nodes": [null] }), "another organization's {}", entity.name);
        }
    }
}

#[tokio::test]
async fn isolation_holds_in_every_list_of_the_organization() {
    let app = TestApp::start().await;
    relate(&app).await;
    let owner = member(&app, MemberRole::Owner).await;
    let sdl = Sdl::read();
    let mut listed = BTreeSet::new();
    for list in sdl.lists().iter().filter(|list| list.path[0] == "organization") {
        let entity = super::entity(list.entity());
        listed.insert(entity.name);
        let own: BTreeSet<String> = ids(&app, entity, OWN, entity.listed_when)
            .await
            .into_iter()
            .map(|uuid| global_id(entity.name, uuid))
            .collect();
        let data = app.data(&owner, &list.document("{ totalCount nodes { id } }"), json!({ "first": 100 })).await;
        let mut shown = BTreeSet::new();
        for found in list.found(&data) {
            let nodes = found["nodes"].as_array().expect("nodes");
            assert_eq!(found["totalCount"], json!(nodes.len()), "{}", list.name());
            shown.extend(nodes.iter().map(|node| node["id"].as_str().expect("an id").to_owned()));
        }
        assert!(shown.is_subset(&own), "{} shows what is not the organization's", list.name());
        assert!(!shown.is_empty(), "{}: the sample data has something to list", list.name());
        if list.entities.len() == 1 {
            assert_eq!(shown, own, "{}", list.name());
        }
    }
    let missing: Vec<&str> = ENTITIES
        .iter()
        .filter(|entity| entity.listing.is_some() && !entity.is_platform && !listed.contains(entity.name))
        .map(|entity| entity.name)
        .collect();
    assert!(missing.is_empty(), "{missing:?} have a listing that no field below `organization` shows");
}

#[tokio::test]
async fn entities_read_their_columns() {
    let database = TestDb::seeded().await;
    let mut system = database.system().await;
    for entity in ENTITIES {
        for columns in [entity.columns, entity.platform_columns] {
            let sql = format!("select {columns} from {} t", entity.table);
            let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut system).await.expect(entity.table);
            assert!(!rows.is_empty(), "{}", entity.table);
            for row in rows {
                (entity.decode)(&row).unwrap_or_else(|error| panic!("{}: {error}", entity.table));
            }
        }
    }
}
