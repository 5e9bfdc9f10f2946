//! Messages on tickets: what the customer and the desk say to each other, and notes that the customer does not see.
//!
//! Authors change and delete their messages for a while (`organization.messageEditMinutes`). What a message said before stays
//! in its revisions.

use chrono::{DateTime, Duration, Utc};
use serde_json::json;

use async_graphql::InputObject;

use crate::access::Action;
use crate::customers::Customer;
use crate::events::Event;
use crate::graphql::filter::{BooleanFilter, DateTimeFilter, IdFilter};
use crate::graphql::mutation::{Checks, Done, Mutation, UserErrorCode, VerbError, VerbResult, Work};
use crate::id::{CustomerId, TicketId, TicketMessageId, TicketMessageRevisionId, UserId, marker};
use crate::members::User;
use crate::tickets::model::waiting_after;
use crate::tickets::{MAX_TEXT, Ticket, TicketStatus, insert_message, no_such_ticket, sql, verbs};
use crate::{entity, listing, relations};

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
        /// Text; empty when the message was deleted.
        pub body: String,
        /// When the author changed it last; null: never.
        pub edited_at: Option<DateTime<Utc>>,
        /// When the author deleted it; null: it was not.
        pub deleted_at: Option<DateTime<Utc>>,
        /// The ticket on which it was written, before that was merged or split.
        #[graphql(skip)]
        pub moved_from_id: Option<TicketId>,
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

relations! {
    TicketMessage {
        /// What it said before, newest first. For administrators.
        revisions -> TicketMessageRevision by "t.message_id";
    }
    one {
        /// The ticket.
        ticket -> Ticket! by ticket_id;
        /// The author; null for customers and the system.
        author -> User by author_user_id;
        /// The authoring customer; null for users and the system.
        customer_author -> Customer by author_customer_id;
        /// The ticket on which it was written, before that was merged or split; null: this one.
        moved_from -> Ticket by moved_from_id;
    }
}

entity! {
    /// What a message said before its author changed or deleted it.
    #[graphql(complex)]
    pub struct TicketMessageRevision(
        "ticket_message_revisions", read by AuditRead,
        hidden when "exists (select from tenantry.ticket_messages m where m.organization_id = t.organization_id and m.id = t.message_id and m.is_internal)"
            unless TicketNoteRead
    ) {
        /// Unique id.
        pub id: TicketMessageRevisionId,
        /// The message.
        #[graphql(skip)]
        pub message_id: TicketMessageId,
        /// The text that was replaced.
        pub body: String,
        /// When it was replaced.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    TicketMessageRevision: TicketMessageRevisionFilter, TicketMessageRevisionOrder by TicketMessageRevisionOrderField,
        default CreatedAt Desc;
    /// When it was replaced.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    TicketMessageRevision {}
    one {
        /// The message.
        message -> TicketMessage! by message_id;
    }
}

/// The fields of a new message.
#[derive(Clone, Debug, InputObject)]
pub struct TicketMessageAddInput {
    /// The ticket.
    pub ticket_id: TicketId,
    /// Text: 1 to 50,000 characters.
    pub body: String,
    /// Whether the message is an internal note; false by default.
    pub is_internal: Option<bool>,
    /// The customer who wrote it, when it came by e-mail or through a form. It opens a ticket that waited for it or was resolved.
    pub customer_id: Option<CustomerId>,
    /// The status of the ticket after it: one of `nextStatuses`. Without it, a public answer opens a new or resolved ticket.
    pub status: Option<TicketStatus>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input returns the message of the
    /// first.
    pub idempotency_key: Option<String>,
}

/// The change of a message.
#[derive(Clone, Debug, InputObject)]
pub struct TicketMessageUpdateInput {
    /// The message: the viewer's own, not older than `organization.messageEditMinutes`.
    pub id: TicketMessageId,
    /// Text: 1 to 50,000 characters.
    pub body: String,
}

/// Which message to delete.
#[derive(Clone, Debug, InputObject)]
pub struct TicketMessageDeleteInput {
    /// The message: the viewer's own, not older than `organization.messageEditMinutes`.
    pub id: TicketMessageId,
}

/// The first message to the customer is the first response.
impl Mutation for TicketMessageAddInput {
    type Row = marker::TicketMessage;
    const FIELD: &'static str = "ticketMessageAdd";
    const ACTION: Action = Action::TicketMessageAdd;
    const AUDIT: &'static str = "ticket.message.add";
    const TELLS_OF_ROW: bool = true;

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let is_internal = self.is_internal.unwrap_or(false);
        let of_customer = self.customer_id.is_some();
        let mut checks = Checks::default();
        let body = checks.required("body", &self.body, MAX_TEXT);
        if is_internal && of_customer {
            let message = "A customer writes no internal notes.";
            checks.refuse("isInternal", UserErrorCode::Invalid, message);
        }
        checks.finish()?;
        verbs::check_references(work.tx, self.customer_id, None).await?;
        let before = sql::lock_ticket(work.tx, self.ticket_id).await?.ok_or_else(|| no_such_ticket("ticketId"))?;
        if before.status == TicketStatus::Closed || before.merged_into_id.is_some() {
            let message = "The ticket is closed: open a new one and refer to this.";
            return Err(VerbError::user("ticketId", UserErrorCode::InvalidTransition, message));
        }
        let status = match self.status {
            Some(status) => {
                if let Some(refusal) = before.status.refusal_of(status) {
                    return Err(VerbError::user("status", UserErrorCode::InvalidTransition, refusal));
                }
                status
            }
            None if is_internal => before.status,
            None => before.status.after_message(of_customer),
        };
        let id = work.new_id();
        insert_message(work.tx, id, self.ticket_id, (self.customer_id, is_internal), &body, work.now).await?;
        let waiting = match (is_internal, of_customer) {
            (true, _) => before.waiting_since,
            (false, true) => before.waiting_since.or(Some(work.now)),
            (false, false) => None,
        };
        let (mut clocks, terms) = before.current_clocks(work).await?;
        if status != before.status {
            clocks = clocks.after(status, work.now, &terms);
        }
        clocks = match (is_internal, of_customer) {
            (true, _) => clocks,
            (false, true) => clocks.customer_wrote(work.now, &terms),
            (false, false) => clocks.answered(work.now, &terms),
        };
        let touch = sql::Touch {
            status,
            clocks,
            // An answer that opens the ticket leaves nobody waiting.
            waiting_since: if is_internal || of_customer {
                waiting_after(waiting, before.status, status, work.now)
            } else {
                None
            },
        };
        sql::touch_ticket(work.tx, self.ticket_id, &touch).await?;
        let mut audit = json!({ "ticketId": self.ticket_id.to_string(), "isInternal": is_internal });
        if let Some(customer) = self.customer_id {
            audit["customerId"] = json!(customer.to_string());
        }
        if status != before.status {
            let change = json!({ "before": { "status": before.status }, "after": { "status": status }, "messageId": id.to_string() });
            work.also("ticket.update", self.ticket_id, change).await?;
        }
        Ok(Done { id, audit, event: Some(Event::of(self.ticket_id)) })
    }
}

