//! Fetching a JWK Set document, from an address or a file, within limits.

use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::{ACCEPT, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::jwk::Jwk;

use crate::auth::keys::parse_jwk_set;
use crate::auth::verify::AuthSetupError;
use crate::error::with_causes;

/// The largest document that is read; real ones are below 10 KiB.
pub(super) const MAX_BYTES: usize = 256 * 1024;

/// Why there is no new key set.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the request failed: {0}")]
    Request(String),
    #[error("the answer is {0}; only 200 is accepted and redirects are not followed")]
    Status(StatusCode),
    #[error("the document was not read to its end, or is larger than {MAX_BYTES} bytes: {0}")]
    Body(String),
    #[error("the file cannot be read: {0}")]
    File(String),
    #[error("the document is not a JWK Set: {0}")]
    Document(#[from] serde_json::Error),
    #[error("the document has no public RS256, ES256 or EdDSA key for signatures")]
    NoUsableKey,
}

/// A document at an address.
pub(super) struct Remote {
    uri: Uri,
    client: Transport,
}

/// Plain HTTP needs no certificates, so a development machine may have none.
enum Transport {
    Plain(Client<HttpConnector, Empty<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>),
}

impl Remote {
    pub(super) fn new(url: &str) -> Result<Self, AuthSetupError> {
        let uri: Uri = url.parse().map_err(|_| AuthSetupError::KeyUrl)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(AuthSetupError::KeyUrl);
        };
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(AuthSetupError::KeyUrl);
        }
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        // A pool would only keep a connection open for the quarter of an hour between two fetches.
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_max_idle_per_host(0);
        let client = match scheme {
            "https" => {
                let tls = hyper_rustls::HttpsConnectorBuilder::new()
                    .with_native_roots()
                    .map_err(|error| AuthSetupError::Certificates(error.to_string()))?;
                Transport::Tls(builder.build(tls.https_only().enable_http1().wrap_connector(connector)))
            }
            "http" if is_loopback(authority.host()) => Transport::Plain(builder.build(connector)),
            "http" => return Err(AuthSetupError::InsecureKeyUrl),
            _ => return Err(AuthSetupError::KeyUrl),
        };
        Ok(Self { uri, client })
    }

    /// For the log: without the query, where an access key may stand.
    pub(super) fn name(&self) -> String {
        let (scheme, host) = (self.uri.scheme_str().unwrap_or_default(), self.uri.host().unwrap_or_default());
        format!("{scheme}://{host}{}", self.uri.path())
    }

    pub(super) async fn fetch(&self, limit: Duration) -> Result<Vec<Jwk>, FetchError> {
        // One limit over the whole exchange: a server that sends a byte now and then gains nothing.
        let document =
            tokio::time::timeout(limit, self.download()).await.map_err(|_| FetchError::TimedOut(limit))??;
        Ok(parse_jwk_set(&document)?)
    }

    async fn download(&self) -> Result<Bytes, FetchError> {
        let request = Request::get(&self.uri)
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, concat!("tenantry/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| FetchError::Request(error.to_string()))?;
        let answer = match &self.client {
            Transport::Plain(client) => client.request(request).await,
            Transport::Tls(client) => client.request(request).await,
        }
        .map_err(|error| FetchError::Request(with_causes(&error)))?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        Ok(body.map_err(|error| FetchError::Body(error.to_string()))?.to_bytes())
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Reads the document in a file.
pub(super) fn read_file(path: &Path) -> Result<Vec<Jwk>, FetchError> {
    let read = || {
        // Opening a pipe would wait for its writer.
        if !std::fs::metadata(path)?.is_file() {
            return Err(std::io::Error::other("it is not a file"));
        }
        let mut document = Vec::new();
        std::fs::File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut document)?;
        if document.len() > MAX_BYTES {
            return Err(std::io::Error::other(format!("it is larger than {MAX_BYTES} bytes")));
        }
        Ok(document)
    };
    let document = read().map_err(|error| FetchError::File(error.to_string()))?;
    Ok(parse_jwk_set(&document)?)
}

/// [`read_file`] away from the threads that serve requests.
pub(super) async fn read_file_async(path: PathBuf) -> Result<Vec<Jwk>, FetchError> {
    let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
    read.unwrap_or_else(|error| Err(FetchError::File(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_only() {
        for url in ["http://127.0.0.1:9/k", "http://127.8.8.8/k", "http://[::1]:9/k", "http://LOCALHOST/k"] {
            assert!(Remote::new(url).is_ok(), "{url}");
        }
        for url in [
            "http://clerk.example/k",
            "http://127.0.0.1.evil.example/k",
            "http://localhost.evil/k",
            "http://10.0.0.1/k",
        ] {
            assert!(matches!(Remote::new(url), Err(AuthSetupError::InsecureKeyUrl)), "{url}");
        }
        for url in
            ["", "/k", "clerk.example", "file:///etc/passwd", "ftp://127.0.0.1/", "http://user:pw@127.0.0.1/", "a b"]
        {
            assert!(matches!(Remote::new(url), Err(AuthSetupError::KeyUrl)), "{url}");
        }
    }
}
