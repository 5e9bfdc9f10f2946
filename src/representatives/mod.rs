//! Representatives: the users who work on an organization's tickets, and when they are absent.
//!
//! Invariants: a member is a representative once; who is removed has no open tickets and escalations; the absences of one
//! representative do not overlap; every change leaves an audit row and an event in the same transaction.

mod absences;
mod graphql;
mod verbs;

use async_graphql::Context;
use chrono::{DateTime, Utc};

pub use absences::{RepresentativeAbsence, RepresentativeAbsenceCreateInput, RepresentativeAbsenceDeleteInput};
pub use graphql::{
    RepresentativeCreateInput, RepresentativeMutation, RepresentativeRemoveInput, RepresentativeStatusSetInput,
    RepresentativeSubscription, RepresentativeUpdateInput,
};

use crate::db::TenantTx;
use crate::error::Result;
use crate::escalations::Escalation;
use crate::graphql::filter::{DateTimeFilter, IdFilter};
use crate::graphql::mutation::{MutationInfo, UserErrorCode, VerbError, VerbResult};
use crate::id::{RepresentativeId, UserId};
use crate::members::User;
use crate::metrics::TeamPerformance;
use crate::tickets::Ticket;
use crate::{entity, listing, pg_enum, relations};

pg_enum! {
    /// The role of a representative.
    pub enum RepresentativeRole("tenantry.representative_role", RepresentativeRoleFilter) {
        /// Answers tickets.
        Agent = "AGENT",
        /// Answers difficult tickets.
        SeniorAgent = "SENIOR_AGENT",
        /// Leads a team.
        TeamLead = "TEAM_LEAD",
        /// Leads several teams.
        Supervisor = "SUPERVISOR",
    }
}

pg_enum! {
    /// The availability of a representative.
    pub enum RepresentativeStatus("tenantry.representative_status", RepresentativeStatusFilter) {
        /// Available.
        Online = "ONLINE",
        /// Away for a short time.
        Away = "AWAY",
        /// At full capacity.
        Busy = "BUSY",
        /// Unavailable.
        Offline = "OFFLINE",
    }
}

entity! {
    /// A person who works on tickets.
    #[graphql(complex)]
    pub struct Representative("representatives", read by OrganizationRead, listed when "t.deleted_at is null") {
        /// Unique id.
        pub id: RepresentativeId,
        /// The user.
        #[graphql(skip)]
        pub user_id: UserId,
        /// Role.
        pub role: RepresentativeRole,
        /// Availability.
        pub status: RepresentativeStatus,
        /// Skills.
        pub skills: Vec<String>,
        /// Maximum number of open tickets.
        pub capacity: i32,
        /// When they ceased to be one; null: they are.
        pub removed_at: Option<DateTime<Utc>> = "deleted_at",
        /// Version; incremented by every change. Pass it as `expectedVersion`.
        pub version: i32,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    Representative: RepresentativeFilter, RepresentativeOrder by RepresentativeOrderField, default CreatedAt Asc;
    /// Role.
    role: RepresentativeRoleFilter;
    /// Availability.
    status: RepresentativeStatusFilter;
    /// User.
    user_id: IdFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    Representative {
        /// The assigned tickets.
        tickets -> Ticket by "t.assignee_id";
        /// The performance metrics by period. For members and above.
        performance -> TeamPerformance by "t.representative_id";
        /// The assigned escalations.
        escalations -> Escalation by "t.assigned_to";
        /// The absences, past and to come, latest first.
        absences -> RepresentativeAbsence by "t.representative_id";
    }
    one {
        /// The user.
        user -> User! by user_id;
    }

    /// Whether they are absent at this moment: nothing is assigned to them automatically.
    async fn is_absent(&self, ctx: &Context<'_>) -> Result<bool> {
        absences::is_absent(ctx, self.id).await
    }
}

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<RepresentativeCreateInput>(),
    MutationInfo::of::<RepresentativeUpdateInput>(),
    MutationInfo::of::<RepresentativeStatusSetInput>(),
    MutationInfo::of::<RepresentativeRemoveInput>(),
    MutationInfo::of::<RepresentativeAbsenceCreateInput>(),
    MutationInfo::of::<RepresentativeAbsenceDeleteInput>(),
];

fn no_such_representative(field: &str) -> VerbError {
    VerbError::user(field, UserErrorCode::NotFound, "There is no such representative in this organization.")
}

/// Refuses who is no representative. They stay one until the transaction ends; representatives are locked before tickets and
/// escalations.
///
/// # Errors
/// `NOT_FOUND` at this field; when the database cannot be reached.
pub async fn require_representative(tx: &mut TenantTx, field: &str, id: Option<RepresentativeId>) -> VerbResult<()> {
    let Some(id) = id else { return Ok(()) };
    let organization = tx.tenant().organization_id;
    sqlx::query_scalar!(
        "select id from tenantry.representatives where organization_id = $1 and id = $2 and deleted_at is null for share",
        organization as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?
    .map(drop)
    .ok_or_else(|| no_such_representative(field))
}

fn no_representative() -> VerbError {
    VerbError::of_input(UserErrorCode::NotFound, "The viewer is no representative of this organization.")
}
