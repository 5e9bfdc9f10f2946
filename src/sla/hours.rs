//! The arithmetic of business hours: what passes between two times, and when so much has passed. Nothing here touches the
//! database.
//!
//! Hours are written as local times of a zone, and counted in real time. A local time that exists twice (clocks were set back)
//! means the first; one that does not exist (clocks were set forward, or a day was left out) means the moment of the change. So
//! every local time is one instant, later ones are never earlier instants, and neighboring intervals neither overlap nor part.

use std::collections::{BTreeMap, BTreeSet};

use async_graphql::Enum;
use chrono::{DateTime, Datelike as _, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

/// How far a deadline may be from the time it is reckoned from; beyond, there is none.
const MAX_DAYS: i64 = 366 * 20;
/// Seconds of a day as clocks show it.
const DAY: u32 = 24 * 60 * 60;

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enum, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Weekday {
    /// Monday.
    Monday,
    /// Tuesday.
    Tuesday,
    /// Wednesday.
    Wednesday,
    /// Thursday.
    Thursday,
    /// Friday.
    Friday,
    /// Saturday.
    Saturday,
    /// Sunday.
    Sunday,
}

/// An interval of business hours as it is stored: minutes since midnight, the end exclusive and at most 1440.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Interval {
    pub day: Weekday,
    pub from: u32,
    pub to: u32,
}

/// A calendar as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Written {
    /// A name of the IANA database.
    pub time_zone: String,
    pub hours: Vec<Interval>,
    /// Days without business hours, with their names.
    pub holidays: BTreeMap<NaiveDate, String>,
}

/// When business is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    zone: Tz,
    /// For each day from Monday: seconds since midnight, in order, without overlap.
    week: [Vec<(u32, u32)>; 7],
    holidays: BTreeSet<NaiveDate>,
}

/// The time zone of this name: `UTC` or one of the IANA database.
#[must_use]
pub fn zone(name: &str) -> Option<Tz> {
    // Names without an area (`EST`, `Cuba`) are there for old systems, and some mean something else than people think.
    (name == "UTC" || name.contains('/')).then(|| name.parse().ok()).flatten()
}

impl Written {
    /// The calendar to reckon with; `None` if the zone is not known.
    #[must_use]
    pub fn read(&self) -> Option<Hours> {
        let mut week: [Vec<(u32, u32)>; 7] = Default::default();
        for interval in &self.hours {
            week[interval.day as usize].push((interval.from * 60, interval.to.min(24 * 60) * 60));
        }
        for day in &mut week {
            day.sort_unstable();
        }
        Some(Hours { zone: zone(&self.time_zone)?, week, holidays: self.holidays.keys().copied().collect() })
    }
}

impl Hours {
    /// The first instant at which clocks show this time or a later one.
    fn instant(&self, local: NaiveDateTime) -> DateTime<Utc> {
        if let Some(instant) = self.zone.from_local_datetime(&local).earliest() {
            return instant.with_timezone(&Utc);
        }
        // No clock shows it: the moment of the change is looked for, to the second. No zone is a day and two hours off.
        let around = TimeDelta::hours(26);
        let shown = local.and_utc();
        let ends = shown.checked_sub_signed(around).zip(shown.checked_add_signed(around));
        // At the ends of the years that can be told there are no changes.
        let Some((mut before, mut after)) = ends else { return shown };
        while after - before > TimeDelta::seconds(1) {
            let middle = before + TimeDelta::seconds((after - before).num_seconds() / 2);
            if middle.with_timezone(&self.zone).naive_local() < local { before = middle } else { after = middle }
        }
        after
    }

    fn at(&self, date: NaiveDate, seconds: u32) -> Option<DateTime<Utc>> {
        let (date, seconds) = if seconds >= DAY { (date.succ_opt()?, 0) } else { (date, seconds) };
        let time = NaiveTime::from_num_seconds_from_midnight_opt(seconds, 0)?;
        Some(self.instant(date.and_time(time)))
    }

