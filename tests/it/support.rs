//! What every test stands on: a `PostgreSQL` of the tests' own, a database of the test's own, a server on a real port.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tenantry::app::{App, AppParts};
use tenantry::auth::dev::{DEV_ISSUER, DevIssuer, IssueRequest};
use tenantry::auth::{AuthSettings, KeySource, TokenOrganization, Verifier};
use tenantry::clock::Clock;
use tenantry::config::{Config, Needs};
use tenantry::db::{Db, PoolLimits, Pooler, keeps_statements, migrations};
use tenantry::http::graphql::Persisted;
use tenantry::http::listener::{Caps, Listening, Timeouts};
use tenantry::jobs::{JOBS, run_if_due};
use tenantry::local_postgres::{self, LocalPostgres};
use tenantry::{members, seed};
use tokio::net::TcpListener;
use tokio::sync::{OnceCell, watch};

/// The bootstrap superuser of the tests' `PostgreSQL`: makes databases and reads the catalogue, proves nothing about RLS.
const SUPERUSER: &str = "postgres";

/// The server all tests of this process share, and the name of the migrated and seeded database they copy.
pub struct Cluster {
    pub server: LocalPostgres,
    pub data_dir: PathBuf,
    template: String,
}

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// Where the tests' server lives; the tests of two checkouts never share one.
fn data_dir() -> PathBuf {
    // A run on another PostgreSQL has files of its own, so that neither takes the other's version for its own.
    let name = if std::env::var("PG_BIN").is_ok_and(|bin| bin == "npm") { "pg-npm" } else { "pg" };
    local_postgres::reachable_data_dir(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
}

pub async fn cluster() -> &'static Cluster {
    CLUSTER
        .get_or_init(|| async {
            let data_dir = data_dir();
            let server = LocalPostgres::start(local_postgres::Options { data_dir: data_dir.clone(), durable: false })
                .await
                .expect("a PostgreSQL for the tests");
            let template = template(&server).await;
            Cluster { server, data_dir, template }
        })
        .await
}

/// The template is made anew when the sample data changes.
const SEED_SOURCES: &[&[u8]] = &[
    include_bytes!("../../src/seed/billing.rs"),
    include_bytes!("../../src/seed/escalations.rs"),
    include_bytes!("../../src/seed/help_desk.rs"),
    include_bytes!("../../src/seed/mod.rs"),
    include_bytes!("../../src/seed/service_levels.rs"),
    include_bytes!("../../src/seed/tech_startup.rs"),
    include_bytes!("../../src/seed/people.rs"),
    include_bytes!("../../src/seed/platform.rs"),
    include_bytes!("../../src/seed/refunds.rs"),
    include_bytes!("../../src/seed/support.rs"),
    include_bytes!("../../src/metrics/sql.rs"),
];

/// Makes the template once for each version of the migrations and of the sample data's day (it is made relative to now).
async fn template(server: &LocalPostgres) -> String {
    let mut admin = server.connect_options(SUPERUSER, "postgres").connect().await.expect("the superuser");
    // Several processes may start at once: one makes the template, the others wait for it.
    sqlx::raw_sql("select pg_advisory_lock(7)").execute(&mut admin).await.expect("a lock");
    for statement in ["alter system set log_line_prefix = '%d|%a|'", "select pg_reload_conf()"] {
        sqlx::raw_sql(statement).execute(&mut admin).await.expect("settings of the log");
    }
    let fingerprint = migrations::MIGRATOR
        .iter()
        .flat_map(|migration| migration.checksum.iter())
        .chain(SEED_SOURCES.iter().flat_map(|source| source.iter()))
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let name = format!("template_{fingerprint:016x}_{}", Clock::System.now().format("%Y%m%d"));
    let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(&name)
        .fetch_one(&mut admin)
        .await
        .expect("a look at the databases");
    if !exists {
        let making = format!("{name}_making");
        sqlx::raw_sql(AssertSqlSafe(format!("drop database if exists {making} with (force)")))
            .execute(&mut admin)
            .await
            .expect("drop");
        server.ensure_database(&making).await.expect("a database");
        migrations::up(&server.connect_options(local_postgres::OWNER_ROLE, &making)).await.expect("the migrations");
        let db = db(server, &making);
        seed::sample_data(&db, &Clock::System).await.expect("the sample data");
        db.close().await;
        sqlx::raw_sql(AssertSqlSafe(format!("alter database {making} rename to {name}")))
            .execute(&mut admin)
            .await
            .expect("rename");
    }
    admin.close().await.expect("close");
    name
}

