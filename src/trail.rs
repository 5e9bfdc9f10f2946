//! Writes the audit trail: who did what, append only. The slice [`audit`](crate::audit) reads it.
//!
//! Every change writes its row in its own transaction: there is no change without its row, and no row of a change that
//! was rolled back. Metadata holds states and ids, never texts of customers and never secrets.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Map, Value, json};
use sqlx::Arguments as _;
use sqlx::postgres::PgArguments;
use uuid::Uuid;

use crate::access::Tenant;
use crate::clock::Clock;
use crate::db::{Conn, SystemTx, TenantTx};
use crate::error::{Error, Result};
use crate::id::{AuditLogId, Id, Identified, OrganizationId};

/// What was done to what.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    /// The action: `ticket.update`.
    pub action: Cow<'static, str>,
    /// The GraphQL type of the row it was done to.
    pub resource_type: &'static str,
    /// The id of that row.
    pub resource_id: Uuid,
    /// States before and after.
    pub metadata: Value,
}

impl AuditEntry {
    /// `action` was done to the row with this id.
    #[must_use]
    pub fn of<T: Identified>(action: impl Into<Cow<'static, str>>, id: Id<T>, metadata: Value) -> Self {
        Self { action: action.into(), resource_type: T::NAME, resource_id: id.uuid(), metadata }
    }
}

/// States before and after, of what changed only: for [`AuditEntry::metadata`].
#[derive(Debug, Default)]
pub struct Difference(Map<String, Value>, Map<String, Value>);

impl Difference {
    /// Adds a state, if it is another one.
    pub fn of<T: PartialEq + Serialize>(&mut self, name: &str, before: &T, after: &T) {
        if before != after {
            self.0.insert(name.to_owned(), json!(before));
            self.1.insert(name.to_owned(), json!(after));
        }
    }

    /// The metadata.
    #[must_use]
    pub fn finish(self) -> Value {
        json!({ "before": self.0, "after": self.1 })
    }
}

/// Where a request came from. Who made it, the transaction knows.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    pub request_id: &'a str,
    /// The address of the client.
    pub ip: Option<IpAddr>,
    /// Who acted in the place of the user.
    pub impersonator: Option<&'a str>,
}

/// The statement that writes the row of a member's change, for the statement that ends a mutation: `$1` to `$12` are
/// [`arguments`], `$1` the organization and `$6` the row it was done to.
pub const INSERT: &str = "insert into tenantry.audit_logs
    (organization_id, id, user_id, action, resource_type, resource_id, metadata, ip_address, request_id, created_at, impersonator, api_key_id)
    values ($1, $2, $3, $4, $5, $6, $7, $8::text::inet, $9, $10, $11, $12)";

/// The values of [`INSERT`].
///
/// # Errors
/// [`Error::Internal`] when a value cannot be sent.
pub fn arguments(tenant: Tenant, clock: &Clock, origin: Origin<'_>, entry: &AuditEntry) -> Result<PgArguments> {
    let mut arguments = PgArguments::default();
    let mut add = || {
        arguments.add(tenant.organization_id)?;
        arguments.add(AuditLogId::new(clock))?;
        arguments.add(tenant.actor.user())?;
        arguments.add(entry.action.as_ref())?;
        arguments.add(entry.resource_type)?;
        arguments.add(entry.resource_id)?;
        arguments.add(&entry.metadata)?;
        arguments.add(origin.ip.map(|ip| ip.to_string()))?;
        arguments.add(origin.request_id)?;
        arguments.add(clock.now())?;
        arguments.add(origin.impersonator)?;
        arguments.add(tenant.actor.key())
    };
    add().map_err(Error::internal)?;
    Ok(arguments)
}

/// Writes the row of a viewer's change, in the change's transaction, where no statement of the mutation carries it.
///
/// # Errors
/// When the database cannot be reached.
pub async fn record(tx: &mut TenantTx, clock: &Clock, origin: Origin<'_>, entry: &AuditEntry) -> Result<()> {
    let arguments = arguments(tx.tenant(), clock, origin, entry)?;
    sqlx::query_with(INSERT, arguments).execute(tx.conn()).await?;
    Ok(())
}

/// Writes the row of what an operator of the platform did to an organization, in the same transaction.
///
/// # Errors
/// When the database cannot be reached.
pub async fn record_of_operator(
    tx: &mut SystemTx,
    clock: &Clock,
    (operator, origin): (&str, Origin<'_>),
    organization: OrganizationId,
    entry: &AuditEntry,
) -> Result<()> {
    sqlx::query!(
        "insert into tenantry.audit_logs (organization_id, id, user_id, action, resource_type, resource_id, metadata, created_at,
                                          ip_address, request_id, impersonator)
         values ($1, $2, (select u.id from tenantry.users u where u.clerk_id = $3), $4, $5, $6, $7, $8, $9::text::inet, $10, $11)",
        organization as _,
        AuditLogId::new(clock) as _,
        operator,
        entry.action.as_ref(),
        entry.resource_type,
        entry.resource_id,
        entry.metadata,
        clock.now(),
        origin.ip.map(|ip| ip.to_string()),
        origin.request_id,
        origin.impersonator
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Writes the row of a change that the system made, in the change's transaction.
///
/// # Errors
/// When the database cannot be reached.
pub async fn record_of_system(
    tx: &mut SystemTx,
    clock: &Clock,
    organization: OrganizationId,
    entry: &AuditEntry,
) -> Result<()> {
    record_without_actor(tx.conn(), clock, organization, entry).await
}

/// Writes the row of what followed from a viewer's change by itself, in the change's transaction.
///
/// # Errors
/// When the database cannot be reached.
pub async fn record_of_consequence(tx: &mut TenantTx, clock: &Clock, entry: &AuditEntry) -> Result<()> {
    let organization = tx.tenant().organization_id;
    record_without_actor(tx.conn(), clock, organization, entry).await
}

async fn record_without_actor(
    conn: &mut Conn,
    clock: &Clock,
    organization: OrganizationId,
    entry: &AuditEntry,
) -> Result<()> {
    sqlx::query!(
        "insert into tenantry.audit_logs (organization_id, id, action, resource_type, resource_id, metadata, created_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
        organization as _,
        AuditLogId::new(clock) as _,
        entry.action.as_ref(),
        entry.resource_type,
        entry.resource_id,
        entry.metadata,
        clock.now()
    )
    .execute(conn)
    .await?;
    Ok(())
}
