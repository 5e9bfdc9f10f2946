//! Events that Stripe made and that never came: its list of events against the inbox.

use std::collections::BTreeSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use super::client::StripeClient;
use super::why_not;
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::{Error, Result};
use crate::webhooks::WebhookSource;
use crate::webhooks::inbox::{Delivery, Inbox};
use crate::webhooks::payload::{id, seconds, whole};
use crate::webhooks::receive::head;

/// What was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Events from then on.
    pub since: DateTime<Utc>,
    /// Events at Stripe.
    pub at_stripe: usize,
    /// Those that have no effect here, so that it does not matter whether they came.
    pub without_effect: usize,
    /// Those that are in the inbox.
    pub received: usize,
    /// Those that are not.
    pub missing: Vec<Missing>,
    /// How many of these were put there now.
    pub stored: usize,
}

impl Report {
    /// Whether nothing is missing any more.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.stored == self.missing.len()
    }
}

/// An event that never came.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    /// Stripe's id of it.
    pub event_id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// What it is about.
    pub object: Option<String>,
    /// When it was made.
    pub created: Option<DateTime<Utc>>,
    /// Whether Stripe still tries to deliver it, here or elsewhere.
    pub pending: bool,
}

/// Looks for events made since then that have an effect and are not in the inbox; with `fix`, puts them there.
/// `progress` hears how many were looked at.
///
/// # Errors
/// Stripe or the database could not be asked.
pub async fn gaps(
    db: &Db,
    clock: &Clock,
    stripe: &StripeClient,
    since: DateTime<Utc>,
    fix: bool,
    progress: impl Fn(usize),
) -> Result<Report> {
    let mut report = Report { since, at_stripe: 0, without_effect: 0, received: 0, missing: Vec::new(), stored: 0 };
    let mut lost = Vec::new();
    let mut next = None;
    loop {
        let page = stripe.events(since.timestamp(), next).await?;
        report.at_stripe += page.objects.len();
        let ids: Vec<String> = page.objects.iter().filter_map(|event| id(&event["id"])).collect();
        let known = known(db, &ids).await?;
        for event in page.objects {
            let (Some(event_id), Some(event_type)) = (id(&event["id"]), id(&event["type"])) else { continue };
            if known.contains(&event_id) {
                report.received += 1;
            } else if why_not(&event_type, &event).is_some() {
                report.without_effect += 1;
            } else {
                report.missing.push(Missing {
                    object: id(&event["data"]["object"]["id"]),
                    created: seconds(&event["created"]).and_then(|at| DateTime::from_timestamp(at, 0)),
                    pending: whole(&event["pending_webhooks"]).unwrap_or(0) > 0,
                    event_id: event_id.clone(),
                    event_type,
                });
                lost.push((event_id, event));
            }
        }
        progress(report.at_stripe);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    if fix {
        let inbox = Inbox::new(db.clone(), clock.clone());
        // The oldest first, as they would have come.
        for (event_id, event) in lost.into_iter().rev() {
            store(&inbox, clock, event_id, &event).await?;
            report.stored += 1;
        }
    }
    Ok(report)
}

async fn known(db: &Db, ids: &[String]) -> Result<BTreeSet<String>> {
    let mut tx = SystemTx::begin(db).await?;
    let known = sqlx::query_scalar!(
        "select event_id from tenantry.webhook_events where source = 'STRIPE' and event_id = any($1)",
        ids
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(known.into_iter().collect())
}

/// Stores what Stripe's own list says, over a connection that Stripe was authenticated on: as good as a signature.
async fn store(inbox: &Inbox, clock: &Clock, event_id: String, event: &Value) -> Result<()> {
    let head = head(WebhookSource::Stripe, event).unwrap_or_default();
    inbox
        .store(Delivery {
            source: WebhookSource::Stripe,
            event_id,
            event_type: head.event_type,
            object_id: head.object_id,
            raw_body: Bytes::from(serde_json::to_vec(event).map_err(Error::internal)?),
            created_at: head.created_at,
            received_at: clock.now(),
        })
        .await?;
    Ok(())
}
