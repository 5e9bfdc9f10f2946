//! What is done with budgets: the rules, on top of the statements that decide.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::access::Action;
use crate::budgets::books::Books;
use crate::budgets::graphql::{
    BudgetArchiveInput, BudgetCreateInput, BudgetReleaseInput, BudgetReserveInput, BudgetSettleInput, BudgetSpendInput,
    BudgetUpdateInput,
};
use crate::budgets::model::{BudgetReservationStatus, BudgetType, Changed, MAX_PERCENT, MAX_THRESHOLDS};
use crate::budgets::sql::{self, AlertRow, BudgetRow, BudgetUpdate, Closed, Ending, LockedBudget, Named, Take};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::graphql::money::{Money, MoneyInput};
use crate::graphql::mutation::{
    Checks, Done, Mutation, UserError, UserErrorCode, VerbError, VerbResult, Work, check_version,
};
use crate::graphql::time_zone;
use crate::id::{BudgetId, BudgetReservationId, BudgetUsageRecordId, marker};
use crate::trail::AuditEntry;

/// Most budgets that one amount is taken from.
const MAX_BUDGETS: usize = 10;
/// Most characters of a name or a source.
const MAX_TEXT: usize = 200;
/// How long a reservation lasts, in minutes, unless said; and the longest.
const MINUTES: i32 = 60;
const MAX_MINUTES: i32 = 24 * 60;
/// The same as a time: a check of the table allows no more.
pub const LONGEST: TimeDelta = TimeDelta::hours(24);
/// How far a budget's first period may reach into the future, and begin in the past.
const MAX_AHEAD: TimeDelta = TimeDelta::days(5 * 366);
const MAX_BACK: TimeDelta = TimeDelta::days(366);
/// How often a statement is tried again after something was made way for it: a period opened, reservations freed. Each makes one
/// step, so that more than this is a mistake.
const ATTEMPTS: usize = 8;
/// Expired reservations that a spender frees when the money is short. The job frees all.
const FREED_AT_ONCE: i64 = 500;
/// What the audit log calls what follows by itself.
pub(super) const PERIOD_OPENED: &str = "budget.period.open";
const ALERT: &str = "budget.alert";

/// An amount to take from budgets.
#[derive(Clone, Copy, Debug)]
pub struct Taking<'a> {
    /// Any period of each budget; the current one pays.
    pub budgets: &'a [BudgetId],
    /// In minor units, above zero.
    pub amount_minor: i64,
    pub currency: &'a str,
    /// What causes it: `refund`, `agent:support`.
    pub source: &'a str,
    /// The row that causes it.
    pub resource_id: Option<Uuid>,
}

/// What is known of the payment that a reservation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payment {
    /// There is none, or nothing is known of it.
    Unknown,
    /// It was sent and has failed.
    Failed,
}

/// The ids of the records of one taking: they follow each other, so that the first and their number name all, also when a
/// repeated request asks for them.
pub(super) fn record_ids(first: BudgetUsageRecordId, count: usize) -> Vec<BudgetUsageRecordId> {
    let id = |uuid: u128| BudgetUsageRecordId::from_uuid(Uuid::from_u128(uuid));
    (first.uuid().as_u128()..).take(count).map(id).collect()
}

/// Spends an amount of all these budgets or of none. The first of the records; see `record_ids`.
///
/// # Errors
/// What the caller can mend: unknown budgets, another currency, not enough left.
pub async fn spend(books: &mut Books<'_>, taking: &Taking<'_>) -> VerbResult<BudgetUsageRecordId> {
    take(books, taking, None, false).await
}

/// Sets an amount aside in all these budgets or in none, until it is settled, released or expired.
///
/// # Errors
/// As [`spend`].
pub async fn reserve(books: &mut Books<'_>, taking: &Taking<'_>, lasts: TimeDelta) -> VerbResult<BudgetReservationId> {
    let id = books.new_id();
    take(books, taking, Some((id, books.now + lasts)), false).await?;
    Ok(id)
}

