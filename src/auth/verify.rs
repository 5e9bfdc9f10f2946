//! From the `Authorization` header to an [`Identity`].

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use jsonwebtoken::Algorithm;
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::claims::{Kind, Rules, object, present};
use super::dev::DEV_ISSUER;
use super::identity::Identity;
use super::jwks::{Jwks, KeySource, Pace};
use super::keys::{KeySet, Miss};
use crate::access::Impersonation;
use crate::clock::Clock;
use crate::error::{Error, Result};

/// The longest token that is looked at: session tokens are below 2 KiB, proxies stop headers at 8 KiB.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// How many verified tokens are remembered, each in about 1 KiB at most. The cache divides this among a power of two of shards
/// and rounds up, so a power of two is kept exactly.
const CACHED_TOKENS: usize = 8192;

/// Which tokens are accepted.
#[derive(Clone, Debug)]
pub struct AuthSettings {
    /// The public keys of the identity provider.
    pub source: KeySource,
    /// The only `iss` that is accepted. Leave it out only where the keys are of no other use.
    pub issuer: Option<String>,
    /// The names of this API: `aud` must name one of these where a token has it, and every token must when there are any.
    pub audience: Vec<String>,
    /// When not empty: `azp`, the web application that asked for the token, must be one of these where it is present.
    /// Clerk's guard against tokens that a sibling subdomain got hold of ("Manual JWT verification").
    pub authorized_parties: Vec<String>,
    /// The OAuth clients (`client_id`) whose access tokens count as their users' sessions, if they are for our audience.
    /// Empty: an OAuth access token is never a session.
    pub oauth_clients: Vec<String>,
    /// What somebody may do whose token says that they act in the place of its subject (`act`).
    pub impersonation: Impersonation,
}

/// Why a [`Verifier`] cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum AuthSetupError {
    /// The address of the key set is no address.
    #[error("the address of the key set is not an absolute https URL (without user name)")]
    KeyUrl,
    /// Keys that come over plain HTTP are whoever's is on the way.
    #[error("the address of the key set must begin with https:// (http:// is accepted for loopback only)")]
    InsecureKeyUrl,
    /// TLS has nothing to trust.
    #[error("no certificate authorities for https were found on this machine: {0}")]
    Certificates(String),
    /// The file with the key set is of no use.
    #[error("the key set in {path} cannot be used: {reason}", path = path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key set verifies nothing.
    #[error("the key set has no public RS256, ES256 or EdDSA key for signatures")]
    NoUsableKey,
    /// An access token is good for its audience only (RFC 9068, section 4), so there must be one.
    #[error("OAuth clients are configured without an audience (aud) that their access tokens are for")]
    ClientsWithoutAudience,
    /// An empty value would refuse every token, or accept one with an empty claim.
    #[error("{0} contains an empty value")]
    Empty(&'static str),
}

/// Checks bearer tokens. One per process; sharing it shares its keys and its cache.
pub struct Verifier {
    jwks: Jwks,
    rules: Rules,
    clock: Clock,
    /// Verified tokens by their hash, so that the tokens themselves are not kept, and by the generation of the keys they were
    /// verified with, so that a withdrawn key takes its tokens along.
    verified: Cache<(Fingerprint, u64), Arc<Identity>>,
}

type Fingerprint = [u8; 32];

impl Verifier {
    /// A verifier for tokens as `settings` describe them, by the time of `clock`.
    ///
    /// A key file is read at once. Keys from an address are fetched in the background, at once if this is called within a
    /// tokio runtime: an issuer that is down does not keep the server from starting.
    pub fn new(settings: AuthSettings, clock: Clock) -> Result<Self, AuthSetupError> {
        Self::with_pace(settings, clock, Pace::default())
    }

    pub(super) fn with_pace(settings: AuthSettings, clock: Clock, pace: Pace) -> Result<Self, AuthSetupError> {
        let AuthSettings { source, issuer, audience, authorized_parties, oauth_clients, impersonation } = settings;
        if issuer.as_deref() == Some("") {
            return Err(AuthSetupError::Empty("the issuer"));
        }
        for (list, name) in [
            (&audience, "the audience"),
            (&authorized_parties, "the list of authorized parties"),
            (&oauth_clients, "the list of OAuth clients"),
        ] {
            if list.iter().any(String::is_empty) {
                return Err(AuthSetupError::Empty(name));
            }
        }
        if !oauth_clients.is_empty() && audience.is_empty() {
            return Err(AuthSetupError::ClientsWithoutAudience);
        }
        let sessionless = issuer.as_deref() == Some(DEV_ISSUER);
        Ok(Self {
            jwks: Jwks::new(&source, pace)?,
            rules: Rules { issuer, audience, authorized_parties, oauth_clients, impersonation, sessionless },
            clock,
            verified: Cache::new(CACHED_TOKENS),
        })
    }

