//! The queries of the slice that change something, in transactions of viewers and of the system alike: the organization is an
//! argument.
//!
//! Locks are taken in one order: the customer, the ticket, the refund, the payment ([`lock_payment`]), then what `budgets` locks.
//! Whoever has the lock of a payment locks no other refund.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::agents::DecisionAction;
use crate::db::{Conn, SystemTx, TenantTx};
use crate::error::Result;
use crate::id::{
    BudgetId, BudgetReservationId, CustomerId, DecisionRuleId, OrganizationId, RefundId, TicketId, UserId,
};
use crate::refunds::{RefundReason, RefundStatus};

/// A refund, locked. What is changed in it is written by [`save`].
#[derive(Clone, Debug)]
pub(super) struct Locked {
    pub id: RefundId,
    pub ticket_id: Option<TicketId>,
    pub customer_id: Option<CustomerId>,
    pub amount_minor: i64,
    pub currency: String,
    pub reason: RefundReason,
    pub status: RefundStatus,
    pub requested_by: Option<UserId>,
    pub needs_another_approver: bool,
    pub decision: Option<DecisionAction>,
    pub decided_by: Option<UserId>,
    pub decided_at: Option<DateTime<Utc>>,
    pub decision_note: Option<String>,
    /// The first period.
    pub budget_id: Option<BudgetId>,
    pub reservation_id: Option<BudgetReservationId>,
    /// Stripe's id of the payment.
    pub payment: Option<String>,
    pub stripe_refund_id: Option<String>,
    pub made_in_stripe: bool,
    pub payment_reference: Option<String>,
    pub failure_reason: Option<String>,
    pub settled_at: Option<DateTime<Utc>>,
    pub charge_minor: Option<i64>,
    pub attempt: i32,
    pub tries: i32,
    pub sent_at: Option<DateTime<Utc>>,
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub version: i32,
}

/// Reads a refund and keeps others from changing it until the transaction ends.
pub(super) async fn lock(conn: &mut Conn, organization: OrganizationId, id: RefundId) -> Result<Option<Locked>> {
    Ok(sqlx::query_as!(
        Locked,
        r#"select id as "id: RefundId", ticket_id as "ticket_id: TicketId", customer_id as "customer_id: CustomerId", amount_minor, currency,
                  reason as "reason: RefundReason", status as "status: RefundStatus", requested_by as "requested_by: UserId",
                  needs_another_approver, decision as "decision: DecisionAction", decided_by as "decided_by: UserId", decided_at,
                  decision_note, budget_id as "budget_id: BudgetId", reservation_id as "reservation_id: BudgetReservationId",
                  stripe_payment_intent_id as payment, stripe_refund_id, made_in_stripe, payment_reference, failure_reason, settled_at,
                  charge_minor, attempt, tries, sent_at, next_attempt_at, version
             from tenantry.refunds where organization_id = $1 and id = $2 for no key update"#,
        organization as _,
        id as _
    )
    .fetch_optional(conn)
    .await?)
}

/// Writes what was changed in a locked refund, as its next version.
pub(super) async fn save(conn: &mut Conn, organization: OrganizationId, row: &mut Locked) -> Result<()> {
    row.version = sqlx::query_scalar!(
        "update tenantry.refunds
            set status = $3, decision = $4, decided_by = $5, decided_at = $6, decision_note = $7, budget_id = $8, reservation_id = $9,
                stripe_refund_id = $10, payment_reference = $11, failure_reason = $12, settled_at = $13, charge_minor = $14,
                attempt = $15, tries = $16, sent_at = $17, next_attempt_at = $18, version = version + 1
          where organization_id = $1 and id = $2 returning version",
        organization as _,
        row.id as _,
        row.status as _,
        row.decision as _,
        row.decided_by as _,
        row.decided_at,
        row.decision_note,
        row.budget_id as _,
        row.reservation_id as _,
        row.stripe_refund_id,
        row.payment_reference,
        row.failure_reason,
        row.settled_at,
        row.charge_minor,
        row.attempt,
        row.tries,
        row.sent_at,
        row.next_attempt_at
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}

/// What a new refund has beside the fields of [`Locked`].
#[derive(Default)]
pub(super) struct Told<'a> {
    pub note: Option<&'a str>,
    pub decision_rule_id: Option<DecisionRuleId>,
    pub explanation: Option<&'a Value>,
}

