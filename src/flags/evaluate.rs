//! How a flag is decided; nothing here touches the database.
//!
//! The order: kill switch, schedule, minimum plan, override of the organization, rollout, default.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

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

pg_enum! {
    /// What the variants of a feature flag are.
    pub enum FlagValueType("tenantry.flag_value_type", FlagValueTypeFilter) {
        /// True or false.
        Boolean = "BOOLEAN",
        /// Texts.
        String = "STRING",
        /// Numbers.
        Number = "NUMBER",
        /// JSON objects.
        Object = "OBJECT",
    }
}

pg_enum! {
    /// Who said that an organization has a flag other than the definition says.
    pub enum FlagOverrideSource("tenantry.flag_override_source", FlagOverrideSourceFilter) {
        /// Its administrators.
        Organization = "ORGANIZATION",
        /// An operator of the platform.
        Grant = "GRANT",
        /// An entitlement at Stripe.
        Stripe = "STRIPE",
    }
}

/// The variant of a boolean flag that is on.
pub const ON: &str = "on";
/// The variant of a boolean flag that is off.
pub const OFF: &str = "off";

/// A value that a flag may have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// The value, of the type of the flag.
    pub value: serde_json::Value,
    /// Its share of those who have the flag on, beside the other weights; 0: only overrides give it.
    pub weight: f64,
}

/// What is decided on.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The key.
    pub key: String,
    /// Purpose.
    pub kind: FlagKind,
    /// What its variants are.
    pub value_type: FlagValueType,
    /// The variants; empty for a boolean flag, which has [`ON`] and [`OFF`].
    pub variants: Vec<Variant>,
    /// The variant of those who have it off; `None` for a boolean flag.
    pub off_variant: Option<String>,
    /// Whether it is on when nothing else decides.
    pub default_enabled: bool,
    /// The least plan that may have it.
    pub minimum_plan: Option<OrganizationPlan>,
    /// 0 to 100.
    pub rollout_percentage: Option<f64>,
    /// What the percentage, and the weights of the variants, count.
    pub rollout_unit: FlagRolloutUnit,
    /// Off before this moment.
    pub starts_at: Option<DateTime<Utc>>,
    /// Off from this moment on.
    pub ends_at: Option<DateTime<Utc>>,
}

/// What was said for the organization.
#[derive(Clone, Debug)]
pub struct Override {
    /// Who said it.
    pub source: FlagOverrideSource,
    /// On or off.
    pub enabled: bool,
    /// The variant while it is on; `None`: the weights decide.
    pub variant: Option<String>,
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
    /// The user's id; `None`: nobody is named.
    pub user: Option<&'a str>,
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

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation<'a> {
    /// Whether the flag is on.
    pub enabled: bool,
    /// The name of the variant.
    pub variant: &'a str,
    /// Its value.
    pub value: Cow<'a, serde_json::Value>,
    /// What decided.
    pub reason: FlagReason,
    /// Whether the weights chose the variant among several.
    pub is_split: bool,
}

/// The decision counts users, and none is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetingKeyMissing;

/// Decides a flag.
///
/// # Errors
/// [`TargetingKeyMissing`] when the decision needs the user and the subject has none.
pub fn evaluate<'a>(
    definition: &'a Definition,
    override_: Option<&'a Override>,
    subject: Subject<'_>,
    now: DateTime<Utc>,
) -> Result<Evaluation<'a>, TargetingKeyMissing> {
    let override_ = override_.filter(|o| o.expires_at.is_none_or(|end| now < end));
    let (enabled, reason) = decide(definition, override_, subject, now)?;
    if definition.value_type == FlagValueType::Boolean {
        let variant = if enabled { ON } else { OFF };
        let value = Cow::Owned(serde_json::Value::Bool(enabled));
        return Ok(Evaluation { enabled, variant, value, reason, is_split: false });
    }
    let (variant, is_split) =
        variant_of(definition, override_.filter(|_| reason == FlagReason::Override), subject, enabled)?;
    let (variant, value) =
        variant.map_or((OFF, Cow::Owned(serde_json::Value::Null)), |v| (v.name.as_str(), Cow::Borrowed(&v.value)));
    Ok(Evaluation { enabled, variant, value, reason, is_split })
}

/// On or off, and why.
fn decide(
    definition: &Definition,
    override_: Option<&Override>,
    subject: Subject<'_>,
    now: DateTime<Utc>,
) -> Result<(bool, FlagReason), TargetingKeyMissing> {
    if definition.kind == FlagKind::KillSwitch && !definition.default_enabled {
        return Ok((false, FlagReason::KillSwitch));
    }
    if definition.starts_at.is_some_and(|start| now < start) || definition.ends_at.is_some_and(|end| now >= end) {
        return Ok((false, FlagReason::Schedule));
    }
    if definition.minimum_plan.is_some_and(|plan| subject.plan < plan) {
        return Ok(match override_ {
            Some(o) if o.exceeds_plan => (o.enabled, FlagReason::Override),
            _ => (false, FlagReason::Plan),
        });
    }
    if let Some(o) = override_ {
        return Ok((o.enabled, FlagReason::Override));
    }
    if let Some(percentage) = definition.rollout_percentage {
        let bucket = murmur3(format!("{}:{}", definition.key, unit(definition, subject)?).as_bytes()) % 100_000;
        // Rounded: 0.07 * 1000 is a little more than 70, and would take in bucket 70.
        return Ok((f64::from(bucket) < (percentage * 1_000.0).round(), FlagReason::Rollout));
    }
    Ok((definition.default_enabled, FlagReason::Default))
}

