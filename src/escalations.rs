//! Escalations: tickets that need someone else.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context};
use chrono::{DateTime, Utc};

use crate::error::{Error, Result};
use crate::graphql::filter::{DateTimeFilter, IdFilter};
use crate::graphql::session::Session;
use crate::id::{EscalationId, RepresentativeId, TicketId, UserId};
use crate::members::User;
use crate::representatives::Representative;
use crate::tickets::Ticket;
use crate::{entity, listing, pg_enum};

pg_enum! {
    /// How urgent an escalation is.
    pub enum EscalationPriority("tenantry.escalation_priority", EscalationPriorityFilter) {
        /// Whenever there is time.
        Low = "LOW",
        /// In its turn.
        Normal = "NORMAL",
        /// Before others.
        High = "HIGH",
        /// At once.
        Urgent = "URGENT",
    }
}

pg_enum! {
    /// The state of an escalation.
    pub enum EscalationStatus("tenantry.escalation_status", EscalationStatusFilter) {
        /// Nobody has it yet.
        Open = "OPEN",
        /// Somebody has it.
        Assigned = "ASSIGNED",
        /// Being worked on.
        InProgress = "IN_PROGRESS",
        /// Settled.
        Resolved = "RESOLVED",
        /// No longer needed.
        Cancelled = "CANCELLED",
    }
}

pg_enum! {
    /// Why a ticket was escalated.
    pub enum EscalationReason("tenantry.escalation_reason", EscalationReasonFilter) {
        /// An answer or solution is overdue.
        SlaBreach = "SLA_BREACH",
        /// The customer asked for it.
        CustomerRequest = "CUSTOMER_REQUEST",
        /// It takes an expert.
        TechnicalComplexity = "TECHNICAL_COMPLEXITY",
        /// It takes an exception from the rules.
        PolicyException = "POLICY_EXCEPTION",
        /// The customer is important.
        HighValueCustomer = "HIGH_VALUE_CUSTOMER",
        /// Anything else.
        Other = "OTHER",
    }
}

entity! {
    /// A ticket that needs someone else.
    #[graphql(complex)]
    pub struct Escalation("escalations", read by OrganizationRead) {
        /// The id.
        pub id: EscalationId,
        /// The ticket.
        #[graphql(skip)]
        pub ticket_id: TicketId,
        /// Why.
        pub reason: EscalationReason,
        /// Why, in words.
        pub note: Option<String>,
        /// How urgent it is.
        pub priority: EscalationPriority,
        /// The state.
        pub status: EscalationStatus,
        /// Who escalated.
        #[graphql(skip)]
        pub escalated_by: Option<UserId>,
        /// Who has it.
        #[graphql(skip)]
        pub assigned_to: Option<RepresentativeId>,
        /// How it was settled.
        pub resolution: Option<String>,
        /// When it was settled.
        pub resolved_at: Option<DateTime<Utc>>,
        /// Grows by one with every change.
        pub version: i32,
        /// When it was escalated.
        pub created_at: DateTime<Utc>,
        /// When it last changed.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    Escalation: EscalationFilter, EscalationOrder by EscalationOrderField, default CreatedAt Desc;
    /// Reason.
    reason: EscalationReasonFilter;
    /// Urgency.
    priority: EscalationPriorityFilter;
    /// State.
    status: EscalationStatusFilter;
    /// Who has it; `isNull: true` finds what nobody has.
    assigned_to_id: IdFilter = "assigned_to";
    /// Moment of the escalation.
    created_at: DateTimeFilter, CreatedAt;
}

#[ComplexObject]
impl Escalation {
    /// The ticket.
    async fn ticket(&self, ctx: &Context<'_>) -> Result<Arc<Ticket>> {
        Session::of(ctx)?.load(self.ticket_id).await?.ok_or_else(|| Error::internal("an escalation without its ticket"))
    }

    /// Who escalated; null for the system.
    async fn escalated_by(&self, ctx: &Context<'_>) -> Result<Option<Arc<User>>> {
        Session::of(ctx)?.load_opt(self.escalated_by).await
    }

    /// Who has it.
    async fn assigned_to(&self, ctx: &Context<'_>) -> Result<Option<Arc<Representative>>> {
        Session::of(ctx)?.load_opt(self.assigned_to).await
    }
}
