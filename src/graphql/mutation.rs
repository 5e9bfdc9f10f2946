//! The one way a mutation runs.
//!
//! A verb is its checks and its statements: an input implements [`Mutation`] and says in [`Done`] what happened. [`run`]
//! does what every mutation shares, in one transaction: permission, idempotency key, verb, the memory of the key, then in
//! one statement the audit row, the event and the row for the payload, and commit. What the caller can mend becomes
//! `userErrors` in the payload, what they cannot a top-level error; either way the transaction is dropped and nothing of
//! it remains.

use std::ops::RangeInclusive;
use std::sync::Arc;

use async_graphql::{Context, Enum, InputType, MaybeUndefined, SimpleObject};
use chrono::{DateTime, Utc};
use sqlx::AssertSqlSafe;

use crate::access::{Action, IdentitySource, Tenant};
use crate::clock::Clock;
use crate::db::TenantTx;
use crate::error::{Error, Result};
use crate::events::{self, Event, Telling};
use crate::graphql::entity::{Entity as _, Loadable, by_id, visible};
use crate::graphql::idempotency::{KeyedRequest, Known};
use crate::graphql::session::Session;
use crate::id::{Id, Identified};
use crate::trail::{self, AuditEntry, Origin};

/// An input that changes something.
pub trait Mutation: InputType {
    /// What the verb makes or changes; its id is remembered under the idempotency key.
    type Row: Loadable;
    /// The root field.
    const FIELD: &'static str;
    /// What the viewer must be allowed to do.
    const ACTION: Action;
    /// What the audit log calls it: `ticket.update`.
    const AUDIT: &'static str;
    /// Whether subscribers are told of the row as well, where the event of [`Done`] is of another.
    const TELLS_OF_ROW: bool = false;

    /// The idempotency key of the request.
    fn idempotency_key(&self) -> Option<&str> {
        None
    }

    /// The checks and the statements of the verb.
    fn run(self, work: &mut Work<'_>) -> impl Future<Output = VerbResult<Done<Self::Row>>> + Send;
}

/// What a verb works with.
#[derive(Debug)]
pub struct Work<'a> {
    /// The transaction of this mutation; the runner commits it.
    pub tx: &'a mut TenantTx,
    /// Makes ids.
    pub clock: &'a Clock,
    /// The time of all that happens in this mutation.
    pub now: DateTime<Utc>,
    /// Who decides who belongs to an organization.
    pub identity_source: IdentitySource,
    /// Where the request came from.
    pub origin: Origin<'a>,
}

impl<'a> Work<'a> {
    /// What a verb works with in this transaction of a session.
    pub fn new(tx: &'a mut TenantTx, session: &'a Session) -> Self {
        let clock = session.clock();
        let identity_source = session.services().identity_source;
        Self { tx, clock, now: clock.now(), identity_source, origin: session.origin() }
    }

    /// Records that another row than the one of [`Done`] was changed as well, and tells its subscribers.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn also<T: Identified>(
        &mut self,
        action: &'static str,
        id: Id<T>,
        metadata: serde_json::Value,
    ) -> Result<()> {
        trail::record(self.tx, self.clock, self.origin, &AuditEntry::of(action, id, metadata)).await?;
        events::tell_more(self.tx, vec![Event::of(id)]).await
    }

    /// The viewer and the organization.
    #[must_use]
    pub fn tenant(&self) -> Tenant {
        self.tx.tenant()
    }

    /// A new id.
    #[must_use]
    pub fn new_id<T>(&self) -> Id<T> {
        Id::new(self.clock)
    }
}

/// What a verb did.
#[derive(Debug)]
pub struct Done<T> {
    /// The row that was made or changed.
    pub id: Id<T>,
    /// What the audit row says beside the action and the id: states and ids, no texts of customers, no secrets.
    pub audit: serde_json::Value,
    /// What subscribers are told, if anything.
    pub event: Option<Event>,
}

/// What every mutation is, for the registry: see [`schema`](crate::schema).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MutationInfo {
    /// The root field.
    pub field: &'static str,
    /// What it takes; `None`: a token alone.
    pub action: Option<Action>,
    /// What the audit log calls it.
    pub audit: &'static str,
    /// The type of the row it makes or changes.
    pub row: &'static str,
}

impl MutationInfo {
    /// Of this mutation.
    #[must_use]
    pub const fn of<M: Mutation>() -> Self {
        Self { field: M::FIELD, action: Some(M::ACTION), audit: M::AUDIT, row: <M::Row as Identified>::NAME }
    }
}

