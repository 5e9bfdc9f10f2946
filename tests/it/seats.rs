//! Seats, and what plans limit: never more members with a seat than seats, nobody waits while one is free, nobody is lost, whichever
//! way they come and however many at once.

use std::collections::BTreeMap;

use futures_util::future::{BoxFuture, join_all};
use serde_json::{Value, json};
use sqlx::Row as _;
use tenantry::webhook_events::WebhookSource::{Clerk, Stripe};
use tenantry::webhooks::worker::Worker;

use crate::support::{Setup, TestApp, codes, hear, mutation, sign};
use crate::webhooks::{deliver, environment};

const ACCEPT: &str = "mutation($input: InvitationAcceptInput!) { invitationAccept(input: $input) { membership { role } userErrors { code field } } }";
const JOIN: &str = "mutation($input: OrganizationJoinInput!) { organizationJoin(input: $input) { membership { role } userErrors { code field } } }";
const DECIDE: &str = "mutation($input: MembershipRequestAcceptInput!) { membershipRequestAccept(input: $input) { request { isAccepted } userErrors { code field } } }";
const UPDATE: &str = "mutation($input: OrganizationMemberUpdateInput!) { organizationMemberUpdate(input: $input) { member { role hasSeat waitsForSeat } userErrors { code field } } }";
const CREATE_BUDGET: &str = r#"mutation { budgetCreate(input: { type: AI_USAGE, name: "B", period: MONTH, limit: { amount: "10.00", currencyCode: "EUR" } })
    { budget { id isOverPlan } userErrors { code field message } } }"#;
const ENTITLEMENTS: &str = "{ organization { entitlements { key enabled limit used remaining source expiresAt unlockedBy } seats { limit used free waiting policy } } }";
const WAITING: &str = "{ viewer { role waitsForSeat permissions } }";

const PLANS: &str = r#"
    [FREE]
    seats = 2
    budgets = 1
    api_calls_per_month = 1_000
    [STARTER]
    seats = 4
    budgets = 3
    api_calls_per_month = 5_000
    [PRO]
    budgets = 5
    api_cost_per_minute = 60_000_000
    api_burst = 20_000_000
    [[PRO.prices]]
    id = "price_seat"
    interval = "MONTH"
    seat = true
    [ENTERPRISE]
"#;

async fn start() -> TestApp {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("plans-{}.toml", uuid::Uuid::new_v4()));
    std::fs::write(&file, PLANS).expect("a file");
    let mut environment = environment();
    environment.push(("IDENTITY_SOURCE", "tenantry".to_owned()));
    environment.push(("PLANS_FILE", file.display().to_string()));
    let app = TestApp::start_with(Setup { environment, ..Setup::default() }).await;
    std::fs::remove_file(&file).expect("it was read");
    app
}

async fn payload(app: &TestApp, token: &str, mutation: &str, input: Value) -> Value {
    let data = app.data(token, mutation, json!({ "input": input })).await;
    data.as_object().and_then(|fields| fields.values().next()).expect("a payload").clone()
}

fn bearer(app: &TestApp, user: &str, organization: Option<&str>) -> String {
    let mut claims = json!({ "iss": "tenantry-development", "sub": user, "sid": "s", "v": 2 });
    if let Some(organization) = organization {
        claims["o"] = json!({ "id": organization });
    }
    sign(&json!({ "alg": "EdDSA", "typ": "JWT" }), &claims, &app.clock)
}

