//! Members and invitations: who may change whom, never without an owner, and what a link opens.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Setup, TestApp, codes};

const MEMBERS: &str = "{ organization { members(first: 100) { nodes { id role user { email } } } } }";
const UPDATE: &str = "mutation($input: OrganizationMemberUpdateInput!) { organizationMemberUpdate(input: $input) { member { role } userErrors { code field } } }";
const REMOVE: &str = "mutation($input: OrganizationMemberRemoveInput!) { organizationMemberRemove(input: $input) { member { id } userErrors { code field } } }";
const LEAVE: &str = "mutation { organizationLeave(input: {}) { memberId userErrors { code field } } }";
const TRANSFER: &str = "mutation($input: OrganizationOwnershipTransferInput!) { organizationOwnershipTransfer(input: $input) { member { role } userErrors { code field } } }";
const INVITE: &str = "mutation($input: InvitationCreateInput!) { invitationCreate(input: $input) { acceptUrl invitation { id email role expiresAt } userErrors { code field } } }";
const RESEND: &str = "mutation($input: InvitationResendInput!) { invitationResend(input: $input) { acceptUrl invitation { expiresAt } userErrors { code field } } }";
const REVOKE: &str = "mutation($input: InvitationRevokeInput!) { invitationRevoke(input: $input) { invitation { revokedAt } userErrors { code field } } }";
const ACCEPT: &str = "mutation($input: InvitationAcceptInput!) { invitationAccept(input: $input) { membership { role organization { slug } } userErrors { code field } } }";

/// The member with this address: the id.
async fn member(app: &TestApp, token: &str, email: &str) -> String {
    let data = app.data(token, MEMBERS, json!({})).await;
    let nodes = data["organization"]["members"]["nodes"].as_array().expect("members");
    let found = nodes.iter().find(|node| node["user"]["email"] == email);
    found.unwrap_or_else(|| panic!("{email} is no member: {nodes:?}"))["id"].as_str().expect("an id").to_owned()
}

async fn roles(app: &TestApp, token: &str) -> Vec<(String, String)> {
    let data = app.data(token, MEMBERS, json!({})).await;
    let nodes = data["organization"]["members"]["nodes"].as_array().expect("members").clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    nodes.iter().map(|node| (text(&node["user"]["email"]), text(&node["role"]))).collect()
}

/// What the payload of the only root field says.
async fn payload(app: &TestApp, token: &str, mutation: &str, input: Value) -> Value {
    let data = app.data(token, mutation, json!({ "input": input })).await;
    data.as_object().and_then(|fields| fields.values().next()).expect("a payload").clone()
}

async fn set_role(app: &TestApp, email: &str, role: &str) {
    sqlx::query(
        "update tenantry.organization_members m set role = $2::tenantry.member_role from tenantry.users u, tenantry.organizations o
          where u.id = m.user_id and u.email = $1 and o.id = m.organization_id and o.slug = 'acme-corp'",
    )
    .bind(email)
    .bind(role)
    .execute(&mut app.database.system().await)
    .await
    .expect("a role");
}

