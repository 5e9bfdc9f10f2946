//! The queries of the slice that change something; reading goes through the loaders.
//!
//! Locks are taken in one order everywhere, so that nobody waits in a circle: a reservation first, then the budgets by their id. Who
//! has budgets already and comes upon reservations, and a job that takes many rows, skips what others hold.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::budgets::books::Books;
use crate::budgets::model::Changed;
use crate::budgets::{BudgetPeriod, BudgetReservationStatus, BudgetType, BudgetUsageKind};
use crate::db::{Conn, SystemTx, TenantTx};
use crate::error::Result;
use crate::id::{BudgetAlertId, BudgetId, BudgetReservationId, BudgetUsageRecordId, OrganizationId};
use crate::plans::OrganizationPlan;

/// Most that spent and reserved of a soft limit may come to, in minor units: below what a sum overflows at.
const MOST_TAKEN: i64 = 1_000_000_000_000_000_000;

/// What to take from budgets.
pub(super) struct Take<'a> {
    pub budgets: &'a [BudgetId],
    /// An id for the record of each budget.
    pub records: &'a [BudgetUsageRecordId],
    /// The reservation to make, and when it expires; `None` spends.
    pub reservation: Option<(BudgetReservationId, DateTime<Utc>)>,
    pub amount_minor: i64,
    pub currency: &'a str,
    pub source: &'a str,
    pub resource_id: Option<Uuid>,
    /// Whether the money is paid already, so that no limit counts.
    pub is_paid: bool,
    pub now: DateTime<Utc>,
}

/// Why nothing may be taken from a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// It is archived.
    Archived,
    /// The plan has no room for it.
    OverPlan,
}

/// What a statement found behind a budget, under its lock.
pub(super) struct Held {
    /// Taken, if all budgets had room.
    pub change: Option<Changed>,
    pub id: BudgetId,
    pub series_id: BudgetId,
    pub currency: String,
    /// What is left, in minor units.
    pub available_minor: i64,
    pub fits: bool,
    /// Whether the period has to be followed by another one.
    pub has_ended: bool,
    /// Why nothing may be taken from it at all.
    pub closed: Option<Closed>,
    /// When the first period begins, if that is to come.
    pub begins_at: Option<DateTime<Utc>>,
}

/// A budget that an input named.
pub(super) struct Named {
    pub exists: bool,
    /// The current period; `None` also when another transaction has just opened the next one.
    pub held: Option<Held>,
}

