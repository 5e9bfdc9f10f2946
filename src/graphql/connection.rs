//! Relay connections over keyset pages (GraphQL Cursor Connections Specification).
//!
//! A cursor holds the order values and the id of its row, and a checksum over the organization, the list and the order
//! it was made for. It is opaque, not secret: it holds what its reader was shown, and a forged one only names another
//! place in the reader's own list.

use std::borrow::Cow;
use std::sync::Arc;

use async_graphql::{Context, Object, ObjectType, OutputType, SimpleObject, TypeName};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::graphql::listing::{Bind, Conditions, CursorValue, Direction, Filter as _, Listed, Order, keyset, order_by};
use crate::graphql::session::Session;
use crate::platform;

/// Rows per page when neither `first` nor `last` is given.
pub const DEFAULT_PAGE: i64 = 50;
/// Most rows per page.
pub const MAX_PAGE: i64 = 100;

/// Whose rows a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All of the organization.
    Organization,
    /// All of every organization: for superadmins.
    Platform,
    /// Those whose column (SQL, with the alias `t`) holds this id.
    Parent(&'static str, Uuid),
}

/// The arguments of a connection field, as GraphQL delivered them.
#[derive(Debug)]
pub struct ListArgs<E: Listed> {
    /// How many from the front.
    pub first: Option<i64>,
    /// Behind this cursor.
    pub after: Option<String>,
    /// How many from the end.
    pub last: Option<i64>,
    /// Before this cursor.
    pub before: Option<String>,
    /// Which rows.
    pub filter: Option<Box<E::Filter>>,
    /// In which order.
    pub order: Order<E>,
}

/// A list that was checked and translated; equal plans of different parents are answered by one statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The conditions of `where`.
    pub condition: String,
    /// The condition for rows behind the cursor, which the total count leaves out.
    pub keyset: Option<String>,
    /// `order by`.
    pub order: String,
    /// The values: those of `where` first.
    pub binds: Vec<Bind>,
    /// How many of `binds` belong to `where`.
    pub filter_binds: usize,
    /// Rows on the page.
    pub limit: i64,
    /// Whether the page is read from the end.
    pub backward: bool,
}

impl Plan {
    /// Cuts the row that was read beyond the page, and turns a page that was read from the end.
    #[must_use]
    pub fn cut<E>(&self, mut rows: Vec<Arc<E>>) -> Page<E> {
        let limit = usize::try_from(self.limit).unwrap_or(0);
        let more = rows.len() > limit;
        rows.truncate(limit);
        if self.backward {
            rows.reverse();
        }
        Page { rows, more }
    }
}

/// The parameters every list statement begins with: the organization and the parents.
pub const LEADING_PARAMETERS: usize = 2;

impl<E: Listed> ListArgs<E> {
    /// Checks the arguments and translates them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for sizes out of range, both directions at once and bad filters, [`Error::InvalidCursor`].
    fn plan(&self, cursors: &Cursors<E>) -> Result<Plan> {
        let (limit, backward) = match (self.first, self.last) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("last", "Give `first` or `last`, not both."));
            }
            (Some(first), None) => (page_size("first", first)?, false),
            (None, Some(last)) => (page_size("last", last)?, true),
            (None, None) => (DEFAULT_PAGE, false),
        };
        if backward && self.after.is_some() {
            return Err(Error::invalid("after", "`after` goes with `first`; with `last` use `before`."));
        }
        if !backward && self.before.is_some() {
            return Err(Error::invalid("before", "`before` goes with `last`; with `first` use `after`."));
        }
        let mut binds = Vec::new();
        let mut conditions = Conditions::new(&mut binds, LEADING_PARAMETERS);
        if let Some(filter) = &self.filter {
            filter.conditions(&mut conditions)?;
        }
        let condition = conditions.into_text();
        let filter_binds = binds.len();
        let cursor = match (&self.after, &self.before) {
            (Some(cursor), _) => Some(("after", cursor)),
            (None, Some(cursor)) => Some(("before", cursor)),
            (None, None) => None,
        };
        let keyset = match cursor {
            None => None,
            Some((argument, cursor)) => {
                let (values, id) = cursors.decode(cursor).ok_or(Error::InvalidCursor(argument))?;
                Some(keyset::<E>(&self.order, &values, id, backward, &mut binds, LEADING_PARAMETERS)?)
            }
        };
        Ok(Plan {
            condition,
            keyset,
            order: order_by::<E>(&self.order, backward),
            binds,
            filter_binds,
            limit,
            backward,
        })
    }
}

