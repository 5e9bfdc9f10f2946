//! `tenantry seed`: sample data.

use clap::Args;

use super::database::Database;
use super::output::{CommandResult, Exit, Output};
use super::progress::Counter;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::migrations;
use crate::seed;

/// Fill the database with sample data; does nothing where it is already there.
#[derive(Args)]
pub(super) struct Seed {
    /// Also make this many organizations of realistic size, for benchmarks.
    #[arg(long, value_name = "N")]
    scale: Option<u32>,
    /// Tickets of each of these organizations.
    #[arg(long, default_value_t = 1_000, value_name = "N", requires = "scale")]
    tickets: u32,
}

impl Seed {
    pub(super) async fn run(self, config: &Config, output: Output) -> CommandResult {
        let database = Database::open(config).await?;
        if database.is_local() {
            migrations::up(database.owner()?).await?;
        }
        let db = database.pools(config)?;
        let seeded = seed::sample_data(&db, &Clock::System).await?;
        output.line(&seeded.to_string())?;
        if let Some(organizations) = self.scale {
            let counter = Counter::new("organizations");
            let scale = seed::Scale { organizations, tickets: self.tickets };
            let rows = seed::scale(&db, &Clock::System, scale, |done| counter.show_of(done, organizations)).await?;
            drop(counter);
            output.line(&format!("{organizations} organizations, {rows} rows"))?;
        }
        db.close().await;
        Ok(Exit::Success)
    }
}
