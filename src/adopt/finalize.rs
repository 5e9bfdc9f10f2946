//! Enforces tenancy: every row has an organization, no reference leaves it, and row-level security holds.
//!
//! Statements that scan a table (`VALIDATE`, `CREATE INDEX CONCURRENTLY`) do not block writers. Statements that block
//! them are short and wait for their lock with a limit. Every step is recorded with its undo, and skipped when done.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;
use sqlx::AssertSqlSafe;

use super::catalogue::ForeignKey;
use super::check::{Checked, CheckedTable, check};
use super::installed::{Wanted, check_installed, refuse_open_schemas};
use super::name::{literal, quote, short_name};
use super::owner_connection::LOCK_TIMEOUT;
use super::plan::toml_string;
use super::run::{is_made, make, record};
use super::trigger::{SchemaChange, THEN};
use super::{AdoptError, OwnerConnection, Plan, Result, doing, policies, verify};
use crate::error::Code;

/// How the record names a key that became a tenant's own: its full name follows, and the table.
pub(super) const KEY: &str = "key ";

/// Findings that a refusal names.
const SHOWN: usize = 20;

/// How to finalize.
#[derive(Clone, Debug)]
pub struct FinalizeOptions {
    /// How long a change waits for its lock. Others queue behind it meanwhile.
    pub lock_timeout: Duration,
    /// The old application no longer writes: remove its triggers and policies.
    pub cut_over: bool,
}

impl Default for FinalizeOptions {
    fn default() -> Self {
        Self { lock_timeout: LOCK_TIMEOUT, cut_over: false }
    }
}

/// What was enforced.
#[derive(Clone, Debug, Serialize)]
pub struct Finalized {
    /// The name of the adoption.
    pub name: String,
    /// Changes made now.
    pub changes: Vec<String>,
}

/// Enforces the tenancy of the plan's tables.
pub async fn finalize(session: &mut OwnerConnection, plan: Plan, options: &FinalizeOptions) -> Result<Finalized> {
    check_installed(session, Wanted::Write).await?;
    session.lock(&plan.name.clone()).await?;
    let checked = check(session, plan, Wanted::Write).await?;
    refuse_open_schemas(session).await?;
    let cut_over: bool = sqlx::query_scalar(
        "select coalesce(bool_or(cut_over_at is not null), false) from tenantry.adoptions where name = $1",
    )
    .bind(&checked.plan.name)
    .fetch_one(session.conn())
    .await
    .map_err(doing("reading the state of the adoption"))?;
    let options = &FinalizeOptions { cut_over: options.cut_over || cut_over, ..options.clone() };
    ready(session, &checked, options).await?;
    let mut work = Work { session, checked: &checked, options, changes: Vec::new() };
    for table in &checked.tables {
        work.not_null(table).await?;
        work.index(table).await?;
        work.tenants_keys(table).await?;
    }
    // All indexes first: foreign keys of one table need the unique indexes of another.
    for table in &checked.tables {
        work.foreign_keys(table).await?;
    }
    work.schemas().await?;
    for table in &checked.tables {
        work.row_security(table).await?;
    }
    work.shared().await?;
    if options.cut_over {
        work.cut_over().await?;
    }
    let Work { changes, .. } = work;
    if !changes.is_empty() {
        sqlx::query("update tenantry.adoptions set finalized_at = coalesce(finalized_at, now()) where name = $1")
            .bind(&checked.plan.name)
            .execute(session.conn())
            .await
            .map_err(doing("recording the end"))?;
    }
    Ok(Finalized { name: checked.plan.name.clone(), changes })
}

