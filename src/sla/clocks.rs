//! The clocks of a ticket: when it is due for what, and how that moves when it waits, is answered, or falls under other terms.
//! Nothing here touches the database.
//!
//! A clock is its deadline: what is left is the business time until then. While a ticket waits its clocks stand still, and what
//! was left when they stopped is left when they go on. Other terms count what was used already: the deadline moves by the
//! difference of the targets. A clock that did not run before starts when its terms come.

use chrono::{DateTime, TimeDelta, Utc};

use crate::id::SlaPolicyId;
use crate::pg_enum;
use crate::sla::hours::Hours;
use crate::sql_enum;
use crate::tickets::{TicketPriority, TicketStatus};

pg_enum! {
    /// What a ticket is due for.
    pub enum SlaTarget("tenantry.sla_target", SlaTargetFilter) {
        /// The first answer to the customer.
        FirstResponse = "FIRST_RESPONSE",
        /// An answer to what the customer wrote since.
        NextResponse = "NEXT_RESPONSE",
        /// The solution.
        Resolution = "RESOLUTION",
    }
}

pg_enum! {
    /// What happened to a service level.
    pub enum SlaEventKind("tenantry.sla_event_kind", SlaEventKindFilter) {
        /// The deadline is near.
        Warning = "WARNING",
        /// The deadline has passed.
        Breach = "BREACH",
    }
}

sql_enum! {
    /// What follows from a warning or a breach, beside the row in `slaEvents`.
    pub enum SlaReaction("tenantry.sla_reaction") {
        /// Nothing: reports alone show it.
        None = "NONE",
        /// `slaEventOccurred` tells of it.
        Event = "EVENT",
        /// The ticket is escalated, for the reason `SLA_BREACH`.
        Escalation = "ESCALATION",
        /// Both.
        Both = "BOTH",
    }
}

impl SlaReaction {
    /// Whether subscribers are told.
    #[must_use]
    pub const fn tells(self) -> bool {
        matches!(self, Self::Event | Self::Both)
    }

    /// Whether the ticket is escalated.
    #[must_use]
    pub const fn escalates(self) -> bool {
        matches!(self, Self::Escalation | Self::Both)
    }
}

/// What was promised, and how time is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// `None`: around the clock.
    pub hours: Option<Hours>,
    /// `None`: nothing was promised.
    pub first_response: Option<TimeDelta>,
    pub next_response: Option<TimeDelta>,
    pub resolution: Option<TimeDelta>,
    /// How much of the time has passed when a warning is given; `None`: no warning.
    pub warning_percent: Option<i32>,
    pub on_warning: SlaReaction,
    pub on_breach: SlaReaction,
}

impl Terms {
    /// The terms of tickets that no policy is for.
    #[must_use]
    pub fn built_in(priority: TicketPriority) -> Self {
        let (first, resolution) = match priority {
            TicketPriority::Urgent => (1, 8),
            TicketPriority::High => (4, 24),
            TicketPriority::Normal => (8, 72),
            TicketPriority::Low => (24, 168),
        };
        Self {
            hours: None,
            first_response: Some(TimeDelta::hours(first)),
            next_response: Some(TimeDelta::hours(first)),
            resolution: Some(TimeDelta::hours(resolution)),
            warning_percent: Some(80),
            on_warning: SlaReaction::Event,
            on_breach: SlaReaction::Event,
        }
    }

    /// What was promised for this.
    #[must_use]
    pub const fn of(&self, target: SlaTarget) -> Option<TimeDelta> {
        match target {
            SlaTarget::FirstResponse => self.first_response,
            SlaTarget::NextResponse => self.next_response,
            SlaTarget::Resolution => self.resolution,
        }
    }

    /// The business time from one time to another; negative if that is earlier.
    fn between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> TimeDelta {
        match &self.hours {
            None => to - from,
            Some(hours) if from <= to => hours.between(from, to),
            Some(hours) => -hours.between(to, from),
        }
    }

    /// When so much business time has passed, or had when it is negative; `None`: not within twenty years.
    fn after(&self, from: DateTime<Utc>, time: TimeDelta) -> Option<DateTime<Utc>> {
        match &self.hours {
            None => from.checked_add_signed(time),
            Some(hours) if time >= TimeDelta::zero() => hours.after(from, time),
            Some(hours) => hours.before(from, -time),
        }
    }

    /// When a warning is given of this deadline.
    fn warns_at(&self, target: SlaTarget, due: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let left = self.of(target)? * (100 - self.warning_percent?) / 100;
        self.after(due, -left)
    }
}

