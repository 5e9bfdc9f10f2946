//! What Stripe says of refunds, and what follows for ours: the one way for answers and for webhooks.
//!
//! At Stripe a refund goes from `pending` or `requires_action` to `succeeded`, `failed` or `canceled`, and from `succeeded` to
//! `failed`, which is final (Stripe's documentation, "Refunds: failed refunds"). So the further state counts, in whichever order it
//! is heard of. From the moment that Stripe has a refund its money is spent here; if it fails, the money comes back.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::budgets::Books;
use crate::clock::Clock;
use crate::db::SystemTx;
use crate::error::Result;
use crate::events::{self, Event};
use crate::id::{CustomerId, Id, OrganizationId, RefundId};
use crate::refunds::model::from_stripe;
use crate::refunds::sql::{self, Locked, Told};
use crate::refunds::{RefundReason, RefundStatus, holding};
use crate::trail::{self, AuditEntry};

/// The metadata that our refunds carry at Stripe.
pub(super) const ORGANIZATION: &str = "tenantry_organization_id";
pub(super) const REFUND: &str = "tenantry_refund_id";
pub(super) const ATTEMPT: &str = "tenantry_attempt";
/// The metadata of payments that say for which organization they were taken, and from which of its customers. Only the secret
/// key writes metadata. It is not the name that says which organization is Stripe's customer: what an organization pays to the
/// platform is not its own to give back.
const MERCHANT: &str = "merchant_organization_id";
const MERCHANT_CUSTOMER: &str = "merchant_customer_id";
/// How long it is waited before Stripe is asked about a refund that is on its way there; webhooks are faster.
const POLL: TimeDelta = TimeDelta::hours(1);
/// Stripe's reason of what was never taken from the customer.
const UNCAPTURED: &str = "expired_uncaptured_charge";

/// How far a refund is at Stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RemoteStatus {
    /// `pending`, `requires_action`, and what is not known.
    Pending,
    /// `succeeded`.
    Succeeded,
    /// `failed` or `canceled`.
    Failed,
}

impl RemoteStatus {
    /// Orders what is said in one second: the further has the greater rank.
    #[must_use]
    pub const fn rank(self) -> i16 {
        match self {
            Self::Pending => 0,
            Self::Succeeded => 1,
            Self::Failed => 2,
        }
    }
}

/// Which of our refunds a refund at Stripe is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub organization: OrganizationId,
    pub refund: RefundId,
    pub attempt: i32,
}

/// A refund at Stripe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteRefund {
    /// `re_…`
    pub id: String,
    /// The payment that is given back: `pi_…`.
    pub payment: String,
    /// In Stripe's units.
    pub amount: i64,
    /// In lower case.
    pub currency: String,
    pub status: RemoteStatus,
    /// Why it failed, as a code.
    pub failure: Option<String>,
    /// Stripe's reason.
    pub reason: Option<String>,
    /// When it was made, in seconds since 1970.
    pub created: Option<i64>,
    pub reference: Option<Reference>,
}

/// A text of Stripe's that can be stored.
fn word(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value["id"].as_str())?;
    let usable = !text.is_empty() && text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic());
    usable.then(|| text.to_owned())
}

impl Reference {
    fn read(metadata: &Value) -> Option<Self> {
        Some(Self {
            organization: OrganizationId::parse(metadata[ORGANIZATION].as_str()?).ok()?,
            refund: RefundId::parse(metadata[REFUND].as_str()?).ok()?,
            attempt: metadata[ATTEMPT].as_str()?.parse().ok()?,
        })
    }
}

impl RemoteRefund {
    /// Reads a refund as the API and events have it.
    ///
    /// # Errors
    /// Why it is nothing to us.
    pub fn read(object: &Value) -> std::result::Result<Self, &'static str> {
        if object["object"] != "refund" {
            return Err("is no refund");
        }
        if object["reason"] == UNCAPTURED {
            return Err("of a payment that was never taken");
        }
        let status = match object["status"].as_str() {
            // Before 2015 refunds had none and were made at once.
            Some("succeeded") | None => RemoteStatus::Succeeded,
            Some("failed" | "canceled") => RemoteStatus::Failed,
            Some(_) => RemoteStatus::Pending,
        };
        let failure = if object["status"] == "canceled" { Some("canceled".to_owned()) } else { None };
        Ok(Self {
            id: word(&object["id"]).ok_or("names no refund")?,
            payment: word(&object["payment_intent"]).ok_or("names no payment intent")?,
            amount: object["amount"].as_i64().filter(|amount| *amount > 0).ok_or("names no amount")?,
            currency: word(&object["currency"]).ok_or("names no currency")?.to_ascii_lowercase(),
            status,
            failure: word(&object["failure_reason"]).or(failure),
            reason: word(&object["reason"]),
            created: object["created"].as_i64(),
            reference: Reference::read(&object["metadata"]),
        })
    }

    /// Its currency as we write it, and its amount in our minor units.
    pub(super) fn money(&self) -> Option<(String, i64)> {
        let currency = self.currency.to_ascii_uppercase();
        let minor = from_stripe(self.amount, &currency)?;
        (currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_uppercase())).then_some((currency, minor))
    }

    /// What is said of a failure.
    fn why(&self) -> String {
        match self.failure.as_deref() {
            Some("canceled") => "The refund was canceled at Stripe.".to_owned(),
            Some(code) => format!("Stripe could not pay the refund out: {code}."),
            None => "Stripe could not pay the refund out.".to_owned(),
        }
    }
}

