//! Single cases that people ask about.

use serde_json::{Value, json};
use tenantry::clock::Clock;
use tenantry::sync::samples;

use super::driver::{Sync, TAG};
use super::history::Event;

/// The first second of the histories here.
const START: i64 = 1_760_000_000;

/// A realistic event of this type, so many seconds after the start, its object changed.
pub fn event(n: u32, kind: &str, at: i64, change: impl FnOnce(&mut Value)) -> Event {
    let clock = Clock::manual(chrono::DateTime::from_timestamp(START + at, 0).expect("a time"));
    let sample = samples::sample(kind, "tag", &clock).expect(kind);
    let text = sample.payload.to_string().replace("_tag", &format!("_{TAG}"));
    // What is not an id: names, slugs and addresses.
    let text =
        text.replace("sample-tag", &format!("sample-{}", TAG.to_lowercase())).replace("tag@", &format!("{TAG}@"));
    let mut payload: Value = serde_json::from_str(&text).expect("JSON");
    let object =
        if payload["data"]["object"].is_object() { &mut payload["data"]["object"] } else { &mut payload["data"] };
    change(object);
    Event { source: sample.source, id: format!("evt_{TAG}_{n:03}"), kind: kind.to_owned(), payload }
}

fn plain(n: u32, kind: &str, at: i64) -> Event {
    event(n, kind, at, |_| ())
}

/// A membership of another user.
fn membership(n: u32, kind: &str, at: i64, user: u32, role: &str) -> Event {
    event(n, kind, at, |object| {
        object["id"] = format!("orgmem_{TAG}_{user}").into();
        object["role"] = role.into();
        object["public_user_data"]["user_id"] = format!("user_{TAG}_{user}").into();
        object["public_user_data"]["identifier"] = format!("{user}.{TAG}@example.com").into();
        object["created_at"] = ((START + i64::from(user)) * 1000).into();
    })
}

fn list<'a>(rows: &'a Value, table: &str) -> &'a [Value] {
    rows[table].as_array().map_or(&[], Vec::as_slice)
}

fn roles(rows: &Value) -> Vec<(String, bool)> {
    let text = |member: &Value| member["role"].as_str().unwrap_or_default().to_owned();
    list(rows, "members")
        .iter()
        .filter(|member| member["organization"] == format!("sample-{}", TAG.to_lowercase()))
        .map(|member| (text(member), member["deleted"] == true))
        .collect()
}

/// A tenant with its subscription.
fn beginning() -> Vec<Event> {
    ["user.created", "organization.created", "organizationMembership.created", "customer.created"]
        .iter()
        .zip(0..)
        .map(|(kind, n)| plain(n, kind, i64::from(n)))
        .collect()
}

/// Every type of the enum is understood: it has its effect, or is recorded and has none.
#[tokio::test]
async fn sync_applies_or_records_every_known_type() {
    let sync = Sync::start().await;
    let types: Vec<_> = samples::types().collect();
    // A beginning and no deletions before the end, so that each meets what it is about.
    let mut events = beginning();
    let deletions = |wanted: bool| types.iter().filter(move |(_, kind)| kind.ends_with(".deleted") == wanted);
    for (_, kind) in deletions(false).chain(deletions(true)) {
        let n = u32::try_from(events.len()).expect("few");
        events.push(plain(n, kind, i64::from(n) * 10));
    }
    let (tag, _) = sync.run(&events).await;
    for (kind, status, error) in sync.inbox(&tag).await {
        let recorded = ["role.", "permission.", "organizationDomain.", "session.created", "email."]
            .iter()
            .any(|prefix| kind.starts_with(prefix))
            || ["invoice.created", "invoice.upcoming", "invoice.updated"].contains(&kind.as_str())
            || ["checkout.session.expired", "checkout.session.async_payment_failed"].contains(&kind.as_str());
        assert_eq!(status, if recorded { "IGNORED" } else { "APPLIED" }, "{kind}: {error:?}");
    }
}