#[tokio::test]
async fn members_are_changed_by_whom_may() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    set_role(&app, "carol@example.com", "ADMIN").await;
    let carol = app.token("carol@example.com", Some("acme-corp")).await;
    let (own, hers, dave) = (
        member(&app, &alice, "alice@example.com").await,
        member(&app, &alice, "carol@example.com").await,
        member(&app, &alice, "dave@example.com").await,
    );
    // An administrator changes members, and neither makes owners nor touches them.
    assert_eq!(
        payload(&app, &carol, UPDATE, json!({ "id": dave, "role": "VIEWER" })).await["member"]["role"],
        "VIEWER"
    );
    for input in [json!({ "id": own, "role": "MEMBER" }), json!({ "id": dave, "role": "OWNER" })] {
        assert_eq!(codes(&payload(&app, &carol, UPDATE, input).await), ["OWNER_REQUIRED"]);
    }
    assert_eq!(codes(&payload(&app, &carol, REMOVE, json!({ "id": own })).await), ["OWNER_REQUIRED"]);
    // The last owner stays.
    assert_eq!(codes(&payload(&app, &alice, UPDATE, json!({ "id": own, "role": "ADMIN" })).await), ["LAST_OWNER"]);
    assert_eq!(codes(&payload(&app, &alice, REMOVE, json!({ "id": own })).await), ["LAST_OWNER"]);
    assert_eq!(codes(&app.data(&alice, LEAVE, json!({})).await["organizationLeave"]), ["LAST_OWNER"]);
    assert_eq!(codes(&payload(&app, &alice, TRANSFER, json!({ "memberId": own })).await), ["INVALID"]);
    // Handed over, one may go.
    assert_eq!(payload(&app, &alice, TRANSFER, json!({ "memberId": hers })).await["member"]["role"], "OWNER");
    assert!(roles(&app, &carol).await.contains(&("alice@example.com".to_owned(), "ADMIN".to_owned())));
    assert!(app.data(&alice, LEAVE, json!({})).await["organizationLeave"]["memberId"].is_string());
    assert_eq!(app.error_code(&alice, MEMBERS, json!({})).await, "ORGANIZATION_NOT_FOUND");
    // Removed is out, and is not there to be removed again.
    let token = app.token("dave@example.com", Some("acme-corp")).await;
    app.data(&token, MEMBERS, json!({})).await;
    assert_eq!(codes(&payload(&app, &carol, REMOVE, json!({ "id": dave })).await), [] as [&str; 0]);
    assert_eq!(app.error_code(&token, MEMBERS, json!({})).await, "ORGANIZATION_NOT_FOUND");
    assert_eq!(codes(&payload(&app, &carol, REMOVE, json!({ "id": dave })).await), ["NOT_FOUND"]);
    // Who works in an organization belongs to it.
    let lost: i64 = sqlx::query_scalar(
        "select count(*) from tenantry.users u where current_organization_id is not null and deleted_at is null
            and not exists (select from tenantry.organization_members m where m.user_id = u.id and m.organization_id = u.current_organization_id and m.deleted_at is null)",
    )
    .fetch_one(&mut app.database.system().await)
    .await
    .expect("a count");
    assert_eq!(lost, 0);
    let audited: Vec<String> = sqlx::query_scalar(
        "select a.action from tenantry.audit_logs a where a.action like 'member.%' or a.action = 'organization.transfer' order by a.id",
    )
    .fetch_all(&mut app.database.system().await)
    .await
    .expect("the audit log");
    assert_eq!(audited, ["member.update", "organization.transfer", "member.leave", "member.remove"]);
}

/// Eight owners, thirty-two demotions and departures at once: one owner remains.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_never_lose_their_last_owner() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let owners = ["alice", "carol", "dave", "erin", "frank"].map(|name| format!("{name}@example.com"));
    for email in &owners {
        set_role(&app, email, "OWNER").await;
    }
    let mut tokens = Vec::new();
    for email in &owners {
        tokens.push((app.token(email, Some("acme-corp")).await, member(&app, &alice, email).await));
    }
    let attempts = (0..32).map(|n| {
        let (token, _) = &tokens[n % tokens.len()];
        let (_, target) = &tokens[(n * 7 + n / 5) % tokens.len()];
        let app = &app;
        async move {
            match n % 3 {
                0 => app.run(token, UPDATE, json!({ "input": { "id": target, "role": "MEMBER" } })).await,
                1 => app.run(token, REMOVE, json!({ "input": { "id": target } })).await,
                _ => app.run(token, LEAVE, json!({})).await,
            }
        }
    });
    join_all(attempts).await;
    let left: i64 = sqlx::query_scalar(
        "select count(*) from tenantry.organization_members m join tenantry.organizations o on o.id = m.organization_id
          where o.slug = 'acme-corp' and m.role = 'OWNER' and m.deleted_at is null",
    )
    .fetch_one(&mut app.database.system().await)
    .await
    .expect("a count");
    assert_eq!(left, 1, "as many go as may, and one stays");
}

