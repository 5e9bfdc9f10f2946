//! Support access: an operator of the platform reads one organization, for a reason and for a time, and its members see that.
//!
//! Invariants: only superadmins have it; it ends by itself; it reads, unless it was asked for with writing; its row stays and is
//! shown to the organization, whose audit log has its beginning and its end. `tenantry.enter_tenant` looks for it when somebody is
//! no member. Writing never covers what is guarded, what is for people of the organization, or what only owners may.

use async_graphql::{Context, InputObject, Object, SimpleObject};
use chrono::{DateTime, Duration, Utc};
use serde_json::json;

use crate::access::{Action, Actions};
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::events::{self, Event};
use crate::graphql::filter::DateTimeFilter;
use crate::graphql::mutation::{self, Checks, MutationInfo, UserError, UserErrorCode, VerbError, VerbResult};
use crate::graphql::session::Session;
use crate::id::{OrganizationId, SupportAccessId, UserId};
use crate::members::User;
use crate::trail::{self, AuditEntry};
use crate::{entity, listing, platform, relations};

/// How long it lasts, in minutes, unless said.
const MINUTES: i32 = 60;
/// The longest, in minutes.
const MAX_MINUTES: i32 = 480;

/// What the audit logs call its beginning and its end.
const STARTED: &str = "support_access.start";
const ENDED: &str = "support_access.end";

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo { field: "supportAccessStart", action: None, audit: STARTED, row: "SupportAccess" },
    MutationInfo { field: "supportAccessEnd", action: None, audit: ENDED, row: "SupportAccess" },
];

entity! {
    /// The access of an operator of the platform to the organization.
    #[graphql(complex)]
    pub struct SupportAccess("support_accesses", read by AuditRead) {
        /// Unique id.
        pub id: SupportAccessId,
        /// The operator.
        #[graphql(skip)]
        pub user_id: Option<UserId>,
        /// Why.
        pub reason: String,
        /// Whether it may change anything.
        pub writes: bool,
        /// The actions that it allows.
        pub actions: Vec<String>,
        /// Its beginning.
        pub created_at: DateTime<Utc>,
        /// When it ends by itself.
        pub expires_at: DateTime<Utc>,
        /// When it was ended; null when it was not.
        pub ended_at: Option<DateTime<Utc>>,
    }
}

listing! {
    SupportAccess: SupportAccessFilter, SupportAccessOrder by SupportAccessOrderField, default CreatedAt Desc;
    /// Its beginning.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    SupportAccess {}
    one {
        /// The operator; null when they are none any more.
        operator -> User by user_id;
    }
}

/// The organization to look into.
#[derive(Clone, Debug, InputObject)]
pub struct SupportAccessStartInput {
    /// The organization.
    pub organization_id: OrganizationId,
    /// Why, for its members to read: 1 to 500 characters.
    pub reason: String,
    /// How many minutes it lasts: 1 to 480, 60 by default.
    pub minutes: Option<i32>,
    /// Whether it may change what a member may, other than money, keys, members, billing and deletion; false by default.
    pub writes: Option<bool>,
}

/// The organization to leave.
#[derive(Clone, Debug, InputObject)]
pub struct SupportAccessEndInput {
    /// The organization.
    pub organization_id: OrganizationId,
}

