//! Agents, the rules they decide by, and the refunds that came of it, with the budget they are paid from.

use uuid::Uuid;

use super::people::People;
use super::support::Desk;
use super::{Writer, total_budgets};
use crate::error::Result;

/// The rules that refunds refer to.
pub(super) struct Rules {
    small: Uuid,
    large: Uuid,
    rest: Uuid,
}

/// Three agents; the one for refunds has four rules.
pub(super) async fn agents(w: &mut Writer<'_>, acme: Uuid) -> Result<Rules> {
    let [triage, support, refund] = w.ids();
    let query = sqlx::query(
        r#"insert into tenantry.agent_configurations (organization_id, id, name, description, type, status, model_settings, thresholds, data_sources, created_at, updated_at)
           values ($1, $2, 'Ticket triage', 'Sets category, priority and tags of new tickets.', 'TRIAGE', 'ACTIVE',
                   '{"model": "small", "temperature": 0, "maxTokens": 300}', '{"confidence": 0.8}', '["tickets"]',
                   $5 - interval '70 days', $5 - interval '20 days'),
                  ($1, $3, 'First answers', 'Drafts an answer for the representative.', 'SUPPORT', 'PAUSED',
                   '{"model": "large", "temperature": 0.3, "maxTokens": 1200}', '{"confidence": 0.9, "handOver": 0.6}',
                   '["tickets", "help-centre", "customers"]', $5 - interval '65 days', $5 - interval '10 days'),
                  ($1, $4, 'Refund decisions', 'Decides about refunds by the rules below; a person sees what it may not.', 'REFUND', 'ACTIVE',
                   '{"model": "small", "temperature": 0, "maxTokens": 500}', '{"autoApproveMinor": 5000, "escalateMinor": 50000, "refundsPerYear": 5}',
                   '["refunds", "customers", "budgets"]', $5 - interval '60 days', $5 - interval '60 days')"#,
    )
    .bind(acme)
    .bind(triage)
    .bind(support)
    .bind(refund)
    .bind(w.now);
    w.insert("agent_configurations", query).await?;

    let [blocked, small, large, rest] = w.ids();
    let query = sqlx::query(
        r#"insert into tenantry.decision_rules (organization_id, id, agent_id, name, rank, conditions, action, currency, created_at, updated_at)
           select $1, r.id, $2, r.name, r.rank, r.conditions::jsonb, r.action::tenantry.decision_action, r.currency, $3 - interval '60 days', $3 - interval '60 days'
             from (values ($4::uuid, 'Nothing for blocked customers', 10,
                           '{"in": [{"var": "customer.standing"}, ["RESTRICTED", "BLOCKED"]]}', 'DENY', null),
                          ($5, 'Small amounts of customers in good standing', 20,
                           '{"and": [{"<=": [{"var": "amountMinor"}, {"var": "threshold.autoApproveMinor"}]},
                                     {"==": [{"var": "customer.standing"}, "GOOD"]},
                                     {"<": [{"var": "customer.refundsLast365Days"}, {"var": "threshold.refundsPerYear"}]}]}', 'AUTO_APPROVE', 'USD'),
                          ($6, 'Large amounts', 30,
                           '{">": [{"var": "amountMinor"}, {"var": "threshold.escalateMinor"}]}', 'ESCALATE', 'USD'),
                          ($7, 'Everything else', 40, 'true', 'REQUIRE_APPROVAL', null)) as r(id, name, rank, conditions, action, currency)"#,
    )
    .bind(acme)
    .bind(refund)
    .bind(w.now)
    .bind(blocked)
    .bind(small)
    .bind(large)
    .bind(rest);
    w.insert("decision_rules", query).await?;
    Ok(Rules { small, large, rest })
}

