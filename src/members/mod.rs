//! People: users (global), their memberships in organizations, invitations, and what a role may do.
//!
//! Invariants: a user belongs to an organization through exactly one live membership; the role in it decides what they
//! may do, whatever a token claims. A membership that ended stays as a row with `deleted_at`, so that history can still
//! name its author.

mod graphql;
mod roles;
mod sql;

use async_graphql::SimpleObject;
use chrono::{DateTime, Utc};

use crate::access::MemberRole;
use crate::auth::TokenOrganization;
use crate::graphql::filter::{DateTimeFilter, IdFilter, StringFilter};
use crate::id::{InvitationId, OrganizationId, OrganizationMemberId, UserId};
use crate::{entity, enum_filter, listing, pg_enum};
pub use graphql::MembersQuery;

enum_filter!(MemberRole, MemberRoleFilter);

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
    pub struct User(global "users", read by OrganizationRead, listed when "t.deleted_at is null") {
        /// The id.
        pub id: UserId,
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
    pub struct OrganizationMember(
        "organization_members", read by OrganizationRead, listed when "t.deleted_at is null"
    ) {
        /// The id.
        pub id: OrganizationMemberId,
        /// Whose membership.
        #[graphql(skip)]
        pub user_id: UserId,
        /// What they may do.
        pub role: MemberRole,
        /// When they joined.
        pub created_at: DateTime<Utc>,
        /// When the membership last changed.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    OrganizationMember: OrganizationMemberFilter, OrganizationMemberOrder by OrganizationMemberOrderField,
        default CreatedAt Asc;
    /// Role.
    role: MemberRoleFilter;
    /// User.
    user_id: IdFilter;
    /// Moment they joined.
    created_at: DateTimeFilter, CreatedAt;
}

entity! {
    /// An invitation to join the organization: good once, until it ends or is withdrawn. Its secret is never shown.
    #[graphql(complex)]
    pub struct Invitation("invitations", read by InvitationRead) {
        /// The id.
        pub id: InvitationId,
        /// The address it was sent to.
        pub email: String,
        /// The role it gives.
        pub role: MemberRole,
        /// Who sent it.
        #[graphql(skip)]
        pub invited_by: Option<UserId>,
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
    Invitation: InvitationFilter, InvitationOrder by InvitationOrderField, default CreatedAt Desc;
    /// Address.
    email: StringFilter;
    /// Role.
    role: MemberRoleFilter;
    /// Moment it ends.
    expires_at: DateTimeFilter;
    /// Moment it was used.
    accepted_at: DateTimeFilter;
    /// Moment it was sent.
    created_at: DateTimeFilter, CreatedAt;
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
    pub id: OrganizationId,
    /// The name.
    pub name: String,
    /// The slug, for `X-Organization-Id`.
    pub slug: String,
    /// The identity provider's id, which development tokens carry.
    #[graphql(skip)]
    pub clerk_org_id: Option<String>,
}

impl OrganizationSummary {
    /// The organization claim of a development token.
    #[must_use]
    pub fn token_claim(&self) -> TokenOrganization {
        TokenOrganization {
            // An organization that the identity provider does not know is named by our id.
            id: self.clerk_org_id.clone().unwrap_or_else(|| self.id.uuid().to_string()),
            slug: Some(self.slug.clone()),
        }
    }
}

pub use sql::{ViewerRow, subject_of, viewer};
