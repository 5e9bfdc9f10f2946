//! Requesting a refund, and what people do with it.

use serde_json::{Value, json};

use crate::access::Action;
use crate::agents::{DecisionAction, RefundFacts, RefundRequest, decide_refund};
use crate::budgets::{self, Books, BudgetType};
use crate::error::Error;
use crate::escalations::{self, Escalating, EscalationPriority, EscalationReason};
use crate::events::Event;
use crate::graphql::money::Money;
use crate::graphql::mutation::{Checks, Done, Mutation, UserErrorCode, VerbError, VerbResult, Work, check_version};
use crate::id::{BudgetId, EscalationId, RefundId, TicketId, marker};
use crate::refunds::graphql::{
    RefundApproveInput, RefundCancelInput, RefundDenyInput, RefundEscalateInput, RefundMarkPaidInput,
    RefundPolicyUpdateInput, RefundRequestInput, RefundRetryInput,
};
use crate::refunds::model::to_stripe;
use crate::refunds::sql::{self, Locked, Told};
use crate::refunds::{RefundStatus, holding, payer};
use crate::tickets::no_such_ticket;

/// Most characters of a note, of the note of an escalation, and of a reference.
const MAX_NOTE: usize = 5000;
const MAX_ESCALATION_NOTE: usize = 4000;
const MAX_REFERENCE: usize = 500;

fn no_such_refund() -> VerbError {
    VerbError::user("id", UserErrorCode::NotFound, "There is no such refund in this organization.")
}

/// Refuses whoever acts in the place of a user, whatever `AUTH_IMPERSONATION` says: of two people who decide, they would be one.
fn refuse_impersonators(work: &Work<'_>, action: Action) -> VerbResult<()> {
    match work.origin.impersonator {
        Some(_) => Err(Error::ImpersonationRestricted { action: action.label() }.into()),
        None => Ok(()),
    }
}

/// Checks the id of a payment, and that Stripe can say the amount.
fn check_payment(checks: &mut Checks, payment: Option<&str>, amount_minor: i64, currency: &str) -> Option<String> {
    let payment = payment?.trim();
    let is_id = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if payment.len() > 255 || !payment.strip_prefix("pi_").is_some_and(is_id) {
        let message = "`stripePaymentIntentId` takes the id of a payment intent: `pi_…`.";
        checks.refuse("stripePaymentIntentId", UserErrorCode::Invalid, message);
    } else if to_stripe(amount_minor, currency).is_none() {
        let message = format!("Stripe has no way to say this amount in {currency}.");
        checks.refuse("amount", UserErrorCode::Invalid, message);
    }
    Some(payment.to_owned())
}

/// Locks the customer and the ticket of a request, so that nobody merges them meanwhile; says whether they belong together.
async fn check_parties(work: &mut Work<'_>, input: &RefundRequestInput) -> VerbResult<bool> {
    let customer = sql::lock_customer(work.tx, input.customer_id).await?;
    match customer {
        Some(customer) if !customer.is_archived => {}
        Some(sql::Named { merged_into: Some(into), .. }) => {
            let message = format!("The customer was merged into another: name that one, `{into}`.");
            return Err(VerbError::user("customerId", UserErrorCode::NotFound, message));
        }
        _ => {
            let message = "There is no such customer in this organization.";
            return Err(VerbError::user("customerId", UserErrorCode::NotFound, message));
        }
    }
    let Some(ticket) = input.ticket_id else { return Ok(true) };
    let of_ticket = sql::customer_of_ticket(work.tx, ticket).await?.ok_or_else(|| no_such_ticket("ticketId"))?;
    Ok(of_ticket.is_none_or(|customer| customer == input.customer_id))
}

