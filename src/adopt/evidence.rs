//! What the data says where the catalogue is silent: columns that refer to a table without a foreign key, and the values of
//! roles that really occur. Names only propose; a reference counts when its values are found.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;

use super::catalogue::{Catalogue, Column, ForeignKey, TableInfo};
use super::check::type_family;
use super::infer::{compared, reads_as};
use super::name::{Relation, literal, quote};
use super::{OwnerConnection, Result, doing};

/// Rows that are looked at to see whether a column refers to a table.
const SAMPLE: u32 = 10_000;
/// Words before the name of a table: `current_team_id` is a team.
const PREFIXES: [&str; 7] = ["current_", "default_", "active_", "selected_", "last_", "primary_", "home_"];
/// Words that stand for a user.
const PEOPLE: [&str; 6] = ["owner", "author", "creator", "created_by", "user", "member"];

/// Words that stand for another row of the same table.
const OWN: [&str; 3] = ["parent", "reply_to", "in_reply_to"];

/// What was found out, by table and column, for people.
pub type Notes = BTreeMap<(Relation, String), String>;

/// A pair of columns that refers to several tables: one says to which, the other to which row.
pub struct ByType {
    /// The column that says to which table.
    pub kind: String,
    /// The column with the key.
    pub column: String,
    /// The values that occur, with how many rows have them and the table that they name, if all their rows are found there.
    pub values: Vec<(String, i64, Option<Relation>)>,
}

/// The pairs of columns that refer to several tables, by table.
pub async fn references_by_type(
    session: &mut OwnerConnection,
    tables: &Catalogue,
) -> Result<BTreeMap<Relation, Vec<ByType>>> {
    let mut found: BTreeMap<Relation, Vec<ByType>> = BTreeMap::new();
    for (relation, info) in tables.iter().filter(|(_, info)| info.readable) {
        for column in &info.columns {
            let Some(kind) = stem(&column.name).and_then(|stem| type_of(info, &stem)) else { continue };
            let mut pair = ByType { kind: kind.clone(), column: column.name.clone(), values: Vec::new() };
            for (value, rows) in values(session, relation, &kind).await? {
                let named = tables.values().find(|other| is_type(&other.relation().name, &value));
                let target = named.filter(|other| other.readable).and_then(|other| match other.key() {
                    Some([key]) => Some((other.relation(), other.column(key)?)),
                    _ => None,
                });
                let target = target.filter(|(_, theirs)| {
                    type_family(theirs) == type_family(column) || reads_as(column, theirs).is_some()
                });
                let known = match &target {
                    None => None,
                    Some((other, theirs)) => {
                        let only = format!("{}::text = {}", quote(&kind), literal(&value));
                        let (all, known) = share(session, relation, column, (other, theirs), &only).await?;
                        (all == known).then(|| other.clone())
                    }
                };
                pair.values.push((value, rows, known));
            }
            found.entry(relation.clone()).or_default().push(pair);
        }
    }
    Ok(found)
}

/// The column that says to which table `…_id` refers: `…_type`.
fn type_of(info: &TableInfo, stem: &str) -> Option<String> {
    let names = [format!("{stem}_type"), format!("{stem}type"), format!("{stem}_kind")];
    let kind = info.columns.iter().find(|other| names.iter().any(|name| other.name.eq_ignore_ascii_case(name)));
    kind.filter(|kind| type_family(kind) == "text").map(|kind| kind.name.clone())
}

/// Whether a value of a type names a table: `Project` and `project` and `Crm::Project`, and `BlogPost` for `blog_posts`.
fn is_type(table: &str, value: &str) -> bool {
    let last = value.rsplit([':', '\\', '.', '/']).next().unwrap_or(value);
    let whole = value.replace("::", "").replace(['\\', '.', '/'], "");
    is_named(table, &last.to_lowercase()) || is_named(table, &whole.to_lowercase())
}

