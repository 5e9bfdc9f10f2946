//! The parameters of a request: GraphQL over HTTP, section 5 "Request".

use async_graphql::{Name, Value, Variables};
use axum::extract::Query;
use axum::http::{StatusCode, Uri};
use serde_json::{Map, Value as Json};

use super::failure::Failure;
use crate::error::Code;

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Params {
    /// The document.
    pub(super) document: Asked,
    /// Which of its operations.
    pub(super) operation_name: Option<String>,
    pub(super) variables: Variables,
}

/// How a request says which document it means.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Asked {
    /// By its text: `query`.
    Text(String),
    /// By the id of a trusted document: `documentId`.
    Id(String),
    /// By `extensions.persistedQuery`, as Apollo's clients do for trusted documents and automatic persisted queries.
    Hash(PersistedQuery),
}

/// `extensions.persistedQuery`. What of it makes no sense is refused where documents are looked up, so that every
/// transport answers alike.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct PersistedQuery {
    /// Whether `version` is 1, the only one there is.
    pub(super) is_version_1: bool,
    /// `sha256Hash`, when it is a string.
    pub(super) hash: Option<String>,
    /// `query`, for a document to be remembered.
    pub(super) text: Option<String>,
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
            Ok(_) => Err(malformed("The body is not an object: send {\"query\": \"…\"}.")),
            Err(error) => Err(bad_json(&error.to_string())),
        }
    }

    /// From the query string of a GET request.
    pub(super) fn from_uri(uri: &Uri) -> Result<Self, Failure> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| unreadable("The query string cannot be read."))?;
        let mut members = Map::new();
        for (name, value) in pairs {
            let value = match name.as_str() {
                _ if value.is_empty() => continue,
                "query" | "documentId" | "operationName" => Json::String(value),
                "variables" | "extensions" => serde_json::from_str(&value)
                    .map_err(|error| unreadable(format!("The parameter `{name}` is not JSON: {error}.")))?,
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
        let document = Self::asked(&mut members, extensions)?;
        let operation_name = string(&mut members, "operationName")?.filter(|name| !name.is_empty());
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
        Ok(Self { document, operation_name, variables })
    }

    fn asked(members: &mut Map<String, Json>, mut extensions: Map<String, Json>) -> Result<Asked, Failure> {
        let text = string(members, "query")?;
        let id = match string(members, "documentId")? {
            // Relay's guide has its clients send the id as `doc_id`.
            None if text.is_none() => string(members, "doc_id")?,
            id => id,
        };
        let hash = match extensions.remove("persistedQuery") {
            None | Some(Json::Null) => None,
            Some(Json::Object(hash)) => Some(hash),
            Some(_) => return Err(wrong_type("extensions.persistedQuery", "an object")),
        };
        match (text, id, hash) {
            (Some(_), Some(_), _) => {
                Err(malformed("Send the document in `query`, or its id in `documentId`, not both."))
            }
            (None, Some(id), _) => Ok(Asked::Id(id)),
            (text, None, Some(mut hash)) => Ok(Asked::Hash(PersistedQuery {
                is_version_1: hash.get("version").and_then(Json::as_u64) == Some(1),
                hash: match hash.remove("sha256Hash") {
                    Some(Json::String(hash)) => Some(hash),
                    _ => None,
                },
                text,
            })),
            (Some(text), None, None) => Ok(Asked::Text(text)),
            (None, None, None) => {
                Err(malformed("`query` is missing: send the document in it, or its id in `documentId`."))
            }
        }
    }
}

/// A member that is a string.
fn string(members: &mut Map<String, Json>, name: &str) -> Result<Option<String>, Failure> {
    match members.remove(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong_type(name, "a string")),
    }
}

/// Several requests in one are refused: their limits would have to be counted together.
pub(super) fn batching() -> Failure {
    Failure::malformed(
        Code::BatchingNotSupported,
        "Batches are not supported: send one request each, or one document with several fields.",
    )
}

fn wrong_type(name: &str, right: &str) -> Failure {
    malformed(&format!("`{name}` must be {right}."))
}

fn malformed(message: &str) -> Failure {
    Failure::malformed(Code::BadRequest, message)
}

fn bad_json(why: &str) -> Failure {
    unreadable(format!("The body is not a GraphQL request in JSON: {why}."))
}

