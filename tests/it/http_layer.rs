//! GraphQL over HTTP, its limits and its errors, against a running server.

mod documents;
mod editions;
mod persisted;

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tenantry::clock::Clock;

use crate::support::{Setup, TestApp, sign, third_party_tokens};

const JSON: &str = "application/json";
const RESPONSE: &str = "application/graphql-response+json";
const VIEWER: &str = "{ viewer { user { email } } }";

struct Reply {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("a response");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, text: response.text().await.expect("a body") }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The code of the first error, after checks that hold for every error.
    fn code(&self) -> String {
        let json = self.json();
        let errors = json["errors"].as_array().unwrap_or_else(|| panic!("errors in {json:#}"));
        let id = self.header("x-request-id");
        for error in errors {
            assert!(error["extensions"]["code"].is_string(), "a code in {error:#}");
            assert_eq!(error["extensions"]["requestId"], id, "{error:#}");
            let message = error["message"].as_str().expect("a message");
            assert!(!message.is_empty() && message.len() < 1_000, "{message}");
            for internal in ["src/", "panicked", "sqlx", "SELECT", "async_graphql"] {
                assert!(!message.contains(internal), "{message}");
            }
        }
        assert!(!id.is_empty());
        json["errors"][0]["extensions"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Asserts a request error: the status, the code, and no `data`.
    #[track_caller]
    fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{}", self.text);
        assert!(self.json().get("data").is_none(), "{}", self.text);
    }

    #[track_caller]
    fn data(&self) -> Value {
        let json = self.json();
        assert_eq!((self.status, json.get("errors")), (200, None), "{json:#}");
        json["data"].clone()
    }
}

struct Client {
    app: TestApp,
    token: String,
}

impl Client {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(environment: &[(&'static str, &str)]) -> Self {
        let environment = environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let app = TestApp::start_with(Setup { environment, ..Setup::default() }).await;
        let token = app.token("alice@example.com", Some("acme-corp")).await;
        Self { app, token }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.app.client().request(method, format!("{}{path}", self.app.base_url()))
    }

    fn post(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.request(Method::POST, "/graphql").header(CONTENT_TYPE, JSON).header(ACCEPT, RESPONSE).body(body)
    }

    /// With alice's token.
    async fn run(&self, body: &Value) -> Reply {
        Reply::of(self.post(body.to_string()).bearer_auth(&self.token)).await
    }

    async fn query(&self, query: &str) -> Reply {
        self.run(&json!({ "query": query })).await
    }

    fn get(&self, parameters: &[(&str, &str)]) -> RequestBuilder {
        let mut url = reqwest::Url::parse(&format!("{}/graphql", self.app.base_url())).expect("a URL");
        url.query_pairs_mut().extend_pairs(parameters);
        self.app.client().get(url).header(ACCEPT, RESPONSE)
    }
}

/// Round trips to the database, as `Server-Timing` tells them: of many tries the fewest, because the first use of a
/// statement, and a busy machine, part what otherwise leaves together.
async fn round_trips(client: &Client, body: &Value) -> u32 {
    let mut fewest = u32::MAX;
    for _ in 0..25 {
        let reply = client.run(body).await;
        assert!(reply.json().get("errors").is_none(), "{}", reply.text);
        let told = reply.header("server-timing");
        let told = told.split_once("statements in ").and_then(|(_, told)| told.split_whitespace().next()?.parse().ok());
        fewest = fewest.min(told.expect("a number of round trips"));
    }
    fewest
}

#[tokio::test]
async fn http_round_trips_are_those_of_the_levels_of_a_query_not_of_its_fields() {
    let client = Client::start().await;
    let tickets = client.query("{ organization { tickets(first: 1) { nodes { id } } } }").await.data();
    let id = &tickets["organization"]["tickets"]["nodes"][0]["id"];
    let nested = "{ organization { id members(first: 5) { nodes { user { name } } } budgets(first: 2) { nodes { usageRecords(first: 2) { nodes { id } } } }
      tickets(first: 5) { nodes { assignee { user { name } } customer { name } } } featureFlags { key } subscription { plan } } }";
    // The organization with the opening; its lists; their relations; the users of the assignees, unless those of the members
    // came first and are the same. Answers that arrive one by one let their relations go on alone, at most as many as there are.
    let nested = round_trips(&client, &json!({ "query": nested })).await;
    assert!((3..=10).contains(&nested), "{nested}");
    let list = "{ organization { tickets(first: 5) { nodes { id assignee { role } customer { name } } } } }";
    assert_eq!(round_trips(&client, &json!({ "query": list })).await, 3);
    let node = json!({ "query": "query($id: ID!) { node(id: $id) { ... on Ticket { subject } } }", "variables": { "id": id } });
    assert_eq!(round_trips(&client, &node).await, 1);
    // The opening, the lock, the change, what is told of it, and the commit.
    let change = "mutation($i: TicketUpdateInput!) { ticketUpdate(input: $i) { ticket { priority } } }";
    let change = json!({ "query": change, "variables": { "i": { "id": id, "priority": "HIGH" } } });
    assert_eq!(round_trips(&client, &change).await, 5);
}

