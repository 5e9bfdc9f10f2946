//! What people ask of Stripe.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::fake::{FakeStripe, Whim};
use super::{ACTION, CUSTOMER, SUBSCRIPTION, apply, event, row, scalar, start, tell, token};
use crate::support::{TestApp, codes};

async fn checkout(app: &TestApp, token: &str, input: Value) -> Value {
    app.mutate(token, "billingCheckoutCreate", ACTION, input).await
}

fn pro(key: &str) -> Value {
    json!({ "plan": "PRO", "idempotencyKey": key })
}

async fn unsubscribed(stripe: &FakeStripe) -> TestApp {
    let app = start(stripe, &[]).await;
    app.sql("delete from tenantry.subscriptions").await;
    app
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn billing_checkout_makes_one_page_for_many_clicks() {
    let stripe = FakeStripe::start().await;
    let app = unsubscribed(&stripe).await;
    let (alice, carol) = (token(&app, "alice").await, token(&app, "carol").await);
    let first = checkout(&app, &alice, pro("a")).await;
    assert_eq!((codes(&first), &first["action"]["status"]), (vec![], &json!("DONE")), "{first}");
    assert!(
        first["action"]["url"].as_str().is_some_and(|url| url.starts_with("https://checkout.stripe.com/")),
        "{first}"
    );
    let form = stripe.with(|account| account.posted[0].1.clone());
    let members: i64 = scalar(&app, "select count(*) from tenantry.organization_members m join tenantry.organizations o on o.id = m.organization_id where o.slug = 'acme-corp' and m.role <> 'VIEWER' and m.deleted_at is null").await;
    for (name, value) in [
        ("mode", "subscription"),
        ("subscription_data[trial_period_days]", "14"),
        ("customer_email", "alice@example.com"),
        ("line_items[0][price]", "pro"),
        ("line_items[0][quantity]", "1"),
        ("line_items[1][price]", "pro_seat"),
        ("line_items[1][quantity]", &members.to_string()),
        ("line_items[2][price]", "pro_usage"),
        ("success_url", "https://app.example/billing?checkout=done"),
    ] {
        assert_eq!(form.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!form.contains_key("line_items[2][quantity]"), "metered prices have none");
    assert_eq!(form["metadata[organization_id]"], form["subscription_data[metadata][organization_id]"]);
    // The same key, another key, another administrator, and many at once: one page.
    let mut again = vec![checkout(&app, &alice, pro("a")).await, checkout(&app, &alice, pro("b")).await];
    let (app_of, token_of) = (&app, &alice);
    let clicks = (0..8).map(|n| async move { checkout(app_of, token_of, pro(&format!("many-{n}"))).await });
    again.extend(join_all(clicks).await);
    for again in &again {
        assert_eq!((codes(again), &again["action"]["id"]), (vec![], &first["action"]["id"]), "{again}");
    }
    assert_eq!(stripe.with(|account| account.count("/checkout/sessions")), 1);
    let other = checkout(&app, &alice, json!({ "plan": "STARTER", "idempotencyKey": "a" })).await;
    assert_eq!(codes(&other), ["IDEMPOTENCY_KEY_PARAMETER_MISMATCH"]);
    // Another page takes the place of the first.
    let year = json!({ "plan": "STARTER", "interval": "YEAR", "seats": 4, "idempotencyKey": "c", "successUrl": "https://app.example/thanks?x=1#y" });
    let second = checkout(&app, &carol, year).await;
    assert_eq!(codes(&second), [""; 0], "{second}");
    let open = stripe.with(|account| account.sessions.values().filter(|session| session["status"] == "open").count());
    assert_eq!(open, 1);
    let statuses: Vec<String> =
        sqlx::query_scalar("select status::text from tenantry.billing_actions order by created_at")
            .fetch_all(&mut app.database.system().await)
            .await
            .expect("rows");
    assert_eq!(statuses, ["SUPERSEDED", "DONE"]);
    // The page was paid, and its subscription has not arrived.
    stripe.with(|account| account.sessions.values_mut().for_each(|session| session["status"] = "complete".into()));
    assert_eq!(codes(&checkout(&app, &alice, pro("d")).await), ["SUBSCRIPTION_EXISTS"]);
}

#[tokio::test]
async fn billing_refuses_what_is_not_theirs_to_ask() {
    let stripe = FakeStripe::start().await;
    let app = start(&stripe, &[("CORS_ORIGINS", "https://admin.example")]).await;
    let (alice, dave) = (token(&app, "alice").await, token(&app, "dave").await);
    assert_eq!(codes(&checkout(&app, &alice, pro("living")).await), ["SUBSCRIPTION_EXISTS"]);
    app.sql("update tenantry.subscriptions set status = 'CANCELED', plan = 'FREE'").await;
    // It lives at Stripe: the webhook is on its way.
    assert_eq!(codes(&checkout(&app, &alice, pro("remote")).await), ["SUBSCRIPTION_EXISTS"]);
    stripe.change(SUBSCRIPTION, |object| object["status"] = "canceled".into());
    for (change, code) in [
        (json!({ "successUrl": "https://evil.example/" }), "URL_NOT_ALLOWED"),
        (json!({ "successUrl": "https://app.example.evil.example/" }), "URL_NOT_ALLOWED"),
        (json!({ "cancelUrl": "https://app.example@evil.example/" }), "URL_NOT_ALLOWED"),
        (json!({ "cancelUrl": "javascript:alert(1)" }), "URL_NOT_ALLOWED"),
        (json!({ "plan": null, "priceId": "price_of_nobody" }), "UNKNOWN_PRICE"),
        (json!({ "plan": null, "priceId": "pro_usage" }), "UNKNOWN_PRICE"),
        (json!({ "priceId": "starter" }), "UNKNOWN_PRICE"),
        (json!({ "interval": "YEAR" }), "UNKNOWN_PRICE"),
        (json!({ "currency": "EUR" }), "UNKNOWN_PRICE"),
        (json!({ "plan": "FREE" }), "UNKNOWN_PRICE"),
        (json!({ "plan": null }), "BLANK"),
        (json!({ "seats": 0 }), "INVALID"),
        (json!({ "seats": 100_001 }), "INVALID"),
        (json!({ "idempotencyKey": "" }), "INVALID"),
    ] {
        let mut input = pro("bad");
        for (name, value) in change.as_object().expect("an object") {
            input[name] = value.clone();
        }
        let refused = checkout(&app, &alice, input.clone()).await;
        assert_eq!(codes(&refused), [code], "{input}: {refused}");
    }
    let query = crate::support::mutation("billingCheckoutCreate", ACTION);
    assert_eq!(app.error_code(&dave, &query, json!({ "input": pro("x") })).await, "FORBIDDEN");
    let operator = app.impersonated("alice@example.com", Some("acme-corp"), "user_admin").await;
    assert_eq!(app.error_code(&operator, &query, json!({ "input": pro("x") })).await, "IMPERSONATION_RESTRICTED");
    assert_eq!(stripe.with(|account| account.posted.len()), 0, "nothing was asked of Stripe");
    // A price that Stripe does not have, in this mode.
    stripe.with(|account| account.prices.remove("pro_seat"));
    let missing = checkout(&app, &alice, pro("missing")).await;
    assert_eq!((codes(&missing), &missing["action"]["status"]), (vec!["WRONG_MODE"], &json!("FAILED")), "{missing}");
    // The same customer again, and no second trial.
    let fine = checkout(
        &app,
        &alice,
        json!({ "plan": "STARTER", "idempotencyKey": "fine", "cancelUrl": "https://admin.example/x" }),
    )
    .await;
    assert_eq!(codes(&fine), [""; 0], "{fine}");
    let form = stripe.with(|account| account.posted.last().expect("a request").1.clone());
    assert_eq!(form["customer"], CUSTOMER);
    assert!(!form.keys().any(|name| name.contains("trial") || name == "customer_email"));
    // Without a key of Stripe.
    let without = TestApp::start().await;
    let token = without.token("alice@example.com", Some("acme-corp")).await;
    assert_eq!(codes(&checkout(&without, &token, pro("x")).await), ["BILLING_NOT_CONFIGURED"]);
}

/// Whatever becomes of the answer, the same key ends with one page, or one charge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn billing_survives_a_stripe_that_fails() {
    let stripe = FakeStripe::start().await;
    let app = unsubscribed(&stripe).await;
    let alice = token(&app, "alice").await;
    for (n, (whim, code)) in [
        (Whim::Torn, "STRIPE_UNAVAILABLE"),
        (Whim::Refused(409, "lock_timeout"), "IDEMPOTENCY_CONCURRENT_REQUEST"),
        (Whim::Refused(429, "rate_limit"), "STRIPE_UNAVAILABLE"),
        (Whim::Refused(401, ""), "STRIPE_UNAVAILABLE"),
        (Whim::Broken, "STRIPE_UNAVAILABLE"),
        (Whim::Lost, "STRIPE_UNAVAILABLE"),
        (Whim::Late, ""),
    ]
    .into_iter()
    .enumerate()
    {
        stripe.whim(whim.clone());
        let input = json!({ "plan": "STARTER", "seats": n + 1, "idempotencyKey": format!("k{n}") });
        let made = checkout(&app, &alice, input.clone()).await;
        let expected: Vec<&str> = Some(code).filter(|code| !code.is_empty()).into_iter().collect();
        assert_eq!(codes(&made), expected, "{whim:?}: {made}");
        // Meanwhile nothing else is begun.
        if !expected.is_empty() {
            assert_eq!(made["action"]["status"], "PENDING", "{whim:?}: {made}");
            assert_eq!(codes(&checkout(&app, &alice, pro("meanwhile")).await), ["CONFLICT"], "{whim:?}");
        }
        let again = checkout(&app, &alice, input).await;
        assert_eq!((codes(&again), &again["action"]["status"]), (vec![], &json!("DONE")), "{whim:?}: {again}");
        assert_eq!(again["action"]["id"], made["action"]["id"], "{whim:?}");
        let url = again["action"]["url"].as_str().expect("a page").to_owned();
        let open = stripe.with(|account| {
            account.sessions.values().filter(|session| session["status"] == "open" && session["url"] == *url).count()
        });
        assert_eq!(open, 1, "{whim:?}: the page that was told is open");
    }
    // A final refusal is remembered, and refused again without asking.
    stripe.whim(Whim::Refused(400, "tax_id_invalid"));
    let refused = checkout(&app, &alice, pro("final")).await;
    assert_eq!(codes(&refused), ["STRIPE_REFUSED"]);
    let asked = stripe.with(|account| account.posted.len());
    assert_eq!(codes(&checkout(&app, &alice, pro("final")).await), ["STRIPE_REFUSED"]);
    assert_eq!(stripe.with(|account| account.posted.len()), asked);
    // While one is being made, the same key waits for nobody.
    stripe.whim(Whim::Held);
    let (held, other) = tokio::join!(checkout(&app, &alice, pro("held")), async {
        stripe.holds().await;
        let other = checkout(&app, &alice, pro("held")).await;
        stripe.let_go();
        other
    });
    assert_eq!(codes(&other), ["IDEMPOTENCY_CONCURRENT_REQUEST"], "{other}");
    assert_eq!(codes(&held), [""; 0], "{held}");
    // Whoever goes away leaves it to the job.
    app.sql("delete from tenantry.billing_actions").await;
    stripe.whim(Whim::Torn);
    checkout(&app, &alice, pro("left")).await;
    app.clock.advance(chrono::TimeDelta::minutes(2));
    app.run_job("billing-actions").await;
    let status: String = scalar(&app, "select status::text from tenantry.billing_actions").await;
    assert_eq!(status, "DONE");
}

const PREVIEW: &str = "preview { plan seats due { amount currencyCode } credit { amount } prorationDate nextRenewal { at amount { amount } } lines { amount { amount } isProration } }";

async fn preview(app: &TestApp, token: &str, input: Value) -> Value {
    app.mutate(token, "billingPlanPreview", PREVIEW, input).await
}

/// The change that a preview shows.
fn as_shown(shown: &Value, change: &Value, key: &str) -> Value {
    let preview = &shown["preview"];
    let mut input = change.clone();
    input["prorationDate"] = preview["prorationDate"].clone();
    input["expectedDue"] = preview["due"].clone();
    input["idempotencyKey"] = key.into();
    input
}

async fn change(app: &TestApp, token: &str, input: Value) -> Value {
    app.mutate(token, "billingPlanChange", ACTION, input).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn billing_changes_plans_for_what_was_shown() {
    let stripe = FakeStripe::start().await;
    let app = start(&stripe, &[]).await;
    let alice = token(&app, "alice").await;
    tell(&app, &stripe, app.clock.now().timestamp()).await;
    assert_eq!(row(&app).await, ("ACTIVE".to_owned(), "STARTER".to_owned(), 3));
    // Nothing said: the renewal.
    let renewal = preview(&app, &alice, json!({})).await;
    assert_eq!(renewal["preview"]["nextRenewal"]["amount"]["amount"], "30.00", "{renewal}");
    assert_eq!((&renewal["preview"]["due"]["amount"], &renewal["preview"]["seats"]), (&json!("0.00"), &json!(3)));
    // 3 x 10 become 100 a month, with half of it left: 50 - 15.
    let wanted = json!({ "plan": "ENTERPRISE", "seats": 1 });
    let shown = preview(&app, &alice, wanted.clone()).await;
    assert_eq!(
        (&shown["preview"]["due"]["amount"], &shown["preview"]["credit"]["amount"]),
        (&json!("35.00"), &json!("15.00")),
        "{shown}"
    );
    // What is not what was shown is not done.
    let mut other = as_shown(&shown, &wanted, "other");
    other["expectedDue"]["amount"] = "34.99".into();
    assert_eq!(codes(&change(&app, &alice, other).await), ["PREVIEW_OUTDATED"]);
    let mut old = as_shown(&shown, &wanted, "old");
    old["prorationDate"] = "2030-01-15T10:59:00Z".into();
    assert_eq!(codes(&change(&app, &alice, old).await), ["PREVIEW_OUTDATED"]);
    // Two clicks with keys of their own, at once, while Stripe is slow.
    stripe.whim(Whim::Late);
    let (one, two) = tokio::join!(
        change(&app, &alice, as_shown(&shown, &wanted, "one")),
        change(&app, &alice, as_shown(&shown, &wanted, "two"))
    );
    let done = [&one, &two].iter().filter(|made| made["action"]["status"] == "DONE").count();
    assert!(done >= 1, "{one} {two}");
    assert_eq!(stripe.with(|account| account.charged.clone()), [3_500]);
    // Until the webhook comes the row is as it was.
    assert_eq!(row(&app).await.1, "STARTER");
    tell(&app, &stripe, app.clock.now().timestamp() + 1).await;
    assert_eq!(row(&app).await.1, "ENTERPRISE");
    let same = as_shown(&shown, &wanted, "same");
    assert_eq!(codes(&change(&app, &alice, same).await), ["INVALID_TRANSITION"]);
    // Less: at once, and what was paid is a credit.
    app.clock.advance(chrono::TimeDelta::minutes(5));
    let wanted = json!({ "plan": "STARTER", "interval": "MONTH", "seats": 2 });
    let shown = preview(&app, &alice, wanted.clone()).await;
    assert_eq!(
        (&shown["preview"]["due"]["amount"], &shown["preview"]["credit"]["amount"]),
        (&json!("0.00"), &json!("50.00")),
        "{shown}"
    );
    let less = change(&app, &alice, as_shown(&shown, &wanted, "less")).await;
    assert_eq!(codes(&less), [""; 0], "{less}");
    assert_eq!((stripe.with(|account| account.charged.len()), stripe.quantity(SUBSCRIPTION, "starter")), (1, Some(2)));
    // A payment that needs the payer: nothing is given before it is made, and no second change begun.
    app.clock.advance(chrono::TimeDelta::minutes(5));
    let wanted = json!({ "plan": "PRO" });
    let shown = preview(&app, &alice, wanted.clone()).await;
    stripe.whim(Whim::Unpaid);
    let unpaid = change(&app, &alice, as_shown(&shown, &wanted, "unpaid")).await;
    assert_eq!(unpaid["action"]["url"], "https://invoice.stripe.com/i/unpaid", "{unpaid}");
    app.clock.advance(chrono::TimeDelta::minutes(5));
    assert_eq!(codes(&preview(&app, &alice, wanted).await), ["PAYMENT_REQUIRED"]);
}

/// Whatever becomes of the answer of a change, it is charged once.
#[tokio::test]
async fn billing_charges_a_change_once() {
    for whim in
        [Whim::Torn, Whim::Lost, Whim::Broken, Whim::Refused(409, "lock_timeout"), Whim::Refused(429, "rate_limit")]
    {
        let stripe = FakeStripe::start().await;
        let app = start(&stripe, &[]).await;
        let alice = token(&app, "alice").await;
        let wanted = json!({ "plan": "ENTERPRISE", "seats": 1 });
        let shown = preview(&app, &alice, wanted.clone()).await;
        stripe.whim(whim.clone());
        let input = as_shown(&shown, &wanted, "once");
        let failed = change(&app, &alice, input.clone()).await;
        assert_eq!(failed["action"]["status"], "PENDING", "{whim:?}: {failed}");
        let again = change(&app, &alice, input).await;
        assert_eq!((codes(&again), &again["action"]["status"]), (vec![], &json!("DONE")), "{whim:?}: {again}");
        assert_eq!(stripe.with(|account| account.charged.clone()), [3_500], "{whim:?}");
    }
}

#[tokio::test]
async fn billing_cancels_and_resumes() {
    let stripe = FakeStripe::start().await;
    let app = start(&stripe, &[]).await;
    let alice = token(&app, "alice").await;
    let ask = async |field: &str, input: Value| app.mutate(&alice, field, ACTION, input).await;
    assert_eq!(codes(&ask("billingResume", json!({ "idempotencyKey": "r0" })).await), ["INVALID_TRANSITION"]);
    let canceled = ask("billingCancel", json!({ "idempotencyKey": "c1" })).await;
    assert_eq!(codes(&canceled), [""; 0], "{canceled}");
    tell(&app, &stripe, app.clock.now().timestamp()).await;
    let shown = app
        .data(
            &alice,
            "{ organization { subscription { cancelAtPeriodEnd renewsAt status paymentProblem { code } } } }",
            json!({}),
        )
        .await;
    assert_eq!(
        shown["organization"]["subscription"],
        json!({ "cancelAtPeriodEnd": true, "renewsAt": null, "status": "ACTIVE", "paymentProblem": null })
    );
    app.clock.advance(chrono::TimeDelta::minutes(1));
    assert_eq!(codes(&ask("billingCancel", json!({ "idempotencyKey": "c2" })).await), ["INVALID_TRANSITION"]);
    // Another plan would end with it.
    assert_eq!(codes(&preview(&app, &alice, json!({ "plan": "ENTERPRISE" })).await), ["INVALID_TRANSITION"]);
    assert_eq!(codes(&ask("billingResume", json!({ "idempotencyKey": "r1" })).await), [""; 0]);
    assert_eq!(stripe.subscription(SUBSCRIPTION)["cancel_at_period_end"], false);
    // A schedule in Stripe decides.
    stripe.change(SUBSCRIPTION, |object| object["schedule"] = "sub_sched_1".into());
    app.clock.advance(chrono::TimeDelta::minutes(1));
    assert_eq!(codes(&ask("billingCancel", json!({ "idempotencyKey": "c3" })).await), ["INVALID_TRANSITION"]);
    stripe.change(SUBSCRIPTION, |object| object["schedule"] = Value::Null);
    // Of the other mode.
    stripe.change(SUBSCRIPTION, |object| object["livemode"] = true.into());
    assert_eq!(codes(&ask("billingCancel", json!({ "idempotencyKey": "c4" })).await), ["WRONG_MODE"]);
    let mut foreign =
        event("customer.subscription.deleted", &stripe.subscription(SUBSCRIPTION), app.clock.now().timestamp());
    foreign["livemode"] = true.into();
    apply(&app, &[foreign]).await;
    assert_eq!(row(&app).await.0, "ACTIVE", "events of the other mode are nobody's");
    stripe.change(SUBSCRIPTION, |object| object["livemode"] = false.into());
    let portal = ask("billingPortalCreate", json!({ "idempotencyKey": "p1", "paymentMethod": true })).await;
    assert!(
        portal["action"]["url"].as_str().is_some_and(|url| url.starts_with("https://billing.stripe.com/")),
        "{portal}"
    );
    let ended = ask("billingCancel", json!({ "when": "NOW", "idempotencyKey": "c5" })).await;
    assert_eq!(codes(&ended), [""; 0], "{ended}");
    tell(&app, &stripe, app.clock.now().timestamp() + 5).await;
    assert_eq!((row(&app).await.0, row(&app).await.1), ("CANCELED".to_owned(), "FREE".to_owned()));
    assert_eq!(codes(&ask("billingCancel", json!({ "idempotencyKey": "c6" })).await), ["NO_SUBSCRIPTION"]);
    // Everything is in the audit log, and no address is.
    let actions: Vec<String> = sqlx::query_scalar(
        "select action || ' ' || metadata::text from tenantry.audit_logs where action like 'billing.%' order by id",
    )
    .fetch_all(&mut app.database.system().await)
    .await
    .expect("the log");
    assert!(
        actions.iter().any(|entry| entry.starts_with("billing.finish"))
            && !actions.iter().any(|entry| entry.contains("https://")),
        "{actions:?}"
    );
}
