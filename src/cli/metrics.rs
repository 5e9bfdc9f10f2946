//! `tenantry metrics`: the performance figures of organizations.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::database::{Database, organization};
use super::output::{CommandError, CommandResult, Exit, Output};
use crate::clock::Clock;
use crate::config::Config;
use crate::metrics;

/// Work with the performance figures of organizations.
#[derive(Subcommand)]
pub(super) enum Metrics {
    Backfill(Backfill),
}

/// Compute the figures of a range anew from tickets, messages, refunds and escalations. It gives what the job gives, may be repeated
/// at any time, and after a kill the job goes on with it.
#[derive(Args)]
pub(super) struct Backfill {
    /// From this time on: 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    from: DateTime<Utc>,
    /// Before this time; now by default.
    #[arg(long, value_name = "TIME")]
    to: Option<DateTime<Utc>>,
    /// The organization: its slug, or its id (ours or Clerk's); all by default.
    #[arg(long, value_name = "ORGANIZATION")]
    org: Option<String>,
}

/// What was computed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Filled {
    organizations: usize,
    /// Hours in which anything happened.
    hours: u64,
}

impl Metrics {
    pub(super) async fn run(self, config: &Config, output: Output) -> CommandResult {
        match self {
            Self::Backfill(backfill) => backfill.run(config, output).await,
        }
    }
}

impl Backfill {
    async fn run(self, config: &Config, output: Output) -> CommandResult {
        let clock = Clock::System;
        let to = self.to.unwrap_or_else(|| clock.now());
        if self.from >= to {
            return Err(CommandError::usage("--from must be before --to"));
        }
        let database = Database::open(config).await?;
        let db = database.pools(config)?;
        let organizations = match &self.org {
            Some(name) => vec![organization(&db, name).await?],
            None => metrics::living_organizations(&db).await?,
        };
        let mut hours = 0;
        for organization in &organizations {
            hours += metrics::mark(&db, *organization, self.from, to).await?;
            while metrics::compute_some(&db, &clock, *organization).await? > 0 {}
        }
        db.close().await;
        let filled = Filled { organizations: organizations.len(), hours };
        output.result(&filled, |filled| {
            format!(
                "computed {} hours of {} organizations, with the days, weeks and months around them",
                filled.hours, filled.organizations
            )
        })?;
        Ok(Exit::Success)
    }
}
