//! Checks and coerces the variables of a request: GraphQL specification, section 6.1.2 "Coercing Variable Values".
//!
//! Documents are validated once and executed many times without validation, so this runs for every request. It knows
//! types from the SDL. Custom scalars are checked by their own code when the argument is read.

use std::fmt;

use async_graphql::parser::types::{BaseType, OperationDefinition, Type};
use async_graphql::{Name, Positioned, Value as ConstValue, Variables};
use async_graphql_value::Value;

use super::catalog::{Catalog, Input, Kind, named};
use super::failure::Failure;
use crate::error::Code;

/// The variables as the operation declares them: checked, defaults put in, undeclared ones left out.
pub(super) fn coerce(
    catalog: &Catalog,
    operation: &OperationDefinition,
    mut given: Variables,
    max_depth: usize,
) -> Result<Variables, Failure> {
    let mut coerced = Variables::default();
    for definition in &operation.variable_definitions {
        let name = &definition.node.name.node;
        let ty = &definition.node.var_type.node;
        let path = Path { parent: None, segment: Segment::Variable(name) };
        let value = match given.remove(name) {
            Some(mut value) => {
                let check = Check { catalog, max_depth };
                check.value(ty, &mut value, &path, 0).map_err(|message| failure(&message, definition))?;
                value
            }
            None => match &definition.node.default_value {
                Some(default) => default.node.clone(),
                None if ty.nullable => continue,
                None => return Err(failure(&format!("{path}: a value of type {ty} is required"), definition)),
            },
        };
        coerced.insert(name.clone(), value);
    }
    Ok(coerced)
}

/// Refuses variables of types that are not there or cannot be sent, which the engine's validation relies on.
pub(super) fn check_definitions(catalog: &Catalog, operation: &OperationDefinition) -> Result<(), Failure> {
    for definition in &operation.variable_definitions {
        let ty = &definition.node.var_type.node;
        if !matches!(catalog.kind(named(ty)), Some(Kind::Enum(_) | Kind::Input(_) | Kind::Scalar)) {
            let message =
                format!("The variable ${} has the type {ty}, which is no input type.", definition.node.name.node);
            return Err(Failure::invalid(message, Some(definition.pos)));
        }
    }
    Ok(())
}

/// Checks a literal with variables in it as far as it is literal; variables are checked where they are declared.
pub(super) fn check_literal(
    catalog: &Catalog,
    ty: &Type,
    argument: &str,
    literal: &Positioned<Value>,
) -> Result<(), Failure> {
    let mut variables = 0;
    let value = literal.node.clone().into_const_with(|_| {
        variables += 1;
        Ok::<_, std::convert::Infallible>(ConstValue::Binary(bytes::Bytes::new()))
    });
    match value {
        Ok(mut value) if variables > 0 => {
            let path = Path { parent: None, segment: Segment::Field(argument) };
            let check = Check { catalog, max_depth: usize::MAX };
            check
                .value(ty, &mut value, &path, 0)
                .map_err(|message| Failure::invalid(format!("{message}."), Some(literal.pos)))
        }
        _ => Ok(()),
    }
}

fn failure(message: &str, definition: &Positioned<async_graphql::parser::types::VariableDefinition>) -> Failure {
    Failure::document(Code::InvalidVariable, format!("{message}."), Some(definition.pos))
}

struct Check<'a> {
    catalog: &'a Catalog,
    max_depth: usize,
}

