//! Rows of organizations from what is known of them, and who gets which slug.
//!
//! At the provider a slug is unique at one moment; here events of different moments meet. So a slug goes to the living
//! before the deleted, then to the older organization, and whoever wanted it too has it with a mark. That follows from
//! what is known, not from who came first.

use crate::db::SystemTx;
use crate::error::Result;
use crate::id::Id;
use crate::organizations::Organization;
use crate::webhooks::effects::Effects;
use crate::webhooks::facts::{self, Kind, Lock, Object};
use crate::webhooks::payload::slug_with_mark;

/// The row of an organization.
pub(crate) struct OrganizationRow {
    pub(crate) id: Id<Organization>,
    pub(crate) inserted: bool,
}

/// The row of the organization with this id at Clerk.
pub(crate) async fn find(tx: &mut SystemTx, clerk_id: &str) -> Result<Option<Id<Organization>>> {
    Ok(sqlx::query_scalar!(
        r#"select id as "id: Id<Organization>" from tenantry.organizations where clerk_org_id = $1"#,
        clerk_id
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// Makes the row as the organization is known; none, when nothing is known but that it is gone. Its lock is held.
pub(crate) async fn project(
    effects: &mut Effects<'_>,
    before: &Object,
    organization: &Object,
) -> Result<Option<OrganizationRow>> {
    let known = sqlx::query!(
        r#"select id as "id: Id<Organization>", source_version, deleted_at is not null as "deleted!"
             from tenantry.organizations where clerk_org_id = $1"#,
        organization.id
    )
    .fetch_optional(effects.tx.conn())
    .await?;
    let wanted = wanted_slug(organization);
    let marked = slug_with_mark(wanted.unwrap_or("organization"), &organization.id);
    let now = effects.clock.now();
    let (row, was_deleted) = match known {
        // Not from the sync: what others say in passing does not change it.
        Some(row) if row.source_version == 0 && !organization.is_confirmed() && !organization.deleted => {
            return Ok(Some(OrganizationRow { id: row.id, inserted: false }));
        }
        Some(row) => {
            // A name that a user gave here stays until the provider says something new.
            let renamed = before.text("name") != organization.text("name");
            sqlx::query!(
                "update tenantry.organizations
                    set name = case when $2 then coalesce($3, name) else name end, source_version = $4,
                        deleted_at = case when $5 then coalesce(deleted_at, $6::timestamptz) else deleted_at end
                  where id = $1",
                row.id as _,
                renamed,
                organization.text("name"),
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
            let id = Id::<Organization>::new(effects.clock);
            sqlx::query!(
                "insert into tenantry.organizations (id, clerk_org_id, name, slug, source_version, deleted_at)
                 values ($1, $2, coalesce($3, 'Unnamed'), $4, $5, case when $6 then $7::timestamptz end)",
                id as _,
                organization.id,
                organization.text("name"),
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
        facts::lock(effects.tx, slugs.iter().flatten().map(|slug| Lock::Slug((*slug).to_owned()))).await?;
        if wanted_before != wanted && !row.inserted {
            rename(effects.tx, row.id, &marked).await?;
        }
        for slug in slugs.into_iter().flatten() {
            give_slug(effects.tx, slug).await?;
        }
    }
    let action = if organization.deleted { "organization.delete" } else { "organization.sync" };
    effects.record(row.id, action, ("Organization", row.id.uuid()), serde_json::json!({})).await?;
    Ok(Some(row))
}

fn wanted_slug(organization: &Object) -> Option<&str> {
    organization.text("slug_key").or_else(|| organization.text("first_slug"))?.strip_prefix("slug:")
}

async fn rename(tx: &mut SystemTx, organization: Id<Organization>, slug: &str) -> Result<()> {
    sqlx::query!("update tenantry.organizations set slug = $2 where id = $1 and slug <> $2", organization as _, slug)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Gives the slug to whom it belongs of those who want it. Its lock is held.
async fn give_slug(tx: &mut SystemTx, slug: &str) -> Result<()> {
    let named = facts::naming(tx, &[Kind::Organization], &[super::translate::slug_key(slug)]).await?;
    let mut claims: Vec<Object> =
        named.into_iter().map(|(_, object)| object).filter(|object| wanted_slug(object) == Some(slug)).collect();
    claims.sort_by_key(|claim| (claim.deleted, claim.number("created_at").unwrap_or(i64::MAX), claim.id.clone()));
    let ids: Vec<String> = claims.iter().map(|claim| claim.id.clone()).collect();
    let rows = sqlx::query!(
        r#"select id as "id: Id<Organization>", clerk_org_id, slug from tenantry.organizations
            where slug = $1 or clerk_org_id = any($2)"#,
        slug,
        &ids
    )
    .fetch_all(tx.conn())
    .await?;
    let claim_of = |clerk_id: &Option<String>| ids.iter().position(|id| Some(id) == clerk_id.as_ref());
    // Somebody who is not from the provider, or has it from before the sync.
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