    /// What somebody may do in the place of a user.
    #[must_use]
    pub fn impersonation(&self) -> Impersonation {
        self.rules.impersonation
    }

    /// Whether there are keys to verify with; for the readiness check.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.jwks.current().is_some()
    }

    /// The bearer of `token`, if the token is genuine, valid now and meant for us.
    ///
    /// [`Error::InvalidToken`] says why it is not; [`Error::KeysUnavailable`] that nobody can tell yet.
    pub async fn verify(&self, token: &str) -> Result<Arc<Identity>> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(too_long());
        }
        let fingerprint: Fingerprint = Sha256::digest(token.as_bytes()).into();
        if let Some(keys) = self.jwks.current()
            && let Some(identity) = self.recall(&fingerprint, &keys)
        {
            return Ok(identity);
        }
        let token = Token::parse(token)?;
        let mut keys = self.jwks.first().await?;
        if token.misses(&keys) == Some(Miss::UnknownId) {
            keys = self.jwks.newer_than(keys).await;
        }
        token.check_signature(&keys)?;
        // Read after the wait for keys, so that a token which expired meanwhile is refused.
        let now = self.clock.now();
        let identity = Arc::new(self.rules.check(&token.payload()?, token.kind, now).map_err(Error::InvalidToken)?);
        self.remember(fingerprint, &keys, &identity, now);
        Ok(identity)
    }

    fn recall(&self, fingerprint: &Fingerprint, keys: &KeySet) -> Option<Arc<Identity>> {
        let key = (*fingerprint, keys.generation());
        let identity = self.verified.get(&key)?;
        if self.clock.now() < identity.expires_at {
            return Some(identity);
        }
        self.verified.remove(&key);
        None
    }

    fn remember(&self, fingerprint: Fingerprint, keys: &KeySet, identity: &Arc<Identity>, now: DateTime<Utc>) {
        // A token in its leeway is accepted, but never from memory.
        if now < identity.expires_at {
            self.verified.insert((fingerprint, keys.generation()), Arc::clone(identity));
        }
    }
}

/// The token in an `Authorization` header: `Bearer`, in any case, and exactly one token (RFC 6750, section 2.1).
pub fn parse_authorization(header: &str) -> Result<&str> {
    let (scheme, token) = header.trim_matches(' ').split_once(' ').unwrap_or((header.trim_matches(' '), ""));
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Err(refuse("the authorization is not of the form `Bearer <token>`"));
    }
    let token = token.trim_start_matches(' ');
    if token.len() > MAX_TOKEN_BYTES {
        return Err(too_long());
    }
    if token.is_empty() {
        return Err(refuse("no token follows `Bearer`"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)) {
        return Err(refuse("`Bearer` is not followed by exactly one token"));
    }
    Ok(token)
}

/// A token in three parts (JWS compact serialization, RFC 7515, section 7.1), with its header read and nothing believed.
struct Token<'a> {
    algorithm: Algorithm,
    /// What its header calls it.
    kind: Kind,
    key_id: Option<String>,
    /// What the signature covers.
    signed: &'a str,
    payload: &'a str,
    signature: &'a str,
}

/// The header parameters that we read (RFC 7515, section 4.1); a parameter that is there twice is refused by serde.
///
/// `jwk`, `jku`, `x5c` and `x5u` are not among them: a token does not choose the key it is checked with.
#[derive(Deserialize)]
struct Header {
    #[serde(default, deserialize_with = "present")]
    alg: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    kid: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    typ: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    crit: Option<Value>,
    /// Clerk's category of tokens.
    cat: Option<Value>,
}