fn page_size(argument: &'static str, size: i64) -> Result<i64> {
    if (0..=MAX_PAGE).contains(&size) {
        Ok(size)
    } else {
        Err(Error::invalid(
            argument,
            format!("`{argument}` takes 0 to {MAX_PAGE}; got {size}. Page on with `after` or `before`."),
        ))
    }
}

/// Makes and reads the cursors of one list.
#[derive(Clone, Debug)]
pub struct Cursors<E: Listed> {
    order: Order<E>,
    /// What the checksum covers beside the cursor itself.
    list: String,
}

impl<E: Listed> Cursors<E> {
    /// The cursors of this list of this organization.
    #[must_use]
    pub fn new(organization: Uuid, scope: Scope, order: Order<E>) -> Self {
        let list = format!("{organization}|{}|{scope:?}|{order:?}", E::NAME);
        Self { order, list }
    }

    fn checksum(&self, body: &[u8]) -> [u8; 6] {
        let digest = Sha256::new().chain_update(self.list.as_bytes()).chain_update([0]).chain_update(body).finalize();
        std::array::from_fn(|i| digest[i])
    }

    /// The cursor of a row.
    fn encode(&self, row: &E) -> String {
        let mut values: Vec<serde_json::Value> = self
            .order
            .iter()
            .map(|(field, _)| match row.order_value(*field) {
                CursorValue::Null => serde_json::Value::Null,
                CursorValue::Int(value) => value.into(),
                CursorValue::Float(value) => value.into(),
                CursorValue::Text(value) => value.into(),
            })
            .collect();
        values.push(row.uuid().simple().to_string().into());
        let body = serde_json::Value::Array(values).to_string();
        let mut bytes = self.checksum(body.as_bytes()).to_vec();
        bytes.extend_from_slice(body.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The values and the id in a cursor of this list.
    fn decode(&self, cursor: &str) -> Option<(Vec<CursorValue>, Uuid)> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (checksum, body) = bytes.split_at_checked(6)?;
        if checksum != self.checksum(body) {
            return None;
        }
        let mut values: Vec<serde_json::Value> = serde_json::from_slice(body).ok()?;
        let id = Uuid::try_parse(values.pop()?.as_str()?).ok()?;
        if values.len() != self.order.len() {
            return None;
        }
        let values = values
            .into_iter()
            .map(|value| match value {
                serde_json::Value::Null => Some(CursorValue::Null),
                serde_json::Value::String(text) if !text.contains('\0') => Some(CursorValue::Text(text)),
                serde_json::Value::Number(number) => {
                    number.as_i64().map(CursorValue::Int).or_else(|| number.as_f64().map(CursorValue::Float))
                }
                _ => None,
            })
            .collect::<Option<Vec<_>>>()?;
        Some((values, id))
    }
}

/// A page as the loader delivers it.
#[derive(Debug)]
pub struct Page<E> {
    /// The rows, in the order of the list.
    pub rows: Vec<Arc<E>>,
    /// Whether the list goes on in the direction that was read.
    pub more: bool,
}

/// Answers a connection field.
///
/// # Errors
/// See [`ListArgs`]; besides whatever opening the tenant's transaction reports.
pub async fn connection<E: Listed>(
    ctx: &Context<'_>,
    scope: Scope,
    (first, after, last, before): (Option<i64>, Option<String>, Option<i64>, Option<String>),
    filter: Option<Box<E::Filter>>,
    order: Option<Vec<impl Into<(E::OrderField, Direction)>>>,
) -> Result<Connection<E>> {
    let session = Session::of(ctx)?;
    let organization = session.require(E::READ).await?.organization_id;
    let (cursors, plan, has_cursor) = prepare(organization.uuid(), scope, (first, after, last, before), filter, order)?;
    let page = session.page::<E>(scope, Arc::clone(&plan)).await?;
    Ok(Connection { cursors, scope, page, backward: plan.backward, plan, has_cursor })
}

/// Answers a connection field over all organizations.
///
/// # Errors
/// See [`ListArgs`]; [`Error::Forbidden`] for who is no superadmin.
pub async fn platform_connection<E: Listed>(
    ctx: &Context<'_>,
    page: (Option<i64>, Option<String>, Option<i64>, Option<String>),
    filter: Option<Box<E::Filter>>,
    order: Option<Vec<impl Into<(E::OrderField, Direction)>>>,
) -> Result<Connection<E>> {
    let scope = Scope::Platform;
    let (cursors, plan, has_cursor) = prepare(Uuid::nil(), scope, page, filter, order)?;
    let page = Arc::new(platform::page::<E>(Session::of(ctx)?, &plan).await?);
    Ok(Connection { cursors, scope, page, backward: plan.backward, plan, has_cursor })
}

/// Checks the arguments of a connection field: its cursors, its plan, and whether it was given a cursor.
fn prepare<E: Listed>(
    organization: Uuid,
    scope: Scope,
    (first, after, last, before): (Option<i64>, Option<String>, Option<i64>, Option<String>),
    filter: Option<Box<E::Filter>>,
    order: Option<Vec<impl Into<(E::OrderField, Direction)>>>,
) -> Result<(Cursors<E>, Arc<Plan>, bool)> {
    let order: Order<E> = match order {
        Some(order) if !order.is_empty() => order.into_iter().map(Into::into).collect(),
        _ => vec![E::DEFAULT_ORDER],
    };
    if order.len() > 5 {
        return Err(Error::invalid("orderBy", "An order has at most 5 steps."));
    }
    let cursors = Cursors::new(organization, scope, order.clone());
    let has_cursor = after.is_some() || before.is_some();
    let plan = ListArgs { first, after, last, before, filter, order }.plan(&cursors)?;
    Ok((cursors, Arc::new(plan), has_cursor))
}

/// A page of a list, with its cursors.
#[derive(Debug)]
pub struct Connection<E: Listed> {
    cursors: Cursors<E>,
    scope: Scope,
    plan: Arc<Plan>,
    page: Arc<Page<E>>,
    backward: bool,
    has_cursor: bool,
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

