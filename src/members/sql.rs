//! The queries of the slice.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::access::{Actions, Bearer};
use crate::db::{Db, Lane, Reading, Row, SystemTx, TenantTx, binds_of};
use crate::error::{Error, Result};
use crate::id::{CustomRoleId, InvitationId, OrganizationId, OrganizationMemberId, UserId};
use crate::members::{MemberRole, OrganizationSummary, User, ViewerMembership};

/// Who the viewer is and where they are a member, across organizations.
#[derive(Clone, Debug)]
pub struct ViewerRow {
    /// The viewer.
    pub user: User,
    /// Whether they may use `platform` fields.
    pub is_superadmin: bool,
    /// Their live memberships, by name of the organization.
    pub memberships: Vec<ViewerMembership>,
    /// Where they work, if they have said.
    pub current_organization: Option<OrganizationId>,
}

/// Who has this `sub`, with a row for each membership. This is the one read that spans organizations on behalf of the API:
/// it goes through the door function `tenantry.viewer`, which answers for one `sub` only.
const VIEWER: &str = "select user_id, email, name, avatar_url, is_superadmin, organization_id, organization_name,
    organization_slug, clerk_org_id, role::text, current_organization_id from tenantry.viewer($1, $2)";

/// Looks up the user with this `sub` and their memberships; `None` when nobody has it.
///
/// # Errors
/// When the database cannot be reached.
pub async fn viewer<'a>(db: &Db, bearer: impl Into<Bearer<'a>>) -> Result<Option<ViewerRow>> {
    let bearer = bearer.into();
    let Some(binds) = binds_of(bearer) else { return Ok(None) };
    read_viewer(bearer.subject, &db.read_alone(Lane::person(bearer.subject), VIEWER, &binds).await?)
}

/// The same in the transaction of a request: whoever holds a connection must not wait for another one.
///
/// # Errors
/// As [`viewer`].
pub async fn viewer_within(tx: &TenantTx<Reading>, bearer: Bearer<'_>) -> Result<Option<ViewerRow>> {
    let Some(binds) = binds_of(bearer) else { return Ok(None) };
    read_viewer(bearer.subject, &tx.fetch(VIEWER, &binds).await?)
}

fn read_viewer(subject: &str, rows: &[Row]) -> Result<Option<ViewerRow>> {
    let Some(first) = rows.first() else { return Ok(None) };
    let user = User {
        id: first.try_get(0)?,
        clerk_id: subject.to_owned(),
        email: first.try_get(1)?,
        name: first.try_get(2)?,
        avatar_url: first.try_get(3)?,
    };
    let is_superadmin = first.try_get(4)?;
    let mut memberships = Vec::with_capacity(rows.len());
    for row in rows {
        // A user without a membership is a row without an organization.
        let Some(id) = row.try_get(5)? else { continue };
        let role: String = row.try_get(9)?;
        let role = MemberRole::from_label(&role)
            .ok_or_else(|| Error::internal("the database knows a member role that this build does not"))?;
        let organization =
            OrganizationSummary { id, name: row.try_get(6)?, slug: row.try_get(7)?, clerk_org_id: row.try_get(8)? };
        memberships.push(ViewerMembership { organization, role });
    }
    let current_organization = first.try_get::<_, Option<Uuid>>(10)?.map(OrganizationId::from_uuid);
    Ok(Some(ViewerRow { user, is_superadmin, memberships, current_organization }))
}

