//! Finds events that Stripe made and that never arrived: compares Stripe's list of events with the inbox.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use super::why_not;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::stripe::StripeClient;
use crate::sync::payload::{id, seconds, whole};

/// The result of the comparison.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GapReport {
    /// Start of the period.
    pub since: DateTime<Utc>,
    /// Events at Stripe.
    pub at_stripe: usize,
    /// Events without effect here, received or not.
    pub without_effect: usize,
    /// Events in the inbox.
    pub received: usize,
    /// Events that are not in the inbox.
    pub missing: Vec<MissingEvent>,
    /// How many of the missing events were stored now.
    pub stored: usize,
}

impl GapReport {
    /// Whether nothing is missing now.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.stored == self.missing.len()
    }
}

/// An event that never arrived.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingEvent {
    /// Stripe's id of the event.
    pub event_id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Stripe's id of the object that the event is about.
    pub object: Option<String>,
    /// When Stripe made it.
    pub created: Option<DateTime<Utc>>,
    /// Whether Stripe still tries to deliver it, to this endpoint or another.
    pub pending: bool,
}

/// The missing events, and what is reported of them.
#[derive(Debug)]
pub struct Gaps {
    pub report: GapReport,
    /// The events that are not in the inbox, by Stripe's id, newest first.
    pub lost: Vec<(String, Value)>,
}

/// Finds events made since then that have an effect and are not in the inbox. `progress` hears how many were compared.
///
/// # Errors
/// Stripe or the database could not be asked.
pub async fn find_gaps(db: &Db, stripe: &StripeClient, since: DateTime<Utc>, progress: impl Fn(usize)) -> Result<Gaps> {
    let mut report = GapReport { since, at_stripe: 0, without_effect: 0, received: 0, missing: Vec::new(), stored: 0 };
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
                report.missing.push(MissingEvent {
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
    Ok(Gaps { report, lost })
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
