//! How an action gets to Stripe: it is written down in one transaction, sent outside of any, and what became of it is written down in
//! another. Whoever dies in between leaves a row whose time comes again; it is sent under the key that it was sent under before.
//!
//! Stripe repeats what it has answered for a key, also an error of its own (API reference, "Idempotent requests"). So after such an
//! error the action gets another key, and before that one is used Stripe is asked whether the change was made all the same.

use async_graphql::Context;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::access::Action;
use crate::billing::graphql::{
    BillingActionPayload, BillingCancelInput, BillingCheckoutCreateInput, BillingPlanChangeInput,
    BillingPortalCreateInput, BillingResumeInput,
};
use crate::billing::prepare::{self, Draft, Request};
use crate::billing::remote::{RemoteSubscription, told};
use crate::billing::{BillingActionKind, BillingActionStatus};
use crate::db::Conn;
use crate::error::{Code, Error, Result};
use crate::events::{self, Event};
use crate::graphql::mutation::{self, Done, Mutation, UserError, UserErrorCode, VerbError, VerbResult, Work};
use crate::graphql::session::Session;
use crate::id::{BillingActionId, OrganizationId, marker};
use crate::stripe::{StripeClient, StripeFailure, StripeObject};
use crate::trail::{self, AuditEntry};

/// How long an action is left to the request that made it before the job goes on with it.
const LEASE: TimeDelta = TimeDelta::minutes(1);
/// The longest pause between tries of the job.
const LONGEST_PAUSE: TimeDelta = TimeDelta::minutes(30);
/// How long an action is tried: shorter than Stripe keeps its keys.
const LASTS: TimeDelta = TimeDelta::hours(23);
/// What the audit log calls what became of an action.
const FINISHED: &str = "billing.finish";

/// What is to be sent, or why not. A repeated request does not need it.
#[derive(Debug, Default)]
pub struct Prepared(Option<Box<VerbResult<Draft>>>);

impl Prepared {
    /// Keeps what the caller can mend for the payload.
    ///
    /// # Errors
    /// What the caller cannot.
    pub(super) fn of(draft: VerbResult<Draft>) -> Result<Self> {
        match draft {
            Err(VerbError::Fail(error)) => Err(error),
            draft => Ok(Self(Some(Box::new(draft)))),
        }
    }
}

macro_rules! actions {
    ($($input:ident, $field:literal, $audit:literal;)+) => { $(
        impl Mutation for $input {
            type Row = marker::BillingAction;
            const FIELD: &'static str = $field;
            const ACTION: Action = Action::BillingManage;
            const AUDIT: &'static str = $audit;

            fn idempotency_key(&self) -> Option<&str> {
                Some(&self.idempotency_key)
            }

            async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
                let draft = self.prepared.0.ok_or_else(|| Error::internal("nothing was prepared"))?;
                begin(work, (*draft)?).await
            }
        }
    )+ };
}

actions! {
    BillingCheckoutCreateInput, "billingCheckoutCreate", "billing.checkout.create";
    BillingPortalCreateInput, "billingPortalCreate", "billing.portal.create";
    BillingPlanChangeInput, "billingPlanChange", "billing.plan.change";
    BillingCancelInput, "billingCancel", "billing.cancel";
    BillingResumeInput, "billingResume", "billing.resume";
}

/// Another action that matters for a new one.
struct Other {
    id: BillingActionId,
    kind: BillingActionKind,
    status: BillingActionStatus,
    fingerprint: Vec<u8>,
    stripe_id: Option<String>,
}

