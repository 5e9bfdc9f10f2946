//! Tokens without an identity provider: the development issuer behind `tenantry token` and `GraphiQL`'s personas.
//!
//! Its key is made once per data directory and never leaves it. Production does not trust it: there the keys come from
//! the configured identity provider, and the issuer's name is another.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde::Serialize;
use serde_json::json;

use super::claims::check_name;
use super::identity::TokenOrganization;
use super::jwks::KeySource;
use super::verify::AuthSettings;
use crate::access::Impersonation;

/// The `iss` of development tokens.
pub const DEV_ISSUER: &str = "tenantry-development";

/// The life of a development token for which none is asked.
pub const DEFAULT_TTL: TimeDelta = TimeDelta::hours(1);

/// The longest life of a development token.
pub const MAX_TTL: TimeDelta = TimeDelta::hours(24);

const KEY_FILE: &str = "dev-signing-key.der";

/// A PKCS#8 version 1 document of an Ed25519 key (RFC 8410, section 7) is these bytes and the 32 of the secret.
pub(crate) const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Why there is no development token.
#[derive(Debug, thiserror::Error)]
pub enum DevIssuerError {
    /// The key cannot be read or written.
    #[error("the development key {path} cannot be used: {source}", path = path.display())]
    Io {
        /// The key's file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Anybody on the machine could issue tokens.
    #[error("others may read the development key: run `chmod 600 {path}`", path = path.display())]
    Exposed {
        /// The key's file.
        path: PathBuf,
    },
    /// The file does not contain an Ed25519 key.
    #[error("{path} is not an Ed25519 key in PKCS#8: delete it, and a new one is made", path = path.display())]
    Malformed {
        /// The key's file.
        path: PathBuf,
    },
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The operating system gives no random bytes, or signing failed.
    #[error("the token cannot be signed: {0}")]
    Signing(String),
}

/// Issues development tokens.
pub struct DevIssuer {
    key: EncodingKey,
    key_id: String,
    jwk: Jwk,
}

/// Somebody of the sample data to sign in as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Persona {
    /// The e-mail address.
    pub email: &'static str,
    /// The full name.
    pub name: &'static str,
    /// The `sub` of their tokens, `users.clerk_id`.
    pub subject: &'static str,
    /// Role in the sample data.
    pub description: &'static str,
}

/// What a development token shall say.
#[derive(Clone, Debug)]
pub struct IssueRequest {
    /// `sub`: the user's id at the identity provider (`users.clerk_id`).
    pub subject: String,
    /// Who acts in the place of the subject.
    pub impersonator: Option<String>,
    /// The active organization.
    pub organization: Option<TokenOrganization>,
    /// How long the token is valid: [`DEFAULT_TTL`] unless given, at least a second, at most [`MAX_TTL`].
    pub ttl: Option<TimeDelta>,
    /// When the token is issued.
    pub now: DateTime<Utc>,
}

