//! What operators of the platform see across tenants.
//!
//! The one place of the API that opens a [`SystemTx`]. Whether the viewer is a superadmin is asked of the database in
//! that very transaction, and each use leaves a row in `platform_audit_logs`, or does not happen.

use async_graphql::{Context, Object, SimpleObject};
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde_json::json;

use crate::db::SystemTx;
use crate::entitlements::{self, Plan};
use crate::error::{Error, Result};
use crate::flags::{self, FeatureFlagChange, FeatureFlagDefinition, FeatureFlagUsage, QUIET_DAYS};
use crate::graphql::filter::{DateTimeFilter, StringFilter};
use crate::graphql::rows::Related;
use crate::graphql::session::Session;
use crate::id::{Id, OrganizationId, UserId};
use crate::organizations::OrganizationStatus;
use crate::trail::Origin;
use crate::webhook_events::WebhookEvent;
use crate::{entity, listing, relations};

/// Opens a transaction across tenants for a superadmin, with its audit row in it. The caller commits.
///
/// # Errors
/// [`Error::Forbidden`] for everybody else, [`Error::ImpersonationRestricted`] for who acts in a superadmin's place.
pub async fn open(session: &Session, action: &str, metadata: serde_json::Value) -> Result<SystemTx> {
    let mut tx = begin(session).await?;
    record(&mut tx, session, action, metadata).await?;
    Ok(tx)
}

/// A transaction across tenants of a superadmin whose audit row is not written yet, because only what it finds tells what the row is
/// to say. It cannot be committed before.
#[derive(Debug)]
pub struct Admitted(SystemTx);

/// Begins a transaction across tenants for a superadmin.
///
/// # Errors
/// As [`open`].
pub async fn admit(session: &Session) -> Result<Admitted> {
    let mut tx = begin(session).await?;
    let is_superadmin = sqlx::query_scalar!(
        r#"select exists (select from tenantry.users u
            where u.clerk_id = $1 and u.is_superadmin and u.deleted_at is null and (u.blocked_until is null or u.blocked_until <= $2)
              and not exists (select from tenantry.ended_sessions e where e.session_id = $3)) as "is_superadmin!""#,
        session.identity()?.subject,
        session.clock().now(),
        session.identity()?.session_id
    )
    .fetch_one(tx.conn())
    .await?;
    if is_superadmin { Ok(Admitted(tx)) } else { Err(forbidden()) }
}

impl Admitted {
    /// The transaction.
    pub const fn system(&mut self) -> &mut SystemTx {
        &mut self.0
    }

    /// Writes the audit row; the caller commits.
    ///
    /// # Errors
    /// As [`open`].
    pub async fn record(mut self, session: &Session, action: &str, metadata: serde_json::Value) -> Result<SystemTx> {
        record(&mut self.0, session, action, metadata).await?;
        Ok(self.0)
    }
}

fn forbidden() -> Error {
    Error::Forbidden { role: "USER".to_owned(), action: "PLATFORM".to_owned() }
}

async fn begin(session: &Session) -> Result<SystemTx> {
    session.identity()?;
    if session.is_restricted() {
        return Err(Error::ImpersonationRestricted { action: "PLATFORM" });
    }
    SystemTx::begin(&session.services().db).await
}

