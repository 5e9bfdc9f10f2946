//! The plan: a TOML file that says which tables become tenant-scoped and how the organization of each row is inferred.
//!
//! `tenantry adopt plan` writes a first one. Names are exactly those of the catalogue. A name with a dot in it is
//! written in double quotes: `legacy."odd.name"`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::name::{Columns, Relation};
use super::{AdoptError, Result};

/// The whole plan.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The name of the adoption. Its state is recorded under it.
    pub name: String,
    pub users: Users,
    /// The organizations of the legacy database.
    pub organizations: Option<Organizations>,
    /// The memberships of the legacy database.
    pub memberships: Option<Memberships>,
    /// What happens to users without an organization.
    pub workspaces: Workspaces,
    /// The tables that become tenant-scoped.
    pub tables: Vec<Table>,
    /// Roles that see all rows from `finalize` until the cut-over: the logins of the old application.
    #[serde(default)]
    pub keep_access: Vec<String>,
    /// Whether the team's triggers are kept from firing for the rows that a run and a rollback write. It needs the right to set
    /// `session_replication_role`.
    #[serde(default)]
    pub quiet_triggers: bool,
    /// Tables that every tenant may read, and none owns: countries, prices. `finalize` lets `tenantry_app` read them.
    #[serde(default)]
    pub shared: Vec<Relation>,
    /// Findings of `verify` that may stay, as it names them: `check subject`.
    #[serde(default)]
    pub accept: Vec<String>,
    /// What `tenantry_app` may do with the tables.
    #[serde(default = "all_grants")]
    pub grants: Vec<Grant>,
}

fn all_grants() -> Vec<Grant> {
    vec![Grant::Select, Grant::Insert, Grant::Update, Grant::Delete]
}

/// A privilege on a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grant {
    /// `select`.
    Select,
    /// `insert`.
    Insert,
    /// `update`.
    Update,
    /// `delete`.
    Delete,
}

impl Grant {
    /// The keyword in SQL.
    #[must_use]
    pub fn sql(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// Where the users are.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    pub table: Relation,
    /// Its key, one column.
    #[serde(default = "id")]
    pub id: String,
    /// The e-mail address.
    pub email: Option<String>,
    pub name: Option<String>,
    /// The id at the identity provider, if there is one.
    pub clerk_id: Option<String>,
    /// Which rows are users, in SQL over the table's columns: `deleted_at is null`. The others are as if they were not there.
    pub r#where: Option<String>,
    /// The key of the user's current organization.
    pub current_organization: Option<String>,
    /// The column of the organizations that it holds, if not their key.
    pub current_organization_to: Option<String>,
    /// Which organization counts when the current one is not the primary one. Without it, such users are reported.
    pub prefer: Option<Prefer>,
}

/// What decides between the current and the primary organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Prefer {
    /// The current one.
    Current,
    /// The one marked as primary among the memberships.
    Primary,
}

/// The rows of a table that count, for a `from`.
pub(super) fn rows_of(table: &Relation, condition: Option<&str>) -> String {
    match condition {
        None => table.sql(),
        Some(condition) => format!("(select * from {} where {condition})", table.sql()),
    }
}

