//! Tech Startup Inc: a row in almost every table, as data that members of Acme must not see.

use uuid::Uuid;

use super::people::People;
use super::{Writer, people, total_budgets};
use crate::error::Result;

/// Makes all rows. Grace is the only representative.
pub(super) async fn rows(w: &mut Writer<'_>, startup: Uuid, people: &People) -> Result<()> {
    let [representative, customer, first, second] = w.ids();
    representatives_and_customers(w, startup, people, representative, customer).await?;
    tickets(w, startup, people, [representative, customer, first, second]).await?;
    budgets_and_refunds(w, startup, people, customer, second).await?;
    administration(w, startup, people, first).await
}

async fn representatives_and_customers(
    w: &mut Writer<'_>,
    startup: Uuid,
    people: &People,
    representative: Uuid,
    customer: Uuid,
) -> Result<()> {
    let query = sqlx::query(
        "insert into tenantry.representatives (organization_id, id, user_id, role, status, skills, capacity, created_at, updated_at)
         values ($1, $2, $3, 'AGENT', 'ONLINE', '{onboarding}', 5, $4 - interval '60 days', $4 - interval '2 hours')",
    )
    .bind(startup)
    .bind(representative)
    .bind(people.grace)
    .bind(w.now);
    w.insert("representatives", query).await?;
    let query = sqlx::query(
        r#"insert into tenantry.customer_profiles (organization_id, id, email, name, phone, company, tier, lifetime_value_minor, preferences, context, created_at, updated_at)
           values ($1, $2, 'karl@example.org', 'Karl Jensen', '+1 555 0110', 'Jensen Labs', 'PREMIUM', 48000,
                   '{"language": "en", "channel": "email"}', '{"project": "Pilot"}', $3 - interval '50 days', $3 - interval '6 hours')"#,
    )
    .bind(startup)
    .bind(customer)
    .bind(w.now);
    w.insert("customer_profiles", query).await
}

async fn tickets(
    w: &mut Writer<'_>,
    startup: Uuid,
    people: &People,
    [representative, customer, first, second]: [Uuid; 4],
) -> Result<()> {
    let query = sqlx::query(
        "insert into tenantry.tickets (organization_id, id, number, customer_id, assignee_id, subject, description, status, priority, category, tags,
                              first_response_due_at, resolution_due_at, first_responded_at, version, created_at, updated_at)
         values ($1, $2, 1, $4, $5, 'How do I invite my team?', 'I cannot find where to invite my three colleagues.',
                 'OPEN', 'LOW', 'ACCOUNT', '{onboarding}', $6 - interval '24 hours', $6 + interval '5 days', $6 - interval '46 hours',
                 2, $6 - interval '2 days', $6 - interval '46 hours'),
                ($1, $3, 2, $4, null, 'The export stops at 1,000 rows', 'The CSV file ends after 1,000 rows although there are more.',
                 'NEW', 'HIGH', 'TECHNICAL_ISSUE', '{export}', $6 - interval '2 hours', $6 + interval '18 hours', null,
                 1, $6 - interval '6 hours', $6 - interval '6 hours')",
    )
    .bind(startup)
    .bind(first)
    .bind(second)
    .bind(customer)
    .bind(representative)
    .bind(w.now);
    w.insert("tickets", query).await?;
    let query =
        sqlx::query("insert into tenantry.ticket_counters (organization_id, last_number) values ($1, 2)").bind(startup);
    w.insert("ticket_counters", query).await?;

    let [question, answer, note, escalation] = w.ids();
    let query = sqlx::query(
        "insert into tenantry.ticket_messages (organization_id, id, ticket_id, author_user_id, author_customer_id, is_internal, body, created_at, updated_at)
         values ($1, $2, $5, null, $8, false, 'They already have accounts, if that matters.', $9 - interval '47 hours', $9 - interval '47 hours'),
                ($1, $3, $5, $7, null, false, 'Settings, Members, Invite: one address per line.', $9 - interval '46 hours', $9 - interval '46 hours'),
                ($1, $4, $6, $7, null, true, 'Looks like the page size of the new export.', $9 - interval '1 hour', $9 - interval '1 hour')",
    )
    .bind(startup)
    .bind(question)
    .bind(answer)
    .bind(note)
    .bind(first)
    .bind(second)
    .bind(people.grace)
    .bind(customer)
    .bind(w.now);
    w.insert("ticket_messages", query).await?;
    let query = sqlx::query(
        "insert into tenantry.escalations (organization_id, id, ticket_id, reason, priority, status, escalated_by, created_at, updated_at)
         values ($1, $2, $3, 'TECHNICAL_COMPLEXITY', 'HIGH', 'OPEN', $4, $5 - interval '1 hour', $5 - interval '1 hour')",
    )
    .bind(startup)
    .bind(escalation)
    .bind(second)
    .bind(people.grace)
    .bind(w.now);
    w.insert("escalations", query).await
}

