//! The commands. Every one exits 0 when all is well, 1 when it found or met something, 2 on wrong usage or environment.

mod send;
mod stripe;
mod webhooks;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::adopt::command::AdoptAction;
use crate::adopt::{self, AdoptError};
use crate::app::{App, AppParts};
use crate::auth::dev::{DEV_ISSUER, DevIssuer, IssueRequest};
use crate::auth::{AuthSettings, KeySource, TokenOrganization, Verifier};
use crate::clock::Clock;
use crate::config::{Config, DatabaseConfig, KeysConfig, Needs, VARIABLES};
use crate::db::local::{self, LocalPostgres};
use crate::db::migrations::{self, MigrationState};
use crate::db::{Db, check_roles};
use crate::error::Error;
use crate::graphql::Schemas;
use crate::webhooks::WebhookSource;
use crate::webhooks::signature::{Secret, dev_secret};
use crate::webhooks::worker::Worker;
use crate::{members, seed, telemetry, verify};

/// The database of development.
const LOCAL_DATABASE: &str = "tenantry";

#[derive(Parser)]
#[command(
    name = "tenantry",
    version,
    about = "A multi-tenant GraphQL backend on PostgreSQL. Without a command: `serve`."
)]
struct Cli {
    /// Print JSON instead of text, where a command has results.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server. In development it starts its own `PostgreSQL`, migrates, and seeds an empty database.
    #[command(after_help = variables_help())]
    Serve(ServeArgs),
    /// Bring the database to this build's version, or back.
    Migrate {
        #[command(subcommand)]
        action: MigrateAction,
    },
    /// Fill the database with sample data; does nothing where it is already there.
    Seed {
        /// Besides, make this many organizations of realistic size, for benchmarks.
        #[arg(long, value_name = "N")]
        scale: Option<u32>,
        /// Tickets of each of these organizations.
        #[arg(long, default_value_t = 1_000, value_name = "N", requires = "scale")]
        tickets: u32,
    },
    /// Print a development token, and nothing else. Refuses in production.
    Token {
        /// E-mail address of the user.
        #[arg(long)]
        user: String,
        /// Slug of the organization to make it for; without, the token names none.
        #[arg(long)]
        org: Option<String>,
        /// How long it lives: 30s, 15m, 1h, at most 24h.
        #[arg(long, default_value = "1h", value_parser = parse_ttl)]
        ttl: chrono::Duration,
    },
    /// Print the schema (SDL).
    Schema {
        /// Compare with ./schema.graphql instead; exit 1 when it differs.
        #[arg(long)]
        check: bool,
    },
    /// Look into the inbox of webhooks, have events worked on again, deliver made-up ones, and find those that never came.
    Webhooks {
        #[command(subcommand)]
        action: webhooks::WebhooksAction,
    },
    /// Compare subscriptions with Stripe's and mend rows that differ; exit 1 when some are left.
    Reconcile(stripe::ReconcileArgs),
    /// Check isolation and integrity of the database; exit 1 with a table of findings.
    Verify,
    /// Make the tables of an existing single-tenant database tenant-scoped, while it is in use.
    #[command(after_help = adopt::command::STEPS)]
    Adopt {
        #[command(subcommand)]
        action: AdoptAction,
    },
}

#[derive(Args)]
struct ServeArgs {
    /// What this process does.
    #[arg(long, value_enum, default_value_t = Role::All)]
    role: Role,
    /// How many webhook workers this process has, unless its role is `api`.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    workers: u8,
    /// Do not migrate or seed the local database at start.
    #[arg(long)]
    no_setup: bool,
}

