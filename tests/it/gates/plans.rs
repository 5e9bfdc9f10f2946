//! Plans are held: with many rows in one tenant no list, order or look-up reads more than a page needs.
//!
//! `auto_explain` logs, for every statement that the server sends under the API's role, what each node of its plan really
//! read. A sequential scan, a sort of a whole table and a hash join over one all show as a node that yields or removes more
//! rows than a page takes. `TENANTRY_PLAN_ROWS` (50,000) is the number of rows of each table; 1,000,000 is for a run by hand.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tenantry::access::MemberRole;
use tenantry::schema::{ENTITIES, EntityInfo};

use super::sdl::Sdl;
use super::{OWN, global_id, member};
use crate::support::TestApp;

/// Most rows that a node may yield or remove: a page of each of the twenty parents that a document shows, twice.
const MOST_ROWS: f64 = 2.0 * 20.0 * 101.0;
/// What reads every row of the tenant when it looks for a value that no row has: table and columns (none: every column), and
/// why that may stay. A line that names what is held now must go from here.
const UNINDEXED_FILTERS: &[(&str, &[&str], &str)] = &[
    ("agent_configurations", &[], "made by hand: dozens"),
    ("api_keys", &[], "made by hand: dozens"),
    ("client_keys", &[], "made by hand: dozens"),
    ("organization_feature_flags", &["source", "expires_at"], "as many as flags: hundreds"),
    ("billing_actions", &[], "made by hand: a few a year"),
    ("budgets", &[], "made by hand: dozens for each period"),
    ("custom_roles", &[], "made by hand: a hundred at most"),
    ("invitations", &[], "made by hand, and they expire"),
    ("invoices", &[], "one or two a month"),
    ("ticket_views", &[], "made by hand: two hundred of each person at most"),
    ("representatives", &[], "as many as people who answer"),
    ("organization_members", &["role"], "as many as people"),
    ("performance_metrics", &["period"], "one row for each period"),
    ("team_performance", &["period"], "one row for each period and representative"),
    ("customer_profiles", &["standing"], "the list ends when its page is full; no queue shows it alone"),
    ("escalation_notices", &["seen_at"], "the list ends when its page is full; one member's are few"),
    ("escalations", &["due_at"], "its index is over the expressions of the order, and no queue asks for one moment"),
    ("escalations", &["reason"], "the list ends when its page is full; no queue shows it alone"),
    ("sla_events", &["target", "kind"], "the list ends when its page is full; a ticket has a handful"),
    (
        "refunds",
        &["reason", "amount_minor", "currency"],
        "the list ends when its page is full; no queue shows it alone",
    ),
    ("tickets", &["subject"], "equality with a whole subject; searching is full-text search's"),
    ("tickets", &["resolution_due_at"], "queues ask for `nextDueAt`; its index is over the expressions of the order"),
    ("webhook_events", &["status", "source", "event_type", "object_id", "attempts"], "events are deleted after a time"),
    ("audit_logs", &["resource_type"], "the list ends when its page is full; the id alone is indexed"),
];
/// Indexes of listed tables that no list uses, and for whom they are there.
const KEPT_INDEXES: &[(&str, &str)] = &[
    ("api_keys_created_by_idx", "keys of a member who leaves"),
    ("api_keys_key_hash_idx", "who brings a key has no tenant yet"),
    ("client_keys_created_by_idx", "keys of a member who leaves"),
    ("billing_actions_due_idx", "the workers go on with what was left"),
    ("billing_actions_requested_by_idx", "foreign key: removing a user looks for its rows"),
    ("budget_reservations_due_idx", "the workers free what has expired"),
    ("budgets_due_idx", "the workers open periods for all"),
    ("budget_usage_records_resource_id_idx", "what a refund reserved and spent"),
    ("customer_profiles_merged_into_id_idx", "foreign key, and an erasure: which profiles went into this one"),
    ("escalation_rules_assignee_id_idx", "foreign key: removing a representative looks for its rows"),
    ("escalation_rules_user_id_idx", "foreign key: removing a member looks for its rows"),
    ("escalations_overdue_idx", "the job: what is late"),
    ("escalations_escalated_by_idx", "foreign key: removing a representative looks for its rows"),
    ("invitations_invited_by_idx", "invitations of a member who leaves"),
    ("membership_requests_user_id_idx", "requests of a person, in whichever organization"),
    ("organization_domains_domain_idx", "who joins has no tenant yet"),
    ("support_accesses_user_id_idx", "an operator has no tenant yet"),
    ("invoices_stripe_invoice_id_idx", "the sync: who had an invoice before"),
    ("invitations_mail_token_hash_idx", "who follows a link has no tenant yet"),
    ("invitations_mail_due_at_idx", "the workers mail for all"),
    ("invitations_token_hash_idx", "who follows a link has no tenant yet"),
    ("organization_members_waiting_idx", "nobody waits for a seat, almost everywhere"),
    ("organization_members_custom_role_id_idx", "foreign key: deleting a role asks who has it"),
    ("refunds_settled_at_idx", "the figures of a period"),
    ("refunds_due_idx", "the workers pay what is due"),
    ("refunds_reservation_id_idx", "foreign key: removing a reservation looks for its rows"),
    ("refunds_decided_by_idx", "foreign key: removing a user looks for its rows"),
    ("refunds_decision_rule_id_idx", "foreign key: removing a rule looks for its rows"),
    ("refunds_requested_by_idx", "foreign key: removing a user looks for its rows"),
    ("ticket_messages_author_customer_id_idx", "what a customer wrote, when two become one"),
    ("ticket_messages_moved_from_id_idx", "foreign key: messages that were written on this ticket"),
    ("ticket_views_user_id_idx", "how many views one person has"),
    ("tickets_sla_check_at_idx", "the job: what is near its deadline or past it"),
    ("tickets_sla_policy_id_idx", "the job: tickets under a revision that another took the place of"),
    ("ticket_messages_sent_idx", "the figures of a period"),
    ("tickets_first_responded_at_idx", "the figures of a period"),
    ("tickets_resolved_at_idx", "the figures of a period"),
    ("tickets_load_idx", "how many open tickets each representative has"),
    ("tickets_silent_since_idx", "the job: whose assignee owes an answer"),
    ("webhook_events_finding_idx", "operators: what could not be mapped, and how much of it"),
    ("webhook_events_object_id_idx", "the worker: what came for the same object before"),
    ("webhook_events_pending_idx", "the worker: what is due"),
];
/// The orders in which lists of one parent are held: an index begins with the parent. In every other order the rows of the
/// parents on the page are sorted, and no others.
const PARENTS_ORDERS: &[&str] = &["order by t.created_at ", "order by t.period_start "];
/// Rows of a parent, but for the first.
const CHILDREN: u32 = 10;

