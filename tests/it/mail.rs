//! Invitations by mail, at a server of the tests that speaks SMTP over a real socket.

use std::sync::{Arc, Mutex};

use chrono::TimeDelta;
use serde_json::{Value, json};
use tenantry::clock::Clock;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Setup, TestApp};

const INVITE: &str = "mutation($input: InvitationCreateInput!) { invitationCreate(input: $input) { acceptUrl invitation { id role customRole { name } } userErrors { code field } } }";
const RESEND: &str =
    "mutation($input: InvitationResendInput!) { invitationResend(input: $input) { acceptUrl userErrors { code } } }";
const REVOKE: &str =
    "mutation($input: InvitationRevokeInput!) { invitationRevoke(input: $input) { userErrors { code } } }";
const ACCEPT: &str = "mutation($input: InvitationAcceptInput!) { invitationAccept(input: $input) { membership { role organization { slug } } userErrors { code } } }";
const LIST: &str = "{ organization { invitations(first: 100) { nodes { email mailedAt mailProblem } } } }";

/// A mail as the server got it.
#[derive(Clone, Debug)]
struct Received {
    to: String,
    data: String,
}

impl Received {
    /// The text without the line breaks of quoted-printable (RFC 2045, 6.7).
    fn text(&self) -> String {
        self.data.replace("=\r\n", "").replace("=3D", "=")
    }

    fn token(&self) -> String {
        let text = self.text();
        let at = text.find("inv_").expect("a token");
        text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).collect()
    }
}

/// An SMTP server (RFC 5321) for one mail a connection or many. What it says to `RCPT` depends on the name of the recipient.
struct FakeSmtp {
    address: std::net::SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    recipients: Arc<Mutex<Vec<String>>>,
}

impl FakeSmtp {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (received, recipients) = (Arc::default(), Arc::default());
        let (mails, names) = (Arc::clone(&received), Arc::clone(&recipients));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                // A client that goes away ends its conversation.
                tokio::spawn(serve(socket, Arc::clone(&mails), Arc::clone(&names)));
            }
        });
        Self { address, received, recipients }
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().expect("no panic").clone()
    }

    fn asked_for(&self, name: &str) -> usize {
        self.recipients.lock().expect("no panic").iter().filter(|to| to.contains(name)).count()
    }
}

