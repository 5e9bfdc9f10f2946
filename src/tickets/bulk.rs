//! One change of many tickets: all or none of them, or each by itself.

use std::sync::Arc;

use async_graphql::{Context, InputObject, MaybeUndefined, SimpleObject};

use crate::error::Result;
use crate::graphql::mutation::{self, MutationInfo, UserError, UserErrorCode};
use crate::graphql::session::Session;
use crate::id::{RepresentativeId, TicketId};
use crate::tickets::{Ticket, TicketCategory, TicketPriority, TicketStatus, TicketUpdateInput};

/// Most tickets of one request.
const MAX_TICKETS: usize = 50;

/// Of each ticket a `ticket.update` in the log.
pub(super) const MUTATION: MutationInfo =
    MutationInfo { field: "ticketsUpdate", ..MutationInfo::of::<TicketUpdateInput>() };

/// The same changes of many tickets. Omitted fields stay as they are.
#[derive(Clone, Debug, InputObject)]
pub struct TicketsUpdateInput {
    /// The tickets: 1 to 50.
    pub ids: Vec<TicketId>,
    /// Whether either all are changed or none; otherwise those that can be. True by default.
    #[graphql(default = true)]
    pub all_or_nothing: bool,
    /// The new status: one of `nextStatuses` of each.
    pub status: Option<TicketStatus>,
    /// Priority; the due times are computed anew.
    pub priority: Option<TicketPriority>,
    /// Category.
    pub category: Option<TicketCategory>,
    /// Tags to add.
    pub add_tags: Option<Vec<String>>,
    /// Tags to remove.
    pub remove_tags: Option<Vec<String>>,
    /// The representative to assign; null unassigns the tickets.
    pub assignee_id: MaybeUndefined<RepresentativeId>,
}

/// What became of one ticket.
#[derive(Debug, SimpleObject)]
pub struct TicketUpdateResult {
    /// The ticket.
    pub id: TicketId,
    /// The updated ticket; null when nothing was changed.
    pub ticket: Option<Arc<Ticket>>,
    /// Why it cannot be changed. Empty and without a ticket: others could not be, and all or nothing was asked for.
    pub user_errors: Vec<UserError>,
}

/// The result of `ticketsUpdate`.
#[derive(Debug, SimpleObject)]
pub struct TicketsUpdatePayload {
    /// What became of each ticket, in the order of the input.
    pub results: Vec<TicketUpdateResult>,
    /// Errors of the input as a whole; empty when there are results.
    pub user_errors: Vec<UserError>,
}

pub(super) async fn update(ctx: &Context<'_>, input: TicketsUpdateInput) -> Result<TicketsUpdatePayload> {
    let mut once = input.ids.iter().map(|id| id.uuid()).collect::<Vec<_>>();
    once.sort_unstable();
    once.dedup();
    if input.ids.is_empty() || input.ids.len() > MAX_TICKETS || once.len() != input.ids.len() {
        // Who may not do it at all must not learn more than that.
        Session::of(ctx)?.require(<TicketUpdateInput as mutation::Mutation>::ACTION).await?;
        let message = format!("`ids` takes 1 to {MAX_TICKETS} tickets, each once.");
        let user_errors = vec![UserError::new("ids", UserErrorCode::Invalid, message)];
        return Ok(TicketsUpdatePayload { results: Vec::new(), user_errors });
    }
    let inputs = input.ids.iter().map(|id| TicketUpdateInput {
        status: input.status,
        priority: input.priority,
        category: input.category,
        add_tags: input.add_tags.clone(),
        remove_tags: input.remove_tags.clone(),
        assignee_id: input.assignee_id,
        ..TicketUpdateInput::of(*id)
    });
    let ran = mutation::run_many(ctx, inputs.collect(), input.all_or_nothing, |input| input.id.uuid()).await?;
    let session = Session::of(ctx)?;
    let tickets = futures_util::future::try_join_all(ran.iter().map(|ran| session.load_opt(ran.id))).await?;
    let results = input.ids.into_iter().zip(ran).zip(tickets);
    let results = results.map(|((id, ran), ticket)| TicketUpdateResult { id, ticket, user_errors: ran.user_errors });
    Ok(TicketsUpdatePayload { results: results.collect(), user_errors: Vec::new() })
}
