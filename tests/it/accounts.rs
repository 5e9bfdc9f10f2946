//! Users who come with their tokens (`NEW_USERS=token`).

use futures_util::future::join_all;
use serde_json::{Value, json};
use tenantry::auth::dev::DEV_ISSUER;

use tenantry::webhook_events::WebhookSource::Clerk;

use crate::support::{Setup, TestApp, sign};
use crate::webhooks::{PENDING, deliver, environment, none_left, start_workers};

const VIEWER: &str =
    "{ viewer { user { id name email avatarUrl } isSuperadmin currentMembership { organization { slug } }
  memberships { role organization { name slug } } } }";
const CREATE: &str =
    "mutation { organizationCreate(input: { name: \"Beta\" }) { membership { role } userErrors { code } } }";

async fn start(settings: &[(&'static str, &str)]) -> TestApp {
    let environment = settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    TestApp::start_with(Setup { environment, ..Setup::default() }).await
}

/// A token with these claims beside those that every token has.
fn token(app: &TestApp, sub: &str, more: &Value) -> String {
    let mut claims = json!({ "iss": DEV_ISSUER, "sub": sub, "sid": format!("sess_{sub}") });
    for (name, value) in more.as_object().expect("claims") {
        claims[name] = value.clone();
    }
    sign(&json!({ "alg": "EdDSA", "typ": "JWT" }), &claims, &app.clock)
}

async fn count(app: &TestApp, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&mut app.database.system().await).await.expect("a count")
}

#[tokio::test]
async fn accounts_come_with_their_first_token() {
    let app = start(&[("PERSONAL_WORKSPACES", "on")]).await;
    let john = json!({ "name": "John Doe", "email": "john@new.example", "email_verified": true, "picture": "https://cdn.example/j.png" });
    let viewer = app.data(&token(&app, "auth0|1", &john), VIEWER, json!({})).await["viewer"].clone();
    assert_eq!(viewer["user"]["name"], "John Doe");
    assert_eq!(viewer["user"]["email"], "john@new.example");
    assert_eq!(viewer["user"]["avatarUrl"], "https://cdn.example/j.png");
    assert_eq!(viewer["isSuperadmin"], false);
    let workspace =
        json!([{ "role": "OWNER", "organization": { "name": "John's Workspace", "slug": "john-workspace" } }]);
    assert_eq!(viewer["memberships"], workspace);
    assert_eq!(viewer["currentMembership"]["organization"]["slug"], "john-workspace");
    // The next John has the next slug, whatever the first request is.
    let other = token(&app, "auth0|2", &json!({ "given_name": "John", "family_name": "Roe" }));
    assert_eq!(app.data(&other, CREATE, json!({})).await["organizationCreate"]["membership"]["role"], "OWNER");
    let viewer = app.data(&other, VIEWER, json!({})).await["viewer"].clone();
    assert_eq!(viewer["user"]["name"], "John Roe");
    assert_eq!(viewer["memberships"][1]["organization"]["slug"], "john-workspace-2", "{viewer}");
    // An address that is not verified is nobody's, and where a name is an address, none was published.
    let claims = json!({ "name": "eve@new.example", "email": "alice@example.com", "email_verified": false, "picture": "javascript:1" });
    let viewer = app.data(&token(&app, "auth0|3", &claims), VIEWER, json!({})).await["viewer"].clone();
    assert_eq!((&viewer["user"]["email"], &viewer["user"]["avatarUrl"]), (&Value::Null, &Value::Null));
    assert!(viewer["user"]["name"].as_str().is_some_and(|name| name.starts_with("Member ")), "{viewer}");
    assert_eq!(viewer["memberships"][0]["organization"]["slug"], "personal-workspace");
    let audited = count(&app, "select count(*) from tenantry.audit_logs where action = 'organization.create' and metadata ->> 'personal' = 'true' and user_id is not null and request_id is not null").await;
    assert_eq!(audited, 3);
}

#[tokio::test]
async fn accounts_keep_up_with_their_tokens() {
    let app = start(&[]).await;
    let first = token(&app, "oidc-1", &json!({ "name": "Ann", "email": "ann@old.example", "email_verified": "true" }));
    let id = app.data(&first, VIEWER, json!({})).await["viewer"]["user"]["id"].clone();
    let next = token(&app, "oidc-1", &json!({ "email": "ann@new.example", "email_verified": true, "name": 7 }));
    let user = app.data(&next, VIEWER, json!({})).await["viewer"]["user"].clone();
    assert_eq!(user, json!({ "id": id, "name": "Ann", "email": "ann@new.example", "avatarUrl": null }));
    // A row of the sync is the sync's.
    sqlx::raw_sql("update tenantry.users set source_version = 5 where clerk_id = 'oidc-1'")
        .execute(&mut app.database.system().await)
        .await
        .expect("a version");
    let last = token(&app, "oidc-1", &json!({ "name": "Mallory" }));
    assert_eq!(app.data(&last, VIEWER, json!({})).await["viewer"]["user"]["name"], "Ann");
    // The deleted stay so, and an ended session makes nobody.
    sqlx::raw_sql(
        "update tenantry.users set deleted_at = now() where clerk_id = 'oidc-1';
         insert into tenantry.ended_sessions (session_id) values ('sess_oidc-2')",
    )
    .execute(&mut app.database.system().await)
    .await
    .expect("an end");
    let gone = token(&app, "oidc-1", &json!({ "name": "Ann again" }));
    assert_eq!(app.error_code(&gone, VIEWER, json!({})).await, "ACCOUNT_GONE");
    let ended = token(&app, "oidc-2", &json!({}));
    assert_eq!(app.error_code(&ended, VIEWER, json!({})).await, "ACCOUNT_NOT_READY");
    // Nor does whoever acts in somebody's place.
    let acting = token(&app, "oidc-3", &json!({ "act": { "sub": "support" } }));
    assert_eq!(app.error_code(&acting, VIEWER, json!({})).await, "ACCOUNT_NOT_READY");
    assert_eq!(count(&app, "select count(*) from tenantry.users where clerk_id like 'oidc-%'").await, 1);
}

/// Who was adopted without an account gets their row, if the address is verified and theirs alone.
#[tokio::test]
async fn accounts_find_their_adopted_row() {
    let app = start(&[("PERSONAL_WORKSPACES", "on")]).await;
    sqlx::raw_sql(
        "insert into tenantry.users (id, clerk_id, email, name) values
           (gen_random_uuid(), 'legacy:1', 'Old@example.org', 'Old'), (gen_random_uuid(), 'legacy:2', 'twin@example.org', 'Twin'),
           (gen_random_uuid(), 'legacy:3', 'twin@example.org', 'Twin'), (gen_random_uuid(), 'legacy:4', 'boss@example.org', 'Boss');
         update tenantry.users set is_superadmin = true where clerk_id = 'legacy:4'",
    )
    .execute(&mut app.database.system().await)
    .await
    .expect("adopted users");
    for (sub, email, verified, linked) in [
        ("s-1", "old@example.org", false, false),
        ("s-2", "old@example.org", true, true),
        ("s-3", "old@example.org", true, false),
        ("s-4", "twin@example.org", true, false),
        ("s-5", "boss@example.org", true, false),
    ] {
        let claims = json!({ "email": email, "email_verified": verified });
        let viewer = app.data(&token(&app, sub, &claims), VIEWER, json!({})).await["viewer"].clone();
        assert_eq!(viewer["user"]["name"] == "Old", linked, "{sub}: {viewer}");
        assert_eq!(viewer["isSuperadmin"], false);
        assert_eq!(viewer["memberships"].as_array().map(Vec::len), Some(usize::from(!linked)), "{sub}: {viewer}");
    }
}

/// Thirty-two first requests at once, with four tokens: one user, one workspace.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn accounts_come_once() {
    let app = start(&[("PERSONAL_WORKSPACES", "on")]).await;
    let tokens: Vec<_> = (0..4).map(|n| token(&app, "once", &json!({ "name": "Once", "jti": n }))).collect();
    let responses = join_all((0..32).map(|n| app.run(&tokens[n % 4], VIEWER, json!({})))).await;
    for response in responses {
        assert_eq!(response["data"]["viewer"]["memberships"].as_array().map(Vec::len), Some(1), "{response}");
    }
    assert_eq!(count(&app, "select count(*) from tenantry.organizations where slug like 'once-workspace%'").await, 1);
}

