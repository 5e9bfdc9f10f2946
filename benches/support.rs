//! What the measurements share: the server under test, pgbench, and one HTTP exchange.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tenantry::local_postgres::{self, LocalPostgres};

pub const DATABASE: &str = "bench";
/// Sessions of the database that each server, and pgbench, may have.
pub const DATABASE_CONNECTIONS: usize = 10;

pub type Anything<T> = Result<T, Box<dyn std::error::Error>>;

/// The server under test; ended with the value.
pub struct Server {
    pub child: Child,
    pub address: SocketAddr,
}

impl Server {
    /// `tenantry serve` with these arguments and variables, on a free port of this machine.
    pub fn start(
        postgres: &LocalPostgres,
        data_dir: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Anything<Self> {
        let built = PathBuf::from(env!("CARGO_BIN_EXE_tenantry"));
        let binary = std::env::var_os("TENANTRY_BENCH_SERVER").map_or(built, PathBuf::from);
        Self::start_binary(&binary, postgres, data_dir, arguments, environment)
    }

    /// The same of this binary.
    pub fn start_binary(
        binary: &Path,
        postgres: &LocalPostgres,
        data_dir: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Anything<Self> {
        let port = free_port()?;
        let child = Command::new(binary)
            .arg("serve")
            .args(arguments)
            .env("PORT", port.to_string())
            .env("DATABASE_URL", postgres.url(local_postgres::APP_ROLE, DATABASE))
            .env("SUPERADMIN_DATABASE_URL", postgres.url(local_postgres::SUPERADMIN_ROLE, DATABASE))
            .env("TENANTRY_DATA_DIR", data_dir)
            .env("DATABASE_MAX_CONNECTIONS", DATABASE_CONNECTIONS.to_string())
            .env("RUST_LOG", "warn")
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .spawn()?;
        Self::listening(child, port)
    }

    #[allow(dead_code, reason = "one of the benchmarks that share this file has a peer")]
    /// `PostGraphile` on the same database, from npm, on a free port of this machine.
    pub fn postgraphile(postgres: &LocalPostgres) -> Anything<Self> {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
        std::fs::create_dir_all(&dir)?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
        for file in ["package.json", "postgraphile.mjs"] {
            std::fs::copy(source.join(file), dir.join(file))?;
        }
        let npm = ["install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"];
        let installed = Command::new("npm").args(npm).current_dir(&dir).stdout(Stdio::null()).status();
        if !installed.map_err(|error| format!("npm, for --peers: {error}"))?.success() {
            return Err("npm could not install the peers".into());
        }
        let port = free_port()?;
        let options = postgres.connect_options(local_postgres::APP_ROLE, DATABASE);
        let socket = options.get_socket().ok_or("no socket")?.display().to_string();
        let url = format!(
            "postgres://{}@localhost/{DATABASE}?host={socket}&port={}",
            local_postgres::APP_ROLE,
            options.get_port()
        );
        // PostGraphile needs a newer node than many machines have; npm has it as a package for each platform.
        let node = std::fs::read_dir(dir.join("node_modules"))?
            .filter_map(Result::ok)
            .map(|entry| entry.path().join("bin/node"))
            .find(|path| path.is_file())
            .unwrap_or_else(|| PathBuf::from("node"));
        let child = Command::new(node)
            .arg("postgraphile.mjs")
            .current_dir(&dir)
            .env("PORT", port.to_string())
            .env("DATABASE_URL", url)
            .env("DATABASE_MAX_CONNECTIONS", DATABASE_CONNECTIONS.to_string())
            .env("NODE_ENV", "production")
            .env("GRAPHILE_ENV", "production")
            .stdout(Stdio::null())
            .spawn()?;
        Self::listening(child, port)
    }

    fn listening(child: Child, port: u16) -> Anything<Self> {
        let server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(server.address).is_err() {
            if Instant::now() > deadline {
                return Err("the server did not start".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already is as good.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Transactions per second of these scripts by pgbench, which is as little as a client can cost.
#[allow(dead_code, reason = "as above")]
pub fn pgbench(
    postgres: &LocalPostgres,
    role: &str,
    scripts: &[PathBuf],
    connections: usize,
    seconds: u64,
    settings: &str,
) -> Anything<f64> {
    let program = postgres.bin_dir().map_or_else(|| PathBuf::from("pgbench"), |dir| dir.join("pgbench"));
    let mut command = Command::new(program);
    command.args(["-n", "-M", "prepared", "-j", "2"]);
    command.args(["-c", &connections.to_string(), "-T", &seconds.to_string()]);
    for script in scripts {
        command.arg("-f").arg(script);
    }
    let options = postgres.connect_options(role, DATABASE);
    let socket = options.get_socket().ok_or("no socket")?;
    command.arg("-h").arg(socket).args(["-U", role, DATABASE]).env("PGOPTIONS", settings);
    let output =
        command.output().map_err(|error| format!("pgbench (part of the PostgreSQL server packages): {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| format!("pgbench failed: {text}{}", String::from_utf8_lossy(&output.stderr)).into())
}

/// User and system time of a process so far, in seconds (Linux; elsewhere 0).
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|f| f.parse().ok())
        .collect();
    fields.iter().sum::<f64>() / 100.0
}

#[allow(dead_code, reason = "as above")]
/// User and system time of the database server and all its processes so far, in seconds (Linux; elsewhere 0).
pub fn postgres_cpu_seconds(data_dir: &Path) -> Anything<f64> {
    let pid_file = std::fs::read_dir(data_dir)?
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("postmaster.pid"))
        .find(|path| path.is_file())
        .ok_or("no postmaster.pid")?;
    let postmaster: u32 = std::fs::read_to_string(pid_file)?.lines().next().unwrap_or_default().trim().parse()?;
    let mut ticks = 0.0;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields: Vec<f64> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|field| field.parse().ok())
            .collect();
        let at = |n: usize| fields.get(n).copied().unwrap_or(0.0);
        if pid == postmaster {
            // Its own and that of the processes that ended.
            ticks += at(10) + at(11) + at(12) + at(13);
        } else if (at(0) - f64::from(postmaster)).abs() < 0.5 {
            ticks += at(10) + at(11);
        }
    }
    Ok(ticks / 100.0)
}

/// One request and its response's body.
pub fn exchange(stream: &mut BufReader<TcpStream>, request: &[u8]) -> io::Result<Vec<u8>> {
    exchange_reading(stream, request, |_, _| ())
}

/// The same; `header` hears each header of the response.
pub fn exchange_reading(
    stream: &mut BufReader<TcpStream>,
    request: &[u8],
    mut header: impl FnMut(&str, &str),
) -> io::Result<Vec<u8>> {
    stream.get_mut().write_all(request)?;
    let mut length = 0;
    let mut line = String::new();
    let mut status = None;
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the server closed the connection"));
        }
        let text = line.trim_end();
        if status.is_none() {
            status = Some(text.contains(" 200 "));
        }
        if text.is_empty() {
            break;
        }
        if let Some((name, value)) = text.split_once(':') {
            header(name, value.trim());
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    if status == Some(true) { Ok(body) } else { Err(io::Error::other(String::from_utf8_lossy(&body).into_owned())) }
}
