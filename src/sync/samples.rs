//! Deliveries as the providers make them, of every known type: for `tenantry webhooks send` and for tests.
//!
//! All ids are made up. Deliveries with one tag are about the same user, organization, customer and subscription, so
//! that a few of them make a tenant.

use chrono::Duration;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::id::Id;
use crate::webhook_events::EventType;
use crate::webhook_events::WebhookSource::{self, Clerk, Stripe};

/// The tag when none is given.
pub const DEFAULT_TAG: &str = "sample";

/// The object that an event of this type carries.
fn template(event_type: EventType) -> &'static str {
    use EventType as T;
    match event_type {
        T::UserCreated | T::UserUpdated | T::UserDeleted => include_str!("samples/user.json"),
        T::OrganizationCreated | T::OrganizationUpdated | T::OrganizationDeleted => {
            include_str!("samples/organization.json")
        }
        T::MembershipCreated | T::MembershipUpdated | T::MembershipDeleted => include_str!("samples/membership.json"),
        T::InvitationCreated | T::InvitationAccepted | T::InvitationRevoked => include_str!("samples/invitation.json"),
        T::RoleCreated | T::RoleUpdated | T::RoleDeleted => include_str!("samples/role.json"),
        T::PermissionCreated | T::PermissionUpdated | T::PermissionDeleted => include_str!("samples/permission.json"),
        T::DomainCreated | T::DomainUpdated | T::DomainDeleted => include_str!("samples/domain.json"),
        T::SessionCreated | T::SessionEnded | T::SessionRemoved | T::SessionRevoked => {
            include_str!("samples/session.json")
        }
        T::EmailCreated => include_str!("samples/email.json"),
        T::CustomerCreated | T::CustomerUpdated | T::CustomerDeleted => include_str!("samples/customer.json"),
        T::SubscriptionCreated
        | T::SubscriptionUpdated
        | T::SubscriptionDeleted
        | T::SubscriptionPaused
        | T::SubscriptionResumed
        | T::SubscriptionTrialWillEnd
        | T::SubscriptionPendingUpdateApplied
        | T::SubscriptionPendingUpdateExpired => include_str!("samples/subscription.json"),
        T::CheckoutCompleted | T::CheckoutPaymentSucceeded | T::CheckoutPaymentFailed | T::CheckoutExpired => {
            include_str!("samples/checkout_session.json")
        }
        T::InvoiceCreated
        | T::InvoiceFinalizationFailed
        | T::InvoiceFinalized
        | T::InvoiceMarkedUncollectible
        | T::InvoicePaid
        | T::InvoicePaymentActionRequired
        | T::InvoicePaymentFailed
        | T::InvoicePaymentSucceeded
        | T::InvoiceUpcoming
        | T::InvoiceUpdated
        | T::InvoiceVoided => include_str!("samples/invoice.json"),
        T::ProductCreated | T::ProductUpdated | T::ProductDeleted => include_str!("samples/product.json"),
        T::PriceCreated | T::PriceUpdated | T::PriceDeleted => include_str!("samples/price.json"),
        T::EntitlementsUpdated => include_str!("samples/entitlements.json"),
        T::RefundCreated | T::RefundUpdated | T::RefundFailed | T::ChargeRefundUpdated => {
            include_str!("samples/refund.json")
        }
        T::ChargeRefunded => include_str!("samples/charge.json"),
    }
}

/// A delivery.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Who would send it.
    pub source: WebhookSource,
    /// The sender's id of the event; new for each sample.
    pub event_id: String,
    /// What would be sent.
    pub payload: Value,
}

/// Every known type, with its sender.
pub fn types() -> impl Iterator<Item = (WebhookSource, &'static str)> {
    EventType::ALL.iter().map(|event_type| (event_type.source(), event_type.name()))
}

