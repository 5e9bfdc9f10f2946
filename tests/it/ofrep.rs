//! Feature flags over OFREP: what is answered, to whom, and how soon a change is seen.

mod instances;
mod sdks;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tenantry::auth::api_key::ApiKeySecret;
use tenantry::clock::Clock;

use crate::support::{Setup, TestApp, hear, metrics};

const ALL: &str = "/ofrep/v1/evaluate/flags";

/// The answer to one request.
struct Answer {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    fn code(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["errorCode"].as_str().unwrap_or_default())
    }

    /// Of an answer to all flags.
    fn flag(&self, key: &str) -> &Value {
        let flags = self.body["flags"].as_array().unwrap_or_else(|| panic!("flags: {}", self.body));
        flags.iter().find(|flag| flag["key"] == key).unwrap_or_else(|| panic!("{key}: {}", self.body))
    }
}

async fn answered(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("a response");
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.text().await.expect("a body");
    Answer { status, headers, body: serde_json::from_str(&body).unwrap_or(Value::Null) }
}

/// Asks for a flag, or for all.
async fn ask(app: &TestApp, token: &str, key: &str, body: &Value) -> Answer {
    let path = if key.is_empty() { ALL.to_owned() } else { format!("{ALL}/{key}") };
    answered(app.client().post(format!("{}{path}", app.base_url())).bearer_auth(token).json(body)).await
}

async fn ask_again(app: &TestApp, token: &str, etag: &str, body: &Value) -> Answer {
    let request = app.client().post(format!("{}{ALL}", app.base_url())).bearer_auth(token).json(body);
    answered(request.header("If-None-Match", etag)).await
}

fn context(targeting_key: &str) -> Value {
    json!({ "context": { "targetingKey": targeting_key } })
}

/// Waits until something holds, for as long as a slow machine may take.
async fn until<W: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> W) {
    for _ in 0..1500 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it does not come about: {what}");
}

async fn key(app: &TestApp, scopes: &[&str]) -> String {
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let input = json!({ "name": "flags", "scopes": scopes });
    app.done(&alice, "apiKeyCreate", "secret", input).await["secret"].as_str().expect("a key").to_owned()
}

fn still() -> Setup {
    Setup { clock: Clock::manual(Clock::System.now()), ..Setup::default() }
}

#[tokio::test]
async fn ofrep_answers_as_the_protocol_says() {
    let app = TestApp::start().await;
    let program = key(&app, &["FEATURE_FLAG_READ"]).await;
    let one = ask(&app, &program, "holiday-banner", &json!({})).await;
    assert_eq!(
        (one.status.as_u16(), one.body),
        (
            200,
            json!({ "key": "holiday-banner", "value": true, "variant": "on", "reason": "STATIC", "metadata": { "reasonDetail": "DEFAULT" } })
        )
    );
    let all = ask(&app, &program, "", &context("somebody")).await;
    assert_eq!(all.flag("single-sign-on")["metadata"]["reasonDetail"], "OVERRIDE");
    assert_eq!(all.flag("suggested-answers")["reason"], "SPLIT");
    assert_eq!(
        all.flag("new-inbox")["variant"],
        all.flag("new-inbox")["value"].as_bool().map_or("", |on| if on { "on" } else { "off" })
    );
    assert_eq!(all.body["eventStreams"][0]["type"], "sse");
    assert!(all.header("etag").starts_with('"') && all.header("content-type").starts_with("application/json"));
    // Whom nobody names, no rollout counts; every other flag is decided.
    let nobody = ask(&app, &program, "", &json!({ "context": {} })).await;
    assert_eq!(
        (nobody.status.as_u16(), &nobody.flag("suggested-answers")["errorCode"]),
        (200, &json!("TARGETING_KEY_MISSING"))
    );
    assert_eq!(nobody.flag("holiday-banner")["value"], true);
    assert_eq!(ask(&app, &program, "suggested-answers", &json!({})).await.code(), (400, "TARGETING_KEY_MISSING"));
    assert_eq!(ask(&app, &program, "no-such", &context("u")).await.code(), (404, "FLAG_NOT_FOUND"));
    for hostile in
        ["a%2fb/c", "%ff", "%00", "..%2f..%2fgraphql", "' or 1=1 --", &"x".repeat(5000), "constructor", "__proto__"]
    {
        let refused = ask(&app, &program, hostile, &context("u")).await;
        assert_eq!(refused.code(), (404, "FLAG_NOT_FOUND"), "{hostile}");
        assert!(refused.body["key"].is_string() && refused.body["errorDetails"].is_string());
    }
    for (body, code) in [
        ("{", "PARSE_ERROR"),
        ("", "PARSE_ERROR"),
        ("[]", "PARSE_ERROR"),
        ("{\"context\":[]}", "INVALID_CONTEXT"),
        ("{\"context\":{\"targetingKey\":7}}", "INVALID_CONTEXT"),
    ] {
        for path in [ALL.to_owned(), format!("{ALL}/new-inbox")] {
            let request = app.client().post(format!("{}{path}", app.base_url())).bearer_auth(&program);
            let refused = answered(request.header("Content-Type", "application/json").body(body)).await;
            assert_eq!(refused.code(), (400, code), "{path} {body}");
        }
    }
    let megabyte = json!({ "context": { "targetingKey": "u", "much": "x".repeat(1024 * 1024) } });
    assert_eq!(ask(&app, &program, "", &megabyte).await.code(), (413, "INVALID_CONTEXT"));
    let large = json!({ "context": { "targetingKey": "u", "much": ["x".repeat(100), { "a": "x".repeat(200_000) }] } });
    assert_eq!(ask(&app, &program, "", &large).await.status, 200);
    let request = app.client().get(format!("{}{ALL}", app.base_url())).bearer_auth(&program);
    assert_eq!(request.send().await.expect("a response").status(), 405);
}

