//! Checks an adoption: users and rows without an organization, orphans, duplicates, references across organizations. It
//! only reads.

use serde::Serialize;
use sqlx::AssertSqlSafe;

use super::catalogue::Column;
use super::check::{Checked, CheckedTable, check, type_family};
use super::infer::compared;
use super::installed::{Wanted, check_installed};
use super::name::{literal, quote};
use super::people::differing_memberships;
use super::plan::{Source, rows_of, toml_columns};
use super::{OwnerConnection, Plan, Result, around, doing, policies};

/// Most findings of one check on one table.
const LIMIT: u32 = 100;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdoptionFinding {
    /// Which check found it.
    pub check: String,
    /// The table or user.
    pub subject: String,
    /// What is wrong and what to do.
    pub problem: String,
}

impl AdoptionFinding {
    /// The name by which the plan may accept it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.check, self.subject)
    }
}

/// The checks that `finalize` does not go past: rows that others would see or miss, and organizations that nobody could run.
/// Of references across organizations a foreign key would say so hours later, without naming the rows.
const BLOCKING: [&str; 5] =
    ["user-not-a-member", "organization-without-owner", "wrong-member", "cross-workspace", around::CHECK];

/// What `finalize` does not go past.
pub async fn blocking(session: &mut OwnerConnection, checked: &Checked) -> Result<Vec<AdoptionFinding>> {
    let mut findings = not_accepted(session, checked).await?;
    findings.retain(|finding| BLOCKING.contains(&finding.check.as_str()));
    Ok(findings)
}

/// What is wrong with people and rows, and what leads around the policies, without what the plan accepts.
async fn not_accepted(session: &mut OwnerConnection, checked: &Checked) -> Result<Vec<AdoptionFinding>> {
    let mut findings = people(session, checked).await?;
    for table in &checked.tables {
        if table.has_column() {
            findings.extend(rows(session, checked, table).await?);
        } else {
            findings.push(AdoptionFinding {
                check: "not-adopted".to_owned(),
                subject: table.label(),
                problem: format!("has no {} yet: `tenantry adopt run` comes first", table.column()),
            });
        }
    }
    findings.extend(cross_references(session, checked).await?);
    findings.extend(other_paths(session, checked).await?);
    findings.extend(around::find(session, checked).await?);
    findings.retain(|finding| !checked.plan.accept.contains(&finding.name()));
    Ok(findings)
}

/// Checks an adoption. An empty list means that nothing is wrong.
pub async fn verify(session: &mut OwnerConnection, plan: Plan) -> Result<Vec<AdoptionFinding>> {
    check_installed(session, Wanted::Read).await?;
    let checked = check(session, plan, Wanted::Read).await?;
    let mut findings = not_accepted(session, &checked).await?;
    let finalized: Option<bool> =
        sqlx::query_scalar("select finalized_at is not null from tenantry.adoptions where name = $1")
            .bind(&checked.plan.name)
            .fetch_optional(session.conn())
            .await
            .map_err(doing("verifying"))?;
    if finalized == Some(true) {
        for table in &checked.tables {
            findings.extend(enforced(table));
            for policy in policies::open(session, table, true).await? {
                findings.push(AdoptionFinding {
                    check: "open-policy".to_owned(),
                    subject: table.label(),
                    problem: policy.problem(table),
                });
            }
        }
    }
    Ok(findings)
}

/// Runs a query of (subject, problem).
async fn query_findings(session: &mut OwnerConnection, check: &str, sql: &str) -> Result<Vec<AdoptionFinding>> {
    let sql = format!("{sql} limit {LIMIT}");
    let rows: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(sql))
        .fetch_all(session.conn())
        .await
        .map_err(doing(format!("verifying: {check}")))?;
    Ok(rows
        .into_iter()
        .map(|(subject, problem)| AdoptionFinding { check: check.to_owned(), subject, problem })
        .collect())
}

