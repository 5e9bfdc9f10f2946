//! Customers, representatives and escalations: what is done with them, by whom, and what others see of it.

use chrono::{DateTime, Duration, Utc};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{TestApp, codes, hear, mutation};

const CUSTOMER: &str = "customer { id version email name phone company tier standing preferences archivedAt mergedInto { id } user { id } lifetimeValue { amount currencyCode } }";
const REPRESENTATIVE: &str = "representative { id version role status skills capacity removedAt isAbsent user { id } }";
const ESCALATION: &str = "escalation { id version status priority dueAt overdueAt resolution resolvedAt nextStatuses assignedTo { id } notices { nodes { id user { email } } } }";

/// What a mutation of one input shows.
fn shown(field: &str) -> &'static str {
    match field {
        "customerMerge" => {
            "customer { id archivedAt mergedInto { id } } into { id phone company tier standing preferences user { id } lifetimeValue { amount } }"
        }
        "representativeAbsenceCreate" => "absence { id startsAt endsAt note representative { isAbsent } }",
        "representativeAbsenceDelete" => "absenceId",
        "escalationNoticeSee" => "notice { id seenAt }",
        "escalationRuleCreate" | "escalationRuleUpdate" => {
            "rule { id version name reason minimumPriority role user { id } assignee { id } }"
        }
        "escalationRuleDelete" => "ruleId",
        "ticketCreate" => "ticket { id version assignee { id } }",
        "ticketAssign" | "ticketUpdate" => "ticket { id status assignee { id } }",
        "ticketMessageAdd" => "message { id }",
        field if field.starts_with("customer") => CUSTOMER,
        field if field.starts_with("representative") => REPRESENTATIVE,
        _ => ESCALATION,
    }
}

async fn mutate(app: &TestApp, token: &str, field: &str, input: Value) -> Value {
    app.mutate(token, field, shown(field), input).await
}

/// The same, where nothing may be refused; gives what was made.
async fn done(app: &TestApp, token: &str, field: &str, input: Value) -> Value {
    let answer = app.done(token, field, shown(field), input).await;
    let made = answer.as_object().expect("a payload").values().next().expect("a row");
    made.clone()
}

async fn refused(app: &TestApp, token: &str, field: &str, input: Value) -> Vec<String> {
    let answer = mutate(app, token, field, input).await;
    let rows = answer.as_object().expect("a payload").iter().filter(|(name, _)| *name != "userErrors");
    assert!(rows.into_iter().all(|(_, row)| row.is_null()), "{answer}");
    codes(&answer).into_iter().map(str::to_owned).collect()
}

/// The code of a top-level refusal.
async fn forbidden(app: &TestApp, token: &str, field: &str, input: Value) -> String {
    app.error_code(token, &mutation(field, shown(field)), json!({ "input": input })).await
}

async fn number(app: &TestApp, sql: &str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut app.database.system().await).await.expect(sql)
}

async fn audited(app: &TestApp, action: &str) -> i64 {
    number(app, &format!("select count(*) from tenantry.audit_logs where action = '{action}'")).await
}

async fn token(app: &TestApp, name: &str) -> String {
    app.token_for(&format!("{name}@example.com"), Some("acme-corp"), Duration::hours(20)).await
}

/// The representative of a member of the sample data, and the user.
async fn representative(app: &TestApp, name: &str) -> (Value, Value) {
    let token = token(app, "alice").await;
    let data =
        app.data(&token, "{ organization { representatives { nodes { id user { id email } } } } }", json!({})).await;
    let nodes = data["organization"]["representatives"]["nodes"].as_array().expect("representatives").clone();
    let email = format!("{name}@example.com");
    let own = nodes.iter().find(|node| node["user"]["email"] == email).expect("a representative");
    (own["id"].clone(), own["user"]["id"].clone())
}

async fn customer(app: &TestApp, token: &str, name: &str) -> Value {
    done(app, token, "customerCreate", json!({ "email": format!("{name}@customers.example"), "name": name })).await
}

