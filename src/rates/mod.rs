//! What operations cost, and who may spend how much: budgets of credentials and of organizations, in memory.
//!
//! An operation is charged before it is executed with what it may cost at most. What may be spent is what the plan of the organization
//! says ([`Plans`]), or the default; one credential has half of it, so that a program that runs wild leaves the other half to its
//! colleagues. Nothing is given back: what was asked for is what the server had to be ready for.
//!
//! **Nobody spends what is another's.** A person is known by their token's signature, so their own budget is charged at once. Whether
//! they belong to the organization that they name is the database's to say: an organization is charged when somebody was let into it, and
//! only from then on, for this credential and this way to name it, before. An API key is nobody's before it was let in: made-up keys take
//! no memory. An operation that was not let in gives the organization back what it took.
//!
//! Instances tell each other through the database once a second ([`Rates::share`]); while it is away each goes on alone.

mod rate;
mod shared;
mod standing;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;

use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::id::OrganizationId;
use crate::plans::{OrganizationPlan, Plans};
pub use rate::{Rate, nanoseconds, seconds};
pub use standing::{Level, Standing};

/// Ways into organizations that are remembered, 32 bytes each.
const KNOWN: usize = 65_536;
/// Buckets from which on full ones are thrown away without waiting for the next second.
const MANY: usize = 100_000;

/// Who pays for an operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Payer {
    /// The person or the API key; `None`: nobody pays.
    pub credential: Option<u128>,
    /// Whether it is known without the database that there is such a credential.
    pub is_proven: bool,
    /// The credential together with the way it names its organization.
    pub account: Option<u128>,
}

/// What was charged for an operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Charged {
    payer: Payer,
    cost: u64,
    credential: Option<u128>,
    organization: Option<OrganizationId>,
}

impl Charged {
    /// The organization that is charged.
    #[must_use]
    pub fn organization(&self) -> Option<OrganizationId> {
        self.organization
    }
}

/// Why an operation is not executed.
#[derive(Clone, Debug)]
pub struct Refused {
    /// What is said: [`Error::RateLimited`] when there is not enough at the moment, [`Error::Limit`] when there never is.
    pub error: Error,
    /// What there is.
    pub standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whose {
    Credential(u128),
    Organization(OrganizationId),
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// When it is full, in nanoseconds. In the past: it is.
    full_at: i64,
    /// What other instances do not know of yet, in nanoseconds; below 0: was given back.
    untold: i64,
}

type Buckets = HashMap<Whose, Bucket>;

/// What has been refused, for metrics.
#[derive(Debug, Default)]
pub struct Refusals {
    /// The credential had spent what it may.
    pub credential: AtomicU64,
    /// The organization had.
    pub organization: AtomicU64,
    /// More than a whole budget holds.
    pub too_expensive: AtomicU64,
}

/// The budgets of a process.
#[derive(Debug)]
pub struct Rates {
    default: Option<Rate>,
    plans: Arc<Plans>,
    clock: Clock,
    buckets: Mutex<Buckets>,
    /// By [`Payer::account`]: where it was let in.
    known: Cache<u128, OrganizationId>,
    charged: AtomicU64,
    /// What was refused.
    pub refusals: Refusals,
}

/// The plan of an organization, if it is known.
pub type PlanOf<'a> = &'a dyn Fn(OrganizationId) -> Option<OrganizationPlan>;

impl Rates {
    /// Full budgets. `default`: points in a minute where the plan says nothing; 0: no limit.
    #[must_use]
    pub fn new(default: u64, plans: Arc<Plans>, clock: Clock) -> Self {
        let default = (default > 0).then_some(Rate { per_minute: default, burst: default });
        Self {
            default,
            plans,
            clock,
            buckets: Mutex::default(),
            known: Cache::new(KNOWN),
            charged: AtomicU64::new(0),
            refusals: Refusals::default(),
        }
    }

    /// What an organization may spend, which is the default as long as nobody knows which one it is.
    fn rate_of(&self, organization: Option<OrganizationId>, plan_of: PlanOf<'_>) -> Option<Rate> {
        let plan = organization.and_then(plan_of);
        let own = plan.and_then(|plan| {
            let terms = self.plans.of(plan);
            let per_minute = terms.api_cost_per_minute?;
            Some(Rate { per_minute, burst: terms.api_burst.unwrap_or(per_minute) })
        });
        own.or(self.default)
    }

