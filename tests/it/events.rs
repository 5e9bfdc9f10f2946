//! The log of events: everybody who listens hears everything once, whatever happens meanwhile, and nobody is told who does not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _};
use tenantry::access::Actor;
use tenantry::db::{Db, PoolLimits, SystemTx, migrations};
use tenantry::error::{Code, Error};
use tenantry::events::{
    self, CHANNEL, Cursor, Event, Events, Follower, OF_CREDENTIAL, OF_ORGANIZATION, OF_PROCESS, Step,
};
use tenantry::id::{OrganizationId, TicketId, UserId, marker};
use tenantry::local_postgres::{self, LocalPostgres};
use tokio::sync::watch;
use uuid::Uuid;

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

/// Somebody; each of them has room for some hundred subscriptions.
fn somebody(number: u128) -> Actor {
    Actor::User(UserId::from_uuid(Uuid::from_u128(number)))
}

/// An instance of the server, as far as events are concerned.
struct Instance {
    events: Events,
    _stop: watch::Sender<bool>,
}

impl Instance {
    fn start(db: &Db, options: PgConnectOptions) -> Self {
        let events = Events::new(db.clone());
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(events.clone().listen(options, stopping));
        Self { events, _stop: stop }
    }

    fn beside(app: &TestApp) -> Self {
        Self::start(&app.database.db(), app.database.options(local_postgres::APP_ROLE))
    }

    async fn follow(&self, organization: OrganizationId, from: Option<&str>) -> Follower {
        let from = from.map(|from| Cursor::parse(from).expect("a cursor"));
        self.events.subscribe(organization, somebody(1), from).await.expect("a subscription")
    }
}

/// The next ticket that is told of.
async fn next(follower: &mut Follower) -> TicketId {
    let told = async {
        loop {
            if let Step::Event(event) = follower.next().await.expect("more").expect("an event")
                && let Some(id) = event.id_of::<marker::Ticket>()
            {
                return id;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("it is told in time")
}

/// NOTIFY lets one transaction of the whole server commit at a time: a change that nobody follows does without.
#[tokio::test]
async fn events_are_told_only_where_somebody_listens() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let acme = acme(&app).await;
    let pool =
        PgPoolOptions::new().max_connections(1).connect_lazy_with(app.database.options(local_postgres::APP_ROLE));
    let mut listener = PgListener::connect_with(&pool).await.expect("a connection");
    listener.listen(CHANNEL).await.expect("listening");
    create(&app, &alice).await;
    app.sql(&format!("select pg_notify('{CHANNEL}', 'between')")).await;
    let instance = Instance::beside(&app);
    let mut follower = instance.follow(acme, None).await;
    let id = create(&app, &alice).await;
    assert_eq!(next(&mut follower).await, id, "who follows hears");
    let mut told = Vec::new();
    for _ in 0..2 {
        let heard = tokio::time::timeout(Duration::from_secs(20), listener.recv()).await.expect("in time");
        told.push(heard.expect("told").payload().to_owned());
    }
    assert_eq!(told, ["between".to_owned(), acme.uuid().to_string()]);
}

/// A change that was under way when somebody subscribed may be missed, one that began later never: subscriptions come and go
/// while several clients write.
#[tokio::test]
async fn events_miss_nothing_that_begins_after_a_subscription() {
    let app = Arc::new(TestApp::start().await);
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let organization = acme(&app).await;
    let instance = Instance::beside(&app);
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let (app, alice) = (Arc::clone(&app), alice.clone());
            tokio::spawn(async move {
                loop {
                    create(&app, &alice).await;
                }
            })
        })
        .collect();
    for _ in 0..20 {
        let mut follower = instance.follow(organization, None).await;
        let id = create(&app, &alice).await;
        while next(&mut follower).await != id {}
    }
    for writer in writers {
        writer.abort();
    }
}

