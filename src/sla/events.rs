//! What happened to service levels: each warning and each breach once.

use chrono::{DateTime, Utc};

use crate::graphql::filter::DateTimeFilter;
use crate::id::{SlaEventId, SlaPolicyId, TicketId};
use crate::sla::clocks::{SlaEventKind, SlaEventKindFilter, SlaTarget, SlaTargetFilter};
use crate::sla::policies::SlaPolicy;
use crate::tickets::Ticket;
use crate::{entity, listing, relations};

entity! {
    /// A warning or a breach of a service level.
    #[graphql(complex)]
    pub struct SlaEvent("sla_events", read by OrganizationRead) {
        /// Unique id.
        pub id: SlaEventId,
        /// The ticket.
        #[graphql(skip)]
        pub ticket_id: TicketId,
        /// What the ticket is or was due for.
        pub target: SlaTarget,
        /// What happened.
        pub kind: SlaEventKind,
        /// The policy.
        #[graphql(skip)]
        pub policy_id: Option<SlaPolicyId>,
        /// When the clock began: the creation of the ticket, or the first question without an answer.
        pub started_at: DateTime<Utc>,
        /// The deadline.
        pub due_at: DateTime<Utc>,
        /// Whether nobody was told, because the ticket was late before the server first looked at it.
        pub is_silent: bool,
        /// When it was found.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    SlaEvent: SlaEventFilter, SlaEventOrder by SlaEventOrderField, default CreatedAt Desc;
    /// What the ticket is or was due for.
    target: SlaTargetFilter;
    /// What happened.
    kind: SlaEventKindFilter;
    /// When it was found.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    SlaEvent {}
    one {
        /// The ticket.
        ticket -> Ticket! by ticket_id;
        /// The policy that promised it; null: the built-in terms of the priority.
        policy -> SlaPolicy by policy_id;
    }
}