    /// The organization that this credential was let into when it last named it so.
    #[must_use]
    pub fn known(&self, payer: &Payer) -> Option<OrganizationId> {
        self.known.get(&payer.account?)
    }

    /// Charges an operation that is about to be executed.
    ///
    /// # Errors
    /// [`Refused`]; nothing is charged then.
    pub fn take(&self, payer: Payer, cost: u64, plan_of: PlanOf<'_>) -> Result<Charged, Box<Refused>> {
        let organization = self.known(&payer);
        let is_known = payer.is_proven || organization.is_some();
        let charged = Charged { payer, cost, credential: payer.credential.filter(|_| is_known), organization };
        if let Some(rate) = self.rate_of(organization, plan_of).filter(|_| payer.credential.is_some()) {
            self.take_of(&charged, rate).map_err(|error| {
                let standing = self.standing(&charged, plan_of);
                Box::new(Refused { error, standing })
            })?;
        }
        self.charged.fetch_add(cost, Ordering::Relaxed);
        Ok(charged)
    }

    /// Takes from both or from none.
    fn take_of(&self, charged: &Charged, rate: Rate) -> Result<(), Error> {
        let (cost, share) = (charged.cost, rate.half());
        if cost > share.burst {
            self.refusals.too_expensive.fetch_add(1, Ordering::Relaxed);
            return Err(too_expensive(cost, share.burst));
        }
        let now = nanoseconds(self.clock.now());
        let mut buckets = self.buckets();
        let full_at = |buckets: &Buckets, whose| buckets.get(&whose).map_or(0, |bucket: &Bucket| bucket.full_at);
        let own = charged.credential.map(Whose::Credential);
        let own_after =
            own.map(|whose| share.take(full_at(&buckets, whose), cost, now)).transpose().map_err(|wait| {
                self.refusals.credential.fetch_add(1, Ordering::Relaxed);
                too_soon("this credential", cost, wait)
            })?;
        let theirs = charged.organization.map(Whose::Organization);
        let after = theirs.map(|whose| rate.take(full_at(&buckets, whose), cost, now)).transpose().map_err(|wait| {
            self.refusals.organization.fetch_add(1, Ordering::Relaxed);
            too_soon("the organization", cost, wait)
        })?;
        if let Some((whose, full_at)) = own.zip(own_after) {
            buckets.entry(whose).or_default().full_at = full_at;
        }
        if let Some((whose, full_at)) = theirs.zip(after) {
            let bucket = buckets.entry(whose).or_default();
            bucket.full_at = full_at;
            bucket.untold = bucket.untold.saturating_add(rate.span(cost));
        }
        sweep(&mut buckets, MANY, now);
        Ok(())
    }

    /// Charges whom the database has let in, which is known when the operation is over.
    pub fn settle(
        &self,
        charged: &mut Charged,
        entered: Option<OrganizationId>,
        was_refused: bool,
        plan_of: PlanOf<'_>,
    ) {
        let before = charged.organization;
        if let (Some(account), true) = (charged.payer.account, was_refused) {
            self.known.remove(&account);
        }
        if let (Some(account), Some(organization)) = (charged.payer.account, entered)
            && before != entered
        {
            self.known.insert(account, organization);
        }
        if before == entered {
            return;
        }
        let (cost, now) = (charged.cost, nanoseconds(self.clock.now()));
        let (old, new) = (self.rate_of(before, plan_of), self.rate_of(entered, plan_of));
        let span = |rate: Option<Rate>| rate.map_or(0, |rate| rate.span(cost));
        let mut buckets = self.buckets();
        if let Some(organization) = before {
            charge(&mut buckets, Whose::Organization(organization), -span(old), now);
        }
        if let Some(organization) = entered {
            charge(&mut buckets, Whose::Organization(organization), span(new), now);
            // On the way in it paid what it costs by default, or nothing.
            let paid = charged.credential.map_or(0, |_| span(old.map(Rate::half)));
            charged.credential = charged.payer.credential;
            if let Some(credential) = charged.credential {
                charge(
                    &mut buckets,
                    Whose::Credential(credential),
                    span(new.map(Rate::half)).saturating_sub(paid),
                    now,
                );
            }
        }
        drop(buckets);
        charged.organization = entered;
    }

