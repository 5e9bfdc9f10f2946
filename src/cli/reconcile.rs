//! `tenantry webhooks gaps` and `tenantry reconcile`: what Stripe has against what is here.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use clap::Args;
use serde_json::json;

use super::webhooks::printable;
use super::{Database, End, Failure, say};
use crate::clock::Clock;
use crate::config::Config;
use crate::webhooks::stripe::client::StripeClient;
use crate::webhooks::stripe::{gaps, reconcile};

/// As long as Stripe tries to deliver an event.
const DAYS: i64 = 3;

#[derive(Args)]
pub(super) struct GapsArgs {
    /// Events made from then on: 2026-01-31T12:00:00Z. Stripe keeps them for 30 days [default: three days ago].
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Put the missing events into the inbox.
    #[arg(long)]
    fix: bool,
}

#[derive(Args)]
pub(super) struct ReconcileArgs {
    /// List what differs and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Only this organization: its slug, or its id (ours or Clerk's).
    #[arg(long, value_name = "ORGANIZATION")]
    org: Option<String>,
}

/// Counts on the terminal, if stderr is one.
struct Counter {
    what: &'static str,
    terminal: bool,
}

impl Counter {
    fn new(what: &'static str) -> Self {
        Self { what, terminal: std::io::stderr().is_terminal() }
    }

    fn show(&self, done: usize) {
        if self.terminal {
            drop(write!(std::io::stderr(), "\r{done} {}", self.what));
        }
    }
}

/// The line is the result's, or the error's.
impl Drop for Counter {
    fn drop(&mut self) {
        if self.terminal {
            drop(write!(std::io::stderr(), "\r\x1b[K"));
        }
    }
}

fn client(config: &Config) -> Result<Arc<StripeClient>, Failure> {
    config.webhooks.stripe_client()?.ok_or_else(|| {
        Failure::environment(
            "STRIPE_SECRET_KEY is missing: a key of Stripe's API that may read subscriptions and events",
        )
    })
}

pub(super) async fn gaps(config: &Config, args: &GapsArgs, json: bool) -> Result<End, Failure> {
    let stripe = client(config)?;
    let database = Database::open(config).await?;
    let db = database.pools(config)?;
    let clock = Clock::System;
    let since = args.since.unwrap_or_else(|| clock.now() - Duration::days(DAYS));
    let counter = Counter::new("events looked at");
    let report = gaps::gaps(&db, &clock, &stripe, since, args.fix, |done| counter.show(done)).await?;
    drop(counter);
    db.close().await;
    if json {
        say(&json!(report).to_string())?;
    } else {
        for event in &report.missing {
            say(&format!(
                "{}  {:<24} {:<42} {:<28} {}",
                event.created.map_or_else(|| "–".to_owned(), |at| at.to_rfc3339_opts(SecondsFormat::Secs, true)),
                printable(&event.event_id),
                printable(&event.event_type),
                printable(event.object.as_deref().unwrap_or("–")),
                if event.pending { "Stripe still tries" } else { "" },
            ))?;
        }
        say(&format!(
            "{} events at Stripe since {}: {} received, {} without effect here, {} missing{}",
            report.at_stripe,
            report.since.to_rfc3339_opts(SecondsFormat::Secs, true),
            report.received,
            report.without_effect,
            report.missing.len(),
            match report.missing.len() {
                0 => String::new(),
                _ if args.fix => format!(", of which {} are in the inbox now", report.stored),
                _ => "; --fix puts them into the inbox".to_owned(),
            }
        ))?;
    }
    Ok(if report.is_clean() { End::Fine } else { End::Found })
}

pub(super) async fn reconcile(config: &Config, args: &ReconcileArgs, json: bool) -> Result<End, Failure> {
    let stripe = client(config)?;
    let database = Database::open(config).await?;
    let db = database.pools(config)?;
    let only = match &args.org {
        None => None,
        Some(name) => Some(
            reconcile::find_organization(&db, name)
                .await?
                .ok_or_else(|| Failure { code: 1, message: format!("there is no organization {}", printable(name)) })?,
        ),
    };
    let work = reconcile::Reconciliation {
        db: &db,
        clock: &Clock::System,
        settings: &config.webhooks.sync,
        stripe: &stripe,
        dry_run: args.dry_run,
    };
    let counter = Counter::new("subscriptions compared");
    let report = work.run(only, |done| counter.show(done)).await?;
    drop(counter);
    db.close().await;
    if json {
        say(&json!(report).to_string())?;
    } else {
        print(&report, args.dry_run)?;
    }
    Ok(if report.is_clean() { End::Fine } else { End::Found })
}

fn print(report: &reconcile::Report, dry_run: bool) -> Result<(), Failure> {
    for difference in &report.differ {
        for (name, values) in &difference.fields {
            say(&printable(&format!(
                "{:<24} {}  {name}: here {}, at Stripe {}",
                difference.organization, difference.subscription, values["here"], values["stripe"]
            )))?;
        }
    }
    for stray in &report.of_nobody {
        say(&printable(&format!(
            "{}  nothing says whose it is: customer {}, {}. Put organization_id into the metadata of the customer.",
            stray.subscription,
            stray.customer.as_deref().unwrap_or("–"),
            stray.status.as_deref().unwrap_or("–"),
        )))?;
    }
    for stray in &report.not_at_stripe {
        say(&printable(&format!(
            "{}  {:<24} is {} here and not known to Stripe: is the key of this account?",
            stray.subscription,
            stray.organization.as_deref().unwrap_or("–"),
            stray.status.as_deref().unwrap_or("–"),
        )))?;
    }
    say(&format!(
        "{} subscriptions at Stripe: {} agree, {} differ{}{}, {} of nobody; {} here are not at Stripe",
        report.at_stripe,
        report.agree,
        report.differ.len(),
        match report.differ.len() {
            0 => String::new(),
            _ if dry_run => " (without --dry-run they are mended)".to_owned(),
            _ => format!(" ({} mended)", report.fixed),
        },
        match report.under_way {
            0 => String::new(),
            count => format!(", {count} under way: look again in a minute"),
        },
        report.of_nobody.len(),
        report.not_at_stripe.len(),
    ))
}
