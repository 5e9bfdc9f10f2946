//! `tenantry audit`: the audit log for those who operate the server, and for auditors who have nothing but its export.

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::database::{Database, organization};
use super::output::{CommandError, CommandResult, Exit, Output};
use crate::audit::chain::Walk;
use crate::audit::{self, Export};
use crate::config::Config;
use crate::hex::{hex, unhex};

/// Work with the audit log: export it, and check an export.
#[derive(Subcommand)]
pub(super) enum Audit {
    Export(ExportLog),
    Verify(VerifyFile),
}

/// Check the hash chain of an export, without a database: rows that were edited, taken away or moved are found; exit 1 with what
/// was found.
#[derive(Args)]
pub(super) struct VerifyFile {
    /// The file that `tenantry audit export` has written; `-` for standard input.
    #[arg(value_name = "EXPORT")]
    file: PathBuf,
    /// The hash that the export ended with, as it was told then: finds rows that are missing at the end.
    #[arg(long, value_name = "HASH")]
    head: Option<String>,
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
    pub(super) async fn run(self, config: &Config, output: Output) -> CommandResult {
        match self {
            Self::Export(export) => export.run(config).await,
            Self::Verify(file) => file.run(output),
        }
    }
}

impl ExportLog {
    async fn run(self, config: &Config) -> CommandResult {
        let Self { org, since, until } = self;
        let database = Database::open(config).await?;
        let db = database.pools(config)?;
        let organization = organization(&db, &org).await?;
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let export = Export { organization, since, until };
        let done = audit::export::<CommandError>(&db, export, |row| Ok(writeln!(out, "{row}")?)).await?;
        out.flush()?;
        db.close().await;
        if done.rows > 0 {
            eprintln!("{} rows; the chain stands at place {} with hash {}", done.rows, done.position, hex(&done.hash));
        }
        Ok(Exit::findings(done.rows == 0))
    }
}

impl VerifyFile {
    fn run(self, output: Output) -> CommandResult {
        let reader: Box<dyn std::io::BufRead> = if self.file.as_os_str() == "-" {
            Box::new(std::io::stdin().lock())
        } else {
            let file = std::fs::File::open(&self.file)
                .map_err(|error| CommandError::usage(format!("cannot read {}: {error}", self.file.display())))?;
            Box::new(std::io::BufReader::new(file))
        };
        let head = match self.head.as_deref().map(|text| unhex(text.trim())) {
            Some(None) => {
                return Err(CommandError::usage("--head takes the 64 hexadecimal digits that the export told"));
            }
            head => head.flatten(),
        };
        let mut walk = Walk::default();
        for (number, line) in (1..).zip(reader.lines()) {
            let line = line?;
            if !line.trim().is_empty() {
                walk.step_in_file(number, &line);
            }
        }
        if head.is_some_and(|head| head != walk.hash) {
            walk.findings.push(format!(
                "it ends at place {} with another hash than --head: rows at its end are missing or others",
                walk.position
            ));
        }
        let report =
            Report { rows: walk.rows, position: walk.position, hash: hex(&walk.hash), findings: walk.findings };
        output.result(&report, |report| {
            if report.findings.is_empty() {
                return format!(
                    "{} rows, whole; the chain stands at place {} with hash {}",
                    report.rows, report.position, report.hash
                );
            }
            report.findings.join("\n")
        })?;
        Ok(Exit::findings(!report.findings.is_empty()))
    }
}

/// What a check of a file says.
#[derive(Serialize)]
struct Report {
    rows: u64,
    position: i64,
    hash: String,
    findings: Vec<String>,
}
