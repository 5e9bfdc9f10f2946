//! One organization as a file, into another database, and as a copy beside itself.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tenantry::clock::Clock;
use tenantry::id::OrganizationId;
use tenantry::transfer::{Import, TransferError, Transferred, export, import};
use uuid::Uuid;

use crate::support::{TestApp, TestDb};

async fn id_of(database: &TestDb, slug: &str) -> OrganizationId {
    let id: Uuid = sqlx::query_scalar("select id from tenantry.organizations where slug = $1")
        .bind(slug)
        .fetch_one(&mut database.system().await)
        .await
        .expect("an organization");
    OrganizationId::from_uuid(id)
}

async fn exported(database: &TestDb, slug: &str) -> (Vec<u8>, Transferred) {
    let mut file = Vec::new();
    let done = export(&database.db(), id_of(database, slug).await, &mut file).await.expect("an export");
    (file, done)
}

async fn imported(database: &TestDb, file: &[u8], options: Import) -> Result<Transferred, TransferError> {
    import(&database.db(), &Clock::System, file, &options).await
}

/// Every row of an organization, by table, as JSON without its ids of other places.
async fn rows(database: &TestDb, slug: &str, without: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut system = database.system().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped
          where c.relnamespace = 'tenantry'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
            and c.relname not in ('audit_unsealed', 'event_log', 'feature_flag_usage', 'idempotency_keys', 'meter_outbox', 'metric_marks', 'seat_marks', 'webhook_events') and c.relname not like 'adopt%'",
    )
    .fetch_all(&mut system)
    .await
    .expect("the tables");
    let mut all = BTreeMap::new();
    for table in tables {
        // Words stand in documents in the order in which messages came.
        let row = match table.as_str() {
            "ticket_documents" => {
                "(to_jsonb(t) - 'words' - 'public_words' || jsonb_build_object('words', strip(t.words), 'shown', strip(t.public_words)))"
            }
            _ => "to_jsonb(t)",
        };
        let sql = format!(
            "select ({row} - $2::text[])::text from tenantry.{table} t join tenantry.organizations o on o.id = t.organization_id where o.slug = $1 order by 1"
        );
        let found: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(sql)).bind(slug).bind(without).fetch_all(&mut system).await.expect("rows");
        all.insert(table, found);
    }
    all
}

/// A database without organizations and people, but with the definitions of flags.
async fn elsewhere() -> TestDb {
    let database = TestDb::empty().await;
    tenantry::db::migrations::up(&database.options(tenantry::local_postgres::OWNER_ROLE))
        .await
        .expect("the migrations");
    database
}

#[tokio::test]
async fn tenants_move_whole_into_another_database() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    // What COPY has to write with care.
    let odd = "tab\there, line\nbreak, back\\slash, \\. alone, ünï, \u{1F600}, quote ' \" and nothing \\N";
    let ticket = "mutation($subject: String!) { ticketCreate(input: { subject: \"odd\", description: $subject }) { ticket { id } userErrors { code } } }";
    app.data(&alice, ticket, json!({ "subject": odd })).await;
    let (file, done) = exported(&app.database, "acme-corp").await;
    let target = elsewhere().await;
    let here = imported(&target, &file, Import::default()).await.expect("an import");
    assert_eq!(here.organization, done.organization);
    assert_eq!(here.tables, done.tables);
    let (before, mut after) = (rows(&app.database, "acme-corp", &[]).await, rows(&target, "acme-corp", &[]).await);
    // The import itself is in the log, and not in the file.
    after.get_mut("audit_logs").expect("the log").retain(|row| !row.contains("organization.import"));
    for (table, rows) in &before {
        assert_eq!(rows, &after[table], "{table}");
    }
    assert!(
        before.values().map(Vec::len).sum::<usize>() > 60
            && before["tickets"].iter().any(|row| row.contains("1F600") || row.contains('\u{1F600}'))
    );
    assert!(
        tenantry::audit::chain::check(&target.db()).await.expect("a check").is_empty(),
        "the chain came along, and goes on"
    );
    let findings = tenantry::verify::verify(&target.db()).await.expect("verify");
    assert!(findings.iter().all(|finding| finding.check == "user-without-organization"), "{findings:?}");
    // Nothing of others came along, and nobody is an operator by it.
    let strange: i64 = sqlx::query_scalar("select (select count(*) from tenantry.organizations) - 1 + (select count(*) from tenantry.users where is_superadmin)")
        .fetch_one(&mut target.system().await)
        .await
        .expect("a count");
    assert_eq!(strange, 0);
    // Once.
    let again = imported(&target, &file, Import::default()).await.expect_err("twice");
    assert!(again.to_string().contains("in this database already"), "{again}");
    // As it was after a way back.
    let (back, _) = exported(&target, "acme-corp").await;
    let sections = |file: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(file).into_owned();
        text.lines().filter(|line| line.starts_with("{\"rows\"")).map(str::to_owned).collect()
    };
    let (one, other) = (sections(&file), sections(&back));
    let same = one.iter().zip(&other).filter(|(one, other)| one == other).count();
    assert!(
        one.len() == other.len() && same >= one.len() - 2,
        "all but the audit log and its chain: {one:?} {other:?}"
    );
}

