//! Are the conditions of a rule well formed? Types, names, sizes, all before anything is stored.
//!
//! The language is the part of `JsonLogic` (<https://jsonlogic.com/operations.html>) whose work is bounded by the size of the rule:
//! no loops over lists, no texts that grow. It is typed, so that what JavaScript would compare by converting is refused instead.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::agents::variables::{Kind, THRESHOLD, VARIABLES, nearest, variable};
use crate::graphql::money::is_currency;

/// Levels of operators that may stand in each other.
pub(super) const MAX_DEPTH: usize = 16;
/// Most operators, values and lists of a rule, together.
const MAX_NODES: usize = 256;
/// Most bytes of a rule as JSON without spaces.
const MAX_BYTES: usize = 16 * 1024;
/// Most `*`, `/` and `%` of a rule: with it no number leaves the range of a double.
const MAX_FACTORS: usize = 8;
/// Least and most of a number other than zero, without its sign.
const NUMBERS: std::ops::RangeInclusive<f64> = 1e-9..=1e15;
/// Most errors that are told.
const MAX_FAULTS: usize = 10;

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// JSON pointer (RFC 6901) into the conditions; empty: the whole.
    pub at: String,
    pub message: String,
    pub is_size: bool,
}

/// A rule that is well formed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Checked {
    /// The conditions as they are evaluated: arguments in lists, `==` as `===`, numbers of a ticket so that none is an error.
    pub logic: Value,
    /// The variables it reads, thresholds among them, in the order of the alphabet.
    pub reads: BTreeSet<String>,
    /// Whether it reads an amount of money.
    pub reads_amount: bool,
    /// Its comparisons and boolean variables, with their pointers, in the order of the text.
    pub tests: Vec<(String, Value)>,
}

impl Checked {
    /// The names of the thresholds it reads.
    pub fn thresholds(&self) -> impl Iterator<Item = &str> {
        self.reads.iter().filter_map(|name| name.strip_prefix(THRESHOLD))
    }
}

/// Whether a number is one that rules and thresholds may have.
pub(super) fn is_number(number: &serde_json::Number) -> bool {
    number.as_f64().is_some_and(|number| number == 0.0 || NUMBERS.contains(&number.abs()))
}

/// Whether this can be the name of a threshold.
pub(super) fn is_threshold_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Checks the conditions of a rule of an agent with these thresholds.
///
/// # Errors
/// What is wrong, at most ten.
pub(super) fn check(conditions: &Value, thresholds: &Map<String, Value>) -> Result<Checked, Vec<Fault>> {
    let bytes = conditions.to_string().len();
    if bytes > MAX_BYTES {
        let message = format!("A rule takes at most {MAX_BYTES} bytes of JSON; this has {bytes}.");
        return Err(vec![Fault { at: String::new(), message, is_size: true }]);
    }
    let mut walk =
        Walk { thresholds, nodes: 0, factors: 0, faults: Vec::new(), reads: BTreeMap::new(), tests: Vec::new() };
    let found = walk.node(conditions, &At::default());
    if let Some(found) = &found
        && found.ty != Type::Boolean
    {
        walk.fault(&At::default(), format!("A rule is true or false; this is {}.", found.ty));
    }
    match found {
        Some(found) if walk.faults.is_empty() => Ok(Checked {
            logic: found.logic,
            reads_amount: walk.reads.values().any(|is_amount| *is_amount),
            reads: walk.reads.into_keys().collect(),
            tests: walk.tests,
        }),
        _ => {
            walk.faults.truncate(MAX_FAULTS);
            Err(walk.faults)
        }
    }
}

/// The type of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Number,
    Boolean,
    /// A text that stands in the rule.
    Text,
    /// The value of this variable, a text.
    Of(&'static str),
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number => f.write_str("a number"),
            Self::Boolean => f.write_str("a boolean"),
            Self::Text => f.write_str("a text"),
            Self::Of(name) => write!(f, "the text `{name}`"),
        }
    }
}

