//! Embeds `GraphiQL`. The pinned npm packages of `web/packages.json` are fetched with `npm pack`,
//! checked against their integrity, compressed and listed in `OUT_DIR/graphiql_assets.rs`, which
//! `src/http/graphiql.rs` includes.
//!
//! Without npm, or when fetching fails, the table holds no bytes and the page takes the same
//! versions from a public CDN: that is a warning, never a failed build. `TENANTRY_GRAPHIQL` changes
//! it: `auto` (the default), `cdn` (embed nothing), `embed` (a build that cannot embed fails; for
//! release images).

use std::error::Error;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;
use sha2::{Digest, Sha256, Sha384, Sha512};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const PACKAGES: &str = "web/packages.json";
const NPM_TIME_LIMIT: Duration = Duration::from_mins(1);
/// Part of the names in the cache; change it together with [`prepare`].
const PREPARED: &str = "1";

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    // The migrations are embedded by a macro, which cargo does not see through.
    println!("cargo::rerun-if-changed=migrations");
    println!("cargo::rerun-if-changed={PACKAGES}");
    println!("cargo::rerun-if-env-changed=TENANTRY_GRAPHIQL");

    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let (cdn, packages) = read_packages()?;
    let mode = env::var("TENANTRY_GRAPHIQL").unwrap_or_default();
    let embedded = match mode.as_str() {
        "cdn" => false,
        "" | "auto" | "embed" => match fill_cache(&cache_dir(&out_dir), &packages) {
            Ok(()) => true,
            Err(error) if mode == "embed" => {
                return Err(format!("GraphiQL cannot be embedded (TENANTRY_GRAPHIQL=embed): {error}").into());
            }
            Err(error) => {
                println!("cargo::warning=GraphiQL is not embedded: {error}");
                println!("cargo::warning=Its page will load from {cdn}. To try again: touch build.rs");
                false
            }
        },
        other => {
            return Err(format!("TENANTRY_GRAPHIQL={other}: expected auto, cdn or embed").into());
        }
    };
    write_table(&out_dir, &cdn, &packages, embedded)
}

/// One npm package and the files of it that the page uses.
struct Package {
    name: String,
    version: String,
    /// Of the tarball, as the registry states it.
    integrity: String,
    files: Vec<File>,
}

struct File {
    path: String,
    /// Also the `integrity` attribute when the page loads the file from the CDN.
    integrity: String,
}

impl File {
    /// Scripts and styles go into the page; anything else is a licence text.
    fn is_notice(&self) -> bool {
        !matches!(Path::new(&self.path).extension().and_then(|it| it.to_str()), Some("js" | "css"))
    }

    fn cached(&self, cache: &Path) -> Result<PathBuf> {
        let (_, digest) = self.integrity.split_once('-').ok_or("integrity without an algorithm")?;
        let mut name = format!("{PREPARED}-");
        for byte in BASE64.decode(digest)?.iter().take(16) {
            write!(name, "{byte:02x}")?;
        }
        Ok(cache.join(name + ".gz"))
    }
}

fn read_packages() -> Result<(String, Vec<Package>)> {
    let text = |value: &Value, key: &str| -> Result<String> {
        Ok(value[key].as_str().ok_or_else(|| format!("{PACKAGES}: no {key:?}"))?.to_owned())
    };
    let list = |value: &Value, key: &str| -> Result<Vec<Value>> {
        Ok(value[key].as_array().ok_or_else(|| format!("{PACKAGES}: no {key:?}"))?.clone())
    };
    let root: Value = serde_json::from_str(&fs::read_to_string(PACKAGES)?)?;
    let mut packages = Vec::new();
    for package in list(&root, "packages")? {
        let mut files = Vec::new();
        for file in list(&package, "files")? {
            files.push(File { path: text(&file, "path")?, integrity: text(&file, "integrity")? });
        }
        packages.push(Package {
            name: text(&package, "name")?,
            version: text(&package, "version")?,
            integrity: text(&package, "integrity")?,
            files,
        });
    }
    Ok((text(&root, "cdn")?, packages))
}

/// Beside the profiles in the target folder, so that debug, release and clippy builds fetch once.
fn cache_dir(out_dir: &Path) -> PathBuf {
    // <target>/<profile>/build/<package>/out
    let build = out_dir.ancestors().nth(2).filter(|it| it.ends_with("build"));
    let target = build.and_then(|it| it.ancestors().nth(2));
    target.unwrap_or(out_dir).join("graphiql-cache")
}

/// Leaves every file of `packages` verified and compressed in `cache`.
fn fill_cache(cache: &Path, packages: &[Package]) -> Result<()> {
    let mut missing = false;
    for file in packages.iter().flat_map(|package| &package.files) {
        missing |= !file.cached(cache)?.exists();
    }
    if !missing {
        return Ok(());
    }
    // Two cargo processes may be here at once: each works in a folder of its own and renames
    // complete files.
    let work = cache.join(format!("work-{}", std::process::id()));
    fs::create_dir_all(&work)?;
    let filled =
        npm_pack(&work, packages).and_then(|()| packages.iter().try_for_each(|package| unpack(&work, cache, package)));
    let _ = fs::remove_dir_all(&work);
    filled
}