/// Periods stand on the items since 2025-03-31 and on the subscription before: the same row either way.
#[tokio::test]
async fn sync_gives_the_same_row_for_both_shapes_of_periods() {
    let sync = Sync::start().await;
    let mut rows = Vec::new();
    for fixture in [
        include_str!("../../fixtures/webhooks/stripe_subscription_2024-06-20.json"),
        include_str!("../../fixtures/webhooks/stripe_subscription_2025-03-31.json"),
    ] {
        let payload: Value = serde_json::from_str(fixture).expect("JSON");
        let created = Event {
            source: tenantry::webhook_events::WebhookSource::Stripe,
            id: format!("evt_{TAG}_100"),
            kind: "customer.subscription.created".to_owned(),
            payload: payload.clone(),
        };
        // An update that says nothing of periods, nor of seats: no null over a value.
        let mut update = created.clone();
        update.id = format!("evt_{TAG}_101");
        update.kind = "customer.subscription.updated".to_owned();
        update.payload["created"] = json!(START + 200);
        let object = &payload["data"]["object"];
        update.payload["data"]["object"] = json!({ "id": object["id"], "customer": object["customer"], "status": "past_due", "current_period_end": null });
        let after = sync.run(&[plain(0, "organization.created", 0), created, update]).await.1;
        let row = list(&after, "subscriptions")[0].clone();
        assert_eq!(row["current_period_start"], "2025-10-09T08:53:20+00:00", "{row}");
        assert_eq!(row["current_period_end"], "2025-11-08T08:53:20+00:00", "{row}");
        // Seven extra seats; the base price and what is metered do not count.
        assert_eq!(
            (&row["plan"], &row["seat_count"], &row["status"]),
            (&json!("STARTER"), &json!(7), &json!("PAST_DUE"))
        );
        let mut row = row;
        for name in ["stripe_subscription_id", "stripe_customer_id"] {
            row[name] = Value::Null;
        }
        rows.push(row);
    }
    assert_eq!(rows[0], rows[1]);
}

/// What is deleted stays so, whatever comes late.
#[tokio::test]
async fn sync_resurrects_nothing_for_late_events() {
    let sync = Sync::start().await;
    let mut events = beginning();
    events.push(plain(10, "customer.subscription.created", 10));
    let deleted =
        ["user.deleted", "organization.deleted", "organizationMembership.deleted", "customer.subscription.deleted"];
    let late =
        ["user.updated", "organization.updated", "organizationMembership.updated", "customer.subscription.updated"];
    events.extend(deleted.iter().zip(20..).map(|(kind, n)| plain(n, kind, 50)));
    // Later by their arrival, and, what no provider should do, by their time.
    events.extend(late.iter().zip(30..).map(|(kind, n)| plain(n, kind, 40)));
    let in_order = sync.run(&events).await.1;
    events.extend(late.iter().zip(40..).map(|(kind, n)| plain(n, kind, 60)));
    let after = sync.run(&events).await.1;
    events.reverse();
    let reversed = sync.run(&events).await.1;
    for rows in [&in_order, &after, &reversed] {
        assert_eq!(list(rows, "users")[0]["deleted"], true, "{rows:#}");
        assert!(list(rows, "organizations").iter().all(|row| row["deleted"] == true), "{rows:#}");
        assert!(list(rows, "members").iter().all(|row| row["deleted"] == true), "{rows:#}");
        let subscription = &list(rows, "subscriptions")[0];
        assert_eq!((&subscription["status"], &subscription["plan"]), (&json!("CANCELED"), &json!("FREE")), "{rows:#}");
    }
    assert_eq!(after, reversed);
}

/// A membership that comes first makes its user and its organization from what it embeds; their own events complete them.
#[tokio::test]
async fn sync_makes_stubs_for_a_membership() {
    let sync = Sync::start().await;
    let early = plain(0, "organizationMembership.created", 10);
    let rows = sync.run(std::slice::from_ref(&early)).await.1;
    let (user, organization) = (&list(&rows, "users")[0], &list(&rows, "organizations")[0]);
    assert_eq!((&user["name"], &user["email"]), (&json!("Jordan Sample"), &json!(format!("{TAG}@example.com"))));
    assert_eq!(organization["slug"], format!("sample-{}", TAG.to_lowercase()));
    assert_eq!(roles(&rows), [("OWNER".to_owned(), false)]);

    // Older than the membership, and yet right: they speak for themselves.
    let named = |n, kind: &str, field: &'static str| event(n, kind, 5, move |object| object[field] = "Own".into());
    let completed = [early, named(1, "user.created", "first_name"), named(2, "organization.created", "name")];
    let rows = sync.run(&completed).await.1;
    assert_eq!(list(&rows, "users")[0]["name"], "Own Sample");
    assert!(list(&rows, "organizations").iter().any(|row| row["name"] == "Own"), "{rows:#}");
}

