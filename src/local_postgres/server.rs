//! One data directory and the server of its files: attach to it, adopt it, or start it.
//!
//! The life of the server hangs on the FIFO `alive`. Every process that uses the server holds it open for
//! writing; a shell script, the watchdog, reads it. When the last holder is gone, in whatever way, the kernel
//! ends the watchdog's read and it stops the server. Invariants:
//!
//! - Everything here happens under the exclusive lock on `lock`, so nobody attaches or starts meanwhile.
//! - A holder counts only once the watchdog has answered its word: an answer proves that the watchdog was
//!   still reading while the holder had the FIFO open, so it cannot have decided to stop.
//! - A watchdog that has decided to stop says so in `watchdog` before it lets go of the FIFO, so a server
//!   on its way out is never adopted.
//! - The starter makes both ends of the FIFO before the watchdog exists and hands it the read end as
//!   standard input: there is no moment at which the starter's death would go unnoticed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::{
        fs::{FileTypeExt as _, OpenOptionsExt as _},
        net::UnixStream,
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{
    LocalPostgresError as Error, PORT, Started,
    account::Account,
    find::{self, Installation},
    io_error,
};

/// The watchdog: `sh -c WATCHDOG name REPLY new|PID [postgres ARGUMENT…]`, the FIFO as standard input. It answers
/// each word, stops the server when the FIFO ends (fast; immediate after 8 s; killed after 15 s), and ends
/// when the server ends. Postgres must not inherit the FIFO: a read end elsewhere would look like a watchdog.
const WATCHDOG: &str = include_str!("watchdog.sh");

/// `O_NONBLOCK`: opening a FIFO for writing fails when nobody reads, instead of waiting.
const O_NONBLOCK: i32 = if cfg!(any(target_os = "linux", target_os = "android")) { 0o4000 } else { 0x4 };
/// "No such device or address": nobody reads the FIFO.
const ENXIO: i32 = 6;

const LOG_LIMIT: u64 = 10 * 1024 * 1024;
const LOG_TAIL: u64 = 4096;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A server that nobody watches and that cannot be adopted is given this long to end by itself, then is told to.
const END_WITHIN: Duration = Duration::from_secs(3);
const GONE_WITHIN: Duration = Duration::from_secs(25);
const PAUSE: Duration = Duration::from_millis(20);

/// The places of one local server.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub data_dir: PathBuf,
    pub pgdata: PathBuf,
    pub socket_dir: PathBuf,
    pub durable: bool,
    pub account: Account,
}

/// The write end of the FIFO.
#[derive(Debug)]
pub(super) struct Alive {
    fifo: File,
    /// Set when the server is ready: from then on its end is worth an error in the log.
    pub in_use: AtomicBool,
}

impl Alive {
    fn new(fifo: File) -> Arc<Self> {
        let in_use = AtomicBool::new(false);
        Arc::new(Self { fifo, in_use })
    }
}

/// A hold on the running server.
#[derive(Debug)]
pub(super) struct Hold {
    pub alive: Arc<Alive>,
    pub started: Started,
    pub bin: Option<PathBuf>,
    /// Where in the log this server begins.
    pub log_from: u64,
}

