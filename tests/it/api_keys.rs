//! API keys: what a program may do, from where, and for how long.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tenantry::clock::Clock;

use crate::support::{Setup, TestApp, codes};

const CREATE: &str = "mutation($input: ApiKeyCreateInput!) { apiKeyCreate(input: $input) { secret apiKey { id name prefix scopes allowedNetworks expiresAt createdBy { email } } userErrors { code field } } }";
const ROTATE: &str = "mutation($input: ApiKeyRotateInput!) { apiKeyRotate(input: $input) { secret apiKey { id name scopes expiresAt rotatedFrom { id expiresAt } } userErrors { code field } } }";
const REVOKE: &str = "mutation($input: ApiKeyRevokeInput!) { apiKeyRevoke(input: $input) { apiKey { revokedAt } userErrors { code field } } }";
const TICKETS: &str = "{ organization { slug tickets(first: 1) { nodes { id messages { nodes { body } } } } } }";
const OPEN: &str = "mutation($key: String) { ticketCreate(input: { subject: \"by a program\", idempotencyKey: $key }) { ticket { id subject } userErrors { code } } }";
const KEYS: &str = "{ organization { apiKeys { nodes { id prefix lastUsedAt } } } }";

async fn start() -> TestApp {
    TestApp::start_with(Setup { clock: Clock::manual(Clock::System.now()), ..Setup::default() }).await
}

