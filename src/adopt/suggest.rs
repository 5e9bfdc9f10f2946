//! Makes a first plan from the foreign keys of the catalogue. What they do not tell is a question in the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::catalogue::{Catalogue, ForeignKey, TableInfo, did_you_mean};
use super::check::type_family;
use super::evidence::{self, ByType, Notes};
use super::name::{Relation, quote};
use super::plan::{toml_columns, toml_string};
use super::question::{Answers, Ask, Choice, Question};
use super::{AdoptError, COLUMN, OTHER_COLUMN, OwnerConnection, Result, catalogue, doing};
use crate::error::Code;

const USERS: [&str; 6] = ["users", "user", "accounts", "account", "profiles", "people"];
/// Names that speak for an organization, and by how much: the weakest of the hints.
const ORGANIZATIONS: [(&str, i32); 18] = [
    ("organization", 2),
    ("organisation", 2),
    ("org", 2),
    ("workspace", 2),
    ("team", 2),
    ("company", 2),
    ("tenant", 2),
    ("account", 1),
    ("group", 1),
    ("space", 1),
    ("family", 1),
    ("household", 1),
    ("project", 1),
    ("site", 1),
    ("business", 1),
    ("clinic", 1),
    ("school", 1),
    ("agency", 1),
];
/// Columns of what lets one person in: an OAuth account, a session, an invitation.
const CREDENTIALS: [&str; 5] = ["token", "password", "secret", "provider", "code"];

/// Names of questions, and of the answer that keeps triggers quiet.
const ORGANIZATION: &str = "organizations";
const SHARED: &str = "shared";
const KEYS: &str = "unique_per_tenant";
const USERS_OF: &str = "users of ";
const TRIGGERS: &str = "triggers of ";
const QUIET: &str = "quiet";

/// A first plan.
#[derive(Clone, Debug)]
pub struct Suggestion {
    /// The plan as TOML, with its questions as comments.
    pub toml: String,
    /// Questions that only the team can answer, and that were not answered.
    pub questions: Vec<Question>,
}

/// Reads the catalogue and writes a plan, with the answers that are there already.
pub async fn suggest(
    session: &mut OwnerConnection,
    name: &str,
    schema: Option<&str>,
    users: Option<&Relation>,
    answers: &Answers,
) -> Result<Suggestion> {
    let all = catalogue::read(session.conn()).await.map_err(doing("reading the catalogue"))?;
    // Tenantry's own schema is not in the catalogue.
    let wanted = |relation: &Relation| schema.is_none_or(|schema| relation.schema == schema) || users == Some(relation);
    let all = all.into_iter().filter(|(relation, _)| wanted(relation) && relation.name != "_sqlx_migrations");
    let all = all.filter(|(_, info)| matches!(info.kind.as_str(), "r" | "p" | "f"));
    let (left_out, tables): (Catalogue, Catalogue) = all.partition(|(_, info)| why_not(info).is_some());
    let mut tables = tables;
    let users = find_users(&tables, users)?.relation();
    let notes = evidence::infer_references(session, &mut tables, &users).await?;
    let users = find_users(&tables, Some(&users))?;
    let mut candidates = organizations(&tables, users);
    if let Some([chosen]) = answers.get(ORGANIZATION).map(Vec::as_slice) {
        candidates.sort_by_key(|candidate| candidate.table.relation().to_string() != *chosen);
    }
    let facts = facts(session, users, candidates.first()).await?;
    let by_type = evidence::references_by_type(session, &tables).await?;
    let trees = evidence::trees(session, &tables).await?;
    let mut writer = Writer {
        tables: &tables,
        users,
        candidates: &candidates,
        facts: &facts,
        notes: &notes,
        by_type: &by_type,
        trees: &trees,
        direct: BTreeSet::new(),
        answers,
        questions: Vec::new(),
        text: String::new(),
    };
    writer.write(name);
    writer.left_out(&left_out);
    Ok(Suggestion { toml: writer.text, questions: writer.questions })
}

/// Why a table cannot be adopted at all.
fn why_not(info: &TableInfo) -> Option<&'static str> {
    match info.kind.as_str() {
        "p" => Some("is partitioned"),
        "f" => Some("is in another database"),
        _ if info.partition_of.is_some() => Some("is a partition"),
        _ if !info.relatives.is_empty() => Some("inherits, or is inherited from"),
        _ => None,
    }
}

fn find_users<'a>(tables: &'a Catalogue, wanted: Option<&Relation>) -> Result<&'a TableInfo> {
    if let Some(wanted) = wanted {
        return tables.get(wanted).ok_or_else(|| {
            let names: Vec<String> = tables.keys().map(ToString::to_string).collect();
            let hint = did_you_mean(&wanted.to_string(), names.iter().map(String::as_str))
                .map_or_else(String::new, |name| format!("; did you mean {name}?"));
            AdoptError::refused(Code::NoUsersTable, format!("{wanted}: there is no such table{hint}"))
        });
    }
    let referring = |to: &TableInfo| tables.values().filter(|table| reference(table, to).is_some()).count();
    let place = |table: &TableInfo| USERS.iter().position(|name| table.relation().name.eq_ignore_ascii_case(name));
    tables
        .values()
        .filter_map(|table| Some((place(table)?, table)))
        // Of several, one that can be referred to, then the name, then the one that most tables refer to.
        .min_by_key(|(place, table)| {
            let no_key = table.key().is_none_or(|key| key.len() != 1);
            (no_key, *place, std::cmp::Reverse(referring(table)), table.relation().schema != "public")
        })
        .map(|(_, table)| table)
        .ok_or_else(|| {
            AdoptError::refused(Code::NoUsersTable, "no table of users was found: name it with --users schema.table")
        })
}

