//! The sync: what the events of Clerk and Stripe mean, and the rows that follow from them.
//!
//! [`apply`] merges an event into the provider's objects (`mirror`) and derives the rows of our tables from them. It
//! knows nothing of how events are delivered; the worker in `webhooks` calls it.

pub mod apply;
mod clerk;
mod effects;
mod mirror;
mod origin;
mod payload;
pub mod samples;
pub mod stripe;