/// `sla_check_at` of tickets that came into the table by other ways than the API: what is late then was late before, and nobody is
/// told.
pub const NEVER_LOOKED_AT: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// The policy that a ticket is under, in one of its revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Under {
    pub policy: SlaPolicyId,
    pub revision: i32,
}

/// The times of a ticket that follow from its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// `None`: the built-in terms.
    pub under: Option<Under>,
    /// Due time of the first response.
    pub first_response_due_at: Option<DateTime<Utc>>,
    /// Time of the first response.
    pub first_responded_at: Option<DateTime<Utc>>,
    /// Since when something that the customer wrote after the first response has no answer.
    pub next_response_since: Option<DateTime<Utc>>,
    /// Due time of that answer.
    pub next_response_due_at: Option<DateTime<Utc>>,
    /// Due time of the resolution.
    pub resolution_due_at: Option<DateTime<Utc>>,
    /// Since when the clocks stand still because the ticket waits.
    pub sla_paused_at: Option<DateTime<Utc>>,
    /// How long they have stood still before, in seconds.
    pub sla_paused_seconds: i32,
    /// Time of the resolution. The clocks stand still from then on.
    pub resolved_at: Option<DateTime<Utc>>,
    /// Time of closing.
    pub closed_at: Option<DateTime<Utc>>,
    /// When it is looked at next, for a warning or a breach.
    pub sla_check_at: Option<DateTime<Utc>>,
}

impl Clocks {
    /// The clocks of a new ticket.
    #[must_use]
    pub fn start(under: Option<Under>, terms: &Terms, now: DateTime<Utc>) -> Self {
        let due = |time: Option<TimeDelta>| time.and_then(|time| terms.after(now, time));
        Self {
            under,
            first_response_due_at: due(terms.first_response),
            first_responded_at: None,
            next_response_since: None,
            next_response_due_at: None,
            resolution_due_at: due(terms.resolution),
            sla_paused_at: None,
            sla_paused_seconds: 0,
            resolved_at: None,
            closed_at: None,
            sla_check_at: None,
        }
        .planned(terms)
    }

    /// Since when the clocks stand still.
    fn standing_since(&self) -> Option<DateTime<Utc>> {
        self.sla_paused_at.or(self.resolved_at)
    }

