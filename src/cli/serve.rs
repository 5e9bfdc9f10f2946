//! `tenantry serve`: the server. The only place outside of tests that makes an [`App`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::database::{Database, data_dir};
use super::output::{CommandError, CommandResult, Exit, Output};
use super::webhooks::add_development_secrets;
use crate::app::{App, AppParts};
use crate::auth::dev::{DEV_ISSUER, DevIssuer};
use crate::auth::{AuthSettings, KeySource, Verifier};
use crate::clock::Clock;
use crate::config::{Config, KeysConfig, PortUse, VARIABLES};
use crate::db::{Db, Pooler, check_roles, keeps_statements, migrations};
use crate::entitlements;
use crate::error::Error;
use crate::http::graphql::Persisted;
use crate::http::listener::{self, Caps, Listening};
use crate::jobs;
use crate::seed;
use crate::webhook_events::WebhookSource;
use crate::webhooks::worker::Worker;

/// How many connections wait to be accepted.
const BACKLOG: u32 = 1024;

/// Run the server. In development it starts its own `PostgreSQL`, migrates, and seeds an empty database.
#[derive(Args)]
#[command(after_help = variables_help())]
pub(super) struct Serve {
    /// What this process does.
    #[arg(long, value_enum, default_value_t = Role::All)]
    role: Role,
    /// How many webhook workers this process runs, unless its role is `api`.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    workers: u8,
    /// Do not migrate or seed the local database at start.
    #[arg(long)]
    no_setup: bool,
}

