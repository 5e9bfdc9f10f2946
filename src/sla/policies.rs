//! Policies: what is promised for which tickets.
//!
//! A policy is found for a ticket when it is opened, and again when its priority, category or customer changes. What a policy promises
//! can change while clocks run: each change is a new revision, which counts from then on.

use async_graphql::{InputObject, MaybeUndefined};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::access::Action;
use crate::customers::AccountTier;
use crate::error::{Error, Result};
use crate::graphql::filter::{DateTimeFilter, IntFilter};
use crate::graphql::mutation::{
    Checks, Done, Mutation, UserErrorCode, VerbError, VerbResult, Work, after, check_version,
};
use crate::id::{BusinessCalendarId, SlaPolicyId, marker};
use crate::sla::calendars::{self, BusinessCalendar, MAX_MINUTES};
use crate::sla::clocks::SlaReaction;
use crate::sla::events::SlaEvent;
use crate::sla::hours::Written;
use crate::sql_enum::SqlEnum;
use crate::tickets::{TicketCategory, TicketPriority, assignment};
use crate::{entity, listing, relations};

/// Most policies of an organization that are in use, most characters of a name, the highest rank.
const MAX_POLICIES: i64 = 100;
const MAX_NAME: usize = 100;
const MAX_RANK: i32 = 1_000_000;

