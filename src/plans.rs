//! What each plan gives: seats, budgets, API calls, and the prices that buy it. From the file that `PLANS_FILE` names, read once
//! at start; without one, nothing is limited.
//!
//! Which feature flags a plan has stands in one other place: `minimum_plan` of their definitions. The file names no flags.

use std::collections::BTreeMap;
use std::path::Path;

use async_graphql::Enum;
use serde::Deserialize;

use crate::sql_enum;

sql_enum! {
    /// The plan of an organization.
    pub enum OrganizationPlan("tenantry.organization_plan") {
        /// No subscription.
        Free = "FREE",
        /// The smallest paid plan.
        Starter = "STARTER",
        /// For growing teams.
        Pro = "PRO",
        /// All features.
        Enterprise = "ENTERPRISE",
    }
}

sql_enum! {
    /// What happens when somebody joins and all seats are taken.
    pub enum SeatPolicy("tenantry.seat_policy") {
        /// Whoever would need a seat is refused, or waits for one.
        Fixed = "FIXED",
        /// Nobody is refused: seats are added to the subscription.
        Automatic = "AUTOMATIC",
    }
}

/// How often a price is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PriceInterval {
    /// Every month.
    Month,
    /// Every year.
    Year,
}

/// A price at Stripe that buys a plan, or belongs to one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanPrice {
    /// Its id at Stripe (`price_…`).
    pub id: String,
    /// How often it is paid.
    pub interval: PriceInterval,
    /// ISO 4217, in capitals; `None`: not said.
    pub currency: Option<String>,
    /// Whether its quantity is the number of seats.
    #[serde(default)]
    pub seat: bool,
    /// The name of the meter's events at Stripe; `None`: it is paid in advance.
    pub meter: Option<String>,
}

/// What a plan gives.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanTerms {
    /// Its name, for people.
    #[serde(default)]
    pub name: String,
    /// What it is.
    pub description: Option<String>,
    /// Seats where none are bought by number; `None`: no limit. Viewers take no seat.
    pub seats: Option<u32>,
    /// What happens when they are full.
    #[serde(default = "fixed")]
    pub seat_policy: SeatPolicy,
    /// Budgets that are not archived; `None`: no limit.
    pub budgets: Option<u32>,
    /// Requests to the API in a calendar month (UTC); `None`: no limit.
    pub api_calls_per_month: Option<u64>,
    /// Points that operations of the API may cost in a minute; `None`: the server's default.
    pub api_cost_per_minute: Option<u64>,
    /// Points that may be spent at once, by an organization that spent nothing before; `None`: those of a minute.
    pub api_burst: Option<u64>,
    /// What it costs.
    #[serde(default)]
    pub prices: Vec<PlanPrice>,
    /// How many days can be tried without paying.
    pub trial_days: Option<u16>,
}

const fn fixed() -> SeatPolicy {
    SeatPolicy::Fixed
}

/// What each plan gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plans(BTreeMap<OrganizationPlan, PlanTerms>);

impl Default for Plans {
    /// No limits, no prices.
    fn default() -> Self {
        let terms = |name: &str| PlanTerms {
            name: name.to_owned(),
            description: None,
            seats: None,
            seat_policy: fixed(),
            budgets: None,
            api_calls_per_month: None,
            api_cost_per_minute: None,
            api_burst: None,
            prices: Vec::new(),
            trial_days: None,
        };
        Self(OrganizationPlan::ALL.iter().map(|plan| (*plan, terms(default_name(*plan)))).collect())
    }
}

/// The name of a plan that the file gives none.
const fn default_name(plan: OrganizationPlan) -> &'static str {
    match plan {
        OrganizationPlan::Free => "Free",
        OrganizationPlan::Starter => "Starter",
        OrganizationPlan::Pro => "Pro",
        OrganizationPlan::Enterprise => "Enterprise",
    }
}

/// The most seats or budgets of a plan.
const MOST: u32 = 1_000_000;
/// Stripe's longest trial: two years (Stripe API reference, `subscription_data.trial_period_days`).
const LONGEST_TRIAL: u16 = 730;
/// The most calls in a month, and points in a minute: `Int` holds no more than 31 bits (GraphQL, section 3.5.1).
const MOST_CALLS: u64 = 2_000_000_000;

/// The fewest points of a budget: one page of a list.
const FEWEST_POINTS: u64 = 1_000;

