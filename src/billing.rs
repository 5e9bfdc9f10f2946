//! The subscription of an organization, as Stripe has it. Nothing here decides about money; Stripe does.

use chrono::{DateTime, Utc};
use sqlx::AssertSqlSafe;

use crate::error::Result;
use crate::graphql::entity::Entity as _;
use crate::graphql::session::Session;
use crate::id::SubscriptionId;
use crate::organizations::OrganizationPlan;
use crate::{entity, pg_enum};

pg_enum! {
    /// The state of a subscription: Stripe's eight (Stripe API reference, `Subscription.status`).
    pub enum SubscriptionStatus("tenantry.subscription_status", SubscriptionStatusFilter) {
        /// The first payment is still to come.
        Incomplete = "INCOMPLETE",
        /// The first payment never came.
        IncompleteExpired = "INCOMPLETE_EXPIRED",
        /// In its trial.
        Trialing = "TRIALING",
        /// Paid.
        Active = "ACTIVE",
        /// A payment is overdue.
        PastDue = "PAST_DUE",
        /// Over.
        Canceled = "CANCELED",
        /// Payments failed for good; invoices stay open.
        Unpaid = "UNPAID",
        /// The trial ended without a way to pay.
        Paused = "PAUSED",
    }
}

entity! {
    /// What the organization pays for.
    pub struct Subscription("subscriptions", read by BillingRead) {
        /// The id.
        pub id: SubscriptionId,
        /// The state.
        pub status: SubscriptionStatus,
        /// The plan.
        pub plan: OrganizationPlan,
        /// How many seats are paid for.
        pub seat_count: i32,
        /// The beginning of the period that is paid for.
        pub current_period_start: Option<DateTime<Utc>>,
        /// The end of the period that is paid for.
        pub current_period_end: Option<DateTime<Utc>>,
        /// Whether it ends with the period.
        pub cancel_at_period_end: bool,
        /// When the trial ends or ended.
        pub trial_end: Option<DateTime<Utc>>,
        /// Whether no money is being collected.
        pub collection_paused: bool,
        /// When it last changed.
        pub updated_at: DateTime<Utc>,
    }
}

/// The subscription of the organization of the request; the database allows one at most.
pub async fn subscription(session: &Session) -> Result<Option<Subscription>> {
    let tenant = session.require(Subscription::READ).await?;
    let mut tx = session.read().await?;
    let sql = format!("select {} from {} t where t.organization_id = $1", Subscription::COLUMNS, Subscription::TABLE);
    let row = sqlx::query(AssertSqlSafe(sql)).bind(tenant.organization_id).fetch_optional(tx.conn()).await?;
    Ok(row.map(|row| Subscription::decode(&row, 0)).transpose()?)
}
