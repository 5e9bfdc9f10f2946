//! `tenantry tenant`: one organization as a file, and back.

use std::io::{BufReader, BufWriter, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::database::{Database, organization};
use super::output::{CommandError, CommandResult, Exit, Output};
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Db;
use crate::id::OrganizationId;
use crate::transfer::{self, Import, TransferError, Transferred};

/// Take one organization out of the database as a file, put one in, or make a copy of one.
#[derive(Subcommand)]
pub(super) enum Tenant {
    Export(ExportTenant),
    Import(ImportTenant),
    Clone(CloneTenant),
}

/// Write an organization with all that belongs to it to standard output, as it is at one moment. The file has hashes of API keys
/// and what people wrote: keep it like the database.
#[derive(Args)]
pub(super) struct ExportTenant {
    /// The organization: its slug, or its id (ours or Clerk's).
    #[arg(long, value_name = "ORGANIZATION")]
    org: String,
}

/// Make the organization of a file, in one transaction. Its people are found by their id at the identity provider, or made.
#[derive(Args)]
pub(super) struct ImportTenant {
    /// What `tenantry tenant export` has written; `-` for standard input.
    #[arg(value_name = "EXPORT")]
    file: PathBuf,
    /// Another slug.
    #[arg(long, value_name = "SLUG")]
    slug: Option<String>,
}

/// Make another organization with the same people, tickets, customers, budgets and settings, without what opens or pays for
/// the first: API keys, invitations, the subscription, and its audit log.
#[derive(Args)]
pub(super) struct CloneTenant {
    /// The organization: its slug, or its id (ours or Clerk's).
    #[arg(long, value_name = "ORGANIZATION")]
    org: String,
    /// The slug of the copy.
    #[arg(long, value_name = "SLUG")]
    slug: String,
}

impl Tenant {
    pub(super) async fn run(self, config: &Config, output: Output) -> CommandResult {
        let database = Database::open(config).await?;
        let db = database.pools(config)?;
        match self {
            Self::Export(ExportTenant { org }) => {
                if std::io::stdout().is_terminal() {
                    return Err(CommandError::usage(
                        "standard output is a terminal: write to a file (`> acme.tenant`)",
                    ));
                }
                let organization = organization(&db, &org).await?;
                // A lock of standard output would be held across waits.
                let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout());
                let done = transfer::export(&db, organization, &mut out).await?;
                out.flush()?;
                eprintln!("{} rows of {} tables", done.rows, done.tables.len());
            }
            Self::Import(ImportTenant { file, slug }) => {
                let options = Import { slug, as_copy: false };
                let done = if file.as_os_str() == "-" {
                    let input = BufReader::new(std::io::stdin());
                    transfer::import(&db, &Clock::System, input, &options).await?
                } else {
                    let opened = std::fs::File::open(&file)
                        .map_err(|error| CommandError::usage(format!("cannot read {}: {error}", file.display())))?;
                    let input = BufReader::with_capacity(1 << 16, opened);
                    transfer::import(&db, &Clock::System, input, &options).await?
                };
                tell(output, &done)?;
            }
            Self::Clone(CloneTenant { org, slug }) => {
                let organization = organization(&db, &org).await?;
                let path = std::env::temp_dir()
                    .join(format!("tenantry-clone-{}", OrganizationId::new(&Clock::System).uuid().simple()));
                let cloned = clone(&db, organization, slug, &path).await;
                std::fs::remove_file(&path).ok();
                tell(output, &cloned?)?;
            }
        }
        db.close().await;
        Ok(Exit::Success)
    }
}

async fn clone(
    db: &Db,
    organization: OrganizationId,
    slug: String,
    path: &std::path::Path,
) -> Result<Transferred, TransferError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut out = BufWriter::with_capacity(1 << 16, options.open(path)?);
    transfer::export(db, organization, &mut out).await?;
    out.flush()?;
    let input = BufReader::with_capacity(1 << 16, std::fs::File::open(path)?);
    transfer::import(db, &Clock::System, input, &Import { slug: Some(slug), as_copy: true }).await
}

fn tell(output: Output, done: &Transferred) -> Result<(), CommandError> {
    output.result(done, |done| {
        let tables = done.tables.iter().filter(|(_, rows)| **rows > 0);
        let lines: Vec<String> = tables.map(|(table, rows)| format!("  {table:<28} {rows}")).collect();
        format!("{} ({})\n{}\n  {:<28} {}", done.slug, done.organization, lines.join("\n"), "rows", done.rows)
    })
}

impl From<TransferError> for CommandError {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Database(error) => error.into(),
            other => Self::failed(other),
        }
    }
}