/// Writes an action down, or finds the one that a second click means.
async fn begin(work: &mut Work<'_>, mut draft: Draft) -> VerbResult<Done<marker::BillingAction>> {
    let organization = work.tenant().organization_id;
    if draft.kind != BillingActionKind::Portal {
        // Not `for update`: the foreign key of the idempotency key holds the row against that, in each of those who wait.
        sqlx::query("select from tenantry.organizations where id = $1 for no key update")
            .bind(organization)
            .execute(work.tx.conn())
            .await?;
        let others = sqlx::query_as!(
            Other,
            r#"select id as "id: BillingActionId", kind as "kind: BillingActionKind", status as "status: BillingActionStatus", fingerprint, stripe_id
                 from tenantry.billing_actions
                where organization_id = $1 and kind <> 'PORTAL'
                  and (status = 'PENDING' or status = 'DONE' and (finished_at >= $2 and kind <> 'CHECKOUT' or kind = 'CHECKOUT' and expires_at > $3))
                order by created_at desc"#,
            organization as _,
            draft.asked_at,
            work.now
        )
        .fetch_all(work.tx.conn())
        .await?;
        let same = |other: &&Other| other.kind == draft.kind && other.fingerprint == draft.fingerprint;
        if let Some(same) = others.iter().find(same) {
            return Ok(Done { id: same.id, audit: json!({ "again": true }), event: None });
        }
        if others.iter().any(|other| other.status == BillingActionStatus::Pending) {
            let message = "Another change of the billing is being made: ask again in a minute.";
            return Err(VerbError::of_input(UserErrorCode::Conflict, message));
        }
        if others.iter().any(|other| other.kind != BillingActionKind::Checkout) {
            let message = "The subscription was changed meanwhile: look at it again, and decide anew.";
            return Err(VerbError::of_input(UserErrorCode::PreviewOutdated, message));
        }
        if draft.kind == BillingActionKind::Checkout {
            draft.request.expires = others.iter().filter_map(|other| other.stripe_id.clone()).collect();
            let ids: Vec<_> = others.iter().map(|other| other.id.uuid()).collect();
            sqlx::query!(
                "update tenantry.billing_actions set status = 'SUPERSEDED' where organization_id = $1 and id = any($2)",
                organization as _,
                &ids
            )
            .execute(work.tx.conn())
            .await?;
        }
    }
    let id: BillingActionId = work.new_id();
    let request = serde_json::to_value(&draft.request).map_err(Error::internal)?;
    sqlx::query!(
        "insert into tenantry.billing_actions (organization_id, id, kind, requested_by, request, fingerprint, next_attempt_at, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
        organization as _,
        id as _,
        draft.kind as _,
        work.tenant().actor.user() as _,
        request,
        &draft.fingerprint[..],
        work.now + LEASE,
        work.now
    )
    .execute(work.tx.conn())
    .await?;
    let audit = json!({ "kind": draft.kind, "subscription": draft.request.subscription });
    Ok(Done { id, audit, event: Some(Event::of(id)) })
}

/// Does the mutation: writes the action down, sends it, and shows what became of it.
pub(super) async fn perform<M: Mutation<Row = marker::BillingAction>>(
    ctx: &Context<'_>,
    input: M,
) -> Result<BillingActionPayload> {
    let session = Session::of(ctx)?;
    let ran = mutation::run(ctx, input).await?;
    let Some(id) = ran.id else { return Ok(BillingActionPayload { action: None, user_errors: ran.user_errors }) };
    let mut tx = session.write(Action::BillingManage).await?;
    let organization = tx.tenant().organization_id;
    let pending = pending(tx.conn(), organization, id).await?;
    tx.finish(false).await?;
    if let (Some(pending), Some(stripe)) = (pending, session.services().stripe.clone()) {
        let outcome = send(&stripe, organization, &pending).await;
        let mut tx = session.write(Action::BillingManage).await?;
        if let Some(entry) = record(tx.conn(), session.clock().now(), organization, &pending, &outcome).await? {
            trail::record(&mut tx, session.clock(), session.origin(), &entry).await?;
            events::tell_more(&mut tx, vec![Event::of(id)]).await?;
        }
        tx.commit().await?;
    }
    session.close().await;
    let action = session.load_written(Some(id)).await?;
    let user_errors = action.as_ref().and_then(|action| refusal(action.status, action)).into_iter().collect();
    Ok(BillingActionPayload { action, user_errors })
}

/// Why an action is not done, for its payload.
fn refusal(status: BillingActionStatus, action: &crate::billing::BillingAction) -> Option<UserError> {
    if !matches!(status, BillingActionStatus::Pending | BillingActionStatus::Failed) {
        return None;
    }
    let of_label = |label: &str| KEPT.iter().find(|(_, code)| code.as_str() == label).map(|(code, _)| *code);
    let code = action.failure_code.as_deref().and_then(of_label).unwrap_or(UserErrorCode::StripeUnavailable);
    let message = action.failure_message.clone().unwrap_or_else(|| UNANSWERED.to_owned());
    Some(UserError::of_input(code, message))
}

const UNANSWERED: &str = "Stripe has not said what became of it: ask again with the same key. It is also looked after here, every few minutes.";

/// An action that is not over.
#[derive(Debug)]
pub(super) struct Pending {
    pub id: BillingActionId,
    kind: BillingActionKind,
    request: Request,
    attempt: i32,
    tries: i32,
    created_at: DateTime<Utc>,
}