#[tokio::test]
async fn customers_are_created_changed_and_archived() {
    let app = TestApp::start().await;
    let (dave, bob) = (token(&app, "dave").await, token(&app, "bob").await);
    let input = json!({ "email": " New@Customers.example ", "name": " Nora ", "phone": "", "company": "N Inc", "tier": "VIP",
                        "preferences": { "language": "de" }, "idempotencyKey": "c-1" });
    let made = done(&app, &dave, "customerCreate", input.clone()).await;
    assert_eq!(
        (&made["email"], &made["name"], &made["phone"]),
        (&json!("New@Customers.example"), &json!("Nora"), &Value::Null)
    );
    assert_eq!(
        (&made["tier"], &made["standing"], &made["preferences"]["language"]),
        (&json!("VIP"), &json!("GOOD"), &json!("de"))
    );
    assert_eq!(done(&app, &dave, "customerCreate", input).await["id"], made["id"], "the same key makes nothing new");
    assert_eq!(forbidden(&app, &bob, "customerCreate", json!({ "email": "a@b.c", "name": "x" })).await, "FORBIDDEN");

    let many = "x".repeat(70_000);
    let bad = json!({ "email": "nobody", "name": "  ", "phone": "1".repeat(51), "preferences": [], "context": { "a": many } });
    assert_eq!(
        refused(&app, &dave, "customerCreate", bad).await,
        ["INVALID", "BLANK", "TOO_LONG", "INVALID", "TOO_LONG"]
    );
    let taken = json!({ "email": "new@customers.EXAMPLE", "name": "x" });
    assert_eq!(refused(&app, &dave, "customerCreate", taken.clone()).await, ["CONFLICT"]);

    let id = &made["id"];
    let change = json!({ "id": id, "standing": "BLOCKED", "company": null, "phone": "123", "expectedVersion": 1 });
    let changed = done(&app, &dave, "customerUpdate", change.clone()).await;
    assert_eq!(
        (&changed["standing"], &changed["company"], &changed["phone"]),
        (&json!("BLOCKED"), &Value::Null, &json!("123"))
    );
    assert!(changed["version"] == 2 && changed["name"] == "Nora", "{changed}");
    assert_eq!(refused(&app, &dave, "customerUpdate", change).await, ["VERSION_CONFLICT"]);
    let other = customer(&app, &dave, "other").await;
    let theirs = json!({ "id": id, "email": "OTHER@customers.example", "company": "written?" });
    assert_eq!(refused(&app, &dave, "customerUpdate", theirs).await, ["CONFLICT"]);
    let metadata: Value =
        sqlx::query_scalar("select metadata from tenantry.audit_logs where action = 'customer.update'")
            .fetch_one(&mut app.database.system().await)
            .await
            .expect("one row");
    assert_eq!(metadata["after"], json!({ "standing": "BLOCKED", "version": 2 }));
    assert_eq!(metadata["texts"], json!(["phone", "company"]), "that they changed, and not what they say");

    // Standing refuses nothing by itself.
    let ticket = done(&app, &dave, "ticketCreate", json!({ "subject": "x", "customerId": id })).await;
    assert_eq!(refused(&app, &dave, "customerArchive", json!({ "id": id })).await, ["INVALID_TRANSITION"]);
    done(&app, &dave, "ticketUpdate", json!({ "id": ticket["id"], "status": "CLOSED" })).await;
    let archived = done(&app, &dave, "customerArchive", json!({ "id": id, "expectedVersion": 2 })).await;
    assert!(archived["archivedAt"].is_string(), "{archived}");
    for field in ["customerArchive", "customerUpdate"] {
        assert_eq!(refused(&app, &dave, field, json!({ "id": id })).await, ["NOT_FOUND"]);
    }
    assert_eq!(refused(&app, &dave, "ticketCreate", json!({ "subject": "x", "customerId": id })).await, ["NOT_FOUND"]);
    done(&app, &dave, "customerCreate", taken).await;
    // Those of others are not there.
    let grace = app.token("bob@example.com", Some("tech-startup")).await;
    for (field, input) in [
        ("customerUpdate", json!({ "id": other["id"], "name": "x" })),
        ("customerArchive", json!({ "id": other["id"] })),
        ("customerMerge", json!({ "id": other["id"], "intoId": id })),
    ] {
        assert_eq!(refused(&app, &grace, field, input).await[0], "NOT_FOUND");
    }
}

#[tokio::test]
async fn customers_have_an_address_once_under_any_race() {
    let app = TestApp::start().await;
    let dave = token(&app, "dave").await;
    let answers = join_all((0..12).map(|n| {
        let email = if n % 2 == 0 { "race@customers.example" } else { "RACE@customers.example" };
        mutate(&app, &dave, "customerCreate", json!({ "email": email, "name": format!("n{n}") }))
    }))
    .await;
    let refused: Vec<Vec<&str>> = answers.iter().map(codes).filter(|codes| !codes.is_empty()).collect();
    assert_eq!(refused, vec![vec!["CONFLICT"]; 11]);
    let made = "select count(*) from tenantry.customer_profiles where lower(email) = 'race@customers.example'";
    assert_eq!(number(&app, made).await, 1);
    assert_eq!(audited(&app, "customer.create").await, 1);
}

