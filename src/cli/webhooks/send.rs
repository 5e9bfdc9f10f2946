//! `tenantry webhooks send`: a delivery as the provider would make it.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::add_development_secrets;
use crate::cli::output::{CommandError, CommandResult, Exit, Output, printable};
use crate::clock::Clock;
use crate::config::Config;
use crate::sync::samples::{self, DEFAULT_TAG, Sample};
use crate::webhooks::signature::sign;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How much of an answer is read.
const MAX_ANSWER: usize = 64 * 1024;

/// Send a sample event, signed as the provider signs, to a development server; exit 1 when it is refused.
#[derive(Args)]
pub(in crate::cli) struct Send {
    /// The type: customer.subscription.updated.
    #[arg(value_name = "TYPE", required_unless_present = "list")]
    event_type: Option<String>,
    /// List the types that are known, and send nothing.
    #[arg(long)]
    list: bool,
    /// The server, or the whole address of its endpoint [default: the local one at PORT].
    #[arg(long)]
    url: Option<String>,
    /// What ids, names and addresses are made from: events of one tag are of one tenant. Lower case letters and digits.
    #[arg(long, default_value = DEFAULT_TAG)]
    tag: String,
    /// Change the payload: `data.object.status=past_due`, `data.object.items.data.0.quantity=3`. JSON, or else a text.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    changes: Vec<String>,
    /// Deliver the event this often: a repeated delivery must change nothing.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    times: u16,
    /// Print the payload, and send nothing.
    #[arg(long)]
    print: bool,
}

impl Send {
    pub(in crate::cli) async fn run(self, mut config: Config, output: Output) -> CommandResult {
        if self.list {
            return list(output);
        }
        if !config.is_development() {
            return Err(CommandError::usage("sample events are for development: TENANTRY_ENV is production"));
        }
        let mut sample = self.sample()?;
        for change in &self.changes {
            set(&mut sample.payload, change)?;
        }
        let body = Bytes::from(sample.payload.to_string());
        if self.print {
            output.result(&sample.payload, |payload| format!("{payload:#}"))?;
            return Ok(Exit::Success);
        }
        add_development_secrets(&mut config)?;
        let secret = config.webhooks.secrets(sample.source).first().ok_or_else(|| {
            CommandError::usage(format!(
                "{} is not set: there is nothing to sign with",
                sample.source.secrets_variable()
            ))
        })?;
        let uri = address(self.url.as_deref(), config.port, &sample)?;
        let mut answers = Vec::new();
        for _ in 0..self.times {
            let signed = sign(sample.source, secret, &sample.event_id, Clock::System.now(), &body);
            let mut request = Request::post(&uri).header("content-type", "application/json");
            for (name, value) in signed {
                request = request.header(name, value);
            }
            let request = request.body(Full::new(body.clone())).map_err(CommandError::usage)?;
            let (status, text) = tokio::time::timeout(TIMEOUT, post(request))
                .await
                .map_err(|_| CommandError::usage(format!("no answer from {uri} within {TIMEOUT:?}")))?
                .map_err(|error| {
                    CommandError::usage(format!("no answer from {uri}: {error}. Is the server running?"))
                })?;
            if !output.json {
                output.line(&format!("{}  {}  {} {}", sample.event_id, uri, status.as_u16(), printable(&text)))?;
            }
            answers.push(status);
        }
        if output.json {
            let statuses: Vec<u16> = answers.iter().map(StatusCode::as_u16).collect();
            let result = json!({
                "eventId": sample.event_id,
                "source": sample.source,
                "type": self.event_type,
                "url": uri.to_string(),
                "answers": statuses,
            });
            output.line(&result.to_string())?;
        }
        Ok(Exit::findings(!answers.iter().all(StatusCode::is_success)))
    }

    fn sample(&self) -> Result<Sample, CommandError> {
        if !samples::is_tag(&self.tag) {
            return Err(CommandError::usage("--tag takes 1 to 40 lower case letters and digits"));
        }
        let event_type = self.event_type.as_deref().unwrap_or_default();
        samples::sample(event_type, &self.tag, &Clock::System).ok_or_else(|| {
            CommandError::usage(format!(
                "no sample of the type {event_type:?}: `tenantry webhooks send --list` lists them"
            ))
        })
    }
}

