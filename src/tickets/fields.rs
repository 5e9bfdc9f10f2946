//! Custom fields: what an organization knows of its tickets beside what every ticket has.
//!
//! A field has a key and a type, which never change, so that old values stay right. Values are checked when they are written;
//! of an archived field they stay, and none is added.

use std::collections::BTreeMap;

use async_graphql::{InputObject, MaybeUndefined};
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Map, Value, json};

use crate::access::Action;
use crate::graphql::filter::{DateTimeFilter, IntFilter};
use crate::graphql::mutation::{
    Checks, Done, Mutation, UserError, UserErrorCode, VerbError, VerbResult, Work, check_version,
};
use crate::id::{TicketFieldId, marker};
use crate::tickets::assignment;
use crate::{entity, listing, relations, sql_enum};

sql_enum! {
    /// What a custom field holds.
    pub enum TicketFieldType("tenantry.ticket_field_type") {
        /// A text of at most 1,000 characters.
        Text = "TEXT",
        /// A number.
        Number = "NUMBER",
        /// `true` or `false`.
        Boolean = "BOOLEAN",
        /// A date: `2027-01-31`.
        Date = "DATE",
        /// One of the options.
        Select = "SELECT",
        /// Several of the options.
        MultiSelect = "MULTI_SELECT",
    }
}

