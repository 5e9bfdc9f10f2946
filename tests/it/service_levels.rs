//! Service levels: what is promised to whom, how the clocks of a ticket run, and what is told when they run out.

use chrono::{DateTime, Duration, Utc};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{TestApp, codes, hear};

const TICKET: &str = "ticket { id version status firstResponseDueAt nextResponseDueAt resolutionDueAt nextDueAt slaBreachedAt slaPausedAt slaPolicy { name revision } slaEvents { nodes { target kind dueAt isSilent policy { name } } } escalations { nodes { reason priority assignedTo { user { email } } } } }";
const POLICY: &str = "policy { id version revision rank priorities tiers categories calendar { name } firstResponseMinutes nextResponseMinutes resolutionMinutes warningPercent onWarning onBreach archivedAt }";
const CALENDAR: &str =
    "calendar { id version name timeZone hours { day from to } holidays { date name } policies { nodes { name } } }";
const JOB: &str = "service-levels";

async fn token(app: &TestApp) -> String {
    // Time passes here as in no other test: a token for each request, and one that lasts for a stream.
    app.token_for("alice@example.com", Some("acme-corp"), Duration::hours(24)).await
}

fn shown(field: &str) -> &'static str {
    match field {
        "ticketMessageAdd" => "message { id }",
        "businessCalendarDelete" => "calendarId",
        field if field.starts_with("ticket") => TICKET,
        field if field.starts_with("sla") => POLICY,
        field if field.starts_with("business") => CALENDAR,
        "customerCreate" => "customer { id }",
        _ => "rule { id }",
    }
}

/// What must not be refused; gives what was made.
async fn done(app: &TestApp, field: &str, input: Value) -> Value {
    let answer = app.done(&token(app).await, field, shown(field), input).await;
    answer.as_object().expect("a payload").values().next().expect("a row").clone()
}

async fn refused(app: &TestApp, field: &str, input: Value) -> Vec<(String, String)> {
    let answer = app.mutate(&token(app).await, field, shown(field), input.clone()).await;
    let rows = answer.as_object().expect("a payload").iter().filter(|(name, _)| *name != "userErrors");
    assert!(rows.into_iter().all(|(_, row)| row.is_null()), "{input}: {answer}");
    let errors = answer["userErrors"].as_array().expect("errors").iter();
    let path = |error: &Value| {
        let parts = error["field"].as_array().expect("a path").iter();
        parts.map(|part| part.as_str().expect("a part")).collect::<Vec<_>>().join(".")
    };
    errors.map(|error| (path(error), error["code"].as_str().expect("a code").to_owned())).collect()
}

async fn open(app: &TestApp, input: Value) -> Value {
    let mut given = json!({ "subject": "x" });
    given.as_object_mut().expect("an object").extend(input.as_object().expect("an object").clone());
    done(app, "ticketCreate", given).await
}

async fn seen(app: &TestApp, id: &Value) -> Value {
    let query = format!(
        "query($id: ID!) {{ node(id: $id) {{ ... on Ticket {{ {} }} }} }}",
        &TICKET["ticket { ".len()..TICKET.len() - 2]
    );
    app.data(&token(app).await, &query, json!({ "id": id })).await["node"].clone()
}

fn at(value: &Value) -> DateTime<Utc> {
    value.as_str().expect("a time").parse().expect("a time")
}

fn told(ticket: &Value) -> Vec<(&str, &str)> {
    let events = ticket["slaEvents"]["nodes"].as_array().expect("events").iter();
    let mut told: Vec<_> =
        events.map(|e| (e["target"].as_str().unwrap_or(""), e["kind"].as_str().unwrap_or(""))).collect();
    told.sort_unstable();
    told
}

async fn say(app: &TestApp, ticket: &Value, customer: Option<&Value>) {
    let mut input = json!({ "ticketId": ticket, "body": "x" });
    if let Some(customer) = customer {
        input["customerId"] = customer.clone();
    }
    done(app, "ticketMessageAdd", input).await;
}

