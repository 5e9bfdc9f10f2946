//! What a desk promises: a calendar, a policy for urgent tickets of important customers, a warning that was given.

use uuid::Uuid;

use super::Writer;
use crate::error::Result;

/// Of an organization whose tickets are there.
pub(super) async fn rows(w: &mut Writer<'_>, organization: Uuid) -> Result<()> {
    let (calendar, policy) = (w.id(), w.id());
    let query = sqlx::query(
        "insert into tenantry.business_calendars (organization_id, id, name, calendar, created_at, updated_at)
         values ($1, $2, 'Office hours', $3::jsonb, $4 - interval '60 days', $4 - interval '60 days')",
    )
    .bind(organization)
    .bind(calendar)
    .bind(CALENDAR)
    .bind(w.now);
    w.insert("business_calendars", query).await?;
    let query = sqlx::query(
        "insert into tenantry.sla_policies (organization_id, id, name, rank, priorities, tiers, calendar_id, first_response_minutes,
                                            next_response_minutes, resolution_minutes, warning_percent, on_breach, created_at, updated_at)
         values ($1, $2, 'Urgent matters of important customers', 10, '{HIGH,URGENT}', '{PREMIUM,VIP}', $3, 60, 120, 480, 75, 'BOTH',
                 $4 - interval '60 days', $4 - interval '60 days')",
    )
    .bind(organization)
    .bind(policy)
    .bind(calendar)
    .bind(w.now);
    w.insert("sla_policies", query).await?;
    let query = sqlx::query(
        "insert into tenantry.sla_revisions (organization_id, policy_id, revision, first_response_minutes, next_response_minutes, resolution_minutes,
                                             warning_percent, on_warning, on_breach, calendar, valid_from)
         select p.organization_id, p.id, 1, p.first_response_minutes, p.next_response_minutes, p.resolution_minutes, p.warning_percent,
                p.on_warning, p.on_breach, c.calendar, p.created_at
           from tenantry.sla_policies p join tenantry.business_calendars c on c.organization_id = p.organization_id and c.id = p.calendar_id
          where p.organization_id = $1 and p.id = $2",
    )
    .bind(organization)
    .bind(policy);
    w.insert("sla_revisions", query).await?;
    // Of the oldest ticket, whose first response came in time.
    let query = sqlx::query(
        "insert into tenantry.sla_events (organization_id, id, ticket_id, target, kind, policy_id, started_at, due_at, created_at)
         select $1, $2, t.id, 'FIRST_RESPONSE', 'WARNING', $3, t.created_at, t.first_response_due_at,
                t.created_at + (t.first_response_due_at - t.created_at) * 0.8
           from tenantry.tickets t where t.organization_id = $1 and t.first_response_due_at is not null order by t.number limit 1",
    )
    .bind(organization)
    .bind(w.id())
    .bind(policy);
    w.insert("sla_events", query).await
}

/// Weekdays from 9 to 12:30 and from 13:30 to 18, in Berlin.
const CALENDAR: &str = r#"{ "timeZone": "Europe/Berlin",
    "hours": [{ "day": "MONDAY", "from": 540, "to": 750 }, { "day": "MONDAY", "from": 810, "to": 1080 },
              { "day": "TUESDAY", "from": 540, "to": 750 }, { "day": "TUESDAY", "from": 810, "to": 1080 },
              { "day": "WEDNESDAY", "from": 540, "to": 750 }, { "day": "WEDNESDAY", "from": 810, "to": 1080 },
              { "day": "THURSDAY", "from": 540, "to": 750 }, { "day": "THURSDAY", "from": 810, "to": 1080 },
              { "day": "FRIDAY", "from": 540, "to": 750 }, { "day": "FRIDAY", "from": 810, "to": 960 }],
    "holidays": { "2026-12-25": "Christmas", "2027-01-01": "New Year" } }"#;