/// How many seats there are, who takes one, who has one, and who waits.
async fn standing(app: &TestApp, organization: &str) -> (Option<i64>, i64, i64, i64) {
    let row = sqlx::query(
        "select tenantry.seat_limit(o.id), count(*) filter (where takes), count(*) filter (where takes and not waits_for_seat),
                count(*) filter (where waits_for_seat)
           from tenantry.organizations o,
                lateral (select m.waits_for_seat, m.role <> 'VIEWER' or m.custom_role_id is not null as takes
                           from tenantry.organization_members m where m.organization_id = o.id and m.deleted_at is null) m
          where o.clerk_org_id = $1 group by o.id",
    )
    .bind(organization)
    .fetch_one(&mut app.database.system().await)
    .await
    .expect("an organization");
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

async fn wrong(app: &TestApp) -> i64 {
    sqlx::query_scalar("select count(*) from tenantry.wrong_seats()")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a count")
}

/// An organization of this number whose owner is Alice, with so many seats; everybody of the test has a way in.
async fn prepare(app: &TestApp, round: usize, seats: usize, invited: std::ops::Range<usize>) {
    app.sql(&format!(
        "insert into tenantry.organizations (id, clerk_org_id, name, slug) values (gen_random_uuid(), 'org_race{round}', 'Race', 'race-{round}');
         insert into tenantry.organization_members (organization_id, id, user_id, role)
         select o.id, gen_random_uuid(), u.id, 'OWNER' from tenantry.organizations o, tenantry.users u where o.slug = 'race-{round}' and u.clerk_id = 'user_alice';
         insert into tenantry.subscriptions (organization_id, id, status, plan, seat_count, sells_seats)
         select o.id, gen_random_uuid(), 'ACTIVE', 'PRO', {seats}, true from tenantry.organizations o where o.slug = 'race-{round}';
         insert into tenantry.organization_domains (organization_id, id, domain, enrollment, role)
         select o.id, gen_random_uuid(), 'seats.test', 'JOIN', 'MEMBER' from tenantry.organizations o where o.slug = 'race-{round}';
         insert into tenantry.invitations (organization_id, id, email, role, token_hash, expires_at)
         select o.id, gen_random_uuid(), 's' || n || '@seats.test', 'MEMBER', sha256(convert_to('inv_{round}_' || n, 'UTF8')), now() + interval '1 day'
           from tenantry.organizations o, generate_series({}, {}) n where o.slug = 'race-{round}'",
        invited.start,
        invited.end - 1
    ))
    .await;
}

async fn people(app: &TestApp) {
    app.sql(
        "insert into tenantry.users (id, clerk_id, email, verified_email, name)
         select gen_random_uuid(), 'user_s' || n, 's' || n || '@seats.test', 's' || n || '@seats.test', 'S' || n from generate_series(0, 31) n",
    )
    .await;
}

async fn ids(app: &TestApp, sql: String) -> Vec<(String, uuid::Uuid)> {
    sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&mut app.database.system().await).await.expect("ids")
}

