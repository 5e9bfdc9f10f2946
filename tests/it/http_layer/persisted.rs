//! Documents that requests do not carry: trusted documents and automatic persisted queries.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::{Client, JSON, RESPONSE, Reply};
use crate::packages::{npm, skipped, text};

/// What Apollo's, Relay's and graphql-codegen's tools have written.
fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/http_layer/manifests")
}

/// `{__typename}` and its SHA-256, as in Apollo's documentation.
const TEXT: &str = "{__typename}";
const HASH: &str = "ecf4edb46db40b5132295c0291d62fb65d6759a9eedfa4d5d612dd5ec54a6b38";
/// `query Viewer` of the client `web`.
const WEB_VIEWER: &str = "5a85f44467aa3cfcdc5be1796367c45d2d029614da6dd3a3c1fc0a9dd54bb8f9";
const WEB_RENAME: &str = "7bc28c9e8e17a8036100485b5009680e7b24ab5a520ab682958f8566e58ebb90";
const WEB_NEWS: &str = "215c5cab3eae51b72e217d8987b4339c117b0b67454eefbf0434f7e18d40bb52";
/// `query AppBoardQuery` of the client `relay`.
const RELAY_BOARD: &str = "9ceba56df53f617549c9b327f07085eb";
/// `query Everybody` of every client.
const EVERYBODY: &str = "sha256:c411a8cfbf714087282ebbd4454331473f213f9724b4c6e920a34f666110246a";

fn persisted(version: &Value, hash: &str) -> Value {
    json!({ "persistedQuery": { "version": version, "sha256Hash": hash } })
}

async fn start(mode: &'static str) -> Client {
    let manifests = manifests();
    let path = manifests.to_str().expect("a path");
    Client::start_with(&[("TRUSTED_DOCUMENTS", path), ("TRUSTED_DOCUMENTS_MODE", mode)]).await
}

impl Client {
    /// A request with alice's token, of this client.
    fn of(&self, name: &str, body: &Value) -> RequestBuilder {
        let request = self.post(body.to_string()).bearer_auth(&self.token);
        if name.is_empty() { request } else { request.header("graphql-client-name", name) }
    }
}

