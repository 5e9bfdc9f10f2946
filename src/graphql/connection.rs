//! Relay connections over keyset pages (GraphQL Cursor Connections Specification).

use std::borrow::{Borrow, Cow};
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use async_graphql::context::ContextSelectionSet;
use async_graphql::parser::types::Field;
use async_graphql::registry::Registry;
use async_graphql::{Context, Object, ObjectType, OutputType, Positioned, ServerResult, SimpleObject, TypeName, Value};
use futures_util::future::BoxFuture;
use serde_json::json;
use uuid::Uuid;

use crate::access::Actions;
use crate::db::SystemTx;
use crate::error::Result;
use crate::graphql::cells::Columns;
use crate::graphql::cursor::Cursors;
use crate::graphql::listing::Listed;
use crate::graphql::loader::{platform_count, platform_page};
use crate::graphql::plan::{ListArgs, ListPage, ListPlan, Scope, check_count};
use crate::graphql::rows::{self, Part, Related};
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
    cursors: Arc<Cursors<E>>,
    reader: Reader,
    plan: Arc<ListPlan>,
    page: Arc<ListPage<E>>,
}

impl<E: Listed + Related> Connection<E> {
    /// Answers a connection field.
    ///
    /// # Errors
    /// Those of [`ListArgs::plan`], [`Error::Forbidden`](crate::error::Error::Forbidden), and whatever opening the
    /// transaction reports.
    pub async fn read(ctx: &Context<'_>, reader: Reader, args: ListArgs<E>) -> Result<Self> {
        let session = Session::of(ctx)?;
        let (organization, allowed) = match reader {
            Reader::Tenant(_) => {
                let tenant = session.require(E::READ).await?;
                (tenant.organization_id.uuid(), tenant.allowed)
            }
            Reader::Platform(_) => (Uuid::nil(), Actions::NONE),
        };
        let (cursors, mut plan) = args.plan(organization, reader.scope(), allowed)?;
        if matches!(reader, Reader::Tenant(_)) {
            plan.columns = rows::columns::<E, Edge<E>>(ctx).with(cursors.columns());
        }
        let plan = Arc::new(plan);
        let page = match reader {
            Reader::Tenant(scope) => session.page::<E>(scope, Arc::clone(&plan)).await?,
            Reader::Platform(open) => {
                let metadata = json!({ "where": plan.condition, "limit": plan.limit });
                let tx = open(session, format!("{}.list", E::TABLE_NAME), metadata).await?;
                Arc::new(platform_page(tx, &plan).await?)
            }
        };
        Ok(Self { cursors: Arc::new(cursors), reader, plan, page })
    }

    /// Whether the page has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.page.rows.is_empty()
    }
}

impl<E: Listed> TypeName for Connection<E> {
    fn type_name() -> Cow<'static, str> {
        Cow::Owned(format!("{}Connection", E::NAME))
    }
}

/// A page of a list (GraphQL Cursor Connections Specification).
#[Object(name_type)]
impl<E: Listed + Related + ObjectType> Connection<E> {
    /// The rows of this page with their cursors.
    async fn edges(&self) -> List<Edge<E>, Vec<Edge<E>>> {
        let rows = self.page.rows.iter();
        let edges = rows.map(|row| Edge { cursors: Arc::clone(&self.cursors), node: Arc::clone(row) }).collect();
        List::of(edges)
    }

    /// The rows of this page.
    async fn nodes(&self) -> List<E, &[Arc<E>]> {
        List::of(self.page.rows.as_slice())
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
    /// for it only where it is shown, and with `atMost` where "more than 1,000" is enough.
    async fn total_count(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Counting stops at this number, 1 to 1,000,000: the list has then at least so many rows.")]
        at_most: Option<i64>,
    ) -> Result<i64> {
        let session = Session::of(ctx)?;
        check_count(at_most)?;
        match self.reader {
            Reader::Tenant(scope) => session.count::<E>(scope, &self.plan, at_most).await,
            Reader::Platform(open) => {
                let metadata = json!({ "where": self.plan.condition });
                let tx = Box::pin(open(session, format!("{}.count", E::TABLE_NAME), metadata)).await?;
                Box::pin(platform_count::<E>(tx, &self.plan, at_most)).await
            }
        }
    }
}

/// A row and its cursor.
#[derive(Debug)]
pub struct Edge<E: Listed> {
    cursors: Arc<Cursors<E>>,
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
    async fn cursor(&self) -> String {
        self.cursors.encode(&self.node)
    }

    /// The row.
    async fn node(&self) -> &Arc<E> {
        &self.node
    }
}

impl<E: Listed + Related> rows::Object for Edge<E> {
    fn type_name() -> Cow<'static, str> {
        <Self as TypeName>::type_name()
    }

    fn part(name: &str) -> Option<Part<Self>> {
        match name {
            // What it holds is read anyway.
            "cursor" => Some(Part::of(|edge: &Self| edge.cursors.encode(&edge.node)).needing(Columns::NONE)),
            "node" => Some(Part::within(|edge: &Self| &*edge.node)),
            _ => None,
        }
    }
}

/// The list behind `nodes` and `edges`: items `I` that show an `O`.
#[derive(Debug)]
pub struct List<O, L> {
    items: L,
    shown: PhantomData<fn() -> O>,
}

impl<O, L> List<O, L> {
    fn of(items: L) -> Self {
        Self { items, shown: PhantomData }
    }
}

impl<O, I, L> OutputType for List<O, L>
where
    O: rows::Object,
    I: Borrow<O> + OutputType,
    L: Deref<Target = [I]> + Send + Sync,
{
    fn type_name() -> Cow<'static, str> {
        <Vec<I> as OutputType>::type_name()
    }

    fn qualified_type_name() -> String {
        <Vec<I> as OutputType>::qualified_type_name()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        <Vec<I> as OutputType>::create_type_info(registry)
    }

    async fn resolve(&self, ctx: &ContextSelectionSet<'_>, field: &Positioned<Field>) -> ServerResult<Value> {
        rows::resolve::<O, I>(ctx, field, &self.items).await
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
