//! Support tickets and their messages.
//!
//! Invariants: numbers count from 1 in each organization, without gaps or duplicates; a status changes only along the
//! table in [`model`]; the clocks of the service level stand still while the ticket waits; `version` grows by one with
//! every change; every change leaves an audit row and an event in the same transaction.

mod graphql;
pub mod model;
mod sql;

use chrono::{DateTime, Utc};
use serde_json::json;

pub use graphql::{
    TicketChange, TicketCreateInput, TicketMessageAddInput, TicketMutation, TicketSubscription, TicketUpdateInput,
};
pub use model::{
    Clocks, TicketCategory, TicketCategoryFilter, TicketPriority, TicketPriorityFilter, TicketStatus,
    TicketStatusFilter,
};
pub use sql::{TicketRow, insert_message, insert_ticket, next_number};

use crate::access::Action;
use crate::db::TenantTx;
use crate::events::Event;
use crate::graphql::filter::{BooleanFilter, DateTimeFilter, IdFilter, IntFilter, StringFilter};
use crate::graphql::mutation::{
    Checks, Done, Mutation, MutationInfo, UserErrorCode, VerbError, VerbResult, Work, check_version,
};
use crate::id::{CustomerId, RepresentativeId, TicketId, TicketMessageId, UserId, marker};
use crate::{entity, listing};