/// Refuses while rows have no organization, and while row-level security would hide all rows from a login.
async fn ready(session: &mut OwnerConnection, checked: &Checked, options: &FinalizeOptions) -> Result<()> {
    let mut problems = Vec::new();
    for table in &checked.tables {
        if !table.has_column() {
            return Err(AdoptError::refused(
                Code::NotReady,
                format!("{}: has no {} yet: `tenantry adopt run` comes first", table.label(), table.column()),
            ));
        }
        let count = format!("select count(*) from {} where {} is null", table.relation().sql(), quote(table.column()));
        let without: i64 =
            sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(session.conn()).await.map_err(doing("counting rows"))?;
        if without > 0 {
            problems.push(format!("{}: {without} rows have no organization. `tenantry adopt verify` lists them and why; set {} for them, or delete them, or run `tenantry adopt run` again for those that came since", table.label(), table.column()));
        }
    }
    problems.extend(access(session, checked, options.cut_over).await?);
    if problems.is_empty() {
        let findings = verify::blocking(session, checked).await?;
        let more = findings.len().saturating_sub(SHOWN);
        let shown = findings.iter().take(SHOWN).map(|finding| {
            format!(
                "{}: {}. (To go on all the same: `accept = [{}]`)",
                finding.subject,
                finding.problem,
                toml_string(&finding.name())
            )
        });
        problems.extend(shown);
        if more > 0 {
            problems.push(format!("and {more} more: `tenantry adopt verify` lists them"));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(AdoptError::refused(Code::NotReady, problems.join("\n"))) }
}

/// Who would see all rows or none: policies, grants and owners that row-level security does not fit. It does not need the run.
pub async fn access(session: &mut OwnerConnection, checked: &Checked, cut_over: bool) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for table in &checked.tables {
        let before = policies::security_before(session, checked, table).await?;
        problems.extend(policies::problems(session, checked, table, before).await?);
        // Where row-level security was enabled before, only the owner loses access.
        let mut blind: Vec<&String> = table
            .info
            .grantees
            .iter()
            .filter(|role| !before.enabled && *role != "public" && !checked.plan.keep_access.contains(role))
            .collect();
        if !before.enabled && !cut_over && table.info.grantees.iter().any(|role| role == "public") {
            problems.push(format!(
                "{}: is granted to PUBLIC, and row-level security would hide all rows from it. No policy can keep that: it would hold for tenantry_app as well. Name the old application's login instead: `grant select, insert, update, delete on {1} to <its login>; revoke all on {1} from public`, and list it in keep_access",
                table.label(),
                table.relation().sql()
            ));
        }
        // The login of this command sees all rows as a member of tenantry_superadmin.
        let superadmin: bool = sqlx::query_scalar("select pg_has_role($1, 'tenantry_superadmin', 'usage') or rolsuper or rolbypassrls from pg_roles where rolname = $1")
            .bind(&table.info.owner)
            .fetch_optional(session.conn())
            .await
            .map_err(doing("looking at the owner"))?
            .unwrap_or(false);
        let had_its_own = before.enabled && before.forced;
        if !superadmin && !had_its_own && !checked.plan.keep_access.contains(&table.info.owner) {
            blind.push(&table.info.owner);
        }
        if !blind.is_empty() && !cut_over {
            let list: Vec<String> = blind.iter().map(|role| format!("\"{role}\"")).collect();
            problems.push(format!(
                "{}: row-level security would hide all rows from {}. While the old application runs, write `keep_access = [{}]` into the plan (before the first table); when it is gone, add --cut-over",
                table.label(),
                blind.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", "),
                list.join(", ")
            ));
        }
    }
    if !cut_over {
        problems.extend(policies::shared_with_the_api(session, checked).await?);
    }
    Ok(problems)
}

/// A unique key that becomes a tenant's own.
#[derive(sqlx::FromRow)]
struct OldKey {
    name: String,
    /// If it is a constraint.
    definition: Option<String>,
    index: String,
    is_identity: bool,
    comment: Option<String>,
    index_comment: Option<String>,
}

struct Work<'a> {
    session: &'a mut OwnerConnection,
    checked: &'a Checked,
    options: &'a FinalizeOptions,
    changes: Vec<String>,
}

