//! Who hears of changes: everybody who listens, and nobody is told who does not.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::json;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tenantry::events::{CHANNEL, Events};
use tenantry::id::{OrganizationId, TicketId, marker};
use tenantry::local_postgres;
use tokio::sync::watch;

use crate::support::TestApp;

const CREATE: &str = "mutation { ticketCreate(input: { subject: \"heard\" }) { ticket { id } userErrors { code } } }";

async fn create(app: &TestApp, token: &str) -> TicketId {
    let data = app.data(token, CREATE, json!({})).await;
    TicketId::parse(data["ticketCreate"]["ticket"]["id"].as_str().expect("a ticket")).expect("an id")
}

async fn acme(app: &TestApp) -> OrganizationId {
    let sql = "select id from tenantry.organizations where slug = 'acme-corp'";
    let id = sqlx::query_scalar(sql).fetch_one(&mut app.database.system().await).await.expect("Acme");
    OrganizationId::from_uuid(id)
}

/// Another instance of the server, as far as events are concerned.
fn other_instance(app: &TestApp) -> (Events, watch::Sender<bool>) {
    let events = Events::default();
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(events.clone().listen(app.database.options(local_postgres::APP_ROLE), stopping));
    (events, stop)
}

/// Waits until the event of this ticket arrives.
async fn hears(events: &mut (impl futures_util::Stream<Item = tenantry::events::Event> + Unpin), id: TicketId) -> bool {
    let heard = async {
        while let Some(event) = events.next().await {
            if event.id_of::<marker::Ticket>() == Some(id) {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(Duration::from_secs(20), heard).await.unwrap_or(false)
}

/// NOTIFY lets one transaction of the whole server commit at a time: a change that nobody follows does without.
#[tokio::test]
async fn events_are_told_only_where_somebody_listens() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let pool =
        PgPoolOptions::new().max_connections(1).connect_lazy_with(app.database.options(local_postgres::APP_ROLE));
    let mut listener = PgListener::connect_with(&pool).await.expect("a connection");
    listener.listen(CHANNEL).await.expect("listening");
    create(&app, &alice).await;
    let (events, stop) = other_instance(&app);
    let mut followed = Box::pin(events.subscribe(acme(&app).await).await.expect("a subscription"));
    let id = create(&app, &alice).await;
    assert!(hears(&mut followed, id).await, "who follows hears");
    let first = tokio::time::timeout(Duration::from_secs(20), listener.recv()).await.expect("in time").expect("told");
    assert!(first.payload().contains(&id.uuid().to_string()), "only the second change was told: {}", first.payload());
    drop(followed);
    stop.send(true).expect("it listens");
}

/// A change that was under way when somebody subscribed may be missed, one that began later never: subscriptions come and go
/// while several clients write.
#[tokio::test]
async fn events_miss_nothing_that_begins_after_a_subscription() {
    let app = std::sync::Arc::new(TestApp::start().await);
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let organization = acme(&app).await;
    let (events, stop) = other_instance(&app);
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let (app, alice) = (std::sync::Arc::clone(&app), alice.clone());
            tokio::spawn(async move {
                loop {
                    create(&app, &alice).await;
                }
            })
        })
        .collect();
    for round in 0..25 {
        let mut followed = Box::pin(events.subscribe(organization).await.expect("a subscription"));
        let id = create(&app, &alice).await;
        assert!(hears(&mut followed, id).await, "round {round}");
    }
    for writer in writers {
        writer.abort();
    }
    stop.send(true).expect("it listens");
}

#[tokio::test]
async fn events_arrive_again_after_the_connection_was_lost() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let organization = acme(&app).await;
    let mut followed = Box::pin(app.app.services.events.subscribe(organization).await.expect("a subscription"));
    let ended: i64 = sqlx::query_scalar(
        "select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity
          where datname = current_database() and application_name = 'tenantry-events'",
    )
    .fetch_one(&mut app.database.superuser().await)
    .await
    .expect("ended");
    assert_eq!(ended, 1);
    // A new subscription waits for the new connection, which hears for all.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let later = app.app.services.events.subscribe(organization).await.expect("a subscription after the loss");
    let id = create(&app, &alice).await;
    assert!(hears(&mut followed, id).await, "the subscription of before hears again");
    drop(later);
}
