//! Client keys: made, shown once, used to sign, revoked.

use futures_util::StreamExt as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tenantry::client_keys::token::{PublicKey, Refusal, looks_like, verify};
use tenantry::clock::Clock;
use tenantry::id::ClientKeyId;

use crate::support::{Setup, TestApp, codes};

const CREATED: &str =
    "clientKey { id name environment expiresAt revokedAt version createdBy { email } } privateKeyPem privateKeyJwk";

async fn create(app: &TestApp, token: &str, input: Value) -> Value {
    app.mutate(token, "clientKeyCreate", CREATED, input).await
}

/// What the database has of a key.
async fn public(app: &TestApp, id: &str) -> PublicKey {
    let id = ClientKeyId::parse(id).expect("an id");
    let bytes: Vec<u8> = sqlx::query_scalar("select public_key from tenantry.client_keys where id = $1")
        .bind(id)
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a key");
    PublicKey::try_from(bytes.as_slice()).expect("32 bytes")
}

#[tokio::test]
async fn client_keys_sign_for_users_and_are_shown_once() {
    let app = TestApp::start_with(Setup { clock: Clock::manual(Clock::System.now()), ..Setup::default() }).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let made = create(&app, &alice, json!({ "name": "Web", "environment": "production", "expiresInDays": 30 })).await;
    assert_eq!(codes(&made), [""; 0], "{made}");
    let (id, pem) = (made["clientKey"]["id"].as_str().expect("an id"), made["privateKeyPem"].as_str().expect("a key"));
    assert_eq!(made["clientKey"]["createdBy"]["email"], "alice@example.com");
    assert_eq!((&made["privateKeyJwk"]["kid"], &made["privateKeyJwk"]["crv"]), (&json!(id), &json!("Ed25519")));
    // Signed by any library.
    let header = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::EdDSA) };
    let claims = json!({ "sub": "user-7", "exp": app.clock.now().timestamp() + 600 });
    let key = EncodingKey::from_ed_pem(pem.as_bytes()).expect("a key");
    let token = jsonwebtoken::encode(&header, &claims, &key).expect("a token");
    let known = public(&app, id).await;
    let seen = verify(&token, |named| (named.to_string() == id).then_some(known), app.clock.now()).expect("good");
    assert!(looks_like(&token) && seen.subject == "user-7", "{seen:?}");
    assert_eq!(verify(&token, |_| None, app.clock.now()), Err(Refusal::UnknownKey));
    // It is no session, and opens nothing of the API.
    assert_eq!(app.error_code(&token, "{ organization { id } }", json!({})).await, "INVALID_TOKEN");
    // The private half is nowhere.
    let secret = made["privateKeyJwk"]["d"].as_str().expect("a text");
    let found: i64 = sqlx::query_scalar(
        "select count(*) from tenantry.client_keys k, tenantry.audit_logs a where strpos(k::text || a::text, $1) > 0",
    )
    .bind(secret)
    .fetch_one(&mut app.database.system().await)
    .await
    .expect("a count");
    assert_eq!(found, 0);

    let revoke = async |token: &str, more: Value| {
        // What happens in one moment has no order.
        app.clock.advance(chrono::Duration::seconds(1));
        let mut input = json!({ "id": id });
        input.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        app.mutate(token, "clientKeyRevoke", "clientKey { revokedAt version }", input).await
    };
    let bob = app.token("bob@example.com", Some("tech-startup")).await;
    assert_eq!(codes(&revoke(&bob, json!({})).await), ["NOT_FOUND"], "another organization's");
    assert_eq!(codes(&revoke(&alice, json!({ "expectedVersion": 2 })).await), ["VERSION_CONFLICT"]);
    let revoked = revoke(&alice, json!({ "expectedVersion": 1 })).await;
    assert!(revoked["clientKey"]["revokedAt"].is_string() && revoked["clientKey"]["version"] == 2, "{revoked}");
    assert_eq!(codes(&revoke(&alice, json!({})).await), ["INVALID_TRANSITION"]);
    let log = "{ organization { auditLogs(where: { resourceType: { eq: \"ClientKey\" } }) { nodes { action } }
                               clientKeys(where: { revokedAt: { isNull: true } }) { nodes { name } } } }";
    let seen = app.data(&alice, log, json!({})).await["organization"].clone();
    assert_eq!(
        seen["auditLogs"]["nodes"],
        json!([{ "action": "client_key.revoke" }, { "action": "client_key.create" }])
    );
    assert_eq!(seen["clientKeys"]["nodes"], json!([{ "name": "Web application" }]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_keys_have_bounds() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    for (input, expected) in [
        (json!({ "name": " ", "environment": "" }), vec!["BLANK", "INVALID"]),
        (json!({ "name": "x", "environment": "Production" }), vec!["INVALID"]),
        (json!({ "name": "x", "environment": "a--b" }), vec!["INVALID"]),
        (json!({ "name": "x", "environment": "x".repeat(51) }), vec!["INVALID"]),
        (json!({ "name": "x", "environment": "x", "expiresInDays": 0 }), vec!["INVALID"]),
    ] {
        let refused = create(&app, &alice, input.clone()).await;
        assert_eq!(codes(&refused), expected, "{input}");
        assert_eq!((&refused["privateKeyPem"], &refused["privateKeyJwk"]), (&Value::Null, &Value::Null));
    }
    // With the one of the sample data a hundred at most, however many are made at once.
    let made =
        futures_util::stream::iter(0..104).map(|_| create(&app, &alice, json!({ "name": "x", "environment": "x" })));
    let made: Vec<Value> = made.buffer_unordered(8).collect().await;
    assert_eq!(made.iter().filter(|payload| codes(payload) == ["CONFLICT"]).count(), 5);
    // A program makes none.
    let create_key = json!({ "name": "x", "scopes": ["ORGANIZATION_READ"] });
    let program = app.mutate(&alice, "apiKeyCreate", "secret", create_key).await["secret"].clone();
    let document = crate::support::mutation("clientKeyCreate", CREATED);
    let input = json!({ "input": { "name": "x", "environment": "x" } });
    assert_eq!(app.error_code(program.as_str().expect("a key"), &document, input).await, "FORBIDDEN");
}
