//! Checks values against the types of inputs: literals of documents and variables of requests alike. GraphQL specification,
//! section 3 ("Input Coercion" of each kind of type) and 5.6 "Values".
//!
//! Every fault names its path as the caller wrote it (`input.tickets[2].amount`, `$input.subject`), the value, what would be
//! right, and the place in the schema (a schema coordinate, section 3.14).

use async_graphql::parser::types::{BaseType, Type};
use async_graphql::{InputType, Name, Pos, ServerError, Value as ConstValue};
use chrono::{DateTime, Utc};

use super::catalog::{Catalog, Input, InputField, Kind};
use super::failure::coded;
use super::told::{Article, Choice, Coordinate, Path, Shown, is_secret};
use crate::error::Code;
use crate::graphql::money::{CurrencyCode, Decimal};
use crate::id;

/// What is wrong with a value.
#[derive(Debug)]
pub(super) struct Fault {
    path: String,
    what: String,
    coordinate: String,
}

impl Fault {
    /// The error for the caller.
    pub(super) fn error(self, code: Code, pos: Option<Pos>) -> ServerError {
        let Self { path, what, coordinate } = self;
        let see = if coordinate.is_empty() { String::new() } else { format!(" See {coordinate}.") };
        let stop = if what.ends_with('?') { "" } else { "." };
        let mut error = coded(code, format!("{path}: {what}{stop}{see}"), pos);
        error.extensions.get_or_insert_default().set("field", path);
        error
    }
}

/// What a place takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected<'a> {
    pub(super) ty: &'a Type,
    /// The type whose ids it takes.
    pub(super) ids_of: Option<&'a str>,
    pub(super) has_default: bool,
    /// Whether it is a field of a `@oneOf` input.
    pub(super) one_of: bool,
    pub(super) at: Coordinate<'a>,
}

impl<'a> Expected<'a> {
    /// What an argument or a field of an input takes.
    pub(super) fn of(field: &'a InputField, at: Coordinate<'a>) -> Self {
        Self { ty: &field.ty, ids_of: field.ids_of.as_deref(), has_default: field.has_default, one_of: false, at }
    }

    /// What a variable of this type takes.
    pub(super) fn of_variable(ty: &'a Type) -> Self {
        Self { ty, ids_of: None, has_default: false, one_of: false, at: Coordinate::Variable }
    }

    fn item(self, ty: &'a Type) -> Self {
        Self { ty, has_default: false, one_of: false, ..self }
    }
}

/// A variable in the place of a value.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Usage {
    pub(super) variable: String,
    /// What the place takes; `None` where the schema has no such place.
    pub(super) place: Option<UsagePlace>,
}

/// What a place with a variable takes.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct UsagePlace {
    pub(super) ty: String,
    pub(super) has_default: bool,
    pub(super) one_of: bool,
    pub(super) ids_of: Option<String>,
    pub(super) coordinate: String,
}

/// Checks values.
pub(super) struct Check<'a> {
    pub(super) catalog: &'a Catalog,
    /// Levels of lists and objects.
    pub(super) max_depth: usize,
    /// Whether the values are literals: then names are enum values, and `ConstValue::Binary` stands for the variable of that
    /// name, which no other value does.
    pub(super) literal: bool,
    /// The variables among the literals.
    pub(super) usages: Vec<Usage>,
}

