//! How a slice declares its rows and enums: once, for SQL and GraphQL together.
//!
//! [`entity!`](crate::entity) makes a struct that is at the same time a row (its fields are the columns, in order) and a
//! GraphQL object (its docs are the descriptions). [`pg_enum!`](crate::pg_enum) makes an enum whose labels are the same
//! in `PostgreSQL`, in Rust and in the schema, with its filter input.

use sqlx::postgres::{PgRow, PgTypeInfo};
use uuid::Uuid;

use crate::id::Identified;
use crate::members::Action;

/// A row that the loaders can fetch.
pub trait Entity: Identified + Send + Sync + Unpin + Sized + 'static {
    /// The table with its schema, for SQL.
    const TABLE: &'static str;
    /// The table without its schema, as a name in logs.
    const TABLE_NAME: &'static str;
    /// The columns, each with the table's alias `t`, in the order [`decode`](Self::decode) reads them.
    const COLUMNS: &'static str;
    /// `false` for the few global tables, which have no `organization_id`.
    const TENANT: bool;
    /// A condition that listings add, `t.deleted_at is null` where rows are soft-deleted. Loading by id ignores it, so
    /// that history can still show the member who left.
    const LISTED_WHEN: &'static str;

    /// What a role must be allowed to see such rows at all, by whatever way they are reached.
    const READ: Action;
    /// Rows that are hidden unless the role is allowed more: the condition, and what it takes.
    const HIDDEN: Option<(&'static str, Action)>;

    /// Reads the columns, beginning with column `at`.
    fn decode(row: &PgRow, at: usize) -> sqlx::Result<Self>;
    /// The row's id.
    fn uuid(&self) -> Uuid;
}

