//! `GraphiQL` at `/`, from this origin and without the internet.
//!
//! `build.rs` embeds the pinned npm packages; our own page, script and style are in `web/`. Every
//! asset has the hash of its content in its address, so browsers keep it for good; the page itself
//! is made anew for each request, because its Content-Security-Policy carries a nonce. In a build
//! without npm the same versions come from a public CDN, under their integrity hashes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Response, StatusCode};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use self::embedded::{EMBEDDED, VENDOR};

mod embedded {
    use super::Vendor;

    include!(concat!(env!("OUT_DIR"), "/graphiql_assets.rs"));
}

const PAGE: &str = include_str!("../../web/graphiql.html");

/// Ours; in the page they come after the packages' files.
const OWN: &[(&str, &[u8])] = &[
    ("favicon.svg", include_bytes!("../../web/favicon.svg")),
    ("tenantry.css", include_bytes!("../../web/graphiql.css")),
    ("tenantry.js", include_bytes!("../../web/graphiql.js")),
];

/// A file of an npm package; a row of the table that `build.rs` writes.
struct Vendor {
    name: &'static str,
    /// First 64 bits of the SHA-256 of `gz`, in hex.
    hash: &'static str,
    /// Empty when the build embeds nothing.
    gz: &'static [u8],
    /// Where a public CDN has the same bytes.
    url: &'static str,
    /// Subresource integrity of what is at `url`.
    integrity: &'static str,
}

/// What the page offers.
#[derive(Clone, Copy, Debug)]
pub struct GraphiqlOptions {
    /// Development: the page offers the personas of `/dev/personas` and gets their tokens from
    /// `/dev/token`. Otherwise it asks for a token.
    pub personas: bool,
}

/// `GET /` and `GET /graphiql/{asset}`.
pub fn router<S: Clone + Send + Sync + 'static>(page: GraphiqlOptions) -> Router<S> {
    Router::new()
        .route("/", get(show_page))
        .route("/graphiql/{asset}", get(show_asset))
        .with_state(Arc::new(Site::new(page)))
}

struct Site {
    html: String,
    csp: String,
    assets: HashMap<String, Asset>,
}

struct Asset {
    content_type: &'static str,
    etag: HeaderValue,
    gz: Cow<'static, [u8]>,
}

/// Stands for the nonce of a request, in [`PAGE`] and in [`Site::csp`].
const NONCE: &str = "{nonce}";