impl DevIssuer {
    /// The issuer with the key in `data_dir`, which is made if there is none.
    ///
    /// Processes that start at the same time end with the same key.
    pub fn open(data_dir: &Path) -> Result<Self, DevIssuerError> {
        let path = data_dir.join(KEY_FILE);
        let make = || Ok([PKCS8_PREFIX.as_slice(), &random_bytes::<32>()?].concat());
        let secret = private_file(data_dir, KEY_FILE, make)?;
        let key = EncodingKey::from_ed_der(&secret);
        let Ok(mut jwk) = Jwk::from_encoding_key(&key, Algorithm::EdDSA) else {
            return Err(DevIssuerError::Malformed { path });
        };
        // The thumbprint (RFC 7638) names the key by its content: another key never has the same id.
        let key_id = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|error| signing(&error))?;
        jwk.common.key_id = Some(key_id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { key, key_id, jwk })
    }

    /// The public key.
    #[must_use]
    pub fn jwk_set(&self) -> JwkSet {
        JwkSet { keys: vec![self.jwk.clone()] }
    }

    /// The settings of a verifier that accepts this issuer's tokens and no others.
    #[must_use]
    pub fn settings(&self) -> AuthSettings {
        AuthSettings {
            source: KeySource::Keys(self.jwk_set()),
            issuer: Some(DEV_ISSUER.to_owned()),
            audience: Vec::new(),
            authorized_parties: Vec::new(),
            oauth_clients: Vec::new(),
            impersonation: Impersonation::default(),
        }
    }

    /// A token in the shape of Clerk's session tokens, version 2 (Clerk documentation, "Session tokens").
    ///
    /// It carries no role (`o.rol`): roles come from the database, in development as well.
    pub fn issue(&self, request: &IssueRequest) -> Result<String, DevIssuerError> {
        let IssueRequest { subject, impersonator, organization, ttl, now } = request;
        let ttl = ttl.unwrap_or(DEFAULT_TTL);
        if ttl < TimeDelta::seconds(1) || ttl > MAX_TTL {
            let limit = MAX_TTL.num_hours();
            return Err(DevIssuerError::Invalid(format!("the token's life must be from 1 second to {limit} hours")));
        }
        let names = [
            Some(subject),
            impersonator.as_ref(),
            organization.as_ref().map(|o| &o.id),
            organization.as_ref().and_then(|o| o.slug.as_ref()),
        ];
        for (name, claim) in names.into_iter().zip(["sub", "act.sub", "o.id", "o.slg"]) {
            let Some(name) = name else { continue };
            check_name(name, claim)
                .map_err(|reason| DevIssuerError::Invalid(format!("the token is not issued: {reason}")))?;
        }
        let issued_at = now.timestamp();
        let mut claims = json!({
            "iss": DEV_ISSUER,
            "sub": subject,
            "iat": issued_at,
            "nbf": issued_at,
            "exp": issued_at + ttl.num_seconds(),
            "jti": random_hex()?,
            "sid": format!("sess_{}", random_hex()?),
            "sts": "active",
            "v": 2,
        });
        if let Some(impersonator) = impersonator {
            claims["act"] = json!({ "sub": impersonator });
        }
        if let Some(TokenOrganization { id, slug }) = organization {
            claims["o"] = match slug {
                Some(slug) => json!({ "id": id, "slg": slug }),
                None => json!({ "id": id }),
            };
        }
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, &self.key).map_err(|error| signing(&error))
    }
}

fn signing(error: &dyn std::error::Error) -> DevIssuerError {
    DevIssuerError::Signing(error.to_string())
}

pub(crate) fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

fn random_hex() -> Result<String, DevIssuerError> {
    let bytes = random_bytes::<16>().map_err(|error| signing(&error))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// The content of a file that only this user may read; `make` gives it when there is none.
///
/// Processes that do this at the same time end with the same content.
pub(crate) fn private_file(
    data_dir: &Path,
    name: &str,
    make: impl FnOnce() -> io::Result<Vec<u8>>,
) -> Result<Vec<u8>, DevIssuerError> {
    let path = data_dir.join(name);
    let failed = |source| DevIssuerError::Io { path: path.clone(), source };
    let content = match read_key(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(data_dir).map_err(failed)?;
            make().and_then(|content| create_key(data_dir, &path, &content)).map_err(failed)?;
            read_key(&path)
        }
        read => read,
    }
    .map_err(failed)?;
    content.ok_or(DevIssuerError::Exposed { path })
}

/// The content of the key file; `None` when others may read it.
fn read_key(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let exposed = fs::metadata(path)?.permissions().mode() & 0o077 != 0;
    if exposed { Ok(None) } else { fs::read(path).map(Some) }
}

