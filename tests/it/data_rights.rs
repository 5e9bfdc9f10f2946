//! What is known of a person is exported whole, and erased so that no table has it any more.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tenantry::clock::Clock;
use tenantry::data_rights::{Erasure, Person, RightsError, erase, export, find_customer, find_user};
use tenantry::id::OrganizationId;

use crate::support::{TestApp, TestDb, hear};

/// What stands in every text that is about the person.
const MARK: &str = "Zÿx-pörsonal";

async fn run(database: &TestDb, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut database.system().await)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// The tables that have the text anywhere, but for those that stay.
async fn tables_with(database: &TestDb, text: &str) -> Vec<String> {
    let mut system = database.superuser().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_class c where c.relnamespace = 'tenantry'::regnamespace and c.relkind in ('r', 'p')
            and not c.relispartition order by 1",
    )
    .fetch_all(&mut system)
    .await
    .expect("the tables");
    let mut found = Vec::new();
    for table in tables {
        // Bytes as the text that they are.
        let body = if table == "webhook_events" { "|| tenantry.body_text(t.raw_body)" } else { "" };
        let sql =
            format!("select count(*) from tenantry.{table} t where position(lower($1) in lower(t::text {body})) > 0");
        let rows: i64 =
            sqlx::query_scalar(AssertSqlSafe(sql)).bind(text).fetch_one(&mut system).await.expect("a count");
        if rows > 0 {
            found.push(table);
        }
    }
    found
}

/// Carol of the sample data, with something of hers in every place that has room for it.
async fn carol_everywhere(database: &TestDb) {
    run(
        database,
        &format!(
            r#"
        update tenantry.users set name = '{MARK} name', email = '{MARK}@example.com', avatar_url = 'https://x/{MARK}' where clerk_id = 'user_carol';
        update tenantry.customer_profiles c set user_id = u.id, name = '{MARK}', email = '{MARK}@home.example', phone = '{MARK}', company = '{MARK}',
               preferences = '{{"a": "{MARK}"}}', context = '{{"a": "{MARK}"}}'
          from tenantry.users u where u.clerk_id = 'user_carol'
           and c.id = (select t.customer_id from tenantry.tickets t join tenantry.organizations o on o.id = t.organization_id and o.slug = 'acme-corp'
                        join tenantry.escalations e on e.ticket_id = t.id join tenantry.refunds r on r.customer_id = t.customer_id limit 1);
        update tenantry.tickets t set subject = '{MARK}', description = '{MARK}' from tenantry.customer_profiles c where c.name = '{MARK}' and t.customer_id = c.id;
        update tenantry.ticket_messages m set body = '{MARK} said' from tenantry.tickets t where t.subject = '{MARK}' and m.ticket_id = t.id;
        update tenantry.escalations e set note = '{MARK}', resolution = '{MARK}' from tenantry.tickets t where t.subject = '{MARK}' and e.ticket_id = t.id;
        update tenantry.refunds r set note = '{MARK}' from tenantry.customer_profiles c where c.name = '{MARK}' and r.customer_id = c.id;
        insert into tenantry.invitations (organization_id, id, email, token_hash, expires_at)
          select id, gen_random_uuid(), '{MARK}@EXAMPLE.com', 'secret-hash', now() + interval '1 day' from tenantry.organizations where slug = 'tech-startup';
        insert into tenantry.sync_objects (source, kind, object_id, fields, deleted_at)
          values ('CLERK', 'user', 'user_carol', '{{"name": {{"is": "{MARK}"}}}}', now()),
                 ('CLERK', 'invitation', 'inv_carol', '{{"email": {{"is": "{MARK}@example.com"}}}}', null);
        insert into tenantry.webhook_events (id, source, event_id, event_type, object_id, raw_body, status, received_at)
          values (gen_random_uuid(), 'CLERK', 'msg_c1', 'user.updated', 'user_carol', convert_to('{{"data": {{"id": "user_carol", "first_name": "{MARK}"}}}}', 'UTF8'), 'APPLIED', now()),
                 (gen_random_uuid(), 'CLERK', 'msg_c0', 'user.updated', 'user_carol', '\xff00'::bytea || convert_to('user_carol', 'UTF8'), 'DEAD', now()),
                 (gen_random_uuid(), 'CLERK', 'msg_c2', 'organizationInvitation.created', 'inv_carol', convert_to('{{"data": {{"email_address": "{MARK}@example.com"}}}}', 'UTF8'), 'IGNORED', now());
        "#
        ),
    )
    .await;
}