/// What became of a mutation: the row, or the errors.
#[derive(Debug)]
pub struct Ran<T> {
    /// The row that was made or changed, now or when the same request was first made.
    pub id: Option<Id<T>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// Runs the mutation of a root field. `ctx` is the field's: its arguments tell whether a repeated request is the same.
///
/// # Errors
/// What the caller cannot mend by another input: [`Error::Forbidden`], [`Error::Unavailable`] and so on.
pub async fn run<M: Mutation>(ctx: &Context<'_>, input: M) -> Result<Ran<M::Row>> {
    let session = Session::of(ctx)?;
    let mut tx = session.write(M::ACTION).await?;
    match in_transaction(ctx, session, &mut tx, input).await {
        Ok((id, row)) => {
            let tenant = tx.tenant();
            tx.commit().await?;
            if let Some(row) = row {
                session.wrote(tenant, id, row).await;
            }
            Ok(Ran { id: Some(id), user_errors: Vec::new() })
        }
        Err(VerbError::User(user_errors)) => {
            // Whoever mends the input and asks again at once must not meet the locks of this attempt.
            tx.finish(false).await?;
            Ok(Ran { id: None, user_errors })
        }
        Err(VerbError::Fail(error)) => Err(error),
    }
}

/// Runs mutations of one kind that were asked for together: each in a transaction of its own, or, with `atomic`, all in one,
/// and none unless all can be done. The answers are in the order of the inputs; `key` orders the work, so that two requests
/// over the same rows do not wait for each other in a circle.
///
/// # Errors
/// As [`run`]; what was done by then stays done unless `atomic`.
pub async fn run_many<M: Mutation, K: Ord>(
    ctx: &Context<'_>,
    inputs: Vec<M>,
    atomic: bool,
    key: fn(&M) -> K,
) -> Result<Vec<Ran<M::Row>>> {
    let session = Session::of(ctx)?;
    let mut inputs: Vec<(usize, M)> = inputs.into_iter().enumerate().collect();
    inputs.sort_by_cached_key(|(_, input)| key(input));
    let mut answers: Vec<Ran<M::Row>> = inputs.iter().map(|_| Ran { id: None, user_errors: Vec::new() }).collect();
    let mut shared = if atomic { Some(session.write(M::ACTION).await?) } else { None };
    let mut is_refused = false;
    for (place, input) in inputs {
        let result = if let Some(tx) = &mut shared {
            in_transaction(ctx, session, tx, input).await.map(|(id, _)| id)
        } else {
            let mut tx = session.write(M::ACTION).await?;
            match in_transaction(ctx, session, &mut tx, input).await {
                Ok((id, _)) => {
                    tx.commit().await?;
                    Ok(id)
                }
                Err(VerbError::User(user_errors)) => {
                    tx.finish(false).await?;
                    Err(VerbError::User(user_errors))
                }
                Err(failed) => Err(failed),
            }
        };
        answers[place] = match result {
            Ok(id) => Ran { id: Some(id), user_errors: Vec::new() },
            Err(VerbError::User(user_errors)) => {
                is_refused = true;
                Ran { id: None, user_errors }
            }
            Err(VerbError::Fail(error)) => return Err(error),
        };
    }
    if let Some(tx) = shared {
        tx.finish(!is_refused).await?;
        if is_refused {
            for answer in &mut answers {
                answer.id = None;
            }
        }
    }
    Ok(answers)
}

/// A row as the payload shows it; `None` inside when its role may not see it.
type Shown<M> = Option<Arc<<M as Loadable>::Entity>>;

/// The id of the row, and the row itself unless the request was done before.
async fn in_transaction<M: Mutation>(
    ctx: &Context<'_>,
    session: &Session,
    tx: &mut TenantTx,
    input: M,
) -> VerbResult<(Id<M::Row>, Option<Shown<M::Row>>)> {
    let request = match input.idempotency_key() {
        Some(key) => Some(KeyedRequest::new(ctx, M::FIELD, key)?),
        None => None,
    };
    if let Some(request) = &request
        && let Known::Done(id) = request.claim(tx).await?
    {
        return Ok((Id::from_uuid(id), None));
    }
    let mut work = Work::new(tx, session);
    let done = input.run(&mut work).await?;
    let id = done.id;
    let row = conclude::<M>(work.tx, session, done, request.as_ref()).await?;
    Ok((id, Some(row)))
}

/// Writes the audit row, remembers the request, tells the event and reads the row for the payload: one statement, and no second
/// transaction for what the payload shows of the row itself.
async fn conclude<M: Mutation>(
    tx: &mut TenantTx,
    session: &Session,
    done: Done<M::Row>,
    request: Option<&KeyedRequest>,
) -> Result<Shown<M::Row>> {
    type Row<M> = <<M as Mutation>::Row as Loadable>::Entity;
    let tenant = tx.tenant();
    let entry = AuditEntry::of(M::AUDIT, done.id, done.audit);
    let mut arguments = trail::arguments(tenant, session.clock(), session.origin(), &entry)?;
    let (notify, told) = match &done.event {
        Some(event) => {
            let Telling { insert, notify } = events::telling(&mut arguments, tenant.organization_id, event)?;
            // The row is the one of the audit row.
            let row = if M::TELLS_OF_ROW { ", ($1, $5, $6)" } else { "" };
            (notify, format!(", told as ({insert}{row})"))
        }
        None => ("null".to_owned(), String::new()),
    };
    let memory = match request {
        Some(request) => format!(", memory as ({})", request.remembering(&mut arguments, tenant)?),
        None => String::new(),
    };
    let sql = format!(
        // What `with` writes is written whatever is selected.
        "with trail as ({} returning {notify}){told}{memory} {}",
        trail::INSERT,
        by_id::<Row<M>>("$1", "$6", &visible::<Row<M>>(tenant.allowed))
    );
    let row = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_optional(tx.conn()).await?;
    Ok(row.map(|row| Row::<M>::decode(&row, 0)).transpose()?.map(Arc::new))
}

/// Why an input was refused, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum UserErrorCode {
    /// The value is empty or holds only spaces.
    Blank,
    /// The value is too long, or there are too many.
    TooLong,
    /// The value does not have the right form.
    Invalid,
    /// The id names nothing in this organization.
    NotFound,
    /// The status of the row does not allow the change.
    InvalidTransition,
    /// The row is not at the expected version.
    VersionConflict,
    /// The idempotency key was used before, with other arguments.
    IdempotencyKeyParameterMismatch,
    /// A request with this idempotency key is still in progress.
    IdempotencyConcurrentRequest,
    /// There is one like it already.
    Conflict,
    /// It has expired.
    Expired,
    /// Only an owner may.
    OwnerRequired,
    /// The organization would be left without an owner.
    LastOwner,
    /// It would give what the viewer does not have.
    BeyondOwnRole,
    /// All seats of the organization are taken.
    SeatsExhausted,
    /// The plan gives no more of it.
    PlanLimitReached,
    /// Somebody else decides about it: the identity provider, Stripe or the operator of the platform.
    ManagedElsewhere,
    /// The plan does not include it.
    BeyondPlan,
    /// Only the author may.
    AuthorRequired,
    /// No representative is online, has the capacity and can take it.
    NobodyAvailable,
    /// The budget does not have that much left.
    BudgetExceeded,
    /// The amount is in another currency.
    CurrencyMismatch,
    /// Another person must do it: two people decide about this amount.
    AnotherPersonRequired,
    /// More would be given back than was paid.
    ExceedsCharge,
    /// Billing is not set up by the operator.
    BillingNotConfigured,
    /// The organization pays already.
    SubscriptionExists,
    /// The organization has no living subscription.
    NoSubscription,
    /// No plan has such a price.
    UnknownPrice,
    /// Stripe does not have it in the mode that is worked in, test or live.
    WrongMode,
    /// The address is on no origin of the client application.
    UrlNotAllowed,
    /// What was looked at is not so any more.
    PreviewOutdated,
    /// Something must be paid first, or the payment was declined.
    PaymentRequired,
    /// Stripe has refused it.
    StripeRefused,
    /// Stripe has not answered.
    StripeUnavailable,
}

