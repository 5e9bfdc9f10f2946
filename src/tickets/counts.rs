//! How many tickets there are of each kind, for the sides of queues: one statement.

use async_graphql::{ComplexObject, Context, SimpleObject};
use uuid::Uuid;

use std::sync::Arc;

use crate::access::Action;
use crate::db::Bind;
use crate::error::{Error, Result};
use crate::graphql::plan::{ListArgs, Scope};
use crate::graphql::session::Session;
use crate::id::{Id, RepresentativeId};
use crate::representatives::Representative;
use crate::sql_enum::SqlEnum;
use crate::tickets::{Ticket, TicketFilter, TicketPriority, TicketStatus};

/// Numbers of tickets.
#[derive(Debug, Default, SimpleObject)]
pub struct TicketCounts {
    /// All of them.
    pub total: i64,
    /// Those that are due before now.
    pub overdue: i64,
    /// Those that nobody is assigned to and that are not resolved or closed.
    pub unassigned: i64,
    /// By status: every status.
    pub by_status: Vec<TicketStatusCount>,
    /// By priority: every priority.
    pub by_priority: Vec<TicketPriorityCount>,
    /// By assignee, the most first: at most 100 who have any.
    pub by_assignee: Vec<TicketAssigneeCount>,
}

/// A number of tickets.
#[derive(Debug, SimpleObject)]
pub struct TicketStatusCount {
    /// The status.
    pub status: TicketStatus,
    /// The number.
    pub count: i64,
}

/// A number of tickets.
#[derive(Debug, SimpleObject)]
pub struct TicketPriorityCount {
    /// The priority.
    pub priority: TicketPriority,
    /// The number.
    pub count: i64,
}

/// A number of tickets.
#[derive(Debug, SimpleObject)]
#[graphql(complex)]
pub struct TicketAssigneeCount {
    #[graphql(skip)]
    assignee_id: RepresentativeId,
    /// The number.
    pub count: i64,
}

#[ComplexObject]
impl TicketAssigneeCount {
    /// The representative.
    async fn assignee(&self, ctx: &Context<'_>) -> Result<Option<Arc<Representative>>> {
        Session::of(ctx)?.load(self.assignee_id).await
    }
}

/// Most assignees that are told.
const MAX_ASSIGNEES: usize = 100;

/// The numbers of the viewer's tickets that meet these conditions.
///
/// # Errors
/// As for a list of tickets.
pub async fn ticket_counts(ctx: &Context<'_>, filter: Option<Box<TicketFilter>>) -> Result<TicketCounts> {
    let session = Session::of(ctx)?;
    let tenant = session.require(Action::OrganizationRead).await?;
    let args = ListArgs::<Ticket> { first: Some(0), after: None, last: None, before: None, filter, order_by: None };
    let organization = tenant.organization_id.uuid();
    let (_, plan) = args.plan(organization, Scope::Organization, tenant.allowed)?;
    let leading = Scope::Organization.leading_parameters();
    let mut binds = vec![Bind::Uuid(organization), Bind::Time(session.clock().now())];
    debug_assert_eq!(binds.len(), leading, "the conditions count their parameters from here");
    binds.extend_from_slice(&plan.binds[..plan.filter_binds]);
    let sql = format!(
        "select grouping(t.status_rank, t.priority_rank, t.assignee_id)::bigint, t.status_rank::bigint, t.priority_rank::bigint, t.assignee_id,
                count(*), count(*) filter (where t.next_due_at < $2),
                count(*) filter (where t.assignee_id is null and t.status_rank < 4)
           from tenantry.tickets t where t.organization_id = $1 and {}
          group by grouping sets ((), (t.status_rank), (t.priority_rank), (t.assignee_id))",
        plan.condition
    );
    let tx = session.read().await?;
    let rows = tx.fetch(&sql, &binds).await?;
    let mut counts = TicketCounts {
        by_status: TicketStatus::ALL.iter().map(|status| TicketStatusCount { status: *status, count: 0 }).collect(),
        by_priority: TicketPriority::ALL
            .iter()
            .map(|priority| TicketPriorityCount { priority: *priority, count: 0 })
            .collect(),
        ..TicketCounts::default()
    };
    for row in &rows {
        // A bit for each column that the row is not grouped by.
        let (grouping, count): (i64, i64) = (row.try_get(0)?, row.try_get(4)?);
        match grouping {
            0b111 => {
                (counts.total, counts.overdue, counts.unassigned) = (count, row.try_get(5)?, row.try_get(6)?);
            }
            0b011 => {
                let rank: i64 = row.try_get(1)?;
                counts.by_status.iter_mut().filter(|of| of.status.rank() == rank).for_each(|of| of.count = count);
            }
            0b101 => {
                let rank: i64 = row.try_get(2)?;
                counts.by_priority.iter_mut().filter(|of| of.priority.rank() == rank).for_each(|of| of.count = count);
            }
            0b110 => {
                if let Some(assignee) = row.try_get::<_, Option<Uuid>>(3)? {
                    counts.by_assignee.push(TicketAssigneeCount { assignee_id: Id::from_uuid(assignee), count });
                }
            }
            _ => return Err(Error::internal("a count of tickets by nothing that was asked for")),
        }
    }
    counts.by_assignee.sort_by_key(|of| (std::cmp::Reverse(of.count), of.assignee_id.uuid()));
    counts.by_assignee.truncate(MAX_ASSIGNEES);
    Ok(counts)
}