async fn budgets_and_refunds(
    w: &mut Writer<'_>,
    startup: Uuid,
    people: &People,
    customer: Uuid,
    ticket: Uuid,
) -> Result<()> {
    let [agent, rule, budget, refund, usage, reservation] = w.ids();
    let query = sqlx::query(
        r#"insert into tenantry.agent_configurations (organization_id, id, name, type, status, model_settings, thresholds, data_sources, created_at, updated_at)
           values ($1, $2, 'Refund decisions', 'REFUND', 'DRAFT', '{"model": "small"}', '{"confidence": 0.9}', '["refunds"]', $3 - interval '8 days', $3 - interval '8 days')"#,
    )
    .bind(startup)
    .bind(agent)
    .bind(w.now);
    w.insert("agent_configurations", query).await?;
    let query = sqlx::query(
        "insert into tenantry.decision_rules (organization_id, id, agent_id, name, rank, conditions, action, created_at, updated_at)
         values ($1, $2, $3, 'Always ask', 10, 'true', 'REQUIRE_APPROVAL', $4 - interval '8 days', $4 - interval '8 days')",
    )
    .bind(startup)
    .bind(rule)
    .bind(agent)
    .bind(w.now);
    w.insert("decision_rules", query).await?;
    let query = sqlx::query(
        "insert into tenantry.budgets (organization_id, id, series_id, type, name, period, starts_at, ends_at, limit_minor, currency, is_hard_limit, alert_thresholds, changes, created_at, updated_at)
         select $1, $2, $2, 'AI_USAGE', 'AI models', 'MONTH', m.start, m.start + interval '1 month', 20000, 'USD', false, '{5,50,100}', 3, m.start, $3
           from (values (date_trunc('month', $3, 'UTC'))) as m(start)",
    )
    .bind(startup)
    .bind(budget)
    .bind(w.now);
    w.insert("budgets", query).await?;
    let query = sqlx::query(
        "insert into tenantry.budget_reservations (organization_id, id, amount_minor, currency, status, source, expires_at, ended_at, created_at, updated_at)
         select $1, $2, 500, 'USD', 'RELEASED', 'agent:triage', m.at + interval '1 hour', m.at, m.at, m.at
           from (values (greatest($3 - interval '6 hours', date_trunc('month', $3, 'UTC')))) as m(at)",
    )
    .bind(startup)
    .bind(reservation)
    .bind(w.now);
    w.insert("budget_reservations", query).await?;
    for (id, kind, amount, of) in [
        (w.id(), "RESERVE", 500_i64, Some(reservation)),
        (w.id(), "RELEASE", 500, Some(reservation)),
        (usage, "SPEND", 1375, None),
    ] {
        let query = sqlx::query(
            "insert into tenantry.budget_usage_records (organization_id, id, budget_id, reservation_id, amount_minor, currency, kind, source, created_at)
             values ($1, $2, $3, $4, $5, 'USD', $6::tenantry.budget_usage_kind, 'agent:triage', greatest($7 - interval '5 hours', date_trunc('month', $7, 'UTC')))",
        )
        .bind(startup)
        .bind(id)
        .bind(budget)
        .bind(of)
        .bind(amount)
        .bind(kind)
        .bind(w.now);
        w.insert("budget_usage_records", query).await?;
    }
    let query = sqlx::query(
        "insert into tenantry.budget_alerts (organization_id, id, budget_id, series_id, percent, change, taken_minor, limit_minor, currency, created_at)
         values ($1, $2, $3, $3, 5, 3, 1375, 20000, 'USD', greatest($4 - interval '5 hours', date_trunc('month', $4, 'UTC')))",
    )
    .bind(startup)
    .bind(w.id())
    .bind(budget)
    .bind(w.now);
    w.insert("budget_alerts", query).await?;
    total_budgets(&mut w.tx, startup).await?;
    let query = sqlx::query(
        "insert into tenantry.refunds (organization_id, id, ticket_id, customer_id, amount_minor, currency, reason, note, status, requested_by, created_at, updated_at)
         values ($1, $2, $3, $4, 1200, 'USD', 'GOODWILL', 'For the trouble with the export.', 'REQUESTED', $5, $6 - interval '1 hour', $6 - interval '1 hour')",
    )
    .bind(startup)
    .bind(refund)
    .bind(ticket)
    .bind(customer)
    .bind(people.grace)
    .bind(w.now);
    w.insert("refunds", query).await
}

