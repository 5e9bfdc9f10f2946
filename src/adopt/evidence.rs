//! What the data says where the catalogue is silent: columns that refer to a table without a foreign key, and the values of
//! roles that really occur. Names only propose; a reference counts when its values are found.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;

use super::catalogue::{Catalogue, ForeignKey, TableInfo};
use super::check::type_family;
use super::name::{Relation, quote};
use super::{OwnerConnection, Result, doing};

/// Rows that are looked at to see whether a column refers to a table.
const SAMPLE: u32 = 10_000;
/// Words before the name of a table: `current_team_id` is a team.
const PREFIXES: [&str; 7] = ["current_", "default_", "active_", "selected_", "last_", "primary_", "home_"];
/// Words that stand for a user.
const PEOPLE: [&str; 6] = ["owner", "author", "creator", "created_by", "user", "member"];

/// What was found out, by table and column, for people.
pub type Notes = BTreeMap<(Relation, String), String>;

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
            if info.columns.iter().any(|other| other.name.eq_ignore_ascii_case(&format!("{stem}_type"))) {
                notes.insert(
                    (relation.clone(), column.name.clone()),
                    format!("`{}` refers to several tables: `{stem}_type` tells which", column.name),
                );
                continue;
            }
            let Some((target, key)) = target(tables, relation, users, &stem) else { continue };
            let same = target.column(&key).is_some_and(|theirs| type_family(theirs) == type_family(column));
            if !same || !target.readable {
                continue;
            }
            let (values, known) = share(session, relation, &column.name, &target.relation(), &key).await?;
            let other = target.relation();
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

/// Different values of a column, and how many of them are keys of the table.
async fn share(
    session: &mut OwnerConnection,
    relation: &Relation,
    column: &str,
    target: &Relation,
    key: &str,
) -> Result<(i64, i64)> {
    let sql = format!(
        "select count(*), count(*) filter (where exists (select from {} k where k.{} = s.value))
           from (select distinct value from (select t.{} as value from {} t where t.{2} is not null limit {SAMPLE}) r) s",
        target.sql(),
        quote(key),
        quote(column),
        relation.sql()
    );
    sqlx::query_as(AssertSqlSafe(sql))
        .fetch_one(session.conn())
        .await
        .map_err(doing(format!("looking at the values of {relation}.{column}")))
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
    sqlx::query_as(AssertSqlSafe(sql)).fetch_one(session.conn()).await.map_err(doing(format!("counting {relation}")))
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
        assert!(!is_named("accounting", "account"));
        assert_eq!(stem("accountId").as_deref(), Some("account"));
        assert_eq!(stem("id"), None);
        assert_eq!(stem("paid"), None);
    }
}
