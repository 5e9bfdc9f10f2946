//! The one builder of SQL for lists: `where`, `orderBy` and keyset cursors.
//!
//! A list is `select … from table t where t.organization_id = $1 [and t.parent = p.key] [and conditions] [and after the
//! cursor] order by … limit n`. Column names come from the slices' declarations, never from the caller; values are
//! always bound.

use std::fmt::Write as _;
use std::hash::{Hash, Hasher};

use async_graphql::{Enum, InputObject};
use chrono::{DateTime, Utc};
use sqlx::Arguments as _;
use sqlx::postgres::PgArguments;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::graphql::entity::Entity;

/// How many conditions one `where` may hold; more is a mistake or an attack.
const MAX_CONDITIONS: usize = 100;
/// How many values one `in` or `nin` may hold.
const MAX_IN: usize = 200;

/// A bound value.
#[derive(Clone, Debug, PartialEq)]
pub enum Bind {
    /// `uuid`
    Uuid(Uuid),
    /// `uuid[]`
    Uuids(Vec<Uuid>),
    /// `text`
    Text(String),
    /// `text[]`
    Texts(Vec<String>),
    /// `bigint`
    Int(i64),
    /// `bigint[]`
    Ints(Vec<i64>),
    /// `double precision`
    Float(f64),
    /// `boolean`
    Bool(bool),
    /// `timestamptz`
    Time(DateTime<Utc>),
    /// `timestamptz[]`
    Times(Vec<DateTime<Utc>>),
}

impl Eq for Bind {}
impl Hash for Bind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Uuid(value) => value.hash(state),
            Self::Uuids(value) => value.hash(state),
            Self::Text(value) => value.hash(state),
            Self::Texts(value) => value.hash(state),
            Self::Int(value) => value.hash(state),
            Self::Ints(value) => value.hash(state),
            Self::Float(value) => value.to_bits().hash(state),
            Self::Bool(value) => value.hash(state),
            Self::Time(value) => value.hash(state),
            Self::Times(value) => value.hash(state),
        }
    }
}

impl Bind {
    /// Adds the value to the arguments of a statement.
    pub fn add_to(&self, arguments: &mut PgArguments) -> Result<()> {
        match self {
            Self::Uuid(value) => arguments.add(value),
            Self::Uuids(value) => arguments.add(value),
            Self::Text(value) => arguments.add(value),
            Self::Texts(value) => arguments.add(value),
            Self::Int(value) => arguments.add(value),
            Self::Ints(value) => arguments.add(value),
            Self::Float(value) => arguments.add(value),
            Self::Bool(value) => arguments.add(value),
            Self::Time(value) => arguments.add(value),
            Self::Times(value) => arguments.add(value),
        }
        .map_err(Error::internal)
    }
}

/// A condition under construction: SQL text with `$n` for its values.
#[derive(Debug)]
pub struct Conditions<'a> {
    /// The SQL so far; always a complete condition.
    text: String,
    binds: &'a mut Vec<Bind>,
    /// How many parameters come before the first of `binds`.
    offset: usize,
    count: usize,
    /// The path of the input being read, for messages: `where.status`.
    path: Vec<&'static str>,
}

impl<'a> Conditions<'a> {
    /// Begins a condition whose first parameter is `$(offset + binds.len() + 1)`.
    pub fn new(binds: &'a mut Vec<Bind>, offset: usize) -> Self {
        Self { text: String::from("true"), binds, offset, count: 0, path: vec!["where"] }
    }

