//! The question before something that cannot be undone.

use std::io::{IsTerminal as _, Write as _};

use super::output::CommandError;
use crate::error::Code;

/// Asks at a terminal whether there is a backup. Without a terminal, `--yes` is required.
pub(super) fn confirm_backup(what: &str, yes: bool) -> Result<(), CommandError> {
    if yes {
        return Ok(());
    }
    let reminder = format!(
        "{what}. Back up first: `pg_dump --format=custom --file=before.dump \"$MIGRATION_DATABASE_URL\"`, or a snapshot of your host."
    );
    if !std::io::stdin().is_terminal() {
        return Err(CommandError::usage(format!("{}: {reminder} Then add --yes.", Code::BackupFirst)));
    }
    write!(std::io::stderr(), "{reminder}\nIs there a backup? Type yes: ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() == "yes" {
        Ok(())
    } else {
        Err(CommandError::usage(format!("{}: nothing was done", Code::BackupFirst)))
    }
}
