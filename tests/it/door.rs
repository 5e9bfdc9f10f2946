//! What stands between two who talk: an address that leads where it is told, and that can be cut or frozen.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

#[derive(Clone)]
enum Target {
    Socket(PathBuf),
    Address(SocketAddr),
}

pub struct Door {
    pub port: u16,
    target: Arc<Mutex<Target>>,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Default)]
struct State {
    cuts: u32,
    is_frozen: bool,
}

impl Door {
    /// To a `PostgreSQL`.
    pub async fn open(to: &PgConnectOptions) -> Self {
        Self::open_to(Target::Socket(socket_of(to))).await
    }

    /// To a server.
    pub async fn open_to_server(to: SocketAddr) -> Self {
        Self::open_to(Target::Address(to)).await
    }

    async fn open_to(target: Target) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let target = Arc::new(Mutex::new(target));
        let (state, states) = watch::channel(State::default());
        let leads = Arc::clone(&target);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, states) = (leads.lock().expect("a target").clone(), states.clone());
                tokio::spawn(async move {
                    match target {
                        Target::Socket(path) => {
                            let Ok(server) = UnixStream::connect(path).await else { return };
                            pass(client, server, states).await;
                        }
                        Target::Address(address) => {
                            let Ok(server) = TcpStream::connect(address).await else { return };
                            pass(client, server, states).await;
                        }
                    }
                });
            }
        });
        Self { port, target, state }
    }

    /// New connections lead there. Those that are open stay.
    pub fn lead_to(&self, to: &PgConnectOptions) {
        *self.target.lock().expect("a target") = Target::Socket(socket_of(to));
    }

    /// Cuts what is open.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Nothing passes any more, and nothing is closed: whoever sends is acknowledged, and not answered.
    pub fn freeze(&self) {
        self.state.send_modify(|state| state.is_frozen = true);
    }

    /// New connections lead somewhere again. Those from before stay as they are.
    pub fn lead_again(&self) {
        self.state.send_modify(|state| state.is_frozen = false);
    }
}

/// Passes on what both say until one ends, or the door is cut or frozen.
async fn pass(
    mut client: TcpStream,
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    mut states: watch::Receiver<State>,
) {
    let before = states.borrow_and_update().cuts;
    tokio::select! {
        biased;
        state = states.wait_for(|state| state.is_frozen || state.cuts != before) => {
            if state.is_ok_and(|state| state.cuts != before) {
                return;
            }
        }
        _ = copy_bidirectional(&mut client, &mut server) => return,
    }
    // Both are held until the door is cut, or gone with the test.
    drop(states.wait_for(|state| state.cuts != before).await);
}

fn socket_of(options: &PgConnectOptions) -> PathBuf {
    options.get_socket().expect("a socket").join(format!(".s.PGSQL.{}", options.get_port()))
}