entity! {
    /// A custom field of tickets.
    #[graphql(complex)]
    pub struct TicketField("ticket_fields", read by OrganizationRead) {
        /// Unique id.
        pub id: TicketFieldId,
        /// Key in `customFields`.
        pub key: String,
        /// Name, for people.
        pub name: String,
        /// Explanation, for people.
        pub description: Option<String>,
        /// What it holds.
        #[graphql(name = "type")]
        pub kind: TicketFieldType = "type",
        /// What SELECT and `MULTI_SELECT` choose from.
        pub options: Vec<String>,
        /// Whether new tickets need a value.
        pub is_required: bool,
        /// Order in forms.
        pub position: i32,
        /// When it was archived; null: it is in use.
        pub archived_at: Option<DateTime<Utc>>,
        /// Version; incremented by every change. Pass it as `expectedVersion`.
        pub version: i32,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    TicketField: TicketFieldFilter, TicketFieldOrder by TicketFieldOrderField, default Position Asc;
    /// Order in forms.
    position: IntFilter, Position;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    TicketField {}
    computed {
        /// Whether it takes no new values.
        is_archived: bool = |row| row.archived_at.is_some();
    }
}

/// Most fields that are in use, most options of one, most characters of an option, of a text value and of a name.
const MAX_FIELDS: i64 = 100;
const MAX_OPTIONS: usize = 200;
const MAX_OPTION: usize = 100;
const MAX_VALUE: usize = 1000;
/// Most bytes of all values of a ticket, as JSON.
const MAX_BYTES: usize = 128 * 1024;
const MAX_NAME: usize = 100;

/// The fields of a new custom field.
#[derive(Clone, Debug, InputObject)]
pub struct TicketFieldCreateInput {
    /// Key in `customFields`: a lower case letter, then up to 49 lower case letters, digits and `_`. Never changes.
    pub key: String,
    /// Name: 1 to 100 characters.
    pub name: String,
    /// Explanation: at most 1,000 characters.
    pub description: Option<String>,
    /// What it holds. Never changes.
    #[graphql(name = "type")]
    pub kind: TicketFieldType,
    /// What SELECT and `MULTI_SELECT` choose from: 1 to 200, each of 1 to 100 characters.
    pub options: Option<Vec<String>>,
    /// Whether new tickets need a value; false by default.
    pub is_required: Option<bool>,
    /// Order in forms; 0 by default.
    pub position: Option<i32>,
}

/// The changes of a custom field. Omitted fields stay as they are.
#[derive(Clone, Debug, InputObject)]
pub struct TicketFieldUpdateInput {
    /// The custom field.
    pub id: TicketFieldId,
    /// Name: 1 to 100 characters.
    pub name: Option<String>,
    /// Explanation: at most 1,000 characters; null removes it.
    pub description: MaybeUndefined<String>,
    /// What SELECT and `MULTI_SELECT` choose from, replaced as a whole. Tickets keep values that are not among them any more.
    pub options: Option<Vec<String>>,
    /// Whether new tickets need a value.
    pub is_required: Option<bool>,
    /// Order in forms.
    pub position: Option<i32>,
    /// Whether it is archived: tickets keep their values and take no new ones.
    pub is_archived: Option<bool>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

fn check_options(checks: &mut Checks, kind: TicketFieldType, options: &[String]) -> Vec<String> {
    let chooses = matches!(kind, TicketFieldType::Select | TicketFieldType::MultiSelect);
    if chooses == options.is_empty() || options.len() > MAX_OPTIONS {
        let message = format!("SELECT and MULTI_SELECT take 1 to {MAX_OPTIONS} options, the other types none.");
        checks.refuse("options", UserErrorCode::Invalid, message);
    }
    let options: Vec<String> = options.iter().map(|option| checks.required("options", option, MAX_OPTION)).collect();
    let mut once = options.clone();
    once.sort_unstable();
    once.dedup();
    if once.len() != options.len() {
        checks.refuse("options", UserErrorCode::Invalid, "Each option must be there once.");
    }
    options
}

impl Mutation for TicketFieldCreateInput {
    type Row = marker::TicketField;
    const FIELD: &'static str = "ticketFieldCreate";
    const ACTION: Action = Action::TicketConfigure;
    const AUDIT: &'static str = "ticket_field.create";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let mut letters = self.key.chars();
        let is_key = letters.next().is_some_and(|first| first.is_ascii_lowercase())
            && letters.all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
            && self.key.len() <= 50;
        if !is_key {
            let message = "`key` takes a lower case letter, then up to 49 lower case letters, digits and `_`.";
            checks.refuse("key", UserErrorCode::Invalid, message);
        }
        let name = checks.required("name", &self.name, MAX_NAME);
        let description = self.description.map(|text| checks.text("description", text.trim(), MAX_VALUE));
        let options = check_options(&mut checks, self.kind, &self.options.unwrap_or_default());
        checks.finish()?;
        let organization = work.tenant().organization_id;
        // The counter of tickets is the lock of their settings.
        assignment::lock_desk(work.tx.conn(), organization).await?;
        let known = sqlx::query!(
            r#"select count(*) filter (where archived_at is null) as "used!", count(*) filter (where key = $2) as "same!"
                 from tenantry.ticket_fields where organization_id = $1"#,
            organization as _,
            self.key
        )
        .fetch_one(work.tx.conn())
        .await?;
        if known.same > 0 {
            let message = "There is a custom field with this key, perhaps an archived one.";
            return Err(VerbError::user("key", UserErrorCode::Conflict, message));
        }
        if known.used >= MAX_FIELDS {
            let message = format!("An organization has at most {MAX_FIELDS} custom fields: archive one first.");
            return Err(VerbError::of_input(UserErrorCode::TooLong, message));
        }
        let id = work.new_id();
        sqlx::query!(
            "insert into tenantry.ticket_fields (organization_id, id, key, name, description, type, options, is_required, position, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
            organization as _,
            id as _,
            self.key,
            name,
            description,
            self.kind as _,
            &options,
            self.is_required.unwrap_or(false),
            self.position.unwrap_or(0),
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        Ok(Done { id, audit: json!({ "after": { "key": self.key, "type": self.kind } }), event: None })
    }
}

impl Mutation for TicketFieldUpdateInput {
    type Row = marker::TicketField;
    const FIELD: &'static str = "ticketFieldUpdate";
    const ACTION: Action = Action::TicketConfigure;
    const AUDIT: &'static str = "ticket_field.update";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let organization = work.tenant().organization_id;
        let before = sqlx::query!(
            r#"select key, type as "kind: TicketFieldType", is_required, archived_at, version
                 from tenantry.ticket_fields where organization_id = $1 and id = $2 for update"#,
            organization as _,
            self.id as _
        )
        .fetch_optional(work.tx.conn())
        .await?;
        let Some(before) = before else {
            let message = "There is no such custom field in this organization.";
            return Err(VerbError::user("id", UserErrorCode::NotFound, message));
        };
        check_version(self.expected_version, before.version)?;
        let mut checks = Checks::default();
        let name = self.name.as_deref().map(|name| checks.required("name", name, MAX_NAME));
        let description = self.description.map_value(|text| checks.text("description", text.trim(), MAX_VALUE));
        let options = self.options.as_deref().map(|options| check_options(&mut checks, before.kind, options));
        checks.finish()?;
        let archived_at = match self.is_archived {
            None => before.archived_at,
            Some(true) => before.archived_at.or(Some(work.now)),
            Some(false) => None,
        };
        let is_required = self.is_required.unwrap_or(before.is_required);
        sqlx::query!(
            "update tenantry.ticket_fields
                set name = coalesce($3, name), description = case when $4 then $5 else description end, options = coalesce($6, options),
                    is_required = $7, position = coalesce($8, position), archived_at = $9, version = version + 1
              where organization_id = $1 and id = $2",
            organization as _,
            self.id as _,
            name,
            !description.is_undefined(),
            description.value(),
            options.as_deref(),
            is_required,
            self.position,
            archived_at
        )
        .execute(work.tx.conn())
        .await?;
        Ok(Done {
            id: self.id,
            audit: json!({
                "before": { "isRequired": before.is_required, "isArchived": before.archived_at.is_some() },
                "after": { "key": before.key, "isRequired": is_required, "isArchived": archived_at.is_some() },
            }),
            event: None,
        })
    }
}

/// A custom field as values are checked against it.
struct Definition {
    kind: TicketFieldType,
    options: Vec<String>,
    is_required: bool,
    is_archived: bool,
}

/// The values of a ticket after what was given: null removes one, what is not named stays.
///
/// # Errors
/// [`VerbError::User`] with the key in the path of each value that is refused.
pub(super) async fn filled(
    work: &mut Work<'_>,
    given: Option<&Value>,
    before: &Map<String, Value>,
    is_new: bool,
) -> VerbResult<Map<String, Value>> {
    let none = Map::new();
    let given = match given {
        None | Some(Value::Null) => &none,
        Some(Value::Object(given)) => given,
        Some(_) => {
            let message = "`customFields` takes an object from keys to values.";
            return Err(VerbError::user("customFields", UserErrorCode::Invalid, message));
        }
    };
    if given.is_empty() && !is_new {
        return Ok(before.clone());
    }
    let rows = sqlx::query!(
        r#"select key, type as "kind: TicketFieldType", options, is_required, archived_at is not null as "is_archived!"
             from tenantry.ticket_fields where organization_id = $1"#,
        work.tenant().organization_id as _
    )
    .fetch_all(work.tx.conn())
    .await?;
    let known: BTreeMap<String, Definition> = rows
        .into_iter()
        .map(|row| {
            let (kind, options, is_required, is_archived) = (row.kind, row.options, row.is_required, row.is_archived);
            (row.key, Definition { kind, options, is_required, is_archived })
        })
        .collect();
    let mut errors = Vec::new();
    let mut refuse = |key: &str, code, message: String| {
        errors.push(UserError::at(&["customFields", key], code, message));
    };
    let mut values = before.clone();
    for (key, value) in given {
        let Some(definition) = known.get(key) else {
            refuse(key, UserErrorCode::NotFound, format!("There is no custom field `{key}`."));
            continue;
        };
        if value.is_null() {
            if definition.is_required && !definition.is_archived {
                refuse(key, UserErrorCode::Blank, format!("`{key}` must have a value."));
            }
            values.remove(key);
            continue;
        }
        match checked(definition, value) {
            Err(message) => refuse(key, UserErrorCode::Invalid, format!("`{key}`: {message}")),
            Ok(_) if definition.is_archived && before.get(key) != Some(value) => {
                refuse(key, UserErrorCode::Invalid, format!("`{key}` is archived: it takes no new values."));
            }
            Ok(value) => drop(values.insert(key.clone(), value)),
        }
    }
    if is_new {
        for (key, _) in known.iter().filter(|(key, field)| {
            field.is_required && !field.is_archived && !values.contains_key(*key) && !given.contains_key(*key)
        }) {
            refuse(key, UserErrorCode::Blank, format!("`{key}` must have a value."));
        }
    }
    if Value::Object(values.clone()).to_string().len() > MAX_BYTES {
        let message = format!("All values of a ticket together take at most {MAX_BYTES} bytes.");
        errors.push(UserError::new("customFields", UserErrorCode::TooLong, message));
    }
    if errors.is_empty() { Ok(values) } else { Err(VerbError::User(errors)) }
}

/// The value as it is kept, or what would be right.
fn checked(field: &Definition, value: &Value) -> Result<Value, String> {
    let text = |value: &Value, most: usize| match value {
        Value::String(text) if text.contains('\0') => Err("it must not hold the character NUL (U+0000).".to_owned()),
        Value::String(text) if text.trim().is_empty() => Err("it must not be empty.".to_owned()),
        Value::String(text) if text.chars().count() <= most => Ok(text.trim().to_owned()),
        _ => Err(format!("it takes a text of at most {most} characters.")),
    };
    let option = |value: &Value| {
        let text = text(value, MAX_OPTION)?;
        if field.options.contains(&text) {
            Ok(text)
        } else {
            Err(format!("it takes one of {}.", field.options.join(", ")))
        }
    };
    match field.kind {
        TicketFieldType::Text => text(value, MAX_VALUE).map(Value::String),
        TicketFieldType::Number => match value.as_f64() {
            Some(number) if number.is_finite() => Ok(value.clone()),
            _ => Err("it takes a number.".to_owned()),
        },
        TicketFieldType::Boolean => {
            if value.is_boolean() {
                Ok(value.clone())
            } else {
                Err("it takes `true` or `false`.".to_owned())
            }
        }
        TicketFieldType::Date => {
            let wrong = || "it takes a date: `2027-01-31`.".to_owned();
            let text = text(value, 10).map_err(|_| wrong())?;
            let date: NaiveDate = text.parse().map_err(|_| wrong())?;
            let written = date.format("%Y-%m-%d").to_string();
            // Dates are compared as texts.
            if written == text { Ok(Value::String(text)) } else { Err(wrong()) }
        }
        TicketFieldType::Select => option(value).map(Value::String),
        TicketFieldType::MultiSelect => {
            let list = value.as_array().ok_or("it takes a list of options.")?;
            let mut chosen = list.iter().map(option).collect::<Result<Vec<_>, _>>()?;
            chosen.sort_unstable();
            chosen.dedup();
            if chosen.is_empty() {
                return Err("it takes at least one option; null removes the value.".to_owned());
            }
            Ok(json!(chosen))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(kind: TicketFieldType, options: &[&str]) -> Definition {
        let options = options.iter().map(ToString::to_string).collect();
        Definition { kind, options, is_required: false, is_archived: false }
    }

    #[test]
    fn values_are_of_their_type() {
        use TicketFieldType::{Boolean, Date, MultiSelect, Number, Select, Text};
        let long = "x".repeat(1001);
        let colours = &["red", "green"][..];
        let right = [
            (Text, json!(" a "), json!("a")),
            (Number, json!(-1.5), json!(-1.5)),
            (Boolean, json!(false), json!(false)),
            (Date, json!("2028-02-29"), json!("2028-02-29")),
            (Select, json!("red"), json!("red")),
            (MultiSelect, json!(["red", "green", "red"]), json!(["green", "red"])),
        ];
        for (kind, given, kept) in right {
            let options = if matches!(kind, Select | MultiSelect) { colours } else { &[] };
            assert_eq!(checked(&field(kind, options), &given), Ok(kept));
        }
        let wrong = [
            (Text, json!(1)),
            (Text, json!("  ")),
            (Text, json!("a\u{0}")),
            (Text, json!(long)),
            (Number, json!("1")),
            (Boolean, json!("true")),
            (Date, json!("2027-02-29")),
            (Date, json!("+12027-01-01")),
            (Date, json!("2027-1-1")),
            (Select, json!("blue")),
            (Select, json!(["red"])),
            (MultiSelect, json!([])),
            (MultiSelect, json!("red")),
            (MultiSelect, json!([["red"]])),
        ];
        for (kind, given) in wrong {
            assert!(checked(&field(kind, colours), &given).is_err(), "{kind:?} {given}");
        }
    }
}
