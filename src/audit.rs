//! The audit log: who did what, append only.
//!
//! Every mutation writes its row in its own transaction: there is no change without its row, and no row of a change
//! that was rolled back. Metadata holds states and ids, never texts of customers and never secrets.

use std::net::IpAddr;
use std::sync::Arc;

use async_graphql::{ComplexObject, Context};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::clock::Clock;
use crate::db::{SystemTx, TenantTx};
use crate::error::Result;
use crate::graphql::listing::{DateTimeFilter, IdFilter, StringFilter};
use crate::graphql::session::Session;
use crate::id::Id;
use crate::members::User;
use crate::organizations::Organization;
use crate::{entity, listing};

entity! {
    /// Something that was done in the organization.
    #[graphql(complex)]
    pub struct AuditLog("aud", "audit_logs", tenant: true, listed when "true", read by AuditRead) {
        /// The id.
        pub id: Id<AuditLog>,
        /// Who did it.
        #[graphql(skip)]
        pub user_id: Option<Id<User>>,
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
    AuditLog,
    filter AuditLogFilter {
        /// By who did it.
        user_id: IdFilter = "t.user_id",
        /// By what was done.
        action: StringFilter = "t.action",
        /// By the type of what it was done to.
        resource_type: StringFilter = "t.resource_type",
        /// By what it was done to.
        resource_id: IdFilter = "t.resource_id",
        /// By the moment.
        created_at: DateTimeFilter = "t.created_at",
    },
    order AuditLogOrder by AuditLogOrderField {
        /// The moment.
        CreatedAt = "t.created_at", |row| row.created_at;
    },
    default CreatedAt Desc
}

#[ComplexObject]
impl AuditLog {
    /// The user who did it; null when a program or the system did.
    async fn user(&self, ctx: &Context<'_>) -> Result<Option<Arc<User>>> {
        Session::of(ctx)?.load_opt(self.user_id).await
    }

    /// The row it was done to, if it is still there.
    async fn resource(&self, ctx: &Context<'_>) -> Result<Option<crate::graphql::Node>> {
        match self.resource_id {
            Some(id) => crate::graphql::node_of_type(Session::of(ctx)?, &self.resource_type, id).await,
            None => Ok(None),
        }
    }
}

/// Where a request came from, for its audit rows. Who made it, the transaction knows.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    clock: &'a Clock,
    request_id: &'a str,
    ip: Option<IpAddr>,
}

impl<'a> Actor<'a> {
    /// Of this request.
    #[must_use]
    pub fn of(session: &'a Session) -> Self {
        Self { clock: &session.app().clock, request_id: session.request_id(), ip: session.ip() }
    }
}

/// Writes the row of a change, in the change's transaction.
pub async fn record(
    tx: &mut TenantTx,
    actor: &Actor<'_>,
    action: &str,
    resource_type: &str,
    resource_id: Uuid,
    metadata: serde_json::Value,
) -> Result<()> {
    let tenant = tx.tenant();
    sqlx::query!(
        "insert into tenantry.audit_logs (organization_id, id, user_id, action, resource_type, resource_id, metadata, ip_address, request_id, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8::text::inet, $9, $10)",
        tenant.organization_id as _,
        Id::<AuditLog>::new(actor.clock) as _,
        tenant.user_id as _,
        action,
        resource_type,
        resource_id,
        metadata,
        actor.ip.map(|ip| ip.to_string()),
        actor.request_id,
        actor.clock.now()
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Writes the row of a change that the system made, in the change's transaction; what made it do so is in the metadata.
pub async fn record_of_system(
    tx: &mut SystemTx,
    clock: &Clock,
    organization: Id<Organization>,
    action: &str,
    (resource_type, resource_id): (&str, Uuid),
    metadata: serde_json::Value,
) -> Result<()> {
    sqlx::query!(
        "insert into tenantry.audit_logs (organization_id, id, action, resource_type, resource_id, metadata, created_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
        organization as _,
        Id::<AuditLog>::new(clock) as _,
        action,
        resource_type,
        resource_id,
        metadata,
        clock.now()
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
