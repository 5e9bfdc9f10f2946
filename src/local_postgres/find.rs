//! Finds the programs `postgres` and `initdb`: always both from one folder, of a version we support, and
//! of the version that wrote the database files where there are some.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use super::{LocalPostgresError as Error, MIN_MAJOR, account::Account, io_error, npm};

/// Where packages put them: a folder, what the names in it start with before the version, and the rest.
const FOLDERS: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ("/usr/local", "pgsql", "bin"),
];

/// Programs that work together.
#[derive(Debug)]
pub(super) struct Installation {
    pub bin: PathBuf,
    pub version: String,
    pub major: u32,
}

/// The installation to use; `files` is the major version of the database files in `pgdata`, where there are some. `PG_BIN`
/// names its folder, or says `npm` for the pinned package.
pub(super) fn find(account: &Account, pgdata: &Path, files: Option<u32>) -> Result<Installation, Error> {
    if let Some(bin) = env::var_os("PG_BIN").filter(|value| !value.is_empty()) {
        if bin == "npm" {
            let bin = npm::installed(account).ok_or_else(|| Error::PgBin("npm is not on PATH".to_owned()))??;
            let found = inspect(account, &bin).map_err(Error::PgBin)?;
            return suits(&found, pgdata, files).map(|()| found);
        }
        let found = inspect(account, &real(Path::new(&bin))).map_err(Error::PgBin)?;
        return suits(&found, pgdata, files).map(|()| found);
    }
    let mut misfit = None;
    let mut reasons = Vec::new();
    for bin in on_path().chain(in_folders()) {
        match inspect(account, &bin) {
            Ok(found) => match suits(&found, pgdata, files) {
                Ok(()) => return Ok(found),
                Err(error) => misfit = misfit.or(Some(error)),
            },
            Err(reason) => reasons.push(reason),
        }
    }
    if files.is_none_or(|files| files == npm::MAJOR) {
        if let Some(bin) = npm::installed(account) {
            return inspect(account, &bin?).map_err(|reason| Error::NotFound { reason, hint: hint() });
        }
        reasons.push("npm, which could fetch it, is not on PATH".to_owned());
    }
    Err(match misfit {
        Some(error) => error,
        None if files.is_some() => Error::OtherVersion {
            path: pgdata.to_owned(),
            files: files.unwrap_or_default(),
            found: "none".to_owned(),
            bin: None,
        },
        None => Error::NotFound { reason: reasons.join("; "), hint: hint() },
    })
}

fn suits(found: &Installation, pgdata: &Path, files: Option<u32>) -> Result<(), Error> {
    let Installation { bin, version, major } = found;
    match files {
        _ if *major < MIN_MAJOR => Err(Error::TooOld { bin: bin.clone(), version: version.clone() }),
        Some(files) if files != *major => Err(Error::OtherVersion {
            path: pgdata.to_owned(),
            files,
            found: format!("{version} in {}", bin.display()),
            bin: Some(bin.clone()),
        }),
        _ => Ok(()),
    }
}

/// Looks at a folder; the error is a reason for people.
fn inspect(account: &Account, bin: &Path) -> Result<Installation, String> {
    let shown = bin.display();
    if let Some(missing) = ["postgres", "initdb"].iter().find(|name| !bin.join(name).is_file()) {
        return Err(format!("{shown} has no {missing}"));
    }
    if !account.can_enter(bin) {
        return Err(format!("{shown} is closed to the user {}", account.name));
    }
    let output = account.command(bin.join("postgres")).arg("--version").output();
    let output = output.map_err(|e| format!("{shown}/postgres does not run: {e}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let Some((version, major)) = parse_version(&stdout) else {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{shown}/postgres --version says {}{}", stdout.trim(), stderr.trim()));
    };
    Ok(Installation { bin: bin.to_owned(), version, major })
}

