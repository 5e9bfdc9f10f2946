//! Evaluates rules. Each is compiled once for each of its versions.

use std::sync::{Arc, LazyLock};

use datalogic_rs::bumpalo::Bump;
use datalogic_rs::{Engine, EvaluationConfig, Logic, ParsedData};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::{Map, Value, json};

use crate::agents::validate::{Checked, Fault, check};
use crate::id::{DecisionRuleId, OrganizationId};

/// Nothing is converted: a number that is missing, and a division by zero, are errors.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::builder().with_config(EvaluationConfig::strict()).build());

/// Most bytes of the rules that are kept compiled, counted as [`Weight`] does.
const CACHED_BYTES: u64 = 32 * 1024 * 1024;

/// An organization's rule in one of its versions.
type Key = (OrganizationId, DecisionRuleId, i32);

/// The organization is part of the key, and a rule that is found is compared with what the database says: no rule stands in for
/// another.
static CACHE: LazyLock<Cache<Key, Arc<Rule>, Weight>> =
    LazyLock::new(|| Cache::with_weighter(2_000, CACHED_BYTES, Weight));

/// A compiled rule takes about 16 bytes for each of its text, and is there twice: as a whole and as its comparisons.
#[derive(Clone)]
struct Weight;

impl Weighter<Key, Arc<Rule>> for Weight {
    fn weight(&self, _: &Key, rule: &Arc<Rule>) -> u64 {
        u64::try_from(rule.bytes).unwrap_or(u64::MAX).saturating_mul(32).saturating_add(1_024)
    }
}

/// Most comparisons that an explanation shows.
const MAX_TESTS: usize = 32;
/// Most bytes of one that is shown with its text.
const MAX_TEST: usize = 300;

/// A compiled rule.
#[derive(Debug)]
pub(super) struct Rule {
    conditions: Value,
    checked: Checked,
    logic: Logic,
    tests: Vec<Logic>,
    bytes: usize,
}

/// Facts and thresholds, as rules read them.
pub(super) struct Data<'a> {
    facts: &'a Value,
    thresholds: &'a Arc<Map<String, Value>>,
    parsed: Result<ParsedData, String>,
}

impl<'a> Data<'a> {
    /// Brings them together.
    pub fn new(facts: &'a Value, thresholds: &'a Arc<Map<String, Value>>) -> Self {
        let mut all = facts.clone();
        all["threshold"] = Value::Object(thresholds.as_ref().clone());
        let parsed = ParsedData::from_json(&all.to_string()).map_err(|error| error.to_string());
        Self { facts, thresholds, parsed }
    }

    /// Whether these are its thresholds.
    pub fn is_with(&self, thresholds: &Arc<Map<String, Value>>) -> bool {
        Arc::ptr_eq(self.thresholds, thresholds)
    }
}

impl Rule {
    /// Checks and compiles conditions.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn compile(conditions: &Value, thresholds: &Map<String, Value>) -> Result<Self, Vec<Fault>> {
        let checked = check(conditions, thresholds)?;
        let compile = |logic: &Value| {
            let text = logic.to_string();
            ENGINE.compile(text.as_str()).map_err(|error| {
                vec![Fault {
                    at: String::new(),
                    message: format!("The rule cannot be compiled: {error}."),
                    is_size: false,
                }]
            })
        };
        let logic = compile(&checked.logic)?;
        let tests = checked.tests.iter().take(MAX_TESTS).map(|(_, test)| compile(test)).collect::<Result<_, _>>()?;
        Ok(Self { bytes: conditions.to_string().len(), conditions: conditions.clone(), checked, logic, tests })
    }

    /// The stored rule, compiled before or now.
    ///
    /// # Errors
    /// As [`Rule::compile`]: a rule that was written by hand, or by a build that knew other variables.
    pub fn stored(key: Key, conditions: &Value, thresholds: &Map<String, Value>) -> Result<Arc<Self>, Vec<Fault>> {
        if let Some(rule) = CACHE.get(&key).filter(|rule| rule.conditions == *conditions) {
            return Ok(rule);
        }
        let rule = Arc::new(Self::compile(conditions, thresholds)?);
        CACHE.insert(key, Arc::clone(&rule));
        Ok(rule)
    }

    /// Whether the rule reads amounts of money, so that it needs a currency.
    pub fn reads_amount(&self) -> bool {
        self.checked.reads_amount
    }

    /// Whether the conditions hold.
    ///
    /// # Errors
    /// Why that cannot be said.
    pub fn holds(&self, data: &Data<'_>) -> Result<bool, String> {
        let missing = |name: &&str| !data.thresholds.get(*name).is_some_and(Value::is_number);
        if let Some(name) = self.checked.thresholds().find(missing) {
            return Err(format!("The agent has no threshold `{name}`."));
        }
        truth(&self.logic, data)
    }

    /// The values of the variables that the rule reads; what is missing is null.
    pub fn values(&self, data: &Data<'_>) -> Value {
        let value = |name: &str| match name.strip_prefix(super::variables::THRESHOLD) {
            Some(threshold) => data.thresholds.get(threshold).cloned().unwrap_or_default(),
            None => name.split('.').fold(data.facts, |value, part| &value[part]).clone(),
        };
        self.checked.reads.iter().map(|name| (name.clone(), value(name))).collect()
    }

    /// What each comparison said, in the order of the rule; null: it could not be said, and the rule did not ask. At most 32.
    pub fn tests(&self, data: &Data<'_>) -> Value {
        let tests = self.checked.tests.iter().zip(&self.tests);
        tests
            .map(|((at, test), logic)| {
                let mut shown = json!({ "at": at, "is": truth(logic, data).ok() });
                if test.to_string().len() <= MAX_TEST {
                    shown["test"] = test.clone();
                }
                shown
            })
            .collect()
    }
}

fn truth(logic: &Logic, data: &Data<'_>) -> Result<bool, String> {
    let arena = Bump::new();
    let parsed = data.parsed.as_ref().map_err(Clone::clone)?;
    let value = ENGINE.evaluate(logic, parsed, &arena).map_err(|error| error.to_string())?;
    value.as_bool().ok_or_else(|| "The conditions gave no boolean.".to_owned())
}
