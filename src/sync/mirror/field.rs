//! A field that is merged: a value with the version of the event that it is from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

/// Where a value is from. The order of the fields is the order of the comparison; stored as a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "(u8, i64, i16, String)", into = "(u8, i64, i16, String)")]
pub(crate) struct FieldVersion {
    /// 0: mentioned by the event of another object; 1: from an event of its own.
    pub(crate) authority: u8,
    /// The moment, as the source counts it.
    pub(crate) moment: i64,
    /// Orders events of one moment.
    pub(crate) rank: i16,
    /// The event. It orders events of one moment and rank: any order will do that is always the same.
    pub(crate) event: String,
}

impl From<(u8, i64, i16, String)> for FieldVersion {
    fn from((authority, moment, rank, event): (u8, i64, i16, String)) -> Self {
        Self { authority, moment, rank, event }
    }
}

impl From<FieldVersion> for (u8, i64, i16, String) {
    fn from(version: FieldVersion) -> Self {
        (version.authority, version.moment, version.rank, version.event)
    }
}

/// What merging did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Merged {
    /// Nothing: later events had said it all.
    Stale,
    /// Nothing new: this event was merged before, or says what is known.
    Same,
    /// The object has changed.
    New,
}

/// Which of two values wins.
pub(crate) trait Precedence: Clone + Debug + PartialEq {
    fn wins(change: &FieldVersion, known: &FieldVersion) -> bool;
}

/// The value with the greater version wins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LatestWins {}

/// The value of the earliest moment wins, whichever kind of event it is from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum EarliestWins {}

impl Precedence for LatestWins {
    fn wins(change: &FieldVersion, known: &FieldVersion) -> bool {
        change > known
    }
}

impl Precedence for EarliestWins {
    fn wins(change: &FieldVersion, known: &FieldVersion) -> bool {
        (change.moment, change) < (known.moment, known)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Versioned<T> {
    at: FieldVersion,
    is: T,
}

/// A field, known or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Field<T, P>(Option<Versioned<T>>, PhantomData<P>);

/// A field that keeps the latest value.
pub(crate) type Latest<T> = Field<T, LatestWins>;
/// A field that keeps the first value.
pub(crate) type First<T> = Field<T, EarliestWins>;

impl<T, P> Default for Field<T, P> {
    fn default() -> Self {
        Self(None, PhantomData)
    }
}

impl<T, P> Field<T, P> {
    /// The field as an event of this version says; unknown, when the event says nothing of it.
    pub(crate) fn said(at: &FieldVersion, value: Option<impl Into<T>>) -> Self {
        Self(value.map(|value| Versioned { at: at.clone(), is: value.into() }), PhantomData)
    }

    /// A note of our own, which no event says.
    pub(crate) fn note(value: Option<T>) -> Self {
        Self::said(&FieldVersion { authority: 0, moment: 0, rank: 0, event: String::new() }, value)
    }

    pub(crate) fn known(&self) -> Option<&T> {
        self.0.as_ref().map(|versioned| &versioned.is)
    }
}

impl<T: Copy, P> Field<T, P> {
    pub(crate) fn get(&self) -> Option<T> {
        self.known().copied()
    }
}

impl<P> Field<String, P> {
    pub(crate) fn text(&self) -> Option<&str> {
        self.known().map(String::as_str)
    }
}

impl<P> Field<Option<String>, P> {
    /// The text; nothing also when it is known that there is none.
    pub(crate) fn text(&self) -> Option<&str> {
        self.known()?.as_deref()
    }
}

/// What is merged from events: a field, or one for each of several names.
pub(crate) trait Register {
    /// Merges what an event says. An event that says nothing of the field changes nothing.
    fn merge(&mut self, change: &Self) -> Merged;

    /// Whether nothing was said yet.
    fn is_unknown(&self) -> bool;

    /// The greatest version of what is known.
    fn version(&self) -> Option<&FieldVersion>;
}

impl<T: Clone + PartialEq, P: Precedence> Register for Field<T, P> {
    fn merge(&mut self, change: &Self) -> Merged {
        let Some(change) = &change.0 else { return Merged::Stale };
        let Some(known) = &mut self.0 else {
            self.0 = Some(change.clone());
            return Merged::New;
        };
        if change.at == known.at {
            return Merged::Same;
        }
        if !P::wins(&change.at, &known.at) {
            return Merged::Stale;
        }
        let merged = if known.is == change.is { Merged::Same } else { Merged::New };
        *known = change.clone();
        merged
    }

    fn is_unknown(&self) -> bool {
        self.0.is_none()
    }

    fn version(&self) -> Option<&FieldVersion> {
        self.0.as_ref().map(|versioned| &versioned.at)
    }
}

/// A value for each of several names. What an event does not name stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Each<T>(BTreeMap<String, Latest<T>>);

impl<T> Default for Each<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Each<T> {
    /// The values that an event of this version gives to some names.
    pub(crate) fn said(at: &FieldVersion, values: impl IntoIterator<Item = (String, T)>) -> Self {
        Self(values.into_iter().map(|(name, value)| (name, Field::said(at, Some(value)))).collect())
    }

    /// The value of a name.
    pub(crate) fn of(&self, name: &str) -> Option<&T> {
        self.0.get(name)?.known()
    }

    /// The value of a name, or that of a field of another object when that is newer.
    pub(crate) fn latest<'a>(&'a self, name: &str, other: Option<&'a Latest<T>>) -> Option<&'a T>
    where
        T: Clone + PartialEq,
    {
        let own = self.0.get(name);
        own.into_iter().chain(other).filter(|field| !field.is_unknown()).max_by_key(|field| field.version())?.known()
    }

    /// All names and their values, in the order of their versions.
    pub(crate) fn in_order(&self) -> Vec<(&str, &T)>
    where
        T: Clone + PartialEq,
    {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(_, field)| field.version());
        all.into_iter().filter_map(|(name, field)| Some((name.as_str(), field.known()?))).collect()
    }

    /// The earliest moment at which a name got a value like this.
    pub(crate) fn first_moment(&self, is_meant: impl Fn(&T) -> bool) -> Option<i64>
    where
        T: Clone + PartialEq,
    {
        let meant = self.0.values().filter(|field| field.known().is_some_and(&is_meant));
        meant.filter_map(|field| field.version()).map(|at| at.moment).min()
    }

    /// Gives a name a value of our own, which no event says.
    pub(crate) fn note(&mut self, name: &str, value: T) {
        self.0.insert(name.to_owned(), Field::note(Some(value)));
    }
}

/// Since when something holds without a break. What is kept of the past is what a late event can still change: the last time
/// that it did not hold, and every time after that at which it did. So any order of the events gives the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Stretch {
    not: Option<FieldVersion>,
    holds: BTreeSet<FieldVersion>,
}

