//! Values written as JSON text, exactly as answers of the API have them.

use std::collections::BTreeMap;
use std::io::Write as _;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::id::{Id, Identified};

/// A value of the API.
pub trait Json {
    /// Writes the value as JSON.
    fn write(&self, out: &mut Vec<u8>);
}

/// Writes a list; `write` writes one of its items.
pub fn write_list<T>(items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

/// JSON with sorted keys and no spaces: the same text for the same value, for hashes.
#[must_use]
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(object) => {
            let sorted: BTreeMap<&String, &Value> = object.iter().collect();
            text.push('{');
            for (n, (key, value)) in sorted.into_iter().enumerate() {
                if n > 0 {
                    text.push(',');
                }
                text.push_str(&Value::String(key.clone()).to_string());
                text.push(':');
                write_canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

fn serialized<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    let before = out.len();
    // Writing into memory does not fail, and these values have no keys that JSON lacks.
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(before);
        out.extend_from_slice(b"null");
    }
}

macro_rules! as_serde_writes_them {
    ($($type:ty),+) => { $(
        impl Json for $type {
            fn write(&self, out: &mut Vec<u8>) {
                serialized(self, out);
            }
        }
    )+ };
}

as_serde_writes_them!(str, String, i32, i64, f64, serde_json::Number, serde_json::Value);

impl Json for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
    }
}

impl Json for DateTime<Utc> {
    fn write(&self, out: &mut Vec<u8>) {
        self.to_rfc3339().write(out);
    }
}

impl<M: Identified> Json for Id<M> {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        let before = out.len();
        // Writing into memory does not fail.
        if write!(out, "{self}").is_err() {
            out.truncate(before);
        }
        out.push(b'"');
    }
}

impl<T: Json> Json for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.write(out),
            None => out.extend_from_slice(b"null"),
        }
    }
}

impl<T: Json> Json for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) {
        write_list(self, out, T::write);
    }
}

impl<T: Json> Json for &[T] {
    fn write(&self, out: &mut Vec<u8>) {
        write_list(self, out, T::write);
    }
}
