//! As much of Stripe as billing needs, and as strict: it knows the parameters of each request (those of the API's version, taken from
//! Stripe's own types), keeps idempotency keys with what they were first used for, and fails in every way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use crate::refunds::fake::KEY;

/// The version of the API that the client speaks.
const VERSION: &str = "2026-09-30.endive";

/// What Stripe takes in each request, and whether it must have an idempotency key.
const KNOWN: &[(&str, bool, &[&str])] = &[
    (
        "/checkout/sessions",
        true,
        &[
            "mode",
            "success_url",
            "cancel_url",
            "client_reference_id",
            "metadata[organization_id]",
            "subscription_data[metadata][organization_id]",
            "subscription_data[trial_period_days]",
            "customer",
            "customer_email",
            "line_items[#][price]",
            "line_items[#][quantity]",
        ],
    ),
    ("/checkout/sessions/*/expire", false, &[]),
    ("/billing_portal/sessions", true, &["customer", "return_url", "flow_data[type]"]),
    (
        "/subscriptions/*",
        true,
        &[
            "items[#][id]",
            "items[#][price]",
            "items[#][quantity]",
            "items[#][deleted]",
            "proration_behavior",
            "proration_date",
            "payment_behavior",
            "expand[#]",
            "cancel_at_period_end",
            "cancel_at",
        ],
    ),
    ("/subscriptions/*/resume", true, &["billing_cycle_anchor"]),
    ("/subscription_items/*", false, &["quantity", "proration_behavior"]),
    (
        "/invoices/create_preview",
        false,
        &[
            "customer",
            "subscription",
            "subscription_details[items][#][id]",
            "subscription_details[items][#][price]",
            "subscription_details[items][#][quantity]",
            "subscription_details[items][#][deleted]",
            "subscription_details[proration_behavior]",
            "subscription_details[proration_date]",
        ],
    ),
    (
        "/billing/meter_events",
        false,
        &["event_name", "payload[stripe_customer_id]", "payload[value]", "identifier", "timestamp"],
    ),
];

/// What becomes of a request that changes something.
#[derive(Clone, Debug, PartialEq)]
pub enum Whim {
    /// It is done, and the connection is closed in the middle of the answer.
    Torn,
    /// Nothing is done: this status and code, which the key remembers if Stripe would.
    Refused(u16, &'static str),
    /// It is done, and the answer is 500, which the key remembers.
    Lost,
    /// Nothing is done, the answer is 500, which the key remembers.
    Broken,
    /// It is done, and answered when the test lets go.
    Held,
    /// It is done, and answered after a while.
    Late,
    /// The change waits for its payment.
    Unpaid,
}

type Form = BTreeMap<String, String>;

#[derive(Default)]
pub struct Account {
    pub subscriptions: BTreeMap<String, Value>,
    pub sessions: BTreeMap<String, Value>,
    /// What a price costs in a period.
    pub prices: BTreeMap<String, i64>,
    pub clocks: BTreeMap<String, i64>,
    /// By their identifiers.
    pub meter_events: BTreeMap<String, Form>,
    /// What was charged at once.
    pub charged: Vec<i64>,
    /// What a key was first used for, and answered with.
    keys: BTreeMap<String, (Form, u16, Value)>,
    busy: Vec<String>,
    /// Every request that changes something: its path, its form, its key.
    pub posted: Vec<(String, Form, Option<String>)>,
    /// What becomes of the next requests that have a key or are of items or meters.
    pub whims: VecDeque<Whim>,
    pub held: usize,
}

impl Account {
    /// How often a path was posted to.
    pub fn count(&self, path: &str) -> usize {
        self.posted.iter().filter(|(posted, ..)| fits(path, posted)).count()
    }
}

type Shared = Arc<Mutex<Account>>;

#[derive(Clone)]
struct Server {
    account: Shared,
    gate: watch::Receiver<u64>,
}

pub struct FakeStripe {
    pub url: String,
    account: Shared,
    gate: watch::Sender<u64>,
}

impl FakeStripe {
    pub async fn start() -> Self {
        let account = Shared::default();
        let (gate, watched) = watch::channel(0);
        let server = Server { account: Arc::clone(&account), gate: watched };
        let router = Router::new().fallback(handle).with_state(server);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let prices = [
            ("starter", 1_000),
            ("pro", 2_000),
            ("pro_seat", 500),
            ("pro_usage", 0),
            ("ent", 10_000),
            ("starter_year", 10_000),
        ];
        account.lock().expect("a lock").prices = prices.map(|(id, cost)| (id.to_owned(), cost)).into();
        Self { url, account, gate }
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut Account) -> T) -> T {
        change(&mut self.account.lock().expect("a lock"))
    }

