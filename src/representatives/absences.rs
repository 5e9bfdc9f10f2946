//! When representatives are away. Nothing is assigned to them automatically meanwhile; what they have stays theirs.

use async_graphql::{Context, InputObject};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use crate::access::Action;
use crate::error::Result;
use crate::events::Event;
use crate::graphql::connection::{Connection, Reader};
use crate::graphql::filter::DateTimeFilter;
use crate::graphql::mutation::{Checks, Done, Mutation, UserErrorCode, VerbError, VerbResult, Work};
use crate::graphql::plan::{ListArgs, Scope};
use crate::graphql::session::Session;
use crate::id::{RepresentativeAbsenceId, RepresentativeId, UserId, marker};
use crate::representatives::{Representative, no_representative, no_such_representative};
use crate::{entity, listing, relations};

/// The longest absence, and how far ahead one may begin.
const LONGEST: TimeDelta = TimeDelta::days(366);
/// Most characters of a note.
const MAX_NOTE: usize = 500;

entity! {
    /// A time in which a representative is away.
    #[graphql(complex)]
    pub struct RepresentativeAbsence("representative_absences", read by OrganizationRead) {
        /// Unique id.
        pub id: RepresentativeAbsenceId,
        /// The representative.
        #[graphql(skip)]
        pub representative_id: RepresentativeId,
        /// Start (inclusive).
        pub starts_at: DateTime<Utc>,
        /// End (exclusive).
        pub ends_at: DateTime<Utc>,
        /// Explanation.
        pub note: Option<String>,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    RepresentativeAbsence: RepresentativeAbsenceFilter, RepresentativeAbsenceOrder by RepresentativeAbsenceOrderField,
        default StartsAt Desc;
    /// Start (inclusive).
    starts_at: DateTimeFilter, StartsAt;
    /// End (exclusive).
    ends_at: DateTimeFilter, EndsAt;
}

relations! {
    RepresentativeAbsence {}
    one {
        /// The representative.
        representative -> Representative! by representative_id;
    }
}

/// Whether a representative is absent now; answered for all that are shown together.
pub(super) async fn is_absent(ctx: &Context<'_>, id: RepresentativeId) -> Result<bool> {
    let now = Session::of(ctx)?.clock().now();
    let filter = RepresentativeAbsenceFilter {
        starts_at: Some(DateTimeFilter { lte: Some(now), ..DateTimeFilter::default() }),
        ends_at: Some(DateTimeFilter { gt: Some(now), ..DateTimeFilter::default() }),
        ..RepresentativeAbsenceFilter::default()
    };
    let args = ListArgs {
        first: Some(1),
        after: None,
        last: None,
        before: None,
        filter: Some(Box::new(filter)),
        order_by: None,
    };
    let reader = Reader::Tenant(Scope::Parent("t.representative_id", id.uuid()));
    Ok(!Box::pin(Connection::<RepresentativeAbsence>::read(ctx, reader, args)).await?.is_empty())
}

/// When somebody is away.
#[derive(Clone, Debug, InputObject)]
pub struct RepresentativeAbsenceCreateInput {
    /// The representative; the viewer by default. Administrators may name others.
    pub representative_id: Option<RepresentativeId>,
    /// Start (inclusive): at most 366 days ahead; this moment by default.
    pub starts_at: Option<DateTime<Utc>>,
    /// End (exclusive): after the start and this moment, at most 366 days after the start.
    pub ends_at: DateTime<Utc>,
    /// Explanation: at most 500 characters. Every member can read it.
    pub note: Option<String>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input returns the absence of the first.
    pub idempotency_key: Option<String>,
}

/// Which absence to delete.
#[derive(Clone, Debug, InputObject)]
pub struct RepresentativeAbsenceDeleteInput {
    /// The absence: one's own, or, for administrators, anybody's.
    pub id: RepresentativeAbsenceId,
}

/// Locks the representative whose absences are to change, so that two that overlap are not made at once.
async fn lock(work: &mut Work<'_>, given: Option<RepresentativeId>) -> VerbResult<RepresentativeId> {
    let tenant = work.tenant();
    let own = tenant.actor.user();
    let found = sqlx::query!(
        r#"select id as "id: RepresentativeId", user_id as "user_id: UserId" from tenantry.representatives
            where organization_id = $1 and deleted_at is null and case when $2::uuid is null then user_id = $3 else id = $2 end
              for no key update"#,
        tenant.organization_id as _,
        given as _,
        own as _
    )
    .fetch_optional(work.tx.conn())
    .await?;
    let Some(found) = found else {
        return Err(if given.is_some() { no_such_representative("representativeId") } else { no_representative() });
    };
    if own != Some(found.user_id) && !tenant.allowed.has(Action::RepresentativeWrite) {
        let message = "Only administrators may set absences of others.";
        return Err(VerbError::user("representativeId", UserErrorCode::BeyondOwnRole, message));
    }
    Ok(found.id)
}

impl Mutation for RepresentativeAbsenceCreateInput {
    type Row = marker::RepresentativeAbsence;
    const FIELD: &'static str = "representativeAbsenceCreate";
    const ACTION: Action = Action::RepresentativeStatusSet;
    const AUDIT: &'static str = "representative_absence.create";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let representative = lock(work, self.representative_id).await?;
        let mut checks = Checks::default();
        let note = self.note.as_deref().map(|note| checks.text("note", note.trim(), MAX_NOTE));
        let starts_at = self.starts_at.unwrap_or(work.now);
        if starts_at > work.now + LONGEST || starts_at < work.now - LONGEST {
            let message = "`startsAt` takes a time within 366 days of this moment.";
            checks.refuse("startsAt", UserErrorCode::Invalid, message);
        }
        if self.ends_at <= starts_at || self.ends_at <= work.now {
            let message = "`endsAt` must be after `startsAt` and after this moment.";
            checks.refuse("endsAt", UserErrorCode::Invalid, message);
        } else if self.ends_at - starts_at > LONGEST {
            checks.refuse("endsAt", UserErrorCode::Invalid, "An absence takes at most 366 days.");
        }
        checks.finish()?;
        let organization = work.tenant().organization_id;
        let overlaps = sqlx::query_scalar!(
            r#"select exists (select from tenantry.representative_absences
                where organization_id = $1 and representative_id = $2 and starts_at < $4 and ends_at > $3) as "overlaps!""#,
            organization as _,
            representative as _,
            starts_at,
            self.ends_at
        )
        .fetch_one(work.tx.conn())
        .await?;
        if overlaps {
            let message = "There is an absence of this representative in that time: delete it first.";
            return Err(VerbError::user("startsAt", UserErrorCode::Conflict, message));
        }
        let id = work.new_id();
        sqlx::query!(
            "insert into tenantry.representative_absences (organization_id, id, representative_id, starts_at, ends_at, note, created_at)
             values ($1, $2, $3, $4, $5, $6, $7)",
            organization as _,
            id as _,
            representative as _,
            starts_at,
            self.ends_at,
            note.filter(|note| !note.is_empty()),
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        let audit = json!({ "representativeId": representative.to_string(), "after": { "startsAt": starts_at, "endsAt": self.ends_at } });
        Ok(Done { id, audit, event: Some(Event::of(representative)) })
    }
}

