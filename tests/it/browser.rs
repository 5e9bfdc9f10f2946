//! `GraphiQL` in a real browser: headless Chromium opens the page, runs its example tabs and
//! receives a live event. Skipped, and said so, where no Chromium is installed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// For one step of the page.
const STEP: Duration = Duration::from_secs(30);
/// For everything together.
const LIMIT: Duration = Duration::from_mins(3);
const POLL: Duration = Duration::from_millis(50);

#[tokio::test]
async fn graphiql_runs_the_default_query() {
    if chromium().is_none() {
        return skipped("no Chromium found (CHROMIUM, or chromium or google-chrome on PATH)");
    }
    let app = crate::support::TestApp::start().await;
    graphiql_works(&app.base_url()).await;
}

/// Past the test harness, which keeps the output of tests that pass to itself.
fn skipped(reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: browser::graphiql: {reason}");
}

/// Opens the page at `base_url`, a server with personas and sample data, and uses it.
pub async fn graphiql_works(base_url: &str) {
    let program = chromium().expect("Chromium is installed");
    timeout(LIMIT, async {
        let browser = Browser::start(&program).await;
        let mut page = browser.open(base_url).await;
        let outside = "document.querySelector('script[integrity]') !== null";
        if page.eval(outside).await == json!(true) {
            return skipped("this build does not embed GraphiQL, its page needs the internet");
        }

        page.until("the token is there", "document.documentElement.dataset.session === 'ready'").await;
        page.until("the schema is loaded", "document.documentElement.dataset.schema === 'loaded'").await;

        let overview = page.run("Overview").await;
        assert!(overview.contains("acme-corp"), "{overview}");
        assert!(!overview.contains("\"errors\""), "{overview}");
        let waiting = page.run("TicketsNeedingAnswer").await;
        assert!(waiting.contains("\"totalCount\""), "{waiting}");
        let created = page.run("TicketCreate").await;
        assert!(created.contains("\"userErrors\": []"), "{created}");

        page.open_tab("TicketChanged").await;
        page.click("button.graphiql-execute-button").await;
        page.until_event("the socket is accepted", |event| {
            event["method"] == "Network.webSocketFrameReceived"
                && event["params"]["response"]["payloadData"]
                    .as_str()
                    .is_some_and(|frame| frame.contains("connection_ack"))
        })
        .await;
        page.receive_a_ticket("Seen by the browser").await;

        // A dialog inserts a <style>: the policy lets it through by the nonce only.
        page.click("button[aria-label='Open settings dialog']").await;
        page.until("the dialog is open", "document.querySelector('.graphiql-dialog') !== null").await;

        let stored = page.eval("JSON.stringify({...localStorage})").await;
        let stored = stored.as_str().unwrap_or_default();
        assert!(stored.contains("TicketChanged"), "the tabs are not kept: {stored}");
        assert!(!stored.contains("eyJ"), "a token is in localStorage: {stored}");
        let violations = page.eval("tenantryTest.violations").await;
        assert_eq!(violations, json!([]), "the page broke its policy");
        page.assert_clean(base_url);
    })
    .await
    .expect("the browser test ends in time");
}

fn chromium() -> Option<PathBuf> {
    if let Some(program) = env::var_os("CHROMIUM") {
        return Some(program.into());
    }
    let path = env::var_os("PATH")?;
    ["chromium", "chromium-browser", "google-chrome"]
        .iter()
        .flat_map(|name| env::split_paths(&path).map(move |folder| folder.join(name)))
        .find(|program| program.is_file())
}

/// A running Chromium with a profile of its own; both are gone when it is dropped.
struct Browser {
    process: Child,
    profile: PathBuf,
    endpoint: String,
}

impl Browser {
    async fn start(program: &Path) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let profile = env::temp_dir().join(format!("tenantry-browser-{}-{number}", std::process::id()));
        fs::create_dir_all(&profile).expect("a profile folder");
        let log = profile.join("chromium.log");
        let process = Command::new(program)
            .args([
                "--headless",
                "--remote-debugging-port=0",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-quic",
                "--disable-extensions",
                "--disable-breakpad",
                // No requests of the browser's own: machines without internet refuse them by the
                // hundred.
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-proxy-server",
                "--window-size=1360,860",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("a log file"))
            .spawn()
            .expect("Chromium starts");
        let mut browser = Self { process, profile, endpoint: String::new() };
        let deadline = Instant::now() + STEP;
        while browser.endpoint.is_empty() {
            let file = browser.profile.join("DevToolsActivePort");
            let text = fs::read_to_string(file).unwrap_or_default();
            if let Some((port, path)) = text.split_once('\n') {
                browser.endpoint = format!("ws://127.0.0.1:{port}{}", path.trim());
                break;
            }
            let exited = browser.process.try_wait().expect("the process is ours");
            assert!(
                exited.is_none() && Instant::now() < deadline,
                "Chromium did not come up ({exited:?}): {}",
                fs::read_to_string(&log).unwrap_or_default()
            );
            sleep(POLL).await;
        }
        browser
    }

