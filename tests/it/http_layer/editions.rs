//! What differs between editions of GraphQL over HTTP: the draft's statuses, the method QUERY, incremental delivery.

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::{Client, JSON, RESPONSE, Reply, VIEWER};

const DRAFT: &str = "application/graphql-response+json;status=draft";

fn query_method() -> Method {
    Method::from_bytes(b"QUERY").expect("a method")
}

/// The draft of August 2026, section "Status Codes" with its examples, beside what the released audits want.
#[tokio::test]
async fn http_statuses_of_the_draft_are_given_to_who_asks() {
    let client = Client::start().await;
    let everybody = Client::start_with(&[("GRAPHQL_OVER_HTTP", "draft")]).await;
    let variables = r#"{"query":"query Q($id: ID!) { node(id: $id) { id } }","variables":{"id":{}}}"#;
    let shape = r#"{"query":"query Q($id: ID!) { node(id: $id) { id } }","variables":[7]}"#;
    let deep = format!(r#"{{"query":"{{ viewer {{ {} }} }}"}}"#, "role ".repeat(2_001));
    // The body, the status by default, the draft's.
    for (body, released, draft) in [
        ("NONSENSE", 400, 400),
        (r#"{"query":"#, 400, 400),
        (r#"{"qeury": "{__typename}"}"#, 400, 422),
        (r#"[{"query": "{__typename}"}]"#, 400, 422),
        ("7", 400, 422),
        (shape, 400, 422),
        (r#"{"query": "{"}"#, 400, 400),
        (r#"{"query": "{ nope }"}"#, 400, 422),
        (r#"{"query": "query A { __typename } query B { __typename }"}"#, 400, 422),
        (r#"{"query": "query A { __typename }", "operationName": "B"}"#, 400, 422),
        (variables, 400, 422),
        (deep.as_str(), 400, 422),
        (r#"{"query": "{ viewer { role } }"}"#, 401, 401),
        (r#"{"query": "{ __typename }"}"#, 200, 200),
    ] {
        let ask = |of: &Client, accept: &'static str| {
            let request = of.request(Method::POST, "/graphql").header(CONTENT_TYPE, JSON).header(ACCEPT, accept);
            Reply::of(request.body(body.to_owned()))
        };
        assert_eq!(ask(&client, RESPONSE).await.status, released, "{body}");
        let reply = ask(&client, DRAFT).await;
        assert_eq!(reply.status, draft, "{body}: {}", reply.text);
        assert_eq!(reply.header("content-type"), "application/graphql-response+json; charset=utf-8");
        assert_eq!(ask(&everybody, RESPONSE).await.status, draft, "{body}");
        // What the draft recommends for clients from before its media type.
        let legacy = ask(&everybody, JSON).await;
        assert_eq!(legacy.status, draft, "{body}");
        let media = if draft == 200 { "application/json; charset=utf-8" } else { RESPONSE };
        assert!(legacy.header("content-type").starts_with(media), "{body}: {}", legacy.header("content-type"));
    }
    // Errors beside `data`, which is null here: nobody named an organization.
    let token = client.app.token("alice@example.com", None).await;
    let elsewhere = everybody.app.token("alice@example.com", None).await;
    for (of, token, accept, status) in [
        (&client, &token, RESPONSE, 200),
        (&client, &token, DRAFT, 294),
        (&everybody, &elsewhere, RESPONSE, 294),
        (&everybody, &elsewhere, JSON, 200),
    ] {
        let request = of.request(Method::POST, "/graphql").header(CONTENT_TYPE, JSON).header(ACCEPT, accept);
        let reply = Reply::of(request.bearer_auth(token).body(r#"{"query":"{ organization { id } }"}"#)).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, "ORGANIZATION_REQUIRED"), "{accept}");
        assert!(reply.json().get("data").is_some(), "{}", reply.text);
    }
}

#[tokio::test]
async fn http_query_is_safe_as_get_and_has_a_body_as_post() {
    let client = Client::start_with(&[("CORS_ORIGINS", "https://app.example.com")]).await;
    let query = |body: &str| client.request(query_method(), "/graphql").header(ACCEPT, RESPONSE).body(body.to_owned());
    let typed = |body: &str| query(body).header(CONTENT_TYPE, JSON);
    let viewer = json!({ "query": VIEWER }).to_string();
    let reply = Reply::of(typed(&viewer).bearer_auth(&client.token)).await;
    assert_eq!(reply.data()["viewer"]["user"]["email"], "alice@example.com");
    Reply::of(typed(&viewer)).await.refused(401, "UNAUTHENTICATED");

    let count = async || client.query("{ organization { tickets(first: 1) { totalCount } } }").await.data();
    let before = count().await;
    let create = r#"mutation { ticketCreate(input: {subject: "by QUERY"}) { __typename } }"#;
    let mutation = json!({ "query": create }).to_string();
    for request in [typed(&mutation).bearer_auth(&client.token), typed(&mutation)] {
        let reply = Reply::of(request).await;
        reply.refused(405, "METHOD_NOT_ALLOWED");
        assert_eq!((reply.header("allow"), reply.header("accept-query")), ("POST", JSON));
    }
    let reply = Reply::of(
        client.request(query_method(), "/graphql").header(ACCEPT, DRAFT).header(CONTENT_TYPE, JSON).body(mutation),
    );
    reply.await.refused(422, "METHOD_NOT_ALLOWED");
    assert_eq!(count().await, before, "a mutation was executed");

    // What a form of another site could send is refused, and its method is asked for first.
    let forms: [fn(RequestBuilder) -> RequestBuilder; 3] = [
        |request| request,
        |request| request.header(CONTENT_TYPE, "text/plain"),
        |request| request.header(CONTENT_TYPE, "application/x-www-form-urlencoded"),
    ];
    for form in forms {
        let reply = Reply::of(form(query(&viewer))).await;
        reply.refused(415, "UNSUPPORTED_MEDIA_TYPE");
        assert_eq!(reply.header("accept-query"), JSON);
    }
    Reply::of(typed("{")).await.refused(400, "BAD_REQUEST");
    let large = format!(r#"{{"query":"{{__typename}}","x":"{}"}}"#, "x".repeat(1024 * 1024));
    Reply::of(typed(&large)).await.refused(413, "BODY_TOO_LARGE");
    let options = Reply::of(client.request(Method::OPTIONS, "/graphql")).await;
    assert_eq!((options.status, options.text.as_str()), (204, ""));
    assert_eq!((options.header("allow"), options.header("accept-query")), ("GET, POST, QUERY, OPTIONS", JSON));
    let preflight = client.request(Method::OPTIONS, "/graphql").header("origin", "https://app.example.com");
    let preflight = Reply::of(preflight.header("access-control-request-method", "QUERY")).await;
    assert_eq!(preflight.status, 204);
    assert!(preflight.header("access-control-allow-methods").contains("QUERY"));
    let evil = client.request(Method::OPTIONS, "/graphql").header("origin", "https://evil.example");
    let evil = Reply::of(evil.header("access-control-request-method", "QUERY")).await;
    assert_eq!(evil.header("access-control-allow-methods"), "");
}

/// Incremental delivery is not offered, so nobody waits for parts that do not come.
#[tokio::test]
async fn http_incremental_delivery_is_refused() {
    let client = Client::start().await;
    for document in [
        "{ viewer { role } ... @defer { viewer { permissions } } }",
        "{ nodes(ids: []) @stream(initialCount: 1) { id } }",
    ] {
        let reply = client.query(document).await;
        reply.refused(400, "GRAPHQL_VALIDATION_FAILED");
        assert!(reply.text.contains("defer") || reply.text.contains("stream"), "{}", reply.text);
    }
    for accept in ["multipart/mixed", "multipart/mixed;incrementalSpec=v0.2", "multipart/mixed; deferSpec=20220824"] {
        let request = client.request(Method::POST, "/graphql").header(CONTENT_TYPE, JSON).header(ACCEPT, accept);
        Reply::of(request.body(r#"{"query":"{__typename}"}"#)).await.refused(406, "NOT_ACCEPTABLE");
    }
    // As Apollo's client for Android asks: it takes an answer in one piece as well.
    let accept = "multipart/mixed;deferSpec=20220824, application/graphql-response+json, application/json";
    let request = client.request(Method::POST, "/graphql").header(CONTENT_TYPE, JSON).header(ACCEPT, accept);
    let reply = Reply::of(request.body(r#"{"query":"{__typename}"}"#)).await;
    assert_eq!(reply.data(), json!({ "__typename": "Query" }));
}
