//! `tenantry person`: what is known of one person, and its erasure.

use std::io::{BufWriter, IsTerminal as _};

use clap::{Args, Subcommand};

use super::database::{Database, organization};
use super::output::{CommandError, CommandResult, Exit, Output};
use crate::clock::Clock;
use crate::config::Config;
use crate::data_rights::{self, Erased, Erasure, RightsError};
use crate::db::Db;

/// Answer a person who asks what is known of them, or to be forgotten (GDPR, articles 15, 17 and 20).
#[derive(Subcommand)]
pub(super) enum Person {
    Export(ExportPerson),
    Erase(ErasePerson),
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Who {
    /// A user of the platform: the address, our id or the identity provider's.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// A customer of the organization: the address or our id; needs --org.
    #[arg(long, value_name = "CUSTOMER", requires = "org")]
    customer: Option<String>,
}

/// Write all rows about a person to standard output, a line of JSON for each: {"table": …, "row": …}.
#[derive(Args)]
pub(super) struct ExportPerson {
    #[command(flatten)]
    who: Who,
    /// The customer's organization: its slug, or its id (ours or Clerk's).
    #[arg(long, value_name = "ORGANIZATION")]
    org: Option<String>,
}

/// Erase a person. Without --yes it tells what would be erased. One that was interrupted goes on when it is called again.
#[derive(Args)]
pub(super) struct ErasePerson {
    #[command(flatten)]
    who: Who,
    /// The customer's organization: its slug, or its id (ours or Clerk's).
    #[arg(long, value_name = "ORGANIZATION")]
    org: Option<String>,
    /// Leave the subjects, descriptions, messages and notes of the customer's tickets and refunds.
    #[arg(long)]
    keep_conversations: bool,
    /// Do not ask whether the identity provider still has the user.
    #[arg(long)]
    ignore_provider: bool,
    /// Do it.
    #[arg(long)]
    yes: bool,
}

async fn find(db: &Db, who: &Who, org: Option<&str>) -> Result<data_rights::Person, CommandError> {
    match (&who.user, &who.customer, org) {
        (Some(user), _, _) => Ok(data_rights::find_user(db, user).await?),
        (None, Some(customer), Some(org)) => {
            Ok(data_rights::find_customer(db, organization(db, org).await?, customer).await?)
        }
        _ => Err(CommandError::usage("name a person: --user, or --customer and --org")),
    }
}

impl Person {
    pub(super) async fn run(self, config: &Config, output: Output) -> CommandResult {
        let database = Database::open(config).await?;
        let db = database.pools(config)?;
        match self {
            Self::Export(ExportPerson { who, org }) => {
                if std::io::stdout().is_terminal() {
                    return Err(CommandError::usage(
                        "standard output is a terminal: write to a file (`> person.ndjson`)",
                    ));
                }
                let person = find(&db, &who, org.as_deref()).await?;
                let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout());
                let rows = data_rights::export(&db, &person, &mut out).await?;
                eprintln!("{rows} rows");
            }
            Self::Erase(ErasePerson { who, org, keep_conversations, ignore_provider, yes }) => {
                let person = find(&db, &who, org.as_deref()).await?;
                let erasure = Erasure {
                    keeps_conversations: keep_conversations,
                    ignores_provider: ignore_provider,
                    is_rehearsal: !yes,
                };
                let erased = data_rights::erase(&db, &Clock::System, &person, erasure).await?;
                tell(output, &erased, yes)?;
            }
        }
        db.close().await;
        Ok(Exit::Success)
    }
}

fn tell(output: Output, erased: &Erased, done: bool) -> Result<(), CommandError> {
    output.result(erased, |erased| {
        let mut lines: Vec<String> = erased
            .steps
            .iter()
            .filter(|(_, rows)| *rows > 0)
            .map(|(table, rows)| format!("  {table:<28} {rows}"))
            .collect();
        lines.push(format!("  {:<28} {}", "rows", erased.rows()));
        lines.extend(erased.left.iter().map(|left| format!("  left: {left}")));
        if !done {
            lines.push("Nothing was erased: add --yes to do it.".to_owned());
        }
        format!("{}\n{}", if done { "Erased" } else { "Would be erased" }, lines.join("\n"))
    })
}

impl From<RightsError> for CommandError {
    fn from(error: RightsError) -> Self {
        match error {
            RightsError::Database(error) => error.into(),
            other => Self::failed(other),
        }
    }
}
