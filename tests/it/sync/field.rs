//! What providers deliver in the field: events of one second, lists in part, prices without labels, add-ons, both modes,
//! invoices before their owner. Each is delivered forwards and backwards.

use serde_json::{Value, json};
use tenantry::sync::apply::SyncSettings;

use super::cases::event;
use super::driver::{Sync, TAG};
use super::history::Event;

fn organization() -> Event {
    event(0, "organization.created", 0, |_| ())
}

/// An item at a price with this lookup key.
fn item(price: &str, key: Option<&str>, quantity: i64, period: (i64, i64)) -> Value {
    json!({ "id": format!("si_{price}"), "object": "subscription_item", "quantity": quantity,
            "current_period_start": period.0, "current_period_end": period.1,
            "price": { "id": format!("price_{TAG}_{price}"), "object": "price", "lookup_key": key, "metadata": {},
                       "product": format!("prod_{TAG}"), "recurring": { "usage_type": "licensed" } } })
}

fn metered(price: &str, period: (i64, i64)) -> Value {
    let mut item = item(price, None, 0, period);
    item["price"]["recurring"]["usage_type"] = "metered".into();
    item.as_object_mut().expect("an item").remove("quantity");
    item
}

const MONTH: (i64, i64) = (1_760_000_000, 1_762_600_000);
const YEAR: (i64, i64) = (1_760_000_000, 1_791_536_000);

/// An event about the subscription, with these items.
fn subscription(n: u32, verb: &str, at: i64, items: &[Value], change: impl FnOnce(&mut Value)) -> Event {
    event(n, &format!("customer.subscription.{verb}"), at, |object| {
        object["items"] = json!({ "object": "list", "has_more": false, "data": items });
        object["metadata"] = json!({ "organization_id": format!("org_{TAG}") });
        change(object);
    })
}

/// What an update says was before.
fn after(mut event: Event, before: Value) -> Event {
    event.payload["data"]["previous_attributes"] = before;
    event
}

/// The rows after the events in this order; those after the opposite order must be the same.
async fn both_ways(sync: &Sync, events: &[Event]) -> (String, Value) {
    let (tag, forwards) = sync.run(events).await;
    let backwards: Vec<Event> = events.iter().rev().cloned().collect();
    let (other, rows) = sync.run(&backwards).await;
    assert_eq!(forwards, rows, "backwards");
    assert_eq!(seen(sync, &tag).await, seen(sync, &other).await, "what an administrator sees, backwards");
    (tag, forwards)
}

/// The events of a run that its organization sees, with what is found of them.
async fn seen(sync: &Sync, tag: &str) -> Vec<(String, bool, Option<String>)> {
    let rows: Vec<(String, bool, Option<String>)> = sqlx::query_as(
        "select event_id, organization_id is not null, finding from tenantry.webhook_events where source = 'STRIPE' and event_id like '%' || $1 || '%' order by 1",
    )
    .bind(tag)
    .fetch_all(&mut sync.database.system().await)
    .await
    .expect("the inbox");
    rows.into_iter()
        .map(|(id, seen, finding)| (id.replace(tag, TAG), seen, finding.map(|text| text.replace(tag, TAG))))
        .collect()
}

fn row(rows: &Value) -> &Value {
    &rows["subscriptions"][0]
}

fn bought(rows: &Value) -> (&str, i64) {
    (row(rows)["plan"].as_str().unwrap_or("none"), row(rows)["seat_count"].as_i64().unwrap_or(-1))
}

