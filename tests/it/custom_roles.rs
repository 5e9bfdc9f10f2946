//! Custom roles: nobody gives what they do not have.

use serde_json::{Value, json};
use tenantry::access::{Action, Actions, MemberRole};

use crate::support::{TestApp, codes};

const CREATE: &str = "mutation($input: CustomRoleCreateInput!) { customRoleCreate(input: $input) { customRole { id name actions version } userErrors { code field } } }";
const CHANGE: &str = "mutation($input: CustomRoleUpdateInput!) { customRoleUpdate(input: $input) { customRole { name actions version } userErrors { code field } } }";
const DELETE: &str = "mutation($input: CustomRoleDeleteInput!) { customRoleDelete(input: $input) { customRoleId userErrors { code field } } }";
const GIVE: &str = "mutation($input: OrganizationMemberUpdateInput!) { organizationMemberUpdate(input: $input) { member { role customRole { name } } userErrors { code field } } }";
const INVITE: &str = "mutation($input: InvitationCreateInput!) { invitationCreate(input: $input) { invitation { email } userErrors { code field } } }";
const KEY: &str =
    "mutation($input: ApiKeyCreateInput!) { apiKeyCreate(input: $input) { secret userErrors { code field } } }";
const VIEWER: &str = "{ viewer { role permissions } }";

async fn payload(app: &TestApp, token: &str, mutation: &str, input: Value) -> Value {
    let data = app.data(token, mutation, json!({ "input": input })).await;
    data.as_object().and_then(|fields| fields.values().next()).expect("a payload").clone()
}

async fn member(app: &TestApp, token: &str, email: &str) -> String {
    let members = "{ organization { members { nodes { id user { email } } } } }";
    let nodes = app.data(token, members, json!({})).await["organization"]["members"]["nodes"].clone();
    let nodes = nodes.as_array().expect("members").clone();
    let found =
        nodes.iter().find(|node| node["user"]["email"] == email).unwrap_or_else(|| panic!("{email}: {nodes:?}"));
    found["id"].as_str().expect("an id").to_owned()
}

