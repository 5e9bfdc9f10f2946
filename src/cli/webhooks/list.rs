//! `tenantry webhooks list`: events of the inbox.

use clap::Args;

use super::{Filters, time};
use crate::cli::database::Database;
use crate::cli::output::{CommandError, CommandResult, Exit, Output, printable};
use crate::config::Config;
use crate::db::SystemTx;
use crate::webhook_events::sql::{self, ListedEvent};

/// List events, the newest first; exit 1 when there are none.
#[derive(Args)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    filters: Filters,
    /// How many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
}

impl List {
    pub(in crate::cli) async fn run(self, config: &Config, output: Output) -> CommandResult {
        let database = Database::open(config).await?;
        let db = database.pools(config)?;
        let mut tx = SystemTx::begin(&db).await?;
        let events = sql::list(&mut tx, &self.filters.selection(Vec::new()), self.limit).await?;
        tx.commit().await?;
        db.close().await;
        print_events(&events, output)?;
        Ok(Exit::findings(events.is_empty()))
    }
}

/// Prints events, one on each line.
pub(super) fn print_events(events: &[ListedEvent], output: Output) -> Result<(), CommandError> {
    output.result(events, |events| {
        if events.is_empty() {
            return "no events".to_owned();
        }
        let lines: Vec<String> = events.iter().map(line).collect();
        lines.join("\n")
    })
}

fn line(event: &ListedEvent) -> String {
    format!(
        "{}  {}  {:<6} {:<8} {:>2}  {:<38} {:<28} {:<20} {}",
        event.id,
        time(event.received_at),
        event.source.label(),
        event.status.label(),
        event.attempts,
        printable(&event.event_type),
        printable(event.object_id.as_deref().unwrap_or("–")),
        event.organization.as_deref().unwrap_or("–"),
        printable(event.last_error.as_deref().or(event.finding.as_deref()).unwrap_or_default()),
    )
}
