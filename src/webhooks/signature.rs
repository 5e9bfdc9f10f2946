//! Signatures of webhooks: Svix's scheme (Clerk; also under the names of Standard Webhooks) and Stripe's.
//!
//! Both are HMAC-SHA256 over a time and the raw bytes. Any configured secret may have made any signature of the header, so
//! that a secret rolls without a lost delivery. Comparisons take constant time. The README says why the crate `svix` does
//! not do its half of this ("The engine"); tests check this module against the official senders instead.

use std::fmt;
use std::path::Path;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use hmac::digest::array::Array;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::auth::DevIssuerError;
use crate::auth::dev::{private_file, random_bytes};
use crate::error::Code;
use crate::hex::{hex, unhex};
use crate::webhook_events::WebhookSource;

/// How far the sender's clock may be from ours, either way, in seconds.
const TOLERANCE: u64 = 300;
/// Shorter keys can be guessed.
const SHORTEST_KEY: usize = 16;
const PREFIX: &str = "whsec_";
const DEV_SECRET_FILE: &str = "dev-webhook-secret";

/// A signing secret. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// Reads a secret as the provider shows it.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it.
    pub fn parse(source: WebhookSource, text: &str) -> Result<Self, &'static str> {
        let key = match source {
            // Svix: `whsec_` and base64 of the key.
            WebhookSource::Clerk => STANDARD
                .decode(text.strip_prefix(PREFIX).unwrap_or(text))
                .map_err(|_| "is not `whsec_` and base64, as the provider shows it")?,
            // Stripe: the text itself is the key, with its prefix.
            WebhookSource::Stripe => text.as_bytes().to_vec(),
        };
        if key.len() < SHORTEST_KEY { Err("is too short to be a signing secret") } else { Ok(Self(key)) }
    }

    fn hmac(&self) -> Hmac<Sha256> {
        // HMAC takes keys of any length (RFC 2104), so this cannot fail; an empty key is none of ours.
        Hmac::new_from_slice(&self.0).unwrap_or_else(|_| Hmac::new(&Array::default()))
    }
}

/// The secret of development in this data folder, made when there is none: what `tenantry webhooks send` signs with
/// when the variables are not set. Good for both sources.
pub fn dev_secret(data_dir: &Path) -> Result<String, DevIssuerError> {
    let make = || Ok(format!("{PREFIX}{}", STANDARD.encode(random_bytes::<32>()?)).into_bytes());
    Ok(String::from_utf8_lossy(&private_file(data_dir, DEV_SECRET_FILE, make)?).trim().to_owned())
}

/// Why a delivery is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distrust {
    /// A header is missing.
    Missing,
    /// A header is not of the right form.
    Malformed,
    /// Signed longer ago than the tolerance allows.
    Stale,
    /// Signed further in the future than the tolerance allows.
    Future,
    /// No secret made any of the signatures over this body.
    Mismatch,
}

impl Distrust {
    /// The code in the answer; lower case, the reason in metrics.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Missing => Code::SignatureMissing,
            Self::Malformed => Code::SignatureMalformed,
            Self::Stale => Code::SignatureTooOld,
            Self::Future => Code::SignatureFromTheFuture,
            Self::Mismatch => Code::SignatureMismatch,
        }
    }

    /// What the sender's operator reads.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::Missing => "The headers with the signature are missing.",
            Self::Malformed => "The headers with the signature cannot be read.",
            Self::Stale => "The signature is more than 300 s old. Check the clocks.",
            Self::Future => "The signature is from more than 300 s in the future. Check the clocks.",
            Self::Mismatch => "No configured secret made this signature over this body.",
        }
    }
}

/// Whose delivery it is, once that is certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The event's id, where a header holds it (Svix).
    pub event_id: Option<String>,
    /// Which of the secrets signed: its place in the list.
    pub secret: usize,
}

/// Verifies a delivery.
///
/// # Errors
/// Why it is not believed.
pub fn verify(
    source: WebhookSource,
    headers: &HeaderMap,
    body: &[u8],
    secrets: &[Secret],
    now: DateTime<Utc>,
) -> Result<Verified, Distrust> {
    match source {
        WebhookSource::Clerk => verify_svix(headers, body, secrets, now),
        WebhookSource::Stripe => verify_stripe(headers, body, secrets, now),
    }
}