/// Locks a message that the viewer may still change, and keeps what it says now. Answers its ticket.
async fn keep_revision(work: &mut Work<'_>, id: TicketMessageId) -> VerbResult<TicketId> {
    let tenant = work.tenant();
    let row = sqlx::query!(
        r#"select m.ticket_id as "ticket_id: TicketId", m.author_user_id as "author: UserId", m.body, m.created_at, m.deleted_at,
                  m.is_internal, o.message_edit_minutes
             from tenantry.ticket_messages m join tenantry.organizations o on o.id = m.organization_id
            where m.organization_id = $1 and m.id = $2 for update of m"#,
        tenant.organization_id as _,
        id as _
    )
    .fetch_optional(work.tx.conn())
    .await?;
    let row =
        row.filter(|row| row.deleted_at.is_none() && (!row.is_internal || tenant.allowed.has(Action::TicketNoteRead)));
    let Some(row) = row else {
        let message = "There is no such message in this organization.";
        return Err(VerbError::user("id", UserErrorCode::NotFound, message));
    };
    if row.author.is_none() || row.author != tenant.actor.user() {
        let message = "Only who wrote a message may change it.";
        return Err(VerbError::user("id", UserErrorCode::AuthorRequired, message));
    }
    if work.now >= row.created_at + Duration::minutes(row.message_edit_minutes.into()) {
        let message = format!("Messages can be changed for {} minutes: write another one.", row.message_edit_minutes);
        return Err(VerbError::user("id", UserErrorCode::Expired, message));
    }
    sqlx::query!(
        "insert into tenantry.ticket_message_revisions (organization_id, id, message_id, body, created_at) values ($1, $2, $3, $4, $5)",
        tenant.organization_id as _,
        work.new_id::<marker::TicketMessageRevision>() as _,
        id as _,
        row.body,
        work.now
    )
    .execute(work.tx.conn())
    .await?;
    Ok(row.ticket_id)
}

impl Mutation for TicketMessageUpdateInput {
    type Row = marker::TicketMessage;
    const FIELD: &'static str = "ticketMessageUpdate";
    const ACTION: Action = Action::TicketMessageAdd;
    const AUDIT: &'static str = "ticket.message.update";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let body = checks.required("body", &self.body, MAX_TEXT);
        checks.finish()?;
        let ticket = keep_revision(work, self.id).await?;
        sqlx::query!(
            "update tenantry.ticket_messages set body = $3, edited_at = $4 where organization_id = $1 and id = $2",
            work.tenant().organization_id as _,
            self.id as _,
            body,
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        Ok(Done { id: self.id, audit: json!({ "ticketId": ticket.to_string() }), event: Some(Event::of(ticket)) })
    }
}

impl Mutation for TicketMessageDeleteInput {
    type Row = marker::TicketMessage;
    const FIELD: &'static str = "ticketMessageDelete";
    const ACTION: Action = Action::TicketMessageAdd;
    const AUDIT: &'static str = "ticket.message.delete";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let ticket = keep_revision(work, self.id).await?;
        sqlx::query!(
            "update tenantry.ticket_messages set body = '', deleted_at = $3 where organization_id = $1 and id = $2",
            work.tenant().organization_id as _,
            self.id as _,
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        Ok(Done { id: self.id, audit: json!({ "ticketId": ticket.to_string() }), event: Some(Event::of(ticket)) })
    }
}
