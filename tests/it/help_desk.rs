//! What a desk does with tickets: messages, merging, assignment, bulk changes, watchers, fields, views, search, counts.

use chrono::Duration;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tenantry::clock::Clock;

use crate::support::{TestApp, codes};

const ALICE: &str = "alice@example.com";

async fn ticket(app: &TestApp, token: &str, input: Value) -> Value {
    let shown = "ticket { id number version tags assignee { id user { email } } customFields waitingSince }";
    app.done(token, "ticketCreate", shown, input).await["ticket"].clone()
}

async fn say(app: &TestApp, token: &str, input: Value) -> Value {
    let shown = "message { id body } ticket { status version waitingSince firstRespondedAt slaPausedAt }";
    app.done(token, "ticketMessageAdd", shown, input).await
}

/// The subjects of the tickets that meet a condition, in the order of their numbers.
async fn found(app: &TestApp, token: &str, filter: Value) -> Vec<String> {
    let document = "query($where: TicketFilter) { organization { tickets(where: $where, first: 100, orderBy: [{ field: NUMBER }]) { totalCount nodes { subject } } } }";
    let data = app.data(token, document, json!({ "where": filter })).await;
    let tickets = &data["organization"]["tickets"];
    let nodes = tickets["nodes"].as_array().expect("tickets");
    assert_eq!(tickets["totalCount"], nodes.len());
    nodes.iter().map(|node| node["subject"].as_str().expect("a subject").to_owned()).collect()
}

#[tokio::test]
async fn messages_are_changed_by_their_authors_for_a_while() {
    let app = TestApp::start_in_still_time().await;
    let alice = app.token_for(ALICE, Some("acme-corp"), Duration::hours(20)).await;
    let dave = app.token_for("dave@example.com", Some("acme-corp"), Duration::hours(20)).await;
    let own = ticket(&app, &dave, json!({ "subject": "x" })).await;
    let first = say(&app, &dave, json!({ "ticketId": own["id"], "body": "My passwort is hunter2" })).await;
    let id = &first["message"]["id"];
    let change = async |token: &str, body: &str| {
        app.mutate(token, "ticketMessageUpdate", "message { body editedAt }", json!({ "id": id, "body": body })).await
    };
    assert_eq!(codes(&change(&alice, "mine now").await), ["AUTHOR_REQUIRED"], "not even an owner");
    assert_eq!(codes(&change(&dave, "  ").await), ["BLANK"]);
    app.clock.advance(Duration::seconds(14 * 60 - 1));
    let changed = change(&dave, "My password is secret").await;
    assert!(changed["message"]["body"] == "My password is secret" && changed["message"]["editedAt"].is_string());
    // Whoever is no administrator does not read what was taken back.
    app.clock.advance(Duration::seconds(1));
    let gone = app.done(&dave, "ticketMessageDelete", "message { body deletedAt }", json!({ "id": id })).await;
    assert!(gone["message"]["body"] == "" && gone["message"]["deletedAt"].is_string(), "{gone}");
    assert_eq!(codes(&change(&dave, "again").await), ["NOT_FOUND"]);
    let revisions = "query($id: ID!) { node(id: $id) { ... on TicketMessage { revisions { nodes { body } } } } }";
    let seen = app.data(&alice, revisions, json!({ "id": id })).await;
    assert_eq!(
        seen["node"]["revisions"]["nodes"],
        json!([{ "body": "My password is secret" }, { "body": "My passwort is hunter2" }])
    );
    assert_eq!(app.error_code(&dave, revisions, json!({ "id": id })).await, "FORBIDDEN");
    for word in ["hunter2", "secret"] {
        assert!(found(&app, &alice, json!({ "search": word })).await.is_empty(), "{word} was taken back");
    }

    let late = say(&app, &dave, json!({ "ticketId": own["id"], "body": "too late" })).await["message"]["id"].clone();
    app.clock.advance(Duration::minutes(15));
    let refused = app.mutate(&dave, "ticketMessageUpdate", "message { id }", json!({ "id": late, "body": "y" })).await;
    assert_eq!((codes(&refused), &refused["message"]), (vec!["EXPIRED"], &Value::Null));
    let limit = |minutes: i64| json!({ "messageEditMinutes": minutes });
    for minutes in [-1, 1441] {
        let answer = app.mutate(&alice, "organizationUpdate", "organization { id }", limit(minutes)).await;
        assert_eq!(codes(&answer), ["INVALID"]);
    }
    app.done(&alice, "organizationUpdate", "organization { id }", limit(60)).await;
    app.done(&dave, "ticketMessageUpdate", "message { id }", json!({ "id": late, "body": "in time" })).await;
}

