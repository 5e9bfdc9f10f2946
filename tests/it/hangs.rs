//! A database that hangs: it takes what is sent, answers nothing, and closes nothing. Whoever waits for it stops waiting, and goes on by
//! itself when a way leads to a database again, although the old connections never end. And clients that hang.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tenantry::access::OrganizationRef;
use tenantry::clock::Clock;
use tenantry::db::{Db, Patience, PoolLimits, SystemTx, TenantTx};
use tenantry::error::{Error, Result};
use tenantry::job_runs::{self, Outcome};
use tenantry::local_postgres;
use tenantry::webhook_events::WebhookSource::Clerk;
use tenantry::webhooks::worker::Worker;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::door::Door;
use crate::support::{Setup, TestApp, TestDb, cluster};
use crate::webhooks::{clerk, deliver, environment, none_left};

/// Longer than anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(40);
const CHANGED: &str = "subscription { ticketChanged { ticket { subject } } }";

/// Two connections for reading, two for writing, two of the system; and short waits.
fn short() -> PoolLimits {
    let (beginning, ending) = (Duration::from_secs(1), Duration::from_secs(1));
    let (api, system) = (Duration::from_secs(3), Duration::from_secs(3));
    let patience = Patience { beginning, api, system, ending };
    let acquire_timeout = Duration::from_secs(2);
    PoolLimits { max_connections: 4, acquire_timeout, patience, ..PoolLimits::default() }
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Everything that a [`Db`] of these limits can have at the same time.
struct Everything {
    system: Vec<SystemTx>,
    writing: Vec<TenantTx>,
    reading: Vec<TenantTx<tenantry::db::Reading>>,
}

impl Everything {
    async fn begin(db: &Db) -> Result<Self> {
        let organization = OrganizationRef::Slug("acme-corp".into());
        let (mut system, mut writing, mut reading) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..2 {
            system.push(SystemTx::begin(db).await?);
            writing.push(TenantTx::begin(db, "user_alice", &organization, Arc::default()).await?);
            reading.push(TenantTx::read(db, "user_alice", &organization, Arc::default()).await?);
        }
        Ok(Self { system, writing, reading })
    }

    /// Runs a statement on one of each, and leaves the others as they are.
    async fn run(&mut self, sql: &'static str) -> Vec<Result<()>> {
        let (system, writing) = (self.system[0].conn(), self.writing[0].conn());
        let (by_system, by_writer, by_reader) = tokio::join!(
            sqlx::raw_sql(sql).execute(system),
            sqlx::query(sql).fetch_optional(writing),
            self.reading[0].fetch(sql, &[]),
        );
        vec![by_system.map(drop).map_err(Error::from), by_writer.map(drop).map_err(Error::from), by_reader.map(drop)]
    }
}

/// How many statements of this text run.
async fn running(database: &TestDb, sql: &str) -> i64 {
    let look = format!(
        "select count(*) from pg_stat_activity where datname = '{}' and state = 'active' and query = '{sql}'",
        database.name
    );
    sqlx::query_scalar(AssertSqlSafe(look)).fetch_one(&mut database.superuser().await).await.expect("a look")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_a_database_that_hangs_stops_waiting() {
    const LONG: &str = "select pg_sleep(50)";
    let database = TestDb::seeded().await;
    let door = Door::open(&database.options(local_postgres::APP_ROLE)).await;
    let by = |role| database.options_by(door.port, role);
    let db = Db::new(by(local_postgres::APP_ROLE), by(local_postgres::SUPERADMIN_ROLE), short());
    let mut everything = Everything::begin(&db).await.expect("connections");
    // A job of its own pool has its lock, and its work is under way.
    let jobs = Db::new(by(local_postgres::APP_ROLE), by(local_postgres::SUPERADMIN_ROLE), short());
    let work = async || {
        job_runs::run(&jobs, &Clock::System, "a job", None, || async {
            sqlx::raw_sql(LONG).execute(SystemTx::begin(&jobs).await?.conn()).await?;
            Ok(1)
        })
        .await
    };
    let freezing = async {
        until("the statements run", async || running(&database, LONG).await == 4).await;
        door.freeze();
    };
    let asked = Box::pin(async { tokio::join!(everything.run(LONG), work(), freezing) });
    let (results, job, ()) = timeout(PATIENCE, asked).await.expect("nobody waits for ever");
    for result in results {
        assert!(matches!(result, Err(Error::Unavailable)), "{result:?}");
    }
    assert!(matches!(job, Err(Error::Unavailable)), "{job:?}");
    // What was idle in its transaction cannot be rolled back either, and whoever comes gets nothing.
    drop(everything);
    for _ in 0..4 {
        let version = timeout(Duration::from_millis(100), db.migration_version()).await;
        assert!(!matches!(version, Ok(Ok(_))), "{version:?}");
    }
    assert!(matches!(SystemTx::begin(&db).await, Err(Error::Unavailable)));
    until("every connection is given up", async || db.usage().iter().all(|pool| pool.in_use == 0)).await;

    // A way leads to the database again; what was open stays stuck. Every place is free.
    door.lead_again();
    let mut everything = Everything::begin(&db).await.expect("connections");
    let results = everything.run("select 1").await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    drop(everything);
    // The database has let go of what the job held when its connection ends; a minute later it would by itself.
    door.cut();
    until("the job runs again", async || {
        let run = job_runs::run(&jobs, &Clock::System, "a job", None, || async { Ok(1) }).await;
        matches!(run, Ok(Outcome::Ran(_)))
    })
    .await;
    let held = SystemTx::begin(&db).await.expect("a connection");
    door.freeze();
    timeout(PATIENCE, join_all([db.close(), jobs.close()])).await.expect("a stop does not wait for it either");
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_answer_while_their_database_hangs_and_go_on_by_themselves() {
    let door = Door::open(&cluster().await.server.connect_options(local_postgres::APP_ROLE, "postgres")).await;
    let limits = PoolLimits { max_connections: 10, workers: 2, ..short() };
    let setup = Setup { environment: environment(), way: Some((door.port, limits)), ..Setup::default() };
    let app = TestApp::start_with(setup).await;
    let (stop, stopping) = watch::channel(false);
    let worker = Worker::new(&app.app.webhooks);
    let way = app.database.options_by(door.port, local_postgres::SUPERADMIN_ROLE);
    tokio::spawn(worker.clone().listen(way, stopping.clone()));
    tokio::spawn(worker.run(stopping.clone()));
    tokio::spawn(Arc::clone(&app.app.edge.rates).keep_sharing(app.app.services.db.clone(), stopping));
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let mut stream = app.follow(&alice, CHANGED, json!({})).await;
    app.subscribed(1).await;
    let ready = async || {
        let answer = app.client().get(format!("{}/readyz", app.base_url())).send().await.expect("an answer");
        answer.status().as_u16()
    };
    let user = || clerk("user.created", "user_1").to_string();
    let read = "{ organization { tickets(first: 1) { nodes { number } } } }";
    let open = "mutation($i: TicketCreateInput!) { ticketCreate(input: $i) { ticket { number } } }";
    let ticket =
        |subject: &str| json!({ "i": { "subject": subject, "idempotencyKey": format!("the-key-of-{subject}") } });
    assert_eq!((ready().await, deliver(&app, Clerk, "msg_before", user()).await.0), (200, 200));

    door.freeze();
    // All at once, and several of each: who waits keeps nobody else from being answered.
    let asked = timeout(PATIENCE, async {
        let reading = join_all((0..8).map(|_| app.error_code(&alice, read, json!({}))));
        let writing = join_all((0..8).map(|n| {
            let (app, alice, input) = (&app, &alice, ticket(&format!("lost {n}")));
            async move { app.error_code(alice, open, input).await }
        }));
        let delivering = join_all(["msg_1", "msg_2"].map(|id| deliver(&app, Clerk, id, user())));
        tokio::join!(reading, writing, delivering, join_all((0..8).map(|_| ready())))
    });
    let (reading, writing, delivering, ready_or_not) = asked.await.expect("everybody is answered");
    for code in reading.iter().chain(&writing) {
        assert!(["UNAVAILABLE", "TIMEOUT"].contains(&code.as_str()), "{code}");
    }
    assert!(delivering.iter().all(|(status, code)| (*status, code.as_str()) == (503, "UNAVAILABLE")), "{delivering:?}");
    assert!(ready_or_not.iter().all(|status| *status == 503), "{ready_or_not:?}");

    door.lead_again();
    until("it is ready", async || ready().await == 200).await;
    until("it takes changes", async || app.run(&alice, open, ticket("after")).await["errors"].is_null()).await;
    until("it shows them", async || app.run(&alice, read, json!({})).await["errors"].is_null()).await;
    until("it takes webhooks", async || deliver(&app, Clerk, "msg_1", user()).await.0 == 200).await;
    none_left(&app.database, "status in ('RECEIVED', 'FAILED')").await;
    // Subscribers hear of what came after, and of what was done although its answer was lost.
    let heard = async {
        let mut text = String::new();
        while !text.contains("\"after\"") {
            text += &String::from_utf8_lossy(&stream.chunk().await.expect("the stream lives").expect("more"));
        }
    };
    timeout(PATIENCE, heard).await.expect("the event comes");
    // And so do those who come now.
    let another = app.follow(&alice, CHANGED, json!({})).await;
    app.subscribed(2).await;
    drop((stream, another));
    stop.send_replace(true);
}

#[tokio::test]
async fn sockets_of_clients_that_hang_are_ended() {
    let app = TestApp::start_with(Setup { ping: Some(Duration::from_millis(500)), ..Setup::default() }).await;
    let door = Door::open_to_server(app.address()).await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let mut sockets = Vec::new();
    for port in [door.port, app.address().port()] {
        let mut request = format!("ws://127.0.0.1:{port}/graphql/ws").into_client_request().expect("a request");
        let protocol = "graphql-transport-ws".parse().expect("a header");
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        let (mut socket, _) = connect_async(request).await.expect("a socket");
        let init = json!({ "type": "connection_init", "payload": { "authorization": format!("Bearer {alice}") } });
        socket.send(Message::text(init.to_string())).await.expect("sent");
        let told = socket.next().await.expect("more").expect("a message").into_text().expect("text");
        assert_eq!(serde_json::from_str::<Value>(&told).expect("JSON")["type"], "connection_ack");
        let subscribe = json!({ "id": "1", "type": "subscribe", "payload": { "query": CHANGED } });
        socket.send(Message::text(subscribe.to_string())).await.expect("sent");
        sockets.push(socket);
    }
    app.subscribed(2).await;
    // The other one answers to pings, as long as it is read.
    let living = sockets.pop().expect("two");
    let reading = tokio::spawn(living.for_each(|_| std::future::ready(())));
    door.freeze();
    until("its place is free", async || app.app.services.events.subscribers() == 1).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(app.app.services.events.subscribers(), 1, "whoever answers stays");
    assert!(!reading.is_finished());
    drop(sockets);
}
