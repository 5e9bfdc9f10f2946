//! Whoever is removed, demoted, banned, locked, deleted or signed out at the identity provider is out at their next request,
//! and their streams end.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tenantry::webhook_events::WebhookSource::Clerk;
use tenantry::webhooks::worker::Worker;

use crate::support::{TestApp, sign};
use crate::webhooks::{deliver, start};

const TICKETS: &str = "{ organization { tickets(first: 1) { nodes { id } } } }";
const VIEWER: &str = "{ viewer { user { email } } }";
const CREATE: &str = "mutation { ticketCreate(input: { subject: \"late\" }) { ticket { id } userErrors { code } } }";
const FOLLOW: &str = "subscription { ticketChanged { ticket { id } } }";
const FOLLOW_EVENTS: &str = "subscription { webhookDelivery { webhookEvent { id } } }";

/// Delivers an event and applies all that waits.
async fn happens(app: &TestApp, n: u32, kind: &str, data: Value) {
    let timestamp = app.clock.now().timestamp_millis() + i64::from(n);
    let body =
        json!({ "type": kind, "object": "event", "timestamp": timestamp, "instance_id": "ins_test", "data": data });
    assert_eq!(deliver(app, Clerk, &format!("msg_{n}"), body.to_string()).await.0, 200);
    let worker = Worker::new(&app.app.webhooks);
    while worker.step().await.expect("a step") > 0 {}
}

async fn clerk_id(app: &TestApp, slug: &str) -> String {
    sqlx::query_scalar("select clerk_org_id from tenantry.organizations where slug = $1")
        .bind(slug)
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("an organization")
}

/// A session token of a user of the sample data for Acme, of this session.
async fn token(app: &TestApp, user: &str, session: &str) -> String {
    let organization = clerk_id(app, "acme-corp").await;
    let claims = json!({ "iss": "tenantry-development", "sub": user, "sid": session, "v": 2, "o": { "id": organization, "slg": "acme-corp" } });
    sign(&json!({ "alg": "EdDSA", "typ": "JWT" }), &claims, &app.clock)
}

/// A stream of events that is open.
struct Follower(tokio::task::JoinHandle<String>);

impl Follower {
    async fn start(app: &TestApp, token: &str, query: &str, count: usize) -> Self {
        let response = app.follow(token, query, json!({})).await;
        app.subscribed(count).await;
        let mut stream = response.bytes_stream();
        Self(tokio::spawn(async move {
            let mut heard = String::new();
            while let Some(Ok(chunk)) = stream.next().await {
                heard.push_str(&String::from_utf8_lossy(&chunk));
            }
            heard
        }))
    }

    /// What was heard until the server ended the stream.
    async fn ends(self) -> String {
        tokio::time::timeout(Duration::from_secs(20), self.0).await.expect("the stream ends").expect("what was heard")
    }
}

fn membership(organization: &str, user: &str, role: &str) -> Value {
    json!({ "id": format!("orgmem_{user}"), "object": "organization_membership", "role": role, "created_at": 1_700_000_000_000_i64,
            "organization": { "id": organization, "object": "organization" },
            "public_user_data": { "user_id": user, "identifier": format!("{user}@example.com") } })
}

#[tokio::test]
async fn revocation_of_an_account_shuts_requests_and_streams() {
    let app = start().await;
    let acme = clerk_id(&app, "acme-corp").await;
    let user = |user: &str, change: Value| {
        let mut data = json!({ "id": user, "object": "user", "first_name": "Some", "last_name": "One", "email_addresses": [], "banned": false, "locked": false });
        data.as_object_mut().expect("an object").extend(change.as_object().cloned().unwrap_or_default());
        data
    };
    let cases = [
        ("user_dave", "user.updated", user("user_dave", json!({ "banned": true })), "ACCOUNT_BLOCKED"),
        (
            "user_erin",
            "user.updated",
            user("user_erin", json!({ "locked": true, "lockout_expires_in_seconds": 3600 })),
            "ACCOUNT_BLOCKED",
        ),
        (
            "user_carol",
            "user.deleted",
            json!({ "id": "user_carol", "object": "user", "deleted": true }),
            "ACCOUNT_GONE",
        ),
        (
            "user_frank",
            "session.revoked",
            json!({ "id": "sess_user_frank", "object": "session", "user_id": "user_frank" }),
            "SESSION_ENDED",
        ),
        (
            "user_alice",
            "organizationMembership.deleted",
            membership(&acme, "user_alice", "org:member"),
            "ORGANIZATION_NOT_FOUND",
        ),
    ];
    for (n, (name, kind, data, code)) in (0..).zip(cases) {
        let (own, other) = (format!("sess_{name}"), format!("other_{name}"));
        let (token, second) = (token(&app, name, &own).await, token(&app, name, &other).await);
        app.data(&token, TICKETS, json!({})).await;
        let follower = Follower::start(&app, &token, FOLLOW, 1).await;
        happens(&app, n, kind, data).await;
        assert_eq!(app.error_code(&token, TICKETS, json!({})).await, code, "{name}");
        assert_eq!(app.error_code(&token, CREATE, json!({})).await, code, "{name}");
        let heard = follower.ends().await;
        assert!(heard.contains(code), "{name}: {heard}");
        match kind {
            // The viewer remains, and is no member.
            "organizationMembership.deleted" => drop(app.data(&token, VIEWER, json!({})).await),
            // Only this session is over.
            "session.revoked" => {
                assert_eq!(app.error_code(&token, VIEWER, json!({})).await, code);
                app.data(&second, TICKETS, json!({})).await;
            }
            _ => {
                assert_eq!(app.error_code(&token, VIEWER, json!({})).await, code, "{name}");
                assert_eq!(app.error_code(&second, TICKETS, json!({})).await, code, "{name}");
            }
        }
    }
    // What was lifted is over.
    happens(&app, 20, "user.updated", user("user_dave", json!({ "banned": false }))).await;
    app.data(&token(&app, "user_dave", "sess_again").await, TICKETS, json!({})).await;
    sqlx::query("update tenantry.users set blocked_until = now() - interval '1 second' where clerk_id = 'user_erin'")
        .execute(&mut app.database.system().await)
        .await
        .expect("the lock ends by itself");
    app.data(&token(&app, "user_erin", "sess_again").await, TICKETS, json!({})).await;
}

