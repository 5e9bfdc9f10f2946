//! Does a definition contradict itself? All of it before anything is stored.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::evaluate::{FlagKind, FlagRolloutUnit, FlagValueType, Variant};
use crate::graphql::mutation::{Checks, UserErrorCode};
use crate::organizations::OrganizationPlan;

/// The longest key, in bytes; a key is ASCII.
pub(super) const MAX_KEY: usize = 100;
/// Most variants.
const MAX_VARIANTS: usize = 50;
/// The longest name of a variant, in characters.
const MAX_VARIANT_NAME: usize = 100;
/// The largest value of a variant, in bytes of JSON without spaces.
const MAX_VALUE: usize = 16 * 1024;
/// The largest values of all variants together. The column takes four times as many: the database writes spaces.
const MAX_VALUES: usize = 64 * 1024;
/// Levels of objects and lists in a value.
const MAX_DEPTH: usize = 32;
/// The range of weights other than 0.
const WEIGHTS: std::ops::RangeInclusive<f64> = 0.0001..=1_000_000.0;
/// The range of numbers other than 0, without their sign: exact as JSON numbers of every SDK, and short as the database writes them.
const NUMBERS: std::ops::RangeInclusive<f64> = 1e-9..=9_007_199_254_740_991.0;

/// A definition as it is to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Draft {
    pub key: String,
    pub name: String,
    pub description: Option<String>,
    pub kind: FlagKind,
    pub value_type: FlagValueType,
    pub variants: Vec<Variant>,
    pub off_variant: Option<String>,
    pub default_enabled: bool,
    pub minimum_plan: Option<OrganizationPlan>,
    pub rollout_percentage: Option<f64>,
    pub rollout_unit: FlagRolloutUnit,
    pub starts_at: Option<DateTime<Utc>>,
    pub ends_at: Option<DateTime<Utc>>,
    pub owner: Option<String>,
    pub stale_after: Option<DateTime<Utc>>,
}

/// What living overrides take for granted.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    /// Variants that they name, with how many do.
    pub variants: Vec<(String, i64)>,
    /// How many are on and name no variant.
    pub unnamed: i64,
}

impl Draft {
    /// Trims the texts and checks everything.
    pub fn check(&mut self, checks: &mut Checks, expected: &Expected) {
        self.name = checks.required("name", &self.name, 200);
        for (field, text, most) in [("description", &mut self.description, 5000), ("owner", &mut self.owner, 200)] {
            *text = text.as_deref().map(|text| checks.text(field, text.trim(), most)).filter(|text| !text.is_empty());
        }
        self.check_variants(checks, expected);
        self.check_rollout(checks);
        if let (Some(start), Some(end)) = (self.starts_at, self.ends_at)
            && end <= start
        {
            checks.refuse("endsAt", UserErrorCode::Invalid, "`endsAt` must be after `startsAt`.");
        }
        if self.kind == FlagKind::KillSwitch {
            let wrong = [
                ("minimumPlan", self.minimum_plan.is_some()),
                ("rolloutPercentage", self.rollout_percentage.is_some()),
                ("valueType", self.value_type != FlagValueType::Boolean),
            ];
            for (field, _) in wrong.iter().filter(|(_, is_wrong)| *is_wrong) {
                let message = format!("A kill switch is on or off for everybody: it takes no `{field}`.");
                checks.refuse(field, UserErrorCode::Invalid, message);
            }
        }
    }

    fn check_rollout(&self, checks: &mut Checks) {
        let Some(percentage) = self.rollout_percentage else { return };
        if !(0.0..=100.0).contains(&percentage) {
            checks.refuse("rolloutPercentage", UserErrorCode::Invalid, "`rolloutPercentage` takes 0 to 100.");
        } else if ((percentage * 100.0).round() - percentage * 100.0).abs() > 1e-6 {
            let message = "`rolloutPercentage` takes two decimals at most.";
            checks.refuse("rolloutPercentage", UserErrorCode::Invalid, message);
        }
    }

