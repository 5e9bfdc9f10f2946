//! The audit log, as administrators read it and operators export it. [`trail`](crate::trail) writes it, [`chain`] seals it.

pub mod chain;
mod export;
mod retention;

use async_graphql::Context;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::api_keys::ApiKey;
use crate::error::Result;
use crate::graphql::filter::{DateTimeFilter, IdFilter, StringFilter};
use crate::graphql::node::AnyNode;
use crate::graphql::session::Session;
use crate::id::{ApiKeyId, AuditLogId, UserId};
use crate::members::User;
use crate::{entity, listing, relations};
pub use export::{Export, Exported, Read, export, read_on};
pub use retention::Retention;

entity! {
    /// A record of a change in the organization.
    #[graphql(complex)]
    pub struct AuditLog("audit_logs", read by AuditRead) {
        /// Unique id.
        pub id: AuditLogId,
        /// The user who made the change.
        #[graphql(skip)]
        pub user_id: Option<UserId>,
        /// The API key of the program that made the change.
        #[graphql(skip)]
        pub api_key_id: Option<ApiKeyId>,
        /// The identity provider's id of the impersonator; null when the user acted in person.
        pub impersonator: Option<String>,
        /// The action: `ticket.update`.
        pub action: String,
        /// The type of the changed object.
        pub resource_type: String,
        /// The id of the changed object, without its type.
        #[graphql(skip)]
        pub resource_id: Option<Uuid>,
        /// Details of the change: states before and after.
        pub metadata: serde_json::Value,
        /// The address of the client; null for the system.
        pub ip_address: Option<String> = "ip_address::name::text",
        /// The id of the request, as in its response and in the server's log.
        pub request_id: Option<String>,
        /// Time of the change.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    AuditLog: AuditLogFilter, AuditLogOrder by AuditLogOrderField, default CreatedAt Desc;
    /// The user who made the change.
    user_id: IdFilter;
    /// The API key of the program that made the change.
    api_key_id: IdFilter;
    /// The action.
    action: StringFilter;
    /// The impersonator.
    impersonator: StringFilter;
    /// The type of the changed object.
    resource_type: StringFilter;
    /// The changed object.
    resource_id: IdFilter;
    /// Time of the change.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    AuditLog {}
    one {
        /// The user who made the change; null for programs and the system.
        user -> User by user_id;
        /// The API key of the program that made the change; null for people and the system.
        api_key -> ApiKey by api_key_id;
    }

    /// The changed object; null when it no longer exists.
    async fn resource(&self, ctx: &Context<'_>) -> Result<Option<AnyNode>> {
        match self.resource_id {
            Some(id) => Session::of(ctx)?.node(&self.resource_type, id).await,
            None => Ok(None),
        }
    }
}
