//! `tenantry webhooks`: the inbox for those who operate the server.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::send::{SendArgs, send};
use super::stripe::{GapsArgs, gaps};
use super::{Database, End, Failure, say};
use crate::clock::Clock;
use crate::config::Config;
use crate::db::SystemTx;
use crate::id::Id;
use crate::webhooks::sql::{self, Listed, Selection};
use crate::webhooks::{WebhookEvent, WebhookSource, WebhookStatus};

/// Most events that one replay takes.
const MAX_REPLAY: i64 = 100_000;

#[derive(Subcommand)]
pub(super) enum WebhooksAction {
    /// List events, the newest first; exit 1 when none is found.
    List {
        #[command(flatten)]
        filters: Filters,
        /// How many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
    },
    /// Show one event with its body.
    Show {
        /// The event: `whe_…`, or the sender's id.
        id: String,
    },
    /// Have events worked on again: those named, or all that the filters find.
    Replay {
        /// Events: `whe_…`, or the sender's ids.
        ids: Vec<String>,
        #[command(flatten)]
        filters: Filters,
        /// Only say which.
        #[arg(long)]
        dry_run: bool,
    },
    /// Deliver a made-up event, signed as the provider signs, to a development server. Exit 1 when it is refused.
    Send(SendArgs),
    /// Find events that Stripe made and that never came; exit 1 when there are some.
    Gaps(GapsArgs),
}

impl WebhooksAction {
    /// Whether it works on the database.
    pub(super) fn needs_database(&self) -> bool {
        !matches!(self, Self::Send(_))
    }
}

#[derive(Args, Default)]
pub(super) struct Filters {
    /// Of this sender: clerk or stripe.
    #[arg(long, value_parser = source)]
    source: Option<WebhookSource>,
    /// In this state: received, applied, ignored, failed, dead. May be given several times.
    #[arg(long, value_parser = status)]
    status: Vec<WebhookStatus>,
    /// About this object of the sender: `sub_…`, `user_…`.
    #[arg(long)]
    object: Option<String>,
    /// Of this type: customer.subscription.updated.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Received from then on: 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Received before then.
    #[arg(long, value_name = "TIME")]
    until: Option<DateTime<Utc>>,
}

fn source(text: &str) -> Result<WebhookSource, String> {
    WebhookSource::from_label(&text.to_uppercase()).ok_or_else(|| "it takes clerk or stripe".to_owned())
}

fn status(text: &str) -> Result<WebhookStatus, String> {
    WebhookStatus::from_label(&text.to_uppercase())
        .ok_or_else(|| "it takes received, applied, ignored, failed or dead".to_owned())
}

impl Filters {
    fn is_empty(&self) -> bool {
        self.source.is_none()
            && self.status.is_empty()
            && self.object.is_none()
            && self.event_type.is_none()
            && self.since.is_none()
            && self.until.is_none()
    }

    fn selection(&self, ids: Vec<Uuid>) -> Selection {
        Selection {
            ids,
            source: self.source,
            statuses: self.status.clone(),
            object: self.object.clone(),
            event_type: self.event_type.clone(),
            since: self.since,
            until: self.until,
        }
    }
}

pub(super) async fn run(config: &Config, action: &WebhooksAction, json: bool) -> Result<End, Failure> {
    match action {
        WebhooksAction::Send(args) => return send(config, args, json).await,
        WebhooksAction::Gaps(args) => return gaps(config, args, json).await,
        _ => {}
    }
    let database = Database::open(config).await?;
    let db = database.pools(config)?;
    let mut tx = SystemTx::begin(&db).await?;
    let end = match action {
        WebhooksAction::List { filters, limit } => {
            list(&sql::list(&mut tx, &filters.selection(Vec::new()), *limit).await?, json)?
        }
        WebhooksAction::Show { id } => show(&mut tx, id, json).await?,
        WebhooksAction::Replay { ids, filters, dry_run } => {
            if ids.is_empty() && filters.is_empty() {
                return Err(Failure::environment(
                    "name events, or choose some with --source, --status, --object, --type, --since, --until",
                ));
            }
            let mut named = Vec::with_capacity(ids.len());
            for id in ids {
                named.push(find(&mut tx, id).await?.uuid());
            }
            let found = sql::list(&mut tx, &filters.selection(named), MAX_REPLAY).await?;
            if *dry_run { list(&found, json)? } else { replay(&mut tx, &found, json).await? }
        }
        WebhooksAction::Send(_) | WebhooksAction::Gaps(_) => End::Fine,
    };
    tx.commit().await?;
    db.close().await;
    Ok(end)
}

