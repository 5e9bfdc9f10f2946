//! Structured logs: text on a desk, JSON lines in production. What never goes in: tokens, variables, raw bodies, addresses
//! of databases.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Begins to log to stderr; a second call changes nothing.
pub fn init(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    // Colours belong on a terminal, not in a file or a pipe.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let started = if json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    } else {
        builder.compact().try_init()
    };
    // Already started, as in tests: the first one stays.
    drop(started);
}