async fn number(app: &TestApp, sql: &str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut app.database.system().await).await.expect(sql)
}

/// The sample data has tickets of its own; here only what a test opens counts.
async fn still(app: &TestApp) {
    app.sql("update tenantry.tickets set sla_check_at = null").await;
}

#[tokio::test]
async fn service_levels_are_found_by_rank_priority_tier_and_category() {
    let app = TestApp::start_in_still_time().await;
    let now = app.clock.now();
    let vip = done(&app, "customerCreate", json!({ "name": "v", "email": "v@example.com", "tier": "VIP" })).await;
    let policy = |name: &str, rank: i32, more: Value| {
        let mut input = json!({ "name": name, "rank": rank, "resolutionMinutes": rank });
        input.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        input
    };
    for input in [
        policy("all", 900, json!({})),
        policy("billing", 500, json!({ "categories": ["BILLING"], "firstResponseMinutes": 30 })),
        policy("vip", 5, json!({ "tiers": ["VIP"] })),
        policy("urgent", 400, json!({ "priorities": ["URGENT", "HIGH", "URGENT"] })),
    ] {
        let made = done(&app, "slaPolicyCreate", input.clone()).await;
        assert_eq!((&made["revision"], &made["onBreach"]), (&json!(1), &json!("EVENT")), "{input}");
    }
    for (input, name, minutes) in [
        (json!({}), "all", 900),
        (json!({ "category": "BILLING" }), "billing", 500),
        (json!({ "category": "BILLING", "priority": "HIGH" }), "urgent", 400),
        (json!({ "category": "BILLING", "priority": "HIGH", "customerId": vip["id"] }), "vip", 5),
    ] {
        let ticket = open(&app, input.clone()).await;
        assert_eq!(ticket["slaPolicy"]["name"], name, "{input}");
        assert_eq!(at(&ticket["resolutionDueAt"]), now + Duration::minutes(minutes), "{input}");
    }
    // Of what a ticket was promised, the used part counts for the next promise.
    let ticket = open(&app, json!({})).await["id"].clone();
    app.clock.advance(Duration::minutes(100));
    let changed = done(&app, "ticketUpdate", json!({ "id": ticket, "category": "BILLING" })).await;
    assert_eq!(changed["slaPolicy"]["name"], "billing");
    assert_eq!(at(&changed["resolutionDueAt"]), now + Duration::minutes(500));
    // A clock that did not run before begins when it is promised.
    assert_eq!(at(&changed["firstResponseDueAt"]), now + Duration::minutes(130));
    // An archived policy is found no more; whoever is under it stays so.
    let all =
        number(&app, "select count(*) from tenantry.sla_policies where name = 'all' and archived_at is null").await;
    assert_eq!(all, 1);
    let data = app.data(&token(&app).await, "{ organization { slaPolicies { nodes { id name } } } }", json!({})).await;
    for node in data["organization"]["slaPolicies"]["nodes"].as_array().expect("policies") {
        done(&app, "slaPolicyUpdate", json!({ "id": node["id"], "isArchived": true })).await;
    }
    let after = done(&app, "ticketUpdate", json!({ "id": ticket, "status": "OPEN" })).await;
    assert_eq!(after["slaPolicy"]["name"], "billing");
    let built_in = open(&app, json!({ "priority": "URGENT" })).await;
    assert_eq!(
        (&built_in["slaPolicy"], at(&built_in["resolutionDueAt"])),
        (&Value::Null, app.clock.now() + Duration::hours(8))
    );
}

