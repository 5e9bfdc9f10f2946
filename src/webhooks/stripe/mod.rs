//! Stripe.

pub mod client;
