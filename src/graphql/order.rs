//! `orderBy` and keyset pages: how a list is ordered and where a page begins.

use std::fmt::Write as _;

use async_graphql::Enum;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::graphql::filter::Bind;
use crate::graphql::listing::Listed;
use crate::sql_enum::SqlEnum;

/// The direction of an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Enum)]
pub enum Direction {
    /// Smallest, oldest, A first; nulls last.
    #[default]
    Asc,
    /// Greatest, newest, Z first; nulls first.
    Desc,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub fn reverse(self) -> Self {
        match self {
            Self::Asc => Self::Desc,
            Self::Desc => Self::Asc,
        }
    }
}

/// How the value of an order column travels in a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorKind {
    /// A whole number.
    Int,
    /// A number with a fraction.
    Float,
    /// A text, cast to this SQL type.
    Text(&'static str),
    /// A moment, in microseconds since 1970, which is `PostgreSQL`'s resolution.
    Time,
}

/// A value in a cursor.
#[derive(Clone, Debug, PartialEq)]
pub enum CursorValue {
    /// SQL NULL.
    Null,
    /// See [`CursorKind::Int`]; also a [`CursorKind::Time`].
    Int(i64),
    /// See [`CursorKind::Float`].
    Float(f64),
    /// See [`CursorKind::Text`].
    Text(String),
}

/// A Rust type that lists can be ordered by.
pub trait OrderValue {
    /// How it travels.
    const KIND: CursorKind;
    /// Whether it can be missing.
    const NULLABLE: bool = false;
    /// The value for a cursor.
    fn cursor_value(&self) -> CursorValue;
}

impl<T: OrderValue> OrderValue for Option<T> {
    const KIND: CursorKind = T::KIND;
    const NULLABLE: bool = true;
    fn cursor_value(&self) -> CursorValue {
        self.as_ref().map_or(CursorValue::Null, OrderValue::cursor_value)
    }
}
impl OrderValue for i64 {
    const KIND: CursorKind = CursorKind::Int;
    fn cursor_value(&self) -> CursorValue {
        CursorValue::Int(*self)
    }
}
impl OrderValue for i32 {
    const KIND: CursorKind = CursorKind::Int;
    fn cursor_value(&self) -> CursorValue {
        CursorValue::Int(i64::from(*self))
    }
}
impl OrderValue for f64 {
    const KIND: CursorKind = CursorKind::Float;
    fn cursor_value(&self) -> CursorValue {
        CursorValue::Float(*self)
    }
}
impl OrderValue for String {
    const KIND: CursorKind = CursorKind::Text("text");
    fn cursor_value(&self) -> CursorValue {
        CursorValue::Text(self.clone())
    }
}
impl OrderValue for DateTime<Utc> {
    const KIND: CursorKind = CursorKind::Time;
    fn cursor_value(&self) -> CursorValue {
        CursorValue::Int(self.timestamp_micros())
    }
}

impl<T: SqlEnum> OrderValue for T {
    const KIND: CursorKind = CursorKind::Text(T::SQL_TYPE);
    fn cursor_value(&self) -> CursorValue {
        CursorValue::Text(self.label().to_owned())
    }
}

/// A column that a list can be ordered by.
#[derive(Clone, Copy, Debug)]
pub struct OrderColumn {
    /// The SQL, with the alias `t`.
    pub column: &'static str,
    /// Whether it can be missing.
    pub nullable: bool,
    /// How it travels.
    pub kind: CursorKind,
}

impl OrderColumn {
    /// The column behind a field of a row: the field's type tells how it travels and whether it can be missing.
    #[must_use]
    pub const fn of<E, T: OrderValue>(column: &'static str, _: fn(&E) -> &T) -> Self {
        Self { column, nullable: T::NULLABLE, kind: T::KIND }
    }
}

/// The order of a list, direction by direction, ready for SQL.
pub type Order<E> = Vec<(<E as Listed>::OrderField, Direction)>;

