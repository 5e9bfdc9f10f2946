//! How a flag is decided; nothing here touches the database.
//!
//! The order: kill switch, schedule, minimum plan, override of the organization, rollout, default.

use chrono::{DateTime, Utc};

use crate::organizations::OrganizationPlan;
use crate::pg_enum;

pg_enum! {
    /// The kind of a feature flag.
    pub enum FlagKind("tenantry.flag_kind", FlagKindFilter) {
        /// Rolls out a feature step by step.
        Release = "RELEASE",
        /// Grants a feature of a plan.
        Entitlement = "ENTITLEMENT",
        /// Switches a feature off in an emergency, for everybody.
        KillSwitch = "KILL_SWITCH",
    }
}

pg_enum! {
    /// What a percentage of a rollout counts.
    pub enum FlagRolloutUnit("tenantry.flag_rollout_unit", FlagRolloutUnitFilter) {
        /// Organizations: all members see the same.
        Organization = "ORGANIZATION",
        /// Users.
        User = "USER",
    }
}

/// What is decided on.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The key.
    pub key: String,
    /// Purpose.
    pub kind: FlagKind,
    /// The value when nothing else decides.
    pub default_enabled: bool,
    /// The least plan that may have it.
    pub minimum_plan: Option<OrganizationPlan>,
    /// 0 to 100.
    pub rollout_percentage: Option<f64>,
    /// What the percentage counts.
    pub rollout_unit: FlagRolloutUnit,
    /// Off before this moment.
    pub starts_at: Option<DateTime<Utc>>,
    /// Off from this moment on.
    pub ends_at: Option<DateTime<Utc>>,
}

/// What the organization said.
#[derive(Clone, Copy, Debug)]
pub struct Override {
    /// Value.
    pub enabled: bool,
    /// Whether the override applies although the plan does not include the flag.
    pub exceeds_plan: bool,
    /// Until when it holds.
    pub expires_at: Option<DateTime<Utc>>,
}

/// For whom.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The organization's id.
    pub organization: &'a str,
    /// The user's id.
    pub user: &'a str,
    /// The organization's plan.
    pub plan: OrganizationPlan,
}

/// Reason of the evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, async_graphql::Enum)]
pub enum FlagReason {
    /// The kill switch is off.
    KillSwitch,
    /// The time is outside of the flag's schedule.
    Schedule,
    /// The plan does not include the flag.
    Plan,
    /// The organization's override decides.
    Override,
    /// The rollout percentage decides.
    Rollout,
    /// The default applies.
    Default,
}

/// Decides a flag.
#[must_use]
pub fn evaluate(
    definition: &Definition,
    override_: Option<Override>,
    subject: Subject<'_>,
    now: DateTime<Utc>,
) -> (bool, FlagReason) {
    let override_ = override_.filter(|o| o.expires_at.is_none_or(|end| now < end));
    if definition.kind == FlagKind::KillSwitch && !definition.default_enabled {
        return (false, FlagReason::KillSwitch);
    }
    if definition.starts_at.is_some_and(|start| now < start) || definition.ends_at.is_some_and(|end| now >= end) {
        return (false, FlagReason::Schedule);
    }
    if definition.minimum_plan.is_some_and(|plan| subject.plan < plan) {
        return match override_ {
            Some(o) if o.exceeds_plan => (o.enabled, FlagReason::Override),
            _ => (false, FlagReason::Plan),
        };
    }
    if let Some(o) = override_ {
        return (o.enabled, FlagReason::Override);
    }
    if let Some(percentage) = definition.rollout_percentage {
        let unit = match definition.rollout_unit {
            FlagRolloutUnit::Organization => subject.organization,
            FlagRolloutUnit::User => subject.user,
        };
        let bucket = murmur3(format!("{}:{unit}", definition.key).as_bytes()) % 100_000;
        return (f64::from(bucket) < percentage * 1_000.0, FlagReason::Rollout);
    }
    (definition.default_enabled, FlagReason::Default)
}

/// `MurmurHash3_x86_32` with seed 0 (Austin Appleby's reference): `OpenFeature`'s flagd uses it too, so shares agree.
#[must_use]
pub fn murmur3(data: &[u8]) -> u32 {
    const C1: u32 = 0xcc9e_2d51;
    const C2: u32 = 0x1b87_3593;
    let scramble = |k: u32| k.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2);
    let (blocks, tail) = data.as_chunks::<4>();
    let mut h = blocks.iter().fold(0u32, |h, block| {
        (h ^ scramble(u32::from_le_bytes(*block))).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
    });
    let k = tail.iter().rev().fold(0u32, |k, byte| (k << 8) | u32::from(*byte));
    if !tail.is_empty() {
        h ^= scramble(k);
    }
    h ^= u32::try_from(data.len()).unwrap_or(u32::MAX);
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Definition {
        Definition {
            key: "new-inbox".into(),
            kind: FlagKind::Release,
            default_enabled: false,
            minimum_plan: None,
            rollout_percentage: None,
            rollout_unit: FlagRolloutUnit::Organization,
            starts_at: None,
            ends_at: None,
        }
    }

    const ON: Override = Override { enabled: true, exceeds_plan: false, expires_at: None };
    const FREE: Subject<'static> = Subject { organization: "o", user: "u", plan: OrganizationPlan::Free };

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).expect("a time")
    }

    #[test]
    fn the_hash_is_the_reference() {
        // Test values of the reference implementation, seed 0.
        for (text, hash) in [
            ("", 0),
            ("test", 0xba6b_d213),
            ("Hello, world!", 0xc036_3e43),
            ("The quick brown fox jumps over the lazy dog", 0x2e4f_f723),
        ] {
            assert_eq!(murmur3(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn each_step_decides_before_the_next() {
        let day = chrono::Duration::days(1);
        let on = |definition: &Definition, o| evaluate(definition, o, FREE, now());
        assert_eq!(on(&definition(), None), (false, FlagReason::Default));
        assert_eq!(on(&definition(), Some(ON)), (true, FlagReason::Override));
        let expired = Override { expires_at: Some(now()), ..ON };
        assert_eq!(on(&definition(), Some(expired)), (false, FlagReason::Default));
        let paid = Definition { minimum_plan: Some(OrganizationPlan::Pro), ..definition() };
        assert_eq!(on(&paid, Some(ON)), (false, FlagReason::Plan));
        assert_eq!(on(&paid, Some(Override { exceeds_plan: true, ..ON })), (true, FlagReason::Override));
        let later = Definition { starts_at: Some(now() + day), ..definition() };
        assert_eq!(on(&later, Some(ON)), (false, FlagReason::Schedule));
        let over = Definition { ends_at: Some(now()), ..definition() };
        assert_eq!(on(&over, Some(ON)), (false, FlagReason::Schedule));
        let killed = Definition { kind: FlagKind::KillSwitch, ..definition() };
        assert_eq!(on(&killed, Some(ON)), (false, FlagReason::KillSwitch));
    }

    #[test]
    fn a_rollout_reaches_its_share() {
        let flag = Definition { rollout_percentage: Some(25.0), ..definition() };
        let reached = (0..10_000)
            .filter(|i| evaluate(&flag, None, Subject { organization: &format!("org-{i}"), ..FREE }, now()).0)
            .count();
        assert!((2_300..2_700).contains(&reached), "{reached}");
        for (percentage, expected) in [(0.0, false), (100.0, true)] {
            let flag = Definition { rollout_percentage: Some(percentage), ..definition() };
            assert_eq!(evaluate(&flag, None, FREE, now()), (expected, FlagReason::Rollout));
        }
    }
}