impl Work<'_> {
    async fn run_locked(&mut self, change: SchemaChange) -> Result<()> {
        let adoption = &self.checked.plan.name;
        if !is_made(self.session, adoption, &change).await? {
            make(self.session, adoption, self.options.lock_timeout, &change).await?;
            self.changes.push(change.what);
        }
        Ok(())
    }

    /// A step outside of a transaction. It is recorded before it is done: its undo is harmless if the step never ran.
    async fn run_concurrent(&mut self, change: SchemaChange) -> Result<()> {
        let adoption = &self.checked.plan.name;
        if !is_made(self.session, adoption, &change).await? {
            let pending = record(adoption, &change.pending());
            self.session.run_locked(&change.what, self.options.lock_timeout, &[pending]).await?;
            self.session.run_concurrent(&change.what, &change.statements).await?;
            self.session.run_locked(&change.what, self.options.lock_timeout, &[record(adoption, &change)]).await?;
            self.changes.push(change.what);
        }
        Ok(())
    }

    /// A validated check lets `set not null` skip its scan.
    async fn not_null(&mut self, table: &CheckedTable) -> Result<()> {
        let sql = table.relation().sql();
        let column = quote(table.column());
        let name = quote(&format!("adopt_{}_not_null", self.checked.plan.name));
        let already = table.info.column(table.column()).is_some_and(|column| column.not_null);
        if already {
            return Ok(());
        }
        let adoption = &self.checked.plan.name;
        let drop_it = format!("alter table if exists {sql} drop constraint if exists {name}");
        let change = SchemaChange {
            what: format!("not null on {sql}"),
            statements: vec![format!("alter table {sql} alter column {column} set not null"), drop_it.clone()],
            undo: format!("{drop_it}; alter table if exists {sql} alter column {column} drop not null"),
        };
        let timeout = self.options.lock_timeout;
        let add = [
            record(adoption, &change.pending()),
            drop_it.clone(),
            format!("alter table {sql} add constraint {name} check ({column} is not null) not valid"),
        ];
        self.session.run_locked(&change.what, timeout, &add).await?;
        let validate = format!("alter table {sql} validate constraint {name}");
        if let Err(error) = self.session.run_concurrent(&change.what, &[validate]).await {
            // The check would refuse rows of the old application from now on.
            self.session.run_locked(&change.what, timeout, &[drop_it]).await?;
            return Err(match error {
                AdoptError::Database { source: sqlx::Error::Database(ref database), .. }
                    if database.code().as_deref() == Some("23514") =>
                {
                    let label = table.label();
                    AdoptError::refused(
                        Code::NotReady,
                        format!(
                            "{label}: rows came meanwhile that have no organization. Nothing is enforced on it yet: `tenantry adopt run`, then `tenantry adopt verify` lists what is left, then this command again"
                        ),
                    )
                }
                error => error,
            });
        }
        make(self.session, adoption, timeout, &change).await?;
        self.changes.push(change.what);
        Ok(())
    }

    /// A unique index that begins with the organization. Foreign keys of other tables need it.
    async fn index(&mut self, table: &CheckedTable) -> Result<()> {
        let key: Vec<String> = table.key.iter().map(|column| column.name.clone()).collect();
        self.unique_index(table, &key).await
    }

    /// Keys that become a tenant's own: the new one first, then the old one goes.
    async fn tenants_keys(&mut self, table: &CheckedTable) -> Result<()> {
        let sql = table.relation().sql();
        for columns in table.spec.unique_per_tenant.clone() {
            let old: Option<OldKey> = sqlx::query_as(
                "select c.relname::text as name, pg_get_constraintdef(k.oid) as definition, pg_get_indexdef(i.indexrelid) as index, i.indisreplident as is_identity,
                        obj_description(k.oid, 'pg_constraint') as comment, obj_description(c.oid, 'pg_class') as index_comment
                   from pg_index i join pg_class c on c.oid = i.indexrelid left join pg_constraint k on k.conindid = i.indexrelid and k.contype = 'u'
                  where i.indrelid = to_regclass($1) and i.indisunique and not i.indisprimary and i.indpred is null and i.indexprs is null
                    and (select array_agg(a.attname::text order by a.attname) from unnest(i.indkey::int2[]) with ordinality o(attnum, n) join pg_attribute a on a.attrelid = i.indrelid and a.attnum = o.attnum where o.n <= i.indnkeyatts)
                      = (select array_agg(x order by x) from unnest($2::text[]) x)
                  order by 1 limit 1",
            )
            .bind(&sql)
            .bind(&columns.0)
            .fetch_optional(self.session.conn())
            .await
            .map_err(doing("looking for a unique key"))?;
            let Some(old) = old else { continue };
            self.unique_index(table, &columns.0).await?;
            let quoted = quote(&old.name);
            let full = format!("{}.{quoted}", quote(&table.relation().schema));
            let (drop_it, mut again) = match &old.definition {
                Some(definition) => (
                    format!("alter table {sql} drop constraint {quoted}"),
                    format!("alter table {sql} add constraint {quoted} {definition}"),
                ),
                None => (format!("drop index {full}"), old.index),
            };
            if let Some(comment) = old.comment {
                again += &format!("; comment on constraint {quoted} on {sql} is {}", literal(&comment));
            }
            if let Some(comment) = old.index_comment {
                again += &format!("; comment on index {full} is {}", literal(&comment));
            }
            let mut statements = Vec::new();
            if old.is_identity {
                // What subscribers of a publication find rows by: without it updates would fail.
                let new = quote(&index_name(&table.relation().name, &columns.0));
                statements.push(format!("alter table {sql} replica identity using index {new}"));
                again += &format!("; alter table {sql} replica identity using index {quoted}");
            }
            statements.push(drop_it);
            let fallback =
                if old.is_identity { format!("alter table {sql} replica identity default") } else { "null".to_owned() };
            // Tenants may have come to use the same value: then a rollback says so, and goes on.
            let undo = format!(
                "do $undo$ begin if to_regclass({}) is null then {again}; end if; exception when unique_violation then {fallback}; end $undo$",
                literal(&full)
            );
            self.run_locked(SchemaChange { what: format!("{KEY}{full} of {sql}"), statements, undo }).await?;
        }
        Ok(())
    }

    async fn unique_index(&mut self, table: &CheckedTable, columns: &[String]) -> Result<()> {
        let sql = table.relation().sql();
        let list: Vec<String> = columns.iter().filter(|name| *name != table.column()).map(|name| quote(name)).collect();
        let name = index_name(&table.relation().name, columns);
        let full = format!("{}.{}", quote(&table.relation().schema), quote(&name));
        let change = SchemaChange {
            what: format!("index {full}"),
            statements: vec![
                // An interrupted build leaves an invalid index.
                format!("drop index concurrently if exists {full}"),
                format!(
                    "create unique index concurrently {} on {sql} ({}, {})",
                    quote(&name),
                    quote(table.column()),
                    list.join(", ")
                ),
            ],
            undo: format!("drop index if exists {full}"),
        };
        self.run_concurrent(change).await
    }

    async fn foreign_keys(&mut self, table: &CheckedTable) -> Result<()> {
        let sql = table.relation().sql();
        let name = short_name(&format!("{}_adopted_organization", table.relation().name));
        // Our own does not count: it may exist without being validated.
        let refers = table.info.foreign_keys.iter().any(|key| {
            key.name != name && key.columns == [table.column()] && key.target().to_string() == "tenantry.organizations"
        });
        if !refers {
            let definition = format!("foreign key ({}) references tenantry.organizations (id)", quote(table.column()));
            self.foreign_key(&sql, &name, &definition, None).await?;
        }
        for key in table.info.foreign_keys.clone() {
            let Some(target) = self.checked.tables.iter().find(|known| *known.relation() == key.target()) else {
                continue;
            };
            if key.columns.iter().any(|column| column == table.column()) || table.stays_plain(&key.columns) {
                continue;
            }
            let target = target.clone();
            self.unique_index(&target, &key.target_columns).await?;
            let name = short_name(&format!("{}_org", key.name));
            self.foreign_key(&sql, &name, &composite(&key, table.column(), target.column()), Some(&key)).await?;
            if key.match_full && key.columns.len() > 1 {
                self.all_or_none(&sql, &key).await?;
            }
        }
        Ok(())
    }

    /// `MATCH FULL` lets either all columns be null or none. With the organization in front, which never is, a check says so of
    /// the others.
    async fn all_or_none(&mut self, table: &str, key: &ForeignKey) -> Result<()> {
        let name = quote(&short_name(&format!("{}_full", key.name)));
        let columns: Vec<String> = key.columns.iter().map(|column| quote(column)).collect();
        let (count, columns) = (columns.len(), columns.join(", "));
        let change = SchemaChange {
            what: format!("check {name} on {table}"),
            statements: vec![
                format!(
                    "alter table {table} add constraint {name} check (num_nulls({columns}) in (0, {count})) not valid"
                ),
                format!("alter table {table} validate constraint {name}"),
            ],
            undo: format!("alter table if exists {table} drop constraint if exists {name}"),
        };
        let drop_it = change.undo.clone();
        self.added_then_validated(change, drop_it).await
    }

    /// Adds a constraint without validation, validates it under a lock that blocks no writers, and does what comes then: the
    /// statements of the change in this order. `drop_it` takes away what an interrupted attempt left.
    async fn added_then_validated(&mut self, change: SchemaChange, drop_it: String) -> Result<()> {
        let adoption = self.checked.plan.name.clone();
        let [add, validate, then @ ..] = change.statements.as_slice() else { return Ok(()) };
        if is_made(self.session, &adoption, &change).await? {
            return Ok(());
        }
        let (what, timeout) = (&change.what, self.options.lock_timeout);
        let pending = record(&adoption, &change.pending());
        self.session.run_locked(what, timeout, &[pending, drop_it, add.clone()]).await?;
        self.session.run_concurrent(what, std::slice::from_ref(validate)).await?;
        let then = [then, &[record(&adoption, &change)]].concat();
        self.session.run_locked(what, timeout, &then).await?;
        self.changes.push(change.what);
        Ok(())
    }

    /// Adds a foreign key, then drops the one it replaces.
    async fn foreign_key(
        &mut self,
        table: &str,
        name: &str,
        definition: &str,
        replaced: Option<&ForeignKey>,
    ) -> Result<()> {
        let name = quote(name);
        let drop_it = format!("alter table if exists {table} drop constraint if exists {name}");
        let mut undo = drop_it.clone();
        let mut statements = vec![
            format!("alter table {table} add constraint {name} {definition} not valid"),
            format!("alter table {table} validate constraint {name}"),
        ];
        if let Some(old) = replaced {
            let old_name = quote(&old.name);
            statements.push(format!("alter table {table} drop constraint {old_name}"));
            let mut again = String::new();
            if let Some(comment) = &old.comment {
                let comment = literal(comment);
                statements.push(format!("comment on constraint {name} on {table} is {comment}"));
                again = format!("; comment on constraint {old_name} on {table} is {comment}");
            }
            // PostgreSQL prints `NOT VALID` itself where the old key was not valid.
            let not_valid = if old.definition.ends_with("NOT VALID") { "" } else { " not valid" };
            undo = format!(
                "alter table {table} drop constraint if exists {old_name}; alter table {table} add constraint {old_name} {}{not_valid}{again}; {undo}{THEN}alter table {table} validate constraint {old_name}",
                old.definition
            );
        }
        let change = SchemaChange { what: format!("foreign key {name} on {table}"), statements, undo };
        self.added_then_validated(change, drop_it).await
    }

    /// Lets our roles use the schemas of the tables.
    async fn schemas(&mut self) -> Result<()> {
        let schemas: BTreeSet<&String> = self.checked.tables.iter().map(|table| &table.relation().schema).collect();
        for schema in schemas {
            let known: bool = sqlx::query_scalar("select has_schema_privilege('tenantry_app', $1, 'usage') and has_schema_privilege('tenantry_superadmin', $1, 'usage')")
                .bind(schema)
                .fetch_one(self.session.conn())
                .await
                .map_err(doing("looking at the schemas"))?;
            if !known {
                let schema = quote(schema);
                let statements = vec![format!("grant usage on schema {schema} to tenantry_app, tenantry_superadmin")];
                let undo = format!("revoke usage on schema {schema} from tenantry_app, tenantry_superadmin");
                self.run_locked(SchemaChange { what: format!("usage of schema {schema}"), statements, undo }).await?;
            }
        }
        Ok(())
    }

    /// Lets everybody read what belongs to nobody.
    async fn shared(&mut self) -> Result<()> {
        for relation in self.checked.plan.shared.clone() {
            let sql = relation.sql();
            let readable: bool = sqlx::query_scalar("select has_table_privilege('tenantry_app', $1, 'select')")
                .bind(&sql)
                .fetch_one(self.session.conn())
                .await
                .map_err(doing("looking at the shared tables"))?;
            if readable {
                continue;
            }
            let statements = vec![format!("grant select on {sql} to tenantry_app, tenantry_superadmin")];
            let undo = format!("revoke select on {sql} from tenantry_app, tenantry_superadmin");
            self.run_locked(SchemaChange { what: format!("reading of {sql}"), statements, undo }).await?;
        }
        Ok(())
    }

    async fn row_security(&mut self, table: &CheckedTable) -> Result<()> {
        let plan = &self.checked.plan;
        let before = policies::security_before(self.session, self.checked, table).await?;
        let (statements, undo) = security_statements(self.checked, table, before, self.options.cut_over);
        // We enabled it earlier: its undo was recorded then.
        let what = policies::change_name(table);
        let known: Option<String> =
            sqlx::query_scalar("select undo from tenantry.adopt_changes where adoption = $1 and what = $2")
                .bind(&plan.name)
                .bind(&what)
                .fetch_optional(self.session.conn())
                .await
                .map_err(doing("reading the record"))?;
        let undo = known.unwrap_or_else(|| undo.join("; "));
        self.run_locked(SchemaChange { what, statements, undo }).await
    }

    async fn cut_over(&mut self) -> Result<()> {
        let plan = &self.checked.plan;
        let changes: Vec<(String, String)> = sqlx::query_as(
            "select what, undo from tenantry.adopt_changes where adoption = $1 and (what like 'trigger on %' or what like 'function %') order by number desc",
        )
        .bind(&plan.name)
        .fetch_all(self.session.conn())
        .await
        .map_err(doing("reading the record"))?;
        for (what, undo) in changes {
            let forget = format!(
                "delete from tenantry.adopt_changes where adoption = {} and what = {}",
                literal(&plan.name),
                literal(&what)
            );
            self.session.run_locked(&what, self.options.lock_timeout, &[undo, forget]).await?;
            self.changes.push(format!("no {what}"));
        }
        for table in &self.checked.tables {
            let statement = format!(
                "drop policy if exists {} on {}",
                quote(&policies::keep_name(&plan.name)),
                table.relation().sql()
            );
            self.session.run_locked("cut-over", self.options.lock_timeout, &[statement]).await?;
        }
        let done = format!(
            "update tenantry.adoptions set cut_over_at = coalesce(cut_over_at, now()) where name = {}",
            literal(&plan.name)
        );
        self.session.run_locked("cut-over", self.options.lock_timeout, &[done]).await
    }
}