    pub fn whim(&self, whim: Whim) {
        self.with(|account| account.whims.push_back(whim));
    }

    pub async fn holds(&self) {
        for _ in 0..1500 {
            if self.with(|account| account.held > 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nothing is held");
    }

    pub fn let_go(&self) {
        self.with(|account| account.held = 0);
        self.gate.send_modify(|count| *count += 1);
    }

    /// A subscription of a customer with these items (price, quantity).
    pub fn subscribe(&self, id: &str, customer: &str, items: &[(&str, Option<i64>)], ends: i64) {
        let items: Vec<Value> =
            items.iter().enumerate().map(|(at, (price, quantity))| item(id, at, price, *quantity, ends)).collect();
        let object = json!({ "id": id, "object": "subscription", "customer": customer, "status": "active", "livemode": false, "currency": "usd",
            "cancel_at_period_end": false, "cancel_at": null, "schedule": null, "pending_update": null, "latest_invoice": null,
            "collection_method": "charge_automatically", "test_clock": null, "trial_end": null, "pause_collection": null,
            "created": ends - 2_000_000, "metadata": {}, "items": { "object": "list", "data": items, "has_more": false } });
        self.with(|account| account.subscriptions.insert(id.to_owned(), object));
    }

    pub fn subscription(&self, id: &str) -> Value {
        self.with(|account| account.subscriptions[id].clone())
    }

    pub fn change(&self, id: &str, change: impl FnOnce(&mut Value)) {
        self.with(|account| change(account.subscriptions.get_mut(id).expect("a subscription")));
    }

    /// The quantity of an item.
    pub fn quantity(&self, id: &str, price: &str) -> Option<i64> {
        let object = self.subscription(id);
        let items = object["items"]["data"].as_array().expect("items").clone();
        items.iter().find(|item| item["price"]["id"] == price).and_then(|item| item["quantity"].as_i64())
    }
}

fn item(subscription: &str, at: usize, price: &str, quantity: Option<i64>, ends: i64) -> Value {
    let usage = if quantity.is_none() { "metered" } else { "licensed" };
    let interval = if price.ends_with("year") { "year" } else { "month" };
    let mut item = json!({ "id": format!("si_{subscription}_{at}"), "object": "subscription_item", "subscription": subscription,
        "price": { "id": price, "object": "price", "product": format!("prod_{price}"), "currency": "usd", "lookup_key": null, "metadata": {},
                   "recurring": { "interval": interval, "usage_type": usage } },
        "current_period_start": ends - 2_592_000, "current_period_end": ends });
    if let Some(quantity) = quantity {
        item["quantity"] = quantity.into();
    }
    item
}

fn error(status: u16, code: &str) -> (u16, Value) {
    let kind = if code.starts_with("idempotency") { "idempotency_error" } else { "invalid_request_error" };
    (status, json!({ "error": { "type": kind, "code": code, "message": format!("no: {code}") } }))
}

fn answer((status, body): (u16, Value)) -> Response {
    (StatusCode::from_u16(status).expect("a status"), Json(body)).into_response()
}

/// Whether a path is this one, where `*` stands for an id.
fn fits(pattern: &str, path: &str) -> bool {
    let (mut one, mut other) = (pattern.split('/'), path.split('/'));
    loop {
        match (one.next(), other.next()) {
            (None, None) => return true,
            (Some("*"), Some(id)) if !id.is_empty() => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

/// The name of a parameter without its places in lists.
fn general(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('[').collect();
    for part in parts.iter_mut().skip(1) {
        if part.trim_end_matches(']').bytes().all(|byte| byte.is_ascii_digit()) {
            *part = "#]";
        }
    }
    parts.join("[")
}

/// Reads a form. No name may stand in it twice.
fn read_form(text: &str) -> Form {
    let decode = |part: &str| {
        percent_encoding::percent_decode_str(&part.replace('+', " ")).decode_utf8().expect("UTF-8").into_owned()
    };
    let mut form = Form::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').expect("a pair");
        assert!(form.insert(decode(name), decode(value)).is_none(), "{text}");
    }
    form
}

struct Busy(Shared, String);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.lock().expect("a lock").busy.retain(|other| *other != self.1);
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

async fn handle(State(server): State<Server>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path().strip_prefix("/v1").expect("the API").to_owned();
    let query: Form = read_form(head.uri.query().unwrap_or_default());
    if header(&head.headers, "authorization") != Some(format!("Bearer {KEY}").as_str()) {
        return answer(error(401, ""));
    }
    assert_eq!(header(&head.headers, "stripe-version"), Some(VERSION));
    if head.method == Method::GET {
        return answer(look(&server.account.lock().expect("a lock"), &path, &query));
    }
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let form: Form = read_form(std::str::from_utf8(&body).expect("text"));
    let key = header(&head.headers, "idempotency-key").map(str::to_owned);
    if head.method == Method::DELETE {
        assert!(body.is_empty() && key.is_none(), "Stripe takes no key with DELETE");
        let mut account = server.account.lock().expect("a lock");
        account.posted.push((format!("DELETE {path}"), Form::new(), None));
        return answer(end(&mut account, &path));
    }
    assert_eq!(header(&head.headers, "content-type"), Some("application/x-www-form-urlencoded"));
    let Some((_, needs_key, names)) = KNOWN.iter().find(|(known, ..)| fits(known, &path)) else {
        return answer(error(404, ""));
    };
    assert_eq!(key.is_some(), *needs_key, "{path}");
    if let Some(unknown) = form.keys().find(|name| !names.contains(&general(name).as_str())) {
        return answer((
            400,
            json!({ "error": { "type": "invalid_request_error", "code": "parameter_unknown", "message": format!("Received unknown parameter: {unknown}") } }),
        ));
    }
    change(&server, &path, form, key).await
}

async fn change(server: &Server, path: &str, form: Form, key: Option<String>) -> Response {
    let whim = {
        let mut account = server.account.lock().expect("a lock");
        account.posted.push((path.to_owned(), form.clone(), key.clone()));
        if let Some(key) = &key {
            if account.busy.contains(key) {
                return answer(error(409, "idempotency_key_in_use"));
            }
            if let Some((first, status, body)) = account.keys.get(key) {
                if *first != form {
                    return answer(error(400, "idempotency_key_parameters"));
                }
                return answer((*status, body.clone()));
            }
        }
        let is_wayward = key.is_some() || path.starts_with("/subscription_items") || path.starts_with("/billing/meter");
        if is_wayward { account.whims.pop_front() } else { None }
    };
    let remember = |status: u16, body: &Value| {
        if let Some(key) = &key {
            let mut account = server.account.lock().expect("a lock");
            account.keys.insert(key.clone(), (form.clone(), status, body.clone()));
        }
    };
    let done = |is_unpaid: bool| {
        let (status, body) = act(&mut server.account.lock().expect("a lock"), path, &form, is_unpaid);
        remember(status, &body);
        (status, body)
    };
    match whim {
        None => answer(done(false)),
        Some(Whim::Unpaid) => answer(done(true)),
        Some(Whim::Late) => {
            let made = done(false);
            tokio::time::sleep(Duration::from_millis(500)).await;
            answer(made)
        }
        Some(Whim::Held) => {
            let key = key.clone().unwrap_or_default();
            server.account.lock().expect("a lock").busy.push(key.clone());
            let _busy = Busy(Arc::clone(&server.account), key);
            let made = done(false);
            let mut gate = server.gate.clone();
            gate.mark_unchanged();
            server.account.lock().expect("a lock").held += 1;
            gate.changed().await.ok();
            answer(made)
        }
        Some(Whim::Torn) => {
            done(false);
            let broken = stream::iter([Ok(Bytes::from_static(b"{\"id\"")), Err(std::io::Error::other("closed"))]);
            Response::builder().header("content-length", "4000").body(Body::from_stream(broken)).expect("an answer")
        }
        Some(Whim::Refused(status, code)) => {
            let refused = error(status, code);
            if ![401, 409, 429].contains(&status) {
                remember(refused.0, &refused.1);
            }
            answer(refused)
        }
        Some(Whim::Lost) => {
            done(false);
            let lost = error(500, "");
            remember(lost.0, &lost.1);
            answer(lost)
        }
        Some(Whim::Broken) => {
            let lost = error(500, "");
            remember(lost.0, &lost.1);
            answer(lost)
        }
    }
}

fn look(account: &Account, path: &str, query: &Form) -> (u16, Value) {
    let missing = || error(404, "resource_missing");
    let id = path.rsplit('/').next().unwrap_or_default();
    let found = if fits("/subscriptions/*", path) {
        account.subscriptions.get(id).cloned()
    } else if path == "/subscriptions" {
        let of = |object: &&Value| query.get("customer").is_none_or(|customer| object["customer"] == *customer);
        let data: Vec<Value> = account.subscriptions.values().filter(of).cloned().collect();
        Some(json!({ "object": "list", "data": data, "has_more": false }))
    } else if fits("/checkout/sessions/*", path) {
        account.sessions.get(id).cloned()
    } else if fits("/test_helpers/test_clocks/*", path) {
        account.clocks.get(id).map(|at| json!({ "id": id, "object": "test_helpers.test_clock", "frozen_time": at }))
    } else {
        None
    };
    found.map_or_else(missing, |found| (200, found))
}

fn end(account: &mut Account, path: &str) -> (u16, Value) {
    let id = path.rsplit('/').next().unwrap_or_default();
    let Some(object) = account.subscriptions.get_mut(id).filter(|object| object["status"] != "canceled") else {
        return error(404, "resource_missing");
    };
    object["status"] = "canceled".into();
    (200, object.clone())
}

/// The items after a form.
fn items_after(subscription: &Value, form: &Form, under: &str) -> Vec<Value> {
    let mut items = subscription["items"]["data"].as_array().expect("items").clone();
    let ends = items[0]["current_period_end"].as_i64().expect("an end");
    for at in 0..20 {
        let of = |name: &str| form.get(&format!("{under}[{at}][{name}]"));
        let quantity = of("quantity").map(|quantity| quantity.parse::<i64>().expect("a number"));
        match (of("id"), of("price"), of("deleted")) {
            (None, None, None) => break,
            (Some(id), _, Some(_)) => items.retain(|item| item["id"] != *id),
            (id, Some(price), _) => {
                let name = subscription["id"].as_str().expect("an id");
                let place = id.and_then(|id| items.iter().position(|item| item["id"] == *id));
                let mut made = item(name, 100 + at, price, quantity, ends);
                if let Some(place) = place {
                    made["id"] = items[place]["id"].clone();
                    items[place] = made;
                } else {
                    items.push(made);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    items
}

fn cost(account: &Account, items: &[Value]) -> i64 {
    let of = |item: &Value| {
        account.prices[item["price"]["id"].as_str().expect("a price")] * item["quantity"].as_i64().unwrap_or(0)
    };
    items.iter().map(of).sum()
}

/// A line of an invoice.
fn line(description: &str, amount: i64, is_proration: bool) -> Value {
    json!({ "object": "line_item", "description": description, "amount": amount, "currency": "usd",
            "parent": { "type": "subscription_item_details", "subscription_item_details": { "proration": is_proration } } })
}

/// Half of the period is left, always.
fn prorated(account: &Account, before: &[Value], after: &[Value]) -> (i64, i64) {
    (-cost(account, before) / 2, cost(account, after) / 2)
}

fn act(account: &mut Account, path: &str, form: &Form, is_unpaid: bool) -> (u16, Value) {
    let made = account.posted.len();
    let id = path.split('/').nth(2).unwrap_or_default();
    if path == "/checkout/sessions" {
        if let Some(price) =
            form.iter().find(|(name, price)| name.ends_with("[price]") && !account.prices.contains_key(*price))
        {
            return (
                400,
                json!({ "error": { "type": "invalid_request_error", "code": "resource_missing", "message": format!("No such price: {}", price.1) } }),
            );
        }
        let id = format!("cs_test_{made}");
        let session = json!({ "id": id, "object": "checkout.session", "mode": "subscription", "status": "open", "livemode": false,
            "url": format!("https://checkout.stripe.com/c/pay/{id}"), "expires_at": 4_102_444_800_i64, "customer": form.get("customer") });
        account.sessions.insert(id, session.clone());
        (200, session)
    } else if fits("/checkout/sessions/*/expire", path) {
        let id = path.split('/').nth(3).unwrap_or_default();
        let Some(session) = account.sessions.get_mut(id) else { return error(404, "resource_missing") };
        if session["status"] != "open" {
            return error(400, "checkout_session_not_open");
        }
        session["status"] = "expired".into();
        (200, session.clone())
    } else if path == "/billing_portal/sessions" {
        (
            200,
            json!({ "id": format!("bps_{made}"), "object": "billing_portal.session", "url": format!("https://billing.stripe.com/p/session/{made}") }),
        )
    } else if path == "/invoices/create_preview" {
        preview(account, form)
    } else if fits("/subscriptions/*/resume", path) {
        let Some(object) = account.subscriptions.get_mut(id) else { return error(404, "resource_missing") };
        object["status"] = "active".into();
        (200, object.clone())
    } else if fits("/subscriptions/*", path) {
        update(account, id, form, is_unpaid)
    } else if fits("/subscription_items/*", path) {
        for object in account.subscriptions.values_mut() {
            let items = object["items"]["data"].as_array_mut().expect("items");
            if let Some(item) = items.iter_mut().find(|item| item["id"] == id) {
                item["quantity"] = form["quantity"].parse::<i64>().expect("a number").into();
                return (200, item.clone());
            }
        }
        error(404, "resource_missing")
    } else {
        let identifier = form["identifier"].clone();
        if account.meter_events.contains_key(&identifier) {
            let message = format!("An event already exists with identifier {identifier}.");
            return (400, json!({ "error": { "type": "invalid_request_error", "message": message } }));
        }
        assert!(form["payload[value]"].parse::<i64>().is_ok_and(|value| value > 0), "{form:?}");
        account.meter_events.insert(identifier.clone(), form.clone());
        (200, json!({ "object": "billing.meter_event", "identifier": identifier, "event_name": form["event_name"] }))
    }
}

fn preview(account: &Account, form: &Form) -> (u16, Value) {
    let Some(object) = form.get("subscription").and_then(|id| account.subscriptions.get(id)) else {
        return error(404, "resource_missing");
    };
    let before = object["items"]["data"].as_array().expect("items").clone();
    let after = items_after(object, form, "subscription_details[items]");
    let invoice = |total: i64, lines: Vec<Value>| {
        (
            200,
            json!({ "object": "invoice", "currency": "usd", "total": total, "amount_due": total.max(0), "lines": { "object": "list", "data": lines, "has_more": false } }),
        )
    };
    if form.get("subscription_details[proration_behavior]").is_some_and(|behavior| behavior == "always_invoice") {
        assert!(form.contains_key("subscription_details[proration_date]"));
        let (credit, charge) = prorated(account, &before, &after);
        return invoice(credit + charge, vec![line("Unused time", credit, true), line("Remaining time", charge, true)]);
    }
    invoice(cost(account, &after), vec![line("Next period", cost(account, &after), false)])
}

fn update(account: &mut Account, id: &str, form: &Form, is_unpaid: bool) -> (u16, Value) {
    let Some(before) = account.subscriptions.get(id).cloned() else { return error(404, "resource_missing") };
    let mut after = before.clone();
    if form.keys().any(|name| name.starts_with("items")) {
        let items = items_after(&before, form, "items");
        let (credit, charge) = prorated(account, before["items"]["data"].as_array().expect("items"), &items);
        if is_unpaid {
            assert_eq!(form["payment_behavior"], "pending_if_incomplete");
            after["pending_update"] = json!({ "expires_at": 4_102_444_800_i64 });
            after["latest_invoice"] =
                json!({ "id": "in_unpaid", "hosted_invoice_url": "https://invoice.stripe.com/i/unpaid" });
        } else {
            after["items"]["data"] = items.into();
            if form["proration_behavior"] == "always_invoice" {
                account.charged.push(credit + charge);
            }
        }
    }
    if let Some(ends) = form.get("cancel_at_period_end") {
        after["cancel_at_period_end"] = (ends == "true").into();
        after["cancel_at"] =
            if ends == "true" { before["items"]["data"][0]["current_period_end"].clone() } else { Value::Null };
    }
    if form.get("cancel_at").is_some_and(String::is_empty) {
        after["cancel_at"] = Value::Null;
    }
    account.subscriptions.insert(id.to_owned(), after.clone());
    (200, after)
}
