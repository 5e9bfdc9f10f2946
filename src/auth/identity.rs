//! Who is calling, as far as a verified credential tells. Membership and role are the database's to say.

use chrono::{DateTime, Utc};
use tokio::sync::OnceCell;
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
    /// What the token says of the person, for users that come with their tokens.
    pub profile: Profile,
    /// Set when this token's user was looked for, and made if there was none: once for each token.
    pub met: OnceCell<()>,
    /// `exp`: after this moment the token, and any socket opened with it, is refused.
    pub expires_at: DateTime<Utc>,
}

/// The claims about a person (`OpenID` Connect Core 1.0, section 5.1), as far as the columns can hold them. They open nothing:
/// what is of another form counts as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// `email`, if `email_verified` says that it is theirs.
    pub email: Option<String>,
    /// `name`, or `given_name` and `family_name`; never an address.
    pub name: Option<String>,
    /// `given_name`, or the first word of the name.
    pub given_name: Option<String>,
    /// `picture`, if it is an https address.
    pub avatar_url: Option<String>,
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
