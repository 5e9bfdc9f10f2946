//! What happened with a customer, as one list. Every row of it is another's: nothing is written twice.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::customers::Customer;
use crate::escalations::Escalation;
use crate::graphql::filter::DateTimeFilter;
use crate::id::{CustomerEventId, CustomerId, EscalationId, RefundId, TicketId, TicketMessageId, UserId};
use crate::members::User;
use crate::refunds::Refund;
use crate::tickets::{Ticket, TicketMessage};
use crate::{entity, listing, pg_enum, relations};

pg_enum! {
    /// What happened with a customer.
    pub enum CustomerEventKind("tenantry.customer_event_kind", CustomerEventKindFilter) {
        /// A ticket was opened.
        Ticket = "TICKET",
        /// Somebody wrote on a ticket of the customer.
        Message = "MESSAGE",
        /// A refund was requested. For whoever may read refunds.
        Refund = "REFUND",
        /// A ticket of the customer was escalated.
        Escalation = "ESCALATION",
        /// The profile was created, changed, merged or archived. For whoever may read internal notes.
        Change = "CHANGE",
    }
}

entity! {
    /// Something that happened with a customer.
    #[graphql(complex)]
    pub struct CustomerEvent("customer_events", read by OrganizationRead,
        hidden when "t.is_internal" unless TicketNoteRead, hidden when "t.refund_id is not null" unless RefundRead) {
        /// Unique id.
        pub id: CustomerEventId,
        /// The customer.
        #[graphql(skip)]
        pub customer_id: Option<CustomerId>,
        /// What happened.
        pub kind: CustomerEventKind,
        /// The ticket.
        #[graphql(skip)]
        pub ticket_id: Option<TicketId>,
        /// The message.
        #[graphql(skip)]
        pub message_id: Option<TicketMessageId>,
        /// The refund.
        #[graphql(skip)]
        pub refund_id: Option<RefundId>,
        /// The escalation.
        #[graphql(skip)]
        pub escalation_id: Option<EscalationId>,
        /// Who did it.
        #[graphql(skip)]
        pub user_id: Option<UserId>,
        /// What was done to the profile: `customer.update`; null for the other kinds.
        pub action: Option<String>,
        /// What changed in the profile: states before and after, of texts only that they did; null for the other kinds.
        pub changes: Option<Value>,
        /// Whether it is hidden from whoever may not read internal notes.
        pub is_internal: bool,
        /// When it happened.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    CustomerEvent: CustomerEventFilter, CustomerEventOrder by CustomerEventOrderField, default CreatedAt Desc;
    /// What happened.
    kind: CustomerEventKindFilter;
    /// When it happened.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    CustomerEvent {}
    one {
        /// The customer; null when the ticket is nobody's.
        customer -> Customer by customer_id;
        /// The ticket; null for CHANGE, and for refunds without one.
        ticket -> Ticket by ticket_id;
        /// The message; null unless MESSAGE.
        message -> TicketMessage by message_id;
        /// The refund; null unless REFUND.
        refund -> Refund by refund_id;
        /// The escalation; null unless ESCALATION.
        escalation -> Escalation by escalation_id;
        /// The user who did it; null for customers, programs, the system, and tickets.
        user -> User by user_id;
    }
}
