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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agents::facts::tests::facts;
    use crate::agents::facts::{RefundFacts, TicketFacts};
    use crate::agents::validate::MAX_DEPTH;
    use crate::tickets::{TicketCategory, TicketPriority, TicketStatus};

    fn thresholds() -> Arc<Map<String, Value>> {
        Arc::new(json!({ "low": 5000, "share": 0.5, "zero": 0 }).as_object().cloned().unwrap_or_default())
    }

    fn holds(conditions: &Value, facts: &RefundFacts) -> Result<bool, String> {
        let thresholds = thresholds();
        let rule = Rule::compile(conditions, &thresholds).expect("well formed");
        let facts = facts.to_value();
        rule.holds(&Data::new(&facts, &thresholds))
    }

    #[test]
    fn rules_hold_as_jsonlogic_says() {
        let facts = facts();
        let known = [
            (json!({ "<=": [{ "var": "amountMinor" }, { "var": "threshold.low" }] }), true),
            (json!({ "<": [100, { "var": "amountMinor" }, 2500] }), false),
            (json!({ "<=": [100, { "var": "amountMinor" }, 2500] }), true),
            (json!({ "==": [{ "var": "customer.tier" }, "PREMIUM"] }), true),
            (json!({ "in": [{ "var": "reason" }, ["OTHER", "GOODWILL"]] }), false),
            (json!({ "!": { "var": "hasCharge" } }), false),
            (json!({ ">": [{ "%": [{ "var": "amountMinor" }, 1000] }, 499.5] }), true),
            (json!({ ">": [{ "/": [{ "var": "amountMinor" }, 3] }, 833.3] }), true),
            (json!({ "==": [{ "max": [1, { "var": "customer.ageDays" }, 7.5] }, 400] }), true),
            (json!({ "==": [{ "*": [{ "var": "threshold.share" }, 5000] }, { "var": "amountMinor" }] }), true),
            (json!({ "if": [{ "var": "hasTicket" }, { "<": [{ "var": "ticket.ageHours" }, 24] }, true] }), false),
        ];
        for (rule, expected) in known {
            assert_eq!(holds(&rule, &facts), Ok(expected), "{rule}");
        }
    }

    /// Without a ticket its texts equal nothing and its numbers are an error, unless the rule asks for `hasTicket` before.
    #[test]
    fn rules_of_a_ticket_that_is_not_there() {
        let facts = RefundFacts { ticket: None, ..facts() };
        let age = json!({ "<": [{ "var": "ticket.ageHours" }, 24] });
        assert!(holds(&age, &facts).is_err());
        assert!(holds(&json!({ "<": [{ "+": [{ "var": "ticket.ageHours" }, 1] }, 24] }), &facts).is_err());
        assert!(holds(&json!({ "<": [{ "max": [{ "var": "ticket.ageHours" }, 1] }, 24] }), &facts).is_err());
        assert_eq!(holds(&json!({ "and": [{ "var": "hasTicket" }, age] }), &facts), Ok(false));
        assert_eq!(holds(&json!({ "==": [{ "var": "ticket.status" }, "OPEN"] }), &facts), Ok(false));
        assert_eq!(holds(&json!({ "!=": [{ "var": "ticket.status" }, "OPEN"] }), &facts), Ok(true));
        assert!(holds(&json!({ "==": [{ "var": "ticket.ageHours" }, 0] }), &facts).is_err(), "null is not zero");
        assert_eq!(holds(&json!({ "in": [{ "var": "ticket.category" }, ["OTHER"]] }), &facts), Ok(false));
        let by_zero = json!({ "<": [{ "/": [{ "var": "amountMinor" }, { "var": "threshold.zero" }] }, 5] });
        assert!(holds(&by_zero, &facts).is_err());
        let rest_of_zero = json!({ "<": [{ "%": [{ "var": "threshold.share" }, { "var": "threshold.zero" }] }, 5] });
        assert!(holds(&rest_of_zero, &facts).is_err());
    }

    /// Up to 2^53, which no amount of a request reaches; what is larger is cut there, and never small by overflow.
    #[test]
    fn amounts_are_exact() {
        let at = |amount_minor| RefundFacts { amount_minor, ..facts() };
        let most = 1_000_000_000_000_000_i64;
        let equal = json!({ "==": [{ "var": "amountMinor" }, most - 1] });
        assert_eq!(holds(&equal, &at(most)), Ok(false));
        assert_eq!(holds(&equal, &at(most - 1)), Ok(true));
        let less = json!({ "<": [{ "var": "amountMinor" }, most] });
        assert_eq!(holds(&less, &at(most - 1)), Ok(true));
        assert_eq!(holds(&less, &at(most)), Ok(false));
        assert_eq!(holds(&less, &at(i64::MAX)), Ok(false));
        let product = json!({ "<": [{ "*": [{ "var": "amountMinor" }, most, most] }, most] });
        assert_eq!(holds(&product, &at(most)), Ok(false));
        let factors = vec![json!(most); 9];
        assert_eq!(holds(&json!({ "<": [{ "*": factors }, most] }), &facts()), Ok(false), "no infinity, no NaN");
    }

    #[test]
    fn a_rule_is_found_again_only_as_what_it_says_and_only_for_its_organization() {
        let id = DecisionRuleId::from_uuid(uuid::Uuid::from_u128(7));
        let organization = |n| OrganizationId::from_uuid(uuid::Uuid::from_u128(n));
        let (yes, no) = (json!(true), json!(false));
        let known = |organization, version, conditions| {
            Rule::stored((organization, id, version), conditions, &thresholds())
                .expect("well formed")
                .conditions
                .clone()
        };
        assert_eq!(known(organization(1), 1, &yes), yes);
        assert_eq!(known(organization(2), 1, &no), no, "the same rule and version of another organization");
        assert_eq!(known(organization(1), 1, &no), no, "a version that was written anew");
        assert_eq!(known(organization(1), 2, &yes), yes);
        assert!(Rule::stored((organization(1), id, 3), &json!({ "var": "nothing" }), &thresholds()).is_err());
    }

    #[test]
    fn a_threshold_that_is_gone_is_an_error_also_where_it_would_not_be_equal() {
        let rule =
            Rule::compile(&json!({ "!=": [{ "var": "amountMinor" }, { "var": "threshold.low" }] }), &thresholds());
        let (rule, facts) = (rule.expect("well formed"), facts().to_value());
        for left in [json!({}), json!({ "low": "5000" }), json!({ "low": null })] {
            let left = Arc::new(left.as_object().cloned().unwrap_or_default());
            assert!(rule.holds(&Data::new(&facts, &left)).is_err(), "{left:?}");
        }
    }

    /// Bytes as decisions, for random rules: the first of them say the most, so that cases shrink.
    struct Dice<'a>(std::slice::Iter<'a, u8>);

    impl Dice<'_> {
        fn roll(&mut self, sides: u8) -> u8 {
            self.0.next().copied().unwrap_or(0) % sides
        }

        fn of<T: Clone>(&mut self, values: &[T]) -> T {
            values[usize::from(self.roll(200)) % values.len()].clone()
        }

        fn boolean(&mut self, depth: usize) -> Value {
            match self.roll(if depth < MAX_DEPTH { 12 } else { 2 }) {
                0 => self.of(&[json!(true), json!(false)]),
                1 => json!({ "var": self.of(&["hasCharge", "hasTicket"]) }),
                2 | 3 => json!({ self.of(&["and", "or"]): [self.boolean(depth + 1), self.boolean(depth + 1)] }),
                4 => json!({ self.of(&["!", "!!"]): [self.boolean(depth + 1)] }),
                5 => json!({ "if": [self.boolean(depth + 1), self.boolean(depth + 1), self.boolean(depth + 1)] }),
                6 => {
                    let name = self.of(&["customer.tier", "ticket.category"]);
                    let label = if name == "customer.tier" {
                        self.of(&["VIP", "PREMIUM"])
                    } else {
                        self.of(&["BILLING", "OTHER"])
                    };
                    json!({ self.of(&["==", "!=", "===", "!=="]): [{ "var": name }, label] })
                }
                7 => json!({ "in": [{ "var": "customer.tier" }, [self.of(&["VIP", "STANDARD"]), "PREMIUM"]] }),
                8 => json!({ self.of(&["==", "!="]): [self.number(depth + 1), self.number(depth + 1)] }),
                9 => {
                    json!({ self.of(&["<", "<=", ">", ">="]): [self.number(depth + 1), self.number(depth + 1), self.number(depth + 1)] })
                }
                _ => json!({ self.of(&["<", "<=", ">", ">="]): [self.number(depth + 1), self.number(depth + 1)] }),
            }
        }

        fn number(&mut self, depth: usize) -> Value {
            match self.roll(if depth < MAX_DEPTH { 9 } else { 4 }) {
                0 => json!(i32::from(self.roll(200)) - 50),
                1 => json!(f64::from(self.roll(100)) / 4.0),
                2 => json!({ "var": self.of(&["amountMinor", "customer.ageDays", "ticket.ageHours"]) }),
                3 => json!({ "var": self.of(&["threshold.low", "threshold.share", "threshold.zero"]) }),
                4 => {
                    json!({ self.of(&["+", "min", "max"]): [self.number(depth + 1), self.number(depth + 1), self.number(depth + 1)] })
                }
                5 => json!({ self.of(&["+", "-", "min", "max"]): [self.number(depth + 1)] }),
                6 => json!({ "if": [self.boolean(depth + 1), self.number(depth + 1), self.number(depth + 1)] }),
                7 => json!({ self.of(&["*", "/", "%"]): [self.number(depth + 1), self.number(depth + 1)] }),
                _ => json!({ "-": [self.number(depth + 1), self.number(depth + 1)] }),
            }
        }

        fn facts(&mut self) -> RefundFacts {
            RefundFacts {
                amount_minor: i64::from(self.roll(200)) * 37,
                has_charge: self.roll(2) == 1,
                age_days: self.roll(200).into(),
                ticket: (self.roll(3) > 0).then(|| TicketFacts {
                    status: TicketStatus::Open,
                    priority: TicketPriority::High,
                    category: TicketCategory::Billing,
                    age_hours: self.roll(100).into(),
                }),
                ..facts()
            }
        }
    }

    /// What a value is; `Missing`: a part of a ticket that is not there.
    #[derive(Clone, Debug, PartialEq)]
    enum Is {
        Number(f64),
        Boolean(bool),
        Text(String),
        Missing,
    }

    /// A reading of the language that shares nothing with ours or the engine's. `None`: an error.
    fn read(rule: &Value, data: &Value) -> Option<Is> {
        let object = match rule {
            Value::Bool(value) => return Some(Is::Boolean(*value)),
            Value::Number(value) => return value.as_f64().map(Is::Number),
            Value::String(value) => return Some(Is::Text(value.clone())),
            Value::Object(object) => object,
            _ => return None,
        };
        let (name, arguments) = object.iter().next()?;
        let argument = |place: usize| read(&arguments[place], data);
        let number = |place| match argument(place) {
            Some(Is::Number(number)) => Some(number),
            _ => None,
        };
        let truth = |place| match argument(place) {
            Some(Is::Boolean(value)) => Some(value),
            _ => None,
        };
        let count = arguments.as_array().map_or(0, Vec::len);
        let numbers = || (0..count).map(number).collect::<Option<Vec<f64>>>();
        Some(match name.as_str() {
            "var" => {
                let value = arguments.as_str()?.split('.').fold(data, |value, part| &value[part]);
                match value {
                    Value::Null if arguments == "ticket.ageHours" => return None,
                    Value::Null => Is::Missing,
                    value => read(value, data)?,
                }
            }
            "and" => Is::Boolean(truth(0)? && truth(1)?),
            "or" => Is::Boolean(truth(0)? || truth(1)?),
            "!" => Is::Boolean(!truth(0)?),
            "!!" => Is::Boolean(truth(0)?),
            "if" => {
                if truth(0)? {
                    argument(1)?
                } else {
                    argument(2)?
                }
            }
            "==" | "===" => Is::Boolean(argument(0)? == argument(1)?),
            "!=" | "!==" => Is::Boolean(argument(0)? != argument(1)?),
            "in" => Is::Boolean(arguments[1].as_array()?.iter().any(|item| read(item, data) == argument(0))),
            "<" | "<=" | ">" | ">=" => {
                let fits = |left: f64, right: f64| match name.as_str() {
                    "<" => left < right,
                    "<=" => left <= right,
                    ">" => left > right,
                    _ => left >= right,
                };
                // The third is not asked for when the first two do not fit.
                let (left, right) = (number(0)?, number(1)?);
                Is::Boolean(fits(left, right) && (count < 3 || fits(right, number(2)?)))
            }
            "+" => Is::Number(numbers()?.iter().sum()),
            "-" if count == 1 => Is::Number(-number(0)?),
            "-" => Is::Number(number(0)? - number(1)?),
            "*" => Is::Number(number(0)? * number(1)?),
            "/" | "%" if number(1)? == 0.0 => return None,
            "/" => Is::Number(number(0)? / number(1)?),
            "%" => Is::Number(number(0)? % number(1)?),
            "min" => Is::Number(numbers()?.into_iter().fold(f64::INFINITY, f64::min)),
            "max" => Is::Number(numbers()?.into_iter().fold(f64::NEG_INFINITY, f64::max)),
            _ => return None,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

        /// Random rules over random facts: what the engine says is what a plain reading of the language says.
        #[test]
        fn rules_are_evaluated_as_a_plain_reading_says(bytes in proptest::collection::vec(any::<u8>(), 0..160)) {
            let mut dice = Dice(bytes.iter());
            let rule = dice.boolean(0);
            let facts = dice.facts().to_value();
            let thresholds = thresholds();
            // What is too large or multiplies too often is refused, and that is all that can be wrong.
            let Ok(compiled) = Rule::compile(&rule, &thresholds) else { return Ok(()) };
            let mut all = facts.clone();
            all["threshold"] = Value::Object(thresholds.as_ref().clone());
            let expected = match read(&rule, &all) {
                Some(Is::Boolean(value)) => Some(value),
                _ => None,
            };
            let data = Data::new(&facts, &thresholds);
            prop_assert_eq!(compiled.holds(&data).ok(), expected, "{}", rule);
            compiled.tests(&data);
        }

        /// Whatever is sent is refused or evaluated.
        #[test]
        fn rules_that_are_anything_never_panic(text in "[\\[\\]{}:,\"a-z0-9.<=!+*/ ]{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut dice = Dice(bytes.iter());
            let inner = serde_json::from_str(&text).unwrap_or(Value::String(text));
            let operator = dice.of(crate::agents::validate::OPERATORS);
            let rule = json!({ operator: [inner.clone(), dice.boolean(10), dice.number(10)] });
            for rule in [rule, inner] {
                if let Ok(rule) = Rule::compile(&rule, &thresholds()) {
                    let (facts, thresholds) = (facts().to_value(), thresholds());
                    let data = Data::new(&facts, &thresholds);
                    let _ = rule.holds(&data);
                }
            }
        }
    }
}