/// What is known of a payment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// For which organization it was taken, as its metadata name it: our id, its UUID, or the identity provider's id.
    pub merchant: Option<String>,
    /// From which of its customers.
    pub customer: Option<String>,
    /// What was received, in Stripe's units.
    pub received: Option<i64>,
    /// In lower case.
    pub currency: Option<String>,
}

impl Charge {
    /// Reads a payment intent, or a charge, which has the metadata of its payment intent.
    #[must_use]
    pub fn read(object: &Value) -> Self {
        let received =
            if object["object"] == "charge" { &object["amount_captured"] } else { &object["amount_received"] };
        Self {
            merchant: word(&object["metadata"][MERCHANT]),
            customer: word(&object["metadata"][MERCHANT_CUSTOMER]),
            received: received.as_i64(),
            currency: word(&object["currency"]).map(|currency| currency.to_ascii_lowercase()),
        }
    }

    /// Whether it was taken for the organization with this id, which the identity provider calls so.
    pub(super) fn is_of(&self, organization: OrganizationId, clerk_id: Option<&str>) -> bool {
        let Some(name) = self.merchant.as_deref() else { return false };
        clerk_id == Some(name)
            || OrganizationId::parse(name).map(Id::uuid).or_else(|_| uuid::Uuid::try_parse(name)).ok()
                == Some(organization.uuid())
    }

    /// The customer that it names; `None`: none, or nothing that is an id.
    pub(super) fn customer_id(&self) -> Option<CustomerId> {
        CustomerId::parse(self.customer.as_deref()?).ok()
    }
}

/// Where news of a refund come from.
#[derive(Clone, Copy, Debug)]
pub struct News<'a> {
    pub clock: &'a Clock,
    /// The id of the event; `None`: Stripe's answer to the worker.
    pub event: Option<&'a str>,
}

/// Writes what Stripe says of a refund to the organization's row of it, or makes one for a refund that was made in Stripe. `charge` is
/// what is known of the payment; `None`: whose it is, is not known. Gives the row; `None`: it is no row of this organization, or
/// older than what is known.
///
/// # Errors
/// When the database cannot be reached.
pub async fn record(
    tx: &mut SystemTx,
    news: News<'_>,
    organization: OrganizationId,
    remote: &RemoteRefund,
    charge: Option<&Charge>,
) -> Result<Option<RefundId>> {
    let reference = remote.reference.as_ref().filter(|reference| reference.organization == organization);
    if let Some(reference) = reference
        && let Some(row) = sql::lock(tx.conn(), organization, reference.refund).await?
        && is_about(&row, remote)
    {
        let is_known = row.stripe_refund_id.as_deref() == Some(&remote.id);
        // A live answer tells of every attempt; an event that is late must not pay for a later one.
        let is_current = reference.attempt >= row.attempt || news.event.is_none();
        if is_known || row.stripe_refund_id.is_none() && is_current {
            write(tx, news, organization, row, remote).await?;
            return Ok(Some(reference.refund));
        }
        if reference.attempt < row.attempt && (row.stripe_refund_id.is_none() || remote.status == RemoteStatus::Failed)
        {
            return Ok(None);
        }
    }
    if let Some(id) = sql::at_stripe(tx.conn(), organization, &remote.id).await?
        && let Some(row) = sql::lock(tx.conn(), organization, id).await?
    {
        write(tx, news, organization, row, remote).await?;
        return Ok(Some(id));
    }
    match charge {
        Some(charge) => make(tx, news, organization, remote, charge).await,
        None => Ok(None),
    }
}

/// Whether a refund that names a row of ours is that row's: of the same payment and amount.
fn is_about(row: &Locked, remote: &RemoteRefund) -> bool {
    row.payment.as_deref() == Some(&remote.payment)
        && remote.money().is_some_and(|(currency, minor)| currency == row.currency && minor == row.amount_minor)
}