/// The cases of Apollo's own suite for servers (`integration-testsuite`, "Persisted Queries"), those of its cache apart.
#[tokio::test]
async fn http_apq_answers_as_apollos_servers_do() {
    let client = Client::start().await;
    let good = persisted(&json!(1), HASH);
    let as_json = |request: RequestBuilder| Reply::of(request.header(ACCEPT, JSON));
    let post = |body: &Value| {
        as_json(client.request(Method::POST, "/graphql").header(CONTENT_TYPE, JSON).body(body.to_string()))
    };
    let get = |extensions: &Value, query: Option<&str>| {
        let mut url = reqwest::Url::parse(&format!("{}/graphql", client.app.base_url())).expect("a URL");
        url.query_pairs_mut().append_pair("extensions", &extensions.to_string());
        if let Some(query) = query {
            url.query_pairs_mut().append_pair("query", query);
        }
        as_json(client.app.client().get(url))
    };
    // On the first try, over both methods, in both media types.
    let of_response = Reply::of(client.post(json!({ "extensions": good }).to_string())).await;
    for reply in [post(&json!({ "extensions": good })).await, get(&good, None).await, of_response] {
        reply.refused(200, "PERSISTED_QUERY_NOT_FOUND");
        assert_eq!(reply.json()["errors"][0]["message"], "PersistedQueryNotFound");
        assert_eq!(reply.header("cache-control"), "private, no-cache, must-revalidate");
    }
    // A text that somebody sends without its hash does not answer for the hash.
    Reply::of(client.post(json!({ "query": TEXT }).to_string())).await.data();
    post(&json!({ "extensions": good })).await.refused(200, "PERSISTED_QUERY_NOT_FOUND");
    for version in [json!(null), json!(2), json!("1"), json!(0)] {
        let reply = get(&persisted(&version, HASH), Some(TEXT)).await;
        reply.refused(400, "BAD_REQUEST");
        assert!(reply.text.contains("Unsupported persisted query version"), "{}", reply.text);
    }
    let other = "{ __typename }";
    for (hash, query) in [(&HASH[..5], TEXT), (HASH, other), ("", TEXT), (&HASH.to_uppercase(), TEXT)] {
        let reply = get(&persisted(&json!(1), hash), Some(query)).await;
        reply.refused(400, "PERSISTED_QUERY_MISMATCH");
        assert!(reply.text.contains("provided sha does not match query"), "{}", reply.text);
    }
    let without = json!({ "query": TEXT, "extensions": { "persistedQuery": { "version": 1, "sha": HASH } } });
    post(&without).await.refused(400, "PERSISTED_QUERY_MISMATCH");
    post(&json!({ "extensions": { "persistedQuery": { "version": 1 } } })).await.refused(400, "BAD_REQUEST");
    // What was refused was not remembered.
    post(&json!({ "extensions": good })).await.refused(200, "PERSISTED_QUERY_NOT_FOUND");

    assert_eq!(post(&json!({ "query": TEXT, "extensions": good })).await.data(), json!({ "__typename": "Query" }));
    assert_eq!(post(&json!({ "extensions": good })).await.data(), json!({ "__typename": "Query" }));
    let reply = get(&good, None).await;
    assert_eq!(reply.data(), json!({ "__typename": "Query" }));
    // The document is nobody's secret; its answer depends on who asks, and nothing says that it may be kept.
    assert_eq!((reply.header("cache-control"), reply.header("etag")), ("no-store", ""));
    assert_eq!(post(&json!({ "documentId": format!("sha256:{HASH}") })).await.data(), json!({ "__typename": "Query" }));
    post(&json!([{ "extensions": good }])).await.refused(400, "BATCHING_NOT_SUPPORTED");

    // Only what may be executed is remembered; a mutation is not executed over GET.
    for (query, status, code) in [
        ("{", 200, "GRAPHQL_PARSE_FAILED"),
        ("{ nope }", 200, "GRAPHQL_VALIDATION_FAILED"),
        (r#"mutation { ticketCreate(input: {subject: "x"}) { __typename } }"#, 401, "UNAUTHENTICATED"),
    ] {
        let extensions = persisted(&json!(1), &sha256(query));
        post(&json!({ "query": query, "extensions": extensions })).await.refused(status, code);
        let again = get(&extensions, None).await;
        let expected = if status == 401 { (405, "METHOD_NOT_ALLOWED") } else { (200, "PERSISTED_QUERY_NOT_FOUND") };
        again.refused(expected.0, expected.1);
    }
    let draft = client.post(json!({ "extensions": persisted(&json!(1), &sha256("x")) }).to_string());
    let draft = draft.header(ACCEPT, "application/graphql-response+json;status=draft");
    Reply::of(draft).await.refused(404, "PERSISTED_QUERY_NOT_FOUND");

    let off = Client::start_with(&[("AUTOMATIC_PERSISTED_QUERIES", "off")]).await;
    for body in [json!({ "extensions": good }), json!({ "query": TEXT, "extensions": good })] {
        let reply = Reply::of(off.post(body.to_string())).await;
        reply.refused(200, "PERSISTED_QUERY_NOT_SUPPORTED");
        assert_eq!(reply.json()["errors"][0]["message"], "PersistedQueryNotSupported");
        assert_eq!(reply.header("cache-control"), "private, no-cache, must-revalidate");
    }
}

fn sha256(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    tenantry::hex::hex(digest.as_ref())
}

#[tokio::test]
async fn http_trusted_documents_are_the_only_ones_where_that_is_enforced() {
    let client = start("enforce").await;
    let run = |name: &'static str, body: Value| {
        let request = client.of(name, &body);
        Reply::of(request)
    };
    // As the appendix, Apollo's clients and Relay's guide name documents.
    let apollo = json!({ "extensions": persisted(&json!(1), WEB_VIEWER) });
    for body in
        [apollo.clone(), json!({ "documentId": WEB_VIEWER }), json!({ "documentId": format!("sha256:{WEB_VIEWER}") })]
    {
        assert_eq!(run("web", body).await.data()["viewer"]["user"]["email"], "alice@example.com");
    }
    let board = json!({ "doc_id": RELAY_BOARD, "query": null, "variables": { "first": 1 } });
    assert!(run("relay", board).await.data()["organization"]["tickets"]["nodes"][0]["id"].is_string());
    for body in [json!({ "documentId": EVERYBODY }), json!({ "extensions": persisted(&json!(1), EVERYBODY) })] {
        for name in ["", "web", "relay", "somebody"] {
            assert!(run(name, body.clone()).await.data()["viewer"]["user"]["name"].is_string());
        }
    }
    run("relay", json!({ "documentId": RELAY_BOARD })).await.refused(400, "INVALID_VARIABLE");

    // Nothing else: no text, whatever it is and whatever stands beside it.
    let listed = "query Everybody { viewer { user { name } } }";
    for body in [
        json!({ "query": TEXT }),
        json!({ "query": "{ __schema { types { name } } }" }),
        json!({ "query": listed }),
        json!({ "query": listed, "extensions": persisted(&json!(1), EVERYBODY) }),
        json!({ "query": TEXT, "extensions": persisted(&json!(1), HASH) }),
        json!({ "query": TEXT, "doc_id": RELAY_BOARD }),
        json!({ "query": "" }),
    ] {
        run("web", body).await.refused(400, "PERSISTED_QUERY_ID_REQUIRED");
    }
    Reply::of(client.get(&[("query", TEXT)])).await.refused(400, "PERSISTED_QUERY_ID_REQUIRED");
    run("web", json!({ "query": TEXT, "documentId": WEB_VIEWER })).await.refused(400, "BAD_REQUEST");

    // No document of another client, and no id that is none.
    let huge = "a".repeat(500_000);
    for (name, id) in [
        ("", WEB_VIEWER),
        ("relay", WEB_VIEWER),
        ("web", RELAY_BOARD),
        ("WEB", WEB_VIEWER),
        ("../web", WEB_VIEWER),
        ("web.json", WEB_VIEWER),
        ("web", "../web.json"),
        ("web", "/etc/passwd"),
        ("web", "__proto__"),
        ("web", "constructor"),
        ("web", "toString"),
        ("web", ""),
        ("web", "sha256:"),
        ("web", "%00\u{0}\n\u{1b}[31m"),
        ("web", &WEB_VIEWER.to_uppercase()),
        ("web", &format!("sha256:sha256:{WEB_VIEWER}")),
        ("web", &format!("{WEB_VIEWER} ")),
        ("web", &huge),
        ("web", HASH),
    ] {
        for body in [json!({ "documentId": id }), json!({ "extensions": persisted(&json!(1), id) })] {
            let reply = run(name, body).await;
            reply.refused(404, "PERSISTED_QUERY_NOT_IN_LIST");
            assert!(reply.text.len() < 1_000 && !reply.text.contains('\u{1b}'), "{}", reply.text.len());
        }
    }
    // Clients that would send the text are not asked to.
    assert!(!run("web", json!({ "documentId": HASH })).await.text.contains("PersistedQueryNotFound"));
    let other_version = json!({ "extensions": persisted(&json!(2), WEB_VIEWER) });
    run("web", other_version).await.refused(400, "BAD_REQUEST");
    // A trusted document gives nobody rights.
    let anonymous = client.post(apollo.to_string()).header("apollographql-client-name", "web");
    Reply::of(anonymous).await.refused(401, "UNAUTHENTICATED");
    let metrics = Reply::of(client.request(Method::GET, "/metrics")).await.text;
    let misses =
        metrics.lines().find_map(|line| line.strip_prefix("tenantry_trusted_misses_total ")).expect("a counter");
    assert!(misses.parse::<u32>().expect("a number") > 40, "{misses}");
    assert!(metrics.contains("tenantry_trusted_documents 7\n"), "{metrics}");
}

