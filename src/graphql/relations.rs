//! What an object shows beside its columns: lists, single rows, and what is computed from it.

/// Declares what an object shows beside its columns, a line each, and its other fields as they are.
///
/// ```text
/// relations! {
///     Ticket {
///         /// The messages, oldest first.
///         messages -> TicketMessage by "t.ticket_id";
///     }
///     one {
///         /// The customer.
///         customer -> Customer by customer_id;
///     }
///     computed {
///         /// Amount spent.
///         spent: Money = |budget| Money::from_minor(budget.spent_minor, &budget.currency);
///     }
///     /// The role.
///     async fn role(&self, ctx: &Context<'_>) -> Result<Option<UserRole>> { … }
/// }
/// ```
///
/// - `messages -> TicketMessage by "t.ticket_id"` is the list of messages whose `ticket_id` is this row's id. Without `by` it is
///   the list of the whole organization. Who may see it, the entity says. `by "t.series_id" of series_id` compares with another
///   id of this row.
/// - `customer -> Customer by customer_id` is the row that the field `customer_id` names, and null without one.
///   `ticket -> Ticket! by ticket_id` is never null.
/// - `computed` needs nothing but the row, and cannot fail.
///
/// Lists write single rows and computed values without the engine ([`rows`](crate::graphql::rows)); a field that is written
/// as a function makes every list that selects it take the engine's way.
///
/// `relations! { Platform over open { … } }` makes an object whose lists span organizations; `open` is a
/// [`PlatformRead`](crate::graphql::connection::PlatformRead).
#[macro_export]
macro_rules! relations {
    ($object:ident $lists:tt one { $($one:tt)* } computed { $($computed:tt)* } $($others:tt)*) => {
        $crate::relations! { @parts $object $lists [$($one)*] { $($computed)* } $($others)* }
    };
    ($object:ident $lists:tt one { $($one:tt)* } $($others:tt)*) => {
        $crate::relations! { @parts $object $lists [$($one)*] {} $($others)* }
    };
    ($object:ident $lists:tt computed { $($computed:tt)* } $($others:tt)*) => {
        $crate::relations! { @parts $object $lists [] { $($computed)* } $($others)* }
    };
    ($(#[$meta:meta])* $object:ident over $open:path { $($lists:tt)* } $($others:tt)*) => {
        $crate::relations! { @impl [async_graphql::Object] [$(#[$meta])*] $object [$open] { $($lists)* } $($others)* }
    };
    ($object:ident $lists:tt $($others:tt)*) => {
        $crate::relations! { @parts $object $lists [] {} $($others)* }
    };
    (
        @parts $object:ident $lists:tt $one:tt
        { $( $(#[$computed_meta:meta])* $computed:ident: $value:ty = $make:expr; )* } $($others:tt)*
    ) => {
        $crate::relations! {
            @one $object $lists [] [] $one [$( [$(#[$computed_meta])*] $computed [$value] [$make] )*] $($others)*
        }
    };
    // Collects the single rows, line by line: their resolvers, and their parts of lists.
    (@one $object:ident $lists:tt [$($resolvers:tt)*] [$($parts:tt)*]
        [$(#[$meta:meta])* $field:ident -> $row:ident by $id:ident; $($rest:tt)*] $($others:tt)*) => {
        $crate::relations! { @one $object $lists
            [
                $($resolvers)*
                $(#[$meta])*
                async fn $field(
                    &self,
                    ctx: &async_graphql::Context<'_>,
                ) -> $crate::error::Result<Option<std::sync::Arc<$row>>> {
                    $crate::graphql::session::Session::of(ctx)?.load_opt(self.$id).await
                }
            ]
            [$($parts)* { $field [$crate::graphql::rows::Part::related(stringify!($id), |row: &Self| row.$id, false)] }]
            [$($rest)*] $($others)* }
    };
    (@one $object:ident $lists:tt [$($resolvers:tt)*] [$($parts:tt)*]
        [$(#[$meta:meta])* $field:ident -> $row:ident ! by $id:ident; $($rest:tt)*] $($others:tt)*) => {
        $crate::relations! { @one $object $lists
            [
                $($resolvers)*
                $(#[$meta])*
                async fn $field(
                    &self,
                    ctx: &async_graphql::Context<'_>,
                ) -> $crate::error::Result<std::sync::Arc<$row>> {
                    $crate::graphql::session::Session::of(ctx)?.load(self.$id).await?.ok_or_else(|| {
                        let missing = concat!("a row of ", stringify!($object), " without its ", stringify!($field));
                        $crate::error::Error::internal(missing)
                    })
                }
            ]
            [$($parts)* { $field [$crate::graphql::rows::Part::related(stringify!($id), |row: &Self| Some(row.$id), true)] }]
            [$($rest)*] $($others)* }
    };
    (@one $object:ident $lists:tt [$($resolvers:tt)*] [$( { $one:ident [$($part:tt)*] } )*] []
        [$( [$(#[$computed_meta:meta])*] $computed:ident [$value:ty] [$make:expr] )*] $($others:tt)*) => {
        impl $crate::graphql::rows::Related for $object {
            #[allow(unused_variables, reason = "an object may have lists only")]
            fn related(name: &str) -> Option<$crate::graphql::rows::Part<Self>> {
                $(
                    if $crate::graphql::rows::is_named(name, stringify!($one)) {
                        return Some($($part)*);
                    }
                )*
                $(
                    if $crate::graphql::rows::is_named(name, stringify!($computed)) {
                        let make: fn(&Self) -> $value = $make;
                        return Some($crate::graphql::rows::Part::of(make));
                    }
                )*
                None
            }
        }

        $crate::relations! { @impl [async_graphql::ComplexObject] [] $object [] $lists
            $($resolvers)*
            $(
                $(#[$computed_meta])*
                async fn $computed(&self) -> $value {
                    let make: fn(&Self) -> $value = $make;
                    make(self)
                }
            )*
            $($others)*
        }
    };
    (
        @impl [$kind:path] [$(#[$meta:meta])*] $object:ident $open:tt {
            $( $(#[$list_meta:meta])* $field:ident -> $row:ident $(by $column:literal $(of $key:ident)?)? ; )*
        }
        $($others:tt)*
    ) => {
        $(#[$meta])*
        #[$kind]
        impl $object {
            $(
                $(#[$list_meta])*
                async fn $field(
                    &self,
                    ctx: &async_graphql::Context<'_>,
                    #[graphql(desc = "The number of rows from the front of the list: 0 to 100, 50 by default.")]
                    first: Option<i64>,
                    #[graphql(desc = "Only rows after this cursor; used with `first`.")]
                    after: Option<String>,
                    #[graphql(desc = "The number of rows from the end of the list: 0 to 100. Excludes `first`.")]
                    last: Option<i64>,
                    #[graphql(desc = "Only rows before this cursor; used with `last`.")]
                    before: Option<String>,
                    #[graphql(name = "where", desc = "Only rows that meet these conditions.")]
                    filter: Option<Box<<$row as $crate::graphql::listing::Listed>::Filter>>,
                    #[graphql(desc = "The order: at most 5 steps, the most important first. Ties are in a stable order.")]
                    order_by: Option<Vec<<$row as $crate::graphql::listing::Listed>::Order>>,
                ) -> $crate::error::Result<$crate::graphql::connection::Connection<$row>> {
                    let args = $crate::graphql::plan::ListArgs { first, after, last, before, filter, order_by };
                    let reader = $crate::relations!(@reader $open self $($column $($key)?)?);
                    // Boxed, and the filter as well: see `boxed` in `loader.rs`.
                    Box::pin($crate::graphql::connection::Connection::read(ctx, reader, args)).await
                }
            )*

            $($others)*
        }
    };
    (@reader [$open:path] $row:ident) => { $crate::graphql::connection::Reader::Platform($open) };
    (@reader [] $row:ident) => {
        $crate::graphql::connection::Reader::Tenant($crate::graphql::plan::Scope::Organization)
    };
    (@reader [] $row:ident $column:literal) => {
        $crate::graphql::connection::Reader::Tenant(
            $crate::graphql::plan::Scope::Parent($column, $row.id.uuid())
        )
    };
    (@reader [] $row:ident $column:literal $key:ident) => {
        $crate::graphql::connection::Reader::Tenant(
            $crate::graphql::plan::Scope::Parent($column, $row.$key.uuid())
        )
    };
}
