//! Generated databases: keys of many types, odd names, references with and without foreign keys, to themselves, by type, by other
//! columns, empty ones. Every row knows its true tenant, and every row is compared with it: after the run, for what the old
//! application writes then, and after `finalize`. A rollback leaves what was there.
//!
//! `TENANTRY_ADOPT_SCHEMAS` is how many (6), `TENANTRY_ADOPT_SEED` the first one's seed; a failure names its seed.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::Duration;

use rand::prelude::*;
use rand::rngs::StdRng;
use tenantry::adopt::{Plan, Relation};

use super::shapes::shape;
use super::{
    OLD_APP, assert_foretold, assert_same, catalogue, dry_run, ended, finalize, pairs, rollback, run, run_sql, scratch,
    tenantry, verify,
};
use crate::support::TestDb;

/// Types of keys.
const KINDS: [&str; 7] = ["integer", "bigint", "uuid", "text", "varchar(60)", "numeric(12,2)", "legacy.code"];
/// Parts of names that want quoting, escaping or cutting.
const ODD: [&str; 9] = [
    "plain",
    "CamelCase",
    "with space",
    "a.dot",
    "quo\"te",
    "apo'strophe",
    "select",
    "ünï",
    "long_long_long_long_long_long_long_long_long_long_",
];

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn toml(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The nth key of a kind, as SQL. `of` keeps keys of different tables apart only where the type has room for it.
fn key(kind: &str, of: &str, n: usize) -> String {
    match kind {
        "integer" | "bigint" => (n * 7 + 3).to_string(),
        "numeric(12,2)" => format!("{}.50", n + 1),
        "uuid" => format!("md5('{of} {n}')::uuid"),
        _ => format!("'k {n} ''\"\\é'"),
    }
}

/// What a foreign key may say besides.
const ACTIONS: [&str; 6] =
    ["", "", " on delete cascade", " on delete set null", " on update cascade", " deferrable initially deferred"];

/// A table that was made: what later ones may refer to.
struct Made {
    number: usize,
    name: String,
    /// The column that Tenantry adds.
    column: &'static str,
    /// The columns of its key, one or two, and their types.
    key: Vec<(String, &'static str)>,
    /// The tenant of each row, by the number of its key.
    rows: Vec<Option<usize>>,
}

impl Made {
    fn relation(&self) -> String {
        Relation::new("legacy", &self.name).to_string()
    }

    fn sql(&self) -> String {
        format!("legacy.{}", quote(&self.name))
    }

    /// The values of a row's key.
    fn values(&self, row: usize) -> Vec<String> {
        self.key.iter().map(|(_, kind)| key(kind, &format!("t{}", self.number), row)).collect()
    }

    /// The columns of its key, for `references`.
    fn columns(&self) -> String {
        list(self.key.iter().map(|(name, _)| name.as_str()))
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(quote).collect::<Vec<_>>().join(", ")
}

/// Words of TOML: one name, or an array of several.
fn names(names: &[String]) -> String {
    let all: Vec<String> = names.iter().map(|name| toml(name)).collect();
    if let [one] = all.as_slice() { one.clone() } else { format!("[{}]", all.join(", ")) }
}

struct Generated {
    sql: String,
    plan: String,
    tables: Vec<Made>,
    /// More rows of the last tables, for the old application to write.
    later: Vec<String>,
}

/// What people have: one organization each, or a workspace of their own.
struct People {
    users: usize,
    user_kind: &'static str,
    organizations: usize,
    organization_kind: &'static str,
    by_handle: bool,
}

impl People {
    /// The tenant of a user.
    fn home(&self, user: usize) -> usize {
        if self.organizations == 0 { user } else { user % self.organizations }
    }

    fn tenants(&self) -> usize {
        if self.organizations == 0 { self.users } else { self.organizations }
    }

    /// Its name, which the rows have as their truth.
    fn name(&self, tenant: usize) -> String {
        if self.organizations == 0 { format!("U{tenant}''s Workspace") } else { format!("Org {tenant}") }
    }
}

fn people(rng: &mut StdRng) -> (People, String, String) {
    let organizations = if rng.random_bool(0.25) { 0 } else { rng.random_range(2..5) };
    let people = People {
        users: rng.random_range(4..9),
        user_kind: KINDS.choose(rng).expect("a kind"),
        organizations,
        organization_kind: KINDS.choose(rng).expect("a kind"),
        by_handle: rng.random_bool(0.3),
    };
    let (uk, ok) = (people.user_kind, people.organization_kind);
    let mut sql = "create domain legacy.code as text check (value <> '');\n".to_owned();
    let mut plan = "name = 'generated'\nkeep_access = ['test_old_application']\n".to_owned();
    let _ = writeln!(
        sql,
        "create table legacy.users (id {uk} primary key, handle text not null unique, email text, name text, gone boolean not null default false);"
    );
    for n in 0..people.users {
        let _ = writeln!(
            sql,
            "insert into legacy.users values ({}, 'handle {n}', 'u{n}@generated.test', 'U{n}');",
            key(uk, "user", n)
        );
    }
    let _ = writeln!(
        sql,
        "insert into legacy.users values ({}, 'gone', 'gone@generated.test', 'Gone', true);",
        key(uk, "user", 900)
    );
    plan += "[users]\ntable = 'legacy.users'\nid = 'id'\nemail = 'email'\nname = 'name'\nwhere = 'not gone'\n";
    if organizations > 0 {
        let owned = rng.random_bool(0.5);
        let _ = writeln!(
            sql,
            "create table legacy.orgs (id {ok} primary key, name text not null, owner {uk} references legacy.users, open boolean not null default true);
             create table legacy.members (u {uk} not null references legacy.users, o {ok} not null references legacy.orgs, state text not null default 'active', role text not null, unique (u, o));"
        );
        for n in 0..organizations {
            let boss = if owned { key(uk, "user", n) } else { "null".to_owned() };
            let _ = writeln!(sql, "insert into legacy.orgs values ({}, 'Org {n}', {boss});", key(ok, "org", n));
        }
        for n in 0..people.users {
            let role = if n < organizations { "boss" } else { "hand" };
            let home = key(ok, "org", people.home(n));
            let _ = writeln!(
                sql,
                "insert into legacy.members values ({}, {home}, 'active', '{role}');",
                key(uk, "user", n)
            );
            // An invitation to somebody else's organization that nobody has accepted.
            let other = key(ok, "org", (people.home(n) + 1) % organizations);
            let _ = writeln!(
                sql,
                "insert into legacy.members values ({}, {other}, 'invited', 'boss');",
                key(uk, "user", n)
            );
        }
        plan += "[organizations]\ntable = 'legacy.orgs'\nwhere = 'open'\n";
        plan += if owned { "owner = 'owner'\n" } else { "" };
        plan += "[memberships]\ntable = 'legacy.members'\nuser = 'u'\norganization = 'o'\nwhere = \"state = 'active'\"\nrole = 'role'\nroles = { boss = 'OWNER' }\n";
    }
    plan += "[workspaces]\nusers_without = 'personal'\n";
    (people, sql, plan)
}

/// A reference of a new table, and what its cell is for a row of a tenant.
enum Refers {
    User,
    Organization,
    Row(usize),
    Itself,
    /// To any row of any tenant: it stays plain.
    Anything(usize),
}

#[expect(clippy::too_many_lines, reason = "a generator, read from top to bottom")]
fn generate(seed: u64) -> Generated {
    let mut rng = StdRng::seed_from_u64(seed);
    let (people, mut sql, mut plan) = people(&mut rng);
    let mut tables: Vec<Made> = Vec::new();
    let mut later = Vec::new();
    for number in 0..rng.random_range(3..6) {
        let name = format!("{} {number}", ODD.choose(&mut rng).expect("a name"));
        let width = if rng.random_bool(0.25) { 2 } else { 1 };
        let key_of = |rng: &mut StdRng, n: usize| {
            (format!("{} k{n}", ODD.choose(rng).expect("a name")), KINDS.choose(rng).copied().expect("a kind"))
        };
        let mut made = Made {
            number,
            name: name.clone(),
            column: "organization_id",
            key: (0..width).map(|n| key_of(&mut rng, n)).collect(),
            rows: Vec::new(),
        };
        let mut roots = vec![Refers::User];
        if people.organizations > 0 {
            roots.push(Refers::Organization);
        }
        roots.extend((0..tables.len()).map(Refers::Row));
        roots.shuffle(&mut rng);
        let several = rng.random_range(1..=roots.len().min(3));
        let mut references: Vec<Refers> = roots.into_iter().take(several).collect();
        if rng.random_bool(0.4) {
            references.push(Refers::Itself);
        }
        if !tables.is_empty() && rng.random_bool(0.4) {
            references.push(Refers::Anything(rng.random_range(0..tables.len())));
        }
        let own_column = rng.random_bool(0.25).then_some(["integer", "text"][rng.random_range(0..2)]);
        let by_type = rng.random_bool(0.3);
        let computed = rng.random_bool(0.25);
        let first_decides = rng.random_bool(0.2);
        let this = made.sql();
        // Columns, sources and plain keys.
        let mut columns: Vec<String> =
            made.key.iter().map(|(name, kind)| format!("{} {kind} not null", quote(name))).collect();
        let unique = if rng.random_bool(0.7) { "primary key" } else { "unique" };
        columns.push(format!("{unique} ({})", made.columns()));
        columns.push("truth text".to_owned());
        let (mut sources, mut loose) = (Vec::new(), Vec::new());
        let mut filled: Vec<String> = made.key.iter().map(|(name, _)| name.clone()).collect();
        filled.push("truth".to_owned());
        if let Some(own) = own_column {
            columns.push(format!("organization_id {own}"));
        }
        if by_type {
            columns.push("kind text not null".to_owned());
            filled.push("kind".to_owned());
        }
        for (place, refers) in references.iter().enumerate() {
            let (target, of): (String, Vec<(String, &'static str)>) = match refers {
                Refers::User if people.by_handle => {
                    ("legacy.users (handle)".to_owned(), vec![("handle".to_owned(), "text")])
                }
                Refers::User => ("legacy.users".to_owned(), vec![("id".to_owned(), people.user_kind)]),
                Refers::Organization => ("legacy.orgs".to_owned(), vec![("id".to_owned(), people.organization_kind)]),
                Refers::Row(of) | Refers::Anything(of) => {
                    (format!("{} ({})", tables[*of].sql(), tables[*of].columns()), tables[*of].key.clone())
                }
                Refers::Itself => (format!("{this} ({})", made.columns()), made.key.clone()),
            };
            let word = ODD.choose(&mut rng).expect("a name");
            let mine: Vec<String> = (0..of.len()).map(|n| format!("{word} r{place} {n}")).collect();
            columns.extend(mine.iter().zip(&of).map(|(name, (_, kind))| format!("{} {kind}", quote(name))));
            if rng.random_bool(0.6) || matches!(refers, Refers::Anything(_)) {
                let action = ACTIONS.choose(&mut rng).expect("an action");
                columns.push(format!(
                    "foreign key ({}) references {target}{action}",
                    list(mine.iter().map(String::as_str))
                ));
            }
            // What is computed from a column says the same.
            let mut asked = mine.clone();
            if computed && matches!(refers, Refers::User) {
                asked = vec![format!("computed {place}")];
                columns.push(format!(
                    "{} {} generated always as ({}) stored",
                    quote(&asked[0]),
                    of[0].1,
                    quote(&mine[0])
                ));
            }
            let mut words = names(&asked);
            if let Refers::Row(of) = refers {
                words += &format!(
                    ", to = {}",
                    names(&tables[*of].key.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>())
                );
            } else if matches!(refers, Refers::Itself) {
                words += &format!(", to = {}", names(&filled[..width]));
            }
            if by_type && !matches!(refers, Refers::Itself) {
                words += &format!(", where = \"kind like '%{place}%'\"");
            }
            match refers {
                Refers::User if people.by_handle => sources.push(format!("{{ user = {words}, to = 'handle' }}")),
                Refers::User => sources.push(format!("{{ user = {words} }}")),
                Refers::Organization => sources.push(format!("{{ column = {words} }}")),
                Refers::Row(of) => sources.push(format!("{{ row = {}, by = {words} }}", toml(&tables[*of].relation()))),
                Refers::Itself => sources.push(format!("{{ row = {}, by = {words} }}", toml(&made.relation()))),
                Refers::Anything(_) => loose.push(names(&asked)),
            }
            filled.extend(mine);
        }
        let _ = writeln!(sql, "create table {this} ({});", columns.join(", "));
        // Rows.
        let total = rng.random_range(15..40);
        for n in 0..total + 6 {
            let tenant = rng.random_range(0..people.tenants());
            let mut cells = Vec::new();
            let mut known = false;
            let mut kinds = String::new();
            for (place, refers) in references.iter().enumerate() {
                let theirs = |table: &Made| -> Vec<Vec<String>> {
                    let rows = (0..table.rows.len()).filter(|row| table.rows[*row] == Some(tenant));
                    rows.map(|row| table.values(row)).collect()
                };
                let (wide, choices): (usize, Vec<Vec<String>>) = match refers {
                    Refers::User => {
                        let users = (0..people.users).filter(|user| people.home(*user) == tenant);
                        let value = |user: usize| {
                            if people.by_handle {
                                format!("'handle {user}'")
                            } else {
                                key(people.user_kind, "user", user)
                            }
                        };
                        (1, users.map(|user| vec![value(user)]).collect())
                    }
                    Refers::Organization => (1, vec![vec![key(people.organization_kind, "org", tenant)]]),
                    Refers::Row(of) => (tables[*of].key.len(), theirs(&tables[*of])),
                    Refers::Itself => (width, theirs(&made)),
                    Refers::Anything(of) => {
                        let table = &tables[*of];
                        (table.key.len(), (0..table.rows.len()).map(|row| table.values(row)).collect())
                    }
                };
                let cell = if rng.random_bool(0.3) { None } else { choices.choose(&mut rng).cloned() };
                let tells = !matches!(refers, Refers::Anything(_)) && cell.is_some();
                // One that its type rules out tells nothing.
                let counts = !by_type || matches!(refers, Refers::Itself) || rng.random_bool(0.7);
                if tells && counts {
                    known = true;
                    kinds += &place.to_string();
                }
                cells.extend(cell.unwrap_or_else(|| vec!["null".to_owned(); wide]));
            }
            // What the old application writes later always has a tenant.
            if n >= total && !known {
                continue;
            }
            let mut values = made.values(n);
            values.push(if known { format!("'{}'", people.name(tenant)) } else { "null".to_owned() });
            if by_type {
                values.push(format!("'t{kinds}'"));
            }
            values.extend(cells);
            let columns = list(filled.iter().map(String::as_str));
            let insert = format!("insert into {this} ({columns}) values ({});", values.join(", "));
            if n < total {
                sql += &insert;
                made.rows.push(known.then_some(tenant));
            } else {
                later.push(insert);
            }
        }
        // An earlier table refers back to this one, which is no source.
        if !tables.is_empty() && rng.random_bool(0.4) {
            let before = &tables[rng.random_range(0..tables.len())];
            let mine: Vec<String> = (0..width).map(|n| format!("back {number} {n}")).collect();
            for (name, (_, kind)) in mine.iter().zip(&made.key) {
                let _ = writeln!(
                    sql,
                    "set constraints all immediate; alter table {} add column {} {kind};",
                    before.sql(),
                    quote(name)
                );
            }
            let mine = list(mine.iter().map(String::as_str));
            let action = ACTIONS.choose(&mut rng).expect("an action");
            let _ = writeln!(
                sql,
                "set constraints all immediate; alter table {} add foreign key ({mine}) references {this} ({}){action};",
                before.sql(),
                made.columns()
            );
            let pair = (0..before.rows.len())
                .flat_map(|a| (0..made.rows.len()).map(move |b| (a, b)))
                .find(|(a, b)| before.rows[*a].is_some() && before.rows[*a] == made.rows[*b]);
            if let Some((a, b)) = pair {
                let is = before
                    .key
                    .iter()
                    .zip(before.values(a))
                    .map(|((name, _), value)| format!("{} = {value}", quote(name)));
                let is: Vec<String> = is.collect();
                let _ = writeln!(
                    sql,
                    "update {} set ({mine}) = row({}) where {};",
                    before.sql(),
                    made.values(b).join(", "),
                    is.join(" and ")
                );
            }
        }
        let _ = writeln!(
            plan,
            "[[tables]]\ntable = {}\norganization = [{}]\nfirst_decides = {first_decides}",
            toml(&made.relation()),
            sources.join(", ")
        );
        if own_column.is_some() {
            made.column = "tenant_organization_id";
            plan += "column = 'tenant_organization_id'\n";
        }
        if !loose.is_empty() {
            let _ = writeln!(plan, "plain = [{}]", loose.join(", "));
        }
        tables.push(made);
    }
    Generated { sql, plan, tables, later }
}

/// Rows whose organization is not the true one.
async fn wrong(database: &TestDb, generated: &Generated) -> Vec<String> {
    let mut found = Vec::new();
    for table in &generated.tables {
        let rows = pairs(
            database,
            &format!(
                "select t.ctid::text, coalesce(t.truth, '–') || ' is in ' || coalesce(o.name, '–') || ': ' || t::text from {} t left join tenantry.organizations o on o.id = t.{}
                  where t.truth is distinct from o.name",
                table.sql(),
                table.column
            ),
        )
        .await;
        found.extend(rows.into_iter().map(|(key, problem)| format!("{} {key}: {problem}", table.name)));
    }
    found
}

/// The team's rows, without the columns that came.
async fn rows(database: &TestDb, generated: &Generated) -> std::collections::BTreeMap<String, String> {
    let mut found = std::collections::BTreeMap::new();
    for table in &generated.tables {
        let sql = format!(
            "select '{} ' || row_number() over (order by to_jsonb(t) - 'organization_id' - 'tenant_organization_id'), (to_jsonb(t) - 'organization_id' - 'tenant_organization_id')::text from {} t",
            table.name.replace('\'', "''"),
            table.sql()
        );
        found.extend(pairs(database, &sql).await);
    }
    found
}

async fn adopted_as_generated(seed: u64) {
    let generated = generate(seed);
    let database = shape(&generated.sql).await;
    let before = catalogue(&mut database.superuser().await).await;
    let plan = Plan::parse(&generated.plan).unwrap_or_else(|error| panic!("{error}\n{}", generated.plan));
    let told = format!("seed {seed}:\n{}\n{}", generated.sql, generated.plan);
    let forecast = dry_run(&database, plan.clone()).await;
    let summary = run(&database, plan.clone()).await;
    assert_foretold(&forecast, &summary);
    assert_eq!(wrong(&database, &generated).await, Vec::<String>::new(), "{told}");

    let mut old = sqlx::ConnectOptions::connect(&database.options(OLD_APP)).await.expect("the old application");
    let (now, then) = generated.later.split_at(generated.later.len() / 2);
    for insert in now {
        run_sql(&mut old, insert).await;
    }
    assert_eq!(wrong(&database, &generated).await, Vec::<String>::new(), "live, {told}");
    // Nobody's rows: the team deletes them.
    let mut superuser = database.superuser().await;
    run_sql(&mut superuser, "set session_replication_role = replica").await;
    for table in &generated.tables {
        run_sql(&mut superuser, &format!("delete from {} where truth is null", table.sql())).await;
    }
    let found: Vec<_> = verify(&database, plan.clone()).await;
    assert!(found.is_empty(), "{found:#?}\n{told}");
    finalize(&database, plan.clone()).await.unwrap_or_else(|error| panic!("{error}\n{told}"));
    for insert in then {
        // What refers to a row that was nobody's is refused by the team's own keys.
        sqlx::raw_sql(sqlx::AssertSqlSafe(insert.as_str())).execute(&mut old).await.ok();
    }
    assert_eq!(wrong(&database, &generated).await, Vec::<String>::new(), "after finalize, {told}");
    let (rows_before, kept) = (rows(&database, &generated).await, rollback(&database, plan).await);
    assert_eq!(kept, Vec::<String>::new(), "{told}");
    assert_same(&rows_before, &rows(&database, &generated).await);
    assert_same(&before, &catalogue(&mut database.superuser().await).await);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test]
async fn adopt_gives_every_row_of_generated_databases_its_tenant() {
    let first = number("TENANTRY_ADOPT_SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    for seed in first..first + number("TENANTRY_ADOPT_SCHEMAS").unwrap_or(6) {
        println!("seed {seed}");
        adopted_as_generated(seed).await;
    }
}

/// Every command killed at random points, again and again, then let to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopt_killed_anywhere_ends_right_on_generated_databases() {
    let first = number("TENANTRY_ADOPT_SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    for seed in first..first + 3 {
        println!("seed {seed}");
        let generated = generate(seed);
        let database = shape(&generated.sql).await;
        let before = catalogue(&mut database.superuser().await).await;
        let file = scratch(&database).join("plan.toml");
        std::fs::write(&file, &generated.plan).expect("the plan");
        let path = file.to_str().expect("a path");
        let mut superuser = database.superuser().await;
        let mut kills = 0;
        for (command, options) in
            [("run", &["--batch-size", "2", "--sleep", "3ms"][..]), ("finalize", &["--yes"]), ("rollback", &["--yes"])]
        {
            let arguments = [&["adopt", command, "--plan", path][..], options].concat();
            for _ in 0..6 {
                let child = tenantry(&database, &arguments).await.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
                let mut child = child.expect("the binary");
                // From before it has begun to about its end.
                tokio::time::sleep(Duration::from_millis(rand::rng().random_range(10..400))).await;
                child.start_kill().expect("kill -9");
                kills += usize::from(child.wait().await.expect("an end").code().is_none());
            }
            let (code, _, error) = ended(tenantry(&database, &arguments).await).await;
            match command {
                "run" => {
                    assert!(code < 2, "seed {seed}: {error}");
                    assert_eq!(wrong(&database, &generated).await, Vec::<String>::new(), "seed {seed}");
                    run_sql(&mut superuser, "set session_replication_role = replica").await;
                    for table in &generated.tables {
                        run_sql(&mut superuser, &format!("delete from {} where truth is null", table.sql())).await;
                    }
                }
                "finalize" => {
                    assert_eq!(code, 0, "seed {seed}: {error}");
                    assert_eq!(wrong(&database, &generated).await, Vec::<String>::new(), "seed {seed}");
                }
                _ => {
                    // Killed right after its last step, it finds nothing to do.
                    assert!(code == 0 || error.contains("NOTHING_DONE"), "seed {seed}: {error}");
                    assert_same(&before, &catalogue(&mut database.superuser().await).await);
                }
            }
        }
        assert!(kills > 0, "some were killed");
        println!("killed {kills} times");
        std::fs::remove_dir_all(scratch(&database)).ok();
    }
}