#[tokio::test]
async fn ofrep_knows_the_caller_before_anything_else() {
    let app = TestApp::start().await;
    let (program, other) = (key(&app, &["FEATURE_FLAG_READ"]).await, key(&app, &["ORGANIZATION_READ"]).await);
    let url = |path: &str| format!("{}{path}", app.base_url());
    for path in [ALL.to_owned(), format!("{ALL}/new-inbox"), format!("{ALL}/no-such")] {
        for (credential, status) in [(None, 401), (Some("nonsense"), 401), (Some(&*other), 403)] {
            let mut request = app.client().post(url(&path)).json(&json!("no context"));
            if let Some(credential) = credential {
                request = request.bearer_auth(credential);
            }
            let refused = answered(request).await;
            assert_eq!(refused.code(), (status, "GENERAL"), "{path} {credential:?}");
        }
    }
    let stream = app.client().get(url("/ofrep/v1/stream"));
    assert_eq!(stream.send().await.expect("a response").status(), 401);
    let stream = app.client().get(url("/ofrep/v1/stream?ticket=eyJvIjoxfQ.AAAAAAAAAAAAAAAAAAAAAA"));
    assert_eq!(stream.send().await.expect("a response").status(), 401);
    let with_key =
        app.client().post(url(&format!("{ALL}/holiday-banner"))).header("X-API-Key", &program).json(&json!({}));
    assert_eq!(answered(with_key).await.status, 200);
    // A context that names another organization names nothing.
    let named = json!({ "context": { "targetingKey": "u", "organizationId": "tech-startup", "organization": "tech-startup", "plan": "ENTERPRISE" } });
    let (with, without) = (ask(&app, &program, "", &named).await, ask(&app, &program, "", &context("u")).await);
    assert_eq!(with.body["flags"], without.body["flags"]);
    // Token and header must agree, as everywhere.
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let request =
        app.client().post(url(ALL)).bearer_auth(&alice).header("X-Organization-Id", "tech-startup").json(&json!({}));
    assert_eq!(answered(request).await.status, 400);
    // The same person is decided on alike: in GraphQL, with their token whomever the context names, and by a program that names them.
    let shown = app
        .data(
            &alice,
            "{ viewer { user { id } } organization { featureFlags { key value variant reason } } }",
            json!({}),
        )
        .await;
    let id = shown["viewer"]["user"]["id"].as_str().expect("an id");
    let own = ask(&app, &alice, "", &context("somebody else")).await;
    let named = ask(&app, &program, "", &context(id)).await;
    assert_eq!(own.body["flags"], named.body["flags"]);
    for flag in shown["organization"]["featureFlags"].as_array().expect("flags") {
        let there = own.flag(flag["key"].as_str().expect("a key"));
        assert_eq!(
            (&there["value"], &there["variant"], &there["metadata"]["reasonDetail"]),
            (&flag["value"], &flag["variant"], &flag["reason"])
        );
    }
    let preflight =
        app.client().request(reqwest::Method::OPTIONS, url(ALL)).header("Origin", "https://app.example.com");
    let preflight = preflight.header("Access-Control-Request-Method", "POST").send().await.expect("a response");
    assert_eq!(preflight.status(), 204);
}

