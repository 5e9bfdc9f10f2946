use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_800_000_000;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(NOW, 0).expect("a time")
}

/// Valid claims with `changes` laid over them; a change to [`absent`] removes the claim.
fn claims(changes: Value) -> Value {
    let mut claims = json!({ "sub": "user_1", "sid": "sess_1", "exp": NOW + 60, "iat": NOW, "nbf": NOW });
    let (Value::Object(all), Value::Object(changes)) = (&mut claims, changes) else { panic!("objects") };
    for (name, value) in changes {
        if value == absent() {
            all.remove(&name);
        } else {
            all.insert(name, value);
        }
    }
    claims
}

fn absent() -> Value {
    json!("<absent>")
}

fn check(rules: &Rules, changes: Value) -> Result<Identity, String> {
    rules.check(claims(changes).to_string().as_bytes(), Kind::Any, now())
}

#[track_caller]
fn refused(rules: &Rules, changes: Value, reason: &str) {
    let what = changes.to_string();
    let got = check(rules, changes).expect_err(&what);
    assert!(got.contains(reason), "{what}: {got}");
}

fn rules() -> Rules {
    Rules {
        issuer: Some("https://clerk.example".into()),
        audience: vec!["api".into(), "other".into()],
        authorized_parties: vec!["https://app.example".into()],
        ..Rules::default()
    }
}

#[test]
fn times_are_compared_with_the_given_clock_and_a_leeway() {
    let any = Rules::default();
    let at = |exp: Value| check(&any, json!({ "exp": exp }));
    assert_eq!(at(json!(NOW + 60)).expect("valid").expires_at.timestamp(), NOW + 60);
    assert!(at(json!(NOW - 4)).is_ok());
    assert!(at(json!(NOW.to_string().parse::<f64>().expect("a number") + 0.5)).is_ok());
    refused(&any, json!({ "exp": NOW - 5 }), "it has expired");
    refused(&any, json!({ "exp": 0 }), "it has expired");
    refused(&any, json!({ "exp": absent() }), "it has no exp claim");
    for claim in ["nbf", "iat"] {
        assert!(check(&any, json!({ claim: NOW + 5 })).is_ok());
        assert!(check(&any, json!({ claim: absent() })).is_ok());
        refused(&any, json!({ claim: NOW + 6 }), claim);
    }
}

#[test]
fn a_claim_of_the_wrong_type_is_never_taken_for_absent() {
    let any = Rules::default();
    let far = (NOW + 1_000_000).to_string();
    let wrong = [json!(null), json!(far), json!(true), json!([NOW]), json!({ "n": NOW })];
    for claim in ["exp", "nbf", "iat"] {
        for value in &wrong {
            refused(&any, json!({ claim: value }), "is not a number");
        }
        for value in [json!(-1), json!(-0.5), json!(1e300), json!(u64::MAX)] {
            refused(&any, json!({ claim: value }), "is not a possible time");
        }
    }
    for claim in ["sub", "iss", "azp", "sts", "sid"] {
        for value in [json!(null), json!(7), json!(["user_1"]), json!({}), json!(false)] {
            refused(&any, json!({ claim: value }), "is not a string");
        }
    }
    for value in [json!(null), json!(7), json!({}), json!(["api", 7]), json!([["api"]])] {
        refused(&any, json!({ "aud": value }), "aud claim is neither");
    }
}

