//! The gates: what the catalogue, the schema and the sources must always be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use async_graphql::parser::types::{TypeKind, TypeSystemDefinition};
use sqlx::{AssertSqlSafe, Row as _};
use tenantry::clock::Clock;
use tenantry::config::VARIABLES;
use tenantry::db::{check_roles, migrations};
use tenantry::local_postgres;
use tenantry::schema::Schemas;
use tenantry::seed;
use tenantry::sql_enum::SqlEnum;
use tenantry::verify::{self, CATALOGUE_CHECKS};

use crate::support::TestDb;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[tokio::test]
async fn catalogue_is_isolated() {
    let database = TestDb::seeded().await;
    let mut system = database.system().await;
    for (check, sql) in CATALOGUE_CHECKS {
        let findings: Vec<(String, String)> = sqlx::query_as(*sql).fetch_all(&mut system).await.expect(check);
        assert!(findings.is_empty(), "{check}: {findings:?}");
    }
    assert_eq!(verify::verify(&database.db()).await.expect("verify").len(), 0, "and the sample data is whole");
}

/// Each gate finds the table that was made without care.
#[tokio::test]
async fn catalogue_checks_find_a_careless_table() {
    let database = TestDb::seeded().await;
    let mut owner = database.owner().await;
    sqlx::raw_sql(
        "create table tenantry.careless (id uuid primary key, organization_id uuid not null);
         create table tenantry.child (organization_id uuid not null, id uuid, careless_id uuid references tenantry.careless (id), primary key (organization_id, id));
         create table tenantry.open_door (organization_id uuid not null, id uuid not null, primary key (organization_id, id));
         alter table tenantry.open_door enable row level security;
         alter table tenantry.open_door force row level security;
         create policy tenant on tenantry.open_door to tenantry_app using (organization_id = tenantry.current_org() or true);
         create policy wide on tenantry.open_door to tenantry_app using (true)",
    )
    .execute(&mut owner)
    .await
    .expect("two tables");
    let findings = verify::verify(&database.db()).await.expect("verify");
    let found: BTreeSet<(&str, &str)> = findings.iter().map(|f| (f.check, f.subject.as_str())).collect();
    assert!(found.contains(&("row-level-security", "tenantry.careless")), "{findings:?}");
    assert!(found.contains(&("tenant-index", "tenantry.careless")), "{findings:?}");
    assert!(found.contains(&("open-policy", "tenantry.open_door")), "{findings:?}");
    assert!(found.contains(&("composite-foreign-key", "tenantry.child")), "{findings:?}");
}

/// Tables of somebody else are theirs, even when a column is called like ours.
#[tokio::test]
async fn catalogue_checks_leave_tables_of_others_alone() {
    let database = TestDb::seeded().await;
    let mut owner = database.owner().await;
    sqlx::raw_sql(
        "create table public.projects (id text primary key, organization_id text);
         create table public.api_keys (id text primary key, organization_id text, project text references public.projects (id));
         alter table public.api_keys enable row level security;
         create policy everybody on public.api_keys using (true)",
    )
    .execute(&mut owner)
    .await
    .expect("two tables");
    let findings = verify::verify(&database.db()).await.expect("verify");
    assert!(findings.is_empty(), "{findings:?}");
}

#[tokio::test]
async fn roles_that_see_around_isolation_are_refused() {
    let database = TestDb::seeded().await;
    let limits = tenantry::db::PoolLimits { max_connections: 2, ..Default::default() };
    for (role, word) in [
        (local_postgres::SUPERUSER, "superuser"),
        (local_postgres::OWNER_ROLE, "owns tables"),
        (local_postgres::SUPERADMIN_ROLE, "member of tenantry_superadmin"),
    ] {
        let db =
            tenantry::db::Db::new(database.options(role), database.options(local_postgres::SUPERADMIN_ROLE), limits);
        let findings = check_roles(&db).await.expect("a check");
        assert!(findings.iter().any(|finding| finding.problem.contains(word)), "{role}: {findings:?}");
    }
    let swapped = tenantry::db::Db::new(
        database.options(local_postgres::APP_ROLE),
        database.options(local_postgres::APP_ROLE),
        limits,
    );
    assert_eq!(check_roles(&swapped).await.expect("a check").len(), 1, "the system needs the superadmin role");
}