impl<'a> Token<'a> {
    fn parse(token: &'a str) -> Result<Self> {
        let malformed = || refuse("it is not a signed JWT of three parts");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = signed.split_once('.').ok_or_else(malformed)?;
        if payload.contains('.') || header.is_empty() || payload.is_empty() {
            return Err(malformed());
        }
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| refuse("its header is not base64url"))?;
        let header: Header =
            object(&header).ok_or_else(|| refuse("its header is not a JSON object, or a parameter is there twice"))?;
        // We implement no extension, and one that is critical must not be ignored (RFC 7515, section 4.1.11).
        if header.crit.is_some() {
            return Err(refuse("its header demands an extension (crit) that is not supported"));
        }
        let access_token = is_access_token(header.typ.as_ref())?;
        let template = is_template(header.cat.as_ref())?;
        let kind = match (access_token, template) {
            (true, _) => Kind::Access,
            (false, true) => Kind::Template,
            (false, false) => Kind::Any,
        };
        let algorithm = algorithm(header.alg.as_ref())?;
        if signature.is_empty() {
            return Err(refuse("it is not signed"));
        }
        let key_id = match header.kid {
            None => None,
            Some(Value::String(id)) => Some(id),
            Some(_) => return Err(refuse("its key id (kid) is not a string")),
        };
        Ok(Self { algorithm, kind, key_id, signed, payload, signature })
    }

    fn misses(&self, keys: &KeySet) -> Option<Miss> {
        keys.candidates(self.key_id.as_deref(), self.algorithm).err()
    }

    fn check_signature(&self, keys: &KeySet) -> Result<()> {
        let candidates = keys.candidates(self.key_id.as_deref(), self.algorithm).map_err(|miss| self.refuse(&miss))?;
        for key in candidates {
            match jsonwebtoken::crypto::verify(self.signature, self.signed.as_bytes(), key, self.algorithm) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(_) => return Err(refuse("its signature is not base64url")),
            }
        }
        Err(refuse("its signature is wrong"))
    }

    fn refuse(&self, miss: &Miss) -> Error {
        match miss {
            Miss::UnknownId => {
                // A key id is public and the first thing to look for when a rotation went wrong; but only one that looks like
                // one is repeated, because anybody can put anything there.
                let id = self.key_id.as_deref().unwrap_or_default();
                let harmless = id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
                refuse(format!("unknown key id {}", if harmless { format!("`{id}`") } else { "(kid)".into() }))
            }
            Miss::NoId => refuse("it names no key (kid), and the issuer has several"),
            Miss::OtherAlgorithm => refuse("its algorithm is not the one of its key"),
        }
    }

    fn payload(&self) -> Result<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(self.payload).map_err(|_| refuse("its claims are not base64url"))
    }
}

/// Whether the header calls it an OAuth access token (RFC 9068, section 2.1). Refuses what was signed with the same key for
/// another purpose, a logout token say (RFC 8725, sections 3.11 and 3.12).
fn is_access_token(typ: Option<&Value>) -> Result<bool> {
    let Some(typ) = typ else { return Ok(false) };
    let typ = typ.as_str().ok_or_else(|| refuse("its type (typ) is not a string"))?;
    let short = typ.get(..12).filter(|start| start.eq_ignore_ascii_case("application/")).map_or(typ, |_| &typ[12..]);
    match short {
        jwt if jwt.eq_ignore_ascii_case("JWT") => Ok(false),
        access if access.eq_ignore_ascii_case("at+jwt") => Ok(true),
        _ => Err(refuse("it is a token of another type (typ)")),
    }
}

/// Whether the header puts it into Clerk's category of JWT templates. Refuses Clerk's tokens of machines, which the key of
/// sessions signs, and categories that came after this was written. The values are those of Clerk's own SDK
/// (`@clerk/backend`, token categories). Other issuers may use `cat` as they like.
fn is_template(cat: Option<&Value>) -> Result<bool> {
    match cat.and_then(Value::as_str) {
        // A session token, and the value that says nothing.
        Some("cl_B7d4PD111AAA" | "cl_I7d4PD111III") => Ok(false),
        Some("cl_B7d4PD222AAA") => Ok(true),
        Some(cat) if cat.starts_with("cl_") => Err(refuse("it is not the token of a user's session (cat)")),
        _ => Ok(false),
    }
}

fn algorithm(alg: Option<&Value>) -> Result<Algorithm> {
    match alg.and_then(Value::as_str) {
        Some("RS256") => Ok(Algorithm::RS256),
        Some("ES256") => Ok(Algorithm::ES256),
        Some("EdDSA") => Ok(Algorithm::EdDSA),
        Some(none) if none.eq_ignore_ascii_case("none") => Err(refuse("it is not signed (alg none)")),
        Some("HS256" | "HS384" | "HS512") => {
            Err(refuse("it is signed with a shared secret (alg HS…); accepted are RS256, ES256 and EdDSA"))
        }
        Some(_) => Err(refuse("its algorithm (alg) is none of RS256, ES256 and EdDSA")),
        None => Err(refuse("its header names no algorithm (alg)")),
    }
}

fn refuse(reason: impl Into<String>) -> Error {
    Error::InvalidToken(reason.into())
}

fn too_long() -> Error {
    refuse(format!("it is longer than {MAX_TOKEN_BYTES} bytes"))
}

#[cfg(test)]
mod tests;
