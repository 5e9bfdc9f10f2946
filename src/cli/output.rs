//! What a command prints, and how it ends.

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use crate::adopt::AdoptError;
use crate::error::Error;

/// The result of a command: how it ended, or why it could not do its work.
pub(super) type CommandResult = Result<Exit, CommandError>;

/// How a command ended that did its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// All is well: exit code 0.
    Success,
    /// It found something to look at, and printed it: exit code 1.
    Findings,
}

impl Exit {
    /// [`Exit::Findings`] if there is something to look at.
    pub(super) fn findings(found: bool) -> Self {
        if found { Self::Findings } else { Self::Success }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Success => Self::SUCCESS,
            Exit::Findings => Self::from(1),
        }
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
pub(super) struct CommandError {
    /// 1 when the work failed, 2 when usage or environment are wrong.
    pub(super) exit_code: u8,
    message: String,
}

impl CommandError {
    /// Usage or environment are wrong: exit code 2.
    pub(super) fn usage(message: impl Display) -> Self {
        Self { exit_code: 2, message: message.to_string() }
    }

    /// The work failed: exit code 1.
    pub(super) fn failed(message: impl Display) -> Self {
        Self { exit_code: 1, message: message.to_string() }
    }

    /// Prints the message to stderr.
    pub(super) fn print(&self) {
        print_error(&self.message);
    }
}

/// A person at a terminal sees the cause of an internal error. A caller of the API does not.
impl From<Error> for CommandError {
    fn from(error: Error) -> Self {
        match &error {
            Error::Internal(cause) => Self::failed(cause),
            other => Self::failed(other),
        }
    }
}

impl From<std::io::Error> for CommandError {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error)
    }
}

impl From<AdoptError> for CommandError {
    fn from(error: AdoptError) -> Self {
        let exit_code = if matches!(error, AdoptError::Plan(_) | AdoptError::Refused { .. }) { 2 } else { 1 };
        Self { exit_code, message: format!("{}: {error}", error.code()) }
    }
}

impl From<sqlx::migrate::MigrateError> for CommandError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError::{Execute, VersionMismatch, VersionMissing};
        match error {
            Execute(sqlx::Error::Configuration(problem)) => Self { exit_code: 2, message: problem.to_string() },
            VersionMismatch(version) => Self::failed(format!(
                "migration {version} was edited after it was applied; nothing was done. Restore its text, and correct it by a new migration"
            )),
            VersionMissing(version) => Self::failed(format!(
                "the database has migration {version}, which this build does not know; nothing was done. Use the newer build"
            )),
            other => Self::failed(format!("the migration failed and was rolled back: {other}")),
        }
    }
}

/// Prints to stderr.
pub(super) fn print_error(message: &str) {
    // Nobody reads a closed stderr.
    drop(writeln!(std::io::stderr(), "tenantry: {message}"));
}

/// Prints results to stdout: as text, or with `--json` as JSON.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    /// Whether results are printed as JSON.
    pub(super) json: bool,
}

impl Output {
    /// Prints `result` as JSON, or as the text that `text` makes of it.
    pub(super) fn result<T: Serialize + ?Sized>(
        self,
        result: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), CommandError> {
        if self.json {
            self.line(&serde_json::to_value(result).map_err(CommandError::failed)?.to_string())
        } else {
            self.line(&text(result))
        }
    }

    /// Prints a line, whatever the format.
    #[expect(clippy::unused_self, reason = "only a command that was given its output prints")]
    pub(super) fn line(self, text: &str) -> Result<(), CommandError> {
        Ok(writeln!(std::io::stdout(), "{text}")?)
    }
}

/// What a sender wrote, without the characters that a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
