//! Reads payloads tolerantly: a field that is missing, of another type or out of range reads as nothing.
//!
//! What is read can be stored: no NUL, which `PostgreSQL` cannot store, and nothing longer than its column. A verified
//! event must not fail forever because of one odd string.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::hex::hex;
pub(crate) use crate::organizations::slug;

/// Most characters of an id at a provider, as in the columns.
const ID_CHARS: usize = 255;
/// 2200-01-01 in seconds. Later moments are taken for errors: they must not freeze a row until then.
const LATEST_SECONDS: i64 = 7_258_118_400;

/// The value at a path of keys.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |value, key| &value[*key])
}

/// A trimmed text without NUL, cut to so many characters; none when it is empty.
pub(crate) fn text(value: &Value, max_chars: usize) -> Option<String> {
    clean(value.as_str()?, max_chars)
}

/// See [`text`].
pub(crate) fn clean(text: &str, max_chars: usize) -> Option<String> {
    let cleaned: String = text.trim().chars().filter(|c| *c != '\0').take(max_chars).collect();
    let cleaned = cleaned.trim();
    (!cleaned.is_empty()).then(|| cleaned.to_owned())
}

/// An id at the provider: a text, or the `id` of an expanded object. An id that no column can store is none.
pub(crate) fn id(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value["id"].as_str())?;
    let usable = !text.is_empty() && text.chars().count() <= ID_CHARS && !text.chars().any(char::is_control);
    usable.then(|| text.to_owned())
}

/// Seconds since 1970, between 1970 and 2200.
pub(crate) fn seconds(value: &Value) -> Option<i64> {
    whole(value).filter(|seconds| (0..LATEST_SECONDS).contains(seconds))
}

/// Milliseconds since 1970, between 1970 and 2200.
pub(crate) fn millis(value: &Value) -> Option<i64> {
    whole(value).filter(|millis| (0..LATEST_SECONDS * 1000).contains(millis))
}

/// The moment of so many milliseconds.
pub(crate) fn moment_of_millis(millis: Option<i64>) -> Option<DateTime<Utc>> {
    millis.and_then(DateTime::from_timestamp_millis)
}

/// The moment of so many seconds.
pub(crate) fn moment_of_seconds(seconds: Option<i64>) -> Option<DateTime<Utc>> {
    seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0))
}

/// A whole number; `1.0` and numbers beyond 64 bits are none.
pub(crate) fn whole(value: &Value) -> Option<i64> {
    value.as_i64()
}

/// An e-mail address that the column takes.
pub(crate) fn email(value: &Value) -> Option<String> {
    text(value, 320).filter(|text| text.contains('@') && text.chars().count() >= 3)
}

/// A unique slug: with a mark derived from the id.
pub(crate) fn slug_with_mark(slug: &str, id: &str) -> String {
    let mark = fingerprint(id);
    let kept: String = slug.chars().take(63 - 1 - mark.len()).collect();
    format!("{}-{mark}", kept.trim_end_matches('-'))
}

/// Ten hexadecimal digits derived from the text.
pub(crate) fn fingerprint(text: &str) -> String {
    let mut digits = hex(&Sha256::digest(text.as_bytes()));
    digits.truncate(10);
    digits
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_fit_their_columns() {
        assert_eq!(text(&json!(" a\0b "), 200).as_deref(), Some("ab"));
        assert_eq!(text(&json!("x".repeat(1 << 20)), 200).map(|text| text.len()), Some(200));
        assert_eq!(text(&json!("ü".repeat(300)), 200).map(|text| text.chars().count()), Some(200));
        for nothing in [json!(null), json!(""), json!(" \0 "), json!(1), json!([]), json!({})] {
            assert_eq!(text(&nothing, 200), None, "{nothing}");
        }
    }

    #[test]
    fn ids_are_texts_or_expanded_objects() {
        assert_eq!(id(&json!("cus_1")).as_deref(), Some("cus_1"));
        assert_eq!(id(&json!({ "id": "cus_1", "object": "customer" })).as_deref(), Some("cus_1"));
        assert_eq!(id(&json!("it's \"quoted\"; --")).as_deref(), Some("it's \"quoted\"; --"));
        for none in [json!(""), json!("a\0b"), json!("x".repeat(256)), json!(7), json!(null), json!({ "id": 7 })] {
            assert_eq!(id(&none), None, "{none}");
        }
    }

    #[test]
    fn moments_are_within_reason() {
        assert_eq!(seconds(&json!(1_700_000_000)), Some(1_700_000_000));
        for none in [json!(-1), json!(i64::MAX), json!(u64::MAX), json!(1e300), json!("1"), json!(1.5), json!(null)] {
            assert_eq!((seconds(&none), millis(&none)), (None, None), "{none}");
        }
    }

    #[test]
    fn slugs_hold_what_their_column_checks() {
        for (from, to) in [
            ("Acme Corp", "acme-corp"),
            ("John's Workspace", "johns-workspace"),
            ("--Ünïcode  & Söhne--", "n-code-s-hne"),
            ("a_b__c", "a-b-c"),
        ] {
            assert_eq!(slug(from).as_deref(), Some(to));
        }
        assert_eq!(slug("日本"), None);
        let long = slug(&"a-".repeat(100)).expect("a slug");
        assert!(long.len() <= 63 && !long.ends_with('-'), "{long}");
        let marked = slug_with_mark(&"a-".repeat(31), "org_1");
        assert!(marked.len() <= 63 && !marked.contains("--"), "{marked}");
    }
}
