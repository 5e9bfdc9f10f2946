//! The integration tests: one binary, one `PostgreSQL`, one database per test.

mod adopt;
mod audits;
mod browser;
mod coverage;
mod engine;
mod errors;
mod events;
mod floors;
mod gates;
mod http_layer;
mod impersonation;
mod listing;
mod local_postgres;
mod members;
mod migrations;
mod pooler;
mod process;
mod revocation;
mod search_path;
mod support;
mod sync;
mod tenancy;
mod tickets;
mod tls;
mod webhooks;
mod ws;
