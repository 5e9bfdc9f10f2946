//! Who may ask for flags, in memory: a credential asks the database once, and what it was told holds for [`FRESH`].
//!
//! What was told is forgotten before that when anything says that it may not hold any more: a membership, key, session, account or
//! organization that ends is a row of `tenantry.flag_changes`. While the database is away, what was told holds for
//! [`STALE`]. Nothing outlives its token.
//!
//! Only what is admitted is kept in the large cache. What is refused is kept for [`REFUSED`] in a small one, so that a client
//! that repeats itself asks the database no more; and of one address (IPv6: one /64) no more than [`FAILURES`] refusals at once and
//! one more each 200 ms ask it. What is no key by its checksum, and no token by its signature, never does.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::memory::{Flags, STALE};
use super::snapshot::Snapshot;
use crate::access::{Action, Actor, Bearer, Credential, KeyBearer, OrganizationRef};
use crate::auth::api_key::{self, ApiKeySecret};
use crate::auth::parse_authorization;
use crate::client_keys::token;
use crate::db::{Bind, Lane, TenantTx, Traffic, refuse};
use crate::error::{Error, Result};
use crate::graphql::session::{Credentials, Services, Session};
use crate::id::{ClientKeyId, OrganizationId, UserId};
use crate::network::host_of;
use crate::rates::{Rate, nanoseconds, seconds};

/// How long what the database said holds.
pub const FRESH: TimeDelta = TimeDelta::seconds(60);
/// How long a refusal is remembered.
pub const REFUSED: TimeDelta = TimeDelta::seconds(2);
/// Credentials that are remembered, about 500 bytes each.
const ADMITTED: usize = 65_536;
/// Refusals that are remembered.
const REFUSALS: usize = 8_192;
/// Addresses whose refusals are counted.
const ADDRESSES: usize = 16_384;
/// Refusals of one address that ask the database at once.
pub const FAILURES: u32 = 20;
/// How many more each second.
const FAILURES_PER_SECOND: u32 = 5;
/// A program asks so much more often than a person.
const PROGRAM: u32 = 100;
/// Requests at once, in seconds of their rate.
const BURST_SECONDS: u32 = 2;

type Fingerprint = [u8; 32];

/// Why nothing is decided.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// The credential.
    Error(Error),
    /// The client token.
    ClientToken(String),
    /// Too many requests; after so many seconds there is room.
    TooMany(u64),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Refusal {
    /// Whether the credential is at fault, so that it is refused again.
    fn is_final(&self) -> bool {
        match self {
            Self::Error(error) => error.status().is_client_error(),
            Self::ClientToken(_) => true,
            Self::TooMany(_) => false,
        }
    }
}

/// Whoever may have lost access; what is `None` is anybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The organization.
    pub organization: Option<OrganizationId>,
    /// The user or the API key.
    pub actor: Option<Uuid>,
    /// The session that has ended.
    pub session: Option<String>,
}

impl Lost {
    /// Everybody.
    pub const EVERYBODY: Self = Self { organization: None, actor: None, session: None };

    /// Whether it is this one.
    #[must_use]
    pub fn concerns(&self, proof: &Proof) -> bool {
        self.organization.is_none_or(|organization| organization == proof.organization)
            && self.actor.is_none_or(|actor| proof.who.actor() == Some(actor))
            && self.session.as_deref().is_none_or(|session| proof.who.session() == Some(session))
    }
}

/// Who was admitted, as far as it takes to look again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The organization.
    pub organization: OrganizationId,
    /// Who.
    pub who: Who,
}

/// Who was admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A person with a token.
    Person {
        /// The user.
        user: UserId,
        /// `sub`.
        subject: String,
        /// `sid`.
        session: Option<String>,
    },
    /// A program with an API key.
    Program {
        /// The key.
        key: Uuid,
        /// Its SHA-256.
        hash: [u8; 32],
    },
    /// A client, as the organization's backend has signed it.
    Client {
        /// The key that has signed it.
        key: ClientKeyId,
        /// Whom it evaluates for.
        subject: String,
    },
}

impl Who {
    fn actor(&self) -> Option<Uuid> {
        match self {
            Self::Person { user, .. } => Some(user.uuid()),
            Self::Program { key, .. } => Some(*key),
            Self::Client { .. } => None,
        }
    }

