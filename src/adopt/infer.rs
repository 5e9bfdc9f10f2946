//! The organization of a row in SQL: what each source says, whether the sources agree, and the reason if there is none.
//!
//! The batches of a run, the trigger, the dry run and `verify` use the same expressions. The dry run replaces the
//! mappings by temporary tables.

use super::COLUMN;
use super::catalogue::Column;
use super::check::{Checked, CheckedTable, type_family};
use super::name::{Relation, literal, quote};
use super::plan::Source;

/// Where the mappings are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mappings {
    /// In the schema `adopt` and in the adopted tables.
    Real,
    /// In temporary tables of a dry run.
    Dry,
}

impl Mappings {
    /// The mapping of users: `legacy_id`, `organization_id`, `reason`.
    pub fn users(self, adoption: &str) -> String {
        match self {
            Self::Real => format!("(select * from tenantry.adopt_users where adoption = {})", literal(adoption)),
            Self::Dry => "pg_temp.adopt_users".to_owned(),
        }
    }

    /// The mapping of organizations: `legacy_id`, `organization_id`.
    pub fn organizations(self, adoption: &str) -> String {
        match self {
            Self::Real => {
                format!("(select * from tenantry.adopt_organizations where adoption = {})", literal(adoption))
            }
            Self::Dry => "pg_temp.adopt_organizations".to_owned(),
        }
    }

    /// The organization that a column of a row names, for a join: `… alias on …` with `organization_id`. `to` is the column of the
    /// organizations that it holds, if not their key. The mapping has the key's text; where other texts are equal, the
    /// organizations' own column says which.
    pub fn organization_of(
        self,
        checked: &Checked,
        to: Option<&str>,
        alias: &str,
        (row, table, column): (&str, &Relation, &str),
    ) -> String {
        let mapping = self.organizations(&checked.plan.name);
        let text = format!("{row}.{}::text", quote(column));
        let Some(plan) = &checked.plan.organizations else {
            return format!("{mapping} {alias} on {alias}.legacy_id = {text}");
        };
        let key = to.unwrap_or(&plan.id);
        let find = |table: &Relation, name: &str| checked.catalogue.get(table).and_then(|info| info.column(name));
        let theirs = find(&plan.table, key);
        let loose = theirs.is_some_and(|theirs| theirs.loose);
        if key == plan.id && !loose {
            return format!("{mapping} {alias} on {alias}.legacy_id = {text}");
        }
        let (cast, mine) = if loose { ("", compared(row, find(table, column), theirs)) } else { ("::text", text) };
        format!(
            "(select p.{}{cast} as legacy_id, a.organization_id from {} p join {mapping} a on a.legacy_id = p.{}::text) {alias} on {alias}.legacy_id = {mine}",
            quote(key),
            plan.rows(),
            quote(&plan.id)
        )
    }

    /// A table whose rows have their organization.
    pub fn rows(self, checked: &Checked, relation: &Relation) -> String {
        match self {
            Self::Real => relation.sql(),
            Self::Dry => dry_table(checked, relation),
        }
    }

    /// The default workspace.
    fn default_organization(self, adoption: &str) -> String {
        match self {
            Self::Real => {
                format!("(select default_organization from tenantry.adoptions where name = {})", literal(adoption))
            }
            Self::Dry => "(select default_organization from pg_temp.adopt_default)".to_owned(),
        }
    }
}

/// The temporary table with the organizations that a dry run found for this table's rows.
pub fn dry_table(checked: &Checked, relation: &Relation) -> String {
    let number = checked.tables.iter().position(|table| table.relation() == relation).unwrap_or_default();
    format!("pg_temp.adopt_rows_{number}")
}

/// The sources of one table as SQL over a row `b`.
#[derive(Clone, Debug)]
pub struct Inference {
    /// `left join`s after `b`. Each finds at most one row.
    pub joins: String,
    known: Vec<Known>,
    fallback: Option<(usize, String)>,
    first_decides: bool,
}

#[derive(Clone, Debug)]
struct Known {
    number: usize,
    source: Source,
    organization: String,
    value: String,
    why_not: String,
    /// Whether it holds for this row at all.
    holds: Option<String>,
}

/// The column of `b` that says whether a source with a condition holds for the row.
fn holds(number: usize) -> String {
    format!("b.\"~holds_{number}\"")
}

