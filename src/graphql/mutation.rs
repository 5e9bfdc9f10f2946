//! What every mutation shares: errors as data, idempotency keys, versions.
//!
//! A mutation's verb (in the slice's `mod.rs`) returns [`Outcome`]: the entity, or a [`Refusal`]. A refusal that is the
//! caller's to mend becomes `userErrors` in the payload; one that is not becomes a top-level error. Either way the
//! transaction is dropped and nothing of it remains.

use async_graphql::{Enum, SimpleObject};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::db::TenantTx;
use crate::error::{Error, Result};

/// What is wrong with an input, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum UserErrorCode {
    /// Empty, or nothing but spaces.
    Blank,
    /// Longer or more than allowed.
    TooLong,
    /// Not of the right form.
    Invalid,
    /// Names something that does not exist in this organization.
    NotFound,
    /// The row's state does not allow it.
    InvalidTransition,
    /// The row has changed since the version that was expected.
    VersionConflict,
    /// The idempotency key was used before, with other arguments.
    IdempotencyKeyParameterMismatch,
    /// A request with this idempotency key is being worked on.
    IdempotencyConcurrentRequest,
}

/// What is wrong with an input.
#[derive(Clone, Debug, PartialEq, Eq, SimpleObject)]
pub struct UserError {
    /// The path of the argument: `["input", "subject"]`.
    pub field: Vec<String>,
    /// What is wrong and what would be right.
    pub message: String,
    /// The same for programs.
    pub code: UserErrorCode,
}

impl UserError {
    /// An error of `input.field`.
    pub fn new(field: &str, code: UserErrorCode, message: impl Into<String>) -> Self {
        Self { field: vec!["input".to_owned(), field.to_owned()], message: message.into(), code }
    }
}

/// Why a verb did nothing.
#[derive(Debug)]
pub enum Refusal {
    /// The caller can mend it.
    User(Vec<UserError>),
    /// The caller cannot.
    Fail(Error),
}

/// Result of a verb.
pub type Outcome<T> = std::result::Result<T, Refusal>;

impl<E: Into<Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Fail(error.into())
    }
}

impl Refusal {
    /// A single error of `input.field`.
    pub fn user(field: &str, code: UserErrorCode, message: impl Into<String>) -> Self {
        Self::User(vec![UserError::new(field, code, message)])
    }
}

/// Splits an outcome into what a payload shows.
///
/// # Errors
/// With what the caller cannot mend.
pub fn payload<T>(outcome: Outcome<T>) -> Result<(Option<T>, Vec<UserError>)> {
    match outcome {
        Ok(entity) => Ok((Some(entity), Vec::new())),
        Err(Refusal::User(errors)) => Ok((None, errors)),
        Err(Refusal::Fail(error)) => Err(error),
    }
}

/// Collects the errors of an input, so that the caller sees all of them at once.
#[derive(Debug, Default)]
pub struct Checks(Vec<UserError>);

impl Checks {
    /// Adds an error of `input.field`.
    pub fn refuse(&mut self, field: &str, code: UserErrorCode, message: impl Into<String>) {
        self.0.push(UserError::new(field, code, message));
    }

    /// Checks a text that must be there; returns it without outer spaces.
    pub fn required(&mut self, field: &str, text: &str, max_chars: usize) -> String {
        let text = text.trim();
        if text.is_empty() {
            self.refuse(field, UserErrorCode::Blank, format!("`{field}` must not be empty."));
        }
        self.text(field, text, max_chars)
    }

    /// Checks a text that may be empty. Lengths are in characters, as the database counts them.
    pub fn text(&mut self, field: &str, text: &str, max_chars: usize) -> String {
        let length = text.chars().count();
        if length > max_chars {
            self.refuse(
                field,
                UserErrorCode::TooLong,
                format!("`{field}` takes at most {max_chars} characters; this has {length}."),
            );
        }
        if text.contains('\0') {
            self.refuse(field, UserErrorCode::Invalid, format!("`{field}` must not hold the character NUL (U+0000)."));
        }
        text.to_owned()
    }

