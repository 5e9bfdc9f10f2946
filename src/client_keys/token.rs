//! Client tokens: who evaluates flags in a browser or an app, as the organization's backend has signed it.
//!
//! A token is a JWT (RFC 7519) in compact form (RFC 7515, section 7.1), signed with Ed25519 (RFC 8037) by any library: `alg` is
//! `EdDSA` (or `Ed25519`, its name since RFC 9864), `kid` the id of the client key, `sub` the targeting key, `exp` at most a day
//! ahead. `iat` and `nbf` may be there, and `aud` if it names `tenantry`. The key decides about the algorithm, never the token
//! (RFC 8725, section 3.1), and nothing is believed before the signature was checked.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::claims::{LEEWAY, audience, check_name, object, present, text, time};
use crate::auth::dev::PKCS8_PREFIX;
use crate::auth::verify::MAX_TOKEN_BYTES;
use crate::error::Error;
use crate::id::{ClientKeyId, Identified as _, marker};

/// The longest life of a token that is left.
pub const MAX_TTL: TimeDelta = TimeDelta::hours(24);
/// What `aud` must name where a token has it.
pub const AUDIENCE: &str = "tenantry";
/// The longest header that [`looks_like`] reads, in characters: three short members have less than a quarter of that.
const MAX_HEADER_CHARS: usize = 1024;

/// The public half of a client key: Ed25519 (RFC 8032).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl TryFrom<&[u8]> for PublicKey {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

impl PublicKey {
    /// Its 32 bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Whom a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientToken {
    /// The key that has signed it: the organization is the key's.
    pub key: ClientKeyId,
    /// The targeting key: 1 to 255 characters, none of them a control character.
    pub subject: String,
    /// From here on it is refused.
    pub expires_at: DateTime<Utc>,
}

/// Why a token is refused; never a piece of the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no such token.
    #[error("the client token is malformed: {0}")]
    Malformed(&'static str),
    /// No key in force has the id that it names.
    #[error("the client key (kid) is unknown, revoked or expired")]
    UnknownKey,
    /// Another key has signed it, or it was changed.
    #[error("the signature of the client token is wrong")]
    WrongSignature,
    /// Its time is over.
    #[error("the client token has expired")]
    Expired,
    /// It says something that no client token may.
    #[error("the client token is refused: {0}")]
    Claims(String),
}

/// The header parameters that are read; one that is there twice is refused by serde.
#[derive(Deserialize)]
struct Header {
    alg: Option<Value>,
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    typ: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    crit: Option<Value>,
}

/// The claims that are read. `iss` is not among them: the key says whose token it is.
#[derive(Deserialize)]
struct Claims {
    #[serde(default, deserialize_with = "present")]
    sub: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    aud: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    exp: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    iat: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    cnf: Option<Value>,
}

/// Whether a bearer token is meant to be a client token: its header names a client key. Cheap; proves nothing.
#[must_use]
pub fn looks_like(token: &str) -> bool {
    #[derive(Deserialize)]
    struct KeyId {
        kid: Option<String>,
    }
    let Some((header, _)) = token.split_once('.') else { return false };
    let read = || URL_SAFE_NO_PAD.decode(header).ok().and_then(|json| object::<KeyId>(&json)?.kid);
    header.len() <= MAX_HEADER_CHARS && read().is_some_and(|kid| kid.starts_with(marker::ClientKey::PREFIX))
}

/// Whom the token speaks for, if the key that it names has signed it and it is valid at `now`. `key_of` gives the public half of
/// a key in force.
///
/// # Errors
/// [`Refusal`].
pub fn verify(
    token: &str,
    key_of: impl FnOnce(ClientKeyId) -> Option<PublicKey>,
    now: DateTime<Utc>,
) -> Result<ClientToken, Refusal> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Refusal::Malformed("it is longer than 8 KiB"));
    }
    let parts = || Refusal::Malformed("it is not a signed JWT of three parts");
    let (signed, signature) = token.rsplit_once('.').ok_or_else(parts)?;
    let (header, payload) = signed.split_once('.').filter(|(_, payload)| !payload.contains('.')).ok_or_else(parts)?;
    let key = header_of(header)?;
    let public = key_of(key).ok_or(Refusal::UnknownKey)?;
    let public = DecodingKey::from_ed_der(&public.0);
    match jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &public, Algorithm::EdDSA) {
        Ok(true) => {}
        // A key that is no point of the curve verifies nothing.
        Ok(false) | Err(_) => return Err(Refusal::WrongSignature),
    }
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Refusal::Malformed("its claims are not base64url"))?;
    let claims: Claims =
        object(&payload).ok_or(Refusal::Malformed("its claims are not a JSON object, or a claim is there twice"))?;
    let expires_at = lives_until(&claims, now)?;
    let subject = subject_of(&claims).map_err(Refusal::Claims)?;
    Ok(ClientToken { key, subject, expires_at })
}

