use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn version() -> impl Strategy<Value = FieldVersion> {
    (0..2_u8, 0..4_i64, 0..3_i16, "[ab]").prop_map(FieldVersion::from)
}

/// A change of an organization. Its values follow from its version: one event does not say two things.
fn change() -> impl Strategy<Value = RemoteChange<Organization>> {
    (version(), any::<bool>(), any::<[bool; 3]>()).prop_map(|(at, deleted, [name, slug, created])| {
        let value = format!("{at:?}");
        let fields = Organization {
            name: Latest::said(&at, name.then(|| value.clone())),
            first_slug: First::said(&at, slug.then_some(value)),
            created_at: Latest::said(&at, created.then_some(at.moment)),
            ..Organization::default()
        };
        // What an event says of a field depends on the event alone, too: so does whether it deletes.
        RemoteChange { id: "org_1".to_owned(), deleted: deleted && at.authority == 1, at, fields }
    })
}

fn merged<'a>(changes: impl IntoIterator<Item = &'a RemoteChange<Organization>>) -> RemoteObject<Organization> {
    let mut object = RemoteObject::unknown("org_1");
    for change in changes {
        object.merge(change);
    }
    object
}

proptest! {
    #[test]
    fn merge_does_not_depend_on_order_and_repetition(changes in prop::collection::vec(change(), 0..8), order in any::<u64>()) {
        let in_order = merged(&changes);
        let mut shuffled: Vec<_> = changes.iter().chain(&changes).collect();
        shuffled.sort_by_cached_key(|change| {
            crate::sync::payload::fingerprint(&format!("{order} {change:?}"))
        });
        prop_assert_eq!(merged(shuffled), in_order);
    }

    #[test]
    fn merge_of_what_was_merged_changes_nothing(changes in prop::collection::vec(change(), 1..8)) {
        let object = merged(&changes);
        for change in &changes {
            let mut again = object.clone();
            prop_assert!(again.merge(change) < Merged::New);
            prop_assert_eq!(&again, &object);
        }
    }
}

/// The form in which the rows of `sync_objects` hold the fields. Rows in this form are there already.
#[test]
fn stored_fields_are_read_and_written_in_one_form() {
    fn keeps<F: Fields>(stored: &Value, references: &[&str]) {
        let object = StoredObject { kind: F::KIND, id: "x".to_owned(), fields: stored.clone(), deleted: false }
            .read::<F>()
            .expect("fields");
        assert_eq!(serde_json::to_value(&object.fields).expect("JSON"), *stored);
        assert_eq!(object.fields.references(), references);
    }
    let is = |value: Value| json!({ "at": [1, 1_700_000_000_000_i64, 2, "evt_1"], "is": value });
    keeps::<User>(&json!({}), &[]);
    keeps::<User>(
        &json!({ "name": is(json!("Jo")), "first_given_name": is(json!("Jo")), "verified": is(json!(true)),
                 "email": is(json!(null)), "avatar_url": is(json!("https://x.example/1")), "blocked_until": is(json!(7)) }),
        &[],
    );
    keeps::<Organization>(
        &json!({ "slug_key": is(json!("slug:b")), "first_slug": is(json!("slug:a")), "name": is(json!("A")),
                 "created_by": is(json!("user_1")), "created_at": is(json!(7)) }),
        &["slug:a", "slug:b"],
    );
    keeps::<Membership>(
        &json!({ "user": is(json!("user_1")), "organization": is(json!("org_1")), "role": is(json!("ADMIN")),
                 "created_at": is(json!(7)) }),
        &["org_1", "user_1"],
    );
    keeps::<Invitation>(
        &json!({ "organization": is(json!("org_1")), "email": is(json!("a@example.com")), "role": is(json!("ADMIN")),
                 "created_at": is(json!(7)), "expires_at": is(json!(8)), "status": is(json!("accepted")),
                 "settled_at": is(json!(9)) }),
        &["org_1"],
    );
    keeps::<Customer>(&json!({ "seen": is(json!(true)), "organization": is(json!("org_1")) }), &["org_1"]);
    let item =
        json!({ "price": "price_1", "product": null, "quantity": 5, "metered": false, "starts": 1, "ends": null });
    keeps::<Subscription>(
        &json!({ "customer": is(json!("cus_1")), "organization": is(json!("org_1")), "live": is(json!(true)),
                 "status": is(json!("ACTIVE")), "plan": is(json!("PRO")), "items": is(json!([item])),
                 "in_part": is(json!(false)), "plans": { "price_1": is(json!("PRO")) }, "seats": { "prod_1": is(json!(true)) },
                 "cancel_at": is(json!(null)), "catalogue": is(json!(["price_1", "cus_1"])),
                 "period_start": is(json!(1)), "period_end": is(json!(2)), "cancel_at_period_end": is(json!(false)),
                 "trial_end": is(json!(3)), "collection_paused": is(json!(true)), "created": is(json!(4)) }),
        &["cus_1", "org_1", "price_1"],
    );
    keeps::<Checkout>(
        &json!({ "created": is(json!(1)), "customer": is(json!("cus_1")), "subscription": is(json!("sub_1")),
                 "organization": is(json!("org_1")), "reference": is(json!("org_2")) }),
        &["cus_1", "org_1", "org_2", "sub_1"],
    );
    keeps::<Product>(
        &json!({ "plan": is(json!("PRO")), "seat": is(json!(false)),
                 "reached": { "at": [0, 0, 0, ""], "is": "cus_1" } }),
        &[],
    );
    keeps::<Price>(
        &json!({ "product": is(json!("prod_1")), "plan": is(json!("PRO")),
                 "seat": is(json!(false)) }),
        &["prod_1"],
    );
    keeps::<Entitlements>(
        &json!({ "customer": is(json!("cus_1")), "keys": is(json!(["sso"])), "in_part": is(json!(true)) }),
        &["cus_1"],
    );
    keeps::<Attribution>(&json!({ "digest": { "at": [0, 0, 0, ""], "is": "d" } }), &[]);
    let happened = json!({ "action": "invoice.paid", "metadata": { "invoice": "in_1" } });
    keeps::<Invoice>(
        &json!({ "customer": is(json!("cus_1")), "subscription": is(json!("sub_1")),
                 "happened": { "evt_1": is(happened) }, "recorded": { "evt_1": { "at": [0, 0, 0, ""], "is": true } } }),
        &["cus_1", "sub_1"],
    );
}