#[tokio::test]
async fn http_queries_over_post_and_get() {
    let client = Client::start().await;
    let reply = client.query(VIEWER).await;
    assert_eq!(reply.data()["viewer"]["user"]["email"], "alice@example.com");
    assert_eq!(reply.header("content-type"), "application/graphql-response+json; charset=utf-8");
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.header("content-length"), reply.text.len().to_string());
    assert!(reply.header("server-timing").starts_with("exec;dur="), "{}", reply.header("server-timing"));

    let reply = Reply::of(client.get(&[("query", VIEWER)]).bearer_auth(&client.token)).await;
    assert_eq!(reply.data()["viewer"]["user"]["email"], "alice@example.com");

    let named = "query A { __typename } query B($x: Boolean = true) { again: __typename @include(if: $x) }";
    let variables = [("query", named), ("operationName", "B"), ("variables", "{}")];
    assert_eq!(Reply::of(client.get(&variables)).await.data(), json!({ "again": "Query" }));

    let with_own_id = client.post(r#"{"query":"{__typename}"}"#).header("x-request-id", "my-id.1");
    assert_eq!(Reply::of(with_own_id).await.header("x-request-id"), "my-id.1");
}

#[tokio::test]
async fn http_get_changes_nothing_and_other_methods_are_refused() {
    let client = Client::start().await;
    let create = r#"mutation { ticketCreate(input: {subject: "x"}) { __typename } }"#;
    for (mutation, token) in [(create, true), (create, false), ("mutation { __typename }", false)] {
        let mut request = client.get(&[("query", mutation)]);
        if token {
            request = request.bearer_auth(&client.token);
        }
        let reply = Reply::of(request).await;
        reply.refused(405, "METHOD_NOT_ALLOWED");
        assert_eq!(reply.header("allow"), "POST");
    }
    for method in [Method::PUT, Method::DELETE, Method::PATCH] {
        let reply = Reply::of(client.request(method, "/graphql")).await;
        reply.refused(405, "METHOD_NOT_ALLOWED");
        assert_eq!(reply.header("allow"), "GET, POST, QUERY, OPTIONS");
        assert_eq!(reply.header("accept-query"), JSON);
    }
    Reply::of(client.get(&[])).await.refused(400, "BAD_REQUEST");
    Reply::of(client.get(&[("query", "{__typename}"), ("variables", "{")])).await.refused(400, "BAD_REQUEST");
    Reply::of(client.get(&[("query", "{__typename}"), ("variables", "[]")])).await.refused(400, "BAD_REQUEST");
}

#[tokio::test]
async fn http_bodies_must_be_json() {
    let client = Client::start().await;
    let body = r#"{"query":"{__typename}"}"#;
    for content_type in [
        "text/plain",
        "text/plain; application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/graphql",
        "application/json; charset=utf-16",
    ] {
        let request = client.request(Method::POST, "/graphql").header(CONTENT_TYPE, content_type).body(body);
        Reply::of(request).await.refused(415, "UNSUPPORTED_MEDIA_TYPE");
    }
    Reply::of(client.request(Method::POST, "/graphql").body(body)).await.refused(415, "UNSUPPORTED_MEDIA_TYPE");
    Reply::of(client.post(body).header("content-encoding", "gzip")).await.refused(415, "UNSUPPORTED_MEDIA_TYPE");
    for content_type in ["application/json", "application/json; charset=utf-8", "application/graphql+json"] {
        let request = client.request(Method::POST, "/graphql").header(CONTENT_TYPE, content_type).body(body);
        Reply::of(request).await.data();
    }
}