fn db(server: &LocalPostgres, name: &str) -> Db {
    Db::new(
        server.connect_options(local_postgres::APP_ROLE, name),
        server.connect_options(local_postgres::SUPERADMIN_ROLE, name),
        PoolLimits { max_connections: 8, ..PoolLimits::default() },
    )
}

/// A database of the test's own; dropped with the value.
pub struct TestDb {
    pub name: String,
    server: &'static LocalPostgres,
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

fn unique_name() -> String {
    format!("t_{}_{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

impl TestDb {
    /// With migrations and sample data.
    pub async fn seeded() -> Self {
        let cluster = cluster().await;
        let name = unique_name();
        let mut admin = cluster.server.connect_options(SUPERUSER, "postgres").connect().await.expect("the superuser");
        let create = format!(
            "create database {name} template {} owner {} strategy file_copy",
            cluster.template,
            local_postgres::OWNER_ROLE
        );
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut admin).await.expect("a copy of the template");
        Self { name, server: &cluster.server }
    }

    /// With nothing in it.
    pub async fn empty() -> Self {
        let cluster = cluster().await;
        let name = unique_name();
        cluster.server.ensure_database(&name).await.expect("a database");
        Self { name, server: &cluster.server }
    }

    pub fn options(&self, role: &str) -> PgConnectOptions {
        self.server.connect_options(role, &self.name)
    }

    pub fn db(&self) -> Db {
        db(self.server, &self.name)
    }

    /// The API's connections by way of a pooler in transaction mode.
    pub async fn pooled(&self, port: u16) -> Db {
        let app = self.pooler_options(port);
        let pooler = if keeps_statements(&app).await.expect("the pooler") {
            Pooler::TransactionKeepingStatements
        } else {
            Pooler::Transaction
        };
        let limits = PoolLimits { max_connections: 16, pooler, ..PoolLimits::default() };
        Db::new(app, self.options(local_postgres::SUPERADMIN_ROLE), limits)
    }

    /// The app role's way through a pooler.
    pub fn pooler_options(&self, port: u16) -> PgConnectOptions {
        self.options_by(port, local_postgres::APP_ROLE)
    }

    /// A role's way through what listens at this port.
    pub fn options_by(&self, port: u16, role: &str) -> PgConnectOptions {
        PgConnectOptions::new().host("127.0.0.1").port(port).database(&self.name).username(role)
    }

    /// A connection as the role that row-level security binds.
    pub async fn app(&self) -> PgConnection {
        self.options(local_postgres::APP_ROLE).connect().await.expect("the app role")
    }

    /// A connection as the superadmin role, to prepare and to look.
    pub async fn system(&self) -> PgConnection {
        self.options(local_postgres::SUPERADMIN_ROLE).connect().await.expect("the superadmin role")
    }

    /// A connection as the owner of the tables.
    pub async fn owner(&self) -> PgConnection {
        self.options(local_postgres::OWNER_ROLE).connect().await.expect("the owner")
    }

    /// A connection as the superuser, for what only it may: settings of the server.
    pub async fn superuser(&self) -> PgConnection {
        self.options(SUPERUSER).connect().await.expect("the superuser")
    }

    /// Waits until no transaction is open: the rollback of a read-only one happens behind the response.
    pub async fn at_rest(&self) {
        at_rest(self.server, &self.name).await;
    }
}

async fn at_rest(server: &LocalPostgres, name: &str) {
    let mut superuser = server.connect_options(SUPERUSER, name).connect().await.expect("the superuser");
    for _ in 0..1500 {
        let open: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
              where datname = $1 and backend_type = 'client backend' and pid <> pg_backend_pid()
                and (state like 'idle in transaction%' or state = 'active')",
        )
        .bind(name)
        .fetch_one(&mut superuser)
        .await
        .expect("a look");
        if open == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("transactions of {name} stay open");
}

impl Drop for TestDb {
    fn drop(&mut self) {
        // The test's runtime may be gone: a thread with its own.
        let options = self.server.connect_options(SUPERUSER, "postgres");
        let drop_it = format!("drop database if exists {} with (force)", self.name);
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut admin = options.connect().await.map_err(std::io::Error::other)?;
                sqlx::raw_sql(AssertSqlSafe(drop_it)).execute(&mut admin).await.map_err(std::io::Error::other)
            })
        });
        // A database that stays behind is no failure of the test.
        drop(dropping.join());
    }
}

