//! Agents and decision rules: who may write them, what is refused, who decides, and what a test says.

use std::sync::Arc;

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tenantry::access::OrganizationRef;
use tenantry::agents::DecisionAction::{self, AutoApprove, Deny, Escalate, RequireApproval};
use tenantry::agents::{Decision, RefundFacts, RefundRequest, decide_refund};
use tenantry::db::TenantTx;
use tenantry::id::CustomerId;

use crate::support::{TestApp, codes};

const AGENT: &str = "agent { id status version thresholds dataSources description decisionRules(first: 100, orderBy: [{ field: RANK, direction: ASC }]) { nodes { id name rank version } } }";
const RULE: &str = "rule { id name rank conditions action currency enabled version }";

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

async fn alice(app: &TestApp) -> String {
    app.token("alice@example.com", Some("acme-corp")).await
}

async fn bob(app: &TestApp) -> String {
    app.token("bob@example.com", Some("tech-startup")).await
}

async fn count(app: &TestApp, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut app.database.system().await).await.expect("a count")
}

/// Makes an active agent of type REFUND; its id.
async fn agent(app: &TestApp, token: &str, thresholds: Value) -> String {
    let input = json!({ "name": "Refunds", "type": "REFUND", "thresholds": thresholds });
    let id = text(&app.done(token, "agentCreate", AGENT, input).await["agent"]["id"]);
    app.done(token, "agentUpdate", AGENT, json!({ "id": id, "status": "ACTIVE" })).await;
    id
}

/// Makes a rule; its payload. `more` is merged into the input.
async fn rule(app: &TestApp, token: &str, agent: &str, conditions: Value, action: &str, more: Value) -> Value {
    let mut input = json!({ "agentId": agent, "name": action, "conditions": conditions, "action": action });
    for (name, value) in more.as_object().into_iter().flatten() {
        input[name] = value.clone();
    }
    app.mutate(token, "decisionRuleCreate", RULE, input).await
}

/// Names and ranks of an agent's rules, in their order.
async fn order(app: &TestApp, token: &str, agent: &str) -> Vec<(String, i64)> {
    let document = format!(
        "query($id: ID!) {{ node(id: $id) {{ ... on AgentConfiguration {{ {} }} }} }}",
        &AGENT[8..AGENT.len() - 2]
    );
    let data = app.data(token, &document, json!({ "id": agent })).await;
    let rules = data["node"]["decisionRules"]["nodes"].as_array().expect("rules").clone();
    rules.iter().map(|rule| (text(&rule["name"]), rule["rank"].as_i64().expect("a rank"))).collect()
}

fn named(names: &[(&str, i64)]) -> Vec<(String, i64)> {
    names.iter().map(|(name, rank)| ((*name).to_owned(), *rank)).collect()
}

