//! `viewer`, the mutations of members and invitations, and the relations of users and members.

use std::sync::Arc;

use async_graphql::{Context, InputObject, Object, SimpleObject};
use serde_json::json;

use crate::access::{Action, MemberRole, OrganizationRef};
use crate::db::{Admission, Invited, TenantTx, refuse};
use crate::error::{Error, Result};
use crate::graphql::mutation::{self, Ran, UserError, UserErrorCode, VerbResult, Work};
use crate::graphql::session::Session;
use crate::id::{InvitationId, OrganizationId, OrganizationMemberId, marker};
use crate::members::custom_roles::{
    CustomRoleCreateInput, CustomRoleDeleteInput, CustomRoleDeletePayload, CustomRolePayload, CustomRoleUpdateInput,
};
use crate::members::domains::{
    self, JoinableOrganization, MembershipRequestAcceptInput, MembershipRequestDeclineInput, MembershipRequestPayload,
    OrganizationDomainCreateInput, OrganizationDomainDeleteInput, OrganizationDomainDeletePayload,
    OrganizationDomainPayload, OrganizationJoinInput, OrganizationJoinPayload,
};
use crate::members::invitations::{
    self, ACCEPTED, InvitationAcceptInput, InvitationCreateInput, InvitationResendInput, InvitationRevokeInput,
    InvitationToken, InvitationsCreateInput, accept_url, hash,
};
use crate::members::sql::switch_organization;
use crate::members::verbs::{
    OrganizationLeaveInput, OrganizationMemberRemoveInput, OrganizationMemberUpdateInput,
    OrganizationOwnershipTransferInput, SWITCHED,
};
use crate::members::{
    CustomRole, Invitation, MembershipRequest, OrganizationMember, OrganizationSummary, User, ViewerMembership,
    ViewerRow, viewer, viewer_within,
};
use crate::organizations::{RestorableOrganization, restorable};
use crate::relations;
use crate::trail::{self, AuditEntry};

/// The root field of the slice.
#[derive(Debug, Default)]
pub struct MembersQuery;

#[Object]
impl MembersQuery {
    /// The user of the token. Available before an organization is chosen.
    async fn viewer(&self, ctx: &Context<'_>) -> Result<Viewer> {
        let session = Session::of(ctx)?;
        let identity = session.identity()?;
        let bearer = session.bearer().await?;
        let row = match session.read().await {
            Ok(tx) => viewer_within(&tx, bearer).await?,
            // Before an organization is chosen, or without a membership in it.
            Err(Error::OrganizationRequired | Error::OrganizationNotFound | Error::OrganizationMismatch) => {
                viewer(&session.services().db, bearer).await?
            }
            Err(error) => return Err(error),
        };
        match row {
            Some(row) => Ok(Viewer { row, impersonator: identity.impersonator.clone() }),
            None => match refuse(&session.services().db, bearer).await {
                // They came between the two questions.
                Err(Error::OrganizationNotFound) => Err(Error::AccountNotReady),
                refused => refused,
            },
        }
    }
}

/// The user of the token.
#[derive(Debug)]
pub struct Viewer {
    row: ViewerRow,
    impersonator: Option<String>,
}

/// The user of the token.
#[Object]
impl Viewer {
    /// The user.
    async fn user(&self) -> &User {
        &self.row.user
    }

