//! `tenantry audit`: the audit log for those who operate the server.

use std::io::Write as _;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};

use super::database::Database;
use super::output::{CommandError, CommandResult, Exit, printable};
use crate::audit::{self, Export};
use crate::config::Config;
use crate::sync::stripe::reconcile::find_organization;

/// Work with the audit log: export it.
#[derive(Subcommand)]
pub(super) enum Audit {
    Export(ExportLog),
}

/// Write the audit log of an organization to standard output, one JSON object a line, the oldest first; exit 1 when there is
/// nothing.
#[derive(Args)]
pub(super) struct ExportLog {
    /// The organization: its slug, or its id (ours or Clerk's).
    #[arg(long, value_name = "ORGANIZATION")]
    org: String,
    /// From this time on: 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<DateTime<Utc>>,
}

impl Audit {
    pub(super) async fn run(self, config: &Config) -> CommandResult {
        let Self::Export(ExportLog { org, since, until }) = self;
        let database = Database::open(config).await?;
        let db = database.pools(config)?;
        let organization = find_organization(&db, &org)
            .await?
            .ok_or_else(|| CommandError::failed(format!("there is no organization {}", printable(&org))))?;
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let export = Export { organization, since, until };
        let count = audit::export::<CommandError>(&db, export, |row| Ok(writeln!(out, "{row}")?)).await?;
        out.flush()?;
        db.close().await;
        Ok(Exit::findings(count == 0))
    }
}