fn list(output: Output) -> CommandResult {
    let types: Vec<_> = samples::types().collect();
    let result: Vec<Value> = types.iter().map(|(source, name)| json!({ "source": source, "type": name })).collect();
    output.result(&result, |_| {
        let lines: Vec<String> = types.iter().map(|(source, name)| format!("{:<6}  {name}", source.label())).collect();
        lines.join("\n")
    })?;
    Ok(Exit::Success)
}

/// Sets one value of the payload. The objects on the way must be there.
fn set(payload: &mut Value, change: &str) -> Result<(), CommandError> {
    let wrong = || CommandError::usage(format!("--set {change:?} is not PATH=VALUE with a path that the payload has"));
    let (path, text) = change.split_once('=').ok_or_else(wrong)?;
    let value = serde_json::from_str(text).unwrap_or_else(|_| text.into());
    let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
    let pointer = if parent.is_empty() { String::new() } else { format!("/{}", parent.replace('.', "/")) };
    match payload.pointer_mut(&pointer).ok_or_else(wrong)? {
        Value::Object(object) => drop(object.insert(name.to_owned(), value)),
        Value::Array(list) => {
            let at: usize = name.parse().map_err(|_| wrong())?;
            *list.get_mut(at).ok_or_else(wrong)? = value;
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

/// The address of the endpoint: as given, when it has a path.
fn address(url: Option<&str>, port: u16, sample: &Sample) -> Result<Uri, CommandError> {
    let base = url.map_or_else(|| format!("http://127.0.0.1:{port}"), |url| url.trim_end_matches('/').to_owned());
    let wrong = || CommandError::usage(format!("--url {base:?} is not an http or https address"));
    let uri: Uri = base.parse().map_err(|_| wrong())?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    if uri.path().len() > 1 {
        return Ok(uri);
    }
    format!("{base}/webhooks/{}", sample.source.label().to_lowercase()).parse().map_err(|_| wrong())
}

async fn post(request: Request<Full<Bytes>>) -> Result<(StatusCode, String), String> {
    let answer = if request.uri().scheme_str() == Some("http") {
        // Where nothing is encrypted no certificates are needed.
        Client::builder(TokioExecutor::new()).build_http().request(request).await
    } else {
        let tls = hyper_rustls::HttpsConnectorBuilder::new().with_native_roots().map_err(|error| error.to_string())?;
        Client::builder(TokioExecutor::new()).build(tls.https_only().enable_http1().build()).request(request).await
    };
    let answer = answer.map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_changed_where_they_have_something() {
        let mut payload = json!({ "data": { "list": [{ "a": 1 }] } });
        set(&mut payload, "data.list.0.a=2").expect("set");
        set(&mut payload, "data.new=some text").expect("set");
        set(&mut payload, "data.object={\"b\":null}").expect("set");
        assert_eq!(payload, json!({ "data": { "list": [{ "a": 2 }], "new": "some text", "object": { "b": null } } }));
        for bad in ["data", "data.nowhere.a=1", "data.list.7=1", "data.list.0.a.b=1"] {
            assert_eq!(set(&mut payload, bad).err().map(|error| error.exit_code), Some(2), "{bad}");
        }
    }

    #[test]
    fn addresses_are_completed() {
        let clerk = samples::sample("user.created", DEFAULT_TAG, &Clock::System).expect("a sample");
        let full = |url| address(url, 8080, &clerk).ok().map(|uri| uri.to_string());
        assert_eq!(full(None).as_deref(), Some("http://127.0.0.1:8080/webhooks/clerk"));
        assert_eq!(full(Some("https://x.example/")).as_deref(), Some("https://x.example/webhooks/clerk"));
        assert_eq!(full(Some("http://x.example/other")).as_deref(), Some("http://x.example/other"));
        assert_eq!((full(Some("x.example")), full(Some("ftp://x.example")), full(Some(""))), (None, None, None));
    }
}
