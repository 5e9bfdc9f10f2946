//! The order of events of one second.
//!
//! Stripe counts in seconds and promises no order. An update says what its object was before (`previous_attributes`, Stripe
//! API reference, "Event object"), so it follows the event that left the object like that. Where that decides nothing,
//! the times in the object do, then what usually comes later in an object's life, then the id, which is at least the
//! same everywhere.
//!
//! The events of a second are read from the inbox, whichever of them is being applied, together with the one before
//! them. So the order does not depend on which came first.

use std::collections::BTreeSet;

use chrono::DateTime;
use serde_json::Value;

use crate::db::SystemTx;
use crate::error::Result;
use crate::sync::apply::SyncSettings;
use crate::sync::origin::why_foreign;
use crate::sync::stripe::translate::{self, Event};
use crate::webhook_events::{Effect, Verb, WebhookSource};

/// Most events of a second that are put in order. An object that changes more often is asked for, or waits for the next
/// second.
const MOST: i64 = 100;
/// The step between the places that a second with one event more gives: what was merged when fewer were known must not
/// count for more than what is merged now.
const STEP: i16 = 128;

/// An event of the inbox.
#[derive(Clone)]
struct Stored {
    id: String,
    kind: String,
    payload: Value,
    place: Option<i16>,
}

impl Stored {
    fn event(&self) -> Event<'_> {
        Event { kind: &self.kind, id: &self.id, payload: &self.payload, place: self.place }
    }
}

/// What must be merged for an event, in order: the event itself; where others of its object are of the same second, all of
/// them; and those of the next second with several events, whose order may follow from this one.
pub(super) struct Sequence(Vec<Stored>);

impl Sequence {
    /// The events.
    pub(super) fn events(&self) -> impl Iterator<Item = Event<'_>> {
        self.0.iter().map(Stored::event)
    }

    /// Whether there are other events of its second.
    pub(super) fn has_others(&self) -> bool {
        self.0.first().is_some_and(|first| first.place.is_some())
    }

    /// Reads what belongs to the event from the inbox.
    pub(super) async fn of(tx: &mut SystemTx, settings: &SyncSettings, event: Event<'_>) -> Result<Self> {
        let own = || Stored {
            id: event.id.to_owned(),
            kind: event.kind.to_owned(),
            payload: event.payload.clone(),
            place: None,
        };
        let (Some(object), Some(moment)) = (event.object_id(), DateTime::from_timestamp(event.moment(), 0)) else {
            return Ok(Self(vec![own()]));
        };
        // In the usual case there is nothing to put in order, and no body is read.
        let rows = sqlx::query!(
            r#"with same as not materialized (
                   select id, event_id, event_created_at from tenantry.webhook_events
                    where source = 'STRIPE' and object_id = $1 and event_id <> $3
                      and starts_with(event_type, 'entitlements.') = starts_with($5, 'entitlements.')),
               near as materialized (
                   select id, event_id, event_created_at from same
                    where event_created_at in ($2, (select max(event_created_at) from same where event_created_at < $2),
                                                   (select min(event_created_at) from same where event_created_at > $2)))
               select e.event_id, e.event_type, e.raw_body from near join tenantry.webhook_events e on e.id = near.id
                where exists (select from near where event_created_at = $2) or (select count(*) from near where event_created_at > $2) > 1
                order by near.event_created_at, near.event_id limit $4"#,
            object,
            moment,
            event.id,
            3 * MOST,
            event.kind
        )
        .fetch_all(tx.conn())
        .await?;
        let (mut before, mut now, mut after) = (Vec::new(), vec![own()], Vec::new());
        for row in rows {
            let Ok(payload) = serde_json::from_slice::<Value>(&row.raw_body) else { continue };
            let stored = Stored { id: row.event_id, kind: row.event_type, payload, place: None };
            let same_kind = stored
                .event()
                .effect()
                .zip(event.effect())
                .is_some_and(|(one, other)| std::mem::discriminant(&one) == std::mem::discriminant(&other));
            if !same_kind || why_foreign(WebhookSource::Stripe, settings, &stored.payload).is_some() {
                continue;
            }
            match stored.event().moment().cmp(&event.moment()) {
                std::cmp::Ordering::Less => before.push(stored),
                std::cmp::Ordering::Equal => now.push(stored),
                std::cmp::Ordering::Greater => after.push(stored),
            }
        }
        // What was before a second is the last of the second before it, in the order that its own events give. That is one
        // answer, whichever event asks: the order must not depend on which of them came last.
        let last_of = |events: &[Stored]| in_order(None, events.to_vec()).pop();
        let base_of_after = last_of(&now);
        let mut now = in_order(last_of(&before).as_ref(), now);
        if after.len() > 1 {
            now.extend(in_order(base_of_after.as_ref(), after));
        }
        Ok(Self(now))
    }
}

