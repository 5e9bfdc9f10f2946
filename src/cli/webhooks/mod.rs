//! `tenantry webhooks`: the inbox for those who operate the server.

mod gaps;
mod list;
mod replay;
mod send;
mod show;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::database::data_dir;
use super::output::{CommandError, CommandResult, Output};
use crate::config::{Config, Needs};
use crate::db::SystemTx;
use crate::id::{Id, WebhookEventId};
use crate::webhook_events::sql::{self, Selection};
use crate::webhook_events::{WebhookSource, WebhookStatus};
use crate::webhooks::signature::{Secret, dev_secret};

/// Work with the inbox of webhooks: list, show and replay events, send samples, and find events that never came.
#[derive(Subcommand)]
pub(super) enum Webhooks {
    List(list::List),
    Show(show::Show),
    Replay(replay::Replay),
    Send(send::Send),
    Gaps(gaps::Gaps),
}

impl Webhooks {
    /// What the command needs of the environment.
    pub(super) fn needs(&self) -> Needs {
        match self {
            Self::Send(_) => Needs::Nothing,
            _ => Needs::Database,
        }
    }

    pub(super) async fn run(self, config: Config, output: Output) -> CommandResult {
        match self {
            Self::List(command) => command.run(&config, output).await,
            Self::Show(command) => command.run(&config, output).await,
            Self::Replay(command) => command.run(&config, output).await,
            Self::Send(command) => command.run(config, output).await,
            Self::Gaps(command) => command.run(&config, output).await,
        }
    }
}

/// In development, webhooks without a secret of their own are signed with the one in the data folder.
pub(super) fn add_development_secrets(config: &mut Config) -> Result<(), CommandError> {
    if !config.is_development() {
        return Ok(());
    }
    for source in WebhookSource::ALL {
        if config.webhooks.secrets(*source).is_empty() {
            let text = dev_secret(&data_dir(config)).map_err(CommandError::usage)?;
            let secret = Secret::parse(*source, &text).map_err(CommandError::usage)?;
            config.webhooks.add_secret(*source, secret);
        }
    }
    Ok(())
}

/// Which events of the inbox.
#[derive(Args, Default)]
struct Filters {
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
    /// Applied, but waiting for something: an organization that nothing names yet, the plan of a price, the rest of a list.
    #[arg(long)]
    waiting: bool,
    /// Received at or after this time: 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Received before this time.
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
            && !self.waiting
            && self.since.is_none()
            && self.until.is_none()
    }

    fn selection(self, ids: Vec<Uuid>) -> Selection {
        Selection {
            ids,
            source: self.source,
            statuses: self.status,
            object: self.object,
            event_type: self.event_type,
            waiting: self.waiting,
            since: self.since,
            until: self.until,
        }
    }
}

/// The event with this id, ours or the sender's.
async fn find(tx: &mut SystemTx, text: &str) -> Result<WebhookEventId, CommandError> {
    if let Ok(id) = Id::parse(text) {
        return Ok(id);
    }
    let ids = sql::with_event_id(tx, text).await?;
    match ids.as_slice() {
        [id] => Ok(*id),
        [] => Err(CommandError::failed(format!("there is no webhook event {text}"))),
        _ => Err(CommandError::failed(format!("several senders have an event {text}: name it by its whe_… id"))),
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
