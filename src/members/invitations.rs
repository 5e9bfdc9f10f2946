//! Invitations: made, sent again, revoked, accepted.
//!
//! Invariants: an invitation works once, until it expires, for whoever has both its token and the address that it was made
//! for. The token is shown once, to whoever invites; the database has its SHA-256. Of an address there is one open
//! invitation.

use std::collections::{HashMap, HashSet};
use std::fmt;

use async_graphql::InputObject;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Duration;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::access::{Action, Actions, MemberRole};
use crate::graphql::mutation::{
    Checks, Done, Mutation, MutationInfo, UserError, UserErrorCode, VerbError, VerbResult, Work,
};
use crate::id::{CustomRoleId, InvitationId, marker};
use crate::members::custom_roles::{LockedRole, lock_roles};
use crate::members::sql::{self, LockedInvitation, NewInvitation, NewInvitations};
use crate::members::verbs::{lock_members, require_covered, require_owner};

/// What tokens begin with, so that whoever finds one knows what it is.
const PREFIX: &str = "inv_";
/// How long an invitation is valid, in days, unless said.
const DAYS: i32 = 7;
/// The longest, in days.
const MAX_DAYS: i32 = 30;

/// The secret of an invitation: 256 random bits. `Debug` does not show it.
#[derive(Clone)]
pub struct InvitationToken([u8; 32]);

impl Default for InvitationToken {
    fn default() -> Self {
        Self(rand::random())
    }
}

impl fmt::Debug for InvitationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InvitationToken(…)")
    }
}

impl InvitationToken {
    /// The token as the link has it.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0))
    }

    /// What the database has of it.
    pub(super) fn hash(&self) -> Vec<u8> {
        hash(&self.text())
    }
}

/// What the database has of a token.
pub(super) fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.trim().as_bytes()).to_vec()
}

/// The address where an invitation is accepted.
#[must_use]
pub fn accept_url(app_url: &str, token: &InvitationToken) -> String {
    format!("{app_url}/invitations/accept?token={}", token.text())
}

/// A person to invite.
#[derive(Clone, Debug, InputObject)]
pub struct InvitationCreateInput {
    /// E-mail address: 3 to 320 characters. Whoever accepts must have an account with it.
    pub email: String,
    /// Role; MEMBER by default. OWNER is for owners to give.
    pub role: Option<MemberRole>,
    /// A custom role, in the place of `role`.
    pub custom_role_id: Option<CustomRoleId>,
    /// How many days it is valid: 1 to 30, 7 by default.
    pub expires_in_days: Option<i32>,
    #[graphql(skip)]
    pub(super) token: InvitationToken,
}

/// People to invite at once.
#[derive(Clone, Debug, InputObject)]
pub struct InvitationsCreateInput {
    /// The people: 1 to 1000.
    pub invitations: Vec<InvitationEntryInput>,
    /// How many days the invitations are valid: 1 to 30, 7 by default.
    pub expires_in_days: Option<i32>,
    #[graphql(skip)]
    pub(super) tokens: TokenSource,
}

/// One of many people to invite.
#[derive(Clone, Debug, InputObject)]
pub struct InvitationEntryInput {
    /// E-mail address: 3 to 320 characters.
    pub email: String,
    /// Role; MEMBER by default. OWNER is for owners to give.
    pub role: Option<MemberRole>,
    /// A custom role, in the place of `role`.
    pub custom_role_id: Option<CustomRoleId>,
}

/// Where the tokens of a request's invitations come from: those of the place in the list, from 256 random bits of the request.
#[derive(Clone, Debug, Default)]
pub struct TokenSource(InvitationToken);

impl TokenSource {
    /// The token of the invitation at this place.
    #[must_use]
    pub fn at(&self, place: usize) -> InvitationToken {
        let digest = Sha256::new().chain_update(self.0.0).chain_update(place.to_be_bytes()).finalize();
        InvitationToken(digest.into())
    }
}

/// The invitation to send again.
#[derive(Clone, Debug, InputObject)]
pub struct InvitationResendInput {
    /// The invitation.
    pub id: InvitationId,
    /// How many days it is valid from now on: 1 to 30, 7 by default.
    pub expires_in_days: Option<i32>,
    #[graphql(skip)]
    pub(super) token: InvitationToken,
}

/// The invitation to revoke.
#[derive(Clone, Debug, InputObject)]
pub struct InvitationRevokeInput {
    /// The invitation.
    pub id: InvitationId,
}

/// The invitation to accept.
#[derive(Clone, Debug, InputObject)]
pub struct InvitationAcceptInput {
    /// The token of the link.
    pub token: String,
}

