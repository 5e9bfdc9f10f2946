//! A schema that executes and cannot tell what it is.
//!
//! The engine goes through every type of its registry for each field of `Query`, in search of entities of a federation
//! (`Registry::has_entities`): with six hundred types that is a tenth of the time of a small query. Executing needs none of them.
//! Interfaces stay known, and so do the roots; introspection needs the whole schema.

use std::borrow::Cow;
use std::pin::Pin;

use async_graphql::registry::Registry;
use async_graphql::{Context, Response, SubscriptionType};
use futures_util::Stream;

/// The subscriptions `S` of a schema without types. They are registered last, after queries and mutations.
#[derive(Debug, Default)]
pub struct Lean<S>(S);

impl<S: SubscriptionType> SubscriptionType for Lean<S> {
    fn type_name() -> Cow<'static, str> {
        S::type_name()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        let name = S::create_type_info(registry);
        let Registry { types, query_type, mutation_type, subscription_type, .. } = registry;
        let roots = [Some(&*query_type), mutation_type.as_ref(), subscription_type.as_ref()];
        types.retain(|name, _| roots.contains(&Some(name)));
        name
    }

    fn create_field_stream<'a>(
        &'a self,
        ctx: &'a Context<'_>,
    ) -> Option<Pin<Box<dyn Stream<Item = Response> + Send + 'a>>> {
        self.0.create_field_stream(ctx)
    }
}