    fn session(&self) -> Option<&str> {
        match self {
            Self::Person { session, .. } => session.as_deref(),
            Self::Program { .. } | Self::Client { .. } => None,
        }
    }

    /// The user that flags are decided for, whatever the context says. `None`: whom the context names.
    #[must_use]
    pub fn unit(&self) -> Option<String> {
        match self {
            Self::Person { user, .. } => Some(user.uuid().to_string()),
            Self::Program { .. } => None,
            Self::Client { subject, .. } => Some(unit_of(subject)),
        }
    }
}

/// The user as flags know them: a public id of ours is the user's UUID, as GraphQL has it; everything else is what it is.
#[must_use]
pub fn unit_of(targeting_key: &str) -> String {
    UserId::parse(targeting_key).map_or_else(|_| targeting_key.to_owned(), |user| user.uuid().to_string())
}

/// A credential that may ask for flags.
#[derive(Debug)]
pub struct Admitted {
    /// Who.
    pub proof: Proof,
    /// From here on it is refused.
    pub expires_at: DateTime<Utc>,
    confirmed_at: DateTime<Utc>,
    allowance: Arc<Allowance>,
}

impl Admitted {
    fn holds(&self, now: DateTime<Utc>, is_away: bool) -> bool {
        let fresh = if is_away { STALE } else { FRESH };
        // Confirmed in the future: the clock was set back since.
        now < self.expires_at && now < self.confirmed_at + fresh && now + fresh >= self.confirmed_at
    }
}

/// What a credential or an address has left of its requests.
#[derive(Debug, Default)]
struct Allowance(AtomicI64);

/// So many requests a second, and so many at once.
fn rate(per_second: u32, at_once: u32) -> Rate {
    Rate { per_minute: u64::from(per_second) * 60, burst: at_once.into() }
}

impl Allowance {
    /// Whether there is room for one; if not, for how many nanoseconds. Takes it if `takes`.
    fn check(&self, rate: Rate, now: DateTime<Utc>, takes: bool) -> std::result::Result<(), i64> {
        let now = nanoseconds(now);
        if !takes {
            return rate.take(self.0.load(Ordering::Relaxed), 1, now).map(drop);
        }
        let mut refused = 0;
        let claimed = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            rate.take(full_at, 1, now).map_err(|wait| refused = wait).ok()
        });
        claimed.map(drop).map_err(|_| refused)
    }
}

fn too_many(wait: i64) -> Refusal {
    Refusal::TooMany(seconds(wait))
}

/// A request that wants flags.
#[derive(Clone, Copy, Debug)]
pub struct Visitor<'a> {
    /// What sessions are opened with.
    pub credentials: Credentials<'a>,
}

/// Who may ask.
#[derive(Debug)]
pub struct Admissions {
    known: Cache<Fingerprint, Arc<Admitted>>,
    refused: Cache<Fingerprint, (Refusal, DateTime<Utc>)>,
    failures: Cache<IpAddr, Arc<Allowance>>,
    /// How often something was forgotten: what was asked before is not kept after.
    forgotten: AtomicU64,
    /// Requests per second of an API key; 0: no bound.
    rate: u32,
}

impl Admissions {
    /// Nobody yet.
    #[must_use]
    pub fn new(rate: u32) -> Self {
        Self {
            known: Cache::new(ADMITTED),
            refused: Cache::new(REFUSALS),
            failures: Cache::new(ADDRESSES),
            forgotten: AtomicU64::new(0),
            rate,
        }
    }

    /// How many credentials are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Forgets whoever may have lost access.
    pub fn forget(&self, lost: &[Lost]) {
        // What was refused may have come about.
        self.refused.clear();
        if lost.is_empty() {
            return;
        }
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        self.known.retain(|_, admitted| !lost.iter().any(|lost| lost.concerns(&admitted.proof)));
    }