/// Every enum of the database is one of the schema, with the same values.
#[tokio::test]
async fn enums_are_the_same_in_sql_and_graphql() {
    let database = TestDb::seeded().await;
    let rows = sqlx::query(
        "select t.typname::text, array_agg(e.enumlabel::text order by e.enumsortorder) from pg_type t
           join pg_enum e on e.enumtypid = t.oid where t.typnamespace = 'tenantry'::regnamespace group by 1",
    )
    .fetch_all(&mut database.system().await)
    .await
    .expect("the enums");
    let document = async_graphql::parser::parse_schema(Schemas::build().sdl).expect("an SDL");
    let graphql: BTreeMap<String, BTreeSet<String>> = document
        .definitions
        .iter()
        .filter_map(|definition| match definition {
            TypeSystemDefinition::Type(definition) => match &definition.node.kind {
                TypeKind::Enum(kind) => Some((
                    definition.node.name.node.to_string(),
                    kind.values.iter().map(|value| value.node.value.node.to_string()).collect(),
                )),
                _ => None,
            },
            _ => None,
        })
        .collect();
    assert!(rows.len() >= 28, "{} enums", rows.len());
    for row in rows {
        let (sql, labels): (String, Vec<String>) = (row.get(0), row.get(1));
        let name: String = sql.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
        let values = graphql.get(&name).unwrap_or_else(|| panic!("{sql} has no GraphQL enum {name}"));
        assert_eq!(values, &labels.iter().cloned().collect::<BTreeSet<_>>(), "{sql}");
    }
}

/// A stored rank is the place of the label in its type, for every label: a new label needs a new expression.
#[tokio::test]
async fn enums_have_true_ranks() {
    let database = TestDb::seeded().await;
    let mut system = database.system().await;
    let ranks: Vec<(String, String, String, String)> = sqlx::query_as(
        "select r.attrelid::regclass::text, substr(r.attname, 1, length(r.attname) - 5), c.atttypid::regtype::text,
                pg_get_expr(d.adbin, d.adrelid)
           from pg_attribute r
           join pg_attrdef d on d.adrelid = r.attrelid and d.adnum = r.attnum
           join pg_attribute c on c.attrelid = r.attrelid and c.attname || '_rank' = r.attname
           join pg_class t on t.oid = r.attrelid and t.relnamespace = 'tenantry'::regnamespace
          where r.attgenerated = 's'",
    )
    .fetch_all(&mut system)
    .await
    .expect("the ranks");
    assert!(ranks.len() >= 7, "{ranks:?}");
    for (table, column, of, expression) in ranks {
        let statement = format!(
            "select bool_and(({expression}) is not distinct from place - 1)
               from unnest(enum_range(null::{of})) with ordinality as labels ({column}, place)"
        );
        let right: bool =
            sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(&mut system).await.expect("the places");
        assert!(right, "{table}.{column}_rank: {expression}");
    }
}

