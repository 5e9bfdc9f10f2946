//! What holds of every evaluation, whatever is defined and overridden.

use chrono::{DateTime, TimeDelta, Utc};
use proptest::option;
use proptest::prelude::*;
use serde_json::json;

use super::evaluate::{
    Definition, Evaluation, FlagKind, FlagOverrideSource, FlagReason, FlagRolloutUnit, FlagValueType, Override,
    Subject, Variant, evaluate, murmur3,
};
use super::unlock::unlocks;
use crate::organizations::OrganizationPlan;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).expect("a time")
}

fn moment() -> impl Strategy<Value = DateTime<Utc>> {
    (-2..=2_i64).prop_map(|days| now() + TimeDelta::days(days))
}

fn plan() -> impl Strategy<Value = OrganizationPlan> {
    prop::sample::select(OrganizationPlan::ALL)
}

fn variants() -> impl Strategy<Value = Vec<Variant>> {
    prop::collection::vec(prop_oneof![Just(0.0), 0.01..100.0], 1..6).prop_map(|weights| {
        let named = weights.into_iter().enumerate();
        named.map(|(n, weight)| Variant { name: format!("v{n}"), value: json!(n), weight }).collect()
    })
}

prop_compose! {
    fn definition()(
        key in "[a-z]{1,8}",
        kind in prop::sample::select(FlagKind::ALL),
        variants in option::of(variants()),
        default_enabled: bool,
        minimum_plan in option::of(plan()),
        rollout_percentage in option::of((0..=10_000_u32).prop_map(|hundredths| f64::from(hundredths) / 100.0)),
        rollout_unit in prop::sample::select(FlagRolloutUnit::ALL),
        starts_at in option::of(moment()),
        ends_at in option::of(moment()),
    ) -> Definition {
        Definition {
            key,
            kind,
            value_type: if variants.is_some() { FlagValueType::Number } else { FlagValueType::Boolean },
            off_variant: variants.as_ref().map(|_| "v0".to_owned()),
            variants: variants.unwrap_or_default(),
            default_enabled,
            minimum_plan,
            rollout_percentage,
            rollout_unit,
            starts_at,
            ends_at,
        }
    }
}

prop_compose! {
    fn override_()(
        source in prop::sample::select(FlagOverrideSource::ALL),
        enabled: bool,
        variant in option::of("v[0-6]"),
        exceeds_plan: bool,
        expires_at in option::of(moment()),
    ) -> Override {
        Override { source, enabled, variant, exceeds_plan, expires_at }
    }
}

/// The evaluation for somebody with this number.
fn found<'a>(definition: &'a Definition, o: Option<&'a Override>, n: u64, plan: OrganizationPlan) -> Evaluation<'a> {
    let (organization, user) = (format!("org-{n}"), format!("user-{n}"));
    let subject = Subject { organization: &organization, user: Some(&user), plan };
    evaluate(definition, o, subject, now()).expect("there is a user")
}

/// A definition that is on by its weights alone.
fn split(key: &str, variants: Vec<Variant>) -> Definition {
    Definition {
        key: key.to_owned(),
        kind: FlagKind::Release,
        value_type: FlagValueType::Number,
        off_variant: None,
        variants,
        default_enabled: true,
        minimum_plan: None,
        rollout_percentage: None,
        rollout_unit: FlagRolloutUnit::User,
        starts_at: None,
        ends_at: None,
    }
}

