//! The schema: the one place that knows all slices. Roots, the interface `Node`, the registry of entities and
//! mutations, the SDL.

use std::sync::Arc;

use async_graphql::{
    Context, ID, Interface, MergedObject, MergedSubscription, Object, Request, Response, SDLExportOptions,
    ValidationMode,
};
use futures_util::future::BoxFuture;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::access::Action;
use crate::agents::{AgentConfiguration, AgentMutation, AgentQuery, DecisionRule};
use crate::api_keys::{ApiKey, ApiKeyMutation};
use crate::audit::AuditLog;
use crate::billing::{BillingAction, BillingMutation, BillingSubscription, Invoice, Subscription};
use crate::budgets::{Budget, BudgetAlert, BudgetMutation, BudgetReservation, BudgetSubscription, BudgetUsageRecord};
use crate::client_keys::{ClientKey, ClientKeyMutation};
use crate::customers::{Customer, CustomerEvent, CustomerMutation, CustomerSubscription};
use crate::entitlements::EntitlementMutation;
use crate::error::{Error, Result};
use crate::escalations::{Escalation, EscalationMutation, EscalationNotice, EscalationRule, EscalationSubscription};
use crate::flags::{FeatureFlagOverride, FlagMutation, FlagSubscription};
use crate::graphql::entity::Entity;
use crate::graphql::filter::Filter as _;
use crate::graphql::lean::Lean;
use crate::graphql::listing::Listed;
use crate::graphql::mutation::MutationInfo;
use crate::graphql::node::AnyNode;
use crate::graphql::plan::MAX_PAGE;
use crate::graphql::session::Session;
use crate::id::{self, Id, PREFIXES};
use crate::members::{
    CustomRole, Invitation, MembersMutation, MembersQuery, MembershipRequest, OrganizationDomain, OrganizationMember,
    User,
};
use crate::metrics::{PerformanceMetric, TeamPerformance};
use crate::organizations::{Organization, OrganizationMutation, OrganizationQuery};
use crate::platform::{PlatformOrganization, PlatformQuery, PlatformUser};
use crate::refunds::{Refund, RefundMutation, RefundSubscription};
use crate::representatives::{
    Representative, RepresentativeAbsence, RepresentativeMutation, RepresentativeSubscription,
};
use crate::sla::{BusinessCalendar, SlaEvent, SlaMutation, SlaPolicy, SlaSubscription};
use crate::support_access::{SupportAccess, SupportAccessMutation};
use crate::tickets::{
    Ticket, TicketEvent, TicketField, TicketMessage, TicketMessageRevision, TicketMutation, TicketSubscription,
    TicketView, TicketWatcher,
};
use crate::webhook_events::{WebhookEvent, WebhookMutation, WebhookSubscription};
use crate::{
    agents, api_keys, billing, budgets, client_keys, customers, entitlements, escalations, flags, members,
    organizations, refunds, representatives, sla, support_access, tickets, webhook_events,
};

/// The queries of the API.
#[derive(Debug, Default, MergedObject)]
pub struct Query(MembersQuery, OrganizationQuery, AgentQuery, NodeQuery, PlatformQuery);

/// The mutations of the API. The fields of one request run one after the other, each in a transaction of its own.
#[derive(Debug, Default, MergedObject)]
pub struct Mutation(
    OrganizationMutation,
    MembersMutation,
    ApiKeyMutation,
    ClientKeyMutation,
    TicketMutation,
    CustomerMutation,
    RepresentativeMutation,
    EscalationMutation,
    SlaMutation,
    AgentMutation,
    BudgetMutation,
    EntitlementMutation,
    RefundMutation,
    BillingMutation,
    FlagMutation,
    WebhookMutation,
    SupportAccessMutation,
);

/// The subscriptions of the API. (The type `Subscription` is the paid plan of an organization.)
#[derive(Default, MergedSubscription)]
#[graphql(name = "SubscriptionRoot")]
pub struct SubscriptionRoot(
    TicketSubscription,
    CustomerSubscription,
    RepresentativeSubscription,
    EscalationSubscription,
    SlaSubscription,
    BudgetSubscription,
    RefundSubscription,
    BillingSubscription,
    WebhookSubscription,
    FlagSubscription,
);