async fn people(session: &mut OwnerConnection, checked: &Checked) -> Result<Vec<AdoptionFinding>> {
    let plan = &checked.plan;
    let adoption = literal(&plan.name);
    let id = format!("u.{}::text", quote(&plan.users.id));
    let table = plan.users.rows();
    let mut findings = query_findings(
        session,
        "user-without-organization",
        &format!(
            "select 'user ' || {id}, coalesce(a.reason, 'was never met: run again')
           from {table} u left join tenantry.adopt_users a on a.adoption = {adoption} and a.legacy_id = {id}
          where a.organization_id is null order by u.{}",
            quote(&plan.users.id)
        ),
    )
    .await?;
    findings.extend(query_findings(session, "user-not-a-member", &format!(
        "select 'user ' || a.legacy_id, 'its rows belong to organization ' || a.organization_id || ', and it is not a member there'
           from tenantry.adopt_users a
          where a.adoption = {adoption} and a.organization_id is not null
            and not exists (select from tenantry.organization_members m where m.organization_id = a.organization_id and m.user_id = a.user_id and m.deleted_at is null)
          order by a.legacy_id"
    )).await?);
    findings.extend(query_findings(session, "current-organization", &format!(
        "select 'user ' || a.legacy_id, case when u.current_organization_id is null then 'has no current organization' else 'its current organization is one it is not a member of' end
           from tenantry.adopt_users a join tenantry.users u on u.id = a.user_id
          where a.adoption = {adoption} and a.organization_id is not null
            and not exists (select from tenantry.organization_members m where m.organization_id = u.current_organization_id and m.user_id = u.id and m.deleted_at is null)
          order by a.legacy_id"
    )).await?);
    findings.extend(query_findings(session, "duplicate-slug",
        "select lower(o.slug), format('%s organizations share it', count(*)) from tenantry.organizations o group by 1 having count(*) > 1 order by 1"
    ).await?);
    if let Some(organizations) = &plan.organizations
        && let Some(slug) = &organizations.slug
    {
        findings.extend(query_findings(session, "duplicate-slug", &format!(
            "select lower(o.{slug}::text), format('%s organizations of %s share it; they became %s', count(*), {label}, string_agg(t.slug, ', ' order by t.slug))
               from {table} o
               left join tenantry.adopt_organizations a on a.adoption = {adoption} and a.legacy_id = o.{id}::text
               left join tenantry.organizations t on t.id = a.organization_id
              group by 1 having count(*) > 1 order by 1",
            slug = quote(slug), id = quote(&organizations.id), table = organizations.rows(), label = literal(&organizations.table.to_string())
        )).await?);
    }
    findings.extend(query_findings(session, "organization-without-owner", &format!(
        "select o.slug, 'nobody is OWNER: nobody can pay or delete; make a member OWNER'
           from tenantry.adopt_created c join tenantry.organizations o on o.id = c.organization_id and o.deleted_at is null
          where c.adoption = {adoption} and c.user_id is null
            and not exists (select from tenantry.organization_members m where m.organization_id = o.id and m.role = 'OWNER' and m.deleted_at is null)
          order by 1"
    )).await?);
    // After the cut-over the legacy database says nothing any more.
    let live: bool =
        sqlx::query_scalar("select exists (select from tenantry.adoptions where name = $1 and cut_over_at is null)")
            .bind(&plan.name)
            .fetch_one(session.conn())
            .await
            .map_err(doing("verifying"))?;
    if live && let Some(differing) = differing_memberships(checked) {
        findings.extend(
            query_findings(
                session,
                "wrong-member",
                &format!(
                    "select 'user ' || d.legacy_user || ' in ' || o.slug,
                            case when d.wanted is null then 'is ' || d.found || ', and no longer a member in the legacy database'
                                 when d.found is null then 'is no member, and ' || d.wanted || ' in the legacy database'
                                 else 'is ' || d.found || ', and ' || d.wanted || ' in the legacy database' end || ': `tenantry adopt run` again'
                       from ({differing}) d join tenantry.organizations o on o.id = d.organization_id order by 1"
                ),
            )
            .await?,
        );
    }
    Ok(findings)
}

