//! The support desk of Acme: representatives, customers, tickets with what was said, escalations.

use uuid::Uuid;

use super::Writer;
use super::people::People;
use crate::error::Result;

/// Rows that others refer to. Ticket 1 is of Ivan and Dave, 2 of Heidi and Erin, 3 of Grace and Frank.
pub(super) struct Desk {
    pub(super) dave: Uuid,
    pub(super) erin: Uuid,
    pub(super) frank: Uuid,
    pub(super) grace: Uuid,
    pub(super) heidi: Uuid,
    pub(super) ivan: Uuid,
    pub(super) tickets: [Uuid; 3],
}

/// Representatives and customers; the tickets get their ids here.
pub(super) async fn desk(w: &mut Writer<'_>, acme: Uuid, people: &People) -> Result<Desk> {
    let [dave, erin, frank, grace, heidi, ivan] = w.ids();
    let query = sqlx::query(
        "insert into tenantry.representatives (organization_id, id, user_id, role, status, skills, capacity, created_at, updated_at)
         values ($1, $2, $5, 'AGENT', 'ONLINE', '{billing,english,german}', 10, $8 - interval '80 days', $8 - interval '1 hour'),
                ($1, $3, $6, 'SENIOR_AGENT', 'BUSY', '{orders,english,swedish}', 12, $8 - interval '79 days', $8 - interval '20 minutes'),
                ($1, $4, $7, 'TEAM_LEAD', 'AWAY', '{technical,single-sign-on,french}', 6, $8 - interval '78 days', $8 - interval '5 minutes')",
    )
    .bind(acme)
    .bind(dave)
    .bind(erin)
    .bind(frank)
    .bind(people.dave)
    .bind(people.erin)
    .bind(people.frank)
    .bind(w.now);
    w.insert("representatives", query).await?;

    let query = sqlx::query(
        r#"insert into tenantry.customer_profiles (organization_id, id, user_id, email, name, phone, company, tier, standing, lifetime_value_minor,
                                          currency, preferences, context, created_at, updated_at)
           values ($1, $2, $5, 'grace@example.com', 'Grace Miller', '+1 555 0100', 'Tech Startup Inc', 'VIP', 'GOOD', 1284000, 'USD',
                   '{"language": "en", "channel": "email", "newsletter": true}',
                   '{"seats": 40, "accountManager": "Frank Moreau", "orders": [{"number": 7012, "total": "9500.00"}]}',
                   $6 - interval '75 days', $6 - interval '1 day'),
                  ($1, $3, null, 'heidi@example.org', 'Heidi Weber', '+1 555 0101', 'Weber Design', 'PREMIUM', 'WATCH', 214500, 'USD',
                   '{"language": "de", "channel": "phone", "newsletter": false}',
                   '{"refundsThisYear": 3, "orders": [{"number": 7730, "total": "180.00"}, {"number": 7512, "total": "65.00"}]}',
                   $6 - interval '60 days', $6 - interval '3 days'),
                  ($1, $4, null, 'ivan@example.net', 'Ivan Petrov', '+1 555 0102', 'Petrov Repairs', 'STANDARD', 'GOOD', 32500, 'USD',
                   '{"language": "en", "channel": "chat", "newsletter": true}',
                   '{"orders": [{"number": 7655, "total": "25.00"}], "device": "Android 15"}',
                   $6 - interval '45 days', $6 - interval '5 days')"#,
    )
    .bind(acme)
    .bind(grace)
    .bind(heidi)
    .bind(ivan)
    .bind(people.grace)
    .bind(w.now);
    w.insert("customer_profiles", query).await?;
    Ok(Desk { dave, erin, frank, grace, heidi, ivan, tickets: w.ids() })
}

/// Three tickets: resolved in time, waiting for the customer, open and overdue. Due times as of their priorities.
pub(super) async fn tickets(w: &mut Writer<'_>, acme: Uuid, desk: &Desk) -> Result<()> {
    let [first, second, third] = desk.tickets;
    let query = sqlx::query(
        "insert into tenantry.tickets (organization_id, id, number, customer_id, assignee_id, subject, description, status, priority, category, tags,
                              first_response_due_at, resolution_due_at, first_responded_at, resolved_at, sla_paused_at, version, created_at, updated_at)
         values ($1, $2, 1, $5, $8, 'Charged twice for order 7655',
                 'My card statement shows two charges of 25.00 for the same order. Please give one of them back.',
                 'RESOLVED', 'HIGH', 'BILLING', '{refund,card}',
                 $11 - interval '4 days 20 hours', $11 - interval '4 days', $11 - interval '4 days 23 hours 20 minutes',
                 $11 - interval '4 days 4 hours', null, 4, $11 - interval '5 days', $11 - interval '4 days 4 hours'),
                ($1, $3, 2, $6, $9, 'Order 7730 arrived damaged',
                 'The lamp in the parcel is broken. I ordered it 34 days ago and opened the parcel today. What can you do?',
                 'PENDING_CUSTOMER', 'NORMAL', 'ORDER', '{damaged,return-window}',
                 $11 - interval '2 days 16 hours', $11, $11 - interval '2 days 22 hours',
                 null, $11 - interval '2 days 22 hours', 3, $11 - interval '3 days', $11 - interval '2 days 22 hours'),
                ($1, $4, 3, $7, $10, 'Nobody can sign in with single sign-on',
                 'Since this morning all 40 of us land on an error page after signing in at our identity provider.',
                 'OPEN', 'URGENT', 'TECHNICAL_ISSUE', '{single-sign-on,outage}',
                 $11 - interval '23 hours', $11 - interval '16 hours', $11 - interval '23 hours 35 minutes',
                 null, null, 3, $11 - interval '1 day', $11 - interval '15 hours')",
    )
    .bind(acme)
    .bind(first)
    .bind(second)
    .bind(third)
    .bind(desk.ivan)
    .bind(desk.heidi)
    .bind(desk.grace)
    .bind(desk.dave)
    .bind(desk.erin)
    .bind(desk.frank)
    .bind(w.now);
    w.insert("tickets", query).await?;
    let query =
        sqlx::query("insert into tenantry.ticket_counters (organization_id, last_number) values ($1, 3)").bind(acme);
    w.insert("ticket_counters", query).await
}

