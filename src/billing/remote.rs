//! What Stripe says of subscriptions and invoices, and of what went wrong.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::billing::{InvoiceStatus, PaymentProblemCode, SubscriptionStatus, lives};
use crate::clock::Clock;
use crate::db::SystemTx;
use crate::error::Result;
use crate::graphql::money::Money;
use crate::graphql::mutation::{UserErrorCode, VerbError, VerbResult};
use crate::id::{InvoiceId, OrganizationId};
use crate::refunds::from_stripe;
use crate::stripe::{Refusal, StripeFailure};

/// How long a mutation waits for what it has to know before it asks for anything: its operation has 30 seconds for all.
const PATIENCE: Duration = Duration::from_secs(8);

/// Waits for an answer of Stripe, not too long.
pub(super) async fn patiently<T>(asking: impl Future<Output = Result<T, StripeFailure>>) -> VerbResult<T> {
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(failure)) => Err(refused(&failure)),
        Err(_) => Err(unavailable()),
    }
}

/// The refusal of somebody who needs an answer that Stripe did not give.
fn unavailable() -> VerbError {
    let message = "Stripe did not answer, and nothing was changed: ask again in a moment, with the same key.";
    VerbError::of_input(UserErrorCode::StripeUnavailable, message)
}

fn refused(failure: &StripeFailure) -> VerbError {
    tracing::warn!(%failure, "Stripe was asked for a billing action and did not answer as hoped");
    match failure {
        StripeFailure::Refused(refusal) if refusal.is_final() => {
            let (code, message) = told(refusal);
            VerbError::of_input(code, message)
        }
        _ => unavailable(),
    }
}

/// What organizations are told of a final refusal: the messages of Stripe are about the account of the platform.
pub(super) fn told(refusal: &Refusal) -> (UserErrorCode, String) {
    let code: String = refusal.code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(80).collect();
    match (refusal.status, code.as_str()) {
        (402, _) => (
            UserErrorCode::PaymentRequired,
            format!("The payment was declined ({code}): use another payment method, in the portal."),
        ),
        _ if refusal.is_missing() => (
            UserErrorCode::WrongMode,
            "Stripe has no such customer, subscription or price in the mode that this service works in (test or live)."
                .to_owned(),
        ),
        (status, "") => (UserErrorCode::StripeRefused, format!("Stripe refused it ({status}).")),
        (_, code) => (UserErrorCode::StripeRefused, format!("Stripe refused it: {code}.")),
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["id"].as_str()).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// An amount of Stripe's, in its units; as it is where it cannot be said otherwise.
pub(super) fn money(amount: i64, currency: &str) -> Money {
    let currency = currency.to_ascii_uppercase();
    Money::from_minor(from_stripe(amount, &currency).unwrap_or(amount), &currency)
}

/// An item of a subscription at Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteItem {
    pub id: String,
    pub price: String,
    /// None of metered prices.
    pub quantity: Option<i64>,
    pub is_metered: bool,
    pub interval: Option<String>,
    /// End of its period, in seconds since 1970.
    pub ends: Option<i64>,
}

/// Why a subscription cannot be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// A schedule in Stripe decides about it.
    BySchedule,
    /// A change of it waits for its payment.
    ByPayment,
}

/// A subscription as Stripe has it.
#[derive(Clone, Debug)]
pub(super) struct RemoteSubscription {
    pub id: String,
    pub customer: String,
    pub status: Option<SubscriptionStatus>,
    pub is_live: Option<bool>,
    pub currency: String,
    pub items: Vec<RemoteItem>,
    pub ends_with_period: bool,
    pub cancel_at: Option<i64>,
    pub held: Option<Held>,
    /// Stripe collects by itself; otherwise it sends invoices.
    pub is_collected: bool,
    pub test_clock: Option<String>,
}

impl RemoteSubscription {
    /// Reads an answer; `None`: it is no subscription.
    pub fn read(object: &Value) -> Option<Self> {
        let items = object["items"]["data"].as_array()?;
        let items = items.iter().map(|item| {
            let price = &item["price"];
            Some(RemoteItem {
                id: text(&item["id"])?,
                price: text(price)?,
                quantity: item["quantity"].as_i64(),
                is_metered: price["recurring"]["usage_type"] == "metered",
                interval: text(&price["recurring"]["interval"]),
                ends: item["current_period_end"].as_i64().or_else(|| object["current_period_end"].as_i64()),
            })
        });
        Some(Self {
            id: text(&object["id"])?,
            customer: text(&object["customer"])?,
            status: object["status"].as_str().and_then(|label| SubscriptionStatus::from_label(&label.to_uppercase())),
            is_live: object["livemode"].as_bool(),
            currency: text(&object["currency"])?,
            items: items.collect::<Option<_>>()?,
            ends_with_period: object["cancel_at_period_end"] == true,
            cancel_at: object["cancel_at"].as_i64(),
            held: match (object["schedule"].is_null(), object["pending_update"].is_null()) {
                (false, _) => Some(Held::BySchedule),
                (true, false) => Some(Held::ByPayment),
                (true, true) => None,
            },
            is_collected: object["collection_method"] != "send_invoice",
            test_clock: text(&object["test_clock"]),
        })
    }

