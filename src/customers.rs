//! The customers of an organization: profiles, which may or may not belong to a user.

use std::sync::Arc;

use async_graphql::Context;
use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::graphql::filter::{DateTimeFilter, IdFilter, StringFilter};
use crate::graphql::money::Money;
use crate::graphql::session::Session;
use crate::id::{CustomerId, UserId};
use crate::members::User;
use crate::refunds::Refund;
use crate::tickets::Ticket;
use crate::{connections, entity, listing, pg_enum};

pg_enum! {
    /// The tier of a customer.
    pub enum AccountTier("tenantry.account_tier", AccountTierFilter) {
        /// As everybody.
        Standard = "STANDARD",
        /// Pays for more.
        Premium = "PREMIUM",
        /// Is served first.
        Vip = "VIP",
    }
}

pg_enum! {
    /// How a customer stands with the organization.
    pub enum AccountStanding("tenantry.account_standing", AccountStandingFilter) {
        /// Nothing to note.
        Good = "GOOD",
        /// To be looked at twice.
        Watch = "WATCH",
        /// Some things are not granted.
        Restricted = "RESTRICTED",
        /// Nothing is granted.
        Blocked = "BLOCKED",
    }
}

entity! {
    /// A customer of the organization.
    #[graphql(complex)]
    pub struct Customer("customer_profiles", read by OrganizationRead, listed when "t.deleted_at is null") {
        /// The id.
        pub id: CustomerId,
        /// The user, where the customer has an account.
        #[graphql(skip)]
        pub user_id: Option<UserId>,
        /// The e-mail address.
        pub email: String,
        /// The full name.
        pub name: String,
        /// The telephone number.
        pub phone: Option<String>,
        /// Where the customer works.
        pub company: Option<String>,
        /// The tier.
        pub tier: AccountTier,
        /// The standing.
        pub standing: AccountStanding,
        /// All the customer ever paid, in minor units.
        #[graphql(skip)]
        pub lifetime_value_minor: i64,
        /// The currency.
        #[graphql(skip)]
        pub currency: String,
        /// What the customer prefers: language, channel and the like.
        pub preferences: serde_json::Value,
        /// What helps to help: recent orders, notes and the like.
        pub context: serde_json::Value,
        /// Grows by one with every change.
        pub version: i32,
        /// When the profile was made.
        pub created_at: DateTime<Utc>,
        /// When it last changed.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    Customer: CustomerFilter, CustomerOrder by CustomerOrderField, default CreatedAt Desc;
    /// E-mail address.
    email: StringFilter, Email;
    /// Name.
    name: StringFilter, Name;
    /// Tier.
    tier: AccountTierFilter;
    /// Standing.
    standing: AccountStandingFilter;
    /// User; `isNull: true` finds those without an account.
    user_id: IdFilter;
    /// Moment the profile was made.
    created_at: DateTimeFilter, CreatedAt;
}

connections! {
    Customer {
        /// The customer's tickets.
        tickets -> Ticket by "t.customer_id";
        /// The customer's refunds. For members and above.
        refunds -> Refund by "t.customer_id";
    }

    /// The user, where the customer has an account.
    async fn user(&self, ctx: &Context<'_>) -> Result<Option<Arc<User>>> {
        Session::of(ctx)?.load_opt(self.user_id).await
    }

    /// All the customer ever paid.
    async fn lifetime_value(&self) -> Money {
        Money::from_minor(self.lifetime_value_minor, &self.currency)
    }
}