/// Stripe counts in seconds. Without a key the status that comes later in a subscription's life wins, in either order.
#[tokio::test]
async fn sync_ends_ties_without_a_key_in_the_terminal_state() {
    let sync = Sync::start().await;
    let of = |n, kind, status: &'static str| event(n, kind, 10, move |object| object["status"] = status.into());
    let start = plain(0, "organization.created", 0);
    let ties = [
        ("customer.subscription.updated", "active", "customer.subscription.deleted", "canceled", "CANCELED"),
        ("customer.subscription.created", "incomplete", "customer.subscription.updated", "active", "ACTIVE"),
        ("customer.subscription.updated", "active", "customer.subscription.updated", "past_due", "PAST_DUE"),
        ("customer.subscription.updated", "past_due", "customer.subscription.updated", "unpaid", "UNPAID"),
    ];
    for (first, was, then, is, expected) in ties {
        let customer = plain(1, "customer.created", 0);
        let (a, b) = (of(2, first, was), of(3, then, is));
        let forth = sync.run(&[start.clone(), customer.clone(), a.clone(), b.clone()]).await.1;
        let back = sync.run(&[start.clone(), customer, b, a]).await.1;
        assert_eq!(list(&forth, "subscriptions")[0]["status"], expected, "{was} and {is}");
        assert_eq!(forth, back, "{was} and {is}");
    }
}

/// What a status means for the plan and for the organization.
#[tokio::test]
async fn sync_lets_entitlements_follow_the_status() {
    let sync = Sync::start().await;
    for (status, organization, plan) in [
        ("trialing", "TRIALING", "PRO"),
        ("active", "ACTIVE", "PRO"),
        ("past_due", "PAST_DUE", "PRO"),
        ("unpaid", "SUSPENDED", "FREE"),
        ("paused", "SUSPENDED", "FREE"),
        ("canceled", "CHURNED", "FREE"),
        ("incomplete", "ACTIVE", "FREE"),
        ("incomplete_expired", "ACTIVE", "FREE"),
    ] {
        let mut events = beginning();
        events.push(event(10, "customer.subscription.created", 10, |object| object["status"] = status.into()));
        let rows = sync.run(&events).await.1;
        let subscription = &list(&rows, "subscriptions")[0];
        assert_eq!((&subscription["plan"], &subscription["status"]), (&json!(plan), &json!(status.to_uppercase())));
        let tenant = list(&rows, "organizations").iter().find(|row| row["personal"] == false).expect("the tenant");
        assert_eq!(tenant["status"], organization, "{status}");
        // And back, when it is paid: nothing sticks, but for what is over for good.
        events.push(plain(11, "customer.subscription.updated", 20));
        let rows = sync.run(&events).await.1;
        let over = status == "canceled" || status == "incomplete_expired";
        let expected = if over { "FREE" } else { "PRO" };
        assert_eq!(list(&rows, "subscriptions")[0]["plan"], expected, "{status}, then active");
    }
    assert_eq!(tenantry::sync::stripe::EFFECTS.len(), tenantry::billing::SubscriptionStatus::ALL.len());
}

