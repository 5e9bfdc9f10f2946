//! Checks, before anything is changed, that the plan fits the database and that the login may carry it out. Reports all
//! problems at once.

use std::collections::BTreeSet;

use super::catalogue::{Catalogue, Column, ForeignKey, TableInfo, did_you_mean};
use super::infer::reads_as;
use super::installed::Wanted;
use super::name::{Columns, Relation, quote};
use super::plan::{Plan, Source, Table};
use super::{AdoptError, COLUMN, OTHER_COLUMN, OwnerConnection, Result, catalogue, doing};

/// Why a partitioned table is refused.
const PARTITIONED: &str = "is partitioned, and such tables are not adopted: unique keys that begin with the organization cannot be built on one without blocking its writers, and nor can its foreign keys. Copy it into an ordinary table, or leave it out and let nobody but its owner read it";

/// A plan that fits the database.
#[derive(Clone, Debug)]
pub struct Checked {
    pub plan: Plan,
    /// The database.
    pub catalogue: Catalogue,
    /// The tables. Each stands after the tables it infers from.
    pub tables: Vec<CheckedTable>,
}

/// A table of the plan, found in the database.
#[derive(Clone, Debug)]
pub struct CheckedTable {
    /// What the plan says.
    pub spec: Table,
    /// What the database says.
    pub info: TableInfo,
    /// The columns that identify a row.
    pub key: Vec<Column>,
}

impl CheckedTable {
    /// The table.
    #[must_use]
    pub fn relation(&self) -> &Relation {
        &self.spec.table
    }

    /// The name of the table in the recorded state and in reports.
    #[must_use]
    pub fn label(&self) -> String {
        self.spec.table.to_string()
    }

    /// The column that holds the organization.
    #[must_use]
    pub fn column(&self) -> &str {
        self.spec.column.as_deref().unwrap_or(COLUMN)
    }

    /// Whether the column of the organization is there already.
    #[must_use]
    pub fn has_column(&self) -> bool {
        self.info.column(self.column()).is_some()
    }

    /// The key of a row as text, for the mapping and reports.
    #[must_use]
    pub fn key_text(&self, alias: &str) -> String {
        match self.key.as_slice() {
            [column] => format!("{alias}.{}::text", quote(&column.name)),
            columns => {
                let list: Vec<String> = columns.iter().map(|c| format!("{alias}.{}::text", quote(&c.name))).collect();
                format!("jsonb_build_array({})::text", list.join(", "))
            }
        }
    }

    /// A condition: the row under `alias` has the key that `text` holds.
    #[must_use]
    pub fn has_key(&self, alias: &str, text: &str) -> String {
        let equal =
            |column: &Column, value: &str| format!("{alias}.{} = ({value})::{}", quote(&column.name), column.data_type);
        match self.key.as_slice() {
            [column] => equal(column, text),
            columns => {
                let list: Vec<String> =
                    columns.iter().enumerate().map(|(n, c)| equal(c, &format!("({text})::jsonb ->> {n}"))).collect();
                list.join(" and ")
            }
        }
    }

    /// The columns of the key, quoted and prefixed with the alias.
    #[must_use]
    pub fn key_columns(&self, alias: &str) -> Vec<String> {
        self.key.iter().map(|column| format!("{alias}.{}", quote(&column.name))).collect()
    }

    /// Whether a foreign key stays what it was, and may lead to other tenants.
    #[must_use]
    pub fn stays_plain(&self, columns: &[String]) -> bool {
        self.spec.plain.iter().any(|Columns(names)| names == columns)
    }

    /// Whether rows of the table tell the organization of others in it.
    #[must_use]
    pub fn asks_itself(&self) -> bool {
        self.spec.organization.iter().any(|source| matches!(source, Source::Row { row, .. } if row == self.relation()))
    }

    /// Columns that the sources of this table read.
    #[must_use]
    pub fn source_columns(&self) -> BTreeSet<&str> {
        self.spec
            .organization
            .iter()
            .flat_map(|source| match source {
                Source::User { user: column, .. } | Source::Column { column, .. } => vec![column.as_str()],
                Source::Row { by, .. } => by.0.iter().map(String::as_str).collect(),
                Source::Workspace { .. } => Vec::new(),
            })
            .collect()
    }
}

