//! The audit log, as administrators read it. [`trail`](crate::trail) writes it.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::Result;
use crate::graphql::filter::{DateTimeFilter, IdFilter, StringFilter};
use crate::graphql::node::AnyNode;
use crate::graphql::session::Session;
use crate::id::{AuditLogId, UserId};
use crate::members::User;
use crate::{entity, listing};

entity! {
    /// Something that was done in the organization.
    #[graphql(complex)]
    pub struct AuditLog("audit_logs", read by AuditRead) {
        /// The id.
        pub id: AuditLogId,
        /// Who did it.
        #[graphql(skip)]
        pub user_id: Option<UserId>,
        /// The identity provider's id of whoever acted in the place of the user; null when the user acted themselves.
        pub impersonator: Option<String>,
        /// What was done: `ticket.update`.
        pub action: String,
        /// The type of what it was done to.
        pub resource_type: String,
        /// The id of what it was done to, without its type.
        #[graphql(skip)]
        pub resource_id: Option<Uuid>,
        /// What else there is to know: states before and after.
        pub metadata: serde_json::Value,
        /// The id of the request, as in its response and in the log of the server.
        pub request_id: Option<String>,
        /// When it was done.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    AuditLog: AuditLogFilter, AuditLogOrder by AuditLogOrderField, default CreatedAt Desc;
    /// Who did it.
    user_id: IdFilter;
    /// What was done.
    action: StringFilter;
    /// Whoever acted in the place of the user.
    impersonator: StringFilter;
    /// Type of what it was done to.
    resource_type: StringFilter;
    /// What it was done to.
    resource_id: IdFilter;
    /// Moment.
    created_at: DateTimeFilter, CreatedAt;
}

#[ComplexObject]
impl AuditLog {
    /// The user who did it; null when a program or the system did.
    async fn user(&self, ctx: &Context<'_>) -> Result<Option<Arc<User>>> {
        Session::of(ctx)?.load_opt(self.user_id).await
    }

    /// The row it was done to, if it is still there.
    async fn resource(&self, ctx: &Context<'_>) -> Result<Option<AnyNode>> {
        match self.resource_id {
            Some(id) => Session::of(ctx)?.node(&self.resource_type, id).await,
            None => Ok(None),
        }
    }
}
