//! Paying through Stripe, in whatever mood it is.

use chrono::TimeDelta;
use serde_json::{Value, json};
use tenantry::app::App;

use super::fake::{FakeStripe, Whim};
use super::{
    approve_all, current, customer, is_whole, organization, pass, request, requested, run, scalar, start, sums, token,
};
use crate::support::{TestApp, codes};

async fn pay(app: &App) -> u64 {
    app.payer.pay_due().await.expect("a payer")
}

struct Scene {
    app: TestApp,
    stripe: FakeStripe,
    ivan: String,
    own: Value,
}

/// A server with a Stripe that has a payment of 100.00 of the organization, `pi_1`, and rules that approve.
async fn scene() -> Scene {
    let stripe = FakeStripe::start().await;
    let app = start(Some(&stripe)).await;
    app.run_job("budget-reservations").await;
    approve_all(&app).await;
    let own = json!({ "merchant_organization_id": organization(&app, "acme-corp").await });
    stripe.pay("pi_1", 10_000, own.clone());
    let ivan = customer(&app, "Ivan").await;
    Scene { app, stripe, ivan, own }
}

impl Scene {
    /// A token of now: days pass.
    async fn alice(&self) -> String {
        token(&self.app, "alice").await
    }

    async fn request(&self, amount: &str, key: &str, payment: &str) -> Value {
        let more = json!({ "stripePaymentIntentId": payment });
        requested(&self.app, &self.alice().await, request(&self.ivan, amount, key, &more)).await
    }

    async fn now(&self, refund: &Value) -> Value {
        current(&self.app, &self.alice().await, &refund["id"]).await
    }

    fn made(&self, refund: &Value) -> usize {
        self.stripe.refunds_of(refund["id"].as_str().expect("an id")).len()
    }
}

/// Every mood of Stripe: each refund is made there once, its money spent once, and nothing stays reserved.
#[tokio::test]
async fn refunds_are_paid_once_whatever_stripe_does() {
    let scene = scene().await;
    let (app, stripe) = (&scene.app, &scene.stripe);
    let before = sums(app).await;
    let moods = [
        vec![Whim::Well],
        vec![Whim::Late],
        vec![Whim::Torn],
        vec![Whim::Refused(409, "idempotency_key_in_use"), Whim::Well],
        vec![Whim::Later(429, 30), Whim::Later(429, 1), Whim::Well],
        vec![Whim::Refused(503, ""), Whim::Torn],
        vec![Whim::Lost],
        vec![Whim::Refused(401, ""), Whim::Well],
    ];
    for (n, mood) in moods.iter().enumerate() {
        stripe.with(|account| account.whims = mood.clone().into());
        let refund = scene.request("1.00", &format!("mood-{n}"), "pi_1").await;
        let mut tries = 0;
        while scene.now(&refund).await["status"] != "SETTLED" {
            tries += 1;
            assert!(tries < 60, "{mood:?}: {}", scene.now(&refund).await);
            pay(&app.app).await;
            // What a key was answered with once, it is answered with for a day.
            pass(app, TimeDelta::minutes(if tries > 8 { 61 } else { 5 }));
        }
        assert_eq!(scene.made(&refund), 1, "{mood:?}");
    }
    let paid = i64::try_from(moods.len()).expect("few") * 100;
    let after = sums(app).await;
    assert_eq!((after.0 - before.0, after.1), (paid, before.1), "spent once each, and nothing is held");
    is_whole(app).await;
}

/// A key that Stripe may have forgotten is not sent again before Stripe was asked for the refund.
#[tokio::test]
async fn refunds_get_another_key_when_stripe_has_forgotten_theirs() {
    let scene = scene().await;
    let (app, stripe) = (&scene.app, &scene.stripe);
    // The first answer is lost, and lists fail for a day: then the refund is found, and nothing is sent.
    stripe.whim(Whim::Torn);
    let lost = scene.request("10.00", "lost", "pi_1").await;
    pay(&app.app).await;
    stripe.with(|account| account.lists = vec![Whim::Refused(503, ""); 9].into());
    pass(app, TimeDelta::minutes(1));
    pay(&app.app).await;
    pass(app, TimeDelta::hours(30));
    stripe.with(|account| account.lists.clear());
    pay(&app.app).await;
    assert_eq!((&scene.now(&lost).await["status"], scene.made(&lost)), (&json!("SETTLED"), 1));
    assert_eq!(stripe.with(|account| account.posted.len()), 1);
    // One that was answered with 500 and never made goes out under another key after a day, and not before.
    stripe.whim(Whim::Refused(500, ""));
    let never = scene.request("10.00", "never", "pi_1").await;
    for _ in 0..5 {
        pay(&app.app).await;
        pass(app, TimeDelta::hours(4));
    }
    let keys = |stripe: &FakeStripe| {
        let mut keys = stripe.with(|account| account.posted[1..].to_vec());
        keys.dedup();
        keys
    };
    assert_eq!(keys(stripe).len(), 1, "{:?}", keys(stripe));
    assert_eq!(scene.now(&never).await["status"], "PROCESSING");
    pass(app, TimeDelta::hours(5));
    pay(&app.app).await;
    let state = scene.now(&never).await;
    assert_eq!((&state["status"], scene.made(&never), keys(stripe).len()), (&json!("SETTLED"), 1, 2), "{state}");
    is_whole(app).await;
}