#[tokio::test]
async fn customers_who_write_open_what_waited_for_them() {
    let app = TestApp::start().await;
    let alice = app.token(ALICE, Some("acme-corp")).await;
    let data = app.data(&alice, "{ organization { customers(first: 1) { nodes { id } } } }", json!({})).await;
    let customer = &data["organization"]["customers"]["nodes"][0]["id"];
    let own = ticket(&app, &alice, json!({ "subject": "x", "customerId": customer })).await;
    assert!(own["waitingSince"].is_string());
    let id = &own["id"];
    let desk = |body: &str, status: Value| json!({ "ticketId": id, "body": body, "status": status });
    let theirs = |body: &str| json!({ "ticketId": id, "body": body, "customerId": customer });

    let more = say(&app, &alice, theirs("one thing more")).await;
    assert_eq!((&more["ticket"]["status"], &more["ticket"]["firstRespondedAt"]), (&json!("NEW"), &Value::Null));
    assert_eq!(more["ticket"]["waitingSince"], own["waitingSince"], "since the first question");
    let asked = say(&app, &alice, desk("Which one?", json!("PENDING_CUSTOMER"))).await;
    assert!(asked["ticket"]["waitingSince"].is_null() && asked["ticket"]["slaPausedAt"].is_string(), "{asked}");
    let answered = say(&app, &alice, theirs("The blue one.")).await;
    assert!(answered["ticket"]["status"] == "OPEN" && answered["ticket"]["slaPausedAt"].is_null(), "{answered}");
    assert!(answered["ticket"]["waitingSince"].is_string());
    say(&app, &alice, desk("Done.", json!("RESOLVED"))).await;
    assert_eq!(say(&app, &alice, theirs("It is not.")).await["ticket"]["status"], "OPEN");
    let note = app
        .mutate(
            &alice,
            "ticketMessageAdd",
            "message { id }",
            json!({ "ticketId": id, "body": "x", "isInternal": true, "customerId": customer }),
        )
        .await;
    assert_eq!(codes(&note), ["INVALID"]);
    say(&app, &alice, desk("Now it is.", json!("CLOSED"))).await;
    let late = app.mutate(&alice, "ticketMessageAdd", "message { id }", theirs("hello?")).await;
    assert_eq!(codes(&late), ["INVALID_TRANSITION"]);
    let data = app
        .data(&alice, "query($id: ID!) { node(id: $id) { ... on Ticket { closedAt history { nodes { action changes user { email } } } messages { nodes { author { email } customerAuthor { id } } } } } }", json!({ "id": id }))
        .await;
    assert!(data["node"]["closedAt"].is_string());
    let statuses: Vec<&Value> = data["node"]["history"]["nodes"]
        .as_array()
        .expect("history")
        .iter()
        .filter_map(|event| event["changes"]["after"].get("status"))
        .collect();
    assert_eq!(statuses, ["CLOSED", "OPEN", "RESOLVED", "OPEN", "PENDING_CUSTOMER", "NEW"], "newest first");
    let first = &data["node"]["messages"]["nodes"][0];
    assert!(first["author"].is_null() && first["customerAuthor"]["id"] == *customer, "{first}");
}

#[tokio::test]
async fn tickets_merge_and_split_with_their_histories() {
    let app = TestApp::start().await;
    let alice = app.token(ALICE, Some("acme-corp")).await;
    let bob = app.token("bob@example.com", Some("acme-corp")).await;
    let one = ticket(&app, &alice, json!({ "subject": "one", "tags": ["a", "b"] })).await;
    let two = ticket(&app, &alice, json!({ "subject": "two", "tags": ["b", "c"] })).await;
    let mut messages = Vec::new();
    for (ticket, body) in [(&one, "giraffe"), (&one, "elephant"), (&two, "crocodile")] {
        messages
            .push(say(&app, &alice, json!({ "ticketId": ticket["id"], "body": body })).await["message"]["id"].clone());
    }
    for (token, ticket) in [(&bob, &one), (&alice, &one), (&alice, &two)] {
        app.done(token, "ticketWatch", "ticket { id }", json!({ "ticketId": ticket["id"] })).await;
    }
    let both = json!({ "id": one["id"], "intoId": two["id"] });
    let wrong = [
        (json!({ "id": one["id"], "intoId": one["id"] }), vec!["INVALID"]),
        (json!({ "id": one["id"], "intoId": two["id"], "expectedVersion": 99 }), vec!["VERSION_CONFLICT"]),
    ];
    for (input, expected) in wrong {
        assert_eq!(codes(&app.mutate(&alice, "ticketMerge", "ticket { id }", input).await), expected);
    }
    let shown = "ticket { status closedAt messages { totalCount } watchers { totalCount } mergedInto { subject } } into { tags version messages { nodes { body movedFrom { subject } } } watchers { totalCount } mergedTickets { nodes { subject } } }";
    let merged = app.done(&alice, "ticketMerge", shown, both.clone()).await;
    assert_eq!(merged["ticket"]["status"], "CLOSED");
    assert_eq!(merged["ticket"]["mergedInto"]["subject"], "two");
    assert_eq!(
        (&merged["ticket"]["messages"]["totalCount"], &merged["ticket"]["watchers"]["totalCount"]),
        (&json!(0), &json!(0))
    );
    let into = &merged["into"];
    assert_eq!((&into["tags"], &into["watchers"]["totalCount"]), (&json!(["a", "b", "c"]), &json!(2)));
    let bodies: Vec<_> = into["messages"]["nodes"]
        .as_array()
        .expect("messages")
        .iter()
        .map(|message| (&message["body"], &message["movedFrom"]["subject"]))
        .collect();
    assert_eq!(
        bodies,
        [(&json!("giraffe"), &json!("one")), (&json!("elephant"), &json!("one")), (&json!("crocodile"), &Value::Null)]
    );
    assert_eq!(into["mergedTickets"]["nodes"], json!([{ "subject": "one" }]));
    for (field, payload, input) in [
        ("ticketMerge", "ticket { id }", both),
        ("ticketMerge", "ticket { id }", json!({ "id": two["id"], "intoId": one["id"] })),
        ("ticketUpdate", "ticket { id }", json!({ "id": one["id"], "priority": "LOW" })),
        ("ticketMessageAdd", "message { id }", json!({ "ticketId": one["id"], "body": "x" })),
        ("ticketAssign", "ticket { id }", json!({ "id": one["id"] })),
    ] {
        assert_eq!(codes(&app.mutate(&alice, field, payload, input).await), ["INVALID_TRANSITION"], "{field}");
    }
    assert_eq!(found(&app, &alice, json!({ "search": "giraffe crocodile" })).await, ["two"], "words moved along");

    let split = json!({ "id": two["id"], "messageIds": [messages[1], messages[1]], "subject": "the elephant" });
    let shown = "ticket { id status splitFrom { subject } tags messages { nodes { body movedFrom { subject } } } }";
    let made = app.done(&alice, "ticketSplit", shown, split.clone()).await;
    assert_eq!(made["ticket"]["splitFrom"]["subject"], "two");
    assert_eq!(
        made["ticket"]["messages"]["nodes"],
        json!([{ "body": "elephant", "movedFrom": { "subject": "one" } }]),
        "where it was written"
    );
    assert_eq!(
        codes(&app.mutate(&alice, "ticketSplit", "ticket { id }", split).await),
        ["NOT_FOUND"],
        "it is there no more"
    );
    let none = json!({ "id": two["id"], "messageIds": [], "subject": "" });
    assert_eq!(codes(&app.mutate(&alice, "ticketSplit", "ticket { id }", none).await), ["BLANK", "INVALID"]);
    assert_eq!(found(&app, &alice, json!({ "search": "elephant" })).await, ["the elephant"]);
    let history = app
        .data(&alice, "query($id: ID!) { node(id: $id) { ... on Ticket { splitTickets { nodes { subject } } history { nodes { action } } } } }", json!({ "id": two["id"] }))
        .await;
    let actions: Vec<&str> = history["node"]["history"]["nodes"]
        .as_array()
        .expect("history")
        .iter()
        .filter_map(|event| event["action"].as_str())
        .collect();
    assert_eq!(actions, ["ticket.give_away", "ticket.take_in", "ticket.watch", "ticket.update", "ticket.create"]);
    assert_eq!(history["node"]["splitTickets"]["nodes"], json!([{ "subject": "the elephant" }]));
}

