//! Deliveries as the providers make them, of every type that is known here: for `tenantry webhooks send` and for tests.
//!
//! All ids are plainly made up. Deliveries of one tag are about the same user, organization, customer and subscription,
//! so that a few of them in a row make a tenant.

use chrono::Duration;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::id::Id;
use crate::webhook_events::WebhookSource::{self, Clerk, Stripe};

/// The tag when none is given.
pub const DEFAULT_TAG: &str = "sample";

/// Objects, and the types of the events that carry them.
const TEMPLATES: &[(WebhookSource, &str, &[&str])] = &[
    (Clerk, include_str!("samples/user.json"), &["user.created", "user.updated", "user.deleted"]),
    (
        Clerk,
        include_str!("samples/organization.json"),
        &["organization.created", "organization.updated", "organization.deleted"],
    ),
    (
        Clerk,
        include_str!("samples/membership.json"),
        &["organizationMembership.created", "organizationMembership.updated", "organizationMembership.deleted"],
    ),
    (
        Clerk,
        include_str!("samples/invitation.json"),
        &["organizationInvitation.created", "organizationInvitation.accepted", "organizationInvitation.revoked"],
    ),
    (Clerk, include_str!("samples/role.json"), &["role.created", "role.updated", "role.deleted"]),
    (
        Clerk,
        include_str!("samples/permission.json"),
        &["permission.created", "permission.updated", "permission.deleted"],
    ),
    (
        Clerk,
        include_str!("samples/domain.json"),
        &["organizationDomain.created", "organizationDomain.updated", "organizationDomain.deleted"],
    ),
    (
        Clerk,
        include_str!("samples/session.json"),
        &["session.created", "session.ended", "session.removed", "session.revoked"],
    ),
    (Clerk, include_str!("samples/email.json"), &["email.created"]),
    (Stripe, include_str!("samples/customer.json"), &["customer.created", "customer.updated", "customer.deleted"]),
    (
        Stripe,
        include_str!("samples/subscription.json"),
        &[
            "customer.subscription.created",
            "customer.subscription.updated",
            "customer.subscription.deleted",
            "customer.subscription.paused",
            "customer.subscription.resumed",
            "customer.subscription.trial_will_end",
            "customer.subscription.pending_update_applied",
            "customer.subscription.pending_update_expired",
        ],
    ),
    (
        Stripe,
        include_str!("samples/checkout_session.json"),
        &[
            "checkout.session.completed",
            "checkout.session.async_payment_succeeded",
            "checkout.session.async_payment_failed",
            "checkout.session.expired",
        ],
    ),
    (
        Stripe,
        include_str!("samples/invoice.json"),
        &[
            "invoice.created",
            "invoice.finalization_failed",
            "invoice.finalized",
            "invoice.marked_uncollectible",
            "invoice.paid",
            "invoice.payment_action_required",
            "invoice.payment_failed",
            "invoice.payment_succeeded",
            "invoice.voided",
        ],
    ),
    (Stripe, include_str!("samples/product.json"), &["product.created", "product.updated", "product.deleted"]),
    (Stripe, include_str!("samples/price.json"), &["price.created", "price.updated", "price.deleted"]),
    (Stripe, include_str!("samples/entitlements.json"), &["entitlements.active_entitlement_summary.updated"]),
];

/// A delivery.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Who would send it.
    pub source: WebhookSource,
    /// The sender's id of the event; a new one each time.
    pub event_id: String,
    /// What would be sent.
    pub payload: Value,
}

/// Every type that is known, with its sender.
pub fn types() -> impl Iterator<Item = (WebhookSource, &'static str)> {
    TEMPLATES.iter().flat_map(|(source, _, types)| types.iter().map(move |event_type| (*source, *event_type)))
}