    /// The SQL.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    fn bind(&mut self, value: Bind) -> Result<usize> {
        let has_nul = match &value {
            Bind::Text(text) => text.contains('\0'),
            Bind::Texts(texts) => texts.iter().any(|text| text.contains('\0')),
            _ => false,
        };
        if has_nul {
            return Err(Error::invalid(self.path.join("."), "Text cannot hold the character NUL (U+0000)."));
        }
        self.binds.push(value);
        Ok(self.offset + self.binds.len())
    }

    fn and(&mut self, condition: &str) -> Result<()> {
        self.count += 1;
        if self.count > MAX_CONDITIONS {
            return Err(Error::invalid("where", format!("A filter holds at most {MAX_CONDITIONS} conditions.")));
        }
        self.text.push_str(" and ");
        self.text.push_str(condition);
        Ok(())
    }

    /// `column operator $n[::cast]`
    fn compare(&mut self, column: &str, operator: &str, value: Option<Bind>, cast: &str) -> Result<()> {
        let Some(value) = value else { return Ok(()) };
        let n = self.bind(value)?;
        self.and(&format!("{column} {operator} ${n}{cast}"))
    }

    /// `column = any($n[::cast])` and its opposite.
    fn member(&mut self, column: &str, values: Option<(Bind, usize)>, negate: bool, cast: &str) -> Result<()> {
        let Some((values, length)) = values else { return Ok(()) };
        if length > MAX_IN {
            return Err(Error::invalid(self.path.join("."), format!("`in` and `nin` take at most {MAX_IN} values.")));
        }
        let n = self.bind(values)?;
        if negate {
            self.and(&format!("({column} <> all(${n}{cast}) or {column} is null)"))
        } else {
            self.and(&format!("{column} = any(${n}{cast})"))
        }
    }

    fn null(&mut self, column: &str, is_null: Option<bool>) -> Result<()> {
        match is_null {
            Some(true) => self.and(&format!("{column} is null")),
            Some(false) => self.and(&format!("{column} is not null")),
            None => Ok(()),
        }
    }

    /// The comparisons of an enum.
    pub fn enumeration<T: SqlEnum>(
        &mut self,
        column: &str,
        eq: Option<T>,
        ne: Option<T>,
        in_: Option<&[T]>,
        nin: Option<&[T]>,
        is_null: Option<bool>,
    ) -> Result<()> {
        let text = |value: T| Bind::Text(value.label().to_owned());
        let texts =
            |values: &[T]| (Bind::Texts(values.iter().map(|value| value.label().to_owned()).collect()), values.len());
        let one = format!("::{}", T::SQL_TYPE);
        let many = format!("::{}[]", T::SQL_TYPE);
        self.compare(column, "=", eq.map(text), &one)?;
        self.compare(column, "is distinct from", ne.map(text), &one)?;
        self.member(column, in_.map(texts), false, &many)?;
        self.member(column, nin.map(texts), true, &many)?;
        self.null(column, is_null)
    }

    /// Adds the conditions of one field of the filter.
    pub fn field<C: Comparator>(&mut self, name: &'static str, column: &str, filter: Option<&C>) -> Result<()> {
        let Some(filter) = filter else { return Ok(()) };
        self.path.push(name);
        filter.conditions(column, self)?;
        self.path.pop();
        Ok(())
    }

    /// Adds `and`, `or` and `not`.
    pub fn boolean<F: Filter>(&mut self, and: Option<&[F]>, or: Option<&[F]>, not: Option<&F>) -> Result<()> {
        for filter in and.unwrap_or_default() {
            let inner = self.nested(filter)?;
            self.and(&format!("({inner})"))?;
        }
        if let Some(filters) = or {
            // An empty `or` holds for nothing, as in every other language.
            let mut alternatives = String::from("false");
            for filter in filters {
                let inner = self.nested(filter)?;
                let _ = write!(alternatives, " or ({inner})");
            }
            self.and(&format!("({alternatives})"))?;
        }
        if let Some(filter) = not {
            let inner = self.nested(filter)?;
            // `is not true`: a comparison with NULL counts as not holding.
            self.and(&format!("({inner}) is not true"))?;
        }
        Ok(())
    }

    fn nested<F: Filter>(&mut self, filter: &F) -> Result<String> {
        let outer = std::mem::replace(&mut self.text, String::from("true"));
        let result = filter.conditions(self);
        let inner = std::mem::replace(&mut self.text, outer);
        result.map(|()| inner)
    }
}