/// The Rust enums decode every label: a row of each is read by the API's own listing in other tests; here the lists.
#[tokio::test]
async fn enums_are_the_same_in_sql_and_rust() {
    macro_rules! check {
        ($system:ident, $($sql:literal => $rust:ty),+ $(,)?) => { $(
            let labels: Vec<String> = sqlx::query_scalar(concat!("select unnest(enum_range(null::", $sql, "))::text"))
                .fetch_all(&mut $system).await.expect($sql);
            let rust: Vec<&str> = <$rust>::ALL.iter().map(|value| value.label()).collect();
            assert_eq!(rust, labels, $sql);
            let decoded: Vec<$rust> = sqlx::query_scalar(concat!("select unnest(enum_range(null::", $sql, "))"))
                .fetch_all(&mut $system).await.expect($sql);
            assert_eq!(decoded, <$rust>::ALL, $sql);
            let ranked: Vec<i64> = <$rust>::ALL.iter().map(|value| value.rank()).collect();
            assert_eq!(ranked, (0..).take(ranked.len()).collect::<Vec<i64>>(), $sql);
        )+ };
    }
    let database = TestDb::seeded().await;
    let mut system = database.system().await;
    check!(system,
        "tenantry.organization_plan" => tenantry::organizations::OrganizationPlan,
        "tenantry.seat_policy" => tenantry::plans::SeatPolicy,
        "tenantry.organization_status" => tenantry::organizations::OrganizationStatus,
        "tenantry.member_role" => tenantry::access::MemberRole,
        "tenantry.user_role" => tenantry::members::UserRole,
        "tenantry.representative_role" => tenantry::representatives::RepresentativeRole,
        "tenantry.representative_status" => tenantry::representatives::RepresentativeStatus,
        "tenantry.account_tier" => tenantry::customers::AccountTier,
        "tenantry.account_standing" => tenantry::customers::AccountStanding,
        "tenantry.ticket_status" => tenantry::tickets::TicketStatus,
        "tenantry.ticket_priority" => tenantry::tickets::TicketPriority,
        "tenantry.ticket_category" => tenantry::tickets::TicketCategory,
        "tenantry.escalation_priority" => tenantry::escalations::EscalationPriority,
        "tenantry.escalation_status" => tenantry::escalations::EscalationStatus,
        "tenantry.escalation_reason" => tenantry::escalations::EscalationReason,
        "tenantry.refund_reason" => tenantry::refunds::RefundReason,
        "tenantry.refund_status" => tenantry::refunds::RefundStatus,
        "tenantry.budget_type" => tenantry::budgets::BudgetType,
        "tenantry.budget_period" => tenantry::budgets::BudgetPeriod,
        "tenantry.budget_usage_kind" => tenantry::budgets::BudgetUsageKind,
        "tenantry.budget_reservation_status" => tenantry::budgets::BudgetReservationStatus,
        "tenantry.agent_type" => tenantry::agents::AgentType,
        "tenantry.agent_status" => tenantry::agents::AgentStatus,
        "tenantry.decision_action" => tenantry::agents::DecisionAction,
        "tenantry.metric_period" => tenantry::metrics::MetricPeriod,
        "tenantry.performance_trend" => tenantry::metrics::PerformanceTrend,
        "tenantry.subscription_status" => tenantry::billing::SubscriptionStatus,
        "tenantry.billing_action_kind" => tenantry::billing::BillingActionKind,
        "tenantry.billing_action_status" => tenantry::billing::BillingActionStatus,
        "tenantry.invoice_status" => tenantry::billing::InvoiceStatus,
        "tenantry.payment_problem_code" => tenantry::billing::PaymentProblemCode,
        "tenantry.flag_kind" => tenantry::flags::FlagKind,
        "tenantry.flag_rollout_unit" => tenantry::flags::FlagRolloutUnit,
        "tenantry.flag_value_type" => tenantry::flags::FlagValueType,
        "tenantry.flag_override_source" => tenantry::flags::FlagOverrideSource,
        "tenantry.webhook_source" => tenantry::webhook_events::WebhookSource,
        "tenantry.webhook_status" => tenantry::webhook_events::WebhookStatus,
    );
}

#[test]
fn schema_describes_everything() {
    let document = async_graphql::parser::parse_schema(Schemas::build().sdl).expect("an SDL");
    let mut missing = Vec::new();
    for definition in &document.definitions {
        let TypeSystemDefinition::Type(definition) = definition else { continue };
        let definition = &definition.node;
        let name = definition.name.node.as_str();
        let mut need = |what: String, there: bool| {
            if !there {
                missing.push(what);
            }
        };
        let built_in = ["String", "Int", "Float", "Boolean", "ID"].contains(&name);
        need(name.to_owned(), definition.description.is_some() || built_in);
        match &definition.kind {
            TypeKind::Object(object) => {
                for field in &object.fields {
                    need(format!("{name}.{}", field.node.name.node), field.node.description.is_some());
                    for argument in &field.node.arguments {
                        // The one input of a mutation is described by its type.
                        let described = argument.node.description.is_some() || argument.node.name.node == "input";
                        need(format!("{name}.{}({})", field.node.name.node, argument.node.name.node), described);
                    }
                }
            }
            TypeKind::Enum(kind) => {
                for value in &kind.values {
                    need(format!("{name}.{}", value.node.value.node), value.node.description.is_some());
                }
            }
            TypeKind::InputObject(input) => {
                for field in &input.fields {
                    need(format!("{name}.{}", field.node.name.node), field.node.description.is_some());
                }
            }
            _ => {}
        }
    }
    assert!(missing.is_empty(), "without a description: {missing:#?}");
}

#[test]
fn schema_committed_is_that_of_the_code() {
    let committed = std::fs::read_to_string(root("schema.graphql")).expect("schema.graphql");
    assert!(committed == Schemas::build().sdl, "run `cargo run -- schema > schema.graphql`");
}

