//! As much of Stripe as refunds need, and as unreliable: it answers late, twice, with 409, 429 and 500, never, and closes the
//! connection after it has made a refund.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Plainly no key of anybody.
pub const KEY: &str = "sk_test_fake_0000";

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Whim {
    /// It is done and answered.
    Well,
    /// The refund is made with this status.
    Made(&'static str),
    /// It is answered when the test lets go, and nothing is done before.
    HeldBefore,
    /// It is done, and answered when the test lets go.
    HeldAfter,
    /// It is done, and the connection is closed in the middle of the answer.
    Torn,
    /// It is done, and answered after a while.
    Late,
    /// Nothing is done: this status and code, which the key remembers if Stripe would.
    Refused(u16, &'static str),
    /// The same, and when to come again.
    Later(u16, u64),
    /// It is done, and the answer is 500, which the key remembers.
    Lost,
}

#[derive(Default)]
pub struct Account {
    pub payments: BTreeMap<String, Value>,
    /// The newest first, as Stripe lists them.
    pub refunds: Vec<Value>,
    /// What a key was answered with.
    keys: BTreeMap<String, (u16, Value)>,
    /// Keys whose request is being worked on.
    busy: Vec<String>,
    /// Every POST: its key.
    pub posted: Vec<String>,
    /// What becomes of the next POSTs, of the next looks at payments, and of the next lists.
    pub whims: VecDeque<Whim>,
    pub looks: VecDeque<Whim>,
    pub lists: VecDeque<Whim>,
    /// How many requests are held.
    pub held: usize,
}

pub type Shared = Arc<Mutex<Account>>;

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
        let router = Router::new()
            .route("/v1/payment_intents/{id}", get(payment))
            .route("/v1/refunds", post(create).get(list))
            .route("/v1/refunds/{id}", get(one))
            .with_state(server);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, account, gate }
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut Account) -> T) -> T {
        change(&mut self.account.lock().expect("a lock"))
    }

    /// A payment that was received for an organization.
    pub fn pay(&self, id: &str, received: i64, metadata: impl Into<Value>) {
        self.with(|account| {
            let payment = json!({ "id": id, "object": "payment_intent", "amount": received, "amount_received": received, "currency": "usd",
                                  "status": "succeeded", "livemode": false, "metadata": metadata.into() });
            account.payments.insert(id.to_owned(), payment);
        });
    }

    pub fn whim(&self, whim: Whim) {
        self.with(|account| account.whims.push_back(whim));
    }

    /// Waits until a request is held.
    pub async fn holds(&self) {
        for _ in 0..1500 {
            if self.with(|account| account.held > 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nothing is held");
    }

    /// Lets go of all that is held.
    pub fn let_go(&self) {
        self.with(|account| account.held = 0);
        self.gate.send_modify(|count| *count += 1);
    }

    /// The refunds at Stripe that carry our id of a refund, and have not failed.
    pub fn refunds_of(&self, refund: &str) -> Vec<Value> {
        self.with(|account| {
            let ours =
                |object: &&Value| object["metadata"]["tenantry_refund_id"] == refund && object["status"] != "failed";
            account.refunds.iter().filter(ours).cloned().collect()
        })
    }
}

fn error(status: u16, code: &str) -> (u16, Value) {
    let kind = if code == "idempotency_key_in_use" { "idempotency_error" } else { "invalid_request_error" };
    (status, json!({ "error": { "type": kind, "code": code, "message": format!("no: {code}") } }))
}

fn answer((status, body): (u16, Value)) -> Response {
    (StatusCode::from_u16(status).expect("a status"), Json(body)).into_response()
}

/// A key whose request is being worked on, until it is answered or its client is gone.
struct Busy(Shared, String);

impl Busy {
    fn new(account: &Shared, key: &str) -> Self {
        account.lock().expect("a lock").busy.push(key.to_owned());
        Self(Arc::clone(account), key.to_owned())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.lock().expect("a lock").busy.retain(|other| *other != self.1);
    }
}

async fn hold(server: &Server) {
    let mut gate = server.gate.clone();
    gate.mark_unchanged();
    server.account.lock().expect("a lock").held += 1;
    gate.changed().await.ok();
}

async fn wait(server: &Server, whim: Option<Whim>) -> Option<Response> {
    match whim {
        Some(Whim::HeldBefore | Whim::HeldAfter) => hold(server).await,
        Some(Whim::Refused(status, code)) => return Some(answer(error(status, code))),
        _ => {}
    }
    None
}

fn allowed(headers: &HeaderMap) -> bool {
    headers.get("authorization").is_some_and(|value| value == &format!("Bearer {KEY}"))
}

async fn payment(State(server): State<Server>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    let whim = server.account.lock().expect("a lock").looks.pop_front();
    if let Some(refusal) = wait(&server, whim).await {
        return refusal;
    }
    if !allowed(&headers) {
        return answer(error(401, ""));
    }
    let found = server.account.lock().expect("a lock").payments.get(&id).cloned();
    answer(found.map_or_else(|| error(404, "resource_missing"), |found| (200, found)))
}

async fn one(State(server): State<Server>, Path(id): Path<String>) -> Response {
    let account = server.account.lock().expect("a lock");
    let found = account.refunds.iter().find(|refund| refund["id"] == *id).cloned();
    answer(found.map_or_else(|| error(404, "resource_missing"), |found| (200, found)))
}

async fn list(State(server): State<Server>, Query(asked): Query<BTreeMap<String, String>>) -> Response {
    let whim = server.account.lock().expect("a lock").lists.pop_front();
    if let Some(refusal) = wait(&server, whim).await {
        return refusal;
    }
    let account = server.account.lock().expect("a lock");
    let of_it: Vec<&Value> = account
        .refunds
        .iter()
        .filter(|refund| Some(&refund["payment_intent"]) == asked.get("payment_intent").map(|id| json!(id)).as_ref())
        .collect();
    // Three at a time, so that there is more than one page.
    let from = asked
        .get("starting_after")
        .map_or(0, |id| 1 + of_it.iter().position(|refund| refund["id"] == **id).expect("a refund"));
    let page: Vec<&&Value> = of_it.iter().skip(from).take(3).collect();
    answer((200, json!({ "object": "list", "data": page, "has_more": of_it.len() > from + 3, "url": "/v1/refunds" })))
}

/// Makes a refund, unless the payment has not that much left.
fn make(account: &mut Account, form: &BTreeMap<String, String>, status: &str) -> (u16, Value) {
    let payment = form["payment_intent"].clone();
    let amount: i64 = form["amount"].parse().expect("a number");
    let Some(received) = account.payments.get(&payment).and_then(|payment| payment["amount_received"].as_i64()) else {
        return error(404, "resource_missing");
    };
    let given: i64 = account
        .refunds
        .iter()
        .filter(|refund| refund["payment_intent"] == *payment && refund["status"] != "failed")
        .filter_map(|refund| refund["amount"].as_i64())
        .sum();
    if given + amount > received {
        return error(400, "charge_already_refunded");
    }
    let metadata: BTreeMap<&str, &String> = form
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("metadata[")?.strip_suffix(']')?, value)))
        .collect();
    let refund = json!({ "id": format!("re_fake_{}", account.refunds.len() + 1), "object": "refund", "amount": amount, "currency": "usd",
                         "payment_intent": payment, "charge": "ch_fake", "metadata": metadata, "reason": form["reason"], "status": status,
                         "created": 1_893_456_000, "failure_reason": null });
    account.refunds.insert(0, refund.clone());
    (200, refund)
}

