//! Webhook events in the schema: `webhookEventReplay` and `webhookDelivery`.

use std::sync::Arc;

use async_graphql::{Context, InputObject, Object, SimpleObject, Subscription};
use futures_util::Stream;
use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::access::Action;
use crate::error::{Error, Result};
use crate::graphql::entity::Entity as _;
use crate::graphql::follow::follow;
use crate::graphql::mutation::{
    self, Done, Mutation, MutationInfo, Ran, UserError, UserErrorCode, VerbError, VerbResult, Work,
};
use crate::graphql::session::Session;
use crate::id::{WebhookEventId, marker};
use crate::platform;
use crate::webhook_events::{WebhookEvent, sql};

/// The webhook event to replay.
#[derive(Clone, Debug, InputObject)]
pub struct WebhookEventReplayInput {
    /// The event.
    pub id: WebhookEventId,
}

/// The result of `webhookEventReplay`.
#[derive(Debug, SimpleObject)]
pub struct WebhookEventReplayPayload {
    /// The replayed event; null when there are errors.
    pub webhook_event: Option<Arc<WebhookEvent>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct WebhookMutation;

#[Object]
impl WebhookMutation {
    /// Replays a webhook event, whatever its status. Replaying is idempotent, and an event older than the current state
    /// changes nothing. Administrators replay events of their organization, superadmins any.
    async fn webhook_event_replay(
        &self,
        ctx: &Context<'_>,
        input: WebhookEventReplayInput,
    ) -> Result<WebhookEventReplayPayload> {
        let id = input.id;
        let session = Session::of(ctx)?;
        let (own, user_errors) = match mutation::run(ctx, input).await {
            Ok(Ran { id: Some(id), .. }) => {
                let webhook_event = session.load(id).await?;
                return Ok(WebhookEventReplayPayload { webhook_event, user_errors: Vec::new() });
            }
            Ok(Ran { user_errors, .. }) => (None, user_errors),
            // A superadmin need not be a member of anything.
            Err(error @ (Error::OrganizationRequired | Error::OrganizationNotFound | Error::Forbidden { .. })) => {
                (Some(error), vec![no_such_event()])
            }
            Err(error) => return Err(error),
        };
        match (replay_any(session, id).await, own) {
            (Ok(Some(event)), _) => {
                Ok(WebhookEventReplayPayload { webhook_event: Some(Arc::new(event)), user_errors: Vec::new() })
            }
            (Err(Error::Forbidden { .. }), Some(refused)) => Err(refused),
            (Ok(None) | Err(Error::Forbidden { .. }), _) => {
                Ok(WebhookEventReplayPayload { webhook_event: None, user_errors })
            }
            (Err(error), _) => Err(error),
        }
    }
}

/// Replays an event of the viewer's organization.
impl Mutation for WebhookEventReplayInput {
    type Row = marker::WebhookEvent;
    const FIELD: &'static str = "webhookEventReplay";
    const ACTION: Action = Action::WebhookReplay;
    const AUDIT: &'static str = "webhook_event.replay";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let Some(before) = sql::replay_own(work.tx, self.id, work.now).await? else {
            return Err(VerbError::User(vec![no_such_event()]));
        };
        sql::wake(work.tx.conn()).await?;
        Ok(Done { id: self.id, audit: json!({ "before": { "status": before } }), event: None })
    }
}

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] = &[MutationInfo::of::<WebhookEventReplayInput>()];

fn no_such_event() -> UserError {
    UserError::new("id", UserErrorCode::NotFound, "There is no such webhook event.")
}

/// As a superadmin.
async fn replay_any(session: &Session, id: WebhookEventId) -> Result<Option<WebhookEvent>> {
    let mut tx = platform::open(session, "webhook_event.replay", json!({ "id": id.to_string() })).await?;
    sql::replay(&mut tx, &[id.uuid()], session.clock().now()).await?;
    let select = format!("select {} from tenantry.webhook_events t where t.id = $1", WebhookEvent::PLATFORM_COLUMNS);
    let row = sqlx::query(AssertSqlSafe(select)).bind(id).fetch_optional(tx.conn()).await?;
    let event = row.map(|row| WebhookEvent::decode(&row, 0)).transpose()?;
    sql::wake(tx.conn()).await?;
    tx.commit().await?;
    Ok(event)
}

/// The status of a webhook event.
#[derive(Debug, SimpleObject)]
pub struct WebhookDelivery {
    /// The current event.
    pub webhook_event: Arc<WebhookEvent>,
}

/// The subscriptions of the slice.
#[derive(Debug, Default)]
pub struct WebhookSubscription;

#[Subscription]
impl WebhookSubscription {
    /// Emits every webhook event of the organization after an attempt to apply it, successful or not. For
    /// administrators.
    async fn webhook_delivery(&self, ctx: &Context<'_>) -> Result<impl Stream<Item = Result<WebhookDelivery>>> {
        follow::<marker::WebhookEvent, _>(ctx, None, |webhook_event| WebhookDelivery { webhook_event }).await
    }
}
