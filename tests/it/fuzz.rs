//! Anything at every door: documents, variables, ids, cursors, filters, tokens, webhooks and plan files that nobody would
//! write. Whatever is answered, nothing panics, no answer is a failure of the server, and no words of the engine or of the
//! database reach a client.
//!
//! Few cases run with the other tests; `PROPTEST_CASES=100000 cargo test --test it -- fuzz` runs as long as one likes. What
//! breaks something becomes a case of the tests beside the code.

use async_graphql::Variables;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tenantry::auth::api_key::ApiKeySecret;
use tenantry::clock::Clock;
use tenantry::http::graphql::{Documents, Limits};
use tenantry::id::{self, TicketId};
use tenantry::plans::Plans;
use tenantry::schema::Schemas;
use tenantry::webhook_events::WebhookSource;
use tenantry::webhooks::receive::head;
use tenantry::webhooks::signature::{sign, verify};

use crate::gates::inputs::{ENGINE_WORDS, Typed};
use crate::gates::validation::{Draw, cases};
use crate::support::{Setup, TestApp};
use crate::webhooks::{environment, path, secret};

fn config(few: u32) -> ProptestConfig {
    let cases = u32::try_from(cases(few.into())).unwrap_or(u32::MAX);
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

/// Values of a strategy, one after the other, where a test cannot be a closure.
fn drawn<S: Strategy>(strategy: &S, few: u64) -> impl Iterator<Item = S::Value> {
    let mut runner = TestRunner::new(config(1));
    (0..cases(few)).map(move |_| strategy.new_tree(&mut runner).expect("a value").current())
}

/// Any JSON.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "URGENT",
            "2027-01-01T00:00:00Z",
            "12.50",
            "EUR",
            "\0",
            "tic_",
            "tic_0199c0ffee0070008000000000000001"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        let key = prop_oneof![
            "[a-zA-Z_]{1,8}",
            prop::sample::select(vec![
                "subject",
                "tags",
                "priority",
                "and",
                "or",
                "not",
                "eq",
                "in",
                "status",
                "clientMutationId"
            ])
            .prop_map(str::to_owned),
            ".{0,4}"
        ];
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            btree_map(key, inner, 0..5).prop_map(|map| json!(map))
        ]
    })
}

/// Pieces of documents in any order.
fn soup() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "query",
        "mutation",
        "subscription",
        "fragment",
        "on",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "!",
        "$",
        "$a",
        ":",
        "=",
        "@",
        "|",
        "&",
        "...",
        "... on Ticket",
        "...F",
        "F",
        "organization",
        "tickets",
        "viewer",
        "__typename",
        "__schema",
        "id",
        "first: 1",
        "a",
        "\"",
        "\"\"\"",
        "\\u{1F600}",
        "\\uD83D",
        "\"\\u{41}\"",
        "\"\"\"\n  x\n \"\"\"",
        "#",
        "\n",
        "\r",
        ",",
        " ",
        "\u{feff}",
        "\t",
        "0",
        "-",
        "1.5e3",
        "00",
        "1e999",
        "true",
        "null",
        "ID!",
        "[Int!]",
        "@skip(if: $a)",
        "é",
        "\u{0}",
    ]);
    vec(prop_oneof![9 => pieces.prop_map(str::to_owned), 1 => ".{0,6}"], 0..60).prop_map(|pieces| pieces.join(" "))
}

fn documents() -> Documents {
    Documents::new(&Schemas::build().typed_sdl, Limits::default(), true)
}

/// Neither panics nor speaks with the engine's words.
fn prepare(documents: &Documents, text: &str, variables: &Value) {
    if let Err(failure) = documents.request(text, None, Variables::from_json(variables.clone())) {
        assert!(!failure.code().is_empty());
        assert!(failure.status().is_client_error(), "{text}: {:?}", failure.errors());
        for error in failure.errors() {
            for word in ENGINE_WORDS {
                // What the document says itself is repeated.
                assert!(!error.message.contains(word) || text.contains(word), "{text}: {}", error.message);
            }
        }
    }
}

