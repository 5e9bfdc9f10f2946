//! What a desk has beside its tickets: custom fields, views, watchers, a message that was changed.

use uuid::Uuid;

use super::Writer;
use crate::error::Result;

/// Of an organization whose tickets and messages are there; the user is a member.
pub(super) async fn rows(w: &mut Writer<'_>, organization: Uuid, user: Uuid) -> Result<()> {
    let query = sqlx::query(
        "insert into tenantry.ticket_fields (organization_id, id, key, name, description, type, options, position, created_at, updated_at)
         values ($1, $2, 'order_number', 'Order number', 'As it stands on the invoice.', 'TEXT', '{}', 1, $4 - interval '60 days', $4 - interval '60 days'),
                ($1, $3, 'channel', 'Channel', null, 'SELECT', '{E-mail,Chat,Phone}', 2, $4 - interval '60 days', $4 - interval '60 days')",
    )
    .bind(organization)
    .bind(w.id())
    .bind(w.id())
    .bind(w.now);
    w.insert("ticket_fields", query).await?;
    let query = sqlx::query(
        "update tenantry.tickets
              set custom_fields = jsonb_build_object('channel', 'E-mail') || case when number < 3 then jsonb_build_object('order_number', (7600 + number * 55)::text) else '{}' end,
                  assigned_at = case when assignee_id is not null then created_at end,
                  waiting_since = case when status in ('NEW', 'OPEN') then created_at end
            where organization_id = $1",
    )
    .bind(organization);
    query.execute(w.tx.conn()).await?;
    let query = sqlx::query(
        r#"insert into tenantry.ticket_views (organization_id, id, user_id, name, is_shared, filter, sort, created_at, updated_at)
         values ($1, $2, $4, 'Mine to answer', true, '{"assignedToMe": true, "status": {"in": ["NEW", "OPEN"]}}',
                 '[{"field": "NEXT_DUE_AT"}]', $5 - interval '30 days', $5 - interval '30 days'),
                ($1, $3, $4, 'Nobody has it', true, '{"assigneeId": {"isNull": true}, "status": {"in": ["NEW", "OPEN"]}}',
                 '[{"field": "PRIORITY", "direction": "DESC"}]', $5 - interval '30 days', $5 - interval '30 days')"#,
    )
    .bind(organization)
    .bind(w.id())
    .bind(w.id())
    .bind(user)
    .bind(w.now);
    w.insert("ticket_views", query).await?;
    let query = sqlx::query(
        "insert into tenantry.ticket_watchers (organization_id, id, ticket_id, user_id, created_at)
         select $1, $2, t.id, $3, t.created_at from tenantry.tickets t where t.organization_id = $1 order by t.number desc limit 1",
    )
    .bind(organization)
    .bind(w.id())
    .bind(user);
    w.insert("ticket_watchers", query).await?;
    let query = sqlx::query(
        "with changed as (
             update tenantry.ticket_messages m set edited_at = m.created_at + interval '2 minutes'
              where m.organization_id = $1 and m.id = (select c.id from tenantry.ticket_messages c
                    where c.organization_id = $1 and c.author_user_id is not null and not c.is_internal order by c.created_at limit 1)
             returning m.id, m.created_at)
         insert into tenantry.ticket_message_revisions (organization_id, id, message_id, body, created_at)
         select $1, $2, c.id, 'Thank you, I look into it.', c.created_at + interval '2 minutes' from changed c",
    )
    .bind(organization)
    .bind(w.id());
    w.insert("ticket_message_revisions", query).await?;
    let query = sqlx::query(
        "insert into tenantry.ticket_message_revisions (organization_id, id, message_id, body, created_at)
         select $1, $2, m.id, 'Third refund this year: asked for an exception.', m.created_at + interval '1 minute'
           from tenantry.ticket_messages m where m.organization_id = $1 and m.is_internal order by m.created_at limit 1",
    )
    .bind(organization)
    .bind(w.id());
    w.insert("ticket_message_revisions", query).await
}