/// Tells of tickets in transactions that end in another order than they began, some of them not at all, until all are told.
async fn write(db: Db, organization: OrganizationId, tickets: Vec<Uuid>) {
    let tasks = tickets.chunks(tickets.len().div_ceil(6)).map(|own| {
        let (db, own) = (db.clone(), own.to_vec());
        tokio::spawn(async move {
            for (place, ids) in own.chunks(3).enumerate() {
                let told: Vec<_> = ids.iter().map(|id| (organization, Event::of(TicketId::from_uuid(*id)))).collect();
                // One that is taken back first.
                for commits in [false, true] {
                    if !commits && !place.is_multiple_of(3) {
                        continue;
                    }
                    let mut tx = SystemTx::begin(&db).await.expect("a transaction");
                    events::tell(&mut tx, &told).await.expect("told");
                    tokio::time::sleep(Duration::from_millis(u64::from(ids[0].as_bytes()[15]) % 23)).await;
                    if commits { tx.commit().await } else { tx.rollback().await }.expect("an end");
                }
            }
        })
    });
    futures_util::future::join_all(tasks).await.into_iter().for_each(|written| written.expect("written"));
}

/// Who is slow, who comes back after every few events, now here and now there, and who was away: each hears everything once.
#[tokio::test]
async fn events_are_heard_once_by_the_slow_and_by_those_who_come_back() {
    const EVENTS: usize = 360;
    let app = TestApp::start().await;
    let acme = acme(&app).await;
    let instances = Arc::new([Instance::beside(&app), Instance::beside(&app)]);
    let mut slow = instances[0].follow(acme, None).await;
    let begun = slow.cursor().to_string();
    let restless = {
        let (instances, begun) = (Arc::clone(&instances), begun.clone());
        tokio::spawn(async move {
            let (mut heard, mut from) = (Vec::new(), begun);
            for round in 0.. {
                let mut follower = instances[round % 2].follow(acme, Some(&from)).await;
                for _ in 0..=round % 4 {
                    if heard.len() == EVENTS {
                        return heard;
                    }
                    heard.push(next(&mut follower).await.uuid());
                    from = follower.cursor().to_string();
                }
            }
            heard
        })
    };
    let tickets: Vec<Uuid> = (0..EVENTS).map(|_| Uuid::new_v4()).collect();
    write(app.database.db(), acme, tickets.clone()).await;
    let expected: BTreeSet<Uuid> = tickets.into_iter().collect();
    let restless = restless.await.expect("it hears all");
    let mut late = instances[1].follow(acme, Some(&begun)).await;
    for (who, mut heard) in
        [("slow", &mut slow), ("late", &mut late)].map(|(who, follower)| (who, (Vec::new(), follower)))
    {
        for _ in 0..EVENTS {
            heard.0.push(next(heard.1).await.uuid());
        }
        assert_eq!(heard.0.iter().copied().collect::<BTreeSet<_>>(), expected, "{who}");
    }
    assert_eq!(restless.iter().copied().collect::<BTreeSet<_>>(), expected, "restless");
    // And nothing more: what is told next comes next.
    write(app.database.db(), acme, vec![Uuid::from_u128(7)]).await;
    for follower in [&mut slow, &mut late] {
        assert_eq!(next(follower).await.uuid(), Uuid::from_u128(7));
    }
}

/// Ends the connections on which instances listen; says how many.
async fn cut_off(app: &TestApp) -> i64 {
    let end = "select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and application_name = 'tenantry-events'";
    sqlx::query_scalar(end).fetch_one(&mut app.database.superuser().await).await.expect("ended")
}

