//! Custom roles: an organization's own names for sets of the program's actions.
//!
//! Invariants: nobody gives what they do not have, neither by making a role, nor by changing one, nor by giving it; what
//! only owners may do, no custom role has; a role that members have is not deleted.

use std::collections::HashMap;
use std::sync::Arc;

use async_graphql::{InputObject, MaybeUndefined, SimpleObject};
use serde_json::json;
use uuid::Uuid;

use crate::access::{Action, Actions};
use crate::db::TenantTx;
use crate::events::Event;
use crate::graphql::mutation::{
    Checks, Done, Mutation, MutationInfo, UserError, UserErrorCode, VerbError, VerbResult, Work, check_version,
};
use crate::id::{CustomRoleId, marker};
use crate::members::CustomRole;
use crate::members::verbs::require_covered;
use crate::organizations::lock_organization;

/// Most roles of one organization.
const MAX_ROLES: i64 = 100;

/// A role to make.
#[derive(Clone, Debug, InputObject)]
pub struct CustomRoleCreateInput {
    /// Name: 1 to 100 characters, unique in the organization whatever its case.
    pub name: String,
    /// What it is for: at most 500 characters.
    pub description: Option<String>,
    /// The actions that it allows, of the viewer's own, beside reading the organization and leaving it.
    pub actions: Vec<Action>,
}

/// The changes of a role. Omitted fields stay as they are.
#[derive(Clone, Debug, InputObject)]
pub struct CustomRoleUpdateInput {
    /// The role.
    pub id: CustomRoleId,
    /// Name: 1 to 100 characters.
    pub name: Option<String>,
    /// What it is for: at most 500 characters; null or "" removes it.
    pub description: MaybeUndefined<String>,
    /// The actions that it allows, replaced as a whole. Whoever has the role has these from the next request on.
    pub actions: Option<Vec<Action>>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The role to delete.
#[derive(Clone, Debug, InputObject)]
pub struct CustomRoleDeleteInput {
    /// The role. No member may have it, and no open invitation give it.
    pub id: CustomRoleId,
}

/// The result of `customRoleCreate` and `customRoleUpdate`.
#[derive(Debug, SimpleObject)]
pub struct CustomRolePayload {
    /// The role; null when there are errors.
    pub custom_role: Option<Arc<CustomRole>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `customRoleDelete`.
#[derive(Debug, SimpleObject)]
pub struct CustomRoleDeletePayload {
    /// The id of the deleted role; null when there are errors.
    pub custom_role_id: Option<CustomRoleId>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The mutations of this file.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<CustomRoleCreateInput>(),
    MutationInfo::of::<CustomRoleUpdateInput>(),
    MutationInfo::of::<CustomRoleDeleteInput>(),
];

impl CustomRole {
    /// All that whoever has the role may do.
    pub(super) fn allowed_labels(&self) -> Vec<String> {
        let allowed = Actions::of_custom_role(&self.actions.join(","));
        allowed.iter().map(|action| action.label().to_owned()).collect()
    }
}

/// A role in the hands of a verb.
#[derive(Debug)]
pub(super) struct LockedRole {
    name: String,
    description: Option<String>,
    actions: Vec<String>,
    version: i32,
}

impl LockedRole {
    /// What whoever has it may do.
    pub(super) fn allows(&self) -> Actions {
        Actions::of_custom_role(&self.actions.join(","))
    }
}

/// The role with this id.
pub(super) async fn lock_role(tx: &mut TenantTx, field: &str, id: CustomRoleId) -> VerbResult<LockedRole> {
    let organization = tx.tenant().organization_id;
    let role = sqlx::query_as!(
        LockedRole,
        "select name, description, actions, version from tenantry.custom_roles where organization_id = $1 and id = $2 for update",
        organization as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?;
    role.ok_or_else(|| VerbError::user(field, UserErrorCode::NotFound, "There is no such role."))
}

/// Those of these roles that there are.
pub(super) async fn lock_roles(
    tx: &mut TenantTx,
    ids: &[CustomRoleId],
) -> VerbResult<HashMap<CustomRoleId, LockedRole>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let organization = tx.tenant().organization_id;
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let rows = sqlx::query!(
        r#"select id as "id: CustomRoleId", name, description, actions, version from tenantry.custom_roles
            where organization_id = $1 and id = any($2) order by id for update"#,
        organization as _,
        &ids
    )
    .fetch_all(tx.conn())
    .await?;
    let roles = rows.into_iter().map(|row| {
        let role =
            LockedRole { name: row.name, description: row.description, actions: row.actions, version: row.version };
        (row.id, role)
    });
    Ok(roles.collect())
}

/// The labels of actions, each once, if the viewer may give them.
fn checked_actions(checks: &mut Checks, work: &Work<'_>, actions: &[Action]) -> Vec<String> {
    for action in actions {
        let label = action.label();
        if action.is_owners_alone() {
            checks.refuse("actions", UserErrorCode::Invalid, format!("{label} is for owners: no custom role has it."));
        } else if !work.tenant().allowed.has(*action) {
            let message = format!("You may not give {label}, which you do not have yourself.");
            checks.refuse("actions", UserErrorCode::BeyondOwnRole, message);
        }
    }
    let set: Actions = actions.iter().copied().collect();
    set.iter().map(|action| action.label().to_owned()).collect()
}

fn name_taken() -> VerbError {
    VerbError::user("name", UserErrorCode::Conflict, "The organization has a role of this name.")
}

/// What a statement that writes a name says when it is taken.
fn of_name(error: sqlx::Error) -> VerbError {
    match &error {
        sqlx::Error::Database(refused) if refused.constraint() == Some("custom_roles_name_key") => name_taken(),
        _ => error.into(),
    }
}

impl Mutation for CustomRoleCreateInput {
    type Row = marker::CustomRole;
    const FIELD: &'static str = "customRoleCreate";
    const ACTION: Action = Action::RoleWrite;
    const AUDIT: &'static str = "custom_role.create";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = checks.required("name", &self.name, 100);
        let description = self.description.map(|text| checks.text("description", text.trim(), 500));
        let actions = checked_actions(&mut checks, work, &self.actions);
        checks.finish()?;
        let (organization, id, now) = (work.tenant().organization_id, work.new_id(), work.now);
        lock_organization(work.tx).await?;
        let count = sqlx::query_scalar!(
            r#"select count(*) as "count!" from tenantry.custom_roles where organization_id = $1"#,
            organization as _
        )
        .fetch_one(work.tx.conn())
        .await?;
        if count >= MAX_ROLES {
            let message = format!("The organization has {count} roles, which is the most: delete one first.");
            return Err(VerbError::of_input(UserErrorCode::Conflict, message));
        }
        sqlx::query!(
            "insert into tenantry.custom_roles (organization_id, id, name, description, actions, created_at) values ($1, $2, $3, $4, $5, $6)",
            organization as _,
            id as _,
            name,
            description.filter(|text| !text.is_empty()),
            &actions,
            now
        )
        .execute(work.tx.conn())
        .await
        .map_err(of_name)?;
        Ok(Done { id, audit: json!({ "after": { "name": name, "actions": actions } }), event: None })
    }
}

impl Mutation for CustomRoleUpdateInput {
    type Row = marker::CustomRole;
    const FIELD: &'static str = "customRoleUpdate";
    const ACTION: Action = Action::RoleWrite;
    const AUDIT: &'static str = "custom_role.update";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = self.name.as_deref().map(|name| checks.required("name", name, 100));
        let description = self.description.map_value(|text| checks.text("description", text.trim(), 500));
        let actions = self.actions.as_deref().map(|actions| checked_actions(&mut checks, work, actions));
        checks.finish()?;
        let before = lock_role(work.tx, "id", self.id).await?;
        check_version(self.expected_version, before.version)?;
        require_covered(work, "id", before.allows())?;
        let organization = work.tenant().organization_id;
        sqlx::query!(
            "update tenantry.custom_roles
                set name = coalesce($3, name), description = case when $4 then $5 else description end,
                    actions = coalesce($6, actions), version = version + 1
              where organization_id = $1 and id = $2",
            organization as _,
            self.id as _,
            name,
            !description.is_undefined(),
            description.value().filter(|text| !text.is_empty()),
            actions.as_deref()
        )
        .execute(work.tx.conn())
        .await
        .map_err(of_name)?;
        let after = json!({ "name": name.as_ref().unwrap_or(&before.name), "actions": actions.as_ref().unwrap_or(&before.actions) });
        Ok(Done {
            id: self.id,
            audit: json!({ "before": { "name": before.name, "description": before.description, "actions": before.actions }, "after": after }),
            // Whoever has it may have lost something.
            event: Some(Event::access(None)),
        })
    }
}