#[tokio::test]
async fn seats_hold_under_joins_by_every_way_at_once() {
    let app = start().await;
    people(&app).await;
    for round in 0..20_usize {
        let seats = 1 + round % 7 * 4;
        prepare(&app, round, seats, 0..10).await;
        let organization = format!("org_race{round}");
        app.sql(&format!(
            "insert into tenantry.membership_requests (organization_id, id, user_id)
             select o.id, gen_random_uuid(), u.id from tenantry.organizations o, tenantry.users u
              where o.slug = 'race-{round}' and u.clerk_id in ('user_s18', 'user_s19', 'user_s20', 'user_s21');
             insert into tenantry.organization_members (organization_id, id, user_id, role)
             select o.id, gen_random_uuid(), u.id, 'VIEWER' from tenantry.organizations o, tenantry.users u
              where o.slug = 'race-{round}' and u.clerk_id in ('user_s22', 'user_s23', 'user_s24')"
        ))
        .await;
        let alice = bearer(&app, "user_alice", Some(&organization));
        let requests = ids(&app, format!("select u.clerk_id, r.id from tenantry.membership_requests r join tenantry.users u on u.id = r.user_id join tenantry.organizations o on o.id = r.organization_id where o.slug = 'race-{round}'")).await;
        let viewers = ids(&app, format!("select 'x', m.id from tenantry.organization_members m join tenantry.organizations o on o.id = m.organization_id where o.slug = 'race-{round}' and m.role = 'VIEWER'")).await;
        let id =
            &ids(&app, format!("select 'x', id from tenantry.organizations where slug = 'race-{round}'")).await[0].1;
        // What the identity provider says waits in the inbox.
        for n in 25..32 {
            let data = json!({ "id": format!("orgmem_{round}_{n}"), "object": "organization_membership", "role": "org:member", "created_at": 1_700_000_000_000_i64 + n,
                               "organization": { "id": organization, "object": "organization" },
                               "public_user_data": { "user_id": format!("user_s{n}"), "identifier": format!("s{n}@seats.test") } });
            let body = json!({ "type": "organizationMembership.created", "object": "event", "timestamp": app.clock.now().timestamp_millis(), "instance_id": "ins_test", "data": data });
            assert_eq!(deliver(&app, Clerk, &format!("msg_{round}_{n}"), body.to_string()).await.0, 200);
        }
        let mut ways: Vec<BoxFuture<'_, Option<Value>>> = Vec::new();
        for n in 0..18 {
            let token = bearer(&app, &format!("user_s{n}"), None);
            let app = &app;
            ways.push(Box::pin(async move {
                let (verb, input) = if n < 10 {
                    (ACCEPT, json!({ "token": format!("inv_{round}_{n}") }))
                } else {
                    (JOIN, json!({ "organizationId": format!("org_{}", id.simple()) }))
                };
                Some(payload(app, &token, verb, input).await)
            }));
        }
        for (_, request) in &requests {
            let input = json!({ "id": format!("mre_{}", request.simple()) });
            ways.push(Box::pin(async { Some(payload(&app, &alice, DECIDE, input).await) }));
        }
        for (_, member) in &viewers {
            let input = json!({ "id": format!("mem_{}", member.simple()), "role": "MEMBER" });
            ways.push(Box::pin(async { Some(payload(&app, &alice, UPDATE, input).await) }));
        }
        for _ in 0..2 {
            ways.push(Box::pin(async {
                let worker = Worker::new(&app.app.webhooks);
                while worker.step().await.expect("a step") > 0 {}
                None
            }));
        }
        assert!(ways.len() >= 25);
        let came: Vec<Value> = join_all(ways).await.into_iter().flatten().collect();
        let worker = Worker::new(&app.app.webhooks);
        while worker.step().await.expect("a step") > 0 {}
        let refused = came.iter().filter(|came| codes(came) == ["SEATS_EXHAUSTED"]).count();
        let let_in = came.iter().filter(|came| codes(came).is_empty()).count();
        assert_eq!(refused + let_in, came.len(), "round {round}: {came:?}");
        let (limit, taking, with, waiting) = standing(&app, &organization).await;
        let seats = i64::try_from(seats).expect("few");
        assert_eq!(limit, Some(seats));
        // Alice, whoever was let in, and all seven of whom the identity provider told.
        assert_eq!(taking, 1 + 7 + i64::try_from(let_in).expect("few"), "round {round}: nobody is lost");
        assert_eq!((with, waiting), (taking.min(seats), (taking - seats).max(0)), "round {round}");
        assert_eq!(wrong(&app).await, 0, "round {round}");
        let failed: i64 = sqlx::query_scalar(
            "select count(*) from tenantry.webhook_events where status <> 'APPLIED' and event_id like 'msg_%'",
        )
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a count");
        assert_eq!(failed, 0, "round {round}: no webhook stands in another's way");
    }
}

#[tokio::test]
async fn seats_of_which_one_is_free_take_one_of_32_invitations() {
    let app = start().await;
    people(&app).await;
    prepare(&app, 0, 2, 0..32).await;
    let tokens: Vec<String> = (0..32).map(|n| bearer(&app, &format!("user_s{n}"), None)).collect();
    let came = join_all(
        tokens
            .iter()
            .enumerate()
            .map(|(n, token)| payload(&app, token, ACCEPT, json!({ "token": format!("inv_0_{n}") }))),
    )
    .await;
    assert_eq!(came.iter().filter(|came| codes(came).is_empty()).count(), 1, "{came:?}");
    assert_eq!(came.iter().filter(|came| codes(came) == ["SEATS_EXHAUSTED"]).count(), 31, "{came:?}");
    assert_eq!(standing(&app, "org_race0").await, (Some(2), 2, 2, 0));
    // The others' invitations stay open: with more seats they are good.
    app.sql("update tenantry.subscriptions set seat_count = 3 where organization_id = (select id from tenantry.organizations where slug = 'race-0')").await;
    let again = join_all(
        tokens
            .iter()
            .enumerate()
            .map(|(n, token)| payload(&app, token, ACCEPT, json!({ "token": format!("inv_0_{n}") }))),
    )
    .await;
    assert_eq!(again.iter().filter(|came| codes(came).is_empty()).count(), 1, "{again:?}");
    assert_eq!(again.iter().filter(|came| codes(came) == ["INVALID_TRANSITION"]).count(), 1, "{again:?}");
    // Who only reads needs no seat.
    app.sql("update tenantry.invitations set role = 'VIEWER' where accepted_at is null").await;
    let read = join_all(
        tokens
            .iter()
            .enumerate()
            .map(|(n, token)| payload(&app, token, ACCEPT, json!({ "token": format!("inv_0_{n}") }))),
    )
    .await;
    assert_eq!(read.iter().filter(|came| codes(came).is_empty()).count(), 30, "{read:?}");
    assert_eq!(standing(&app, "org_race0").await, (Some(3), 3, 3, 0));
}

