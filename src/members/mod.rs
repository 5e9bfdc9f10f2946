//! People: users (global), their memberships in organizations, invitations, and what a role may do.
//!
//! Invariants: an organization has an owner; a user belongs to an organization through exactly one live membership; the role in it decides what they
//! may do, whatever a token claims. A membership that ended stays as a row with `deleted_at`, so that history can still
//! name its author.

mod accounts;
mod custom_roles;
mod domains;
mod graphql;
mod invitation_mail;
mod invitations;
mod roles;
mod sql;
mod verbs;

use async_graphql::SimpleObject;
use chrono::{DateTime, Utc};

use crate::access::MemberRole;
use crate::auth::TokenOrganization;
use crate::graphql::filter::{DateTimeFilter, IdFilter, StringFilter};
use crate::graphql::mutation::MutationInfo;
use crate::id::{
    CustomRoleId, InvitationId, MembershipRequestId, OrganizationDomainId, OrganizationId, OrganizationMemberId, UserId,
};
use crate::{entity, enum_filter, listing, pg_enum};
pub use accounts::{meet, meet_with_workspace};
pub use graphql::{MembersMutation, MembersQuery};
pub use invitation_mail::{InvitationMail, InvitationTemplate};

enum_filter!(MemberRole, MemberRoleFilter);

pg_enum! {
    /// The kind of a user in an organization, derived from the customer profile, representative and membership.
    pub enum UserRole("tenantry.user_role", UserRoleFilter) {
        /// A customer.
        Customer = "CUSTOMER",
        /// A representative.
        Representative = "REPRESENTATIVE",
        /// An administrator.
        Admin = "ADMIN",
    }
}

entity! {
    /// A person with an account at the identity provider. Visible to those who share an organization.
    #[graphql(complex)]
    pub struct User(global "users", read by OrganizationRead, listed when "t.deleted_at is null") {
        /// Unique id.
        pub id: UserId,
        /// The identity provider's id of the user.
        #[graphql(skip)]
        pub clerk_id: String,
        /// Primary e-mail address; null when the identity provider has none.
        pub email: Option<String>,
        /// Full name.
        pub name: String,
        /// URL of the picture.
        pub avatar_url: Option<String>,
    }
}

