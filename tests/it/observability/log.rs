//! What the log says of requests: their trace, and what was slow about them; and no value.

use tokio::io::Lines;
use tokio::process::{Child, ChildStderr};

use super::*;

/// The trace of a caller that does not record it.
const UNRECORDED: &str = "0af7651916cd43dd8448eb211c80319c";
/// What is in no line.
const HIDDEN: [&str; 2] = ["the-hidden-value", "the-hidden-literal"];

/// The binary, with its log.
struct Server {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    base: String,
    client: reqwest::Client,
    token: String,
}

impl Server {
    async fn start(database: &TestDb, data: &Path, environment: &[(&str, &str)]) -> Self {
        let postgres = &cluster().await.server;
        let url = |role| postgres.url(role, &database.name);
        let (app_url, system_url) = (url(local_postgres::APP_ROLE), url(local_postgres::SUPERADMIN_ROLE));
        let port = free_port();
        let mut child = tenantry()
            .args(["serve", "--role", "api"])
            .env("TENANTRY_DATA_DIR", data)
            .envs([("PORT", port.to_string()), ("DATABASE_URL", app_url), ("SUPERADMIN_DATABASE_URL", system_url)])
            .env("LOG_FORMAT", "json")
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary");
        let log = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let (base, client) = (format!("http://127.0.0.1:{port}"), reqwest::Client::new());
        for _ in 0..600 {
            if let Ok(answer) =
                client.get(format!("{base}/dev/token?user=alice@example.com&org=acme-corp")).send().await
            {
                let answer: Value = answer.json().await.expect("JSON");
                let token = answer["token"].as_str().expect("a token").to_owned();
                return Self { child, log, base, client, token };
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server did not get ready");
    }

    fn request(&self, traceparent: &str, body: &Value) -> reqwest::RequestBuilder {
        let request = self.client.post(format!("{}/graphql", self.base)).bearer_auth(&self.token).json(body);
        request.header("traceparent", traceparent)
    }

    /// Reads lines up to this one.
    async fn until(&mut self, message: &str, operation: Option<&str>) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            let line = tokio::time::timeout(Duration::from_secs(30), self.log.next_line()).await.expect("in time");
            let line = line.expect("lines").unwrap_or_else(|| panic!("{message} is not in {lines:#?}"));
            assert!(!HIDDEN.iter().any(|hidden| line.contains(hidden)) && !line.contains(&self.token), "{line}");
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let is_it = line["message"] == message && operation.is_none_or(|operation| line["operation"] == operation);
            lines.push(line);
            if is_it {
                return lines;
            }
        }
    }

    /// Asks it to end, and waits until it has.
    async fn stop(mut self) {
        let pid = self.child.id().expect("a running child").to_string();
        Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill");
        tokio::spawn(async move { while let Ok(Some(_)) = self.log.next_line().await {} });
        tokio::time::timeout(Duration::from_mins(1), self.child.wait()).await.expect("in time").expect("an end");
    }
}

/// Waits until so many statements wait for a lock.
async fn wait_for_waiting(holder: &mut sqlx::PgConnection, count: i64) {
    let waiting = "select count(distinct pid) from pg_locks where not granted and database = (select oid from pg_database where datname = current_database())";
    for _ in 0..3_000 {
        if sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut *holder).await.expect("a look") >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("fewer than {count} statements wait");
}