/// A member as the model has them: role, when they joined, whether they are there.
#[derive(Clone, Debug)]
struct Known {
    role: &'static str,
    joined: i64,
    gone: bool,
}

/// Histories by chance: after each step as many members have seats as can, owners first, then who joined first.
#[tokio::test]
async fn seats_follow_any_history() {
    let app = start().await;
    people(&app).await;
    app.sql("insert into tenantry.organizations (id, clerk_org_id, name, slug) values (gen_random_uuid(), 'org_h', 'H', 'h')").await;
    let mut random = 0x9e37_79b9_u64;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let (mut model, mut limit): (BTreeMap<u64, Known>, Option<usize>) = (BTreeMap::new(), Some(2));
    let roles = ["OWNER", "ADMIN", "MEMBER", "VIEWER"];
    let mut system = app.database.system().await;
    for step in 0..400_i64 {
        let (user, role) = (below(12), roles[usize::try_from(below(4)).expect("few")]);
        let of = "organization_id = (select id from tenantry.organizations where slug = 'h')";
        let whose = format!("{of} and user_id = (select id from tenantry.users where clerk_id = 'user_s{user}')");
        let sql = match below(6) {
            0 | 1 => {
                model.insert(user, Known { role, joined: step, gone: false });
                format!(
                    "insert into tenantry.organization_members (organization_id, id, user_id, role, created_at)
                     select o.id, gen_random_uuid(), u.id, '{role}', timestamptz '2026-01-01' + interval '{step} minutes'
                       from tenantry.organizations o, tenantry.users u where o.slug = 'h' and u.clerk_id = 'user_s{user}'
                     on conflict (organization_id, user_id) do update set role = excluded.role, created_at = excluded.created_at, deleted_at = null"
                )
            }
            2 => {
                model.entry(user).and_modify(|known| known.role = role);
                format!("update tenantry.organization_members set role = '{role}' where {whose}")
            }
            3 => {
                model.entry(user).and_modify(|known| known.gone = true);
                format!("update tenantry.organization_members set deleted_at = now() where {whose}")
            }
            4 => {
                let seats = below(9);
                let status =
                    ["ACTIVE", "TRIALING", "PAST_DUE", "UNPAID", "CANCELED"][usize::try_from(below(5)).expect("few")];
                let is_paid = matches!(status, "ACTIVE" | "TRIALING" | "PAST_DUE");
                limit = Some(if is_paid { usize::try_from(seats.max(1)).expect("few") } else { 2 });
                let plan = if is_paid { "PRO" } else { "FREE" };
                format!(
                    "insert into tenantry.subscriptions (organization_id, id, status, plan, seat_count, sells_seats)
                     select id, gen_random_uuid(), '{status}', '{plan}', {seats}, true from tenantry.organizations where slug = 'h'
                     on conflict (organization_id) do update set status = excluded.status, plan = excluded.plan, seat_count = excluded.seat_count, sells_seats = true"
                )
            }
            _ => {
                // A flat plan: its own seats count.
                let plan = ["FREE", "STARTER", "PRO"][usize::try_from(below(3)).expect("few")];
                limit = match plan {
                    "FREE" => Some(2),
                    "STARTER" => Some(4),
                    _ => None,
                };
                format!(
                    "insert into tenantry.subscriptions (organization_id, id, status, plan, seat_count)
                     select id, gen_random_uuid(), 'ACTIVE', '{plan}', 1 from tenantry.organizations where slug = 'h'
                     on conflict (organization_id) do update set status = 'ACTIVE', plan = excluded.plan, seat_count = 1, sells_seats = false"
                )
            }
        };
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.as_str())).execute(&mut system).await.expect(&sql);
        let mut taking: Vec<(&u64, &Known)> =
            model.iter().filter(|(_, known)| !known.gone && known.role != "VIEWER").collect();
        taking.sort_by_key(|(_, known)| (known.role != "OWNER", known.joined));
        let mut expected: Vec<String> =
            taking.iter().skip(limit.unwrap_or(usize::MAX)).map(|(user, _)| format!("user_s{user}")).collect();
        expected.sort();
        let waiting: Vec<String> = sqlx::query_scalar(
            "select u.clerk_id from tenantry.organization_members m join tenantry.users u on u.id = m.user_id join tenantry.organizations o on o.id = m.organization_id
              where o.slug = 'h' and m.deleted_at is null and m.waits_for_seat order by u.clerk_id",
        )
        .fetch_all(&mut system)
        .await
        .expect("who waits");
        assert_eq!(waiting, expected, "step {step}, {limit:?}: {sql}");
    }
    assert_eq!(wrong(&app).await, 0);
}

