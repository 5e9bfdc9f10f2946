//! Representatives: the users who work on an organization's tickets.

use std::sync::Arc;

use async_graphql::Context;
use chrono::{DateTime, Utc};

use crate::error::{Error, Result};
use crate::graphql::listing::{DateTimeFilter, IdFilter};
use crate::graphql::session::Session;
use crate::id::Id;
use crate::members::User;
use crate::metrics::{TeamPerformance, TeamPerformanceFilter, TeamPerformanceOrder};
use crate::tickets::{Ticket, TicketFilter, TicketOrder};
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
    pub struct Representative("rep", "representatives", tenant: true, listed when "t.deleted_at is null", read by OrganizationRead) {
        /// The id.
        pub id: Id<Representative>,
        /// The user.
        #[graphql(skip)]
        pub user_id: Id<User>,
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
    Representative,
    filter RepresentativeFilter {
        /// By rank.
        role: RepresentativeRoleFilter = "t.role",
        /// By whether they can take a ticket now.
        status: RepresentativeStatusFilter = "t.status",
        /// By user.
        user_id: IdFilter = "t.user_id",
        /// By the moment they began.
        created_at: DateTimeFilter = "t.created_at",
    },
    order RepresentativeOrder by RepresentativeOrderField {
        /// When they began.
        CreatedAt = "t.created_at", |row| row.created_at;
    },
    default CreatedAt Asc
}

connections! {
    Representative {
        /// The tickets they work on.
        tickets -> Ticket(TicketFilter, TicketOrder) by "t.assignee_id";
        /// Their performance by period. For members and above.
        performance -> TeamPerformance(TeamPerformanceFilter, TeamPerformanceOrder) by "t.representative_id";
    }

    /// The user.
    async fn user(&self, ctx: &Context<'_>) -> Result<Arc<User>> {
        Session::of(ctx)?
            .load(self.user_id)
            .await?
            .ok_or_else(|| Error::internal("a representative without a visible user"))
    }
}
