//! The end of an organization: suspended by an operator, deleted by an owner, restored, and removed for good.
//!
//! Invariants: a deleted organization is gone for everybody at once, and whole until its holdback ends; afterwards a job removes its
//! rows in small steps, any of which may be the last that a worker does. What stays is a row without a name and the audit log, which
//! is append-only: it ends with its months.

use async_graphql::{InputObject, SimpleObject};
use chrono::{DateTime, Duration, Utc};
use serde_json::json;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::access::{Action, Bearer, IdentitySource};
use crate::clock::Clock;
use crate::db::{Admission, Bind, Db, Lane, SystemTx, TenantTx, binds_of, refuse};
use crate::error::{Error, Result};
use crate::events::{self, Event};
use crate::graphql::mutation::{Done, Mutation, UserError, UserErrorCode, VerbError, VerbResult, Work};
use crate::graphql::session::Session;
use crate::id::{OrganizationId, marker};
use crate::members::{OrganizationSummary, ViewerMembership};
use crate::organizations::lock_organization;
use crate::platform;
use crate::trail::{self, AuditEntry};
use crate::turns;

/// How long a deleted organization can be restored.
const HOLDBACK: Duration = Duration::days(30);
/// Rows that are removed in one transaction.
const BATCH: i64 = 2000;
/// Rows of an organization after which another one has its turn.
const TURN: u64 = 10_000;

pub(super) const RESTORED: &str = "organization.restore";
pub(super) const SUSPENDED: &str = "organization.suspend";
pub(super) const REACTIVATED: &str = "organization.reactivate";

/// The organization of the request, to be deleted.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationDeleteInput {
    /// The slug of the organization, as a confirmation.
    pub slug: String,
}

/// The organization to restore.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationRestoreInput {
    /// One of `viewer.restorableOrganizations`.
    pub organization_id: OrganizationId,
}

/// The organization to suspend.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationSuspendInput {
    /// The organization.
    pub organization_id: OrganizationId,
    /// Why, as its members will read it: 1 to 500 characters.
    pub reason: String,
}

/// The organization whose suspension ends.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationReactivateInput {
    /// The organization.
    pub organization_id: OrganizationId,
}

