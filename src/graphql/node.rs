//! `node` and `nodes` (GraphQL Global Object Identification Specification).

use std::sync::Arc;

use async_graphql::{Context, ID, Interface, Object};
use uuid::Uuid;

use crate::agents::{AgentConfiguration, DecisionRule};
use crate::api_keys::ApiKey;
use crate::audit::AuditLog;
use crate::billing::Subscription;
use crate::budgets::{Budget, BudgetUsageRecord};
use crate::customers::Customer;
use crate::error::{Error, Result};
use crate::escalations::Escalation;
use crate::graphql::connection::MAX_PAGE;
use crate::graphql::session::Session;
use crate::id::{self, Id, Identified};
use crate::members::{Invitation, OrganizationMember, User};
use crate::metrics::{PerformanceMetric, TeamPerformance};
use crate::organizations::Organization;
use crate::refunds::Refund;
use crate::representatives::Representative;
use crate::tickets::{Ticket, TicketMessage};
use crate::webhook_events::WebhookEvent;

macro_rules! nodes {
    ($($entity:ident),+ $(,)?) => {
        /// Something with an id.
        #[derive(Clone, Debug, Interface)]
        #[graphql(field(name = "id", ty = "ID", desc = "The id, unique among all types."))]
        pub enum Node {
            $(
                #[doc = concat!("A `", stringify!($entity), "`.")]
                $entity(Arc<$entity>),
            )+
        }

        /// The prefixes of all ids, with their types.
        pub const PREFIXES: &[(&str, &str)] = &[$(($entity::PREFIX, $entity::NAME)),+];

        async fn load(session: &Session, type_name: &str, id: Uuid) -> Result<Option<Node>> {
            match type_name {
                $( $entity::NAME => Ok(session.load(Id::<$entity>::from_uuid(id)).await?.map(Node::$entity)), )+
                _ => Ok(None),
            }
        }
    };
}

nodes!(
    AgentConfiguration,
    ApiKey,
    AuditLog,
    Budget,
    BudgetUsageRecord,
    Customer,
    DecisionRule,
    Escalation,
    Invitation,
    Organization,
    OrganizationMember,
    PerformanceMetric,
    Refund,
    Representative,
    Subscription,
    TeamPerformance,
    Ticket,
    TicketMessage,
    User,
    WebhookEvent,
);

/// The row of a type with this id, if the tenant has it and the viewer may see it.
///
/// # Errors
/// [`Error::Forbidden`] when the viewer's role may not see rows of this type.
pub async fn node_of_type(session: &Session, type_name: &str, id: Uuid) -> Result<Option<Node>> {
    load(session, type_name, id).await
}

async fn node(session: &Session, id: &ID) -> Result<Option<Node>> {
    let (prefix, uuid) = id::split(id).map_err(|message| Error::invalid("id", message))?;
    let Some((_, type_name)) = PREFIXES.iter().find(|(known, _)| *known == prefix) else {
        return Err(Error::invalid("id", format!("There is no type whose ids begin with `{prefix}_`.")));
    };
    node_of_type(session, type_name, uuid).await
}

/// The root fields.
#[derive(Debug, Default)]
pub struct NodeQuery;

#[Object]
impl NodeQuery {
    /// The row with this id; null when the organization has none such.
    async fn node(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "An id, as the API returned it.")] id: ID,
    ) -> Result<Option<Node>> {
        node(Session::of(ctx)?, &id).await
    }

    /// The rows with these ids, in their order; null in the place of each that the organization does not have.
    async fn nodes(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Ids, as the API returned them; at most 100.")] ids: Vec<ID>,
    ) -> Result<Vec<Option<Node>>> {
        if i64::try_from(ids.len()).unwrap_or(i64::MAX) > MAX_PAGE {
            return Err(Error::invalid("ids", format!("`ids` takes at most {MAX_PAGE} ids; these are {}.", ids.len())));
        }
        let session = Session::of(ctx)?;
        futures_util::future::try_join_all(ids.iter().map(|id| node(session, id))).await
    }
}
