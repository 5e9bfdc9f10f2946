//! `where`: the inputs that filter a list, and their translation to SQL.
//!
//! Column names come from the slices' declarations, never from the caller; values are always bound.

use std::fmt::Write as _;

use async_graphql::InputObject;
use chrono::{DateTime, Utc};

use crate::access::Actions;
use crate::db::Bind;
use crate::error::{Error, Result};
use crate::sql_enum::{SqlEnum, rank_column};

/// How many conditions one `where` may hold; more is a mistake or an attack.
const MAX_CONDITIONS: usize = 100;
/// How many values one `in` or `nin` may hold.
const MAX_IN: usize = 200;

/// A condition under construction: SQL text with `$n` for its values.
#[derive(Debug)]
pub struct Conditions<'a> {
    /// The SQL so far; always a complete condition.
    text: String,
    binds: &'a mut Vec<Bind>,
    /// How many parameters come before the first of `binds`.
    offset: usize,
    count: usize,
    /// The path of the input being read, by the names in Rust: `where`, `assignee_id`.
    path: Vec<&'static str>,
    /// What the viewer may do.
    allowed: Actions,
}

impl<'a> Conditions<'a> {
    /// Begins a condition whose first parameter is `$(offset + binds.len() + 1)`.
    pub fn new(binds: &'a mut Vec<Bind>, offset: usize, allowed: Actions) -> Self {
        Self { text: String::from("true"), binds, offset, count: 0, path: vec!["where"], allowed }
    }

    /// What the viewer may do: a condition must not tell of rows that they may not see.
    #[must_use]
    pub const fn allowed(&self) -> Actions {
        self.allowed
    }

    /// An error of the input being read.
    #[must_use]
    pub fn invalid(&self, message: impl Into<String>) -> Error {
        Error::invalid(self.place(), message)
    }

    /// The path of the input being read, as the caller wrote it: `where.assigneeId`.
    fn place(&self) -> String {
        let mut place = String::new();
        for name in &self.path {
            if !place.is_empty() {
                place.push('.');
            }
            for (n, word) in name.split('_').enumerate() {
                let (first, rest) = word.split_at(word.len().min(1));
                let first = if n == 0 { first.to_owned() } else { first.to_ascii_uppercase() };
                place.push_str(&first);
                place.push_str(rest);
            }
        }
        place
    }

    /// The SQL.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    /// Binds a value; answers the number of its parameter.
    ///
    /// # Errors
    /// [`Error::Invalid`] for text that the database cannot hold.
    pub fn bind(&mut self, value: Bind) -> Result<usize> {
        let has_nul = match &value {
            Bind::Text(text) => text.contains('\0'),
            Bind::Texts(texts) => texts.iter().any(|text| text.contains('\0')),
            _ => false,
        };
        if has_nul {
            return Err(self.invalid("Text cannot hold the character NUL (U+0000)."));
        }
        self.binds.push(value);
        Ok(self.offset + self.binds.len())
    }

