//! What the platform itself knows: feature flags, webhooks received, the audit log, performance figures.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::Writer;
use super::people::People;
use super::support::Desk;
use crate::error::Result;
use crate::flags;
use crate::id::OrganizationId;
use crate::metrics;

/// Flags of every kind; those that exist already stay as they are.
pub(super) async fn flag_definitions(w: &mut Writer<'_>) -> Result<()> {
    let ids: [Uuid; 6] = w.ids();
    let query = sqlx::query(
        "insert into tenantry.feature_flag_definitions (id, key, name, description, kind, default_enabled, minimum_plan, rollout_percentage, rollout_unit,
                                               starts_at, ends_at, owner, stale_after, created_at, updated_at)
         select ids.id, f.key, f.name, f.description, f.kind::tenantry.flag_kind, f.on_by_default, f.plan::tenantry.organization_plan, f.percentage,
                f.unit::tenantry.flag_rollout_unit, $2 + f.starts_in, $2 + f.starts_in + interval '28 days', f.owner, $2 + f.stale_in,
                $2 - interval '100 days', $2 - interval '100 days'
           from unnest($1::uuid[]) with ordinality as ids(id, n)
           join (values (1, 'new-inbox', 'New inbox', 'The list of tickets with keyboard navigation.', 'RELEASE', false, null, 25.0::float8,
                         'ORGANIZATION', null::interval, 'support-tools', interval '180 days'),
                        (2, 'suggested-answers', 'Suggested answers', 'Drafts beside the text field; user by user.', 'RELEASE', false, 'STARTER', 50,
                         'USER', null, 'support-tools', interval '120 days'),
                        (3, 'holiday-banner', 'Holiday banner', 'A greeting above the inbox, for four weeks.', 'RELEASE', true, null, null,
                         'ORGANIZATION', interval '-7 days', 'marketing', interval '30 days'),
                        (4, 'advanced-analytics', 'Advanced analytics', 'Figures by category and representative.', 'ENTITLEMENT', true, 'PRO', null,
                         'ORGANIZATION', null, 'billing', null),
                        (5, 'single-sign-on', 'Single sign-on', 'Signing in through the identity provider of the organization.', 'ENTITLEMENT', true,
                         'ENTERPRISE', null, 'ORGANIZATION', null, 'billing', null),
                        (6, 'automatic-refunds', 'Automatic refunds', 'Off here stops every refund that no person approved, for everybody.', 'KILL_SWITCH',
                         true, null, null, 'ORGANIZATION', null, 'payments', null)
                ) as f(n, key, name, description, kind, on_by_default, plan, percentage, unit, starts_in, owner, stale_in) on f.n = ids.n
         on conflict (key) do nothing",
    )
    .bind(&ids[..])
    .bind(w.now);
    w.insert("feature_flag_definitions", query).await?;
    let ids: [Uuid; 2] = w.ids();
    let query = sqlx::query(
        r#"insert into tenantry.feature_flag_definitions (id, key, name, description, kind, value_type, variants, off_variant, default_enabled,
                                               rollout_percentage, rollout_unit, owner, stale_after, created_at, updated_at)
           values ($1, 'answer-length', 'Length of suggested answers', 'How long the drafts beside the text field are.', 'RELEASE', 'STRING',
                   '[{"name": "as-ever", "value": "long", "weight": 0}, {"name": "short", "value": "short", "weight": 50},
                     {"name": "medium", "value": "medium", "weight": 50}]', 'as-ever', false, 12.5, 'USER', 'support-tools', $3 + interval '90 days',
                   $3 - interval '20 days', $3 - interval '20 days'),
                  ($2, 'export-rows', 'Rows of an export', 'How many rows a file may have.', 'ENTITLEMENT', 'NUMBER',
                   '[{"name": "standard", "value": 1000, "weight": 1}, {"name": "large", "value": 100000, "weight": 0}]', 'standard', true, null,
                   'ORGANIZATION', 'billing', null, $3 - interval '100 days', $3 - interval '100 days')
           on conflict (key) do nothing"#,
    )
    .bind(ids[0])
    .bind(ids[1])
    .bind(w.now);
    w.insert("feature_flag_definitions", query).await
}

/// What an operator granted beyond the plan, or administrators turned on, and which flags programs asked for.
pub(super) async fn flag_override(w: &mut Writer<'_>, organization: Uuid, key: &str, is_grant: bool) -> Result<()> {
    let query = sqlx::query(
        "insert into tenantry.organization_feature_flags (organization_id, id, flag_key, source, enabled, exceeds_plan, expires_at, reason, created_at, updated_at)
         values ($1, $2, $3, (case when $4 then 'GRANT' else 'ORGANIZATION' end)::tenantry.flag_override_source, true, $4,
                 $5 + interval '90 days', 'Pilot until the next renewal.', $5 - interval '10 days', $5 - interval '10 days')",
    )
    .bind(organization)
    .bind(flags::override_id(OrganizationId::from_uuid(organization), key))
    .bind(key.to_owned())
    .bind(is_grant)
    .bind(w.now);
    w.insert("organization_feature_flags", query).await?;
    let query = sqlx::query(
        "insert into tenantry.feature_flag_usage (organization_id, flag_key, evaluations, last_evaluated_at)
         values ($1, 'new-inbox', 41200, $2 - interval '3 minutes'), ($1, 'automatic-refunds', 310, $2 - interval '2 hours')",
    )
    .bind(organization)
    .bind(w.now);
    w.insert("feature_flag_usage", query).await
}

