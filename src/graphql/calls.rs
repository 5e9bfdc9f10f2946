//! How many requests each organization made, in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Datelike as _, NaiveDate, Utc};

use crate::id::OrganizationId;

/// Requests by organization and first day of the month (UTC).
pub type Counted = BTreeMap<(OrganizationId, NaiveDate), u64>;

/// Counts requests until somebody takes the numbers.
#[derive(Debug, Default)]
pub struct Calls(Mutex<Counted>);

impl Calls {
    /// Counts one.
    pub fn add(&self, organization: OrganizationId, now: DateTime<Utc>) {
        let today = now.date_naive();
        let month = today.with_day(1).unwrap_or(today);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry((organization, month)).or_default() += 1;
    }

    /// What was counted since the last time.
    #[must_use]
    pub fn take(&self) -> Counted {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts again what could not be written.
    pub fn put_back(&self, counted: Counted) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, number) in counted {
            *calls.entry(key).or_default() += number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn calls_are_counted_by_organization_and_month() {
        let calls = Calls::default();
        let at = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
        let (one, other) =
            (OrganizationId::from_uuid(Uuid::from_u128(1)), OrganizationId::from_uuid(Uuid::from_u128(2)));
        calls.add(one, at("2026-11-30T23:59:59Z"));
        calls.add(one, at("2026-12-01T00:00:00Z"));
        calls.add(one, at("2026-12-31T12:00:00Z"));
        calls.add(other, at("2026-12-31T12:00:00Z"));
        let counted = calls.take();
        assert_eq!(counted.values().copied().collect::<Vec<_>>(), [1, 2, 1]);
        assert!(calls.take().is_empty());
        calls.put_back(counted);
        calls.add(other, at("2026-12-01T12:00:00Z"));
        assert_eq!(calls.take().into_values().collect::<Vec<_>>(), [1, 2, 2]);
    }
}
