//! `organization` with everything that belongs to it, and `organizationUpdate`.

use std::sync::Arc;

use async_graphql::{Context, InputObject, MaybeUndefined, Object, SimpleObject};

use crate::agents::AgentConfiguration;
use crate::api_keys::ApiKey;
use crate::audit::AuditLog;
use crate::billing::{self, Subscription};
use crate::budgets::Budget;
use crate::customers::Customer;
use crate::error::{Error, Result};
use crate::escalations::Escalation;
use crate::flags::{self, FeatureFlag};
use crate::graphql::mutation::{self, UserError};
use crate::graphql::session::Session;
use crate::id::marker;
use crate::members::{Invitation, OrganizationMember};
use crate::metrics::{PerformanceMetric, TeamPerformance};
use crate::organizations::Organization;
use crate::refunds::Refund;
use crate::relations;
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
        Session::of(ctx)?.load_own::<marker::Organization>().await?.ok_or(Error::OrganizationNotFound)
    }
}

relations! {
    Organization {
        /// The members.
        members -> OrganizationMember;
        /// The invitations. For administrators.
        invitations -> Invitation;
        /// The representatives, who work on tickets.
        representatives -> Representative;
        /// The customers.
        customers -> Customer;
        /// The tickets.
        tickets -> Ticket;
        /// The escalations.
        escalations -> Escalation;
        /// The refunds. For members and above.
        refunds -> Refund;
        /// The budgets. For members and above.
        budgets -> Budget;
        /// The AI agents. For members and above.
        agent_configurations -> AgentConfiguration;
        /// The performance metrics by period. For members and above.
        performance_metrics -> PerformanceMetric;
        /// The performance metrics by representative and period. For members and above.
        team_performance -> TeamPerformance;
        /// The API keys, without their secrets. For administrators.
        api_keys -> ApiKey;
        /// The audit log. For administrators.
        audit_logs -> AuditLog;
        /// The webhook events of the organization. For administrators.
        webhook_events -> WebhookEvent;
    }

    /// Every feature flag, evaluated for the organization at this moment.
    async fn feature_flags(&self, ctx: &Context<'_>) -> Result<Vec<FeatureFlag>> {
        flags::feature_flags(ctx).await
    }

    /// The subscription; null when the organization never had one.
    async fn subscription(&self, ctx: &Context<'_>) -> Result<Option<Subscription>> {
        billing::subscription(Session::of(ctx)?).await
    }
}

/// The changes of an organization. Omitted fields stay as they are.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationUpdateInput {
    /// Name: 1 to 200 characters.
    pub name: Option<String>,
    /// Industry: at most 100 characters; null or "" removes it.
    pub industry: MaybeUndefined<String>,
    /// E-mail address for customers; null removes it.
    pub support_email: MaybeUndefined<String>,
    /// Settings of client applications, replaced as a whole: a JSON object of at most 64 KiB.
    pub settings: Option<serde_json::Value>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The result of `organizationUpdate`.
#[derive(Debug, SimpleObject)]
pub struct OrganizationUpdatePayload {
    /// The updated organization; null when there are errors.
    pub organization: Option<Arc<Organization>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct OrganizationMutation;

#[Object]
impl OrganizationMutation {
    /// Updates the organization of the request.
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