/// What Stripe does not pay has failed with its reason, and its money is free again; it can be paid again.
#[tokio::test]
async fn refunds_that_stripe_refuses_give_their_money_back() {
    let scene = scene().await;
    let (app, stripe) = (&scene.app, &scene.stripe);
    let before = sums(app).await;
    for (n, (status, code, told)) in [
        (400, "charge_disputed", "disputed"),
        (400, "charge_already_refunded", "given back already"),
        (402, "balance_insufficient", "balance"),
        (400, "something_else", "something_else"),
    ]
    .into_iter()
    .enumerate()
    {
        stripe.whim(Whim::Refused(status, code));
        let refund = scene.request("5.00", &format!("refused-{n}"), "pi_1").await;
        pay(&app.app).await;
        let state = scene.now(&refund).await;
        assert_eq!(state["status"], "FAILED", "{code}: {state}");
        assert!(state["failureReason"].as_str().is_some_and(|why| why.contains(told)), "{code}: {state}");
        assert_eq!(sums(app).await, before, "{code}");
        if n == 0 {
            let retry =
                run(app, &scene.alice().await, "refundRetry", json!({ "id": refund["id"], "idempotencyKey": "again" }))
                    .await;
            assert_eq!(retry["refund"]["status"], "APPROVED", "{retry}");
            pay(&app.app).await;
            assert_eq!((&scene.now(&refund).await["status"], scene.made(&refund)), (&json!("SETTLED"), 1));
            let keys = stripe.with(|account| account.posted.clone());
            assert_ne!(keys[0], keys[1], "a new attempt has a key of its own");
            // Days later Stripe says that it could not be paid out after all.
            stripe.with(|account| {
                account.refunds[0]["status"] = "failed".into();
            });
            let failed = stripe.with(|account| account.refunds[0].clone());
            super::events::deliver_event(app, "refund.failed", &failed).await;
            let state = scene.now(&refund).await;
            assert_eq!(
                (&state["status"], &state["reservation"]["status"]),
                (&json!("FAILED"), &json!("RETURNED")),
                "{state}"
            );
            assert_eq!(sums(app).await, before, "the money came back");
            stripe.with(|account| account.refunds.clear());
        }
    }
    is_whole(app).await;
}

/// Nobody gives back what was not paid to them: not a payment of another organization, nor one's own to the platform, nor of
/// another customer, nor in another currency, nor one that was not received.
#[tokio::test]
async fn refunds_of_payments_of_others_are_not_paid() {
    let scene = scene().await;
    let (app, stripe) = (&scene.app, &scene.stripe);
    let before = sums(app).await;
    let startup = organization(app, "tech-startup").await;
    let (own, heidi) = (scene.own["merchant_organization_id"].clone(), customer(app, "Heidi").await);
    let euros = |stripe: &FakeStripe| {
        stripe.with(|account| account.payments.get_mut("pi_eur").expect("a payment")["currency"] = "eur".into());
    };
    for (id, metadata) in [
        ("pi_foreign", json!({ "merchant_organization_id": startup })),
        ("pi_nobody", json!({})),
        ("pi_platform", json!({ "organization_id": own })),
        ("pi_heidi", json!({ "merchant_organization_id": own, "merchant_customer_id": heidi })),
        ("pi_eur", scene.own.clone()),
        ("pi_open", scene.own.clone()),
        ("pi_small", scene.own.clone()),
    ] {
        stripe.pay(id, if id == "pi_small" { 499 } else { 10_000 }, metadata);
    }
    euros(stripe);
    stripe
        .with(|account| account.payments.get_mut("pi_open").expect("a payment")["status"] = "requires_capture".into());
    for id in ["pi_foreign", "pi_nobody", "pi_platform", "pi_heidi", "pi_eur", "pi_open", "pi_small", "pi_none"] {
        let refund = scene.request("5.00", id, id).await;
        pay(&app.app).await;
        let state = scene.now(&refund).await;
        assert_eq!(state["status"], "FAILED", "{id}: {state}");
    }
    assert_eq!(stripe.with(|account| account.posted.len()), 0, "nothing was sent");
    assert_eq!(sums(app).await, before);
    // One that names the customer, who became another since.
    let ivan: String = scalar(app, "select id::text from tenantry.customer_profiles where name like 'Ivan%'").await;
    stripe.pay("pi_merged", 1_000, json!({ "merchant_organization_id": own, "merchant_customer_id": heidi }));
    app.sql(&format!(
        "update tenantry.customer_profiles set merged_into_id = '{ivan}', deleted_at = now() where name like 'Heidi%'"
    ))
    .await;
    let refund = scene.request("5.00", "merged", "pi_merged").await;
    pay(&app.app).await;
    assert_eq!(scene.now(&refund).await["status"], "SETTLED");
    is_whole(app).await;
}

