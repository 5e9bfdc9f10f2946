//! What superadmins see of plans.

use async_graphql::SimpleObject;
use chrono::{DateTime, Utc};

use crate::db::SystemTx;
use crate::error::Result;
use crate::flags::{self, FeatureFlagDefinition};
use crate::plans::{OrganizationPlan, PlanPrice, Plans, PriceInterval, SeatPolicy};

/// A plan, as the file of the plans says it.
#[derive(Clone, Debug, SimpleObject)]
pub struct Plan {
    /// The plan.
    pub plan: OrganizationPlan,
    /// Name, for people.
    pub name: String,
    /// What it is.
    pub description: Option<String>,
    /// Seats where none are bought by number; null: no limit.
    pub seats: Option<u32>,
    /// What happens when all seats are taken.
    pub seat_policy: SeatPolicy,
    /// Budgets that are not archived; null: no limit.
    pub budgets: Option<u32>,
    /// Requests to the API in a calendar month (UTC); null: no limit.
    pub api_calls_per_month: Option<u64>,
    /// Points that operations may cost in a minute; null: the server's default.
    pub api_cost_per_minute: Option<u64>,
    /// Points that may be spent at once; null: those of a minute.
    pub api_burst: Option<u64>,
    /// How many days can be tried without paying; null: none.
    pub trial_days: Option<u16>,
    /// What it costs.
    pub prices: Vec<Price>,
    /// The feature flags whose minimum plan it is.
    pub feature_flags: Vec<FeatureFlagDefinition>,
}

/// A price at Stripe.
#[derive(Clone, Debug, SimpleObject)]
#[graphql(name = "PlanPrice")]
pub struct Price {
    /// Its id at Stripe.
    pub id: String,
    /// How often it is paid.
    pub interval: PriceInterval,
    /// Currency (ISO 4217); null when the file does not say it.
    pub currency: Option<String>,
    /// Whether its quantity is the number of seats.
    pub is_per_seat: bool,
    /// The name of the meter's events at Stripe; null when it is paid in advance.
    pub meter: Option<String>,
}

impl From<&PlanPrice> for Price {
    fn from(price: &PlanPrice) -> Self {
        let PlanPrice { id, interval, currency, seat, meter } = price.clone();
        Self { id, interval, currency, is_per_seat: seat, meter }
    }
}

/// Every plan, the cheapest first.
///
/// # Errors
/// When the database cannot be reached.
pub async fn show(tx: &mut SystemTx, plans: &Plans, now: DateTime<Utc>) -> Result<Vec<Plan>> {
    let definitions = flags::definitions(tx, now, flags::QUIET_DAYS).await?;
    let of_plan = |plan| definitions.iter().filter(move |flag| flag.minimum_plan == Some(plan)).cloned().collect();
    Ok(plans
        .iter()
        .map(|(plan, terms)| Plan {
            plan,
            name: terms.name.clone(),
            description: terms.description.clone(),
            seats: terms.seats,
            seat_policy: terms.seat_policy,
            budgets: terms.budgets,
            api_calls_per_month: terms.api_calls_per_month,
            api_cost_per_minute: terms.api_cost_per_minute,
            api_burst: terms.api_burst,
            trial_days: terms.trial_days,
            prices: terms.prices.iter().map(Price::from).collect(),
            feature_flags: of_plan(plan),
        })
        .collect())
}