#[test]
fn payloads_that_are_no_claims_are_refused() {
    let twice = format!(r#"{{"sub":"user_1","sub":"user_2","exp":{}}}"#, NOW + 60);
    let array = format!(r#"["https://clerk.example","user_1",[],{}]"#, NOW + 60);
    let deep = format!(r#"{{"o":{}{}}}"#, "[".repeat(4000), "]".repeat(4000));
    for payload in
        [twice.as_bytes(), array.as_bytes(), deep.as_bytes(), b"", b"null", b"7", b"\xff{}", b"{\"sub\":\"\xff\"}"]
    {
        let got = Rules::default().check(payload, Kind::Any, now()).expect_err("no claims");
        assert!(got.contains("not a JSON object"), "{got}");
    }
}

#[test]
fn the_subject_is_a_short_text_without_control_characters() {
    let any = Rules::default();
    refused(&any, json!({ "sub": absent() }), "it has no sub claim");
    refused(&any, json!({ "sub": "" }), "between 1 and 255");
    refused(&any, json!({ "sub": "é".repeat(256) }), "between 1 and 255");
    for control in ["user\u{0}", "a\nb", "\u{7f}", "\u{85}"] {
        refused(&any, json!({ "sub": control }), "control characters");
    }
    assert_eq!(check(&any, json!({ "sub": "é".repeat(255) })).expect("valid").subject.chars().count(), 255);
}

#[test]
fn issuer_audience_and_application_must_be_ours() {
    let ours = json!({ "iss": "https://clerk.example", "aud": "api", "azp": "https://app.example" });
    let changed = |claim: &str, value: Value| {
        let mut changes = ours.clone();
        changes[claim] = value;
        changes
    };
    assert!(check(&rules(), ours.clone()).is_ok());
    assert!(check(&rules(), changed("azp", absent())).is_ok(), "Clerk omits azp without an Origin");
    assert!(check(&rules(), changed("aud", json!(["else", "other"]))).is_ok());
    for issuer in [json!("https://clerk.example/"), json!("HTTPS://clerk.example"), json!(""), absent()] {
        refused(&rules(), changed("iss", issuer), "another issuer");
    }
    for audience in [json!("API"), json!([]), json!(["ap", "i"]), absent()] {
        refused(&rules(), changed("aud", audience), "another audience");
    }
    for party in ["https://app.example.evil", "", "null"] {
        refused(&rules(), changed("azp", json!(party)), "not authorized here");
    }
    assert!(check(&Rules::default(), json!({ "iss": "x", "azp": "z" })).is_ok());
    // Who has no name cannot be meant (RFC 7519, section 4.1.3).
    for audience in [json!("y"), json!(""), json!([]), json!(["y", "api"])] {
        refused(&Rules::default(), json!({ "aud": audience }), "another audience");
    }
}

#[test]
fn both_versions_of_the_organization_are_read() {
    let any = Rules::default();
    let organization = |changes| check(&any, changes).expect("valid").organization;
    let acme = |slug: Option<&str>| Some(TokenOrganization { id: "org_1".into(), slug: slug.map(str::to_owned) });
    let v1 = json!({ "org_id": "org_1", "org_role": "org:admin", "org_slug": "acme", "org_permissions": ["x"] });
    let v2 = json!({ "v": 2, "o": { "id": "org_1", "rol": "admin", "slg": "acme", "per": "read", "fpm": "1,2" } });
    assert_eq!(organization(v1), acme(Some("acme")));
    assert_eq!(organization(v2), acme(Some("acme")));
    assert_eq!(organization(json!({ "org_id": "org_1", "org_slug": null })), acme(None));
    assert_eq!(organization(json!({ "v": 1, "org_id": "org_1" })), acme(None));
    assert_eq!(organization(json!({ "v": 2, "o": { "id": "org_1" } })), acme(None));
    for personal in [
        json!({}),
        json!({ "org_id": null }),
        json!({ "org_id": "", "org_slug": "" }),
        json!({ "v": 2 }),
        json!({ "v": 2, "o": null }),
        json!({ "v": 2, "o": "" }),
        json!({ "v": 2, "o": {} }),
        json!({ "v": 2, "o": { "id": null } }),
        json!({ "v": 2, "o": { "id": "", "slg": "" } }),
    ] {
        assert_eq!(organization(personal), None);
    }
    // What an application adds to the claims of one version does not count as a claim of the other.
    assert_eq!(organization(json!({ "v": 2, "org_id": "org_1" })), None);
    assert_eq!(organization(json!({ "o": { "id": "org_1" } })), None);
    // A role is not read, so nothing it contains can matter.
    assert_eq!(organization(json!({ "v": 2, "o": { "id": "org_1", "rol": 7 } })), acme(None));
}

#[test]
fn a_broken_organization_claim_is_not_a_missing_one() {
    let any = Rules::default();
    refused(&any, json!({ "org_id": 7 }), "org_id claim is not a string");
    refused(&any, json!({ "org_id": "o\u{0}" }), "org_id claim contains control");
    refused(&any, json!({ "org_id": "org_1", "org_slug": [] }), "org_slug claim is not a string");
    refused(&any, json!({ "v": 2, "o": "org_1" }), "o claim is not an object");
    refused(&any, json!({ "v": 2, "o": [] }), "o claim is not an object");
    refused(&any, json!({ "v": 2, "o": { "id": {} } }), "o.id claim is not a string");
    refused(&any, json!({ "v": 2, "o": { "id": "org_1", "slg": "a\nb" } }), "o.slg claim contains control");
    refused(&any, json!({ "v": 3 }), "unknown version");
    refused(&any, json!({ "v": "2" }), "v claim is not a number");
}

#[test]
fn a_pending_session_is_not_signed_in() {
    refused(&Rules::default(), json!({ "sts": "pending" }), "pending");
    assert!(check(&Rules::default(), json!({ "sts": "active", "fva": [1, -1], "x": { "y": null } })).is_ok());
}