#[tokio::test]
async fn decisions_agents_and_rules_are_made_changed_ordered_and_deleted() {
    let app = TestApp::start().await;
    let token = alice(&app).await;
    let input = json!({ "name": " Refunds ", "type": "REFUND", "thresholds": { "low": 5000 }, "modelSettings": { "model": "small" },
                        "dataSources": ["refunds"], "idempotencyKey": "agent" });
    let made = app.done(&token, "agentCreate", AGENT, input.clone()).await;
    assert_eq!(app.done(&token, "agentCreate", AGENT, input).await["agent"]["id"], made["agent"]["id"], "made once");
    let id = text(&made["agent"]["id"]);
    let status = async |status: &str| {
        let answer = app.mutate(&token, "agentUpdate", AGENT, json!({ "id": id, "status": status })).await;
        codes(&answer).first().map_or_else(|| text(&answer["agent"]["status"]), |code| (*code).to_owned())
    };
    assert_eq!(made["agent"]["status"], "DRAFT");
    for (to, expected) in [
        ("PAUSED", "INVALID_TRANSITION"),
        ("ACTIVE", "ACTIVE"),
        ("RETIRED", "INVALID_TRANSITION"),
        ("PAUSED", "PAUSED"),
        ("DRAFT", "INVALID_TRANSITION"),
        ("ACTIVE", "ACTIVE"),
    ] {
        assert_eq!(status(to).await, expected, "to {to}");
    }

    for (name, rank) in [("a", json!(null)), ("b", json!(null)), ("c", json!(10))] {
        let made = rule(&app, &token, &id, json!(true), "DENY", json!({ "name": name, "rank": rank })).await;
        assert_eq!(codes(&made), [] as [&str; 0], "{made}");
    }
    assert_eq!(order(&app, &token, &id).await, named(&[("c", 10), ("a", 11), ("b", 21)]), "made room");
    let data = app.data(&token, "query($id: ID!) { node(id: $id) { ... on AgentConfiguration { version decisionRules { nodes { id name version } } } } }", json!({ "id": id })).await;
    let rules = data["node"]["decisionRules"]["nodes"].clone();
    let [c, a, b] = [0, 1, 2].map(|place| text(&rules[place]["id"]));
    // Behind itself, onto the place of another: all in one statement.
    app.done(&token, "decisionRuleUpdate", RULE, json!({ "id": a, "rank": 21 })).await;
    assert_eq!(order(&app, &token, &id).await, named(&[("c", 10), ("a", 21), ("b", 22)]));
    let version = data["node"]["version"].clone();
    let new = json!({ "agentId": id, "ruleIds": [b, c, a], "expectedVersion": version });
    app.done(&token, "decisionRulesReorder", AGENT, new.clone()).await;
    assert_eq!(order(&app, &token, &id).await, named(&[("b", 10), ("c", 20), ("a", 30)]));
    assert_eq!(codes(&app.mutate(&token, "decisionRulesReorder", AGENT, new).await), ["VERSION_CONFLICT"]);

    let change = json!({ "id": a, "conditions": { "<=": [{ "var": "amountMinor" }, { "var": "threshold.low" }] }, "currency": "EUR",
                         "action": "AUTO_APPROVE", "enabled": false, "name": "small" });
    let changed = app.done(&token, "decisionRuleUpdate", RULE, change).await["rule"].clone();
    assert_eq!(
        (&changed["currency"], &changed["enabled"], &changed["action"]),
        (&json!("EUR"), &json!(false), &json!("AUTO_APPROVE"))
    );
    // The threshold is read now, by a rule that is switched off.
    let less = json!({ "id": id, "thresholds": { "high": 9 } });
    let refused = app.mutate(&token, "agentUpdate", AGENT, less).await;
    assert_eq!(codes(&refused), ["CONFLICT"]);
    assert!(text(&refused["userErrors"][0]["message"]).contains("\"small\" reads the threshold `low`"), "{refused}");
    app.done(
        &token,
        "agentUpdate",
        AGENT,
        json!({ "id": id, "thresholds": { "low": 7000, "high": 9 }, "description": "x" }),
    )
    .await;
    let stale = json!({ "id": a, "expectedVersion": 1 });
    assert_eq!(codes(&app.mutate(&token, "decisionRuleDelete", "ruleId", stale).await), ["VERSION_CONFLICT"]);
    assert_eq!(app.done(&token, "decisionRuleDelete", "ruleId", json!({ "id": a })).await["ruleId"], json!(a));
    assert_eq!(order(&app, &token, &id).await, named(&[("b", 10), ("c", 20)]));

    app.done(&token, "agentUpdate", AGENT, json!({ "id": id, "status": "PAUSED" })).await;
    app.done(&token, "agentUpdate", AGENT, json!({ "id": id, "status": "RETIRED" })).await;
    let retired = [
        app.mutate(&token, "agentUpdate", AGENT, json!({ "id": id, "name": "x" })).await,
        app.mutate(&token, "decisionRuleUpdate", RULE, json!({ "id": b, "enabled": false })).await,
        app.mutate(&token, "decisionRuleDelete", "ruleId", json!({ "id": b })).await,
        rule(&app, &token, &id, json!(true), "DENY", json!({})).await,
    ];
    assert!(retired.iter().all(|answer| codes(answer) == ["INVALID_TRANSITION"]), "{retired:?}");
    let actions =
        "query($where: AuditLogFilter) { organization { auditLogs(where: $where) { nodes { action metadata } } } }";
    let of = json!({ "where": { "action": { "in": ["decision_rule.update", "decision_rule.reorder", "decision_rule.delete"] } } });
    let rows = app.data(&token, actions, of).await["organization"]["auditLogs"]["nodes"].clone();
    let actions: Vec<&str> = rows.as_array().expect("rows").iter().filter_map(|row| row["action"].as_str()).collect();
    assert_eq!(
        actions,
        ["decision_rule.delete", "decision_rule.update", "decision_rule.reorder", "decision_rule.update"]
    );
    assert_eq!(rows[1]["metadata"]["before"]["conditions"], json!(true), "{rows}");
}

/// The ids that bad inputs name.
struct Ids<'a> {
    own: &'a str,
    kept: &'a str,
    used: &'a str,
    triage: &'a str,
    foreign_agent: &'a str,
    foreign: &'a str,
}