/// An expression without faults.
struct Found {
    ty: Type,
    logic: Value,
}

/// A place in the rule.
#[derive(Clone, Debug, Default)]
struct At {
    pointer: String,
    depth: usize,
}

impl At {
    /// The arguments of an operator. Only names of operators come here; `~` and `/` are written as RFC 6901 has it.
    fn operator(&self, name: &str) -> Self {
        let name = name.replace('~', "~0").replace('/', "~1");
        Self { pointer: format!("{}/{name}", self.pointer), depth: self.depth + 1 }
    }

    fn item(&self, place: usize) -> Self {
        Self { pointer: format!("{}/{place}", self.pointer), depth: self.depth }
    }
}

struct Walk<'a> {
    thresholds: &'a Map<String, Value>,
    nodes: usize,
    factors: usize,
    faults: Vec<Fault>,
    /// Each with whether it is an amount.
    reads: BTreeMap<String, bool>,
    tests: Vec<(String, Value)>,
}

impl Walk<'_> {
    fn fault(&mut self, at: &At, message: impl Into<String>) {
        self.faults.push(Fault { at: at.pointer.clone(), message: message.into(), is_size: false });
    }

    /// Counts a node; whether there is room for it. What is too much is told once.
    fn counts(&mut self, at: &At) -> bool {
        self.nodes += 1;
        let message = if at.depth > MAX_DEPTH {
            format!("A rule has at most {MAX_DEPTH} levels of operators.")
        } else if self.nodes > MAX_NODES {
            format!("A rule has at most {MAX_NODES} operators and values.")
        } else {
            return true;
        };
        if !self.faults.iter().any(|fault| fault.is_size) {
            self.faults.push(Fault { at: at.pointer.clone(), message, is_size: true });
        }
        false
    }

    /// An expression; `None` when it has a fault, which is noted.
    fn node(&mut self, value: &Value, at: &At) -> Option<Found> {
        if !self.counts(at) {
            return None;
        }
        let ty = match value {
            Value::Bool(_) => Type::Boolean,
            Value::String(text) if text.contains('\0') => {
                self.fault(at, "A text must not hold the character NUL (U+0000).");
                return None;
            }
            Value::String(_) => Type::Text,
            Value::Number(number) if is_number(number) => Type::Number,
            Value::Number(_) => {
                self.fault(at, "A number is 0, or from 0.000000001 to 1000000000000000 with either sign.");
                return None;
            }
            Value::Null => {
                self.fault(at, "`null` equals nothing: ask `hasTicket` whether there is a ticket.");
                return None;
            }
            Value::Array(_) => {
                self.fault(at, "A list stands only on the right of `in`.");
                return None;
            }
            Value::Object(object) => return self.operation(object, at),
        };
        Some(Found { ty, logic: value.clone() })
    }

    fn operation(&mut self, object: &Map<String, Value>, at: &At) -> Option<Found> {
        let mut entries = object.iter();
        let (Some((name, arguments)), None) = (entries.next(), entries.next()) else {
            self.fault(at, format!("An operation is an object with one key, its operator; this has {}.", object.len()));
            return None;
        };
        let inside = at.operator(name);
        match name.as_str() {
            "var" => self.var(arguments, at),
            "and" | "or" | "!" | "!!" => self.boolean(name, arguments, &inside),
            "==" | "===" | "!=" | "!==" => self.equality(name, arguments, at, &inside),
            "<" | "<=" | ">" | ">=" => self.order(name, arguments, at, &inside),
            "in" => self.is_in(arguments, at, &inside),
            "+" | "-" | "*" | "/" | "%" | "min" | "max" => self.arithmetic(name, arguments, &inside),
            "if" => self.choice(arguments, &inside),
            _ => {
                let message = match nearest(name, OPERATORS.iter().copied()) {
                    Some(known) => format!("There is no operator `{}`; is `{known}` meant?", short(name)),
                    None => format!("There is no operator `{}`; there are {}.", short(name), OPERATORS.join(" ")),
                };
                self.fault(at, message);
                None
            }
        }
    }

    fn var(&mut self, argument: &Value, at: &At) -> Option<Found> {
        let name = match argument {
            Value::String(name) => Some(name),
            Value::Array(items) => match items.as_slice() {
                [Value::String(name)] => Some(name),
                _ => None,
            },
            _ => None,
        };
        let Some(name) = name else {
            self.fault(at, "`var` takes the name of a variable as a text: no computed name, no default.");
            return None;
        };
        let (ty, is_amount) = if let Some(known) = variable(name) {
            match known.kind {
                Kind::Amount => (Type::Number, true),
                Kind::Number => (Type::Number, false),
                Kind::Boolean => (Type::Boolean, false),
                Kind::Currency | Kind::Label(_) => (Type::Of(known.name), false),
            }
        } else if name.strip_prefix(THRESHOLD).is_some_and(|name| self.thresholds.contains_key(name)) {
            (Type::Number, false)
        } else {
            let message = self.unknown(name);
            self.fault(at, message);
            return None;
        };
        self.reads.insert(name.clone(), is_amount);
        let mut logic = json!({ "var": name });
        if ty == Type::Number && name.starts_with("ticket.") {
            // The engine orders what is missing (`null < 5` is false, whatever its settings) but adds nothing to it: so it is an
            // error wherever it stands.
            logic = json!({ "+": [logic] });
        }
        if ty == Type::Boolean {
            self.tests.push((at.pointer.clone(), logic.clone()));
        }
        Some(Found { ty, logic })
    }

    fn unknown(&self, name: &str) -> String {
        if let Some(threshold) = name.strip_prefix(THRESHOLD) {
            let mut known: Vec<&str> = self.thresholds.keys().map(String::as_str).collect();
            known.truncate(20);
            return match known.as_slice() {
                [] => format!("The agent has no threshold `{}`: it has none.", short(threshold)),
                known => format!("The agent has no threshold `{}`; it has {}.", short(threshold), known.join(", ")),
            };
        }
        let known = || VARIABLES.iter().map(|variable| variable.name);
        let shown = short(name);
        if let Some(meant) = nearest(name, known()) {
            return format!("There is no variable `{shown}`; is `{meant}` meant?");
        }
        let known: Vec<&str> = known().collect();
        format!("There is no variable `{shown}`; there are {} and threshold.<name>.", known.join(", "))
    }

    /// The arguments of an operator, each without its faults.
    fn arguments(&mut self, value: &Value, at: &At, count: std::ops::RangeInclusive<usize>) -> Option<Vec<Found>> {
        let Value::Array(items) = value else {
            // As JsonLogic has it: one argument may stand without its list.
            let found = self.node(value, at)?;
            if !count.contains(&1) {
                self.fault(at, expected(&count, 1));
                return None;
            }
            return Some(vec![found]);
        };
        let found: Vec<Option<Found>> =
            items.iter().enumerate().map(|(place, item)| self.node(item, &at.item(place))).collect();
        if !count.contains(&items.len()) {
            self.fault(at, expected(&count, items.len()));
            return None;
        }
        found.into_iter().collect()
    }

    /// Refuses arguments of another type than this; whether all are of it.
    fn all_are(&mut self, found: &[Found], ty: Type, at: &At) -> bool {
        let mut all = true;
        for (place, argument) in found.iter().enumerate().filter(|(_, argument)| argument.ty != ty) {
            self.fault(&at.item(place), format!("Here stands {ty}; this is {}.", argument.ty));
            all = false;
        }
        all
    }

    fn boolean(&mut self, name: &str, arguments: &Value, at: &At) -> Option<Found> {
        let most = if name.starts_with('!') { 1 } else { usize::MAX };
        let found = self.arguments(arguments, at, 1..=most)?;
        self.all_are(&found, Type::Boolean, at).then(|| operation(Type::Boolean, name, found))
    }

    fn equality(&mut self, name: &str, arguments: &Value, at: &At, inside: &At) -> Option<Found> {
        let found = self.arguments(arguments, inside, 2..=2)?;
        self.same(&found, inside)?;
        // Of one type on both sides they are the same, except that strictly nothing equals what is missing.
        let strict = if name.starts_with('!') { "!==" } else { "===" };
        Some(self.test(at, operation(Type::Boolean, strict, found)))
    }

    fn order(&mut self, name: &str, arguments: &Value, at: &At, inside: &At) -> Option<Found> {
        let found = self.arguments(arguments, inside, 2..=3)?;
        if !self.all_are(&found, Type::Number, inside) {
            return None;
        }
        Some(self.test(at, operation(Type::Boolean, name, found)))
    }

    fn is_in(&mut self, arguments: &Value, at: &At, inside: &At) -> Option<Found> {
        let Value::Array(items) = arguments else {
            self.fault(inside, "`in` takes a value and a list of values.");
            return None;
        };
        let [needle, Value::Array(list)] = items.as_slice() else {
            self.fault(inside, "`in` takes a value and a list of values.");
            return None;
        };
        let needle = self.node(needle, &inside.item(0));
        if list.is_empty() {
            self.fault(&inside.item(1), "The list is empty: nothing is in it.");
            return None;
        }
        let needle = needle?;
        let (mut values, mut is_right) = (Vec::new(), true);
        for (place, item) in list.iter().enumerate() {
            let at = inside.item(1).item(place);
            if item.is_object() {
                self.fault(&at, "A list holds values, no operations.");
                is_right = false;
                continue;
            }
            let pair = self.node(item, &at).map(|value| [Found { ty: needle.ty, logic: Value::Null }, value]);
            match pair {
                Some(pair) if self.same_at(&pair, [&inside.item(0), &at]).is_some() => values.push(item.clone()),
                _ => is_right = false,
            }
        }
        let logic = json!({ "in": [needle.logic, values] });
        is_right.then(|| self.test(at, Found { ty: Type::Boolean, logic }))
    }

    fn arithmetic(&mut self, name: &str, arguments: &Value, at: &At) -> Option<Found> {
        let count = match name {
            "-" => 1..=2,
            "/" | "%" => 2..=2,
            _ => 1..=usize::MAX,
        };
        let found = self.arguments(arguments, at, count)?;
        if matches!(name, "*" | "/" | "%") {
            self.factors += found.len().saturating_sub(1);
            if self.factors > MAX_FACTORS {
                self.fault(at, format!("A rule multiplies and divides at most {MAX_FACTORS} times."));
                return None;
            }
        }
        if matches!(name, "/" | "%") && found.get(1).is_some_and(|divisor| divisor.logic.as_f64() == Some(0.0)) {
            self.fault(&at.item(1), "Nothing is divided by zero.");
            return None;
        }
        self.all_are(&found, Type::Number, at).then(|| operation(Type::Number, name, found))
    }

    fn choice(&mut self, arguments: &Value, at: &At) -> Option<Found> {
        let found = self.arguments(arguments, at, 3..=usize::MAX)?;
        if found.len().is_multiple_of(2) {
            self.fault(at, "`if` takes a condition and a value, further ones, and the value of all other cases.");
            return None;
        }
        let last = found.len() - 1;
        let is_condition = |place: usize| place.is_multiple_of(2) && place != last;
        let mut is_right = true;
        let ty = found[1].ty;
        for (place, argument) in found.iter().enumerate() {
            let wanted = if is_condition(place) { Type::Boolean } else { ty };
            if argument.ty != wanted || matches!(argument.ty, Type::Text | Type::Of(_)) {
                let wanted =
                    if is_condition(place) { "a boolean" } else { "numbers or booleans, the same in every case" };
                self.fault(&at.item(place), format!("Here stands {wanted}; this is {}.", argument.ty));
                is_right = false;
            }
        }
        is_right.then(|| operation(ty, "if", found))
    }

    /// Refuses two values that can never be equal.
    fn same(&mut self, pair: &[Found], at: &At) -> Option<()> {
        let [left, right] = pair else { return None };
        let pair =
            [Found { ty: left.ty, logic: left.logic.clone() }, Found { ty: right.ty, logic: right.logic.clone() }];
        self.same_at(&pair, [&at.item(0), &at.item(1)])
    }

    fn same_at(&mut self, pair: &[Found; 2], at: [&At; 2]) -> Option<()> {
        let [left, right] = pair;
        match (left.ty, right.ty) {
            (Type::Of(name), Type::Text) => self.value_of(name, &right.logic, at[1]),
            (Type::Text, Type::Of(name)) => self.value_of(name, &left.logic, at[0]),
            (left, right) if left == right => Some(()),
            (left, right) => {
                self.fault(at[1], format!("{left} and {right} are never equal."));
                None
            }
        }
    }

    /// Refuses a text that this variable never has.
    fn value_of(&mut self, name: &str, text: &Value, at: &At) -> Option<()> {
        let text = text.as_str()?;
        match variable(name).map(|variable| variable.kind) {
            Some(Kind::Currency) if !is_currency(text) => {
                self.fault(at, format!("\"{}\" is no currency of ISO 4217.", short(text)));
                None
            }
            Some(Kind::Label(labels)) if !labels().contains(&text) => {
                self.fault(at, format!("`{name}` is never \"{}\"; it is one of {}.", short(text), labels().join(", ")));
                None
            }
            _ => Some(()),
        }
    }

    /// Notes a comparison, for explanations.
    fn test(&mut self, at: &At, found: Found) -> Found {
        self.tests.push((at.pointer.clone(), found.logic.clone()));
        found
    }
}

