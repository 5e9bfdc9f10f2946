//! The sync: what the events of Clerk and Stripe mean, and the rows that follow from them.

pub mod apply;
mod clerk;
mod effects;
mod facts;
mod payload;
pub mod samples;
pub mod stripe;