/// Inserts a refund.
pub(super) async fn insert(
    conn: &mut Conn,
    organization: OrganizationId,
    row: &Locked,
    told: &Told<'_>,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "insert into tenantry.refunds (organization_id, id, ticket_id, customer_id, amount_minor, currency, reason, note, status, requested_by,
                                       needs_another_approver, decision, decision_rule_id, decision_explanation, decided_at, budget_id,
                                       reservation_id, stripe_payment_intent_id, stripe_refund_id, made_in_stripe, failure_reason, settled_at,
                                       charge_minor, next_attempt_at, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $25)",
        organization as _,
        row.id as _,
        row.ticket_id as _,
        row.customer_id as _,
        row.amount_minor,
        row.currency,
        row.reason as _,
        told.note,
        row.status as _,
        row.requested_by as _,
        row.needs_another_approver,
        row.decision as _,
        told.decision_rule_id as _,
        told.explanation,
        row.decided_at,
        row.budget_id as _,
        row.reservation_id as _,
        row.payment,
        row.stripe_refund_id,
        row.made_in_stripe,
        row.failure_reason,
        row.settled_at,
        row.charge_minor,
        row.next_attempt_at,
        now
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Keeps others from giving back more of a payment until the transaction ends.
pub(super) async fn lock_payment(conn: &mut Conn, organization: OrganizationId, payment: &str) -> Result<()> {
    let text = format!("refunds of {organization} {payment}");
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", text).execute(conn).await?;
    Ok(())
}

/// A refund of a payment.
pub(super) struct Given {
    pub id: RefundId,
    pub amount_minor: i64,
    pub currency: String,
    pub status: RefundStatus,
    pub stripe_refund_id: Option<String>,
    pub charge_minor: Option<i64>,
}

/// The refunds of a payment.
pub(super) async fn of_payment(conn: &mut Conn, organization: OrganizationId, payment: &str) -> Result<Vec<Given>> {
    Ok(sqlx::query_as!(
        Given,
        r#"select id as "id: RefundId", amount_minor, currency, status as "status: RefundStatus", stripe_refund_id, charge_minor
             from tenantry.refunds where organization_id = $1 and stripe_payment_intent_id = $2 order by created_at, id"#,
        organization as _,
        payment
    )
    .fetch_all(conn)
    .await?)
}

/// The refund with this id at Stripe.
pub(super) async fn at_stripe(
    conn: &mut Conn,
    organization: OrganizationId,
    stripe_refund_id: &str,
) -> Result<Option<RefundId>> {
    Ok(sqlx::query_scalar!(
        r#"select id as "id: RefundId" from tenantry.refunds where organization_id = $1 and stripe_refund_id = $2"#,
        organization as _,
        stripe_refund_id
    )
    .fetch_optional(conn)
    .await?)
}

