use chrono::TimeDelta;
use jsonwebtoken::EncodingKey;
use serde_json::json;

use super::*;
use crate::auth::testing::{Kind as KeyKind, TestKey, jwk_set, message};

mod table;

const NOW: i64 = 1_800_000_000;

fn clock() -> Clock {
    Clock::manual(DateTime::from_timestamp(NOW, 0).expect("a time"))
}

fn settings(keys: &[&TestKey]) -> AuthSettings {
    AuthSettings {
        source: KeySource::Keys(jwk_set(keys)),
        issuer: Some("https://clerk.example".into()),
        audience: Vec::new(),
        authorized_parties: Vec::new(),
        oauth_clients: Vec::new(),
        impersonation: Impersonation::Off,
    }
}

fn verifier(keys: &[&TestKey]) -> Verifier {
    Verifier::new(settings(keys), clock()).expect("a verifier")
}

fn claims() -> Value {
    json!({ "iss": "https://clerk.example", "sub": "user_1", "sid": "sess_1", "exp": NOW + 60, "iat": NOW, "org_id": "org_1" })
}

#[track_caller]
fn reason<T>(result: Result<T>) -> String {
    match result {
        Err(Error::InvalidToken(reason)) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was accepted"),
    }
}

async fn refused(verifier: &Verifier, token: &str) -> String {
    reason(verifier.verify(token).await)
}

#[tokio::test]
async fn each_algorithm_is_accepted_with_its_key() {
    let keys = [TestKey::new(KeyKind::Rsa, "rsa"), TestKey::new(KeyKind::Ec, "ec"), TestKey::new(KeyKind::Ed, "ed")];
    let verifier = verifier(&keys.each_ref());
    for key in &keys {
        let token = key.sign(&claims());
        for _ in 0..2 {
            let identity = verifier.verify(&token).await.expect("valid");
            assert_eq!((identity.subject.as_str(), identity.expires_at.timestamp()), ("user_1", NOW + 60));
            assert_eq!(identity.organization.as_ref().map(|o| o.id.as_str()), Some("org_1"));
        }
        for typ in ["jwt", "JWT", "application/JWT"] {
            let header = json!({ "alg": key.algorithm, "kid": key.id(), "typ": typ, "cat": "unknown parameter" });
            assert!(verifier.verify(&key.sign_with(&header, &claims())).await.is_ok());
        }
        // A token that names another key or another algorithm than it was signed with.
        for other in &keys {
            if other.id() != key.id() {
                assert_eq!(
                    refused(&verifier, &key.sign_with(&other.header(), &claims())).await,
                    "its signature is wrong"
                );
                let crossed = json!({ "alg": other.algorithm, "kid": key.id() });
                let got = refused(&verifier, &key.sign_with(&crossed, &claims())).await;
                assert_eq!(got, "its algorithm is not the one of its key");
            }
        }
    }
}

#[tokio::test]
async fn a_public_key_is_not_a_shared_secret() {
    let rsa = TestKey::new(KeyKind::Rsa, "k");
    let ed = TestKey::new(KeyKind::Ed, "k");
    for key in [&rsa, &ed] {
        let jwk = key.jwk_json();
        let verifier = verifier(&[key]);
        for secret in [jwk["n"].as_str(), jwk["x"].as_str(), Some(""), Some(&jwk.to_string())].into_iter().flatten() {
            let decoded = URL_SAFE_NO_PAD.decode(secret).unwrap_or_default();
            for secret in [secret.as_bytes(), &decoded] {
                // Said to be HMAC, and said to be what the key is for.
                for (alg, expected) in
                    [(json!("HS256"), "shared secret"), (json!(key.algorithm), "its signature is wrong")]
                {
                    let header = json!({ "alg": alg, "kid": "k" });
                    let message = message(header.to_string().as_bytes(), claims().to_string().as_bytes());
                    let hmac = EncodingKey::from_secret(secret);
                    let mac = jsonwebtoken::crypto::sign(message.as_bytes(), &hmac, Algorithm::HS256).expect("a MAC");
                    let got = refused(&verifier, &format!("{message}.{mac}")).await;
                    assert!(got.contains(expected), "{got}");
                }
            }
        }
    }
}