    /// What an operation costs and what is left.
    #[must_use]
    pub fn standing(&self, charged: &Charged, plan_of: PlanOf<'_>) -> Standing {
        let rate = self.rate_of(charged.organization, plan_of);
        let now = nanoseconds(self.clock.now());
        let buckets = self.buckets();
        let level = |whose: Option<Whose>, rate: Rate| {
            let full_at = buckets.get(&whose?).map_or(0, |bucket| bucket.full_at);
            Some(Level { available: rate.available(full_at, now), rate })
        };
        Standing {
            cost: charged.cost,
            credential: rate.and_then(|rate| level(charged.credential.map(Whose::Credential), rate.half())),
            organization: rate.and_then(|rate| level(charged.organization.map(Whose::Organization), rate)),
        }
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets budgets that are full: they are as if nobody had ever spent of them.
    pub fn forget_full(&self) {
        sweep(&mut self.buckets(), 0, nanoseconds(self.clock.now()));
    }

    /// How many budgets are not full, or were not a second ago.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buckets().len()
    }

    /// Whether all are full.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Points charged so far.
    #[must_use]
    pub fn charged(&self) -> u64 {
        self.charged.load(Ordering::Relaxed)
    }
}

/// Moves the moment at which a bucket is full, whatever is in it.
fn charge(buckets: &mut Buckets, whose: Whose, span: i64, now: i64) {
    if span == 0 {
        return;
    }
    let bucket = buckets.entry(whose).or_default();
    bucket.full_at = bucket.full_at.max(now).saturating_add(span);
    if matches!(whose, Whose::Organization(_)) {
        bucket.untold = bucket.untold.saturating_add(span);
    }
}

/// Throws full buckets away, if there are more than so many.
fn sweep(buckets: &mut Buckets, many: usize, now: i64) {
    if buckets.len() > many {
        buckets.retain(|_, bucket| bucket.full_at > now || bucket.untold != 0);
    }
}

fn too_expensive(cost: u64, most: u64) -> Error {
    let message = format!(
        "The operation costs {cost} points, and one credential has never more than {most} at once: waiting does not help. Ask for smaller pages (`first`) or fewer fields, or split it."
    );
    Error::Limit { code: Code::QueryTooExpensive, message }
}

fn too_soon(whose: &str, cost: u64, wait: i64) -> Error {
    let retry_after = seconds(wait);
    let message = format!(
        "The operation costs {cost} points, and {whose} does not have as many at the moment: try again in {retry_after} s."
    );
    Error::RateLimited { retry_after, message }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};
    use uuid::Uuid;

    use super::*;

    const PLANS: &str = "[FREE]\napi_cost_per_minute = 6_000\napi_burst = 1_000\n[STARTER]\n[PRO]\napi_cost_per_minute = 60_000\n[ENTERPRISE]\n";