#[tokio::test]
async fn customers_who_are_one_are_merged() {
    let app = TestApp::start().await;
    let (alice, dave) = (token(&app, "alice").await, token(&app, "dave").await);
    let from = customer(&app, &dave, "from").await["id"].clone();
    let into = customer(&app, &dave, "into").await["id"].clone();
    let given = json!({ "id": from, "phone": "1", "company": "From Inc", "tier": "VIP", "standing": "BLOCKED", "preferences": { "a": 1, "b": 1 } });
    done(&app, &dave, "customerUpdate", given).await;
    done(&app, &dave, "customerUpdate", json!({ "id": into, "company": "Into Inc", "preferences": { "b": 2 } })).await;
    let ticket =
        done(&app, &dave, "ticketCreate", json!({ "subject": "theirs", "customerId": from })).await["id"].clone();
    done(&app, &dave, "ticketMessageAdd", json!({ "ticketId": ticket, "body": "hello", "customerId": from })).await;
    app.sql("update tenantry.customer_profiles set lifetime_value_minor = 500, user_id = (select id from tenantry.users where clerk_id = 'user_bob') where name = 'from';
               update tenantry.customer_profiles set lifetime_value_minor = 700 where name = 'into';
               insert into tenantry.refunds (organization_id, id, customer_id, amount_minor, currency, reason)
               select organization_id, gen_random_uuid(), id, 100, 'USD', 'GOODWILL' from tenantry.customer_profiles where name = 'from'").await;

    let merge = json!({ "id": from, "intoId": into });
    assert_eq!(forbidden(&app, &dave, "customerMerge", merge.clone()).await, "FORBIDDEN", "it cannot be undone");
    assert_eq!(refused(&app, &alice, "customerMerge", json!({ "id": from, "intoId": from })).await, ["INVALID"]);
    assert_eq!(
        refused(&app, &alice, "customerMerge", json!({ "id": from, "intoId": into, "expectedVersion": 1 })).await,
        ["VERSION_CONFLICT"]
    );
    app.sql("update tenantry.customer_profiles set currency = 'EUR' where name = 'into'").await;
    assert_eq!(refused(&app, &alice, "customerMerge", merge.clone()).await, ["CURRENCY_MISMATCH"]);
    app.sql("update tenantry.customer_profiles set currency = 'USD' where name = 'into'").await;
    let answer = mutate(&app, &alice, "customerMerge", merge.clone()).await;
    let (ended, stays) = (&answer["customer"], &answer["into"]);
    assert!(ended["archivedAt"].is_string() && ended["mergedInto"]["id"] == into, "{answer}");
    assert_eq!((&stays["phone"], &stays["company"]), (&json!("1"), &json!("Into Inc")), "only what was missing");
    assert_eq!(stays["preferences"], json!({ "a": 1, "b": 2 }));
    assert_eq!((&stays["tier"], &stays["standing"]), (&json!("VIP"), &json!("BLOCKED")), "a merge clears nobody");
    assert_eq!(stays["lifetimeValue"]["amount"], "12.00");
    assert!(stays["user"]["id"].is_string(), "the account goes with them: {answer}");
    for table in ["tickets t", "refunds t", "ticket_messages t"] {
        let column = if table.starts_with("ticket_m") { "author_customer_id" } else { "customer_id" };
        let of = |name: &str| {
            format!(
                "select count(*) from tenantry.{table} join tenantry.customer_profiles c on c.id = t.{column} where c.name = '{name}'"
            )
        };
        assert_eq!((number(&app, &of("from")).await, number(&app, &of("into")).await), (0, 1), "{table}");
    }
    assert_eq!((audited(&app, "customer.merge").await, audited(&app, "customer.take_in").await), (1, 1));
    assert_eq!(refused(&app, &alice, "customerMerge", merge).await, ["NOT_FOUND"]);
    assert_eq!(refused(&app, &alice, "customerMerge", json!({ "id": into, "intoId": from })).await, ["NOT_FOUND"]);

    // Of two accounts each stays where it is.
    let third = customer(&app, &dave, "third").await["id"].clone();
    app.sql("update tenantry.customer_profiles set user_id = (select id from tenantry.users where clerk_id = 'user_carol') where name = 'third'").await;
    let both = mutate(&app, &alice, "customerMerge", json!({ "id": third, "intoId": into })).await;
    assert_eq!(both["into"]["user"]["id"], stays["user"]["id"]);
    assert_eq!(
        number(&app, "select count(*) from tenantry.customer_profiles where name = 'third' and user_id is not null")
            .await,
        1
    );
}

#[tokio::test]
async fn customers_who_are_merged_in_a_circle_lose_nothing() {
    const MANY: usize = 12;
    let app = TestApp::start().await;
    let alice = token(&app, "alice").await;
    let mut circle = Vec::new();
    for n in 0..MANY {
        let id = customer(&app, &alice, &format!("circle{n}")).await["id"].clone();
        done(&app, &alice, "ticketCreate", json!({ "subject": "circle", "customerId": id })).await;
        circle.push(id);
    }
    let requests = (0..MANY)
        .map(|n| mutate(&app, &alice, "customerMerge", json!({ "id": circle[n], "intoId": circle[(n + 1) % MANY] })));
    // Meanwhile others write for them.
    let tickets = (0..MANY)
        .map(|n| mutate(&app, &alice, "ticketCreate", json!({ "subject": "circle", "customerId": circle[n] })));
    let (merged, opened) = futures_util::future::join(join_all(requests), join_all(tickets)).await;
    let merged = merged.iter().filter(|answer| codes(answer).is_empty()).count();
    assert!((1..MANY).contains(&merged), "{merged}: one at least, and never all of a circle");
    let opened = opened.iter().filter(|answer| codes(answer).is_empty()).count();
    let living = "select count(*) from tenantry.customer_profiles where name like 'circle%' and deleted_at is null";
    assert_eq!(number(&app, living).await, i64::try_from(MANY - merged).expect("few"));
    let theirs = "select count(*) from tenantry.tickets t join tenantry.customer_profiles c on c.id = t.customer_id and c.deleted_at is null where t.subject = 'circle'";
    assert_eq!(
        number(&app, theirs).await,
        i64::try_from(MANY + opened).expect("few"),
        "every ticket is a living customer's"
    );
}

const TIMELINE: &str =
    "query($id: ID!, $first: Int, $after: String, $where: CustomerEventFilter) { node(id: $id) { ... on Customer {
    timeline(first: $first, after: $after, where: $where) { totalCount pageInfo { endCursor hasNextPage }
        nodes { kind action createdAt ticket { id } message { body } refund { id } escalation { id } } } } } }";