async fn role(app: &TestApp, token: &str, name: &str, actions: &[&str]) -> String {
    let made = payload(app, token, CREATE, json!({ "name": name, "actions": actions })).await;
    made["customRole"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

#[tokio::test]
async fn custom_roles_say_what_a_member_may() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let auditor = role(&app, &alice, "Auditor", &["AUDIT_READ", "BUDGET_READ"]).await;
    let dave = member(&app, &alice, "dave@example.com").await;
    let token = app.token("dave@example.com", Some("acme-corp")).await;
    let given = payload(&app, &alice, GIVE, json!({ "id": dave, "customRoleId": auditor })).await;
    assert_eq!(given["member"], json!({ "role": "VIEWER", "customRole": { "name": "Auditor" } }));
    let viewer = app.data(&token, VIEWER, json!({})).await["viewer"].clone();
    assert_eq!(
        viewer,
        json!({ "role": "VIEWER", "permissions": ["ORGANIZATION_READ", "BUDGET_READ", "ORGANIZATION_LEAVE", "AUDIT_READ", "FEATURE_FLAG_READ"] })
    );
    app.data(&token, "{ organization { auditLogs(first: 1) { totalCount } budgets { totalCount } } }", json!({})).await;
    assert_eq!(
        app.error_code(&token, "mutation { ticketCreate(input: { subject: \"x\" }) { ticket { id } } }", json!({}))
            .await,
        "FORBIDDEN"
    );
    // A change counts from the next request on; a role that is in use stays.
    let changed =
        payload(&app, &alice, CHANGE, json!({ "id": auditor, "actions": ["TICKET_CREATE"], "expectedVersion": 1 }))
            .await;
    assert_eq!(changed["customRole"], json!({ "name": "Auditor", "actions": ["TICKET_CREATE"], "version": 2 }));
    assert_eq!(
        codes(&payload(&app, &alice, CHANGE, json!({ "id": auditor, "name": "x", "expectedVersion": 1 })).await),
        ["VERSION_CONFLICT"]
    );
    assert_eq!(app.error_code(&token, "{ organization { auditLogs { totalCount } } }", json!({})).await, "FORBIDDEN");
    app.data(&token, "mutation { ticketCreate(input: { subject: \"x\" }) { ticket { id } } }", json!({})).await;
    assert_eq!(codes(&payload(&app, &alice, DELETE, json!({ "id": auditor })).await), ["CONFLICT"]);
    // Another role ends it, whoever gives that: here the sync.
    sqlx::raw_sql("update tenantry.organization_members set role = 'MEMBER' where custom_role_id is not null")
        .execute(&mut app.database.system().await)
        .await
        .expect("a role");
    assert_eq!(app.data(&token, VIEWER, json!({})).await["viewer"]["role"], "MEMBER");
    assert_eq!(payload(&app, &alice, DELETE, json!({ "id": auditor })).await["customRoleId"], auditor.as_str());
    for (input, code) in [
        (json!({ "name": "support LEAD", "actions": [] }), "CONFLICT"),
        (json!({ "name": " ", "actions": [] }), "BLANK"),
        (json!({ "name": "x", "actions": ["OWNERSHIP_TRANSFER"] }), "INVALID"),
    ] {
        assert_eq!(codes(&payload(&app, &alice, CREATE, input.clone()).await), [code], "{input}");
    }
    for input in [json!({ "id": dave }), json!({ "id": dave, "role": "MEMBER", "customRoleId": auditor })] {
        assert_eq!(codes(&payload(&app, &alice, GIVE, input).await), ["INVALID"]);
    }
    let foreign: String = {
        let bob = app.token("bob@example.com", Some("tech-startup")).await;
        role(&app, &bob, "Theirs", &["TICKET_CREATE"]).await
    };
    assert_eq!(
        codes(&payload(&app, &alice, GIVE, json!({ "id": dave, "customRoleId": foreign })).await),
        ["NOT_FOUND"]
    );
}

#[tokio::test]
async fn custom_roles_give_nothing_that_their_giver_lacks() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let manager = role(
        &app,
        &alice,
        "Manager",
        &["MEMBER_UPDATE", "ROLE_WRITE", "API_KEY_WRITE", "INVITATION_WRITE", "TICKET_CREATE"],
    )
    .await;
    let writer = role(&app, &alice, "Writer", &["TICKET_CREATE"]).await;
    let auditor = role(&app, &alice, "Auditor", &["AUDIT_READ"]).await;
    let [dave, erin, carol] = [
        member(&app, &alice, "dave@example.com").await,
        member(&app, &alice, "erin@example.com").await,
        member(&app, &alice, "carol@example.com").await,
    ];
    payload(&app, &alice, GIVE, json!({ "id": dave, "customRoleId": manager })).await;
    payload(&app, &alice, GIVE, json!({ "id": erin, "customRoleId": writer })).await;
    payload(&app, &alice, GIVE, json!({ "id": carol, "role": "ADMIN" })).await;
    let token = app.token("dave@example.com", Some("acme-corp")).await;
    let remove = "mutation($input: OrganizationMemberRemoveInput!) { organizationMemberRemove(input: $input) { member { id } userErrors { code } } }";
    for (mutation, input) in [
        (CREATE, json!({ "name": "More", "actions": ["AUDIT_READ"] })),
        (CHANGE, json!({ "id": auditor, "actions": ["TICKET_CREATE"] })),
        (CHANGE, json!({ "id": manager, "actions": ["AUDIT_READ"] })),
        (DELETE, json!({ "id": auditor })),
        (GIVE, json!({ "id": erin, "customRoleId": auditor })),
        (GIVE, json!({ "id": erin, "role": "ADMIN" })),
        (GIVE, json!({ "id": erin, "role": "MEMBER" })),
        (GIVE, json!({ "id": dave, "role": "ADMIN" })),
        (GIVE, json!({ "id": carol, "role": "VIEWER" })),
        (remove, json!({ "id": carol })),
        (INVITE, json!({ "email": "friend@example.com", "role": "ADMIN" })),
        (KEY, json!({ "name": "x", "scopes": ["AUDIT_READ"] })),
    ] {
        assert_eq!(
            codes(&payload(&app, &token, mutation, input.clone()).await),
            ["BEYOND_OWN_ROLE"],
            "{mutation} {input}"
        );
    }
    // Within what they have they may.
    role(&app, &token, "Less", &["TICKET_CREATE"]).await;
    assert_eq!(
        codes(&payload(&app, &token, GIVE, json!({ "id": erin, "customRoleId": manager })).await),
        [] as [&str; 0]
    );
    assert!(
        payload(&app, &token, KEY, json!({ "name": "x", "scopes": ["TICKET_CREATE"] })).await["secret"].is_string()
    );
}

