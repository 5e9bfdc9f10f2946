//! What a token says, checked: the registered claims of RFC 7519, section 4.1, and Clerk's session token claims in both of
//! their versions (Clerk documentation, "Session tokens" and "Manual JWT verification").
//!
//! A claim of the wrong JSON type is refused, never taken for absent: a library that skipped the check of an `nbf` it could
//! not read let such tokens through (CVE-2026-25537).

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::identity::{Identity, TokenOrganization};

/// How far our clock and the issuer's may be apart (RFC 7519, section 4.1.4: "some small leeway").
pub(super) const LEEWAY: TimeDelta = TimeDelta::seconds(5);

/// The longest subject, organization id or slug; the identity provider's are about 30 characters.
const MAX_NAME_CHARS: usize = 255;

/// What the claims are compared with.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// `iss` must be this.
    pub(super) issuer: Option<String>,
    /// `aud` must name one of these, when there are any.
    pub(super) audience: Vec<String>,
    /// `azp` must be one of these, when there are any and the token has one.
    pub(super) authorized_parties: Vec<String>,
}

/// The claims that we read. `None` is an absent claim; a present `null` is a value, of the wrong type.
///
/// Deserializing into a struct refuses a claim that stands there twice, which RFC 7519, section 4 wants refused or decided.
#[derive(Deserialize)]
struct Claims {
    #[serde(default, deserialize_with = "present")]
    iss: Option<Value>,
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
    azp: Option<Value>,
    /// The version of Clerk's claims.
    #[serde(default, deserialize_with = "present")]
    v: Option<Value>,
    /// The state of Clerk's session.
    #[serde(default, deserialize_with = "present")]
    sts: Option<Value>,
    /// The active organization, version 2. Its role and permissions (`rol`, `per`, `fpm`) are not read: the database decides.
    o: Option<Value>,
    /// The active organization, version 1, here and below; `org_role` is not read for the same reason.
    org_id: Option<Value>,
    org_slug: Option<Value>,
}

/// Keeps `null` apart from an absent member.
pub(super) fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

/// Reads a JSON object. (For serde a struct may also be an array of its fields, which no part of a token is.)
pub(super) fn object<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Option<T> {
    let first = json.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'{') { serde_json::from_slice(json).ok() } else { None }
}

/// Why a token is refused; never a piece of the token.
type ClaimsError = String;

impl Rules {
    /// The identity in a payload whose signature was checked before.
    pub(super) fn check(&self, payload: &[u8], now: DateTime<Utc>) -> Result<Identity, ClaimsError> {
        let claims: Claims = object(payload).ok_or("its claims are not a JSON object, or a claim is there twice")?;
        let expires_at = check_times(&claims, now)?;
        self.check_origin(&claims)?;
        let subject = text(claims.sub.as_ref(), "sub")?.ok_or("it has no sub claim")?;
        check_name(subject, "sub")?;
        if text(claims.sts.as_ref(), "sts")? == Some("pending") {
            return Err("its session is pending: finish signing in first".into());
        }
        Ok(Identity { subject: subject.to_owned(), organization: organization(&claims)?, expires_at })
    }

    /// Who issued the token, for whom, and to which application.
    fn check_origin(&self, claims: &Claims) -> Result<(), ClaimsError> {
        let issuer = text(claims.iss.as_ref(), "iss")?;
        if self.issuer.is_some() && self.issuer.as_deref() != issuer {
            return Err("it is from another issuer (iss)".into());
        }
        let audience = audience(claims.aud.as_ref())?;
        if !self.audience.is_empty() && !audience.iter().any(|one| self.audience.iter().any(|ours| ours == one)) {
            return Err("it is for another audience (aud)".into());
        }
        // Clerk leaves `azp` out when the browser sent no Origin, so its absence cannot be held against a token.
        if let Some(party) = text(claims.azp.as_ref(), "azp")?
            && !self.authorized_parties.is_empty()
            && !self.authorized_parties.iter().any(|ours| ours == party)
        {
            return Err("it was issued to an application that is not authorized here (azp)".into());
        }
        Ok(())
    }
}