/// The `where` input of an entity.
pub trait Filter: Send + Sync {
    /// Adds what the input asks for.
    fn conditions(&self, sql: &mut Conditions<'_>) -> Result<()>;
}

/// The input for one field of a `where`.
pub trait Comparator: Send + Sync {
    /// Adds what the input asks of `column`.
    fn conditions(&self, column: &str, sql: &mut Conditions<'_>) -> Result<()>;
}

/// An enum made by [`pg_enum!`](crate::pg_enum).
pub trait SqlEnum: Copy {
    /// The type's name in `PostgreSQL`.
    const SQL_TYPE: &'static str;
    /// The label of the value.
    fn label(self) -> &'static str;
}

macro_rules! comparator {
    ($(#[$meta:meta])* $name:ident, $type:ty, $bind:expr, $binds:expr) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, InputObject)]
        pub struct $name {
            /// Is equal to.
            pub eq: Option<$type>,
            /// Is not equal to; holds for a missing value.
            pub ne: Option<$type>,
            /// Is one of these.
            #[graphql(name = "in")]
            pub in_: Option<Vec<$type>>,
            /// Is none of these; holds for a missing value.
            pub nin: Option<Vec<$type>>,
            /// Is less than.
            pub lt: Option<$type>,
            /// Is less than or equal to.
            pub lte: Option<$type>,
            /// Is greater than.
            pub gt: Option<$type>,
            /// Is greater than or equal to.
            pub gte: Option<$type>,
            /// Has no value (`true`) or has one (`false`).
            pub is_null: Option<bool>,
        }

        impl Comparator for $name {
            fn conditions(&self, column: &str, sql: &mut Conditions<'_>) -> Result<()> {
                let bind = $bind;
                let binds = $binds;
                sql.compare(column, "=", self.eq.clone().map(bind), "")?;
                sql.compare(column, "is distinct from", self.ne.clone().map(bind), "")?;
                sql.member(column, self.in_.clone().map(binds), false, "")?;
                sql.member(column, self.nin.clone().map(binds), true, "")?;
                sql.compare(column, "<", self.lt.clone().map(bind), "")?;
                sql.compare(column, "<=", self.lte.clone().map(bind), "")?;
                sql.compare(column, ">", self.gt.clone().map(bind), "")?;
                sql.compare(column, ">=", self.gte.clone().map(bind), "")?;
                sql.null(column, self.is_null)
            }
        }
    };
}

comparator!(
    /// Conditions on a whole number; all that are given must hold.
    IntFilter, i64, Bind::Int, |values: Vec<i64>| {
        let n = values.len();
        (Bind::Ints(values), n)
    }
);
comparator!(
    /// Conditions on a moment; all that are given must hold.
    DateTimeFilter, DateTime<Utc>, Bind::Time, |values: Vec<DateTime<Utc>>| {
        let n = values.len();
        (Bind::Times(values), n)
    }
);

/// Conditions on a text; all that are given must hold.
#[derive(Clone, Debug, Default, InputObject)]
pub struct StringFilter {
    /// Is equal to.
    pub eq: Option<String>,
    /// Is not equal to; holds for a missing value.
    pub ne: Option<String>,
    /// Is one of these.
    #[graphql(name = "in")]
    pub in_: Option<Vec<String>>,
    /// Is none of these; holds for a missing value.
    pub nin: Option<Vec<String>>,
    /// Holds this text somewhere, whatever the case of its letters.
    pub contains: Option<String>,
    /// Has no value (`true`) or has one (`false`).
    pub is_null: Option<bool>,
}

impl Comparator for StringFilter {
    fn conditions(&self, column: &str, sql: &mut Conditions<'_>) -> Result<()> {
        let many = |values: Vec<String>| {
            let n = values.len();
            (Bind::Texts(values), n)
        };
        sql.compare(column, "=", self.eq.clone().map(Bind::Text), "")?;
        sql.compare(column, "is distinct from", self.ne.clone().map(Bind::Text), "")?;
        sql.member(column, self.in_.clone().map(many), false, "")?;
        sql.member(column, self.nin.clone().map(many), true, "")?;
        if let Some(part) = self.contains.clone() {
            let n = sql.bind(Bind::Text(part))?;
            sql.and(&format!("strpos(lower({column}), lower(${n})) > 0"))?;
        }
        sql.null(column, self.is_null)
    }
}

/// Conditions on a yes or no.
#[derive(Clone, Debug, Default, InputObject)]
pub struct BooleanFilter {
    /// Is equal to.
    pub eq: Option<bool>,
    /// Has no value (`true`) or has one (`false`).
    pub is_null: Option<bool>,
}

impl Comparator for BooleanFilter {
    fn conditions(&self, column: &str, sql: &mut Conditions<'_>) -> Result<()> {
        sql.compare(column, "=", self.eq.map(Bind::Bool), "")?;
        sql.null(column, self.is_null)
    }
}

/// Conditions on an id; all that are given must hold.
#[derive(Clone, Debug, Default, InputObject)]
pub struct IdFilter {
    /// Is this id.
    pub eq: Option<async_graphql::ID>,
    /// Is not this id; holds for a missing value.
    pub ne: Option<async_graphql::ID>,
    /// Is one of these.
    #[graphql(name = "in")]
    pub in_: Option<Vec<async_graphql::ID>>,
    /// Is none of these; holds for a missing value.
    pub nin: Option<Vec<async_graphql::ID>>,
    /// Has no value (`true`) or has one (`false`).
    pub is_null: Option<bool>,
}

impl Comparator for IdFilter {
    fn conditions(&self, column: &str, sql: &mut Conditions<'_>) -> Result<()> {
        let field = sql.path.join(".");
        let one = |id: &async_graphql::ID| {
            crate::id::split(id).map(|(_, uuid)| uuid).map_err(|message| Error::invalid(field.clone(), message))
        };
        let many = |ids: &Vec<async_graphql::ID>| -> Result<(Bind, usize)> {
            Ok((Bind::Uuids(ids.iter().map(one).collect::<Result<_>>()?), ids.len()))
        };
        sql.compare(column, "=", self.eq.as_ref().map(one).transpose()?.map(Bind::Uuid), "")?;
        sql.compare(column, "is distinct from", self.ne.as_ref().map(one).transpose()?.map(Bind::Uuid), "")?;
        sql.member(column, self.in_.as_ref().map(many).transpose()?, false, "")?;
        sql.member(column, self.nin.as_ref().map(many).transpose()?, true, "")?;
        sql.null(column, self.is_null)
    }
}

/// The direction of an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Enum)]
pub enum Direction {
    /// Smallest, oldest, A first; missing values last.
    #[default]
    Asc,
    /// Greatest, newest, Z first; missing values first.
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

/// An entity with a listing: what [`listing!`](crate::listing) declares.
pub trait Listed: Entity {
    /// The `where` input.
    type Filter: Filter;
    /// The fields of `orderBy`.
    type OrderField: Copy + Send + Sync + PartialEq + std::fmt::Debug;
    /// The order when none is asked for.
    const DEFAULT_ORDER: (Self::OrderField, Direction);
    /// The column behind a field.
    fn order_column(field: Self::OrderField) -> OrderColumn;
    /// The value of a field in this row.
    fn order_value(&self, field: Self::OrderField) -> CursorValue;
}

/// Declares how an entity is listed: its filter, its order and its default order.
///
/// Only indexed columns belong here.
#[macro_export]
macro_rules! listing {
    (
        $entity:ident,
        filter $filter:ident { $( $(#[$fmeta:meta])* $field:ident : $comparator:ty = $column:literal ,)* },
        order $order:ident by $order_field:ident { $( $(#[$ometa:meta])* $variant:ident = $order_column:literal, |$row:ident| $value:expr ;)+ },
        default $default:ident $direction:ident
    ) => {
        #[doc = concat!("Which `", stringify!($entity), "` rows to list; all that is given must hold.")]
        #[derive(Clone, Debug, Default, async_graphql::InputObject)]
        pub struct $filter {
            /// All of these hold.
            pub and: Option<Vec<$filter>>,
            /// At least one of these holds.
            pub or: Option<Vec<$filter>>,
            /// This does not hold.
            pub not: Option<Box<$filter>>,
            $( $(#[$fmeta])* pub $field: Option<$comparator>, )*
        }

        impl $crate::graphql::listing::Filter for $filter {
            fn conditions(
                &self,
                sql: &mut $crate::graphql::listing::Conditions<'_>,
            ) -> $crate::error::Result<()> {
                $( sql.field(stringify!($field), $column, self.$field.as_ref())?; )*
                sql.boolean(self.and.as_deref(), self.or.as_deref(), self.not.as_deref())
            }
        }

        #[doc = concat!("What `", stringify!($entity), "` lists can be ordered by.")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, async_graphql::Enum)]
        pub enum $order_field { $( $(#[$ometa])* $variant, )+ }

        #[doc = concat!("One step of the order of a `", stringify!($entity), "` list; rows that are equal in all steps are ordered by id.")]
        #[derive(Clone, Copy, Debug, async_graphql::InputObject)]
        pub struct $order {
            /// What to order by.
            pub field: $order_field,
            /// Ascending unless said otherwise.
            #[graphql(default)]
            pub direction: $crate::graphql::listing::Direction,
        }

        impl From<$order> for ($order_field, $crate::graphql::listing::Direction) {
            fn from(order: $order) -> Self {
                (order.field, order.direction)
            }
        }

        impl $crate::graphql::listing::Listed for $entity {
            type Filter = $filter;
            type OrderField = $order_field;
            const DEFAULT_ORDER: ($order_field, $crate::graphql::listing::Direction) =
                ($order_field::$default, $crate::graphql::listing::Direction::$direction);

            fn order_column(field: $order_field) -> $crate::graphql::listing::OrderColumn {
                fn column<T: $crate::graphql::listing::OrderValue>(
                    column: &'static str,
                    _: impl Fn(&$entity) -> T,
                ) -> $crate::graphql::listing::OrderColumn {
                    $crate::graphql::listing::OrderColumn { column, nullable: T::NULLABLE, kind: T::KIND }
                }
                match field { $( $order_field::$variant => column($order_column, |$row| $value), )+ }
            }

            fn order_value(&self, field: $order_field) -> $crate::graphql::listing::CursorValue {
                match field {
                    $( $order_field::$variant => {
                        let $row = self;
                        $crate::graphql::listing::OrderValue::cursor_value(&$value)
                    } )+
                }
            }
        }
    };
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