/// The result of `organizationDelete`.
#[derive(Debug, SimpleObject)]
pub struct OrganizationDeletePayload {
    /// The id of the deleted organization; null when there are errors. For 30 days its owners find it in
    /// `viewer.restorableOrganizations`.
    pub organization_id: Option<OrganizationId>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `organizationRestore`.
#[derive(Debug, SimpleObject)]
pub struct OrganizationRestorePayload {
    /// The viewer's membership in the organization, which is as it was; null when there are errors.
    pub membership: Option<ViewerMembership>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `organizationSuspend` and `organizationReactivate`.
#[derive(Debug, SimpleObject)]
pub struct OrganizationSuspensionPayload {
    /// Since when the organization is suspended; null when it is not, or there are errors.
    pub suspended_at: Option<DateTime<Utc>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// A deleted organization that its owner can restore.
#[derive(Clone, Debug, SimpleObject)]
pub struct RestorableOrganization {
    /// Id, for `organizationRestore`.
    pub id: OrganizationId,
    /// Name.
    pub name: String,
    /// Slug.
    pub slug: String,
    /// Until when it can be restored; then its rows are removed.
    pub restorable_until: DateTime<Utc>,
}

impl Mutation for OrganizationDeleteInput {
    type Row = marker::Organization;
    const FIELD: &'static str = "organizationDelete";
    const ACTION: Action = Action::OrganizationDelete;
    const AUDIT: &'static str = "organization.delete";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let known_to_clerk = lock_organization(work.tx).await?;
        if known_to_clerk && work.identity_source == IdentitySource::Clerk {
            let message = "Clerk decides about this organization: delete it there, and it goes here.";
            return Err(VerbError::of_input(UserErrorCode::ManagedElsewhere, message));
        }
        let organization = work.tenant().organization_id;
        let own = sqlx::query!(
            r#"select o.slug, exists (select from tenantry.subscriptions s
                                       where s.organization_id = o.id and s.stripe_subscription_id is not null
                                         and s.status in ('TRIALING', 'ACTIVE', 'PAST_DUE', 'UNPAID', 'PAUSED')) as "is_paid_for!"
                 from tenantry.organizations o where o.id = $1"#,
            organization as _
        )
        .fetch_one(work.tx.conn())
        .await?;
        if own.slug != self.slug.trim() {
            let message = format!("To delete this organization, give its slug: `{}`.", own.slug);
            return Err(VerbError::user("slug", UserErrorCode::Invalid, message));
        }
        if own.is_paid_for {
            let message =
                "The organization has a subscription that is not canceled: cancel it first, or it is paid for nothing.";
            return Err(VerbError::of_input(UserErrorCode::Conflict, message));
        }
        let purge_at = work.now + HOLDBACK;
        sqlx::query!(
            "update tenantry.organizations set deleted_at = $2, purge_at = $3 where id = $1",
            organization as _,
            work.now,
            purge_at
        )
        .execute(work.tx.conn())
        .await?;
        let audit = json!({ "before": { "slug": own.slug }, "after": { "restorableUntil": purge_at } });
        Ok(Done { id: organization, audit, event: Some(Event::access(None)) })
    }
}

/// Takes back a deletion; the inner error is the caller's to mend.
pub(super) async fn restore(session: &Session, id: OrganizationId) -> VerbResult<ViewerMembership> {
    let (bearer, services) = (session.bearer().await?, session.services());
    if session.is_restricted() {
        return Err(Error::ImpersonationRestricted { action: Action::OrganizationDelete.label() }.into());
    }
    let now = session.clock().now();
    let refused = |code, message| Err(VerbError::user("organizationId", code, message));
    let admission =
        TenantTx::begin_by_restoration(&services.db, bearer, id.uuid(), now, session.traffic_shared()).await?;
    let (mut tx, organization) = match admission {
        Admission::Joined { tx, name, slug, clerk_org_id, .. } => {
            (tx, OrganizationSummary { id, name, slug, clerk_org_id })
        }
        Admission::Refused(outcome) if outcome == "NO_ACCOUNT" => return Ok(refuse(&services.db, bearer).await?),
        Admission::Refused(outcome) if outcome == "TOO_LATE" => {
            return refused(UserErrorCode::Expired, "It is too late: the organization's rows are being removed.");
        }
        Admission::Refused(_) => {
            let message = "You own no deleted organization with this id: `viewer.restorableOrganizations` has those.";
            return refused(UserErrorCode::NotFound, message);
        }
    };
    let role = tx.tenant().role;
    let entry = AuditEntry::of(RESTORED, id, json!({}));
    trail::record(&mut tx, session.clock(), session.origin(), &entry).await?;
    tx.commit().await?;
    Ok(ViewerMembership { organization, role })
}

/// The deleted organizations that the bearer owns and can restore.
///
/// # Errors
/// When the database cannot be reached.
pub async fn restorable(db: &Db, bearer: Bearer<'_>, now: DateTime<Utc>) -> Result<Vec<RestorableOrganization>> {
    let Some([subject, session]) = binds_of(bearer) else { return Ok(Vec::new()) };
    let sql = "select id, name, slug, purge_at from tenantry.restorable_organizations($1, $2, $3)";
    let rows = db.read_alone(Lane::person(bearer.subject), sql, &[subject, session, Bind::Time(now)]).await?;
    rows.iter()
        .map(|row| {
            let (id, restorable_until) = (row.try_get(0)?, row.try_get(3)?);
            Ok(RestorableOrganization { id, name: row.try_get(1)?, slug: row.try_get(2)?, restorable_until })
        })
        .collect()
}

/// Suspends an organization, or ends that, in a transaction of the platform. Its members read why.
///
/// # Errors
/// When the database cannot be reached; the inner error is the caller's to mend.
pub async fn suspend(
    mut tx: SystemTx,
    session: &Session,
    id: OrganizationId,
    reason: Option<&str>,
) -> VerbResult<Option<DateTime<Utc>>> {
    let reason = reason.map(str::trim);
    if reason.is_some_and(|reason| reason.is_empty() || reason.chars().count() > 500 || reason.contains('\0')) {
        return Err(VerbError::user("reason", UserErrorCode::Invalid, "`reason` takes 1 to 500 characters."));
    }
    let now = session.clock().now();
    let changed = sqlx::query!(
        "update tenantry.organizations set suspended_at = case when $2::text is null then null else coalesce(suspended_at, $3) end, suspension_reason = $2
          where id = $1 and deleted_at is null returning suspended_at",
        id as _,
        reason,
        now
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(changed) = changed else {
        let message = "There is no such organization.";
        return Err(VerbError::user("organizationId", UserErrorCode::NotFound, message));
    };
    let action = if reason.is_some() { SUSPENDED } else { REACTIVATED };
    let entry = AuditEntry::of(action, id, json!({ "after": { "reason": reason } }));
    trail::record_of_operator(&mut tx, session.clock(), platform::operator(session)?, id, &entry).await?;
    events::tell(&mut tx, &[(id, Event::of(id))]).await?;
    tx.commit().await?;
    Ok(changed.suspended_at)
}

/// Removes the rows of organizations whose holdback has ended; says how many.
///
/// # Errors
/// As [`turns::by_organization`].
pub async fn purge_due(db: &Db, clock: &Clock) -> Result<u64> {
    turns::by_organization(
        db,
        "organizations",
        |tx, after| Box::pin(organizations_to_purge(tx, after, clock.now())),
        |organization| purge_some(db, clock, organization),
    )
    .await
}

async fn organizations_to_purge(
    tx: &mut SystemTx,
    after: OrganizationId,
    now: DateTime<Utc>,
) -> Result<Vec<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select id as "id: OrganizationId" from tenantry.organizations
            where purge_at <= $1 and purged_at is null and id > $2 order by id limit $3"#,
        now,
        after as _,
        turns::PAGE
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Removes some rows of one organization: table by table, those that others refer to after these. When none is left, the
/// organization is only a name that stands for one that was.
async fn purge_some(db: &Db, clock: &Clock, organization: OrganizationId) -> Result<u64> {
    let (mut removed, tables) = take_away_keys(db, clock, organization).await?;
    loop {
        let before = removed;
        for table in &tables {
            loop {
                let some = remove_some(db, table, organization.uuid()).await?;
                removed += some;
                if removed >= TURN {
                    return Ok(removed);
                }
                if i64::try_from(some).is_ok_and(|some| some < BATCH) {
                    break;
                }
            }
        }
        // A round that removes nothing: nothing is left.
        if removed == before {
            break;
        }
    }
    let mut tx = SystemTx::begin(db).await?;
    let purged = sqlx::query!(
        "update tenantry.organizations
            set name = 'Removed organization', slug = 'removed-' || replace(id::text, '-', ''), clerk_org_id = null, industry = null,
                support_email = null, settings = '{}', suspended_at = null, suspension_reason = null, purged_at = $2
          where id = $1 and purged_at is null",
        organization as _,
        clock.now()
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if purged > 0 {
        trail::record_of_system(
            &mut tx,
            clock,
            organization,
            &AuditEntry::of("organization.purge", organization, json!({})),
        )
        .await?;
        tracing::info!(%organization, "an organization was removed for good");
    }
    tx.commit().await?;
    Ok(removed)
}

/// What people were doing here is over, and keys that the log names stay without what they were for. Says how many keys went,
/// and which tables have rows of organizations.
async fn take_away_keys(db: &Db, clock: &Clock, organization: OrganizationId) -> Result<(u64, Vec<String>)> {
    let mut tx = SystemTx::begin(db).await?;
    sqlx::query!(
        "update tenantry.users set current_organization_id = null where current_organization_id = $1",
        organization as _
    )
    .execute(tx.conn())
    .await?;
    sqlx::query!(
        "update tenantry.api_keys
            set name = 'Removed', prefix = left('gone' || replace(id::text, '-', ''), 32), key_hash = sha256(uuid_send(gen_random_uuid())),
                revoked_at = coalesce(revoked_at, $2), created_by = null, rotated_from = null
          where organization_id = $1",
        organization as _,
        clock.now()
    )
    .execute(tx.conn())
    .await?;
    let removed = sqlx::query!(
        "delete from tenantry.api_keys k where k.organization_id = $1
            and not exists (select from tenantry.audit_logs a where a.organization_id = k.organization_id and a.api_key_id = k.id)",
        organization as _
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('tenantry.%I', c.relname) from pg_class c
           join pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped
          where c.relnamespace = 'tenantry'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
            and c.relname not in ('audit_logs', 'audit_seals', 'audit_unsealed', 'audit_horizons', 'api_keys') and c.relname not like 'adopt\\_%'
          order by 1",
    )
    .fetch_all(tx.conn())
    .await?;
    tx.commit().await?;
    Ok((removed, tables))
}

/// Removes some rows of a table; none while others refer to one of them.
async fn remove_some(db: &Db, table: &str, organization: Uuid) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let sql = format!(
        "delete from {table} where ctid in (select ctid from {table} where organization_id = $1 limit {BATCH})"
    );
    match sqlx::query(AssertSqlSafe(sql)).bind(organization).execute(tx.conn()).await {
        Ok(removed) => {
            tx.commit().await?;
            Ok(removed.rows_affected())
        }
        Err(sqlx::Error::Database(error)) if error.is_foreign_key_violation() => {
            tx.rollback().await?;
            Ok(0)
        }
        Err(error) => Err(error.into()),
    }
}