async fn create(
    State(server): State<Server>,
    headers: HeaderMap,
    Form(form): Form<BTreeMap<String, String>>,
) -> Response {
    if !allowed(&headers) {
        return answer(error(401, ""));
    }
    let key = headers.get("idempotency-key").expect("a key").to_str().expect("text").to_owned();
    let whim = {
        let mut account = server.account.lock().expect("a lock");
        account.posted.push(key.clone());
        if account.busy.contains(&key) {
            return answer(error(409, "idempotency_key_in_use"));
        }
        if let Some(known) = account.keys.get(&key) {
            return answer(known.clone());
        }
        account.whims.pop_front().unwrap_or(Whim::Well)
    };
    let with = |change: &dyn Fn(&mut Account) -> (u16, Value)| change(&mut server.account.lock().expect("a lock"));
    let done = |status: &str| {
        with(&|account| {
            if let Some(known) = account.keys.get(&key) {
                return known.clone();
            }
            let made = make(account, &form, status);
            account.keys.insert(key.clone(), made.clone());
            made
        })
    };
    match whim {
        Whim::Well => answer(done("succeeded")),
        Whim::Made(status) => answer(done(status)),
        Whim::Late => {
            let made = done("succeeded");
            tokio::time::sleep(Duration::from_millis(700)).await;
            answer(made)
        }
        Whim::HeldBefore => {
            let _busy = Busy::new(&server.account, &key);
            hold(&server).await;
            answer(done("succeeded"))
        }
        Whim::HeldAfter => {
            let _busy = Busy::new(&server.account, &key);
            let made = done("succeeded");
            hold(&server).await;
            answer(made)
        }
        Whim::Torn => {
            done("succeeded");
            let broken = stream::iter([Ok(Bytes::from_static(b"{\"id\"")), Err(std::io::Error::other("closed"))]);
            Response::builder().header("content-length", "4000").body(Body::from_stream(broken)).expect("an answer")
        }
        Whim::Refused(status, code) => {
            let refused = error(status, code);
            if status != 409 && status != 429 {
                server.account.lock().expect("a lock").keys.insert(key, refused.clone());
            }
            answer(refused)
        }
        Whim::Later(status, seconds) => {
            let mut refused = answer(error(status, "rate_limit"));
            refused.headers_mut().insert("retry-after", seconds.to_string().parse().expect("a number"));
            refused
        }
        Whim::Lost => {
            done("succeeded");
            let lost = error(500, "");
            server.account.lock().expect("a lock").keys.insert(key, lost.clone());
            answer(lost)
        }
    }
}