#[tokio::test]
async fn etags_of_flags_cover_everything_that_is_decided_on() {
    let app = TestApp::start_with(still()).await;
    let program = key(&app, &["FEATURE_FLAG_READ"]).await;
    let first = ask(&app, &program, "", &context("u")).await;
    let etag = first.header("etag").to_owned();
    for known in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), etag.trim_matches('"').to_owned()] {
        let same = ask_again(&app, &program, &known, &context("u")).await;
        assert_eq!((same.status.as_u16(), same.header("etag"), &same.body), (304, &*etag, &Value::Null), "{known}");
    }
    assert_eq!(ask_again(&app, &program, &etag, &context("v")).await.status, 200);
    let mut last = etag;
    for (what, statement) in [
        (
            "the plan",
            "update tenantry.subscriptions set plan = 'ENTERPRISE' where organization_id = (select id from tenantry.organizations where slug = 'acme-corp')",
        ),
        (
            "a definition",
            "update tenantry.feature_flag_definitions set default_enabled = false where key = 'holiday-banner'",
        ),
        ("an override", "update tenantry.organization_feature_flags set enabled = false"),
        (
            "a new definition",
            "insert into tenantry.feature_flag_definitions (id, key, name, kind, default_enabled, starts_at) values (gen_random_uuid(), 'later', 'Later', 'RELEASE', true, now() + interval '1 hour')",
        ),
    ] {
        app.sql(statement).await;
        until(what, || async { ask_again(&app, &program, &last, &context("u")).await.status == 200 }).await;
        last = ask(&app, &program, "", &context("u")).await.header("etag").to_owned();
        assert_eq!(ask_again(&app, &program, &last, &context("u")).await.status, 304, "{what}");
    }
    assert_eq!(ask(&app, &program, "later", &json!({})).await.body["reason"], "DISABLED");
    // Another organization's override is no news here; the clock is.
    app.clock.advance(chrono::Duration::minutes(90));
    let opened = ask_again(&app, &program, &last, &context("u")).await;
    assert_eq!((opened.status.as_u16(), &opened.flag("later")["value"]), (200, &json!(true)));
}

#[tokio::test]
async fn typed_flags_have_values_of_their_type() {
    let app = TestApp::start().await;
    let program = key(&app, &["FEATURE_FLAG_READ"]).await;
    sdks::typed_flags(&app).await;
    until("the flags are there", || async { ask(&app, &program, "theme", &context("u")).await.status == 200 }).await;
    let all = ask(&app, &program, "", &context("u")).await;
    assert_eq!((&all.flag("theme")["value"], &all.flag("theme")["variant"]), (&json!("dark"), &json!("dark")));
    assert_eq!(all.flag("limits")["value"], json!({ "rows": 50, "export": true }));
    assert_eq!(all.flag("page-size")["value"], json!(25));
    assert_eq!(all.flag("page-size")["reason"], "STATIC");
    // A flag that is off and names no value leaves it to the code (`codeDefaultFlag`).
    let off = all.flag("no-value");
    assert!(off.get("value").is_none() && off["variant"] == "off" && off["reason"] == "STATIC", "{off}");
}