    /// The viewer's role in the organization of the request; VIEWER when they have a custom role or no seat, null before an organization
    /// is chosen.
    async fn role(&self, ctx: &Context<'_>) -> Result<Option<MemberRole>> {
        match Session::of(ctx)?.tenant().await {
            Ok(tenant) => Ok(Some(tenant.role)),
            Err(Error::OrganizationRequired) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether all seats of the organization of the request are taken and the viewer has none: they read and change nothing
    /// (`SEAT_REQUIRED`) until one is free, which they get by itself. False before an organization is chosen.
    async fn waits_for_seat(&self, ctx: &Context<'_>) -> Result<bool> {
        match Session::of(ctx)?.tenant().await {
            Ok(tenant) => Ok(tenant.waits_for_seat),
            Err(Error::OrganizationRequired) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The identity provider's id of the impersonator; null when the user acts in person.
    async fn impersonator(&self) -> Option<&str> {
        self.impersonator.as_deref()
    }

    /// The actions that the viewer may take in the organization of the request; empty before one is chosen. Guarded
    /// actions are left out while somebody impersonates the user.
    async fn permissions(&self, ctx: &Context<'_>) -> Result<Vec<Action>> {
        let session = Session::of(ctx)?;
        let restricted = session.is_restricted();
        match session.tenant().await {
            Ok(tenant) => Ok(tenant.allowed.iter().filter(|action| !(restricted && action.is_guarded())).collect()),
            Err(Error::OrganizationRequired) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Whether the viewer is a superadmin of the platform.
    async fn is_superadmin(&self) -> bool {
        self.row.is_superadmin
    }

    /// The viewer's membership where they work, as `organizationSwitch` has left it: a hint for clients which organization
    /// to open. Null when there is none.
    async fn current_membership(&self) -> Option<&ViewerMembership> {
        let current = self.row.current_organization?;
        self.row.memberships.iter().find(|membership| membership.organization.id == current)
    }

    /// The deleted organizations that the viewer owns and can restore.
    async fn restorable_organizations(&self, ctx: &Context<'_>) -> Result<Vec<RestorableOrganization>> {
        let session = Session::of(ctx)?;
        restorable(&session.services().db, session.bearer().await?, session.clock().now()).await
    }

    /// The organizations that the viewer may join, or ask to, by the domain of their address (`organizationJoin`).
    async fn joinable_organizations(&self, ctx: &Context<'_>) -> Result<Vec<JoinableOrganization>> {
        domains::joinable(Session::of(ctx)?).await
    }

    /// The viewer's memberships, whose organizations `X-Organization-Id` may name.
    async fn memberships(&self) -> &[ViewerMembership] {
        &self.row.memberships
    }
}

/// The result of a mutation of a member.
#[derive(Debug, SimpleObject)]
pub struct OrganizationMemberPayload {
    /// The member as it is now; null when there are errors. A membership that ended is not listed any more.
    pub member: Option<Arc<OrganizationMember>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `organizationLeave`.
#[derive(Debug, SimpleObject)]
pub struct OrganizationLeavePayload {
    /// The id of the membership that ended; null when there are errors.
    pub member_id: Option<OrganizationMemberId>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `invitationCreate` and `invitationResend`.
#[derive(Debug, SimpleObject)]
pub struct InvitationSecretPayload {
    /// The invitation; null when there are errors.
    pub invitation: Option<Arc<Invitation>>,
    /// The address where the invited person accepts, with the secret of the invitation: shown only here. An earlier one
    /// does not work any more. Null when there are errors.
    pub accept_url: Option<String>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `invitationsCreate`.
#[derive(Debug, SimpleObject)]
pub struct InvitationsCreatePayload {
    /// What became of each, in the order of the input; empty when there are errors of the input as a whole.
    pub results: Vec<InvitationResult>,
    /// Errors of the input as a whole; empty on success.
    pub user_errors: Vec<UserError>,
}

/// What became of one of many invitations.
#[derive(Debug, SimpleObject)]
pub struct InvitationResult {
    /// The id of the invitation; null when it was not made.
    pub invitation_id: Option<InvitationId>,
    /// The address where the invited person accepts, shown only here; null when it was not made.
    pub accept_url: Option<String>,
    /// Why it was not made; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `invitationRevoke`.
#[derive(Debug, SimpleObject)]
pub struct InvitationRevokePayload {
    /// The invitation; null when there are errors.
    pub invitation: Option<Arc<Invitation>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The organization to work in.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationSwitchInput {
    /// One of the organizations of `viewer.memberships`.
    pub organization_id: OrganizationId,
}

/// The result of `organizationSwitch`.
#[derive(Debug, SimpleObject)]
pub struct OrganizationSwitchPayload {
    /// The viewer's membership there; null when there are errors.
    pub membership: Option<ViewerMembership>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `invitationAccept`.
#[derive(Debug, SimpleObject)]
pub struct InvitationAcceptPayload {
    /// The new membership; null when there are errors.
    pub membership: Option<ViewerMembership>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct MembersMutation;

#[Object]
impl MembersMutation {
    /// Changes the role of a member. Only owners make owners and change them, and the organization keeps one.
    async fn organization_member_update(
        &self,
        ctx: &Context<'_>,
        input: OrganizationMemberUpdateInput,
    ) -> Result<OrganizationMemberPayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(OrganizationMemberPayload { member: member_of(ctx, ran.id).await?, user_errors: ran.user_errors })
    }

    /// Removes a member. What they wrote stays theirs; their requests are refused from now on, and their streams end.
    async fn organization_member_remove(
        &self,
        ctx: &Context<'_>,
        input: OrganizationMemberRemoveInput,
    ) -> Result<OrganizationMemberPayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(OrganizationMemberPayload { member: member_of(ctx, ran.id).await?, user_errors: ran.user_errors })
    }

    /// Ends the viewer's membership in the organization of the request. The last owner stays.
    async fn organization_leave(
        &self,
        ctx: &Context<'_>,
        input: OrganizationLeaveInput,
    ) -> Result<OrganizationLeavePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(OrganizationLeavePayload { member_id: ran.id, user_errors: ran.user_errors })
    }

    /// Makes another member OWNER and the viewer ADMIN.
    async fn organization_ownership_transfer(
        &self,
        ctx: &Context<'_>,
        input: OrganizationOwnershipTransferInput,
    ) -> Result<OrganizationMemberPayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(OrganizationMemberPayload { member: member_of(ctx, ran.id).await?, user_errors: ran.user_errors })
    }

    /// Makes a role of actions.
    async fn custom_role_create(&self, ctx: &Context<'_>, input: CustomRoleCreateInput) -> Result<CustomRolePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(CustomRolePayload {
            custom_role: Session::of(ctx)?.load_written(ran.id).await?,
            user_errors: ran.user_errors,
        })
    }

    /// Changes a custom role, and with it what its members may do.
    async fn custom_role_update(&self, ctx: &Context<'_>, input: CustomRoleUpdateInput) -> Result<CustomRolePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(CustomRolePayload {
            custom_role: Session::of(ctx)?.load_written(ran.id).await?,
            user_errors: ran.user_errors,
        })
    }

    /// Deletes a custom role that no member has and no open invitation gives.
    async fn custom_role_delete(
        &self,
        ctx: &Context<'_>,
        input: CustomRoleDeleteInput,
    ) -> Result<CustomRoleDeletePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(CustomRoleDeletePayload { custom_role_id: ran.id, user_errors: ran.user_errors })
    }

    /// Invites an address. The payload has the link to send.
    async fn invitation_create(
        &self,
        ctx: &Context<'_>,
        input: InvitationCreateInput,
    ) -> Result<InvitationSecretPayload> {
        let token = input.token.clone();
        secret_payload(ctx, mutation::run(ctx, input).await?, &token).await
    }

    /// Invites many addresses at once: those that can be invited are. The payload has a link for each, in the order of the input.
    async fn invitations_create(
        &self,
        ctx: &Context<'_>,
        input: InvitationsCreateInput,
    ) -> Result<InvitationsCreatePayload> {
        let session = Session::of(ctx)?;
        let (entries, user_errors) = mutation::outcome(invite_many(session, &input).await)?;
        let app_url = &session.services().app_url;
        let results = entries.unwrap_or_default().into_iter().enumerate().map(|(place, entry)| match entry {
            Ok(id) => InvitationResult {
                invitation_id: Some(id),
                accept_url: Some(accept_url(app_url, &input.tokens.at(place))),
                user_errors: Vec::new(),
            },
            Err(mut error) => {
                let field = error.field.pop().unwrap_or_default();
                error.field = vec!["input".to_owned(), "invitations".to_owned(), place.to_string(), field];
                InvitationResult { invitation_id: None, accept_url: None, user_errors: vec![error] }
            }
        });
        Ok(InvitationsCreatePayload { results: results.collect(), user_errors })
    }

    /// Makes a new link for an open invitation; the old one does not work any more.
    async fn invitation_resend(
        &self,
        ctx: &Context<'_>,
        input: InvitationResendInput,
    ) -> Result<InvitationSecretPayload> {
        let token = input.token.clone();
        secret_payload(ctx, mutation::run(ctx, input).await?, &token).await
    }

    /// Revokes an open invitation.
    async fn invitation_revoke(
        &self,
        ctx: &Context<'_>,
        input: InvitationRevokeInput,
    ) -> Result<InvitationRevokePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(InvitationRevokePayload {
            invitation: Session::of(ctx)?.load_written(ran.id).await?,
            user_errors: ran.user_errors,
        })
    }

    /// Remembers the organization where the viewer works, for `viewer.currentMembership` on any device. Requests still name
    /// theirs, by the token or by `X-Organization-Id`. Available before an organization is chosen.
    async fn organization_switch(
        &self,
        ctx: &Context<'_>,
        input: OrganizationSwitchInput,
    ) -> Result<OrganizationSwitchPayload> {
        let membership = switch(Session::of(ctx)?, input.organization_id).await?;
        let missing = || {
            let message = "You are a member of no such organization: `viewer.memberships` has yours.";
            UserError::new("organizationId", UserErrorCode::NotFound, message)
        };
        let user_errors = if membership.is_some() { Vec::new() } else { vec![missing()] };
        Ok(OrganizationSwitchPayload { membership, user_errors })
    }

    /// Lets whoever has a verified address at a domain of the viewer's join, or ask to.
    async fn organization_domain_create(
        &self,
        ctx: &Context<'_>,
        input: OrganizationDomainCreateInput,
    ) -> Result<OrganizationDomainPayload> {
        let ran = mutation::run(ctx, input).await?;
        let domain = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(OrganizationDomainPayload { domain, user_errors: ran.user_errors })
    }

    /// Takes a domain back; who has joined stays.
    async fn organization_domain_delete(
        &self,
        ctx: &Context<'_>,
        input: OrganizationDomainDeleteInput,
    ) -> Result<OrganizationDomainDeletePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(OrganizationDomainDeletePayload { domain_id: ran.id, user_errors: ran.user_errors })
    }

    /// Joins an organization by the domain of the viewer's address, or asks it. Available before an organization is chosen.
    async fn organization_join(
        &self,
        ctx: &Context<'_>,
        input: OrganizationJoinInput,
    ) -> Result<OrganizationJoinPayload> {
        let joined = domains::join(Session::of(ctx)?, input.organization_id).await;
        let (membership, user_errors) = mutation::outcome(joined)?;
        let is_requested = membership.as_ref().is_some_and(Option::is_none);
        Ok(OrganizationJoinPayload { membership: membership.flatten(), is_requested, user_errors })
    }

    /// Makes whoever asked a member.
    async fn membership_request_accept(
        &self,
        ctx: &Context<'_>,
        input: MembershipRequestAcceptInput,
    ) -> Result<MembershipRequestPayload> {
        request_payload(ctx, mutation::run(ctx, input).await?).await
    }

    /// Declines a request; for 30 days it cannot be made again.
    async fn membership_request_decline(
        &self,
        ctx: &Context<'_>,
        input: MembershipRequestDeclineInput,
    ) -> Result<MembershipRequestPayload> {
        request_payload(ctx, mutation::run(ctx, input).await?).await
    }

    /// Accepts an invitation: the viewer becomes a member of its organization. The viewer's account must have the address
    /// that was invited. Available before an organization is chosen.
    async fn invitation_accept(
        &self,
        ctx: &Context<'_>,
        input: InvitationAcceptInput,
    ) -> Result<InvitationAcceptPayload> {
        let session = Session::of(ctx)?;
        match accept(session, &input.token).await? {
            Ok(membership) => Ok(InvitationAcceptPayload { membership: Some(membership), user_errors: Vec::new() }),
            Err(refused) => Ok(InvitationAcceptPayload { membership: None, user_errors: vec![refused] }),
        }
    }
}

/// Remembers where the viewer works; `None` when they are no member there.
async fn switch(session: &Session, organization: OrganizationId) -> Result<Option<ViewerMembership>> {
    let mut tx = match session.begin(&OrganizationRef::Id(organization.uuid())).await {
        Err(Error::OrganizationNotFound) => return Ok(None),
        begun => begun?,
    };
    let tenant = tx.tenant();
    let Some(summary) = switch_organization(&mut tx).await? else { return Ok(None) };
    let entry = AuditEntry::of(SWITCHED, tenant.organization_id, json!({}));
    trail::record(&mut tx, session.clock(), session.origin(), &entry).await?;
    tx.commit().await?;
    Ok(Some(ViewerMembership { organization: summary, role: tenant.role }))
}

async fn member_of(ctx: &Context<'_>, id: Option<OrganizationMemberId>) -> Result<Option<Arc<OrganizationMember>>> {
    Session::of(ctx)?.load_written(id).await
}

async fn request_payload(ctx: &Context<'_>, ran: Ran<marker::MembershipRequest>) -> Result<MembershipRequestPayload> {
    let request = Session::of(ctx)?.load_written(ran.id).await?;
    Ok(MembershipRequestPayload { request, user_errors: ran.user_errors })
}

async fn secret_payload(
    ctx: &Context<'_>,
    ran: Ran<marker::Invitation>,
    token: &InvitationToken,
) -> Result<InvitationSecretPayload> {
    let session = Session::of(ctx)?;
    Ok(InvitationSecretPayload {
        accept_url: ran.id.map(|_| accept_url(&session.services().app_url, token)),
        invitation: session.load_written(ran.id).await?,
        user_errors: ran.user_errors,
    })
}

/// Makes many invitations, with one row in the audit log that names them all.
async fn invite_many(session: &Session, input: &InvitationsCreateInput) -> VerbResult<Vec<invitations::Entry>> {
    let mut tx = session.write(Action::InvitationWrite).await?;
    let clock = session.clock();
    let mut work = Work::new(&mut tx, session);
    let entries = invitations::create_many(&mut work, input).await?;
    let ids: Vec<String> = entries.iter().flatten().map(ToString::to_string).collect();
    if !ids.is_empty() {
        let organization = tx.tenant().organization_id;
        let entry = AuditEntry::of(invitations::MANY_CREATED, organization, json!({ "after": { "invitations": ids } }));
        trail::record(&mut tx, clock, session.origin(), &entry).await?;
        tx.commit().await?;
    }
    Ok(entries)
}

/// Follows an invitation; the inner error is the caller's to mend.
async fn accept(session: &Session, token: &str) -> Result<std::result::Result<ViewerMembership, UserError>> {
    let bearer = session.bearer().await?;
    // Who acts in the place of a user makes them a member of nothing.
    if session.is_restricted() {
        return Err(Error::ImpersonationRestricted { action: "INVITATION_ACCEPT" });
    }
    let member = OrganizationMemberId::new(session.clock()).uuid();
    let invited = Invited { bearer, token_hash: &hash(token), member, now: session.clock().now() };
    let services = session.services();
    let admission = TenantTx::begin_by_invitation(&services.db, &invited, session.traffic_shared()).await?;
    let (mut tx, invitation, organization) = match admission {
        Admission::Joined { tx, invitation, name, slug, clerk_org_id } => {
            let id = tx.tenant().organization_id;
            (tx, invitation, OrganizationSummary { id, name, slug, clerk_org_id })
        }
        Admission::Refused(outcome) if outcome == "NO_ACCOUNT" => return refuse(&services.db, bearer).await,
        Admission::Refused(outcome) => return Ok(Err(refusal(&outcome))),
    };
    let tenant = tx.tenant();
    let after = json!({ "after": { "role": tenant.role.label(), "member": true } });
    let invitation = InvitationId::from_uuid(invitation.unwrap_or_default());
    let entry = AuditEntry::of(ACCEPTED, invitation, after);
    trail::record(&mut tx, session.clock(), session.origin(), &entry).await?;
    tx.commit().await?;
    Ok(Ok(ViewerMembership { organization, role: tenant.role }))
}

fn refusal(outcome: &str) -> UserError {
    let (code, message) = match outcome {
        "ACCEPTED" => (UserErrorCode::InvalidTransition, "The invitation was accepted before: it works once."),
        "REVOKED" => (UserErrorCode::InvalidTransition, "The invitation was revoked. Ask for another one."),
        "TOO_LATE" => (UserErrorCode::Expired, "The invitation has expired. Ask for another one."),
        "MEMBER" => (UserErrorCode::Conflict, "You are a member of this organization already."),
        "FULL" => (
            UserErrorCode::SeatsExhausted,
            "All seats of the organization are taken: ask one of its owners. The invitation stays open.",
        ),
        _ => (
            UserErrorCode::NotFound,
            "There is no invitation with this token for the address of your account. Sign in with the address that was invited.",
        ),
    };
    UserError::new("token", code, message)
}

relations! {
    User {}

    /// The user's role in the organization of the request; null when the user has none.
    async fn role(&self, ctx: &Context<'_>) -> Result<Option<crate::members::UserRole>> {
        Session::of(ctx)?.loader(super::roles::UserRoles::new).try_load(self.id).await.map_err(Error::internal)?
    }
}

relations! {
    OrganizationMember {}
    one {
        /// The member's user.
        user -> User! by user_id;
        /// The custom role; null without one.
        custom_role -> CustomRole by custom_role_id;
    }
}

relations! {
    CustomRole {}
    computed {
        /// All that whoever has the role may do, as `viewer.permissions` shows it.
        permissions: Vec<String> = |role| role.allowed_labels();
    }
}

relations! {
    MembershipRequest {}
    one {
        /// Who asks; null when it was declined, or they are gone.
        user -> User by user_id;
        /// Who decided.
        decided_by -> User by decided_by;
    }
}

relations! {
    Invitation {}
    one {
        /// The user who sent it.
        invited_by -> User by invited_by;
        /// The custom role that the invitation grants; null without one.
        custom_role -> CustomRole by custom_role_id;
    }
}
