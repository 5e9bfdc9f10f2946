//! The states of a ticket and the ways between them; nothing here touches the database.

use chrono::{DateTime, Utc};

use crate::pg_enum;
use crate::sql_enum::refusal;

pg_enum! {
    /// The status of a ticket.
    pub enum TicketStatus("tenantry.ticket_status", TicketStatusFilter, ranked) {
        /// No response yet.
        New = "NEW",
        /// In progress.
        Open = "OPEN",
        /// Waiting for the customer; the service level is paused.
        PendingCustomer = "PENDING_CUSTOMER",
        /// Waiting for something else; the service level is paused.
        OnHold = "ON_HOLD",
        /// Resolved by the representative. A reply reopens the ticket.
        Resolved = "RESOLVED",
        /// Closed; cannot be reopened.
        Closed = "CLOSED",
    }
}

pg_enum! {
    /// The priority of a ticket.
    pub enum TicketPriority("tenantry.ticket_priority", TicketPriorityFilter, ranked) {
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
    /// The category of a ticket.
    pub enum TicketCategory("tenantry.ticket_category", TicketCategoryFilter, ranked) {
        /// Invoices and payments.
        Billing = "BILLING",
        /// A malfunction.
        TechnicalIssue = "TECHNICAL_ISSUE",
        /// Access and profile.
        Account = "ACCOUNT",
        /// Orders and deliveries.
        Order = "ORDER",
        /// A request for a new feature.
        FeatureRequest = "FEATURE_REQUEST",
        /// Any other case.
        Other = "OTHER",
    }
}

impl TicketStatus {
    /// The states a person may move a ticket to from this one.
    #[must_use]
    pub const fn next(self) -> &'static [Self] {
        use TicketStatus::{Closed, New, OnHold, Open, PendingCustomer, Resolved};
        match self {
            New => &[Open, PendingCustomer, OnHold, Resolved, Closed],
            Open => &[PendingCustomer, OnHold, Resolved, Closed],
            PendingCustomer => &[Open, OnHold, Resolved, Closed],
            OnHold => &[Open, PendingCustomer, Resolved, Closed],
            Resolved => &[Open, Closed],
            Closed => &[],
        }
    }

    /// Whether a ticket may go from this state to that one; staying is always allowed.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        self == next || self.next().contains(&next)
    }

    /// Why a ticket may not go from this state to that one; `None` when it may.
    #[must_use]
    pub fn refusal_of(self, next: Self) -> Option<String> {
        if self.may_become(next) {
            return None;
        }
        Some(refusal("A ticket", self, next, self.next(), "it stays as it is"))
    }

    /// Whether it is the representatives' turn.
    #[must_use]
    pub const fn is_worked_on(self) -> bool {
        matches!(self, Self::New | Self::Open)
    }

    /// The status after a message: of the customer, or of the organization to the customer. A new ticket is open once it
    /// was answered; whatever waited or was solved is open again when the customer writes.
    #[must_use]
    pub const fn after_message(self, of_customer: bool) -> Self {
        match (self, of_customer) {
            (Self::New, false) | (Self::Resolved, _) | (Self::PendingCustomer, true) => Self::Open,
            (status, _) => status,
        }
    }

    /// Whether the clocks of the service level stand still.
    #[must_use]
    pub const fn is_paused(self) -> bool {
        matches!(self, Self::PendingCustomer | Self::OnHold)
    }
}

/// Since when the customer waits for an answer, after the ticket went from one status to another: they do while it is worked
/// on, and wait anew when it is opened again.
#[must_use]
pub fn waiting_after(
    waiting: Option<DateTime<Utc>>,
    before: TicketStatus,
    after: TicketStatus,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    match after {
        TicketStatus::New | TicketStatus::Open if before.is_worked_on() => waiting,
        TicketStatus::New | TicketStatus::Open => Some(now),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_transitions() {
        use TicketStatus::{Closed, New, OnHold, Open, PendingCustomer, Resolved};
        for status in TicketStatus::ALL {
            assert!(status.may_become(*status));
            assert!(*status == New || !status.may_become(New), "{status:?} cannot become new again");
        }
        assert!(TicketStatus::ALL.iter().all(|next| *next == Closed || !Closed.may_become(*next)));
        assert!(Resolved.may_become(Open) && !Resolved.may_become(OnHold) && !Resolved.may_become(PendingCustomer));
        assert!(Open.may_become(Resolved) && PendingCustomer.may_become(Open));
    }

    #[test]
    fn messages_move_a_ticket_as_the_desk_expects() {
        use TicketStatus::{Closed, New, OnHold, Open, PendingCustomer, Resolved};
        let after =
            |of_customer| TicketStatus::ALL.iter().map(|status| status.after_message(of_customer)).collect::<Vec<_>>();
        assert_eq!(after(true), [New, Open, Open, OnHold, Open, Closed], "the customer wrote");
        assert_eq!(after(false), [Open, Open, PendingCustomer, OnHold, Open, Closed], "the desk answered");
        let at = |seconds| DateTime::from_timestamp(seconds, 0);
        let now = at(9).expect("a time");
        assert_eq!(waiting_after(at(1), New, Open, now), at(1), "nobody answered yet");
        assert_eq!(waiting_after(at(1), Open, PendingCustomer, now), None);
        assert_eq!(waiting_after(None, Resolved, Open, now), at(9), "waits anew");
        assert_eq!(waiting_after(None, Open, Open, now), None, "was answered");
    }
}