impl Check<'_> {
    fn value(&self, ty: &Type, value: &mut ConstValue, path: &Path<'_>, depth: usize) -> Result<(), String> {
        if depth > self.max_depth {
            return Err(format!("{path}: more than {} levels", self.max_depth));
        }
        match value {
            // Stands for a variable inside a literal: no JSON makes this kind of value.
            ConstValue::Binary(_) => return Ok(()),
            ConstValue::Null if ty.nullable => return Ok(()),
            ConstValue::Null => return Err(format!("{path}: null is not allowed, the type is {ty}")),
            _ => {}
        }
        match &ty.base {
            BaseType::List(inner) => {
                if let ConstValue::List(items) = value {
                    for (index, item) in items.iter_mut().enumerate() {
                        let path = Path { parent: Some(path), segment: Segment::Index(index) };
                        self.value(inner, item, &path, depth + 1)?;
                    }
                    Ok(())
                } else {
                    self.value(inner, value, path, depth + 1)?;
                    *value = ConstValue::List(vec![std::mem::take(value)]);
                    Ok(())
                }
            }
            BaseType::Named(name) => self.named(name, value, path, depth),
        }
    }

    fn named(&self, name: &Name, value: &mut ConstValue, path: &Path<'_>, depth: usize) -> Result<(), String> {
        match self.catalog.kind(name) {
            Some(Kind::Enum(values)) => match value {
                ConstValue::String(given) if values.contains(given) => Ok(()),
                ConstValue::Enum(given) if values.iter().any(|value| given == value) => Ok(()),
                _ => Err(format!("{path}: {} is not a {name}; it takes {}", Shown(value), Choice(values))),
            },
            Some(Kind::Input(input)) => match value {
                ConstValue::Object(_) => self.input(name, input, value, path, depth),
                _ => Err(format!("{path}: {} is not a {name}, which is an object", Shown(value))),
            },
            _ => self.scalar(name, value, path, depth),
        }
    }

    fn input(
        &self,
        name: &Name,
        input: &Input,
        value: &mut ConstValue,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<(), String> {
        let ConstValue::Object(given) = value else { return Ok(()) };
        for (field, field_value) in given.iter_mut() {
            let below = Path { parent: Some(path), segment: Segment::Field(field) };
            match input.fields.iter().find(|(known, _)| field == known) {
                Some((_, known)) => self.value(&known.ty, field_value, &below, depth + 1)?,
                None => return Err(format!("{below}: {name} has no such field")),
            }
        }
        if let Some((missing, _)) =
            input.fields.iter().find(|(field, known)| known.required && !given.contains_key(field.as_str()))
        {
            let below = Path { parent: Some(path), segment: Segment::Field(missing) };
            return Err(format!("{below}: {name} requires this field"));
        }
        if input.one_of && (given.len() != 1 || given.values().any(|value| *value == ConstValue::Null)) {
            return Err(format!("{path}: exactly one field of {name} is to be given, and not null"));
        }
        Ok(())
    }

    fn scalar(&self, name: &Name, value: &ConstValue, path: &Path<'_>, depth: usize) -> Result<(), String> {
        self.text(value, path, depth)?;
        let fits = match (name.as_str(), value) {
            ("Int", ConstValue::Number(number)) => number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
            ("Float", value) => matches!(value, ConstValue::Number(_)),
            ("Boolean", value) => matches!(value, ConstValue::Boolean(_)),
            ("ID", ConstValue::Number(number)) => number.is_i64() || number.is_u64(),
            ("ID" | "String", value) => matches!(value, ConstValue::String(_)),
            ("Int", _) => false,
            // Custom scalars.
            _ => true,
        };
        if fits { Ok(()) } else { Err(format!("{path}: {} is not {}", Shown(value), Article(name))) }
    }

    /// No text in the database can hold NUL (`PostgreSQL` documentation, section 8.3).
    fn text(&self, value: &ConstValue, path: &Path<'_>, depth: usize) -> Result<(), String> {
        if depth > self.max_depth {
            return Err(format!("{path}: more than {} levels", self.max_depth));
        }
        match value {
            ConstValue::String(text) if text.contains('\0') => {
                Err(format!("{path}: the text contains a NUL character, which no text here can hold"))
            }
            ConstValue::List(items) => items.iter().try_for_each(|item| self.text(item, path, depth + 1)),
            ConstValue::Object(fields) => fields.iter().try_for_each(|(name, field)| {
                if name.contains('\0') {
                    return Err(format!("{path}: a key contains a NUL character, which no text here can hold"));
                }
                self.text(field, path, depth + 1)
            }),
            _ => Ok(()),
        }
    }
}

#[derive(Clone, Copy)]
enum Segment<'a> {
    Variable(&'a str),
    Field(&'a str),
    Index(usize),
}

struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.segment {
            Segment::Variable(name) => write!(f, "${name}"),
            Segment::Field(name) if self.parent.is_none() => write!(f, "{name}"),
            Segment::Field(name) => write!(f, ".{}", Short(name)),
            Segment::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A text as it stands in messages, cut when long.
struct Short<'a>(&'a str);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 60;
        let mut chars = self.0.chars();
        for char in chars.by_ref().take(MOST) {
            write!(f, "{}", char.escape_debug())?;
        }
        if chars.next().is_some() { f.write_str("…") } else { Ok(()) }
    }
}

/// A value as it stands in messages.
struct Shown<'a>(&'a ConstValue);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ConstValue::String(text) => write!(f, "\"{}\"", Short(text)),
            ConstValue::List(_) => f.write_str("a list"),
            ConstValue::Object(_) => f.write_str("an object"),
            value => value.fmt(f),
        }
    }
}

/// `A, B or C`.
struct Choice<'a>(&'a [String]);

impl fmt::Display for Choice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("nothing"),
            [only] => f.write_str(only),
            [first @ .., last] => write!(f, "{} or {last}", first.join(", ")),
        }
    }
}

struct Article<'a>(&'a str);