impl Default for ServeArgs {
    fn default() -> Self {
        Self { role: Role::All, workers: 2, no_setup: false }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Everything.
    All,
    /// The API: GraphQL, `GraphiQL`, webhooks' reception.
    Api,
    /// Applies webhooks; answers health checks and `/metrics` only.
    Worker,
}

#[derive(Subcommand)]
enum MigrateAction {
    /// Apply what is pending. Any number of instances may do this at once.
    Up,
    /// Revert the newest migrations. Data in the tables they made is lost: back up first.
    Down {
        /// How many.
        #[arg(long, default_value_t = 1)]
        steps: usize,
        /// A backup is made: do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// List migrations: applied, pending, drifted (edited after they were applied), unknown to this build.
    Status,
}

fn variables_help() -> String {
    let mut text = String::from("Environment:\n");
    for variable in VARIABLES {
        text += &format!("  {:<26} {} [default: {}]\n", variable.name, variable.meaning, variable.default);
    }
    text
}

fn parse_ttl(text: &str) -> Result<chrono::Duration, String> {
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let number: i64 =
        number.parse().map_err(|_| "a time to live is a number and s, m or h: 30s, 15m, 1h".to_owned())?;
    let seconds = match unit {
        "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3600),
        _ => None,
    };
    match seconds {
        Some(seconds @ 1..=86_400) => Ok(chrono::Duration::seconds(seconds)),
        _ => Err("a token lives from 1s to 24h".to_owned()),
    }
}

/// How a command ends.
enum End {
    /// Well.
    Fine,
    /// It found something; already printed.
    Found,
}

/// Why a command could not do its work.
struct Failure {
    /// 1 when something went wrong, 2 when usage or environment are.
    code: u8,
    message: String,
}

impl Failure {
    fn environment(message: impl std::fmt::Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }
}

/// The text of an error for the person at the terminal: here, unlike in the API, the cause belongs to it.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = match &error {
            Error::Internal(cause) => cause.to_string(),
            other => other.to_string(),
        };
        Self { code: 1, message }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self { code: 1, message: error.to_string() }
    }
}

impl From<AdoptError> for Failure {
    fn from(error: AdoptError) -> Self {
        let code = if matches!(error, AdoptError::Plan(_) | AdoptError::Refused { .. }) { 2 } else { 1 };
        Self { code, message: format!("{}: {error}", error.code()) }
    }
}

impl From<sqlx::migrate::MigrateError> for Failure {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        let message = match error {
            sqlx::migrate::MigrateError::Execute(sqlx::Error::Configuration(problem)) => {
                return Self { code: 2, message: problem.to_string() };
            }
            sqlx::migrate::MigrateError::VersionMismatch(version) => format!(
                "migration {version} was edited after it was applied; nothing was done. Restore its text, and correct it by a new migration"
            ),
            sqlx::migrate::MigrateError::VersionMissing(version) => format!(
                "the database has migration {version}, which this build does not know; nothing was done. Use the newer build"
            ),
            other => format!("the migration failed and was rolled back: {other}"),
        };
        Self { code: 1, message }
    }
}

/// Runs the command of the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match Config::from_env(needs(&cli)) {
        Ok(config) => config,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(2);
        }
    };
    telemetry::init(config.log_json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("the runtime could not be started: {error}"));
            return ExitCode::from(2);
        }
    };
    let end = runtime.block_on(run(cli, config));
    // What is still in the background (a rollback, a name look-up) must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match end {
        Ok(End::Fine) => ExitCode::SUCCESS,
        Ok(End::Found) => ExitCode::from(1),
        Err(failure) => {
            complain(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}

fn needs(cli: &Cli) -> Needs {
    match &cli.command {
        None | Some(Command::Serve(_)) => Needs::Server,
        Some(Command::Schema { .. }) => Needs::Nothing,
        Some(Command::Webhooks { action }) if !action.needs_database() => Needs::Nothing,
        Some(_) => Needs::Database,
    }
}

fn complain(message: &str) {
    // Where stderr is gone there is nobody to tell.
    drop(writeln!(std::io::stderr(), "tenantry: {message}"));
}

fn say(message: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout(), "{message}")?)
}

async fn run(cli: Cli, config: Config) -> Result<End, Failure> {
    match cli.command.unwrap_or(Command::Serve(ServeArgs::default())) {
        Command::Serve(args) => serve(config, &args).await,
        Command::Migrate { action } => migrate(&config, &action, cli.json).await,
        Command::Seed { scale, tickets } => seed_command(&config, scale, tickets).await,
        Command::Token { user, org, ttl } => token(&config, &user, org.as_deref(), ttl).await,
        Command::Schema { check } => schema(check),
        Command::Webhooks { action } => webhooks::run(&config, &action, cli.json).await,
        Command::Reconcile(args) => stripe::reconcile(&config, &args, cli.json).await,
        Command::Verify => verify_command(&config, cli.json).await,
        Command::Adopt { action } => adopt_command(&config, &action, cli.json).await,
    }
}

/// The addresses of the database, and the local server while it is needed.
struct Database {
    app: PgConnectOptions,
    superadmin: Option<PgConnectOptions>,
    migration: Option<PgConnectOptions>,
    local: Option<LocalPostgres>,
}

