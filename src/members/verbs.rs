//! What members do with memberships: change roles, remove, leave, hand over.
//!
//! Invariants: an organization always has a living owner; only an owner touches an owner or makes one. Each verb locks the
//! organization's row first, so that of many demotions at once none sees the owners as they were before another.

use async_graphql::InputObject;
use serde_json::json;

use crate::access::{Action, Actions, IdentitySource, MemberRole};
use crate::db::TenantTx;
use crate::events::Event;
use crate::graphql::mutation::{Done, Mutation, MutationInfo, UserErrorCode, VerbError, VerbResult, Work};
use crate::id::{CustomRoleId, OrganizationMemberId, UserId, marker};
use crate::members::custom_roles::lock_role;
use crate::members::domains::SEATS_EXHAUSTED;
use crate::members::sql::{self, LockedMember};
use crate::organizations::lock_organization;

/// The new role of a member: `role` or `customRoleId`.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationMemberUpdateInput {
    /// The member.
    pub id: OrganizationMemberId,
    /// The new role; a custom role ends with it. OWNER is for owners to give.
    pub role: Option<MemberRole>,
    /// A custom role instead.
    pub custom_role_id: Option<CustomRoleId>,
}

/// The member to remove.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationMemberRemoveInput {
    /// The member.
    pub id: OrganizationMemberId,
}

/// Nothing but a key: the viewer leaves the organization of the request.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationLeaveInput {
    /// Idempotency key, 1 to 255 characters.
    pub idempotency_key: Option<String>,
}

/// The member who is to own the organization.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationOwnershipTransferInput {
    /// The member.
    pub member_id: OrganizationMemberId,
}

/// The mutations of this file.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<OrganizationMemberUpdateInput>(),
    MutationInfo::of::<OrganizationMemberRemoveInput>(),
    MutationInfo::of::<OrganizationLeaveInput>(),
    MutationInfo::of::<OrganizationOwnershipTransferInput>(),
    MutationInfo { field: "organizationSwitch", action: None, audit: SWITCHED, row: "Organization" },
];

/// What the audit log calls it when a member says that they work here.
pub(super) const SWITCHED: &str = "organization.switch";

/// Locks the organization, and refuses where the identity provider decides about its members.
pub(super) async fn lock_members(work: &mut Work<'_>) -> VerbResult<()> {
    let known_to_clerk = lock_organization(work.tx).await?;
    if known_to_clerk && work.identity_source == IdentitySource::Clerk {
        let message = "Clerk decides about the members of this organization: change them there, and they change here.";
        return Err(VerbError::of_input(UserErrorCode::ManagedElsewhere, message));
    }
    Ok(())
}

/// Refuses a viewer who is no owner, where an owner is concerned.
pub(super) fn require_owner(work: &Work<'_>, field: &str, concerned: &[MemberRole]) -> VerbResult<()> {
    if concerned.contains(&MemberRole::Owner) && work.tenant().role != MemberRole::Owner {
        let message = "Only an owner makes owners, changes their role or removes them.";
        return Err(VerbError::user(field, UserErrorCode::OwnerRequired, message));
    }
    Ok(())
}

/// Refuses where more is given, taken or touched than the viewer has.
pub(super) fn require_covered(work: &Work<'_>, field: &str, concerned: Actions) -> VerbResult<()> {
    if concerned.within(work.tenant().allowed) {
        return Ok(());
    }
    let message = "This role may do what you may not: whoever may do all of it has to.";
    Err(VerbError::user(field, UserErrorCode::BeyondOwnRole, message))
}

async fn own_membership(work: &mut Work<'_>) -> VerbResult<OrganizationMemberId> {
    sql::membership_of_viewer(work.tx).await?.ok_or_else(|| {
        VerbError::of_input(UserErrorCode::NotFound, "You are no member: operators leave by supportAccessEnd.")
    })
}

async fn living_member(work: &mut Work<'_>, field: &str, id: OrganizationMemberId) -> VerbResult<LockedMember> {
    match sql::lock_member(work.tx, id).await? {
        Some(member) => Ok(member),
        None => Err(VerbError::user(field, UserErrorCode::NotFound, "There is no such member.")),
    }
}

/// Refuses when nobody else owns the organization.
async fn require_another_owner(work: &mut Work<'_>, member: &LockedMember) -> VerbResult<()> {
    if member.role == MemberRole::Owner && !sql::has_another_owner(work.tx, member.id).await? {
        let message =
            "An organization has at least one owner: make another member OWNER first (organizationOwnershipTransfer).";
        return Err(VerbError::of_input(UserErrorCode::LastOwner, message));
    }
    Ok(())
}