impl Check<'_> {
    /// Checks a value, and coerces it: one value becomes a list of one where a list is expected, a whole number a text
    /// where an id is.
    pub(super) fn value(
        &mut self,
        expected: Expected<'_>,
        value: &mut ConstValue,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<(), Fault> {
        let ty = expected.ty;
        let wrong = |what: String| Fault::new(path, what, &expected.at);
        if depth > self.max_depth {
            return Err(wrong(format!("more than {} levels", self.max_depth)));
        }
        match value {
            ConstValue::Binary(name) if self.literal => {
                let place = UsagePlace {
                    ty: ty.to_string(),
                    has_default: expected.has_default,
                    one_of: expected.one_of,
                    ids_of: expected.ids_of.map(str::to_owned),
                    coordinate: expected.at.to_string(),
                };
                let variable = String::from_utf8_lossy(name).into_owned();
                self.usages.push(Usage { variable, place: Some(place) });
                return Ok(());
            }
            ConstValue::Null if ty.nullable => return Ok(()),
            ConstValue::Null => return Err(wrong(format!("null is not allowed, the type is {ty}"))),
            _ => {}
        }
        match &ty.base {
            BaseType::List(inner) => {
                let inner = expected.item(inner);
                if let ConstValue::List(items) = value {
                    for (index, item) in items.iter_mut().enumerate() {
                        self.value(inner, item, &path.item(index), depth + 1)?;
                    }
                    Ok(())
                } else {
                    self.value(inner, value, path, depth + 1)?;
                    *value = ConstValue::List(vec![std::mem::take(value)]);
                    Ok(())
                }
            }
            BaseType::Named(name) => self.named(expected, name, value, path, depth),
        }
    }

    fn named(
        &mut self,
        expected: Expected<'_>,
        name: &Name,
        value: &mut ConstValue,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<(), Fault> {
        let wrong = |what: String| Fault::new(path, what, &expected.at);
        match self.catalog.kind(name) {
            Some(Kind::Enum(values)) => match value {
                ConstValue::String(given) if !self.literal && values.contains(given) => Ok(()),
                ConstValue::Enum(given) if values.iter().any(|value| given == value) => Ok(()),
                ConstValue::String(given) if self.literal && values.contains(given) => {
                    Err(wrong(format!("{} is a text; write the value of {name} without quotes", Shown(value, path))))
                }
                _ => {
                    Err(wrong(format!("{} is not {}; it takes {}", Shown(value, path), Article(name), Choice(values))))
                }
            },
            Some(Kind::Input(input)) => match value {
                ConstValue::Object(_) => self.input(expected, name, input, value, path, depth),
                _ => Err(wrong(format!("{} is not {}, which is an object", Shown(value, path), Article(name)))),
            },
            _ => {
                self.text(value, path, &expected.at, depth)?;
                scalar(name, expected.ids_of, value, path, self.literal).map_err(wrong)
            }
        }
    }

    fn input(
        &mut self,
        expected: Expected<'_>,
        name: &Name,
        input: &Input,
        value: &mut ConstValue,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<(), Fault> {
        let ConstValue::Object(given) = value else { return Ok(()) };
        for (field, field_value) in given.iter_mut() {
            let below = path.field(field);
            let Some((known, declared)) = input.fields.iter().find(|(known, _)| field == known) else {
                let near = self.catalog.near(field, input.fields.iter().map(|(known, _)| known.as_str()));
                let near = near.map(|near| format!(". Did you mean {name}.{near}?")).unwrap_or_default();
                let what = format!("{name} has no such field{near}");
                return Err(Fault { path: below.to_string(), what, coordinate: String::new() });
            };
            let declared = Expected::of(declared, Coordinate::Field(name, known));
            self.value(Expected { one_of: input.one_of, ..declared }, field_value, &below, depth + 1)?;
        }
        let missing =
            input.fields.iter().find(|(field, known)| known.required() && !given.contains_key(field.as_str()));
        if let Some((missing, _)) = missing {
            let at = Coordinate::Field(name, missing);
            return Err(Fault::new(&path.field(missing), format!("{name} requires this field"), &at));
        }
        if input.one_of && (given.len() != 1 || given.values().any(|value| *value == ConstValue::Null)) {
            let fields: Vec<String> = input.fields.iter().map(|(field, _)| field.clone()).collect();
            let what = format!("exactly one field of {name} is to be given, and not null: {}", Choice(&fields));
            return Err(Fault::new(path, what, &expected.at));
        }
        Ok(())
    }

    /// No text in the database can hold NUL (`PostgreSQL` documentation, section 8.3).
    fn text(&self, value: &ConstValue, path: &Path<'_>, at: &Coordinate<'_>, depth: usize) -> Result<(), Fault> {
        const NUL: &str = "contains a NUL character, which no text here can hold";
        if depth > self.max_depth {
            return Err(Fault::new(path, format!("more than {} levels", self.max_depth), at));
        }
        match value {
            ConstValue::String(text) if text.contains('\0') => Err(Fault::new(path, format!("the text {NUL}"), at)),
            ConstValue::List(items) => items.iter().try_for_each(|item| self.text(item, path, at, depth + 1)),
            ConstValue::Object(fields) => fields.iter().try_for_each(|(name, field)| {
                if name.contains('\0') {
                    return Err(Fault::new(path, format!("a key {NUL}"), at));
                }
                self.text(field, path, at, depth + 1)
            }),
            _ => Ok(()),
        }
    }
}

impl Fault {
    /// A fault of a variable as a whole.
    pub(super) fn of_variable(path: &Path<'_>, what: String) -> Self {
        Self::new(path, what, &Coordinate::Variable)
    }

    fn new(path: &Path<'_>, what: String, at: &Coordinate<'_>) -> Self {
        Self { path: path.to_string(), what, coordinate: at.to_string() }
    }
}

/// Checks that texts, in lists or not, are ids of a type.
pub(super) fn check_ids(value: &ConstValue, ids_of: &str, path: &Path<'_>, coordinate: &str) -> Result<(), Fault> {
    match value {
        ConstValue::List(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| check_ids(item, ids_of, &path.item(index), coordinate)),
        value => check_id(value, ids_of, path).map_err(|what| Fault {
            path: path.to_string(),
            what,
            coordinate: coordinate.to_owned(),
        }),
    }
}

fn check_id(value: &ConstValue, ids_of: &str, path: &Path<'_>) -> Result<(), String> {
    let text = match value {
        ConstValue::String(text) => text.clone(),
        ConstValue::Number(number) => number.to_string(),
        _ => return Ok(()),
    };
    id::check(&text, ids_of)
        .map_err(|message| if is_secret(&text, path) { "this is not an id".to_owned() } else { message })
}

/// Whether a scalar takes a value, and what it takes.
fn scalar(
    name: &str,
    ids_of: Option<&str>,
    value: &mut ConstValue,
    path: &Path<'_>,
    literal: bool,
) -> Result<(), String> {
    let read = |value: &ConstValue| Some(value.clone());
    let fits = match (name, &*value) {
        ("Int", ConstValue::Number(number)) => number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        ("Float", ConstValue::Number(_))
        | ("String" | "ID", ConstValue::String(_))
        | ("Boolean", ConstValue::Boolean(_)) => true,
        ("ID", ConstValue::Number(number)) => number.is_i64() || (number.is_u64() && !literal),
        ("Int" | "Float" | "String" | "ID" | "Boolean", _) => false,
        ("DateTime", value) => <DateTime<Utc> as InputType>::parse(read(value)).is_ok(),
        ("Decimal", value) => <Decimal as InputType>::parse(read(value)).is_ok(),
        ("CurrencyCode", value) => <CurrencyCode as InputType>::parse(read(value)).is_ok(),
        // Scalars that take anything. A test says which the schema has.
        _ => true,
    };
    if !fits {
        return Err(format!("{} is not {}", Shown(value, path), Article(name)));
    }
    if name != "ID" {
        return Ok(());
    }
    if let ConstValue::Number(number) = &value {
        *value = ConstValue::String(number.to_string());
    }
    ids_of.map_or(Ok(()), |ids_of| check_id(value, ids_of, path))
}
