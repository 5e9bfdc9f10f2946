//! Makes a first plan from the foreign keys of the catalogue. What they do not tell is a question in the plan.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::catalogue::{Catalogue, ForeignKey, TableInfo, did_you_mean};
use super::name::Relation;
use super::plan::toml_string;
use super::{AdoptError, COLUMN, OwnerConnection, Result, catalogue, doing};
use crate::error::Code;

const USERS: [&str; 6] = ["users", "user", "accounts", "account", "profiles", "people"];
const ORGANIZATIONS: [&str; 10] = [
    "organizations",
    "organization",
    "organisations",
    "orgs",
    "workspaces",
    "teams",
    "companies",
    "accounts",
    "tenants",
    "groups",
];

/// A first plan.
#[derive(Clone, Debug)]
pub struct Suggestion {
    /// The plan as TOML, with its questions as comments.
    pub toml: String,
    /// Questions that only the team can answer.
    pub questions: Vec<String>,
}

/// Reads the catalogue and writes a plan.
pub async fn suggest(
    session: &mut OwnerConnection,
    name: &str,
    schema: Option<&str>,
    users: Option<&Relation>,
) -> Result<Suggestion> {
    let all = catalogue::read(session.conn()).await.map_err(doing("reading the catalogue"))?;
    // Tenantry's own schema is not in the catalogue.
    let wanted = |relation: &Relation| schema.is_none_or(|schema| relation.schema == schema);
    let all = all.into_iter().filter(|(relation, _)| wanted(relation) && relation.name != "_sqlx_migrations");
    let all = all.filter(|(_, info)| matches!(info.kind.as_str(), "r" | "p" | "f"));
    let (left_out, tables): (Catalogue, Catalogue) = all.partition(|(_, info)| why_not(info).is_some());
    let users = find_users(&tables, users)?;
    let mut writer = Writer { tables: &tables, users, questions: Vec::new(), text: String::new() };
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
    USERS
        .iter()
        .find_map(|name| tables.values().find(|table| table.relation().name.eq_ignore_ascii_case(name)))
        .ok_or_else(|| {
            AdoptError::refused(Code::NoUsersTable, "no table of users was found: name it with --users schema.table")
        })
}

struct Writer<'a> {
    tables: &'a Catalogue,
    users: &'a TableInfo,
    questions: Vec<String>,
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

