//! Representatives: the users who work on an organization's tickets.

use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::graphql::filter::{DateTimeFilter, IdFilter};
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
        /// Version; incremented by every change.
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
    }
    one {
        /// The user.
        user -> User! by user_id;
    }
}
