//! Checks and coerces the variables of a request: GraphQL specification, section 6.1.2 "Coercing Variable Values".
//!
//! Documents are validated once and executed many times without validation, so this runs for every request. It knows
//! types from the SDL.

use async_graphql::parser::types::OperationDefinition;
use async_graphql::{Positioned, Variables};

use super::catalog::Catalog;
use super::failure::Failure;
use super::told::Path;
use super::values::{Check, Expected, Fault, check_ids};
use crate::error::Code;

/// A variable that stands where ids of one type are expected: it is declared as `ID`, and any text is one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct IdUse {
    pub(super) variable: String,
    /// The type whose ids are expected.
    pub(super) of: String,
    /// Where, as a schema coordinate.
    pub(super) coordinate: String,
}

/// The variables as the operation declares them: checked, defaults put in, undeclared ones left out.
pub(super) fn coerce(
    catalog: &Catalog,
    operation: &OperationDefinition,
    ids: &[IdUse],
    mut given: Variables,
    max_depth: usize,
) -> Result<Variables, Failure> {
    let mut coerced = Variables::default();
    for definition in &operation.variable_definitions {
        let name = &definition.node.name.node;
        let ty = &definition.node.var_type.node;
        let path = Path::variable(name);
        let value = match given.remove(name) {
            Some(mut value) => {
                let mut check = Check { catalog, max_depth, literal: false, usages: Vec::new() };
                let checked = check.value(Expected::of_variable(ty), &mut value, &path, 0);
                checked.map_err(|fault| failure(fault, definition))?;
                value
            }
            None => match &definition.node.default_value {
                Some(default) => default.node.clone(),
                None if ty.nullable => continue,
                None => {
                    let what = format!("a value of type {ty} is required");
                    return Err(failure(Fault::of_variable(&path, what), definition));
                }
            },
        };
        for id in ids.iter().filter(|id| id.variable == *name) {
            check_ids(&value, &id.of, &path, &id.coordinate).map_err(|fault| failure(fault, definition))?;
        }
        coerced.insert(name.clone(), value);
    }
    Ok(coerced)
}

fn failure(fault: Fault, definition: &Positioned<async_graphql::parser::types::VariableDefinition>) -> Failure {
    Failure::documents(vec![fault.error(Code::InvalidVariable, Some(definition.pos))])
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;
    use serde_json::json;

    use super::*;

    const SDL: &str = "
        enum Priority { LOW URGENT }
        input Input { subject: String! priority: Priority = LOW tags: [String!] inner: Input grid: [[Int]] at: DateTime ticket: IDOfTicket }
        input OneOf @oneOf { id: ID name: String }
        scalar Anything
        scalar DateTime
        type Query { a: Int }
        schema { query: Query }";

    /// The coerced value of `$x` as JSON, or the error's message.
    fn coerced(declared: &str, given: &serde_json::Value) -> Result<serde_json::Value, String> {
        let catalog = Catalog::read(SDL, true).expect("the SDL parses");
        let document = parse_query(format!("query($x: {declared}) {{ a }}")).expect("the query parses");
        let (_, operation) = document.operations.iter().next().expect("an operation");
        let given = Variables::from_json(given.clone());
        let ids = [IdUse { variable: "x".into(), of: "Ticket".into(), coordinate: "Query.ticket(id:)".into() }];
        let ids = if declared.contains("ID") { &ids[..] } else { &[] };
        match coerce(&catalog, &operation.node, ids, given, 16) {
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

    const TICKET: &str = "tic_0199c0ffee0070008000000000000001";

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
            ("ID!", json!({"x": TICKET}), json!(TICKET)),
            ("[ID!]", json!({"x": TICKET}), json!([TICKET])),
            ("OneOf", json!({"x": {"id": 5}}), json!({"id": "5"})),
            ("OneOf", json!({"x": {"id": u64::MAX}}), json!({"id": "18446744073709551615"})),
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
        let one_of = "$x: exactly one field of OneOf is to be given, and not null: id or name.";
        for (declared, given, expected) in [
            ("Int!", json!({}), "$x: a value of type Int! is required."),
            ("Int!", json!({"x": null}), "$x: null is not allowed, the type is Int!."),
            ("Int! = 7", json!({"x": null}), "$x: null is not allowed, the type is Int!."),
            ("Int", json!({"x": 1.5}), "$x: 1.5 is not an Int (a whole number of 32 bits)."),
            ("Int", json!({"x": 3_000_000_000_u32}), "$x: 3000000000 is not an Int (a whole number of 32 bits)."),
            ("String", json!({"x": 5}), "$x: 5 is not a String."),
            ("Boolean", json!({"x": "true"}), "$x: \"true\" is not a Boolean."),
            ("ID", json!({"x": 1.5}), "$x: 1.5 is not an ID (a text or a whole number)."),
            ("ID", json!({"x": 4}), "$x: \"4\" is not an id: use ids as the API returned them. See Query.ticket(id:)."),
            (
                "[ID!]",
                json!({"x": [TICKET, "usr_0199c0ffee0070008000000000000001"]}),
                "$x[1]: \"usr_0199c0ffee0070008000000000000001\" is not the id of a Ticket: those begin with `tic_`. See Query.ticket(id:).",
            ),
            (
                "Input",
                json!({"x": {"subject": "s", "ticket": "nope"}}),
                "$x.ticket: \"nope\" is not an id: use ids as the API returned them. See Input.ticket.",
            ),
            ("Float", json!({"x": "1"}), "$x: \"1\" is not a Float."),
            ("[Int!]", json!({"x": [1, null]}), "$x[1]: null is not allowed, the type is Int!."),
            ("Priority", json!({"x": "URGENTT"}), "$x: \"URGENTT\" is not a Priority; it takes LOW or URGENT."),
            ("Priority", json!({"x": 1}), "$x: 1 is not a Priority; it takes LOW or URGENT."),
            ("Input", json!({"x": []}), "$x: a list is not an Input, which is an object."),
            ("Input", json!({"x": {}}), "$x.subject: Input requires this field. See Input.subject."),
            ("Input", json!({"x": {"subject": "s", "nope": 1}}), "$x.nope: Input has no such field."),
            (
                "Input",
                json!({"x": {"subject": "s", "tag": 1}}),
                "$x.tag: Input has no such field. Did you mean Input.tags?",
            ),
            (
                "Input",
                json!({"x": {"subject": "s", "inner": {"subject": "s", "tags": ["t", 1]}}}),
                "$x.inner.tags[1]: 1 is not a String. See Input.tags.",
            ),
            (
                "Input",
                json!({"x": {"subject": "s", "at": "yesterday"}}),
                "$x.at: \"yesterday\" is not a DateTime (a text such as \"2026-01-31T12:00:00Z\"). See Input.at.",
            ),
            ("OneOf", json!({"x": {"id": "1", "name": "n"}}), one_of),
            ("OneOf", json!({"x": {"id": "1", "name": null}}), one_of),
            ("OneOf", json!({"x": {"id": null}}), one_of),
            ("OneOf", json!({"x": {}}), one_of),
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

    #[test]
    fn secrets_are_not_repeated() {
        for secret in ["eyJhbGciOi.x.y", "sk_live_1", "whsec_1"] {
            let told = coerced("Int", &json!({"x": secret})).expect_err("no number");
            assert_eq!(told, "$x: this text is not an Int (a whole number of 32 bits).");
            let told = coerced("ID", &json!({"x": secret})).expect_err("no id");
            assert_eq!(told, "$x: this is not an id. See Query.ticket(id:).");
        }
    }
}