fn npm_pack(work: &Path, packages: &[Package]) -> Result<()> {
    let log = work.join("npm.log");
    let mut npm = Command::new(if cfg!(windows) { "npm.cmd" } else { "npm" })
        .args(["pack", "--ignore-scripts", "--no-update-notifier", "--loglevel=error"])
        .args(["--fetch-retries=1", "--fetch-timeout=20000"])
        .args(packages.iter().map(|package| format!("{}@{}", package.name, package.version)))
        .current_dir(work)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // A file, not a pipe: nothing that npm leaves behind can keep this script waiting.
        .stderr(fs::File::create(&log)?)
        .spawn()
        .map_err(|error| format!("npm could not be started ({error})"))?;
    let deadline = Instant::now() + NPM_TIME_LIMIT;
    let status = loop {
        if let Some(status) = npm.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            npm.kill()?;
            npm.wait()?;
            return Err(format!("npm pack took longer than {} s", NPM_TIME_LIMIT.as_secs()).into());
        }
        thread::sleep(Duration::from_millis(50));
    };
    if status.success() {
        return Ok(());
    }
    let log = fs::read_to_string(&log).unwrap_or_default();
    let reason = log.lines().find(|line| line.contains("error")).unwrap_or("no reason given");
    Err(format!("npm pack failed ({status}; {reason})").into())
}

fn unpack(work: &Path, cache: &Path, package: &Package) -> Result<()> {
    let tarball = fs::read(work.join(format!("{}-{}.tgz", package.name, package.version)))?;
    verify(&tarball, &package.integrity).map_err(|error| format!("{}: {error}", package.name))?;
    let mut left: Vec<&File> = package.files.iter().collect();
    for entry in tar::Archive::new(GzDecoder::new(tarball.as_slice())).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(found) = left.iter().position(|file| path == Path::new("package").join(&file.path)) else {
            continue;
        };
        let file = left.swap_remove(found);
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        verify(&bytes, &file.integrity).map_err(|error| format!("{}/{}: {error}", package.name, file.path))?;
        let part = work.join("part.gz");
        fs::write(&part, compress(prepare(&bytes))?)?;
        fs::rename(&part, file.cached(cache)?)?;
    }
    match left.first() {
        Some(file) => Err(format!("{} {} has no {}", package.name, package.version, file.path).into()),
        None => Ok(()),
    }
}

/// Checks `bytes` against a subresource-integrity string.
fn verify(bytes: &[u8], integrity: &str) -> Result<()> {
    let actual = match integrity.split_once('-') {
        Some(("sha384", _)) => format!("sha384-{}", BASE64.encode(Sha384::digest(bytes))),
        Some(("sha512", _)) => format!("sha512-{}", BASE64.encode(Sha512::digest(bytes))),
        _ => return Err(format!("unknown kind of integrity {integrity:?}").into()),
    };
    if actual == integrity { Ok(()) } else { Err(format!("integrity is {actual}, {PACKAGES} pins {integrity}").into()) }
}

/// Drops the link to a source map, which is not embedded and would be a 404 in the developer tools.
fn prepare(bytes: &[u8]) -> &[u8] {
    const LINK: &[u8] = b"\n//# sourceMappingURL=";
    let last_line = bytes.trim_ascii_end().iter().rposition(|&byte| byte == b'\n');
    match last_line {
        Some(at) if bytes[at..].starts_with(LINK) => &bytes[..=at],
        _ => bytes,
    }
}

fn compress(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn write_table(out_dir: &Path, cdn: &str, packages: &[Package], embedded: bool) -> Result<()> {
    let cache = cache_dir(out_dir);
    let mut rows = String::new();
    let mut notices = String::new();
    for Package { name, version, files, .. } in packages {
        for file in files {
            let gz = if embedded { fs::read(file.cached(&cache)?)? } else { Vec::new() };
            if !file.is_notice() {
                let file_name = file.path.rsplit('/').next().unwrap_or(&file.path);
                let url = format!("{cdn}/{name}@{version}/{}", file.path);
                rows += &row(out_dir, file_name, &gz, &url, &file.integrity)?;
            } else if embedded {
                write!(notices, "{name} {version}\n\n")?;
                GzDecoder::new(gz.as_slice()).read_to_string(&mut notices)?;
                notices += "\n";
            }
        }
    }
    if embedded {
        rows += &row(out_dir, "licenses.txt", &compress(notices.as_bytes())?, "", "")?;
    }
    let table = format!("pub const EMBEDDED: bool = {embedded};\n\npub static VENDOR: &[Vendor] = &[\n{rows}];\n");
    Ok(fs::write(out_dir.join("graphiql_assets.rs"), table)?)
}

/// A row of the table, with its bytes in a file beside it.
fn row(out_dir: &Path, name: &str, gz: &[u8], url: &str, integrity: &str) -> Result<String> {
    let path = out_dir.join(format!("{name}.gz"));
    fs::write(&path, gz)?;
    let path = path.to_string_lossy();
    let mut hash = String::new();
    for byte in Sha256::digest(gz).iter().take(8) {
        write!(hash, "{byte:02x}")?;
    }
    let bytes = format!("name: {name:?}, hash: {hash:?}, gz: include_bytes!({path:?})");
    let source = format!("url: {url:?}, integrity: {integrity:?}");
    Ok(format!("    Vendor {{ {bytes}, {source} }},\n"))
}