/// Takes an amount from all of these budgets or from none: this statement decides, whoever else spends at the same time. One
/// answer for each id, in their order.
pub(super) async fn take(conn: &mut Conn, organization: OrganizationId, take: &Take<'_>) -> Result<Vec<Named>> {
    let (reservation, expires_at) = take.reservation.unzip();
    let (kind, spent, reserved) = match reservation {
        None => (BudgetUsageKind::Spend, take.amount_minor, 0),
        Some(_) => (BudgetUsageKind::Reserve, 0, take.amount_minor),
    };
    let rows = sqlx::query!(
        // What `held` gives is of the rows as they are when their locks are had.
        r#"with named as (
               select n.place, b.series_id from unnest($2::uuid[]) with ordinality as n (id, place)
                 left join tenantry.budgets b on b.organization_id = $1 and b.id = n.id
           ), held as (
               select b.id, b.series_id, b.currency, b.alert_thresholds, b.limit_minor + b.rolled_over_minor as ceiling,
                      b.spent_minor + b.reserved_minor as taken, b.ends_at <= $7 as has_ended, b.archived_at is not null as is_archived,
                      case when b.id = b.series_id and b.starts_at > $7 then b.starts_at end as begins_at,
                      p.is_over_plan,
                      b.currency = $4 and b.archived_at is null and not p.is_over_plan and b.ends_at > $7 and (b.id <> b.series_id or b.starts_at <= $7)
                          and b.spent_minor + b.reserved_minor + $3::bigint
                              <= case when b.is_hard_limit and not $15 then b.limit_minor + b.rolled_over_minor else $14 end as fits
                 from tenantry.budgets b cross join lateral (select not $15 and tenantry.is_over_plan($1, b.series_id) as is_over_plan) p
                where b.organization_id = $1 and b.closed_at is null and b.series_id in (select n.series_id from named n)
                order by b.id for no key update of b
           ), taken as (
               update tenantry.budgets b
                  set spent_minor = b.spent_minor + $8, reserved_minor = b.reserved_minor + $9, changes = b.changes + 1,
                      overrun_minor = case when b.is_hard_limit and $15 then greatest(b.overrun_minor, b.spent_minor + b.reserved_minor + $3
                                                                                      - b.limit_minor - b.rolled_over_minor) else b.overrun_minor end
                 from held h
                where b.organization_id = $1 and b.id = h.id
                  and (select count(*) from held where fits) = (select count(*) from named)
               returning b.id, b.changes
           ), reserved as (
               insert into tenantry.budget_reservations (organization_id, id, amount_minor, currency, source, expires_at, in_flight_at, created_at, updated_at)
               select $1, $10, $3, $4, $5, $11, case when $15 then $7 end, $7, $7 where $10::uuid is not null and exists (select from taken)
           ), recorded as (
               insert into tenantry.budget_usage_records (organization_id, id, budget_id, reservation_id, amount_minor, currency, kind, source, resource_id, created_at)
               select $1, ($12::uuid[])[row_number() over (order by t.id)], t.id, $10, $3, $4, $13, $5, $6, $7 from taken t
           )
           select n.series_id is not null as "exists!", h.id as "id?: BudgetId", h.series_id as "series_id?: BudgetId", h.currency as "currency?",
                  h.alert_thresholds as "alert_thresholds?", h.ceiling as "ceiling?", h.taken as "taken?", h.has_ended as "has_ended?",
                  h.is_archived as "is_archived?", h.is_over_plan as "is_over_plan?", h.begins_at as "begins_at?", h.fits as "fits?", t.changes as "changes?"
             from named n left join held h on h.series_id = n.series_id left join taken t on t.id = h.id order by n.place"#,
        organization as _,
        take.budgets as _,
        take.amount_minor,
        take.currency,
        take.source,
        take.resource_id,
        take.now,
        spent,
        reserved,
        reservation as _,
        expires_at,
        take.records as _,
        kind as _,
        MOST_TAKEN,
        take.is_paid
    )
    .fetch_all(conn)
    .await?;
    let named = rows.into_iter().map(|row| {
        let held = match (row.id, row.series_id, row.currency, row.ceiling, row.taken) {
            (Some(id), Some(series_id), Some(currency), Some(ceiling), Some(taken)) => Some(Held {
                change: row.changes.map(|change| Changed {
                    id,
                    series_id,
                    change,
                    currency: currency.clone(),
                    thresholds: row.alert_thresholds.unwrap_or_default(),
                    taken_before: taken,
                    taken_after: taken + take.amount_minor,
                    ceiling_before: ceiling,
                    ceiling_after: ceiling,
                }),
                id,
                series_id,
                currency,
                available_minor: ceiling - taken,
                fits: row.fits.unwrap_or_default(),
                has_ended: row.has_ended.unwrap_or_default(),
                closed: match (row.is_archived, row.is_over_plan) {
                    (Some(true), _) => Some(Closed::Archived),
                    (_, Some(true)) => Some(Closed::OverPlan),
                    _ => None,
                },
                begins_at: row.begins_at,
            }),
            _ => None,
        };
        Named { exists: row.exists, held }
    });
    Ok(named.collect())
}

/// A reservation, locked.
pub(super) struct LockedReservation {
    pub status: BudgetReservationStatus,
    pub amount_minor: i64,
    pub settled_minor: Option<i64>,
    pub currency: String,
    pub source: String,
    pub expires_at: DateTime<Utc>,
    pub is_in_flight: bool,
    pub budgets: Vec<BudgetId>,
}