/// Clerk names no owners: the organization's maker is the owner, then who joined first, and nobody below an admin.
#[tokio::test]
async fn sync_gives_an_organization_with_admins_an_owner() {
    let sync = Sync::start().await;
    let mut events = vec![plain(0, "organization.created", 0)];
    events.push(membership(1, "organizationMembership.created", 1, 1, "org:admin"));
    events.push(membership(2, "organizationMembership.created", 2, 2, "org:admin"));
    events.push(membership(3, "organizationMembership.created", 3, 3, "org:member"));
    let of = |list: &[(&str, bool)]| list.iter().map(|(role, gone)| ((*role).to_owned(), *gone)).collect::<Vec<_>>();
    assert_eq!(roles(&sync.run(&events).await.1), of(&[("OWNER", false), ("ADMIN", false), ("MEMBER", false)]));
    events.push(membership(4, "organizationMembership.deleted", 4, 1, "org:admin"));
    assert_eq!(roles(&sync.run(&events).await.1), of(&[("ADMIN", true), ("OWNER", false), ("MEMBER", false)]));
    let mut named = events.clone();
    named.push(membership(5, "organizationMembership.updated", 5, 3, "org:owner"));
    assert_eq!(roles(&sync.run(&named).await.1), of(&[("ADMIN", true), ("ADMIN", false), ("OWNER", false)]));

    // The last one goes: never silently.
    events.push(membership(6, "organizationMembership.deleted", 6, 2, "org:admin"));
    let (tag, rows) = sync.run(&events).await;
    assert_eq!(roles(&rows), of(&[("ADMIN", true), ("ADMIN", true), ("MEMBER", false)]));
    let actions = sync.audited(&tag).await;
    assert!(actions.iter().any(|action| action == "organization.ownerless"), "{actions:?}");
    // Not of one that is deleted.
    events.insert(5, plain(7, "organization.deleted", 5));
    let (tag, _) = sync.run(&events).await;
    assert!(!sync.audited(&tag).await.iter().any(|action| action == "organization.ownerless"));
}

/// A new user gets a workspace of their own, when that is switched on.
#[tokio::test]
async fn sync_gives_new_users_a_workspace() {
    let mut sync = Sync::start().await;
    let namesake = |n, id: u32| {
        event(n, "user.created", i64::from(n), move |object| {
            object["id"] = format!("user_{TAG}_{id}").into();
            object["first_name"] = "John".into();
            object["email_addresses"][0]["email_address"] = format!("john{id}.{TAG}@example.com").into();
        })
    };
    let rows = sync.run(&[namesake(1, 1), namesake(2, 2)]).await.1;
    let workspaces = list(&rows, "organizations");
    assert_eq!(workspaces.len(), 2, "{rows:#}");
    for workspace in workspaces {
        assert_eq!((&workspace["name"], &workspace["personal"]), (&json!("John's Workspace"), &json!(true)));
        assert_eq!(workspace["slug"], "john-workspace");
    }
    assert!(list(&rows, "members").iter().all(|member| member["role"] == "OWNER"));
    assert!(list(&rows, "users").iter().all(|user| user["current"] == "john-workspace"));
    sync.settings.personal_workspaces = false;
    let rows = sync.run(&[namesake(1, 1)]).await.1;
    assert!(list(&rows, "organizations").is_empty() && list(&rows, "users").len() == 1, "{rows:#}");
}

