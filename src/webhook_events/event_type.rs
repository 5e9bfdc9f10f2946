//! The types of events that this build knows. What an event does, its sample, its label in the metrics and its line in
//! `docs/WEBHOOKS.md` all follow from this one enum.

use crate::webhook_events::WebhookSource;

/// What has happened to an object, for types that differ in nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// It was created.
    Created,
    /// It was changed.
    Updated,
    /// It was deleted.
    Deleted,
    /// It was accepted.
    Accepted,
    /// It was revoked.
    Revoked,
}

impl Verb {
    /// Orders events of one moment: the later in an object's life has the greater rank.
    #[must_use]
    pub fn rank(self) -> i16 {
        match self {
            Self::Created => 0,
            Self::Updated => 1,
            Self::Deleted | Self::Accepted | Self::Revoked => 2,
        }
    }
}

/// What an event does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Changes a user.
    User(Verb),
    /// Changes an organization.
    Organization(Verb),
    /// Changes a member, and creates the user and the organization when they are missing.
    Membership(Verb),
    /// Changes an invitation.
    Invitation(Verb),
    /// Ends a session and its tokens.
    SessionEnded,
    /// Changes a customer, and so whose its subscriptions are.
    Customer(Verb),
    /// Changes a subscription.
    Subscription(Verb),
    /// Links a customer and a subscription to an organization.
    Checkout,
    /// Writes an invoice, and to the audit log.
    Invoice,
    /// Changes a product, and so what its subscribers have.
    Product(Verb),
    /// Changes a price, and so what its subscribers have.
    Price(Verb),
    /// Switches feature flags.
    Entitlements,
    /// Settles or fails a refund, or takes one in that was made in Stripe.
    Refund,
    /// The same, of the charge whose refunds it lists.
    Charge,
    /// Stored and without effect.
    Recorded,
}

macro_rules! event_types {
    ($($source:ident { $($variant:ident = $name:literal, $effect:expr, $does:literal;)* })*) => {
        /// A known type of event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventType {
            $($(#[doc = concat!("`", $name, "`: ", $does)] $variant,)*)*
        }

        impl EventType {
            /// All of them, by sender.
            pub const ALL: &[Self] = &[$($(Self::$variant,)*)*];

            /// Who sends it.
            #[must_use]
            pub fn source(self) -> WebhookSource {
                match self {
                    $($(Self::$variant)|* => WebhookSource::$source,)*
                }
            }

            /// Its name at the sender.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $($(Self::$variant => $name,)*)*
                }
            }

            /// What an event of this type does.
            #[must_use]
            pub fn effect(self) -> Effect {
                match self {
                    $($(Self::$variant => $effect,)*)*
                }
            }

            /// The same in words, for `docs/WEBHOOKS.md`.
            #[must_use]
            pub fn description(self) -> &'static str {
                match self {
                    $($(Self::$variant => $does,)*)*
                }
            }

            /// The type with this name at this sender.
            #[must_use]
            pub fn of(source: WebhookSource, name: &str) -> Option<Self> {
                match source {
                    $(WebhookSource::$source => match name {
                        $($name => Some(Self::$variant),)*
                        _ => None,
                    },)*
                }
            }
        }
    };
}

