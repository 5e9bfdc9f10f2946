//! Who is told of escalations, who was, and who is away.

use uuid::Uuid;

use super::Writer;
use crate::error::Result;

/// Of an organization whose representatives and escalations are there; the user is a member.
pub(super) async fn rows(w: &mut Writer<'_>, organization: Uuid, user: Uuid) -> Result<()> {
    let query = sqlx::query(
        "update tenantry.escalations
            set due_at = created_at + case priority when 'URGENT' then interval '1 hour' when 'HIGH' then interval '4 hours'
                                                    when 'NORMAL' then interval '24 hours' else interval '72 hours' end
          where organization_id = $1",
    )
    .bind(organization);
    query.execute(w.tx.conn()).await?;
    let query = sqlx::query(
        "insert into tenantry.escalation_rules (organization_id, id, name, reason, minimum_priority, role, user_id, created_at, updated_at)
         values ($1, $2, 'Urgent ones to the supervisors', null, 'URGENT', 'SUPERVISOR', null, $5 - interval '40 days', $5 - interval '40 days'),
                ($1, $3, 'Important customers', 'HIGH_VALUE_CUSTOMER', 'LOW', 'TEAM_LEAD', $4, $5 - interval '40 days', $5 - interval '40 days')",
    )
    .bind(organization)
    .bind(w.id())
    .bind(w.id())
    .bind(user)
    .bind(w.now);
    w.insert("escalation_rules", query).await?;
    let query = sqlx::query(
        "insert into tenantry.escalation_notices (organization_id, id, escalation_id, user_id, created_at)
         select $1, $2, e.id, $3, e.created_at from tenantry.escalations e where e.organization_id = $1 order by e.created_at limit 1",
    )
    .bind(organization)
    .bind(w.id())
    .bind(user);
    w.insert("escalation_notices", query).await?;
    let query = sqlx::query(
        "insert into tenantry.representative_absences (organization_id, id, representative_id, starts_at, ends_at, note, created_at)
         select $1, $2, r.id, $3 + interval '30 days', $3 + interval '37 days', 'Holidays', $3 - interval '3 days'
           from tenantry.representatives r where r.organization_id = $1 order by r.created_at, r.id limit 1",
    )
    .bind(organization)
    .bind(w.id())
    .bind(w.now);
    w.insert("representative_absences", query).await
}
