//! Support tickets and their messages.
//!
//! Invariants: numbers count from 1 in each organization, without gaps or duplicates; a status changes only along the
//! table in [`model`]; the clocks of the service level stand still while the ticket waits; `version` grows by one with
//! every change; every change leaves an audit row and an event in the same transaction.

mod graphql;
pub mod model;
mod sql;

use chrono::{DateTime, Utc};

pub use graphql::{
    TicketChange, TicketCreateInput, TicketMessageAddInput, TicketMutation, TicketSubscription, TicketUpdateInput,
};
pub use model::{
    Clocks, TicketCategory, TicketCategoryFilter, TicketPriority, TicketPriorityFilter, TicketStatus,
    TicketStatusFilter,
};
pub use sql::{TicketRow, insert_message, insert_ticket, next_number};

use crate::audit;
use crate::clock::Clock;
use crate::customers::Customer;
use crate::db::TenantTx;
use crate::events::{self, Event};
use crate::graphql::listing::{BooleanFilter, DateTimeFilter, IdFilter, IntFilter, StringFilter};
use crate::graphql::mutation::{Checks, Idempotency, Outcome, Refusal, UserErrorCode, check_version, claim, record};
use crate::id::Id;
use crate::members::User;
use crate::representatives::Representative;
use crate::{entity, listing};