/// The webhook of an account and its first token at once, in both orders: one user, one workspace, called what Clerk says.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn accounts_come_once_by_token_and_webhook() {
    let webhooks = environment();
    let webhooks = webhooks.iter().map(|(name, value)| (*name, value.as_str()));
    let settings: Vec<_> =
        [("PERSONAL_WORKSPACES", "on"), ("NEW_USERS", "token")].into_iter().chain(webhooks).collect();
    let app = start(&settings).await;
    let told = |n: usize| {
        let data = json!({ "id": format!("user_race_{n}"), "object": "user", "first_name": "Ada", "last_name": format!("{n}"),
            "email_addresses": [{ "id": "idn_1", "email_address": format!("ada{n}@race.example"), "verification": { "status": "verified" } }],
            "primary_email_address_id": "idn_1" });
        let body = json!({ "type": "user.created", "object": "event", "timestamp": app.clock.now().timestamp_millis(), "instance_id": "ins_test", "data": data });
        body.to_string()
    };
    let app = &app;
    let _workers = start_workers(&app.app, 3);
    join_all((0..24).map(|n| {
        let body = told(n);
        async move {
            let by_webhook = async { assert_eq!(deliver(app, Clerk, &format!("msg_race_{n}"), body).await.0, 200) };
            let bearer = token(app, &format!("user_race_{n}"), &json!({}));
            let by_token = async {
                for _ in 0..2 {
                    let viewer = app.data(&bearer, VIEWER, json!({})).await["viewer"].clone();
                    assert_eq!(viewer["memberships"].as_array().map(Vec::len), Some(1), "{viewer}");
                }
            };
            match n % 3 {
                0 => drop((by_token.await, by_webhook.await)),
                1 => drop((by_webhook.await, by_token.await)),
                _ => drop(futures_util::join!(by_webhook, by_token)),
            }
        }
    }))
    .await;
    none_left(&app.database, PENDING).await;
    let named = "select count(*) from tenantry.users u join tenantry.organization_members m on m.user_id = u.id
        join tenantry.organizations o on o.id = m.organization_id
        where u.clerk_id like 'user_race_%' and u.name like 'Ada %' and u.email is not null and o.name = 'Ada''s Workspace' and o.slug like 'ada-workspace%'";
    assert_eq!(count(app, named).await, 24);
    assert_eq!(count(app, "select count(*) from tenantry.organizations where slug ~ 'workspace'").await, 24);
}

