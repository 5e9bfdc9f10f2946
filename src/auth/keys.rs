//! The usable public keys of a JWK Set (RFC 7517), each bound to the one algorithm it may verify.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// A set of verification keys. It never changes; a rotation replaces the whole set.
pub(super) struct KeySet {
    keys: Vec<VerificationKey>,
    jwks: Vec<Jwk>,
    generation: u64,
}

struct VerificationKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Why no key fits a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// The set has no key of that id; a fresh set may.
    UnknownId,
    /// The token names no key and the set leaves a choice.
    NoId,
    /// The key exists, for another algorithm.
    OtherAlgorithm,
}

impl KeySet {
    /// The usable keys among `jwks`, or `None` when there are none.
    pub(super) fn new(jwks: Vec<Jwk>, generation: u64) -> Option<Self> {
        let keys: Vec<_> = jwks.iter().filter_map(VerificationKey::new).collect();
        (!keys.is_empty()).then_some(Self { keys, jwks, generation })
    }

    /// Changes whenever the keys do: whatever was concluded with other keys is told apart by it.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn has_same_keys(&self, jwks: &[Jwk]) -> bool {
        self.jwks == jwks
    }

    /// The keys a token with this `kid` and `alg` may have been signed with; never empty.
    ///
    /// More than one only where the issuer gave several keys the same id, which RFC 7517, section 4.5 does not forbid.
    pub(super) fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Vec<&DecodingKey>, Miss> {
        let named: Vec<_> = match id {
            Some(id) => self.keys.iter().filter(|key| key.id.as_deref() == Some(id)).collect(),
            // Trying every key in turn would let a token choose; with one key there is nothing to choose.
            None if self.keys.len() == 1 => self.keys.iter().collect(),
            None => return Err(Miss::NoId),
        };
        if named.is_empty() {
            return Err(Miss::UnknownId);
        }
        let fitting: Vec<_> = named.iter().filter(|key| key.algorithm == algorithm).map(|key| &key.key).collect();
        if fitting.is_empty() { Err(Miss::OtherAlgorithm) } else { Ok(fitting) }
    }
}

impl VerificationKey {
    /// The key, if it is a public key for one of our algorithms and meant for verifying signatures.
    ///
    /// The algorithm comes from the key alone (RFC 8725, section 3.1): its `alg`, which must agree with its type, or the one
    /// algorithm we take for that type. A symmetric key (`oct`) in a public set is public, so it proves nothing.
    fn new(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        if common.key_operations.as_ref().is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
            return None;
        }
        let (algorithm, well_formed) = match &jwk.algorithm {
            // Below 2048 bits RSA is refused by RFC 7518, section 3.3; above 8192 it is a way to burn our time.
            AlgorithmParameters::RSA(key) => {
                (Algorithm::RS256, decoded_len(&key.n).is_some_and(|n| (256..=1024).contains(&n)))
            }
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, decoded_len(&key.x) == Some(32) && decoded_len(&key.y) == Some(32))
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                (Algorithm::EdDSA, decoded_len(&key.x) == Some(32))
            }
            _ => return None,
        };
        if !well_formed || common.key_algorithm.is_some_and(|named| named != KeyAlgorithm::from(algorithm)) {
            return None;
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        Some(Self { id: common.key_id.clone(), algorithm, key })
    }
}

fn decoded_len(text: &str) -> Option<usize> {
    URL_SAFE_NO_PAD.decode(text).ok().map(|bytes| bytes.len())
}

