//! Documents that requests do not carry: trusted documents, from manifests that the operator names, and automatic
//! persisted queries (APQ), which Apollo's clients register as they go.
//!
//! GraphQL over HTTP has the former in its proposed appendix "Persisted Documents" (`documentId`). Apollo's clients use
//! `extensions.persistedQuery` for both. A trusted document passes the same checks as every other: the manifest says that
//! it is known, not that it is harmless.

mod manifest;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use tokio::sync::watch;

pub use manifest::Manifests;
use manifest::{FileState, TrustedDocument};

use super::document::{Document, Documents, Key, key};
use super::failure::Failure;
use super::request::{Asked, PersistedQuery};
use crate::error::Code;
use crate::hex::{hex, unhex};
use crate::http::Edge;

/// Headers with the client's name, in the order of their precedence: those that Hive and Cosmo read, and Apollo Client's.
const CLIENT_HEADERS: [&str; 3] = ["graphql-client-name", "x-graphql-client-name", "apollographql-client-name"];
/// Maximum of characters of a client's name.
const MAX_CLIENT: usize = 64;
/// Maximum of characters of an unknown id in an error: the length of `sha256:` with its digits.
const MAX_SHOWN: usize = 71;
/// Interval at which the files are checked for changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Maximum of pairs of document and client that are logged; all are counted.
const MAX_NOTED: usize = 1_000;
/// Maximum of documents that do not fit the schema and are logged one by one.
const MAX_WARNINGS: usize = 20;

/// What becomes of documents that are in no manifest.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TrustedMode {
    /// They are executed.
    #[default]
    Off,
    /// They are executed, counted and logged.
    Log,
    /// They are refused, and counted and logged.
    Enforce,
}

/// What the environment says of documents that requests do not carry.
#[derive(Clone, Debug, Default)]
pub struct PersistedConfig {
    pub mode: TrustedMode,
    /// The file or the folder of the manifests.
    pub path: Option<PathBuf>,
    /// What is in it.
    pub manifests: Arc<Manifests>,
    /// Whether clients may register documents by their hash.
    pub automatic: bool,
}

/// Looks documents up by their ids and hashes.
pub struct Persisted {
    mode: TrustedMode,
    path: Option<PathBuf>,
    manifests: RwLock<Arc<Manifests>>,
    automatic: bool,
    /// Whether the current files could not be read.
    is_stale: AtomicBool,
    /// Number of requests for documents or ids that are in no manifest.
    misses: AtomicU64,
    /// Pairs of document and client that were logged.
    noted: Mutex<HashSet<(String, String)>>,
}

/// A document to execute.
pub(super) struct Found {
    pub(super) document: Arc<Document>,
    /// Whether a manifest has it.
    pub(super) is_trusted: bool,
}

impl Persisted {
    /// Creates the lookup with the manifests of the configuration.
    #[must_use]
    pub fn new(config: PersistedConfig) -> Self {
        Self {
            mode: config.mode,
            path: config.path,
            manifests: RwLock::new(config.manifests),
            automatic: config.automatic,
            is_stale: AtomicBool::new(false),
            misses: AtomicU64::new(0),
            noted: Mutex::default(),
        }
    }

    /// Returns the document that a request of this client names, checked.
    ///
    /// # Errors
    /// `PERSISTED_QUERY_…`, or what is wrong with the document.
    pub(super) fn find(&self, edge: &Edge, client: Option<&str>, asked: Asked) -> Result<Found, Failure> {
        let client = client.map(shortened);
        match asked {
            Asked::Text(text) => self.by_text(edge, client, &text, &key(&text)),
            Asked::Id(id) => match self.trusted(client, &id) {
                Some(trusted) => found(edge, &trusted),
                None => self.registered(edge, client, &id).ok_or_else(|| self.not_in_list(client, &id)),
            },
            Asked::Hash(PersistedQuery { is_version_1, hash, text }) => {
                let is_of_use = self.path.is_some() && (text.is_none() || self.mode == TrustedMode::Enforce);
                if !self.is_automatic() && !is_of_use {
                    return Err(Failure::automatic(Code::PersistedQueryNotSupported, "PersistedQueryNotSupported"));
                }
                if !is_version_1 {
                    return Err(bad(Code::BadRequest, "Unsupported persisted query version"));
                }
                match text {
                    None => self.by_hash(edge, client, hash.as_deref()),
                    Some(text) => self.register(edge, client, hash.as_deref(), &text),
                }
            }
        }
    }

    fn by_text(&self, edge: &Edge, client: Option<&str>, text: &str, key: &Key) -> Result<Found, Failure> {
        if self.mode != TrustedMode::Off {
            let is_listed = self.trusted(client, &hex(key)).is_some();
            self.note(client, key, is_listed, self.mode == TrustedMode::Enforce);
        }
        if self.mode == TrustedMode::Enforce {
            let message = "Documents are not taken here: send the id of one that was published with the client, in `documentId` or `extensions.persistedQuery`.";
            return Err(bad(Code::PersistedQueryIdRequired, message));
        }
        let document = edge.documents.document(text, key)?;
        Ok(Found { document, is_trusted: false })
    }

