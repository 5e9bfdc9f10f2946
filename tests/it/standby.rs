//! A streaming replica of a `PostgreSQL` of the tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tenantry::local_postgres::{self, LocalPostgres};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A streaming replica, ended with the test.
pub struct Standby {
    bin: PathBuf,
    dir: PathBuf,
    user: Option<String>,
}

impl Standby {
    /// A program of the server, as the user whose files they are: it refuses to run as root.
    fn program(&self, name: &str) -> Command {
        let program = self.bin.join(name);
        match &self.user {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--"]).arg(program);
                command
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Copies the primary and follows it; `None`, loudly, where the program for that is missing.
    pub fn start(primary: &LocalPostgres) -> Option<Self> {
        let bin = primary.bin_dir().expect("the programs").to_path_buf();
        if !bin.join("pg_basebackup").is_file() {
            println!("!!!! SKIPPED: a replica needs the program pg_basebackup beside postgres, in {}", bin.display());
            return None;
        }
        let user = crate::pooler::owner(&primary.data_dir().join("postgres"));
        let standby = Self {
            bin,
            dir: std::env::temp_dir().join(format!(
                "tenantry-standby-{}-{}",
                std::process::id(),
                COUNTER.fetch_add(1, Ordering::Relaxed)
            )),
            user,
        };
        std::fs::remove_dir_all(&standby.dir).ok();
        std::fs::create_dir_all(&standby.dir).expect("a folder");
        if let Some(user) = &standby.user {
            let given = Command::new("chown").arg(user).arg(&standby.dir).status().expect("chown");
            assert!(given.success());
        }
        let options = primary.connect_options(local_postgres::SUPERUSER, "postgres");
        let socket = options.get_socket().expect("a socket");
        let port = options.get_port().to_string();
        let mut backup = standby.program("pg_basebackup");
        backup.args(["-U", local_postgres::SUPERUSER, "-R", "-X", "stream", "-c", "fast", "-p", &port]);
        let backup = backup.arg("-h").arg(socket).arg("-D").arg(standby.data()).output().expect("pg_basebackup");
        assert!(backup.status.success(), "{}", String::from_utf8_lossy(&backup.stderr));
        let settings = format!(
            "-c listen_addresses='' -c fsync=off -c max_connections=200 -c unix_socket_directories={}",
            standby.dir.display()
        );
        let started = standby.control(&["-o", &settings, "-w", "-l"], &standby.dir.join("log"), "start");
        assert!(
            started,
            "the replica does not start: {}",
            std::fs::read_to_string(standby.dir.join("log")).unwrap_or_default()
        );
        Some(standby)
    }

    /// Where its socket is.
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// Makes it the primary.
    pub fn promote(&self) {
        let promoted =
            self.program("pg_ctl").arg("-D").arg(self.data()).args(["-w", "promote"]).output().expect("pg_ctl");
        assert!(promoted.status.success(), "{}", String::from_utf8_lossy(&promoted.stderr));
    }

    fn control(&self, options: &[&str], file: &Path, what: &str) -> bool {
        let mut command = self.program("pg_ctl");
        command.arg("-D").arg(self.data()).args(options).arg(file).arg(what);
        command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null()).status().expect("pg_ctl").success()
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        self.program("pg_ctl").arg("-D").arg(self.data()).args(["-m", "immediate", "stop"]).output().ok();
        std::fs::remove_dir_all(&self.dir).ok();
    }
}