/// What the rollout counts.
fn unit<'a>(definition: &Definition, subject: Subject<'a>) -> Result<&'a str, TargetingKeyMissing> {
    match definition.rollout_unit {
        FlagRolloutUnit::Organization => Ok(subject.organization),
        FlagRolloutUnit::User => subject.user.ok_or(TargetingKeyMissing),
    }
}

/// The variant of a flag that is not boolean, and whether the weights chose it.
///
/// Weighted rendezvous hashing (Schindelhauer and Schomaker, 2005): every variant draws a number from its own hash of the unit, and
/// the least wins. So a new variant takes its share from the others, and nobody else changes.
fn variant_of<'a>(
    definition: &'a Definition,
    override_: Option<&Override>,
    subject: Subject<'_>,
    enabled: bool,
) -> Result<(Option<&'a Variant>, bool), TargetingKeyMissing> {
    let named = |name: &str| definition.variants.iter().find(|variant| variant.name == name);
    if !enabled {
        return Ok((definition.off_variant.as_deref().and_then(named), false));
    }
    if let Some(variant) = override_.and_then(|o| o.variant.as_deref()).and_then(named) {
        return Ok((Some(variant), false));
    }
    let mut weighed = definition.variants.iter().filter(|variant| variant.weight > 0.0);
    let (first, second) = (weighed.next(), weighed.next());
    if second.is_none() {
        return Ok((first, false));
    }
    let unit = unit(definition, subject)?;
    let drawn = |variant: &Variant| {
        let hash = murmur3(format!("{}/{}:{unit}", definition.key, variant.name).as_bytes());
        -((f64::from(hash) + 0.5) / 4_294_967_296.0).ln() / variant.weight
    };
    let weighed = definition.variants.iter().filter(|variant| variant.weight > 0.0);
    Ok((weighed.min_by(|a, b| drawn(a).total_cmp(&drawn(b))), true))
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
            value_type: FlagValueType::Boolean,
            variants: Vec::new(),
            off_variant: None,
            default_enabled: false,
            minimum_plan: None,
            rollout_percentage: None,
            rollout_unit: FlagRolloutUnit::Organization,
            starts_at: None,
            ends_at: None,
        }
    }

    const ON: Override = Override {
        source: FlagOverrideSource::Organization,
        enabled: true,
        variant: None,
        exceeds_plan: false,
        expires_at: None,
    };

    fn decided(definition: &Definition, o: Option<&Override>, subject: Subject<'_>) -> (bool, FlagReason) {
        let evaluation = evaluate(definition, o, subject, now()).expect("the subject has a user");
        (evaluation.enabled, evaluation.reason)
    }

    const FREE: Subject<'static> = Subject { organization: "o", user: Some("u"), plan: OrganizationPlan::Free };

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
        let on = |definition: &Definition, o: Option<Override>| decided(definition, o.as_ref(), FREE);
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
            .filter(|i| decided(&flag, None, Subject { organization: &format!("org-{i}"), ..FREE }).0)
            .count();
        assert!((2_300..2_700).contains(&reached), "{reached}");
        for (percentage, expected) in [(0.0, false), (100.0, true)] {
            let flag = Definition { rollout_percentage: Some(percentage), ..definition() };
            assert_eq!(decided(&flag, None, FREE), (expected, FlagReason::Rollout));
        }
    }

    #[test]
    fn a_new_variant_takes_its_share_and_nobody_else_changes() {
        let variant = |name: &str, weight| Variant { name: name.into(), value: name.into(), weight };
        let two = Definition {
            value_type: FlagValueType::String,
            variants: vec![variant("red", 50.0), variant("blue", 50.0), variant("off", 0.0)],
            off_variant: Some("off".into()),
            default_enabled: true,
            rollout_unit: FlagRolloutUnit::User,
            ..definition()
        };
        let mut three = two.clone();
        three.variants.push(variant("green", 100.0));
        let mut moved = 0;
        for i in 0..10_000 {
            let user = format!("user-{i}");
            let of = |flag| evaluate(flag, None, Subject { user: Some(&user), ..FREE }, now()).expect("a user").variant;
            let (before, after) = (of(&two).to_owned(), of(&three).to_owned());
            assert!(before == after || after == "green", "{before} became {after}");
            moved += usize::from(after == "green");
        }
        assert!((4_800..5_200).contains(&moved), "{moved}");
        assert_eq!(evaluate(&two, None, Subject { user: None, ..FREE }, now()), Err(TargetingKeyMissing));
        let off = Definition { default_enabled: false, ..two };
        assert_eq!(evaluate(&off, None, FREE, now()).map(|e| e.variant), Ok("off"));
    }
}