async fn serve(
    socket: TcpStream,
    mails: Arc<Mutex<Vec<Received>>>,
    names: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let (read, mut write) = socket.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 fake.example ESMTP\r\n").await?;
    let mut to = String::new();
    while let Some(line) = lines.next_line().await? {
        let upper = line.to_uppercase();
        let answer = if upper.starts_with("EHLO") {
            "250-fake.example\r\n250-8BITMIME\r\n250 AUTH PLAIN\r\n"
        } else if upper.starts_with("AUTH PLAIN") {
            // "\0user\0right"
            if line.ends_with("AHVzZXIAcmlnaHQ=") { "235 in\r\n" } else { "535 5.7.8 wrong password\r\n" }
        } else if upper.starts_with("RCPT TO:") {
            to = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
            names.lock().expect("no panic").push(to.clone());
            match to.split('@').next() {
                Some("nobody") => "550 5.1.1 no such mailbox\r\n",
                Some("later") => "451 4.7.1 greylisted\r\n",
                _ => "250 ok\r\n",
            }
        } else if upper == "DATA" {
            write.write_all(b"354 go on\r\n").await?;
            let mut data = String::new();
            while let Some(line) = lines.next_line().await? {
                if line == "." {
                    break;
                }
                data += line.strip_prefix('.').unwrap_or(&line);
                data += "\r\n";
            }
            mails.lock().expect("no panic").push(Received { to: to.clone(), data });
            "250 taken\r\n"
        } else if upper == "QUIT" {
            write.write_all(b"221 bye\r\n").await?;
            return Ok(());
        } else {
            "250 ok\r\n"
        };
        write.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

async fn app_with(server: &FakeSmtp, password: &str, clock: &Clock) -> TestApp {
    let environment = vec![
        ("SMTP_URL", format!("smtp://user:{password}@{}", server.address)),
        ("MAIL_FROM", "Acme Support <support@acme.example>".to_owned()),
        ("APP_URL", "https://app.example.com".to_owned()),
    ];
    TestApp::start_with(Setup { environment, clock: clock.clone(), ..Setup::default() }).await
}

async fn payload(app: &TestApp, token: &str, mutation: &str, input: Value) -> Value {
    let data = app.data(token, mutation, json!({ "input": input })).await;
    data.as_object().and_then(|fields| fields.values().next()).expect("a payload").clone()
}

async fn invite(app: &TestApp, token: &str, email: &str) -> String {
    let made = payload(app, token, INVITE, json!({ "email": email })).await;
    made["invitation"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

/// What the list says of an address.
async fn told(app: &TestApp, token: &str, email: &str) -> Value {
    let data = app.data(token, LIST, json!({})).await;
    let nodes = data["organization"]["invitations"]["nodes"].as_array().expect("a list").clone();
    nodes.into_iter().find(|node| node["email"] == email).expect("the invitation")
}

/// Sends until nothing is due.
async fn send_all(app: &TestApp) {
    while app.app.mail.send_due().await.expect("a look") > 0 {}
}

fn new_user(app: &TestApp, email: &str) -> String {
    let claims = json!({ "iss": "tenantry-development", "sub": format!("user_{email}"), "sid": "s", "v": 2,
                         "email": email, "email_verified": true });
    crate::support::sign(&json!({ "alg": "EdDSA", "typ": "JWT" }), &claims, &app.clock)
}

#[tokio::test]
async fn invitations_are_mailed_with_a_link_that_works() {
    let (server, clock) = (FakeSmtp::start().await, Clock::manual(Clock::System.now()));
    let app = app_with(&server, "right", &clock).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let made = payload(&app, &alice, INVITE, json!({ "email": "zoe@example.com" })).await;
    let many = "mutation($input: InvitationsCreateInput!) { invitationsCreate(input: $input) { results { invitationId } userErrors { code } } }";
    let people: Vec<Value> = (0..30).map(|n| json!({ "email": format!("many{n}@example.com") })).collect();
    payload(&app, &alice, many, json!({ "invitations": people })).await;
    // Two workers: each mail once.
    tokio::join!(send_all(&app), send_all(&app));
    let mails = server.received();
    assert_eq!(mails.len(), 31);
    let mail = mails.iter().find(|mail| mail.to == "zoe@example.com").expect("a mail");
    let text = mail.text();
    for part in [
        "From: \"Acme Support\" <support@acme.example>",
        "To: zoe@example.com",
        "Subject: Alice Johnson invited you to Acme Corp",
        "https://app.example.com/invitations/accept?token=inv_",
        "text/html",
        "as member.",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    // The mail has a secret of its own, which nobody else was shown, and which the database does not have.
    assert!(!made["acceptUrl"].as_str().expect("a link").contains(&mail.token()));
    let said = told(&app, &alice, "zoe@example.com").await;
    assert!(said["mailedAt"].is_string() && said["mailProblem"].is_null(), "{said}");
    let zoe = new_user(&app, "zoe@example.com");
    let accepted = payload(&app, &zoe, ACCEPT, json!({ "token": mail.token() })).await;
    assert_eq!(accepted["membership"]["organization"]["slug"], "acme-corp", "{accepted}");
    // Once means once, by either link.
    let link = made["acceptUrl"].as_str().and_then(|url| url.split("token=").nth(1)).expect("a token");
    for token in [link, &mail.token()] {
        let again = payload(&app, &zoe, ACCEPT, json!({ "token": token })).await;
        assert_eq!(again["userErrors"][0]["code"], "INVALID_TRANSITION", "{again}");
    }
    // Who has another's mail has nothing.
    let yan = new_user(&app, "yan@example.com");
    let other = mails.iter().find(|mail| mail.to == "many7@example.com").expect("a mail").token();
    assert_eq!(payload(&app, &yan, ACCEPT, json!({ "token": other })).await["userErrors"][0]["code"], "NOT_FOUND");
}

#[tokio::test]
async fn mail_that_is_not_taken_is_tried_again_and_told() {
    let (server, clock) = (FakeSmtp::start().await, Clock::manual(Clock::System.now()));
    let app = app_with(&server, "right", &clock).await;
    let alice = app.token_for("alice@example.com", Some("acme-corp"), TimeDelta::hours(23)).await;
    for email in ["nobody@example.com", "later@example.com"] {
        invite(&app, &alice, email).await;
    }
    send_all(&app).await;
    assert_eq!((server.asked_for("nobody"), server.asked_for("later"), server.received().len()), (1, 1, 0));
    let said = told(&app, &alice, "nobody@example.com").await;
    assert!(said["mailProblem"].as_str().is_some_and(|text| text.contains("no such mailbox")), "{said}");
    let mut tries = Vec::new();
    for _ in 0..60 {
        clock.advance(TimeDelta::minutes(10));
        send_all(&app).await;
        tries.push(server.asked_for("later"));
    }
    assert_eq!((tries[0], tries[59]), (2, 6), "after 1, 4, 15, 60 and 240 minutes, then no more: {tries:?}");
    assert_eq!(server.asked_for("nobody"), 1, "a refusal for good is not tried again");
    assert!(told(&app, &alice, "later@example.com").await["mailProblem"].is_string());
}

#[tokio::test]
async fn what_is_revoked_or_sent_again_is_not_mailed_as_it_was() {
    let (server, clock) = (FakeSmtp::start().await, Clock::manual(Clock::System.now()));
    let app = app_with(&server, "right", &clock).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let revoked = invite(&app, &alice, "revoked@example.com").await;
    payload(&app, &alice, REVOKE, json!({ "id": revoked })).await;
    let zoe = invite(&app, &alice, "zoe@example.com").await;
    send_all(&app).await;
    payload(&app, &alice, RESEND, json!({ "id": zoe })).await;
    send_all(&app).await;
    let mails = server.received();
    assert_eq!(mails.iter().map(|mail| mail.to.as_str()).collect::<Vec<_>>(), ["zoe@example.com"; 2]);
    let token = new_user(&app, "zoe@example.com");
    let old = payload(&app, &token, ACCEPT, json!({ "token": mails[0].token() })).await;
    assert_eq!(old["userErrors"][0]["code"], "NOT_FOUND", "the link of the first mail is dead: {old}");
    let new = payload(&app, &token, ACCEPT, json!({ "token": mails[1].token() })).await;
    assert_eq!(new["userErrors"], json!([]));
    // A worker that died while it sent: what it had begun is sent when its time is over, and no sooner.
    invite(&app, &alice, "crash@example.com").await;
    sqlx::query(
        "update tenantry.invitations set mail_due_at = $1, mail_attempts = 1 where email = 'crash@example.com'",
    )
    .bind(clock.now() + TimeDelta::minutes(5))
    .execute(&mut app.database.system().await)
    .await
    .expect("a worker that died");
    send_all(&app).await;
    assert_eq!(server.asked_for("crash"), 0);
    clock.advance(TimeDelta::minutes(6));
    send_all(&app).await;
    assert_eq!(server.asked_for("crash"), 1);
}

#[tokio::test]
async fn a_wrong_password_loses_no_mail() {
    let (server, clock) = (FakeSmtp::start().await, Clock::manual(Clock::System.now()));
    let app = app_with(&server, "wrong", &clock).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    invite(&app, &alice, "zoe@example.com").await;
    send_all(&app).await;
    let said = told(&app, &alice, "zoe@example.com").await;
    let problem = said["mailProblem"].as_str().expect("a problem");
    assert!(problem.contains("wrong password") && !problem.contains("user:"), "{problem}");
    let due: bool =
        sqlx::query_scalar("select mail_due_at is not null from tenantry.invitations where email = 'zoe@example.com'")
            .fetch_one(&mut app.database.system().await)
            .await
            .expect("a row");
    assert!(due, "it is the operator's password, not the recipient's address: it is tried again");
}

#[tokio::test]
async fn without_a_server_nothing_waits() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    invite(&app, &alice, "zoe@example.com").await;
    send_all(&app).await;
    let said = told(&app, &alice, "zoe@example.com").await;
    assert!(said["mailedAt"].is_null() && said["mailProblem"].is_null(), "{said}");
    let waiting: i64 = sqlx::query_scalar("select count(*) from tenantry.invitations where mail_due_at is not null")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a count");
    assert_eq!(waiting, 0);
}

/// An invitation into a custom role: the role, and nobody gives more than they have.
#[tokio::test]
async fn invitations_give_custom_roles() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let create = "mutation($input: CustomRoleCreateInput!) { customRoleCreate(input: $input) { customRole { id } userErrors { code } } }";
    let role = |name: &str, actions: Value| json!({ "name": name, "actions": actions });
    let auditor = payload(&app, &alice, create, role("Auditor", json!(["AUDIT_READ"]))).await;
    let auditor = auditor["customRole"]["id"].as_str().expect("a role").to_owned();
    let inviter = payload(&app, &alice, create, role("Inviter", json!(["INVITATION_WRITE", "INVITATION_READ"]))).await;
    let inviter = inviter["customRole"]["id"].as_str().expect("a role").to_owned();
    let both =
        payload(&app, &alice, INVITE, json!({ "email": "a@example.com", "role": "MEMBER", "customRoleId": auditor }))
            .await;
    assert_eq!(both["userErrors"][0]["code"], "INVALID");
    let made = payload(&app, &alice, INVITE, json!({ "email": "zoe@example.com", "customRoleId": auditor })).await;
    assert_eq!(made["invitation"]["customRole"]["name"], "Auditor", "{made}");
    let delete = "mutation($input: CustomRoleDeleteInput!) { customRoleDelete(input: $input) { userErrors { code } } }";
    assert_eq!(payload(&app, &alice, delete, json!({ "id": auditor })).await["userErrors"][0]["code"], "CONFLICT");
    let zoe = new_user(&app, "zoe@example.com");
    let link = made["acceptUrl"].as_str().and_then(|url| url.split("token=").nth(1)).expect("a token");
    assert_eq!(payload(&app, &zoe, ACCEPT, json!({ "token": link })).await["membership"]["role"], "VIEWER");
    let within = |app: &TestApp, sub: &str| {
        let claims = json!({ "iss": "tenantry-development", "sub": sub, "sid": "s", "v": 2, "o": { "id": "org_acme", "slg": "acme-corp" } });
        crate::support::sign(&json!({ "alg": "EdDSA", "typ": "JWT" }), &claims, &app.clock)
    };
    let zoe = within(&app, "user_zoe@example.com");
    let data = app.data(&zoe, "{ viewer { permissions } }", json!({})).await;
    assert_eq!(
        data["viewer"]["permissions"],
        json!(["ORGANIZATION_READ", "ORGANIZATION_LEAVE", "AUDIT_READ", "FEATURE_FLAG_READ"])
    );
    // Bulk, by somebody who may invite and little else: roles that they do not cover are refused one by one.
    let give = "mutation($input: OrganizationMemberUpdateInput!) { organizationMemberUpdate(input: $input) { userErrors { code } } }";
    let members =
        app.data(&alice, "{ organization { members(first: 100) { nodes { id user { email } } } } }", json!({})).await;
    let nodes = members["organization"]["members"]["nodes"].as_array().expect("members").clone();
    let id = nodes.iter().find(|node| node["user"]["email"] == "zoe@example.com").expect("zoe")["id"].clone();
    payload(&app, &alice, give, json!({ "id": id, "customRoleId": inviter })).await;
    let many = "mutation($input: InvitationsCreateInput!) { invitationsCreate(input: $input) { results { invitationId userErrors { code field } } } }";
    let people = json!([
        { "email": "b1@example.com", "customRoleId": inviter },
        { "email": "b2@example.com", "customRoleId": auditor },
        { "email": "b3@example.com", "role": "MEMBER" },
        { "email": "b4@example.com", "customRoleId": id },
    ]);
    let answer = app.run(&zoe, many, json!({ "input": { "invitations": people } })).await;
    assert!(answer["errors"].is_array(), "the id of a member is none of a role: {answer}");
    let people = json!([
        { "email": "b1@example.com", "customRoleId": inviter },
        { "email": "b2@example.com", "customRoleId": auditor },
        { "email": "b3@example.com", "role": "MEMBER" },
    ]);
    let results = payload(&app, &zoe, many, json!({ "invitations": people })).await["results"].clone();
    assert!(results[0]["invitationId"].is_string(), "{results}");
    for place in [1, 2] {
        assert_eq!(results[place]["userErrors"][0]["code"], "BEYOND_OWN_ROLE", "{results}");
    }
}
