//! Events of Clerk: users, organizations, memberships and invitations.
//!
//! Invariants: a membership that comes before its user or its organization creates both from what it embeds; a deleted
//! user, organization or membership stays deleted; an organization with an ADMIN has an OWNER.

mod invitations;
mod members;
mod organizations;
mod roles;
mod translate;
mod users;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::db::SystemTx;
use crate::error::Result;
use crate::id::OrganizationId;
use crate::sync::apply::{ApplyContext, EventOutcome, InboxEvent, STALE};
use crate::sync::effects::Effects;
use crate::sync::mirror::{self, Kind, Lock, Merged, RemoteChange, RemoteObject};
use crate::sync::stripe;
use translate::Statement;

/// The name under which a role of Clerk is configured.
#[must_use]
pub fn role_key(foreign: &str) -> String {
    roles::key(foreign)
}

/// Applies an event. The locks are taken in the order of [`Lock`], each before what it guards is read.
pub(crate) async fn apply(
    tx: &mut SystemTx,
    context: &ApplyContext<'_>,
    event: &InboxEvent,
    payload: &Value,
) -> Result<EventOutcome> {
    let statement = match translate::translate(&event.event_type, &event.event_id, payload) {
        Ok(statement) => statement,
        Err(reason) => return Ok(EventOutcome::ignored(reason)),
    };
    let mut effects = Effects { tx, clock: context.clock, settings: context.settings, cause: event.event_id.clone() };
    match statement {
        Statement::User(change) => user(&mut effects, &change).await,
        Statement::Invitation(change) => invitation(&mut effects, &change).await,
        Statement::SessionEnded { session, user } => {
            users::end_session(&mut effects, &session, user.as_deref()).await?;
            Ok(EventOutcome::applied(None))
        }
        Statement::Organization(change) => organization_or_membership(&mut effects, None, Some(&change), None).await,
        Statement::Membership(said) => {
            let (organization, user) = (said.organization.as_ref(), said.user.as_ref());
            organization_or_membership(&mut effects, Some(&said.membership), organization, user).await
        }
    }
}

/// Why an event has no effect, judged by the event alone.
#[cfg(test)]
pub(crate) fn why_not(event_type: &str, payload: &Value) -> Option<&'static str> {
    translate::translate(event_type, "", payload).err()
}

async fn user(effects: &mut Effects<'_>, change: &RemoteChange<mirror::User>) -> Result<EventOutcome> {
    mirror::lock(effects.tx, [Lock::User(change.id.clone())]).await?;
    let mut user = mirror::load_one(effects.tx, &change.id).await?;
    if mirror::merge(effects.tx, &mut user, change).await? == Merged::Stale {
        let organization = users::workspace_of(effects.tx, &user.id).await?;
        return Ok(EventOutcome::Ignored { reason: STALE, organization });
    }
    let Some(row) = users::project(effects, &user).await? else {
        // Its deletion came first: there is nothing to delete yet.
        return Ok(EventOutcome::applied(None));
    };
    if row.inserted || row.deleted {
        let memberships = mirror::naming::<mirror::Membership>(effects.tx, &[user.id.clone()]).await?;
        let organizations = memberships.iter().filter_map(|m| m.fields.organization.text().map(str::to_owned));
        let organizations: BTreeSet<String> = organizations.collect();
        mirror::lock(effects.tx, organizations.into_iter().map(Lock::Organization)).await?;
        members::project(effects, &memberships).await?;
    }
    if row.deleted {
        members::end_all(effects, &row).await?;
    }
    let organization = workspace(effects, &user, &row).await?;
    users::record(effects, &user, &row).await?;
    Ok(EventOutcome::applied(organization))
}

/// The personal workspace of a user. What came before it was made is its own.
async fn workspace(
    effects: &mut Effects<'_>,
    user: &RemoteObject<mirror::User>,
    row: &users::UserRow,
) -> Result<Option<OrganizationId>> {
    let Some(workspace) = users::workspace(effects, user, row).await? else { return Ok(None) };
    if workspace.inserted {
        attribute(effects, std::slice::from_ref(&user.id), workspace.id).await?;
    }
    Ok(Some(workspace.id))
}

/// Gives the events about these objects to their organization: those that came before it was known have none yet. What was
/// found of them is for the present event to say.
async fn attribute(effects: &mut Effects<'_>, objects: &[String], organization: OrganizationId) -> Result<()> {
    // As for the events of Stripe: what another worker holds is not waited for.
    sqlx::query!(
        "with held as materialized (
             select id from tenantry.webhook_events
              where source = 'CLERK' and object_id = any($1) and status in ('APPLIED', 'IGNORED')
                and (organization_id is null or finding is not null) for update nowait)
         update tenantry.webhook_events e set organization_id = $2, finding = null from held where e.id = held.id",
        objects,
        organization as _
    )
    .execute(effects.tx.conn())
    .await?;
    Ok(())
}

