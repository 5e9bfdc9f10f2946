//! Webhook events in the schema: `webhookEventReplay` and `webhookDelivery`.

use std::sync::Arc;

use async_graphql::{Context, InputObject, Object, SimpleObject, Subscription};
use futures_util::{Stream, StreamExt as _};
use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::audit;
use crate::db::TenantTx;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::graphql::entity::Entity as _;
use crate::graphql::mutation::{UserError, UserErrorCode};
use crate::graphql::session::Session;
use crate::id::Id;
use crate::members::Action;
use crate::platform;
use crate::webhooks::{WebhookEvent, sql};

/// An event to work on again.
#[derive(Clone, Debug, InputObject)]
pub struct WebhookEventReplayInput {
    /// The event.
    pub id: Id<WebhookEvent>,
}

/// The result of `webhookEventReplay`.
#[derive(Debug, SimpleObject)]
pub struct WebhookEventReplayPayload {
    /// The event as it is now; null when there is none such.
    pub webhook_event: Option<Arc<WebhookEvent>>,
    /// Why nothing was done.
    pub user_errors: Vec<UserError>,
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct WebhookMutation;

#[Object]
impl WebhookMutation {
    /// Has an event worked on again, whatever became of it. Its effect is that of the first time or none: an event that
    /// is older than what is known changes nothing. Administrators replay the events of their organization, superadmins
    /// all.
    async fn webhook_event_replay(
        &self,
        ctx: &Context<'_>,
        input: WebhookEventReplayInput,
    ) -> Result<WebhookEventReplayPayload> {
        let session = Session::of(ctx)?;
        let refused = match session.write(Action::WebhookReplay).await {
            Ok(mut tx) => {
                if replay_own(&mut tx, session, input.id).await? {
                    tx.commit().await?;
                    let webhook_event = session.load(input.id).await?;
                    return Ok(WebhookEventReplayPayload { webhook_event, user_errors: Vec::new() });
                }
                None
            }
            // A superadmin need not be a member of anything.
            Err(error @ (Error::OrganizationRequired | Error::OrganizationNotFound | Error::Forbidden { .. })) => {
                Some(error)
            }
            Err(error) => return Err(error),
        };
        match replay_any(session, input.id).await {
            Ok(Some(event)) => {
                Ok(WebhookEventReplayPayload { webhook_event: Some(Arc::new(event)), user_errors: Vec::new() })
            }
            Err(Error::Forbidden { .. }) if refused.is_some() => Err(refused.unwrap_or(Error::OrganizationRequired)),
            Ok(None) | Err(Error::Forbidden { .. }) => {
                let message = "There is no such webhook event.";
                let user_errors = vec![UserError::new("id", UserErrorCode::NotFound, message)];
                Ok(WebhookEventReplayPayload { webhook_event: None, user_errors })
            }
            Err(error) => Err(error),
        }
    }
}

async fn replay_own(tx: &mut TenantTx, session: &Session, id: Id<WebhookEvent>) -> Result<bool> {
    let Some(before) = sql::replay_own(tx, id, session.app().clock.now()).await? else { return Ok(false) };
    let metadata = json!({ "before": { "status": before } });
    audit::record(tx, &audit::Actor::of(session), "webhook_event.replay", "WebhookEvent", id.uuid(), metadata).await?;
    sql::wake(tx.conn()).await?;
    Ok(true)
}

/// As a superadmin.
async fn replay_any(session: &Session, id: Id<WebhookEvent>) -> Result<Option<WebhookEvent>> {
    let mut tx = platform::open(session, "webhook_event.replay", json!({ "id": id.to_string() })).await?;
    sql::replay(&mut tx, &[id.uuid()], session.app().clock.now()).await?;
    let select = format!("select {} from tenantry.webhook_events t where t.id = $1", WebhookEvent::COLUMNS);
    let row = sqlx::query(AssertSqlSafe(select)).bind(id).fetch_optional(tx.conn()).await?;
    let event = row.map(|row| WebhookEvent::decode(&row, 0)).transpose()?;
    sql::wake(tx.conn()).await?;
    tx.commit().await?;
    Ok(event)
}

/// What became of a webhook event.
#[derive(Debug, SimpleObject)]
pub struct WebhookDelivery {
    /// The event as it is now.
    pub webhook_event: Arc<WebhookEvent>,
}

/// The subscriptions of the slice.
#[derive(Debug, Default)]
pub struct WebhookSubscription;

#[Subscription]
impl WebhookSubscription {
    /// Tells of every webhook event of the organization when it was worked on, well or not. For administrators.
    async fn webhook_delivery(&self, ctx: &Context<'_>) -> Result<impl Stream<Item = Result<WebhookDelivery>>> {
        let session = Arc::clone(Session::of(ctx)?);
        let tenant = session.require(Action::WebhookRead).await?;
        let events = session.app().events.subscribe(tenant.organization_id);
        // Nothing is read until something happens: the connection goes back.
        session.close().await;
        Ok(events.filter_map(move |event| {
            let session = Arc::clone(&session);
            async move {
                let Event::Webhook { id } = event else { return None };
                // What the last event loaded is not what this one is to show.
                session.close().await;
                let event = async {
                    session.require(Action::WebhookRead).await?;
                    session.load(id).await
                };
                match event.await {
                    Ok(Some(webhook_event)) => Some(Ok(WebhookDelivery { webhook_event })),
                    Ok(None) => None,
                    Err(error) => Some(Err(error)),
                }
            }
        }))
    }
}
