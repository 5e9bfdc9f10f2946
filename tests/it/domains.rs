//! Joining by the domain of one's address: who may, who asks, and who is not told that there is anything.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Setup, TestApp};

const NAME: &str = "mutation($input: OrganizationDomainCreateInput!) { organizationDomainCreate(input: $input) { domain { id domain enrollment role } userErrors { code field } } }";
const TAKE_BACK: &str = "mutation($input: OrganizationDomainDeleteInput!) { organizationDomainDelete(input: $input) { domainId userErrors { code } } }";
const JOIN: &str = "mutation($input: OrganizationJoinInput!) { organizationJoin(input: $input) { isRequested membership { role organization { slug } } userErrors { code } } }";
const ACCEPT: &str = "mutation($input: MembershipRequestAcceptInput!) { membershipRequestAccept(input: $input) { request { isAccepted user { email } } userErrors { code } } }";
const DECLINE: &str = "mutation($input: MembershipRequestDeclineInput!) { membershipRequestDecline(input: $input) { request { isAccepted } userErrors { code } } }";
const OPEN: &str = "{ viewer { joinableOrganizations { id slug enrollment isRequested } } }";
const REQUESTS: &str = "{ organization { membershipRequests(first: 50) { nodes { id isAccepted user { email } } } } }";

async fn payload(app: &TestApp, token: &str, mutation: &str, input: Value) -> Value {
    let data = app.data(token, mutation, json!({ "input": input })).await;
    data.as_object().and_then(|fields| fields.values().next()).expect("a payload").clone()
}

fn code(payload: &Value) -> &str {
    payload["userErrors"][0]["code"].as_str().unwrap_or_default()
}

async fn acme(app: &TestApp) -> String {
    let id: uuid::Uuid = sqlx::query_scalar("select id from tenantry.organizations where slug = 'acme-corp'")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("Acme");
    format!("org_{}", id.simple())
}

async fn run(app: &TestApp, sql: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut app.database.system().await).await.expect(sql);
}

/// Somebody new, as a token of another issuer names them.
fn person(app: &TestApp, name: &str, email: &str, verified: bool) -> String {
    let claims = json!({ "iss": "tenantry-development", "sub": format!("user_{name}"), "sid": "s", "v": 2, "email": email, "email_verified": verified });
    crate::support::sign(&json!({ "alg": "EdDSA", "typ": "JWT" }), &claims, &app.clock)
}

/// Alice's own address is at acme.test, which is Acme's domain.
async fn app_with(enrollment: &str) -> (TestApp, String, String, Value) {
    let app = TestApp::start().await;
    run(&app, "update tenantry.users set email = 'alice@acme.test', verified_email = 'alice@acme.test' where clerk_id = 'user_alice'").await;
    let alice = app.token("alice@acme.test", Some("acme-corp")).await;
    let named = payload(&app, &alice, NAME, json!({ "domain": "ACME.test", "enrollment": enrollment })).await;
    assert_eq!(named["domain"]["domain"], "acme.test", "{named}");
    let id = acme(&app).await;
    (app, alice, id, named["domain"]["id"].clone())
}

