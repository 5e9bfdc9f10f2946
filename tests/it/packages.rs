//! Other people's packages, at pinned versions, in the target folder. Without node, python or a network a test that needs them says
//! that it did not run.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;

/// Past the harness, which shows of a test that passes nothing else.
pub fn skipped(what: &str, why: &str) {
    writeln!(std::io::stderr(), "SKIPPED: {what} did not run: {why}").ok();
}

/// What a program has written.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn installed(program: &str, arguments: &[&str], folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(text(&output)) }
}

/// A folder for these packages, and whether they are in it.
fn folder(kind: &str, packages: &[&str]) -> (PathBuf, bool) {
    let name = packages.join("-").replace(['@', '=', '/'], "_");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{kind}-{name}"));
    let complete = folder.join("complete").is_file();
    (folder, complete)
}

/// Packages of npm, in a folder of their own.
pub async fn npm(packages: &[&str]) -> Result<PathBuf, String> {
    let (folder, complete) = folder("npm", packages);
    installed("node", &["--version"], &folder).await?;
    if !complete {
        std::fs::write(folder.join("package.json"), "{\"private\":true}").map_err(|error| error.to_string())?;
        let arguments = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--save-exact"];
        installed("npm", &[arguments.as_slice(), packages].concat(), &folder).await?;
        std::fs::write(folder.join("complete"), "").map_err(|error| error.to_string())?;
    }
    Ok(folder.join("node_modules"))
}

/// Packages of `PyPI`, in a folder of their own.
pub async fn pip(packages: &[&str]) -> Result<PathBuf, String> {
    let (folder, complete) = folder("pip", packages);
    installed("python3", &["--version"], &folder).await?;
    if !complete {
        let arguments = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", "."];
        installed("python3", &[arguments.as_slice(), packages].concat(), &folder).await?;
        std::fs::write(folder.join("complete"), "").map_err(|error| error.to_string())?;
    }
    Ok(folder)
}
