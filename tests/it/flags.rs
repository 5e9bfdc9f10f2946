//! Feature flags: what operators define and grant, what administrators override, and what is refused.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tenantry::clock::Clock;

use crate::adopt::ended;
use crate::jobs::command;
use crate::support::{Setup, TestApp, codes, mutation};

const DEFINITION: &str =
    "featureFlagDefinition { key version defaultEnabled rolloutPercentage offVariant variants { name value weight } }";
const FLAG: &str = "featureFlag { enabled variant value reason unlockedBy { kind plan at isEnough } override { source enabled variant exceedsPlan reason version } }";

async fn start() -> TestApp {
    TestApp::start_with(Setup { clock: Clock::manual(Clock::System.now()), ..Setup::default() }).await
}

struct Who {
    admin: String,
    alice: String,
    bob: String,
}

async fn who(app: &TestApp) -> Who {
    Who {
        admin: app.token("admin@example.com", None).await,
        alice: app.token("alice@example.com", Some("acme-corp")).await,
        bob: app.token("bob@example.com", Some("tech-startup")).await,
    }
}

/// `input.a.b Code` of every error.
fn faults(payload: &Value) -> Vec<String> {
    let errors = payload["userErrors"].as_array().expect("userErrors");
    let path = |error: &Value| {
        let parts = error["field"].as_array().expect("a path").iter().filter_map(Value::as_str);
        parts.skip(1).collect::<Vec<_>>().join(".")
    };
    errors.iter().map(|error| format!("{} {}", path(error), error["code"].as_str().unwrap_or_default())).collect()
}

/// The flag as an organization has it.
async fn flag(app: &TestApp, token: &str, key: &str) -> Value {
    let query = format!(
        "query($key: String!) {{ organization {{ {} }} }}",
        FLAG.replacen("featureFlag", "featureFlag(key: $key)", 1)
    );
    app.data(token, &query, json!({ "key": key })).await["organization"]["featureFlag"].clone()
}

fn release(key: &str) -> Value {
    json!({ "key": key, "name": "A flag", "kind": "RELEASE" })
}

fn colours(key: &str) -> Value {
    json!({ "key": key, "name": "Colours", "kind": "RELEASE", "valueType": "STRING", "defaultEnabled": true, "offVariant": "none",
            "variants": [{ "name": "none", "value": "", "weight": 0 }, { "name": "red", "value": "#f00" }, { "name": "secret", "value": "#000", "weight": 0 }] })
}

fn with(mut input: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().into_iter().flatten() {
        input[name] = value.clone();
    }
    input
}

