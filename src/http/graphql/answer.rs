//! Answers as text.

use async_graphql::{Response, ServerError};

use crate::graphql::rows::write_value;
use crate::json::Json as _;

/// The JSON of an answer of the engine (GraphQL specification, section 7.1). Errors stand first, as it recommends.
pub(super) fn json(answer: &Response) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.push(b'{');
    if !answer.errors.is_empty() {
        out.extend_from_slice(b"\"errors\":");
        errors(&answer.errors, &mut out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"data\":");
    write_value(&answer.data, &mut out);
    if !answer.extensions.is_empty() {
        out.extend_from_slice(b",\"extensions\":{");
        for (place, (name, value)) in answer.extensions.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            name.write(&mut out);
            out.push(b':');
            write_value(value, &mut out);
        }
        out.push(b'}');
    }
    out.push(b'}');
    out
}

/// The JSON of an answer that has nothing but errors.
pub(super) fn json_of_errors(list: &[ServerError]) -> Vec<u8> {
    let mut out = b"{\"errors\":".to_vec();
    errors(list, &mut out);
    out.push(b'}');
    out
}

/// The JSON of these errors.
pub(super) fn errors(list: &[ServerError], out: &mut Vec<u8>) {
    let before = out.len();
    // An error's extensions are values of the engine, which all have a JSON form.
    if serde_json::to_writer(&mut *out, list).is_err() {
        out.truncate(before);
        out.extend_from_slice(b"[]");
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::{Name, Value};

    use super::*;

    #[test]
    fn the_text_is_that_of_the_engine() {
        let members = [
            ("a", Value::from(1)),
            ("b", Value::from(1.5)),
            ("c", Value::from("quote \" backslash \\ newline \n snowman \u{2603} \u{1}")),
            ("d", Value::List(vec![Value::Null, Value::from(true), Value::Enum(Name::new("OPEN"))])),
            ("e", Value::List(Vec::new())),
            ("f", Value::Object([(Name::new("g"), Value::from(i64::MIN))].into_iter().collect())),
            ("h", Value::Object(async_graphql::indexmap::IndexMap::default())),
        ];
        let data = Value::Object(members.into_iter().map(|(name, value)| (Name::new(name), value)).collect());
        let mut answer = Response::new(data);
        assert_eq!(String::from_utf8(json(&answer)).ok(), serde_json::to_string(&answer).ok());
        answer.errors.push(ServerError::new("no", None));
        assert_eq!(String::from_utf8(json(&answer)).ok(), serde_json::to_string(&answer).ok());
        answer = answer.extension("eventId", Value::from("1.2~3")).extension("also", Value::from(1));
        let text = json(&answer);
        let written: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(Some(written), serde_json::to_value(&answer).ok());
        let only = serde_json::json!({ "errors": &answer.errors });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&json_of_errors(&answer.errors)).ok(), Some(only));
    }

    #[test]
    fn what_is_written_already_stays_as_it_is() {
        let answer = Response::new(Value::Binary(b"[{\"id\":1}]".to_vec().into()));
        assert_eq!(json(&answer), b"{\"data\":[{\"id\":1}]}");
    }
}