/// Events of one second: each says what was before it.
#[tokio::test]
async fn sync_orders_events_of_one_second_by_what_was_before() {
    let sync = Sync::start().await;
    let seats = |n, verb, at, quantity| {
        let items = [item("a", Some("pro_monthly"), quantity, MONTH)];
        subscription(n, verb, at, &items, |object| object["quantity"] = quantity.into())
    };
    // Their ids say the opposite.
    let chain = [
        organization(),
        seats(10, "created", 10, 4),
        after(seats(29, "updated", 20, 5), json!({ "quantity": 4 })),
        after(seats(28, "updated", 20, 6), json!({ "quantity": 5 })),
        after(seats(27, "updated", 20, 7), json!({ "quantity": 6 })),
    ];
    assert_eq!(bought(&both_ways(&sync, &chain).await.1), ("PRO", 7));

    // There and back again: only what was before both tells.
    let ends = |n, at, ends: bool| {
        let items = [item("a", Some("pro_monthly"), 1, MONTH)];
        let verb = if n == 10 { "created" } else { "updated" };
        subscription(n, verb, at, &items, |object| object["cancel_at_period_end"] = ends.into())
    };
    let there = after(ends(29, 20, true), json!({ "cancel_at_period_end": false }));
    let back = after(ends(21, 20, false), json!({ "cancel_at_period_end": true }));
    let undone = [organization(), ends(10, 10, false), there, back];
    assert_eq!(row(&both_ways(&sync, &undone).await.1)["cancel_at_period_end"], false);

    // What announces the end of a trial says nothing of what was before; what prolongs it does.
    let trial = |n, verb, at, end: i64, key: &str, quantity| {
        subscription(n, verb, at, &[item(key, Some(key), quantity, MONTH)], |object| {
            object["status"] = "trialing".into();
            object["trial_end"] = end.into();
        })
    };
    let old = json!({ "trial_end": 1_760_000_500, "items": { "data": [item("starter", Some("starter"), 2, MONTH)] } });
    for (announced, prolonged) in [(28, 29), (29, 28)] {
        let events = [
            organization(),
            trial(10, "created", 10, 1_761_000_000, "starter", 2),
            trial(announced, "trial_will_end", 20, 1_760_000_500, "starter", 2),
            after(trial(prolonged, "updated", 20, 1_761_000_000, "enterprise", 9), old.clone()),
        ];
        assert_eq!(bought(&both_ways(&sync, &events).await.1), ("ENTERPRISE", 9));
    }
}

/// The period is that of what buys the plan, and the end that was decided has a field.
#[tokio::test]
async fn sync_takes_the_period_of_the_plan_and_the_decided_end() {
    let sync = Sync::start().await;
    let items = [item("year", Some("pro_yearly"), 4, YEAR), metered("usage", MONTH)];
    let ends_at = |at: i64| {
        let items = items.clone();
        [organization(), subscription(10, "updated", 10, &items, move |object| object["cancel_at"] = at.into())]
    };
    let (_, rows) = both_ways(&sync, &ends_at(YEAR.1)).await;
    let row = row(&rows);
    assert_eq!(bought(&rows), ("PRO", 4));
    assert_eq!(
        (&row["current_period_end"], &row["cancel_at"]),
        (&json!("2026-10-09T08:53:20+00:00"), &row["current_period_end"])
    );
    assert_eq!(row["cancel_at_period_end"], true, "with flexible billing only the date says so");
    // At another time: it ends, and not with the period.
    let (_, rows) = both_ways(&sync, &ends_at(YEAR.1 - 86_400)).await;
    let row = &rows["subscriptions"][0];
    assert_eq!((&row["cancel_at"], &row["cancel_at_period_end"]), (&json!("2026-10-08T08:53:20+00:00"), &json!(false)));
}

/// An add-on whose key begins with the name of a plan is neither a plan nor seats, and is reported until somebody says
/// what it is.
#[tokio::test]
async fn sync_takes_no_addon_for_a_plan() {
    let mut sync = Sync::start().await;
    for (addon, quantity) in [("enterprise_sso_addon", 1), ("pro_extra_api_keys", 40)] {
        let items = [item("plan", Some("pro_monthly"), 7, MONTH), item("addon", Some(addon), quantity, MONTH)];
        let events = [organization(), subscription(10, "created", 10, &items, |_| ())];
        let (tag, rows) = both_ways(&sync, &events).await;
        assert_eq!(bought(&rows), ("PRO", 7), "{addon}");
        let found = seen(&sync, &tag).await;
        let finding = found[0].2.as_deref().unwrap_or_default();
        assert!(finding.contains(&format!("price_{TAG}_addon")) && finding.contains("NONE"), "{found:?}");
        assert!(!finding.contains(&format!("price_{TAG}_plan")), "{found:?}");
    }
    // A metadata of the price, a word in the settings: it is known now.
    let mut known = item("addon", Some("enterprise_sso_addon"), 1, MONTH);
    known["price"]["metadata"] = json!({ "seats": "false" });
    let items = [item("plan", Some("pro_monthly"), 7, MONTH), known];
    let (tag, _) = both_ways(&sync, &[organization(), subscription(10, "created", 10, &items, |_| ())]).await;
    assert_eq!(seen(&sync, &tag).await[0].2, None);
    sync.settings.price_plans.insert("price_known".to_owned(), None);
    let mut configured = item("addon", Some("pro_monthly"), 9, MONTH);
    configured["price"]["id"] = "price_known".into();
    let items = [item("plan", Some("starter"), 7, MONTH), configured];
    let (tag, rows) = both_ways(&sync, &[organization(), subscription(10, "created", 10, &items, |_| ())]).await;
    assert_eq!((bought(&rows), seen(&sync, &tag).await[0].2.as_deref()), (("STARTER", 7), None));
}

