//! What the rules see of a request for a refund.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::access::Actor;
use crate::customers::{AccountStanding, AccountTier};
use crate::db::TenantTx;
use crate::error::Result;
use crate::id::{CustomerId, TicketId};
use crate::tickets::{TicketCategory, TicketPriority, TicketStatus};

/// The largest whole number that a double holds with all its neighbours (2^53 - 1): what facts are cut to, so that comparisons
/// are exact. Amounts of requests are far below.
const MAX_EXACT: i64 = 9_007_199_254_740_991;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, async_graphql::Enum)]
#[serde(rename_all = "UPPERCASE")]
#[graphql(name = "RefundRequester")]
pub enum Requester {
    /// A user.
    Person,
    /// A program: it came with an API key.
    Program,
}

/// What the rules see of a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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

    /// The variables that rules read, and what is kept in explanations.
    #[must_use]
    pub fn to_value(&self) -> Value {
        json!({
            "amountMinor": self.amount_minor.min(MAX_EXACT),
            "currency": self.currency,
            "reason": self.reason,
            "hasCharge": self.has_charge,
            "requestedBy": self.requested_by,
            "customer": {
                "tier": self.tier,
                "standing": self.standing,
                "ageDays": self.age_days,
                "refundsLast365Days": self.refunds_last_365_days,
                "refundedMinorLast365Days": self.refunded_minor_last_365_days.min(MAX_EXACT),
            },
            "hasTicket": self.ticket.is_some(),
            "ticket": self.ticket,
        })
    }

    /// Reads the facts of an explanation; `None` when this build does not understand them.
    pub(super) fn of_value(value: &Value) -> Option<Self> {
        fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Option<T> {
            serde_json::from_value(value.clone()).ok()
        }
        let customer = &value["customer"];
        Some(Self {
            amount_minor: read(&value["amountMinor"])?,
            currency: read(&value["currency"])?,
            reason: read(&value["reason"])?,
            has_charge: read(&value["hasCharge"])?,
            requested_by: read(&value["requestedBy"])?,
            tier: read(&customer["tier"])?,
            standing: read(&customer["standing"])?,
            age_days: read(&customer["ageDays"])?,
            refunds_last_365_days: read(&customer["refundsLast365Days"])?,
            refunded_minor_last_365_days: read(&customer["refundedMinorLast365Days"])?,
            ticket: read(&value["ticket"])?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::agents::variables::{Kind, VARIABLES};

    /// A request that is like most.
    pub fn facts() -> RefundFacts {
        RefundFacts {
            amount_minor: 2_500,
            currency: "USD".into(),
            reason: "DUPLICATE_CHARGE".into(),
            has_charge: true,
            requested_by: Requester::Person,
            tier: AccountTier::Premium,
            standing: AccountStanding::Good,
            age_days: 400,
            refunds_last_365_days: 1,
            refunded_minor_last_365_days: 900,
            ticket: Some(TicketFacts {
                status: TicketStatus::Open,
                priority: TicketPriority::High,
                category: TicketCategory::Billing,
                age_hours: 30,
            }),
        }
    }

    #[test]
    fn facts_have_every_variable_in_its_type_and_are_read_as_written() {
        let value = facts().to_value();
        for variable in VARIABLES {
            let found = variable.name.split('.').fold(&value, |value, part| &value[part]);
            let is_right = match variable.kind {
                Kind::Amount | Kind::Number => found.is_i64(),
                Kind::Boolean => found.is_boolean(),
                Kind::Currency => found == "USD",
                Kind::Label(labels) => found.as_str().is_some_and(|label| labels().contains(&label)),
            };
            assert!(is_right, "{}: {found}", variable.name);
        }
        assert_eq!(RefundFacts::of_value(&value), Some(facts()));
        let without = RefundFacts { ticket: None, ..facts() };
        assert_eq!(RefundFacts::of_value(&without.to_value()), Some(without));
        assert_eq!(RefundFacts::of_value(&json!({ "amountMinor": 5 })), None);
    }
}
