//! What an organization may use, and how much of it is used: seats, budgets, calls of the API, and the flags that plans give.
//!
//! Invariants: limits are counted in the database, by `tenantry.seat_limit`, `tenantry.budget_limit` and `tenantry.plan_terms`, so that
//! what is shown is what is enforced. Seats are given and taken in one place, `tenantry.settle_seats`, behind every change of members,
//! subscriptions and grants: no more members than seats have one, and nobody waits while one is free.

mod grants;
mod jobs;
mod plans;

use std::collections::HashMap;

use async_graphql::{Context, Enum, SimpleObject};
use chrono::{DateTime, Utc};

pub use grants::{
    EntitlementGrant, EntitlementGrantSetInput, EntitlementGrantSetPayload, EntitlementLimit, EntitlementMutation,
    MUTATIONS,
};
pub use jobs::{keep_writing_calls, publish, settle_due, write_calls};
pub use plans::{Plan, show};

use crate::access::Action;
use crate::db::Bind;
use crate::error::Result;
use crate::flags::{self, FeatureFlag, FlagKind, FlagOverrideSource, FlagReason};
use crate::graphql::session::Session;
use crate::plans::{OrganizationPlan, PlanTerms, Plans, SeatPolicy};

/// Where an entitlement comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum EntitlementSource {
    /// The plan.
    Plan,
    /// The organization's administrators, within the plan.
    Override,
    /// The subscription at Stripe: seats that it counts, or an entitlement there.
    Stripe,
    /// The plan of a subscription in its trial period.
    Trial,
    /// An operator of the platform.
    Grant,
}

/// Something that the organization may use, or could.
#[derive(Clone, Debug, SimpleObject)]
pub struct Entitlement {
    /// `seats`, `budgets`, `api_calls` (requests to the API in the calendar month, UTC), or the key of a feature flag of kind
    /// ENTITLEMENT.
    pub key: String,
    /// Whether the organization has it: any of it, where there is a limit.
    pub enabled: bool,
    /// How much there is; null: no limit, or it is a feature.
    pub limit: Option<i64>,
    /// How much of it is used; null for a feature.
    pub used: Option<i64>,
    /// How much is left, 0 when more is used than there is; null without a limit.
    pub remaining: Option<i64>,
    /// Where it comes from.
    pub source: EntitlementSource,
    /// When a grant or an override ends; null: never, or there is none.
    pub expires_at: Option<DateTime<Utc>>,
    /// The cheapest greater plan that gives it, or more of it; null when no plan does, or there is nothing more to give.
    pub unlocked_by: Option<OrganizationPlan>,
}

/// The seats of the organization. Members who do more than read take one; VIEWERs do not.
#[derive(Clone, Debug, SimpleObject)]
pub struct Seats {
    /// How many there are; null: no limit.
    pub limit: Option<i64>,
    /// How many members have one.
    pub used: i64,
    /// How many are free; null without a limit.
    pub free: Option<i64>,
    /// How many members read only, until a seat is free for them.
    pub waiting: i64,
    /// What happens when all are taken.
    pub policy: SeatPolicy,
}

/// The keys of what is counted: a feature flag with one of them is no entitlement.
const SEATS: &str = "seats";
const BUDGETS: &str = "budgets";
const API_CALLS: &str = "api_calls";

/// What the organization of the request has of what is counted.
struct Counted {
    plan: OrganizationPlan,
    is_trial: bool,
    seats: Seats,
    sells_seats: bool,
    budgets: (Option<i64>, i64),
    api_calls: (Option<i64>, i64),
    /// When the grants end, by key.
    grants: HashMap<String, Option<DateTime<Utc>>>,
}

/// All that is counted, in one statement.
const COUNTED: &str = "
    select t.plan, coalesce(s.status = 'TRIALING', false), tenantry.seat_limit(o.id), t.seat_policy,
           (select count(*) from tenantry.organization_members m where m.organization_id = o.id and m.deleted_at is null and not m.waits_for_seat
                                                                   and (m.role <> 'VIEWER' or m.custom_role_id is not null)),
           (select count(*) from tenantry.organization_members m where m.organization_id = o.id and m.deleted_at is null and m.waits_for_seat),
           coalesce(s.status in ('TRIALING', 'ACTIVE', 'PAST_DUE') and s.plan <> 'FREE' and (s.sells_seats or s.seat_count > 1), false),
           tenantry.budget_limit(o.id),
           (select count(*) from tenantry.budgets b where b.organization_id = o.id and b.closed_at is null and b.archived_at is null),
           t.api_calls_per_month + tenantry.granted(o.id, 'api_calls'),
           coalesce((select u.calls from tenantry.api_usage u where u.organization_id = o.id and u.month = date_trunc('month', $2 at time zone 'UTC')::date), 0),
           coalesce((select json_object_agg(g.key, g.expires_at) from tenantry.entitlement_grants g
                      where g.organization_id = o.id and (g.expires_at is null or g.expires_at > now())), '{}')::jsonb
      from tenantry.organizations o
      left join tenantry.subscriptions s on s.organization_id = o.id
      join tenantry.plan_terms t on t.plan = coalesce(s.plan, 'FREE')
     where o.id = $1";

