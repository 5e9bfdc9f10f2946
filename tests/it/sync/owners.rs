//! Whose an event and a subscription is, and whose not.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::Row as _;

use super::cases::event;
use super::driver::{Sync, TAG};
use super::history::Event;

/// The organization of this letter.
fn organization(n: u32, letter: &str) -> Event {
    event(n, "organization.created", i64::from(n), |object| {
        object["id"] = format!("org_{TAG}_{letter}").into();
        object["slug"] = format!("sample-{letter}-{}", TAG.to_lowercase()).into();
    })
}

fn customer(n: u32, letter: &str, metadata: &Value) -> Event {
    event(n, "customer.created", i64::from(n), |object| {
        object["id"] = format!("cus_{TAG}_{letter}").into();
        object["metadata"] = metadata.clone();
    })
}

/// A subscription of this customer, of ENTERPRISE.
fn subscription(n: u32, kind: &str, letter: &str, metadata: &Value) -> Event {
    event(n, &format!("customer.subscription.{kind}"), i64::from(n), |object| {
        object["id"] = format!("sub_{TAG}_{letter}{}", if metadata["second"] == true { "2" } else { "" }).into();
        object["customer"] = format!("cus_{TAG}_{letter}").into();
        object["metadata"] = metadata.clone();
        object["created"] = json!(1_760_000_000 + n);
        object["items"]["data"][0]["price"]["id"] = "price_mapped".into();
    })
}

/// A checkout in which the buyer names an organization.
fn checkout(n: u32, letter: &str, named: &str, change: impl FnOnce(&mut Value)) -> Event {
    event(n, "checkout.session.completed", i64::from(n), |object| {
        object["id"] = format!("cs_{TAG}_{letter}{n}").into();
        object["customer"] = format!("cus_{TAG}_{letter}").into();
        object["subscription"] = format!("sub_{TAG}_{letter}").into();
        object["client_reference_id"] = format!("org_{TAG}_{named}").into();
        object["metadata"] = json!({});
        change(object);
    })
}

fn of(letter: &str) -> Value {
    json!({ "organization_id": format!("org_{TAG}_{letter}") })
}

/// The letters of the organizations that see the events of a run, by the number of the event.
async fn seen(sync: &Sync, tag: &str) -> BTreeMap<u32, String> {
    let rows = sqlx::query(
        "select e.event_id, o.clerk_org_id from tenantry.webhook_events e join tenantry.organizations o on o.id = e.organization_id
          where e.source = 'STRIPE' and e.event_id like '%' || $1 || '%'",
    )
    .bind(tag)
    .fetch_all(&mut sync.database.system().await)
    .await
    .expect("the inbox");
    let last = |text: &str| text.rsplit('_').next().unwrap_or_default().to_owned();
    rows.iter().map(|row| (last(row.get(0)).parse().expect("a number"), last(row.get(1)))).collect()
}

/// The customers of the rows of organizations, by letters.
fn rows(rows: &Value) -> Vec<(String, String)> {
    let last = |value: &Value| value.as_str().unwrap_or_default().rsplit('_').next().unwrap_or_default().to_owned();
    let letter = |row: &Value| row["organization"].as_str().and_then(|slug| slug.split('-').nth(1)).map(str::to_owned);
    let found = rows["subscriptions"].as_array().map_or(&[][..], Vec::as_slice);
    found.iter().map(|row| (letter(row).unwrap_or_default(), last(&row["stripe_customer_id"]))).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
}

