//! API keys: what programs sign in with. Only the hash of a key is stored, and nothing but its prefix is ever shown.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context};
use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::graphql::listing::{DateTimeFilter, StringFilter};
use crate::graphql::session::Session;
use crate::id::Id;
use crate::members::User;
use crate::{entity, listing};

entity! {
    /// A key that a program signs in with.
    #[graphql(complex)]
    pub struct ApiKey("key", "api_keys", tenant: true, listed when "true", read by ApiKeyRead) {
        /// The id.
        pub id: Id<ApiKey>,
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
        pub created_by: Option<Id<User>>,
        /// When it was made.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    ApiKey,
    filter ApiKeyFilter {
        /// By name.
        name: StringFilter = "t.name",
        /// By the moment it ends.
        expires_at: DateTimeFilter = "t.expires_at",
        /// By the moment it was withdrawn; `isNull: true` finds those that are good.
        revoked_at: DateTimeFilter = "t.revoked_at",
        /// By the moment it was made.
        created_at: DateTimeFilter = "t.created_at",
    },
    order ApiKeyOrder by ApiKeyOrderField {
        /// When it was made.
        CreatedAt = "t.created_at", |row| row.created_at;
    },
    default CreatedAt Desc
}

#[ComplexObject]
impl ApiKey {
    /// Who made it.
    async fn created_by(&self, ctx: &Context<'_>) -> Result<Option<Arc<User>>> {
        Session::of(ctx)?.load_opt(self.created_by).await
    }
}