impl Plans {
    /// Reads a file.
    ///
    /// # Errors
    /// Everything that is wrong with it, for people.
    pub fn load(path: &Path) -> std::result::Result<Self, Vec<String>> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| vec![format!("{} cannot be read: {error}", path.display())])?;
        Self::parse(&text)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// Everything that is wrong with it, for people.
    pub fn parse(text: &str) -> std::result::Result<Self, Vec<String>> {
        let tables: BTreeMap<String, toml::Value> =
            toml::from_str(text).map_err(|error| vec![error.to_string().trim_end().to_owned()])?;
        let (mut known, mut problems) = (BTreeMap::new(), Vec::new());
        for (label, table) in tables {
            let Some(plan) = OrganizationPlan::from_label(&label) else {
                problems.push(format!("\"{label}\" is no plan; plans are {}", labels()));
                continue;
            };
            match table.try_into::<PlanTerms>() {
                Ok(mut terms) => {
                    if terms.name.is_empty() {
                        default_name(plan).clone_into(&mut terms.name);
                    }
                    problems.extend(terms.problems().into_iter().map(|problem| format!("{label}: {problem}")));
                    known.insert(plan, terms);
                }
                Err(error) => problems.push(format!("{label}: {}", error.to_string().trim_end())),
            }
        }
        if problems.is_empty() {
            let missing = OrganizationPlan::ALL.iter().filter(|plan| !known.contains_key(plan));
            problems.extend(missing.map(|plan| {
                format!("{} is missing: `[{}]` alone says that it limits nothing", plan.label(), plan.label())
            }));
        }
        let plans = Self(known);
        problems.extend(plans.prices_twice());
        if problems.is_empty() { Ok(plans) } else { Err(problems) }
    }

    /// Prices that stand in the file more than once.
    fn prices_twice(&self) -> Vec<String> {
        let mut of_price: BTreeMap<&str, OrganizationPlan> = BTreeMap::new();
        let mut problems = Vec::new();
        for (plan, price) in self.prices() {
            if let Some(other) = of_price.insert(&price.id, plan) {
                let places = if other == plan { "twice" } else { "and in another plan" };
                problems.push(format!("{}: the price {} stands in it {places}", plan.label(), price.id));
            }
        }
        problems
    }

    /// What may be meant and is more likely a slip: a greater plan that gives less.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (lesser, greater) in OrganizationPlan::ALL.iter().zip(OrganizationPlan::ALL.iter().skip(1)) {
            let (less, more) = (self.of(*lesser), self.of(*greater));
            let limits = [
                ("seats", less.seats.map(u64::from), more.seats.map(u64::from)),
                ("budgets", less.budgets.map(u64::from), more.budgets.map(u64::from)),
                ("api_calls_per_month", less.api_calls_per_month, more.api_calls_per_month),
                // Left out is the server's default, which may be more or less.
                ("api_cost_per_minute", less.api_cost_per_minute.or(Some(0)), more.api_cost_per_minute),
            ];
            for (name, less, more) in limits {
                if more.is_some_and(|more| less.is_none_or(|less| less > more)) {
                    warnings.push(format!("{} gives fewer {name} than {}", greater.label(), lesser.label()));
                }
            }
        }
        warnings
    }

    /// What a plan gives: each has its terms, `parse` and `default` see to it.
    #[must_use]
    pub fn of(&self, plan: OrganizationPlan) -> &PlanTerms {
        &self.0[&plan]
    }

    /// Every plan with what it gives, the cheapest first.
    pub fn iter(&self) -> impl Iterator<Item = (OrganizationPlan, &PlanTerms)> {
        self.0.iter().map(|(plan, terms)| (*plan, terms))
    }

    /// Every price with its plan.
    pub fn prices(&self) -> impl Iterator<Item = (OrganizationPlan, &PlanPrice)> {
        self.iter().flat_map(|(plan, terms)| terms.prices.iter().map(move |price| (plan, price)))
    }

    /// The price with this id, and its plan.
    #[must_use]
    pub fn price(&self, id: &str) -> Option<(OrganizationPlan, &PlanPrice)> {
        self.prices().find(|(_, price)| price.id == id)
    }

    /// The plan that a price buys.
    #[must_use]
    pub fn plan_of_price(&self, id: &str) -> Option<OrganizationPlan> {
        self.price(id).map(|(plan, _)| plan)
    }
}

impl PlanTerms {
    /// What the types do not say.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.seats.is_some_and(|seats| !(1..=MOST).contains(&seats)) {
            problems.push(format!("seats takes 1 to {MOST}; without it there is no limit"));
        }
        if self.budgets.is_some_and(|budgets| budgets > MOST) {
            problems.push(format!("budgets takes 0 to {MOST}"));
        }
        if self.api_calls_per_month.is_some_and(|calls| calls > MOST_CALLS) {
            problems.push(format!("api_calls_per_month takes 0 to {MOST_CALLS}"));
        }
        for (name, points) in [("api_cost_per_minute", self.api_cost_per_minute), ("api_burst", self.api_burst)] {
            if points.is_some_and(|points| !(FEWEST_POINTS..=MOST_CALLS).contains(&points)) {
                problems.push(format!("{name} takes {FEWEST_POINTS} to {MOST_CALLS} points"));
            }
        }
        if self.api_burst.is_some() && self.api_cost_per_minute.is_none() {
            problems.push("api_burst needs api_cost_per_minute beside it".to_owned());
        }
        if self.trial_days.is_some_and(|days| !(1..=LONGEST_TRIAL).contains(&days)) {
            problems.push(format!("trial_days takes 1 to {LONGEST_TRIAL}"));
        }
        if self.name.chars().count() > 100 || self.description.as_ref().is_some_and(|text| text.chars().count() > 1000)
        {
            problems.push("name takes 100 characters at most, description 1000".to_owned());
        }
        for price in &self.prices {
            if price.id.is_empty() || price.id.len() > 255 || price.id.chars().any(char::is_whitespace) {
                problems.push(format!("\"{}\" is no id of a price", price.id));
            }
            let is_code = |code: &String| code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase());
            if !price.currency.as_ref().is_none_or(is_code) {
                problems.push(format!("{}: currency takes three capital letters", price.id));
            }
            if price.seat && price.meter.is_some() {
                problems.push(format!("{}: a metered price has no quantity, so it counts no seats", price.id));
            }
            if price.meter.as_ref().is_some_and(|meter| meter.is_empty() || meter.len() > 100) {
                problems.push(format!("{}: meter takes the name of the meter's events", price.id));
            }
        }
        if self.seat_policy == SeatPolicy::Automatic && !self.prices.iter().any(|price| price.seat) {
            problems.push("seat_policy is AUTOMATIC without a price with `seat = true`".to_owned());
        }
        problems
    }
}

