//! The statements that read flags.

use std::sync::Arc;

use async_graphql::Context;
use chrono::{DateTime, Days, Utc};
use sqlx::types::Json;

use super::evaluate::{
    Definition, FlagKind, FlagRolloutUnit, FlagValueType, Override, Subject, TargetingKeyMissing, Variant, evaluate,
};
use super::lifecycle::{Facts, staleness};
use super::memory::Flags;
use super::model::{
    FeatureFlag, FeatureFlagChange, FeatureFlagDefinition, FeatureFlagOverride, FeatureFlagUsage, override_id,
};
use super::unlock::unlocks;
use super::validate::MAX_KEY;
use crate::access::Action;
use crate::db::{Bind, Row, SystemTx};
use crate::error::{Error, Result};
use crate::graphql::entity::Entity as _;
use crate::graphql::session::Session;
use crate::id::{FeatureFlagOverrideId, OrganizationId, UserId};
use crate::organizations::OrganizationPlan;

/// Where the columns of the override begin in [`flags_statement`].
const OVERRIDE: usize = 16;

/// Every definition, when it was asked for last, the organization's plan (`$1`) and its override.
fn flags_statement(condition: &str) -> String {
    format!(
        "select d.key, d.name, d.description, d.kind, d.value_type, d.variants, d.off_variant, d.default_enabled, d.minimum_plan,
                d.rollout_percentage, d.rollout_unit, d.starts_at, d.ends_at, u.last_evaluated_at,
                coalesce((select s.plan from tenantry.subscriptions s where s.organization_id = $1), 'FREE'), t.id, {}
           from tenantry.feature_flag_definitions d
           left join tenantry.feature_flag_usage u on u.organization_id = $1 and u.flag_key = d.key
           left join tenantry.organization_feature_flags t on t.organization_id = $1 and t.flag_key = d.key
          where {condition} order by d.key",
        FeatureFlagOverride::COLUMNS
    )
}

/// Every flag for the organization of the request, by key; one statement.
///
/// # Errors
/// [`Error::Forbidden`], or when the database cannot be reached.
pub async fn feature_flags(ctx: &Context<'_>) -> Result<Vec<FeatureFlag>> {
    read(ctx, None).await
}

/// The flag with this key for the organization of the request.
///
/// # Errors
/// As [`feature_flags`].
pub async fn feature_flag(ctx: &Context<'_>, key: &str) -> Result<Option<FeatureFlag>> {
    Ok(read(ctx, Some(key)).await?.pop())
}

async fn read(ctx: &Context<'_>, key: Option<&str>) -> Result<Vec<FeatureFlag>> {
    let session = Session::of(ctx)?;
    let shown = flags_of(session, key).await?;
    // Without, nothing is counted: what is decided comes from the database.
    if let Ok(flags) = ctx.data::<Arc<Flags>>() {
        let (organization, now) = (session.tenant().await?.organization_id, session.clock().now());
        match key {
            Some(key) if !shown.is_empty() => flags.usage.one(organization, key, now),
            Some(_) => {}
            None => flags.usage.all(organization, now),
        }
    }
    Ok(shown)
}

/// The flags of the organization of a session, or the one with this key.
pub(super) async fn flags_of(session: &Session, key: Option<&str>) -> Result<Vec<FeatureFlag>> {
    let tenant = session.require(Action::OrganizationRead).await?;
    if key.is_some_and(|key| key.len() > MAX_KEY || key.contains('\0')) {
        return Ok(Vec::new());
    }
    let now = session.clock().now();
    let tx = session.read().await?;
    let mut binds = vec![Bind::Uuid(tenant.organization_id.uuid())];
    binds.extend(key.map(|key| Bind::Text(key.to_owned())));
    let rows = tx.fetch(&flags_statement(if key.is_some() { "d.key = $2" } else { "true" }), &binds).await?;
    let organization = tenant.organization_id.uuid().to_string();
    let user = tenant.actor.uuid().to_string();
    rows.iter()
        .map(|row| {
            let subject = Subject { organization: &organization, user: Some(&user), plan: row.try_get(14)? };
            flag(row, tenant.organization_id, subject, now)
        })
        .collect()
}