/// A mutation and its input, and the path and the code of the error.
type Bad = (&'static str, Value, &'static str, &'static str);

fn with(agent: &str, conditions: Value) -> Value {
    let mut input = json!({ "agentId": agent, "name": "x", "action": "AUTO_APPROVE" });
    input["conditions"] = conditions;
    input
}

fn merged(mut input: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().into_iter().flatten() {
        input[name] = value.clone();
    }
    input
}

fn bad_rules(ids: &Ids<'_>) -> Vec<Bad> {
    let deep = (0..17).fold(json!(true), |inner, _| json!({ "!": [inner] }));
    let amount = json!({ "<": [{ "var": "amountMinor" }, 5] });
    vec![
        (
            "decisionRuleCreate",
            with(ids.own, json!({ "==": [{ "var": "customer.salary" }, 1] })),
            "conditions",
            "INVALID",
        ),
        (
            "decisionRuleCreate",
            with(ids.own, json!({ "==": [{ "var": "customer.tier" }, "GOLD"] })),
            "conditions",
            "INVALID",
        ),
        ("decisionRuleCreate", with(ids.own, json!({ "map": [[1, 2], true] })), "conditions", "INVALID"),
        (
            "decisionRuleCreate",
            with(ids.own, json!({ "<": [{ "var": "threshold.none" }, 5] })),
            "conditions",
            "INVALID",
        ),
        (
            "decisionRuleCreate",
            with(ids.own, json!({ "<": [{ "var": "amountMinor" }, 1e18] })),
            "conditions",
            "INVALID",
        ),
        ("decisionRuleCreate", with(ids.own, json!("yes")), "conditions", "INVALID"),
        ("decisionRuleCreate", with(ids.own, deep.clone()), "conditions", "TOO_LONG"),
        ("decisionRuleCreate", with(ids.own, json!({ "and": vec![true; 300] })), "conditions", "TOO_LONG"),
        (
            "decisionRuleCreate",
            with(ids.own, json!({ "==": [{ "var": "currency" }, "x".repeat(20_000)] })),
            "conditions",
            "TOO_LONG",
        ),
        ("decisionRuleCreate", with(ids.own, amount.clone()), "currency", "BLANK"),
        (
            "decisionRuleCreate",
            merged(with(ids.own, amount.clone()), &json!({ "currency": "XXX" })),
            "currency",
            "INVALID",
        ),
        ("decisionRuleCreate", merged(with(ids.own, json!(true)), &json!({ "rank": -1 })), "rank", "INVALID"),
        ("decisionRuleCreate", merged(with(ids.own, json!(true)), &json!({ "rank": 1_000_001 })), "rank", "INVALID"),
        ("decisionRuleCreate", merged(with(ids.own, json!(true)), &json!({ "name": "  " })), "name", "BLANK"),
        (
            "decisionRuleCreate",
            merged(with(ids.own, json!(true)), &json!({ "name": "x".repeat(201) })),
            "name",
            "TOO_LONG",
        ),
        (
            "decisionRuleCreate",
            merged(with(ids.own, json!(true)), &json!({ "agentId": ids.foreign_agent })),
            "agentId",
            "NOT_FOUND",
        ),
        (
            "decisionRuleCreate",
            merged(with(ids.own, json!(true)), &json!({ "agentId": ids.triage })),
            "agentId",
            "INVALID",
        ),
        ("decisionRuleUpdate", json!({ "id": ids.foreign, "enabled": false }), "id", "NOT_FOUND"),
        (
            "decisionRuleUpdate",
            json!({ "id": ids.kept, "enabled": false, "expectedVersion": 7 }),
            "expectedVersion",
            "VERSION_CONFLICT",
        ),
        ("decisionRuleUpdate", json!({ "id": ids.kept, "conditions": amount }), "currency", "BLANK"),
        (
            "decisionRuleUpdate",
            json!({ "id": ids.kept, "rank": 30, "conditions": { "var": "x" } }),
            "conditions",
            "INVALID",
        ),
    ]
}

fn bad_orders_and_agents(ids: &Ids<'_>) -> Vec<Bad> {
    let many: serde_json::Map<String, Value> = (0..51).map(|n| (format!("t{n}"), json!(1))).collect();
    vec![
        ("decisionRulesReorder", json!({ "agentId": ids.own, "ruleIds": [] }), "ruleIds", "INVALID"),
        ("decisionRulesReorder", json!({ "agentId": ids.own, "ruleIds": [ids.foreign] }), "ruleIds/0", "NOT_FOUND"),
        (
            "decisionRulesReorder",
            json!({ "agentId": ids.own, "ruleIds": [ids.kept, ids.kept] }),
            "ruleIds/1",
            "CONFLICT",
        ),
        (
            "decisionRulesReorder",
            json!({ "agentId": ids.foreign_agent, "ruleIds": [ids.foreign] }),
            "agentId",
            "NOT_FOUND",
        ),
        ("decisionRuleDelete", json!({ "id": ids.foreign }), "id", "NOT_FOUND"),
        ("decisionRuleDelete", json!({ "id": ids.used }), "id", "CONFLICT"),
        ("agentCreate", json!({ "name": "x", "type": "REFUND", "thresholds": { "a b": 1 } }), "thresholds", "INVALID"),
        (
            "agentCreate",
            json!({ "name": "x", "type": "REFUND", "thresholds": { "low": "5" } }),
            "thresholds",
            "INVALID",
        ),
        (
            "agentCreate",
            json!({ "name": "x", "type": "REFUND", "thresholds": { "low": 1e16 } }),
            "thresholds",
            "INVALID",
        ),
        ("agentCreate", json!({ "name": "x", "type": "REFUND", "thresholds": [5] }), "thresholds", "INVALID"),
        ("agentCreate", json!({ "name": "x", "type": "REFUND", "thresholds": many }), "thresholds", "TOO_LONG"),
        ("agentCreate", json!({ "name": "x", "type": "REFUND", "modelSettings": [] }), "modelSettings", "INVALID"),
        (
            "agentCreate",
            json!({ "name": "x", "type": "REFUND", "dataSources": ["a", " a"] }),
            "dataSources",
            "CONFLICT",
        ),
        ("agentUpdate", json!({ "id": ids.foreign_agent, "name": "mine" }), "id", "NOT_FOUND"),
        ("agentUpdate", json!({ "id": ids.own, "status": "DRAFT" }), "status", "INVALID_TRANSITION"),
        (
            "agentUpdate",
            json!({ "id": ids.own, "name": "x", "expectedVersion": 1 }),
            "expectedVersion",
            "VERSION_CONFLICT",
        ),
    ]
}

/// Each input is refused with this path and code, and nothing is left of it.
#[tokio::test]
async fn decisions_bad_input_is_refused_with_its_place_and_nothing_is_written() {
    let app = TestApp::start().await;
    let (token, theirs) = (alice(&app).await, bob(&app).await);
    let own = agent(&app, &token, json!({ "low": 5000 })).await;
    let foreign_agent = agent(&app, &theirs, json!({})).await;
    let foreign = rule(&app, &theirs, &foreign_agent, json!(true), "DENY", json!({})).await;
    let foreign = text(&foreign["rule"]["id"]);
    let kept = text(&rule(&app, &token, &own, json!(true), "DENY", json!({})).await["rule"]["id"]);
    let used = text(
        &app.data(&token, "{ organization { refunds(first: 1) { nodes { decisionRule { id } } } } }", json!({})).await
            ["organization"]["refunds"]["nodes"][0]["decisionRule"]["id"],
    );
    let triage = app
        .data(
            &token,
            "{ organization { agentConfigurations(where: { type: { eq: TRIAGE } }) { nodes { id } } } }",
            json!({}),
        )
        .await;
    let triage = text(&triage["organization"]["agentConfigurations"]["nodes"][0]["id"]);
    let before = count(&app, "select (select count(*) from tenantry.audit_logs) + (select sum(version) from tenantry.decision_rules) + (select sum(version) from tenantry.agent_configurations)").await;

    let with = |conditions: Value| with(&own, conditions);
    let ids =
        Ids { own: &own, kept: &kept, used: &used, triage: &triage, foreign_agent: &foreign_agent, foreign: &foreign };
    for (field, input, place, code) in bad_rules(&ids).into_iter().chain(bad_orders_and_agents(&ids)) {
        let selection = if field == "decisionRuleDelete" { "ruleId" } else { "__typename" };
        let answer = app.mutate(&token, field, selection, input.clone()).await;
        let error = &answer["userErrors"][0];
        let path: Vec<&str> = ["input"].into_iter().chain(place.split('/')).collect();
        assert_eq!((&error["field"], &error["code"]), (&json!(path), &json!(code)), "{field} {input}: {answer}");
    }
    let after = count(&app, "select (select count(*) from tenantry.audit_logs) + (select sum(version) from tenantry.decision_rules) + (select sum(version) from tenantry.agent_configurations)").await;
    assert_eq!(before, after, "nothing was written");

    // The deepest rule comes through the whole request, as a variable and as a literal.
    let deepest = (0..16).fold(json!(true), |inner, _| json!({ "!": [inner] }));
    assert_eq!(codes(&rule(&app, &token, &own, deepest, "DENY", json!({})).await), [] as [&str; 0]);
    let message = app
        .mutate(
            &token,
            "decisionRuleCreate",
            RULE,
            with(json!({ "and": [true, { "<=": [{ "var": "amountMinr" }, 5] }] })),
        )
        .await;
    assert_eq!(
        message["userErrors"][0]["message"],
        "`/and/1/<=/0`: There is no variable `amountMinr`; is `amountMinor` meant?"
    );
    for (name, rows) in [
        (
            "rules",
            "insert into tenantry.decision_rules (id, organization_id, agent_id, name, rank, conditions, action) select gen_random_uuid(), a.organization_id, a.id, 'x', 100 + n, 'true', 'DENY' from tenantry.agent_configurations a, generate_series(1, 100) n where a.name = 'Refunds' and a.organization_id = (select id from tenantry.organizations where slug = 'acme-corp')",
        ),
        (
            "agents",
            "insert into tenantry.agent_configurations (id, organization_id, name, type) select gen_random_uuid(), id, 'x', 'QUALITY' from tenantry.organizations, generate_series(1, 50) n where slug = 'acme-corp'",
        ),
    ] {
        app.sql(rows).await;
        let answer = if name == "rules" {
            rule(&app, &token, &own, json!(true), "DENY", json!({})).await
        } else {
            app.mutate(&token, "agentCreate", AGENT, json!({ "name": "x", "type": "REFUND" })).await
        };
        assert_eq!(codes(&answer), ["TOO_LONG"], "{name}");
    }
}

/// What the rules decide about a request of this amount, in a transaction that is taken back.
async fn decide(app: &TestApp, amount_minor: i64, currency: &str) -> Decision {
    let organization = OrganizationRef::Slug("acme-corp".to_owned());
    let mut tx =
        TenantTx::begin(&app.app.services.db, "user_alice", &organization, Arc::default()).await.expect("alice");
    let customer: uuid::Uuid =
        sqlx::query_scalar("select id from tenantry.customer_profiles where email = 'ivan@example.net'")
            .fetch_one(tx.conn())
            .await
            .expect("Ivan");
    let request = RefundRequest {
        customer_id: CustomerId::from_uuid(customer),
        ticket_id: None,
        amount_minor,
        currency,
        reason: "GOODWILL",
        has_charge: false,
    };
    let now = app.clock.now();
    let facts = RefundFacts::gather(&mut tx, &request, now).await.expect("facts").expect("Ivan is a customer");
    // The sample data is a moment younger than the clock that stands still.
    assert!(facts.refunds_last_365_days == 2 && (44..=45).contains(&facts.age_days), "{facts:?}");
    let decision = decide_refund(&mut tx, &facts, now).await.expect("a decision");
    assert!(decision.explanation.to_string().len() < 64 * 1024);
    decision
}

fn outcome(decision: &Decision) -> (&str, Option<DecisionAction>) {
    (decision.explanation["outcome"].as_str().expect("an outcome"), decision.action)
}

#[tokio::test]
async fn decisions_are_made_by_the_first_rule_that_matches_and_say_why() {
    let app = TestApp::start_in_still_time().await;
    let token = alice(&app).await;
    // The sample rules: small amounts in dollars, large ones, everything else.
    let small = decide(&app, 2_500, "USD").await;
    assert_eq!(outcome(&small), ("RULE", Some(AutoApprove)));
    let rules = small.explanation["rules"].as_array().expect("rules").clone();
    assert_eq!(rules.len(), 2, "{}", small.explanation);
    assert_eq!(rules[0]["values"], json!({ "customer.standing": "GOOD" }));
    assert_eq!(rules[1]["id"], json!(small.rule.map(|id| id.to_string())));
    assert_eq!(rules[1]["values"]["threshold.autoApproveMinor"], 5000);
    let tests: Vec<(&Value, &Value)> =
        rules[1]["tests"].as_array().expect("tests").iter().map(|test| (&test["at"], &test["is"])).collect();
    assert_eq!(
        tests,
        [(&json!("/and/0"), &json!(true)), (&json!("/and/1"), &json!(true)), (&json!("/and/2"), &json!(true))]
    );
    assert_eq!(outcome(&decide(&app, 50_001, "USD").await), ("RULE", Some(Escalate)));
    // The same number in yen is another amount: rules of dollars are not asked.
    let yen = decide(&app, 2_500, "JPY").await;
    assert_eq!(outcome(&yen), ("RULE", Some(RequireApproval)));
    assert_eq!(yen.explanation["rules"][1]["onlyCurrency"], "USD");

    // A second agent is asked after the first, whatever its ranks, and only while it is active.
    let second = agent(&app, &token, json!({ "zero": 0 })).await;
    rule(&app, &token, &second, json!(true), "DENY", json!({ "rank": 0 })).await;
    assert_eq!(outcome(&decide(&app, 2_500, "JPY").await), ("RULE", Some(RequireApproval)));
    app.sql("update tenantry.agent_configurations set status = 'PAUSED' where name = 'Refund decisions'").await;
    assert_eq!(outcome(&decide(&app, 2_500, "JPY").await), ("RULE", Some(Deny)));

    // What cannot be evaluated is not passed over.
    let by_zero = json!({ "<": [{ "/": [{ "var": "customer.ageDays" }, { "var": "threshold.zero" }] }, 5] });
    let broken = rule(&app, &token, &second, by_zero, "DENY", json!({ "rank": 0 })).await;
    let broken = text(&broken["rule"]["id"]);
    rule(&app, &token, &second, json!(true), "AUTO_APPROVE", json!({ "rank": 5 })).await;
    let failed = decide(&app, 2_500, "USD").await;
    assert_eq!((outcome(&failed), failed.rule), (("ERROR", Some(RequireApproval)), None));
    assert!(failed.explanation["rules"][0]["error"].is_string(), "{}", failed.explanation);
    // Neither is what was written past the API, and it can be switched off.
    app.sql("update tenantry.decision_rules set conditions = '{\"var\": \"secret\"}', version = version + 1 where rank = 0 and name = 'DENY'").await;
    assert_eq!(outcome(&decide(&app, 2_500, "USD").await), ("ERROR", Some(RequireApproval)));
    app.done(&token, "decisionRuleUpdate", RULE, json!({ "id": broken, "enabled": false })).await;
    let refused = app.mutate(&token, "decisionRuleUpdate", RULE, json!({ "id": broken, "enabled": true })).await;
    assert_eq!(codes(&refused), ["INVALID"]);
    app.sql("update tenantry.agent_configurations set status = 'PAUSED'").await;
    let nobody = decide(&app, 2_500, "USD").await;
    assert_eq!((outcome(&nobody), nobody.explanation["rules"].clone()), (("NO_RULE", None), json!([])));
}

/// A hundred rules, each as long as it may be: the explanation stays small and has the one that decided.
#[tokio::test]
async fn decisions_explain_themselves_in_little_space() {
    let app = TestApp::start_in_still_time().await;
    app.sql("delete from tenantry.decision_rules r where not exists (select from tenantry.refunds f where f.decision_rule_id = r.id)").await;
    app.sql(r#"update tenantry.decision_rules set enabled = false;
        insert into tenantry.decision_rules (id, organization_id, agent_id, name, rank, conditions, action)
        select gen_random_uuid(), a.organization_id, a.id, repeat('ä', 200), 1000 + n, case when n < 90
               then '{"and": [{"==": [{"var": "reason"}, "OTHER"]}, {"==": [{"var": "customer.tier"}, "VIP"]}, {"<": [{"var": "customer.ageDays"}, 1]}]}'
               else jsonb_build_object('or', jsonb_build_array((select jsonb_build_object('and', jsonb_agg('{"!=": [{"var": "customer.standing"}, "BLOCKED"]}'::jsonb)) from generate_series(1, 60)))) end, 'DENY'
          from tenantry.agent_configurations a, generate_series(1, 90) n where a.name = 'Refund decisions' and a.status = 'ACTIVE'"#).await;
    let decision = decide(&app, 2_500, "USD").await;
    assert_eq!(outcome(&decision), ("RULE", Some(Deny)));
    let rules = decision.explanation["rules"].as_array().expect("rules").clone();
    assert_eq!(rules.last().expect("a rule")["tests"].as_array().map(Vec::len), Some(32));
    assert_eq!(decision.explanation["rulesOmitted"].as_u64().map(|omitted| omitted + rules.len() as u64), Some(90));
}

const TEST: &str = "query($input: DecisionRuleTestInput!) { decisionRuleTest(input: $input) {
    cases { refundId requestedAt factsAreOfThen outcome action ruleId ruleIndex ruleName decided changed explanation }
    summary { cases changed errors byAction { action count before } } userErrors { field code message } } }";