#[tokio::test]
async fn service_levels_pause_resume_and_start_again_with_each_question() {
    let app = TestApp::start_in_still_time().await;
    let whose = done(&app, "customerCreate", json!({ "name": "c", "email": "c@example.com" })).await["id"].clone();
    let start = app.clock.now();
    let hours = |hours: i64| start + Duration::hours(hours);
    let ticket = open(&app, json!({ "customerId": whose })).await;
    let id = ticket["id"].clone();
    assert_eq!((at(&ticket["firstResponseDueAt"]), at(&ticket["resolutionDueAt"])), (hours(8), hours(72)));
    assert_eq!(at(&ticket["nextDueAt"]), hours(8));
    // The customer adds something: the first response is due still, and nothing else.
    app.clock.advance(Duration::hours(1));
    say(&app, &id, Some(&whose)).await;
    assert_eq!(seen(&app, &id).await["nextResponseDueAt"], Value::Null);
    app.clock.advance(Duration::hours(1));
    say(&app, &id, None).await;
    let answered = seen(&app, &id).await;
    assert_eq!((at(&answered["firstResponseDueAt"]), at(&answered["nextDueAt"])), (hours(8), hours(72)));
    // A question, five hours on hold, another question, an answer.
    app.clock.advance(Duration::hours(1));
    say(&app, &id, Some(&whose)).await;
    assert_eq!(at(&seen(&app, &id).await["nextResponseDueAt"]), hours(11));
    app.clock.advance(Duration::hours(1));
    let held = done(&app, "ticketUpdate", json!({ "id": id, "status": "ON_HOLD" })).await;
    assert_eq!((&held["nextDueAt"], at(&held["slaPausedAt"])), (&Value::Null, hours(4)));
    app.clock.advance(Duration::hours(5));
    say(&app, &id, Some(&whose)).await;
    let resumed = done(&app, "ticketUpdate", json!({ "id": id, "status": "OPEN" })).await;
    assert_eq!((at(&resumed["nextResponseDueAt"]), at(&resumed["resolutionDueAt"])), (hours(16), hours(77)));
    say(&app, &id, None).await;
    assert_eq!(seen(&app, &id).await["nextResponseDueAt"], Value::Null);
    // Resolved for ten hours, then the customer writes: what was left is left, and an answer is due.
    done(&app, "ticketUpdate", json!({ "id": id, "status": "RESOLVED" })).await;
    app.clock.advance(Duration::hours(10));
    say(&app, &id, Some(&whose)).await;
    let again = seen(&app, &id).await;
    assert_eq!(again["status"], "OPEN");
    assert_eq!((at(&again["nextResponseDueAt"]), at(&again["resolutionDueAt"])), (hours(27), hours(87)));
    assert_eq!(at(&again["nextDueAt"]), hours(27));
}