/// Whether what is known is as far as what is said.
fn is_old(row: &Locked, remote: &RemoteRefund) -> bool {
    if row.stripe_refund_id.as_deref() != Some(&remote.id) {
        return false;
    }
    let known = match row.status {
        // What was canceled here had failed there.
        RefundStatus::Failed | RefundStatus::Cancelled => RemoteStatus::Failed,
        RefundStatus::Settled => RemoteStatus::Succeeded,
        _ => RemoteStatus::Pending,
    };
    remote.status <= known
}

/// Brings a locked row up to what Stripe says.
async fn write(
    tx: &mut SystemTx,
    news: News<'_>,
    organization: OrganizationId,
    mut row: Locked,
    remote: &RemoteRefund,
) -> Result<()> {
    let now = news.clock.now();
    if is_old(&row, remote) {
        if row.status == RefundStatus::Processing && news.event.is_none() {
            row.next_attempt_at = Some(poll_at(now, &row));
            sql::save(tx.conn(), organization, &mut row).await?;
        }
        return Ok(());
    }
    let before = row.status;
    row.stripe_refund_id = Some(remote.id.clone());
    let mut metadata = json!({ "stripeRefundId": remote.id });
    let action = match remote.status {
        RemoteStatus::Failed => {
            holding::free(&mut Books::of_system(tx, organization, news.clock), &row).await?;
            (row.status, row.failure_reason) = (RefundStatus::Failed, Some(remote.why()));
            (row.next_attempt_at, row.settled_at) = (None, None);
            metadata["failureReason"] = json!(row.failure_reason);
            "refund.fail"
        }
        status => {
            let missed = holding::spend(&mut Books::of_system(tx, organization, news.clock), &mut row).await?;
            if let Some(missed) = missed {
                metadata["notCounted"] = missed;
            }
            row.failure_reason = None;
            if status == RemoteStatus::Succeeded {
                (row.status, row.settled_at, row.next_attempt_at) = (RefundStatus::Settled, Some(now), None);
                "refund.settle"
            } else {
                (row.status, row.next_attempt_at) = (RefundStatus::Processing, Some(poll_at(now, &row)));
                "refund.accept"
            }
        }
    };
    sql::save(tx.conn(), organization, &mut row).await?;
    metadata["before"] = json!({ "status": before });
    metadata["after"] = json!({ "status": row.status, "version": row.version });
    tell(tx, news, organization, row.id, action, metadata).await
}

/// When Stripe is asked next about a refund that is on its way: later each time, a day at most.
fn poll_at(now: DateTime<Utc>, row: &Locked) -> DateTime<Utc> {
    now + POLL * row.tries.clamp(1, 24)
}

/// Writes the audit row of what Stripe brought about, and tells subscribers.
pub(super) async fn tell(
    tx: &mut SystemTx,
    news: News<'_>,
    organization: OrganizationId,
    id: RefundId,
    action: &'static str,
    mut metadata: Value,
) -> Result<()> {
    if let Some(event) = news.event {
        metadata["cause"] = event.into();
    }
    trail::record_of_system(tx, news.clock, organization, &AuditEntry::of(action, id, metadata)).await?;
    events::tell(tx, &[(organization, Event::of(id))]).await
}

