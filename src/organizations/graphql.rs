//! `organization` with everything that belongs to it, and `organizationUpdate`.

use std::sync::Arc;

use async_graphql::{Context, InputObject, MaybeUndefined, Object, SimpleObject};

use crate::agents::AgentConfiguration;
use crate::api_keys::ApiKey;
use crate::audit::AuditLog;
use crate::billing::{self, Subscription};
use crate::budgets::Budget;
use crate::connections;
use crate::customers::Customer;
use crate::error::{Error, Result};
use crate::escalations::Escalation;
use crate::flags::{self, FeatureFlag};
use crate::graphql::mutation::{self, UserError};
use crate::graphql::session::Session;
use crate::members::{Invitation, OrganizationMember};
use crate::metrics::{PerformanceMetric, TeamPerformance};
use crate::organizations::Organization;
use crate::refunds::Refund;
use crate::representatives::Representative;
use crate::tickets::Ticket;
use crate::webhook_events::WebhookEvent;

/// The root field of the slice.
#[derive(Debug, Default)]
pub struct OrganizationQuery;

#[Object]
impl OrganizationQuery {
    /// The organization of the request: the one the token was issued for, or the one `X-Organization-Id` names.
    async fn organization(&self, ctx: &Context<'_>) -> Result<Arc<Organization>> {
        let session = Session::of(ctx)?;
        let id = session.tenant().await?.organization_id;
        session.load(id).await?.ok_or(Error::OrganizationNotFound)
    }
}

connections! {
    Organization {
        /// The members.
        members -> OrganizationMember;
        /// The invitations. For administrators.
        invitations -> Invitation;
        /// Those who work on tickets.
        representatives -> Representative;
        /// The customers.
        customers -> Customer;
        /// The support tickets.
        tickets -> Ticket;
        /// The escalations of tickets.
        escalations -> Escalation;
        /// The refunds. For members and above.
        refunds -> Refund;
        /// The budgets. For members and above.
        budgets -> Budget;
        /// The AI agents. For members and above.
        agent_configurations -> AgentConfiguration;
        /// Performance figures by period. For members and above.
        performance_metrics -> PerformanceMetric;
        /// Performance figures by representative and period. For members and above.
        team_performance -> TeamPerformance;
        /// The API keys, without their secrets. For administrators.
        api_keys -> ApiKey;
        /// Who did what. For administrators.
        audit_logs -> AuditLog;
        /// The webhook events that concern this organization. For administrators.
        webhook_events -> WebhookEvent;
    }

    /// Every feature flag as it is decided for this organization now.
    async fn feature_flags(&self, ctx: &Context<'_>) -> Result<Vec<FeatureFlag>> {
        flags::feature_flags(ctx).await
    }

    /// The subscription; null for an organization that never had one.
    async fn subscription(&self, ctx: &Context<'_>) -> Result<Option<Subscription>> {
        billing::subscription(Session::of(ctx)?).await
    }
}

/// What to change in the organization; what is left out stays.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationUpdateInput {
    /// The name: 1 to 200 characters.
    pub name: Option<String>,
    /// What the organization does: at most 100 characters; null or "" removes it.
    pub industry: MaybeUndefined<String>,
    /// Where its customers write to; null removes it.
    pub support_email: MaybeUndefined<String>,
    /// Settings of the clients, replaced as a whole: a JSON object of at most 64 KiB.
    pub settings: Option<serde_json::Value>,
    /// Refuse with `VERSION_CONFLICT` unless the organization is at this version.
    pub expected_version: Option<i32>,
}

/// The result of `organizationUpdate`.
#[derive(Debug, SimpleObject)]
pub struct OrganizationUpdatePayload {
    /// The organization as it is now; null when it was not changed.
    pub organization: Option<Arc<Organization>>,
    /// Why it was not changed.
    pub user_errors: Vec<UserError>,
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct OrganizationMutation;

#[Object]
impl OrganizationMutation {
    /// Changes the organization of the request.
    async fn organization_update(
        &self,
        ctx: &Context<'_>,
        input: OrganizationUpdateInput,
    ) -> Result<OrganizationUpdatePayload> {
        let ran = mutation::run(ctx, input).await?;
        let organization = Session::of(ctx)?.load_opt(ran.id).await?;
        Ok(OrganizationUpdatePayload { organization, user_errors: ran.user_errors })
    }
}