/// The event with this id, ours or the sender's.
async fn find(tx: &mut SystemTx, text: &str) -> Result<Id<WebhookEvent>, Failure> {
    if let Ok(id) = Id::parse(text) {
        return Ok(id);
    }
    let ids = sql::with_event_id(tx, text).await?;
    match ids.as_slice() {
        [id] => Ok(*id),
        [] => Err(Failure { code: 1, message: format!("there is no webhook event {text}") }),
        _ => Err(Failure {
            code: 1,
            message: format!("several senders have an event {text}: name it by its whe_… id"),
        }),
    }
}

fn list(events: &[Listed], json: bool) -> Result<End, Failure> {
    if json {
        say(&serde_json::json!(events).to_string())?;
    } else if events.is_empty() {
        say("no events")?;
    } else {
        for event in events {
            say(&format!(
                "{}  {}  {:<6} {:<8} {:>2}  {:<38} {:<28} {:<20} {}",
                event.id,
                time(event.received_at),
                event.source.label(),
                event.status.label(),
                event.attempts,
                printable(&event.event_type),
                printable(event.object_id.as_deref().unwrap_or("–")),
                event.organization.as_deref().unwrap_or("–"),
                printable(event.last_error.as_deref().unwrap_or_default()),
            ))?;
        }
    }
    Ok(if events.is_empty() { End::Found } else { End::Fine })
}

async fn show(tx: &mut SystemTx, id: &str, json: bool) -> Result<End, Failure> {
    let id = find(tx, id).await?;
    let selection = Selection { ids: vec![id.uuid()], ..Selection::default() };
    let (Some(event), Some(body)) = (sql::list(tx, &selection, 1).await?.pop(), sql::raw_body(tx, id).await?) else {
        return Err(Failure { code: 1, message: format!("there is no webhook event {id}") });
    };
    let value = serde_json::from_slice::<serde_json::Value>(&body);
    if json {
        let mut event = serde_json::json!(event);
        event["body"] = value.unwrap_or_else(|_| String::from_utf8_lossy(&body).into());
        say(&event.to_string())?;
        return Ok(End::Fine);
    }
    let or_none = |at: Option<DateTime<Utc>>| at.map_or_else(|| "–".to_owned(), time);
    for (name, value) in [
        ("id", event.id.to_string()),
        ("source", event.source.label().to_owned()),
        ("event id", event.event_id),
        ("type", event.event_type),
        ("object", event.object_id.unwrap_or_default()),
        ("organization", event.organization.unwrap_or_default()),
        ("status", event.status.label().to_owned()),
        ("attempts", event.attempts.to_string()),
        ("error", event.last_error.unwrap_or_default()),
        ("made", or_none(event.event_created_at)),
        ("received", time(event.received_at)),
        ("processed", or_none(event.processed_at)),
        ("failed", or_none(event.failed_at)),
        ("next attempt", time(event.next_attempt_at)),
    ] {
        say(&format!("{name:<13} {}", printable(&value)))?;
    }
    say(&match value {
        Ok(value) => format!("\n{value:#}"),
        Err(_) => format!("\n{}", printable(&String::from_utf8_lossy(&body))),
    })?;
    Ok(End::Fine)
}

async fn replay(tx: &mut SystemTx, found: &[Listed], json: bool) -> Result<End, Failure> {
    let ids: Vec<Uuid> = found.iter().map(|event| event.id.uuid()).collect();
    let replayed = sql::replay(tx, &ids, Clock::System.now()).await?.len();
    sql::wake(tx.conn()).await?;
    say(&if json {
        serde_json::json!({ "found": found.len(), "replayed": replayed }).to_string()
    } else {
        format!("{} found; {replayed} to be worked on again, the others wait for it already", found.len())
    })?;
    Ok(if found.is_empty() { End::Found } else { End::Fine })
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// What a sender wrote, without what a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
