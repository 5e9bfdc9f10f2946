//! The audit log, as administrators read it and operators export it. [`trail`](crate::trail) writes it.

use async_graphql::Context;
use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::api_keys::ApiKey;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::graphql::filter::{DateTimeFilter, IdFilter, StringFilter};
use crate::graphql::node::AnyNode;
use crate::graphql::session::Session;
use crate::id::{ApiKeyId, AuditLogId, OrganizationId, UserId};
use crate::members::User;
use crate::{entity, listing, relations};

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

/// Rows that an export holds in memory.
const EXPORTED_AT_ONCE: i64 = 1000;

/// Which rows to export.
#[derive(Clone, Copy, Debug)]
pub struct Export {
    /// Of this organization.
    pub organization: OrganizationId,
    /// From here on.
    pub since: Option<DateTime<Utc>>,
    /// Before this.
    pub until: Option<DateTime<Utc>>,
}

/// Reads the audit log of an organization, the oldest first, and gives each row to `write` as JSON. Returns how many. A
/// thousand rows are in memory at once.
///
/// # Errors
/// The database could not be asked, or `write` failed.
pub async fn export<E: From<crate::error::Error>>(
    db: &Db,
    export: Export,
    mut write: impl FnMut(&Value) -> std::result::Result<(), E>,
) -> std::result::Result<u64, E> {
    let mut tx = SystemTx::begin(db).await?;
    let (mut count, mut after) = (0, (export.since.unwrap_or(DateTime::UNIX_EPOCH), Uuid::nil()));
    loop {
        let rows = sqlx::query!(
            r#"select a.created_at, a.id, jsonb_build_object(
                      'id', a.id, 'at', a.created_at, 'organization', o.slug, 'user', u.clerk_id,
                      'impersonator', a.impersonator, 'apiKey', a.api_key_id, 'action', a.action, 'resourceType', a.resource_type,
                      'resourceId', a.resource_id, 'ip', host(a.ip_address), 'requestId', a.request_id, 'metadata', a.metadata) as "row!"
                 from tenantry.audit_logs a join tenantry.organizations o on o.id = a.organization_id
                 left join tenantry.users u on u.id = a.user_id
                where a.organization_id = $1 and a.created_at >= $2 and (a.created_at, a.id) > ($2, $3)
                  and ($4::timestamptz is null or a.created_at < $4)
                order by a.created_at, a.id limit $5"#,
            export.organization as _,
            after.0,
            after.1,
            export.until,
            EXPORTED_AT_ONCE
        )
        .fetch_all(tx.conn())
        .await
        .map_err(crate::error::Error::from)?;
        let is_last = i64::try_from(rows.len()).is_ok_and(|rows| rows < EXPORTED_AT_ONCE);
        for mut row in rows {
            // As the API shows it.
            row.row["id"] = AuditLogId::from_uuid(row.id).to_string().into();
            write(&row.row)?;
            count += 1;
            after = (row.created_at, row.id);
        }
        if is_last {
            break;
        }
    }
    tx.commit().await?;
    Ok(count)
}
