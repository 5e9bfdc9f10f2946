//! Rows of invitations that Clerk sends and accepts.
//!
//! No link of ours fits them: their token hash is of random bytes. Of several open ones for an address the newest is
//! open; the others count as revoked.

use chrono::Duration;

use crate::error::Result;
use crate::id::Id;
use crate::members::{Invitation, MemberRole};
use crate::organizations::Organization;
use crate::webhooks::effects::Effects;
use crate::webhooks::facts::{self, Kind, Object};
use crate::webhooks::payload::moment_of_millis;

/// How long an invitation is good when the event does not say; Clerk's own default.
const DAYS: i64 = 30;

/// Makes the row as the invitation is known, and with it those of all for its address. The lock of the organization is held.
pub(crate) async fn project(
    effects: &mut Effects<'_>,
    organization: Id<Organization>,
    invitation: &Object,
) -> Result<()> {
    let (Some(email), Some(clerk_id)) = (invitation.text("email"), invitation.text("organization")) else {
        return Ok(());
    };
    let email = email.to_lowercase();
    let known = facts::naming(effects.tx, &[Kind::Invitation], &[clerk_id.to_owned()]).await?;
    let mut same: Vec<Object> = known
        .into_iter()
        .map(|(_, object)| object)
        .filter(|object| object.text("email").is_some_and(|other| other.to_lowercase() == email))
        .collect();
    same.sort_by_key(|object| (object.number("created_at"), object.id.clone()));
    let open = same.iter().rfind(|object| object.text("status") == Some("created")).map(|object| object.id.clone());
    if open.is_some() {
        // Whatever else is open for this address gives way before the newest is opened.
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
    organization: Id<Organization>,
    invitation: &Object,
    open: bool,
) -> Result<()> {
    let now = effects.clock.now();
    let created = moment_of_millis(invitation.number("created_at")).unwrap_or(now);
    let expires = moment_of_millis(invitation.number("expires_at")).unwrap_or(created + Duration::days(DAYS));
    let settled = moment_of_millis(invitation.number("settled_at")).unwrap_or(now);
    let accepted = invitation.text("status") == Some("accepted");
    let role = invitation.text("role").and_then(MemberRole::from_label).unwrap_or(MemberRole::Viewer);
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
        returning id as "id: Id<Invitation>""#,
        organization as _,
        Id::<Invitation>::new(effects.clock) as _,
        invitation.text("email"),
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