/// Time stands still here, so that nothing is forgotten because it is old.
#[tokio::test]
async fn credentials_are_asked_about_once_and_forgotten_when_they_end() {
    let app = TestApp::start_with(still()).await;
    let program = key(&app, &["FEATURE_FLAG_READ"]).await;
    let bob = app.token("bob@example.com", Some("acme-corp")).await;
    for token in [&program, &bob] {
        assert_eq!(ask(&app, token, "", &context("u")).await.status, 200);
    }
    let ((), statements) = app
        .statements(async {
            for token in [&program, &bob] {
                for _ in 0..20 {
                    assert_eq!(ask(&app, token, "new-inbox", &context("u")).await.status, 200);
                    assert_eq!(ask(&app, token, "", &context("u")).await.status, 200);
                }
            }
        })
        .await;
    // The connections were ended before: what was forgotten with that is asked once more.
    assert!(statements.iter().filter(|one| one.contains("enter_")).count() <= 2, "{statements:?}");

    let refused = |token: String, status: u16| {
        let app = &app;
        move || {
            let token = token.clone();
            async move { ask(app, &token, "new-inbox", &context("u")).await.status == status }
        }
    };
    app.sql("update tenantry.organization_members set deleted_at = now() where user_id = (select id from tenantry.users where email = 'bob@example.com')").await;
    until("who is no member is refused", refused(bob.clone(), 403)).await;
    app.sql("update tenantry.organization_members set deleted_at = null where user_id = (select id from tenantry.users where email = 'bob@example.com')").await;
    app.clock.advance(chrono::Duration::seconds(3));
    until("who is a member again is admitted", refused(bob.clone(), 200)).await;
    app.sql("update tenantry.users set blocked_until = 'infinity' where email = 'bob@example.com'").await;
    until("who is blocked is refused", refused(bob.clone(), 403)).await;
    app.sql("update tenantry.users set blocked_until = null where email = 'bob@example.com'").await;
    app.clock.advance(chrono::Duration::seconds(3));
    until("who is not blocked any more is admitted", refused(bob.clone(), 200)).await;
    app.sql("update tenantry.api_keys set revoked_at = now() where name = 'flags'").await;
    until("a revoked key is refused", refused(program, 401)).await;
    app.sql("update tenantry.organizations set deleted_at = now() where slug = 'acme-corp'").await;
    until("an organization that is deleted decides nothing", refused(bob.clone(), 403)).await;
    app.sql("update tenantry.organizations set deleted_at = null where slug = 'acme-corp'").await;
    app.clock.advance(chrono::Duration::seconds(3));
    until("one that is restored does", refused(bob.clone(), 200)).await;
    // A token ends by the clock, whatever is remembered.
    app.clock.advance(chrono::Duration::hours(2));
    assert_eq!(ask(&app, &bob, "new-inbox", &context("u")).await.status, 401);
}

#[tokio::test]
async fn guesses_neither_fill_the_memory_nor_ask_the_database_without_end() {
    let app = TestApp::start_with(still()).await;
    let program = key(&app, &["FEATURE_FLAG_READ"]).await;
    assert_eq!(ask(&app, &program, "new-inbox", &json!({})).await.status, 200);
    let known = app.app.flags.admissions.len();
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for _ in 0..60 {
        let guess = ApiKeySecret::default();
        *statuses.entry(ask(&app, guess.text(), "new-inbox", &json!({})).await.status.as_u16()).or_default() += 1;
    }
    assert_eq!(statuses, [(401, 20), (429, 40)].into(), "of one address 20 at once ask");
    assert_eq!(app.app.flags.admissions.len(), known);
    let full = ask(&app, ApiKeySecret::default().text(), "new-inbox", &json!({})).await;
    assert_eq!((full.code(), full.header("retry-after")), ((429, "GENERAL"), "1"));
    // What has no right checksum asks nothing, and who is known is let in.
    assert_eq!(ask(&app, "tnt_nonsense", "new-inbox", &json!({})).await.status, 401);
    assert_eq!(ask(&app, &program, "new-inbox", &json!({})).await.status, 200);
    app.clock.advance(chrono::Duration::seconds(1));
    assert_eq!(ask(&app, ApiKeySecret::default().text(), "new-inbox", &json!({})).await.status, 401);
}

#[tokio::test]
async fn credentials_have_a_rate() {
    let app = TestApp::start_with(Setup { environment: vec![("OFREP_RATE_LIMIT", "200".to_owned())], ..still() }).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(ask(&app, &alice, "", &json!({})).await.status.as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 200, 429], "two a second, and four at once");
    let full = ask(&app, &alice, "new-inbox", &json!({})).await;
    assert_eq!(
        (full.code(), full.header("retry-after"), &full.body["key"]),
        ((429, "GENERAL"), "1", &json!("new-inbox"))
    );
    app.clock.advance(chrono::Duration::seconds(1));
    assert_eq!(ask(&app, &alice, "", &json!({})).await.status, 200);
}

