//! `tenantry webhooks replay`: events of the inbox are applied again.

use clap::Args;
use serde_json::json;
use uuid::Uuid;

use super::list::print_events;
use super::{Filters, find};
use crate::cli::database::Database;
use crate::cli::output::{CommandError, CommandResult, Exit, Output};
use crate::clock::Clock;
use crate::config::Config;
use crate::db::SystemTx;
use crate::webhook_events::sql;

/// Most events that one replay takes.
const MAX_REPLAY: i64 = 100_000;

/// Apply events again: those named, or all that match the filters.
#[derive(Args)]
pub(in crate::cli) struct Replay {
    /// Events: `whe_…`, or the sender's ids.
    ids: Vec<String>,
    #[command(flatten)]
    filters: Filters,
    /// List the events and change nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Replay {
    pub(in crate::cli) async fn run(self, config: &Config, output: Output) -> CommandResult {
        if self.ids.is_empty() && self.filters.is_empty() {
            return Err(CommandError::usage(
                "name events, or choose some with --source, --status, --object, --type, --since, --until",
            ));
        }
        let database = Database::open(config).await?;
        let db = database.pools(config)?;
        let mut tx = SystemTx::begin(&db).await?;
        let mut named = Vec::with_capacity(self.ids.len());
        for id in &self.ids {
            named.push(find(&mut tx, id).await?.uuid());
        }
        let found = sql::list(&mut tx, &self.filters.selection(named), MAX_REPLAY).await?;
        if self.dry_run {
            tx.commit().await?;
            print_events(&found, output)?;
        } else {
            let ids: Vec<Uuid> = found.iter().map(|event| event.id.uuid()).collect();
            let replayed = sql::replay(&mut tx, &ids, Clock::System.now()).await?.len();
            sql::wake(tx.conn()).await?;
            tx.commit().await?;
            output.result(&json!({ "found": found.len(), "replayed": replayed }), |_| {
                format!("{} found; {replayed} will be applied again, the others already wait for it", found.len())
            })?;
        }
        db.close().await;
        Ok(Exit::findings(found.is_empty()))
    }
}
