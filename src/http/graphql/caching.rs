//! Conditional requests: RFC 9110, sections 8.8.3 "`ETag`" and 13.1.2 "`If-None-Match`".

use axum::http::header::IF_NONE_MATCH;
use axum::http::{HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};

use crate::hex::hex;

/// The entity tag of an answer. `form` tells apart what has the same bytes and another meaning, as media types do.
pub(super) fn etag(form: &str, body: &[u8]) -> HeaderValue {
    let digest = Sha256::new().chain_update(form).chain_update([0]).chain_update(body).finalize();
    // Digits and quotes are a header's value.
    HeaderValue::from_str(&format!("\"{}\"", hex(&digest[..16]))).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether the client has the answer already.
pub(super) fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|known| known.to_str().ok());
    known.flat_map(|known| known.split(',')).map(str::trim).any(|known| {
        // The weak comparison: a proxy that compresses weakens the tag.
        known == "*" || known.trim_start_matches("W/").as_bytes() == etag.as_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_weakly() {
        let tag = etag("a", b"body");
        assert_ne!(tag, etag("b", b"body"));
        assert_ne!(tag, etag("a", b"bod"));
        let text = tag.to_str().expect("text");
        let check = |value: &str| {
            is_known(&HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_str(value).expect("a value"))]), &tag)
        };
        for known in [text, "*", &format!("W/{text}"), &format!("\"x\", {text}")] {
            assert!(check(known), "{known}");
        }
        for other in ["", "\"x\"", text.trim_matches('"')] {
            assert!(!check(other), "{other}");
        }
        assert!(!is_known(&HeaderMap::new(), &tag));
    }
}
