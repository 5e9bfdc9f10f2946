//! What would turn a flag on that is off.

use async_graphql::{Enum, SimpleObject};
use chrono::{DateTime, Utc};

use super::evaluate::{Definition, FlagKind, FlagOverrideSource, FlagReason, Override, Subject, evaluate};
use crate::organizations::OrganizationPlan;

/// What turns a feature flag on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum FeatureFlagUnlockKind {
    /// The operator of the platform revives what the kill switch guards.
    KillSwitch,
    /// The flag's schedule begins.
    Schedule,
    /// A greater plan.
    Plan,
    /// An administrator of the organization overrides it, or removes an override.
    Override,
    /// The operator of the platform grants it.
    Grant,
}

/// Something that turns a feature flag on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, SimpleObject)]
pub struct FeatureFlagUnlock {
    /// What it is.
    pub kind: FeatureFlagUnlockKind,
    /// The least plan; null for other kinds.
    pub plan: Option<OrganizationPlan>,
    /// When the schedule begins; null for other kinds.
    pub at: Option<DateTime<Utc>>,
    /// Whether this alone turns the flag on; otherwise it takes another one as well.
    pub is_enough: bool,
}

/// What would turn a flag on for the subject: what is enough by itself, or, where nothing is, all that stands in the way. Empty when
/// the flag is on.
#[must_use]
pub fn unlocks(
    definition: &Definition,
    override_: Option<&Override>,
    subject: Subject<'_>,
    now: DateTime<Utc>,
) -> Vec<FeatureFlagUnlock> {
    let on = |definition: &Definition, override_: Option<&Override>, plan, now| {
        evaluate(definition, override_, Subject { plan, ..subject }, now).is_ok_and(|found| found.enabled)
    };
    if on(definition, override_, subject.plan, now) {
        return Vec::new();
    }
    let override_ = override_.filter(|o| o.expires_at.is_none_or(|end| now < end));
    let unlock = |kind, is_enough| FeatureFlagUnlock { kind, plan: None, at: None, is_enough };
    let mut found = Vec::new();
    if definition.kind == FlagKind::KillSwitch && !definition.default_enabled {
        let revived = Definition { default_enabled: true, ..definition.clone() };
        found.push(unlock(FeatureFlagUnlockKind::KillSwitch, on(&revived, override_, subject.plan, now)));
    }
    if let Some(start) = definition.starts_at.filter(|start| now < *start) {
        let enough = on(definition, override_, subject.plan, start);
        found.push(FeatureFlagUnlock { at: Some(start), ..unlock(FeatureFlagUnlockKind::Schedule, enough) });
    }
    let granted = Override {
        source: FlagOverrideSource::Grant,
        enabled: true,
        variant: None,
        exceeds_plan: true,
        expires_at: None,
    };
    if let Some(least) = definition.minimum_plan.filter(|least| subject.plan < *least) {
        let enough = on(definition, override_, least, now);
        found.push(FeatureFlagUnlock { plan: Some(least), ..unlock(FeatureFlagUnlockKind::Plan, enough) });
    }
    let own = override_.is_none_or(|o| o.source == FlagOverrideSource::Organization);
    let overridden = Override { source: FlagOverrideSource::Organization, exceeds_plan: false, ..granted.clone() };
    // What administrators may: turn a release on, and take back what they turned off.
    let best = if definition.kind == FlagKind::Release { Some(&overridden) } else { None };
    if own && definition.kind != FlagKind::KillSwitch && on(definition, best, subject.plan, now) {
        found.push(unlock(FeatureFlagUnlockKind::Override, true));
    }
    if override_.is_none_or(|o| o.source != FlagOverrideSource::Stripe) && definition.kind != FlagKind::KillSwitch {
        found.push(unlock(FeatureFlagUnlockKind::Grant, on(definition, Some(&granted), subject.plan, now)));
    }
    if definition.kind == FlagKind::KillSwitch
        && override_.is_some_and(|o| !o.enabled)
        && on(definition, None, subject.plan, now)
    {
        found.push(unlock(FeatureFlagUnlockKind::Grant, true));
    }
    if found.iter().any(|unlock| unlock.is_enough) {
        found.retain(|unlock| unlock.is_enough);
        return found;
    }
    // What is over does not come back by any of them.
    let over = definition.ends_at.is_some_and(|end| now >= end);
    if over { Vec::new() } else { found }
}

/// Whether the plan, of itself and at this moment, gives the flag to everybody in the organization.
pub(super) fn is_of_plan(definition: &Definition, plan: OrganizationPlan, now: DateTime<Utc>) -> bool {
    let everybody = definition.rollout_percentage.is_none_or(|percentage| percentage >= 100.0);
    let nobody = Subject { organization: "", user: Some(""), plan };
    let found = evaluate(definition, None, nobody, now);
    everybody
        && found.is_ok_and(|found| found.enabled || found.reason == FlagReason::Schedule && definition.default_enabled)
}