async fn exported(database: &TestDb, person: &Person) -> Vec<Value> {
    let mut out = Vec::new();
    let rows = export(&database.db(), person, &mut out).await.expect("an export");
    let text = String::from_utf8(out).expect("text");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len() as u64, rows);
    lines
}

fn tables_of(lines: &[Value]) -> Vec<&str> {
    let mut tables: Vec<&str> = lines.iter().filter_map(|line| line["table"].as_str()).collect();
    tables.sort_unstable();
    tables.dedup();
    tables
}

#[tokio::test]
async fn a_person_is_exported_whole_and_erased_whole() {
    let app = TestApp::start().await;
    let database = &app.database;
    carol_everywhere(database).await;
    let everywhere = tables_with(database, MARK).await;
    assert!(everywhere.len() >= 9, "{everywhere:?}");
    let carol = find_user(&database.db(), &format!("{MARK}@example.COM")).await.expect("carol");
    let lines = exported(database, &carol).await;
    // What triggers derive from other tables is told with those.
    for table in everywhere.iter().filter(|table| *table != "ticket_documents") {
        let of_table: Vec<&Value> = lines.iter().filter(|line| line["table"] == table.as_str()).collect();
        let has_it = of_table.iter().any(|line| line.to_string().contains(MARK));
        assert!(has_it || !of_table.is_empty(), "{table} is not in the export: {:?}", tables_of(&lines));
    }
    let text: String = lines.iter().map(Value::to_string).collect();
    assert!(!text.contains("token_hash") && !text.contains("key_hash"));
    assert!(text.contains("\\\"first_name\\\": \\\"Zÿx-pörsonal\\\""), "deliveries are told as they came");

    let token = app.token(&format!("{MARK}@example.com"), Some("acme-corp")).await;
    let stream = app.follow(&token, "subscription { ticketChanged { ticket { id } } }", json!({})).await;
    app.subscribed(1).await;
    let rehearsal = Erasure { is_rehearsal: true, ..Erasure::default() };
    let would = erase(&database.db(), &Clock::System, &carol, rehearsal).await.expect("a rehearsal");
    assert_eq!(tables_with(database, MARK).await, everywhere, "a rehearsal changes nothing");
    let done = erase(&database.db(), &Clock::System, &carol, Erasure::default()).await.expect("an erasure");
    assert_eq!(done.rows(), would.rows() + 1, "{done:?}");
    assert_eq!(tables_with(database, MARK).await, Vec::<String>::new());
    assert_eq!(app.error_code(&token, "{ organization { name } }", json!({})).await, "ACCOUNT_GONE");
    hear(stream, &["ACCOUNT_GONE", "event: complete"]).await;
    // Nothing brings it back: not a late event's row, not a second call.
    run(database, &format!("update tenantry.users set name = '{MARK}', email = '{MARK}@example.com', deleted_at = null where clerk_id = 'user_carol'")).await;
    assert_eq!(tables_with(database, MARK).await, Vec::<String>::new());
    assert_eq!(erase(&database.db(), &Clock::System, &carol, Erasure::default()).await.expect("again").rows(), 0);
    // The organizations and the platform can show that it was done, and to whom only by id.
    let told: Vec<(String, String)> = sqlx::query_as(
        "select o.slug, a.resource_id::text from tenantry.audit_logs a join tenantry.organizations o on o.id = a.organization_id where a.action = 'person.erase'",
    )
    .fetch_all(&mut database.system().await)
    .await
    .expect("the log");
    assert!(told.iter().any(|(slug, _)| slug == "acme-corp"), "{told:?}");
    let platform: i64 =
        sqlx::query_scalar("select count(*) from tenantry.platform_audit_logs where action = 'person.erase'")
            .fetch_one(&mut database.system().await)
            .await
            .expect("a count");
    assert_eq!(platform, 1);
    assert!(tenantry::verify::verify(&database.db()).await.expect("verify").is_empty());
}