async fn test(app: &TestApp, token: &str, input: Value) -> Value {
    app.data(token, TEST, json!({ "input": input })).await["decisionRuleTest"].clone()
}

#[tokio::test]
async fn decisions_are_tried_on_real_and_made_up_requests_before_they_count() {
    let app = TestApp::start_in_still_time().await;
    let token = alice(&app).await;
    let acme = app
        .data(
            &token,
            "{ organization { agentConfigurations(where: { type: { eq: REFUND } }) { nodes { id } } } }",
            json!({}),
        )
        .await;
    let acme = text(&acme["organization"]["agentConfigurations"]["nodes"][0]["id"]);
    let before =
        count(&app, "select (select count(*) from tenantry.audit_logs) + (select sum(version) from tenantry.refunds)")
            .await;
    // As for real requests: all four are decided as they were; the fifth refund was made in Stripe.
    let same = test(&app, &token, json!({ "lastRequests": 100 })).await;
    assert_eq!(test(&app, &token, json!({ "requests": { "last": 100 } })).await["summary"], same["summary"]);
    assert_eq!(same["summary"]["cases"], 4, "{same}");
    assert_eq!((&same["summary"]["changed"], &same["summary"]["errors"]), (&json!(0), &json!(0)), "{same}");
    let cases = same["cases"].as_array().expect("cases").clone();
    let known: Vec<_> = cases
        .iter()
        .map(|case| (text(&case["action"]), case["decided"].clone(), case["factsAreOfThen"].clone()))
        .collect();
    assert_eq!(
        known,
        [
            ("ESCALATE".to_owned(), json!("ESCALATE"), json!(false)),
            ("REQUIRE_APPROVAL".to_owned(), json!("REQUIRE_APPROVAL"), json!(true)),
            ("AUTO_APPROVE".to_owned(), json!("AUTO_APPROVE"), json!(false)),
            ("AUTO_APPROVE".to_owned(), json!("AUTO_APPROVE"), json!(true)),
        ]
    );
    // The facts of then count, and what is known now where none were kept.
    app.sql("update tenantry.customer_profiles set standing = 'BLOCKED'").await;
    let now = test(&app, &token, json!({ "lastRequests": 100, "agentId": acme })).await;
    let changed: Vec<(&Value, &Value)> =
        now["cases"].as_array().expect("cases").iter().map(|case| (&case["action"], &case["changed"])).collect();
    let (yes, no) = (json!(true), json!(false));
    let deny = json!("DENY");
    assert_eq!(
        changed,
        [(&deny, &yes), (&json!("REQUIRE_APPROVAL"), &no), (&deny, &yes), (&json!("AUTO_APPROVE"), &no)]
    );
    // Other thresholds, without touching the agent.
    let strict = json!({ "lastRequests": 2, "agentId": acme, "thresholds": { "autoApproveMinor": 10, "escalateMinor": 20, "refundsPerYear": 1 } });
    let strict = test(&app, &token, strict).await;
    assert_eq!(strict["summary"]["byAction"][2], json!({ "action": "ESCALATE", "count": 1, "before": 1 }), "{strict}");
    let missing = test(&app, &token, json!({ "lastRequests": 2, "agentId": acme, "thresholds": {} })).await;
    assert_eq!(missing["cases"][1]["outcome"], "ERROR", "{missing}");
    let after =
        count(&app, "select (select count(*) from tenantry.audit_logs) + (select sum(version) from tenantry.refunds)")
            .await;
    assert_eq!(before, after, "a test writes nothing");
    let theirs = bob(&app).await;
    let stolen = test(&app, &theirs, json!({ "lastRequests": 100, "agentId": acme })).await;
    assert_eq!(codes(&stolen), ["NOT_FOUND"]);
    assert_eq!(test(&app, &theirs, json!({ "lastRequests": 100 })).await["summary"]["errors"], 0);
}

