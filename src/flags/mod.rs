//! Feature flags: definitions of the platform, overrides of organizations, and how both become a decision.
//!
//! Invariants: only operators change definitions, and each change leaves a row in `platform_audit_logs`; an organization has one
//! override of a flag at most, and its administrators change their own only, never that of an operator or of Stripe; nothing is on
//! above the plan unless an operator or Stripe said so (`exceeds_plan`). A definition never contradicts itself or a living override.

pub mod admission;
mod definitions;
mod evaluate;
mod graphql;
mod lifecycle;
mod memory;
mod model;
mod overrides;
#[cfg(test)]
mod properties;
pub mod snapshot;
mod sql;
mod subscription;
mod unlock;
mod usage;
mod validate;

pub use definitions::{
    FeatureFlagCreateInput, FeatureFlagDeleteInput, FeatureFlagKillInput, FeatureFlagReviveInput,
    FeatureFlagUpdateInput, FeatureFlagVariantInput,
};
pub use evaluate::{
    Definition, Evaluation, FlagKind, FlagKindFilter, FlagOverrideSource, FlagOverrideSourceFilter, FlagReason,
    FlagRolloutUnit, FlagRolloutUnitFilter, FlagValueType, FlagValueTypeFilter, OFF, ON, Override, Subject,
    TargetingKeyMissing, Variant, evaluate,
};
pub use graphql::{FlagMutation, MUTATIONS};
pub use lifecycle::{FeatureFlagStaleReason, FeatureFlagStaleness, QUIET_DAYS};
pub use memory::{Flags, STALE, forget_changes};
pub use model::{
    FeatureFlag, FeatureFlagChange, FeatureFlagDefinition, FeatureFlagOverride, FeatureFlagUsage, FeatureFlagVariant,
    override_id,
};
pub use overrides::{
    FeatureFlagGrantRemoveInput, FeatureFlagGrantSetInput, FeatureFlagOverrideRemoveInput, FeatureFlagOverrideSetInput,
};
pub use snapshot::{Etag, Snapshot};
pub use sql::{changes, definition, definitions, feature_flag, feature_flags, usage};
pub use subscription::FlagSubscription;
pub use unlock::{FeatureFlagUnlock, FeatureFlagUnlockKind, unlocks};