#[tokio::test]
async fn invitations_open_once_for_whom_they_are() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    // Grace belongs to the other organization.
    let grace = app.token("grace@example.com", None).await;
    let erin = app.token("erin@example.com", None).await;
    let token_of = |payload: &Value| {
        let url = payload["acceptUrl"].as_str().expect("a link").to_owned();
        assert!(url.starts_with("http://localhost:8080/invitations/accept?token=inv_"), "{url}");
        url.split_once("token=").expect("a token").1.to_owned()
    };
    for (input, code) in [
        (json!({ "email": "" }), "BLANK"),
        (json!({ "email": "nobody" }), "INVALID"),
        (json!({ "email": "a b@example.com" }), "INVALID"),
        (json!({ "email": "x@example.com", "expiresInDays": 31 }), "INVALID"),
        (json!({ "email": "x@example.com", "expiresInDays": 0 }), "INVALID"),
        (json!({ "email": "Carol@Example.com" }), "CONFLICT"),
    ] {
        assert_eq!(codes(&payload(&app, &alice, INVITE, input.clone()).await), [code], "{input}");
    }
    let invited = payload(&app, &alice, INVITE, json!({ "email": "Grace@example.com", "role": "ADMIN" })).await;
    let first = token_of(&invited);
    assert_eq!(codes(&payload(&app, &alice, INVITE, json!({ "email": "grace@EXAMPLE.com" })).await), ["CONFLICT"]);
    // A new link ends the old one.
    let id = invited["invitation"]["id"].clone();
    let second = token_of(&payload(&app, &alice, RESEND, json!({ "id": id, "expiresInDays": 1 })).await);
    assert_eq!(codes(&payload(&app, &grace, ACCEPT, json!({ "token": first })).await), ["NOT_FOUND"]);
    // In other hands it opens nothing and tells nothing.
    assert_eq!(codes(&payload(&app, &erin, ACCEPT, json!({ "token": second })).await), ["NOT_FOUND"]);
    assert_eq!(codes(&payload(&app, &grace, ACCEPT, json!({ "token": "inv_" })).await), ["NOT_FOUND"]);
    let impersonated = app.impersonated("grace@example.com", None, "user_support").await;
    assert_eq!(
        app.error_code(&impersonated, ACCEPT, json!({ "input": { "token": second } })).await,
        "IMPERSONATION_RESTRICTED"
    );
    // Many at once: one joins.
    let answers = join_all((0..8).map(|_| payload(&app, &grace, ACCEPT, json!({ "token": second })))).await;
    let joined: Vec<&Value> = answers.iter().filter(|answer| answer["membership"].is_object()).collect();
    assert_eq!(joined.len(), 1, "{answers:?}");
    assert_eq!(joined[0]["membership"], json!({ "role": "ADMIN", "organization": { "slug": "acme-corp" } }));
    assert!(
        answers
            .iter()
            .filter(|answer| answer["membership"].is_null())
            .all(|answer| codes(answer) == ["INVALID_TRANSITION"])
    );
    let inside = app.token("grace@example.com", Some("acme-corp")).await;
    assert!(roles(&app, &inside).await.contains(&("grace@example.com".to_owned(), "ADMIN".to_owned())));
    assert_eq!(codes(&payload(&app, &alice, RESEND, json!({ "id": id })).await), ["INVALID_TRANSITION"]);

    // An administrator invites no owner. Revoked and expired ones open nothing.
    assert_eq!(
        codes(&payload(&app, &inside, INVITE, json!({ "email": "boss@example.com", "role": "OWNER" })).await),
        ["OWNER_REQUIRED"]
    );
    let stranger = app.token("admin@example.com", None).await;
    let revoked = payload(&app, &inside, INVITE, json!({ "email": "admin@example.com" })).await;
    let token = token_of(&revoked);
    assert!(
        payload(&app, &inside, REVOKE, json!({ "id": revoked["invitation"]["id"] })).await["invitation"]["revokedAt"]
            .is_string()
    );
    assert_eq!(codes(&payload(&app, &stranger, ACCEPT, json!({ "token": token })).await), ["INVALID_TRANSITION"]);
    let expired =
        token_of(&payload(&app, &inside, INVITE, json!({ "email": "admin@example.com", "expiresInDays": 1 })).await);
    sqlx::query("update tenantry.invitations set expires_at = now() - interval '1 second' where lower(email) = 'admin@example.com' and revoked_at is null")
        .execute(&mut app.database.system().await)
        .await
        .expect("time passes");
    assert_eq!(codes(&payload(&app, &stranger, ACCEPT, json!({ "token": expired })).await), ["EXPIRED"]);
    // An expired one does not stand in the way of the next, and who left may come back.
    let again = token_of(&payload(&app, &inside, INVITE, json!({ "email": "admin@example.com" })).await);
    assert_eq!(payload(&app, &stranger, ACCEPT, json!({ "token": again })).await["membership"]["role"], "MEMBER");
    let left = app.token("admin@example.com", Some("acme-corp")).await;
    app.data(&left, LEAVE, json!({})).await;
    let back =
        token_of(&payload(&app, &inside, INVITE, json!({ "email": "admin@example.com", "role": "VIEWER" })).await);
    assert_eq!(payload(&app, &stranger, ACCEPT, json!({ "token": back })).await["membership"]["role"], "VIEWER");
    // No token is anywhere but in the links.
    let kept: i64 = sqlx::query_scalar("select count(*) from tenantry.audit_logs where metadata::text like '%inv_%'")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a count");
    assert_eq!(kept, 0);
}