/// Reads a JWK Set document. Keys that we do not understand are skipped, as RFC 7517, section 5 asks.
pub(super) fn parse_jwk_set(document: &[u8]) -> Result<Vec<Jwk>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Document {
        keys: Vec<Value>,
    }
    let document: Document = serde_json::from_slice(document)?;
    Ok(document.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::testing::{Kind, TestKey};

    fn set(keys: &[Value]) -> Option<KeySet> {
        let document = json!({ "keys": keys }).to_string();
        KeySet::new(parse_jwk_set(document.as_bytes()).expect("a JWK set"), 1)
    }

    fn with(key: &TestKey, name: &str, value: Value) -> Value {
        let mut jwk = key.jwk_json();
        jwk[name] = value;
        jwk
    }

    fn without(key: &TestKey, name: &str) -> Value {
        let mut jwk = key.jwk_json();
        jwk.as_object_mut().expect("an object").remove(name);
        jwk
    }

    #[test]
    fn the_algorithm_belongs_to_the_key() {
        for (kind, algorithm) in
            [(Kind::Rsa, Algorithm::RS256), (Kind::Ec, Algorithm::ES256), (Kind::Ed, Algorithm::EdDSA)]
        {
            let key = TestKey::new(kind, "k");
            for jwk in [key.jwk_json(), without(&key, "alg")] {
                let keys = set(&[jwk]).expect("a usable key");
                for other in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA, Algorithm::HS256, Algorithm::PS256]
                {
                    let found = keys.candidates(Some("k"), other).map(|keys| keys.len());
                    assert_eq!(found, if other == algorithm { Ok(1) } else { Err(Miss::OtherAlgorithm) });
                }
            }
        }
    }

    #[test]
    fn keys_for_other_purposes_are_no_keys() {
        let rsa = TestKey::new(Kind::Rsa, "k");
        let ed = TestKey::new(Kind::Ed, "k");
        let refused = [
            with(&rsa, "use", json!("enc")),
            with(&rsa, "use", json!("tls")),
            with(&rsa, "key_ops", json!(["encrypt"])),
            with(&rsa, "alg", json!("RS512")),
            with(&rsa, "alg", json!("RSA-OAEP")),
            with(&rsa, "alg", json!("HS256")),
            with(&rsa, "n", json!("AQAB")),
            with(&rsa, "n", json!("not base64 !")),
            with(&ed, "x", json!("AQAB")),
            with(&ed, "crv", json!("X25519")),
            with(&ed, "alg", json!("RS256")),
            json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "k", "alg": "HS256" }),
            json!({ "kty": "later", "kid": "k" }),
            json!({ "kid": "k" }),
            json!(7),
        ];
        for jwk in refused {
            assert!(set(std::slice::from_ref(&jwk)).is_none(), "{jwk}");
            let beside = set(&[jwk.clone(), TestKey::new(Kind::Ec, "good").jwk_json()]).expect("the good key is left");
            assert_eq!(beside.candidates(Some("k"), Algorithm::RS256).err(), Some(Miss::UnknownId), "{jwk}");
        }
        for jwk in [with(&rsa, "use", json!("sig")), with(&rsa, "key_ops", json!(["verify"]))] {
            assert!(set(&[jwk]).is_some());
        }
    }

    #[test]
    fn a_token_without_a_key_id_needs_a_set_without_a_choice() {
        let (a, b) = (TestKey::new(Kind::Ed, "a"), TestKey::new(Kind::Ed, "b"));
        let one = set(&[a.jwk_json(), with(&b, "use", json!("enc"))]).expect("one key");
        assert_eq!(one.candidates(None, Algorithm::EdDSA).map(|keys| keys.len()), Ok(1));
        assert_eq!(one.candidates(None, Algorithm::RS256).err(), Some(Miss::OtherAlgorithm));
        let two = set(&[a.jwk_json(), b.jwk_json()]).expect("two keys");
        assert_eq!(two.candidates(None, Algorithm::EdDSA).err(), Some(Miss::NoId));
    }

    #[test]
    fn documents_that_are_no_sets_are_errors() {
        for document in ["", "null", "[]", "{}", r#"{"keys":{}}"#, "<html>", "{\"keys\":[]", "\u{0}"] {
            assert!(parse_jwk_set(document.as_bytes()).is_err(), "{document:?}");
        }
        assert!(set(&[]).is_none());
    }
}