/// Every mutation of the API.
#[must_use]
pub fn mutations() -> Vec<MutationInfo> {
    [
        organizations::MUTATIONS,
        &members::mutations(),
        api_keys::MUTATIONS,
        client_keys::MUTATIONS,
        tickets::MUTATIONS,
        customers::MUTATIONS,
        representatives::MUTATIONS,
        escalations::MUTATIONS,
        sla::MUTATIONS,
        agents::MUTATIONS,
        budgets::MUTATIONS,
        entitlements::MUTATIONS,
        refunds::MUTATIONS,
        billing::MUTATIONS,
        flags::MUTATIONS,
        webhook_events::MUTATIONS,
        support_access::MUTATIONS,
    ]
    .concat()
}

macro_rules! entities {
    (listed: $($listed:ident),+; unlisted: $($unlisted:ident),+; platform: $($platform:ident),+;) => {
        /// A row with an id that is unique among all types.
        #[derive(Clone, Debug, Interface)]
        #[graphql(field(name = "id", ty = "ID", desc = "The id, unique among all types."))]
        pub enum Node {
            $( #[doc = concat!("A `", stringify!($listed), "`.")] $listed(Arc<$listed>), )+
            $( #[doc = concat!("A `", stringify!($unlisted), "`.")] $unlisted(Arc<$unlisted>), )+
        }

        /// Every entity of the API.
        pub const ENTITIES: &[EntityInfo] = &[
            $( entity::<$listed>(Some(listing::<$listed>())), )+
            $( entity::<$unlisted>(None), )+
            $( EntityInfo { is_platform: true, ..entity::<$platform>(Some(listing::<$platform>())) }, )+
        ];

        async fn load(session: &Session, type_name: &str, id: Uuid) -> Result<Option<Node>> {
            match type_name {
                $( $listed::NAME => Ok(session.load(Id::<id::marker::$listed>::from_uuid(id)).await?.map(Node::$listed)), )+
                $( $unlisted::NAME => {
                    Ok(session.load(Id::<id::marker::$unlisted>::from_uuid(id)).await?.map(Node::$unlisted))
                } )+
                _ => Ok(None),
            }
        }
    };
}

entities! {
    listed: AgentConfiguration, ApiKey, AuditLog, BillingAction, Budget, BudgetAlert, BudgetReservation, BudgetUsageRecord, BusinessCalendar, ClientKey, CustomRole, Customer, CustomerEvent, DecisionRule, Escalation, EscalationNotice, EscalationRule, FeatureFlagOverride,
        Invitation, Invoice, MembershipRequest, OrganizationDomain, OrganizationMember, PerformanceMetric, Refund, Representative, RepresentativeAbsence, SlaEvent, SlaPolicy, SupportAccess, TeamPerformance, Ticket,
        TicketEvent, TicketField, TicketMessage, TicketMessageRevision, TicketView, TicketWatcher, WebhookEvent;
    unlisted: Organization, Subscription, User;
    platform: PlatformOrganization, PlatformUser;
}

/// What the API knows of an entity.
#[derive(Clone, Copy, Debug)]
pub struct EntityInfo {
    /// The name of the GraphQL type.
    pub name: &'static str,
    /// The table.
    pub table: &'static str,
    /// The columns, with the table's alias `t`, in the order of the fields.
    pub columns: &'static str,
    /// The columns as superadmins see them across organizations.
    pub platform_columns: &'static str,
    /// The fields in Rust.
    pub fields: &'static [&'static str],
    /// Whether the rows belong to an organization.
    pub tenant: bool,
    /// The condition of rows that lists show.
    pub listed_when: &'static str,
    /// What a role must be allowed to see such rows.
    pub read: Action,
    /// Rows that are hidden unless the role is allowed more.
    pub hidden: &'static [(&'static str, Action)],
    /// Whether only operators of the platform see such rows, in lists over all organizations, and nobody by id.
    pub is_platform: bool,
    /// How it is listed, if it is.
    pub listing: Option<ListingInfo>,
    /// Reads the columns of a row and forgets them.
    pub decode: fn(&PgRow) -> sqlx::Result<()>,
}

/// What the API knows of a listing.
#[derive(Clone, Copy, Debug)]
pub struct ListingInfo {
    /// The fields of `where` in Rust, each with its column.
    pub filtered: &'static [(&'static str, &'static str)],
    /// The fields of `orderBy`, each with its column.
    pub ordered: &'static [(&'static str, &'static str)],
}