/// The first period of the budget that pays.
async fn budget_of(work: &mut Work<'_>, named: Option<BudgetId>, currency: &str) -> VerbResult<Option<BudgetId>> {
    let mut books = Books::of(work);
    let Some(named) = named else { return Ok(holding::default_budget(&mut books, currency).await?) };
    let refuse = |code, message: String| Err(VerbError::user("budgetId", code, message));
    match budgets::purpose(&mut books, named).await? {
        None => refuse(UserErrorCode::NotFound, "There is no such budget in this organization.".to_owned()),
        Some((_, kind, _)) if kind != BudgetType::Refund => refuse(
            UserErrorCode::Invalid,
            "The budget is for something else: refunds are paid by one of type REFUND.".to_owned(),
        ),
        Some((_, _, theirs)) if theirs != currency => {
            refuse(UserErrorCode::CurrencyMismatch, format!("The budget is in {theirs}, the amount in {currency}."))
        }
        Some((series, ..)) => Ok(Some(series)),
    }
}

/// Refuses to give back more of a payment than it came to, as far as that is known: Stripe is asked before it is paid. Nobody else
/// gives back of the payment until the transaction ends.
async fn check_charge(work: &mut Work<'_>, row: &mut Locked, field: &str) -> VerbResult<()> {
    let Some(payment) = row.payment.clone() else { return Ok(()) };
    let organization = work.tenant().organization_id;
    sql::lock_payment(work.tx.conn(), organization, &payment).await?;
    let all = sql::of_payment(work.tx.conn(), organization, &payment).await?;
    if let Some(other) = all.iter().find(|other| other.currency != row.currency) {
        let message = format!("The payment is in {}, the amount in {}.", other.currency, row.currency);
        return Err(VerbError::user(field, UserErrorCode::CurrencyMismatch, message));
    }
    let Some(charge) = all.iter().rev().find_map(|other| other.charge_minor) else { return Ok(()) };
    row.charge_minor = Some(charge);
    let counts = |status| !matches!(status, RefundStatus::Denied | RefundStatus::Failed | RefundStatus::Cancelled);
    let others = all.iter().filter(|other| other.id != row.id && counts(other.status)).map(|other| other.amount_minor);
    let given = others.fold(0, i64::saturating_add);
    if given.saturating_add(row.amount_minor) > charge {
        let shown = |minor| Money::from_minor(minor, &row.currency).amount;
        let (charge, given) = (shown(charge), shown(given));
        let message = format!("{charge} {} were paid; refunds of {given} are made or on their way.", row.currency);
        return Err(VerbError::user(field, UserErrorCode::ExceedsCharge, message));
    }
    Ok(())
}

/// Escalates the ticket of a refund. A ticket that is closed, or escalated for this reason already, is left as it is.
async fn escalate(work: &mut Work<'_>, row: &Locked, ticket: TicketId, note: Option<&str>) -> VerbResult<EscalationId> {
    let amount = Money::from_minor(row.amount_minor, &row.currency).amount;
    let mut text = format!("The refund {} of {amount} {} is to be decided.", row.id, row.currency);
    if let Some(note) = note.filter(|note| !note.is_empty()) {
        text += &format!("\n\n{note}");
    }
    let escalating = Escalating {
        ticket_id: ticket,
        reason: EscalationReason::PolicyException,
        priority: EscalationPriority::High,
        note: Some(text),
        assignee_id: None,
        due_at: None,
    };
    let (id, audit) = escalations::escalate(work, escalating).await?;
    work.also(escalations::CREATED, id, audit).await?;
    Ok(id)
}

/// Whether somebody else must approve an amount than whoever requests it.
async fn needs_another(work: &mut Work<'_>, amount_minor: i64, currency: &str) -> VerbResult<bool> {
    let limit = sql::four_eyes(work.tx).await?;
    Ok(!limit.is_some_and(|(minor, of)| of == currency && amount_minor <= minor))
}