fn unreadable(message: impl Into<String>) -> Failure {
    Failure::request(StatusCode::BAD_REQUEST, Code::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> String {
        Params::from_body(body.as_bytes())
            .map_or_else(|failure| failure.code(), |params| format!("{:?}", params.document))
    }

    fn asked(body: &str) -> Asked {
        Params::from_body(body.as_bytes()).expect("it is well-formed").document
    }

    fn hash(version: bool, hash: &str, text: Option<&str>) -> Asked {
        Asked::Hash(PersistedQuery {
            is_version_1: version,
            hash: Some(hash.to_owned()).filter(|hash| !hash.is_empty()),
            text: text.map(str::to_owned),
        })
    }

    #[test]
    fn bodies() {
        assert_eq!(
            code(r#"{"query":"{a}","x":1,"variables":null,"operationName":null,"extensions":{}}"#),
            "Text(\"{a}\")"
        );
        assert_eq!(code("\u{feff} {\"query\":\"{a}\"}"), "Text(\"{a}\")");
        assert_eq!(code(r#"{"query":"{a}","query":"{b}"}"#), "Text(\"{b}\")");
        assert_eq!(code(r#"[{"query":"{a}"}]"#), "BATCHING_NOT_SUPPORTED");
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
            r#"{"query":"{a}","extensions":{"persistedQuery":1}}"#,
            r#"{"query":"{a}","documentId":"x"}"#,
            r#"{"documentId":["x"]}"#,
            r#"{"documentId":null,"doc_id":1}"#,
            &format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)),
        ] {
            assert_eq!(code(bad), "BAD_REQUEST", "{}", &bad[..bad.len().min(60)]);
        }
        assert!(Params::from_body(b"{\"query\":\"\xff\"}").is_err());
    }

    #[test]
    fn documents_by_name() {
        assert_eq!(asked(r#"{"documentId":"sha256:00","variables":{}}"#), Asked::Id("sha256:00".to_owned()));
        assert_eq!(asked(r#"{"documentId":"x","extensions":{"persistedQuery":{}}}"#), Asked::Id("x".to_owned()));
        // Relay's; beside a text it is one of the members that servers do not know.
        assert_eq!(asked(r#"{"doc_id":"4f03","query":null}"#), Asked::Id("4f03".to_owned()));
        assert_eq!(asked(r#"{"doc_id":"4f03","query":"{a}"}"#), Asked::Text("{a}".to_owned()));
        let persisted = |inner: &str| asked(&format!(r#"{{"extensions":{{"persistedQuery":{inner}}}}}"#));
        assert_eq!(persisted(r#"{"version":1,"sha256Hash":"00","miss":true}"#), hash(true, "00", None));
        for other in
            [r#"{"sha256Hash":"00"}"#, r#"{"version":2,"sha256Hash":"00"}"#, r#"{"version":"1","sha256Hash":"00"}"#]
        {
            assert_eq!(persisted(other), hash(false, "00", None), "{other}");
        }
        assert_eq!(persisted(r#"{"version":1,"sha256Hash":7}"#), hash(true, "", None));
        let with_text = r#"{"query":"{a}","extensions":{"persistedQuery":{"version":1,"sha":"00"}}}"#;
        assert_eq!(asked(with_text), hash(true, "", Some("{a}")));
    }

    #[test]
    fn query_strings() {
        let uri = Uri::from_static("/graphql?query=%7Ba%7D&variables=%7B%22x%22%3A1%7D&operationName=&other=1");
        let params = Params::from_uri(&uri).expect("it is well-formed");
        assert_eq!((params.document, params.operation_name), (Asked::Text("{a}".to_owned()), None));
        assert_eq!(params.variables.get(&Name::new("x")), Some(&Value::from(1)));
        let by_id = Params::from_uri(&Uri::from_static("/graphql?documentId=sha256:00&query=&doc_id=1"));
        assert_eq!(by_id.expect("it is well-formed").document, Asked::Id("sha256:00".to_owned()));
        assert!(Params::from_uri(&Uri::from_static("/graphql?query=%7Ba%7D&variables=x")).is_err());
        assert!(Params::from_uri(&Uri::from_static("/graphql")).is_err());
    }
}