/// The statements that bind a table's rows to their tenant, and those that take it back.
pub fn security_statements(
    checked: &Checked,
    table: &CheckedTable,
    before: policies::Before,
    cut_over: bool,
) -> (Vec<String>, Vec<String>) {
    let sql = table.relation().sql();
    let column = quote(table.column());
    let plan = &checked.plan;
    let grants: Vec<&str> = plan.grants.iter().map(|grant| grant.sql()).collect();
    let mut statements = vec![
        format!("drop policy if exists tenant on {sql}"),
        format!(
            "create policy tenant on {sql} for all to tenantry_app using ({column} = tenantry.current_org()) with check ({column} = tenantry.current_org())"
        ),
        format!("drop policy if exists superadmin on {sql}"),
        format!("create policy superadmin on {sql} for all to tenantry_superadmin using (true) with check (true)"),
        format!("alter table {sql} enable row level security"),
        format!("alter table {sql} force row level security"),
        format!("grant all on {sql} to tenantry_superadmin"),
    ];
    if !grants.is_empty() {
        statements.push(format!("grant {} on {sql} to tenantry_app", grants.join(", ")));
    }
    // The default of a serial column uses its sequence.
    let on_sequences = |what: &str| {
        format!(
            "do $do$ declare s record; begin for s in select d.objid::regclass as name from pg_depend d join pg_class c on c.oid = d.objid and c.relkind = 'S' where d.refobjid = to_regclass({}) and d.deptype in ('a', 'i') loop execute format('{what} tenantry_app, tenantry_superadmin', s.name); end loop; end $do$",
            literal(&sql)
        )
    };
    statements.push(on_sequences("grant usage on sequence %s to"));
    let mut undo = vec![
        on_sequences("revoke usage on sequence %s from"),
        format!("drop policy if exists tenant on {sql}"),
        format!("drop policy if exists superadmin on {sql}"),
        format!("revoke all on {sql} from tenantry_app, tenantry_superadmin"),
    ];
    if !table.info.force_row_security {
        undo.push(format!("alter table {sql} no force row level security"));
    }
    if !table.info.row_security {
        undo.push(format!("alter table {sql} disable row level security"));
    }
    // Also when no role needs it any more.
    let keep = quote(&policies::keep_name(&plan.name));
    statements.push(format!("drop policy if exists {keep} on {sql}"));
    let kept = policies::kept(checked, table, before);
    if !kept.is_empty() && !cut_over {
        let roles: Vec<String> = kept.into_iter().map(|role| quote(role)).collect();
        statements.push(format!(
            "create policy {keep} on {sql} for all to {} using (true) with check (true)",
            roles.join(", ")
        ));
        undo.push(format!("drop policy if exists {keep} on {sql}"));
    }
    (statements, undo)
}