#[tokio::test]
async fn decisions_of_drafts_are_tried_before_they_are_stored() {
    let app = TestApp::start_in_still_time().await;
    let token = alice(&app).await;
    let acme = agent(&app, &token, json!({})).await;
    // Drafts on requests that are made up.
    let drafts = json!([
        { "name": "old", "conditions": { ">": [{ "var": "ticket.ageHours" }, 72] }, "action": "ESCALATE" },
        { "conditions": { "<=": [{ "var": "amountMinor" }, 100] }, "action": "AUTO_APPROVE", "currency": "JPY" },
    ]);
    let request = |amount: &str, currency: &str| json!({ "amount": { "amount": amount, "currencyCode": currency }, "reason": "OTHER" });
    let mut with_ticket = request("1.00", "USD");
    with_ticket["ticket"] = json!({ "status": "OPEN", "priority": "LOW", "category": "OTHER", "ageHours": 73 });
    let tried =
        test(&app, &token, json!({ "agentId": acme, "rules": drafts, "facts": [with_ticket, request("100", "JPY")] }))
            .await;
    assert_eq!(
        (&tried["cases"][0]["ruleName"], &tried["cases"][0]["ruleIndex"], &tried["cases"][0]["ruleId"]),
        (&json!("old"), &json!(0), &json!(null)),
        "{tried}"
    );
    assert_eq!(
        (&tried["cases"][1]["outcome"], &tried["cases"][1]["action"]),
        (&json!("ERROR"), &json!("REQUIRE_APPROVAL")),
        "no ticket"
    );
    let guarded = json!([{ "conditions": { "and": [{ "var": "hasTicket" }, { ">": [{ "var": "ticket.ageHours" }, 72] }] }, "action": "ESCALATE" }, drafts[1]]);
    let tried = test(
        &app,
        &token,
        json!({ "agentId": acme, "rules": guarded, "facts": [request("100", "JPY"), request("1.00", "USD")] }),
    )
    .await;
    let outcomes: Vec<(&Value, &Value)> =
        tried["cases"].as_array().expect("cases").iter().map(|case| (&case["outcome"], &case["ruleIndex"])).collect();
    assert_eq!(outcomes, [(&json!("RULE"), &json!(1)), (&json!("NO_RULE"), &json!(null))]);

    let facts = json!([request("1.00", "USD")]);
    let refused = [
        (json!({}), "", "INVALID"),
        (json!({ "facts": facts, "lastRequests": 1 }), "", "INVALID"),
        (json!({ "facts": facts, "requests": { "last": 1 } }), "", "INVALID"),
        (json!({ "requests": { "last": 0 } }), "lastRequests", "INVALID"),
        (json!({ "lastRequests": 0 }), "lastRequests", "INVALID"),
        (json!({ "lastRequests": 101 }), "lastRequests", "INVALID"),
        (json!({ "facts": [] }), "facts", "INVALID"),
        (json!({ "facts": [request("1.001", "USD")] }), "facts", "INVALID"),
        (json!({ "facts": facts, "rules": [] }), "agentId", "BLANK"),
        (
            json!({ "facts": facts, "agentId": acme, "rules": [{ "conditions": { "var": "x" }, "action": "DENY" }] }),
            "rules/0/conditions",
            "INVALID",
        ),
        (
            json!({ "facts": facts, "agentId": acme, "rules": [{ "conditions": { "<": [{ "var": "amountMinor" }, 1] }, "action": "DENY" }] }),
            "rules/0/currency",
            "BLANK",
        ),
        (json!({ "facts": facts, "agentId": acme, "thresholds": { "x": true } }), "thresholds", "INVALID"),
    ];
    for (input, place, code) in refused {
        let answer = test(&app, &token, input.clone()).await;
        let path: Vec<&str> = ["input"].into_iter().chain(place.split('/').filter(|part| !part.is_empty())).collect();
        assert_eq!(
            (&answer["userErrors"][0]["field"], &answer["userErrors"][0]["code"]),
            (&json!(path), &json!(code)),
            "{input}: {answer}"
        );
        assert_eq!(answer["cases"], json!(null));
    }
}