/// A server on a real port over a database of its own.
pub struct TestApp {
    pub app: App,
    pub database: TestDb,
    pub clock: Clock,
    address: SocketAddr,
    client: reqwest::Client,
    stop: watch::Sender<bool>,
}

/// How a [`TestApp`] differs from the usual.
pub struct Setup {
    pub environment: Vec<(&'static str, String)>,
    pub clock: Clock,
    /// The port of a pooler in transaction mode, on this machine.
    pub pooler: Option<u16>,
    /// Another way to the database, by a port of this machine.
    pub way: Option<(u16, PoolLimits)>,
    /// How often a WebSocket is sent a ping.
    pub ping: Option<Duration>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { environment: Vec::new(), clock: Clock::System, pooler: None, way: None, ping: None }
    }
}

impl TestApp {
    /// In development mode, over the sample data.
    pub async fn start() -> Self {
        Self::start_with(Setup::default()).await
    }

    /// With a clock that stands still until it is moved.
    pub async fn start_in_still_time() -> Self {
        Self::start_with(Setup { clock: Clock::manual(Clock::System.now()), ..Setup::default() }).await
    }

    pub async fn start_with(setup: Setup) -> Self {
        let database = TestDb::seeded().await;
        let get =
            |name: &str| setup.environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        let config = Config::read(get, Needs::Nothing).expect("a configuration");
        let issuer = DevIssuer::open(&keys_dir()).expect("the development issuer");
        let settings = AuthSettings {
            source: KeySource::Keys(issuer.jwk_set()),
            issuer: Some(DEV_ISSUER.to_owned()),
            audience: config.audience.clone(),
            authorized_parties: config.authorized_parties.clone(),
            oauth_clients: config.oauth_clients.clone(),
            impersonation: config.impersonation,
        };
        let verifier = Verifier::new(settings, setup.clock.clone()).expect("a verifier");
        // As `tenantry serve` does.
        tenantry::entitlements::publish(&database.db(), &config.plans).await.expect("the terms of plans");
        let (stop, stopping) = watch::channel(false);
        let dev_issuer = config.is_development().then_some(issuer);
        let to = |role: &str| match setup.way {
            Some((port, _)) => database.options_by(port, role),
            None => database.options(role),
        };
        let mut app = App::new(AppParts {
            config,
            db: match (setup.pooler, setup.way) {
                (Some(port), _) => database.pooled(port).await,
                (_, Some((_, limits))) => {
                    Db::new(to(local_postgres::APP_ROLE), to(local_postgres::SUPERADMIN_ROLE), limits)
                }
                _ => database.db(),
            },
            clock: setup.clock.clone(),
            verifier,
            dev_issuer,
            personas: seed::PERSONAS,
            shutdown: stopping.clone(),
        });
        if let Some(exporter) = app.exporter.take() {
            tokio::spawn(exporter.run());
        }
        if let Some(ping) = setup.ping {
            let listening = Listening::new(Caps::default(), Vec::new());
            let edge = std::sync::Arc::get_mut(&mut app.edge).expect("nobody else has it yet");
            edge.listening =
                std::sync::Arc::new(listening.with_timeouts(Timeouts { socket_ping: ping, ..Timeouts::default() }));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(app.services.events.clone().listen(to(local_postgres::APP_ROLE), stopping.clone()));
        let (flags, listening) = (std::sync::Arc::clone(&app.flags), to(local_postgres::APP_ROLE));
        tokio::spawn(flags.keep(app.services.db.clone(), listening, stopping.clone()));
        tokio::spawn(Persisted::keep(std::sync::Arc::clone(&app.edge), stopping.clone()));
        let (router, listening) = (tenantry::http::router(&app.edge), std::sync::Arc::clone(&app.edge.listening));
        tokio::spawn(tenantry::http::listener::serve(listener, router, listening, stopping));
        Self { app, database, clock: setup.clock, address, client: reqwest::Client::new(), stop }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn ws_url(&self) -> String {
        format!("ws://{}/graphql/ws", self.address)
    }

    /// Asks the server to stop, as SIGTERM does.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// A token of this user of the sample data, for an organization of theirs or for none.
    pub async fn token(&self, email: &str, organization: Option<&str>) -> String {
        self.token_for(email, organization, chrono::Duration::hours(1)).await
    }

    pub async fn token_for(&self, email: &str, organization: Option<&str>, ttl: chrono::Duration) -> String {
        let subject = members::subject_of(&self.app.services.db, email).await.expect("a look").expect("a known user");
        let organization = match organization {
            None => None,
            Some(slug) => {
                let row = members::viewer(&self.app.services.db, subject.as_str())
                    .await
                    .expect("a look")
                    .expect("a known user");
                let membership = row.memberships.iter().find(|m| m.organization.slug == slug).expect("a membership");
                Some(membership.organization.token_claim())
            }
        };
        issue(subject, organization, ttl, &self.clock)
    }

    /// The token of somebody who acts in the place of a user.
    pub async fn impersonated(&self, email: &str, organization: Option<&str>, impersonator: &str) -> String {
        let subject = members::subject_of(&self.app.services.db, email).await.expect("a look").expect("a known user");
        let mut claims =
            json!({ "iss": DEV_ISSUER, "sub": subject, "sid": "sess_1", "v": 2, "act": { "sub": impersonator } });
        if let Some(slug) = organization {
            let row =
                members::viewer(&self.app.services.db, subject.as_str()).await.expect("a look").expect("a known user");
            let membership = row.memberships.iter().find(|m| m.organization.slug == slug).expect("a membership");
            claims["o"] = json!({ "id": membership.organization.token_claim().id, "slg": slug });
        }
        sign(&json!({ "alg": "EdDSA", "typ": "JWT" }), &claims, &self.clock)
    }

    /// Runs a document and returns the whole response.
    pub async fn run(&self, token: &str, query: &str, variables: Value) -> Value {
        let response = self
            .client
            .post(format!("{}/graphql", self.base_url()))
            .bearer_auth(token)
            .json(&json!({ "query": query, "variables": variables }))
            .send()
            .await
            .expect("a response");
        response.json().await.expect("JSON")
    }

    /// Runs a document that must succeed; returns `data`.
    pub async fn data(&self, token: &str, query: &str, variables: Value) -> Value {
        let response = self.run(token, query, variables).await;
        assert!(response.get("errors").is_none(), "{response:#}");
        response["data"].clone()
    }

    /// Runs a document that must fail; returns the code of its first error.
    pub async fn error_code(&self, token: &str, query: &str, variables: Value) -> String {
        let response = self.run(token, query, variables).await;
        let error = &response["errors"][0];
        assert!(error["extensions"]["requestId"].is_string(), "every error names its request: {response:#}");
        error["extensions"]["code"].as_str().unwrap_or_else(|| panic!("an error with a code: {response:#}")).to_owned()
    }

    /// Runs a mutation of one input; gives its payload.
    pub async fn mutate(&self, token: &str, field: &str, payload: &str, input: Value) -> Value {
        self.data(token, &mutation(field, payload), json!({ "input": input })).await[field].clone()
    }

    /// The same, where nothing may be refused.
    pub async fn done(&self, token: &str, field: &str, payload: &str, input: Value) -> Value {
        let answer = self.mutate(token, field, payload, input).await;
        assert_eq!(answer["userErrors"], json!([]), "{field}");
        answer
    }

    /// Runs a job whose time has come, whenever it ran last.
    pub async fn run_job(&self, name: &str) {
        self.sql(&format!("update tenantry.jobs set last_started_at = null where name = '{name}'")).await;
        let job = JOBS.iter().find(|job| job.name == name).expect("a job");
        assert!(run_if_due(&self.app.jobs, job).await.expect("a job"));
        let error: Option<String> = sqlx::query_scalar("select last_error from tenantry.jobs where name = $1")
            .bind(name)
            .fetch_one(&mut self.database.system().await)
            .await
            .expect("a job");
        assert_eq!(error, None);
    }

    /// Runs statements over all organizations.
    pub async fn sql(&self, statements: &str) {
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut self.database.system().await).await.expect(statements);
    }

    /// Opens a subscription as a stream of server-sent events.
    pub async fn follow(&self, token: &str, query: &str, variables: Value) -> reqwest::Response {
        let request = self.client.post(format!("{}/graphql", self.base_url())).bearer_auth(token);
        let request = request.header("Accept", "text/event-stream");
        request.json(&json!({ "query": query, "variables": variables })).send().await.expect("a stream")
    }

    /// Waits until this many subscriptions hear what the database tells.
    pub async fn subscribed(&self, count: usize) {
        for _ in 0..1500 {
            if self.app.services.events.subscribers() >= count {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{count} subscriptions do not come about");
    }

    /// Waits until no subscription hears anything any more.
    pub async fn unsubscribed(&self) {
        for _ in 0..1500 {
            if self.app.services.events.subscribers() == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("subscriptions do not end");
    }

    /// Has `PostgreSQL` log the plans of all that this app's database runs from now on.
    pub async fn explain(&self) -> Explained {
        let mut superuser = self.database.superuser().await;
        let name = self.database.name.clone();
        for setting in [
            "session_preload_libraries = 'auto_explain'",
            "auto_explain.log_min_duration = 0",
            "auto_explain.log_analyze = on",
            "auto_explain.log_timing = off",
        ] {
            let statement = format!("alter database {name} set {setting}");
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut superuser).await.expect("a setting");
        }
        // The settings are read when a connection opens.
        let end = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}' and pid <> pg_backend_pid()"
        );
        sqlx::raw_sql(AssertSqlSafe(end)).execute(&mut superuser).await.expect("the connections end");
        let from = std::fs::metadata(cluster_log()).map_or(0, |log| log.len());
        Explained { name, server: self.database.server, from }
    }

    /// Statements of the API that this app's database logged while `work` ran, from `PostgreSQL` itself.
    pub async fn statements<T>(&self, work: impl Future<Output = T>) -> (T, Vec<String>) {
        let mut superuser = self.database.superuser().await;
        for statement in [
            format!("alter database {} set log_statement = 'all'", self.database.name),
            // The setting is read when a connection opens.
            format!(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}' and pid <> pg_backend_pid()",
                self.database.name
            ),
        ] {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut superuser).await.expect("a setting");
        }
        // Opens and warms a connection, so that what a connection asks once is not counted.
        let token = self.token("alice@example.com", Some("acme-corp")).await;
        let logged = || {
            let log = std::fs::read_to_string(cluster_log()).expect("the server's log");
            // Not those of what goes on in the background all the time.
            let prefix = format!("{}|tenantry-api|", self.database.name);
            let of_this_test = log.lines().filter_map(|line| line.strip_prefix(&prefix));
            of_this_test
                .filter(|line| line.contains("execute ") || line.contains("statement: "))
                // What the driver asks once per connection.
                .filter(|line| {
                    !["SELECT pg_type.", "SELECT t.typname", "SELECT enumlabel", "pg_stat_activity"]
                        .iter()
                        .any(|own| line.contains(own))
                })
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        self.data(&token, "{ organization { id } }", json!({})).await;
        self.database.at_rest().await;
        let before = logged().len();
        let result = work.await;
        self.database.at_rest().await;
        (result, logged().split_off(before))
    }
}