impl Writer<'_> {
    fn line(&mut self, text: &str) {
        self.text += text;
        self.text.push('\n');
    }

    fn question(&mut self, text: String) {
        for line in text.lines() {
            let _ = writeln!(self.text, "# ? {line}");
        }
        self.questions.push(text);
    }

    fn write(&mut self, name: &str) {
        let users = self.users.relation();
        let organizations = self.tables.values().find(|table| {
            table.relation() != users
                && ORGANIZATIONS.iter().any(|known| table.relation().name.eq_ignore_ascii_case(known))
                && table.key().is_some_and(|key| key.len() == 1)
        });
        let memberships = organizations.and_then(|organizations| {
            self.tables.values().find(|table| {
                let to = |relation: &Relation| {
                    table.foreign_keys.iter().any(|key| key.target() == *relation && key.columns.len() == 1)
                };
                to(&users)
                    && to(&organizations.relation())
                    && table.foreign_keys.len() <= 3
                    && table.columns.len() <= 10
            })
        });
        self.line("# Written by `tenantry adopt plan` from the foreign keys of this database. Lines with `?` are what it cannot know.");
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
            self.question(format!(
                "Which logins does the old application use? They keep seeing all rows until the cut-over: {}",
                list.join(", ")
            ));
            self.line(&format!("# keep_access = [{}]", list.join(", ")));
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
            let current = users
                .foreign_keys
                .iter()
                .find(|key| key.target() == organizations.relation() && key.columns.len() == 1)
                .map(|key| (key.columns[0].clone(), other_column(organizations, key)));
            if let Some((column, to)) = current.or_else(|| {
                first_of(
                    users,
                    &["current_organization_id", "organization_id", "current_workspace_id", "workspace_id", "team_id"],
                )
                .map(|column| (column, None))
            }) {
                self.line(&format!("current_organization = {}", toml_string(&column)));
                if let Some(to) = to {
                    self.line(&format!("current_organization_to = {}", toml_string(&to)));
                }
            }
            if memberships.is_some() {
                self.question("When a user's current and primary organization differ, whose are the user's rows? Without an answer they are reported, not assigned.".to_owned());
                self.line("# prefer = \"primary\"");
            }
            self.line("\n[organizations]");
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
            if let Some(table) = memberships {
                self.memberships(table, organizations);
            }
        }
        self.line("\n[workspaces]");
        self.question("Users without an organization: `personal` (a workspace of their own), `default` (one for all of them), or `leave`?".to_owned());
        self.line("users_without = \"personal\"");
    }

    fn memberships(&mut self, table: &TableInfo, organizations: &TableInfo) {
        self.line("\n[memberships]");
        self.line(&format!("table = {}", toml_string(&table.relation().to_string())));
        for (word, target) in [("user", self.users), ("organization", organizations)] {
            let key = table.foreign_keys.iter().find(|key| key.target() == target.relation() && key.columns.len() == 1);
            let Some(key) = key else { continue };
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
        if let Some(role) = first_of(table, &["role", "member_role"]) {
            self.line(&format!("role = {}", toml_string(&role)));
            self.question(format!("{}.{role}: what do its values mean? Others become MEMBER.", table.relation()));
            self.line("roles = { owner = \"OWNER\", admin = \"ADMIN\", member = \"MEMBER\", viewer = \"VIEWER\" }");
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
                if !special.contains(relation) && table.foreign_keys.iter().any(|key| belongs(&key.target())) {
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
            };
            let next = reached
                .iter()
                .find(ready)
                .or_else(|| reached.iter().find(|relation| !written.contains(*relation)))
                .cloned();
            let Some(next) = next else { break };
            self.table(&next, &written, organizations);
            written.insert(next);
        }
        for (relation, table) in self.tables {
            if special.contains(relation) || reached.contains(relation) {
                continue;
            }
            let hint = first_of(table, &["user_id", "owner_id", "created_by", "author_id", "account_id"]);
            self.text.push('\n');
            if let Some(column) = hint {
                self.question(format!(
                    "{relation}: `{column}` looks like a user, and there is no foreign key. If it is one:"
                ));
                self.line("# [[tables]]");
                self.line(&format!("# table = {}", toml_string(&relation.to_string())));
                self.line(&format!("# organization = [{{ user = {} }}]", toml_string(&column)));
            } else {
                self.question(format!("{relation}: nothing leads from it to a user. Is it the same for all (leave it out), or whose are its rows?"));
            }
        }
    }

    fn table(&mut self, relation: &Relation, written: &BTreeSet<Relation>, organizations: Option<&TableInfo>) {
        let table = &self.tables[relation];
        let users = self.users.relation();
        let mut sources = Vec::new();
        let mut circular = Vec::new();
        for key in &table.foreign_keys {
            let target = key.target();
            let one = key.columns.len() == 1;
            if one && target == users {
                sources.push((0, format!("{{ user = {}{} }}", toml_string(&key.columns[0]), to(self.users, key))));
            } else if one && organizations.is_some_and(|o| o.relation() == target) {
                let to = organizations.map_or_else(String::new, |organizations| to(organizations, key));
                sources.push((1, format!("{{ column = {}{to} }}", toml_string(&key.columns[0]))));
            } else if written.contains(&target) {
                let by: Vec<String> = key.columns.iter().map(|column| toml_string(column)).collect();
                let by = if one { by[0].clone() } else { format!("[{}]", by.join(", ")) };
                let primary = self.tables[&target].key().is_some_and(|columns| columns == key.target_columns);
                let to: Vec<String> = key.target_columns.iter().map(|column| toml_string(column)).collect();
                let to = if primary { String::new() } else { format!(", to = [{}]", to.join(", ")) };
                sources.push((2, format!("{{ row = {}, by = {by}{to} }}", toml_string(&target.to_string()))));
            } else if self.tables.contains_key(&target) && !circular.contains(&target) {
                circular.push(target);
            }
        }
        sources.sort();
        self.line("\n[[tables]]");
        self.line(&format!("table = {}", toml_string(&relation.to_string())));
        let of_users = sources.iter().filter(|(rank, _)| *rank == 0).count();
        let list: Vec<String> = sources.into_iter().map(|(_, source)| source).collect();
        self.line(&format!("organization = [{}]", list.join(", ")));
        if of_users > 1 {
            self.question(format!("{relation} refers to users in {of_users} ways. Rows where they are of different organizations will be reported; take out those that do not own the row."));
        }
        for target in circular {
            self.question(format!(
                "{relation} also refers to {target}; as a source that would go in a circle, or it is not adopted"
            ));
        }
        if table.key().is_none() {
            self.question(format!("{relation}: nothing identifies its rows; it needs a key before it can be adopted"));
        }
        if let Some(column) = table.column(COLUMN)
            && column.data_type != "uuid"
        {
            self.question(format!(
                "{relation}: its column {COLUMN} is {}; rename it, Tenantry's is uuid",
                column.data_type
            ));
        }
        if !table.update_triggers.is_empty() {
            self.question(format!(
                "{relation}: its triggers fire for every row that gets an organization: {}. Is that harmless?",
                table.update_triggers.join(", ")
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
