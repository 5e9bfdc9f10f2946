//! Adopting a single-tenant database: its tables become tenant-scoped while it is in use.
//!
//! The team's tables stay where they are (`legacy` in the examples), Tenantry's are in the schema `tenantry`; a [`Plan`]
//! says which tables are adopted and how the organization of each row is inferred. The steps:
//!
//! 1. [`run`] adds a nullable `organization_id` and a trigger that fills it on live writes, makes each user a user of
//!    Tenantry with an organization (one transaction each), and then fills the rows in batches (one transaction each,
//!    with its checkpoint and its mapping). After a kill it continues where it stopped; a second run changes nothing.
//! 2. [`verify`] lists what is wrong. Rows without an organization, or with sources that contradict each other, are
//!    reported and never guessed. The team sets their `organization_id` by hand.
//! 3. [`finalize`] enforces it: `NOT NULL`, foreign keys that carry the organization, row-level security. Every lock
//!    that blocks writers is short, and is waited for with a limit.
//! 4. [`rollback`] reverts everything from what the schema `adopt` has recorded.
//!
//! Names of tables are data here, so SQL is built as text: identifiers are quoted, values are parameters.

mod around;
mod batch;
mod catalogue;
mod check;
mod dry_run;
mod evidence;
mod finalize;
mod infer;
mod installed;
mod name;
mod owner_connection;
mod people;
mod plan;
mod policies;
mod progress;
mod question;
mod rehearse;
mod report;
mod rollback;
mod run;
mod status;
mod suggest;
mod trigger;
mod verify;

pub use catalogue::{Catalogue, TableInfo};
pub use check::{Checked, CheckedTable};
pub use dry_run::{DryRun, dry_run};
pub use finalize::{FinalizeOptions, finalize};
pub use name::{Columns, Relation};
pub use owner_connection::OwnerConnection;
pub use plan::{Plan, Policy, Source, Users};
pub use progress::{Progress, ProgressListener, format_duration};
pub use question::{Answers, Ask, Choice, Question};
pub use report::write_report;
pub use rollback::rollback;
pub use run::{RunOptions, Summary, run};
pub use status::{Status, status};
pub use suggest::{Suggestion, suggest};
pub use verify::{AdoptionFinding, verify};

use crate::error::Code;

/// The column that every adopted table gets.
pub const COLUMN: &str = "organization_id";

/// What it is called where the team has a column of that name and another type.
const OTHER_COLUMN: &str = "tenant_organization_id";

/// Why an adoption failed.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The plan is not valid, or does not fit the database.
    #[error("the plan cannot be used:\n{}", .0.iter().map(|problem| format!("  - {problem}")).collect::<Vec<_>>().join("\n"))]
    Plan(Vec<String>),
    /// The database or its state does not allow it. The message says what to do.
    #[error("{message}")]
    Refused {
        /// The code.
        code: Code,
        /// What is wrong and what to do.
        message: String,
    },
    /// A statement failed.
    #[error("{doing}: {}", explain(source).1)]
    Database {
        /// What the statement was for.
        doing: String,
        /// The error of the database.
        source: sqlx::Error,
    },
    /// A file could not be written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Result with [`AdoptError`].
pub type Result<T, E = AdoptError> = std::result::Result<T, E>;

impl AdoptError {
    /// An [`AdoptError::Refused`].
    pub fn refused(code: Code, message: impl Into<String>) -> Self {
        Self::Refused { code, message: message.into() }
    }

    /// The code. The message of the command begins with it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Plan(_) => Code::PlanInvalid,
            Self::Refused { code, .. } => *code,
            Self::Database { source, .. } => explain(source).0,
            Self::Io(_) => Code::File,
        }
    }
}

/// Adds what the statement was for to an error, for `map_err`.
fn doing(what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> AdoptError {
    let doing = what.into();
    move |source| AdoptError::Database { doing, source }
}

const RESUME: &str = "Nothing is lost: run the same command again; it continues where it stopped.";

/// The code of an error of the database, and what to do about it.
fn explain(error: &sqlx::Error) -> (Code, String) {
    const LOST: Code = Code::ConnectionLost;
    let database = match error {
        sqlx::Error::Database(database) => database,
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_) | sqlx::Error::WorkerCrashed => {
            return (LOST, format!("the connection was lost ({error}). {RESUME}"));
        }
        _ => return (Code::DatabaseError, error.to_string()),
    };
    match database.code().as_deref() {
        Some("53100") => {
            (Code::DiskFull, format!("the disk of the database is full ({database}). Make room first. {RESUME}"))
        }
        Some("53200" | "53300") => {
            (Code::DatabaseBusy, format!("the database is short of memory or connections ({database}). {RESUME}"))
        }
        Some("25006") => (
            Code::ReadOnly,
            format!(
                "the database takes no writes here ({database}): let MIGRATION_DATABASE_URL name the primary, and a role without default_transaction_read_only"
            ),
        ),
        Some("42501") => (
            Code::NoPrivilege,
            format!(
                "the role of MIGRATION_DATABASE_URL may not do this ({database}): it must own the tables, or be a member of their owner"
            ),
        ),
        Some("55P03") => (
            Code::Locked,
            format!(
                "a lock was not granted in time, repeatedly, for as long as `--retry-for` says ({database}): look into pg_stat_activity for the long transaction that holds it. {RESUME}"
            ),
        ),
        Some("40P01" | "40001") => {
            (Code::Collisions, format!("it collided with other writers, repeatedly ({database}). {RESUME}"))
        }
        Some(code) if code.starts_with("57P") || code.starts_with("08") => {
            (LOST, format!("the connection was lost ({database}). {RESUME}"))
        }
        Some(code) => (Code::DatabaseError, format!("{database} (SQLSTATE {code})")),
        None => (Code::DatabaseError, database.to_string()),
    }
}
