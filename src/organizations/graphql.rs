//! `organization` with everything that belongs to it, and `organizationUpdate`.

use std::sync::Arc;

use async_graphql::{Context, InputObject, MaybeUndefined, Object, SimpleObject};

use crate::agents::{AgentConfiguration, AgentConfigurationFilter, AgentConfigurationOrder};
use crate::api_keys::{ApiKey, ApiKeyFilter, ApiKeyOrder};
use crate::audit::{self, AuditLog, AuditLogFilter, AuditLogOrder};
use crate::billing::{self, Subscription};
use crate::budgets::{Budget, BudgetFilter, BudgetOrder};
use crate::connections;
use crate::customers::{Customer, CustomerFilter, CustomerOrder};
use crate::error::{Error, Result};
use crate::escalations::{Escalation, EscalationFilter, EscalationOrder};
use crate::flags::{self, FeatureFlag};
use crate::graphql::mutation::{UserError, payload};
use crate::graphql::session::Session;
use crate::members::{
    Action, Invitation, InvitationFilter, InvitationOrder, OrganizationMember, OrganizationMemberFilter,
    OrganizationMemberOrder,
};
use crate::metrics::{
    PerformanceMetric, PerformanceMetricFilter, PerformanceMetricOrder, TeamPerformance, TeamPerformanceFilter,
    TeamPerformanceOrder,
};
use crate::organizations::{Organization, update_organization};
use crate::refunds::{Refund, RefundFilter, RefundOrder};
use crate::representatives::{Representative, RepresentativeFilter, RepresentativeOrder};
use crate::tickets::{Ticket, TicketFilter, TicketOrder};
use crate::webhook_events::{WebhookEvent, WebhookEventFilter, WebhookEventOrder};

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
        members -> OrganizationMember(OrganizationMemberFilter, OrganizationMemberOrder);
        /// The invitations. For administrators.
        invitations -> Invitation(InvitationFilter, InvitationOrder);
        /// Those who work on tickets.
        representatives -> Representative(RepresentativeFilter, RepresentativeOrder);
        /// The customers.
        customers -> Customer(CustomerFilter, CustomerOrder);
        /// The support tickets.
        tickets -> Ticket(TicketFilter, TicketOrder);
        /// The escalations of tickets.
        escalations -> Escalation(EscalationFilter, EscalationOrder);
        /// The refunds. For members and above.
        refunds -> Refund(RefundFilter, RefundOrder);
        /// The budgets. For members and above.
        budgets -> Budget(BudgetFilter, BudgetOrder);
        /// The AI agents. For members and above.
        agent_configurations -> AgentConfiguration(AgentConfigurationFilter, AgentConfigurationOrder);
        /// Performance figures by period. For members and above.
        performance_metrics -> PerformanceMetric(PerformanceMetricFilter, PerformanceMetricOrder);
        /// Performance figures by representative and period. For members and above.
        team_performance -> TeamPerformance(TeamPerformanceFilter, TeamPerformanceOrder);
        /// The API keys, without their secrets. For administrators.
        api_keys -> ApiKey(ApiKeyFilter, ApiKeyOrder);
        /// Who did what. For administrators.
        audit_logs -> AuditLog(AuditLogFilter, AuditLogOrder);
        /// The webhook events that concern this organization. For administrators.
        webhook_events -> WebhookEvent(WebhookEventFilter, WebhookEventOrder);
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
        let session = Session::of(ctx)?;
        let mut tx = session.write(Action::OrganizationUpdate).await?;
        let id = tx.tenant().organization_id;
        let (done, user_errors) = payload(update_organization(&mut tx, &audit::Actor::of(session), input).await)?;
        tx.finish(done.is_some()).await?;
        let organization = session.load_opt(done.map(|()| id)).await?;
        Ok(OrganizationUpdatePayload { organization, user_errors })
    }
}
