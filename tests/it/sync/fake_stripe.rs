//! As much of Stripe's API as is asked: subscriptions, one by one and in pages, and events.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Plainly no key of anybody.
pub const KEY: &str = "sk_test_fake_0000";

/// What the account holds; the newest first, as Stripe lists it.
#[derive(Default)]
pub struct Account {
    pub subscriptions: Vec<Value>,
    pub events: Vec<Value>,
    /// Products, prices, customers and checkouts.
    pub objects: Vec<Value>,
    /// Items of subscriptions, which name theirs in `subscription`; entitlements, which name their `customer`.
    pub listed: Vec<Value>,
    /// What was asked for.
    pub asked: Vec<String>,
    /// How many requests more are answered with 503.
    pub failing: u32,
    /// Whether one who asks for a subscription waits for ever.
    pub hanging: bool,
    /// Subscriptions as they are by the time they are asked for one by one, where the list is older.
    pub newer: Vec<Value>,
}

type Shared = Arc<Mutex<Account>>;
type Answer = (StatusCode, Json<Value>);

pub struct FakeStripe {
    pub url: String,
    pub account: Shared,
}

impl FakeStripe {
    pub async fn start() -> Self {
        let account = Shared::default();
        let router = Router::new()
            .route("/v1/subscriptions/{id}", get(one))
            .route("/v1/subscriptions", get(subscriptions))
            .route("/v1/events", get(events))
            .route("/v1/subscription_items", get(listed))
            .route("/v1/entitlements/active_entitlements", get(listed))
            .route("/v1/products/{id}", get(object))
            .route("/v1/prices/{id}", get(object))
            .route("/v1/customers/{id}", get(object))
            .route("/v1/checkout/sessions/{id}", get(object))
            .with_state(Arc::clone(&account));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, account }
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut Account) -> T) -> T {
        change(&mut self.account.lock().expect("a lock"))
    }
}

/// What Stripe answers to a wrong key, and now and then.
fn refusal(account: &mut Account, headers: &HeaderMap, path: &str) -> Option<Answer> {
    account.asked.push(path.to_owned());
    let error = |status, message: &str| {
        Some((status, Json(json!({ "error": { "type": "invalid_request_error", "message": message } }))))
    };
    if headers.get("authorization").is_none_or(|value| value != &format!("Bearer {KEY}")) {
        return error(StatusCode::UNAUTHORIZED, "Invalid API Key provided: sk_test_****");
    }
    if account.failing > 0 {
        account.failing -= 1;
        return error(StatusCode::SERVICE_UNAVAILABLE, "try again");
    }
    None
}

fn hangs(account: &Shared, id: &str) -> bool {
    let mut account = account.lock().expect("a lock");
    if account.hanging {
        account.asked.push(format!("/subscriptions/{id}"));
    }
    account.hanging
}

async fn one(State(account): State<Shared>, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    if hangs(&account, &id) {
        std::future::pending::<()>().await;
    }
    let mut account = account.lock().expect("a lock");
    if let Some(refusal) = refusal(&mut account, &headers, &format!("/subscriptions/{id}")) {
        return refusal;
    }
    if let Some(object) = account.newer.iter().chain(&account.subscriptions).find(|object| object["id"] == id) {
        return (StatusCode::OK, Json(object.clone()));
    }
    missing()
}

fn missing() -> Answer {
    let error = json!({ "type": "invalid_request_error", "code": "resource_missing", "message": "No such object" });
    (StatusCode::NOT_FOUND, Json(json!({ "error": error })))
}

async fn object(State(account): State<Shared>, headers: HeaderMap, uri: Uri) -> Answer {
    let mut account = account.lock().expect("a lock");
    let path = uri.path().trim_start_matches("/v1").to_owned();
    if let Some(refusal) = refusal(&mut account, &headers, &path) {
        return refusal;
    }
    let found = account.objects.iter().find(|object| object["id"].as_str().is_some_and(|id| path.ends_with(id)));
    found.map_or_else(missing, |object| (StatusCode::OK, Json(object.clone())))
}

async fn listed(State(account): State<Shared>, headers: HeaderMap, uri: Uri, Query(asked): Asked) -> Answer {
    let mut account = account.lock().expect("a lock");
    if let Some(refusal) = refusal(&mut account, &headers, uri.path().trim_start_matches("/v1")) {
        return refusal;
    }
    let of = |name: &str| asked.get(name).map(|id| (name.to_owned(), id.clone()));
    let (name, id) = of("subscription").or_else(|| of("customer")).expect("whose");
    let found: Vec<Value> = account.listed.iter().filter(|object| object[&name] == id).cloned().collect();
    // Of entitlements there may be more than two on each of as many pages as are asked for.
    if name == "customer" { page_of(&found, &asked, 10) } else { page(&found, &asked) }
}

type Asked = Query<BTreeMap<String, String>>;

async fn subscriptions(State(account): State<Shared>, headers: HeaderMap, Query(asked): Asked) -> Answer {
    let mut account = account.lock().expect("a lock");
    if let Some(refusal) = refusal(&mut account, &headers, "/subscriptions") {
        return refusal;
    }
    assert_eq!(asked.get("status").map(String::as_str), Some("all"), "those that are over, too");
    let of_customer = |object: &&Value| asked.get("customer").is_none_or(|customer| object["customer"] == *customer);
    let wanted: Vec<Value> = account.subscriptions.iter().filter(of_customer).cloned().collect();
    page(&wanted, &asked)
}

async fn events(State(account): State<Shared>, headers: HeaderMap, Query(asked): Asked) -> Answer {
    let mut account = account.lock().expect("a lock");
    if let Some(refusal) = refusal(&mut account, &headers, "/events") {
        return refusal;
    }
    let since: i64 = asked.get("created[gte]").expect("since").parse().expect("a number");
    let recent: Vec<Value> = account.events.iter().filter(|e| e["created"].as_i64() >= Some(since)).cloned().collect();
    page(&recent, &asked)
}

/// Two at a time, so that there is more than one page of anything.
fn page(objects: &[Value], asked: &BTreeMap<String, String>) -> Answer {
    page_of(objects, asked, 2)
}

fn page_of(objects: &[Value], asked: &BTreeMap<String, String>, size: usize) -> Answer {
    let from = asked.get("starting_after").map_or(0, |id| {
        1 + objects.iter().position(|object| object["id"] == *id).expect("an object of the page before")
    });
    let rest = &objects[from..];
    let data = &rest[..rest.len().min(size)];
    (StatusCode::OK, Json(json!({ "object": "list", "data": data, "has_more": rest.len() > size, "url": "/v1" })))
}