impl Hold {
    /// Whether the watchdog, and so the server, is gone.
    pub fn is_lost(&self) -> bool {
        let written = (&self.alive.fifo).write(b"\n");
        written.is_err_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl Site {
    fn alive(&self) -> PathBuf {
        self.data_dir.join("alive")
    }

    fn reply(&self) -> PathBuf {
        self.data_dir.join("watchdog")
    }

    pub fn log(&self) -> PathBuf {
        self.data_dir.join("postgres.log")
    }

    /// Waits for the lock of the data directory; it is free again when the file is dropped.
    pub fn lock(&self) -> Result<File, Error> {
        let path = self.data_dir.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(io_error("open", &path))?;
        self.account.give(&path)?;
        if file.try_lock().is_err() {
            tracing::info!(lock = %path.display(), "waiting for another process that starts the database");
            file.lock().map_err(io_error("lock", &path))?;
        }
        Ok(file)
    }

    /// A hold on a running server, started where there is none. Call it under the lock.
    pub fn attach_or_start(&self) -> Result<Hold, Error> {
        let begin = Instant::now();
        let mut told = false;
        loop {
            if let Some(alive) = self.attach()? {
                return Ok(Hold { alive: Alive::new(alive), started: Started::Attached, bin: None, log_from: 0 });
            }
            let stopping = self.stopping();
            let Some(pid) = self.postmaster()? else {
                // A server can be told to stop before it has written its postmaster.pid.
                if stopping.is_some_and(|pid| self.concerns(pid)) && begin.elapsed() < GONE_WITHIN {
                    thread::sleep(PAUSE);
                    continue;
                }
                return self.start();
            };
            if stopping != Some(pid) && UnixStream::connect(self.socket()).is_ok() {
                tracing::info!(pid, "PostgreSQL runs without its watchdog: adopting it");
                return self.watch(None, pid, Started::Attached);
            }
            if begin.elapsed() > END_WITHIN && !told {
                tracing::warn!(pid, "stopping a PostgreSQL that nobody watches");
                let _ = Command::new("kill").args(["-INT", &pid.to_string()]).status();
                told = true;
            }
            if begin.elapsed() > GONE_WITHIN {
                return Err(Error::Foreign { pid, pgdata: self.pgdata.clone() });
            }
            thread::sleep(PAUSE);
        }
    }

    /// A hold through the watchdog that runs already, if one does.
    fn attach(&self) -> Result<Option<File>, Error> {
        let path = self.alive();
        if !fs::metadata(&path).is_ok_and(|meta| meta.file_type().is_fifo()) {
            return Ok(None);
        }
        let alive = match OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(&path) {
            Ok(alive) => alive,
            Err(e) if e.raw_os_error() == Some(ENXIO) => return Ok(None),
            Err(e) => return Err(io_error("open", &path)(e)),
        };
        let nanos = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
        let word = format!("{}-{nanos}", process::id());
        let begin = Instant::now();
        let mut pause = Duration::from_millis(1);
        while begin.elapsed() < ANSWER_WITHIN {
            match (&alive).write(format!("{word}\n").as_bytes()) {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(None),
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => {
                    return Err(io_error("write to", &path)(e));
                }
                _ => thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(50));
            if fs::read_to_string(self.reply()).is_ok_and(|reply| reply.trim_end() == word) {
                return Ok(Some(alive));
            }
        }
        // Starting a second server on the same files is what must never happen.
        Err(Error::Silent { data_dir: self.data_dir.clone() })
    }

    /// The process id of a live server of these files.
    fn postmaster(&self) -> Result<Option<u32>, Error> {
        let path = self.pgdata.join("postmaster.pid");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("read", &path)(e)),
        };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let Some(pid) = lines.first().and_then(|line| line.parse().ok()) else {
            return Ok(None);
        };
        let Some(command) = command_line(pid) else {
            return Ok(None);
        };
        if !is_server_of(&command, &self.pgdata) {
            // Postgres takes any live process for its predecessor: after a restart of a container a number
            // is soon another's, and a dead predecessor may still be a zombie.
            tracing::info!(pid, "removing the stale postmaster.pid");
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
            return Ok(None);
        }
        match lines.get(4) {
            Some(dir) if !dir.is_empty() && Path::new(dir) != self.socket_dir => {
                Err(Error::Foreign { pid, pgdata: self.pgdata.clone() })
            }
            _ => Ok(Some(pid)),
        }
    }

    /// The server that the last watchdog decided to stop.
    fn stopping(&self) -> Option<u32> {
        let reply = fs::read_to_string(self.reply()).ok()?;
        reply.trim_end().strip_prefix("stopping ")?.parse().ok()
    }

    /// Whether the process is, or is about to become, a server of these files.
    fn concerns(&self, pid: u32) -> bool {
        command_line(pid).is_some_and(|line| line.contains(&*self.pgdata.to_string_lossy()))
    }

    fn socket(&self) -> PathBuf {
        self.socket_dir.join(format!(".s.PGSQL.{PORT}"))
    }

    fn start(&self) -> Result<Hold, Error> {
        let mut files = find::version_of_files(&self.pgdata)?;
        let installation = match find::find(&self.account, &self.pgdata, files) {
            // What must not survive a crash of the machine need not survive an upgrade of PostgreSQL.
            Err(Error::OtherVersion { files: old, found, .. }) if !self.durable => {
                tracing::info!(old, found, data = %self.data_dir.display(), "throwing away database files of another version");
                fs::remove_dir_all(&self.pgdata).map_err(io_error("remove", &self.pgdata))?;
                files = None;
                find::find(&self.account, &self.pgdata, files)?
            }
            found => found?,
        };
        let Installation { bin, version, .. } = &installation;
        self.account.claim_dir(&self.socket_dir, 0o700)?;
        self.clear();
        let mut started = Started::Existing;
        if files.is_none() {
            tracing::info!(%version, bin = %bin.display(), data = %self.data_dir.display(), "creating the database files");
            self.initdb(&installation)?;
            started = Started::New;
        }
        self.watch(Some(bin), 0, started)
    }

    /// Spawns the watchdog: for the server that runs as `pid`, or for one that it starts from `bin`.
    fn watch(&self, bin: Option<&Path>, pid: u32, started: Started) -> Result<Hold, Error> {
        let (reader, alive) = self.fifo()?;
        let log = self.open_log()?;
        let log_from = log.metadata().map_or(0, |meta| meta.len());
        let reply = self.reply();
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).open(&reply).map_err(io_error("create", &reply))?;
        self.account.give(&reply)?;

