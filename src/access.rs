//! Who may do what: roles, the permission matrix, and for whom a transaction works.
//!
//! The ground floor: the transaction, the session and every slice ask here, and nothing here knows a slice.

use std::net::IpAddr;

use async_graphql::Enum;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::id::{ApiKeyId, OrganizationId, UserId};
use crate::sql_enum;

sql_enum! {
    /// The role of a member in an organization.
    pub enum MemberRole("tenantry.member_role") {
        /// Every action, including deletion. Every organization has at least one owner.
        Owner = "OWNER",
        /// Every action except deletion and handing the organization over.
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
    /// That of the API key.
    OfKey,
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
    /// Who acts.
    pub actor: Actor,
    /// The organization whose rows are visible.
    pub organization_id: OrganizationId,
    /// The viewer's role in it; VIEWER for a program, and for whoever has a custom role.
    pub role: MemberRole,
    /// What the viewer may do.
    pub allowed: Actions,
    /// Whether the viewer may use `platform` fields.
    pub is_superadmin: bool,
    /// Whether an operator has suspended the organization: nothing is changed in it.
    pub is_suspended: bool,
    /// Whether there is no seat for the viewer: they read, and change nothing.
    pub waits_for_seat: bool,
}

impl Tenant {
    /// Refuses an action that is not allowed.
    ///
    /// # Errors
    /// [`Error::Forbidden`]; [`Error::SeatRequired`] for a member without a seat.
    pub fn check(&self, action: Action) -> Result<()> {
        if self.allowed.has(action) {
            return Ok(());
        }
        if self.waits_for_seat {
            return Err(Error::SeatRequired(action.label()));
        }
        let role = match self.actor {
            Actor::User(_) => self.role.label(),
            Actor::Key(_) => "API_KEY",
        };
        Err(Error::Forbidden { role: role.to_owned(), action: action.label().to_owned() })
    }
}

/// Who acts in a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A person.
    User(UserId),
    /// A program.
    Key(ApiKeyId),
}

impl Actor {
    /// The person.
    #[must_use]
    pub const fn user(self) -> Option<UserId> {
        match self {
            Self::User(id) => Some(id),
            Self::Key(_) => None,
        }
    }

    /// The program.
    #[must_use]
    pub const fn key(self) -> Option<ApiKeyId> {
        match self {
            Self::User(_) => None,
            Self::Key(id) => Some(id),
        }
    }

    /// The id of either.
    #[must_use]
    pub fn uuid(self) -> Uuid {
        match self {
            Self::User(id) => id.uuid(),
            Self::Key(id) => id.uuid(),
        }
    }
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

/// What a request is made with, as the database is asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    /// A person's token.
    Token(Bearer<'a>),
    /// A program's key.
    Key(KeyBearer<'a>),
}

/// A program's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyBearer<'a> {
    /// SHA-256 of the key.
    pub hash: &'a [u8],
    /// Where the request comes from.
    pub ip: Option<IpAddr>,
    /// The time that decides whether the key has expired.
    pub now: DateTime<Utc>,
}

impl<'a, T: Into<Bearer<'a>>> From<T> for Credential<'a> {
    fn from(bearer: T) -> Self {
        Self::Token(bearer.into())
    }
}

impl<'a> From<&'a str> for Bearer<'a> {
    fn from(subject: &'a str) -> Self {
        Self { subject, session: None }
    }
}