/// The lines of a request's log have its trace; a slow operation is named with its statements and, on request, their plan, without
/// values; who went away is counted; and what was recorded last is sent before the end.
#[tokio::test]
async fn traces_and_logs_are_joined_and_slow_operations_are_explained() {
    let collector = Collector::start().await;
    let (database, data) = (TestDb::seeded().await, tempfolder("joined"));
    let environment = [
        ("SLOW_OPERATION_MS", "900"),
        ("SLOW_OPERATION_PLANS", "on"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "600000"),
        ("TRACE_CALLERS", "believed"),
    ];
    let mut server = Server::start(&database, &data, &environment).await;

    // A caller that is believed and does not record: nothing is recorded, and the line has the caller's ids.
    let body = json!({ "query": "query Unrecorded { __typename }" });
    server.request(&format!("00-{UNRECORDED}-{CALLER}-00"), &body).send().await.expect("an answer");
    let mut lines = server.until("graphql", Some("Unrecorded")).await;
    let line = lines.last().expect("a line");
    assert_eq!((&line["trace_id"], &line["span_id"]), (&json!(UNRECORDED), &json!(CALLER)), "{line:#}");

    let traced = format!("00-{TRACE}-{CALLER}-01");
    let body = json!({ "query": "subscription Watched { ticketChanged { ticket { id } } }" });
    let watching = server.request(&traced, &body).header("accept", "text/event-stream").send().await.expect("a stream");
    // Statements wait while somebody holds the table.
    let mut holder = database.superuser().await;
    holder.execute("begin; lock table tenantry.tickets in access exclusive mode").await.expect("a lock");
    let query = "query Held($s: String!) { organization { tickets(first: 3, where: { subject: { ne: $s } }) { nodes { subject } }
        others: tickets(first: 3, where: { subject: { ne: \"the-hidden-literal\" } }) { totalCount } } }";
    let body = json!({ "query": query, "variables": { "s": "the-hidden-value" } });
    let asked = tokio::spawn(server.request(&traced, &body).send());
    wait_for_waiting(&mut holder, 1).await;
    let body = json!({ "query": "query Gone { organization { tickets(first: 3) { nodes { subject } } } }" });
    let gone = tokio::spawn(server.request(&traced, &body).send());
    wait_for_waiting(&mut holder, 2).await;
    gone.abort();
    tokio::time::sleep(Duration::from_millis(950)).await;
    drop(watching);
    lines.extend(server.until("graphql", Some("Watched")).await);
    holder.execute("rollback").await.expect("the end");
    let answer: Value = asked.await.expect("a task").expect("a response").json().await.expect("JSON");
    assert!(answer.get("errors").is_none(), "{answer:#}");
    lines.extend(server.until("plan of a slow statement", None).await);

    let line = |message: &str| {
        let is_it = |line: &&Value| line["message"] == message && line["operation"] == "Held";
        lines.iter().find(is_it).unwrap_or_else(|| panic!("{message} is not in {lines:#?}"))
    };
    let (told, slow) = (line("graphql"), line("slow operation"));
    assert_eq!((&told["trace_id"], &slow["trace_id"]), (&json!(TRACE), &json!(TRACE)), "{lines:#?}");
    let document = slow["document"].as_str().expect("text");
    assert!(document.len() >= 16 && document.bytes().all(|byte| byte.is_ascii_hexdigit()), "{document}");
    assert_eq!(told["document"], document);
    // Streams last as long as their clients want.
    let other = |line: &&Value| {
        line["message"] == "slow operation" && ["Watched", "Unrecorded"].iter().any(|name| line["operation"] == *name)
    };
    assert_eq!(lines.iter().find(other), None);
    let slowest = slow["slowest"].as_str().expect("text");
    assert!(slowest.starts_with("SELECT tenantry.tickets ["), "{slowest}");
    let plan = lines.last().expect("the plan");
    assert!(slowest.contains(plan["statement"].as_str().expect("a hash")), "{slowest} {plan:#}");
    let text = plan["plan"].as_str().expect("text");
    assert!(text.contains("$1") && text.contains("Scan") && !text.contains("actual"), "{text}");

    let text = crate::support::metrics(&server.base).await;
    for line in [
        "tenantry_graphql_operations_total{operation=\"other\",type=\"query\",outcome=\"gone\"} 1",
        "tenantry_http_responses_total{route=\"/graphql\",method=\"POST\",status=\"499\"} 1",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
    }

    // Nothing was sent so far: the pause is ten minutes. The end sends it.
    assert!(collector.spans().is_empty());
    server.stop().await;
    let spans = collector.trace(TRACE).await;
    let operation = spans.iter().find(|span| span.id == told["span_id"].as_str().expect("an id"));
    assert_eq!(operation.map(|span| span.name.as_str()), Some("query"));
    assert!(collector.spans().iter().all(|span| span.trace != UNRECORDED));
    std::fs::remove_dir_all(data).ok();
}