/// Plans in the server's log.
pub struct Explained {
    name: String,
    server: &'static LocalPostgres,
    from: u64,
}

impl Explained {
    /// The entries of the log since then, each with its lines.
    pub async fn entries(&self) -> Vec<String> {
        at_rest(self.server, &self.name).await;
        let log = std::fs::read(cluster_log()).expect("the server's log");
        let log =
            String::from_utf8_lossy(&log[usize::try_from(self.from).expect("a length").min(log.len())..]).into_owned();
        let prefix = format!("{}|", self.name);
        let mut entries: Vec<String> = Vec::new();
        let mut ours = false;
        for line in log.lines() {
            if line.starts_with('\t') {
                if let Some(entry) = entries.last_mut().filter(|_| ours) {
                    *entry = format!("{entry}\n{line}");
                }
                continue;
            }
            ours = line.starts_with(&prefix);
            if ours {
                entries.push(line.to_owned());
            }
        }
        entries
    }
}

fn cluster_log() -> PathBuf {
    CLUSTER.get().expect("a running server").data_dir.join("postgres.log")
}

/// Makes a token of the development issuer.
pub fn issue(subject: String, organization: Option<TokenOrganization>, ttl: chrono::Duration, clock: &Clock) -> String {
    DevIssuer::open(&keys_dir())
        .expect("the development issuer")
        .issue(&IssueRequest { subject, impersonator: None, organization, ttl: Some(ttl), now: clock.now() })
        .expect("a token")
}