    /// Ends the checks.
    pub fn finish(self) -> Outcome<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Refusal::User(self.0)) }
    }
}

/// Refuses when the row is not at the version the caller has seen.
pub fn check_version(expected: Option<i32>, actual: i32) -> Outcome<()> {
    match expected {
        Some(expected) if expected != actual => Err(Refusal::user(
            "expectedVersion",
            UserErrorCode::VersionConflict,
            format!("The row is at version {actual}, not {expected}: read it again and decide anew."),
        )),
        _ => Ok(()),
    }
}

/// What an idempotency key says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotency {
    /// Nothing: do the work, then [`record`].
    New,
    /// The work was done; this row came of it.
    Done(Uuid),
}

/// Claims an idempotency key for this transaction.
///
/// The key belongs to the user in the organization. Two requests with it at once: the second is refused, not kept
/// waiting. `arguments` is what must be equal for the request to count as the same.
pub async fn claim(tx: &mut TenantTx, key: Option<&str>, operation: &str, arguments: &str) -> Outcome<Idempotency> {
    let Some(key) = key else { return Ok(Idempotency::New) };
    if key.is_empty() || key.chars().count() > 255 || key.contains('\0') {
        return Err(Refusal::user(
            "idempotencyKey",
            UserErrorCode::Invalid,
            "`idempotencyKey` takes 1 to 255 characters.",
        ));
    }
    let tenant = tx.tenant();
    let lock =
        advisory_lock(&[tenant.organization_id.uuid().as_bytes(), tenant.user_id.uuid().as_bytes(), key.as_bytes()]);
    let hash = request_hash(operation, arguments);
    let free =
        sqlx::query_scalar!(r#"select pg_try_advisory_xact_lock($1) as "free!""#, lock).fetch_one(tx.conn()).await?;
    if !free {
        return Err(Refusal::user(
            "idempotencyKey",
            UserErrorCode::IdempotencyConcurrentRequest,
            "A request with this key is being worked on: ask again in a moment to see its result.",
        ));
    }
    let known = sqlx::query!(
        "select request_hash, resource_id from tenantry.idempotency_keys where organization_id = $1 and user_id = $2 and key = $3",
        tenant.organization_id as _,
        tenant.user_id as _,
        key
    )
    .fetch_optional(tx.conn())
    .await?;
    match known {
        None => Ok(Idempotency::New),
        Some(row) if row.request_hash == hash => match row.resource_id {
            Some(id) => Ok(Idempotency::Done(id)),
            None => Err(Error::internal("an idempotency key without its row").into()),
        },
        Some(_) => Err(Refusal::user(
            "idempotencyKey",
            UserErrorCode::IdempotencyKeyParameterMismatch,
            "This key was used before with other arguments: use a new key for a new request.",
        )),
    }
}

/// Remembers what came of the request with this key, in the same transaction as the work.
pub async fn record(
    tx: &mut TenantTx,
    key: Option<&str>,
    operation: &str,
    arguments: &str,
    resource: Uuid,
) -> Outcome<()> {
    let Some(key) = key else { return Ok(()) };
    let tenant = tx.tenant();
    let hash = request_hash(operation, arguments);
    sqlx::query!(
        "insert into tenantry.idempotency_keys (organization_id, user_id, key, operation, request_hash, resource_id)
         values ($1, $2, $3, $4, $5, $6)",
        tenant.organization_id as _,
        tenant.user_id as _,
        key,
        operation,
        hash,
        resource
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

fn request_hash(operation: &str, arguments: &str) -> Vec<u8> {
    Sha256::new().chain_update(operation).chain_update([0]).chain_update(arguments).finalize().to_vec()
}

fn advisory_lock(parts: &[&[u8]]) -> i64 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    let digest = hasher.finalize();
    i64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}
