//! What a user is in an organization: derived, never stored, so it cannot disagree with the rows it comes from.

use std::collections::HashMap;
use std::sync::Weak;

use dataloader::BatchFn;

use crate::db::Bind;
use crate::error::{Error, Result};
use crate::graphql::session::Session;
use crate::id::UserId;
use crate::members::UserRole;

/// The batch function of the loader: roles of many users in one statement.
pub struct UserRoles(Weak<Session>);

impl UserRoles {
    /// For this session.
    #[must_use]
    pub fn new(session: Weak<Session>) -> Self {
        Self(session)
    }

    async fn fetch(&self, users: &[UserId]) -> Result<HashMap<UserId, UserRole>> {
        let session = self.0.upgrade().ok_or_else(|| Error::internal("a loader outlived its request"))?;
        let batch = session.batch("UserRole", "tenantry.organization_members", "rows", users.len());
        let tx = session.read().await?;
        let binds = [
            Bind::Uuid(tx.tenant().organization_id.uuid()),
            Bind::Uuids(users.iter().map(|user| user.uuid()).collect()),
        ];
        let rows = tx.fetch_for(Some(&batch), ROLES, &binds).await?;
        rows.iter()
            .map(|row| {
                let (id, admin, representative, customer) =
                    (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
                Ok((id, UserRole::of(admin, representative, customer)))
            })
            .filter_map(|found| found.map(|(id, role)| role.map(|role| (id, role))).transpose())
            .collect()
    }
}

impl UserRole {
    /// What a user is who is these; the highest counts.
    const fn of(admin: bool, representative: bool, customer: bool) -> Option<Self> {
        match (admin, representative, customer) {
            (true, ..) => Some(Self::Admin),
            (_, true, _) => Some(Self::Representative),
            (_, _, true) => Some(Self::Customer),
            _ => None,
        }
    }
}

/// The id of each user, and whether they administrate, represent and are served.
const ROLES: &str = "select u.id,
    exists (select from tenantry.organization_members m
             where m.organization_id = $1 and m.user_id = u.id and m.deleted_at is null
               and m.role in ('OWNER', 'ADMIN')),
    exists (select from tenantry.representatives r
             where r.organization_id = $1 and r.user_id = u.id and r.deleted_at is null)
    or exists (select from tenantry.organization_members m
             where m.organization_id = $1 and m.user_id = u.id and m.deleted_at is null
               and m.role = 'MEMBER'),
    exists (select from tenantry.customer_profiles c
             where c.organization_id = $1 and c.user_id = u.id and c.deleted_at is null)
from unnest($2::uuid[]) as u(id)";

impl BatchFn<UserId, Result<Option<UserRole>>> for UserRoles {
    async fn load(&mut self, keys: &[UserId]) -> HashMap<UserId, Result<Option<UserRole>>> {
        let roles = self.fetch(keys).await;
        keys.iter()
            .map(|key| (*key, roles.as_ref().map(|roles| roles.get(key).copied()).map_err(Clone::clone)))
            .collect()
    }
}