async fn rows(session: &mut OwnerConnection, checked: &Checked, table: &CheckedTable) -> Result<Vec<AdoptionFinding>> {
    let adoption = literal(&checked.plan.name);
    let label = literal(&table.label());
    let (sql, column, key) = (table.relation().sql(), quote(table.column()), table.key_text("t"));
    let order = table.key_columns("t").join(", ");
    let mut findings = query_findings(session, "orphaned-row", &format!(
        "select {label} || ' ' || {key}, coalesce(u.reason, 'came since the last run: run again')
           from {sql} t left join tenantry.adopt_unresolved u on u.adoption = {adoption} and u.table_name = {label} and u.key = {key}
          where t.{column} is null order by {order}"
    )).await?;
    findings.extend(query_findings(session, "orphaned-row", &format!(
        "select {label} || ' ' || {key}, 'belongs to organization ' || t.{column} || case when o.id is null then ', which does not exist' else ', which is deleted' end
           from {sql} t left join tenantry.organizations o on o.id = t.{column}
          where t.{column} is not null and (o.id is null or o.deleted_at is not null) order by {order}"
    )).await?);
    for source in &table.spec.organization {
        let Source::User { user, to, .. } = source else { continue };
        let sql = rows_of(table.relation(), source.condition());
        let to = to.as_ref().unwrap_or(&checked.plan.users.id);
        let theirs = checked.catalogue.get(&checked.plan.users.table).and_then(|info| info.column(to));
        let mine = compared("t", table.info.column(user), theirs);
        // Without a foreign key the two may be of types that have no operator.
        let family = |column: Option<&Column>| column.map(type_family).map(str::to_owned);
        let same = if family(theirs) == family(table.info.column(user)) {
            format!("l.{} = {mine}", quote(to))
        } else {
            format!("l.{}::text = t.{}::text", quote(to), quote(user))
        };
        let (user, users, id) = (quote(user), checked.plan.users.rows(), quote(&checked.plan.users.id));
        findings.extend(query_findings(session, "orphaned-row", &format!(
            "select {label} || ' ' || {key}, 'its user ' || t.{user} || ' does not exist'
               from {sql} t where t.{user} is not null and not exists (select from {users} l where {same}) order by {order}"
        )).await?);
        findings.extend(query_findings(session, "cross-workspace", &format!(
            "select {label} || ' ' || {key}, 'belongs to organization ' || t.{column} || ', and its user ' || t.{user} || ' is not a member there'
               from {sql} t join {users} l on {same} join tenantry.adopt_users a on a.adoption = {adoption} and a.legacy_id = l.{id}::text
              where t.{column} is not null and a.user_id is not null
                and not exists (select from tenantry.organization_members m where m.organization_id = t.{column} and m.user_id = a.user_id and m.deleted_at is null)
              order by {order}"
        )).await?);
    }
    Ok(findings)
}

/// The table that a row refers to, its columns for that, those of the other, and for which rows it holds.
type Reference<'a> = (super::Relation, Vec<String>, Vec<String>, Option<&'a str>);

/// Finds rows that reference rows of another organization, by foreign keys and by the sources of the plan.
async fn cross_references(session: &mut OwnerConnection, checked: &Checked) -> Result<Vec<AdoptionFinding>> {
    let mut findings = Vec::new();
    for table in checked.tables.iter().filter(|table| table.has_column()) {
        // A foreign key and a source that say the same are one.
        let mut references: Vec<Reference<'_>> = table
            .info
            .foreign_keys
            .iter()
            .filter(|key| !key.columns.iter().any(|column| column == table.column()))
            .filter(|key| !table.stays_plain(&key.columns))
            .map(|key| (key.target(), key.columns.clone(), key.target_columns.clone(), None))
            .collect();
        for source in &table.spec.organization {
            if let Source::Row { row, by, to, .. } = source {
                let info = checked.catalogue.get(row);
                let to = to
                    .as_ref()
                    .map_or_else(|| info.and_then(|info| info.key()).unwrap_or_default().to_vec(), |to| to.0.clone());
                references.push((row.clone(), by.0.clone(), to, source.condition()));
            }
        }
        references.sort();
        references.dedup();
        for (target, mine, theirs, condition) in references {
            let known = checked.tables.iter().find(|other| *other.relation() == target && other.has_column());
            let Some(known) = known else { continue };
            let is_source = |source: &Source| matches!(source, Source::Row { by, .. } if by.0 == mine);
            let by_key = !table.spec.organization.iter().any(is_source);
            let on: Vec<String> = mine
                .iter()
                .zip(&theirs)
                .map(|(a, b)| {
                    let mine = compared("t", table.info.column(a), known.info.column(b));
                    format!("r.{} = {mine}", quote(b))
                })
                .collect();
            let value: Vec<String> = mine.iter().map(|name| format!("t.{}::text", quote(name))).collect();
            findings.extend(query_findings(session, "cross-workspace", &format!(
                "select {label} || ' ' || {key}, 'belongs to organization ' || t.{column} || ', and {target} ' || {value} || ' that it refers to belongs to ' || r.{theirs}{way_out}
                   from {sql} t join {other} r on {on} where r.{theirs} <> t.{column} order by {order}",
                label = literal(&table.label()),
                key = table.key_text("t"),
                column = quote(table.column()),
                theirs = quote(known.column()),
                way_out = if by_key {
                    let names = toml_columns(&mine);
                    format!(" || {}", literal(&format!(". If such rows may be of several tenants: `plain = [{names}]` in its table")))
                } else {
                    String::new()
                },
                target = target.to_string().replace('\'', "''"),
                value = value.join(" || ', ' || "),
                sql = rows_of(table.relation(), condition),
                other = target.sql(),
                on = on.join(" and "),
                order = table.key_columns("t").join(", "),
            )).await?);
        }
    }
    Ok(findings)
}