impl Mutation for CustomRoleDeleteInput {
    type Row = marker::CustomRole;
    const FIELD: &'static str = "customRoleDelete";
    const ACTION: Action = Action::RoleWrite;
    const AUDIT: &'static str = "custom_role.delete";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let before = lock_role(work.tx, "id", self.id).await?;
        require_covered(work, "id", before.allows())?;
        let organization = work.tenant().organization_id;
        let members = sqlx::query_scalar!(
            r#"select count(*) as "count!" from tenantry.organization_members where organization_id = $1 and custom_role_id = $2"#,
            organization as _,
            self.id as _
        )
        .fetch_one(work.tx.conn())
        .await?;
        if members > 0 {
            let message = format!("{members} members have this role: give them another one first.");
            return Err(VerbError::user("id", UserErrorCode::Conflict, message));
        }
        let invited = sqlx::query_scalar!(
            r#"select count(*) as "count!" from tenantry.invitations
                where organization_id = $1 and custom_role_id = $2 and accepted_at is null and revoked_at is null and expires_at > $3"#,
            organization as _,
            self.id as _,
            work.now
        )
        .fetch_one(work.tx.conn())
        .await?;
        if invited > 0 {
            let message = format!("{invited} open invitations give this role: revoke them first.");
            return Err(VerbError::user("id", UserErrorCode::Conflict, message));
        }
        sqlx::query!(
            "delete from tenantry.custom_roles where organization_id = $1 and id = $2",
            organization as _,
            self.id as _
        )
        .execute(work.tx.conn())
        .await?;
        Ok(Done {
            id: self.id,
            audit: json!({ "before": { "name": before.name, "description": before.description, "actions": before.actions } }),
            event: None,
        })
    }
}
