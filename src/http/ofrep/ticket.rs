//! What the address of an event stream says: browsers send no header with an `EventSource`.
//!
//! A ticket names a credential, it is none: whoever brings it is looked up in the database as if they had sent the credential, and
//! hears nothing but that something has changed. It is signed with a secret that all instances share, so that any of them takes it.
//! It is the same for the same credential until it ends, because a client that is given another address connects anew.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use hmac::digest::array::Array;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

use crate::flags::admission::{Admitted, Proof, Who};
use crate::hex::{hex, unhex};
use crate::id::Id;

/// Bytes of the signature.
const SIGNATURE: usize = 16;
/// The longest ticket that is looked at.
const MAX_CHARS: usize = 2048;
/// API keys have no end, or a far one: their streams are renewed by the hour.
const PROGRAM: TimeDelta = TimeDelta::hours(1);

/// Who may open a stream, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    /// Who.
    pub(super) proof: Proof,
    /// From here on it is refused; a second has no parts.
    pub(super) expires_at: DateTime<Utc>,
}

/// What is written.
#[derive(Serialize, Deserialize)]
struct Written {
    o: Uuid,
    x: i64,
    w: WrittenWho,
}

#[derive(Serialize, Deserialize)]
enum WrittenWho {
    P(Uuid, String, Option<String>),
    K(Uuid, String),
    C(Uuid, String),
}

impl Ticket {
    /// That of a credential.
    pub(super) fn of(admitted: &Admitted, now: DateTime<Utc>) -> Self {
        let expires_at = match admitted.proof.who {
            Who::Person { .. } | Who::Client { .. } => admitted.expires_at,
            // The end of the next hour, so that it is the same for an hour and good for another.
            Who::Program { .. } => {
                let hour = now.duration_trunc(PROGRAM).unwrap_or(now);
                (hour + PROGRAM * 2).min(admitted.expires_at)
            }
        };
        Self { proof: admitted.proof.clone(), expires_at }
    }

    /// As the address has it.
    pub(super) fn seal(&self, secret: &[u8; 32]) -> String {
        let w = match &self.proof.who {
            Who::Person { user, subject, session } => WrittenWho::P(user.uuid(), subject.clone(), session.clone()),
            Who::Program { key, hash } => WrittenWho::K(*key, hex(hash)),
            Who::Client { key, subject } => WrittenWho::C(key.uuid(), subject.clone()),
        };
        let written = Written { o: self.proof.organization.uuid(), x: self.expires_at.timestamp(), w };
        // It is made of texts and numbers, which JSON can write.
        let payload = serde_json::to_vec(&written).unwrap_or_default();
        let signature = mac(secret, &payload).finalize().into_bytes();
        format!("{}.{}", URL_SAFE_NO_PAD.encode(&payload), URL_SAFE_NO_PAD.encode(&signature[..SIGNATURE]))
    }

    /// Reads one that we have sealed and that is in force.
    pub(super) fn open(text: &str, secret: &[u8; 32], now: DateTime<Utc>) -> Option<Self> {
        let (payload, signature) = text.split_once('.').filter(|_| text.len() <= MAX_CHARS)?;
        let [payload, signature] = [payload, signature].map(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let (payload, signature) = (payload?, signature.filter(|signature| signature.len() == SIGNATURE)?);
        mac(secret, &payload).verify_truncated_left(&signature).ok()?;
        let Written { o, x, w } = serde_json::from_slice(&payload).ok()?;
        let who = match w {
            WrittenWho::P(user, subject, session) => Who::Person { user: Id::from_uuid(user), subject, session },
            WrittenWho::K(key, hash) => Who::Program { key, hash: unhex(&hash)? },
            WrittenWho::C(key, subject) => Who::Client { key: Id::from_uuid(key), subject },
        };
        let expires_at = DateTime::from_timestamp(x, 0).filter(|expires_at| now < *expires_at)?;
        Some(Self { proof: Proof { organization: Id::from_uuid(o), who }, expires_at })
    }
}

fn mac(secret: &[u8; 32], payload: &[u8]) -> Hmac<Sha256> {
    // A key of any length is one.
    let mut mac = Hmac::new_from_slice(secret).unwrap_or_else(|_| Hmac::new(&Array::default()));
    mac.update(b"ofrep-stream\0");
    mac.update(payload);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_opens_what_we_sealed_until_it_expires() {
        let now = DateTime::from_timestamp(1_700_000_000, 0).expect("a time");
        let (secret, other) = ([7; 32], [8; 32]);
        let id = Uuid::from_u128;
        for who in [
            Who::Person { user: Id::from_uuid(id(2)), subject: "user_1".into(), session: Some("sess_1".into()) },
            Who::Program { key: id(3), hash: [9; 32] },
            Who::Client { key: Id::from_uuid(id(4)), subject: "\u{fc}".repeat(255) },
        ] {
            let proof = Proof { organization: Id::from_uuid(id(1)), who };
            let ticket = Ticket { proof, expires_at: now + TimeDelta::seconds(60) };
            let sealed = ticket.seal(&secret);
            assert!(sealed.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{sealed}");
            assert_eq!(Ticket::open(&sealed, &secret, now), Some(ticket.clone()));
            assert_eq!(Ticket::open(&sealed, &other, now), None);
            assert_eq!(Ticket::open(&sealed, &secret, now + TimeDelta::seconds(60)), None);
            for place in 0..sealed.len() {
                let mut changed = sealed.clone().into_bytes();
                changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(changed).expect("ASCII");
                assert!(Ticket::open(&changed, &secret, now).is_none_or(|opened| opened == ticket), "{place}");
            }
        }
        for text in ["", ".", "a.b", "..", &"a".repeat(5000)] {
            assert_eq!(Ticket::open(text, &secret, now), None);
        }
    }
}