/// `order by` for this order; the id makes it total.
#[must_use]
pub fn order_by<E: Listed>(order: &Order<E>, backward: bool) -> String {
    let mut text = String::new();
    let last = order.last().map_or(E::DEFAULT_ORDER.1, |(_, direction)| *direction);
    for (column, direction) in
        order.iter().map(|(field, direction)| (E::order_column(*field).column, *direction)).chain([("t.id", last)])
    {
        let direction = if backward { direction.reverse() } else { direction };
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}{column} {}", if direction == Direction::Asc { "asc" } else { "desc" });
    }
    text
}

/// The condition for rows behind the cursor.
///
/// Without missing values and with one direction it is a row comparison, which an index answers from the right place.
/// Otherwise it is spelled out level by level, with the first column's bound repeated in front, so that an index on it
/// still bounds the scan. `PostgreSQL` sorts missing values as greater than all others.
pub fn keyset<E: Listed>(
    order: &Order<E>,
    values: &[CursorValue],
    id: Uuid,
    backward: bool,
    binds: &mut Vec<Bind>,
    offset: usize,
) -> Result<String> {
    let last = order.last().map_or(E::DEFAULT_ORDER.1, |(_, direction)| *direction);
    let effective = |direction: Direction| if backward { direction.reverse() } else { direction };
    let mut parts = Vec::with_capacity(order.len() + 1);
    for ((field, direction), value) in order.iter().zip(values) {
        let column = E::order_column(*field);
        let parameter = match bind_cursor(column.kind, value)? {
            None => None,
            Some((bind, cast)) => {
                binds.push(bind);
                Some(format!("${}{cast}", offset + binds.len()))
            }
        };
        parts.push((column.column, column.nullable, effective(*direction), parameter));
    }
    binds.push(Bind::Uuid(id));
    parts.push(("t.id", false, effective(last), Some(format!("${}", offset + binds.len()))));

    let first_direction = parts[0].2;
    if parts.iter().all(|(_, nullable, direction, _)| !nullable && *direction == first_direction) {
        let columns: Vec<&str> = parts.iter().map(|part| part.0).collect();
        let parameters: Vec<&str> = parts.iter().filter_map(|part| part.3.as_deref()).collect();
        let operator = if first_direction == Direction::Asc { ">" } else { "<" };
        return Ok(format!("({}) {operator} ({})", columns.join(", "), parameters.join(", ")));
    }

    let mut condition = String::from("false");
    for (column, nullable, direction, parameter) in parts.iter().rev() {
        let (behind, equal) = match (parameter, direction) {
            (Some(p), Direction::Asc) if *nullable => {
                (format!("({column} > {p} or {column} is null)"), format!("{column} = {p}"))
            }
            (Some(p), Direction::Asc) => (format!("{column} > {p}"), format!("{column} = {p}")),
            (Some(p), Direction::Desc) => (format!("{column} < {p}"), format!("{column} = {p}")),
            (None, Direction::Asc) => ("false".to_owned(), format!("{column} is null")),
            (None, Direction::Desc) => (format!("{column} is not null"), format!("{column} is null")),
        };
        condition = format!("({behind} or ({equal} and {condition}))");
    }
    if let (column, false, direction, Some(p)) = &parts[0] {
        let operator = if *direction == Direction::Asc { ">=" } else { "<=" };
        condition = format!("{column} {operator} {p} and {condition}");
    }
    Ok(condition)
}

/// The parameter for a cursor's value and its cast; `None` is SQL NULL.
fn bind_cursor(kind: CursorKind, value: &CursorValue) -> Result<Option<(Bind, String)>> {
    Ok(Some(match (kind, value) {
        (_, CursorValue::Null) => return Ok(None),
        (CursorKind::Int, CursorValue::Int(value)) => (Bind::Int(*value), String::new()),
        (CursorKind::Float, CursorValue::Float(value)) => (Bind::Float(*value), String::new()),
        (CursorKind::Text(sql_type), CursorValue::Text(value)) => {
            (Bind::Text(value.clone()), if sql_type == "text" { String::new() } else { format!("::{sql_type}") })
        }
        (CursorKind::Time, CursorValue::Int(micros)) => {
            (Bind::Time(DateTime::from_timestamp_micros(*micros).ok_or(Error::InvalidCursor("after"))?), String::new())
        }
        _ => return Err(Error::InvalidCursor("after")),
    }))
}