/// The result of `supportAccessStart` and `supportAccessEnd`.
#[derive(Debug, SimpleObject)]
pub struct SupportAccessPayload {
    /// The id of the access; null when there are errors.
    pub support_access_id: Option<SupportAccessId>,
    /// When it ends, or ended; null when there are errors.
    pub expires_at: Option<DateTime<Utc>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// What an access allows.
fn allowed(writes: bool) -> Actions {
    let reads = |action: &Action| action.label().ends_with("_READ");
    let may_write = |action: &Action| !action.is_guarded() && !action.is_personal() && !action.is_owners_alone();
    Action::ALL.iter().filter(|action| reads(action) || writes && may_write(action)).copied().collect()
}

type Access = (SupportAccessId, DateTime<Utc>);

async fn start(session: &Session, input: &SupportAccessStartInput) -> VerbResult<Access> {
    let mut checks = Checks::default();
    let reason = checks.required("reason", &input.reason, 500);
    let minutes = input.minutes.unwrap_or(MINUTES);
    if !(1..=MAX_MINUTES).contains(&minutes) {
        checks.refuse("minutes", UserErrorCode::Invalid, format!("`minutes` takes 1 to {MAX_MINUTES}."));
    }
    let writes = input.writes.unwrap_or(false);
    let metadata = json!({ "organization": input.organization_id.to_string(), "minutes": minutes, "writes": writes });
    let mut tx = platform::open(session, STARTED, metadata.clone()).await?;
    checks.finish()?;
    let (id, now) = (SupportAccessId::new(session.clock()), session.clock().now());
    let expires_at = now + Duration::minutes(minutes.into());
    // One at a time, also of two at once: another one takes the place of the first.
    sqlx::query!("select from tenantry.organizations where id = $1 for update", input.organization_id as _)
        .execute(tx.conn())
        .await?;
    close(&mut tx, session, input.organization_id).await?;
    let actions: Vec<String> = allowed(writes).iter().map(|action| action.label().to_owned()).collect();
    let made = sqlx::query!(
        "insert into tenantry.support_accesses (organization_id, id, user_id, reason, writes, actions, created_at, expires_at)
         select o.id, $2, u.id, $4, $5, $6, $7, $8 from tenantry.organizations o, tenantry.users u
          where o.id = $1 and o.deleted_at is null and u.clerk_id = $3",
        input.organization_id as _,
        id as _,
        session.identity()?.subject,
        reason,
        writes,
        &actions,
        now,
        expires_at
    )
    .execute(tx.conn())
    .await?;
    if made.rows_affected() == 0 {
        return Err(VerbError::user("organizationId", UserErrorCode::NotFound, "There is no such organization."));
    }
    let entry = AuditEntry::of(STARTED, id, json!({ "after": { "writes": writes, "expiresAt": expires_at } }));
    trail::record_of_operator(&mut tx, session.clock(), platform::operator(session)?, input.organization_id, &entry)
        .await?;
    tx.commit().await?;
    Ok((id, expires_at))
}

/// Ends what the operator has open in an organization; their streams end with it.
async fn close(tx: &mut SystemTx, session: &Session, organization: OrganizationId) -> Result<Option<SupportAccessId>> {
    let closed = sqlx::query!(
        r#"update tenantry.support_accesses a set ended_at = $3 from tenantry.users u
            where a.organization_id = $1 and u.clerk_id = $2 and a.user_id = u.id and a.ended_at is null and a.expires_at > $3
           returning a.id as "id: SupportAccessId", u.id as "user_id: UserId""#,
        organization as _,
        session.identity()?.subject,
        session.clock().now()
    )
    .fetch_all(tx.conn())
    .await?;
    for access in &closed {
        let entry = AuditEntry::of(ENDED, access.id, json!({}));
        trail::record_of_operator(tx, session.clock(), platform::operator(session)?, organization, &entry).await?;
        events::tell(tx, &[(organization, Event::access(Some(access.user_id)))]).await?;
    }
    Ok(closed.first().map(|access| access.id))
}

/// Notes the end of those whose time is over; says how many. From that time on they let nobody in, noted or not.
///
/// # Errors
/// When the database cannot be reached.
pub async fn end_expired(db: &Db, clock: &Clock) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let ended = sqlx::query!(
        r#"update tenantry.support_accesses set ended_at = expires_at where ended_at is null and expires_at <= $1
           returning organization_id as "organization_id: OrganizationId", id as "id: SupportAccessId", user_id as "user_id: UserId""#,
        clock.now()
    )
    .fetch_all(tx.conn())
    .await?;
    for access in &ended {
        let entry = AuditEntry::of(ENDED, access.id, json!({ "cause": "expired" }));
        trail::record_of_system(&mut tx, clock, access.organization_id, &entry).await?;
        events::tell(&mut tx, &[(access.organization_id, Event::access(Some(access.user_id)))]).await?;
    }
    tx.commit().await?;
    Ok(ended.len() as u64)
}

async fn end(session: &Session, organization: OrganizationId) -> VerbResult<Access> {
    let metadata = json!({ "organization": organization.to_string() });
    let mut tx = platform::open(session, ENDED, metadata).await?;
    let Some(id) = close(&mut tx, session, organization).await? else {
        let message = "You have no access to such an organization that could be ended.";
        return Err(VerbError::user("organizationId", UserErrorCode::NotFound, message));
    };
    tx.commit().await?;
    Ok((id, session.clock().now()))
}

fn payload(outcome: VerbResult<Access>) -> Result<SupportAccessPayload> {
    let (access, user_errors) = mutation::outcome(outcome)?;
    let (support_access_id, expires_at) = access.unzip();
    Ok(SupportAccessPayload { support_access_id, expires_at, user_errors })
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct SupportAccessMutation;

#[Object]
impl SupportAccessMutation {
    /// Lets the viewer read an organization for a time, by naming it in `X-Organization-Id`; its members see that, and why. For
    /// superadmins.
    async fn support_access_start(
        &self,
        ctx: &Context<'_>,
        input: SupportAccessStartInput,
    ) -> Result<SupportAccessPayload> {
        payload(start(Session::of(ctx)?, &input).await)
    }

    /// Ends the viewer's access to an organization before its time. For superadmins.
    async fn support_access_end(
        &self,
        ctx: &Context<'_>,
        input: SupportAccessEndInput,
    ) -> Result<SupportAccessPayload> {
        payload(end(Session::of(ctx)?, input.organization_id).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_covers_no_money_keys_people_or_deletion() {
        let (reads, writes) = (allowed(false), allowed(true));
        assert!(reads.has(Action::AuditRead) && reads.has(Action::TicketNoteRead) && !reads.has(Action::TicketCreate));
        assert!(writes.has(Action::TicketUpdate) && reads.within(writes));
        for action in writes.iter().filter(|action| !reads.has(*action)) {
            assert!(!action.is_guarded() && !action.is_personal() && !action.is_owners_alone(), "{}", action.label());
        }
    }
}
