//! The schema: roots merged from the slices, and what all slices share.

pub mod connection;
pub mod entity;
pub mod listing;
mod loader;
pub mod money;
pub mod mutation;
mod node;
pub mod session;

use async_graphql::{MergedObject, MergedSubscription, SDLExportOptions, ValidationMode};

pub use node::{Node, NodeQuery, PREFIXES, node_of_type};
pub use session::{Credentials, Session};

use crate::members::MembersQuery;
use crate::organizations::{OrganizationMutation, OrganizationQuery};
use crate::platform::PlatformQuery;
use crate::tickets::{TicketMutation, TicketSubscription};
use crate::webhook_events::{WebhookMutation, WebhookSubscription};

/// What can be read.
#[derive(Debug, Default, MergedObject)]
pub struct Query(MembersQuery, OrganizationQuery, NodeQuery, PlatformQuery);

/// What can be changed. The fields of one request are done one after the other, each in a transaction of its own.
#[derive(Debug, Default, MergedObject)]
pub struct Mutation(OrganizationMutation, TicketMutation, WebhookMutation);

/// What can be listened to. (The name `Subscription` is that of what an organization pays for.)
#[derive(Default, MergedSubscription)]
#[graphql(name = "SubscriptionRoot")]
pub struct Subscription(TicketSubscription, WebhookSubscription);

/// The schema of this API.
pub type Schema = async_graphql::Schema<Query, Mutation, Subscription>;

/// The schema twice: validating, for documents seen for the first time, and not, for those that passed before.
#[derive(Clone)]
pub struct Schemas {
    /// Validates every document.
    pub strict: Schema,
    /// Only for documents that `strict` has accepted and variables that were checked.
    pub fast: Schema,
    /// The schema definition language of both.
    pub sdl: String,
}

impl Schemas {
    /// Builds them. `suggestions` puts "Did you mean" into errors, which tells names to those who guess.
    #[must_use]
    pub fn build(suggestions: bool) -> Self {
        let build = |mode| {
            let schema =
                Schema::build(Query::default(), Mutation::default(), Subscription::default()).validation_mode(mode);
            if suggestions { schema.finish() } else { schema.disable_suggestions().finish() }
        };
        let strict = build(ValidationMode::Strict);
        let sdl = sdl_of(&strict);
        Self { strict, fast: build(ValidationMode::Fast), sdl }
    }
}

/// The SDL as it stands in `schema.graphql`: sorted, so that a difference is a change and not a shuffle.
fn sdl_of(schema: &Schema) -> String {
    let options = SDLExportOptions::new().sorted_arguments().sorted_enum_items().sorted_fields();
    let mut sdl = schema.sdl_with_options(options);
    sdl.truncate(sdl.trim_end().len());
    sdl.push('\n');
    sdl
}
