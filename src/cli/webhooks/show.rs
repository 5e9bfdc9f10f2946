//! `tenantry webhooks show`: one event of the inbox.

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Value, json};

use super::{find, time};
use crate::cli::database::Database;
use crate::cli::output::{CommandError, CommandResult, Exit, Output, printable};
use crate::config::Config;
use crate::db::SystemTx;
use crate::webhook_events::sql::{self, ListedEvent, Selection};

/// Show one event with its body.
#[derive(Args)]
pub(in crate::cli) struct Show {
    /// The event: `whe_…`, or the sender's id.
    id: String,
}

impl Show {
    pub(in crate::cli) async fn run(self, config: &Config, output: Output) -> CommandResult {
        let database = Database::open(config).await?;
        let db = database.pools(config)?;
        let mut tx = SystemTx::begin(&db).await?;
        let id = find(&mut tx, &self.id).await?;
        let selection = Selection { ids: vec![id.uuid()], ..Selection::default() };
        let event = sql::list(&mut tx, &selection, 1).await?.pop();
        let body = sql::raw_body(&mut tx, id).await?;
        tx.commit().await?;
        db.close().await;
        let (Some(event), Some(body)) = (event, body) else {
            return Err(CommandError::failed(format!("there is no webhook event {id}")));
        };
        let parsed = serde_json::from_slice::<Value>(&body).ok();
        if output.json {
            let mut event = json!(event);
            event["body"] = parsed.unwrap_or_else(|| String::from_utf8_lossy(&body).into());
            output.line(&event.to_string())?;
        } else {
            let body = match parsed {
                Some(value) => format!("{value:#}"),
                None => printable(&String::from_utf8_lossy(&body)),
            };
            output.line(&format!("{}\n\n{body}", properties(event)))?;
        }
        Ok(Exit::Success)
    }
}

fn properties(event: ListedEvent) -> String {
    let or_none = |at: Option<DateTime<Utc>>| at.map_or_else(|| "–".to_owned(), time);
    let lines = [
        ("id", event.id.to_string()),
        ("source", event.source.label().to_owned()),
        ("event id", event.event_id),
        ("type", event.event_type),
        ("object", event.object_id.unwrap_or_default()),
        ("organization", event.organization.unwrap_or_default()),
        ("status", event.status.label().to_owned()),
        ("attempts", event.attempts.to_string()),
        ("error", event.last_error.unwrap_or_default()),
        ("finding", event.finding.unwrap_or_default()),
        ("made", or_none(event.event_created_at)),
        ("received", time(event.received_at)),
        ("processed", or_none(event.processed_at)),
        ("failed", or_none(event.failed_at)),
        ("next attempt", time(event.next_attempt_at)),
    ];
    lines.map(|(name, value)| format!("{name:<13} {}", printable(&value))).join("\n")
}
