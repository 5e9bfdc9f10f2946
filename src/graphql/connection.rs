//! Relay connections over keyset pages (GraphQL Cursor Connections Specification).

use std::borrow::Cow;
use std::sync::Arc;

use async_graphql::{Context, Object, ObjectType, OutputType, SimpleObject, TypeName};
use futures_util::future::BoxFuture;
use serde_json::json;
use uuid::Uuid;

use crate::db::SystemTx;
use crate::error::Result;
use crate::graphql::cursor::Cursors;
use crate::graphql::listing::Listed;
use crate::graphql::loader::{platform_count, platform_page};
use crate::graphql::plan::{ListArgs, ListPage, ListPlan, Scope};
use crate::graphql::session::Session;

/// Opens a transaction across organizations for the viewer of the session, when they may have one, and records the
/// action and its metadata. The kit opens none itself.
pub type PlatformRead = for<'a> fn(&'a Session, String, serde_json::Value) -> BoxFuture<'a, Result<SystemTx>>;

/// Where the rows of a list come from.
#[derive(Clone, Copy, Debug)]
pub enum Reader {
    /// From the transaction of the viewer's organization.
    Tenant(Scope),
    /// From all organizations.
    Platform(PlatformRead),
}

impl Reader {
    fn scope(self) -> Scope {
        match self {
            Self::Tenant(scope) => scope,
            Self::Platform(_) => Scope::Platform,
        }
    }
}

/// A page of a list, with its cursors.
#[derive(Debug)]
pub struct Connection<E: Listed> {
    cursors: Cursors<E>,
    reader: Reader,
    plan: Arc<ListPlan>,
    page: Arc<ListPage<E>>,
}

impl<E: Listed> Connection<E> {
    /// Answers a connection field.
    ///
    /// # Errors
    /// Those of [`ListArgs::plan`], [`Error::Forbidden`](crate::error::Error::Forbidden), and whatever opening the
    /// transaction reports.
    pub async fn read(ctx: &Context<'_>, reader: Reader, args: ListArgs<E>) -> Result<Self> {
        let session = Session::of(ctx)?;
        let organization = match reader {
            Reader::Tenant(_) => session.require(E::READ).await?.organization_id.uuid(),
            Reader::Platform(_) => Uuid::nil(),
        };
        let (cursors, plan) = args.plan(organization, reader.scope())?;
        let plan = Arc::new(plan);
        let page = match reader {
            Reader::Tenant(scope) => session.page::<E>(scope, Arc::clone(&plan)).await?,
            Reader::Platform(open) => {
                let metadata = json!({ "where": plan.condition, "limit": plan.limit });
                let tx = open(session, format!("{}.list", E::TABLE_NAME), metadata).await?;
                Arc::new(platform_page(tx, &plan).await?)
            }
        };
        Ok(Self { cursors, reader, plan, page })
    }
}

impl<E: Listed> TypeName for Connection<E> {
    fn type_name() -> Cow<'static, str> {
        Cow::Owned(format!("{}Connection", E::NAME))
    }
}

/// A page of a list (GraphQL Cursor Connections Specification).
#[Object(name_type)]
impl<E: Listed + ObjectType> Connection<E> {
    /// The rows of this page with their cursors.
    async fn edges(&self) -> Vec<Edge<E>> {
        self.page.rows.iter().map(|row| Edge { cursor: self.cursors.encode(row), node: Arc::clone(row) }).collect()
    }

    /// The rows of this page.
    async fn nodes(&self) -> &[Arc<E>] {
        &self.page.rows
    }

    /// The position of this page in the list.
    async fn page_info(&self) -> PageInfo {
        // Looking in the other direction would cost a statement; a page that was reached by a cursor has one.
        let has_cursor = self.plan.keyset.is_some();
        PageInfo {
            has_next_page: if self.plan.backward { has_cursor } else { self.page.more },
            has_previous_page: if self.plan.backward { self.page.more } else { has_cursor },
            start_cursor: self.page.rows.first().map(|row| self.cursors.encode(row)),
            end_cursor: self.page.rows.last().map(|row| self.cursors.encode(row)),
        }
    }

    /// The number of rows in the whole list under this `where`. Counting takes time in proportion to that number: ask
    /// for it only where it is shown.
    async fn total_count(&self, ctx: &Context<'_>) -> Result<i64> {
        let session = Session::of(ctx)?;
        match self.reader {
            Reader::Tenant(scope) => session.count::<E>(scope, &self.plan).await,
            Reader::Platform(open) => {
                let metadata = json!({ "where": self.plan.condition });
                let tx = Box::pin(open(session, format!("{}.count", E::TABLE_NAME), metadata)).await?;
                Box::pin(platform_count::<E>(tx, &self.plan)).await
            }
        }
    }
}

/// A row and its cursor.
#[derive(Debug)]
pub struct Edge<E: Listed> {
    cursor: String,
    node: Arc<E>,
}

impl<E: Listed> TypeName for Edge<E> {
    fn type_name() -> Cow<'static, str> {
        Cow::Owned(format!("{}Edge", E::NAME))
    }
}

/// A row and its cursor.
#[Object(name_type)]
impl<E: Listed + OutputType> Edge<E> {
    /// Cursor for `after` and `before`.
    async fn cursor(&self) -> &str {
        &self.cursor
    }

    /// The row.
    async fn node(&self) -> &Arc<E> {
        &self.node
    }
}

/// The position of a page in its list.
#[derive(Clone, Debug, SimpleObject)]
pub struct PageInfo {
    /// Whether rows follow this page.
    pub has_next_page: bool,
    /// Whether rows come before this page.
    pub has_previous_page: bool,
    /// The cursor of the first row.
    pub start_cursor: Option<String>,
    /// The cursor of the last row.
    pub end_cursor: Option<String>,
}

/// The resolvers of an object: its connection fields, declared in one line each, and its other fields as they are.
///
/// `messages -> TicketMessage by "t.ticket_id";` is the list of messages whose `ticket_id` is this row's id. Without
/// `by` it is the list of the whole organization. Who may see it, the entity says.
///
/// `connections! { Platform over open { … } }` makes an object whose lists span organizations; `open` is a
/// [`PlatformRead`].
#[macro_export]
macro_rules! connections {
    ($(#[$meta:meta])* $object:ident { $($lists:tt)* } $($others:tt)*) => {
        $crate::connections! { @impl [async_graphql::ComplexObject] [$(#[$meta])*] $object [] { $($lists)* } $($others)* }
    };
    ($(#[$meta:meta])* $object:ident over $open:path { $($lists:tt)* } $($others:tt)*) => {
        $crate::connections! { @impl [async_graphql::Object] [$(#[$meta])*] $object [$open] { $($lists)* } $($others)* }
    };
    (
        @impl [$kind:path] [$(#[$meta:meta])*] $object:ident $open:tt {
            $( $(#[$list_meta:meta])* $field:ident -> $row:ident $(by $column:literal)? ; )*
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
                    let reader = $crate::connections!(@reader $open self $($column)?);
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
}
