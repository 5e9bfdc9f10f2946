//! The client of Stripe's API.
//!
//! The core of async-stripe makes the requests and decides what is tried again. Its client and its types of objects are not
//! used: the types fit one version of the API, while objects of any version are read tolerantly here, and the client
//! brings all of them (11 MB of the program) to read an error.

mod billing;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use miniserde::json::Value as Answer;
use serde::Serialize;
use serde_json::{Value, json};
use stripe_client_core::{
    CustomizedStripeRequest, IdempotencyKey, Outcome, RequestBuilder, RequestStrategy, StripeMethod,
};

pub use billing::Form;

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
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
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
pub enum StripeFailure {
    /// Stripe answered, and not with an object.
    #[error("Stripe answered with {}: {}", .0.status, .0.message)]
    Refused(Refusal),
    /// There was no answer. What was asked for may have been done.
    #[error("Stripe could not be asked: {0}")]
    Unreachable(String),
}

/// What Stripe says of a request that it refuses (Stripe API reference, "Errors").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The status of HTTP.
    pub status: u16,
    /// `error.type`, such as `idempotency_error`.
    pub kind: String,
    /// `error.code`, such as `charge_already_refunded`.
    pub code: String,
    /// `error.message`, which shows only the ends of keys.
    pub message: String,
    /// Whether Stripe wants it to be tried again, where it says so (`Stripe-Should-Retry`).
    pub should_retry: Option<bool>,
    /// After how long (`Retry-After`), where it says so in seconds.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    fn new(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            status: status.as_u16(),
            kind: text("type"),
            code: text("code"),
            message: text("message"),
            should_retry: header("Stripe-Should-Retry").and_then(|retry| retry.parse().ok()),
            retry_after: header(RETRY_AFTER.as_str()).and_then(|after| after.parse().ok()).map(Duration::from_secs),
        }
    }
}

impl Refusal {
    /// Whether it is Stripe's last word. What is ours to mend (the key), what may be done already, and what Stripe wants to be tried
    /// again is not (Stripe API reference, "Errors", "Idempotent requests").
    #[must_use]
    pub fn is_final(&self) -> bool {
        let is_ours = matches!(self.status, 401 | 403);
        let is_passing = matches!(self.status, 409 | 424 | 429) || self.status >= 500;
        let is_unknown =
            self.kind == "idempotency_error" || matches!(self.code.as_str(), "lock_timeout" | "rate_limit");
        !(is_ours || is_passing || is_unknown || self.should_retry == Some(true) || self.status < 400)
    }

    /// Whether Stripe says that it has no such object, or has it in the other mode.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.status == 404 || self.code == "resource_missing"
    }
}

impl StripeFailure {
    fn unreachable(error: impl fmt::Display) -> Self {
        Self::Unreachable(error.to_string())
    }

    /// Whether Stripe says that there is no such object.
    fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.status == 404)
    }
}

impl stripe_client_core::StripeClientErr for StripeFailure {
    fn deserialize_err(message: impl fmt::Display) -> Self {
        Self::unreachable(message)
    }
}

/// What is sent in one attempt.
struct Sent {
    uri: Uri,
    method: Method,
    /// The form of a request that changes something, with its idempotency key.
    form: Option<(String, Option<String>)>,
}

impl Http {
    /// One attempt: the body of the answer, or why there is none.
    async fn attempt(&self, sent: &Sent) -> Result<Bytes, StripeFailure> {
        let mut request = Request::builder()
            .uri(&sent.uri)
            .method(&sent.method)
            .header(AUTHORIZATION, &self.authorization)
            .header(USER_AGENT, concat!("tenantry/", env!("CARGO_PKG_VERSION")))
            .header("Stripe-Version", stripe_client_core::VERSION.as_str());
        let mut body = Bytes::new();
        if let Some((form, key)) = &sent.form {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            if let Some(key) = key {
                request = request.header("Idempotency-Key", key);
            }
            body = Bytes::from(form.clone());
        }
        let request = request.body(Full::new(body)).map_err(StripeFailure::unreachable)?;
        let answered = self.client.request(request).await;
        let response = answered.map_err(|error| StripeFailure::Unreachable(with_causes(&error)))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(StripeFailure::unreachable)?.to_bytes();
        if head.status.is_success() {
            return Ok(body);
        }
        Err(StripeFailure::Refused(Refusal::new(head.status, &head.headers, &body)))
    }
}

