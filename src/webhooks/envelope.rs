//! Reads the envelope of an event: the few members that say what the event is and what it is about. The rest of the
//! body, a list of a million elements for instance, is checked to be JSON and skipped.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// How deep objects are kept: `data.object.id` is on the third level.
const DEPTH: u8 = 3;
/// The members that are kept.
const KEPT: &[&str] = &["id", "type", "created", "timestamp", "data", "object", "customer", "related_object"];

/// The envelope of a body; `None` when the body is not JSON.
pub(super) fn envelope(body: &[u8]) -> Option<Value> {
    // serde_json does not check the UTF-8 of strings that it skips. JSON is UTF-8 (RFC 8259, section 8.1).
    let mut deserializer = serde_json::Deserializer::from_str(std::str::from_utf8(body).ok()?);
    let value = Depth(DEPTH).deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(value)
}

struct Depth(u8);

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        if self.0 == 0 {
            while access.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        }
        while let Some(Key(kept)) = access.next_key()? {
            match kept {
                // The last of several members with one name wins, as in most JSON readers.
                Some(name) => drop(members.insert(name.to_owned(), access.next_value_seed(Depth(self.0 - 1))?)),
                None => drop(access.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        while access.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(Vec::new()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }
    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }
    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

/// The name of a member, if it is one that is kept.
struct Key(Option<&'static str>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Key, E> {
                Ok(Key(KEPT.iter().find(|kept| **kept == name).copied()))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn envelope_is_kept_and_the_rest_is_checked() {
        let body = br#"{"id":"evt_1","x":[1,{"id":2}],"data":{"object":{"id":"sub_1","object":"subscription","data":{"id":{}}}},"created":7,"created":8,"type":null}"#;
        let kept = json!({ "id": "evt_1", "data": { "object": { "id": "sub_1", "object": "subscription", "data": {} } }, "created": 8, "type": null });
        assert_eq!(envelope(body), Some(kept));
        assert_eq!(envelope(b"[1, 2]"), Some(json!([])));
        assert_eq!(envelope(b"null"), Some(json!(null)));
        for bad in [b"".as_slice(), b"{", b"{}x", b"{\"a\":\xff}", b"{\"a\":\"\xff\"}", b"{'a':1}", b"{\"id\":1,}"] {
            assert_eq!(envelope(bad), None, "{}", String::from_utf8_lossy(bad));
        }
        // The sender controls neither our stack nor our memory.
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(400_000), "]".repeat(400_000));
        assert_eq!(envelope(deep.as_bytes()), Some(json!({})));
        let deep = format!("{}{}", "{\"data\":".repeat(100_000), "}".repeat(100_000));
        assert_eq!(envelope(deep.as_bytes()), None);
        let long = format!("{{\"id\":\"a\",\"x\":[{}0]}}", "0,".repeat(500_000));
        assert_eq!(envelope(long.as_bytes()), Some(json!({ "id": "a" })));
    }
}