#[tokio::test]
async fn http_trusted_documents_stand_beside_others_where_nothing_is_enforced() {
    let client = start("log").await;
    Reply::of(client.of("web", &json!({ "query": TEXT }))).await.data();
    Reply::of(client.of("web", &json!({ "documentId": WEB_VIEWER }))).await.data();
    Reply::of(client.of("web", &json!({ "documentId": "nope" }))).await.refused(404, "PERSISTED_QUERY_NOT_IN_LIST");
    let apq = |text: Option<&str>| json!({ "query": text, "extensions": persisted(&json!(1), HASH) });
    Reply::of(client.of("web", &apq(None))).await.refused(200, "PERSISTED_QUERY_NOT_FOUND");
    Reply::of(client.of("web", &apq(Some(TEXT)))).await.data();
    Reply::of(client.of("web", &apq(None))).await.data();
    // The text, the unknown id, and the document that was registered: when it was, and when it was used.
    let metrics = Reply::of(client.request(Method::GET, "/metrics")).await.text;
    assert!(metrics.contains("tenantry_trusted_misses_total 4\n"), "{metrics}");
}

#[tokio::test]
async fn http_answers_to_trusted_documents_may_be_kept_by_who_asked() {
    let client = start("off").await;
    let token = client.app.token("bob@example.com", Some("tech-startup")).await;
    let get_as = |accept: &'static str, parameters: &[(&str, &str)], token: &str| {
        let mut url = reqwest::Url::parse(&format!("{}/graphql", client.app.base_url())).expect("a URL");
        url.query_pairs_mut().extend_pairs(parameters);
        let request = client.app.client().get(url).header(ACCEPT, accept).bearer_auth(token);
        request.header("apollographql-client-name", "web")
    };
    let get = |parameters: &[(&str, &str)], token: &str| get_as(RESPONSE, parameters, token);
    let viewer = [("documentId", WEB_VIEWER)];
    let first = Reply::of(get(&viewer, &client.token)).await;
    first.data();
    let etag = first.header("etag").to_owned();
    assert_eq!(first.header("cache-control"), "private, no-cache");
    let vary: Vec<&str> = first.headers.get_all("vary").iter().filter_map(|value| value.to_str().ok()).collect();
    let vary = vary.join(", ");
    for header in [
        "Accept",
        "Authorization",
        "X-Organization-Id",
        "GraphQL-Client-Name",
        "X-GraphQL-Client-Name",
        "Apollographql-Client-Name",
        "Origin",
    ] {
        assert!(vary.split(", ").any(|name| name == header), "{header}: {vary}");
    }
    let again = Reply::of(get(&viewer, &client.token).header("if-none-match", &etag)).await;
    assert_eq!((again.status, again.text.as_str(), again.header("etag")), (304, "", etag.as_str()));
    assert_eq!(again.header("cache-control"), "private, no-cache");
    // Somebody else's answer is another one, and so is that of another media type.
    let bob = Reply::of(get(&viewer, &token).header("if-none-match", &etag)).await;
    assert_eq!(bob.data()["viewer"]["user"]["email"], "bob@example.com");
    assert_ne!(bob.header("etag"), etag);
    let plain = Reply::of(get_as(JSON, &viewer, &client.token).header("if-none-match", &etag)).await;
    assert_eq!(plain.data()["viewer"]["user"]["email"], "alice@example.com");
    assert_ne!(plain.header("etag"), etag);

    // Not: texts, other methods, errors.
    let organization = [
        ("documentId", "b540267280167f1619b2e7d583dd53bbd10e50062612e24a77491e36e06f6431"),
        ("variables", "{\"first\":1}"),
    ];
    let nobody = client.app.token("alice@example.com", None).await;
    let failed = Reply::of(get(&organization, &nobody)).await;
    assert_eq!((failed.status, failed.code().as_str()), (200, "ORGANIZATION_REQUIRED"));
    let anonymous =
        Reply::of(client.get(&viewer).header("graphql-client-name", "web").header("if-none-match", "*")).await;
    anonymous.refused(401, "UNAUTHENTICATED");
    let unknown = Reply::of(get(&[("documentId", "nope")], &client.token).header("if-none-match", "*")).await;
    unknown.refused(404, "PERSISTED_QUERY_NOT_IN_LIST");
    let ticket = tenantry::id::TicketId::from_uuid(uuid::Uuid::from_u128(1)).to_string();
    let variables = json!({ "input": { "id": ticket } }).to_string();
    let rename = [("documentId", WEB_RENAME), ("variables", variables.as_str())];
    let mutation = Reply::of(get(&rename, &client.token)).await;
    mutation.refused(405, "METHOD_NOT_ALLOWED");
    let text = Reply::of(client.get(&[("query", TEXT)]).bearer_auth(&client.token)).await;
    let posted = Reply::of(client.of("web", &json!({ "documentId": WEB_VIEWER }))).await;
    for reply in [failed, anonymous, unknown, mutation, text, posted] {
        assert_eq!((reply.header("cache-control"), reply.header("etag")), ("no-store", ""), "{}", reply.text);
    }
}

