//! How a slice declares its rows: once, for SQL and GraphQL together.
//!
//! [`entity!`](crate::entity) makes a struct that is at the same time a row (its fields are the columns, in order) and a
//! GraphQL object (its docs are the descriptions).

use std::borrow::Cow;

use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::access::{Action, Actions};
use crate::db::Row;
use crate::error::Result;
use crate::graphql::cells::Columns;
use crate::id::Identified;

/// A row that the loaders can fetch.
pub trait Entity: Send + Sync + Unpin + Sized + 'static {
    /// What marks its ids.
    type Marker: Loadable<Entity = Self>;
    /// The name of the GraphQL type.
    const NAME: &'static str = <Self::Marker as Identified>::NAME;
    /// The table with its schema, for SQL.
    const TABLE: &'static str;
    /// The table without its schema, as a name in logs.
    const TABLE_NAME: &'static str;
    /// The columns, each with the table's alias `t`, in the order [`decode`](Self::decode) reads them.
    const COLUMNS: &'static str;
    /// The same columns as superadmins see them across organizations.
    const PLATFORM_COLUMNS: &'static str;
    /// The fields in Rust, in the order of the columns.
    const FIELDS: &'static [&'static str];
    /// `false` for the few global tables, which have no `organization_id`.
    const TENANT: bool;
    /// A condition that listings add, `t.deleted_at is null` where rows are soft-deleted. Loading by id ignores it, so
    /// that history can still show the member who left.
    const LISTED_WHEN: &'static str;
    /// What a role must be allowed to see such rows at all, by whatever way they are reached.
    const READ: Action;
    /// Rows that are hidden unless the role is allowed more: each condition, and what it takes.
    const HIDDEN: &'static [(&'static str, Action)];

    /// Reads the columns, beginning with column `at`.
    ///
    /// # Errors
    /// When the column does not hold what the field expects.
    fn decode(row: &PgRow, at: usize) -> sqlx::Result<Self>;
    /// The same of a row that the other driver read.
    ///
    /// # Errors
    /// When the column does not hold what the field expects.
    fn read(row: &Row, at: usize) -> Result<Self> {
        Self::read_some(row, at, Columns::ALL)
    }
    /// The same of a row that holds only these columns; the other fields hold nothing of it.
    ///
    /// # Errors
    /// When a column does not hold what the field expects.
    fn read_some(row: &Row, at: usize, columns: Columns) -> Result<Self>;
    /// The row's id.
    fn uuid(&self) -> Uuid;
    /// The field in Rust behind a field of the schema, and what writes it as JSON; `None` when it is no column.
    fn column(field: &str) -> Option<Column<Self>>;

    /// The place of a field in Rust.
    #[must_use]
    fn place(field: &str) -> Columns {
        Self::FIELDS.iter().position(|known| *known == field).map_or(Columns::ALL, Columns::one)
    }

    /// The place of a column, which is written with the table's alias.
    #[must_use]
    fn place_of_column(column: &str) -> Columns {
        Self::COLUMNS.split(", ").position(|known| known == column).map_or(Columns::ALL, Columns::one)
    }

    /// These columns, for SQL.
    #[must_use]
    fn sql_columns(columns: Columns) -> Cow<'static, str> {
        if columns == Columns::ALL {
            return Cow::Borrowed(Self::COLUMNS);
        }
        let chosen = Self::COLUMNS.split(", ").enumerate().filter(|(place, _)| columns.has(*place));
        let mut text = String::with_capacity(Self::COLUMNS.len());
        for (_, column) in chosen {
            if !text.is_empty() {
                text.push_str(", ");
            }
            text.push_str(column);
        }
        Cow::Owned(text)
    }
}