/// Writes the audit row of a superadmin, and refuses everybody else.
async fn record(tx: &mut SystemTx, session: &Session, action: &str, metadata: serde_json::Value) -> Result<()> {
    let origin = session.origin();
    let admitted = sqlx::query!(
        "insert into tenantry.platform_audit_logs (id, user_id, action, metadata, ip_address, request_id, created_at, impersonator)
         select $1, u.id, $3, $4, $5::text::inet, $6, $7, $8 from tenantry.users u
          where u.clerk_id = $2 and u.is_superadmin and u.deleted_at is null and (u.blocked_until is null or u.blocked_until <= $7)
            and not exists (select from tenantry.ended_sessions e where e.session_id = $9)",
        Id::<()>::new(session.clock()) as _,
        session.identity()?.subject,
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
    if admitted.rows_affected() == 1 { Ok(()) } else { Err(forbidden()) }
}

/// Who acts as an operator, and from where, for the log of an organization.
///
/// # Errors
/// Without a token.
pub fn operator(session: &Session) -> Result<(&str, Origin<'_>)> {
    Ok((&session.identity()?.subject, session.origin()))
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

entity! {
    /// An organization, as operators of the platform see it. To look into it: `supportAccessStart`.
    pub struct PlatformOrganization(global "organizations", read by OrganizationRead) {
        /// Its id, for `organizationSuspend` and `supportAccessStart`.
        pub id: OrganizationId,
        /// The identity provider's id.
        pub clerk_org_id: Option<String>,
        /// Name.
        pub name: String,
        /// Slug.
        pub slug: String,
        /// Status.
        pub status: OrganizationStatus,
        /// Whether it is a personal workspace.
        pub is_personal: bool,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Since when it is suspended.
        pub suspended_at: Option<DateTime<Utc>>,
        /// Why it is suspended.
        pub suspension_reason: Option<String>,
        /// When it was deleted.
        pub deleted_at: Option<DateTime<Utc>>,
        /// Until when its owners may restore it.
        pub purge_at: Option<DateTime<Utc>>,
        /// When its rows were removed.
        pub purged_at: Option<DateTime<Utc>>,
    }
}

listing! {
    PlatformOrganization: PlatformOrganizationFilter, PlatformOrganizationOrder by PlatformOrganizationOrderField,
        default CreatedAt Desc;
    /// Name.
    name: StringFilter, Name;
    /// Slug.
    slug: StringFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

impl Related for PlatformOrganization {}

entity! {
    /// A user, as operators of the platform see them.
    pub struct PlatformUser(global "users", read by OrganizationRead) {
        /// The user's id.
        pub id: UserId,
        /// The identity provider's id.
        pub clerk_id: String,
        /// Primary e-mail address.
        pub email: Option<String>,
        /// Full name.
        pub name: String,
        /// Whether they are a superadmin of the platform.
        pub is_superadmin: bool,
        /// Banned or locked at the identity provider until then.
        pub is_blocked: bool = "blocked_until is not null",
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// When the account ended.
        pub deleted_at: Option<DateTime<Utc>>,
        /// When who they were was erased.
        pub erased_at: Option<DateTime<Utc>>,
    }
}

listing! {
    PlatformUser: PlatformUserFilter, PlatformUserOrder by PlatformUserOrderField, default CreatedAt Desc;
    /// Name.
    name: StringFilter, Name;
    /// Primary e-mail address.
    email: StringFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

impl Related for PlatformUser {}

/// Something that the workers do by the clock.
#[derive(Clone, Debug, SimpleObject)]
pub struct PlatformJob {
    /// The name.
    pub name: String,
    /// When it began last.
    pub last_started_at: Option<DateTime<Utc>>,
    /// When it ended last.
    pub last_finished_at: Option<DateTime<Utc>>,
    /// Rows that it made, sealed or removed last.
    pub last_done: Option<i64>,
    /// Why it failed last; null when it did not.
    pub last_error: Option<String>,
    /// How many times it ran.
    pub runs: i64,
}

relations! {
    /// Data of all organizations. For superadmins; every access is recorded.
    Platform over read {
        /// The webhook events of all organizations, and those that belong to none.
        webhook_events -> WebhookEvent;
        /// All organizations, the deleted ones as well.
        organizations -> PlatformOrganization;
        /// All users, those who are gone as well.
        users -> PlatformUser;
    }

    /// The definitions of all feature flags, by key.
    async fn feature_flag_definitions(&self, ctx: &Context<'_>) -> Result<Vec<FeatureFlagDefinition>> {
        let session = Session::of(ctx)?;
        let mut tx = open(session, "feature_flag_definitions.list", json!({})).await?;
        let definitions = flags::definitions(&mut tx, session.clock().now(), QUIET_DAYS).await?;
        tx.commit().await?;
        Ok(definitions)
    }

    /// The definition of the feature flag with this key; null when there is none.
    async fn feature_flag_definition(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The key.")] key: String,
    ) -> Result<Option<FeatureFlagDefinition>> {
        let session = Session::of(ctx)?;
        let mut tx = open(session, "feature_flag_definitions.read", json!({})).await?;
        let definition = flags::definition(&mut tx, &key, session.clock().now(), QUIET_DAYS).await?;
        tx.commit().await?;
        Ok(definition)
    }

    /// Which organizations asked for a feature flag, the last one first.
    async fn feature_flag_usage(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The key.")] key: String,
        #[graphql(desc = "The number of organizations: 0 to 100, 50 by default.")] first: Option<i64>,
        #[graphql(desc = "Only those that asked last before this time.")] before: Option<DateTime<Utc>>,
    ) -> Result<Vec<FeatureFlagUsage>> {
        let mut tx = open(Session::of(ctx)?, "feature_flag_usage.list", json!({})).await?;
        let usage = flags::usage(&mut tx, &key, first, before).await?;
        tx.commit().await?;
        Ok(usage)
    }

    /// What operators changed about a feature flag and granted of it, newest first; of one that was deleted as well.
    async fn feature_flag_history(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The key.")] key: String,
        #[graphql(desc = "The number of changes: 0 to 100, 50 by default.")] first: Option<i64>,
        #[graphql(desc = "Only changes before this time.")] before: Option<DateTime<Utc>>,
    ) -> Result<Vec<FeatureFlagChange>> {
        let mut tx = open(Session::of(ctx)?, "feature_flag_history.list", json!({})).await?;
        let changes = flags::changes(&mut tx, &key, first, before).await?;
        tx.commit().await?;
        Ok(changes)
    }

    /// What each plan gives: the file of the plans, with the flags whose minimum plan it is.
    async fn plans(&self, ctx: &Context<'_>) -> Result<Vec<Plan>> {
        let session = Session::of(ctx)?;
        let mut tx = open(session, "plans.list", json!({})).await?;
        let plans = entitlements::show(&mut tx, &session.services().plans, session.clock().now()).await?;
        tx.commit().await?;
        Ok(plans)
    }

    /// What the workers do by the clock.
    async fn jobs(&self, ctx: &Context<'_>) -> Result<Vec<PlatformJob>> {
        let mut tx = open(Session::of(ctx)?, "jobs.list", json!({})).await?;
        let jobs = sqlx::query_as!(
            PlatformJob,
            "select name, last_started_at, last_finished_at, last_done, last_error, runs from tenantry.jobs order by name"
        )
        .fetch_all(tx.conn())
        .await?;
        tx.commit().await?;
        Ok(jobs)
    }
}