/// A refund that is asked for, before anything is decided.
async fn asked(
    work: &mut Work<'_>,
    input: &RefundRequestInput,
    amount_minor: i64,
    payment: Option<String>,
    budget_id: Option<BudgetId>,
) -> VerbResult<Locked> {
    let currency = input.amount.currency_code.as_str().to_owned();
    Ok(Locked {
        id: work.new_id(),
        ticket_id: input.ticket_id,
        customer_id: Some(input.customer_id),
        amount_minor,
        reason: input.reason,
        status: RefundStatus::PendingApproval,
        requested_by: sql::person_behind(work.tx).await?,
        needs_another_approver: needs_another(work, amount_minor, &currency).await?,
        decision: None,
        decided_by: None,
        decided_at: Some(work.now),
        decision_note: None,
        budget_id,
        currency,
        reservation_id: None,
        payment,
        stripe_refund_id: None,
        made_in_stripe: false,
        payment_reference: None,
        failure_reason: None,
        settled_at: None,
        charge_minor: None,
        attempt: 1,
        tries: 0,
        sent_at: None,
        next_attempt_at: None,
        version: 1,
    })
}

impl Mutation for RefundRequestInput {
    type Row = marker::Refund;
    const FIELD: &'static str = "refundRequest";
    const ACTION: Action = Action::RefundWrite;
    const AUDIT: &'static str = "refund.request";

    fn idempotency_key(&self) -> Option<&str> {
        Some(&self.idempotency_key)
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        refuse_impersonators(work, Self::ACTION)?;
        let mut checks = Checks::default();
        let amount_minor = self.amount.check(&mut checks, "amount", 1);
        let currency = self.amount.currency_code.as_str();
        let note = self.note.as_deref().map(|note| checks.text("note", note.trim(), MAX_NOTE));
        let payment = check_payment(&mut checks, self.stripe_payment_intent_id.as_deref(), amount_minor, currency);
        checks.finish()?;
        let belongs = check_parties(work, &self).await?;
        let budget_id = budget_of(work, self.budget_id, currency).await?;
        if !belongs {
            return Err(VerbError::user("ticketId", UserErrorCode::Invalid, "The ticket is another customer's."));
        }
        let request = RefundRequest {
            customer_id: self.customer_id,
            ticket_id: self.ticket_id,
            amount_minor,
            currency,
            reason: crate::sql_enum::SqlEnum::label(self.reason),
            has_charge: payment.is_some(),
        };
        let facts = RefundFacts::gather(work.tx, &request, work.now).await?;
        let facts = facts.ok_or_else(|| Error::internal("a customer who was just locked is gone"))?;
        let decision = decide_refund(work.tx, &facts, work.now).await?;
        let mut explanation = decision.explanation;
        let mut row = asked(work, &self, amount_minor, payment, budget_id).await?;
        let mut action = decision.action.unwrap_or(DecisionAction::RequireApproval);
        if action == DecisionAction::AutoApprove && row.budget_id.is_none() {
            // Nothing limits what is approved by rules alone.
            action = DecisionAction::RequireApproval;
            explain(&mut explanation, "there is no budget that pays it, so that a person must approve");
        }
        row.decision = Some(action);
        row.status = match action {
            DecisionAction::AutoApprove => RefundStatus::Approved,
            DecisionAction::RequireApproval | DecisionAction::Escalate => RefundStatus::PendingApproval,
            DecisionAction::Deny => RefundStatus::Denied,
        };
        let escalation = match (action, row.ticket_id) {
            (DecisionAction::Escalate, Some(ticket)) => match escalate(work, &row, ticket, note.as_deref()).await {
                Ok(id) => Some(id),
                // The ticket is closed, or escalated already.
                Err(VerbError::User(_)) => None,
                Err(failed) => return Err(failed),
            },
            _ => None,
        };
        if row.status != RefundStatus::Denied {
            check_charge(work, &mut row, "amount").await?;
            take_up(work, &mut row).await?;
        }
        let told = Told {
            note: note.as_deref().filter(|note| !note.is_empty()),
            decision_rule_id: decision.rule,
            explanation: Some(&explanation),
        };
        let organization = work.tenant().organization_id;
        sql::insert(work.tx.conn(), organization, &row, &told, work.now).await?;
        Ok(Done {
            id: row.id,
            audit: json!({
                "after": shown(&row),
                "ruleId": decision.rule.map(|id| id.to_string()),
                "escalationId": escalation.map(|id| id.to_string()),
            }),
            event: Some(Event::of(row.id)),
        })
    }
}