macro_rules! matrix {
    ($( $(#[$meta:meta])* $action:ident, $label:literal $(, $kind:ident)?: $($role:ident)+ ;)+) => {
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
                match self { $(Self::$action => matrix!(@guarded $($kind)?)),+ }
            }

            /// Whether it is for people: no program may, whatever its key. Who belongs to the organization, and as what, and
            /// which keys there are.
            #[must_use]
            pub const fn is_personal(self) -> bool {
                match self { $(Self::$action => matrix!(@personal $($kind)?)),+ }
            }

            /// The roles that may.
            #[must_use]
            pub const fn roles(self) -> &'static [MemberRole] {
                match self { $(Self::$action => &[$(MemberRole::$role),+]),+ }
            }
        }
    };
    (@guarded) => { false };
    (@guarded $kind:ident) => { true };
    (@personal) => { false };
    (@personal guarded) => { false };
    (@personal personal) => { true };
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
    /// Watch tickets.
    TicketWatch, "TICKET_WATCH": Owner Admin Member Viewer;
    /// Save views of the list of tickets.
    TicketViewWrite, "TICKET_VIEW_WRITE": Owner Admin Member;
    /// Define the custom fields of tickets, and change views of others that are shared.
    TicketConfigure, "TICKET_CONFIGURE": Owner Admin;
    /// Read internal notes on tickets.
    TicketNoteRead, "TICKET_NOTE_READ": Owner Admin Member;
    /// Create, change and archive customers.
    CustomerWrite, "CUSTOMER_WRITE": Owner Admin Member;
    /// Merge two customers, which cannot be undone.
    CustomerMerge, "CUSTOMER_MERGE": Owner Admin;
    /// Set one's own availability and absences as a representative.
    RepresentativeStatusSet, "REPRESENTATIVE_STATUS_SET": Owner Admin Member Viewer;
    /// Make members representatives, change and remove them, and set absences of others.
    RepresentativeWrite, "REPRESENTATIVE_WRITE": Owner Admin;
    /// Escalate tickets; assign, change and end escalations.
    EscalationWrite, "ESCALATION_WRITE": Owner Admin Member;
    /// Decide who is told of escalations.
    EscalationConfigure, "ESCALATION_CONFIGURE": Owner Admin;
    /// Read budgets and their usage.
    BudgetRead, "BUDGET_READ": Owner Admin Member;
    /// Create, change and archive budgets.
    BudgetWrite, "BUDGET_WRITE", guarded: Owner Admin;
    /// Spend from budgets; reserve, settle and release.
    BudgetSpend, "BUDGET_SPEND", guarded: Owner Admin Member;
    /// Read refunds.
    RefundRead, "REFUND_READ": Owner Admin Member;
    /// Request and escalate refunds; cancel one's own.
    RefundWrite, "REFUND_WRITE", guarded: Owner Admin Member;
    /// Approve and deny refunds, pay them again, record payments, cancel those of others.
    RefundApprove, "REFUND_APPROVE", personal: Owner Admin;
    /// Decide up to which amount whoever requests a refund may approve it.
    RefundConfigure, "REFUND_CONFIGURE", personal: Owner Admin;
    /// Read the subscription.
    BillingRead, "BILLING_READ": Owner Admin Member Viewer;
    /// Subscribe, change the plan, cancel, open Stripe's portal; read invoices.
    BillingManage, "BILLING_MANAGE", personal: Owner Admin;
    /// Read agent configurations and decision rules.
    AgentRead, "AGENT_READ": Owner Admin Member;
    /// Create and change agent configurations and decision rules, which decide about money.
    AgentWrite, "AGENT_WRITE", guarded: Owner Admin;
    /// Read performance metrics.
    MetricsRead, "METRICS_READ": Owner Admin Member;
    /// Change the role of members and remove them. Owners only where an owner is concerned.
    MemberUpdate, "MEMBER_UPDATE", personal: Owner Admin;
    /// Delete the organization, and restore it while that is possible.
    OrganizationDelete, "ORGANIZATION_DELETE", personal: Owner;
    /// Leave the organization.
    OrganizationLeave, "ORGANIZATION_LEAVE", personal: Owner Admin Member Viewer;
    /// Hand the organization over to another member.
    OwnershipTransfer, "OWNERSHIP_TRANSFER", personal: Owner;
    /// Invite people, send invitations again, revoke them. Owners only where an owner is invited.
    InvitationWrite, "INVITATION_WRITE", personal: Owner Admin;
    /// Read invitations.
    InvitationRead, "INVITATION_READ": Owner Admin;
    /// Read API keys and client keys, never their secrets.
    ApiKeyRead, "API_KEY_READ": Owner Admin;
    /// Create, rotate and revoke API keys, which can do no more than their maker, and client keys.
    ApiKeyWrite, "API_KEY_WRITE", personal: Owner Admin;
    /// Create, change and delete custom roles, which can do no more than their maker.
    RoleWrite, "ROLE_WRITE", personal: Owner Admin;
    /// Read the audit log.
    AuditRead, "AUDIT_READ": Owner Admin;
    /// Read the webhook events of the organization.
    WebhookRead, "WEBHOOK_READ": Owner Admin;
    /// Replay webhook events of the organization.
    WebhookReplay, "WEBHOOK_REPLAY", guarded: Owner Admin;
    /// Have feature flags decided, over OFREP.
    FeatureFlagRead, "FEATURE_FLAG_READ": Owner Admin Member Viewer;
    /// Override feature flags for the organization, within its plan.
    FeatureFlagWrite, "FEATURE_FLAG_WRITE", guarded: Owner Admin;
}

