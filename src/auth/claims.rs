//! What a token says, checked: the registered claims of RFC 7519, section 4.1, and Clerk's session token claims in both of
//! their versions (Clerk documentation, "Session tokens" and "Manual JWT verification"). `docs/TOKENS.md` has one rule per
//! claim, with its source.
//!
//! An identity provider signs many kinds of tokens with one key: session tokens, access tokens of other people's OAuth
//! applications, ID tokens, logout tokens, tokens of machines. Only a session token is a session. What marks another kind
//! refuses a token, and what marks nothing is not enough: a token must belong to a session or be meant for us by name.
//!
//! A claim of the wrong JSON type is refused, never taken for absent: a library that skipped the check of an `nbf` it could
//! not read let such tokens through (CVE-2026-25537).

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::identity::{Identity, Profile, TokenOrganization};
use crate::access::Impersonation;

/// How far our clock and the issuer's may be apart (RFC 7519, section 4.1.4: "some small leeway").
pub(crate) const LEEWAY: TimeDelta = TimeDelta::seconds(5);

/// The longest subject, organization id or slug; the identity provider's are about 30 characters.
const MAX_NAME_CHARS: usize = 255;

/// What the claims are compared with.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// `iss` must be this.
    pub(super) issuer: Option<String>,
    /// `aud`, where there is one, must name one of these.
    pub(super) audience: Vec<String>,
    /// `azp` must be one of these, when there are any and the token has one.
    pub(super) authorized_parties: Vec<String>,
    /// The OAuth clients whose access tokens count as the user's sessions.
    pub(super) oauth_clients: Vec<String>,
    /// What somebody may do who acts in the place of the subject.
    pub(super) impersonation: Impersonation,
    /// Whether a token counts that neither belongs to a session nor names an audience of ours: only where the issuer makes
    /// no other tokens.
    pub(super) sessionless: bool,
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
    /// The identity provider's session.
    #[serde(default, deserialize_with = "present")]
    sid: Option<Value>,
    /// The state of Clerk's session.
    #[serde(default, deserialize_with = "present")]
    sts: Option<Value>,
    /// Who acts in the place of the subject.
    act: Option<Value>,
    /// Marks of OAuth access tokens, here and below.
    #[serde(default, deserialize_with = "present")]
    client_id: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    scope: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    scp: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    scopes: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    cid: Option<Value>,
    /// Marks of ID tokens, here and below.
    #[serde(default, deserialize_with = "present")]
    nonce: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    at_hash: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    c_hash: Option<Value>,
    /// The mark of logout tokens and security events.
    #[serde(default, deserialize_with = "present")]
    events: Option<Value>,
    /// The key that the bearer must prove to have.
    #[serde(default, deserialize_with = "present")]
    cnf: Option<Value>,
    /// The active organization, version 2. Its role and permissions (`rol`, `per`, `fpm`) are not read: the database decides.
    o: Option<Value>,
    /// The active organization, version 1, here and below; `org_role` is not read for the same reason.
    org_id: Option<Value>,
    org_slug: Option<Value>,
    /// What it says of the person, here and below. Nothing of it opens anything: a value of another type is as good as none.
    email: Option<Value>,
    email_verified: Option<Value>,
    name: Option<Value>,
    given_name: Option<Value>,
    family_name: Option<Value>,
    picture: Option<Value>,
}

impl Claims {
    fn profile(&self) -> Profile {
        // Some issuers write the boolean as a text.
        let verified = self.email_verified.as_ref().is_some_and(|verified| *verified == true || *verified == "true");
        let email = said(self.email.as_ref(), 320).filter(|email| verified && email.contains('@') && email.len() >= 3);
        // Where nobody gave a name, issuers put the address there.
        let name = |value: Option<&Value>| said(value, 200).filter(|name| !name.contains('@'));
        let (given, family) = (name(self.given_name.as_ref()), name(self.family_name.as_ref()));
        let both = [given.as_deref(), family.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let whole = name(self.name.as_ref()).or_else(|| said(Some(&Value::String(both)), 200));
        let first = whole.as_deref().and_then(|name| name.split_whitespace().next()).map(str::to_owned);
        let avatar_url = said(self.picture.as_ref(), 2048).filter(|url| url.starts_with("https://"));
        Profile { email, given_name: given.or(first), name: whole, avatar_url }
    }
}

/// A text that a column takes.
fn said(value: Option<&Value>, max_chars: usize) -> Option<String> {
    let text: String = value?.as_str()?.trim().chars().filter(|c| !c.is_control()).collect();
    (!text.is_empty() && text.chars().count() <= max_chars).then_some(text)
}

/// Keeps `null` apart from an absent member.
pub(crate) fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

/// Reads a JSON object. (For serde a struct may also be an array of its fields, which no part of a token is.)
pub(crate) fn object<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Option<T> {
    let first = json.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'{') { serde_json::from_slice(json).ok() } else { None }
}