/// A table whose rows may be the organizations, and what speaks for it.
struct Candidate<'a> {
    table: &'a TableInfo,
    memberships: Option<&'a TableInfo>,
    /// The column of the users that holds the current one.
    current: Option<&'a ForeignKey>,
    /// The column with the owner.
    owner: Option<&'a ForeignKey>,
    /// Other tables that refer to it.
    referring: usize,
    score: i32,
}

/// The single column by which a table refers to another.
fn reference<'a>(from: &'a TableInfo, to: &TableInfo) -> Option<&'a ForeignKey> {
    from.foreign_keys.iter().find(|key| key.target() == to.relation() && key.columns.len() == 1)
}

fn has_credentials(table: &TableInfo) -> bool {
    table.columns.iter().any(|column| CREDENTIALS.iter().any(|word| column.name.to_lowercase().contains(word)))
}

/// How much a table looks like the memberships of users in an organization: that a user is in one once, that both are always
/// there, and its name; an invitation is none.
fn membership_score(table: &TableInfo, users: &TableInfo, organizations: &TableInfo) -> Option<i32> {
    let (user, organization) = (reference(table, users)?, reference(table, organizations)?);
    let name = table.relation().name.to_lowercase();
    let both = [&user.columns[0], &organization.columns[0]];
    let once =
        table.unique.iter().any(|columns| columns.len() == 2 && both.iter().all(|column| columns.contains(column)));
    let always = both.iter().all(|name| table.column(name).is_some_and(|column| column.not_null));
    let mut score = 0;
    score += if once { 3 } else { 0 };
    score += i32::from(always);
    score += if name.contains("member") || name.contains("user") { 2 } else { 0 };
    score -= if name.contains("invit") || name.contains("request") || has_credentials(table) { 6 } else { 0 };
    (score >= 3).then_some(score)
}

/// The tables that may be the organizations, the likeliest first.
fn organizations<'a>(tables: &'a Catalogue, users: &'a TableInfo) -> Vec<Candidate<'a>> {
    let mut found: Vec<Candidate<'a>> = Vec::new();
    for table in tables.values() {
        let one_key = table.key().is_some_and(|key| key.len() == 1);
        if table.relation() == users.relation()
            || !one_key
            || has_credentials(table) && reference(table, users).is_some()
        {
            continue;
        }
        let memberships = tables
            .values()
            .filter(|other| other.relation() != users.relation() && other.relation() != table.relation())
            .filter_map(|other| Some((membership_score(other, users, table)?, other)))
            .max_by_key(|(score, other)| (*score, std::cmp::Reverse(other.columns.len())));
        let memberships = memberships.map(|(_, table)| table);
        let current = reference(users, table);
        let owner = reference(table, users);
        let special = |other: &TableInfo| {
            other.relation() == users.relation()
                || other.relation() == table.relation()
                || memberships.is_some_and(|memberships| memberships.relation() == other.relation())
        };
        let referring = tables.values().filter(|other| !special(other) && reference(other, table).is_some()).count();
        let name = table.relation().name.to_lowercase();
        let named =
            ORGANIZATIONS.iter().filter(|(word, _)| evidence::is_named(&name, word)).map(|(_, weight)| *weight).max();
        let named = named.unwrap_or(0);
        let score = if memberships.is_some() { 4 } else { 0 }
            + if current.is_some() { 3 } else { 0 }
            + i32::try_from(referring.min(4)).unwrap_or(4)
            + named;
        // Readers of a feed or watchers of a thread are no members: without a name that speaks for it, roles have to.
        let is_membership = memberships.is_some_and(|table| {
            named > 0
                || table.relation().name.to_lowercase().contains("member")
                || table.columns.iter().any(|column| column.name.to_lowercase().contains("role"))
        });
        // Something has to say who belongs to it, and something has to belong to it or be called so.
        let has_people = is_membership || current.is_some() && named > 0 || owner.is_some() && named == 2;
        if has_people && (referring > 0 || named == 2) {
            found.push(Candidate { table, memberships, current, owner, referring, score });
        }
    }
    // Projects of a team have members as well: the team is what others are in.
    let inside: Vec<(Relation, Relation)> = found
        .iter()
        .flat_map(|a| found.iter().map(move |b| (a, b)))
        .filter(|(a, b)| a.table.relation() != b.table.relation() && reference(a.table, b.table).is_some())
        .map(|(a, b)| (a.table.relation(), b.table.relation()))
        .collect();
    for candidate in &mut found {
        let own = candidate.table.relation();
        candidate.score += 4 * i32::from(inside.iter().any(|(_, outer)| *outer == own));
        candidate.score -= 4 * i32::from(inside.iter().any(|(inner, _)| *inner == own));
    }
    found.sort_by(|a, b| b.score.cmp(&a.score).then_with(|| a.table.relation().cmp(&b.table.relation())));
    found
}