    /// The deadlines that can still be kept or missed, and since when each is reckoned.
    #[must_use]
    pub fn open(&self, created_at: DateTime<Utc>) -> Vec<(SlaTarget, DateTime<Utc>, DateTime<Utc>)> {
        let first = self.first_response_due_at.filter(|_| self.first_responded_at.is_none());
        let next = self.next_response_due_at.zip(self.next_response_since);
        [
            first.map(|due| (SlaTarget::FirstResponse, created_at, due)),
            next.map(|(due, since)| (SlaTarget::NextResponse, since, due)),
            self.resolution_due_at.map(|due| (SlaTarget::Resolution, created_at, due)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// With the time of the next look: the earliest of all warnings and breaches. That some were told already, the look finds out.
    #[must_use]
    fn planned(mut self, terms: &Terms) -> Self {
        // Nobody looked yet: whoever does first keeps quiet about what was before.
        if self.sla_check_at == Some(NEVER_LOOKED_AT) {
            return self;
        }
        let running = if self.standing_since().is_none() { self.open(DateTime::UNIX_EPOCH) } else { Vec::new() };
        let looks = running.into_iter().map(|(target, _, due)| terms.warns_at(target, due).unwrap_or(due));
        self.sla_check_at = looks.min();
        self
    }

    /// What has happened to the service level by now, and when the next thing does, apart from what is known already.
    #[must_use]
    pub fn look(
        &self,
        terms: &Terms,
        created_at: DateTime<Utc>,
        now: DateTime<Utc>,
        is_known: impl Fn(SlaTarget, SlaEventKind, DateTime<Utc>) -> bool,
    ) -> (Vec<Happened>, Option<DateTime<Utc>>) {
        let (mut happened, mut next) = (Vec::new(), None::<DateTime<Utc>>);
        if self.standing_since().is_some() {
            return (happened, next);
        }
        for (target, since, due_at) in self.open(created_at) {
            if is_known(target, SlaEventKind::Breach, since) {
                continue;
            }
            let mut later = |at: DateTime<Utc>| next = Some(next.map_or(at, |next| next.min(at)));
            if due_at <= now {
                // Whoever is late need not be told that it was near.
                happened.push(Happened { target, kind: SlaEventKind::Breach, since, due_at });
                continue;
            }
            later(due_at);
            match terms.warns_at(target, due_at).filter(|_| !is_known(target, SlaEventKind::Warning, since)) {
                Some(at) if at <= now => happened.push(Happened { target, kind: SlaEventKind::Warning, since, due_at }),
                Some(at) => later(at),
                None => {}
            }
        }
        (happened, next)
    }

    /// The deadlines after the clocks stood still from `since` to `now`. What was late stays late.
    fn shifted(mut self, since: DateTime<Utc>, now: DateTime<Utc>, terms: &Terms) -> Self {
        let shift = |due: Option<DateTime<Utc>>| match due {
            Some(due) if due > since => terms.after(now, terms.between(since, due)),
            due => due,
        };
        if self.first_responded_at.is_none() {
            self.first_response_due_at = shift(self.first_response_due_at);
        }
        self.next_response_due_at = shift(self.next_response_due_at);
        self.resolution_due_at = shift(self.resolution_due_at);
        let seconds = i32::try_from((now - since).num_seconds().max(0)).unwrap_or(i32::MAX);
        self.sla_paused_seconds = self.sla_paused_seconds.saturating_add(seconds);
        self
    }

    /// The clocks after the ticket went to `next`.
    #[must_use]
    pub fn after(mut self, next: TicketStatus, now: DateTime<Utc>, terms: &Terms) -> Self {
        let (waits, is_over) = (next.is_paused(), matches!(next, TicketStatus::Resolved | TicketStatus::Closed));
        // From one kind of waiting to the other the clocks go on standing still; from resolved to closed as well.
        match self.standing_since() {
            Some(_) if (waits && self.sla_paused_at.is_some()) || (is_over && self.sla_paused_at.is_none()) => {}
            Some(since) => {
                self = self.shifted(since, now.max(since), terms);
                self.sla_paused_at = waits.then_some(now);
            }
            None => self.sla_paused_at = waits.then_some(now),
        }
        self.resolved_at = is_over.then(|| self.resolved_at.unwrap_or(now));
        if next == TicketStatus::Closed {
            self.closed_at = self.closed_at.or(Some(now));
        }
        self.planned(terms)
    }

    /// The clocks after the customer wrote: the next response is due, unless an answer was already.
    #[must_use]
    pub fn customer_wrote(mut self, now: DateTime<Utc>, terms: &Terms) -> Self {
        if self.first_responded_at.is_none() || self.next_response_since.is_some() {
            return self;
        }
        self.next_response_since = Some(now);
        // Clocks that stand still are reckoned from when they stopped.
        let from = self.standing_since().unwrap_or(now);
        self.next_response_due_at = terms.next_response.and_then(|time| terms.after(from, time));
        self.planned(terms)
    }

    /// The clocks after the customer got an answer.
    #[must_use]
    pub fn answered(mut self, now: DateTime<Utc>, terms: &Terms) -> Self {
        self.first_responded_at = self.first_responded_at.or(Some(now));
        self.next_response_since = None;
        self.next_response_due_at = None;
        self.planned(terms)
    }

    /// The clocks under other terms from `at` on.
    #[must_use]
    pub fn under_terms(
        mut self,
        before: &Terms,
        under: Option<Under>,
        terms: &Terms,
        at: DateTime<Utc>,
        created_at: DateTime<Utc>,
    ) -> Self {
        if self.closed_at.is_some() {
            return self;
        }
        self.under = under;
        let at = self.standing_since().map_or(at, |since| since.min(at)).max(created_at);
        let moved = |target: SlaTarget, since: DateTime<Utc>, due: Option<DateTime<Utc>>| {
            let promised = terms.of(target)?;
            let at = at.max(since);
            let left = match before.of(target).zip(due) {
                Some((earlier, due)) => promised - (earlier - before.between(at, due)),
                None => promised,
            };
            // So late that it cannot be reckoned: late from now on.
            terms.after(at, left).or_else(|| (left < TimeDelta::zero()).then_some(at))
        };
        if self.first_responded_at.is_none() {
            self.first_response_due_at = moved(SlaTarget::FirstResponse, created_at, self.first_response_due_at);
        }
        if let Some(since) = self.next_response_since {
            self.next_response_due_at = moved(SlaTarget::NextResponse, since, self.next_response_due_at);
        }
        self.resolution_due_at = moved(SlaTarget::Resolution, created_at, self.resolution_due_at);
        self.planned(terms)
    }
}

/// A warning or a breach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Happened {
    pub target: SlaTarget,
    pub kind: SlaEventKind,
    /// When the clock began: together with the target it says which clock it was.
    pub since: DateTime<Utc>,
    pub due_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sla::hours::{Interval, Weekday, Written};

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    /// Weekdays from 9 to 12 and from 13 to 17, in Berlin.
    fn office() -> Hours {
        use Weekday::{Friday, Monday, Thursday, Tuesday, Wednesday};
        let days = [Monday, Tuesday, Wednesday, Thursday, Friday];
        let hours = days
            .into_iter()
            .flat_map(|day| [(day, 540, 720), (day, 780, 1020)])
            .map(|(day, from, to)| Interval { day, from, to })
            .collect();
        Written { time_zone: "Europe/Berlin".to_owned(), hours, holidays: std::collections::BTreeMap::new() }
            .read()
            .expect("a zone")
    }

    fn terms(minutes: [Option<i64>; 3]) -> Terms {
        let [first_response, next_response, resolution] = minutes.map(|minutes| minutes.map(TimeDelta::minutes));
        let hours = Some(office());
        Terms { hours, first_response, next_response, resolution, ..Terms::built_in(TicketPriority::Normal) }
    }

    const HOUR: TimeDelta = TimeDelta::hours(1);

    #[test]
    fn the_clocks_stand_still_while_waiting() {
        let start = at("2027-01-04T10:00:00Z");
        let terms = Terms::built_in(TicketPriority::Urgent);
        let clocks = Clocks::start(None, &terms, start);
        let waiting = clocks.after(TicketStatus::PendingCustomer, start + HOUR, &terms);
        assert_eq!(waiting.sla_check_at, None);
        // From one kind of waiting to the other the clocks go on standing still.
        let still = waiting.after(TicketStatus::OnHold, start + HOUR * 2, &terms);
        let resumed = still.after(TicketStatus::Open, start + HOUR * 4, &terms);
        assert_eq!(resumed.sla_paused_seconds, 3 * 3600);
        assert_eq!(resumed.resolution_due_at, clocks.resolution_due_at.map(|due| due + HOUR * 3));
        assert_eq!(resumed.sla_paused_at, None);
    }

    #[test]
    fn what_is_resolved_stands_still_until_it_is_opened_again() {
        let start = at("2027-01-04T10:00:00Z");
        let terms = Terms::built_in(TicketPriority::Low);
        let waiting = Clocks::start(None, &terms, start).after(TicketStatus::OnHold, start + HOUR, &terms);
        let resolved = waiting.after(TicketStatus::Resolved, start + HOUR * 2, &terms);
        assert_eq!((resolved.resolved_at, resolved.sla_paused_at), (Some(start + HOUR * 2), None));
        assert_eq!(resolved.sla_paused_seconds, 3600);
        let opened = resolved.after(TicketStatus::Open, start + HOUR * 5, &terms);
        assert_eq!((opened.resolved_at, opened.sla_paused_seconds), (None, 4 * 3600));
        assert_eq!(opened.resolution_due_at, Some(start + HOUR * (168 + 4)));
        let closed = resolved.after(TicketStatus::Closed, start + HOUR * 9, &terms);
        assert_eq!((closed.resolved_at, closed.closed_at), (resolved.resolved_at, Some(start + HOUR * 9)));
    }

    #[test]
    fn other_terms_count_what_was_used() {
        // Monday 9:00 in Berlin.
        let start = at("2027-01-04T08:00:00Z");
        let (four, six) = (terms([Some(240), None, Some(480)]), terms([Some(360), Some(60), Some(120)]));
        let clocks = Clocks::start(None, &four, start);
        assert_eq!(clocks.first_response_due_at, Some(at("2027-01-04T13:00:00Z")));
        // At 11:00 two hours are used: of six four are left, of two none.
        let under = clocks.under_terms(&four, None, &six, at("2027-01-04T10:00:00Z"), start);
        assert_eq!(under.first_response_due_at, Some(at("2027-01-04T15:00:00Z")));
        assert_eq!(under.resolution_due_at, Some(at("2027-01-04T10:00:00Z")));
        // Nothing was promised for it: the clock starts when it is.
        let since_ten_years = Clocks::start(None, &terms([None; 3]), at("2017-01-02T08:00:00Z"));
        let under = since_ten_years.under_terms(&terms([None; 3]), None, &six, start, at("2017-01-02T08:00:00Z"));
        assert_eq!(under.first_response_due_at, Some(at("2027-01-04T15:00:00Z")));
        // Late for ten years of office hours, and late for ten years around the clock.
        let old = Clocks::start(None, &four, at("2017-01-02T08:00:00Z"));
        let under = old.under_terms(&four, None, &six, start, at("2017-01-02T08:00:00Z"));
        assert_eq!(under.first_response_due_at, Some(at("2017-01-02T15:00:00Z")), "as if it had been so");
        let built_in = Terms::built_in(TicketPriority::Low);
        let old = Clocks::start(None, &built_in, at("2007-01-02T08:00:00Z"));
        let under = old.under_terms(&built_in, None, &four, start, at("2007-01-02T08:00:00Z"));
        assert_eq!(under.first_response_due_at, Some(start), "late from now on");
    }

    #[test]
    fn each_thing_happens_once() {
        let start = at("2027-01-04T10:00:00Z");
        let terms = Terms::built_in(TicketPriority::Urgent);
        let clocks = Clocks::start(None, &terms, start);
        assert_eq!(clocks.sla_check_at, Some(start + TimeDelta::minutes(48)));
        let nothing = |_: SlaTarget, _: SlaEventKind, _: DateTime<Utc>| false;
        let (happened, next) = clocks.look(&terms, start, start + TimeDelta::minutes(47), nothing);
        assert_eq!((happened.len(), next), (0, Some(start + TimeDelta::minutes(48))));
        let (happened, next) = clocks.look(&terms, start, start + TimeDelta::minutes(48), nothing);
        assert_eq!((happened[0].target, happened[0].kind), (SlaTarget::FirstResponse, SlaEventKind::Warning));
        assert_eq!((happened.len(), next), (1, Some(start + HOUR)));
        let warned = |target: SlaTarget, kind: SlaEventKind, _: DateTime<Utc>| {
            target == SlaTarget::FirstResponse && kind == SlaEventKind::Warning
        };
        let (happened, next) = clocks.look(&terms, start, start + HOUR, warned);
        assert_eq!((happened.len(), happened[0].kind), (1, SlaEventKind::Breach));
        assert_eq!(next, Some(start + TimeDelta::minutes(8 * 48)));
        let answered = clocks.answered(start + HOUR, &terms);
        assert_eq!(answered.sla_check_at, next);
        let asked = answered.customer_wrote(start + HOUR * 2, &terms);
        assert_eq!(asked.next_response_due_at, Some(start + HOUR * 3));
        assert_eq!(asked.customer_wrote(start + HOUR * 3, &terms), asked, "they wait since the first question");
        assert_eq!(asked.answered(start + HOUR * 3, &terms).next_response_due_at, None);
    }

    /// What happens to a ticket in a history.
    #[derive(Clone, Debug)]
    enum Step {
        Status(TicketStatus),
        Terms(usize),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        use TicketStatus::{OnHold, Open, PendingCustomer, Resolved};
        prop_oneof![
            4 => prop::sample::select(vec![Open, OnHold, PendingCustomer, Resolved]).prop_map(Step::Status),
            1 => (0_usize..3).prop_map(Step::Terms),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        /// Until it is late, what is left of a clock is the promise less the business time while the ticket was worked on, each part
        /// counted by the hours of its time.
        #[test]
        fn what_is_left_is_the_promise_less_the_work(
            start in 1_790_000_000_i64..1_830_000_000,
            steps in prop::collection::vec((0_i64..200_000, any_step()), 0..25),
            promised in prop::collection::vec(5_000_i64..30_000, 3),
        ) {
            let around_the_clock = Terms { hours: None, ..terms([None, None, Some(promised[0])]) };
            let all = [around_the_clock, terms([None, None, Some(promised[1])]), terms([None, None, Some(promised[2])])];
            let created = DateTime::from_timestamp(start, 0).expect("a time");
            let (mut now, mut status, mut terms, mut used) = (created, TicketStatus::New, 0, TimeDelta::zero());
            let mut clocks = Clocks::start(None, &all[0], created);
            for (pause, step) in steps {
                let before = now;
                now += TimeDelta::seconds(pause);
                if status.is_worked_on() {
                    used += all[terms].between(before, now);
                }
                match step {
                    Step::Status(next) if status == TicketStatus::Resolved && next.is_paused() => {}
                    Step::Status(next) => {
                        clocks = clocks.after(next, now, &all[terms]);
                        status = next;
                    }
                    Step::Terms(next) => {
                        clocks = clocks.under_terms(&all[terms], None, &all[next], now, created);
                        terms = next;
                    }
                }
                let reckoned = clocks.standing_since().unwrap_or(now);
                let left = all[terms].of(SlaTarget::Resolution).expect("promised") - used;
                let due = clocks.resolution_due_at.expect("promised");
                // What is late may be longer late in hours that changed meanwhile; it stays late.
                if left <= TimeDelta::zero() {
                    prop_assert!(due <= reckoned);
                    break;
                }
                prop_assert_eq!(all[terms].between(reckoned, due), left);
            }
        }
    }
}