/// The `sub` of the user with this e-mail address, for the command that makes development tokens.
pub async fn subject_of(db: &Db, email: &str) -> Result<Option<String>> {
    let mut tx = SystemTx::begin(db).await?;
    let subject = sqlx::query_scalar!(
        "select clerk_id from tenantry.users where lower(email) = lower($1) and deleted_at is null order by created_at limit 1",
        email
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(subject)
}

/// A living member.
#[derive(Clone, Debug)]
pub(super) struct LockedMember {
    pub id: OrganizationMemberId,
    pub user_id: UserId,
    pub role: MemberRole,
    pub custom_role_id: Option<CustomRoleId>,
    /// Those of the custom role, separated by commas.
    pub actions: Option<String>,
}

impl LockedMember {
    /// What they may do.
    pub(super) fn allows(&self) -> Actions {
        self.actions.as_deref().map_or_else(|| Actions::of_role(self.role), Actions::of_custom_role)
    }
}

/// The living member with this id.
pub(super) async fn lock_member(tx: &mut TenantTx, id: OrganizationMemberId) -> Result<Option<LockedMember>> {
    let organization = tx.tenant().organization_id;
    Ok(sqlx::query_as!(
        LockedMember,
        r#"select m.id as "id: OrganizationMemberId", m.user_id as "user_id: UserId", m.role as "role: MemberRole",
                  m.custom_role_id as "custom_role_id: CustomRoleId",
                  (select array_to_string(r.actions, ',') from tenantry.custom_roles r
                    where r.organization_id = m.organization_id and r.id = m.custom_role_id) as actions
             from tenantry.organization_members m where m.organization_id = $1 and m.id = $2 and m.deleted_at is null for update"#,
        organization as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// The viewer's membership.
pub(super) async fn membership_of_viewer(tx: &mut TenantTx) -> Result<Option<OrganizationMemberId>> {
    let tenant = tx.tenant();
    Ok(sqlx::query_scalar!(
        r#"select id as "id: OrganizationMemberId" from tenantry.organization_members where organization_id = $1 and user_id = $2"#,
        tenant.organization_id as _,
        tenant.actor.user() as _
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// Remembers the organization of the transaction as the one where its viewer works; `None` when they are no member of it.
pub(super) async fn switch_organization(tx: &mut TenantTx) -> Result<Option<OrganizationSummary>> {
    let organization = tx.tenant().organization_id;
    let row = sqlx::query!(
        "select o.name, o.slug, o.clerk_org_id from tenantry.organizations o where o.id = $1 and tenantry.switch_organization()",
        organization as _
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| OrganizationSummary {
        id: organization,
        name: row.name,
        slug: row.slug,
        clerk_org_id: row.clerk_org_id,
    }))
}

/// Whether a living owner remains without this one.
pub(super) async fn has_another_owner(tx: &mut TenantTx, but: OrganizationMemberId) -> Result<bool> {
    let organization = tx.tenant().organization_id;
    Ok(sqlx::query_scalar!(
        r#"select exists (select from tenantry.organization_members m join tenantry.users u on u.id = m.user_id
                           where m.organization_id = $1 and m.role = 'OWNER' and m.deleted_at is null and m.id <> $2
                             and u.deleted_at is null) as "exists!""#,
        organization as _,
        but as _
    )
    .fetch_one(tx.conn())
    .await?)
}

/// Whether there is a seat for one more member. The caller holds the organization.
pub(super) async fn has_seat(tx: &mut TenantTx) -> Result<bool> {
    Ok(sqlx::query_scalar!(r#"select tenantry.has_seat_here() as "has_seat!""#).fetch_one(tx.conn()).await?)
}

/// Gives a member a role.
pub(super) async fn set_role(
    tx: &mut TenantTx,
    id: OrganizationMemberId,
    role: MemberRole,
    custom: Option<CustomRoleId>,
) -> Result<()> {
    let organization = tx.tenant().organization_id;
    sqlx::query!(
        "update tenantry.organization_members set role = $3, custom_role_id = $4, promoted_from = null where organization_id = $1 and id = $2",
        organization as _,
        id as _,
        role as _,
        custom as _
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Ends a membership; the row stays.
pub(super) async fn end_membership(tx: &mut TenantTx, id: OrganizationMemberId, now: DateTime<Utc>) -> Result<()> {
    let organization = tx.tenant().organization_id;
    sqlx::query!(
        "update tenantry.organization_members set deleted_at = $3 where organization_id = $1 and id = $2",
        organization as _,
        id as _,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// An invitation to insert.
pub(super) struct NewInvitation<'a> {
    pub id: InvitationId,
    pub email: &'a str,
    pub role: MemberRole,
    pub custom_role: Option<CustomRoleId>,
    pub token_hash: &'a [u8],
    pub expires_at: DateTime<Utc>,
}

/// Inserts an invitation; `false` when the address has an open one.
pub(super) async fn insert_invitation(tx: &mut TenantTx, new: &NewInvitation<'_>, now: DateTime<Utc>) -> Result<bool> {
    let tenant = tx.tenant();
    let inserted = sqlx::query!(
        "insert into tenantry.invitations (organization_id, id, email, role, token_hash, invited_by, expires_at, created_at, mail_due_at, custom_role_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9)
         on conflict (organization_id, lower(email)) where accepted_at is null and revoked_at is null do nothing",
        tenant.organization_id as _,
        new.id as _,
        new.email,
        new.role as _,
        new.token_hash,
        tenant.actor.user() as _,
        new.expires_at,
        now,
        new.custom_role as _
    )
    .execute(tx.conn())
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// Those of these addresses, in lower case, that members have.
pub(super) async fn members_of(tx: &mut TenantTx, emails: &[String]) -> Result<HashSet<String>> {
    let organization = tx.tenant().organization_id;
    let found = sqlx::query_scalar!(
        r#"select lower(u.email) as "email!" from tenantry.organization_members m join tenantry.users u on u.id = m.user_id
            where m.organization_id = $1 and m.deleted_at is null and lower(u.email) = any($2)"#,
        organization as _,
        emails
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(found.into_iter().collect())
}

/// Revokes what has expired of these addresses, in lower case, so that they can be invited again.
pub(super) async fn end_expired_of(tx: &mut TenantTx, emails: &[String], now: DateTime<Utc>) -> Result<()> {
    let organization = tx.tenant().organization_id;
    sqlx::query!(
        "update tenantry.invitations set revoked_at = $3
          where organization_id = $1 and lower(email) = any($2) and accepted_at is null and revoked_at is null and expires_at <= $3",
        organization as _,
        emails,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Invitations to insert: a column each.
#[derive(Default)]
pub(super) struct NewInvitations {
    pub ids: Vec<Uuid>,
    pub emails: Vec<String>,
    pub roles: Vec<String>,
    pub custom_roles: Vec<Option<Uuid>>,
    pub hashes: Vec<Vec<u8>>,
}

/// Inserts invitations for those addresses that have no open one; their ids by address.
pub(super) async fn insert_invitations(
    tx: &mut TenantTx,
    new: &NewInvitations,
    expires_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<HashMap<String, InvitationId>> {
    let tenant = tx.tenant();
    let made = sqlx::query!(
        r#"insert into tenantry.invitations (organization_id, id, email, role, token_hash, invited_by, expires_at, created_at, mail_due_at, custom_role_id)
           select $1, n.id, n.email, n.role::tenantry.member_role, n.hash, $2, $3, $4, $4, n.custom_role_id
             from unnest($5::uuid[], $6::text[], $7::text[], $8::bytea[], $9::uuid[]) as n (id, email, role, hash, custom_role_id)
           on conflict (organization_id, lower(email)) where accepted_at is null and revoked_at is null do nothing
           returning id as "id: InvitationId", email"#,
        tenant.organization_id as _,
        tenant.actor.user() as _,
        expires_at,
        now,
        &new.ids,
        &new.emails,
        &new.roles,
        &new.hashes,
        &new.custom_roles as &[Option<Uuid>]
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(made.into_iter().map(|row| (row.email, row.id)).collect())
}

/// What deciding about an invitation needs to know.
pub(super) struct LockedInvitation {
    pub role: MemberRole,
    /// The actions of its custom role, separated by commas.
    pub actions: Option<String>,
    /// Accepted or revoked.
    pub is_settled: bool,
    /// Sent by Clerk.
    pub is_foreign: bool,
}

impl LockedInvitation {
    /// What whoever accepts it may do.
    pub fn allows(&self) -> Actions {
        self.actions.as_deref().map_or_else(|| Actions::of_role(self.role), Actions::of_custom_role)
    }
}

/// The invitation with this id.
pub(super) async fn lock_invitation(tx: &mut TenantTx, id: InvitationId) -> Result<Option<LockedInvitation>> {
    let organization = tx.tenant().organization_id;
    Ok(sqlx::query_as!(
        LockedInvitation,
        r#"select i.role as "role: MemberRole", (i.accepted_at is not null or i.revoked_at is not null) as "is_settled!",
                  i.clerk_invitation_id is not null as "is_foreign!",
                  (select array_to_string(r.actions, ',') from tenantry.custom_roles r
                    where r.organization_id = i.organization_id and r.id = i.custom_role_id) as actions
             from tenantry.invitations i where i.organization_id = $1 and i.id = $2 for update of i"#,
        organization as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// Gives an invitation a new token and a new end; the link of an earlier mail does not work any more.
pub(super) async fn renew_invitation(
    tx: &mut TenantTx,
    id: InvitationId,
    token_hash: &[u8],
    expires_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<()> {
    let organization = tx.tenant().organization_id;
    sqlx::query!(
        "update tenantry.invitations set token_hash = $3, expires_at = $4, mail_due_at = $5, mail_attempts = 0, mail_token_hash = null,
                mailed_at = null, mail_problem = null
          where organization_id = $1 and id = $2",
        organization as _,
        id as _,
        token_hash,
        expires_at,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Revokes an invitation.
pub(super) async fn revoke_invitation(tx: &mut TenantTx, id: InvitationId, now: DateTime<Utc>) -> Result<()> {
    let organization = tx.tenant().organization_id;
    sqlx::query!(
        "update tenantry.invitations set revoked_at = $3 where organization_id = $1 and id = $2",
        organization as _,
        id as _,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