/// The key that the header names.
fn header_of(header: &str) -> Result<ClientKeyId, Refusal> {
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| Refusal::Malformed("its header is not base64url"))?;
    let header: Header = object(&header).ok_or(Refusal::Malformed(
        "its header is not a JSON object of the right types, or a parameter is there twice",
    ))?;
    // An extension that is critical must not be ignored (RFC 7515, section 4.1.11).
    if header.crit.is_some() {
        return Err(Refusal::Malformed("its header demands an extension (crit) that is not supported"));
    }
    if !matches!(header.alg.as_ref().and_then(Value::as_str), Some("EdDSA" | "Ed25519")) {
        return Err(Refusal::Malformed("its algorithm (alg) is not EdDSA"));
    }
    let is_jwt = |typ: &Value| typ.as_str().is_some_and(|typ| typ.eq_ignore_ascii_case("JWT"));
    if header.typ.as_ref().is_some_and(|typ| !is_jwt(typ)) {
        return Err(Refusal::Malformed("its type (typ) is not JWT"));
    }
    let kid = header.kid.ok_or(Refusal::Malformed("it names no key (kid)"))?;
    ClientKeyId::parse(&kid).map_err(|_| Refusal::UnknownKey)
}

/// Compares `exp`, `nbf` and `iat` with `now` and returns `exp`.
fn lives_until(claims: &Claims, now: DateTime<Utc>) -> Result<DateTime<Utc>, Refusal> {
    let at = |claim: Option<&Value>, name| time(claim, name).map_err(Refusal::Claims);
    let expires_at = at(claims.exp.as_ref(), "exp")?.ok_or_else(|| Refusal::Claims("it has no exp claim".into()))?;
    if now.signed_duration_since(expires_at) >= LEEWAY {
        return Err(Refusal::Expired);
    }
    let refused = |reason: &str| Err(Refusal::Claims(reason.to_owned()));
    if expires_at.signed_duration_since(now) > MAX_TTL + LEEWAY {
        return refused("it is valid for longer than 24 hours (exp)");
    }
    if at(claims.nbf.as_ref(), "nbf")?.is_some_and(|from| from.signed_duration_since(now) > LEEWAY) {
        return refused("it is not valid yet (nbf)");
    }
    if at(claims.iat.as_ref(), "iat")?.is_some_and(|issued| issued.signed_duration_since(now) > LEEWAY) {
        return refused("it was issued in the future (iat)");
    }
    Ok(expires_at)
}

/// The targeting key of a token that is for us.
fn subject_of(claims: &Claims) -> Result<String, String> {
    // RFC 7519, section 4.1.3: who is not among the audiences refuses the token.
    if claims.aud.is_some() && !audience(claims.aud.as_ref())?.contains(&AUDIENCE) {
        return Err("it is for another audience (aud)".into());
    }
    // Whoever presents it would have to prove to hold a key (RFC 7800), which is not checked.
    if claims.cnf.is_some() {
        return Err("it is bound to a key (cnf), and bound tokens are not supported".into());
    }
    let subject = text(claims.sub.as_ref(), "sub")?.ok_or("it has no sub claim")?;
    check_name(subject, "sub")?;
    Ok(subject.to_owned())
}

/// A new key pair, before it has an id. `Debug` does not show it.
#[derive(Clone)]
pub(super) struct KeyPair {
    seed: [u8; 32],
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyPair(…)")
    }
}

impl Default for KeyPair {
    /// A new one.
    fn default() -> Self {
        Self { seed: rand::random() }
    }
}

