//! What lists of tickets are filtered by beside their columns: words, tags, custom fields, and what is the viewer's.
//!
//! Operators of text search, arrays and JSON are not leakproof, so that under row-level security no index answers them. Words
//! are looked for by a function of the database that knows the viewer's organization (`tenantry.search_tickets`); tags and custom
//! fields stand in tables of their own, as rows that are compared for equality.

use async_graphql::{InputObject, NewType};
use serde_json::Value;

use crate::access::Action;
use crate::db::Bind;
use crate::error::Result;
use crate::graphql::filter::{Comparator, Conditions};
use crate::sql_enum;

sql_enum! {
    /// The language that words of tickets are searched in: plural and singular are one word in it.
    pub enum SearchLanguage("tenantry.search_language") {
        /// None: every word as it stands, in lower case.
        Simple = "SIMPLE",
        /// Arabic.
        Arabic = "ARABIC",
        /// Danish.
        Danish = "DANISH",
        /// Dutch.
        Dutch = "DUTCH",
        /// English.
        English = "ENGLISH",
        /// Finnish.
        Finnish = "FINNISH",
        /// French.
        French = "FRENCH",
        /// German.
        German = "GERMAN",
        /// Greek.
        Greek = "GREEK",
        /// Hungarian.
        Hungarian = "HUNGARIAN",
        /// Italian.
        Italian = "ITALIAN",
        /// Norwegian.
        Norwegian = "NORWEGIAN",
        /// Portuguese.
        Portuguese = "PORTUGUESE",
        /// Romanian.
        Romanian = "ROMANIAN",
        /// Russian.
        Russian = "RUSSIAN",
        /// Spanish.
        Spanish = "SPANISH",
        /// Swedish.
        Swedish = "SWEDISH",
        /// Turkish.
        Turkish = "TURKISH",
    }
}

/// Most characters of what is searched for.
const MAX_SEARCH: usize = 500;
/// Most conditions on custom fields, and most values of one.
const MAX_VALUES: usize = 50;

/// Words that a ticket holds.
#[derive(Clone, Debug, NewType)]
pub struct SearchFilter(pub String);

impl Comparator for SearchFilter {
    fn conditions(&self, column: &str, sql: &mut Conditions<'_>) -> Result<()> {
        let text = self.0.trim();
        let length = text.chars().count();
        if length > MAX_SEARCH {
            return Err(sql.invalid(format!("`search` takes at most {MAX_SEARCH} characters; this has {length}.")));
        }
        if !text.chars().any(char::is_alphanumeric) {
            return Err(sql.invalid("`search` needs a word to look for: letters or digits."));
        }
        // Whoever may not read internal notes must not find out what they say.
        let with_notes = sql.allowed().has(Action::TicketNoteRead);
        let n = sql.bind(Bind::Text(text.to_owned()))?;
        sql.and(&format!("{column} in (select tenantry.search_tickets(${n}, {with_notes}))"))
    }
}

/// Conditions on the tags of a ticket; all given conditions must hold.
#[derive(Clone, Debug, Default, InputObject)]
pub struct TagFilter {
    /// Has this tag.
    pub has: Option<String>,
    /// Has at least one of these tags.
    pub has_any: Option<Vec<String>>,
    /// Has all of these tags.
    pub has_all: Option<Vec<String>>,
    /// Has none of these tags.
    pub has_none: Option<Vec<String>>,
    /// Whether the ticket has no tag.
    pub is_empty: Option<bool>,
}

impl Comparator for TagFilter {
    fn conditions(&self, column: &str, sql: &mut Conditions<'_>) -> Result<()> {
        let tagged = |condition: &str| {
            format!(
                "exists (select from tenantry.ticket_tags g
                    where g.organization_id = t.organization_id and g.ticket_id = {column}{condition})"
            )
        };
        let most = |sql: &Conditions<'_>, tags: &[String]| {
            let too_many = || sql.invalid(format!("A condition takes at most {MAX_VALUES} tags."));
            if tags.len() > MAX_VALUES { Err(too_many()) } else { Ok(()) }
        };
        for tag in self.has.iter().chain(self.has_all.iter().flatten()) {
            let n = sql.bind(Bind::Text(tag.clone()))?;
            sql.and(&tagged(&format!(" and g.tag = ${n}")))?;
        }
        if let Some(tags) = &self.has_any {
            most(sql, tags)?;
            let n = sql.bind(Bind::Texts(tags.clone()))?;
            sql.and(&tagged(&format!(" and g.tag = any(${n})")))?;
        }
        if let Some(tags) = &self.has_none {
            most(sql, tags)?;
            let n = sql.bind(Bind::Texts(tags.clone()))?;
            sql.and(&format!("not {}", tagged(&format!(" and g.tag = any(${n})"))))?;
        }
        match self.is_empty {
            Some(true) => sql.and(&format!("not {}", tagged(""))),
            Some(false) => sql.and(&tagged("")),
            None => Ok(()),
        }
    }
}

