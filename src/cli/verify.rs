//! `tenantry verify`: isolation and integrity of the database.

use clap::Args;

use super::database::Database;
use super::output::{CommandResult, Exit, Output};
use crate::config::Config;
use crate::verify;

/// Check isolation and integrity of the database; exit 1 with a table of findings.
#[derive(Args)]
pub(super) struct Verify {}

impl Verify {
    pub(super) async fn run(self, config: &Config, output: Output) -> CommandResult {
        let database = Database::open(config).await?;
        let db = database.pools(config)?;
        let findings = verify::verify(&db).await?;
        output.result(&findings, |findings| {
            if findings.is_empty() {
                return "nothing to report: roles, row-level security and data are as they must be".to_owned();
            }
            let lines: Vec<String> = findings
                .iter()
                .map(|finding| format!("{:<26} {:<40} {}", finding.check, finding.subject, finding.problem))
                .collect();
            lines.join("\n")
        })?;
        db.close().await;
        Ok(Exit::findings(!findings.is_empty()))
    }
}