/// Whether this is a valid tag: ids, slugs and addresses are made from it.
#[must_use]
pub fn is_tag(tag: &str) -> bool {
    (1..=40).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// A delivery of this type, made now; `None` when the type is unknown.
#[must_use]
pub fn sample(event_type: &str, tag: &str, clock: &Clock) -> Option<Sample> {
    let known = EventType::ALL.iter().copied().find(|known| known.name() == event_type)?;
    let now = clock.now();
    let end = now + Duration::days(30);
    let text = template(known)
        .replace("\"$now_ms\"", &now.timestamp_millis().to_string())
        .replace("\"$end_ms\"", &end.timestamp_millis().to_string())
        .replace("\"$now_s\"", &now.timestamp().to_string())
        .replace("\"$end_s\"", &end.timestamp().to_string())
        .replace("$tag", tag);
    let mut object: Value = serde_json::from_str(&text).ok()?;
    adapt(known, &mut object);
    let number = Id::<()>::new(clock).uuid().simple();
    let (event_id, payload) = match known.source() {
        Clerk => (
            format!("msg_{number}"),
            json!({
                "object": "event",
                "type": event_type,
                "data": object,
                "event_attributes": { "http_request": { "client_ip": "", "user_agent": "tenantry webhooks send" } },
                "instance_id": "ins_sample",
                "timestamp": now.timestamp_millis(),
            }),
        ),
        Stripe => (
            format!("evt_{number}"),
            json!({
                "id": format!("evt_{number}"),
                "object": "event",
                "api_version": "2025-03-31.basil",
                "created": now.timestamp(),
                "data": { "object": object },
                "livemode": false,
                "pending_webhooks": 1,
                "request": { "id": null, "idempotency_key": null },
                "type": event_type,
            }),
        ),
    };
    Some(Sample { source: known.source(), event_id, payload })
}

/// Changes the object to its state after the event.
fn adapt(event_type: EventType, object: &mut Value) {
    use EventType as T;
    let now = object["created"].clone();
    match event_type {
        // Clerk sends nothing but the id of a deleted object.
        T::UserDeleted | T::OrganizationDeleted | T::RoleDeleted | T::PermissionDeleted | T::DomainDeleted => {
            *object = json!({ "id": object["id"], "object": object["object"], "deleted": true });
        }
        T::UserUpdated => object["first_name"] = "Jordan-Lee".into(),
        T::OrganizationUpdated => {
            object["name"] = format!("{} Ltd", object["name"].as_str().unwrap_or_default()).into();
        }
        T::MembershipUpdated => {
            object["role"] = "org:member".into();
            object["role_name"] = "Member".into();
        }
        T::InvitationAccepted => object["status"] = "accepted".into(),
        T::SessionEnded => object["status"] = "ended".into(),
        T::SessionRemoved => object["status"] = "removed".into(),
        T::InvitationRevoked | T::SessionRevoked => object["status"] = "revoked".into(),
        T::SubscriptionUpdated => object["items"]["data"][0]["quantity"] = 10.into(),
        T::SubscriptionDeleted => {
            object["status"] = "canceled".into();
            object["canceled_at"] = now.clone();
            object["ended_at"] = now;
        }
        T::SubscriptionPaused => object["status"] = "paused".into(),
        T::SubscriptionTrialWillEnd => {
            object["status"] = "trialing".into();
            object["trial_start"] = now;
            object["trial_end"] = object["items"]["data"][0]["current_period_end"].clone();
        }
        T::CheckoutPaymentFailed => object["payment_status"] = "unpaid".into(),
        T::CheckoutExpired => {
            object["status"] = "expired".into();
            object["payment_status"] = "unpaid".into();
            object["subscription"] = Value::Null;
        }
        T::RefundCreated => object["status"] = "pending".into(),
        T::RefundFailed => {
            object["status"] = "failed".into();
            object["failure_reason"] = "expired_or_canceled_card".into();
        }
        T::InvoiceCreated | T::InvoiceFinalizationFailed => unpaid(object, "draft"),
        T::InvoiceMarkedUncollectible => unpaid(object, "uncollectible"),
        T::InvoiceVoided => unpaid(object, "void"),
        T::InvoiceFinalized | T::InvoicePaymentActionRequired | T::InvoicePaymentFailed | T::InvoiceUpdated => {
            unpaid(object, "open");
        }
        T::InvoiceUpcoming => {
            unpaid(object, "draft");
            // It does not exist yet, so it has no id.
            object.as_object_mut().map(|invoice| invoice.remove("id"));
        }
        _ => {}
    }
}

fn unpaid(invoice: &mut Value, status: &str) {
    invoice["amount_paid"] = 0.into();
    invoice["amount_remaining"] = invoice["amount_due"].clone();
    invoice["status"] = status.into();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::webhook_events::Effect;

    #[test]
    fn every_type_has_a_sample_that_is_understood() {
        let clock = Clock::System;
        let mut ids = BTreeSet::new();
        for (source, event_type) in types() {
            let sample = sample(event_type, "test1", &clock).expect(event_type);
            assert_eq!(sample.source, source);
            assert!(ids.insert(sample.event_id.clone()), "{event_type}: a new id each time");
            assert!(!sample.payload.to_string().contains('$'), "{event_type}: {}", sample.payload);
            let why_not = match source {
                Clerk => crate::sync::clerk::why_not(event_type, &sample.payload),
                Stripe => crate::sync::stripe::why_not(event_type, &sample.payload),
            };
            let known = EventType::of(source, event_type).expect("a known type");
            let expected = (known.effect() == Effect::Recorded).then_some("recorded");
            assert_eq!(why_not, expected, "{event_type}");
        }
    }

    #[test]
    fn tags_make_valid_ids() {
        assert!(is_tag("bob2"));
        for bad in ["", "Bob", "b-b", "b b", "é", &"x".repeat(41)] {
            assert!(!is_tag(bad), "{bad}");
        }
        assert!(sample("no.such", DEFAULT_TAG, &Clock::System).is_none());
    }
}
