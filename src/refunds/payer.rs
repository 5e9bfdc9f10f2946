//! Pays what was approved, through Stripe.
//!
//! Three transactions, and Stripe between them: one takes a refund, one notes that its payment is in flight, one writes what became
//! of it. No transaction is open while Stripe is asked. Whoever dies in between leaves a refund whose time comes again: then Stripe
//! is asked for the refunds of the payment, and one that carries our name is taken for what it is. Only where there is none is the
//! payment sent, under the key that it was sent under before. Stripe keeps keys for 24 hours at least (API reference, "Idempotent
//! requests"); after [`KEY_LASTS`] a payment that Stripe does not have gets another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::budgets::Books;
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::graphql::money::Money;
use crate::graphql::mutation::VerbError;
use crate::id::{OrganizationId, RefundId};
use crate::refunds::model::{from_stripe, to_stripe};
use crate::refunds::remote::{self, Charge, News, RemoteRefund, RemoteStatus};
use crate::refunds::sql::{self, Claimed, Locked};
use crate::refunds::{RefundStatus, holding};
use crate::stripe::{RefundForm, Refusal, StripeClient, StripeFailure};
use crate::turns;

/// How often it is looked for what is due.
const TICK: Duration = Duration::from_secs(2);
/// How long a refund is left to whoever took it: longer than all that is asked of Stripe for it.
const LEASE: TimeDelta = TimeDelta::minutes(2);
/// How long a key is used: shorter than Stripe keeps it.
const KEY_LASTS: TimeDelta = TimeDelta::hours(23);
/// The first pause after a try that had no answer, and the longest.
const PAUSE: TimeDelta = TimeDelta::seconds(5);
const LONGEST_PAUSE: TimeDelta = TimeDelta::hours(1);
/// After so many tries, two days and more, a payment that Stripe does not have has failed.
const MOST_TRIES: i32 = 60;

/// What pays refunds; each process that works has one.
pub struct Payer {
    db: Db,
    clock: Clock,
    stripe: Option<Arc<StripeClient>>,
}

/// What is to be sent.
struct Sending {
    payment: String,
    amount: i64,
    reason: &'static str,
    attempt: i32,
}

/// What became of a step.
enum Step {
    /// The payment may be sent.
    Send(Sending),
    /// It may not, and its refund says why; or it is somebody else's by now.
    Over,
}

/// What Stripe has of a payment.
struct Known {
    charge: Charge,
    is_paid: bool,
    refunds: Vec<RemoteRefund>,
    /// Whether a refund could not be read.
    is_in_part: bool,
}

impl Known {
    fn read(payment: &Value, refunds: &[Value]) -> Self {
        let read: Vec<_> = refunds.iter().map(RemoteRefund::read).collect();
        Self {
            charge: Charge::read(payment),
            is_paid: payment["status"] == "succeeded",
            is_in_part: read.iter().any(Result::is_err),
            refunds: read.into_iter().flatten().collect(),
        }
    }

    /// The refund at Stripe that is this one of ours, which its metadata and its amount say: one that has not failed, of whichever attempt, or else that of this attempt.
    fn find(&self, organization: OrganizationId, claimed: &Claimed) -> Option<&RemoteRefund> {
        let ours = || {
            self.refunds.iter().filter(|refund| {
                let is_ours = |reference: &remote::Reference| {
                    reference.organization == organization && reference.refund == claimed.id
                };
                let is_as_much = |(currency, minor)| currency == claimed.currency && minor == claimed.amount_minor;
                refund.reference.as_ref().is_some_and(is_ours) && refund.money().is_some_and(is_as_much)
            })
        };
        let of_attempt = |refund: &&RemoteRefund| {
            refund.reference.as_ref().is_some_and(|reference| reference.attempt == claimed.attempt)
        };
        ours().find(|refund| refund.status != RemoteStatus::Failed).or_else(|| ours().find(of_attempt))
    }
}

