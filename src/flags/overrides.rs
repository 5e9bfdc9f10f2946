//! Overrides: what administrators of an organization set within its plan, and what operators grant beyond it.

use async_graphql::InputObject;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use sqlx::types::Json;

use super::definitions::lock;
use super::evaluate::{Definition, FlagKind, FlagOverrideSource, FlagRolloutUnit, FlagValueType, Variant};
use super::model::{FeatureFlagOverride, override_id};
use super::unlock::is_of_plan;
use super::validate::MAX_KEY;
use crate::access::Action;
use crate::db::Conn;
use crate::error::Result;
use crate::graphql::entity::Entity as _;
use crate::graphql::mutation::{Checks, Done, Mutation, UserErrorCode, VerbError, VerbResult, Work, check_version};
use crate::graphql::session::Session;
use crate::id::{FeatureFlagOverrideId, OrganizationId, marker};
use crate::organizations::{OrganizationPlan, lock_organization};
use crate::platform;
use crate::trail::{self, AuditEntry};

pub(super) const REMOVED: &str = "feature_flag_override.remove";
pub(super) const GRANTED: &str = "feature_flag.grant";
pub(super) const GRANT_REMOVED: &str = "feature_flag.grant_remove";

/// The override of a feature flag to set for the organization.
#[derive(Clone, Debug, InputObject)]
pub struct FeatureFlagOverrideSetInput {
    /// The flag.
    pub key: String,
    /// Whether the flag is on. On only within the plan; an entitlement only where the plan gives it anyway.
    pub enabled: bool,
    /// Name of the variant while it is on, of a release that is not boolean; without, the weights decide.
    pub variant: Option<String>,
    /// Until when it holds; without, until it is removed.
    pub expires_at: Option<DateTime<Utc>>,
    /// Why: at most 2,000 characters.
    pub reason: Option<String>,
    /// The version of the override that the change is based on; another current version, or none, gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The override of a feature flag to remove.
#[derive(Clone, Debug, InputObject)]
pub struct FeatureFlagOverrideRemoveInput {
    /// The flag.
    pub key: String,
    /// The version of the override that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// What an operator gives an organization, or keeps from it.
#[derive(Clone, Debug, InputObject)]
pub struct FeatureFlagGrantSetInput {
    /// The organization.
    pub organization_id: OrganizationId,
    /// The flag.
    pub key: String,
    /// Whether the flag is on; true by default. A kill switch can only be turned off.
    pub enabled: Option<bool>,
    /// Name of the variant while it is on, of a flag that is not boolean; without, the weights decide.
    pub variant: Option<String>,
    /// Whether it applies although the plan does not include the flag; true by default.
    pub exceeds_plan: Option<bool>,
    /// Until when it holds; without, until it is removed.
    pub expires_at: Option<DateTime<Utc>>,
    /// Why, for the organization to read: 1 to 2,000 characters.
    pub reason: String,
    /// The version of the override that the change is based on; another current version, or none, gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The grant to take back.
#[derive(Clone, Debug, InputObject)]
pub struct FeatureFlagGrantRemoveInput {
    /// The organization.
    pub organization_id: OrganizationId,
    /// The flag.
    pub key: String,
}

/// A flag and what the organization has of it, locked until the transaction ends.
struct Known {
    definition: Definition,
    plan: OrganizationPlan,
    existing: Option<Existing>,
}

/// The override that there is.
struct Existing {
    id: FeatureFlagOverrideId,
    source: FlagOverrideSource,
    enabled: bool,
    variant: Option<String>,
    exceeds_plan: bool,
    expires_at: Option<DateTime<Utc>>,
    version: i32,
}

impl Existing {
    fn state(&self) -> Value {
        state(self.source, self.enabled, self.variant.as_deref(), self.exceeds_plan, self.expires_at)
    }

