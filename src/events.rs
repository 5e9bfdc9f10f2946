//! Events from one instance to the subscribers of all: `PostgreSQL`'s NOTIFY.
//!
//! A change notifies inside its transaction, so an event arrives exactly when the change is visible, and never for one
//! that was rolled back. The payload names rows, it does not hold them: each subscriber reads them again under its own
//! rights. A subscriber that falls behind loses the oldest events of its queue, never the server's memory.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::{broadcast, watch};
use uuid::Uuid;

use crate::db::SystemTx;
use crate::error::{Error, Result};
use crate::id::{Id, Identified, OrganizationId};

/// The channel of NOTIFY.
pub const CHANNEL: &str = "tenantry_events";
/// Events kept for a subscriber that is slow to take them.
const QUEUE: usize = 1024;

/// What happened: a change of one row. The topic is the name of the row's type, so that a new kind of row needs no
/// change here, and an instance that does not know a topic passes over it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    topic: Cow<'static, str>,
    id: Uuid,
}

impl Event {
    /// The row with this id changed.
    #[must_use]
    pub fn of<T: Identified>(id: Id<T>) -> Self {
        Self { topic: Cow::Borrowed(T::NAME), id: id.uuid() }
    }

    /// The id of the row, when it is a `T`.
    #[must_use]
    pub fn id_of<T: Identified>(&self) -> Option<Id<T>> {
        (self.topic == T::NAME).then(|| Id::from_uuid(self.id))
    }
}

/// An event and whose it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Envelope {
    organization: Uuid,
    event: Event,
}

/// Tells all instances of events of any organizations, when the transaction commits.
pub async fn tell(tx: &mut SystemTx, events: &[(OrganizationId, Event)]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let payloads: Vec<String> =
        events.iter().map(|(organization, event)| payload(*organization, event)).collect::<Result<_>>()?;
    sqlx::query!("select pg_notify($1, payload) from unnest($2::text[]) as payload", CHANNEL, &payloads)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// What is sent to [`CHANNEL`] of an event of this organization.
///
/// # Errors
/// [`Error::Internal`] when it cannot be written as JSON.
pub fn payload(organization: OrganizationId, event: &Event) -> Result<String> {
    let envelope = Envelope { organization: organization.uuid(), event: event.clone() };
    serde_json::to_string(&envelope).map_err(Error::internal)
}

/// The events of all organizations, as they arrive at this instance.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Arc<Envelope>>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::channel(QUEUE).0)
    }
}

impl Events {
    /// The events of one organization from now on.
    pub fn subscribe(&self, organization: OrganizationId) -> impl Stream<Item = Event> + Send + use<> {
        let receiver = self.0.subscribe();
        futures_util::stream::unfold(receiver, |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(envelope) => return Some((envelope, receiver)),
                    Err(broadcast::error::RecvError::Lagged(lost)) => {
                        tracing::warn!(lost, "a subscriber is too slow and lost events");
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
        .filter_map(move |envelope| {
            let event = (envelope.organization == organization.uuid()).then(|| envelope.event.clone());
            std::future::ready(event)
        })
    }

    /// How many subscriptions listen at this instance.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.0.receiver_count()
    }

    /// Listens until shutdown, on a connection of its own; comes back by itself when the database does.
    pub async fn listen(self, options: PgConnectOptions, mut shutdown: watch::Receiver<bool>) {
        let options = options.application_name("tenantry-events");
        loop {
            tokio::select! {
                () = self.receive(&options) => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn receive(&self, options: &PgConnectOptions) {
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options.clone());
        let result: Result<(), sqlx::Error> = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            loop {
                let notification = listener.recv().await?;
                match serde_json::from_str::<Envelope>(notification.payload()) {
                    // Nobody listening is no error.
                    Ok(envelope) => drop(self.0.send(Arc::new(envelope))),
                    Err(error) => tracing::warn!(%error, "an event that this build does not understand"),
                }
            }
        }
        .await;
        if let Err(error) = result {
            tracing::warn!(%error, "listening for events failed; trying again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{TicketId, marker};

    #[test]
    fn an_event_names_its_topic_and_its_row() {
        let id = TicketId::from_uuid(Uuid::from_u128(7));
        let event = Event::of(id);
        assert_eq!(event.id_of::<marker::Ticket>(), Some(id));
        assert_eq!(event.id_of::<marker::User>(), None);
        let text = serde_json::to_string(&event).expect("it is plain JSON");
        assert_eq!(text, r#"{"topic":"Ticket","id":"00000000-0000-0000-0000-000000000007"}"#);
        assert_eq!(serde_json::from_str::<Event>(&text).expect("our own form"), event);
    }
}
