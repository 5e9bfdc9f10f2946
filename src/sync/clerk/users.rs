//! Derives the rows of users and their personal workspaces.
//!
//! A new account takes over a row with its e-mail address that was adopted from an older system without an account.
//! That hands the row to the present owner of the address, so it happens only when the provider has verified the
//! address, when the row's id was made up by the adoption (never a provider's id, which may just be unknown so far),
//! when there is exactly one such row, and never for a superadmin.

use crate::db::SystemTx;
use crate::error::{Error, Result};
use crate::id::{Id, OrganizationId, OrganizationMemberId, UserId};
use crate::organizations::personal_workspace;
use crate::sync::effects::Effects;
use crate::sync::mirror::{self, Lock, Register as _, RemoteObject};

/// The row of a user.
pub(crate) struct UserRow {
    pub(crate) id: UserId,
    pub(crate) inserted: bool,
    pub(crate) linked: bool,
    pub(crate) deleted: bool,
}

/// A personal workspace.
pub(crate) struct Workspace {
    pub(crate) id: OrganizationId,
    pub(crate) inserted: bool,
}

/// Writes the row of the user; none, when only the deletion is known. The caller holds the user's lock.
pub(crate) async fn project(effects: &mut Effects<'_>, user: &RemoteObject<mirror::User>) -> Result<Option<UserRow>> {
    let known =
        sqlx::query!(r#"select id as "id: UserId", source_version from tenantry.users where clerk_id = $1"#, user.id)
            .fetch_optional(effects.tx.conn())
            .await?;
    let linked = link(effects, user, known.as_ref().map(|row| row.id)).await?;
    let (id, inserted) = match (linked, known) {
        (Some(id), _) => (id, true),
        // The row is not from the sync: mentions by other objects do not change it.
        (None, Some(row)) if row.source_version == 0 && !user.is_confirmed() && !user.deleted => {
            return Ok(Some(UserRow { id: row.id, inserted: false, linked: false, deleted: false }));
        }
        (None, Some(row)) => (row.id, false),
        (None, None) if user.is_blank() => return Ok(None),
        (None, None) => (Id::new(effects.clock), true),
    };
    let (email, avatar) = (&user.fields.email, &user.fields.avatar_url);
    sqlx::query!(
        "insert into tenantry.users (id, clerk_id, email, name, avatar_url, source_version, deleted_at, blocked_until, verified_email)
         values ($1, $2, $3, coalesce($4, tenantry.neutral_name($2)), $5, $6, case when $7 then $8::timestamptz end,
                 case when $11 = 9223372036854775807 then 'infinity' else to_timestamp($11::bigint / 1000.0) end, case when $12 then $3 end)
         on conflict (id) do update
            set email = case when $9 then excluded.email else users.email end,
                verified_email = case when $9 then excluded.verified_email else users.verified_email end,
                name = coalesce($4, users.name),
                avatar_url = case when $10 then excluded.avatar_url else users.avatar_url end,
                source_version = excluded.source_version, blocked_until = excluded.blocked_until,
                deleted_at = coalesce(users.deleted_at, excluded.deleted_at)",
        id as _,
        user.id,
        email.text(),
        user.fields.name.text(),
        avatar.text(),
        user.version(),
        user.deleted,
        effects.clock.now(),
        !email.is_unknown(),
        !avatar.is_unknown(),
        user.fields.blocked_until.get().flatten(),
        user.fields.verified.get() == Some(true)
    )
    .execute(effects.tx.conn())
    .await?;
    Ok(Some(UserRow { id, inserted, linked: linked.is_some(), deleted: user.deleted }))
}

/// Gives the adopted row with the same verified address to this account.
async fn link(
    effects: &mut Effects<'_>,
    user: &RemoteObject<mirror::User>,
    row: Option<UserId>,
) -> Result<Option<UserId>> {
    let Some(email) = user.fields.email.text().filter(|_| user.fields.verified.get() == Some(true)) else {
        return Ok(None);
    };
    let email = email.to_lowercase();
    mirror::lock(effects.tx, [Lock::Email(email.clone())]).await?;
    let candidates = sqlx::query_scalar!(
        r#"select u.id as "id: UserId" from tenantry.users u
            where lower(u.email) = $1 and u.clerk_id like 'legacy:%' and u.clerk_id <> $2 and u.deleted_at is null and not u.is_superadmin
              and not exists (select from tenantry.sync_objects o where o.source = 'CLERK' and o.kind = 'user' and o.object_id = u.clerk_id)
            limit 2"#,
        email,
        user.id
    )
    .fetch_all(effects.tx.conn())
    .await?;
    let [candidate] = candidates[..] else {
        if candidates.len() > 1 {
            tracing::warn!("several users have the address of a new account: none was linked");
        }
        return Ok(None);
    };
    if let Some(row) = row
        && !give_way(effects, row, candidate).await?
    {
        return Ok(None);
    }
    sqlx::query!("update tenantry.users set clerk_id = $2 where id = $1", candidate as _, user.id)
        .execute(effects.tx.conn())
        .await?;
    Ok(Some(candidate))
}

/// Deletes the row that an early membership created, and moves its memberships to the other row. A used row stays.
async fn give_way(effects: &mut Effects<'_>, early: UserId, other: UserId) -> Result<bool> {
    let conn = effects.tx.conn();
    sqlx::raw_sql("savepoint give_way").execute(&mut *conn).await?;
    sqlx::query!(
        "update tenantry.organization_members m set user_id = $2
          where m.user_id = $1
            and not exists (select from tenantry.organization_members x where x.organization_id = m.organization_id and x.user_id = $2)",
        early as _,
        other as _
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("delete from tenantry.organization_members where user_id = $1", early as _)
        .execute(&mut *conn)
        .await?;
    match sqlx::query!("delete from tenantry.users where id = $1", early as _).execute(&mut *conn).await {
        Ok(_) => {
            sqlx::raw_sql("release savepoint give_way").execute(conn).await?;
            Ok(true)
        }
        Err(sqlx::Error::Database(error)) if error.is_foreign_key_violation() => {
            sqlx::raw_sql("rollback to savepoint give_way").execute(conn).await?;
            tracing::warn!(user = %early, "not linked to the older row with the same address: this one has been used");
            Ok(false)
        }
        Err(error) => Err(Error::from(error)),
    }
}

/// Writes to the audit log of every organization of the user.
pub(crate) async fn record(effects: &mut Effects<'_>, user: &RemoteObject<mirror::User>, row: &UserRow) -> Result<()> {
    let shut_out = row.deleted || user.fields.blocked_until.get().flatten().is_some();
    let action = match row {
        UserRow { deleted: true, .. } => "user.delete",
        UserRow { linked: true, .. } => "user.link",
        _ => "user.sync",
    };
    let organizations = sqlx::query_scalar!(
        r#"select organization_id as "id: OrganizationId" from tenantry.organization_members
            where user_id = $1 and (deleted_at is null or $2) order by 1"#,
        row.id as _,
        row.deleted
    )
    .fetch_all(effects.tx.conn())
    .await?;
    for organization in organizations {
        effects.record(organization, action, ("User", row.id.uuid()), serde_json::json!({})).await?;
        if shut_out {
            effects.recheck_access(organization, Some(row.id)).await?;
        }
    }
    if shut_out { recheck_visits(effects, Some(&user.id)).await } else { Ok(()) }
}

/// Tells the streams of an operator, by their id at Clerk, in the organizations that they look into: they are no member there.
async fn recheck_visits(effects: &mut Effects<'_>, operator: Option<&str>) -> Result<()> {
    let visits = sqlx::query!(
        r#"select a.organization_id as "organization: OrganizationId", a.user_id as "user: UserId"
             from tenantry.support_accesses a join tenantry.users u on u.id = a.user_id
            where u.clerk_id = $1 and a.ended_at is null order by 1"#,
        operator
    )
    .fetch_all(effects.tx.conn())
    .await?;
    for visit in visits {
        effects.recheck_access(visit.organization, Some(visit.user)).await?;
    }
    Ok(())
}

/// The personal workspace of a user at Clerk, if there is one.
pub(crate) async fn workspace_of(tx: &mut SystemTx, clerk_id: &str) -> Result<Option<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select o.id as "id: OrganizationId"
             from tenantry.users u
             join tenantry.organization_members m on m.user_id = u.id and m.role = 'OWNER' and m.promoted_from is null
             join tenantry.organizations o on o.id = m.organization_id and o.is_personal
            where u.clerk_id = $1
            order by o.created_at limit 1"#,
        clerk_id
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// The user's personal workspace, created once when that is switched on, and deleted with the user. The workspace of
/// somebody else, in which the user is a member, stays.
pub(crate) async fn workspace(
    effects: &mut Effects<'_>,
    user: &RemoteObject<mirror::User>,
    row: &UserRow,
) -> Result<Option<Workspace>> {
    let known = sqlx::query!(
        r#"select o.id as "id: OrganizationId", o.name, o.version, o.source_version, o.deleted_at is not null as "deleted!"
             from tenantry.organizations o join tenantry.organization_members m on m.organization_id = o.id
            where o.is_personal and m.user_id = $1 and m.role = 'OWNER' and m.promoted_from is null
            order by o.created_at limit 1"#,
        row.id as _
    )
    .fetch_optional(effects.tx.conn())
    .await?;
    if known.is_none() && !(effects.settings.personal_workspaces && user.is_confirmed()) {
        return Ok(None);
    }
    let given = user.fields.first_given_name.text().or_else(|| user.fields.name.text());
    let (name, slug) = personal_workspace(given);
    let now = effects.clock.now();
    let inserted = known.is_none();
    let id = if let Some(known) = known {
        // The name is the user's from their first change on, and that of an adopted one was always theirs. A deleted one is
        // renamed, too: the deletion may have come before what was said first.
        let ours = known.source_version == 1 && known.version == 1;
        let rename = ours && known.name != name && effects.settings.personal_workspaces;
        if rename || (row.deleted && !known.deleted) {
            sqlx::query!(
                "update tenantry.organizations
                        set name = case when $2 then $3 else name end, slug = case when $2 then coalesce(tenantry.free_slug($4), slug) else slug end,
                            deleted_at = case when $5 then coalesce(deleted_at, $6::timestamptz) else deleted_at end
                      where id = $1",
                known.id as _,
                rename,
                name,
                slug,
                row.deleted,
                now
            )
            .execute(effects.tx.conn())
            .await?;
            let action = if row.deleted { "organization.delete" } else { "organization.sync" };
            let metadata = serde_json::json!({ "personal": true });
            effects.record(known.id, action, ("Organization", known.id.uuid()), metadata).await?;
        }
        known.id
    } else {
        let organization = OrganizationId::new(effects.clock);
        sqlx::query!("select tenantry.insert_organization($1, $2, $3, true, $4)", organization as _, name, slug, now)
            .fetch_one(effects.tx.conn())
            .await?;
        if row.deleted {
            sqlx::query!("update tenantry.organizations set deleted_at = $2 where id = $1", organization as _, now)
                .execute(effects.tx.conn())
                .await?;
        }
        sqlx::query!(
            "insert into tenantry.organization_members (organization_id, id, user_id, role, deleted_at)
                 values ($1, $2, $3, 'OWNER', case when $4 then $5::timestamptz end)",
            organization as _,
            OrganizationMemberId::new(effects.clock) as _,
            row.id as _,
            row.deleted,
            now
        )
        .execute(effects.tx.conn())
        .await?;
        let metadata = serde_json::json!({ "personal": true });
        effects.record(organization, "organization.create", ("Organization", organization.uuid()), metadata).await?;
        organization
    };
    if !row.deleted {
        sqlx::query!(
            "update tenantry.users set current_organization_id = $2 where id = $1 and current_organization_id is null",
            row.id as _,
            id as _
        )
        .execute(effects.tx.conn())
        .await?;
    }
    Ok(Some(Workspace { id, inserted }))
}

/// Ends a session before its tokens do, and tells the streams of its user.
pub(crate) async fn end_session(effects: &mut Effects<'_>, session: &str, user: Option<&str>) -> Result<()> {
    sqlx::query!(
        "insert into tenantry.ended_sessions (session_id, ended_at) values ($1, $2) on conflict (session_id) do nothing",
        session,
        effects.clock.now()
    )
    .execute(effects.tx.conn())
    .await?;
    let rows = sqlx::query!(
        r#"select m.organization_id as "organization: OrganizationId", u.id as "user: UserId"
             from tenantry.users u join tenantry.organization_members m on m.user_id = u.id
            where u.clerk_id = $1 and m.deleted_at is null order by 1"#,
        user
    )
    .fetch_all(effects.tx.conn())
    .await?;
    for row in rows {
        effects.recheck_access(row.organization, Some(row.user)).await?;
    }
    recheck_visits(effects, user).await
}