/// `svix-id`, `svix-timestamp`, `svix-signature`, or the same with `webhook-`.
fn verify_svix(headers: &HeaderMap, body: &[u8], secrets: &[Secret], now: DateTime<Utc>) -> Result<Verified, Distrust> {
    let header = |svix, standard| {
        let value = headers.get(svix).or_else(|| headers.get(standard)).ok_or(Distrust::Missing)?;
        value.to_str().map_err(|_| Distrust::Malformed)
    };
    let id = header("svix-id", "webhook-id")?;
    let time = header("svix-timestamp", "webhook-timestamp")?;
    let signatures = header("svix-signature", "webhook-signature")?;
    if id.is_empty() {
        return Err(Distrust::Malformed);
    }
    check_time(time, now)?;
    let claimed = signatures
        .split(' ')
        .filter_map(|signature| signature.strip_prefix("v1,"))
        .filter_map(|signature| STANDARD.decode(signature).ok());
    let secret = find(secrets, &[id.as_bytes(), b".", time.as_bytes(), b".", body], &claimed.collect::<Vec<_>>())?;
    Ok(Verified { event_id: Some(id.to_owned()), secret })
}

/// `stripe-signature: t=…,v1=…,v1=…,v0=…`.
fn verify_stripe(
    headers: &HeaderMap,
    body: &[u8],
    secrets: &[Secret],
    now: DateTime<Utc>,
) -> Result<Verified, Distrust> {
    let header = headers.get("stripe-signature").ok_or(Distrust::Missing)?.to_str().map_err(|_| Distrust::Malformed)?;
    let items = || header.split(',').filter_map(|item| item.trim().split_once('='));
    let time = items().find(|(key, _)| *key == "t").ok_or(Distrust::Malformed)?.1;
    check_time(time, now)?;
    let claimed = items().filter(|(key, _)| *key == "v1").filter_map(|(_, signature)| unhex(signature).map(Vec::from));
    let secret = find(secrets, &[time.as_bytes(), b".", body], &claimed.collect::<Vec<_>>())?;
    Ok(Verified { event_id: None, secret })
}

/// The first secret that made one of the signatures over these parts.
fn find(secrets: &[Secret], parts: &[&[u8]], claimed: &[Vec<u8>]) -> Result<usize, Distrust> {
    if claimed.is_empty() {
        return Err(Distrust::Malformed);
    }
    let made = |secret: &Secret| {
        let mac = mac(secret, parts);
        claimed.iter().any(|claimed| mac.clone().verify_slice(claimed).is_ok())
    };
    secrets.iter().position(made).ok_or(Distrust::Mismatch)
}

fn mac(secret: &Secret, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = secret.hmac();
    for part in parts {
        mac.update(part);
    }
    mac
}

/// Digits only: what is signed is the text, and a text that says the same in two ways has no place here.
fn check_time(text: &str, now: DateTime<Utc>) -> Result<(), Distrust> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Distrust::Malformed);
    }
    let time: u64 = text.parse().map_err(|_| Distrust::Malformed)?;
    let now = u64::try_from(now.timestamp()).unwrap_or(0);
    if time.saturating_add(TOLERANCE) < now {
        Err(Distrust::Stale)
    } else if time > now.saturating_add(TOLERANCE) {
        Err(Distrust::Future)
    } else {
        Ok(())
    }
}

