//! API keys: what programs sign in with. The tenant follows from the key, and what the program may do from its scopes.
//!
//! Invariants: only the hash of a key is stored, and the key is shown once; a key can do no more than its maker could, and
//! never what is for people; of a rotation two keys are live at most.

mod verbs;

use chrono::{DateTime, Utc};

use crate::graphql::filter::{DateTimeFilter, StringFilter};
use crate::id::{ApiKeyId, UserId};
use crate::members::User;
use crate::{entity, listing, relations};
pub use verbs::{ApiKeyMutation, MUTATIONS};

entity! {
    /// A credential of a program.
    #[graphql(complex)]
    pub struct ApiKey("api_keys", read by ApiKeyRead) {
        /// Unique id.
        pub id: ApiKeyId,
        /// Purpose.
        pub name: String,
        /// The first characters of the key, to recognize it by.
        pub prefix: String,
        /// Scopes: the actions that the key may take.
        pub scopes: Vec<String>,
        /// The networks that requests with the key may come from; empty: anywhere.
        pub allowed_networks: Vec<String> = "allowed_networks::text[]",
        /// The key that this one takes the place of.
        #[graphql(skip)]
        pub rotated_from: Option<ApiKeyId>,
        /// Expiry; null means never.
        pub expires_at: Option<DateTime<Utc>>,
        /// Time of the last use; null means never used.
        pub last_used_at: Option<DateTime<Utc>>,
        /// Time of revocation; null while in force.
        pub revoked_at: Option<DateTime<Utc>>,
        /// The user who created it.
        #[graphql(skip)]
        pub created_by: Option<UserId>,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    ApiKey: ApiKeyFilter, ApiKeyOrder by ApiKeyOrderField, default CreatedAt Desc;
    /// Name.
    name: StringFilter;
    /// Expiry.
    expires_at: DateTimeFilter;
    /// Time of revocation; `isNull: true` finds the keys in force.
    revoked_at: DateTimeFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    ApiKey {}
    one {
        /// The user who created it.
        created_by -> User by created_by;
        /// The key that this one takes the place of; null when it is the first.
        rotated_from -> ApiKey by rotated_from;
    }
}