fn flag(row: &Row, organization: OrganizationId, subject: Subject<'_>, now: DateTime<Utc>) -> Result<FeatureFlag> {
    let definition = Definition {
        key: row.try_get(0)?,
        kind: row.try_get(3)?,
        value_type: row.try_get(4)?,
        variants: serde_json::from_value(row.try_get(5)?).map_err(Error::internal)?,
        off_variant: row.try_get(6)?,
        default_enabled: row.try_get(7)?,
        minimum_plan: row.try_get(8)?,
        rollout_percentage: row.try_get(9)?,
        rollout_unit: row.try_get(10)?,
        starts_at: row.try_get(11)?,
        ends_at: row.try_get(12)?,
    };
    let r#override = match row.try_get::<_, Option<FeatureFlagOverrideId>>(OVERRIDE - 1)? {
        Some(_) => Some(FeatureFlagOverride::read(row, OVERRIDE)?),
        None => None,
    };
    let said = r#override.as_ref().map(Override::from);
    let found = evaluate(&definition, said.as_ref(), subject, now)
        .map_err(|TargetingKeyMissing| Error::internal("the viewer is the user"))?;
    Ok(FeatureFlag {
        name: row.try_get(1)?,
        description: row.try_get(2)?,
        kind: definition.kind,
        value_type: definition.value_type,
        enabled: found.enabled,
        variant: found.variant.to_owned(),
        reason: found.reason,
        value: found.value.into_owned(),
        unlocked_by: unlocks(&definition, said.as_ref(), subject, now),
        override_id: r#override.as_ref().map_or_else(|| override_id(organization, &definition.key), |o| o.id),
        r#override,
        last_evaluated_at: row.try_get(13)?,
        key: definition.key,
    })
}

impl From<&FeatureFlagOverride> for Override {
    fn from(row: &FeatureFlagOverride) -> Self {
        Self {
            source: row.source,
            enabled: row.enabled,
            variant: row.variant.clone(),
            exceeds_plan: row.exceeds_plan,
            expires_at: row.expires_at,
        }
    }
}

/// Every definition, by key; `quiet` is after how many days without a change or an evaluation one counts as stale.
///
/// # Errors
/// When the database cannot be reached.
pub async fn definitions(tx: &mut SystemTx, now: DateTime<Utc>, quiet: u32) -> Result<Vec<FeatureFlagDefinition>> {
    read_definitions(tx, None, now, quiet).await
}

/// The definition with this key.
///
/// # Errors
/// When the database cannot be reached.
pub async fn definition(
    tx: &mut SystemTx,
    key: &str,
    now: DateTime<Utc>,
    quiet: u32,
) -> Result<Option<FeatureFlagDefinition>> {
    Ok(read_definitions(tx, Some(printable(key)), now, quiet).await?.pop())
}

/// A definition and its use, as the database has them.
struct DefinitionRow {
    key: String,
    name: String,
    description: Option<String>,
    kind: FlagKind,
    value_type: FlagValueType,
    variants: Json<Vec<Variant>>,
    off_variant: Option<String>,
    default_enabled: bool,
    minimum_plan: Option<OrganizationPlan>,
    rollout_percentage: Option<f64>,
    rollout_unit: FlagRolloutUnit,
    starts_at: Option<DateTime<Utc>>,
    ends_at: Option<DateTime<Utc>>,
    owner: Option<String>,
    stale_after: Option<DateTime<Utc>>,
    version: i32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    last_evaluated_at: Option<DateTime<Utc>>,
    turns_on: i64,
    turns_off: i64,
    expired: i64,
    expired_since: Option<DateTime<Utc>>,
}

impl DefinitionRow {
    fn facts(&self) -> Facts {
        Facts {
            kind: self.kind,
            default_enabled: self.default_enabled,
            has_minimum_plan: self.minimum_plan.is_some(),
            rollout_percentage: self.rollout_percentage,
            weighed: self.variants.iter().filter(|variant| variant.weight > 0.0).count(),
            starts_at: self.starts_at,
            ends_at: self.ends_at,
            stale_after: self.stale_after,
            created_at: self.created_at,
            updated_at: self.updated_at,
            last_evaluated_at: self.last_evaluated_at,
            turned: (self.turns_on, self.turns_off),
            expired_since: self.expired_since,
        }
    }

    fn shown(self, now: DateTime<Utc>, quiet: Days) -> FeatureFlagDefinition {
        FeatureFlagDefinition {
            stale_reasons: staleness(&self.facts(), now, quiet),
            key: self.key,
            name: self.name,
            description: self.description,
            kind: self.kind,
            value_type: self.value_type,
            variants: self.variants.0.into_iter().map(Into::into).collect(),
            off_variant: self.off_variant,
            default_enabled: self.default_enabled,
            minimum_plan: self.minimum_plan,
            rollout_percentage: self.rollout_percentage,
            rollout_unit: self.rollout_unit,
            starts_at: self.starts_at,
            ends_at: self.ends_at,
            owner: self.owner,
            stale_after: self.stale_after,
            version: self.version,
            created_at: self.created_at,
            updated_at: self.updated_at,
            last_evaluated_at: self.last_evaluated_at,
            overrides_in_force: self.turns_on + self.turns_off,
            overrides_expired: self.expired,
        }
    }
}