/// The headers a sender adds, for `tenantry webhooks send` and the tests.
#[must_use]
pub fn sign(
    source: WebhookSource,
    secret: &Secret,
    event_id: &str,
    at: DateTime<Utc>,
    body: &[u8],
) -> Vec<(&'static str, String)> {
    let time = at.timestamp().to_string();
    match source {
        WebhookSource::Clerk => {
            let mac = mac(secret, &[event_id.as_bytes(), b".", time.as_bytes(), b".", body]);
            let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
            vec![("svix-id", event_id.to_owned()), ("svix-timestamp", time), ("svix-signature", signature)]
        }
        WebhookSource::Stripe => {
            let mac = mac(secret, &[time.as_bytes(), b".", body]).finalize().into_bytes();
            vec![("stripe-signature", format!("t={time},v1={}", hex(&mac)))]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("a time")
    }

    fn headers(list: &[(&'static str, String)]) -> HeaderMap {
        list.iter().map(|(name, value)| ((*name).parse().expect("a name"), value.parse().expect("a value"))).collect()
    }

    fn secrets(source: WebhookSource) -> [Secret; 2] {
        ["whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]
            .map(|text| Secret::parse(source, text).expect("a secret"))
    }

    /// The vector of Svix's own libraries.
    #[test]
    fn svix_signs_the_same() {
        let [_, secret] = secrets(WebhookSource::Clerk);
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let mac = mac(&secret, &[b"msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", b".", b"1649367553", b".", body]);
        assert_eq!(STANDARD.encode(mac.finalize().into_bytes()), "tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }

    #[test]
    fn any_secret_and_any_signature_will_do() {
        for source in [WebhookSource::Clerk, WebhookSource::Stripe] {
            let [old, new] = secrets(source);
            let both = [old.clone(), new.clone()];
            let signed = headers(&sign(source, &new, "msg_1", at(NOW), b"{}"));
            let verified = verify(source, &signed, b"{}", &both, at(NOW)).expect("valid");
            assert_eq!(verified.secret, 1);
            assert_eq!(verify(source, &signed, b"{}", &[old], at(NOW)), Err(Distrust::Mismatch));
            assert_eq!(verify(source, &signed, b"{ }", &both, at(NOW)), Err(Distrust::Mismatch));
            assert_eq!(verify(source, &signed, b"{}", &[], at(NOW)), Err(Distrust::Mismatch));
            assert!(verify(source, &signed, b"{}", &both, at(NOW + 300)).is_ok());
            assert_eq!(verify(source, &signed, b"{}", &both, at(NOW + 301)), Err(Distrust::Stale));
            assert!(verify(source, &signed, b"{}", &both, at(NOW - 300)).is_ok());
            assert_eq!(verify(source, &signed, b"{}", &both, at(NOW - 301)), Err(Distrust::Future));
            assert_eq!(verify(source, &HeaderMap::new(), b"{}", &both, at(NOW)), Err(Distrust::Missing));
        }
        // A signature of another scheme, one that is none and one of another secret stand before the right one.
        let [one, two] = secrets(WebhookSource::Stripe);
        let [wrong, right] = [&one, &two].map(|secret| sign(WebhookSource::Stripe, secret, "", at(NOW), b"{}"));
        let wrong = wrong[0].1.split_once(',').expect("two items").1.to_owned();
        let many = right[0].1.replace(",v1=", &format!(", v0=abc,v1=,v1=zz,{wrong},v1="));
        let many = headers(&[("stripe-signature", many)]);
        assert_eq!(verify(WebhookSource::Stripe, &many, b"{}", &[two], at(NOW)).map(|v| v.secret), Ok(0));
    }

    #[test]
    fn headers_of_other_forms_are_refused() {
        let [secret, _] = secrets(WebhookSource::Stripe);
        for bad in ["", "t=", "v1=00", "t=abc,v1=00", "t=+1800000000,v1=00", "t=1800000000", "t=1800000000,v1=é", "=,="]
        {
            let headers: HeaderMap =
                [("stripe-signature".parse().expect("a name"), bad.parse().expect("a value"))].into_iter().collect();
            let refused = verify(WebhookSource::Stripe, &headers, b"{}", std::slice::from_ref(&secret), at(NOW));
            assert_eq!(refused, Err(Distrust::Malformed), "{bad}");
        }
        let time = u64::MAX.to_string();
        let headers = headers(&[("stripe-signature", format!("t={time},v1={}", "0".repeat(64)))]);
        assert_eq!(verify(WebhookSource::Stripe, &headers, b"{}", &[secret], at(NOW)), Err(Distrust::Future));
    }

    #[test]
    fn secrets_are_checked_and_not_shown() {
        for bad in ["", "whsec_", "whsec_%%%", "whsec_AAAA"] {
            assert!(Secret::parse(WebhookSource::Clerk, bad).is_err(), "{bad}");
            assert!(Secret::parse(WebhookSource::Stripe, bad).is_err(), "{bad}");
        }
        let [secret, _] = secrets(WebhookSource::Stripe);
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}