#[test]
fn fuzz_documents_of_any_text() {
    let (documents, typed) = (documents(), Typed::read());
    let mut runner = TestRunner::new(config(1_500));
    let text = prop_oneof![
        4 => soup(),
        1 => vec(any::<u8>(), 0..200).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        1 => ".{0,60}",
        3 => any::<u64>().prop_map(move |seed| {
            let mut draw = Draw::new(&typed, seed);
            let text = draw.document();
            draw.broken(&text)
        }),
    ];
    let run = runner.run(&text, |text| {
        prepare(&documents, &text, &Value::Null);
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}

#[test]
fn fuzz_variables_of_any_json() {
    const TEXTS: [&str; 3] = [
        "mutation($v: TicketCreateInput!) { ticketCreate(input: $v) { __typename } }",
        "query($v: TicketFilter, $o: [TicketOrder!], $n: Int) { organization { tickets(where: $v, orderBy: $o, first: $n) { totalCount } } }",
        "query($v: [ID!]!) { nodes(ids: $v) { id } }",
    ];
    let documents = documents();
    let mut runner = TestRunner::new(config(600));
    let run = runner.run(&(0..TEXTS.len(), any_json(), any_json(), any_json()), |(which, v, o, n)| {
        prepare(&documents, TEXTS[which], &json!({ "v": v, "o": o, "n": n }));
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn fuzz_ids_and_keys_of_any_text(text in prop_oneof![".{0,80}", "[a-z]{0,4}_[0-9a-f]{30,34}", "tnt_[A-Za-z0-9_]{0,80}"]) {
        let parsed = TicketId::parse(&text);
        prop_assert_eq!(parsed.as_ref().is_ok(), id::check(&text, "Ticket").is_ok());
        if let Ok(ticket) = parsed {
            prop_assert_eq!(TicketId::parse(&ticket.to_string()), Ok(ticket));
        }
        if let Some(key) = ApiKeySecret::parse(&text) {
            prop_assert_eq!(key.text(), text.as_str());
        }
    }

    #[test]
    fn fuzz_plan_files_of_any_text(text in prop_oneof![
        ".{0,80}",
        "(\\[(FREE|PRO|ENTERPRISE|[a-z]{1,4})\\]\n(name|seats|prices|features|[a-z_]{1,12}) ?= ?(\"[a-z]{0,5}\"|-?[0-9]{0,20}|\\[\\]|\\{\\}|true|1979-05-27)\n){0,4}",
    ]) {
        if let Err(problems) = Plans::parse(&text) {
            prop_assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.is_empty()));
        }
    }

    #[test]
    fn fuzz_signatures_of_any_form(
        clerk in any::<bool>(),
        header in prop_oneof![".{0,60}", "(t=[0-9]{0,22},?|v[01]=[0-9a-f]{0,70},?| ){0,5}", "(v1,[A-Za-z0-9+/=]{0,50} ?){0,4}"],
        time in prop_oneof!["[0-9]{0,22}", ".{0,8}"],
        body in vec(any::<u8>(), 0..60),
        flipped in any::<prop::sample::Index>(),
    ) {
        let source = if clerk { WebhookSource::Clerk } else { WebhookSource::Stripe };
        let now = Clock::System.now();
        let names = if clerk { ["svix-id", "svix-timestamp", "svix-signature"] } else { ["stripe-signature", "x-1", "x-2"] };
        let values = if clerk { ["msg_1", time.as_str(), header.as_str()] } else { [header.as_str(), "", ""] };
        let all = names.iter().zip(values).filter_map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?)));
        let headers: HeaderMap = all.collect();
        prop_assert!(verify(source, &headers, &body, &[secret(source, "new")], now).is_err());
        // And one that is right, of which one character is changed.
        let mut signed = sign(source, &secret(source, "new"), "msg_1", now, &body);
        let headers = |signed: &[(&'static str, String)]| -> HeaderMap {
            signed.iter().filter_map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?))).collect()
        };
        prop_assert!(verify(source, &headers(&signed), &body, &[secret(source, "new")], now).is_ok());
        let last = signed.last_mut().expect("the signature");
        let (length, at) = (last.1.len(), flipped.index(last.1.len()));
        let changed = if last.1.as_bytes()[at] == b'0' { "1" } else { "0" };
        last.1.replace_range(at..=at, changed);
        if let Ok(verified) = verify(source, &headers(&signed), &body, &[secret(source, "new")], now) {
            // Base64 has bits at its end that mean nothing.
            prop_assert!(clerk && at + 3 >= length, "{verified:?}");
        }
    }

    #[test]
    fn fuzz_heads_of_events_of_any_json(clerk in any::<bool>(), body in any_json(), inner in any_json(), time in any::<i64>()) {
        let source = if clerk { WebhookSource::Clerk } else { WebhookSource::Stripe };
        let _ = head(source, &body);
        let read = head(source, &json!({ "type": "x", "data": inner, "created": time, "timestamp": time }));
        prop_assert!(read.is_some());
    }
}