/// The action, if it is not over.
pub(super) async fn pending(
    conn: &mut Conn,
    organization: OrganizationId,
    id: BillingActionId,
) -> Result<Option<Pending>> {
    let row = sqlx::query!(
        r#"select kind as "kind: BillingActionKind", request, attempt, tries, created_at from tenantry.billing_actions
            where organization_id = $1 and id = $2 and status = 'PENDING'"#,
        organization as _,
        id as _
    )
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let request = serde_json::from_value(row.request).map_err(Error::internal)?;
    Ok(Some(Pending {
        id,
        kind: row.kind,
        request,
        attempt: row.attempt,
        tries: row.tries,
        created_at: row.created_at,
    }))
}

/// What became of a try.
#[derive(Debug)]
pub(super) enum Outcome {
    Done {
        stripe_id: Option<String>,
        url: Option<String>,
        expires_at: Option<DateTime<Utc>>,
    },
    Failed(UserErrorCode, String),
    /// It is tried again; with another key if Stripe has kept an error under this one.
    Again {
        code: UserErrorCode,
        new_key: bool,
    },
}

impl Outcome {
    fn of_failure(failure: &StripeFailure) -> Self {
        tracing::warn!(%failure, "a billing action was not done");
        match failure {
            StripeFailure::Refused(refusal) if refusal.is_final() => {
                let (code, message) = told(refusal);
                Self::Failed(code, message)
            }
            StripeFailure::Refused(refusal) if refusal.status == 409 => {
                Self::Again { code: UserErrorCode::IdempotencyConcurrentRequest, new_key: false }
            }
            StripeFailure::Refused(refusal) => {
                Self::Again { code: UserErrorCode::StripeUnavailable, new_key: refusal.status >= 500 }
            }
            StripeFailure::Unreachable(_) => Self::Again { code: UserErrorCode::StripeUnavailable, new_key: false },
        }
    }

    fn of_answer(kind: BillingActionKind, answer: &Value) -> Self {
        let moment = |value: &Value| value.as_i64().and_then(|at| DateTime::from_timestamp(at, 0));
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let url = |value: &Value| text(value).filter(|url| url.starts_with("https://"));
        let stripe_id = text(&answer["id"]).filter(|id| id.len() <= 255);
        match kind {
            BillingActionKind::Checkout | BillingActionKind::Portal => match url(&answer["url"]) {
                Some(to) => Self::Done { stripe_id, url: Some(to), expires_at: moment(&answer["expires_at"]) },
                None => Self::Again { code: UserErrorCode::StripeUnavailable, new_key: false },
            },
            _ if !answer["pending_update"].is_null() => Self::Done {
                stripe_id,
                url: url(&answer["latest_invoice"]["hosted_invoice_url"]),
                expires_at: moment(&answer["pending_update"]["expires_at"]),
            },
            _ => Self::Done { stripe_id, url: None, expires_at: None },
        }
    }
}

/// Sends an action, once.
pub(super) async fn send(stripe: &StripeClient, organization: OrganizationId, action: &Pending) -> Outcome {
    let request = &action.request;
    for session in &request.expires {
        match expire(stripe, session).await {
            Ok(true) => {}
            Ok(false) => {
                let message = "A checkout of the organization was completed: its subscription arrives in a moment.";
                return Outcome::Failed(UserErrorCode::SubscriptionExists, message.to_owned());
            }
            Err(failure) => return Outcome::of_failure(&failure),
        }
    }
    if let Some(subscription) = request.subscription.as_deref().filter(|_| request.ends || action.attempt > 1) {
        match stripe.subscription(subscription).await {
            Ok(found) if is_so(request, found.as_ref()) => {
                return Outcome::Done { stripe_id: Some(subscription.to_owned()), url: None, expires_at: None };
            }
            Ok(_) => {}
            Err(failure) => return Outcome::of_failure(&failure),
        }
        if request.ends {
            return match stripe.end_subscription(subscription).await {
                Ok(answer) => Outcome::of_answer(action.kind, &answer),
                Err(failure) => Outcome::of_failure(&failure),
            };
        }
    }
    let key = prepare::key(organization, action.id.uuid(), action.attempt);
    match stripe.send(&request.path, &request.form, Some(&key)).await {
        Ok(answer) => Outcome::of_answer(action.kind, &answer),
        Err(failure) => Outcome::of_failure(&failure),
    }
}

