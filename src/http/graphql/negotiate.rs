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
    /// `application/json` where the newest draft decides: what failed is answered as [`Media::DraftResponse`].
    DraftJson,
    /// `application/graphql-response+json` with the statuses of the newest draft.
    DraftResponse,
}

impl Media {
    /// The header `Content-Type` of an answer with this status.
    pub(super) fn content_type(self, status: StatusCode) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => JSON,
            Self::DraftJson if status.is_success() => JSON,
            Self::GraphqlResponse | Self::DraftJson | Self::DraftResponse => RESPONSE,
        })
    }

    /// The status of an answer without `data`.
    pub(super) fn failed(self, failure: &Failure) -> StatusCode {
        match self {
            // Clients of `application/json` cannot tell our 400 from a proxy's, so 200 is kept for them.
            Self::Json if failure.is_in_document() => StatusCode::OK,
            Self::Json | Self::GraphqlResponse => failure.status(),
            Self::DraftJson | Self::DraftResponse => failure.draft_status(),
        }
    }

    /// The status of an answer with `data`: errors of fields stand in the body, and only the draft has a status for them.
    pub(super) fn executed(self, has_errors: bool) -> StatusCode {
        match StatusCode::from_u16(PARTIAL_SUCCESS) {
            Ok(partial) if has_errors && self == Self::DraftResponse => partial,
            _ => StatusCode::OK,
        }
    }

    /// The same under the newest draft.
    fn draft(self) -> Self {
        match self {
            Self::Json | Self::DraftJson => Self::DraftJson,
            Self::GraphqlResponse | Self::DraftResponse => Self::DraftResponse,
        }
    }
}

const JSON: &str = "application/json; charset=utf-8";
const RESPONSE: &str = "application/graphql-response+json; charset=utf-8";

/// "Partial Success": a status that the draft of GraphQL over HTTP has defined for itself.
const PARTIAL_SUCCESS: u16 = 294;

/// Which edition of GraphQL over HTTP the statuses of answers follow, for clients that do not say.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Statuses {
    /// What the audits of npm `graphql-http` hold servers to: 400 for every wrong document.
    #[default]
    Released,
    /// The draft of August 2026: 422 for wrong documents that can be parsed, 294 for partial success.
    Draft,
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
    /// mean `application/json`, as clients from before that media type expect. `status=draft` behind that media type asks
    /// for the statuses of the newest draft.
    pub(super) fn read(headers: &HeaderMap, statuses: Statuses) -> Option<Self> {
        let ranges: Vec<Range> =
            headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(ranges).collect();
        let under = |media: Media| if statuses == Statuses::Draft { media.draft() } else { media };
        if ranges.is_empty() {
            return Some(Self { whole: Some(under(Media::Json)), events: false });
        }
        let exact = |media: &str| ranges.iter().find(|range| range.media == media).map(|range| range.quality);
        let wild = exact("application/*").or_else(|| exact("*/*"));
        let json = exact("application/json").or(wild).unwrap_or(0.0);
        let response = ranges.iter().filter(|range| range.media == "application/graphql-response+json");
        // Of two ranges that are as good as each other the more specific one counts.
        let response = response.max_by(|a, b| a.quality.total_cmp(&b.quality).then(a.draft.cmp(&b.draft)));
        let whole = match response {
            Some(range) if range.quality > 0.0 && range.quality >= json => {
                Some(if range.draft { Media::DraftResponse } else { under(Media::GraphqlResponse) })
            }
            _ if json > 0.0 => Some(under(Media::Json)),
            _ => None,
        };
        let events = exact("text/event-stream").is_some_and(|quality| quality > 0.0);
        (whole.is_some() || events).then_some(Self { whole, events })
    }
}

/// A media range of `Accept`.
struct Range {
    media: String,
    quality: f32,
    /// Whether the statuses of the newest draft are asked for.
    draft: bool,
}

/// The media ranges of one `Accept` header.
fn ranges(header: &str) -> Vec<Range> {
    let items = header.split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            let mut parts = item.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let mut range = Range { media, quality: 1.0, draft: false };
            for parameter in parts {
                let parameter = parameter.to_ascii_lowercase();
                match parameter.split_once('=').map(|(name, value)| (name, value.trim().trim_matches('"'))) {
                    Some(("q", value)) => range.quality = value.parse().unwrap_or(0.0),
                    // There is no answer in another encoding.
                    Some(("charset", value)) if value != "utf-8" => range.quality = 0.0,
                    Some(("status", "draft")) => range.draft = true,
                    _ => {}
                }
            }
            range
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
        Accept::read(&headers, Statuses::Released).map(|accept| (accept.whole, accept.events))
    }

    #[test]
    fn accepted_media_types() {
        use Media::{DraftResponse, GraphqlResponse, Json};
        let read = |headers| Accept::read(headers, Statuses::Released);
        assert_eq!(read(&HeaderMap::new()), Some(Accept { whole: Some(Json), events: false }));
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
            ("application/graphql-response+json;status=draft", Some((Some(DraftResponse), false))),
            ("application/graphql-response+json; Status=\"draft\";q=0.9", Some((Some(DraftResponse), false))),
            ("application/graphql-response+json;status=other", Some((Some(GraphqlResponse), false))),
            (
                "application/graphql-response+json, application/graphql-response+json;status=draft",
                Some((Some(DraftResponse), false)),
            ),
            (
                "application/graphql-response+json;status=draft, application/graphql-response+json",
                Some((Some(DraftResponse), false)),
            ),
            (
                "application/graphql-response+json, application/graphql-response+json;status=draft;q=0.5",
                Some((Some(GraphqlResponse), false)),
            ),
            ("application/json;status=draft", Some((Some(Json), false))),
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
    fn the_setting_decides_for_clients_that_do_not_say() {
        for (accept, expected) in [
            ("*/*", Media::DraftJson),
            ("application/json", Media::DraftJson),
            ("application/graphql-response+json", Media::DraftResponse),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            let read = Accept::read(&headers, Statuses::Draft).expect("acceptable");
            assert_eq!(read.whole, Some(expected), "{accept}");
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