const fn entity<E: Entity>(listing: Option<ListingInfo>) -> EntityInfo {
    EntityInfo {
        name: E::NAME,
        table: E::TABLE,
        columns: E::COLUMNS,
        platform_columns: E::PLATFORM_COLUMNS,
        fields: E::FIELDS,
        tenant: E::TENANT,
        listed_when: E::LISTED_WHEN,
        read: E::READ,
        hidden: E::HIDDEN,
        is_platform: false,
        listing,
        decode: |row| E::decode(row, 0).map(drop),
    }
}

const fn listing<E: Listed>() -> ListingInfo {
    ListingInfo { filtered: E::Filter::COLUMNS, ordered: E::ORDERED }
}

/// Loads the row of the type with this name and this id: the [`NodeLoad`](crate::graphql::node::NodeLoad) of this schema.
#[must_use]
pub fn load_node<'a>(session: &'a Session, type_name: &'a str, id: Uuid) -> BoxFuture<'a, Result<Option<AnyNode>>> {
    Box::pin(async move { Ok(load(session, type_name, id).await?.map(AnyNode::new)) })
}

async fn node(session: &Session, id: &ID) -> Result<Option<Node>> {
    let (prefix, uuid) = id::split(id).map_err(|message| Error::invalid("id", message))?;
    let Some((_, type_name)) = PREFIXES.iter().find(|(known, _)| *known == prefix) else {
        return Err(Error::invalid("id", format!("There is no type whose ids begin with `{prefix}_`.")));
    };
    load(session, type_name, uuid).await
}

/// The root fields that find any row by its id (GraphQL Global Object Identification Specification).
#[derive(Debug, Default)]
pub struct NodeQuery;

#[Object]
impl NodeQuery {
    /// The row with this id; null if the organization has no such row.
    async fn node(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "An id, as the API returned it.")] id: ID,
    ) -> Result<Option<Node>> {
        node(Session::of(ctx)?, &id).await
    }

    /// The rows with these ids, in their order; null for each id that the organization does not have.
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

/// The schema of this API.
pub type Schema = async_graphql::Schema<Query, Mutation, SubscriptionRoot>;

/// The same without its types.
pub type LeanSchema = async_graphql::Schema<Query, Mutation, Lean<SubscriptionRoot>>;

/// The schema, and what is known of it before anything is executed. Nothing of it validates: documents and variables are checked
/// before (`http/graphql`).
#[derive(Clone)]
pub struct Schemas {
    /// Executes all but introspection.
    pub fast: LeanSchema,
    /// Executes introspection, and whatever else stands beside it.
    pub whole: Schema,
    /// The schema definition language.
    pub sdl: String,
    /// The same for the checks: ids that are inputs have a type of their own ([`id::typed`]).
    pub typed_sdl: String,
}

impl Schemas {
    /// Builds them.
    #[must_use]
    pub fn build() -> Self {
        let whole = whole();
        let (sdl, typed_sdl) = (sdl_of(&whole), sdl_of(&id::typed(self::whole)));
        let fast = LeanSchema::build(Query::default(), Mutation::default(), Lean::default());
        Self { fast: fast.validation_mode(ValidationMode::Fast).finish(), whole, sdl, typed_sdl }
    }

    /// Executes a query or a mutation.
    pub async fn execute(&self, request: Request, introspects: bool) -> Response {
        if introspects { self.whole.execute(request).await } else { self.fast.execute(request).await }
    }
}

fn whole() -> Schema {
    let schema = Schema::build(Query::default(), Mutation::default(), SubscriptionRoot::default());
    schema.validation_mode(ValidationMode::Fast).finish()
}

/// The SDL as it stands in `schema.graphql`: fields in the order of their declaration, `id` first.
fn sdl_of(schema: &Schema) -> String {
    let mut sdl = schema.sdl_with_options(SDLExportOptions::new());
    sdl.truncate(sdl.trim_end().len());
    sdl.push('\n');
    sdl
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_registry_names_every_type_with_ids() {
        let registered: BTreeSet<&str> = ENTITIES.iter().map(|entity| entity.name).collect();
        let with_ids: BTreeSet<&str> = PREFIXES.iter().map(|(_, name)| *name).collect();
        assert_eq!(registered, with_ids);
    }
}
