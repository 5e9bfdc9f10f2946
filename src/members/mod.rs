//! People: users (global), their memberships in organizations, invitations, and what a role may do.
//!
//! Invariants: a user belongs to an organization through exactly one live membership; the role in it decides what they
//! may do, whatever a token claims. A membership that ended stays as a row with `deleted_at`, so that history can still
//! name its author.

mod graphql;
mod permissions;
mod roles;
mod sql;

use async_graphql::SimpleObject;
use chrono::{DateTime, Utc};

pub use graphql::MembersQuery;
pub use permissions::Action;

use crate::graphql::listing::{DateTimeFilter, IdFilter, StringFilter};
use crate::id::Id;
use crate::organizations::Organization;
use crate::{entity, listing, pg_enum};

pg_enum! {
    /// The role of a member, from everything to looking only.
    pub enum MemberRole("tenantry.member_role", MemberRoleFilter) {
        /// Everything, billing and deletion included. Every organization has at least one.
        Owner = "OWNER",
        /// Everything but billing and deletion.
        Admin = "ADMIN",
        /// Daily work: tickets, customers, refunds.
        Member = "MEMBER",
        /// Looking only.
        Viewer = "VIEWER",
    }
}

pg_enum! {
    /// What a user is in an organization, derived from their profile, representative and member rows.
    pub enum UserRole("tenantry.user_role", UserRoleFilter) {
        /// Has a customer profile only.
        Customer = "CUSTOMER",
        /// Works on tickets.
        Representative = "REPRESENTATIVE",
        /// Administers the organization.
        Admin = "ADMIN",
    }
}

entity! {
    /// A person, known by their account with the identity provider. Visible to those who share an organization.
    #[graphql(complex)]
    pub struct User("usr", "users", tenant: false, listed when "t.deleted_at is null", read by OrganizationRead) {
        /// The id.
        pub id: Id<User>,
        /// The identity provider's id of the user.
        #[graphql(skip)]
        pub clerk_id: String,
        /// The primary e-mail address; null where the identity provider has none.
        pub email: Option<String>,
        /// The full name.
        pub name: String,
        /// Where the picture is.
        pub avatar_url: Option<String>,
    }
}

entity! {
    /// A user's membership in this organization.
    #[graphql(complex)]
    pub struct OrganizationMember("mem", "organization_members", tenant: true, listed when "t.deleted_at is null", read by OrganizationRead) {
        /// The id.
        pub id: Id<OrganizationMember>,
        /// Whose membership.
        #[graphql(skip)]
        pub user_id: Id<User>,
        /// What they may do.
        pub role: MemberRole,
        /// When they joined.
        pub created_at: DateTime<Utc>,
        /// When the membership last changed.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    OrganizationMember,
    filter OrganizationMemberFilter {
        /// By role.
        role: MemberRoleFilter = "t.role",
        /// By user.
        user_id: IdFilter = "t.user_id",
        /// By the moment they joined.
        created_at: DateTimeFilter = "t.created_at",
    },
    order OrganizationMemberOrder by OrganizationMemberOrderField {
        /// When they joined.
        CreatedAt = "t.created_at", |row| row.created_at;
    },
    default CreatedAt Asc
}

entity! {
    /// An invitation to join the organization: good once, until it ends or is withdrawn. Its secret is never shown.
    #[graphql(complex)]
    pub struct Invitation("inv", "invitations", tenant: true, listed when "true", read by InvitationRead) {
        /// The id.
        pub id: Id<Invitation>,
        /// The address it was sent to.
        pub email: String,
        /// The role it gives.
        pub role: MemberRole,
        /// Who sent it.
        #[graphql(skip)]
        pub invited_by: Option<Id<User>>,
        /// When it ends.
        pub expires_at: DateTime<Utc>,
        /// When it was used.
        pub accepted_at: Option<DateTime<Utc>>,
        /// When it was withdrawn.
        pub revoked_at: Option<DateTime<Utc>>,
        /// When it was sent.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    Invitation,
    filter InvitationFilter {
        /// By address.
        email: StringFilter = "t.email",
        /// By role.
        role: MemberRoleFilter = "t.role",
        /// By the moment it ends.
        expires_at: DateTimeFilter = "t.expires_at",
        /// By the moment it was used.
        accepted_at: DateTimeFilter = "t.accepted_at",
        /// By the moment it was sent.
        created_at: DateTimeFilter = "t.created_at",
    },
    order InvitationOrder by InvitationOrderField {
        /// When it was sent.
        CreatedAt = "t.created_at", |row| row.created_at;
    },
    default CreatedAt Desc
}

/// An organization among the viewer's memberships, before one was chosen.
#[derive(Clone, Debug, SimpleObject)]
pub struct ViewerMembership {
    /// The organization.
    pub organization: OrganizationSummary,
    /// The viewer's role in it.
    pub role: MemberRole,
}

/// Enough of an organization to choose it by.
#[derive(Clone, Debug, SimpleObject)]
pub struct OrganizationSummary {
    /// The id, for `X-Organization-Id`.
    pub id: Id<Organization>,
    /// The name.
    pub name: String,
    /// The slug, for `X-Organization-Id`.
    pub slug: String,
    /// The identity provider's id, which development tokens carry.
    #[graphql(skip)]
    pub clerk_org_id: Option<String>,
}

pub use sql::{ViewerRow, subject_of, viewer};
