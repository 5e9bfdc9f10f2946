//! Derives the rows of Clerk's invitations.
//!
//! Clerk sends and accepts them, so their token hash is of random bytes and fits no link of ours. Of several open ones
//! for an address only the newest is open; the others are revoked.

use chrono::Duration;

use crate::access::MemberRole;
use crate::error::Result;
use crate::id::{InvitationId, OrganizationId};
use crate::sync::clerk::roles::role;
use crate::sync::effects::Effects;
use crate::sync::mirror::{self, InvitationStatus, RemoteObject};
use crate::sync::payload::moment_of_millis;

/// How long an invitation is valid when the event does not say so: Clerk's default.
const DAYS: i64 = 30;

/// Writes the row of the invitation, and those of all invitations for its address. The caller holds the organization's
/// lock.
pub(crate) async fn project(
    effects: &mut Effects<'_>,
    organization: OrganizationId,
    invitation: &RemoteObject<mirror::Invitation>,
) -> Result<()> {
    let (Some(email), Some(clerk_id)) = (invitation.fields.email.text(), invitation.fields.organization.text()) else {
        return Ok(());
    };
    let email = email.to_lowercase();
    let mut same = mirror::naming::<mirror::Invitation>(effects.tx, &[clerk_id.to_owned()]).await?;
    same.retain(|other| other.fields.email.text().is_some_and(|other| other.to_lowercase() == email));
    same.sort_by_key(|other| (other.fields.created_at.get(), other.id.clone()));
    let is_open =
        |other: &&RemoteObject<mirror::Invitation>| other.fields.status.get() == Some(InvitationStatus::Created);
    let open = same.iter().rfind(is_open).map(|other| other.id.clone());
    if open.is_some() {
        // Other open invitations for the address are revoked before the newest is opened.
        sqlx::query!(
            "update tenantry.invitations set revoked_at = $4
              where organization_id = $1 and lower(email) = $2 and accepted_at is null and revoked_at is null
                and clerk_invitation_id is distinct from $3",
            organization as _,
            email,
            open,
            effects.clock.now()
        )
        .execute(effects.tx.conn())
        .await?;
    }
    for object in &same {
        write(effects, organization, object, open.as_deref() == Some(object.id.as_str())).await?;
    }
    Ok(())
}

async fn write(
    effects: &mut Effects<'_>,
    organization: OrganizationId,
    invitation: &RemoteObject<mirror::Invitation>,
    open: bool,
) -> Result<()> {
    let now = effects.clock.now();
    let created = moment_of_millis(invitation.fields.created_at.get()).unwrap_or(now);
    let expires = moment_of_millis(invitation.fields.expires_at.get()).unwrap_or(created + Duration::days(DAYS));
    let settled = moment_of_millis(invitation.fields.settled_at.get()).unwrap_or(now);
    let accepted = invitation.fields.status.get() == Some(InvitationStatus::Accepted);
    let role = invitation.fields.role.text().and_then(|foreign| role(&effects.settings.clerk_roles, foreign));
    let role = role.unwrap_or(MemberRole::Viewer);
    let row = sqlx::query!(
        r#"insert into tenantry.invitations (organization_id, id, email, role, token_hash, expires_at, accepted_at, revoked_at, created_at, clerk_invitation_id)
           values ($1, $2, $3, $4, sha256(uuid_send(gen_random_uuid())), $5, case when $6 then $8::timestamptz end,
                   case when not $6 and not $7 then $8::timestamptz end, $9, $10)
           on conflict (organization_id, clerk_invitation_id) do update
              set email = excluded.email, role = excluded.role, expires_at = excluded.expires_at,
                  accepted_at = excluded.accepted_at, revoked_at = excluded.revoked_at, created_at = excluded.created_at
            where (invitations.email, invitations.role, invitations.expires_at, invitations.accepted_at is null,
                   invitations.revoked_at is null, invitations.created_at)
                  is distinct from
                  (excluded.email, excluded.role, excluded.expires_at, excluded.accepted_at is null,
                   excluded.revoked_at is null, excluded.created_at)
        returning id as "id: InvitationId""#,
        organization as _,
        InvitationId::new(effects.clock) as _,
        invitation.fields.email.text(),
        role as _,
        expires,
        accepted,
        open,
        settled,
        created,
        invitation.id
    )
    .fetch_optional(effects.tx.conn())
    .await?;
    if let Some(row) = row {
        let state = if open {
            "open"
        } else if accepted {
            "accepted"
        } else {
            "revoked"
        };
        let metadata = serde_json::json!({ "after": { "state": state, "role": role.label() } });
        effects.record(organization, "invitation.sync", ("Invitation", row.id.uuid()), metadata).await?;
    }
    Ok(())
}
