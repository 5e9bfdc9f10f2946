//! Columns that a list reads: those that its selection shows, its relations need and its cursors hold.
//!
//! The columns come from the same reading of the selection that writes the rows ([`Plan`](crate::graphql::rows)), so nothing
//! that a selection reaches is left out, by whatever way its rows are then written. What the reading does not understand takes
//! every column.

use tokio_postgres::types::FromSql;

use crate::db::Row;
use crate::error::Result;
use crate::unread::Unread;

/// A set of an entity's columns, by their places in [`Entity::FIELDS`](crate::graphql::entity::Entity::FIELDS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Columns(u64);

impl Columns {
    /// Every column.
    pub const ALL: Self = Self(u64::MAX);
    /// No column.
    pub const NONE: Self = Self(0);

    /// The column with this place. Places beyond the set's size stand for all.
    #[must_use]
    pub const fn one(place: usize) -> Self {
        if place < 64 { Self(1 << place) } else { Self::ALL }
    }

    /// The columns of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the column with this place is one of them.
    #[must_use]
    pub const fn has(self, place: usize) -> bool {
        place >= 64 || self.0 & (1 << place) != 0
    }
}

/// The cells of a row, one after the other, of an entity's fields in their order.
#[derive(Debug)]
pub struct Cells<'a> {
    row: &'a Row,
    read: Columns,
    /// The next field.
    place: usize,
    /// The next cell.
    at: usize,
}

impl<'a> Cells<'a> {
    /// The cells of a row that holds these columns, beginning with cell `at`.
    #[must_use]
    pub fn new(row: &'a Row, at: usize, read: Columns) -> Self {
        Self { row, read, place: 0, at }
    }

    /// The value of the next field.
    ///
    /// # Errors
    /// When the cell does not hold what the field expects.
    pub fn take<T: FromSql<'a> + Unread>(&mut self) -> Result<T> {
        let place = self.place;
        self.place += 1;
        if !self.read.has(place) {
            return Ok(T::unread());
        }
        let at = self.at;
        self.at += 1;
        Ok(self.row.try_get(at)?)
    }
}
