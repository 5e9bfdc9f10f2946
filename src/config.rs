//! Configuration: environment variables, read here and nowhere else.
//!
//! [`VARIABLES`] is the one list: `tenantry serve --help` prints it and a test compares README with it. Development has
//! a working default for everything; production refuses to start on a missing or unsafe value and names all of them at
//! once.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use crate::access::{IdentitySource, Impersonation, MemberRole, NewUsers};
use crate::audit::Retention;
use crate::billing::Upkeep;
use crate::db::{PoolLimits, Pooler};
use crate::http::client_address::{AddressHeader, Proxies};
use crate::http::graphql::{Manifests, PersistedConfig, SlowLog, Statuses, TrustedMode};
use crate::http::listener::Caps;
use crate::mail::Smtp;
use crate::members::InvitationTemplate;
use crate::network::Network;
use crate::plans::{OrganizationPlan, Plans};
use crate::stripe::{StripeClient, StripeKey};
use crate::telemetry::otlp;
use crate::webhook_events::WebhookSource;
use crate::webhooks::WebhooksConfig;
use crate::webhooks::signature::Secret;

/// A variable: its name, its default and what it means.
pub struct Variable {
    pub name: &'static str,
    /// The default, for people.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

const fn variable(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default, meaning }
}

/// Every variable.
pub const VARIABLES: &[Variable] = &[
    variable("TENANTRY_ENV", "development", "`development` or `production`"),
    variable("HOST", "127.0.0.1", "address to listen on; production: `::`"),
    variable("PORT", "8080", "port to listen on"),
    variable(
        "REUSE_PORT",
        "off",
        "`on` or `off`: a second process with it may listen on `PORT`, too, to take over from the first (docs/CONNECTIONS.md)",
    ),
    variable(
        "MAX_CONNECTIONS",
        "8192",
        "connections at once, WebSockets and streams too; fewer, when the process may not open as many files (docs/CONNECTIONS.md)",
    ),
    variable(
        "MAX_CONNECTIONS_PER_ADDRESS",
        "1024",
        "connections of one client address at once; `TRUSTED_PROXIES` are not bound by it",
    ),
    variable(
        "MAX_REQUESTS_AT_ONCE",
        "1024",
        "requests that are worked on at once; more are answered with 503, health checks are not",
    ),
    variable(
        "METRICS_PORT",
        "development: `PORT`",
        "port of `/metrics`, not to be published; unset in production: only workers have it, on `PORT`",
    ),
    variable("DATABASE_URL", "a local server", "PostgreSQL as a member of `tenantry_app`, bound by row-level security"),
    variable(
        "SUPERADMIN_DATABASE_URL",
        "a local server",
        "PostgreSQL as a member of `tenantry_superadmin`: webhooks, workers, commands",
    ),
    variable(
        "MIGRATION_DATABASE_URL",
        "a local server",
        "PostgreSQL as the owner of the tables: `tenantry migrate` and `adopt` only",
    ),
    variable(
        "DATABASE_MAX_CONNECTIONS",
        "10",
        "connections of one instance for the API, three of five for reading; a quarter more for the rest, one for each webhook worker, and 8 for jobs",
    ),
    variable(
        "DATABASE_POOLER",
        "–",
        "`transaction` when `DATABASE_URL` is a pooler in that mode (PgBouncer); the other two stay PostgreSQL's own address",
    ),
    variable("AUTH_JWKS_URL", "the development issuer", "https address of the identity provider's signing keys"),
    variable("AUTH_JWKS_FILE", "–", "the same as a file, instead of the address"),
    variable("AUTH_ISSUER", "the development issuer", "required `iss` of tokens"),
    variable("AUTH_AUDIENCE", "–", "the names of this API: required `aud` of tokens, comma separated"),
    variable("AUTH_AUTHORIZED_PARTIES", "–", "accepted `azp` of tokens (origins of your web clients), comma separated"),
    variable(
        "AUTH_OAUTH_CLIENTS",
        "–",
        "`client_id`s whose OAuth access tokens count as sessions, comma separated; needs `AUTH_AUDIENCE`",
    ),
    variable(
        "AUTH_IMPERSONATION",
        "`restricted`",
        "what an impersonator (`act`) may do: `off` nothing, `restricted` no guarded actions, `full` all of the user's",
    ),
    variable(
        "IDENTITY_SOURCE",
        "clerk, if CLERK_WEBHOOK_SECRETS is set",
        "who decides about members: `clerk` for the organizations that it knows, or `tenantry` for all (docs/MEMBERS.md)",
    ),
    variable(
        "NEW_USERS",
        "token; with Clerk: sync",
        "who makes users: `token`, the first one that names them, or `sync`, the identity provider's webhooks only (docs/MEMBERS.md)",
    ),
    variable("APP_URL", "the server's", "address of the client application, for the links in invitations"),
    variable(
        "SMTP_URL",
        "–",
        "server for outgoing mail (`smtps://user:password@host`, `smtp://…:587?tls=required`); without, nothing is mailed",
    ),
    variable("MAIL_FROM", "–", "who mail is from: `Acme <support@acme.example>`; required with `SMTP_URL`"),
    variable(
        "MAIL_TEMPLATES",
        "built in",
        "folder with your own `invitation.txt` and `invitation.html` (docs/MEMBERS.md)",
    ),
    variable(
        "AUDIT_RETENTION_DAYS",
        "for ever",
        "how long the audit log is kept, by plan: `FREE=90,PRO=1095`; 31 at least, and a plan that is not named keeps it (docs/AUDIT.md)",
    ),
    variable(
        "PLANS_FILE",
        "no limits",
        "TOML file that says what each plan gives: seats, budgets, API calls, prices (docs/PLANS.md)",
    ),
    variable("TENANTRY_DATA_DIR", ".tenantry", "folder of the local PostgreSQL and the development keys"),
    variable(
        "CLERK_WEBHOOK_SECRETS",
        "development: one of its own",
        "signing secrets of `/webhooks/clerk` (`whsec_…`), comma separated; unset in production: 503",
    ),
    variable(
        "STRIPE_WEBHOOK_SECRETS",
        "development: one of its own",
        "signing secrets of `/webhooks/stripe` (`whsec_…`), comma separated; unset in production: 503",
    ),
    variable(
        "CLERK_ROLES",
        "–",
        "what roles at Clerk are here, beside its own: `org:support_lead=ADMIN,org:auditor=VIEWER`; others are read-only",
    ),
    variable(
        "CLERK_INSTANCE",
        "any",
        "the Clerk instance (`ins_…`) whose events are applied; those of others are ignored",
    ),
    variable(
        "STRIPE_LIVEMODE",
        "of the key; production: on",
        "follow live mode (`on`) or test mode (`off`) of Stripe; events of the other are recorded and ignored",
    ),
    variable(
        "STRIPE_ACCOUNT",
        "the endpoint's own",
        "a connected Stripe account (`acct_…`) whose events are applied, too; those of others are ignored",
    ),
    variable(
        "STRIPE_SECRET_KEY",
        "–",
        "key of Stripe's API; without, nothing is asked of Stripe, no refund is paid and no plan sold through it",
    ),
    variable("STRIPE_API_BASE", "Stripe's", "address of Stripe's API, for tests against another one"),
    variable("STRIPE_PRICE_PLANS", "–", "which plan a price buys: `price_1=STARTER,price_2=PRO,price_3=NONE`"),
    variable(
        "PAST_DUE_GRACE_DAYS",
        "as long as Stripe tries",
        "for how many days a payment may be overdue before the plan is FREE: 0 to 365 (docs/BILLING.md)",
    ),
    variable("PERSONAL_WORKSPACES", "off", "`on` or `off`: every new user gets a workspace of their own"),
    variable(
        "OFREP_RATE_LIMIT",
        "10000",
        "requests per second that one API key may have flags decided with, on each instance; people have a hundredth; 0: no limit (docs/OFREP.md)",
    ),
    variable(
        "API_COST_PER_MINUTE",
        "1000000000",
        "points that operations of one organization may cost in a minute where its plan does not say it; a credential has half; 0: no limit (docs/LIMITS.md)",
    ),
    variable("CORS_ORIGINS", "–", "origins whose pages may call the API, comma separated"),
    variable(
        "TRUSTED_PROXIES",
        "–",
        "addresses and networks of your own proxies (`10.0.0.0/8`), comma separated: what they say of the client's address is believed",
    ),
    variable(
        "CLIENT_ADDRESS_HEADER",
        "x-forwarded-for",
        "the header in which `TRUSTED_PROXIES` name the client: `x-forwarded-for`, `forwarded` or `fly-client-ip`; no other is read",
    ),
    variable(
        "TRUSTED_DOCUMENTS",
        "–",
        "manifest of the documents that clients ask for by id, or a folder with one for each client (docs/GRAPHQL_HTTP.md)",
    ),
    variable(
        "TRUSTED_DOCUMENTS_MODE",
        "off",
        "what becomes of documents that are in no manifest: `off` executed, `log` executed and logged, `enforce` refused",
    ),
    variable(
        "AUTOMATIC_PERSISTED_QUERIES",
        "on",
        "`on` or `off`: whether clients may register documents by their hash, as Apollo's do",
    ),
    variable(
        "GRAPHQL_OVER_HTTP",
        "released",
        "the edition whose statuses answers have: `released`, or `draft` (docs/GRAPHQL_HTTP.md)",
    ),
    variable("GRAPHIQL", "on; production: off", "`on` or `off`: the explorer at `/`"),
    variable("INTROSPECTION", "on; production: off", "`on` or `off`: introspection, the SDL and suggestions in errors"),
    variable("LOG_FORMAT", "text; production: json", "`text` or `json`"),
    variable("RUST_LOG", "info,sqlx=warn", "what to log (tracing-subscriber's EnvFilter)"),
    variable(
        "SLOW_OPERATION_MS",
        "1000",
        "from how many milliseconds on an operation is logged as slow; 0: none is (docs/OBSERVABILITY.md)",
    ),
    variable("SLOW_OPERATION_PLANS", "off", "`on` or `off`: the plans of slow statements are logged, without values"),
    variable(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "–",
        "collector of traces (`http://host:4318`); without, nothing is traced. `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` and others as in docs/OBSERVABILITY.md",
    ),
    variable(
        "OTEL_TRACES_SAMPLER",
        "parentbased_always_on",
        "which traces are recorded; `traceidratio` and `parentbased_traceidratio` take their share from `OTEL_TRACES_SAMPLER_ARG`",
    ),
    variable(
        "TRACE_CALLERS",
        "continued",
        "`continued`: traces of callers go on, and the sampler decides which are recorded; `believed`: callers decide, for a server that only your own services reach",
    ),
];

