//! TLS to the database: both drivers take the same URL in the same way.
//!
//! `PostgreSQL` speaks TLS over TCP only, and the tests' server listens on a socket: a proxy stands before it, with
//! certificates that the program `openssl` makes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tenantry::access::OrganizationRef;
use tenantry::db::{Db, PoolLimits, TenantTx};
use tenantry::local_postgres;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::support::TestDb;

/// A certificate for this name, signed by an authority of its own: the authority's file and what the server needs.
fn certificate(dir: &Path, name: &str) -> (PathBuf, Arc<ServerConfig>) {
    std::fs::create_dir_all(dir).expect("a folder");
    let openssl = |arguments: &[&str]| {
        let output = std::process::Command::new("openssl").args(arguments).current_dir(dir).output();
        let output = output.expect("the program openssl (Debian: apt-get install openssl)");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let new = ["req", "-newkey", "rsa:2048", "-nodes"];
    openssl(
        &[&new[..], &["-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"]].concat(),
    );
    openssl(&[&new[..], &["-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr"]].concat());
    std::fs::write(dir.join("names"), format!("subjectAltName=DNS:{name}\n")).expect("a file");
    openssl(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "names",
        "-out",
        "server.pem",
    ]);
    let chain = CertificateDer::pem_file_iter(dir.join("server.pem")).expect("a file").collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain.expect("a certificate"), key)
        .expect("a certificate and its key");
    (dir.join("ca.pem"), Arc::new(config))
}

/// Listens on a port and passes everything on to the socket; without a certificate it refuses TLS.
async fn proxy(socket: PathBuf, tls: Option<Arc<ServerConfig>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass(client, socket.clone(), tls.clone()));
        }
    });
    port
}

async fn pass(mut client: TcpStream, socket: PathBuf, tls: Option<Arc<ServerConfig>>) -> std::io::Result<()> {
    let mut server = UnixStream::connect(socket).await?;
    let mut head = [0; 8];
    client.read_exact(&mut head).await?;
    // SSLRequest (PostgreSQL documentation, 55.7).
    if head == [0, 0, 0, 8, 4, 210, 22, 47] {
        let Some(tls) = tls else {
            client.write_all(b"N").await?;
            return copy_bidirectional(&mut client, &mut server).await.map(drop);
        };
        client.write_all(b"S").await?;
        let mut client = TlsAcceptor::from(tls).accept(client).await?;
        return copy_bidirectional(&mut client, &mut server).await.map(drop);
    }
    server.write_all(&head).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

#[tokio::test]
async fn tls_to_the_database_is_the_same_for_reading_and_writing() {
    let database = TestDb::seeded().await;
    let own = database.options(local_postgres::APP_ROLE);
    let socket = own.get_socket().expect("a socket").join(format!(".s.PGSQL.{}", own.get_port()));
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tls-{}", std::process::id()));
    let (authority, localhost) = certificate(&dir.join("localhost"), "localhost");
    let (other_authority, other) = certificate(&dir.join("other"), "db.example.com");
    let right = proxy(socket.clone(), Some(localhost)).await;
    let wrong_name = proxy(socket.clone(), Some(other)).await;
    let without = proxy(socket, None).await;
    for (what, port, mode, root, connects) in [
        ("its name and its authority", right, PgSslMode::VerifyFull, Some(&authority), true),
        ("another authority", right, PgSslMode::VerifyFull, Some(&other_authority), false),
        ("an authority that nobody knows", right, PgSslMode::VerifyFull, None, false),
        ("another name", wrong_name, PgSslMode::VerifyFull, Some(&other_authority), false),
        ("another name, which does not matter", wrong_name, PgSslMode::VerifyCa, Some(&other_authority), true),
        ("another authority, which does", wrong_name, PgSslMode::VerifyCa, Some(&authority), false),
        ("encryption only", wrong_name, PgSslMode::Require, None, true),
        ("TLS where there is some", wrong_name, PgSslMode::Prefer, None, true),
        ("TLS that is refused, and none is as good", without, PgSslMode::Prefer, None, true),
        ("TLS that is refused", without, PgSslMode::Require, None, false),
        ("no TLS", right, PgSslMode::Disable, None, true),
    ] {
        let mut options = PgConnectOptions::new()
            .host("localhost")
            .port(port)
            .username(own.get_username())
            .database(&database.name)
            .ssl_mode(mode);
        if let Some(root) = root {
            options = options.ssl_root_cert(root);
        }
        let limits = PoolLimits { max_connections: 2, ..PoolLimits::default() };
        let db = Db::new(options, database.options(local_postgres::SUPERADMIN_ROLE), limits);
        let organization = OrganizationRef::Slug("acme-corp".into());
        let read = TenantTx::read(&db, "user_alice", &organization, Arc::default()).await;
        let written = TenantTx::begin(&db, "user_alice", &organization, Arc::default()).await;
        assert_eq!(read.is_ok(), connects, "{what}, reading: {read:?}");
        assert_eq!(written.is_ok(), connects, "{what}, writing: {written:?}");
    }
    std::fs::remove_dir_all(dir).ok();
}