/// Makes the row of a refund that nobody asked for here: it is paid by the oldest budget of its currency, whatever the limit, because
/// its money is gone.
async fn make(
    tx: &mut SystemTx,
    news: News<'_>,
    organization: OrganizationId,
    remote: &RemoteRefund,
    charge: &Charge,
) -> Result<Option<RefundId>> {
    let Some((currency, amount_minor)) = remote.money() else {
        tracing::warn!(refund = remote.id, "Stripe has a refund whose amount cannot be said here");
        return Ok(None);
    };
    sql::lock_payment(tx.conn(), organization, &remote.payment).await?;
    let customer_id = match charge.customer_id() {
        Some(id) => sql::customer_now(tx, organization, id).await?,
        None => None,
    };
    let now = news.clock.now();
    let made_at = remote.created.and_then(|at| DateTime::from_timestamp(at, 0)).filter(|at| *at <= now).unwrap_or(now);
    let mut books = Books::of_system(tx, organization, news.clock);
    let budget_id = holding::default_budget(&mut books, &currency).await?;
    let (status, settled_at) = match remote.status {
        RemoteStatus::Pending => (RefundStatus::Processing, None),
        RemoteStatus::Succeeded => (RefundStatus::Settled, Some(now)),
        RemoteStatus::Failed => (RefundStatus::Failed, None),
    };
    let mut row = Locked {
        id: RefundId::new(news.clock),
        ticket_id: None,
        customer_id,
        amount_minor,
        currency,
        reason: match remote.reason.as_deref() {
            Some("duplicate") => RefundReason::DuplicateCharge,
            _ => RefundReason::Other,
        },
        status,
        requested_by: None,
        needs_another_approver: false,
        decision: None,
        decided_by: None,
        decided_at: None,
        decision_note: None,
        budget_id,
        reservation_id: None,
        payment: Some(remote.payment.clone()),
        stripe_refund_id: Some(remote.id.clone()),
        made_in_stripe: true,
        payment_reference: None,
        failure_reason: (status == RefundStatus::Failed).then(|| remote.why()),
        settled_at,
        charge_minor: None,
        attempt: 1,
        tries: 0,
        sent_at: None,
        next_attempt_at: (status == RefundStatus::Processing).then(|| now + POLL),
        version: 1,
    };
    row.charge_minor = charge.received.and_then(|received| from_stripe(received, &row.currency));
    let mut metadata = json!({ "stripeRefundId": remote.id, "after": { "status": status, "amountMinor": amount_minor,
                                                                         "currency": row.currency } });
    if status != RefundStatus::Failed
        && let Some(missed) = holding::spend(&mut books, &mut row).await?
    {
        metadata["notCounted"] = missed;
    }
    sql::insert(tx.conn(), organization, &row, &Told::default(), made_at).await?;
    tell(tx, news, organization, row.id, "refund.take_in", metadata).await?;
    Ok(Some(row.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refund(change: impl FnOnce(&mut Value)) -> Value {
        let mut object = json!({ "id": "re_1", "object": "refund", "payment_intent": "pi_1", "amount": 500, "currency": "usd",
                                 "status": "succeeded", "metadata": {}, "created": 1_700_000_000 });
        change(&mut object);
        object
    }

    #[test]
    fn refunds_of_stripe_are_read() {
        let read = |change: fn(&mut Value)| RemoteRefund::read(&refund(change));
        assert_eq!(read(|_| ()).map(|refund| refund.status), Ok(RemoteStatus::Succeeded));
        for (status, expected) in [
            ("pending", RemoteStatus::Pending),
            ("requires_action", RemoteStatus::Pending),
            ("something_new", RemoteStatus::Pending),
            ("failed", RemoteStatus::Failed),
            ("canceled", RemoteStatus::Failed),
        ] {
            let object = refund(|object| object["status"] = status.into());
            assert_eq!(RemoteRefund::read(&object).map(|refund| refund.status), Ok(expected), "{status}");
        }
        for (change, why) in [
            ((|object| object["payment_intent"] = Value::Null) as fn(&mut Value), "names no payment intent"),
            (|object| object["object"] = "charge".into(), "is no refund"),
            (|object| object["amount"] = 0.into(), "names no amount"),
            (|object| object["amount"] = (-5).into(), "names no amount"),
            (|object| object["id"] = "re_\u{0}".into(), "names no refund"),
            (|object| object["reason"] = UNCAPTURED.into(), "of a payment that was never taken"),
        ] {
            assert_eq!(read(change), Err(why));
        }
        // Expanded objects, and metadata that are none of ours.
        let expanded = read(|object| object["payment_intent"] = json!({ "id": "pi_2" })).expect("a refund");
        assert_eq!((expanded.payment.as_str(), expanded.reference), ("pi_2", None));
        let odd = read(|object| object["metadata"] = json!({ ORGANIZATION: 5, REFUND: "x", ATTEMPT: "one" }));
        assert_eq!(odd.map(|refund| refund.reference), Ok(None));
    }

    #[test]
    fn payments_name_whose_they_are_in_their_own_word() {
        let organization = OrganizationId::from_uuid(uuid::Uuid::from_u128(7));
        let named = |key: &str, name: String| {
            Charge::read(
                &json!({ "object": "payment_intent", "amount_received": 5, "currency": "USD", "metadata": { key: name } }),
            )
        };
        assert!(named(MERCHANT, organization.to_string()).is_of(organization, None));
        assert!(named(MERCHANT, organization.uuid().to_string()).is_of(organization, None));
        assert!(named(MERCHANT, "org_clerk".to_owned()).is_of(organization, Some("org_clerk")));
        assert!(!named(MERCHANT, "org_clerk".to_owned()).is_of(organization, None));
        // What the organization itself has paid to the platform.
        assert!(!named("organization_id", organization.to_string()).is_of(organization, None));
        assert!(!Charge::default().is_of(organization, None));
    }
}