fn index_name(table: &str, columns: &[String]) -> String {
    short_name(&format!("{table}_organization_id_{}_key", columns.join("_")))
}

/// The foreign key with the organization in front. On delete it sets only its own columns to null, never the
/// organization.
fn composite(key: &ForeignKey, own: &str, theirs: &str) -> String {
    let columns = |list: &[String]| list.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ");
    let mine = columns(&key.columns);
    let mut text = format!(
        "foreign key ({}, {mine}) references {} ({}, {})",
        quote(own),
        key.target().sql(),
        quote(theirs),
        columns(&key.target_columns)
    );
    text += match key.on_delete.as_str() {
        "c" => " on delete cascade",
        "r" => " on delete restrict",
        _ => "",
    };
    let emptied = if key.delete_columns.is_empty() { mine.clone() } else { columns(&key.delete_columns) };
    if key.on_delete == "n" {
        text += &format!(" on delete set null ({emptied})");
    } else if key.on_delete == "d" {
        text += &format!(" on delete set default ({emptied})");
    }
    // `set null` on update would also set the organization to null: such a key refuses the update instead.
    text += match key.on_update.as_str() {
        "c" => " on update cascade",
        "r" => " on update restrict",
        _ => "",
    };
    if key.deferrable {
        text += if key.deferred { " deferrable initially deferred" } else { " deferrable" };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_distinct() {
        let (a, b) = ("ä".repeat(40) + "_one", "ä".repeat(40) + "_two");
        assert!(short_name(&a).len() <= 63 && short_name(&a) != short_name(&b));
        assert_eq!(short_name("short"), "short");
    }
}
