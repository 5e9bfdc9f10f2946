//! Any row by its id, for slices that cannot know which type it has. The registry of types is above them, in
//! [`schema`](crate::schema); it reaches them as a function.

use std::borrow::Cow;
use std::sync::Arc;

use async_graphql::context::ContextSelectionSet;
use async_graphql::parser::types::Field;
use async_graphql::registry::Registry;
use async_graphql::{OutputType, Positioned, ServerResult, Value};
use futures_util::future::BoxFuture;
use uuid::Uuid;

use crate::error::Result;
use crate::graphql::session::Session;

/// Loads the row of the type with this name and this id, if the tenant has it and the viewer may see it.
pub type NodeLoad = for<'a> fn(&'a Session, &'a str, Uuid) -> BoxFuture<'a, Result<Option<AnyNode>>>;

/// A row of some type: the GraphQL interface `Node`.
#[derive(Clone)]
pub struct AnyNode(Arc<dyn ResolveNode>);

impl AnyNode {
    /// Wraps the interface that the registry makes.
    pub fn new(node: impl OutputType + 'static) -> Self {
        Self(Arc::new(node))
    }
}

/// What of [`OutputType`] works without knowing the type.
trait ResolveNode: Send + Sync {
    fn resolve_node<'a>(
        &'a self,
        ctx: &'a ContextSelectionSet<'_>,
        field: &'a Positioned<Field>,
    ) -> BoxFuture<'a, ServerResult<Value>>;
}

impl<T: OutputType> ResolveNode for T {
    fn resolve_node<'a>(
        &'a self,
        ctx: &'a ContextSelectionSet<'_>,
        field: &'a Positioned<Field>,
    ) -> BoxFuture<'a, ServerResult<Value>> {
        Box::pin(OutputType::resolve(self, ctx, field))
    }
}

impl OutputType for AnyNode {
    fn type_name() -> Cow<'static, str> {
        Cow::Borrowed("Node")
    }

    /// The registry's root field `node` declares the interface; here is only its name.
    fn create_type_info(_: &mut Registry) -> String {
        Self::qualified_type_name()
    }

    async fn resolve(&self, ctx: &ContextSelectionSet<'_>, field: &Positioned<Field>) -> ServerResult<Value> {
        self.0.resolve_node(ctx, field).await
    }
}
