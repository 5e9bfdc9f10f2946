//! From the text to a document, with errors in this server's words.

use async_graphql::parser::types::ExecutableDocument;
use async_graphql::parser::{self, parse_query};

use super::failure::Failure;
use super::told::Short;
use crate::error::Code;

/// Reads a document that the lexer let through.
pub(super) fn parse(text: &str) -> Result<ExecutableDocument, Failure> {
    parse_query(text).map_err(|error| unreadable(&error))
}

/// What the parser could not read, and what it refuses although it is read: names that stand twice (GraphQL specification,
/// sections 5.2 and 5.5.1.1).
fn unreadable(error: &parser::Error) -> Failure {
    let pos = error.positions().next();
    let message = match error {
        parser::Error::Syntax { message, .. } => return Failure::syntax(&expected(message), pos),
        parser::Error::RecursionLimitExceeded => {
            return Failure::limit(Code::QueryTooDeep, "The document nests more levels than can be read.".to_owned());
        }
        parser::Error::MultipleOperations { .. } => {
            "An operation without a name must be the only one of its document: name each.".to_owned()
        }
        parser::Error::OperationDuplicated { operation, .. } => {
            format!("There are two operations named {}: name them differently.", Short(operation))
        }
        parser::Error::FragmentDuplicated { fragment, .. } => {
            format!("There are two fragments named {}: name them differently.", Short(fragment))
        }
        _ => "The document has no operation: write a query, a mutation or a subscription.".to_owned(),
    };
    Failure::invalid(message, pos)
}

/// The parser's message is a drawing of several lines; its last one lists what was expected, by the names of its grammar.
fn expected(drawing: &str) -> String {
    const NAMES: [(&str, &str); 22] = [
        ("EOI", "the end"),
        ("executable_definition", "an operation or a fragment"),
        ("variable_definitions", "variables in parentheses"),
        ("variable_definition", "a variable and its type"),
        ("selection_set", "a selection in braces"),
        ("selection", "a field or a fragment"),
        ("arguments", "arguments in parentheses"),
        ("argument", "an argument"),
        ("const_directives", "a directive"),
        ("directives", "a directive"),
        ("directive", "a directive"),
        ("type_condition", "`on` and a type"),
        ("type_", "a type"),
        ("default_value", "a default"),
        ("const_value", "a value without variables"),
        ("value", "a value"),
        ("const_object_field", "a field of an object"),
        ("object_field", "a field of an object"),
        ("variable", "a variable"),
        ("name", "a name"),
        ("string", "a text"),
        ("number", "a number"),
    ];
    let listed = drawing.lines().rev().find_map(|line| line.trim_start().strip_prefix("= expected "));
    let mut named: Vec<&str> = Vec::new();
    for word in listed.unwrap_or_default().split([',', ' ']).filter(|word| !word.is_empty() && *word != "or") {
        if let Some((_, name)) = NAMES.iter().find(|(rule, _)| *rule == word)
            && !named.contains(name)
        {
            named.push(name);
        }
    }
    match named.as_slice() {
        [] => "this is not expected here".to_owned(),
        [only] => format!("expected {only}"),
        [first @ .., last] => format!("expected {} or {last}", first.join(", ")),
    }
}