/// Adds to an explanation why it was decided otherwise than the rule says.
fn explain(explanation: &mut Value, why: &str) {
    match explanation {
        Value::Object(fields) => drop(fields.insert("instead".to_owned(), why.into())),
        other => *other = json!({ "instead": why, "rules": other.take() }),
    }
}

/// Sets the money of a refund aside, and has an approved one paid.
async fn take_up(work: &mut Work<'_>, row: &mut Locked) -> VerbResult<()> {
    let now = work.now;
    let mut books = Books::of(work);
    if row.status != RefundStatus::Approved {
        return holding::hold(&mut books, row).await;
    }
    row.next_attempt_at = payer::due(row, now);
    if row.payment.is_some() {
        holding::hold(&mut books, row).await
    } else {
        // Somebody pays it by hand from here on, and nobody knows when.
        holding::hold_for_payment(&mut books, row).await
    }
}

/// What the log says of a refund.
fn shown(row: &Locked) -> Value {
    json!({
        "status": row.status,
        "amountMinor": row.amount_minor,
        "currency": row.currency,
        "decision": row.decision,
        "customerId": row.customer_id.map(|id| id.to_string()),
        "ticketId": row.ticket_id.map(|id| id.to_string()),
        "budgetId": row.budget_id.map(|id| id.to_string()),
        "stripePaymentIntentId": row.payment,
        "version": row.version,
    })
}

/// Locks a refund that is to go to another status, at the version that the caller has seen.
async fn lock(work: &mut Work<'_>, id: RefundId, expected: Option<i32>, next: RefundStatus) -> VerbResult<Locked> {
    let organization = work.tenant().organization_id;
    let row = sql::lock(work.tx.conn(), organization, id).await?.ok_or_else(no_such_refund)?;
    check_version(expected, row.version)?;
    match row.status.refusal_of(next) {
        Some(refusal) => Err(VerbError::user("id", UserErrorCode::InvalidTransition, refusal)),
        None => Ok(row),
    }
}

/// Writes a refund that has changed; gives what became of it.
async fn save(work: &mut Work<'_>, before: RefundStatus, row: &mut Locked) -> VerbResult<Done<marker::Refund>> {
    let organization = work.tenant().organization_id;
    let version = row.version;
    sql::save(work.tx.conn(), organization, row).await?;
    Ok(Done {
        id: row.id,
        audit: json!({
            "before": { "status": before, "version": version },
            "after": { "status": row.status, "version": row.version },
        }),
        event: Some(Event::of(row.id)),
    })
}

impl Mutation for RefundApproveInput {
    type Row = marker::Refund;
    const FIELD: &'static str = "refundApprove";
    const ACTION: Action = Action::RefundApprove;
    const AUDIT: &'static str = "refund.approve";

    fn idempotency_key(&self) -> Option<&str> {
        Some(&self.idempotency_key)
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        refuse_impersonators(work, Self::ACTION)?;
        let mut checks = Checks::default();
        let note = self.note.as_deref().map(|note| checks.text("note", note.trim(), MAX_NOTE));
        checks.finish()?;
        let mut row = lock(work, self.id, self.expected_version, RefundStatus::Approved).await?;
        let before = row.status;
        if before == RefundStatus::Failed {
            let message = "The refund was approved before, and its payment has failed: `refundRetry` pays it again.";
            return Err(VerbError::user("id", UserErrorCode::InvalidTransition, message));
        }
        let viewer = work.tenant().actor.user();
        if row.needs_another_approver && (viewer.is_none() || viewer == row.requested_by) {
            let message = "Whoever requested this refund may not approve it: somebody else must.";
            return Err(VerbError::user("id", UserErrorCode::AnotherPersonRequired, message));
        }
        if row.budget_id.is_none() {
            row.budget_id = budget_of(work, None, &row.currency).await?;
        }
        check_charge(work, &mut row, "id").await?;
        row.status = RefundStatus::Approved;
        take_up(work, &mut row).await?;
        (row.decided_by, row.decided_at) = (viewer, Some(work.now));
        row.decision_note = note.filter(|note| !note.is_empty());
        save(work, before, &mut row).await
    }
}