/// Reads a reservation and keeps others from changing it until the transaction ends.
pub(super) async fn lock_reservation(
    books: &mut Books<'_>,
    id: BudgetReservationId,
) -> Result<Option<LockedReservation>> {
    let organization = books.organization;
    let row = sqlx::query!(
        r#"select r.status as "status: BudgetReservationStatus", r.amount_minor, r.settled_minor, r.currency, r.source, r.expires_at,
                  r.in_flight_at is not null as "is_in_flight!",
                  array(select u.budget_id from tenantry.budget_usage_records u
                         where u.organization_id = r.organization_id and u.reservation_id = r.id and u.kind = 'RESERVE' order by 1) as "budgets!: Vec<BudgetId>"
             from tenantry.budget_reservations r where r.organization_id = $1 and r.id = $2 for no key update of r"#,
        organization as _,
        id as _
    )
    .fetch_optional(books.conn())
    .await?;
    Ok(row.map(|row| LockedReservation {
        status: row.status,
        amount_minor: row.amount_minor,
        settled_minor: row.settled_minor,
        currency: row.currency,
        source: row.source,
        expires_at: row.expires_at,
        is_in_flight: row.is_in_flight,
        budgets: row.budgets,
    }))
}

/// The end of a locked reservation.
pub(super) struct Ending<'a> {
    pub id: BudgetReservationId,
    pub budgets: &'a [BudgetId],
    /// An id for the record of each budget.
    pub records: &'a [BudgetUsageRecordId],
    /// What is still set aside, in minor units: nothing once it has expired.
    pub freed_minor: i64,
    /// What is spent, in minor units; `None` releases.
    pub settled_minor: Option<i64>,
    pub amount_minor: i64,
    /// Whether the money is paid already, so that no limit counts.
    pub is_paid: bool,
    pub source: &'a str,
    pub now: DateTime<Utc>,
}

/// Ends a reservation in all of its budgets, or in none if one of them has no room for what is more than was set aside: then no
/// [`Held`] has a change.
pub(super) async fn end(conn: &mut Conn, organization: OrganizationId, ending: &Ending<'_>) -> Result<Vec<Held>> {
    let settled = ending.settled_minor.unwrap_or_default();
    let (kind, status, recorded) = match ending.settled_minor {
        Some(minor) => (BudgetUsageKind::Settle, BudgetReservationStatus::Settled, minor),
        None => (BudgetUsageKind::Release, BudgetReservationStatus::Released, ending.amount_minor),
    };
    let rows = sqlx::query!(
        r#"with held as (
               select b.id, b.series_id, b.currency, b.alert_thresholds, b.limit_minor + b.rolled_over_minor as ceiling,
                      b.spent_minor + b.reserved_minor as taken,
                      $6 or $5::bigint <= $4::bigint or b.spent_minor + b.reserved_minor - $4 + $5
                          <= case when b.is_hard_limit then b.limit_minor + b.rolled_over_minor else $14 end as fits
                 from tenantry.budgets b
                where b.organization_id = $1 and b.id = any($3) order by b.id for no key update of b
           ), changed as (
               update tenantry.budgets b
                  set spent_minor = b.spent_minor + $5, reserved_minor = b.reserved_minor - $4, changes = b.changes + 1,
                      overrun_minor = case when b.is_hard_limit then greatest(b.overrun_minor, b.spent_minor + b.reserved_minor - $4 + $5
                                                                              - b.limit_minor - b.rolled_over_minor) else b.overrun_minor end
                 from held h
                where b.organization_id = $1 and b.id = h.id and (select bool_and(fits) from held)
               returning b.id, b.changes
           ), ended as (
               update tenantry.budget_reservations r set status = $7, settled_minor = $8, ended_at = $9
                where r.organization_id = $1 and r.id = $2 and exists (select from changed)
           ), recorded as (
               insert into tenantry.budget_usage_records (organization_id, id, budget_id, reservation_id, amount_minor, currency, kind, source, created_at)
               select $1, ($10::uuid[])[row_number() over (order by c.id)], c.id, $2, $11, h.currency, $12, $13, $9 from changed c join held h using (id)
           )
           select h.id as "id!: BudgetId", h.series_id as "series_id!: BudgetId", h.currency as "currency!", h.alert_thresholds as "alert_thresholds!",
                  h.ceiling as "ceiling!", h.taken as "taken!", h.fits as "fits!", c.changes as "changes?"
             from held h left join changed c using (id) order by h.id"#,
        organization as _,
        ending.id as _,
        ending.budgets as _,
        ending.freed_minor,
        settled,
        ending.is_paid,
        status as _,
        ending.settled_minor,
        ending.now,
        ending.records as _,
        recorded,
        kind as _,
        ending.source,
        MOST_TAKEN
    )
    .fetch_all(conn)
    .await?;
    let held = rows.into_iter().map(|row| Held {
        change: row.changes.map(|change| Changed {
            id: row.id,
            series_id: row.series_id,
            change,
            currency: row.currency.clone(),
            thresholds: row.alert_thresholds,
            taken_before: row.taken,
            taken_after: row.taken - ending.freed_minor + settled,
            ceiling_before: row.ceiling,
            ceiling_after: row.ceiling,
        }),
        id: row.id,
        series_id: row.series_id,
        currency: row.currency,
        available_minor: row.ceiling - row.taken,
        fits: row.fits,
        has_ended: false,
        closed: None,
        begins_at: None,
    });
    Ok(held.collect())
}