impl Stretch {
    /// What an event of this version says.
    pub(crate) fn said(at: &FieldVersion, holds: Option<bool>) -> Self {
        match holds {
            Some(true) => Self { not: None, holds: BTreeSet::from([at.clone()]) },
            Some(false) => Self { not: Some(at.clone()), holds: BTreeSet::new() },
            None => Self::default(),
        }
    }

    /// The moment since when it holds.
    pub(crate) fn since(&self) -> Option<i64> {
        self.holds.first().map(|at| at.moment)
    }
}

impl Register for Stretch {
    fn merge(&mut self, change: &Self) -> Merged {
        let before = self.clone();
        self.not = self.not.take().max(change.not.clone());
        self.holds.extend(change.holds.iter().cloned());
        let not = self.not.as_ref();
        self.holds.retain(|at| Some(at) > not);
        match (*self == before, change.version() >= before.version() && !change.is_unknown()) {
            (false, _) => Merged::New,
            (true, true) => Merged::Same,
            (true, false) => Merged::Stale,
        }
    }

    fn is_unknown(&self) -> bool {
        self.not.is_none() && self.holds.is_empty()
    }

    fn version(&self) -> Option<&FieldVersion> {
        self.holds.last().or(self.not.as_ref())
    }
}

impl<T: Clone + PartialEq> Register for Each<T> {
    fn merge(&mut self, change: &Self) -> Merged {
        let merged = change.0.iter().map(|(name, change)| self.0.entry(name.clone()).or_default().merge(change));
        merged.max().unwrap_or(Merged::Stale)
    }

    fn is_unknown(&self) -> bool {
        self.0.is_empty()
    }

    fn version(&self) -> Option<&FieldVersion> {
        self.0.values().filter_map(Register::version).max()
    }
}
