//! The subscription of an organization, as Stripe has it. Nothing here decides about money; Stripe does.

use chrono::{DateTime, Utc};

use crate::db::Bind;
use crate::error::Result;
use crate::graphql::entity::Entity as _;
use crate::graphql::session::Session;
use crate::id::SubscriptionId;
use crate::organizations::OrganizationPlan;
use crate::{entity, pg_enum};

pg_enum! {
    /// The status of a subscription, as in Stripe (Stripe API reference, `Subscription.status`).
    pub enum SubscriptionStatus("tenantry.subscription_status", SubscriptionStatusFilter) {
        /// The first payment is pending.
        Incomplete = "INCOMPLETE",
        /// The first payment was not made in time.
        IncompleteExpired = "INCOMPLETE_EXPIRED",
        /// In a trial period.
        Trialing = "TRIALING",
        /// Paid.
        Active = "ACTIVE",
        /// A payment is overdue.
        PastDue = "PAST_DUE",
        /// Ended.
        Canceled = "CANCELED",
        /// Payments failed finally; invoices stay open.
        Unpaid = "UNPAID",
        /// The trial ended without a payment method.
        Paused = "PAUSED",
    }
}

entity! {
    /// The subscription of the organization.
    pub struct Subscription("subscriptions", read by BillingRead) {
        /// Unique id.
        pub id: SubscriptionId,
        /// Status.
        pub status: SubscriptionStatus,
        /// Plan.
        pub plan: OrganizationPlan,
        /// Number of seats.
        pub seat_count: i32,
        /// Start of the current billing period.
        pub current_period_start: Option<DateTime<Utc>>,
        /// End of the current billing period.
        pub current_period_end: Option<DateTime<Utc>>,
        /// Whether the subscription ends with the current period.
        pub cancel_at_period_end: bool,
        /// Time when the subscription ends, if that was decided: with the current period or at another time.
        pub cancel_at: Option<DateTime<Utc>>,
        /// End of the trial.
        pub trial_end: Option<DateTime<Utc>>,
        /// Whether collection of payments is paused.
        pub collection_paused: bool,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

/// The subscription of the organization of the request; the database allows one at most.
pub async fn subscription(session: &Session) -> Result<Option<Subscription>> {
    let tenant = session.require(Subscription::READ).await?;
    let tx = session.read().await?;
    let sql = format!("select {} from {} t where t.organization_id = $1", Subscription::COLUMNS, Subscription::TABLE);
    let rows = tx.fetch(&sql, &[Bind::Uuid(tenant.organization_id.uuid())]).await?;
    rows.first().map(|row| Subscription::read(row, 0)).transpose()
}