/// What the payload of the only root field says.
async fn payload(app: &TestApp, token: &str, mutation: &str, input: Value) -> Value {
    let data = app.data(token, mutation, json!({ "input": input })).await;
    data.as_object().and_then(|fields| fields.values().next()).expect("a payload").clone()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// Makes a key; the key itself and its id.
async fn key(app: &TestApp, token: &str, input: Value) -> (String, String) {
    let made = payload(app, token, CREATE, input).await;
    assert_eq!(codes(&made), [] as [&str; 0], "{made}");
    (text(&made["secret"]), text(&made["apiKey"]["id"]))
}

/// The status and the first code of a request.
async fn answer(app: &TestApp, key: &str, organization: Option<&str>) -> (u16, Value) {
    let mut request = app.client().post(format!("{}/graphql", app.base_url())).bearer_auth(key);
    if let Some(organization) = organization {
        request = request.header("X-Organization-Id", organization);
    }
    let response = request.json(&json!({ "query": TICKETS })).send().await.expect("a response");
    let status = response.status().as_u16();
    let body: Value = response.json().await.expect("JSON");
    (status, body["errors"][0]["extensions"]["code"].clone())
}

#[tokio::test]
async fn keys_do_what_their_scopes_say_and_no_more() {
    let app = start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let made = payload(&app, &alice, CREATE, json!({ "name": "Help centre", "scopes": ["TICKET_CREATE", "ORGANIZATION_READ", "TICKET_CREATE"], "expiresInDays": 30 })).await;
    let secret = text(&made["secret"]);
    assert!(secret.starts_with(&text(&made["apiKey"]["prefix"])) && secret.len() == 50, "{made}");
    assert_eq!(made["apiKey"]["scopes"], json!(["ORGANIZATION_READ", "TICKET_CREATE"]));
    assert_eq!(made["apiKey"]["createdBy"]["email"], "alice@example.com");
    // The organization is the key's; the header may name it, and no other.
    let data = app.data(&secret, TICKETS, json!({})).await;
    assert_eq!(data["organization"]["slug"], "acme-corp");
    assert_eq!(answer(&app, &secret, Some("acme-corp")).await.1, Value::Null);
    assert_eq!(answer(&app, &secret, Some("tech-startup")).await.1, "ORGANIZATION_MISMATCH");
    // It writes as itself, once for each idempotency key of its own.
    let first = app.data(&secret, OPEN, json!({ "key": "k" })).await["ticketCreate"]["ticket"]["id"].clone();
    assert_eq!(app.data(&secret, OPEN, json!({ "key": "k" })).await["ticketCreate"]["ticket"]["id"], first);
    assert_ne!(app.data(&alice, OPEN, json!({ "key": "k" })).await["ticketCreate"]["ticket"]["id"], first);
    let log = "{ organization { auditLogs(where: { action: { eq: \"ticket.create\" } }, orderBy: [{ field: CREATED_AT, direction: ASC }]) { nodes { user { email } apiKey { name } } } } }";
    let rows = app.data(&alice, log, json!({})).await["organization"]["auditLogs"]["nodes"].clone();
    let (program, person) = (
        json!({ "user": null, "apiKey": { "name": "Help centre" } }),
        json!({ "user": { "email": "alice@example.com" }, "apiKey": null }),
    );
    let rows = rows.as_array().expect("rows");
    assert!(rows.iter().filter(|row| **row == program).count() == 1 && rows.contains(&person), "{rows:?}");
    // What is not among its scopes, and what is a person's.
    let notes = "{ organization { tickets { nodes { messages { nodes { isInternal } } } } } }";
    let shown = app.data(&secret, notes, json!({})).await.to_string();
    assert!(shown.contains("\"isInternal\":false") && !shown.contains("\"isInternal\":true"), "{shown}");
    for (query, code) in [
        ("{ organization { auditLogs { totalCount } } }", "FORBIDDEN"),
        ("{ organization { budgets { totalCount } } }", "FORBIDDEN"),
        ("mutation { organizationUpdate(input: { name: \"x\" }) { userErrors { code } } }", "FORBIDDEN"),
        ("mutation { organizationLeave(input: {}) { userErrors { code } } }", "FORBIDDEN"),
        ("mutation { apiKeyCreate(input: { name: \"x\", scopes: [TICKET_CREATE] }) { secret } }", "FORBIDDEN"),
        ("{ viewer { user { id } } }", "USER_REQUIRED"),
        ("{ platform { webhookEvents { totalCount } } }", "USER_REQUIRED"),
        ("mutation { organizationCreate(input: { name: \"x\" }) { userErrors { code } } }", "USER_REQUIRED"),
        ("mutation { invitationAccept(input: { token: \"x\" }) { userErrors { code } } }", "USER_REQUIRED"),
    ] {
        assert_eq!(app.error_code(&secret, query, json!({})).await, code, "{query}");
    }
    // The key itself is nowhere in the database.
    let found: i64 = sqlx::query_scalar("select count(*) from tenantry.api_keys k, tenantry.audit_logs a where k::text like $1 or a.metadata::text like $1")
        .bind(format!("%{}%", &secret[14..]))
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a count");
    assert_eq!(found, 0);
}

#[tokio::test]
async fn keys_are_refused_with_the_reason() {
    let app = start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    for (input, expected) in [
        (json!({ "name": " ", "scopes": [] }), vec!["BLANK", "BLANK"]),
        (json!({ "name": "x", "scopes": ["API_KEY_WRITE", "MEMBER_UPDATE"] }), vec!["INVALID", "INVALID"]),
        (json!({ "name": "x", "scopes": ["TICKET_CREATE"], "expiresInDays": 0 }), vec!["INVALID"]),
        (
            json!({ "name": "x", "scopes": ["TICKET_CREATE"], "allowedNetworks": ["10.0.0.1/8", "nowhere"] }),
            vec!["INVALID", "INVALID"],
        ),
    ] {
        assert_eq!(codes(&payload(&app, &alice, CREATE, input.clone()).await), expected, "{input}");
    }
    let (secret, id) =
        key(&app, &alice, json!({ "name": "a", "scopes": ["ORGANIZATION_READ"], "expiresInDays": 1 })).await;
    assert_eq!(answer(&app, &secret, None).await, (200, Value::Null));
    // Mistyped: refused whole, without a look at the database.
    let mut mistyped = secret.clone();
    mistyped.replace_range(20..21, if &secret[20..21] == "a" { "b" } else { "a" });
    assert_eq!(answer(&app, &mistyped, None).await, (401, json!("INVALID_API_KEY")));
    for odd in ["tnt_", "tnt_0", &format!("{secret}x"), &format!("tnt_{}", "0".repeat(46))] {
        assert_eq!(answer(&app, odd, None).await.1, "INVALID_API_KEY", "{odd}");
    }
    let stranger = tenantry::auth::api_key::ApiKeySecret::default();
    assert_eq!(answer(&app, stranger.text(), None).await.1, "INVALID_API_KEY");
    // From elsewhere.
    let (elsewhere, _) = key(
        &app,
        &alice,
        json!({ "name": "b", "scopes": ["ORGANIZATION_READ"], "allowedNetworks": ["203.0.113.0/24", "::1"] }),
    )
    .await;
    assert_eq!(answer(&app, &elsewhere, None).await.1, "INVALID_API_KEY");
    let (here, _) = key(
        &app,
        &alice,
        json!({ "name": "c", "scopes": ["ORGANIZATION_READ"], "allowedNetworks": ["203.0.113.0/24", "127.0.0.0/8"] }),
    )
    .await;
    assert_eq!(answer(&app, &here, None).await.1, Value::Null);
    // Revoked, and a day later expired.
    let (revoked, revoked_id) = key(&app, &alice, json!({ "name": "d", "scopes": ["ORGANIZATION_READ"] })).await;
    assert!(payload(&app, &alice, REVOKE, json!({ "id": revoked_id })).await["apiKey"]["revokedAt"].is_string());
    assert_eq!(codes(&payload(&app, &alice, REVOKE, json!({ "id": revoked_id })).await), ["INVALID_TRANSITION"]);
    assert_eq!(answer(&app, &revoked, None).await.1, "INVALID_API_KEY");
    assert_eq!(app.error_code(&revoked, OPEN, json!({})).await, "INVALID_API_KEY");
    app.clock.advance(chrono::Duration::days(1));
    assert_eq!(answer(&app, &secret, None).await.1, "INVALID_API_KEY");
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    assert_eq!(codes(&payload(&app, &alice, ROTATE, json!({ "id": id })).await), ["INVALID_TRANSITION"]);
    // Keys of a deleted organization are gone with it.
    sqlx::raw_sql("update tenantry.organizations set deleted_at = now() where slug = 'acme-corp'")
        .execute(&mut app.database.system().await)
        .await
        .expect("a deletion");
    assert_eq!(answer(&app, &here, None).await.1, "INVALID_API_KEY");
}

#[tokio::test]
async fn keys_rotate_with_an_overlap() {
    let app = start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let (old, id) =
        key(&app, &alice, json!({ "name": "a", "scopes": ["ORGANIZATION_READ"], "expiresInDays": 5 })).await;
    app.clock.advance(chrono::Duration::days(1));
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let rotated = payload(&app, &alice, ROTATE, json!({ "id": id, "overlapHours": 2 })).await;
    let new = text(&rotated["secret"]);
    assert_eq!(rotated["apiKey"]["rotatedFrom"]["id"], id.as_str());
    assert_eq!((answer(&app, &old, None).await.1, answer(&app, &new, None).await.1), (Value::Null, Value::Null));
    assert_eq!(codes(&payload(&app, &alice, ROTATE, json!({ "id": id })).await), ["INVALID_TRANSITION"], "two at once");
    app.clock.advance(chrono::Duration::hours(2));
    assert_eq!(
        (answer(&app, &old, None).await.1, answer(&app, &new, None).await.1),
        (json!("INVALID_API_KEY"), Value::Null)
    );
    // The new one lives as long as the old one was to.
    app.clock.advance(chrono::Duration::hours(5 * 24 - 3));
    assert_eq!(answer(&app, &new, None).await.1, Value::Null);
    app.clock.advance(chrono::Duration::hours(1));
    assert_eq!(answer(&app, &new, None).await.1, "INVALID_API_KEY");
}

#[tokio::test]
async fn keys_note_their_use_once_a_minute() {
    let app = start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let (secret, id) = key(&app, &alice, json!({ "name": "a", "scopes": ["ORGANIZATION_READ"] })).await;
    let used = async || {
        let nodes = app.data(&alice, KEYS, json!({})).await["organization"]["apiKeys"]["nodes"].clone();
        nodes.as_array().expect("keys").iter().find(|key| key["id"] == id.as_str()).expect("the key")["lastUsedAt"]
            .clone()
    };
    assert_eq!(used().await, Value::Null);
    let noted = async |than: &Value| {
        for _ in 0..500 {
            let now = used().await;
            if now != *than {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the use is not noted");
    };
    futures_util::future::join_all((0..20).map(|_| answer(&app, &secret, None))).await;
    let first = noted(&Value::Null).await;
    app.clock.advance(chrono::Duration::seconds(59));
    answer(&app, &secret, None).await;
    app.database.at_rest().await;
    assert_eq!(used().await, first);
    app.clock.advance(chrono::Duration::seconds(1));
    answer(&app, &secret, None).await;
    noted(&first).await;
}

/// A program follows what happens until its key is revoked.
#[tokio::test]
async fn keys_that_are_revoked_end_their_streams() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let (secret, id) =
        key(&app, &alice, json!({ "name": "a", "scopes": ["ORGANIZATION_READ", "TICKET_CREATE"] })).await;
    let response = app.follow(&secret, "subscription { ticketChanged { ticket { subject } } }", json!({})).await;
    app.subscribed(1).await;
    app.data(&secret, OPEN, json!({})).await;
    let mut stream = response.bytes_stream();
    let mut heard = String::new();
    let mut revoked = false;
    let listening = async {
        while let Some(chunk) = stream.next().await {
            heard += &String::from_utf8_lossy(&chunk.unwrap_or_default());
            if heard.contains("by a program") && !revoked {
                revoked = true;
                payload(&app, &alice, REVOKE, json!({ "id": id })).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), listening).await.expect("the stream ends");
    assert!(revoked && heard.contains("INVALID_API_KEY"), "{heard}");
}

/// Of two rotations at once one happens, and a hundred keys are the most, however many are made at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_made_at_once_are_counted() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let (_, id) = key(&app, &alice, json!({ "name": "a", "scopes": ["ORGANIZATION_READ"] })).await;
    let rotations =
        futures_util::future::join_all((0..8).map(|_| payload(&app, &alice, ROTATE, json!({ "id": id })))).await;
    assert_eq!(rotations.iter().filter(|payload| payload["secret"].is_string()).count(), 1);
    let made = futures_util::stream::iter(0..110)
        .map(|n| payload(&app, &alice, CREATE, json!({ "name": format!("{n}"), "scopes": ["ORGANIZATION_READ"] })));
    let made: Vec<Value> = made.buffer_unordered(8).collect().await;
    assert!(made.iter().all(|payload| payload["secret"].is_string() != (codes(payload) == ["CONFLICT"])), "{made:?}");
    let live: i64 = sqlx::query_scalar("select count(*) from tenantry.api_keys k join tenantry.organizations o on o.id = k.organization_id where o.slug = 'acme-corp' and revoked_at is null and (expires_at is null or expires_at > now())")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a count");
    assert_eq!(live, 100);
}