    /// Whether it is alive.
    pub fn lives(&self) -> bool {
        self.status.is_some_and(lives)
    }

    /// The end of its current period, in seconds since 1970.
    pub fn period_end(&self) -> Option<i64> {
        self.items.iter().filter_map(|item| item.ends).min()
    }
}

/// What an event says of an invoice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceSaid {
    number: Option<String>,
    status: InvoiceStatus,
    currency: String,
    total: i64,
    due: i64,
    paid: i64,
    remaining: i64,
    period: (Option<i64>, Option<i64>),
    due_at: Option<i64>,
    attempts: i64,
    next_attempt_at: Option<i64>,
    hosted_url: Option<String>,
    pdf_url: Option<String>,
    problem: Option<PaymentProblemCode>,
    message: Option<String>,
    created: i64,
}

/// Longest text of an invoice that is kept.
const LONGEST: usize = 1000;

impl InvoiceSaid {
    /// Reads the invoice of an event of this type; `None`: it is no whole invoice.
    #[must_use]
    pub fn read(event_type: &str, object: &Value) -> Option<Self> {
        let status = InvoiceStatus::from_label(&object["status"].as_str()?.to_uppercase())?;
        let currency = object["currency"].as_str()?.to_ascii_uppercase();
        let is_currency = currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_uppercase());
        let url = |value: &Value| text(value).filter(|url| url.starts_with("https://") && url.len() <= 5000);
        let short = |value: &Value| text(value).map(|text| text.chars().take(LONGEST).filter(|c| *c != '\0').collect());
        let is_open = matches!(status, InvoiceStatus::Draft | InvoiceStatus::Open | InvoiceStatus::Uncollectible);
        let problem = match event_type {
            "invoice.payment_failed" => Some(PaymentProblemCode::PaymentFailed),
            "invoice.payment_action_required" => Some(PaymentProblemCode::ActionRequired),
            "invoice.finalization_failed" => Some(PaymentProblemCode::FinalizationFailed),
            "invoice.marked_uncollectible" => Some(PaymentProblemCode::Uncollectible),
            _ => None,
        };
        let problem = problem.filter(|_| is_open);
        // Of a refused payment the invoice does not say why; its page does.
        let said: Option<String> = short(&object["last_finalization_error"]["message"]);
        let message = problem.map(|problem| match problem {
            PaymentProblemCode::PaymentFailed => {
                "The payment was declined: pay the invoice with another method.".to_owned()
            }
            PaymentProblemCode::ActionRequired => "The bank asks for a confirmation: open the invoice.".to_owned(),
            PaymentProblemCode::Uncollectible => "The invoice was not paid, and is not collected any more.".to_owned(),
            PaymentProblemCode::FinalizationFailed => {
                said.unwrap_or_else(|| "Stripe could not make the invoice final.".to_owned())
            }
        });
        Some(Self {
            number: short(&object["number"]).map(|number: String| number.chars().take(100).collect()),
            status,
            currency: Some(currency).filter(|_| is_currency)?,
            total: object["total"].as_i64()?,
            due: object["amount_due"].as_i64()?,
            paid: object["amount_paid"].as_i64().unwrap_or(0),
            remaining: object["amount_remaining"].as_i64().unwrap_or(0),
            period: (object["period_start"].as_i64(), object["period_end"].as_i64()),
            due_at: object["due_date"].as_i64(),
            attempts: object["attempt_count"].as_i64().unwrap_or(0).clamp(0, 1000),
            next_attempt_at: object["next_payment_attempt"].as_i64(),
            hosted_url: url(&object["hosted_invoice_url"]),
            pdf_url: url(&object["invoice_pdf"]),
            problem,
            message,
            created: object["created"].as_i64()?,
        })
    }

    /// Orders events of one second: the further in an invoice's life has the greater rank.
    #[must_use]
    pub fn rank(&self) -> i16 {
        let attempts = i16::try_from(self.attempts).unwrap_or(1000);
        match self.status {
            InvoiceStatus::Draft => i16::from(self.problem.is_some()),
            InvoiceStatus::Open => 10 + 2 * attempts + i16::from(self.problem.is_some()),
            InvoiceStatus::Uncollectible => 3000,
            InvoiceStatus::Paid | InvoiceStatus::Void => 4000,
        }
    }
}