/// Of merges in a circle one is refused, none waits for ever, and no message is lost.
#[tokio::test]
async fn merges_at_once_end_in_one_ticket() {
    let app = TestApp::start().await;
    let alice = app.token(ALICE, Some("acme-corp")).await;
    let mut ids = Vec::new();
    for subject in ["a", "b", "c"] {
        let own = ticket(&app, &alice, json!({ "subject": subject })).await;
        say(&app, &alice, json!({ "ticketId": own["id"], "body": subject })).await;
        ids.push(own["id"].clone());
    }
    let pairs = (0..12).map(|n| (n % 3, (n + 1 + n / 3 % 2) % 3));
    let requests = pairs.map(|(from, into)| {
        app.mutate(&alice, "ticketMerge", "ticket { id }", json!({ "id": ids[from], "intoId": ids[into] }))
    });
    let merged = join_all(requests).await;
    assert_eq!(merged.iter().filter(|answer| codes(answer).is_empty()).count(), 2);
    let left =
        found(&app, &alice, json!({ "mergedIntoId": { "isNull": true }, "subject": { "in": ["a", "b", "c"] } })).await;
    assert_eq!(left.len(), 1);
    let messages: (i64, i64) = sqlx::query_as(
        "select count(*), count(distinct m.ticket_id) from tenantry.ticket_messages m where m.body in ('a', 'b', 'c')",
    )
    .fetch_one(&mut app.database.system().await)
    .await
    .expect("messages");
    assert_eq!(messages, (3, 1));
}