/// A token that the backend of an organization signs for somebody.
fn client_token(kid: &str, pem: &str, claims: &Value) -> String {
    let der = STANDARD.decode(pem.lines().filter(|line| !line.starts_with("--")).collect::<String>()).expect("PEM");
    let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": kid });
    let message = [&header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = jsonwebtoken::crypto::sign(
        message.as_bytes(),
        &jsonwebtoken::EncodingKey::from_ed_der(&der),
        jsonwebtoken::Algorithm::EdDSA,
    );
    format!("{message}.{}", signature.expect("a signature"))
}

#[tokio::test]
async fn client_tokens_decide_for_whom_they_were_signed_and_nothing_else() {
    let app = TestApp::start_with(still()).await;
    let (program, alice) =
        (key(&app, &["FEATURE_FLAG_READ"]).await, app.token("alice@example.com", Some("acme-corp")).await);
    let input = json!({ "name": "Web", "environment": "production" });
    let made = app.done(&alice, "clientKeyCreate", "clientKey { id version } privateKeyPem", input).await;
    let (kid, pem) = (made["clientKey"]["id"].as_str().expect("an id"), made["privateKeyPem"].as_str().expect("a key"));
    let token = |subject: &str, seconds: i64| {
        client_token(kid, pem, &json!({ "sub": subject, "exp": app.clock.now().timestamp() + seconds }))
    };
    let customer = token("customer-7", 600);
    until("the key is known", || async { ask(&app, &customer, "", &context("u")).await.status == 200 }).await;
    let (own, named) = (
        ask(&app, &customer, "", &context("somebody else")).await,
        ask(&app, &program, "", &context("customer-7")).await,
    );
    assert_eq!(own.body["flags"], named.body["flags"]);
    let other = ask(&app, &token("customer-8", 600), "", &json!({})).await;
    assert_eq!(other.flag("suggested-answers")["reason"], "SPLIT", "the token names the user: no context does");
    // No API, no other organization, no longer life, no other signature.
    assert_eq!(app.error_code(&customer, "{ organization { id } }", json!({})).await, "INVALID_TOKEN");
    assert_eq!(ask(&app, &token("u", 90_000), "", &json!({})).await.status, 401);
    assert_eq!(ask(&app, &token("u", -60), "", &json!({})).await.status, 401);
    let changed = if customer.ends_with('A') { "Q" } else { "A" };
    let changed = format!("{}{changed}", &customer[..customer.len() - 1]);
    assert_eq!(ask(&app, &changed, "", &json!({})).await.status, 401);
    let stream = ask(&app, &customer, "", &json!({})).await.body["eventStreams"][0]["endpoint"]["requestUri"].clone();
    let stream = app
        .client()
        .get(format!("{}{}", app.base_url(), stream.as_str().expect("an address")))
        .send()
        .await
        .expect("a stream");
    assert_eq!(stream.status(), 200);
    app.app.flags.flush(&app.app.services.db).await;
    let used =
        app.data(&alice, "{ organization { clientKeys(first: 9) { nodes { id lastUsedAt } } } }", json!({})).await;
    let used = used["organization"]["clientKeys"]["nodes"]
        .as_array()
        .expect("keys")
        .iter()
        .find(|one| one["id"] == kid)
        .expect("the key");
    assert!(used["lastUsedAt"].is_string(), "{used}");
    app.done(&alice, "clientKeyRevoke", "clientKey { id }", json!({ "id": kid })).await;
    until("a revoked key is refused", || async { ask(&app, &customer, "", &json!({})).await.status == 401 }).await;
    let ended = tokio::time::timeout(Duration::from_mins(1), stream.bytes()).await;
    assert!(ended.is_ok(), "the stream of a revoked key ends");
}

#[tokio::test]
async fn streams_tell_of_changes_and_end_with_the_credential() {
    let app = TestApp::start().await;
    let program = key(&app, &["FEATURE_FLAG_READ"]).await;
    let all = ask(&app, &program, "", &context("u")).await;
    let path = all.body["eventStreams"][0]["endpoint"]["requestUri"].as_str().expect("an address").to_owned();
    // Any client may open it as browsers do, without a header.
    let open = |last: Option<String>| {
        let request = app.client().get(format!("{}{path}", app.base_url()));
        let request = if let Some(last) = last { request.header("Last-Event-ID", last) } else { request };
        async move { request.send().await.expect("a stream") }
    };
    let config = all.body["metadata"]["flagConfigEtag"].as_str().expect("a version").to_owned();
    let first = hear(open(None).await, &["refetchEvaluation"]).await;
    assert!(
        first.contains(&format!(
            "id: {config}\nevent: message\ndata: {{\"type\":\"refetchEvaluation\",\"etag\":\"{config}\""
        )),
        "{first}"
    );
    // Who has heard of it is told of the next one only.
    let mut known = open(Some(config.clone())).await;
    assert!(known.chunk().await.expect("a chunk").expect("a beginning").starts_with(b"retry: "));
    app.sql("update tenantry.organization_feature_flags set enabled = not enabled").await;
    let told = hear(known, &["refetchEvaluation"]).await;
    assert!(!told.contains(&config), "{told}");
    let etag = told.split("\"etag\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a version");
    let request = app.client().post(format!("{}{ALL}?flagConfigEtag={etag}", app.base_url())).bearer_auth(&program);
    let again = answered(request.header("If-None-Match", all.header("etag")).json(&context("u"))).await;
    assert_eq!((again.status.as_u16(), &again.body["metadata"]["flagConfigEtag"]), (200, &json!(etag)));
    assert_eq!(again.body["eventStreams"], all.body["eventStreams"], "the address stays, so that nobody connects anew");
    // One whose key ends, ends.
    let last = open(Some(etag.to_owned())).await;
    app.sql("update tenantry.api_keys set revoked_at = now() where name = 'flags'").await;
    let ended =
        tokio::time::timeout(Duration::from_mins(1), last.bytes()).await.expect("it ends").expect("it ends well");
    assert!(!String::from_utf8_lossy(&ended).contains("refetchEvaluation"));
    assert_eq!(open(None).await.status(), 401);
}

#[tokio::test]
async fn subscribers_of_feature_flags_hear_of_plans_definitions_and_overrides() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let query = "subscription { featureFlagsChanged { etag featureFlags { key enabled reason } } }";
    for (statement, flag) in [
        (
            "update tenantry.subscriptions set plan = 'FREE'",
            r#"{"key":"advanced-analytics","enabled":false,"reason":"PLAN"}"#,
        ),
        (
            "update tenantry.feature_flag_definitions set default_enabled = false where key = 'automatic-refunds'",
            r#"{"key":"automatic-refunds","enabled":false,"reason":"KILL_SWITCH"}"#,
        ),
        (
            "delete from tenantry.organization_feature_flags",
            r#"{"key":"single-sign-on","enabled":false,"reason":"PLAN"}"#,
        ),
    ] {
        let stream = app.follow(&alice, query, json!({})).await;
        app.subscribed(1).await;
        until("it follows the memory, too", || async { app.app.flags.followers() > 0 }).await;
        app.sql(statement).await;
        let heard = hear(stream, &[flag]).await;
        assert!(heard.contains("\"etag\":\""), "{heard}");
        until("nobody follows", || async {
            app.app.flags.followers() == 0 && app.app.services.events.subscribers() == 0
        })
        .await;
    }
    let stream = app.follow(&alice, query, json!({})).await;
    app.subscribed(1).await;
    app.sql("update tenantry.organization_members set deleted_at = now() where user_id = (select id from tenantry.users where email = 'alice@example.com')").await;
    let bob = app.token("bob@example.com", Some("acme-corp")).await;
    assert_eq!(ask(&app, &bob, "", &json!({})).await.status, 200);
    app.sql("update tenantry.feature_flag_definitions set default_enabled = true where key = 'automatic-refunds'")
        .await;
    hear(stream, &["ORGANIZATION_NOT_FOUND"]).await;
}