/// Conditions on one custom field. Numbers are compared as numbers, dates (`2027-01-31`) and texts as text. Of a field with several
/// values one must meet them.
#[derive(Clone, Debug, InputObject)]
pub struct CustomFieldFilter {
    /// Key of the field.
    pub key: String,
    /// Equals this value: a text, a number, `true` or `false`.
    pub eq: Option<Value>,
    /// Equals one of these values.
    #[graphql(name = "in")]
    pub in_: Option<Vec<Value>>,
    /// Is less than this value.
    pub lt: Option<Value>,
    /// Is at most this value.
    pub lte: Option<Value>,
    /// Is greater than this value.
    pub gt: Option<Value>,
    /// Is at least this value.
    pub gte: Option<Value>,
    /// Whether the ticket has no value.
    pub is_null: Option<bool>,
}

/// The column of a value, and the value.
fn bound(sql: &Conditions<'_>, value: &Value) -> Result<(&'static str, Bind)> {
    match value {
        Value::String(text) => Ok(("v.text_value", Bind::Text(text.clone()))),
        Value::Bool(is) => Ok(("v.text_value", Bind::Text(is.to_string()))),
        Value::Number(number) => {
            let number = number.as_f64().ok_or_else(|| sql.invalid("A number is too large."))?;
            Ok(("v.number_value", Bind::Float(number)))
        }
        _ => Err(sql.invalid("A custom field is compared with a text, a number, `true` or `false`.")),
    }
}

impl Comparator for CustomFieldFilter {
    fn conditions(&self, column: &str, sql: &mut Conditions<'_>) -> Result<()> {
        let key = sql.bind(Bind::Text(self.key.clone()))?;
        let valued = |condition: &str| {
            format!(
                "exists (select from tenantry.ticket_field_values v
                    where v.organization_id = t.organization_id and v.ticket_id = {column} and v.key = ${key}{condition})"
            )
        };
        let compared = [("=", &self.eq), ("<", &self.lt), ("<=", &self.lte), (">", &self.gt), (">=", &self.gte)];
        let mut conditions = String::new();
        for (operator, value) in compared {
            let Some(value) = value else { continue };
            let (of, value) = bound(sql, value)?;
            let n = sql.bind(value)?;
            conditions.push_str(&format!(" and {of} {operator} ${n}"));
        }
        if let Some(values) = &self.in_ {
            if values.len() > MAX_VALUES {
                return Err(sql.invalid(format!("`in` takes at most {MAX_VALUES} values.")));
            }
            let mut alternatives = String::from("false");
            for value in values {
                let (of, value) = bound(sql, value)?;
                let n = sql.bind(value)?;
                alternatives.push_str(&format!(" or {of} = ${n}"));
            }
            conditions.push_str(&format!(" and ({alternatives})"));
        }
        if !conditions.is_empty() {
            sql.and(&valued(&conditions))?;
        }
        match self.is_null {
            Some(true) => sql.and(&format!("not {}", valued(""))),
            Some(false) => sql.and(&valued("")),
            None => Ok(()),
        }
    }
}

/// Whether the ticket is the viewer's to work on.
#[derive(Clone, Debug, NewType)]
pub struct MineFilter(pub bool);

impl Comparator for MineFilter {
    fn conditions(&self, column: &str, sql: &mut Conditions<'_>) -> Result<()> {
        let own = "(select r.id from tenantry.representatives r
                     where r.organization_id = tenantry.current_org() and r.user_id = tenantry.current_user_id() and r.deleted_at is null)";
        sql.and(&if self.0 { format!("{column} = {own}") } else { format!("({column} = {own}) is not true") })
    }
}

/// Whether the viewer watches the ticket.
#[derive(Clone, Debug, NewType)]
pub struct WatchedFilter(pub bool);

impl Comparator for WatchedFilter {
    fn conditions(&self, column: &str, sql: &mut Conditions<'_>) -> Result<()> {
        let watched = format!(
            "exists (select from tenantry.ticket_watchers w
                where w.organization_id = t.organization_id and w.ticket_id = {column} and w.user_id = tenantry.current_user_id())"
        );
        sql.and(&if self.0 { watched } else { format!("not {watched}") })
    }
}
