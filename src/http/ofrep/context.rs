//! The body of a request: `{"context": {"targetingKey": …, …}}`.

use std::fmt;

use axum::http::StatusCode;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Failure;

/// The longest targeting key, in bytes: it is hashed for every flag.
const MAX_KEY: usize = 1024;

/// What a request asks with.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Whom the context names; an empty text names nobody.
    pub(super) targeting_key: Option<String>,
}

/// Reads a body. A context that is not there is an empty one: flags that count organizations need none.
pub(super) fn read(body: &[u8]) -> Result<Asked, Failure> {
    let refused = |code, details: &str| Failure::new(StatusCode::BAD_REQUEST, code, details);
    let read: Body = serde_json::from_slice(body).map_err(|error| {
        // The place only: a message may repeat what was sent.
        let place =
            format!("The body is no JSON object with `context` (line {}, column {}).", error.line(), error.column());
        refused("PARSE_ERROR", &place)
    })?;
    match read.0 {
        Member::Absent | Member::Right(Context(Member::Absent)) => Ok(Asked::default()),
        Member::Wrong => Err(refused("INVALID_CONTEXT", "`context` is not an object.")),
        Member::Right(Context(Member::Wrong)) => {
            Err(refused("INVALID_CONTEXT", "`context.targetingKey` is not a text."))
        }
        Member::Right(Context(Member::Right(Key(key)))) if key.len() > MAX_KEY => {
            Err(refused("INVALID_CONTEXT", &format!("`context.targetingKey` is longer than {MAX_KEY} bytes.")))
        }
        Member::Right(Context(Member::Right(Key(key)))) => {
            Ok(Asked { targeting_key: Some(key).filter(|key| !key.is_empty()) })
        }
    }
}

/// A member of an object, which may be of another type than it should. One that is null is absent.
enum Member<T> {
    Absent,
    Wrong,
    Right(T),
}

struct Body(Member<Context>);
struct Context(Member<Key>);
struct Key(String);

/// What is made of a value.
trait Read: Sized {
    /// Of a text.
    fn text(_: &str) -> Option<Self> {
        None
    }

    /// Of an object.
    fn object<'de, A: MapAccess<'de>>(members: A) -> Result<Option<Self>, A::Error> {
        skip(members).map(|()| None)
    }
}

impl Read for Key {
    fn text(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
}

impl Read for Context {
    fn object<'de, A: MapAccess<'de>>(members: A) -> Result<Option<Self>, A::Error> {
        one(members, "targetingKey").map(|key| Some(Self(key)))
    }
}

/// The one member that is read of an object; a second one of that name is refused, because others might read the other.
fn one<'de, A: MapAccess<'de>, T: Read>(mut members: A, name: &'static str) -> Result<Member<T>, A::Error> {
    let mut found = None;
    while let Some(member) = members.next_key::<std::borrow::Cow<'_, str>>()? {
        if member != name {
            members.next_value::<IgnoredAny>()?;
        } else if found.replace(members.next_value()?).is_some() {
            return Err(serde::de::Error::duplicate_field(name));
        }
    }
    Ok(found.unwrap_or(Member::Absent))
}

fn skip<'de, A: MapAccess<'de>>(mut members: A) -> Result<(), A::Error> {
    while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Body;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Body, A::Error> {
                one(members, "context").map(Body)
            }
        }
        deserializer.deserialize_any(Object)
    }
}

impl<'de, T: Read> Deserialize<'de> for Member<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any<T>(std::marker::PhantomData<T>);
        impl<'de, T: Read> Visitor<'de> for Any<T> {
            type Value = Member<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Member<T>, E> {
                Ok(Member::Absent)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Member<T>, E> {
                Ok(Member::Wrong)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Member<T>, E> {
                Ok(Member::Wrong)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Member<T>, E> {
                Ok(Member::Wrong)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Member<T>, E> {
                Ok(Member::Wrong)
            }

            fn visit_str<E>(self, text: &str) -> Result<Member<T>, E> {
                Ok(T::text(text).map_or(Member::Wrong, Member::Right))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Member<T>, A::Error> {
                while elements.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Member::Wrong)
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Member<T>, A::Error> {
                Ok(T::object(members)?.map_or(Member::Wrong, Member::Right))
            }
        }
        deserializer.deserialize_any(Any(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> Result<Option<String>, &'static str> {
        read(body.as_bytes()).map(|asked| asked.targeting_key).map_err(|failure| failure.code)
    }

    #[test]
    fn a_context_names_whom_to_decide_for() {
        let named = |key: &str| Ok(Some(key.to_owned()));
        assert_eq!(
            code(r#"{"context":{"targetingKey":"u-1","email":"a@b.example","deep":[{"a":[1.5,null,true]}]}}"#),
            named("u-1")
        );
        assert_eq!(code(r#"{"other":1,"context":{"a":{"targetingKey":"no"},"targetingKey":"\u00fc"}}"#), named("ü"));
        for empty in [
            "{}",
            r#"{"context":null}"#,
            r#"{"context":{}}"#,
            r#"{"context":{"targetingKey":null}}"#,
            r#"{"context":{"targetingKey":""}}"#,
        ] {
            assert_eq!(code(empty), Ok(None), "{empty}");
        }
    }

    #[test]
    fn other_types_are_invalid_and_no_json_is_told_apart() {
        for wrong in ["1", "\"a\"", "[]", "true", "1.5", "-1"] {
            assert_eq!(code(&format!(r#"{{"context":{wrong}}}"#)), Err("INVALID_CONTEXT"), "{wrong}");
        }
        for wrong in ["1", "[\"a\"]", "{\"a\":{}}", "false", "-1.5e3"] {
            assert_eq!(
                code(&format!(r#"{{"context":{{"targetingKey":{wrong}}}}}"#)),
                Err("INVALID_CONTEXT"),
                "{wrong}"
            );
        }
        let long = format!(r#"{{"context":{{"targetingKey":"{}"}}}}"#, "x".repeat(MAX_KEY + 1));
        assert_eq!(code(&long), Err("INVALID_CONTEXT"));
        let deep = format!(r#"{{"context":{{"a":{}{}}}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(code(&deep).is_ok_and(|key| key.is_none()) || code(&deep) == Err("PARSE_ERROR"));
        let twice = [
            r#"{"context":{},"context":{"targetingKey":"b"}}"#,
            r#"{"context":{"targetingKey":"a","targetingKey":"b"}}"#,
        ];
        for broken in ["", "{", "null", "[]", "\"x\"", "{\"context\":{}} x", "{\"context\":{\"a\":\"\\ud800\"}"]
            .into_iter()
            .chain(twice)
        {
            assert_eq!(code(broken), Err("PARSE_ERROR"), "{broken}");
        }
        assert_eq!(
            read(b"{\"context\":{\"targetingKey\":\"\xff\"}}").map_err(|failure| failure.code),
            Err("PARSE_ERROR")
        );
    }
}
