//! Plans: the arguments of a connection field, checked and translated to SQL.

use std::sync::Arc;

use uuid::Uuid;

use crate::access::Actions;
use crate::db::Bind;
use crate::error::{Error, Result};
use crate::graphql::cells::Columns;
use crate::graphql::cursor::Cursors;
use crate::graphql::filter::{Conditions, Filter as _};
use crate::graphql::listing::Listed;
use crate::graphql::order::{Order, keyset, order_by};

/// Rows per page when neither `first` nor `last` is given.
pub const DEFAULT_PAGE: i64 = 50;
/// Most rows per page.
pub const MAX_PAGE: i64 = 100;
/// Where counting can stop.
const MAX_COUNT: i64 = 1_000_000;
/// Most steps of an order.
const MAX_ORDER: usize = 5;

/// Whose rows a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All rows of the organization.
    Organization,
    /// The rows of every organization: for superadmins.
    Platform,
    /// The rows whose column (SQL, with the alias `t`) holds this id.
    Parent(&'static str, Uuid),
}

impl Scope {
    /// The parameters a statement of this scope begins with: the organization and the parents, or none.
    #[must_use]
    pub const fn leading_parameters(self) -> usize {
        match self {
            Self::Organization | Self::Parent(..) => 2,
            Self::Platform => 0,
        }
    }
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
    pub order_by: Option<Vec<E::Order>>,
}

/// A list that was checked and translated; equal plans of different parents are answered by one statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListPlan {
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
    /// Rows on the page; of a count, where it stops (0: nowhere).
    pub limit: i64,
    /// Whether the page is read from the end.
    pub backward: bool,
    /// What is read of each row.
    pub columns: Columns,
}

/// A page as the loader delivers it.
#[derive(Debug)]
pub struct ListPage<E> {
    /// The rows, in the order of the list.
    pub rows: Vec<Arc<E>>,
    /// Whether the list goes on in the direction that was read.
    pub more: bool,
}

impl ListPlan {
    /// Cuts the row that was read beyond the page, and turns a page that was read from the end.
    #[must_use]
    pub fn cut<E>(&self, mut rows: Vec<Arc<E>>) -> ListPage<E> {
        let limit = usize::try_from(self.limit).unwrap_or(0);
        let more = rows.len() > limit;
        rows.truncate(limit);
        if self.backward {
            rows.reverse();
        }
        ListPage { rows, more }
    }
}

impl<E: Listed> ListArgs<E> {
    /// Checks the arguments and translates them. `organization` is nil for a list over all organizations; `allowed` is what
    /// the viewer may do.
    ///
    /// # Errors
    /// [`Error::Invalid`] for sizes out of range, both directions at once and bad filters, [`Error::InvalidCursor`].
    pub fn plan(self, organization: Uuid, scope: Scope, allowed: Actions) -> Result<(Cursors<E>, ListPlan)> {
        let mut order: Order<E> = match self.order_by {
            Some(order) if !order.is_empty() => order.into_iter().map(Into::into).collect(),
            _ => vec![E::DEFAULT_ORDER],
        };
        if order.len() > MAX_ORDER {
            return Err(Error::invalid("orderBy", format!("An order has at most {MAX_ORDER} steps.")));
        }
        // Of more steps no index knows the order anyway.
        if let [(field, direction)] = order[..]
            && let Some(tie) = E::tie_breaker(field)
        {
            order.push((tie, direction));
        }
        let (limit, backward) = match (self.first, self.last) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("last", "Give `first` or `last`, not both."));
            }
            (Some(first), None) => (page_size("first", first)?, false),
            (None, Some(last)) => (page_size("last", last)?, true),
            (None, None) => (DEFAULT_PAGE, false),
        };
        let cursor = match (backward, self.after, self.before) {
            (true, Some(_), _) => {
                return Err(Error::invalid("after", "`after` goes with `first`; with `last` use `before`."));
            }
            (false, _, Some(_)) => {
                return Err(Error::invalid("before", "`before` goes with `last`; with `first` use `after`."));
            }
            (false, after, None) => after.map(|cursor| ("after", cursor)),
            (true, None, before) => before.map(|cursor| ("before", cursor)),
        };
        let mut binds = Vec::new();
        let mut conditions = Conditions::new(&mut binds, scope.leading_parameters(), allowed);
        if let Some(filter) = &self.filter {
            filter.conditions(&mut conditions)?;
        }
        let condition = conditions.into_text();
        let filter_binds = binds.len();
        let cursors = Cursors::new(organization, scope, order.clone());
        let keyset = match cursor {
            None => None,
            Some((argument, cursor)) => {
                let (values, id) = cursors.decode(&cursor).ok_or(Error::InvalidCursor(argument))?;
                Some(keyset::<E>(&order, &values, id, backward, &mut binds, scope.leading_parameters())?)
            }
        };
        let order = order_by::<E>(&order, backward);
        Ok((
            cursors,
            ListPlan { condition, keyset, order, binds, filter_binds, limit, backward, columns: Columns::ALL },
        ))
    }
}

/// Checks where counting is to stop.
///
/// # Errors
/// [`Error::Invalid`] for a number out of range.
pub(super) fn check_count(at_most: Option<i64>) -> Result<()> {
    match at_most {
        Some(at_most) if !(1..=MAX_COUNT).contains(&at_most) => {
            Err(Error::invalid("atMost", format!("`atMost` takes 1 to {MAX_COUNT}; got {at_most}.")))
        }
        _ => Ok(()),
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