    /// Where this page lies in the list.
    async fn page_info(&self) -> PageInfo {
        PageInfo {
            // Looking in the other direction would cost a statement; a page that was reached by a cursor has one.
            has_next_page: if self.backward { self.has_cursor } else { self.page.more },
            has_previous_page: if self.backward { self.page.more } else { self.has_cursor },
            start_cursor: self.page.rows.first().map(|row| self.cursors.encode(row)),
            end_cursor: self.page.rows.last().map(|row| self.cursors.encode(row)),
        }
    }

    /// How many rows the whole list has under this `where`. Counting costs time in proportion to that number: ask for
    /// it only where it is shown.
    async fn total_count(&self, ctx: &Context<'_>) -> Result<i64> {
        let session = Session::of(ctx)?;
        match self.scope {
            Scope::Platform => Box::pin(platform::count::<E>(session, &self.plan)).await,
            scope => session.count::<E>(scope, &self.plan).await,
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
    /// For `after` and `before`.
    async fn cursor(&self) -> &str {
        &self.cursor
    }

    /// The row.
    async fn node(&self) -> &Arc<E> {
        &self.node
    }
}

/// Where a page lies in its list.
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

/// The `ComplexObject` of an entity: its connection fields, declared in one line each, and its other fields as they are.
///
/// `messages -> TicketMessage(TicketMessageFilter, TicketMessageOrder) by "t.ticket_id";` is the list of messages whose
/// `ticket_id` is this row's id. Without `by` it is the list of the whole organization. Who may see it, the entity says.
#[macro_export]
macro_rules! connections {
    (
        $entity:ident {
            $( $(#[$meta:meta])* $field:ident -> $row:ident($filter:ident, $order:ident) $(by $column:literal)? ; )*
        }
        $($others:tt)*
    ) => {
        #[async_graphql::ComplexObject]
        impl $entity {
            $(
                $(#[$meta])*
                async fn $field(
                    &self,
                    ctx: &async_graphql::Context<'_>,
                    #[graphql(desc = "Rows from the front of the list: 0 to 100; 50 when neither `first` nor `last` is given.")]
                    first: Option<i64>,
                    #[graphql(desc = "Only rows behind this cursor of the same list in the same order; goes with `first`.")]
                    after: Option<String>,
                    #[graphql(desc = "Rows from the end of the list: 0 to 100. Not together with `first`.")]
                    last: Option<i64>,
                    #[graphql(desc = "Only rows before this cursor of the same list in the same order; goes with `last`.")]
                    before: Option<String>,
                    #[graphql(name = "where", desc = "Only rows for which all of this holds.")]
                    filter: Option<Box<$filter>>,
                    #[graphql(desc = "The order, most important first; at most 5 steps. Rows that are equal in all of them are ordered by id.")]
                    order_by: Option<Vec<$order>>,
                ) -> $crate::error::Result<$crate::graphql::connection::Connection<$row>> {
                    let scope = $crate::connections!(@scope self $(, $column)?);
                    let page = (first, after, last, before);
                    // Boxed, and the filter as well: see `boxed` in `loader.rs`.
                    Box::pin($crate::graphql::connection::connection(ctx, scope, page, filter, order_by)).await
                }
            )*

            $($others)*
        }
    };
    (@scope $row:ident) => { $crate::graphql::connection::Scope::Organization };
    (@scope $row:ident, $column:literal) => {
        $crate::graphql::connection::Scope::Parent($column, $row.id.uuid())
    };
}