    /// Adds a condition.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there are too many.
    pub fn and(&mut self, condition: &str) -> Result<()> {
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
            return Err(self.invalid(format!("`in` and `nin` take at most {MAX_IN} values.")));
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
        let (column, one, many) = if T::RANKED {
            (rank_column(column), String::new(), String::new())
        } else {
            (column.to_owned(), format!("::{}", T::SQL_TYPE), format!("::{}[]", T::SQL_TYPE))
        };
        let bind = |value: T| {
            if T::RANKED { Bind::Int(value.rank()) } else { Bind::Text(value.label().to_owned()) }
        };
        let binds = |values: &[T]| {
            let all = values.iter();
            let list = if T::RANKED {
                Bind::Ints(all.map(|value| value.rank()).collect())
            } else {
                Bind::Texts(all.map(|value| value.label().to_owned()).collect())
            };
            (list, values.len())
        };
        self.compare(&column, "=", eq.map(bind), &one)?;
        self.compare(&column, "is distinct from", ne.map(bind), &one)?;
        self.member(&column, in_.map(binds), false, &many)?;
        self.member(&column, nin.map(binds), true, &many)?;
        self.null(&column, is_null)
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
    /// The fields in Rust, each with its column.
    const COLUMNS: &'static [(&'static str, &'static str)];
    /// Adds what the input asks for.
    fn conditions(&self, sql: &mut Conditions<'_>) -> Result<()>;
}

/// The input for one field of a `where`.
pub trait Comparator: Send + Sync {
    /// Adds what the input asks of `column`.
    fn conditions(&self, column: &str, sql: &mut Conditions<'_>) -> Result<()>;
}

macro_rules! comparator {
    ($(#[$meta:meta])* $name:ident, $type:ty, $bind:expr, $binds:expr) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, InputObject)]
        pub struct $name {
            /// Equals this value.
            pub eq: Option<$type>,
            /// Differs from this value; null differs from every value.
            pub ne: Option<$type>,
            /// Equals one of these values.
            #[graphql(name = "in")]
            pub in_: Option<Vec<$type>>,
            /// Equals none of these values; null equals none.
            pub nin: Option<Vec<$type>>,
            /// Is less than this value.
            pub lt: Option<$type>,
            /// Is at most this value.
            pub lte: Option<$type>,
            /// Is greater than this value.
            pub gt: Option<$type>,
            /// Is at least this value.
            pub gte: Option<$type>,
            /// Whether the value is null.
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
    /// Conditions on a whole number; all given conditions must hold.
    IntFilter, i64, Bind::Int, |values: Vec<i64>| {
        let n = values.len();
        (Bind::Ints(values), n)
    }
);
comparator!(
    /// Conditions on a time; all given conditions must hold.
    DateTimeFilter, DateTime<Utc>, Bind::Time, |values: Vec<DateTime<Utc>>| {
        let n = values.len();
        (Bind::Times(values), n)
    }
);

/// Conditions on a text; all given conditions must hold.
#[derive(Clone, Debug, Default, InputObject)]
pub struct StringFilter {
    /// Equals this value.
    pub eq: Option<String>,
    /// Differs from this value; null differs from every value.
    pub ne: Option<String>,
    /// Equals one of these values.
    #[graphql(name = "in")]
    pub in_: Option<Vec<String>>,
    /// Equals none of these values; null equals none.
    pub nin: Option<Vec<String>>,
    /// Contains this text; case is ignored.
    pub contains: Option<String>,
    /// Whether the value is null.
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

/// All of them must hold.
impl<C: Comparator> Comparator for Vec<C> {
    fn conditions(&self, column: &str, sql: &mut Conditions<'_>) -> Result<()> {
        self.iter().try_for_each(|filter| filter.conditions(column, sql))
    }
}

/// Conditions on a boolean.
#[derive(Clone, Debug, Default, InputObject)]
pub struct BooleanFilter {
    /// Equals this value.
    pub eq: Option<bool>,
    /// Whether the value is null.
    pub is_null: Option<bool>,
}

impl Comparator for BooleanFilter {
    fn conditions(&self, column: &str, sql: &mut Conditions<'_>) -> Result<()> {
        sql.compare(column, "=", self.eq.map(Bind::Bool), "")?;
        sql.null(column, self.is_null)
    }
}

/// Conditions on an id; all given conditions must hold.
#[derive(Clone, Debug, Default, InputObject)]
pub struct IdFilter {
    /// Equals this id.
    pub eq: Option<async_graphql::ID>,
    /// Differs from this id; null differs from every id.
    pub ne: Option<async_graphql::ID>,
    /// Equals one of these values.
    #[graphql(name = "in")]
    pub in_: Option<Vec<async_graphql::ID>>,
    /// Equals none of these values; null equals none.
    pub nin: Option<Vec<async_graphql::ID>>,
    /// Whether the value is null.
    pub is_null: Option<bool>,
}

impl Comparator for IdFilter {
    fn conditions(&self, column: &str, sql: &mut Conditions<'_>) -> Result<()> {
        let field = sql.place();
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

/// Declares the filter of an enum made by [`sql_enum!`](macro@crate::sql_enum): `enum_filter!(MemberRole, MemberRoleFilter);`.
#[macro_export]
macro_rules! enum_filter {
    ($name:ident, $filter:ident) => {
        #[doc = concat!("Conditions on `", stringify!($name), "` values; all given conditions must hold.")]
        #[derive(Clone, Debug, Default, async_graphql::InputObject)]
        pub struct $filter {
            /// Equals this value.
            pub eq: Option<$name>,
            /// Differs from this value.
            pub ne: Option<$name>,
            /// Equals one of these values.
            #[graphql(name = "in")]
            pub in_: Option<Vec<$name>>,
            /// Equals none of these values.
            pub nin: Option<Vec<$name>>,
            /// Whether the value is null.
            pub is_null: Option<bool>,
        }

        impl $crate::graphql::filter::Comparator for $filter {
            fn conditions(
                &self,
                column: &str,
                sql: &mut $crate::graphql::filter::Conditions<'_>,
            ) -> $crate::error::Result<()> {
                sql.enumeration(column, self.eq, self.ne, self.in_.as_deref(), self.nin.as_deref(), self.is_null)
            }
        }
    };
}

/// Declares an enum of a slice together with its filter: `pub enum TicketStatus("tenantry.ticket_status", TicketStatusFilter)`.
/// With `, ranked` behind it, lists filter and order by the column `<column>_rank`
/// ([`SqlEnum::RANKED`](crate::sql_enum::SqlEnum::RANKED)).
#[macro_export]
macro_rules! pg_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident($sql:literal, $filter:ident) { $($variants:tt)+ }
    ) => {
        $crate::sql_enum! {
            $(#[$meta])*
            pub enum $name($sql) { $($variants)+ }
        }
        $crate::enum_filter!($name, $filter);
    };
    (
        $(#[$meta:meta])*
        pub enum $name:ident($sql:literal, $filter:ident, ranked) { $($variants:tt)+ }
    ) => {
        $crate::sql_enum! {
            $(#[$meta])*
            pub enum $name($sql, ranked: true) { $($variants)+ }
        }
        $crate::enum_filter!($name, $filter);
    };
}