/// The columns of `b` that say which sources hold for a row, for a `select` from the table alone: conditions name its columns as
/// the team does, without an alias.
pub fn conditions(table: &CheckedTable) -> Vec<String> {
    let sources = table.spec.organization.iter().enumerate();
    sources
        .filter_map(|(index, source)| Some(format!("({}) as \"~holds_{}\"", source.condition()?, index + 1)))
        .collect()
}

/// A column for a comparison with a column of another table: as a foreign key does it, by the collation of the other. A text
/// that holds the keys of several tables (`item_id` beside `item_type`) is read as the other's type, where it can be.
pub fn compared(alias: &str, mine: Option<&Column>, theirs: Option<&Column>) -> String {
    let Some(mine) = mine else { return "null".to_owned() };
    let name = format!("{alias}.{}", quote(&mine.name));
    if let Some((pattern, data_type)) = theirs.and_then(|theirs| reads_as(mine, theirs)) {
        return format!("(case when {name} ~ '{pattern}' then {name}::{data_type} end)");
    }
    match theirs.map(|theirs| &theirs.collation) {
        Some(collation) if *collation != mine.collation => {
            format!("{name} collate {}", collation.as_deref().unwrap_or("pg_catalog.\"default\""))
        }
        _ => name,
    }
}

/// What a text must look like to be read as another type, if texts can be: numbers that fit, and UUIDs in their usual form.
pub fn reads_as(mine: &Column, theirs: &Column) -> Option<(&'static str, &'static str)> {
    if type_family(mine) != "text" {
        return None;
    }
    match theirs.base_type.as_str() {
        "smallint" => Some(("^[0-9]{1,4}$", "smallint")),
        "integer" => Some(("^[0-9]{1,9}$", "integer")),
        "bigint" => Some(("^[0-9]{1,18}$", "bigint")),
        "uuid" => Some(("^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", "uuid")),
        _ => None,
    }
}

/// Builds the inference of a table.
pub fn inference(checked: &Checked, table: &CheckedTable, mappings: Mappings) -> Inference {
    let adoption = &checked.plan.name;
    let mut inference =
        Inference { joins: String::new(), known: Vec::new(), fallback: None, first_decides: table.spec.first_decides };
    for (index, source) in table.spec.organization.iter().enumerate() {
        let number = index + 1;
        let alias = format!("s{number}");
        let holds = source.condition().map(|_| holds(number));
        let (join, organization, value, why_not) = match source {
            Source::User { user, to, .. } => {
                let value = format!("b.{}::text", quote(user));
                let why_not = format!(
                    "case when {alias}.legacy_id is null then 'user ' || {value} || ' does not exist' else 'user ' || {value} || ' ' || coalesce({alias}.reason, 'has no organization') end"
                );
                let users = checked.catalogue.get(&checked.plan.users.table);
                let id = users.and_then(|info| info.column(&checked.plan.users.id));
                // The mapping has the key's text; where other texts are equal, the users' own column says which.
                let to = to.as_ref().or_else(|| id.filter(|id| id.loose).map(|id| &id.name));
                let join = match to {
                    None => format!("{} {alias} on {alias}.legacy_id = {value}", mappings.users(adoption)),
                    Some(to) => format!(
                        "lateral (select p.{id}::text as legacy_id, a.organization_id, a.reason from {users} p left join {mapping} a on a.legacy_id = p.{id}::text where p.{to} = {mine}) {alias} on true",
                        id = quote(&checked.plan.users.id),
                        users = checked.plan.users.rows(),
                        mapping = mappings.users(adoption),
                        to = quote(to),
                        mine = compared("b", table.info.column(user), users.and_then(|info| info.column(to))),
                    ),
                };
                (join, format!("{alias}.organization_id"), value, why_not)
            }
            Source::Column { column, to, .. } => {
                let value = format!("b.{}::text", quote(column));
                let why_not = format!("'organization ' || {value} || ' does not exist'");
                if checked.plan.organizations.is_some() {
                    let row = ("b", table.relation(), column.as_str());
                    let join = mappings.organization_of(checked, to.as_deref(), &alias, row);
                    (join, format!("{alias}.organization_id"), value, why_not)
                } else {
                    let join = format!("tenantry.organizations {alias} on {alias}.id = b.{}", quote(column));
                    (join, format!("{alias}.id"), value, why_not)
                }
            }
            Source::Row { row, by, to, .. } => {
                let target = checked.tables.iter().find(|known| known.relation() == row);
                let keys: Vec<String> = to
                    .as_ref()
                    .map_or_else(|| target.and_then(|t| t.info.key()).unwrap_or_default().to_vec(), |to| to.0.clone());
                let on: Vec<String> =
                    by.0.iter()
                        .zip(&keys)
                        .map(|(mine, theirs)| {
                            let other = checked.catalogue.get(row).and_then(|info| info.column(theirs));
                            format!("{alias}.{} = {}", quote(theirs), compared("b", table.info.column(mine), other))
                        })
                        .collect();
                let values: Vec<String> = by.0.iter().map(|mine| format!("b.{}::text", quote(mine))).collect();
                // A row with a null in one part of the key references nothing.
                let value = values.join(" || ', ' || ");
                let label = literal(&row.to_string());
                let found =
                    keys.first().map_or_else(|| "true".to_owned(), |key| format!("{alias}.{} is not null", quote(key)));
                let why_not = format!(
                    "{label} || ' ' || ({value}) || case when {found} then ' has no organization itself' else ' does not exist' end"
                );
                let join = format!("{} {alias} on {}", mappings.rows(checked, row), on.join(" and "));
                (
                    join,
                    format!("{alias}.{}", quote(target.map_or(COLUMN, CheckedTable::column))),
                    format!("({value})"),
                    why_not,
                )
            }
            Source::Workspace { .. } => {
                inference.fallback = Some((number, mappings.default_organization(adoption)));
                continue;
            }
        };
        inference.joins += &format!(" left join {join}");
        if let Some(holds) = &holds {
            inference.joins += &format!(" and {holds}");
        }
        inference.known.push(Known { number, source: source.clone(), organization, value, why_not, holds });
    }
    inference
}