/// Makes a key file, or leaves the one that another process made meanwhile.
fn create_key(data_dir: &Path, path: &Path, key: &[u8]) -> io::Result<()> {
    let temporary = data_dir.join(format!("new-{:032x}", u128::from_be_bytes(random_bytes()?)));
    // The name appears with its whole content behind it, and unlike a rename a link never replaces the key of the winner.
    let made = write_private(&temporary, key).and_then(|()| fs::hard_link(&temporary, path));
    let removed = fs::remove_file(&temporary);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => removed,
        Err(error) => Err(error),
        Ok(()) => removed,
    }
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::auth::Verifier;
    use crate::auth::testing::TempDir;
    use crate::clock::Clock;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 500_000_000).expect("a time")
    }

    fn request() -> IssueRequest {
        let organization = TokenOrganization { id: "org_acme".into(), slug: Some("acme-corp".into()) };
        IssueRequest {
            subject: "user_alice".into(),
            impersonator: None,
            organization: Some(organization),
            ttl: None,
            now: now(),
        }
    }

    #[tokio::test]
    async fn its_tokens_are_accepted_by_its_verifier_until_they_expire() {
        let dir = TempDir::new();
        let issuer = DevIssuer::open(dir.path()).expect("an issuer");
        let clock = Clock::manual(now());
        let verifier = Verifier::new(issuer.settings(), clock.clone()).expect("a verifier");
        let token = issuer.issue(&request()).expect("a token");
        let identity = verifier.verify(&token).await.expect("valid");
        assert_eq!(identity.subject, "user_alice");
        assert_eq!(identity.organization, request().organization);
        assert_eq!(identity.expires_at.timestamp(), now().timestamp() + 3600);
        clock.advance(TimeDelta::seconds(3605));
        assert!(verifier.verify(&token).await.is_err());

        let without = IssueRequest { organization: None, ttl: Some(MAX_TTL), now: clock.now(), ..request() };
        let token = issuer.issue(&without).expect("a token");
        assert_eq!(verifier.verify(&token).await.expect("valid").organization, None);
        let bare = TokenOrganization { id: "org_acme".into(), slug: None };
        let without_slug = IssueRequest { organization: Some(bare.clone()), now: clock.now(), ..request() };
        let token = issuer.issue(&without_slug).expect("a token");
        assert_eq!(verifier.verify(&token).await.expect("valid").organization, Some(bare));
    }

    #[test]
    fn a_request_out_of_bounds_is_refused() {
        let dir = TempDir::new();
        let issuer = DevIssuer::open(dir.path()).expect("an issuer");
        let with_ttl = |ttl| IssueRequest { ttl: Some(ttl), ..request() };
        let refused = [
            with_ttl(TimeDelta::zero()),
            with_ttl(TimeDelta::seconds(-1)),
            with_ttl(TimeDelta::MAX),
            with_ttl(MAX_TTL + TimeDelta::seconds(1)),
            IssueRequest { subject: String::new(), impersonator: None, ..request() },
            IssueRequest { subject: "a\u{0}".into(), impersonator: None, ..request() },
        ];
        for request in refused {
            assert!(matches!(issuer.issue(&request), Err(DevIssuerError::Invalid(_))), "{request:?}");
        }
    }

    #[test]
    fn the_key_is_private_and_stays() {
        let dir = TempDir::new();
        let data_dir = dir.path().join("made/on/the/way");
        let first = DevIssuer::open(&data_dir).expect("an issuer").jwk_set();
        assert_eq!(DevIssuer::open(&data_dir).expect("an issuer").jwk_set(), first);
        let key = data_dir.join(KEY_FILE);
        assert_eq!(fs::metadata(&key).expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&data_dir).expect("a directory").count(), 1, "no temporary file is left");
        assert!(!serde_json::to_string(&first).expect("JSON").contains("\"d\""), "no private part");

        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("permissions");
        assert!(matches!(DevIssuer::open(&data_dir), Err(DevIssuerError::Exposed { .. })));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("permissions");
        fs::write(&key, b"").expect("a file");
        assert!(matches!(DevIssuer::open(&data_dir), Err(DevIssuerError::Malformed { .. })));
    }

    #[test]
    fn processes_that_start_at_once_end_with_one_key() {
        for _ in 0..20 {
            let dir = TempDir::new();
            let barrier = Barrier::new(8);
            let keys: Vec<_> = std::thread::scope(|scope| {
                let open = || {
                    barrier.wait();
                    DevIssuer::open(dir.path()).expect("an issuer").jwk_set()
                };
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
                threads.into_iter().map(|thread| thread.join().expect("a key")).collect()
            });
            assert!(keys.windows(2).all(|pair| pair[0] == pair[1]));
            assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 1);
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = DevIssuer::open(Path::new("/dev/null/x")).err().expect("no directory");
        assert!(error.to_string().contains("/dev/null/x"), "{error}");
    }
}
