//! The kit that slices are made of. It knows no slice; [`schema`](crate::schema) puts the slices together.
//!
//! [`entity`] declares rows, [`filter`], [`order`] and [`listing`] what lists of them take, [`connection`] the fields that
//! show lists ([`plan`] and [`cursor`] do the work), [`relations`] those that show one row, `loader` reads rows and pages in
//! batches, [`rows`] writes what a list shows of them, [`mutation`] runs verbs (`idempotency` keeps them from running
//! twice), [`follow`] tells subscribers. [`time_zone`] checks names, [`calls`] counts requests. [`session`] is what one operation carries.

pub mod calls;
pub mod cells;
pub mod connection;
pub mod cursor;
pub mod entity;
pub mod filter;
pub mod follow;
mod idempotency;
pub mod lean;
pub mod listing;
mod loader;
pub mod loads;
pub mod money;
pub mod mutation;
pub mod node;
pub mod order;
pub mod plan;
pub mod relations;
pub mod rows;
pub mod session;
pub mod time_zone;

pub use session::{Credentials, Services, Session};