    fn check_variants(&self, checks: &mut Checks, expected: &Expected) {
        if self.value_type == FlagValueType::Boolean {
            for (field, given) in [("variants", !self.variants.is_empty()), ("offVariant", self.off_variant.is_some())]
            {
                if given {
                    let message = format!("A boolean flag has the variants `on` and `off`: it takes no `{field}`.");
                    checks.refuse(field, UserErrorCode::Invalid, message);
                }
            }
            return;
        }
        match self.variants.len() {
            0 => {
                let message = "A flag that is not boolean has at least one variant.";
                return checks.refuse("variants", UserErrorCode::Blank, message);
            }
            1..=MAX_VARIANTS => {}
            _ => {
                let message = format!("`variants` takes at most {MAX_VARIANTS}.");
                return checks.refuse("variants", UserErrorCode::TooLong, message);
            }
        }
        let mut names = BTreeSet::new();
        let mut bytes = 0;
        for (place, variant) in self.variants.iter().enumerate() {
            let mut at = At { checks: &mut *checks, place: place.to_string() };
            at.check_name(&variant.name, &mut names);
            if variant.weight != 0.0 && !WEIGHTS.contains(&variant.weight) {
                let message = format!("`weight` takes 0, or {} to {}.", WEIGHTS.start(), WEIGHTS.end());
                at.refuse("weight", UserErrorCode::Invalid, message);
            }
            bytes += at.check_value(self.value_type, &variant.value);
        }
        if bytes > MAX_VALUES {
            let message = format!("The values of all variants take at most {MAX_VALUES} bytes of JSON.");
            checks.refuse("variants", UserErrorCode::TooLong, message);
        }
        match &self.off_variant {
            None => {
                let message = "A flag that is not boolean names the variant of those who have it off.";
                checks.refuse("offVariant", UserErrorCode::Blank, message);
            }
            Some(off) if !names.contains(off.as_str()) => {
                checks.refuse("offVariant", UserErrorCode::NotFound, "`offVariant` is not among the variants.");
            }
            Some(_) => {}
        }
        let can_be_on =
            self.default_enabled || self.rollout_percentage.is_some_and(|share| share > 0.0) || expected.unnamed > 0;
        if can_be_on && self.variants.iter().all(|variant| variant.weight <= 0.0) {
            let message = "The flag can be on, and no variant has a weight: nobody could get one.";
            checks.refuse("variants", UserErrorCode::Invalid, message);
        }
        for (name, count) in expected.variants.iter().filter(|(name, _)| !names.contains(name.as_str())) {
            let message = format!(
                "The variant `{name}` is missing, which overrides in force name ({count}): keep it, with a weight of 0 if nobody else is to get it."
            );
            checks.refuse("variants", UserErrorCode::Conflict, message);
        }
    }
}

/// One variant of the input.
struct At<'a> {
    checks: &'a mut Checks,
    place: String,
}

impl At<'_> {
    fn refuse(&mut self, field: &str, code: UserErrorCode, message: impl Into<String>) {
        self.checks.refuse_at(&["variants", &self.place, field], code, message);
    }

    fn check_name<'n>(&mut self, name: &'n str, names: &mut BTreeSet<&'n str>) {
        if name.trim().is_empty() {
            self.refuse("name", UserErrorCode::Blank, "A variant has a name.");
        } else if name.chars().count() > MAX_VARIANT_NAME {
            let message = format!("The name of a variant takes at most {MAX_VARIANT_NAME} characters.");
            self.refuse("name", UserErrorCode::TooLong, message);
        } else if name.trim() != name || name.chars().any(char::is_control) {
            let message = "The name of a variant has neither outer spaces nor control characters.";
            self.refuse("name", UserErrorCode::Invalid, message);
        } else if !names.insert(name) {
            self.refuse("name", UserErrorCode::Conflict, "Another variant has this name.");
        }
    }

    /// How many bytes the value has.
    fn check_value(&mut self, value_type: FlagValueType, value: &Value) -> usize {
        let (fits, wanted) = match value_type {
            FlagValueType::Boolean => (value.is_boolean(), "true or false"),
            FlagValueType::String => (value.is_string(), "a text"),
            FlagValueType::Number => (value.is_number(), "a number"),
            FlagValueType::Object => (value.is_object(), "a JSON object"),
        };
        if !fits {
            self.refuse("value", UserErrorCode::Invalid, format!("A value of this flag is {wanted}."));
            return 0;
        }
        if let Err(message) = check_json(value, MAX_DEPTH) {
            self.refuse("value", UserErrorCode::Invalid, message);
            return 0;
        }
        let bytes = value.to_string().len();
        if bytes > MAX_VALUE {
            let message = format!("A value takes at most {MAX_VALUE} bytes of JSON; this has {bytes}.");
            self.refuse("value", UserErrorCode::TooLong, message);
        }
        bytes
    }
}

/// Refuses what the database does not hold as it is, and what is too deep to be walked.
fn check_json(value: &Value, levels: usize) -> Result<(), String> {
    let nul = |text: &str| {
        if text.contains('\0') { Err("A text must not hold the character NUL (U+0000).".to_owned()) } else { Ok(()) }
    };
    let deeper = || levels.checked_sub(1).ok_or_else(|| format!("A value has at most {MAX_DEPTH} levels."));
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::INFINITY).abs();
            if number == 0.0 || NUMBERS.contains(&number) {
                return Ok(());
            }
            Err(format!("A number is 0, or {} to {} with either sign.", NUMBERS.start(), NUMBERS.end()))
        }
        Value::String(text) => nul(text),
        Value::Array(items) => {
            let deeper = deeper()?;
            items.iter().try_for_each(|item| check_json(item, deeper))
        }
        Value::Object(object) => {
            let deeper = deeper()?;
            object.iter().try_for_each(|(name, item)| nul(name).and_then(|()| check_json(item, deeper)))
        }
    }
}

