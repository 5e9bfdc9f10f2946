//! The settings of webhooks.

use crate::sync::apply::SyncSettings;
use crate::webhook_events::WebhookSource;
use crate::webhooks::signature::Secret;

/// The settings of webhooks.
#[derive(Clone, Debug, Default)]
pub struct WebhooksConfig {
    clerk_secrets: Vec<Secret>,
    stripe_secrets: Vec<Secret>,
    pub sync: SyncSettings,
}

impl WebhooksConfig {
    /// The signing secrets of this sender. Without any, its webhooks are not accepted.
    #[must_use]
    pub fn secrets(&self, source: WebhookSource) -> &[Secret] {
        match source {
            WebhookSource::Clerk => &self.clerk_secrets,
            WebhookSource::Stripe => &self.stripe_secrets,
        }
    }

    /// Adds a signing secret.
    pub fn add_secret(&mut self, source: WebhookSource, secret: Secret) {
        match source {
            WebhookSource::Clerk => self.clerk_secrets.push(secret),
            WebhookSource::Stripe => self.stripe_secrets.push(secret),
        }
    }
}