#[tokio::test]
async fn http_answers_come_as_accepted() {
    let client = Client::start().await;
    let ask = |accept: &'static str, query: &str| {
        let body = json!({ "query": query }).to_string();
        Reply::of(client.request(Method::POST, "/graphql").header(CONTENT_TYPE, JSON).header(ACCEPT, accept).body(body))
    };
    for (accept, expected) in [
        ("*/*", "application/json; charset=utf-8"),
        (JSON, "application/json; charset=utf-8"),
        (RESPONSE, "application/graphql-response+json; charset=utf-8"),
        ("application/json, application/graphql-response+json", "application/graphql-response+json; charset=utf-8"),
        ("application/graphql-response+json;q=0.1, application/json", "application/json; charset=utf-8"),
    ] {
        assert_eq!(ask(accept, "{__typename}").await.header("content-type"), expected, "{accept}");
    }
    for accept in ["text/html", "image/png", "application/json;q=0"] {
        ask(accept, "{__typename}").await.refused(406, "NOT_ACCEPTABLE");
    }
    // The document is at fault: the status depends on the media type.
    ask(JSON, "{").await.refused(200, "GRAPHQL_PARSE_FAILED");
    ask(RESPONSE, "{").await.refused(400, "GRAPHQL_PARSE_FAILED");
    ask(JSON, "{ nope }").await.refused(200, "GRAPHQL_VALIDATION_FAILED");
    ask(RESPONSE, "{ nope }").await.refused(400, "GRAPHQL_VALIDATION_FAILED");
    // The caller is at fault: it does not.
    ask(JSON, VIEWER).await.refused(401, "UNAUTHENTICATED");
    ask(RESPONSE, VIEWER).await.refused(401, "UNAUTHENTICATED");
    let subscription = "subscription { ticketChanged { __typename } }";
    ask(JSON, subscription).await.refused(400, "SUBSCRIPTION_NEEDS_A_STREAM");
}

#[tokio::test]
async fn http_bodies_that_are_no_requests_are_refused() {
    let client = Client::start().await;
    for body in [
        "",
        "null",
        "7",
        "\"{__typename}\"",
        "{",
        "{}",
        r#"{"query":null}"#,
        r#"{"query":7}"#,
        r#"{"query":["{__typename}"]}"#,
        r#"{"query":"{__typename}","variables":"{}"}"#,
        r#"{"query":"{__typename}","variables":[]}"#,
        r#"{"query":"{__typename}","operationName":7}"#,
        r#"{"query":"{__typename}","extensions":[]}"#,
        "{\"query\":\"{__typename}\" \u{0}}",
    ] {
        let reply = Reply::of(client.post(body)).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "BAD_REQUEST"), "{body:?}");
    }
    Reply::of(client.post(&b"{\"query\":\"{__typename}\xff\"}"[..])).await.refused(400, "BAD_REQUEST");
    Reply::of(client.post("[".repeat(500_000))).await.refused(400, "BAD_REQUEST");
    for batch in ["[]", r#"[{"query":"{__typename}"}]"#] {
        Reply::of(client.post(batch)).await.refused(400, "BATCHING_NOT_SUPPORTED");
    }
    for fine in [
        "\u{feff}{\"query\":\"{__typename}\"}",
        r#"{"query":"{__typename}","variables":null,"operationName":null,"extensions":null,"more":[1]}"#,
        r#"{"query":"{nope}","query":"{__typename}"}"#,
    ] {
        Reply::of(client.post(fine)).await.data();
    }
}