    /// Admits a credential, and takes one request of what it may send.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn admit(
        &self,
        flags: &Flags,
        services: &Arc<Services>,
        visitor: Visitor<'_>,
    ) -> std::result::Result<Arc<Admitted>, Refusal> {
        // What is asked while everything is loaded is asked again.
        flags.loaded_snapshot().await?;
        let admitted = self.find(flags, services, visitor).await?;
        if self.rate > 0 {
            let per_second = match admitted.proof.who {
                Who::Program { .. } => self.rate,
                Who::Person { .. } | Who::Client { .. } => (self.rate / PROGRAM).max(1),
            };
            let rate = rate(per_second, per_second.saturating_mul(BURST_SECONDS));
            admitted.allowance.check(rate, services.clock.now(), true).map_err(too_many)?;
        }
        Ok(admitted)
    }

    async fn find(
        &self,
        flags: &Flags,
        services: &Arc<Services>,
        visitor: Visitor<'_>,
    ) -> std::result::Result<Arc<Admitted>, Refusal> {
        let fingerprint = fingerprint(visitor.credentials).ok_or(Error::Unauthenticated)?;
        let forgotten = self.forgotten.load(Ordering::Acquire);
        let before = self.known.get(&fingerprint);
        let now = services.clock.now();
        if let Some(known) = &before {
            if known.holds(now, flags.is_away()) && is_key_in_force(flags, &known.proof, now) {
                return Ok(Arc::clone(known));
            }
            self.known.remove_if(&fingerprint, |there| Arc::ptr_eq(there, known));
        }
        self.refused_lately(&fingerprint, now)?;
        let address = visitor.credentials.ip.map(host_of);
        // Of many requests with one credential one asks, and the others wait for it.
        let place = match self.known.get_value_or_guard_async(&fingerprint).await {
            Ok(known) => return Ok(known),
            Err(place) => place,
        };
        self.refused_lately(&fingerprint, services.clock.now())?;
        let allowance = before.as_ref().map(|before| Arc::clone(&before.allowance)).unwrap_or_default();
        // What is decided in memory is bounded by what a request costs.
        if let Some(token) = client_token_of(visitor.credentials) {
            let snapshot = flags.loaded_snapshot().await?;
            return match verify(&snapshot, token, now, allowance) {
                Ok(admitted) => {
                    let admitted = Arc::new(admitted);
                    drop(place.insert(Arc::clone(&admitted)));
                    Ok(admitted)
                }
                Err(why) => {
                    let refusal = Refusal::ClientToken(format!("The token was refused: {why}."));
                    Err(self.remember(fingerprint, refusal, now))
                }
            };
        }
        // A signature or a checksum that is wrong asks nothing of the database.
        let session = match Session::open(services, visitor.credentials).await.map_err(Refusal::from) {
            Ok(session) => session,
            Err(refusal) => return Err(self.remember(fingerprint, refusal, now)),
        };
        let failures = address.map(|address| self.failures_of(address));
        let rate = rate(FAILURES_PER_SECOND, FAILURES);
        if let Some(failures) = &failures {
            failures.check(rate, now, false).map_err(too_many)?;
        }
        match ask(&session, visitor.credentials, allowance).await {
            Ok(admitted) => {
                let admitted = Arc::new(admitted);
                if self.forgotten.load(Ordering::Acquire) == forgotten {
                    // An error says that the place is taken, which it is not.
                    drop(place.insert(Arc::clone(&admitted)));
                    // Somebody may have lost access between the look and now.
                    if self.forgotten.load(Ordering::Acquire) != forgotten {
                        self.known.remove(&fingerprint);
                    }
                }
                Ok(admitted)
            }
            Err(refusal) => {
                let is_unchanged = self.forgotten.load(Ordering::Acquire) == forgotten;
                if let Some(before) =
                    before.filter(|before| is_unchanged && !refusal.is_final() && before.holds(now, true))
                {
                    // The database has just gone away: what it said last holds a while longer.
                    drop(place.insert(Arc::clone(&before)));
                    return Ok(before);
                }
                if let Some(failures) = failures.filter(|_| refusal.is_final()) {
                    failures.check(rate, now, true).ok();
                }
                Err(self.remember(fingerprint, refusal, now))
            }
        }
    }

    /// Keeps a refusal for whoever comes with the same credential, if it is the credential's fault.
    fn remember(&self, fingerprint: Fingerprint, refusal: Refusal, now: DateTime<Utc>) -> Refusal {
        if refusal.is_final() {
            self.refused.insert(fingerprint, (refusal.clone(), now + REFUSED));
        }
        refusal
    }

    fn refused_lately(&self, fingerprint: &Fingerprint, now: DateTime<Utc>) -> std::result::Result<(), Refusal> {
        match self.refused.get(fingerprint) {
            Some((refusal, until)) if now < until => Err(refusal),
            _ => Ok(()),
        }
    }

    fn failures_of(&self, address: IpAddr) -> Arc<Allowance> {
        self.failures.get(&address).unwrap_or_else(|| {
            let allowance = Arc::new(Allowance::default());
            self.failures.insert(address, Arc::clone(&allowance));
            allowance
        })
    }
}

