//! What the API shows of flags.

use async_graphql::{ComplexObject, Context, SimpleObject};
use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};

use std::sync::Arc;

use super::evaluate::{
    FlagKind, FlagOverrideSource, FlagOverrideSourceFilter, FlagReason, FlagRolloutUnit, FlagValueType, Variant,
};
use super::lifecycle::FeatureFlagStaleness;
use super::unlock::FeatureFlagUnlock;
use crate::audit::AuditLog;
use crate::error::Result;
use crate::graphql::filter::{DateTimeFilter, StringFilter};
use crate::graphql::plan::{ListArgs, Scope};
use crate::graphql::rows::Related;
use crate::graphql::session::Session;
use crate::id::{FeatureFlagOverrideId, Id, OrganizationId, UserId};
use crate::organizations::OrganizationPlan;
use crate::{entity, listing};

/// The id of the override that an organization has, or would have, of a flag: the same whenever there is one, so that the audit log
/// has one history of it.
#[must_use]
pub fn override_id(organization: OrganizationId, key: &str) -> FeatureFlagOverrideId {
    let hash = Sha256::digest([organization.uuid().as_bytes(), b"/feature-flag/".as_slice(), key.as_bytes()].concat());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    // Version 8 (RFC 9562, section 5.8): a hash of our own.
    Id::from_uuid(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

entity! {
    /// The override of a feature flag for the organization.
    pub struct FeatureFlagOverride("organization_feature_flags", read by OrganizationRead) {
        /// Unique id; the same again when the override is removed and set anew.
        pub id: FeatureFlagOverrideId,
        /// Key of the flag.
        pub flag_key: String,
        /// Who set it: nobody else changes it.
        pub source: FlagOverrideSource,
        /// Whether the flag is on.
        pub enabled: bool,
        /// Name of the variant while it is on; null: the weights decide.
        pub variant: Option<String>,
        /// Whether the override applies although the plan does not include the flag.
        pub exceeds_plan: bool,
        /// Expiry; null means never.
        pub expires_at: Option<DateTime<Utc>>,
        /// Reason.
        pub reason: Option<String>,
        /// Version; incremented by every change.
        pub version: i32,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    FeatureFlagOverride: FeatureFlagOverrideFilter, FeatureFlagOverrideOrder by FeatureFlagOverrideOrderField, default CreatedAt Desc;
    /// Key of the flag.
    flag_key: StringFilter;
    /// Who set it.
    source: FlagOverrideSourceFilter;
    /// Expiry.
    expires_at: DateTimeFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

impl Related for FeatureFlagOverride {}

/// The evaluation of a feature flag for the organization at this moment.
#[derive(Clone, Debug, SimpleObject)]
#[graphql(complex)]
pub struct FeatureFlag {
    /// Key, for programs.
    pub key: String,
    /// Name, for people.
    pub name: String,
    /// Description of what the flag controls.
    pub description: Option<String>,
    /// Purpose.
    pub kind: FlagKind,
    /// What its variants are.
    pub value_type: FlagValueType,
    /// Whether the flag is on.
    pub enabled: bool,
    /// The name of its variant; of a boolean flag `on` or `off`.
    pub variant: String,
    /// The value of the variant.
    pub value: serde_json::Value,
    /// Reason of the evaluation.
    pub reason: FlagReason,
    /// What would turn it on; empty when it is on, or when only a change of its definition would.
    pub unlocked_by: Vec<FeatureFlagUnlock>,
    /// The organization's override; null when it has none.
    pub r#override: Option<FeatureFlagOverride>,
    /// Id of the override, if there is one or not: `auditLogs(where: { resourceId: { eq: … } })` has all of its history.
    pub override_id: FeatureFlagOverrideId,
    /// When a program asked for it last, to a minute or so; null: never.
    pub last_evaluated_at: Option<DateTime<Utc>>,
}

#[ComplexObject]
impl FeatureFlag {
    /// What was changed about the override, newest first. For administrators.
    async fn history(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The number of changes: 0 to 100, 50 by default.")] first: Option<i64>,
    ) -> Result<Vec<Arc<AuditLog>>> {
        let session = Session::of(ctx)?;
        let tenant = session.require(<AuditLog as crate::graphql::entity::Entity>::READ).await?;
        let scope = Scope::Parent("t.resource_id", self.override_id.uuid());
        let args = ListArgs::<AuditLog> { first, after: None, last: None, before: None, filter: None, order_by: None };
        let (_, plan) = args.plan(tenant.organization_id.uuid(), scope, tenant.allowed)?;
        Ok(session.page::<AuditLog>(scope, Arc::new(plan)).await?.rows.clone())
    }
}

/// A value that a feature flag may have.
#[derive(Clone, Debug, SimpleObject)]
pub struct FeatureFlagVariant {
    /// Name.
    pub name: String,
    /// The value, of the type of the flag.
    pub value: serde_json::Value,
    /// Its share of those who have the flag on, beside the weights of the others; 0: only overrides give it.
    pub weight: f64,
}

impl From<Variant> for FeatureFlagVariant {
    fn from(Variant { name, value, weight }: Variant) -> Self {
        Self { name, value, weight }
    }
}

/// The definition of a feature flag, the same for all organizations.
#[derive(Clone, Debug, SimpleObject)]
pub struct FeatureFlagDefinition {
    /// Key, for programs; never changes.
    pub key: String,
    /// Name, for people.
    pub name: String,
    /// Description of what the flag controls.
    pub description: Option<String>,
    /// Purpose; never changes.
    pub kind: FlagKind,
    /// What the variants are; never changes.
    pub value_type: FlagValueType,
    /// The variants; empty for a boolean flag, whose variants are `on` and `off`.
    pub variants: Vec<FeatureFlagVariant>,
    /// The variant of those who have it off; null for a boolean flag.
    pub off_variant: Option<String>,
    /// Whether it is on where nothing else decides; of a kill switch: whether what it guards may run.
    pub default_enabled: bool,
    /// The cheapest plan that includes it; null: every plan does.
    pub minimum_plan: Option<OrganizationPlan>,
    /// For how many of a hundred it is on, two decimals at most; null: no rollout.
    pub rollout_percentage: Option<f64>,
    /// What the rollout and the weights of the variants count.
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
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// Time of the last change.
    pub updated_at: DateTime<Utc>,
    /// When a program asked for it last, in whichever organization, to a minute or so; null: never.
    pub last_evaluated_at: Option<DateTime<Utc>>,
    /// How many overrides of organizations are in force.
    pub overrides_in_force: i64,
    /// How many overrides have expired and are still there.
    pub overrides_expired: i64,
    /// Why it should be looked at, if there is a reason.
    pub stale_reasons: Vec<FeatureFlagStaleness>,
}

/// How often an organization asked for a feature flag.
#[derive(Clone, Debug, SimpleObject)]
pub struct FeatureFlagUsage {
    /// The organization.
    pub organization_id: OrganizationId,
    /// Its slug.
    pub organization_slug: String,
    /// Evaluations so far; written in batches, so that a crash loses some.
    pub evaluations: i64,
    /// Time of the last one.
    pub last_evaluated_at: DateTime<Utc>,
}

/// A change of the definition of a feature flag, or of what operators gave an organization.
#[derive(Clone, Debug, SimpleObject)]
pub struct FeatureFlagChange {
    /// The action: `feature_flag.update`.
    pub action: String,
    /// The operator; null: a command.
    pub user_id: Option<UserId>,
    /// Details of the change: states before and after.
    pub metadata: serde_json::Value,
    /// The id of the request, as in its response and in the server's log.
    pub request_id: Option<String>,
    /// Time of the change.
    pub created_at: DateTime<Utc>,
}
