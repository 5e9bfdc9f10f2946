//! What leaves the server in `errors`: every error has a code and the request's id, and no error tells internals.

use async_graphql::{ErrorExtensionValues, PathSegment, ServerError};

use crate::error::{Code, Error};

/// Longer messages are cut: they repeat what the caller sent.
const MAX_MESSAGE: usize = 500;
/// A document can have thousands of mistakes; this many are told.
const MAX_ERRORS: usize = 20;

/// How async-graphql begins the messages about arguments that it finds wrong during execution. Values are checked before
/// (`values`), so none is expected; if one comes, its words are for the log.
const ARGUMENT_ERRORS: [&str; 3] = ["Failed to parse \"", "Expected input type \"", "Invalid value"];

/// Prepares errors for sending. Causes of internal errors are logged here, once.
pub(super) fn finish(errors: &mut Vec<ServerError>, request_id: &str) {
    let count = errors.len();
    for (index, error) in errors.iter_mut().enumerate() {
        match Error::annotate(error) {
            Some(Error::Internal(cause)) => {
                log_internal(request_id, &error.path, &chain(cause.as_ref()));
                mask(error);
            }
            Some(_) => {}
            None if has_code(error) => {}
            None if error.source.is_none() && is_about_an_argument(error) => {
                tracing::warn!(
                    request_id,
                    message = error.message,
                    "a value passed our checks and the engine refuses it"
                );
                "An argument of this field has a value that its type does not take.".clone_into(&mut error.message);
                set(error, "code", Code::InvalidArgument.as_str());
            }
            None => {
                log_internal(request_id, &error.path, &error.message);
                mask(error);
            }
        }
        cut(&mut error.message);
        if index < MAX_ERRORS && !request_id.is_empty() {
            set(error, "requestId", request_id);
        }
    }
    if count > MAX_ERRORS {
        errors.truncate(MAX_ERRORS);
        if let Some(last) = errors.last_mut() {
            last.message = format!("{} (and {} more errors)", last.message, count - MAX_ERRORS);
        }
    }
}

fn has_code(error: &ServerError) -> bool {
    error.extensions.as_ref().is_some_and(|extensions| extensions.get("code").is_some())
}

fn is_about_an_argument(error: &ServerError) -> bool {
    ARGUMENT_ERRORS.iter().any(|start| error.message.starts_with(start))
}

fn set(error: &mut ServerError, name: &str, value: &str) {
    error.extensions.get_or_insert_with(ErrorExtensionValues::default).set(name, value);
}

fn mask(error: &mut ServerError) {
    let internal = Error::internal("masked");
    error.message = internal.to_string();
    error.source = None;
    error.extensions = None;
    set(error, "code", internal.code().as_str());
}

fn log_internal(request_id: &str, path: &[PathSegment], cause: &str) {
    let path: Vec<String> = path
        .iter()
        .map(|segment| match segment {
            PathSegment::Field(name) => name.clone(),
            PathSegment::Index(index) => index.to_string(),
        })
        .collect();
    tracing::error!(request_id, path = path.join("."), cause, "internal error");
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

fn cut(message: &mut String) {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_graphql::Pos;

    fn finished(error: ServerError) -> String {
        let mut errors = vec![error];
        finish(&mut errors, "r1");
        serde_json::to_string(&errors).expect("errors serialise")
    }

    #[test]
    fn internal_causes_are_not_told() {
        let internal =
            async_graphql::Error::from(Error::internal("password=hunter2")).into_server_error(Pos::default());
        let foreign = async_graphql::Error::new_with_source(std::io::Error::other("hunter2"));
        let plain = ServerError::new("Data `Secret` does not exist: hunter2", None);
        for error in [internal, foreign.into_server_error(Pos::default()), plain] {
            let text = finished(error);
            assert!(!text.contains("hunter2"), "{text}");
            assert!(text.contains(r#""code":"INTERNAL","requestId":"r1""#), "{text}");
        }
    }

    #[test]
    fn errors_of_ours_keep_their_code_and_field() {
        let error = Error::invalid("input.subject", "Too long.");
        let text = finished(async_graphql::Error::from(error).into_server_error(Pos::default()));
        assert!(text.contains(r#""code":"INVALID_ARGUMENT","field":"input.subject","requestId":"r1""#), "{text}");
    }

    #[test]
    fn argument_errors_of_the_engine_are_the_callers() {
        let text = finished(ServerError::new("Failed to parse \"Int\": hunter2", None));
        assert!(text.contains("INVALID_ARGUMENT") && !text.contains("parse"), "{text}");
    }

    #[test]
    fn long_messages_are_cut() {
        let text = finished(super::super::failure::coded(Code::InvalidArgument, "é".repeat(9_000), None));
        assert!(text.len() < 800, "{}", text.len());
    }

    #[test]
    fn floods_of_errors_are_cut() {
        let mut errors = vec![super::super::failure::coded(Code::Internal, "y", None); 3_000];
        finish(&mut errors, "r1");
        assert_eq!(errors.len(), MAX_ERRORS);
        assert!(errors[MAX_ERRORS - 1].message.contains("2980 more"));
    }
}