/// Cursors, filters, orders, credentials and deliveries, over HTTP against the database.
#[tokio::test]
async fn fuzz_requests_break_nothing() {
    let app = TestApp::start_with(Setup { environment: environment(), ..Setup::default() }).await;
    let token = app.token("alice@example.com", Some("acme-corp")).await;
    let list = "query($w: TicketFilter, $o: [TicketOrder!], $a: String, $b: String, $n: Int, $l: Int) { organization { tickets(where: $w, orderBy: $o, after: $a, before: $b, first: $n, last: $l) { nodes { id } pageInfo { endCursor } } } }";
    let first = app.data(&token, list, json!({ "n": 2 })).await;
    let cursor = first["organization"]["tickets"]["pageInfo"]["endCursor"].as_str().expect("a cursor").to_owned();
    let filter = (any_filter(), any_filter(), any_json());
    let cursors = prop_oneof![
        any::<prop::sample::Index>().prop_map(move |at| {
            let mut changed = cursor.clone();
            let at = at.index(changed.len());
            changed.replace_range(at..=at, "A");
            changed
        }),
        "[A-Za-z0-9_-]{0,60}",
        ".{0,20}",
    ];
    for ((one, other, junk), cursor, size) in drawn(&(filter, cursors, any::<i32>()), 60) {
        for variables in [
            json!({ "w": { "and": [one, { "not": other }] }, "n": 1 }),
            json!({ "w": one, "o": [{ "field": "PRIORITY", "direction": "DESC" }], "a": cursor, "n": size }),
            json!({ "w": other, "b": cursor, "l": size }),
            json!({ "w": junk, "o": junk }),
        ] {
            answered(
                &app,
                app.client()
                    .post(url(&app))
                    .bearer_auth(&token)
                    .json(&json!({ "query": list, "variables": variables })),
            )
            .await;
        }
    }
    let tokens =
        prop_oneof!["[A-Za-z0-9_-]{0,20}(\\.[A-Za-z0-9_-]{0,40}){0,4}", "tnt_[A-Za-z0-9_]{0,60}", "[ -~]{0,40}"];
    let (start, payload) = token.split_once('.').expect("a token");
    for (text, organization, header) in drawn(&(tokens, "[ -~]{0,40}", any_json()), 60) {
        let forged = format!("{}.{payload}", base64(&header.to_string()));
        for bearer in
            [text.clone(), forged, format!("{start}.{text}"), token[..token.len() - 1 - text.len() % 40].to_owned()]
        {
            let request = app.client().post(url(&app)).header("authorization", format!("Bearer {bearer}"));
            let request = request.header("x-organization-id", &organization);
            let status = answered(&app, request.json(&json!({ "query": "{ viewer { role } }" }))).await;
            assert!(matches!(status, 401 | 400 | 403), "{bearer}: {status}");
        }
    }
    for (clerk, event, data, raw) in drawn(&(any::<bool>(), "[a-z.]{0,30}", any_json(), vec(any::<u8>(), 0..80)), 40) {
        let source = if clerk { WebhookSource::Clerk } else { WebhookSource::Stripe };
        let known = if clerk { "user.updated" } else { "customer.subscription.updated" };
        for body in [
            raw.clone(),
            json!({ "type": event, "data": data, "id": "evt_1" }).to_string().into_bytes(),
            json!({ "type": known, "data": { "object": data, "id": data }, "id": "evt_2", "object": "event" })
                .to_string()
                .into_bytes(),
        ] {
            let request = crate::webhooks::signed(
                &app.base_url(),
                source,
                "msg_1",
                body.clone(),
                &secret(source, "new"),
                &app.clock,
            );
            answered(&app, request).await;
            answered(&app, app.client().post(format!("{}{}", app.base_url(), path(source))).body(body)).await;
        }
    }
}

