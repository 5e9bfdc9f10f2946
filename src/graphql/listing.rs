//! What a slice declares of a list: its filter, its order and its default order, a field per line.

use crate::graphql::entity::Entity;
use crate::graphql::filter::Filter;
use crate::graphql::order::{CursorValue, Direction, OrderColumn};

/// An entity with a listing: what [`listing!`](crate::listing) declares.
pub trait Listed: Entity {
    /// The `where` input.
    type Filter: Filter + 'static;
    /// The fields of `orderBy`.
    type OrderField: Copy + Send + Sync + PartialEq + std::fmt::Debug + 'static;
    /// One step of `orderBy`.
    type Order: Into<(Self::OrderField, Direction)> + Send;
    /// The order when none is asked for.
    const DEFAULT_ORDER: (Self::OrderField, Direction);
    /// The fields of `orderBy`, each with its column.
    const ORDERED: &'static [(&'static str, &'static str)];
    /// The field that orders rows that are equal in this one, where an index has it so; otherwise the id does.
    fn tie_breaker(field: Self::OrderField) -> Option<Self::OrderField>;
    /// The column behind a field.
    fn order_column(field: Self::OrderField) -> OrderColumn;
    /// The value of a field in this row.
    fn order_value(&self, field: Self::OrderField) -> CursorValue;
}

/// Declares how an entity is listed. Each line is a field of `where` and, after the comma, of `orderBy`; both take its
/// description. A column with another name than the field is given behind `=`. Only indexed columns belong here. `Status then
/// CreatedAt` orders rows of one status by their creation, as the index does, before the id does.
///
/// ```text
/// listing! {
///     Ticket: TicketFilter, TicketOrder by TicketOrderField, default CreatedAt Desc;
///     /// Status.
///     status: TicketStatusFilter, Status;
/// }
/// ```
#[macro_export]
macro_rules! listing {
    (
        $entity:ident: $filter:ident, $order:ident by $order_field:ident, default $default:ident $direction:ident;
        $(
            $(#[doc = $doc:literal])*
            $(#[graphql($($graphql:tt)*)])?
            $field:ident : $comparator:ty $(= $column:literal)? $(, $variant:ident $(then $tie:ident)?)? ;
        )+
    ) => {
        #[doc = concat!("Conditions on `", stringify!($entity), "` rows; all given conditions must hold.")]
        #[derive(Clone, Debug, Default, async_graphql::InputObject)]
        pub struct $filter {
            $( $(#[doc = $doc])* $(#[graphql($($graphql)*)])? pub $field: Option<$comparator>, )+
            /// All of these conditions hold.
            pub and: Option<Vec<$filter>>,
            /// At least one of these conditions holds.
            pub or: Option<Vec<$filter>>,
            /// This condition does not hold.
            pub not: Option<Box<$filter>>,
        }

        impl $crate::graphql::filter::Filter for $filter {
            const COLUMNS: &'static [(&'static str, &'static str)] =
                &[$( (stringify!($field), $crate::listing!(@column $field [$($column)?])), )+];

            fn conditions(
                &self,
                sql: &mut $crate::graphql::filter::Conditions<'_>,
            ) -> $crate::error::Result<()> {
                $( sql.field(stringify!($field), $crate::listing!(@column $field [$($column)?]), self.$field.as_ref())?; )+
                sql.boolean(self.and.as_deref(), self.or.as_deref(), self.not.as_deref())
            }
        }

        $crate::listing! {
            @order [$entity $filter $order $order_field $default $direction] {}
            $( [$($variant [$($tie)?])?] $field [$($column)?] [$(#[doc = $doc])*] )+
        }
    };
    (@column $field:ident []) => { concat!("t.", stringify!($field)) };
    (@column $field:ident [$column:literal]) => { concat!("t.", $column) };
    // Collects the fields of `orderBy`, line by line.
    (@order $names:tt { $($done:tt)* } [] $field:ident $column:tt $docs:tt $($rest:tt)*) => {
        $crate::listing! { @order $names { $($done)* } $($rest)* }
    };
    (@order $names:tt { $($done:tt)* } [$variant:ident $tie:tt] $field:ident $column:tt $docs:tt $($rest:tt)*) => {
        $crate::listing! { @order $names { $($done)* ($variant $tie $field $column $docs) } $($rest)* }
    };
    (
        @order [$entity:ident $filter:ident $order:ident $order_field:ident $default:ident $direction:ident]
        { $( ($variant:ident [$($tie:ident)?] $field:ident $column:tt [$($doc:tt)*]) )+ }
    ) => {
        #[doc = concat!("Fields that a list of `", stringify!($entity), "` can be ordered by.")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, async_graphql::Enum)]
        pub enum $order_field { $( $($doc)* $variant, )+ }

        #[doc = concat!("One step of the order of a list of `", stringify!($entity), "`.")]
        #[derive(Clone, Copy, Debug, async_graphql::InputObject)]
        pub struct $order {
            /// The field to order by.
            pub field: $order_field,
            /// The direction; ascending by default.
            #[graphql(default)]
            pub direction: $crate::graphql::order::Direction,
        }

        impl From<$order> for ($order_field, $crate::graphql::order::Direction) {
            fn from(order: $order) -> Self {
                (order.field, order.direction)
            }
        }

        impl $crate::graphql::listing::Listed for $entity {
            type Filter = $filter;
            type OrderField = $order_field;
            type Order = $order;
            const DEFAULT_ORDER: ($order_field, $crate::graphql::order::Direction) =
                ($order_field::$default, $crate::graphql::order::Direction::$direction);
            const ORDERED: &'static [(&'static str, &'static str)] =
                &[$( (stringify!($variant), $crate::listing!(@column $field $column)), )+];

            fn tie_breaker(field: $order_field) -> Option<$order_field> {
                match field {
                    $( $order_field::$variant => {
                        let tie: &[$order_field] = &[$( $order_field::$tie )?];
                        tie.first().copied()
                    } )+
                }
            }

            fn order_column(field: $order_field) -> $crate::graphql::order::OrderColumn {
                match field {
                    $( $order_field::$variant => $crate::graphql::order::OrderColumn::of(
                        $crate::listing!(@column $field $column),
                        |row: &$entity| &row.$field,
                    ), )+
                }
            }

            fn order_value(&self, field: $order_field) -> $crate::graphql::order::CursorValue {
                match field {
                    $( $order_field::$variant => $crate::graphql::order::OrderValue::cursor_value(&self.$field), )+
                }
            }
        }
    };
}