    /// The intervals of a date, in order. Those that no clock shows are empty.
    fn of_date(&self, date: NaiveDate) -> impl DoubleEndedIterator<Item = (DateTime<Utc>, DateTime<Utc>)> + '_ {
        let day = date.weekday().num_days_from_monday() as usize;
        let intervals = if self.holidays.contains(&date) { &[] } else { self.week[day].as_slice() };
        intervals.iter().filter_map(move |(from, to)| Some((self.at(date, *from)?, self.at(date, *to)?)))
    }

    fn date_of(&self, at: DateTime<Utc>) -> NaiveDate {
        at.with_timezone(&self.zone).date_naive()
    }

    /// Whether it is business hours.
    #[must_use]
    pub fn is_open(&self, at: DateTime<Utc>) -> bool {
        // What is shown twice may belong to the day before or after the one that clocks show.
        let date = self.date_of(at);
        let days = [date.pred_opt(), Some(date), date.succ_opt()];
        days.into_iter().flatten().any(|date| self.of_date(date).any(|(from, to)| (from..to).contains(&at)))
    }

    /// The business time from one time to a later one; nothing if it is not later.
    #[must_use]
    pub fn between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> TimeDelta {
        let mut sum = TimeDelta::zero();
        let (Some(mut date), Some(last)) = (self.date_of(from).pred_opt(), self.date_of(to).succ_opt()) else {
            return sum;
        };
        while from < to && date <= last {
            for (opens, closes) in self.of_date(date) {
                sum += (closes.min(to) - opens.max(from)).max(TimeDelta::zero());
            }
            let Some(next) = date.succ_opt() else { break };
            date = next;
        }
        sum
    }

    /// When so much business time has passed since a time; `None`: not within twenty years.
    #[must_use]
    pub fn after(&self, from: DateTime<Utc>, time: TimeDelta) -> Option<DateTime<Utc>> {
        if time <= TimeDelta::zero() {
            return Some(from);
        }
        let mut left = time;
        let mut date = self.date_of(from).pred_opt()?;
        for _ in 0..MAX_DAYS {
            for (opens, closes) in self.of_date(date) {
                let opens = opens.max(from);
                if closes > opens {
                    if left <= closes - opens {
                        return Some(opens + left);
                    }
                    left -= closes - opens;
                }
            }
            date = date.succ_opt()?;
        }
        None
    }

    /// The last time from which so much business time passes until this one; `None`: not within twenty years.
    #[must_use]
    pub fn before(&self, to: DateTime<Utc>, time: TimeDelta) -> Option<DateTime<Utc>> {
        if time <= TimeDelta::zero() {
            return Some(to);
        }
        let mut left = time;
        let mut date = self.date_of(to).succ_opt()?;
        for _ in 0..MAX_DAYS {
            for (opens, closes) in self.of_date(date).rev() {
                let closes = closes.min(to);
                if closes > opens {
                    if left <= closes - opens {
                        return Some(closes - left);
                    }
                    left -= closes - opens;
                }
            }
            date = date.checked_sub_days(Days::new(1))?;
        }
        None
    }

    /// The business time of a week without holidays and changes of the clocks.
    #[must_use]
    pub fn of_a_week(&self) -> TimeDelta {
        self.week.iter().flatten().map(|(from, to)| TimeDelta::seconds(i64::from(to - from))).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hours(time_zone: &str, intervals: &[(Weekday, u32, u32)], holidays: &[&str]) -> Hours {
        let hours = intervals.iter().map(|(day, from, to)| Interval { day: *day, from: *from, to: *to }).collect();
        let holidays = holidays.iter().map(|date| (date.parse().expect("a date"), String::new())).collect();
        Written { time_zone: time_zone.to_owned(), hours, holidays }.read().expect("a zone")
    }

    const WEEK: [Weekday; 7] = {
        use Weekday::{Friday, Monday, Saturday, Sunday, Thursday, Tuesday, Wednesday};
        [Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday]
    };

    fn every_day(from: u32, to: u32) -> Vec<(Weekday, u32, u32)> {
        WEEK.iter().map(|day| (*day, from, to)).collect()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    const HOUR: TimeDelta = TimeDelta::hours(1);

    #[test]
    fn a_week_with_lunch_and_a_holiday() {
        let weekdays: Vec<_> = WEEK[..5].iter().flat_map(|day| [(*day, 540, 720), (*day, 780, 1020)]).collect();
        let berlin = hours("Europe/Berlin", &weekdays, &["2026-12-25"]);
        // Thursday 11:00 until Monday 10:00: 1 + 4 hours, the holiday, the weekend, 1 hour.
        assert_eq!(berlin.between(at("2026-12-24T10:00:00Z"), at("2026-12-28T09:00:00Z")), HOUR * 6);
        assert_eq!(berlin.after(at("2026-12-24T10:00:00Z"), HOUR * 6), Some(at("2026-12-28T09:00:00Z")));
        // What is spent at closing time is due at closing time, not at the next opening.
        assert_eq!(berlin.after(at("2026-12-24T10:00:00Z"), HOUR * 5), Some(at("2026-12-24T16:00:00Z")));
        assert_eq!(berlin.before(at("2026-12-28T09:00:00Z"), HOUR * 6), Some(at("2026-12-24T10:00:00Z")));
        assert!(berlin.is_open(at("2026-12-24T10:59:59Z")) && !berlin.is_open(at("2026-12-24T11:00:00Z")));
        assert_eq!(berlin.of_a_week(), HOUR * 35);
    }

    #[test]
    fn clocks_are_set_back_and_forward() {
        let night = hours("Europe/Berlin", &every_day(60, 300), &[]);
        // 01:00 to 05:00 is three hours when 02:00 to 03:00 is left out, and five when it comes twice.
        assert_eq!(night.between(at("2027-03-27T23:00:00Z"), at("2027-03-28T22:00:00Z")), HOUR * 3);
        assert_eq!(night.between(at("2027-10-30T22:00:00Z"), at("2027-10-31T23:00:00Z")), HOUR * 5);
        // An end that comes twice is the first, a start that is left out is the moment of the change.
        let early = hours("Europe/Berlin", &every_day(60, 150), &[]);
        assert_eq!(early.between(at("2027-10-30T22:00:00Z"), at("2027-10-31T23:00:00Z")), TimeDelta::minutes(90));
        let late = hours("Europe/Berlin", &every_day(150, 240), &[]);
        assert_eq!(late.between(at("2027-03-27T23:00:00Z"), at("2027-03-28T22:00:00Z")), HOUR);
        // Half an hour: Lord Howe Island.
        let island = hours("Australia/Lord_Howe", &every_day(0, 1440), &[]);
        assert_eq!(island.between(at("2027-04-02T13:00:00Z"), at("2027-04-04T13:30:00Z")), HOUR * 48 + HOUR / 2);
    }

    #[test]
    fn a_day_that_never_was() {
        // Samoa left out 30 December 2011, a Friday.
        let samoa = hours("Pacific/Apia", &[(Weekday::Friday, 540, 1020), (Weekday::Saturday, 540, 600)], &[]);
        assert_eq!(samoa.between(at("2011-12-29T00:00:00Z"), at("2012-01-01T00:00:00Z")), HOUR);
        // Midnight does not exist on the day that clocks in Beirut were set forward.
        let beirut = hours("Asia/Beirut", &every_day(0, 120), &[]);
        assert_eq!(beirut.between(at("2024-03-30T20:00:00Z"), at("2024-03-31T10:00:00Z")), HOUR);
    }

    #[test]
    fn there_is_not_always_an_end() {
        let little = hours("UTC", &[(Weekday::Monday, 0, 1)], &[]);
        assert_eq!(little.after(at("2027-01-01T00:00:00Z"), TimeDelta::days(365)), None);
        assert_eq!(little.before(at("2027-01-01T00:00:00Z"), TimeDelta::days(365)), None);
        assert_eq!(hours("UTC", &[], &[]).after(at("2027-01-01T00:00:00Z"), HOUR), None);
        // The ends of what can be told.
        let (first, last) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
        assert_eq!(little.between(last, first), TimeDelta::zero());
        assert_eq!(little.after(last, HOUR), None);
        assert_eq!(little.before(first, HOUR), None);
        assert_eq!(zone("Mars/Olympus"), None);
        assert_eq!(zone("EST"), None);
        assert!(zone("UTC").is_some() && zone("America/Argentina/Ushuaia").is_some());
    }

    const ZONES: [&str; 10] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/St_Johns",
        "Asia/Kathmandu",
        "Asia/Beirut",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Pacific/Chatham",
        "Africa/Casablanca",
    ];

    prop_compose! {
        /// Up to three intervals on some days; some holidays among the first days of the years.
        fn any_hours()(
            name in prop::sample::select(&ZONES[..]),
            days in prop::collection::vec(prop::collection::btree_set(0_u32..=96, 0..=6), 7),
            holidays in prop::collection::btree_set((2009_i32..2031, 1_u32..60), 0..40),
        ) -> Hours {
            let mut hours = Vec::new();
            for (day, edges) in WEEK.iter().zip(days) {
                let edges: Vec<u32> = edges.into_iter().map(|quarter| quarter * 15).collect();
                hours.extend(edges.chunks_exact(2).map(|pair| Interval { day: *day, from: pair[0], to: pair[1] }));
            }
            let holidays = holidays.into_iter().filter_map(|(year, day)| NaiveDate::from_yo_opt(year, day));
            let holidays = holidays.map(|date| (date, String::new())).collect();
            Written { time_zone: name.to_owned(), hours, holidays }.read().expect("a zone")
        }
    }

    /// Seconds of twenty years, with many near the changes of clocks.
    fn any_time() -> impl Strategy<Value = DateTime<Utc>> {
        let near = prop::sample::select(vec![
            1_325_203_200_i64, // Samoa
            1_806_195_600,     // Europe, March 2027
            1_824_944_400,     // Europe, October 2027
            1_805_007_600,     // New York, March 2027
            1_711_836_000,     // Beirut, March 2024
        ]);
        let around = (near, -200_000_i64..200_000).prop_map(|(near, by)| near + by);
        prop_oneof![1_230_768_000_i64..1_900_000_000, around]
            .prop_map(|seconds| DateTime::from_timestamp(seconds, 0).expect("a time"))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_added_has_passed(hours in any_hours(), from in any_time(), seconds in 0_i64..2_000_000) {
            let time = TimeDelta::seconds(seconds);
            if let Some(due) = hours.after(from, time) {
                prop_assert_eq!(hours.between(from, due), time);
                // It is the first such time.
                prop_assert!(seconds == 0 || hours.between(from, due - TimeDelta::seconds(1)) < time);
                let back = hours.before(due, time).expect("it was so");
                prop_assert!(back >= from);
                prop_assert_eq!(hours.between(back, due), time);
            }
        }

        #[test]
        fn time_is_neither_lost_nor_counted_twice(hours in any_hours(), mut times in prop::array::uniform3(any_time())) {
            times.sort_unstable();
            let [a, b, c] = times;
            prop_assert_eq!(hours.between(a, b) + hours.between(b, c), hours.between(a, c));
            prop_assert!(hours.between(a, c) <= c - a);
            prop_assert_eq!(hours.between(c, a), if a == c { hours.between(a, c) } else { TimeDelta::zero() });
        }

        /// The same counted minute by minute, by what a clock on the wall shows: where no edge of the hours falls into
        /// a time that comes twice.
        #[test]
        fn as_a_clock_on_the_wall_counts(hours in any_hours(), from in any_time(), minutes in 0_i64..4000) {
            let from = from - TimeDelta::seconds(from.timestamp().rem_euclid(60));
            let mut counted = 0;
            for minute in 0..minutes {
                let now = from + TimeDelta::minutes(minute);
                let local = now.with_timezone(&hours.zone).naive_local();
                let seconds = chrono::Timelike::num_seconds_from_midnight(&local);
                let day = &hours.week[local.weekday().num_days_from_monday() as usize];
                let is_open = !hours.holidays.contains(&local.date())
                    && day.iter().any(|(opens, closes)| (*opens..*closes).contains(&seconds));
                let is_twice = matches!(hours.zone.from_local_datetime(&local), chrono::MappedLocalTime::Ambiguous(..));
                prop_assert!(is_twice || hours.is_open(now) == is_open);
                if is_twice {
                    counted += i64::from(hours.is_open(now));
                } else {
                    counted += i64::from(is_open);
                }
            }
            prop_assert_eq!(hours.between(from, from + TimeDelta::minutes(minutes)), TimeDelta::minutes(counted));
        }
    }
}
