//! Calendars: the business hours that promises are counted in.

use std::collections::BTreeMap;

use async_graphql::{InputObject, SimpleObject};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde_json::json;

use crate::access::Action;
use crate::error::{Error, Result};
use crate::graphql::filter::{DateTimeFilter, StringFilter};
use crate::graphql::mutation::{Checks, Done, Mutation, UserErrorCode, VerbError, VerbResult, Work, check_version};
use crate::graphql::time_zone;
use crate::id::{BusinessCalendarId, marker};
use crate::sla::hours::{Hours, Interval, Weekday, Written, zone};
use crate::sla::policies::{self, SlaPolicy};
use crate::tickets::assignment;
use crate::{entity, listing, relations};

/// Most calendars of an organization, most characters of a name, most intervals of a day, most holidays.
const MAX_CALENDARS: i64 = 50;
const MAX_NAME: usize = 100;
const MAX_INTERVALS: usize = 10;
const MAX_HOLIDAYS: usize = 1000;
/// Minutes of a day as clocks show it.
const DAY: u32 = 24 * 60;
/// Longest time that `dueAt` reckons, in minutes: 366 days.
pub(super) const MAX_MINUTES: i32 = 366 * 24 * 60;

entity! {
    /// A calendar of business hours.
    #[graphql(complex)]
    pub struct BusinessCalendar("business_calendars", read by OrganizationRead) {
        /// Unique id.
        pub id: BusinessCalendarId,
        /// Name.
        pub name: String,
        /// What it says.
        #[graphql(skip)]
        pub calendar: serde_json::Value,
        /// Version; incremented by every change. Pass it as `expectedVersion`.
        pub version: i32,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    BusinessCalendar: BusinessCalendarFilter, BusinessCalendarOrder by BusinessCalendarOrderField, default Name Asc;
    /// Name.
    name: StringFilter, Name;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    BusinessCalendar {
        /// The policies that count by it.
        policies -> SlaPolicy by "t.calendar_id";
    }

    /// Time zone (IANA) of the hours.
    fn time_zone(&self) -> Result<String> {
        Ok(self.written()?.time_zone)
    }

    /// Business hours, in the order of the week.
    fn hours(&self) -> Result<Vec<BusinessHours>> {
        let mut hours = self.written()?.hours;
        hours.sort_unstable();
        Ok(hours.into_iter().map(BusinessHours::of).collect())
    }

    /// Days without business hours.
    fn holidays(&self) -> Result<Vec<Holiday>> {
        let holidays = self.written()?.holidays;
        Ok(holidays.into_iter().map(|(date, name)| Holiday { date: date.to_string(), name }).collect())
    }

    /// Whether it is business hours at this time.
    fn is_open(&self, #[graphql(desc = "The time.")] at: DateTime<Utc>) -> Result<bool> {
        Ok(self.reckoned()?.is_open(at))
    }

    /// When so many minutes of business time have passed since this time: to try a calendar. Null: not within twenty years.
    fn due_at(
        &self,
        #[graphql(desc = "The time to reckon from.")] from: DateTime<Utc>,
        #[graphql(desc = "1 to 527,040 (366 days).")] minutes: i32,
    ) -> Result<Option<DateTime<Utc>>> {
        if !(1..=MAX_MINUTES).contains(&minutes) {
            return Err(Error::invalid("minutes", format!("{minutes} is not from 1 to {MAX_MINUTES}.")));
        }
        Ok(self.reckoned()?.after(from, TimeDelta::minutes(minutes.into())))
    }
}

impl BusinessCalendar {
    fn written(&self) -> Result<Written> {
        serde_json::from_value(self.calendar.clone()).map_err(Error::internal)
    }

    fn reckoned(&self) -> Result<Hours> {
        self.written()?.read().ok_or_else(|| Error::internal("a calendar has an unknown time zone"))
    }
}

/// An interval of business hours.
#[derive(Clone, Debug, SimpleObject)]
pub struct BusinessHours {
    /// Day of the week.
    pub day: Weekday,
    /// Start: `09:00`.
    pub from: String,
    /// End (exclusive): `17:30`; `24:00` is midnight.
    pub to: String,
}

impl BusinessHours {
    fn of(interval: Interval) -> Self {
        let shown = |minutes: u32| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        Self { day: interval.day, from: shown(interval.from), to: shown(interval.to) }
    }
}

/// A day without business hours.
#[derive(Clone, Debug, SimpleObject)]
pub struct Holiday {
    /// Date in the calendar's time zone: `2027-12-25`.
    pub date: String,
    /// Name.
    pub name: String,
}

/// An interval of business hours.
#[derive(Clone, Debug, InputObject)]
pub struct BusinessHoursInput {
    /// Day of the week.
    pub day: Weekday,
    /// Start: `09:00`.
    pub from: String,
    /// End (exclusive): `17:30`; `24:00` is midnight. What goes on after midnight is two intervals.
    pub to: String,
}

/// A day without business hours.
#[derive(Clone, Debug, InputObject)]
pub struct HolidayInput {
    /// Date in the calendar's time zone: `2027-12-25`.
    pub date: String,
    /// Name: at most 100 characters.
    pub name: Option<String>,
}

/// The fields of a new calendar.
#[derive(Clone, Debug, InputObject)]
pub struct BusinessCalendarCreateInput {
    /// Name: 1 to 100 characters.
    pub name: String,
    /// Time zone: `UTC` or a name of the IANA database such as `Europe/Berlin`.
    pub time_zone: String,
    /// Business hours: at most 10 intervals a day, without overlap.
    pub hours: Vec<BusinessHoursInput>,
    /// Days without business hours: at most 1,000.
    pub holidays: Option<Vec<HolidayInput>>,
}

/// The changes of a calendar. Omitted fields stay as they are. Clocks that run count by the new hours from then on.
#[derive(Clone, Debug, InputObject)]
pub struct BusinessCalendarUpdateInput {
    /// The calendar.
    pub id: BusinessCalendarId,
    /// Name: 1 to 100 characters.
    pub name: Option<String>,
    /// Time zone: `UTC` or a name of the IANA database such as `Europe/Berlin`.
    pub time_zone: Option<String>,
    /// Business hours, replaced as a whole.
    pub hours: Option<Vec<BusinessHoursInput>>,
    /// Days without business hours, replaced as a whole.
    pub holidays: Option<Vec<HolidayInput>>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// Which calendar to delete: one that no policy uses.
#[derive(Clone, Debug, InputObject)]
pub struct BusinessCalendarDeleteInput {
    /// The calendar.
    pub id: BusinessCalendarId,
}

/// Minutes since midnight of `09:30`.
fn minutes(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |part: &str| {
        (part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit())).then(|| part.parse::<u32>().ok()).flatten()
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    let sum = hours * 60 + minutes;
    (minutes < 60 && sum <= DAY).then_some(sum)
}

fn check_hours(checks: &mut Checks, given: &[BusinessHoursInput]) -> Vec<Interval> {
    if given.is_empty() || given.len() > MAX_INTERVALS * 7 {
        let message = format!("`hours` takes 1 to {} intervals.", MAX_INTERVALS * 7);
        checks.refuse("hours", UserErrorCode::Invalid, message);
        return Vec::new();
    }
    let mut intervals: Vec<Interval> = Vec::with_capacity(given.len());
    for (index, interval) in given.iter().enumerate() {
        let index = index.to_string();
        let mut refuse = |field: &str, message: &str| {
            checks.refuse_at(&["hours", &index, field], UserErrorCode::Invalid, message);
        };
        let (from, to) = (minutes(&interval.from), minutes(&interval.to));
        for (field, _) in [("from", from), ("to", to)].into_iter().filter(|(_, read)| read.is_none()) {
            refuse(field, &format!("`{field}` takes a time such as `09:30`, up to `24:00`."));
        }
        let Some((from, to)) = from.zip(to) else { continue };
        if from >= to {
            refuse("to", "An interval ends after it begins; what goes on after midnight is two intervals.");
            continue;
        }
        if intervals.iter().any(|other| other.day == interval.day && other.from < to && from < other.to) {
            refuse("from", "The intervals of a day must not overlap.");
        }
        intervals.push(Interval { day: interval.day, from, to });
    }
    let of_day = |day: Weekday| intervals.iter().filter(|interval| interval.day == day).count();
    if intervals.iter().any(|interval| of_day(interval.day) > MAX_INTERVALS) {
        let message = format!("A day takes at most {MAX_INTERVALS} intervals.");
        checks.refuse("hours", UserErrorCode::TooLong, message);
    }
    intervals
}

fn check_holidays(checks: &mut Checks, given: &[HolidayInput]) -> BTreeMap<NaiveDate, String> {
    if given.len() > MAX_HOLIDAYS {
        let message = format!("`holidays` takes at most {MAX_HOLIDAYS} days.");
        checks.refuse("holidays", UserErrorCode::TooLong, message);
        return BTreeMap::new();
    }
    let mut holidays = BTreeMap::new();
    for (index, holiday) in given.iter().enumerate() {
        let index = index.to_string();
        let mut refuse = |field: &str, message: &str| {
            checks.refuse_at(&["holidays", &index, field], UserErrorCode::Invalid, message);
        };
        let name = holiday.name.as_deref().unwrap_or_default().trim();
        if name.chars().count() > MAX_NAME || name.contains('\0') {
            refuse("name", "`name` takes at most 100 characters.");
        }
        // As ISO 8601 writes it: other forms that the parser takes would not come back as they were given.
        let date = holiday.date.parse::<NaiveDate>().ok().filter(|date| date.to_string() == holiday.date);
        let Some(date) = date else {
            refuse("date", "`date` takes a date such as `2027-12-25`.");
            continue;
        };
        if holidays.insert(date, name.to_owned()).is_some() {
            refuse("date", "Each day must be there once.");
        }
    }
    holidays
}

fn check_zone(checks: &mut Checks, name: &str) {
    if zone(name).is_none() {
        checks.refuse("timeZone", UserErrorCode::Invalid, time_zone::NO_SUCH);
    }
}

fn as_json(written: &Written) -> Result<serde_json::Value> {
    serde_json::to_value(written).map_err(Error::internal)
}

impl Mutation for BusinessCalendarCreateInput {
    type Row = marker::BusinessCalendar;
    const FIELD: &'static str = "businessCalendarCreate";
    const ACTION: Action = Action::TicketConfigure;
    const AUDIT: &'static str = "business_calendar.create";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = checks.required("name", &self.name, MAX_NAME);
        check_zone(&mut checks, &self.time_zone);
        let hours = check_hours(&mut checks, &self.hours);
        let holidays = check_holidays(&mut checks, &self.holidays.unwrap_or_default());
        checks.finish()?;
        let organization = work.tenant().organization_id;
        assignment::lock_desk(work.tx.conn(), organization).await?;
        let count = sqlx::query_scalar!(
            r#"select count(*) as "count!" from tenantry.business_calendars where organization_id = $1"#,
            organization as _
        )
        .fetch_one(work.tx.conn())
        .await?;
        if count >= MAX_CALENDARS {
            let message = format!("An organization has at most {MAX_CALENDARS} calendars: delete one first.");
            return Err(VerbError::of_input(UserErrorCode::TooLong, message));
        }
        let id = work.new_id();
        let written = Written { time_zone: self.time_zone, hours, holidays };
        let calendar = as_json(&written)?;
        sqlx::query!(
            "insert into tenantry.business_calendars (organization_id, id, name, calendar, created_at, updated_at) values ($1, $2, $3, $4, $5, $5)",
            organization as _,
            id as _,
            name,
            calendar,
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        Ok(Done { id, audit: json!({ "after": calendar }), event: None })
    }
}

/// Locks a calendar.
async fn lock(work: &mut Work<'_>, id: BusinessCalendarId) -> VerbResult<(Written, i32)> {
    let organization = work.tenant().organization_id;
    // The counter of tickets is the lock of their settings: no ticket is opened while hours change.
    assignment::lock_desk(work.tx.conn(), organization).await?;
    let row = sqlx::query!(
        "select calendar, version from tenantry.business_calendars where organization_id = $1 and id = $2 for update",
        organization as _,
        id as _
    )
    .fetch_optional(work.tx.conn())
    .await?;
    let Some(row) = row else {
        return Err(VerbError::user("id", UserErrorCode::NotFound, "There is no such calendar in this organization."));
    };
    Ok((serde_json::from_value(row.calendar).map_err(Error::internal)?, row.version))
}

impl Mutation for BusinessCalendarUpdateInput {
    type Row = marker::BusinessCalendar;
    const FIELD: &'static str = "businessCalendarUpdate";
    const ACTION: Action = Action::TicketConfigure;
    const AUDIT: &'static str = "business_calendar.update";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = self.name.as_deref().map(|name| checks.required("name", name, MAX_NAME));
        if let Some(time_zone) = &self.time_zone {
            check_zone(&mut checks, time_zone);
        }
        let hours = self.hours.as_deref().map(|hours| check_hours(&mut checks, hours));
        let holidays = self.holidays.as_deref().map(|holidays| check_holidays(&mut checks, holidays));
        checks.finish()?;
        let (before, version) = lock(work, self.id).await?;
        check_version(self.expected_version, version)?;
        let after = Written {
            time_zone: self.time_zone.unwrap_or_else(|| before.time_zone.clone()),
            hours: hours.unwrap_or_else(|| before.hours.clone()),
            holidays: holidays.unwrap_or_else(|| before.holidays.clone()),
        };
        let calendar = as_json(&after)?;
        sqlx::query!(
            "update tenantry.business_calendars set name = coalesce($3, name), calendar = $4, version = version + 1
              where organization_id = $1 and id = $2",
            work.tenant().organization_id as _,
            self.id as _,
            name,
            calendar
        )
        .execute(work.tx.conn())
        .await?;
        if before != after {
            policies::take_new_hours(work, self.id, &after).await?;
        }
        let audit = json!({
            "before": { "calendar": as_json(&before)?, "version": version },
            "after": { "calendar": calendar, "version": version + 1 },
        });
        Ok(Done { id: self.id, audit, event: None })
    }
}

impl Mutation for BusinessCalendarDeleteInput {
    type Row = marker::BusinessCalendar;
    const FIELD: &'static str = "businessCalendarDelete";
    const ACTION: Action = Action::TicketConfigure;
    const AUDIT: &'static str = "business_calendar.delete";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let (before, _) = lock(work, self.id).await?;
        let organization = work.tenant().organization_id;
        let users = sqlx::query_scalar!(
            "select name from tenantry.sla_policies where organization_id = $1 and calendar_id = $2 order by name limit 1",
            organization as _,
            self.id as _
        )
        .fetch_optional(work.tx.conn())
        .await?;
        if let Some(policy) = users {
            let message = format!("The policy \"{policy}\" uses this calendar: give it another one first.");
            return Err(VerbError::user("id", UserErrorCode::Conflict, message));
        }
        sqlx::query!(
            "delete from tenantry.business_calendars where organization_id = $1 and id = $2",
            organization as _,
            self.id as _
        )
        .execute(work.tx.conn())
        .await?;
        Ok(Done { id: self.id, audit: json!({ "before": as_json(&before)? }), event: None })
    }
}

/// The calendar of a policy, as it is now.
pub(super) async fn written(work: &mut Work<'_>, id: Option<BusinessCalendarId>) -> VerbResult<Option<Written>> {
    let Some(id) = id else { return Ok(None) };
    let calendar = sqlx::query_scalar!(
        "select calendar from tenantry.business_calendars where organization_id = $1 and id = $2 for share",
        work.tenant().organization_id as _,
        id as _
    )
    .fetch_optional(work.tx.conn())
    .await?;
    let Some(calendar) = calendar else {
        let message = "There is no such calendar in this organization.";
        return Err(VerbError::user("calendarId", UserErrorCode::NotFound, message));
    };
    Ok(Some(serde_json::from_value(calendar).map_err(Error::internal)?))
}