entity! {
    /// A support ticket.
    #[graphql(complex)]
    pub struct Ticket("tickets", read by OrganizationRead) {
        /// Unique id.
        pub id: TicketId,
        /// Number, counted from 1 in each organization.
        pub number: i64,
        /// The customer.
        #[graphql(skip)]
        pub customer_id: Option<CustomerId>,
        /// The assigned representative.
        #[graphql(skip)]
        pub assignee_id: Option<RepresentativeId>,
        /// Subject.
        pub subject: String,
        /// Description.
        pub description: String,
        /// Status.
        pub status: TicketStatus,
        /// Priority.
        pub priority: TicketPriority,
        /// Category.
        pub category: TicketCategory,
        /// Tags.
        pub tags: Vec<String>,
        /// Due time of the first response.
        pub first_response_due_at: Option<DateTime<Utc>>,
        /// Due time of the resolution.
        pub resolution_due_at: Option<DateTime<Utc>>,
        /// Time of the first response.
        pub first_responded_at: Option<DateTime<Utc>>,
        /// Time of the resolution.
        pub resolved_at: Option<DateTime<Utc>>,
        /// Time of closing.
        pub closed_at: Option<DateTime<Utc>>,
        /// Start of the current pause of the service level; null while its clock runs.
        pub sla_paused_at: Option<DateTime<Utc>>,
        /// Length of the past pauses of the service level, in seconds.
        pub sla_paused_seconds: i32,
        /// The ticket that this one was merged into.
        #[graphql(skip)]
        pub merged_into_id: Option<TicketId>,
        /// Version; incremented by every change. Pass it as `expectedVersion`.
        pub version: i32,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    Ticket: TicketFilter, TicketOrder by TicketOrderField, default CreatedAt Desc;
    /// Number.
    number: IntFilter, Number;
    /// Status.
    status: TicketStatusFilter, Status then CreatedAt;
    /// Priority.
    priority: TicketPriorityFilter, Priority then CreatedAt;
    /// Category.
    category: TicketCategoryFilter;
    /// Assigned representative; `isNull: true` finds unassigned tickets.
    assignee_id: IdFilter;
    /// Customer.
    customer_id: IdFilter;
    /// Subject.
    subject: StringFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
    /// Time of the last change.
    updated_at: DateTimeFilter, UpdatedAt;
    /// Due time of the resolution.
    resolution_due_at: DateTimeFilter, ResolutionDueAt;
}

entity! {
    /// A message on a ticket, or an internal note.
    #[graphql(complex)]
    pub struct TicketMessage(
        "ticket_messages", read by OrganizationRead, hidden when "t.is_internal" unless TicketNoteRead
    ) {
        /// Unique id.
        pub id: TicketMessageId,
        /// The ticket.
        #[graphql(skip)]
        pub ticket_id: TicketId,
        /// The author, when a user wrote it.
        #[graphql(skip)]
        pub author_user_id: Option<UserId>,
        /// The author, when a customer wrote it.
        #[graphql(skip)]
        pub author_customer_id: Option<CustomerId>,
        /// Whether the message is an internal note, hidden from customers and viewers.
        pub is_internal: bool,
        /// Text.
        pub body: String,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    TicketMessage: TicketMessageFilter, TicketMessageOrder by TicketMessageOrderField, default CreatedAt Asc;
    /// Whether the message is an internal note.
    is_internal: BooleanFilter;
    /// The author.
    author_user_id: IdFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

/// Most characters of a subject.
const MAX_SUBJECT: usize = 300;
/// Most characters of a description or a message.
const MAX_TEXT: usize = 50_000;
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

impl Mutation for TicketCreateInput {
    type Row = marker::Ticket;
    const FIELD: &'static str = "ticketCreate";
    const ACTION: Action = Action::TicketCreate;
    const AUDIT: &'static str = "ticket.create";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let subject = checks.required("subject", &self.subject, MAX_SUBJECT);
        let description = self.description.as_deref().unwrap_or_default().trim();
        let description = checks.text("description", description, MAX_TEXT);
        let tags = check_tags(&mut checks, &self.tags.unwrap_or_default());
        checks.finish()?;
        check_references(work.tx, self.customer_id, self.assignee_id).await?;

        let priority = self.priority.unwrap_or(TicketPriority::Normal);
        let row = TicketRow {
            id: work.new_id(),
            number: next_number(work.tx).await?,
            customer_id: self.customer_id,
            assignee_id: self.assignee_id,
            subject,
            description,
            status: TicketStatus::New,
            priority,
            category: self.category.unwrap_or(TicketCategory::Other),
            tags,
            clocks: Clocks::start(priority, work.now),
        };
        insert_ticket(work.tx, &row, work.now).await?;
        Ok(Done {
            id: row.id,
            audit: json!({ "number": row.number, "priority": row.priority, "category": row.category }),
            event: Some(Event::of(row.id)),
        })
    }
}

impl Mutation for TicketUpdateInput {
    type Row = marker::Ticket;
    const FIELD: &'static str = "ticketUpdate";
    const ACTION: Action = Action::TicketUpdate;
    const AUDIT: &'static str = "ticket.update";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let subject = self.subject.as_deref().map(|subject| checks.required("subject", subject, MAX_SUBJECT));
        let description = self.description.as_deref().map(|text| checks.text("description", text.trim(), MAX_TEXT));
        let tags = self.tags.map(|tags| check_tags(&mut checks, &tags));
        checks.finish()?;
        check_references(work.tx, self.customer_id.value().copied(), self.assignee_id.value().copied()).await?;

        let before = sql::lock_ticket(work.tx, self.id).await?.ok_or_else(|| no_such_ticket("id"))?;
        check_version(self.expected_version, before.version)?;
        if before.merged_into_id.is_some() {
            let message = "The ticket was merged into another: change that one.";
            return Err(VerbError::user("id", UserErrorCode::InvalidTransition, message));
        }
        let status = self.status.unwrap_or(before.status);
        if let Some(refusal) = before.status.refusal_of(status) {
            return Err(VerbError::user("status", UserErrorCode::InvalidTransition, refusal));
        }
        let mut clocks = before.clocks;
        let priority = self.priority.unwrap_or(before.priority);
        if priority != before.priority {
            clocks = clocks.with_priority(priority, before.created_at);
        }
        if status != before.status {
            clocks = clocks.after(status, work.now);
        }
        let change = sql::TicketUpdate {
            subject,
            description,
            status,
            priority,
            category: self.category,
            tags,
            customer: self.customer_id,
            assignee: self.assignee_id,
            clocks,
        };
        sql::update_ticket(work.tx, self.id, &change).await?;
        Ok(Done {
            id: self.id,
            audit: json!({
                "before": { "status": before.status, "priority": before.priority, "version": before.version },
                "after": { "status": status, "priority": priority, "version": before.version + 1 },
            }),
            event: Some(Event::of(self.id)),
        })
    }
}

/// The first message to the customer is the first response; a message opens a ticket that was new, waiting or resolved.
impl Mutation for TicketMessageAddInput {
    type Row = marker::TicketMessage;
    const FIELD: &'static str = "ticketMessageAdd";
    const ACTION: Action = Action::TicketMessageAdd;
    const AUDIT: &'static str = "ticket.message.add";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let body = checks.required("body", &self.body, MAX_TEXT);
        checks.finish()?;
        let before = sql::lock_ticket(work.tx, self.ticket_id).await?.ok_or_else(|| no_such_ticket("ticketId"))?;
        if before.status == TicketStatus::Closed || before.merged_into_id.is_some() {
            let message = "The ticket is closed: open a new one and refer to this.";
            return Err(VerbError::user("ticketId", UserErrorCode::InvalidTransition, message));
        }
        let is_internal = self.is_internal.unwrap_or(false);
        let id = work.new_id();
        insert_message(work.tx, id, self.ticket_id, is_internal, &body, work.now).await?;
        let status = match before.status {
            _ if is_internal => before.status,
            TicketStatus::New | TicketStatus::Resolved => TicketStatus::Open,
            status => status,
        };
        let clocks = if status == before.status { before.clocks } else { before.clocks.after(status, work.now) };
        let responded_at = (!is_internal).then_some(work.now);
        sql::touch_ticket(work.tx, self.ticket_id, status, &clocks, responded_at).await?;
        Ok(Done {
            id,
            audit: json!({ "ticketId": self.ticket_id.to_string(), "isInternal": is_internal }),
            event: Some(Event::of(self.ticket_id)),
        })
    }
}

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<TicketCreateInput>(),
    MutationInfo::of::<TicketUpdateInput>(),
    MutationInfo::of::<TicketMessageAddInput>(),
];

fn no_such_ticket(field: &str) -> VerbError {
    VerbError::user(field, UserErrorCode::NotFound, "There is no such ticket in this organization.")
}

/// Refuses a customer or representative who is not of this organization, with a message instead of a broken constraint.
async fn check_references(
    tx: &mut TenantTx,
    customer: Option<CustomerId>,
    assignee: Option<RepresentativeId>,
) -> VerbResult<()> {
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