impl Database {
    async fn open(config: &Config) -> Result<Self, Failure> {
        match &config.database {
            DatabaseConfig::Remote { app, superadmin, migration } => Ok(Self {
                app: (**app).clone(),
                superadmin: superadmin.as_deref().cloned(),
                migration: migration.as_deref().cloned(),
                local: None,
            }),
            DatabaseConfig::Local => {
                let options = local::Options { data_dir: data_dir(config), durable: true };
                let server = LocalPostgres::start(options).await.map_err(Failure::environment)?;
                server.ensure_database(LOCAL_DATABASE).await.map_err(Failure::environment)?;
                Ok(Self {
                    app: server.connect_options(local::APP_ROLE, LOCAL_DATABASE),
                    superadmin: Some(server.connect_options(local::SUPERADMIN_ROLE, LOCAL_DATABASE)),
                    migration: Some(server.connect_options(local::OWNER_ROLE, LOCAL_DATABASE)),
                    local: Some(server),
                })
            }
        }
    }

    fn migration(&self) -> Result<&PgConnectOptions, Failure> {
        self.migration.as_ref().ok_or_else(|| {
            Failure::environment(
                "MIGRATION_DATABASE_URL is missing: the address of the database as the owner of the tables",
            )
        })
    }

    fn pools(&self, config: &Config) -> Result<Db, Failure> {
        let superadmin = self.superadmin.clone().ok_or_else(|| {
            Failure::environment(
                "SUPERADMIN_DATABASE_URL is missing: the address of the database as a member of tenantry_superadmin",
            )
        })?;
        Ok(Db::new(self.app.clone(), superadmin, config.pool))
    }
}

fn data_dir(config: &Config) -> std::path::PathBuf {
    local::default_data_dir(config.data_dir.clone())
}

/// In development webhooks without a secret of their own are signed with the one in the data folder.
fn add_dev_secrets(config: &mut Config) -> Result<(), Failure> {
    if !config.is_development() {
        return Ok(());
    }
    for source in WebhookSource::ALL {
        if config.webhooks.secrets(*source).is_empty() {
            let text = dev_secret(&data_dir(config)).map_err(Failure::environment)?;
            let secret = Secret::parse(*source, &text).map_err(Failure::environment)?;
            config.webhooks.add_secret(*source, secret);
        }
    }
    Ok(())
}

/// Starts this process's webhook workers; they end when a stop is asked for.
fn start_workers(
    app: &Arc<App>,
    database: &Database,
    count: u8,
    stopping: &watch::Receiver<bool>,
) -> Vec<JoinHandle<()>> {
    let worker = Worker::new(app);
    let mut tasks: Vec<_> = (0..count).map(|_| tokio::spawn(worker.clone().run(stopping.clone()))).collect();
    if let Some(options) = &database.superadmin {
        tasks.push(tokio::spawn(worker.listen(options.clone(), stopping.clone())));
    }
    tasks
}

async fn serve(mut config: Config, args: &ServeArgs) -> Result<End, Failure> {
    let database = Database::open(&config).await?;
    if database.local.is_some() && !args.no_setup {
        let applied = migrations::up(database.migration()?).await?;
        if applied > 0 {
            tracing::info!(applied, "migrated the local database");
        }
    }
    config.pool.workers = if args.role == Role::Api { 0 } else { args.workers.into() };
    let db = database.pools(&config)?;
    refuse_unsafe_roles(&db).await?;
    if database.local.is_some() && !args.no_setup && seed::is_empty(&db).await? {
        seed::sample_data(&db, &Clock::System).await?;
        tracing::info!("seeded the empty database with sample data");
    }

    let dev_issuer = if config.is_development() {
        Some(DevIssuer::open(&data_dir(&config)).map_err(Failure::environment)?)
    } else {
        None
    };
    add_dev_secrets(&mut config)?;
    for source in WebhookSource::ALL.iter().filter(|source| config.webhooks.secrets(**source).is_empty()) {
        tracing::warn!("{} is not set: its webhooks are answered with 503", source.secrets_variable());
    }
    let verifier = verifier(&config, dev_issuer.as_ref())?;
    // With an identity provider of its own, a development server makes no tokens: they would not be accepted.
    let dev_issuer = dev_issuer.filter(|_| config.keys == KeysConfig::Development);
    let (stop, stopping) = watch::channel(false);
    let listener = listen(&config.host, config.port, "PORT").await?;
    let address = listener.local_addr()?;
    let metrics = match config.metrics_port {
        Some(port) => Some(listen(&config.host, port, "METRICS_PORT").await?),
        None => None,
    };
    let app = App::new(AppParts {
        config,
        db: db.clone(),
        clock: Clock::System,
        verifier,
        dev_issuer,
        shutdown: stopping.clone(),
    });
    let mut background = Vec::new();
    if args.role != Role::Worker {
        background.push(tokio::spawn(app.events.clone().listen(database.app.clone(), stopping.clone())));
    }
    if args.role != Role::Api {
        background.extend(start_workers(&app, &database, args.workers, &stopping));
    }
    if let Some(metrics) = metrics {
        background.push(tokio::spawn({
            let (router, stopping) = (crate::http::metrics_router(&app), stopping.clone());
            async move {
                if let Err(error) = crate::http::serve(metrics, router, stopping).await {
                    tracing::error!(%error, "/metrics is not served any more");
                }
            }
        }));
    }
    announce(&app, &database, address)?;

    tokio::spawn(async move {
        stop_signal().await;
        tracing::info!("stopping: no new requests; those under way may end");
        // Nobody left to tell is as good as told.
        stop.send(true).ok();
    });
    let router = match args.role {
        Role::All | Role::Api => crate::http::router(&app),
        Role::Worker => crate::http::worker_router(&app),
    };
    crate::http::serve(listener, router, stopping).await?;
    // A worker ends what it has begun; what it cannot end is rolled back and done by another.
    let ended = futures_util::future::join_all(background);
    tokio::time::timeout(std::time::Duration::from_secs(15), ended).await.ok();
    db.close().await;
    drop(database);
    tracing::info!("stopped");
    Ok(End::Fine)
}

