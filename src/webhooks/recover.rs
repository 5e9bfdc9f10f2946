//! Stores events that the sender could not deliver and that were fetched from its API instead.

use bytes::Bytes;
use serde_json::Value;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::webhook_events::WebhookSource;
use crate::webhooks::inbox::{Delivery, Inbox};
use crate::webhooks::receive::head;

/// Stores events from Stripe's own list, which are given by id, newest first. They are stored oldest first, as Stripe would
/// have delivered them. They came over a connection on which Stripe was authenticated, which is as good as a signature.
/// Returns how many were stored.
///
/// # Errors
/// The database could not be asked. The events before the failed one are stored.
pub async fn recover(inbox: &Inbox, clock: &Clock, lost: Vec<(String, Value)>) -> Result<usize> {
    let mut stored = 0;
    for (event_id, payload) in lost.into_iter().rev() {
        let head = head(WebhookSource::Stripe, &payload).unwrap_or_default();
        let delivery = Delivery {
            source: WebhookSource::Stripe,
            event_id,
            event_type: head.event_type,
            object_id: head.object_id,
            raw_body: Bytes::from(serde_json::to_vec(&payload).map_err(Error::internal)?),
            created_at: head.created_at,
            received_at: clock.now(),
        };
        inbox.store(delivery).await?;
        stored += 1;
    }
    Ok(stored)
}