impl Inference {
    fn coalesce(&self) -> String {
        let mut list: Vec<&str> = self.known.iter().map(|known| known.organization.as_str()).collect();
        list.extend(self.fallback.iter().map(|(_, organization)| organization.as_str()));
        match list.as_slice() {
            [] => "null::uuid".to_owned(),
            [one] => (*one).to_owned(),
            many => format!("coalesce({})", many.join(", ")),
        }
    }

    /// Whether two sources name different organizations.
    pub fn conflict(&self) -> String {
        if self.known.len() < 2 || self.first_decides {
            return "false".to_owned();
        }
        // Both ignore nulls, so they differ only if two sources name different organizations.
        let list: Vec<&str> = self.known.iter().map(|known| known.organization.as_str()).collect();
        let list = list.join(", ");
        format!("coalesce(least({list}) <> greatest({list}), false)")
    }

    /// The organization that all sources with an answer agree on, else null.
    pub fn organization(&self) -> String {
        if self.known.len() < 2 || self.first_decides {
            return self.coalesce();
        }
        format!("case when {} then null else {} end", self.conflict(), self.coalesce())
    }

    /// The number of the source that decides.
    pub fn source(&self) -> String {
        let mut text = "(case".to_owned();
        for known in &self.known {
            text += &format!(" when {} is not null then {}", known.organization, known.number);
        }
        text += &format!(" else {} end)::smallint", self.fallback.as_ref().map_or(0, |(number, _)| *number));
        text
    }

    /// Why there is no organization, for people.
    pub fn reason(&self) -> String {
        let mut parts: Vec<String> = self
            .known
            .iter()
            .map(|known| {
                let otherwise = match (&known.holds, known.source.condition()) {
                    (Some(holds), Some(condition)) => format!(
                        "when {holds} is not true then {} ",
                        literal(&format!("{} counts where {condition}", columns(&known.source)))
                    ),
                    _ => String::new(),
                };
                format!(
                    "case {otherwise}when {} is null then {} else {} end",
                    known.value,
                    literal(&format!("{} is empty", columns(&known.source))),
                    known.why_not
                )
            })
            .collect();
        if self.fallback.is_some() {
            parts.push("'there is no default workspace'".to_owned());
        }
        format!(
            "case when {} then 'conflict: its sources name different organizations' else concat_ws('; ', {}) end",
            self.conflict(),
            parts.join(", ")
        )
    }

    /// What each source says, for programs.
    pub fn detail(&self) -> String {
        let list: Vec<String> = self
            .known
            .iter()
            .map(|known| {
                format!(
                    "jsonb_build_object('source', {}, 'value', {}, 'organization', {})",
                    literal(&known.source.to_string()),
                    known.value,
                    known.organization
                )
            })
            .collect();
        format!("jsonb_build_array({})", list.join(", "))
    }
}

fn columns(source: &Source) -> String {
    match source {
        Source::User { user: column, .. } | Source::Column { column, .. } => column.clone(),
        Source::Row { by, .. } => by.to_string(),
        Source::Workspace { .. } => String::new(),
    }
}