/// The mutations of this file.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<InvitationCreateInput>(),
    MutationInfo {
        field: "invitationsCreate",
        action: Some(Action::InvitationWrite),
        audit: MANY_CREATED,
        row: "Organization",
    },
    MutationInfo::of::<InvitationResendInput>(),
    MutationInfo::of::<InvitationRevokeInput>(),
    MutationInfo { field: "invitationAccept", action: None, audit: ACCEPTED, row: "Invitation" },
];

/// What the audit log calls many invitations that were made at once.
pub(super) const MANY_CREATED: &str = "invitation.create_many";
/// Most invitations of a request.
const MAX_AT_ONCE: usize = 1000;

/// What the audit log calls an accepted invitation.
pub(super) const ACCEPTED: &str = "invitation.accept";

fn days(checks: &mut Checks, given: Option<i32>) -> Duration {
    let days = given.unwrap_or(DAYS);
    if !(1..=MAX_DAYS).contains(&days) {
        let message = format!("`expiresInDays` takes 1 to {MAX_DAYS}.");
        checks.refuse("expiresInDays", UserErrorCode::Invalid, message);
    }
    Duration::days(days.into())
}

fn check_email(checks: &mut Checks, given: &str) -> String {
    let email = checks.required("email", given, 320);
    let plausible = email.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty());
    if !email.is_empty() && (!plausible || email.chars().any(char::is_whitespace)) {
        checks.refuse("email", UserErrorCode::Invalid, "`email` must be an e-mail address.");
    }
    email
}

/// What an invitation gives: a role, or a custom role and VIEWER.
type Given = (MemberRole, Option<CustomRoleId>);

/// Which of the two the input names, if the viewer may give it.
fn check_role(
    work: &Work<'_>,
    role: Option<MemberRole>,
    custom: Option<CustomRoleId>,
    known: &HashMap<CustomRoleId, LockedRole>,
) -> VerbResult<Given> {
    match (role, custom) {
        (Some(_), Some(_)) => {
            Err(VerbError::user("role", UserErrorCode::Invalid, "Give either `role` or `customRoleId`."))
        }
        (None, Some(id)) => {
            let Some(custom) = known.get(&id) else {
                return Err(VerbError::user("customRoleId", UserErrorCode::NotFound, "There is no such role."));
            };
            require_covered(work, "customRoleId", custom.allows())?;
            Ok((MemberRole::Viewer, Some(id)))
        }
        (role, None) => {
            let role = role.unwrap_or(MemberRole::Member);
            require_owner(work, "role", &[role])?;
            require_covered(work, "role", Actions::of_role(role))?;
            Ok((role, None))
        }
    }
}

/// What became of one of many: the invitation, or why there is none.
pub(super) type Entry = std::result::Result<InvitationId, UserError>;

/// Makes many invitations in one transaction: those that can be made. Five statements, however many they are.
pub(super) async fn create_many(work: &mut Work<'_>, input: &InvitationsCreateInput) -> VerbResult<Vec<Entry>> {
    let mut checks = Checks::default();
    let given = input.invitations.len();
    if given == 0 || given > MAX_AT_ONCE {
        let message =
            format!("`invitations` takes 1 to {MAX_AT_ONCE}; these are {given}. Send the rest in another request.");
        checks.refuse("invitations", if given == 0 { UserErrorCode::Blank } else { UserErrorCode::TooLong }, message);
    }
    let valid = days(&mut checks, input.expires_in_days);
    checks.finish()?;
    lock_members(work).await?;
    let custom: Vec<CustomRoleId> = input.invitations.iter().filter_map(|entry| entry.custom_role_id).collect();
    let known = lock_roles(work.tx, &custom).await?;
    let mut seen = HashSet::new();
    let mut entries: Vec<std::result::Result<(String, Given), UserError>> = Vec::with_capacity(given);
    for entry in &input.invitations {
        let mut checks = Checks::default();
        let email = check_email(&mut checks, &entry.email);
        let checked = checks.finish().and_then(|()| check_role(work, entry.role, entry.custom_role_id, &known));
        entries.push(match checked {
            Err(VerbError::User(mut errors)) => Err(errors.remove(0)),
            Err(error @ VerbError::Fail(_)) => return Err(error),
            Ok(_) if !seen.insert(email.to_lowercase()) => {
                Err(UserError::new("email", UserErrorCode::Conflict, "This address is in the list before."))
            }
            Ok(given) => Ok((email, given)),
        });
    }
    let emails: Vec<String> = entries.iter().flatten().map(|(email, _)| email.to_lowercase()).collect();
    let members = sql::members_of(work.tx, &emails).await?;
    sql::end_expired_of(work.tx, &emails, work.now).await?;
    let mut new = NewInvitations::default();
    for (place, entry) in entries.iter().enumerate() {
        if let Ok((email, (role, custom))) = entry
            && !members.contains(&email.to_lowercase())
        {
            new.ids.push(work.new_id::<marker::Invitation>().uuid());
            new.emails.push(email.clone());
            new.roles.push(role.label().to_owned());
            new.custom_roles.push(custom.map(CustomRoleId::uuid));
            new.hashes.push(input.tokens.at(place).hash());
        }
    }
    let made = sql::insert_invitations(work.tx, &new, work.now + valid, work.now).await?;
    let became = entries.into_iter().map(|entry| {
        let (email, _) = entry?;
        let taken = |message| Err(UserError::new("email", UserErrorCode::Conflict, message));
        match made.get(&email) {
            Some(id) => Ok(*id),
            None if members.contains(&email.to_lowercase()) => taken("Somebody with this address is a member already."),
            None => taken(
                "There is an open invitation for this address: send it again (invitationResend), or revoke it first.",
            ),
        }
    });
    Ok(became.collect())
}

