//! How much may be spent: a rate, and some of it at once.
//!
//! The generic cell rate algorithm (ITU-T I.371, appendix I): a bucket is one number, the moment at which it is full again. What is
//! spent moves that moment on; what has passed needs no memory.

use chrono::{DateTime, Utc};

/// Nanoseconds of a minute.
const MINUTE: i128 = 60_000_000_000;
/// Nanoseconds that a bucket may be in debt beyond what it holds, because more was taken elsewhere.
const MOST_DEBT: i64 = 600_000_000_000;

/// A rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What comes back in a minute.
    pub per_minute: u64,
    /// What a full bucket holds.
    pub burst: u64,
}

/// A moment in nanoseconds, as buckets are kept.
#[must_use]
pub fn nanoseconds(now: DateTime<Utc>) -> i64 {
    now.timestamp_nanos_opt().unwrap_or(i64::MAX)
}

impl Rate {
    /// How long it takes until so much has come back, in nanoseconds.
    #[must_use]
    pub fn span(self, cost: u64) -> i64 {
        let span = i128::from(cost) * MINUTE / i128::from(self.per_minute.max(1));
        i64::try_from(span).unwrap_or(i64::MAX)
    }

    /// When the bucket is full, if it is not by now. One that is in debt for longer than can be was charged before the clock was set
    /// back, and is full.
    fn not_before(self, full_at: i64, now: i64) -> i64 {
        let is_of_another_time = full_at.saturating_sub(now) > self.span(self.burst).saturating_add(MOST_DEBT);
        if is_of_another_time { now } else { full_at.max(now) }
    }

    /// When a bucket that is full at `full_at` is full again after so much was taken.
    ///
    /// # Errors
    /// There is not so much in it: the nanoseconds until there is. More than it holds is never there; ask before.
    pub fn take(self, full_at: i64, cost: u64, now: i64) -> Result<i64, i64> {
        let after = self.not_before(full_at, now).saturating_add(self.span(cost));
        match after.saturating_sub(now).saturating_sub(self.span(self.burst)) {
            ..=0 => Ok(after),
            wait => Err(wait),
        }
    }

    /// What is in a bucket.
    #[must_use]
    pub fn available(self, full_at: i64, now: i64) -> u64 {
        let left = i128::from(self.span(self.burst)) - i128::from(self.not_before(full_at, now).saturating_sub(now));
        u64::try_from(left * i128::from(self.per_minute) / MINUTE).unwrap_or(0).min(self.burst)
    }

    /// Half of it.
    #[must_use]
    pub fn half(self) -> Self {
        Self { per_minute: (self.per_minute / 2).max(1), burst: (self.burst / 2).max(1) }
    }
}

/// The whole seconds after which nanoseconds have passed, at least one.
#[must_use]
pub fn seconds(nanoseconds: i64) -> u64 {
    u64::try_from(nanoseconds.max(1)).unwrap_or(1).div_ceil(1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn a_bucket_gives_what_it_holds_and_then_by_the_clock() {
        let rate = Rate { per_minute: 600, burst: 30 };
        let now = 1_700_000_000 * SECOND;
        let after = rate.take(0, 20, now).expect("it is full");
        assert_eq!(rate.available(after, now), 10);
        assert_eq!(rate.take(after, 15, now), Err(SECOND / 2), "five are missing, and ten come each second");
        let later = now + SECOND / 2;
        assert_eq!(rate.available(after, later), 15);
        let empty = rate.take(after, 15, later).expect("there is enough");
        assert_eq!((rate.available(empty, later), rate.take(empty, 0, later)), (0, Ok(empty)));
        // However long nobody came, no more than what it holds is there.
        let much_later = now + 3600 * SECOND;
        assert_eq!((rate.available(empty, much_later), rate.take(empty, 31, much_later).is_err()), (30, true));
        // The clock was set back: nobody waits for the time in between.
        assert_eq!(rate.available(empty, now - 86_400 * SECOND), 30);
        assert!(rate.take(empty, 15, now - 86_400 * SECOND).is_ok());
        // More was taken elsewhere than there was.
        assert_eq!(rate.available(now + 10 * SECOND, now), 0);
        assert_eq!((seconds(1), seconds(SECOND), seconds(SECOND + 1), seconds(-1)), (1, 1, 2, 1));
    }

    #[test]
    fn nothing_overflows() {
        let rate = Rate { per_minute: 1, burst: u64::MAX };
        assert!(rate.take(i64::MAX, u64::MAX, 0).is_ok_and(|at| at == i64::MAX));
        assert_eq!(Rate { per_minute: u64::MAX, burst: 1 }.available(0, 0), 0, "less than a nanosecond's");
        assert_eq!(Rate { per_minute: 1, burst: 1 }.half(), Rate { per_minute: 1, burst: 1 });
    }
}
