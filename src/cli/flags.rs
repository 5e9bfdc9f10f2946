//! `tenantry flags`: what feature flags there are, and which should be looked at.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::database::Database;
use super::output::{CommandResult, Exit, Output, printable};
use crate::clock::Clock;
use crate::config::Config;
use crate::db::SystemTx;
use crate::flags::{self, FeatureFlagDefinition, FeatureFlagStaleReason, FeatureFlagStaleness, QUIET_DAYS};
use crate::organizations::OrganizationPlan;

/// Look at the feature flags of the platform.
#[derive(Subcommand)]
pub(super) enum Flags {
    List(List),
    Stale(Stale),
}

/// List the flags: what each is, for whom it is on, its overrides, and when a program asked for it last.
#[derive(Args)]
pub(super) struct List {}

/// List the flags that should be looked at, and why: past their date, on or off for everybody since long, their schedule over, asked
/// for by no program, or with overrides that have expired; exit 1 when there is one.
#[derive(Args)]
pub(super) struct Stale {
    /// After how many days without a change, or without an evaluation, a flag counts as stale.
    #[arg(long, value_name = "N", default_value_t = QUIET_DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

/// A flag as it is listed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    key: String,
    name: String,
    kind: &'static str,
    value_type: &'static str,
    variants: Vec<String>,
    default_enabled: bool,
    minimum_plan: Option<&'static str>,
    rollout_percentage: Option<f64>,
    rollout_unit: &'static str,
    starts_at: Option<DateTime<Utc>>,
    ends_at: Option<DateTime<Utc>>,
    owner: Option<String>,
    stale_after: Option<DateTime<Utc>>,
    last_evaluated_at: Option<DateTime<Utc>>,
    overrides_in_force: i64,
    overrides_expired: i64,
    stale: Vec<FeatureFlagStaleness>,
}

impl From<FeatureFlagDefinition> for Listed {
    fn from(flag: FeatureFlagDefinition) -> Self {
        Self {
            key: flag.key,
            name: flag.name,
            kind: flag.kind.label(),
            value_type: flag.value_type.label(),
            variants: flag.variants.into_iter().map(|variant| variant.name).collect(),
            default_enabled: flag.default_enabled,
            minimum_plan: flag.minimum_plan.map(OrganizationPlan::label),
            rollout_percentage: flag.rollout_percentage,
            rollout_unit: flag.rollout_unit.label(),
            starts_at: flag.starts_at,
            ends_at: flag.ends_at,
            owner: flag.owner,
            stale_after: flag.stale_after,
            last_evaluated_at: flag.last_evaluated_at,
            overrides_in_force: flag.overrides_in_force,
            overrides_expired: flag.overrides_expired,
            stale: flag.stale_reasons,
        }
    }
}

impl Listed {
    /// For whom it is on where no override decides.
    fn state(&self) -> String {
        let mut state = match self.rollout_percentage {
            Some(share) => format!("{share} % of {}s", self.rollout_unit.to_lowercase()),
            None if self.default_enabled => "on".to_owned(),
            None => "off".to_owned(),
        };
        if let Some(plan) = self.minimum_plan {
            state += &format!(", from {plan}");
        }
        if let Some(start) = self.starts_at {
            state += &format!(", from {}", time(start));
        }
        if let Some(end) = self.ends_at {
            state += &format!(", until {}", time(end));
        }
        state
    }

    fn line(&self) -> String {
        let asked =
            self.last_evaluated_at.map_or_else(|| "never asked for".to_owned(), |at| format!("asked for {}", time(at)));
        let mut text = format!(
            "{:<30} {:<11} {:<7}  {}\n{:30} owner {}, {} overrides, {asked}",
            printable(&self.key),
            self.kind,
            self.value_type,
            self.state(),
            "",
            self.owner.as_deref().map_or_else(|| "–".to_owned(), printable),
            self.overrides_in_force,
        );
        for reason in &self.stale {
            text += &format!("\n{:30} stale: {}", "", self.why(*reason));
        }
        text
    }

    fn why(&self, stale: FeatureFlagStaleness) -> String {
        let since = time(stale.since);
        match stale.reason {
            FeatureFlagStaleReason::PastStaleAfter => format!("its owner wanted it looked at by {since}"),
            FeatureFlagStaleReason::OnForAll => format!("on for everybody since {since}: take it out of the code"),
            FeatureFlagStaleReason::OffForAll => format!("off for everybody since {since}: take it out of the code"),
            FeatureFlagStaleReason::ScheduleOver => format!("its schedule was over at {since}"),
            FeatureFlagStaleReason::NotEvaluated => format!("no program has asked for it since {since}"),
            FeatureFlagStaleReason::ExpiredOverrides => {
                format!("{} overrides have expired, the first at {since}", self.overrides_expired)
            }
        }
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

impl Flags {
    pub(super) async fn run(self, config: &Config, output: Output) -> CommandResult {
        let (days, only_stale) = match &self {
            Self::List(_) => (QUIET_DAYS, false),
            Self::Stale(stale) => (stale.days, true),
        };
        let database = Database::open(config).await?;
        let db = database.pools(config)?;
        let flags = flags::definitions(&mut SystemTx::begin(&db).await?, Clock::System.now(), days).await?;
        db.close().await;
        let listed: Vec<Listed> =
            flags.into_iter().map(Listed::from).filter(|flag| !only_stale || !flag.stale.is_empty()).collect();
        output.result(&listed, |listed| match listed.as_slice() {
            [] if only_stale => "no flag is stale".to_owned(),
            [] => "there are no flags".to_owned(),
            listed => listed.iter().map(Listed::line).collect::<Vec<_>>().join("\n"),
        })?;
        Ok(Exit::findings(only_stale && !listed.is_empty()))
    }
}