impl Mutation for RepresentativeAbsenceDeleteInput {
    type Row = marker::RepresentativeAbsence;
    const FIELD: &'static str = "representativeAbsenceDelete";
    const ACTION: Action = Action::RepresentativeStatusSet;
    const AUDIT: &'static str = "representative_absence.delete";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let tenant = work.tenant();
        let found = sqlx::query!(
            r#"select a.representative_id as "representative_id: RepresentativeId", a.starts_at, a.ends_at, r.user_id as "user_id: UserId"
                 from tenantry.representative_absences a
                 join tenantry.representatives r on r.organization_id = a.organization_id and r.id = a.representative_id
                where a.organization_id = $1 and a.id = $2"#,
            tenant.organization_id as _,
            self.id as _
        )
        .fetch_optional(work.tx.conn())
        .await?;
        let missing =
            || VerbError::user("id", UserErrorCode::NotFound, "There is no such absence in this organization.");
        let found = found.ok_or_else(missing)?;
        if tenant.actor.user() != Some(found.user_id) && !tenant.allowed.has(Action::RepresentativeWrite) {
            let message = "Only administrators may delete absences of others.";
            return Err(VerbError::user("id", UserErrorCode::BeyondOwnRole, message));
        }
        let deleted = sqlx::query!(
            "delete from tenantry.representative_absences where organization_id = $1 and id = $2",
            tenant.organization_id as _,
            self.id as _
        )
        .execute(work.tx.conn())
        .await?;
        if deleted.rows_affected() == 0 {
            return Err(missing());
        }
        let audit = json!({ "representativeId": found.representative_id.to_string(),
                            "before": { "startsAt": found.starts_at, "endsAt": found.ends_at } });
        Ok(Done { id: self.id, audit, event: Some(Event::of(found.representative_id)) })
    }
}