impl KeyPair {
    /// The private half as PKCS#8 (RFC 8410, section 7).
    fn document(&self) -> Vec<u8> {
        [PKCS8_PREFIX.as_slice(), &self.seed].concat()
    }

    /// The private half as PEM (RFC 7468).
    pub(super) fn pem(&self) -> String {
        // 48 bytes: one line of 64 characters.
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(self.document()))
    }

    /// The public half.
    ///
    /// # Errors
    /// [`Error::Internal`] when the cryptographic library refuses the key.
    pub(super) fn public(&self) -> Result<PublicKey, Error> {
        let jwk = Jwk::from_encoding_key(&EncodingKey::from_ed_der(&self.document()), Algorithm::EdDSA);
        let AlgorithmParameters::OctetKeyPair(pair) = jwk.map_err(Error::internal)?.algorithm else {
            return Err(Error::internal("an Ed25519 key is an octet key pair"));
        };
        let x = URL_SAFE_NO_PAD.decode(pair.x).map_err(Error::internal)?;
        PublicKey::try_from(x.as_slice()).map_err(Error::internal)
    }

    /// Both halves as a JWK (RFC 8037, section 2), for libraries that sign with one.
    ///
    /// # Errors
    /// As [`KeyPair::public`].
    pub(super) fn jwk(&self, id: ClientKeyId) -> Result<Value, Error> {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        Ok(json!({
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": id.to_string(),
            "x": encode(self.public()?.bytes()), "d": encode(&self.seed),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    struct Signer {
        id: ClientKeyId,
        pair: KeyPair,
    }

    impl Signer {
        fn new() -> Self {
            Self { id: ClientKeyId::new(&Clock::System), pair: KeyPair::default() }
        }

        fn sign(&self, header: &str, claims: &str) -> String {
            let message = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
            let key = EncodingKey::from_ed_pem(self.pair.pem().as_bytes()).expect("a PEM document");
            let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::EdDSA);
            format!("{message}.{}", signature.expect("a signature"))
        }

        fn header(&self) -> Value {
            json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.id.to_string() })
        }

        fn verify(&self, token: &str) -> Result<ClientToken, Refusal> {
            verify(token, |id| (id == self.id).then(|| self.pair.public().expect("a public half")), now())
        }

        fn with(&self, claims: &Value) -> Result<ClientToken, Refusal> {
            self.verify(&self.sign(&self.header().to_string(), &claims.to_string()))
        }
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).expect("a time")
    }

    fn claims(name: &str, value: impl Into<Value>) -> Value {
        let mut claims = json!({ "sub": "user-1", "exp": now().timestamp() + 3600 });
        claims[name] = value.into();
        claims
    }

    #[test]
    fn what_the_key_has_signed_is_accepted() {
        let signer = Signer::new();
        let now = now().timestamp();
        for claims in [
            claims("iss", "whoever"),
            claims("iat", now + 4),
            claims("nbf", now),
            claims("exp", now + 24 * 3600),
            claims("exp", now - 4),
            claims("aud", "tenantry"),
            claims("aud", json!(["another", "tenantry"])),
        ] {
            let token = signer.with(&claims).expect("a token");
            assert_eq!((token.key, token.subject.as_str()), (signer.id, "user-1"), "{claims}");
        }
        let mut header = signer.header();
        header["alg"] = json!("Ed25519");
        header.as_object_mut().expect("an object").remove("typ");
        let token = signer.sign(&header.to_string(), &claims("iat", now).to_string());
        assert!(signer.verify(&token).is_ok() && looks_like(&token));
    }

    #[test]
    fn claims_that_no_client_token_has_are_refused() {
        let signer = Signer::new();
        let now = now().timestamp();
        assert_eq!(signer.with(&claims("exp", now - 5)), Err(Refusal::Expired));
        for claims in [
            json!({ "sub": "user-1" }),
            json!({ "exp": now + 60 }),
            claims("exp", now + 24 * 3600 + 6),
            claims("exp", (now + 60).to_string()),
            claims("exp", Value::Null),
            claims("nbf", now + 6),
            claims("nbf", "soon"),
            claims("iat", now + 6),
            claims("sub", ""),
            claims("sub", 7),
            claims("sub", "a\u{0}b"),
            claims("sub", "x".repeat(256)),
            claims("aud", "another"),
            claims("aud", json!([])),
            claims("aud", Value::Null),
            claims("cnf", json!({ "jkt": "x" })),
        ] {
            assert!(matches!(signer.with(&claims), Err(Refusal::Claims(_))), "{claims}");
        }
        let twice = format!(r#"{{"sub":"a","sub":"b","exp":{}}}"#, now + 60);
        for claims in [twice.as_str(), "[]", "null", "{", ""] {
            let token = signer.sign(&signer.header().to_string(), claims);
            assert!(matches!(signer.verify(&token), Err(Refusal::Malformed(_))), "{claims}");
        }
    }

    #[test]
    fn headers_choose_neither_key_nor_algorithm() {
        let (signer, other) = (Signer::new(), Signer::new());
        let good = claims("iat", now().timestamp()).to_string();
        let with = |name: &str, value: Value| {
            let mut header = signer.header();
            header[name] = value;
            signer.verify(&signer.sign(&header.to_string(), &good))
        };
        for (name, value) in [
            ("alg", json!("none")),
            ("alg", json!("HS256")),
            ("alg", json!("RS256")),
            ("alg", Value::Null),
            ("typ", json!("at+jwt")),
            ("typ", json!(1)),
            ("crit", json!(["exp"])),
            ("kid", json!(7)),
            ("kid", Value::Null),
        ] {
            assert!(matches!(with(name, value.clone()), Err(Refusal::Malformed(_))), "{name}: {value}");
        }
        for kid in
            [other.id.to_string(), "cky_".to_owned(), format!("key_{}", signer.id.uuid().simple()), "x".repeat(5000)]
        {
            assert_eq!(with("kid", json!(kid)), Err(Refusal::UnknownKey), "{kid}");
        }
        // Signed by another key that calls itself this one.
        let forged = other.sign(&signer.header().to_string(), &good);
        assert_eq!(signer.verify(&forged), Err(Refusal::WrongSignature));
        // Its own public key as a shared secret, and a public key beside it.
        let mut header = signer.header();
        header["jwk"] = other.pair.jwk(signer.id).expect("a JWK");
        assert_eq!(signer.verify(&other.sign(&header.to_string(), &good)), Err(Refusal::WrongSignature));
        // A key that is no key.
        let token = signer.sign(&signer.header().to_string(), &good);
        assert_eq!(verify(&token, |_| Some(PublicKey([255; 32])), now()), Err(Refusal::WrongSignature));
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let signer = Signer::new();
        let token = signer.sign(&signer.header().to_string(), &claims("iat", now().timestamp()).to_string());
        assert!(signer.verify(&token).is_ok());
        for place in 0..token.len() {
            let mut changed = token.as_bytes().to_vec();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(signer.verify(&changed).is_err(), "{place}");
        }
        for odd in ["", ".", "..", "...", "a.b", "a.b.c.d", "ü.ü.ü", &"x".repeat(1 << 20), &format!("{token}.")] {
            assert!(matches!(signer.verify(odd), Err(Refusal::Malformed(_))), "{}", odd.len());
        }
    }

    #[test]
    fn client_tokens_are_told_from_others_by_their_key_id() {
        let signer = Signer::new();
        assert!(looks_like(&signer.sign(&signer.header().to_string(), "{}")));
        for header in
            [json!({ "alg": "EdDSA", "kid": "ins_1" }), json!({ "alg": "EdDSA" }), json!({ "kid": 7 }), json!([])]
        {
            assert!(!looks_like(&signer.sign(&header.to_string(), "{}")), "{header}");
        }
        let long = json!({ "kid": signer.id.to_string(), "x": "x".repeat(2000) });
        for token in ["", "tnt_0", "a.b.c", &signer.sign(&long.to_string(), "{}")] {
            assert!(!looks_like(token));
        }
    }

    #[test]
    fn private_halves_are_not_shown_by_accident() {
        let signer = Signer::new();
        assert_eq!(format!("{:?}", signer.pair), "KeyPair(…)");
        let jwk = signer.pair.jwk(signer.id).expect("a JWK");
        assert_eq!(jwk["kid"], signer.id.to_string());
        assert_eq!(jwk["x"].as_str().map(str::len), Some(43));
        assert_eq!(jwk["d"].as_str().map(str::len), Some(43));
    }
}
