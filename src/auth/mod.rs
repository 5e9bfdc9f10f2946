//! Who is calling: bearer tokens, checked against the identity provider's public keys.
//!
//! A token is a signed JWT (RFC 7519, RFC 7515) that an identity provider issued, Clerk above all. Invariants:
//!
//! - Nothing of a token is believed before its signature was checked, with a key that the *configuration* names and with
//!   the algorithm that belongs to that key. What the token says about its own key (`jwk`, `jku`, `x5u`, `alg`) never
//!   decides (RFC 8725, sections 3.1 and 3.10).
//! - A token yields an [`Identity`] and nothing more. Membership and role are read from the database
//!   in every request.
//! - No text that reaches a caller or the log repeats the token.
//!
//! [`verify`] checks a token, `claims` its content, `keys` and [`jwks`] hold the keys and follow their rotation, [`dev`]
//! issues tokens where there is no identity provider.

pub mod api_key;
pub(crate) mod claims;
pub mod dev;
pub mod identity;
pub mod jwks;
mod keys;
#[cfg(test)]
mod testing;
pub mod verify;

pub use dev::{DEV_ISSUER, DevIssuer, DevIssuerError, IssueRequest, Persona};
pub use identity::{Identity, TokenOrganization};
pub use jwks::KeySource;
pub use verify::{AuthSettings, AuthSetupError, Verifier, parse_authorization};
