//! `tenantry webhooks list`, `show` and `replay`.

use std::process::Stdio;

use serde_json::{Value, json};
use tenantry::webhook_events::WebhookSource::{Clerk, Stripe};

use super::crash::tenantry;
use super::{clerk, count, deliver, none_left, start, start_workers, stripe};
use crate::support::TestApp;

async fn run(app: &TestApp, arguments: &[&str]) -> (i32, String) {
    let mut command = tenantry(&app.database).await;
    let output = command.arg("webhooks").args(arguments).stdout(Stdio::piped()).output().await.expect("the binary");
    (output.status.code().expect("an end"), String::from_utf8(output.stdout).expect("text"))
}

async fn json(app: &TestApp, arguments: &[&str]) -> Value {
    let (code, text) = run(app, &[arguments, &["--json"]].concat()).await;
    assert_eq!(code, 0, "{arguments:?}: {text}");
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test]
async fn webhooks_command_lists_shows_and_replays() {
    let app = start().await;
    for n in 0..3 {
        deliver(&app, Clerk, &format!("msg_{n}"), clerk("thing.happened", &format!("user_{n}")).to_string()).await;
        deliver(&app, Stripe, "", stripe(&format!("evt_{n}"), "thing.happened", "sub_1").to_string()).await;
    }
    let workers = start_workers(&app.app, 1);
    none_left(&app.database, "status = 'RECEIVED'").await;
    drop(workers);

    let of_object = json(&app, &["list", "--object", "sub_1"]).await;
    assert_eq!(of_object.as_array().map(Vec::len), Some(3));
    assert_eq!(
        (&of_object[0]["eventId"], &of_object[0]["object"]),
        (&json!("evt_2"), &json!("sub_1")),
        "the newest first"
    );
    for (arguments, expected) in [
        (vec!["list", "--source", "clerk", "--type", "thing.happened"], 3),
        (vec!["list", "--status", "ignored", "--status", "dead", "--type", "thing.happened"], 6),
        (vec!["list", "--source", "stripe", "--type", "thing.happened", "--limit", "2"], 2),
    ] {
        assert_eq!(json(&app, &arguments).await.as_array().map(Vec::len), Some(expected), "{arguments:?}");
    }
    assert_eq!(run(&app, &["list", "--object", "o'brien"]).await, (1, "no events\n".to_owned()));
    let (code, text) = run(&app, &["list"]).await;
    assert!(code == 0 && text.contains("thing.happened") && text.contains("acme-corp"), "{text}");

    let id = of_object[0]["id"].as_str().expect("an id");
    for name in [id, "evt_2"] {
        let shown = json(&app, &["show", name]).await;
        assert_eq!(shown["body"]["data"]["object"]["id"], "sub_1", "{shown}");
    }
    assert_eq!(run(&app, &["show", "evt_nowhere"]).await.0, 1);
    assert_eq!(run(&app, &["replay"]).await.0, 2, "never everything by accident");
    assert_eq!(json(&app, &["replay", "--object", "sub_1", "--dry-run"]).await.as_array().map(Vec::len), Some(3));
    assert_eq!(count(&app.database, "status = 'RECEIVED'").await, 0);
    assert_eq!(json(&app, &["replay", id, "msg_0"]).await, json!({ "found": 2, "replayed": 2 }));
    assert_eq!(count(&app.database, "status = 'RECEIVED' and attempts = 0 and processed_at is null").await, 2);
    assert_eq!(json(&app, &["replay", "--object", "sub_1"]).await, json!({ "found": 3, "replayed": 2 }));
    let workers = start_workers(&app.app, 1);
    none_left(&app.database, "status = 'RECEIVED'").await;
    drop(workers);
}