#[tokio::test]
async fn whoever_has_a_verified_address_joins() {
    let (app, alice, id, domain) = app_with("JOIN").await;
    run(&app, "update tenantry.subscriptions set seat_count = 1 where organization_id = (select id from tenantry.organizations where slug = 'acme-corp')").await;
    let join = json!({ "organizationId": id });
    let zoe = person(&app, "zoe", "Zoe@Acme.TEST", true);
    let open = app.data(&zoe, OPEN, json!({})).await;
    assert_eq!(
        open["viewer"]["joinableOrganizations"],
        json!([{ "id": id, "slug": "acme-corp", "enrollment": "JOIN", "isRequested": false }])
    );
    let joined = payload(&app, &zoe, JOIN, join.clone()).await;
    assert_eq!(joined["membership"], json!({ "role": "MEMBER", "organization": { "slug": "acme-corp" } }), "{joined}");
    assert_eq!(code(&payload(&app, &zoe, JOIN, join.clone()).await), "CONFLICT");
    assert_eq!(app.data(&zoe, OPEN, json!({})).await["viewer"]["joinableOrganizations"], json!([]));
    // Nobody else: another domain, one that only ends alike, an address nobody verified, an adopted row, a blocked user.
    for (name, email, verified) in [
        ("other", "a@other.test", true),
        ("suffix", "a@notacme.test", true),
        ("sub", "a@sub.acme.test", true),
        ("two", "\"a@acme.test\"@evil.test", true),
        ("unverified", "b@acme.test", false),
    ] {
        let token = person(&app, name, email, verified);
        assert_eq!(app.data(&token, OPEN, json!({})).await["viewer"]["joinableOrganizations"], json!([]), "{email}");
        assert_eq!(code(&payload(&app, &token, JOIN, join.clone()).await), "NOT_FOUND", "{email}");
    }
    run(&app, "insert into tenantry.users (id, clerk_id, email, name) values (gen_random_uuid(), 'user_adopted', 'old@acme.test', 'Old')").await;
    let adopted = person(&app, "adopted", "", false);
    assert_eq!(code(&payload(&app, &adopted, JOIN, join.clone()).await), "NOT_FOUND");
    // Who changed their address since has the new one only.
    run(&app, "update tenantry.users set email = 'yan@acme.test' where clerk_id = 'user_other'").await;
    let yan = person(&app, "other", "", false);
    assert_eq!(code(&payload(&app, &yan, JOIN, join.clone()).await), "NOT_FOUND");
    // Whoever left, or was removed, does not come back by the door: somebody decides.
    run(&app, "update tenantry.organization_members m set deleted_at = now() from tenantry.users u where u.id = m.user_id and u.clerk_id = 'user_zoe'").await;
    let open = app.data(&zoe, OPEN, json!({})).await;
    assert_eq!(open["viewer"]["joinableOrganizations"][0]["enrollment"], "REQUEST");
    assert_eq!(payload(&app, &zoe, JOIN, join.clone()).await["isRequested"], true);
    // A door that was taken back is closed, and who came by it stays.
    assert_eq!(payload(&app, &alice, TAKE_BACK, json!({ "id": domain })).await["domainId"], domain);
    let xia = person(&app, "xia", "xia@acme.test", true);
    assert_eq!(code(&payload(&app, &xia, JOIN, join).await), "NOT_FOUND");
    let members =
        app.data(&alice, "{ organization { members(first: 100) { nodes { user { email } } } } }", json!({})).await;
    assert!(!members.to_string().contains("Zoe@Acme.TEST"));
    let actions: Vec<String> =
        sqlx::query_scalar("select action from tenantry.audit_logs where created_at > now() - interval '1 minute'")
            .fetch_all(&mut app.database.system().await)
            .await
            .expect("the log");
    for action in ["organization_domain.create", "organization.join", "organization_domain.delete"] {
        assert!(actions.iter().any(|known| known == action), "{action} is not in {actions:?}");
    }
}