    /// Refuses who may not change it: an override in force belongs to whoever set it.
    fn check_owner(&self, by: FlagOverrideSource, now: DateTime<Utc>) -> VerbResult<()> {
        let message = match self.source {
            FlagOverrideSource::Stripe => {
                "Stripe decides about it, by an entitlement of the subscription: change it there, and it changes here."
            }
            FlagOverrideSource::Grant
                if by != FlagOverrideSource::Grant && self.expires_at.is_none_or(|end| now < end) =>
            {
                "The operator of the platform has decided about it: ask them."
            }
            FlagOverrideSource::Grant | FlagOverrideSource::Organization => return Ok(()),
        };
        Err(VerbError::user("key", UserErrorCode::ManagedElsewhere, message))
    }
}

/// What the log says of an override.
fn state(
    source: FlagOverrideSource,
    enabled: bool,
    variant: Option<&str>,
    exceeds_plan: bool,
    expires_at: Option<DateTime<Utc>>,
) -> Value {
    json!({ "source": source, "enabled": enabled, "variant": variant, "exceedsPlan": exceeds_plan, "expiresAt": expires_at })
}

/// Keeps the definition as it is until the transaction ends. Before the organization is locked: whoever deletes a flag holds it and
/// writes into the logs of organizations.
async fn lock_flag(conn: &mut Conn, key: &str) -> VerbResult<()> {
    if key.len() > MAX_KEY || key.contains('\0') {
        return Err(no_flag());
    }
    Ok(lock(conn, key, true).await?)
}

fn no_flag() -> VerbError {
    VerbError::user("key", UserErrorCode::NotFound, "There is no such feature flag.")
}

/// Reads the flag and the override. The caller has locked both.
async fn known(conn: &mut Conn, organization: OrganizationId, key: &str) -> VerbResult<Known> {
    let row = sqlx::query!(
        r#"select d.kind as "kind: FlagKind", d.value_type as "value_type: FlagValueType",
                  d.variants as "variants: Json<Vec<Variant>>", d.off_variant, d.default_enabled,
                  d.minimum_plan as "minimum_plan: OrganizationPlan", d.rollout_percentage,
                  d.rollout_unit as "rollout_unit: FlagRolloutUnit", d.starts_at, d.ends_at,
                  coalesce((select s.plan from tenantry.subscriptions s where s.organization_id = $1), 'FREE') as "plan!: OrganizationPlan"
             from tenantry.feature_flag_definitions d where d.key = $2"#,
        organization as _,
        key
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or_else(no_flag)?;
    let existing = sqlx::query_as!(
        Existing,
        r#"select id as "id: FeatureFlagOverrideId", source as "source: FlagOverrideSource", enabled, variant, exceeds_plan, expires_at, version
             from tenantry.organization_feature_flags where organization_id = $1 and flag_key = $2 for update"#,
        organization as _,
        key
    )
    .fetch_optional(conn)
    .await?;
    let definition = Definition {
        key: key.to_owned(),
        kind: row.kind,
        value_type: row.value_type,
        variants: row.variants.0,
        off_variant: row.off_variant,
        default_enabled: row.default_enabled,
        minimum_plan: row.minimum_plan,
        rollout_percentage: row.rollout_percentage,
        rollout_unit: row.rollout_unit,
        starts_at: row.starts_at,
        ends_at: row.ends_at,
    };
    Ok(Known { definition, plan: row.plan, existing })
}

/// An override as it is to be.
struct Wanted<'a> {
    source: FlagOverrideSource,
    enabled: bool,
    variant: Option<&'a str>,
    exceeds_plan: bool,
    expires_at: Option<DateTime<Utc>>,
    reason: Option<&'a str>,
}

impl Wanted<'_> {
    fn state(&self) -> Value {
        state(self.source, self.enabled, self.variant, self.exceeds_plan, self.expires_at)
    }

    /// Refuses what the definition does not have.
    fn check(&self, checks: &mut Checks, definition: &Definition, now: DateTime<Utc>) {
        if self.expires_at.is_some_and(|end| end <= now) {
            checks.refuse("expiresAt", UserErrorCode::Invalid, "`expiresAt` must be in the future.");
        }
        let typed = definition.value_type != FlagValueType::Boolean;
        match self.variant {
            Some(_) if !self.enabled => {
                checks.refuse("variant", UserErrorCode::Invalid, "A variant is for a flag that is on.");
            }
            Some(_) if !typed => {
                checks.refuse("variant", UserErrorCode::Invalid, "A boolean flag has no variants to choose from.");
            }
            Some(name) if !definition.variants.iter().any(|variant| variant.name == name) => {
                checks.refuse("variant", UserErrorCode::NotFound, "The flag has no such variant.");
            }
            None if typed && self.enabled && definition.variants.iter().all(|variant| variant.weight <= 0.0) => {
                checks.refuse("variant", UserErrorCode::Blank, "No variant of the flag has a weight: name one.");
            }
            _ => {}
        }
    }