#[tokio::test]
async fn accounts_wait_for_the_sync_where_it_makes_them() {
    for settings in [[("NEW_USERS", "sync")], [("IDENTITY_SOURCE", "clerk")]] {
        let app = start(&settings).await;
        let token = token(&app, "later", &json!({ "name": "Later" }));
        assert_eq!(app.error_code(&token, VIEWER, json!({})).await, "ACCOUNT_NOT_READY");
    }
}

/// Tokens of the shapes that other issuers publish: who comes of them, and of which none.
#[tokio::test]
async fn accounts_of_other_issuers_are_who_their_tokens_say() {
    let app =
        start(&[("AUTH_AUDIENCE", "account, my_client_id, authenticated"), ("AUTH_OAUTH_CLIENTS", "web-app")]).await;
    let user = async |sub: &str, claims: Value| {
        let mut token_claims = json!({ "iss": DEV_ISSUER, "sub": sub });
        for (name, value) in claims.as_object().expect("claims") {
            token_claims[name] = value.clone();
        }
        let token = sign(&json!({ "alg": "EdDSA", "typ": "JWT" }), &token_claims, &app.clock);
        app.run(&token, VIEWER, json!({})).await
    };
    let shown = |answer: &Value| {
        (answer["data"]["viewer"]["user"]["name"].clone(), answer["data"]["viewer"]["user"]["email"].clone())
    };
    // Keycloak: an access token with roles, scopes and a session.
    let keycloak = user("36fa0f91", json!({ "aud": "account", "typ": "Bearer", "azp": "web-app", "session_state": "2a88", "acr": "1", "sid": "2a88",
        "realm_access": { "roles": ["offline_access"] }, "scope": "email profile", "email_verified": true, "name": "Kay Cloak",
        "preferred_username": "kay", "given_name": "Kay", "family_name": "Cloak", "email": "kay@kc.example" })).await;
    assert_eq!(shown(&keycloak), (json!("Kay Cloak"), json!("kay@kc.example")), "{keycloak}");
    // Auth0: an ID token that does not say whether the address is verified, and a picture over http.
    let auth0 = user("auth0|123456", json!({ "aud": "my_client_id", "name": "Jane Doe", "given_name": "Jane", "family_name": "Doe", "gender": "female",
        "birthdate": "0000-10-31", "email": "jane@auth0.example", "picture": "http://auth0.example/me.jpg" })).await;
    assert_eq!(shown(&auth0), (json!("Jane Doe"), Value::Null), "{auth0}");
    // Cognito: an ID token is somebody; an access token names no audience and is nobody's session here.
    let cognito = json!({ "email_verified": true, "name": "Cora Nito", "email": "cora@cognito.example", "cognito:username": "cora", "aud": "my_client_id",
        "token_use": "id", "auth_time": 1, "identities": [{ "userId": "cora@cognito.example", "primary": true, "issuer": null }] });
    let cognito = user("248289dc", cognito).await;
    assert_eq!(shown(&cognito), (json!("Cora Nito"), json!("cora@cognito.example")), "{cognito}");
    let access = user(
        "248289dc",
        json!({ "token_use": "access", "scope": "openid email", "client_id": "web-app", "username": "cora" }),
    )
    .await;
    assert_eq!(access["errors"][0]["extensions"]["code"], "INVALID_TOKEN", "{access}");
    // Supabase: a session whose address is nowhere said to be verified, with empty texts.
    let supabase = user("a8b1c2d3", json!({ "aud": "authenticated", "email": "sue@supabase.example", "phone": "", "app_metadata": { "provider": "email" },
        "user_metadata": { "full_name": "Sue Base" }, "role": "authenticated", "aal": "aal1", "session_id": "f1e2", "is_anonymous": false })).await;
    let (name, email) = shown(&supabase);
    assert!(name.as_str().is_some_and(|name| name.starts_with("Member ")) && email.is_null(), "{supabase}");
}