/// The sources below a folder.
pub fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Who may see all tenants: commands, the webhook worker, and of the API the platform's fields alone.
#[test]
fn system_transactions_are_opened_by_these_modules_only() {
    const ALLOWED: &[&str] = &[
        "audit/chain.rs",
        "audit/export.rs",
        "audit/retention.rs",
        "billing/grace.rs",
        "billing/leftover.rs",
        "billing/meters.rs",
        "billing/seats.rs",
        "budgets/jobs.rs",
        "cli/flags.rs",
        "cli/webhooks/list.rs",
        "cli/webhooks/replay.rs",
        "cli/webhooks/show.rs",
        "data_rights.rs",
        // Terms of plans at start, seats by the clock, counts of calls.
        "entitlements/jobs.rs",
        "escalations/jobs.rs",
        // What is told to the subscribers of all organizations: ids, each read again under the subscriber's own rights.
        "events/log.rs",
        // What decides about the flags of all organizations, in memory, and how often they are asked for.
        "flags/memory.rs",
        "flags/usage.rs",
        "job_runs.rs",
        "jobs/mod.rs",
        "members/invitation_mail.rs",
        "members/sql.rs",
        "metrics/jobs.rs",
        "organizations/lifecycle.rs",
        "organizations/mod.rs",
        "platform.rs",
        // What organizations have spent of their budgets of the API, in all instances.
        "rates/shared.rs",
        "refunds/payer.rs",
        "seed/mod.rs",
        "seed/scale.rs",
        "sla/watch.rs",
        "sync/stripe/gaps.rs",
        "support_access.rs",
        "sync/stripe/reconcile.rs",
        // The queues of all organizations, and their documents in a new language.
        "tickets/jobs.rs",
        "transfer.rs",
        "turns.rs",
        "verify.rs",
        "webhooks/worker.rs",
    ];
    let mut files = Vec::new();
    sources(&root("src"), &mut files);
    let users: BTreeSet<String> = files
        .iter()
        .filter(|file| std::fs::read_to_string(file).expect("a source").contains("SystemTx::begin"))
        .map(|file| file.strip_prefix(root("src")).expect("below src").display().to_string())
        .collect();
    assert_eq!(users, ALLOWED.iter().map(|file| (*file).to_owned()).collect());
}

/// `TenantTx` and the door function of `viewer` are the API's only ways to the database.
#[test]
fn pool_of_the_api_is_used_by_the_database_module_and_the_door_only() {
    const ALLOWED: &[&str] = &[
        "db/mod.rs",
        "db/roles.rs",
        "db/tenant_tx.rs",
        "members/domains.rs",
        "members/sql.rs",
        "organizations/lifecycle.rs",
    ];
    const WAYS: &[&str] = &["db.app()", ".app_statement(", ".read_alone(", "&db.app", "fn app(&self) -> &Pool"];
    let mut files = Vec::new();
    sources(&root("src"), &mut files);
    let users: BTreeSet<String> = files
        .iter()
        .filter(|file| {
            let source = std::fs::read_to_string(file).expect("a source");
            WAYS.iter().any(|way| source.contains(way))
        })
        .map(|file| file.strip_prefix(root("src")).expect("below src").display().to_string())
        .collect();
    assert_eq!(users, ALLOWED.iter().map(|file| (*file).to_owned()).collect());
}

/// Single statements across tenants: the webhook inbox and its worker, and nobody else.
#[test]
fn pool_of_the_system_is_used_by_the_inbox_only() {
    const ALLOWED: &[&str] = &["db/roles.rs", "db/system_tx.rs", "webhooks/inbox.rs", "webhooks/worker.rs"];
    const WAYS: &[&str] = &["db.system", "system_statement("];
    let mut files = Vec::new();
    sources(&root("src"), &mut files);
    let users: BTreeSet<String> = files
        .iter()
        .filter(|file| {
            // The name of a span's attribute is no way to the pool.
            let source = std::fs::read_to_string(file).expect("a source").replace("\"db.system.name\"", "");
            WAYS.iter().any(|way| source.contains(way))
        })
        .map(|file| file.strip_prefix(root("src")).expect("below src").display().to_string())
        .collect();
    assert_eq!(users, ALLOWED.iter().map(|file| (*file).to_owned()).collect());
}

/// Row by row: name, default and meaning, of every variable and of nothing else.
#[test]
fn readme_lists_every_variable() {
    let readme = std::fs::read_to_string(root("README.md")).expect("README.md");
    let (_, section) = readme.split_once("\n## Configuration\n").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("an end of the section");
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.strip_suffix(" |")?.splitn(3, " | ").collect()))
        .collect();
    let expected: Vec<Vec<&str>> = VARIABLES.iter().map(|v| vec![v.name, v.default, v.meaning]).collect();
    // Markup of names and of defaults is the table's own.
    let plain = |rows: Vec<Vec<&str>>| -> Vec<Vec<String>> {
        let cell = |(n, cell): (usize, &&str)| if n < 2 { cell.replace('`', "") } else { (*cell).to_owned() };
        rows.iter().map(|row| row.iter().enumerate().map(cell).collect()).collect()
    };
    let (rows, expected) = (plain(rows), plain(expected));
    for (row, expected) in rows.iter().zip(&expected) {
        assert_eq!(row, expected, "README.md and config.rs, in one order");
    }
    assert_eq!(rows.len(), expected.len());
}

