//! The one error type of the API and the commands.
//!
//! Every variant has a stable [`code`](Error::code) that clients may match on and an HTTP status that
//! is used when the whole request fails with it. [`Error::Internal`] is the only variant whose cause is not shown to the
//! caller: it is logged once, with the request id, and the caller sees that id.

mod code;

use std::sync::Arc;

use async_graphql::ServerError;
use axum::http::StatusCode;

pub use code::Code;

/// What can go wrong, from the caller's point of view.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No credential was sent with a request that needs one.
    #[error(
        "Sign in first: send the header `Authorization: Bearer <token>` (WebSocket: `authorization` in the connection_init payload)."
    )]
    Unauthenticated,
    /// A credential was sent and it is not valid; the text says why, without repeating the credential.
    #[error("The token was refused: {0}")]
    InvalidToken(String),
    /// The token is good, and nothing was heard of its user yet: the identity provider's webhook is on its way.
    #[error("Your account is not here yet: the identity provider has not told of it. Try again in a few seconds.")]
    AccountNotReady,
    /// The user was deleted.
    #[error("This account was deleted. Sign in with another one.")]
    AccountGone,
    /// The user is banned or locked at the identity provider.
    #[error("This account is banned or locked. Ask whoever runs this service.")]
    AccountBlocked,
    /// The identity provider has ended the session of the token.
    #[error("The session has ended: sign in again.")]
    SessionEnded,
    /// The identity provider's signing keys could not be fetched yet, so no token can be checked.
    #[error("The identity provider's signing keys cannot be fetched at the moment. Try again in a few seconds.")]
    KeysUnavailable,
    /// An API key was sent and it is not valid; the text says why, without repeating the key.
    #[error("The API key was refused: {0}")]
    InvalidApiKey(&'static str),
    /// A program asked for what is a person's.
    #[error("This is for people: an API key is no user. Send a user's token.")]
    UserRequired,
    /// The credential names no organization and the request has no `X-Organization-Id`.
    #[error(
        "Choose an organization: send its id or slug in the header `X-Organization-Id`, or a token issued for it. `viewer {{ memberships {{ organization {{ id slug }} }} }}` lists yours."
    )]
    OrganizationRequired,
    /// The organization does not exist, or the viewer is not a member: the two are never told apart.
    #[error("There is no such organization among your memberships.")]
    OrganizationNotFound,
    /// An operator has suspended the organization.
    #[error("This organization is suspended: nothing can be changed in it. Ask whoever runs this service.")]
    OrganizationSuspended,
    /// All seats are taken, and the viewer has none.
    #[error(
        "You have no seat in this organization, so you can read and not do {0}: an owner or administrator frees a seat or buys more, and yours comes by itself."
    )]
    SeatRequired(&'static str),
    /// The header names another organization than the token was issued for.
    #[error("The token was issued for another organization than `X-Organization-Id` names: get a token for that one.")]
    OrganizationMismatch,
    /// The viewer's role does not allow the action.
    #[error("Your role {role} does not allow {action}.")]
    Forbidden {
        /// The viewer's role in the organization.
        role: String,
        /// The refused action, as in `viewer.permissions`.
        action: String,
    },
    /// The action is the user's alone, and somebody acts in their place.
    #[error("{action} is not open to somebody who acts in the place of a user: the user must do it themselves.")]
    ImpersonationRestricted {
        /// The refused action, as in `viewer.permissions`, or `PLATFORM`.
        action: &'static str,
    },
    /// An argument is wrong.
    #[error("{message}")]
    Invalid {
        /// The path of the argument, as the caller wrote it: `input.subject`.
        field: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// A cursor that was not made by this list, in this order, for this organization.
    #[error(
        "The cursor in `{0}` was not made by this list in this order: start again without it, or repeat the `orderBy` it was made with."
    )]
    InvalidCursor(&'static str),
    /// A limit of the GraphQL layer was exceeded.
    #[error("{message}")]
    Limit {
        /// The code: [`Code::QueryTooDeep`] and so on.
        code: Code,
        /// The limit, what the request had, and how to get below it.
        message: String,
    },
    /// A subscription that was behind cannot catch up: what it has not heard is not kept any more.
    #[error("Events were missed: read again what the subscription is about, then subscribe anew.")]
    EventsMissed,
    /// More was asked for than may be at the moment.
    #[error("{message}")]
    RateLimited {
        /// Seconds after which there is enough.
        retry_after: u64,
        /// What was asked for, and whose it is.
        message: String,
    },
    /// The database cannot be reached or is too busy; trying again later is right.
    #[error("The database cannot be reached at the moment. Try again in a few seconds.")]
    Unavailable,
    /// The statement or the request took too long.
    #[error("The request took too long and was stopped. Ask for less at once.")]
    Timeout,
    /// A bug or a broken part; the cause is in the log under the request id.
    #[error("Something went wrong on our side. Tell us the requestId.")]
    Internal(Arc<dyn std::error::Error + Send + Sync>),
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Invalid`] for the argument at `field`.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), message: message.into() }
    }

    /// An [`Error::Internal`] with the given cause.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(Arc::from(cause.into()))
    }

    /// The stable code that stands in `errors[].extensions.code`.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Unauthenticated => Code::Unauthenticated,
            Self::InvalidToken(_) => Code::InvalidToken,
            Self::AccountNotReady => Code::AccountNotReady,
            Self::AccountGone => Code::AccountGone,
            Self::AccountBlocked => Code::AccountBlocked,
            Self::SessionEnded => Code::SessionEnded,
            Self::KeysUnavailable => Code::KeysUnavailable,
            Self::InvalidApiKey(_) => Code::InvalidApiKey,
            Self::UserRequired => Code::UserRequired,
            Self::OrganizationRequired => Code::OrganizationRequired,
            Self::OrganizationNotFound => Code::OrganizationNotFound,
            Self::OrganizationSuspended => Code::OrganizationSuspended,
            Self::SeatRequired(_) => Code::SeatRequired,
            Self::OrganizationMismatch => Code::OrganizationMismatch,
            Self::Forbidden { .. } => Code::Forbidden,
            Self::ImpersonationRestricted { .. } => Code::ImpersonationRestricted,
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::InvalidCursor(_) => Code::InvalidCursor,
            Self::Limit { code, .. } => *code,
            Self::EventsMissed => Code::EventsMissed,
            Self::RateLimited { .. } => Code::RateLimited,
            Self::Unavailable => Code::Unavailable,
            Self::Timeout => Code::Timeout,
            Self::Internal(_) => Code::Internal,
        }
    }

    /// Whether a stream ends with this error: whoever gets it has no access any more, or cannot catch up.
    #[must_use]
    pub fn ends_stream(&self) -> bool {
        matches!(
            self,
            Self::OrganizationNotFound
                | Self::AccountNotReady
                | Self::AccountGone
                | Self::AccountBlocked
                | Self::SessionEnded
                | Self::InvalidApiKey(_)
                | Self::SeatRequired(_)
                | Self::Forbidden { .. }
                | Self::ImpersonationRestricted { .. }
                | Self::EventsMissed
        )
    }

    /// The HTTP status of a request that fails with this error before anything was executed.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Unauthenticated
            | Self::InvalidToken(_)
            | Self::InvalidApiKey(_)
            | Self::AccountGone
            | Self::SessionEnded => StatusCode::UNAUTHORIZED,
            Self::OrganizationRequired
            | Self::OrganizationMismatch
            | Self::Invalid { .. }
            | Self::InvalidCursor(_)
            | Self::EventsMissed
            | Self::Limit { .. } => StatusCode::BAD_REQUEST,
            Self::OrganizationNotFound
            | Self::OrganizationSuspended
            | Self::SeatRequired(_)
            | Self::AccountBlocked
            | Self::UserRequired
            | Self::Forbidden { .. }
            | Self::ImpersonationRestricted { .. } => StatusCode::FORBIDDEN,
            Self::AccountNotReady | Self::Unavailable | Self::Timeout | Self::KeysUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl Error {
    /// Completes a GraphQL error that came from one of ours: `extensions.code`, for arguments `extensions.field`, and where it is known
    /// when trying again is right, `extensions.retryAfter` in seconds.
    ///
    /// A resolver's [`Error`] travels through the engine as the error's source. Returns it, so that the edge can log what
    /// is internal.
    pub fn annotate(graphql: &mut ServerError) -> Option<Self> {
        let error = graphql.source::<Self>()?.clone();
        let extensions = graphql.extensions.get_or_insert_default();
        extensions.set("code", error.code().as_str());
        if let Self::Invalid { field, .. } = &error {
            extensions.set("field", field.as_str());
        }
        if let Self::RateLimited { retry_after, .. } = &error {
            extensions.set("retryAfter", *retry_after);
        }
        Some(error)
    }
}

/// Classifies what the database reports: unreachable and timed out are the caller's to retry, the rest is internal.
///
/// SQLSTATE codes: `PostgreSQL` documentation, appendix A (57014 `query_canceled`, class 08 connection exception,
/// class 53 insufficient resources, 57P01–57P03 shutdown and start-up).
impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
                tracing::warn!(%error, "the database cannot be reached");
                Self::Unavailable
            }
            // A proxy took the connection and closed it again: there is nobody behind it at the moment.
            sqlx::Error::Protocol(text) if text.contains("SSLRequest") => {
                tracing::warn!(%error, "the database cannot be reached");
                Self::Unavailable
            }
            sqlx::Error::Database(db) => match db.code().and_then(|code| Self::of_sqlstate(&code, &error)) {
                Some(known) => known,
                None => Self::internal(error),
            },
            _ => Self::internal(error),
        }
    }
}

/// The text of an error with those below it. That of an HTTP client says only that it could not connect.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Whether the way to the database broke.
pub(crate) fn is_lost(error: &tokio_postgres::Error) -> bool {
    error.is_closed() || std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
}

/// The same for the driver that reads.
impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let of_sqlstate = error.code().and_then(|code| Self::of_sqlstate(code.code(), &error));
        match of_sqlstate {
            Some(known) => known,
            None if error.code().is_none() && is_lost(&error) => {
                tracing::warn!(%error, "the database cannot be reached");
                Self::Unavailable
            }
            None => Self::internal(error),
        }
    }
}

impl Error {
    fn of_sqlstate(code: &str, error: &dyn std::error::Error) -> Option<Self> {
        match code {
            "57014" => Some(Self::Timeout),
            // What PgBouncer says to settings in the start-up packet.
            "08P01" if error.to_string().contains("startup parameter") => Some(Self::internal(format!(
                "a pooler stands before the database and refuses the settings of a session ({error}): give the address of \
                 PostgreSQL itself, or, for DATABASE_URL, set DATABASE_POOLER=transaction"
            ))),
            // A standby: the transaction of a connection that was opened before the fail-over.
            "25006" => Some(Self::Unavailable),
            code if code.starts_with("08") || code.starts_with("53") || code.starts_with("57P") => {
                tracing::warn!(%error, "the database refuses work");
                Some(Self::Unavailable)
            }
            // Class 22, data exception: a value that no check of ours foresaw is still the caller's.
            code if code.starts_with("22") => {
                tracing::warn!(%error, "a value passed our checks and was refused by the database");
                Some(Self::invalid("arguments", "A value is outside of what its type can hold."))
            }
            _ => None,
        }
    }
}