/// The lookup key moves to another price. Who pays the old one keeps the plan; who is met without any label is reported.
#[tokio::test]
async fn sync_ends_no_plan_because_a_label_moved() {
    let sync = Sync::start().await;
    let price = |n, verb: &str, at, price: &str, key: Option<&str>| {
        event(n, &format!("price.{verb}"), at, |object| {
            object["id"] = format!("price_{TAG}_{price}").into();
            object["lookup_key"] = json!(key);
            object["metadata"] = json!({});
        })
    };
    let events = [
        organization(),
        subscription(10, "created", 10, &[item("old", Some("pro_monthly"), 5, MONTH)], |_| ()),
        after(price(11, "updated", 20, "old", None), json!({ "lookup_key": "pro_monthly" })),
        price(12, "created", 20, "new", Some("pro_monthly")),
        subscription(13, "updated", 30, &[item("old", None, 5, MONTH)], |_| ()),
    ];
    let (tag, rows) = both_ways(&sync, &events).await;
    assert_eq!(bought(&rows), ("PRO", 5));
    assert!(seen(&sync, &tag).await.iter().all(|(_, _, finding)| finding.is_none()));
    // A label that means another plan does mean it.
    let relabelled = [&events[..], &[price(14, "updated", 40, "old", Some("enterprise_monthly"))]].concat();
    assert_eq!(bought(&both_ways(&sync, &relabelled).await.1), ("ENTERPRISE", 5));

    // Nothing was ever known of it: FREE, and everybody is told.
    let unknown = [organization(), subscription(10, "created", 10, &[item("old", None, 5, MONTH)], |_| ())];
    let (tag, rows) = both_ways(&sync, &unknown).await;
    assert_eq!(bought(&rows), ("FREE", 1));
    let finding = seen(&sync, &tag).await[0].2.clone().unwrap_or_default();
    assert!(finding.contains("FREE") && finding.contains("STRIPE_PRICE_PLANS"), "{finding}");
    // Its price is labelled later: the finding is gone from the events that had it.
    let labelled = [&unknown[..], &[price(14, "updated", 40, "old", Some("pro"))]].concat();
    let (tag, rows) = both_ways(&sync, &labelled).await;
    assert_eq!(bought(&rows), ("PRO", 5));
    assert!(seen(&sync, &tag).await.iter().all(|(_, _, finding)| finding.is_none()));
}

