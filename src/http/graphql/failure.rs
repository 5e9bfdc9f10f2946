//! Requests that end before execution: GraphQL specification, section 7.1.2 "Request Errors", and the status codes of
//! GraphQL over HTTP, section 6.4.

use async_graphql::{ErrorExtensionValues, Pos, ServerError};
use axum::http::StatusCode;

use crate::error::{Code, Error};
use crate::rates::{Refused, Standing};

/// What stopped the request.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    errors: Vec<ServerError>,
    /// The request was well-formed HTTP and the document, the operation or the variables are at fault: clients that
    /// read `application/json` are answered with 200 then.
    in_document: bool,
    /// Status in the newest draft of GraphQL over HTTP, if it differs.
    draft: Option<StatusCode>,
    /// It concerns an automatic persisted query: the client is about to send the document.
    automatic: bool,
    allow: Option<&'static str>,
    /// Seconds after which trying again is right.
    retry_after: Option<u64>,
    /// What is left of the budgets that do not have enough.
    standing: Option<Box<Standing>>,
}

impl Failure {
    /// The HTTP request is wrong.
    pub(super) fn request(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self {
            status,
            errors: vec![coded(code, message, None)],
            in_document: false,
            draft: None,
            automatic: false,
            allow: None,
            retry_after: None,
            standing: None,
        }
    }

    /// A parameter of the request is missing or has the wrong type.
    pub(super) fn malformed(code: Code, message: impl Into<String>) -> Self {
        Self::request(StatusCode::BAD_REQUEST, code, message).in_draft(StatusCode::UNPROCESSABLE_ENTITY)
    }

    /// The hash of an automatic persisted query is unknown, or the feature is off. Apollo's protocol answers with 200, so
    /// that no error handling on the way hides the code from the client, which then sends the document.
    pub(super) fn automatic(code: Code, message: &str) -> Self {
        let failure = Self::request(StatusCode::OK, code, message).in_draft(StatusCode::NOT_FOUND);
        Self { in_document: true, automatic: true, ..failure }
    }

    /// Returns whether it concerns an automatic persisted query.
    pub(super) fn is_automatic(&self) -> bool {
        self.automatic
    }

    /// Sets another status for the newest draft.
    pub(super) fn in_draft(self, status: StatusCode) -> Self {
        Self { draft: Some(status), ..self }
    }

    /// The method is wrong; `allow` are the right ones.
    pub(super) fn method(allow: &'static str, message: &str) -> Self {
        let failure = Self::request(StatusCode::METHOD_NOT_ALLOWED, Code::MethodNotAllowed, message);
        Self { allow: Some(allow), ..failure }
    }

    /// The document, the choice of the operation or a variable is wrong.
    pub(super) fn document(code: Code, message: impl Into<String>, pos: Option<Pos>) -> Self {
        Self::documents(vec![coded(code, message, pos)])
    }

    /// The document does not fit the schema.
    pub(super) fn invalid(message: impl Into<String>, pos: Option<Pos>) -> Self {
        Self::document(Code::GraphqlValidationFailed, message, pos)
    }

    /// The document cannot be read.
    pub(super) fn syntax(what: &str, pos: Option<Pos>) -> Self {
        let place = pos.map(|pos| format!(" at line {}, column {}", pos.line, pos.column)).unwrap_or_default();
        let failure =
            Self::document(Code::GraphqlParseFailed, format!("The document cannot be parsed{place}: {what}."), pos);
        Self { draft: None, ..failure }
    }

    /// A limit is exceeded.
    pub(super) fn limit(code: Code, message: String) -> Self {
        Self::from(Error::Limit { code, message })
    }

    /// Several errors in one document.
    pub(super) fn documents(errors: Vec<ServerError>) -> Self {
        let draft = Some(StatusCode::UNPROCESSABLE_ENTITY);
        let failure = Self::request(StatusCode::BAD_REQUEST, Code::BadRequest, "");
        Self { errors, in_document: true, draft, ..failure }
    }

    /// The status for clients that read `application/graphql-response+json`.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the status of the newest draft of GraphQL over HTTP.
    pub(super) fn draft_status(&self) -> StatusCode {
        self.draft.unwrap_or(self.status)
    }

    /// Whether the document, and not the HTTP request or the caller, is at fault.
    #[must_use]
    pub fn is_in_document(&self) -> bool {
        self.in_document
    }

    /// Whether clients that read a stream look for it there: what is wrong with the document, and that its cost is too high.
    pub(super) fn belongs_into_a_stream(&self) -> bool {
        self.in_document || self.status == StatusCode::TOO_MANY_REQUESTS
    }

    /// The header `Allow`, for wrong methods.
    pub(super) fn allow(&self) -> Option<&'static str> {
        self.allow
    }

    /// The header `Retry-After`, in seconds.
    pub(super) fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    /// What is left of the budgets that do not have enough.
    pub(super) fn standing(&self) -> Option<Standing> {
        self.standing.as_deref().copied()
    }

    /// The errors.
    #[must_use]
    pub fn errors(&self) -> &[ServerError] {
        &self.errors
    }

    /// The errors, to be sent.
    pub(super) fn into_errors(self) -> Vec<ServerError> {
        self.errors
    }

    /// The code of the first error.
    #[must_use]
    pub fn code(&self) -> String {
        let code = self.errors.first().and_then(|error| error.extensions.as_ref()?.get("code"));
        match code {
            Some(async_graphql::Value::String(code)) => code.clone(),
            _ => String::new(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let in_document = matches!(error, Error::Limit { .. } | Error::Invalid { .. } | Error::InvalidCursor(_));
        let status = error.status();
        let retry_after = match error {
            Error::RateLimited { retry_after, .. } => Some(retry_after),
            // As long as a database takes to come back, or a crowd to go.
            _ => (status == StatusCode::SERVICE_UNAVAILABLE).then_some(5),
        };
        // The draft counts limits among the rules of validation.
        let draft = (in_document && status == StatusCode::BAD_REQUEST).then_some(StatusCode::UNPROCESSABLE_ENTITY);
        let error = async_graphql::Error::from(error).into_server_error(Pos::default());
        let mut error = ServerError { locations: Vec::new(), ..error };
        Error::annotate(&mut error);
        Self {
            status,
            errors: vec![error],
            in_document,
            draft,
            automatic: false,
            allow: None,
            retry_after,
            standing: None,
        }
    }
}

impl From<Box<Refused>> for Failure {
    fn from(refused: Box<Refused>) -> Self {
        let Refused { error, standing } = *refused;
        Self { standing: Some(Box::new(standing)), ..error.into() }
    }
}

/// An error with a code.
pub(super) fn coded(code: Code, message: impl Into<String>, pos: Option<Pos>) -> ServerError {
    let mut extensions = ErrorExtensionValues::default();
    extensions.set("code", code.as_str());
    ServerError { extensions: Some(extensions), ..ServerError::new(message, pos) }
}
