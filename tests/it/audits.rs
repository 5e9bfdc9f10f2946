//! The audits of GraphQL over HTTP: npm `graphql-http`, `serverAudits`, all levels.
//!
//! They come from npm at a pinned version into the target folder and run in node. Without node or npm the test says
//! that it did not run.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::support::TestApp;

const PACKAGES: [&str; 2] = ["graphql-http@1.23.1", "graphql@16.15.0"];

#[tokio::test]
async fn http_audits_of_graphql_over_http_hold() {
    let modules = match packages().await {
        Ok(modules) => modules,
        Err(why) => {
            eprintln!("SKIPPED: the audits of GraphQL over HTTP did not run: {why}");
            return;
        }
    };
    let app = TestApp::start().await;
    let output = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/audits/run.cjs"))
        .arg(&modules)
        .arg(format!("{}/graphql", app.base_url()))
        .stdin(Stdio::null())
        .output()
        .await
        .expect("node runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    println!("{text}");
}

/// The folder `node_modules` with the pinned packages, installed when it is not there yet.
async fn packages() -> Result<PathBuf, String> {
    for tool in ["node", "npm"] {
        let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
        if !found.is_ok_and(|status| status.success()) {
            return Err(format!("{tool} is not installed"));
        }
    }
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("audits-{}", PACKAGES.join("-").replace('@', "_")));
    let modules = folder.join("node_modules");
    if PACKAGES.iter().all(|package| modules.join(name(package)).join("package.json").is_file()) {
        return Ok(modules);
    }
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    std::fs::write(folder.join("package.json"), "{\"private\":true}").map_err(|error| error.to_string())?;
    let install = Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--save-exact"])
        .args(PACKAGES)
        .current_dir(&folder)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| error.to_string())?;
    if install.status.success() { Ok(modules) } else { Err(String::from_utf8_lossy(&install.stderr).into_owned()) }
}

fn name(package: &str) -> &str {
    package.split('@').next().unwrap_or(package)
}