/// The workspace that a user brought along keeps its name, and one in which they are but a member outlives them.
#[tokio::test]
async fn sync_leaves_workspaces_alone_that_it_did_not_make() {
    let sync = Sync::start().await;
    let tag = sync.next_tag();
    let mut system = sync.database.system().await;
    for (who, role) in [("adopted", "OWNER"), ("other", "OWNER")] {
        sqlx::query(
            "with u as (insert into tenantry.users (id, clerk_id, email, name)
                        values (gen_random_uuid(), 'legacy:' || $2 || ':' || $1, $2 || '.' || $1 || '@example.com', 'John') returning id),
                  o as (insert into tenantry.organizations (id, name, slug, is_personal, created_at)
                        values (gen_random_uuid(), 'John''s place', $2 || '-' || lower($1), true, now() - interval '1 year') returning id)
             insert into tenantry.organization_members (organization_id, id, user_id, role)
             select o.id, gen_random_uuid(), u.id, $3::tenantry.member_role from u, o",
        )
        .bind(&tag)
        .bind(who)
        .bind(role)
        .execute(&mut system)
        .await
        .expect("a workspace of before");
    }
    let created = event(1, "user.created", 1, |object| {
        object["email_addresses"][0]["verification"]["status"] = "verified".into();
        object["email_addresses"][0]["email_address"] = format!("adopted.{TAG}@example.com").into();
    });
    sync.run_as(&tag, &[created]).await;
    let workspaces = "select slug || ' ' || name || ' ' || (deleted_at is not null) from tenantry.organizations
                       where slug in ('adopted-' || lower($1), 'other-' || lower($1)) order by slug";
    let lower = tag.to_lowercase();
    let kept: Vec<String> = sqlx::query_scalar(workspaces).bind(&tag).fetch_all(&mut system).await.expect("rows");
    let as_before = ["adopted", "other"].map(|who| format!("{who}-{lower} John's place false"));
    assert_eq!(kept, as_before);
    // They are a member of the other's, which is older.
    sqlx::query(
        "with other as (update tenantry.organizations set created_at = now() - interval '2 years' where slug = 'other-' || lower($1) returning id)
         insert into tenantry.organization_members (organization_id, id, user_id, role)
         select other.id, gen_random_uuid(), u.id, 'MEMBER' from other, tenantry.users u where u.clerk_id = 'user_' || $1",
    )
    .bind(&tag)
    .execute(&mut system)
    .await
    .expect("a membership");
    sync.run_as(&tag, &[plain(2, "user.deleted", 2)]).await;
    let kept: Vec<String> = sqlx::query_scalar(workspaces).bind(&tag).fetch_all(&mut system).await.expect("rows");
    assert_eq!(kept, [format!("adopted-{lower} John's place true"), as_before[1].clone()]);
}

/// An account with the verified address of a row that no account was ever heard of takes it over.
#[tokio::test]
async fn sync_links_a_known_address_when_it_is_verified() {
    let sync = Sync::start().await;
    for (before, verified, superadmin, linked) in [
        ("legacy:test:", true, false, true),
        ("legacy:test:", false, false, false),
        ("legacy:test:", true, true, false),
        // An account of the provider's whose events never came: whoever has the address now need not be who had it.
        ("user_before", true, false, false),
    ] {
        let status = if verified { "verified" } else { "unverified" };
        let created = event(1, "user.created", 1, |object| {
            object["email_addresses"][0]["verification"]["status"] = status.into();
            object["email_addresses"][0]["email_address"] = format!("Adopted.{TAG}@example.com").into();
        });
        let tag = sync.next_tag();
        let mut system = sync.database.system().await;
        sqlx::query(
            "insert into tenantry.users (id, clerk_id, email, name, is_superadmin)
             values (gen_random_uuid(), $3 || $1, 'adopted.' || $1 || '@example.com', 'Adopted', $2)",
        )
        .bind(&tag)
        .bind(superadmin)
        .bind(before)
        .execute(&mut system)
        .await
        .expect("a row of before");
        let rows = sync.run_as(&tag, &[created]).await;
        let ids: Vec<&str> = list(&rows, "users").iter().filter_map(|user| user["id"].as_str()).collect();
        let own = format!("user_{TAG}");
        let legacy = format!("{before}{TAG}");
        let mut expected = if linked { vec![own.as_str()] } else { vec![legacy.as_str(), own.as_str()] };
        expected.sort_unstable();
        let ids: Vec<&str> = std::collections::BTreeSet::from_iter(ids).into_iter().collect();
        assert_eq!(ids, expected, "{before}, verified {verified}, superadmin {superadmin}");
    }
}

