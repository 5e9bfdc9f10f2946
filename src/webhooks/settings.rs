//! The settings of webhooks.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::sync::apply::SyncSettings;
use crate::sync::stripe::client::StripeClient;
use crate::webhook_events::WebhookSource;
use crate::webhooks::signature::Secret;

/// A key of Stripe's API. `Debug` does not show it.
#[derive(Clone)]
pub struct ApiKey(pub(crate) String);

impl ApiKey {
    /// Whether this looks like a key for a server.
    pub(crate) fn is_plausible(&self) -> bool {
        ["sk_", "rk_"].iter().any(|prefix| self.0.starts_with(prefix)) && !self.0.chars().any(char::is_whitespace)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// The settings of webhooks.
#[derive(Clone, Debug, Default)]
pub struct WebhooksConfig {
    clerk_secrets: Vec<Secret>,
    stripe_secrets: Vec<Secret>,
    /// The key of Stripe's API.
    pub stripe_key: Option<ApiKey>,
    /// The address of Stripe's API, if it is not the usual one.
    pub stripe_api_base: Option<String>,
    /// The settings of the sync.
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

    /// A client of Stripe's API, if there is a key.
    ///
    /// # Errors
    /// There is a key, but no client can be made.
    pub fn stripe_client(&self) -> Result<Option<Arc<StripeClient>>> {
        let Some(key) = &self.stripe_key else { return Ok(None) };
        Ok(Some(Arc::new(StripeClient::new(&key.0, self.stripe_api_base.as_deref())?)))
    }
}