impl stripe_client_core::StripeClient for Http {
    type Err = StripeFailure;

    async fn execute(&self, request: CustomizedStripeRequest) -> Result<Bytes, StripeFailure> {
        let (request, settings) = request.into_pieces();
        let strategy = settings.request_strategy.unwrap_or(RequestStrategy::ExponentialBackoff(TRIES));
        let query = request.query.map(|query| format!("?{query}")).unwrap_or_default();
        let uri: Uri =
            format!("{}/v1{}{query}", self.base, request.path).parse().map_err(StripeFailure::unreachable)?;
        let key = strategy.get_key().map(IdempotencyKey::into_inner);
        let form = matches!(request.method, StripeMethod::Post).then(|| (request.body.unwrap_or_default(), key));
        let method = match request.method {
            StripeMethod::Get => Method::GET,
            StripeMethod::Post => Method::POST,
            StripeMethod::Delete => Method::DELETE,
        };
        let sent = Sent { uri, method, form };
        let (mut status, mut should_retry) = (None, None);
        let mut failure = StripeFailure::unreachable("nothing was tried");
        for tries in 0.. {
            match strategy.test(status, should_retry, tries) {
                Outcome::Stop => break,
                Outcome::Continue(pause) => tokio::time::sleep(pause.unwrap_or_default()).await,
            }
            failure = match tokio::time::timeout(TIMEOUT, self.attempt(&sent)).await {
                Ok(Ok(body)) => return Ok(body),
                Ok(Err(failure)) => failure,
                Err(_) => StripeFailure::unreachable("it did not answer in time"),
            };
            (status, should_retry) = match &failure {
                StripeFailure::Refused(refusal) => (Some(refusal.status), refusal.should_retry),
                StripeFailure::Unreachable(_) => (None, None),
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
    /// A payment.
    PaymentIntent(String),
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
            | Self::PaymentIntent(id)
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
    payment_intent: Option<String>,
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
    pub async fn object(&self, object: &StripeObject) -> Result<Option<Value>, StripeFailure> {
        let id = object.id();
        if !is_id(id) {
            return Ok(None);
        }
        let path = match object {
            StripeObject::Entitlements(customer) => return self.entitlements(customer).await.map(Some),
            StripeObject::Subscription(id) => format!("/subscriptions/{id}"),
            StripeObject::Customer(id) => format!("/customers/{id}"),
            StripeObject::Checkout(id) => format!("/checkout/sessions/{id}"),
            StripeObject::Product(id) => format!("/products/{id}"),
            StripeObject::Price(id) => format!("/prices/{id}"),
            StripeObject::PaymentIntent(id) => format!("/payment_intents/{id}"),
        };
        let mut found = match self.get(RequestBuilder::new(StripeMethod::Get, path)).await {
            Err(failure) if failure.is_missing() => return Ok(None),
            answer => read(&answer?)?,
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
    pub async fn subscription(&self, id: &str) -> Result<Option<Value>, StripeFailure> {
        self.object(&StripeObject::Subscription(id.to_owned())).await
    }

    /// All active entitlements of a customer, in the form of the summary that events hold.
    async fn entitlements(&self, customer: &str) -> Result<Value, StripeFailure> {
        let query = || ListQuery { customer: Some(customer.to_owned()), ..ListQuery::default() };
        let list = self.whole_list("/entitlements/active_entitlements", query).await?;
        Ok(json!({ "object": "entitlements.active_entitlement_summary", "customer": customer, "entitlements": list }))
    }

    /// All pages of a list, as one. At most [`MOST_PAGES`]; what is longer says that it has more.
    async fn whole_list(&self, path: &str, query: impl Fn() -> ListQuery) -> Result<Value, StripeFailure> {
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
    pub async fn subscriptions(
        &self,
        customer: Option<&str>,
        after: Option<String>,
    ) -> Result<ObjectPage, StripeFailure> {
        let query = ListQuery { status: Some("all"), customer: customer.map(str::to_owned), ..ListQuery::default() };
        self.list("/subscriptions", query, after).await
    }

    /// A page of the events since then (in seconds since 1970), the newest first. Stripe keeps them for 30 days.
    ///
    /// # Errors
    /// As [`object`](Self::object).
    pub async fn events(&self, since: i64, after: Option<String>) -> Result<ObjectPage, StripeFailure> {
        let query = ListQuery { created: Some(Since { gte: since }), ..ListQuery::default() };
        self.list("/events", query, after).await
    }

    async fn list(&self, path: &str, query: ListQuery, after: Option<String>) -> Result<ObjectPage, StripeFailure> {
        let query = ListQuery { starting_after: after, limit: PAGE, ..query };
        let mut answer = read(&self.get(RequestBuilder::new(StripeMethod::Get, path).query(&query)).await?)?;
        let Value::Array(objects) = answer["data"].take() else {
            return Err(StripeFailure::unreachable("its answer is no list"));
        };
        let last = objects.last().and_then(|object| object["id"].as_str()).map(str::to_owned);
        Ok(ObjectPage { next: last.filter(|_| answer["has_more"] == true), objects })
    }

    async fn get(&self, request: RequestBuilder) -> Result<Answer, StripeFailure> {
        request.customize::<Answer>().send(&self.0).await
    }

    /// A payment with all its refunds, the newest first; `None`: there is no such payment.
    ///
    /// # Errors
    /// Stripe could not be asked, or refused.
    pub async fn payment(&self, id: &str) -> Result<Option<(Value, Vec<Value>)>, StripeFailure> {
        let Some(payment) = self.object(&StripeObject::PaymentIntent(id.to_owned())).await? else { return Ok(None) };
        let query = || ListQuery { payment_intent: Some(id.to_owned()), ..ListQuery::default() };
        let mut refunds = self.whole_list("/refunds", query).await?;
        if refunds["has_more"] == true {
            return Err(StripeFailure::unreachable("the payment has more refunds than are read"));
        }
        let Value::Array(refunds) = refunds["data"].take() else { return Ok(Some((payment, Vec::new()))) };
        Ok(Some((payment, refunds)))
    }

    /// A refund as Stripe has it now; `None`: there is no such refund.
    ///
    /// # Errors
    /// Stripe could not be asked, or refused.
    pub async fn refund(&self, id: &str) -> Result<Option<Value>, StripeFailure> {
        if !is_id(id) {
            return Ok(None);
        }
        match self.get(RequestBuilder::new(StripeMethod::Get, format!("/refunds/{id}"))).await {
            Err(failure) if failure.is_missing() => Ok(None),
            answer => read(&answer?).map(Some),
        }
    }

    /// Asks for a refund, once. Whoever has no answer asks again with the same key: Stripe keeps it for a day at least (API
    /// reference, "Idempotent requests").
    ///
    /// # Errors
    /// Stripe could not be asked, or refused.
    pub async fn create_refund(&self, form: &RefundForm<'_>, key: &str) -> Result<Value, StripeFailure> {
        let key = IdempotencyKey::new(key).map_err(StripeFailure::unreachable)?;
        let request = RequestBuilder::new(StripeMethod::Post, "/refunds").form(form).customize::<Answer>();
        read(&request.request_strategy(RequestStrategy::Idempotent(key)).send(&self.0).await?)
    }
}

/// A refund to ask for (Stripe API reference, "Create a refund").
#[derive(Debug, Serialize)]
pub struct RefundForm<'a> {
    pub payment_intent: &'a str,
    /// In Stripe's units of the payment's currency.
    pub amount: i64,
    pub reason: &'a str,
    pub metadata: BTreeMap<&'static str, String>,
}

/// Whether this may be an id at Stripe: it becomes a part of a path or a query.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 255 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl From<StripeFailure> for Error {
    fn from(failure: StripeFailure) -> Self {
        Self::internal(failure)
    }
}

/// Converts the answer to `serde_json`.
fn read(answer: &Answer) -> Result<Value, StripeFailure> {
    serde_json::from_str(&miniserde::json::to_string(answer)).map_err(StripeFailure::unreachable)
}