/// How many rows of each table only another row of the same table can tell the tenant of: all their other references are empty.
pub async fn trees(session: &mut OwnerConnection, tables: &Catalogue) -> Result<BTreeMap<Relation, i64>> {
    let mut found = BTreeMap::new();
    for (relation, info) in tables.iter().filter(|(_, info)| info.readable) {
        let (own, others): (Vec<&ForeignKey>, Vec<&ForeignKey>) =
            info.foreign_keys.iter().partition(|key| key.target() == *relation);
        let Some(own) = own.iter().find(|key| key.columns.len() == 1) else { continue };
        let empty = others.iter().flat_map(|key| &key.columns).map(|column| format!(" and {} is null", quote(column)));
        let condition = format!("{} is not null{}", quote(&own.columns[0]), empty.collect::<String>());
        let (rows, _) = count(session, relation, &condition).await?;
        if rows > 0 && !others.is_empty() {
            found.insert(relation.clone(), rows);
        }
    }
    Ok(found)
}

/// How many users are in more than one organization, of how many that are in one.
pub async fn in_several(
    session: &mut OwnerConnection,
    memberships: &Relation,
    user: &str,
    organization: &str,
    condition: &str,
) -> Result<(i64, i64)> {
    let sql = format!(
        "select count(*) filter (where n > 1), count(*) from (select count(distinct {}) as n from {} t where {condition} group by t.{}) s",
        quote(organization),
        memberships.sql(),
        quote(user)
    );
    two_counts(session, sql, format!("counting the organizations of users in {memberships}")).await
}

/// Adds to the tables the references that no foreign key tells and the data confirms. Answers what each rests on, also of those
/// that the data does not confirm.
pub async fn infer_references(
    session: &mut OwnerConnection,
    tables: &mut Catalogue,
    users: &Relation,
) -> Result<Notes> {
    let mut notes = Notes::new();
    let mut found = Vec::new();
    for (relation, info) in tables.iter().filter(|(_, info)| info.readable) {
        for column in &info.columns {
            let has_key = info.foreign_keys.iter().any(|key| key.columns == [column.name.as_str()]);
            let is_key = info.key().is_some_and(|key| key == [column.name.as_str()]);
            let Some(stem) = stem(&column.name).filter(|_| !has_key && !is_key) else { continue };
            // `sender_type` and `sender_id` refer to several tables.
            if type_of(info, &stem).is_some() {
                continue;
            }
            let Some((target, key)) = target(tables, relation, users, &stem) else { continue };
            let theirs = target.column(&key).filter(|theirs| type_family(theirs) == type_family(column));
            let Some(theirs) = theirs.filter(|_| target.readable) else { continue };
            let other = target.relation();
            let (values, known) = share(session, relation, column, (&other, theirs), "true").await?;
            let note = (relation.clone(), column.name.clone());
            if values == known {
                let seen =
                    if values == 0 { "no values yet".to_owned() } else { format!("all {values} values are found") };
                notes.insert(note, format!("`{}` refers to {other} by its name: {seen}", column.name));
                found.push((relation.clone(), ForeignKey::inferred(&column.name, &other, &key)));
            } else {
                notes.insert(
                    note,
                    format!(
                        "`{}` looks like a reference to {other}, but only {known} of {values} values are found there",
                        column.name
                    ),
                );
            }
        }
    }
    for (relation, key) in found {
        if let Some(info) = tables.get_mut(&relation) {
            info.foreign_keys.push(key);
        }
    }
    Ok(notes)
}

/// `account` of `account_id` and `accountId`; `created_by` as it is.
fn stem(column: &str) -> Option<String> {
    let lower = column.to_lowercase();
    if lower == "created_by" || lower == "createdby" {
        return Some("created_by".to_owned());
    }
    let stem =
        column.strip_suffix("_id").or_else(|| column.strip_suffix("Id")).or_else(|| column.strip_suffix("_uuid"))?;
    (!stem.is_empty()).then(|| stem.to_lowercase())
}

