//! Stores events that the sender could not deliver and that were fetched from its API instead.

use bytes::Bytes;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::sync::stripe::gaps::LostEvent;
use crate::webhook_events::WebhookSource;
use crate::webhooks::inbox::{Delivery, Inbox};
use crate::webhooks::receive::head;

/// Stores events from Stripe's own list, oldest first, as Stripe would have delivered them. They came over a connection
/// on which Stripe was authenticated, which is as good as a signature. Returns how many were stored.
///
/// # Errors
/// The database could not be asked. The events before the failed one are stored.
pub async fn recover(inbox: &Inbox, clock: &Clock, lost: Vec<LostEvent>) -> Result<usize> {
    let mut stored = 0;
    for event in lost.into_iter().rev() {
        let head = head(WebhookSource::Stripe, &event.payload).unwrap_or_default();
        let delivery = Delivery {
            source: WebhookSource::Stripe,
            event_id: event.event_id,
            event_type: head.event_type,
            object_id: head.object_id,
            raw_body: Bytes::from(serde_json::to_vec(&event.payload).map_err(Error::internal)?),
            created_at: head.created_at,
            received_at: clock.now(),
        };
        inbox.store(delivery).await?;
        stored += 1;
    }
    Ok(stored)
}
