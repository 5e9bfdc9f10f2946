//! The messages of OTLP, as far as spans need them, in the binary form of Protocol Buffers. Fields have the numbers of `trace.proto`
//! and `common.proto`.

use std::time::Duration;

use crate::telemetry::trace::{Ended, Value};

/// The conventions that the names of attributes follow.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.43.0";

/// `ExportTraceServiceRequest` of one process's spans.
pub(super) fn encode(resource: &[(String, String)], spans: &[Ended]) -> Vec<u8> {
    let mut scope_spans = Vec::with_capacity(spans.len() * 256);
    let mut scope = Vec::new();
    bytes(&mut scope, 1, b"tenantry");
    bytes(&mut scope, 2, env!("CARGO_PKG_VERSION").as_bytes());
    bytes(&mut scope_spans, 1, &scope);
    for span in spans {
        bytes(&mut scope_spans, 2, &encode_span(span));
    }
    bytes(&mut scope_spans, 3, SCHEMA.as_bytes());

    let mut attributes = Vec::new();
    for (name, value) in resource {
        attribute(&mut attributes, 1, name, &Value::from(value.clone()));
    }
    let mut resource_spans = Vec::with_capacity(scope_spans.len() + attributes.len() + 16);
    bytes(&mut resource_spans, 1, &attributes);
    bytes(&mut resource_spans, 2, &scope_spans);
    let mut request = Vec::with_capacity(resource_spans.len() + 8);
    bytes(&mut request, 1, &resource_spans);
    request
}

/// `Span`; the numbers are those of `trace.proto`.
fn encode_span(span: &Ended) -> Vec<u8> {
    const SAMPLED: u32 = 0x1;
    const KNOWS_PARENT: u32 = 0x100;
    const PARENT_IS_REMOTE: u32 = 0x200;
    let mut out = Vec::with_capacity(256);
    bytes(&mut out, 1, &span.trace.0.to_be_bytes());
    bytes(&mut out, 2, &span.id.0.to_be_bytes());
    if let Some(parent) = span.parent {
        bytes(&mut out, 4, &parent.0.to_be_bytes());
    }
    bytes(&mut out, 5, span.name.as_bytes());
    number(&mut out, 6, span.kind as u64);
    time(&mut out, 7, span.start);
    time(&mut out, 8, span.end);
    for (name, value) in &span.attributes {
        attribute(&mut out, 9, name, value);
    }
    if span.failed {
        let mut status = Vec::new();
        number(&mut status, 3, 2);
        bytes(&mut out, 15, &status);
    }
    let flags = SAMPLED | KNOWS_PARENT | if span.is_remote { PARENT_IS_REMOTE } else { 0 };
    key(&mut out, 16, 5);
    out.extend_from_slice(&flags.to_le_bytes());
    out
}

/// `KeyValue` with its `AnyValue`.
fn attribute(out: &mut Vec<u8>, field: u64, name: &str, value: &Value) {
    let mut any = Vec::new();
    match value {
        Value::Text(text) => bytes(&mut any, 1, text.as_bytes()),
        Value::Count(count) => number(&mut any, 3, count.cast_unsigned()),
    }
    let mut pair = Vec::new();
    bytes(&mut pair, 1, name.as_bytes());
    bytes(&mut pair, 2, &any);
    bytes(out, field, &pair);
}

/// A field's number and the form of its value (Protocol Buffers, "Encoding").
fn key(out: &mut Vec<u8>, field: u64, form: u64) {
    varint(out, field << 3 | form);
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

pub(super) fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    key(out, field, 0);
    varint(out, value);
}

/// A text, bytes or a message.
pub(super) fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn time(out: &mut Vec<u8>, field: u64, since_epoch: Duration) {
    key(out, field, 1);
    out.extend_from_slice(&u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
}