impl Users {
    /// The users, for a `from`.
    #[must_use]
    pub fn rows(&self) -> String {
        rows_of(&self.table, self.r#where.as_deref())
    }
}

impl Organizations {
    /// The organizations, for a `from`.
    #[must_use]
    pub fn rows(&self) -> String {
        rows_of(&self.table, self.r#where.as_deref())
    }
}

impl Memberships {
    /// The memberships, for a `from`.
    #[must_use]
    pub fn rows(&self) -> String {
        rows_of(&self.table, self.r#where.as_deref())
    }
}

fn id() -> String {
    "id".to_owned()
}

/// Where the legacy organizations are.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Organizations {
    pub table: Relation,
    /// Its key, one column.
    #[serde(default = "id")]
    pub id: String,
    /// The name.
    #[serde(default = "name")]
    pub name: String,
    /// The slug. Without it, the slug is made from the name.
    pub slug: Option<String>,
    /// The column with the key of the user who owns it: a member with the role OWNER, whether the memberships say so or not.
    pub owner: Option<String>,
    /// The column of the users that it holds, if not their key.
    pub owner_to: Option<String>,
    /// Which rows are organizations, in SQL over the table's columns.
    pub r#where: Option<String>,
    /// Treat a legacy organization with the UUID of an existing organization as the same one: its members join it.
    #[serde(default)]
    pub join_existing: bool,
}

fn name() -> String {
    "name".to_owned()
}

/// Where the legacy memberships are.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Memberships {
    pub table: Relation,
    /// The column with the user's key.
    pub user: String,
    /// The column of the users that it holds, if not their key.
    pub user_to: Option<String>,
    /// The column with the organization's key.
    pub organization: String,
    /// The column of the organizations that it holds, if not their key.
    pub organization_to: Option<String>,
    /// A boolean column that marks a user's primary organization.
    pub primary: Option<String>,
    /// Which rows are memberships, in SQL over the table's columns: `accepted_at is not null and removed_at is null`.
    pub r#where: Option<String>,
    /// The column with the role.
    pub role: Option<String>,
    /// What its values mean. Other values, and a missing column, mean MEMBER.
    #[serde(default)]
    pub roles: BTreeMap<String, Role>,
}

/// A role in an organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Role {
    /// May do everything.
    Owner,
    /// May do everything except own the organization.
    Admin,
    /// May work with the data.
    Member,
    /// May read.
    Viewer,
}

impl Role {
    /// The label in the database.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Owner => "OWNER",
            Self::Admin => "ADMIN",
            Self::Member => "MEMBER",
            Self::Viewer => "VIEWER",
        }
    }
}

/// What happens to a user who has no organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// A workspace of their own, as OWNER.
    Personal,
    /// The default workspace.
    Default,
    /// Nothing. Their rows are reported.
    Leave,
}

impl Policy {
    /// The word in the plan.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Personal => "personal",
            Self::Default => "default",
            Self::Leave => "leave",
        }
    }
}

/// Users without an organization.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Workspaces {
    /// Users that exist when the adoption begins.
    pub users_without: Policy,
    /// Users that register in the old application while it still runs. Default: as `users_without`.
    pub newcomers: Option<Policy>,
    /// Slug of the default workspace.
    #[serde(default = "default_slug")]
    pub slug: String,
    /// Name of the default workspace.
    #[serde(default = "default_name")]
    pub name: String,
    /// The role of every user in the default workspace.
    #[serde(default = "admin")]
    pub role: Role,
    /// E-mail address of the user who becomes OWNER of the default workspace.
    pub owner: Option<String>,
    /// Use an existing organization with that slug.
    #[serde(default)]
    pub join_existing: bool,
}

fn default_slug() -> String {
    "default".to_owned()
}

fn default_name() -> String {
    "Default".to_owned()
}

fn admin() -> Role {
    Role::Admin
}

impl Workspaces {
    /// The policy for newcomers.
    #[must_use]
    pub fn newcomers(&self) -> Policy {
        self.newcomers.unwrap_or(self.users_without)
    }

    /// Whether the default workspace is needed.
    #[must_use]
    pub fn has_default(&self) -> bool {
        self.users_without == Policy::Default || self.newcomers() == Policy::Default
    }
}

/// A table that becomes tenant-scoped.
#[expect(clippy::struct_field_names, reason = "the words of the plan")]
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub table: Relation,
    /// The sources of the organization of a row.
    pub organization: Vec<Source>,
    /// The name of the column that holds the organization, if not `organization_id`: where the team has one of that name and
    /// another type.
    pub column: Option<String>,
    /// The first source that knows decides. Without it all that know must agree, else the row is reported.
    #[serde(default)]
    pub first_decides: bool,
    /// Unique keys that become a tenant's own at `finalize`: unique together with the organization, and no more across all.
    #[serde(default)]
    pub unique_per_tenant: Vec<Columns>,
    /// Foreign keys that may lead to rows of other tenants and stay as they are: likes, replies, "copied from". Who may write the
    /// row can find out whether such a row exists elsewhere.
    #[serde(default)]
    pub plain: Vec<Columns>,
    /// The columns that identify a row, if not the primary key: unique and not null.
    pub key: Option<Columns>,
    /// Assign a user's rows in the transaction that gives the user an organization.
    #[serde(default)]
    pub with_user: bool,
}