/// What the data says of the people.
#[derive(Default)]
struct Facts {
    /// The values of the memberships' role, the column first.
    roles: Option<(String, Vec<(String, i64)>)>,
    /// Columns that say that a row does not count: the word of the plan, the condition, how many rows it leaves out, of how many.
    not_counted: Vec<(&'static str, String, i64, i64)>,
    /// Users who are in more than one organization, of those who are in one.
    in_several: (i64, i64),
}

async fn facts(
    session: &mut OwnerConnection,
    users: &TableInfo,
    organizations: Option<&Candidate<'_>>,
) -> Result<Facts> {
    let mut facts = Facts::default();
    let memberships = organizations.and_then(|candidate| candidate.memberships);
    if let Some(table) = memberships.filter(|table| table.readable) {
        let role = first_of(
            table,
            &["role", "member_role", "access_level", "permission", "type", "is_owner", "owner", "is_admin", "admin"],
        );
        if let Some(column) = role {
            facts.roles = Some((column.clone(), evidence::values(session, &table.relation(), &column).await?));
        }
    }
    let all = [
        ("users", Some(users)),
        ("organizations", organizations.map(|candidate| candidate.table)),
        ("memberships", memberships),
    ];
    for (word, table) in all {
        let Some(table) = table.filter(|table| table.readable) else { continue };
        for column in &table.columns {
            let name = quote(&column.name);
            let condition = match column.name.to_lowercase().as_str() {
                "deleted_at" | "deletedat" | "removed_at" | "archived_at" | "discarded_at" | "left_at"
                | "revoked_at" => format!("{name} is null"),
                "accepted_at" | "joined_at" | "confirmed_at" if word == "memberships" => format!("{name} is not null"),
                "is_deleted" | "deleted" | "pending" | "is_pending" if column.data_type == "boolean" => {
                    format!("not {name}")
                }
                "accepted" | "is_accepted" | "confirmed" if word == "memberships" && column.data_type == "boolean" => {
                    name.clone()
                }
                _ => continue,
            };
            let (counted, rows) = evidence::count(session, &table.relation(), &condition).await?;
            if counted < rows {
                facts.not_counted.push((word, condition, rows - counted, rows));
            }
        }
    }
    if let (Some(table), Some(candidate)) = (memberships.filter(|table| table.readable), organizations)
        && let (Some(user), Some(organization)) = (reference(table, users), reference(table, candidate.table))
    {
        let counted = facts.not_counted.iter().filter(|(word, ..)| *word == "memberships");
        let conditions: Vec<String> = counted.map(|(_, condition, ..)| format!("({condition})")).collect();
        let condition = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" and ") };
        facts.in_several =
            evidence::in_several(session, &table.relation(), &user.columns[0], &organization.columns[0], &condition)
                .await?;
    }
    Ok(facts)
}

/// What a value of a role probably means.
fn meaning(column: &str, value: &str) -> Option<&'static str> {
    let value = value.to_lowercase();
    if matches!(value.as_str(), "true" | "t") {
        return Some(if column.contains("owner") { "OWNER" } else { "ADMIN" });
    }
    if value.contains("own") || value.contains("creator") || value.contains("founder") {
        Some("OWNER")
    } else if value.contains("admin") || value.contains("manag") {
        Some("ADMIN")
    } else if value.contains("view") || value.contains("read") || value.contains("guest") {
        Some("VIEWER")
    } else if value.parse::<i64>().is_ok() {
        None
    } else {
        Some("MEMBER")
    }
}

/// What tells the organization of a table's rows.
struct Found {
    sources: Vec<(i32, String)>,
    /// What types leave open.
    unknown: Vec<String>,
    /// Tables that it refers to and that are no sources, because they come later.
    circular: Vec<Relation>,
}

struct Writer<'a> {
    tables: &'a Catalogue,
    users: &'a TableInfo,
    candidates: &'a [Candidate<'a>],
    facts: &'a Facts,
    notes: &'a Notes,
    by_type: &'a BTreeMap<Relation, Vec<ByType>>,
    trees: &'a BTreeMap<Relation, i64>,
    /// Tables whose rows know their organization by a column, their own or that of a row they refer to.
    direct: BTreeSet<Relation>,
    answers: &'a Answers,
    questions: Vec<Question>,
    text: String,
}

/// What a source says beside its column when the foreign key refers to another than the key.
fn to(target: &TableInfo, key: &ForeignKey) -> String {
    other_column(target, key).map_or_else(String::new, |column| format!(", to = {}", toml_string(&column)))
}

/// The column that a foreign key refers to, if that is not the key.
fn other_column(target: &TableInfo, key: &ForeignKey) -> Option<String> {
    match (target.key(), key.target_columns.as_slice()) {
        (Some([id]), [column]) if id == column => None,
        (_, [column]) => Some(column.clone()),
        _ => None,
    }
}

fn first_of(table: &TableInfo, names: &[&str]) -> Option<String> {
    names
        .iter()
        .find_map(|name| table.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)))
        .map(|column| column.name.clone())
}

impl<'a> Writer<'a> {
    fn line(&mut self, text: &str) {
        self.text += text;
        self.text.push('\n');
    }

    /// Something to look at, which has no answer in the plan.
    fn question(&mut self, text: String) {
        self.ask("", text, Ask::Note);
    }

