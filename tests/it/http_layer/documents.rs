//! What is checked before execution: limits, the schema, the choice of the operation, variables.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::{Client, Reply};
use crate::support::{Setup, TestApp};

#[tokio::test]
async fn documents_with_nul_characters_are_refused() {
    let client = Client::start().await;
    client.query("{ viewer\0 { role } }").await.refused(400, "GRAPHQL_PARSE_FAILED");
    client.query("{ node(id: \"a\0\") { __typename } }").await.refused(400, "GRAPHQL_PARSE_FAILED");
    // As an escape it is well-formed: the check of values refuses it.
    client.query(r#"{ node(id: "a\u0000") { __typename } }"#).await.refused(400, "INVALID_ARGUMENT");
    let query = "query($id: ID!) { node(id: $id) { __typename } }";
    let reply = client.run(&json!({ "query": query, "variables": { "id": "a\0" } })).await;
    reply.refused(400, "INVALID_VARIABLE");
    let query = "mutation($input: TicketCreateInput!) { ticketCreate(input: $input) { __typename } }";
    let input = json!({ "subject": "x", "tags": ["fine", "not\0fine"] });
    let reply = client.run(&json!({ "query": query, "variables": { "input": input } })).await;
    reply.refused(400, "INVALID_VARIABLE");
    assert!(reply.text.contains("$input.tags[1]"), "{}", reply.text);
}

#[tokio::test]
async fn documents_that_explode_are_refused_quickly() {
    let client = Client::start().await;
    client.query("{ __typename }").await.data();
    let doubling = |times| {
        let fragments = (0..times).fold(String::new(), |all, i| {
            let next = i + 1;
            format!("{all} fragment f{i} on Query {{ ...f{next} ...f{next} }}")
        });
        format!("{{ ...f0 }} {fragments} fragment f{times} on Query {{ __typename }}")
    };
    let cyclic = "{ ...a } fragment a on Query { ...b } fragment b on Query { __typename ...a }";
    let unused_cycle = "{ __typename } fragment a on Query { ...b } fragment b on Query { __typename ...a }";
    let chain = (0..1_000).fold(String::new(), |all, i| format!("{all} fragment f{i} on Query {{ ...f{} }}", i + 1));
    let chain = format!("{{ ...f0 }} {chain} fragment f1000 on Query {{ __typename }}");
    let started = Instant::now();
    for (what, query, code) in [
        ("doubling fragments", doubling(30), &["QUERY_TOO_DEEP", "QUERY_TOO_MANY_FIELDS"][..]),
        ("doubling fragments, fewer", doubling(20), &["QUERY_TOO_MANY_FIELDS"]),
        ("cyclic fragments", cyclic.to_owned(), &["GRAPHQL_VALIDATION_FAILED"]),
        ("cyclic fragments, not used", unused_cycle.to_owned(), &["GRAPHQL_VALIDATION_FAILED"]),
        ("a chain of fragments", chain, &["QUERY_TOO_DEEP"]),
        ("brackets {", "{a".repeat(50_000), &["QUERY_TOO_DEEP"]),
        ("brackets [", format!("{{a(b:{}", "[".repeat(100_000)), &["QUERY_TOO_DEEP"]),
        ("brackets (", "(".repeat(100_000), &["QUERY_TOO_DEEP"]),
        ("brackets in a type", format!("query($a: {}", "[".repeat(100_000)), &["QUERY_TOO_DEEP"]),
        ("tokens", format!("{{ {} }}", "__typename ".repeat(10_001)), &["QUERY_TOO_MANY_TOKENS"]),
        ("fields", format!("{{ {} }}", "__typename ".repeat(2_001)), &["QUERY_TOO_MANY_FIELDS"]),
        ("root fields", format!("{{ {} }}", "__typename ".repeat(21)), &["QUERY_TOO_MANY_ROOT_FIELDS"]),
        (
            "aliases",
            format!("{{ viewer {{ {} }} }}", (0..51).fold(String::new(), |all, i| format!("{all} a{i}: role"))),
            &["QUERY_TOO_MANY_ALIASES"],
        ),
        (
            "directives",
            format!("{{ viewer {{ {} }} }}", "role @include(if: true) ".repeat(51)),
            &["QUERY_TOO_MANY_DIRECTIVES"],
        ),
        (
            "depth",
            format!("{{ organization {} }}", deep("{ tickets(first: 1) { nodes ", "{ id }", 9)),
            &["QUERY_TOO_DEEP"],
        ),
        (
            "depth of inline fragments",
            format!("{{ viewer {} }}", deep("{ ... ", "{ role }", 31)),
            &["QUERY_TOO_DEEP"],
        ),
        (
            "introspection",
            format!("{{ __schema {{ types {} }} }}", deep("{ fields { type ", "{ name }", 3)),
            &["QUERY_TOO_DEEP"],
        ),
        (
            "pages in pages",
            "{ organization { tickets(first: 100) { nodes { messages(first: 100) { nodes { ticket { messages(first: 100) { nodes { id } } } } } } } } }".to_owned(),
            // The scratch schema has no messages; the real one has.
            &["QUERY_TOO_COMPLEX", "GRAPHQL_VALIDATION_FAILED"],
        ),
        ("a page without end", "{ organization { tickets(first: 100001) { nodes { id } } } }".to_owned(), &["QUERY_TOO_COMPLEX"]),
    ] {
        let reply = client.query(&query).await;
        let found = reply.code();
        assert!(code.contains(&found.as_str()), "{what}: {}", reply.text);
        assert_eq!(reply.status, 400, "{what}");
        assert!(reply.json().get("data").is_none(), "{what}");
    }
    // Each took minutes before it was refused by counting; a minute for all leaves room for the slowest machine.
    assert!(started.elapsed() < Duration::from_mins(1), "{:?}", started.elapsed());
}

/// What other servers took seconds for, or ended with: RUSTSEC-2026-0416 and -0417 (juniper), GHSA-fc86-6rv6-2jpm
/// (graphql-php), GHSA-9mhv-8h52-q7q2 (Absinthe), CVE-2023-26144 (graphql-js), GHSA-mfj6-6p54-m98c (Parse Server).
#[tokio::test]
async fn documents_of_advisories_are_refused_or_answered_at_once() {
    let client = Client::start().await;
    client.query("{ __typename }").await.data();
    let many = |times: usize, of: &dyn Fn(usize) -> String| (0..times).map(of).collect::<String>();
    let spreading = |depth: usize| {
        let next = many(depth, &|i| format!("fragment f{i} on User {{ ...f{} id ...f{} }} ", i + 1, i + 1));
        format!("{{ viewer {{ user {{ ...f0 }} }} }} {next} fragment f{depth} on User {{ id }}")
    };
    let cycle = many(1_200, &|i| format!("fragment f{i} on Query {{ ...f{} }} ", (i + 1) % 1_200));
    let conflicts = many(900, &|i| format!("x: {} ", if i % 2 == 0 { "id" } else { "email" }));
    for (what, query, code) in [
        (
            "values inside each other",
            format!("{{ node(id: {}1{}) {{ id }} }}", "[".repeat(4_000), "]".repeat(4_000)),
            Some("QUERY_TOO_DEEP"),
        ),
        (
            "objects inside each other",
            format!("{{ node(id: {}1{}) {{ id }} }}", "{a:".repeat(3_000), "}".repeat(3_000)),
            Some("QUERY_TOO_DEEP"),
        ),
        (
            "types inside each other",
            format!("query($a: {}Int{}) {{ __typename }}", "[".repeat(4_000), "]".repeat(4_000)),
            Some("QUERY_TOO_DEEP"),
        ),
        ("a circle of fragments", format!("{{ ...f0 }} {cycle}"), Some("QUERY_TOO_DEEP")),
        ("fragments that spread the next twice", spreading(20), Some("QUERY_TOO_MANY_FIELDS")),
        ("few of them", spreading(8), None),
        ("one field many times", format!("{{ viewer {{ user {{ {} }} }} }}", "id ".repeat(1_990)), None),
        (
            "one field many times, at the root",
            "{ __typename ".to_owned() + &"__typename ".repeat(8_000) + "}",
            Some("QUERY_TOO_MANY_FIELDS"),
        ),
        (
            "one name for two fields",
            format!("{{ viewer {{ user {{ {conflicts} }} }} }}"),
            Some("QUERY_TOO_MANY_ALIASES"),
        ),
        (
            "fragments without names in each other",
            format!("{{ viewer {{ {} }} }}", format!("... {{ user {{ {} }} }} ", "... { id } ".repeat(30)).repeat(30)),
            None,
        ),
        (
            "many fragments",
            many(1_400, &|i| format!("fragment f{i} on User {{ id }} ")) + "{ __typename }",
            Some("GRAPHQL_VALIDATION_FAILED"),
        ),
        ("many operations", many(1_900, &|i| format!("query q{i} {{ __typename }} ")), Some("OPERATION_NAME_REQUIRED")),
        (
            "many arguments",
            format!("{{ organization {{ tickets({}) {{ totalCount }} }} }}", many(3_000, &|i| format!("a{i}: 1 "))),
            Some("GRAPHQL_VALIDATION_FAILED"),
        ),
        (
            "many variables",
            format!(
                "query({}) {{ nodes(ids: [{}]) {{ id }} }}",
                many(1_400, &|i| format!("$v{i}: ID! ")),
                many(1_400, &|i| format!("$v{i} "))
            ),
            Some("INVALID_VARIABLE"),
        ),
        (
            "tokens up to the limit",
            format!("{{ viewer {{ user {{ id @include(if: true) }} }} }} {}", ",".repeat(100_000)),
            None,
        ),
        ("a description as long as may be", format!("\"{}\" query {{ __typename }}", "é".repeat(60_000)), None),
        (
            "escapes",
            format!(
                "{{ organization {{ tickets(where: {{ subject: {{ eq: \"{}\" }} }}) {{ totalCount }} }} }}",
                "\\u{1F600}".repeat(12_000)
            ),
            None,
        ),
    ] {
        let started = Instant::now();
        let reply = client.query(&query).await;
        let took = started.elapsed();
        println!("{what}: {} bytes, {took:?}", query.len());
        match code {
            Some(code) => reply.refused(400, code),
            None => drop(reply.data()),
        }
        // Thirty times what it takes without optimization.
        assert!(took < Duration::from_secs(10), "{what}: {took:?}");
    }
}

fn deep(open: &str, inner: &str, times: usize) -> String {
    format!("{}{inner}{}", open.repeat(times), "}".repeat(open.matches('{').count() * times))
}

#[tokio::test]
async fn page_sizes_from_variables_count() {
    let client = Client::start().await;
    let query = "query($first: Int) { organization { tickets(first: $first) { nodes { id } } } }";
    let client = &client;
    let with = async |first: Value| client.run(&json!({ "query": query, "variables": { "first": first } })).await;
    with(json!(2)).await.data();
    with(json!(100_001)).await.refused(400, "QUERY_TOO_COMPLEX");
    // Below zero is not for this layer to judge, but it must not break its arithmetic.
    let reply = with(json!(-1)).await;
    assert_ne!(reply.json()["errors"][0]["extensions"]["code"], "QUERY_TOO_COMPLEX");
    with(json!(i64::MAX)).await.refused(400, "INVALID_VARIABLE");
}

#[tokio::test]
async fn introspection_passes_and_can_be_switched_off() {
    let client = Client::start().await;
    let introspection = include_str!("../audits/introspection.graphql");
    let reply = Reply::of(client.post(json!({ "query": introspection }).to_string())).await;
    assert!(reply.data()["__schema"]["types"].as_array().expect("types").len() > 10);
    let sdl = Reply::of(client.request(Method::GET, "/graphql/schema.graphql")).await;
    assert!(sdl.status == 200 && sdl.text.contains("type Query"), "{}", sdl.text);
    let again = client.request(Method::GET, "/graphql/schema.graphql").header("if-none-match", sdl.header("etag"));
    assert_eq!(Reply::of(again).await.status, 304);

    let setup = Setup { environment: vec![("INTROSPECTION", "off".to_owned())], ..Setup::default() };
    let app = TestApp::start_with(setup).await;
    let token = app.token("alice@example.com", Some("acme-corp")).await;
    let closed = Client { app, token };
    closed.query(introspection).await.refused(400, "INTROSPECTION_DISABLED");
    closed
        .query("{ ...f } fragment f on Query { x: __type(name: \"Query\") { name } }")
        .await
        .refused(400, "INTROSPECTION_DISABLED");
    assert_eq!(closed.query("{ __typename viewer { __typename } }").await.data()["__typename"], "Query");
    Reply::of(closed.request(Method::GET, "/graphql/schema.graphql")).await.refused(404, "NOT_FOUND");
    let typo = closed.query("{ vieweer { role } }").await;
    typo.refused(400, "GRAPHQL_VALIDATION_FAILED");
    assert!(!typo.text.contains("Did you mean"), "{}", typo.text);
}

#[tokio::test]
async fn documents_that_do_not_fit_the_schema_are_refused() {
    let client = Client::start().await;
    for query in [
        "{ nope }",
        "{ viewer }",
        "{ viewer { role { deeper } } }",
        "{ __typename @nope }",
        "{ viewer @skip { role } }",
        "{ __typename @skip }",
        "{ __typename @skip(if: 7) }",
        "query @nope { __typename }",
        "{ __typename(x: 1) }",
        "{ __typename { deeper } }",
        "{ ...nope }",
        "query($x: Nope) { __typename }",
        "query($x: [Nope!] = [1]) { __typename }",
        "query($x: Query) { __typename }",
        "query($x: Int) { __typename }",
        "{ organization { tickets(first: \"five\") { nodes { id } } } }",
        "{ organization { tickets(orderBy: [{ field: NOPE, direction: DESC }]) { nodes { id } } } }",
        "mutation($subject: String!) { ticketCreate(input: { subject: $subject, priority: URGENTT }) { __typename } }",
        "mutation($subject: String!) { ticketCreate(input: { subject: $subject, subjekt: \"x\" }) { __typename } }",
        "subscription { a: ticketChanged { __typename } b: ticketChanged { __typename } }",
        "{ viewer { role } } fragment unused on Query { __typename }",
        "query A { __typename } query A { __typename }",
        "query A { __typename } { __typename }",
        "type A { b: Int }",
    ] {
        // Twice: what was refused is not remembered as good.
        for _ in 0..2 {
            let reply = client.query(query).await;
            let code = reply.code();
            assert!(
                ["GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED", "INVALID_ARGUMENT"].contains(&code.as_str()),
                "{query}: {}",
                reply.text
            );
            assert_eq!(reply.status, 400, "{query}");
        }
    }
    let reply = client.query("{ viewer {\n  role ] }").await;
    reply.refused(400, "GRAPHQL_PARSE_FAILED");
    assert_eq!(reply.json()["errors"][0]["locations"][0], json!({ "line": 2, "column": 8 }));
    let many = format!("{{ viewer {{ {} }} }}", (0..1_000).fold(String::new(), |all, i| format!("{all} nope{i}")));
    assert_eq!(client.query(&many).await.json()["errors"].as_array().map(Vec::len), Some(20));
}

#[tokio::test]
async fn operations_are_chosen_by_name() {
    let client = Client::start().await;
    let two = "query A { a: __typename } query B { b: __typename }";
    client.query(two).await.refused(400, "OPERATION_NAME_REQUIRED");
    client.run(&json!({ "query": two, "operationName": "C" })).await.refused(400, "OPERATION_NOT_FOUND");
    client.run(&json!({ "query": "{ __typename }", "operationName": "C" })).await.refused(400, "OPERATION_NOT_FOUND");
    assert_eq!(client.run(&json!({ "query": two, "operationName": "B" })).await.data(), json!({ "b": "Query" }));
}

#[tokio::test]
async fn variables_are_checked_every_time() {
    let client = Client::start().await;
    let query = "mutation($input: TicketCreateInput!) { ticketCreate(input: $input) { __typename } }";
    for _ in 0..2 {
        for (variables, told) in [
            (json!({}), "$input"),
            (json!({ "input": null }), "$input"),
            (json!({ "input": "x" }), "$input"),
            (json!({ "input": {} }), "$input.subject"),
            (json!({ "input": { "subject": null } }), "$input.subject"),
            (json!({ "input": { "subject": 7 } }), "$input.subject"),
            (json!({ "input": { "subject": "x", "nope": 1 } }), "$input.nope"),
            (json!({ "input": { "subject": "x", "tags": ["a", 1] } }), "$input.tags[1]"),
            (
                json!({ "input": { "subject": "x", "priority": "URGENTT" } }),
                r#"$input.priority: \"URGENTT\" is not a TicketPriority; it takes "#,
            ),
        ] {
            let reply = client.run(&json!({ "query": query, "variables": variables })).await;
            reply.refused(400, "INVALID_VARIABLE");
            assert!(reply.text.contains(told), "{variables}: {}", reply.text);
        }
    }
    let query = "query($first: Int!) { organization { tickets(first: $first) { nodes { id } } } }";
    for first in [json!("5"), json!(1.5), json!(true), json!([1]), json!({}), json!(null), json!(5_000_000_000_i64)] {
        let reply = client.run(&json!({ "query": query, "variables": { "first": first } })).await;
        reply.refused(400, "INVALID_VARIABLE");
    }
    client.run(&json!({ "query": query, "variables": { "first": 1, "undeclared": 2 } })).await.data();
    let query = "query($id: ID!, $ids: [ID!]!) { node(id: $id) { id } nodes(ids: $ids) { id } }";
    let reply = client.run(&json!({ "query": query, "variables": { "id": 4, "ids": 5 } })).await;
    // Whole numbers are ids; only none of this server's.
    assert_eq!((reply.status, reply.code().as_str()), (200, "INVALID_ARGUMENT"), "{}", reply.text);
    let query = "query($w: TicketFilter) { organization { tickets(where: $w) { totalCount } } }";
    let reply = client.run(&json!({ "query": query, "variables": { "w": { "assigneeId": { "eq": "x" } } } })).await;
    assert_eq!(reply.json()["errors"][0]["extensions"]["field"], "where.assigneeId", "{}", reply.text);
}

/// GraphQL, edition of September 2025: descriptions in documents, `\u{…}`, block strings; errors stand where the caller wrote.
#[tokio::test]
async fn documents_of_the_newest_edition_are_executed() {
    let client = Client::start().await;
    let document = "\"\"\"\nWhat it is for:\n{ a list }\n\"\"\"\nquery Tickets(\n  \"How many.\" $first: Int = 1\n) { organization { tickets(first: $first) { nodes { ...F } } } }\n\n\"What is shown.\"\nfragment F on Ticket { id }";
    let data = client.query(document).await.data();
    assert_eq!(data["organization"]["tickets"]["nodes"].as_array().map(Vec::len), Some(1));
    let create = "mutation { ticketCreate(input: { subject: \"a\\u{1F600}\\uD83D\\uDE00\", description: \"\"\"\n    b \\\"\"\"\n      c\n  \"\"\" }) { ticket { subject description } userErrors { message } } }";
    let data = client.query(create).await.data();
    assert_eq!(data["ticketCreate"]["ticket"], json!({ "subject": "a😀😀", "description": "b \"\"\"\n  c" }));
    let wrong = document.replace("{ id }", "{ id nope }");
    let reply = client.query(&wrong).await;
    reply.refused(400, "GRAPHQL_VALIDATION_FAILED");
    let error = reply.json()["errors"][0].clone();
    assert!(
        error["message"].as_str().is_some_and(|told| told.starts_with("There is no field Ticket.nope.")),
        "{error}"
    );
    assert_eq!(error["locations"], json!([{ "line": 10, "column": 27 }]));
    assert_eq!(error["extensions"]["rule"], "FieldsOnCorrectType");
    client.query("{ node(id: \"\\uD83D\") { id } }").await.refused(400, "GRAPHQL_PARSE_FAILED");
    let one_of = "{ one: __type(name: \"DecisionRuleTestRequestsInput\") { isOneOf } none: __type(name: \"TicketCreateInput\") { isOneOf } }";
    assert_eq!(client.query(one_of).await.data(), json!({ "one": { "isOneOf": true }, "none": { "isOneOf": false } }));
}