/// Checks the plan against the database.
pub async fn check(session: &mut OwnerConnection, plan: Plan, wanted: Wanted) -> Result<Checked> {
    let catalogue = catalogue::read(session.conn()).await.map_err(doing("reading the catalogue"))?;
    let who: String = sqlx::query_scalar("select current_user::text")
        .fetch_one(session.conn())
        .await
        .map_err(doing("asking who we are"))?;
    let mut checker = Checker { catalogue: &catalogue, problems: Vec::new() };
    checker.people(&plan);
    let found: Vec<CheckedTable> = plan.tables.iter().filter_map(|table| checker.table(&plan, table)).collect();
    let Checker { mut problems, .. } = checker;
    for relation in &plan.shared {
        if catalogue.get(relation).is_none_or(|info| info.kind == "v") {
            problems.push(format!("shared: {relation}: there is no such table"));
        }
    }
    for table in &found {
        if wanted != Wanted::Read && !table.info.owned {
            let owner = &table.info.owner;
            problems.push(format!(
                "{}: belongs to {owner}, and {who} may not change it: `grant {} to {}`, or let MIGRATION_DATABASE_URL log in as the owner",
                table.spec.table, quote(owner), quote(&who)
            ));
        }
    }
    for relation in read_by(&plan) {
        if catalogue.get(relation).is_some_and(|info| !info.readable) {
            problems.push(format!(
                "{relation}: {who} may not read it: `grant usage on schema {} to {1}; grant select on {2} to {1}`",
                quote(&relation.schema),
                quote(&who),
                relation.sql()
            ));
        }
    }
    if wanted != Wanted::TakeBack {
        problems.extend(hidden(&catalogue, &plan, &who));
    }
    if problems.is_empty() {
        problems.extend(conditions(session, &plan).await?);
    }
    if plan.quiet_triggers {
        let allowed: bool =
            sqlx::query_scalar("select has_parameter_privilege(current_user, 'session_replication_role', 'set')")
                .fetch_one(session.conn())
                .await
                .map_err(doing("asking what we may set"))?;
        if !allowed {
            problems.push(format!(
                "quiet_triggers: {0} may not set session_replication_role: `grant set on parameter session_replication_role to {0}`, as the database's administrator, for the time of the adoption",
                quote(&who)
            ));
        }
    }
    problems.dedup();
    if !problems.is_empty() {
        return Err(AdoptError::Plan(problems));
    }
    let tables = in_order(found)?;
    Ok(Checked { plan, catalogue, tables })
}

/// The tables that the plan reads.
fn read_by(plan: &Plan) -> impl Iterator<Item = &Relation> {
    let read = plan.tables.iter().map(|table| &table.table).chain([&plan.users.table]);
    read.chain(plan.organizations.iter().map(|o| &o.table)).chain(plan.memberships.iter().map(|m| &m.table))
}

/// Tables of which this login would see some rows only, and take them for all.
fn hidden(catalogue: &Catalogue, plan: &Plan, who: &str) -> Vec<String> {
    let found = read_by(plan).filter_map(|relation| catalogue.get(relation)).filter(|info| info.hidden);
    found
        .map(|info| {
            let (relation, sql, who) = (info.relation(), info.relation().sql(), quote(who));
            let open = if info.owned && info.force_row_security {
                format!("it binds its owner as well. For the time of the adoption: `alter table {sql} no force row level security`")
            } else {
                format!("for the time of the adoption: `create policy adopt_reads on {sql} to {who} using (true) with check (true)`, or `alter role {who} bypassrls`")
            };
            format!("{relation}: row-level security hides rows from {who}, and what is not seen would get no organization: {open}")
        })
        .collect()
}