impl fmt::Display for Article<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "Int" => f.write_str("an Int (a whole number of 32 bits)"),
            "ID" => f.write_str("an ID (a string)"),
            name => write!(f, "a {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;
    use serde_json::json;

    use super::*;

    const SDL: &str = "
        enum Priority { LOW URGENT }
        input Input { subject: String! priority: Priority = LOW tags: [String!] inner: Input grid: [[Int]] }
        input OneOf @oneOf { id: ID name: String }
        scalar Anything
        type Query { a: Int }
        schema { query: Query }";

    /// The coerced value of `$x` as JSON, or the error's message.
    fn coerced(declared: &str, given: &serde_json::Value) -> Result<serde_json::Value, String> {
        let catalog = Catalog::read(SDL).expect("the SDL parses");
        let document = parse_query(format!("query($x: {declared}) {{ a }}")).expect("the query parses");
        let (_, operation) = document.operations.iter().next().expect("an operation");
        let given = Variables::from_json(given.clone());
        match coerce(&catalog, &operation.node, given, 16) {
            Ok(mut variables) => {
                let value = variables.remove("x").map(|value| value.into_json().expect("JSON"));
                Ok(value.unwrap_or(json!("absent")))
            }
            Err(failure) => {
                assert_eq!(failure.code(), "INVALID_VARIABLE");
                Err(failure.errors()[0].message.clone())
            }
        }
    }

    #[test]
    fn what_fits_is_taken() {
        for (declared, given, expected) in [
            ("Int", json!({}), json!("absent")),
            ("Int", json!({"x": null}), json!(null)),
            ("Int", json!({"x": -5, "other": 1}), json!(-5)),
            ("Int = 7", json!({}), json!(7)),
            ("Int! = 7", json!({}), json!(7)),
            ("Int = 7", json!({"x": null}), json!(null)),
            ("Float", json!({"x": 5}), json!(5)),
            ("ID", json!({"x": 5}), json!(5)),
            ("ID!", json!({"x": "5"}), json!("5")),
            ("Boolean", json!({"x": true}), json!(true)),
            ("Priority", json!({"x": "URGENT"}), json!("URGENT")),
            ("[Int!]!", json!({"x": 5}), json!([5])),
            ("[[Int]]", json!({"x": 5}), json!([[5]])),
            ("[Int]", json!({"x": [1, null]}), json!([1, null])),
            ("Anything", json!({"x": {"any": [1, "a"]}}), json!({"any": [1, "a"]})),
            ("Input", json!({"x": {"subject": "s", "tags": "t"}}), json!({"subject": "s", "tags": ["t"]})),
            ("OneOf", json!({"x": {"id": "1"}}), json!({"id": "1"})),
        ] {
            assert_eq!(coerced(declared, &given).as_ref(), Ok(&expected), "{declared} {given}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (declared, given, expected) in [
            ("Int!", json!({}), "$x: a value of type Int! is required."),
            ("Int!", json!({"x": null}), "$x: null is not allowed, the type is Int!."),
            ("Int! = 7", json!({"x": null}), "$x: null is not allowed, the type is Int!."),
            ("Int", json!({"x": 1.5}), "$x: 1.5 is not an Int (a whole number of 32 bits)."),
            ("Int", json!({"x": 3_000_000_000_u32}), "$x: 3000000000 is not an Int (a whole number of 32 bits)."),
            ("String", json!({"x": 5}), "$x: 5 is not a String."),
            ("Boolean", json!({"x": "true"}), "$x: \"true\" is not a Boolean."),
            ("ID", json!({"x": 1.5}), "$x: 1.5 is not an ID (a string)."),
            ("Float", json!({"x": "1"}), "$x: \"1\" is not a Float."),
            ("[Int!]", json!({"x": [1, null]}), "$x[1]: null is not allowed, the type is Int!."),
            ("Priority", json!({"x": "URGENTT"}), "$x: \"URGENTT\" is not a Priority; it takes LOW or URGENT."),
            ("Priority", json!({"x": 1}), "$x: 1 is not a Priority; it takes LOW or URGENT."),
            ("Input", json!({"x": []}), "$x: a list is not a Input, which is an object."),
            ("Input", json!({"x": {}}), "$x.subject: Input requires this field."),
            ("Input", json!({"x": {"subject": "s", "nope": 1}}), "$x.nope: Input has no such field."),
            (
                "Input",
                json!({"x": {"subject": "s", "inner": {"subject": "s", "tags": ["t", 1]}}}),
                "$x.inner.tags[1]: 1 is not a String.",
            ),
            (
                "OneOf",
                json!({"x": {"id": "1", "name": "n"}}),
                "$x: exactly one field of OneOf is to be given, and not null.",
            ),
            ("OneOf", json!({"x": {}}), "$x: exactly one field of OneOf is to be given, and not null."),
            ("String", json!({"x": "a\0"}), "$x: the text contains a NUL character, which no text here can hold."),
            ("Anything", json!({"x": ["a\0"]}), "$x: the text contains a NUL character, which no text here can hold."),
        ] {
            assert_eq!(coerced(declared, &given), Err(expected.to_owned()), "{declared} {given}");
        }
        let mut deep = json!({"subject": "s"});
        for _ in 0..40 {
            deep = json!({"subject": "s", "inner": deep});
        }
        assert!(coerced("Input", &json!({"x": deep})).expect_err("too deep").contains("more than 16 levels"));
        let long = coerced("Int", &json!({"x": "é".repeat(1_000)})).expect_err("no number");
        assert!(long.chars().count() < 150, "{long}");
    }
}
