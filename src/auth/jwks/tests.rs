use std::future::Future;

use chrono::TimeDelta;
use serde_json::json;

use super::*;
use crate::auth::testing::{KeyServer, Kind, TempDir, TestKey, document};
use crate::auth::verify::{AuthSettings, Verifier};
use crate::clock::Clock;

fn verifier(source: KeySource, pace: Pace) -> Verifier {
    let settings = AuthSettings {
        source,
        issuer: None,
        audience: Vec::new(),
        authorized_parties: Vec::new(),
        oauth_clients: Vec::new(),
        impersonation: crate::access::Impersonation::Off,
    };
    Verifier::with_pace(settings, Clock::System, pace).expect("a verifier")
}

/// Fast where waiting is tested; nothing else than what is tested may come into its way.
fn pace() -> Pace {
    Pace { back_off: Duration::from_hours(1), back_off_limit: Duration::from_hours(1), ..Pace::default() }
}

fn token(key: &TestKey) -> String {
    key.sign(
        &json!({ "sub": "user_1", "sid": "sess_1", "exp": (Clock::System.now() + TimeDelta::hours(1)).timestamp() }),
    )
}

async fn code(verifier: &Verifier, key: &TestKey) -> &'static str {
    match verifier.verify(&token(key)).await {
        Ok(_) => "OK",
        Err(error) => error.code().as_str(),
    }
}

/// Waits for a condition that the background brings about.
async fn until<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    for _ in 0..400 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen within 4 seconds");
}

#[tokio::test]
async fn a_rotation_is_followed_with_one_request_however_many_ask() {
    let (old, new) = (TestKey::new(Kind::Ed, "old"), TestKey::new(Kind::Rsa, "new"));
    let server = KeyServer::start(&document(&[&old])).await;
    let verifier = Arc::new(verifier(KeySource::Url(server.url()), pace()));
    assert_eq!(code(&verifier, &old).await, "OK");
    assert_eq!(server.requests(), 1, "the fetch at the start and the first use are one");

    server.serve("200 OK", &document(&[&old, &new]));
    server.delay(Duration::from_millis(100));
    let token = Arc::new(token(&new));
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let (verifier, token) = (Arc::clone(&verifier), Arc::clone(&token));
            tokio::spawn(async move { verifier.verify(&token).await.is_ok() })
        })
        .collect();
    for caller in callers {
        assert!(caller.await.expect("no panic"), "everybody who waited is let in");
    }
    assert_eq!(server.requests(), 2);

    // Now anybody's invention: no request more, and no wait for the server's delay.
    server.delay(Duration::from_secs(3));
    let started = Instant::now();
    for n in 0..100 {
        let unknown = TestKey::new(Kind::Ed, &format!("invented-{n}"));
        assert_eq!(code(&verifier, &unknown).await, "INVALID_TOKEN");
    }
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(server.requests(), 2);
    assert_eq!(code(&verifier, &old).await, "OK");
}

#[tokio::test]
async fn after_the_window_there_is_another_look_and_a_withdrawn_key_takes_its_tokens_along() {
    let (old, new) = (TestKey::new(Kind::Ed, "old"), TestKey::new(Kind::Ed, "new"));
    let server = KeyServer::start(&document(&[&old])).await;
    let pace = Pace { unknown_key: Duration::from_secs(1), ..pace() };
    let verifier = verifier(KeySource::Url(server.url()), pace);
    let remembered = token(&old);
    assert!(verifier.verify(&remembered).await.is_ok());
    assert_eq!(code(&verifier, &new).await, "INVALID_TOKEN");
    assert_eq!(server.requests(), 2, "the look found nothing");
    server.serve("200 OK", &document(&[&new]));
    assert_eq!(code(&verifier, &new).await, "INVALID_TOKEN");
    assert_eq!(server.requests(), 2, "refused at once within the window");
    assert!(verifier.verify(&remembered).await.is_ok());
    tokio::time::sleep(Duration::from_millis(1050)).await;
    assert_eq!(code(&verifier, &new).await, "OK");
    assert_eq!(server.requests(), 3);
    assert!(verifier.verify(&remembered).await.is_err(), "its key is withdrawn");
}