#[tokio::test]
async fn customers_have_one_timeline() {
    let app = TestApp::start_in_still_time().await;
    let (alice, bob) = (token(&app, "alice").await, token(&app, "bob").await);
    let own = customer(&app, &alice, "timeline").await["id"].clone();
    let pass = || app.clock.advance(Duration::seconds(10));
    pass();
    let ticket = done(&app, &alice, "ticketCreate", json!({ "subject": "x", "customerId": own })).await["id"].clone();
    for (body, internal) in [("question", false), ("note", true)] {
        pass();
        done(&app, &alice, "ticketMessageAdd", json!({ "ticketId": ticket, "body": body, "isInternal": internal }))
            .await;
    }
    pass();
    done(&app, &alice, "escalationCreate", json!({ "ticketId": ticket, "reason": "OTHER" })).await;
    pass();
    done(&app, &alice, "customerUpdate", json!({ "id": own, "tier": "VIP" })).await;
    pass();
    let now: DateTime<Utc> = app.clock.now();
    sqlx::query("insert into tenantry.refunds (organization_id, id, customer_id, amount_minor, currency, reason, created_at)
                 select organization_id, gen_random_uuid(), id, 100, 'USD', 'GOODWILL', $1 from tenantry.customer_profiles where name = 'timeline'")
        .bind(now)
        .execute(&mut app.database.system().await)
        .await
        .expect("a refund");

    let kinds = async |token: &str, filter: Value| {
        let data = app.data(token, TIMELINE, json!({ "id": own, "where": filter })).await;
        let nodes = data["node"]["timeline"]["nodes"].as_array().expect("events").clone();
        nodes.iter().map(|node| node["kind"].as_str().expect("a kind").to_owned()).collect::<Vec<_>>()
    };
    let all = ["REFUND", "CHANGE", "ESCALATION", "MESSAGE", "MESSAGE", "TICKET", "CHANGE"];
    assert_eq!(kinds(&alice, Value::Null).await, all, "newest first");
    assert_eq!(kinds(&bob, Value::Null).await, ["ESCALATION", "MESSAGE", "TICKET"], "no notes, no refunds, no log");
    assert_eq!(kinds(&alice, json!({ "kind": { "eq": "MESSAGE" } })).await, ["MESSAGE", "MESSAGE"]);

    let (mut paged, mut after) = (Vec::new(), Value::Null);
    loop {
        let data = app.data(&alice, TIMELINE, json!({ "id": own, "first": 2, "after": after })).await;
        let page = &data["node"]["timeline"];
        assert_eq!(page["totalCount"], all.len());
        paged.extend(page["nodes"].as_array().expect("events").clone());
        if page["pageInfo"]["hasNextPage"] == false {
            break;
        }
        after = page["pageInfo"]["endCursor"].clone();
    }
    assert_eq!(paged.iter().map(|node| node["kind"].as_str().expect("a kind")).collect::<Vec<_>>(), all);
    assert!(paged[0]["refund"]["id"].is_string() && paged[1]["action"] == "customer.update");
    assert_eq!((&paged[3]["message"]["body"], &paged[4]["message"]["body"]), (&json!("note"), &json!("question")));
    assert_eq!(paged[5]["ticket"]["id"], ticket);
}

#[tokio::test]
async fn representatives_are_made_changed_and_removed() {
    let app = TestApp::start().await;
    let (alice, dave, bob) = (token(&app, "alice").await, token(&app, "dave").await, token(&app, "bob").await);
    let viewer = "{ viewer { user { id } } }";
    let user = app.data(&bob, viewer, json!({})).await["viewer"]["user"]["id"].clone();
    let input =
        json!({ "userId": user, "role": "SUPERVISOR", "skills": [" orders ", "orders", "english"], "capacity": 3 });
    assert_eq!(forbidden(&app, &dave, "representativeCreate", input.clone()).await, "FORBIDDEN");
    let bad = json!({ "userId": user, "skills": [" "], "capacity": 1001 });
    assert_eq!(refused(&app, &alice, "representativeCreate", bad).await, ["BLANK", "INVALID"]);
    let startup = app.token("grace@example.com", Some("tech-startup")).await;
    let stranger = app.data(&startup, viewer, json!({})).await["viewer"]["user"]["id"].clone();
    assert_eq!(refused(&app, &alice, "representativeCreate", json!({ "userId": stranger })).await, ["NOT_FOUND"]);
    assert_eq!(
        refused(&app, &bob, "representativeStatusSet", json!({ "status": "ONLINE" })).await,
        ["NOT_FOUND"],
        "not yet one"
    );

    let answers = join_all((0..6).map(|_| mutate(&app, &alice, "representativeCreate", input.clone()))).await;
    let made: Vec<&Value> = answers.iter().filter(|answer| codes(answer).is_empty()).collect();
    assert_eq!(made.len(), 1, "{answers:?}");
    let made = &made[0]["representative"];
    assert_eq!(
        (&made["skills"], &made["role"], &made["status"]),
        (&json!(["orders", "english"]), &json!("SUPERVISOR"), &json!("OFFLINE"))
    );
    assert_eq!(answers.iter().map(codes).filter(|codes| *codes == ["CONFLICT"]).count(), 5);

    // Their own status is everybody's to set, the rest is not.
    let online = done(&app, &bob, "representativeStatusSet", json!({ "status": "ONLINE" })).await;
    assert_eq!((&online["id"], &online["status"]), (&made["id"], &json!("ONLINE")));
    let change = json!({ "id": made["id"], "capacity": 5, "skills": [], "expectedVersion": 2 });
    assert_eq!(forbidden(&app, &bob, "representativeUpdate", change.clone()).await, "FORBIDDEN");
    assert_eq!(done(&app, &alice, "representativeUpdate", change.clone()).await["capacity"], 5);
    assert_eq!(refused(&app, &alice, "representativeUpdate", change).await, ["VERSION_CONFLICT"]);

    let own = &made["id"];
    let open = done(&app, &alice, "ticketCreate", json!({ "subject": "open", "assigneeId": own })).await;
    let over = done(&app, &alice, "ticketCreate", json!({ "subject": "over", "assigneeId": own })).await;
    done(&app, &alice, "ticketUpdate", json!({ "id": over["id"], "status": "CLOSED" })).await;
    let escalated =
        done(&app, &alice, "escalationCreate", json!({ "ticketId": open["id"], "reason": "OTHER", "assigneeId": own }))
            .await;
    done(&app, &alice, "escalationStart", json!({ "id": escalated["id"] })).await;
    let removed = done(&app, &alice, "representativeRemove", json!({ "id": own })).await;
    assert!(removed["removedAt"].is_string() && removed["status"] == "OFFLINE", "{removed}");
    let node = "query($id: ID!) { node(id: $id) { ... on Ticket { assignee { id } } ... on Escalation { status assignedTo { id } } } }";
    let seen = async |id: &Value| app.data(&alice, node, json!({ "id": id })).await["node"].clone();
    assert_eq!(seen(&open["id"]).await, json!({ "assignee": null }));
    assert_eq!(seen(&over["id"]).await["assignee"]["id"], *own, "what is over stays theirs");
    assert_eq!(seen(&escalated["id"]).await, json!({ "status": "OPEN", "assignedTo": null }));
    assert_eq!((audited(&app, "ticket.requeue").await, audited(&app, "representative.remove").await), (1, 1));
    assert_eq!(refused(&app, &alice, "representativeRemove", json!({ "id": own })).await, ["NOT_FOUND"]);
    assert_eq!(refused(&app, &bob, "representativeStatusSet", json!({ "status": "ONLINE" })).await, ["NOT_FOUND"]);
    assert_eq!(
        refused(&app, &alice, "ticketAssign", json!({ "id": open["id"], "representativeId": own })).await,
        ["NOT_FOUND"]
    );
    // Once more: the same representative, as if new.
    let again = done(&app, &alice, "representativeCreate", json!({ "userId": user })).await;
    assert_eq!((&again["id"], &again["role"], &again["removedAt"]), (own, &json!("AGENT"), &Value::Null));
}

#[tokio::test]
async fn representatives_who_are_removed_keep_no_ticket_under_any_race() {
    let app = TestApp::start().await;
    let alice = token(&app, "alice").await;
    let (dave, _) = representative(&app, "dave").await;
    let mut tickets = Vec::new();
    for _ in 0..8 {
        tickets.push(done(&app, &alice, "ticketCreate", json!({ "subject": "x" })).await["id"].clone());
    }
    let assigned = join_all(tickets.iter().enumerate().map(|(n, id)| {
        // By hand, and by itself: Dave is the only one online.
        let input = if n % 2 == 0 { json!({ "id": id, "representativeId": dave }) } else { json!({ "id": id }) };
        mutate(&app, &alice, "ticketAssign", input)
    }));
    let (answers, removed) =
        futures_util::future::join(assigned, mutate(&app, &alice, "representativeRemove", json!({ "id": dave }))).await;
    assert!(codes(&removed).is_empty(), "{removed}");
    assert!(
        answers.iter().all(|answer| codes(answer).iter().all(|code| ["NOT_FOUND", "NOBODY_AVAILABLE"].contains(code))),
        "{answers:?}"
    );
    let kept = "select count(*) from tenantry.tickets t join tenantry.representatives r on r.id = t.assignee_id and r.deleted_at is not null where t.status_rank < 4";
    assert_eq!(number(&app, kept).await, 0);
}

#[tokio::test]
async fn representatives_who_are_absent_are_assigned_nothing() {
    let app = TestApp::start_in_still_time().await;
    let (alice, dave) = (token(&app, "alice").await, token(&app, "dave").await);
    let (own, _) = representative(&app, "dave").await;
    let (erin, _) = representative(&app, "erin").await;
    let now = app.clock.now();
    let at = |hours: i64| json!(now + Duration::hours(hours));
    let absent = |from: i64, to: i64| json!({ "startsAt": at(from), "endsAt": at(to), "note": " holidays " });
    for (from, to, code) in [
        (5, 5, "INVALID"),
        (5, 4, "INVALID"),
        (-5, -1, "INVALID"),
        (1, 367 * 24, "INVALID"),
        (367 * 24, 368 * 24, "INVALID"),
    ] {
        assert_eq!(
            refused(&app, &dave, "representativeAbsenceCreate", absent(from, to)).await,
            [code],
            "{from} to {to}"
        );
    }
    let first = done(&app, &dave, "representativeAbsenceCreate", absent(1, 3)).await;
    assert_eq!((&first["note"], &first["representative"]["isAbsent"]), (&json!("holidays"), &json!(false)));
    assert_eq!(refused(&app, &dave, "representativeAbsenceCreate", absent(2, 4)).await, ["CONFLICT"]);
    let next = absent(3, 4);
    let answers = join_all((0..6).map(|_| mutate(&app, &dave, "representativeAbsenceCreate", next.clone()))).await;
    assert_eq!(
        answers.iter().filter(|answer| codes(answer).is_empty()).count(),
        1,
        "they touch, and do not overlap: {answers:?}"
    );
    let mut others = absent(1, 2);
    others["representativeId"] = erin.clone();
    assert_eq!(refused(&app, &dave, "representativeAbsenceCreate", others.clone()).await, ["BEYOND_OWN_ROLE"]);
    let of_erin = done(&app, &alice, "representativeAbsenceCreate", others).await;
    assert_eq!(
        refused(&app, &dave, "representativeAbsenceDelete", json!({ "id": of_erin["id"] })).await,
        ["BEYOND_OWN_ROLE"]
    );
    assert_eq!(refused(&app, &alice, "representativeAbsenceCreate", absent(1, 2)).await, ["NOT_FOUND"], "she is none");

    let ticket = done(&app, &alice, "ticketCreate", json!({ "subject": "x" })).await["id"].clone();
    let assign = json!({ "id": ticket });
    assert_eq!(done(&app, &alice, "ticketAssign", assign.clone()).await["assignee"]["id"], own, "he is there still");
    app.clock.advance(Duration::hours(1));
    let is_absent = "{ organization { representatives { nodes { id isAbsent } } } }";
    let data = app.data(&alice, is_absent, json!({})).await;
    let nodes = data["organization"]["representatives"]["nodes"].as_array().expect("them");
    let away: Vec<&Value> = nodes.iter().filter(|node| node["isAbsent"] == true).map(|node| &node["id"]).collect();
    assert!(away.len() == 2 && away.contains(&&own) && away.contains(&&erin), "{data}");
    assert_eq!(refused(&app, &alice, "ticketAssign", assign.clone()).await, ["NOBODY_AVAILABLE"]);
    // By hand they can be chosen.
    let by_hand = json!({ "id": ticket, "representativeId": own });
    done(&app, &alice, "ticketAssign", by_hand).await;
    done(&app, &dave, "representativeAbsenceDelete", json!({ "id": first["id"] })).await;
    assert_eq!(done(&app, &alice, "ticketAssign", assign.clone()).await["assignee"]["id"], own);
    app.clock.advance(Duration::hours(2));
    assert_eq!(refused(&app, &alice, "ticketAssign", assign.clone()).await, ["NOBODY_AVAILABLE"], "the second absence");
    app.clock.advance(Duration::hours(1));
    done(&app, &alice, "ticketAssign", assign).await;
}

#[tokio::test]
async fn escalations_go_their_way() {
    let app = TestApp::start_in_still_time().await;
    let (alice, dave, bob) = (token(&app, "alice").await, token(&app, "dave").await, token(&app, "bob").await);
    let (erin, _) = representative(&app, "erin").await;
    let (own, _) = representative(&app, "dave").await;
    let ticket = done(&app, &alice, "ticketCreate", json!({ "subject": "x" })).await["id"].clone();
    let input = json!({ "ticketId": ticket, "reason": "POLICY_EXCEPTION", "priority": "HIGH", "note": "please" });
    assert_eq!(forbidden(&app, &bob, "escalationCreate", input.clone()).await, "FORBIDDEN");
    let bad = json!({ "ticketId": ticket, "reason": "OTHER", "note": "x".repeat(5001), "dueAt": app.clock.now() });
    assert_eq!(refused(&app, &alice, "escalationCreate", bad).await, ["TOO_LONG", "INVALID"]);
    let answers = join_all((0..8).map(|_| mutate(&app, &alice, "escalationCreate", input.clone()))).await;
    let made: Vec<&Value> =
        answers.iter().filter(|answer| codes(answer).is_empty()).map(|answer| &answer["escalation"]).collect();
    assert_eq!(made.len(), 1, "one for a reason: {answers:?}");
    assert_eq!(answers.iter().map(codes).filter(|codes| *codes == ["CONFLICT"]).count(), 7);
    let id = &made[0]["id"];
    assert_eq!(made[0]["status"], "OPEN");
    let due = |escalation: &Value| {
        escalation["dueAt"].as_str().expect("a deadline").parse::<DateTime<Utc>>().expect("a time")
    };
    assert!((due(made[0]) - app.clock.now() - Duration::hours(4)).num_seconds().abs() < 1);

    let assign = |whom: &Value, version: i64| json!({ "id": id, "representativeId": whom, "expectedVersion": version });
    let assigned = done(&app, &dave, "escalationAssign", assign(&erin, 1)).await;
    assert!(assigned["status"] == "ASSIGNED" && assigned["assignedTo"]["id"] == erin, "{assigned}");
    assert_eq!(assigned["notices"]["nodes"][0]["user"]["email"], "erin@example.com", "who gets it is told");
    assert_eq!(refused(&app, &dave, "escalationAssign", assign(&own, 1)).await, ["VERSION_CONFLICT"]);
    assert_eq!(done(&app, &dave, "escalationAssign", assign(&Value::Null, 2)).await["status"], "OPEN");
    let started = done(&app, &dave, "escalationStart", json!({ "id": id })).await;
    assert!(started["status"] == "IN_PROGRESS" && started["assignedTo"]["id"] == own, "he takes it: {started}");
    assert_eq!(refused(&app, &dave, "escalationStart", json!({ "id": id })).await, ["INVALID_TRANSITION"]);
    let urgent = done(&app, &dave, "escalationUpdate", json!({ "id": id, "priority": "URGENT" })).await;
    assert!(
        (due(&urgent) - app.clock.now() - Duration::hours(1)).num_seconds().abs() < 1,
        "a deadline that nobody set follows"
    );
    let set = json!(app.clock.now() + Duration::hours(9));
    let moved = done(&app, &dave, "escalationUpdate", json!({ "id": id, "dueAt": set })).await;
    let kept = done(&app, &dave, "escalationUpdate", json!({ "id": id, "priority": "LOW" })).await;
    assert_eq!(due(&moved), due(&kept));

    assert_eq!(refused(&app, &dave, "escalationResolve", json!({ "id": id, "resolution": "  " })).await, ["BLANK"]);
    let answers = join_all(
        (0..16).map(|n| mutate(&app, &dave, "escalationResolve", json!({ "id": id, "resolution": format!("by {n}") }))),
    )
    .await;
    let won: Vec<&Value> = answers.iter().filter(|answer| codes(answer).is_empty()).collect();
    assert_eq!(won.len(), 1, "one resolves it");
    assert_eq!(answers.iter().map(codes).filter(|codes| *codes == ["INVALID_TRANSITION"]).count(), 15);
    assert!(
        won[0]["escalation"]["resolvedAt"].is_string() && won[0]["escalation"]["nextStatuses"] == json!([]),
        "{won:?}"
    );
    assert_eq!(audited(&app, "escalation.resolve").await, 1);
    for (field, input) in [
        ("escalationCancel", json!({ "id": id })),
        ("escalationUpdate", json!({ "id": id, "priority": "LOW" })),
        ("escalationAssign", json!({ "id": id, "representativeId": erin })),
        ("escalationStart", json!({ "id": id })),
    ] {
        assert_eq!(refused(&app, &dave, field, input).await, ["INVALID_TRANSITION"], "{field}");
    }
    // Again for the same reason, and canceled.
    let again = done(&app, &dave, "escalationCreate", input).await["id"].clone();
    let canceled = done(&app, &dave, "escalationCancel", json!({ "id": again, "resolution": "a mistake" })).await;
    assert_eq!(
        (&canceled["status"], &canceled["resolution"], &canceled["resolvedAt"]),
        (&json!("CANCELLED"), &json!("a mistake"), &Value::Null)
    );
    done(&app, &alice, "ticketUpdate", json!({ "id": ticket, "status": "RESOLVED" })).await;
    assert_eq!(
        refused(&app, &alice, "escalationCreate", json!({ "ticketId": ticket, "reason": "OTHER" })).await,
        ["INVALID_TRANSITION"]
    );
    let startup = app.token_for("bob@example.com", Some("tech-startup"), Duration::hours(20)).await;
    assert_eq!(
        refused(&app, &startup, "escalationResolve", json!({ "id": again, "resolution": "x" })).await,
        ["NOT_FOUND"]
    );
}

#[tokio::test]
async fn escalations_tell_whom_the_rules_name() {
    let app = TestApp::start().await;
    let (alice, dave) = (token(&app, "alice").await, token(&app, "dave").await);
    app.sql("delete from tenantry.escalation_rules").await;
    let (erin, erin_user) = representative(&app, "erin").await;
    let (own, own_user) = representative(&app, "dave").await;
    let rule = json!({ "name": "leads", "reason": "SLA_BREACH", "minimumPriority": "HIGH", "role": "TEAM_LEAD" });
    assert_eq!(forbidden(&app, &dave, "escalationRuleCreate", rule.clone()).await, "FORBIDDEN");
    assert_eq!(refused(&app, &alice, "escalationRuleCreate", json!({ "name": "nobody" })).await, ["BLANK"]);
    let made = done(&app, &alice, "escalationRuleCreate", rule).await;
    let named = done(
        &app,
        &alice,
        "escalationRuleCreate",
        json!({ "name": "erin", "userId": erin_user, "minimumPriority": "HIGH" }),
    )
    .await;
    let own_rule = done(&app, &alice, "escalationRuleCreate", json!({ "name": "himself", "userId": own_user })).await;

    let escalate = async |reason: &str, priority: &str| {
        let ticket = done(&app, &dave, "ticketCreate", json!({ "subject": "x" })).await["id"].clone();
        let input = json!({ "ticketId": ticket, "reason": reason, "priority": priority });
        let made = done(&app, &dave, "escalationCreate", input).await;
        let watchers = "query($id: ID!) { node(id: $id) { ... on Ticket { watchers { nodes { user { email } } } } } }";
        let seen = app.data(&alice, watchers, json!({ "id": ticket })).await["node"]["watchers"]["nodes"].clone();
        let emails = |nodes: &Value| {
            let mut emails: Vec<String> = nodes
                .as_array()
                .expect("a list")
                .iter()
                .map(|node| node["user"]["email"].as_str().expect("one").to_owned())
                .collect();
            emails.sort();
            emails
        };
        let told = emails(&made["notices"]["nodes"]);
        assert_eq!(told, emails(&seen), "who is told watches");
        (made, told)
    };
    assert_eq!(
        escalate("SLA_BREACH", "URGENT").await.1,
        ["erin@example.com", "frank@example.com"],
        "and not who does it"
    );
    assert_eq!(escalate("OTHER", "HIGH").await.1, ["erin@example.com"]);
    let (quiet, told) = escalate("SLA_BREACH", "NORMAL").await;
    assert_eq!(told, [""; 0]);
    let raised = done(&app, &dave, "escalationUpdate", json!({ "id": quiet["id"], "priority": "URGENT" })).await;
    assert_eq!(raised["notices"]["nodes"].as_array().map(Vec::len), Some(2), "a higher priority tells more");
    let same = done(&app, &dave, "escalationUpdate", json!({ "id": quiet["id"], "priority": "HIGH" })).await;
    assert_eq!(same["notices"], raised["notices"], "once");

    // Who saw it says so, and nobody else.
    let notices = "query($user: ID!) { organization { escalationNotices(where: { userId: { eq: $user }, seenAt: { isNull: true } }) { totalCount nodes { id } } } }";
    let new =
        app.data(&alice, notices, json!({ "user": erin_user })).await["organization"]["escalationNotices"].clone();
    assert_eq!(new["totalCount"], 3);
    let see = json!({ "id": new["nodes"][0]["id"] });
    assert_eq!(refused(&app, &dave, "escalationNoticeSee", see.clone()).await, ["NOT_FOUND"]);
    let erins = token(&app, "erin").await;
    assert!(done(&app, &erins, "escalationNoticeSee", see).await["seenAt"].is_string());
    assert_eq!(
        app.data(&alice, notices, json!({ "user": erin_user })).await["organization"]["escalationNotices"]["totalCount"],
        2
    );

    // A rule can hand it to somebody, unless they are away.
    let change = json!({ "id": named["id"], "userId": null, "assigneeId": erin, "expectedVersion": 1 });
    let changed = done(&app, &alice, "escalationRuleUpdate", change.clone()).await;
    assert!(changed["user"].is_null() && changed["assignee"]["id"] == erin, "{changed}");
    assert_eq!(refused(&app, &alice, "escalationRuleUpdate", change).await, ["VERSION_CONFLICT"]);
    assert_eq!(
        refused(&app, &alice, "escalationRuleUpdate", json!({ "id": named["id"], "assigneeId": null })).await,
        ["BLANK"]
    );
    let (handed, told) = escalate("OTHER", "URGENT").await;
    assert!(
        handed["status"] == "ASSIGNED" && handed["assignedTo"]["id"] == erin && told == ["erin@example.com"],
        "{handed}"
    );
    let away = json!({ "representativeId": erin, "endsAt": app.clock.now() + Duration::hours(5) });
    done(&app, &alice, "representativeAbsenceCreate", away).await;
    let (handed, told) = escalate("OTHER", "URGENT").await;
    assert!(handed["status"] == "OPEN" && told.is_empty(), "{handed}");
    for rule in [&made, &named, &own_rule] {
        assert_eq!(done(&app, &alice, "escalationRuleDelete", json!({ "id": rule["id"] })).await, rule["id"]);
    }
    assert_eq!(refused(&app, &alice, "escalationRuleDelete", json!({ "id": made["id"] })).await, ["NOT_FOUND"]);
    assert_eq!(escalate("SLA_BREACH", "URGENT").await.1, [""; 0]);
    let startup = app.token("bob@example.com", Some("tech-startup")).await;
    assert_eq!(
        refused(&app, &startup, "escalationRuleCreate", json!({ "name": "x", "assigneeId": own })).await,
        ["NOT_FOUND"]
    );
}

#[tokio::test]
async fn escalations_that_are_late_are_marked_once() {
    let app = TestApp::start_in_still_time().await;
    let alice = token(&app, "alice").await;
    app.run_job("escalation-deadlines").await;
    let ticket = done(&app, &alice, "ticketCreate", json!({ "subject": "x" })).await["id"].clone();
    let escalate = |reason: &str, priority: &str| json!({ "ticketId": ticket, "reason": reason, "priority": priority });
    let urgent = done(&app, &alice, "escalationCreate", escalate("OTHER", "URGENT")).await["id"].clone();
    done(&app, &alice, "escalationCreate", escalate("SLA_BREACH", "NORMAL")).await;
    let solved = done(&app, &alice, "escalationCreate", escalate("CUSTOMER_REQUEST", "URGENT")).await["id"].clone();
    done(&app, &alice, "escalationResolve", json!({ "id": solved, "resolution": "done" })).await;
    let before = audited(&app, "escalation.overdue").await;
    app.clock.advance(Duration::minutes(59));
    app.run_job("escalation-deadlines").await;
    assert_eq!(audited(&app, "escalation.overdue").await, before);
    app.clock.advance(Duration::minutes(1));
    for _ in 0..3 {
        app.run_job("escalation-deadlines").await;
    }
    assert_eq!(audited(&app, "escalation.overdue").await, before + 1);
    let due = json!(app.clock.now() + Duration::minutes(30));
    let moved = done(&app, &alice, "escalationUpdate", json!({ "id": urgent, "note": "wait" })).await;
    assert!(moved["overdueAt"].is_string(), "{moved}");
    let moved = done(&app, &alice, "escalationUpdate", json!({ "id": urgent, "dueAt": due })).await;
    assert!(moved["overdueAt"].is_null(), "{moved}");
    app.clock.advance(Duration::minutes(30));
    app.run_job("escalation-deadlines").await;
    assert_eq!(audited(&app, "escalation.overdue").await, before + 2, "another deadline is missed anew");
}

/// Each change reaches whoever follows it, as it is then; another one does not.
#[tokio::test]
async fn people_are_told_of_changes_of_customers_representatives_and_escalations() {
    let app = TestApp::start().await;
    let (alice, dave) = (token(&app, "alice").await, token(&app, "dave").await);
    let (own, _) = representative(&app, "dave").await;
    let followed = customer(&app, &alice, "followed").await["id"].clone();
    let other = customer(&app, &alice, "other").await["id"].clone();
    let ticket = done(&app, &alice, "ticketCreate", json!({ "subject": "x" })).await["id"].clone();
    let query = "subscription($id: ID) { customerChanged(id: $id) { customer { name tier } } }";
    let customers = app.follow(&dave, query, json!({ "id": followed })).await;
    let query = "subscription($id: ID) { representativeChanged(id: $id) { representative { status capacity } } }";
    let representatives = app.follow(&alice, query, json!({ "id": own })).await;
    let query = "subscription { escalationChanged { escalation { status reason } } }";
    let escalations = app.follow(&alice, query, json!({})).await;
    let query = "subscription { escalationNoticed { notice { escalation { reason } } } }";
    let notices = app.follow(&dave, query, json!({})).await;
    let of_alice = app.follow(&alice, query, json!({})).await;
    app.subscribed(5).await;
    done(&app, &alice, "customerUpdate", json!({ "id": other, "tier": "PREMIUM" })).await;
    done(&app, &alice, "customerUpdate", json!({ "id": followed, "tier": "VIP" })).await;
    done(&app, &alice, "representativeUpdate", json!({ "id": own, "capacity": 7 })).await;
    let input = json!({ "ticketId": ticket, "reason": "TECHNICAL_COMPLEXITY", "assigneeId": own });
    done(&app, &alice, "escalationCreate", input).await;
    for (stream, wanted) in [
        (customers, r#"{"customer":{"name":"followed","tier":"VIP"}}"#),
        (representatives, r#""capacity":7"#),
        (escalations, r#"{"status":"ASSIGNED","reason":"TECHNICAL_COMPLEXITY"}"#),
        (notices, r#"{"notice":{"escalation":{"reason":"TECHNICAL_COMPLEXITY"}}}"#),
    ] {
        let heard = hear(stream, &[wanted]).await;
        assert!(!heard.contains("PREMIUM"), "another customer's change: {heard}");
    }
    // A notice is its receiver's: nothing came before what ends the other's stream.
    app.sql(
        "update tenantry.organization_members set deleted_at = now() where user_id = (select id from tenantry.users where clerk_id = 'user_alice');
         select tenantry.tell_access(id, '00000000-0000-0000-0000-000000000000') from tenantry.organizations where slug = 'acme-corp'",
    )
    .await;
    let heard = hear(of_alice, &["ORGANIZATION_NOT_FOUND"]).await;
    assert!(!heard.contains("TECHNICAL_COMPLEXITY"), "{heard}");
}