    async fn open(&self, url: &str) -> Page {
        let (socket, _) = connect_async(&self.endpoint).await.expect("the debugging port answers");
        let mut page = Page { socket, session: None, last_id: 0, events: Vec::new() };
        let target = page.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let session =
            page.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true})).await;
        page.session = Some(session["sessionId"].clone());
        for domain in ["Page", "Runtime", "Network", "Log"] {
            page.call(&format!("{domain}.enable"), json!({})).await;
        }
        let helpers = json!({"source": include_str!("browser/helpers.js")});
        page.call("Page.addScriptToEvaluateOnNewDocument", helpers).await;
        page.call("Page.navigate", json!({"url": url})).await;
        page.until("the page has the helpers", "typeof tenantryTest === 'object'").await;
        page
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its other processes end with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
        for _ in 0..20 {
            if fs::remove_dir_all(&self.profile).is_ok() {
                break;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// One page, driven over the Chrome `DevTools` protocol.
struct Page {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: Option<Value>,
    last_id: u64,
    events: Vec<Value>,
}

impl Page {
    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.clone();
        }
        let message = Message::text(message.to_string());
        self.socket.send(message).await.expect("the browser is there");
        loop {
            let mut answer = self.receive().await;
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].take();
            }
            self.events.push(answer);
        }
    }

    async fn receive(&mut self) -> Value {
        loop {
            let message = timeout(STEP, self.socket.next()).await.expect("the browser answers");
            let message = message.expect("the browser is there").expect("a sound message");
            if let Message::Text(text) = message {
                return serde_json::from_str(&text).expect("JSON");
            }
        }
    }

    /// The value of a script, after its promise.
    async fn eval(&mut self, script: &str) -> Value {
        let params = json!({"expression": script, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", params).await;
        let exception = &answer["exceptionDetails"];
        assert!(exception.is_null(), "{script}: {exception}");
        answer["result"]["value"].take()
    }

    async fn until(&mut self, what: &str, script: &str) {
        let deadline = Instant::now() + STEP;
        while self.eval(script).await != json!(true) {
            if Instant::now() > deadline {
                let text = self.eval("document.body.innerText").await;
                panic!("waited in vain until {what}.\n{:#?}\n{text}", self.problems());
            }
            sleep(POLL).await;
        }
    }

    async fn until_event(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + STEP;
        while !self.events.iter().any(&wanted) {
            let problems = self.problems();
            assert!(Instant::now() < deadline, "waited in vain until {what}.\n{problems:#?}");
            // Any call collects the events that came before its answer.
            self.eval("null").await;
            sleep(POLL).await;
        }
    }

    async fn click(&mut self, selector: &str) {
        let done = self.eval(&format!("tenantryTest.click({})", json!(selector))).await;
        assert_eq!(done, json!(true), "nothing to click on: {selector}");
    }

    async fn open_tab(&mut self, title: &str) {
        let done = self.eval(&format!("tenantryTest.openTab({})", json!(title))).await;
        assert_eq!(done, json!(true), "no tab {title}");
        let shown = format!("tenantryTest.text('.graphiql-query-editor').includes({})", json!(title));
        self.until(&format!("the tab {title} is open"), &shown).await;
    }

    /// Runs an example tab; answers with what the response pane shows.
    async fn run(&mut self, title: &str) -> String {
        self.open_tab(title).await;
        self.click("button.graphiql-execute-button").await;
        self.until(
            &format!("{title} has an answer"),
            "/\"(data|errors)\"/.test(tenantryTest.text('.graphiql-response'))",
        )
        .await;
        let text = self.eval("tenantryTest.text('.graphiql-response')").await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Creates tickets until the running subscription shows one: nothing tells when the server has
    /// begun to listen.
    async fn receive_a_ticket(&mut self, subject: &str) {
        let shown = format!("tenantryTest.text('.graphiql-response').includes({})", json!(subject));
        let deadline = Instant::now() + STEP;
        while self.eval(&shown).await != json!(true) {
            let pane = self.eval("tenantryTest.text('.graphiql-response')").await;
            assert!(Instant::now() < deadline, "the event does not arrive: {pane}");
            let answer = self.eval(&format!("tenantryTest.createTicket({})", json!(subject))).await;
            assert_eq!(answer["data"]["ticketCreate"]["userErrors"], json!([]), "{answer}");
            sleep(Duration::from_millis(300)).await;
        }
    }

    /// Console errors, exceptions and what the browser itself reports.
    fn problems(&self) -> Vec<&Value> {
        let bad = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown" | "Network.loadingFailed") => true,
            Some("Runtime.consoleAPICalled") => event["params"]["type"] == "error",
            Some("Log.entryAdded") => event["params"]["entry"]["level"] == "error",
            _ => false,
        };
        self.events.iter().filter(bad).collect()
    }

    fn assert_clean(&self, base_url: &str) {
        assert!(self.problems().is_empty(), "{:#?}", self.problems());
        let socket_url = base_url.replacen("http", "ws", 1);
        let requested = self.events.iter().filter_map(|event| {
            let params = &event["params"];
            match event["method"].as_str()? {
                "Network.requestWillBeSent" => params["request"]["url"].as_str(),
                "Network.webSocketCreated" => params["url"].as_str(),
                _ => None,
            }
        });
        let mut count = 0;
        for url in requested {
            let ours = [base_url, &socket_url, "data:"].iter().any(|it| url.starts_with(it));
            assert!(ours, "a request to another origin: {url}");
            count += 1;
        }
        assert!(count > 5, "only {count} requests were seen");
    }
}
