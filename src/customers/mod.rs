//! The customers of an organization: profiles, which may or may not belong to a user.
//!
//! Invariants: an address is one living customer's; a profile that went into another is archived, and nothing refers to it any more
//! but its own history; every change leaves an audit row and an event in the same transaction.

mod graphql;
mod merging;
mod timeline;
mod verbs;

use chrono::{DateTime, Utc};

pub use graphql::{
    CustomerArchiveInput, CustomerCreateInput, CustomerMergeInput, CustomerMutation, CustomerSubscription,
    CustomerUpdateInput,
};
pub use timeline::CustomerEvent;

use crate::error::Result;
use crate::graphql::filter::{DateTimeFilter, IdFilter, StringFilter};
use crate::graphql::money::Money;
use crate::graphql::mutation::{MutationInfo, UserErrorCode, VerbError};
use crate::id::{CustomerId, UserId};
use crate::members::User;
use crate::refunds::Refund;
use crate::tickets::Ticket;
use crate::{entity, listing, pg_enum, relations};

pg_enum! {
    /// The tier of a customer.
    pub enum AccountTier("tenantry.account_tier", AccountTierFilter, ranked) {
        /// The default tier.
        Standard = "STANDARD",
        /// Pays for a higher level of service.
        Premium = "PREMIUM",
        /// Is served first.
        Vip = "VIP",
    }
}

pg_enum! {
    /// The standing of a customer: what members and rules are to know. It refuses nothing by itself.
    pub enum AccountStanding("tenantry.account_standing", AccountStandingFilter) {
        /// No restrictions.
        Good = "GOOD",
        /// Requests need a second look.
        Watch = "WATCH",
        /// Some requests should be refused.
        Restricted = "RESTRICTED",
        /// Every request should be refused.
        Blocked = "BLOCKED",
    }
}

entity! {
    /// A customer of the organization.
    #[graphql(complex)]
    pub struct Customer("customer_profiles", read by OrganizationRead, listed when "t.deleted_at is null") {
        /// Unique id.
        pub id: CustomerId,
        /// The user account; null when the customer has none.
        #[graphql(skip)]
        pub user_id: Option<UserId>,
        /// E-mail address.
        pub email: String,
        /// Full name.
        pub name: String,
        /// Telephone number.
        pub phone: Option<String>,
        /// Employer.
        pub company: Option<String>,
        /// Tier.
        pub tier: AccountTier,
        /// Standing.
        pub standing: AccountStanding,
        /// All the customer ever paid, in minor units.
        #[graphql(skip)]
        pub lifetime_value_minor: i64,
        /// The currency.
        #[graphql(skip)]
        pub currency: String,
        /// Preferences such as language and channel.
        pub preferences: serde_json::Value,
        /// Context for support, such as recent orders and notes.
        pub context: serde_json::Value,
        /// The profile that this one was merged into.
        #[graphql(skip)]
        pub merged_into_id: Option<CustomerId>,
        /// Time of archiving or merging; null: in use.
        pub archived_at: Option<DateTime<Utc>> = "deleted_at",
        /// Version; incremented by every change. Pass it as `expectedVersion`.
        pub version: i32,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
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
    /// User account; `isNull: true` finds customers without one.
    user_id: IdFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    Customer {
        /// The customer's tickets.
        tickets -> Ticket by "t.customer_id";
        /// The customer's refunds. For members and above.
        refunds -> Refund by "t.customer_id";
        /// What happened, newest first: tickets, messages of both sides, refunds, escalations, changes of the profile.
        timeline -> CustomerEvent by "t.customer_id";
    }
    one {
        /// The user account; null when the customer has none.
        user -> User by user_id;
        /// The customer that this one was merged into.
        merged_into -> Customer by merged_into_id;
    }
    computed {
        /// Total amount paid by the customer.
        lifetime_value: Money = |row| Money::from_minor(row.lifetime_value_minor, &row.currency);
    }
}

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<CustomerCreateInput>(),
    MutationInfo::of::<CustomerUpdateInput>(),
    MutationInfo::of::<CustomerArchiveInput>(),
    MutationInfo::of::<CustomerMergeInput>(),
];

fn no_such_customer(field: &str) -> VerbError {
    VerbError::user(field, UserErrorCode::NotFound, "There is no such customer in this organization.")
}
