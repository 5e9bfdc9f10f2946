//! Tenantry: a multi-tenant GraphQL backend on `PostgreSQL`.
//!
//! A request travels through these rooms: [`http`] (limits, negotiation, the session) → [`schema`] (the roots, merged
//! from the slices) → a slice such as [`tickets`], made of the kit in [`graphql`] → [`db::TenantTx`], where row-level
//! security decides what is there. A slice owns everything about its subject; `docs/ARCHITECTURE.md` is the map.

pub mod access;
pub mod adopt;
pub mod agents;
pub mod api_keys;
pub mod app;
pub mod audit;
pub mod auth;
pub mod billing;
pub mod budgets;
pub mod cli;
pub mod client_keys;
pub mod clock;
pub mod config;
pub mod customers;
pub mod data_rights;
pub mod db;
pub mod entitlements;
pub mod error;
pub mod escalations;
pub mod events;
mod fingerprint;
pub mod flags;
pub mod graphql;
pub mod hex;
pub mod http;
pub mod id;
pub mod job_runs;
pub mod jobs;
pub mod json;
pub mod local_postgres;
pub mod mail;
pub mod members;
pub mod metrics;
mod network;
pub mod organizations;
pub mod plans;
pub mod platform;
pub mod rates;
pub mod refunds;
pub mod representatives;
pub mod schema;
pub mod seed;
pub mod sla;
pub mod sql_enum;
pub mod sql_text;
pub mod stripe;
pub mod support_access;
pub mod sync;
pub mod telemetry;
pub mod tickets;
pub mod trail;
pub mod transfer;
pub mod turns;
pub mod unread;
pub mod verify;
pub mod webhook_events;
pub mod webhooks;