/// Makes a token with any header and claims, signed with the development issuer's key; `exp` and `iat` are added.
pub fn sign(header: &serde_json::Value, claims: &serde_json::Value, clock: &Clock) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    // Makes the key, when this is the first test to need it.
    let issuer = DevIssuer::open(&keys_dir()).expect("the development issuer");
    let key_id = issuer.jwk_set().keys[0].common.key_id.clone();
    let key = std::fs::read(keys_dir().join("dev-signing-key.der")).expect("the key");
    let (mut header, mut claims) = (header.clone(), claims.clone());
    header["kid"] = serde_json::json!(key_id);
    claims["iat"] = serde_json::json!(clock.now().timestamp());
    claims["exp"] = serde_json::json!(clock.now().timestamp() + 600);
    let message = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let key = jsonwebtoken::EncodingKey::from_ed_der(&key);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::EdDSA);
    format!("{message}.{}", signature.expect("a signature"))
}

/// Access tokens of a third party's OAuth application, as the identity provider signs them for the same users.
pub fn third_party_tokens(clock: &Clock) -> Vec<String> {
    let claims = |user: &str| {
        serde_json::json!({ "iss": DEV_ISSUER, "sub": user, "client_id": "client_thirdparty", "scope": "profile email",
                            "jti": "oat_1" })
    };
    [("at+jwt", "user_alice"), ("at+jwt", "user_admin"), ("JWT", "user_alice")]
        .map(|(typ, user)| sign(&serde_json::json!({ "alg": "EdDSA", "typ": typ }), &claims(user), clock))
        .into()
}