entity! {
    /// A support ticket.
    #[graphql(complex)]
    pub struct Ticket("tic", "tickets", tenant: true, listed when "true", read by OrganizationRead) {
        /// The id.
        pub id: Id<Ticket>,
        /// Counts from 1 in each organization: what people call the ticket by.
        pub number: i64,
        /// Whose ticket.
        #[graphql(skip)]
        pub customer_id: Option<Id<Customer>>,
        /// Who works on it.
        #[graphql(skip)]
        pub assignee_id: Option<Id<Representative>>,
        /// What it is about, in one line.
        pub subject: String,
        /// What it is about, in full.
        pub description: String,
        /// The state.
        pub status: TicketStatus,
        /// How urgent it is.
        pub priority: TicketPriority,
        /// What kind of matter it is.
        pub category: TicketCategory,
        /// Free labels.
        pub tags: Vec<String>,
        /// When the first answer is due.
        pub first_response_due_at: Option<DateTime<Utc>>,
        /// When the solution is due.
        pub resolution_due_at: Option<DateTime<Utc>>,
        /// When the first answer was given.
        pub first_responded_at: Option<DateTime<Utc>>,
        /// When it was solved.
        pub resolved_at: Option<DateTime<Utc>>,
        /// When it was closed.
        pub closed_at: Option<DateTime<Utc>>,
        /// Since when the clocks of the service level stand still; null while they run.
        pub sla_paused_at: Option<DateTime<Utc>>,
        /// How long the clocks have stood still before, in seconds.
        pub sla_paused_seconds: i32,
        /// The ticket this one was merged into.
        #[graphql(skip)]
        pub merged_into_id: Option<Id<Ticket>>,
        /// Grows by one with every change: give it as `expectedVersion`.
        pub version: i32,
        /// When it was opened.
        pub created_at: DateTime<Utc>,
        /// When it last changed.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    Ticket,
    filter TicketFilter {
        /// By number.
        number: IntFilter = "t.number",
        /// By state.
        status: TicketStatusFilter = "t.status",
        /// By urgency.
        priority: TicketPriorityFilter = "t.priority",
        /// By kind of matter.
        category: TicketCategoryFilter = "t.category",
        /// By who works on it; `isNull: true` finds what nobody works on.
        assignee_id: IdFilter = "t.assignee_id",
        /// By customer.
        customer_id: IdFilter = "t.customer_id",
        /// By the line that says what it is about.
        subject: StringFilter = "t.subject",
        /// By the moment it was opened.
        created_at: DateTimeFilter = "t.created_at",
        /// By the moment it last changed.
        updated_at: DateTimeFilter = "t.updated_at",
        /// By the moment the solution is due.
        resolution_due_at: DateTimeFilter = "t.resolution_due_at",
    },
    order TicketOrder by TicketOrderField {
        /// When it was opened.
        CreatedAt = "t.created_at", |row| row.created_at;
        /// When it last changed.
        UpdatedAt = "t.updated_at", |row| row.updated_at;
        /// The number.
        Number = "t.number", |row| row.number;
        /// The urgency.
        Priority = "t.priority", |row| row.priority;
        /// The state, from new to closed.
        Status = "t.status", |row| row.status;
        /// When the solution is due.
        ResolutionDueAt = "t.resolution_due_at", |row| row.resolution_due_at;
    },
    default CreatedAt Desc
}

entity! {
    /// A message on a ticket, or a note that only the team sees.
    #[graphql(complex)]
    pub struct TicketMessage("msg", "ticket_messages", tenant: true, listed when "true", read by OrganizationRead, hidden when "t.is_internal" unless TicketNoteRead) {
        /// The id.
        pub id: Id<TicketMessage>,
        /// The ticket.
        #[graphql(skip)]
        pub ticket_id: Id<Ticket>,
        /// The user who wrote it.
        #[graphql(skip)]
        pub author_user_id: Option<Id<User>>,
        /// The customer who wrote it.
        #[graphql(skip)]
        pub author_customer_id: Option<Id<Customer>>,
        /// Whether it is a note that customers and viewers do not see.
        pub is_internal: bool,
        /// The text.
        pub body: String,
        /// When it was written.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    TicketMessage,
    filter TicketMessageFilter {
        /// By whether it is a note of the team.
        is_internal: BooleanFilter = "t.is_internal",
        /// By the user who wrote it.
        author_user_id: IdFilter = "t.author_user_id",
        /// By the moment it was written.
        created_at: DateTimeFilter = "t.created_at",
    },
    order TicketMessageOrder by TicketMessageOrderField {
        /// When it was written.
        CreatedAt = "t.created_at", |row| row.created_at;
    },
    default CreatedAt Asc
}

/// Most tags of a ticket, and most characters of one.
const MAX_TAGS: usize = 50;
const MAX_TAG_CHARS: usize = 50;

fn check_tags(checks: &mut Checks, tags: &[String]) -> Vec<String> {
    if tags.len() > MAX_TAGS {
        checks.refuse(
            "tags",
            UserErrorCode::TooLong,
            format!("A ticket takes at most {MAX_TAGS} tags; these are {}.", tags.len()),
        );
        return Vec::new();
    }
    let mut checked: Vec<String> = tags.iter().map(|tag| checks.required("tags", tag, MAX_TAG_CHARS)).collect();
    checked.sort_unstable();
    checked.dedup();
    checked
}

/// Opens a ticket.
pub async fn open_ticket(
    tx: &mut TenantTx,
    clock: &Clock,
    actor: &audit::Actor<'_>,
    input: TicketCreateInput,
) -> Outcome<Id<Ticket>> {
    const OPERATION: &str = "ticketCreate";
    let arguments = input.idempotent_form();
    let key = input.idempotency_key.clone();
    if let Idempotency::Done(id) = claim(tx, key.as_deref(), OPERATION, &arguments).await? {
        return Ok(Id::from_uuid(id));
    }
    let mut checks = Checks::default();
    let subject = checks.required("subject", &input.subject, 300);
    let description = checks.text("description", input.description.as_deref().unwrap_or_default().trim(), 50_000);
    let tags = check_tags(&mut checks, &input.tags.unwrap_or_default());
    checks.finish()?;
    check_references(tx, input.customer_id, input.assignee_id).await?;

    let now = clock.now();
    let priority = input.priority.unwrap_or(TicketPriority::Normal);
    let row = TicketRow {
        id: Id::new(clock),
        number: next_number(tx).await?,
        customer_id: input.customer_id,
        assignee_id: input.assignee_id,
        subject,
        description,
        status: TicketStatus::New,
        priority,
        category: input.category.unwrap_or(TicketCategory::Other),
        tags,
        clocks: Clocks::start(priority, now),
    };
    insert_ticket(tx, &row, now).await?;
    record(tx, key.as_deref(), OPERATION, &arguments, row.id.uuid()).await?;
    audit::record(
        tx,
        actor,
        "ticket.create",
        "Ticket",
        row.id.uuid(),
        serde_json::json!({ "number": row.number, "priority": row.priority, "category": row.category }),
    )
    .await?;
    events::notify(tx, &Event::Ticket { id: row.id }).await?;
    Ok(row.id)
}

/// Changes what the input names; leaves the rest.
pub async fn update_ticket(
    tx: &mut TenantTx,
    clock: &Clock,
    actor: &audit::Actor<'_>,
    input: TicketUpdateInput,
) -> Outcome<Id<Ticket>> {
    const OPERATION: &str = "ticketUpdate";
    let arguments = input.idempotent_form();
    let key = input.idempotency_key.clone();
    if let Idempotency::Done(id) = claim(tx, key.as_deref(), OPERATION, &arguments).await? {
        return Ok(Id::from_uuid(id));
    }
    let mut checks = Checks::default();
    let subject = input.subject.as_deref().map(|subject| checks.required("subject", subject, 300));
    let description = input.description.as_deref().map(|text| checks.text("description", text.trim(), 50_000));
    let tags = input.tags.map(|tags| check_tags(&mut checks, &tags));
    checks.finish()?;
    let customer_id = input.customer_id.value().copied();
    let assignee_id = input.assignee_id.value().copied();
    check_references(tx, customer_id, assignee_id).await?;

    let Some(before) = sql::lock_ticket(tx, input.id).await? else {
        return Err(Refusal::user("id", UserErrorCode::NotFound, "There is no such ticket in this organization."));
    };
    check_version(input.expected_version, before.version)?;
    if before.merged_into_id.is_some() {
        return Err(Refusal::user(
            "id",
            UserErrorCode::InvalidTransition,
            "The ticket was merged into another: change that one.",
        ));
    }
    let status = input.status.unwrap_or(before.status);
    if !before.status.may_become(status) {
        let next: Vec<&str> = before.status.next().iter().map(|status| status.label()).collect();
        let next =
            if next.is_empty() { "it stays as it is".to_owned() } else { format!("it can become {}", next.join(", ")) };
        return Err(Refusal::user(
            "status",
            UserErrorCode::InvalidTransition,
            format!("A ticket that is {} cannot become {}: {next}.", before.status.label(), status.label()),
        ));
    }
    let now = clock.now();
    let mut clocks = before.clocks;
    let priority = input.priority.unwrap_or(before.priority);
    if priority != before.priority {
        clocks = clocks.with_priority(priority, before.created_at);
    }
    if status != before.status {
        clocks = clocks.after(status, now);
    }
    let change = sql::TicketUpdate {
        subject,
        description,
        status,
        priority,
        category: input.category,
        tags,
        customer: input.customer_id,
        assignee: input.assignee_id,
        clocks,
    };
    sql::update_ticket(tx, input.id, &change).await?;
    record(tx, key.as_deref(), OPERATION, &arguments, input.id.uuid()).await?;
    audit::record(
        tx,
        actor,
        "ticket.update",
        "Ticket",
        input.id.uuid(),
        serde_json::json!({
            "before": { "status": before.status, "priority": before.priority, "version": before.version },
            "after": { "status": status, "priority": priority, "version": before.version + 1 },
        }),
    )
    .await?;
    events::notify(tx, &Event::Ticket { id: input.id }).await?;
    Ok(input.id)
}

/// Writes a message or a note on a ticket.
///
/// The first message to the customer is the first response; a message opens a ticket that was new, waiting or resolved.
pub async fn add_message(
    tx: &mut TenantTx,
    clock: &Clock,
    actor: &audit::Actor<'_>,
    input: TicketMessageAddInput,
) -> Outcome<(Id<Ticket>, Id<TicketMessage>)> {
    const OPERATION: &str = "ticketMessageAdd";
    let arguments = input.idempotent_form();
    let key = input.idempotency_key.clone();
    if let Idempotency::Done(id) = claim(tx, key.as_deref(), OPERATION, &arguments).await? {
        return Ok((input.ticket_id, Id::from_uuid(id)));
    }
    let mut checks = Checks::default();
    let body = checks.required("body", &input.body, 50_000);
    checks.finish()?;
    let Some(before) = sql::lock_ticket(tx, input.ticket_id).await? else {
        return Err(Refusal::user(
            "ticketId",
            UserErrorCode::NotFound,
            "There is no such ticket in this organization.",
        ));
    };
    if before.status == TicketStatus::Closed || before.merged_into_id.is_some() {
        return Err(Refusal::user(
            "ticketId",
            UserErrorCode::InvalidTransition,
            "The ticket is closed: open a new one and refer to this.",
        ));
    }
    let now = clock.now();
    let is_internal = input.is_internal.unwrap_or(false);
    let id = Id::new(clock);
    insert_message(tx, id, input.ticket_id, is_internal, &body, now).await?;
    let status = match before.status {
        _ if is_internal => before.status,
        TicketStatus::New | TicketStatus::Resolved => TicketStatus::Open,
        status => status,
    };
    let clocks = if status == before.status { before.clocks } else { before.clocks.after(status, now) };
    sql::touch_ticket(tx, input.ticket_id, status, &clocks, (!is_internal).then_some(now)).await?;
    record(tx, key.as_deref(), OPERATION, &arguments, id.uuid()).await?;
    audit::record(
        tx,
        actor,
        "ticket.message.add",
        "TicketMessage",
        id.uuid(),
        serde_json::json!({ "ticketId": input.ticket_id.to_string(), "isInternal": is_internal }),
    )
    .await?;
    events::notify(tx, &Event::Ticket { id: input.ticket_id }).await?;
    Ok((input.ticket_id, id))
}

/// Refuses a customer or representative who is not of this organization, with a message instead of a broken constraint.
async fn check_references(
    tx: &mut TenantTx,
    customer: Option<Id<Customer>>,
    assignee: Option<Id<Representative>>,
) -> Outcome<()> {
    if customer.is_none() && assignee.is_none() {
        return Ok(());
    }
    let (customer_found, assignee_found) = sql::references_exist(tx, customer, assignee).await?;
    let mut checks = Checks::default();
    if customer.is_some() && !customer_found {
        checks.refuse("customerId", UserErrorCode::NotFound, "There is no such customer in this organization.");
    }
    if assignee.is_some() && !assignee_found {
        checks.refuse("assigneeId", UserErrorCode::NotFound, "There is no such representative in this organization.");
    }
    checks.finish()
}