#[tokio::test]
async fn many_tickets_are_updated_together_or_each_by_itself() {
    let app = TestApp::start().await;
    let alice = app.token(ALICE, Some("acme-corp")).await;
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(ticket(&app, &alice, json!({ "subject": format!("bulk {n}"), "tags": ["old"] })).await["id"].clone());
    }
    app.done(&alice, "ticketUpdate", "ticket { id }", json!({ "id": ids[2], "status": "CLOSED" })).await;
    let shown = "results { id ticket { status tags version } userErrors { field code } }";
    let change = |all: bool| json!({ "ids": ids, "allOrNothing": all, "status": "OPEN", "addTags": ["new"], "removeTags": ["old"] });
    let refused = app.done(&alice, "ticketsUpdate", shown, change(true)).await;
    let results = refused["results"].as_array().expect("results");
    assert!(results.iter().all(|result| result["ticket"].is_null()), "{refused}");
    let of_each: Vec<usize> =
        results.iter().map(|result| result["userErrors"].as_array().expect("errors").len()).collect();
    assert_eq!(of_each, [0, 0, 1, 0], "the reason stands with its ticket");
    assert_eq!(found(&app, &alice, json!({ "tags": { "has": "new" } })).await.len(), 0, "nothing was done");
    let logged: i64 = sqlx::query_scalar("select count(*) from tenantry.audit_logs where action = 'ticket.update' and metadata -> 'after' ->> 'tags' like '%new%'")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a count");
    assert_eq!(logged, 0, "and nothing was logged");

    let some = app.done(&alice, "ticketsUpdate", shown, change(false)).await;
    let results = some["results"].as_array().expect("results");
    assert_eq!(results.iter().map(|result| &result["id"]).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
    assert_eq!(
        (&results[2]["ticket"], &results[2]["userErrors"][0]["code"]),
        (&Value::Null, &json!("INVALID_TRANSITION"))
    );
    assert_eq!(results[3]["ticket"], json!({ "status": "OPEN", "tags": ["new"], "version": 2 }));
    ids.remove(2);
    let all = app.done(&alice, "ticketsUpdate", shown, json!({ "ids": ids, "status": "RESOLVED" })).await;
    assert!(all["results"].as_array().expect("results").iter().all(|result| result["ticket"]["status"] == "RESOLVED"));
    for wrong in [json!([]), json!([ids[0], ids[0]]), json!(vec![ids[0].clone(); 51])] {
        let answer = app.mutate(&alice, "ticketsUpdate", shown, json!({ "ids": wrong, "priority": "LOW" })).await;
        assert_eq!((codes(&answer), &answer["results"]), (vec!["INVALID"], &json!([])));
    }
    // Both ways round at once: nobody waits for nobody.
    let mut reversed = ids.clone();
    reversed.reverse();
    let races = (0..8).map(|n| {
        let ids = if n % 2 == 0 { &ids } else { &reversed };
        app.done(&alice, "ticketsUpdate", shown, json!({ "ids": ids, "addTags": [format!("t{n}")] }))
    });
    join_all(races).await;
    assert_eq!(
        found(&app, &alice, json!({ "tags": { "hasAll": ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"] } }))
            .await
            .len(),
        3
    );
}

#[tokio::test]
async fn watchers_are_members_and_find_what_they_watch() {
    let app = TestApp::start().await;
    let alice = app.token(ALICE, Some("acme-corp")).await;
    let bob = app.token("bob@example.com", Some("acme-corp")).await;
    let own = ticket(&app, &alice, json!({ "subject": "watched" })).await;
    let users =
        app.data(&alice, "{ organization { members(first: 100) { nodes { user { id email } } } } }", json!({})).await;
    let id_of = |email: &str| {
        let members = users["organization"]["members"]["nodes"].as_array().expect("members");
        members.iter().find(|member| member["user"]["email"] == email).expect("a member")["user"]["id"].clone()
    };
    let watch = async |token: &str, field: &str, user: Value| {
        app.mutate(token, field, "ticket { watchers { totalCount } }", json!({ "ticketId": own["id"], "userId": user }))
            .await
    };
    for _ in 0..2 {
        let watched = watch(&bob, "ticketWatch", Value::Null).await;
        assert_eq!(watched["ticket"]["watchers"]["totalCount"], 1, "once, and viewers may");
    }
    let other = watch(&bob, "ticketWatch", id_of("dave@example.com")).await;
    assert_eq!(codes(&other), ["BEYOND_OWN_ROLE"], "others are not a viewer's to name");
    assert_eq!(watch(&alice, "ticketWatch", id_of("dave@example.com")).await["ticket"]["watchers"]["totalCount"], 2);
    let stranger = json!("usr_00000000000000000000000000000000");
    assert_eq!(codes(&watch(&alice, "ticketWatch", stranger).await), ["NOT_FOUND"]);
    app.sql("update tenantry.organization_members m set deleted_at = now() from tenantry.users u where u.id = m.user_id and u.email = 'erin@example.com'").await;
    assert_eq!(codes(&watch(&alice, "ticketWatch", id_of("erin@example.com")).await), ["NOT_FOUND"]);
    assert_eq!(found(&app, &bob, json!({ "watchedByMe": true })).await, ["watched"]);
    assert!(!found(&app, &bob, json!({ "watchedByMe": false })).await.contains(&"watched".to_owned()));
    assert_eq!(watch(&bob, "ticketUnwatch", Value::Null).await["ticket"]["watchers"]["totalCount"], 1);
    assert!(found(&app, &bob, json!({ "watchedByMe": true })).await.is_empty());
}

#[tokio::test]
async fn custom_fields_are_typed_and_filtered_by() {
    let app = TestApp::start().await;
    let alice = app.token(ALICE, Some("acme-corp")).await;
    let field = async |input: Value| app.mutate(&alice, "ticketFieldCreate", "ticketField { id version }", input).await;
    let made = [
        json!({ "key": "seats", "name": "Seats", "type": "NUMBER" }),
        json!({ "key": "due", "name": "Due", "type": "DATE" }),
        json!({ "key": "vip", "name": "VIP", "type": "BOOLEAN" }),
        json!({ "key": "parts", "name": "Parts", "type": "MULTI_SELECT", "options": ["lamp", "cable"] }),
    ];
    for input in made {
        assert_eq!(field(input).await["userErrors"], json!([]));
    }
    let wrong = [
        (json!({ "key": "seats", "name": "Again", "type": "TEXT" }), vec!["CONFLICT"]),
        (json!({ "key": "Bad key", "name": "", "type": "TEXT" }), vec!["INVALID", "BLANK"]),
        (json!({ "key": "s", "name": "S", "type": "SELECT" }), vec!["INVALID"]),
        (json!({ "key": "t", "name": "T", "type": "TEXT", "options": ["x"] }), vec!["INVALID"]),
        (json!({ "key": "u", "name": "U", "type": "SELECT", "options": ["x", "x "] }), vec!["INVALID"]),
    ];
    for (input, expected) in wrong {
        assert_eq!(codes(&field(input.clone()).await), expected, "{input}");
    }
    for (subject, values) in [
        ("f1", json!({ "seats": 9, "due": "2027-01-31", "vip": true, "parts": ["cable"] })),
        ("f2", json!({ "seats": 10, "due": "2027-02-01", "vip": false, "parts": ["cable", "lamp"] })),
        ("f3", json!({ "seats": -0.5 })),
    ] {
        let made = ticket(&app, &alice, json!({ "subject": subject, "customFields": values })).await;
        assert_eq!(made["customFields"]["seats"], values["seats"]);
    }
    for (filter, expected) in [
        (json!([{ "key": "seats", "gt": 9 }]), vec!["f2"]),
        (json!([{ "key": "seats", "gte": 9, "lt": 10 }]), vec!["f1"]),
        (json!([{ "key": "seats", "lte": 9 }]), vec!["f1", "f3"]),
        (json!([{ "key": "due", "lt": "2027-02-01" }]), vec!["f1"]),
        (json!([{ "key": "vip", "eq": false }]), vec!["f2"]),
        (json!([{ "key": "parts", "eq": "cable" }, { "key": "parts", "eq": "lamp" }]), vec!["f2"]),
        (json!([{ "key": "parts", "in": ["lamp", 3, true] }]), vec!["f2"]),
        (json!([{ "key": "nothing", "eq": "x" }]), vec![]),
    ] {
        assert_eq!(found(&app, &alice, json!({ "customFields": filter })).await, expected, "{filter}");
    }
    let both = json!({ "customFields": [{ "key": "seats", "isNull": false }, { "key": "due", "isNull": true }] });
    assert_eq!(found(&app, &alice, both).await, ["f3"]);
    let list = "query($w: TicketFilter) { organization { tickets(where: $w) { nodes { id } } } }";
    for filter in [json!([{ "key": "seats", "eq": ["x"] }]), json!([{ "key": "seats", "in": [{}] }])] {
        assert_eq!(app.error_code(&alice, list, json!({ "w": { "customFields": filter } })).await, "INVALID_ARGUMENT");
    }
}

#[tokio::test]
async fn custom_fields_refuse_what_is_not_theirs() {
    let app = TestApp::start().await;
    let alice = app.token(ALICE, Some("acme-corp")).await;
    for input in [
        json!({ "key": "seats", "name": "Seats", "type": "NUMBER" }),
        json!({ "key": "due", "name": "Due", "type": "DATE" }),
        json!({ "key": "vip", "name": "VIP", "type": "BOOLEAN" }),
        json!({ "key": "parts", "name": "Parts", "type": "MULTI_SELECT", "options": ["lamp", "cable"] }),
    ] {
        app.done(&alice, "ticketFieldCreate", "ticketField { id }", input).await;
    }
    // Another organization has fields of its own.
    let elsewhere = app.token("bob@example.com", Some("tech-startup")).await;
    let refused = app
        .mutate(&elsewhere, "ticketCreate", "ticket { id }", json!({ "subject": "x", "customFields": { "seats": 1 } }))
        .await;
    assert_eq!(refused["userErrors"][0]["field"], json!(["input", "customFields", "seats"]));
    let wrong = json!({ "subject": "x", "customFields": { "seats": "9", "due": "tomorrow", "nope": 1, "parts": ["lamp", "door"] } });
    let refused = app.mutate(&alice, "ticketCreate", "ticket { id }", wrong).await;
    assert_eq!(codes(&refused), ["INVALID", "NOT_FOUND", "INVALID", "INVALID"], "all at once: {refused}");
    let listed =
        app.mutate(&alice, "ticketCreate", "ticket { id }", json!({ "subject": "x", "customFields": [1] })).await;
    assert_eq!(codes(&listed), ["INVALID"]);

    let known = app.data(&alice, "{ organization { ticketFields { nodes { id key } } } }", json!({})).await;
    let id_of = |key: &str| {
        known["organization"]["ticketFields"]["nodes"]
            .as_array()
            .expect("fields")
            .iter()
            .find(|field| field["key"] == key)
            .expect("a field")["id"]
            .clone()
    };
    app.done(&alice, "ticketFieldUpdate", "ticketField { id }", json!({ "id": id_of("seats"), "isRequired": true }))
        .await;
    let missing = app.mutate(&alice, "ticketCreate", "ticket { id }", json!({ "subject": "x" })).await;
    assert_eq!(
        (codes(&missing), &missing["userErrors"][0]["field"]),
        (vec!["BLANK"], &json!(["input", "customFields", "seats"]))
    );
    app.done(&alice, "ticketFieldUpdate", "ticketField { id }", json!({ "id": id_of("seats"), "isArchived": true }))
        .await;
    let later = ticket(&app, &alice, json!({ "subject": "f4" })).await;
    let update = async |values: Value| {
        app.mutate(
            &alice,
            "ticketUpdate",
            "ticket { customFields version }",
            json!({ "id": later["id"], "customFields": values }),
        )
        .await
    };
    assert_eq!(codes(&update(json!({ "seats": 1 })).await), ["INVALID"], "archived");
    assert_eq!(
        update(json!({ "vip": true, "parts": ["lamp"] })).await["ticket"]["customFields"],
        json!({ "vip": true, "parts": ["lamp"] })
    );
    assert_eq!(update(json!({ "vip": null })).await["ticket"]["customFields"], json!({ "parts": ["lamp"] }));
    assert!(
        !found(&app, &alice, json!({ "customFields": [{ "key": "vip", "eq": true }] }))
            .await
            .contains(&"f4".to_owned())
    );
    let stale = json!({ "id": id_of("due"), "name": "Due date", "expectedVersion": 9 });
    assert_eq!(
        codes(&app.mutate(&alice, "ticketFieldUpdate", "ticketField { id }", stale).await),
        ["VERSION_CONFLICT"]
    );
}

#[tokio::test]
async fn views_are_their_makers_unless_they_are_shared() {
    let app = TestApp::start().await;
    let [alice, carol, dave] = [
        app.token(ALICE, Some("acme-corp")).await,
        app.token("carol@example.com", Some("acme-corp")).await,
        app.token("dave@example.com", Some("acme-corp")).await,
    ];
    let make = async |token: &str, name: &str, shared: bool| {
        let input = json!({ "name": name, "isShared": shared, "filter": { "assignedToMe": true }, "orderBy": [{ "field": "NUMBER", "direction": "DESC" }] });
        app.done(token, "ticketViewCreate", "ticketView { id }", input).await["ticketView"]["id"].clone()
    };
    let (own, shared) = (make(&dave, "own", false).await, make(&dave, "for all", true).await);
    let list = "{ organization { ticketViews { nodes { name createdBy { email } tickets { nodes { assignee { user { email } } } } } } } }";
    let names = async |token: &str| {
        let data = app.data(token, list, json!({})).await;
        let nodes = data["organization"]["ticketViews"]["nodes"].as_array().expect("views").clone();
        nodes.iter().map(|view| view["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&dave).await, ["Mine to answer", "Nobody has it", "for all", "own"]);
    assert_eq!(names(&carol).await, ["Mine to answer", "Nobody has it", "for all"], "not even an administrator");
    let node = "query($id: ID!) { node(id: $id) { ... on TicketView { name tickets { nodes { assignee { user { email } } } } } } }";
    assert_eq!(app.data(&carol, node, json!({ "id": own })).await["node"], Value::Null);
    let of_dave = app.data(&dave, node, json!({ "id": shared })).await;
    let tickets = of_dave["node"]["tickets"]["nodes"].as_array().expect("tickets");
    assert!(
        !tickets.is_empty() && tickets.iter().all(|ticket| ticket["assignee"]["user"]["email"] == "dave@example.com"),
        "{of_dave}"
    );
    assert_eq!(
        app.data(&carol, node, json!({ "id": shared })).await["node"]["tickets"]["nodes"],
        json!([]),
        "about whoever looks"
    );

    let erin = app.token("erin@example.com", Some("acme-corp")).await;
    let change =
        async |token: &str, input: Value| app.mutate(token, "ticketViewUpdate", "ticketView { name }", input).await;
    assert_eq!(codes(&change(&erin, json!({ "id": shared, "name": "mine" })).await), ["AUTHOR_REQUIRED"]);
    assert_eq!(codes(&change(&carol, json!({ "id": own, "name": "mine" })).await), ["NOT_FOUND"]);
    assert_eq!(codes(&change(&carol, json!({ "id": shared, "isShared": false })).await), ["AUTHOR_REQUIRED"]);
    assert_eq!(change(&carol, json!({ "id": shared, "name": "For all" })).await["ticketView"]["name"], "For all");
    let wrong = [
        json!({ "filter": { "status": { "eq": "LOST" } } }),
        json!({ "filter": { "nope": 1 } }),
        json!({ "filter": { "search": "?!" } }),
        json!({ "filter": [] }),
        json!({ "orderBy": [{ "field": "NOPE" }] }),
        json!({ "orderBy": { "field": "NUMBER" } }),
        json!({ "filter": { "subject": { "eq": "x".repeat(20_000) } } }),
    ];
    for mut input in wrong {
        input["name"] = json!("x");
        let refused = app.mutate(&dave, "ticketViewCreate", "ticketView { id }", input.clone()).await;
        assert_eq!(codes(&refused).len(), 1, "{input}: {refused}");
    }
    assert_eq!(
        app.done(&alice, "ticketViewDelete", "ticketViewId", json!({ "id": shared })).await["ticketViewId"],
        shared
    );
    assert_eq!(
        codes(&app.mutate(&alice, "ticketViewDelete", "ticketViewId", json!({ "id": own })).await),
        ["NOT_FOUND"]
    );
    assert_eq!(names(&dave).await, ["Mine to answer", "Nobody has it", "own"]);
}

/// The sample data's representatives: dave is online and knows billing, erin is busy and knows orders.
#[tokio::test]
async fn the_best_representative_gets_the_ticket() {
    let app = TestApp::start().await;
    let alice = app.token(ALICE, Some("acme-corp")).await;
    app.sql("update tenantry.representatives r set status = 'ONLINE', capacity = 3 from tenantry.users u where u.id = r.user_id and u.email in ('dave@example.com', 'erin@example.com');
               update tenantry.tickets set status = 'CLOSED', resolved_at = now(), closed_at = now() where organization_id = (select id from tenantry.organizations where slug = 'acme-corp')").await;
    let assign = async |id: &Value, to: Value| {
        app.mutate(
            &alice,
            "ticketAssign",
            "ticket { assignee { id user { email } } assignedAt version }",
            json!({ "id": id, "representativeId": to }),
        )
        .await
    };
    let email = |answer: &Value| answer["ticket"]["assignee"]["user"]["email"].as_str().map(str::to_owned);
    let parcel = ticket(&app, &alice, json!({ "subject": "parcel", "tags": ["Orders"] })).await;
    let bill = ticket(&app, &alice, json!({ "subject": "bill", "category": "BILLING" })).await;
    let chosen = assign(&parcel["id"], Value::Null).await;
    assert_eq!(email(&chosen).as_deref(), Some("erin@example.com"), "by tag, in any case");
    assert!(chosen["ticket"]["assignedAt"].is_string());
    assert_eq!(email(&assign(&bill["id"], Value::Null).await).as_deref(), Some("dave@example.com"), "by category");

    // Both have two places left: of sixteen at once four find one.
    let mut more = Vec::new();
    for n in 0..16 {
        more.push(ticket(&app, &alice, json!({ "subject": format!("more {n}") })).await["id"].clone());
    }
    let answers = join_all(more.iter().map(|id| assign(id, Value::Null))).await;
    assert_eq!(answers.iter().filter(|answer| codes(answer).is_empty()).count(), 4);
    assert!(
        answers.iter().filter(|answer| !codes(answer).is_empty()).all(|answer| codes(answer) == ["NOBODY_AVAILABLE"])
    );
    let loads: Vec<i64> = sqlx::query_scalar("select count(*) from tenantry.tickets where status <> 'CLOSED' and assignee_id is not null and organization_id = (select id from tenantry.organizations where slug = 'acme-corp') group by assignee_id")
        .fetch_all(&mut app.database.system().await)
        .await
        .expect("loads");
    assert_eq!(loads, [3, 3]);
    // By hand it is somebody's decision: capacity does not count, neither does being away.
    let frank = app
        .data(&alice, "{ organization { representatives(first: 100) { nodes { id user { email } } } } }", json!({}))
        .await;
    let frank = frank["organization"]["representatives"]["nodes"]
        .as_array()
        .expect("representatives")
        .iter()
        .find(|one| one["user"]["email"] == "frank@example.com")
        .expect("frank")["id"]
        .clone();
    let waiting = answers.iter().position(|answer| !codes(answer).is_empty()).expect("one that waits");
    assert_eq!(email(&assign(&more[waiting], frank).await).as_deref(), Some("frank@example.com"));
    let closed = ticket(&app, &alice, json!({ "subject": "over" })).await["id"].clone();
    app.done(&alice, "ticketUpdate", "ticket { id }", json!({ "id": closed, "status": "RESOLVED" })).await;
    assert_eq!(codes(&assign(&closed, Value::Null).await), ["INVALID_TRANSITION"]);
}

#[tokio::test]
async fn queues_take_tickets_back_and_give_them_out() {
    let app = TestApp::start_in_still_time().await;
    let alice = app.token_for(ALICE, Some("acme-corp"), Duration::hours(20)).await;
    app.sql("update tenantry.representatives set status = 'OFFLINE'; update tenantry.tickets set status = 'CLOSED', closed_at = now()").await;
    for wrong in [0, 10_081] {
        assert_eq!(
            codes(
                &app.mutate(&alice, "organizationUpdate", "organization { id }", json!({ "requeueMinutes": wrong }))
                    .await
            ),
            ["INVALID"]
        );
    }
    app.done(&alice, "organizationUpdate", "organization { requeueMinutes }", json!({ "requeueMinutes": 30 })).await;
    let data = app.data(&alice, "{ organization { representatives(first: 1) { nodes { id } } } }", json!({})).await;
    let dave = &data["organization"]["representatives"]["nodes"][0]["id"];
    let silent = ticket(&app, &alice, json!({ "subject": "silent", "assigneeId": dave })).await["id"].clone();
    let answered = ticket(&app, &alice, json!({ "subject": "answered", "assigneeId": dave })).await["id"].clone();
    let waits = ticket(&app, &alice, json!({ "subject": "waits", "assigneeId": dave })).await["id"].clone();
    say(&app, &alice, json!({ "ticketId": answered, "body": "We are on it." })).await;
    say(&app, &alice, json!({ "ticketId": waits, "body": "And?", "status": "PENDING_CUSTOMER" })).await;
    let unassigned = || async {
        found(&app, &alice, json!({ "assigneeId": { "isNull": true }, "status": { "ne": "CLOSED" } })).await
    };
    app.clock.advance(Duration::minutes(29));
    app.run_job("ticket-queues").await;
    assert!(unassigned().await.is_empty());
    app.clock.advance(Duration::minutes(1));
    app.run_job("ticket-queues").await;
    assert_eq!(unassigned().await, ["silent"]);
    let history = app.data(&alice, "query($id: ID!) { node(id: $id) { ... on Ticket { version assignedAt history(first: 1) { nodes { action user { id } } } } } }", json!({ "id": silent })).await;
    assert_eq!(
        history["node"],
        json!({ "version": 2, "assignedAt": null, "history": { "nodes": [{ "action": "ticket.requeue", "user": null }] } })
    );

    // Whoever gets it has the whole time; a new question of the customer starts it anew.
    app.done(&alice, "ticketUpdate", "ticket { id }", json!({ "id": silent, "assigneeId": dave })).await;
    app.run_job("ticket-queues").await;
    assert!(unassigned().await.is_empty());
    let customers = app.data(&alice, "{ organization { customers(first: 1) { nodes { id } } } }", json!({})).await;
    let customer = &customers["organization"]["customers"]["nodes"][0]["id"];
    say(&app, &alice, json!({ "ticketId": answered, "body": "Still?", "customerId": customer })).await;
    app.clock.advance(Duration::minutes(30));
    app.run_job("ticket-queues").await;
    assert_eq!(unassigned().await, ["silent", "answered"]);

    app.done(
        &alice,
        "organizationUpdate",
        "organization { id }",
        json!({ "assignsAutomatically": true, "requeueMinutes": null }),
    )
    .await;
    app.run_job("ticket-queues").await;
    assert_eq!(unassigned().await.len(), 2, "nobody is online");
    app.sql("update tenantry.representatives r set status = 'ONLINE' from tenantry.users u where u.id = r.user_id and u.email = 'erin@example.com'").await;
    let new = ticket(&app, &alice, json!({ "subject": "new" })).await;
    assert_eq!(new["assignee"]["user"]["email"], "erin@example.com", "at once");
    app.run_job("ticket-queues").await;
    assert!(unassigned().await.is_empty());
}

#[tokio::test]
async fn search_finds_words_wherever_they_stand() {
    let app = TestApp::start().await;
    let alice = app.token(ALICE, Some("acme-corp")).await;
    let viewer = app.token("bob@example.com", Some("acme-corp")).await;
    let elsewhere = app.token("bob@example.com", Some("tech-startup")).await;
    ticket(&app, &elsewhere, json!({ "subject": "zeppelin of others" })).await;
    let one = ticket(
        &app,
        &alice,
        json!({ "subject": "Zeppelin landing", "description": "It hovers over Friedrichshafen." }),
    )
    .await;
    say(&app, &alice, json!({ "ticketId": one["id"], "body": "The propellers are made of aluminium." })).await;
    say(
        &app,
        &alice,
        json!({ "ticketId": one["id"], "body": "Customer is notoriously quarrelsome", "isInternal": true }),
    )
    .await;
    let search = async |token: &str, text: &str| found(&app, token, json!({ "search": text })).await;
    let number = one["number"].to_string();
    for text in [
        "zeppelin",
        "ZEPPELIN friedrichshafen",
        "landing aluminium",
        "\"made of aluminium\"",
        "zepp",
        "zeppelin -boat",
        "boat or zeppelin",
        &number,
        "propellers zep",
    ] {
        assert_eq!(search(&alice, text).await, ["Zeppelin landing"], "{text}");
    }
    for text in ["zeppelin boat", "\"aluminium made\"", "zeppelin -landing"] {
        assert!(search(&alice, text).await.is_empty(), "{text}");
    }
    assert_eq!(search(&alice, "quarrelsome zeppelin").await, ["Zeppelin landing"], "notes too");
    assert!(search(&viewer, "quarrelsome").await.is_empty(), "a viewer must not find what they may not read");
    assert_eq!(search(&viewer, "zeppelin aluminium").await, ["Zeppelin landing"]);
    assert_eq!(search(&elsewhere, "zeppelin").await, ["zeppelin of others"]);
    assert!(search(&elsewhere, "organization").await.is_empty());
    // Of the customer, and as the customer is called now.
    assert_eq!(search(&alice, "weber damaged").await, ["Order 7730 arrived damaged"]);
    app.sql("update tenantry.customer_profiles set name = 'Hildegard Weber' where email = 'heidi@example.org'").await;
    assert_eq!(search(&alice, "hildegard").await, ["Order 7730 arrived damaged"]);

    let list = "query($w: TicketFilter) { organization { tickets(where: $w) { nodes { id } } } }";
    for text in ["", "   ", "&|!()<->:*", "\"\" - -", &"x".repeat(501)] {
        let error = app.run(&alice, list, json!({ "w": { "search": text } })).await;
        assert_eq!(
            (&error["errors"][0]["extensions"]["code"], &error["errors"][0]["extensions"]["field"]),
            (&json!("INVALID_ARGUMENT"), &json!("where.search")),
            "{error}"
        );
    }
    for text in [
        "a:*",
        "x & !",
        "'; drop table tickets --",
        "ünïcödé",
        "or",
        "a\\",
        "c++ (beta)",
        "e-mail",
        "👩‍🚀 a",
        "organization:*",
        "organization* zeppelin",
    ] {
        let answer = app.run(&alice, list, json!({ "w": { "search": text } })).await;
        assert!(answer["errors"].is_null(), "{text}: {answer}");
    }

    // One word, whatever its ending, once the language is known.
    assert!(search(&alice, "propeller was hovering").await.is_empty());
    app.done(&alice, "organizationUpdate", "organization { searchLanguage }", json!({ "searchLanguage": "ENGLISH" }))
        .await;
    app.run_job("ticket-search").await;
    assert_eq!(search(&alice, "propeller was hovering").await, ["Zeppelin landing"]);
    let stale: i64 = sqlx::query_scalar("select count(*) from tenantry.ticket_documents d join tenantry.organizations o on o.id = d.organization_id where d.language <> o.search_language")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a count");
    assert_eq!(stale, 0);
}

/// A ticket with more words than a document holds can still be written to.
#[tokio::test]
async fn search_takes_endless_tickets() {
    let app = TestApp::start().await;
    let alice = app.token(ALICE, Some("acme-corp")).await;
    let own = ticket(&app, &alice, json!({ "subject": "endless" })).await;
    for round in 0..20 {
        let words: Vec<String> = (0..7000).map(|n| format!("{:x}", (round * 7000 + n) * 9973 + 4096)).collect();
        let body = words.join(" ");
        say(&app, &alice, json!({ "ticketId": own["id"], "body": body.chars().take(49_000).collect::<String>() }))
            .await;
    }
    assert_eq!(found(&app, &alice, json!({ "search": format!("{:x}", 4096) })).await, ["endless"]);
    app.done(&alice, "ticketUpdate", "ticket { id }", json!({ "id": own["id"], "subject": "endless still" })).await;
    assert_eq!(found(&app, &alice, json!({ "search": format!("still {:x}", 4096) })).await, ["endless still"]);
}

#[tokio::test]
async fn counts_are_those_of_the_lists() {
    let app = TestApp::start().await;
    let alice = app.token(ALICE, Some("acme-corp")).await;
    for n in 0..12 {
        let priority = ["LOW", "NORMAL", "HIGH", "URGENT"][n % 4];
        let own = ticket(
            &app,
            &alice,
            json!({ "subject": format!("counted {n}"), "priority": priority, "tags": [format!("t{}", n % 3)] }),
        )
        .await;
        if n % 2 == 0 {
            let status = ["OPEN", "RESOLVED", "ON_HOLD"][n / 2 % 3];
            app.done(&alice, "ticketUpdate", "ticket { id }", json!({ "id": own["id"], "status": status })).await;
        }
    }
    app.sql("update tenantry.tickets set resolution_due_at = now() - interval '1 hour' where subject in ('counted 1', 'counted 2', 'counted 3')").await;
    let counts = "query($where: TicketFilter) { organization { ticketCounts(where: $where) { total overdue unassigned byStatus { status count } byPriority { priority count } byAssignee { assignee { id } count } } } }";
    let now = Clock::System.now().to_rfc3339();
    for filter in [
        json!({}),
        json!({ "tags": { "hasAny": ["t0", "t1"] } }),
        json!({ "search": "counted" }),
        json!({ "priority": { "in": ["HIGH", "URGENT"] }, "status": { "ne": "CLOSED" } }),
    ] {
        let data = app.data(&alice, counts, json!({ "where": filter })).await;
        let counts = &data["organization"]["ticketCounts"];
        let with = |more: Value| found_count(&app, &alice, json!({ "and": [filter, more] }));
        assert_eq!(counts["total"], with(json!({})).await);
        assert_eq!(counts["overdue"], with(json!({ "nextDueAt": { "lt": now } })).await, "{filter}");
        assert_eq!(
            counts["unassigned"],
            with(json!({ "assigneeId": { "isNull": true }, "status": { "nin": ["RESOLVED", "CLOSED"] } })).await
        );
        assert_eq!(counts["byStatus"].as_array().expect("statuses").len(), 6);
        for of in counts["byStatus"].as_array().expect("statuses") {
            assert_eq!(of["count"], with(json!({ "status": { "eq": of["status"] } })).await, "{filter} {of}");
        }
        for of in counts["byPriority"].as_array().expect("priorities") {
            assert_eq!(of["count"], with(json!({ "priority": { "eq": of["priority"] } })).await, "{filter} {of}");
        }
        for of in counts["byAssignee"].as_array().expect("assignees") {
            assert_eq!(
                of["count"],
                with(json!({ "assigneeId": { "eq": of["assignee"]["id"] } })).await,
                "{filter} {of}"
            );
        }
    }
    let all = app.data(&alice, counts, json!({})).await["organization"]["ticketCounts"].clone();
    assert!(all["overdue"].as_i64() >= Some(3) && all["total"] == 15, "{all}");
    let (_, statements) = app.statements(app.data(&alice, counts, json!({}))).await;
    assert_eq!(statements.iter().filter(|sql| sql.contains("select grouping(")).count(), 1, "{statements:?}");
}

async fn found_count(app: &TestApp, token: &str, filter: Value) -> i64 {
    let document = "query($where: TicketFilter) { organization { tickets(where: $where, first: 0) { totalCount } } }";
    let data = app.data(token, document, json!({ "where": filter })).await;
    data["organization"]["tickets"]["totalCount"].as_i64().expect("a count")
}