async fn listen(host: &str, port: u16, variable: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind((host, port)).await.map_err(|error| {
        Failure::environment(format!("cannot listen on {host}:{port}: {error}. Choose another {variable}."))
    })
}

fn verifier(config: &Config, dev: Option<&DevIssuer>) -> Result<Verifier, Failure> {
    let (source, issuer) = match (&config.keys, dev) {
        (KeysConfig::Url(url), _) => (KeySource::Url(url.clone()), config.issuer.clone()),
        (KeysConfig::File(file), _) => (KeySource::File(file.clone()), config.issuer.clone()),
        (KeysConfig::Development, Some(dev)) => (KeySource::Keys(dev.jwk_set()), Some(DEV_ISSUER.to_owned())),
        (KeysConfig::Development, None) => return Err(Failure::environment("AUTH_JWKS_URL is missing")),
    };
    let settings = AuthSettings {
        source,
        issuer,
        audience: config.audience.clone(),
        authorized_parties: config.authorized_parties.clone(),
    };
    Verifier::new(settings, Clock::System).map_err(Failure::environment)
}

/// DESIGN.md 3: with a role that sees around row-level security there is no isolation, so there is no server either.
async fn refuse_unsafe_roles(db: &Db) -> Result<(), Failure> {
    let findings = check_roles(db).await?;
    if findings.is_empty() {
        return Ok(());
    }
    let list: Vec<String> =
        findings.iter().map(|finding| format!("  - role {} {}", finding.role, finding.problem)).collect();
    Err(Failure::environment(format!("the database roles are not safe:\n{}", list.join("\n"))))
}

