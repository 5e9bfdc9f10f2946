//! How the database files are made and with which settings the server runs on them.

use std::{
    fs::{self, File},
    process::Stdio,
    time::SystemTime,
};

use super::{LocalPostgresError as Error, PORT, SUPERUSER, error::io_error, find::Installation, server::Site};

/// What the names of database files begin with while they are being made.
const ASIDE: &str = "postgres.new-";

/// Locales to try, the best first: sort order by code point and Unicode case on every platform. Builtin from 17 on, before
/// that from the C library where it has it.
pub(super) const fn locales(major: u32) -> &'static [&'static [&'static str]] {
    if major >= 17 {
        &[&["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]]
    } else {
        &[&["--locale=C.UTF-8"], &["--locale=C"]]
    }
}

impl Site {
    /// Removes what killed processes left behind. Call it when no server runs on these files.
    pub(super) fn clear(&self) {
        let entries = fs::read_dir(&self.data_dir).into_iter().flatten().flatten();
        for left in entries.filter(|e| e.file_name().to_string_lossy().starts_with(ASIDE)) {
            let _ = fs::remove_dir_all(left.path());
        }
        // The lock beside the socket names a process, as postmaster.pid does, and is stale like it.
        for name in ["", ".lock"] {
            let _ = fs::remove_file(self.socket_dir.join(format!(".s.PGSQL.{PORT}{name}")));
        }
    }

    /// Creates the database files aside and moves them to their place when they are complete.
    pub(super) fn initdb(&self, installation: &Installation) -> Result<(), Error> {
        // A name of its own: an initdb whose parent was killed may still be writing to the last one.
        let nanos = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
        let aside = self.data_dir.join(format!("{ASIDE}{nanos}"));
        self.account.claim_dir(&aside, 0o700)?;

        let mut options = vec!["--encoding=UTF8", "--no-instructions", "--username", SUPERUSER];
        // Everybody who reaches the socket is trusted: its folder is open to the server's user only, and
        // there is no other way in.
        options.push("--auth=trust");
        match (self.durable, installation.major) {
            (true, _) => options.push("--data-checksums"),
            (false, 18..) => options.extend(["--no-sync", "--no-data-checksums"]),
            (false, _) => options.push("--no-sync"),
        }
        let locales = locales(installation.major);
        let mut result = Ok(());
        for locale in locales {
            let mut command = self.account.command(installation.bin.join("initdb"));
            command.arg("-D").arg(&aside).args(&options).args(*locale).current_dir(&self.socket_dir);
            let output =
                command.stdin(Stdio::null()).output().map_err(io_error("run", &installation.bin.join("initdb")))?;
            if output.status.success() {
                fs::rename(&aside, &self.pgdata).map_err(io_error("create", &self.pgdata))?;
                return File::open(&self.data_dir)
                    .and_then(|dir| dir.sync_all())
                    .map_err(io_error("sync", &self.data_dir));
            }
            result = Err(Error::command("initdb", &output));
        }
        let _ = fs::remove_dir_all(&aside);
        result
    }

    /// Given on the command line, so that data directories of every age get them.
    pub(super) fn settings(&self) -> Vec<String> {
        let durable = if self.durable { "on" } else { "off" };
        let settings = [
            ("listen_addresses", String::new()),
            ("port", PORT.to_string()),
            ("unix_socket_directories", self.socket_dir.display().to_string()),
            ("unix_socket_permissions", "0700".to_owned()),
            ("cluster_name", "tenantry".to_owned()),
            ("max_connections", "200".to_owned()),
            ("shared_buffers", "128MB".to_owned()),
            ("max_wal_size", "256MB".to_owned()),
            ("timezone", "UTC".to_owned()),
            ("log_timezone", "UTC".to_owned()),
            ("log_checkpoints", "off".to_owned()),
            ("fsync", durable.to_owned()),
            ("synchronous_commit", durable.to_owned()),
            ("full_page_writes", durable.to_owned()),
        ];
        settings.into_iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]).collect()
    }
}
