//! `tenantry webhooks gaps`: events that Stripe made and that never came.

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use clap::Args;

use crate::cli::database::Database;
use crate::cli::output::{CommandResult, Exit, Output, printable};
use crate::cli::progress::Counter;
use crate::cli::reconcile::stripe_client;
use crate::clock::Clock;
use crate::config::Config;
use crate::sync::stripe::gaps::{self, GapReport};
use crate::webhooks::inbox::Inbox;
use crate::webhooks::recover::recover;

/// As long as Stripe tries to deliver an event.
const DAYS: i64 = 3;

/// Find events that Stripe made and that never came; exit 1 when there are some.
#[derive(Args)]
pub(in crate::cli) struct Gaps {
    /// Events made at or after this time: 2026-01-31T12:00:00Z. Stripe keeps them for 30 days [default: three days
    /// ago].
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Put the missing events into the inbox.
    #[arg(long)]
    fix: bool,
}

impl Gaps {
    pub(in crate::cli) async fn run(self, config: &Config, output: Output) -> CommandResult {
        let stripe = stripe_client(config)?;
        let database = Database::open(config).await?;
        let db = database.pools(config)?;
        let clock = Clock::System;
        let since = self.since.unwrap_or_else(|| clock.now() - Duration::days(DAYS));
        let counter = Counter::new("events looked at");
        let gaps::Gaps { mut report, lost } = gaps::find_gaps(&db, &stripe, since, |done| counter.show(done)).await?;
        if self.fix {
            report.stored = recover(&Inbox::new(db.clone(), clock.clone()), &clock, lost).await?;
        }
        drop(counter);
        db.close().await;
        output.result(&report, |report| text(report, self.fix))?;
        Ok(Exit::findings(!report.is_clean()))
    }
}

fn text(report: &GapReport, fix: bool) -> String {
    let mut lines = Vec::new();
    for event in &report.missing {
        lines.push(format!(
            "{}  {:<24} {:<42} {:<28} {}",
            event.created.map_or_else(|| "–".to_owned(), |at| at.to_rfc3339_opts(SecondsFormat::Secs, true)),
            printable(&event.event_id),
            printable(&event.event_type),
            printable(event.object.as_deref().unwrap_or("–")),
            if event.pending { "Stripe still tries" } else { "" },
        ));
    }
    lines.push(format!(
        "{} events at Stripe since {}: {} received, {} without effect here, {} missing{}",
        report.at_stripe,
        report.since.to_rfc3339_opts(SecondsFormat::Secs, true),
        report.received,
        report.without_effect,
        report.missing.len(),
        match report.missing.len() {
            0 => String::new(),
            _ if fix => format!(", of which {} are in the inbox now", report.stored),
            _ => "; --fix puts them into the inbox".to_owned(),
        }
    ));
    lines.join("\n")
}