/// The budget of this month, refunds from it (paid, waiting for a person, denied, refused by Stripe) and a voucher; a refund that was
/// made in Stripe.
pub(super) async fn budget_and_refunds(
    w: &mut Writer<'_>,
    acme: Uuid,
    people: &People,
    desk: &Desk,
    rules: &Rules,
) -> Result<()> {
    let budget = w.id();
    let query = sqlx::query(
        "insert into tenantry.budgets (organization_id, id, series_id, type, name, period, starts_at, ends_at, limit_minor, currency, alert_thresholds, changes, created_at, updated_at)
         select $1, $2, $2, 'REFUND', 'Refunds', 'MONTH', m.start, m.start + interval '1 month', 500000, 'USD', '{20,50,80,100}', 8, m.start, $3
           from (values (date_trunc('month', $3, 'UTC'))) as m(start)",
    )
    .bind(acme)
    .bind(budget)
    .bind(w.now);
    w.insert("budgets", query).await?;

    let ids = [w.ids(), w.ids()];
    usage(w, acme, budget, ids).await?;
    refunds(w, acme, budget, ids, people, desk, rules).await?;
    of_stripe(w, acme, budget, ids.map(|[.., last]| last), people, desk, rules).await?;
    total_budgets(&mut w.tx, acme).await
}

async fn refunds(
    w: &mut Writer<'_>,
    acme: Uuid,
    budget: Uuid,
    [[paid, waiting, denied, _], holds]: [[Uuid; 4]; 2],
    people: &People,
    desk: &Desk,
    rules: &Rules,
) -> Result<()> {
    let [first, second, third] = desk.tickets;
    let query = sqlx::query(
        r#"insert into tenantry.refunds (organization_id, id, ticket_id, customer_id, amount_minor, currency, reason, note, status, requested_by,
                                decision, decision_rule_id, decision_explanation, decided_at, budget_id, reservation_id,
                                stripe_payment_intent_id, stripe_refund_id, settled_at, version, created_at, updated_at)
           values ($1, $2, $4, $5, 2500, 'USD', 'DUPLICATE_CHARGE', 'Order 7655 was charged twice.', 'SETTLED', $6,
                   'AUTO_APPROVE', $7,
                   '{"schema": 1, "outcome": "RULE", "action": "AUTO_APPROVE",
                     "facts": {"amountMinor": 2500, "currency": "USD", "reason": "DUPLICATE_CHARGE", "hasCharge": true, "requestedBy": "PERSON",
                              "customer": {"tier": "STANDARD", "standing": "GOOD", "ageDays": 40, "refundsLast365Days": 0, "refundedMinorLast365Days": 0},
                              "hasTicket": true, "ticket": {"status": "OPEN", "priority": "HIGH", "category": "BILLING", "ageHours": 1}},
                     "rules": [{"name": "Nothing for blocked customers", "rank": 10, "version": 1, "matched": false, "values": {"customer.standing": "GOOD"}},
                               {"name": "Small amounts of customers in good standing", "rank": 20, "version": 1, "matched": true,
                                "values": {"amountMinor": 2500, "customer.refundsLast365Days": 0, "customer.standing": "GOOD",
                                           "threshold.autoApproveMinor": 5000, "threshold.refundsPerYear": 5}}]}',
                   $8 - interval '4 days 23 hours', $3, $9,
                   'pi_sample_7655', 're_sample_7655', $8 - interval '4 days 5 hours', 3, $8 - interval '4 days 23 hours', $8 - interval '4 days 5 hours')"#,
    )
    .bind(acme)
    .bind(paid)
    .bind(budget)
    .bind(first)
    .bind(desk.ivan)
    .bind(people.dave)
    .bind(rules.small)
    .bind(w.now)
    .bind(holds[0]);
    w.insert("refunds", query).await?;

    let query = sqlx::query(
        r#"insert into tenantry.refunds (organization_id, id, ticket_id, customer_id, amount_minor, currency, reason, note, status, requested_by,
                                decision, decision_rule_id, decision_explanation, decided_at, budget_id, reservation_id,
                                stripe_payment_intent_id, version, created_at, updated_at)
           values ($1, $2, $4, $5, 18000, 'USD', 'DEFECTIVE_PRODUCT', 'The lamp of order 7730 is broken.', 'PENDING_APPROVAL', $6,
                   'REQUIRE_APPROVAL', $7,
                   '{"schema": 1, "outcome": "RULE", "action": "REQUIRE_APPROVAL",
                     "facts": {"amountMinor": 18000, "currency": "USD", "reason": "DEFECTIVE_PRODUCT", "hasCharge": true, "requestedBy": "PERSON",
                              "customer": {"tier": "PREMIUM", "standing": "WATCH", "ageDays": 58, "refundsLast365Days": 0, "refundedMinorLast365Days": 0},
                              "hasTicket": true, "ticket": {"status": "PENDING_CUSTOMER", "priority": "NORMAL", "category": "ORDER", "ageHours": 24}},
                     "rules": [{"name": "Nothing for blocked customers", "rank": 10, "version": 1, "matched": false, "values": {"customer.standing": "WATCH"}},
                               {"name": "Small amounts of customers in good standing", "rank": 20, "version": 1, "matched": false,
                                "values": {"amountMinor": 18000, "customer.refundsLast365Days": 0, "customer.standing": "WATCH",
                                           "threshold.autoApproveMinor": 5000, "threshold.refundsPerYear": 5}},
                               {"name": "Large amounts", "rank": 30, "version": 1, "matched": false,
                                "values": {"amountMinor": 18000, "threshold.escalateMinor": 50000}},
                               {"name": "Everything else", "rank": 40, "version": 1, "matched": true, "values": {}}]}',
                   $8 - interval '2 days', $3, $9,
                   'pi_sample_7730', 2, $8 - interval '2 days', $8 - interval '2 days')"#,
    )
    .bind(acme)
    .bind(waiting)
    .bind(budget)
    .bind(second)
    .bind(desk.heidi)
    .bind(people.erin)
    .bind(rules.rest)
    .bind(w.now)
    .bind(holds[1]);
    w.insert("refunds", query).await?;

    let query = sqlx::query(
        r#"insert into tenantry.refunds (organization_id, id, ticket_id, customer_id, amount_minor, currency, reason, note, status,
                                decision, decision_rule_id, decided_by, decision_explanation, decision_note, decided_at, budget_id, reservation_id,
                                stripe_payment_intent_id, version, created_at, updated_at)
           values ($1, $2, $4, $5, 95000, 'USD', 'SERVICE_ISSUE', 'The fee of this month, for a day without single sign-on.', 'DENIED',
                   'ESCALATE', $7, $6,
                   '{"schema": 1, "outcome": "RULE", "action": "ESCALATE",
                     "rules": [{"name": "Nothing for blocked customers", "rank": 10, "version": 1, "matched": false},
                               {"name": "Small amounts of customers in good standing", "rank": 20, "version": 1, "matched": false},
                               {"name": "Large amounts", "rank": 30, "version": 1, "matched": true}]}',
                   'The cause was the certificate of the customer''s own identity provider.',
                   $8 - interval '14 hours', $3, $9,
                   'pi_sample_7012', 3, $8 - interval '22 hours', $8 - interval '14 hours')"#,
    )
    .bind(acme)
    .bind(denied)
    .bind(budget)
    .bind(third)
    .bind(desk.grace)
    .bind(people.carol)
    .bind(rules.large)
    .bind(w.now)
    .bind(holds[2]);
    w.insert("refunds", query).await
}

