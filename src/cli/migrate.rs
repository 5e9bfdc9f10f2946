//! `tenantry migrate`: the schema of the database.

use clap::Subcommand;
use serde_json::json;

use super::confirm::confirm_backup;
use super::database::Database;
use super::output::{CommandResult, Exit, Output};
use crate::config::Config;
use crate::db::migrations::{self, MigrationState};

/// Bring the database to the version of this build, or back to an earlier one.
#[derive(Subcommand)]
pub(super) enum Migrate {
    /// Apply pending migrations. Any number of instances may do this at once.
    Up,
    /// Revert the newest migrations. Data in the tables they made is lost: back up first.
    Down {
        /// How many migrations.
        #[arg(long, default_value_t = 1)]
        steps: usize,
        /// There is a backup: do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// List migrations: applied, pending, drifted (edited after they were applied), unknown to this build.
    Status,
}

impl Migrate {
    pub(super) async fn run(self, config: &Config, output: Output) -> CommandResult {
        let database = Database::open(config).await?;
        let owner = database.owner()?;
        match self {
            Self::Up => {
                let applied = migrations::up(owner).await?;
                let version = migrations::newest();
                output.result(&json!({ "applied": applied, "version": version }), |_| {
                    format!("{applied} applied; the database is at {version}")
                })?;
                Ok(Exit::Success)
            }
            Self::Down { steps, yes } => {
                confirm_backup("migrate down loses what the tables hold", yes)?;
                let version = migrations::down(owner, steps).await?;
                output.result(&json!({ "version": version }), |_| format!("the database is at {version}"))?;
                Ok(Exit::Success)
            }
            Self::Status => {
                let list = migrations::status(owner).await?;
                output.result(&list, |list| {
                    let lines: Vec<String> = list
                        .iter()
                        .map(|migration| {
                            let state = format!("{:?}", migration.state).to_lowercase();
                            format!("{:>5}  {state:<9}  {}", migration.version, migration.description)
                        })
                        .collect();
                    lines.join("\n")
                })?;
                Ok(Exit::findings(list.iter().any(|migration| migration.state != MigrationState::Applied)))
            }
        }
    }
}