/// What its header calls a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing in particular: the claims tell.
    Any,
    /// An OAuth access token.
    Access,
    /// A token of one of Clerk's JWT templates, which are made for other services.
    Template,
}

/// Why a token is refused; never a piece of the token.
type ClaimsError = String;

impl Rules {
    /// The identity in a payload whose signature was checked before.
    ///
    /// `kind` is what its header calls it.
    pub(super) fn check(&self, payload: &[u8], kind: Kind, now: DateTime<Utc>) -> Result<Identity, ClaimsError> {
        let claims: Claims = object(payload).ok_or("its claims are not a JSON object, or a claim is there twice")?;
        let expires_at = check_times(&claims, now)?;
        let for_us = self.check_origin(&claims)?;
        if !self.is_access_token(&claims, kind, for_us)? {
            self.check_party(&claims)?;
        }
        let subject = text(claims.sub.as_ref(), "sub")?.ok_or("it has no sub claim")?;
        check_name(subject, "sub")?;
        if subject.starts_with("mch_") {
            return Err("it is the token of a machine, not of a user (sub)".into());
        }
        let session_id = text(claims.sid.as_ref(), "sid")?;
        if let Some(session_id) = session_id {
            check_name(session_id, "sid")?;
        }
        if (session_id.is_none() || kind == Kind::Template) && !for_us && !self.sessionless {
            return Err("it belongs to no session (sid) and names no audience of this API (aud)".into());
        }
        match text(claims.sts.as_ref(), "sts")? {
            None | Some("active") => {}
            Some("pending") => return Err("its session is pending: finish signing in first".into()),
            Some(_) => return Err("its session is not active (sts)".into()),
        }
        Ok(Identity {
            subject: subject.to_owned(),
            session_id: session_id.map(str::to_owned),
            impersonator: self.impersonator(claims.act.as_ref())?,
            organization: organization(&claims)?,
            profile: claims.profile(),
            met: OnceCell::new(),
            expires_at,
        })
    }

    /// Whether it is the access token of an OAuth client that counts here. Refuses tokens of another kind. `for_us`: it names
    /// an audience of ours.
    fn is_access_token(&self, claims: &Claims, kind: Kind, for_us: bool) -> Result<bool, ClaimsError> {
        // Back-channel logout tokens and security events (OpenID Connect Back-Channel Logout 1.0, RFC 8417).
        if claims.events.is_some() {
            return Err("it is an event and not a session (events)".into());
        }
        // Whoever presents it must prove to hold a key (RFC 7800), which is not checked here: as a bearer token it is stolen.
        if claims.cnf.is_some() {
            return Err("it is bound to a key (cnf), and bound tokens are not supported".into());
        }
        // An ID token tells a client who signed in (OpenID Connect Core 1.0, sections 2 and 3.3.2.11). Its audience is the
        // client; where that is an audience of ours, the operator has said that such tokens are good here.
        let id_token = [&claims.nonce, &claims.at_hash, &claims.c_hash].iter().any(|claim| claim.is_some());
        if id_token && !for_us {
            return Err("it is an ID token and not a session (nonce, at_hash, c_hash)".into());
        }
        let marks = [&claims.client_id, &claims.scope, &claims.scp, &claims.scopes, &claims.cid];
        if kind != Kind::Access && marks.iter().all(|claim| claim.is_none()) {
            return Ok(false);
        }
        let client = text(claims.client_id.as_ref().or(claims.cid.as_ref()), "client_id")?;
        let party = text(claims.azp.as_ref(), "azp")?;
        if client.is_some() && party.is_some() && client != party {
            return Err("it names two clients (client_id, azp)".into());
        }
        let ours = client.or(party).is_some_and(|client| self.oauth_clients.iter().any(|known| known == client));
        match (ours, for_us) {
            (true, true) => Ok(true),
            (true, false) => Err("it is an OAuth access token for another audience (aud)".into()),
            (false, _) => Err("it is an OAuth access token and not a session: sign in here instead".into()),
        }
    }