#[tokio::test]
async fn whoever_asks_is_decided_about_once() {
    let (app, alice, id, _) = app_with("REQUEST").await;
    run(&app, "update tenantry.subscriptions set seat_count = 1 where organization_id = (select id from tenantry.organizations where slug = 'acme-corp')").await;
    let join = json!({ "organizationId": id });
    let (zoe, yan) = (person(&app, "zoe", "zoe@acme.test", true), person(&app, "yan", "yan@acme.test", true));
    for token in [&zoe, &yan] {
        // Asked many times at once, it was asked once.
        let asked = join_all((0..8).map(|_| payload(&app, token, JOIN, join.clone()))).await;
        assert!(asked.iter().all(|asked| asked["isRequested"] == true && asked["membership"].is_null()), "{asked:?}");
    }
    let asked: i64 =
        sqlx::query_scalar("select count(*) from tenantry.audit_logs where action = 'membership_request.create'")
            .fetch_one(&mut app.database.system().await)
            .await
            .expect("a count");
    assert_eq!(asked, 2, "each is in the log once");
    assert_eq!(app.data(&zoe, OPEN, json!({})).await["viewer"]["joinableOrganizations"][0]["isRequested"], true);
    let within = json!({ "iss": "tenantry-development", "sub": "user_zoe", "sid": "s", "v": 2, "o": { "id": "org_acme", "slg": "acme-corp" } });
    let inside = crate::support::sign(&json!({ "alg": "EdDSA", "typ": "JWT" }), &within, &app.clock);
    assert_eq!(app.error_code(&inside, "{ organization { name } }", json!({})).await, "ORGANIZATION_NOT_FOUND");
    let requests = app.data(&alice, REQUESTS, json!({})).await;
    let request = |email: &str| {
        let nodes = requests["organization"]["membershipRequests"]["nodes"].as_array().expect("requests");
        nodes.iter().find(|node| node["user"]["email"] == email).unwrap_or_else(|| panic!("{nodes:?}"))["id"].clone()
    };
    let (of_zoe, of_yan) = (request("zoe@acme.test"), request("yan@acme.test"));
    let decided = join_all((0..6).map(|n| {
        let mutation = if n % 2 == 0 { ACCEPT } else { DECLINE };
        payload(&app, &alice, mutation, json!({ "id": of_zoe }))
    }))
    .await;
    assert_eq!(decided.iter().filter(|decided| decided["userErrors"] == json!([])).count(), 1, "{decided:?}");
    assert!(decided.iter().all(|decided| ["", "INVALID_TRANSITION"].contains(&code(decided))));
    assert_eq!(payload(&app, &alice, DECLINE, json!({ "id": of_yan })).await["request"]["isAccepted"], false);
    assert_eq!(code(&payload(&app, &yan, JOIN, join.clone()).await), "CONFLICT", "declined");
    for input in [json!({ "id": of_yan, "role": "ADMIN" }), json!({ "id": of_yan, "role": "OWNER" })] {
        assert_eq!(code(&payload(&app, &alice, ACCEPT, input).await), "INVALID");
    }
}

#[tokio::test]
async fn seats_are_counted_at_the_door() {
    let (app, alice, id, _) = app_with("JOIN").await;
    let seats = "update tenantry.subscriptions set seat_count = (select count(*) + 2 from tenantry.organization_members m where m.organization_id = subscriptions.organization_id and m.deleted_at is null and m.role <> 'VIEWER')
                  where organization_id = (select id from tenantry.organizations where slug = 'acme-corp')";
    run(&app, seats).await;
    let people: Vec<String> =
        (0..8).map(|n| person(&app, &format!("p{n}"), &format!("p{n}@acme.test"), true)).collect();
    let joined = join_all(people.iter().map(|token| payload(&app, token, JOIN, json!({ "organizationId": id })))).await;
    assert_eq!(joined.iter().filter(|joined| joined["membership"].is_object()).count(), 2, "{joined:?}");
    assert_eq!(joined.iter().filter(|joined| code(joined) == "SEATS_EXHAUSTED").count(), 6, "{joined:?}");
    assert!(!alice.is_empty());
}

#[tokio::test]
async fn domains_are_named_by_whom_they_are_of() {
    let (app, alice, _, _) = app_with("REQUEST").await;
    for (domain, expected) in [
        ("acme.test", "CONFLICT"),
        ("other.test", "INVALID"),
        ("gmail.com", "INVALID"),
        ("not a domain", "INVALID"),
        ("", "BLANK"),
    ] {
        assert_eq!(code(&payload(&app, &alice, NAME, json!({ "domain": domain })).await), expected, "{domain}");
    }
    assert_eq!(code(&payload(&app, &alice, NAME, json!({ "domain": "b.test", "role": "ADMIN" })).await), "INVALID");
    // Clerk's organizations have their domains there.
    let environment = vec![("IDENTITY_SOURCE", "clerk".to_owned())];
    let app = TestApp::start_with(Setup { environment, ..Setup::default() }).await;
    run(&app, "update tenantry.users set email = 'grace@acme.example', verified_email = 'grace@acme.example' where clerk_id = 'user_grace'").await;
    let grace = app.token("grace@acme.example", None).await;
    assert_eq!(app.data(&grace, OPEN, json!({})).await["viewer"]["joinableOrganizations"], json!([]));
    assert_eq!(code(&payload(&app, &grace, JOIN, json!({ "organizationId": acme(&app).await })).await), "NOT_FOUND");
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    assert_eq!(code(&payload(&app, &alice, NAME, json!({ "domain": "example.com" })).await), "MANAGED_ELSEWHERE");
}