async fn counted(session: &Session) -> Result<Option<Counted>> {
    let tenant = session.require(Action::BillingRead).await?;
    let tx = session.read().await?;
    let binds = [Bind::Uuid(tenant.organization_id.uuid()), Bind::Time(session.clock().now())];
    let rows = tx.fetch(COUNTED, &binds).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (limit, used): (Option<i64>, i64) = (row.try_get(2)?, row.try_get(4)?);
    let grants: serde_json::Value = row.try_get(11)?;
    Ok(Some(Counted {
        plan: row.try_get(0)?,
        is_trial: row.try_get(1)?,
        seats: Seats {
            limit,
            used,
            free: limit.map(|limit| (limit - used).max(0)),
            waiting: row.try_get(5)?,
            policy: row.try_get(3)?,
        },
        sells_seats: row.try_get(6)?,
        budgets: (row.try_get(7)?, row.try_get(8)?),
        api_calls: (row.try_get(9)?, row.try_get(10)?),
        grants: serde_json::from_value(grants).map_err(crate::error::Error::internal)?,
    }))
}

/// The largest `Int`.
const MOST_SHOWN: i64 = 2_147_483_647;

/// A limit of a plan's terms.
type LimitOf = fn(&PlanTerms) -> Option<i64>;

impl Counted {
    fn entitlement(&self, plans: &Plans, key: &str, (limit, used): (Option<i64>, i64), of: LimitOf) -> Entitlement {
        let mut greater = plans.iter().filter(|(plan, _)| *plan > self.plan);
        let unlocks = |terms: &PlanTerms| limit.is_some_and(|limit| of(terms).is_none_or(|more| more > limit));
        let granted = self.grants.get(key);
        // What is shown is an `Int`, which has 31 bits (GraphQL, section 3.5.1); a plan and a grant together may be more.
        let (shown, used) = (limit.map(|limit| limit.min(MOST_SHOWN)), used.min(MOST_SHOWN));
        Entitlement {
            key: key.to_owned(),
            enabled: limit.is_none_or(|limit| limit > 0),
            limit: shown,
            used: Some(used),
            remaining: shown.map(|limit| (limit - used).max(0)),
            source: match granted {
                Some(_) => EntitlementSource::Grant,
                None if key == SEATS && self.sells_seats => EntitlementSource::Stripe,
                None => self.source_of_plan(),
            },
            expires_at: granted.copied().flatten(),
            unlocked_by: greater.find(|(_, terms)| unlocks(terms)).map(|(plan, _)| plan),
        }
    }

    const fn source_of_plan(&self) -> EntitlementSource {
        if self.is_trial { EntitlementSource::Trial } else { EntitlementSource::Plan }
    }

    fn of_flag(
        &self,
        flag: FeatureFlag,
        minimum: Option<OrganizationPlan>,
        said: Option<FlagOverrideSource>,
    ) -> Entitlement {
        let source = match (flag.reason, said) {
            (FlagReason::Override, Some(FlagOverrideSource::Stripe)) => EntitlementSource::Stripe,
            (FlagReason::Override, Some(FlagOverrideSource::Grant)) => EntitlementSource::Grant,
            (FlagReason::Override, _) => EntitlementSource::Override,
            _ => self.source_of_plan(),
        };
        Entitlement {
            key: flag.key,
            enabled: flag.enabled,
            limit: None,
            used: None,
            remaining: None,
            source,
            expires_at: flag.r#override.and_then(|r#override| r#override.expires_at),
            unlocked_by: minimum.filter(|plan| !flag.enabled && *plan > self.plan),
        }
    }
}

/// What the flags of kind ENTITLEMENT have beside their evaluation.
const FLAGS: &str = "
    select d.key, d.minimum_plan, o.source from tenantry.feature_flag_definitions d
      left join tenantry.organization_feature_flags o on o.organization_id = $1 and o.flag_key = d.key
     where d.kind = 'ENTITLEMENT'";

/// Everything that the organization of the request may use, or could: what is counted, then features by key. Three statements.
///
/// # Errors
/// When the viewer may not see it, or the database cannot be reached.
pub async fn entitlements(ctx: &Context<'_>) -> Result<Vec<Entitlement>> {
    let session = Session::of(ctx)?;
    let Some(counted) = counted(session).await? else { return Ok(Vec::new()) };
    let plans = &session.services().plans;
    let seats = (counted.seats.limit, counted.seats.used);
    let mut all = vec![
        counted.entitlement(plans, SEATS, seats, |terms| terms.seats.map(i64::from)),
        counted.entitlement(plans, BUDGETS, counted.budgets, |terms| terms.budgets.map(i64::from)),
        counted.entitlement(plans, API_CALLS, counted.api_calls, |terms| {
            terms.api_calls_per_month.map(|calls| i64::try_from(calls).unwrap_or(i64::MAX))
        }),
    ];
    let tenant = session.tenant().await?;
    let rows = session.read().await?.fetch(FLAGS, &[Bind::Uuid(tenant.organization_id.uuid())]).await?;
    let mut known = HashMap::new();
    for row in &rows {
        known.insert(row.try_get::<_, String>(0)?, (row.try_get(1)?, row.try_get(2)?));
    }
    for flag in flags::feature_flags(ctx).await? {
        let is_counted = [SEATS, BUDGETS, API_CALLS].contains(&flag.key.as_str());
        if flag.kind == FlagKind::Entitlement && !is_counted {
            let (minimum, said) = known.remove(&flag.key).unwrap_or_default();
            all.push(counted.of_flag(flag, minimum, said));
        }
    }
    Ok(all)
}

/// One of [`entitlements`].
///
/// # Errors
/// As there.
pub async fn entitlement(ctx: &Context<'_>, key: &str) -> Result<Option<Entitlement>> {
    Ok(entitlements(ctx).await?.into_iter().find(|entitlement| entitlement.key == key))
}

/// The seats of the organization of the request.
///
/// # Errors
/// As [`entitlements`].
pub async fn seats(session: &Session) -> Result<Option<Seats>> {
    Ok(counted(session).await?.map(|counted| counted.seats))
}