#[tokio::test]
async fn service_levels_warn_and_breach_once_and_escalate() {
    let app = TestApp::start_in_still_time().await;
    still(&app).await;
    let carol = app.data(&token(&app).await, "{ organization { representatives { nodes { id } } } }", json!({})).await;
    let carol = &carol["organization"]["representatives"]["nodes"][0]["id"];
    let rule = json!({ "name": "late", "reason": "SLA_BREACH", "assigneeId": carol });
    done(&app, "escalationRuleCreate", rule).await;
    let input = json!({ "name": "p", "rank": 1, "firstResponseMinutes": 60, "resolutionMinutes": 600, "warningPercent": 75,
                        "onWarning": "EVENT", "onBreach": "BOTH" });
    done(&app, "slaPolicyCreate", input).await;
    let query = "subscription { slaEventOccurred { event { target kind ticket { subject } } } }";
    let stream = app.follow(&token(&app).await, query, json!({})).await;
    app.subscribed(1).await;
    let id = open(&app, json!({ "subject": "late", "priority": "HIGH" })).await["id"].clone();
    app.run_job(JOB).await;
    assert_eq!(told(&seen(&app, &id).await), []);
    app.clock.advance(Duration::minutes(45));
    app.run_job(JOB).await;
    let warned = seen(&app, &id).await;
    assert_eq!((told(&warned), &warned["slaBreachedAt"]), (vec![("FIRST_RESPONSE", "WARNING")], &Value::Null));
    app.run_job(JOB).await;
    app.clock.advance(Duration::minutes(15));
    let before = seen(&app, &id).await;
    // However many look at once.
    let jobs = (0..6).map(|_| tenantry::sla::watch(&app.app.services.db, &app.clock));
    assert!(join_all(jobs).await.iter().all(Result::is_ok));
    app.run_job(JOB).await;
    let late = seen(&app, &id).await;
    assert_eq!(told(&late), [("FIRST_RESPONSE", "BREACH"), ("FIRST_RESPONSE", "WARNING")]);
    assert_eq!(at(&late["slaBreachedAt"]), at(&late["firstResponseDueAt"]));
    assert_eq!(late["version"].as_i64(), before["version"].as_i64().map(|version| version + 1));
    let escalation = &late["escalations"]["nodes"][0];
    assert_eq!((&escalation["reason"], &escalation["priority"]), (&json!("SLA_BREACH"), &json!("HIGH")));
    assert!(escalation["assignedTo"]["user"]["email"].is_string(), "the rule says who gets it: {escalation}");
    // Answered too late is late once; the resolution is another promise, and another escalation waits for the first to end.
    say(&app, &id, None).await;
    app.clock.advance(Duration::minutes(540));
    app.run_job(JOB).await;
    app.clock.advance(Duration::days(30));
    app.run_job(JOB).await;
    let late = seen(&app, &id).await;
    assert_eq!(told(&late).len(), 3, "no warning of what is late already: {late}");
    assert_eq!(late["escalations"]["nodes"].as_array().map(Vec::len), Some(1));
    let logged = "select count(*) from tenantry.audit_logs where action in ('ticket.sla_warning', 'ticket.sla_breach', 'ticket.escalate')";
    assert_eq!(number(&app, logged).await, 4);
    assert_eq!(number(&app, "select count(*) from tenantry.tickets where sla_check_at is not null").await, 0);
    // Subscribers heard of each.
    let happened = [("FIRST_RESPONSE", "WARNING"), ("FIRST_RESPONSE", "BREACH"), ("RESOLUTION", "BREACH")]
        .map(|(target, kind)| format!(r#""target":"{target}","kind":"{kind}","ticket":{{"subject":"late"}}"#));
    hear(stream, &happened.each_ref().map(String::as_str)).await;
}

#[tokio::test]
async fn service_levels_that_change_take_running_clocks_along() {
    let app = TestApp::start_in_still_time().await;
    still(&app).await;
    let start = app.clock.now();
    let minutes = |minutes: i64| start + Duration::minutes(minutes);
    let all_day = |day: &str| json!({ "day": day, "from": "00:00", "to": "24:00" });
    let week = ["MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY"];
    let always: Vec<Value> = week.iter().map(|day| all_day(day)).collect();
    let input = json!({ "name": "c", "timeZone": "Asia/Kathmandu", "hours": always });
    let calendar = done(&app, "businessCalendarCreate", input).await["id"].clone();
    let input = json!({ "name": "p", "rank": 1, "firstResponseMinutes": 100, "resolutionMinutes": 1000, "calendarId": calendar });
    let policy = done(&app, "slaPolicyCreate", input).await["id"].clone();
    let (running, held) = (open(&app, json!({})).await, open(&app, json!({})).await);
    let (running, held) = (running["id"].clone(), held["id"].clone());
    app.clock.advance(Duration::minutes(40));
    done(&app, "ticketUpdate", json!({ "id": held, "status": "ON_HOLD" })).await;
    // Twice before anything looks, the second time at minute 50.
    done(&app, "slaPolicyUpdate", json!({ "id": policy, "firstResponseMinutes": 70 })).await;
    app.clock.advance(Duration::minutes(10));
    let changed =
        done(&app, "slaPolicyUpdate", json!({ "id": policy, "firstResponseMinutes": 80, "resolutionMinutes": null }))
            .await;
    assert_eq!(changed["revision"], 3);
    app.clock.advance(Duration::minutes(5));
    app.run_job(JOB).await;
    let seen_running = seen(&app, &running).await;
    assert_eq!(at(&seen_running["firstResponseDueAt"]), minutes(80));
    assert_eq!((&seen_running["resolutionDueAt"], &seen_running["slaPolicy"]["revision"]), (&Value::Null, &json!(3)));
    // The one on hold goes on at minute 55 with 40 of 80 minutes used.
    let resumed = done(&app, "ticketUpdate", json!({ "id": held, "status": "OPEN" })).await;
    assert_eq!(at(&resumed["firstResponseDueAt"]), minutes(95));
    // A change of the name or the rank changes no promise.
    let renamed = done(&app, "slaPolicyUpdate", json!({ "id": policy, "name": "q", "rank": 2 })).await;
    assert_eq!(renamed["revision"], 3);
    // Today and the days around it become holidays at minute 55: time stands still for the next days, whoever comes first.
    let days: Vec<Value> = (-2..4)
        .map(|day| json!({ "date": (start + Duration::days(day)).date_naive().to_string(), "name": "free" }))
        .collect();
    done(&app, "businessCalendarUpdate", json!({ "id": calendar, "holidays": days })).await;
    let touched = done(&app, "ticketUpdate", json!({ "id": held, "status": "PENDING_CUSTOMER" })).await;
    assert_eq!(touched["slaPolicy"]["revision"], 4);
    app.run_job(JOB).await;
    let due = at(&seen(&app, &running).await["firstResponseDueAt"]);
    assert!(due > start + Duration::days(2) && due < start + Duration::days(6), "{due}");
    assert_eq!(
        due.timestamp() - 25 * 60,
        due.timestamp() / 86400 * 86400 + 18 * 3600 + 15 * 60,
        "25 minutes after midnight in Kathmandu"
    );
    assert_eq!(
        number(
            &app,
            "select count(*) from tenantry.sla_revisions where superseded_at is not null and drained_at is null"
        )
        .await,
        0
    );
    assert_eq!(
        number(&app, "select count(*) from tenantry.tickets t where sla_revision is not null and sla_revision < 4")
            .await,
        0
    );
    app.clock.advance(Duration::days(1));
    app.run_job(JOB).await;
    assert_eq!(told(&seen(&app, &running).await), []);
}

#[tokio::test]
async fn service_levels_keep_quiet_about_what_was_late_before() {
    let app = TestApp::start_in_still_time().await;
    still(&app).await;
    app.sql(
        "insert into tenantry.tickets (organization_id, id, number, subject, priority, status, first_response_due_at, resolution_due_at, created_at, resolved_at, sla_paused_at)
         select o.id, gen_random_uuid(), 1000 + n, 'old', 'URGENT', (array['OPEN', 'ON_HOLD', 'RESOLVED'])[n]::tenantry.ticket_status,
                now() - interval '10 years' + interval '1 hour', now() - interval '10 years' + interval '8 hours', now() - interval '10 years',
                case when n = 3 then now() - interval '9 years' end, case when n = 2 then now() - interval '9 years' end
           from tenantry.organizations o, generate_series(1, 3) n where o.slug = 'acme-corp'",
    )
    .await;
    let stamp = "select sum(version) from tenantry.tickets where subject = 'old'";
    let before = number(&app, stamp).await;
    app.run_job(JOB).await;
    assert_eq!(number(&app, stamp).await, before);
    assert_eq!(number(&app, "select count(*) from tenantry.sla_events where is_silent and kind = 'BREACH'").await, 2);
    assert_eq!(number(&app, "select count(*) from tenantry.audit_logs where action like 'ticket.sla_%'").await, 0);
    assert_eq!(
        number(&app, "select count(*) from tenantry.tickets where subject = 'old' and sla_check_at is null").await,
        3
    );
    // From then on they are tickets like others: reopened after years, the answer is as late as it was.
    let query = "{ organization { tickets(where: { number: { eq: 1003 } }) { nodes { id } } } }";
    let id = app.data(&token(&app).await, query, json!({})).await["organization"]["tickets"]["nodes"][0]["id"].clone();
    let opened = done(&app, "ticketUpdate", json!({ "id": id, "status": "OPEN", "priority": "LOW" })).await;
    app.run_job(JOB).await;
    assert!(at(&opened["resolutionDueAt"]) < app.clock.now());
    assert_eq!(told(&seen(&app, &id).await), [("FIRST_RESPONSE", "BREACH"), ("RESOLUTION", "BREACH")]);
    let late = app
        .data(
            &token(&app).await,
            "{ organization { tickets(where: { slaBreachedAt: { isNull: false } }) { nodes { number } } } }",
            json!({}),
        )
        .await;
    assert_eq!(late["organization"]["tickets"]["nodes"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn service_levels_refuse_what_cannot_be() {
    let app = TestApp::start().await;
    let day = |from: &str, to: &str| json!([{ "day": "MONDAY", "from": from, "to": to }]);
    let calendar = |zone: &str, hours: Value| json!({ "name": "x", "timeZone": zone, "hours": hours });
    let overlapping = json!([{ "day": "FRIDAY", "from": "09:00", "to": "12:00" }, { "day": "FRIDAY", "from": "11:59", "to": "13:00" }]);
    let many: Vec<Value> =
        (0..11).map(|n| json!({ "day": "FRIDAY", "from": format!("{n:02}:00"), "to": format!("{n:02}:30") })).collect();
    let holidays =
        |days: Value| json!({ "name": "x", "timeZone": "UTC", "hours": day("09:00", "10:00"), "holidays": days });
    let too_many: Vec<Value> = (0..1001).map(|_| json!({ "date": "2027-01-01" })).collect();
    for (input, field, code) in [
        (calendar("Mars/Olympus", day("09:00", "10:00")), "input.timeZone", "INVALID"),
        (calendar("EST5EDT", day("09:00", "10:00")), "input.timeZone", "INVALID"),
        (calendar("Europe/Berlin; drop table", day("09:00", "10:00")), "input.timeZone", "INVALID"),
        (calendar("UTC", json!([])), "input.hours", "INVALID"),
        (calendar("UTC", day("10:00", "10:00")), "input.hours.0.to", "INVALID"),
        (calendar("UTC", day("22:00", "06:00")), "input.hours.0.to", "INVALID"),
        (calendar("UTC", day("9:00", "10:00")), "input.hours.0.from", "INVALID"),
        (calendar("UTC", day("09:60", "10:00")), "input.hours.0.from", "INVALID"),
        (calendar("UTC", day("09:00", "24:01")), "input.hours.0.to", "INVALID"),
        (calendar("UTC", day("+9:00", "10:00")), "input.hours.0.from", "INVALID"),
        (calendar("UTC", overlapping), "input.hours.1.from", "INVALID"),
        (calendar("UTC", json!(many)), "input.hours", "TOO_LONG"),
        (holidays(json!([{ "date": "2027-02-29" }])), "input.holidays.0.date", "INVALID"),
        (holidays(json!([{ "date": "1/2/2027" }])), "input.holidays.0.date", "INVALID"),
        (holidays(json!([{ "date": "+2027-01-01" }])), "input.holidays.0.date", "INVALID"),
        (holidays(json!([{ "date": "2027-01-01" }, { "date": "2027-01-01" }])), "input.holidays.1.date", "INVALID"),
        (holidays(json!(too_many)), "input.holidays", "TOO_LONG"),
        (json!({ "name": " ", "timeZone": "UTC", "hours": day("09:00", "10:00") }), "input.name", "BLANK"),
    ] {
        let errors = refused(&app, "businessCalendarCreate", input.clone()).await;
        assert_eq!(errors, [(field.to_owned(), code.to_owned())], "{input}");
    }
    let little = done(&app, "businessCalendarCreate", calendar("UTC", day("09:00", "09:01"))).await["id"].clone();
    let policy = |more: Value| {
        let mut input = json!({ "name": "x", "rank": 1 });
        input.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        input
    };
    for (input, field, code) in [
        (policy(json!({ "rank": -1 })), "input.rank", "INVALID"),
        (policy(json!({ "firstResponseMinutes": 0 })), "input.firstResponseMinutes", "INVALID"),
        (policy(json!({ "resolutionMinutes": -5 })), "input.resolutionMinutes", "INVALID"),
        (policy(json!({ "nextResponseMinutes": 527_041 })), "input.nextResponseMinutes", "INVALID"),
        (policy(json!({ "warningPercent": 100 })), "input.warningPercent", "INVALID"),
        (policy(json!({ "calendarId": little, "resolutionMinutes": 2000 })), "input.resolutionMinutes", "INVALID"),
        (policy(json!({ "calendarId": "bca_00000000000070008000000000000000" })), "input.calendarId", "NOT_FOUND"),
    ] {
        let errors = refused(&app, "slaPolicyCreate", input.clone()).await;
        assert_eq!(errors, [(field.to_owned(), code.to_owned())], "{input}");
    }
    let made = done(&app, "slaPolicyCreate", policy(json!({ "calendarId": little, "resolutionMinutes": 915 }))).await;
    let id = made["id"].clone();
    for (field, input, path, code) in [
        (
            "slaPolicyUpdate",
            json!({ "id": id, "expectedVersion": 7, "rank": 2 }),
            "input.expectedVersion",
            "VERSION_CONFLICT",
        ),
        ("slaPolicyUpdate", json!({ "id": id, "resolutionMinutes": 2000 }), "input.resolutionMinutes", "INVALID"),
        (
            "businessCalendarUpdate",
            json!({ "id": little, "expectedVersion": 7 }),
            "input.expectedVersion",
            "VERSION_CONFLICT",
        ),
        ("businessCalendarDelete", json!({ "id": little }), "input.id", "CONFLICT"),
    ] {
        assert_eq!(refused(&app, field, input).await, [(path.to_owned(), code.to_owned())]);
    }
    // A calendar that leaves its policy too few hours, and one that can be tried.
    let few: Vec<Value> = (0..1000)
        .map(|week| json!({ "date": (DateTime::<Utc>::UNIX_EPOCH + Duration::days(57 * 365 + week)).date_naive().to_string() }))
        .collect();
    let errors = refused(&app, "businessCalendarUpdate", json!({ "id": little, "holidays": few })).await;
    assert_eq!(errors, [("input.hours".to_owned(), "INVALID".to_owned())]);
    assert_eq!(number(&app, "select count(*) from tenantry.sla_revisions r join tenantry.sla_policies p on p.id = r.policy_id where p.name = 'x'").await, 1);
    let query = "query($id: ID!) { node(id: $id) { ... on BusinessCalendar { isOpen(at: \"2027-01-04T09:00:30Z\") dueAt(from: \"2027-01-04T09:00:00Z\", minutes: 2) never: dueAt(from: \"2027-01-04T09:00:00Z\", minutes: 527040) far: dueAt(from: \"+262000-01-01T00:00:00Z\", minutes: 1) } } }";
    let tried = app.data(&token(&app).await, query, json!({ "id": little })).await["node"].clone();
    assert_eq!(
        (&tried["isOpen"], at(&tried["dueAt"]).to_rfc3339()),
        (&json!(true), "2027-01-11T09:01:00+00:00".to_owned())
    );
    assert_eq!(tried["never"], Value::Null);
    let code =
        app.error_code(&token(&app).await, &query.replace("minutes: 2)", "minutes: 0)"), json!({ "id": little })).await;
    assert_eq!(code, "INVALID_ARGUMENT");
    let alice = token(&app).await;
    let many = join_all(
        (0..120).map(|rank| app.mutate(&alice, "slaPolicyCreate", POLICY, json!({ "name": "n", "rank": rank }))),
    )
    .await;
    assert_eq!(many.iter().filter(|answer| codes(answer) == ["TOO_LONG"]).count(), 22, "98 beside two that were there");
}