/// Sets aside what is paid already, whatever the limit: its payment is in flight from the start. It is settled next.
///
/// # Errors
/// As [`spend`], but for the limit.
pub async fn reserve_paid(books: &mut Books<'_>, taking: &Taking<'_>) -> VerbResult<BudgetReservationId> {
    let id = books.new_id();
    take(books, taking, Some((id, books.now + LONGEST)), true).await?;
    Ok(id)
}

async fn take(
    books: &mut Books<'_>,
    taking: &Taking<'_>,
    reservation: Option<(BudgetReservationId, DateTime<Utc>)>,
    is_paid: bool,
) -> VerbResult<BudgetUsageRecordId> {
    let organization = books.organization;
    let first = books.new_id();
    let records = record_ids(first, taking.budgets.len());
    let take = Take {
        budgets: taking.budgets,
        records: &records,
        reservation,
        amount_minor: taking.amount_minor,
        currency: taking.currency,
        source: taking.source,
        resource_id: taking.resource_id,
        is_paid,
        now: books.now,
    };
    for _ in 0..ATTEMPTS {
        let named = sql::take(books.conn(), organization, &take).await?;
        let held = || named.iter().filter_map(|named| named.held.as_ref());
        let changes: Vec<&Changed> = held().filter_map(|held| held.change.as_ref()).collect();
        if changes.len() == take.budgets.len() {
            raise(books, &changes).await?;
            return Ok(first);
        }
        let refusals = refusals(&named, &take);
        let ended: Vec<BudgetId> =
            held().filter(|held| held.has_ended && held.closed != Some(Closed::Archived)).map(|b| b.id).collect();
        let is_late = named.iter().any(|named| named.exists && named.held.is_none());
        let is_short = refusals.iter().all(|refusal| refusal.code == UserErrorCode::BudgetExceeded);
        if !is_short || refusals.is_empty() && ended.is_empty() && !is_late {
            return Err(VerbError::User(refusals));
        }
        if !ended.is_empty() {
            open(books, &ended).await?;
        } else if !refusals.is_empty() {
            let held: Vec<BudgetId> = held().map(|held| held.id).collect();
            if !free(books, &held).await? {
                return Err(VerbError::User(refusals));
            }
        }
    }
    Err(Error::internal("a budget does not come to rest").into())
}

/// Why an amount cannot be taken, as far as it does not mend itself.
fn refusals(named: &[Named], take: &Take<'_>) -> Vec<UserError> {
    let mut errors = Vec::new();
    for (place, budget) in named.iter().enumerate() {
        let of_budget = |code, message: String| UserError::at(&["budgetIds", &place.to_string()], code, message);
        let Some(held) = &budget.held else {
            if !budget.exists {
                let message = "There is no such budget in this organization.".to_owned();
                errors.push(of_budget(UserErrorCode::NotFound, message));
            }
            continue;
        };
        let before = &named[..place];
        if before.iter().filter_map(|other| other.held.as_ref()).any(|other| other.series_id == held.series_id) {
            let message = "The same budget is named twice: two of the ids are periods of one.".to_owned();
            errors.push(of_budget(UserErrorCode::Invalid, message));
        } else if held.closed == Some(Closed::Archived) {
            errors.push(of_budget(UserErrorCode::InvalidTransition, "The budget is archived.".to_owned()));
        } else if held.closed == Some(Closed::OverPlan) {
            let message =
                "The plan has no room for this budget: archive an older one, or take a greater plan.".to_owned();
            errors.push(of_budget(UserErrorCode::PlanLimitReached, message));
        } else if let Some(begins_at) = held.begins_at {
            let message = format!("The budget begins at {}.", begins_at.to_rfc3339());
            errors.push(of_budget(UserErrorCode::InvalidTransition, message));
        } else if held.currency != take.currency {
            let message = format!("The budget is in {}, the amount in {}.", held.currency, take.currency);
            errors.push(UserError::new("amount", UserErrorCode::CurrencyMismatch, message));
        } else if !held.has_ended && !held.fits {
            errors.push(exceeded(held.id, held.available_minor, &held.currency));
        }
    }
    errors
}

