//! The queries of the slice.

use crate::db::{Db, SystemTx};
use crate::error::{Error, Result};
use crate::id::{OrganizationId, UserId};
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
}

/// Looks up the user with this `sub` and their memberships; `None` when nobody has it.
///
/// This is the one read that spans organizations on behalf of the API. It goes through the door function
/// `tenantry.viewer`, which answers for one `sub` only, and needs no transaction.
pub async fn viewer(db: &Db, subject: &str) -> Result<Option<ViewerRow>> {
    if subject.contains('\0') {
        return Ok(None);
    }
    let rows = db
        .app_statement(|pool| async move {
            sqlx::query!(
                r#"select user_id as "user_id!: UserId", email, name as "name!", avatar_url,
                  is_superadmin as "is_superadmin!", organization_id as "organization_id?: OrganizationId",
                  organization_name as "organization_name?", organization_slug as "organization_slug?", clerk_org_id,
                  role::text as "role?"
             from tenantry.viewer($1)"#,
                subject
            )
            .fetch_all(&pool)
            .await
        })
        .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let user = User {
        id: first.user_id,
        clerk_id: subject.to_owned(),
        email: first.email.clone(),
        name: first.name.clone(),
        avatar_url: first.avatar_url.clone(),
    };
    let is_superadmin = first.is_superadmin;
    let mut memberships = Vec::with_capacity(rows.len());
    for row in rows {
        let (Some(id), Some(name), Some(slug), Some(role)) =
            (row.organization_id, row.organization_name, row.organization_slug, row.role)
        else {
            continue;
        };
        let role = MemberRole::from_label(&role)
            .ok_or_else(|| Error::internal("the database knows a member role that this build does not"))?;
        memberships.push(ViewerMembership {
            organization: OrganizationSummary { id, name, slug, clerk_org_id: row.clerk_org_id },
            role,
        });
    }
    Ok(Some(ViewerRow { user, is_superadmin, memberships }))
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