#[tokio::test]
async fn an_erasure_that_was_interrupted_goes_on() {
    let app = TestApp::start().await;
    let database = &app.database;
    carol_everywhere(database).await;
    let carol = find_user(&database.db(), "user_carol").await.expect("carol");
    // In the third step, something goes wrong.
    let mut owner = database.owner().await;
    sqlx::raw_sql("alter table tenantry.tickets add constraint stop check (subject <> 'Erased')")
        .execute(&mut owner)
        .await
        .expect("a stop");
    let failed = erase(&database.db(), &Clock::System, &carol, Erasure::default()).await.expect_err("a stop");
    assert!(matches!(failed, RightsError::Database(_)), "{failed}");
    assert!(!tables_with(database, MARK).await.is_empty());
    sqlx::raw_sql("alter table tenantry.tickets drop constraint stop").execute(&mut owner).await.expect("no stop");
    let again =
        find_user(&database.db(), &format!("{MARK}@example.com")).await.expect("carol is still found by her address");
    erase(&database.db(), &Clock::System, &again, Erasure::default()).await.expect("an erasure");
    assert_eq!(tables_with(database, MARK).await, Vec::<String>::new());
}

#[tokio::test]
async fn erasures_are_refused_where_they_would_do_harm() {
    let app = TestApp::start().await;
    let database = &app.database;
    let attempt = async |name: &str| {
        let person = find_user(&database.db(), name).await?;
        erase(&database.db(), &Clock::System, &person, Erasure::default()).await.map(drop)
    };
    for (name, sql, reason) in [
        ("user_alice", "", "only owner of acme-corp"),
        ("nobody@example.com", "", "no such user"),
        ("user_bob", "update tenantry.users set is_superadmin = true where clerk_id = 'user_bob'", "superadmin"),
        (
            "user_carol",
            "insert into tenantry.sync_objects (source, kind, object_id) values ('CLERK', 'user', 'user_carol')",
            "has not deleted this user",
        ),
        (
            "user_dave",
            "insert into tenantry.webhook_events (id, source, event_id, event_type, object_id, raw_body, received_at)
             values (gen_random_uuid(), 'CLERK', 'msg_d', 'organizationMembership.created', 'orgmem_d', convert_to('user_dave', 'UTF8'), now())",
            "wait to be applied",
        ),
        (
            "erin@example.com",
            "update tenantry.users set email = 'erin@example.com' where clerk_id = 'user_dave'",
            "more than one user",
        ),
    ] {
        if !sql.is_empty() {
            run(database, sql).await;
        }
        let refused = attempt(name).await.expect_err(name);
        assert!(matches!(&refused, RightsError::Refused(text) if text.contains(reason)), "{name}: {refused}");
    }
}

#[tokio::test]
async fn a_customer_is_one_organizations_affair() {
    let app = TestApp::start().await;
    let database = &app.database;
    carol_everywhere(database).await;
    // The same address is a customer of another organization, too, who is nobody's business here.
    run(
        database,
        "update tenantry.customer_profiles set email = 'same@example.com', name = 'Kept elsewhere' where id = (select c.id from tenantry.customer_profiles c
            join tenantry.organizations o on o.id = c.organization_id where o.slug = 'tech-startup' order by c.id limit 1);
         update tenantry.customer_profiles set email = 'same@example.com' where name = 'Zÿx-pörsonal'",
    )
    .await;
    let acme: uuid::Uuid = sqlx::query_scalar("select id from tenantry.organizations where slug = 'acme-corp'")
        .fetch_one(&mut database.system().await)
        .await
        .expect("an organization");
    let customer =
        find_customer(&database.db(), OrganizationId::from_uuid(acme), "same@example.com").await.expect("a customer");
    let lines = exported(database, &customer).await;
    let tables = tables_of(&lines);
    for table in ["customer_profiles", "tickets", "ticket_messages", "escalations", "refunds"] {
        assert!(tables.contains(&table), "{table} is not in {tables:?}");
    }
    assert!(!tables.contains(&"users") && !tables.contains(&"webhook_events"), "{tables:?}");
    let keeping = Erasure { keeps_conversations: true, ..Erasure::default() };
    erase(&database.db(), &Clock::System, &customer, keeping).await.expect("an erasure");
    let left = tables_with(database, MARK).await;
    assert!(
        left.contains(&"ticket_messages".to_owned()) && !left.contains(&"customer_profiles".to_owned()),
        "{left:?}"
    );
    erase(&database.db(), &Clock::System, &customer, Erasure::default()).await.expect("an erasure");
    let left = tables_with(database, MARK).await;
    assert!(!left.contains(&"ticket_messages".to_owned()) && !left.contains(&"tickets".to_owned()), "{left:?}");
    assert!(left.contains(&"users".to_owned()), "the account is not the organization's to erase");
    assert_eq!(tables_with(database, "Kept elsewhere").await, ["customer_profiles"]);
}

