//! `orderBy` and keyset pages: how a list is ordered and where a page begins.

use std::fmt::Write as _;

use async_graphql::Enum;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::db::Bind;
use crate::error::{Error, Result};
use crate::graphql::listing::Listed;
use crate::sql_enum::{SqlEnum, rank_column};

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
    /// The place of an enum's value, from the column `<column>_rank` ([`SqlEnum::RANKED`]).
    Rank,
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
    const KIND: CursorKind = if T::RANKED { CursorKind::Rank } else { CursorKind::Text(T::SQL_TYPE) };
    fn cursor_value(&self) -> CursorValue {
        if T::RANKED { CursorValue::Int(self.rank()) } else { CursorValue::Text(self.label().to_owned()) }
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

/// What `PostgreSQL` compares for one column. A column that can be missing takes two: whether it is missing, and its value
/// with a stand-in for the missing one. Neither is ever null, so that a page begins with one row comparison, which an index on
/// the same expressions answers from the right place. Missing values come last in ascending order.
///
/// `case` and not `coalesce`: under row-level security an index condition may hold only what `PostgreSQL` knows to be leakproof,
/// and `coalesce` is not on its list (`contain_leaked_vars`). Comparisons of enums are not leakproof either: a list that is
/// ordered by one needs its rank.
fn expressions(column: OrderColumn) -> Vec<String> {
    let OrderColumn { column, nullable, kind } = column;
    let rank;
    let column = if kind == CursorKind::Rank {
        rank = rank_column(column);
        &rank
    } else {
        column
    };
    if nullable {
        let stand_in = stand_in(kind);
        vec![format!("({column} is null)"), format!("(case when {column} is null then {stand_in} else {column} end)")]
    } else {
        vec![column.to_owned()]
    }
}

/// A value of this kind that is not null.
fn stand_in(kind: CursorKind) -> String {
    match kind {
        CursorKind::Int | CursorKind::Float | CursorKind::Rank => "0".to_owned(),
        CursorKind::Text("text") => "''".to_owned(),
        CursorKind::Text(sql_type) => format!("(enum_range(null::{sql_type}))[1]"),
        CursorKind::Time => "'-infinity'::timestamptz".to_owned(),
    }
}

/// `order by` for this order; the id makes it total.
#[must_use]
pub fn order_by<E: Listed>(order: &Order<E>, backward: bool) -> String {
    let mut text = String::new();
    let last = order.last().map_or(E::DEFAULT_ORDER.1, |(_, direction)| *direction);
    let columns = order.iter().flat_map(|(field, direction)| {
        expressions(E::order_column(*field)).into_iter().map(|expression| (expression, *direction))
    });
    for (expression, direction) in columns.chain([("t.id".to_owned(), last)]) {
        let direction = if backward { direction.reverse() } else { direction };
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}{expression} {}", if direction == Direction::Asc { "asc" } else { "desc" });
    }
    text
}

/// The condition for rows behind the cursor.
///
/// With one direction it is a row comparison, which an index answers from the right place. Otherwise it is spelled out level
/// by level, with the first column's bound repeated in front, so that an index on it still bounds the scan.
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
    let mut parts: Vec<(String, Direction, String)> = Vec::with_capacity(order.len() + 2);
    for ((field, direction), value) in order.iter().zip(values) {
        let column = E::order_column(*field);
        let bound = bind_cursor(column.kind, value)?;
        if bound.is_none() && !column.nullable {
            return Err(Error::InvalidCursor("after"));
        }
        let missing = bound.is_none().to_string();
        let parameter = match bound {
            None => stand_in(column.kind),
            Some((bind, cast)) => {
                binds.push(bind);
                format!("${}{cast}", offset + binds.len())
            }
        };
        let parameters = if column.nullable { vec![missing, parameter] } else { vec![parameter] };
        let direction = effective(*direction);
        parts.extend(expressions(column).into_iter().zip(parameters).map(|(column, value)| (column, direction, value)));
    }
    binds.push(Bind::Uuid(id));
    parts.push(("t.id".to_owned(), effective(last), format!("${}", offset + binds.len())));

    let (first, direction, bound) = &parts[0];
    if parts.iter().all(|part| part.1 == *direction) {
        let columns: Vec<&str> = parts.iter().map(|part| part.0.as_str()).collect();
        let parameters: Vec<&str> = parts.iter().map(|part| part.2.as_str()).collect();
        let operator = if *direction == Direction::Asc { ">" } else { "<" };
        return Ok(format!("({}) {operator} ({})", columns.join(", "), parameters.join(", ")));
    }
    let mut condition = String::from("false");
    for (column, direction, parameter) in parts.iter().rev() {
        let operator = if *direction == Direction::Asc { ">" } else { "<" };
        condition = format!("({column} {operator} {parameter} or ({column} = {parameter} and {condition}))");
    }
    let operator = if *direction == Direction::Asc { ">=" } else { "<=" };
    Ok(format!("{first} {operator} {bound} and {condition}"))
}

/// The parameter for a cursor's value and its cast; `None` is SQL NULL.
fn bind_cursor(kind: CursorKind, value: &CursorValue) -> Result<Option<(Bind, String)>> {
    Ok(Some(match (kind, value) {
        (_, CursorValue::Null) => return Ok(None),
        (CursorKind::Int | CursorKind::Rank, CursorValue::Int(value)) => (Bind::Int(*value), String::new()),
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