/// Takes back what a locked reservation was settled for.
pub(super) async fn give_back(
    books: &mut Books<'_>,
    id: BudgetReservationId,
    reservation: &LockedReservation,
    settled_minor: i64,
    records: &[BudgetUsageRecordId],
) -> Result<()> {
    let (organization, now) = (books.organization, books.now);
    sqlx::query!(
        "with held as (
             select b.id from tenantry.budgets b where b.organization_id = $1 and b.id = any($3) order by b.id for no key update
         ), changed as (
             update tenantry.budgets b set spent_minor = b.spent_minor - $4, changes = b.changes + 1
               from held h where b.organization_id = $1 and b.id = h.id returning b.id
         ), ended as (
             update tenantry.budget_reservations r set status = 'RETURNED' where r.organization_id = $1 and r.id = $2
         )
         insert into tenantry.budget_usage_records (organization_id, id, budget_id, reservation_id, amount_minor, currency, kind, source, created_at)
         select $1, ($5::uuid[])[row_number() over (order by c.id)], c.id, $2, $4, $6, 'RETURN', $7, $8 from changed c",
        organization as _,
        id as _,
        &reservation.budgets as _,
        settled_minor,
        records as _,
        reservation.currency,
        reservation.source,
        now
    )
    .execute(books.conn())
    .await?;
    Ok(())
}

/// Notes that the payment of an open reservation is on its way; says whether the reservation is open.
pub(super) async fn mark_in_flight(books: &mut Books<'_>, id: BudgetReservationId) -> Result<bool> {
    let (organization, now) = (books.organization, books.now);
    let marked = sqlx::query!(
        "update tenantry.budget_reservations set in_flight_at = coalesce(in_flight_at, $3)
          where organization_id = $1 and id = $2 and status = 'OPEN' and expires_at > $3",
        organization as _,
        id as _,
        now
    )
    .execute(books.conn())
    .await?;
    Ok(marked.rows_affected() > 0)
}

/// What an expired reservation holds in one of its budgets.
pub(super) type Expired = (BudgetReservationId, BudgetId);

