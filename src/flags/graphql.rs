//! The mutations of the slice.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Object, SimpleObject};

use super::definitions::{self, CREATED, DELETED, KILLED, REVIVED, UPDATED};
use super::overrides::{self, GRANT_REMOVED, GRANTED};
use super::{
    FeatureFlag, FeatureFlagCreateInput, FeatureFlagDefinition, FeatureFlagDeleteInput, FeatureFlagGrantRemoveInput,
    FeatureFlagGrantSetInput, FeatureFlagKillInput, FeatureFlagOverride, FeatureFlagOverrideRemoveInput,
    FeatureFlagOverrideSetInput, FeatureFlagReviveInput, FeatureFlagUpdateInput, feature_flag,
};
use crate::error::Result;
use crate::graphql::mutation::{self, MutationInfo, UserError, VerbResult};
use crate::graphql::session::Session;

/// What an operator of the platform does.
const fn of_platform(field: &'static str, audit: &'static str, row: &'static str) -> MutationInfo {
    MutationInfo { field, action: None, audit, row }
}

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] = &[
    of_platform("featureFlagCreate", CREATED, "FeatureFlagDefinition"),
    of_platform("featureFlagUpdate", UPDATED, "FeatureFlagDefinition"),
    of_platform("featureFlagDelete", DELETED, "FeatureFlagDefinition"),
    of_platform("featureFlagKill", KILLED, "FeatureFlagDefinition"),
    of_platform("featureFlagRevive", REVIVED, "FeatureFlagDefinition"),
    of_platform("featureFlagGrantSet", GRANTED, "FeatureFlagOverride"),
    of_platform("featureFlagGrantRemove", GRANT_REMOVED, "FeatureFlagOverride"),
    MutationInfo::of::<FeatureFlagOverrideSetInput>(),
    MutationInfo::of::<FeatureFlagOverrideRemoveInput>(),
];

