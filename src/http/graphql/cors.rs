//! Cross-origin requests from the origins of an allow-list: Fetch Standard, section 3.3 "CORS protocol".
//!
//! Credentials are bearer tokens that a page must hold itself; cookies are not used, so none are allowed across origins.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::http::Edge;

const HEADERS: &str = "accept, apollo-require-preflight, apollographql-client-name, apollographql-client-version, authorization, cache-control, content-type, graphql-client-name, graphql-client-version, graphql-cost, graphql-require-preflight, if-none-match, last-event-id, traceparent, tracestate, x-api-key, x-graphql-client-name, x-graphql-client-version, x-graphql-event-stream-token, x-organization-id, x-request-id";
const EXPOSED: &str =
    "accept-query, allow, etag, ratelimit, ratelimit-policy, retry-after, server-timing, x-request-id";

/// Answers preflight requests and marks the answers that other origins may read.
pub async fn cors(State(edge): State<Arc<Edge>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(ORIGIN).filter(|origin| is_listed(&edge.settings.cors_origins, origin)).cloned();
    let preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    // Caches must keep the answers for different origins apart, those for unlisted ones included.
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if preflight {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, QUERY, PUT, DELETE"));
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
        } else {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }
    response
}

/// Whether the list has the origin, exactly, or allows all with `*`.
fn is_listed(list: &[String], origin: &HeaderValue) -> bool {
    list.iter().any(|listed| listed == "*" || listed.as_bytes() == origin.as_bytes())
}

/// Whether a WebSocket may be opened: CORS does not apply to them, so the server must look at the origin itself.
///
/// Programs that are not browsers send no origin.
pub(super) fn may_open_socket(list: &[String], headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    is_listed(list, origin) || is_own(origin, headers.get(HOST))
}

fn is_own(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let (Ok(origin), Some(Ok(host))) = (origin.to_str(), host.map(HeaderValue::to_str)) else { return false };
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = if scheme == "https" { ":443" } else { ":80" };
    let plain = |authority: &str| {
        let authority = authority.to_ascii_lowercase();
        authority.strip_suffix(default_port).map(str::to_owned).unwrap_or(authority)
    };
    plain(authority) == plain(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_open_from_the_own_host_and_listed_origins_only() {
        let list = ["https://app.example.com".to_owned()];
        let check = |origin: Option<&'static str>, host: &'static str| {
            let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            if let Some(origin) = origin {
                headers.insert(ORIGIN, HeaderValue::from_static(origin));
            }
            may_open_socket(&list, &headers)
        };
        assert!(check(None, "api.example.com"));
        assert!(check(Some("https://app.example.com"), "api.example.com"));
        assert!(check(Some("https://api.example.com"), "api.example.com:443"));
        assert!(check(Some("http://localhost:8080"), "localhost:8080"));
        for evil in
            ["https://evil.example", "null", "https://app.example.com.evil.example", "http://localhost:8081", ""]
        {
            assert!(!check(Some(evil), "localhost:8080"), "{evil}");
        }
    }
}
