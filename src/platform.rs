//! What operators of the platform see across tenants.
//!
//! The one place of the API that opens a [`SystemTx`]. Whether the viewer is a superadmin is asked of the database in
//! that very transaction, and each use leaves a row in `platform_audit_logs`, or does not happen.

use async_graphql::Object;
use futures_util::future::BoxFuture;

use crate::db::SystemTx;
use crate::error::{Error, Result};
use crate::graphql::session::Session;
use crate::id::Id;
use crate::relations;
use crate::webhook_events::WebhookEvent;

/// Opens a transaction across tenants for a superadmin, with its audit row in it. The caller commits.
///
/// # Errors
/// [`Error::Forbidden`] for everybody else, [`Error::ImpersonationRestricted`] for who acts in a superadmin's place.
pub async fn open(session: &Session, action: &str, metadata: serde_json::Value) -> Result<SystemTx> {
    let subject = session.identity()?.subject.clone();
    if session.is_restricted() {
        return Err(Error::ImpersonationRestricted { action: "PLATFORM" });
    }
    let origin = session.origin();
    let mut tx = SystemTx::begin(&session.services().db).await?;
    let admitted = sqlx::query!(
        "insert into tenantry.platform_audit_logs (id, user_id, action, metadata, ip_address, request_id, created_at, impersonator)
         select $1, u.id, $3, $4, $5::text::inet, $6, $7, $8 from tenantry.users u
          where u.clerk_id = $2 and u.is_superadmin and u.deleted_at is null and (u.blocked_until is null or u.blocked_until <= $7)
            and not exists (select from tenantry.ended_sessions e where e.session_id = $9)",
        Id::<()>::new(session.clock()) as _,
        subject,
        action,
        metadata,
        origin.ip.map(|ip| ip.to_string()),
        origin.request_id,
        session.clock().now(),
        origin.impersonator,
        session.identity()?.session_id
    )
    .execute(tx.conn())
    .await?;
    if admitted.rows_affected() == 1 {
        Ok(tx)
    } else {
        Err(Error::Forbidden { role: "USER".to_owned(), action: "PLATFORM".to_owned() })
    }
}

/// [`open`] as the kit's connections take it.
fn read(session: &Session, action: String, metadata: serde_json::Value) -> BoxFuture<'_, Result<SystemTx>> {
    Box::pin(async move { open(session, &action, metadata).await })
}

/// The root field of the slice.
#[derive(Debug, Default)]
pub struct PlatformQuery;

#[Object]
impl PlatformQuery {
    /// Data of all organizations. For superadmins; every access is recorded.
    async fn platform(&self) -> Platform {
        Platform
    }
}

/// Data of all organizations.
#[derive(Debug)]
pub struct Platform;

relations! {
    /// Data of all organizations. For superadmins; every access is recorded.
    Platform over read {
        /// The webhook events of all organizations, and those that belong to none.
        webhook_events -> WebhookEvent;
    }
}
