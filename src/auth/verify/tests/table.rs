//! One table of tokens: what each kind says, and what becomes of it. `docs/TOKENS.md` has the rules.

use super::*;
use crate::auth::DEV_ISSUER;

/// How the API is configured.
#[derive(Clone, Copy, Debug)]
enum Setup {
    /// An issuer and nothing else.
    Plain,
    /// With `AUTH_AUDIENCE=api`.
    Audience,
    /// With `AUTH_AUDIENCE=api` and `AUTH_OAUTH_CLIENTS=client_ours`.
    Clients,
    /// With `AUTH_AUTHORIZED_PARTIES=https://app.example`.
    Parties,
    /// With all three.
    All,
    /// With the development issuer.
    Development,
    /// With impersonation allowed.
    Impersonation,
}

const OAUTH: &str = "an OAuth access token and not a session";
const AUDIENCE: &str = "for another audience";
const SESSIONLESS: &str = "belongs to no session";
const OK: &str = "";

/// A row: setup, changes to the header, changes to the claims (`"-"` removes one), a part of the reason or [`OK`].
type Row = (Setup, Value, Value, &'static str);

/// What C01 delivered: the access tokens of a third party's application.
fn third_party() -> Vec<Row> {
    use Setup::{Audience, Clients, Development, Plain};
    let header = || json!({ "typ": "at+jwt" });
    let claims = || json!({ "sid": "-", "client_id": "client_thirdparty", "scope": "profile email", "jti": "oat_1" });
    let with = |changes: Value| {
        let mut claims = claims();
        changes.as_object().expect("an object").iter().for_each(|(k, v)| claims[k] = v.clone());
        claims
    };
    let mut rows: Vec<Row> = [Plain, Audience, Clients, Development]
        .map(|setup| (setup, header(), with(json!({ "aud": "api" })), OAUTH))
        .into();
    // Without an audience of ours it fails there first; without any setting, as what it is.
    rows[0].3 = AUDIENCE;
    rows[3].3 = AUDIENCE;
    rows.extend([
        (Plain, header(), claims(), OAUTH),
        (Plain, header(), with(json!({ "sid": "sess_1" })), OAUTH),
        (Plain, json!({}), claims(), OAUTH),
        (Plain, json!({ "typ": "application/AT+jwt" }), json!({}), OAUTH),
        (Plain, header(), json!({}), OAUTH),
        (Development, header(), claims(), OAUTH),
        (Development, json!({}), json!({ "client_id": "x" }), OAUTH),
        (Audience, header(), claims(), AUDIENCE),
    ]);
    for mark in ["client_id", "scope", "scp", "scopes", "cid"] {
        rows.push((Plain, json!({}), json!({ mark: "anything" }), OAUTH));
        rows.push((Plain, json!({}), json!({ mark: "" }), OAUTH));
        rows.push((Audience, json!({}), json!({ mark: "anything", "aud": "api" }), OAUTH));
    }
    rows.extend([
        (Plain, json!({}), json!({ "scp": ["a", "b"] }), OAUTH),
        (Plain, json!({}), json!({ "scope": null }), OAUTH),
        (Plain, json!({}), json!({ "client_id": null }), "client_id claim is not a string"),
    ]);
    rows
}

/// The access tokens of clients that the operator named.
fn named_clients() -> Vec<Row> {
    use Setup::{All, Audience, Clients};
    let at = || json!({ "typ": "at+jwt" });
    vec![
        (Clients, at(), json!({ "client_id": "client_ours", "aud": "api", "sid": "-" }), OK),
        (Clients, at(), json!({ "client_id": "client_ours", "aud": ["else", "api"], "scope": "x" }), OK),
        (Clients, json!({}), json!({ "cid": "client_ours", "aud": "api", "scp": ["x"] }), OK),
        (Clients, at(), json!({ "azp": "client_ours", "aud": "api", "scope": "x" }), OK),
        (Clients, at(), json!({ "client_id": "client_ours", "azp": "client_ours", "aud": "api" }), OK),
        (
            Clients,
            at(),
            json!({ "client_id": "client_ours", "azp": "client_other", "aud": "api" }),
            "names two clients",
        ),
        (
            Clients,
            at(),
            json!({ "client_id": "client_other", "azp": "client_ours", "aud": "api" }),
            "names two clients",
        ),
        (Clients, at(), json!({ "client_id": "CLIENT_OURS", "aud": "api" }), OAUTH),
        (Clients, at(), json!({ "client_id": "client_ours" }), AUDIENCE),
        (Clients, at(), json!({ "client_id": "client_ours", "aud": "other" }), AUDIENCE),
        (Clients, at(), json!({ "client_id": "client_ours", "aud": [] }), AUDIENCE),
        (Clients, at(), json!({ "aud": "api" }), OAUTH),
        (Clients, json!({}), json!({ "scope": "x", "aud": "api" }), OAUTH),
        // The azp of an access token is its client, that of a session the web application.
        (All, at(), json!({ "client_id": "client_ours", "azp": "client_ours", "aud": "api" }), OK),
        (All, json!({}), json!({ "azp": "client_ours", "aud": "api" }), "not authorized here"),
        (All, json!({}), json!({ "azp": "https://app.example", "aud": "api" }), OK),
        // Sessions go on beside them.
        (Clients, json!({}), json!({ "aud": "api" }), OK),
        (Clients, json!({}), json!({}), AUDIENCE),
        (Audience, at(), json!({ "client_id": "client_ours", "aud": "api" }), OAUTH),
    ]
}

/// Session tokens, and what looks like them.
fn sessions() -> Vec<Row> {
    use Setup::{Audience, Development, Parties, Plain};
    let none = || json!({});
    vec![
        (Plain, none(), none(), OK),
        (Plain, json!({ "typ": "-" }), none(), OK),
        (Plain, json!({ "typ": "application/jwt" }), none(), OK),
        (Plain, json!({ "typ": "logout+jwt" }), none(), "another type"),
        (Plain, json!({ "typ": "dpop+jwt" }), none(), "another type"),
        (Plain, json!({ "typ": "secevent+jwt" }), none(), "another type"),
        (Plain, json!({ "typ": "id_token+jwt" }), none(), "another type"),
        (Plain, json!({ "typ": null }), none(), "typ"),
        (Plain, json!({ "cat": "cl_B7d4PD111AAA" }), none(), OK),
        (Plain, json!({ "cat": "cl_I7d4PD111III" }), none(), OK),
        (Plain, json!({ "cat": "someone else's" }), none(), OK),
        (Plain, json!({ "cat": "cl_B7d4PD333AAA" }), none(), "(cat)"),
        (Plain, json!({ "cat": "cl_B7d4PD999ZZZ" }), none(), "(cat)"),
        (Plain, none(), json!({ "sub": "mch_1" }), "a machine"),
        // Tokens of Clerk's JWT templates have no session; an audience says that they are for us.
        (Plain, json!({ "cat": "cl_B7d4PD222AAA" }), json!({ "sid": "-" }), SESSIONLESS),
        (Audience, json!({ "cat": "cl_B7d4PD222AAA" }), json!({ "sid": "-", "aud": "api" }), OK),
        (Plain, json!({ "cat": "cl_B7d4PD222AAA" }), none(), SESSIONLESS),
        (Plain, none(), json!({ "sid": "-" }), SESSIONLESS),
        (Plain, none(), json!({ "sid": "" }), "sid claim is not between"),
        (Plain, none(), json!({ "sid": 7 }), "sid claim is not a string"),
        (Plain, none(), json!({ "sid": "a\u{0}" }), "control characters"),
        (Development, none(), json!({ "sid": "-" }), OK),
        (Plain, none(), json!({ "aud": "convex" }), AUDIENCE),
        (Plain, none(), json!({ "aud": "" }), AUDIENCE),
        (Plain, none(), json!({ "aud": [] }), AUDIENCE),
        (Plain, none(), json!({ "aud": null }), "aud claim is neither"),
        (Development, none(), json!({ "aud": "y" }), AUDIENCE),
        (Audience, none(), json!({ "aud": "api" }), OK),
        (Audience, none(), json!({ "aud": "API" }), AUDIENCE),
        (Audience, none(), none(), AUDIENCE),
        (Plain, none(), json!({ "azp": "https://anything.example" }), OK),
        (Parties, none(), json!({ "azp": "https://app.example" }), OK),
        (Parties, none(), none(), OK),
        (Parties, none(), json!({ "azp": "https://app.example.evil" }), "not authorized here"),
        (Plain, none(), json!({ "sts": "active" }), OK),
        (Plain, none(), json!({ "sts": "pending" }), "finish signing in"),
        (Plain, none(), json!({ "sts": "revoked" }), "not active"),
        (Plain, none(), json!({ "sts": "" }), "not active"),
        (Plain, none(), json!({ "sts": null }), "sts claim is not a string"),
        (Plain, none(), json!({ "events": {} }), "an event"),
        (Plain, none(), json!({ "events": null }), "an event"),
        (Plain, none(), json!({ "cnf": { "jkt": "x" } }), "bound to a key"),
        (Plain, none(), json!({ "nonce": "n" }), "an ID token"),
        (Plain, none(), json!({ "at_hash": "x" }), "an ID token"),
        (Plain, none(), json!({ "c_hash": "x" }), "an ID token"),
        (Audience, none(), json!({ "nonce": "n", "aud": "api" }), OK),
        (Plain, none(), json!({ "v": 2, "o": {} }), OK),
        (Plain, none(), json!({ "org_id": "" }), OK),
        (Plain, none(), json!({ "org_id": null }), OK),
        (Plain, none(), json!({ "org_id": 7 }), "org_id claim is not a string"),
        (Plain, none(), json!({ "v": 2, "o": ["org_1"] }), "o claim is not an object"),
        (Plain, none(), json!({ "may_act": { "sub": "user_2" } }), OK),
    ]
}

/// Payloads as vendors document them, signed by the issuer that the API trusts: what their users would send by mistake.
fn documented_by_vendors() -> Vec<Row> {
    use Setup::{Audience, Plain};
    let none = || json!({});
    vec![
        // Okta, access token and ID token.
        (
            Plain,
            none(),
            json!({ "sid": "-", "ver": 1, "jti": "AT.x", "aud": "https://x.okta.com", "cid": "client_id", "uid": "y", "scp": ["openid", "profile"] }),
            AUDIENCE,
        ),
        (
            Audience,
            none(),
            json!({ "sid": "-", "ver": 1, "aud": "api", "cid": "client_id", "uid": "y", "scp": ["openid"] }),
            OAUTH,
        ),
        (
            Plain,
            none(),
            json!({ "sid": "-", "aud": "client_id", "jti": "ID.x", "amr": ["pwd"], "at_hash": "x" }),
            AUDIENCE,
        ),
        // Amazon Cognito, access token.
        (
            Plain,
            none(),
            json!({ "sid": "-", "token_use": "access", "client_id": "1example", "scope": "aws.cognito.signin.user.admin", "username": "u" }),
            OAUTH,
        ),
        // Kinde, machine to machine.
        (
            Plain,
            none(),
            json!({ "sid": "-", "azp": "d4d3c5b7", "gty": ["client_credentials"], "scope": "read:users", "scp": ["read:users"], "v": "2" }),
            OAUTH,
        ),
        // WorkOS Connect: its `sid` is a consent, not a session.
        (
            Plain,
            none(),
            json!({ "client_id": "client_123", "org_id": "org_1", "sid": "app_consent_1", "scope": "openid" }),
            OAUTH,
        ),
        // Supabase: `session_id` is not `sid`, so the audience must be named.
        (
            Plain,
            none(),
            json!({ "sid": "-", "session_id": "s", "role": "authenticated", "aal": "aal1", "is_anonymous": false }),
            SESSIONLESS,
        ),
        (
            Plain,
            none(),
            json!({ "sid": "-", "session_id": "s", "aud": "authenticated", "role": "authenticated" }),
            AUDIENCE,
        ),
        // Keycloak, access token of a session of a browser.
        (
            Plain,
            none(),
            json!({ "typ": "Bearer", "azp": "web", "session_state": "s", "scope": "openid profile" }),
            OAUTH,
        ),
    ]
}

/// Somebody in the place of the user.
fn impersonation() -> Vec<Row> {
    use Setup::{Impersonation, Plain};
    let act = |act: Value| json!({ "act": act });
    vec![
        (Plain, json!({}), act(json!({ "sub": "user_2" })), "not allowed here"),
        (Plain, json!({}), act(json!(null)), OK),
        (Plain, json!({}), act(json!("user_2")), "act claim is not an object"),
        (Plain, json!({}), act(json!({})), "act claim has no sub"),
        (Impersonation, json!({}), act(json!({ "sub": "user_2" })), OK),
        (Impersonation, json!({}), act(json!({ "sub": "user_2", "iss": "https://dashboard.clerk.com" })), OK),
        (Impersonation, json!({}), act(json!({ "sub": "" })), "act.sub claim is not between"),
        (Impersonation, json!({}), act(json!({ "sub": 7 })), "act.sub claim is not a string"),
        (Impersonation, json!({}), act(json!({ "sub": "a\n" })), "control characters"),
        (Impersonation, json!({}), act(json!([])), "act claim is not an object"),
        (Impersonation, json!({}), act(json!(false)), "act claim is not an object"),
    ]
}

fn changed(mut value: Value, changes: &Value) -> Value {
    for (name, change) in changes.as_object().expect("an object") {
        match value.as_object_mut() {
            Some(object) if change == "-" => drop(object.remove(name)),
            _ => value[name] = change.clone(),
        }
    }
    value
}

#[tokio::test]
async fn a_session_token_and_nothing_else_is_accepted() {
    let key = TestKey::new(KeyKind::Ed, "k");
    let rows: Vec<Row> =
        [third_party(), named_clients(), sessions(), impersonation(), documented_by_vendors()].concat();
    assert!(rows.len() >= 100, "{} tokens", rows.len());
    let mut wrong = Vec::new();
    for (setup, header, changes, expected) in rows {
        let mut settings = settings(&[&key]);
        match setup {
            Setup::Plain => {}
            Setup::Audience => settings.audience = vec!["api".into()],
            Setup::Clients => {
                settings.audience = vec!["api".into()];
                settings.oauth_clients = vec!["client_ours".into()];
            }
            Setup::All => {
                settings.audience = vec!["api".into()];
                settings.oauth_clients = vec!["client_ours".into()];
                settings.authorized_parties = vec!["https://app.example".into()];
            }
            Setup::Parties => settings.authorized_parties = vec!["https://app.example".into()],
            Setup::Development => settings.issuer = Some(DEV_ISSUER.into()),
            Setup::Impersonation => settings.impersonation = Impersonation::Restricted,
        }
        let mut claims = claims();
        claims["iss"] = json!(settings.issuer);
        claims.as_object_mut().expect("an object").remove("org_id");
        let token = key.sign_with(&changed(key.header(), &header), &changed(claims, &changes));
        let verifier = Verifier::new(settings, clock()).expect("a verifier");
        let got = match verifier.verify(&token).await {
            Ok(identity) => {
                let actor = changes["act"]["sub"].as_str();
                assert_eq!(identity.impersonator.as_deref(), actor.filter(|_| matches!(setup, Setup::Impersonation)));
                let session = if changes["sid"] == "-" { None } else { Some("sess_1") };
                assert_eq!(identity.session_id.as_deref(), session);
                OK.to_owned()
            }
            Err(Error::InvalidToken(reason)) => reason,
            Err(other) => panic!("{other}"),
        };
        let as_expected = if expected == OK { got == OK } else { got.contains(expected) };
        if !as_expected {
            wrong.push(format!("{setup:?} {header} {changes}: expected {expected:?}, got {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
