//! Users who come with their tokens (`NEW_USERS=token`): for issuers that tell nobody of new accounts.
//!
//! Invariants: a token makes the user it is of, once, whatever comes at the same time; an address counts only when the issuer
//! says that it is verified; a row that the sync wrote is never changed by a token, and nobody becomes a superadmin by one.

use futures_util::future::BoxFuture;
use serde_json::json;

use crate::auth::Identity;
use crate::db::{Newcomer, TenantTx};
use crate::error::Result;
use crate::graphql::session::Session;
use crate::id::{OrganizationId, OrganizationMemberId, UserId};
use crate::organizations::personal_workspace;
use crate::trail::{self, AuditEntry};

/// Makes the user of a token.
pub fn meet<'a>(session: &'a Session, identity: &'a Identity) -> BoxFuture<'a, Result<()>> {
    Box::pin(make(session, identity, false))
}

/// The same, with a personal workspace for whoever is new.
pub fn meet_with_workspace<'a>(session: &'a Session, identity: &'a Identity) -> BoxFuture<'a, Result<()>> {
    Box::pin(make(session, identity, true))
}

async fn make(session: &Session, identity: &Identity, with_workspace: bool) -> Result<()> {
    let (clock, profile) = (session.clock(), &identity.profile);
    let (name, wanted) = personal_workspace(profile.given_name.as_deref());
    let (organization, member) = (OrganizationId::new(clock), OrganizationMemberId::new(clock));
    let newcomer = Newcomer {
        bearer: identity.bearer(),
        user: UserId::new(clock).uuid(),
        email: profile.email.as_deref(),
        name: profile.name.as_deref(),
        avatar_url: profile.avatar_url.as_deref(),
        workspace: with_workspace.then_some((organization.uuid(), member.uuid(), name.as_str(), wanted.as_str())),
        now: clock.now(),
    };
    let met = TenantTx::meet(&session.services().db, &newcomer, session.traffic_shared()).await?;
    if let Some(mut tx) = met {
        // Not the slug: it has the name of a person.
        let metadata = json!({ "personal": true });
        let entry = AuditEntry::of("organization.create", organization, metadata);
        trail::record(&mut tx, clock, session.origin(), &entry).await?;
        tx.commit().await?;
    }
    Ok(())
}