/// `postgres (PostgreSQL) 15.14 (Debian …)` → `15.14` and 15.
fn parse_version(output: &str) -> Option<(String, u32)> {
    let version = output.strip_prefix("postgres (PostgreSQL) ")?.split_whitespace().next()?;
    Some((version.to_owned(), leading_numbers(version).first().copied()?))
}

/// The numbers a version begins with: `16.4` → [16, 4]; `latest` → [].
fn leading_numbers(version: &str) -> Vec<u32> {
    let end = version.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(version.len());
    version[..end].split('.').map_while(|part| part.parse().ok()).collect()
}

/// The first file of that name on PATH.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Folders of PATH with a `postgres`, symlinks resolved: a link farm such as `/usr/local/bin` may hold
/// `postgres` without the `initdb` of the same version.
fn on_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<_> = env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
    dirs.into_iter().filter_map(|dir| Some(fs::canonicalize(dir.join("postgres")).ok()?.parent()?.to_owned()))
}

/// The usual installation folders, highest version first.
fn in_folders() -> impl Iterator<Item = PathBuf> {
    let mut found = Vec::new();
    for (parent, prefix, rest) in FOLDERS {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(version) = name.to_str().and_then(|name| name.strip_prefix(prefix)) else {
                continue;
            };
            let bin = entry.path().join(rest);
            if bin.join("postgres").is_file() {
                found.push((leading_numbers(version), real(&bin)));
            }
        }
    }
    highest_first(found).into_iter()
}

fn highest_first(mut found: Vec<(Vec<u32>, PathBuf)>) -> Vec<PathBuf> {
    found.sort_by(|a, b| b.0.cmp(&a.0));
    found.into_iter().map(|(_, bin)| bin).collect()
}

fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The major version of the database files in `pgdata`, where there are some.
pub(super) fn version_of_files(pgdata: &Path) -> Result<Option<u32>, Error> {
    let path = pgdata.join("PG_VERSION");
    if !pgdata.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
    Ok(leading_numbers(text.trim()).first().copied())
}

/// The command that installs the package on this platform.
fn hint() -> &'static str {
    if cfg!(target_os = "macos") {
        return "brew install postgresql@18";
    }
    let commands = [
        ("apt-get", "apt install postgresql"),
        ("dnf", "dnf install postgresql-server"),
        ("apk", "apk add postgresql"),
        ("pacman", "pacman -S postgresql"),
        ("zypper", "zypper install postgresql-server"),
    ];
    let known = commands.iter().find(|(tool, _)| program(tool).is_some());
    known.map_or("install the package postgresql (version 15 or newer)", |(_, command)| command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_postgres_prints() {
        let parse = parse_version;
        assert_eq!(parse("postgres (PostgreSQL) 15.14 (Debian 15.14-0)\n"), Some(("15.14".to_owned(), 15)));
        assert_eq!(parse("postgres (PostgreSQL) 19beta1\n"), Some(("19beta1".to_owned(), 19)));
        assert_eq!(parse("postgres (Other) 15\n"), None);
        assert_eq!(parse("postgres (PostgreSQL) devel\n"), None);
    }

    #[test]
    fn the_highest_version_comes_first() {
        let bins = ["9.6", "15", "17", "16.4", "latest"];
        let found = bins.iter().map(|v| (leading_numbers(v), PathBuf::from(v))).collect();
        let order: Vec<_> = highest_first(found).iter().map(|bin| bin.display().to_string()).collect();
        assert_eq!(order, ["17", "16.4", "15", "9.6", "latest"]);
    }

    #[test]
    fn old_versions_and_foreign_files_are_refused() {
        let of = |major: u32| Installation { bin: PathBuf::from("/b"), version: major.to_string(), major };
        assert!(suits(&of(15), Path::new("/data"), None).is_ok());
        assert!(matches!(suits(&of(14), Path::new("/data"), None), Err(Error::TooOld { .. })));
        assert!(suits(&of(16), Path::new("/data"), Some(16)).is_ok());
        assert!(matches!(suits(&of(17), Path::new("/data"), Some(16)), Err(Error::OtherVersion { files: 16, .. })));
    }
}