#[tokio::test]
async fn http_manifests_are_read_again_when_they_change() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("manifests-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("documents.json");
    let write = |text: &str| {
        let new = folder.join("documents.json.new");
        std::fs::write(&new, text).expect("a file");
        std::fs::rename(&new, &file).expect("a file");
    };
    write(r#"{"a": "{ __typename }", "old": "{ wasRemoved }"}"#);
    let path = file.to_str().expect("a path");
    let client = Client::start_with(&[("TRUSTED_DOCUMENTS", path), ("TRUSTED_DOCUMENTS_MODE", "enforce")]).await;
    let ask = async |id: &str| Reply::of(client.of("", &json!({ "documentId": id }))).await;
    ask("a").await.data();
    // Of a document that the schema does not have any more only its own requests fail.
    ask("old").await.refused(400, "GRAPHQL_VALIDATION_FAILED");
    ask("b").await.refused(404, "PERSISTED_QUERY_NOT_IN_LIST");
    let until = async |what: &str, figure: &str| {
        for _ in 0..600 {
            if Reply::of(client.request(Method::GET, "/metrics")).await.text.contains(figure) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what}: {figure}");
    };
    write(r#"{"a": "{ __typename }", "b": "{ b: __typename }", "c": "{ c: __typename }"}"#);
    until("a new manifest is read", "tenantry_trusted_documents 3\n").await;
    assert_eq!(ask("b").await.data(), json!({ "b": "Query" }));
    ask("old").await.refused(404, "PERSISTED_QUERY_NOT_IN_LIST");
    write(r#"{"b": "{ b: __typename }", "#);
    until("a broken manifest is told of", "tenantry_trusted_stale 1\n").await;
    assert_eq!(ask("c").await.data(), json!({ "c": "Query" }));
    write(r#"{"b": "{ b2: __typename }"}"#);
    until("a repaired manifest is read", "tenantry_trusted_stale 0\n").await;
    assert_eq!(ask("b").await.data(), json!({ "b2": "Query" }));
    ask("a").await.refused(404, "PERSISTED_QUERY_NOT_IN_LIST");
    std::fs::remove_file(&file).expect("there");
    until("one that is gone is told of", "tenantry_trusted_stale 1\n").await;
    assert_eq!(ask("b").await.data(), json!({ "b2": "Query" }));
    write(r#"{"b": "{ b2: __typename }"}"#);
    until("it is there again", "tenantry_trusted_stale 0\n").await;

    // A change that the file does not show is read on SIGHUP.
    let modified = std::fs::metadata(&file).and_then(|metadata| metadata.modified()).expect("a time");
    let new = folder.join("documents.json.new");
    std::fs::write(&new, r#"{"b": "{ b3: __typename }"}"#).expect("a file");
    std::fs::File::options().write(true).open(&new).and_then(|new| new.set_modified(modified)).expect("a time");
    std::fs::rename(&new, &file).expect("a file");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(ask("b").await.data(), json!({ "b2": "Query" }));
    let process = std::process::id().to_string();
    assert!(Command::new("kill").args(["-HUP", &process]).status().await.expect("kill").success());
    for _ in 0..600 {
        if ask("b").await.data() == json!({ "b3": "Query" }) {
            std::fs::remove_dir_all(&folder).expect("there");
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the manifest is not read again on SIGHUP");
}

/// Sockets and streams go the same way.
#[tokio::test]
async fn http_trusted_documents_are_for_every_transport() {
    let client = start("enforce").await;
    let stream = |body: Value| {
        let request = client.request(Method::POST, "/graphql").header(CONTENT_TYPE, JSON).bearer_auth(&client.token);
        let request = request.header(ACCEPT, "text/event-stream").header("graphql-client-name", "web");
        Reply::of(request.body(body.to_string()))
    };
    let events = stream(json!({ "documentId": WEB_VIEWER })).await;
    assert_eq!(events.header("content-type"), "text/event-stream; charset=utf-8");
    assert!(events.text.contains("alice@example.com"), "{}", events.text);
    stream(json!({ "query": TEXT })).await.refused(400, "PERSISTED_QUERY_ID_REQUIRED");

    let mut request = client.app.ws_url().into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().expect("a header"));
    let (mut socket, _) = connect_async(request).await.expect("a socket");
    let mut say = async |message: Value| -> Value {
        socket.send(Message::text(message.to_string())).await.expect("the server listens");
        loop {
            let said = tokio::time::timeout(Duration::from_secs(15), socket.next()).await.expect("in time");
            match said.expect("a message").expect("a message") {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Close(frame) => panic!("{frame:?}"),
                _ => {}
            }
        }
    };
    // A browser sends no headers with a socket; the name stands in the payload.
    let payload = json!({ "authorization": format!("Bearer {}", client.token), "Apollographql-Client-Name": "web" });
    assert_eq!(say(json!({ "type": "connection_init", "payload": payload })).await["type"], "connection_ack");
    let subscribe = |id: &str, payload: Value| json!({ "type": "subscribe", "id": id, "payload": payload });
    let code = |said: &Value| said["payload"][0]["extensions"]["code"].as_str().unwrap_or_default().to_owned();
    let refused = say(subscribe("1", json!({ "query": "subscription { ticketChanged { ticket { id } } }" }))).await;
    assert_eq!((refused["type"].as_str(), code(&refused).as_str()), (Some("error"), "PERSISTED_QUERY_ID_REQUIRED"));
    let refused = say(subscribe("2", json!({ "documentId": RELAY_BOARD }))).await;
    assert_eq!(code(&refused), "PERSISTED_QUERY_NOT_IN_LIST");
    let viewer = say(subscribe("3", json!({ "documentId": WEB_VIEWER }))).await;
    assert_eq!(viewer["payload"]["data"]["viewer"]["user"]["email"], "alice@example.com");
    // What is heard next is the end of the query; the subscription is open and has nothing to say.
    let news = subscribe("4", json!({ "extensions": persisted(&json!(1), WEB_NEWS) }));
    assert_eq!(say(news).await, json!({ "type": "complete", "id": "3" }));
    client.app.subscribed(1).await;
}

/// The libraries that clients use, unmodified: Apollo's, urql, and Relay's guide.
#[tokio::test]
async fn http_clients_with_persisted_documents_work_unmodified() {
    const PACKAGES: [&str; 6] = [
        "@apollo/client@4.3.8",
        "@apollo/persisted-query-lists@1.1.0",
        "@urql/core@6.0.3",
        "@urql/exchange-persisted@5.0.1",
        "graphql@16.15.0",
        "rxjs@7.8.2",
    ];
    let modules = match npm(&PACKAGES).await {
        Ok(modules) => modules,
        Err(why) => return skipped("clients with persisted documents", &why),
    };
    let (open, enforcing) = (Client::start().await, start("enforce").await);
    let mut command = Command::new("node");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/http_layer/clients.cjs")).arg(modules);
    command.arg(manifests()).args([&open.app.base_url(), &open.token, &enforcing.app.base_url(), &enforcing.token]);
    let output = command.kill_on_drop(true).output().await.expect("node runs");
    let said = text(&output);
    assert!(output.status.success() && said.contains("ALL WELL"), "{said}");
}