fn announce(app: &App, database: &Database, address: std::net::SocketAddr) -> Result<(), Failure> {
    if app.dev_issuer.is_none() {
        tracing::info!(%address, "listening");
        return Ok(());
    }
    let mut text = format!("\n  Tenantry is ready: http://{address}/ (GraphiQL), http://{address}/graphql (API)\n");
    if let Some(local) = &database.local {
        text += &format!("  PostgreSQL:        psql '{}'\n", local.url(local::OWNER_ROLE, LOCAL_DATABASE));
    }
    text.push_str("  Who you can be:\n");
    for persona in seed::PERSONAS {
        text += &format!("    {:<20} {}\n", persona.email, persona.description);
    }
    text.push_str("  A token:           cargo run -- token --user alice@example.com --org acme-corp\n");
    say(&text)
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

async fn migrate(config: &Config, action: &MigrateAction, json: bool) -> Result<End, Failure> {
    let database = Database::open(config).await?;
    let options = database.migration()?;
    match action {
        MigrateAction::Up => {
            let applied = migrations::up(options).await?;
            say(&if json {
                serde_json::json!({ "applied": applied, "version": migrations::newest() }).to_string()
            } else {
                format!("{applied} applied; the database is at {}", migrations::newest())
            })?;
            Ok(End::Fine)
        }
        MigrateAction::Down { steps, yes } => {
            adopt::command::confirm("migrate down loses what the tables hold", *yes)?;
            let version = migrations::down(options, *steps).await?;
            say(&if json {
                serde_json::json!({ "version": version }).to_string()
            } else {
                format!("the database is at {version}")
            })?;
            Ok(End::Fine)
        }
        MigrateAction::Status => {
            let list = migrations::status(options).await?;
            if json {
                say(&serde_json::json!(list).to_string())?;
            } else {
                for migration in &list {
                    say(&format!(
                        "{:>5}  {:<9}  {}",
                        migration.version,
                        format!("{:?}", migration.state).to_lowercase(),
                        migration.description
                    ))?;
                }
            }
            let settled = list.iter().all(|migration| migration.state == MigrationState::Applied);
            Ok(if settled { End::Fine } else { End::Found })
        }
    }
}

async fn seed_command(config: &Config, scale: Option<u32>, tickets: u32) -> Result<End, Failure> {
    let database = Database::open(config).await?;
    if database.local.is_some() {
        migrations::up(database.migration()?).await?;
    }
    let db = database.pools(config)?;
    let seeded = seed::sample_data(&db, &Clock::System).await?;
    say(&format!("{seeded}"))?;
    if let Some(organizations) = scale {
        let terminal = std::io::stderr().is_terminal();
        let rows = seed::scale(&db, &Clock::System, seed::Scale { organizations, tickets }, |done| {
            if terminal {
                drop(write!(std::io::stderr(), "\r{done}/{organizations} organizations"));
            }
        })
        .await?;
        if terminal {
            drop(writeln!(std::io::stderr()));
        }
        say(&format!("{organizations} organizations, {rows} rows"))?;
    }
    db.close().await;
    Ok(End::Fine)
}

async fn token(config: &Config, user: &str, org: Option<&str>, ttl: chrono::Duration) -> Result<End, Failure> {
    if !config.is_development() {
        return Err(Failure::environment(
            "tokens are made in development only; in production the identity provider makes them",
        ));
    }
    let issuer = DevIssuer::open(&data_dir(config)).map_err(Failure::environment)?;
    let database = Database::open(config).await?;
    let db = database.pools(config)?;
    let not_found = |message: String| Failure { code: 1, message };
    let subject = members::subject_of(&db, user).await?.ok_or_else(|| {
        not_found(format!("nobody has the e-mail address {user}; the sample data has alice@example.com"))
    })?;
    let organization = match org {
        None => None,
        Some(slug) => {
            let row = members::viewer(&db, &subject).await?;
            let membership = row.iter().flat_map(|row| &row.memberships).find(|m| m.organization.slug == slug);
            let membership = membership.ok_or_else(|| not_found(format!("{user} is not a member of {slug}")))?;
            Some(TokenOrganization::of(&membership.organization))
        }
    };
    let token = issuer
        .issue(&IssueRequest { subject, organization, ttl: Some(ttl), now: Clock::System.now() })
        .map_err(Failure::environment)?;
    say(&token)?;
    db.close().await;
    Ok(End::Fine)
}

fn schema(check: bool) -> Result<End, Failure> {
    let sdl = Schemas::build(true).sdl;
    if !check {
        write!(std::io::stdout(), "{sdl}")?;
        return Ok(End::Fine);
    }
    let committed = std::fs::read_to_string("schema.graphql")
        .map_err(|error| Failure::environment(format!("schema.graphql: {error}")))?;
    if committed == sdl {
        return Ok(End::Fine);
    }
    let line = committed.lines().zip(sdl.lines()).take_while(|(a, b)| a == b).count() + 1;
    complain(&format!("schema.graphql differs from line {line} on: `cargo run -- schema > schema.graphql`"));
    Ok(End::Found)
}

async fn adopt_command(config: &Config, action: &AdoptAction, json: bool) -> Result<End, Failure> {
    let database = Database::open(config).await?;
    let outcome = adopt::command::execute(database.migration()?, action, &Clock::System).await?;
    say(&if json { outcome.json.to_string() } else { outcome.text })?;
    Ok(if outcome.found { End::Found } else { End::Fine })
}

async fn verify_command(config: &Config, json: bool) -> Result<End, Failure> {
    let database = Database::open(config).await?;
    let db = database.pools(config)?;
    let findings = verify::verify(&db).await?;
    if json {
        say(&serde_json::json!(findings).to_string())?;
    } else if findings.is_empty() {
        say("nothing to report: roles, row-level security and data are as they must be")?;
    } else {
        for finding in &findings {
            say(&format!("{:<26} {:<40} {}", finding.check, finding.subject, finding.problem))?;
        }
    }
    db.close().await;
    Ok(if findings.is_empty() { End::Fine } else { End::Found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live() {
        assert_eq!(parse_ttl("90s"), Ok(chrono::Duration::seconds(90)));
        assert_eq!(parse_ttl("24h"), Ok(chrono::Duration::hours(24)));
        for bad in ["", "h", "1", "0s", "25h", "-1h", "1d", "9223372036854775807h", "é"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
