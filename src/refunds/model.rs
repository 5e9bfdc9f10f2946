//! The states of a refund, the ways between them, and amounts as Stripe counts them; nothing here touches the database.

use crate::graphql::money::exponent;
use crate::pg_enum;
use crate::sql_enum::refusal;

pg_enum! {
    /// The reason of a refund.
    pub enum RefundReason("tenantry.refund_reason", RefundReasonFilter) {
        /// The product is defective.
        DefectiveProduct = "DEFECTIVE_PRODUCT",
        /// The product is not as described.
        NotAsDescribed = "NOT_AS_DESCRIBED",
        /// The delivery was late.
        LateDelivery = "LATE_DELIVERY",
        /// The charge was a duplicate.
        DuplicateCharge = "DUPLICATE_CHARGE",
        /// The service was unsatisfactory.
        ServiceIssue = "SERVICE_ISSUE",
        /// Goodwill.
        Goodwill = "GOODWILL",
        /// Any other case.
        Other = "OTHER",
    }
}

pg_enum! {
    /// The status of a refund.
    pub enum RefundStatus("tenantry.refund_status", RefundStatusFilter, ranked) {
        /// Requested, and not decided about: rows that were brought from elsewhere. `refundRequest` decides at once.
        Requested = "REQUESTED",
        /// Requires approval by a person.
        PendingApproval = "PENDING_APPROVAL",
        /// Approved, and not paid yet.
        Approved = "APPROVED",
        /// Denied.
        Denied = "DENIED",
        /// Payment in progress: it was sent to Stripe, or Stripe has it and it has not arrived.
        Processing = "PROCESSING",
        /// Paid.
        Settled = "SETTLED",
        /// The payment failed, or came back.
        Failed = "FAILED",
        /// Canceled.
        Cancelled = "CANCELLED",
    }
}

impl RefundStatus {
    /// The states that a refund may go to from this one.
    #[must_use]
    pub const fn next(self) -> &'static [Self] {
        use RefundStatus::{Approved, Cancelled, Denied, Failed, PendingApproval, Processing, Requested, Settled};
        match self {
            // It may be escalated while it waits.
            Requested | PendingApproval => &[PendingApproval, Approved, Denied, Cancelled],
            Approved => &[Processing, Settled, Failed, Cancelled],
            Processing => &[Settled, Failed],
            Failed => &[Approved, Cancelled],
            // Stripe may say so days later.
            Settled => &[Failed],
            Denied | Cancelled => &[],
        }
    }

    /// Why a refund may not go from this state to that one; `None` when it may.
    #[must_use]
    pub fn refusal_of(self, next: Self) -> Option<String> {
        let may = self.next().contains(&next);
        (!may).then(|| refusal("A refund", self, next, self.next(), "it has ended"))
    }
}

impl RefundReason {
    /// What Stripe calls it (API reference, "Create a refund").
    pub(super) const fn at_stripe(self) -> &'static str {
        match self {
            Self::DuplicateCharge => "duplicate",
            _ => "requested_by_customer",
        }
    }
}

/// How one of our minor units is counted at Stripe: `(ours, Stripe's)`, so many of ours are so many of theirs (Stripe's
/// documentation, "Supported currencies"). `None`: it cannot be said.
fn scale(currency: &str) -> Option<(i64, i64)> {
    match currency {
        // Stripe's documentation has this one in its list of currencies without decimals, and among the special cases that are
        // sent with two: a factor of a hundred is not to be guessed.
        "UGX" => None,
        // Has no decimals any more, and is sent with two that are zero.
        "ISK" => Some((1, 100)),
        // Has two decimals in ISO 4217 and none at Stripe.
        "MGA" => Some((100, 1)),
        // Three decimals, the last of which is zero: Stripe's partners have two.
        "BHD" | "JOD" | "KWD" | "OMR" | "TND" => Some((10, 10)),
        // Stripe pays in no other currency with these.
        other => matches!(exponent(other), 0 | 2).then_some((1, 1)),
    }
}

/// The amount as Stripe counts it; `None`: it cannot be said there.
#[must_use]
pub fn to_stripe(minor: i64, currency: &str) -> Option<i64> {
    let (ours, theirs) = scale(currency)?;
    if minor % ours == 0 { (minor / ours).checked_mul(theirs) } else { None }
}

/// The amount in our minor units; `None`: it cannot be said here.
#[must_use]
pub fn from_stripe(amount: i64, currency: &str) -> Option<i64> {
    let (ours, theirs) = scale(currency)?;
    if amount % theirs == 0 { (amount / theirs).checked_mul(ours) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_as_stripe_counts_them() {
        for (minor, currency, amount) in [
            (1250, "USD", Some(1250)),
            (1250, "JPY", Some(1250)),
            (5, "ISK", Some(500)),
            (1200, "MGA", Some(12)),
            (1250, "MGA", None),
            (5120, "KWD", Some(5120)),
            (5124, "KWD", None),
            (1000, "TND", Some(1000)),
            (500, "UGX", None),
            (1000, "IQD", None),
            (10_000, "CLF", None),
            (i64::MAX, "ISK", None),
        ] {
            assert_eq!(to_stripe(minor, currency), amount, "{minor} {currency}");
            if let Some(amount) = amount {
                assert_eq!(from_stripe(amount, currency), Some(minor), "{amount} {currency}");
            }
        }
        assert_eq!(from_stripe(550, "ISK"), None, "no half of a krona");
        assert_eq!(from_stripe(500, "UGX"), None);
    }

    #[test]
    fn refunds_end_where_they_may() {
        use RefundStatus::{Approved, Cancelled, Denied, Failed, PendingApproval, Processing, Settled};
        assert!(Approved.refusal_of(Processing).is_none() && Settled.refusal_of(Failed).is_none());
        for (from, to) in [
            (Denied, Approved),
            (Cancelled, Approved),
            (Settled, Cancelled),
            (Processing, Cancelled),
            (PendingApproval, Settled),
        ] {
            let refusal = from.refusal_of(to).expect("a refusal");
            assert!(refusal.contains(from.label()) && refusal.contains(to.label()), "{refusal}");
        }
    }
}
