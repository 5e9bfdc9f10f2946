//! Sends spans to a collector: OTLP over HTTP, in its binary form (OpenTelemetry protocol 1.x, "OTLP/HTTP").
//!
//! The messages are few and fixed, so they are written here. The crates for it would be eleven more to compile and to follow,
//! and would have to be kept in step with each other; a test reads what is written with the official definitions.

mod encode;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::trace::{Ended, Recorder, Sampler, Tracer};
use encode::encode;

/// Spans that are sent together (the standard's default).
const BATCH: usize = 512;
/// Attempts for a batch; the pause before the second is a second, and doubles.
const TRIES: u32 = 3;
/// The longest pause that a collector may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long what is left may take after the end of the queue.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;
/// Where the standard's endpoint takes traces.
const TRACES: &str = "/v1/traces";

/// Where spans go and which of them.
#[derive(Clone)]
pub struct Settings {
    endpoint: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What the process is.
    resource: Vec<(String, String)>,
    sampler: Sampler,
    /// Whether a caller that says so has its trace recorded.
    pub believes_callers: bool,
    /// How long an attempt may take.
    pub timeout: Duration,
    /// How long a span waits for others.
    pub delay: Duration,
    /// Spans that may wait.
    pub room: usize,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the headers nor the address, which may hold keys.
        f.debug_struct("Settings").field("sampler", &self.sampler).finish_non_exhaustive()
    }
}

/// The standard's variables, as they are given.
#[derive(Clone, Copy, Default)]
pub struct Given<'a> {
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`
    pub endpoint: Option<&'a str>,
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`
    pub traces_endpoint: Option<&'a str>,
    /// `OTEL_EXPORTER_OTLP_HEADERS`
    pub headers: Option<&'a str>,
    /// `OTEL_EXPORTER_OTLP_PROTOCOL`
    pub protocol: Option<&'a str>,
    /// `OTEL_SERVICE_NAME`
    pub service: Option<&'a str>,
    /// `OTEL_RESOURCE_ATTRIBUTES`
    pub attributes: Option<&'a str>,
    /// `OTEL_TRACES_SAMPLER`
    pub sampler: Option<&'a str>,
    /// `OTEL_TRACES_SAMPLER_ARG`
    pub sampler_argument: Option<&'a str>,
}

impl Settings {
    /// Reads the variables; `None` without an endpoint. Values are not repeated in problems: headers hold keys.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn parse(given: Given<'_>) -> Result<Option<Self>, Vec<String>> {
        let Some(address) = given
            .traces_endpoint
            .map(str::to_owned)
            .or_else(|| given.endpoint.map(|base| format!("{}{TRACES}", base.trim_end_matches('/'))))
        else {
            return Ok(None);
        };
        let mut problems = Vec::new();
        let endpoint = address.parse::<Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        });
        if endpoint.is_none() {
            problems.push("OTEL_EXPORTER_OTLP_ENDPOINT is no address (http://host:4318 or https://…); keys go into OTEL_EXPORTER_OTLP_HEADERS".to_owned());
        }
        if given.protocol.is_some_and(|protocol| protocol != "http/protobuf") {
            problems.push(
                "OTEL_EXPORTER_OTLP_PROTOCOL takes http/protobuf; every collector has it, on port 4318".to_owned(),
            );
        }
        let headers = pairs(given.headers).and_then(|pairs| {
            pairs.into_iter().map(|(name, value)| Some((name.parse().ok()?, sensitive(&value)?))).collect()
        });
        if headers.is_none() {
            problems.push(
                "OTEL_EXPORTER_OTLP_HEADERS takes name=value, comma separated, with percent-encoded values".to_owned(),
            );
        }
        let attributes = pairs(given.attributes);
        if attributes.is_none() {
            problems.push(
                "OTEL_RESOURCE_ATTRIBUTES takes name=value, comma separated, with percent-encoded values".to_owned(),
            );
        }
        let sampler = Sampler::parse(given.sampler, given.sampler_argument).map_err(|problem| problems.push(problem));
        let (Some(endpoint), Some(headers), Some(attributes), Ok(sampler)) = (endpoint, headers, attributes, sampler)
        else {
            return Err(problems);
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Some(Self {
            endpoint,
            headers,
            resource: resource(given.service, attributes),
            sampler,
            believes_callers: false,
            timeout: Duration::from_secs(10),
            delay: Duration::from_secs(5),
            room: 8192,
        }))
    }
}

/// What the process is; what was given goes before what is known.
fn resource(service: Option<&str>, given: Vec<(String, String)>) -> Vec<(String, String)> {
    let instance = format!("{:032x}", rand::random::<u128>());
    let known = [
        ("service.name", service.unwrap_or("tenantry")),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", &instance),
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.name", "tenantry"),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
    ];
    let mut resource = given;
    // The name has a variable of its own, which counts more (OpenTelemetry, "Environment Variable Specification").
    resource.retain(|(name, _)| name != "service.name" || service.is_none());
    for (name, value) in known {
        if !resource.iter().any(|(given, _)| given == name) {
            resource.push((name.to_owned(), value.to_owned()));
        }
    }
    resource
}