/// A source of the organization of a row.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, try_from = "WrittenSource")]
pub enum Source {
    /// The row's user.
    User {
        /// The column with the user's key.
        user: String,
        /// The column of the users that it holds, if not their key: a foreign key may refer to another unique column.
        to: Option<String>,
        /// The rows that it holds for, in SQL over the row's columns: `owner_type = 'User'`.
        r#where: Option<String>,
    },
    /// A column with an organization's key.
    Column {
        /// The column.
        column: String,
        /// The column of the organizations that it holds, if not their key.
        to: Option<String>,
        /// As with a user.
        r#where: Option<String>,
    },
    /// A row of another table that this row references, or of its own.
    Row {
        /// That table.
        row: Relation,
        /// The columns that hold its key.
        by: Columns,
        /// The referenced columns, if not the primary key of that table.
        to: Option<Columns>,
        /// As with a user.
        r#where: Option<String>,
    },
    /// The default workspace, if no other source has an answer.
    Workspace {
        /// Only `default`.
        workspace: DefaultWorkspace,
    },
}

impl Source {
    /// The rows that it holds for.
    #[must_use]
    pub fn condition(&self) -> Option<&str> {
        match self {
            Self::User { r#where, .. } | Self::Column { r#where, .. } | Self::Row { r#where, .. } => r#where.as_deref(),
            Self::Workspace { .. } => None,
        }
    }
}

/// A source as it is written: every word of every kind, so that a word that fits none, or not there, is named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSource {
    user: Option<String>,
    column: Option<String>,
    row: Option<Relation>,
    workspace: Option<DefaultWorkspace>,
    by: Option<Columns>,
    to: Option<Columns>,
    r#where: Option<String>,
}

impl TryFrom<WrittenSource> for Source {
    type Error = String;

