//! Client keys: an organization's own backend signs with one for whom its web and mobile clients evaluate feature flags.
//!
//! Invariants: only the public half of a key is stored, and the private half is shown once; a client token, which such a key has
//! signed, lives a day at most and can do nothing but evaluate flags for the user it names.

pub mod token;
mod verbs;

use chrono::{DateTime, Utc};

use crate::graphql::filter::{DateTimeFilter, StringFilter};
use crate::id::{ClientKeyId, UserId};
use crate::members::User;
use crate::{entity, listing, relations};
pub use verbs::{ClientKeyMutation, MUTATIONS};

entity! {
    /// A key by which the organization's backend signs client tokens: who brings one evaluates feature flags for the user it
    /// names.
    #[graphql(complex)]
    pub struct ClientKey("client_keys", read by ApiKeyRead) {
        /// Unique id: the `kid` in the header of the tokens.
        pub id: ClientKeyId,
        /// Purpose.
        pub name: String,
        /// The environment that it is for: a label.
        pub environment: String,
        /// Expiry; null means never.
        pub expires_at: Option<DateTime<Utc>>,
        /// Time of the last use, to a minute or so; null means never used.
        pub last_used_at: Option<DateTime<Utc>>,
        /// Time of revocation; null while in force.
        pub revoked_at: Option<DateTime<Utc>>,
        /// The user who created it.
        #[graphql(skip)]
        pub created_by: Option<UserId>,
        /// Version; incremented by every change.
        pub version: i32,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    ClientKey: ClientKeyFilter, ClientKeyOrder by ClientKeyOrderField, default CreatedAt Desc;
    /// Name.
    name: StringFilter;
    /// Environment.
    environment: StringFilter;
    /// Expiry.
    expires_at: DateTimeFilter;
    /// Time of revocation; `isNull: true` finds the keys in force.
    revoked_at: DateTimeFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    ClientKey {}
    one {
        /// The user who created it.
        created_by -> User by created_by;
    }
}
