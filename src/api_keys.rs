//! API keys: what programs sign in with. Only the hash of a key is stored, and nothing but its prefix is ever shown.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context};
use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::graphql::filter::{DateTimeFilter, StringFilter};
use crate::graphql::session::Session;
use crate::id::{ApiKeyId, UserId};
use crate::members::User;
use crate::{entity, listing};

entity! {
    /// A key that a program signs in with.
    #[graphql(complex)]
    pub struct ApiKey("api_keys", read by ApiKeyRead) {
        /// The id.
        pub id: ApiKeyId,
        /// What it is for.
        pub name: String,
        /// Its beginning, to know it by.
        pub prefix: String,
        /// What it may do.
        pub scopes: Vec<String>,
        /// When it ends; null when never.
        pub expires_at: Option<DateTime<Utc>>,
        /// When it was last used.
        pub last_used_at: Option<DateTime<Utc>>,
        /// When it was withdrawn.
        pub revoked_at: Option<DateTime<Utc>>,
        /// Who made it.
        #[graphql(skip)]
        pub created_by: Option<UserId>,
        /// When it was made.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    ApiKey: ApiKeyFilter, ApiKeyOrder by ApiKeyOrderField, default CreatedAt Desc;
    /// Name.
    name: StringFilter;
    /// Moment it ends.
    expires_at: DateTimeFilter;
    /// Moment it was withdrawn; `isNull: true` finds those that are good.
    revoked_at: DateTimeFilter;
    /// Moment it was made.
    created_at: DateTimeFilter, CreatedAt;
}

#[ComplexObject]
impl ApiKey {
    /// Who made it.
    async fn created_by(&self, ctx: &Context<'_>) -> Result<Option<Arc<User>>> {
        Session::of(ctx)?.load_opt(self.created_by).await
    }
}