proptest! {
    #[test]
    fn each_step_decides_before_the_next(d in definition(), o in option::of(override_()), plan in plan(), n: u64) {
        let found = found(&d, o.as_ref(), n, plan);
        let living = o.as_ref().filter(|o| o.expires_at.is_none_or(|end| now() < end));
        let killed = d.kind == FlagKind::KillSwitch && !d.default_enabled;
        let outside = d.starts_at.is_some_and(|start| now() < start) || d.ends_at.is_some_and(|end| end <= now());
        let below = d.minimum_plan.is_some_and(|least| plan < least);
        let expected = if killed {
            (Some(false), FlagReason::KillSwitch)
        } else if outside {
            (Some(false), FlagReason::Schedule)
        } else if let Some(o) = living.filter(|o| !below || o.exceeds_plan) {
            (Some(o.enabled), FlagReason::Override)
        } else if below {
            (Some(false), FlagReason::Plan)
        } else if d.rollout_percentage.is_some() {
            (None, FlagReason::Rollout)
        } else {
            (Some(d.default_enabled), FlagReason::Default)
        };
        prop_assert_eq!(found.reason, expected.1);
        prop_assert!(expected.0.is_none_or(|enabled| enabled == found.enabled));
        // Said once more, because it is money and safety.
        prop_assert!(!(killed && found.enabled));
        prop_assert!(!found.enabled || !below || living.is_some_and(|o| o.exceeds_plan));
    }

    #[test]
    fn an_evaluation_is_a_function_of_its_inputs(d in definition(), o in option::of(override_()), plan in plan(), n: u64) {
        let (again, same) = (d.clone(), o.clone());
        prop_assert_eq!(found(&d, o.as_ref(), n, plan), found(&again, same.as_ref(), n, plan));
        let expired = o.clone().map(|o| Override { expires_at: Some(now()), ..o });
        prop_assert_eq!(found(&d, expired.as_ref(), n, plan), found(&d, None, n, plan));
        // Of the subject only what the rollout counts matters.
        let subject = |organization, user| Subject { organization, user, plan };
        let (a, b) = match d.rollout_unit {
            FlagRolloutUnit::Organization => (subject("same", Some("a")), subject("same", None)),
            FlagRolloutUnit::User => (subject("a", Some("same")), subject("b", Some("same"))),
        };
        prop_assert_eq!(evaluate(&d, o.as_ref(), a, now()), evaluate(&d, o.as_ref(), b, now()));
    }

    #[test]
    fn a_value_is_that_of_its_variant(d in definition(), o in option::of(override_()), plan in plan(), n: u64) {
        let found = found(&d, o.as_ref(), n, plan);
        if d.value_type == FlagValueType::Boolean {
            prop_assert_eq!((found.variant, found.value.as_bool()), (if found.enabled { "on" } else { "off" }, Some(found.enabled)));
        } else if let Some(variant) = d.variants.iter().find(|variant| variant.name == found.variant) {
            prop_assert_eq!(&*found.value, &variant.value);
            let named = o.as_ref().is_some_and(|o| o.variant.as_deref() == Some(found.variant));
            prop_assert!(!found.enabled || named || variant.weight > 0.0, "nobody gets a variant without a weight by chance");
            prop_assert!(found.enabled || found.variant == "v0");
        } else {
            prop_assert!(found.enabled && d.variants.iter().all(|variant| variant.weight <= 0.0));
        }
    }

    #[test]
    fn who_has_it_keeps_it_when_the_percentage_grows(d in definition(), few in 0..=10_000_u32, more in 0..=10_000_u32, n: u64) {
        let share = |hundredths: u32| Some(f64::from(hundredths) / 100.0);
        let (few, more) = (few.min(more), few.max(more));
        let (few, more) =
            (Definition { rollout_percentage: share(few), ..d.clone() }, Definition { rollout_percentage: share(more), ..d });
        let (before, after) = (found(&few, None, n, OrganizationPlan::Pro), found(&more, None, n, OrganizationPlan::Pro));
        prop_assert!(!before.enabled || after.enabled && after.variant == before.variant);
    }

    #[test]
    fn who_has_a_variant_keeps_it(list in variants(), weight in 0.01..100.0, rotate in 0..6_usize, n: u64) {
        let mut other = list.clone();
        let middle = rotate % list.len();
        other.rotate_left(middle);
        let (before, reordered) = (split("f", list.clone()), split("f", other));
        let had = found(&before, None, n, OrganizationPlan::Free).variant.to_owned();
        prop_assert_eq!(&had, found(&reordered, None, n, OrganizationPlan::Free).variant);
        let mut more = list.clone();
        more.push(Variant { name: "new".into(), value: json!(true), weight });
        let more = split("f", more);
        let has = found(&more, None, n, OrganizationPlan::Free).variant;
        prop_assert!(has == had || has == "new");
        // A variant that grows takes from the others, and nobody else moves.
        let mut grown = list;
        grown[middle].weight += weight;
        let grown_name = grown[middle].name.clone();
        let grown = split("f", grown);
        let has = found(&grown, None, n, OrganizationPlan::Free).variant;
        prop_assert!(has == had || has == grown_name);
    }

    #[test]
    fn what_unlocks_a_flag_turns_it_on(d in definition(), o in option::of(override_()), plan in plan(), n: u64) {
        let (organization, user) = (format!("org-{n}"), format!("user-{n}"));
        let subject = Subject { organization: &organization, user: Some(&user), plan };
        let all = unlocks(&d, o.as_ref(), subject, now());
        prop_assert!(!found(&d, o.as_ref(), n, plan).enabled || all.is_empty());
        for unlock in all.iter().filter(|unlock| unlock.is_enough) {
            let later = unlock.at.unwrap_or_else(now);
            let greater = unlock.plan.unwrap_or(plan);
            if unlock.at.is_some() || unlock.plan.is_some() {
                let subject = Subject { plan: greater, ..subject };
                prop_assert!(evaluate(&d, o.as_ref(), subject, later).is_ok_and(|found| found.enabled), "{unlock:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn weights_and_percentages_are_reached(key in "[a-z]{4,12}", list in variants(), hundredths in 0..=10_000_u32) {
        const UNITS: u32 = 4000;
        // Six standard deviations: one case in a billion.
        let near = |count: u32, share: f64| {
            let expected = f64::from(UNITS) * share;
            (f64::from(count) - expected).abs() <= 6.0 * (expected * (1.0 - share)).sqrt() + 1.0
        };
        let sum: f64 = list.iter().map(|variant| variant.weight).sum();
        let weighed = split(&key, list.clone());
        let names: Vec<String> =
            (0..u64::from(UNITS)).map(|n| found(&weighed, None, n, OrganizationPlan::Free).variant.to_owned()).collect();
        for variant in list.iter().filter(|_| sum > 0.0) {
            let count = u32::try_from(names.iter().filter(|name| **name == variant.name).count()).expect("a few");
            prop_assert!(near(count, variant.weight / sum), "{} of {list:?}: {count}", variant.name);
        }
        let percentage = f64::from(hundredths) / 100.0;
        let rollout = Definition { rollout_percentage: Some(percentage), ..weighed };
        let on = (0..u64::from(UNITS)).filter(|n| found(&rollout, None, *n, OrganizationPlan::Free).enabled).count();
        prop_assert!(near(u32::try_from(on).expect("a few"), percentage / 100.0), "{percentage} %: {on}");
    }
}

#[test]
fn two_decimals_count() {
    for hundredths in 0..=10_000_u32 {
        let buckets = (f64::from(hundredths) / 100.0 * 1_000.0).round();
        assert!((buckets - f64::from(hundredths * 10)).abs() < f64::EPSILON, "{hundredths}");
    }
    let least = Definition { rollout_percentage: Some(0.01), ..split("least", Vec::new()) };
    let on = (0..200_000).filter(|n| found(&least, None, *n, OrganizationPlan::Free).enabled).count();
    assert!((2..60).contains(&on), "0.01 % of 200,000 is about 20: {on}");
}

#[test]
fn the_hash_agrees_with_published_vectors() {
    // `MurmurHash3_x86_32`, seed 0, as implementers publish them beside the reference: every length of tail, and signs.
    for (bytes, hash) in [
        (&[][..], 0),
        (&[0xff, 0xff, 0xff, 0xff], 0x7629_3b50),
        (&[0x21, 0x43, 0x65, 0x87], 0xf55b_516b),
        (&[0x21, 0x43, 0x65], 0x7e4a_8634),
        (&[0x21, 0x43], 0xa0f7_b07a),
        (&[0x21], 0x7266_1cf4),
        (&[0, 0, 0, 0], 0x2362_f9de),
        (&[0, 0, 0], 0x85f0_b427),
        (&[0, 0], 0x30f4_c306),
        (&[0], 0x514e_28b7),
    ] {
        assert_eq!(murmur3(bytes), hash, "{bytes:x?}");
    }
}