/// The environment the server runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// On somebody's desk: everything has a default, tokens are made here.
    Development,
    /// For real: nothing unsafe.
    Production,
}

/// Whose a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortUse {
    /// This process's.
    Alone,
    /// Another process may listen on it, too.
    Shared,
}

/// Where `PostgreSQL` is.
#[derive(Clone, Debug)]
pub enum DatabaseConfig {
    /// One that this program starts.
    Local,
    /// One that is there.
    Remote {
        /// As the role bound by row-level security.
        app: Box<PgConnectOptions>,
        /// As the superadmin role; commands that do not need it do without.
        superadmin: Option<Box<PgConnectOptions>>,
        /// As the owner; only for migrations.
        migration: Option<Box<PgConnectOptions>>,
    },
}

/// Where the signing keys of tokens are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysConfig {
    /// The development issuer's.
    Development,
    /// At this address.
    Url(String),
    /// In this file.
    File(PathBuf),
}

/// What a command needs of the environment; what it does not need may be missing in production.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// No database.
    Nothing,
    /// An address of the database.
    Database,
    /// All that the server needs.
    Server,
}

/// The configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub environment: Environment,
    /// Address to listen on.
    pub host: String,
    /// Port to listen on.
    pub port: u16,
    /// Port of `/metrics`, if it has one of its own.
    pub metrics_port: Option<u16>,
    pub database: DatabaseConfig,
    pub pool: PoolLimits,
    /// The signing keys.
    pub keys: KeysConfig,
    /// Required issuer.
    pub issuer: Option<String>,
    /// Accepted audiences.
    pub audience: Vec<String>,
    /// Accepted parties.
    pub authorized_parties: Vec<String>,
    /// What impersonators may do.
    pub impersonation: Impersonation,
    /// OAuth clients whose access tokens count as sessions.
    pub oauth_clients: Vec<String>,
    /// The data folder, when one is named.
    pub data_dir: Option<PathBuf>,
    pub webhooks: WebhooksConfig,
    /// Who decides who belongs to an organization.
    pub identity_source: IdentitySource,
    /// Who makes users.
    pub new_users: NewUsers,
    /// The address of the client application, for links in invitations; without the slash at its end.
    pub app_url: String,
    /// The server for outgoing mail.
    pub smtp: Option<Smtp>,
    /// What invitations by mail say.
    pub invitation_template: InvitationTemplate,
    /// How long the audit log is kept.
    pub audit_retention: Retention,
    /// Requests per second of an API key for flags; 0: no bound.
    pub ofrep_rate_limit: u32,
    /// Points that an organization may spend in a minute where its plan does not say it; 0: no bound.
    pub api_cost_per_minute: u64,
    /// For how many days a payment may be overdue before the plan is FREE.
    pub grace_days: Option<u16>,
    /// What each plan gives; `webhooks.sync` has the same.
    pub plans: Arc<Plans>,
    /// Origins that may call the API.
    pub cors_origins: Vec<String>,
    /// Documents that requests name and do not carry.
    pub persisted: PersistedConfig,
    /// Which statuses answers have for clients that do not say.
    pub statuses: Statuses,
    /// The operator's own proxies.
    pub proxies: Proxies,
    /// Whose the port is.
    pub port_use: PortUse,
    /// How many connections and requests there may be.
    pub caps: Caps,
    /// Whether the explorer is served.
    pub graphiql: bool,
    /// Whether the schema can be asked for.
    pub introspection: bool,
    /// Whether to log JSON.
    pub log_json: bool,
    /// Which operations are logged as slow.
    pub slow: Option<SlowLog>,
    /// Where traces go, if they are recorded.
    pub traces: Option<otlp::Settings>,
}