fn exceeded(id: BudgetId, available_minor: i64, currency: &str) -> UserError {
    let available = Money::from_minor(available_minor, currency).amount;
    let message = format!("The budget {id} has {available} {currency} left.");
    UserError::new("amount", UserErrorCode::BudgetExceeded, message)
}

/// Opens the next periods of locked ones that have ended.
async fn open(books: &mut Books<'_>, ended: &[BudgetId]) -> Result<()> {
    let (organization, now) = (books.organization, books.now);
    let ended: Vec<(BudgetId, BudgetId)> = ended.iter().map(|id| (*id, books.new_id())).collect();
    for opened in sql::open_periods(books.conn(), organization, &ended, now).await? {
        books.record(&opening(&opened)).await?;
    }
    Ok(())
}

/// The audit row of a period that was opened.
pub(super) fn opening(opened: &sql::Opened) -> AuditEntry {
    let metadata = json!({ "seriesId": opened.series_id.to_string(), "rolledOverMinor": opened.rolled_over_minor,
                           "startsAt": opened.starts_at, "endsAt": opened.ends_at });
    AuditEntry::of(PERIOD_OPENED, opened.id, metadata)
}

/// Frees expired reservations of locked budgets; says whether there were any.
async fn free(books: &mut Books<'_>, budgets: &[BudgetId]) -> Result<bool> {
    let (organization, now) = (books.organization, books.now);
    let expired = sql::lock_expired(books.conn(), organization, Some(budgets), FREED_AT_ONCE, now).await?;
    if expired.is_empty() {
        return Ok(false);
    }
    let records: Vec<BudgetUsageRecordId> = expired.iter().map(|_| books.new_id()).collect();
    sql::expire(books.conn(), organization, &expired, &records, now).await?;
    Ok(true)
}

/// Writes and tells the alerts of these changes. Their budgets are locked, so that each crossing is seen by one transaction.
async fn raise(books: &mut Books<'_>, changes: &[&Changed]) -> Result<()> {
    let mut told = Vec::new();
    for changed in changes {
        for percent in changed.crossed() {
            let row = AlertRow {
                id: books.new_id(),
                budget_id: changed.id,
                series_id: changed.series_id,
                percent,
                change: changed.change,
                taken_minor: changed.taken_after,
                limit_minor: changed.ceiling_after,
                currency: changed.currency.clone(),
            };
            sql::insert_alert(books, &row).await?;
            let metadata = json!({ "alertId": row.id.to_string(), "percent": percent, "takenMinor": row.taken_minor,
                                   "limitMinor": row.limit_minor, "currency": row.currency });
            books.record(&AuditEntry::of(ALERT, changed.id, metadata)).await?;
            told.push(Event::of(row.id));
        }
    }
    books.tell(told).await
}

/// Notes that the payment of a reservation is on its way: its result counts in full from here on, even after the expiry. Says
/// whether the reservation is open; without that, nothing may be paid.
///
/// # Errors
/// When the database cannot be reached.
pub async fn mark_in_flight(books: &mut Books<'_>, id: BudgetReservationId) -> Result<bool> {
    sql::mark_in_flight(books, id).await
}

