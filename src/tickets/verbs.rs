//! Opening a ticket and changing it.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use crate::access::Action;
use crate::db::TenantTx;
use crate::events::Event;
use crate::graphql::mutation::{
    Checks, Done, Mutation, UserErrorCode, VerbError, VerbResult, Work, after, check_version,
};
use crate::id::{CustomerId, RepresentativeId, marker};
use crate::sla::{self, Clocks, Terms};
use crate::tickets::model::waiting_after;
use crate::tickets::sql::LockedTicket;
use crate::tickets::{
    MAX_SUBJECT, MAX_TEXT, TicketCategory, TicketCreateInput, TicketPriority, TicketRow, TicketStatus,
    TicketUpdateInput, assignment, fields, insert_ticket, next_number, no_such_ticket, sql,
};
use crate::trail::Difference;

/// Most tags of a ticket, and most characters of one.
pub(super) const MAX_TAGS: usize = 50;
const MAX_TAG_CHARS: usize = 50;

/// Checks tags: each once, in alphabetical order.
fn check_tags(checks: &mut Checks, field: &str, tags: &[String]) -> Vec<String> {
    if tags.len() > MAX_TAGS {
        checks.refuse(
            field,
            UserErrorCode::TooLong,
            format!("A ticket takes at most {MAX_TAGS} tags; these are {}.", tags.len()),
        );
        return Vec::new();
    }
    let mut checked: Vec<String> = tags.iter().map(|tag| checks.required(field, tag, MAX_TAG_CHARS)).collect();
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
        let tags = check_tags(&mut checks, "tags", &self.tags.unwrap_or_default());
        checks.finish()?;
        check_references(work.tx, self.customer_id, self.assignee_id).await?;
        let custom_fields = fields::filled(work, self.custom_fields.as_ref(), &Map::new(), true).await?;

        let priority = self.priority.unwrap_or(TicketPriority::Normal);
        let category = self.category.unwrap_or(TicketCategory::Other);
        // The counter is locked from here on: whoever assigns automatically does so one after the other.
        let number = next_number(work.tx).await?;
        let assignee_id = match self.assignee_id {
            None if assignment::is_automatic(work.tx).await? => {
                let organization = work.tenant().organization_id;
                assignment::best(work.tx.conn(), organization, &tags, category, None, work.now).await?
            }
            given => given,
        };
        let organization = work.tenant().organization_id;
        let matching = sla::matching(work.tx.conn(), organization, priority, category, self.customer_id).await?;
        let row = TicketRow {
            id: work.new_id(),
            number,
            customer_id: self.customer_id,
            assignee_id,
            subject,
            description,
            status: TicketStatus::New,
            priority,
            category,
            tags,
            custom_fields: Value::Object(custom_fields),
            split_from_id: None,
            clocks: Clocks::start(matching.under, &matching.terms, work.now),
        };
        insert_ticket(work.tx, &row, work.now).await?;
        Ok(Done {
            id: row.id,
            audit: json!({ "after": {
                "number": row.number, "status": row.status, "priority": row.priority, "category": row.category,
                "assigneeId": row.assignee_id.map(|id| id.to_string()), "customerId": row.customer_id.map(|id| id.to_string()),
                "tags": row.tags,
            } }),
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
        let tags = self.tags.as_deref().map(|tags| check_tags(&mut checks, "tags", tags));
        let added = check_tags(&mut checks, "addTags", self.add_tags.as_deref().unwrap_or_default());
        let removed = self.remove_tags.unwrap_or_default();
        if tags.is_some() && !(added.is_empty() && removed.is_empty()) {
            let message = "Give `tags`, which replaces all, or `addTags` and `removeTags`.";
            checks.refuse("tags", UserErrorCode::Invalid, message);
        }
        checks.finish()?;
        check_references(work.tx, self.customer_id.value().copied(), self.assignee_id.value().copied()).await?;

        let before = lock_open(work, "id", self.id).await?;
        check_version(self.expected_version, before.version)?;
        let status = self.status.unwrap_or(before.status);
        if let Some(refusal) = before.status.refusal_of(status) {
            return Err(VerbError::user("status", UserErrorCode::InvalidTransition, refusal));
        }
        let tags = tags_after(&before.tags, tags, added, &removed)?;
        let custom_fields = match &self.custom_fields {
            None => None,
            given => Some(fields::filled(work, given.as_ref(), &before.custom_fields, false).await?),
        };
        let priority = self.priority.unwrap_or(before.priority);
        let category = self.category.unwrap_or(before.category);
        let customer = after(&self.customer_id, before.customer_id);
        let clocks = clocks_after(work, &before, status, (priority, category, customer)).await?;
        let assignee = after(&self.assignee_id, before.assignee_id);
        let change = sql::TicketUpdate {
            subject,
            description,
            status,
            priority,
            category,
            tags,
            custom_fields,
            customer,
            assignee,
            assigned_at: assigned_at(&before, assignee, work.now),
            waiting_since: waiting_after(before.waiting_since, before.status, status, work.now),
            clocks,
        };
        sql::update_ticket(work.tx, self.id, &change).await?;
        Ok(Done { id: self.id, audit: difference(&before, &change), event: Some(Event::of(self.id)) })
    }
}

/// The clocks of a ticket that gets this status, priority, category and customer.
async fn clocks_after(
    work: &mut Work<'_>,
    before: &LockedTicket,
    status: TicketStatus,
    (priority, category, customer): (TicketPriority, TicketCategory, Option<CustomerId>),
) -> VerbResult<Clocks> {
    let is_same = (priority, category, customer) == (before.priority, before.category, before.customer_id);
    if is_same && status == before.status {
        return Ok(before.clocks);
    }
    let organization = work.tenant().organization_id;
    let (mut clocks, mut terms) = before.current_clocks(work).await?;
    if !is_same {
        let matching = sla::matching(work.tx.conn(), organization, priority, category, customer).await?;
        if matching.under != clocks.under || matching.terms != terms {
            clocks = clocks.under_terms(&terms, matching.under, &matching.terms, work.now, before.created_at);
            terms = matching.terms;
        }
    }
    if status != before.status {
        clocks = clocks.after(status, work.now, &terms);
    }
    Ok(clocks)
}

impl LockedTicket {
    /// The clocks under what is promised now, and the terms of that.
    pub(super) async fn current_clocks(&self, work: &mut Work<'_>) -> VerbResult<(Clocks, Terms)> {
        let organization = work.tenant().organization_id;
        Ok(sla::catch_up(work.tx.conn(), organization, self.clocks, self.priority, self.created_at).await?)
    }
}

/// What the log says of a change.
fn difference(before: &LockedTicket, after: &sql::TicketUpdate) -> Value {
    let mut said = Difference::default();
    let shown = |id: Option<RepresentativeId>| id.map(|id| id.to_string());
    let of_customer = |id: Option<CustomerId>| id.map(|id| id.to_string());
    said.of("status", &before.status, &after.status);
    said.of("priority", &before.priority, &after.priority);
    said.of("category", &before.category, &after.category);
    said.of("assigneeId", &shown(before.assignee_id), &shown(after.assignee));
    said.of("customerId", &of_customer(before.customer_id), &of_customer(after.customer));
    if let Some(tags) = &after.tags {
        said.of("tags", &before.tags, tags);
    }
    said.of("version", &before.version, &(before.version + 1));
    let texts = [
        ("subject", after.subject.is_some()),
        ("description", after.description.is_some()),
        ("customFields", after.custom_fields.as_ref().is_some_and(|fields| *fields != before.custom_fields)),
    ];
    let texts: Vec<&str> = texts.iter().filter(|(_, changed)| *changed).map(|(name, _)| *name).collect();
    let mut metadata = said.finish();
    // Of texts only that they did.
    if !texts.is_empty() {
        metadata["texts"] = json!(texts);
    }
    metadata
}

/// Since when the assignee has the ticket.
pub(super) fn assigned_at(
    before: &LockedTicket,
    assignee: Option<RepresentativeId>,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    if assignee == before.assignee_id { before.assigned_at } else { assignee.map(|_| now) }
}

/// The tags after a change; `None` when they stay.
fn tags_after(
    before: &[String],
    replaced: Option<Vec<String>>,
    added: Vec<String>,
    removed: &[String],
) -> VerbResult<Option<Vec<String>>> {
    if replaced.is_some() || (added.is_empty() && removed.is_empty()) {
        return Ok(replaced);
    }
    let mut tags: Vec<String> = before.iter().filter(|tag| !removed.contains(tag)).cloned().collect();
    tags.extend(added);
    tags.sort_unstable();
    tags.dedup();
    if tags.len() > MAX_TAGS {
        let message = format!("A ticket takes at most {MAX_TAGS} tags; it would have {}.", tags.len());
        return Err(VerbError::user("addTags", UserErrorCode::TooLong, message));
    }
    Ok(Some(tags))
}

/// Locks a ticket that can be changed: one that was not merged away.
pub(super) async fn lock_open(work: &mut Work<'_>, field: &str, id: crate::id::TicketId) -> VerbResult<LockedTicket> {
    let before = sql::lock_ticket(work.tx, id).await?.ok_or_else(|| no_such_ticket(field))?;
    if let Some(into) = before.merged_into_id {
        let message = format!("The ticket was merged into another: change that one, `{into}`.");
        return Err(VerbError::user(field, UserErrorCode::InvalidTransition, message));
    }
    Ok(before)
}

/// Refuses a customer or representative who is not of this organization, with a message instead of a broken constraint.
pub(super) async fn check_references(
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