impl Site {
    fn new(page: GraphiqlOptions) -> Self {
        let mut assets = HashMap::new();
        let mut head = String::new();
        let mut favicon = String::new();
        for file in VENDOR {
            if EMBEDDED {
                let url = add(&mut assets, file.name, file.hash, Cow::Borrowed(file.gz));
                head += &element(file.name, &url, "");
            } else {
                let integrity = file.integrity;
                let attributes = format!(r#" integrity="{integrity}" crossorigin="anonymous""#);
                head += &element(file.name, file.url, &attributes);
            }
        }
        for &(name, bytes) in OWN {
            let gz = gzip(bytes);
            let mut hash = String::new();
            for byte in Sha256::digest(&gz).iter().take(8) {
                let _ = write!(hash, "{byte:02x}");
            }
            let url = add(&mut assets, name, &hash, Cow::Owned(gz));
            head += &element(name, &url, "");
            if extension(name) == "svg" {
                favicon = url;
            }
        }
        let personas = if page.personas { "on" } else { "off" };
        let html =
            PAGE.replace("{personas}", personas).replace("{favicon}", &favicon).replace("<!-- assets -->", head.trim());
        Self { html, csp: content_security_policy(), assets }
    }
}

fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// Adds an asset under an address that changes with its content.
fn add(assets: &mut HashMap<String, Asset>, name: &str, hash: &str, gz: Cow<'static, [u8]>) -> String {
    let extension = extension(name);
    let content_type = match extension {
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    };
    // Weak, because one tag stands for the compressed and the plain form.
    let etag = HeaderValue::try_from(format!("W/\"{hash}\"")).unwrap_or(HeaderValue::from_static("W/\"\""));
    let key = format!("{}{hash}.{extension}", name.strip_suffix(extension).unwrap_or(name));
    let url = format!("/graphiql/{key}");
    let asset = Asset { content_type, etag, gz };
    assets.insert(key, asset);
    url
}

/// How the page's head refers to an asset.
fn element(name: &str, url: &str, attributes: &str) -> String {
    let element = match extension(name) {
        "css" => format!(r#"<link rel="stylesheet" href="{url}"{attributes}>"#),
        "js" => format!(r#"<script defer src="{url}"{attributes}></script>"#),
        "svg" => format!(r#"<link rel="icon" type="image/svg+xml" href="{url}">"#),
        _ => format!(r#"<link rel="license" href="{url}">"#),
    };
    element + "\n    "
}

fn content_security_policy() -> String {
    // Beyond this origin: nothing, or the exact files of the CDN.
    let cdn = |kind: &str| -> String {
        let files = VENDOR.iter().filter(|file| !EMBEDDED && extension(file.name) == kind);
        files.flat_map(|file| [" ", file.url]).collect()
    };
    [
        "default-src 'none'",
        &format!("script-src 'self'{}", cdn("js")),
        // GraphiQL's dialogs and menus insert a <style> element, which carries the page's nonce.
        // React and CodeMirror set styles through the DOM, which the policy does not govern:
        // 'unsafe-inline' is not needed.
        &format!("style-src 'self' 'nonce-{NONCE}'{}", cdn("css")),
        // The cursors and fonts of GraphiQL's style sheet are data: URLs.
        "img-src 'self' data:",
        "font-src 'self' data:",
        // Covers the WebSocket of this host.
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    .join("; ")
}

async fn show_page(State(site): State<Arc<Site>>) -> impl IntoResponse {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let headers = [
        (header::CONTENT_SECURITY_POLICY, site.csp.replace(NONCE, &nonce)),
        // No ETag: a 304 would pair the new nonce of its policy with the old one of the kept page.
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin".to_owned()),
    ];
    (headers, Html(site.html.replace(NONCE, &nonce)))
}

async fn show_asset(State(site): State<Arc<Site>>, Path(name): Path<String>, request: HeaderMap) -> Response<Body> {
    let Some(asset) = site.assets.get(&name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let mut headers = HeaderMap::new();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CACHE_CONTROL, "public, max-age=31536000, immutable");
    set(header::VARY, "Accept-Encoding");
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::CONTENT_SECURITY_POLICY, "default-src 'none'");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    headers.insert(header::ETAG, asset.etag.clone());
    if is_current(&request, &asset.etag) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }

    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    if accepts_gzip(&request) {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        return match &asset.gz {
            Cow::Borrowed(gz) => (headers, *gz).into_response(),
            Cow::Owned(gz) => (headers, gz.clone()).into_response(),
        };
    }
    let mut plain = Vec::new();
    match GzDecoder::new(asset.gz.as_ref()).read_to_end(&mut plain) {
        Ok(_) => (headers, plain).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Whether `If-None-Match` names the tag (weak comparison, RFC 9110 section 13.1.2).
fn is_current(request: &HeaderMap, etag: &HeaderValue) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let Ok(etag) = etag.to_str() else {
        return false;
    };
    request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || opaque(tag) == opaque(etag))
}

/// Whether `Accept-Encoding` allows gzip (RFC 9110 section 12.5.3).
fn accepts_gzip(request: &HeaderMap) -> bool {
    let mut any = false;
    for value in request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()) {
        for item in value.split(',') {
            let (coding, parameters) = item.split_once(';').unwrap_or((item, ""));
            let weight = parameters.trim().strip_prefix("q=").and_then(|q| q.trim().parse::<f32>().ok()).unwrap_or(1.0);
            match coding.trim().to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => return weight > 0.0,
                "*" => any = weight > 0.0,
                _ => {}
            }
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    fn request(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn gzip_is_negotiated() {
        for (value, expected) in [
            ("gzip", true),
            ("gzip, deflate, br, zstd", true),
            ("br;q=1.0, GZIP;q=0.5", true),
            ("*", true),
            ("*;q=0", false),
            ("gzip;q=0, *", false),
            ("*;q=0, gzip", true),
            ("br", false),
            ("identity", false),
            ("", false),
        ] {
            assert_eq!(accepts_gzip(&request(header::ACCEPT_ENCODING, value)), expected, "{value:?}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn tags_are_compared_weakly() {
        let etag = HeaderValue::from_static("W/\"abc\"");
        for (value, expected) in
            [("W/\"abc\"", true), ("\"abc\"", true), ("\"x\", W/\"abc\"", true), ("*", true), ("\"ab\"", false)]
        {
            assert_eq!(is_current(&request(header::IF_NONE_MATCH, value), &etag), expected, "{value:?}");
        }
    }

    #[tokio::test]
    async fn assets_are_compressed_and_kept() {
        let site = Arc::new(Site::new(GraphiqlOptions { personas: true }));
        assert!(!site.assets.is_empty());
        for name in site.assets.keys() {
            let ask = |request| show_asset(State(site.clone()), Path(name.clone()), request);
            let body = async |answer: Response<Body>| {
                to_bytes(answer.into_body(), usize::MAX).await.expect("a body in memory")
            };

            let plain = ask(HeaderMap::new()).await;
            assert_eq!(plain.status(), StatusCode::OK);
            assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
            let etag = plain.headers()[header::ETAG].clone();
            let compressed = ask(request(header::ACCEPT_ENCODING, "gzip")).await;
            assert_eq!(compressed.headers()[header::CONTENT_ENCODING], "gzip");
            assert_eq!(compressed.headers()[header::VARY], "Accept-Encoding");
            let (plain, compressed) = (body(plain).await, body(compressed).await);
            assert!(compressed.len() < plain.len(), "{name}");
            assert!(!plain.is_empty(), "{name}");

            let again = ask(HeaderMap::from_iter([(header::IF_NONE_MATCH, etag)])).await;
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
            assert!(body(again).await.is_empty());
        }
        let name = "react.js".to_owned();
        let missing = show_asset(State(site), Path(name), HeaderMap::new()).await;
        assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn every_page_has_a_nonce_of_its_own() {
        let site = Arc::new(Site::new(GraphiqlOptions { personas: false }));
        let mut policies = Vec::new();
        for _ in 0..2 {
            let page = show_page(State(site.clone())).await.into_response();
            let policy = page.headers()[header::CONTENT_SECURITY_POLICY].clone();
            let policy = policy.to_str().expect("ASCII").to_owned();
            let nonce = policy.split("'nonce-").nth(1).and_then(|it| it.split('\'').next());
            let nonce = nonce.expect("a nonce in the policy").to_owned();
            let html = to_bytes(page.into_body(), usize::MAX).await.expect("a body in memory");
            let html = String::from_utf8_lossy(&html).into_owned();
            assert!(html.contains(&nonce), "{html}");
            assert!(html.contains(r#"name="tenantry-personas" content="off""#));
            policies.push(policy);
        }
        assert_ne!(policies[0], policies[1]);
    }

    #[test]
    fn the_page_is_complete() {
        let site = Site::new(GraphiqlOptions { personas: true });
        assert!(!site.html.contains("<!-- "), "a placeholder is left: {}", site.html);
        assert_eq!(site.html.matches('{').count(), 1, "only the nonce is filled in later: {}", site.html);
        assert!(site.html.contains(r#"name="tenantry-personas" content="on""#));
        assert!(!site.csp.contains("unsafe"), "{}", site.csp);
        let outside = ["http:", "https:", "//"].iter().any(|it| site.html.contains(it) || site.csp.contains(it));
        assert_eq!(outside, !EMBEDDED, "an embedded page names no other origin");
        let integrity = site.html.matches("integrity=\"sha384-").count();
        assert_eq!(integrity, if EMBEDDED { 0 } else { VENDOR.len() });
        for name in site.html.split("/graphiql/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(site.assets.contains_key(name), "{name} is in the page but not served");
        }
    }
}