    /// A question, unless it is answered: then the answer.
    fn ask(&mut self, id: &str, text: String, ask: Ask) -> Option<&'a [String]> {
        let answer = self.answers.get(id).map(Vec::as_slice);
        let mark = if answer.is_some() { "" } else { "? " };
        for line in text.lines() {
            let _ = writeln!(self.text, "# {mark}{line}");
        }
        if answer.is_none() {
            self.questions.push(Question { id: id.to_owned(), text, ask });
        }
        answer
    }

    fn write(&mut self, name: &str) {
        let chosen = self.candidates.first();
        let organizations = chosen.map(|candidate| candidate.table);
        let memberships = chosen.and_then(|candidate| candidate.memberships);
        self.line("# Written by `tenantry adopt plan` from the keys and the data of this database. Lines with `?` are what it cannot know.");
        self.line(&format!("name = {}", toml_string(name)));
        let mut logins: BTreeSet<String> = BTreeSet::new();
        for table in self.tables.values() {
            logins.extend(table.grantees.iter().filter(|role| *role != "public").cloned());
            if !table.owned {
                logins.insert(table.owner.clone());
            }
        }
        let open: Vec<String> = self
            .tables
            .values()
            .filter(|table| table.grantees.iter().any(|role| role == "public"))
            .map(|table| table.relation().sql())
            .collect();
        if !open.is_empty() {
            // A policy for PUBLIC would apply to tenantry_app as well.
            let list = open.join(", ");
            self.question(format!(
                "Tables that are granted to PUBLIC cannot stay so: which login does the old application use? Before `adopt finalize`: `grant select, insert, update, delete on {list} to <that login>; revoke all on {list} from public`, and write it into keep_access"
            ));
        }
        if !logins.is_empty() {
            let list: Vec<String> = logins.iter().map(|login| toml_string(login)).collect();
            let text = format!(
                "Which logins does the old application use? They keep seeing all rows until the cut-over: {}",
                list.join(", ")
            );
            let choices = logins.iter().map(|login| Choice::plain(login)).collect();
            match self.ask("keep_access", text, Ask::Some(choices)) {
                None => self.line(&format!("# keep_access = [{}]", list.join(", "))),
                Some(kept) => {
                    let kept: Vec<String> = kept.iter().map(|login| toml_string(login)).collect();
                    self.line(&format!("keep_access = [{}]", kept.join(", ")));
                }
            }
        }
        if self.answers.iter().any(|(id, answer)| id.starts_with(TRIGGERS) && answer.iter().any(|word| word == QUIET)) {
            self.line("quiet_triggers = true");
        }
        if let Some(shared) = self.answers.get(SHARED).filter(|shared| !shared.is_empty()) {
            let shared: Vec<String> = shared.iter().map(|table| toml_string(table)).collect();
            self.line(&format!("shared = [{}]", shared.join(", ")));
        }
        self.people(organizations, memberships);
        let special: Vec<Relation> =
            [Some(self.users), organizations, memberships].into_iter().flatten().map(TableInfo::relation).collect();
        self.adopted(&special, organizations);
    }

    /// What stays as it is, so that nobody takes its absence for an oversight.
    fn left_out(&mut self, tables: &Catalogue) {
        let whole = tables.iter().filter(|(_, info)| info.partition_of.is_none());
        for (relation, info) in whole {
            self.text.push('\n');
            self.question(format!(
                "{relation} {}, and cannot be adopted: `tenantry_app` must get no rights on it. Copy its rows into an ordinary table first, if they belong to tenants",
                why_not(info).unwrap_or_default()
            ));
        }
    }

    fn people(&mut self, organizations: Option<&TableInfo>, memberships: Option<&TableInfo>) {
        let users = self.users;
        self.line("\n[users]");
        self.line(&format!("table = {}", toml_string(&users.relation().to_string())));
        match users.key() {
            Some([id]) => self.line(&format!("id = {}", toml_string(id))),
            _ => self.question("the users have no key of one column: give them one".to_owned()),
        }
        for (field, names) in [
            ("email", &["email", "email_address", "mail"][..]),
            ("name", &["name", "full_name", "display_name", "username"]),
            ("clerk_id", &["clerk_id", "clerk_user_id"]),
        ] {
            if let Some(column) = first_of(users, names) {
                self.line(&format!("{field} = {}", toml_string(&column)));
            }
        }
        if let Some(organizations) = organizations {
            if let Some(key) = self.candidates.first().and_then(|candidate| candidate.current) {
                self.line(&format!("current_organization = {}", toml_string(&key.columns[0])));
                if let Some(to) = other_column(organizations, key) {
                    self.line(&format!("current_organization_to = {}", toml_string(&to)));
                }
            }
            if memberships.is_some() && self.candidates.first().is_some_and(|candidate| candidate.current.is_some()) {
                let text = "When a user's current and primary organization differ, whose are the user's rows? Without an answer they are reported, not assigned.".to_owned();
                let choices = vec![
                    Choice::new("", "report such users"),
                    Choice::new("current", "the current organization's"),
                    Choice::new("primary", "the primary organization's"),
                ];
                match self.ask("prefer", text, Ask::One(choices)) {
                    Some([word]) if !word.is_empty() => self.line(&format!("prefer = {}", toml_string(word))),
                    _ => self.line("# prefer = \"primary\""),
                }
            }
            self.conditions("users");
            self.line("\n[organizations]");
            self.chosen();
            self.line(&format!("table = {}", toml_string(&organizations.relation().to_string())));
            if let Some([id]) = organizations.key() {
                self.line(&format!("id = {}", toml_string(id)));
            }
            if let Some(column) = first_of(organizations, &["name", "title", "display_name"]) {
                self.line(&format!("name = {}", toml_string(&column)));
            } else {
                self.question(format!("{}: which column is the name?", organizations.relation()));
            }
            if let Some(column) = first_of(organizations, &["slug", "handle"]) {
                self.line(&format!("slug = {}", toml_string(&column)));
            }
            if let Some(key) = self.candidates.first().and_then(|candidate| candidate.owner) {
                self.line(&format!("owner = {}", toml_string(&key.columns[0])));
                if let Some(to) = other_column(self.users, key) {
                    self.line(&format!("owner_to = {}", toml_string(&to)));
                }
                self.noted(organizations, &key.columns[0]);
            }
            self.conditions("organizations");
            if let Some(table) = memberships {
                self.memberships(table, organizations);
            }
        }
        if organizations.is_none() {
            self.conditions("users");
        }
        self.line("\n[workspaces]");
        let text = "Users without an organization: `personal` (a workspace of their own), `default` (one for all of them), or `leave`?".to_owned();
        let choices = vec![
            Choice::new("personal", "a workspace of their own"),
            Choice::new("default", "one workspace for all of them"),
            Choice::new("leave", "leave them, and report their rows"),
        ];
        let answer = self.ask("users_without", text, Ask::One(choices)).and_then(|answer| answer.first());
        self.line(&format!("users_without = {}", toml_string(answer.map_or("personal", String::as_str))));
    }

    fn memberships(&mut self, table: &TableInfo, organizations: &TableInfo) {
        self.line("\n[memberships]");
        self.line(&format!("table = {}", toml_string(&table.relation().to_string())));
        for (word, target) in [("user", self.users), ("organization", organizations)] {
            let Some(key) = reference(table, target) else { continue };
            self.line(&format!("{word} = {}", toml_string(&key.columns[0])));
            if let Some(to) = other_column(target, key) {
                self.line(&format!("{word}_to = {}", toml_string(&to)));
            }
        }
        if let Some(primary) = table.columns.iter().find(|column| {
            column.data_type == "boolean"
                && ["primary", "default", "main"].iter().any(|word| column.name.contains(word))
        }) {
            self.line(&format!("primary = {}", toml_string(&primary.name)));
        }
        self.conditions("memberships");
        let (several, all) = self.facts.in_several;
        if several > 0 {
            self.line(&format!(
                "# {several} of {all} users are in more than one organization: where a column or another row tells the organization of a row, it comes before the user"
            ));
        }
        if let Some((role, values)) = &self.facts.roles {
            self.line(&format!("role = {}", toml_string(role)));
            let seen: Vec<String> = values.iter().map(|(value, count)| format!("{value} ({count})")).collect();
            let text = format!(
                "{}.{role}: what do its values mean? There are {}. Others become MEMBER.",
                table.relation(),
                if seen.is_empty() { "none yet".to_owned() } else { seen.join(", ") }
            );
            let labels = ["OWNER", "ADMIN", "MEMBER", "VIEWER"];
            let probably = |value: &str| meaning(role, value).unwrap_or("MEMBER");
            let each = values
                .iter()
                .map(|(value, count)| {
                    let place = labels.iter().position(|label| *label == probably(value)).unwrap_or(2);
                    (Choice::new(value, &format!("{value} ({count})")), place)
                })
                .collect();
            let ask = if values.is_empty() {
                Ask::Note
            } else {
                Ask::Each(each, labels.iter().map(|label| Choice::plain(label)).collect())
            };
            let answer = self.ask("roles", text, ask).filter(|answer| answer.len() == values.len());
            let known: Vec<String> = values
                .iter()
                .enumerate()
                .filter_map(|(n, (value, _))| {
                    let said = answer.map(|answer| answer[n].as_str());
                    Some(format!("{} = {}", toml_string(value), toml_string(said.or_else(|| meaning(role, value))?)))
                })
                .collect();
            let boolean = table.column(role).is_some_and(|column| column.data_type == "boolean");
            let known = if values.is_empty() && boolean {
                format!("true = \"{}\"", meaning(role, "true").unwrap_or("MEMBER"))
            } else if values.is_empty() {
                "owner = \"OWNER\", admin = \"ADMIN\", member = \"MEMBER\", viewer = \"VIEWER\"".to_owned()
            } else {
                known.join(", ")
            };
            self.line(&format!("roles = {{ {known} }}"));
        }
    }

    /// Which table was taken for the organizations, and which others may be.
    fn chosen(&mut self) {
        let told = |candidate: &Candidate<'_>| {
            let mut why = Vec::new();
            why.extend(candidate.memberships.map(|table| format!("members in {}", table.relation())));
            why.extend(candidate.current.map(|key| format!("users.{} refers to it", key.columns[0])));
            why.push(format!("{} other tables refer to it", candidate.referring));
            format!("{} ({})", candidate.table.relation(), why.join(", "))
        };
        if let [_, _, ..] = self.candidates {
            let list: Vec<String> = self.candidates.iter().take(4).map(told).collect();
            let text = format!("Whose data is it? The likeliest first: {}", list.join("; "));
            let choices = self
                .candidates
                .iter()
                .take(4)
                .map(|candidate| Choice::new(&candidate.table.relation().to_string(), &told(candidate)));
            self.ask(ORGANIZATION, text, Ask::One(choices.collect()));
        } else if let [one] = self.candidates {
            let told = told(one);
            self.line(&format!("# {told}"));
        }
    }

    /// Rows that probably do not count. Written out where counting them would let somebody in.
    fn conditions(&mut self, word: &str) {
        let facts = self.facts;
        let of_word: Vec<&(&str, String, i64, i64)> = facts.not_counted.iter().filter(|(of, ..)| *of == word).collect();
        let Some((_, _, without, rows)) = of_word.first() else { return };
        let all: Vec<&str> = of_word.iter().map(|(_, condition, ..)| condition.as_str()).collect();
        let text = format!("{without} of {rows} {word} seem not to count. They are left out by:");
        let condition = all.join(" and ");
        let choices =
            vec![Choice::new("", &format!("leave them out: where {condition}")), Choice::new("all", "count them all")];
        let comment = match self.ask(&format!("where {word}"), text, Ask::One(choices)) {
            Some([all]) if all == "all" => "# ",
            _ => "",
        };
        self.line(&format!("{comment}where = {}", toml_string(&condition)));
    }

    /// What an inferred reference rests on.
    fn noted(&mut self, table: &TableInfo, column: &str) {
        let notes = self.notes;
        if let Some(note) = notes.get(&(table.relation(), column.to_owned())) {
            self.line(&format!("# {note}"));
        }
    }

    fn adopted(&mut self, special: &[Relation], organizations: Option<&TableInfo>) {
        let users = self.users.relation();
        let mut reached: BTreeSet<Relation> = BTreeSet::new();
        // Tables that reference users, or a table that does.
        loop {
            let before = reached.len();
            for (relation, table) in self.tables {
                let belongs = |target: &Relation| {
                    *target == users
                        || target != relation && reached.contains(target)
                        || organizations.is_some_and(|o| o.relation() == *target)
                };
                let by_type = self.by_type.get(relation).into_iter().flatten();
                let named = by_type.flat_map(|pair| &pair.values).filter_map(|(_, _, target)| target.as_ref());
                let by_key = table.foreign_keys.iter().any(|key| belongs(&key.target()));
                if !special.contains(relation) && (by_key || named.into_iter().any(belongs)) {
                    reached.insert(relation.clone());
                }
            }
            if reached.len() == before {
                break;
            }
        }
        let mut written: BTreeSet<Relation> = BTreeSet::new();
        // In the order of their references, so that the plan has no circle.
        while written.len() < reached.len() {
            let ready = |relation: &&Relation| {
                !written.contains(*relation)
                    && self.tables[*relation].foreign_keys.iter().all(|key| {
                        let target = key.target();
                        target == **relation || !reached.contains(&target) || written.contains(&target)
                    })
                    && self.by_type.get(*relation).into_iter().flatten().flat_map(|pair| &pair.values).all(
                        |(_, _, target)| {
                            target.as_ref().is_none_or(|target| {
                                target == *relation || !reached.contains(target) || written.contains(target)
                            })
                        },
                    )
            };
            let next = reached
                .iter()
                .find(ready)
                .or_else(|| {
                    // A circle: first who knows their organization without the others, then what most refer to.
                    let waiting = reached.iter().filter(|relation| !written.contains(*relation));
                    waiting.max_by_key(|relation| {
                        let keys = &self.tables[*relation].foreign_keys;
                        let named =
                            keys.iter().any(|key| organizations.is_some_and(|table| table.relation() == key.target()));
                        let known = keys.iter().any(|key| key.target() == users || written.contains(&key.target()));
                        let referring =
                            self.tables.values().filter(|other| reference(other, &self.tables[*relation]).is_some());
                        (named, known, referring.count(), std::cmp::Reverse(*relation))
                    })
                })
                .cloned();
            let Some(next) = next else { break };
            self.table(&next, &written, special, organizations);
            written.insert(next);
        }
        self.global_keys(&reached);
        let without: Vec<&Relation> =
            self.tables.keys().filter(|relation| !special.contains(relation) && !reached.contains(*relation)).collect();
        if without.is_empty() {
            return;
        }
        self.text.push('\n');
        let names: Vec<String> = without.iter().map(ToString::to_string).collect();
        let text = format!(
            "Left out, because nothing leads from them to a user or an organization: {}. Those whose rows are the same for everybody go into `shared`; of the others, say whose they are",
            names.join(", ")
        );
        let choices = names.iter().map(|name| Choice::new(name, &format!("{name} is the same for everybody")));
        self.ask(SHARED, text, Ask::Some(choices.collect()));
        for relation in without {
            let notes = self.notes;
            for (_, note) in notes.iter().filter(|((of, _), _)| of == relation) {
                self.line(&format!("# {relation}: {note}"));
            }
        }
    }

    /// Keys that stay unique across all tenants, and are no mere ids.
    fn global_keys(&mut self, reached: &BTreeSet<Relation>) {
        let technical = |name: &str| {
            let name = name.to_lowercase();
            name == "id"
                || ["uuid", "guid", "hash", "key", "token", "secret", "password"].iter().any(|word| name.contains(word))
        };
        let mut found = Vec::new();
        for relation in reached {
            let table = &self.tables[relation];
            for columns in &table.unique {
                let referring =
                    table.foreign_keys.iter().any(|key| key.columns.iter().any(|column| columns.contains(column)));
                let values = columns.iter().all(|name| {
                    table.column(name).is_some_and(|column| matches!(type_family(column), "text" | "number"))
                });
                let counted = columns.len() == 1
                    && table.key() == Some(columns.as_slice())
                    && table.column(&columns[0]).is_some_and(|column| type_family(column) == "number");
                if values && !referring && !counted && !columns.iter().any(|name| technical(name)) {
                    found.push(format!("{relation} ({})", columns.join(", ")));
                }
            }
        }
        if !found.is_empty() {
            self.text.push('\n');
            let text = format!(
                "These stay unique across all tenants, so that one learns that another has a value, and cannot use it: {}. Where it is a tenant's own matter, write `unique_per_tenant = [\"slug\"]` into its table",
                found.join(", ")
            );
            let choices = found.iter().map(|key| Choice::new(key, &format!("{key} is a tenant's own")));
            self.ask(KEYS, text, Ask::Some(choices.collect()));
        }
    }

    /// The sources of a table whose references go to several others, and what its types leave open.
    fn sources_by_type(
        &self,
        relation: &Relation,
        written: &BTreeSet<Relation>,
        organizations: Option<&TableInfo>,
    ) -> (Vec<String>, Vec<String>) {
        let (mut sources, mut unknown) = (Vec::new(), Vec::new());
        for pair in self.by_type.get(relation).into_iter().flatten() {
            let column = toml_string(&pair.column);
            let mut open = Vec::new();
            for (value, rows, target) in &pair.values {
                let condition = toml_string(&format!("{} = {}", quote(&pair.kind), super::name::literal(value)));
                match target {
                    Some(target) if *target == self.users.relation() => {
                        sources.push(format!("{{ user = {column}, where = {condition} }}"));
                    }
                    Some(target) if organizations.is_some_and(|table| table.relation() == *target) => {
                        sources.push(format!("{{ column = {column}, where = {condition} }}"));
                    }
                    Some(target) if written.contains(target) => {
                        let row = toml_string(&target.to_string());
                        sources.push(format!("{{ row = {row}, by = {column}, where = {condition} }}"));
                    }
                    _ => open.push(format!("{value} ({rows} rows)")),
                }
            }
            if !open.is_empty() {
                unknown.push(format!(
                    "{relation}: `{}` refers to several tables, and `{}` tells which. These lead to none that is adopted: {}. Rows of them need another source",
                    pair.column, pair.kind, open.join(", ")
                ));
            }
        }
        (sources, unknown)
    }

    /// The sources of a table, with their rank: people, columns, rows, types, rows of its own.
    fn sources(
        &self,
        relation: &Relation,
        written: &BTreeSet<Relation>,
        special: &[Relation],
        organizations: Option<&TableInfo>,
    ) -> Found {
        let table = &self.tables[relation];
        let users = self.users.relation();
        let mut sources = Vec::new();
        let mut circular = Vec::new();
        for key in &table.foreign_keys {
            let target = key.target();
            let one = key.columns.len() == 1;
            if one && target == users {
                // Somebody else of those whom the row names owns it.
                let owner = self.answers.get(&format!("{USERS_OF}{relation}")).and_then(|answer| answer.first());
                if owner.is_some_and(|owner| !owner.is_empty() && *owner != key.columns[0]) {
                    continue;
                }
                sources.push((0, format!("{{ user = {}{} }}", toml_string(&key.columns[0]), to(self.users, key))));
            } else if one && organizations.is_some_and(|o| o.relation() == target) {
                let to = organizations.map_or_else(String::new, |organizations| to(organizations, key));
                sources.push((1, format!("{{ column = {}{to} }}", toml_string(&key.columns[0]))));
            } else if written.contains(&target) {
                let by = toml_columns(&key.columns);
                let primary = self.tables[&target].key().is_some_and(|columns| columns == key.target_columns);
                let to: Vec<String> = key.target_columns.iter().map(|column| toml_string(column)).collect();
                let to = if primary { String::new() } else { format!(", to = [{}]", to.join(", ")) };
                sources.push((2, format!("{{ row = {}, by = {by}{to} }}", toml_string(&target.to_string()))));
            } else if self.tables.contains_key(&target)
                && !special.contains(&target)
                && target != *relation
                && !circular.contains(&target)
            {
                circular.push(target);
            }
        }
        let (typed, unknown) = self.sources_by_type(relation, written, organizations);
        sources.extend(typed.into_iter().map(|source| (3, source)));
        if self.trees.contains_key(relation)
            && let Some(key) = table.foreign_keys.iter().find(|key| key.target() == *relation && key.columns.len() == 1)
        {
            let to = to(table, key);
            let (row, by) = (toml_string(&relation.to_string()), toml_string(&key.columns[0]));
            sources.push((4, format!("{{ row = {row}, by = {by}{to} }}")));
        }
        sources.sort();
        // A column that always names the organization says it; a person may be in several, and a parent says the same or errs.
        let names_it = |key: &ForeignKey| {
            let one = organizations.is_some_and(|o| o.relation() == key.target()) && key.columns.len() == 1;
            one && key.columns.iter().all(|name| table.column(name).is_some_and(|column| column.not_null))
        };
        // So does what the row always belongs to, if that knows by a column.
        let belongs = |key: &ForeignKey| {
            let always = |name: &String| table.column(name).is_some_and(|column| column.not_null);
            self.direct.contains(&key.target()) && key.columns.iter().all(always)
        };
        if table.foreign_keys.iter().any(names_it) {
            sources.retain(|(rank, _)| *rank == 1);
        } else if table.foreign_keys.iter().any(belongs) {
            sources.retain(|(rank, _)| *rank != 0);
        }
        Found { sources, unknown, circular }
    }

    fn table(
        &mut self,
        relation: &Relation,
        written: &BTreeSet<Relation>,
        special: &[Relation],
        organizations: Option<&TableInfo>,
    ) {
        let table = &self.tables[relation];
        let users = self.users.relation();
        let Found { mut sources, unknown, circular } = self.sources(relation, written, special, organizations);
        // Somebody who is in several organizations tells less than a column with an organization, or a row that has one. A row that
        // is only somebody's tells no more.
        let tells = |key: &ForeignKey| {
            organizations.is_some_and(|table| table.relation() == key.target()) || self.direct.contains(&key.target())
        };
        let direct = table.foreign_keys.iter().any(tells);
        if direct {
            self.direct.insert(relation.clone());
        }
        let first_decides = direct && self.facts.in_several.0 > 0 && sources.iter().any(|(rank, _)| *rank == 0);
        if first_decides {
            let of_people = sources.iter().take_while(|(rank, _)| *rank == 0).count();
            sources.rotate_left(of_people);
        }
        self.line("\n[[tables]]");
        self.line(&format!("table = {}", toml_string(&relation.to_string())));
        let of_users = sources.iter().filter(|(rank, _)| *rank == 0).count();
        let list: Vec<String> = sources.into_iter().map(|(_, source)| source).collect();
        self.line(&format!("organization = [{}]", list.join(", ")));
        if first_decides {
            self.line("first_decides = true");
        }
        self.tenants_keys(relation, table);
        if let Some(rows) = self.trees.get(relation) {
            let told = format!("# {rows} rows refer to another row of this table, and to nothing else");
            self.line(&told);
        }
        for line in unknown {
            self.question(line);
        }
        let inferred: Vec<String> =
            table.foreign_keys.iter().filter(|key| key.name.is_empty()).flat_map(|key| key.columns.clone()).collect();
        for column in inferred {
            self.noted(table, &column);
        }
        let notes = self.notes;
        for ((_, column), note) in notes.iter().filter(|((of, _), _)| of == relation) {
            if !table.foreign_keys.iter().any(|key| key.columns == [column.as_str()]) {
                self.line(&format!("# {note}"));
            }
        }
        if of_users > 1 {
            let text = format!(
                "{relation} refers to users in {of_users} ways. Rows where they are of different organizations will be reported; take out those that do not own the row."
            );
            let columns = table.foreign_keys.iter().filter(|key| key.columns.len() == 1 && key.target() == users);
            let choices =
                columns.map(|key| Choice::new(&key.columns[0], &format!("who {} is owns the row", key.columns[0])));
            let mut choices: Vec<Choice> = choices.collect();
            choices.insert(0, Choice::new("", "all of them, and report where they differ"));
            self.ask(&format!("{USERS_OF}{relation}"), text, Ask::One(choices));
        }
        for target in circular.into_iter().filter(|_| list.is_empty()) {
            self.question(format!(
                "{relation} also refers to {target}; as a source that would go in a circle, or it is not adopted"
            ));
        }
        self.remarks(relation, table);
    }

    /// The keys that are a tenant's own, as somebody answered.
    fn tenants_keys(&mut self, relation: &Relation, table: &TableInfo) {
        let keys = self.answers.get(KEYS).into_iter().flatten();
        let of_table = |key: &String| {
            let columns = key.strip_prefix(&format!("{relation} ("))?.strip_suffix(')')?.to_owned();
            table.unique.iter().find(|unique| unique.join(", ") == columns)
        };
        let keys: Vec<String> = keys.filter_map(of_table).map(|columns| toml_columns(columns)).collect();
        if !keys.is_empty() {
            self.line(&format!("unique_per_tenant = [{}]", keys.join(", ")));
        }
    }

    /// What stands in the way of adopting a table, or may.
    fn remarks(&mut self, relation: &Relation, table: &TableInfo) {
        if table.key().is_none() {
            self.question(format!("{relation}: nothing identifies its rows; it needs a key before it can be adopted"));
        }
        if let Some(column) = table.column(COLUMN)
            && column.data_type != "uuid"
        {
            let kind = column.data_type.clone();
            self.line(&format!("# your {COLUMN} is {kind} and stays; Tenantry's is uuid"));
            self.line(&format!("column = {}", toml_string(OTHER_COLUMN)));
        }
        if !table.update_triggers.is_empty() {
            let text = format!(
                "{relation}: its triggers fire for every row that gets an organization: {}. Is that harmless? If not, write `quiet_triggers = true` above [users]",
                table.update_triggers.join(", ")
            );
            let choices = vec![
                Choice::new("fire", "it is harmless"),
                Choice::new(
                    QUIET,
                    "keep all triggers quiet during the run (needs the right to set session_replication_role)",
                ),
            ];
            self.ask(&format!("{TRIGGERS}{relation}"), text, Ask::One(choices));
        }
        if table.hidden {
            self.question(format!(
                "{relation}: row-level security hides rows from the login of MIGRATION_DATABASE_URL, so that what is counted here may be wrong; `adopt run --dry-run` says how to let it see them"
            ));
        }
        if !table.owned {
            self.question(format!(
                "{relation} belongs to {}; the login of MIGRATION_DATABASE_URL must be a member of that role",
                table.owner
            ));
        }
    }
}