    fn start() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).expect("a time")
    }

    fn rates(default: u64) -> Rates {
        Rates::new(default, Arc::new(Plans::parse(PLANS).expect("plans")), Clock::manual(start()))
    }

    fn organization(number: u128) -> OrganizationId {
        OrganizationId::from_uuid(Uuid::from_u128(number))
    }

    fn person(number: u128, names: u128) -> Payer {
        Payer { credential: Some(number), is_proven: true, account: Some(number * 1000 + names) }
    }

    const FREE: PlanOf<'static> = &|_| Some(OrganizationPlan::Free);

    /// An operation from its beginning to its end.
    fn run(rates: &Rates, payer: Payer, cost: u64, entered: Option<u128>) -> Result<(), Error> {
        let mut charged = rates.take(payer, cost, FREE).map_err(|refused| refused.error)?;
        rates.settle(&mut charged, entered.map(organization), entered.is_none(), FREE);
        Ok(())
    }

    fn left(rates: &Rates, payer: Payer) -> (u64, u64) {
        let charged = rates.take(payer, 0, FREE).expect("nothing is always there");
        let standing = rates.standing(&charged, FREE);
        let of = |level: Option<Level>| level.map_or(u64::MAX, |level| level.available);
        (of(standing.credential), of(standing.organization))
    }

    #[test]
    fn a_credential_has_half_of_its_organizations_budget() {
        let rates = rates(0);
        let (one, other, third) = (person(1, 1), person(2, 1), person(3, 1));
        // Nobody knows yet that it is theirs: without a default there is no limit on the way in.
        for payer in [one, other, third] {
            assert!(run(&rates, payer, 0, Some(7)).is_ok());
        }
        assert!(run(&rates, one, 400, Some(7)).is_ok());
        assert_eq!(left(&rates, one), (100, 600));
        assert!(
            matches!(run(&rates, one, 200, Some(7)), Err(Error::RateLimited { retry_after: 2, .. })),
            "50 come each second"
        );
        assert!(run(&rates, other, 500, Some(7)).is_ok());
        assert!(matches!(run(&rates, third, 150, Some(7)), Err(Error::RateLimited { retry_after: 1, .. })));
        assert_eq!(left(&rates, third), (500, 100), "what is refused costs nothing, not even the credential");
        rates.clock.advance(TimeDelta::seconds(1));
        assert_eq!((left(&rates, one), left(&rates, third)), ((150, 200), (500, 200)));
        // More than half of the budget is never there.
        assert!(matches!(run(&rates, third, 501, Some(7)), Err(Error::Limit { code: Code::QueryTooExpensive, .. })));
        let counted = |of: &AtomicU64| of.load(Ordering::Relaxed);
        assert_eq!(
            [&rates.refusals.credential, &rates.refusals.organization, &rates.refusals.too_expensive].map(counted),
            [1, 1, 1]
        );
        assert_eq!(rates.charged(), 900);
    }

    #[test]
    fn nobody_spends_what_is_anothers() {
        let rates = rates(6_000);
        let member = person(1, 1);
        assert!(run(&rates, member, 0, Some(7)).is_ok());
        // A stranger names it over and over, and is not let in: that is their own cost.
        for _ in 0..10 {
            assert!(run(&rates, person(666, 1), 300, None).is_ok());
        }
        assert!(
            matches!(run(&rates, person(666, 1), 300, None), Err(Error::RateLimited { .. })),
            "3000 are their half"
        );
        assert_eq!(left(&rates, member), (500, 1_000));
        // Whoever was let in once and is not any more takes nothing that lasts, and is known no more.
        let former = person(2, 1);
        assert!(run(&rates, former, 100, Some(7)).is_ok());
        assert!(run(&rates, former, 300, None).is_ok());
        assert_eq!((left(&rates, member).1, rates.known(&former)), (900, None));
        // The name goes over to another organization: that one pays.
        assert!(run(&rates, member, 50, Some(8)).is_ok());
        assert_eq!((rates.known(&member), left(&rates, member).1), (Some(organization(8)), 950));
    }

    #[test]
    fn what_is_spent_while_the_database_answers_is_neither_lost_nor_counted_twice() {
        let rates = rates(0);
        let payer = person(1, 1);
        for cost in [0, 100] {
            assert!(run(&rates, payer, cost, Some(7)).is_ok());
        }
        let told = rates.untold();
        assert!(run(&rates, payer, 200, Some(7)).is_ok());
        // Another instance has spent 300 meanwhile.
        let of_all = Rate { per_minute: 6_000, burst: 1_000 }.span(300);
        let owed: Vec<_> = told.iter().map(|(organization, span)| (*organization, span + of_all)).collect();
        rates.learn(&owed);
        assert_eq!(left(&rates, payer).1, 400);
        rates.forget_full();
        assert_eq!(left(&rates, payer), (200, 400), "only full budgets are forgotten");
        // What was spent meanwhile is still to be told, and nothing else.
        assert_eq!(rates.untold().iter().map(|(_, span)| span / 10_000_000).sum::<i64>(), 200);
    }

    #[test]
    fn keys_take_no_memory_before_they_are_let_in() {
        let rates = rates(6_000);
        let key = |number: u128| Payer { is_proven: false, ..person(number, 0) };
        for number in 0..1_000 {
            assert!(run(&rates, key(number), 1_000, None).is_ok());
        }
        assert!(rates.is_empty());
        assert!(run(&rates, key(1), 400, Some(7)).is_ok());
        assert_eq!(left(&rates, key(1)), (100, 600), "once it was let in it pays for that, too");
        rates.clock.advance(TimeDelta::minutes(1));
        rates.untold();
        rates.forget_full();
        assert!(rates.is_empty(), "full buckets are forgotten");
    }

    #[test]
    fn without_a_limit_and_without_a_credential_nothing_is_refused() {
        let unlimited = rates(0);
        let starter = |_| Some(OrganizationPlan::Starter);
        for _ in 0..3 {
            let mut charged = unlimited.take(person(1, 1), u64::MAX / 4, &starter).expect("no limit");
            unlimited.settle(&mut charged, Some(organization(7)), false, &starter);
            assert!(unlimited.standing(&charged, &starter).credential.is_none());
        }
        assert!(unlimited.is_empty());
        assert!(rates(60).take(Payer::default(), 1_000, FREE).is_ok());
    }
}
