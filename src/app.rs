//! The application: everything a request can reach, made once at start-up.

use std::sync::Arc;

use tokio::sync::watch;

use crate::auth::Verifier;
use crate::auth::dev::DevIssuer;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Db;
use crate::events::Events;
use crate::graphql::Schemas;
use crate::http::graphql::{Documents, Limits};
use crate::webhooks::Webhooks;

/// What all requests share.
pub struct App {
    /// The configuration.
    pub config: Arc<Config>,
    /// The database.
    pub db: Db,
    /// The time.
    pub clock: Clock,
    /// Checks tokens.
    pub verifier: Verifier,
    /// Makes tokens, in development.
    pub dev_issuer: Option<DevIssuer>,
    /// The schema.
    pub schemas: Schemas,
    /// Parsed and checked documents.
    pub documents: Documents,
    /// What happens in the database.
    pub events: Events,
    /// The inbox of webhooks, and what is counted of them.
    pub webhooks: Arc<Webhooks>,
    /// Turns true when the server is to stop.
    pub shutdown: watch::Receiver<bool>,
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
    /// Turns true when the server is to stop.
    pub shutdown: watch::Receiver<bool>,
}

impl App {
    /// Builds the schema and puts the parts together.
    #[must_use]
    pub fn new(parts: AppParts) -> Arc<Self> {
        let schemas = Schemas::build(parts.config.introspection);
        let documents = Documents::new(&schemas.sdl, Limits::default());
        let webhooks = Webhooks::new(parts.db.clone(), parts.clock.clone(), parts.config.webhooks.clone());
        Arc::new(Self {
            config: Arc::new(parts.config),
            db: parts.db,
            clock: parts.clock,
            verifier: parts.verifier,
            dev_issuer: parts.dev_issuer,
            schemas,
            documents,
            events: Events::default(),
            webhooks: Arc::new(webhooks),
            shutdown: parts.shutdown,
        })
    }
}