/// What organizations list; the lists over all organizations are for a handful of operators.
fn listed() -> impl Iterator<Item = &'static EntityInfo> {
    ENTITIES.iter().filter(|entity| entity.listing.is_some() && !entity.is_platform)
}

/// Fills the tables of every listing with copies of a sample row. Ids follow from the row's number, so that parents exist.
async fn fill(app: &TestApp, rows: u32) {
    let mut superuser = app.database.superuser().await;
    let id = |number: &str| format!("'00000000-0000-7000-8000-' || lpad(to_hex({number}), 12, '0')");
    // The first parent has half of all rows, the others ten each.
    let parent = id(&format!("case when n % 2 = 0 then 1 else 1 + n % {} end", (rows / CHILDREN).max(1)));
    // What happened to one ticket is never half of the log.
    let history = id(&format!("1 + n % {}", (rows / CHILDREN).max(1)));
    // Foreign keys and triggers would take most of the time; what they hold is not what is measured. Nor are the columns that a
    // status goes with.
    let mut script = format!(
        "set session_replication_role = replica;
         alter table tenantry.budget_reservations drop constraint budget_reservations_ended_check, drop constraint budget_reservations_settled_check;
         alter table tenantry.customer_profiles drop constraint customer_profiles_merged_check;
         alter table tenantry.refunds drop constraint refunds_due_check, drop constraint refunds_settled_check;
         insert into tenantry.users (id, clerk_id, email, name)
         select ({})::uuid, 'user_plan_' || n, 'plan' || n || '@example.com', 'Name ' || n from generate_series(1, {rows}) n;",
        id("n")
    );
    // The histories of tickets and customers are views of other tables.
    let views = ["tenantry.ticket_events", "tenantry.customer_events"];
    for entity in listed().filter(|entity| !views.contains(&entity.table)) {
        let table = entity.table;
        let columns: String = sqlx::query_scalar(
            "select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute
              where attrelid = $1::text::regclass and attnum > 0 and not attisdropped and attgenerated = ''",
        )
        .bind(table)
        .fetch_one(&mut superuser)
        .await
        .expect("the columns");
        // Of an enum that lists filter by, every value but the last: the planner goes by how many there are.
        let values: String = sqlx::query_scalar(
            "select coalesce(string_agg(format(', %L, (enum_range(null::%s))[1 + n %% (array_length(enum_range(null::%2$s), 1) - 1)]',
                                               c.attname, c.atttypid::regtype), ''), '')
               from pg_attribute c join pg_attribute r on r.attrelid = c.attrelid and r.attname = c.attname || '_rank'
              where c.attrelid = $1::text::regclass and r.attgenerated = 's'",
        )
        .bind(table)
        .fetch_one(&mut superuser)
        .await
        .expect("the enums");
        script += &format!(
            "insert into {table} ({columns})
             select {columns} from (select to_jsonb(x) as j from {table} x join tenantry.organizations o on o.id = x.organization_id
                               where o.slug = '{OWN}' limit 1) t
              cross join generate_series(1, {rows}) n
              cross join lateral jsonb_populate_record(null::{table}, t.j || jsonb_build_object(
                'id', {}, 'user_id', {}, 'ticket_id', {parent}, 'customer_id', {parent}, 'assignee_id', {parent},
                'budget_id', {parent}, 'agent_id', {parent}, 'representative_id', {parent}, 'assigned_to', {parent},
                'series_id', {}, 'reservation_id', {parent}, 'change', n, 'number', 1000 + n, 'rank', 1000 + n, 'email', 'plan' || n || '@example.com', 'name', 'Name ' || n,
                'domain', 'plan' || n || '.example', 'flag_key', 'plan_' || n, 'key', 'plan_' || n, 'message_id', {parent}, 'merged_into_id', {parent}, 'split_from_id', {parent}, 'resource_id', {history}, 'resource_type', 'Ticket', 'position', n,
                'prefix', 'plan_' || n, 'event_id', 'plan_' || n, 'clerk_invitation_id', 'plan_' || n,
                'token_hash', sha256(n::text::bytea), 'stripe_refund_id', 're_plan_' || n, 'stripe_invoice_id', 'in_plan_' || n,
                'created_at', now() - n * interval '10 milliseconds', 'updated_at', now() - n * interval '10 milliseconds',
                'expires_at', now() + interval '1 hour', 'received_at', now() - n * interval '10 milliseconds',
                'period_start', timestamptz '2000-01-01' + n * interval '1 minute',
                'first_response_due_at', now() + n * interval '1 minute', 'resolution_due_at', now() + n * interval '1 minute',
                'starts_at', timestamptz '2000-01-01' + n * interval '1 minute', 'ends_at', timestamptz '2000-01-02' + n * interval '1 minute',
                'escalation_id', {parent}, 'policy_id', {parent}, 'calendar_id', {parent}, 'started_at', now() - n * interval '10 milliseconds', 'sla_breached_at', now() + n * interval '1 minute', 'due_at', now() + n * interval '10 milliseconds'{values})) r;
             analyze {table};",
            id("n"),
            id("n"),
            id("n")
        );
    }
    // Events that are no tenant's: with one tenant alone, the index of all events by time serves its list as well as its own,
    // and which of the two the planner takes is chance.
    script += &format!(
        "insert into tenantry.webhook_events (id, source, event_id, event_type, raw_body, received_at)
         select ({})::uuid, source, 'other_' || n, event_type, '{{}}', now() - n * interval '3 milliseconds'
           from (select * from tenantry.webhook_events limit 1) e cross join generate_series(1, 3 * {rows}) n;
         analyze tenantry.webhook_events;",
        id("n + 1000000000")
    );
    // So many members need as many seats.
    script += "update tenantry.subscriptions set seat_count = 2147483647; update tenantry.organization_members set waits_for_seat = false where waits_for_seat;";
    sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut superuser).await.expect("rows");
}