entity! {
    /// What is promised for some tickets. The first policy that matches a ticket, by rank, counts for it.
    #[graphql(complex)]
    pub struct SlaPolicy("sla_policies", read by OrganizationRead) {
        /// Unique id.
        pub id: SlaPolicyId,
        /// Name.
        pub name: String,
        /// Rank; the lowest that matches counts.
        pub rank: i32,
        /// Labels.
        #[graphql(skip)]
        pub priorities: Vec<String> = "priorities::text[]",
        /// Labels.
        #[graphql(skip)]
        pub tiers: Vec<String> = "tiers::text[]",
        /// Labels.
        #[graphql(skip)]
        pub categories: Vec<String> = "categories::text[]",
        /// The calendar.
        #[graphql(skip)]
        pub calendar_id: Option<BusinessCalendarId>,
        /// Minutes until the first response; null: not promised.
        pub first_response_minutes: Option<i32>,
        /// Minutes until the answer to what the customer writes after it; null: not promised.
        pub next_response_minutes: Option<i32>,
        /// Minutes until the resolution; null: not promised.
        pub resolution_minutes: Option<i32>,
        /// How much of the time has passed when a warning is given, in percent; null: no warning.
        pub warning_percent: Option<i32>,
        /// What follows from a warning.
        pub on_warning: SlaReaction,
        /// What follows from a breach.
        pub on_breach: SlaReaction,
        /// Number of the revision: incremented when what is promised changes.
        pub revision: i32,
        /// When it was archived; null: it is in use. Tickets that are under it stay so.
        pub archived_at: Option<DateTime<Utc>>,
        /// Version; incremented by every change. Pass it as `expectedVersion`.
        pub version: i32,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    SlaPolicy: SlaPolicyFilter, SlaPolicyOrder by SlaPolicyOrderField, default Rank Asc;
    /// Rank.
    rank: IntFilter, Rank;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    SlaPolicy {
        /// Warnings and breaches under it.
        events -> SlaEvent by "t.policy_id";
    }
    one {
        /// The business hours that time is counted in; null: around the clock.
        calendar -> BusinessCalendar by calendar_id;
    }
    computed {
        /// Only tickets of these priorities; empty: of any.
        priorities: Vec<TicketPriority> = |row| row.priorities.iter().filter_map(|label| TicketPriority::from_label(label)).collect::<Vec<_>>();
        /// Only tickets of customers of these tiers; empty: of any, and without a customer.
        tiers: Vec<AccountTier> = |row| row.tiers.iter().filter_map(|label| AccountTier::from_label(label)).collect::<Vec<_>>();
        /// Only tickets of these categories; empty: of any.
        categories: Vec<TicketCategory> = |row| row.categories.iter().filter_map(|label| TicketCategory::from_label(label)).collect::<Vec<_>>();
    }
}

fn labels<T: SqlEnum + Ord>(mut values: Vec<T>) -> Vec<String> {
    values.sort_unstable();
    values.dedup();
    values.into_iter().map(|value| value.label().to_owned()).collect()
}

/// The fields of a new policy. It counts for tickets that are opened, or change their priority, category or customer, from then on.
#[derive(Clone, Debug, InputObject)]
pub struct SlaPolicyCreateInput {
    /// Name: 1 to 100 characters.
    pub name: String,
    /// Rank: 0 to 1,000,000; the lowest that matches counts, of two the older.
    pub rank: i32,
    /// Only tickets of these priorities; of any by default.
    pub priorities: Option<Vec<TicketPriority>>,
    /// Only tickets of customers of these tiers; of any by default.
    pub tiers: Option<Vec<AccountTier>>,
    /// Only tickets of these categories; of any by default.
    pub categories: Option<Vec<TicketCategory>>,
    /// The business hours that time is counted in; around the clock by default.
    pub calendar_id: Option<BusinessCalendarId>,
    /// Minutes until the first response: 1 to 527,040 (366 days); not promised by default.
    pub first_response_minutes: Option<i32>,
    /// Minutes until the answer to what the customer writes after it; not promised by default.
    pub next_response_minutes: Option<i32>,
    /// Minutes until the resolution; not promised by default.
    pub resolution_minutes: Option<i32>,
    /// How much of the time has passed when a warning is given: 1 to 99 percent; no warning by default.
    pub warning_percent: Option<i32>,
    /// What follows from a warning; EVENT by default.
    pub on_warning: Option<SlaReaction>,
    /// What follows from a breach; EVENT by default.
    pub on_breach: Option<SlaReaction>,
}

/// The changes of a policy. Omitted fields stay as they are. Clocks that run count by what is promised from then on; which
/// tickets it is for is asked when they are opened or changed.
#[derive(Clone, Debug, InputObject)]
pub struct SlaPolicyUpdateInput {
    /// The policy.
    pub id: SlaPolicyId,
    /// Name: 1 to 100 characters.
    pub name: Option<String>,
    /// Rank: 0 to 1,000,000.
    pub rank: Option<i32>,
    /// Only tickets of these priorities; empty: of any.
    pub priorities: Option<Vec<TicketPriority>>,
    /// Only tickets of customers of these tiers; empty: of any.
    pub tiers: Option<Vec<AccountTier>>,
    /// Only tickets of these categories; empty: of any.
    pub categories: Option<Vec<TicketCategory>>,
    /// The business hours that time is counted in; null: around the clock.
    pub calendar_id: MaybeUndefined<BusinessCalendarId>,
    /// Minutes until the first response; null: not promised.
    pub first_response_minutes: MaybeUndefined<i32>,
    /// Minutes until the answer to what the customer writes after it; null: not promised.
    pub next_response_minutes: MaybeUndefined<i32>,
    /// Minutes until the resolution; null: not promised.
    pub resolution_minutes: MaybeUndefined<i32>,
    /// How much of the time has passed when a warning is given: 1 to 99 percent; null: no warning.
    pub warning_percent: MaybeUndefined<i32>,
    /// What follows from a warning.
    pub on_warning: Option<SlaReaction>,
    /// What follows from a breach.
    pub on_breach: Option<SlaReaction>,
    /// Whether it is archived: no ticket comes under it any more.
    pub is_archived: Option<bool>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// What a policy promises.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Promise {
    calendar_id: Option<BusinessCalendarId>,
    first_response_minutes: Option<i32>,
    next_response_minutes: Option<i32>,
    resolution_minutes: Option<i32>,
    warning_percent: Option<i32>,
    on_warning: SlaReaction,
    on_breach: SlaReaction,
}

impl Promise {
    const fn targets(&self) -> [(&'static str, Option<i32>); 3] {
        [
            ("firstResponseMinutes", self.first_response_minutes),
            ("nextResponseMinutes", self.next_response_minutes),
            ("resolutionMinutes", self.resolution_minutes),
        ]
    }

    fn check(&self, checks: &mut Checks) {
        for (field, minutes) in self.targets() {
            checks.within(field, minutes, 1..=MAX_MINUTES);
        }
        checks.within("warningPercent", self.warning_percent, 1..=99);
    }

    fn shown(&self) -> Value {
        json!({
            "calendarId": self.calendar_id.map(|id| id.to_string()),
            "firstResponseMinutes": self.first_response_minutes,
            "nextResponseMinutes": self.next_response_minutes,
            "resolutionMinutes": self.resolution_minutes,
            "warningPercent": self.warning_percent,
            "onWarning": self.on_warning,
            "onBreach": self.on_breach,
        })
    }
}

/// A policy as it is stored.
struct Stored {
    id: SlaPolicyId,
    name: String,
    calendar_id: Option<BusinessCalendarId>,
    first_response_minutes: Option<i32>,
    next_response_minutes: Option<i32>,
    resolution_minutes: Option<i32>,
    warning_percent: Option<i32>,
    on_warning: SlaReaction,
    on_breach: SlaReaction,
    revision: i32,
    version: i32,
    archived_at: Option<DateTime<Utc>>,
}

impl Stored {
    const fn promise(&self) -> Promise {
        Promise {
            calendar_id: self.calendar_id,
            first_response_minutes: self.first_response_minutes,
            next_response_minutes: self.next_response_minutes,
            resolution_minutes: self.resolution_minutes,
            warning_percent: self.warning_percent,
            on_warning: self.on_warning,
            on_breach: self.on_breach,
        }
    }
}

/// The field of a target that these hours can never keep, if there is one.
fn unreachable(promise: &Promise, calendar: &Written, now: DateTime<Utc>) -> Result<Option<&'static str>> {
    let hours = calendar.read().ok_or_else(|| Error::internal("a calendar has an unknown time zone"))?;
    let is_never = |minutes: i32| hours.after(now, TimeDelta::minutes(minutes.into())).is_none();
    Ok(promise.targets().into_iter().find(|(_, minutes)| minutes.is_some_and(is_never)).map(|(field, _)| field))
}

fn check_reachable(promise: &Promise, calendar: Option<&Written>, now: DateTime<Utc>) -> VerbResult<()> {
    let Some(calendar) = calendar else { return Ok(()) };
    match unreachable(promise, calendar, now)? {
        None => Ok(()),
        Some(field) => {
            let message = "The calendar has so few hours that this would be due in more than twenty years.";
            Err(VerbError::user(field, UserErrorCode::Invalid, message))
        }
    }
}

/// Adds a revision, which takes the place of the one before.
async fn revise(
    work: &mut Work<'_>,
    policy: SlaPolicyId,
    revision: i32,
    promise: &Promise,
    calendar: Option<&Written>,
) -> Result<()> {
    let organization = work.tenant().organization_id;
    let calendar = calendar.map(serde_json::to_value).transpose().map_err(Error::internal)?;
    // No revision is valid from before the one that it follows, whatever clock the servers have.
    sqlx::query!(
        "with past as (
             update tenantry.sla_revisions set superseded_at = greatest($11, valid_from)
              where organization_id = $1 and policy_id = $2 and revision = $3 - 1 returning superseded_at)
         insert into tenantry.sla_revisions (organization_id, policy_id, revision, first_response_minutes, next_response_minutes, resolution_minutes,
                                             warning_percent, on_warning, on_breach, calendar, valid_from)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, coalesce((select superseded_at from past), $11))",
        organization as _,
        policy as _,
        revision,
        promise.first_response_minutes,
        promise.next_response_minutes,
        promise.resolution_minutes,
        promise.warning_percent,
        promise.on_warning as _,
        promise.on_breach as _,
        calendar,
        work.now
    )
    .execute(work.tx.conn())
    .await?;
    Ok(())
}

