//! The client of Stripe's API.
//!
//! async-stripe makes the requests, retries and errors. Its types of objects are not used: they fit one version of the
//! API, while objects of any version are read tolerantly here.

use std::fmt;
use std::time::Duration;

use miniserde::json::Value as Answer;
use serde::Serialize;
use serde_json::Value;
use stripe::{Client, ClientBuilder, StripeError};
use stripe_client_core::{RequestBuilder, RequestStrategy, StripeMethod};

use crate::error::{Error, Result};

/// A key of Stripe's API. `Debug` does not show it.
#[derive(Clone)]
pub struct StripeKey(pub(crate) String);

impl StripeKey {
    /// Whether this looks like a key for a server.
    pub(crate) fn is_plausible(&self) -> bool {
        ["sk_", "rk_"].iter().any(|prefix| self.0.starts_with(prefix)) && !self.0.chars().any(char::is_whitespace)
    }
}

impl fmt::Debug for StripeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StripeKey(…)")
    }
}

/// How long one attempt may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most attempts of a request, with growing pauses.
const TRIES: u32 = 3;
/// Stripe's largest page.
const PAGE: u8 = 100;

/// A client of Stripe's API.
#[derive(Clone, Debug)]
pub struct StripeClient(Client);

/// A page of a list.
#[derive(Debug)]
pub struct ObjectPage {
    pub objects: Vec<Value>,
    /// The id after which the next page begins, if there is one.
    pub next: Option<String>,
}

/// What is asked for in a list.
#[derive(Debug, Default, Serialize)]
struct ListQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<Since>,
    #[serde(skip_serializing_if = "Option::is_none")]
    starting_after: Option<String>,
    limit: u8,
}

#[derive(Debug, Serialize)]
struct Since {
    gte: i64,
}

impl StripeClient {
    /// A client with this key, at this address or Stripe's own.
    ///
    /// # Errors
    /// The address is invalid, or the machine has no certificates to trust.
    pub fn new(key: &str, api_base: Option<&str>) -> Result<Self> {
        // Without certificates the builder below would panic.
        hyper_rustls::HttpsConnectorBuilder::new().with_native_roots().map_err(Error::internal)?;
        let mut builder = ClientBuilder::new(key)
            .timeout(TIMEOUT)
            .request_strategy(RequestStrategy::ExponentialBackoff(TRIES))
            .app_info("tenantry", Some(env!("CARGO_PKG_VERSION").to_owned()), None);
        if let Some(base) = api_base {
            builder = builder.url(format!("{}/", base.trim_end_matches('/')));
        }
        Ok(Self(builder.build().map_err(Error::internal)?))
    }

    /// The subscription as Stripe has it now, if it exists.
    ///
    /// # Errors
    /// Stripe could not be asked, or refused.
    pub async fn subscription(&self, id: &str) -> Result<Option<Value>> {
        // The id becomes a part of the path.
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Ok(None);
        }
        match self.get(RequestBuilder::new(StripeMethod::Get, format!("/subscriptions/{id}"))).await {
            Err(StripeError::Stripe(_, 404)) => Ok(None),
            answer => read(answer).map(Some),
        }
    }

    /// A page of all subscriptions, or of a customer's, with those that have ended, the newest first.
    ///
    /// # Errors
    /// As [`subscription`](Self::subscription).
    pub async fn subscriptions(&self, customer: Option<&str>, after: Option<String>) -> Result<ObjectPage> {
        let query = ListQuery { status: Some("all"), customer: customer.map(str::to_owned), ..ListQuery::default() };
        self.list("/subscriptions", query, after).await
    }

    /// A page of the events since then (in seconds since 1970), the newest first. Stripe keeps them for 30 days.
    ///
    /// # Errors
    /// As [`subscription`](Self::subscription).
    pub async fn events(&self, since: i64, after: Option<String>) -> Result<ObjectPage> {
        let query = ListQuery { created: Some(Since { gte: since }), ..ListQuery::default() };
        self.list("/events", query, after).await
    }

    async fn list(&self, path: &str, query: ListQuery, after: Option<String>) -> Result<ObjectPage> {
        let query = ListQuery { starting_after: after, limit: PAGE, ..query };
        let mut answer = read(self.get(RequestBuilder::new(StripeMethod::Get, path).query(&query)).await)?;
        let Value::Array(objects) = answer["data"].take() else {
            return Err(Error::internal("Stripe's answer is no list"));
        };
        let last = objects.last().and_then(|object| object["id"].as_str()).map(str::to_owned);
        Ok(ObjectPage { next: last.filter(|_| answer["has_more"] == true), objects })
    }

    async fn get(&self, request: RequestBuilder) -> Result<Answer, StripeError> {
        request.customize::<Answer>().send(&self.0).await
    }
}

/// Converts the answer to `serde_json`. Stripe's error message goes to the log and the terminal; it shows only the ends
/// of keys.
fn read(answer: Result<Answer, StripeError>) -> Result<Value> {
    let answer = answer.map_err(|error| match error {
        StripeError::Stripe(error, status) => {
            let message = error.message.unwrap_or_default();
            Error::internal(format!("Stripe answered with {status}: {message}"))
        }
        other => Error::internal(format!("Stripe could not be asked: {other}")),
    })?;
    serde_json::from_str(&miniserde::json::to_string(&answer)).map_err(Error::internal)
}