/// Where Clerk decides, nothing is changed behind its back; its unknown organizations are ours.
#[tokio::test]
async fn members_that_clerk_decides_about_are_changed_there() {
    let environment = vec![("IDENTITY_SOURCE", "clerk".to_owned()), ("APP_URL", "https://app.example.com/".to_owned())];
    let app = TestApp::start_with(Setup { environment, ..Setup::default() }).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let carol = member(&app, &alice, "carol@example.com").await;
    assert_eq!(
        codes(&payload(&app, &alice, UPDATE, json!({ "id": carol, "role": "VIEWER" })).await),
        ["MANAGED_ELSEWHERE"]
    );
    assert_eq!(codes(&payload(&app, &alice, INVITE, json!({ "email": "x@example.com" })).await), ["MANAGED_ELSEWHERE"]);
    sqlx::query("update tenantry.organizations set clerk_org_id = null where slug = 'acme-corp'")
        .execute(&mut app.database.system().await)
        .await
        .expect("an organization of ours");
    let claims = json!({ "iss": "tenantry-development", "sub": "user_alice", "sid": "s", "v": 2 });
    let alice = crate::support::sign(&json!({ "alg": "EdDSA", "typ": "JWT" }), &claims, &app.clock);
    let answer: Value = app
        .client()
        .post(format!("{}/graphql", app.base_url()))
        .bearer_auth(&alice)
        .header("X-Organization-Id", "acme-corp")
        .json(&json!({ "query": INVITE, "variables": { "input": { "email": "x@example.com" } } }))
        .send()
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    let url = answer["data"]["invitationCreate"]["acceptUrl"].as_str().unwrap_or_default();
    assert!(url.starts_with("https://app.example.com/invitations/accept?token=inv_"), "{answer}");
}

