//! Feature flags: global definitions, overrides by organization, and how one becomes a decision.

mod evaluate;

use async_graphql::{Context, SimpleObject};
use chrono::{DateTime, Utc};

pub use evaluate::{
    Definition, FlagKind, FlagKindFilter, FlagReason, FlagRolloutUnit, FlagRolloutUnitFilter, Override, Subject,
    evaluate,
};

use crate::access::Action;
use crate::error::Result;
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

/// Every flag for the organization of the request, by key; one statement.
pub async fn feature_flags(ctx: &Context<'_>) -> Result<Vec<FeatureFlag>> {
    let session = Session::of(ctx)?;
    let tenant = session.require(Action::OrganizationRead).await?;
    let now = session.clock().now();
    let mut tx = session.read().await?;
    let rows = sqlx::query!(
        r#"select d.key, d.name, d.description, d.kind as "kind: FlagKind", d.default_enabled,
                  d.minimum_plan as "minimum_plan: OrganizationPlan", d.rollout_percentage,
                  d.rollout_unit as "rollout_unit: FlagRolloutUnit", d.starts_at, d.ends_at,
                  o.enabled as "override_enabled?", o.exceeds_plan as "exceeds_plan?", o.expires_at as "expires_at?", o.reason as "reason?",
                  coalesce((select s.plan from tenantry.subscriptions s where s.organization_id = $1), 'FREE') as "plan!: OrganizationPlan"
             from tenantry.feature_flag_definitions d
             left join tenantry.organization_feature_flags o on o.organization_id = $1 and o.flag_key = d.key
            order by d.key"#,
        tenant.organization_id as _
    )
    .fetch_all(tx.conn())
    .await?;
    let organization = tenant.organization_id.uuid().to_string();
    let user = tenant.user_id.uuid().to_string();
    Ok(rows
        .into_iter()
        .map(|row| {
            let definition = Definition {
                key: row.key,
                kind: row.kind,
                default_enabled: row.default_enabled,
                minimum_plan: row.minimum_plan,
                rollout_percentage: row.rollout_percentage,
                rollout_unit: row.rollout_unit,
                starts_at: row.starts_at,
                ends_at: row.ends_at,
            };
            let r#override = row.override_enabled.map(|enabled| FeatureFlagOverride {
                enabled,
                exceeds_plan: row.exceeds_plan.unwrap_or(false),
                expires_at: row.expires_at,
                reason: row.reason,
            });
            let said = r#override.as_ref().map(|o| Override {
                enabled: o.enabled,
                exceeds_plan: o.exceeds_plan,
                expires_at: o.expires_at,
            });
            let subject = Subject { organization: &organization, user: &user, plan: row.plan };
            let (enabled, reason) = evaluate(&definition, said, subject, now);
            FeatureFlag {
                key: definition.key,
                name: row.name,
                description: row.description,
                kind: row.kind,
                enabled,
                reason,
                r#override,
            }
        })
        .collect())
}