/// Why an input was refused.
#[derive(Clone, Debug, PartialEq, Eq, SimpleObject)]
pub struct UserError {
    /// The path of the argument: `["input", "subject"]`.
    pub field: Vec<String>,
    /// What is wrong, and what would be right.
    pub message: String,
    /// The reason as a code.
    pub code: UserErrorCode,
}

impl UserError {
    /// An error of the input as a whole.
    pub fn of_input(code: UserErrorCode, message: impl Into<String>) -> Self {
        Self { field: vec!["input".to_owned()], message: message.into(), code }
    }

    /// An error of `input.field`.
    pub fn new(field: &str, code: UserErrorCode, message: impl Into<String>) -> Self {
        Self::at(&[field], code, message)
    }

    /// An error of a place inside of the input: `["hours", "0", "from"]`.
    pub fn at(path: &[&str], code: UserErrorCode, message: impl Into<String>) -> Self {
        let field = ["input"].iter().chain(path).map(|part| (*part).to_owned()).collect();
        Self { field, message: message.into(), code }
    }
}

/// Why a verb did nothing.
#[derive(Debug)]
pub enum VerbError {
    /// The caller can mend it.
    User(Vec<UserError>),
    /// The caller cannot.
    Fail(Error),
}

/// Result of a verb.
pub type VerbResult<T> = std::result::Result<T, VerbError>;

