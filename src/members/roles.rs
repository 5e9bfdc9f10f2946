//! What a user is in an organization: derived, never stored, so it cannot disagree with the rows it comes from.

use std::collections::HashMap;
use std::sync::Weak;

use dataloader::BatchFn;

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
        let mut tx = session.read().await?;
        let organization = tx.tenant().organization_id;
        let rows = sqlx::query!(
            r#"select u.id as "id!: UserId",
                      exists (select from tenantry.organization_members m
                               where m.organization_id = $1 and m.user_id = u.id and m.deleted_at is null
                                 and m.role in ('OWNER', 'ADMIN')) as "admin!",
                      exists (select from tenantry.representatives r
                               where r.organization_id = $1 and r.user_id = u.id and r.deleted_at is null)
                      or exists (select from tenantry.organization_members m
                               where m.organization_id = $1 and m.user_id = u.id and m.deleted_at is null
                                 and m.role = 'MEMBER') as "representative!",
                      exists (select from tenantry.customer_profiles c
                               where c.organization_id = $1 and c.user_id = u.id and c.deleted_at is null) as "customer!"
                 from unnest($2::uuid[]) as u(id)"#,
            organization as _,
            users as _
        )
        .fetch_all(tx.conn())
        .await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                let role = match row {
                    _ if row.admin => UserRole::Admin,
                    _ if row.representative => UserRole::Representative,
                    _ if row.customer => UserRole::Customer,
                    _ => return None,
                };
                Some((row.id, role))
            })
            .collect())
    }
}

impl BatchFn<UserId, Result<Option<UserRole>>> for UserRoles {
    async fn load(&mut self, keys: &[UserId]) -> HashMap<UserId, Result<Option<UserRole>>> {
        let roles = self.fetch(keys).await;
        keys.iter()
            .map(|key| (*key, roles.as_ref().map(|roles| roles.get(key).copied()).map_err(Clone::clone)))
            .collect()
    }
}
