//! Events of Clerk: users, organizations, memberships and invitations.
//!
//! Invariants: a membership that comes before its user or its organization makes both from what it embeds; a deleted
//! user, organization or membership stays deleted; an organization that has members with the role ADMIN has an OWNER.

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
use crate::id::Id;
use crate::organizations::Organization;
use crate::sync::apply::{ApplyContext, InboxEvent, Outcome, STALE};
use crate::sync::effects::Effects;
use crate::sync::facts::{self, Change, Kind, Lock, Merged, Object};
use crate::sync::stripe;

/// Applies an event. The locks are taken in the order of [`Lock`], each before what it guards is read.
pub(crate) async fn apply(
    tx: &mut SystemTx,
    context: &ApplyContext<'_>,
    event: &InboxEvent,
    payload: &Value,
) -> Result<Outcome> {
    let said = match translate::translate(&event.event_type, &event.event_id, payload) {
        Ok(said) => said,
        Err(reason) => return Ok(Outcome::ignored(reason)),
    };
    let Some(main) = said.first() else { return Ok(Outcome::ignored("names no object")) };
    let mut effects = Effects { tx, clock: context.clock, settings: context.settings, cause: event.event_id.clone() };
    match main.kind {
        Kind::User => user(&mut effects, main).await,
        Kind::Invitation => invitation(&mut effects, main).await,
        _ => organization_or_membership(&mut effects, &said, main.kind == Kind::Membership).await,
    }
}

/// Why an event has no effect, as far as the event itself tells.
#[cfg(test)]
pub(crate) fn why_not(event_type: &str, payload: &Value) -> Option<&'static str> {
    translate::translate(event_type, "", payload).err()
}

async fn user(effects: &mut Effects<'_>, change: &Change) -> Result<Outcome> {
    facts::lock(effects.tx, [Lock::User(change.id.clone())]).await?;
    let mut user = facts::load_one(effects.tx, Kind::User, &change.id).await?;
    if facts::merge(effects.tx, &mut user, change).await? == Merged::Stale {
        return Ok(Outcome::ignored(STALE));
    }
    let Some(row) = users::project(effects, &user).await? else {
        // Its deletion came first; there is nothing to delete yet.
        return Ok(Outcome::Applied { organization: None });
    };
    if row.inserted || row.deleted {
        let memberships = facts::naming(effects.tx, &[Kind::Membership], &[user.id.clone()]).await?;
        let memberships: Vec<Object> = memberships.into_iter().map(|(_, membership)| membership).collect();
        let organizations = memberships.iter().filter_map(|m| m.text("organization").map(str::to_owned));
        let organizations: BTreeSet<String> = organizations.collect();
        facts::lock(effects.tx, organizations.into_iter().map(Lock::Organization)).await?;
        members::project(effects, &memberships).await?;
    }
    if row.deleted {
        members::end_all(effects, &row).await?;
    }
    let organization = users::workspace(effects, &user, &row).await?;
    users::record(effects, &row).await?;
    Ok(Outcome::Applied { organization })
}

