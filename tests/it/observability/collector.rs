//! A collector of traces, which reads what it is sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::post;
use bytes::Bytes;
use tenantry::hex::hex;

/// A field of a message of Protocol Buffers: its number, and its value as bytes or as a number.
type Fields = Vec<(u64, Vec<u8>, u64)>;

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for place in 0.. {
        let (first, rest) = bytes.split_first().expect("a number");
        *bytes = rest;
        number |= u64::from(first & 0x7f) << (7 * place);
        if first & 0x80 == 0 {
            break;
        }
    }
    number
}

fn fields(mut bytes: &[u8]) -> Fields {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                fields.push((key >> 3, Vec::new(), varint(&mut bytes)));
                continue;
            }
            1 => 8,
            5 => 4,
            2 => usize::try_from(varint(&mut bytes)).expect("a length"),
            other => panic!("no form {other}"),
        };
        let (value, rest) = bytes.split_at(length);
        fields.push((key >> 3, value.to_vec(), 0));
        bytes = rest;
    }
    fields
}

fn all(message: &[u8], number: u64) -> Vec<Vec<u8>> {
    fields(message).into_iter().filter(|(known, ..)| *known == number).map(|(_, value, _)| value).collect()
}

fn one(message: &[u8], number: u64) -> Vec<u8> {
    all(message, number).into_iter().next().unwrap_or_default()
}

/// A span, as the collector has it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    pub kind: u64,
    pub failed: bool,
    pub attributes: BTreeMap<String, String>,
    pub nanoseconds: [u64; 2],
}

impl Seen {
    fn read(span: &[u8]) -> Self {
        let text = |number| String::from_utf8(one(span, number)).expect("text");
        let time = |number| u64::from_le_bytes(one(span, number).try_into().expect("eight bytes"));
        let number = |message: &[u8], wanted| {
            fields(message).into_iter().find(|(known, ..)| *known == wanted).map_or(0, |(_, _, number)| number)
        };
        let pairs = all(span, 9);
        let attributes = pairs.iter().map(|pair| {
            let value = one(pair, 2);
            let text = String::from_utf8(one(&value, 1)).expect("text");
            let value = if text.is_empty() { number(&value, 3).to_string() } else { text };
            (String::from_utf8(one(pair, 1)).expect("text"), value)
        });
        Self {
            trace: hex(&one(span, 1)),
            id: hex(&one(span, 2)),
            parent: hex(&one(span, 4)),
            name: text(5),
            kind: number(span, 6),
            failed: number(&one(span, 15), 3) == 2,
            attributes: attributes.collect(),
            nanoseconds: [time(7), time(8)],
        }
    }
}

/// A collector of traces.
#[derive(Clone, Default)]
pub struct Collector {
    bodies: Arc<Mutex<Vec<Bytes>>>,
    heads: Arc<Mutex<Vec<HeaderMap>>>,
    pub url: String,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let collector = Self { url, ..Self::default() };
        let here = collector.clone();
        let take = move |headers: HeaderMap, body: Bytes| {
            here.heads.lock().expect("heads").push(headers);
            here.bodies.lock().expect("bodies").push(body);
            std::future::ready(())
        };
        let router = Router::new().route("/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        collector
    }

    pub fn bodies(&self) -> Vec<Bytes> {
        self.bodies.lock().expect("bodies").clone()
    }

    /// Of the first request.
    pub fn head(&self) -> HeaderMap {
        self.heads.lock().expect("heads").first().expect("a request").clone()
    }

    pub fn spans(&self) -> Vec<Seen> {
        let bodies = self.bodies();
        let scopes = bodies.iter().flat_map(|body| all(body, 1)).flat_map(|resource| all(&resource, 2));
        scopes.flat_map(|scope| all(&scope, 2)).map(|span| Seen::read(&span)).collect()
    }

    /// Waits for the root of a trace, which comes last.
    pub async fn trace(&self, trace: &str) -> Vec<Seen> {
        let root = |span: &Seen| span.trace == trace && span.attributes.contains_key("http.request.method");
        let mut spans = self.until(root).await;
        spans.retain(|span| span.trace == trace);
        spans
    }

    /// Waits for such a span, and gives what came until then.
    pub async fn until(&self, is_it: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        for _ in 0..1_000 {
            let spans = self.spans();
            if spans.iter().any(&is_it) {
                return spans;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it is not among {:#?}", self.spans());
    }
}