impl Mutation for RefundDenyInput {
    type Row = marker::Refund;
    const FIELD: &'static str = "refundDeny";
    const ACTION: Action = Action::RefundApprove;
    const AUDIT: &'static str = "refund.deny";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let note = checks.required("note", &self.note, MAX_NOTE);
        checks.finish()?;
        let mut row = lock(work, self.id, self.expected_version, RefundStatus::Denied).await?;
        let before = row.status;
        holding::free(&mut Books::of(work), &row).await?;
        row.status = RefundStatus::Denied;
        (row.decided_by, row.decided_at, row.decision_note) = (work.tenant().actor.user(), Some(work.now), Some(note));
        save(work, before, &mut row).await
    }
}

impl Mutation for RefundEscalateInput {
    type Row = marker::Refund;
    const FIELD: &'static str = "refundEscalate";
    const ACTION: Action = Action::RefundWrite;
    const AUDIT: &'static str = "refund.escalate";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let note = self.note.as_deref().map(|note| checks.text("note", note.trim(), MAX_ESCALATION_NOTE));
        checks.finish()?;
        // Tickets are locked before refunds.
        let ticket = sql::ticket_of(work.tx, self.id).await?.ok_or_else(no_such_refund)?;
        let Some(ticket) = ticket else {
            let message = "The refund has no ticket that could be escalated.";
            return Err(VerbError::user("id", UserErrorCode::InvalidTransition, message));
        };
        sql::customer_of_ticket(work.tx, ticket).await?;
        let organization = work.tenant().organization_id;
        let seen = sql::lock(work.tx.conn(), organization, self.id).await?.ok_or_else(no_such_refund)?;
        check_version(self.expected_version, seen.version)?;
        if let Some(refusal) = seen.status.refusal_of(RefundStatus::PendingApproval) {
            return Err(VerbError::user("id", UserErrorCode::InvalidTransition, refusal));
        }
        let mut row = seen;
        let before = row.status;
        let escalation = escalate(work, &row, ticket, note.as_deref()).await?;
        (row.status, row.decision) = (RefundStatus::PendingApproval, Some(DecisionAction::Escalate));
        let mut done = save(work, before, &mut row).await?;
        done.audit["escalationId"] = json!(escalation.to_string());
        Ok(done)
    }
}

impl Mutation for RefundCancelInput {
    type Row = marker::Refund;
    const FIELD: &'static str = "refundCancel";
    const ACTION: Action = Action::RefundWrite;
    const AUDIT: &'static str = "refund.cancel";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut row = lock(work, self.id, self.expected_version, RefundStatus::Cancelled).await?;
        let before = row.status;
        let own = sql::person_behind(work.tx).await?;
        let is_own = own.is_some() && own == row.requested_by;
        if !is_own && !work.tenant().allowed.has(Action::RefundApprove) {
            let message = "Only whoever requested the refund, and whoever may approve it, may cancel it.";
            return Err(VerbError::user("id", UserErrorCode::AuthorRequired, message));
        }
        holding::free(&mut Books::of(work), &row).await?;
        (row.status, row.next_attempt_at) = (RefundStatus::Cancelled, None);
        save(work, before, &mut row).await
    }
}