async fn organization_id(app: &TestApp, token: &str) -> Value {
    app.data(token, "{ organization { id } }", json!({})).await["organization"]["id"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_are_defined_changed_and_deleted_by_operators() {
    let app = start().await;
    let Who { admin, alice, .. } = who(&app).await;
    // Eight at once: one is there.
    let made = join_all((0..8).map(|_| app.mutate(&admin, "featureFlagCreate", DEFINITION, colours("colours")))).await;
    let (good, bad): (Vec<&Value>, Vec<&Value>) = made.iter().partition(|payload| codes(payload).is_empty());
    assert_eq!((good.len(), bad.len()), (1, 7), "{made:?}");
    assert!(bad.iter().all(|payload| faults(payload) == ["key CONFLICT"]));
    assert_eq!(
        good[0]["featureFlagDefinition"]["variants"][1],
        json!({ "name": "red", "value": "#f00", "weight": 1.0 })
    );
    let seen = flag(&app, &alice, "colours").await;
    assert_eq!((&seen["variant"], &seen["value"], &seen["reason"]), (&json!("red"), &json!("#f00"), &json!("DEFAULT")));

    // A change is based on what one has seen.
    let update = async |input: Value| {
        // What happens in one moment has no order.
        app.clock.advance(chrono::Duration::seconds(1));
        app.mutate(&admin, "featureFlagUpdate", DEFINITION, input).await
    };
    let changed =
        update(json!({ "key": "colours", "rolloutPercentage": 99.99, "owner": "design", "expectedVersion": 1 })).await;
    assert_eq!(changed["featureFlagDefinition"]["version"], 2, "{changed}");
    assert_eq!(
        faults(&update(json!({ "key": "colours", "name": "x", "expectedVersion": 1 })).await),
        ["expectedVersion VERSION_CONFLICT"]
    );
    for (input, expected) in [
        (json!({ "rolloutPercentage": 12.345 }), "rolloutPercentage INVALID"),
        (json!({ "startsAt": "2030-01-01T00:00:00Z", "endsAt": "2029-01-01T00:00:00Z" }), "endsAt INVALID"),
        (json!({ "offVariant": "blue" }), "offVariant NOT_FOUND"),
        (json!({ "variants": [{ "name": "none", "value": 1 }] }), "variants.0.value INVALID"),
        (
            json!({ "variants": [{ "name": "none", "value": "" }, { "name": "b", "value": "", "weight": -1 }] }),
            "variants.1.weight INVALID",
        ),
        (json!({ "variants": [{ "name": "none", "value": "", "weight": 0 }] }), "variants INVALID"),
    ] {
        assert_eq!(faults(&update(with(input, &json!({ "key": "colours" }))).await), [expected]);
    }
    assert_eq!(faults(&update(json!({ "key": "nothing" })).await), ["key NOT_FOUND"]);
    assert_eq!(faults(&update(json!({ "key": "x".repeat(500_000) })).await), ["key NOT_FOUND"]);

    // A variant that an override names stays.
    app.done(&alice, "featureFlagOverrideSet", FLAG, json!({ "key": "colours", "enabled": true, "variant": "secret" }))
        .await;
    let without = json!([{ "name": "none", "value": "", "weight": 0 }, { "name": "blue", "value": "#00f" }]);
    assert_eq!(faults(&update(json!({ "key": "colours", "variants": without })).await), ["variants CONFLICT"]);

    // It does not vanish under an override, and not while programs ask for it.
    let delete = async |input: Value| {
        app.clock.advance(chrono::Duration::seconds(1));
        app.mutate(&admin, "featureFlagDelete", "removedOverrides", input).await
    };
    assert_eq!(faults(&delete(json!({ "key": "colours" })).await), ["key CONFLICT"]);
    assert_eq!(
        faults(&delete(json!({ "key": "automatic-refunds" })).await),
        ["key CONFLICT"],
        "asked for two hours ago"
    );
    assert_eq!(delete(json!({ "key": "colours", "force": true })).await["removedOverrides"], 1);
    assert_eq!(flag(&app, &alice, "colours").await, Value::Null);

    // What happened stays readable, of the platform and of the organization.
    let history = "query($key: String!) { platform { featureFlagHistory(key: $key) { action metadata userId } } }";
    let rows = app.data(&admin, history, json!({ "key": "colours" })).await["platform"]["featureFlagHistory"].clone();
    let actions: Vec<&str> = rows.as_array().expect("rows").iter().filter_map(|row| row["action"].as_str()).collect();
    assert_eq!(actions, ["feature_flag.delete", "feature_flag.update", "feature_flag.create"]);
    assert_eq!(rows[1]["metadata"]["after"], json!({ "rolloutPercentage": 99.99, "owner": "design" }));
    assert_eq!((&rows[0]["metadata"]["overrides"], rows[0]["userId"].is_string()), (&json!(1), true));
    app.done(&admin, "featureFlagCreate", DEFINITION, release("colours")).await;
    let own = "{ organization { featureFlag(key: \"colours\") { overrideId history { action metadata } } } }";
    let own = app.data(&alice, own, json!({})).await["organization"]["featureFlag"].clone();
    assert_eq!(own["history"][0]["metadata"]["cause"], "flag deleted");
    assert_eq!(own["history"][1]["metadata"]["after"]["variant"], "secret");
    let whole = "query($id: ID!) { organization { auditLogs(where: { resourceId: { eq: $id } }) { totalCount } } }";
    let whole = app.data(&alice, whole, json!({ "id": own["overrideId"] })).await;
    assert_eq!(whole["organization"]["auditLogs"]["totalCount"], 2);
}

#[tokio::test]
async fn flags_of_kill_switches_beat_everything() {
    let app = start().await;
    let Who { admin, alice, .. } = who(&app).await;
    let acme = organization_id(&app, &alice).await;
    let key = "automatic-refunds";
    let kill = async |field: &str| {
        app.clock.advance(chrono::Duration::seconds(1));
        app.mutate(&admin, field, DEFINITION, json!({ "key": key, "reason": "Wrong amounts" })).await
    };
    assert_eq!(faults(&kill("featureFlagRevive").await), ["key INVALID_TRANSITION"]);
    assert_eq!(kill("featureFlagKill").await["featureFlagDefinition"]["defaultEnabled"], false);
    let seen = flag(&app, &alice, key).await;
    assert_eq!((&seen["enabled"], &seen["reason"]), (&json!(false), &json!("KILL_SWITCH")));
    assert_eq!(seen["unlockedBy"], json!([{ "kind": "KILL_SWITCH", "plan": null, "at": null, "isEnough": true }]));
    // Not even an operator turns it on for one.
    let grant = json!({ "organizationId": acme, "key": key, "reason": "They need it" });
    assert_eq!(faults(&app.mutate(&admin, "featureFlagGrantSet", "", grant.clone()).await), ["enabled INVALID"]);
    kill("featureFlagRevive").await;
    assert_eq!(flag(&app, &alice, key).await["enabled"], true);
    // For one it can be turned off.
    app.clock.advance(chrono::Duration::seconds(1));
    app.done(&admin, "featureFlagGrantSet", "", with(grant, &json!({ "enabled": false }))).await;
    let seen = flag(&app, &alice, key).await;
    assert_eq!((&seen["enabled"], &seen["unlockedBy"][0]["kind"]), (&json!(false), &json!("GRANT")));
    for (field, input) in [
        ("featureFlagKill", json!({ "key": "new-inbox", "reason": "x" })),
        ("featureFlagUpdate", json!({ "key": key, "defaultEnabled": false })),
        ("featureFlagUpdate", json!({ "key": key, "rolloutPercentage": 5 })),
        ("featureFlagUpdate", json!({ "key": key, "minimumPlan": "PRO" })),
    ] {
        assert_eq!(codes(&app.mutate(&admin, field, DEFINITION, input.clone()).await), ["INVALID"], "{input}");
    }
    assert_eq!(
        faults(&app.mutate(&admin, "featureFlagKill", DEFINITION, json!({ "key": key, "reason": " " })).await),
        ["reason BLANK"]
    );
    let history = "{ platform { featureFlagHistory(key: \"automatic-refunds\", first: 3) { action metadata } } }";
    let rows = app.data(&admin, history, json!({})).await["platform"]["featureFlagHistory"].clone();
    assert_eq!(rows[0]["action"], "feature_flag.grant");
    assert_eq!(
        (&rows[2]["action"], &rows[2]["metadata"]["reason"]),
        (&json!("feature_flag.kill"), &json!("Wrong amounts"))
    );
}

#[tokio::test]
async fn flags_are_overridden_within_the_plan_only() {
    let app = start().await;
    let Who { admin, alice, bob } = who(&app).await;
    app.sql("update tenantry.subscriptions set plan = 'FREE' where organization_id = (select id from tenantry.organizations where slug = 'tech-startup')").await;
    app.done(&admin, "featureFlagCreate", DEFINITION, colours("colours")).await;
    app.done(&admin, "featureFlagCreate", DEFINITION, with(release("add-on"), &json!({ "kind": "ENTITLEMENT" }))).await;
    let set = async |token: &str, input: Value| app.mutate(token, "featureFlagOverrideSet", FLAG, input).await;
    let remove = async |token: &str, key: &str| {
        app.mutate(token, "featureFlagOverrideRemove", FLAG, json!({ "key": key })).await
    };

    // Within the plan, on and off, with its version.
    let on = set(&alice, json!({ "key": "suggested-answers", "enabled": true, "reason": "Early access" })).await;
    assert_eq!(
        (&on["featureFlag"]["enabled"], &on["featureFlag"]["reason"]),
        (&json!(true), &json!("OVERRIDE")),
        "{on}"
    );
    assert_eq!(
        on["featureFlag"]["override"],
        json!({ "source": "ORGANIZATION", "enabled": true, "variant": null, "exceedsPlan": false, "reason": "Early access", "version": 1 })
    );
    let off = set(&alice, json!({ "key": "suggested-answers", "enabled": false, "expectedVersion": 1 })).await;
    assert_eq!(
        (&off["featureFlag"]["override"]["version"], &off["featureFlag"]["unlockedBy"][0]["kind"]),
        (&json!(2), &json!("OVERRIDE"))
    );
    let old = set(&alice, json!({ "key": "suggested-answers", "enabled": true, "expectedVersion": 1 })).await;
    assert_eq!(faults(&old), ["expectedVersion VERSION_CONFLICT"]);
    assert_eq!(remove(&alice, "suggested-answers").await["featureFlag"]["override"], Value::Null);
    assert_eq!(faults(&remove(&alice, "suggested-answers").await), ["key NOT_FOUND"]);
    let gone = set(&alice, json!({ "key": "suggested-answers", "enabled": true, "expectedVersion": 2 })).await;
    assert_eq!(faults(&gone), ["expectedVersion VERSION_CONFLICT"]);

    // Not above it, whatever one says; what is bought or granted is not one's own to give.
    for (token, input, expected) in [
        (&bob, json!({ "key": "suggested-answers", "enabled": true }), "enabled BEYOND_PLAN"),
        (&bob, json!({ "key": "advanced-analytics", "enabled": true }), "enabled BEYOND_PLAN"),
        (&alice, json!({ "key": "add-on", "enabled": true }), "enabled BEYOND_PLAN"),
        (&alice, json!({ "key": "export-rows", "enabled": true, "variant": "large" }), "variant BEYOND_PLAN"),
        (&alice, json!({ "key": "automatic-refunds", "enabled": false }), "key MANAGED_ELSEWHERE"),
        (&alice, json!({ "key": "single-sign-on", "enabled": false }), "key MANAGED_ELSEWHERE"),
        (&alice, json!({ "key": "colours", "enabled": true, "variant": "blue" }), "variant NOT_FOUND"),
        (&alice, json!({ "key": "colours", "enabled": false, "variant": "red" }), "variant INVALID"),
        (&alice, json!({ "key": "new-inbox", "enabled": true, "variant": "on" }), "variant INVALID"),
        (
            &alice,
            json!({ "key": "new-inbox", "enabled": true, "expiresAt": "2020-01-01T00:00:00Z" }),
            "expiresAt INVALID",
        ),
        (&alice, json!({ "key": "new-inbox", "enabled": true, "reason": "x".repeat(2001) }), "reason TOO_LONG"),
        (&alice, json!({ "key": "nothing", "enabled": true }), "key NOT_FOUND"),
        (&alice, json!({ "key": "x".repeat(500_000), "enabled": true }), "key NOT_FOUND"),
    ] {
        assert_eq!(
            faults(&set(token, input.clone()).await),
            [expected],
            "{}",
            input.to_string().get(..60).unwrap_or_default()
        );
    }
    assert_eq!(
        codes(&set(&bob, json!({ "key": "advanced-analytics", "enabled": false })).await),
        [""; 0],
        "off is always one's own"
    );
    assert_eq!(faults(&remove(&alice, "single-sign-on").await), ["key MANAGED_ELSEWHERE"]);

    // A plan that shrinks takes the flag along; the override waits.
    set(&alice, json!({ "key": "suggested-answers", "enabled": true })).await;
    app.sql("update tenantry.subscriptions set plan = 'FREE'").await;
    let seen = flag(&app, &alice, "suggested-answers").await;
    assert_eq!((&seen["enabled"], &seen["reason"]), (&json!(false), &json!("PLAN")));
    assert_eq!(
        seen["unlockedBy"],
        json!([{ "kind": "PLAN", "plan": "STARTER", "at": null, "isEnough": true }, { "kind": "GRANT", "plan": null, "at": null, "isEnough": true }])
    );
    assert_eq!(flag(&app, &alice, "single-sign-on").await["enabled"], true, "granted beyond any plan");

    // Whoever acts in the place of an administrator changes nothing, and sees it.
    let other = app.impersonated("alice@example.com", Some("acme-corp"), "user_support").await;
    let document = mutation("featureFlagOverrideSet", "");
    let input = json!({ "input": { "key": "new-inbox", "enabled": true } });
    assert_eq!(app.error_code(&other, &document, input).await, "IMPERSONATION_RESTRICTED");
    assert!(flag(&app, &other, "new-inbox").await["enabled"].is_boolean());
    let operator = app.impersonated("admin@example.com", None, "user_support").await;
    let create = mutation("featureFlagCreate", "");
    assert_eq!(app.error_code(&operator, &create, json!({ "input": release("x") })).await, "IMPERSONATION_RESTRICTED");
}

#[tokio::test]
async fn flags_that_are_granted_or_bought_are_not_the_administrators() {
    let app = start().await;
    let Who { admin, bob, .. } = who(&app).await;
    let startup = organization_id(&app, &bob).await;
    app.sql("update tenantry.subscriptions set plan = 'FREE'").await;
    let grant = async |more: Value| {
        let input = with(json!({ "organizationId": startup, "key": "advanced-analytics", "reason": "A trial" }), &more);
        app.mutate(
            &admin,
            "featureFlagGrantSet",
            "featureFlagOverride { source enabled exceedsPlan expiresAt version }",
            input,
        )
        .await
    };
    let end = async || {
        let input = json!({ "organizationId": startup, "key": "advanced-analytics" });
        app.mutate(&admin, "featureFlagGrantRemove", "", input).await
    };
    assert_eq!(faults(&end().await), ["key NOT_FOUND"]);
    grant(json!({ "exceedsPlan": false })).await;
    assert_eq!(flag(&app, &bob, "advanced-analytics").await["reason"], "PLAN", "no grant of what the plan lacks");
    let soon = (app.clock.now() + chrono::Duration::days(3)).to_rfc3339();
    assert_eq!(grant(json!({ "expiresAt": soon })).await["featureFlagOverride"]["version"], 2);
    assert_eq!(flag(&app, &bob, "advanced-analytics").await["enabled"], true);
    assert_eq!(faults(&grant(json!({ "reason": "" })).await), ["reason BLANK"]);
    let elsewhere = json!({ "organizationId": "org_0199c0ffee0070008000000000000001" });
    assert_eq!(faults(&grant(elsewhere).await), ["organizationId NOT_FOUND"]);

    // It takes the place of what the administrators set, until it expires.
    let own = json!({ "key": "advanced-analytics", "enabled": false });
    assert_eq!(faults(&app.mutate(&bob, "featureFlagOverrideSet", FLAG, own.clone()).await), ["key MANAGED_ELSEWHERE"]);
    app.clock.advance(chrono::Duration::days(3));
    let Who { admin, bob, .. } = who(&app).await;
    assert_eq!(flag(&app, &bob, "advanced-analytics").await["reason"], "PLAN", "the grant has expired");
    app.done(&bob, "featureFlagOverrideSet", FLAG, own).await;
    let end_of = json!({ "organizationId": startup, "key": "advanced-analytics" });
    assert_eq!(
        faults(&app.mutate(&admin, "featureFlagGrantRemove", "", end_of).await),
        ["key NOT_FOUND"],
        "theirs, not a grant"
    );

    // What Stripe says is nobody's to change here.
    app.sql("update tenantry.organization_feature_flags set source = 'STRIPE', enabled = true, exceeds_plan = true where flag_key = 'advanced-analytics'").await;
    for (token, field, input) in [
        (&bob, "featureFlagOverrideSet", json!({ "key": "advanced-analytics", "enabled": false })),
        (&bob, "featureFlagOverrideRemove", json!({ "key": "advanced-analytics" })),
        (
            &admin,
            "featureFlagGrantSet",
            json!({ "organizationId": startup, "key": "advanced-analytics", "reason": "x" }),
        ),
    ] {
        assert_eq!(faults(&app.mutate(token, field, "", input).await), ["key MANAGED_ELSEWHERE"], "{field}");
    }
    // Nobody but they can say that a plan is exceeded: the table knows.
    let wrong =
        sqlx::raw_sql("update tenantry.organization_feature_flags set source = 'ORGANIZATION', exceeds_plan = true")
            .execute(&mut app.database.system().await)
            .await;
    assert!(wrong.is_err());
    let log = "{ organization { featureFlag(key: \"advanced-analytics\") { history { action user { email } } } } }";
    let rows = app.data(&bob, log, json!({})).await["organization"]["featureFlag"]["history"].clone();
    assert_eq!(rows[0]["action"], "feature_flag_override.set");
    assert_eq!(rows[1], json!({ "action": "feature_flag.grant", "user": { "email": "admin@example.com" } }));
}

#[tokio::test]
async fn flags_show_what_unlocks_them_and_who_asked() {
    let app = start().await;
    let Who { admin, alice, bob } = who(&app).await;
    let begins = "2040-01-01T00:00:00+00:00";
    let later =
        with(release("later"), &json!({ "defaultEnabled": true, "startsAt": begins, "minimumPlan": "ENTERPRISE" }));
    app.done(&admin, "featureFlagCreate", DEFINITION, later).await;
    // Nothing alone is enough: all that stands in the way.
    let seen = flag(&app, &alice, "later").await;
    let kinds: Vec<&str> =
        seen["unlockedBy"].as_array().expect("a list").iter().filter_map(|unlock| unlock["kind"].as_str()).collect();
    assert_eq!(
        (kinds, &seen["unlockedBy"][0]["isEnough"]),
        (vec!["SCHEDULE", "PLAN", "GRANT"], &json!(false)),
        "{seen}"
    );
    app.done(&admin, "featureFlagUpdate", DEFINITION, json!({ "key": "later", "minimumPlan": null })).await;
    let seen = flag(&app, &alice, "later").await;
    assert_eq!(seen["unlockedBy"], json!([{ "kind": "SCHEDULE", "plan": null, "at": begins, "isEnough": true }]));
    assert_eq!(flag(&app, &alice, &"x".repeat(500_000)).await, Value::Null);

    let asked = "{ organization { featureFlags { key lastEvaluatedAt override { reason } } } }";
    let (data, statements) = app.statements(app.data(&bob, asked, json!({}))).await;
    let flags = data["organization"]["featureFlags"].as_array().expect("flags").clone();
    let last = |key: &str| flags.iter().find(|flag| flag["key"] == key).expect("the flag")["lastEvaluatedAt"].clone();
    assert!(last("new-inbox").is_string() && last("later").is_null(), "{flags:?}");
    assert_eq!(
        statements.iter().filter(|statement| statement.contains("select d.key, d.name")).count(),
        1,
        "{statements:?}"
    );
    let usage = "{ platform { featureFlagUsage(key: \"new-inbox\") { organizationSlug evaluations }
                              featureFlagDefinition(key: \"new-inbox\") { lastEvaluatedAt overridesInForce staleReasons { reason } } } }";
    let platform = app.data(&admin, usage, json!({})).await["platform"].clone();
    assert_eq!(platform["featureFlagUsage"].as_array().map(Vec::len), Some(2), "{platform}");
    assert_eq!(platform["featureFlagDefinition"]["overridesInForce"], 1);
    // What was changed is for administrators.
    let member = "{ organization { featureFlag(key: \"later\") { history { action } } } }";
    let viewer = app.token("bob@example.com", Some("acme-corp")).await;
    assert_eq!(app.error_code(&viewer, member, json!({})).await, "FORBIDDEN");
    assert_eq!(
        app.error_code(&admin, "{ platform { featureFlagUsage(key: \"x\", first: 101) { evaluations } } }", json!({}))
            .await,
        "INVALID_ARGUMENT"
    );
}

/// What no client would send.
#[tokio::test]
async fn flags_survive_hostile_definitions() {
    let app = start().await;
    let Who { admin, .. } = who(&app).await;
    let create =
        async |more: Value| app.mutate(&admin, "featureFlagCreate", DEFINITION, with(colours("hostile"), &more)).await;
    let many: Vec<Value> = (0..10_000).map(|n| json!({ "name": format!("v{n}"), "value": "x" })).collect();
    assert_eq!(faults(&create(json!({ "variants": many })).await), ["variants TOO_LONG"]);
    assert_eq!(faults(&create(json!({ "key": "k".repeat(900_000) })).await), ["key TOO_LONG"]);
    assert_eq!(
        faults(&create(json!({ "variants": [{ "name": "none", "value": "x".repeat(20_000) }] })).await),
        ["variants.0.value TOO_LONG"]
    );
    let nested = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let send = async |levels: usize| {
        let input = format!(
            "{{\"key\":\"deep\",\"name\":\"Deep\",\"kind\":\"RELEASE\",\"valueType\":\"OBJECT\",\"offVariant\":\"a\",\"variants\":[{{\"name\":\"a\",\"value\":{}}}]}}",
            nested(levels)
        );
        let query = json!(mutation("featureFlagCreate", DEFINITION));
        let body = format!("{{\"query\":{query},\"variables\":{{\"input\":{input}}}}}");
        let request = app.client().post(format!("{}/graphql", app.base_url())).bearer_auth(&admin);
        let response = request.header("Content-Type", "application/json").body(body).send().await.expect("a response");
        (response.status().as_u16(), response.text().await.expect("text"))
    };
    let (status, text) = send(10_000).await;
    assert!(status == 400 && text.len() < 2000, "{status} {text}");
    let (_, text) = send(33).await;
    assert!(text.contains("\"variants\",\"0\",\"value\"") && text.contains("32 levels"), "{text}");
    // The same in the document itself.
    let inline = format!(
        "mutation {{ featureFlagCreate(input: {{ key: \"deep\", name: \"Deep\", kind: RELEASE, valueType: OBJECT, offVariant: \"a\", variants: [{{ name: \"a\", value: {} }}] }}) {{ userErrors {{ code }} }} }}",
        nested(10_000).replace('"', "")
    );
    assert!(app.run(&admin, &inline, json!({})).await["errors"].is_array());
    let left: i64 =
        sqlx::query_scalar("select count(*) from tenantry.feature_flag_definitions where key in ('hostile', 'deep')")
            .fetch_one(&mut app.database.system().await)
            .await
            .expect("a count");
    assert_eq!(left, 0, "nothing half written");
    // As deep and as large as may be: what is written is what is read.
    let (_, text) = send(32).await;
    assert!(text.contains("\"version\":1"), "{text}");
}

/// Definitions as flagd, GO Feature Flag, Flipt and Unleash have them, and what they decide where no rule looks at the context.
#[tokio::test]
async fn flags_of_the_field_can_be_expressed() {
    let app = start().await;
    let Who { admin, alice, .. } = who(&app).await;
    let typed = |key: &str, ty: &str, off: &str, variants: Value| {
        with(release(key), &json!({ "valueType": ty, "defaultEnabled": true, "offVariant": off, "variants": variants }))
    };
    for (input, variant, value) in [
        // flagd: `defaultVariant` has all the weight, the other variants none.
        (with(release("myBoolFlag"), &json!({ "defaultEnabled": true })), "on", json!(true)),
        (
            typed(
                "myStringFlag",
                "STRING",
                "key1",
                json!([{ "name": "key1", "value": "val1" }, { "name": "key2", "value": "val2", "weight": 0 }]),
            ),
            "key1",
            json!("val1"),
        ),
        (
            typed(
                "myFloatFlag",
                "NUMBER",
                "one",
                json!([{ "name": "one", "value": 1.23 }, { "name": "two", "value": 2.34, "weight": 0 }]),
            ),
            "one",
            json!(1.23),
        ),
        (
            typed("myObjectFlag", "OBJECT", "object1", json!([{ "name": "object1", "value": { "key": "val" } }])),
            "object1",
            json!({ "key": "val" }),
        ),
        // flagd: `state: DISABLED`; GO Feature Flag: `disable: true`.
        (
            with(
                typed(
                    "disabled",
                    "NUMBER",
                    "Default",
                    json!([{ "name": "Default", "value": 1.3 }, { "name": "True", "value": 1.1 }]),
                ),
                &json!({ "defaultEnabled": false }),
            ),
            "Default",
            json!(1.3),
        ),
        // GO Feature Flag: `percentage: { False: 0, True: 100 }`.
        (
            typed(
                "test-flag2",
                "NUMBER",
                "Default",
                json!([{ "name": "Default", "value": 3, "weight": 0 }, { "name": "False", "value": 2, "weight": 0 }, { "name": "True", "value": 1, "weight": 100 }]),
            ),
            "True",
            json!(1),
        ),
        // Flipt: BOOLEAN_FLAG_TYPE with a threshold of 100; Unleash: flexibleRollout, `stickiness: userId`.
        (with(release("two"), &json!({ "rolloutPercentage": 100 })), "on", json!(true)),
        (
            with(release("new-checkout-flow"), &json!({ "rolloutPercentage": 0, "rolloutUnit": "USER" })),
            "off",
            json!(false),
        ),
    ] {
        app.done(&admin, "featureFlagCreate", DEFINITION, input.clone()).await;
        let seen = flag(&app, &alice, input["key"].as_str().expect("a key")).await;
        assert_eq!((seen["variant"].as_str(), &seen["value"]), (Some(variant), &value), "{input}");
    }
    // What none of ours can be: a list as a value, and a flag without variants.
    let list = typed("test-flag3", "OBJECT", "Default", json!([{ "name": "Default", "value": ["yo", "ya"] }]));
    assert_eq!(faults(&app.mutate(&admin, "featureFlagCreate", "", list).await), ["variants.0.value INVALID"]);
    let empty = json!({ "key": "one", "name": "One", "kind": "RELEASE", "valueType": "STRING" });
    assert_eq!(faults(&app.mutate(&admin, "featureFlagCreate", "", empty).await), ["variants BLANK"]);
}

/// A command lists flags, and says of the stale ones why.
#[tokio::test]
async fn flags_are_listed_by_a_command() {
    let app = TestApp::start().await;
    let run = async |arguments: &[&str]| ended(command(&app.database, arguments).await).await;
    let (code, out, error) = run(&["flags", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(&out).expect("JSON");
    let listed = listed.as_array().expect("flags");
    assert!(code == 0 && listed.len() == 8, "{out}{error}");
    assert_eq!(listed[1]["key"], "answer-length");
    assert_eq!(listed[1]["variants"], json!(["as-ever", "short", "medium"]));
    let (code, out, _) = run(&["flags", "stale"]).await;
    assert!(code == 1 && out.contains("no program has asked for it since"), "{out}");
    assert!(!out.contains("new-inbox"), "it is half way, and asked for: {out}");
    app.sql(
        "update tenantry.feature_flag_definitions set stale_after = now() - interval '1 day' where key = 'new-inbox';
         update tenantry.organization_feature_flags set expires_at = now() - interval '1 hour' where flag_key = 'new-inbox'",
    )
    .await;
    let (_, out, _) = run(&["flags", "stale", "--json"]).await;
    let listed: Value = serde_json::from_str(&out).expect("JSON");
    let flag =
        listed.as_array().expect("flags").iter().find(|flag| flag["key"] == "new-inbox").expect("the flag").clone();
    let reasons: Vec<&str> =
        flag["stale"].as_array().expect("reasons").iter().filter_map(|stale| stale["reason"].as_str()).collect();
    assert_eq!(reasons, ["PAST_STALE_AFTER", "EXPIRED_OVERRIDES"]);
    app.sql("delete from tenantry.organization_feature_flags; delete from tenantry.feature_flag_definitions").await;
    let (code, out, _) = run(&["flags", "stale"]).await;
    assert_eq!((code, out.trim()), (0, "no flag is stale"));
    assert_eq!(run(&["flags", "stale", "--days", "0"]).await.0, 2);
}
