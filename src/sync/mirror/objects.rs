//! The fields that are merged, by kind of object. Their names are those of the stored JSON.

use serde::{Deserialize, Serialize};

use crate::billing::InvoiceSaid;
use crate::refunds::{Charge, RemoteRefund};
use crate::sync::mirror::field::{Each, FieldVersion, First, Latest, Merged, Register, Stretch};
use crate::sync::mirror::{Fields, Kind};

/// Declares the fields of each kind of object. Behind `:`, `id` marks a field that holds the id of another object, and
/// `ids` one that holds several: by them the object is found.
macro_rules! objects {
    ($($(#[$about:meta])* $kind:ident {
        $($(#[$doc:meta])* $field:ident: $register:ident $(<$value:ty>)? $(, $holds:ident)?;)*
    })*) => {
        impl Kind {
            /// All of them.
            pub(super) const ALL: &[Self] = &[$(Self::$kind),*];
        }

        $(
            $(#[$about])*
            #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
            #[serde(default)]
            pub(crate) struct $kind {
                $($(#[$doc])* #[serde(skip_serializing_if = "Register::is_unknown")] pub(crate) $field: $register $(<$value>)?,)*
            }

            impl Fields for $kind {
                const KIND: Kind = Kind::$kind;

                fn merge(&mut self, change: &Self) -> Merged {
                    [$(self.$field.merge(&change.$field)),*].into_iter().max().unwrap_or(Merged::Stale)
                }

                fn versions(&self) -> impl Iterator<Item = &FieldVersion> {
                    [$(self.$field.version()),*].into_iter().flatten()
                }

                fn references(&self) -> Vec<String> {
                    let found: [Vec<String>; _] = [$($(objects!(@$holds self.$field),)?)*];
                    let mut found = found.concat();
                    found.sort();
                    found.dedup();
                    found
                }
            }
        )*
    };
    (@id $field:expr) => { $field.known().into_iter().cloned().collect() };
    (@ids $field:expr) => { $field.known().cloned().unwrap_or_default() };
}

objects! {
    /// A user at Clerk.
    User {
        name: Latest<String>;
        first_given_name: First<String>;
        /// Whether Clerk has verified the address.
        verified: Latest<bool>;
        email: Latest<Option<String>>;
        avatar_url: Latest<Option<String>>;
        /// Until when they are banned or locked, in milliseconds since 1970; `i64::MAX` is without end.
        blocked_until: Latest<Option<i64>>;
    }
    /// An organization at Clerk.
    Organization {
        /// Its slug, as a reference.
        slug_key: Latest<String>, id;
        /// The slug that its first name gives, as a reference.
        first_slug: First<String>, id;
        name: Latest<String>;
        created_by: Latest<String>;
        created_at: Latest<i64>;
    }
    /// A membership at Clerk.
    Membership {
        user: Latest<String>, id;
        organization: Latest<String>, id;
        /// As Clerk calls it.
        role: Latest<String>;
        created_at: Latest<i64>;
    }
    /// An invitation at Clerk.
    Invitation {
        organization: Latest<String>, id;
        email: Latest<String>;
        /// As Clerk calls it.
        role: Latest<String>;
        created_at: Latest<i64>;
        expires_at: Latest<i64>;
        status: Latest<InvitationStatus>;
        settled_at: Latest<i64>;
    }
    /// A customer at Stripe.
    Customer {
        /// Set by every event of the customer, so that it is known at all.
        seen: Latest<bool>;
        organization: Latest<String>, id;
    }
    /// A subscription at Stripe.
    Subscription {
        customer: Latest<String>, id;
        organization: Latest<String>, id;
        /// Whether it is of live mode.
        live: Latest<bool>;
        /// A label of `SubscriptionStatus`.
        status: Latest<String>;
        /// A label of `OrganizationPlan`, from the metadata.
        plan: Latest<String>;
        /// All items; a part of them counts only while all were never known.
        items: Latest<Vec<Item>>;
        /// Whether the last event listed a part of the items only.
        in_part: Latest<bool>;
        /// The plans that the prices and products of its items were last said to buy (labels of `OrganizationPlan`), by
        /// their ids. A label that is taken off a price ends nothing.
        plans: Each<String>;
        /// Whether their quantities were last said to be of seats.
        seats: Each<bool>;
        /// Prices and products of the items.
        catalogue: Latest<Vec<String>>, ids;
        /// The period of the subscription itself, before API version 2025-03-31; since then what its items share.
        period_start: Latest<i64>;
        period_end: Latest<i64>;
        cancel_at_period_end: Latest<bool>;
        cancel_at: Latest<Option<i64>>;
        trial_end: Latest<i64>;
        collection_paused: Latest<bool>;
        created: Latest<i64>;
        /// Since when a payment is overdue.
        past_due: Stretch;
        /// The test clock whose time it has.
        test_clock: Latest<Option<String>>;
    }
    /// A checkout session at Stripe.
    Checkout {
        created: Latest<i64>;
        customer: Latest<String>, id;
        subscription: Latest<String>, id;
        organization: Latest<String>, id;
        /// Its `client_reference_id`, which a buyer may have written.
        reference: Latest<String>, id;
    }
    /// A product at Stripe.
    Product {
        /// A label of `OrganizationPlan`, from the metadata. Metadata that name no plan change nothing.
        plan: Latest<String>;
        seat: Latest<bool>;
        /// A note: up to which customer the last change has been applied.
        reached: Latest<String>;
    }
    /// A price at Stripe.
    Price {
        product: Latest<String>, id;
        /// A label of `OrganizationPlan`, from the lookup key or the metadata. A price that loses them keeps it.
        plan: Latest<String>;
        seat: Latest<bool>;
        /// A note: up to which customer the last change has been applied.
        reached: Latest<String>;
    }
    /// The active entitlements of a customer at Stripe.
    Entitlements {
        customer: Latest<String>, id;
        /// All keys; a part of them counts only while all were never known.
        keys: Latest<Vec<String>>;
        /// Whether the last event listed a part of the keys only.
        in_part: Latest<bool>;
    }
    /// To whom the events about a customer at Stripe were last given. Its id is the customer's.
    Attribution {
        /// A note: a digest of what they were given to.
        digest: Latest<String>;
    }
    /// An invoice at Stripe.
    Invoice {
        customer: Latest<String>, id;
        subscription: Latest<String>, id;
        /// The invoice itself.
        said: Latest<InvoiceSaid>;
        /// What happened to it, by event.
        happened: Each<Happened>;
        /// Notes: the events that are in the audit log of an organization.
        recorded: Each<bool>;
    }
    /// A payment intent at Stripe, as far as refunds need it.
    Payment {
        /// Whose it is; not known from events that have no metadata of the payment.
        charge: Latest<Charge>;
    }
    /// A refund at Stripe.
    Refund {
        payment: Latest<String>, id;
        said: Latest<RemoteRefund>;
    }
}

/// What is kept of an item of a subscription: enough to find its plan and seats, also later.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Item {
    pub(crate) price: Option<String>,
    pub(crate) product: Option<String>,
    pub(crate) quantity: Option<i64>,
    pub(crate) metered: bool,
    /// Its period, in seconds since 1970.
    pub(crate) starts: Option<i64>,
    pub(crate) ends: Option<i64>,
}

/// What an event says of an invoice, for the audit log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Happened {
    /// The type of the event.
    pub(crate) action: String,
    pub(crate) metadata: serde_json::Value,
}

/// Where an invitation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum InvitationStatus {
    Created,
    Accepted,
    Revoked,
}