impl Default for Serve {
    fn default() -> Self {
        Self { role: Role::All, workers: 2, no_setup: false }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Everything.
    All,
    /// The API: GraphQL, `GraphiQL` and the reception of webhooks.
    Api,
    /// Applies webhooks. Answers health checks and `/metrics` only.
    Worker,
}

fn variables_help() -> String {
    let mut text = String::from("Environment:\n");
    for variable in VARIABLES {
        text += &format!("  {:<26} {} [default: {}]\n", variable.name, variable.meaning, variable.default);
    }
    text
}

impl Serve {
    pub(super) async fn run(self, mut config: Config, output: Output) -> CommandResult {
        let database = Database::open(&config).await?;
        let set_up = database.is_local() && !self.no_setup;
        if set_up {
            let applied = migrations::up(database.owner()?).await?;
            if applied > 0 {
                tracing::info!(applied, "migrated the local database");
            }
        }
        config.pool.workers = if self.role == Role::Api { 0 } else { u32::from(self.workers) + jobs::CONNECTIONS };
        if config.pool.pooler == Pooler::Transaction && keeps_statements(&database.app).await? {
            config.pool.pooler = Pooler::TransactionKeepingStatements;
        }
        let db = database.pools(&config)?;
        refuse_lost_settings(&db, config.pool.pooler).await?;
        refuse_unsafe_roles(&db).await?;
        if set_up && seed::is_empty(&db).await? {
            seed::sample_data(&db, &Clock::System).await?;
            tracing::info!("seeded the empty database with sample data");
        }

        if let Err(error) = entitlements::publish(&db, &config.plans).await {
            tracing::warn!(%error, "the database does not know yet what plans give: migrate it, then start again");
        }

        let dev_issuer = if config.is_development() {
            Some(DevIssuer::open(&data_dir(&config)).map_err(CommandError::usage)?)
        } else {
            None
        };
        add_development_secrets(&mut config)?;
        for source in WebhookSource::ALL.iter().filter(|source| config.webhooks.secrets(**source).is_empty()) {
            tracing::warn!("{} is not set: its webhooks are answered with 503", source.secrets_variable());
        }
        let verifier = verifier(&config, dev_issuer.as_ref())?;
        if !config.is_development() && config.authorized_parties.is_empty() {
            tracing::warn!(
                "AUTH_AUTHORIZED_PARTIES is not set: tokens issued to any web application of the issuer are accepted"
            );
        }
        // With an identity provider of its own, a development server makes no tokens: they would not be accepted.
        let dev_issuer = dev_issuer.filter(|_| config.keys == KeysConfig::Development);
        let (stop, stopping) = watch::channel(false);
        config.caps.connections = within(listener::open_files(), config.caps.connections);
        let socket = listen(&config.host, config.port, "PORT", config.port_use).await?;
        let address = socket.local_addr()?;
        let metrics = match config.metrics_port {
            Some(port) => Some(listen(&config.host, port, "METRICS_PORT", config.port_use).await?),
            None => None,
        };
        // A pooler in transaction mode passes no notification on.
        let direct = if config.pool.pooler == Pooler::None { None } else { database.superadmin.clone() };
        let direct = direct.unwrap_or_else(|| database.app.clone());
        let mut app = App::new(AppParts {
            config,
            db: db.clone(),
            clock: Clock::System,
            verifier,
            dev_issuer,
            personas: seed::PERSONAS,
            shutdown: stopping.clone(),
        });
        let mut background = Vec::new();
        if let Some(exporter) = app.exporter.take() {
            background.push(tokio::spawn(exporter.run()));
        }
        if self.role != Role::Worker {
            background.push(tokio::spawn(app.services.events.clone().listen(direct.clone(), stopping.clone())));
            background.push(tokio::spawn(Arc::clone(&app.flags).keep(db.clone(), direct, stopping.clone())));
            background.push(tokio::spawn(Persisted::keep(Arc::clone(&app.edge), stopping.clone())));
            let services = Arc::clone(&app.services);
            background.push(tokio::spawn(entitlements::keep_writing_calls(services, stopping.clone())));
            background.push(tokio::spawn(Arc::clone(&app.edge.rates).keep_sharing(db.clone(), stopping.clone())));
        }
        if self.role != Role::Api {
            background.extend(start_workers(&app, &database, self.workers, &stopping));
        }
        if let Some(metrics) = metrics {
            background.push(start_metrics(&app, metrics, &stopping));
        }
        announce(&app, &database, address, output)?;

        tokio::spawn(async move {
            stop_signal().await;
            tracing::info!("stopping: no new requests; those under way may end");
            // An error means that nobody listens any more.
            stop.send(true).ok();
        });
        let router = match self.role {
            Role::All | Role::Api => crate::http::router(&app.edge),
            Role::Worker => crate::http::worker_router(&app.edge),
        };
        listener::serve(socket, router, Arc::clone(&app.edge.listening), stopping).await;
        app.edge.tracer.close();
        // A worker ends what it has begun; what it cannot end is rolled back and done by another.
        let ended = futures_util::future::join_all(background);
        tokio::time::timeout(Duration::from_secs(15), ended).await.ok();
        let counted = tokio::time::timeout(Duration::from_secs(5), entitlements::write_calls(&app.services)).await;
        if let Err(error) = counted.unwrap_or(Err(Error::Timeout)) {
            tracing::warn!(%error, "the last calls of the API were not counted");
        }
        db.close().await;
        drop(database);
        tracing::info!("stopped");
        Ok(Exit::Success)
    }
}

/// Starts this process's webhook workers; they end when a stop is asked for.
fn start_workers(app: &App, database: &Database, count: u8, stopping: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
    let worker = Worker::new(&app.webhooks);
    let mut tasks: Vec<_> = (0..count).map(|_| tokio::spawn(worker.clone().run(stopping.clone()))).collect();
    tasks.push(tokio::spawn(jobs::run(Arc::clone(&app.jobs), stopping.clone())));
    let (payer, until) = (Arc::clone(&app.payer), stopping.clone());
    tasks.push(tokio::spawn(async move { payer.run(until).await }));
    let (mail, until) = (Arc::clone(&app.mail), stopping.clone());
    tasks.push(tokio::spawn(async move { mail.run(until).await }));
    if let Some(options) = &database.superadmin {
        tasks.push(tokio::spawn(worker.listen(options.clone(), stopping.clone())));
    }
    tasks
}

fn start_metrics(app: &App, socket: TcpListener, stopping: &watch::Receiver<bool>) -> JoinHandle<()> {
    let (router, stopping) = (crate::http::metrics_router(&app.edge), stopping.clone());
    // Places of its own: the figures are wanted most when the others are taken.
    let caps = Caps { connections: 64, ..Caps::default() };
    tokio::spawn(listener::serve(socket, router, Arc::new(Listening::new(caps, Vec::new())), stopping))
}

/// As many connections as are wanted, if the process may open so many files. An eighth of them is for everything else: a
/// connection to the database that cannot be opened is worse than one that is refused.
fn within(files: Option<usize>, wanted: usize) -> usize {
    let Some(files) = files else { return wanted };
    let most = (files - files / 8).max(1);
    if most < wanted {
        tracing::warn!(
            "the process may open {files} files (ulimit -n): no more than {most} connections are taken, not {wanted}"
        );
    }
    wanted.min(most)
}

async fn listen(host: &str, port: u16, variable: &str, port_use: PortUse) -> Result<TcpListener, CommandError> {
    bind(host, port, port_use).await.map_err(|error| {
        CommandError::usage(format!("cannot listen on {host}:{port}: {error}. Choose another {variable}."))
    })
}

/// Listens on the first address of the host that is ours.
async fn bind(host: &str, port: u16, port_use: PortUse) -> io::Result<TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in tokio::net::lookup_host((host, port)).await? {
        let bound = (|| {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // A restart need not wait for connections that the last process has closed.
            socket.set_reuseaddr(true)?;
            if port_use == PortUse::Shared {
                socket.set_reuseport(true)?;
            }
            socket.bind(address)?;
            socket.listen(BACKLOG)
        })();
        match bound {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn verifier(config: &Config, dev: Option<&DevIssuer>) -> Result<Verifier, CommandError> {
    let (source, issuer) = match (&config.keys, dev) {
        (KeysConfig::Url(url), _) => (KeySource::Url(url.clone()), config.issuer.clone()),
        (KeysConfig::File(file), _) => (KeySource::File(file.clone()), config.issuer.clone()),
        (KeysConfig::Development, Some(dev)) => (KeySource::Keys(dev.jwk_set()), Some(DEV_ISSUER.to_owned())),
        (KeysConfig::Development, None) => return Err(CommandError::usage("AUTH_JWKS_URL is missing")),
    };
    let settings = AuthSettings {
        source,
        issuer,
        audience: config.audience.clone(),
        authorized_parties: config.authorized_parties.clone(),
        oauth_clients: config.oauth_clients.clone(),
        impersonation: config.impersonation,
    };
    Verifier::new(settings, Clock::System).map_err(CommandError::usage)
}

/// A pooler may pass the settings of sessions on to nobody; then they must be the role's. No request goes without them.
async fn refuse_lost_settings(db: &Db, pooler: Pooler) -> Result<(), CommandError> {
    let missing = db.missing_settings().await.map_err(Error::from)?;
    if missing.is_empty() {
        return Ok(());
    }
    let statements = missing.join("\n  ");
    Err(CommandError::usage(if pooler == Pooler::None {
        format!(
            "a pooler stands before the database and loses the settings of a session. Give the address of PostgreSQL itself, \
             or set DATABASE_POOLER=transaction; what is missing:\n  {statements}"
        )
    } else {
        format!(
            "a pooler passes the settings of sessions on to nobody, so they must be the role's. Run as the database's \
             administrator, then reconnect the pooler:\n  {statements}"
        )
    }))
}

/// The server does not start with a role that row-level security does not bind: there would be no isolation.
async fn refuse_unsafe_roles(db: &Db) -> Result<(), CommandError> {
    let findings = check_roles(db).await?;
    if findings.is_empty() {
        return Ok(());
    }
    let list: Vec<String> =
        findings.iter().map(|finding| format!("  - role {} {}", finding.role, finding.problem)).collect();
    Err(CommandError::usage(format!("the database roles are not safe:\n{}", list.join("\n"))))
}

fn announce(app: &App, database: &Database, address: SocketAddr, output: Output) -> Result<(), CommandError> {
    if app.edge.dev.is_none() {
        tracing::info!(%address, "listening");
        return Ok(());
    }
    let mut text = format!("\n  Tenantry is ready: http://{address}/ (GraphiQL), http://{address}/graphql (API)\n");
    if let Some(url) = database.local_url() {
        text += &format!("  PostgreSQL:        psql '{url}'\n");
    }
    text.push_str("  Who you can be:\n");
    for persona in seed::PERSONAS {
        text += &format!("    {:<20} {}\n", persona.email, persona.description);
    }
    text.push_str("  A token:           cargo run -- token --user alice@example.com --org acme-corp\n");
    output.line(&text)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Two servers that share a port by accident would share its requests.
    #[tokio::test]
    async fn a_port_is_shared_only_by_those_who_want_to() {
        use PortUse::{Alone, Shared};
        for (first, second, is_shared) in [(Alone, Alone, false), (Shared, Alone, false), (Shared, Shared, true)] {
            let held = bind("127.0.0.1", 0, first).await.expect("a port");
            let port = held.local_addr().expect("an address").port();
            assert_eq!(bind("127.0.0.1", port, second).await.is_ok(), is_shared, "{first:?} {second:?}");
        }
    }

    #[test]
    fn connections_leave_files_for_the_rest() {
        assert_eq!([within(Some(1024), 8192), within(Some(1024), 100), within(None, 8192)], [896, 100, 8192]);
    }
}