/// The table that a word names, in the same schema first, and its key.
fn target<'a>(tables: &'a Catalogue, from: &Relation, users: &Relation, stem: &str) -> Option<(&'a TableInfo, String)> {
    let bare = PREFIXES.iter().find_map(|prefix| stem.strip_prefix(prefix)).unwrap_or(stem);
    let named = |info: &&TableInfo| is_named(&info.relation().name, bare);
    if OWN.contains(&bare) {
        let own = tables.get(from)?;
        return match own.key() {
            Some([key]) => Some((own, key.clone())),
            _ => None,
        };
    }
    let mut candidates: Vec<&TableInfo> = tables.values().filter(named).collect();
    candidates.sort_by_key(|info| info.relation().schema != from.schema);
    let info = candidates.first().copied().or_else(|| tables.get(users).filter(|_| PEOPLE.contains(&bare)))?;
    match info.key() {
        Some([key]) => Some((info, key.clone())),
        _ => None,
    }
}

/// Whether a table is called by this word, in the singular or the plural.
pub fn is_named(table: &str, word: &str) -> bool {
    let (table, word) = (table.to_lowercase().replace('_', ""), word.replace('_', ""));
    let plural = word.strip_suffix('y').map_or_else(|| format!("{word}s"), |stem| format!("{stem}ies"));
    table == word || table == plural || table == format!("{word}es")
}

/// Different values of a column in rows that meet a condition, and how many of them are in a column of another table.
async fn share(
    session: &mut OwnerConnection,
    relation: &Relation,
    column: &Column,
    (target, theirs): (&Relation, &Column),
    condition: &str,
) -> Result<(i64, i64)> {
    let value = compared("s", Some(&Column { name: "value".to_owned(), ..column.clone() }), Some(theirs));
    let sql = format!(
        "select count(*), count(*) filter (where exists (select from {} k where k.{} = {value}))
           from (select distinct value from (select t.{} as value from {} t where t.{2} is not null and {condition} limit {SAMPLE}) r) s",
        target.sql(),
        quote(&theirs.name),
        quote(&column.name),
        relation.sql()
    );
    two_counts(session, sql, format!("looking at the values of {relation}.{}", column.name)).await
}

/// The values of a column that occur, the most frequent first, with their number.
pub async fn values(session: &mut OwnerConnection, relation: &Relation, column: &str) -> Result<Vec<(String, i64)>> {
    let sql = format!(
        "select t.{0}::text, count(*) from {1} t where t.{0} is not null group by 1 order by 2 desc, 1 limit 20",
        quote(column),
        relation.sql()
    );
    sqlx::query_as(AssertSqlSafe(sql))
        .fetch_all(session.conn())
        .await
        .map_err(doing(format!("looking at the values of {relation}.{column}")))
}

/// Rows of a table that meet a condition, and all of them.
pub async fn count(session: &mut OwnerConnection, relation: &Relation, condition: &str) -> Result<(i64, i64)> {
    let sql = format!("select count(*) filter (where {condition}), count(*) from {} t", relation.sql());
    two_counts(session, sql, format!("counting {relation}")).await
}

async fn two_counts(session: &mut OwnerConnection, sql: String, what: String) -> Result<(i64, i64)> {
    sqlx::query_as(AssertSqlSafe(sql)).fetch_one(session.conn()).await.map_err(doing(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_tables() {
        for (table, word) in [
            ("accounts", "account"),
            ("companies", "company"),
            ("User", "user"),
            ("inboxes", "inbox"),
            ("teammembers", "team_member"),
        ] {
            assert!(is_named(table, word), "{table} {word}");
        }
        for (table, value) in [
            ("projects", "Project"),
            ("blog_posts", "BlogPost"),
            ("posts", "Blog::Post"),
            ("User", "App\\Models\\User"),
        ] {
            assert!(is_type(table, value), "{table} {value}");
        }
        assert!(!is_type("projects", "Robot"));
        assert!(!is_named("accounting", "account"));
        assert_eq!(stem("accountId").as_deref(), Some("account"));
        assert_eq!(stem("id"), None);
        assert_eq!(stem("paid"), None);
    }
}
