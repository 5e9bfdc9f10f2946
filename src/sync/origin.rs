//! Where an event is from: the account and the mode at Stripe, the instance at Clerk.
//!
//! Objects of another account, and those of test mode beside those of live mode, have nothing to do with ours, whatever
//! their metadata name. Whoever may create them there may name any organization.

use serde_json::Value;

use crate::sync::apply::SyncSettings;
use crate::sync::payload::id;
use crate::webhook_events::WebhookSource;

/// Why an event is not of the account, the mode or the instance that this server follows; `None` when it is.
pub(crate) fn why_foreign(source: WebhookSource, settings: &SyncSettings, payload: &Value) -> Option<&'static str> {
    match source {
        WebhookSource::Clerk => {
            let (ours, theirs) = (settings.clerk_instance.as_ref()?, id(&payload["instance_id"])?);
            (theirs != *ours).then_some("of another Clerk instance")
        }
        WebhookSource::Stripe => {
            let account = match (account(payload), &settings.stripe_account) {
                // An event without an account is the endpoint's own.
                (None, _) => None,
                (Some(_), None) => Some("of a connected Stripe account; STRIPE_ACCOUNT names the one to follow"),
                (Some(theirs), Some(ours)) => (theirs != *ours).then_some("of another Stripe account"),
            };
            account.or_else(|| {
                let (ours, theirs) = (settings.stripe_livemode?, payload["livemode"].as_bool()?);
                match (ours, theirs) {
                    (true, false) => {
                        Some("of Stripe's test mode, and this server follows live mode; see STRIPE_LIVEMODE")
                    }
                    (false, true) => {
                        Some("of Stripe's live mode, and this server follows test mode; see STRIPE_LIVEMODE")
                    }
                    _ => None,
                }
            })
        }
    }
}

/// The account that an event is from, where it names one: in `account` (Connect), or in `context`, which events of
/// organizations and of API version 2 have instead. A context is a path, and its last part is the account (Stripe API
/// reference, "Event object" and "Stripe-Context").
fn account(payload: &Value) -> Option<String> {
    id(&payload["account"])
        .or_else(|| id(&payload["context"]).map(|path| path.rsplit('/').next().unwrap_or(&path).to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_of_others_are_told_apart() {
        let with = |account: Option<&str>, livemode| SyncSettings {
            stripe_account: account.map(str::to_owned),
            stripe_livemode: livemode,
            clerk_instance: Some("ins_ours".to_owned()),
            ..SyncSettings::default()
        };
        let ours = Some("acct_1");
        for (settings, payload, ok) in [
            (with(None, None), json!({}), true),
            (with(None, None), json!({ "livemode": true, "account": null, "context": null }), true),
            (with(None, None), json!({ "account": "acct_1" }), false),
            (with(None, None), json!({ "context": "acct_1" }), false),
            (with(ours, None), json!({}), true),
            (with(ours, None), json!({ "account": "acct_1" }), true),
            (with(ours, None), json!({ "context": "acct_1" }), true),
            (with(ours, None), json!({ "context": "org_9/acct_1" }), true),
            (with(ours, None), json!({ "context": "acct_1/acct_2" }), false),
            (with(ours, None), json!({ "account": "acct_2" }), false),
            (with(ours, None), json!({ "account": "acct_2", "context": "acct_1" }), false),
            (with(None, Some(true)), json!({ "livemode": true }), true),
            (with(None, Some(true)), json!({ "livemode": false }), false),
            (with(None, Some(false)), json!({ "livemode": true }), false),
            (with(None, Some(false)), json!({ "livemode": false }), true),
            (with(None, Some(true)), json!({}), true),
            (with(ours, Some(true)), json!({ "account": "acct_1", "livemode": false }), false),
        ] {
            let why = why_foreign(WebhookSource::Stripe, &settings, &payload);
            assert_eq!(why.is_none(), ok, "{payload}: {why:?}");
        }
        let clerk = |payload: Value| why_foreign(WebhookSource::Clerk, &with(None, None), &payload);
        assert_eq!(clerk(json!({ "instance_id": "ins_ours" })), None);
        assert_eq!(clerk(json!({})), None);
        assert_eq!(clerk(json!({ "instance_id": "ins_other" })), Some("of another Clerk instance"));
    }
}
