//! Feature flags: global definitions, overrides by organization, and how one becomes a decision.

pub mod admission;
mod evaluate;
mod memory;
pub mod snapshot;
mod subscription;
mod usage;

use std::sync::Arc;

use async_graphql::{Context, SimpleObject};
use chrono::{DateTime, Utc};

pub use evaluate::{
    Definition, Evaluation, FlagKind, FlagKindFilter, FlagOverrideSource, FlagOverrideSourceFilter, FlagReason,
    FlagRolloutUnit, FlagRolloutUnitFilter, FlagValueType, FlagValueTypeFilter, OFF, ON, Override, Subject,
    TargetingKeyMissing, Variant, evaluate,
};

pub use memory::{Flags, STALE, forget_changes};
pub use snapshot::{Etag, Snapshot};
pub use subscription::FlagSubscription;

use crate::access::Action;
use crate::db::{Bind, SystemTx};
use crate::error::{Error, Result};
use crate::graphql::session::Session;
use crate::organizations::OrganizationPlan;

/// The evaluation of a feature flag for the organization at this moment.
#[derive(Clone, Debug, SimpleObject)]
pub struct FeatureFlag {
    /// Key, for programs.
    pub key: String,
    /// Name, for people.
    pub name: String,
    /// Description of what the flag controls.
    pub description: Option<String>,
    /// Purpose.
    pub kind: FlagKind,
    /// Whether the flag is on.
    pub enabled: bool,
    /// The name of its variant; of a boolean flag `on` or `off`.
    pub variant: String,
    /// The value of the variant.
    pub value: serde_json::Value,
    /// Reason of the evaluation.
    pub reason: FlagReason,
    /// The organization's override; null when it has none.
    pub r#override: Option<FeatureFlagOverride>,
}

/// The override of a feature flag by an organization.
#[derive(Clone, Debug, SimpleObject)]
pub struct FeatureFlagOverride {
    /// Value.
    pub enabled: bool,
    /// Whether the override applies although the plan does not include the flag.
    pub exceeds_plan: bool,
    /// Expiry; null means never.
    pub expires_at: Option<DateTime<Utc>>,
    /// Reason.
    pub reason: Option<String>,
}

/// The definition of a feature flag, the same for all organizations.
#[derive(Clone, Debug, SimpleObject)]
pub struct FeatureFlagDefinition {
    /// Key, for programs.
    pub key: String,
    /// Name, for people.
    pub name: String,
    /// Description of what the flag controls.
    pub description: Option<String>,
    /// Purpose.
    pub kind: FlagKind,
    /// Its value where nothing else decides.
    pub default_enabled: bool,
    /// The cheapest plan that includes it; null: every plan does.
    pub minimum_plan: Option<OrganizationPlan>,
    /// For how many of a hundred it is on; null: no rollout.
    pub rollout_percentage: Option<f64>,
    /// What the rollout counts.
    pub rollout_unit: FlagRolloutUnit,
    /// Before this moment it is off.
    pub starts_at: Option<DateTime<Utc>>,
    /// From this moment on it is off.
    pub ends_at: Option<DateTime<Utc>>,
    /// Who looks after it.
    pub owner: Option<String>,
    /// When somebody should ask whether it is still needed.
    pub stale_after: Option<DateTime<Utc>>,
    /// Version; incremented by every change.
    pub version: i32,
}

/// Every definition, by key.
///
/// # Errors
/// When the database cannot be reached.
pub async fn definitions(tx: &mut SystemTx) -> Result<Vec<FeatureFlagDefinition>> {
    Ok(sqlx::query_as!(
        FeatureFlagDefinition,
        r#"select key, name, description, kind as "kind: FlagKind", default_enabled, minimum_plan as "minimum_plan: OrganizationPlan",
                  rollout_percentage, rollout_unit as "rollout_unit: FlagRolloutUnit", starts_at, ends_at, owner, stale_after, version
             from tenantry.feature_flag_definitions order by key"#
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Every flag for the organization of the request, by key; one statement.
pub async fn feature_flags(ctx: &Context<'_>) -> Result<Vec<FeatureFlag>> {
    let session = Session::of(ctx)?;
    let shown = flags_of(session).await?;
    // Without, nothing is counted: what is decided comes from the database.
    if let Ok(flags) = ctx.data::<Arc<Flags>>() {
        flags.usage.all(session.tenant().await?.organization_id, session.clock().now());
    }
    Ok(shown)
}

/// Every flag for the organization of the session, by key; one statement.
async fn flags_of(session: &Session) -> Result<Vec<FeatureFlag>> {
    let tenant = session.require(Action::OrganizationRead).await?;
    let now = session.clock().now();
    let tx = session.read().await?;
    let rows = tx.fetch(FLAGS, &[Bind::Uuid(tenant.organization_id.uuid())]).await?;
    let organization = tenant.organization_id.uuid().to_string();
    let user = tenant.actor.uuid().to_string();
    rows.iter()
        .map(|row| {
            let definition = Definition {
                key: row.try_get(0)?,
                kind: row.try_get(3)?,
                value_type: row.try_get(15)?,
                variants: variants(row.try_get(16)?)?,
                off_variant: row.try_get(17)?,
                default_enabled: row.try_get(4)?,
                minimum_plan: row.try_get(5)?,
                rollout_percentage: row.try_get(6)?,
                rollout_unit: row.try_get(7)?,
                starts_at: row.try_get(8)?,
                ends_at: row.try_get(9)?,
            };
            let r#override = match row.try_get(10)? {
                Some(enabled) => Some(FeatureFlagOverride {
                    enabled,
                    exceeds_plan: row.try_get(11)?,
                    expires_at: row.try_get(12)?,
                    reason: row.try_get(13)?,
                }),
                None => None,
            };
            let said = match &r#override {
                Some(o) => Some(Override {
                    source: row.try_get(18)?,
                    enabled: o.enabled,
                    variant: row.try_get(19)?,
                    exceeds_plan: o.exceeds_plan,
                    expires_at: o.expires_at,
                }),
                None => None,
            };
            let subject = Subject { organization: &organization, user: Some(&user), plan: row.try_get(14)? };
            let evaluation = evaluate(&definition, said.as_ref(), subject, now)
                .map_err(|TargetingKeyMissing| Error::internal("the viewer is the user"))?;
            let (enabled, reason) = (evaluation.enabled, evaluation.reason);
            let (variant, value) = (evaluation.variant.to_owned(), evaluation.value.into_owned());
            Ok(FeatureFlag {
                key: definition.key,
                name: row.try_get(1)?,
                description: row.try_get(2)?,
                kind: definition.kind,
                enabled,
                variant,
                value,
                reason,
                r#override,
            })
        })
        .collect()
}

/// Every definition, the organization's override (`$1`) and its plan.
const FLAGS: &str = "
    select d.key, d.name, d.description, d.kind, d.default_enabled, d.minimum_plan, d.rollout_percentage, d.rollout_unit,
           d.starts_at, d.ends_at, o.enabled, o.exceeds_plan, o.expires_at, o.reason,
           coalesce((select s.plan from tenantry.subscriptions s where s.organization_id = $1), 'FREE'),
           d.value_type, d.variants, d.off_variant, o.source, o.variant
      from tenantry.feature_flag_definitions d
      left join tenantry.organization_feature_flags o on o.organization_id = $1 and o.flag_key = d.key
     order by d.key";

/// The variants of a definition as the column has them.
fn variants(column: serde_json::Value) -> Result<Vec<Variant>> {
    serde_json::from_value(column).map_err(Error::internal)
}