/// Compares `exp`, `nbf` and `iat` with `now` and returns `exp`.
fn check_times(claims: &Claims, now: DateTime<Utc>) -> Result<DateTime<Utc>, ClaimsError> {
    let expires_at = time(claims.exp.as_ref(), "exp")?.ok_or("it has no exp claim")?;
    if now.signed_duration_since(expires_at) >= LEEWAY {
        return Err("it has expired".into());
    }
    if time(claims.nbf.as_ref(), "nbf")?.is_some_and(|from| from.signed_duration_since(now) > LEEWAY) {
        return Err("it is not valid yet (nbf)".into());
    }
    if time(claims.iat.as_ref(), "iat")?.is_some_and(|issued| issued.signed_duration_since(now) > LEEWAY) {
        return Err("it was issued in the future (iat)".into());
    }
    Ok(expires_at)
}

/// The organization the token was issued for.
///
/// Version 2 is the member `o` and nothing else, version 1 the members `org_…`: an application may add claims of its own, so
/// the members of the other version prove nothing.
fn organization(claims: &Claims) -> Result<Option<TokenOrganization>, ClaimsError> {
    let version = match &claims.v {
        None => 1,
        Some(version) => version.as_u64().ok_or("its v claim is not a number")?,
    };
    let (id, slug) = match version {
        1 => match &claims.org_id {
            None | Some(Value::Null) => return Ok(None),
            Some(id) => (("org_id", Some(id)), ("org_slug", claims.org_slug.as_ref())),
        },
        2 => match &claims.o {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(o)) => (("o.id", o.get("id")), ("o.slg", o.get("slg"))),
            Some(_) => return Err("its o claim is not an object".into()),
        },
        _ => return Err("its session claims are of an unknown version (v)".into()),
    };
    let (claim, id) = (id.0, text(id.1, id.0)?.ok_or("its o claim has no id")?);
    check_name(id, claim)?;
    let (claim, slug) = (slug.0, text(slug.1.filter(|slug| !slug.is_null()), slug.0)?);
    if let Some(slug) = slug {
        check_name(slug, claim)?;
    }
    Ok(Some(TokenOrganization { id: id.to_owned(), slug: slug.map(str::to_owned) }))
}

/// Refuses what no identity provider's id looks like and what `PostgreSQL` cannot store (NUL).
pub(super) fn check_name(name: &str, claim: &str) -> Result<(), ClaimsError> {
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS {
        return Err(format!("its {claim} claim is not between 1 and {MAX_NAME_CHARS} characters long"));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("its {claim} claim contains control characters"));
    }
    Ok(())
}

fn text<'a>(value: Option<&'a Value>, claim: &str) -> Result<Option<&'a str>, ClaimsError> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("its {claim} claim is not a string")),
    }
}

/// `aud` is one string or an array of strings (RFC 7519, section 4.1.3).
fn audience(value: Option<&Value>) -> Result<Vec<&str>, ClaimsError> {
    let refusal = || ClaimsError::from("its aud claim is neither a string nor an array of strings");
    match value {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one]),
        Some(Value::Array(many)) => many.iter().map(|one| one.as_str().ok_or_else(refusal)).collect(),
        Some(_) => Err(refusal()),
    }
}

/// A `NumericDate`: seconds since the epoch, possibly with a fraction (RFC 7519, section 2).
fn time(value: Option<&Value>, claim: &str) -> Result<Option<DateTime<Utc>>, ClaimsError> {
    let Some(value) = value else { return Ok(None) };
    let Value::Number(number) = value else { return Err(format!("its {claim} claim is not a number")) };
    let seconds = match (number.as_u64(), number.as_f64()) {
        (Some(whole), _) => Some(std::time::Duration::from_secs(whole)),
        (None, Some(fraction)) => std::time::Duration::try_from_secs_f64(fraction).ok(),
        (None, None) => None,
    };
    seconds
        .and_then(|since| DateTime::from_timestamp(i64::try_from(since.as_secs()).ok()?, since.subsec_nanos()))
        .map(Some)
        .ok_or_else(|| format!("its {claim} claim is not a possible time"))
}

#[cfg(test)]
mod tests;