    fn by_hash(&self, edge: &Edge, client: Option<&str>, hash: Option<&str>) -> Result<Found, Failure> {
        let Some(hash) = hash else {
            let message = "`extensions.persistedQuery.sha256Hash` must be a string.";
            return Err(Failure::malformed(Code::BadRequest, message));
        };
        if let Some(trusted) = self.trusted(client, hash) {
            return found(edge, &trusted);
        }
        if !self.is_automatic() {
            return Err(self.not_in_list(client, hash));
        }
        // The words are those that clients look for.
        let unknown = || Failure::automatic(Code::PersistedQueryNotFound, "PersistedQueryNotFound");
        self.registered(edge, client, hash).ok_or_else(unknown)
    }

    /// Returns the document that a client has registered under this hash.
    fn registered(&self, edge: &Edge, client: Option<&str>, hash: &str) -> Option<Found> {
        let key = digest(hash).filter(|_| self.is_automatic())?;
        let document = edge.documents.registered(&key)?;
        if self.mode != TrustedMode::Off {
            self.note(client, &key, false, false);
        }
        Some(Found { document, is_trusted: false })
    }

    fn register(&self, edge: &Edge, client: Option<&str>, hash: Option<&str>, text: &str) -> Result<Found, Failure> {
        let key = key(text);
        if self.mode != TrustedMode::Enforce && hash.and_then(digest) != Some(key) {
            return Err(bad(Code::PersistedQueryMismatch, "provided sha does not match query"));
        }
        let found = self.by_text(edge, client, text, &key)?;
        Documents::register(&found.document);
        Ok(found)
    }

    /// Returns whether clients may register documents. Where only trusted ones are executed there is nothing to register.
    fn is_automatic(&self) -> bool {
        self.automatic && self.mode != TrustedMode::Enforce
    }

