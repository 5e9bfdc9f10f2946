//! The parameters of a request: GraphQL over HTTP, section 5 "Request".

use async_graphql::{Name, Value, Variables};
use axum::extract::Query;
use axum::http::{StatusCode, Uri};
use serde_json::{Map, Value as Json};

use super::failure::Failure;
use crate::error::Code;

/// What a request asks for.
#[derive(Debug, Default)]
pub(super) struct Params {
    /// The document.
    pub(super) query: String,
    /// Which of its operations.
    pub(super) operation_name: Option<String>,
    pub(super) variables: Variables,
}

impl Params {
    /// From the body of a POST request.
    pub(super) fn from_body(body: &[u8]) -> Result<Self, Failure> {
        let text = std::str::from_utf8(body).map_err(|_| bad_json("it is not UTF-8"))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim_ascii().is_empty() {
            return Err(bad_json("it is empty; send {\"query\": \"…\"}"));
        }
        match serde_json::from_str(text) {
            Ok(Json::Object(members)) => Self::from_members(members),
            Ok(Json::Array(_)) => Err(batching()),
            Ok(_) => Err(bad_json("it is not an object; send {\"query\": \"…\"}")),
            Err(error) => Err(bad_json(&error.to_string())),
        }
    }

    /// From the query string of a GET request.
    pub(super) fn from_uri(uri: &Uri) -> Result<Self, Failure> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| bad(Code::BadRequest, "The query string cannot be read."))?;
        let mut members = Map::new();
        for (name, value) in pairs {
            let value = match name.as_str() {
                _ if value.is_empty() => continue,
                "query" | "operationName" => Json::String(value),
                "variables" | "extensions" => serde_json::from_str(&value)
                    .map_err(|error| bad(Code::BadRequest, &format!("The parameter `{name}` is not JSON: {error}.")))?,
                _ => continue,
            };
            members.insert(name, value);
        }
        Self::from_members(members)
    }

    /// From a JSON object. Members that are not known are left alone: clients put their own there.
    pub(super) fn from_members(mut members: Map<String, Json>) -> Result<Self, Failure> {
        let extensions = match members.remove("extensions") {
            None | Some(Json::Null) => Map::new(),
            Some(Json::Object(extensions)) => extensions,
            Some(_) => return Err(wrong_type("extensions", "an object")),
        };
        let query = match members.remove("query") {
            Some(Json::String(query)) => query,
            None | Some(Json::Null) if extensions.contains_key("persistedQuery") => {
                return Err(bad(
                    Code::PersistedQueryNotSupported,
                    "PersistedQueryNotSupported: send the document in `query`.",
                ));
            }
            None | Some(Json::Null) => {
                return Err(bad(Code::BadRequest, "`query` is missing: send the document in it."));
            }
            Some(_) => return Err(wrong_type("query", "a string")),
        };
        let operation_name = match members.remove("operationName") {
            None | Some(Json::Null) => None,
            Some(Json::String(name)) => Some(name).filter(|name| !name.is_empty()),
            Some(_) => return Err(wrong_type("operationName", "a string")),
        };
        let variables = match members.remove("variables") {
            None | Some(Json::Null) => Variables::default(),
            Some(Json::Object(variables)) => {
                let mut read = Variables::default();
                for (name, value) in variables {
                    let value = Value::from_json(value).map_err(|_| wrong_type("variables", "an object"))?;
                    read.insert(Name::new(name), value);
                }
                read
            }
            Some(_) => return Err(wrong_type("variables", "an object")),
        };
        Ok(Self { query, operation_name, variables })
    }
}

/// Several requests in one are refused: their limits would have to be counted together.
pub(super) fn batching() -> Failure {
    bad(
        Code::BatchingNotSupported,
        "Batches are not supported: send one request each, or one document with several fields.",
    )
}

fn bad_json(why: &str) -> Failure {
    bad(Code::BadRequest, &format!("The body is not a GraphQL request in JSON: {why}."))
}

fn wrong_type(name: &str, right: &str) -> Failure {
    bad(Code::BadRequest, &format!("`{name}` must be {right}."))
}

fn bad(code: Code, message: &str) -> Failure {
    Failure::request(StatusCode::BAD_REQUEST, code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> String {
        Params::from_body(body.as_bytes())
            .map_or_else(|failure| failure.code(), |params| format!("ok {}", params.query))
    }

    #[test]
    fn bodies() {
        assert_eq!(code(r#"{"query":"{a}","x":1,"variables":null,"operationName":null,"extensions":{}}"#), "ok {a}");
        assert_eq!(code("\u{feff} {\"query\":\"{a}\"}"), "ok {a}");
        assert_eq!(code(r#"{"query":"{a}","query":"{b}"}"#), "ok {b}");
        assert_eq!(code(r#"[{"query":"{a}"}]"#), "BATCHING_NOT_SUPPORTED");
        assert_eq!(code(r#"{"extensions":{"persistedQuery":{}}}"#), "PERSISTED_QUERY_NOT_SUPPORTED");
        for bad in [
            "",
            " ",
            "1",
            "null",
            "{",
            "{}",
            r#"{"query":1}"#,
            r#"{"query":"{a}","variables":[]}"#,
            r#"{"query":"{a}","variables":"{}"}"#,
            r#"{"query":"{a}","operationName":{}}"#,
            r#"{"query":"{a}","extensions":0}"#,
            &format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)),
        ] {
            assert_eq!(code(bad), "BAD_REQUEST", "{}", &bad[..bad.len().min(60)]);
        }
        assert!(Params::from_body(b"{\"query\":\"\xff\"}").is_err());
    }

    #[test]
    fn query_strings() {
        let uri = Uri::from_static("/graphql?query=%7Ba%7D&variables=%7B%22x%22%3A1%7D&operationName=&other=1");
        let params = Params::from_uri(&uri).expect("it is well-formed");
        assert_eq!((params.query.as_str(), params.operation_name), ("{a}", None));
        assert_eq!(params.variables.get(&Name::new("x")), Some(&Value::from(1)));
        assert!(Params::from_uri(&Uri::from_static("/graphql?query=%7Ba%7D&variables=x")).is_err());
        assert!(Params::from_uri(&Uri::from_static("/graphql")).is_err());
    }
}