/// What a payload shows of a verb: what it made, or the errors that the caller can mend.
///
/// # Errors
/// What the caller cannot mend.
pub fn outcome<T>(result: VerbResult<T>) -> Result<(Option<T>, Vec<UserError>)> {
    match result {
        Ok(made) => Ok((Some(made), Vec::new())),
        Err(VerbError::User(user_errors)) => Ok((None, user_errors)),
        Err(VerbError::Fail(error)) => Err(error),
    }
}

impl<E: Into<Error>> From<E> for VerbError {
    fn from(error: E) -> Self {
        Self::Fail(error.into())
    }
}

impl VerbError {
    /// A single error of the input as a whole.
    pub fn of_input(code: UserErrorCode, message: impl Into<String>) -> Self {
        Self::User(vec![UserError::of_input(code, message)])
    }

    /// A single error of `input.field`.
    pub fn user(field: &str, code: UserErrorCode, message: impl Into<String>) -> Self {
        Self::User(vec![UserError::new(field, code, message)])
    }
}

/// Collects the errors of an input, so that the caller sees all of them at once.
#[derive(Debug, Default)]
pub struct Checks(Vec<UserError>);

impl Checks {
    /// Adds an error of `input.field`.
    pub fn refuse(&mut self, field: &str, code: UserErrorCode, message: impl Into<String>) {
        self.refuse_at(&[field], code, message);
    }

    /// Adds an error of a place inside of the input: `["hours", "0", "from"]`.
    pub fn refuse_at(&mut self, path: &[&str], code: UserErrorCode, message: impl Into<String>) {
        self.0.push(UserError::at(path, code, message));
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

    /// Checks a JSON object that may be missing.
    pub fn object(&mut self, field: &str, value: Option<&serde_json::Value>, max_bytes: usize) {
        let Some(value) = value else { return };
        if !value.is_object() {
            self.refuse(field, UserErrorCode::Invalid, format!("`{field}` must be a JSON object."));
        }
        let text = value.to_string();
        if text.len() > max_bytes {
            let message = format!("`{field}` takes at most {max_bytes} bytes of JSON.");
            self.refuse(field, UserErrorCode::TooLong, message);
        }
        // JSON writes it so, wherever it stands; the database takes it in no text.
        if text.contains("\\u0000") {
            let message = format!("`{field}` must not hold the character NUL (U+0000).");
            self.refuse(field, UserErrorCode::Invalid, message);
        }
    }

    /// Checks a number that may be missing.
    pub fn within(&mut self, field: &str, value: Option<i32>, range: RangeInclusive<i32>) {
        if value.is_some_and(|value| !range.contains(&value)) {
            let message = format!("`{field}` takes {} to {}.", range.start(), range.end());
            self.refuse(field, UserErrorCode::Invalid, message);
        }
    }

    /// Ends the checks.
    pub fn finish(self) -> VerbResult<()> {
        if self.0.is_empty() { Ok(()) } else { Err(VerbError::User(self.0)) }
    }
}

/// What a field is after a change: as it was where the input leaves it out, nothing where that is null.
pub fn after<T: Copy>(given: &MaybeUndefined<T>, before: Option<T>) -> Option<T> {
    if given.is_undefined() { before } else { given.value().copied() }
}

/// Refuses when the row is not at the version the caller has seen.
pub fn check_version(expected: Option<i32>, actual: i32) -> VerbResult<()> {
    match expected {
        Some(expected) if expected != actual => Err(VerbError::user(
            "expectedVersion",
            UserErrorCode::VersionConflict,
            format!("The row is at version {actual}, not {expected}: read it again and decide anew."),
        )),
        _ => Ok(()),
    }
}