/// Puts the events of a second in order, and gives them their places when there are several.
fn in_order(base: Option<&Stored>, events: Vec<Stored>) -> Vec<Stored> {
    let Some(steps) = i16::try_from(events.len()).ok().filter(|count| *count > 1) else { return events };
    let steps = steps.min(i16::MAX / STEP - 2);
    let order = order(
        base.map(|stored| &stored.payload["data"]["object"]),
        &events.iter().map(Stored::event).collect::<Vec<_>>(),
    );
    let mut events: Vec<Option<Stored>> = events.into_iter().map(Some).collect();
    let sorted = order.into_iter().filter_map(|index| events[index].take());
    let placed = sorted.zip(0_i16..).map(|(mut stored, place)| {
        stored.place = Some(steps * STEP + place.min(STEP - 1));
        stored
    });
    placed.collect()
}

/// The order of the events of a second, as their places in the list. `base` is the object as it was before them.
fn order(base: Option<&Value>, events: &[Event<'_>]) -> Vec<usize> {
    let mut state = base;
    let mut left: Vec<usize> = (0..events.len()).collect();
    // Where nothing else decides, this does.
    left.sort_by_cached_key(|index| {
        let event = &events[*index];
        let rank = event.effect().map_or(0, |effect| translate::rank(effect, event.object()));
        (newest_time(event.object()), rank, event.id.to_owned())
    });
    let mut sorted = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let next = next(state, &left, events);
        left.retain(|index| *index != next);
        state = Some(events[next].object());
        sorted.push(next);
    }
    sorted
}

/// Which of the events that are left is next.
fn next(state: Option<&Value>, left: &[usize], events: &[Event<'_>]) -> usize {
    let time_of_life = |index: &usize| match events[*index].effect() {
        Some(Effect::Customer(verb) | Effect::Subscription(verb) | Effect::Product(verb) | Effect::Price(verb)) => {
            match verb {
                Verb::Created => 0,
                Verb::Deleted => 2,
                _ => 1,
            }
        }
        _ => 1,
    };
    let earliest = left.iter().map(time_of_life).min().unwrap_or(1);
    let pool: Vec<usize> = left.iter().copied().filter(|index| time_of_life(index) == earliest).collect();
    let follows = |index: usize, state: &Value| follows(&events[index], state);
    let following: Vec<usize> =
        pool.iter().copied().filter(|index| state.is_some_and(|state| follows(*index, state))).collect();
    if let Some(state) = state
        && let Some(first) = following.first()
    {
        // Of several, the one that changes nothing beyond what it says it does.
        let exact = following.iter().find(|index| changes_only_what_it_says(&events[**index], state));
        return *exact.unwrap_or(first);
    }
    // Otherwise one that follows none of the others.
    let first_of_all = |index: &usize| {
        let precedes = |other: &usize| other != index && follows(*index, events[*other].object());
        !pool.iter().any(precedes)
    };
    pool.iter().find(|index| first_of_all(index)).or(pool.first()).copied().unwrap_or(left[0])
}

/// What an update says its object was before: of the attributes that the object has. Some that are gone from objects are still
/// told of, such as the quantity of a subscription.
fn before<'a>(event: &Event<'a>) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let object = event.object();
    let before = event.payload["data"]["previous_attributes"].as_object();
    before.into_iter().flatten().filter(|(name, _)| object.get(name.as_str()).is_some())
}

/// Whether the event is an update of an object that was like this.
fn follows(event: &Event<'_>, state: &Value) -> bool {
    let mut before = before(event).peekable();
    before.peek().is_some() && before.all(|(name, before)| fits(before, &state[name.as_str()]))
}

/// Whether what was before is what an object is. An attribute that is missing is null.
fn fits(before: &Value, is: &Value) -> bool {
    match (before, is) {
        (Value::Object(before), is) => before.iter().all(|(name, before)| fits(before, &is[name.as_str()])),
        (Value::Array(before), Value::Array(is)) => {
            before.len() == is.len() && before.iter().zip(is).all(|(before, is)| fits(before, is))
        }
        (before, is) => before == is,
    }
}

fn changes_only_what_it_says(event: &Event<'_>, state: &Value) -> bool {
    let (Value::Object(was), Value::Object(is)) = (state, event.object()) else { return false };
    let said: BTreeSet<&String> = before(event).map(|(name, _)| name).collect();
    let same = |name: &String| was.get(name).unwrap_or(&Value::Null) == is.get(name).unwrap_or(&Value::Null);
    was.keys().chain(is.keys()).all(|name| said.contains(name) || same(name))
}

