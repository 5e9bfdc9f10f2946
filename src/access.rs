//! Who may do what: roles, the permission matrix, and for whom a transaction works.
//!
//! The ground floor: the transaction, the session and every slice ask here, and nothing here knows a slice.

use async_graphql::Enum;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::id::{OrganizationId, UserId};
use crate::sql_enum;

sql_enum! {
    /// The role of a member in an organization.
    pub enum MemberRole("tenantry.member_role") {
        /// Every action, including billing and deletion. Every organization has at least one owner.
        Owner = "OWNER",
        /// Every action except billing and deletion.
        Admin = "ADMIN",
        /// Daily work: tickets, customers, refunds.
        Member = "MEMBER",
        /// Read-only access.
        Viewer = "VIEWER",
    }
}

/// How a request names its organization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OrganizationRef {
    /// Our id.
    Id(Uuid),
    /// The identity provider's id (`org_…`).
    Clerk(String),
    /// The slug.
    Slug(String),
}

/// What somebody may do in the place of a user (`AUTH_IMPERSONATION`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Impersonation {
    /// Nothing: tokens of impersonated users are refused.
    Off,
    /// What the user may, except for guarded actions and the fields of the platform.
    #[default]
    Restricted,
    /// Whatever the user may.
    Full,
}

/// For whom a transaction works, as the database just confirmed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The viewer.
    pub user_id: UserId,
    /// The organization whose rows are visible.
    pub organization_id: OrganizationId,
    /// The viewer's role in it.
    pub role: MemberRole,
    /// Whether the viewer may use `platform` fields.
    pub is_superadmin: bool,
}

/// Who decides who belongs to an organization.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdentitySource {
    /// This server, for all organizations.
    #[default]
    Tenantry,
    /// Clerk, for the organizations that it knows; this server for the others.
    Clerk,
}

/// Who makes users (`NEW_USERS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NewUsers {
    /// The first token that names them.
    ByToken,
    /// The identity provider's webhooks only.
    #[default]
    BySync,
}

/// Who brings a verified token, as the database is asked about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bearer<'a> {
    /// `sub`: the identity provider's id of the user.
    pub subject: &'a str,
    /// `sid`: the identity provider's session, when the token belongs to one.
    pub session: Option<&'a str>,
}

impl<'a> From<&'a str> for Bearer<'a> {
    fn from(subject: &'a str) -> Self {
        Self { subject, session: None }
    }
}

macro_rules! matrix {
    ($( $(#[$meta:meta])* $action:ident, $label:literal $(, $guarded:ident)?: $($role:ident)+ ;)+) => {
        /// An action that a role may allow.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum)]
        pub enum Action { $( $(#[$meta])* #[graphql(name = $label)] $action, )+ }

        impl Action {
            /// Every action.
            pub const ALL: &[Self] = &[$(Self::$action),+];

            /// The name in `viewer.permissions` and in error messages.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$action => $label),+ }
            }

            /// Whether only the user may, and nobody in their place: what moves money, makes keys, or changes who belongs to
            /// the organization and what it pays for.
            #[must_use]
            pub const fn is_guarded(self) -> bool {
                match self { $(Self::$action => matrix!(@ $($guarded)?)),+ }
            }

            /// The roles that may.
            #[must_use]
            pub const fn roles(self) -> &'static [MemberRole] {
                match self { $(Self::$action => &[$(MemberRole::$role),+]),+ }
            }
        }
    };
    (@) => { false };
    (@ guarded) => { true };
}

matrix! {
    /// Read the organization, its members, representatives, customers and tickets.
    OrganizationRead, "ORGANIZATION_READ": Owner Admin Member Viewer;
    /// Change the organization's name, contact and settings.
    OrganizationUpdate, "ORGANIZATION_UPDATE": Owner Admin;
    /// Create tickets.
    TicketCreate, "TICKET_CREATE": Owner Admin Member;
    /// Update, assign and close tickets.
    TicketUpdate, "TICKET_UPDATE": Owner Admin Member;
    /// Add messages and internal notes to tickets.
    TicketMessageAdd, "TICKET_MESSAGE_ADD": Owner Admin Member;
    /// Read internal notes on tickets.
    TicketNoteRead, "TICKET_NOTE_READ": Owner Admin Member;
    /// Read budgets, their usage and refunds.
    BudgetRead, "BUDGET_READ": Owner Admin Member;
    /// Read the subscription.
    BillingRead, "BILLING_READ": Owner Admin Member Viewer;
    /// Read agent configurations and decision rules.
    AgentRead, "AGENT_READ": Owner Admin Member;
    /// Read performance metrics.
    MetricsRead, "METRICS_READ": Owner Admin Member;
    /// Change the role of members and remove them. Owners only where an owner is concerned.
    MemberUpdate, "MEMBER_UPDATE", guarded: Owner Admin;
    /// Leave the organization.
    OrganizationLeave, "ORGANIZATION_LEAVE", guarded: Owner Admin Member Viewer;
    /// Hand the organization over to another member.
    OwnershipTransfer, "OWNERSHIP_TRANSFER", guarded: Owner;
    /// Invite people, send invitations again, revoke them. Owners only where an owner is invited.
    InvitationWrite, "INVITATION_WRITE", guarded: Owner Admin;
    /// Read invitations.
    InvitationRead, "INVITATION_READ": Owner Admin;
    /// Read API keys, never their secrets.
    ApiKeyRead, "API_KEY_READ": Owner Admin;
    /// Read the audit log.
    AuditRead, "AUDIT_READ": Owner Admin;
    /// Read the webhook events of the organization.
    WebhookRead, "WEBHOOK_READ": Owner Admin;
    /// Replay webhook events of the organization.
    WebhookReplay, "WEBHOOK_REPLAY", guarded: Owner Admin;
}

impl Action {
    /// Whether this role may.
    #[must_use]
    pub fn allows(self, role: MemberRole) -> bool {
        self.roles().contains(&role)
    }

    /// Refuses a role that may not.
    pub fn check(self, role: MemberRole) -> Result<()> {
        if self.allows(role) {
            Ok(())
        } else {
            Err(Error::Forbidden { role: role.label().to_owned(), action: self.label().to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greater_role_may_do_what_a_lesser_may() {
        let ranked = [MemberRole::Viewer, MemberRole::Member, MemberRole::Admin, MemberRole::Owner];
        for action in Action::ALL {
            let allowed: Vec<bool> = ranked.iter().map(|role| action.allows(*role)).collect();
            assert!(allowed.is_sorted(), "{}: {allowed:?}", action.label());
            assert!(action.allows(MemberRole::Owner), "{}", action.label());
        }
    }

    #[test]
    fn viewers_cannot_write() {
        for action in [Action::TicketCreate, Action::TicketUpdate, Action::TicketMessageAdd, Action::OrganizationUpdate]
        {
            assert!(action.check(MemberRole::Viewer).is_err());
        }
    }
}