/// The result of `featureFlagCreate`, `featureFlagUpdate`, `featureFlagKill` and `featureFlagRevive`.
#[derive(Debug, SimpleObject)]
pub struct FeatureFlagDefinitionPayload {
    /// The definition; null when there are errors.
    pub feature_flag_definition: Option<FeatureFlagDefinition>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `featureFlagDelete`.
#[derive(Debug, SimpleObject)]
pub struct FeatureFlagDeletePayload {
    /// How many overrides of organizations went with it; null when there are errors.
    pub removed_overrides: Option<i64>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `featureFlagGrantSet`.
#[derive(Debug, SimpleObject)]
pub struct FeatureFlagGrantSetPayload {
    /// The override of the organization; null when there are errors.
    pub feature_flag_override: Option<FeatureFlagOverride>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `featureFlagGrantRemove`.
#[derive(Debug, SimpleObject)]
pub struct FeatureFlagGrantRemovePayload {
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `featureFlagOverrideSet`.
#[derive(Debug, SimpleObject)]
#[graphql(complex)]
pub struct FeatureFlagOverrideSetPayload {
    #[graphql(skip)]
    key: Option<String>,
    /// The override; null when there are errors.
    pub feature_flag_override: Option<Arc<FeatureFlagOverride>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

#[ComplexObject]
impl FeatureFlagOverrideSetPayload {
    /// The flag as it is now; null when there are errors.
    async fn feature_flag(&self, ctx: &Context<'_>) -> Result<Option<FeatureFlag>> {
        flag_of(ctx, self.key.as_deref()).await
    }
}

/// The result of `featureFlagOverrideRemove`.
#[derive(Debug, SimpleObject)]
#[graphql(complex)]
pub struct FeatureFlagOverrideRemovePayload {
    #[graphql(skip)]
    key: Option<String>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

#[ComplexObject]
impl FeatureFlagOverrideRemovePayload {
    /// The flag as it is now; null when there are errors.
    async fn feature_flag(&self, ctx: &Context<'_>) -> Result<Option<FeatureFlag>> {
        flag_of(ctx, self.key.as_deref()).await
    }
}

async fn flag_of(ctx: &Context<'_>, key: Option<&str>) -> Result<Option<FeatureFlag>> {
    match key {
        Some(key) => feature_flag(ctx, key).await,
        None => Ok(None),
    }
}

fn definition_payload(outcome: VerbResult<FeatureFlagDefinition>) -> Result<FeatureFlagDefinitionPayload> {
    let (feature_flag_definition, user_errors) = mutation::outcome(outcome)?;
    Ok(FeatureFlagDefinitionPayload { feature_flag_definition, user_errors })
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct FlagMutation;

#[Object]
impl FlagMutation {
    /// Defines a feature flag for all organizations. For superadmins.
    async fn feature_flag_create(
        &self,
        ctx: &Context<'_>,
        input: FeatureFlagCreateInput,
    ) -> Result<FeatureFlagDefinitionPayload> {
        definition_payload(definitions::create(Session::of(ctx)?, input).await)
    }

    /// Changes the definition of a feature flag. For superadmins.
    async fn feature_flag_update(
        &self,
        ctx: &Context<'_>,
        input: FeatureFlagUpdateInput,
    ) -> Result<FeatureFlagDefinitionPayload> {
        definition_payload(definitions::update(Session::of(ctx)?, input).await)
    }

    /// Deletes a feature flag with its overrides. Refused while overrides are in force or programs ask for it, unless `force` is
    /// said. Programs that still ask get their own default. For superadmins.
    async fn feature_flag_delete(
        &self,
        ctx: &Context<'_>,
        input: FeatureFlagDeleteInput,
    ) -> Result<FeatureFlagDeletePayload> {
        let (removed_overrides, user_errors) = mutation::outcome(definitions::delete(Session::of(ctx)?, &input).await)?;
        Ok(FeatureFlagDeletePayload { removed_overrides, user_errors })
    }

    /// Turns a kill switch off, for everybody and whatever else is said. For superadmins.
    async fn feature_flag_kill(
        &self,
        ctx: &Context<'_>,
        input: FeatureFlagKillInput,
    ) -> Result<FeatureFlagDefinitionPayload> {
        definition_payload(definitions::switch(Session::of(ctx)?, &input.key, &input.reason, false).await)
    }

    /// Turns a kill switch on again. For superadmins.
    async fn feature_flag_revive(
        &self,
        ctx: &Context<'_>,
        input: FeatureFlagReviveInput,
    ) -> Result<FeatureFlagDefinitionPayload> {
        definition_payload(definitions::switch(Session::of(ctx)?, &input.key, &input.reason, true).await)
    }

    /// Gives an organization a feature flag, beyond its plan if need be, or keeps it from it. It takes the place of an override of
    /// the organization's administrators, who cannot change it. For superadmins.
    async fn feature_flag_grant_set(
        &self,
        ctx: &Context<'_>,
        input: FeatureFlagGrantSetInput,
    ) -> Result<FeatureFlagGrantSetPayload> {
        let granted = overrides::grant(Session::of(ctx)?, input).await;
        let (feature_flag_override, user_errors) = mutation::outcome(granted)?;
        Ok(FeatureFlagGrantSetPayload { feature_flag_override, user_errors })
    }

    /// Takes a grant of a feature flag back. For superadmins.
    async fn feature_flag_grant_remove(
        &self,
        ctx: &Context<'_>,
        input: FeatureFlagGrantRemoveInput,
    ) -> Result<FeatureFlagGrantRemovePayload> {
        let (_, user_errors) = mutation::outcome(overrides::end_grant(Session::of(ctx)?, &input).await)?;
        Ok(FeatureFlagGrantRemovePayload { user_errors })
    }

    /// Overrides a feature flag for the organization of the request, within its plan.
    async fn feature_flag_override_set(
        &self,
        ctx: &Context<'_>,
        input: FeatureFlagOverrideSetInput,
    ) -> Result<FeatureFlagOverrideSetPayload> {
        let key = input.key.clone();
        let ran = mutation::run(ctx, input).await?;
        Ok(FeatureFlagOverrideSetPayload {
            key: ran.id.map(|_| key),
            feature_flag_override: Session::of(ctx)?.load_written(ran.id).await?,
            user_errors: ran.user_errors,
        })
    }

    /// Removes the override of a feature flag: the definition decides again.
    async fn feature_flag_override_remove(
        &self,
        ctx: &Context<'_>,
        input: FeatureFlagOverrideRemoveInput,
    ) -> Result<FeatureFlagOverrideRemovePayload> {
        let key = input.key.clone();
        let ran = mutation::run(ctx, input).await?;
        Ok(FeatureFlagOverrideRemovePayload { key: ran.id.map(|_| key), user_errors: ran.user_errors })
    }
}
