//! What happened to a ticket, as its members read it. The audit log has it: nothing is written twice.

use chrono::{DateTime, Utc};

use crate::api_keys::ApiKey;
use crate::graphql::filter::{DateTimeFilter, IdFilter, StringFilter};
use crate::id::{ApiKeyId, TicketEventId, TicketId, UserId};
use crate::members::User;
use crate::tickets::Ticket;
use crate::{entity, listing, relations};

entity! {
    /// A change of a ticket.
    #[graphql(complex)]
    pub struct TicketEvent("ticket_events", read by TicketNoteRead) {
        /// Unique id.
        pub id: TicketEventId,
        /// The ticket.
        #[graphql(skip)]
        pub ticket_id: TicketId,
        /// The user who made the change.
        #[graphql(skip)]
        pub user_id: Option<UserId>,
        /// The API key of the program that made the change.
        #[graphql(skip)]
        pub api_key_id: Option<ApiKeyId>,
        /// What was done: `ticket.update`.
        pub action: String,
        /// What changed: states before and after.
        pub changes: serde_json::Value,
        /// Time of the change.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    TicketEvent: TicketEventFilter, TicketEventOrder by TicketEventOrderField, default CreatedAt Desc;
    /// The user who made the change.
    user_id: IdFilter;
    /// What was done.
    action: StringFilter;
    /// Time of the change.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    TicketEvent {}
    one {
        /// The ticket.
        ticket -> Ticket! by ticket_id;
        /// The user who made the change; null for programs and the system.
        user -> User by user_id;
        /// The API key of the program that made the change; null for people and the system.
        api_key -> ApiKey by api_key_id;
    }
}