/// The operators of the language.
pub(super) const OPERATORS: &[&str] = &[
    "var", "and", "or", "!", "!!", "==", "===", "!=", "!==", "<", "<=", ">", ">=", "in", "if", "+", "-", "*", "/", "%",
    "min", "max",
];

fn operation(ty: Type, name: &str, arguments: Vec<Found>) -> Found {
    let arguments: Vec<Value> = arguments.into_iter().map(|argument| argument.logic).collect();
    let mut logic = Map::new();
    logic.insert(name.to_owned(), Value::Array(arguments));
    Found { ty, logic: Value::Object(logic) }
}

fn expected(count: &std::ops::RangeInclusive<usize>, found: usize) -> String {
    match (*count.start(), *count.end()) {
        (least, usize::MAX) => format!("This takes at least {least} arguments; here are {found}."),
        (least, most) if least == most => format!("This takes {least} arguments; here are {found}."),
        (least, most) => format!("This takes {least} to {most} arguments; here are {found}."),
    }
}

/// What a client wrote, short enough for a message.
fn short(text: &str) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
    if text.chars().count() > 60 {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thresholds() -> Map<String, Value> {
        json!({ "autoApproveMinor": 5000, "share": 0.5 }).as_object().cloned().unwrap_or_default()
    }

    /// Pointers and messages of what is wrong.
    fn faults(conditions: &Value) -> Vec<(String, String)> {
        match check(conditions, &thresholds()) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.into_iter().map(|fault| (fault.at, fault.message)).collect(),
        }
    }

    #[test]
    fn rules_that_are_well_formed_say_what_they_read() {
        let rule = json!({ "and": [
            { "<=": [{ "var": "amountMinor" }, { "var": ["threshold.autoApproveMinor"] }] },
            { "in": [{ "var": "ticket.category" }, ["BILLING", "ORDER"]] },
            { "!": { "var": "hasCharge" } },
            { "<": [0, { "*": [{ "var": "customer.ageDays" }, 2.5] }, 900] },
            { "if": [{ "var": "hasTicket" }, { "!=": [{ "var": "ticket.priority" }, "URGENT"] }, true] },
        ] });
        let checked = check(&rule, &thresholds()).expect("well formed");
        assert!(checked.reads_amount);
        assert_eq!(checked.thresholds().collect::<Vec<_>>(), ["autoApproveMinor"]);
        let reads: Vec<&str> = checked.reads.iter().map(String::as_str).collect();
        assert_eq!(
            reads,
            [
                "amountMinor",
                "customer.ageDays",
                "hasCharge",
                "hasTicket",
                "threshold.autoApproveMinor",
                "ticket.category",
                "ticket.priority"
            ]
        );
        let places: Vec<&str> = checked.tests.iter().map(|(at, _)| at.as_str()).collect();
        assert_eq!(places, ["/and/0", "/and/1", "/and/2/!", "/and/3", "/and/4/if/0", "/and/4/if/1"]);
        // Strictly, and its arguments in lists.
        assert_eq!(checked.logic["and"][4]["if"][1], json!({ "!==": [{ "var": "ticket.priority" }, "URGENT"] }));
        assert_eq!(checked.logic["and"][2], json!({ "!": [{ "var": "hasCharge" }] }));
        assert!(faults(&json!(true)).is_empty());
    }

    /// Each rule is refused at this place, with these words.
    #[test]
    fn rules_are_refused_with_the_place_and_what_would_be_right() {
        let known = [
            (json!({ "<": [{ "var": "amount_minor" }, 5] }), "/</0", "is `amountMinor` meant?"),
            (json!({ "<": [{ "var": "password" }, 5] }), "/</0", "there are amountMinor, currency"),
            (json!({ "<": [{ "var": "" }, 5] }), "/</0", "There is no variable ``"),
            (json!({ "<": [{ "var": { "cat": ["amount", "Minor"] } }, 5] }), "/</0", "no computed name"),
            (json!({ "<": [{ "var": ["amountMinor", 0] }, 5] }), "/</0", "no default"),
            (json!({ "<": [{ "var": 1 }, 5] }), "/</0", "as a text"),
            (json!({ "<": [{ "var": "threshold.none" }, 5] }), "/</0", "it has autoApproveMinor, share"),
            (json!({ "==": [{ "var": "customer.tier" }, "GOLD"] }), "/==/1", "one of STANDARD, PREMIUM, VIP"),
            (json!({ "==": ["gold", { "var": "customer.tier" }] }), "/==/0", "is never \"gold\""),
            (json!({ "==": [{ "var": "currency" }, "usd"] }), "/==/1", "no currency of ISO 4217"),
            (json!({ "==": [{ "var": "amountMinor" }, "5000"] }), "/==/1", "a number and a text are never equal"),
            (json!({ "==": [{ "var": "amountMinor" }, null] }), "/==/1", "ask `hasTicket`"),
            (json!({ "==": [{ "var": "customer.tier" }, { "var": "customer.standing" }] }), "/==/1", "never equal"),
            (json!({ "==": ["a", "b\u{0}"] }), "/==/1", "character NUL"),
            (json!({ "==": [1] }), "/==", "takes 2 arguments; here are 1"),
            (json!({ "<": [{ "var": "customer.tier" }, 5] }), "/</0", "Here stands a number"),
            (json!({ "<": [1, 2, 3, 4] }), "/<", "takes 2 to 3 arguments"),
            (json!({ "in": [{ "var": "reason" }, "DUPLICATE"] }), "/in", "a value and a list"),
            (json!({ "in": [{ "var": "reason" }, []] }), "/in/1", "is empty"),
            (json!({ "in": [{ "var": "reason" }, ["OTHER", "THEFT"]] }), "/in/1/1", "is never \"THEFT\""),
            (json!({ "in": [{ "var": "reason" }, [{ "var": "reason" }]] }), "/in/1/0", "no operations"),
            (json!({ "and": [] }), "/and", "at least 1 arguments"),
            (json!({ "and": [true, 1] }), "/and/1", "Here stands a boolean; this is a number"),
            (json!({ "!": [true, false] }), "/!", "takes 1 arguments"),
            (json!({ "reduce": [[1], { "var": "accumulator" }, 0] }), "", "no operator `reduce`"),
            (json!({ "AND": [true] }), "", "is `and` meant?"),
            (json!({ "log": "x" }), "", "no operator `log`"),
            (json!({ "/": [{ "var": "amountMinor" }, 0] }), "//", "divided by zero"),
            (json!({ "if": [true, 1] }), "/if", "at least 3"),
            (json!({ "if": [true, 1, "a"] }), "/if/2", "Here stands"),
            (json!({ "+": [1, 2] }), "", "A rule is true or false; this is a number"),
            (json!("true"), "", "this is a text"),
            (json!([true]), "", "A list stands only"),
            (json!({}), "", "one key, its operator; this has 0"),
            (json!({ "and": [true], "or": [true] }), "", "this has 2"),
            (json!({ "<": [{ "var": "amountMinor" }, 1e300] }), "/</1", "A number is 0, or from"),
            (json!({ "<": [{ "var": "amountMinor" }, 9_223_372_036_854_775_807_i64] }), "/</1", "A number is"),
        ];
        for (rule, place, words) in known {
            let found = faults(&rule);
            let place = if place == "//" { "/~1/1" } else { place };
            assert!(found.iter().any(|(at, message)| at == place && message.contains(words)), "{rule}: {found:?}");
        }
    }

    #[test]
    fn rules_tell_all_that_is_wrong_but_not_without_end() {
        let rule = json!({ "or": [{ "==": [{ "var": "a" }, 1] }, { "<": [true, "x"] }] });
        assert_eq!(faults(&rule).len(), 3, "{:?}", faults(&rule));
        let many: Vec<Value> = (0..100).map(|_| json!({ "var": "nothing" })).collect();
        assert_eq!(faults(&json!({ "or": many })).len(), 10);
    }

    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!(true), |inner, _| json!({ "!": [inner] }))
    }

    #[test]
    fn rules_have_bounds() {
        assert!(faults(&nested(MAX_DEPTH)).is_empty());
        assert!(faults(&nested(MAX_DEPTH + 1))[0].1.contains("16 levels"));
        // Deeper than any request can be, and still no end of the stack.
        assert!(faults(&nested(60))[0].1.contains("16 levels"));
        let wide = |count: usize| json!({ "and": vec![true; count] });
        assert!(faults(&wide(MAX_NODES - 1)).is_empty());
        assert!(faults(&wide(MAX_NODES))[0].1.contains("256 operators"));
        let long = json!({ "==": [{ "var": "currency" }, "x".repeat(MAX_BYTES)] });
        assert!(faults(&long)[0].1.contains("16384 bytes"));
        let product = |count: usize| json!({ "<": [{ "*": vec![json!(2); count] }, 3] });
        assert!(faults(&product(MAX_FACTORS + 1)).is_empty());
        assert!(faults(&product(MAX_FACTORS + 2))[0].1.contains("at most 8 times"));
    }

    #[test]
    fn messages_hold_no_more_than_a_little_of_what_was_sent() {
        let found = faults(&json!({ "x".repeat(5_000): [1] }));
        assert!(found[0].1.chars().count() < 250, "{found:?}");
        let found = faults(&json!({ "<": [{ "var": "\u{1b}[31m".repeat(500) }, 1] }));
        assert!(found[0].1.len() < 500 && !found[0].1.contains('\u{1b}'), "{found:?}");
    }
}
