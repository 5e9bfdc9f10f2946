//! Derives the rows of organizations, and decides which organization gets a slug.
//!
//! At the provider a slug is unique at one moment; here events of different moments meet. So a slug goes to a living
//! organization before a deleted one, then to the older one. The others get it with a mark. That follows from the
//! mirror, not from the order of events.

use crate::db::SystemTx;
use crate::error::Result;
use crate::id::OrganizationId;
use crate::sync::effects::Effects;
use crate::sync::mirror::{self, Lock, RemoteObject};
use crate::sync::payload::slug_with_mark;

/// The row of an organization.
pub(crate) struct OrganizationRow {
    pub(crate) id: OrganizationId,
    pub(crate) inserted: bool,
}

/// The organization with this id at Clerk.
pub(crate) async fn find(tx: &mut SystemTx, clerk_id: &str) -> Result<Option<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select id as "id: OrganizationId" from tenantry.organizations where clerk_org_id = $1"#,
        clerk_id
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// Writes the row of the organization; none, when only its deletion is known. The caller holds its lock.
pub(crate) async fn project(
    effects: &mut Effects<'_>,
    before: &RemoteObject<mirror::Organization>,
    organization: &RemoteObject<mirror::Organization>,
) -> Result<Option<OrganizationRow>> {
    let known = sqlx::query!(
        r#"select id as "id: OrganizationId", source_version, deleted_at is not null as "deleted!"
             from tenantry.organizations where clerk_org_id = $1"#,
        organization.id
    )
    .fetch_optional(effects.tx.conn())
    .await?;
    let wanted = wanted_slug(organization);
    let marked = slug_with_mark(wanted.unwrap_or("organization"), &organization.id);
    let now = effects.clock.now();
    let (row, was_deleted) = match known {
        // The row is not from the sync: mentions by other objects do not change it.
        Some(row) if row.source_version == 0 && !organization.is_confirmed() && !organization.deleted => {
            return Ok(Some(OrganizationRow { id: row.id, inserted: false }));
        }
        Some(row) => {
            // A name given here stays until the provider says something new.
            let renamed = before.fields.name.text() != organization.fields.name.text();
            sqlx::query!(
                "update tenantry.organizations
                    set name = case when $2 then coalesce($3, name) else name end, source_version = $4,
                        deleted_at = case when $5 then coalesce(deleted_at, $6::timestamptz) else deleted_at end
                  where id = $1",
                row.id as _,
                renamed,
                organization.fields.name.text(),
                organization.version(),
                organization.deleted,
                now
            )
            .execute(effects.tx.conn())
            .await?;
            (OrganizationRow { id: row.id, inserted: false }, row.deleted)
        }
        None if organization.is_blank() => return Ok(None),
        None => {
            let id = OrganizationId::new(effects.clock);
            sqlx::query!(
                "insert into tenantry.organizations (id, clerk_org_id, name, slug, source_version, deleted_at)
                 values ($1, $2, coalesce($3, 'Unnamed'), $4, $5, case when $6 then $7::timestamptz end)",
                id as _,
                organization.id,
                organization.fields.name.text(),
                marked,
                organization.version(),
                organization.deleted,
                now
            )
            .execute(effects.tx.conn())
            .await?;
            (OrganizationRow { id, inserted: true }, false)
        }
    };
    let wanted_before = wanted_slug(before).filter(|_| !row.inserted);
    if row.inserted || wanted_before != wanted || was_deleted != organization.deleted {
        let slugs = [wanted_before, wanted];
        mirror::lock(effects.tx, slugs.iter().flatten().map(|slug| Lock::Slug((*slug).to_owned()))).await?;
        if wanted_before != wanted && !row.inserted {
            rename(effects.tx, row.id, &marked).await?;
        }
        for slug in slugs.into_iter().flatten() {
            give_slug(effects.tx, slug).await?;
        }
    }
    if organization.deleted && !was_deleted {
        effects.recheck_access(row.id, None).await?;
    }
    let action = if organization.deleted { "organization.delete" } else { "organization.sync" };
    effects.record(row.id, action, ("Organization", row.id.uuid()), serde_json::json!({})).await?;
    Ok(Some(row))
}

fn wanted_slug(organization: &RemoteObject<mirror::Organization>) -> Option<&str> {
    let fields = &organization.fields;
    fields.slug_key.text().or_else(|| fields.first_slug.text())?.strip_prefix("slug:")
}

async fn rename(tx: &mut SystemTx, organization: OrganizationId, slug: &str) -> Result<()> {
    sqlx::query!("update tenantry.organizations set slug = $2 where id = $1 and slug <> $2", organization as _, slug)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Gives the slug to the organization that it belongs to. The caller holds its lock.
async fn give_slug(tx: &mut SystemTx, slug: &str) -> Result<()> {
    let mut claims = mirror::naming(tx, &[super::translate::slug_key(slug)]).await?;
    claims.retain(|object| wanted_slug(object) == Some(slug));
    claims.sort_by_key(|claim| (claim.deleted, claim.fields.created_at.get().unwrap_or(i64::MAX), claim.id.clone()));
    let ids: Vec<String> = claims.iter().map(|claim| claim.id.clone()).collect();
    let rows = sqlx::query!(
        r#"select id as "id: OrganizationId", clerk_org_id, slug from tenantry.organizations
            where slug = $1 or clerk_org_id = any($2)"#,
        slug,
        &ids
    )
    .fetch_all(tx.conn())
    .await?;
    let claim_of = |clerk_id: &Option<String>| ids.iter().position(|id| Some(id) == clerk_id.as_ref());
    // An organization that is not from the provider has it, or one has it from before the sync.
    if rows.iter().any(|row| row.slug == slug && claim_of(&row.clerk_org_id).is_none()) {
        return Ok(());
    }
    let Some(winner) = rows.iter().min_by_key(|row| claim_of(&row.clerk_org_id).unwrap_or(usize::MAX)) else {
        return Ok(());
    };
    for row in rows.iter().filter(|row| row.id != winner.id && row.slug == slug) {
        rename(tx, row.id, &slug_with_mark(slug, row.clerk_org_id.as_deref().unwrap_or_default())).await?;
    }
    rename(tx, winner.id, slug).await
}
