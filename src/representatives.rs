//! Representatives: the users who work on an organization's tickets.

use std::sync::Arc;

use async_graphql::Context;
use chrono::{DateTime, Utc};

use crate::error::{Error, Result};
use crate::graphql::filter::{DateTimeFilter, IdFilter};
use crate::graphql::session::Session;
use crate::id::{RepresentativeId, UserId};
use crate::members::User;
use crate::metrics::TeamPerformance;
use crate::tickets::Ticket;
use crate::{connections, entity, listing, pg_enum};

pg_enum! {
    /// The rank of a representative.
    pub enum RepresentativeRole("tenantry.representative_role", RepresentativeRoleFilter) {
        /// Answers tickets.
        Agent = "AGENT",
        /// Answers difficult ones.
        SeniorAgent = "SENIOR_AGENT",
        /// Leads a team.
        TeamLead = "TEAM_LEAD",
        /// Leads the leads.
        Supervisor = "SUPERVISOR",
    }
}

pg_enum! {
    /// Whether a representative can take a ticket now.
    pub enum RepresentativeStatus("tenantry.representative_status", RepresentativeStatusFilter) {
        /// Can.
        Online = "ONLINE",
        /// Soon again.
        Away = "AWAY",
        /// Has enough to do.
        Busy = "BUSY",
        /// Cannot.
        Offline = "OFFLINE",
    }
}

entity! {
    /// Someone who works on tickets.
    #[graphql(complex)]
    pub struct Representative("representatives", read by OrganizationRead, listed when "t.deleted_at is null") {
        /// The id.
        pub id: RepresentativeId,
        /// The user.
        #[graphql(skip)]
        pub user_id: UserId,
        /// The rank.
        pub role: RepresentativeRole,
        /// Whether they can take a ticket now.
        pub status: RepresentativeStatus,
        /// What they know.
        pub skills: Vec<String>,
        /// How many open tickets they take at once.
        pub capacity: i32,
        /// Grows by one with every change.
        pub version: i32,
        /// Since when they work on tickets.
        pub created_at: DateTime<Utc>,
        /// When the row last changed.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    Representative: RepresentativeFilter, RepresentativeOrder by RepresentativeOrderField, default CreatedAt Asc;
    /// Rank.
    role: RepresentativeRoleFilter;
    /// Whether they can take a ticket now.
    status: RepresentativeStatusFilter;
    /// User.
    user_id: IdFilter;
    /// Moment they began.
    created_at: DateTimeFilter, CreatedAt;
}

connections! {
    Representative {
        /// The tickets they work on.
        tickets -> Ticket by "t.assignee_id";
        /// Their performance by period. For members and above.
        performance -> TeamPerformance by "t.representative_id";
    }

    /// The user.
    async fn user(&self, ctx: &Context<'_>) -> Result<Arc<User>> {
        Session::of(ctx)?
            .load(self.user_id)
            .await?
            .ok_or_else(|| Error::internal("a representative without a visible user"))
    }
}
