//! Who is calling, as far as a verified credential tells. Membership and role are the database's to say.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::access::{Bearer, OrganizationRef};

/// What a verified token says about its bearer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `sub`: the identity provider's user id (Clerk: `user_…`), stored in `users.clerk_id`.
    pub subject: String,
    /// `sid`: the identity provider's session, when the token belongs to one.
    pub session_id: Option<String>,
    /// `act.sub`: who acts in the place of the subject, when somebody does (RFC 8693, section 4.1).
    pub impersonator: Option<String>,
    /// The organization the token was issued for, when it names one.
    pub organization: Option<TokenOrganization>,
    /// `exp`: after this moment the token, and any socket opened with it, is refused.
    pub expires_at: DateTime<Utc>,
}

impl Identity {
    /// Who brings the token.
    #[must_use]
    pub fn bearer(&self) -> Bearer<'_> {
        Bearer { subject: &self.subject, session: self.session_id.as_deref() }
    }
}

/// The organization claim of a token. The role it carries is not trusted: roles come from the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOrganization {
    /// The identity provider's organization id (Clerk: `org_…`), stored in `organizations.clerk_org_id`.
    pub id: String,
    /// The slug, when the token carries it.
    pub slug: Option<String>,
}

impl TokenOrganization {
    /// How to find the organization.
    #[must_use]
    pub fn reference(&self) -> OrganizationRef {
        Uuid::try_parse(&self.id).map_or_else(|_| OrganizationRef::Clerk(self.id.clone()), OrganizationRef::Id)
    }
}