/// `name=value`, comma separated; values are percent-encoded (W3C Baggage, without properties).
fn pairs(text: Option<&str>) -> Option<Vec<(String, String)>> {
    let items = text.unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            let (name, value) = item.split_once('=')?;
            let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8().ok()?;
            Some((name.trim().to_owned(), value.into_owned())).filter(|(name, _)| !name.is_empty())
        })
        .collect()
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Empties a tracer's queue.
pub struct Exporter {
    settings: Settings,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    queue: mpsc::UnboundedReceiver<Vec<Ended>>,
    recorder: Arc<Recorder>,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Exporter {
    /// A tracer, and what has to be run for its spans to get anywhere.
    ///
    /// # Errors
    /// When the certificates that the machine trusts cannot be read.
    pub fn new(settings: Settings) -> std::io::Result<(Tracer, Self)> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        let tls = hyper_rustls::HttpsConnectorBuilder::new();
        // A collector beside us needs none, and the machine may have none.
        let tls = if settings.endpoint.scheme_str() == Some("https") {
            tls.with_native_roots()?
        } else {
            tls.with_tls_config(no_roots()?)
        };
        let client =
            Client::builder(TokioExecutor::new()).build(tls.https_or_http().enable_http1().wrap_connector(connector));
        let (tracer, recorder, queue) = Tracer::new(settings.sampler, settings.believes_callers, settings.room);
        Ok((tracer, Self { settings, client, queue, recorder }))
    }

    /// Sends until the tracer's queue has ended and is empty.
    pub async fn run(mut self) {
        let mut warned: Option<Instant> = None;
        while let Some(first) = self.queue.recv().await {
            let batch = self.gather(first).await;
            let count = batch.len();
            self.recorder.queued.fetch_sub(count, Ordering::Relaxed);
            let body = encode(&self.settings.resource, &batch);
            drop(batch);
            let counts = &self.recorder.counts;
            match self.send(Bytes::from(body)).await {
                Ok(()) => counts.exported.fetch_add(count as u64, Ordering::Relaxed),
                Err(why) => {
                    if warned.is_none_or(|at| at.elapsed() > Duration::from_mins(1)) {
                        warned = Some(Instant::now());
                        tracing::warn!(spans = count, why, "the collector of traces did not take spans");
                    }
                    counts.failed.fetch_add(count as u64, Ordering::Relaxed)
                }
            };
        }
    }

    /// A batch that begins with these: as many as come until it is large enough, or has waited enough.
    async fn gather(&mut self, first: Vec<Ended>) -> Vec<Ended> {
        let mut batch = first;
        let until = Instant::now() + self.settings.delay;
        while batch.len() < BATCH {
            match timeout_at(until, self.queue.recv()).await {
                Ok(Some(more)) => batch.extend(more),
                // The end of the queue, or of the patience.
                Ok(None) | Err(_) => break,
            }
        }
        batch
    }

    /// Sends a batch, again where that may help (OTLP, "Failures"); why it was not taken.
    async fn send(&self, body: Bytes) -> Result<(), String> {
        let mut pause = Duration::from_secs(1);
        let mut tries = 0;
        loop {
            tries += 1;
            let patience =
                if self.queue.is_closed() { LAST_WORDS.min(self.settings.timeout) } else { self.settings.timeout };
            let failure = match timeout(patience, self.attempt(body.clone())).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(failure)) => failure,
                Err(_) => Failure { why: "it did not answer in time".to_owned(), may_help: true, pause: None },
            };
            if !failure.may_help || tries >= TRIES || self.queue.is_closed() {
                return Err(failure.why);
            }
            sleep(failure.pause.unwrap_or(pause).min(LONGEST_PAUSE)).await;
            pause *= 2;
        }
    }

    async fn attempt(&self, body: Bytes) -> Result<(), Failure> {
        let hopeless = |error: &dyn fmt::Display| Failure { why: error.to_string(), may_help: false, pause: None };
        let mut request = Request::post(&self.settings.endpoint)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("tenantry/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|error| hopeless(&error))?;
        request.headers_mut().extend(self.settings.headers.iter().cloned());
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| Failure { why: causes(&error), may_help: true, pause: None })?;
        let (head, body) = answer.into_parts();
        // Read to its end, so that the connection can be used again.
        drop(Limited::new(body, MAX_ANSWER).collect().await);
        if head.status.is_success() {
            return Ok(());
        }
        let pause = head.headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
        Err(Failure {
            why: format!("it answered {}", head.status),
            may_help: matches!(head.status.as_u16(), 429 | 502 | 503 | 504),
            pause: pause.map(Duration::from_secs),
        })
    }
}

/// Why a batch was not taken.
struct Failure {
    why: String,
    /// Whether another attempt may help, and after which pause, where the collector says so.
    may_help: bool,
    pause: Option<Duration>,
}

/// An error and what it comes from.
fn causes(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// TLS that trusts nobody, for a client that does not use it.
fn no_roots() -> std::io::Result<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(std::io::Error::other)?;
    Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}
