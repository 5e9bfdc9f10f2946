//! Adopting a single-tenant database: its tables become tenant-scoped while it is in use.
//!
//! The team's tables are where they are (`legacy` in the examples), Tenantry's in the schema `tenantry`; a [`Plan`] says
//! which tables are adopted and where the organization of each row is from. What happens to them, in this order:
//!
//! 1. [`run`] adds a nullable `organization_id` and a trigger that fills it on live writes, makes each user a user of
//!    Tenantry with an organization (one transaction each), and then fills the rows in batches (one transaction each,
//!    with its checkpoint and its mapping). Killed, it goes on where it was; a second run changes nothing.
//! 2. [`verify`] says what is not right. Rows whose organization is not known, or known in two ways, are reported and
//!    stay as they are: nothing is guessed. Whoever knows better sets `organization_id` by hand.
//! 3. [`finalize`] makes it hold: `NOT NULL`, foreign keys that carry the organization, row-level security. Every lock
//!    that stops writers is short, and is waited for with a limit.
//! 4. [`rollback`] takes everything back from what the schema `adopt` has recorded.
//!
//! Names are data here, so SQL is built as text: identifiers by `quote`, values as parameters.

mod batch;
mod catalogue;
mod check;
pub mod command;
mod dry_run;
mod finalize;
mod infer;
mod installed;
mod name;
mod people;
mod plan;
mod policies;
mod progress;
mod report;
mod rollback;
mod run;
mod session;
mod suggest;
mod trigger;
mod verify;

pub use catalogue::{Catalogue, TableInfo};
pub use check::{Checked, CheckedTable};
pub use dry_run::{DryRun, dry_run};
pub use finalize::{FinalizeOptions, finalize};
pub use name::{Columns, Relation};
pub use plan::{Plan, Policy, Source};
pub use report::write_report;
pub use rollback::rollback;
pub use run::{RunOptions, Summary, run};
pub use session::Session;
pub use suggest::suggest;
pub use verify::{Finding, verify};

/// The column that every adopted table gets.
pub const COLUMN: &str = "organization_id";

/// Why adopting did not work.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The plan is not one, or does not fit the database.
    #[error("the plan cannot be used:\n{}", .0.iter().map(|problem| format!("  - {problem}")).collect::<Vec<_>>().join("\n"))]
    Plan(Vec<String>),
    /// The database or its state does not allow it; the text says what to do.
    #[error("{message}")]
    Refused {
        /// A stable word for programs.
        code: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// The database failed in the middle of something.
    #[error("{doing}: {}", trouble(source).1)]
    Database {
        /// What was being done.
        doing: String,
        /// What the database said.
        source: sqlx::Error,
    },
    /// A file could not be written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Result with [`AdoptError`].
pub type Result<T, E = AdoptError> = std::result::Result<T, E>;

impl AdoptError {
    fn refused(code: &'static str, message: impl Into<String>) -> Self {
        Self::Refused { code, message: message.into() }
    }

    /// A stable word for programs; the message of the command begins with it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Plan(_) => "PLAN_INVALID",
            Self::Refused { code, .. } => code,
            Self::Database { source, .. } => trouble(source).0,
            Self::Io(_) => "FILE",
        }
    }
}

/// `map_err` with what was being done.
fn doing(what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> AdoptError {
    let doing = what.into();
    move |source| AdoptError::Database { doing, source }
}

const RESUME: &str = "Nothing is lost: run the same command again, it goes on where it was.";

/// The failures that are met in practice: a word, and what to do.
fn trouble(error: &sqlx::Error) -> (&'static str, String) {
    const LOST: &str = "CONNECTION_LOST";
    let database = match error {
        sqlx::Error::Database(database) => database,
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_) | sqlx::Error::WorkerCrashed => {
            return (LOST, format!("the connection was lost ({error}). {RESUME}"));
        }
        _ => return ("DATABASE_ERROR", error.to_string()),
    };
    match database.code().as_deref() {
        Some("53100") => {
            ("DISK_FULL", format!("the disk of the database is full ({database}). Make room first. {RESUME}"))
        }
        Some("53200" | "53300") => {
            ("DATABASE_BUSY", format!("the database is short of memory or connections ({database}). {RESUME}"))
        }
        Some("25006") => (
            "READ_ONLY",
            format!(
                "the database takes no writes here ({database}): let MIGRATION_DATABASE_URL name the primary, and a role without default_transaction_read_only"
            ),
        ),
        Some("42501") => (
            "NO_PRIVILEGE",
            format!(
                "the role of MIGRATION_DATABASE_URL may not do this ({database}): it must own the tables, or be a member of their owner"
            ),
        ),
        Some("55P03") => (
            "LOCKED",
            format!(
                "a lock was not to be had in time, again and again ({database}): something holds it; look into pg_stat_activity for long transactions. {RESUME}"
            ),
        ),
        Some("40P01" | "40001") => {
            ("COLLISIONS", format!("it collided with other writers, again and again ({database}). {RESUME}"))
        }
        Some(code) if code.starts_with("57P") || code.starts_with("08") => {
            (LOST, format!("the connection was lost ({database}). {RESUME}"))
        }
        Some(code) => ("DATABASE_ERROR", format!("{database} (SQLSTATE {code})")),
        None => ("DATABASE_ERROR", database.to_string()),
    }
}
