//! Single cases that people ask about.

use serde_json::{Value, json};
use tenantry::webhooks::WebhookSource;

use super::driver::{Sync, TAG};
use super::history::Event;

fn clerk(n: u32, kind: &str, timestamp: i64, data: Value) -> Event {
    let payload = json!({ "type": kind, "timestamp": timestamp, "data": data });
    Event { source: WebhookSource::Clerk, id: format!("msg_{TAG}_{n}"), kind: kind.to_owned(), payload }
}

fn organization(name: &str, slug: Option<&str>) -> Value {
    json!({ "id": format!("org_{TAG}"), "name": name, "slug": slug, "created_at": 1_760_000_000_000_i64 })
}

/// The deletion comes first: the row is made and is deleted, and has its slug.
#[tokio::test]
async fn a_late_creation_does_not_resurrect() {
    let sync = Sync::start().await;
    let slug = format!("acme-{}", TAG.to_lowercase());
    let created = clerk(1, "organization.created", 1_760_000_000_000, organization("Acme", Some(&slug)));
    let deleted =
        clerk(2, "organization.deleted", 1_760_000_001_000, json!({ "id": format!("org_{TAG}"), "deleted": true }));
    let in_order = sync.deliver(&[created.clone(), deleted.clone()], None).await;
    let reversed = sync.deliver(&[deleted, created], None).await;
    assert_eq!(in_order["organizations"][0]["deleted"], true);
    assert_eq!(in_order, reversed);
}