async fn read_definitions(
    tx: &mut SystemTx,
    key: Option<&str>,
    now: DateTime<Utc>,
    quiet: u32,
) -> Result<Vec<FeatureFlagDefinition>> {
    let rows = sqlx::query_as!(
        DefinitionRow,
        r#"select d.key, d.name, d.description, d.kind as "kind: FlagKind", d.value_type as "value_type: FlagValueType",
                  d.variants as "variants: Json<Vec<Variant>>", d.off_variant, d.default_enabled,
                  d.minimum_plan as "minimum_plan: OrganizationPlan", d.rollout_percentage,
                  d.rollout_unit as "rollout_unit: FlagRolloutUnit", d.starts_at, d.ends_at, d.owner, d.stale_after, d.version,
                  d.created_at, d.updated_at, u.last_evaluated_at as "last_evaluated_at?", o.turns_on as "turns_on!",
                  o.turns_off as "turns_off!", o.expired as "expired!", o.expired_since as "expired_since?"
             from tenantry.feature_flag_definitions d
             left join lateral (select max(u.last_evaluated_at) as last_evaluated_at
                                  from tenantry.feature_flag_usage u where u.flag_key = d.key) u on true
             left join lateral (select count(*) filter (where o.enabled and (o.expires_at is null or o.expires_at > $2)) as turns_on,
                                       count(*) filter (where not o.enabled and (o.expires_at is null or o.expires_at > $2)) as turns_off,
                                       count(*) filter (where o.expires_at <= $2) as expired,
                                       min(o.expires_at) filter (where o.expires_at <= $2) as expired_since
                                  from tenantry.organization_feature_flags o where o.flag_key = d.key) o on true
            where $1::text is null or d.key = $1 order by d.key"#,
        key,
        now
    )
    .fetch_all(tx.conn())
    .await?;
    let quiet = Days::new(quiet.into());
    Ok(rows.into_iter().map(|row| row.shown(now, quiet)).collect())
}

/// Most rows of [`usage`] and [`changes`].
const MAX_ROWS: i64 = 100;
/// Their number, unless said.
const ROWS: i64 = 50;

/// Checks `first`.
fn limit(first: Option<i64>) -> Result<i64> {
    let first = first.unwrap_or(ROWS);
    if (0..=MAX_ROWS).contains(&first) {
        return Ok(first);
    }
    Err(Error::invalid("first", format!("`first` takes 0 to {MAX_ROWS}.")))
}

/// Which organizations asked for a flag, the last one first; `before`: only those that asked before this time.
///
/// # Errors
/// [`Error::Invalid`] for another `first` than 0 to 100.
pub async fn usage(
    tx: &mut SystemTx,
    key: &str,
    first: Option<i64>,
    before: Option<DateTime<Utc>>,
) -> Result<Vec<FeatureFlagUsage>> {
    Ok(sqlx::query_as!(
        FeatureFlagUsage,
        r#"select u.organization_id as "organization_id: OrganizationId", o.slug as organization_slug, u.evaluations, u.last_evaluated_at
             from tenantry.feature_flag_usage u join tenantry.organizations o on o.id = u.organization_id
            where u.flag_key = $1 and u.last_evaluated_at < coalesce($2, 'infinity'::timestamptz)
            order by u.last_evaluated_at desc, u.organization_id limit $3"#,
        printable(key),
        before,
        limit(first)?
    )
    .fetch_all(tx.conn())
    .await?)
}

/// What operators changed about a flag, newest first; `before`: only what was before this time.
///
/// # Errors
/// [`Error::Invalid`] for another `first` than 0 to 100.
pub async fn changes(
    tx: &mut SystemTx,
    key: &str,
    first: Option<i64>,
    before: Option<DateTime<Utc>>,
) -> Result<Vec<FeatureFlagChange>> {
    Ok(sqlx::query_as!(
        FeatureFlagChange,
        r#"select a.action, a.user_id as "user_id: UserId", a.metadata, a.request_id, a.created_at
             from tenantry.platform_audit_logs a
            where a.action like 'feature\_flag.%' and a.metadata ->> 'key' = $1
              and a.created_at < coalesce($2, 'infinity'::timestamptz)
            order by a.created_at desc, a.id desc limit $3"#,
        printable(key),
        before,
        limit(first)?
    )
    .fetch_all(tx.conn())
    .await?)
}

/// A key as the database takes it; what no key is finds nothing.
fn printable(key: &str) -> &str {
    if key.len() > MAX_KEY || key.contains('\0') { "" } else { key }
}