/// What is wrong with the environment, all of it.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be used:\n{}", .0.iter().map(|problem| format!("  - {problem}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// What the jobs of billing work with.
    #[must_use]
    pub fn upkeep(&self, stripe: Option<Arc<StripeClient>>) -> Upkeep {
        Upkeep {
            stripe,
            plans: Arc::clone(&self.plans),
            livemode: self.webhooks.sync.stripe_livemode,
            grace_days: self.grace_days,
        }
    }

    /// Reads the process's environment.
    ///
    /// # Errors
    /// Everything that is wrong or missing, at once.
    pub fn from_env(needs: Needs) -> Result<Self, ConfigError> {
        Self::read(|name| std::env::var(name).ok(), needs)
    }

    /// Reads the variables from wherever `get` finds them. An empty value counts as none.
    pub fn read(get: impl Fn(&str) -> Option<String>, needs: Needs) -> Result<Self, ConfigError> {
        let mut reader = Reader { get: &get, problems: Vec::new(), needs };
        let environment = match reader.text("TENANTRY_ENV").as_deref() {
            None | Some("development") => Environment::Development,
            Some("production") => Environment::Production,
            Some(other) => {
                reader.problem(format!("TENANTRY_ENV is \"{other}\"; it takes development or production"));
                // The stricter rules apply to what nobody understands.
                Environment::Production
            }
        };
        let production = environment == Environment::Production;
        let identity_source = reader.identity_source();
        let plans = reader.plans();
        let config = Self {
            environment,
            host: reader.text("HOST").unwrap_or_else(|| if production { "::" } else { "127.0.0.1" }.to_owned()),
            port: reader.parsed("PORT", "a port, 0 to 65535").unwrap_or(8080),
            metrics_port: reader.parsed("METRICS_PORT", "a port, 0 to 65535"),
            database: reader.database(production),
            pool: PoolLimits {
                max_connections: reader
                    .parsed::<u32>("DATABASE_MAX_CONNECTIONS", "a number from 1 to 1000")
                    .unwrap_or(PoolLimits::default().max_connections)
                    .clamp(1, 1000),
                pooler: match reader.text("DATABASE_POOLER").as_deref() {
                    None => Pooler::None,
                    Some("transaction") => Pooler::Transaction,
                    Some(other) => {
                        reader.problem(format!("DATABASE_POOLER is \"{other}\"; it takes transaction, or is not set"));
                        Pooler::None
                    }
                },
                ..PoolLimits::default()
            },
            keys: reader.keys(production),
            issuer: reader.text("AUTH_ISSUER"),
            audience: reader.list("AUTH_AUDIENCE"),
            authorized_parties: reader.list("AUTH_AUTHORIZED_PARTIES"),
            impersonation: match reader.text("AUTH_IMPERSONATION").as_deref() {
                None | Some("restricted") => Impersonation::Restricted,
                Some("off") => Impersonation::Off,
                Some("full") => Impersonation::Full,
                Some(_) => {
                    reader.problem("AUTH_IMPERSONATION is none of off, restricted and full");
                    Impersonation::Off
                }
            },
            oauth_clients: reader.list("AUTH_OAUTH_CLIENTS"),
            data_dir: reader.text("TENANTRY_DATA_DIR").map(PathBuf::from),
            webhooks: reader.webhooks(production, &plans),
            identity_source,
            new_users: reader.new_users(identity_source),
            app_url: reader.app_url(),
            smtp: reader.smtp(production),
            invitation_template: reader.invitation_template(),
            audit_retention: reader.audit_retention(),
            api_cost_per_minute: reader.parsed("API_COST_PER_MINUTE", "a number, 0 or more").unwrap_or(1_000_000_000),
            ofrep_rate_limit: reader.parsed("OFREP_RATE_LIMIT", "a number, 0 or more").unwrap_or(10_000),
            grace_days: reader.grace_days(),
            plans,
            cors_origins: reader.list("CORS_ORIGINS"),
            persisted: reader.persisted(),
            statuses: reader.statuses(),
            proxies: Proxies { networks: reader.networks("TRUSTED_PROXIES"), header: reader.address_header() },
            port_use: if reader.switch("REUSE_PORT") == Some(true) { PortUse::Shared } else { PortUse::Alone },
            caps: reader.caps(),
            graphiql: reader.switch("GRAPHIQL").unwrap_or(!production),
            introspection: reader.switch("INTROSPECTION").unwrap_or(!production),
            log_json: reader.log_json(production),
            slow: reader.slow(),
            traces: reader.traces(),
        };
        if production && needs == Needs::Server {
            if matches!(&config.database, DatabaseConfig::Remote { superadmin: None, .. }) {
                reader.problem("SUPERADMIN_DATABASE_URL is missing: PostgreSQL as a member of tenantry_superadmin");
            }
            if config.issuer.is_none() {
                reader.problem("AUTH_ISSUER is missing: the `iss` that your identity provider writes into tokens");
            }
            if config.cors_origins.iter().any(|origin| origin == "*") {
                reader.problem("CORS_ORIGINS is *: name the origins of your web clients");
            }
        }
        if config.pool.pooler != Pooler::None
            && needs == Needs::Server
            && !matches!(&config.database, DatabaseConfig::Remote { superadmin: Some(_), .. })
        {
            reader.problem(
                "DATABASE_POOLER is set without DATABASE_URL and SUPERADMIN_DATABASE_URL: events are listened for on the latter, \
                 PostgreSQL's own address",
            );
        }
        if !config.oauth_clients.is_empty() && config.audience.is_empty() {
            reader.problem(
                "AUTH_OAUTH_CLIENTS is set without AUTH_AUDIENCE: an access token is good for its audience only, so name ours",
            );
        }
        if reader.problems.is_empty() { Ok(config) } else { Err(ConfigError(reader.problems)) }
    }

    /// Whether `/metrics` is on the port of the API, which in production is open to everybody.
    #[must_use]
    pub fn metrics_beside_api(&self) -> bool {
        self.metrics_port.is_none() && self.is_development()
    }

    /// Whether this is development.
    #[must_use]
    pub fn is_development(&self) -> bool {
        self.environment == Environment::Development
    }
}

struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
    needs: Needs,
}

impl Reader<'_> {
    fn problem(&mut self, text: impl Into<String>) {
        self.problems.push(text.into());
    }

    fn text(&self, name: &str) -> Option<String> {
        (self.get)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn parsed<T: FromStr>(&mut self, name: &str, wanted: &str) -> Option<T> {
        let value = self.text(name)?;
        let parsed = value.parse().ok();
        if parsed.is_none() {
            self.problem(format!("{name} is \"{value}\"; it takes {wanted}"));
        }
        parsed
    }

    fn list(&self, name: &str) -> Vec<String> {
        let text = self.text(name).unwrap_or_default();
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    fn networks(&mut self, name: &str) -> Vec<Network> {
        let (networks, wrong): (Vec<_>, Vec<_>) =
            self.list(name).iter().map(|item| item.parse::<Network>()).partition(Result::is_ok);
        for problem in wrong.into_iter().filter_map(Result::err) {
            self.problem(format!("{name}: {problem}"));
        }
        networks.into_iter().flatten().collect()
    }

    fn log_json(&mut self, production: bool) -> bool {
        match self.text("LOG_FORMAT").as_deref() {
            None => production,
            Some("json") => true,
            Some("text") => false,
            Some(other) => {
                let problem = format!("LOG_FORMAT is \"{other}\"; it takes text or json");
                self.problem(problem);
                production
            }
        }
    }

    fn address_header(&mut self) -> AddressHeader {
        match self.text("CLIENT_ADDRESS_HEADER").map(|name| name.to_ascii_lowercase()).as_deref() {
            None | Some("x-forwarded-for") => AddressHeader::XForwardedFor,
            Some("forwarded") => AddressHeader::Forwarded,
            Some("fly-client-ip") => AddressHeader::FlyClientIp,
            Some(other) => {
                let problem = format!(
                    "CLIENT_ADDRESS_HEADER is \"{other}\"; it takes x-forwarded-for, forwarded or fly-client-ip"
                );
                self.problem(problem);
                AddressHeader::default()
            }
        }
    }

    fn caps(&mut self) -> Caps {
        let usual = Caps::default();
        let mut cap =
            |name, usual| self.parsed::<NonZeroUsize>(name, "a number, 1 or more").map_or(usual, NonZeroUsize::get);
        Caps {
            connections: cap("MAX_CONNECTIONS", usual.connections),
            per_address: cap("MAX_CONNECTIONS_PER_ADDRESS", usual.per_address),
            requests: cap("MAX_REQUESTS_AT_ONCE", usual.requests),
        }
    }

    fn switch(&mut self, name: &str) -> Option<bool> {
        match self.text(name)?.as_str() {
            "on" | "true" | "1" => Some(true),
            "off" | "false" | "0" => Some(false),
            other => {
                let problem = format!("{name} is \"{other}\"; it takes on or off");
                self.problem(problem);
                None
            }
        }
    }

    fn url(&mut self, name: &str) -> Option<Box<PgConnectOptions>> {
        let value = self.text(name)?;
        let options = PgConnectOptions::from_str(&value).ok().map(Box::new);
        if options.is_none() {
            // The value holds a password: it is not repeated.
            self.problem(format!("{name} is not a PostgreSQL address (postgres://user:password@host/database)"));
        }
        options
    }

    fn database(&mut self, production: bool) -> DatabaseConfig {
        let (app, superadmin, migration) =
            (self.url("DATABASE_URL"), self.url("SUPERADMIN_DATABASE_URL"), self.url("MIGRATION_DATABASE_URL"));
        match app {
            Some(app) => DatabaseConfig::Remote { app, superadmin, migration },
            // The release step has the owner's address only.
            None if migration.is_some() && self.needs < Needs::Server => {
                DatabaseConfig::Remote { app: migration.clone().unwrap_or_default(), superadmin, migration }
            }
            None => {
                if production && self.needs >= Needs::Database && self.text("DATABASE_URL").is_none() {
                    self.problem("DATABASE_URL is missing: PostgreSQL as a member of tenantry_app");
                }
                DatabaseConfig::Local
            }
        }
    }

    fn identity_source(&mut self) -> IdentitySource {
        match self.text("IDENTITY_SOURCE").as_deref() {
            Some("clerk") => IdentitySource::Clerk,
            Some("tenantry") => IdentitySource::Tenantry,
            Some(other) => {
                let problem = format!("IDENTITY_SOURCE is \"{other}\"; it takes clerk or tenantry");
                self.problem(problem);
                IdentitySource::Clerk
            }
            None if self.text("CLERK_WEBHOOK_SECRETS").is_some() => IdentitySource::Clerk,
            None => IdentitySource::Tenantry,
        }
    }

    fn new_users(&mut self, identity_source: IdentitySource) -> NewUsers {
        match self.text("NEW_USERS").as_deref() {
            Some("token") => NewUsers::ByToken,
            Some("sync") => NewUsers::BySync,
            Some(other) => {
                let problem = format!("NEW_USERS is \"{other}\"; it takes token or sync");
                self.problem(problem);
                NewUsers::BySync
            }
            None if identity_source == IdentitySource::Tenantry => NewUsers::ByToken,
            None => NewUsers::BySync,
        }
    }

    fn slow(&mut self) -> Option<SlowLog> {
        let limit = self.parsed("SLOW_OPERATION_MS", "milliseconds, 0 or more").unwrap_or(1000);
        let plans = self.switch("SLOW_OPERATION_PLANS").unwrap_or(false);
        (limit > 0).then(|| SlowLog { from: Duration::from_millis(limit), plans })
    }

    /// The standard's variables for traces (OpenTelemetry, "Environment Variable Specification").
    fn traces(&mut self) -> Option<otlp::Settings> {
        let off = self.switch("OTEL_SDK_DISABLED").unwrap_or(false);
        if off || self.text("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter == "none") {
            return None;
        }
        let [endpoint, traces_endpoint, headers, protocol, service, attributes, sampler, sampler_argument] = [
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_HEADERS",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "OTEL_SERVICE_NAME",
            "OTEL_RESOURCE_ATTRIBUTES",
            "OTEL_TRACES_SAMPLER",
            "OTEL_TRACES_SAMPLER_ARG",
        ]
        .map(|name| self.text(name));
        let given = otlp::Given {
            endpoint: endpoint.as_deref(),
            traces_endpoint: traces_endpoint.as_deref(),
            headers: headers.as_deref(),
            protocol: protocol.as_deref(),
            service: service.as_deref(),
            attributes: attributes.as_deref(),
            sampler: sampler.as_deref(),
            sampler_argument: sampler_argument.as_deref(),
        };
        let mut settings = otlp::Settings::parse(given).unwrap_or_else(|problems| {
            self.problems.extend(problems);
            None
        });
        let believes_callers = match self.text("TRACE_CALLERS").as_deref() {
            None | Some("continued") => false,
            Some("believed") => true,
            Some(other) => {
                self.problem(format!("TRACE_CALLERS is \"{other}\"; it takes continued or believed"));
                false
            }
        };
        let timeout = self.parsed("OTEL_EXPORTER_OTLP_TIMEOUT", "milliseconds");
        let delay = self.parsed("OTEL_BSP_SCHEDULE_DELAY", "milliseconds");
        let room = self.parsed("OTEL_BSP_MAX_QUEUE_SIZE", "a number of spans");
        if let Some(settings) = &mut settings {
            settings.believes_callers = believes_callers;
            settings.timeout = timeout.map_or(settings.timeout, Duration::from_millis);
            settings.delay = delay.map_or(settings.delay, Duration::from_millis);
            settings.room = room.unwrap_or(settings.room);
        }
        settings
    }

    fn app_url(&mut self) -> String {
        let given = self.text("APP_URL");
        if given.as_ref().is_some_and(|url| !(url.starts_with("https://") || url.starts_with("http://"))) {
            self.problem("APP_URL is not an address that begins with https:// or http://");
        }
        let port = self.text("PORT").and_then(|port| port.parse::<u16>().ok()).unwrap_or(8080);
        given.unwrap_or_else(|| format!("http://localhost:{port}")).trim_end_matches('/').to_owned()
    }

    fn audit_retention(&mut self) -> Retention {
        let mut retention = Retention::default();
        for item in self.list("AUDIT_RETENTION_DAYS") {
            if let Err(problem) = retention.add(&item) {
                self.problem(format!("AUDIT_RETENTION_DAYS has {problem}"));
            }
        }
        retention
    }

    fn grace_days(&mut self) -> Option<u16> {
        let days: u16 = self.parsed("PAST_DUE_GRACE_DAYS", "a number from 0 to 365")?;
        if days > 365 {
            self.problem("PAST_DUE_GRACE_DAYS takes 0 to 365");
        }
        Some(days)
    }

    fn smtp(&mut self, production: bool) -> Option<Smtp> {
        let url = self.text("SMTP_URL")?;
        Smtp::parse(&url, self.text("MAIL_FROM").as_deref(), production).map_err(|problem| self.problem(problem)).ok()
    }

    fn invitation_template(&mut self) -> InvitationTemplate {
        let Some(folder) = self.text("MAIL_TEMPLATES") else { return InvitationTemplate::default() };
        InvitationTemplate::load(Path::new(&folder)).unwrap_or_else(|problem| {
            self.problem(format!("MAIL_TEMPLATES: {problem}"));
            InvitationTemplate::default()
        })
    }

    fn plans(&mut self) -> Arc<Plans> {
        let Some(file) = self.text("PLANS_FILE") else { return Arc::default() };
        let plans = Plans::load(Path::new(&file)).unwrap_or_else(|problems| {
            self.problems.extend(problems.into_iter().map(|problem| format!("PLANS_FILE: {problem}")));
            Plans::default()
        });
        Arc::new(plans)
    }

    fn persisted(&mut self) -> PersistedConfig {
        let mode = match self.text("TRUSTED_DOCUMENTS_MODE").as_deref() {
            None | Some("off") => TrustedMode::Off,
            Some("log") => TrustedMode::Log,
            Some("enforce") => TrustedMode::Enforce,
            Some(other) => {
                self.problem(format!("TRUSTED_DOCUMENTS_MODE is \"{other}\"; it takes off, log or enforce"));
                TrustedMode::Enforce
            }
        };
        let path = self.text("TRUSTED_DOCUMENTS").map(PathBuf::from);
        if path.is_none() && mode != TrustedMode::Off {
            self.problem("TRUSTED_DOCUMENTS_MODE is set without TRUSTED_DOCUMENTS: name the manifest, or its folder");
        }
        let manifests = path.as_deref().map_or(Ok(Manifests::default()), Manifests::load).unwrap_or_else(|problem| {
            self.problem(format!("TRUSTED_DOCUMENTS: {problem}"));
            Manifests::default()
        });
        let automatic = self.switch("AUTOMATIC_PERSISTED_QUERIES").unwrap_or(true);
        PersistedConfig { mode, path, manifests: Arc::new(manifests), automatic }
    }

    fn statuses(&mut self) -> Statuses {
        match self.text("GRAPHQL_OVER_HTTP").as_deref() {
            None | Some("released") => Statuses::Released,
            Some("draft") => Statuses::Draft,
            Some(other) => {
                self.problem(format!("GRAPHQL_OVER_HTTP is \"{other}\"; it takes released or draft"));
                Statuses::Released
            }
        }
    }

    /// What `STRIPE_PRICE_PLANS` and the file of the plans say of prices.
    fn price_plans(&mut self, plans: &Plans) -> BTreeMap<String, Option<OrganizationPlan>> {
        let mut price_plans = BTreeMap::new();
        for item in self.list("STRIPE_PRICE_PLANS") {
            let plan = item.split_once('=').and_then(|(price, plan)| {
                let plan = match plan.trim() {
                    none if none.eq_ignore_ascii_case("none") => None,
                    label => Some(OrganizationPlan::from_label(label)?),
                };
                Some((price.trim().to_owned(), plan))
            });
            match plan {
                Some((price, plan)) if !price.is_empty() => drop(price_plans.insert(price, plan)),
                _ => self.problem(format!(
                    "STRIPE_PRICE_PLANS has \"{item}\"; it takes price=PLAN, and plans are FREE, STARTER, PRO, ENTERPRISE, or NONE for what buys no plan"
                )),
            }
        }
        for (plan, price) in plans.prices() {
            match price_plans.insert(price.id.clone(), Some(plan)) {
                Some(other) if other != Some(plan) => self.problem(format!(
                    "STRIPE_PRICE_PLANS and PLANS_FILE contradict each other: {} buys {} and {}",
                    price.id,
                    other.map_or("NONE", OrganizationPlan::label),
                    plan.label()
                )),
                _ => {}
            }
        }
        price_plans
    }

    fn webhooks(&mut self, production: bool, plans: &Arc<Plans>) -> WebhooksConfig {
        let mut webhooks = WebhooksConfig::default();
        webhooks.sync.price_plans = self.price_plans(plans);
        webhooks.sync.plans = Arc::clone(plans);
        webhooks.sync.stripe_key = self.text("STRIPE_SECRET_KEY").map(StripeKey);
        webhooks.sync.stripe_api_base = self.text("STRIPE_API_BASE");
        for source in WebhookSource::ALL {
            let name = source.secrets_variable();
            for text in self.list(name) {
                // What is wrong is told, what was given is not repeated.
                match Secret::parse(*source, &text) {
                    Ok(secret) => webhooks.add_secret(*source, secret),
                    Err(problem) => self.problem(format!("{name}: one of its secrets {problem}")),
                }
            }
        }
        if webhooks.sync.stripe_key.as_ref().is_some_and(|key| !key.is_plausible()) {
            self.problem("STRIPE_SECRET_KEY is not a secret or restricted key (sk_… or rk_…)");
        }
        if let Some(base) = &webhooks.sync.stripe_api_base
            && !(base.starts_with("https://") || !production && base.starts_with("http://"))
        {
            self.problem("STRIPE_API_BASE is not an https address: the key would travel in the open");
        }
        let sync = &mut webhooks.sync;
        sync.clerk_instance = self.text("CLERK_INSTANCE");
        sync.stripe_account = self.text("STRIPE_ACCOUNT");
        let of_key = sync.stripe_key.as_ref().and_then(StripeKey::livemode);
        let given = self.switch("STRIPE_LIVEMODE");
        if given.zip(of_key).is_some_and(|(given, of_key)| given != of_key) {
            self.problem("STRIPE_LIVEMODE contradicts STRIPE_SECRET_KEY, which is of the other mode");
        }
        sync.stripe_livemode = given.or(of_key).or_else(|| production.then_some(true));
        sync.personal_workspaces = self.switch("PERSONAL_WORKSPACES").unwrap_or(false);
        for item in self.list("CLERK_ROLES") {
            let role = item.rsplit_once('=').and_then(|(foreign, role)| {
                Some((crate::sync::apply::role_key(foreign), MemberRole::from_label(&role.trim().to_uppercase())?))
            });
            match role {
                Some((foreign, role)) if !foreign.is_empty() => drop(sync.clerk_roles.insert(foreign, role)),
                _ => self.problem(format!(
                    "CLERK_ROLES has \"{item}\"; it takes org:name=ROLE, and roles are OWNER, ADMIN, MEMBER, VIEWER"
                )),
            }
        }
        webhooks
    }

    fn keys(&mut self, production: bool) -> KeysConfig {
        match (self.text("AUTH_JWKS_URL"), self.text("AUTH_JWKS_FILE")) {
            (Some(url), None) => KeysConfig::Url(url),
            (None, Some(file)) => KeysConfig::File(PathBuf::from(file)),
            (Some(_), Some(_)) => {
                self.problem("AUTH_JWKS_URL and AUTH_JWKS_FILE are both set: choose one");
                KeysConfig::Development
            }
            (None, None) => {
                if production && self.needs == Needs::Server {
                    self.problem(
                        "AUTH_JWKS_URL (or AUTH_JWKS_FILE) is missing: where your identity provider's signing keys are",
                    );
                }
                KeysConfig::Development
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Config::read(get, Needs::Server)
    }

    #[test]
    fn development_needs_nothing() {
        let config = read(&[]).expect("defaults");
        assert!(config.is_development() && config.graphiql && config.introspection && config.metrics_beside_api());
        assert!(matches!(config.database, DatabaseConfig::Local));
        assert_eq!((config.host.as_str(), config.port), ("127.0.0.1", 8080));
    }

    #[test]
    fn production_names_everything_that_is_missing() {
        let problems = read(&[("TENANTRY_ENV", "production")]).expect_err("unsafe").0.join("\n");
        for name in ["DATABASE_URL", "AUTH_JWKS_URL", "AUTH_ISSUER"] {
            assert!(problems.contains(name), "{problems}");
        }
    }

    #[test]
    fn a_release_step_needs_the_owner_only() {
        let get = |name: &str| match name {
            "TENANTRY_ENV" => Some("production".to_owned()),
            "MIGRATION_DATABASE_URL" => Some("postgres://owner:secret@db/tenantry".to_owned()),
            _ => None,
        };
        assert!(Config::read(get, Needs::Database).is_ok());
        assert!(Config::read(get, Needs::Server).is_err());
        assert!(Config::read(|name| get(name).filter(|_| name == "TENANTRY_ENV"), Needs::Nothing).is_ok());
    }

    #[test]
    fn production_is_closed_unless_opened() {
        let config = read(&[
            ("TENANTRY_ENV", "production"),
            ("DATABASE_URL", "postgres://app:secret@db/tenantry"),
            ("SUPERADMIN_DATABASE_URL", "postgres://system:secret@db/tenantry"),
            ("AUTH_JWKS_URL", "https://issuer.example/jwks"),
            ("AUTH_ISSUER", "https://issuer.example"),
        ])
        .expect("complete");
        assert!(!config.graphiql && !config.introspection && config.log_json && !config.metrics_beside_api());
    }

    #[test]
    fn a_pooler_needs_a_direct_address_beside_it() {
        let pooled = |more: &[(&str, &str)]| {
            read(&[&[("DATABASE_POOLER", "transaction"), ("DATABASE_URL", "postgres://app@pooler/x")], more].concat())
        };
        let complete = pooled(&[("SUPERADMIN_DATABASE_URL", "postgres://system@db/x")]).expect("complete");
        assert_eq!(complete.pool.pooler, Pooler::Transaction);
        assert!(pooled(&[]).expect_err("no direct address").to_string().contains("SUPERADMIN_DATABASE_URL"));
        let other = read(&[("DATABASE_POOLER", "session")]).expect_err("another mode");
        assert!(other.to_string().contains("DATABASE_POOLER is \"session\""));
    }

    #[test]
    fn prices_of_both_places_count_unless_they_contradict_each_other() {
        let file = std::env::temp_dir().join(format!("plans-{}.toml", std::process::id()));
        let text =
            "[FREE]\n[STARTER]\n[PRO]\n[[PRO.prices]]\nid = \"price_1\"\ninterval = \"MONTH\"\n[ENTERPRISE]\nseats = 9";
        std::fs::write(&file, text).expect("a file");
        let path = file.to_string_lossy().into_owned();
        let with = |prices| read(&[("PLANS_FILE", path.as_str()), ("STRIPE_PRICE_PLANS", prices)]);
        let config = with("price_1=PRO,price_2=STARTER").expect("no contradiction");
        let buys: Vec<_> = config.webhooks.sync.price_plans.values().copied().flatten().collect();
        assert_eq!(buys, [OrganizationPlan::Pro, OrganizationPlan::Starter]);
        assert_eq!(config.plans.of(OrganizationPlan::Enterprise).seats, Some(9));
        let problem = with("price_1=NONE").expect_err("a contradiction").to_string();
        assert!(problem.contains("contradict each other: price_1 buys NONE and PRO"), "{problem}");
        std::fs::remove_file(&file).expect("there");
    }

    #[test]
    fn bounds_of_connections_are_as_they_are_set() {
        let config = read(&[]).expect("defaults");
        assert_eq!((config.caps, config.port_use), (Caps::default(), PortUse::Alone));
        assert!(config.proxies.networks.is_empty() && config.proxies.header == AddressHeader::XForwardedFor);
        let config = read(&[
            ("MAX_CONNECTIONS", "30"),
            ("MAX_CONNECTIONS_PER_ADDRESS", "20"),
            ("MAX_REQUESTS_AT_ONCE", "10"),
            ("REUSE_PORT", "on"),
            ("TRUSTED_PROXIES", "10.0.0.0/8, 2001:db8::1"),
            ("CLIENT_ADDRESS_HEADER", "Forwarded"),
        ])
        .expect("right");
        assert_eq!(config.caps, Caps { connections: 30, per_address: 20, requests: 10 });
        assert_eq!(config.port_use, PortUse::Shared);
        let networks: Vec<_> = config.proxies.networks.iter().map(ToString::to_string).collect();
        assert_eq!(
            (networks, config.proxies.header),
            (vec!["10.0.0.0/8".into(), "2001:db8::1/128".into()], AddressHeader::Forwarded)
        );
    }

    #[test]
    fn traces_and_slow_operations_are_as_they_are_set() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        let traces = |more: &[(&str, &str)]| read(&[&[endpoint], more].concat()).expect("right").traces;
        assert!(read(&[]).expect("defaults").traces.is_none());
        assert!(traces(&[("OTEL_SDK_DISABLED", "true")]).is_none());
        assert!(traces(&[("OTEL_TRACES_EXPORTER", "none")]).is_none());
        let usual = traces(&[]).expect("on");
        assert!(!usual.believes_callers);
        assert_eq!((usual.timeout, usual.delay, usual.room), (Duration::from_secs(10), Duration::from_secs(5), 8192));
        let set = traces(&[
            ("TRACE_CALLERS", "believed"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "70"),
            ("OTEL_BSP_SCHEDULE_DELAY", "80"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "90"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.125"),
        ])
        .expect("on");
        let milliseconds = Duration::from_millis;
        assert_eq!((set.timeout, set.delay, set.room), (milliseconds(70), milliseconds(80), 90));
        assert!(set.believes_callers && format!("{set:?}").contains("ratio: 0.125, parent_based: false"), "{set:?}");

        let slow = |more: &[(&str, &str)]| read(more).expect("right").slow.map(|slow| (slow.from, slow.plans));
        assert_eq!(slow(&[]), Some((Duration::from_secs(1), false)));
        assert_eq!(slow(&[("SLOW_OPERATION_MS", "0")]), None);
        let both = [("SLOW_OPERATION_MS", "7"), ("SLOW_OPERATION_PLANS", "on")];
        assert_eq!(slow(&both), Some((milliseconds(7), true)));
    }

    #[test]
    fn bad_values_are_named_and_passwords_are_not_repeated() {
        let error = read(&[
            ("PORT", "99999"),
            ("GRAPHIQL", "maybe"),
            ("TENANTRY_ENV", "prod"),
            ("DATABASE_URL", "mysql://user:hunter2@host/db?port=x"),
            ("CORS_ORIGINS", "*"),
            ("CLERK_WEBHOOK_SECRETS", "whsec_hunter2"),
            ("STRIPE_WEBHOOK_SECRETS", "hunter2"),
            ("STRIPE_SECRET_KEY", "hunter2"),
            ("STRIPE_API_BASE", "http://somewhere.example"),
            ("STRIPE_PRICE_PLANS", "price_1=GOLD"),
            ("CLERK_ROLES", "org:lead=BOSS"),
            ("STRIPE_LIVEMODE", "perhaps"),
            ("SMTP_URL", "smtp:hunter2"),
            ("MAIL_FROM", "nobody"),
            ("AUDIT_RETENTION_DAYS", "FREE=30"),
            ("MAIL_TEMPLATES", "/no/such/folder"),
            ("PAST_DUE_GRACE_DAYS", "500"),
            ("PLANS_FILE", "/no/such/file"),
            ("TRUSTED_DOCUMENTS", "/no/such/manifest"),
            ("TRUSTED_DOCUMENTS_MODE", "strict"),
            ("AUTOMATIC_PERSISTED_QUERIES", "perhaps"),
            ("GRAPHQL_OVER_HTTP", "newest"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://user:hunter2@collector"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
            ("TRACE_CALLERS", "sometimes"),
            ("SLOW_OPERATION_MS", "-1"),
            ("REUSE_PORT", "perhaps"),
            ("MAX_REQUESTS_AT_ONCE", "0"),
            ("CLIENT_ADDRESS_HEADER", "x-real-ip"),
        ])
        .expect_err("bad")
        .to_string();
        for name in [
            "PORT",
            "GRAPHIQL",
            "TENANTRY_ENV",
            "DATABASE_URL",
            "CLERK_WEBHOOK_SECRETS",
            "STRIPE_WEBHOOK_SECRETS",
            "STRIPE_SECRET_KEY",
            "STRIPE_API_BASE",
            "STRIPE_PRICE_PLANS",
            "CLERK_ROLES",
            "STRIPE_LIVEMODE",
            "MAIL_FROM",
            "AUDIT_RETENTION_DAYS",
            "MAIL_TEMPLATES",
            "PAST_DUE_GRACE_DAYS",
            "PLANS_FILE",
            "TRUSTED_DOCUMENTS: /no/such/manifest",
            "TRUSTED_DOCUMENTS_MODE",
            "AUTOMATIC_PERSISTED_QUERIES",
            "GRAPHQL_OVER_HTTP",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_HEADERS",
            "TRACE_CALLERS",
            "SLOW_OPERATION_MS",
            "REUSE_PORT",
            "MAX_REQUESTS_AT_ONCE",
            "CLIENT_ADDRESS_HEADER",
        ] {
            assert!(error.contains(name), "{error}");
        }
        assert!(!error.contains("hunter2"), "{error}");
    }
}