#[tokio::test]
async fn organizations_are_made_by_anybody_with_an_account() {
    const CREATE: &str = "mutation($input: OrganizationCreateInput!) { organizationCreate(input: $input) { membership { role organization { id slug name } } userErrors { code field } } }";
    let environment = vec![("NEW_USERS", "sync".to_owned())];
    let app = TestApp::start_with(Setup { environment, ..Setup::default() }).await;
    let grace = app.token("grace@example.com", None).await;
    for (input, code) in [
        (json!({ "name": " " }), "BLANK"),
        (json!({ "name": "x".repeat(201) }), "TOO_LONG"),
        (json!({ "name": "A", "slug": "A B" }), "INVALID"),
        (json!({ "name": "A", "slug": "-a" }), "INVALID"),
        (json!({ "name": "A", "slug": "acme-corp" }), "CONFLICT"),
    ] {
        assert_eq!(codes(&payload(&app, &grace, CREATE, input.clone()).await), [code], "{input}");
    }
    // Many of one name at once: each gets a slug that people can read.
    let made = join_all((0..6).map(|_| payload(&app, &grace, CREATE, json!({ "name": "Grace & Söhne" })))).await;
    let mut slugs: Vec<&str> =
        made.iter().filter_map(|payload| payload["membership"]["organization"]["slug"].as_str()).collect();
    slugs.sort_unstable();
    assert_eq!(
        slugs,
        ["grace-s-hne", "grace-s-hne-2", "grace-s-hne-3", "grace-s-hne-4", "grace-s-hne-5", "grace-s-hne-6"]
    );
    let inside = app.token("grace@example.com", Some("grace-s-hne")).await;
    assert_eq!(roles(&app, &inside).await, [("grace@example.com".to_owned(), "OWNER".to_owned())]);
    let log = "{ organization { auditLogs { nodes { action ipAddress user { email } } } } }";
    let nodes = app.data(&inside, log, json!({})).await["organization"]["auditLogs"]["nodes"].clone();
    assert_eq!(
        nodes,
        json!([{ "action": "organization.create", "ipAddress": "127.0.0.1", "user": { "email": "grace@example.com" } }])
    );
    // Nothing of the others is to be seen.
    assert_eq!(
        codes(
            &payload(&app, &inside, UPDATE, json!({ "id": "mem_0199c0ffee0070008000000000000001", "role": "VIEWER" }))
                .await
        ),
        ["NOT_FOUND"]
    );
    let stranger = crate::support::sign(
        &json!({ "alg": "EdDSA", "typ": "JWT" }),
        &json!({ "iss": "tenantry-development", "sub": "user_nobody", "sid": "s", "v": 2 }),
        &app.clock,
    );
    assert_eq!(app.error_code(&stranger, CREATE, json!({ "input": { "name": "A" } })).await, "ACCOUNT_NOT_READY");
    let impersonated = app.impersonated("grace@example.com", None, "user_support").await;
    assert_eq!(
        app.error_code(&impersonated, CREATE, json!({ "input": { "name": "A" } })).await,
        "IMPERSONATION_RESTRICTED"
    );
}

