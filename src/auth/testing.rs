//! Keys made at run time, tokens of any shape, and a JWK Set server on loopback; for the tests of this module.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// The type of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Rsa,
    Ec,
    Ed,
}

/// An issuer's key pair.
pub(crate) struct TestKey {
    pub(crate) algorithm: Algorithm,
    pub(crate) jwk: Jwk,
    key: EncodingKey,
}

impl TestKey {
    pub(crate) fn new(kind: Kind, id: &str) -> Self {
        let (algorithm, key) = match kind {
            Kind::Rsa => {
                let pair = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).expect("a key");
                let der = AsDer::<Pkcs8V1Der>::as_der(&pair).expect("a document");
                let pem = format!(
                    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
                    STANDARD.encode(der.as_ref())
                );
                (Algorithm::RS256, EncodingKey::from_rsa_pem(pem.as_bytes()).expect("a key"))
            }
            Kind::Ec => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
                (Algorithm::ES256, EncodingKey::from_ec_der(pair.to_pkcs8v1().expect("a document").as_ref()))
            }
            Kind::Ed => {
                let pair = Ed25519KeyPair::generate().expect("a key");
                (Algorithm::EdDSA, EncodingKey::from_ed_der(pair.to_pkcs8v1().expect("a document").as_ref()))
            }
        };
        let mut jwk = Jwk::from_encoding_key(&key, algorithm).expect("a public key");
        jwk.common.key_id = Some(id.to_owned());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Self { algorithm, jwk, key }
    }

    pub(crate) fn id(&self) -> &str {
        self.jwk.common.key_id.as_deref().expect("an id")
    }

    pub(crate) fn jwk_json(&self) -> Value {
        serde_json::to_value(&self.jwk).expect("JSON")
    }

    pub(crate) fn header(&self) -> Value {
        json!({ "alg": self.algorithm, "typ": "JWT", "kid": self.id() })
    }

    /// A token with this header and these claims, signed with this key whatever the header says.
    pub(crate) fn sign_raw(&self, header: &[u8], claims: &[u8]) -> String {
        let message = message(header, claims);
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm).expect("a signature");
        format!("{message}.{signature}")
    }

    pub(crate) fn sign_with(&self, header: &Value, claims: &Value) -> String {
        self.sign_raw(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_with(&self.header(), claims)
    }
}

/// The signed part of a token.
pub(crate) fn message(header: &[u8], claims: &[u8]) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
}

pub(crate) fn jwk_set(keys: &[&TestKey]) -> JwkSet {
    JwkSet { keys: keys.iter().map(|key| key.jwk.clone()).collect() }
}

pub(crate) fn document(keys: &[&TestKey]) -> String {
    serde_json::to_string(&jwk_set(keys)).expect("JSON")
}

/// An HTTP server that gives one answer, and counts how often.
pub(crate) struct KeyServer {
    address: std::net::SocketAddr,
    answer: Arc<Mutex<(String, Duration)>>,
    requests: Arc<AtomicUsize>,
}

impl KeyServer {
    pub(crate) async fn start(body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = Self { address, answer: Arc::default(), requests: Arc::default() };
        server.serve("200 OK", body);
        let (answer, requests) = (Arc::clone(&server.answer), Arc::clone(&server.requests));
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (answer, requests) = (Arc::clone(&answer), Arc::clone(&requests));
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    if socket.read(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                    requests.fetch_add(1, Ordering::SeqCst);
                    let (text, delay) = answer.lock().expect("the answer").clone();
                    tokio::time::sleep(delay).await;
                    socket.write_all(text.as_bytes()).await.ok();
                });
            }
        });
        server
    }

    pub(crate) fn serve(&self, status: &str, body: &str) {
        let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}", body.len());
        self.answer.lock().expect("the answer").0 = format!("{head}\r\n\r\n{body}");
    }

    /// Sends this text, whatever it is.
    pub(crate) fn serve_raw(&self, answer: String) {
        self.answer.lock().expect("the answer").0 = answer;
    }

    /// Waits before each answer.
    pub(crate) fn delay(&self, delay: Duration) {
        self.answer.lock().expect("the answer").1 = delay;
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/.well-known/jwks.json", self.address)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// A directory that is removed at the end of the test.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tenantry-auth-{:032x}", rand::random::<u128>()));
        std::fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}
