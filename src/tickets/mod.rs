//! Support tickets and their messages.
//!
//! Invariants: numbers count from 1 in each organization, without gaps or duplicates; a status changes only along the
//! table in [`model`]; the clocks of the service level stand still while the ticket waits; `version` grows by one with
//! every change; every change leaves an audit row and an event in the same transaction.

pub mod assignment;
mod bulk;
mod counts;
mod fields;
mod graphql;
mod history;
pub mod jobs;
mod merging;
mod messages;
pub mod model;
pub mod search;
mod sql;
mod verbs;
mod views;
mod watchers;

use chrono::{DateTime, Utc};

pub use assignment::TicketAssignInput;
pub use bulk::TicketsUpdateInput;
pub use counts::{TicketCounts, ticket_counts};
pub use fields::{TicketField, TicketFieldCreateInput, TicketFieldUpdateInput};
pub use graphql::{TicketChange, TicketCreateInput, TicketMutation, TicketSubscription, TicketUpdateInput};
pub use history::TicketEvent;
pub use merging::{TicketMergeInput, TicketSplitInput};
pub use messages::{
    TicketMessage, TicketMessageAddInput, TicketMessageDeleteInput, TicketMessageRevision, TicketMessageUpdateInput,
};
pub use model::{
    TicketCategory, TicketCategoryFilter, TicketPriority, TicketPriorityFilter, TicketStatus, TicketStatusFilter,
};
pub use sql::{TicketRow, insert_message, insert_ticket, next_number};
pub use views::{TicketView, TicketViewCreateInput, TicketViewDeleteInput, TicketViewUpdateInput};
pub use watchers::{TicketUnwatchInput, TicketWatchInput, TicketWatcher};

use crate::graphql::filter::{DateTimeFilter, IdFilter, IntFilter, StringFilter};
use crate::graphql::mutation::{MutationInfo, UserErrorCode, VerbError};
use crate::id::{CustomerId, RepresentativeId, SlaPolicyId, TicketId};
use crate::tickets::search::{CustomFieldFilter, MineFilter, SearchFilter, TagFilter, WatchedFilter};
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
        /// Values of the custom fields: an object from keys to values.
        pub custom_fields: serde_json::Value,
        /// What is due next: a response or the resolution; null while the ticket waits and when it is solved. In the past: overdue.
        pub next_due_at: Option<DateTime<Utc>>,
        /// Due time of the first response.
        pub first_response_due_at: Option<DateTime<Utc>>,
        /// Due time of the answer to what the customer wrote after the first response; null: nothing to answer.
        pub next_response_due_at: Option<DateTime<Utc>>,
        /// Due time of the resolution.
        pub resolution_due_at: Option<DateTime<Utc>>,
        /// The first due time that was missed; null: none was.
        pub sla_breached_at: Option<DateTime<Utc>>,
        /// The policy that the due times follow from.
        #[graphql(skip)]
        pub sla_policy_id: Option<SlaPolicyId>,
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
        /// The ticket that this one was split from.
        #[graphql(skip)]
        pub split_from_id: Option<TicketId>,
        /// Since when the assignee has it; null: nobody has.
        pub assigned_at: Option<DateTime<Utc>>,
        /// Since when the customer waits for an answer; null: they do not.
        pub waiting_since: Option<DateTime<Utc>>,
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
    /// Words in number, subject, description, customer and messages, as one would type them: `"an exact phrase"`, `-without`,
    /// `one or other`. The last word may be the beginning of one. 1 to 500 characters.
    search: SearchFilter = "id";
    /// Tags.
    tags: TagFilter = "id";
    /// Custom fields; all given conditions must hold.
    custom_fields: Vec<CustomFieldFilter> = "id";
    /// Whether the ticket is assigned to the viewer.
    assigned_to_me: MineFilter = "assignee_id";
    /// Whether the viewer watches the ticket.
    watched_by_me: WatchedFilter = "id";
    /// The ticket that it was merged into; `isNull: true` leaves merged tickets out.
    merged_into_id: IdFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
    /// Time of the last change.
    updated_at: DateTimeFilter, UpdatedAt;
    /// What is due next. Overdue: `nextDueAt: {lt: now}`.
    next_due_at: DateTimeFilter, NextDueAt;
    /// Due time of the resolution.
    resolution_due_at: DateTimeFilter, ResolutionDueAt;
    /// The first due time that was missed; `isNull: false` finds tickets with a breach.
    sla_breached_at: DateTimeFilter;
}

/// Most characters of a subject.
const MAX_SUBJECT: usize = 300;
/// Most characters of a description or a message.
const MAX_TEXT: usize = 50_000;

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<TicketCreateInput>(),
    MutationInfo::of::<TicketUpdateInput>(),
    bulk::MUTATION,
    MutationInfo::of::<TicketAssignInput>(),
    MutationInfo::of::<TicketMergeInput>(),
    MutationInfo::of::<TicketSplitInput>(),
    MutationInfo::of::<TicketWatchInput>(),
    MutationInfo::of::<TicketUnwatchInput>(),
    MutationInfo::of::<TicketMessageAddInput>(),
    MutationInfo::of::<TicketMessageUpdateInput>(),
    MutationInfo::of::<TicketMessageDeleteInput>(),
    MutationInfo::of::<TicketFieldCreateInput>(),
    MutationInfo::of::<TicketFieldUpdateInput>(),
    MutationInfo::of::<TicketViewCreateInput>(),
    MutationInfo::of::<TicketViewUpdateInput>(),
    MutationInfo::of::<TicketViewDeleteInput>(),
];

/// Says that this field names no ticket.
pub(crate) fn no_such_ticket(field: &str) -> VerbError {
    VerbError::user(field, UserErrorCode::NotFound, "There is no such ticket in this organization.")
}