        let sh = Path::new("/bin/sh");
        let mut command = self.account.command(sh);
        command.arg("-c").arg(WATCHDOG).arg("tenantry-watchdog").arg(&reply);
        match bin {
            Some(bin) => command.arg("new").arg(bin.join("postgres")).arg("-D").arg(&self.pgdata).args(self.settings()),
            None => command.arg(pid.to_string()),
        };
        command.stdin(reader).stdout(log.try_clone().map_err(io_error("open", &self.log()))?).stderr(log);
        // A group of its own: Ctrl-C in the terminal is for us, not for a server that we still need.
        let mut child = command.current_dir(&self.socket_dir).process_group(0).spawn().map_err(io_error("run", sh))?;
        let alive = Alive::new(alive);
        let held = Arc::downgrade(&alive);
        let log = self.log();
        let reap = move || {
            let status = child.wait();
            if held.upgrade().is_some_and(|alive: Arc<Alive>| alive.in_use.load(Ordering::Relaxed)) {
                tracing::error!(?status, log = %log.display(), "the local PostgreSQL has stopped by itself");
            }
        };
        thread::Builder::new().name("postgres-watchdog".to_owned()).spawn(reap).map_err(io_error("watch", sh))?;
        Ok(Hold { alive, started, bin: bin.map(Path::to_owned), log_from })
    }

    /// Both ends of the FIFO. Holders of earlier servers keep it open and count again.
    fn fifo(&self) -> Result<(File, File), Error> {
        let path = self.alive();
        if !fs::symlink_metadata(&path).is_ok_and(|meta| meta.file_type().is_fifo()) {
            let _ = fs::remove_file(&path);
            let output = Command::new("mkfifo")
                .args(["-m", "600"])
                .arg(&path)
                .output()
                .map_err(io_error("run", Path::new("mkfifo")))?;
            if !output.status.success() {
                return Err(Error::command("mkfifo", &output));
            }
            self.account.give(&path)?;
        }
        let open = |options: &mut OpenOptions| options.open(&path).map_err(io_error("open", &path));
        // Opened both ways it waits for nobody, and with it open neither do the two ends.
        let _both = open(OpenOptions::new().read(true).write(true))?;
        Ok((open(OpenOptions::new().read(true))?, open(OpenOptions::new().write(true))?))
    }

    fn open_log(&self) -> Result<File, Error> {
        let path = self.log();
        if fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_LIMIT) {
            let _ = fs::rename(&path, self.data_dir.join("postgres.log.1"));
        }
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(&path);
        let file = file.map_err(io_error("open", &path))?;
        self.account.give(&path)?;
        Ok(file)
    }

    /// The last lines of the log, not before `from`.
    pub fn log_tail(&self, from: u64) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(self.log())?;
            let end = file.metadata()?.len();
            file.seek(io::SeekFrom::Start(from.max(end.saturating_sub(LOG_TAIL))))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// The command line of a process, `None` when there is no such process; empty for a zombie.
fn command_line(pid: u32) -> Option<String> {
    if Path::new("/proc/self/cmdline").exists() {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        return Some(String::from_utf8_lossy(&bytes).replace('\0', " "));
    }
    let output = Command::new("ps").args(["-ww", "-o", "command=", "-p", &pid.to_string()]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether that is a postgres of these files; in doubt (no absolute folder on its command line) it is.
fn is_server_of(command: &str, pgdata: &Path) -> bool {
    let program = Path::new(command.split(" -").next().unwrap_or_default().trim_end());
    let names_a_folder = command.contains(" -D /") || command.contains(" -D/");
    (program.ends_with("postgres") || program.ends_with("postmaster"))
        && (!names_a_folder || command.contains(&*pgdata.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_the_server_only_of_its_own_files() {
        let of = |command| is_server_of(command, Path::new("/a/.tenantry/postgres"));
        assert!(of("/usr/lib/postgresql/15/bin/postgres -D /a/.tenantry/postgres -c port=5432"));
        assert!(of("postgres -D data"), "in doubt it is");
        assert!(!of("/usr/lib/postgresql/15/bin/postgres -D /b/.tenantry/postgres"));
        assert!(!of("/bin/sh -c script /a/.tenantry/watchdog new postgres -D /a/.tenantry/postgres"));
        assert!(!of("sleep 100"));
        assert!(!of(""), "a zombie serves nobody");
    }

    #[test]
    fn this_process_has_a_command_line_and_an_unused_number_has_none() {
        assert!(command_line(process::id()).is_some_and(|line| !line.is_empty()));
        assert_eq!(command_line(u32::MAX / 2), None);
    }
}