/// Turns a reservation into spending: of what was reserved, of less (the rest is free again), or of more, if a hard limit has room
/// for the difference. What is paid already, by a payment in flight, is spent in full whatever the limit, expired or not.
///
/// # Errors
/// What the caller can mend: no such reservation, ended or expired, not enough left.
pub async fn settle(books: &mut Books<'_>, id: BudgetReservationId, amount: Option<(i64, &str)>) -> VerbResult<i64> {
    let reservation = sql::lock_reservation(books, id).await?.ok_or_else(no_such_reservation)?;
    if let Some((_, currency)) = amount
        && currency != reservation.currency
    {
        let message = format!("The reservation is in {}, the amount in {currency}.", reservation.currency);
        return Err(VerbError::user("amount", UserErrorCode::CurrencyMismatch, message));
    }
    let is_freed = match reservation.status {
        BudgetReservationStatus::Expired if reservation.is_in_flight => true,
        BudgetReservationStatus::Open if reservation.is_in_flight => false,
        _ => check_open(&reservation, books.now).map(|()| false)?,
    };
    let settled = amount.map_or(reservation.amount_minor, |(minor, _)| minor);
    end(books, id, &reservation, Some(settled), is_freed).await?;
    Ok(settled)
}

/// Gives back what a reservation holds. One whose payment is in flight is released when the payment has failed, and not before.
///
/// # Errors
/// What the caller can mend: no such reservation, ended or expired, in flight.
pub async fn release(books: &mut Books<'_>, id: BudgetReservationId, payment: Payment) -> VerbResult<i64> {
    let reservation = sql::lock_reservation(books, id).await?.ok_or_else(no_such_reservation)?;
    check_open(&reservation, books.now)?;
    if reservation.is_in_flight && payment != Payment::Failed {
        let message = "The payment is on its way: its result settles or releases the reservation.";
        return Err(VerbError::user("reservationId", UserErrorCode::InvalidTransition, message));
    }
    end(books, id, &reservation, None, false).await?;
    Ok(reservation.amount_minor)
}

async fn end(
    books: &mut Books<'_>,
    id: BudgetReservationId,
    reservation: &sql::LockedReservation,
    settled_minor: Option<i64>,
    is_freed: bool,
) -> VerbResult<()> {
    let records = record_ids(books.new_id(), reservation.budgets.len());
    let ending = Ending {
        id,
        budgets: &reservation.budgets,
        records: &records,
        freed_minor: if is_freed { 0 } else { reservation.amount_minor },
        settled_minor,
        amount_minor: reservation.amount_minor,
        is_paid: reservation.is_in_flight,
        source: &reservation.source,
        now: books.now,
    };
    let organization = books.organization;
    let held = sql::end(books.conn(), organization, &ending).await?;
    let changes: Vec<&Changed> = held.iter().filter_map(|held| held.change.as_ref()).collect();
    if changes.len() < held.len() {
        let full = held.iter().filter(|held| !held.fits);
        // What the reservation itself holds is theirs to spend.
        let left = |held: &sql::Held| held.available_minor.saturating_add(ending.freed_minor);
        return Err(VerbError::User(full.map(|held| exceeded(held.id, left(held), &held.currency)).collect()));
    }
    raise(books, &changes).await?;
    Ok(())
}

/// Takes back what a reservation was settled for: its payment came back after all. It counts in the period that it was spent in.
/// Says how much that was.
///
/// # Errors
/// What the caller can mend: no such reservation, or one that is not settled.
pub async fn give_back(books: &mut Books<'_>, id: BudgetReservationId) -> VerbResult<i64> {
    let reservation = sql::lock_reservation(books, id).await?.ok_or_else(no_such_reservation)?;
    let Some(settled_minor) =
        reservation.settled_minor.filter(|_| reservation.status == BudgetReservationStatus::Settled)
    else {
        let message = "Only what was settled can come back.";
        return Err(VerbError::user("reservationId", UserErrorCode::InvalidTransition, message));
    };
    let records = record_ids(books.new_id(), reservation.budgets.len());
    sql::give_back(books, id, &reservation, settled_minor, &records).await?;
    Ok(settled_minor)
}

/// Where a reservation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It holds its amount.
    Open,
    /// Its time is over and its amount free again, while its payment is in flight: that settles it.
    ExpiredInFlight,
    /// Its amount was spent.
    Settled,
    /// It holds nothing, and nothing can come of it: it was released, has expired, or its amount came back.
    Over,
}