/// Whoever adds a text to a table about people decides what becomes of it, and adds it here.
#[tokio::test]
async fn erasures_know_every_text_about_a_person() {
    const KNOWN: &[&str] = &[
        // What an organization asked of Stripe, and who asked; addresses only while it is on its way.
        "billing_actions.failure_code",
        "billing_actions.failure_message",
        "billing_actions.fingerprint",
        "billing_actions.request",
        "billing_actions.stripe_id",
        "billing_actions.url",
        "customer_profiles.company",
        "customer_profiles.context",
        "customer_profiles.currency",
        "customer_profiles.email",
        "customer_profiles.name",
        "customer_profiles.phone",
        "customer_profiles.preferences",
        // How an organization calls its rules: no person's.
        "escalation_rules.name",
        "escalations.note",
        "escalations.resolution",
        "invitations.clerk_invitation_id",
        "invitations.email",
        "invitations.mail_problem",
        "invitations.mail_token_hash",
        "invitations.token_hash",
        // An organization's, whoever named it.
        "organization_domains.domain",
        "organization_members.clerk_membership_id",
        "refunds.currency",
        // Which rule fired on which values: no names.
        "refunds.decision_explanation",
        "refunds.decision_note",
        "refunds.failure_reason",
        "refunds.note",
        "refunds.payment_reference",
        "refunds.stripe_payment_intent_id",
        "refunds.stripe_refund_id",
        "representative_absences.note",
        "representatives.skills",
        // Why an operator looked in: theirs to word.
        "support_accesses.actions",
        "support_accesses.reason",
        // Follows the tickets, by a trigger.
        "ticket_field_values.key",
        "ticket_field_values.text_value",
        "ticket_message_revisions.body",
        "ticket_messages.body",
        "ticket_tags.tag",
        // What a colleague looks for; gone with the user unless it is shared.
        "ticket_views.filter",
        "ticket_views.name",
        "ticket_views.sort",
        "tickets.custom_fields",
        "tickets.description",
        "tickets.subject",
        "tickets.tags",
        "users.avatar_url",
        "users.clerk_id",
        "users.email",
        "users.name",
        "users.verified_email",
    ];
    let database = TestDb::seeded().await;
    let texts: Vec<String> = sqlx::query_scalar(
        "select c.relname || '.' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          where c.relnamespace = 'tenantry'::regnamespace and a.atttypid in ('text'::regtype, 'jsonb'::regtype, 'bytea'::regtype, 'text[]'::regtype)
            and (c.relname in ('users', 'customer_profiles', 'tickets', 'ticket_messages', 'ticket_message_revisions', 'representative_absences') or exists (
                 select from pg_constraint f where f.conrelid = c.oid and f.contype = 'f'
                    and f.confrelid in ('tenantry.users'::regclass, 'tenantry.customer_profiles'::regclass, 'tenantry.tickets'::regclass)))
            and c.relname not like 'audit_logs%' and c.relname not in ('platform_audit_logs', 'api_keys', 'client_keys') order by 1",
    )
    .fetch_all(&mut database.system().await)
    .await
    .expect("the columns");
    assert_eq!(texts, KNOWN, "decide in src/data_rights.rs what becomes of a new text");
}
