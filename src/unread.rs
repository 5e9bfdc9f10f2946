//! What stands in the fields of a row whose columns a list did not read.

use chrono::{DateTime, Utc};

use crate::id::Id;

/// A value for a field whose column was not read. Nobody sees it.
pub trait Unread {
    /// The value.
    fn unread() -> Self;
}

macro_rules! unread {
    ($($type:ty = $value:expr),+ $(,)?) => { $(
        impl Unread for $type {
            fn unread() -> Self {
                $value
            }
        }
    )+ };
}

unread! {
    bool = false,
    i32 = 0,
    i64 = 0,
    f64 = 0.0,
    String = Self::new(),
    DateTime<Utc> = Self::UNIX_EPOCH,
    serde_json::Value = Self::Null,
}

impl<T> Unread for Id<T> {
    fn unread() -> Self {
        Self::NIL
    }
}

impl<T> Unread for Option<T> {
    fn unread() -> Self {
        None
    }
}

impl<T> Unread for Vec<T> {
    fn unread() -> Self {
        Self::new()
    }
}