/// Three received webhook events with empty bodies.
pub(super) async fn webhook_events(w: &mut Writer<'_>, acme: Uuid) -> Result<()> {
    let [created, updated, paid] = w.ids();
    let query = sqlx::query(
        "insert into tenantry.webhook_events (id, source, event_id, event_type, object_id, raw_body, status, attempts, organization_id,
                                     event_created_at, received_at, processed_at, next_attempt_at)
         values ($1, 'CLERK', 'msg_sample_1', 'organization.created', 'org_acme', '{}', 'APPLIED', 1, $4,
                 $5 - interval '90 days', $5 - interval '90 days', $5 - interval '90 days', $5 - interval '90 days'),
                ($2, 'STRIPE', 'evt_sample_1', 'customer.subscription.updated', 'sub_sample_acme-corp', '{}', 'APPLIED', 2, $4,
                 $5 - interval '1 day', $5 - interval '1 day', $5 - interval '1 day', $5 - interval '1 day'),
                ($3, 'STRIPE', 'evt_sample_2', 'invoice.finalized', 'in_sample_1', '{}', 'IGNORED', 1, $4,
                 $5 - interval '1 day', $5 - interval '23 hours', $5 - interval '23 hours', $5 - interval '23 hours')",
    )
    .bind(created)
    .bind(updated)
    .bind(paid)
    .bind(acme)
    .bind(w.now);
    w.insert("webhook_events", query).await
}

/// Some of what was done to the tickets, the budget and the invitation.
pub(super) async fn audit_logs(w: &mut Writer<'_>, acme: Uuid, people: &People, desk: &Desk) -> Result<()> {
    let [first, second, third] = desk.tickets;
    // Minutes ago.
    let rows = [
        (
            None,
            "ticket.create",
            "Ticket",
            Some(first),
            r#"{"number": 1, "priority": "HIGH", "category": "BILLING"}"#,
            7200,
        ),
        (
            Some(people.dave),
            "ticket.update",
            "Ticket",
            Some(first),
            r#"{"before": {"status": "OPEN", "priority": "HIGH", "version": 3}, "after": {"status": "RESOLVED", "priority": "HIGH", "version": 4}}"#,
            6000,
        ),
        (
            None,
            "ticket.create",
            "Ticket",
            Some(second),
            r#"{"number": 2, "priority": "NORMAL", "category": "ORDER"}"#,
            4320,
        ),
        (
            Some(people.erin),
            "ticket.update",
            "Ticket",
            Some(second),
            r#"{"before": {"status": "OPEN", "priority": "NORMAL", "version": 2}, "after": {"status": "PENDING_CUSTOMER", "priority": "NORMAL", "version": 3}}"#,
            4200,
        ),
        (
            None,
            "ticket.create",
            "Ticket",
            Some(third),
            r#"{"number": 3, "priority": "URGENT", "category": "TECHNICAL_ISSUE"}"#,
            1440,
        ),
        (
            Some(people.alice),
            "organization.update",
            "Organization",
            Some(acme),
            r#"{"before": {"name": "Acme Corp", "industry": null, "supportEmail": null}}"#,
            600,
        ),
    ];
    for (user, action, resource_type, resource, metadata, minutes) in rows {
        let query = sqlx::query(
            "insert into tenantry.audit_logs (organization_id, id, user_id, action, resource_type, resource_id, metadata, request_id, created_at)
             values ($1, $2, $3, $4, $5, $6, $7::jsonb, 'sample', $8 - make_interval(mins => $9))",
        )
        .bind(acme)
        .bind(w.id())
        .bind(user)
        .bind(action)
        .bind(resource_type)
        .bind(resource)
        .bind(metadata)
        .bind(w.now)
        .bind(minutes);
        w.insert("audit_logs", query).await?;
    }
    Ok(())
}

/// Figures of the rows of an organization, as the job computes them.
pub(super) async fn figures(w: &mut Writer<'_>, organization: Uuid) -> Result<()> {
    while metrics::compute_in(&mut w.tx, w.clock, OrganizationId::from_uuid(organization)).await? > 0 {}
    for table in ["performance_metrics", "team_performance"] {
        let count = format!("select count(*) from tenantry.{table} where organization_id = $1");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(count)).bind(organization).fetch_one(w.tx.conn()).await?;
        *w.counts.entry(table).or_default() += u64::try_from(rows).unwrap_or_default();
    }
    Ok(())
}