    fn try_from(written: WrittenSource) -> Result<Self, String> {
        let WrittenSource { user, column, row, workspace, by, to, r#where } = written;
        let one = |to: Option<Columns>| match to {
            None => Ok(None),
            Some(Columns(names)) => match <[String; 1]>::try_from(names) {
                Ok([name]) => Ok(Some(name)),
                Err(names) => Err(format!("`to` names one column here, and there are {}", names.len())),
            },
        };
        match (user, column, row, workspace, by) {
            (Some(user), None, None, None, None) => Ok(Self::User { user, to: one(to)?, r#where }),
            (None, Some(column), None, None, None) => Ok(Self::Column { column, to: one(to)?, r#where }),
            (None, None, Some(row), None, Some(by)) => Ok(Self::Row { row, by, to, r#where }),
            (None, None, Some(row), None, None) => Err(format!("{row}: `by` says which columns of this table refer to it")),
            (None, None, None, Some(workspace), None) if to.is_none() && r#where.is_none() => {
                Ok(Self::Workspace { workspace })
            }
            _ => Err("a source is one of { user = … }, { column = … }, { row = …, by = … } and { workspace = \"default\" }; the first three also take `to` and `where`".to_owned()),
        }
    }
}

/// The word `default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultWorkspace {
    /// The one of `[workspaces]`.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { user, .. } => write!(f, "user of {user}"),
            Self::Column { column, .. } => write!(f, "column {column}"),
            Self::Row { row, by, .. } => write!(f, "{row} by {by}"),
            Self::Workspace { .. } => f.write_str("default workspace"),
        }
    }
}

/// The text as a TOML string: basic strings of TOML escape as JSON does.
pub(super) fn toml_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Columns in TOML, as the plan takes them: one name, or an array of several.
pub(super) fn toml_columns(names: &[String]) -> String {
    let all: Vec<String> = names.iter().map(|name| toml_string(name)).collect();
    if let [one] = all.as_slice() { one.clone() } else { format!("[{}]", all.join(", ")) }
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// If the text is not a plan, with line and column.
    pub fn parse(text: &str) -> Result<Self> {
        let plan: Self = toml::from_str(text).map_err(|error| AdoptError::Plan(vec![error.to_string()]))?;
        let mut problems = Vec::new();
        let simple = |name: &str| {
            !name.is_empty()
                && name.len() <= 40
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
        };
        if !simple(&plan.name) {
            problems.push(format!("name = \"{}\": take 1 to 40 of a–z, 0–9, - and _", plan.name));
        }
        if plan.tables.is_empty() {
            problems.push("tables: the plan names none".to_owned());
        }
        if plan.workspaces.role == Role::Owner {
            problems.push("workspaces.role = \"OWNER\": not everybody can own the default workspace; name one person with `owner`".to_owned());
        }
        for table in &plan.shared {
            if *table == plan.users.table || plan.tables.iter().any(|adopted| adopted.table == *table) {
                problems.push(format!("shared: {table} is adopted, or holds the users: it cannot be everybody's"));
            }
        }
        for table in &plan.tables {
            if table.organization.is_empty() {
                problems.push(format!("{}: `organization` lists no source", table.table));
            }
            if table.organization.iter().any(|source| matches!(source, Source::Workspace { .. }))
                && !plan.workspaces.has_default()
            {
                problems
                    .push(format!("{}: the default workspace is a source, and `workspaces` makes none", table.table));
            }
            let twice = plan.tables.iter().filter(|other| other.table == table.table).count() > 1;
            if twice {
                problems.push(format!("{}: is listed twice", table.table));
            }
            if table.table == plan.users.table {
                problems.push(format!("{}: are the users; they belong to no one organization", table.table));
            }
        }
        if plan.memberships.is_some() && plan.organizations.is_none() {
            problems.push("memberships: need `[organizations]`, the table they refer to".to_owned());
        }
        if plan.users.current_organization.is_some() && plan.organizations.is_none() {
            problems.push("users.current_organization: needs `[organizations]`, the table it refers to".to_owned());
        }
        problems.sort();
        problems.dedup();
        if problems.is_empty() { Ok(plan) } else { Err(AdoptError::Plan(problems)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "name = 'x'\n[users]\ntable = 'legacy.users'\n[workspaces]\nusers_without = 'personal'\n";

    #[test]
    fn every_kind_of_source_is_read() {
        let text = format!(
            "{SMALLEST}newcomers = 'default'\n[[tables]]\ntable = 'legacy.a'\norganization = [{{ user = 'user_id' }}, {{ column = 'org', where = \"kind = 'Team'\" }}, {{ row = 'legacy.b', by = ['x', 'y'] }}, {{ workspace = 'default' }}]"
        );
        let plan = Plan::parse(&text).expect("a plan");
        let by = Columns(vec!["x".to_owned(), "y".to_owned()]);
        assert_eq!(
            plan.tables[0].organization,
            [
                Source::User { user: "user_id".to_owned(), to: None, r#where: None },
                Source::Column { column: "org".to_owned(), to: None, r#where: Some("kind = 'Team'".to_owned()) },
                Source::Row { row: Relation::new("legacy", "b"), by, to: None, r#where: None },
                Source::Workspace { workspace: DefaultWorkspace::Default },
            ]
        );
    }

    #[test]
    fn nonsense_is_named() {
        for (text, word) in [
            ("nmae = 'x'", "nmae"),
            ("name = 'x", "line 1"),
            (&format!("{SMALLEST}tables = []") as &str, "tables"),
            (&format!("{SMALLEST}[[tables]]\ntable = 'legacy.users'\norganization = []"), "are the users"),
            (&format!("{SMALLEST}[[tables]]\ntable = 'a'\norganization = [{{ workspace = 'default' }}]"), "makes none"),
            (&format!("{SMALLEST}[[tables]]\ntable = 'a.b.c'\norganization = [{{ user = 'u' }}]"), "too many parts"),
            (&format!("{SMALLEST}[[tables]]\ntable = 'a'\norganization = [{{ user = 'u', wher = 'x' }}]"), "wher"),
            (
                &format!("{SMALLEST}[[tables]]\ntable = 'a'\norganization = [{{ user = 'u', column = 'x' }}]"),
                "is one of",
            ),
            (&format!("{SMALLEST}[[tables]]\ntable = 'a'\norganization = [{{ row = 'b' }}]"), "`by` says"),
            (
                &format!("{SMALLEST}[[tables]]\ntable = 'a'\norganization = [{{ user = 'u', to = ['a', 'b'] }}]"),
                "one column",
            ),
            (&format!("{SMALLEST}role = 'OWNER'\n[[tables]]\ntable = 'a'\norganization = [{{ user = 'u' }}]"), "OWNER"),
        ] {
            let error = Plan::parse(text).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
