//! `tenantry schema`: the GraphQL schema.

use std::io::Write as _;

use clap::Args;

use super::output::{CommandError, CommandResult, Exit, Output, print_error};
use crate::schema::Schemas;

/// Print the GraphQL schema (SDL).
#[derive(Args)]
pub(super) struct Schema {
    /// Compare with ./schema.graphql instead; exit 1 when it differs.
    #[arg(long)]
    check: bool,
}

impl Schema {
    pub(super) fn run(self, _: Output) -> CommandResult {
        let sdl = Schemas::build().sdl;
        if !self.check {
            write!(std::io::stdout(), "{sdl}")?;
            return Ok(Exit::Success);
        }
        let committed = std::fs::read_to_string("schema.graphql")
            .map_err(|error| CommandError::usage(format!("schema.graphql: {error}")))?;
        if committed == sdl {
            return Ok(Exit::Success);
        }
        let line = committed.lines().zip(sdl.lines()).take_while(|(a, b)| a == b).count() + 1;
        print_error(&format!("schema.graphql differs from line {line} on: `cargo run -- schema > schema.graphql`"));
        Ok(Exit::Findings)
    }
}