/// One that Stripe has refused, and one that somebody made in Stripe itself, in a currency without a budget.
async fn of_stripe(
    w: &mut Writer<'_>,
    acme: Uuid,
    budget: Uuid,
    [failed, freed]: [Uuid; 2],
    people: &People,
    desk: &Desk,
    rules: &Rules,
) -> Result<()> {
    let query = sqlx::query(
        r#"insert into tenantry.refunds (organization_id, id, customer_id, amount_minor, currency, reason, status, requested_by, decision,
                                decision_rule_id, decision_explanation, decided_at, budget_id, reservation_id, stripe_payment_intent_id,
                                stripe_refund_id, made_in_stripe, failure_reason, settled_at, needs_another_approver, version, created_at, updated_at)
           values ($1, $2, $4, 4900, 'USD', 'LATE_DELIVERY', 'FAILED', $5, 'AUTO_APPROVE', $6,
                   '{"schema": 1, "outcome": "RULE", "action": "AUTO_APPROVE",
                     "rules": [{"name": "Nothing for blocked customers", "rank": 10, "version": 1, "matched": false},
                               {"name": "Small amounts of customers in good standing", "rank": 20, "version": 1, "matched": true}]}',
                   $7 - interval '50 hours', $3, $8, 'pi_sample_7311', null, false,
                   'The payment is disputed: the dispute decides about it (charge_disputed).', null, true, 3, $7 - interval '50 hours', $7 - interval '49 hours'),
                  ($1, $9, $4, 1200, 'EUR', 'OTHER', 'SETTLED', null, null, null, null, null, null, null, 'pi_sample_6990', 're_sample_6990', true,
                   null, $7 - interval '30 hours', false, 1, $7 - interval '30 hours', $7 - interval '30 hours')"#,
    )
    .bind(acme)
    .bind(failed)
    .bind(budget)
    .bind(desk.ivan)
    .bind(people.dave)
    .bind(rules.small)
    .bind(w.now)
    .bind(freed)
    .bind(w.id());
    w.insert("refunds", query).await
}

