//! The official senders' own libraries, and a fake Stripe: what they sign is accepted as it is.
//!
//! They come from npm and `PyPI` at pinned versions into the target folder. Without node, python
//! or a network the test says that it did not run.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tenantry::webhook_events::WebhookSource::{Clerk, Stripe};
use tokio::process::Command;

use super::{count, none_left, path, secret_text, start, start_workers};
use crate::packages::{npm, pip, skipped, text};

const NPM: [&str; 3] = ["svix@1.99.1", "standardwebhooks@1.1.1", "stripe@23.1.0"];
const PYPI: [&str; 3] = ["stripe==16.1.0", "standardwebhooks==1.1.0", "localstripe==1.15.10"];

#[tokio::test]
async fn webhook_senders_for_node_are_accepted() {
    match npm(&NPM).await {
        Ok(modules) => run(Command::new("node").arg(script("senders.cjs")).arg(modules), "STRIPE_NODE").await,
        Err(why) => skipped("the official senders for node", &why),
    }
}

#[tokio::test]
async fn webhook_senders_for_python_and_the_fake_stripe_are_accepted() {
    match pip(&PYPI).await {
        Ok(packages) => run(Command::new("python3").arg(script("senders.py")).arg(packages), "STRIPE_PYTHON").await,
        Err(why) => skipped("the official senders for python", &why),
    }
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