/// A list that came in part is never all of it.
#[tokio::test]
async fn sync_takes_no_part_for_the_whole() {
    let sync = Sync::start().await;
    let usage: Vec<Value> = (0..10).map(|n| metered(&format!("usage{n}"), MONTH)).collect();
    let whole = [&usage[..], &[item("seat", Some("pro_seat_monthly"), 25, MONTH)]].concat();
    let part = |n, at| subscription(n, "updated", at, &usage, |object| object["items"]["has_more"] = true.into());
    let events = [organization(), subscription(10, "created", 10, &whole, |_| ()), part(11, 20)];
    let (tag, rows) = both_ways(&sync, &events).await;
    assert_eq!(bought(&rows), ("PRO", 25));
    let found = seen(&sync, &tag).await;
    assert!(
        found.iter().all(|(_, _, finding)| finding.as_deref().is_some_and(|text| text.contains("a part"))),
        "{found:?}"
    );
    // The next whole list counts again, whatever was said in part.
    let whole = [item("seat", Some("pro_seat_monthly"), 30, MONTH)];
    let more = [&events[..], &[subscription(12, "updated", 30, &whole, |_| ())]].concat();
    let (tag, rows) = both_ways(&sync, &more).await;
    assert_eq!(bought(&rows), ("PRO", 30));
    assert!(seen(&sync, &tag).await.iter().all(|(_, _, finding)| finding.is_none()));

    let entitled = |n, at, keys: &[&str], has_more: bool| {
        event(n, "entitlements.active_entitlement_summary.updated", at, |object| {
            let keys: Vec<Value> = keys.iter().map(|key| json!({ "lookup_key": key })).collect();
            object["entitlements"] = json!({ "object": "list", "data": keys, "has_more": has_more });
        })
    };
    let owner = event(1, "customer.created", 1, |object| {
        object["metadata"] = json!({ "organization_id": format!("org_{TAG}") });
    });
    let flags = |rows: &Value| {
        let flags = rows["flags"].as_array().cloned().unwrap_or_default();
        flags.iter().map(|flag| flag["key"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    // A part is better than nothing, and less than all of an earlier time.
    let first = [organization(), owner.clone(), entitled(10, 10, &["new-inbox"], true)];
    let (tag, rows) = both_ways(&sync, &first).await;
    assert_eq!(flags(&rows), ["new-inbox"]);
    assert!(
        seen(&sync, &tag)
            .await
            .iter()
            .any(|(_, _, finding)| finding.as_deref().is_some_and(|text| text.contains("a part")))
    );
    let second = [
        organization(),
        owner,
        entitled(9, 9, &["new-inbox", "single-sign-on"], false),
        entitled(10, 10, &["new-inbox"], true),
    ];
    assert_eq!(flags(&both_ways(&sync, &second).await.1), ["new-inbox", "single-sign-on"]);
}

/// Objects of test mode have nothing to do with those of live mode.
#[tokio::test]
async fn sync_keeps_the_modes_apart() {
    let mut sync = Sync::start().await;
    let of_mode = |n, live: bool, key: &str, quantity| {
        let sub = if live { "live" } else { "test" };
        let mut event = subscription(n, "created", 10, &[item(key, Some(key), quantity, MONTH)], |object| {
            object["id"] = format!("sub_{TAG}_{sub}").into();
            object["customer"] = format!("cus_{TAG}_{sub}").into();
            object["livemode"] = live.into();
        });
        event.payload["livemode"] = live.into();
        event
    };
    let events = [organization(), of_mode(10, true, "starter", 2), of_mode(11, false, "enterprise", 500)];
    // Where nobody said which mode is meant, money counts.
    assert_eq!(bought(&both_ways(&sync, &events).await.1), ("STARTER", 2));
    for (livemode, expected) in [(true, ("STARTER", 2)), (false, ("ENTERPRISE", 500))] {
        sync.settings = SyncSettings { stripe_livemode: Some(livemode), ..sync.settings };
        let (tag, rows) = both_ways(&sync, &events).await;
        assert_eq!(bought(&rows), expected);
        let ignored_events = sync.inbox(&tag).await.into_iter().filter(|(_, status, _)| status == "IGNORED").count();
        assert_eq!(ignored_events, 1);
    }
}

/// What comes before its owner is the owner's all the same, in the audit log, too, and once.
#[tokio::test]
async fn sync_gives_early_events_to_their_owner() {
    let sync = Sync::start().await;
    let paid = |n, at, kind: &str| {
        event(n, kind, at, |object| {
            object["parent"] = json!({ "subscription_details": { "subscription": format!("sub_{TAG}") } });
        })
    };
    let plain = [item("a", Some("pro"), 2, MONTH)];
    let nameless = |n, at| subscription(n, "created", at, &plain, |object| object["metadata"] = json!({}));
    let checkout = event(14, "checkout.session.completed", 12, |object| {
        object["client_reference_id"] = format!("org_{TAG}").into();
        object["metadata"] = json!({});
    });
    let named = subscription(10, "created", 10, &plain, |_| ());
    let histories: [Vec<Event>; 2] = [
        vec![organization(), named, paid(11, 11, "invoice.paid"), paid(12, 11, "invoice.finalized")],
        vec![organization(), nameless(10, 10), paid(11, 11, "invoice.payment_succeeded"), checkout],
    ];
    for events in histories {
        let invoices = events.iter().filter(|event| event.kind.starts_with("invoice.")).count();
        let (tag, rows) = both_ways(&sync, &events).await;
        assert_eq!(bought(&rows), ("PRO", 2));
        let found = seen(&sync, &tag).await;
        assert!(found.iter().all(|(_, seen, finding)| *seen && finding.is_none()), "{found:?}");
        let mut orders = vec![events.clone(), events.iter().rev().cloned().collect()];
        orders.push(events.iter().chain(&events).cloned().collect());
        for order in orders {
            let (tag, _) = sync.run(&order).await;
            let mut audited = sync.audited(&tag).await;
            audited.retain(|action| action.starts_with("invoice."));
            assert_eq!(audited.len(), invoices, "{audited:?}");
        }
    }
    // Nobody's so far: whoever operates the server sees what is missing.
    let (tag, _) = both_ways(&sync, &[organization(), nameless(10, 10), paid(11, 11, "invoice.paid")]).await;
    let found = seen(&sync, &tag).await;
    assert!(
        found
            .iter()
            .all(|(_, seen, finding)| !seen && finding.as_deref().is_some_and(|text| text.starts_with("waits"))),
        "{found:?}"
    );
}

/// Nobody is called by what they did not publish, whichever event comes first.
#[tokio::test]
async fn sync_names_nobody_by_a_number() {
    let sync = Sync::start().await;
    let person = |n, first: Option<&str>, username: Option<&str>| {
        event(n, "user.created", 5, |object| {
            object["first_name"] = json!(first);
            object["last_name"] = Value::Null;
            object["username"] = json!(username);
            object["primary_email_address_id"] = Value::Null;
            object["email_addresses"] = json!([]);
            object["phone_numbers"] = json!([{ "id": "p", "phone_number": "+15550100166" }]);
        })
    };
    let joined = |n, identifier: &str| {
        event(n, "organizationMembership.created", 10, |object| {
            object["public_user_data"]["first_name"] = Value::Null;
            object["public_user_data"]["last_name"] = Value::Null;
            object["public_user_data"]["identifier"] = identifier.into();
        })
    };
    let named = |rows: &Value| {
        let workspaces = rows["organizations"].as_array().into_iter().flatten();
        let workspace = workspaces
            .filter(|row| row["personal"] == true)
            .map(|row| row["name"].as_str().unwrap_or_default().to_owned());
        (rows["users"][0]["name"].as_str().unwrap_or_default().to_owned(), workspace.collect::<Vec<_>>())
    };
    let neutral = ("Member MARK".to_owned(), vec!["Personal workspace".to_owned()]);
    for identifier in ["+15550100166", "0x52908400098527886E0F7030069857D2E4169EE7", "555 01 00"] {
        let (_, rows) = both_ways(&sync, &[person(1, None, None), joined(2, identifier)]).await;
        assert_eq!(named(&rows), neutral, "{identifier}");
    }
    let (_, rows) = both_ways(&sync, &[person(1, Some(""), Some(""))]).await;
    assert_eq!(named(&rows), neutral);
    let published = |name: &str| (name.to_owned(), vec![format!("{name}'s Workspace")]);
    let (_, rows) = both_ways(&sync, &[person(1, None, Some("kay_9")), joined(2, "kay_9")]).await;
    assert_eq!(named(&rows), published("kay_9"));
    // What only the membership tells is a name, too, and the workspace's as well.
    let told = event(2, "organizationMembership.created", 10, |object| {
        object["public_user_data"]["first_name"] = "Kay".into();
        object["public_user_data"]["last_name"] = Value::Null;
    });
    let (_, rows) = both_ways(&sync, &[person(1, None, None), told]).await;
    assert_eq!(named(&rows), published("Kay"));
}

/// A role that nobody explained is read-only and reported; `CLERK_ROLES` explains it.
#[tokio::test]
async fn sync_maps_roles_by_configuration() {
    let mut sync = Sync::start().await;
    let joined = event(2, "organizationMembership.created", 10, |object| object["role"] = "org:support_lead".into());
    let found = async |sync: &Sync| {
        let (tag, rows) = sync.run(std::slice::from_ref(&joined)).await;
        let members =
            rows["members"].as_array().expect("members").iter().map(|row| row["role"].clone()).collect::<Vec<_>>();
        let findings: Vec<String> = sqlx::query_scalar(
            "select finding from tenantry.webhook_events where finding is not null and event_id like '%' || $1 || '%'",
        )
        .bind(tag)
        .fetch_all(&mut sync.database.system().await)
        .await
        .expect("the inbox");
        (members, findings)
    };
    let (members, findings) = found(&sync).await;
    assert_eq!(members, [json!("VIEWER")]);
    assert!(
        findings.len() == 1 && findings[0].contains("org:support_lead") && findings[0].contains("CLERK_ROLES"),
        "{findings:?}"
    );
    sync.settings.clerk_roles.insert("support_lead".to_owned(), tenantry::access::MemberRole::Member);
    assert_eq!(found(&sync).await, (vec![json!("MEMBER")], Vec::new()));
}