#[tokio::test]
async fn other_algorithms_are_refused_with_the_reason() {
    let key = TestKey::new(KeyKind::Ed, "k");
    let verifier = verifier(&[&key]);
    for (alg, expected) in [
        (json!("none"), "alg none"),
        (json!("nOnE"), "alg none"),
        (json!("HS256"), "shared secret"),
        (json!("HS512"), "shared secret"),
        (json!("RS512"), "none of RS256"),
        (json!("PS256"), "none of RS256"),
        (json!("eddsa"), "none of RS256"),
        (json!(""), "none of RS256"),
        (json!(null), "names no algorithm"),
        (json!(["EdDSA"]), "names no algorithm"),
    ] {
        let token = key.sign_with(&json!({ "alg": alg, "kid": "k" }), &claims());
        let unsigned = token.rsplit_once('.').expect("parts").0;
        for token in [token.as_str(), &format!("{unsigned}.")] {
            let got = refused(&verifier, token).await;
            assert!(got.contains(expected), "{alg}: {got}");
        }
    }
    let signed = key.sign(&claims());
    let unsigned = signed.rsplit_once('.').expect("parts").0;
    assert_eq!(refused(&verifier, &format!("{unsigned}.")).await, "it is not signed");
}

#[tokio::test]
async fn the_header_decides_nothing_about_the_key() {
    let ours = TestKey::new(KeyKind::Ed, "k");
    let theirs = TestKey::new(KeyKind::Ed, "k");
    let verifier = verifier(&[&ours]);
    let brought = json!({ "alg": "EdDSA", "kid": "k", "jwk": theirs.jwk_json(), "jku": "https://evil.example/k" });
    assert_eq!(refused(&verifier, &theirs.sign_with(&brought, &claims())).await, "its signature is wrong");
    let header = |name: &str, value: Value| {
        let mut header = ours.header();
        header[name] = value;
        ours.sign_with(&header, &claims())
    };
    for crit in [json!(["exp"]), json!(["b64"]), json!([]), json!(null)] {
        assert!(refused(&verifier, &header("crit", crit)).await.contains("crit"));
    }
    for typ in [json!("logout+jwt"), json!("dpop+jwt"), json!(""), json!("application/"), json!("applicationé/jwt")] {
        assert!(refused(&verifier, &header("typ", typ)).await.contains("another type"));
    }
    assert!(refused(&verifier, &header("typ", json!(7))).await.contains("typ"));
    assert!(refused(&verifier, &header("kid", json!(7))).await.contains("kid"));
    assert!(refused(&verifier, &header("kid", json!(null))).await.contains("kid"));
    assert_eq!(refused(&verifier, &header("kid", json!("other-1"))).await, "unknown key id `other-1`");
    for odd in ["a\nb", "`; drop", &"k".repeat(65)] {
        assert_eq!(refused(&verifier, &header("kid", json!(odd))).await, "unknown key id (kid)");
    }
    let twice = br#"{"alg":"EdDSA","kid":"other","kid":"k"}"#;
    let got = refused(&verifier, &ours.sign_raw(twice, claims().to_string().as_bytes())).await;
    assert!(got.contains("twice"), "{got}");
    let array = br#"["EdDSA","k"]"#;
    assert!(refused(&verifier, &ours.sign_raw(array, b"{}")).await.contains("not a JSON object"));
}

#[tokio::test]
async fn a_token_without_a_key_id_needs_an_only_key() {
    let (a, b) = (TestKey::new(KeyKind::Ed, "a"), TestKey::new(KeyKind::Ed, "b"));
    let token = a.sign_with(&json!({ "alg": "EdDSA" }), &claims());
    assert!(verifier(&[&a]).verify(&token).await.is_ok());
    assert!(refused(&verifier(&[&a, &b]), &token).await.contains("names no key"));
    assert_eq!(refused(&verifier(&[&b]), &token).await, "its signature is wrong");
}

