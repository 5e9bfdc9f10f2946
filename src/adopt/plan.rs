//! The plan: a TOML file that says which tables become tenant-scoped and where the organization of each row is from.
//!
//! `tenantry adopt plan` writes a first one. Names are those of the catalogue, exactly; a name with a dot in it stands
//! in double quotes: `legacy."odd.name"`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::name::{Columns, Relation};
use super::{AdoptError, Result};

/// The whole plan.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Under this name its state is kept; one name per adoption.
    pub name: String,
    /// The users.
    pub users: Users,
    /// Organizations that the legacy database has already.
    pub organizations: Option<Organizations>,
    /// Who belongs to which of them.
    pub memberships: Option<Memberships>,
    /// What happens to users without one.
    pub workspaces: Workspaces,
    /// The tables that become tenant-scoped.
    pub tables: Vec<Table>,
    /// Roles that keep seeing all rows after `finalize`, until the cut-over: the logins of the old application.
    #[serde(default)]
    pub keep_access: Vec<String>,
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
    /// To read.
    Select,
    /// To add.
    Insert,
    /// To change.
    Update,
    /// To remove.
    Delete,
}

impl Grant {
    /// The word of SQL.
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
    /// The table.
    pub table: Relation,
    /// Its key, one column.
    #[serde(default = "id")]
    pub id: String,
    /// The e-mail address.
    pub email: Option<String>,
    /// The name.
    pub name: Option<String>,
    /// The id at the identity provider, if it is known.
    pub clerk_id: Option<String>,
    /// The key of the organization the user works in at the moment.
    pub current_organization: Option<String>,
    /// Whose rows a user's rows are when the current organization is not the primary one. Without: nobody's, it is reported.
    pub prefer: Option<Prefer>,
}

/// What decides between the current and the primary organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Prefer {
    /// The one the user works in.
    Current,
    /// The one marked as primary among the memberships.
    Primary,
}

fn id() -> String {
    "id".to_owned()
}

/// Where the legacy organizations are.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Organizations {
    /// The table.
    pub table: Relation,
    /// Its key, one column.
    #[serde(default = "id")]
    pub id: String,
    /// The name.
    #[serde(default = "name")]
    pub name: String,
    /// The slug; without, it is made of the name.
    pub slug: Option<String>,
    /// One with the UUID of an organization that is there already is that organization: members and roles join it.
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
    /// The table.
    pub table: Relation,
    /// The column with the user's key.
    pub user: String,
    /// The column with the organization's key.
    pub organization: String,
    /// A boolean column that marks a user's primary organization.
    pub primary: Option<String>,
    /// The column with the role.
    pub role: Option<String>,
    /// What its values mean; others, and no column, mean MEMBER.
    #[serde(default)]
    pub roles: BTreeMap<String, Role>,
}

/// A role in an organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Role {
    /// May do everything.
    Owner,
    /// May do all but own.
    Admin,
    /// Works here.
    Member,
    /// Looks.
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
    /// Nothing: their rows are reported.
    Leave,
}

impl Policy {
    /// The word of the plan.
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
    /// Those who are there.
    pub users_without: Policy,
    /// Those who register in the old application while it still runs; as `users_without` when not given.
    pub newcomers: Option<Policy>,
    /// Slug of the default workspace.
    #[serde(default = "default_slug")]
    pub slug: String,
    /// Name of the default workspace.
    #[serde(default = "default_name")]
    pub name: String,
    /// Everybody's role in the default workspace.
    #[serde(default = "admin")]
    pub role: Role,
    /// E-mail address of the one who becomes OWNER of the default workspace.
    pub owner: Option<String>,
    /// Use an organization with that slug that is there already.
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
    /// The table.
    pub table: Relation,
    /// Where the organization of a row is from. All that know one must agree, else the row is reported.
    pub organization: Vec<Source>,
    /// What identifies a row, if not the primary key: columns that are unique and not null.
    pub key: Option<Columns>,
    /// Assign a user's rows in the transaction that gives the user an organization.
    #[serde(default)]
    pub with_user: bool,
}

/// One way to know the organization of a row.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Source {
    /// The row's user.
    User {
        /// The column with the user's key.
        user: String,
    },
    /// A column with an organization's key.
    Column {
        /// The column.
        column: String,
    },
    /// Another table's row that this one refers to.
    Row {
        /// That table.
        row: Relation,
        /// The columns that hold its key.
        by: Columns,
        /// The columns referred to, if not that table's primary key.
        to: Option<Columns>,
    },
    /// The default workspace, when no other source knows.
    Workspace {
        /// Only `default`.
        workspace: DefaultWorkspace,
    },
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
            Self::User { user } => write!(f, "user of {user}"),
            Self::Column { column } => write!(f, "column {column}"),
            Self::Row { row, by, .. } => write!(f, "{row} by {by}"),
            Self::Workspace { .. } => f.write_str("default workspace"),
        }
    }
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// With line and column, when it is not a plan.
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
            "{SMALLEST}newcomers = 'default'\n[[tables]]\ntable = 'legacy.a'\norganization = [{{ user = 'user_id' }}, {{ column = 'org' }}, {{ row = 'legacy.b', by = ['x', 'y'] }}, {{ workspace = 'default' }}]"
        );
        let plan = Plan::parse(&text).expect("a plan");
        let by = Columns(vec!["x".to_owned(), "y".to_owned()]);
        assert_eq!(
            plan.tables[0].organization,
            [
                Source::User { user: "user_id".to_owned() },
                Source::Column { column: "org".to_owned() },
                Source::Row { row: Relation::new("legacy", "b"), by, to: None },
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
            (&format!("{SMALLEST}role = 'OWNER'\n[[tables]]\ntable = 'a'\norganization = [{{ user = 'u' }}]"), "OWNER"),
        ] {
            let error = Plan::parse(text).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