/// Ends a session of a checkout; false: it was paid.
async fn expire(stripe: &StripeClient, session: &str) -> Result<bool, StripeFailure> {
    match stripe.send(&format!("/checkout/sessions/{session}/expire"), &[], None).await {
        Ok(_) => Ok(true),
        Err(StripeFailure::Refused(refusal)) if refusal.is_final() => {
            let found = stripe.object(&StripeObject::Checkout(session.to_owned())).await?;
            Ok(found.is_none_or(|found| found["status"] != "complete"))
        }
        Err(failure) => Err(failure),
    }
}

/// Whether a subscription is as a request wants it.
fn is_so(request: &Request, found: Option<&Value>) -> bool {
    let Some(object) = found else { return request.ends };
    let Some(known) = RemoteSubscription::read(object) else { return false };
    if request.ends {
        return !known.lives();
    }
    let has = |price: &String, quantity: Option<i64>| {
        known.items.iter().any(|item| item.price == *price && item.quantity == quantity)
    };
    !request.items.is_empty() && request.items.iter().all(|(price, quantity)| has(price, *quantity))
        || request.form.iter().any(|(name, value)| match name.as_str() {
            "cancel_at_period_end" => known.ends_with_period.to_string() == *value,
            "cancel_at" => known.cancel_at.is_none(),
            _ => false,
        })
}

/// Writes down what became of a try; gives what the audit log says of it, once it is over.
pub(super) async fn record(
    conn: &mut Conn,
    now: DateTime<Utc>,
    organization: OrganizationId,
    action: &Pending,
    outcome: &Outcome,
) -> Result<Option<AuditEntry>> {
    let is_late = now - action.created_at > LASTS;
    let (status, code, message) = match outcome {
        Outcome::Done { .. } => (BillingActionStatus::Done, None, None),
        Outcome::Failed(code, message) => (BillingActionStatus::Failed, Some(*code), Some(message.clone())),
        Outcome::Again { code, .. } if is_late => {
            (BillingActionStatus::Failed, Some(*code), Some("Stripe gave no answer for a day.".to_owned()))
        }
        Outcome::Again { code, .. } => (BillingActionStatus::Pending, Some(*code), Some(UNANSWERED.to_owned())),
    };
    let (stripe_id, url, expires_at) = match outcome {
        Outcome::Done { stripe_id, url, expires_at } => (stripe_id.as_deref(), url.as_deref(), *expires_at),
        _ => (None, None, None),
    };
    let is_over = status != BillingActionStatus::Pending;
    let pause = (LEASE * 2_i32.pow(action.tries.clamp(0, 6).unsigned_abs())).min(LONGEST_PAUSE);
    let new_key = matches!(outcome, Outcome::Again { new_key: true, .. });
    let written = sqlx::query!(
        "update tenantry.billing_actions
            set status = $4, tries = tries + 1, attempt = attempt + $5::boolean::int, next_attempt_at = $6, finished_at = $7, stripe_id = $8, url = $9,
                expires_at = $10, failure_code = $11, failure_message = $12, request = case when $4::tenantry.billing_action_status = 'PENDING' then request else '{}' end
          where organization_id = $1 and id = $2 and status = 'PENDING' and attempt = $3",
        organization as _,
        action.id as _,
        action.attempt,
        status as _,
        new_key,
        (!is_over).then(|| now + pause),
        is_over.then_some(now),
        stripe_id,
        url,
        expires_at,
        code.map(label),
        message
    )
    .execute(conn)
    .await?;
    if written.rows_affected() == 0 || !is_over {
        return Ok(None);
    }
    let metadata = json!({ "kind": action.kind, "status": status, "code": code.map(label), "stripeId": stripe_id });
    Ok(Some(AuditEntry::of(FINISHED, action.id, metadata)))
}

/// The codes that are kept with an action.
const KEPT: &[(UserErrorCode, Code)] = &[
    (UserErrorCode::PaymentRequired, Code::PaymentRequired),
    (UserErrorCode::WrongMode, Code::WrongMode),
    (UserErrorCode::SubscriptionExists, Code::SubscriptionExists),
    (UserErrorCode::IdempotencyConcurrentRequest, Code::IdempotencyConcurrentRequest),
    (UserErrorCode::StripeRefused, Code::StripeRefused),
    (UserErrorCode::StripeUnavailable, Code::StripeUnavailable),
];

/// The code as it is kept.
fn label(code: UserErrorCode) -> &'static str {
    KEPT.iter().find(|(known, _)| *known == code).map_or(Code::StripeUnavailable, |(_, code)| *code).as_str()
}