/// A field in Rust, and what writes it as JSON.
pub type Column<E> = (&'static str, fn(&E, &mut Vec<u8>));

/// A marker of ids whose rows the loaders can fetch.
pub trait Loadable: Identified {
    /// The rows.
    type Entity: Entity<Marker = Self>;
}

/// The condition that hides what whoever may do no more than this may not see.
pub(super) fn visible<E: Entity>(allowed: Actions) -> String {
    let mut visible = String::from("true");
    for (hidden, _) in E::HIDDEN.iter().filter(|(_, action)| !allowed.has(*action)) {
        visible.push_str(" and not (");
        visible.push_str(hidden);
        visible.push(')');
    }
    visible
}

/// The statement for rows by id. `organization` and `id` are what the columns are compared with, `visible` is what hides rows
/// from the role.
pub(super) fn by_id<E: Entity>(organization: &str, id: &str, visible: &str) -> String {
    let tenant = if E::TENANT { format!("t.organization_id = {organization} and ") } else { String::new() };
    format!("select {} from {} t where {tenant}t.id = {id} and {visible}", E::COLUMNS, E::TABLE)
}

/// Declares an entity: `entity! { pub struct Ticket("tickets", read by OrganizationRead) { … } }`.
///
/// - `global "users"`: the table has no `organization_id`.
/// - `, listed when "t.deleted_at is null"`: lists leave the other rows out.
/// - `, hidden when "t.is_internal" unless TicketNoteRead`: some rows are hidden from some roles; any number of times.
///
/// The name is that of a marker in [`id`](crate::id). The first field is `id`. A field whose column has another name
/// says so, `pub kind: BudgetType = "type"`, and may be another SQL expression for superadmins:
/// `= "last_error" platform "coalesce(t.cause, t.last_error)"`. Attributes go to the field of the GraphQL object:
/// `#[graphql(skip)]` for what only resolvers need.
#[macro_export]
macro_rules! entity {
    (
        $(#[$meta:meta])*
        pub struct $name:ident(global $table:literal, $($options:tt)+) { $($fields:tt)+ }
    ) => {
        $crate::entity! { @declare false, $(#[$meta])* $name($table, $($options)+) { $($fields)+ } }
    };
    (
        $(#[$meta:meta])*
        pub struct $name:ident($table:literal, $($options:tt)+) { $($fields:tt)+ }
    ) => {
        $crate::entity! { @declare true, $(#[$meta])* $name($table, $($options)+) { $($fields)+ } }
    };
    (
        @declare $tenant:literal, $(#[$meta:meta])*
        $name:ident($table:literal, read by $read:ident
            $(, listed when $listed:literal)? $(, hidden when $hidden:literal unless $unless:ident)*) {
            $( $(#[$($attribute:tt)*])* pub $field:ident : $type:ty $(= $column:literal $(platform $platform:literal)?)? ,)+
        }
    ) => {
        #[derive(Clone, Debug, async_graphql::SimpleObject)]
        $(#[$meta])*
        pub struct $name {
            $( $(#[$($attribute)*])* pub $field: $type, )+
        }

        impl $crate::graphql::entity::Loadable for $crate::id::marker::$name {
            type Entity = $name;
        }

        impl $crate::graphql::entity::Entity for $name {
            type Marker = $crate::id::marker::$name;
            const TABLE: &'static str = concat!("tenantry.", $table);
            const TABLE_NAME: &'static str = $table;
            const COLUMNS: &'static str = $crate::columns!(own $( $field [$($column $($platform)?)?] )+);
            const PLATFORM_COLUMNS: &'static str = $crate::columns!(platform $( $field [$($column $($platform)?)?] )+);
            const FIELDS: &'static [&'static str] = &[$( stringify!($field) ),+];
            const TENANT: bool = $tenant;
            const LISTED_WHEN: &'static str = concat!("true" $(, " and ", $listed)?);
            const READ: $crate::access::Action = $crate::access::Action::$read;
            const HIDDEN: &'static [(&'static str, $crate::access::Action)] =
                &[$( ($hidden, $crate::access::Action::$unless) ),*];

            fn decode(row: &sqlx::postgres::PgRow, at: usize) -> sqlx::Result<Self> {
                let mut columns = at..;
                let mut next = || columns.next().unwrap_or(usize::MAX);
                Ok(Self { $( $field: sqlx::Row::try_get(row, next())?, )+ })
            }

            fn read_some(
                row: &$crate::db::Row,
                at: usize,
                columns: $crate::graphql::cells::Columns,
            ) -> $crate::error::Result<Self> {
                let mut cells = $crate::graphql::cells::Cells::new(row, at, columns);
                Ok(Self { $( $field: cells.take()?, )+ })
            }

            fn uuid(&self) -> uuid::Uuid {
                self.id.uuid()
            }

            fn column(field: &str) -> Option<$crate::graphql::entity::Column<Self>> {
                $( $crate::shown!(field, $field, $([$($attribute)*])*); )+
                None
            }
        }
    };
}

/// Gives the writer of a column of [`entity!`](crate::entity) if it is what this field of the schema shows: attributes may
/// hide or rename it.
#[doc(hidden)]
#[macro_export]
macro_rules! shown {
    ($name:ident, $field:ident, [graphql(skip)] $($rest:tt)*) => {};
    ($name:ident, $field:ident, [graphql(name = $shown:literal)] $($rest:tt)*) => {
        $crate::shown!(@ $field if $name == $shown)
    };
    ($name:ident, $field:ident, [doc = $doc:literal] $($rest:tt)*) => { $crate::shown!($name, $field, $($rest)*) };
    ($name:ident, $field:ident,) => {
        $crate::shown!(@ $field if $crate::graphql::rows::is_named($name, stringify!($field)))
    };
    (@ $field:ident if $is_shown:expr) => {
        if $is_shown {
            return Some((stringify!($field), |row, out| $crate::json::Json::write(&row.$field, out)));
        }
    };
}

/// The column list of [`entity!`](crate::entity).
#[doc(hidden)]
#[macro_export]
macro_rules! columns {
    (@ $reader:ident $field:ident []) => { concat!("t.", stringify!($field)) };
    (@ $reader:ident $field:ident [$column:literal]) => { concat!("t.", $column) };
    (@ own $field:ident [$column:literal $platform:literal]) => { concat!("t.", $column) };
    (@ platform $field:ident [$column:literal $platform:literal]) => { $platform };
    ($reader:ident $first:ident $first_column:tt $($field:ident $column:tt)*) => {
        concat!($crate::columns!(@ $reader $first $first_column) $(, ", ", $crate::columns!(@ $reader $field $column))*)
    };
}