/// Makes a revision of every policy that counts by a calendar whose hours change.
pub(super) async fn take_new_hours(
    work: &mut Work<'_>,
    calendar: BusinessCalendarId,
    hours: &Written,
) -> VerbResult<()> {
    let policies = sqlx::query_as!(
        Stored,
        r#"update tenantry.sla_policies set revision = revision + 1 where organization_id = $1 and calendar_id = $2
           returning id as "id: SlaPolicyId", name, calendar_id as "calendar_id: BusinessCalendarId", first_response_minutes, next_response_minutes,
                     resolution_minutes, warning_percent, on_warning as "on_warning: SlaReaction", on_breach as "on_breach: SlaReaction",
                     revision, version, archived_at"#,
        work.tenant().organization_id as _,
        calendar as _
    )
    .fetch_all(work.tx.conn())
    .await?;
    for row in policies {
        let promise = row.promise();
        if unreachable(&promise, hours, work.now)?.is_some() {
            let message = format!(
                "With so few hours, what the policy \"{}\" promises would be due in more than twenty years.",
                row.name
            );
            return Err(VerbError::user("hours", UserErrorCode::Invalid, message));
        }
        revise(work, row.id, row.revision, &promise, Some(hours)).await?;
    }
    Ok(())
}

async fn check_count(work: &mut Work<'_>) -> VerbResult<()> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from tenantry.sla_policies where organization_id = $1 and archived_at is null"#,
        work.tenant().organization_id as _
    )
    .fetch_one(work.tx.conn())
    .await?;
    if count >= MAX_POLICIES {
        let message = format!("An organization has at most {MAX_POLICIES} policies: archive one first.");
        return Err(VerbError::of_input(UserErrorCode::TooLong, message));
    }
    Ok(())
}