/// How often a flag was asked for, as it is written.
async fn uses(app: &TestApp, key: &str) -> i64 {
    let sum = "select coalesce(sum(evaluations)::bigint, 0) from tenantry.feature_flag_usage where flag_key = $1";
    sqlx::query_scalar(sum).bind(key).fetch_one(&mut app.database.system().await).await.expect("a count")
}

#[tokio::test]
async fn uses_of_flags_are_counted_in_memory_and_written_in_batches() {
    let app = TestApp::start().await;
    let (program, alice) =
        (key(&app, &["FEATURE_FLAG_READ"]).await, app.token("alice@example.com", Some("acme-corp")).await);
    let (before, of_sso) = (uses(&app, "new-inbox").await, uses(&app, "single-sign-on").await);
    for _ in 0..3 {
        ask(&app, &program, "new-inbox", &json!({})).await;
    }
    ask(&app, &program, "", &json!({})).await;
    ask(&app, &program, "no-such", &json!({})).await;
    app.data(&alice, "{ organization { featureFlags { key } } }", json!({})).await;
    app.app.flags.flush(&app.app.services.db).await;
    assert_eq!((uses(&app, "new-inbox").await - before, uses(&app, "single-sign-on").await - of_sso), (5, 2));
    ask(&app, &program, "new-inbox", &json!({})).await;
    app.app.flags.flush(&app.app.services.db).await;
    assert_eq!((uses(&app, "new-inbox").await - before, uses(&app, "single-sign-on").await - of_sso), (6, 2));
    let metrics = metrics(&app.base_url()).await;
    assert!(
        metrics.contains("tenantry_flags_requests_total 6\n") && metrics.contains("tenantry_flags_stale 0\n"),
        "{metrics}"
    );
}