/// Expired reservations, locked, the oldest first; those that others work on are left out. `within`: only reservations of these
/// budgets and no others.
pub(super) async fn lock_expired(
    conn: &mut Conn,
    organization: OrganizationId,
    within: Option<&[BudgetId]>,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<Expired>> {
    let rows = sqlx::query!(
        r#"with due as (
               select r.id from tenantry.budget_reservations r
                where r.organization_id = $1 and r.status = 'OPEN' and r.expires_at <= $2
                  and ($3::uuid[] is null or not exists (
                       select from tenantry.budget_usage_records u
                        where u.organization_id = r.organization_id and u.reservation_id = r.id and u.budget_id <> all ($3)))
                order by r.expires_at, r.id limit $4 for no key update of r skip locked
           )
           select d.id as "reservation_id!: BudgetReservationId", u.budget_id as "budget_id!: BudgetId"
             from due d join tenantry.budget_usage_records u on u.organization_id = $1 and u.reservation_id = d.id and u.kind = 'RESERVE'"#,
        organization as _,
        now,
        within as _,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.reservation_id, row.budget_id)).collect())
}

/// Gives back what locked reservations hold. `records` has an id for each.
pub(super) async fn expire(
    conn: &mut Conn,
    organization: OrganizationId,
    expired: &[Expired],
    records: &[BudgetUsageRecordId],
    now: DateTime<Utc>,
) -> Result<()> {
    let (reservations, budgets): (Vec<BudgetReservationId>, Vec<BudgetId>) = expired.iter().copied().unzip();
    sqlx::query!(
        "with freeing as (
             select * from unnest($2::uuid[], $3::uuid[], $4::uuid[]) as f (reservation_id, budget_id, record_id)
         ), ended as (
             update tenantry.budget_reservations r set status = 'EXPIRED', ended_at = $5
              where r.organization_id = $1 and r.id = any($2) returning r.id, r.amount_minor, r.currency
         ), sums as (
             select f.budget_id, sum(e.amount_minor)::bigint as amount_minor from freeing f join ended e on e.id = f.reservation_id group by 1
         ), held as (
             select b.id from tenantry.budgets b
              where b.organization_id = $1 and b.id in (select s.budget_id from sums s) order by b.id for no key update of b
         ), freed as (
             update tenantry.budgets b set reserved_minor = b.reserved_minor - s.amount_minor, changes = b.changes + 1
               from held h join sums s on s.budget_id = h.id where b.organization_id = $1 and b.id = h.id
         )
         insert into tenantry.budget_usage_records (organization_id, id, budget_id, reservation_id, amount_minor, currency, kind, source, created_at)
         select $1, f.record_id, f.budget_id, f.reservation_id, e.amount_minor, e.currency, 'RELEASE', 'expiry', $5
           from freeing f join ended e on e.id = f.reservation_id",
        organization as _,
        &reservations as _,
        &budgets as _,
        records as _,
        now
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A period that was opened.
pub(super) struct Opened {
    pub id: BudgetId,
    pub series_id: BudgetId,
    pub rolled_over_minor: i64,
    pub starts_at: DateTime<Utc>,
    pub ends_at: DateTime<Utc>,
}

/// Closes locked periods that have ended, and opens for each the one that holds `now`, with the id beside it. Whoever comes late
/// finds nothing to do. Periods that nobody opened in between count as unspent.
pub(super) async fn open_periods(
    conn: &mut Conn,
    organization: OrganizationId,
    ended: &[(BudgetId, BudgetId)],
    now: DateTime<Utc>,
) -> Result<Vec<Opened>> {
    let (old, new): (Vec<BudgetId>, Vec<BudgetId>) = ended.iter().copied().unzip();
    Ok(sqlx::query_as!(
        Opened,
        r#"with closed as (
               update tenantry.budgets b set closed_at = $4 from unnest($2::uuid[], $3::uuid[]) as w (id, next_id)
                where b.organization_id = $1 and b.id = w.id and b.closed_at is null and b.archived_at is null and b.ends_at <= $4
               returning b.*, w.next_id
           )
           insert into tenantry.budgets (organization_id, id, series_id, type, name, period, time_zone, starts_at, ends_at, limit_minor,
                                         rolled_over_minor, currency, is_hard_limit, alert_thresholds, rollover, version, created_at, updated_at)
           select c.organization_id, c.next_id, c.series_id, c.type, c.name, c.period, c.time_zone, n.starts_at, n.ends_at, c.limit_minor,
                  case when c.rollover then least(100000000000000000, n.skipped::numeric * c.limit_minor
                       + greatest(c.limit_minor + c.rolled_over_minor - c.spent_minor - c.reserved_minor, 0))::bigint else 0 end,
                  c.currency, c.is_hard_limit, c.alert_thresholds, c.rollover, c.version + 1, $4, $4
             from closed c, tenantry.next_budget_period(c.period, c.time_zone, c.ends_at, $4) n
           returning id as "id: BudgetId", series_id as "series_id: BudgetId", rolled_over_minor, starts_at, ends_at"#,
        organization as _,
        &old as _,
        &new as _,
        now
    )
    .fetch_all(conn)
    .await?)
}

