//! What is told of a running process: logs, spans, histograms.
//!
//! Logs are text on a desk, JSON lines in production. What goes into none of them: tokens, variables, raw bodies, addresses of
//! databases.

pub mod histogram;
pub mod otlp;
pub mod trace;

use std::fmt;
use std::io::IsTerminal as _;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

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
        let builder = builder.json().flatten_event(true).with_current_span(true).with_span_list(false);
        builder.map_event_format(Joined).try_init()
    } else {
        builder.compact().try_init()
    };
    // Already started, as in tests: the first one stays.
    drop(started);
}

/// Lines of JSON with `trace_id` and `span_id` in front where a span of the log has them. Collectors look for them there
/// (OpenTelemetry, "Trace Context in non-OTLP Log Formats").
struct Joined<F>(F);

impl<S, N, F> FormatEvent<S, N> for Joined<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some((trace, span)) = ids(ctx) else { return self.0.format_event(ctx, writer, event) };
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        match line.strip_prefix('{') {
            Some(rest) => write!(writer, "{{\"trace_id\":\"{trace}\",\"span_id\":\"{span}\",{rest}"),
            None => writer.write_str(&line),
        }
    }
}

/// The ids of the innermost span that has them. Spans keep their fields as the JSON that is written of them.
fn ids<S, N>(ctx: &FmtContext<'_, S, N>) -> Option<(String, String)>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    ctx.event_scope()?.find_map(|span| {
        let extensions = span.extensions();
        let fields = &extensions.get::<FormattedFields<N>>()?.fields;
        Some((field(fields, "\"trace_id\":\"")?.to_owned(), field(fields, "\"span_id\":\"")?.to_owned()))
    })
}

/// The hexadecimal digits behind the name. A value cannot hold the name: its quotation marks would be escaped.
fn field<'a>(fields: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = fields.split_once(name)?;
    let digits = rest.split('"').next()?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digits)
}