    /// Refuses what administrators may not give themselves.
    fn check_rights(&self, checks: &mut Checks, known: &Known, now: DateTime<Utc>) {
        let Known { definition, plan, .. } = known;
        if definition.kind == FlagKind::KillSwitch {
            let message = "A kill switch is the operator's, for everybody.";
            return checks.refuse("key", UserErrorCode::ManagedElsewhere, message);
        }
        if !self.enabled {
            return;
        }
        if let Some(least) = definition.minimum_plan.filter(|least| plan < least) {
            let message = format!(
                "The flag takes the plan {} or a greater one; the organization has {}.",
                least.label(),
                plan.label()
            );
            return checks.refuse("enabled", UserErrorCode::BeyondPlan, message);
        }
        if definition.kind == FlagKind::Entitlement {
            if !is_of_plan(definition, *plan, now) {
                let message = "The plan does not give this entitlement by itself: it is bought, or granted by the operator of the platform.";
                checks.refuse("enabled", UserErrorCode::BeyondPlan, message);
            }
            if self.variant.is_some() {
                let message = "Which variant of an entitlement an organization has is not its own to choose.";
                checks.refuse("variant", UserErrorCode::BeyondPlan, message);
            }
        }
    }

    /// Writes it over what there is; gives its id and what the log says.
    async fn write(
        &self,
        conn: &mut Conn,
        organization: OrganizationId,
        known: &Known,
    ) -> Result<(FeatureFlagOverrideId, Value)> {
        let key = &known.definition.key;
        let existing = known.existing.as_ref();
        let id = existing.map_or_else(|| override_id(organization, key), |existing| existing.id);
        sqlx::query!(
            "insert into tenantry.organization_feature_flags as o (organization_id, id, flag_key, source, enabled, variant, exceeds_plan, expires_at, reason)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             on conflict (organization_id, flag_key) do update
                set source = excluded.source, enabled = excluded.enabled, variant = excluded.variant, exceeds_plan = excluded.exceeds_plan,
                    expires_at = excluded.expires_at, reason = excluded.reason, version = o.version + 1",
            organization as _,
            id as _,
            key,
            self.source as _,
            self.enabled,
            self.variant,
            self.exceeds_plan,
            self.expires_at,
            self.reason
        )
        .execute(conn)
        .await?;
        let before = existing.map(Existing::state);
        Ok((id, json!({ "key": key, "before": before, "after": self.state() })))
    }
}

/// Refuses when the override is not at the version the caller has seen; one that is not there has none.
fn check_expected(expected: Option<i32>, existing: Option<&Existing>) -> VerbResult<()> {
    match existing {
        Some(existing) => check_version(expected, existing.version),
        None if expected.is_some() => {
            let message = "There is no override any more, or not yet: read the flag again and decide anew.";
            Err(VerbError::user("expectedVersion", UserErrorCode::VersionConflict, message))
        }
        None => Ok(()),
    }
}

impl Mutation for FeatureFlagOverrideSetInput {
    type Row = marker::FeatureFlagOverride;
    const FIELD: &'static str = "featureFlagOverrideSet";
    const ACTION: Action = Action::FeatureFlagWrite;
    const AUDIT: &'static str = "feature_flag_override.set";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let organization = work.tenant().organization_id;
        let now = work.now;
        lock_flag(work.tx.conn(), &self.key).await?;
        lock_organization(work.tx).await?;
        let known = known(work.tx.conn(), organization, &self.key).await?;
        check_expected(self.expected_version, known.existing.as_ref())?;
        if let Some(existing) = &known.existing {
            existing.check_owner(FlagOverrideSource::Organization, now)?;
        }
        let mut checks = Checks::default();
        let reason =
            self.reason.map(|reason| checks.text("reason", reason.trim(), 2000)).filter(|text| !text.is_empty());
        let wanted = Wanted {
            source: FlagOverrideSource::Organization,
            enabled: self.enabled,
            variant: self.variant.as_deref(),
            exceeds_plan: false,
            expires_at: self.expires_at,
            reason: reason.as_deref(),
        };
        wanted.check(&mut checks, &known.definition, now);
        wanted.check_rights(&mut checks, &known, now);
        checks.finish()?;
        let (id, audit) = wanted.write(work.tx.conn(), organization, &known).await?;
        Ok(Done { id, audit, event: None })
    }
}

impl Mutation for FeatureFlagOverrideRemoveInput {
    type Row = marker::FeatureFlagOverride;
    const FIELD: &'static str = "featureFlagOverrideRemove";
    const ACTION: Action = Action::FeatureFlagWrite;
    const AUDIT: &'static str = REMOVED;

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let organization = work.tenant().organization_id;
        lock_flag(work.tx.conn(), &self.key).await?;
        lock_organization(work.tx).await?;
        let known = known(work.tx.conn(), organization, &self.key).await?;
        check_expected(self.expected_version, known.existing.as_ref())?;
        let Some(existing) = known.existing else {
            let message = "The organization has no override of this flag.";
            return Err(VerbError::user("key", UserErrorCode::NotFound, message));
        };
        existing.check_owner(FlagOverrideSource::Organization, work.now)?;
        remove(work.tx.conn(), organization, &self.key).await?;
        Ok(Done { id: existing.id, audit: json!({ "key": self.key, "before": existing.state() }), event: None })
    }
}