impl Mutation for InvitationCreateInput {
    type Row = marker::Invitation;
    const FIELD: &'static str = "invitationCreate";
    const ACTION: Action = Action::InvitationWrite;
    const AUDIT: &'static str = "invitation.create";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let email = check_email(&mut checks, &self.email);
        let valid = days(&mut checks, self.expires_in_days);
        checks.finish()?;
        lock_members(work).await?;
        let known = lock_roles(work.tx, self.custom_role_id.as_slice()).await?;
        let (role, custom_role) = check_role(work, self.role, self.custom_role_id, &known)?;
        let lower = [email.to_lowercase()];
        if !sql::members_of(work.tx, &lower).await?.is_empty() {
            let message = "Somebody with this address is a member already.";
            return Err(VerbError::user("email", UserErrorCode::Conflict, message));
        }
        sql::end_expired_of(work.tx, &lower, work.now).await?;
        let new = NewInvitation {
            id: work.new_id(),
            email: &email,
            role,
            custom_role,
            token_hash: &self.token.hash(),
            expires_at: work.now + valid,
        };
        if !sql::insert_invitation(work.tx, &new, work.now).await? {
            let message =
                "There is an open invitation for this address: send it again (invitationResend), or revoke it first.";
            return Err(VerbError::user("email", UserErrorCode::Conflict, message));
        }
        Ok(Done {
            id: new.id,
            audit: json!({ "after": { "role": role.label(), "customRole": custom_role.map(|id| id.to_string()), "expiresAt": new.expires_at } }),
            event: None,
        })
    }
}

/// The open invitation with this id.
async fn open(work: &mut Work<'_>, id: InvitationId) -> VerbResult<LockedInvitation> {
    let Some(invitation) = sql::lock_invitation(work.tx, id).await? else {
        return Err(VerbError::user("id", UserErrorCode::NotFound, "There is no such invitation."));
    };
    if invitation.is_foreign {
        let message = "Clerk has sent this invitation: send it again or revoke it there.";
        return Err(VerbError::user("id", UserErrorCode::ManagedElsewhere, message));
    }
    if invitation.is_settled {
        let message = "The invitation was accepted or revoked: make another one.";
        return Err(VerbError::user("id", UserErrorCode::InvalidTransition, message));
    }
    require_owner(work, "id", &[invitation.role])?;
    require_covered(work, "id", invitation.allows())?;
    Ok(invitation)
}

impl Mutation for InvitationResendInput {
    type Row = marker::Invitation;
    const FIELD: &'static str = "invitationResend";
    const ACTION: Action = Action::InvitationWrite;
    const AUDIT: &'static str = "invitation.resend";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let valid = days(&mut checks, self.expires_in_days);
        checks.finish()?;
        open(work, self.id).await?;
        let expires_at = work.now + valid;
        sql::renew_invitation(work.tx, self.id, &self.token.hash(), expires_at, work.now).await?;
        Ok(Done { id: self.id, audit: json!({ "after": { "expiresAt": expires_at } }), event: None })
    }
}

impl Mutation for InvitationRevokeInput {
    type Row = marker::Invitation;
    const FIELD: &'static str = "invitationRevoke";
    const ACTION: Action = Action::InvitationWrite;
    const AUDIT: &'static str = "invitation.revoke";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let invitation = open(work, self.id).await?;
        sql::revoke_invitation(work.tx, self.id, work.now).await?;
        Ok(Done { id: self.id, audit: json!({ "before": { "role": invitation.role.label() } }), event: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_random_and_not_shown() {
        let (one, other) = (InvitationToken::default(), InvitationToken::default());
        assert_ne!(one.text(), other.text());
        assert!(one.text().starts_with("inv_") && one.text().len() == 47, "{}", one.text().len());
        assert_eq!(hash(&format!(" {}\n", one.text())), one.hash());
        assert!(!format!("{one:?}").contains(&one.text()[4..]));
    }
}
