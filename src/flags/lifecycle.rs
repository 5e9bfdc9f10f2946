//! When a flag should be looked at: flags that stay for ever are branches that nobody tests.

use async_graphql::{Enum, SimpleObject};
use chrono::{DateTime, Days, Utc};
use serde::Serialize;

use super::evaluate::FlagKind;

/// After how many days without a change, or without an evaluation, a flag counts as stale, unless said.
pub const QUIET_DAYS: u32 = 30;

/// Why a feature flag should be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FeatureFlagStaleReason {
    /// The date that its owner set has passed.
    PastStaleAfter,
    /// It is on for everybody, and nothing about it has changed for 30 days: the code no longer needs it.
    OnForAll,
    /// It is off for everybody, and nothing about it has changed for 30 days.
    OffForAll,
    /// Its schedule is over: it is off for good.
    ScheduleOver,
    /// No program has asked for it for 30 days.
    NotEvaluated,
    /// It has overrides that have expired.
    ExpiredOverrides,
}

/// A reason why a feature flag should be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, SimpleObject, Serialize)]
pub struct FeatureFlagStaleness {
    /// The reason.
    pub reason: FeatureFlagStaleReason,
    /// Since when it holds.
    pub since: DateTime<Utc>,
}

/// What is known of a flag and its use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub kind: FlagKind,
    pub default_enabled: bool,
    pub has_minimum_plan: bool,
    pub rollout_percentage: Option<f64>,
    /// Variants that have a weight.
    pub weighed: usize,
    pub starts_at: Option<DateTime<Utc>>,
    pub ends_at: Option<DateTime<Utc>>,
    pub stale_after: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub last_evaluated_at: Option<DateTime<Utc>>,
    /// Overrides in force that turn it on, and off.
    pub turned: (i64, i64),
    /// When the first of the expired overrides did.
    pub expired_since: Option<DateTime<Utc>>,
}

/// Why the flag should be looked at; `quiet` is how long nothing has happened.
pub(super) fn staleness(facts: &Facts, now: DateTime<Utc>, quiet: Days) -> Vec<FeatureFlagStaleness> {
    use FeatureFlagStaleReason::{ExpiredOverrides, NotEvaluated, OffForAll, OnForAll, PastStaleAfter, ScheduleOver};
    let before = now.checked_sub_days(quiet).unwrap_or(DateTime::UNIX_EPOCH);
    let mut found = Vec::new();
    let mut add = |reason, since: Option<DateTime<Utc>>| {
        found.extend(since.map(|since| FeatureFlagStaleness { reason, since }));
    };
    add(PastStaleAfter, facts.stale_after.filter(|at| *at <= now));
    let over = facts.ends_at.filter(|end| *end <= now);
    add(ScheduleOver, over);
    // A kill switch and what a plan gives stay.
    if facts.kind == FlagKind::Release && over.is_none() {
        let (on, off) = facts.turned;
        let settled = facts.starts_at.map_or(facts.updated_at, |start| start.max(facts.updated_at));
        let settled = Some(settled).filter(|since| *since <= before);
        let share = facts.rollout_percentage.unwrap_or(if facts.default_enabled { 100.0 } else { 0.0 });
        if share >= 100.0 && off == 0 && !facts.has_minimum_plan && facts.weighed < 2 && facts.ends_at.is_none() {
            add(OnForAll, settled);
        } else if share <= 0.0 && on == 0 {
            add(OffForAll, settled);
        }
    }
    add(NotEvaluated, Some(facts.last_evaluated_at.unwrap_or(facts.created_at)).filter(|at| *at <= before));
    add(ExpiredOverrides, facts.expired_since);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(n: u64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH.checked_add_days(Days::new(20_000 + n)).expect("a time")
    }

    fn facts() -> Facts {
        Facts {
            kind: FlagKind::Release,
            default_enabled: false,
            has_minimum_plan: false,
            rollout_percentage: Some(50.0),
            weighed: 0,
            starts_at: None,
            ends_at: None,
            stale_after: None,
            created_at: day(0),
            updated_at: day(0),
            last_evaluated_at: Some(day(99)),
            turned: (0, 0),
            expired_since: None,
        }
    }

    #[test]
    fn flags_are_stale_for_a_reason() {
        use FeatureFlagStaleReason::{
            ExpiredOverrides, NotEvaluated, OffForAll, OnForAll, PastStaleAfter, ScheduleOver,
        };
        let on = Facts { rollout_percentage: Some(100.0), ..facts() };
        let off = Facts { rollout_percentage: None, ..facts() };
        for (facts, expected) in [
            (facts(), vec![]),
            (Facts { stale_after: Some(day(100)), ..facts() }, vec![(PastStaleAfter, 100)]),
            (Facts { stale_after: Some(day(101)), ..facts() }, vec![]),
            (on, vec![(OnForAll, 0)]),
            (Facts { updated_at: day(71), ..on }, vec![]),
            (Facts { starts_at: Some(day(60)), ..on }, vec![(OnForAll, 60)]),
            (Facts { starts_at: Some(day(80)), ..on }, vec![]),
            (Facts { turned: (0, 1), ..on }, vec![]),
            (Facts { has_minimum_plan: true, ..on }, vec![]),
            (Facts { weighed: 2, ..on }, vec![]),
            (Facts { weighed: 1, ..on }, vec![(OnForAll, 0)]),
            (Facts { kind: FlagKind::Entitlement, ..on }, vec![]),
            (Facts { ends_at: Some(day(90)), ..on }, vec![(ScheduleOver, 90)]),
            (off, vec![(OffForAll, 0)]),
            (Facts { turned: (1, 0), ..off }, vec![]),
            (Facts { default_enabled: true, ..off }, vec![(OnForAll, 0)]),
            (Facts { kind: FlagKind::KillSwitch, ..off }, vec![]),
            (Facts { last_evaluated_at: Some(day(70)), ..facts() }, vec![(NotEvaluated, 70)]),
            (Facts { last_evaluated_at: None, ..facts() }, vec![(NotEvaluated, 0)]),
            (Facts { last_evaluated_at: None, created_at: day(90), ..facts() }, vec![]),
            (Facts { expired_since: Some(day(50)), ..facts() }, vec![(ExpiredOverrides, 50)]),
        ] {
            let expected: Vec<_> =
                expected.into_iter().map(|(reason, n)| FeatureFlagStaleness { reason, since: day(n) }).collect();
            assert_eq!(staleness(&facts, day(100), Days::new(30)), expected, "{facts:?}");
        }
    }
}