/// Locks a reservation and says where it stands.
///
/// # Errors
/// When the database cannot be reached.
pub async fn standing(books: &mut Books<'_>, id: BudgetReservationId) -> Result<Standing> {
    let Some(row) = sql::lock_reservation(books, id).await? else { return Ok(Standing::Over) };
    Ok(match row.status {
        BudgetReservationStatus::Open if row.expires_at > books.now => Standing::Open,
        BudgetReservationStatus::Open | BudgetReservationStatus::Expired if row.is_in_flight => {
            Standing::ExpiredInFlight
        }
        BudgetReservationStatus::Settled => Standing::Settled,
        BudgetReservationStatus::Open
        | BudgetReservationStatus::Expired
        | BudgetReservationStatus::Released
        | BudgetReservationStatus::Returned => Standing::Over,
    })
}

/// The budget that pays for a purpose where none is named: the oldest in use, by its first period.
///
/// # Errors
/// When the database cannot be reached.
pub async fn default_budget(books: &mut Books<'_>, kind: BudgetType, currency: &str) -> Result<Option<BudgetId>> {
    sql::default_budget(books, kind, currency).await
}

/// The first period of the budget that this id names, its purpose and its currency.
///
/// # Errors
/// When the database cannot be reached.
pub async fn purpose(books: &mut Books<'_>, id: BudgetId) -> Result<Option<(BudgetId, BudgetType, String)>> {
    sql::purpose(books, id).await
}

fn no_such_reservation() -> VerbError {
    VerbError::user("reservationId", UserErrorCode::NotFound, "There is no such reservation in this organization.")
}

/// Refuses what has ended. That it has expired is its time's to say, whether the job was there or not.
fn check_open(reservation: &sql::LockedReservation, now: DateTime<Utc>) -> VerbResult<()> {
    let refuse = |code, message: &str| Err(VerbError::user("reservationId", code, message));
    match reservation.status {
        BudgetReservationStatus::Open if reservation.expires_at > now || reservation.is_in_flight => Ok(()),
        BudgetReservationStatus::Open | BudgetReservationStatus::Expired => {
            refuse(UserErrorCode::Expired, "The reservation has expired, and its amount is free again: make a new one.")
        }
        BudgetReservationStatus::Settled | BudgetReservationStatus::Returned => {
            refuse(UserErrorCode::InvalidTransition, "The reservation was settled already.")
        }
        BudgetReservationStatus::Released => {
            refuse(UserErrorCode::InvalidTransition, "The reservation was released already.")
        }
    }
}

/// The current period of a budget, locked; opened if its time has come.
async fn current(work: &mut Work<'_>, id: BudgetId) -> VerbResult<LockedBudget> {
    for _ in 0..ATTEMPTS {
        match sql::lock_current(work.tx, id).await? {
            Some(budget) if budget.archived_at.is_some() => {
                return Err(VerbError::user("id", UserErrorCode::InvalidTransition, "The budget is archived."));
            }
            Some(budget) if budget.ends_at <= work.now => open(&mut Books::of(work), &[budget.id]).await?,
            Some(budget) => return Ok(budget),
            None if sql::exists(work.tx, id).await? => {}
            None => {
                let message = "There is no such budget in this organization.";
                return Err(VerbError::user("id", UserErrorCode::NotFound, message));
            }
        }
    }
    Err(Error::internal("a budget does not come to rest").into())
}

/// Refuses where the plan has no room for one more budget, or for this one.
async fn check_plan(work: &mut Work<'_>, field: &str, series: Option<BudgetId>) -> VerbResult<()> {
    let Some(full) = sql::full(work.tx, series).await? else { return Ok(()) };
    let more = match full.unlocked_by {
        Some(plan) => format!("archive an older one, or take {}", plan.label()),
        None => "archive an older one".to_owned(),
    };
    let message = format!("The plan {} has room for {} budgets: {more}.", full.plan.label(), full.most);
    Err(VerbError::user(field, UserErrorCode::PlanLimitReached, message))
}