#[tokio::test]
async fn revocation_of_a_right_ends_the_streams_that_need_it() {
    let app = start().await;
    let acme = clerk_id(&app, "acme-corp").await;
    // An administrator, beside whom the organization has its owner.
    happens(&app, 1, "organizationMembership.updated", membership(&acme, "user_dave", "org:admin")).await;
    let token = token(&app, "user_dave", "sess_1").await;
    let events = Follower::start(&app, &token, FOLLOW_EVENTS, 1).await;
    let tickets = Follower::start(&app, &token, FOLLOW, 2).await;
    happens(&app, 2, "organizationMembership.updated", membership(&acme, "user_dave", "org:member")).await;
    assert!(events.ends().await.contains("FORBIDDEN"));
    // A member may still see tickets.
    app.data(&token, TICKETS, json!({})).await;
    assert!(!tickets.0.is_finished());
    happens(&app, 3, "organization.deleted", json!({ "id": acme, "object": "organization", "deleted": true })).await;
    assert!(tickets.ends().await.contains("ORGANIZATION_NOT_FOUND"));
}

/// Operators who look into an organization are no members of it, and are shut out of it as members are.
#[tokio::test]
async fn revocation_ends_the_streams_of_operators() {
    let app = start().await;
    app.sql(
        "insert into tenantry.support_accesses (organization_id, id, user_id, reason, actions, expires_at)
         select o.id, gen_random_uuid(), u.id, 'a test', '{ORGANIZATION_READ,AUDIT_READ}', now() + interval '1 hour'
           from tenantry.organizations o, tenantry.users u where o.slug = 'acme-corp' and u.clerk_id = 'user_admin'",
    )
    .await;
    let ended = json!({ "id": "sess_1", "object": "session", "user_id": "user_admin" });
    let banned = json!({ "id": "user_admin", "object": "user", "banned": true, "email_addresses": [] });
    for (n, session, kind, data, code) in [
        (1, "sess_1", "session.revoked", ended, "SESSION_ENDED"),
        (2, "sess_2", "user.updated", banned, "ACCOUNT_BLOCKED"),
    ] {
        let follower = Follower::start(&app, &token(&app, "user_admin", session).await, FOLLOW, 1).await;
        happens(&app, n, kind, data).await;
        let heard = follower.ends().await;
        assert!(heard.contains(code), "{heard}");
    }
}

/// "Not here yet" and "gone" are told apart, also where the deletion came before anything else.
#[tokio::test]
async fn revocation_is_no_delay_and_a_delay_no_revocation() {
    let app = start().await;
    let bearer = |user: &str| {
        sign(
            &json!({ "alg": "EdDSA", "typ": "JWT" }),
            &json!({ "iss": "tenantry-development", "sub": user, "sid": "s", "v": 2 }),
            &app.clock,
        )
    };
    assert_eq!(app.error_code(&bearer("user_new"), VIEWER, json!({})).await, "ACCOUNT_NOT_READY");
    happens(&app, 1, "user.created", json!({ "id": "user_new", "object": "user", "first_name": "New" })).await;
    app.data(&bearer("user_new"), VIEWER, json!({})).await;
    happens(&app, 2, "user.deleted", json!({ "id": "user_new", "object": "user", "deleted": true })).await;
    assert_eq!(app.error_code(&bearer("user_new"), VIEWER, json!({})).await, "ACCOUNT_GONE");
    happens(&app, 3, "user.deleted", json!({ "id": "user_never", "object": "user", "deleted": true })).await;
    assert_eq!(app.error_code(&bearer("user_never"), VIEWER, json!({})).await, "ACCOUNT_GONE");
    // A superadmin who is banned is no superadmin.
    let platform = "{ platform { webhookEvents(first: 1) { totalCount } } }";
    app.data(&bearer("user_admin"), platform, json!({})).await;
    happens(&app, 4, "user.updated", json!({ "id": "user_admin", "object": "user", "banned": true })).await;
    assert_eq!(app.error_code(&bearer("user_admin"), platform, json!({})).await, "FORBIDDEN");
}