/// Partial and repeated refunds, sixteen at once and by four who pay: never more than the payment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn refunds_never_exceed_their_payment() {
    let scene = scene().await;
    let (app, stripe) = (&scene.app, &scene.stripe);
    let before = sums(app).await;
    stripe.pay("pi_50", 5_000, scene.own.clone());
    // Nothing is known of the payment yet: all are approved, and what does not fit fails before it is sent.
    let all = futures_util::future::join_all((0..16).map(|n| {
        let scene = &scene;
        async move { scene.request("12.00", &format!("at-once-{n}"), "pi_50").await }
    }))
    .await;
    futures_util::future::join_all((0..4).map(|_| pay(&app.app))).await;
    pay(&app.app).await;
    let mut states = Vec::new();
    for refund in &all {
        states.push(scene.now(refund).await["status"].clone());
    }
    let count = |status: &str| states.iter().filter(|state| *state == status).count();
    assert_eq!((count("SETTLED"), count("FAILED")), (4, 12), "{states:?}");
    assert_eq!(stripe.with(|account| account.refunds.len()), 4);
    assert_eq!(sums(app).await, (before.0 + 4_800, before.1, 0));
    // Now it is known: what does not fit is refused at once, sixteen at once as well.
    let more = json!({ "stripePaymentIntentId": "pi_50" });
    let over = run(app, &scene.alice().await, "refundRequest", request(&scene.ivan, "2.01", "over", &more)).await;
    assert_eq!(codes(&over), ["EXCEEDS_CHARGE"], "{over}");
    let rest = futures_util::future::join_all((0..16).map(|n| {
        let (scene, more) = (&scene, &more);
        async move {
            run(
                &scene.app,
                &scene.alice().await,
                "refundRequest",
                request(&scene.ivan, "0.50", &format!("rest-{n}"), more),
            )
            .await
        }
    }))
    .await;
    let fits = rest.iter().filter(|made| codes(made).is_empty()).count();
    assert_eq!(fits, 4, "{rest:?}");
    pay(&app.app).await;
    let given: i64 = stripe.with(|account| account.refunds.iter().filter_map(|refund| refund["amount"].as_i64()).sum());
    assert_eq!(given, 5_000, "all of it, and no more");
    let euros = json!({ "amount": { "amount": "1.00", "currencyCode": "EUR" }, "stripePaymentIntentId": "pi_50" });
    let other = run(app, &scene.alice().await, "refundRequest", request(&scene.ivan, "1.00", "eur", &euros)).await;
    assert_eq!(codes(&other), ["CURRENCY_MISMATCH"]);
    is_whole(app).await;
}

/// A refund that Stripe has and has not paid out yet is spent, and asked about until it is.
#[tokio::test]
async fn refunds_on_their_way_are_asked_about() {
    let scene = scene().await;
    let (app, stripe) = (&scene.app, &scene.stripe);
    let before = sums(app).await;
    stripe.whim(Whim::Made("pending"));
    let refund = scene.request("10.00", "slow", "pi_1").await;
    pay(&app.app).await;
    assert_eq!(scene.now(&refund).await["status"], "PROCESSING");
    assert_eq!(sums(app).await, (before.0 + 1_000, before.1, 0), "Stripe has taken the money");
    assert_eq!(
        codes(&run(app, &scene.alice().await, "refundCancel", json!({ "id": refund["id"] })).await),
        ["INVALID_TRANSITION"]
    );
    pass(app, TimeDelta::days(3));
    pay(&app.app).await;
    assert_eq!(scene.now(&refund).await["status"], "PROCESSING");
    stripe.with(|account| account.refunds[0]["status"] = "succeeded".into());
    pass(app, TimeDelta::days(1));
    pay(&app.app).await;
    assert_eq!(scene.now(&refund).await["status"], "SETTLED");
    assert_eq!(pay(&app.app).await, 0, "nothing is left to do");
    // A copy of the organization pays nothing.
    let waiting = scene.request("7.00", "copied", "pi_1").await;
    let mut file = Vec::new();
    let own = tenantry::organizations::find_organization(&app.database.db(), "acme-corp")
        .await
        .expect("a look")
        .expect("one");
    tenantry::transfer::export(&app.database.db(), own, &mut file).await.expect("an export");
    let options = tenantry::transfer::Import { slug: Some("acme-copy".to_owned()), as_copy: true };
    tenantry::transfer::import(&app.database.db(), &app.clock, file.as_slice(), &options).await.expect("a copy");
    let copied = "select r.status::text from tenantry.refunds r join tenantry.organizations o on o.id = r.organization_id where o.slug = 'acme-copy' and r.amount_minor = 700";
    assert_eq!(scalar::<String>(app, copied).await, "CANCELLED");
    pay(&app.app).await;
    assert_eq!(
        (&scene.now(&waiting).await["status"], stripe.with(|account| account.refunds.len())),
        (&json!("SETTLED"), 2)
    );
    is_whole(app).await;
}