/// Writes the row of an invoice, and takes it from an organization that had it before; says whether anything changed. `since` is
/// when its problem began, in seconds since 1970.
///
/// # Errors
/// When the database cannot be reached.
pub async fn save_invoice(
    tx: &mut SystemTx,
    clock: &Clock,
    organization: OrganizationId,
    (id, subscription): (&str, Option<&str>),
    said: &InvoiceSaid,
    since: Option<i64>,
) -> Result<bool> {
    let moment = |seconds: Option<i64>| seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let minor = |amount: i64| from_stripe(amount, &said.currency).unwrap_or(amount);
    let created: DateTime<Utc> = moment(Some(said.created)).unwrap_or_else(|| clock.now());
    let since = said.problem.and(moment(since).or(Some(created)));
    sqlx::query!(
        "delete from tenantry.invoices where stripe_invoice_id = $1 and organization_id <> $2",
        id,
        organization as _
    )
    .execute(tx.conn())
    .await?;
    let written = sqlx::query!(
        "insert into tenantry.invoices as i (organization_id, id, stripe_invoice_id, stripe_subscription_id, number, status, currency, total_minor,
                due_minor, paid_minor, remaining_minor, period_start, period_end, due_at, attempts, next_attempt_at, hosted_url, pdf_url,
                problem, problem_message, problem_since, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)
         on conflict (organization_id, stripe_invoice_id) do update
            set stripe_subscription_id = excluded.stripe_subscription_id, number = excluded.number, status = excluded.status,
                currency = excluded.currency, total_minor = excluded.total_minor, due_minor = excluded.due_minor,
                paid_minor = excluded.paid_minor, remaining_minor = excluded.remaining_minor, period_start = excluded.period_start,
                period_end = excluded.period_end, due_at = excluded.due_at, attempts = excluded.attempts,
                next_attempt_at = excluded.next_attempt_at, hosted_url = excluded.hosted_url, pdf_url = excluded.pdf_url,
                problem = excluded.problem, problem_message = excluded.problem_message, problem_since = excluded.problem_since,
                created_at = excluded.created_at
          where to_jsonb(i) - array['id', 'updated_at'] is distinct from to_jsonb(excluded) - array['id', 'updated_at']",
        organization as _,
        InvoiceId::new(clock) as _,
        id,
        subscription,
        said.number,
        said.status as _,
        said.currency,
        minor(said.total),
        minor(said.due),
        minor(said.paid),
        minor(said.remaining),
        moment(said.period.0),
        moment(said.period.1),
        moment(said.due_at),
        i32::try_from(said.attempts).unwrap_or(i32::MAX),
        moment(said.next_attempt_at),
        said.hosted_url,
        said.pdf_url,
        said.problem as _,
        said.message,
        since,
        created
    )
    .execute(tx.conn())
    .await?;
    Ok(written.rows_affected() > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn invoice(status: &str, attempts: i64) -> Value {
        json!({ "id": "in_1", "object": "invoice", "status": status, "currency": "usd", "total": 2000, "amount_due": 2000,
                "attempt_count": attempts, "created": 1_700_000_000, "hosted_invoice_url": "https://invoice.stripe.com/i/1" })
    }

    #[test]
    fn invoices_of_one_second_are_ordered_by_their_life() {
        let rank = |kind: &str, status: &str, attempts| {
            InvoiceSaid::read(kind, &invoice(status, attempts)).expect("an invoice").rank()
        };
        let life = [
            rank("invoice.finalization_failed", "draft", 0),
            rank("invoice.finalized", "open", 0),
            rank("invoice.payment_action_required", "open", 0),
            rank("invoice.payment_failed", "open", 1),
            rank("invoice.payment_failed", "open", 2),
            rank("invoice.marked_uncollectible", "uncollectible", 4),
            rank("invoice.paid", "paid", 5),
        ];
        assert!(life.windows(2).all(|pair| pair[0] < pair[1]), "{life:?}");
    }

    #[test]
    fn what_is_no_invoice_says_nothing() {
        let mut odd = invoice("open", 1);
        odd["hosted_invoice_url"] = "javascript:alert(1)".into();
        assert_eq!(InvoiceSaid::read("invoice.paid", &odd).expect("an invoice").hosted_url, None);
        for (field, value) in [
            ("status", json!("new")),
            ("status", Value::Null),
            ("currency", json!("dollars")),
            ("total", json!("2000")),
            ("created", Value::Null),
        ] {
            let mut odd = invoice("open", 1);
            odd[field] = value;
            assert_eq!(InvoiceSaid::read("invoice.paid", &odd), None, "{field}");
        }
    }
}