event_types! {
    Clerk {
        UserCreated = "user.created", Effect::User(Verb::Created),
            "Creates or changes the user; creates a personal workspace when `PERSONAL_WORKSPACES` is on.";
        UserUpdated = "user.updated", Effect::User(Verb::Updated), "Creates or changes the user; one who is banned or locked has no access.";
        UserDeleted = "user.deleted", Effect::User(Verb::Deleted),
            "Soft-deletes the user and the personal workspace; ends the memberships.";
        OrganizationCreated = "organization.created", Effect::Organization(Verb::Created),
            "Creates or changes the organization.";
        OrganizationUpdated = "organization.updated", Effect::Organization(Verb::Updated),
            "Creates or changes the organization.";
        OrganizationDeleted = "organization.deleted", Effect::Organization(Verb::Deleted),
            "Soft-deletes the organization.";
        MembershipCreated = "organizationMembership.created", Effect::Membership(Verb::Created),
            "Adds the member; creates the user and the organization when they are missing.";
        MembershipUpdated = "organizationMembership.updated", Effect::Membership(Verb::Updated),
            "Changes the member's role; creates the user and the organization when they are missing.";
        MembershipDeleted = "organizationMembership.deleted", Effect::Membership(Verb::Deleted),
            "Ends the membership.";
        InvitationCreated = "organizationInvitation.created", Effect::Invitation(Verb::Created),
            "Opens the invitation; older ones for the address are revoked.";
        InvitationAccepted = "organizationInvitation.accepted", Effect::Invitation(Verb::Accepted),
            "Marks the invitation as accepted.";
        InvitationRevoked = "organizationInvitation.revoked", Effect::Invitation(Verb::Revoked),
            "Revokes the invitation.";
        RoleCreated = "role.created", Effect::Recorded, "Recorded.";
        RoleUpdated = "role.updated", Effect::Recorded, "Recorded.";
        RoleDeleted = "role.deleted", Effect::Recorded, "Recorded.";
        PermissionCreated = "permission.created", Effect::Recorded, "Recorded.";
        PermissionUpdated = "permission.updated", Effect::Recorded, "Recorded.";
        PermissionDeleted = "permission.deleted", Effect::Recorded, "Recorded.";
        DomainCreated = "organizationDomain.created", Effect::Recorded, "Recorded.";
        DomainUpdated = "organizationDomain.updated", Effect::Recorded, "Recorded.";
        DomainDeleted = "organizationDomain.deleted", Effect::Recorded, "Recorded.";
        SessionCreated = "session.created", Effect::Recorded, "Recorded.";
        SessionEnded = "session.ended", Effect::SessionEnded, "Ends the session: its tokens open nothing any more.";
        SessionRemoved = "session.removed", Effect::SessionEnded, "Ends the session: its tokens open nothing any more.";
        SessionRevoked = "session.revoked", Effect::SessionEnded, "Ends the session: its tokens open nothing any more.";
        EmailCreated = "email.created", Effect::Recorded, "Recorded.";
    }
    Stripe {
        CustomerCreated = "customer.created", Effect::Customer(Verb::Created),
            "Links the customer to the organization in its metadata.";
        CustomerUpdated = "customer.updated", Effect::Customer(Verb::Updated),
            "Links the customer to the organization in its metadata.";
        CustomerDeleted = "customer.deleted", Effect::Customer(Verb::Deleted),
            "Cancels the customer's subscriptions.";
        SubscriptionCreated = "customer.subscription.created", Effect::Subscription(Verb::Created),
            "Sets the organization's subscription, plan, seats and status.";
        SubscriptionUpdated = "customer.subscription.updated", Effect::Subscription(Verb::Updated),
            "Sets the organization's subscription, plan, seats and status.";
        SubscriptionDeleted = "customer.subscription.deleted", Effect::Subscription(Verb::Deleted),
            "Cancels the subscription: the organization is CHURNED and its plan FREE.";
        SubscriptionPaused = "customer.subscription.paused", Effect::Subscription(Verb::Updated),
            "Sets the organization's subscription, plan, seats and status.";
        SubscriptionResumed = "customer.subscription.resumed", Effect::Subscription(Verb::Updated),
            "Sets the organization's subscription, plan, seats and status.";
        SubscriptionTrialWillEnd = "customer.subscription.trial_will_end", Effect::Subscription(Verb::Updated),
            "Sets the organization's subscription, plan, seats and status.";
        SubscriptionPendingUpdateApplied = "customer.subscription.pending_update_applied",
            Effect::Subscription(Verb::Updated), "Sets the organization's subscription, plan, seats and status.";
        SubscriptionPendingUpdateExpired = "customer.subscription.pending_update_expired",
            Effect::Subscription(Verb::Updated), "Sets the organization's subscription, plan, seats and status.";
        CheckoutCompleted = "checkout.session.completed", Effect::Checkout,
            "Links the customer and the subscription to the organization that the checkout names.";
        CheckoutPaymentSucceeded = "checkout.session.async_payment_succeeded", Effect::Checkout,
            "Links the customer and the subscription to the organization that the checkout names.";
        CheckoutPaymentFailed = "checkout.session.async_payment_failed", Effect::Recorded, "Recorded.";
        CheckoutExpired = "checkout.session.expired", Effect::Recorded, "Recorded.";
        InvoiceCreated = "invoice.created", Effect::Recorded, "Recorded.";
        InvoiceFinalizationFailed = "invoice.finalization_failed", Effect::Invoice, "Writes the invoice, and to the audit log.";
        InvoiceFinalized = "invoice.finalized", Effect::Invoice, "Writes the invoice, and to the audit log.";
        InvoiceMarkedUncollectible = "invoice.marked_uncollectible", Effect::Invoice, "Writes the invoice, and to the audit log.";
        InvoicePaid = "invoice.paid", Effect::Invoice, "Writes the invoice, and to the audit log.";
        InvoicePaymentActionRequired = "invoice.payment_action_required", Effect::Invoice,
            "Writes the invoice, and to the audit log.";
        InvoicePaymentFailed = "invoice.payment_failed", Effect::Invoice, "Writes the invoice, and to the audit log.";
        InvoicePaymentSucceeded = "invoice.payment_succeeded", Effect::Invoice, "Writes the invoice, and to the audit log.";
        InvoiceUpcoming = "invoice.upcoming", Effect::Recorded, "Recorded.";
        InvoiceUpdated = "invoice.updated", Effect::Recorded, "Recorded.";
        InvoiceVoided = "invoice.voided", Effect::Invoice, "Writes the invoice, and to the audit log.";
        ProductCreated = "product.created", Effect::Product(Verb::Created),
            "Sets plan and seats of the organizations that subscribe to the product.";
        ProductUpdated = "product.updated", Effect::Product(Verb::Updated),
            "Sets plan and seats of the organizations that subscribe to the product.";
        ProductDeleted = "product.deleted", Effect::Product(Verb::Deleted),
            "Subscribers keep what the product gave them.";
        PriceCreated = "price.created", Effect::Price(Verb::Created),
            "Sets plan and seats of the organizations that subscribe at the price.";
        PriceUpdated = "price.updated", Effect::Price(Verb::Updated),
            "Sets plan and seats of the organizations that subscribe at the price.";
        PriceDeleted = "price.deleted", Effect::Price(Verb::Deleted),
            "Subscribers keep what the price gave them.";
        EntitlementsUpdated = "entitlements.active_entitlement_summary.updated", Effect::Entitlements,
            "Switches on the feature flags with the keys of the active entitlements.";
        RefundCreated = "refund.created", Effect::Refund, "Settles the refund that it names, or takes in one that was made in Stripe.";
        RefundUpdated = "refund.updated", Effect::Refund, "Settles the refund that it names, or takes in one that was made in Stripe.";
        RefundFailed = "refund.failed", Effect::Refund, "Marks the refund as failed, and gives its money back to the budget.";
        ChargeRefundUpdated = "charge.refund.updated", Effect::Refund,
            "Settles the refund that it names, or takes in one that was made in Stripe.";
        ChargeRefunded = "charge.refunded", Effect::Charge,
            "Says for which organization the payment was taken; takes in the refunds that it lists.";
    }
}

