//! The official senders' own libraries, and a fake Stripe: what they sign is accepted as it is.
//!
//! They come from npm and `PyPI` at pinned versions into the target folder. Without node, python
//! or a network the test says that it did not run.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tenantry::webhook_events::WebhookSource::{Clerk, Stripe};
use tokio::process::Command;

use super::{count, none_left, path, secret_text, start, start_workers};

const NPM: [&str; 3] = ["svix@1.99.1", "standardwebhooks@1.1.1", "stripe@23.1.0"];
const PYPI: [&str; 3] = ["stripe==16.1.0", "standardwebhooks==1.1.0", "localstripe==1.15.10"];

#[tokio::test]
async fn webhook_senders_for_node_are_accepted() {
    match npm().await {
        Ok(modules) => run(Command::new("node").arg(script("senders.cjs")).arg(modules), "STRIPE_NODE").await,
        Err(why) => skipped("node", &why),
    }
}

#[tokio::test]
async fn webhook_senders_for_python_and_the_fake_stripe_are_accepted() {
    match pip().await {
        Ok(packages) => run(Command::new("python3").arg(script("senders.py")).arg(packages), "STRIPE_PYTHON").await,
        Err(why) => skipped("python", &why),
    }
}

/// Past the harness, which shows of a test that passes nothing else.
fn skipped(language: &str, why: &str) {
    writeln!(std::io::stderr(), "SKIPPED: the official senders for {language} did not run: {why}").ok();
}

/// Every sender of a script delivers events whose ids it prints, one a line; all must be there, and be worked on.
async fn run(command: &mut Command, some: &str) {
    let app = start().await;
    let workers = start_workers(&app.app, 1);
    let output = command
        .arg(format!("{}{}", app.base_url(), path(Clerk)))
        .arg(format!("{}{}", app.base_url(), path(Stripe)))
        .args([secret_text("old"), secret_text("new")])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("it runs");
    let text = text(&output);
    assert!(output.status.success() && text.contains(some), "{text}");
    none_left(&app.database, "status = 'RECEIVED'").await;
    drop(workers);
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (sender, id) = line.split_once(' ').expect("a sender and an id");
        assert_eq!(
            count(&app.database, &format!("event_id = '{id}' and processed_at is not null")).await,
            1,
            "{sender}"
        );
    }
    println!("{text}");
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/webhooks").join(name)
}

fn text(output: &Output) -> String {
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
    let name = packages.join("-").replace(['@', '='], "_");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{kind}-{name}"));
    let complete = folder.join("complete").is_file();
    (folder, complete)
}

async fn npm() -> Result<PathBuf, String> {
    let (folder, complete) = folder("npm", &NPM);
    installed("node", &["--version"], &folder).await?;
    if !complete {
        std::fs::write(folder.join("package.json"), "{\"private\":true}").map_err(|error| error.to_string())?;
        let arguments = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--save-exact"];
        installed("npm", &[arguments.as_slice(), &NPM].concat(), &folder).await?;
        std::fs::write(folder.join("complete"), "").map_err(|error| error.to_string())?;
    }
    Ok(folder.join("node_modules"))
}

async fn pip() -> Result<PathBuf, String> {
    let (folder, complete) = folder("pip", &PYPI);
    installed("python3", &["--version"], &folder).await?;
    if !complete {
        let arguments = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", "."];
        installed("python3", &[arguments.as_slice(), &PYPI].concat(), &folder).await?;
        std::fs::write(folder.join("complete"), "").map_err(|error| error.to_string())?;
    }
    Ok(folder)
}