/// Tries the conditions of the plan on the columns of their tables.
async fn conditions(session: &mut OwnerConnection, plan: &Plan) -> Result<Vec<String>> {
    let mut tried = Vec::new();
    tried.extend(plan.users.r#where.iter().map(|_| ("users.where".to_owned(), plan.users.rows())));
    let named = |name: &str, rows: String| (name.to_owned(), rows);
    tried.extend(
        plan.organizations.iter().filter(|o| o.r#where.is_some()).map(|o| named("organizations.where", o.rows())),
    );
    tried.extend(plan.memberships.iter().filter(|m| m.r#where.is_some()).map(|m| named("memberships.where", m.rows())));
    for table in &plan.tables {
        for source in &table.organization {
            let Some(condition) = source.condition() else { continue };
            let rows = format!("(select ({condition})::boolean from {})", table.table.sql());
            tried.push((format!("{}: {source}: where", table.table), rows));
        }
    }
    let mut problems = Vec::new();
    for (name, rows) in tried {
        // Prepared and not run: a text of several statements is refused, and nothing is evaluated.
        let sql = format!("select from {rows} x");
        match sqlx::Executor::prepare(session.conn(), sqlx::SqlSafeStr::into_sql_str(sqlx::AssertSqlSafe(sql))).await {
            Ok(_) => {}
            Err(sqlx::Error::Database(error)) => problems.push(format!("{name}: {}", error.message())),
            Err(error) => return Err(doing("trying the conditions of the plan")(error)),
        }
    }
    Ok(problems)
}

struct Checker<'a> {
    catalogue: &'a Catalogue,
    problems: Vec<String>,
}

impl<'a> Checker<'a> {
    fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    fn find(&mut self, relation: &Relation) -> Option<&'a TableInfo> {
        let found = self.catalogue.get(relation);
        if found.is_none() {
            let names: Vec<String> = self.catalogue.keys().map(ToString::to_string).collect();
            let elsewhere = self.catalogue.keys().find(|known| known.name == relation.name).map(ToString::to_string);
            let hint = elsewhere
                .or_else(|| did_you_mean(&relation.to_string(), names.iter().map(String::as_str)).map(str::to_owned))
                .map_or_else(String::new, |name| format!("; did you mean {name}?"));
            self.problem(format!("{relation}: there is no such table{hint}"));
        }
        found
    }

    fn column(&mut self, info: &'a TableInfo, name: &str) -> Option<&'a Column> {
        let found = info.column(name);
        if found.is_none() {
            let hint = did_you_mean(name, info.columns.iter().map(|column| column.name.as_str()))
                .map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
            self.problem(format!("{}: has no column `{name}`{hint}", info.relation()));
        }
        found
    }

    fn single_key(&mut self, info: &'a TableInfo, name: &str) {
        if self.column(info, name).is_some() && !info.keys.iter().any(|key| key.columns == [name]) {
            self.problem(format!(
                "{}: `{name}` does not identify a row: it needs a primary key or unique index of its own, and not null",
                info.relation()
            ));
        }
    }

    /// A column that holds values of a unique column of another table. Where a foreign key of the column says which one, it is
    /// that one: looking in another finds other rows, and says nothing.
    fn reference(&mut self, info: &'a TableInfo, column: &str, target: &Relation, to: &str, typed: bool) {
        let Some(mine) = self.column(info, column) else { return };
        let Some(other) = self.catalogue.get(target) else { return };
        let relation = info.relation();
        let key = info.foreign_keys.iter().find(|key| key.columns == [column] && key.target() == *target);
        if let Some(key) = key
            && key.target_columns != [to]
        {
            let really = key.target_columns.join(", ");
            self.problem(format!(
                "{relation}: `{column}` refers to `{really}` of {target}, not to `{to}`: add `to = \"{really}\"`"
            ));
            return;
        }
        // The table may itself stand for the one that the key refers to, as profiles do for users.
        let stands_for = |key: &ForeignKey| {
            let mut own = other.foreign_keys.iter().filter(|own| own.columns == [to]);
            own.any(|own| own.target() == key.target() && own.target_columns == key.target_columns)
        };
        // One of several keys of the column is enough.
        let elsewhere = info.foreign_keys.iter().find(|key| key.columns == [column]);
        if let Some(key) = elsewhere.filter(|elsewhere| key.is_none() && !stands_for(elsewhere)) {
            self.problem(format!("{relation}: `{column}` refers to {}, not to {target}", key.target()));
            return;
        }
        if let Some(theirs) = self.column(other, to) {
            if typed && type_family(mine) != type_family(theirs) {
                self.problem(format!(
                    "{relation}: `{column}` is {}, and `{to}` of {target} is {}: the two cannot be compared",
                    mine.data_type, theirs.data_type
                ));
            }
            self.single_key(other, to);
        }
    }

    fn people(&mut self, plan: &Plan) {
        let users = &plan.users;
        if let Some(info) = self.find(&users.table) {
            self.single_key(info, &users.id);
            for column in [&users.email, &users.name, &users.clerk_id].into_iter().flatten() {
                self.column(info, column);
            }
            if let (Some(column), Some(organizations)) = (&users.current_organization, &plan.organizations) {
                let to = users.current_organization_to.as_ref().unwrap_or(&organizations.id);
                self.reference(info, column, &organizations.table, to, false);
            }
        }
        if let Some(organizations) = &plan.organizations
            && let Some(info) = self.find(&organizations.table)
        {
            self.single_key(info, &organizations.id);
            self.column(info, &organizations.name);
            if let Some(owner) = &organizations.owner {
                let to = organizations.owner_to.as_ref().unwrap_or(&users.id);
                self.reference(info, owner, &users.table, to, true);
            }
            if let Some(column) = &organizations.slug {
                self.column(info, column);
            }
        }
        if let Some(memberships) = &plan.memberships
            && let Some(info) = self.find(&memberships.table)
        {
            let to = memberships.user_to.as_ref().unwrap_or(&users.id);
            self.reference(info, &memberships.user, &users.table, to, true);
            if let Some(organizations) = &plan.organizations {
                let to = memberships.organization_to.as_ref().unwrap_or(&organizations.id);
                self.reference(info, &memberships.organization, &organizations.table, to, false);
            }
            if let Some(column) = &memberships.role {
                self.column(info, column);
            }
            if let Some(primary) = &memberships.primary
                && let Some(column) = self.column(info, primary)
                && column.data_type != "boolean"
            {
                self.problem(format!(
                    "{}: `{primary}` is {}; `primary` takes a boolean column",
                    info.relation(),
                    column.data_type
                ));
            }
        }
    }

    fn table(&mut self, plan: &Plan, table: &Table) -> Option<CheckedTable> {
        let relation = &table.table;
        let info = self.find(relation)?;
        if info.kind != "r" {
            let what = match info.kind.as_str() {
                "p" => PARTITIONED,
                "f" => "is in another database",
                _ => "is a view: adopt the tables under it",
            };
            self.problem(format!("{relation}: {what}"));
            return None;
        }
        if let Some(parent) = &info.partition_of {
            self.problem(format!(
                "{relation}: is a partition of {parent}, whose rows and columns it shares. {parent} {PARTITIONED}"
            ));
            return None;
        }
        if !info.relatives.is_empty() {
            let relatives = info.relatives.join(", ");
            self.problem(format!(
                "{relation}: inherits from, or is inherited by, {relatives}. A statement on the parent reaches the rows of its children, and a row's place is unique in its own table only: it cannot be adopted. Make it ordinary tables first (`alter table … no inherit …`), or copy its rows into one"
            ));
            return None;
        }
        let own = table.column.as_deref().unwrap_or(COLUMN);
        if let Some(column) = info.column(own)
            && column.data_type != "uuid"
        {
            self.problem(format!(
                "{relation}: has a column {own} of type {}, and Tenantry's is uuid. Yours can stay and be a source ({{ column = \"{own}\" }}): give ours another name, `column = \"{OTHER_COLUMN}\"`",
                column.data_type
            ));
        }
        for source in &table.organization {
            self.source(plan, info, source);
        }
        if table.with_user {
            match table.organization.as_slice() {
                [Source::User { user, .. }] if !info.indexed.contains(user) => self.problem(format!(
                    "{relation}: `with_user` looks up a user's rows, and no index begins with `{user}`: `create index concurrently on {} ({})`, or leave `with_user` out",
                    relation.sql(), quote(user)
                )),
                [Source::User { .. }] => {}
                _ => self.problem(format!("{relation}: `with_user` needs the user to be the only source")),
            }
        }
        let roots = |source: &Source| !matches!(source, Source::Row { row, .. } if row == relation);
        if !table.organization.is_empty() && !table.organization.iter().any(roots) {
            self.problem(format!(
                "{relation}: the inference goes in a circle: {relation} → {relation}. Its only source are rows of its own; what says whose the first of them is?"
            ));
        }
        for Columns(names) in &table.plain {
            let shown = names.join(", ");
            if !info.foreign_keys.iter().any(|key| key.columns == *names) {
                self.problem(format!("{relation}: plain: there is no foreign key of ({shown})"));
            }
            if table.organization.iter().any(|source| matches!(source, Source::Row { by, .. } if by.0 == *names)) {
                self.problem(format!(
                    "{relation}: plain: ({shown}) is a source as well: a row is in the organization of what it refers to, or it may refer to any"
                ));
            }
        }
        let ours = super::trigger::trigger_name(&plan.name);
        if let Some(later) = info.before_triggers.iter().find(|name| name.as_bytes() > ours.as_bytes()) {
            let first = later.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
            self.problem(format!(
                "{relation}: its trigger {} would fire after the one that looks for the organization, and may change what that has seen: `alter trigger {} on {} rename to {}`",
                quote(later), quote(later), relation.sql(), quote(if first.is_empty() { "before_adopt" } else { first })
            ));
        }
        for Columns(names) in &table.unique_per_tenant {
            let wanted: BTreeSet<&String> = names.iter().collect();
            let same = |columns: &[String]| columns.iter().collect::<BTreeSet<_>>() == wanted;
            let ours = |columns: &[String]| columns.first().is_some_and(|first| first == own);
            // Once it is done, the key begins with the organization.
            let known = info.unique.iter().any(|columns| same(columns) || ours(columns) && same(&columns[1..]));
            let shown = names.join(", ");
            if !known {
                self.problem(format!("{relation}: unique_per_tenant: there is no unique key of ({shown})"));
            } else if info.keys.iter().any(|key| key.primary && same(&key.columns)) {
                self.problem(format!("{relation}: unique_per_tenant: ({shown}) is the primary key, which identifies rows here; give the table another first"));
            } else if let Some(other) = self.catalogue.values().find(|other| {
                other.foreign_keys.iter().any(|key| key.target() == *relation && same(&key.target_columns))
            }) {
                self.problem(format!(
                    "{relation}: unique_per_tenant: ({shown}) is what {} refers to",
                    other.relation()
                ));
            }
        }
        let key = self.key(table, info)?;
        Some(CheckedTable { spec: table.clone(), info: info.clone(), key })
    }

    fn key(&mut self, table: &Table, info: &'a TableInfo) -> Option<Vec<Column>> {
        let relation = &table.table;
        let names = if let Some(Columns(names)) = &table.key {
            let known = names.iter().filter(|name| self.column(info, name).is_some()).count();
            let wanted: BTreeSet<&String> = names.iter().collect();
            if known == names.len()
                && !info.keys.iter().any(|key| key.columns.iter().collect::<BTreeSet<_>>() == wanted)
            {
                self.problem(format!(
                    "{relation}: `key` must name all columns of a unique index, none of them nullable"
                ));
            }
            names.clone()
        } else {
            let Some(names) = info.key() else {
                // A ctid changes with every update: neither a checkpoint nor a mapping can use it.
                self.problem(format!(
                        "{relation}: nothing identifies its rows. Give it a key: `alter table {} add column adopt_key bigint generated always as identity primary key` (rewrites the table under a lock; on a big one add the column nullable, fill it in batches, `create unique index concurrently`, then set not null)",
                        relation.sql()
                    ));
                return None;
            };
            names.to_vec()
        };
        Some(names.iter().filter_map(|name| info.column(name).cloned()).collect())
    }

    fn source(&mut self, plan: &Plan, info: &'a TableInfo, source: &Source) {
        match source {
            Source::User { user, to, .. } => {
                let key = to.as_ref().unwrap_or(&plan.users.id);
                self.reference(info, user, &plan.users.table, key, to.is_some());
            }
            Source::Column { column, to, .. } => {
                if let Some(organizations) = &plan.organizations {
                    let to = to.as_ref().unwrap_or(&organizations.id);
                    self.reference(info, column, &organizations.table, to, false);
                } else if to.is_some() {
                    self.problem(format!(
                        "{}: `{column}`: `to` names a column of `[organizations]`, and there is none",
                        info.relation()
                    ));
                }
                if let Some(found) = self.column(info, column)
                    && plan.organizations.is_none()
                    && found.data_type != "uuid"
                {
                    self.problem(format!("{}: `{column}` is {} and there is no `[organizations]` to look it up in; without, the column must hold ids of Tenantry's organizations (uuid)", info.relation(), found.data_type));
                }
            }
            Source::Row { row, by, to, .. } => {
                let columns: Vec<Option<&Column>> = by.0.iter().map(|name| self.column(info, name)).collect();
                let Some(target) = self.find(row) else { return };
                if *row == plan.users.table {
                    self.problem(format!("{}: {row} are the users; write {{ user = \"{by}\" }}", info.relation()));
                    return;
                }
                if !plan.tables.iter().any(|table| table.table == *row) {
                    self.problem(format!(
                        "{}: asks rows of {row} for their organization, and {row} is not among `tables`",
                        info.relation()
                    ));
                    return;
                }
                let names = to.as_ref().map_or_else(|| target.key().unwrap_or_default(), |to| to.0.as_slice());
                for name in names {
                    self.column(target, name);
                }
                let wanted: BTreeSet<&String> = names.iter().collect();
                if !target.keys.iter().any(|key| key.columns.iter().collect::<BTreeSet<_>>() == wanted)
                    || names.len() != by.0.len()
                {
                    self.problem(format!(
                        "{}: `{by}` must refer to a whole unique key of {row}; name its columns with `to`",
                        info.relation()
                    ));
                    return;
                }
                for (mine, theirs) in columns.iter().zip(names.iter().map(|name| target.column(name))) {
                    if let (Some(mine), Some(theirs)) = (mine, theirs)
                        && type_family(mine) != type_family(theirs)
                        // Only where a condition says of which rows it is the key.
                        && (source.condition().is_none() || reads_as(mine, theirs).is_none())
                    {
                        self.problem(format!(
                            "{}: `{}` is {}, {row}'s `{}` is {}: the two cannot be compared",
                            info.relation(),
                            mine.name,
                            mine.data_type,
                            theirs.name,
                            theirs.data_type
                        ));
                    }
                }
            }
            Source::Workspace { .. } => {}
        }
    }
}

/// The family of a type: types of one family can be compared.
pub(super) fn type_family(column: &Column) -> &str {
    let data_type = column.base_type.as_str();
    match data_type.split('(').next().unwrap_or(data_type) {
        "smallint" | "integer" | "bigint" | "numeric" => "number",
        "text" | "character varying" | "character" => "text",
        other => other,
    }
}

/// Orders the tables so that each stands after the tables it infers from. Refuses circles.
fn in_order(mut waiting: Vec<CheckedTable>) -> Result<Vec<CheckedTable>> {
    let mut done: Vec<CheckedTable> = Vec::new();
    while !waiting.is_empty() {
        let (ready, rest): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|table| source_tables(table).all(|asked| done.iter().any(|known| known.relation() == asked)));
        if ready.is_empty() {
            let mut path = vec![rest[0].relation()];
            // Every remaining table waits for another remaining one, so following them finds the circle.
            while let Some(last) = path.last().and_then(|last| rest.iter().find(|table| table.relation() == *last)) {
                let Some(next) = source_tables(last).find(|asked| rest.iter().any(|table| table.relation() == *asked))
                else {
                    break;
                };
                if let Some(start) = path.iter().position(|seen| *seen == next) {
                    path.drain(..start);
                    path.push(next);
                    break;
                }
                path.push(next);
            }
            let path: Vec<String> = path.into_iter().map(ToString::to_string).collect();
            return Err(AdoptError::Plan(vec![format!(
                "the inference goes in a circle: {}. Take one of these sources out, or give the table another",
                path.join(" → ")
            )]));
        }
        done.extend(ready);
        waiting = rest;
    }
    Ok(done)
}

fn source_tables(table: &CheckedTable) -> impl Iterator<Item = &Relation> {
    table.spec.organization.iter().filter_map(|source| match source {
        // Rows of its own are filled from the root of their tree on.
        Source::Row { row, .. } if row != table.relation() => Some(row),
        _ => None,
    })
}
