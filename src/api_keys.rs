//! API keys: what programs sign in with. Only the hash of a key is stored, and nothing but its prefix is ever shown.

use chrono::{DateTime, Utc};

use crate::graphql::filter::{DateTimeFilter, StringFilter};
use crate::id::{ApiKeyId, UserId};
use crate::members::User;
use crate::{entity, listing, relations};

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
    }
}
