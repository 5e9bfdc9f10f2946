//! The command line: one file per command, each with its options and its `run`.
//!
//! A command exits with 0 when all is well, with 1 when it found something or failed, and with 2 when usage or
//! environment are wrong.

mod adopt;
mod audit;
mod confirm;
mod database;
mod flags;
mod jobs;
mod metrics;
mod migrate;
mod output;
mod person;
mod progress;
mod questions;
mod reconcile;
mod schema;
mod seed;
mod serve;
mod tenant;
mod token;
mod verify;
mod webhooks;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::{Config, Needs};
use crate::telemetry;
use output::{CommandResult, Output, print_error};

#[derive(Parser)]
#[command(
    name = "tenantry",
    version,
    about = "A multi-tenant GraphQL backend on PostgreSQL. Without a command: `serve`."
)]
struct Cli {
    /// Print results as JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Serve),
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    Seed(seed::Seed),
    Token(token::Token),
    Schema(schema::Schema),
    #[command(subcommand)]
    Webhooks(webhooks::Webhooks),
    Reconcile(reconcile::Reconcile),
    Verify(verify::Verify),
    #[command(subcommand)]
    Audit(audit::Audit),
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    #[command(subcommand)]
    Flags(flags::Flags),
    #[command(subcommand)]
    Metrics(metrics::Metrics),
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    #[command(subcommand)]
    Person(person::Person),
    #[command(subcommand)]
    Adopt(adopt::Adopt),
}

impl Command {
    /// What the command needs of the environment.
    fn needs(&self) -> Needs {
        match self {
            Self::Serve(_) => Needs::Server,
            Self::Schema(_) => Needs::Nothing,
            Self::Webhooks(command) => command.needs(),
            _ => Needs::Database,
        }
    }

    async fn run(self, config: Config, output: Output) -> CommandResult {
        match self {
            Self::Serve(command) => command.run(config, output).await,
            Self::Migrate(command) => command.run(&config, output).await,
            Self::Seed(command) => command.run(&config, output).await,
            Self::Token(command) => command.run(&config, output).await,
            Self::Schema(command) => command.run(output),
            Self::Webhooks(command) => command.run(config, output).await,
            Self::Reconcile(command) => command.run(&config, output).await,
            Self::Verify(command) => command.run(&config, output).await,
            Self::Audit(command) => command.run(&config, output).await,
            Self::Jobs(command) => command.run(&config, output).await,
            Self::Flags(command) => command.run(&config, output).await,
            Self::Metrics(command) => command.run(&config, output).await,
            Self::Tenant(command) => command.run(&config, output).await,
            Self::Person(command) => command.run(&config, output).await,
            Self::Adopt(command) => command.run(&config, output).await,
        }
    }
}

/// Runs the command that the arguments of the process name.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { json, command } = Cli::parse();
    let command = command.unwrap_or_else(|| Command::Serve(serve::Serve::default()));
    let config = match Config::from_env(command.needs()) {
        Ok(config) => config,
        Err(error) => {
            print_error(&error.to_string());
            return ExitCode::from(2);
        }
    };
    telemetry::init(config.log_json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error(&format!("the runtime could not be started: {error}"));
            return ExitCode::from(2);
        }
    };
    let result = runtime.block_on(command.run(config, Output { json }));
    // Work in the background (a rollback, a name look-up) must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            error.print();
            ExitCode::from(error.exit_code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_has_its_help() {
        use clap::CommandFactory as _;
        let mut open = vec![Cli::command()];
        let mut missing = Vec::new();
        while let Some(command) = open.pop() {
            let name = command.get_name().to_owned();
            if command.get_about().is_none() {
                missing.push(name.clone());
            }
            let bare = command.get_arguments().filter(|argument| argument.get_help().is_none());
            missing.extend(bare.map(|argument| format!("{name} {}", argument.get_id())));
            open.extend(command.get_subcommands().cloned());
        }
        assert!(missing.is_empty(), "without help: {missing:?}");
    }
}