fn check_thresholds(checks: &mut Checks, mut thresholds: Vec<i32>) -> Vec<i32> {
    if thresholds.len() > MAX_THRESHOLDS {
        let message = format!("A budget takes at most {MAX_THRESHOLDS} thresholds; these are {}.", thresholds.len());
        checks.refuse("alertThresholds", UserErrorCode::TooLong, message);
        return Vec::new();
    }
    if let Some(wrong) = thresholds.iter().find(|percent| !(1..=MAX_PERCENT).contains(*percent)) {
        let message = format!("A threshold is a percentage from 1 to {MAX_PERCENT}, not {wrong}.");
        checks.refuse("alertThresholds", UserErrorCode::Invalid, message);
    }
    thresholds.sort_unstable();
    thresholds.dedup();
    thresholds
}

async fn check_time_zone(work: &mut Work<'_>, time_zone: &str) -> VerbResult<()> {
    if time_zone::is_known(work.tx, time_zone).await? {
        return Ok(());
    }
    Err(VerbError::user("timeZone", UserErrorCode::Invalid, time_zone::NO_SUCH))
}

impl Mutation for BudgetCreateInput {
    type Row = marker::Budget;
    const FIELD: &'static str = "budgetCreate";
    const ACTION: Action = Action::BudgetWrite;
    const AUDIT: &'static str = "budget.create";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = checks.required("name", &self.name, MAX_TEXT);
        let limit_minor = self.limit.check(&mut checks, "limit", 0);
        let alert_thresholds =
            check_thresholds(&mut checks, self.alert_thresholds.unwrap_or_else(|| vec![50, 80, 100]));
        let time_zone = checks.required("timeZone", self.time_zone.as_deref().unwrap_or("UTC"), 64);
        let from = self.starts_at.unwrap_or(work.now);
        if !(work.now - MAX_BACK..=work.now + MAX_AHEAD).contains(&from) {
            let message = "`startsAt` takes a time from one year ago to five years ahead.";
            checks.refuse("startsAt", UserErrorCode::Invalid, message);
        }
        if self.ends_at.is_some_and(|ends_at| ends_at > work.now + MAX_AHEAD + MAX_AHEAD) {
            checks.refuse("endsAt", UserErrorCode::Invalid, "`endsAt` takes a time of at most ten years ahead.");
        }
        checks.finish()?;
        check_plan(work, "type", None).await?;
        check_time_zone(work, &time_zone).await?;
        let (calendar_start, calendar_end) = sql::period_at(work.tx, self.period, &time_zone, from).await?;
        let starts_at = self.starts_at.unwrap_or(calendar_start);
        let ends_at = self.ends_at.unwrap_or(calendar_end);
        if ends_at <= starts_at {
            let message = "The period ends before it begins: `endsAt` must be after `startsAt`.";
            return Err(VerbError::user("endsAt", UserErrorCode::Invalid, message));
        }
        if ends_at <= work.now {
            let field = if self.ends_at.is_some() { "endsAt" } else { "startsAt" };
            return Err(VerbError::user(field, UserErrorCode::Invalid, "The period is over already."));
        }
        let row = BudgetRow {
            id: work.new_id(),
            kind: self.kind,
            name,
            period: self.period,
            time_zone,
            starts_at,
            ends_at,
            limit_minor,
            currency: self.limit.currency_code.as_str().to_owned(),
            is_hard_limit: self.is_hard_limit.unwrap_or(true),
            alert_thresholds,
            rollover: self.rollover.unwrap_or(false),
        };
        sql::insert(work.tx, &row, work.now).await?;
        Ok(Done {
            id: row.id,
            audit: json!({ "type": row.kind, "period": row.period, "limitMinor": limit_minor, "currency": row.currency }),
            event: None,
        })
    }
}

