//! Media types: GraphQL over HTTP, section 4 "Serialization Format", and RFC 9110, section 12.5.1 "Accept".

use axum::http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};

use super::failure::Failure;
use crate::error::Code;

/// The media types of answers in one piece.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Media {
    /// `application/json`: 200 for every well-formed request.
    Json,
    /// `application/graphql-response+json`: statuses that tell what happened.
    GraphqlResponse,
}

impl Media {
    /// The header `Content-Type`.
    pub(super) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json; charset=utf-8",
            Self::GraphqlResponse => "application/graphql-response+json; charset=utf-8",
        })
    }
}

/// What the client accepts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Accept {
    /// An answer in one piece.
    pub(super) whole: Option<Media>,
    /// A stream of events. Only when the client names `text/event-stream`.
    pub(super) events: bool,
}

impl Accept {
    /// Reads the header. `None` when nothing of what we can send is acceptable.
    ///
    /// Where the client has no preference the media type with meaningful statuses wins, but `*/*` and no header at all
    /// mean `application/json`, as clients from before that media type expect.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let ranges: Vec<(String, f32)> =
            headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(ranges).collect();
        if ranges.is_empty() {
            return Some(Self { whole: Some(Media::Json), events: false });
        }
        let exact = |media: &str| ranges.iter().find(|(range, _)| range == media).map(|(_, quality)| *quality);
        let wild = exact("application/*").or_else(|| exact("*/*"));
        let json = exact("application/json").or(wild).unwrap_or(0.0);
        let response = exact("application/graphql-response+json");
        let whole = match response {
            Some(quality) if quality > 0.0 && quality >= json => Some(Media::GraphqlResponse),
            _ if json > 0.0 => Some(Media::Json),
            _ => None,
        };
        let events = exact("text/event-stream").is_some_and(|quality| quality > 0.0);
        (whole.is_some() || events).then_some(Self { whole, events })
    }
}

/// The media ranges of one `Accept` header with their qualities.
fn ranges(header: &str) -> Vec<(String, f32)> {
    let items = header.split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            let mut parts = item.split(';').map(str::trim);
            let range = parts.next().unwrap_or_default().to_ascii_lowercase();
            let mut quality = 1.0;
            for parameter in parts {
                if let Some(value) = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q=")) {
                    quality = value.trim().parse().unwrap_or(0.0);
                } else if let Some(charset) = parameter.to_ascii_lowercase().strip_prefix("charset=")
                    && charset.trim_matches('"') != "utf-8"
                {
                    // There is no answer in another encoding.
                    quality = 0.0;
                }
            }
            (range, quality)
        })
        .collect()
}

/// Refuses bodies that are not JSON in UTF-8.
///
/// This is also the protection against cross-site request forgery: a page of another site can send forms and plain text
/// with its visitor's browser, but JSON only after the CORS preflight allowed it.
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), Failure> {
    let unsupported =
        |message: String| Failure::request(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::UnsupportedMediaType, message);
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(unsupported("Send the body without Content-Encoding.".to_owned()));
    }
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Err(unsupported("The header `Content-Type: application/json` is missing.".to_owned()));
    };
    let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
    let mut parts = value.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    if !matches!(media, "application/json" | "application/graphql+json") {
        return Err(unsupported("Send the request as `Content-Type: application/json`.".to_owned()));
    }
    for parameter in parts {
        if let Some(charset) = parameter.strip_prefix("charset=")
            && !matches!(charset.trim_matches('"'), "utf-8" | "utf8")
        {
            return Err(unsupported("Send the request in UTF-8.".to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str) -> Option<(Option<Media>, bool)> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_str(value).expect("a header value"));
        Accept::read(&headers).map(|accept| (accept.whole, accept.events))
    }

    #[test]
    fn accepted_media_types() {
        use Media::{GraphqlResponse, Json};
        assert_eq!(Accept::read(&HeaderMap::new()), Some(Accept { whole: Some(Json), events: false }));
        for (value, expected) in [
            ("", Some((Some(Json), false))),
            ("*/*", Some((Some(Json), false))),
            ("application/*", Some((Some(Json), false))),
            ("application/json", Some((Some(Json), false))),
            ("APPLICATION/JSON; charset=UTF-8", Some((Some(Json), false))),
            ("application/graphql-response+json", Some((Some(GraphqlResponse), false))),
            (
                "application/graphql-response+json; charset=utf-8, application/json; charset=utf-8",
                Some((Some(GraphqlResponse), false)),
            ),
            ("application/json, application/graphql-response+json", Some((Some(GraphqlResponse), false))),
            ("application/graphql-response+json;q=0.5, application/json", Some((Some(Json), false))),
            ("application/graphql-response+json;q=0, */*", Some((Some(Json), false))),
            ("application/json;q=0, */*", None),
            ("text/event-stream", Some((None, true))),
            ("application/json, multipart/mixed, text/event-stream", Some((Some(Json), true))),
            ("text/html", None),
            ("application/json; charset=utf-16", None),
            ("application/json;q=nonsense", None),
        ] {
            assert_eq!(accept(value), expected, "{value}");
        }
    }

    #[test]
    fn content_types() {
        let check = |value: &'static str| {
            check_content_type(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))])).is_ok()
        };
        for good in ["application/json", "Application/JSON; charset=\"UTF-8\"", "application/graphql+json"] {
            assert!(check(good), "{good}");
        }
        for bad in [
            "",
            "text/plain",
            "text/plain;application/json",
            "multipart/form-data",
            "application/x-www-form-urlencoded",
            "application/json; charset=latin1",
            "application/graphql",
            "application/jsonp",
        ] {
            assert!(!check(bad), "{bad}");
        }
        assert!(check_content_type(&HeaderMap::new()).is_err());
    }
}