    fn manifests(&self) -> Arc<Manifests> {
        Arc::clone(&self.manifests.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn trusted(&self, client: Option<&str>, id: &str) -> Option<Arc<TrustedDocument>> {
        self.manifests().find(client, id).map(Arc::clone)
    }

    fn not_in_list(&self, client: Option<&str>, id: &str) -> Failure {
        // The log has its hash: an id may be as long as a body, and contain anything.
        self.note(client, &key(id), false, true);
        let id: String = id.chars().take(MAX_SHOWN).collect();
        let whose = client.map(|client| format!(" for the client {client:?}")).unwrap_or_default();
        let message = format!("There is no document with the id {id:?}{whose}. Publish the manifest of the client.");
        Failure::request(StatusCode::NOT_FOUND, Code::PersistedQueryNotInList, message)
    }

    /// Counts a document that is in no manifest, and logs each pair of document and client once.
    fn note(&self, client: Option<&str>, key: &Key, is_listed: bool, is_refused: bool) {
        self.misses.fetch_add(1, Ordering::Relaxed);
        if self.mode == TrustedMode::Off {
            return;
        }
        // As the log has it of every operation.
        let (hash, client) = (hex(&key[..8]), client.unwrap_or_default());
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() >= MAX_NOTED || !noted.insert((hash.clone(), client.to_owned())) {
            return;
        }
        tracing::warn!(document = hash, client, is_listed, is_refused, "a request names no trusted document");
        if noted.len() == MAX_NOTED {
            tracing::warn!("more documents that are not trusted are counted and not logged");
        }
    }

    /// Reads the files again. A broken manifest leaves the previous documents in force.
    fn read_again(&self, edge: &Edge) {
        let Some(path) = &self.path else { return };
        match Manifests::load(path) {
            Ok(manifests) => {
                warn_of_invalid(edge, &manifests);
                tracing::info!(documents = manifests.documents().len(), "TRUSTED_DOCUMENTS was read again");
                *self.manifests.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(manifests);
                self.is_stale.store(false, Ordering::Relaxed);
                self.noted.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            Err(problem) => {
                tracing::error!(problem, "TRUSTED_DOCUMENTS cannot be read: the previous documents stay in force");
                self.is_stale.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Reads the files again when one changes and when the process gets SIGHUP, until `stop` turns true.
    pub async fn keep(edge: Arc<Edge>, mut stop: watch::Receiver<bool>) {
        let Some(path) = edge.persisted.path.clone() else { return };
        let mut read = edge.persisted.manifests().state().to_vec();
        let first = Arc::clone(&edge);
        run(move || warn_of_invalid(&first, &first.persisted.manifests())).await;
        let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).ok();
        loop {
            let asked = async {
                match &mut hangup {
                    Some(hangup) => drop(hangup.recv().await),
                    None => std::future::pending().await,
                }
            };
            let is_asked = tokio::select! {
                () = async { drop(stop.wait_for(|stop| *stop).await) } => return,
                () = asked => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let (edge, path, before) = (Arc::clone(&edge), path.clone(), read.clone());
            let look = move || {
                // Missing files differ from those that were read, so the error is logged once.
                let now: Vec<FileState> = manifest::state(&path).unwrap_or_default();
                if is_asked || now != before {
                    edge.persisted.read_again(&edge);
                }
                now
            };
            if let Some(now) = run(look).await {
                read = now;
            }
        }
    }

    /// Appends the metrics of the manifests in Prometheus' text format; nothing without `TRUSTED_DOCUMENTS`.
    pub(in crate::http) fn render(&self, text: &mut String) {
        if self.path.is_none() {
            return;
        }
        let figures = [
            ("documents", "gauge", self.manifests().documents().len().to_string()),
            ("stale", "gauge", u8::from(self.is_stale.load(Ordering::Relaxed)).to_string()),
            ("misses_total", "counter", self.misses.load(Ordering::Relaxed).to_string()),
        ];
        for (name, kind, value) in figures {
            *text += &format!("# TYPE tenantry_trusted_{name} {kind}\ntenantry_trusted_{name} {value}\n");
        }
    }
}

/// Returns the client's name from the headers. It is no credential: anybody may send any name.
pub(super) fn client_name(headers: &HeaderMap) -> Option<String> {
    let mut names = CLIENT_HEADERS.iter().filter_map(|name| headers.get(*name)?.to_str().ok());
    names.find(|name| !name.is_empty()).map(str::to_owned)
}

/// Cuts a client's name to [`MAX_CLIENT`] characters.
fn shortened(name: &str) -> &str {
    name.char_indices().nth(MAX_CLIENT).map_or(name, |(end, _)| &name[..end])
}

/// Returns whether a header, or a member of a WebSocket's `connection_init`, is the client's name.
pub(super) fn is_client_header(name: &str) -> bool {
    CLIENT_HEADERS.contains(&name)
}

/// Parses a SHA-256 in hexadecimal digits, with or without the prefix `sha256:`.
fn digest(hash: &str) -> Option<Key> {
    let hash = hash.strip_prefix("sha256:").unwrap_or(hash);
    unhex(hash).filter(|_| !hash.bytes().any(|byte| byte.is_ascii_uppercase()))
}

fn found(edge: &Edge, trusted: &TrustedDocument) -> Result<Found, Failure> {
    let document = edge.documents.document(&trusted.text, &trusted.key)?;
    Ok(Found { document, is_trusted: true })
}

fn bad(code: Code, message: &str) -> Failure {
    Failure::request(StatusCode::BAD_REQUEST, code, message)
}

/// Runs blocking work: it reads files and checks many documents.
async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// Logs the documents that do not fit the schema. Requests for them fail; the others work.
fn warn_of_invalid(edge: &Edge, manifests: &Manifests) {
    let mut invalid = 0_usize;
    for document in manifests.documents() {
        let Err(failure) = edge.documents.check(&document.text, &document.key) else { continue };
        invalid += 1;
        if invalid <= MAX_WARNINGS {
            let why = failure.errors().first().map(|error| error.message.as_str()).unwrap_or_default();
            let client = document.client.as_deref().unwrap_or_default();
            tracing::warn!(
                id = document.id,
                client,
                code = failure.code(),
                why,
                "a trusted document cannot be executed"
            );
        }
    }
    if invalid > MAX_WARNINGS {
        tracing::warn!(invalid, "more trusted documents cannot be executed");
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn the_client_is_named_by_the_first_header_that_says_something() {
        let named = |headers: &[(&'static str, &'static str)]| {
            let headers =
                headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            client_name(&headers.collect::<HeaderMap>())
        };
        let [apollo, hive, draft] =
            [("apollographql-client-name", "c"), ("x-graphql-client-name", "b"), ("graphql-client-name", "a")];
        assert_eq!(named(&[apollo, hive, draft]).as_deref(), Some("a"));
        assert_eq!(named(&[apollo, hive]).as_deref(), Some("b"));
        assert_eq!(named(&[apollo, ("graphql-client-name", "")]).as_deref(), Some("c"));
        assert_eq!(named(&[("x-client-name", "d")]), None);
        assert_eq!(shortened(&"ä".repeat(65)), "ä".repeat(64));
    }

    #[test]
    fn what_is_noted_is_bounded_and_all_is_counted() {
        let noted = |mode, clients: usize| {
            let persisted = Persisted::new(PersistedConfig { mode, ..PersistedConfig::default() });
            for number in 0..clients {
                persisted.note(Some(&number.to_string()), &key("{ __typename }"), false, false);
            }
            let noted = persisted.noted.lock().expect("nobody panicked").len();
            (noted, persisted.misses.load(Ordering::Relaxed))
        };
        assert_eq!(noted(TrustedMode::Log, 2_000), (MAX_NOTED, 2_000));
        assert_eq!(noted(TrustedMode::Off, 10), (0, 10));
    }
}