impl Mutation for OrganizationMemberUpdateInput {
    type Row = marker::OrganizationMember;
    const FIELD: &'static str = "organizationMemberUpdate";
    const ACTION: Action = Action::MemberUpdate;
    const AUDIT: &'static str = "member.update";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let (role, custom) = match (self.role, self.custom_role_id) {
            (Some(role), None) => (role, None),
            // The trigger of the table ends a custom role with every other change of the role.
            (None, Some(id)) => (MemberRole::Viewer, Some(id)),
            _ => {
                let message = "Give either `role` or `customRoleId`.";
                return Err(VerbError::user("role", UserErrorCode::Invalid, message));
            }
        };
        lock_members(work).await?;
        let member = living_member(work, "id", self.id).await?;
        require_owner(work, "role", &[member.role, role])?;
        require_covered(work, "id", member.allows())?;
        match custom {
            Some(id) => {
                let custom = lock_role(work.tx, "customRoleId", id).await?;
                require_covered(work, "customRoleId", custom.allows())?;
            }
            None => require_covered(work, "role", Actions::of_role(role))?,
        }
        if role != MemberRole::Owner {
            require_another_owner(work, &member).await?;
        }
        let takes = |role: MemberRole, custom: Option<CustomRoleId>| role != MemberRole::Viewer || custom.is_some();
        let needs_one = takes(role, custom) && !takes(member.role, member.custom_role_id);
        if needs_one && !sql::has_seat(work.tx).await? {
            let field = if custom.is_some() { "customRoleId" } else { "role" };
            return Err(VerbError::user(field, UserErrorCode::SeatsExhausted, SEATS_EXHAUSTED));
        }
        sql::set_role(work.tx, member.id, role, custom).await?;
        let told = |role: MemberRole, custom: Option<CustomRoleId>| json!({ "role": role.label(), "customRole": custom.map(|id| id.to_string()) });
        Ok(Done {
            id: member.id,
            audit: json!({ "before": told(member.role, member.custom_role_id), "after": told(role, custom) }),
            event: Some(Event::access(Some(member.user_id))),
        })
    }
}

async fn end(work: &mut Work<'_>, member: LockedMember) -> VerbResult<Done<marker::OrganizationMember>> {
    require_another_owner(work, &member).await?;
    sql::end_membership(work.tx, member.id, work.now).await?;
    Ok(Done {
        id: member.id,
        audit: json!({ "before": { "role": member.role.label(), "member": true }, "after": { "member": false } }),
        event: Some(Event::access(Some(member.user_id))),
    })
}

impl Mutation for OrganizationMemberRemoveInput {
    type Row = marker::OrganizationMember;
    const FIELD: &'static str = "organizationMemberRemove";
    const ACTION: Action = Action::MemberUpdate;
    const AUDIT: &'static str = "member.remove";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        lock_members(work).await?;
        let member = living_member(work, "id", self.id).await?;
        require_owner(work, "id", &[member.role])?;
        require_covered(work, "id", member.allows())?;
        end(work, member).await
    }
}

impl Mutation for OrganizationLeaveInput {
    type Row = marker::OrganizationMember;
    const FIELD: &'static str = "organizationLeave";
    const ACTION: Action = Action::OrganizationLeave;
    const AUDIT: &'static str = "member.leave";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        lock_members(work).await?;
        let own = own_membership(work).await?;
        let member = living_member(work, "idempotencyKey", own).await?;
        end(work, member).await
    }
}

impl Mutation for OrganizationOwnershipTransferInput {
    type Row = marker::OrganizationMember;
    const FIELD: &'static str = "organizationOwnershipTransfer";
    const ACTION: Action = Action::OwnershipTransfer;
    const AUDIT: &'static str = "organization.transfer";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        lock_members(work).await?;
        let to = living_member(work, "memberId", self.member_id).await?;
        let own = own_membership(work).await?;
        if to.id == own {
            return Err(VerbError::user("memberId", UserErrorCode::Invalid, "The organization is yours already."));
        }
        sql::set_role(work.tx, to.id, MemberRole::Owner, None).await?;
        sql::set_role(work.tx, own, MemberRole::Admin, None).await?;
        Ok(Done {
            id: to.id,
            audit: json!({ "from": own.to_string(), "before": { "role": to.role.label() }, "after": { "role": MemberRole::Owner.label() } }),
            event: Some(Event::access(None)),
        })
    }
}

/// Refuses who is no member. The row stays as it is until the transaction ends: whoever removes the member waits.
///
/// # Errors
/// `NOT_FOUND` at this field; when the database cannot be reached.
pub async fn require_member(tx: &mut TenantTx, field: &str, user: UserId) -> VerbResult<()> {
    let organization = tx.tenant().organization_id;
    sqlx::query_scalar!(
        "select id from tenantry.organization_members where organization_id = $1 and user_id = $2 and deleted_at is null for share",
        organization as _,
        user as _
    )
    .fetch_optional(tx.conn())
    .await?
    .map(drop)
    .ok_or_else(|| {
        VerbError::user(field, UserErrorCode::NotFound, "There is no such member in this organization.")
    })
}
