//! What billing asks of Stripe: sessions, changes of subscriptions, previews, quantities and usage.

use serde_json::Value;
use stripe_client_core::{IdempotencyKey, RequestBuilder, RequestStrategy, StripeMethod};

use super::{Answer, StripeClient, StripeFailure, is_id, read};

/// A form: names as Stripe writes them (`items[0][price]`) and values.
pub type Form = Vec<(String, String)>;

/// The form as `application/x-www-form-urlencoded`.
fn encoded(form: &[(String, String)]) -> String {
    let part = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    form.iter().map(|(name, value)| format!("{}={}", part(name), part(value))).collect::<Vec<_>>().join("&")
}

impl StripeClient {
    /// Sends a form, once. Whoever has no answer sends it again with the same key: Stripe keeps it for a day at least, with what it
    /// answered, also when that was an error of its own (API reference, "Idempotent requests").
    ///
    /// # Errors
    /// Stripe could not be asked, or refused.
    pub async fn send(&self, path: &str, form: &[(String, String)], key: Option<&str>) -> Result<Value, StripeFailure> {
        let mut request = RequestBuilder::new(StripeMethod::Post, path);
        request.body = Some(encoded(form));
        let strategy = match key {
            Some(key) => RequestStrategy::Idempotent(IdempotencyKey::new(key).map_err(StripeFailure::unreachable)?),
            None => RequestStrategy::Once,
        };
        read(&request.customize::<Answer>().request_strategy(strategy).send(&self.0).await?)
    }

    /// Ends a subscription at once. Stripe takes no key with it: a second time there is no such subscription any more.
    ///
    /// # Errors
    /// Stripe could not be asked, or refused.
    pub async fn end_subscription(&self, id: &str) -> Result<Value, StripeFailure> {
        if !is_id(id) {
            return Err(StripeFailure::unreachable("not an id"));
        }
        let request = RequestBuilder::new(StripeMethod::Delete, format!("/subscriptions/{id}")).customize::<Answer>();
        read(&request.request_strategy(RequestStrategy::Once).send(&self.0).await?)
    }

    /// An invoice as it would be. Nothing is made.
    ///
    /// # Errors
    /// Stripe could not be asked, or refused.
    pub async fn preview_invoice(&self, form: &[(String, String)]) -> Result<Value, StripeFailure> {
        let mut preview = self.send("/invoices/create_preview", form, None).await?;
        if preview["lines"]["has_more"] == true {
            // A preview has no id by which the rest could be asked for: its sums count, and its lines are what is there.
            preview["lines"]["is_in_part"] = true.into();
        }
        Ok(preview)
    }

    /// The time of a test clock, in seconds since 1970; `None`: there is no such clock.
    ///
    /// # Errors
    /// Stripe could not be asked, or refused.
    pub async fn frozen_time(&self, clock: &str) -> Result<Option<i64>, StripeFailure> {
        if !is_id(clock) {
            return Ok(None);
        }
        let path = format!("/test_helpers/test_clocks/{clock}");
        match self.get(RequestBuilder::new(StripeMethod::Get, path)).await {
            Err(failure) if failure.is_missing() => Ok(None),
            answer => Ok(read(&answer?)?["frozen_time"].as_i64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_written_as_stripe_reads_them() {
        let form = [("items[0][price]", "price_1"), ("success_url", "https://a.example/?x=1&y=ü {ID}")];
        let form: Form = form.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let text = encoded(&form);
        assert_eq!(
            text,
            "items%5B0%5D%5Bprice%5D=price%5F1&success%5Furl=https%3A%2F%2Fa%2Eexample%2F%3Fx%3D1%26y%3D%C3%BC%20%7BID%7D"
        );
    }
}