impl Mutation for RefundRetryInput {
    type Row = marker::Refund;
    const FIELD: &'static str = "refundRetry";
    const ACTION: Action = Action::RefundApprove;
    const AUDIT: &'static str = "refund.retry";

    fn idempotency_key(&self) -> Option<&str> {
        Some(&self.idempotency_key)
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        refuse_impersonators(work, Self::ACTION)?;
        let mut row = lock(work, self.id, self.expected_version, RefundStatus::Approved).await?;
        let before = row.status;
        let refuse = |message: &str| Err(VerbError::user("id", UserErrorCode::InvalidTransition, message));
        if before != RefundStatus::Failed {
            return refuse("The refund has not failed: it waits for approval.");
        }
        if row.made_in_stripe {
            return refuse("The refund was made in Stripe: make it there again, or request one here.");
        }
        check_charge(work, &mut row, "id").await?;
        row.status = RefundStatus::Approved;
        take_up(work, &mut row).await?;
        (row.attempt, row.tries, row.sent_at) = (row.attempt + 1, 0, None);
        (row.stripe_refund_id, row.failure_reason) = (None, None);
        save(work, before, &mut row).await
    }
}

impl Mutation for RefundMarkPaidInput {
    type Row = marker::Refund;
    const FIELD: &'static str = "refundMarkPaid";
    const ACTION: Action = Action::RefundApprove;
    const AUDIT: &'static str = "refund.mark_paid";

    fn idempotency_key(&self) -> Option<&str> {
        Some(&self.idempotency_key)
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        refuse_impersonators(work, Self::ACTION)?;
        let mut checks = Checks::default();
        let reference = checks.required("reference", &self.reference, MAX_REFERENCE);
        checks.finish()?;
        let mut row = lock(work, self.id, self.expected_version, RefundStatus::Settled).await?;
        let before = row.status;
        if before != RefundStatus::Approved {
            let message = "The payment was begun through Stripe: what Stripe says of it counts.";
            return Err(VerbError::user("id", UserErrorCode::InvalidTransition, message));
        }
        let missed = holding::spend(&mut Books::of(work), &mut row).await?;
        (row.status, row.settled_at, row.next_attempt_at) = (RefundStatus::Settled, Some(work.now), None);
        (row.payment_reference, row.failure_reason) = (Some(reference), None);
        let mut done = save(work, before, &mut row).await?;
        if let Some(missed) = missed {
            done.audit["notCounted"] = missed;
        }
        Ok(done)
    }
}

impl Mutation for RefundPolicyUpdateInput {
    type Row = marker::Organization;
    const FIELD: &'static str = "refundPolicyUpdate";
    const ACTION: Action = Action::RefundConfigure;
    const AUDIT: &'static str = "refund_policy.update";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let minor = self.four_eyes_above.as_ref().map(|amount| amount.check(&mut checks, "fourEyesAbove", 0));
        checks.finish()?;
        let currency = self.four_eyes_above.as_ref().map(|amount| amount.currency_code.as_str());
        let organization = work.tenant().organization_id;
        let before = sqlx::query!(
            "select refund_four_eyes_minor, refund_four_eyes_currency, version from tenantry.organizations where id = $1 for no key update",
            organization as _
        )
        .fetch_one(work.tx.conn())
        .await?;
        check_version(self.expected_version, before.version)?;
        sqlx::query!(
            "update tenantry.organizations set refund_four_eyes_minor = $2, refund_four_eyes_currency = $3, version = version + 1 where id = $1",
            organization as _,
            minor,
            currency
        )
        .execute(work.tx.conn())
        .await?;
        Ok(Done {
            id: organization,
            audit: json!({
                "before": { "fourEyesMinor": before.refund_four_eyes_minor, "currency": before.refund_four_eyes_currency },
                "after": { "fourEyesMinor": minor, "currency": currency, "version": before.version + 1 },
            }),
            event: Some(Event::of(organization)),
        })
    }
}