/// Every action as the only one of a role, and random sets: `viewer.permissions` and the answers of the server are those of the set.
#[tokio::test]
async fn custom_roles_of_any_set_are_what_the_set_says() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let dave = member(&app, &alice, "dave@example.com").await;
    let token = app.token("dave@example.com", Some("acme-corp")).await;
    let id = role(&app, &alice, "Any", &[]).await;
    payload(&app, &alice, GIVE, json!({ "id": dave, "customRoleId": id })).await;
    let possible: Vec<Action> = Action::ALL.iter().copied().filter(|action| !action.is_owners_alone()).collect();
    let mut sets: Vec<Vec<Action>> = possible.iter().map(|action| vec![*action]).collect();
    sets.extend((1..=12_u64).map(|n| {
        let bits = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        possible.iter().enumerate().filter(|(place, _)| bits >> place & 1 == 1).map(|(_, action)| *action).collect()
    }));
    let asked = [
        (Action::BudgetRead, "{ organization { budgets { totalCount } } }"),
        (Action::AgentRead, "{ organization { agentConfigurations { totalCount } } }"),
        (Action::MetricsRead, "{ organization { performanceMetrics { totalCount } } }"),
        (Action::AuditRead, "{ organization { auditLogs { totalCount } } }"),
        (Action::ApiKeyRead, "{ organization { apiKeys { totalCount } } }"),
        (Action::InvitationRead, "{ organization { invitations { totalCount } } }"),
        (Action::WebhookRead, "{ organization { webhookEvents { totalCount } } }"),
        (Action::BillingRead, "{ organization { subscription { id } } }"),
        (Action::TicketCreate, "mutation { ticketCreate(input: { subject: \" \" }) { userErrors { code } } }"),
        (Action::OrganizationUpdate, "mutation { organizationUpdate(input: { name: \" \" }) { userErrors { code } } }"),
        (Action::ApiKeyWrite, "mutation { apiKeyCreate(input: { name: \" \", scopes: [] }) { userErrors { code } } }"),
        (
            Action::RoleWrite,
            "mutation { customRoleCreate(input: { name: \" \", actions: [] }) { userErrors { code } } }",
        ),
        (Action::InvitationWrite, "mutation { invitationCreate(input: { email: \" \" }) { userErrors { code } } }"),
    ];
    for set in sets {
        let labels: Vec<&str> = set.iter().map(|action| action.label()).collect();
        let changed = payload(&app, &alice, CHANGE, json!({ "id": id, "actions": labels })).await;
        assert_eq!(codes(&changed), [] as [&str; 0], "{changed}");
        let allowed = Actions::of_custom_role(&labels.join(","));
        let shown = app.data(&token, VIEWER, json!({})).await["viewer"]["permissions"].clone();
        assert_eq!(shown, json!(allowed.iter().map(Action::label).collect::<Vec<_>>()));
        for (action, document) in asked {
            let answer = app.run(&token, document, json!({})).await;
            let denied = answer["errors"][0]["extensions"]["code"] == "FORBIDDEN";
            assert_eq!(denied, !allowed.has(action), "{} with {labels:?}: {answer}", action.label());
        }
    }
    assert!(Actions::of_role(MemberRole::Viewer).has(Action::OrganizationLeave));
}