/// What Stripe says of Acme from now on.
async fn bought(app: &TestApp, n: i64, quantity: i64, status: &str) {
    let organization: uuid::Uuid = sqlx::query_scalar("select id from tenantry.organizations where slug = 'acme-corp'")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("Acme");
    let at = app.clock.now().timestamp() + n * 10;
    let object = json!({ "id": "sub_seats", "object": "subscription", "customer": "cus_seats", "status": status, "created": at,
        "metadata": { "organization_id": organization.to_string() },
        "items": { "object": "list", "has_more": false, "data": [{ "id": "si_1", "quantity": quantity, "current_period_start": at, "current_period_end": at + 2_000_000,
            "price": { "id": "price_seat", "object": "price", "product": "prod_1", "recurring": { "usage_type": "licensed" } } }] } });
    let event = json!({ "id": format!("evt_seats_{n}"), "object": "event", "type": "customer.subscription.updated", "created": at, "livemode": false,
        "api_version": "2025-03-31.basil", "data": { "object": object } });
    assert_eq!(deliver(app, Stripe, &format!("evt_seats_{n}"), event.to_string()).await.0, 200);
    let worker = Worker::new(&app.app.webhooks);
    while worker.step().await.expect("a step") > 0 {}
}

fn entitlement<'a>(data: &'a Value, key: &str) -> &'a Value {
    let all = data["organization"]["entitlements"].as_array().expect("entitlements");
    all.iter().find(|one| one["key"] == key).unwrap_or_else(|| panic!("{key} is not in {all:?}"))
}