/// What administrators see. The hashes are of random bytes, as for Acme.
async fn administration(w: &mut Writer<'_>, startup: Uuid, people: &People, ticket: Uuid) -> Result<()> {
    let [invitation, key, webhook, audit] = w.ids();
    let query = sqlx::query(
        "insert into tenantry.invitations (organization_id, id, email, role, token_hash, invited_by, expires_at, created_at, updated_at)
         values ($1, $2, 'mallory@example.com', 'ADMIN', sha256(uuid_send(gen_random_uuid())), $3,
                 $4 + interval '5 days', $4 - interval '2 days', $4 - interval '2 days')",
    )
    .bind(startup)
    .bind(invitation)
    .bind(people.bob)
    .bind(w.now);
    w.insert("invitations", query).await?;
    let query = sqlx::query(
        "insert into tenantry.api_keys (organization_id, id, name, prefix, key_hash, scopes, created_by, created_at, updated_at)
         values ($1, $2, 'Import script', 'sample_startup', sha256(uuid_send(gen_random_uuid())), '{TICKET_CREATE}', $3,
                 $4 - interval '15 days', $4 - interval '15 days')",
    )
    .bind(startup)
    .bind(key)
    .bind(people.bob)
    .bind(w.now);
    w.insert("api_keys", query).await?;
    let query = sqlx::query(
        "insert into tenantry.client_keys (organization_id, id, name, environment, public_key, created_by, created_at, updated_at)
         values ($1, $2, 'Mobile application', 'staging', sha256(uuid_send(gen_random_uuid())), $3, $4 - interval '20 days', $4 - interval '20 days')",
    )
    .bind(startup)
    .bind(w.id())
    .bind(people.bob)
    .bind(w.now);
    w.insert("client_keys", query).await?;
    people::domain(w, startup, people.frank, "startup.example").await?;
    people::support_access(w, startup, "Asked for help with the import").await?;
    let actions = "{ORGANIZATION_READ,TICKET_CREATE}";
    people::custom_role(w, startup, "Contractor", "Opens tickets", actions).await?;
    let query = sqlx::query(
        "insert into tenantry.webhook_events (id, source, event_id, event_type, object_id, raw_body, status, attempts, organization_id,
                                     event_created_at, received_at, processed_at, next_attempt_at)
         values ($1, 'CLERK', 'msg_sample_2', 'organization.created', 'org_techstartup', '{}', 'APPLIED', 1, $2,
                 $3 - interval '90 days', $3 - interval '90 days', $3 - interval '90 days', $3 - interval '90 days')",
    )
    .bind(webhook)
    .bind(startup)
    .bind(w.now);
    w.insert("webhook_events", query).await?;
    let query = sqlx::query(
        r#"insert into tenantry.audit_logs (organization_id, id, user_id, action, resource_type, resource_id, metadata, request_id, created_at)
           values ($1, $2, $3, 'ticket.update', 'Ticket', $4,
                   '{"before": {"status": "NEW", "priority": "LOW", "version": 1}, "after": {"status": "OPEN", "priority": "LOW", "version": 2}}',
                   'sample', $5 - interval '46 hours')"#,
    )
    .bind(startup)
    .bind(audit)
    .bind(people.grace)
    .bind(ticket)
    .bind(w.now);
    w.insert("audit_logs", query).await
}
