//! The calendar of the periods, in UTC; nothing here touches the database.

use chrono::{DateTime, Datelike as _, Days, Months, NaiveTime, TimeDelta, Timelike as _, Utc};

use crate::metrics::MetricPeriod;

impl MetricPeriod {
    /// The first instant of the period that holds this time.
    #[must_use]
    pub fn start_of(self, at: DateTime<Utc>) -> DateTime<Utc> {
        let day = at.date_naive();
        let first = match self {
            Self::Hour => return day.and_time(NaiveTime::MIN).and_utc() + TimeDelta::hours(at.hour().into()),
            Self::Day => Some(day),
            Self::Week => day.checked_sub_days(Days::new(day.weekday().num_days_from_monday().into())),
            Self::Month => day.with_day(1),
        };
        first.unwrap_or(day).and_time(NaiveTime::MIN).and_utc()
    }

    /// The first instant of the period after the one that begins here.
    #[must_use]
    pub fn after(self, start: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::Hour => start + TimeDelta::hours(1),
            Self::Day => start + TimeDelta::days(1),
            Self::Week => start + TimeDelta::weeks(1),
            Self::Month => start.checked_add_months(Months::new(1)).unwrap_or(start),
        }
    }

    /// The first instant of the period before the one that begins here.
    #[must_use]
    pub fn before(self, start: DateTime<Utc>) -> DateTime<Utc> {
        self.start_of(start - TimeDelta::nanoseconds(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_those_of_the_calendar() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
        let time = at("2028-02-29T23:59:59.999999Z");
        for (period, start, next, before) in [
            (MetricPeriod::Hour, "2028-02-29T23:00:00Z", "2028-03-01T00:00:00Z", "2028-02-29T22:00:00Z"),
            (MetricPeriod::Day, "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z", "2028-02-28T00:00:00Z"),
            (MetricPeriod::Week, "2028-02-28T00:00:00Z", "2028-03-06T00:00:00Z", "2028-02-21T00:00:00Z"),
            (MetricPeriod::Month, "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z", "2028-01-01T00:00:00Z"),
        ] {
            assert_eq!(period.start_of(time), at(start), "{period:?}");
            assert_eq!(period.start_of(at(start)), at(start), "{period:?}");
            assert_eq!(period.after(at(start)), at(next), "{period:?}");
            assert_eq!(period.before(at(start)), at(before), "{period:?}");
        }
    }
}
