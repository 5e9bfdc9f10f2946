//! `tenantry reconcile`: the subscriptions of Stripe against the ones here.

use std::sync::Arc;

use clap::Args;

use super::database::{Database, organization};
use super::output::{CommandError, CommandResult, Exit, Output, printable};
use super::progress::Counter;
use crate::clock::Clock;
use crate::config::Config;
use crate::stripe::StripeClient;
use crate::sync::stripe::reconcile::{DriftReport, Reconciliation};

/// Compare subscriptions with Stripe's and repair rows that differ; exit 1 when differences are left.
#[derive(Args)]
pub(super) struct Reconcile {
    /// List what differs and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Only this organization: its slug, or its id (ours or Clerk's).
    #[arg(long, value_name = "ORGANIZATION")]
    org: Option<String>,
}

/// The client of Stripe's API.
pub(super) fn stripe_client(config: &Config) -> Result<Arc<StripeClient>, CommandError> {
    config.webhooks.sync.stripe_client()?.ok_or_else(|| {
        CommandError::usage(
            "STRIPE_SECRET_KEY is missing: a key of Stripe's API that may read subscriptions and events",
        )
    })
}

impl Reconcile {
    pub(super) async fn run(self, config: &Config, output: Output) -> CommandResult {
        let stripe = stripe_client(config)?;
        let database = Database::open(config).await?;
        let db = database.pools(config)?;
        let only = match &self.org {
            None => None,
            Some(name) => Some(organization(&db, name).await?),
        };
        let work = Reconciliation {
            db: &db,
            clock: &Clock::System,
            settings: &config.webhooks.sync,
            stripe: &stripe,
            dry_run: self.dry_run,
        };
        let counter = Counter::new("subscriptions compared");
        let report = work.run(only, |done| counter.show(done)).await?;
        drop(counter);
        db.close().await;
        output.result(&report, |report| text(report, self.dry_run))?;
        Ok(Exit::findings(!report.is_clean()))
    }
}

fn text(report: &DriftReport, dry_run: bool) -> String {
    let mut lines = Vec::new();
    for difference in &report.differ {
        for (name, values) in &difference.fields {
            lines.push(printable(&format!(
                "{:<24} {}  {name}: here {}, at Stripe {}",
                difference.organization, difference.subscription, values["here"], values["stripe"]
            )));
        }
    }
    for stray in &report.of_nobody {
        lines.push(printable(&format!(
            "{}  nothing says whose it is: customer {}, {}. Put organization_id into the metadata of the customer.",
            stray.subscription,
            stray.customer.as_deref().unwrap_or("–"),
            stray.status.as_deref().unwrap_or("–"),
        )));
    }
    for stray in &report.not_at_stripe {
        lines.push(printable(&format!(
            "{}  {:<24} is {} here and not known to Stripe: is the key of this account?",
            stray.subscription,
            stray.organization.as_deref().unwrap_or("–"),
            stray.status.as_deref().unwrap_or("–"),
        )));
    }
    lines.push(format!(
        "{} subscriptions at Stripe: {} agree, {} differ{}{}, {} of nobody; {} here are not at Stripe",
        report.at_stripe,
        report.agree,
        report.differ.len(),
        match report.differ.len() {
            0 => String::new(),
            _ if dry_run => " (without --dry-run they are repaired)".to_owned(),
            _ => format!(" ({} repaired)", report.fixed),
        },
        match report.under_way {
            0 => String::new(),
            count => format!(", {count} under way: look again in a minute"),
        },
        report.of_nobody.len(),
        report.not_at_stripe.len(),
    ));
    lines.join("\n")
}
