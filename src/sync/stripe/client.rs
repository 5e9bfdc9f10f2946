//! The client of Stripe's API.
//!
//! The core of async-stripe makes the requests and decides what is tried again. Its client and its types of objects are not
//! used: the types fit one version of the API, while objects of any version are read tolerantly here, and the client
//! brings all of them (11 MB of the program) to read an error.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use miniserde::json::Value as Answer;
use serde::Serialize;
use serde_json::{Value, json};
use stripe_client_core::{CustomizedStripeRequest, Outcome, RequestBuilder, RequestStrategy, StripeMethod};

use crate::error::{Error, Result, with_causes};

/// A key of Stripe's API. `Debug` does not show it.
#[derive(Clone)]
pub struct StripeKey(pub(crate) String);

impl StripeKey {
    /// Whether this looks like a key for a server.
    pub(crate) fn is_plausible(&self) -> bool {
        ["sk_", "rk_"].iter().any(|prefix| self.0.starts_with(prefix)) && !self.0.chars().any(char::is_whitespace)
    }

    /// Whether it is a key of live mode, where it says so.
    pub(crate) fn livemode(&self) -> Option<bool> {
        match self.0.split('_').nth(1)? {
            "live" => Some(true),
            "test" => Some(false),
            _ => None,
        }
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
/// Most pages of a list that belongs to one object.
const MOST_PAGES: usize = 10;

/// Stripe's API, where no other address is given.
const API: &str = "https://api.stripe.com";
/// Longest answer that is read: a page of 100 subscriptions with their items is about 1 MB.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// A client of Stripe's API.
#[derive(Clone, Debug)]
pub struct StripeClient(Http);

/// What sends its requests.
#[derive(Clone)]
struct Http {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    /// Without the slash at its end.
    base: String,
    authorization: HeaderValue,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the key.
        f.debug_struct("Http").field("base", &self.base).finish_non_exhaustive()
    }
}

/// Why Stripe gave no object.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// With the status and the message of Stripe, which shows only the ends of keys.
    #[error("Stripe answered with {0}: {1}")]
    Refused(u16, String),
    #[error("Stripe could not be asked: {0}")]
    Unreachable(String),
}

impl Http {
    /// One attempt: the status, whether Stripe wants it to be tried again, and the body.
    async fn attempt(&self, uri: &Uri) -> Result<(StatusCode, Option<bool>, Bytes), Failure> {
        let request = Request::get(uri)
            .header(AUTHORIZATION, &self.authorization)
            .header(USER_AGENT, concat!("tenantry/", env!("CARGO_PKG_VERSION")))
            .header("Stripe-Version", stripe_client_core::VERSION.as_str())
            .body(Empty::new())
            .map_err(Failure::unreachable)?;
        let answered = self.client.request(request).await;
        let response = answered.map_err(|error| Failure::Unreachable(with_causes(&error)))?;
        let status = response.status();
        let should_retry =
            response.headers().get("Stripe-Should-Retry").and_then(|retry| retry.to_str().ok()?.parse().ok());
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(Failure::unreachable)?;
        Ok((status, should_retry, body.to_bytes()))
    }
}

impl Failure {
    fn unreachable(error: impl fmt::Display) -> Self {
        Self::Unreachable(error.to_string())
    }

    /// What Stripe says of a request that it refuses (Stripe API reference, "Errors").
    fn refused(status: StatusCode, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        Self::Refused(status.as_u16(), body["error"]["message"].as_str().unwrap_or_default().to_owned())
    }
}

impl stripe_client_core::StripeClientErr for Failure {
    fn deserialize_err(message: impl fmt::Display) -> Self {
        Self::unreachable(message)
    }
}

impl stripe_client_core::StripeClient for Http {
    type Err = Failure;

    async fn execute(&self, request: CustomizedStripeRequest) -> Result<Bytes, Failure> {
        let (request, _) = request.into_pieces();
        let query = request.query.map(|query| format!("?{query}")).unwrap_or_default();
        let uri: Uri = format!("{}/v1{}{query}", self.base, request.path).parse().map_err(Failure::unreachable)?;
        let strategy = RequestStrategy::ExponentialBackoff(TRIES);
        let (mut status, mut should_retry) = (None, None);
        let mut failure = Failure::unreachable("nothing was tried");
        for tries in 0.. {
            match strategy.test(status, should_retry, tries) {
                Outcome::Stop => break,
                Outcome::Continue(pause) => tokio::time::sleep(pause.unwrap_or_default()).await,
            }
            (status, should_retry) = (None, None);
            failure = match tokio::time::timeout(TIMEOUT, self.attempt(&uri)).await {
                Ok(Ok((answered, _, body))) if answered.is_success() => return Ok(body),
                Ok(Ok((answered, retry, body))) => {
                    (status, should_retry) = (Some(answered.as_u16()), retry);
                    Failure::refused(answered, &body)
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure::unreachable("it did not answer in time"),
            };
        }
        Err(failure)
    }
}

/// An object that Stripe can be asked for, by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StripeObject {
    Customer(String),
    Subscription(String),
    Checkout(String),
    Product(String),
    Price(String),
    /// What this customer is entitled to.
    Entitlements(String),
}