/// A statement of the server and what its plan read at most in one node.
struct Planned {
    text: String,
    most: f64,
}

/// Reads entries of `auto_explain`.
fn planned(entry: &str) -> Option<Planned> {
    let (_, plan) = entry.split_once("Query Text:")?;
    let number = |text: &str| -> Option<f64> {
        text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect::<String>().parse().ok()
    };
    let (mut most, mut loops) = (0.0_f64, 1.0);
    for line in plan.lines() {
        if let Some((_, actual)) = line.split_once("(actual rows=") {
            let rows = number(actual).unwrap_or(0.0);
            loops = actual.split_once("loops=").and_then(|(_, loops)| number(loops)).unwrap_or(1.0);
            most = most.max(rows * loops);
        } else if let Some((_, removed)) = line.split_once("Rows Removed by") {
            // Of the node in the line before, as an average of its loops.
            most = most.max(removed.split_once(": ").and_then(|(_, rows)| number(rows)).unwrap_or(0.0) * loops);
        }
    }
    Some(Planned { text: plan.trim().to_owned(), most })
}

#[test]
fn plans_are_read_from_the_log() {
    let scan = "x| LOG:  duration: 1 ms  plan:\n\tQuery Text: select 1\n\tLimit  (cost=0..1 rows=51 width=8) (actual rows=51 loops=1)\n\t  ->  Seq Scan on tickets t  (cost=0..1 rows=50000 width=8) (actual rows=50000.00 loops=2)\n\t        Rows Removed by Filter: 12";
    assert!((planned(scan).expect("a plan").most - 100_000.0).abs() < 0.1);
    let filtered = "Query Text: select 1\n\tIndex Scan  (actual rows=1 loops=1)\n\t  Rows Removed by Filter: 70000";
    assert!((planned(filtered).expect("a plan").most - 70_000.0).abs() < 0.1);
    assert!(planned("LOG:  statement: begin").is_none());
}