#[tokio::test]
async fn claims_are_looked_at_after_the_signature_only() {
    let key = TestKey::new(KeyKind::Ec, "k");
    let verifier = verifier(&[&key]);
    let mut expired = claims();
    expired["exp"] = json!(NOW - 60);
    let token = key.sign(&expired);
    assert_eq!(refused(&verifier, &token).await, "it has expired");
    let forged = token.replacen(token.rsplit_once('.').expect("parts").1, &"A".repeat(86), 1);
    assert_eq!(refused(&verifier, &forged).await, "its signature is wrong");
    // Claims of one token under the signature of another.
    let (good, signature) = (key.sign(&claims()), token.rsplit_once('.').expect("parts").1.to_owned());
    let spliced = format!("{}.{signature}", good.rsplit_once('.').expect("parts").0);
    assert_eq!(refused(&verifier, &spliced).await, "its signature is wrong");
    for (claim, value, expected) in [
        ("iss", json!("https://evil.example"), "another issuer"),
        ("nbf", json!(NOW + 60), "not valid yet"),
        ("sub", json!(["user_1"]), "sub claim is not a string"),
        ("sts", json!("pending"), "pending"),
    ] {
        let mut changed = claims();
        changed[claim] = value;
        assert!(refused(&verifier, &key.sign(&changed)).await.contains(expected));
    }
}

#[tokio::test]
async fn garbage_is_refused_without_repeating_it() {
    let key = TestKey::new(KeyKind::Ed, "k");
    let verifier = verifier(&[&key]);
    let good = key.sign(&claims());
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>().try_into().expect("three parts");
    let long = "A".repeat(1 << 20);
    let long_parts = format!("{long}.{long}.{long}");
    let not_utf8 = URL_SAFE_NO_PAD.encode([0xff, 0xfe, 0x00, 0xc3, 0x28]);
    let not_utf8_kid = URL_SAFE_NO_PAD.encode(b"{\"alg\":\"EdDSA\",\"kid\":\"\xff\"}");
    let deep = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":{}", "[".repeat(3000)));
    let nul_claims = key.sign_raw(
        key.header().to_string().as_bytes(),
        b"{\"sub\":\"a\\u0000\",\"iss\":\"https://clerk.example\",\"exp\":1900000000}",
    );
    let tokens = [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        "a".into(),
        "a.b".into(),
        "a.b.c".into(),
        "a.b.c.d.e".into(),
        long,
        long_parts,
        "\0.\0.\0".into(),
        "é.é.é".into(),
        nul_claims,
        format!("{not_utf8}.{payload}.{signature}"),
        format!("{not_utf8_kid}.{payload}.{signature}"),
        format!("{deep}.{payload}.{signature}"),
        format!("{header}.{not_utf8}.{signature}"),
        format!("{header}.{payload}.{not_utf8}"),
        format!("{header}.{payload}.{signature}="),
        format!("{header}.{payload}.{signature}\0"),
        format!("{header}.{payload}.{signature}.{signature}"),
        format!("{header}.{payload}."),
        format!("{header}..{signature}"),
        format!(".{payload}.{signature}"),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{header}.{payload}.{}", &signature[1..]),
        good[..good.len() - 1].into(),
    ];
    for token in tokens {
        let got = refused(&verifier, &token).await;
        assert!(token.len() < 8 || !got.contains(&token), "{got}");
        assert!(got.len() < 120 && !got.chars().any(char::is_control), "{got}");
    }
    assert!(verifier.verify(&good).await.is_ok());
}