/// Declares an entity:
/// `entity! { pub struct Ticket("tic", "tickets", tenant: true, listed when "true", read by OrganizationRead) { … } }`.
///
/// `, hidden when "t.is_internal" unless TicketNoteRead` hides some rows from some roles.
/// The first field must be `id`. A field whose column has another name says so: `pub kind: BudgetType = "type"`.
/// Attributes go to the field of the GraphQL object: `#[graphql(skip)]` for what only resolvers need.
#[macro_export]
macro_rules! entity {
    (
        $(#[$meta:meta])*
        pub struct $name:ident($prefix:literal, $table:literal, tenant: $tenant:literal, listed when $listed:literal,
            read by $read:ident $(, hidden when $hidden:literal unless $unless:ident)?) {
            $( $(#[$field_meta:meta])* pub $field:ident : $type:ty $(= $column:literal)? ,)+
        }
    ) => {
        #[derive(Clone, Debug, async_graphql::SimpleObject)]
        $(#[$meta])*
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )+
        }

        impl $crate::id::Identified for $name {
            const PREFIX: &'static str = $prefix;
            const NAME: &'static str = stringify!($name);
        }

        impl $crate::graphql::entity::Entity for $name {
            const TABLE: &'static str = concat!("tenantry.", $table);
            const TABLE_NAME: &'static str = $table;
            const COLUMNS: &'static str = $crate::columns!($( $field $(= $column)? ),+);
            const TENANT: bool = $tenant;
            const LISTED_WHEN: &'static str = $listed;
            const READ: $crate::members::Action = $crate::members::Action::$read;
            const HIDDEN: Option<(&'static str, $crate::members::Action)> =
                $crate::hidden!($($hidden unless $unless)?);

            fn decode(row: &sqlx::postgres::PgRow, at: usize) -> sqlx::Result<Self> {
                let mut columns = at..;
                let mut next = || columns.next().unwrap_or(usize::MAX);
                Ok(Self { $( $field: sqlx::Row::try_get(row, next())?, )+ })
            }

            fn uuid(&self) -> uuid::Uuid {
                self.id.uuid()
            }
        }
    };
}

/// The hidden rows of [`entity!`](crate::entity).
#[doc(hidden)]
#[macro_export]
macro_rules! hidden {
    () => {
        None
    };
    ($condition:literal unless $action:ident) => {
        Some(($condition, $crate::members::Action::$action))
    };
}

/// The column list of [`entity!`](crate::entity).
#[doc(hidden)]
#[macro_export]
macro_rules! columns {
    (@one $field:ident = $column:literal) => { concat!("t.", $column) };
    (@one $field:ident) => { concat!("t.", stringify!($field)) };
    ($first:ident $(= $first_column:literal)? $(, $field:ident $(= $column:literal)? )*) => {
        concat!(
            $crate::columns!(@one $first $(= $first_column)?)
            $(, ", ", $crate::columns!(@one $field $(= $column)?) )*
        )
    };
}

/// Whether `found` is our type of this qualified name. `PostgreSQL` tells the name of a type without its schema where
/// the login's `search_path` has the schema, so both forms are right.
#[must_use]
pub fn is_type(found: &PgTypeInfo, qualified: &'static str) -> bool {
    let bare = qualified.rsplit('.').next().unwrap_or(qualified);
    *found == PgTypeInfo::with_name(qualified) || sqlx::TypeInfo::name(found) == bare
}

/// Declares an enum that exists in `PostgreSQL` (`tenantry.ticket_status`), in Rust and in GraphQL (`TicketStatus`) with
/// the same `UPPER_CASE` labels, and its filter (`TicketStatusFilter`).
#[macro_export]
macro_rules! pg_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident($sql:literal, $filter:ident) {
            $( $(#[$variant_meta:meta])* $variant:ident = $label:literal ,)+
        }
    ) => {
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord,
            async_graphql::Enum, sqlx::Encode, sqlx::Decode, serde::Serialize, serde::Deserialize,
        )]
        $(#[$meta])*
        pub enum $name {
            $(
                $(#[$variant_meta])*
                #[sqlx(rename = $label)]
                #[graphql(name = $label)]
                #[serde(rename = $label)]
                $variant,
            )+
        }

        impl sqlx::Type<sqlx::Postgres> for $name {
            fn type_info() -> sqlx::postgres::PgTypeInfo {
                sqlx::postgres::PgTypeInfo::with_name($sql)
            }

            fn compatible(found: &sqlx::postgres::PgTypeInfo) -> bool {
                $crate::graphql::entity::is_type(found, $sql)
            }
        }

        impl sqlx::postgres::PgHasArrayType for $name {
            fn array_type_info() -> sqlx::postgres::PgTypeInfo {
                sqlx::postgres::PgTypeInfo::array_of($sql)
            }

            fn array_compatible(found: &sqlx::postgres::PgTypeInfo) -> bool {
                $crate::graphql::entity::is_type(found, concat!($sql, "[]"))
            }
        }

        impl $name {
            /// Every value, in the order of the SQL type.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The label in SQL, GraphQL and JSON.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }

            /// The value with this label.
            #[must_use]
            pub fn from_label(label: &str) -> Option<Self> {
                match label { $($label => Some(Self::$variant),)+ _ => None }
            }
        }

        impl $crate::graphql::listing::SqlEnum for $name {
            const SQL_TYPE: &'static str = $sql;
            fn label(self) -> &'static str {
                $name::label(self)
            }
        }

        impl $crate::graphql::listing::OrderValue for $name {
            const KIND: $crate::graphql::listing::CursorKind = $crate::graphql::listing::CursorKind::Text($sql);
            fn cursor_value(&self) -> $crate::graphql::listing::CursorValue {
                $crate::graphql::listing::CursorValue::Text($name::label(*self).to_owned())
            }
        }

        #[doc = concat!("Conditions on a `", stringify!($name), "`; all that are given must hold.")]
        #[derive(Clone, Debug, Default, async_graphql::InputObject)]
        pub struct $filter {
            /// Is this value.
            pub eq: Option<$name>,
            /// Is not this value.
            pub ne: Option<$name>,
            /// Is one of these.
            #[graphql(name = "in")]
            pub in_: Option<Vec<$name>>,
            /// Is none of these.
            pub nin: Option<Vec<$name>>,
            /// Has no value (`true`) or has one (`false`).
            pub is_null: Option<bool>,
        }

        impl $crate::graphql::listing::Comparator for $filter {
            fn conditions(
                &self,
                column: &str,
                sql: &mut $crate::graphql::listing::Conditions<'_>,
            ) -> $crate::error::Result<()> {
                sql.enumeration(column, self.eq, self.ne, self.in_.as_deref(), self.nin.as_deref(), self.is_null)
            }
        }
    };
}