/// An index of a listed table costs every write. Each is used by some order, filter or look-up, or [`KEPT_INDEXES`] says for
/// whom it is there; unique ones hold a rule.
async fn unused_indexes(app: &TestApp, statements: &[Planned]) {
    let mut used = BTreeSet::new();
    for line in statements.iter().flat_map(|statement| statement.text.lines()) {
        let name =
            line.split_once(" using ").or_else(|| line.split_once("Bitmap Index Scan on ")).map(|(_, name)| name);
        used.extend(name.and_then(|name| name.split_whitespace().next()).map(str::to_owned));
    }
    let tables: Vec<&str> = listed().map(|entity| entity.table).collect();
    let all: Vec<String> = sqlx::query_scalar(
        // Of a partitioned index the partitions' are used.
        "select c.relname::text from pg_index i join pg_class c on c.oid = i.indexrelid and c.relkind = 'i'
          where i.indrelid = any (select to_regclass(t) from unnest($1::text[]) t) and not i.indisunique order by 1",
    )
    .bind(&tables)
    .fetch_all(&mut app.database.superuser().await)
    .await
    .expect("the indexes");
    assert!(all.len() > 50, "{all:?}");
    let kept: BTreeSet<&str> = KEPT_INDEXES.iter().map(|(name, _)| *name).collect();
    let unused: Vec<&String> =
        all.iter().filter(|name| !used.contains(*name) && !kept.contains(name.as_str())).collect();
    assert!(unused.is_empty(), "indexes that nothing uses: {unused:#?}");
    let stale: Vec<&&str> =
        kept.iter().filter(|name| used.contains(**name) || !all.iter().any(|known| known == *name)).collect();
    assert!(stale.is_empty(), "named as unused, and used or gone: {stale:?}");
}