/// The reservations and usage records of the budget, and the alert when the large refund was reserved. What would fall before the
/// month is put at its start.
async fn usage(
    w: &mut Writer<'_>,
    acme: Uuid,
    budget: Uuid,
    [[paid, waiting, denied, failed], [settled, open, released, freed]]: [[Uuid; 4]; 2],
) -> Result<()> {
    let reservations = [
        (settled, 2_500_i64, "SETTLED", 119, Some(101)),
        (open, 18_000, "OPEN", 1, None),
        (released, 95_000, "RELEASED", 22, Some(14)),
        (freed, 4_900, "RELEASED", 50, Some(49)),
    ];
    for (id, amount, status, hours, ended) in reservations {
        let query = sqlx::query(
            "insert into tenantry.budget_reservations (organization_id, id, amount_minor, settled_minor, currency, status, source, expires_at, in_flight_at, ended_at, created_at, updated_at)
             select $1, $2, $3::bigint, case when $4 = 'SETTLED' then $3 end, 'USD', $4::tenantry.budget_reservation_status, 'refund',
                    m.at + interval '24 hours', case when $4 = 'SETTLED' then m.at end, greatest(m.at, $5 - make_interval(hours => $7)) + case when $7 is null then null else interval '0' end, m.at, m.at
               from (values (greatest($5 - make_interval(hours => $6), date_trunc('month', $5, 'UTC')))) as m(at)",
        )
        .bind(acme)
        .bind(id)
        .bind(amount)
        .bind(status)
        .bind(w.now)
        .bind(hours)
        .bind(ended);
        w.insert("budget_reservations", query).await?;
    }
    let records = [
        ("RESERVE", 2_500_i64, "refund", Some((paid, settled)), 119),
        ("SETTLE", 2_500, "refund", Some((paid, settled)), 101),
        ("SPEND", 4_000, "voucher", None, 72),
        ("RESERVE", 4_900, "refund", Some((failed, freed)), 50),
        ("RELEASE", 4_900, "refund", Some((failed, freed)), 49),
        ("RESERVE", 95_000, "refund", Some((denied, released)), 22),
        ("RELEASE", 95_000, "refund", Some((denied, released)), 14),
        ("RESERVE", 18_000, "refund", Some((waiting, open)), 1),
    ];
    for (n, (kind, amount, source, refund, hours)) in (1_i32..).zip(records) {
        let (resource, reservation) = refund.unzip();
        let query = sqlx::query(
            "insert into tenantry.budget_usage_records (organization_id, id, budget_id, reservation_id, amount_minor, currency, kind, source, resource_id, created_at)
             values ($1, $2, $3, $4, $5, 'USD', $6::tenantry.budget_usage_kind, $7, $8,
                     greatest($10 - make_interval(hours => $11), date_trunc('month', $10, 'UTC') + make_interval(secs => $9 / 1000.0)))",
        )
        .bind(acme)
        .bind(w.id())
        .bind(budget)
        .bind(reservation)
        .bind(amount)
        .bind(kind)
        .bind(source)
        .bind(resource)
        .bind(n)
        .bind(w.now)
        .bind(hours);
        w.insert("budget_usage_records", query).await?;
    }
    let query = sqlx::query(
        "insert into tenantry.budget_alerts (organization_id, id, budget_id, series_id, percent, change, taken_minor, limit_minor, currency, created_at)
         values ($1, $2, $3, $3, 20, 6, 101500, 500000, 'USD', greatest($4 - interval '22 hours', date_trunc('month', $4, 'UTC') + interval '4 milliseconds'))",
    )
    .bind(acme)
    .bind(w.id())
    .bind(budget)
    .bind(w.now);
    w.insert("budget_alerts", query).await
}