/// Families of types that are known to have no effect, by how their names begin.
fn recorded_families(source: WebhookSource) -> &'static [&'static str] {
    match source {
        WebhookSource::Clerk => &[
            "role.",
            "permission.",
            "organizationDomain.",
            "session.",
            "email.",
            "sms.",
            "waitlistEntry.",
            "organizationRole.",
        ],
        WebhookSource::Stripe => {
            &["checkout.session.", "customer.", "invoice", "plan.", "charge.", "payment_", "setup_intent."]
        }
    }
}

/// Families of types of Clerk Billing.
const CLERK_BILLING: &[&str] = &["subscription.", "subscriptionItem.", "paymentAttempt."];

/// Why events with this type have no effect: they are known to have none, or are not known.
#[must_use]
pub fn why_no_effect(source: WebhookSource, name: &str) -> &'static str {
    let begins = |families: &[&str]| families.iter().any(|prefix| name.starts_with(prefix));
    if source == WebhookSource::Clerk && begins(CLERK_BILLING) {
        "of Clerk Billing, which is not followed: plans and seats come from Stripe"
    } else if begins(recorded_families(source)) {
        "recorded"
    } else {
        "unknown type"
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn event_types_are_found_by_name_and_sender() {
        for event_type in EventType::ALL {
            assert_eq!(EventType::of(event_type.source(), event_type.name()), Some(*event_type));
            let other = match event_type.source() {
                WebhookSource::Clerk => WebhookSource::Stripe,
                WebhookSource::Stripe => WebhookSource::Clerk,
            };
            assert_eq!(EventType::of(other, event_type.name()), None, "{event_type:?}");
            if event_type.effect() == Effect::Recorded {
                assert_eq!(why_no_effect(event_type.source(), event_type.name()), "recorded", "{event_type:?}");
            }
        }
        assert_eq!(why_no_effect(WebhookSource::Stripe, "thing.happened"), "unknown type");
        assert!(why_no_effect(WebhookSource::Clerk, "subscriptionItem.pastDue").contains("not followed"));
    }

    /// The table in the documentation has one row for every type, with what the type does, and no others.
    #[test]
    fn event_types_are_documented() {
        let documented: BTreeSet<&str> = include_str!("../../docs/WEBHOOKS.md")
            .lines()
            .filter(|line| line.starts_with("| Clerk | ") || line.starts_with("| Stripe | "))
            .collect();
        let rows: Vec<String> = EventType::ALL
            .iter()
            .map(|known| format!("| {:?} | `{}` | {} |", known.source(), known.name(), known.description()))
            .collect();
        let missing: Vec<&String> = rows.iter().filter(|row| !documented.contains(row.as_str())).collect();
        assert!(missing.is_empty(), "docs/WEBHOOKS.md lacks\n{missing:#?}");
        assert_eq!(documented.len(), rows.len(), "docs/WEBHOOKS.md has rows of types that are not known");
    }
}