fn keys_dir() -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("keys");
    std::fs::create_dir_all(&dir).expect("a folder for the keys");
    dir
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the server at this address tells of itself.
pub async fn metrics(base: &str) -> String {
    reqwest::get(format!("{base}/metrics")).await.expect("metrics").text().await.expect("text")
}

/// What a stream of server-sent events says, until it contains all of these.
pub async fn hear(response: reqwest::Response, all: &[&str]) -> String {
    let mut stream = response.bytes_stream();
    let mut heard = String::new();
    let listening = async {
        while !all.iter().all(|text| heard.contains(text)) {
            let chunk = stream.next().await.expect("more to come").expect("a chunk");
            heard += &String::from_utf8_lossy(&chunk);
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_mins(1), listening).await.is_ok();
    assert!(in_time, "{all:?} do not come: {heard}");
    heard
}

/// A mutation of one input, and what its payload is to show beside `userErrors`.
pub fn mutation(field: &str, payload: &str) -> String {
    let input = format!("{}{}Input", field[..1].to_uppercase(), &field[1..]);
    format!(
        "mutation($input: {input}!) {{ {field}(input: $input) {{ {payload} userErrors {{ field code message }} }} }}"
    )
}

/// The codes of a payload's `userErrors`.
pub fn codes(payload: &Value) -> Vec<&str> {
    payload["userErrors"].as_array().expect("userErrors").iter().filter_map(|error| error["code"].as_str()).collect()
}
