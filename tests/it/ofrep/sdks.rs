//! `OpenFeature`'s own client libraries, unmodified, in their newest versions.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

use super::{ask, key, until};
use crate::packages::{npm, pip, skipped, text};
use crate::support::TestApp;

const SERVER: [&str; 2] = ["@openfeature/ofrep-provider@0.1.3", "@openfeature/server-sdk@1.23.0"];
/// Node has no `EventSource` of its own.
const WEB: [&str; 3] = ["@openfeature/ofrep-web-provider@0.4.3", "@openfeature/web-sdk@1.10.0", "eventsource@5.1.5"];
const PYPI: [&str; 2] = ["openfeature-provider-ofrep==0.3.0", "openfeature-sdk==0.10.0"];

/// Flags with values of every type.
pub(super) async fn typed_flags(app: &TestApp) {
    let flag = |key: &str, kind: &str, variants: serde_json::Value, off: &str, on: bool| {
        format!(
            "insert into tenantry.feature_flag_definitions (id, key, name, kind, value_type, variants, off_variant, default_enabled)
             values (gen_random_uuid(), '{key}', '{key}', 'RELEASE', '{kind}', '{variants}', {off}, {on});"
        )
    };
    let variants = [
        flag(
            "theme",
            "STRING",
            json!([{ "name": "light", "value": "light", "weight": 0 }, { "name": "dark", "value": "dark", "weight": 1 }]),
            "'light'",
            true,
        ),
        flag(
            "limits",
            "OBJECT",
            json!([{ "name": "standard", "value": { "rows": 50, "export": true }, "weight": 1 }]),
            "null",
            true,
        ),
        flag("page-size", "NUMBER", json!([{ "name": "standard", "value": 25, "weight": 1 }]), "null", true),
        flag("ratio", "NUMBER", json!([{ "name": "half", "value": 0.5, "weight": 1 }]), "null", true),
        flag("no-value", "STRING", json!([{ "name": "a", "value": "a", "weight": 1 }]), "null", false),
    ];
    app.sql(&variants.concat()).await;
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/ofrep").join(name)
}

async fn start() -> (TestApp, String) {
    let app = TestApp::start().await;
    let program = key(&app, &["FEATURE_FLAG_READ"]).await;
    typed_flags(&app).await;
    until("the flags are there", || async { ask(&app, &program, "ratio", &json!({})).await.status == 200 }).await;
    (app, program)
}

async fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("it runs");
    let said = text(&output);
    assert!(output.status.success() && said.contains("ALL WELL"), "{said}");
}

#[tokio::test]
async fn openfeature_for_node_servers_works_unmodified() {
    match npm(&SERVER).await {
        Ok(modules) => {
            let (app, program) = start().await;
            run(Command::new("node").arg(script("server.cjs")).arg(modules).arg(app.base_url()).arg(program)).await;
        }
        Err(why) => skipped("OpenFeature for node", &why),
    }
}

#[tokio::test]
async fn openfeature_for_python_works_unmodified() {
    match pip(&PYPI).await {
        Ok(packages) => {
            let (app, program) = start().await;
            let mut command = Command::new("python3");
            command.env("PYTHONDONTWRITEBYTECODE", "1");
            run(command.arg(script("server.py")).arg(packages).arg(app.base_url()).arg(program)).await;
        }
        Err(why) => skipped("OpenFeature for python", &why),
    }
}

/// The library for browsers hears of a change by the stream, asks again, and shows the new value.
#[tokio::test]
async fn openfeature_for_the_web_works_unmodified_and_follows_changes() {
    let modules = match npm(&WEB).await {
        Ok(modules) => modules,
        Err(why) => return skipped("OpenFeature for the web", &why),
    };
    let (app, program) = start().await;
    let mut command = Command::new("node");
    command.arg(script("web.cjs")).arg(modules).arg(app.base_url()).arg(program);
    let mut node = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node");
    let mut lines = BufReader::new(node.stdout.take().expect("its output")).lines();
    let mut said = Vec::new();
    let talk = async {
        while let Some(line) = lines.next_line().await.expect("a line") {
            if line == "READY" {
                app.sql("update tenantry.feature_flag_definitions set default_enabled = false where key = 'theme'")
                    .await;
            }
            said.push(line);
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(2), talk).await.expect("it comes to an end");
    let mut errors = String::new();
    node.stderr.take().expect("its errors").read_to_string(&mut errors).await.expect("text");
    assert!(said.iter().any(|line| line == "ALL WELL"), "{said:?} {errors}");
}
