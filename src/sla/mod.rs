//! Service levels: what is promised to whom, in which hours, and what becomes of it.
//!
//! Invariants: a ticket is under one revision of one policy, or under the built-in terms of its priority; a revision never changes;
//! deadlines are reckoned with the revision that was in force at each moment; each warning and each breach of a clock is one row
//! in `sla_events`, written in the transaction that tells of it; `sla_check_at` of a ticket is never later than the next of them.

mod calendars;
mod clocks;
mod events;
mod graphql;
mod hours;
mod policies;
mod terms;
mod watch;

pub use calendars::{
    BusinessCalendar, BusinessCalendarCreateInput, BusinessCalendarDeleteInput, BusinessCalendarUpdateInput,
};
pub use clocks::{
    Clocks, Happened, SlaEventKind, SlaEventKindFilter, SlaReaction, SlaTarget, SlaTargetFilter, Terms, Under,
};
pub use events::SlaEvent;
pub use graphql::{SlaMutation, SlaSubscription};
pub use policies::{SlaPolicy, SlaPolicyCreateInput, SlaPolicyUpdateInput};
pub use terms::{Matching, catch_up, matching};
pub use watch::watch;

use crate::graphql::mutation::MutationInfo;

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<BusinessCalendarCreateInput>(),
    MutationInfo::of::<BusinessCalendarUpdateInput>(),
    MutationInfo::of::<BusinessCalendarDeleteInput>(),
    MutationInfo::of::<SlaPolicyCreateInput>(),
    MutationInfo::of::<SlaPolicyUpdateInput>(),
];