impl Mutation for SlaPolicyCreateInput {
    type Row = marker::SlaPolicy;
    const FIELD: &'static str = "slaPolicyCreate";
    const ACTION: Action = Action::TicketConfigure;
    const AUDIT: &'static str = "sla_policy.create";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let promise = Promise {
            calendar_id: self.calendar_id,
            first_response_minutes: self.first_response_minutes,
            next_response_minutes: self.next_response_minutes,
            resolution_minutes: self.resolution_minutes,
            warning_percent: self.warning_percent,
            on_warning: self.on_warning.unwrap_or(SlaReaction::Event),
            on_breach: self.on_breach.unwrap_or(SlaReaction::Event),
        };
        let mut checks = Checks::default();
        let name = checks.required("name", &self.name, MAX_NAME);
        checks.within("rank", Some(self.rank), 0..=MAX_RANK);
        promise.check(&mut checks);
        checks.finish()?;
        let organization = work.tenant().organization_id;
        // The counter of tickets is the lock of their settings.
        assignment::lock_desk(work.tx.conn(), organization).await?;
        let calendar = calendars::written(work, self.calendar_id).await?;
        check_reachable(&promise, calendar.as_ref(), work.now)?;
        check_count(work).await?;
        let id = work.new_id();
        let priorities = labels(self.priorities.unwrap_or_default());
        let tiers = labels(self.tiers.unwrap_or_default());
        let categories = labels(self.categories.unwrap_or_default());
        sqlx::query!(
            "insert into tenantry.sla_policies (organization_id, id, name, rank, priorities, tiers, categories, calendar_id, first_response_minutes,
                                                next_response_minutes, resolution_minutes, warning_percent, on_warning, on_breach, created_at, updated_at)
             values ($1, $2, $3, $4, $5::text[]::tenantry.ticket_priority[], $6::text[]::tenantry.account_tier[],
                     $7::text[]::tenantry.ticket_category[], $8, $9, $10, $11, $12, $13, $14, $15, $15)",
            organization as _,
            id as _,
            name,
            self.rank,
            &priorities,
            &tiers,
            &categories,
            promise.calendar_id as _,
            promise.first_response_minutes,
            promise.next_response_minutes,
            promise.resolution_minutes,
            promise.warning_percent,
            promise.on_warning as _,
            promise.on_breach as _,
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        revise(work, id, 1, &promise, calendar.as_ref()).await?;
        let audit = json!({ "after": {
            "rank": self.rank, "priorities": priorities, "tiers": tiers, "categories": categories, "promise": promise.shown(),
        } });
        Ok(Done { id, audit, event: None })
    }
}