async fn remove(conn: &mut Conn, organization: OrganizationId, key: &str) -> Result<()> {
    sqlx::query!(
        "delete from tenantry.organization_feature_flags where organization_id = $1 and flag_key = $2",
        organization as _,
        key
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Locks a living organization.
async fn lock_living(conn: &mut Conn, organization: OrganizationId) -> VerbResult<()> {
    let locked = sqlx::query!(
        "select from tenantry.organizations where id = $1 and deleted_at is null for update",
        organization as _
    )
    .fetch_optional(conn)
    .await?;
    let nothing = || VerbError::user("organizationId", UserErrorCode::NotFound, "There is no such organization.");
    locked.map(drop).ok_or_else(nothing)
}

/// An operator's grant: writes it in the logs of the platform and of the organization.
pub(super) async fn grant(session: &Session, input: FeatureFlagGrantSetInput) -> VerbResult<FeatureFlagOverride> {
    let mut tx = platform::admit(session).await?;
    let (organization, now) = (input.organization_id, session.clock().now());
    let conn = tx.system().conn();
    lock_flag(conn, &input.key).await?;
    lock_living(conn, organization).await?;
    let known = known(conn, organization, &input.key).await?;
    check_expected(input.expected_version, known.existing.as_ref())?;
    if let Some(existing) = &known.existing {
        existing.check_owner(FlagOverrideSource::Grant, now)?;
    }
    let mut checks = Checks::default();
    let reason = checks.required("reason", &input.reason, 2000);
    let wanted = Wanted {
        source: FlagOverrideSource::Grant,
        enabled: input.enabled.unwrap_or(true),
        variant: input.variant.as_deref(),
        exceeds_plan: input.exceeds_plan.unwrap_or(true),
        expires_at: input.expires_at,
        reason: Some(&reason),
    };
    wanted.check(&mut checks, &known.definition, now);
    if known.definition.kind == FlagKind::KillSwitch && wanted.enabled {
        let message = "A kill switch is on for everybody; for one organization it can only be turned off.";
        checks.refuse("enabled", UserErrorCode::Invalid, message);
    }
    checks.finish()?;
    let (id, metadata) = wanted.write(conn, organization, &known).await?;
    let sql = format!(
        "select {} from tenantry.organization_feature_flags t where t.organization_id = $1 and t.id = $2",
        FeatureFlagOverride::COLUMNS
    );
    let row = sqlx::query(AssertSqlSafe(sql)).bind(organization).bind(id).fetch_one(conn).await?;
    let granted = FeatureFlagOverride::decode(&row, 0)?;
    log(tx, session, (organization, id), GRANTED, metadata).await?;
    Ok(granted)
}

/// Ends an operator's grant.
pub(super) async fn end_grant(session: &Session, input: &FeatureFlagGrantRemoveInput) -> VerbResult<()> {
    let mut tx = platform::admit(session).await?;
    let organization = input.organization_id;
    let conn = tx.system().conn();
    lock_flag(conn, &input.key).await?;
    lock_living(conn, organization).await?;
    let known = known(conn, organization, &input.key).await?;
    let Some(existing) = known.existing.filter(|existing| existing.source == FlagOverrideSource::Grant) else {
        let message = "The organization has no grant of this flag.";
        return Err(VerbError::user("key", UserErrorCode::NotFound, message));
    };
    remove(conn, organization, &input.key).await?;
    let metadata = json!({ "key": input.key, "before": existing.state() });
    log(tx, session, (organization, existing.id), GRANT_REMOVED, metadata).await
}

/// Writes both logs and commits.
async fn log(
    mut tx: platform::Admitted,
    session: &Session,
    (organization, id): (OrganizationId, FeatureFlagOverrideId),
    action: &'static str,
    mut metadata: Value,
) -> VerbResult<()> {
    let entry = AuditEntry::of(action, id, metadata.clone());
    let operator = platform::operator(session)?;
    trail::record_of_operator(tx.system(), session.clock(), operator, organization, &entry).await?;
    metadata["organization"] = organization.to_string().into();
    tx.record(session, action, metadata).await?.commit().await?;
    Ok(())
}
