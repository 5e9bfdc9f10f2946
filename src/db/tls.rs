//! TLS to the database for the driver that reads, by the same settings as sqlx: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`
//! (`PostgreSQL` documentation, 34.19).

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Whether TLS is used.
pub(super) fn mode(options: &PgConnectOptions) -> SslMode {
    match options.get_ssl_mode() {
        // PostgreSQL has no TLS on a socket.
        _ if options.get_socket().is_some() => SslMode::Disable,
        // sqlx takes `allow` for `disable`.
        PgSslMode::Disable | PgSslMode::Allow => SslMode::Disable,
        PgSslMode::Prefer => SslMode::Prefer,
        PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull => SslMode::Require,
    }
}

/// What makes connections secure. A certificate that cannot be read is told by the first connection of sqlx, in its words;
/// here it makes every connection with verification fail, because there is nothing to trust.
pub(super) fn connector(options: &PgConnectOptions) -> MakeRustlsConnect {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let given = |name: &str| {
        let url = options.clone().username("u").database("d").to_url_lossy();
        let value = url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())?;
        // How sqlx shows a path.
        Some(value.strip_prefix("file: ").map_or(value.clone(), str::to_owned))
    };
    let roots = Arc::new(match given("sslrootcert") {
        Some(certificates) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates_of(&certificates));
            roots
        }
        None => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect::<RootCertStore>(),
    });
    let mode = options.get_ssl_mode();
    let checks_chain = matches!(mode, PgSslMode::VerifyCa | PgSslMode::VerifyFull);
    let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build().ok();
    let verifier = Verifier {
        inner,
        chain: checks_chain,
        names: matches!(mode, PgSslMode::VerifyFull),
        provider: Arc::clone(&provider),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .map(|builder| builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)));
    #[expect(
        clippy::expect_used,
        reason = "the provider has the cipher suites of the default versions: a test builds one"
    )]
    let builder = builder.expect("the provider knows the default versions of TLS");
    let identity = given("sslcert").zip(given("sslkey")).and_then(|(certificate, key)| {
        let chain = certificates_of(&certificate);
        let key = if is_pem(&key) {
            PrivateKeyDer::from_pem_slice(key.as_bytes())
        } else {
            PrivateKeyDer::from_pem_file(&key)
        };
        Some((chain, key.ok()?))
    });
    let config = match identity {
        Some((chain, key)) => builder.clone().with_client_auth_cert(chain, key).unwrap_or_else(|error| {
            tracing::warn!(%error, "sslcert and sslkey do not fit each other");
            builder.with_no_client_auth()
        }),
        None => builder.with_no_client_auth(),
    };
    MakeRustlsConnect::new(config)
}

fn is_pem(text: &str) -> bool {
    text.trim_start().starts_with("-----BEGIN")
}

/// The certificates in a PEM text or file; none when it cannot be read.
fn certificates_of(source: &str) -> Vec<CertificateDer<'static>> {
    let read = if is_pem(source) {
        CertificateDer::pem_slice_iter(source.as_bytes()).collect()
    } else {
        CertificateDer::pem_file_iter(source).and_then(Iterator::collect)
    };
    read.unwrap_or_else(|error| {
        tracing::warn!(%error, "a certificate for the connection to the database cannot be read");
        Vec::new()
    })
}

/// Checks what `sslmode` asks for: nothing (`require` encrypts only), the chain (`verify-ca`), or the name as well.
#[derive(Debug)]
struct Verifier {
    inner: Option<Arc<WebPkiServerVerifier>>,
    chain: bool,
    names: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.chain {
            return Ok(ServerCertVerified::assertion());
        }
        let Some(inner) = &self.inner else {
            return Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.names => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