fn url(app: &TestApp) -> String {
    format!("{}/graphql", app.base_url())
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

/// Sends a request; the answer is anything but a failure.
async fn answered(app: &TestApp, request: reqwest::RequestBuilder) -> u16 {
    let shown = format!("{request:?}");
    let request = request.build().expect("a request");
    let body = request.body().and_then(|body| body.as_bytes()).map(|body| String::from_utf8_lossy(body).into_owned());
    let response = app.client().execute(request).await.expect("a response");
    let status = response.status().as_u16();
    let text = response.text().await.expect("text");
    assert!(status < 500 && !text.contains("\"INTERNAL\""), "{status} {shown} {body:?}: {text}");
    for word in ENGINE_WORDS.iter().chain(&["SQLSTATE", "syntax error at", "operator does not exist"]) {
        assert!(!text.contains(word) || body.as_ref().is_some_and(|body| body.contains(word)), "{body:?}: {text}");
    }
    status
}

/// Conditions on tickets as the schema has them, with any values.
fn any_filter() -> impl Strategy<Value = Value> {
    let text = || prop_oneof![".{0,8}", "[a-z%_\\\\']{0,6}"].prop_map(Value::from);
    let id = prop_oneof![
        Just(json!("tic_0199c0ffee0070008000000000000001")),
        Just(json!("usr_0199c0ffee0070008000000000000001")),
        Just(json!("x"))
    ];
    let time = prop_oneof![
        Just(json!("2027-01-01T00:00:00Z")),
        Just(json!("-262000-01-01T00:00:00Z")),
        Just(json!("+262000-01-01T00:00:00Z"))
    ];
    let number = any::<i32>().prop_map(Value::from);
    let condition = |name: &'static str, others: &[&'static str], values: BoxedStrategy<Value>| {
        let operator = prop::sample::select([&["eq", "ne", "in", "nin"][..], others].concat());
        (operator, vec(values, 0..4), any::<bool>()).prop_map(move |(operator, values, is_null)| {
            let value = match operator {
                "in" | "nin" => json!(values),
                _ => values.first().cloned().unwrap_or(Value::Null),
            };
            json!({ name: { operator: value, "isNull": is_null } })
        })
    };
    let leaf = prop_oneof![
        condition("subject", &["contains"], text().boxed()),
        condition("assigneeId", &[], id.boxed()),
        condition("createdAt", &["lt", "lte", "gt", "gte"], time.boxed()),
        condition("number", &["lt", "lte", "gt", "gte"], number.boxed()),
        condition("status", &[], prop::sample::select(vec![json!("OPEN"), json!("CLOSED"), json!("NOPE")]).boxed()),
        condition("priority", &[], prop::sample::select(vec![json!("LOW"), json!("URGENT")]).boxed()),
        text().prop_map(|text| json!({ "search": text })),
        Just(json!({})),
        Just(Value::Null),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|all| json!({ "and": all })),
            vec(inner.clone(), 0..4).prop_map(|all| json!({ "or": all })),
            inner.prop_map(|one| json!({ "not": one })),
        ]
    })
}