/// The person who acts, or who made the key that does.
pub(super) async fn person_behind(tx: &mut TenantTx) -> Result<Option<UserId>> {
    let tenant = tx.tenant();
    let Some(key) = tenant.actor.key() else { return Ok(tenant.actor.user()) };
    let maker = sqlx::query_scalar!(
        r#"select created_by as "id: UserId" from tenantry.api_keys where organization_id = $1 and id = $2"#,
        tenant.organization_id as _,
        key as _
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(maker.flatten())
}

/// Up to which amount whoever requests a refund may approve it: minor units and currency.
pub(super) async fn four_eyes(tx: &mut TenantTx) -> Result<Option<(i64, String)>> {
    let organization = tx.tenant().organization_id;
    let row = sqlx::query!(
        "select refund_four_eyes_minor, refund_four_eyes_currency from tenantry.organizations where id = $1",
        organization as _
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(row.refund_four_eyes_minor.zip(row.refund_four_eyes_currency))
}

/// What is known of a customer who is named.
pub(super) struct Named {
    pub merged_into: Option<CustomerId>,
    pub is_archived: bool,
}

/// Locks a customer: nobody merges or archives them until the transaction ends.
pub(super) async fn lock_customer(tx: &mut TenantTx, id: CustomerId) -> Result<Option<Named>> {
    let organization = tx.tenant().organization_id;
    Ok(sqlx::query_as!(
        Named,
        r#"select merged_into_id as "merged_into: CustomerId", deleted_at is not null as "is_archived!"
             from tenantry.customer_profiles where organization_id = $1 and id = $2 for no key update"#,
        organization as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// Locks a ticket and gives its customer; the outer `None`: there is no such ticket.
pub(super) async fn customer_of_ticket(tx: &mut TenantTx, id: TicketId) -> Result<Option<Option<CustomerId>>> {
    let organization = tx.tenant().organization_id;
    Ok(sqlx::query_scalar!(
        r#"select customer_id as "id: CustomerId" from tenantry.tickets where organization_id = $1 and id = $2 for no key update"#,
        organization as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// The ticket of a refund, not locked; the outer `None`: there is no such refund.
pub(super) async fn ticket_of(tx: &mut TenantTx, id: RefundId) -> Result<Option<Option<TicketId>>> {
    let organization = tx.tenant().organization_id;
    Ok(sqlx::query_scalar!(
        r#"select ticket_id as "id: TicketId" from tenantry.refunds where organization_id = $1 and id = $2"#,
        organization as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// Where a customer who was named at Stripe is now: profiles may have been merged since. `None`: there is none here.
pub(super) async fn customer_now(
    tx: &mut SystemTx,
    organization: OrganizationId,
    id: CustomerId,
) -> Result<Option<CustomerId>> {
    Ok(sqlx::query_scalar!(
        r#"with recursive found as (
               select c.id, c.merged_into_id from tenantry.customer_profiles c where c.organization_id = $1 and c.id = $2
                union
               select c.id, c.merged_into_id from tenantry.customer_profiles c join found f on c.organization_id = $1 and c.id = f.merged_into_id)
           select id as "id!: CustomerId" from found where merged_into_id is null"#,
        organization as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// The identity provider's id of an organization.
pub(super) async fn clerk_id(tx: &mut SystemTx, organization: OrganizationId) -> Result<Option<String>> {
    let found = sqlx::query_scalar!("select clerk_org_id from tenantry.organizations where id = $1", organization as _)
        .fetch_optional(tx.conn())
        .await?;
    Ok(found.flatten())
}

/// Whose refunds are due, in the order of their ids, after this one. In organizations that are suspended or deleted what was sent
/// already is brought to its end, and nothing is begun.
pub(super) async fn organizations_due(
    tx: &mut SystemTx,
    after: OrganizationId,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select distinct r.organization_id as "id: OrganizationId" from tenantry.refunds r
             join tenantry.organizations o on o.id = r.organization_id
            where r.next_attempt_at <= $1 and r.organization_id > $2
              and (r.status = 'PROCESSING' or o.deleted_at is null and o.suspended_at is null)
            order by 1 limit $3"#,
        now,
        after as _,
        limit
    )
    .fetch_all(tx.conn())
    .await?)
}

/// A refund that was taken to be paid.
pub(super) struct Claimed {
    pub id: RefundId,
    pub amount_minor: i64,
    pub currency: String,
    pub payment: String,
    pub stripe_refund_id: Option<String>,
    pub attempt: i32,
    /// With this try among them.
    pub tries: i32,
}

/// Takes a refund that is due; it is left to the taker until `lease`. Those that others hold are left out.
pub(super) async fn claim(
    tx: &mut SystemTx,
    organization: OrganizationId,
    now: DateTime<Utc>,
    lease: DateTime<Utc>,
) -> Result<Option<Claimed>> {
    Ok(sqlx::query_as!(
        Claimed,
        r#"with due as (
               select r.id from tenantry.refunds r join tenantry.organizations o on o.id = r.organization_id
                where r.organization_id = $1 and r.next_attempt_at <= $2 and r.stripe_payment_intent_id is not null
                  and (r.status = 'PROCESSING' or o.deleted_at is null and o.suspended_at is null)
                order by r.next_attempt_at, r.id limit 1 for no key update of r skip locked
           )
           update tenantry.refunds r set next_attempt_at = $3, tries = r.tries + 1 from due
            where r.organization_id = $1 and r.id = due.id
           returning r.id as "id: RefundId", r.amount_minor, r.currency, r.stripe_payment_intent_id as "payment!", r.stripe_refund_id, r.attempt, r.tries"#,
        organization as _,
        now,
        lease
    )
    .fetch_optional(tx.conn())
    .await?)
}