impl Mutation for BudgetUpdateInput {
    type Row = marker::Budget;
    const FIELD: &'static str = "budgetUpdate";
    const ACTION: Action = Action::BudgetWrite;
    const AUDIT: &'static str = "budget.update";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = self.name.as_deref().map(|name| checks.required("name", name, MAX_TEXT));
        let limit_minor = self.limit.as_ref().map(|limit| limit.check(&mut checks, "limit", 0));
        let alert_thresholds = self.alert_thresholds.map(|thresholds| check_thresholds(&mut checks, thresholds));
        let time_zone = self.time_zone.as_deref().map(|time_zone| checks.required("timeZone", time_zone, 64));
        checks.finish()?;
        if let Some(time_zone) = &time_zone {
            check_time_zone(work, time_zone).await?;
        }
        let before = current(work, self.id).await?;
        check_version(self.expected_version, before.version)?;
        check_plan(work, "id", Some(before.series_id)).await?;
        if let Some(limit) = &self.limit
            && limit.currency_code.as_str() != before.currency
        {
            let message = format!("The budget is in {}, and stays in it.", before.currency);
            return Err(VerbError::user("limit", UserErrorCode::CurrencyMismatch, message));
        }
        let limit_after = limit_minor.unwrap_or(before.limit_minor);
        let is_hard_after = self.is_hard_limit.unwrap_or(before.is_hard_limit);
        let is_stricter = limit_after < before.limit_minor || !before.is_hard_limit;
        if is_hard_after && is_stricter && limit_after + before.rolled_over_minor < before.taken_minor {
            let field = if limit_minor.is_some() { "limit" } else { "isHardLimit" };
            let taken = Money::from_minor(before.taken_minor, &before.currency).amount;
            let message = format!("{taken} {} are spent or reserved: a hard limit cannot be below.", before.currency);
            return Err(VerbError::user(field, UserErrorCode::Invalid, message));
        }
        let change = BudgetUpdate {
            name,
            limit_minor,
            is_hard_limit: self.is_hard_limit,
            alert_thresholds,
            rollover: self.rollover,
            time_zone,
            archived_at: None,
        };
        let (change, thresholds) = sql::update(work.tx, before.id, &change).await?;
        let changed = Changed {
            id: before.id,
            series_id: before.series_id,
            change,
            currency: before.currency,
            thresholds,
            taken_before: before.taken_minor,
            taken_after: before.taken_minor,
            ceiling_before: before.limit_minor + before.rolled_over_minor,
            ceiling_after: limit_after + before.rolled_over_minor,
        };
        raise(&mut Books::of(work), &[&changed]).await?;
        Ok(Done {
            id: before.id,
            audit: json!({
                "before": { "limitMinor": before.limit_minor, "isHardLimit": before.is_hard_limit, "version": before.version },
                "after": { "limitMinor": limit_after, "isHardLimit": is_hard_after, "version": before.version + 1 },
            }),
            event: None,
        })
    }
}

impl Mutation for BudgetArchiveInput {
    type Row = marker::Budget;
    const FIELD: &'static str = "budgetArchive";
    const ACTION: Action = Action::BudgetWrite;
    const AUDIT: &'static str = "budget.archive";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let before = current(work, self.id).await?;
        check_version(self.expected_version, before.version)?;
        let change = BudgetUpdate { archived_at: Some(work.now), ..BudgetUpdate::default() };
        sql::update(work.tx, before.id, &change).await?;
        Ok(Done { id: before.id, audit: json!({ "after": { "archivedAt": work.now } }), event: None })
    }
}