#[tokio::test]
async fn migrations_go_up_and_down_and_up_again() {
    let database = TestDb::empty().await;
    let owner = database.options(local_postgres::OWNER_ROLE);
    let catalogue = || async {
        let mut connection = database.system().await;
        let rows: Vec<(String,)> = sqlx::query_as(
            "select format('%s %s %s', c.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod)) from pg_class c join pg_attribute a on a.attrelid = c.oid
              where c.relnamespace in ('public'::regnamespace, coalesce(to_regnamespace('tenantry')::oid, 0)) and a.attnum > 0 and not a.attisdropped
             union all select format('policy %s %s %s', polrelid::regclass, polname, pg_get_expr(polqual, polrelid)) from pg_policy
             union all select format('constraint %s %s', conrelid::regclass, pg_get_constraintdef(oid)) from pg_constraint where connamespace in ('public'::regnamespace, coalesce(to_regnamespace('tenantry')::oid, 0))
             union all select format('function %s', p.oid::regprocedure) from pg_proc p where p.pronamespace in ('public'::regnamespace, coalesce(to_regnamespace('tenantry')::oid, 0))
             order by 1",
        )
        .fetch_all(&mut connection)
        .await
        .expect("the catalogue");
        rows
    };
    let count = migrations::up(&owner).await.expect("up");
    // Branches number their own, so numbers may be missing.
    let known = migrations::MIGRATOR.iter().filter(|migration| migration.migration_type.is_up_migration());
    assert_eq!(count, known.clone().count());
    assert_eq!(known.map(|migration| migration.version).max(), Some(migrations::newest()));
    let first = catalogue().await;
    assert_eq!(migrations::up(&owner).await.expect("nothing to do"), 0);
    assert_eq!(migrations::down(&owner, count).await.expect("down"), 0);
    assert_eq!(catalogue().await, [], "the downs leave nothing behind");
    let schemas = "select nspname::text from pg_namespace where nspname !~ '^(pg_|information_schema$)' order by 1";
    let schemas: Vec<String> =
        sqlx::query_scalar(schemas).fetch_all(&mut database.owner().await).await.expect("schemas");
    assert_eq!(schemas, ["public"], "nor the schema, once the ledger is empty");
    assert_eq!(migrations::up(&owner).await.expect("up again"), count);
    assert_eq!(catalogue().await, first);
    // Many instances at once.
    migrations::down(&owner, 2).await.expect("two down");
    let many = futures_util::future::join_all((0..4).map(|_| migrations::up(&owner))).await;
    assert_eq!(many.into_iter().map(|applied| applied.expect("up")).max(), Some(2));
    // An edited migration is noticed.
    sqlx::raw_sql("update tenantry._sqlx_migrations set checksum = '\\x00' where version = 2")
        .execute(&mut database.owner().await)
        .await
        .expect("an edit");
    let states: Vec<_> = migrations::status(&owner)
        .await
        .expect("status")
        .into_iter()
        .filter(|m| m.state != migrations::MigrationState::Applied)
        .collect();
    assert_eq!((states.len(), states[0].version, states[0].state), (1, 2, migrations::MigrationState::Drifted));
    assert!(migrations::up(&owner).await.is_err(), "and nothing is built upon it");
}

/// The bulk data fits the schema, and is whole.
#[tokio::test]
async fn seed_scale_makes_whole_organizations() {
    let database = TestDb::seeded().await;
    let db = database.db();
    let scale = seed::Scale { organizations: 2, tickets: 30 };
    seed::scale(&db, &Clock::System, scale, |_| ()).await.expect("two organizations");
    let tickets: i64 = sqlx::query_scalar(
        "select count(*) from tenantry.tickets t join tenantry.organizations o on o.id = t.organization_id where o.slug like 'scale-%'",
    )
    .fetch_one(&mut database.system().await)
    .await
    .expect("a count");
    assert_eq!(tickets, 60);
    let findings = verify::verify(&db).await.expect("verify");
    assert!(findings.is_empty(), "{findings:?}");
}
