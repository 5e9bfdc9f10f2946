//! Saved views: a filter and an order of the list of tickets, under a name. One's own, or shared with the organization.
//!
//! The database shows a view that is not shared to its owner alone.

use async_graphql::{Context, InputObject, InputType, Value as GraphqlValue};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::access::Action;
use crate::error::{Error, Result};
use crate::graphql::connection::{Connection, Reader};
use crate::graphql::filter::{BooleanFilter, Conditions, DateTimeFilter, Filter as _, StringFilter};
use crate::graphql::mutation::{Checks, Done, Mutation, UserErrorCode, VerbError, VerbResult, Work, check_version};
use crate::graphql::plan::{ListArgs, Scope};
use crate::id::{TicketViewId, UserId, marker};
use crate::members::User;
use crate::tickets::{Ticket, TicketFilter, TicketOrder};
use crate::{entity, listing, relations};

entity! {
    /// A saved filter and order of the list of tickets. Whoever did not make it sees it when it is shared.
    #[graphql(complex)]
    pub struct TicketView("ticket_views", read by OrganizationRead) {
        /// Unique id.
        pub id: TicketViewId,
        /// Who made it.
        #[graphql(skip)]
        pub user_id: UserId,
        /// Name.
        pub name: String,
        /// Whether all members see it.
        pub is_shared: bool,
        /// `where` of the list of tickets, as JSON.
        pub filter: Value,
        /// `orderBy` of the list of tickets, as JSON.
        #[graphql(name = "orderBy")]
        pub sort: Value,
        /// Version; incremented by every change. Pass it as `expectedVersion`.
        pub version: i32,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    TicketView: TicketViewFilter, TicketViewOrder by TicketViewOrderField, default Name Asc;
    /// Name.
    name: StringFilter, Name;
    /// Whether all members see it.
    is_shared: BooleanFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    TicketView {}
    one {
        /// Who made it.
        created_by -> User! by user_id;
    }

    /// The tickets that it shows, in its order.
    async fn tickets(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The number of rows from the front of the list: 0 to 100, 50 by default.")] first: Option<i64>,
        #[graphql(desc = "Only rows after this cursor; used with `first`.")] after: Option<String>,
        #[graphql(desc = "The number of rows from the end of the list: 0 to 100. Excludes `first`.")] last: Option<i64>,
        #[graphql(desc = "Only rows before this cursor; used with `last`.")] before: Option<String>,
    ) -> Result<Connection<Ticket>> {
        let stale = |_| Error::invalid("ticketView", "The view was saved for an older API: save it again.");
        let filter = parse::<TicketFilter>(&self.filter).map_err(stale)?;
        let order = parse::<Vec<TicketOrder>>(&self.sort).map_err(stale)?;
        let args = ListArgs { first, after, last, before, filter: Some(Box::new(filter)), order_by: Some(order) };
        Box::pin(Connection::read(ctx, Reader::Tenant(Scope::Organization), args)).await
    }
}

/// Most characters of a name, most bytes of a filter, and most views of one person.
const MAX_NAME: usize = 100;
const MAX_FILTER: usize = 16 * 1024;
const MAX_VIEWS: i64 = 200;

/// What is to be saved.
#[derive(Clone, Debug, InputObject)]
pub struct TicketViewCreateInput {
    /// Name: 1 to 100 characters.
    pub name: String,
    /// `where` of the list of tickets, as JSON: at most 16 KiB. `{"assignedToMe": true}` is about whoever looks.
    pub filter: Option<Value>,
    /// `orderBy` of the list of tickets, as JSON.
    pub order_by: Option<Value>,
    /// Whether all members see it; false by default.
    pub is_shared: Option<bool>,
}

/// The changes of a view. Omitted fields stay as they are.
#[derive(Clone, Debug, InputObject)]
pub struct TicketViewUpdateInput {
    /// The view: one's own, or, for administrators, a shared one.
    pub id: TicketViewId,
    /// Name: 1 to 100 characters.
    pub name: Option<String>,
    /// `where` of the list of tickets, as JSON: at most 16 KiB.
    pub filter: Option<Value>,
    /// `orderBy` of the list of tickets, as JSON.
    pub order_by: Option<Value>,
    /// Whether all members see it.
    pub is_shared: Option<bool>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// Which view to delete.
#[derive(Clone, Debug, InputObject)]
pub struct TicketViewDeleteInput {
    /// The view: one's own, or, for administrators, a shared one.
    pub id: TicketViewId,
}

/// Reads JSON as an input of the schema.
fn parse<T: InputType>(json: &Value) -> std::result::Result<T, String> {
    let value = GraphqlValue::from_json(json.clone()).map_err(|error| error.to_string())?;
    let parsed = T::parse(Some(value.clone()))
        .map_err(|error| error.into_server_error(async_graphql::Pos::default()).message)?;
    match unknown(&value, &parsed.to_value()) {
        Some(name) => Err(format!("there is no field `{name}`.")),
        None => Ok(parsed),
    }
}

/// A field that was given and not read: reading passes over what it does not know, which a validated request cannot hold.
fn unknown(given: &GraphqlValue, read: &GraphqlValue) -> Option<String> {
    match (given, read) {
        (GraphqlValue::Object(given), GraphqlValue::Object(read)) => given.iter().find_map(|(name, value)| {
            read.get(name).map_or_else(|| Some(name.to_string()), |read| unknown(value, read))
        }),
        (GraphqlValue::List(given), GraphqlValue::List(read)) => {
            given.iter().zip(read).find_map(|(given, read)| unknown(given, read))
        }
        // One value stands for a list of one.
        (given, GraphqlValue::List(read)) => read.first().and_then(|read| unknown(given, read)),
        _ => None,
    }
}

/// Checks that a list of tickets would take them.
fn check(work: &Work<'_>, checks: &mut Checks, filter: Option<&Value>, order: Option<&Value>) {
    if let Some(filter) = filter {
        if filter.to_string().len() > MAX_FILTER {
            checks.refuse("filter", UserErrorCode::TooLong, format!("`filter` takes at most {MAX_FILTER} bytes."));
        } else {
            let mut binds = Vec::new();
            let taken = parse::<TicketFilter>(filter).and_then(|parsed| {
                let mut conditions = Conditions::new(&mut binds, 0, work.tenant().allowed);
                parsed.conditions(&mut conditions).map_err(|error| error.to_string())
            });
            if let Err(message) = taken {
                let message = format!("`filter` is no `where` of the list of tickets: {message}");
                checks.refuse("filter", UserErrorCode::Invalid, message);
            }
        }
    }
    if let Some(order) = order {
        match parse::<Vec<TicketOrder>>(order) {
            Ok(steps) if order.is_array() && steps.len() <= 5 => {}
            Ok(_) => checks.refuse("orderBy", UserErrorCode::Invalid, "`orderBy` takes a list of at most 5 steps."),
            Err(message) => {
                let message = format!("`orderBy` is none of the list of tickets: {message}");
                checks.refuse("orderBy", UserErrorCode::Invalid, message);
            }
        }
    }
}

impl Mutation for TicketViewCreateInput {
    type Row = marker::TicketView;
    const FIELD: &'static str = "ticketViewCreate";
    const ACTION: Action = Action::TicketViewWrite;
    const AUDIT: &'static str = "ticket_view.create";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = checks.required("name", &self.name, MAX_NAME);
        check(work, &mut checks, self.filter.as_ref(), self.order_by.as_ref());
        checks.finish()?;
        let tenant = work.tenant();
        let Some(user) = tenant.actor.user() else {
            let message = "A view belongs to a person: programs give `where` to the list.";
            return Err(VerbError::of_input(UserErrorCode::Invalid, message));
        };
        let own = sqlx::query_scalar!(
            r#"select count(*) as "count!" from tenantry.ticket_views where organization_id = $1 and user_id = $2"#,
            tenant.organization_id as _,
            user as _
        )
        .fetch_one(work.tx.conn())
        .await?;
        if own >= MAX_VIEWS {
            let message = format!("One person has at most {MAX_VIEWS} views: delete one first.");
            return Err(VerbError::of_input(UserErrorCode::TooLong, message));
        }
        let (id, is_shared) = (work.new_id(), self.is_shared.unwrap_or(false));
        sqlx::query!(
            "insert into tenantry.ticket_views (organization_id, id, user_id, name, is_shared, filter, sort, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
            tenant.organization_id as _,
            id as _,
            user as _,
            name,
            is_shared,
            self.filter.unwrap_or_else(|| json!({})),
            self.order_by.unwrap_or_else(|| json!([])),
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        Ok(Done { id, audit: json!({ "after": { "isShared": is_shared } }), event: None })
    }
}

/// Locks a view that the viewer may change. Answers its version and whether it is shared.
async fn lock_view(work: &mut Work<'_>, id: TicketViewId) -> VerbResult<(i32, bool)> {
    let tenant = work.tenant();
    let row = sqlx::query!(
        r#"select user_id as "user_id: UserId", is_shared, version from tenantry.ticket_views where organization_id = $1 and id = $2 for update"#,
        tenant.organization_id as _,
        id as _
    )
    .fetch_optional(work.tx.conn())
    .await?;
    let Some(row) = row else {
        return Err(VerbError::user("id", UserErrorCode::NotFound, "There is no such view in this organization."));
    };
    if tenant.actor.user() != Some(row.user_id) && !tenant.allowed.has(Action::TicketConfigure) {
        let message = "Only who made a shared view and administrators may change it: make one of your own.";
        return Err(VerbError::user("id", UserErrorCode::AuthorRequired, message));
    }
    Ok((row.version, row.is_shared))
}

impl Mutation for TicketViewUpdateInput {
    type Row = marker::TicketView;
    const FIELD: &'static str = "ticketViewUpdate";
    const ACTION: Action = Action::TicketViewWrite;
    const AUDIT: &'static str = "ticket_view.update";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = self.name.as_deref().map(|name| checks.required("name", name, MAX_NAME));
        check(work, &mut checks, self.filter.as_ref(), self.order_by.as_ref());
        checks.finish()?;
        let (version, was_shared) = lock_view(work, self.id).await?;
        check_version(self.expected_version, version)?;
        // An administrator who takes a colleague's view back from all would hide it from themselves too.
        let is_shared = self.is_shared.unwrap_or(was_shared);
        let changed = sqlx::query!(
            "update tenantry.ticket_views
                set name = coalesce($3, name), is_shared = $4, filter = coalesce($5, filter), sort = coalesce($6, sort), version = version + 1
              where organization_id = $1 and id = $2 and ($4 or user_id = $7)",
            work.tenant().organization_id as _,
            self.id as _,
            name,
            is_shared,
            self.filter,
            self.order_by,
            work.tenant().actor.user() as _
        )
        .execute(work.tx.conn())
        .await?;
        if changed.rows_affected() == 0 {
            let message = "Only who made a view may keep it to themselves; delete it instead.";
            return Err(VerbError::user("isShared", UserErrorCode::AuthorRequired, message));
        }
        Ok(Done {
            id: self.id,
            audit: json!({ "before": { "isShared": was_shared }, "after": { "isShared": is_shared } }),
            event: None,
        })
    }
}

impl Mutation for TicketViewDeleteInput {
    type Row = marker::TicketView;
    const FIELD: &'static str = "ticketViewDelete";
    const ACTION: Action = Action::TicketViewWrite;
    const AUDIT: &'static str = "ticket_view.delete";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let (_, was_shared) = lock_view(work, self.id).await?;
        sqlx::query!(
            "delete from tenantry.ticket_views where organization_id = $1 and id = $2",
            work.tenant().organization_id as _,
            self.id as _
        )
        .execute(work.tx.conn())
        .await?;
        Ok(Done { id: self.id, audit: json!({ "before": { "isShared": was_shared } }), event: None })
    }
}