/// Compares the organization of rows with what foreign keys say that are no sources: to users, who should be members there, and to
/// organizations. One finding for each such key: it may be right that people of other organizations appear.
async fn other_paths(session: &mut OwnerConnection, checked: &Checked) -> Result<Vec<AdoptionFinding>> {
    let plan = &checked.plan;
    let adoption = literal(&plan.name);
    let mut findings = Vec::new();
    for table in checked.tables.iter().filter(|table| table.has_column()) {
        let sources = table.source_columns();
        for key in &table.info.foreign_keys {
            let ([mine], [theirs]) = (key.columns.as_slice(), key.target_columns.as_slice()) else { continue };
            if sources.contains(mine.as_str()) || table.stays_plain(&key.columns) {
                continue;
            }
            let column = quote(table.column());
            let target = checked.catalogue.get(&key.target());
            let same = compared("t", table.info.column(mine), target.and_then(|info| info.column(theirs)));
            let (other, wrong) = if key.target() == plan.users.table {
                let other = format!(
                    "{} l on l.{} = {same} join tenantry.adopt_users a on a.adoption = {adoption} and a.legacy_id = l.{}::text and a.user_id is not null",
                    plan.users.rows(),
                    quote(theirs),
                    quote(&plan.users.id)
                );
                let wrong = format!(
                    "not exists (select from tenantry.organization_members m where m.organization_id = t.{column} and m.user_id = a.user_id and m.deleted_at is null)"
                );
                (other, wrong)
            } else if let Some(organizations) = plan.organizations.as_ref().filter(|o| o.table == key.target()) {
                let other = format!(
                    "{} l on l.{} = {same} join tenantry.adopt_organizations a on a.adoption = {adoption} and a.legacy_id = l.{}::text",
                    organizations.rows(),
                    quote(theirs),
                    quote(&organizations.id)
                );
                (other, format!("a.organization_id <> t.{column}"))
            } else {
                continue;
            };
            let word = if key.target() == plan.users.table { "is a user who is not a member" } else { "is another" };
            findings.extend(query_findings(session, "other-path", &format!(
                "select {subject}, format('in %s of %s rows it {word}, for example where {key_name} is %s: is the plan''s source the right one? If others may appear there: `plain = [\"{plain}\"]` in its table, or accept it',
                                          count(*) filter (where {wrong}), count(*), min({key}) filter (where {wrong}))
                   from {sql} t join {other} where t.{column} is not null having count(*) filter (where {wrong}) > 0",
                subject = literal(&format!("{}.{mine}", table.label())),
                key_name = table.key.iter().map(|column| column.name.replace('\'', "''").replace('%', "%%")).collect::<Vec<_>>().join(", "),
                plain = mine.replace('\'', "''").replace('%', "%%"),
                key = table.key_text("t"),
                sql = table.relation().sql(),
            )).await?);
        }
    }
    Ok(findings)
}

fn enforced(table: &CheckedTable) -> Vec<AdoptionFinding> {
    let own = table.column();
    let mut problems = Vec::new();
    if table.info.column(own).is_none_or(|column| !column.not_null) {
        problems.push(format!("{own} takes nulls"));
    }
    if !(table.info.row_security && table.info.force_row_security) {
        problems.push("row-level security is not enabled and forced".to_owned());
    }
    if !table.info.foreign_keys.iter().any(|key| key.columns == [own]) {
        problems.push(format!("{own} has no foreign key to organizations"));
    }
    for key in &table.info.foreign_keys {
        if key.columns.iter().any(|column| column == own) && key.definition.ends_with("NOT VALID") {
            problems.push(format!("the foreign key {} is not validated", key.name));
        }
    }
    if !table.info.indexed.iter().any(|column| column == own) {
        problems.push(format!("no index begins with {own}"));
    }
    let finding = |problem: String| AdoptionFinding {
        check: "enforcement".to_owned(),
        subject: table.label(),
        problem: format!("{problem}: `tenantry adopt finalize` again"),
    };
    problems.into_iter().map(finding).collect()
}
