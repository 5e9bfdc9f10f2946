//! How far somebody has come in the events of an organization.
//!
//! Changes become visible in the order of their commits, and are numbered when they begin: no single number says which were
//! told. A [`Position`] says it as `PostgreSQL` itself does: everything up to a transaction, but for those that had not ended.
//! It begins at a transaction that is in the log and not at the newest number that was given away: numbers of transactions that
//! left nothing behind are given away again after a crash.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use crate::error::{Error, Result};

/// Longest text of a cursor that is read, in bytes.
const LONGEST: usize = 8 * 1024;

/// Which transactions were told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// The newest transaction of the organization's log that was told.
    pub(super) newest: i64,
    /// All older ones than this were told, whoever they belong to.
    pub(super) floor: i64,
    /// Transactions before `newest` that were not told: they had not ended. In order.
    pub(super) open: Vec<i64>,
}

impl Position {
    /// Whether this transaction was told.
    pub(super) fn has(&self, transaction: i64) -> bool {
        transaction <= self.newest && self.open.binary_search(&transaction).is_err()
    }

    /// After a look that saw all that this snapshot sees, the newest of it from `newest`.
    pub(super) fn after(newest: i64, snapshot: &Snapshot) -> Self {
        let open = snapshot.running.iter().copied().filter(|running| *running < newest).collect();
        Self { newest, floor: snapshot.oldest, open }
    }
}

/// What a statement sees (`PostgreSQL` documentation, `pg_snapshot`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// All older transactions had ended.
    oldest: i64,
    /// Those that had not, in order.
    running: Vec<i64>,
}

impl Snapshot {
    /// From the text of a `pg_snapshot`: `xmin:xmax:xip,xip`.
    ///
    /// # Errors
    /// [`Error::Internal`] when it is none.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let unknown = || Error::internal(format!("{text:?} is no snapshot"));
        let mut parts = text.splitn(3, ':');
        let oldest = parts.next().and_then(|oldest| oldest.parse().ok()).ok_or_else(unknown)?;
        let running = parts.nth(1).ok_or_else(unknown)?;
        let running = running.split(',').filter(|running| !running.is_empty()).map(str::parse);
        Ok(Self { oldest, running: running.collect::<Result<_, _>>().map_err(|_| unknown())? })
    }
}

/// How far a subscriber has come: a position, and within the events that became visible together the id of the last.
///
/// Its text is what clients come back with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    pub(super) before: Arc<Position>,
    pub(super) within: Option<(Arc<Position>, i64)>,
}

impl Cursor {
    /// Where everything up to this position was told.
    pub(super) fn at(position: Arc<Position>) -> Self {
        Self { before: position, within: None }
    }

    /// Reads what [`Display`] writes. Whoever makes one up chooses where in their own organization's events they begin.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let mut parts = text.split('~');
        let before = Arc::new(position(parts.next()?)?);
        let within = match (parts.next(), parts.next()) {
            (None, _) => None,
            (Some(after), Some(id)) => Some((Arc::new(position(after)?), number(id)?)),
            (Some(_), None) => return None,
        };
        parts.next().is_none().then_some(Self { before, within })
    }
}

/// Hexadecimal, and what was open as distances: `newest.floor.distance.distance`.
impl Display for Position {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.newest, self.floor)?;
        self.open.iter().try_for_each(|open| write!(f, ".{:x}", self.newest - open))
    }
}

impl Display for Cursor {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.before)?;
        match &self.within {
            Some((after, id)) => write!(f, "~{after}~{id:x}"),
            None => Ok(()),
        }
    }
}

fn number(text: &str) -> Option<i64> {
    // `from_str_radix` takes signs.
    text.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| i64::from_str_radix(text, 16).ok()).flatten()
}

fn position(text: &str) -> Option<Position> {
    let mut parts = text.split('.');
    let (newest, floor) = (number(parts.next()?)?, number(parts.next()?)?);
    let mut open = parts.map(|distance| newest.checked_sub(number(distance)?)).collect::<Option<Vec<i64>>>()?;
    open.sort_unstable();
    Some(Position { newest, floor, open })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_read() {
        let snapshot = |text| Snapshot::parse(text).ok();
        assert_eq!(snapshot("10:20:"), Some(Snapshot { oldest: 10, running: vec![] }));
        assert_eq!(snapshot("10:20:10,14"), Some(Snapshot { oldest: 10, running: vec![10, 14] }));
        assert_eq!([snapshot(""), snapshot("10"), snapshot("10:20"), snapshot("10:20:x")], [const { None }; 4]);
    }

    #[test]
    fn a_position_is_what_a_look_has_seen() {
        let snapshot = Snapshot::parse("10:20:10,14,18").expect("a snapshot");
        let position = Position::after(15, &snapshot);
        assert_eq!(position, Position { newest: 15, floor: 10, open: vec![10, 14] });
        let told: Vec<i64> = (8..20).filter(|transaction| position.has(*transaction)).collect();
        assert_eq!(told, [8, 9, 11, 12, 13, 15], "what ran, and what was numbered and left nothing, may still come");
    }

    #[test]
    fn cursors_are_texts() {
        let at = |newest, floor, open: &[i64]| Arc::new(Position { newest, floor, open: open.to_vec() });
        for cursor in [
            Cursor::default(),
            Cursor::at(at(255, 300, &[])),
            Cursor::at(at(i64::MAX, 3, &[3, 17])),
            Cursor { before: at(20, 10, &[10, 14]), within: Some((at(31, 18, &[18]), 77)) },
        ] {
            let text = cursor.to_string();
            assert_eq!(Cursor::parse(&text), Some(cursor), "{text}");
        }
        assert_eq!(
            Cursor { before: at(20, 10, &[10, 14]), within: Some((at(31, 18, &[18]), 77)) }.to_string(),
            "14.a.a.6~1f.12.d~4d"
        );
        let long = format!("1.1{}", ".1".repeat(LONGEST));
        for bad in [
            "",
            ".",
            "1",
            "1.",
            "-1.1",
            "1.1.",
            "1.1~",
            "1.1~1.1",
            "1.1~1.1~",
            "1.1~1.1~1~1",
            "1.1 ",
            "1.g",
            "ffffffffffffffff.1",
            "1.1.7fffffffffffffffff",
            &long,
        ] {
            assert_eq!(Cursor::parse(bad), None, "{bad}");
        }
        // Nothing that can be written overflows.
        assert!(Cursor::parse("0.0.7fffffffffffffff").is_some());
    }
}
