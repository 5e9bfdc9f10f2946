//! The states of an escalation, the ways between them and its deadlines; nothing here touches the database.

use chrono::TimeDelta;

use crate::pg_enum;
use crate::sql_enum::refusal;

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

impl EscalationStatus {
    /// The states that an escalation may go to from this one.
    #[must_use]
    pub const fn next(self) -> &'static [Self] {
        use EscalationStatus::{Assigned, Cancelled, InProgress, Open, Resolved};
        match self {
            Open => &[Assigned, InProgress, Resolved, Cancelled],
            // From one representative to another as well.
            Assigned => &[Open, Assigned, InProgress, Resolved, Cancelled],
            InProgress => &[Open, Assigned, Resolved, Cancelled],
            Resolved | Cancelled => &[],
        }
    }

    /// Why an escalation may not go from this state to that one; `None` when it may.
    #[must_use]
    pub fn refusal_of(self, next: Self) -> Option<String> {
        if self.next().contains(&next) {
            return None;
        }
        Some(refusal("An escalation", self, next, self.next(), "it has ended"))
    }

    /// Whether it has ended.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Resolved | Self::Cancelled)
    }
}

impl EscalationPriority {
    /// Time to the resolution, unless another deadline is given.
    #[must_use]
    pub const fn deadline(self) -> TimeDelta {
        match self {
            Self::Urgent => TimeDelta::hours(1),
            Self::High => TimeDelta::hours(4),
            Self::Normal => TimeDelta::hours(24),
            Self::Low => TimeDelta::hours(72),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::EscalationStatus as Status;

    #[test]
    fn escalations_that_have_ended_stay_so() {
        for status in Status::ALL {
            assert_eq!(status.next().is_empty(), status.is_ended(), "{status:?}");
            assert_eq!(status.refusal_of(Status::Resolved).is_some(), status.is_ended(), "{status:?}");
            assert_eq!(status.refusal_of(Status::Cancelled).is_some(), status.is_ended(), "{status:?}");
            assert_eq!(status.next().contains(status), *status == Status::Assigned, "{status:?}");
        }
    }
}