#[tokio::test]
async fn a_remembered_token_does_not_outlive_its_expiry() {
    let key = TestKey::new(KeyKind::Ed, "k");
    let clock = clock();
    let verifier = Verifier::new(settings(&[&key]), clock.clone()).expect("a verifier");
    let token = key.sign(&claims());
    let first = verifier.verify(&token).await.expect("valid");
    assert!(Arc::ptr_eq(&first, &verifier.verify(&token).await.expect("valid")), "the second comes from memory");
    clock.advance(TimeDelta::seconds(59));
    assert!(Arc::ptr_eq(&first, &verifier.verify(&token).await.expect("valid")));
    clock.advance(TimeDelta::seconds(1));
    let in_leeway = verifier.verify(&token).await.expect("within the leeway");
    assert!(!Arc::ptr_eq(&first, &in_leeway), "checked again");
    assert_eq!(verifier.verified.len(), 0, "and not remembered");
    clock.advance(TimeDelta::seconds(4));
    assert!(verifier.verify(&token).await.is_ok());
    clock.advance(TimeDelta::seconds(1));
    assert_eq!(refused(&verifier, &token).await, "it has expired");
    // What was refused is not remembered, and one changed character makes another token.
    assert_eq!(verifier.verified.len(), 0);
}

#[test]
fn memory_is_bounded() {
    let key = TestKey::new(KeyKind::Ed, "k");
    let verifier = verifier(&[&key]);
    let identity = Arc::new(Identity {
        subject: "user_1".into(),
        session_id: None,
        impersonator: None,
        organization: None,
        profile: crate::auth::identity::Profile::default(),
        met: tokio::sync::OnceCell::new(),
        expires_at: DateTime::<Utc>::MAX_UTC,
    });
    for n in 0..30_000_u32 {
        verifier.verified.insert((Sha256::digest(n.to_be_bytes()).into(), 1), Arc::clone(&identity));
    }
    assert!(verifier.verified.len() <= CACHED_TOKENS, "{}", verifier.verified.len());
}

#[test]
fn the_header_is_bearer_and_one_token() {
    for header in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c", " Bearer a.b.c "] {
        assert_eq!(parse_authorization(header).expect("a token"), "a.b.c");
    }
    for header in [
        "",
        " ",
        "a.b.c",
        "Basic YTpi",
        "Bearera.b.c",
        "Bearer",
        "Bearer ",
        "Bearer a b",
        "Bearer a,b",
        "Bearer\ta.b.c",
    ] {
        let got = reason(parse_authorization(header));
        assert!(got.contains("Bearer"), "{header:?}: {got}");
    }
    for header in ["Bearer a.b.\0", "Bearer a.b.\u{e9}", "Bearer a\r\nb", "Bearer Bearer a"] {
        reason(parse_authorization(header));
    }
    let longest = "a".repeat(MAX_TOKEN_BYTES);
    assert!(parse_authorization(&format!("Bearer {longest}")).is_ok());
    assert!(reason(parse_authorization(&format!("Bearer {longest}a"))).contains("longer than 8192"));
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let key = TestKey::new(KeyKind::Ed, "k");
    let setup = |change: fn(&mut AuthSettings)| {
        let mut settings = settings(&[&key]);
        change(&mut settings);
        Verifier::new(settings, clock()).err().expect("refused").to_string()
    };
    assert!(setup(|s| s.source = KeySource::Keys(jwk_set(&[]))).contains("no public"));
    assert!(setup(|s| s.source = KeySource::Url("http://clerk.example".into())).contains("https://"));
    assert!(setup(|s| s.source = KeySource::File("/nonexistent/jwks.json".into())).contains("/nonexistent/jwks.json"));
    assert!(setup(|s| s.issuer = Some(String::new())).contains("the issuer"));
    assert!(setup(|s| s.audience = vec![String::new()]).contains("the audience"));
    assert!(setup(|s| s.authorized_parties = vec!["a".into(), String::new()]).contains("authorized parties"));
    assert!(setup(|s| s.oauth_clients = vec![String::new()]).contains("OAuth clients"));
    assert!(setup(|s| s.oauth_clients = vec!["client_1".into()]).contains("without an audience"));
}