/// Who wrote a message.
enum Author {
    User(Uuid),
    Customer(Uuid),
}

/// What was said, with one note that the customer must not see.
pub(super) async fn messages(w: &mut Writer<'_>, acme: Uuid, people: &People, desk: &Desk) -> Result<()> {
    use Author::{Customer, User};
    let [first, second, third] = desk.tickets;
    // Minutes ago; the first answers and the resolution are those of the tickets.
    let messages = [
        (first, Customer(desk.ivan), false, 7195, "Here is the statement: two charges on the same day, both of 25.00."),
        (
            first,
            User(people.dave),
            false,
            7160,
            "Thank you, Ivan. I see both charges and have asked for the second one to be given back.",
        ),
        (first, Customer(desk.ivan), false, 6900, "Great, that was quick!"),
        (first, User(people.dave), false, 6000, "The 25.00 are on their way to your card; banks take up to five days."),
        (
            second,
            User(people.erin),
            false,
            4200,
            "I am sorry to hear that, Heidi. Could you send a photo of the lamp and of the label?",
        ),
        (
            second,
            User(people.erin),
            true,
            4190,
            "Third refund this year and past the return window: asked Frank for an exception.",
        ),
        (
            third,
            User(people.frank),
            false,
            1415,
            "We are looking into it. Does signing in with a password still work for your administrators?",
        ),
        (
            third,
            Customer(desk.grace),
            false,
            1380,
            "Yes, passwords work. We would like the fee of this month back, though.",
        ),
        (
            third,
            User(people.frank),
            false,
            900,
            "The certificate of your identity provider was renewed yesterday; please upload the new one.",
        ),
    ];
    for (ticket, author, is_internal, minutes, body) in messages {
        let (user, customer) = match author {
            User(id) => (Some(id), None),
            Customer(id) => (None, Some(id)),
        };
        let query = sqlx::query(
            "insert into tenantry.ticket_messages (organization_id, id, ticket_id, author_user_id, author_customer_id, is_internal, body, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8 - make_interval(mins => $9), $8 - make_interval(mins => $9))",
        )
        .bind(acme)
        .bind(w.id())
        .bind(ticket)
        .bind(user)
        .bind(customer)
        .bind(is_internal)
        .bind(body)
        .bind(w.now)
        .bind(minutes);
        w.insert("ticket_messages", query).await?;
    }
    Ok(())
}

/// Two escalations: one resolved, one in progress.
pub(super) async fn escalations(w: &mut Writer<'_>, acme: Uuid, people: &People, desk: &Desk) -> Result<()> {
    let [_, second, third] = desk.tickets;
    let [exception, breach] = w.ids();
    let query = sqlx::query(
        "insert into tenantry.escalations (organization_id, id, ticket_id, reason, note, priority, status, escalated_by, assigned_to,
                                  resolution, resolved_at, version, created_at, updated_at)
         values ($1, $2, $4, 'POLICY_EXCEPTION', 'The return window of 30 days is over by 4 days.', 'NORMAL', 'RESOLVED', $6, $7,
                 'Granted once: a refund instead of a replacement, when the photo shows the damage.', $8 - interval '2 days',
                 3, $8 - interval '2 days 21 hours', $8 - interval '2 days'),
                ($1, $3, $5, 'SLA_BREACH', 'Not solved within 8 hours.', 'URGENT', 'IN_PROGRESS', null, $7,
                 null, null, 2, $8 - interval '16 hours', $8 - interval '15 hours')",
    )
    .bind(acme)
    .bind(exception)
    .bind(breach)
    .bind(second)
    .bind(third)
    .bind(people.erin)
    .bind(desk.frank)
    .bind(w.now);
    w.insert("escalations", query).await
}