impl Payer {
    /// Without a client nothing is paid: what was approved waits for somebody who pays it by hand.
    #[must_use]
    pub const fn new(db: Db, clock: Clock, stripe: Option<Arc<StripeClient>>) -> Self {
        Self { db, clock, stripe }
    }

    /// Pays what is due until a stop is asked for.
    pub async fn run(&self, mut stopping: watch::Receiver<bool>) {
        loop {
            if let Err(error) = self.pay_due().await {
                tracing::warn!(%error, "refunds could not be looked after; it is tried again");
            }
            if *stopping.borrow() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                _ = stopping.changed() => return,
            }
        }
    }

    /// Pays what is due, some of each organization's; says how many refunds were taken up.
    ///
    /// # Errors
    /// As [`turns::by_organization`]. What goes wrong at Stripe is kept with its refund.
    pub async fn pay_due(&self) -> Result<u64> {
        let Some(stripe) = &self.stripe else { return Ok(0) };
        let now = self.clock.now();
        turns::by_organization(
            &self.db,
            "refund-payments",
            |tx, after| Box::pin(sql::organizations_due(tx, after, turns::PAGE, now)),
            |organization| self.pay_one(stripe, organization),
        )
        .await
    }

    async fn pay_one(&self, stripe: &StripeClient, organization: OrganizationId) -> Result<u64> {
        let now = self.clock.now();
        let mut tx = SystemTx::begin(&self.db).await?;
        let claimed = sql::claim(&mut tx, organization, now, now + LEASE).await?;
        tx.commit().await?;
        let Some(claimed) = claimed else { return Ok(0) };
        if let Err(failure) = self.pay(stripe, organization, &claimed).await? {
            self.put_off(organization, &claimed, &failure).await?;
        }
        Ok(1)
    }

    /// Brings one refund as far as it goes now. The inner error: Stripe could not be asked, or wants it to be tried again.
    async fn pay(
        &self,
        stripe: &StripeClient,
        organization: OrganizationId,
        claimed: &Claimed,
    ) -> Result<Result<(), StripeFailure>> {
        if let Some(id) = &claimed.stripe_refund_id {
            return match stripe.refund(id).await {
                Ok(Some(answer)) => self.write(organization, &answer, None).await.map(Ok),
                Ok(None) => Ok(Err(StripeFailure::Unreachable("Stripe does not know the refund any more".to_owned()))),
                Err(failure) => Ok(Err(failure)),
            };
        }
        let known = match stripe.payment(&claimed.payment).await {
            Ok(Some((payment, refunds))) => Known::read(&payment, &refunds),
            Ok(None) => {
                let why = "There is no such payment at Stripe.";
                return self.give_up(organization, claimed, why.to_owned()).await.map(Ok);
            }
            Err(failure) => return Ok(Err(failure)),
        };
        if let Some(found) = known.find(organization, claimed) {
            self.record(organization, found, Some(&known.charge)).await?;
            return Ok(Ok(()));
        }
        let Step::Send(sending) = self.begin(organization, claimed, &known).await? else { return Ok(Ok(())) };
        let form = RefundForm {
            payment_intent: &sending.payment,
            amount: sending.amount,
            reason: sending.reason,
            metadata: BTreeMap::from([
                (remote::ORGANIZATION, organization.to_string()),
                (remote::REFUND, claimed.id.to_string()),
                (remote::ATTEMPT, sending.attempt.to_string()),
            ]),
        };
        let key = format!("tenantry-{organization}-{}-{}", claimed.id, sending.attempt);
        match stripe.create_refund(&form, &key).await {
            Ok(answer) => self.write(organization, &answer, Some(&known.charge)).await.map(Ok),
            Err(StripeFailure::Refused(refusal)) if refusal.is_final() => {
                tracing::warn!(refund = %claimed.id, %organization, status = refusal.status, code = refusal.code,
                               message = refusal.message, "Stripe refused a refund");
                self.give_up(organization, claimed, told(&refusal)).await.map(Ok)
            }
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// Notes that the payment is in flight, before it is sent: from here on its money may be gone.
    async fn begin(&self, organization: OrganizationId, claimed: &Claimed, known: &Known) -> Result<Step> {
        let now = self.clock.now();
        let mut tx = SystemTx::begin(&self.db).await?;
        let Some(mut row) = self.still_ours(&mut tx, organization, claimed).await? else { return Ok(Step::Over) };
        let before = row.status;
        let refusal = match before {
            RefundStatus::Approved => self.admit(&mut tx, organization, &mut row, known).await?,
            _ if row.sent_at.is_none_or(|sent| now - sent < KEY_LASTS) => None,
            _ if claimed.tries >= MOST_TRIES => {
                Some("Stripe gave no answer for two days, and has no such refund.".to_owned())
            }
            _ => {
                (row.attempt, row.sent_at) = (row.attempt + 1, Some(now));
                None
            }
        };
        let amount = to_stripe(row.amount_minor, &row.currency);
        let refusal = refusal.or_else(|| amount.is_none().then(|| not_said(&row)));
        if let Some(why) = refusal {
            self.fail(&mut tx, organization, row, why).await?;
            tx.commit().await?;
            return Ok(Step::Over);
        }
        row.status = RefundStatus::Processing;
        row.sent_at = row.sent_at.or(Some(now));
        sql::save(tx.conn(), organization, &mut row).await?;
        if before == RefundStatus::Approved {
            let metadata = json!({ "before": { "status": before }, "after": { "status": row.status, "version": row.version },
                                   "attempt": row.attempt });
            remote::tell(&mut tx, self.news(), organization, row.id, "refund.pay", metadata).await?;
        }
        tx.commit().await?;
        let (payment, amount) = (row.payment.unwrap_or_default(), amount.unwrap_or_default());
        Ok(Step::Send(Sending { payment, amount, reason: row.reason.at_stripe(), attempt: row.attempt }))
    }

    /// Whether an approved refund may be paid; why not, if it may not. Its money is held from here on.
    async fn admit(
        &self,
        tx: &mut SystemTx,
        organization: OrganizationId,
        row: &mut Locked,
        known: &Known,
    ) -> Result<Option<String>> {
        let clerk_id = sql::clerk_id(tx, organization).await?;
        if !known.charge.is_of(organization, clerk_id.as_deref()) {
            return Ok(Some(
                "The payment was not taken for this organization: its metadata must name it as `merchant_organization_id`."
                    .to_owned(),
            ));
        }
        if let Some(customer) = known.charge.customer_id() {
            let customer = sql::customer_now(tx, organization, customer).await?;
            if customer.is_none() || customer != row.customer_id {
                return Ok(Some("The payment is another customer's.".to_owned()));
            }
        }
        if known.charge.currency.as_deref() != Some(&*row.currency.to_ascii_lowercase()) {
            return Ok(Some("The payment is in another currency.".to_owned()));
        }
        let received = known.charge.received.and_then(|received| from_stripe(received, &row.currency));
        let Some(received) = received.filter(|received| known.is_paid && *received > 0) else {
            return Ok(Some("The payment has not been received.".to_owned()));
        };
        row.charge_minor = Some(received);
        let payment = row.payment.clone().unwrap_or_default();
        sql::lock_payment(tx.conn(), organization, &payment).await?;
        let given = given_back(known, row, &sql::of_payment(tx.conn(), organization, &payment).await?);
        if known.is_in_part {
            return Ok(Some("Stripe has a refund of the payment that cannot be read.".to_owned()));
        }
        if given.checked_add(row.amount_minor).is_none_or(|all| all > received) {
            let shown = |minor| Money::from_minor(minor, &row.currency).amount;
            return Ok(Some(format!(
                "{} {} were paid and {} are given back already.",
                shown(received),
                row.currency,
                shown(given)
            )));
        }
        match holding::hold_for_payment(&mut Books::of_system(tx, organization, &self.clock), row).await {
            Ok(()) => Ok(None),
            Err(VerbError::User(errors)) => Ok(errors.into_iter().next().map(|error| error.message)),
            Err(VerbError::Fail(error)) => Err(error),
        }
    }

    /// The refund that was taken, locked, if nobody has changed or taken it since.
    async fn still_ours(
        &self,
        tx: &mut SystemTx,
        organization: OrganizationId,
        claimed: &Claimed,
    ) -> Result<Option<Locked>> {
        let row = sql::lock(tx.conn(), organization, claimed.id).await?;
        Ok(row.filter(|row| {
            matches!(row.status, RefundStatus::Approved | RefundStatus::Processing)
                && (row.attempt, row.tries) == (claimed.attempt, claimed.tries)
                && row.stripe_refund_id == claimed.stripe_refund_id
        }))
    }

    /// Writes what Stripe answered.
    async fn write(&self, organization: OrganizationId, answer: &Value, charge: Option<&Charge>) -> Result<()> {
        match RemoteRefund::read(answer) {
            Ok(remote) => self.record(organization, &remote, charge).await,
            // It is asked for again.
            Err(why) => {
                tracing::warn!(%organization, why, "Stripe's answer about a refund cannot be read");
                Ok(())
            }
        }
    }

    async fn record(&self, organization: OrganizationId, remote: &RemoteRefund, charge: Option<&Charge>) -> Result<()> {
        let mut tx = SystemTx::begin(&self.db).await?;
        remote::record(&mut tx, self.news(), organization, remote, charge).await?;
        tx.commit().await
    }

    fn news(&self) -> News<'_> {
        News { clock: &self.clock, event: None }
    }

    /// The payment has failed, and Stripe has none of it.
    async fn give_up(&self, organization: OrganizationId, claimed: &Claimed, why: String) -> Result<()> {
        let mut tx = SystemTx::begin(&self.db).await?;
        let Some(row) = sql::lock(tx.conn(), organization, claimed.id).await? else { return Ok(()) };
        // Beginning has given it another attempt, or a webhook came first.
        if matches!(row.status, RefundStatus::Approved | RefundStatus::Processing)
            && row.tries == claimed.tries
            && row.stripe_refund_id.is_none()
        {
            self.fail(&mut tx, organization, row, why).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    async fn fail(&self, tx: &mut SystemTx, organization: OrganizationId, mut row: Locked, why: String) -> Result<()> {
        holding::free(&mut Books::of_system(tx, organization, &self.clock), &row).await?;
        let before = row.status;
        (row.status, row.next_attempt_at) = (RefundStatus::Failed, None);
        row.failure_reason = Some(why);
        sql::save(tx.conn(), organization, &mut row).await?;
        let metadata = json!({ "before": { "status": before }, "after": { "status": row.status, "version": row.version },
                               "failureReason": row.failure_reason });
        remote::tell(tx, self.news(), organization, row.id, "refund.fail", metadata).await
    }

    /// Stripe could not be asked, or wants to be asked again: later each time.
    async fn put_off(&self, organization: OrganizationId, claimed: &Claimed, failure: &StripeFailure) -> Result<()> {
        tracing::warn!(refund = %claimed.id, %organization, tries = claimed.tries, %failure,
                       "a refund could not be paid now; it is tried again");
        let now = self.clock.now();
        let mut tx = SystemTx::begin(&self.db).await?;
        let Some(mut row) = sql::lock(tx.conn(), organization, claimed.id).await? else { return Ok(()) };
        if row.next_attempt_at.is_none() || row.tries != claimed.tries {
            return Ok(());
        }
        let asked_for = match failure {
            StripeFailure::Refused(refusal) => refusal.retry_after.and_then(|after| TimeDelta::from_std(after).ok()),
            StripeFailure::Unreachable(_) => None,
        };
        let pause = pause(claimed.tries).max(asked_for.unwrap_or_default().min(LONGEST_PAUSE));
        row.next_attempt_at = Some(now + pause);
        row.failure_reason = Some(match failure {
            StripeFailure::Refused(refusal) => format!("{} It is tried again.", told(refusal)),
            StripeFailure::Unreachable(_) => "Stripe gave no answer. It is tried again.".to_owned(),
        });
        sql::save(tx.conn(), organization, &mut row).await?;
        crate::events::tell(&mut tx, &[(organization, crate::events::Event::of(row.id))]).await?;
        tx.commit().await
    }
}

/// How long it is waited after so many tries: twice as long each time, shortened at random by up to half, so that what failed
/// together does not come together again.
fn pause(tries: i32) -> TimeDelta {
    let doubled = 1 << u32::try_from(tries.clamp(1, 15) - 1).unwrap_or_default();
    let longest = (PAUSE * doubled).min(LONGEST_PAUSE);
    longest * rand::rng().random_range(50..=100) / 100
}

/// What is given back of a payment by others than this refund: what Stripe has, and what is on its way there or was paid by hand.
fn given_back(known: &Known, row: &Locked, ours: &[sql::Given]) -> i64 {
    let there = known.refunds.iter().filter(|refund| refund.status != RemoteStatus::Failed);
    let told: BTreeSet<&str> = known.refunds.iter().map(|refund| refund.id.as_str()).collect();
    let named: BTreeSet<RefundId> =
        there.clone().filter_map(|refund| refund.reference.as_ref().map(|reference| reference.refund)).collect();
    let at_stripe: i64 =
        there.filter_map(|refund| from_stripe(refund.amount, &row.currency)).fold(0, i64::saturating_add);
    let on_the_way = ours.iter().filter(|other| {
        other.id != row.id
            && matches!(other.status, RefundStatus::Processing | RefundStatus::Settled)
            && other.stripe_refund_id.as_deref().is_none_or(|id| !told.contains(id))
            && !named.contains(&other.id)
    });
    on_the_way.map(|other| other.amount_minor).fold(at_stripe, i64::saturating_add)
}

/// What organizations are told of a refusal: the messages of Stripe are about the account of the platform.
fn told(refusal: &Refusal) -> String {
    match (refusal.status, refusal.code.as_str()) {
        (401 | 403, _) => "Stripe does not accept the key of this service.".to_owned(),
        (_, "charge_already_refunded") => "The payment is given back already (charge_already_refunded).".to_owned(),
        (_, "charge_disputed") => "The payment is disputed: the dispute decides about it (charge_disputed).".to_owned(),
        (_, "balance_insufficient" | "insufficient_funds") => {
            "There is not enough balance at Stripe at the moment (balance_insufficient).".to_owned()
        }
        (status, "") => format!("Stripe answered with {status}."),
        (_, code) => {
            let code: String = code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(100).collect();
            format!("Stripe refused: {code}.")
        }
    }
}

fn not_said(row: &Locked) -> String {
    format!("Stripe has no way to say this amount in {}.", row.currency)
}

/// When a refund that was approved now is due.
pub(super) fn due(row: &Locked, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    row.payment.is_some().then_some(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_an_hour() {
        for tries in [0, 1, 2, 5, 30, i32::MAX] {
            let pause = pause(tries);
            assert!(pause >= PAUSE / 2 && pause <= LONGEST_PAUSE, "{tries}: {pause}");
        }
        assert!(pause(12) >= LONGEST_PAUSE / 2);
    }

    #[test]
    fn refusals_are_final_or_are_not() {
        let refusal = |status, code: &str| Refusal { status, code: code.to_owned(), ..Refusal::default() };
        for (status, code, expected) in [
            (400, "charge_already_refunded", true),
            (400, "charge_disputed", true),
            (402, "balance_insufficient", true),
            (404, "resource_missing", true),
            (400, "lock_timeout", false),
            (401, "", false),
            (403, "", false),
            (409, "idempotency_key_in_use", false),
            (429, "rate_limit", false),
            (500, "", false),
            (503, "", false),
            (304, "", false),
        ] {
            assert_eq!(refusal(status, code).is_final(), expected, "{status} {code}");
        }
        let again = Refusal { should_retry: Some(true), ..refusal(400, "x") };
        let other = Refusal { kind: "idempotency_error".to_owned(), ..refusal(400, "") };
        assert!(!again.is_final() && !other.is_final());
    }
}
