//! The queries of the slice.

use crate::access::Bearer;
use crate::db::{Bind, Db, Reading, Row, SystemTx, TenantTx};
use crate::error::{Error, Result};
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

/// Who has this `sub`, with a row for each membership. This is the one read that spans organizations on behalf of the API:
/// it goes through the door function `tenantry.viewer`, which answers for one `sub` only.
const VIEWER: &str = "select user_id, email, name, avatar_url, is_superadmin, organization_id, organization_name,
    organization_slug, clerk_org_id, role::text from tenantry.viewer($1, $2)";

/// Looks up the user with this `sub` and their memberships; `None` when nobody has it.
///
/// # Errors
/// When the database cannot be reached.
pub async fn viewer<'a>(db: &Db, bearer: impl Into<Bearer<'a>>) -> Result<Option<ViewerRow>> {
    let bearer = bearer.into();
    let Some(binds) = binds(bearer) else { return Ok(None) };
    read_viewer(bearer.subject, &db.read_alone(VIEWER, &binds).await?)
}

/// A bearer as the doors of the database take it; `None` when no database can hold it.
fn binds(bearer: Bearer<'_>) -> Option<[Bind; 2]> {
    let both = [Some(bearer.subject), bearer.session];
    let storable = !both.into_iter().flatten().any(|text| text.contains('\0'));
    // No session has an empty id.
    storable.then(|| [Bind::Text(bearer.subject.to_owned()), Bind::Text(bearer.session.unwrap_or_default().to_owned())])
}

/// The same in the transaction of a request: whoever holds a connection must not wait for another one.
///
/// # Errors
/// As [`viewer`].
pub async fn viewer_within(tx: &TenantTx<Reading>, bearer: Bearer<'_>) -> Result<Option<ViewerRow>> {
    let Some(binds) = binds(bearer) else { return Ok(None) };
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