async fn organization_or_membership(
    effects: &mut Effects<'_>,
    membership: Option<&RemoteChange<mirror::Membership>>,
    organization: Option<&RemoteChange<mirror::Organization>>,
    user: Option<&RemoteChange<mirror::User>>,
) -> Result<EventOutcome> {
    let mut merged = Merged::Stale;
    let (mut finding, mut own_organization) = (None, organization.map(|change| change.id.clone()));
    let (mut users_named, mut organizations_named) = (BTreeSet::new(), BTreeSet::new());
    if let Some(change) = membership {
        mirror::lock(effects.tx, [Lock::Object(change.id.clone())]).await?;
        let mut membership = mirror::load_one(effects.tx, &change.id).await?;
        merged = merged.max(mirror::merge(effects.tx, &mut membership, change).await?);
        let unknown =
            membership.fields.role.text().filter(|role| roles::role(&effects.settings.clerk_roles, role).is_none());
        finding = unknown.filter(|_| !membership.deleted).map(|role| {
            format!("the role {role} is not known here and is read-only; CLERK_ROLES says what it is: `{role}=MEMBER`")
        });
        // A deletion may name nothing but the membership.
        users_named.extend(membership.fields.user.text().map(str::to_owned));
        own_organization = membership.fields.organization.text().map(str::to_owned);
        organizations_named.extend(own_organization.clone());
    }

    users_named.extend(user.map(|change| change.id.clone()));
    mirror::lock(effects.tx, users_named.iter().cloned().map(Lock::User)).await?;
    if let Some(change) = user {
        let mut user = mirror::load_one(effects.tx, &change.id).await?;
        let this = mirror::merge(effects.tx, &mut user, change).await?;
        merged = merged.max(this);
        if this > Merged::Stale
            && let Some(row) = users::project(effects, &user).await?
        {
            // What is mentioned may be the first name that is heard.
            workspace(effects, &user, &row).await?;
            if row.inserted {
                // Memberships may have waited for this user.
                let waiting = mirror::naming::<mirror::Membership>(effects.tx, &[user.id.clone()]).await?;
                let named = waiting.iter().filter_map(|m| m.fields.organization.text().map(str::to_owned));
                organizations_named.extend(named);
            }
        }
    }

    organizations_named.extend(organization.map(|change| change.id.clone()));
    mirror::lock(effects.tx, organizations_named.iter().cloned().map(Lock::Organization)).await?;
    let mut new = Vec::new();
    if let Some(change) = organization {
        let before = mirror::load_one(effects.tx, &change.id).await?;
        let mut organization = before.clone();
        let this = mirror::merge(effects.tx, &mut organization, change).await?;
        merged = merged.max(this);
        if this > Merged::Stale
            && let Some(row) = organizations::project(effects, &before, &organization).await?
            && row.inserted
        {
            new.push((change.id.clone(), row.id));
        }
    }

    let found = match &own_organization {
        Some(clerk_id) => organizations::find(effects.tx, clerk_id).await?,
        None => None,
    };
    if merged == Merged::Stale {
        return Ok(EventOutcome::Ignored { reason: STALE, organization: found });
    }
    if membership.is_some() {
        let users: Vec<String> = users_named.into_iter().collect();
        let mut memberships = mirror::naming::<mirror::Membership>(effects.tx, &users).await?;
        memberships.retain(|m| m.fields.organization.text().is_some_and(|name| organizations_named.contains(name)));
        members::project(effects, &memberships).await?;
    } else if let Some(organization) = found {
        // Its creator is preferred when an owner must be found.
        mirror::lock(effects.tx, [Lock::Tenant(organization.uuid())]).await?;
        members::keep_an_owner(effects, organization, false).await?;
    }
    if let (Some(id), Some(change)) = (found, membership) {
        // Its role may have been unknown before.
        attribute(effects, std::slice::from_ref(&change.id), id).await?;
    }
    for (clerk_id, id) in new {
        attribute(effects, std::slice::from_ref(&clerk_id), id).await?;
        project_waiting(effects, &clerk_id, id).await?;
    }
    Ok(EventOutcome::Applied { organization: found, finding })
}

/// Derives the rows of what came before its organization.
async fn project_waiting(effects: &mut Effects<'_>, clerk_id: &str, organization: OrganizationId) -> Result<()> {
    let kinds = [Kind::Membership, Kind::Invitation];
    let waiting = mirror::stored_naming(effects.tx, &kinds, &[clerk_id.to_owned()]).await?;
    let (mut memberships, mut invitations) = (Vec::new(), Vec::new());
    let ids: Vec<String> = waiting.iter().map(|stored| stored.id.clone()).collect();
    attribute(effects, &ids, organization).await?;
    for stored in waiting {
        if stored.kind == Kind::Membership {
            memberships.push(stored.read()?);
        } else {
            invitations.push(stored.read()?);
        }
    }
    members::project(effects, &memberships).await?;
    mirror::lock(effects.tx, [Lock::Tenant(organization.uuid())]).await?;
    for invitation in invitations {
        invitations::project(effects, organization, &invitation).await?;
    }
    stripe::project_waiting(effects, clerk_id, organization).await
}

async fn invitation(effects: &mut Effects<'_>, change: &RemoteChange<mirror::Invitation>) -> Result<EventOutcome> {
    mirror::lock(effects.tx, [Lock::Object(change.id.clone())]).await?;
    let mut invitation = mirror::load_one(effects.tx, &change.id).await?;
    let merged = mirror::merge(effects.tx, &mut invitation, change).await?;
    let Some(clerk_id) = invitation.fields.organization.text().map(str::to_owned) else {
        return Ok(EventOutcome::ignored("names no organization"));
    };
    mirror::lock(effects.tx, [Lock::Organization(clerk_id.clone())]).await?;
    let organization = organizations::find(effects.tx, &clerk_id).await?;
    if merged == Merged::Stale {
        return Ok(EventOutcome::Ignored { reason: STALE, organization });
    }
    if let Some(organization) = organization {
        mirror::lock(effects.tx, [Lock::Tenant(organization.uuid())]).await?;
        invitations::project(effects, organization, &invitation).await?;
    }
    Ok(EventOutcome::applied(organization))
}