/// The newest of the times in an object that say when it last changed.
fn newest_time(object: &Value) -> i64 {
    const TIMES: &[&str] = &["updated", "canceled_at", "ended_at", "current_period_start", "start_date"];
    let of_items = object["items"]["data"].as_array().into_iter().flatten();
    let own = TIMES.iter().map(|name| &object[*name]);
    let all = own.chain(of_items.map(|item| &item["current_period_start"]));
    all.filter_map(crate::sync::payload::seconds).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const UPDATED: &str = "customer.subscription.updated";

    fn update(id: &str, before: &Value, object: &Value) -> (String, &'static str, Value) {
        let payload = json!({ "created": 7, "data": { "object": object, "previous_attributes": before } });
        (id.to_owned(), UPDATED, payload)
    }

    /// The ids in the order that follows, whatever the order in which they are given.
    fn ordered(base: Option<&Value>, events: &[(String, &'static str, Value)]) -> String {
        let mut found = Vec::new();
        for turn in 0..events.len() {
            for reversed in [false, true] {
                let mut events: Vec<Event<'_>> =
                    events.iter().map(|(id, kind, payload)| Event { kind, id, payload, place: None }).collect();
                events.rotate_left(turn);
                if reversed {
                    events.reverse();
                }
                let order = order(base, &events);
                found.push(order.iter().map(|index| events[*index].id).collect::<Vec<_>>().join(" "));
            }
        }
        found.dedup();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn an_update_follows_what_it_says_was_before() {
        let seats = |seats: i64| json!({ "id": "sub_1", "status": "active", "quantity": seats });
        let chain = [
            update("z", &json!({ "quantity": 4 }), &seats(5)),
            update("a", &json!({ "quantity": 6 }), &seats(7)),
            update("m", &json!({ "quantity": 5 }), &seats(6)),
        ];
        assert_eq!(ordered(Some(&seats(4)), &chain), "z m a");
        // What is told of an attribute that objects do not have any more decides nothing.
        let legacy = |id: &str, was: i64, is: i64| {
            let items = |seats: i64| json!({ "data": [{ "id": "si_1", "quantity": seats }] });
            update(id, &json!({ "quantity": was, "items": items(was) }), &json!({ "id": "sub_1", "items": items(is) }))
        };
        assert_eq!(ordered(Some(&seats(4)), &[legacy("z", 4, 5), legacy("a", 5, 6)]), "z a");
        // Also where what was before them is not known, or was lost.
        assert_eq!(ordered(None, &chain), "z m a");
        assert_eq!(ordered(Some(&seats(1)), &chain), "z m a");
    }

    #[test]
    fn there_and_back_is_told_by_what_was_before_both() {
        let with = |ends: bool| json!({ "id": "sub_1", "status": "active", "cancel_at_period_end": ends });
        let there = update("9", &json!({ "cancel_at_period_end": false }), &with(true));
        let back = update("1", &json!({ "cancel_at_period_end": true }), &with(false));
        assert_eq!(ordered(Some(&with(false)), &[there.clone(), back.clone()]), "9 1");
        assert_eq!(ordered(Some(&with(true)), &[there, back]), "1 9");
    }

    #[test]
    fn a_creation_comes_first_and_a_deletion_last() {
        let object = |status: &str| json!({ "id": "sub_1", "status": status });
        let plain = |id: &str, kind, status| {
            (id.to_owned(), kind, json!({ "created": 7, "data": { "object": object(status) } }))
        };
        let events = [
            plain("a", "customer.subscription.deleted", "canceled"),
            update("b", &json!({ "status": "incomplete" }), &object("active")),
            plain("c", "customer.subscription.created", "incomplete"),
        ];
        assert_eq!(ordered(None, &events), "c b a");
    }

    #[test]
    fn lists_and_nested_attributes_are_compared() {
        let object = |price: &str, tag: Value| {
            json!({ "id": "sub_1", "metadata": { "tag": tag, "kept": "x" },
                    "items": { "object": "list", "has_more": false, "data": [{ "id": "si_1", "price": { "id": price, "nickname": "n" } }] } })
        };
        let before = |price: &str| json!({ "items": { "data": [{ "id": "si_1", "price": { "id": price } }] } });
        let events = [
            update("a", &before("two"), &object("three", json!(null))),
            update("b", &before("one"), &object("two", json!(null))),
            update("c", &json!({ "metadata": { "tag": null } }), &object("three", json!("t"))),
        ];
        assert_eq!(ordered(Some(&object("one", json!(null))), &events), "b a c");
    }

    #[test]
    fn without_a_word_of_before_times_then_life_decide() {
        let object =
            |status: &str, starts: i64| json!({ "id": "sub_1", "status": status, "current_period_start": starts });
        let plain = |id: &str, status, starts| {
            (id.to_owned(), UPDATED, json!({ "created": 7, "data": { "object": object(status, starts) } }))
        };
        assert_eq!(ordered(None, &[plain("a", "active", 9), plain("b", "past_due", 8)]), "b a");
        assert_eq!(ordered(None, &[plain("b", "active", 8), plain("a", "past_due", 8)]), "b a");
        assert_eq!(ordered(None, &[plain("b", "active", 8), plain("a", "active", 8)]), "a b");
    }
}