fn labels() -> String {
    OrganizationPlan::ALL.iter().map(|plan| plan.label()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: &str = r#"
        [FREE]
        seats = 3
        budgets = 1
        api_calls_per_month = 10_000
        [STARTER]
        seats = 10
        [PRO]
        name = "Professional"
        trial_days = 14
        seat_policy = "AUTOMATIC"
        [[PRO.prices]]
        id = "price_pro"
        interval = "MONTH"
        currency = "EUR"
        seat = true
        [[PRO.prices]]
        id = "price_tokens"
        interval = "MONTH"
        meter = "ai_tokens"
        [ENTERPRISE]
    "#;

    #[test]
    fn a_file_says_what_plans_give() {
        let plans = Plans::parse(COMPLETE).expect("a good file");
        assert_eq!(plans.of(OrganizationPlan::Free).seats, Some(3));
        assert_eq!(plans.of(OrganizationPlan::Pro).name, "Professional");
        assert_eq!(plans.of(OrganizationPlan::Starter).name, "Starter");
        assert_eq!(plans.plan_of_price("price_pro"), Some(OrganizationPlan::Pro));
        assert_eq!(plans.plan_of_price("price_other"), None);
        assert!(plans.price("price_pro").is_some_and(|(_, price)| price.seat));
        assert!(plans.warnings().is_empty() && Plans::default().warnings().is_empty());
    }

    #[test]
    fn a_greater_plan_that_gives_less_is_a_warning() {
        let plans =
            Plans::parse("[FREE]\nseats = 3\n[STARTER]\nseats = 2\n[PRO]\n[ENTERPRISE]\nbudgets = 5").expect("good");
        assert_eq!(
            plans.warnings(),
            ["STARTER gives fewer seats than FREE", "ENTERPRISE gives fewer budgets than PRO"]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let all = "[FREE]\n[STARTER]\n[PRO]\n[ENTERPRISE]\n";
        let with = |more: &str| format!("{all}{more}");
        for (text, says) in [
            ("[FREE]\n".to_owned(), "STARTER is missing"),
            (with("[GOLD]\n"), "\"GOLD\" is no plan; plans are FREE, STARTER, PRO, ENTERPRISE"),
            (with("seat = 1"), "unknown field `seat`"),
            (with("seats = -1"), "ENTERPRISE: invalid value: integer `-1`"),
            (with("seats = 0"), "seats takes 1 to"),
            (with("seats = \"many\""), "ENTERPRISE: invalid type: string \"many\""),
            (with("seat_policy = \"AUTOMATIC\""), "seat_policy is AUTOMATIC without a price"),
            (with("seat_policy = \"LOOSE\""), "unknown variant `LOOSE`"),
            (with("api_cost_per_minute = 999"), "api_cost_per_minute takes 1000 to"),
            (with("api_burst = 1000"), "api_burst needs api_cost_per_minute"),
            (with("trial_days = 731"), "trial_days takes 1 to 730"),
            (with("[[ENTERPRISE.prices]]\nid = \"price_1\""), "missing field `interval`"),
            (with("[[ENTERPRISE.prices]]\nid = \"price 1\"\ninterval = \"MONTH\""), "is no id of a price"),
            (
                with("[[ENTERPRISE.prices]]\nid = \"p\"\ninterval = \"MONTH\"\ncurrency = \"eur\""),
                "three capital letters",
            ),
            (
                with("[[ENTERPRISE.prices]]\nid = \"p\"\ninterval = \"MONTH\"\nseat = true\nmeter = \"m\""),
                "counts no seats",
            ),
            (
                with(
                    "[[ENTERPRISE.prices]]\nid = \"p\"\ninterval = \"MONTH\"\n[[PRO.prices]]\nid = \"p\"\ninterval = \"YEAR\"",
                ),
                "ENTERPRISE: the price p stands in it and in another plan",
            ),
            ("[FREE\n".to_owned(), "TOML parse error"),
        ] {
            let problems = Plans::parse(&text).expect_err(&text).join("\n");
            assert!(problems.contains(says), "{text}\n{problems}");
        }
    }
}