#[tokio::test]
async fn tenants_meet_people_who_are_there() {
    let source = TestDb::seeded().await;
    let (file, _) = exported(&source, "tech-startup").await;
    let target = elsewhere().await;
    sqlx::raw_sql(
        "insert into tenantry.users (id, clerk_id, email, name) values (gen_random_uuid(), 'user_bob', 'bob@here.example', 'Bob here')",
    )
    .execute(&mut target.system().await)
    .await
    .expect("Bob");
    let people = "select id from tenantry.users where clerk_id = 'user_bob'";
    let bob: Uuid = sqlx::query_scalar(people).fetch_one(&mut target.system().await).await.expect("Bob");
    imported(&target, &file, Import { slug: Some("moved".to_owned()), as_copy: false }).await.expect("an import");
    let (name, owns): (String, bool) = sqlx::query_as(
        "select u.name, exists (select from tenantry.organization_members m join tenantry.organizations o on o.id = m.organization_id
                                 where m.user_id = u.id and o.slug = 'moved') from tenantry.users u where u.id = $1",
    )
    .bind(bob)
    .fetch_one(&mut target.system().await)
    .await
    .expect("Bob");
    assert_eq!((name.as_str(), owns), ("Bob here", true), "the person here is who they are here");
    let (before, mut after) = (rows(&source, "tech-startup", &[]).await, rows(&target, "moved", &[]).await);
    after.get_mut("audit_logs").expect("the log").pop();
    let counts = |all: &BTreeMap<String, Vec<String>>| {
        all.iter()
            .filter(|(table, _)| *table != "audit_logs")
            .map(|(table, rows)| (table.clone(), rows.len()))
            .collect::<Vec<_>>()
    };
    assert_eq!(counts(&before), counts(&after));
    // Somebody else has an id of the file's people.
    let other = elsewhere().await;
    sqlx::query("insert into tenantry.users (id, clerk_id, name) select $1, 'user_other', 'Other'")
        .bind({
            let id: Uuid = sqlx::query_scalar(people).fetch_one(&mut source.system().await).await.expect("Bob");
            id
        })
        .execute(&mut other.system().await)
        .await
        .expect("another");
    let refused = imported(&other, &file, Import::default()).await.expect_err("another person");
    assert!(refused.to_string().contains("ids that other people have"), "{refused}");
}

#[tokio::test]
async fn tenants_are_copied_beside_themselves() {
    let app = TestApp::start().await;
    let (file, done) = exported(&app.database, "acme-corp").await;
    let before = rows(&app.database, "acme-corp", &[]).await;
    let options = Import { slug: Some("acme-copy".to_owned()), as_copy: true };
    let copy = imported(&app.database, &file, options).await.expect("a copy");
    assert_ne!(copy.organization, done.organization);
    assert_eq!(rows(&app.database, "acme-corp", &[]).await, before, "the original is as it was");
    let differ = &["organization_id", "clerk_membership_id", "stripe_refund_id"];
    let (one, mut other) =
        (rows(&app.database, "acme-corp", differ).await, rows(&app.database, "acme-copy", differ).await);
    assert_eq!(other.remove("audit_logs").map(|rows| rows.len()), Some(1), "a history of its own");
    for table in [
        "api_keys",
        "client_keys",
        "invitations",
        "subscriptions",
        "billing_actions",
        "invoices",
        "audit_seals",
        "audit_horizons",
        "support_accesses",
        "organization_domains",
        "membership_requests",
    ] {
        assert_eq!(other.remove(table), Some(Vec::new()), "{table}");
    }
    for (table, rows) in &other {
        assert_eq!(one[table].len(), rows.len(), "{table}");
    }
    assert_eq!(one["tickets"], other["tickets"]);
    // Both work, each for itself.
    let alice = app.token("alice@example.com", Some("acme-copy")).await;
    let made =
        app.data(&alice, "mutation { ticketCreate(input: { subject: \"x\" }) { ticket { number } } }", json!({})).await;
    assert!(made["ticketCreate"]["ticket"]["number"].is_number(), "{made}");
    let own = app.data(&alice, "{ organization { slug tickets { totalCount } } }", json!({})).await;
    assert_eq!(
        own["organization"],
        json!({ "slug": "acme-copy", "tickets": { "totalCount": one["tickets"].len() + 1 } })
    );
}