/// The export has every row once, in order, over page boundaries, of one organization.
#[tokio::test]
async fn audit_logs_are_exported_whole() {
    let app = TestApp::start().await;
    sqlx::query(
        "insert into tenantry.audit_logs (organization_id, id, action, resource_type, metadata, created_at)
         select o.id, gen_random_uuid(), 'test.' || n, 'Test', jsonb_build_object('n', n), now() - interval '1 day' + (n / 7) * interval '1 ms'
           from tenantry.organizations o, generate_series(1, 2500) n where o.slug in ('acme-corp', 'tech-startup')",
    )
    .execute(&mut app.database.system().await)
    .await
    .expect("rows");
    let organization: uuid::Uuid = sqlx::query_scalar("select id from tenantry.organizations where slug = 'acme-corp'")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("Acme");
    let organization = tenantry::id::OrganizationId::from_uuid(organization);
    let exported = async |since| {
        let mut rows: Vec<Value> = Vec::new();
        let export = tenantry::audit::Export { organization, since, until: None };
        let count = tenantry::audit::export::<tenantry::error::Error>(&app.app.services.db, export, |row| {
            rows.push(row.clone());
            Ok(())
        })
        .await
        .expect("an export");
        assert_eq!(count.rows, rows.len() as u64);
        rows
    };
    let rows = exported(None).await;
    let expected: i64 = sqlx::query_scalar("select count(*) from tenantry.audit_logs a join tenantry.organizations o on o.id = a.organization_id where o.slug = 'acme-corp'")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a count");
    assert_eq!(i64::try_from(rows.len()).expect("few"), expected);
    assert!(
        rows.iter().all(|row| row["organization"] == organization.to_string()
            && row["id"].as_str().is_some_and(|id| id.starts_with("aud_"))),
        "{}",
        rows[0]
    );
    let ids: std::collections::BTreeSet<&str> = rows.iter().filter_map(|row| row["id"].as_str()).collect();
    assert_eq!(ids.len(), rows.len());
    assert!(rows.iter().map(|row| row["position"].as_i64()).eq((1..=expected).map(Some)), "places without gaps");
    assert_eq!(exported(Some(app.clock.now() + chrono::Duration::hours(1))).await.len(), 0);
}

const SWITCH: &str = "mutation($input: OrganizationSwitchInput!) { organizationSwitch(input: $input) { membership { role organization { id slug } } userErrors { code field } } }";
const CURRENT: &str =
    "{ viewer { currentMembership { role organization { slug } } memberships { organization { id slug } } } }";

/// Where somebody works is theirs to say, of the organizations that they belong to; whoever leaves works there no more.
#[tokio::test]
async fn viewers_say_where_they_work() {
    let app = TestApp::start().await;
    let bob = app.token("bob@example.com", None).await;
    let viewer = app.data(&bob, CURRENT, json!({})).await["viewer"].clone();
    let own = viewer["memberships"].as_array().expect("memberships");
    assert!(own.len() > 1, "{own:?}");
    for membership in own {
        let organization = &membership["organization"];
        let switched = payload(&app, &bob, SWITCH, json!({ "organizationId": organization["id"] })).await;
        assert_eq!(switched["membership"]["organization"], *organization, "{switched}");
        let now = app.data(&bob, CURRENT, json!({})).await;
        assert_eq!(now["viewer"]["currentMembership"]["organization"]["slug"], organization["slug"]);
    }
    let worked_in = app.data(&bob, CURRENT, json!({})).await["viewer"]["currentMembership"].clone();
    let trail: Vec<String> = sqlx::query_scalar(
        "select o.slug from tenantry.audit_logs a join tenantry.organizations o on o.id = a.organization_id
          where a.action = 'organization.switch' order by a.created_at, a.id",
    )
    .fetch_all(&mut app.database.system().await)
    .await
    .expect("the audit log");
    let slugs: Vec<&str> = own.iter().filter_map(|one| one["organization"]["slug"].as_str()).collect();
    assert_eq!(trail, slugs);

    // Neither strangers' organizations nor those that are not there, and which of the two it is nobody learns.
    let foreign: uuid::Uuid = sqlx::query_scalar(
        "select o.id from tenantry.organizations o where not exists (select from tenantry.organization_members m join tenantry.users u on u.id = m.user_id
          where m.organization_id = o.id and u.email = 'dave@example.com') limit 1",
    )
    .fetch_one(&mut app.database.system().await)
    .await
    .expect("an organization without them");
    let dave = app.token("dave@example.com", None).await;
    let before = app.data(&dave, CURRENT, json!({})).await;
    let mut answers = Vec::new();
    for id in [foreign, uuid::Uuid::nil()] {
        let id = tenantry::id::OrganizationId::from_uuid(id);
        answers.push(payload(&app, &dave, SWITCH, json!({ "organizationId": id.to_string() })).await);
    }
    assert_eq!(codes(&answers[0]), ["NOT_FOUND"]);
    assert_eq!(answers[0], answers[1]);
    assert_eq!(app.data(&dave, CURRENT, json!({})).await, before);

    // Removed from there, one works nowhere.
    sqlx::query(
        "update tenantry.organization_members m set deleted_at = now() from tenantry.users u, tenantry.organizations o
          where u.id = m.user_id and u.email = 'bob@example.com' and o.id = m.organization_id and o.slug = $1",
    )
    .bind(worked_in["organization"]["slug"].as_str())
    .execute(&mut app.database.system().await)
    .await
    .expect("a removal");
    assert!(app.data(&bob, CURRENT, json!({})).await["viewer"]["currentMembership"].is_null());
}