/// Periods of an organization that have ended and are not closed, locked; those that others work on are left out.
pub(super) async fn lock_ended(
    tx: &mut SystemTx,
    organization: OrganizationId,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<BudgetId>> {
    Ok(sqlx::query_scalar!(
        r#"select id as "id: BudgetId" from tenantry.budgets
            where organization_id = $1 and ends_at <= $2 and closed_at is null and archived_at is null
            order by id limit $3 for no key update skip locked"#,
        organization as _,
        now,
        limit
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Whose periods have ended, in the order of their ids, after this one.
pub(super) async fn organizations_with_ended(
    tx: &mut SystemTx,
    after: OrganizationId,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select distinct b.organization_id as "id: OrganizationId" from tenantry.budgets b
             join tenantry.organizations o on o.id = b.organization_id and o.deleted_at is null
            where b.ends_at <= $1 and b.closed_at is null and b.archived_at is null and b.organization_id > $2 order by 1 limit $3"#,
        now,
        after as _,
        limit
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Whose reservations have expired, in the order of their ids, after this one.
pub(super) async fn organizations_with_expired(
    tx: &mut SystemTx,
    after: OrganizationId,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select distinct r.organization_id as "id: OrganizationId" from tenantry.budget_reservations r
             join tenantry.organizations o on o.id = r.organization_id and o.deleted_at is null
            where r.status = 'OPEN' and r.expires_at <= $1 and r.organization_id > $2 order by 1 limit $3"#,
        now,
        after as _,
        limit
    )
    .fetch_all(tx.conn())
    .await?)
}

/// The calendar period that holds this time.
pub(super) async fn period_at(
    tx: &mut TenantTx,
    period: BudgetPeriod,
    time_zone: &str,
    at: DateTime<Utc>,
) -> Result<(DateTime<Utc>, DateTime<Utc>)> {
    let row = sqlx::query!(
        r#"select starts_at as "starts_at!", ends_at as "ends_at!" from tenantry.budget_period_at($1, $2, $3)"#,
        period as _,
        time_zone,
        at
    )
    .fetch_one(tx.conn())
    .await?;
    Ok((row.starts_at, row.ends_at))
}

/// A budget to insert.
pub(super) struct BudgetRow {
    pub id: BudgetId,
    pub kind: BudgetType,
    pub name: String,
    pub period: BudgetPeriod,
    pub time_zone: String,
    pub starts_at: DateTime<Utc>,
    pub ends_at: DateTime<Utc>,
    pub limit_minor: i64,
    pub currency: String,
    pub is_hard_limit: bool,
    pub alert_thresholds: Vec<i32>,
    pub rollover: bool,
}

/// Inserts the first period of a budget.
pub(super) async fn insert(tx: &mut TenantTx, row: &BudgetRow, now: DateTime<Utc>) -> Result<()> {
    let organization = tx.tenant().organization_id;
    sqlx::query!(
        "insert into tenantry.budgets (organization_id, id, series_id, type, name, period, time_zone, starts_at, ends_at, limit_minor, currency,
                                       is_hard_limit, alert_thresholds, rollover, created_at, updated_at)
         values ($1, $2, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14)",
        organization as _,
        row.id as _,
        row.kind as _,
        row.name,
        row.period as _,
        row.time_zone,
        row.starts_at,
        row.ends_at,
        row.limit_minor,
        row.currency,
        row.is_hard_limit,
        &row.alert_thresholds,
        row.rollover,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What deciding about a change of a budget needs to know.
pub(super) struct LockedBudget {
    pub id: BudgetId,
    pub series_id: BudgetId,
    pub currency: String,
    pub limit_minor: i64,
    pub rolled_over_minor: i64,
    /// Spent and reserved, in minor units.
    pub taken_minor: i64,
    pub is_hard_limit: bool,
    pub version: i32,
    pub ends_at: DateTime<Utc>,
    pub archived_at: Option<DateTime<Utc>>,
}

/// Reads the current period of the budget that this id names, and keeps others from changing it until the transaction ends.
pub(super) async fn lock_current(tx: &mut TenantTx, id: BudgetId) -> Result<Option<LockedBudget>> {
    let organization = tx.tenant().organization_id;
    Ok(sqlx::query_as!(
        LockedBudget,
        r#"select b.id as "id: BudgetId", b.series_id as "series_id: BudgetId", b.currency, b.limit_minor, b.rolled_over_minor,
                  b.spent_minor + b.reserved_minor as "taken_minor!", b.is_hard_limit, b.version, b.ends_at, b.archived_at
             from tenantry.budgets b
            where b.organization_id = $1 and b.closed_at is null
              and b.series_id = (select n.series_id from tenantry.budgets n where n.organization_id = $1 and n.id = $2)
              for no key update of b"#,
        organization as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// What a plan that has no room for another budget gives.
pub(super) struct Full {
    pub plan: OrganizationPlan,
    pub most: i64,
    /// The cheapest plan that gives more.
    pub unlocked_by: Option<OrganizationPlan>,
}

/// Keeps others from creating budgets until the transaction ends; says if the plan has no room for one more, or (`series`) for
/// this one.
pub(super) async fn full(tx: &mut TenantTx, series: Option<BudgetId>) -> Result<Option<Full>> {
    let organization = tx.tenant().organization_id;
    if series.is_none() {
        sqlx::query!("select id from tenantry.organizations where id = $1 for no key update", organization as _)
            .fetch_all(tx.conn())
            .await?;
    }
    Ok(sqlx::query_as!(
        Full,
        r#"select t.plan as "plan: OrganizationPlan", l.most as "most!",
                  (select min(g.plan) from tenantry.plan_terms g where g.plan > t.plan and (g.budgets is null or g.budgets > l.most)) as "unlocked_by: OrganizationPlan"
             from tenantry.plan_terms t, (select tenantry.budget_limit($1) as most) l
            where t.plan = coalesce((select s.plan from tenantry.subscriptions s where s.organization_id = $1), 'FREE')
              and case when $2::uuid is null
                       then l.most <= (select count(*) from tenantry.budgets b where b.organization_id = $1 and b.closed_at is null and b.archived_at is null)
                       else tenantry.is_over_plan($1, $2) end"#,
        organization as _,
        series as _
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// Whether this id names a budget.
pub(super) async fn exists(tx: &mut TenantTx, id: BudgetId) -> Result<bool> {
    let organization = tx.tenant().organization_id;
    Ok(sqlx::query_scalar!(
        r#"select exists (select from tenantry.budgets where organization_id = $1 and id = $2) as "exists!""#,
        organization as _,
        id as _
    )
    .fetch_one(tx.conn())
    .await?)
}

/// What to write; `None` leaves a column as it is.
#[derive(Default)]
pub(super) struct BudgetUpdate {
    pub name: Option<String>,
    pub limit_minor: Option<i64>,
    pub is_hard_limit: Option<bool>,
    pub alert_thresholds: Option<Vec<i32>>,
    pub rollover: Option<bool>,
    pub time_zone: Option<String>,
    pub archived_at: Option<DateTime<Utc>>,
}

/// Writes a change of a locked budget; gives the number of the change and the thresholds.
pub(super) async fn update(tx: &mut TenantTx, id: BudgetId, change: &BudgetUpdate) -> Result<(i64, Vec<i32>)> {
    let organization = tx.tenant().organization_id;
    let row = sqlx::query!(
        "update tenantry.budgets
            set name = coalesce($3, name), limit_minor = coalesce($4, limit_minor), is_hard_limit = coalesce($5, is_hard_limit),
                alert_thresholds = coalesce($6, alert_thresholds), rollover = coalesce($7, rollover), time_zone = coalesce($8, time_zone),
                archived_at = coalesce($9, archived_at), version = version + 1, changes = changes + 1,
                overrun_minor = case when coalesce($5, is_hard_limit)
                                     then greatest(spent_minor + reserved_minor - coalesce($4, limit_minor) - rolled_over_minor, 0) else 0 end
          where organization_id = $1 and id = $2 returning changes, alert_thresholds",
        organization as _,
        id as _,
        change.name.as_deref(),
        change.limit_minor,
        change.is_hard_limit,
        change.alert_thresholds.as_deref(),
        change.rollover,
        change.time_zone.as_deref(),
        change.archived_at
    )
    .fetch_one(tx.conn())
    .await?;
    Ok((row.changes, row.alert_thresholds))
}

/// A threshold that was crossed.
pub(super) struct AlertRow {
    pub id: BudgetAlertId,
    pub budget_id: BudgetId,
    pub series_id: BudgetId,
    pub percent: i32,
    pub change: i64,
    pub taken_minor: i64,
    pub limit_minor: i64,
    pub currency: String,
}

/// Inserts an alert.
pub(super) async fn insert_alert(books: &mut Books<'_>, row: &AlertRow) -> Result<()> {
    let (organization, now) = (books.organization, books.now);
    sqlx::query!(
        "insert into tenantry.budget_alerts (organization_id, id, budget_id, series_id, percent, change, taken_minor, limit_minor, currency, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        organization as _,
        row.id as _,
        row.budget_id as _,
        row.series_id as _,
        row.percent,
        row.change,
        row.taken_minor,
        row.limit_minor,
        row.currency,
        now
    )
    .execute(books.conn())
    .await?;
    Ok(())
}

/// The oldest budget in use for a purpose, by its first period.
pub(super) async fn default_budget(
    books: &mut Books<'_>,
    kind: BudgetType,
    currency: &str,
) -> Result<Option<BudgetId>> {
    let (organization, now) = (books.organization, books.now);
    Ok(sqlx::query_scalar!(
        r#"select series_id as "id: BudgetId" from tenantry.budgets
            where organization_id = $1 and type = $2 and currency = $3 and closed_at is null and archived_at is null
              and (id <> series_id or starts_at <= $4) order by series_id limit 1"#,
        organization as _,
        kind as _,
        currency,
        now
    )
    .fetch_optional(books.conn())
    .await?)
}

/// The first period, the purpose and the currency of a budget.
pub(super) async fn purpose(books: &mut Books<'_>, id: BudgetId) -> Result<Option<(BudgetId, BudgetType, String)>> {
    let organization = books.organization;
    let row = sqlx::query!(
        r#"select series_id as "id: BudgetId", type as "kind: BudgetType", currency from tenantry.budgets where organization_id = $1 and id = $2"#,
        organization as _,
        id as _
    )
    .fetch_optional(books.conn())
    .await?;
    Ok(row.map(|row| (row.id, row.kind, row.currency)))
}