/// What an answer of the database is kept by. An API key may be bound to networks, so that the address counts. `None`: no
/// credential was sent.
fn fingerprint(credentials: Credentials<'_>) -> Option<Fingerprint> {
    let authorization = credentials.authorization?;
    let is_key = authorization.contains(api_key::PREFIX);
    let ip = credentials.ip.filter(|_| is_key).map(|ip| ip.to_string()).unwrap_or_default();
    let mut hash = Sha256::new();
    for part in [authorization, credentials.organization.unwrap_or_default(), &ip] {
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    Some(hash.finalize().into())
}

/// The token of a request, if it is a client token.
fn client_token_of(credentials: Credentials<'_>) -> Option<&str> {
    parse_authorization(credentials.authorization?).ok().filter(|token| token::looks_like(token))
}

fn verify(
    snapshot: &Snapshot,
    token: &str,
    now: DateTime<Utc>,
    allowance: Arc<Allowance>,
) -> std::result::Result<Admitted, token::Refusal> {
    let token = token::verify(token, |id| snapshot.client_key(id, now).map(|key| key.public), now)?;
    let key = snapshot.client_key(token.key, now).ok_or(token::Refusal::UnknownKey)?;
    let expires_at = key.expires_at.map_or(token.expires_at, |end| end.min(token.expires_at));
    let who = Who::Client { key: token.key, subject: token.subject };
    Ok(Admitted { proof: Proof { organization: key.organization, who }, expires_at, confirmed_at: now, allowance })
}

/// Whether the key behind a client token is in force; everybody else's credential is the database's to judge.
fn is_key_in_force(flags: &Flags, proof: &Proof, now: DateTime<Utc>) -> bool {
    match &proof.who {
        Who::Client { key, .. } => flags
            .snapshot()
            .is_ok_and(|known| known.client_key(*key, now).is_some_and(|key| key.organization == proof.organization)),
        Who::Person { .. } | Who::Program { .. } => true,
    }
}

/// Asks the database, as every request does.
async fn ask(
    session: &Session,
    credentials: Credentials<'_>,
    allowance: Arc<Allowance>,
) -> std::result::Result<Admitted, Refusal> {
    let confirmed_at = session.clock().now();
    if session.is_anonymous() {
        return Err(Error::Unauthenticated.into());
    }
    let tenant = session.require(Action::FeatureFlagRead).await?;
    let organization = tenant.organization_id;
    let (who, expires_at) = match tenant.actor {
        Actor::User(user) => {
            let identity = session.identity()?;
            let (subject, session) = (identity.subject.clone(), identity.session_id.clone());
            (Who::Person { user, subject, session }, identity.expires_at)
        }
        Actor::Key(key) => {
            let text = parse_authorization(credentials.authorization.unwrap_or_default())?;
            let hash = ApiKeySecret::parse(text).ok_or(Error::InvalidApiKey("it is mistyped."))?.hash();
            let ends = "select expires_at from tenantry.api_keys where organization_id = $1 and id = $2";
            let binds = [Bind::Uuid(organization.uuid()), Bind::Uuid(key.uuid())];
            let rows = session.read().await?.fetch(ends, &binds).await?;
            let ends: Option<DateTime<Utc>> =
                rows.first().map(|row| row.try_get(0)).transpose().map_err(Error::from)?.flatten();
            (Who::Program { key: key.uuid(), hash }, ends.unwrap_or(DateTime::<Utc>::MAX_UTC))
        }
    };
    session.close().await;
    Ok(Admitted { proof: Proof { organization, who }, expires_at, confirmed_at, allowance })
}

/// Asks the database, or the memory of client keys, whether who was admitted still is.
///
/// # Errors
/// As a request with the credential would get it.
pub async fn confirm(flags: &Flags, services: &Services, proof: &Proof, ip: Option<IpAddr>) -> Result<()> {
    let (db, now) = (&services.db, services.clock.now());
    let credential = match &proof.who {
        Who::Client { .. } if is_key_in_force(flags, proof, now) => return Ok(()),
        Who::Client { .. } => return Err(Error::InvalidToken(token::Refusal::UnknownKey.to_string())),
        Who::Person { subject, session, .. } => Credential::Token(Bearer { subject, session: session.as_deref() }),
        Who::Program { hash, .. } => Credential::Key(KeyBearer { hash, ip, now }),
    };
    let organization = OrganizationRef::Id(proof.organization.uuid());
    let traffic = Arc::new(Traffic::default());
    traffic.stand_in(Lane::Streams(proof.organization.uuid().as_u128()));
    let tenant = match TenantTx::read(db, credential, &organization, traffic).await {
        Ok(tx) => tx.tenant(),
        Err(Error::OrganizationNotFound) => refuse(db, credential).await?,
        Err(error) => return Err(error),
    };
    tenant.check(Action::FeatureFlagRead)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).expect("a time")
    }

    #[test]
    fn an_allowance_gives_so_many_at_once_and_then_by_the_clock() {
        let (allowance, rate) = (Allowance::default(), rate(10, 3));
        let taken = |at: DateTime<Utc>| allowance.check(rate, at, true);
        assert_eq!([taken(now()), taken(now()), taken(now())], [Ok(()), Ok(()), Ok(())]);
        assert_eq!(taken(now()), Err(100_000_000), "a tenth of a second");
        assert_eq!(allowance.check(rate, now(), false), Err(100_000_000), "looking takes nothing");
        let later = now() + TimeDelta::milliseconds(100);
        assert_eq!((taken(later), taken(later)), (Ok(()), Err(100_000_000)));
        // However long nobody came, no more than three come at once.
        let much_later = now() + TimeDelta::hours(1);
        assert_eq!((0..5).filter(|_| taken(much_later).is_ok()).count(), 3);
    }

    #[test]
    fn whoever_may_have_lost_access_is_told_apart() {
        let person = Proof {
            organization: Id::from_uuid(Uuid::from_u128(1)),
            who: Who::Person {
                user: Id::from_uuid(Uuid::from_u128(2)),
                subject: "u".into(),
                session: Some("s".into()),
            },
        };
        let lost = |organization: Option<u128>, actor: Option<u128>, session: Option<&str>| {
            let organization = organization.map(|id| Id::from_uuid(Uuid::from_u128(id)));
            let lost = Lost { organization, actor: actor.map(Uuid::from_u128), session: session.map(str::to_owned) };
            lost.concerns(&person)
        };
        assert!(lost(None, None, None) && lost(Some(1), Some(2), None) && lost(None, Some(2), None));
        assert!(lost(None, None, Some("s")) && lost(Some(1), None, None));
        assert!(!lost(Some(9), Some(2), None) && !lost(Some(1), Some(9), None) && !lost(None, None, Some("t")));
    }

    #[test]
    fn fingerprints_tell_the_parts_apart() {
        let of = |authorization, organization, ip: &str| {
            let ip = ip.parse().ok();
            fingerprint(Credentials { authorization: Some(authorization), organization, request_id: "", ip })
        };
        assert_eq!(of("Bearer a", None, "10.0.0.1"), of("Bearer a", None, "10.0.0.2"), "people move");
        assert_ne!(
            of("Bearer tnt_a", None, "10.0.0.1"),
            of("Bearer tnt_a", None, "10.0.0.2"),
            "keys are bound to networks"
        );
        assert_ne!(of("Bearer a", Some("b"), ""), of("Bearer ab", None, ""));
        assert_eq!(
            host_of("2001:db8::1".parse().expect("an address")),
            host_of("2001:db8::2".parse().expect("an address"))
        );
    }
}