impl StripeObject {
    /// The id that is asked for.
    fn id(&self) -> &str {
        match self {
            Self::Customer(id)
            | Self::Subscription(id)
            | Self::Checkout(id)
            | Self::Product(id)
            | Self::Price(id)
            | Self::Entitlements(id) => id,
        }
    }
}

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
    subscription: Option<String>,
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
        let connector = hyper_rustls::HttpsConnectorBuilder::new().with_native_roots().map_err(Error::internal)?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {key}")).map_err(Error::internal)?;
        authorization.set_sensitive(true);
        let base = api_base.unwrap_or(API).trim_end_matches('/').to_owned();
        Uri::try_from(base.as_str()).map_err(Error::internal)?;
        // Requests are rare: no connection waits for the next one.
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(connector.https_or_http().enable_http1().build());
        Ok(Self(Http { client, base, authorization }))
    }

    /// The object as Stripe has it now, if it exists, with all parts of its lists.
    ///
    /// # Errors
    /// Stripe could not be asked, or refused.
    pub async fn object(&self, object: &StripeObject) -> Result<Option<Value>> {
        // The id becomes a part of the path, or of the query.
        let id = object.id();
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Ok(None);
        }
        let path = match object {
            StripeObject::Entitlements(customer) => return self.entitlements(customer).await.map(Some),
            StripeObject::Subscription(id) => format!("/subscriptions/{id}"),
            StripeObject::Customer(id) => format!("/customers/{id}"),
            StripeObject::Checkout(id) => format!("/checkout/sessions/{id}"),
            StripeObject::Product(id) => format!("/products/{id}"),
            StripeObject::Price(id) => format!("/prices/{id}"),
        };
        let mut found = match self.get(RequestBuilder::new(StripeMethod::Get, path)).await {
            Err(Failure::Refused(404, _)) => return Ok(None),
            answer => read(answer)?,
        };
        if matches!(object, StripeObject::Subscription(_)) && found["items"]["has_more"] == true {
            let query = || ListQuery { subscription: Some(id.to_owned()), ..ListQuery::default() };
            found["items"] = self.whole_list("/subscription_items", query).await?;
        }
        Ok(Some(found))
    }

    /// The subscription as Stripe has it now, if it exists, with all its items.
    ///
    /// # Errors
    /// As [`object`](Self::object).
    pub async fn subscription(&self, id: &str) -> Result<Option<Value>> {
        self.object(&StripeObject::Subscription(id.to_owned())).await
    }

    /// All active entitlements of a customer, in the form of the summary that events hold.
    async fn entitlements(&self, customer: &str) -> Result<Value> {
        let query = || ListQuery { customer: Some(customer.to_owned()), ..ListQuery::default() };
        let list = self.whole_list("/entitlements/active_entitlements", query).await?;
        Ok(json!({ "object": "entitlements.active_entitlement_summary", "customer": customer, "entitlements": list }))
    }

    /// All pages of a list, as one. At most [`MOST_PAGES`]; what is longer says that it has more.
    async fn whole_list(&self, path: &str, query: impl Fn() -> ListQuery) -> Result<Value> {
        let (mut all, mut next) = (Vec::new(), None);
        for _ in 0..MOST_PAGES {
            let page = self.list(path, query(), next).await?;
            all.extend(page.objects);
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        Ok(json!({ "object": "list", "data": all, "has_more": next.is_some() }))
    }

    /// A page of all subscriptions, or of a customer's, with those that have ended, the newest first.
    ///
    /// # Errors
    /// As [`object`](Self::object).
    pub async fn subscriptions(&self, customer: Option<&str>, after: Option<String>) -> Result<ObjectPage> {
        let query = ListQuery { status: Some("all"), customer: customer.map(str::to_owned), ..ListQuery::default() };
        self.list("/subscriptions", query, after).await
    }

    /// A page of the events since then (in seconds since 1970), the newest first. Stripe keeps them for 30 days.
    ///
    /// # Errors
    /// As [`object`](Self::object).
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

    async fn get(&self, request: RequestBuilder) -> Result<Answer, Failure> {
        request.customize::<Answer>().send(&self.0).await
    }
}

/// Converts the answer to `serde_json`.
fn read(answer: Result<Answer, Failure>) -> Result<Value> {
    serde_json::from_str(&miniserde::json::to_string(&answer.map_err(Error::internal)?)).map_err(Error::internal)
}