#[tokio::test]
async fn a_caller_who_hangs_up_does_not_stop_the_look() {
    let (old, new) = (TestKey::new(Kind::Ed, "old"), TestKey::new(Kind::Ed, "new"));
    let server = KeyServer::start(&document(&[&old])).await;
    let verifier = verifier(KeySource::Url(server.url()), pace());
    assert_eq!(code(&verifier, &old).await, "OK");
    server.serve("200 OK", &document(&[&new]));
    server.delay(Duration::from_millis(300));
    let (invented, token) = (TestKey::new(Kind::Ed, "invented"), token(&new));
    let cut = tokio::time::timeout(Duration::from_millis(100), code(&verifier, &invented)).await;
    assert!(cut.is_err(), "hung up while the server was thinking");
    assert!(verifier.verify(&token).await.is_ok(), "waits for the look that is under way");
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn the_set_is_refreshed_in_the_background_and_stays_while_the_issuer_is_down() {
    let (old, new) = (TestKey::new(Kind::Ed, "old"), TestKey::new(Kind::Ed, "new"));
    let server = KeyServer::start(&document(&[&old])).await;
    let pace = Pace {
        refresh: Duration::from_millis(50),
        back_off: Duration::from_millis(10),
        back_off_limit: Duration::from_millis(40),
        ..Pace::default()
    };
    let verifier = verifier(KeySource::Url(server.url()), pace);
    until(async || verifier.has_keys()).await;
    for (status, body) in [("503 Service Unavailable", ""), ("200 OK", "<html>"), ("200 OK", r#"{"keys":[]}"#)] {
        server.serve(status, body);
        let before = server.requests();
        until(async || server.requests() > before + 3).await;
        assert_eq!(code(&verifier, &old).await, "OK", "{status} {body}");
    }
    server.serve("200 OK", &document(&[&new]));
    until(async || code(&verifier, &new).await == "OK").await;
    assert_eq!(code(&verifier, &old).await, "INVALID_TOKEN");
}

#[tokio::test]
async fn without_any_keys_nobody_can_tell() {
    let key = TestKey::new(Kind::Ed, "k");
    let server = KeyServer::start("").await;
    let verifier = verifier(KeySource::Url(server.url()), pace());
    assert_eq!(code(&verifier, &key).await, "KEYS_UNAVAILABLE");
    assert_eq!(code(&verifier, &key).await, "KEYS_UNAVAILABLE");
    assert_eq!(server.requests(), 1, "the second waits for the back-off");
    assert!(!verifier.has_keys());
    let garbage = verifier.verify("a.b.c").await.expect_err("garbage");
    assert_eq!(garbage.code(), "INVALID_TOKEN", "that needs no keys");
}

#[tokio::test]
async fn an_issuer_that_comes_up_late_is_found() {
    let key = TestKey::new(Kind::Ec, "k");
    let server = KeyServer::start("").await;
    server.serve("500 Internal Server Error", "");
    let pace = Pace { back_off: Duration::from_millis(20), ..Pace::default() };
    let verifier = verifier(KeySource::Url(server.url()), pace);
    assert_eq!(code(&verifier, &key).await, "KEYS_UNAVAILABLE");
    server.serve("200 OK", &document(&[&key]));
    until(async || verifier.has_keys()).await;
    assert_eq!(code(&verifier, &key).await, "OK");
}

#[tokio::test]
async fn answers_beyond_the_limits_are_refused() {
    let key = TestKey::new(Kind::Ed, "k");
    let elsewhere = KeyServer::start(&document(&[&key])).await;
    let server = KeyServer::start("").await;
    let remote = Remote::new(&server.url()).expect("an address");
    let limit = Duration::from_millis(500);
    let failure = async || remote.fetch(limit).await.expect_err("refused").to_string();

    let padded = format!("{}{}", document(&[&key]), " ".repeat(fetch::MAX_BYTES));
    server.serve("200 OK", &padded);
    assert!(failure().await.contains("larger than 262144 bytes"));
    // The same without a length, so that only counting tells.
    server.serve_raw(format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{padded}"));
    assert!(failure().await.contains("larger than 262144 bytes"));
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"] {
        server.serve_raw(format!(
            "HTTP/1.1 {status}\r\nlocation: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            elsewhere.url()
        ));
        assert!(failure().await.contains("redirects are not followed"));
    }
    assert_eq!(elsewhere.requests(), 0);
    server.serve("404 Not Found", &document(&[&key]));
    assert!(failure().await.contains("404"));
    server.serve_raw("no HTTP at all\r\n\r\n".into());
    assert!(failure().await.contains("request failed"));
    server.serve_raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".into());
    assert!(failure().await.contains("not read to its end"));
    server.serve("200 OK", "{}");
    assert!(failure().await.contains("not a JWK Set"));
    server.serve("200 OK", &document(&[&key]));
    assert_eq!(remote.fetch(limit).await.expect("keys").len(), 1);
    server.delay(Duration::from_secs(2));
    assert!(failure().await.contains("no answer within"));
}

#[tokio::test]
async fn a_file_is_read_again_when_a_key_is_unknown() {
    let (old, new) = (TestKey::new(Kind::Ed, "old"), TestKey::new(Kind::Ec, "new"));
    let dir = TempDir::new();
    let path = dir.path().join("jwks.json");
    std::fs::write(&path, document(&[&old])).expect("a file");
    let pace = Pace { unknown_key: Duration::from_secs(1), ..pace() };
    let verifier = verifier(KeySource::File(path.clone()), pace);
    assert_eq!(code(&verifier, &old).await, "OK");
    std::fs::write(&path, document(&[&new])).expect("a file");
    assert_eq!(code(&verifier, &old).await, "OK", "not read for a known key");
    assert_eq!(code(&verifier, &new).await, "OK");
    assert_eq!(code(&verifier, &old).await, "INVALID_TOKEN");
    std::fs::write(&path, document(&[&old])).expect("a file");
    assert_eq!(code(&verifier, &old).await, "INVALID_TOKEN", "at most once in the window");
    tokio::time::sleep(Duration::from_millis(1050)).await;
    assert_eq!(code(&verifier, &old).await, "OK");
    // A file that has gone is an issuer that is down.
    std::fs::remove_file(&path).expect("a file");
    tokio::time::sleep(Duration::from_millis(1050)).await;
    assert_eq!(code(&verifier, &new).await, "INVALID_TOKEN");
    assert_eq!(code(&verifier, &old).await, "OK");
}

#[test]
fn a_file_that_cannot_be_used_is_an_error_at_the_start() {
    let dir = TempDir::new();
    let path = dir.path().join("jwks.json");
    let reason = |path: &std::path::Path| {
        let source = KeySource::File(path.to_owned());
        Jwks::new(&source, Pace::default()).err().expect("refused").to_string()
    };
    assert!(reason(&path).contains("jwks.json"));
    assert!(reason(dir.path()).contains("not a file"));
    std::fs::write(&path, "{}").expect("a file");
    assert!(reason(&path).contains("not a JWK Set"));
    std::fs::write(&path, r#"{"keys":[]}"#).expect("a file");
    assert!(reason(&path).contains("no public"));
    std::fs::write(&path, " ".repeat(fetch::MAX_BYTES + 1)).expect("a file");
    assert!(reason(&path).contains("larger than"));
}

#[test]
fn a_verifier_made_outside_of_a_runtime_works_within_each() {
    let key = TestKey::new(Kind::Ed, "k");
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server_runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let server = server_runtime.block_on(KeyServer::start(&document(&[&key])));
    let pace = Pace { refresh: Duration::from_millis(20), ..pace() };
    let verifier = verifier(KeySource::Url(server.url()), pace);
    for _ in 0..2 {
        let before = server.requests();
        runtime().block_on(async {
            assert_eq!(code(&verifier, &key).await, "OK");
            until(async || server.requests() > before + 2).await;
        });
    }
}

#[test]
fn the_back_off_grows_to_its_limit() {
    let jwks = Jwks::new(&KeySource::Url("http://127.0.0.1:1/".into()), Pace::default()).expect("keys");
    for (failures, seconds) in [(0, 1.0), (1, 2.0), (5, 32.0), (6, 60.0), (40, 60.0), (u32::MAX, 60.0)] {
        let wait = jwks.inner.back_off(failures).as_secs_f64();
        assert!((seconds * 0.75..=seconds).contains(&wait), "{failures}: {wait}");
    }
}