/// What is checked of an amount to take: the budgets, the amount in minor units, the source.
fn check_taking(checks: &mut Checks, budgets: &[BudgetId], amount: &MoneyInput, source: &str) -> (i64, String) {
    if budgets.is_empty() || budgets.len() > MAX_BUDGETS {
        let message = format!("`budgetIds` takes 1 to {MAX_BUDGETS} budgets; these are {}.", budgets.len());
        checks.refuse(
            "budgetIds",
            if budgets.is_empty() { UserErrorCode::Blank } else { UserErrorCode::TooLong },
            message,
        );
    }
    (amount.check(checks, "amount", 1), checks.required("source", source, MAX_TEXT))
}

fn named(budgets: &[BudgetId]) -> Vec<String> {
    budgets.iter().map(ToString::to_string).collect()
}

impl Mutation for BudgetSpendInput {
    type Row = marker::BudgetUsageRecord;
    const FIELD: &'static str = "budgetSpend";
    const ACTION: Action = Action::BudgetSpend;
    const AUDIT: &'static str = "budget.spend";

    fn idempotency_key(&self) -> Option<&str> {
        Some(&self.idempotency_key)
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let (amount_minor, source) = check_taking(&mut checks, &self.budget_ids, &self.amount, &self.source);
        checks.finish()?;
        let currency = self.amount.currency_code.as_str();
        let taking = Taking { budgets: &self.budget_ids, amount_minor, currency, source: &source, resource_id: None };
        let id = spend(&mut Books::of(work), &taking).await?;
        let audit = json!({ "budgetIds": named(&self.budget_ids), "amountMinor": amount_minor, "currency": currency });
        Ok(Done { id, audit, event: None })
    }
}

impl Mutation for BudgetReserveInput {
    type Row = marker::BudgetReservation;
    const FIELD: &'static str = "budgetReserve";
    const ACTION: Action = Action::BudgetSpend;
    const AUDIT: &'static str = "budget.reserve";

    fn idempotency_key(&self) -> Option<&str> {
        Some(&self.idempotency_key)
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let (amount_minor, source) = check_taking(&mut checks, &self.budget_ids, &self.amount, &self.source);
        let minutes = self.expires_in_minutes.unwrap_or(MINUTES);
        checks.within("expiresInMinutes", Some(minutes), 1..=MAX_MINUTES);
        checks.finish()?;
        let currency = self.amount.currency_code.as_str();
        let taking = Taking { budgets: &self.budget_ids, amount_minor, currency, source: &source, resource_id: None };
        let id = reserve(&mut Books::of(work), &taking, TimeDelta::minutes(minutes.into())).await?;
        let audit = json!({ "budgetIds": named(&self.budget_ids), "amountMinor": amount_minor, "currency": currency,
                            "minutes": minutes });
        Ok(Done { id, audit, event: None })
    }
}

impl Mutation for BudgetSettleInput {
    type Row = marker::BudgetReservation;
    const FIELD: &'static str = "budgetSettle";
    const ACTION: Action = Action::BudgetSpend;
    const AUDIT: &'static str = "budget.settle";

    fn idempotency_key(&self) -> Option<&str> {
        Some(&self.idempotency_key)
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let amount =
            self.amount.as_ref().map(|amount| (amount.check(&mut checks, "amount", 1), amount.currency_code.as_str()));
        checks.finish()?;
        let settled = settle(&mut Books::of(work), self.reservation_id, amount).await?;
        Ok(Done { id: self.reservation_id, audit: json!({ "settledMinor": settled }), event: None })
    }
}

impl Mutation for BudgetReleaseInput {
    type Row = marker::BudgetReservation;
    const FIELD: &'static str = "budgetRelease";
    const ACTION: Action = Action::BudgetSpend;
    const AUDIT: &'static str = "budget.release";

    fn idempotency_key(&self) -> Option<&str> {
        Some(&self.idempotency_key)
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let released = release(&mut Books::of(work), self.reservation_id, Payment::Unknown).await?;
        Ok(Done { id: self.reservation_id, audit: json!({ "releasedMinor": released }), event: None })
    }
}