/// Refuses a key that is none; says nothing of what it was.
pub(super) fn check_key(checks: &mut Checks, key: &str) {
    let separators = |byte: u8| b"._-".contains(&byte);
    let bytes = key.as_bytes();
    let all = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || separators(*byte));
    let single = !bytes.windows(2).any(|pair| separators(pair[0]) && separators(pair[1]));
    let ends = [bytes.first(), bytes.last()].iter().all(|end| end.is_some_and(|byte| !separators(*byte)));
    if bytes.len() > MAX_KEY {
        checks.refuse("key", UserErrorCode::TooLong, format!("`key` takes at most {MAX_KEY} characters."));
    } else if !(all && single && ends) {
        let message = "`key` takes letters of ASCII and digits, with single `.`, `_` or `-` between them.";
        checks.refuse("key", UserErrorCode::Invalid, message);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::graphql::mutation::VerbError;

    fn draft() -> Draft {
        Draft {
            key: "new-inbox".into(),
            name: "New inbox".into(),
            description: None,
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
            owner: None,
            stale_after: None,
        }
    }

    fn typed(value_type: FlagValueType, variants: &[(&str, Value, f64)]) -> Draft {
        let variants = variants.iter().cloned();
        let variants: Vec<Variant> =
            variants.map(|(name, value, weight)| Variant { name: name.into(), value, weight }).collect();
        let off_variant = variants.first().map(|variant| variant.name.clone());
        Draft { value_type, variants, off_variant, default_enabled: true, ..draft() }
    }

    /// The places and codes of what is wrong.
    fn faults_of(mut draft: Draft, expected: &Expected) -> Vec<String> {
        let mut checks = Checks::default();
        check_key(&mut checks, &draft.key);
        draft.check(&mut checks, expected);
        match checks.finish() {
            Err(VerbError::User(errors)) => {
                errors.iter().map(|error| format!("{} {:?}", error.field[1..].join("."), error.code)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn faults(draft: Draft) -> Vec<String> {
        faults_of(draft, &Expected::default())
    }

    #[test]
    fn definitions_that_hold_are_accepted() {
        use FlagValueType::{Number, Object, String};
        for good in [
            draft(),
            Draft { rollout_percentage: Some(0.01), ..draft() },
            Draft { rollout_percentage: Some(99.99), ..draft() },
            Draft { key: "myFlag.b_c-1".into(), kind: FlagKind::KillSwitch, default_enabled: true, ..draft() },
            typed(String, &[("off", json!(""), 0.0), ("red", json!("#f00"), 0.0001), ("blue", json!("#00f"), 1e6)]),
            typed(Number, &[("few", json!(-10.5), 1.0), ("many", json!(9_007_199_254_740_991_i64), 0.0)]),
            typed(Object, &[("plain", json!({ "a": [1, { "b": null }] }), 1.0)]),
            Draft { default_enabled: false, ..typed(String, &[("off", json!("x"), 0.0)]) },
        ] {
            assert_eq!(faults(good.clone()), [""; 0], "{good:?}");
        }
    }

    #[test]
    fn definitions_that_contradict_themselves_are_refused_with_the_place() {
        use FlagValueType::{Number, Object, String};
        let at = |seconds| DateTime::from_timestamp(seconds, 0);
        let deep = (0..40).fold(json!({}), |inner, _| json!({ "a": inner }));
        let ok = json!("x");
        for (bad, expected) in [
            (Draft { key: std::string::String::new(), ..draft() }, "key Invalid"),
            (Draft { key: "a--b".into(), ..draft() }, "key Invalid"),
            (Draft { key: "ä".into(), ..draft() }, "key Invalid"),
            (Draft { key: "a\0".into(), ..draft() }, "key Invalid"),
            (Draft { key: "x".repeat(1 << 20), ..draft() }, "key TooLong"),
            (Draft { name: " ".into(), ..draft() }, "name Blank"),
            (Draft { owner: Some("x".repeat(201)), ..draft() }, "owner TooLong"),
            (Draft { rollout_percentage: Some(-0.01), ..draft() }, "rolloutPercentage Invalid"),
            (Draft { rollout_percentage: Some(100.01), ..draft() }, "rolloutPercentage Invalid"),
            (Draft { rollout_percentage: Some(0.001), ..draft() }, "rolloutPercentage Invalid"),
            (Draft { rollout_percentage: Some(f64::NAN), ..draft() }, "rolloutPercentage Invalid"),
            (Draft { starts_at: at(5), ends_at: at(5), ..draft() }, "endsAt Invalid"),
            (
                Draft { kind: FlagKind::KillSwitch, minimum_plan: Some(OrganizationPlan::Pro), ..draft() },
                "minimumPlan Invalid",
            ),
            (
                Draft { kind: FlagKind::KillSwitch, rollout_percentage: Some(1.0), ..draft() },
                "rolloutPercentage Invalid",
            ),
            (Draft { kind: FlagKind::KillSwitch, ..typed(String, &[("a", ok.clone(), 1.0)]) }, "valueType Invalid"),
            (Draft { off_variant: Some("off".into()), ..draft() }, "offVariant Invalid"),
            (
                Draft {
                    value_type: FlagValueType::Boolean,
                    off_variant: None,
                    ..typed(String, &[("a", ok.clone(), 1.0)])
                },
                "variants Invalid",
            ),
            (typed(String, &[]), "variants Blank"),
            (typed(String, &[("a", json!(1), 1.0)]), "variants.0.value Invalid"),
            (typed(Number, &[("a", json!(1), 1.0), ("b", json!("1"), 1.0)]), "variants.1.value Invalid"),
            (typed(Number, &[("a", json!(1e300), 1.0)]), "variants.0.value Invalid"),
            (typed(Object, &[("a", json!([]), 1.0)]), "variants.0.value Invalid"),
            (typed(Object, &[("a", Value::Null, 1.0)]), "variants.0.value Invalid"),
            (typed(Object, &[("a", deep, 1.0)]), "variants.0.value Invalid"),
            (typed(Object, &[("a", json!({ "x": "\0" }), 1.0)]), "variants.0.value Invalid"),
            (typed(Object, &[("a", json!({ "\0": 1 }), 1.0)]), "variants.0.value Invalid"),
            (typed(String, &[("a", json!("x".repeat(16 * 1024)), 1.0)]), "variants.0.value TooLong"),
            (typed(String, &[("a", ok.clone(), 1.0), ("a", ok.clone(), 1.0)]), "variants.1.name Conflict"),
            (typed(String, &[("a", ok.clone(), 1.0), (" ", ok.clone(), 1.0)]), "variants.1.name Blank"),
            (typed(String, &[("a", ok.clone(), 1.0), ("b ", ok.clone(), 1.0)]), "variants.1.name Invalid"),
            (typed(String, &[("a", ok.clone(), 1.0), ("b", ok.clone(), -1.0)]), "variants.1.weight Invalid"),
            (typed(String, &[("a", ok.clone(), 1.0), ("b", ok.clone(), f64::NAN)]), "variants.1.weight Invalid"),
            (typed(String, &[("a", ok.clone(), 1.0), ("b", ok.clone(), f64::INFINITY)]), "variants.1.weight Invalid"),
            (typed(String, &[("a", ok.clone(), 0.0), ("b", ok.clone(), 0.0)]), "variants Invalid"),
            (
                Draft { off_variant: Some("none".into()), ..typed(String, &[("a", ok.clone(), 1.0)]) },
                "offVariant NotFound",
            ),
            (Draft { off_variant: None, ..typed(String, &[("a", ok.clone(), 1.0)]) }, "offVariant Blank"),
        ] {
            assert_eq!(faults(bad), [expected]);
        }
        let many: Vec<(&str, Value, f64)> = (0..10_000).map(|_| ("a", ok.clone(), 1.0)).collect();
        assert_eq!(faults(typed(String, &many)), ["variants TooLong"]);
        let large = json!("x".repeat(15_000));
        let names = ["a", "b", "c", "d", "e"];
        let all: Vec<(&str, Value, f64)> = names.iter().map(|name| (*name, large.clone(), 1.0)).collect();
        assert_eq!(faults(typed(String, &all)), ["variants TooLong"]);
    }

    #[test]
    fn variants_that_overrides_name_stay() {
        let off = |variants: &[(&str, Value, f64)]| Draft {
            default_enabled: false,
            ..typed(FlagValueType::String, variants)
        };
        let named = Expected { variants: vec![("red".into(), 3)], unnamed: 0 };
        assert_eq!(faults_of(off(&[("off", json!(""), 0.0)]), &named), ["variants Conflict"]);
        assert_eq!(faults_of(off(&[("off", json!(""), 0.0), ("red", json!(""), 0.0)]), &named), [""; 0]);
        let unnamed = Expected { variants: Vec::new(), unnamed: 1 };
        assert_eq!(faults_of(off(&[("off", json!(""), 0.0)]), &unnamed), ["variants Invalid"]);
    }
}