#[tokio::test]
async fn seats_that_are_no_more_leave_members_reading_and_come_back() {
    let app = start().await;
    let [alice, erin, frank] =
        ["alice", "erin", "frank"].map(|name| bearer(&app, &format!("user_{name}"), Some("org_acme")));
    bought(&app, 1, 5, "active").await;
    assert_eq!(standing(&app, "org_acme").await, (Some(5), 5, 5, 0));
    let stream = app.follow(&frank, "subscription { budgetAlert { alert { id } } }", json!({})).await;
    let kept = app.follow(&erin, "subscription { budgetAlert { alert { id } } }", json!({})).await;
    app.subscribed(2).await;
    let spend = "mutation { ticketCreate(input: { subject: \"Mine\" }) { ticket { id } userErrors { code } } }";
    assert_ne!(app.run(&frank, spend, json!({})).await["data"], Value::Null);

    // One seat less: who joined last reads.
    bought(&app, 2, 4, "active").await;
    assert_eq!(standing(&app, "org_acme").await, (Some(4), 5, 4, 1));
    hear(stream, &["SEAT_REQUIRED"]).await;
    assert_eq!(app.error_code(&frank, spend, json!({})).await, "SEAT_REQUIRED");
    let viewer = app.data(&frank, WAITING, json!({})).await;
    assert_eq!((&viewer["viewer"]["role"], &viewer["viewer"]["waitsForSeat"]), (&json!("VIEWER"), &json!(true)));
    assert!(!viewer.to_string().contains("TICKET_CREATE"), "{viewer}");
    app.data(&frank, "{ organization { tickets(first: 1) { nodes { id } } } }", json!({})).await;
    assert_eq!(app.data(&erin, WAITING, json!({})).await["viewer"]["waitsForSeat"], false);
    let data = app.data(&alice, ENTITLEMENTS, json!({})).await;
    assert_eq!(
        data["organization"]["seats"],
        json!({ "limit": 4, "used": 4, "free": 0, "waiting": 1, "policy": "FIXED" })
    );
    assert_eq!(entitlement(&data, "seats")["source"], "STRIPE");
    let members = app
        .data(
            &alice,
            "{ organization { members(first: 50) { nodes { role hasSeat waitsForSeat user { email } } } } }",
            json!({}),
        )
        .await;
    let of = |email: &str| {
        let nodes = members["organization"]["members"]["nodes"].as_array().expect("members");
        nodes.iter().find(|node| node["user"]["email"] == email).expect(email).clone()
    };
    assert_eq!(
        (&of("frank@example.com")["hasSeat"], &of("frank@example.com")["waitsForSeat"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(
        (&of("bob@example.com")["hasSeat"], &of("bob@example.com")["waitsForSeat"]),
        (&json!(false), &json!(false)),
        "who only reads"
    );
    assert_eq!(of("alice@example.com")["hasSeat"], true);

    // A seat that somebody leaves is the next one's.
    let dave = ids(&app, "select 'x', m.id from tenantry.organization_members m join tenantry.users u on u.id = m.user_id where u.clerk_id = 'user_dave'".to_owned()).await[0].1;
    let dave = format!("mem_{}", dave.simple());
    assert_eq!(
        payload(&app, &alice, UPDATE, json!({ "id": dave, "role": "VIEWER" })).await["member"]["hasSeat"],
        false
    );
    assert_eq!(app.data(&frank, WAITING, json!({})).await["viewer"]["waitsForSeat"], false);
    let refused = payload(&app, &alice, UPDATE, json!({ "id": dave, "role": "MEMBER" })).await;
    assert_eq!(codes(&refused), ["SEATS_EXHAUSTED"]);

    // Not paid for: FREE has two seats, and nobody is lost.
    bought(&app, 3, 4, "unpaid").await;
    assert_eq!(standing(&app, "org_acme").await, (Some(2), 4, 2, 2));
    assert_eq!(app.error_code(&erin, spend, json!({})).await, "SEAT_REQUIRED");
    hear(kept, &["SEAT_REQUIRED"]).await;
    bought(&app, 4, 9, "active").await;
    assert_eq!(standing(&app, "org_acme").await, (Some(9), 4, 4, 0));
    assert_ne!(app.run(&erin, spend, json!({})).await["data"], Value::Null);
    let log: Vec<(String, i64)> = sqlx::query_as("select metadata #>> '{after,seat}', count(*) from tenantry.audit_logs where action = 'member.seat' group by 1 order by 1")
        .fetch_all(&mut app.database.system().await)
        .await
        .expect("the log");
    assert_eq!(log, [("false".to_owned(), 3), ("true".to_owned(), 3)]);
    assert_eq!(
        tenantry::verify::verify(&app.database.db())
            .await
            .expect("checks")
            .iter()
            .filter(|finding| finding.check == "seats")
            .count(),
        0
    );
}

#[tokio::test]
async fn entitlements_say_what_there_is_and_what_would_give_more() {
    let app = start().await;
    let alice = bearer(&app, "user_alice", Some("org_acme"));
    app.sql("update tenantry.budgets set archived_at = now(); update tenantry.subscriptions set plan = 'STARTER', status = 'TRIALING', seat_count = 1").await;
    let data = app.data(&alice, ENTITLEMENTS, json!({})).await;
    assert_eq!(
        entitlement(&data, "budgets"),
        &json!({ "key": "budgets", "enabled": true, "limit": 3, "used": 0, "remaining": 3, "source": "TRIAL", "expiresAt": null, "unlockedBy": "PRO" })
    );
    assert_eq!(entitlement(&data, "seats")["limit"], 4);
    assert_eq!(entitlement(&data, "seats")["remaining"], 0, "five members");
    assert_eq!(data["organization"]["seats"]["waiting"], 1);
    assert_eq!(entitlement(&data, "seats")["unlockedBy"], "PRO");
    let feature = entitlement(&data, "advanced-analytics");
    assert_eq!(
        (&feature["enabled"], &feature["limit"], &feature["unlockedBy"]),
        (&json!(false), &Value::Null, &json!("PRO"))
    );
    // A release is not what a plan gives.
    assert!(!data.to_string().contains("new-inbox"));

    // One more than the plan has room for, of many at once.
    let made = join_all((0..8).map(|_| app.data(&alice, CREATE_BUDGET, json!({})))).await;
    let made: Vec<&Value> = made.iter().map(|made| &made["budgetCreate"]).collect();
    assert_eq!(made.iter().filter(|made| codes(made).is_empty()).count(), 3, "{made:?}");
    let refused = made.iter().find(|made| !codes(made).is_empty()).expect("a refusal");
    assert_eq!(codes(refused), ["PLAN_LIMIT_REACHED"]);
    assert!(
        refused.to_string().contains("STARTER has room for 3 budgets: archive an older one, or take PRO"),
        "{refused}"
    );

    // Of a lesser plan the newest cannot be used, and nothing is deleted.
    let (spend, update) = (mutation("budgetSpend", "usageRecords { id }"), mutation("budgetUpdate", "budget { id }"));
    let budgets: Vec<String> = {
        let mut ids: Vec<String> =
            made.iter().filter_map(|made| made["budget"]["id"].as_str().map(str::to_owned)).collect();
        ids.sort();
        ids
    };
    let spending = |id: &str, key: &str| json!({ "budgetIds": [id], "amount": { "amount": "1.00", "currencyCode": "EUR" }, "source": "s", "idempotencyKey": key });
    app.sql("update tenantry.subscriptions set plan = 'FREE', status = 'CANCELED'").await;
    assert_eq!(codes(&payload(&app, &alice, &spend, spending(&budgets[0], "k0")).await), [""; 0]);
    for budget in &budgets[1..] {
        assert_eq!(
            codes(&payload(&app, &alice, &spend, spending(budget, &format!("k{budget}"))).await),
            ["PLAN_LIMIT_REACHED"]
        );
        assert_eq!(
            codes(&payload(&app, &alice, &update, json!({ "id": budget, "name": "Other" })).await),
            ["PLAN_LIMIT_REACHED"]
        );
    }
    let shown = app
        .data(
            &alice,
            "{ organization { budgets(first: 50, where: { archivedAt: { isNull: true } }) { nodes { isOverPlan } } } }",
            json!({}),
        )
        .await;
    let over = shown["organization"]["budgets"]["nodes"]
        .as_array()
        .expect("budgets")
        .iter()
        .filter(|node| node["isOverPlan"] == true)
        .count();
    assert_eq!(over, 2, "{shown}");
    // Room comes back with an archived one, or a grant.
    let archive = mutation("budgetArchive", "budget { id }");
    assert_eq!(codes(&payload(&app, &alice, &archive, json!({ "id": budgets[0] })).await), [""; 0]);
    assert_eq!(codes(&payload(&app, &alice, &spend, spending(&budgets[1], "k1")).await), [""; 0]);
    assert_eq!(codes(&payload(&app, &alice, &spend, spending(&budgets[2], "k2")).await), ["PLAN_LIMIT_REACHED"]);
    app.sql("insert into tenantry.entitlement_grants (organization_id, key, amount, reason) select id, 'budgets', 1, 'goodwill' from tenantry.organizations where slug = 'acme-corp'").await;
    assert_eq!(codes(&payload(&app, &alice, &spend, spending(&budgets[2], "k3")).await), [""; 0]);
    assert_eq!(entitlement(&app.data(&alice, ENTITLEMENTS, json!({})).await, "budgets")["source"], "GRANT");
}

#[tokio::test]
async fn entitlements_are_granted_by_operators_and_calls_are_counted() {
    let app = start().await;
    let (alice, admin) = (bearer(&app, "user_alice", Some("org_acme")), bearer(&app, "user_admin", None));
    let acme = ids(&app, "select 'x', id from tenantry.organizations where slug = 'acme-corp'".to_owned()).await[0].1;
    app.sql("update tenantry.subscriptions set plan = 'FREE', status = 'CANCELED'").await;
    assert_eq!(standing(&app, "org_acme").await, (Some(2), 5, 2, 3));
    let grant = mutation("entitlementGrantSet", "grant { amount reason expiresAt }");
    let input = |amount: i64, ends: Option<String>| json!({ "organizationId": format!("org_{}", acme.simple()), "limit": "SEATS", "amount": amount, "reason": "A pilot", "expiresAt": ends });
    assert_eq!(app.error_code(&alice, &grant, json!({ "input": input(2, None) })).await, "FORBIDDEN");
    let past = (app.clock.now() - chrono::Duration::minutes(1)).to_rfc3339();
    assert_eq!(codes(&payload(&app, &admin, &grant, input(-1, Some(past))).await), ["INVALID", "INVALID"]);
    let ends = (app.clock.now() + chrono::Duration::hours(1)).to_rfc3339();
    assert_eq!(payload(&app, &admin, &grant, input(2, Some(ends))).await["grant"]["amount"], 2);
    assert_eq!(standing(&app, "org_acme").await, (Some(4), 5, 4, 1));
    let seats = app
        .data(&alice, "{ organization { entitlement(key: \"seats\") { limit source expiresAt } } }", json!({}))
        .await;
    assert_eq!(
        (&seats["organization"]["entitlement"]["limit"], &seats["organization"]["entitlement"]["source"]),
        (&json!(4), &json!("GRANT"))
    );
    // It ends by itself.
    let later = "set session_replication_role = replica; update tenantry.entitlement_grants set expires_at = now() - interval '1 second'";
    sqlx::raw_sql(later).execute(&mut app.database.superuser().await).await.expect("a second that has passed");
    assert_eq!(standing(&app, "org_acme").await, (Some(2), 5, 4, 1), "nothing was done yet");
    app.run_job("entitlements").await;
    assert_eq!(standing(&app, "org_acme").await, (Some(2), 5, 2, 3));
    assert_eq!(payload(&app, &admin, &grant, input(0, None)).await["grant"], Value::Null);
    let log: i64 = sqlx::query_scalar("select count(*) from tenantry.audit_logs where action = 'entitlement.grant'")
        .fetch_one(&mut app.database.system().await)
        .await
        .expect("a count");
    assert_eq!(log, 2);

    // The file of the plans changes: the job follows.
    let plans =
        tenantry::plans::Plans::parse("[FREE]\nseats = 4\n[STARTER]\n[PRO]\n[ENTERPRISE]").expect("a good file");
    assert_eq!(tenantry::entitlements::publish(&app.database.db(), &plans).await.expect("written"), 3);
    assert_eq!(tenantry::entitlements::publish(&app.database.db(), &plans).await.expect("written"), 0);
    app.run_job("entitlements").await;
    assert_eq!(standing(&app, "org_acme").await, (Some(4), 5, 4, 1));

    // What superadmins see of plans.
    let shown = app.data(&admin, "{ platform { plans { plan name seats budgets apiCallsPerMonth apiCostPerMinute apiBurst prices { id isPerSeat } featureFlags { key } } } }", json!({})).await;
    let shown = shown["platform"]["plans"].as_array().expect("plans");
    assert_eq!(shown[0]["seats"], 2, "as this process has read it");
    assert_eq!(
        json!([shown[0]["apiCostPerMinute"], shown[2]["apiCostPerMinute"], shown[2]["apiBurst"]]),
        json!([null, 60_000_000, 20_000_000])
    );
    assert_eq!(shown[2]["prices"], json!([{ "id": "price_seat", "isPerSeat": true }]));
    assert_eq!(shown[3]["featureFlags"], json!([{ "key": "single-sign-on" }]));
    assert_eq!(app.error_code(&alice, "{ platform { plans { name } } }", json!({})).await, "FORBIDDEN");

    // Calls of the organization, not of who chose none; written twice, they are counted once.
    let services = &app.app.services;
    tenantry::entitlements::write_calls(services).await.expect("written");
    app.sql("delete from tenantry.api_usage").await;
    for _ in 0..7 {
        app.data(&alice, "{ organization { id } }", json!({})).await;
    }
    app.data(&admin, "{ viewer { isSuperadmin } }", json!({})).await;
    tenantry::entitlements::write_calls(services).await.expect("written");
    assert_eq!(tenantry::entitlements::write_calls(services).await.expect("nothing"), 0);
    let calls =
        app.data(&alice, "{ organization { entitlement(key: \"api_calls\") { limit used } } }", json!({})).await;
    assert_eq!(calls["organization"]["entitlement"]["used"], 7);
}