impl Action {
    /// Whether this role may.
    #[must_use]
    pub fn allows(self, role: MemberRole) -> bool {
        self.roles().contains(&role)
    }

    /// Whether only owners may: no custom role has it.
    #[must_use]
    pub fn is_owners_alone(self) -> bool {
        self.roles() == [MemberRole::Owner]
    }
}

/// A set of actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions(u64);

impl Actions {
    /// No action.
    pub const NONE: Self = Self(0);

    /// What a role may.
    #[must_use]
    pub fn of_role(role: MemberRole) -> Self {
        Action::ALL.iter().filter(|action| action.allows(role)).copied().collect()
    }

    /// What whoever has a custom role may: these actions, separated by commas, and what every member may.
    #[must_use]
    pub fn of_custom_role(labels: &str) -> Self {
        let given: Self = of_labels(labels).filter(|action| !action.is_owners_alone()).collect();
        given.with(Action::OrganizationRead).with(Action::OrganizationLeave).with(Action::FeatureFlagRead)
    }

    /// What a program may whose key has these scopes, separated by commas.
    #[must_use]
    pub fn of_key(labels: &str) -> Self {
        of_labels(labels).filter(|action| !action.is_personal()).collect()
    }

    /// Whether the action is one of them.
    #[must_use]
    pub const fn has(self, action: Action) -> bool {
        self.0 & (1 << action as u32) != 0
    }

    /// These and one more.
    #[must_use]
    pub const fn with(self, action: Action) -> Self {
        Self(self.0 | (1 << action as u32))
    }

    /// Whether the others have all of these.
    #[must_use]
    pub const fn within(self, others: Self) -> bool {
        self.0 & !others.0 == 0
    }

    /// The actions, in the order of the matrix.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        Action::ALL.iter().copied().filter(move |action| self.has(*action))
    }
}

impl FromIterator<Action> for Actions {
    fn from_iter<T: IntoIterator<Item = Action>>(actions: T) -> Self {
        actions.into_iter().fold(Self::NONE, Self::with)
    }
}

// A set has a bit for each.
const _: () = assert!(Action::ALL.len() <= 64);

/// What a newer version has written and this one does not know counts for nothing.
fn of_labels(labels: &str) -> impl Iterator<Item = Action> {
    labels.split(',').filter_map(|label| Action::ALL.iter().copied().find(|action| action.label() == label))
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
            assert!(!Actions::of_role(MemberRole::Viewer).has(action), "{}", action.label());
        }
    }

    #[test]
    fn sets_hold_what_they_are_made_of() {
        let key = Actions::of_key("TICKET_CREATE,MEMBER_UPDATE,API_KEY_WRITE,NO_SUCH,");
        assert_eq!(key.iter().collect::<Vec<_>>(), [Action::TicketCreate]);
        let custom = Actions::of_custom_role("TICKET_CREATE,MEMBER_UPDATE,OWNERSHIP_TRANSFER");
        assert!(custom.has(Action::MemberUpdate) && custom.has(Action::OrganizationRead));
        assert!(!custom.has(Action::OwnershipTransfer) && !custom.has(Action::AuditRead));
        let of = Actions::of_role;
        assert!(custom.within(of(MemberRole::Admin)) && !custom.within(of(MemberRole::Member)));
        assert!(
            of(MemberRole::Admin).within(of(MemberRole::Owner)) && !of(MemberRole::Owner).within(of(MemberRole::Admin))
        );
        assert_eq!(Action::ALL.iter().copied().collect::<Actions>(), of(MemberRole::Owner));
    }
}