/// One customer pays for two organizations: each sees what is about its own subscription, and what is about neither, or
/// about the whole catalogue, is seen by none.
#[tokio::test]
async fn sync_shows_an_event_to_whom_it_is_about() {
    let sync = Sync::start().await;
    let second = |letter: &str| json!({ "organization_id": format!("org_{TAG}_{letter}"), "second": true });
    let invoice = |n, place: fn(&mut Value, Value)| {
        event(n, "invoice.paid", i64::from(n), |object| {
            object["id"] = format!("in_{TAG}_{n}").into();
            object["customer"] = format!("cus_{TAG}_x").into();
            object["parent"] = Value::Null;
            place(object, format!("sub_{TAG}_x2").into());
        })
    };
    let events = [
        organization(1, "a"),
        organization(2, "b"),
        customer(10, "x", &json!({})),
        subscription(11, "created", "x", &of("a")),
        subscription(12, "created", "x", &second("b")),
        subscription(13, "updated", "x", &second("b")),
        // Older than what is known.
        event(9, "customer.subscription.updated", 9, |object| {
            object["id"] = format!("sub_{TAG}_x2").into();
            object["customer"] = format!("cus_{TAG}_x").into();
        }),
        invoice(14, |object, id| object["parent"] = json!({ "subscription_details": { "subscription": id } })),
        invoice(15, |object, id| object["subscription"] = id),
        invoice(16, |_, _| ()),
        customer(17, "x", &json!({})),
        event(18, "entitlements.active_entitlement_summary.updated", 18, |object| {
            object["customer"] = format!("cus_{TAG}_x").into();
        }),
        event(19, "price.updated", 19, |object| object["id"] = "price_mapped".into()),
        event(20, "product.updated", 20, |object| object["metadata"] = json!({ "plan": "starter" })),
    ];
    let (tag, after) = sync.run(&events).await;
    assert_eq!(rows(&after), pairs(&[("a", "x"), ("b", "x")]));
    assert_eq!(after["flags"], Value::Null, "of nobody's entitlements");
    let expected = [(9, "b"), (11, "a"), (12, "b"), (13, "b"), (14, "b"), (15, "b")];
    assert_eq!(seen(&sync, &tag).await, expected.map(|(n, letter)| (n, letter.to_owned())).into());
}

/// A buyer can write the `client_reference_id`: it takes nothing from an organization that has a customer, in any order.
#[tokio::test]
async fn sync_attaches_nothing_for_strangers() {
    let sync = Sync::start().await;
    // Metadata can be written by the seller only.
    let mut events = vec![
        organization(1, "a"),
        checkout(2, "s", "a", |_| ()),
        subscription(3, "created", "s", &json!({})),
        customer(4, "c", &of("a")),
        subscription(5, "created", "c", &json!({})),
    ];
    for _ in 0..2 {
        let after = sync.run(&events).await.1;
        assert_eq!(rows(&after), pairs(&[("a", "c")]), "{after:#}");
        let late = ["s", "c"].iter().zip(6..).map(|(who, n)| subscription(n, "updated", who, &json!({})));
        let (tag, _) = sync.run(&events.iter().cloned().chain(late).collect::<Vec<_>>()).await;
        let seen = seen(&sync, &tag).await;
        assert_eq!(
            (seen.get(&6), seen.get(&7).map(String::as_str)),
            (None, Some("a")),
            "what the stranger does is not told"
        );
        events.reverse();
    }

    // Of two claims the one with the older living subscription counts; when that is over, the other.
    let mut events = vec![
        organization(1, "a"),
        checkout(2, "s", "a", |_| ()),
        checkout(3, "c", "a", |_| ()),
        subscription(4, "created", "c", &json!({})),
        subscription(5, "created", "s", &json!({})),
    ];
    for _ in 0..2 {
        assert_eq!(rows(&sync.run(&events).await.1), pairs(&[("a", "c")]));
        let over = [&events[..], &[subscription(6, "deleted", "c", &json!({}))]].concat();
        assert_eq!(rows(&sync.run(&over).await.1), pairs(&[("a", "s")]));
        events.reverse();
    }

    // Out of a payment link it is no claim at all; what the link's owner wrote is.
    let link = |n, metadata: Value| {
        checkout(n, "s", "a", |object| {
            object["payment_link"] = "plink_1".into();
            object["metadata"] = metadata;
        })
    };
    let bought = [organization(1, "a"), organization(2, "b"), subscription(4, "created", "s", &json!({}))];
    let linked = [&bought[..], &[link(5, json!({}))]].concat();
    assert_eq!(rows(&sync.run(&linked).await.1), pairs(&[]));
    let linked = [&bought[..], &[link(5, of("b"))]].concat();
    assert_eq!(rows(&sync.run(&linked).await.1), pairs(&[("b", "s")]));
}

