//! Derives the rows of members, and keeps an owner in every organization.
//!
//! Clerk knows admins and members, no owners. Where the provider names no OWNER, the ADMIN who created the organization
//! is promoted, or else the one who joined first; they are demoted when the provider names an owner. Nobody below ADMIN
//! is promoted: an organization that lost its last admin is reported in the audit log and the server's log.

use std::collections::{BTreeMap, BTreeSet};

use crate::access::MemberRole;
use crate::error::Result;
use crate::id::{OrganizationId, OrganizationMemberId, UserId};
use crate::sync::clerk::roles::role;
use crate::sync::clerk::users::UserRow;
use crate::sync::effects::Effects;
use crate::sync::mirror::{self, Lock, Register as _, RemoteObject};
use crate::sync::payload::moment_of_millis;

/// Writes the rows for these memberships, which must be all known ones of their pairs of user and organization. The
/// caller holds the locks of their users or of their organizations.
pub(crate) async fn project(effects: &mut Effects<'_>, memberships: &[RemoteObject<mirror::Membership>]) -> Result<()> {
    let mut pairs: BTreeMap<(&str, &str), Vec<&RemoteObject<mirror::Membership>>> = BTreeMap::new();
    for membership in memberships {
        if let (Some(user), Some(organization)) = (membership.fields.user.text(), membership.fields.organization.text())
        {
            pairs.entry((organization, user)).or_default().push(membership);
        }
    }
    let (organizations, users): (Vec<String>, Vec<String>) =
        pairs.keys().map(|(organization, user)| ((*organization).to_owned(), (*user).to_owned())).unzip();
    let rows = sqlx::query!(
        r#"select p.organization as "organization!", p.user as "user!", o.id as "organization_id: OrganizationId",
                  u.id as "user_id: UserId"
             from unnest($1::text[], $2::text[]) as p(organization, "user")
             join tenantry.organizations o on o.clerk_org_id = p.organization
             join tenantry.users u on u.clerk_id = p.user
            order by o.id, u.id"#,
        &organizations,
        &users
    )
    .fetch_all(effects.tx.conn())
    .await?;
    let tenants: BTreeSet<OrganizationId> = rows.iter().map(|row| row.organization_id).collect();
    mirror::lock(effects.tx, tenants.iter().map(|id| Lock::Tenant(id.uuid()))).await?;
    let mut lost = BTreeSet::new();
    for row in rows {
        let Some(known) = pairs.get(&(row.organization.as_str(), row.user.as_str())) else { continue };
        if project_pair(effects, row.organization_id, row.user_id, known).await? {
            lost.insert(row.organization_id);
        }
    }
    for organization in tenants {
        keep_an_owner(effects, organization, lost.contains(&organization)).await?;
    }
    Ok(())
}

/// Writes one row. Returns whether that removed an owner. Somebody who left and came back has two memberships: a living
/// one counts before a deleted one, then the newest.
async fn project_pair(
    effects: &mut Effects<'_>,
    organization: OrganizationId,
    user: UserId,
    memberships: &[&RemoteObject<mirror::Membership>],
) -> Result<bool> {
    let Some(membership) = memberships
        .iter()
        .max_by_key(|m| (!m.deleted, m.fields.created_at.get(), m.fields.role.version().cloned(), m.id.clone()))
    else {
        return Ok(false);
    };
    let role = membership.fields.role.text().and_then(|foreign| role(&effects.settings.clerk_roles, foreign));
    let role = role.unwrap_or(MemberRole::Viewer);
    let before = sqlx::query!(
        r#"select role as "role: MemberRole", deleted_at is not null as "deleted!" from tenantry.organization_members
            where organization_id = $1 and user_id = $2"#,
        organization as _,
        user as _
    )
    .fetch_optional(effects.tx.conn())
    .await?;
    let after = sqlx::query!(
        r#"insert into tenantry.organization_members
                  (organization_id, id, user_id, role, clerk_membership_id, source_version, created_at, deleted_at)
           select $1, $2, u.id, $4, $5, $6, coalesce($7, now()), case when $8 or u.deleted_at is not null then $9::timestamptz end
             from tenantry.users u where u.id = $3
           on conflict (organization_id, user_id) do update
              set role = case when organization_members.promoted_from = excluded.role and excluded.deleted_at is null
                              then organization_members.role else excluded.role end,
                  promoted_from = case when organization_members.promoted_from = excluded.role and excluded.deleted_at is null
                                       then organization_members.promoted_from end,
                  clerk_membership_id = excluded.clerk_membership_id,
                  source_version = excluded.source_version,
                  created_at = case when $7::timestamptz is null then organization_members.created_at else excluded.created_at end,
                  deleted_at = case when excluded.deleted_at is not null then coalesce(organization_members.deleted_at, excluded.deleted_at) end
           returning id as "id: OrganizationMemberId", role as "role: MemberRole", deleted_at is not null as "deleted!""#,
        organization as _,
        OrganizationMemberId::new(effects.clock) as _,
        user as _,
        role as _,
        membership.id,
        membership.version(),
        moment_of_millis(membership.fields.created_at.get()),
        membership.deleted,
        effects.clock.now()
    )
    .fetch_one(effects.tx.conn())
    .await?;
    if after.deleted {
        forget_current(effects, organization, user).await?;
    }
    let state = |role: MemberRole, deleted: bool| serde_json::json!({ "role": role.label(), "member": !deleted });
    let (was, is) = (before.as_ref().map(|row| state(row.role, row.deleted)), state(after.role, after.deleted));
    if was.as_ref() != Some(&is) {
        let metadata = serde_json::json!({ "before": was, "after": is });
        effects.record(organization, "member.sync", ("OrganizationMember", after.id.uuid()), metadata).await?;
        effects.recheck_access(organization, Some(user)).await?;
    }
    let owns = |role, deleted: bool| role == MemberRole::Owner && !deleted;
    Ok(before.is_some_and(|row| owns(row.role, row.deleted)) && !owns(after.role, after.deleted))
}