/// Whether this can be a tag: ids, slugs and addresses are made from it.
#[must_use]
pub fn is_tag(tag: &str) -> bool {
    (1..=40).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// A delivery of this type, made now; `None` when the type is not known.
#[must_use]
pub fn sample(event_type: &str, tag: &str, clock: &Clock) -> Option<Sample> {
    let (source, template, _) = TEMPLATES.iter().find(|(_, _, types)| types.contains(&event_type))?;
    let now = clock.now();
    let end = now + Duration::days(30);
    let text = template
        .replace("\"$now_ms\"", &now.timestamp_millis().to_string())
        .replace("\"$end_ms\"", &end.timestamp_millis().to_string())
        .replace("\"$now_s\"", &now.timestamp().to_string())
        .replace("\"$end_s\"", &end.timestamp().to_string())
        .replace("$tag", tag);
    let mut object: Value = serde_json::from_str(&text).ok()?;
    adapt(event_type, &mut object);
    let number = Id::<()>::new(clock).uuid().simple();
    let (event_id, payload) = match source {
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
    Some(Sample { source: *source, event_id, payload })
}

/// What the object is like when this has just happened to it.
fn adapt(event_type: &str, object: &mut Value) {
    let now = object["created"].clone();
    match event_type {
        // Of these Clerk keeps nothing but the id.
        "user.deleted"
        | "organization.deleted"
        | "role.deleted"
        | "permission.deleted"
        | "organizationDomain.deleted" => {
            *object = json!({ "id": object["id"], "object": object["object"], "deleted": true });
        }
        "user.updated" => object["first_name"] = "Jordan-Lee".into(),
        "organization.updated" => {
            object["name"] = format!("{} Ltd", object["name"].as_str().unwrap_or_default()).into();
        }
        "organizationMembership.updated" => {
            object["role"] = "org:member".into();
            object["role_name"] = "Member".into();
        }
        "organizationInvitation.accepted" => object["status"] = "accepted".into(),
        "organizationInvitation.revoked" => object["status"] = "revoked".into(),
        "session.ended" | "session.removed" | "session.revoked" => {
            object["status"] = event_type.trim_start_matches("session.").into();
        }
        "customer.subscription.updated" => object["items"]["data"][0]["quantity"] = 10.into(),
        "customer.subscription.deleted" => {
            object["status"] = "canceled".into();
            object["canceled_at"] = now.clone();
            object["ended_at"] = now;
        }
        "customer.subscription.paused" => object["status"] = "paused".into(),
        "customer.subscription.trial_will_end" => {
            object["status"] = "trialing".into();
            object["trial_start"] = now;
            object["trial_end"] = object["items"]["data"][0]["current_period_end"].clone();
        }
        "checkout.session.async_payment_failed" => object["payment_status"] = "unpaid".into(),
        "checkout.session.expired" => {
            object["status"] = "expired".into();
            object["payment_status"] = "unpaid".into();
            object["subscription"] = Value::Null;
        }
        "invoice.paid" | "invoice.payment_succeeded" => {}
        _ if event_type.starts_with("invoice.") => {
            object["amount_paid"] = 0.into();
            object["amount_remaining"] = object["amount_due"].clone();
            object["status"] = match event_type {
                "invoice.created" | "invoice.finalization_failed" => "draft",
                "invoice.marked_uncollectible" => "uncollectible",
                "invoice.voided" => "void",
                _ => "open",
            }
            .into();
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_type_has_a_sample_that_is_understood() {
        let clock = Clock::System;
        let mut ids = BTreeSet::new();
        for (source, event_type) in types() {
            let sample = sample(event_type, "test1", &clock).expect(event_type);
            assert_eq!(sample.source, source);
            assert!(ids.insert(sample.event_id.clone()), "{event_type}: a new id each time");
            assert!(!sample.payload.to_string().contains('$'), "{event_type}: {}", sample.payload);
            let understood = match source {
                Clerk => crate::sync::clerk::why_not(event_type, &sample.payload),
                Stripe => crate::sync::stripe::why_not(event_type, &sample.payload),
            };
            assert!(matches!(understood, None | Some("recorded")), "{event_type}: {understood:?}");
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