/// Where the plan and the seats come from.
#[tokio::test]
async fn sync_takes_plans_from_the_map_the_key_and_the_metadata() {
    let sync = Sync::start().await;
    let bought = async |change: fn(&mut Value)| {
        let mut events = beginning();
        events.push(event(10, "customer.subscription.created", 10, |object| {
            object["items"]["data"][0]["price"]["lookup_key"] = Value::Null;
            change(object);
        }));
        let rows = sync.run(&events).await.1;
        let row = &list(&rows, "subscriptions")[0];
        (row["plan"].as_str().unwrap_or_default().to_owned(), row["seat_count"].as_i64().unwrap_or(-1))
    };
    let mapped = |object: &mut Value| object["items"]["data"][0]["price"]["id"] = "price_mapped".into();
    assert_eq!(bought(mapped).await, ("ENTERPRISE".to_owned(), 5));
    let keyed = |object: &mut Value| object["items"]["data"][0]["price"]["lookup_key"] = "starter_yearly".into();
    assert_eq!(bought(keyed).await, ("STARTER".to_owned(), 5));
    let expanded = |object: &mut Value| {
        object["items"]["data"][0]["price"]["product"] = json!({ "id": "prod_x", "metadata": { "plan": "pro" } });
    };
    assert_eq!(bought(expanded).await, ("PRO".to_owned(), 5));
    // What is not known buys neither a plan nor seats.
    let nothing = |_: &mut Value| ();
    assert_eq!(bought(nothing).await, ("FREE".to_owned(), 1));
    // The product's own event tells, however late.
    let mut events = beginning();
    let keyless = |object: &mut Value| object["items"]["data"][0]["price"]["lookup_key"] = Value::Null;
    events.push(event(10, "customer.subscription.created", 10, keyless));
    events.push(event(11, "product.updated", 11, |object| object["metadata"] = json!({ "plan": "starter" })));
    assert_eq!(list(&sync.run(&events).await.1, "subscriptions")[0]["plan"], "STARTER");
}

/// Nothing that an event can hold is an error: a verified event must not fail for ever.
#[tokio::test]
async fn sync_takes_odd_payloads_without_errors() {
    let sync = Sync::start().await;
    let odd = [
        json!(null),
        json!([]),
        json!({}),
        json!(7),
        json!("text"),
        json!({ "id": "o'brien\"; drop table tenantry.users; --" }),
        json!({ "id": "a\u{0}b" }),
        json!({ "id": "x".repeat(5000) }),
        json!({ "id": { "id": "nested" }, "customer": [], "organization": 7, "role": {}, "status": ["active"] }),
        json!({ "id": "odd", "name": "\u{0}", "slug": "\u{0}", "email_addresses": [null, 7, {}], "items": { "data": [null, 7, {}] },
                "metadata": { "organization_id": "\u{0}" }, "customer": "cus\u{0}", "created": -1, "created_at": 1e300,
                "current_period_end": u64::MAX, "trial_end": "soon", "public_user_data": [], "organization": null }),
        json!({ "id": "ends", "customer": "cus_odd", "status": "active", "metadata": { "organization_id": "org_odd" },
                "current_period_start": 2_000_000_000, "current_period_end": 1_000_000_000,
                "items": { "data": [{ "price": { "id": "p" }, "quantity": i64::MAX }, { "price": { "id": "q" }, "quantity": i64::MAX }] } }),
        json!({ "id": "long", "first_name": "é".repeat(500), "last_name": "\u{1F600}".repeat(500), "image_url": "u".repeat(4000),
                "name": "n".repeat(4000), "slug": "-".repeat(500), "email_address": "@", "organization_id": "org_odd" }),
        json!({ "items": vec![json!({}); 10_000], "id": "many", "email_addresses": vec![json!({}); 10_000] }),
    ];
    let mut events = vec![event(0, "organization.created", 0, |object| object["id"] = "org_odd".into())];
    for (_, kind) in samples::types() {
        for object in &odd {
            let n = u32::try_from(events.len()).expect("few");
            let mut event = plain(n, kind, i64::from(n));
            event.id = format!("evt_{TAG}_{n:05}");
            let stripe = event.source == tenantry::webhook_events::WebhookSource::Stripe;
            if stripe {
                event.payload["data"]["object"] = object.clone();
            } else {
                event.payload["data"] = object.clone();
            }
            events.push(event);
        }
    }
    let count = events.len();
    let (tag, _) = sync.run(&events).await;
    let inbox = sync.inbox(&tag).await;
    assert_eq!(inbox.len(), count);
    assert!(inbox.iter().all(|(_, status, _)| status == "APPLIED" || status == "IGNORED"));
    assert_eq!(sync.retried(), 0, "{}", sync.figures());
}
