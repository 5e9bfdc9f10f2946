//! Escalations: tickets that need someone else.
//!
//! Invariants: a status changes only along the table in `model`; a ticket has one escalation at most for each reason that has not
//! ended, except where two tickets were merged; who is told is told once, and watches the ticket; every change leaves an audit row
//! and an event in the same transaction.

mod graphql;
mod jobs;
mod model;
mod notices;
mod rules;
mod verbs;

use chrono::{DateTime, Utc};

pub use graphql::{
    EscalationAssignInput, EscalationCancelInput, EscalationCreateInput, EscalationMutation, EscalationResolveInput,
    EscalationStartInput, EscalationSubscription, EscalationUpdateInput,
};
pub use jobs::mark_overdue;
pub use model::{
    EscalationPriority, EscalationPriorityFilter, EscalationReason, EscalationReasonFilter, EscalationStatus,
    EscalationStatusFilter,
};
pub use notices::{EscalationNotice, EscalationNoticeSeeInput};
pub use rules::{EscalationRule, EscalationRuleCreateInput, EscalationRuleDeleteInput, EscalationRuleUpdateInput};
pub use verbs::{Escalating, escalate, unassign_all};

use crate::graphql::filter::{DateTimeFilter, IdFilter};
use crate::graphql::mutation::{MutationInfo, UserErrorCode, VerbError};
use crate::id::{EscalationId, RepresentativeId, TicketId, UserId};
use crate::members::User;
use crate::representatives::Representative;
use crate::tickets::Ticket;
use crate::{entity, listing, relations};

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
        /// Deadline of the resolution; null: none.
        pub due_at: Option<DateTime<Utc>>,
        /// When it was found overdue; null: it was not, or its deadline was moved.
        pub overdue_at: Option<DateTime<Utc>>,
        /// Resolution, or why it was canceled.
        pub resolution: Option<String>,
        /// Time of the resolution.
        pub resolved_at: Option<DateTime<Utc>>,
        /// Version; incremented by every change. Pass it as `expectedVersion`.
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
    /// Deadline. Overdue: `dueAt: {lt: now}` with a status that has not ended.
    due_at: DateTimeFilter, DueAt;
}

relations! {
    Escalation {
        /// Who was told of it.
        notices -> EscalationNotice by "t.escalation_id";
    }
    one {
        /// The ticket.
        ticket -> Ticket! by ticket_id;
        /// The user who escalated; null for the system.
        escalated_by -> User by escalated_by;
        /// The assigned representative.
        assigned_to -> Representative by assigned_to;
    }
    computed {
        /// The statuses that it can change to.
        next_statuses: &'static [EscalationStatus] = |row| row.status.next();
    }
}

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<EscalationCreateInput>(),
    MutationInfo::of::<EscalationAssignInput>(),
    MutationInfo::of::<EscalationUpdateInput>(),
    MutationInfo::of::<EscalationStartInput>(),
    MutationInfo::of::<EscalationResolveInput>(),
    MutationInfo::of::<EscalationCancelInput>(),
    MutationInfo::of::<EscalationNoticeSeeInput>(),
    MutationInfo::of::<EscalationRuleCreateInput>(),
    MutationInfo::of::<EscalationRuleUpdateInput>(),
    MutationInfo::of::<EscalationRuleDeleteInput>(),
];

fn no_such_escalation(field: &str) -> VerbError {
    VerbError::user(field, UserErrorCode::NotFound, "There is no such escalation in this organization.")
}