#[tokio::test]
async fn http_bodies_are_limited_and_large_values_are_not() {
    let client = Client::start().await;
    let large = format!(r#"{{"query":"{{__typename}}","x":"{}"}}"#, "x".repeat(1024 * 1024));
    Reply::of(client.post(large.clone())).await.refused(413, "BODY_TOO_LARGE");
    let chunks =
        large.into_bytes().chunks(64 * 1024).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>();
    let streamed = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    Reply::of(client.post(streamed)).await.refused(413, "BODY_TOO_LARGE");

    let text = "é".repeat(450_000);
    let query = "query($text: ID!) { node(id: $text) { __typename } }";
    let reply = client.run(&json!({ "query": query, "variables": { "text": text } })).await;
    assert!(reply.status < 500 && reply.text.len() < 5_000, "{} {}", reply.status, reply.text.len());
    client.query(&format!("{{ node(id: \"{text}\") {{ __typename }} }}")).await.refused(400, "QUERY_TOO_LONG");
    let reply = client.query(&format!("{{ node(id: \"{}\") {{ __typename }} }}", "x".repeat(100_000))).await;
    assert!(reply.status < 500 && reply.text.len() < 5_000, "{} {}", reply.status, reply.text.len());
}

#[tokio::test]
async fn http_credentials_are_checked() {
    let client = Client::start().await;
    let ask = |authorization: Option<String>, query: &str| {
        let mut request = client.post(json!({ "query": query }).to_string());
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        Reply::of(request)
    };
    let anonymous = ask(None, VIEWER).await;
    anonymous.refused(401, "UNAUTHENTICATED");
    assert_eq!(anonymous.header("www-authenticate"), "Bearer");
    ask(None, "{ __typename ...f } fragment f on Query { v: viewer { role } }").await.refused(401, "UNAUTHENTICATED");
    ask(None, "{ __typename __type(name: \"Query\") { name } }").await.data();
    for bad in ["Bearer", "Bearer nonsense", "Basic YTpi", "", "Bearer a.b.c", "Bearer é"] {
        ask(Some(bad.to_owned()), "{ __typename }").await.refused(401, "INVALID_TOKEN");
    }
    for token in third_party_tokens(&Clock::System) {
        for query in [VIEWER, "{ __typename }", "{ platform { webhookEvents { totalCount } } }"] {
            let reply = ask(Some(format!("Bearer {token}")), query).await;
            reply.refused(401, "INVALID_TOKEN");
            assert!(reply.text.contains("OAuth access token"), "{}", reply.text);
            let mut request = client.post(json!({ "query": query }).to_string());
            request = request.header("authorization", format!("Bearer {token}")).header("accept", "text/event-stream");
            Reply::of(request).await.refused(401, "INVALID_TOKEN");
        }
    }
    // The same signer and the same claims without those marks: the refusal is for what the token is.
    let claims = json!({ "iss": "tenantry-development", "sub": "user_alice", "sid": "sess_1" });
    let session = sign(&json!({ "alg": "EdDSA", "typ": "JWT" }), &claims, &Clock::System);
    ask(Some(format!("Bearer {session}")), VIEWER).await.data();

    let clock = Clock::manual(Clock::System.now());
    let app = TestApp::start_with(Setup { clock: clock.clone(), ..Setup::default() }).await;
    let token = app.token("alice@example.com", Some("acme-corp")).await;
    let client = Client { app, token };
    client.query(VIEWER).await.data();
    clock.advance(chrono::Duration::hours(2));
    client.query(VIEWER).await.refused(401, "INVALID_TOKEN");
}

#[tokio::test]
async fn http_origins_read_answers_only_when_listed() {
    let setup = Setup { environment: vec![("CORS_ORIGINS", "https://app.example.com".to_owned())], ..Setup::default() };
    let client = TestApp::start_with(setup).await;
    let ask = |method: Method, origin: &'static str| {
        let request =
            client.client().request(method, format!("{}/graphql", client.base_url())).header("origin", origin);
        Reply::of(
            request
                .header(CONTENT_TYPE, JSON)
                .header("access-control-request-method", "POST")
                .body(r#"{"query":"{__typename}"}"#),
        )
    };
    for method in [Method::OPTIONS, Method::POST] {
        let listed = ask(method.clone(), "https://app.example.com").await;
        assert_eq!(listed.header("access-control-allow-origin"), "https://app.example.com");
        assert!(listed.header("vary").contains("Origin"));
        let other = ask(method, "https://app.example.com.evil.example").await;
        assert_eq!(other.header("access-control-allow-origin"), "");
        assert!(other.header("vary").contains("Origin"));
    }
    let preflight = ask(Method::OPTIONS, "https://app.example.com").await;
    assert_eq!(preflight.status, 204);
    for header in ["authorization", "content-type", "x-organization-id"] {
        assert!(preflight.header("access-control-allow-headers").contains(header), "{header}");
    }
    assert_eq!(preflight.header("access-control-allow-credentials"), "");
}

#[tokio::test]
async fn http_answers_as_a_stream_of_events() {
    let client = Client::start().await;
    let ask = |query: &str, token: Option<&str>| {
        let request =
            client.request(Method::POST, "/graphql").header(CONTENT_TYPE, JSON).header(ACCEPT, "text/event-stream");
        let request = request.body(json!({ "query": query }).to_string());
        if let Some(token) = token { request.bearer_auth(token) } else { request }
    };
    let reply = Reply::of(ask(VIEWER, Some(&client.token))).await;
    let stream = "text/event-stream; charset=utf-8";
    assert_eq!(reply.header("content-type"), stream);
    let data = r#"{"data":{"viewer":{"user":{"email":"alice@example.com"}}}}"#;
    assert_eq!(reply.text, format!("event: next\ndata: {data}\n\nevent: complete\ndata:\n\n"));

    let reply = Reply::of(ask("{ nope }", Some(&client.token))).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, stream));
    assert!(
        reply.text.contains("GRAPHQL_VALIDATION_FAILED") && reply.text.contains("event: complete"),
        "{}",
        reply.text
    );
    Reply::of(ask(VIEWER, None)).await.refused(401, "UNAUTHENTICATED");

    let subscription = "subscription { ... { ticketChanged { ticket { id } } } }";
    let open = ask(subscription, Some(&client.token)).send().await.expect("a response");
    assert_eq!(open.headers()[CONTENT_TYPE], stream);
    drop(open);

    // The stream ends with the token.
    let short = client.app.token_for("alice@example.com", Some("acme-corp"), chrono::Duration::seconds(2)).await;
    let ended = tokio::time::timeout(Duration::from_secs(10), Reply::of(ask(subscription, Some(&short)))).await;
    let ended = ended.expect("the stream ends");
    assert!(ended.text.contains("INVALID_TOKEN") && ended.text.contains("event: complete"), "{}", ended.text);
}
