//! Escalations: tickets that need someone else.

use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::graphql::filter::{DateTimeFilter, IdFilter};
use crate::id::{EscalationId, RepresentativeId, TicketId, UserId};
use crate::members::User;
use crate::representatives::Representative;
use crate::tickets::Ticket;
use crate::{entity, listing, pg_enum, relations};

pg_enum! {
    /// The priority of an escalation.
    pub enum EscalationPriority("tenantry.escalation_priority", EscalationPriorityFilter, ranked) {
        /// Can wait.
        Low = "LOW",
        /// Handled in order.
        Normal = "NORMAL",
        /// Handled before others.
        High = "HIGH",
        /// Handled at once.
        Urgent = "URGENT",
    }
}

pg_enum! {
    /// The status of an escalation.
    pub enum EscalationStatus("tenantry.escalation_status", EscalationStatusFilter, ranked) {
        /// Not assigned yet.
        Open = "OPEN",
        /// Assigned.
        Assigned = "ASSIGNED",
        /// In progress.
        InProgress = "IN_PROGRESS",
        /// Resolved.
        Resolved = "RESOLVED",
        /// Canceled.
        Cancelled = "CANCELLED",
    }
}

pg_enum! {
    /// The reason of an escalation.
    pub enum EscalationReason("tenantry.escalation_reason", EscalationReasonFilter) {
        /// A response or resolution is overdue.
        SlaBreach = "SLA_BREACH",
        /// The customer asked for it.
        CustomerRequest = "CUSTOMER_REQUEST",
        /// The case needs an expert.
        TechnicalComplexity = "TECHNICAL_COMPLEXITY",
        /// The case needs an exception from the rules.
        PolicyException = "POLICY_EXCEPTION",
        /// The customer is a VIP.
        HighValueCustomer = "HIGH_VALUE_CUSTOMER",
        /// Any other case.
        Other = "OTHER",
    }
}

entity! {
    /// The escalation of a ticket to somebody else.
    #[graphql(complex)]
    pub struct Escalation("escalations", read by OrganizationRead) {
        /// Unique id.
        pub id: EscalationId,
        /// The ticket.
        #[graphql(skip)]
        pub ticket_id: TicketId,
        /// Reason.
        pub reason: EscalationReason,
        /// Explanation of the reason.
        pub note: Option<String>,
        /// Priority.
        pub priority: EscalationPriority,
        /// Status.
        pub status: EscalationStatus,
        /// Who escalated.
        #[graphql(skip)]
        pub escalated_by: Option<UserId>,
        /// The assigned representative.
        #[graphql(skip)]
        pub assigned_to: Option<RepresentativeId>,
        /// Resolution.
        pub resolution: Option<String>,
        /// Time of the resolution.
        pub resolved_at: Option<DateTime<Utc>>,
        /// Version; incremented by every change.
        pub version: i32,
        /// Time of the escalation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    Escalation: EscalationFilter, EscalationOrder by EscalationOrderField, default CreatedAt Desc;
    /// Reason.
    reason: EscalationReasonFilter;
    /// Priority.
    priority: EscalationPriorityFilter;
    /// Status.
    status: EscalationStatusFilter;
    /// Assigned representative; `isNull: true` finds unassigned escalations.
    assigned_to_id: IdFilter = "assigned_to";
    /// Time of the escalation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    Escalation {}
    one {
        /// The ticket.
        ticket -> Ticket! by ticket_id;
        /// The user who escalated; null for the system.
        escalated_by -> User by escalated_by;
        /// The assigned representative.
        assigned_to -> Representative by assigned_to;
    }
}
