//! Enums whose labels are the same in `PostgreSQL`, in Rust, in JSON and in the schema.

use sqlx::postgres::PgTypeInfo;

/// An enum made by [`sql_enum!`](macro@crate::sql_enum).
pub trait SqlEnum: Copy + Send + Sync + 'static {
    /// The name of the type in `PostgreSQL`.
    const SQL_TYPE: &'static str;
    /// Whether tables hold the place of a value beside it, in a generated column `<column>_rank`. Lists filter and order by
    /// that one: comparisons of enums are not leakproof, so under row-level security they are no index condition.
    const RANKED: bool;
    /// The label of the value.
    fn label(self) -> &'static str;
    /// The place of the value in the type, from 0.
    fn rank(self) -> i64;
}

/// The column with the ranks of this column ([`SqlEnum::RANKED`]).
#[must_use]
pub fn rank_column(column: &str) -> String {
    format!("{column}_rank")
}

/// Why something (`what`, with its article) may not go from one status to another, for people. `possible` are those that it can
/// go to; `end` is what is said when there is none.
#[must_use]
pub fn refusal<T: SqlEnum>(what: &str, from: T, to: T, possible: &[T], end: &str) -> String {
    let possible: Vec<&str> = possible.iter().map(|status| status.label()).collect();
    let possible = match possible.as_slice() {
        [] => end.to_owned(),
        possible => format!("it can become {}", possible.join(", ")),
    };
    format!("{what} that is {} cannot become {}: {possible}.", from.label(), to.label())
}

/// Whether `found` is our type of this qualified name. `PostgreSQL` gives the name of a type without its schema where the
/// login's `search_path` has the schema, so both forms are right.
#[must_use]
pub fn is_type(found: &PgTypeInfo, qualified: &'static str) -> bool {
    let bare = qualified.rsplit('.').next().unwrap_or(qualified);
    *found == PgTypeInfo::with_name(qualified) || sqlx::TypeInfo::name(found) == bare
}

/// Whether this is the name of our type, without its schema.
#[must_use]
pub fn is_named(found: &str, qualified: &'static str) -> bool {
    qualified.rsplit('.').next() == Some(found)
}

/// The label as the database sends it.
#[must_use]
pub fn label(raw: &[u8]) -> Option<&str> {
    std::str::from_utf8(raw).ok()
}

/// Declares an enum that exists in `PostgreSQL` (`tenantry.ticket_status`), in Rust and in GraphQL (`TicketStatus`) with the same
/// `UPPER_CASE` labels. A slice's enums have a filter as well: [`pg_enum!`](crate::pg_enum).
#[macro_export]
macro_rules! sql_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident($sql:literal) {
            $( $(#[$variant_meta:meta])* $variant:ident = $label:literal ,)+
        }
    ) => {
        $crate::sql_enum! {
            $(#[$meta])*
            pub enum $name($sql, ranked: false) { $( $(#[$variant_meta])* $variant = $label ,)+ }
        }
    };
    (
        $(#[$meta:meta])*
        pub enum $name:ident($sql:literal, ranked: $ranked:literal) {
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
                $crate::sql_enum::is_type(found, $sql)
            }
        }

        impl sqlx::postgres::PgHasArrayType for $name {
            fn array_type_info() -> sqlx::postgres::PgTypeInfo {
                sqlx::postgres::PgTypeInfo::array_of($sql)
            }

            fn array_compatible(found: &sqlx::postgres::PgTypeInfo) -> bool {
                $crate::sql_enum::is_type(found, concat!($sql, "[]"))
            }
        }

        impl<'a> tokio_postgres::types::FromSql<'a> for $name {
            fn from_sql(
                _: &tokio_postgres::types::Type,
                raw: &'a [u8],
            ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
                $crate::sql_enum::label(raw)
                    .and_then(Self::from_label)
                    .ok_or_else(|| concat!("a value of ", $sql, " that this build does not know").into())
            }

            fn accepts(found: &tokio_postgres::types::Type) -> bool {
                $crate::sql_enum::is_named(found.name(), $sql)
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

        impl $crate::unread::Unread for $name {
            fn unread() -> Self {
                Self::ALL[0]
            }
        }

        impl $crate::json::Json for $name {
            fn write(&self, out: &mut Vec<u8>) {
                $crate::json::Json::write(self.label(), out);
            }
        }

        impl $crate::sql_enum::SqlEnum for $name {
            const SQL_TYPE: &'static str = $sql;
            const RANKED: bool = $ranked;
            fn label(self) -> &'static str {
                $name::label(self)
            }
            fn rank(self) -> i64 {
                self as i64
            }
        }
    };
}