/// Whoever deletes a rule waits for the refund that it decides about, and is refused then.
#[tokio::test]
async fn decisions_keep_the_rule_that_decided() {
    let app = TestApp::start_in_still_time().await;
    let token = alice(&app).await;
    let made = agent(&app, &token, json!({})).await;
    app.sql("update tenantry.agent_configurations set status = 'PAUSED' where name = 'Refund decisions'").await;
    let deciding = text(&rule(&app, &token, &made, json!(true), "DENY", json!({})).await["rule"]["id"]);
    let organization = OrganizationRef::Slug("acme-corp".to_owned());
    let mut tx =
        TenantTx::begin(&app.app.services.db, "user_alice", &organization, Arc::default()).await.expect("alice");
    let customer: uuid::Uuid =
        sqlx::query_scalar("select id from tenantry.customer_profiles where email = 'ivan@example.net'")
            .fetch_one(tx.conn())
            .await
            .expect("Ivan");
    let request = RefundRequest {
        customer_id: CustomerId::from_uuid(customer),
        ticket_id: None,
        amount_minor: 100,
        currency: "USD",
        reason: "OTHER",
        has_charge: true,
    };
    let now = app.clock.now();
    let facts = RefundFacts::gather(&mut tx, &request, now).await.expect("facts").expect("a customer");
    let decision = decide_refund(&mut tx, &facts, now).await.expect("a decision");
    assert_eq!(decision.rule.map(|id| id.to_string()), Some(deciding.clone()));
    let deleting = app.mutate(&token, "decisionRuleDelete", "ruleId", json!({ "id": deciding }));
    let refunding = async {
        // Whether or not the other one waits already, the rule is there until the end.
        sqlx::query("insert into tenantry.refunds (id, organization_id, customer_id, amount_minor, currency, reason, decision, decision_rule_id, decision_explanation)
                     select gen_random_uuid(), organization_id, id, 100, 'USD', 'OTHER', 'DENY', $2, $3 from tenantry.customer_profiles where id = $1")
            .bind(customer)
            .bind(decision.rule.map(tenantry::id::Id::uuid))
            .bind(&decision.explanation)
            .execute(tx.conn())
            .await
            .expect("a refund");
        tx.commit().await.expect("it lasts");
    };
    let (deleted, ()) = tokio::join!(deleting, refunding);
    assert_eq!(codes(&deleted), ["CONFLICT"], "{deleted}");
    let kept = test(&app, &token, json!({ "lastRequests": 1 })).await["cases"][0].clone();
    assert_eq!(
        (&kept["factsAreOfThen"], &kept["changed"], &kept["ruleId"]),
        (&json!(true), &json!(false), &json!(deciding)),
        "{kept}"
    );
}