/// Whatever happens to a file, it is refused with a reason, and nothing of it is there.
#[tokio::test]
async fn tenants_of_damaged_files_are_not_there_at_all() {
    let source = TestDb::seeded().await;
    let (file, _) = exported(&source, "tech-startup").await;
    let target = elsewhere().await;
    let text = String::from_utf8(file.clone()).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    let joined = |lines: &[&str]| format!("{}\n", lines.join("\n"));
    let mut damaged: Vec<(String, String)> = Vec::new();
    for part in [0, 1, 2, 5, lines.len() / 2, lines.len() - 1] {
        damaged.push((format!("cut at line {part}"), if part == 0 { String::new() } else { joined(&lines[..part]) }));
    }
    damaged.push(("cut within a line".to_owned(), text[..text.len() / 2].to_owned()));
    let ticket = lines.iter().position(|line| line.contains("\"table\":\"tickets\"")).expect("tickets") + 1;
    let mut without = lines.clone();
    without.remove(ticket);
    damaged.push(("a row less".to_owned(), joined(&without)));
    let changed = lines[ticket].replacen('a', "b", 1);
    let mut edited = lines.clone();
    edited[ticket] = &changed;
    damaged.push(("an edited row".to_owned(), joined(&edited)));
    let foreign = lines[ticket].replacen(&lines[ticket][..36], "01990000-0000-7000-8000-000000000001", 1);
    edited[ticket] = &foreign;
    damaged.push(("a row of another organization".to_owned(), joined(&edited)));
    damaged.push(("another format".to_owned(), text.replacen("tenantry-tenant/1", "tenantry-tenant/9", 1)));
    damaged.push(("another version".to_owned(), text.replacen("\"migration\":", "\"migration\":9", 1)));
    damaged.push(("an unknown table".to_owned(), text.replacen("\"table\":\"tickets\"", "\"table\":\"pg_class\"", 1)));
    damaged.push(("an unknown column".to_owned(), text.replacen("\"subject\"", "\"is_superadmin\"", 1)));
    damaged.push(("operators".to_owned(), text.replacen("\"avatar_url\"", "\"is_superadmin\"", 1)));
    damaged.push(("a table twice".to_owned(), text.replacen("\"table\":\"escalations\"", "\"table\":\"tickets\"", 1)));
    damaged.push(("no export".to_owned(), "{\"a\": 1}\n".to_owned()));
    damaged.push(("no text".to_owned(), "\u{0}\u{1}\n".to_owned()));
    for (what, damaged) in damaged {
        let refused = imported(&target, damaged.as_bytes(), Import::default()).await.expect_err(&what);
        assert!(matches!(refused, TransferError::Refused(_)), "{what}: {refused:?}");
        let left: i64 = sqlx::query_scalar(
            "select (select count(*) from tenantry.organizations) + (select count(*) from tenantry.users)",
        )
        .fetch_one(&mut target.system().await)
        .await
        .expect("a count");
        assert_eq!(left, 0, "{what}");
    }
    let bad_slug =
        imported(&target, &file, Import { slug: Some("x' y".to_owned()), as_copy: false }).await.expect_err("a slug");
    assert!(bad_slug.to_string().contains("slug"), "{bad_slug}");
    let whole: Value =
        serde_json::to_value(imported(&target, &file, Import::default()).await.expect("the whole file")).expect("JSON");
    assert_eq!(whole["slug"], "tech-startup");
}