    /// Who acts in the place of the subject (RFC 8693, section 4.1; Clerk documentation, "User impersonation").
    fn impersonator(&self, act: Option<&Value>) -> Result<Option<String>, ClaimsError> {
        let Some(act) = act.filter(|act| !act.is_null()) else { return Ok(None) };
        let act = act.as_object().ok_or("its act claim is not an object")?;
        let actor = text(act.get("sub"), "act.sub")?.ok_or("its act claim has no sub")?;
        check_name(actor, "act.sub")?;
        match self.impersonation {
            Impersonation::Restricted | Impersonation::Full => Ok(Some(actor.to_owned())),
            Impersonation::Off => {
                Err("somebody acts in the place of its subject (act), which is not allowed here".into())
            }
        }
    }

    /// Who issued the token, and for whom: whether it names an audience of ours.
    fn check_origin(&self, claims: &Claims) -> Result<bool, ClaimsError> {
        let issuer = text(claims.iss.as_ref(), "iss")?;
        if self.issuer.is_some() && self.issuer.as_deref() != issuer {
            return Err("it is from another issuer (iss)".into());
        }
        // A recipient that does not find itself among the audiences must refuse the token (RFC 7519, section 4.1.3), and one
        // that has no name cannot find itself.
        let for_us = match &claims.aud {
            None if self.audience.is_empty() => false,
            aud => {
                let named = audience(aud.as_ref())?;
                if !named.iter().any(|one| self.audience.iter().any(|ours| ours == one)) {
                    return Err("it is for another audience (aud)".into());
                }
                true
            }
        };
        Ok(for_us)
    }

    /// To which web application it was issued. (The `azp` of an access token is its client, which was checked as that.)
    fn check_party(&self, claims: &Claims) -> Result<(), ClaimsError> {
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
/// An empty claim (null, "", an object without an id) is what Clerk and templates write for a user without an active
/// organization; a value of another type is refused.
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
            None => return Ok(None),
            Some(id) => (("org_id", Some(id)), ("org_slug", claims.org_slug.as_ref())),
        },
        2 => match &claims.o {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(empty)) if empty.is_empty() => return Ok(None),
            Some(Value::Object(o)) => (("o.id", o.get("id")), ("o.slg", o.get("slg"))),
            Some(_) => return Err("its o claim is not an object".into()),
        },
        _ => return Err("its session claims are of an unknown version (v)".into()),
    };
    let present = |value: Option<&'_ Value>| value.is_some_and(|value| !value.is_null() && value != "");
    if !present(id.1) {
        return Ok(None);
    }
    let (claim, id) = (id.0, text(id.1, id.0)?.ok_or("its organization has no id")?);
    check_name(id, claim)?;
    let (claim, slug) = (slug.0, text(slug.1.filter(|slug| present(Some(slug))), slug.0)?);
    if let Some(slug) = slug {
        check_name(slug, claim)?;
    }
    Ok(Some(TokenOrganization { id: id.to_owned(), slug: slug.map(str::to_owned) }))
}

/// Refuses what no identity provider's id looks like and what `PostgreSQL` cannot store (NUL).
pub(crate) fn check_name(name: &str, claim: &str) -> Result<(), ClaimsError> {
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS {
        return Err(format!("its {claim} claim is not between 1 and {MAX_NAME_CHARS} characters long"));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("its {claim} claim contains control characters"));
    }
    Ok(())
}

pub(crate) fn text<'a>(value: Option<&'a Value>, claim: &str) -> Result<Option<&'a str>, ClaimsError> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("its {claim} claim is not a string")),
    }
}

/// `aud` is one string or an array of strings (RFC 7519, section 4.1.3).
pub(crate) fn audience(value: Option<&Value>) -> Result<Vec<&str>, ClaimsError> {
    let refusal = || ClaimsError::from("its aud claim is neither a string nor an array of strings");
    match value {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one]),
        Some(Value::Array(many)) => many.iter().map(|one| one.as_str().ok_or_else(refusal)).collect(),
        Some(_) => Err(refusal()),
    }
}

/// A `NumericDate`: seconds since the epoch, possibly with a fraction (RFC 7519, section 2).
pub(crate) fn time(value: Option<&Value>, claim: &str) -> Result<Option<DateTime<Utc>>, ClaimsError> {
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