/// Waits until a subscription is told that events are missing.
async fn misses(follower: &mut Follower) {
    let told = async {
        loop {
            if let Err(error) = follower.next().await.expect("it does not end in silence") {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(30), told).await.expect("it is told in time");
    assert!(matches!(error, Error::EventsMissed), "{error:?}");
    assert!(follower.next().await.is_none());
}

#[tokio::test]
async fn events_arrive_again_after_the_connection_was_lost() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let organization = acme(&app).await;
    let subscribe = || app.app.services.events.subscribe(organization, somebody(1), None);
    let mut follower = subscribe().await.expect("a subscription");
    assert_eq!(cut_off(&app).await, 1);
    // Nobody may listen: it is not told of, and found in the log.
    let between = create(&app, &alice).await;
    assert_eq!(next(&mut follower).await, between);
    let mut later = subscribe().await.expect("a subscription after the loss");
    let id = create(&app, &alice).await;
    assert_eq!(next(&mut follower).await, id);
    while next(&mut later).await != id {}
}

/// What is not kept any more is not passed over in silence, and neither is a server that lacks what was told already.
#[tokio::test]
async fn events_that_are_gone_are_said_to_be() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    let organization = acme(&app).await;
    let instance = Instance::beside(&app);
    let mut follower = instance.follow(organization, None).await;
    create(&app, &alice).await;
    next(&mut follower).await;
    let cursor = follower.cursor().to_string();
    let rows = async || -> i64 {
        let count = sqlx::query_scalar("select count(*) from tenantry.event_log");
        count.fetch_one(&mut app.database.system().await).await.expect("a count")
    };
    let back = async |cursor: &str| {
        let cursor = Cursor::parse(cursor).expect("a cursor");
        instance.events.subscribe(organization, somebody(1), Some(cursor)).await.map(|_| ())
    };
    // The job keeps an hour.
    app.run_job("event-log").await;
    app.sql("update tenantry.event_marks set at = at - interval '59 minutes', oldest = pg_current_xact_id()").await;
    app.run_job("event-log").await;
    assert_eq!(rows().await, 1);
    back(&cursor).await.expect("nothing is missing");
    drop(follower);
    let mut other = app.database.system().await;
    let begin = "begin; select tenantry.tell_access(gen_random_uuid(), gen_random_uuid())";
    sqlx::raw_sql(begin).execute(&mut other).await.expect("told");
    // Transactions of other databases may be older than ours.
    for round in 0.. {
        app.sql("update tenantry.event_marks set at = at - interval '2 hours', oldest = pg_snapshot_xmin(pg_current_snapshot())").await;
        app.run_job("event-log").await;
        if rows().await == 0 {
            break;
        }
        assert!(round < 300, "it is removed in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sqlx::raw_sql("commit").execute(&mut other).await.expect("commit");
    assert_eq!(rows().await, 1, "only the one that was under way");
    // A place is whole as long as nothing that is gone may have come after it.
    for round in 0.. {
        app.sql("update tenantry.event_marks set at = at - interval '2 hours', oldest = pg_snapshot_xmin(pg_current_snapshot())").await;
        if matches!(back(&cursor).await, Err(Error::EventsMissed)) {
            break;
        }
        assert!(round < 300, "it is missed in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Another server that took over lacks what was told last.
    let mut follower = instance.follow(organization, None).await;
    create(&app, &alice).await;
    next(&mut follower).await;
    let cursor = follower.cursor().to_string();
    app.sql("delete from tenantry.event_log").await;
    assert!(matches!(back(&cursor).await, Err(Error::EventsMissed)));
    // Whoever is there hears of it when the instance has a connection again.
    cut_off(&app).await;
    misses(&mut follower).await;
    // Nobody else's organization has this place, and nobody learns anything by it.
    let foreign =
        instance.events.subscribe(OrganizationId::from_uuid(Uuid::new_v4()), somebody(1), Cursor::parse(&cursor)).await;
    assert!(matches!(foreign, Err(Error::EventsMissed)));
    // So many at once are not told one by one: neither to who is there nor to who comes back.
    let mut follower = instance.follow(organization, None).await;
    create(&app, &alice).await;
    next(&mut follower).await;
    let cursor = follower.cursor().to_string();
    app.sql(&format!(
        "insert into tenantry.event_log (organization_id, topic, row_id) select '{0}', 'Ticket', gen_random_uuid() from generate_series(1, 20000);
         select pg_notify('{CHANNEL}', '{0}')",
        organization.uuid()
    ))
    .await;
    misses(&mut follower).await;
    assert!(matches!(back(&cursor).await, Err(Error::EventsMissed)));
}

#[tokio::test]
async fn events_have_room_for_so_many_subscriptions() {
    let app = TestApp::start().await;
    let organization = acme(&app).await;
    let instance = Instance::beside(&app);
    let mut followers = Vec::new();
    for _ in 0..OF_CREDENTIAL {
        followers.push(instance.follow(organization, None).await);
    }
    let another = async |who: u128| instance.events.subscribe(organization, somebody(who), None).await.map(|_| ());
    let refused = another(1).await;
    assert!(matches!(&refused, Err(Error::Limit { code: Code::TooManySubscriptions, .. })), "{refused:?}");
    another(2).await.expect("somebody else has room");
    followers.pop();
    another(1).await.expect("one has ended");
    drop(followers);
    assert_eq!(instance.events.subscribers(), 0);
    // An organization has room for ten who have as many as they may, and the process for four such organizations.
    let mut followers = Vec::new();
    let last = OrganizationId::from_uuid(Uuid::from_u128(4));
    for organization in 1..=4 {
        let organization = OrganizationId::from_uuid(Uuid::from_u128(organization));
        for who in 0..OF_ORGANIZATION {
            let who = somebody(u128::try_from(who % 10).expect("small"));
            followers.push(instance.events.subscribe(organization, who, None).await.expect("a subscription"));
        }
        if organization != last {
            let refused = instance.events.subscribe(organization, somebody(11), None).await.map(|_| ());
            assert!(
                matches!(&refused, Err(Error::Limit { code: Code::TooManySubscriptions, message }) if message.contains("The organization has 5000")),
                "{refused:?}"
            );
        }
    }
    assert_eq!(followers.len(), OF_PROCESS);
    let refused = another(1).await;
    assert!(
        matches!(&refused, Err(Error::Limit { code: Code::TooManySubscriptions, message }) if message.contains("The server has 20000")),
        "{refused:?}"
    );
    drop(followers);
    another(1).await.expect("there is room again");
}

/// A server of the test's own, so that it can be restarted.
async fn own_server() -> (PathBuf, LocalPostgres) {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("pg-events-{}", std::process::id()));
    let dir = local_postgres::reachable_data_dir(dir);
    std::fs::remove_dir_all(&dir).ok();
    let server = start_server(&dir).await;
    server.ensure_database("events").await.expect("a database");
    migrations::up(&server.connect_options(local_postgres::OWNER_ROLE, "events")).await.expect("the migrations");
    (dir, server)
}

async fn start_server(dir: &std::path::Path) -> LocalPostgres {
    let options = || local_postgres::Options { data_dir: dir.to_path_buf(), durable: false };
    LocalPostgres::start(options()).await.expect("a PostgreSQL of the test's own")
}

/// Tells of tickets until it is to stop, whether the database is there or not.
async fn keep_writing(db: Db, writer: usize, organizations: Vec<OrganizationId>, goes_on: Arc<AtomicBool>) {
    for round in writer.. {
        if !goes_on.load(Ordering::Relaxed) {
            return;
        }
        let organization = organizations[round % organizations.len()];
        // A commit that was not answered may have been made: the log says.
        let told = async {
            let mut tx = SystemTx::begin(&db).await?;
            events::tell(&mut tx, &[(organization, Event::of(TicketId::from_uuid(Uuid::new_v4())))]).await?;
            tokio::time::sleep(Duration::from_millis(2 + u64::try_from(round % 7).unwrap_or_default())).await;
            if round.is_multiple_of(11) { tx.rollback().await } else { tx.commit().await }
        };
        if told.await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The log of a database, by organization.
async fn written(options: &PgConnectOptions) -> BTreeMap<Uuid, BTreeSet<Uuid>> {
    let mut connection = options.connect().await.expect("the superuser");
    let rows = sqlx::query_as("select organization_id, row_id from tenantry.event_log").fetch_all(&mut connection);
    let rows: Vec<(Uuid, Uuid)> = rows.await.expect("the log");
    let mut written: BTreeMap<Uuid, BTreeSet<Uuid>> = BTreeMap::new();
    for (organization, row) in rows {
        written.entry(organization).or_default().insert(row);
    }
    written
}

/// 5,000 subscriptions on two instances, and the database dies and comes back while there is writing.
#[tokio::test]
async fn events_are_heard_once_by_thousands_while_the_database_restarts() {
    const SUBSCRIPTIONS: usize = 5_000;
    const ORGANIZATIONS: u128 = 20;
    let (dir, server) = own_server().await;
    let options = |role: &str| server.connect_options(role, "events");
    let (app_role, system_role, superuser) =
        (options(local_postgres::APP_ROLE), options(local_postgres::SUPERADMIN_ROLE), options("postgres"));
    let limits = PoolLimits { max_connections: 16, ..PoolLimits::default() };
    let db = || Db::new(app_role.clone(), system_role.clone(), limits);
    let mut connection = superuser.connect().await.expect("the superuser");
    // What was answered is kept, as on every server that is not a test's.
    let durable = "alter database events set synchronous_commit = on";
    sqlx::raw_sql(durable).execute(&mut connection).await.expect("a setting");
    let instances = [db(), db()].map(|db| Instance::start(&db, app_role.clone()));
    let organizations: Vec<OrganizationId> =
        (0..ORGANIZATIONS).map(|number| OrganizationId::from_uuid(Uuid::from_u128(number + 1))).collect();
    let mut followers = Vec::new();
    for number in 0..SUBSCRIPTIONS {
        let organization = organizations[number / 2 % organizations.len()];
        let who = somebody(u128::try_from(number % 40).expect("small"));
        let subscribed = instances[number % 2].events.subscribe(organization, who, None).await;
        followers.push((organization, subscribed.expect("a subscription")));
    }
    assert_eq!(instances.iter().map(|instance| instance.events.subscribers()).sum::<usize>(), SUBSCRIPTIONS);

    let goes_on = Arc::new(AtomicBool::new(true));
    let writers: Vec<_> = (0..4)
        .map(|writer| tokio::spawn(keep_writing(db(), writer, organizations.clone(), Arc::clone(&goes_on))))
        .collect();
    tokio::time::sleep(Duration::from_millis(700)).await;
    // As when it dies: without a word to anybody.
    let files: String = sqlx::query_scalar("show data_directory").fetch_one(&mut connection).await.expect("the files");
    let pid = std::fs::read_to_string(PathBuf::from(files).join("postmaster.pid")).expect("a process");
    let pid = pid.lines().next().expect("a number").to_owned();
    let killed = tokio::process::Command::new("kill").args(["-QUIT", &pid]).status().await.expect("kill");
    assert!(killed.success());
    drop(server);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let server = start_server(&dir).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    goes_on.store(false, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("a writer");
    }

    let written = written(&superuser).await;
    let total: usize = written.values().map(BTreeSet::len).sum();
    assert!(total > 100 && written.len() == organizations.len(), "{total} events");
    for (organization, follower) in &mut followers {
        let expected = &written[&organization.uuid()];
        let mut heard = BTreeSet::new();
        for _ in 0..expected.len() {
            assert!(heard.insert(next(follower).await.uuid()), "nothing is told twice");
        }
        assert_eq!(&heard, expected);
    }
    // And nothing more.
    let last = Uuid::from_u128(9);
    let mut tx = SystemTx::begin(&db()).await.expect("a transaction");
    let told: Vec<_> = organizations.iter().map(|id| (*id, Event::of(TicketId::from_uuid(last)))).collect();
    events::tell(&mut tx, &told).await.expect("told");
    tx.commit().await.expect("commit");
    for (_, follower) in &mut followers {
        assert_eq!(next(follower).await.uuid(), last);
    }
    println!("{SUBSCRIPTIONS} subscriptions heard each of {total} events once");
    drop(server);
    std::fs::remove_dir_all(&dir).ok();
}

#[tokio::test]
async fn events_are_seen_by_their_own_organization_only() {
    let app = TestApp::start().await;
    let alice = app.token("alice@example.com", Some("acme-corp")).await;
    create(&app, &alice).await;
    let mut connection = app.database.app().await;
    for statement in [
        "update tenantry.event_log set topic = 'x'",
        "delete from tenantry.event_log",
        "select * from tenantry.event_marks",
    ] {
        assert!(sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.is_err(), "{statement}");
    }
    let forged = "insert into tenantry.event_log (organization_id, topic, row_id) select id, 'Access', id from tenantry.organizations";
    sqlx::raw_sql(forged).execute(&mut connection).await.expect("it sees no organization");
    let forged = "insert into tenantry.event_log (organization_id, topic, row_id) values (gen_random_uuid(), 'Access', gen_random_uuid())";
    assert!(sqlx::raw_sql(forged).execute(&mut connection).await.is_err(), "no organization but the own one");
}