async fn forget_current(effects: &mut Effects<'_>, organization: OrganizationId, user: UserId) -> Result<()> {
    sqlx::query!(
        "update tenantry.users set current_organization_id = null where id = $1 and current_organization_id = $2",
        user as _,
        organization as _
    )
    .execute(effects.tx.conn())
    .await?;
    Ok(())
}

/// Ends every membership of a deleted user, also those that did not come from the provider.
pub(crate) async fn end_all(effects: &mut Effects<'_>, user: &UserRow) -> Result<()> {
    let organizations = sqlx::query_scalar!(
        r#"select organization_id as "id: OrganizationId" from tenantry.organization_members
            where user_id = $1 and deleted_at is null order by 1"#,
        user.id as _
    )
    .fetch_all(effects.tx.conn())
    .await?;
    mirror::lock(effects.tx, organizations.iter().map(|id| Lock::Tenant(id.uuid()))).await?;
    let ended = sqlx::query!(
        r#"update tenantry.organization_members
              set deleted_at = $2, role = coalesce(promoted_from, role), promoted_from = null
            where user_id = $1 and deleted_at is null
        returning organization_id as "organization_id: OrganizationId", id as "id: OrganizationMemberId""#,
        user.id as _,
        effects.clock.now()
    )
    .fetch_all(effects.tx.conn())
    .await?;
    sqlx::query!("update tenantry.users set current_organization_id = null where id = $1", user.id as _)
        .execute(effects.tx.conn())
        .await?;
    for row in ended {
        let metadata = serde_json::json!({ "after": { "member": false } });
        effects.record(row.organization_id, "member.sync", ("OrganizationMember", row.id.uuid()), metadata).await?;
        effects.recheck_access(row.organization_id, Some(user.id)).await?;
        keep_an_owner(effects, row.organization_id, true).await?;
    }
    Ok(())
}

/// Promotes or demotes as the module says. The caller holds the organization's lock. `lost`: it has just lost an owner.
///
/// A deleted organization is treated as any other: its members are the same whether the deletion came before or after.
pub(crate) async fn keep_an_owner(effects: &mut Effects<'_>, organization: OrganizationId, lost: bool) -> Result<()> {
    let members = sqlx::query!(
        r#"select m.id as "id: OrganizationMemberId", m.role as "role: MemberRole",
                  m.promoted_from as "promoted_from: MemberRole", m.created_at, u.clerk_id, o.clerk_org_id
             from tenantry.organization_members m
             join tenantry.users u on u.id = m.user_id
             join tenantry.organizations o on o.id = m.organization_id
            where m.organization_id = $1 and m.deleted_at is null and u.deleted_at is null
              and (m.role in ('OWNER', 'ADMIN') or m.promoted_from is not null)"#,
        organization as _
    )
    .fetch_all(effects.tx.conn())
    .await?;
    let owned = members.iter().any(|m| m.role == MemberRole::Owner && m.promoted_from.is_none());
    let creator = match members.first().and_then(|m| m.clerk_org_id.as_deref()).filter(|_| !owned) {
        Some(clerk_id) => {
            let object = mirror::load_one::<mirror::Organization>(effects.tx, clerk_id).await?;
            object.fields.created_by.text().map(str::to_owned)
        }
        None => None,
    };
    let chosen = members
        .iter()
        .filter(|m| !owned && m.promoted_from.unwrap_or(m.role) == MemberRole::Admin)
        .min_by_key(|m| (Some(&m.clerk_id) != creator.as_ref(), m.created_at, &m.clerk_id))
        .map(|m| m.id);
    for member in &members {
        let promote = Some(member.id) == chosen;
        let (role, promoted_from, action) = match (promote, member.promoted_from) {
            (true, None) => (MemberRole::Owner, Some(member.role), "member.promote"),
            (false, Some(role)) => (role, None, "member.demote"),
            _ => continue,
        };
        sqlx::query!(
            "update tenantry.organization_members set role = $3, promoted_from = $4 where organization_id = $1 and id = $2",
            organization as _,
            member.id as _,
            role as _,
            promoted_from as _
        )
        .execute(effects.tx.conn())
        .await?;
        if promote {
            tracing::info!(%organization, member = %member.id, "no owner is known: an administrator owns the organization");
        }
        let metadata =
            serde_json::json!({ "before": { "role": member.role.label() }, "after": { "role": role.label() } });
        effects.record(organization, action, ("OrganizationMember", member.id.uuid()), metadata).await?;
    }
    if lost && !owned && chosen.is_none() && is_alive(effects, organization).await? {
        tracing::warn!(%organization, "the organization has lost its last owner, and has no administrator to follow");
        let metadata = serde_json::json!({});
        effects.record(organization, "organization.ownerless", ("Organization", organization.uuid()), metadata).await?;
    }
    Ok(())
}

async fn is_alive(effects: &mut Effects<'_>, organization: OrganizationId) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select deleted_at is null as "alive!" from tenantry.organizations where id = $1"#,
        organization as _
    )
    .fetch_one(effects.tx.conn())
    .await?)
}
