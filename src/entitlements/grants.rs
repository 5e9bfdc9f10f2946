//! What operators of the platform give one organization beyond its plan, for a reason and, where they say so, for a time.
//!
//! Invariants: of each limit an organization has one grant at most; the operator, the reason and what was before are in the logs of
//! the platform and of the organization.

use async_graphql::{Context, Enum, InputObject, Object, SimpleObject};
use chrono::{DateTime, Utc};
use serde_json::json;

use crate::db::SystemTx;
use crate::error::Result;
use crate::events::{self, Event};
use crate::graphql::mutation::{self, Checks, MutationInfo, UserError, UserErrorCode, VerbError, VerbResult};
use crate::graphql::session::Session;
use crate::id::OrganizationId;
use crate::platform;
use crate::trail::{self, AuditEntry};

/// What the audit logs call it.
const GRANTED: &str = "entitlement.grant";

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] =
    &[MutationInfo { field: "entitlementGrantSet", action: None, audit: GRANTED, row: "Organization" }];

/// A limit that there can be more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum EntitlementLimit {
    /// Seats.
    Seats,
    /// Budgets that are not archived.
    Budgets,
    /// Requests to the API in a calendar month.
    ApiCalls,
}

impl EntitlementLimit {
    const fn key(self) -> &'static str {
        match self {
            Self::Seats => super::SEATS,
            Self::Budgets => super::BUDGETS,
            Self::ApiCalls => super::API_CALLS,
        }
    }

    /// The most that is granted.
    const fn most(self) -> i64 {
        match self {
            Self::Seats | Self::Budgets => 1_000_000,
            Self::ApiCalls => 1_000_000_000,
        }
    }
}

/// What an organization gets beyond its plan.
#[derive(Clone, Debug, InputObject)]
pub struct EntitlementGrantSetInput {
    /// The organization.
    pub organization_id: OrganizationId,
    /// What there is more of.
    pub limit: EntitlementLimit,
    /// How many more than the plan gives; it takes the place of an earlier grant, and 0 ends it.
    pub amount: i64,
    /// Why: 1 to 500 characters.
    pub reason: String,
    /// When it ends by itself; null: never.
    pub expires_at: Option<DateTime<Utc>>,
}

/// What an organization has beyond its plan.
#[derive(Clone, Debug, SimpleObject)]
pub struct EntitlementGrant {
    /// How many more there are.
    pub amount: i64,
    /// Why.
    pub reason: String,
    /// When it ends by itself; null: never.
    pub expires_at: Option<DateTime<Utc>>,
}

/// The result of `entitlementGrantSet`.
#[derive(Debug, SimpleObject)]
pub struct EntitlementGrantSetPayload {
    /// The grant; null when it was ended, or there are errors.
    pub grant: Option<EntitlementGrant>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct EntitlementMutation;

#[Object]
impl EntitlementMutation {
    /// Gives an organization more than its plan does, or ends that. For superadmins.
    async fn entitlement_grant_set(
        &self,
        ctx: &Context<'_>,
        input: EntitlementGrantSetInput,
    ) -> Result<EntitlementGrantSetPayload> {
        let session = Session::of(ctx)?;
        let metadata = json!({ "organization": input.organization_id.to_string(), "limit": input.limit.key(),
                               "amount": input.amount, "reason": input.reason, "expiresAt": input.expires_at });
        let tx = platform::open(session, GRANTED, metadata).await?;
        let (grant, user_errors) = mutation::outcome(set(tx, session, input).await)?;
        Ok(EntitlementGrantSetPayload { grant: grant.flatten(), user_errors })
    }
}

async fn set(
    mut tx: SystemTx,
    session: &Session,
    input: EntitlementGrantSetInput,
) -> VerbResult<Option<EntitlementGrant>> {
    let EntitlementGrantSetInput { organization_id: organization, limit, amount, reason, expires_at } = input;
    let (key, now) = (limit.key(), session.clock().now());
    let mut checks = Checks::default();
    let reason = checks.required("reason", &reason, 500);
    if !(0..=limit.most()).contains(&amount) {
        let message = format!("`amount` takes 0 to {}.", limit.most());
        checks.refuse("amount", UserErrorCode::Invalid, message);
    }
    if expires_at.is_some_and(|at| at <= now) {
        checks.refuse("expiresAt", UserErrorCode::Invalid, "`expiresAt` must be in the future.");
    }
    checks.finish()?;
    let known = sqlx::query!(
        "select id from tenantry.organizations where id = $1 and deleted_at is null for no key update",
        organization as _
    )
    .fetch_optional(tx.conn())
    .await?;
    if known.is_none() {
        let message = "There is no such organization.";
        return Err(VerbError::user("organizationId", UserErrorCode::NotFound, message));
    }
    let before = sqlx::query_scalar!(
        "select amount from tenantry.entitlement_grants where organization_id = $1 and key = $2",
        organization as _,
        key
    )
    .fetch_optional(tx.conn())
    .await?;
    if amount == 0 {
        sqlx::query!(
            "delete from tenantry.entitlement_grants where organization_id = $1 and key = $2",
            organization as _,
            key
        )
        .execute(tx.conn())
        .await?;
    } else {
        sqlx::query!(
            "insert into tenantry.entitlement_grants (organization_id, key, amount, reason, expires_at, created_at)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (organization_id, key) do update set amount = excluded.amount, reason = excluded.reason, expires_at = excluded.expires_at",
            organization as _,
            key,
            amount,
            reason,
            expires_at,
            now
        )
        .execute(tx.conn())
        .await?;
    }
    let metadata = json!({ "limit": key, "reason": reason, "before": { "amount": before.unwrap_or_default() },
                           "after": { "amount": amount, "expiresAt": expires_at } });
    let entry = AuditEntry::of(GRANTED, organization, metadata);
    trail::record_of_operator(&mut tx, session.clock(), platform::operator(session)?, organization, &entry).await?;
    events::tell(&mut tx, &[(organization, Event::of(organization))]).await?;
    tx.commit().await?;
    Ok((amount > 0).then_some(EntitlementGrant { amount, reason, expires_at }))
}