#[tokio::test]
async fn plans_read_no_more_than_a_page() {
    let rows: u32 = std::env::var("TENANTRY_PLAN_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(50_000);
    let app = TestApp::start().await;
    fill(&app, rows).await;
    let owner = member(&app, MemberRole::Owner).await;
    let watch = app.explain().await;
    let sdl = Sdl::read();
    let mut asked = 0;
    for list in sdl.lists().iter().filter(|list| list.path[0] == "organization") {
        let selection = "{ nodes { id } pageInfo { endCursor startCursor } }";
        let all = list.document(selection);
        // A cursor belongs to the list of one parent: here the one with half of all rows.
        let one = list.document_below("first: 1, orderBy: [{ field: CREATED_AT, direction: DESC }]", selection);
        let order_field = &sdl.inputs[&list.order].iter().find(|field| field.name == "field").expect("a field").base;
        for (field, direction) in sdl.enums[order_field].iter().flat_map(|field| [(field, "ASC"), (field, "DESC")]) {
            let order = json!([{ "field": field, "direction": direction }]);
            app.data(&owner, &all, json!({ "first": 50, "orderBy": order })).await;
            let data = app.data(&owner, &one, json!({ "first": 50, "orderBy": order })).await;
            let info = list.found(&data)[0]["pageInfo"].clone();
            assert!(info["endCursor"].is_string(), "{}: the parent has rows: {data}", list.name());
            for page in [
                json!({ "first": 50, "after": info["endCursor"], "orderBy": order }),
                json!({ "last": 50, "before": info["endCursor"], "orderBy": order }),
            ] {
                app.data(&owner, &one, page).await;
            }
            asked += 4;
        }
        if list.entities.len() > 1 {
            continue;
        }
        for field in &sdl.inputs[&list.filter] {
            let comparator: &[_] = sdl.inputs.get(&field.base).map_or(&[], Vec::as_slice);
            // A plain value is compared with as it is.
            let eq = match comparator.iter().find(|operation| ["eq", "has"].contains(&operation.name.as_str())) {
                Some(eq) => eq,
                None if comparator.is_empty() => field,
                None => continue,
            };
            let values: Vec<Value> = match eq.base.as_str() {
                "String" | "JSON" => vec![json!("no row has this")],
                "Int" | "Float" => vec![json!(-1)],
                "Boolean" => vec![json!(true), json!(false)],
                "DateTime" => vec![json!("1970-01-01T00:00:00Z")],
                "ID" => vec![json!(global_id("Ticket", uuid::Uuid::from_u128(1)))],
                labels => sdl.enums[labels].iter().map(|label| json!(label)).collect(),
            };
            for value in values {
                let filter = match () {
                    () if comparator.is_empty() => json!({ &field.name: value }),
                    () if field.list => json!({ &field.name: [{ "key": "plan_1", &eq.name: value }] }),
                    () => json!({ &field.name: { &eq.name: value } }),
                };
                app.data(&owner, &all, json!({ "first": 50, "where": filter })).await;
                asked += 1;
            }
        }
    }
    for entity in listed() {
        let ids: Vec<Value> = (1..=20)
            .map(|n| json!(global_id(entity.name, uuid::Uuid::from_u128(0x7000_8000_0000_0000_0000 + n))))
            .collect();
        app.data(&owner, "query($ids: [ID!]!) { nodes(ids: $ids) { id } }", json!({ "ids": ids })).await;
        asked += 1;
    }
    let entries = watch.entries().await;
    let statements: Vec<Planned> = entries.iter().filter_map(|entry| planned(entry)).collect();
    println!("{asked} requests, {} statements with {rows} rows in each table", statements.len());
    assert!(statements.len() >= asked, "{} statements of {asked} requests were seen", statements.len());
    unused_indexes(&app, &statements).await;
    let unindexed = |text: &str| {
        UNINDEXED_FILTERS.iter().position(|(table, columns, _)| {
            text.contains(&format!("from tenantry.{table} t where t.organization_id = $1"))
                && text.contains(" $3")
                && (columns.is_empty() || columns.iter().any(|column| text.contains(&format!("t.{column} = $3"))))
        })
    };
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for statement in statements.iter().filter(|statement| statement.most > MOST_ROWS) {
        let of_parents = statement.text.contains("cross join lateral")
            && !PARENTS_ORDERS.iter().any(|order| statement.text.contains(order))
            && statement.most <= f64::from(rows) * 0.6;
        match unindexed(&statement.text) {
            Some(line) => drop(seen.insert(line)),
            None if of_parents => {}
            None => wrong.push(statement),
        }
    }
    for (line, (table, columns, why)) in UNINDEXED_FILTERS.iter().enumerate() {
        assert!(seen.contains(&line), "{table} {columns:?} is held now: not \"{why}\"");
    }
    let mut wrong: Vec<String> = wrong
        .iter()
        .map(|statement: &&Planned| format!("{} rows in one node:\n{}", statement.most, statement.text))
        .collect();
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{} statements read more than {MOST_ROWS} rows:\n{}", wrong.len(), wrong.join("\n\n"));
}