const INVITE_MANY: &str = "mutation($input: InvitationsCreateInput!) { invitationsCreate(input: $input) { results { invitationId acceptUrl userErrors { code field } } userErrors { code field } } }";

/// Of many addresses those are invited that can be, with a link of their own each, and one row tells of all of them.
#[tokio::test]
async fn invitations_are_made_many_at_once() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    set_role(&app, "carol@example.com", "ADMIN").await;
    let carol = app.token("carol@example.com", Some("acme-corp")).await;
    let entries = json!([{ "email": "Grace@Example.com" }, { "email": "dave@example.com" }, { "email": "judy@example.com" }, { "email": "no address" },
        { "email": "grace@example.com" }, { "email": "boss@example.org", "role": "OWNER" }, { "email": "new@example.org", "role": "VIEWER" }]);
    let made = payload(&app, &carol, INVITE_MANY, json!({ "invitations": entries })).await;
    let results = made["results"].as_array().expect("results");
    let got: Vec<Vec<&str>> = results.iter().map(codes).collect();
    assert_eq!(
        got,
        [vec![], vec!["CONFLICT"], vec!["CONFLICT"], vec!["INVALID"], vec!["CONFLICT"], vec!["OWNER_REQUIRED"], vec![]],
        "{made}"
    );
    assert_eq!(results[3]["userErrors"][0]["field"], json!(["input", "invitations", "3", "email"]));
    assert_ne!(results[0]["acceptUrl"], results[6]["acceptUrl"]);
    // The link works for whom it is, once.
    let link = results[0]["acceptUrl"].as_str().expect("a link");
    let token = link.split_once("token=").expect("a token").1;
    let grace = app.token("grace@example.com", None).await;
    assert_eq!(payload(&app, &grace, ACCEPT, json!({ "token": token })).await["membership"]["role"], "MEMBER");
    assert_eq!(codes(&payload(&app, &grace, ACCEPT, json!({ "token": token })).await), ["INVALID_TRANSITION"]);
    let told: Vec<Value> =
        sqlx::query_scalar("select metadata from tenantry.audit_logs where action = 'invitation.create_many'")
            .fetch_all(&mut app.database.system().await)
            .await
            .expect("the log");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["after"]["invitations"], json!([results[0]["invitationId"], results[6]["invitationId"]]));
    // A thousand at once, the same thousand at the same time twice, and too many.
    let thousand = |name: &str, count: u32| json!({ "invitations": (0..count).map(|n| json!({ "email": format!("{name}{n}@example.net") })).collect::<Vec<_>>() });
    let both = join_all([&alice, &carol].map(|token| payload(&app, token, INVITE_MANY, thousand("p", 1000)))).await;
    let links: std::collections::BTreeSet<&str> = both
        .iter()
        .flat_map(|made| made["results"].as_array().expect("results"))
        .filter_map(|one| one["acceptUrl"].as_str())
        .collect();
    assert_eq!(links.len(), 1000);
    assert_eq!(codes(&payload(&app, &alice, INVITE_MANY, thousand("q", 1001)).await), ["TOO_LONG"]);
    assert_eq!(codes(&payload(&app, &alice, INVITE_MANY, json!({ "invitations": [] })).await), ["BLANK"]);
}