async fn organization_or_membership(
    effects: &mut Effects<'_>,
    said: &[Change],
    is_membership: bool,
) -> Result<Outcome> {
    let of_kind = |kind| said.iter().filter(move |change: &&Change| change.kind == kind);
    let mut merged = Merged::Stale;
    let (mut users_named, mut organizations_named) = (BTreeSet::new(), BTreeSet::new());
    for change in of_kind(Kind::Membership) {
        facts::lock(effects.tx, [Lock::Object(change.id.clone())]).await?;
        let mut membership = facts::load_one(effects.tx, Kind::Membership, &change.id).await?;
        merged = merged.max(facts::merge(effects.tx, &mut membership, change).await?);
        // A deletion may name nothing but itself.
        users_named.extend(membership.text("user").map(str::to_owned));
        organizations_named.extend(membership.text("organization").map(str::to_owned));
    }

    users_named.extend(of_kind(Kind::User).map(|change| change.id.clone()));
    facts::lock(effects.tx, users_named.iter().cloned().map(Lock::User)).await?;
    for change in of_kind(Kind::User) {
        let mut user = facts::load_one(effects.tx, Kind::User, &change.id).await?;
        let this = facts::merge(effects.tx, &mut user, change).await?;
        merged = merged.max(this);
        if this > Merged::Stale
            && let Some(row) = users::project(effects, &user).await?
            && row.inserted
        {
            // Memberships may have waited for this user.
            let waiting = facts::naming(effects.tx, &[Kind::Membership], &[user.id.clone()]).await?;
            organizations_named.extend(waiting.iter().filter_map(|(_, m)| m.text("organization").map(str::to_owned)));
        }
    }

    organizations_named.extend(of_kind(Kind::Organization).map(|change| change.id.clone()));
    facts::lock(effects.tx, organizations_named.iter().cloned().map(Lock::Organization)).await?;
    let mut new = Vec::new();
    for change in of_kind(Kind::Organization) {
        let before = facts::load_one(effects.tx, Kind::Organization, &change.id).await?;
        let mut organization = before.clone();
        let this = facts::merge(effects.tx, &mut organization, change).await?;
        merged = merged.max(this);
        if this > Merged::Stale
            && let Some(row) = organizations::project(effects, &before, &organization).await?
            && row.inserted
        {
            new.push((change.id.clone(), row.id));
        }
    }

    let mut found = None;
    for clerk_id in &organizations_named {
        found = found.or(organizations::find(effects.tx, clerk_id).await?);
    }
    if merged == Merged::Stale {
        return Ok(Outcome::Ignored { reason: STALE, organization: found });
    }
    if is_membership {
        let users: Vec<String> = users_named.into_iter().collect();
        let memberships = facts::naming(effects.tx, &[Kind::Membership], &users).await?;
        let of_these = memberships
            .into_iter()
            .map(|(_, membership)| membership)
            .filter(|m| m.text("organization").is_some_and(|name| organizations_named.contains(name)));
        members::project(effects, &of_these.collect::<Vec<_>>()).await?;
    } else if let Some(organization) = found {
        // Who made it goes first when an owner must be found.
        facts::lock(effects.tx, [Lock::Tenant(organization.uuid())]).await?;
        members::keep_an_owner(effects, organization, false).await?;
    }
    for (clerk_id, id) in new {
        settle_in(effects, &clerk_id, id).await?;
    }
    Ok(Outcome::Applied { organization: found })
}

/// What came before its organization finds its place.
async fn settle_in(effects: &mut Effects<'_>, clerk_id: &str, organization: Id<Organization>) -> Result<()> {
    let waiting = facts::naming(effects.tx, &[Kind::Membership, Kind::Invitation], &[clerk_id.to_owned()]).await?;
    let of_kind = |wanted| waiting.iter().filter(move |(kind, _)| *kind == wanted).map(|(_, object)| object.clone());
    members::project(effects, &of_kind(Kind::Membership).collect::<Vec<_>>()).await?;
    facts::lock(effects.tx, [Lock::Tenant(organization.uuid())]).await?;
    for invitation in of_kind(Kind::Invitation) {
        invitations::project(effects, organization, &invitation).await?;
    }
    stripe::settle_in(effects, clerk_id, organization).await
}

async fn invitation(effects: &mut Effects<'_>, change: &Change) -> Result<Outcome> {
    facts::lock(effects.tx, [Lock::Object(change.id.clone())]).await?;
    let mut invitation = facts::load_one(effects.tx, Kind::Invitation, &change.id).await?;
    let merged = facts::merge(effects.tx, &mut invitation, change).await?;
    let Some(clerk_id) = invitation.text("organization").map(str::to_owned) else {
        return Ok(Outcome::ignored("names no organization"));
    };
    facts::lock(effects.tx, [Lock::Organization(clerk_id.clone())]).await?;
    let organization = organizations::find(effects.tx, &clerk_id).await?;
    if merged == Merged::Stale {
        return Ok(Outcome::Ignored { reason: STALE, organization });
    }
    if let Some(organization) = organization {
        facts::lock(effects.tx, [Lock::Tenant(organization.uuid())]).await?;
        invitations::project(effects, organization, &invitation).await?;
    }
    Ok(Outcome::Applied { organization })
}