entity! {
    /// The membership of a user in the organization.
    #[graphql(complex)]
    pub struct OrganizationMember(
        "organization_members", read by OrganizationRead, listed when "t.deleted_at is null"
    ) {
        /// Unique id.
        pub id: OrganizationMemberId,
        /// The member's user.
        #[graphql(skip)]
        pub user_id: UserId,
        /// Role; VIEWER when there is a custom role.
        pub role: MemberRole,
        /// The custom role.
        #[graphql(skip)]
        pub custom_role_id: Option<CustomRoleId>,
        /// Whether the member has one of the organization's seats. Whoever only reads (VIEWER) needs none.
        pub has_seat: bool = "waits_for_seat is false and (role <> 'VIEWER' or custom_role_id is not null)",
        /// Whether all seats are taken, so that the member reads and changes nothing until one is free.
        pub waits_for_seat: bool,
        /// Time of joining.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
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
    /// Time of joining.
    created_at: DateTimeFilter, CreatedAt;
}

entity! {
    /// A role that the organization made of the program's actions.
    #[graphql(complex)]
    pub struct CustomRole("custom_roles", read by OrganizationRead) {
        /// Unique id.
        pub id: CustomRoleId,
        /// Name, unique in the organization.
        pub name: String,
        /// What it is for.
        pub description: Option<String>,
        /// The actions that it allows, beside reading the organization and leaving it.
        pub actions: Vec<String>,
        /// Version; incremented by every change. Pass it as `expectedVersion`.
        pub version: i32,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    CustomRole: CustomRoleFilter, CustomRoleOrder by CustomRoleOrderField, default CreatedAt Asc;
    /// Name.
    name: StringFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

entity! {
    /// An invitation to join the organization. It can be accepted once, until it expires or is revoked. Its secret is
    /// never shown.
    #[graphql(complex)]
    pub struct Invitation("invitations", read by InvitationRead) {
        /// Unique id.
        pub id: InvitationId,
        /// E-mail address of the invited person.
        pub email: String,
        /// Role that the invitation grants; VIEWER when there is a custom role.
        pub role: MemberRole,
        /// The custom role.
        #[graphql(skip)]
        pub custom_role_id: Option<CustomRoleId>,
        /// The user who sent it.
        #[graphql(skip)]
        pub invited_by: Option<UserId>,
        /// When it was mailed; null when it was not, or not yet.
        pub mailed_at: Option<DateTime<Utc>>,
        /// Why it was not mailed, as the mail server said; null otherwise.
        pub mail_problem: Option<String>,
        /// Expiry.
        pub expires_at: DateTime<Utc>,
        /// Time of acceptance.
        pub accepted_at: Option<DateTime<Utc>>,
        /// Time of revocation; null while in force.
        pub revoked_at: Option<DateTime<Utc>>,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    Invitation: InvitationFilter, InvitationOrder by InvitationOrderField, default CreatedAt Desc;
    /// E-mail address.
    email: StringFilter;
    /// Role.
    role: MemberRoleFilter;
    /// Expiry.
    expires_at: DateTimeFilter;
    /// Time of acceptance.
    accepted_at: DateTimeFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

pg_enum! {
    /// Whether whoever has an address at a domain of the organization joins at once.
    pub enum DomainEnrollment("tenantry.domain_enrollment", DomainEnrollmentFilter) {
        /// They join at once.
        Join = "JOIN",
        /// They ask, and somebody who may invite decides.
        Request = "REQUEST",
    }
}

entity! {
    /// A domain of the organization: whoever has a verified address at it may join, or ask to.
    pub struct OrganizationDomain("organization_domains", read by OrganizationRead) {
        /// Unique id.
        pub id: OrganizationDomainId,
        /// The domain.
        pub domain: String,
        /// Whether they join at once or ask to.
        pub enrollment: DomainEnrollment,
        /// What they become.
        pub role: MemberRole,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
    }
}

impl crate::graphql::rows::Related for OrganizationDomain {}

listing! {
    OrganizationDomain: OrganizationDomainFilter, OrganizationDomainOrder by OrganizationDomainOrderField,
        default CreatedAt Asc;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

entity! {
    /// Somebody's request to join the organization, by the domain of their address.
    #[graphql(complex)]
    pub struct MembershipRequest("membership_requests", read by InvitationRead) {
        /// Unique id.
        pub id: MembershipRequestId,
        /// Who asks.
        #[graphql(skip)]
        pub user_id: Option<UserId>,
        /// Who decided.
        #[graphql(skip)]
        pub decided_by: Option<UserId>,
        /// Whether it was accepted; null until it is decided.
        pub is_accepted: Option<bool>,
        /// When it was decided.
        pub decided_at: Option<DateTime<Utc>>,
        /// When it was made.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    MembershipRequest: MembershipRequestFilter, MembershipRequestOrder by MembershipRequestOrderField,
        default CreatedAt Desc;
    /// When it was made.
    created_at: DateTimeFilter, CreatedAt;
}

/// Every mutation of the slice.
#[must_use]
pub fn mutations() -> Vec<MutationInfo> {
    [verbs::MUTATIONS, invitations::MUTATIONS, custom_roles::MUTATIONS, domains::MUTATIONS].concat()
}

/// A membership of the viewer.
#[derive(Clone, Debug, SimpleObject)]
pub struct ViewerMembership {
    /// The organization.
    pub organization: OrganizationSummary,
    /// The viewer's role in it.
    pub role: MemberRole,
}

/// The essentials of an organization, to choose it by.
#[derive(Clone, Debug, SimpleObject)]
pub struct OrganizationSummary {
    /// Id, for `X-Organization-Id`.
    pub id: OrganizationId,
    /// Name.
    pub name: String,
    /// Slug, for `X-Organization-Id`.
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

pub use sql::{ViewerRow, subject_of, viewer, viewer_within};
pub use verbs::require_member;
