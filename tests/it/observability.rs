//! Traces, figures and slow operations, as their readers see them: a collector, a scraper, whoever reads the log.

mod collector;
mod log;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use sqlx::Executor as _;
use tenantry::http::metrics::FAMILIES;
use tenantry::local_postgres;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::packages;
use crate::process::{free_port, tenantry};
use crate::support::{Setup, TestApp, TestDb, cluster};
use collector::{Collector, Seen};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

async fn traced_app(endpoint: &str, more: &[(&'static str, &str)]) -> TestApp {
    let mut environment = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.to_owned()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=s3cret%20key".to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "20".to_owned()),
    ];
    environment.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    TestApp::start_with(Setup { environment, ..Setup::default() }).await
}

async fn send(app: &TestApp, token: &str, trace: &str, body: &Value) -> Value {
    let request = app.client().post(format!("{}/graphql", app.base_url())).bearer_auth(token).json(body);
    // Its caller does not record it, which is for others to decide.
    let request = request.header("traceparent", format!("00-{trace}-{CALLER}-00"));
    request.send().await.expect("a response").json().await.expect("JSON")
}

async fn metrics(app: &TestApp, accept: &str) -> (String, String) {
    let request = app.client().get(format!("{}/metrics", app.base_url())).header("accept", accept);
    let response = request.send().await.expect("a response");
    let form = response.headers()["content-type"].to_str().expect("text").to_owned();
    (form, response.text().await.expect("text"))
}

/// HTTP, the operation, the batches of its loaders, their statements: each below the one before, and no value in any of it.
/// The figures have the trace as an example, and python's reader of them and the official definitions of OTLP agree.
#[tokio::test]
async fn traces_show_the_tree_of_a_nested_query_and_no_values() {
    let collector = Collector::start().await;
    let app = traced_app(&collector.url, &[]).await;
    let token = app.token("alice@example.com", Some("acme-corp")).await;
    let query = "query Nested($s: String!) { organization { name tickets(first: 3, where: { subject: { ne: $s } }) {
        totalCount nodes { subject customer { name } assignee { user { email } } } }
        others: tickets(first: 1, where: { subject: { ne: \"the-hidden-literal\" } }) { nodes { id } } } }";
    let body = json!({ "query": query, "variables": { "s": "the-hidden-value" } });
    let answer = send(&app, &token, TRACE, &body).await;
    assert!(answer.get("errors").is_none(), "{answer:#}");
    let spans = collector.trace(TRACE).await;
    let named = |name: &str| {
        let mut found = spans.iter().filter(|span| span.name == name);
        found.next().unwrap_or_else(|| panic!("{name} is not among {spans:#?}")).clone()
    };

    let root = named("POST /graphql");
    assert_eq!((root.parent.as_str(), root.kind, root.failed), (CALLER, 2, false));
    assert_eq!(root.attributes["http.response.status_code"], "200");
    let operation = named("query");
    assert_eq!((&operation.parent, operation.kind), (&root.id, 2));
    assert_eq!(operation.attributes["graphql.operation.name"], "Nested");
    let opening = named("SELECT tenantry.enter_tenant");
    assert_eq!((&opening.parent, opening.kind), (&operation.id, 3));
    for (batch, keys, table) in
        [("load Ticket pages", "1", "tenantry.tickets"), ("load Ticket counts", "1", "tenantry.tickets")]
    {
        let batch = named(batch);
        assert_eq!((&batch.parent, batch.attributes["tenantry.loader.keys"].as_str()), (&operation.id, keys));
        let statement = spans.iter().find(|span| span.parent == batch.id).expect("its statement");
        assert_eq!((statement.name.as_str(), statement.kind), (format!("SELECT {table}").as_str(), 3));
        assert_eq!(statement.attributes["db.system.name"], "postgresql");
        assert!(batch.nanoseconds[0] <= statement.nanoseconds[0] && statement.nanoseconds[1] <= batch.nanoseconds[1]);
    }
    let rows = &named("load User rows").attributes["tenantry.loader.keys"];
    assert!(rows.parse::<u32>().expect("a number") >= 1);
    let children = spans.iter().filter(|span| span.kind == 3).count();
    assert_eq!(operation.attributes["tenantry.db.statements"], children.to_string(), "{spans:#?}");

    // A mutation's statements are named by where they stand.
    let other = TRACE.replace('4', "5");
    let create = "mutation Open($s: String!) { ticketCreate(input: { subject: $s }) { ticket { id } } }";
    send(&app, &token, &other, &json!({ "query": create, "variables": { "s": "the-hidden-value" } })).await;
    let spans = collector.trace(&other).await;
    let has = |found: &dyn Fn(&Seen) -> bool| assert!(spans.iter().any(found), "{spans:#?}");
    has(&|span| span.name == "mutation" && !span.failed);
    has(&|span| span.name == "COMMIT" && span.kind == 3);
    has(&|span| span.name.starts_with("tickets/") && span.attributes["code.file.path"].starts_with("src/tickets/"));

    // What its client did wrong is no failure of ours.
    let other = TRACE.replace('4', "6");
    send(&app, &token, &other, &json!({ "query": "{ nothing(to: \"the-hidden-literal\") }" })).await;
    let spans = collector.trace(&other).await;
    let refused = spans.iter().find(|span| span.name == "GraphQL Operation").expect("an operation");
    assert_eq!(refused.attributes["error.type"], "GRAPHQL_VALIDATION_FAILED");
    assert!(spans.iter().all(|span| !span.failed), "{spans:#?}");

    let heads = collector.head();
    assert_eq!(heads["x-api-key"], "s3cret key");
    assert_eq!(heads["content-type"], "application/x-protobuf");

    read_by_others(&app, &collector).await;
    operations_of_sockets_are_traces_of_their_own(&app, &token, &collector).await;

    // The figures were asked for, too.
    assert!(collector.spans().iter().all(|span| !span.name.contains("/metrics")));
    let page = include_str!("../../docs/OBSERVABILITY.md");
    let (_, page) = page.split_once("## Traces").expect("a part about traces");
    for name in collector.spans().iter().flat_map(|span| span.attributes.keys()) {
        assert!(page.contains(&format!("`{name}`")), "docs/OBSERVABILITY.md does not tell of {name}");
    }
    for body in &collector.bodies() {
        let text = String::from_utf8_lossy(body);
        for value in ["the-hidden-value", "the-hidden-literal", "alice@", &token[..20], "acme-corp", "s3cret"] {
            assert!(!text.contains(value), "{value} is in a trace");
        }
    }
}

/// A socket lives for hours: each of its operations is a trace, found by the socket's request id.
async fn operations_of_sockets_are_traces_of_their_own(app: &TestApp, token: &str, collector: &Collector) {
    let mut request = app.ws_url().into_client_request().expect("a request");
    for (name, value) in [
        ("sec-websocket-protocol", "graphql-transport-ws".to_owned()),
        ("traceparent", format!("00-{}-{CALLER}-01", TRACE.replace('4', "7"))),
        ("x-request-id", "the-socket".to_owned()),
    ] {
        request.headers_mut().insert(name, value.parse().expect("a value"));
    }
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.expect("a socket");
    let authorization = format!("Bearer {token}");
    for message in [
        json!({ "type": "connection_init", "payload": { "Authorization": authorization } }),
        json!({ "id": "1", "type": "subscribe", "payload": { "query": "query OverASocket { viewer { role } }" } }),
    ] {
        socket.send(Message::text(message.to_string())).await.expect("sent");
        let said = tokio::time::timeout(Duration::from_secs(30), socket.next()).await.expect("in time");
        let said = said.expect("a message").expect("well").into_text().expect("text");
        assert!(!said.contains("error"), "{said}");
    }
    let is_it = |span: &Seen| span.attributes.get("graphql.operation.name").is_some_and(|name| name == "OverASocket");
    let spans = collector.until(is_it).await;
    let operation = spans.iter().find(|span| is_it(span)).expect("the operation");
    assert_eq!((operation.parent.as_str(), operation.kind), ("", 2), "{operation:#?}");
    assert_ne!(operation.trace, TRACE.replace('4', "7"), "{operation:#?}");
    assert!(operation.attributes["tenantry.request_id"].starts_with("the-socket"), "{operation:#?}");
}

/// Python's libraries read what we write: `prometheus_client` the figures, `opentelemetry-proto` the spans.
async fn read_by_others(app: &TestApp, collector: &Collector) {
    let (form, open) = metrics(app, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await;
    assert_eq!(form, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let (form, plain) = metrics(app, "*/*").await;
    assert_eq!(form, "text/plain; version=0.0.4; charset=utf-8");
    assert!(open.contains(&format!(" # {{trace_id=\"{TRACE}\"")) && open.ends_with("# EOF\n"), "{open}");
    assert!(!plain.contains("trace_id") && !plain.contains("# EOF"), "{plain}");
    let found = packages::pip(&["prometheus_client==0.26.0", "opentelemetry-proto==1.45.2"]).await;
    let folder = match found {
        Ok(folder) => folder,
        Err(why) => return packages::skipped("the readers of metrics and traces in Python", &why),
    };
    let files = tempfolder("read-by-others");
    std::fs::write(files.join("open.txt"), &open).expect("a file");
    std::fs::write(files.join("plain.txt"), &plain).expect("a file");
    std::fs::write(files.join("spans"), &collector.bodies()[0]).expect("a file");
    let script = r#"
import json
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as plain_families
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
opened = list(open_families(open("open.txt").read()))
plain = list(plain_families(open("plain.txt").read()))
examples = [s.exemplar.labels["trace_id"] for f in opened for s in f.samples if s.exemplar]
request = ExportTraceServiceRequest()
request.ParseFromString(open("spans", "rb").read())
spans = [s for r in request.resource_spans for c in r.scope_spans for s in c.spans]
assert request.SerializeToString() == open("spans", "rb").read(), "not canonical"
names = lambda families: sorted({s.name for f in families for s in f.samples})
print(json.dumps({
    "same": names(opened) == names(plain), "helpless": [f.name for f in opened if not f.documentation],
    "examples": examples, "spans": len(spans), "unknown": [s.name for s in spans if s.kind == 0 or len(s.trace_id) != 16],
    "resource": {a.key: a.value.string_value for a in request.resource_spans[0].resource.attributes},
}))
"#;
    let output =
        Command::new("python3").args(["-c", script]).env("PYTHONPATH", folder).current_dir(&files).output().await;
    let output = output.expect("python");
    let text = packages::text(&output);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(
        (&told["same"], &told["unknown"], &told["helpless"]),
        (&json!(true), &json!([]), &json!([])),
        "{told:#}"
    );
    assert!(told["examples"].as_array().expect("a list").contains(&json!(TRACE)), "{told:#}");
    assert!(told["spans"].as_u64().is_some_and(|count| count >= 1), "{told:#}");
    assert_eq!(told["resource"]["service.name"], "tenantry", "{told:#}");
    std::fs::remove_dir_all(files).ok();
}

fn tempfolder(name: &str) -> std::path::PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// One collector takes connections and never answers, another is not there. Nobody waits for them; what is lost is counted.
#[tokio::test]
async fn traces_wait_for_no_collector() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let hanging = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            kept.push(socket);
        }
    });
    let away = format!("http://127.0.0.1:{}", free_port());
    for (endpoint, counted) in [(&hanging, "overflowed"), (&away, "failed")] {
        // An attempt may take longer than the test: whoever waited for it would be seen.
        let timeout = if counted == "overflowed" { "600000" } else { "100" };
        let settings = [("OTEL_BSP_MAX_QUEUE_SIZE", "30"), ("OTEL_EXPORTER_OTLP_TIMEOUT", timeout)];
        let app = traced_app(endpoint, &settings).await;
        let token = app.token("alice@example.com", Some("acme-corp")).await;
        for n in 0..30 {
            let trace = format!("{:032x}", n + 1);
            let query = json!({ "query": "{ organization { tickets(first: 2) { nodes { subject } } } }" });
            let answer = tokio::time::timeout(Duration::from_mins(1), send(&app, &token, &trace, &query)).await;
            assert!(answer.expect("in time").get("errors").is_none());
        }
        let lost = format!("tenantry_trace_spans_total{{outcome=\"{counted}\"}} ");
        let mut count = 0;
        for _ in 0..1_000 {
            let (_, text) = metrics(&app, "*/*").await;
            count = text.lines().find_map(|line| line.strip_prefix(&lost)?.parse().ok()).unwrap_or(0);
            if count > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(count > 0, "{counted}");
    }
}

/// Names of series in a text: the family without what a histogram adds.
fn families_in(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words =
        text.split(|c| !is_name(c)).filter(|word| word.starts_with("tenantry_") || word.starts_with("process_"));
    let known = |name: &str| FAMILIES.iter().any(|(known, _)| *known == name);
    words
        .map(|word| {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
            family.filter(|family| known(family)).unwrap_or(word).to_owned()
        })
        .collect()
}

/// Dashboards, alerts and documentation name figures that are there, and every figure is documented.
#[tokio::test]
async fn figures_are_documented_and_the_dashboard_and_the_alerts_name_no_others() {
    let known: BTreeSet<String> = FAMILIES.iter().map(|(family, _)| (*family).to_owned()).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let read =
        |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    for name in ["observability/alerts.yml", "observability/alerts_test.yml", "observability/dashboard.json"] {
        let unknown: Vec<_> = families_in(&read(name)).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{name} names figures that /metrics has not: {unknown:?}");
    }
    let page = read("OBSERVABILITY.md");
    let rows: BTreeSet<String> = page.lines().filter(|line| line.starts_with("| `")).flat_map(families_in).collect();
    let missing: Vec<_> = known.difference(&rows).collect();
    assert!(missing.is_empty(), "docs/OBSERVABILITY.md has no row for {missing:?}");
    let alerts = read("observability/alerts.yml");
    for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(page.contains(&format!("`{alert}`")), "docs/OBSERVABILITY.md does not say what to do at {alert}");
    }

    let app = TestApp::start().await;
    let token = app.token("alice@example.com", Some("acme-corp")).await;
    app.data(&token, "query Mine { organization { tickets(first: 1) { nodes { subject } } } }", json!({})).await;
    app.error_code(&token, "query Wrong { nothing }", json!({})).await;
    // Neither paths nor methods are labels: they are the client's words.
    let brew = reqwest::Method::from_bytes(b"BREW").expect("a method");
    app.client().request(brew, format!("{}/hidden/path", app.base_url())).send().await.expect("an answer");
    let (_, text) = metrics(&app, "*/*").await;
    let shown: BTreeSet<String> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned)).collect();
    let unknown: Vec<_> = shown.difference(&known).collect();
    assert!(unknown.is_empty(), "src/http/metrics/families.rs does not say what these mean: {unknown:?}");
    // What is on demand only: trusted documents and traces, flags as soon as they are loaded, and what becomes of webhooks.
    let on_demand = ["tenantry_trusted_", "tenantry_trace_", "tenantry_flags_", "tenantry_webhooks_"];
    let absent: Vec<_> =
        known.difference(&shown).filter(|name| !on_demand.iter().any(|demand| name.starts_with(demand))).collect();
    assert!(absent.is_empty(), "/metrics has no {absent:?}");
    assert!(text.contains("\ntenantry_webhooks_pending{source=\"clerk\"} "), "{text}");
    assert!(!text.contains("hidden") && !text.contains("BREW"), "{text}");
    for line in [
        "tenantry_http_responses_total{route=\"-\",method=\"_OTHER\",status=\"404\"} 1",
        "tenantry_graphql_operations_total{operation=\"Mine\",type=\"query\",outcome=\"ok\"} 1",
        "tenantry_graphql_operation_seconds_count{operation=\"Mine\",type=\"query\"} 1",
        "tenantry_graphql_operations_total{operation=\"-\",type=\"-\",outcome=\"refused\"} 1",
        "tenantry_http_responses_total{route=\"/graphql\",method=\"POST\",status=\"200\"} 2",
        "tenantry_loader_batches_total{entity=\"Ticket\",kind=\"pages\"} 1",
        "tenantry_database_waiting{pool=\"read\"} 0",
        "tenantry_database_acquire_failures_total{pool=\"read\"} 0",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("tenantry_trace_spans_total"), "traces are off");

    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let folder = folder.join("observability");
        match Command::new("promtool").args(arguments).current_dir(folder).output().await {
            Ok(output) => assert!(output.status.success(), "{}", packages::text(&output)),
            Err(why) => return packages::skipped("promtool", &why.to_string()),
        }
    }
}