/// Locks a policy. No ticket is opened meanwhile: the counter of tickets is the lock of their settings.
async fn lock(work: &mut Work<'_>, id: SlaPolicyId) -> VerbResult<Stored> {
    let organization = work.tenant().organization_id;
    assignment::lock_desk(work.tx.conn(), organization).await?;
    let row = sqlx::query_as!(
        Stored,
        r#"select id as "id: SlaPolicyId", name, calendar_id as "calendar_id: BusinessCalendarId", first_response_minutes, next_response_minutes,
                  resolution_minutes, warning_percent, on_warning as "on_warning: SlaReaction", on_breach as "on_breach: SlaReaction",
                  revision, version, archived_at
             from tenantry.sla_policies where organization_id = $1 and id = $2 for update"#,
        organization as _,
        id as _
    )
    .fetch_optional(work.tx.conn())
    .await?;
    let missing = || VerbError::user("id", UserErrorCode::NotFound, "There is no such policy in this organization.");
    row.ok_or_else(missing)
}

impl Mutation for SlaPolicyUpdateInput {
    type Row = marker::SlaPolicy;
    const FIELD: &'static str = "slaPolicyUpdate";
    const ACTION: Action = Action::TicketConfigure;
    const AUDIT: &'static str = "sla_policy.update";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = self.name.as_deref().map(|name| checks.required("name", name, MAX_NAME));
        checks.within("rank", self.rank, 0..=MAX_RANK);
        checks.finish()?;
        let before = lock(work, self.id).await?;
        check_version(self.expected_version, before.version)?;
        let earlier = before.promise();
        let promise = Promise {
            calendar_id: after(&self.calendar_id, earlier.calendar_id),
            first_response_minutes: after(&self.first_response_minutes, earlier.first_response_minutes),
            next_response_minutes: after(&self.next_response_minutes, earlier.next_response_minutes),
            resolution_minutes: after(&self.resolution_minutes, earlier.resolution_minutes),
            warning_percent: after(&self.warning_percent, earlier.warning_percent),
            on_warning: self.on_warning.unwrap_or(earlier.on_warning),
            on_breach: self.on_breach.unwrap_or(earlier.on_breach),
        };
        let mut checks = Checks::default();
        promise.check(&mut checks);
        checks.finish()?;
        let archived_at = match self.is_archived {
            Some(true) => before.archived_at.or(Some(work.now)),
            Some(false) => None,
            None => before.archived_at,
        };
        if before.archived_at.is_some() && archived_at.is_none() {
            check_count(work).await?;
        }
        let revision = before.revision + i32::from(promise != earlier);
        if revision > before.revision {
            let calendar = calendars::written(work, promise.calendar_id).await?;
            check_reachable(&promise, calendar.as_ref(), work.now)?;
            revise(work, self.id, revision, &promise, calendar.as_ref()).await?;
        }
        let (priorities, tiers) = (self.priorities.map(labels), self.tiers.map(labels));
        let categories = self.categories.map(labels);
        sqlx::query!(
            "update tenantry.sla_policies
                set name = coalesce($3, name), rank = coalesce($4, rank), priorities = coalesce($5::text[]::tenantry.ticket_priority[], priorities),
                    tiers = coalesce($6::text[]::tenantry.account_tier[], tiers),
                    categories = coalesce($7::text[]::tenantry.ticket_category[], categories), calendar_id = $8, first_response_minutes = $9,
                    next_response_minutes = $10, resolution_minutes = $11, warning_percent = $12, on_warning = $13, on_breach = $14,
                    revision = $15, archived_at = $16, version = version + 1
              where organization_id = $1 and id = $2",
            work.tenant().organization_id as _,
            self.id as _,
            name,
            self.rank,
            priorities.as_deref(),
            tiers.as_deref(),
            categories.as_deref(),
            promise.calendar_id as _,
            promise.first_response_minutes,
            promise.next_response_minutes,
            promise.resolution_minutes,
            promise.warning_percent,
            promise.on_warning as _,
            promise.on_breach as _,
            revision,
            archived_at
        )
        .execute(work.tx.conn())
        .await?;
        let audit = json!({
            "before": { "promise": earlier.shown(), "archivedAt": before.archived_at, "version": before.version },
            "after": { "promise": promise.shown(), "archivedAt": archived_at, "version": before.version + 1 },
            "given": { "rank": self.rank, "priorities": priorities, "tiers": tiers, "categories": categories },
        });
        Ok(Done { id: self.id, audit, event: None })
    }
}
