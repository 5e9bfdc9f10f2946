//! What a process is made of, put together once at start-up.

use std::sync::Arc;

use tokio::sync::watch;

use crate::access::NewUsers;
use crate::auth::{DevIssuer, Persona, Verifier};
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Db;
use crate::events::Events;
use crate::flags::Flags;
use crate::graphql::Services;
use crate::graphql::calls::Calls;
use crate::graphql::loads::Loads;
use crate::graphql::session::Meet;
use crate::http::dev::DevLogin;
use crate::http::graphql::{Documents, Limits, Persisted, Planned};
use crate::http::listener::Listening;
use crate::http::metrics::Tally;
use crate::http::{Edge, EdgeSettings, MetricsRoute};
use crate::jobs::Jobs;
use crate::mail::Mailer;
use crate::members::{self, InvitationMail};
use crate::rates::Rates;
use crate::refunds::Payer;
use crate::schema::{self, Schemas};
use crate::telemetry::otlp::Exporter;
use crate::webhooks::Webhooks;

/// A process.
pub struct App {
    /// What sessions are made of.
    pub services: Arc<Services>,
    /// What decides about feature flags. A process with an API keeps it ([`Flags::keep`]).
    pub flags: Arc<Flags>,
    /// The inbox of webhooks, and what is counted of them.
    pub webhooks: Arc<Webhooks>,
    /// What the workers do by the clock.
    pub jobs: Arc<Jobs>,
    /// Pays refunds.
    pub payer: Arc<Payer>,
    /// Sends invitations by mail.
    pub mail: Arc<InvitationMail>,
    /// What the routes can reach.
    pub edge: Arc<Edge>,
    /// Sends spans to a collector, where there is one. Whoever runs the process takes it and runs it.
    pub exporter: Option<Exporter>,
}

/// What an [`App`] is made of.
pub struct AppParts {
    /// The configuration.
    pub config: Config,
    /// The database.
    pub db: Db,
    /// The time.
    pub clock: Clock,
    /// Checks tokens.
    pub verifier: Verifier,
    /// Makes tokens, in development.
    pub dev_issuer: Option<DevIssuer>,
    /// The people whose tokens it makes.
    pub personas: &'static [Persona],
    /// Turns true when the server is to stop.
    pub shutdown: watch::Receiver<bool>,
}

impl App {
    /// Builds the schema and puts the parts together.
    #[must_use]
    pub fn new(parts: AppParts) -> Self {
        let AppParts { mut config, db, clock, verifier, dev_issuer, personas, shutdown } = parts;
        let stripe = config.webhooks.sync.stripe_client().unwrap_or_else(|error| {
            tracing::error!(%error, cause = ?error, "there is no client of Stripe: refunds and billing wait");
            None
        });
        let pair = config.traces.take().map(Exporter::new).transpose().unwrap_or_else(|error| {
            tracing::error!(%error, "nothing is traced: the certificates that the machine trusts cannot be read");
            None
        });
        let (tracer, exporter) = pair.unzip();
        let billing = config.upkeep(stripe.clone());
        let schemas = Schemas::build();
        let documents = Documents::new(&schemas.typed_sdl, Limits::default(), config.introspection);
        let settings = EdgeSettings {
            development: config.is_development(),
            introspection: config.introspection,
            graphiql: config.graphiql,
            metrics: match config.metrics_port {
                Some(_) => MetricsRoute::Apart,
                None if config.metrics_beside_api() => MetricsRoute::Everywhere,
                None => MetricsRoute::Worker,
            },
            cors_origins: config.cors_origins,
            statuses: config.statuses,
            proxies: config.proxies,
            slow: config.slow,
        };
        let (identity_source, app_url) = (config.identity_source, config.app_url);
        let meet: Option<Meet> = match (config.new_users, config.webhooks.sync.personal_workspaces) {
            (NewUsers::BySync, _) => None,
            (NewUsers::ByToken, false) => Some(members::meet),
            (NewUsers::ByToken, true) => Some(members::meet_with_workspace),
        };
        let mail = Arc::new(InvitationMail::new(
            db.clone(),
            clock.clone(),
            Mailer::new(config.smtp.as_ref()),
            config.invitation_template,
            app_url.clone(),
        ));
        let jobs = Arc::new(Jobs { db: db.clone(), clock: clock.clone(), retention: config.audit_retention, billing });
        let stripe_livemode = config.webhooks.sync.stripe_livemode;
        let payer = Arc::new(Payer::new(db.clone(), clock.clone(), stripe.clone()));
        let return_origins = return_origins(&app_url, &settings.cors_origins);
        let webhooks = Arc::new(Webhooks::new(db.clone(), clock.clone(), config.webhooks));
        for warning in config.plans.warnings() {
            tracing::warn!("PLANS_FILE: {warning}");
        }
        let events = Events::new(db.clone());
        let flags = Arc::new(Flags::new(clock.clone(), config.ofrep_rate_limit));
        let rates = Arc::new(Rates::new(config.api_cost_per_minute, Arc::clone(&config.plans), clock.clone()));
        let noting = std::sync::Mutex::default();
        let services = Arc::new(Services {
            noting,
            db,
            clock,
            verifier,
            events,
            node: schema::load_node,
            identity_source,
            meet,
            app_url,
            return_origins,
            stripe,
            stripe_livemode,
            plans: config.plans,
            calls: Calls::default(),
            loads: Loads::default(),
        });
        let listening = Arc::new(Listening::new(config.caps, settings.proxies.networks.clone()));
        let edge = Arc::new(Edge {
            flags: Arc::clone(&flags),
            services: Arc::clone(&services),
            schemas,
            documents,
            persisted: Persisted::new(config.persisted),
            rates,
            webhooks: Arc::clone(&webhooks),
            dev: dev_issuer.map(|issuer| DevLogin { issuer, personas }),
            tally: Tally::default(),
            tracer: tracer.unwrap_or_default(),
            plans: Planned::default(),
            settings,
            listening,
            shutdown,
        });
        Self { services, flags, webhooks, jobs, payer, mail, edge, exporter }
    }
}

/// The origins that people are led back to: that of the client application, and those whose pages may call the API.
fn return_origins(app_url: &str, cors_origins: &[String]) -> Vec<String> {
    let origin = |url: &str| {
        let start = url.find("://").map_or(0, |at| at + 3);
        let end = url[start..].find('/').map_or(url.len(), |at| start + at);
        url[..end].to_owned()
    };
    let mut origins = vec![origin(app_url)];
    origins.extend(cors_origins.iter().filter(|origin| *origin != "*").map(|url| origin(url)));
    origins.dedup();
    origins
}