/// A row from an older system, of whose subscription no event came yet, is a customer, too.
#[tokio::test]
async fn sync_gives_strangers_no_adopted_row() {
    let sync = Sync::start().await;
    let tag = sync.next_tag();
    sync.run_as(&tag, &[organization(1, "a")]).await;
    sqlx::query(
        "insert into tenantry.subscriptions (organization_id, id, stripe_customer_id, stripe_subscription_id, plan)
         select id, gen_random_uuid(), 'cus_' || $1 || '_c', 'sub_' || $1 || '_c', 'STARTER' from tenantry.organizations where clerk_org_id = 'org_' || $1 || '_a'",
    )
    .bind(&tag)
    .execute(&mut sync.database.system().await)
    .await
    .expect("a row of before");
    let claim = [checkout(2, "s", "a", |_| ()), subscription(3, "created", "s", &json!({}))];
    assert_eq!(rows(&sync.run_as(&tag, &claim).await), pairs(&[("a", "c")]));
    // Its own subscription is heard of, which the stranger's is older than.
    let own = subscription(4, "updated", "c", &json!({}));
    let after = sync.run_as(&tag, &[own]).await;
    assert_eq!((rows(&after), &after["subscriptions"][0]["plan"]), (pairs(&[("a", "c")]), &json!("ENTERPRISE")));
}

/// A price of many: its change comes to all of them, some at a time, and no more than once.
#[tokio::test]
async fn sync_brings_a_change_of_a_price_to_all_in_parts() {
    const MANY: u32 = 250;
    let sync = Sync::start().await;
    let tag = sync.next_tag();
    sqlx::query(
        "insert into tenantry.organizations (id, name, slug, clerk_org_id)
         select gen_random_uuid(), 'Many', 'many-' || n || '-' || lower($1), 'org_' || $1 || '_' || n from generate_series(1, $2) n",
    )
    .bind(&tag)
    .bind(i32::try_from(MANY).expect("few"))
    .execute(&mut sync.database.system().await)
    .await
    .expect("organizations");
    let price = format!("price_{TAG}_many");
    let sold: Vec<Event> = (1..=MANY)
        .map(|n| {
            let mut sold = subscription(n, "created", &n.to_string(), &of(&n.to_string()));
            let item = &mut sold.payload["data"]["object"]["items"]["data"][0]["price"];
            (item["id"], item["lookup_key"]) = (price.clone().into(), Value::Null);
            sold
        })
        .collect();
    sync.run_as(&tag, &sold).await;
    let change = |n: u32, plan: &str| {
        event(n, "price.updated", i64::from(n), |object| {
            (object["id"], object["lookup_key"]) = (price.clone().into(), Value::Null);
            (object["product"], object["metadata"]) = (Value::Null, json!({ "plan": plan }));
        })
    };
    let plans = async || -> (i64, i64, i64) {
        sqlx::query_as(
            "select count(*) filter (where plan = 'PRO'), count(*), count(distinct s.xmin::text) from tenantry.subscriptions s
              where stripe_customer_id like '%' || $1 || '%'",
        )
        .bind(&tag)
        .fetch_one(&mut sync.database.system().await)
        .await
        .expect("the rows")
    };
    assert_eq!(plans().await.0, 0);
    sync.run_as(&tag, &[change(900, "pro")]).await;
    assert_eq!(plans().await, (i64::from(MANY), i64::from(MANY), 3), "in three transactions");
    // What says nothing new touches nobody: each row would get a newer transaction.
    let newest = async || -> String {
        sqlx::query_scalar("select string_agg(distinct xmin::text, ',') from tenantry.subscriptions where stripe_customer_id like '%' || $1 || '%'")
            .bind(&tag)
            .fetch_one(&mut sync.database.system().await)
            .await
            .expect("transactions")
    };
    let before = newest().await;
    sync.run_as(&tag, &[change(901, "pro")]).await;
    assert_eq!(newest().await, before);
    let inbox = sync.inbox(&tag).await;
    assert!(inbox.iter().all(|(_, status, _)| status == "APPLIED"), "{inbox:?}");
    assert!(!seen(&sync, &tag).await.contains_key(&900));
}
